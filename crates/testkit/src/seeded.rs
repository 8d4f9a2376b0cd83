//! Random choices that can be repeated: a run prints its seed, and takes another run's from the environment.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::Failure;

const VARIABLE: &str = "CASSY_TEST_SEED";

/// A generator (SplitMix64).
#[derive(Debug, Clone)]
pub struct Seeded {
    state: u64,
}

impl Seeded {
    /// The seed of `CASSY_TEST_SEED`, else one of its own; printed, as a test's output is shown when it fails.
    ///
    /// # Errors
    /// When the variable holds no number.
    #[allow(clippy::print_stdout)]
    pub fn new() -> Result<Self, Failure> {
        let given = std::env::var(VARIABLE).ok();
        let seed = match given {
            Some(text) => text
                .parse()
                .map_err(|error| Failure::new(format!("{VARIABLE} is not a number: {text:?}: {error}")))?,
            None => RandomState::new().hash_one(0) >> 32,
        };
        println!("seed {seed}: repeat with {VARIABLE}={seed}");
        Ok(Self { state: seed })
    }

    /// Another generator, whose choices depend on the seed and this number alone.
    #[must_use]
    pub fn branch(&self, number: u64) -> Self {
        let mut branch = Self { state: self.state ^ number.wrapping_mul(0xa24b_aed4_963e_e407) };
        branch.next();
        branch
    }

    /// An instant within this time.
    pub fn within(&mut self, time: Duration) -> Duration {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(self.next() % nanos)
    }

    /// Instants within this time, and within less of it each time: whoever asks again was too late.
    pub fn instants(&mut self, mut time: Duration) -> impl FnMut() -> Duration + use<> {
        let number = self.next();
        let mut own = self.branch(number);
        move || {
            let instant = own.within(time);
            time = time * 3 / 4;
            instant
        }
    }

    /// In an order of chance.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            let other = self.next() % (index as u64 + 1);
            items.swap(index, usize::try_from(other).expect("below an index"));
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_chooses_the_same() {
        let seeded = Seeded { state: 7 };
        let choose = |mut seeded: Seeded| {
            let mut order = [0, 1, 2, 3, 4, 5];
            seeded.shuffle(&mut order);
            (order, seeded.within(Duration::from_secs(1)))
        };
        assert_eq!(choose(seeded.branch(1)), choose(seeded.branch(1)));
        assert_ne!(choose(seeded.branch(1)), choose(seeded.branch(2)));
        let mut many = seeded.branch(3);
        assert!((0..1_000).all(|_| many.within(Duration::from_millis(5)) < Duration::from_millis(5)));
    }
}
