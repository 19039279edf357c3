//! F3 · Walking a segment's batches from end to end: for recovery and compaction, and for those who
//! look at files without a log (verification, repair, backup, statistics).
//!
//! ```text
//!   | batch | batch | batch ..|        a window of the file, at least as large as the batch at hand;
//!             ^ position               what is left of it moves to its front when it is read on
//! ```
//!
//! Always true here: a batch that is given out is whole and its sum was checked; no byte is read twice
//! on a walk that only goes forward; memory is bounded by the window and the largest batch, whose
//! length was compared with the file's before.

use std::io;

use crate::batch::{BatchHeader, BatchRef, HEADER_LEN};
use crate::disk::{DiskFile, read_exact_at};
use crate::ids::Offset;

/// Bytes read at a time: few enough to be summed and looked at before they leave the nearest caches.
const WINDOW: usize = 512 << 10;
/// Bytes read at a time by who looks at headers only.
const NARROW: usize = 4 << 10;

/// Why there is no batch at a position.
pub(super) type Bad = String;

/// A moving piece of a segment's file.
pub(super) struct Walk<'f, F> {
    file: &'f F,
    len: u64,
    window: usize,
    /// Where the piece begins in the file.
    start: u64,
    /// How much of `bytes` was read.
    filled: usize,
    bytes: Vec<u8>,
}

impl<'f, F: DiskFile> Walk<'f, F> {
    /// A walk over the first `len` bytes of a file.
    pub(super) fn new(file: &'f F, len: u64) -> Self {
        Self { file, len, window: WINDOW, start: 0, filled: 0, bytes: Vec::new() }
    }

    /// A walk that looks at headers.
    pub(super) fn over_headers(file: &'f F, len: u64) -> Self {
        Self { window: NARROW, ..Self::new(file, len) }
    }

    /// Reads on until `need` bytes from `position` on are in the window. Whether there are as many.
    fn fill(&mut self, position: u64, need: usize) -> io::Result<bool> {
        let end = self.start + self.filled as u64;
        if position >= self.start && position + need as u64 <= end {
            return Ok(true);
        }
        if position + need as u64 > self.len {
            return Ok(false);
        }
        let want = (need.max(self.window) as u64).min(self.len - position) as usize;
        // What was read already moves to the front.
        let kept = if (self.start..end).contains(&position) {
            let from = (position - self.start) as usize;
            self.bytes.copy_within(from..self.filled, 0);
            self.filled - from
        } else {
            0
        };
        if self.bytes.len() < want {
            self.bytes.resize(want, 0);
        }
        (self.start, self.filled) = (position, kept);
        match read_exact_at(self.file, &mut self.bytes[kept..want], position + kept as u64) {
            Ok(()) => {
                self.filled = want;
                Ok(true)
            }
            // It was cut while it was walked.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The header at `position`; its batch ends within the file.
    pub(super) fn header(&mut self, position: u64) -> io::Result<Result<BatchHeader, Bad>> {
        if !self.fill(position, HEADER_LEN)? {
            let left = self.len.saturating_sub(position);
            return Ok(Err(format!("the file ends inside a batch: {left} bytes of a header")));
        }
        let at = (position - self.start) as usize;
        let bytes = &self.bytes[at..at + HEADER_LEN];
        let header = match BatchHeader::parse(bytes) {
            Ok(header) => header,
            Err(_) if bytes.iter().all(|byte| *byte == 0) => {
                return Ok(Err("zeros where a batch must begin".to_owned()));
            }
            Err(e) => return Ok(Err(e.to_string())),
        };
        let (need, have) = (header.size() as u64, self.len - position);
        if need > have {
            return Ok(Err(format!("the file ends inside a batch: {have} bytes of {need}")));
        }
        Ok(Ok(header))
    }

    /// The whole batch at `position`, its sum checked.
    pub(super) fn batch(&mut self, position: u64) -> io::Result<Result<BatchRef<'_>, Bad>> {
        let header = match self.header(position)? {
            Ok(header) => header,
            Err(bad) => return Ok(Err(bad)),
        };
        if !self.fill(position, header.size())? {
            return Ok(Err("the file ends inside a batch: it was cut meanwhile".to_owned()));
        }
        let at = (position - self.start) as usize;
        let bytes = &self.bytes[at..at + header.size()];
        Ok(BatchRef::parse(bytes).and_then(BatchRef::verified).map_err(|e| e.to_string()))
    }

    /// The next place behind a bad one at `position` where sound batches go on: the first whose offsets
    /// lie in `least..most`. A batch that lies in the value of a record is no such place: another one, or
    /// the end of the file, must follow where it ends.
    pub(super) fn resync(
        &mut self,
        position: u64,
        least: Offset,
        most: Offset,
    ) -> io::Result<Option<u64>> {
        // Where only the content is bad, the length still says where the next one is.
        if let Ok(header) = self.header(position)? {
            let next = position + header.size() as u64;
            if next < self.len && self.goes_on(next, least, most)? {
                return Ok(Some(next));
            }
        }
        let mut at = position + 1;
        while self.fill(at, HEADER_LEN)? {
            let from = (at - self.start) as usize;
            let seen = &self.bytes[from..self.filled];
            let looked_at = (seen.len() - HEADER_LEN) as u64 + 1;
            // Magic 2, and what no batch of a log has: none of these places is looked at closer.
            let place = seen.windows(HEADER_LEN).position(|bytes| {
                bytes[16] == 2
                    && bytes[21] == 0
                    && BatchHeader::parse(bytes).is_ok_and(|header| {
                        header.base_offset >= least
                            && header.next_offset() <= most
                            && header.record_count <= header.last_offset_delta.saturating_add(1)
                    })
            });
            match place {
                Some(place) if self.goes_on(at + place as u64, least, most)? => {
                    return Ok(Some(at + place as u64));
                }
                Some(place) => at += place as u64 + 1,
                None => at += looked_at,
            }
        }
        Ok(None)
    }

    /// Whether a sound batch lies at `position`, and another one, or nothing, behind it.
    fn goes_on(&mut self, position: u64, least: Offset, most: Offset) -> io::Result<bool> {
        let mut place = position;
        let mut least = least;
        for _ in 0..2 {
            if place == self.len {
                return Ok(true);
            }
            let Ok(batch) = self.batch(place)? else { return Ok(false) };
            let header = batch.header;
            if header.base_offset < least || header.next_offset() > most {
                return Ok(false);
            }
            place += header.size() as u64;
            least = header.next_offset();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, stamp};
    use crate::config::Compression;
    use crate::disk::sim::SimDisk;
    use crate::disk::{Disk, Open, write_all_at};
    use crate::ids::ProducerIdentity;

    fn batch(base: Offset, value: &[u8]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Compression::None, 64);
        builder.push(7, None, Some(value), &[]).expect("small");
        let mut bytes =
            builder.finish(ProducerIdentity::NONE, -1, false).expect("a record").to_vec();
        stamp(bytes.first_chunk_mut().expect("a header"), base, 0);
        bytes
    }

    #[test]
    fn a_walk_goes_on_behind_what_is_bad_and_not_within_a_record() {
        // The second record's value is a batch that would fit.
        let inner = batch(1, b"never appended");
        let all = [batch(0, b"a"), batch(1, &inner), batch(2, b"c"), batch(3, b"d")];
        let starts: Vec<u64> = all
            .iter()
            .scan(0, |at, one| Some(std::mem::replace(at, *at + one.len() as u64)))
            .collect();
        let whole = all.concat();
        // The length, the magic, the sum, and a byte of the value of the second batch.
        for byte in [8, 11, 16, 17, 70, 140] {
            let mut bytes = whole.clone();
            bytes[starts[1] as usize + byte] ^= 0x41;
            let disk = SimDisk::new(1);
            let path = std::path::Path::new("/log");
            let file = disk.open(path, Open::CreateNew).expect("created");
            write_all_at(&file, &bytes, 0).expect("written");
            let mut walk = Walk::new(&file, bytes.len() as u64);
            assert!(walk.batch(0).expect("read").is_ok());
            assert!(walk.batch(starts[1]).expect("read").is_err(), "byte {byte}");
            let found = walk.resync(starts[1], 1, 4).expect("read");
            assert_eq!(found, Some(starts[2]), "byte {byte}");
            assert_eq!(walk.resync(starts[3], 4, 9).expect("read"), None);
        }
    }
}
