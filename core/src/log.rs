//! F3 · One partition's log: segments in a row, appended at the end, read without a lock.
//!
//! ```text
//!   append:  producers.check -> roll? -> stamp base offset and epoch -> write -> index -> publish end
//!   read:    list of segments (immutable) -> index -> whole batches below a bound
//!   sync:    SyncJob captures the end *before* it syncs; synced() raises the durable end after
//!
//!   log start ........ recovery point ........ durable end ........ end
//!   | deleted  | all files up to here      | bytes are on        | bytes are in the system's cache
//!   | below    | and the folder are durable| the medium          |
//! ```
//!
//! The recovery point is the base of a segment, or, every `recovery_bytes`, a place within the active
//! one of which a snapshot of the producers was taken: opening reads no more than what follows.
//!
//! Always true here: offsets are contiguous from batch to batch; bytes below `end` never change; the
//! recovery point passes bytes only after the `.log`, `.txnindex`, `.snapshot`, the epoch file *and the
//! folder* were synced; the hint on disk never claims more than was synced; a record is below the log
//! start for readers only once the hint says so durably.

mod aborted;
mod adopt;
pub(crate) mod aside;
mod compact;
pub(crate) mod copy;
mod epochs;
mod files;
mod hint;
mod index;
mod lookup;
pub(crate) mod mend;
pub(crate) mod producers;
mod read;
mod recover;
mod retention;
mod segment;
pub(crate) mod settle;
pub(crate) mod stats;
mod sums;
pub(crate) mod truncate;
pub(crate) mod verify;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use self::aborted::Aborted;
use self::epochs::Epochs;
use self::hint::Hint;
use self::index::Marks;
use self::producers::{Check, Ended, Producers, Tail};
use self::segment::{SIDECAR, Segment, path_of};
use crate::batch::{self, BatchHeader, HEADER_LEN, Marker};
use crate::config::TopicConfig;
use crate::disk::handles::{Handles, Slot, no_handles};
use crate::disk::{Disk, DiskFile, read_exact_at, replace_file, write_all_at};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, ProducerIdentity, Timestamp, TopicPartition};

pub(crate) use self::adopt::adopt;
pub(crate) use self::compact::{Compaction, Limits, Step, Written};
pub(crate) use self::read::Buffers;
pub use self::recover::{Opening, Recovered};
pub(crate) use self::segment::Timed;

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
    at: TopicPartition,
    segments: ArcSwap<Vec<Arc<Segment<D>>>>,
    start: AtomicI64,
    end: AtomicI64,
    deletions_below: AtomicI64,
}

/// The writer's side of one partition's log.
pub struct PartitionLog<D: Disk> {
    disk: D,
    handles: Handles<D>,
    dir: PathBuf,
    config: TopicConfig,
    page_cache_bytes: Option<u64>,
    recovery_bytes: u64,
    view: Arc<LogView<D>>,
    active: Arc<Segment<D>>,
    producers: Producers,
    epochs: Epochs,
    marks: Marks,
    hint: Hint,
    /// The hint as it is in the file.
    noted: Hint,
    hint_file: Arc<Slot<D>>,
    durable_end: Offset,
    /// The epochs as they are in their file, or on their way there.
    noted_epochs: Epochs,
    unsynced: Unsynced<D>,
    /// Where snapshots were taken within segments.
    inside: Vec<Offset>,
    /// Both slots of the hint say durably that the recovery point is here, or further.
    point_noted: Offset,
    /// How many segments were taken out by compaction since the folder was opened.
    swaps: u64,
    /// Files of deleted segments, under their last names, and when each was deleted.
    leaving: Vec<(PathBuf, Timestamp)>,
    /// Whether the folder was synced since it was opened: until then no second segment is begun.
    named: bool,
    /// Why nothing is written any more.
    refusal: Option<String>,
}

/// What changed since the last sync job was captured.
struct Unsynced<D: Disk> {
    /// Segments that were sealed, and the base of the one that followed.
    sealed: Vec<(Arc<Segment<D>>, Offset)>,
    /// The epochs, written to a temporary file that is to replace theirs.
    epochs: Option<D::File>,
    /// Names in the folder changed.
    names: bool,
}

impl<D: Disk> Default for Unsynced<D> {
    fn default() -> Self {
        Self { sealed: Vec::new(), epochs: None, names: false }
    }
}

/// A piece of syncing to do: captured under the partition's lock, run without it.
pub struct SyncJob<D: Disk> {
    disk: D,
    dir: PathBuf,
    active: Arc<Segment<D>>,
    unsynced: Unsynced<D>,
    end: Offset,
    /// The position that belongs to `end` when that is to become the recovery point.
    checkpoint: Option<u64>,
    /// How many bytes of the active segment are to leave the page cache; `None`: no byte of any.
    forget: Option<u64>,
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

    /// Forgets producers that wrote nothing for so long.
    pub(crate) fn expire_producers(&mut self, now: Timestamp, after: Duration) {
        let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        let forgotten = self.producers.expire(now, after);
        if forgotten > 0 {
            tracing::debug!(forgotten, "producers wrote nothing for long");
        }
    }

    /// Appends one batch that was validated. `header` is its parsed header, as the client made it.
    ///
    /// # Errors
    /// What the producers' check refuses; `Full` with nothing changed; `Stopped` after any other
    /// failure, and from then on.
    pub fn append(
        &mut self,
        header: &BatchHeader,
        bytes: &[u8],
        epoch: LeaderEpoch,
        origin: Origin,
    ) -> Result<Stored> {
        self.check_open()?;
        if origin == Origin::Client
            && let Check::Duplicate { base_offset, last_offset } = self.producers.check(header)?
        {
            return Ok(Stored { base_offset, next_offset: last_offset + 1, duplicate: true });
        }
        let written = self.write(header, bytes, epoch);
        let stamped = self.in_doubt(written)?;
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
        self.check_open()?;
        let bytes = batch::control_batch(marker, by, coordinator_epoch, now);
        let header = BatchHeader::parse(&bytes).map_err(Error::from)?;
        let first = self.producers.open_start(by.id);
        let aborts = first.filter(|_| marker == Marker::Abort);
        let written = self.write_marker(&header, &bytes, epoch, aborts);
        let stamped = self.in_doubt(written)?;
        let ended: Option<Ended> =
            self.producers.marked(marker, by, coordinator_epoch, stamped.base_offset, now);
        debug_assert_eq!(ended.map(|e| e.first_offset), first);
        Ok(Stored {
            base_offset: stamped.base_offset,
            next_offset: stamped.next_offset(),
            duplicate: false,
        })
    }

    /// Writes a marker; one that aborts what began at `aborts` enters that into the aborted index,
    /// before it is written itself: an entry without a marker is repaired by recovery (it is above
    /// the recovery point), a marker without its entry would show aborted records.
    fn write_marker(
        &mut self,
        header: &BatchHeader,
        bytes: &[u8],
        epoch: LeaderEpoch,
        aborts: Option<Offset>,
    ) -> Result<BatchHeader> {
        self.roll_if_needed(header, bytes.len())?;
        if let Some(first_offset) = aborts {
            let last_offset = self.end();
            let entry = Aborted {
                producer_id: header.producer.id,
                first_offset,
                last_offset,
                last_stable: self.producers.stable_after(header.producer.id, last_offset),
            };
            if self.active.aborted().is_empty() {
                self.unsynced.names = true;
            }
            self.active.add_aborted(&self.disk, &self.dir, entry)?;
        }
        let written = self.write(header, bytes, epoch);
        if written.is_err() && aborts.is_some() {
            // The next try enters it again: twice the same entry would be a damaged index.
            self.active.take_back_aborted(&self.disk, &self.dir)?;
        }
        written
    }

    /// Takes over other settings, from the next append on.
    pub fn set_config(&mut self, config: TopicConfig) {
        self.config = config;
    }

    /// Refuses every write from now on: the log was closed, or is no longer this engine's to write.
    pub fn refuse(&mut self, why: &str) {
        self.refusal.get_or_insert_with(|| why.to_owned());
    }

    /// Whether every write is refused.
    pub fn is_refusing(&self) -> bool {
        self.refusal.is_some()
    }

    fn check_open(&self) -> Result<()> {
        match &self.refusal {
            None => Ok(()),
            Some(why) => Err(Error::Stopped { why: why.clone() }),
        }
    }

    /// Passes a failed write on. A full disk, or a system without handles to give, has changed nothing;
    /// after anything else nobody knows what the files hold until they are recovered.
    fn in_doubt<T>(&mut self, result: Result<T>) -> Result<T> {
        result.map_err(|e| {
            let why = match e {
                Error::Full { .. } => return e,
                // Only opening a file says so, and every file is opened before anything is written.
                Error::Io { ref source, .. } if no_handles(source) => return e,
                Error::Stopped { why } => why,
                e => e.to_string(),
            };
            self.refuse(&why);
            Error::Stopped { why }
        })
    }

    /// Rolls if it must, stamps, writes, indexes and publishes.
    fn write(
        &mut self,
        header: &BatchHeader,
        bytes: &[u8],
        epoch: LeaderEpoch,
    ) -> Result<BatchHeader> {
        self.roll_if_needed(header, bytes.len())?;
        let base_offset = self.end();
        let mut stamped = [0; HEADER_LEN];
        stamped.copy_from_slice(&bytes[..HEADER_LEN]);
        batch::stamp(&mut stamped, base_offset, epoch);
        let position = self.active.append(&stamped, &bytes[HEADER_LEN..])?;
        let stored = BatchHeader { base_offset, leader_epoch: epoch, ..*header };
        self.epochs.note(epoch, base_offset);
        let interval = self.config.index_interval_bytes;
        self.active.note(&mut self.marks, &stored, position, interval);
        self.active.publish(position + bytes.len() as u64);
        self.view.end.store(stored.next_offset(), Ordering::Release);
        Ok(stored)
    }

    fn roll_if_needed(&mut self, header: &BatchHeader, len: usize) -> Result<()> {
        let end = self.end();
        let full = self.active.size() + len as u64 > u64::from(self.config.segment_bytes);
        let far =
            end + i64::from(header.last_offset_delta) - self.active.base > i64::from(i32::MAX);
        // What is in the active segment is never compacted.
        let lag = self.config.max_compaction_lag_ms.filter(|_| self.config.cleanup.compacts());
        let limit = self.config.segment_ms.into_iter().chain(lag).min();
        let late = limit.is_some_and(|limit| {
            let limit =
                limit.saturating_sub(jitter(self.active.base, self.config.segment_jitter_ms));
            let first = if self.marks.first < 0 { header.max_timestamp } else { self.marks.first };
            header.max_timestamp.saturating_sub(first) > limit as i64
        });
        if self.active.size() > 0 && (full || far || late) { self.roll(end) } else { Ok(()) }
    }

    /// Seals the active segment and begins the next one at `base`. The side files of the sealed one
    /// are written here and synced by the next job; until then the recovery point stays before it.
    fn roll(&mut self, base: Offset) -> Result<()> {
        if !self.named {
            // A later segment must not outlive the name of the first one.
            self.disk
                .sync_dir(&self.dir)
                .map_err(|e| Error::Stopped { why: Error::io("sync", &self.dir, e).to_string() })?;
            self.named = true;
        }
        self.write_side_files(base)?;
        let next = Arc::new(Segment::create(&self.handles, &self.dir, base)?);
        let mut segments = self.view.segments.load().as_ref().clone();
        segments.push(Arc::clone(&next));
        let segments = Arc::new(segments);
        self.view.segments.store(Arc::clone(&segments));
        let sealed = std::mem::replace(&mut self.active, next);
        self.unsynced.sealed.push((sealed, base));
        self.unsynced.names = true;
        self.marks = Marks::new(base);
        self.remove_stale_snapshots(&segments).map_err(|e| Error::Stopped { why: e.to_string() })
    }

    /// Recovery begins at the recovery point: the snapshots it may need are the one there, the one
    /// before it should that be damaged, and all later ones.
    fn remove_stale_snapshots(&self, segments: &[Arc<Segment<D>>]) -> Result<()> {
        let point = self.noted.recovery_point;
        let stale = segments.partition_point(|s| s.base < point).saturating_sub(1);
        let stale = segments[..stale].iter().map(|s| path_of(&self.dir, s.base, "snapshot"));
        for path in stale.rev().take_while(|path| self.disk.stat(path).is_ok()) {
            self.disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        Ok(())
    }

    /// Index of the active segment, producer snapshot as of `end`, epochs: written, not synced.
    fn write_side_files(&mut self, end: Offset) -> Result<()> {
        // One without batches has nothing to say, and the sidecar of that name is of the one before.
        if self.active.size() > 0 {
            self.active.write_indexes(&self.marks, end, &self.disk, &self.dir)?;
        }
        let snapshot = path_of(&self.dir, end, "snapshot");
        write_file(&self.disk, &snapshot, &self.producers.to_snapshot())?;
        self.unsynced.names = true;
        self.write_epochs()
    }

    /// What Kafka expects beside a log that never held a record: indexes without entries, which are not
    /// synced, since there is nothing in them to lose, and the epoch it began with.
    fn write_first_side_files(&self) -> Result<()> {
        for suffix in ["index", "timeindex"] {
            let path = path_of(&self.dir, self.active.base, suffix);
            if self.disk.stat(&path).is_err() {
                write_file(&self.disk, &path, &[])?;
            }
        }
        if self.noted_epochs == Epochs::default() {
            let path = self.dir.join(EPOCHS_FILE);
            replace_file(&self.disk, &path, b"0\n1\n0 0\n")
                .map_err(|e| Error::io("write", &path, e))?;
        }
        Ok(())
    }

    /// Writes the epochs beside their file when they changed, which they do once after an unclean
    /// stop: the next job puts them in its place. The file is never rewritten where it is, because
    /// it alone knows the epochs below the recovery point.
    fn write_epochs(&mut self) -> Result<()> {
        if self.epochs != self.noted_epochs {
            let path = self.dir.join(EPOCHS_TMP);
            let file = write_file(&self.disk, &path, self.epochs.to_text().as_bytes())?;
            self.unsynced.epochs = Some(file);
            self.unsynced.names = true;
            self.noted_epochs = self.epochs.clone();
        }
        Ok(())
    }

    /// Captures what has to be synced; `None` when everything is durable.
    pub fn sync_job(&mut self) -> Option<SyncJob<D>> {
        let clean = self.durable_end == self.end() && !self.unsynced.names;
        if self.refusal.is_some() || (clean && self.unsynced.sealed.is_empty()) {
            return None;
        }
        let checkpoint = self.checkpoint();
        let forget = self.page_cache_bytes.map(|keep| self.active.forgettable(keep));
        Some(SyncJob {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            active: Arc::clone(&self.active),
            unsynced: std::mem::take(&mut self.unsynced),
            end: self.end(),
            checkpoint,
            forget,
        })
    }

    /// Writes what the recovery point needs to pass to the end, when it is time for that. A full disk
    /// only leaves it where it is.
    fn checkpoint(&mut self) -> Option<u64> {
        let size = self.active.size();
        let inside = self.hint.recovery_base == self.active.base;
        let since = if inside { self.hint.recovery_position } else { 0 };
        if size - since < self.recovery_bytes {
            return None;
        }
        self.remove_passed_snapshots();
        match self.write_side_files(self.end()) {
            Ok(()) => {
                self.inside.push(self.end());
                Some(size)
            }
            Err(e) => {
                tracing::warn!(error = %e, "the recovery point stays where it is");
                None
            }
        }
    }

    /// Snapshots within segments that the hint on disk is past. Those that a failed removal leaves go
    /// when the folder is opened.
    fn remove_passed_snapshots(&mut self) {
        let (disk, dir, point) = (&self.disk, &self.dir, self.noted.recovery_point);
        self.inside
            .retain(|&at| at >= point || disk.remove(&path_of(dir, at, "snapshot")).is_err());
    }

    /// Takes the result of a job that ran well. Jobs of one partition run one after the other.
    pub fn synced(&mut self, job: &SyncJob<D>) {
        self.durable_end = self.durable_end.max(job.end);
        if Arc::ptr_eq(&self.active, &job.active) && self.end() == job.end {
            self.active.unpin();
        }
        self.hint.durable_end = self.durable_end;
        self.named |= job.unsynced.names;
        if let Some((_, base)) = job.unsynced.sealed.last() {
            self.hint.recovery_point = *base;
            self.hint.recovery_base = *base;
            self.hint.recovery_position = 0;
        }
        if let Some(position) = job.checkpoint {
            self.hint.recovery_point = job.end;
            self.hint.recovery_base = job.active.base;
            self.hint.recovery_position = position;
        }
        self.put_to_rest(&job.unsynced.sealed);
    }

    /// Sealed segments whose files are durable keep nothing of their indexes in memory.
    fn put_to_rest(&self, sealed: &[(Arc<Segment<D>>, Offset)]) {
        if sealed.is_empty() {
            return;
        }
        let mut segments = self.view.segments.load().as_ref().clone();
        for segment in &mut segments {
            if let Some((_, end)) = sealed.iter().find(|(done, _)| Arc::ptr_eq(done, segment)) {
                *segment = Arc::new(segment.at_rest(*end));
            }
        }
        self.view.segments.store(Arc::new(segments));
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
        if self.refusal.is_some() || self.hint == self.noted { Ok(()) } else { self.write_hint() }
    }

    fn write_hint(&mut self) -> Result<()> {
        self.hint.turn += 1;
        let write = || {
            let file = self.hint_file.get()?;
            write_all_at(&*file, &self.hint.encode(), self.hint.position())
        };
        write().map_err(|e| Error::io("write", self.hint_file.path(), e))?;
        self.noted = self.hint;
        Ok(())
    }

    /// Writes everything a clean start needs and syncs it: side files, batches, hint, folder. Nothing
    /// is written afterwards. No job is under way when this is called.
    ///
    /// # Errors
    /// The first failure; the folder then needs recovery.
    pub fn close(&mut self) -> Result<()> {
        self.check_open()?;
        let closed = self.close_files();
        match &closed {
            Ok(()) => self.refuse("it was closed"),
            Err(e) => self.refuse(&e.to_string()),
        }
        closed
    }

    fn close_files(&mut self) -> Result<()> {
        let end = self.end();
        if end > 0 || !self.producers.is_empty() {
            self.write_side_files(end)?;
        } else {
            self.write_first_side_files()?;
        }
        if let Some(job) = self.sync_job() {
            job.run()?;
            self.synced(&job);
        }
        self.sync_side_files(end)?;
        // Below the log end everything is durable now, side files included.
        self.hint.recovery_point = end;
        self.hint.recovery_base = self.active.base;
        self.hint.recovery_position = self.active.size();
        self.write_hint()?;
        let file = self.hint_file.get();
        let synced = file.and_then(|file| file.sync_data());
        synced.map_err(|e| Error::io("sync", self.hint_file.path(), e))
    }

    fn sync_side_files(&self, end: Offset) -> Result<()> {
        let files = [
            path_of(&self.dir, self.active.base, "index"),
            path_of(&self.dir, self.active.base, "timeindex"),
            path_of(&self.dir, self.active.base, "txnindex"),
            path_of(&self.dir, end, "snapshot"),
            path_of(&self.dir, end, SIDECAR),
        ];
        for path in files {
            sync_if_there(&self.disk, &path)?;
        }
        self.disk.sync_dir(&self.dir).map_err(|e| Error::io("sync", &self.dir, e))
    }
}

/// How much of `segment.ms` a segment goes without: the same for the same segment, and different from
/// one to the next.
fn jitter(base: Offset, most: u64) -> u64 {
    let mixed = base.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    if most == 0 { 0 } else { (mixed >> 32) % (most + 1) }
}

/// The file of leader epochs.
pub(crate) const EPOCHS_FILE: &str = "leader-epoch-checkpoint";
/// Where the epochs are written before they take their file's place.
pub(crate) const EPOCHS_TMP: &str = "leader-epoch-checkpoint.tmp";
/// The file of the hint.
pub(crate) const HINT_FILE: &str = "flushed-offset";
/// The file that names the topic's id.
pub(crate) const METADATA_FILE: &str = "partition.metadata";
/// Where that is written before it takes its place.
pub(crate) const METADATA_TMP: &str = "partition.metadata.tmp";

/// Writes a whole side file, unsynced. What it has in common with the file that is there stays as it is,
/// and as durable: a power loss must not take from it what the hint rests on.
fn write_file<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) -> Result<D::File> {
    let file =
        disk.open(path, crate::disk::Open::Create).map_err(|e| Error::io("create", path, e))?;
    let len = file.len().map_err(|e| Error::io("read", path, e))?;
    let mut there = vec![0; len.min(bytes.len() as u64) as usize];
    read_exact_at(&file, &mut there, 0).map_err(|e| Error::io("read", path, e))?;
    let same = there.iter().zip(bytes).take_while(|(there, wanted)| there == wanted).count();
    if len > same as u64 {
        file.set_len(same as u64).map_err(|e| Error::io("cut", path, e))?;
    }
    if bytes.len() > same {
        write_all_at(&file, &bytes[same..], same as u64)
            .map_err(|e| Error::io("write", path, e))?;
    }
    Ok(file)
}

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
            segment.file()?.sync_data().map_err(|e| Error::io("sync", segment.path(), e))
        };
        sync(&self.active)?;
        for (segment, next_base) in &self.unsynced.sealed {
            sync(segment)?;
            self.sync_sides(segment.base, *next_base)?;
        }
        if self.checkpoint.is_some() {
            self.sync_sides(self.active.base, self.end)?;
        }
        if let Some(epochs) = &self.unsynced.epochs {
            let (from, to) = (self.dir.join(EPOCHS_TMP), self.dir.join(EPOCHS_FILE));
            epochs.sync_data().map_err(|e| Error::io("sync", &from, e))?;
            self.disk.rename(&from, &to).map_err(|e| Error::io("rename", &from, e))?;
        }
        if self.unsynced.names {
            self.disk.sync_dir(&self.dir).map_err(|e| Error::io("sync", &self.dir, e))?;
        }
        self.forget_pages();
        Ok(())
    }

    /// Syncs the side files of the segment at `base`, and the snapshot as of `end`.
    fn sync_sides(&self, base: Offset, end: Offset) -> Result<()> {
        for suffix in ["txnindex", "index", "timeindex"] {
            sync_if_there(&self.disk, &path_of(&self.dir, base, suffix))?;
        }
        sync_if_there(&self.disk, &path_of(&self.dir, end, SIDECAR))?;
        sync_if_there(&self.disk, &path_of(&self.dir, end, "snapshot"))
    }

    /// Gives pages that are durable back to the system. Only a hint: readers that come for them find
    /// them on the medium.
    fn forget_pages(&self) {
        let Some(below) = self.forget else { return };
        if below > 0 {
            _ = self.active.file().map(|file| file.drop_cache(0..below));
        }
        for (segment, _) in &self.unsynced.sealed {
            _ = segment.file().map(|file| file.drop_cache(0..u64::MAX));
        }
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

    /// Bytes of batches, in all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.load().iter().map(|segment| segment.size()).sum()
    }

    /// Below this offset compaction may have removed deletions (records without a value): state that
    /// was built from less than that may hold what was deleted.
    pub fn deletions_below(&self) -> Offset {
        self.deletions_below.load(Ordering::Acquire)
    }
}

/// Makes a partition's folder: idempotent, so that creation can be repeated after a crash at any
/// step. The folder's name in its parent is synced by the caller, once for all partitions.
///
/// # Errors
/// `Damaged` when a folder of that name belongs to another topic id.
pub(crate) fn create_folder<D: Disk>(
    disk: &D,
    dir: &Path,
    topic_id: crate::ids::Uuid,
) -> Result<()> {
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
    // The id is durable before the first segment is made: records without it are not ours to take.
    let entries = disk.list(dir).map_err(|e| Error::io("list", dir, e))?;
    if entries.iter().any(|e| e.name.as_encoded_bytes().ends_with(b".log")) {
        let what =
            "the file is missing and the folder holds records: restore it, or move the folder away";
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
        Err(e) if e.kind() == std::io::ErrorKind::FileTooLarge => {
            let what = "longer than any topic id: restore the file from a copy";
            return Err(Error::damaged(&path, 0, what));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::read_file;
    use crate::disk::sim::{Crash, SimDisk};

    /// A model's life had an index of aborted transactions that recovery cut: it was written anew, the power
    /// went, and nothing was left of what the hint said was synced.
    #[test]
    fn what_a_side_file_keeps_survives_the_power() {
        let path = Path::new("/side");
        for (before, after) in [("one two", "one"), ("one", "one two"), ("one two", "one three")] {
            for seed in 0..40 {
                let disk = SimDisk::new(seed);
                let file = write_file(&disk, path, before.as_bytes()).expect("written");
                file.sync_data().expect("synced");
                disk.sync_dir(Path::new("/")).expect("synced");
                write_file(&disk, path, after.as_bytes()).expect("written");
                assert_eq!(read_file(&disk, path, 99).expect("there"), after.as_bytes());
                disk.crash(Crash::Power);
                let left = read_file(&disk.restart(), path, 99).expect("there");
                assert!(left.starts_with(b"one"), "{seed}: {before} then {after}: {left:?}");
            }
        }
    }
}
