//! Fuzzing as an ordinary test: a decoder is fed its seeds, their prefixes and mutations of them, and must neither
//! panic nor take memory that its input does not justify.
//!
//! Invariants: the inputs depend on the target's name, its seeds and its words alone, so a failure comes again; no
//! result depends on the clock. Targets of one program run one after another, as memory is measured for the whole
//! process.
//!
//! `CASSY_FUZZ_INPUTS=2000000` tries as many mutations of each target instead of some thousand.

mod memory;
mod mutation;
mod panics;

use std::sync::{Mutex, MutexGuard, PoisonError};

use memory::Meter;
use mutation::Mutations;

/// Mutations of an ordinary target when nobody asks for more: a second or so.
const BRIEF: u64 = 10_000;
/// What an input may make the process take, unless the target says otherwise.
const MEMORY_BYTES: u64 = 64 << 20;
/// Runs that go into making a failing input shorter.
const SHORTENING_RUNS: u32 = 3000;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A target with all that its inputs are made of.
pub struct Fuzz {
    /// From the first seed on: what another target's seeds take is not this one's memory.
    _alone: MutexGuard<'static, ()>,
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    memory_bytes: u64,
    cost: u64,
}

/// What was tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried {
    /// Seeds.
    pub seeds: u64,
    /// Prefixes of seeds.
    pub prefixes: u64,
    /// Mutations.
    pub inputs: u64,
    /// Mutations that the target accepted.
    pub accepted: u64,
}

impl Fuzz {
    /// A target without seeds yet. Waits until no other one is there.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Self { _alone, name, seeds: Vec::new(), words: Vec::new(), memory_bytes: MEMORY_BYTES, cost: 1 }
    }

    /// Adds inputs as a friendly peer sends them.
    #[must_use]
    pub fn seeds<T: Into<Vec<u8>>>(mut self, seeds: impl IntoIterator<Item = T>) -> Self {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// Adds byte strings that mean something to the target, to be put anywhere.
    #[must_use]
    pub fn words<T: Into<Vec<u8>>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// Says how much memory one input may take, 64 MiB otherwise.
    #[must_use]
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Says that an input costs as much time as so many ordinary ones: fewer are tried.
    #[must_use]
    pub fn cost(mut self, ordinary_inputs: u64) -> Self {
        self.cost = ordinary_inputs.max(1);
        self
    }

    /// Runs `target`, which says whether it accepted its input, and which panics where it broke a promise.
    ///
    /// # Panics
    /// When the target panics or takes too much memory: with the input, as short as it could be made. Also when no
    /// seed is accepted, or the mutations are all accepted or all refused: such inputs prove nothing.
    pub fn run(self, mut target: impl FnMut(&[u8]) -> bool) -> Tried {
        let mut run = Run { name: self.name, meter: Meter::start(self.memory_bytes), target: &mut target };
        let mut tried = Tried::default();
        let mut seeds_accepted = 0;
        let wanted = wanted() / self.cost;
        // Every prefix, unless there are more of them than mutations.
        let length: usize = self.seeds.iter().map(Vec::len).sum();
        let step = length.div_ceil(usize::try_from(wanted).unwrap_or(usize::MAX)).max(1);
        for (number, seed) in self.seeds.iter().enumerate() {
            tried.seeds += 1;
            seeds_accepted += u64::from(run.one(seed, || format!("seed {number}")));
            for end in (0..seed.len()).step_by(step) {
                let prefix = seed.get(..end).unwrap_or_default();
                tried.prefixes += 1;
                run.one(prefix, || format!("the first {end} bytes of seed {number}"));
            }
        }
        let mutations = Mutations::new(self.name, &self.seeds, &self.words);
        for number in 0..wanted {
            let input = mutations.input(number);
            tried.inputs += 1;
            tried.accepted += u64::from(run.one(&input, || format!("mutation {number}")));
        }
        let Tried { seeds, prefixes, inputs, accepted } = tried;
        let name = self.name;
        eprintln!("{name}: seeds {seeds}, prefixes {prefixes}, inputs {inputs}, accepted {accepted}");
        assert!(seeds_accepted > 0, "{name}: no seed is accepted");
        // Fewer than the brief ones might all be refused.
        let is_telling = (1..inputs).contains(&accepted) || wanted < BRIEF / self.cost;
        assert!(is_telling, "{name}: {accepted} of {inputs} mutations are accepted");
        tried
    }
}

fn wanted() -> u64 {
    match std::env::var("CASSY_FUZZ_INPUTS") {
        Ok(text) => text.parse::<u64>().expect("CASSY_FUZZ_INPUTS is a number"),
        Err(_) => BRIEF,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Run<'a> {
    name: &'static str,
    meter: Meter,
    target: &'a mut dyn FnMut(&[u8]) -> bool,
}

impl Run<'_> {
    /// Whether the input was accepted.
    fn one(&mut self, input: &[u8], which: impl Fn() -> String) -> bool {
        let name = self.name;
        let accepted = match panics::catch(|| (self.target)(input)) {
            Ok(accepted) => accepted,
            Err(message) => {
                let (short, last) = self.shorten(input);
                let last = last.unwrap_or(message);
                panic!("{name}: {}: {last}\n{} bytes: {}", which(), short.len(), hex(&short));
            }
        };
        if let Some(bytes) = self.meter.exceeded() {
            let (length, hex) = (input.len(), hex(input));
            panic!("{name}: {} makes the process take {bytes} bytes\n{length} bytes: {hex}", which());
        }
        accepted
    }

    /// Leaves out pieces, large ones first, while the target still panics.
    fn shorten(&mut self, input: &[u8]) -> (Vec<u8>, Option<String>) {
        let (mut short, mut message) = (input.to_vec(), None);
        let mut runs = 0;
        let mut piece = short.len().div_ceil(2);
        while piece > 0 {
            let mut at = 0;
            while at < short.len() && runs < SHORTENING_RUNS {
                runs += 1;
                let mut less = short.clone();
                less.drain(at..short.len().min(at + piece));
                match panics::catch(|| (self.target)(&less)) {
                    Ok(_) => at += piece,
                    Err(again) => (short, message) = (less, Some(again)),
                }
            }
            piece /= 2;
        }
        (short, message)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn failure(run: impl FnOnce() -> Tried) -> String {
        let caught = catch_unwind(AssertUnwindSafe(run)).expect_err("it fails");
        caught.downcast_ref::<String>().expect("with a text").clone()
    }

    /// A frame of a length and so many bytes, read by somebody careless.
    fn careless(input: &[u8]) -> bool {
        let Some((length, rest)) = input.split_first_chunk::<4>() else { return false };
        let length = usize::try_from(u32::from_be_bytes(*length)).expect("64 bits");
        rest.len() == rest[..length].len()
    }

    #[test]
    fn a_length_that_is_believed_is_found_and_made_short() {
        let text = failure(|| Fuzz::new("careless").seeds([b"\0\0\0\x05hello"]).run(careless));
        assert!(text.contains("careless: ") && text.contains("out of range"), "{text}");
        let hex = text.rsplit(": ").next().expect("the input");
        assert!(hex.len() <= 8 + 2, "{text}");
    }

    #[test]
    fn the_same_inputs_come_again() {
        let seen = || {
            let mut all = DefaultHasher::new();
            let tried = Fuzz::new("again").seeds([&b"abc"[..], &[0; 300]]).words(["word"]).run(|input| {
                all.write(input);
                input.len() > 3
            });
            (tried, all.finish())
        };
        assert_eq!(seen(), seen());
    }

    #[test]
    fn memory_that_the_input_does_not_justify_is_found() {
        let greedy = |input: &[u8]| {
            let wanted = if input.first() == Some(&0xff) { 200 << 20 } else { 10 };
            Vec::<u8>::with_capacity(wanted).capacity() > 10
        };
        let text = failure(|| Fuzz::new("greedy").seeds([[0xff_u8; 8]]).run(greedy));
        assert!(text.contains("seed 0 makes the process take"), "{text}");
    }

    #[test]
    fn a_corpus_that_proves_nothing_is_no_success() {
        assert!(failure(|| Fuzz::new("deaf").seeds([b"x"]).run(|_| false)).contains("no seed is accepted"));
        assert!(failure(|| Fuzz::new("credulous").seeds([b"x"]).run(|_| true)).contains("are accepted"));
    }
}
