//! A golden folder: an archive of what Kafka left behind, and what Kafka itself read in it.
//!
//! ```text
//!   golden/kafka-4.3.1/NAME.tar.zst      see the README beside it
//!     data/<topic>-<partition>/...       Kafka's log.dirs
//!     expect/...                         Kafka's own answers
//! ```

use std::collections::BTreeMap;

use thalweg_core::batch::{BatchRef, batches};
use thalweg_core::ids::Offset;

/// All files of an archive, by path.
pub(crate) struct Folder {
    pub(crate) name: &'static str,
    files: BTreeMap<String, Vec<u8>>,
}

/// A partition of a folder.
pub(crate) struct Partition<'a> {
    pub(crate) topic: &'a str,
    pub(crate) number: u32,
    /// Where its folder is, for messages.
    pub(crate) path: String,
    /// Its files by name.
    pub(crate) files: BTreeMap<&'a str, &'a [u8]>,
    /// The first offset that readers get.
    pub(crate) start: Offset,
}

/// The batches of one `.log`, each with its position.
pub(crate) struct Segment<'a> {
    pub(crate) base: Offset,
    pub(crate) batches: Vec<(u32, BatchRef<'a>)>,
}

impl Folder {
    /// After a clean stop, and after kill -9.
    pub(crate) fn all() -> [Self; 2] {
        [
            Self::unpack("clean", include_bytes!("../golden/kafka-4.3.1/clean.tar.zst")),
            Self::unpack("killed", include_bytes!("../golden/kafka-4.3.1/killed.tar.zst")),
        ]
    }

    fn unpack(name: &'static str, packed: &[u8]) -> Self {
        let tar = zstd::stream::decode_all(packed).expect("a zstd frame");
        let mut files = BTreeMap::new();
        let mut rest = &tar[..];
        while rest.first().is_some_and(|&first| first != 0) {
            let (head, body) = rest.split_at(512);
            let text = |from: usize, to: usize| {
                let end = head[from..to].iter().position(|&b| b == 0).map_or(to, |len| from + len);
                std::str::from_utf8(&head[from..end]).expect("names of archives are ASCII").trim()
            };
            let size = usize::from_str_radix(text(124, 136), 8).expect("a size in octal");
            let path = match text(345, 500) {
                "" => text(0, 100).to_owned(),
                prefix => format!("{prefix}/{}", text(0, 100)),
            };
            if head[156] == b'0' {
                files.insert(path, body[..size].to_vec());
            }
            rest = &body[size.next_multiple_of(512)..];
        }
        Self { name, files }
    }

    /// A file below `data`.
    pub(crate) fn data(&self, path: &str) -> Option<&[u8]> {
        self.files.get(&format!("data/{path}")).map(Vec::as_slice)
    }

    /// All files below `data`, by path.
    pub(crate) fn data_files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().filter_map(|(path, bytes)| {
            path.strip_prefix("data/").map(|name| (name, bytes.as_slice()))
        })
    }

    /// The lines of a file below `expect`.
    pub(crate) fn expect(&self, path: &str) -> Vec<&str> {
        let file = &self.files[&format!("expect/{path}")];
        std::str::from_utf8(file).expect("expectations are text").lines().collect()
    }

    /// Every folder of a partition, the metadata log and the coordinators' among them, by name.
    pub(crate) fn partitions(&self) -> Vec<Partition<'_>> {
        let mut all = BTreeMap::<&str, Partition<'_>>::new();
        for (path, bytes) in &self.files {
            let Some((folder, file)) =
                path.strip_prefix("data/").and_then(|path| path.split_once('/'))
            else {
                continue;
            };
            let (topic, number) = folder.rsplit_once('-').expect("topic, dash, number");
            let number = number.parse().expect("a partition has a number");
            let partition = all.entry(folder).or_insert_with(|| Partition {
                topic,
                number,
                path: format!("{}: {folder}", self.name),
                files: BTreeMap::new(),
                start: self.checkpoint("log-start-offset-checkpoint", topic, number).unwrap_or(0),
            });
            partition.files.insert(file, bytes);
        }
        all.into_values().collect()
    }

    /// The partitions of users' topics.
    pub(crate) fn user_partitions(&self) -> Vec<Partition<'_>> {
        self.partitions().into_iter().filter(|p| !p.topic.starts_with("__")).collect()
    }

    /// The offset that a checkpoint of the log directory gives for a partition.
    fn checkpoint(&self, file: &str, topic: &str, number: u32) -> Option<Offset> {
        let text = std::str::from_utf8(self.data(file)?).expect("checkpoints are text");
        let head = format!("{topic} {number} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&head))?;
        Some(line.parse().expect("an offset"))
    }
}

impl<'a> Partition<'a> {
    /// The files of a suffix, by the offset in their name. Files on their way out are not among them.
    pub(crate) fn files_of(&self, suffix: &str) -> Vec<(Offset, &'a [u8])> {
        let of = |(name, bytes): (&&'a str, &&'a [u8])| {
            let base = name.strip_suffix(suffix)?.strip_suffix('.')?;
            Some((base.parse().expect("a name is an offset"), *bytes))
        };
        self.files.iter().filter_map(of).collect()
    }

    /// The segments, in order. Every byte belongs to a batch.
    pub(crate) fn segments(&self) -> Vec<Segment<'a>> {
        let of = |(base, bytes): (Offset, &'a [u8])| {
            let mut position = 0;
            let batches = batches(bytes).map(|batch| {
                let batch = batch.unwrap_or_else(|e| panic!("{}, byte {position}: {e}", self.path));
                let at = position;
                position += batch.bytes.len() as u32;
                (at, batch)
            });
            Segment { base, batches: batches.collect() }
        };
        self.files_of("log").into_iter().map(of).collect()
    }

    /// All batches, in order.
    pub(crate) fn batches(&self) -> Vec<BatchRef<'a>> {
        self.segments().into_iter().flat_map(|s| s.batches).map(|(_, batch)| batch).collect()
    }
}
