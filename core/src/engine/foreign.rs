//! F6 · What is in a log directory of Apache Kafka.
//!
//! ```text
//!   DIR/meta.properties                    the cluster's id
//!   DIR/.kafka_cleanshutdown               after a clean stop
//!   DIR/recovery-point-offset-checkpoint   how far each partition was synced
//!   DIR/log-start-offset-checkpoint        where those begin that were cut from the front
//!   DIR/<topic>-<partition>/               partition.metadata names the topic's id
//!   DIR/__cluster_metadata-0/              the topics' settings; not served
//!   DIR/*-delete, *-stray, *-future        strangers, as any other folder
//! ```
//!
//! Always true here: nothing is written; a folder is a partition's when its name says so, whatever the
//! cluster's metadata says; a topic is as wide as its highest partition, and lower ones that are not here
//! are said to be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::METADATA_TOPIC;
use super::folder::{CLEAN_MARKER, is_there};
use crate::batch::{self, Scratch, crc32c};
use crate::config::TopicConfig;
use crate::coordinator::cluster::{Cluster, ClusterTopic};
use crate::disk::{Disk, read_file};
use crate::error::{Error, Result};
use crate::ids::{Offset, TopicPartition, Uuid, check_topic_name};
use crate::log::{METADATA_FILE, topic_id_of};
use crate::request::TopicInfo;

/// Kafka's own metadata.
const CLUSTER_TOPIC: &str = "__cluster_metadata";
const PROPERTIES: &str = "meta.properties";
const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
const LOG_STARTS: &str = "log-start-offset-checkpoint";
/// The largest checkpoint or segment of metadata that is read.
const FILE_LIMIT: u64 = 256 << 20;

/// What was found.
pub(super) struct Survey {
    /// The cluster's id.
    pub(super) id: Uuid,
    /// Whether the broker stopped cleanly.
    pub(super) clean: bool,
    /// By name, with the settings that were found for them.
    pub(super) topics: BTreeMap<Arc<str>, TopicInfo>,
    /// The partitions whose folders are here.
    pub(super) partitions: BTreeSet<TopicPartition>,
    /// Settings that mean nothing here or are out of range: `topic: name=value`.
    pub(super) left_out: Vec<String>,
    /// Whether the topics' settings could be read.
    pub(super) settings_known: bool,
    /// No producer id from this on was given out by the cluster.
    pub(super) next_producer_id: i64,
    /// Folders that are no partitions.
    pub(super) strangers: Vec<PathBuf>,
    synced: BTreeMap<TopicPartition, Offset>,
    starts: BTreeMap<TopicPartition, Offset>,
}

impl Survey {
    /// Where a partition begins, and how far it was synced, as its checkpoints say.
    pub(super) fn bounds(&self, at: &TopicPartition) -> (Offset, Offset) {
        let of = |all: &BTreeMap<TopicPartition, Offset>| all.get(at).copied().unwrap_or(0);
        (of(&self.starts), of(&self.synced))
    }

    /// What tells one look from the next.
    pub(super) fn identity(&self) -> BTreeSet<(Uuid, u32)> {
        let of = |at: &TopicPartition| {
            (self.topics.get(&at.topic).map_or(Uuid([0; 16]), |info| info.id), at.partition)
        };
        self.partitions.iter().map(of).collect()
    }
}

/// Whether `dir` is a log directory of Apache Kafka, or a copy of folders of one.
pub(super) fn is_foreign<D: Disk>(disk: &D, dir: &Path) -> Result<bool> {
    if is_there(disk, &dir.join(PROPERTIES))? || is_there(disk, &dir.join(RECOVERY_POINTS))? {
        return Ok(true);
    }
    for entry in disk.list(dir).map_err(|e| Error::io("list", dir, e))? {
        let partition = entry.name.to_str().and_then(partition_of);
        if entry.is_dir && partition.is_some() {
            let folder = dir.join(&entry.name);
            if is_there(disk, &folder.join(METADATA_FILE))? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Looks at everything but the batches of the topics.
///
/// # Errors
/// `Damaged` naming a checkpoint that is none; `Io`.
pub(super) fn survey<D: Disk>(disk: &D, dir: &Path) -> Result<Survey> {
    let mut found = Survey {
        id: cluster_id(disk, dir)?,
        clean: is_there(disk, &dir.join(CLEAN_MARKER))?,
        topics: BTreeMap::new(),
        partitions: BTreeSet::new(),
        left_out: Vec::new(),
        settings_known: false,
        next_producer_id: 0,
        strangers: Vec::new(),
        synced: checkpoint(disk, &dir.join(RECOVERY_POINTS))?,
        starts: checkpoint(disk, &dir.join(LOG_STARTS))?,
    };
    for entry in disk.list(dir).map_err(|e| Error::io("list", dir, e))? {
        if !entry.is_dir {
            continue;
        }
        let served = |at: &TopicPartition| ![CLUSTER_TOPIC, METADATA_TOPIC].contains(&&*at.topic);
        let Some(at) = entry.name.to_str().and_then(partition_of).filter(served) else {
            found.strangers.push(dir.join(&entry.name));
            continue;
        };
        let id = match topic_id_of(disk, &dir.join(&entry.name)) {
            // Told when the partition is opened: the others go on.
            Err(Error::Damaged { .. }) => None,
            id => id?,
        };
        let topic = found.topics.entry(Arc::clone(&at.topic)).or_insert_with(|| TopicInfo {
            name: Arc::clone(&at.topic),
            id: Uuid([0; 16]),
            partitions: 0,
            config: TopicConfig::default(),
        });
        topic.partitions = topic.partitions.max(at.partition + 1);
        if let Some(id) = id
            && topic.id == Uuid([0; 16])
        {
            topic.id = id;
        }
        found.partitions.insert(at);
    }
    for topic in found.topics.values_mut().filter(|topic| topic.id == Uuid([0; 16])) {
        // The broker would make one when it starts.
        topic.id = made_of(&topic.name);
    }
    let cluster = cluster(disk, &dir.join(format!("{CLUSTER_TOPIC}-0")));
    if let Some(cluster) = &cluster {
        found.settings_known = true;
        found.next_producer_id = cluster.next_producer_id();
        for (name, topic) in &mut found.topics {
            if let Some(known) = cluster.topic(name, topic.id) {
                topic.config = config_of(name, known, &mut found.left_out);
            }
        }
    }
    Ok(found)
}

/// The settings that were set for a topic. What was not set keeps our default, which deletes nothing.
fn config_of(name: &str, known: &ClusterTopic, left_out: &mut Vec<String>) -> TopicConfig {
    let mut config = TopicConfig::default();
    for (setting, value) in &known.settings {
        let change = BTreeMap::from([(setting.clone(), Some(value.clone()))]);
        match config.altered(&change) {
            Ok(changed) => config = changed,
            Err(_) => left_out.push(format!("{name}: {setting}={value}")),
        }
    }
    config
}

/// The partition whose folder has this name.
pub(super) fn partition_of(name: &str) -> Option<TopicPartition> {
    let (topic, number) = name.rsplit_once('-')?;
    let at = TopicPartition::new(topic, number.parse().ok()?);
    (check_topic_name(topic).is_ok() && at.folder() == name).then_some(at)
}

/// An id for something that has none: the same for the same name.
fn made_of(name: &str) -> Uuid {
    let mut bytes = [0; 16];
    for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
        four.copy_from_slice(&crc32c(format!("{at} {name}").as_bytes()).to_be_bytes());
    }
    Uuid::from_random(bytes)
}

fn cluster_id<D: Disk>(disk: &D, dir: &Path) -> Result<Uuid> {
    let path = dir.join(PROPERTIES);
    let text = match read_file(disk, &path, 1 << 16) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let named = text.lines().find_map(|line| line.trim().strip_prefix("cluster.id="));
    let named = named.map(str::trim).unwrap_or_default();
    Ok(Uuid::parse(named).unwrap_or_else(|_| made_of(named)))
}

/// Reads a file of offsets by partition; one that is missing or empty holds none.
fn checkpoint<D: Disk>(disk: &D, path: &Path) -> Result<BTreeMap<TopicPartition, Offset>> {
    let bytes = match read_file(disk, path, FILE_LIMIT) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(Error::io("read", path, e)),
    };
    parse_checkpoint(&bytes).ok_or_else(|| {
        let what =
            "not a checkpoint of version 0 with as many lines as it says: restore it from a copy";
        Error::damaged(path, 0, what)
    })
}

fn parse_checkpoint(bytes: &[u8]) -> Option<BTreeMap<TopicPartition, Offset>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let Some(version) = lines.next() else { return Some(BTreeMap::new()) };
    if version.trim() != "0" {
        return None;
    }
    let count: usize = lines.next()?.trim().parse().ok()?;
    let mut all = BTreeMap::new();
    for line in lines.by_ref() {
        let mut words = line.split_whitespace();
        let (topic, number, offset) = (words.next()?, words.next()?, words.next()?);
        let offset: Offset = offset.parse().ok().filter(|&offset| offset >= 0)?;
        let at = TopicPartition::new(topic, number.parse().ok()?);
        if words.next().is_some() || all.insert(at, offset).is_some() {
            return None;
        }
    }
    (all.len() == count).then_some(all)
}

/// Kafka's metadata, from its newest snapshot on; `None` when it is not here or is not to be read: then
/// nobody knows the topics' settings.
fn cluster<D: Disk>(disk: &D, dir: &Path) -> Option<Cluster> {
    let entries = disk.list(dir).ok()?;
    let names: Vec<&str> = entries.iter().filter_map(|e| e.name.to_str()).collect();
    let number = |name: &str, suffix: &str| -> Option<Offset> {
        let stem = name.strip_suffix(suffix)?;
        stem.split('-').next()?.parse().ok().filter(|_| stem.len() >= 20)
    };
    let newest = names.iter().filter_map(|n| Some((number(n, ".checkpoint")?, *n))).max();
    let from = newest.map_or(0, |(offset, _)| offset);
    let mut segments: Vec<(Offset, &str)> =
        names.iter().filter_map(|n| Some((number(n, ".log")?, *n))).collect();
    segments.sort_unstable();
    let first = segments.iter().rposition(|(base, _)| *base <= from)?;
    let mut cluster = Cluster::new();
    if let Some((_, name)) = newest {
        replay(disk, &dir.join(name), 0, false, &mut cluster)?;
    }
    let last = segments.len() - 1;
    for (at, (_, name)) in segments.iter().enumerate().skip(first) {
        replay(disk, &dir.join(name), from, at == last, &mut cluster)?;
    }
    Some(cluster)
}

/// Takes in the records of a file from an offset on. Only the last file may be torn.
fn replay<D: Disk>(
    disk: &D,
    path: &Path,
    from: Offset,
    may_be_torn: bool,
    cluster: &mut Cluster,
) -> Option<()> {
    let bytes = read_file(disk, path, FILE_LIMIT).ok()?;
    let mut scratch = Scratch::default();
    for batch in batch::batches(&bytes) {
        let whole = batch.ok().filter(|batch| batch.check_crc().is_ok());
        let Some(batch) = whole else { return may_be_torn.then_some(()) };
        if batch.header.is_control() || batch.header.last_offset() < from {
            continue;
        }
        for record in batch.records(&mut scratch).ok()? {
            let record = record.ok()?;
            if record.offset >= from {
                cluster.replay(record.value?).ok()?;
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_partitions_are_partitions() {
        let named = |name| partition_of(name).map(|at| (at.topic.to_string(), at.partition));
        assert_eq!(named("a-b-12"), Some(("a-b".to_owned(), 12)));
        assert_eq!(named("__consumer_offsets-0"), Some(("__consumer_offsets".to_owned(), 0)));
        for other in
            ["a", "a-", "-1", "a-01", "a-+1", "a--1", "a b-0", "..-0", "a-1.abc-delete", "é-0"]
        {
            assert_eq!(named(other).filter(|_| other != "a--1"), None, "{other}");
        }
    }

    #[test]
    fn a_checkpoint_is_read_whole_or_refused() {
        let read = |text: &str| parse_checkpoint(text.as_bytes()).map(|all| all.len());
        let table = [
            ("", Some(0)),
            ("0\n0\n", Some(0)),
            ("0\n2\na 0 5\na 1\t7\n", Some(2)),
            ("0\n1\na 0 5", Some(1)),
            ("0\n", None),
            ("1\n0\n", None),
            ("0\n2\na 0 5\n", None),
            ("0\n1\na 0 5\nb 0 5\n", None),
            ("0\n2\na 0 5\na 0 6\n", None),
            ("0\n1\na 0 -5\n", None),
            ("0\n1\na 0 5 6\n", None),
            ("0\n1\na x 5\n", None),
        ];
        for (text, found) in table {
            assert_eq!(read(text), found, "{text:?}");
        }
        assert_eq!(parse_checkpoint(&[0xff]), None);
    }
}
