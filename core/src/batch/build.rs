//! F1 · Writing batches.
//!
//! Always true here: a record is copied once, into its place in the batch (and once more, packed, when
//! the batch is compressed); memory is cleared once, when it is new, and never again while it goes
//! round. Nothing is lost by an error: what was pushed before stays pushed.
//!
//! ```text
//!   push   -> [ 61 bytes free | record | record |  old bytes  ]   memory, grown as records come
//!   seal   -> [ header        | record | record ]                 frozen; the builder has none now
//!   reuse  -> [ old bytes                                     ]   the batch again, when nobody holds it
//! ```

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::{Attributes, BatchError, BatchHeader, HEADER_LEN, LENGTH_END, Sealed, header};
use crate::compress::{Codec, Compressor};
use crate::config::Compression;
use crate::error::Result;
use crate::ids::{ProducerIdentity, Timestamp};
use crate::record::Record;
use crate::varint::{
    VARINT_LEN_MAX, VARLONG_LEN_MAX, unsigned_len, varint_len, varlong_len, write_unsigned,
    zigzag32, zigzag64,
};

/// What a record takes at most beside its key, value and headers: attributes, time, and five lengths
/// (its own, the offset, the key's, the value's, the headers' number).
const RECORD_OVERHEAD_MAX: usize = 1 + VARLONG_LEN_MAX + 5 * VARINT_LEN_MAX;

/// The largest batch there is: its length must fit 32 bits.
pub(super) const BATCH_LEN_MAX: usize = i32::MAX as usize;

/// New memory begins with this much at most and doubles: a partition that sees few records does not
/// pay for a whole batch.
const FIRST_LEN: usize = 16 << 10;

/// The most bytes that a record of these parts adds to a batch before compression.
pub fn size_of_record(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(&[u8], Option<&[u8]>)],
) -> usize {
    let parts = nullable_len(key) + nullable_len(value);
    RECORD_OVERHEAD_MAX + parts + headers_len(headers.iter().copied())
}

/// Collects records and makes batches of them, one after the other.
pub struct BatchBuilder {
    codec: Codec,
    compressor: Compressor,
    capacity: usize,
    /// Initialised throughout; the batch is its first `filled` bytes.
    memory: BytesMut,
    filled: usize,
    count: i32,
    base_timestamp: Timestamp,
    min_timestamp: Timestamp,
    max_timestamp: Timestamp,
    /// Whether a record has no key.
    keyless: bool,
}

impl BatchBuilder {
    /// A builder of batches of about `capacity` bytes; they grow beyond it where needed. A codec whose
    /// feature is not enabled fails in [`BatchBuilder::finish`].
    pub fn new(compression: Compression, capacity: usize) -> Self {
        Self {
            codec: compression.into(),
            compressor: Compressor::new(compression.into()),
            capacity: capacity.max(HEADER_LEN),
            memory: BytesMut::new(),
            filled: 0,
            count: 0,
            base_timestamp: -1,
            min_timestamp: -1,
            max_timestamp: -1,
            keyless: false,
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] when the batch would exceed 2 GiB: the record was not added.
    #[inline]
    pub fn push(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<(), BatchError> {
        self.push_within(BATCH_LEN_MAX, timestamp, key, value, headers).map(drop)
    }

    /// Adds a record unless the batch, which has others already, would take more than `limit` bytes with
    /// it (before compression): then it is not added, and the answer is `false`.
    ///
    /// # Errors
    /// As [`BatchBuilder::push`].
    #[inline]
    pub(crate) fn push_within(
        &mut self,
        limit: usize,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<bool, BatchError> {
        self.push_parts(limit, timestamp, key, value, headers.iter().copied())
    }

    /// Adds an owned record; `now` is its time when it has none.
    ///
    /// # Errors
    /// As [`BatchBuilder::push`].
    #[inline]
    pub fn push_record(&mut self, now: Timestamp, record: &Record) -> Result<(), BatchError> {
        self.push_record_within(BATCH_LEN_MAX, now, record).map(drop)
    }

    /// As [`BatchBuilder::push_within`], an owned record; `now` is its time when it has none.
    ///
    /// # Errors
    /// As [`BatchBuilder::push`].
    #[inline]
    pub(crate) fn push_record_within(
        &mut self,
        limit: usize,
        now: Timestamp,
        record: &Record,
    ) -> Result<bool, BatchError> {
        let headers = record.headers.iter().map(|h| (h.key.as_bytes(), h.value.as_deref()));
        let timestamp = record.timestamp.unwrap_or(now);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        self.push_parts(limit, timestamp, key, value, headers)
    }

    /// Adds records from the front of `records` that are values and nothing else, as long as the batch,
    /// which has some already, stays below `upto` bytes with another one like them. Returns how many.
    #[inline]
    pub(crate) fn push_values(&mut self, now: Timestamp, records: &[Record], upto: usize) -> usize {
        for (count, record) in records.iter().enumerate() {
            let value = record.value.as_deref();
            let bare = record.key.is_none() && record.headers.is_empty();
            let size = value.map_or(0, <[u8]>::len).saturating_add(RECORD_OVERHEAD_MAX);
            if !bare || size.saturating_mul(2) > upto.saturating_sub(self.bytes()) {
                return count;
            }
            let timestamp = record.timestamp.unwrap_or(now);
            let none = std::iter::empty();
            if self.push_parts(BATCH_LEN_MAX, timestamp, None, value, none).is_err() {
                return count;
            }
        }
        records.len()
    }

    #[inline]
    fn push_parts<'h>(
        &mut self,
        limit: usize,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = (&'h [u8], Option<&'h [u8]>)> + Clone,
    ) -> Result<bool, BatchError> {
        let (key_len, value_len) = (nullable_len(key), nullable_len(value));
        let headers_len = if headers.len() == 0 { 0 } else { headers_len(headers.clone()) };
        // Checked on the sum of the parts before any length is narrowed to 32 bits. Sums of lengths of
        // slices that are all in memory do not overflow.
        let parts = key_len + value_len + headers_len;
        let size = self.bytes() + parts + RECORD_OVERHEAD_MAX;
        let begins = self.count == 0;
        if size > BATCH_LEN_MAX {
            // It may fit alone, where the caller can begin another batch.
            return match !begins && limit < BATCH_LEN_MAX {
                true => Ok(false),
                false => Err(BatchError::TooLarge { size, limit: BATCH_LEN_MAX }),
            };
        }
        let base_timestamp = if begins { timestamp } else { self.base_timestamp };
        let filled = if begins { HEADER_LEN } else { self.filled };
        let timestamp_delta = timestamp.wrapping_sub(base_timestamp);
        let header_count = headers.len() as i32;
        let length = 1
            + varlong_len(timestamp_delta)
            + varint_len(self.count)
            + varint_len(length_field(key))
            + key_len
            + varint_len(length_field(value))
            + value_len
            + varint_len(header_count)
            + headers_len;
        // The record's place, filled by copies into slices of known length.
        let place = filled..filled + varint_len(length as i32) + length;
        if place.end > limit && !begins {
            return Ok(false);
        }
        if begins {
            self.base_timestamp = timestamp;
            self.min_timestamp = timestamp;
            self.max_timestamp = timestamp;
            self.keyless = false;
        }
        if size > self.memory.len() {
            self.grow(size);
        }
        self.filled = place.end;
        let mut out = Cursor { bytes: &mut self.memory[place], at: 0 };
        out.varint(length as i32);
        // The record's attributes.
        out.unsigned(0);
        out.unsigned(zigzag64(timestamp_delta));
        out.varint(self.count);
        out.nullable(key);
        out.nullable(value);
        out.varint(header_count);
        for (key, value) in headers {
            out.nullable(Some(key));
            out.nullable(value);
        }
        debug_assert_eq!(out.at, out.bytes.len());
        self.count += 1;
        self.min_timestamp = self.min_timestamp.min(timestamp);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.keyless |= key.is_none();
        Ok(true)
    }

    /// Makes room for a batch of `size` bytes.
    #[cold]
    fn grow(&mut self, size: usize) {
        // What comes after a whole batch is the rest of its last record, mostly: a little room for it,
        // since it is cleared for every batch.
        let whole = self.capacity.saturating_add(self.capacity / 16);
        let now = self.memory.len();
        let len = if now < whole { whole.min(FIRST_LEN.max(2 * now)) } else { now + now / 4 };
        let len = len.max(size);
        if self.memory.is_empty() {
            // Zeroed by the system where it can be.
            self.memory = BytesMut::zeroed(len);
        } else {
            self.memory.resize(len, 0);
        }
    }

    /// Takes the memory of an earlier batch back, to build the next one in, when nobody else holds it
    /// and this builder has none.
    pub fn reuse(&mut self, batch: Bytes) {
        if self.wants_memory()
            && let Ok(memory) = batch.try_into_mut()
        {
            self.give(memory);
        }
    }

    /// Whether [`BatchBuilder::give`] is of use: no batch is begun, and there is no memory for one.
    #[inline]
    pub(crate) fn wants_memory(&self) -> bool {
        self.memory.is_empty()
    }

    /// Memory to build the next batch in.
    pub(crate) fn give(&mut self, memory: BytesMut) {
        debug_assert_eq!(self.count, 0, "a batch that was begun has its memory");
        self.memory = memory;
    }

    /// How many records were pushed since the last batch.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Whether no record was.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes of the batch so far, header included, before compression.
    pub fn bytes(&self) -> usize {
        if self.count == 0 { HEADER_LEN } else { self.filled }
    }

    /// As [`BatchBuilder::seal`], the bytes alone: a log that is given them checks them as anybody's.
    ///
    /// # Errors
    /// As [`BatchBuilder::seal`].
    pub fn finish(
        &mut self,
        producer: ProducerIdentity,
        base_sequence: i32,
        transactional: bool,
    ) -> Result<Bytes> {
        self.seal(producer, base_sequence, transactional).map(Sealed::into_bytes)
    }

    /// Makes a batch of what was pushed and begins anew. `base_sequence` is -1 for a producer without
    /// an id. Base offset 0 and leader epoch -1 wait for [`super::stamp`].
    ///
    /// # Errors
    /// `Invalid` when nothing was pushed, or the codec is missing or fails; nothing is lost then.
    pub fn seal(
        &mut self,
        producer: ProducerIdentity,
        base_sequence: i32,
        transactional: bool,
    ) -> Result<Sealed> {
        if self.count == 0 {
            return Err(BatchError::Count { stored: 0, what: "a batch has at least one" }.into());
        }
        self.codec.check_supported().map_err(BatchError::from)?;
        let mut batch = if self.codec == Codec::None {
            self.memory.truncate(self.filled);
            std::mem::take(&mut self.memory)
        } else {
            let section = &self.memory[HEADER_LEN..self.filled];
            let packed = self.compressor.compress(section).map_err(BatchError::from)?;
            let mut batch = BytesMut::with_capacity(HEADER_LEN + packed.len());
            batch.extend_from_slice(&[0; HEADER_LEN]);
            batch.extend_from_slice(packed);
            batch
        };
        let mut header = BatchHeader {
            base_offset: 0,
            length: (batch.len() - LENGTH_END) as i32,
            leader_epoch: -1,
            crc: 0,
            attributes: Attributes::of(self.codec, transactional),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer,
            base_sequence,
            record_count: self.count,
        };
        header
            .write(batch.first_chunk_mut().expect("room for the header comes before the records"));
        header.crc = header::seal(&mut batch);
        self.count = 0;
        Ok(Sealed::new(batch.freeze(), header, self.min_timestamp, self.keyless))
    }
}

impl fmt::Debug for BatchBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchBuilder")
            .field("codec", &self.codec)
            .field("count", &self.count)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// The length field of a part; -1 is null.
#[inline]
fn length_field(part: Option<&[u8]>) -> i32 {
    part.map_or(-1, |part| part.len() as i32)
}

#[inline]
fn nullable_len(part: Option<&[u8]>) -> usize {
    part.map_or(0, <[u8]>::len)
}

/// The bytes of headers, without their count.
fn headers_len<'h>(headers: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>) -> usize {
    let one = |(key, value): (&[u8], Option<&[u8]>)| {
        let value_field = u64::from(zigzag32(length_field(value)));
        unsigned_len(key.len() as u64 * 2)
            + key.len()
            + unsigned_len(value_field)
            + nullable_len(value)
    };
    headers.map(one).sum()
}

/// Fills the place of one record, from its front; its length was computed before.
struct Cursor<'b> {
    bytes: &'b mut [u8],
    at: usize,
}

impl Cursor<'_> {
    #[inline]
    fn unsigned(&mut self, value: u64) {
        self.at += write_unsigned(&mut self.bytes[self.at..], value);
    }

    #[inline]
    fn varint(&mut self, value: i32) {
        self.unsigned(u64::from(zigzag32(value)));
    }

    /// A part with its length before it.
    #[inline]
    fn nullable(&mut self, part: Option<&[u8]>) {
        self.varint(length_field(part));
        if let Some(part) = part {
            self.bytes[self.at..self.at + part.len()].copy_from_slice(part);
            self.at += part.len();
        }
    }
}
