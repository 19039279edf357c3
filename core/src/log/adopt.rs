//! F3 · Folders that another program wrote: told of in our own side files, so that they open as ours.
//!
//! ```text
//!   adopt   flushed-offset    where the log begins, how far it was synced      every *.sidecar away
//!   settle  <end>.sidecar     for every segment: offsets may be missing in it
//!           <end>.log         an empty segment: no foreign one is appended to
//! ```
//!
//! Always true here: nothing of a foreign side file is believed that its own program would rebuild; what
//! an earlier take-over of ours left beside the batches is not believed either, because the other program
//! wrote on.

use std::path::Path;

use super::hint::{Hint, SLOT_LEN};
use super::recover::SIDE_FILE_LIMIT;
use super::segment::{SIDECAR, path_of};
use super::sums::{Compacted, Sums};
use super::{HINT_FILE, PartitionLog, write_file};
use crate::disk::{Disk, DiskFile, Open, read_file, write_all_at};
use crate::error::{Error, Result};
use crate::ids::Offset;

/// Notes of a foreign folder that its log begins at `start` and was synced up to `synced`.
///
/// # Errors
/// `Io`.
pub(crate) fn adopt<D: Disk>(disk: &D, dir: &Path, start: Offset, synced: Offset) -> Result<()> {
    let mut bases = Vec::new();
    for entry in disk.list(dir).map_err(|e| Error::io("list", dir, e))? {
        let name = entry.name.to_string_lossy();
        let Some((stem, suffix)) = name.split_once('.') else { continue };
        let number = stem.len() == 20 && stem.bytes().all(|b| b.is_ascii_digit());
        match (suffix, stem.parse::<Offset>()) {
            ("log", Ok(base)) if number => bases.push(base),
            (SIDECAR, Ok(_)) if number => {
                let path = dir.join(&entry.name);
                disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
            }
            _ => {}
        }
    }
    bases.sort_unstable();
    // The checkpoint of the start is a minute behind the deletion of segments.
    let log_start = bases.first().map_or(start, |&first| start.max(first));
    let synced = if bases.is_empty() { log_start } else { synced.max(log_start) };
    let below = bases.iter().rev().find(|&&base| base <= synced);
    let hint = Hint {
        turn: 0,
        log_start,
        recovery_point: synced,
        durable_end: synced,
        recovery_base: below.or(bases.first()).copied().unwrap_or(synced),
        recovery_position: 0,
    };
    let path = dir.join(HINT_FILE);
    let write = || {
        let file = disk.open(&path, Open::Create)?;
        file.set_len(0)?;
        write_all_at(&file, &hint.encode(), hint.position())?;
        file.set_len(2 * SLOT_LEN)
    };
    write().map_err(|e| Error::io("write", &path, e))
}

impl<D: Disk> PartitionLog<D> {
    /// Writes down of a foreign log what a log of ours says of itself, and closes it: its batches are
    /// not written to from now on.
    ///
    /// # Errors
    /// As [`PartitionLog::close`].
    pub(crate) fn settle_foreign(&mut self) -> Result<()> {
        if self.active.size() > 0 {
            self.roll(self.end())?;
        }
        let segments = self.view.segments.load_full();
        for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
            let path = path_of(&self.dir, next.base, SIDECAR);
            let known = read_file(&self.disk, &path, 4096).ok();
            if known.and_then(|bytes| Sums::decode(&bytes)).is_some_and(|s| s.base == segment.base)
            {
                continue;
            }
            let side = |suffix: &str| -> Result<Vec<u8>> {
                let path = path_of(&self.dir, segment.base, suffix);
                match read_file(&self.disk, &path, SIDE_FILE_LIMIT) {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
                    read => read.map_err(|e| Error::io("read", &path, e)),
                }
            };
            let (offsets, times, aborted) = (side("index")?, side("timeindex")?, side("txnindex")?);
            let sides = [&offsets[..], &times[..], &aborted[..]];
            let sums = Sums::of(segment.base, next.base, segment.size(), sides);
            write_file(&self.disk, &path, &sums.after(Compacted::FOREIGN).encode())?;
        }
        self.close()
    }

    /// One above the highest producer id that wrote here.
    pub(crate) fn unseen_producer_id(&self) -> i64 {
        self.producers.unseen()
    }
}
