//! F3 · The last offset of each key, in bounded memory.
//!
//! ```text
//!   key --two hashes of 64 bits, each behind its own secret--> slot | hash | hash | offset |   24 bytes
//!   taken? the same hashes: the same key. Others: the next slot       never more than 3/4 taken
//! ```
//!
//! Keys are not kept. Two keys with the same 128 bits would be taken for one and the older record lost:
//! for 2^30 keys that is one chance in 2^69, and nobody who does not know the secrets can choose such
//! keys (SipHash, Aumasson and Bernstein 2012).
//!
//! Always true here: the offset of a key only rises; the table is at most as large as it may be, but for
//! the keys of one batch.

use std::hash::{DefaultHasher, Hasher};

use crate::ids::Offset;

/// Bytes a key takes.
const ENTRY: usize = size_of::<Entry>();
/// Slots of the smallest table.
const FIRST: usize = 256;

#[derive(Clone, Copy)]
struct Entry {
    hashes: [u64; 2],
    /// -1: the slot is free.
    offset: Offset,
}

const FREE: Entry = Entry { hashes: [0; 2], offset: -1 };

/// Keys and their last offsets.
pub(super) struct Offsets {
    slots: Vec<Entry>,
    taken: usize,
    slots_max: usize,
    secrets: [u64; 2],
}

impl Offsets {
    /// A table of at most `bytes_max` bytes; while it grows, half as many for a moment on top.
    pub(super) fn new(bytes_max: usize, secrets: [u64; 2]) -> Self {
        let fit = (bytes_max / ENTRY).max(FIRST);
        // The greatest power of two that fits.
        let slots_max = 1 << fit.ilog2();
        Self { slots: vec![FREE; FIRST], taken: 0, slots_max, secrets }
    }

    /// Whether `more` keys can be taken in without growing past the bound.
    pub(super) fn has_room_for(&self, more: usize) -> bool {
        self.taken + more <= self.slots_max / 4 * 3
    }

    /// Notes that `key` is at `offset`.
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) {
        if self.taken + 1 > self.slots.len() / 4 * 3 {
            self.grow();
        }
        let hashes = self.hashes(key);
        let entry = place(&mut self.slots, hashes);
        if entry.offset < 0 {
            self.taken += 1;
        }
        entry.hashes = hashes;
        entry.offset = entry.offset.max(offset);
    }

    /// The last offset noted for `key`.
    pub(super) fn last(&self, key: &[u8]) -> Option<Offset> {
        let hashes = self.hashes(key);
        let mask = self.slots.len() - 1;
        let mut at = hashes[0] as usize & mask;
        loop {
            let entry = &self.slots[at];
            if entry.offset < 0 {
                return None;
            }
            if entry.hashes == hashes {
                return Some(entry.offset);
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let mut slots = vec![FREE; self.slots.len() * 2];
        for entry in self.slots.iter().filter(|entry| entry.offset >= 0) {
            *place(&mut slots, entry.hashes) = *entry;
        }
        self.slots = slots;
    }

    fn hashes(&self, key: &[u8]) -> [u64; 2] {
        self.secrets.map(|secret| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(secret);
            hasher.write(key);
            hasher.finish()
        })
    }
}

/// The slot of these hashes, or a free one. There always is one.
fn place(slots: &mut [Entry], hashes: [u64; 2]) -> &mut Entry {
    let mask = slots.len() - 1;
    let mut at = hashes[0] as usize & mask;
    while slots[at].offset >= 0 && slots[at].hashes != hashes {
        at = (at + 1) & mask;
    }
    &mut slots[at]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_answers_as_a_map_of_whole_keys() {
        let mut offsets = Offsets::new(1 << 20, [3, 4]);
        let mut model = BTreeMap::new();
        for offset in 0..40_000_i64 {
            let key = (offset * 7_919 % 20_011).to_string();
            offsets.note(key.as_bytes(), offset);
            model.insert(key, offset);
        }
        for (key, offset) in &model {
            assert_eq!(offsets.last(key.as_bytes()), Some(*offset), "{key}");
        }
        assert_eq!(offsets.last(b"20011"), None);
        assert_eq!(offsets.last(b""), None);
        offsets.note(b"", 5);
        offsets.note(b"", 3);
        assert_eq!(offsets.last(b""), Some(5), "offsets of a key rise");
    }

    #[test]
    fn it_says_when_it_is_full_and_never_takes_more_memory() {
        let bytes_max = 100_000;
        let mut offsets = Offsets::new(bytes_max, [1, 2]);
        let mut noted = 0_u32;
        while offsets.has_room_for(1) {
            offsets.note(&noted.to_be_bytes(), i64::from(noted));
            noted += 1;
            assert!(offsets.slots.len() * ENTRY <= bytes_max);
        }
        assert!(noted > 1000, "{noted} keys in {bytes_max} bytes");
        // A batch with more keys than that is taken in all the same.
        offsets.note(b"more", 1);
        assert_eq!(offsets.last(b"more"), Some(1));
    }
}
