//! F6 · Taking a log directory of Apache Kafka over: in place, without a byte of it being copied that
//! stays as it is.
//!
//! ```text
//!   before                          after
//!   DIR/meta.properties             DIR/meta.properties, checkpoints, __cluster_metadata-0, *-delete,
//!   DIR/*-checkpoint                  *-stray, *-future: as they were
//!   DIR/__cluster_metadata-0/       DIR/format
//!   DIR/<topic>-<partition>/        DIR/log/<topic>-<partition>/        the same files
//!                                   DIR/log/__thalweg_metadata-0/       topics, settings, counters
//!
//!   1  both locks                   Kafka is kept out, and so are we
//!   2  look                         every partition recovers, or it is refused; nothing was written
//!   3  open, over an overlay        folders moved, hints and sidecars made, topics entered, transactions
//!                                   ended, a clean stop: all of it in memory, by the code of a writer
//!   4  thalweg-take-over, durable   from here on DIR/log is ours to make, and to throw away
//!   5  DIR/log written down         a file that is as it was: a second name (hard link); any other: its
//!                                   bytes from memory. All synced, names too
//!   6  format, durable              ---- the folder is ours from here on ----
//!   7  Kafka's names go             only of what has its name in DIR/log; then thalweg-take-over goes
//! ```
//!
//! A crash before 4 leaves Kafka's folder as it was. Between 4 and 6 all of Kafka's files are there under
//! their names, unchanged; `DIR/log` makes a broker refuse to start, and the next take-over throws it away
//! and begins again (or whoever removes `DIR/log` and `thalweg-take-over` has Kafka's folder back). After
//! 6 the folder opens as ours, and the next take-over finishes 7. Renaming the folders instead would not
//! do: of a rename that a power loss interrupts both names may be gone.
//!
//! Always true here: no batch of Kafka's is written to, also not later (each log goes on in a segment of
//! its own); no record is removed, as what was not set for a topic keeps our defaults, which neither
//! delete nor compact; producer ids go on above every one seen, leader epochs too.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::clock::{Clock, Entropy};
use super::folder::{CLEAN_MARKER, FORMAT, FORMAT_FILE, LOG_DIR, is_there, lock};
use super::foreign::{Survey, is_foreign, partition_of, survey};
use super::handle::PartitionHandle;
use super::open::MetadataWriter;
use super::runtime::Runtime;
use super::topics::{like, opening};
use super::{Engine, METADATA_TOPIC, OpenReport};
use crate::config::{Cleanup, Level, LogConfig, TopicConfig};
use crate::coordinator::metadata::Metadata;
use crate::disk::handles::Handles;
use crate::disk::overlay::Overlay;
use crate::disk::{Disk, DiskFile, LockKind, Open, read_exact_at, replace_file, write_all_at};
use crate::error::{Error, Result};
use crate::ids::TopicPartition;
use crate::log::{
    EPOCHS_FILE, HINT_FILE, METADATA_FILE, Opening, PartitionLog, adopt, create_folder,
};
use crate::partition::Partition;
use crate::request::TopicInfo;

/// Says that `DIR/log` is being made.
pub(super) const TAKING_OVER: &str = "thalweg-take-over";
/// How much is copied at a time.
const CHUNK: usize = 1 << 20;

/// What a take-over found and did.
#[derive(Clone, Debug, Default)]
pub struct TakeOver {
    /// Whether an earlier one had come so far that only names were left to remove: nothing else is
    /// known then.
    pub finished: bool,
    /// Whether Kafka had stopped cleanly.
    pub was_clean: bool,
    /// The topics, by name.
    pub topics: Vec<TopicInfo>,
    /// Whether their settings were found. If not, they have our defaults: nothing is deleted or
    /// compacted until they are altered.
    pub settings_known: bool,
    /// Settings that mean nothing here or are out of range, as `topic: name=value`.
    pub left_out: Vec<String>,
    /// What opening it did in the end: transactions that were aborted and finished.
    pub opened: OpenReport,
    /// Folders and files of Kafka's that stay where they are.
    pub left_behind: Vec<PathBuf>,
}

impl<D: Disk> Engine<D> {
    /// Makes a log directory of Apache Kafka a data folder of ours, in place: its partitions, positions
    /// of groups and transactional ids are served by [`Engine::open`] afterwards. Transactions that are
    /// open are ended as whenever a folder is opened: as decided, or aborted. A take-over that was
    /// interrupted is finished.
    ///
    /// The file system must have hard links. Space is needed for a few small files a partition, and for
    /// a copy of the last segment of those whose tail was torn by a power loss.
    ///
    /// # Errors
    /// `InUse` while a broker runs on it; `Damaged`, with nothing changed, when a partition does not
    /// recover; `Unsupported` when it is no such directory, when partitions of a topic are missing (they
    /// are in another log directory, or on another broker), or without hard links; `Invalid` when it is
    /// a data folder already; `Full`; `Io`.
    pub async fn take_over(
        disk: D,
        dir: impl Into<PathBuf>,
        config: LogConfig,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<TakeOver> {
        let dir = dir.into();
        disk.list(&dir).map_err(|e| Error::io("list", &dir, e))?;
        let ours = is_there(&disk, &dir.join(FORMAT_FILE))?;
        let begun = is_there(&disk, &dir.join(TAKING_OVER))?;
        if ours && !begun {
            return Err(Error::invalid(format!("{} is a data folder already", dir.display())));
        }
        if !ours && !is_foreign(&disk, &dir)? {
            let what = "it is no log directory of Apache Kafka: give one of its `log.dirs`";
            return Err(Error::Unsupported { path: dir, what: what.to_owned() });
        }
        let _locks = (
            lock(&disk, &dir, &dir.join("lock"), LockKind::Flock)?,
            lock(&disk, &dir, &dir.join(".lock"), LockKind::WithRecordLock)?,
        );
        let work = Work { log_dir: dir.join(LOG_DIR), disk, dir };
        if ours {
            let left_behind = work.remove_old_names()?;
            return Ok(TakeOver { finished: true, left_behind, ..TakeOver::default() });
        }
        work.throw_away(begun)?;
        let found = work.look(&config, &clock).await?;
        let (overlay, opened) = work.rehearse(&found, &config, &clock, &entropy).await?;
        work.write_down(&overlay)?;
        work.commit()?;
        let mut left_behind = work.remove_old_names()?;
        left_behind.extend(found.strangers);
        Ok(TakeOver {
            finished: false,
            was_clean: found.clean,
            topics: found.topics.into_values().collect(),
            settings_known: found.settings_known,
            left_out: found.left_out,
            opened,
            left_behind,
        })
    }
}

struct Work<D: Disk> {
    disk: D,
    dir: PathBuf,
    log_dir: PathBuf,
}

impl<D: Disk> Work<D> {
    /// Removes what an interrupted take-over made of `DIR/log`: second names, and copies.
    fn throw_away(&self, begun: bool) -> Result<()> {
        if !is_there(&self.disk, &self.log_dir)? {
            return Ok(());
        }
        if !begun {
            return Err(Error::Unsupported {
                path: self.log_dir.clone(),
                what: "a folder that is nobody's lies where the log would: move it away".to_owned(),
            });
        }
        for entry in self.list(&self.log_dir)? {
            let path = self.log_dir.join(&entry.name);
            if entry.is_dir {
                for file in self.list(&path)? {
                    self.remove(&path.join(&file.name))?;
                }
                self.disk.remove_dir(&path).map_err(|e| Error::io("remove", &path, e))?;
            } else {
                self.remove(&path)?;
            }
        }
        let gone = self.disk.remove_dir(&self.log_dir);
        gone.map_err(|e| Error::io("remove", &self.log_dir, e))?;
        self.sync_dir(&self.dir)
    }

    /// Sees that all of it can be read, under the names that it has now.
    async fn look(&self, config: &LogConfig, clock: &Clock) -> Result<Survey> {
        let (disk, dir) = (self.disk.clone(), self.dir.clone());
        let looking =
            Engine::look(disk, dir, config.clone(), Runtime::Inline, clock.clone()).await?;
        let damaged = looking.inner.damaged.iter().next();
        match damaged {
            None => {}
            Some((at, Error::Unknown { .. })) => {
                return Err(Error::Unsupported {
                    path: self.dir.clone(),
                    what: format!(
                        "it holds other partitions of topic {:?} but not {at}: it is on another broker or in another log directory; move all of them into one",
                        &*at.topic
                    ),
                });
            }
            Some((_, e)) => return Err(e.repeat()),
        }
        survey(&Overlay::new(self.disk.clone()), &self.dir)
    }

    /// Does all of it in memory: what is there afterwards is what is written down.
    async fn rehearse(
        &self,
        found: &Survey,
        config: &LogConfig,
        clock: &Clock,
        entropy: &Entropy,
    ) -> Result<(Overlay<D>, OpenReport)> {
        let overlay = Overlay::new(self.disk.clone());
        let made = overlay.create_dir(&self.log_dir);
        made.map_err(|e| Error::io("create", &self.log_dir, e))?;
        let handles = Handles::new(overlay.clone(), config.open_files);
        let (mut unseen, mut epoch) = (found.next_producer_id, 0);
        for at in &found.partitions {
            let Some(info) = found.topics.get(&at.topic) else { continue };
            let (from, to) = (self.dir.join(at.folder()), self.log_dir.join(at.folder()));
            overlay.rename(&from, &to).map_err(|e| Error::io("rename", &from, e))?;
            let path = to.join(METADATA_FILE);
            if !is_there(&overlay, &path)? {
                let text = format!("version: 0\ntopic_id: {}", info.id);
                replace_file(&overlay, &path, text.as_bytes())
                    .map_err(|e| Error::io("write", &path, e))?;
            }
            let (start, synced) = found.bounds(at);
            adopt(&overlay, &to, start, synced)?;
            let opening = opening(&self.log_dir, info, at.clone(), found.clean, config);
            let opening = Opening { gaps: true, ..opening };
            let (mut log, _) = PartitionLog::open(&handles, &opening)?;
            unseen = unseen.max(log.unseen_producer_id());
            epoch = epoch.max(log.last_epoch());
            log.settle_foreign()?;
        }
        self.enter_topics(&overlay, &handles, found, config, unseen, epoch, clock, entropy)?;
        let format = self.dir.join(FORMAT_FILE);
        replace_file(&overlay, &format, format!("{FORMAT}\n").as_bytes())
            .map_err(|e| Error::io("write", &format, e))?;
        let engine = Engine::open(
            overlay.clone(),
            self.dir.clone(),
            config.clone(),
            Runtime::Inline,
            clock.clone(),
            entropy.clone(),
        )
        .await?;
        if let Some(e) = engine.inner.damaged.values().next() {
            return Err(e.repeat());
        }
        engine.close()?;
        Ok((overlay, engine.report().clone()))
    }

    /// Makes the metadata's partition, with all topics and counters in it.
    #[expect(clippy::too_many_arguments, reason = "all that was found, once")]
    fn enter_topics(
        &self,
        overlay: &Overlay<D>,
        handles: &Handles<Overlay<D>>,
        found: &Survey,
        config: &LogConfig,
        unseen: i64,
        epoch: i32,
        clock: &Clock,
        entropy: &Entropy,
    ) -> Result<()> {
        let at = TopicPartition::new(METADATA_TOPIC, 0);
        let info = TopicInfo {
            name: METADATA_TOPIC.into(),
            id: entropy.uuid(),
            partitions: 1,
            config: TopicConfig {
                level: Some(Level::Disk),
                cleanup: Cleanup::Compact,
                segment_bytes: config.internal_segment_bytes,
                ..TopicConfig::default()
            },
        };
        create_folder(overlay, &self.log_dir.join(at.folder()), info.id)?;
        let opening = opening(&self.log_dir, &info, at.clone(), false, config);
        let (log, _) = PartitionLog::open(handles, &opening)?;
        let partition = Partition::new(log, info.id, Level::Disk, epoch);
        let handle = Arc::new(PartitionHandle::new(at, partition, Arc::new(info.config)));
        let mut metadata = Metadata::new();
        let now = clock.now();
        let mut writer = MetadataWriter { handle: &handle, metadata: &mut metadata, now };
        writer.write(|m| Ok(m.init(found.id)?.records))?;
        for info in found.topics.values() {
            let mut topic = like(info);
            if info.name.starts_with("__") && !found.settings_known {
                // Coordinators write the same keys again and again.
                topic.config.cleanup = Cleanup::Compact;
            }
            writer.write(|m| Ok(m.create_topic(&topic, info.id)?.records))?;
        }
        writer.write(|m| Ok(m.allocate_producer_ids(0, unseen)?.records))?;
        handle.lock().close()
    }

    /// Makes `DIR/log` of what is in memory, beside Kafka's names.
    fn write_down(&self, overlay: &Overlay<D>) -> Result<()> {
        let begun = self.dir.join(TAKING_OVER);
        let text = "This folder is being taken over from Apache Kafka: run the take-over again, or remove the folder log and this file.\n";
        replace_file(&self.disk, &begun, text.as_bytes())
            .map_err(|e| Error::io("write", &begun, e))?;
        self.create_dir(&self.log_dir)?;
        self.sync_dir(&self.dir)?;
        let entries = overlay.list(&self.log_dir);
        for entry in entries.map_err(|e| Error::io("list", &self.log_dir, e))? {
            let path = self.log_dir.join(&entry.name);
            if !entry.is_dir {
                self.place(overlay, &path)?;
                continue;
            }
            self.create_dir(&path)?;
            for file in overlay.list(&path).map_err(|e| Error::io("list", &path, e))? {
                if !file.is_dir {
                    self.place(overlay, &path.join(&file.name))?;
                }
            }
            self.sync_dir(&path)?;
        }
        self.sync_dir(&self.log_dir)
    }

    /// Makes one file of `DIR/log`, durable but for its name.
    fn place(&self, overlay: &Overlay<D>, path: &Path) -> Result<()> {
        let origin = overlay.unchanged(path).map_err(|e| Error::io("look at", path, e))?;
        if let Some(origin) = origin {
            self.disk.link(&origin, path).map_err(|e| match e.raw_os_error() {
                // EPERM, EMLINK, ENOSYS, EOPNOTSUPP: one name for each file.
                Some(1 | 31 | 38 | 95) => Error::Unsupported {
                    path: self.dir.clone(),
                    what: format!("its file system refuses second names of files ({e}): copy the folder to one that has hard links"),
                },
                _ => Error::io("link", path, e),
            })?;
            // Of a broker that was killed nobody knows what is on the medium.
            let file = self.disk.open(path, Open::Read).map_err(|e| Error::io("open", path, e))?;
            return file.sync_data().map_err(|e| Error::io("sync", path, e));
        }
        let from = overlay.open(path, Open::Read).map_err(|e| Error::io("open", path, e))?;
        let to = self.disk.open(path, Open::CreateNew);
        let to = to.map_err(|e| Error::io("create", path, e))?;
        let len = from.len().map_err(|e| Error::io("read", path, e))?;
        let (mut position, mut chunk) = (0, vec![0; CHUNK.min(len as usize)]);
        while position < len {
            let piece = (len - position).min(CHUNK as u64) as usize;
            read_exact_at(&from, &mut chunk[..piece], position)
                .map_err(|e| Error::io("read", path, e))?;
            write_all_at(&to, &chunk[..piece], position)
                .map_err(|e| Error::io("write", path, e))?;
            position += piece as u64;
        }
        to.sync_data().map_err(|e| Error::io("sync", path, e))
    }

    /// Makes the folder ours.
    fn commit(&self) -> Result<()> {
        let path = self.dir.join(FORMAT_FILE);
        replace_file(&self.disk, &path, format!("{FORMAT}\n").as_bytes())
            .map_err(|e| Error::io("write", &path, e))
    }

    /// Takes Kafka's names away from what has one in `DIR/log`. What is nobody's stays, and is returned.
    fn remove_old_names(&self) -> Result<Vec<PathBuf>> {
        let mut left_behind = Vec::new();
        for entry in self.list(&self.dir)? {
            let partition = entry.name.to_str().and_then(partition_of);
            let (old, new) = (self.dir.join(&entry.name), self.log_dir.join(&entry.name));
            if !entry.is_dir || partition.is_none() || !is_there(&self.disk, &new)? {
                continue;
            }
            let mut kept = false;
            for file in self.list(&old)? {
                let known = is_there(&self.disk, &new.join(&file.name))?
                    || file.name.to_str().is_some_and(is_of_a_partition);
                if file.is_dir || !known {
                    kept = true;
                    left_behind.push(old.join(&file.name));
                } else {
                    self.remove(&old.join(&file.name))?;
                }
            }
            match self.disk.remove_dir(&old) {
                Ok(()) => {}
                // Something of others is in it, or it is a symbolic link.
                Err(_) if kept => {}
                Err(e) if e.kind() == io::ErrorKind::NotADirectory => left_behind.push(old),
                Err(e) => return Err(Error::io("remove", &old, e)),
            }
        }
        // A broker must not take our stop for its own.
        let marker = self.dir.join(CLEAN_MARKER);
        if is_there(&self.disk, &marker)? {
            self.remove(&marker)?;
        }
        self.sync_dir(&self.dir)?;
        self.remove(&self.dir.join(TAKING_OVER))?;
        self.sync_dir(&self.dir)?;
        Ok(left_behind)
    }

    fn list(&self, dir: &Path) -> Result<Vec<crate::disk::Entry>> {
        self.disk.list(dir).map_err(|e| Error::io("list", dir, e))
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.disk.create_dir(dir).map_err(|e| Error::io("create", dir, e))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match self.disk.remove(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
            _ => Ok(()),
        }
    }
}

/// Whether a file of this name in a partition's folder belongs to the log, also one on its way in or out.
fn is_of_a_partition(name: &str) -> bool {
    let whole = [METADATA_FILE, EPOCHS_FILE, HINT_FILE];
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    let name = [".deleted", ".cleaned", ".swap"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name);
    let numbered = name.split_once('.').is_some_and(|(stem, suffix)| {
        stem.len() == 20
            && stem.bytes().all(|b| b.is_ascii_digit())
            && ["log", "index", "timeindex", "txnindex", "snapshot", "sidecar"].contains(&suffix)
    });
    numbered || whole.contains(&name)
}
