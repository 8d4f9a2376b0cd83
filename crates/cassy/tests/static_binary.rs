//! The binary is pushed to nodes of any distribution, so it needs nothing of them: no interpreter, no file at all.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// ELF program headers of the type `PT_INTERP` name a dynamic loader (ELF-64 object file format, figure 5-1).
const PT_INTERP: u32 = 3;

#[test]
fn no_interpreter_is_asked_for() {
    let elf = fs::read(env!("CARGO_BIN_EXE_cassy")).unwrap();
    assert_eq!(elf.get(..5), Some(b"\x7fELF\x02".as_slice()), "a 64-bit ELF file");
    let number = |at: usize, length: usize| {
        let bytes = elf.get(at..at + length).expect("the header is whole");
        bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    assert!(count > 0, "the file has program headers");
    for header in 0..count {
        let at = usize::try_from(table + header * size).unwrap();
        assert_ne!(number(at, 4), u64::from(PT_INTERP), "program header {header} names an interpreter");
    }
}

#[test]
fn it_runs_in_an_empty_directory_as_its_root() {
    let root = tempfile::tempdir().unwrap();
    fs::copy(env!("CARGO_BIN_EXE_cassy"), root.path().join("cassy")).unwrap();
    let version = run_in(root.path(), "--version");
    assert!(version.status.success(), "{version:?}");
    assert_eq!(String::from_utf8_lossy(&version.stdout).trim(), concat!("cassy ", env!("CARGO_PKG_VERSION")));
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["cassy"]);
}

/// By chroot(8) as root, else in a user namespace.
fn run_in(root: &Path, argument: &str) -> Output {
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout.starts_with(b"0\n");
    let mut command = if is_root { Command::new("chroot") } else { Command::new("unshare") };
    if !is_root {
        command.args(["--user", "--map-root-user", "chroot"]);
    }
    command.arg(root).args(["/cassy", argument]).output().unwrap()
}
