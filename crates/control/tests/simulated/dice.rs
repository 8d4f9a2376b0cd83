//! Choices by seed. Each is named by what it is for, so that it does not depend on what else was chosen before.

#[derive(Debug, Clone)]
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    pub(crate) fn of(seed: u64, purpose: &str) -> Self {
        let mut dice = Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
        for byte in purpose.bytes() {
            dice.state ^= u64::from(byte);
            dice.next();
        }
        dice
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.state ^= mixed >> 7;
        mixed ^ (mixed >> 31)
    }

    /// From the first up to and with the last.
    pub(crate) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.next() % (last - first + 1)
    }

    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count as u64).unwrap()
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }
}
