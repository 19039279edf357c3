//! The shape that nearly every record has: short lengths, a short key, no headers. Found out once, it says
//! of the records behind, which mostly have it too, whether they are sound without reading them part by
//! part.
//!
//! ```text
//!   | length 1-2 | attributes | time 1.. | offset 1-2 | key length 1 | key | value length 1-2 | value | 0 |
//!   '----------------- the first eight bytes ------------------------'
//!     equal          any        as long    as long      equal                equal                    equal
//! ```
//!
//! Always true here: whatever is answered `Some` would have been read, with this offset, by
//! [`Records`](super::Records); of anything else nothing is said. The size of the record before is where
//! the next one is looked for, and not a length that was just loaded, so that the processor need not wait
//! for one record to begin with the next: 14 ns a record become 2 to 3 where all are alike. Where they are
//! not, each one's shape is found out anew.

/// Which bytes of a record decide where its parts are, and what they hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Shape {
    /// Bytes of the whole record; 0 before there is one.
    size: usize,
    /// Of the first eight bytes, those that count.
    mask: u64,
    head: u64,
    /// By how many bits the offset is shifted, and whether it has a second byte.
    offset_shift: u32,
    long_offset: bool,
    value_at: usize,
    value_mask: u16,
    value: u16,
}

/// The bits that say that a number goes on.
const MORE: u64 = 0x8080_8080_8080_8080;

impl Shape {
    /// The size and the offset of the record in front of `bytes`, if that has this shape.
    #[inline]
    pub(super) fn fits(&self, bytes: &[u8]) -> Option<(usize, i32)> {
        let head = u64::from_le_bytes(*bytes.first_chunk()?);
        let record = bytes.get(..self.size)?;
        let value = u16::from_le_bytes(*record.get(self.value_at..)?.first_chunk()?);
        let fits = head & self.mask == self.head
            && value & self.value_mask == self.value
            && record.last() == Some(&0);
        let offset =
            if fits { offset_of(head >> self.offset_shift, self.long_offset) } else { None };
        offset.map(|offset| (self.size, offset))
    }

    /// The shape of the record in front of `bytes`, if it is such a one, and its offset.
    #[inline]
    pub(super) fn of(bytes: &[u8]) -> Option<(Self, i32)> {
        let head = u64::from_le_bytes(*bytes.first_chunk()?);
        // The last byte of each number has no bit that says that it goes on.
        let ends = !head & MORE;
        let length_end = byte_of(ends);
        let attributes = length_end + 1;
        let ends = ends & u64::MAX.checked_shl(8 * (attributes + 1))?;
        let time_end = byte_of(ends);
        let ends = ends & ends.wrapping_sub(1);
        let offset_end = byte_of(ends);
        let ends = ends & ends.wrapping_sub(1);
        let key = byte_of(ends);
        if length_end > 1 || key > 7 || key != offset_end + 1 || offset_end - time_end > 2 {
            return None;
        }
        let size = length_end as usize + 1 + length(short(head, length_end == 1))?;
        let value_at = key as usize + 1 + nullable(head >> (8 * key) & 0x7f)?;
        let record = bytes.get(..size)?;
        let value = u16::from_le_bytes(*record.get(value_at..)?.first_chunk()?);
        let long_value = value & 0x80 != 0;
        if long_value && value & 0x8000 != 0 {
            return None;
        }
        let value_len = nullable(short(u64::from(value), long_value))?;
        let end = value_at + 1 + usize::from(long_value) + value_len;
        if end + 1 != size || record[end] != 0 {
            return None;
        }
        let upto = |byte: u32| u64::MAX >> (64 - 8 * byte);
        let equal = upto(length_end + 1) | 0xff << (8 * key);
        let as_long = MORE & upto(key) & !upto(attributes + 1);
        let mask = equal | as_long;
        let value_mask = if long_value { u16::MAX } else { 0xff };
        let offset_shift = 8 * (time_end + 1);
        let long_offset = offset_end - time_end == 2;
        let offset = offset_of(head >> offset_shift, long_offset)?;
        let (head, value) = (head & mask, value & value_mask);
        let shape =
            Self { size, mask, head, offset_shift, long_offset, value_at, value_mask, value };
        Some((shape, offset))
    }

    /// The size of such a record.
    #[inline]
    pub(super) fn size(&self) -> usize {
        self.size
    }
}

/// The byte of the lowest bit; 8 when there is none.
#[inline]
fn byte_of(bits: u64) -> u32 {
    bits.trailing_zeros() / 8
}

/// A number of one byte or two, as it is stored.
#[inline]
fn short(bytes: u64, long: bool) -> u64 {
    if long { bytes & 0x7f | bytes >> 1 & 0x3f80 } else { bytes & 0x7f }
}

/// Undoes zig-zag for what is not negative.
#[inline]
fn length(stored: u64) -> Option<usize> {
    (stored & 1 == 0).then_some(stored as usize / 2)
}

/// As [`length`]; null has no bytes.
#[inline]
fn nullable(stored: u64) -> Option<usize> {
    if stored == 1 { Some(0) } else { length(stored) }
}

#[inline]
fn offset_of(bytes: u64, long: bool) -> Option<i32> {
    length(short(bytes, long)).map(|offset| offset as i32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Shape;
    use crate::batch::records::Records;
    use crate::batch::{BatchBuilder, BatchHeader, BatchRef, HEADER_LEN};
    use crate::config::Compression;
    use crate::ids::ProducerIdentity;

    /// What iterating ends with, and what checking says: always the same.
    fn same(header: &BatchHeader, section: &[u8]) {
        let Ok(records) = Records::new(header, section) else { return };
        let read = records.clone().try_for_each(|record| record.map(drop));
        assert_eq!(records.check(), read, "{section:?}");
    }

    type Parts = (i64, Option<Vec<u8>>, Option<Vec<u8>>, bool);

    fn record() -> impl Strategy<Value = Parts> {
        let time = prop_oneof![4 => Just(5), 2 => 0..300_i64, 1 => any::<i64>()];
        let bytes = |common: usize| {
            let len = prop_oneof![6 => Just(common), 2 => 0..70_usize, 1 => 0..9000_usize];
            proptest::option::weighted(0.8, len.prop_map(|len| vec![b'x'; len]))
        };
        (time, bytes(3), bytes(100), proptest::bool::weighted(0.05))
    }

    proptest! {
        #[test]
        fn checking_is_reading(
            all in proptest::collection::vec((record(), 1..90_usize), 1..8),
            turned in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
        ) {
            let mut builder = BatchBuilder::new(Compression::None, 1 << 16);
            for ((time, key, value, has_header), times) in &all {
                let headers: &[(&[u8], Option<&[u8]>)] =
                    if *has_header { &[(b"h", Some(b"v"))] } else { &[] };
                for _ in 0..*times {
                    builder.push(*time, key.as_deref(), value.as_deref(), headers).expect("small");
                }
            }
            let bytes = builder.finish(ProducerIdentity::NONE, -1, false).expect("not empty");
            let batch = BatchRef::parse(&bytes).expect("sound");
            let mut section = bytes[HEADER_LEN..].to_vec();
            same(&batch.header, &section);
            for (at, to) in turned {
                let at = at.index(section.len());
                section[at] = to;
                same(&batch.header, &section);
            }
            if let Some(cut) = cut {
                section.truncate(cut.index(section.len()));
                same(&batch.header, &section);
            }
        }
    }

    /// Each byte of a few records set to each value: every way in which one record may stop being like
    /// the one before.
    #[test]
    fn checking_is_reading_whatever_a_byte_becomes() {
        for (keyed, value, records) in
            [(false, 100, 70), (true, 3, 3), (true, 40, 3), (false, 0, 9)]
        {
            let mut builder = BatchBuilder::new(Compression::None, 1 << 16);
            let value = vec![1; value];
            for n in 0..records {
                let key: Option<&[u8]> = keyed.then_some(b"key");
                builder.push(1_000 + n, key, Some(&value), &[]).expect("small");
            }
            let bytes = builder.finish(ProducerIdentity::NONE, -1, false).expect("not empty");
            let batch = BatchRef::parse(&bytes).expect("sound");
            let section = &bytes[HEADER_LEN..];
            assert!(Shape::of(section).is_some(), "a record as most are");
            let mut turned = section.to_vec();
            for at in (0..section.len()).filter(|at| *at < 250 || at + 250 > section.len()) {
                for to in 0..=u8::MAX {
                    turned[at] = to;
                    same(&batch.header, &turned);
                }
                turned[at] = section[at];
            }
        }
    }
}
