//! The files that are followed: brings what a scan found together with the positions.
//!
//! ```text
//!   scan:  place      names and sizes of the files that are known
//!          recheck    truncated, rewritten, reused?             -> next generation, from 0
//!          meet       inodes without a position                 -> undecided
//!          decide     new | a copy | the bytes of a position    -> followed from 0 | twin | moved
//!          twins      still the same? outgrown?                 -> its own from there
//!          drain      without a name: read to its end, let go
//!          retire     positions that two full scans in a row did not find anywhere
//! ```
//!
//! Always true here: what has a position keeps it until its bytes are found elsewhere or it is
//! retired, so a copy can be matched however late; a position has one claimant; what changed is in
//! `dirty` and `retired` until it is marked; files are visited in the order of their keys or paths,
//! never in that of a hash.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thalweg_core::disk::{Disk, DiskFile, Open, Stat};

use super::config::FileSourceConfig;
use super::copies::{Means, Twinship, Undecided, Verdict, candidates, judge, look_again};
use super::discover::{Finder, Found, Listing, is_absent};
use super::identity::{FileId, HEAD, Key, Prefix, read_up_to};
use super::notice::{NoticeLevel, Notices, Trouble};
use super::position::{BOOT_MAX, FilePosition, Origin};
use super::tail::{
    Agreement, Held, HeldCount, Seen, Tail, born_apart, bytes_of, compare, current, path_of, prefix_of,
};
use crate::error::Result;
use crate::source::{Positions, Split};

/// Bytes that comparisons may read in one scan.
const COMPARE_BUDGET: u64 = 64 << 20;
/// How long after its last growth a file is asked for more between scans.
const HOT: Duration = Duration::from_secs(10);
/// How long a file whose bytes could not be made durable is left alone.
const AVOIDED: Duration = Duration::from_secs(10);
/// So many files may be remembered beyond those that have a position.
const GENERATIONS_MIN: usize = 1000;
/// A position is retired after so many full scans in a row without its file: one may have listed a
/// folder in the very moment of a rename.
const MISSED_MAX: u32 = 2;

/// Whether a file can be read now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Yes: it is open and agrees with its position.
    Open,
    /// Its name stands for something else by now: the next scan will tell.
    Moved,
    /// Too many files are open.
    NoRoom,
    /// The system refuses.
    Denied,
    /// It did not agree; what to do about it was done.
    Changed,
}

pub(crate) struct Follow<D: Disk> {
    disk: D,
    config: FileSourceConfig,
    finder: Finder,
    boot: Arc<str>,
    pub(crate) tails: BTreeMap<Key, Tail<D::File>>,
    pub(crate) undecided: BTreeMap<FileId, Undecided<D::File>>,
    /// Files under a name that leads into an excluded folder.
    ignored: BTreeSet<FileId>,
    /// Files that are left alone, and until when.
    avoided: BTreeMap<FileId, i64>,
    held: HeldCount,
    /// Open files of before the last restart that have no position.
    kept: BTreeMap<FileId, (PathBuf, Held<D::File>)>,
    /// What waits to be read.
    pub(crate) queue: VecDeque<Key>,
    /// What grew lately.
    hot: BTreeSet<Key>,
    /// What was read in the open transaction.
    pub(crate) touched: BTreeSet<Key>,
    /// Positions to be stored.
    pub(crate) dirty: BTreeSet<Key>,
    /// Positions to be deleted.
    pub(crate) retired: Vec<(Key, Split)>,
    /// Originals that are being compared: not to be retired.
    busy: BTreeSet<Key>,
    /// The highest generation given out of each file, so that no two contents get the same key.
    generations: BTreeMap<FileId, u32>,
    /// A scan is due before its time.
    pub(crate) rescan: bool,
    /// Scans since the last (re)start.
    pub(crate) scans: u64,
    /// There was no position at all at the start.
    new_folder: bool,
    /// The sizes at the first scan, for a source that reads only once.
    ends: Option<BTreeMap<FileId, u64>>,
    pub(crate) notices: Notices,
}

impl<D: Disk> Follow<D> {
    pub(crate) fn new(disk: D, config: FileSourceConfig) -> Result<Self> {
        let finder = Finder::new(&disk, &config)?;
        let mut boot = disk.boot_id();
        while boot.len() > BOOT_MAX {
            boot.pop();
        }
        Ok(Self {
            boot: Arc::from(boot),
            disk,
            config,
            finder,
            tails: BTreeMap::new(),
            undecided: BTreeMap::new(),
            ignored: BTreeSet::new(),
            avoided: BTreeMap::new(),
            held: HeldCount::default(),
            kept: BTreeMap::new(),
            queue: VecDeque::new(),
            hot: BTreeSet::new(),
            touched: BTreeSet::new(),
            dirty: BTreeSet::new(),
            retired: Vec::new(),
            busy: BTreeSet::new(),
            generations: BTreeMap::new(),
            rescan: false,
            scans: 0,
            new_folder: true,
            ends: None,
            notices: Notices::default(),
        })
    }

    /// Forgets everything but `stored`. Open files are kept: some may have no name any more.
    pub(crate) fn resume(&mut self, stored: &Positions) -> Result<()> {
        let mut tails = BTreeMap::new();
        for (split, position) in stored {
            if let Some(position) = position {
                let position = FilePosition::decode(split, position)?;
                tails.insert(position.key, Tail::new(position));
            }
        }
        let before = std::mem::replace(&mut self.tails, tails);
        let undecided = std::mem::take(&mut self.undecided);
        let followed = before
            .into_iter()
            .filter_map(|(key, tail)| Some((key.file, (tail.name().to_owned(), tail.handle?))));
        let waiting = undecided.into_iter().filter_map(|(id, u)| Some((id, (u.path, u.handle?))));
        self.kept.extend(followed.chain(waiting));
        for (id, (path, held)) in std::mem::take(&mut self.kept) {
            let tail = current(&self.tails, id).and_then(|key| self.tails.get_mut(&key));
            match tail {
                Some(tail) if tail.position.twin.is_none() => tail.handle = Some(held),
                Some(_) => {}
                None => {
                    self.kept.insert(id, (path, held));
                }
            }
        }
        for list in [&mut self.touched, &mut self.dirty, &mut self.hot] {
            list.clear();
        }
        self.queue.clear();
        self.retired.clear();
        self.count_generations();
        self.scans = 0;
        self.new_folder = self.tails.is_empty();
        Ok(())
    }

    /// One look at everything.
    pub(crate) fn scan(&mut self, now: i64, scratch: &mut [u8]) {
        self.rescan = false;
        self.busy.clear();
        self.avoided.retain(|_, until| now < *until);
        let mut listing = self.finder.scan(&self.disk);
        self.notices.scanned(std::mem::take(&mut listing.faults), |path| {
            listing.files.binary_search_by(|found| found.path.as_path().cmp(path)).is_ok()
        });
        let known = self.place(&listing, now);
        for (key, stat) in &known {
            self.recheck(*key, stat, now, scratch);
        }
        self.meet(&listing, now);
        let mut budget = COMPARE_BUDGET.max(scratch.len() as u64);
        if self.undecided.values().any(Undecided::may_hold_lines) && self.verify(&known, now, scratch) {
            self.decide(now, scratch, &mut budget);
        }
        self.look_at_twins(scratch, &mut budget);
        self.drain(now);
        self.retire(&listing);
        self.scans += 1;
        let keys: Vec<Key> = self.tails.keys().copied().collect();
        for key in keys {
            self.enqueue(key);
        }
    }

    /// Asks files that grew lately whether they grew again.
    pub(crate) fn look(&mut self, now: i64) {
        for key in self.hot.iter().copied().collect::<Vec<_>>() {
            let Some(tail) = self.tails.get_mut(&key) else {
                self.hot.remove(&key);
                continue;
            };
            if let Some(Ok(stat)) = tail.handle.as_ref().map(|held| held.file.stat()) {
                tail.see(Seen::of(&stat), now);
                self.rescan |= stat.len < tail.offset();
            }
            if tail.handle.is_none() || now.saturating_sub(tail.changed_at) > ms(HOT) {
                self.hot.remove(&key);
            }
            self.enqueue(key);
        }
    }

    /// Puts a file in line, if a turn may find something.
    pub(crate) fn enqueue(&mut self, key: Key) {
        if let Some(tail) = self.tails.get_mut(&key)
            && !tail.queued
            && tail.is_wanted()
            && !self.avoided.contains_key(&key.file)
        {
            tail.queued = true;
            self.queue.push_back(key);
        }
    }

    /// Notes that a file gave something.
    pub(crate) fn was_read(&mut self, key: Key) {
        self.dirty.insert(key);
        self.touched.insert(key);
        self.hot.insert(key);
    }

    /// Opens a file that has a position, and compares the two.
    pub(crate) fn acquire(&mut self, key: Key, now: i64, scratch: &mut [u8]) -> Access {
        let Some(tail) = self.tails.get(&key) else { return Access::Moved };
        if tail.handle.is_some() {
            return Access::Open;
        }
        let Some(path) = tail.at.clone() else { return Access::Moved };
        if !self.make_room() {
            return Access::NoRoom;
        }
        let opened = open_with_stat(&self.disk, &path);
        let Some(tail) = self.tails.get_mut(&key) else { return Access::Moved };
        let agreement = opened.and_then(|(file, stat)| {
            let same_file = FileId::of(&stat) == key.file;
            let agreement = if same_file {
                Some(compare(&file, &stat, &tail.position, &self.boot)?)
            } else {
                None
            };
            Ok((file, stat, agreement))
        });
        match agreement {
            Ok((file, stat, Some(agreement))) => {
                tail.handle = Some(self.held.hold(file));
                tail.denied = false;
                tail.see(Seen::of(&stat), now);
                self.settle(key, &stat, agreement, scratch);
                if agreement == Agreement::Same { Access::Open } else { Access::Changed }
            }
            Ok((_, _, None)) => {
                self.rescan = true;
                Access::Moved
            }
            Err(e) if is_absent(&e) => {
                self.rescan = true;
                Access::Moved
            }
            Err(e) if is_out_of_handles(&e) => Access::NoRoom,
            Err(e) => {
                self.deny(key, "opened", &e);
                Access::Denied
            }
        }
    }

    /// Notes that the system refuses a file, and lets go of it until the next scan.
    pub(crate) fn deny(&mut self, key: Key, what: &str, error: &io::Error) {
        let Some(tail) = self.tails.get_mut(&key) else { return };
        tail.denied = true;
        tail.looked = Some(tail.seen);
        tail.backlog = None;
        tail.ahead = Default::default();
        if tail.at.is_some() && !self.touched.contains(&key) {
            // Without a name it could not be opened again, and what was read must be looked at
            // again before it is committed.
            tail.handle = None;
        }
        let path = tail.name().to_owned();
        let offset = tail.offset();
        refused(&mut self.notices, &self.config, &path, error, || {
            format!("cannot be {what} at byte {offset}: {error}; it is tried again at each scan")
        });
    }

    /// Leaves a file alone for a while, also over the restart that comes next: the others go on.
    pub(crate) fn avoid(&mut self, key: Key, now: i64, what: &str) {
        self.avoided.insert(key.file, now.saturating_add(ms(AVOIDED)));
        if let Some(tail) = self.tails.get(&key) {
            self.notices.trouble(tail.name(), Trouble::Unreadable, || what.to_owned());
        }
    }

    /// Does what follows from a comparison of the file `stat` speaks of with its position.
    pub(crate) fn settle(&mut self, key: Key, stat: &Stat, agreement: Agreement, scratch: &mut [u8]) {
        let Some(old) = self.tails.get_mut(&key) else { return };
        old.compared = Some(Seen::of(stat));
        if agreement == Agreement::Same {
            // All bytes were compared when it had been born at another time.
            old.position.birth_ns = stat.birth_ns;
            return;
        }
        let path = old.name().to_owned();
        let offset = old.offset();
        if self.ends.is_some() && self.scans > 0 {
            // What it held at the first scan is gone; the next run takes up what there is now.
            old.finished = true;
            old.backlog = None;
            let what = format!("was truncated or replaced after byte {offset} was read; read on later");
            self.notices.say(&path, NoticeLevel::Info, what);
            return;
        }
        match agreement {
            Agreement::Shrunk | Agreement::Zeroed => self.go_on_in_the_rest(key, stat, agreement, scratch),
            _ => {
                let what = format!("file_replaced: was truncated or replaced after byte {offset} was read");
                self.notices.say(&path, NoticeLevel::Info, what);
                self.supersede(key, stat);
            }
        }
    }

    /// A power loss took bytes that had been read: the next generation goes on in what is left.
    fn go_on_in_the_rest(&mut self, key: Key, stat: &Stat, agreement: Agreement, scratch: &mut [u8]) {
        let Some(old) = self.tails.get_mut(&key) else { return };
        let Some(held) = old.handle.take() else { return };
        let path = old.name().to_owned();
        let offset = old.offset();
        let prefix = match prefix_of(&held.file, offset.min(stat.len), scratch) {
            Ok(prefix) => prefix,
            Err(e) => return self.deny(key, "read", &e),
        };
        let lost = match agreement {
            Agreement::Shrunk => format!("is {} bytes shorter", offset - prefix.len()),
            _ => "holds zeros".to_owned(),
        };
        let what = format!(
            "{lost} after a restart of the machine, where it had been read up to byte {offset}: its \
             writer had not made it durable; reading goes on at byte {}",
            prefix.len()
        );
        self.notices.say(&path, NoticeLevel::Warning, what);
        let mut position = FilePosition {
            birth_ns: stat.birth_ns,
            twin: None,
            boot: Arc::clone(&self.boot),
            prefix,
            ..old.position.clone()
        };
        position.key = self.free_key(key.file);
        let next = position.key;
        let Some(old) = self.tails.get_mut(&key) else { return };
        let mut tail = Tail::new(position);
        tail.at = old.at.take();
        tail.handle = Some(held);
        tail.seen = Seen::of(stat);
        tail.compared = Some(tail.seen);
        tail.changed_at = old.changed_at;
        tail.end = old.end;
        tail.backlog = old.backlog;
        self.set_aside(key);
        self.tails.insert(next, tail);
        self.dirty.insert(next);
        self.enqueue(next);
    }

    /// Other content has taken the file: it is to be judged like any other new one, since it may be
    /// a copy; the position of the old content stays to be matched.
    fn supersede(&mut self, key: Key, stat: &Stat) {
        let Some(old) = self.tails.get_mut(&key) else { return };
        let path = old.name().to_owned();
        let mut undecided = Undecided::new(path, stat.birth_ns, Seen::of(stat), old.changed_at);
        undecided.text = old.position.text && !born_apart(stat, &old.position);
        undecided.listed = old.at.take().is_some();
        undecided.handle = old.handle.take();
        undecided.end = old.end.take();
        undecided.first = self.scans == 0 && stat.len > 0;
        self.undecided.insert(key.file, undecided);
        self.set_aside(key);
        self.rescan = true;
    }

    /// Keeps a position whose file has other content now, if there is anything to be found again.
    fn set_aside(&mut self, key: Key) {
        let Some(old) = self.tails.get_mut(&key) else { return };
        old.superseded = true;
        old.at = None;
        old.handle = None;
        old.ahead = Default::default();
        old.backlog = None;
        old.missed = 0;
        if old.offset() == 0 || old.position.twin.is_some() {
            self.remove(key);
        }
    }

    /// Takes a position away for good.
    fn remove(&mut self, key: Key) -> Option<Tail<D::File>> {
        let tail = self.tails.remove(&key)?;
        self.retired.push((key, tail.split.clone()));
        self.dirty.remove(&key);
        Some(tail)
    }

    /// Writes the listing's names and sizes to the files that are known, and says which these are.
    fn place(&mut self, listing: &Listing, now: i64) -> Vec<(Key, Stat)> {
        let found: BTreeMap<FileId, &Found> =
            listing.files.iter().map(|found| (FileId::of(&found.stat), found)).collect();
        let keys: Vec<Key> = self.tails.keys().copied().collect();
        let mut known = Vec::new();
        for (i, &key) in keys.iter().enumerate() {
            let Some(tail) = self.tails.get_mut(&key) else { continue };
            tail.superseded |= keys.get(i + 1).is_some_and(|next| next.file == key.file);
            if tail.denied {
                tail.looked = None;
            }
            match found.get(&key.file) {
                Some(found) if !tail.superseded => {
                    if tail.at.as_deref() != Some(&found.path) {
                        tail.at = Some(found.path.clone());
                    }
                    tail.missed = 0;
                    let seen = tail.seen;
                    tail.see(Seen::of(&found.stat), now);
                    if tail.seen != seen {
                        self.hot.insert(key);
                    }
                    known.push((key, found.stat));
                }
                _ => {
                    tail.at = None;
                    if let Some(Ok(stat)) = tail.handle.as_ref().map(|held| held.file.stat()) {
                        tail.see(Seen::of(&stat), now);
                        known.push((key, stat));
                    } else if listing.saw(path_of(&tail.position.origin.path)) {
                        tail.missed = tail.missed.saturating_add(1);
                    }
                }
            }
        }
        known
    }

    /// Compares a file that changed with its position.
    fn recheck(&mut self, key: Key, stat: &Stat, now: i64, scratch: &mut [u8]) {
        let Some(tail) = self.tails.get(&key) else { return };
        if tail.compared == Some(Seen::of(stat)) || tail.finished {
            return;
        }
        let position = &tail.position;
        let reused = born_apart(stat, position);
        let rebooted = position.boot != self.boot;
        if stat.len < tail.offset() && !rebooted {
            self.settle(key, stat, Agreement::Other, scratch);
        } else if let Some(held) = &tail.handle {
            match compare(&held.file, stat, position, &self.boot) {
                Ok(agreement) => self.settle(key, stat, agreement, scratch),
                Err(e) => self.deny(key, "read", &e),
            }
        } else if stat.len < tail.offset() || reused {
            self.acquire(key, now, scratch);
        }
        // Otherwise it is compared when it is opened to be read.
    }

    /// Takes note of files that have no position.
    fn meet(&mut self, listing: &Listing, now: i64) {
        let first = self.scans == 0 && self.new_folder;
        let allowed = self.config.once.then(|| {
            let sizes = || listing.files.iter().map(|f| (FileId::of(&f.stat), f.stat.len)).collect();
            self.ends.get_or_insert_with(sizes).clone()
        });
        for undecided in self.undecided.values_mut() {
            undecided.listed = false;
        }
        let listed: BTreeSet<FileId> = listing.files.iter().map(|f| FileId::of(&f.stat)).collect();
        self.ignored.retain(|id| listed.contains(id));
        for Found { path, stat } in &listing.files {
            let id = FileId::of(stat);
            let end = allowed.as_ref().map(|ends| ends.get(&id).copied());
            if let Some(key) = current(&self.tails, id) {
                if let (Some(end), Some(tail)) = (end, self.tails.get_mut(&key)) {
                    tail.end = tail.end.or(end);
                    tail.finished |= end.is_none();
                }
            } else if let Some(undecided) = self.undecided.get_mut(&id) {
                undecided.listed = true;
                undecided.end = undecided.end.or(end.flatten());
                undecided.path.clone_from(path);
                undecided.see(Seen::of(stat), now);
            } else if !self.ignored.contains(&id) && !matches!(end, Some(None | Some(0))) {
                if self.finder.excludes(&self.disk, path) {
                    self.ignored.insert(id);
                    continue;
                }
                let mut undecided = Undecided::new(path.clone(), stat.birth_ns, Seen::of(stat), now);
                undecided.end = end.flatten();
                undecided.first = self.scans == 0 && stat.len > 0;
                self.undecided.insert(id, undecided);
                if first && stat.len > 0 {
                    // The files of the first scan are never copies of each other. Each is registered
                    // before one is read.
                    self.promote(id, Prefix::EMPTY, None);
                }
            }
        }
        for (id, (path, held)) in std::mem::take(&mut self.kept) {
            if current(&self.tails, id).is_some() {
                continue;
            }
            let Ok(stat) = held.file.stat() else { continue };
            let undecided = self.undecided.entry(id).or_insert_with(|| {
                let mut unlisted = Undecided::new(path, stat.birth_ns, Seen::of(&stat), now);
                unlisted.listed = false;
                unlisted
            });
            undecided.handle.get_or_insert(held);
        }
        self.undecided.retain(|_, undecided| undecided.listed || undecided.handle.is_some());
    }

    /// Compares all files that changed since they were compared last: what is in them now decides
    /// what others are copies of. Answers whether it could.
    fn verify(&mut self, known: &[(Key, Stat)], now: i64, scratch: &mut [u8]) -> bool {
        for (key, stat) in known {
            let Some(tail) = self.tails.get(key) else { continue };
            let untouched = stat.len == tail.offset() && stat.mtime_ms == tail.position.mtime_ms;
            if tail.handle.is_some() || tail.compared == Some(Seen::of(stat)) || untouched {
                continue;
            }
            let twin = tail.position.twin.is_some();
            if tail.at.is_some() && self.acquire(*key, now, scratch) == Access::NoRoom {
                self.rescan = true;
                return false;
            }
            match self.tails.get_mut(key) {
                Some(tail) if twin => tail.handle = None,
                _ => self.keep_few(*key),
            }
        }
        true
    }

    /// Judges the files that have no position, the longest first: an original is never shorter than
    /// a copy of it that is still growing.
    fn decide(&mut self, now: i64, scratch: &mut [u8], budget: &mut u64) {
        let order = |(&id, u): (&FileId, &Undecided<_>)| (Reverse(u.seen.len), u.path.clone(), id);
        let mut ids: Vec<_> = self.undecided.iter().map(order).collect();
        ids.sort();
        for (_, path, id) in ids {
            let Some(undecided) = self.undecided.get(&id) else { continue };
            // An empty file cannot be told from a copy that is about to be written.
            if undecided.seen.len == 0 && undecided.listed {
                continue;
            }
            if undecided.handle.is_none() && !self.make_room() {
                self.rescan = true;
                return;
            }
            match self.decide_one(id, now, scratch, budget) {
                Ok(()) => {}
                Err(e) if is_absent(&e) => {
                    self.undecided.remove(&id);
                }
                Err(e) if is_out_of_handles(&e) => self.rescan = true,
                Err(e) => {
                    if let Some(undecided) = self.undecided.get_mut(&id) {
                        undecided.denied = true;
                    }
                    refused(&mut self.notices, &self.config, &path, &e, || {
                        format!("cannot be read: {e}; it is tried again at each scan")
                    });
                }
            }
        }
    }

    fn decide_one(
        &mut self,
        id: FileId,
        now: i64,
        scratch: &mut [u8],
        budget: &mut u64,
    ) -> io::Result<()> {
        let Some(mut undecided) = self.undecided.remove(&id) else { return Ok(()) };
        undecided.denied = false;
        let held = match undecided.handle.take() {
            Some(held) => held,
            None => {
                let opened = open_with_stat(&self.disk, &undecided.path);
                match opened {
                    Ok((file, stat)) if FileId::of(&stat) == id => self.held.hold(file),
                    Ok(_) => {
                        self.rescan = true;
                        return Ok(());
                    }
                    Err(e) => {
                        self.undecided.insert(id, undecided);
                        return Err(e);
                    }
                }
            }
        };
        let stat = held.file.stat()?;
        undecided.see(Seen::of(&stat), now);
        let gone = !undecided.listed && stat.len == 0;
        if gone {
            return Ok(());
        }
        let mut head = [0; HEAD];
        let have = read_up_to(&held.file, &mut head, 0)?;
        let originals = candidates(&self.disk, &mut self.tails, id, &head[..have]);
        let mut means = Means { scratch, budget: *budget, boot: &self.boot };
        let verdict =
            judge(&self.disk, &self.tails, id, &mut undecided, &held.file, &originals, &mut means);
        *budget = means.budget;
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(e) => {
                self.undecided.insert(id, undecided);
                return Err(e);
            }
        };
        let waited = now.saturating_sub(undecided.since) >= ms(self.config.copy_patience);
        self.busy.extend(undecided.waits_for);
        undecided.handle = Some(held);
        self.undecided.insert(id, undecided);
        match verdict {
            Verdict::Wait if !waited => self.keep_few_handles(id),
            Verdict::Again => self.rescan = true,
            Verdict::New | Verdict::Wait => self.promote(id, Prefix::EMPTY, None),
            Verdict::Twin { of, likeness } => self.promote(id, likeness.lines(), Some(of)),
            Verdict::Own { from } => self.promote(id, from, None),
            Verdict::Heir { of } => self.inherit(id, of),
        }
        Ok(())
    }

    /// Files that wait are held open, so that they are not lost when they are renamed meanwhile; but
    /// not so many that the others cannot be read.
    fn keep_few_handles(&mut self, id: FileId) {
        if self.held.get() > self.config.max_open / 2
            && let Some(undecided) = self.undecided.get_mut(&id)
            && undecided.listed
        {
            undecided.handle = None;
        }
    }

    /// Gives an undecided file a position: behind `prefix`, and not read while it is a twin.
    fn promote(&mut self, id: FileId, prefix: Prefix, twin: Option<Key>) {
        let Some(undecided) = self.undecided.remove(&id) else { return };
        let key = self.free_key(id);
        let mut tail = Tail::new(FilePosition {
            key,
            origin: Origin { key, path: Arc::from(bytes_of(&undecided.path)) },
            birth_ns: undecided.birth_ns,
            twin,
            text: undecided.text || prefix.len() > 0,
            prefix,
            lines: 0,
            mtime_ms: undecided.seen.mtime_ms,
            boot: Arc::clone(&self.boot),
        });
        tail.take_over(undecided, twin.is_some());
        self.tails.insert(key, tail);
        self.dirty.insert(key);
        self.keep_few(key);
    }

    /// The key of the next content of a file. A position that moved away keeps the key it was first
    /// found under for its records, so that counts too.
    fn free_key(&mut self, id: FileId) -> Key {
        if self.generations.len() > 2 * self.tails.len() + GENERATIONS_MIN {
            self.count_generations();
        }
        let next = self.generations.get(&id).map_or(0, |last| last + 1);
        self.generations.insert(id, next);
        Key { file: id, generation: next }
    }

    fn count_generations(&mut self) {
        self.generations.clear();
        for tail in self.tails.values() {
            for key in [tail.position.key, tail.position.origin.key] {
                let last = self.generations.entry(key.file).or_default();
                *last = key.generation.max(*last);
            }
        }
    }

    /// Lets go of a file that was opened only to be judged, when many are open.
    fn keep_few(&mut self, key: Key) {
        if self.held.get() > self.config.max_open / 2
            && let Some(tail) = self.tails.get_mut(&key)
            && tail.at.is_some()
        {
            tail.handle = None;
        }
    }

    /// An undecided file turned out to hold the bytes of a position whose file has them no more.
    fn inherit(&mut self, id: FileId, of: Key) {
        let (Some(undecided), Some(original)) = (self.undecided.remove(&id), self.remove(of)) else {
            return;
        };
        let key = self.free_key(id);
        let position = FilePosition {
            key,
            birth_ns: undecided.birth_ns,
            mtime_ms: undecided.seen.mtime_ms,
            boot: Arc::clone(&self.boot),
            ..original.position
        };
        self.tell_move(&position, &undecided.path);
        let mut tail = Tail::new(position);
        tail.take_over(undecided, false);
        self.tails.insert(key, tail);
        self.dirty.insert(key);
        self.repoint(of, key);
    }

    /// The same for a file that was a twin of it.
    fn inherit_as_twin(&mut self, key: Key, of: Key) {
        let (Some(original), Some(twin)) = (self.remove(of), self.tails.remove(&key)) else { return };
        let position = FilePosition {
            key,
            birth_ns: twin.position.birth_ns,
            mtime_ms: twin.seen.mtime_ms,
            boot: Arc::clone(&self.boot),
            ..original.position
        };
        if let Some(at) = &twin.at {
            self.tell_move(&position, at);
        }
        let mut tail = Tail::new(position);
        tail.at = twin.at;
        tail.seen = twin.seen;
        tail.changed_at = twin.changed_at;
        tail.end = twin.end;
        self.tails.insert(key, tail);
        self.dirty.insert(key);
        self.repoint(of, key);
    }

    fn tell_move(&mut self, position: &FilePosition, to: &Path) {
        let from = path_of(&position.origin.path);
        let offset = position.prefix.len();
        let what = format!("its lines go on at byte {offset} of {}", to.display());
        self.notices.say(from, NoticeLevel::Info, what);
    }

    /// Twins of a file that moved are twins of where it moved to.
    fn repoint(&mut self, from: Key, to: Key) {
        for (&key, tail) in &mut self.tails {
            if tail.position.twin == Some(from) {
                tail.position.twin = Some(to);
                self.dirty.insert(key);
            }
        }
    }

    /// Looks again at files that are but copies.
    fn look_at_twins(&mut self, scratch: &mut [u8], budget: &mut u64) {
        let twins: Vec<(Key, Key)> =
            self.tails.iter().filter_map(|(&key, tail)| Some((key, tail.position.twin?))).collect();
        for (key, _) in twins {
            // Both may have changed since the list was made.
            let Some(tail) = self.tails.get(&key) else { continue };
            let (Some(of), Some(path)) = (tail.position.twin, tail.at.clone()) else { continue };
            if self.is_settled_twin(tail, of) {
                continue;
            }
            if !self.make_room() {
                self.rescan = true;
                return;
            }
            let Some(tail) = self.tails.get(&key) else { continue };
            let answer = open_with_stat(&self.disk, &path).and_then(|(file, stat)| {
                if FileId::of(&stat) != key.file {
                    return Ok((stat, Agreement::Same, None));
                }
                let agreement = compare(&file, &stat, &tail.position, &self.boot)?;
                if agreement != Agreement::Same {
                    return Ok((stat, agreement, None));
                }
                let mut means = Means { scratch: &mut *scratch, budget: *budget, boot: &self.boot };
                let twinship = look_again(&self.disk, &self.tails, tail, of, &file, &mut means)?;
                *budget = means.budget;
                Ok((stat, agreement, Some(twinship)))
            });
            match answer {
                Ok((_, _, Some(twinship))) => self.apply(key, of, twinship),
                Ok((_, Agreement::Same, None)) => self.rescan = true,
                Ok((stat, _, None)) => self.settle(key, &stat, Agreement::Other, scratch),
                Err(e) if is_absent(&e) => self.rescan = true,
                Err(e) => self.deny(key, "compared", &e),
            }
        }
    }

    /// Whether nothing can have happened to a twin since it was looked at.
    fn is_settled_twin(&self, tail: &Tail<D::File>, of: Key) -> bool {
        let original = self.tails.get(&of).is_some_and(|original| {
            current(&self.tails, of.file) == Some(of)
                && original.at.is_some()
                && original.seen.len >= original.offset()
        });
        original && tail.looked == Some(tail.seen) && tail.likeness.covers(tail.seen.len)
    }

    fn apply(&mut self, key: Key, of: Key, twinship: Twinship) {
        let Some(tail) = self.tails.get_mut(&key) else { return };
        match twinship {
            Twinship::Heir => self.inherit_as_twin(key, of),
            Twinship::Own(prefix) => {
                tail.position.prefix = prefix;
                tail.position.twin = None;
                tail.position.text = true;
                tail.looked = None;
                tail.ahead = Default::default();
                let what = "is a copy no more: its own lines follow".to_owned();
                if let Some(at) = &tail.at {
                    self.notices.say(at, NoticeLevel::Info, what);
                }
                self.dirty.insert(key);
            }
            Twinship::Stays(likeness) | Twinship::Again(likeness) => {
                if matches!(twinship, Twinship::Again(_)) {
                    self.rescan = true;
                    self.busy.insert(of);
                } else {
                    tail.looked = Some(tail.seen);
                }
                tail.likeness = likeness;
                if likeness.lines().len() > tail.offset() {
                    tail.position.prefix = likeness.lines();
                    self.dirty.insert(key);
                }
            }
        }
    }

    /// Takes the rest of rotated files that are quiet, and lets go of files without a name.
    fn drain(&mut self, now: i64) {
        let wait = ms(self.config.rotate_wait);
        for (key, tail) in &mut self.tails {
            if tail.position.twin.is_some() || !tail.is_rotated() || now.saturating_sub(tail.changed_at) < wait {
                continue;
            }
            let unread = tail.upto() > tail.offset() && !tail.finished && !tail.denied;
            if unread && tail.looked != Some(tail.seen) {
                continue;
            }
            if unread && tail.rest_taken != Some(tail.seen) {
                tail.take_rest = true;
            } else if tail.at.is_none() && !self.touched.contains(key) {
                tail.handle = None;
            }
        }
    }

    /// Deletes positions whose bytes are nowhere to be found.
    fn retire(&mut self, listing: &Listing) {
        let waited: BTreeSet<Key> = self.undecided.values().filter_map(|u| u.waits_for).collect();
        let lost: Vec<Key> = self
            .tails
            .iter()
            .filter(|(key, tail)| {
                let path = path_of(&tail.position.origin.path);
                tail.at.is_none()
                    && tail.handle.is_none()
                    && tail.missed >= MISSED_MAX
                    && !waited.contains(key)
                    && !self.busy.contains(key)
                    && self.finder.covers(path)
                    && listing.saw(path)
                    && self.is_place_there(path, key.file.dev)
            })
            .map(|(&key, _)| key)
            .collect();
        for key in lost {
            let Some(tail) = self.remove(key) else { continue };
            if tail.lag() > 0 {
                let what = format!(
                    "{} bytes after byte {} were not read before they were deleted or truncated",
                    tail.lag(),
                    tail.offset()
                );
                let path = path_of(&tail.position.origin.path);
                self.notices.say(path, NoticeLevel::Warning, what);
            }
        }
    }

    /// Whether the file system that held a file is there: a folder without its mount looks empty.
    fn is_place_there(&self, path: &Path, dev: u64) -> bool {
        let above = path.ancestors().skip(1).find_map(|folder| self.disk.stat(folder).ok());
        above.is_some_and(|stat| stat.dev == dev)
    }

    /// Makes sure that one more file may be opened: closes those that were not read for longest.
    fn make_room(&mut self) -> bool {
        if self.held.get() < self.config.max_open {
            return true;
        }
        let mut closable: Vec<(i64, Key)> = self
            .tails
            .iter()
            .filter(|(key, tail)| tail.is_closable() && !self.touched.contains(key))
            .map(|(&key, tail)| (tail.used_at, key))
            .collect();
        closable.sort_unstable();
        // Half of them at once, so that the list is not made for every single file.
        let count = closable.len().div_ceil(2);
        for (_, key) in closable.into_iter().take(count) {
            if let Some(tail) = self.tails.get_mut(&key) {
                tail.handle = None;
            }
        }
        if self.held.get() >= self.config.max_open {
            for undecided in self.undecided.values_mut().filter(|undecided| undecided.listed) {
                undecided.handle = None;
            }
        }
        self.held.get() < self.config.max_open
    }

    /// The present boot.
    pub(crate) fn boot(&self) -> &Arc<str> {
        &self.boot
    }

    /// Whether positions wait for the scan that retires them.
    pub(crate) fn has_missed(&self) -> bool {
        self.tails.values().any(|tail| tail.missed > 0 && tail.missed < MISSED_MAX)
    }
}

fn open_with_stat<D: Disk>(disk: &D, path: &Path) -> io::Result<(D::File, Stat)> {
    let file = disk.open(path, Open::Read)?;
    let stat = file.stat()?;
    Ok((file, stat))
}

/// Says that a file may not be read, unless nobody wants to know.
fn refused(
    notices: &mut Notices,
    config: &FileSourceConfig,
    path: &Path,
    error: &io::Error,
    what: impl FnOnce() -> String,
) {
    if !(config.pass_unreadable && error.kind() == io::ErrorKind::PermissionDenied) {
        notices.trouble(path, Trouble::Unreadable, what);
    }
}

/// EMFILE and ENFILE: others have to close files first.
fn is_out_of_handles(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// Whole milliseconds.
pub(crate) fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
