//! Where a Java of some version is: on this machine, or in the cache of the tests, into which `scripts/prepare` brings
//! the old ones.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Failure;

const INSTALLED: &str = "/usr/lib/jvm";

/// `JAVA_HOME`, then `PATH`, then where Debian and others put it, then the cache: the first that is this Java.
pub(crate) fn find(major: u32, cache: &Path) -> Result<PathBuf, Failure> {
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|directory| directory.join("java"));
    let mut installed: Vec<PathBuf> = std::fs::read_dir(INSTALLED)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains(&major.to_string()))
        .map(|entry| entry.path().join("bin/java"))
        .collect();
    installed.sort();
    let cached = cache.join(format!("java-{major}/bin/java"));
    let mut places = home.into_iter().chain(on_path).chain(installed).chain([cached]);
    places.find(|java| major_of(java) == Some(major)).ok_or_else(|| missing(major, cache))
}

/// What the programs of Cassandra reach into, from Java 9 on, where that must be allowed. One list for all: a package
/// that a Java does not have costs a line of its log.
pub(crate) fn module_flags(major: u32) -> Vec<String> {
    if major < 9 {
        return Vec::new();
    }
    let exports = EXPORTS.iter().map(|module| ("--add-exports", module));
    let opens = OPENS.iter().map(|module| ("--add-opens", module));
    exports
        .chain(opens)
        .flat_map(|(flag, module)| [flag.to_owned(), format!("{module}=ALL-UNNAMED")])
        .collect()
}

const EXPORTS: [&str; 10] = [
    "java.base/java.lang.ref",
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.management/com.sun.jmx.remote.security",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.unsupported/sun.misc",
];

const OPENS: [&str; 14] = [
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "jdk.management/com.sun.management.internal",
];

fn missing(major: u32, cache: &Path) -> Failure {
    let places = format!("JAVA_HOME, PATH, {INSTALLED} or {}", cache.display());
    Failure::new(match major {
        17 => format!("no Java 17 in {places}; Debian's package is `openjdk-17-jre-headless`"),
        _ => format!("no Java {major} in {places}; `./test --all` fetches it"),
    })
}

fn major_of(java: &Path) -> Option<u32> {
    if !java.is_file() {
        return None;
    }
    let output = Command::new(java).arg("-version").stdin(Stdio::null()).output().ok()?;
    major_in(&String::from_utf8_lossy(&output.stderr))
}

/// The `17` of `openjdk version "17.0.9" 2023-10-17`, the `8` of `java version "1.8.0_504"`.
fn major_in(text: &str) -> Option<u32> {
    let version = text.split('"').nth(1)?;
    let version = version.strip_prefix("1.").unwrap_or(version);
    version.split(['.', '-', '+']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_as_each_java_says_it() {
        assert_eq!(major_in("openjdk version \"17.0.9\" 2023-10-17\n"), Some(17));
        assert_eq!(major_in("openjdk version \"1.8.0_504\"\n"), Some(8));
        assert_eq!(major_in("openjdk version \"11\" 2018-09-25\n"), Some(11));
        assert_eq!(major_in("Error: could not open `jvm.cfg'\n"), None);
    }
}
