//! Rolling files: records of topics become lines of files that appear whole and never change.
//!
//! ```text
//!   OUT/.lock                                            held while a run uses OUT
//!   OUT/.log-id                                          the log whose records OUT holds
//!   OUT/.tmp/<topic>-<p>-<start>.<nonce>                 being written, one a partition
//!   OUT/<folder>/<topic>-<p>-<start:020>.ndjson          finished: committed, whole lines
//!
//!   write    records start..end -> .tmp/..               O_EXCL; value + '\n'
//!   roll     64 MiB, 10 s, or stop
//!   prepare  fdatasync(file), sync .tmp                  Token { nonce, length, CRC32C, name }
//!   log      offsets + tokens, one transaction           the arbiter
//!   commit   link, sync folder, unlink, sync .tmp        at every instant one name is durable
//!   open     finish the tokens; remove the other temporaries of our partitions
//! ```
//!
//! The final name holds the start offset only, so everyone who begins at a committed offset wants the
//! same name, and the first link wins. Link, sync, unlink, sync instead of a rename, because a file
//! system may lose the two names of a rename independently: then power loss between the rename and
//! the syncs would leave no name at all for a file whose offsets are committed. Where links are
//! refused (FAT, some network file systems) a rename that never replaces is used, and that file
//! system's own promise about renames holds.
//!
//! Always true here: a name that ends in `.ndjson` holds only committed, whole lines, and never
//! changes or vanishes by our hand; a partition's file is finished before its next offset is
//! committed; a temporary that a committed token names is never removed before its final name is
//! durable. Memory is one buffer per partition.

mod out;
mod temporary;
mod token;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use thalweg_core::batch::Scratch;
use thalweg_core::client::log::Fetched;
use thalweg_core::disk::Disk;
use thalweg_core::ids::{Offset, TopicPartition, Uuid};

use crate::error::{Error, Result};
use crate::sink::{Prepared, Resume, Sink, visible_records};

use self::out::Out;
use self::temporary::Temporary;
use self::token::{FileToken, Found};

/// Settings of a [`FileSink`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSinkConfig {
    /// The folder OUT that receives everything; created when missing.
    pub out: PathBuf,
    /// Topic to folder below `out`. Several topics may share one.
    pub folders: BTreeMap<String, String>,
    /// A file that holds so many bytes is finished. Default 64 MiB: larger files are fewer, smaller
    /// ones are seen sooner under load.
    pub roll_bytes: u64,
    /// A file that is so old is finished. Default 10 s: how long a reader of the folder waits.
    pub roll_age: Duration,
    /// Bytes gathered per partition before a write. Default 256 KiB: below 64 KiB system calls show,
    /// above 1 MiB nothing is gained.
    pub buffer_bytes: usize,
}

impl FileSinkConfig {
    /// The defaults, with every topic in a folder of its name given by `folders`.
    pub fn new<'a>(
        out: impl Into<PathBuf>,
        folders: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        Self {
            out: out.into(),
            folders: folders.into_iter().map(|(t, f)| (t.to_owned(), f.to_owned())).collect(),
            roll_bytes: 64 << 20,
            roll_age: Duration::from_secs(10),
            buffer_bytes: 256 << 10,
        }
    }
}

/// What a [`FileSink`] has done since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileSinkStats {
    /// Lines written, in finished files or not; lines read again after a restart count again.
    pub records: u64,
    /// Bytes of those lines, newlines included.
    pub bytes: u64,
    /// Records without a value: they make no line.
    pub without_value: u64,
    /// Files given their final name, those finished for an earlier run included.
    pub files_finished: u64,
    /// Finished files that somebody had removed before a restart looked for them.
    pub files_missing: u64,
    /// Temporaries of earlier attempts removed at open.
    pub temporaries_removed: u64,
}

/// Writes topics into rolling NDJSON files, exactly once. Drive it with a
/// [`SinkRunner`](crate::run::sink::SinkRunner).
///
/// Durability: when a final name appears its bytes are synced; when
/// [`commit`](Sink::commit) has returned so is the name.
pub struct FileSink<D: Disk> {
    disk: D,
    config: FileSinkConfig,
    out: Out,
    /// Held for as long as the sink lives.
    _lock: D::Lock,
    /// Makes the name of every temporary new; counted up with each.
    nonce: u64,
    parts: BTreeMap<TopicPartition, Part<D>>,
    /// When the oldest line that is not finished was first seen by `due`.
    since: Option<i64>,
    scratch: Scratch,
    stats: FileSinkStats,
    /// What `files_finished` says, for whoever cannot ask because the sink is at work.
    finished: Arc<AtomicU64>,
}

/// One partition: records `start..next` are in `open`, or nowhere if they made no line.
struct Part<D: Disk> {
    folder: String,
    start: Offset,
    next: Offset,
    open: Option<Temporary<D>>,
}

impl<D: Disk> FileSink<D> {
    /// Takes `config.out` for this run and this log: creates what is missing, locks it, and writes
    /// or compares the log's id. `nonce` is random and must differ between runs.
    ///
    /// # Errors
    /// Another run holds the folder ([`thalweg_core::Error::InUse`]), it belongs to another log, a
    /// setting makes no sense, or the file system refused.
    pub fn claim(disk: D, config: FileSinkConfig, log: Uuid, nonce: u64) -> Result<Self> {
        out::check(&config)?;
        let (out, lock) = Out::claim(&disk, &config.out, log)?;
        let sink = Self {
            disk,
            config,
            out,
            _lock: lock,
            nonce,
            parts: BTreeMap::new(),
            since: None,
            scratch: Scratch::default(),
            stats: FileSinkStats::default(),
            finished: Arc::default(),
        };
        sink.make_folders()?;
        Ok(sink)
    }

    /// What was done so far.
    pub fn stats(&self) -> FileSinkStats {
        self.stats
    }

    /// Counts the finished files, [`FileSinkStats::files_finished`], while a runner holds the sink.
    pub fn finished(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.finished)
    }

    fn count_finished(&mut self, files: usize) {
        self.stats.files_finished += files as u64;
        self.finished.store(self.stats.files_finished, Ordering::Relaxed);
    }

    fn make_folders(&self) -> Result<()> {
        self.out.make_folders(&self.disk, self.config.folders.values())
    }

    /// Finishes what the tokens of an earlier run, or of an earlier attempt, stand for.
    fn recover(&mut self, parts: &[(TopicPartition, Resume)]) -> Result<()> {
        let mut tokens = Vec::new();
        for (at, resume) in parts {
            if let Resume::At(_, Some(token)) = resume {
                tokens.push(FileToken::parse(at, token)?);
            }
        }
        let found = token::recover(&self.disk, &self.out, &tokens)?;
        for (token, found) in tokens.iter().zip(found) {
            match found {
                Found::Pending => self.count_finished(1),
                Found::Finished => {}
                Found::Removed => {
                    self.stats.files_missing += 1;
                    tracing::warn!(
                        file = %self.out.path(&token.name).display(),
                        "this finished file is gone: it was removed after it had been written; \
                         going on behind it"
                    );
                }
            }
        }
        Ok(())
    }

    /// Refuses to write what finished files already hold.
    fn check_finals(&self, at: &TopicPartition, folder: &str, resume: &Resume) -> Result<()> {
        let starts = self.out.finals(&self.disk, folder, at)?;
        let (from, why) = match resume {
            Resume::First(_) => (Offset::MIN, "the log holds no position for them".to_owned()),
            Resume::At(offset, _) => (*offset, format!("the log's position is {offset}")),
        };
        let Some(start) = starts.into_iter().find(|start| *start >= from) else { return Ok(()) };
        let file = self.out.path(&token::final_name(folder, at, start));
        Err(Error::Fatal {
            what: format!(
                "{} exists, but {why}: records of {at} would be written twice. Either bring back \
                 the log's folder with its positions, or move the finished files of {at} from \
                 offset {start} on out of {} and start again: they are then written anew",
                file.display(),
                self.out.path(folder).display(),
            ),
        })
    }
}

#[async_trait]
impl<D: Disk> Sink for FileSink<D> {
    async fn open(&mut self, parts: &[(TopicPartition, Resume)]) -> Result<()> {
        self.parts.clear();
        self.since = None;
        self.make_folders()?;
        let mut taken = BTreeMap::new();
        for (at, resume) in parts {
            let folder = self.config.folders.get(&*at.topic).ok_or_else(|| {
                thalweg_core::Error::invalid(format!(
                    "topic {:?} has no folder: name one in FileSinkConfig::folders",
                    at.topic
                ))
            })?;
            token::check_length(folder, at)?;
            let start = resume.offset();
            let part = Part { folder: folder.clone(), start, next: start, open: None };
            taken.insert(at.clone(), part);
        }
        self.recover(parts)?;
        // Every token is finished and has given up its temporary: what is left of our partitions
        // belongs to no committed offset.
        self.stats.temporaries_removed +=
            self.out.remove_temporaries(&self.disk, |at| taken.contains_key(at))?;
        for (at, resume) in parts {
            self.check_finals(at, &taken[at].folder, resume)?;
        }
        self.parts = taken;
        Ok(())
    }

    async fn write(&mut self, batch: &Fetched) -> Result<()> {
        let part = self.parts.get_mut(&batch.at).ok_or_else(|| Error::Fatal {
            what: format!("records of {} were given to a sink that does not hold it", batch.at),
        })?;
        let Self { disk, config, out, nonce, scratch, stats, .. } = self;
        let at = &batch.at;
        visible_records(batch, part.next, scratch, |record| {
            let Some(value) = record.value else {
                stats.without_value += 1;
                part.next = record.offset + 1;
                return Ok(());
            };
            let file = match &mut part.open {
                Some(file) => file,
                none => {
                    *nonce = nonce.wrapping_add(1);
                    let limit = config.buffer_bytes;
                    none.insert(Temporary::create(disk, out, at, part.start, *nonce, limit)?)
                }
            };
            file.line(value)?;
            // Only now: a line that was refused is asked for again.
            part.next = record.offset + 1;
            stats.records += 1;
            stats.bytes += value.len() as u64 + 1;
            Ok(())
        })?;
        part.next = part.next.max(batch.next_offset);
        Ok(())
    }

    fn due(&mut self, now_ms: i64) -> bool {
        let mut open = self.parts.values().filter_map(|part| part.open.as_ref()).peekable();
        if open.peek().is_none() {
            return false;
        }
        // A clock that was set back must not make a file wait for longer than its age.
        let since = self.since.filter(|since| *since <= now_ms).unwrap_or(now_ms);
        self.since = Some(since);
        let age = u128::from(now_ms.abs_diff(since));
        age >= self.config.roll_age.as_millis()
            || open.any(|file| file.len() >= self.config.roll_bytes)
    }

    async fn prepare(&mut self) -> Result<Prepared> {
        let mut prepared = Prepared::default();
        let mut names = false;
        for (at, part) in &mut self.parts {
            if part.next == part.start {
                continue;
            }
            let mut token = None;
            if let Some(file) = &mut part.open {
                file.sync()?;
                names = true;
                token = Some(file.token(&part.folder, at).to_token());
            }
            prepared.parts.push((at.clone(), part.next, token));
        }
        if names {
            // The names of the temporaries must be as durable as the tokens that point to them.
            self.out.sync_temporaries(&self.disk)?;
        }
        Ok(prepared)
    }

    async fn commit(&mut self, prepared: &Prepared) -> Result<()> {
        let tokens: Vec<FileToken> = prepared
            .parts
            .iter()
            .filter_map(|(at, _, _)| {
                let part = self.parts.get(at)?;
                Some(part.open.as_ref()?.token(&part.folder, at))
            })
            .collect();
        token::finish(&self.disk, &self.out, &tokens)?;
        self.count_finished(tokens.len());
        for (at, offset, _) in &prepared.parts {
            if let Some(part) = self.parts.get_mut(at) {
                part.open = None;
                part.start = *offset;
            }
        }
        self.since = None;
        Ok(())
    }
}

/// What a failure of the file system means: no room is waited for; after anything else the files
/// being written are given up, and written anew from the last commit.
fn failed(what: &'static str, path: &Path, source: io::Error) -> Error {
    match thalweg_core::Error::io(what, path, source) {
        full @ thalweg_core::Error::Full { .. } => Error::Retry { what: full.to_string() },
        other => Error::Restart { what: other.to_string() },
    }
}
