//! How bytes are changed: what chance does to them, and what somebody would who knows the formats.
//!
//! Always true here: a change follows from the random numbers; the formats' integers are big-endian.

use thalweg_core::disk::sim::Rng;

/// Changes bytes; takes pieces from another input.
pub(super) struct Mutator<'a> {
    pub(super) rng: &'a mut Rng,
    pub(super) donor: &'a [u8],
}

/// Where the fields of a batch's header lie: offset and length.
const HEADER_FIELDS: [(usize, usize); 13] = [
    (0, 8),
    (8, 4),
    (12, 4),
    (16, 1),
    (17, 4),
    (21, 2),
    (23, 4),
    (27, 8),
    (35, 8),
    (43, 8),
    (51, 2),
    (53, 4),
    (57, 4),
];

/// Numbers at which things change: ends of types, nothing, -1, sizes of headers and entries.
const NUMBERS: [i64; 24] = [
    0,
    1,
    -1,
    2,
    7,
    12,
    34,
    46,
    48,
    49,
    61,
    127,
    128,
    255,
    i16::MAX as i64,
    i16::MIN as i64,
    65_535,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    1 << 30,
    i64::MAX,
    i64::MIN,
    i64::MAX - 1,
];

/// Variable-length numbers that are long, large or endless.
const VARINTS: [&[u8]; 8] = [
    &[0x80],
    &[0x80, 0x80, 0x80, 0x80, 0x00],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xfe, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
    &[0x01],
    &[0x03],
];

impl Mutator<'_> {
    /// One change, and often more.
    pub(super) fn change(&mut self, bytes: &mut Vec<u8>) {
        loop {
            self.once(bytes);
            if !self.rng.one_in(2) {
                return;
            }
        }
    }

    fn once(&mut self, bytes: &mut Vec<u8>) {
        match self.rng.below(15) {
            0 | 1 => self.flip(bytes),
            2 => self.set_byte(bytes),
            3 | 4 => self.set_number(bytes),
            5 => self.add(bytes),
            6 => self.overwrite(bytes, VARINTS),
            7 => bytes.truncate(self.rng.below(bytes.len() as u64 + 1) as usize),
            8 => self.grow(bytes),
            9 => self.remove(bytes),
            10 => self.repeat(bytes),
            11 => self.splice(bytes),
            12 | 13 => self.header_field(bytes),
            _ => self.swap(bytes),
        }
    }

    fn place(&mut self, bytes: &[u8]) -> usize {
        self.rng.below(bytes.len() as u64) as usize
    }

    /// A range of at most `max` bytes, within `len`.
    fn range(&mut self, len: usize, max: u64) -> std::ops::Range<usize> {
        let from = self.rng.below(len as u64 + 1) as usize;
        let n = self.rng.below(max.min((len - from) as u64) + 1) as usize;
        from..from + n
    }

    /// The most bytes that are moved at once: mostly few.
    fn reach(&mut self) -> u64 {
        1 << (2 + self.rng.below(11))
    }

    fn flip(&mut self, bytes: &mut [u8]) {
        if !bytes.is_empty() {
            let at = self.place(bytes);
            bytes[at] ^= 1 << self.rng.below(8);
        }
    }

    fn set_byte(&mut self, bytes: &mut [u8]) {
        if !bytes.is_empty() {
            let at = self.place(bytes);
            bytes[at] = self.rng.number() as u8;
        }
    }

    fn put(&mut self, bytes: &mut [u8], at: usize, width: usize, number: i64) {
        let number = number.to_be_bytes();
        if let Some(field) = bytes.get_mut(at..at + width) {
            field.copy_from_slice(&number[8 - width..]);
        }
    }

    fn number_for(&mut self, bytes: &[u8]) -> i64 {
        let near = self.rng.below(5) as i64 - 2;
        match self.rng.below(4) {
            0 => bytes.len() as i64 + near,
            1 => self.rng.number().cast_signed() >> self.rng.below(60),
            _ => NUMBERS[self.rng.below(NUMBERS.len() as u64) as usize],
        }
    }

    fn set_number(&mut self, bytes: &mut [u8]) {
        if !bytes.is_empty() {
            let (at, width) = (self.place(bytes), 1 << self.rng.below(4));
            let number = self.number_for(bytes);
            self.put(bytes, at, width, number);
        }
    }

    fn add(&mut self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        let (at, width) = (self.place(bytes), 1 << self.rng.below(4));
        let Some(field) = bytes.get(at..at + width) else { return };
        let old = field.iter().fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
        let by = self.rng.below(33) as i64 - 16;
        self.put(bytes, at, width, old.wrapping_add(by));
    }

    fn overwrite<const N: usize>(&mut self, bytes: &mut Vec<u8>, with: [&[u8]; N]) {
        let at = self.rng.below(bytes.len() as u64 + 1) as usize;
        let piece = with[self.rng.below(N as u64) as usize];
        let replaced = if self.rng.coin() { piece.len().min(bytes.len() - at) } else { 0 };
        bytes.splice(at..at + replaced, piece.iter().copied());
    }

    fn grow(&mut self, bytes: &mut Vec<u8>) {
        let (n, zeros) = (self.reach(), self.rng.coin());
        for _ in 0..self.rng.below(n) {
            bytes.push(if zeros { 0 } else { self.rng.number() as u8 });
        }
    }

    fn remove(&mut self, bytes: &mut Vec<u8>) {
        let reach = self.reach();
        let range = self.range(bytes.len(), reach);
        bytes.drain(range);
    }

    fn repeat(&mut self, bytes: &mut Vec<u8>) {
        let reach = self.reach();
        let range = self.range(bytes.len(), reach);
        let piece = bytes[range.clone()].to_vec();
        let at = if self.rng.coin() { range.end } else { bytes.len() };
        bytes.splice(at..at, piece);
    }

    fn splice(&mut self, bytes: &mut Vec<u8>) {
        let reach = self.reach();
        let (from, to) = (self.range(self.donor.len(), reach), self.range(bytes.len(), reach));
        bytes.splice(to, self.donor[from].iter().copied());
    }

    fn swap(&mut self, bytes: &mut [u8]) {
        let (a, b) = (self.range(bytes.len(), 16), self.range(bytes.len(), 16));
        let n = a.len().min(b.len());
        for i in 0..n {
            bytes.swap(a.start + i, b.start + i);
        }
    }

    /// A field of a batch's header, of any batch in there.
    fn header_field(&mut self, bytes: &mut [u8]) {
        let starts = super::repair::batch_starts(bytes);
        if starts.is_empty() {
            return self.set_number(bytes);
        }
        let start = starts[self.rng.below(starts.len() as u64) as usize];
        let (at, width) = HEADER_FIELDS[self.rng.below(HEADER_FIELDS.len() as u64) as usize];
        let number = match self.rng.below(3) {
            0 => bytes.get(start + at..start + at + width).map_or(0, |field| {
                let old = field.iter().fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
                old.wrapping_add(self.rng.below(5) as i64 - 2)
            }),
            1 => 1 << self.rng.below(width as u64 * 8).min(62),
            _ => self.number_for(bytes),
        };
        self.put(bytes, start + at, width, number);
    }
}
