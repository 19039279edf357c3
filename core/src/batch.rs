//! F1 · The record batch, version 2: the unit that is appended, stored and fetched. Kafka's bytes.
//!
//! ```text
//!  off  len  field                                         covered by the CRC
//!    0    8  baseOffset             given by the log          no
//!    8    4  length                 bytes after this field    no
//!   12    4  partitionLeaderEpoch   given by the log          no
//!   16    1  magic = 2                                        no
//!   17    4  crc                    CRC-32C of [21 .. end)    -
//!   21    2  attributes             codec, time type, ...     yes
//!   23    4  lastOffsetDelta                                  yes
//!   27    8  baseTimestamp          of the first record, or   yes
//!                                   the delete horizon
//!   35    8  maxTimestamp                                     yes
//!   43    8  producerId             -1 none                   yes
//!   51    2  producerEpoch          -1 none                   yes
//!   53    4  baseSequence           -1 none                   yes
//!   57    4  recordCount                                      yes
//!   61    .  records                one compressed stream if a codec is set
//! ```
//!
//! Always true here: the place that the log gives a batch lies before the CRC's range, so that [`stamp`]
//! never touches the sum; every length is checked against the bytes that are there before it is used;
//! no bytes from outside make anything panic. A [`BatchRef`] is a whole batch with a sane header; its
//! sum holds only after [`BatchRef::check_crc`], or when [`Visible`] gave it out.
//!
//! Source: Kafka's `DefaultRecordBatch`, KIP-98; docs/FORMAT.md.
//!
//! ```
//! use thalweg_core::batch::{BatchBuilder, BatchRef, Scratch};
//! use thalweg_core::config::Compression;
//! use thalweg_core::ids::ProducerIdentity;
//!
//! let mut builder = BatchBuilder::new(Compression::None, 16 << 10);
//! builder.push(1_700_000_000_000, Some(b"key"), Some(b"value"), &[])?;
//! let bytes = builder.finish(ProducerIdentity::NONE, -1, false)?;
//!
//! let batch = BatchRef::parse(&bytes)?;
//! batch.check_crc()?;
//! let mut scratch = Scratch::default();
//! for record in batch.records(&mut scratch)? {
//!     assert_eq!(record?.value, Some(&b"value"[..]));
//! }
//! # Ok::<(), thalweg_core::Error>(())
//! ```

mod build;
mod control;
mod header;
mod records;
mod rewrite;
mod sealed;
mod shape;
mod sum;
mod validate;
mod visible;

use std::iter::FusedIterator;

use crate::compress::CompressionError;
use crate::error::Error;
use crate::ids::{Offset, Timestamp};

pub use build::{BatchBuilder, size_of_record};
pub use control::{Marker, control_batch, parse_marker};
pub use header::{Attributes, BatchHeader, stamp, stamp_time};
pub(crate) use records::Plain;
pub use records::{Records, Scratch};
pub use rewrite::{Rewrite, Rewriter, Rewritten};
pub use sealed::Sealed;
pub use sum::crc32c;
pub use validate::{Accept, Validated, validate_deep, validate_shallow};
pub use visible::Visible;

/// The bytes before the records of a batch.
pub const HEADER_LEN: usize = 61;

/// The bytes up to and with the length field.
pub(crate) const LENGTH_END: usize = 12;

/// Where the bytes that the CRC covers begin.
const CRC_FROM: usize = 21;

/// Why bytes are not a legal batch.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchError {
    /// The bytes end within the batch.
    #[error("the batch is cut off: {have} bytes of {need}")]
    Truncated {
        /// How many bytes the batch, or its header, takes.
        need: usize,
        /// How many there are.
        have: usize,
    },
    /// A message set of the formats before version 2. Kafka's `UNSUPPORTED_FOR_MESSAGE_FORMAT`.
    #[error(
        "message format (magic) {0}, which Kafka wrote before 0.11: only version 2 can be read; have a newer client or Kafka's own tools write it again"
    )]
    OldFormat(i8),
    /// No batch at all.
    #[error("magic {0}, which no version of the format has: no batch begins here")]
    Magic(i8),
    /// A length that no batch has.
    #[error("batch length {length}: at least 49 bytes follow the length of every batch")]
    Length {
        /// The length field.
        length: i32,
    },
    /// The sum does not agree with the bytes.
    #[error("CRC-32C is {computed:08x}, the batch says {stored:08x}: its bytes were changed")]
    Crc {
        /// The sum in the batch.
        stored: u32,
        /// The sum of its bytes.
        computed: u32,
    },
    /// The number of records makes no sense, or is not the number there are.
    #[error("the batch says it has {stored} records, but {what}")]
    Count {
        /// The count in the header.
        stored: i32,
        /// What contradicts it.
        what: &'static str,
    },
    /// Offsets of records that make no sense.
    #[error("last offset delta {last_offset_delta} of a batch of {record_count} records: {what}")]
    OffsetDeltas {
        /// The distance from the first offset to the last.
        last_offset_delta: i32,
        /// The count in the header.
        record_count: i32,
        /// What is wrong.
        what: &'static str,
    },
    /// A record that cannot be read.
    #[error("record {index} of the batch: {what}")]
    Record {
        /// Its number in the batch, from 0.
        index: i32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A records section that cannot be decompressed or compressed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// A batch, or a record, larger than allowed.
    #[error(
        "the batch takes {size} bytes, {limit} are allowed: send fewer records, or raise max.message.bytes"
    )]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Something follows where one batch was asked for.
    #[error("{extra} bytes follow the batch: append one batch at a time")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// Attributes that only the log itself gives.
    #[error("{0}")]
    Attributes(&'static str),
    /// A time that the topic does not take. Kafka's `INVALID_TIMESTAMP`.
    #[error(
        "record {index} of the batch is of time {timestamp}: {earliest} to {latest} are accepted"
    )]
    Time {
        /// The record's number in the batch, from 0.
        index: i32,
        /// Its time.
        timestamp: Timestamp,
        /// The earliest time accepted.
        earliest: Timestamp,
        /// The latest.
        latest: Timestamp,
    },
    /// A greatest time that is not that of any record.
    #[error("the batch says that its greatest time is {stored}, it is {found}")]
    MaxTimestamp {
        /// What the header says.
        stored: Timestamp,
        /// The greatest time of the records.
        found: Timestamp,
    },
    /// A batch that does not come after the one before it.
    #[error("the batch begins at offset {base_offset}, the one before it ends at {previous}")]
    Order {
        /// Where it begins.
        base_offset: Offset,
        /// The last offset of the one before.
        previous: Offset,
    },
    /// A producer, epoch and sequence that do not belong together.
    #[error("producer {id}, epoch {epoch}, sequence {base_sequence}: {what}")]
    Producer {
        /// The producer id.
        id: i64,
        /// Its epoch.
        epoch: i16,
        /// The first sequence number.
        base_sequence: i32,
        /// What is wrong.
        what: &'static str,
    },
}

impl From<BatchError> for Error {
    fn from(error: BatchError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// A whole batch in a slice, not yet decoded.
#[derive(Clone, Copy, Debug)]
pub struct BatchRef<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// Its bytes, header included.
    pub bytes: &'a [u8],
    /// Whether the sum of these bytes was checked.
    checked: bool,
}

impl PartialEq for BatchRef<'_> {
    /// The same bytes; what was checked about them does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for BatchRef<'_> {}

impl<'a> BatchRef<'a> {
    /// Takes the first whole batch of `bytes`. The sum is not checked.
    ///
    /// # Errors
    /// [`BatchError::Truncated`] when it is not whole; as [`BatchHeader::parse`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        match bytes.get(..header.size()) {
            Some(bytes) => Ok(Self { header, bytes, checked: false }),
            None => Err(BatchError::Truncated { need: header.size(), have: bytes.len() }),
        }
    }

    /// The same batch, its sum checked.
    ///
    /// # Errors
    /// [`BatchError::Crc`].
    pub fn verified(self) -> Result<Self, BatchError> {
        self.check_crc()?;
        Ok(Self { checked: true, ..self })
    }

    /// Checks the sum, unless the batch comes from [`BatchRef::verified`] or from [`Visible`]: no batch
    /// is summed twice on its way to a reader.
    ///
    /// # Errors
    /// [`BatchError::Crc`].
    pub fn check_crc(&self) -> Result<(), BatchError> {
        if self.checked {
            return Ok(());
        }
        let computed = crc32c(&self.bytes[CRC_FROM..]);
        if computed == self.header.crc {
            Ok(())
        } else {
            Err(BatchError::Crc { stored: self.header.crc, computed })
        }
    }

    /// The records, read one by one. They borrow from the batch, or from `scratch` when the batch is
    /// compressed.
    ///
    /// # Errors
    /// [`BatchError::Compression`] when the section cannot be opened, or holds more than the scratch
    /// allows; [`BatchError::Count`] when the section is too short for its records.
    pub fn records<'s>(&self, scratch: &'s mut Scratch) -> Result<Records<'s>, BatchError>
    where
        'a: 's,
    {
        Records::new(&self.header, self.section(usize::MAX, scratch)?)
    }

    /// As [`BatchRef::records`], of a section of at most `limit` bytes.
    fn records_within<'s>(
        &self,
        limit: usize,
        scratch: &'s mut Scratch,
    ) -> Result<Records<'s>, BatchError>
    where
        'a: 's,
    {
        Records::new(&self.header, self.section(limit, scratch)?)
    }

    /// The records section, decompressed.
    fn section<'s>(&self, limit: usize, scratch: &'s mut Scratch) -> Result<&'s [u8], BatchError>
    where
        'a: 's,
    {
        let codec = self.header.attributes.codec()?;
        let section = &self.bytes[HEADER_LEN..];
        // Compaction leaves batches without records, and without a stream for them.
        if section.is_empty() { Ok(section) } else { scratch.open(codec, section, limit) }
    }
}

/// The batches of a slice that holds several, one after the other. Ends after the first error.
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { rest: bytes }
}

/// Iterates over whole batches; made by [`batches`].
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = BatchRef::parse(self.rest);
        self.rest = match &batch {
            Ok(batch) => &self.rest[batch.bytes.len()..],
            Err(_) => &[],
        };
        Some(batch)
    }
}

impl FusedIterator for Batches<'_> {}
