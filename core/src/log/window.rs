//! F3 · A moving piece of a file, large enough for the batch at hand: how recovery and compaction read
//! a segment from one end to the other.
//!
//! Always true here: a batch is given out whole, with its sum checked, or not at all; no more than a
//! megabyte, or one batch, is in memory.

use std::io;

use crate::batch::{BatchHeader, BatchRef, HEADER_LEN};
use crate::disk::{DiskFile, read_exact_at};

const CHUNK: usize = 1 << 20;

/// The piece.
pub(super) struct Window<'f, F> {
    file: &'f F,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'f, F: DiskFile> Window<'f, F> {
    /// Of a file of `len` bytes.
    pub(super) fn new(file: &'f F, len: u64) -> Self {
        Self { file, len, start: 0, bytes: Vec::new() }
    }

    fn fill(&mut self, position: u64, need: usize) -> io::Result<bool> {
        let inside = position >= self.start
            && position + need as u64 <= self.start + self.bytes.len() as u64;
        if inside {
            return Ok(true);
        }
        if position + need as u64 > self.len {
            return Ok(false);
        }
        let want = (need.max(CHUNK) as u64).min(self.len - position) as usize;
        self.bytes.resize(want, 0);
        self.start = position;
        match read_exact_at(self.file, &mut self.bytes, position) {
            Ok(()) => Ok(true),
            // The medium holds less than the name promised: the tail is torn.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                self.bytes.clear();
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// The whole, checked batch at `position`, or what is wrong with it.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn batch_at(&mut self, position: u64) -> io::Result<Result<BatchRef<'_>, String>> {
        let short = || Ok(Err("the file ends inside a batch".to_owned()));
        if !self.fill(position, HEADER_LEN)? {
            return short();
        }
        let at = (position - self.start) as usize;
        let header = match BatchHeader::parse(&self.bytes[at..at + HEADER_LEN]) {
            Ok(header) => header,
            Err(e) => return Ok(Err(e.to_string())),
        };
        if !self.fill(position, header.size())? {
            return short();
        }
        let at = (position - self.start) as usize;
        let checked = BatchRef::parse(&self.bytes[at..]).and_then(|batch| {
            batch.check_crc()?;
            Ok(batch)
        });
        Ok(checked.map_err(|e| e.to_string()))
    }
}
