//! F1 · Reading the records section.
//!
//! ```text
//!  length            varint    bytes after this field
//!  attributes        int8      0
//!  timestampDelta    varlong   to baseTimestamp
//!  offsetDelta       varint    to baseOffset
//!  keyLength         varint    -1 null     key
//!  valueLength       varint    -1 null     value
//!  headerCount       varint    then, each: key length, key, value length or -1, value
//! ```
//!
//! [`Plain`] is a batch whose section is open and was read once from end to end, so that reading it
//! again cannot fail: what a consumer hands out.
//!
//! Always true here: offsets rise from record to record and stay within the batch; a record that was
//! given out is whole, headers included; after an error nothing more is given out. Gaps between
//! offsets are legal: compaction leaves them.

use std::fmt;
use std::iter::FusedIterator;

use bytes::Bytes;

use super::shape::{Shape, usual};
use super::{BatchError, BatchHeader, BatchRef, HEADER_LEN};
use crate::compress::{Codec, DECOMPRESSED_MAX, Decompressor};
use crate::ids::{Offset, Timestamp};
use crate::record::{Headers, RecordRef, read_nullable};
use crate::varint::{read_varint, read_varlong};

/// The bytes of a record that has nothing in it.
const RECORD_LEN_MIN: usize = 7;
/// The most records that are looked at one by one before it is tried whether those behind are alike.
const BETWEEN_MAX: i32 = 64;

/// Where compressed batches are decompressed to. Reused from batch to batch, it stops allocating; it
/// keeps the memory of the largest section it has seen.
pub struct Scratch {
    limit: usize,
    /// As long as the largest section there was; the newest lies at its front.
    section: Vec<u8>,
    decompressor: Decompressor,
}

impl Scratch {
    /// A scratch that refuses sections of more than `limit` bytes; see
    /// [`crate::compress::decompressed_max`].
    pub fn with_limit(limit: usize) -> Self {
        Self { limit, section: Vec::new(), decompressor: Decompressor::default() }
    }

    /// The plain form of a section; refuses more than `limit` bytes where its own limit allows more.
    pub(super) fn open<'s>(
        &'s mut self,
        codec: Codec,
        section: &'s [u8],
        limit: usize,
    ) -> Result<&'s [u8], BatchError> {
        if codec == Codec::None {
            return Ok(section);
        }
        let limit = limit.min(self.limit);
        let length = self.decompressor.decompress(codec, section, limit, &mut self.section)?;
        Ok(&self.section[..length])
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch")
            .field("limit", &self.limit)
            .field("capacity", &self.section.capacity())
            .finish_non_exhaustive()
    }
}

impl Default for Scratch {
    /// A scratch with the limit [`DECOMPRESSED_MAX`].
    fn default() -> Self {
        Self::with_limit(DECOMPRESSED_MAX)
    }
}

/// What rewriting a batch needs of a record beside its parts.
pub(super) struct Raw<'s> {
    pub(super) attributes: u8,
    /// Its bytes behind the time: the offset and what follows.
    pub(super) tail: &'s [u8],
}

/// The records of a batch, one by one. Ends after the first error; `None` without one means that the
/// batch was read to its end and held what its header says.
#[derive(Clone, Debug)]
pub struct Records<'s> {
    rest: &'s [u8],
    from: Offset,
    base_offset: Offset,
    base_timestamp: Timestamp,
    append_time: Option<Timestamp>,
    count: i32,
    read: i32,
    last_offset_delta: i32,
    previous_delta: i32,
}

impl<'s> Records<'s> {
    pub(super) fn new(header: &BatchHeader, section: &'s [u8]) -> Result<Self, BatchError> {
        let count = header.record_count;
        if section.len() / RECORD_LEN_MIN < count as usize {
            return Err(BatchError::Count { stored: count, what: "too few bytes for them follow" });
        }
        Ok(Self {
            rest: section,
            from: Offset::MIN,
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            append_time: header.attributes.log_append_time().then_some(header.max_timestamp),
            count,
            read: 0,
            last_offset_delta: header.last_offset_delta,
            previous_delta: -1,
        })
    }

    /// Leaves out the records before `offset`: a fetch gives whole batches, which may begin earlier
    /// than what was asked for.
    #[must_use]
    pub fn starting_at(mut self, offset: Offset) -> Self {
        self.from = offset;
        self
    }

    /// How many bytes follow the records read so far.
    pub(super) fn bytes_left(&self) -> usize {
        self.rest.len()
    }

    /// The next record, with its bytes.
    #[inline]
    pub(super) fn next_raw(&mut self) -> Option<Result<(RecordRef<'s>, Raw<'s>), BatchError>> {
        if self.read < self.count {
            return match self.read_one() {
                Ok(record) => {
                    self.read += 1;
                    Some(Ok(record))
                }
                Err(what) => self.fail(BatchError::Record { index: self.read, what }),
            };
        }
        if self.rest.is_empty() {
            return None;
        }
        self.fail(BatchError::Count { stored: self.count, what: "more bytes follow them" })
    }

    /// Reads every record, and keeps none: what remains is whether that succeeds.
    ///
    /// # Errors
    /// The one that iterating over them ends with.
    pub(crate) fn check(mut self) -> Result<(), BatchError> {
        loop {
            self.skip_usual();
            match self.next_raw() {
                Some(record) => _ = record?,
                None => return Ok(()),
            }
        }
    }

    /// Passes over usual records, up to the first that must be looked at closely.
    fn skip_usual(&mut self) {
        let mut between = 1;
        while self.skip(between, usual) == between {
            let Some(shape) = Shape::of(self.rest) else { continue };
            let alike = self.skip(i32::MAX, |bytes| shape.fits(bytes));
            between = if alike > 2 { 1 } else { BETWEEN_MAX.min(2 * between) };
        }
    }

    /// Passes over so many records, at most, of which `sound` says the size and the offset, and says how
    /// many those were.
    #[inline]
    fn skip(&mut self, most: i32, sound: impl Fn(&[u8]) -> Option<(usize, i32)>) -> i32 {
        let most = most.min(self.count - self.read);
        let (mut rest, mut previous, mut skipped) = (self.rest, self.previous_delta, 0);
        while skipped < most
            && let Some((size, offset_delta)) = sound(rest)
            && offset_delta > previous
            && offset_delta <= self.last_offset_delta
        {
            previous = offset_delta;
            rest = &rest[size..];
            skipped += 1;
        }
        (self.rest, self.previous_delta) = (rest, previous);
        self.read += skipped;
        skipped
    }

    #[inline]
    fn read_one(&mut self) -> Result<(RecordRef<'s>, Raw<'s>), &'static str> {
        let (length, rest) = read_varint(self.rest).ok_or("its length cannot be read")?;
        let length = usize::try_from(length).map_err(|_| "its length is negative")?;
        let (body, rest) =
            rest.split_at_checked(length).ok_or("it is longer than what is left of the batch")?;
        let (&attributes, body) = body.split_first().ok_or("it is empty")?;
        let (timestamp_delta, tail) = read_varlong(body).ok_or("its time cannot be read")?;
        let (offset_delta, body) = read_varint(tail).ok_or("its offset cannot be read")?;
        let (key, body) = read_nullable(body).ok_or("its key is longer than the record")?;
        let (value, body) = read_nullable(body).ok_or("its value is longer than the record")?;
        let (count, body) = read_varint(body).ok_or("its header count cannot be read")?;
        let count = u32::try_from(count).map_err(|_| "its header count is negative")?;
        let (headers, body) =
            Headers::read(count, body).ok_or("its headers are longer than the record")?;
        if !body.is_empty() {
            return Err("it is longer than what it holds");
        }
        if offset_delta <= self.previous_delta || offset_delta > self.last_offset_delta {
            return Err("its offset is not between the one before and the batch's last");
        }
        self.previous_delta = offset_delta;
        self.rest = rest;
        let record = RecordRef {
            offset: self.base_offset.saturating_add(i64::from(offset_delta)),
            // Wrapping undoes what the writer's wrapping subtraction did, whatever the times were.
            timestamp: self
                .append_time
                .unwrap_or_else(|| self.base_timestamp.wrapping_add(timestamp_delta)),
            key,
            value,
            headers,
        };
        Ok((record, Raw { attributes, tail }))
    }

    fn fail<T>(&mut self, error: BatchError) -> Option<Result<T, BatchError>> {
        self.read = self.count;
        self.rest = &[];
        Some(Err(error))
    }
}

impl<'s> Iterator for Records<'s> {
    type Item = Result<RecordRef<'s>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_raw()? {
                Ok((record, _)) if record.offset < self.from => {}
                Ok((record, _)) => return Some(Ok(record)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // One more than the records: bytes may follow them.
        (0, Some((self.count - self.read) as usize + 1))
    }
}

impl FusedIterator for Records<'_> {}

/// A batch that was summed, opened and read from end to end: its records can be read again, as often as
/// one likes, and no read fails. Shares the bytes it was made of, unless they were compressed.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    header: BatchHeader,
    section: Bytes,
}

impl Plain {
    /// Opens `batch`, which lies in `within`.
    ///
    /// # Errors
    /// [`BatchError::Crc`]; as [`BatchRef::records`] and the records themselves.
    pub(crate) fn open(
        batch: &BatchRef<'_>,
        within: &Bytes,
        scratch: &mut Scratch,
    ) -> Result<Self, BatchError> {
        batch.check_crc()?;
        let section = &batch.bytes[HEADER_LEN..];
        let section = match batch.header.attributes.codec()? {
            _ if section.is_empty() => Bytes::new(),
            Codec::None => within.slice_ref(section),
            codec => {
                let length = scratch.open(codec, section, usize::MAX)?.len();
                let mut section = std::mem::take(&mut scratch.section);
                section.truncate(length);
                Bytes::from(section)
            }
        };
        Records::new(&batch.header, &section)?.check()?;
        Ok(Self { header: batch.header, section })
    }

    /// The records from `offset` on.
    pub(crate) fn starting_at(&self, offset: Offset) -> Records<'_> {
        let records = Records::new(&self.header, &self.section);
        records.expect("the section was read when it was opened").starting_at(offset)
    }

    /// The section, which the parts of its records are slices of.
    pub(crate) fn section(&self) -> &Bytes {
        &self.section
    }
}
