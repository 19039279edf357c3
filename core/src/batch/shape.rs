//! Records as nearly all are: short lengths, a short key, no headers. Whether such a one is sound is found
//! out without reading it part by part; and of one that is like the record before, at a glance.
//!
//! ```text
//!   | length 1-2 | attributes | time 1.. | offset 1-2 | key length 1 | key | value length 1-2 | value | 0 |
//!   usual:  two bytes         '------------- eight bytes ----------'       '----- two ------'         '-'
//!   Shape: '---- the first eight bytes, those of them that decide -'       '----- two ------'         '-'
//! ```
//!
//! Always true here: whatever is answered `Some` would have been read, with this offset, by
//! [`Records`](super::Records); of anything else nothing is said.
//!
//! Why both: to [`usual`] a number has one byte or two by arithmetic and not by a jump, which would be
//! guessed wrong for every other record whose sizes differ; all that is waited for is the length, 5 ns a
//! record. Where sizes do not differ, [`Shape`] looks for the next record where the size of the last one
//! says, so that the processor need not wait for one record to begin with the next, 2 to 3 ns.

/// The bits that say that a number goes on.
const MORE: u64 = 0x8080_8080_8080_8080;

/// The size and the offset of the record in front of `bytes`, if it is such a one.
#[inline]
pub(super) fn usual(bytes: &[u8]) -> Option<(usize, i32)> {
    let head: &[u8; 11] = bytes.first_chunk()?;
    let stored = u16::from_le_bytes([head[0], head[1]]);
    let (length_len, length) = one_or_two(u64::from(stored), u64::from(stored >> 7 & 1));
    let word = u64::from_le_bytes(*head[length_len + 1..].first_chunk()?);
    // The last byte of each number has no bit that says that it goes on.
    let last = !word & MORE;
    let time_bits = last.trailing_zeros() + 1;
    let last = last & last.wrapping_sub(1);
    let offset_bits = last.trailing_zeros() + 1;
    let second = offset_bits.wrapping_sub(time_bits).wrapping_sub(8);
    let (_, offset) = one_or_two(word.wrapping_shr(time_bits), u64::from(second >> 3));
    let key = word.wrapping_shr(offset_bits) & 0xff;
    let value_at = length_len + 2 + offset_bits as usize / 8 + key as usize / 2;
    let record = bytes.get(..length_len + length as usize / 2)?;
    let stored_value = u16::from_le_bytes(*record.get(value_at..)?.first_chunk()?);
    let (value_len, value) = one_or_two(u64::from(stored_value), u64::from(stored_value >> 7 & 1));
    let end = value_at + value_len + value as usize / 2;
    // Whatever must be zero, so that one jump asks for all of it.
    let wrong = u64::from(goes_on(stored) | goes_on(stored_value))
        | (length | offset) & 1
        | u64::from(second & !8)
        // So is a key that lies beyond the word: the shift wraps, to the first byte of a long time.
        | key & 0x80
        | no_length(key)
        | no_length(value)
        | ((end + 1) ^ record.len()) as u64
        | u64::from(*record.last()?);
    (wrong == 0).then_some((record.len(), (offset / 2) as i32))
}

/// Which bytes of a record decide where its parts are, and what they hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bytes of the whole record.
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

    /// That of the record in front of `bytes`, if it is usual and its key's length lies within eight bytes.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
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
        let (head, value) = (head & mask, value & value_mask);
        Some(Self { size, mask, head, offset_shift, long_offset, value_at, value_mask, value })
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

/// How many bytes a number of one or two has, where `second` is 1 for two, and the number as it is stored.
#[inline]
fn one_or_two(bytes: u64, second: u64) -> (usize, u64) {
    let mask = 0_u64.wrapping_sub(second);
    (1 + second as usize, bytes & 0x7f | bytes >> 1 & 0x3f80 & mask)
}

/// Not zero where a number of at most two bytes has a third.
#[inline]
fn goes_on(bytes: u16) -> u16 {
    bytes & bytes << 8 & 0x8000
}

/// Not zero where this is neither a length as it is stored nor that of null, which has no bytes.
#[inline]
fn no_length(stored: u64) -> u64 {
    stored >> 1 & 0_u64.wrapping_sub(stored & 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Shape, usual};
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

    /// Offsets of three bytes, which only a long batch has, and what two bytes of them would say.
    #[test]
    fn checking_is_reading_where_offsets_are_long() {
        let mut builder = BatchBuilder::new(Compression::None, 1 << 10);
        (0..2).for_each(|_| builder.push(0, None, None, &[]).expect("small"));
        let bytes = builder.finish(ProducerIdentity::NONE, -1, false).expect("not empty");
        let mut header = BatchRef::parse(&bytes).expect("sound").header;
        header.last_offset_delta = 1 << 20;
        let offsets = [2, 5, 64, 8191, 8192, 8194, 8197, 16_384, 1 << 20, (1 << 20) + 1];
        for (first, second) in offsets.iter().flat_map(|first| offsets.map(|it| (*first, it))) {
            let mut section = Vec::new();
            for offset in [first, second] {
                let mut body = vec![0, 0];
                crate::varint::put_varint(&mut body, offset);
                body.extend([1, 2, b'v', 0]);
                crate::varint::put_varint(&mut section, body.len() as i32);
                section.extend(body);
            }
            same(&header, &section);
        }
    }

    /// Each byte of a few records set to each value: every way in which one record may stop being like
    /// the one before.
    #[test]
    fn checking_is_reading_whatever_a_byte_becomes() {
        // (with a key, bytes of the first value, how many more the next one has, records)
        let cases = [
            (false, 100, 0, 70),
            (true, 3, 0, 3),
            (true, 40, 0, 3),
            (false, 0, 0, 9),
            (true, 56, 1, 9),
            (false, 120, 7, 3),
        ];
        for (keyed, least, more, records) in cases {
            let mut builder = BatchBuilder::new(Compression::None, 1 << 16);
            for n in 0..records {
                let key: Option<&[u8]> = keyed.then_some(b"key");
                let value = vec![1; least + more * n];
                builder.push(1_000 + n as i64, key, Some(&value), &[]).expect("small");
            }
            let bytes = builder.finish(ProducerIdentity::NONE, -1, false).expect("not empty");
            let batch = BatchRef::parse(&bytes).expect("sound");
            let section = &bytes[HEADER_LEN..];
            assert!(Shape::of(section).is_some() && usual(section).is_some(), "as most are");
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
