//! A golden folder on a simulated disk, looked at by the engine.

use std::path::Path;

use futures::executor::block_on;
use thalweg_core::batch::{BatchHeader, Scratch, Visible};
use thalweg_core::client::log::*;
use thalweg_core::config::LogConfig;
use thalweg_core::disk::sim::SimDisk;
use thalweg_core::disk::{Disk, DiskFile, Open, write_all_at};
use thalweg_core::engine::Engine;
use thalweg_core::engine::clock::Clock;
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::ids::{Offset, TopicPartition};
use thalweg_core::record::RecordRef;

use crate::folder::{Folder, Partition};

/// Where the folder lies.
pub(crate) const DIR: &str = "/kafka";
/// A while after the folders were written.
pub(crate) const NOW: i64 = 1_790_000_000_000;

pub(crate) fn config() -> LogConfig {
    LogConfig { min_free_bytes: 0, ..LogConfig::default() }
}

/// Puts the files where Kafka had them; only those of the folders that are wanted.
pub(crate) fn lay_out(folder: &Folder, disk: &SimDisk, wanted: impl Fn(&str) -> bool) {
    let outside = disk.door_outside();
    let make = |dir: &Path| match outside.create_dir(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => panic!("{e}"),
        _ => {}
    };
    make(Path::new(DIR));
    for (name, bytes) in folder.data_files() {
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 1 {
            if !wanted(parts[0]) {
                continue;
            }
            make(&Path::new(DIR).join(parts[0]));
        }
        let file = outside.open(&Path::new(DIR).join(name), Open::Create).expect("made");
        write_all_at(&file, bytes, 0).expect("written");
        file.sync_data().expect("synced");
    }
    for entry in outside.list(Path::new(DIR)).expect("listed").iter().filter(|e| e.is_dir) {
        outside.sync_dir(&Path::new(DIR).join(&entry.name)).expect("synced");
    }
    outside.sync_dir(Path::new(DIR)).expect("synced");
    outside.sync_dir(Path::new("/")).expect("synced");
}

/// A log that is read.
pub(crate) struct Looked {
    pub(crate) log: Box<dyn Log>,
}

impl Looked {
    /// Looks at a whole folder, and is sure that this changed nothing.
    pub(crate) fn at(folder: &Folder) -> Self {
        let disk = SimDisk::new(1);
        lay_out(folder, &disk, |_| true);
        let before = disk.operations();
        let looking = block_on(look(&disk)).expect("opens");
        assert_eq!(looking.report().damaged, []);
        let clean = folder.data(".kafka_cleanshutdown").is_some();
        assert_eq!((looking.report().clean, looking.report().cut_bytes), (clean, 0));
        assert_eq!(disk.operations(), before, "{:#?}", disk.trace());
        looking.check_coordinators().expect("they are what their partitions say");
        Self { log: Box::new(looking) }
    }

    pub(crate) fn offsets(&self, at: &TopicPartition) -> PartitionOffsets {
        block_on(self.log.offsets(at)).expect("there")
    }

    /// Gives the records that a reader sees from an offset on, until it has seen enough.
    pub(crate) fn visible(
        &self,
        at: &TopicPartition,
        isolation: Isolation,
        mut offset: Offset,
        mut see: impl FnMut(&BatchHeader, &RecordRef<'_>) -> bool,
    ) {
        let options = FetchOptions { isolation, max_wait: std::time::Duration::ZERO, max_bytes: 0 };
        let mut scratch = Scratch::default();
        loop {
            let from = FetchFrom { at: at.clone(), offset, max_bytes: 3000 };
            let fetched = block_on(self.log.fetch(&[from], options)).expect("fetched");
            let one = &fetched[0];
            for batch in Visible::new(&one.batches, &one.aborted, offset) {
                let batch = batch.expect("decodes");
                let records = batch.records(&mut scratch).expect("decodes");
                for record in records.starting_at(offset) {
                    if !see(&batch.header, &record.expect("decodes")) {
                        return;
                    }
                }
            }
            if one.next_offset == offset {
                return;
            }
            offset = one.next_offset;
        }
    }

    /// What Kafka's clients were told.
    pub(crate) fn answer(&self, at: &TopicPartition, question: &str) -> String {
        let (kind, argument) = question.split_once(' ').expect("a kind and an argument");
        let number = || argument.parse::<i64>().expect("a number");
        let offsets = self.offsets(at);
        let looked_up = |spec| {
            let found = block_on(self.log.list_offset(at, spec, Isolation::ReadUncommitted));
            let found = found.expect("looked up");
            found.map_or("none".to_owned(), |f| format!("{} {}", f.offset, f.timestamp))
        };
        let first = |isolation| {
            let mut found = "none".to_owned();
            if number() <= offsets.high_watermark {
                self.visible(at, isolation, number().max(offsets.start), |_, record| {
                    found = record.offset.to_string();
                    false
                });
            }
            found
        };
        match (kind, argument) {
            ("start", _) => offsets.start.to_string(),
            ("end", "read_committed") => offsets.last_stable.to_string(),
            ("end", _) => offsets.high_watermark.to_string(),
            ("time", _) => looked_up(OffsetSpec::AtOrAfter(number())),
            ("latest-time", _) => looked_up(OffsetSpec::MaxTimestamp),
            ("read_committed", _) => first(Isolation::ReadCommitted),
            ("read_uncommitted", _) => first(Isolation::ReadUncommitted),
            _ => panic!("no such question: {question}"),
        }
    }

    /// Positions of groups and states of transactions, as Kafka's own tools list them.
    pub(crate) fn coordinators(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for group in block_on(self.log.groups()).expect("listed") {
            for position in group.positions {
                let OffsetCommit { at, offset, leader_epoch, metadata } = position;
                let line = format!(
                    "group {} {} {} {offset} {leader_epoch} {metadata}",
                    group.group, at.topic, at.partition
                );
                lines.push(line.trim_end().to_owned());
            }
        }
        for one in block_on(self.log.transactions()).expect("listed") {
            lines.push(format!("transaction {} {}", one.id, one.state));
        }
        lines.sort();
        lines
    }
}

pub(crate) async fn look(
    disk: &SimDisk,
) -> thalweg_core::Result<Engine<thalweg_core::disk::overlay::Overlay<SimDisk>>> {
    Engine::look(disk.clone(), DIR, config(), Runtime::Inline, Clock::fixed(NOW)).await
}

pub(crate) fn at(partition: &Partition<'_>) -> TopicPartition {
    TopicPartition::new(partition.topic, partition.number)
}
