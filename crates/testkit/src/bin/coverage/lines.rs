//! Which line and column of the sources an address of a program comes from: what `readelf` prints of `.debug_line`.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use cassy_testkit::{Doing, Failure};

/// A row of the line table.
pub(crate) struct Row<'a> {
    pub(crate) address: u64,
    pub(crate) path: &'a str,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// Every row of the program.
pub(crate) fn each(program: &Path, mut see: impl FnMut(Row<'_>)) -> Result<(), Failure> {
    let mut command = Command::new("readelf");
    command
        .args(["--wide", "--debug-dump=rawline"])
        .arg(program)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().doing(|| "start readelf (package binutils)")?;
    let output = child.stdout.take().ok_or_else(|| Failure::new("readelf has no output"))?;
    let mut table = Table::default();
    for text in BufReader::new(output).lines() {
        let text = text.doing(|| "read what readelf prints")?;
        if table.step(&text) {
            let path = table.files.get(&table.file).map_or("", String::as_str);
            see(Row { address: table.address, path, line: table.line, column: table.column });
        }
    }
    let status = child.wait().doing(|| "wait for readelf")?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("readelf {}: {status}", program.display())))
    }
}

/// The state of the program that a line table is (DWARF 4, section 6.2).
#[derive(Default)]
struct Table {
    directories: HashMap<u64, String>,
    files: HashMap<u64, String>,
    /// Which list the lines are of.
    list: List,
    address: u64,
    file: u64,
    line: u32,
    column: u32,
}

#[derive(Default, PartialEq)]
enum List {
    #[default]
    None,
    Directories,
    Files,
}

impl Table {
    /// True when the line of text makes a row.
    fn step(&mut self, text: &str) -> bool {
        let text = text.trim();
        let Some((_, operation)) = text.strip_prefix("[0x").and_then(|text| text.split_once("]  ")) else {
            self.heading(text);
            return false;
        };
        if let Some(column) = operation.strip_prefix("Set column to ") {
            self.column = number(column);
        } else if let Some(file) = operation.strip_prefix("Set File Name to entry ") {
            self.file = number(file).into();
        } else if operation.starts_with("Extended opcode 1") {
            (self.file, self.line, self.column) = (1, 1, 0);
        } else {
            // `... to 0x12 and Line by 1 to 3`: what follows the word is the change, then the new value.
            let mut words = operation.split([' ', ':']).peekable();
            while let Some(word) = words.next() {
                if word != "to" {
                    continue;
                }
                match words.peek() {
                    Some(value) if value.starts_with("0x") => self.address = hexadecimal(value),
                    Some(value) if operation.contains("Line by") => self.line = number(value),
                    Some(value) if operation.contains("set Address") => self.address = number(value).into(),
                    _ => {}
                }
            }
            return operation.starts_with("Special opcode") || operation.starts_with("Copy");
        }
        false
    }

    fn heading(&mut self, text: &str) {
        if text.starts_with("The Directory Table") {
            self.list = List::Directories;
            self.directories.clear();
        } else if text.starts_with("The File Name Table") {
            self.list = List::Files;
            self.files.clear();
        } else if text.starts_with("Line Number Statements") {
            self.list = List::None;
            (self.file, self.line, self.column) = (1, 1, 0);
        }
        let mut words = text.split('\t');
        let Some(entry) = words.next().and_then(|entry| entry.parse::<u64>().ok()) else { return };
        let (directory, Some(name)) = (words.next(), text.rsplit('\t').next()) else { return };
        match self.list {
            List::Directories => drop(self.directories.insert(entry, name.to_owned())),
            List::Files => {
                let directory = directory.and_then(|directory| directory.parse().ok()).unwrap_or(0);
                let path = match self.directories.get(&directory) {
                    Some(directory) => format!("{directory}/{name}"),
                    None => name.to_owned(),
                };
                self.files.insert(entry, path);
            }
            List::None => {}
        }
    }
}

fn number(text: &str) -> u32 {
    text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn hexadecimal(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0)
}
