//! `scripts/coverage`: which lines that make an error have run in a build that counts (`runtime.c`).
//!
//! A line has run when a block has run that has code of the error's own columns: the condition before it, on the same
//! line, does not count.

#![allow(clippy::print_stdout)] // Its list is its purpose.

mod blocks;
mod lines;
mod sites;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cassy_testkit::Failure;
use clap::Parser;

use blocks::Blocks;
use sites::Site;

/// Tells which lines of the product that make an error have run, of all programs that have noted in a directory.
#[derive(Debug, Parser)]
#[command(name = "coverage")]
struct Arguments {
    /// Where the programs have noted which of their blocks have run.
    noted: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().noted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(noted: &Path) -> Result<(), Failure> {
    let sites = sites::all(Path::new("."))?;
    let mut seen = Seen::new(&sites);
    for (program, blocks) in Blocks::of_all(noted)? {
        if !program.exists() {
            eprintln!("{} is gone: what has run of it does not count", program.display());
            continue;
        }
        lines::each(&program, |row| seen.note(&row, &blocks))?;
    }
    print(&sites, &seen);
    Ok(())
}

/// What became of each site: by path and line, its number; and by number whether code of it is there, and has run.
struct Seen {
    numbers: HashMap<String, HashMap<u32, usize>>,
    columns: Vec<(u32, u32)>,
    states: Vec<Option<bool>>,
}

impl Seen {
    fn new(sites: &[Site]) -> Self {
        let mut numbers: HashMap<String, HashMap<u32, usize>> = HashMap::new();
        for (number, site) in sites.iter().enumerate() {
            numbers.entry(site.path.clone()).or_default().insert(site.line, number);
        }
        let columns = sites.iter().map(|site| (site.from, site.to)).collect();
        Self { numbers, columns, states: vec![None; sites.len()] }
    }

    fn note(&mut self, row: &lines::Row<'_>, blocks: &Blocks) {
        let Some(number) = self.numbers.get(row.path).and_then(|lines| lines.get(&row.line)) else { return };
        let Some((from, to)) = self.columns.get(*number) else { return };
        if let Some(state) = self.states.get_mut(*number).filter(|_| (*from..*to).contains(&row.column)) {
            *state = Some(*state == Some(true) || blocks.has_run(row.address));
        }
    }
}

fn print(sites: &[Site], seen: &Seen) {
    let mut crates: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for (site, state) in sites.iter().zip(&seen.states) {
        let counts = crates.entry(site.path.split('/').nth(1).unwrap_or_default()).or_default();
        let place = match state {
            Some(true) => 0,
            Some(false) => 1,
            None => 2,
        };
        counts[place] += 1;
        if *state != Some(true) {
            let what = if state.is_some() { "not run" } else { "no code" };
            println!("{what}  {}:{}: {}", site.path, site.line, site.text);
        }
    }
    println!("\n{:<16} {:>6} {:>6} {:>8} {:>8}", "crate", "lines", "run", "not run", "no code");
    let mut all = [0; 3];
    for (name, counts) in crates {
        println!("{}", row(name, counts));
        all.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    println!("{}", row("all", all));
}

fn row(name: &str, [run, not_run, no_code]: [usize; 3]) -> String {
    format!("{name:<16} {:>6} {run:>6} {not_run:>8} {no_code:>8}", run + not_run + no_code)
}
