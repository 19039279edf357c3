//! F3 · One partition's log: segments in a row, appended at the end, read without a lock.
//!
//! ```text
//!   append:  producers.check -> roll? -> stamp base offset and epoch -> write -> index -> publish end
//!   read:    list of segments (immutable) -> index -> whole batches below a bound
//!   sync:    SyncJob captures the end *before* it syncs; synced() raises the durable end after
//!
//!   0 .......... recovery point ........ durable end ........ end
//!   | all files of the sealed segments   | bytes are on        | bytes are in the system's cache
//!   | and the folder are durable         | the medium          |
//! ```
//!
//! Always true here: offsets are contiguous from batch to batch; bytes below `end` never change; the
//! recovery point passes a segment only after its `.log`, `.txnindex`, `.snapshot`, the epoch file
//! *and the folder* were synced; the hint on disk never claims more than was synced.

mod aborted;
mod epochs;
mod hint;
mod index;
pub(crate) mod producers;
mod read;
mod recover;
mod segment;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;

use self::aborted::Aborted;
use self::epochs::Epochs;
use self::hint::Hint;
use self::producers::{Check, Ended, Producers, Tail};
use self::segment::{Segment, path_of};
use crate::batch::{self, BatchHeader, HEADER_LEN, Marker};
use crate::config::TopicConfig;
use crate::disk::{Disk, DiskFile, replace_file, write_all_at};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, ProducerIdentity, Timestamp, TopicPartition};

pub(crate) use self::read::Buffers;
pub use self::recover::{Opening, Recovered};

/// Who appends: clients are checked for sequences and epochs, coordinators are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A producer.
    Client,
    /// A coordinator of the same process, writing on somebody's behalf.
    Coordinator,
}

/// Where a batch went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// One past its last record.
    pub next_offset: Offset,
    /// Whether it had been stored before.
    pub duplicate: bool,
}

/// What readers see of a partition, without any lock.
pub struct LogView<D: Disk> {
    disk: D,
    at: TopicPartition,
    segments: ArcSwap<Vec<Arc<Segment<D>>>>,
    start: AtomicI64,
    end: AtomicI64,
}

/// The writer's side of one partition's log.
pub struct PartitionLog<D: Disk> {
    disk: D,
    dir: PathBuf,
    config: TopicConfig,
    view: Arc<LogView<D>>,
    active: Arc<Segment<D>>,
    producers: Producers,
    epochs: Epochs,
    since_index: u64,
    hint: Hint,
    /// The hint as it is in the file.
    noted: Hint,
    hint_file: D::File,
    durable_end: Offset,
    unsynced: Unsynced<D>,
}

/// What changed since the last sync job was captured.
struct Unsynced<D: Disk> {
    /// Segments that were sealed, and the base of the one that followed.
    sealed: Vec<(Arc<Segment<D>>, Offset)>,
    /// Names in the folder changed.
    names: bool,
}

impl<D: Disk> Default for Unsynced<D> {
    fn default() -> Self {
        Self { sealed: Vec::new(), names: false }
    }
}

/// A piece of syncing to do: captured under the partition's lock, run without it.
pub struct SyncJob<D: Disk> {
    disk: D,
    dir: PathBuf,
    active: Arc<Segment<D>>,
    unsynced: Unsynced<D>,
    end: Offset,
}

impl<D: Disk> PartitionLog<D> {
    /// What readers use.
    pub fn view(&self) -> &Arc<LogView<D>> {
        &self.view
    }

    /// The next offset to be written.
    pub fn end(&self) -> Offset {
        self.view.end()
    }

    /// Everything below was synced.
    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// The leader epoch of the last batch, or -1.
    pub fn last_epoch(&self) -> LeaderEpoch {
        self.epochs.last()
    }

    /// The leader epoch of the record at `offset`, or -1.
    pub fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        self.epochs.at(offset)
    }

    /// The producers and their open transactions.
    pub(crate) fn producers(&self) -> &Producers {
        &self.producers
    }

    /// The end of a producer's data, for the transaction record that names it.
    pub(crate) fn tail(&self, producer_id: i64) -> Option<Tail> {
        self.producers.tail(producer_id)
    }

    /// Markers below the high watermark are decided for readers. Returns the first unstable offset.
    pub(crate) fn decided_below(&mut self, high_watermark: Offset) -> Option<Offset> {
        self.producers.decided_below(high_watermark);
        self.producers.first_unstable()
    }

    /// Appends one batch that was validated. `header` is its parsed header, as the client made it.
    ///
    /// # Errors
    /// What [`Producers::check`] refuses; `Full` with nothing changed; `Stopped` after a write error.
    pub fn append(
        &mut self,
        header: &BatchHeader,
        bytes: &[u8],
        epoch: LeaderEpoch,
        origin: Origin,
    ) -> Result<Stored> {
        if origin == Origin::Client
            && let Check::Duplicate { base_offset, last_offset } = self.producers.check(header)?
        {
            return Ok(Stored { base_offset, next_offset: last_offset + 1, duplicate: true });
        }
        let stamped = self.write(header, bytes, epoch)?;
        self.producers.written(&stamped);
        Ok(Stored {
            base_offset: stamped.base_offset,
            next_offset: stamped.next_offset(),
            duplicate: false,
        })
    }

    /// Appends a transaction marker. A marker for a producer without data here changes no
    /// last stable offset and no index.
    ///
    /// # Errors
    /// As [`PartitionLog::append`].
    pub(crate) fn append_marker(
        &mut self,
        marker: Marker,
        by: ProducerIdentity,
        coordinator_epoch: i32,
        now: Timestamp,
        epoch: LeaderEpoch,
    ) -> Result<Stored> {
        let bytes = batch::control_batch(marker, by, coordinator_epoch, now);
        let header = BatchHeader::parse(&bytes).map_err(Error::from)?;
        // The entry of an abort is written before its marker: an entry without a marker is repaired
        // by recovery (it is above the recovery point), a marker without its entry would show
        // aborted records.
        let first = self.producers.open_start(by.id);
        let offset = self.end();
        self.roll_if_needed(&header, bytes.len())?;
        if let (Marker::Abort, Some(first_offset)) = (marker, first) {
            let entry = Aborted {
                producer_id: by.id,
                first_offset,
                last_offset: offset,
                last_stable: self.producers.first_unstable().unwrap_or(offset),
            };
            if self.active.aborted().is_empty() {
                self.unsynced.names = true;
            }
            self.active.add_aborted(&self.disk, &self.dir, entry)?;
        }
        let stamped = self.write(&header, &bytes, epoch)?;
        let ended: Option<Ended> =
            self.producers.marked(marker, by, coordinator_epoch, stamped.base_offset, now);
        debug_assert_eq!(ended.map(|e| e.first_offset), first);
        Ok(Stored { base_offset: offset, next_offset: stamped.next_offset(), duplicate: false })
    }

    /// Rolls if it must, stamps, writes, indexes and publishes.
    fn write(&mut self, header: &BatchHeader, bytes: &[u8], epoch: LeaderEpoch) -> Result<BatchHeader> {
        self.roll_if_needed(header, bytes.len())?;
        let base_offset = self.end();
        let mut stamped = [0; HEADER_LEN];
        stamped.copy_from_slice(&bytes[..HEADER_LEN]);
        batch::stamp(&mut stamped, base_offset, epoch);
        let position = self.active.append(&stamped, &bytes[HEADER_LEN..])?;
        let stored = BatchHeader { base_offset, leader_epoch: epoch, ..*header };
        self.epochs.note(epoch, base_offset);
        self.since_index += bytes.len() as u64;
        if self.since_index > u64::from(self.config.index_interval_bytes) {
            self.active.mark(stored.last_offset(), position);
            self.since_index = 0;
        }
        self.active.publish(position + bytes.len() as u64);
        self.view.end.store(stored.next_offset(), Ordering::Release);
        Ok(stored)
    }

    fn roll_if_needed(&mut self, header: &BatchHeader, len: usize) -> Result<()> {
        let end = self.end();
        let full = self.active.size() + len as u64 > u64::from(self.config.segment_bytes);
        let far = end + i64::from(header.last_offset_delta) - self.active.base > i64::from(i32::MAX);
        if self.active.size() > 0 && (full || far) { self.roll(end) } else { Ok(()) }
    }

    /// Seals the active segment and begins the next one at `base`. The side files of the sealed one
    /// are written here and synced by the next job; until then the recovery point stays before it.
    fn roll(&mut self, base: Offset) -> Result<()> {
        self.write_side_files(base)?;
        let next = Arc::new(Segment::create(&self.disk, &self.dir, base)?);
        let mut segments = self.view.segments.load().as_ref().clone();
        segments.push(Arc::clone(&next));
        // Only the newest two snapshots are needed: one to start from, one if it is damaged.
        let keep = segments.len().saturating_sub(2);
        let stale = segments[..keep].iter().map(|s| path_of(&self.dir, s.base, "snapshot"));
        for path in stale.rev().take_while(|path| self.disk.stat(path).is_ok()) {
            self.disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        self.view.segments.store(Arc::new(segments));
        let sealed = std::mem::replace(&mut self.active, next);
        self.unsynced.sealed.push((sealed, base));
        self.unsynced.names = true;
        self.since_index = 0;
        Ok(())
    }

    /// Index of the active segment, producer snapshot as of `end`, epochs: written, not synced.
    fn write_side_files(&mut self, end: Offset) -> Result<()> {
        self.active.write_index(&self.disk, &self.dir)?;
        let write = |path: &Path, bytes: &[u8]| -> Result<()> {
            let file = self
                .disk
                .open(path, crate::disk::Open::Create)
                .map_err(|e| Error::io("create", path, e))?;
            file.set_len(0).map_err(|e| Error::io("cut", path, e))?;
            write_all_at(&file, bytes, 0).map_err(|e| Error::io("write", path, e))
        };
        write(&path_of(&self.dir, end, "snapshot"), &self.producers.to_snapshot())?;
        write(&self.dir.join(EPOCHS_FILE), self.epochs.to_text().as_bytes())?;
        self.unsynced.names = true;
        Ok(())
    }

    /// Captures what has to be synced; `None` when everything is durable.
    pub fn sync_job(&mut self) -> Option<SyncJob<D>> {
        if self.durable_end == self.end() && !self.unsynced.names && self.unsynced.sealed.is_empty() {
            return None;
        }
        Some(SyncJob {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            active: Arc::clone(&self.active),
            unsynced: std::mem::take(&mut self.unsynced),
            end: self.end(),
        })
    }

    /// Takes the result of a job that ran well. Jobs of one partition run one after the other.
    pub fn synced(&mut self, job: &SyncJob<D>) {
        self.durable_end = self.durable_end.max(job.end);
        self.hint.durable_end = self.durable_end;
        if let Some((_, base)) = job.unsynced.sealed.last() {
            self.hint.recovery_point = *base;
        }
    }

    /// Whether segments were sealed that no sync has covered.
    pub fn has_sealed(&self) -> bool {
        !self.unsynced.sealed.is_empty()
    }

    /// Notes the durable end in the hint file, if it moved since it was noted last: written, not
    /// synced, since losing it is harmless.
    ///
    /// # Errors
    /// The system's, as `Io`.
    pub fn note_durable_end(&mut self) -> Result<()> {
        if self.hint == self.noted { Ok(()) } else { self.write_hint() }
    }

    fn write_hint(&mut self) -> Result<()> {
        self.hint.turn += 1;
        write_all_at(&self.hint_file, &self.hint.encode(), self.hint.position())
            .map_err(|e| Error::io("write", &self.dir.join(HINT_FILE), e))?;
        self.noted = self.hint;
        Ok(())
    }

    /// Writes everything a clean start needs and syncs it: side files, batches, hint, folder.
    ///
    /// # Errors
    /// The first failure; the folder then needs recovery.
    pub fn close(&mut self) -> Result<()> {
        let end = self.end();
        if end > 0 || self.producers != Producers::default() {
            self.write_side_files(end)?;
        }
        if let Some(job) = self.sync_job() {
            job.run()?;
            self.synced(&job);
        }
        // Below the log end everything is durable now, side files included.
        self.hint.recovery_point = self.active.base;
        self.sync_side_files(end)?;
        self.write_hint()?;
        let path = self.dir.join(HINT_FILE);
        self.hint_file.sync_data().map_err(|e| Error::io("sync", &path, e))
    }

    fn sync_side_files(&self, end: Offset) -> Result<()> {
        let files = [
            path_of(&self.dir, self.active.base, "index"),
            path_of(&self.dir, self.active.base, "txnindex"),
            path_of(&self.dir, end, "snapshot"),
            self.dir.join(EPOCHS_FILE),
        ];
        for path in files {
            sync_if_there(&self.disk, &path)?;
        }
        self.disk.sync_dir(&self.dir).map_err(|e| Error::io("sync", &self.dir, e))
    }
}

/// The file of leader epochs.
pub(crate) const EPOCHS_FILE: &str = "leader-epoch-checkpoint";
/// The file of the hint.
pub(crate) const HINT_FILE: &str = "flushed-offset";
/// The file that names the topic's id.
pub(crate) const METADATA_FILE: &str = "partition.metadata";

fn sync_if_there<D: Disk>(disk: &D, path: &Path) -> Result<()> {
    match disk.open(path, crate::disk::Open::Read) {
        Ok(file) => file.sync_data().map_err(|e| Error::io("sync", path, e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("open", path, e)),
    }
}

impl<D: Disk> SyncJob<D> {
    /// Syncs what was captured: batches first, then the side files of sealed segments, then names.
    ///
    /// # Errors
    /// Any failure means that nobody knows what reached the medium: the caller stops the log and
    /// never calls this again for the same bytes.
    pub fn run(&self) -> Result<()> {
        let sync = |segment: &Segment<D>| {
            segment.file.sync_data().map_err(|e| Error::io("sync", &segment.path, e))
        };
        sync(&self.active)?;
        for (segment, next_base) in &self.unsynced.sealed {
            sync(segment)?;
            sync_if_there(&self.disk, &path_of(&self.dir, segment.base, "txnindex"))?;
            sync_if_there(&self.disk, &path_of(&self.dir, segment.base, "index"))?;
            sync_if_there(&self.disk, &path_of(&self.dir, *next_base, "snapshot"))?;
        }
        if !self.unsynced.sealed.is_empty() {
            sync_if_there(&self.disk, &self.dir.join(EPOCHS_FILE))?;
        }
        if self.unsynced.names {
            self.disk.sync_dir(&self.dir).map_err(|e| Error::io("sync", &self.dir, e))?;
        }
        Ok(())
    }

    /// The end that is durable once this ran.
    pub fn end(&self) -> Offset {
        self.end
    }
}

impl<D: Disk> LogView<D> {
    /// The first offset there is.
    pub fn start(&self) -> Offset {
        self.start.load(Ordering::Acquire)
    }

    /// The next offset to be written.
    pub fn end(&self) -> Offset {
        self.end.load(Ordering::Acquire)
    }
}

/// Makes a partition's folder: idempotent, so that creation can be repeated after a crash at any
/// step. The folder's name in its parent is synced by the caller, once for all partitions.
///
/// # Errors
/// `Damaged` when a folder of that name belongs to another topic id.
pub(crate) fn create_folder<D: Disk>(disk: &D, dir: &Path, topic_id: crate::ids::Uuid) -> Result<()> {
    match disk.create_dir(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(Error::io("create", dir, e)),
    }
    let path = dir.join(METADATA_FILE);
    if let Some(found) = topic_id_of(disk, dir)? {
        if found == topic_id {
            return Ok(());
        }
        let what = format!("the folder belongs to topic id {found}, not {topic_id}: move it away");
        return Err(Error::damaged(&path, 0, what));
    }
    let text = format!("version: 0\ntopic_id: {topic_id}");
    replace_file(disk, &path, text.as_bytes()).map_err(|e| Error::io("write", &path, e))
}

/// The topic id a partition folder names; `None` when it has no `partition.metadata`.
pub(crate) fn topic_id_of<D: Disk>(disk: &D, dir: &Path) -> Result<Option<crate::ids::Uuid>> {
    let path = dir.join(METADATA_FILE);
    let bytes = match crate::disk::read_file(disk, &path, 4096) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let id = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("topic_id: ")))
        .and_then(|id| crate::ids::Uuid::parse(id.trim()).ok());
    match id {
        Some(id) => Ok(Some(id)),
        None => Err(Error::damaged(&path, 0, "no topic id in it: restore the file from a copy")),
    }
}
