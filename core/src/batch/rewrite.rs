//! F1 · Writing a batch again without some of its records: what compaction does to each batch.
//!
//! ```text
//!   before   base 100, last 103, base time 50   | 100 a +0 | 101 b +7 | 102 a +9 | 103 - +9 |
//!   kept                                                     101 b                103 c=null
//!   after    base 100, last 103, base time 57   | 101 b +0 | 103 - +2 |
//!   with a
//!   horizon  base 100, last 103, base time 900  | 101 b -843 | 103 - -841 |     attribute bit 6
//! ```
//!
//! Always true here: the sum of the old batch is checked before a new one is made, so that damage is
//! never blessed; first and last offset, producer, epoch, first sequence number, leader epoch, codec
//! and kind stay, so that neither offsets nor duplicates are judged differently afterwards; the greatest
//! time becomes that of the records left (with LogAppendTime it stays). A batch of which all is kept is
//! copied as it is. Nothing is allocated per record.
//!
//! Source: Kafka's `MemoryRecords.filterTo`, KIP-534 (delete horizon).

use std::fmt;

use super::build::BATCH_LEN_MAX;
use super::header::seal;
use super::{BatchError, BatchHeader, BatchRef, HEADER_LEN, LENGTH_END, Records, Scratch};
use crate::compress::{Codec, Compressor};
use crate::ids::Timestamp;
use crate::record::RecordRef;
use crate::varint::{put_varint, put_varlong, varlong_len};

/// What compaction asks of one batch, beside which records to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rewrite {
    /// The time from which tombstones may be removed, in milliseconds since 1970: now +
    /// `delete.retention.ms`. A batch that keeps a tombstone gets it, unless it has one from an
    /// earlier cleaning. `None`: no batch gets one.
    pub delete_horizon: Option<Timestamp>,
    /// Whether the batch is the marker of a transaction of which no data is left: it gets the horizon
    /// as well, and may be removed from then on.
    pub marker_is_done: bool,
    /// Whether a batch of which no record is left stays, without records: the last one of a producer,
    /// and the last one of a cleaning.
    pub keep_empty: bool,
}

/// What became of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rewritten {
    /// It was copied as it is.
    Unchanged,
    /// It was written again.
    Changed {
        /// How many records are left.
        records: i32,
        /// Their greatest time.
        max_timestamp: Timestamp,
    },
    /// It was written without records.
    Emptied,
    /// Nothing was written.
    Dropped,
}

/// A record that stays: where it lies in the plain section.
struct Kept {
    timestamp: Timestamp,
    attributes: u8,
    start: usize,
    /// Where its time ends.
    tail: usize,
    end: usize,
}

/// Rewrites batches; keeps its buffers and the codecs' tables from one to the next.
#[derive(Default)]
pub struct Rewriter {
    scratch: Scratch,
    kept: Vec<Kept>,
    plain: Vec<u8>,
    /// The codec of the batches before, and its tables.
    compressor: Option<(Codec, Compressor)>,
}

impl Rewriter {
    /// A rewriter that refuses sections of more than `limit` bytes; see
    /// [`crate::compress::decompressed_max`].
    pub fn with_limit(limit: usize) -> Self {
        Self { scratch: Scratch::with_limit(limit), ..Self::default() }
    }

    /// Appends to `out` what is left of a batch: the records for which `keep` says so. Asks once for
    /// each record, in order. After an error `out` is as it was.
    ///
    /// # Errors
    /// [`BatchError::Crc`]; as [`BatchRef::records`] and the records themselves;
    /// [`BatchError::TooLarge`] when times relative to a horizon would make it exceed 2 GiB.
    pub fn rewrite(
        &mut self,
        batch: &BatchRef<'_>,
        how: Rewrite,
        mut keep: impl FnMut(&RecordRef<'_>) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<Rewritten, BatchError> {
        batch.check_crc()?;
        let header = &batch.header;
        let section = batch.section(usize::MAX, &mut self.scratch)?;
        let mut records = Records::new(header, section)?;
        self.kept.clear();
        let mut tombstones = false;
        let mut start = 0;
        let mut max_timestamp = Timestamp::MIN;
        while let Some(next) = records.next_raw() {
            let (record, raw) = next?;
            let end = section.len() - records.bytes_left();
            if keep(&record) {
                tombstones |= record.value.is_none();
                max_timestamp = max_timestamp.max(record.timestamp);
                self.kept.push(Kept {
                    timestamp: record.timestamp,
                    attributes: raw.attributes,
                    start,
                    tail: end - raw.tail.len(),
                    end,
                });
            }
            start = end;
        }

        if self.kept.is_empty() {
            return Ok(if how.keep_empty {
                write_empty(header, out);
                Rewritten::Emptied
            } else {
                Rewritten::Dropped
            });
        }
        let asked = how.delete_horizon.filter(|_| tombstones || how.marker_is_done);
        let new_horizon = asked.filter(|_| header.delete_horizon().is_none());
        if self.kept.len() == header.record_count as usize && new_horizon.is_none() {
            out.extend_from_slice(batch.bytes);
            return Ok(Rewritten::Unchanged);
        }
        let append_time = header.attributes.log_append_time();
        let horizon = new_horizon.or(header.delete_horizon());
        let base_timestamp = horizon.unwrap_or(self.kept[0].timestamp);
        let mut attributes = header.attributes;
        if new_horizon.is_some() {
            attributes = attributes.with_delete_horizon();
        }
        let new = BatchHeader {
            attributes,
            base_timestamp,
            max_timestamp: if append_time { header.max_timestamp } else { max_timestamp },
            record_count: self.kept.len() as i32,
            ..*header
        };
        // With times of the append, what the producer wrote is of no use any more, and Kafka writes that.
        let same_times = !append_time && base_timestamp == header.base_timestamp;

        let codec = attributes.codec()?;
        let from = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        if codec == Codec::None {
            write_records(section, &self.kept, base_timestamp, same_times, out);
        } else {
            self.plain.clear();
            write_records(section, &self.kept, base_timestamp, same_times, &mut self.plain);
            let compressor = compressor_of(&mut self.compressor, codec);
            match compressor.compress(&self.plain) {
                Ok(packed) => out.extend_from_slice(packed),
                Err(error) => {
                    out.truncate(from);
                    return Err(error.into());
                }
            }
        }
        let size = out.len() - from;
        if size > BATCH_LEN_MAX {
            out.truncate(from);
            return Err(BatchError::TooLarge { size, limit: BATCH_LEN_MAX });
        }
        write_header(new, from, out);
        Ok(Rewritten::Changed { records: new.record_count, max_timestamp: new.max_timestamp })
    }
}

impl fmt::Debug for Rewriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rewriter").field("scratch", &self.scratch).finish_non_exhaustive()
    }
}

/// The tables of a codec; those of another are let go of, since a log mostly has one.
fn compressor_of(slot: &mut Option<(Codec, Compressor)>, codec: Codec) -> &mut Compressor {
    if slot.as_ref().is_none_or(|(there, _)| *there != codec) {
        *slot = None;
    }
    &mut slot.get_or_insert_with(|| (codec, Compressor::new(codec))).1
}

/// Writes the records that stay.
fn write_records(
    section: &[u8],
    kept: &[Kept],
    base_timestamp: Timestamp,
    same_times: bool,
    out: &mut Vec<u8>,
) {
    if same_times {
        // Neighbours in one copy.
        for run in kept.chunk_by(|a, b| a.end == b.start) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                out.extend_from_slice(&section[first.start..last.end]);
            }
        }
        return;
    }
    for record in kept {
        let tail = &section[record.tail..record.end];
        let timestamp_delta = record.timestamp.wrapping_sub(base_timestamp);
        // Within 32 bits: a record that was read, with a time of at most ten bytes.
        let length = 1 + varlong_len(timestamp_delta) + tail.len();
        put_varint(out, length as i32);
        out.push(record.attributes);
        put_varlong(out, timestamp_delta);
        out.extend_from_slice(tail);
    }
}

/// Writes what stays of a batch without records.
fn write_empty(header: &BatchHeader, out: &mut Vec<u8>) {
    let from = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    let attributes = header.attributes.emptied();
    write_header(
        BatchHeader { attributes, base_timestamp: -1, record_count: 0, ..*header },
        from,
        out,
    );
}

/// Writes the header of the batch that begins at `from` and ends with `out`, and sums it.
fn write_header(header: BatchHeader, from: usize, out: &mut [u8]) {
    let batch = &mut out[from..];
    let header = BatchHeader { length: (batch.len() - LENGTH_END) as i32, ..header };
    header.write(batch.first_chunk_mut().expect("room for the header comes before the records"));
    seal(batch);
}
