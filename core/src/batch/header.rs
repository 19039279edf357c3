//! F1 · The 61 bytes before the records: reading, writing and stamping them.
//!
//! ```text
//!  attributes   15..7    6               5         4               3               2..0
//!               unused   delete horizon  control   transactional   LogAppendTime   codec
//! ```
//!
//! Always true here: a parsed header has magic 2, a length of at least 49, and counts that are not
//! negative; nothing else of it is promised. Offsets computed from it never overflow. A batch gets its
//! place without a new sum; only a new time needs one.

use super::sum::{crc32c, resum};
use super::{BatchError, CRC_FROM, HEADER_LEN, LENGTH_END};
use crate::compress::{Codec, CompressionError};
use crate::ids::{LeaderEpoch, Offset, ProducerIdentity, Timestamp};
use crate::record::TimestampType;

const MAGIC: i8 = 2;
const LENGTH_MIN: i32 = (HEADER_LEN - LENGTH_END) as i32;

const CODEC_BITS: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// The attributes of a batch, as they are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    /// Attributes of a batch of a producer.
    pub(crate) fn of(codec: Codec, transactional: bool) -> Self {
        Self(i16::from(codec.code()) | if transactional { TRANSACTIONAL } else { 0 })
    }

    /// Attributes of a transaction's marker.
    pub(crate) const MARKER: Self = Self(CONTROL | TRANSACTIONAL);

    /// The codec's code point, 0 to 7, known or not.
    pub fn compression_code(self) -> u8 {
        (self.0 & CODEC_BITS) as u8
    }

    /// The codec.
    ///
    /// # Errors
    /// [`CompressionError::Unknown`].
    pub fn codec(self) -> Result<Codec, CompressionError> {
        Codec::from_code(self.compression_code())
    }

    /// Whether all records carry the time of the append, which is the batch's greatest time.
    pub fn log_append_time(self) -> bool {
        self.0 & LOG_APPEND_TIME != 0
    }

    /// Whose time the records carry.
    pub fn timestamp_type(self) -> TimestampType {
        if self.log_append_time() {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    /// Whether the batch is part of a transaction.
    pub fn transactional(self) -> bool {
        self.0 & TRANSACTIONAL != 0
    }

    /// Whether the batch holds a record of the log's own, and none of a user's.
    pub fn control(self) -> bool {
        self.0 & CONTROL != 0
    }

    /// Whether the base timestamp is the time from which compaction may remove tombstones.
    pub fn delete_horizon(self) -> bool {
        self.0 & DELETE_HORIZON != 0
    }

    /// The same with the delete horizon.
    pub(super) fn with_delete_horizon(self) -> Self {
        Self(self.0 | DELETE_HORIZON)
    }

    /// What stays of them when no record does: neither a stream nor a horizon.
    pub(super) fn emptied(self) -> Self {
        Self(self.0 & !(CODEC_BITS | DELETE_HORIZON))
    }
}

/// What a batch says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// The offset of its first record (the first it was written with, where compaction removed some).
    pub base_offset: Offset,
    /// The bytes after the length field.
    pub length: i32,
    /// The leader epoch it was appended under.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec and kind.
    pub attributes: Attributes,
    /// The distance from the first offset to the last.
    pub last_offset_delta: i32,
    /// What the records' times are relative to: the first one's time, or the delete horizon where the
    /// attributes say so; -1 in a batch without records.
    pub base_timestamp: Timestamp,
    /// The greatest time of its records, or the time of all of them where the attributes say so.
    pub max_timestamp: Timestamp,
    /// Who wrote it.
    pub producer: ProducerIdentity,
    /// The sequence number of its first record, -1 without one.
    pub base_sequence: i32,
    /// How many records there are: 0 only where compaction removed all.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`; the records need not be there.
    ///
    /// # Errors
    /// [`BatchError::Truncated`] below 61 bytes, [`BatchError::OldFormat`] for magic 0 and 1,
    /// [`BatchError::Magic`] for others but 2, [`BatchError::Length`], and [`BatchError::Count`] or [`BatchError::OffsetDeltas`] for negative counts.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        // The version first: shorter formats of other versions are named as such.
        match bytes.get(16) {
            Some(&magic @ (0 | 1)) => return Err(BatchError::OldFormat(magic as i8)),
            Some(&magic) if magic as i8 != MAGIC => return Err(BatchError::Magic(magic as i8)),
            _ => {}
        }
        let Some((bytes, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(BatchError::Truncated { need: HEADER_LEN, have: bytes.len() });
        };
        let header = Self {
            base_offset: i64::from_be_bytes(field(bytes, 0)),
            length: i32::from_be_bytes(field(bytes, 8)),
            leader_epoch: i32::from_be_bytes(field(bytes, 12)),
            crc: u32::from_be_bytes(field(bytes, 17)),
            attributes: Attributes(i16::from_be_bytes(field(bytes, 21))),
            last_offset_delta: i32::from_be_bytes(field(bytes, 23)),
            base_timestamp: i64::from_be_bytes(field(bytes, 27)),
            max_timestamp: i64::from_be_bytes(field(bytes, 35)),
            producer: ProducerIdentity {
                id: i64::from_be_bytes(field(bytes, 43)),
                epoch: i16::from_be_bytes(field(bytes, 51)),
            },
            base_sequence: i32::from_be_bytes(field(bytes, 53)),
            record_count: i32::from_be_bytes(field(bytes, 57)),
        };
        if header.length < LENGTH_MIN {
            return Err(BatchError::Length { length: header.length });
        }
        if header.record_count < 0 {
            let what = "a count is not negative";
            return Err(BatchError::Count { stored: header.record_count, what });
        }
        if header.last_offset_delta < 0 {
            return Err(header.bad_deltas("it is not negative"));
        }
        Ok(header)
    }

    /// Writes the header, with the sum as it is in `crc`.
    pub(crate) fn write(&self, bytes: &mut [u8; HEADER_LEN]) {
        bytes[0..8].copy_from_slice(&self.base_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.leader_epoch.to_be_bytes());
        bytes[16] = MAGIC as u8;
        bytes[17..21].copy_from_slice(&self.crc.to_be_bytes());
        bytes[21..23].copy_from_slice(&self.attributes.0.to_be_bytes());
        bytes[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        bytes[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        bytes[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        bytes[43..51].copy_from_slice(&self.producer.id.to_be_bytes());
        bytes[51..53].copy_from_slice(&self.producer.epoch.to_be_bytes());
        bytes[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        bytes[57..61].copy_from_slice(&self.record_count.to_be_bytes());
    }

    /// The bytes of the whole batch.
    pub fn size(&self) -> usize {
        // Not negative: parsed headers have at least 49.
        self.length as usize + LENGTH_END
    }

    /// The offset of its last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// One past the offset of its last record.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().saturating_add(1)
    }

    /// The sequence number of its last record, -1 without one. Sequence numbers go from 2147483647
    /// to 0, also within a batch.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        ((i64::from(self.base_sequence) + i64::from(self.last_offset_delta)) & 0x7fff_ffff) as i32
    }

    /// Whether the batch holds a record of the log's own.
    pub fn is_control(&self) -> bool {
        self.attributes.control()
    }

    /// Whether the batch is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes.transactional()
    }

    /// The time from which compaction may remove the batch's tombstones, or its marker (KIP-534).
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        self.attributes.delete_horizon().then_some(self.base_timestamp)
    }

    pub(super) fn bad_deltas(&self, what: &'static str) -> BatchError {
        BatchError::OffsetDeltas {
            last_offset_delta: self.last_offset_delta,
            record_count: self.record_count,
            what,
        }
    }
}

/// Gives a batch its place, in place and without touching its sum.
pub fn stamp(header: &mut [u8; HEADER_LEN], base_offset: Offset, leader_epoch: LeaderEpoch) {
    header[0..8].copy_from_slice(&base_offset.to_be_bytes());
    header[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Gives a batch that was validated the time of its append, or, as Kafka does with a producer that
/// tells another, its true greatest time ([`super::Validated::max_timestamp`]): sets the type and the
/// greatest time, and makes the sum fit without reading the records, which are not needed here.
pub fn stamp_time(header: &mut [u8; HEADER_LEN], kind: TimestampType, max_timestamp: Timestamp) {
    let before = *header;
    let attributes = i16::from_be_bytes(field(header, 21));
    let attributes = match kind {
        TimestampType::CreateTime => attributes & !LOG_APPEND_TIME,
        TimestampType::LogAppendTime => attributes | LOG_APPEND_TIME,
    };
    header[21..23].copy_from_slice(&attributes.to_be_bytes());
    header[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    let rest = i32::from_be_bytes(field(header, 8)).saturating_sub(LENGTH_MIN).max(0);
    let sum = u32::from_be_bytes(field(header, 17));
    let sum = resum(sum, &before[CRC_FROM..], &header[CRC_FROM..], rest as u32);
    header[17..21].copy_from_slice(&sum.to_be_bytes());
}

/// Sums a batch whose other bytes are final. Returns the sum.
pub(super) fn seal(batch: &mut [u8]) -> u32 {
    let crc = crc32c(&batch[CRC_FROM..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    crc
}

#[inline]
fn field<const N: usize>(bytes: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("every field lies within the 61 bytes")
}
