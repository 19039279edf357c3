//! F6 · Looking at a folder without changing it, also while somebody writes in it.
//!
//! ```text
//!   Overlay over the disk        no lock, no byte, no name: see disk/overlay.rs
//!   metadata -> topics
//!   every partition recovered    in memory, by the code of a writer: up to the last valid batch
//!   metadata again               until it names the topics that were opened
//!   coordinators: replay         what was under way stays so
//! ```
//!
//! Always true here: nothing is decided. Open transactions stay open, so a reader of committed records
//! stops before them: their producer may be alive and commit them the next moment. Members stay members,
//! no epoch is taken, and everything that writes is refused with [`Error::ReadOnly`].
//!
//! Somebody may create, roll, sync, rename and delete between any two of our reads. So what does not fit
//! together is looked at again from the list of names on, and believed when it fails twice alike; a topic
//! is there, or damaged, only if the metadata still names it after its folders were opened.
//!
//! A log directory of Apache Kafka (`foreign.rs`) is looked at in the same way: its names of folders are
//! the metadata, its checkpoints become our hints, in memory; offsets may be missing anywhere in it, and
//! what a stale side file of ours says of it is not believed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::clock::{Clock, Entropy};
use super::folder::{CLEAN_MARKER, FORMAT_FILE, LOG_DIR, check_format, is_there};
use super::foreign::{Survey, is_foreign, survey};
use super::handle::PartitionHandle;
use super::open::{Logs, MetadataWriter, OpenReport, Opened, Opener};
use super::replay::replay;
use super::runtime::Runtime;
use super::take_over::TAKING_OVER;
use super::topics::{like, open_partition};
use super::{Engine, Inner, METADATA_TOPIC, OFFSETS_TOPIC, Partitions, Shard, TRANSACTIONS_TOPIC};
use crate::config::{Level, LogConfig, TopicConfig};
use crate::coordinator::metadata::Metadata;
use crate::disk::Disk;
use crate::disk::handles::Handles;
use crate::disk::overlay::Overlay;
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, TopicPartition, Uuid};
use crate::log::{METADATA_FILE, PartitionLog, adopt, create_folder, topic_id_of};
use crate::partition::Partition;
use crate::request::{NewTopic, TopicInfo};

/// How often something is looked at that failed differently each time.
const TRIES: usize = 8;
/// How often the topics may change while they are opened.
const ROUNDS: usize = 16;
/// How often, and in what steps, a folder is waited for that is just being made.
const BEGINNINGS: u32 = 50;
const BEGINNING: Duration = Duration::from_millis(20);

impl<D: Disk> Engine<D> {
    /// Opens the data folder `dir`, or a log directory of Apache Kafka, to be looked at: takes no lock,
    /// makes and changes nothing, and may run beside the process that writes there.
    ///
    /// The log ends for this engine at the last valid batch that was there when it was opened, whether
    /// its writer had synced that or not; records that are deleted meanwhile are [`Error::Gone`].
    /// Transactions that were open then stay open. Reading and listing work as on any engine; whatever
    /// writes is refused with [`Error::ReadOnly`].
    ///
    /// ```
    /// # use thalweg_core::engine::{Engine, clock::{Clock, Entropy}, runtime::Runtime};
    /// # use thalweg_core::{config::LogConfig, disk::real::RealDisk};
    /// # #[tokio::main]
    /// # async fn main() -> thalweg_core::Result<()> {
    /// # let folder = tempfile::tempdir().expect("a temporary folder");
    /// # let (dir, now) = (folder.path(), Runtime::current());
    /// let config = LogConfig::default();
    /// let writer =
    ///     Engine::open(RealDisk, dir, config.clone(), now.clone(), Clock::System, Entropy::System)
    ///         .await?;
    /// let looking = Engine::look(RealDisk, dir, config, now, Clock::System).await?;
    /// assert!(looking.report().damaged.is_empty());
    /// # writer.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Io` when there is no such folder; `Unsupported` when it holds no log, or one of a newer layout;
    /// `Damaged` when the metadata or a coordinator cannot be trusted; `Retry` when its topics change
    /// faster than they can be opened.
    pub async fn look(
        disk: D,
        dir: impl Into<PathBuf>,
        config: LogConfig,
        runtime: Runtime,
        clock: Clock,
    ) -> Result<Engine<Overlay<D>>> {
        let dir = dir.into();
        let disk = Overlay::new(disk);
        let ours = is_ours(&disk, &dir)?;
        if ours {
            check_format(&disk, &dir)?;
        }
        let log_dir = if ours { dir.join(LOG_DIR) } else { dir.clone() };
        let mut opener = Opener {
            handles: Handles::new(disk.clone(), config.open_files),
            disk,
            dir,
            log_dir,
            config,
            runtime,
            clock,
            // Nothing is made, so nothing has to be unlike anything else.
            entropy: Entropy::seeded(0),
            report: OpenReport::default(),
            known_durable: BTreeMap::new(),
        };
        let mut turn = 0;
        let inner = loop {
            let looked = if ours { opener.look()? } else { opener.look_at_foreign().map(Some)? };
            if let Some(inner) = looked {
                break inner;
            }
            turn += 1;
            if turn > BEGINNINGS || opener.runtime.is_inline() {
                return Err(Error::Unsupported {
                    path: opener.dir,
                    what: "it holds no whole log: whoever made it was stopped; open it for writing once"
                        .to_owned(),
                });
            }
            opener.runtime.sleep(BEGINNING).await;
        };
        let inner = Arc::new(inner);
        Ok(Engine { inner, locks: Mutex::new(None), report: opener.report })
    }
}

/// Whether a folder holds a log of ours, or one of Apache Kafka. Refuses any other, in which a writer
/// would make one.
fn is_ours<D: Disk>(disk: &D, dir: &Path) -> Result<bool> {
    disk.list(dir).map_err(|e| Error::io("list", dir, e))?;
    let ours = [PathBuf::from(FORMAT_FILE), Path::new(LOG_DIR).join(format!("{METADATA_TOPIC}-0"))];
    // While a take-over is under way, what it makes is there as well.
    if !is_there(disk, &dir.join(TAKING_OVER))? || is_there(disk, &dir.join(FORMAT_FILE))? {
        for name in ours {
            if is_there(disk, &dir.join(name))? {
                return Ok(true);
            }
        }
    }
    if is_foreign(disk, dir)? {
        return Ok(false);
    }
    Err(Error::Unsupported {
        path: dir.to_owned(),
        what: "it holds no log: there is neither a `format` in it nor anything of Apache Kafka; give the data folder"
            .to_owned(),
    })
}

/// A partition that could not be opened, of a topic that may be gone.
type Failed = BTreeMap<TopicPartition, Error>;

/// The metadata as it was at one moment.
struct Image<D: Disk> {
    log: PartitionLog<Overlay<D>>,
    info: TopicInfo,
    metadata: Metadata,
}

impl<D: Disk> Image<D> {
    /// What tells one set of topics from another.
    fn topics(&self) -> BTreeSet<(Uuid, u32)> {
        self.metadata.topics().map(|info| (info.id, info.partitions)).collect()
    }
}

impl<D: Disk> Opener<Overlay<D>> {
    /// Opens everything; `None` while the log is just being made.
    fn look(&mut self) -> Result<Option<Inner<Overlay<D>>>> {
        self.disk.forget(&self.dir.clone());
        self.report = OpenReport::default();
        if !is_there(&self.disk, &self.log_dir)? {
            return Ok(None);
        }
        self.report.clean = is_there(&self.disk, &self.log_dir.join(CLEAN_MARKER))?;
        let (mut logs, mut failed) = (Logs::new(), Failed::new());
        let mut image = self.image()?;
        for _ in 0..ROUNDS {
            let whole = [OFFSETS_TOPIC, TRANSACTIONS_TOPIC];
            let whole = whole.iter().all(|name| image.metadata.topic(name).is_ok());
            if image.metadata.log_id().is_none() {
                self.refuse_without_metadata()?;
            }
            let Some(id) = image.metadata.log_id().filter(|_| whole) else { return Ok(None) };
            self.look_at_topics(&image.metadata, &mut logs, &mut failed);
            let before = image.topics();
            image = self.image()?;
            if image.topics() == before {
                return self.lay_open(image, id, logs, failed).map(Some);
            }
        }
        Err(Error::Retry {
            what: format!("the topics in {} change while they are opened", self.dir.display()),
        })
    }

    /// Opens everything in a log directory of Apache Kafka.
    fn look_at_foreign(&mut self) -> Result<Inner<Overlay<D>>> {
        let (mut logs, mut failed) = (Logs::new(), Failed::new());
        let mut found = self.survey_now()?;
        for _ in 0..ROUNDS {
            self.report.clean = found.clean;
            let named = |at: &TopicPartition| found.topics.get(&at.topic).map(|info| info.id);
            logs.retain(|at, (_, info)| {
                found.partitions.contains(at) && named(at) == Some(info.id)
            });
            failed.clear();
            for at in &found.partitions {
                if let Some(info) = found.topics.get(&at.topic)
                    && !logs.contains_key(at)
                {
                    self.look_at_partition(
                        at,
                        info,
                        Some(found.bounds(at)),
                        &mut logs,
                        &mut failed,
                    );
                }
            }
            let before = found.identity();
            found = self.survey_now()?;
            if found.identity() == before {
                return self.lay_open_foreign(&found, logs, failed);
            }
        }
        Err(Error::Retry {
            what: format!("the topics in {} change while they are opened", self.dir.display()),
        })
    }

    /// What is in a foreign folder now.
    fn survey_now(&mut self) -> Result<Survey> {
        let dir = self.dir.clone();
        self.look_until_sure(&dir, |this| {
            // Not over what the partitions found, which are looked at through the same names.
            survey(&this.disk.afresh(), &this.dir)
        })
    }

    /// Reads the metadata as it is now.
    fn image(&mut self) -> Result<Image<D>> {
        let at = TopicPartition::new(METADATA_TOPIC, 0);
        let dir = self.log_dir.join(at.folder());
        self.disk.forget(&dir);
        self.look_until_sure(&dir, |this| {
            let (log, info) = this.open_metadata()?;
            let mut metadata = Metadata::new();
            replay(&log, &at, &this.log_dir, |_, record| {
                metadata.replay(record.key.unwrap_or_default(), record.value)
            })?;
            Ok(Image { log, info, metadata })
        })
    }

    /// Tries until it works, or fails in the same way twice: then nobody moved anything in between.
    fn look_until_sure<T>(
        &mut self,
        dir: &Path,
        mut look: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let mut before = None;
        for _ in 1..TRIES {
            match look(self) {
                Ok(found) => return Ok(found),
                Err(e) => {
                    let said = e.to_string();
                    if before.as_ref() == Some(&said) {
                        return Err(e);
                    }
                    before = Some(said);
                }
            }
            self.disk.forget(dir);
        }
        look(self)
    }

    /// Opens the partitions that are not open yet, and lets go of those whose topic is gone.
    fn look_at_topics(
        &mut self,
        metadata: &Metadata,
        logs: &mut Logs<Overlay<D>>,
        failed: &mut Failed,
    ) {
        let known: BTreeMap<Uuid, &TopicInfo> =
            metadata.topics().map(|info| (info.id, info)).collect();
        logs.retain(|_, (_, info)| known.contains_key(&info.id));
        failed.clear();
        for info in known.into_values() {
            for number in 0..info.partitions {
                let at = TopicPartition::new(Arc::clone(&info.name), number);
                if logs.contains_key(&at) {
                    continue;
                }
                self.look_at_partition(&at, info, None, logs, failed);
            }
        }
    }

    /// Opens one partition; a foreign one within its bounds.
    fn look_at_partition(
        &mut self,
        at: &TopicPartition,
        info: &TopicInfo,
        foreign: Option<(Offset, Offset)>,
        logs: &mut Logs<Overlay<D>>,
        failed: &mut Failed,
    ) {
        let mut opening = self.opening(info, at.clone(), self.report.clean);
        opening.gaps = foreign.is_some();
        self.disk.forget(&opening.dir);
        let opened = self.look_until_sure(&opening.dir, |this| {
            match foreign {
                Some((start, synced)) => {
                    check_id(&this.disk, &opening.dir, info.id)?;
                    adopt(&this.disk, &opening.dir, start, synced)?;
                }
                // In memory: a crash may have come between a topic's record and its folders.
                None => create_folder(&this.disk, &opening.dir, info.id)?,
            }
            PartitionLog::open(&this.handles, &opening)
        });
        match opened {
            Ok((log, recovered)) => {
                self.note(&recovered);
                logs.insert(at.clone(), (log, info.clone()));
            }
            Err(e) => _ = failed.insert(at.clone(), e),
        }
    }

    /// Makes an engine of what was found.
    fn lay_open(
        &mut self,
        image: Image<D>,
        id: Uuid,
        logs: Logs<Overlay<D>>,
        failed: Failed,
    ) -> Result<Inner<Overlay<D>>> {
        let damaged = set_aside(failed)?;
        let Image { log, info, metadata } = image;
        let epoch = metadata.leader_epoch();
        let handle = metadata_handle(log, info, epoch);
        let partitions = self.lead(&metadata, logs, &damaged, epoch, &handle)?;
        let groups = self.load_groups(&metadata, &partitions)?;
        let transactions = self.load_transactions(&metadata, &partitions)?;
        self.report.strangers = self.strangers(&metadata)?;
        let metadata = Shard { handle, state: Mutex::new(metadata) };
        let opened = Opened { id, epoch, metadata, partitions, damaged, groups, transactions };
        Ok(self.assemble(opened, true))
    }

    /// As `lay_open`, of what Kafka wrote. Coordinators that are not here are empty ones in memory.
    fn lay_open_foreign(
        &mut self,
        found: &Survey,
        logs: Logs<Overlay<D>>,
        failed: Failed,
    ) -> Result<Inner<Overlay<D>>> {
        let mut damaged = set_aside(failed)?;
        let epoch = logs.values().map(|(log, _)| log.last_epoch()).max().unwrap_or(-1);
        let (log, info) = self.open_metadata()?;
        let handle = metadata_handle(log, info, epoch);
        let mut metadata = Metadata::new();
        let now = self.clock.now();
        let mut writer = MetadataWriter { handle: &handle, metadata: &mut metadata, now };
        writer.write(|m| Ok(m.init(found.id)?.records))?;
        for info in found.topics.values() {
            writer.write(|m| Ok(m.create_topic(&like(info), info.id)?.records))?;
        }
        let mut partitions = Partitions::new();
        for (at, (log, info)) in logs {
            let partition = Partition::new(log, info.id, self.config.level, epoch);
            let handle = PartitionHandle::new(at.clone(), partition, Arc::new(info.config));
            partitions.insert(at, Arc::new(handle));
        }
        // What a coordinator needs and a reader does not see.
        let (mut hidden, mut all) = (metadata.clone(), partitions.clone());
        for name in [OFFSETS_TOPIC, TRANSACTIONS_TOPIC] {
            if hidden.topic(name).is_err() {
                let config = TopicConfig::default();
                let topic = NewTopic { name: name.to_owned(), partitions: 1, config };
                for record in hidden.create_topic(&topic, self.entropy.uuid())?.records {
                    hidden.replay(&record.key, record.value.as_deref()).map_err(|e| {
                        Error::invalid(format!("{METADATA_TOPIC}: own record: {e}"))
                    })?;
                }
            }
            let info = hidden.topic(name)?;
            for number in 0..info.partitions {
                let at = TopicPartition::new(name, number);
                let Entry::Vacant(missing) = all.entry(at.clone()) else { continue };
                let opening = self.opening(info, at, true);
                create_folder(&self.disk, &opening.dir, info.id)?;
                let level = self.config.level;
                let (handle, _) = open_partition(&self.handles, &opening, info, level, epoch)?;
                missing.insert(handle);
            }
        }
        let groups = self.load_groups(&hidden, &all)?;
        let transactions = self.load_transactions(&hidden, &all)?;
        for info in metadata.topics() {
            for number in 0..info.partitions {
                let at = TopicPartition::new(Arc::clone(&info.name), number);
                if !partitions.contains_key(&at) && !damaged.contains_key(&at) {
                    let what = format!("partition {at} (its folder is not in this log directory)");
                    damaged.insert(at, Error::Unknown { what });
                }
            }
        }
        self.report.strangers.clone_from(&found.strangers);
        let metadata = Shard { handle, state: Mutex::new(metadata) };
        let id = found.id;
        let opened = Opened { id, epoch, metadata, partitions, damaged, groups, transactions };
        Ok(self.assemble(opened, true))
    }
}

/// Sets damaged partitions of users aside; anything else refuses.
fn set_aside(failed: Failed) -> Result<Failed> {
    let mut damaged = Failed::new();
    for (at, e) in failed {
        match e {
            Error::Damaged { .. } if !at.topic.starts_with("__") => _ = damaged.insert(at, e),
            e => return Err(e),
        }
    }
    Ok(damaged)
}

fn metadata_handle<D: Disk>(
    log: PartitionLog<D>,
    info: TopicInfo,
    epoch: LeaderEpoch,
) -> Arc<PartitionHandle<D>> {
    let at = TopicPartition::new(METADATA_TOPIC, 0);
    let partition = Partition::new(log, info.id, Level::Disk, epoch);
    Arc::new(PartitionHandle::new(at, partition, Arc::new(info.config)))
}

/// Refuses a folder that says to be another topic's. One that says nothing is what its name says.
fn check_id<D: Disk>(disk: &D, dir: &Path, id: Uuid) -> Result<()> {
    match topic_id_of(disk, dir)? {
        Some(found) if found != id => {
            let what = format!(
                "the folder belongs to topic id {found}, other partitions of its topic to {id}: move it away"
            );
            Err(Error::damaged(&dir.join(METADATA_FILE), 0, what))
        }
        _ => Ok(()),
    }
}
