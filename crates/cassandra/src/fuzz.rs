//! What a hostile node can say: damaged replies through every check, and damaged texts.

use std::fs;

use cassy_fuzz::Fuzz;
use cassy_jmx::rmi::reply::{self, Returns};
use cassy_jmx::{Limits, MBeanInfo};

use crate::names::SnapshotTag;
use crate::plausible;
use crate::quirks;
use crate::replies::{many, most, optional_directory};
use crate::version::ReleaseVersion;

fn recorded(name: &str) -> Vec<u8> {
    let path = format!("{}/../jmx/tests/vectors/{name}.resp.bin", env!("CARGO_MANIFEST_DIR"));
    fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn a_damaged_reply_gives_plausible_values_or_none() {
    let seeds = [
        "server17-agent/08-getAttribute-LiveNodes",
        "server17-agent/13-getAttribute-Keyspaces",
        "server17-agent/15-getAttribute-AllDataFileLocations",
        "server17-agent/16-getAttribute-SavedCachesLocation",
        "server17-agent/45-invoke-getTokens",
        "server17-agent/57-getMBeanInfo",
    ];
    let words = ["../", "/", "\0", "\u{1b}[2J", "0.0.0.0", "::", "fe80::1%eth0"];
    let limits = Limits { memory_bytes: 4 << 20, view_values: 50_000, ..Limits::default() };
    let fuzz = Fuzz::new("replies of a node").seeds(seeds.map(recorded)).words(words).cost(2);
    fuzz.run(|bytes| {
        let Ok(Some(reply)) = reply::parse(bytes, Returns::Object, &limits) else { return false };
        let view = reply.view();
        let info = MBeanInfo::read(view);
        if let Ok(info) = &info {
            let _chosen =
                (quirks::choose(info, quirks::TAKE_SNAPSHOT), quirks::choose(info, quirks::CLEAR_SNAPSHOT));
        }
        info.is_ok()
            | many(view, most::NODES, plausible::address).is_ok()
            | many(view, most::KEYSPACES, plausible::name).is_ok()
            | many(view, most::DIRECTORIES, plausible::directory).is_ok()
            | many(view, most::TOKENS, plausible::token).is_ok()
            | optional_directory(view).is_ok()
    });
}

#[test]
fn a_text_that_is_plausible_stays_so_and_a_refusal_is_short_and_visible() {
    let seeds = [
        "10.0.0.1",
        "2001:db8::1",
        "::ffff:10.0.0.1",
        "6d194555-f6eb-41d0-c000-000000000001",
        "/var/lib/cassandra/../data",
        "/opt/cassandra/bin/../data/data",
        "ks_1",
        "-9223372036854775808",
        "00ff",
        "Größe <b>",
        "5.0.9",
        "4.1.0-beta2-SNAPSHOT",
        "cassy-0192aaaa-bbbb-7ccc-8ddd-eeeeffff0000-3",
    ];
    let words =
        ["..", "/", "/./", "//", "%", ":", "::", ".", "-", "\0", "\n", "\u{1b}[2J", "\u{202e}", "{", "é"];
    Fuzz::new("texts of a node").seeds(seeds).words(words).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let checks = [
            plausible::address(text).map(|ip| ip.to_string()),
            plausible::host_id(text).map(|id| id.to_string()),
            plausible::directory(text),
            plausible::name(text),
            plausible::text(text),
            plausible::token(text),
        ];
        for refusal in checks.iter().filter_map(|check| check.as_ref().err()) {
            assert!(refusal.0.len() < 1200 && !refusal.0.contains(char::is_control), "{refusal:?}");
        }
        if let Ok(directory) = plausible::directory(text) {
            assert!(directory.starts_with('/') && directory.len() > 1 && directory.len() <= text.len());
            assert!(directory.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | "..")));
            assert_eq!(plausible::directory(&directory), Ok(directory.clone()));
        }
        if let Ok(address) = plausible::address(text) {
            assert_eq!(plausible::address(&address.to_string()), Ok(address));
        }
        if let Ok(tag) = text.parse::<SnapshotTag>() {
            assert_eq!(tag.to_string(), text);
        }
        if let Some(version) = ReleaseVersion::parse(text) {
            assert_eq!(version.to_string(), text);
            let _reason = version.refusal();
        }
        // Free text may be nearly anything.
        let [address, host, directory, name, _, token] = &checks;
        [address, host, directory, name, token].iter().any(|check| check.is_ok())
    });
}
