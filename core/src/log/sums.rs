//! F3 · Sums of a segment's side files, which have none of their own, and what compaction did to it.
//!
//! ```text
//!   <end>.sidecar: 88 bytes, beside <end>.snapshot, for the segment that ends there, or that was this
//!                  long when the recovery point moved to <end>
//!   "TWSC" | u16 version 2 | u16 flags | i64 base | i64 end | u64 bytes of .log
//!   .index, .timeindex, .txnindex, each: u64 bytes | u32 crc32c
//!   i64 compacted below | i64 deletions removed below                   u32 crc32c of all before
//!   flags: 1 offsets may be missing between batches
//!   (version 1, 72 bytes, ends behind the side files: nothing was compacted)
//! ```
//!
//! Always true here: the files only grow between one sidecar and the next, so a sidecar speaks of the
//! front of each file, whatever follows; a segment of layout 1 has none; where no sidecar says that
//! offsets may be missing, a missing offset is damage.

use crate::batch::crc32c;
use crate::ids::Offset;

/// The endings of the side files, in the order of their sums.
pub(crate) const SIDES: [&str; 3] = ["index", "timeindex", "txnindex"];
/// Bytes of a sidecar.
const LEN: usize = 88;
const LEN_V1: usize = 72;
const GAPS: u16 = 1;

/// What compaction did to a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Compacted {
    /// Offsets may be missing between its batches.
    pub(crate) gaps: bool,
    /// Keys of records below this offset were looked for in all records before them.
    pub(crate) clean_below: Offset,
    /// One past the last deletion (a record without a value) that was removed from it; 0: none was.
    pub(crate) deletions_below: Offset,
}

impl Compacted {
    /// Of a segment that nobody vouches for: another program wrote it.
    pub(crate) const FOREIGN: Self = Self { gaps: true, clean_below: 0, deletions_below: 0 };
}

/// What a sidecar says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sums {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    /// Bytes of the `.log`.
    pub(crate) size: u64,
    /// Bytes and sum of each side file; an absent file has no bytes.
    sides: [(u64, u32); 3],
    pub(crate) compacted: Compacted,
}

impl Sums {
    /// Sums the side files, in the order of [`SIDES`].
    pub(crate) fn of(base: Offset, end: Offset, size: u64, sides: [&[u8]; 3]) -> Self {
        let sides = sides.map(|bytes| (bytes.len() as u64, crc32c(bytes)));
        Self { base, end, size, sides, compacted: Compacted::default() }
    }

    /// The same, of a segment that was compacted.
    pub(crate) fn after(self, compacted: Compacted) -> Self {
        Self { compacted, ..self }
    }

    /// The bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = b"TWSC\0\x02".to_vec();
        let flags = if self.compacted.gaps { GAPS } else { 0 };
        bytes.extend(flags.to_be_bytes());
        bytes.extend(self.base.to_be_bytes());
        bytes.extend(self.end.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        for (len, crc) in self.sides {
            bytes.extend(len.to_be_bytes());
            bytes.extend(crc.to_be_bytes());
        }
        bytes.extend(self.compacted.clean_below.to_be_bytes());
        bytes.extend(self.compacted.deletions_below.to_be_bytes());
        let crc = crc32c(&bytes);
        bytes.extend(crc.to_be_bytes());
        bytes
    }

    /// Reads the file; `None` when it is no such file.
    pub(crate) fn decode(file: &[u8]) -> Option<Self> {
        let (bytes, crc) = file.split_last_chunk::<4>()?;
        if crc32c(bytes) != u32::from_be_bytes(*crc) {
            return None;
        }
        let flags = match bytes.first_chunk::<8>()? {
            b"TWSC\0\x01\0\0" if file.len() == LEN_V1 => 0,
            [b'T', b'W', b'S', b'C', 0, 2, high, low] if file.len() == LEN => {
                u16::from_be_bytes([*high, *low])
            }
            _ => return None,
        };
        if flags & !GAPS != 0 {
            return None;
        }
        let word = |at: usize| Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let late = |at: usize| {
            if file.len() == LEN { Some(word(at)?.cast_signed()) } else { Some(0) }
        };
        let side =
            |at: usize| Some((word(at)?, u32::from_be_bytes(*bytes.get(at + 8..)?.first_chunk()?)));
        Some(Self {
            base: word(8)?.cast_signed(),
            end: word(16)?.cast_signed(),
            size: word(24)?,
            sides: [side(32)?, side(44)?, side(56)?],
            compacted: Compacted {
                gaps: flags & GAPS != 0,
                clean_below: late(68)?,
                deletions_below: late(76)?,
            },
        })
    }

    /// The front of a side file that was summed, if it still is what it was.
    pub(crate) fn front<'f>(&self, suffix: &str, file: &'f [u8]) -> Option<&'f [u8]> {
        let at = SIDES.iter().position(|side| *side == suffix)?;
        let (len, crc) = self.sides[at];
        let front = file.get(..usize::try_from(len).ok()?)?;
        (crc32c(front) == crc).then_some(front)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_is_read_as_it_was_written_and_no_bit_of_it_may_turn() {
        let sums = Sums::of(7, 19, 400, [b"offsets", b"times", b""]);
        let compacted = Compacted { gaps: true, clean_below: 17, deletions_below: 12 };
        assert_eq!(Sums::decode(&sums.encode()), Some(sums));
        let sums = sums.after(compacted);
        let bytes = sums.encode();
        assert_eq!(bytes.len(), LEN);
        assert_eq!(Sums::decode(&bytes), Some(sums));
        for bit in 0..bytes.len() * 8 {
            let mut turned = bytes.clone();
            turned[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Sums::decode(&turned), None, "bit {bit}");
        }
        assert_eq!(Sums::decode(&bytes[..LEN - 1]), None);
    }

    #[test]
    fn a_sidecar_of_layout_2_says_that_nothing_was_compacted() {
        let sums = Sums::of(7, 19, 400, [b"offsets", b"times", b""]);
        let mut bytes = sums.encode()[..LEN_V1 - 4].to_vec();
        bytes[5] = 1;
        bytes.extend(crc32c(&bytes).to_be_bytes());
        assert_eq!(Sums::decode(&bytes), Some(sums));
    }

    #[test]
    fn the_front_of_a_file_is_compared_and_what_follows_is_not() {
        let sums = Sums::of(0, 1, 1, [b"offsets", b"times", b""]);
        assert_eq!(sums.front("index", b"offsets and more"), Some(&b"offsets"[..]));
        assert_eq!(sums.front("index", b"offseta and more"), None);
        assert_eq!(sums.front("index", b"offset"), None, "it is shorter than it was");
        assert_eq!(sums.front("txnindex", b"anything"), Some(&b""[..]));
        assert_eq!(sums.front("log", b"offsets"), None);
    }
}
