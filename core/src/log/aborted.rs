//! F3 · The aborted-transaction index: which ranges read_committed readers must skip.
//!
//! ```text
//!   <base>.txnindex:  entries of 34 bytes
//!   int16 version 0 | int64 producer id | int64 first offset | int64 marker offset | int64 lso
//! ```
//!
//! Always true here: an entry lives in the segment that holds its ABORT marker; entries are ordered
//! by marker offset; only transactions with data in the partition are entered. The file is a side
//! file: above the recovery point it is rebuilt from the log.

use crate::ids::Offset;
use crate::record::AbortedTransaction;

/// Bytes of one entry.
pub(crate) const ENTRY_LEN: usize = 34;

/// One aborted transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Aborted {
    /// Whose it was.
    pub(crate) producer_id: i64,
    /// The offset of its first record.
    pub(crate) first_offset: Offset,
    /// The offset of its marker.
    pub(crate) last_offset: Offset,
    /// The last stable offset once the marker was appended: the first offset of the oldest transaction
    /// that was still open then, or the one after the marker. Transactions entered later begin there or
    /// above. (Files that this engine wrote earlier have the one *before* the transaction ended, which
    /// is at most this.)
    pub(crate) last_stable: Offset,
}

impl Aborted {
    /// The entry's bytes.
    pub(crate) fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        bytes[2..10].copy_from_slice(&self.producer_id.to_be_bytes());
        bytes[10..18].copy_from_slice(&self.first_offset.to_be_bytes());
        bytes[18..26].copy_from_slice(&self.last_offset.to_be_bytes());
        bytes[26..34].copy_from_slice(&self.last_stable.to_be_bytes());
        bytes
    }

    /// Reads all entries of a file; `None` when it is no such file (wrong size, version or order).
    pub(crate) fn decode_all(file: &[u8], base: Offset) -> Option<Vec<Self>> {
        let (entries, rest) = file.as_chunks::<ENTRY_LEN>();
        if !rest.is_empty() {
            return None;
        }
        let mut all: Vec<Self> = Vec::with_capacity(entries.len());
        for entry in entries {
            let i64_at = |at: usize| -> Option<i64> {
                Some(i64::from_be_bytes(entry.get(at..at + 8)?.try_into().ok()?))
            };
            let one = Self {
                producer_id: i64_at(2)?,
                first_offset: i64_at(10)?,
                last_offset: i64_at(18)?,
                last_stable: i64_at(26)?,
            };
            let ordered = all.last().is_none_or(|last| last.last_offset < one.last_offset);
            if entry[..2] != [0, 0] || one.last_offset < base || !ordered {
                return None;
            }
            all.push(one);
        }
        Some(all)
    }

    /// What a reader is told.
    pub(crate) fn seen(&self) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: self.producer_id,
            first_offset: self.first_offset,
            last_offset: self.last_offset,
        }
    }
}
