//! `scripts/mutate`: removes each safety rule in turn from a copy of the sources, and shows the test that then fails.
//!
//! The rules are in `rules/`. The working tree is only read; the copy and what is built of it stay in
//! `target/mutations`, so that a second run compiles little.

#![allow(clippy::print_stdout)] // Its table is its purpose.

mod rules;
mod workshop;

use std::process::ExitCode;
use std::time::Instant;

use cassy_testkit::Failure;
use clap::Parser;

use rules::{Mutation, Test};
use workshop::{Verdict, Workshop};

/// Removes each safety rule of Cassy in turn, from a copy of the sources, and runs the test that has to fail then. Ends
/// with 1 when one of them passes all the same.
#[derive(Debug, Parser)]
#[command(
    name = "mutate",
    after_help = "Example: scripts/mutate placing-overwrites   (CARGO_BUILD_JOBS=1 nice scripts/mutate leaves room for others)"
)]
struct Arguments {
    /// Only these; all when none is named.
    names: Vec<String>,
    /// Print the names and what each removes, and end.
    #[arg(long, conflicts_with = "markdown")]
    list: bool,
    /// Print the table of docs/testing.md, and end.
    #[arg(long)]
    markdown: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        rules::all().for_each(|mutation| println!("{:<36} {}", mutation.name, mutation.removed));
        return ExitCode::SUCCESS;
    }
    if arguments.markdown {
        print!("{}", rules::markdown());
        return ExitCode::SUCCESS;
    }
    match run(&arguments.names).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(2)
        }
    }
}

/// True when every mutation was noticed.
async fn run(names: &[String]) -> Result<bool, Failure> {
    let mut chosen = chosen(names)?;
    // What is compiled for one test serves its neighbours.
    chosen.sort_by_key(|mutation| (mutation.test.package, mutation.test.target));
    let workshop = Workshop::open()?;
    let mut unnoticed = Vec::new();
    for group in chosen.chunk_by(|one, other| one.test.program() == other.test.program()) {
        let tests: Vec<Test> = group.iter().map(|mutation| mutation.test).collect();
        let failing = workshop.failing(&tests).await;
        for mutation in group {
            let begun = Instant::now();
            let said = match &failing {
                Ok(failing) if failing.contains(mutation.test.name) => "FAILS WITHOUT".to_owned(),
                Ok(_) => match workshop.judge(mutation).await {
                    Ok(verdict) => verdict.to_string(),
                    Err(failure) => format!("BROKEN: {failure}\n"),
                },
                Err(failure) => format!("NOT TRIED: {failure}\n"),
            };
            if said != Verdict::Killed.to_string() {
                unnoticed.push(mutation.name);
            }
            let Mutation { name, file, test, .. } = mutation;
            println!("{said:<9} {:>4} s  {name:<36} {file}  {test}", begun.elapsed().as_secs());
        }
    }
    println!("{} of {} mutations were noticed", chosen.len() - unnoticed.len(), chosen.len());
    if !unnoticed.is_empty() {
        println!("not noticed: {}", unnoticed.join(", "));
    }
    Ok(unnoticed.is_empty())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Mutation>, Failure> {
    if names.is_empty() {
        return Ok(rules::all().collect());
    }
    let find = |name: &String| {
        let found = rules::all().find(|mutation| mutation.name == name);
        found.ok_or_else(|| Failure::new(format!("there is no mutation {name}; --list shows all")))
    };
    names.iter().map(find).collect()
}
