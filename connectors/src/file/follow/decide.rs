//! Gives files without a position one: as new files, as twins, or as heirs of a position.
//!
//! Always true here: files are judged the longest first, so that an original comes before a copy of
//! it that is still growing; a position that finds its bytes elsewhere is deleted where it was in the
//! same transaction in which it is stored where it is; whoever was a twin of it follows.

use std::cmp::Reverse;
use std::io;
use std::path::Path;
use std::sync::Arc;

use thalweg_core::disk::{Disk, DiskFile};

use super::handles::{is_out_of_handles, open_with_stat, refused};
use super::{Follow, ms};
use crate::file::copies::{Means, Twinship, Undecided, Verdict, candidates, judge, look_again};
use crate::file::discover::is_absent;
use crate::file::identity::{FileId, HEAD, Key, Prefix, read_up_to};
use crate::file::notice::NoticeLevel;
use crate::file::position::{FilePosition, Opening, Origin};
use crate::file::tail::{Agreement, Seen, Tail, bytes_of, compare, current, path_of};

impl<D: Disk> Follow<D> {
    /// Judges the files that have no position, the longest first: an original is never shorter than
    /// a copy of it that is still growing. Of two that are the same, the one that has lost its name
    /// is the older.
    pub(super) fn decide(&mut self, now: i64, scratch: &mut [u8], budget: &mut u64) {
        let order = |(&id, u): (&FileId, &Undecided<_>)| {
            (Reverse(u.seen.len), u.listed, u.path.clone(), id)
        };
        let mut ids: Vec<_> = self.undecided.iter().map(order).collect();
        ids.sort();
        for (_, _, path, id) in ids {
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
        undecided.opening = Opening::of(&head[..have]);
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
        // An original that has lost its name is let go of soon; then the bytes will tell.
        let leaving = |of: Key| {
            self.tails.get(&of).is_some_and(|tail| tail.at.is_none() && tail.handle.is_some())
        };
        let waited = now.saturating_sub(undecided.since) >= ms(self.config.copy_patience)
            && !undecided.waits_for.is_some_and(leaving);
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
