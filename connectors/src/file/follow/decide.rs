//! Gives files without a position one: as new files, as twins, or as heirs of a position.
//!
//! Always true here: files are judged the longest first, so that an original comes before a copy of
//! it that is still growing; a position that finds its bytes elsewhere is deleted where it was in the
//! same transaction in which it is stored where it is; whoever was a twin of it follows.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use thalweg_core::disk::{Disk, DiskFile};

use super::handles::{is_out_of_handles, open_with_stat, refusal, refused};
use super::{Follow, ms};
use crate::file::copies::{Means, Twinship, Undecided, Verdict, candidates, judge, look_again};
use crate::file::discover::is_absent;
use crate::file::identity::{BLOCK, FileId, HEAD, Key, Prefix, read_up_to};
use crate::file::notice::NoticeLevel;
use crate::file::position::{FilePosition, Opening, Origin};
use crate::file::tail::{Agreement, Held, Seen, Tail, bytes_of, compare, current, path_of};

/// How often a file lets others go first. Two that grow all the time would wait for each other.
const POSTPONED_MAX: u32 = 3;

impl<D: Disk> Follow<D> {
    /// Measures the files that have no position. Answers whether there is one to be judged.
    pub(super) fn measure_undecided(&mut self, now: i64) -> bool {
        let mut any = false;
        for id in self.undecided.keys().copied().collect::<Vec<_>>() {
            let Some(undecided) = self.undecided.get(&id) else { continue };
            // An empty file cannot be told from a copy that is about to be written.
            if undecided.seen.len == 0 && undecided.listed {
                continue;
            }
            let path = undecided.path.clone();
            if undecided.handle.is_none() && !self.make_room() {
                self.rescan = true;
                continue;
            }
            let measured = self.with_undecided(id, |follow, undecided| {
                let Some(held) = follow.take_handle(id, undecided)? else { return Ok(None) };
                let stat = held.file.stat()?;
                let mut opening = [0; BLOCK];
                let have = read_up_to(&held.file, &mut opening, 0)?;
                undecided.opening = Opening::of(&opening[..have]);
                undecided.see(Seen::of(&stat), now);
                undecided.measured = Some(stat.len);
                undecided.handle = Some(held);
                Ok((stat.len > 0 || undecided.listed).then_some(()))
            });
            any |= self.is_done(id, &path, measured.as_ref().map(|_| ()));
            self.keep_few_handles(id);
        }
        any
    }

    /// Does something with an undecided file, and takes it back out if the answer is nothing.
    fn with_undecided<T>(
        &mut self,
        id: FileId,
        act: impl FnOnce(&mut Self, &mut Undecided<D::File>) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        let Some(mut undecided) = self.undecided.remove(&id) else { return Ok(None) };
        let answer = act(self, &mut undecided);
        if !matches!(answer, Ok(None)) {
            self.undecided.insert(id, undecided);
        }
        answer
    }

    /// The open file of an undecided one; `None` when its name stands for another file by now.
    fn take_handle(
        &mut self,
        id: FileId,
        undecided: &mut Undecided<D::File>,
    ) -> io::Result<Option<Held<D::File>>> {
        if let Some(held) = undecided.handle.take() {
            return Ok(Some(held));
        }
        let (file, stat) = open_with_stat(&self.disk, &undecided.path)?;
        if FileId::of(&stat) != id {
            self.rescan = true;
            return Ok(None);
        }
        Ok(Some(self.held.hold(file)))
    }

    /// Notes why a step with an undecided file failed, if it did. Answers whether it did not.
    fn is_done(&mut self, id: FileId, path: &Path, result: Result<(), &io::Error>) -> bool {
        match result {
            Ok(()) => return true,
            Err(e) if is_absent(e) => {
                self.undecided.remove(&id);
            }
            Err(e) if is_out_of_handles(e) => self.rescan = true,
            Err(e) => {
                if let Some(undecided) = self.undecided.get_mut(&id) {
                    undecided.denied = true;
                }
                refused(&mut self.notices, &self.config, path, e, || {
                    format!("cannot be read: {e}{}", refusal(&self.config, e))
                });
            }
        }
        false
    }

    /// Judges the files that were measured, the longest first: an original is never shorter than a
    /// copy of it. Of two that are as long, the one that was written last is the copy.
    pub(super) fn decide(&mut self, now: i64, scratch: &mut [u8], budget: &mut u64) {
        let mut waiting = Waiting::new();
        let mut order = Vec::new();
        for (&id, undecided) in &mut self.undecided {
            if undecided.seen.len > 0 {
                // One that got its first bytes after the others were measured was there before any
                // copy of it, even if that is as long by now.
                let len = undecided.seen.len + u64::from(undecided.measured.is_none());
                let opening = undecided.opening.bytes().to_vec();
                waiting.entry(opening).or_default().insert(id, len);
            }
            if let Some(measured) = undecided.measured.take() {
                let age = (undecided.seen.mtime_ms, undecided.birth_ns, undecided.listed);
                order.push((Reverse(measured), age, undecided.path.clone(), id));
            }
        }
        order.sort();
        for (Reverse(measured), _, path, id) in order {
            let Some(undecided) = self.undecided.get(&id) else { continue };
            if undecided.handle.is_none() && !self.make_room() {
                self.rescan = true;
                return;
            }
            let Some(undecided) = self.undecided.get(&id) else { continue };
            let opening = undecided.opening;
            if undecided.postponed < POSTPONED_MAX
                && is_outlasted(&waiting, id, opening.bytes(), measured)
            {
                if let Some(undecided) = self.undecided.get_mut(&id) {
                    undecided.postponed += 1;
                }
                self.rescan = true;
                continue;
            }
            let decided = self.decide_one(id, now, scratch, budget);
            self.is_done(id, &path, decided.as_ref().map(|_| ()));
            if let Some(alike) = waiting.get_mut(opening.bytes()) {
                alike.remove(&id);
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
        let answer = self.with_undecided(id, |follow, undecided| {
            undecided.denied = false;
            let Some(held) = follow.take_handle(id, undecided)? else { return Ok(None) };
            let stat = held.file.stat()?;
            undecided.see(Seen::of(&stat), now);
            if stat.len == 0 && !undecided.listed {
                return Ok(None);
            }
            let mut head = [0; HEAD];
            let have = read_up_to(&held.file, &mut head, 0)?;
            undecided.opening = Opening::of(&head[..have]);
            let Self { disk, tails, boot, .. } = follow;
            let originals = candidates(disk, tails, id, &head[..have], boot);
            let mut means = Means { scratch, budget: *budget, boot };
            let verdict = judge(disk, tails, id, undecided, &held.file, &originals, &mut means);
            *budget = means.budget;
            undecided.handle = Some(held);
            // An original that has lost its name is let go of soon; then the bytes will tell.
            let leaving = |of: Key| {
                tails.get(&of).is_some_and(|tail| tail.at.is_none() && tail.handle.is_some())
            };
            let waited = now.saturating_sub(undecided.since) >= ms(follow.config.copy_patience)
                && !undecided.waits_for.is_some_and(leaving);
            follow.busy.extend(undecided.waits_for);
            Ok(Some((verdict?, waited)))
        });
        let Some((verdict, waited)) = answer? else { return Ok(()) };
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

    /// Gives an undecided file a position: behind `prefix`, and not read while it is a twin.
    pub(super) fn promote(&mut self, id: FileId, prefix: Prefix, twin: Option<Key>) {
        let Some(undecided) = self.undecided.remove(&id) else { return };
        let key = self.free_key(id);
        let mut tail = Tail::new(FilePosition {
            key,
            origin: Origin { key, path: Arc::from(bytes_of(&undecided.path)) },
            birth_ns: undecided.birth_ns,
            twin,
            text: undecided.text || prefix.len() > 0,
            binary: false,
            opening: if prefix.len() > 0 { Opening::EMPTY } else { undecided.opening },
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

    /// An undecided file turned out to hold the bytes of a position whose file has them no more.
    fn inherit(&mut self, id: FileId, of: Key) {
        let (Some(undecided), Some(original)) = (self.undecided.remove(&id), self.remove(of))
        else {
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
        let (Some(original), Some(twin)) = (self.remove(of), self.tails.remove(&key)) else {
            return;
        };
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
    pub(super) fn look_at_twins(&mut self, scratch: &mut [u8], budget: &mut u64) {
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
                Ok((_, _, Some(twinship))) => self.apply(key, of, &twinship),
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

    fn apply(&mut self, key: Key, of: Key, twinship: &Twinship) {
        let Some(tail) = self.tails.get_mut(&key) else { return };
        match twinship {
            Twinship::Heir => self.inherit_as_twin(key, of),
            Twinship::Own(prefix) => {
                tail.position.prefix = *prefix;
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
                tail.likeness = *likeness;
                if likeness.lines().len() > tail.offset() {
                    tail.position.prefix = likeness.lines();
                    self.dirty.insert(key);
                }
            }
        }
    }
}

/// Files that are not yet judged, with their lengths, by their first bytes; those of files that were
/// not looked into are not known.
type Waiting = BTreeMap<Vec<u8>, BTreeMap<FileId, u64>>;

/// Whether another file that is not yet judged begins the same and has become longer than this one
/// was when it was measured: this one may be the copy, and comes after.
fn is_outlasted(waiting: &Waiting, id: FileId, opening: &[u8], measured: u64) -> bool {
    let longer = waiting
        .range(opening.to_vec()..)
        .take_while(|(other, _)| other.starts_with(opening))
        .map(|(_, files)| files);
    let shorter = (0..opening.len()).filter_map(|len| waiting.get(&opening[..len]));
    longer.chain(shorter).flatten().any(|(&other, &len)| other != id && len > measured)
}
