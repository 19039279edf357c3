//! What a file holds now: still the same, what a power loss left of it, or something else.
//!
//! ```text
//!   agreement   Same              -> go on
//!               Shrunk, Zeroed    -> next generation, behind what is left; old position set aside
//!               Other             -> to be judged like a new file;         old position set aside
//! ```
//!
//! Always true here: a position that was set aside is not read from any more, and stays until its
//! bytes are found elsewhere or it is retired; no two contents get the same key.

use std::sync::Arc;

use thalweg_core::disk::{Disk, Stat};

use super::Follow;
use crate::file::copies::Undecided;
use crate::file::identity::{FileId, Key};
use crate::file::notice::NoticeLevel;
use crate::file::position::FilePosition;
use crate::file::tail::{Agreement, Seen, Tail, born_apart, prefix_of};

/// So many files may be remembered beyond those that have a position.
const GENERATIONS_MIN: usize = 1000;

impl<D: Disk> Follow<D> {
    /// Does what follows from a comparison of the file `stat` speaks of with its position.
    pub(crate) fn settle(
        &mut self,
        key: Key,
        stat: &Stat,
        agreement: Agreement,
        scratch: &mut [u8],
    ) {
        let Some(old) = self.tails.get_mut(&key) else { return };
        // What is left of a copy is to be compared again with what it was a copy of.
        let agreement = match agreement {
            Agreement::Shrunk | Agreement::Zeroed if old.position.twin.is_some() => {
                Agreement::Other
            }
            agreement => agreement,
        };
        let before = old.compared.replace(Seen::of(stat));
        if agreement == Agreement::Same {
            // All bytes were compared when it had been born at another time.
            old.position.birth_ns = stat.birth_ns;
            if old.position.boot != self.boot {
                // From now on it cannot have shrunk in the power loss.
                old.position.boot = Arc::clone(&self.boot);
                self.dirty.insert(key);
            }
            return;
        }
        let path = old.name().to_owned();
        let offset = old.offset();
        if self.ends.is_some() && self.scans > 0 {
            // What it held at the first scan is gone; the next run takes up what there is now. Its
            // position waits for a copy that is in the making.
            let what =
                format!("was truncated or replaced after byte {offset} was read; read on later");
            self.notices.say(&path, NoticeLevel::Info, what);
            if let Some(ends) = &mut self.ends {
                ends.remove(&key.file);
            }
            self.set_aside(key);
            return;
        }
        match agreement {
            Agreement::Shrunk | Agreement::Zeroed => {
                self.go_on_in_the_rest(key, stat, agreement, scratch)
            }
            _ => {
                old.unread = before.map_or(0, |seen| seen.len.saturating_sub(offset));
                let what = format!(
                    "file_replaced: was truncated or replaced after byte {offset} was read"
                );
                self.notices.say(&path, NoticeLevel::Info, what);
                self.supersede(key, stat);
            }
        }
    }

    /// A power loss took bytes that had been read: the next generation goes on in what is left.
    fn go_on_in_the_rest(
        &mut self,
        key: Key,
        stat: &Stat,
        agreement: Agreement,
        scratch: &mut [u8],
    ) {
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
    pub(super) fn set_aside(&mut self, key: Key) {
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

    /// The key of the next content of a file. A position that moved away keeps the key it was first
    /// found under for its records, so that counts too.
    pub(super) fn free_key(&mut self, id: FileId) -> Key {
        if self.generations.len() > 2 * self.tails.len() + GENERATIONS_MIN {
            self.count_generations();
        }
        let next = self.generations.get(&id).map_or(0, |last| last + 1);
        self.generations.insert(id, next);
        Key { file: id, generation: next }
    }

    pub(super) fn count_generations(&mut self) {
        self.generations.clear();
        for tail in self.tails.values() {
            for key in [tail.position.key, tail.position.origin.key] {
                let last = self.generations.entry(key.file).or_default();
                *last = key.generation.max(*last);
            }
        }
    }
}
