//! Mutations of seeds. The same number gives the same input.

/// No input is longer.
const LONGEST: usize = 64 << 10;
const BYTES: [u8; 20] = [
    0, 1, 0x0a, 0x0d, 0x20, 0x22, 0x25, 0x2d, 0x2e, 0x2f, 0x30, 0x3a, 0x5c, 0x70, 0x71, 0x7b, 0x7f, 0x80,
    0xc0, 0xff,
];
/// Lengths and counts that readers get wrong.
const LENGTHS: [u64; 9] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0x8000_0000, u64::MAX];
const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "00",
    "2147483647",
    "2147483648",
    "4294967295",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e999",
    "",
];

/// Makes inputs of seeds and words.
pub(super) struct Mutations<'a> {
    origin: u64,
    seeds: &'a [Vec<u8>],
    words: &'a [Vec<u8>],
}

impl<'a> Mutations<'a> {
    pub(super) fn new(name: &str, seeds: &'a [Vec<u8>], words: &'a [Vec<u8>]) -> Self {
        // FNV-1a: each target has inputs of its own.
        let origin = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Self { origin, seeds, words }
    }

    /// The input of this number.
    pub(super) fn input(&self, number: u64) -> Vec<u8> {
        let mut dice = Dice(self.origin ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut input = dice.pick(self.seeds).cloned().unwrap_or_default();
        // Most inputs are damaged in one or two places, so that the rest is still read.
        let times = 1 + [0, 0, 0, 0, 1, 1, 2, 7].get(dice.below(8)).unwrap_or(&0);
        for _ in 0..times {
            self.mutate(&mut input, &mut dice);
        }
        input.truncate(LONGEST);
        input
    }

    fn mutate(&self, input: &mut Vec<u8>, dice: &mut Dice) {
        match dice.below(13) {
            0 | 1 => flip(input, dice),
            2 | 3 => set_byte(input, dice),
            4 | 5 => set_length(input, dice),
            6 => input.truncate(dice.below(input.len() + 1)),
            7 => drop(input.drain(dice.range(input.len()))),
            8 => duplicate(input, dice),
            9 => self.splice(input, dice),
            10 => self.put_word(input, dice),
            11 => set_number(input, dice),
            _ => insert(input, dice),
        }
    }

    /// A piece of another seed in place of a piece of this one.
    fn splice(&self, input: &mut Vec<u8>, dice: &mut Dice) {
        let Some(other) = dice.pick(self.seeds) else { return };
        let piece = other.get(dice.range(other.len())).unwrap_or_default();
        input.splice(dice.range(input.len()), piece.iter().copied());
    }

    fn put_word(&self, input: &mut Vec<u8>, dice: &mut Dice) {
        let Some(word) = dice.pick(self.words) else { return flip(input, dice) };
        let at = dice.below(input.len() + 1);
        let end = if dice.below(2) == 0 { at } else { input.len().min(at + word.len()) };
        input.splice(at..end, word.iter().copied());
    }
}

fn flip(input: &mut [u8], dice: &mut Dice) {
    let bit = dice.below(8);
    let at = dice.below(input.len());
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << bit;
    }
}

fn set_byte(input: &mut [u8], dice: &mut Dice) {
    let known = *dice.pick(&BYTES).unwrap_or(&0);
    let value = if dice.below(4) == 0 { dice.byte() } else { known };
    let at = dice.below(input.len());
    if let Some(byte) = input.get_mut(at) {
        *byte = value;
    }
}

/// Overwrites 1, 2, 4 or 8 bytes, big-endian.
fn set_length(input: &mut [u8], dice: &mut Dice) {
    let width = 1 << dice.below(4);
    let value = match dice.below(4) {
        0 => u64::try_from(dice.below(input.len() + 2)).unwrap_or(0),
        _ => *dice.pick(&LENGTHS).unwrap_or(&0),
    };
    let at = dice.below(input.len());
    let Some(place) = input.get_mut(at..at + width) else { return };
    let value = value.to_be_bytes();
    place.copy_from_slice(value.get(8 - width..).unwrap_or_default());
}

fn duplicate(input: &mut Vec<u8>, dice: &mut Dice) {
    let range = dice.range(input.len());
    let piece = input.get(range.clone()).unwrap_or_default().repeat(1 << dice.below(5));
    if input.len() + piece.len() <= LONGEST {
        input.splice(range.start..range.start, piece);
    }
}

/// Replaces decimal digits that stand together.
fn set_number(input: &mut Vec<u8>, dice: &mut Dice) {
    let from = dice.below(input.len());
    let is_digit = |at: usize| input.get(at).is_some_and(u8::is_ascii_digit);
    let Some(mut start) = (from..input.len()).find(|at| is_digit(*at)) else { return flip(input, dice) };
    while start > 0 && is_digit(start - 1) {
        start -= 1;
    }
    let end = (start..).find(|at| !is_digit(*at)).unwrap_or(input.len());
    let number = dice.pick(&NUMBERS).unwrap_or(&"0");
    input.splice(start..end, number.bytes());
}

fn insert(input: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.below(input.len() + 1);
    let count = 1 + dice.below(8);
    let known = *dice.pick(&BYTES).unwrap_or(&0);
    let same = dice.below(2) == 0;
    let bytes: Vec<u8> = (0..count).map(|_| if same { known } else { dice.byte() }).collect();
    input.splice(at..at, bytes);
}

/// Numbers that look random (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Below the limit; 0 when that is 0.
    fn below(&mut self, limit: usize) -> usize {
        let number = usize::try_from(self.next() >> 1).unwrap_or(0);
        number.checked_rem(limit).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        let [byte, ..] = self.next().to_le_bytes();
        byte
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }

    /// A piece of something this long; mostly a short one.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length);
        let longest = if self.below(4) == 0 { length } else { 32 };
        let end = length.min(start + 1 + self.below(longest));
        start.min(end)..end
    }
}
