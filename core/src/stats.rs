//! F5 · What a folder holds, in numbers, beside a living log or without one.
//!
//! Always true here: nothing is written and no lock taken. A living log goes on while it is counted: each
//! partition's numbers agree with each other, those of two partitions need not.

use std::path::Path;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::TopicPartition;
use crate::log::stats::partition;
use crate::log::verify::Known;
use crate::verify::{Folder, checkpoint_of, folder, name_of};

pub use crate::log::stats::Stats;

/// Counts what the partitions of a topic hold, or those of all topics, by topic and number.
///
/// # Errors
/// `Unsupported` for a folder that holds no log; `Unknown` when the topic has no folder; `Io`.
pub fn stats<D: Disk>(
    disk: &D,
    dir: &Path,
    topic: Option<&str>,
) -> Result<Vec<(TopicPartition, Stats)>> {
    let log = match folder(disk, dir)? {
        Folder::Data { log } => log,
        Folder::Log => dir.to_owned(),
        Folder::Partition => {
            let at = name_of(dir).unwrap_or_else(|| TopicPartition::new("", 0));
            return Ok(vec![(at, partition(disk, dir, &Known::default())?)]);
        }
    };
    let starts = checkpoint_of(disk, &log.join("log-start-offset-checkpoint"));
    let points = checkpoint_of(disk, &log.join("recovery-point-offset-checkpoint"));
    let mut all = Vec::new();
    for entry in disk.list(&log).map_err(|e| Error::io("list", &log, e))? {
        let path = log.join(&entry.name);
        let Some(at) = name_of(&path).filter(|_| entry.is_dir) else { continue };
        if topic.is_some_and(|topic| topic != &*at.topic) {
            continue;
        }
        let of = |list: &[(TopicPartition, i64)]| {
            list.iter().find(|(other, _)| *other == at).map(|(_, offset)| *offset)
        };
        let known =
            Known { recovery_point: of(&points), log_start: of(&starts), ..Known::default() };
        let found = partition(disk, &path, &known)?;
        all.push((at, found));
    }
    if let Some(topic) = topic.filter(|_| all.is_empty()) {
        return Err(Error::Unknown { what: format!("topic {topic:?}") });
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(all)
}
