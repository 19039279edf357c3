//! F5 · A backup of a data folder, while its log lives.
//!
//! ```text
//!   1  where every partition ends: markers before that were decided before the moment
//!   2  __transaction_state, as it is at one moment                           that moment is the backup's
//!   3  every other partition, up to the first marker of a decision that is not in there
//!   4  __thalweg_metadata, last: its counters are above everything that was copied
//!   5  everything synced; log.incomplete -> log; format
//! ```
//!
//! Why no transaction is half there: one whose decision is in the copied coordinator had all of its
//! records, and perhaps markers, written before that moment, and a marker that ends a copy was written
//! after it: so nothing of the first is cut, and what it lacks of markers the open of the copy writes. One
//! whose decision is not in there has no marker in any partition of the copy: opening aborts it.
//!
//! Always true here: the source is only read; its sealed, synced segments are linked where that is
//! possible, which is safe because nobody ever writes them again; a backup that was not finished is no
//! log.

use std::io;
use std::path::{Path, PathBuf};

use crate::batch::{Scratch, batches};
use crate::coordinator::transaction::TransactionCoordinator;
use crate::disk::{Disk, read_file, replace_file};
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity, TopicPartition};
use crate::log::copy::{Copied, Extent, Place, copy, end_of, place};
use crate::verify::{
    FORMAT, FORMAT_FILE, Folder, LOG_DIR, METADATA_TOPIC, OFFSETS_TOPIC, TRANSACTIONS_TOPIC,
    folder, name_of,
};

/// What was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backup {
    /// Partitions, those of the log itself included.
    pub partitions: u64,
    /// Bytes of batches that were copied.
    pub copied_bytes: u64,
    /// Bytes of batches that are the source's own, under a second name.
    pub linked_bytes: u64,
}

/// Copies the data folder `from` to `to`, which must not be there or be empty. The copy is complete and
/// durable when this returns; opening it recovers, and takes a new leader epoch.
///
/// # Errors
/// `Unsupported` for a folder that is no data folder of ours, or a newer one; `Invalid` for a target that
/// is not empty, or lies in the source; `Retry` when files change faster than they can be copied;
/// `Damaged`, `Io`, `Full`.
pub fn backup<D: Disk>(
    disk: &D,
    from: &Path,
    to: &Path,
    progress: &mut dyn FnMut(&Backup),
) -> Result<Backup> {
    let Folder::Data { log } = folder(disk, from)? else {
        let what = "only a data folder of this program can be copied while it is used: stop Apache Kafka and copy the directory".to_owned();
        return Err(Error::Unsupported { path: from.to_owned(), what });
    };
    check_format(disk, from)?;
    let target = begin(disk, from, to)?;
    let mut work = Work { disk, log: &log, target: &target, done: Backup::default(), progress };
    let mut ends: Vec<(TopicPartition, Offset)> = Vec::new();
    for at in work.partitions()? {
        // One whose files change meanwhile is looked at from its front.
        let end = end_of(disk, &log.join(at.folder())).unwrap_or(0);
        ends.push((at, end));
    }
    let moment = work.moment()?;
    let positions = work.places(OFFSETS_TOPIC)?;
    let nothing = |_: ProducerIdentity| true;
    let mut coordinator = TransactionCoordinator::new(i32::MAX);
    for (at, upto) in &moment {
        let extent = Extent { upto: Some(*upto), markers_from: 0, known: &nothing };
        work.copy(at, &extent)?;
        replay(disk, &target.join(at.folder()), &mut coordinator)?;
    }
    let known = |marker: ProducerIdentity| {
        coordinator.transactions().any(|(_, found)| {
            // From a decision on, an id has the epoch of its markers, or a higher one.
            (found.producer.id == marker.id && found.producer.epoch >= marker.epoch)
                || found.previous_id == marker.id && found.producer.id != marker.id
        })
    };
    for at in work.partitions()? {
        if matches!(&*at.topic, METADATA_TOPIC | TRANSACTIONS_TOPIC) {
            continue;
        }
        let markers_from = ends.iter().find(|(other, _)| *other == at).map_or(0, |(_, end)| *end);
        let upto = positions.iter().find(|(other, _)| *other == at).map(|(_, place)| *place);
        work.copy(&at, &Extent { upto, markers_from, known: &known })?;
    }
    let metadata = TopicPartition::new(METADATA_TOPIC, 0);
    work.copy(&metadata, &Extent { upto: None, markers_from: 0, known: &nothing })?;
    disk.sync_dir(&target).map_err(|e| Error::io("sync", &target, e))?;
    let done = work.done;
    let in_place = to.join(LOG_DIR);
    disk.rename(&target, &in_place).map_err(|e| Error::io("rename", &target, e))?;
    disk.sync_dir(to).map_err(|e| Error::io("sync", to, e))?;
    let path = to.join(FORMAT_FILE);
    replace_file(disk, &path, format!("{FORMAT}\n").as_bytes())
        .map_err(|e| Error::io("write", &path, e))?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| Path::new("."));
    disk.sync_dir(parent).map_err(|e| Error::io("sync", parent, e))?;
    Ok(done)
}

/// The name of the log directory until everything is there: nobody takes it for a log.
const INCOMPLETE: &str = "log.incomplete";
/// How often something is tried again that a living writer changed meanwhile.
const TRIES: usize = 1000;

fn check_format<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    let path = dir.join(FORMAT_FILE);
    let bytes = read_file(disk, &path, 64).map_err(|e| Error::io("read", &path, e))?;
    match String::from_utf8_lossy(&bytes).trim().parse::<u32>() {
        Ok(1..=FORMAT) => Ok(()),
        Ok(found) => {
            let what = format!("the folder has layout {found}, this program reads up to {FORMAT}");
            Err(Error::Unsupported { path, what })
        }
        Err(_) => Err(Error::damaged(&path, 0, "no layout number in it")),
    }
}

/// Makes the target.
fn begin<D: Disk>(disk: &D, from: &Path, to: &Path) -> Result<PathBuf> {
    match disk.list(to) {
        Ok(entries) if entries.is_empty() => {}
        Ok(_) => {
            let what =
                format!("{} is not empty: give a folder that is not there yet", to.display());
            return Err(Error::invalid(what));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            disk.create_dir(to).map_err(|e| Error::io("create", to, e))?;
        }
        Err(e) => return Err(Error::io("list", to, e)),
    }
    let whole = |path: &Path| disk.canonical(path).map_err(|e| Error::io("find", path, e));
    if whole(to)?.starts_with(whole(from)?) {
        // It was empty, and is ours to take back.
        disk.remove_dir(to).map_err(|e| Error::io("remove", to, e))?;
        let what = format!("{} lies in the folder that is to be copied", to.display());
        return Err(Error::invalid(what));
    }
    let target = to.join(INCOMPLETE);
    disk.create_dir(&target).map_err(|e| Error::io("create", &target, e))?;
    Ok(target)
}

struct Work<'a, D> {
    disk: &'a D,
    log: &'a Path,
    target: &'a Path,
    done: Backup,
    progress: &'a mut dyn FnMut(&Backup),
}

impl<D: Disk> Work<'_, D> {
    /// The partitions there are, by their folders.
    fn partitions(&self) -> Result<Vec<TopicPartition>> {
        let entries = self.disk.list(self.log).map_err(|e| Error::io("list", self.log, e))?;
        let dirs = entries.iter().filter(|entry| entry.is_dir);
        Ok(dirs.filter_map(|entry| name_of(Path::new(&entry.name))).collect())
    }

    /// Where the partitions of an internal topic end.
    fn places(&self, topic: &str) -> Result<Vec<(TopicPartition, Place)>> {
        let mut all = Vec::new();
        for at in self.partitions()?.into_iter().filter(|at| *at.topic == *topic) {
            let mut tries = 0;
            loop {
                match place(self.disk, &self.log.join(at.folder())) {
                    Ok(Some(place)) => all.push((at, place)),
                    Ok(None) => {}
                    // A segment was deleted between the list and the look.
                    Err(Error::Io { source, .. })
                        if source.kind() == io::ErrorKind::NotFound && tries < TRIES =>
                    {
                        tries += 1;
                        continue;
                    }
                    Err(e) => return Err(e),
                }
                break;
            }
        }
        Ok(all)
    }

    /// Where all partitions of the coordinator end at one moment: between two looks nothing changed.
    fn moment(&self) -> Result<Vec<(TopicPartition, Place)>> {
        let mut before = self.places(TRANSACTIONS_TOPIC)?;
        if before.len() < 2 {
            return Ok(before);
        }
        for _ in 0..TRIES * TRIES {
            let now = self.places(TRANSACTIONS_TOPIC)?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
        let what = "transactions end faster than they can be looked at".to_owned();
        Err(Error::Retry { what })
    }

    fn copy(&mut self, at: &TopicPartition, extent: &Extent<'_>) -> Result<()> {
        let (from, to) = (self.log.join(at.folder()), self.target.join(at.folder()));
        for _ in 0..TRIES {
            self.disk.create_dir(&to).map_err(|e| Error::io("create", &to, e))?;
            if let Some(Copied { copied, linked, .. }) = copy(self.disk, &from, &to, extent)? {
                self.done.partitions += 1;
                self.done.copied_bytes += copied;
                self.done.linked_bytes += linked;
                (self.progress)(&self.done);
                return Ok(());
            }
            if self.disk.stat(&from).is_err() {
                let what = format!("{at} was deleted while it was copied: begin again");
                return Err(Error::Retry { what });
            }
            for entry in self.disk.list(&to).map_err(|e| Error::io("list", &to, e))? {
                let path = to.join(&entry.name);
                self.disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
            }
            self.disk.remove_dir(&to).map_err(|e| Error::io("remove", &to, e))?;
        }
        Err(Error::Retry {
            what: format!(
                "the files of {at} change faster than they are copied, or some are missing: `thalweg verify` says which"
            ),
        })
    }
}

/// Takes in what a copied partition of the coordinator says.
fn replay<D: Disk>(disk: &D, dir: &Path, state: &mut TransactionCoordinator) -> Result<()> {
    let mut scratch = Scratch::default();
    for entry in disk.list(dir).map_err(|e| Error::io("list", dir, e))? {
        let path = dir.join(&entry.name);
        if path.extension().is_none_or(|suffix| suffix != "log") {
            continue;
        }
        let bytes = read_file(disk, &path, u64::MAX).map_err(|e| Error::io("read", &path, e))?;
        for batch in batches(&bytes) {
            let batch = batch?;
            for record in batch.records(&mut scratch)? {
                let record = record?;
                let bad = |e: crate::coordinator::Malformed| {
                    Error::damaged(&path, 0, format!("offset {}: {e}", record.offset))
                };
                state.replay(record.key.unwrap_or_default(), record.value).map_err(bad)?;
            }
        }
    }
    Ok(())
}
