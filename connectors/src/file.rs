//! Tails files: every line once, whatever rotates, truncates, renames or copies them.
//!
//! ```text
//!   discover   paths, folders, globs  -> which inodes there are, under which names
//!   follow     inodes and positions   -> which are known, new, rotated, copies
//!   reader     one file, one buffer   -> lines as slices, the offset behind them
//!   identity   the bytes read so far  -> a prefix that recognises them anywhere
//!   position   what the log keeps     <- all of the above that must outlive the process
//! ```
//!
//! Always true here: a position moves only over lines that were pushed; nothing is read behind a
//! position before the file was compared with it; every decision can be made again from the stored
//! positions alone, so that a crash between any two steps of ours, or of whoever rotates the files,
//! loses nothing and doubles nothing. No clock, no thread: the time comes from the closure given, all
//! files from the [`Disk`].
//!
//! # Records
//!
//! | | |
//! |---|---|
//! | key | the file as it was first found, `dev:ino:generation` in decimal |
//! | value | the line without its newline; a CR before it stays |
//! | header `file` | the absolute path where the file was first found, as bytes; unchanged by renames |
//! | header `offset` | the byte position of the line's start, 8 bytes, big-endian |
//! | header `mtime` | the file's modification time in milliseconds since 1970, 8 bytes, big-endian |
//! | header `cut` | only on cut lines: the full length, 8 bytes, big-endian |
//!
//! The partition is chosen by the key, so the lines of one file stay in order.
//!
//! Marker records, one per partition, with neither key nor value, say under the header
//! [`BACKLOG_HEADER`] when a backlog `begin`s and when it is `done`. At every start with bytes to
//! read, `begin` comes before the first line; `done` comes when all that was there at the first scan
//! was read, and at once when there was nothing. A source that reads only once never says `done`.
//!
//! # What cannot be had
//!
//! - Bytes between the last read and a truncation, when no copy is where files are looked for.
//! - A file that begins with all that was read of another one, a kilobyte or more, is taken for its
//!   copy up to there, even if the two differ behind it.
//! - A file rewritten in place with the same head and the same bytes before the position is taken
//!   for the same file.
//! - After a power loss at `sync_source = false`: a file that lost bytes and got new ones before it
//!   was looked at again goes on behind the new ones when it is still shorter than the position.

mod config;
mod copies;
mod discover;
mod follow;
mod identity;
mod notice;
mod place;
mod position;
mod reader;
mod tail;

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use thalweg_core::disk::{Disk, DiskFile};
use thalweg_core::ids::Timestamp;
use thalweg_core::record::BACKLOG_HEADER;

pub use config::FileSourceConfig;
pub use notice::{Notice, NoticeLevel};
pub use place::{CUT_HEADER, FILE_HEADER, LinePlace, MTIME_HEADER, OFFSET_HEADER};

use crate::decode::looks_binary;
use crate::error::{Error, Result};
use crate::source::{Outbox, Polled, Positions, Source};
use follow::{Access, Follow, ms};
use identity::{Key, read_up_to};
use notice::Trouble;
use position::Opening;
use reader::{Bounds, Failure, Reader, Stop};
use tail::{Agreement, Seen, compare};

/// How many bytes of a new file are judged before it is read.
const JUDGED: usize = 8 << 10;

/// What a [`FileSource`] has done and has before it, for people to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileStats {
    /// Files that are followed, without copies and without those that are gone.
    pub files: u64,
    /// Bytes there but not yet pushed.
    pub lag_bytes: u64,
    /// Lines pushed since the source was made, also by transactions that were aborted.
    pub lines: u64,
    /// Bytes of these lines.
    pub bytes: u64,
    /// Lines that were cut.
    pub cut_lines: u64,
    /// NUL bytes passed over.
    pub zero_bytes: u64,
    /// Bytes that were seen, and were deleted or truncated before they were read.
    pub lost_bytes: u64,
    /// Inputs left out at the moment.
    pub skipped: u64,
}

/// How far the announcement of the backlog has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Backlog {
    /// Not known before the first scan.
    Unknown,
    /// There is one: `begin` is still to be said.
    Begins,
    /// `begin` was said.
    Reading,
    /// There is none (any more): `done` is still to be said.
    Ends,
    /// Everything was said.
    Said,
}

/// What a turn of one file led to.
enum After {
    /// It may have more.
    More,
    /// Not now.
    Nothing,
    /// The outbox is full.
    Full,
    /// It could not be opened before others are closed.
    NoRoom,
}

/// A task of the tailing source. See the [module](self) for what it promises.
///
/// A runner calls [`Source::open`] with the stored positions before the first poll, and again after
/// every transaction that was not committed.
pub struct FileSource<D: Disk> {
    follow: Follow<D>,
    config: FileSourceConfig,
    clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
    reader: Reader,
    opened: bool,
    ended: bool,
    backlog: Backlog,
    /// The clock at the last poll.
    polled_at: Timestamp,
    scanned_at: Timestamp,
    next_scan: Timestamp,
    next_look: Timestamp,
    stats: FileStats,
}

impl<D: Disk> FileSource<D> {
    /// A source over `disk`. `clock` gives the wall clock in milliseconds, as
    /// [`Log::now`](thalweg_core::Log::now) does.
    ///
    /// # Errors
    /// [`Error::Fatal`] for a setting or a glob that makes no sense, naming it.
    pub fn new(
        disk: D,
        config: FileSourceConfig,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Result<Self> {
        config.check()?;
        Ok(Self {
            follow: Follow::new(disk, config.clone())?,
            reader: Reader::new(config.chunk, config.line_limit, JUDGED),
            config,
            clock: Box::new(clock),
            opened: false,
            ended: false,
            backlog: Backlog::Unknown,
            polled_at: Timestamp::MIN,
            scanned_at: Timestamp::MIN,
            next_scan: Timestamp::MIN,
            next_look: Timestamp::MIN,
            stats: FileStats::default(),
        })
    }

    /// What happened to single files since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.follow.notices.take()
    }

    /// How many inputs are left out at the moment: missing, unreadable, binary. More than none is
    /// for people to know when the program ends.
    pub fn skipped(&self) -> u64 {
        self.follow.notices.skipped()
    }

    /// Counters.
    pub fn stats(&self) -> FileStats {
        let followed = self.follow.tails.values().filter(|tail| {
            tail.position.twin.is_none() && (tail.at.is_some() || tail.handle.is_some())
        });
        FileStats {
            files: followed.count() as u64,
            lag_bytes: self.lag(),
            lost_bytes: self.follow.lost_bytes,
            skipped: self.skipped(),
            ..self.stats
        }
    }

    fn lag(&self) -> u64 {
        self.follow.tails.values().map(tail::Tail::lag).sum()
    }

    fn step(&mut self, out: &mut (dyn Outbox + Send)) -> Result<Polled> {
        if !self.opened {
            let what = "file source: polled before it was opened with the stored positions";
            return Err(Error::Fatal { what: what.to_owned() });
        }
        if self.ended {
            return Ok(Polled::End);
        }
        let now = (self.clock)();
        self.scan_if_due(now);
        let before = self.stats.lines;
        let announced = self.announce(out, now)?;
        let no_room = self.read(out, now)?;
        if self.backlog == Backlog::Reading && !self.config.once && !self.has_backlog() {
            self.backlog = Backlog::Ends;
        }
        let announced = announced | self.announce(out, now)?;
        let mut marked = self.mark(out);
        if self.config.once && self.has_come_to_its_end() {
            // A position is retired by a second scan that does not find its file either.
            for _ in 0..2 {
                if self.follow.has_missed() {
                    self.follow.scan(now, self.reader.scratch());
                }
            }
            marked |= self.mark(out);
            self.ended = true;
        }
        if announced || marked || self.stats.lines > before {
            return Ok(Polled::More);
        }
        if self.ended {
            return Ok(Polled::End);
        }
        if no_room && !self.follow.touched.is_empty() {
            // Files of this transaction are closed as soon as it is committed.
            return Ok(Polled::Idle(Duration::ZERO));
        }
        if !no_room && !self.follow.queue.is_empty() {
            return Ok(Polled::More);
        }
        let wake = self.next_scan.min(self.next_look).saturating_sub(now).max(1);
        Ok(Polled::Idle(Duration::from_millis(wake.unsigned_abs())))
    }

    fn scan_if_due(&mut self, now: Timestamp) {
        let look = ms(self.config.look).max(1);
        if now < self.polled_at {
            // The clock was set back.
            self.next_scan = now;
            self.scanned_at = now;
        }
        self.polled_at = now;
        if self.follow.rescan {
            self.next_scan = self.next_scan.min(self.scanned_at.saturating_add(look));
        }
        if now >= self.next_scan {
            self.follow.scan(now, self.reader.scratch());
            self.scanned_at = now;
            self.next_scan = now.saturating_add(ms(self.config.rescan).max(1));
            self.next_look = now.saturating_add(look);
            if self.backlog == Backlog::Unknown {
                for tail in self.follow.tails.values_mut() {
                    let upto = tail.upto();
                    let is_there = tail.at.is_some() || tail.handle.is_some();
                    let reads = tail.position.twin.is_none() && is_there;
                    tail.backlog = (reads && upto > tail.offset()).then_some(upto);
                }
                self.backlog = match self.has_backlog() {
                    true => Backlog::Begins,
                    false if self.config.once => Backlog::Said,
                    false => Backlog::Ends,
                };
            }
        } else if now >= self.next_look {
            self.follow.look(now);
            self.next_look = now.saturating_add(look);
        }
    }

    fn has_backlog(&self) -> bool {
        self.follow.tails.values().any(tail::Tail::has_backlog)
            || self.follow.undecided.values().any(|u| u.first && u.may_hold_lines())
    }

    /// Says what is due to be said of the backlog. It takes a split to be marked behind it, or it
    /// would not be sent: without any file it waits for the first.
    fn announce(&mut self, out: &mut (dyn Outbox + Send), now: Timestamp) -> Result<bool> {
        let (word, next) = match self.backlog {
            Backlog::Begins => (&b"begin"[..], Backlog::Reading),
            Backlog::Ends => (&b"done"[..], Backlog::Said),
            Backlog::Unknown | Backlog::Reading | Backlog::Said => return Ok(false),
        };
        let Some((&first, _)) = self.follow.tails.first_key_value() else { return Ok(false) };
        for partition in 0..out.partitions() {
            let header = (BACKLOG_HEADER.as_bytes(), Some(word));
            out.record(partition, now, None, None, &[header])?;
        }
        self.follow.dirty.insert(first);
        self.backlog = next;
        Ok(true)
    }

    /// Gives the files their turns. Answers whether some could not be opened.
    fn read(&mut self, out: &mut (dyn Outbox + Send), now: Timestamp) -> Result<bool> {
        let mut without_room = Vec::new();
        while !out.is_full()
            && let Some(key) = self.follow.queue.pop_front()
        {
            let after = self.turn(key, out, now)?;
            if matches!(after, After::NoRoom) {
                without_room.push(key);
                continue;
            }
            match after {
                After::More => self.follow.queue.push_back(key),
                After::Full => self.follow.queue.push_front(key),
                After::Nothing | After::NoRoom => {
                    if let Some(tail) = self.follow.tails.get_mut(&key) {
                        tail.queued = false;
                    }
                }
            }
        }
        let no_room = !without_room.is_empty();
        self.follow.queue.extend(without_room);
        Ok(no_room)
    }

    /// One file's turn.
    fn turn(&mut self, key: Key, out: &mut (dyn Outbox + Send), now: Timestamp) -> Result<After> {
        match self.follow.acquire(key, now, self.reader.scratch()) {
            Access::Open => {}
            Access::NoRoom => return Ok(After::NoRoom),
            Access::Moved | Access::Denied | Access::Changed => return Ok(After::Nothing),
        }
        match self.lines_of(key, out, now) {
            Ok(after) => Ok(after),
            Err(Failure::Taker(error)) => Err(error),
            Err(Failure::Read(error)) => {
                self.follow.deny(key, "read", &error);
                Ok(After::Nothing)
            }
        }
    }

    fn lines_of(
        &mut self,
        key: Key,
        out: &mut (dyn Outbox + Send),
        now: Timestamp,
    ) -> Result<After, Failure> {
        let boot = self.follow.boot().clone();
        let Some(tail) = self.follow.tails.get_mut(&key) else { return Ok(After::Nothing) };
        let Some(held) = &tail.handle else { return Ok(After::Nothing) };
        let stat = held.file.stat().map_err(Failure::Read)?;
        let seen = Seen::of(&stat);
        if tail.seen != seen {
            tail.seen = seen;
            tail.changed_at = now;
        }
        tail.used_at = now;
        if stat.len < tail.offset() {
            return self.settle(key);
        }
        if tail.offset() == 0 {
            // There is no mark yet to be compared before the first line.
            let scratch = &mut self.reader.scratch()[..JUDGED];
            let have = read_up_to(&held.file, scratch, 0).map_err(Failure::Read)?;
            let head = &scratch[..have];
            if !head.starts_with(tail.position.opening.bytes()) {
                return self.settle(key);
            }
            let judged = if tail.position.text { None } else { looks_binary(head) };
            if judged.is_none() && tail.position.binary {
                return self.settle(key);
            }
            if let Some(why) = judged {
                self.follow.notices.trouble(tail.name(), Trouble::Binary, || {
                    format!("skipped: {why}; give it as text, or leave it out")
                });
                if !tail.position.binary {
                    tail.position.binary = true;
                    self.follow.dirty.insert(key);
                }
                tail.looked = Some(tail.seen);
                tail.backlog = None;
                tail.finished |= self.config.once;
                tail.handle = None;
                return Ok(After::Nothing);
            }
        }
        tail.deficit += self.config.quantum as i64;
        if tail.deficit <= 0 {
            return Ok(After::More);
        }
        let bounds = Bounds {
            upto: tail.upto(),
            take_rest: self.config.once || tail.take_rest,
            quantum: tail.deficit,
        };
        let before = tail.offset();
        let mut first_cut = None;
        let partition = (tail.hash % u64::from(out.partitions().max(1))) as u32;
        let mtime = stat.mtime_ms.to_be_bytes();
        let record_key = tail.record_key.as_bytes();
        let path = &*tail.position.origin.path;
        let stats = &mut self.stats;
        let lines = &mut tail.position.lines;
        let (prefix, ahead) = (&mut tail.position.prefix, &mut tail.ahead);
        let turn = self.reader.turn(&held.file, prefix, ahead, bounds, |line| {
            let offset = line.offset.to_be_bytes();
            let cut = line.cut.unwrap_or(0).to_be_bytes();
            let headers: [(&[u8], Option<&[u8]>); 4] = [
                (FILE_HEADER.as_bytes(), Some(path)),
                (OFFSET_HEADER.as_bytes(), Some(&offset)),
                (MTIME_HEADER.as_bytes(), Some(&mtime)),
                (CUT_HEADER.as_bytes(), Some(&cut)),
            ];
            let headers = if line.cut.is_some() { &headers[..] } else { &headers[..3] };
            out.record(partition, now, Some(record_key), Some(line.bytes), headers)?;
            *lines += 1;
            stats.lines += 1;
            stats.bytes += line.bytes.len() as u64;
            if let Some(len) = line.cut {
                stats.cut_lines += 1;
                first_cut = first_cut.or(Some((line.offset, len)));
            }
            stats.zero_bytes += line.zeros;
            Ok(!out.is_full())
        });
        if tail.offset() > before {
            tail.position.mtime_ms = stat.mtime_ms;
            tail.position.boot = boot;
            tail.position.text = true;
            tail.position.opening = Opening::EMPTY;
        }
        if let Some((at, len)) = first_cut
            && !std::mem::replace(&mut tail.cut_told, true)
        {
            let limit = self.config.line_limit;
            let what = format!(
                "the line at byte {at} is {len} bytes long: cut to {limit}; others are only counted"
            );
            self.follow.notices.say(tail.name(), NoticeLevel::Info, what);
        }
        if tail.offset() > before {
            self.follow.was_read(key);
        }
        let (stop, used) = turn?;
        let Some(tail) = self.follow.tails.get_mut(&key) else { return Ok(After::Nothing) };
        self.follow.notices.read(tail.name());
        tail.deficit -= used;
        if stop != Stop::Replaced {
            // The mark was compared before anything behind it was used.
            tail.compared = Some(seen);
        }
        match stop {
            Stop::Quantum => Ok(After::More),
            Stop::Full => Ok(After::Full),
            Stop::Replaced => self.settle(key),
            Stop::End => {
                tail.looked = Some(seen);
                tail.backlog = None;
                tail.deficit = 0;
                tail.finished |= self.config.once;
                if tail.take_rest {
                    tail.take_rest = false;
                    tail.rest_taken = Some(seen);
                }
                Ok(After::Nothing)
            }
        }
    }

    /// The file is not what it was: finds out what it is.
    fn settle(&mut self, key: Key) -> Result<After, Failure> {
        let boot = self.follow.boot().clone();
        let Some(tail) = self.follow.tails.get_mut(&key) else { return Ok(After::Nothing) };
        let Some(held) = &tail.handle else { return Ok(After::Nothing) };
        let stat = held.file.stat().map_err(Failure::Read)?;
        let agreement = compare(&held.file, &stat, &tail.position, &boot).map_err(Failure::Read)?;
        // It changes under our hands: not again before it was seen to change once more.
        tail.ahead = Default::default();
        tail.looked = Some(Seen::of(&stat));
        self.follow.rescan = true;
        self.follow.settle(key, &stat, agreement, self.reader.scratch());
        Ok(After::Nothing)
    }

    /// Marks what changed. Answers whether anything did.
    fn mark(&mut self, out: &mut (dyn Outbox + Send)) -> bool {
        let any = !self.follow.dirty.is_empty() || !self.follow.retired.is_empty();
        for (key, split) in std::mem::take(&mut self.follow.retired) {
            if !self.follow.tails.contains_key(&key) {
                out.mark(&split, None);
            }
        }
        for key in std::mem::take(&mut self.follow.dirty) {
            if let Some(tail) = self.follow.tails.get(&key) {
                out.mark(&tail.split, Some(tail.position.encode()));
            }
        }
        any
    }

    fn has_come_to_its_end(&self) -> bool {
        !self.follow.has_more() && !self.follow.undecided.values().any(|u| u.may_hold_lines())
    }

    /// Makes the files of the open transaction durable, and looks whether they are still what was
    /// read.
    fn check_read_files(&mut self) -> Result<()> {
        let touched: Vec<Key> = self.follow.touched.iter().copied().collect();
        for key in touched {
            let tail = self.follow.tails.get(&key);
            let held = tail.and_then(|tail| Some((tail, tail.handle.as_ref()?)));
            let Some((tail, held)) = held else {
                let what = format!("file {key} was truncated or replaced while it was read");
                return Err(Error::Restart { what });
            };
            let path = tail.name();
            let offset = tail.offset();
            if self.config.sync_source
                && let Err(e) = held.file.sync_data()
            {
                if !cannot_sync(&e) {
                    let what = format!(
                        "{}: cannot be made durable up to byte {offset}: {e}; check the disk, or \
                         turn sync_source off",
                        path.display()
                    );
                    self.follow.avoid(key, self.polled_at, &what);
                    return Err(Error::Restart { what });
                }
                self.follow.notices.trouble(path, Trouble::Unsynced, || {
                    format!(
                        "its file system cannot make it durable ({e}): a power loss may take lines \
                         from it that are in the log already"
                    )
                });
            }
            let same = held
                .file
                .stat()
                .and_then(|stat| compare(&held.file, &stat, &tail.position, self.follow.boot()));
            match same {
                Ok(Agreement::Same) => {}
                Ok(_) => {
                    let path = path.display();
                    let what = format!(
                        "{path}: was truncated or replaced while it was read up to byte {offset}"
                    );
                    return Err(Error::Restart { what });
                }
                Err(e) => {
                    let what = format!("{}: cannot be read at byte {offset}: {e}", path.display());
                    return Err(Error::Restart { what });
                }
            }
        }
        Ok(())
    }
}

/// Whether an error says that there is no such thing as a sync, rather than that it failed.
fn cannot_sync(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), InvalidInput | ReadOnlyFilesystem | Unsupported)
}

#[async_trait]
impl<D: Disk> Source for FileSource<D> {
    async fn open(&mut self, stored: &Positions) -> Result<()> {
        self.follow.resume(stored)?;
        self.opened = true;
        self.ended = false;
        self.backlog = Backlog::Unknown;
        self.next_scan = Timestamp::MIN;
        Ok(())
    }

    async fn poll(&mut self, out: &mut (dyn Outbox + Send)) -> Result<Polled> {
        self.step(out)
    }

    async fn before_commit(&mut self) -> Result<()> {
        if self.config.sync_source {
            self.follow.make_departures_durable();
        }
        self.check_read_files()
    }

    async fn committed(&mut self, _upto: &Positions) -> Result<()> {
        self.follow.touched.clear();
        self.follow.departed.clear();
        Ok(())
    }

    fn lag_bytes(&self) -> u64 {
        self.lag()
    }
}
