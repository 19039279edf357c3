//! A file that is being written: lines gathered in a buffer, counted and summed as they are written.
//!
//! ```text
//!   value + '\n' -> buffer (one copy) -> write_at(len) -> len, CRC32C
//!                                        fails: nothing has moved, the same bytes go to the same place
//! ```
//!
//! Always true here: `written` bytes of the file are summed in `crc`; the buffer holds whole lines; a
//! failed write leaves both as they were, so that trying again heals a full disk.

use std::path::PathBuf;

use crc_fast::{CrcAlgorithm, Digest};
use thalweg_core::disk::{Disk, DiskFile, Open, write_all_at};
use thalweg_core::ids::{Offset, TopicPartition};

use super::failed;
use super::out::Out;
use super::token::{FileToken, final_name, temporary_name};
use crate::error::{Error, Result};

/// An open temporary.
pub(super) struct Temporary<D: Disk> {
    file: D::File,
    path: PathBuf,
    start: Offset,
    nonce: u64,
    buffer: Vec<u8>,
    limit: usize,
    written: u64,
    crc: Digest,
}

impl<D: Disk> Temporary<D> {
    /// Creates the temporary for records of `at` from `start` on. Its name must be new.
    pub(super) fn create(
        disk: &D,
        out: &Out,
        at: &TopicPartition,
        start: Offset,
        nonce: u64,
        limit: usize,
    ) -> Result<Self> {
        let path = out.temporary(&temporary_name(at, start, nonce));
        let file = disk.open(&path, Open::CreateNew).map_err(|e| failed("create", &path, e))?;
        Ok(Self {
            file,
            path,
            start,
            nonce,
            buffer: Vec::with_capacity(limit),
            limit,
            written: 0,
            crc: Digest::new(CrcAlgorithm::Crc32Iscsi),
        })
    }

    /// Adds a line. When this fails the line was not taken.
    pub(super) fn line(&mut self, value: &[u8]) -> Result<()> {
        if !self.buffer.is_empty() && self.buffer.len() + value.len() + 1 > self.limit {
            self.flush()?;
        }
        self.buffer.extend_from_slice(value);
        self.buffer.push(b'\n');
        Ok(())
    }

    /// Bytes of the lines taken.
    pub(super) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Writes the buffer out and makes everything durable: bytes, not the name.
    ///
    /// A failed sync is not tried again: what the medium then holds is unknown, so the file is given
    /// up and written anew from the last commit.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync_data().map_err(|e| Error::Restart {
            what: format!("{}: cannot sync: {e}", self.path.display()),
        })?;
        // Nobody here reads it again: its pages are of more use to others. Only a hint.
        let _ = self.file.drop_cache(0..u64::MAX);
        Ok(())
    }

    /// What finishes this file, once it is synced.
    pub(super) fn token(&self, folder: &str, at: &TopicPartition) -> FileToken {
        debug_assert!(self.buffer.is_empty(), "a token names bytes that were written");
        FileToken {
            name: final_name(folder, at, self.start),
            nonce: self.nonce,
            len: self.written,
            crc: crc32(&self.crc),
        }
    }

    fn flush(&mut self) -> Result<()> {
        write_all_at(&self.file, &self.buffer, self.written)
            .map_err(|e| failed("write", &self.path, e))?;
        self.crc.update(&self.buffer);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        // A single long line must not keep its memory.
        self.buffer.shrink_to(self.limit);
        Ok(())
    }
}

/// The sum so far, as 32 bits.
pub(super) fn crc32(digest: &Digest) -> u32 {
    u32::try_from(digest.finalize()).expect("CRC-32 has 32 bits")
}
