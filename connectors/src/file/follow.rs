//! The files that are followed: brings what a scan found together with the positions.
//!
//! ```text
//!   scan:  survey     place    names and sizes of the files that are known
//!                     away     renamed out of sight while closed: by inode     away
//!                     drain    without a name: read to its end, let go         leave
//!                     verify   truncated, rewritten, reused?                   contents, handles
//!                     meet     inodes without a position        -> undecided
//!          measure    the undecided; then survey once more
//!          decide     new | a copy | the bytes of a position    -> followed from 0 | twin | moved
//!          twins      still the same? outgrown?                 -> its own from there
//!          retire     positions that full scans over a while did not find      leave
//! ```
//!
//! Always true here: what has a position keeps it until its bytes are found elsewhere or it is
//! retired, so a copy can be matched however late; a position has one claimant; what changed is in
//! `dirty` and `retired` until it is marked; files are visited in the order of their keys or paths,
//! never in that of a hash.

mod away;
mod contents;
mod decide;
mod durable;
mod handles;
mod leave;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thalweg_core::disk::{Disk, DiskFile, Stat};

use super::config::FileSourceConfig;
use super::copies::Undecided;
use super::discover::{Finder, Found, Listing};
use super::identity::{FileId, Key, Prefix};
use super::notice::Notices;
use super::position::{BOOT_MAX, FilePosition};
use super::tail::{Agreement, Held, HeldCount, Seen, Tail, compare, current};
use crate::error::Result;
use crate::source::{Positions, Split};
pub(crate) use handles::Access;

/// Bytes that comparisons may read in one scan.
const COMPARE_BUDGET: u64 = 64 << 20;
/// How long after its last growth a file is asked for more between scans.
const HOT: Duration = Duration::from_secs(10);

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
    /// Files of which the open transaction deletes a position, and where they were first found.
    pub(crate) departed: BTreeMap<FileId, Arc<[u8]>>,
    /// The folders that the last scan looked into.
    folders: Vec<PathBuf>,
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
    /// Bytes that were seen and went away before they were read.
    pub(crate) lost_bytes: u64,
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
            departed: BTreeMap::new(),
            folders: Vec::new(),
            busy: BTreeSet::new(),
            generations: BTreeMap::new(),
            rescan: false,
            scans: 0,
            new_folder: true,
            ends: None,
            notices: Notices::default(),
            lost_bytes: 0,
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
        self.retired.clear();
        self.departed.clear();
        let before = std::mem::replace(&mut self.tails, tails);
        self.new_folder = self.tails.is_empty();
        self.count_generations();
        let undecided = std::mem::take(&mut self.undecided);
        let followed = before
            .into_iter()
            .filter_map(|(key, tail)| Some((key.file, (tail.name().to_owned(), tail.handle?))));
        let waiting = undecided.into_iter().filter_map(|(id, u)| Some((id, (u.path, u.handle?))));
        self.kept.extend(followed.chain(waiting));
        for (id, (path, held)) in std::mem::take(&mut self.kept) {
            let key = current(&self.tails, id);
            if let Some(key) = key
                && self.is_other(key, &held)
            {
                self.set_aside(key);
            } else if let Some(tail) = key.and_then(|key| self.tails.get_mut(&key)) {
                tail.handle = tail.position.twin.is_none().then_some(held);
                continue;
            }
            self.kept.insert(id, (path, held));
        }
        for list in [&mut self.touched, &mut self.dirty, &mut self.hot] {
            list.clear();
        }
        self.queue.clear();
        self.scans = 0;
        Ok(())
    }

    /// Whether an open file holds something else than its position says.
    fn is_other(&self, key: Key, held: &Held<D::File>) -> bool {
        let agreement = held
            .file
            .stat()
            .and_then(|stat| compare(&held.file, &stat, &self.tails[&key].position, &self.boot));
        matches!(agreement, Ok(Agreement::Other))
    }

    /// One look at everything.
    pub(crate) fn scan(&mut self, now: i64, scratch: &mut [u8]) {
        self.rescan = false;
        self.busy.clear();
        self.avoided.retain(|_, until| now < *until);
        let (mut listing, mut verified) = self.survey(now, scratch);
        // What is judged was measured before everything else was looked at once more: whatever it
        // may be a copy of, had these bytes before it.
        if verified && self.measure_undecided(now) {
            (listing, verified) = self.survey(now, scratch);
            if verified {
                let mut budget = COMPARE_BUDGET.max(scratch.len() as u64);
                self.decide(now, scratch, &mut budget);
            }
        }
        if verified {
            let mut budget = COMPARE_BUDGET.max(scratch.len() as u64);
            self.look_at_twins(scratch, &mut budget);
            self.retire(&listing, now);
        }
        self.scans += 1;
        let keys: Vec<Key> = self.tails.keys().copied().collect();
        for key in keys {
            self.enqueue(key);
        }
    }

    /// Finds out which files there are, and whether those that are known are still the same. Answers
    /// also whether all of them could be compared.
    fn survey(&mut self, now: i64, scratch: &mut [u8]) -> (Listing, bool) {
        let mut listing = self.finder.scan(&self.disk);
        self.folders = std::mem::take(&mut listing.folders);
        self.notices.scanned(std::mem::take(&mut listing.faults), |path| {
            listing.files.binary_search_by(|found| found.path.as_path().cmp(path)).is_ok()
        });
        let known = self.place(&listing, now);
        self.follow_away(&listing, now);
        self.drain(now);
        let verified = self.verify(&known, now, scratch);
        self.meet(&listing, now);
        (listing, verified)
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

    /// Whether a turn of any file may find something.
    pub(crate) fn has_more(&self) -> bool {
        let more = |(key, tail): (&Key, &Tail<_>)| {
            tail.is_wanted() && !self.avoided.contains_key(&key.file)
        };
        !self.queue.is_empty() || self.tails.iter().any(more)
    }

    /// Notes that a file gave something.
    pub(crate) fn was_read(&mut self, key: Key) {
        self.dirty.insert(key);
        self.touched.insert(key);
        self.hot.insert(key);
    }

    /// Takes a position away for good.
    fn remove(&mut self, key: Key) -> Option<Tail<D::File>> {
        let tail = self.tails.remove(&key)?;
        self.retired.push((key, tail.split.clone()));
        if tail.offset() > 0 {
            self.departed.insert(key.file, Arc::clone(&tail.position.origin.path));
        }
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
                    }
                }
            }
        }
        known
    }

    /// Takes note of files that have no position.
    fn meet(&mut self, listing: &Listing, now: i64) {
        let first = self.scans == 0 && self.new_folder;
        let allowed = self.config.once.then(|| {
            let sizes =
                || listing.files.iter().map(|f| (FileId::of(&f.stat), f.stat.len)).collect();
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
                if listing.excludes(&self.disk, path) {
                    self.ignored.insert(id);
                    continue;
                }
                let mut undecided =
                    Undecided::new(path.clone(), stat.birth_ns, Seen::of(stat), now);
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
        self.undecided.retain(|_, undecided| {
            let held = undecided.handle.as_ref().map(|held| held.file.stat());
            if let (false, Some(Ok(stat))) = (undecided.listed, &held) {
                undecided.see(Seen::of(stat), now);
            }
            undecided.listed || held.is_some()
        });
    }

    /// Compares all files that changed since they were compared last: what is in them now also
    /// decides what others are copies of. Answers whether it could.
    fn verify(&mut self, known: &[(Key, Stat)], now: i64, scratch: &mut [u8]) -> bool {
        for (key, stat) in known {
            let Some(tail) = self.tails.get(key) else { continue };
            // What was read to its end is of interest only to those that may be copies of it.
            let is_over = tail.finished && self.undecided.is_empty();
            if is_over || tail.compared == Some(Seen::of(stat)) {
                continue;
            }
            let rebooted = tail.position.boot != self.boot;
            if stat.len < tail.offset() && !rebooted {
                self.settle(*key, stat, Agreement::Other, scratch);
            } else if let Some(held) = &tail.handle {
                match compare(&held.file, stat, &tail.position, &self.boot) {
                    Ok(agreement) => self.settle(*key, stat, agreement, scratch),
                    Err(e) => self.deny(*key, "read", &e),
                }
            } else if stat.len != tail.offset() || stat.mtime_ms != tail.position.mtime_ms {
                if self.acquire(*key, now, scratch) == Access::NoRoom {
                    self.rescan = true;
                    return false;
                }
                self.keep_few(*key);
            }
        }
        true
    }

    /// The present boot.
    pub(crate) fn boot(&self) -> &Arc<str> {
        &self.boot
    }
}

/// Whole milliseconds.
pub(crate) fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
