//! The numbered lines of the story, each with its time.

use std::io::Write as _;
use std::time::Instant;

use cassy_testkit::Failure;

/// Tells the steps as they happen.
pub(crate) struct Steps {
    number: u32,
    begun: Instant,
}

impl Steps {
    pub(crate) fn begin() -> Self {
        Self { number: 0, begun: Instant::now() }
    }

    /// Prints the step's name, does it, and prints how long it took and what it found.
    pub(crate) async fn step<T>(
        &mut self,
        name: &str,
        act: impl Future<Output = Result<(T, String), Failure>>,
    ) -> Result<T, Failure> {
        self.number += 1;
        print!("{:>2}. {name:<72}", self.number);
        let _ = std::io::stdout().flush();
        let begun = Instant::now();
        let ended = act.await;
        println!("{:>6.1} s", begun.elapsed().as_secs_f64());
        let (value, found) = ended?;
        if !found.is_empty() {
            println!("      {found}");
        }
        Ok(value)
    }

    pub(crate) fn end(&self) {
        println!("\nAll of it took {:.1} s.", self.begun.elapsed().as_secs_f64());
    }
}
