//! F2 · Many files, few of them open: a bounded cache of handles.
//!
//! ```text
//!   Slot (path) --open--> handle, counted        a hit is one load, no lock
//!        ^                   |
//!        '--- closed <-------'  when more than `max` are open: the oldest that was not used since the
//!                               hand passed it (the clock algorithm), and that is not pinned
//! ```
//!
//! Always true here: whoever holds a handle may go on with it, also when its slot was closed; a file
//! that was written and not synced is pinned, because an error of the system's write-back is told to
//! the handles that were open then, and would be lost with them; a slot whose file was renamed to
//! `.deleted` finds it there; one whose name another file takes never opens that one.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwapOption;

use super::{Disk, Open};

/// What is put behind the name of a file that is about to be removed.
pub(crate) const DELETED: &str = ".deleted";

/// The open files of one folder.
pub struct Handles<D: Disk> {
    shared: Arc<Shared<D>>,
}

struct Shared<D: Disk> {
    disk: D,
    max: usize,
    /// Slots that are open, in the order in which the hand comes to them.
    open: Mutex<VecDeque<Weak<Slot<D>>>>,
}

impl<D: Disk> Clone for Handles<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<D: Disk> fmt::Debug for Handles<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handles").field("max", &self.shared.max).finish_non_exhaustive()
    }
}

/// A file that is opened when it is used.
pub(crate) struct Slot<D: Disk> {
    path: PathBuf,
    how: Open,
    handles: Handles<D>,
    file: ArcSwapOption<D::File>,
    used: AtomicBool,
    pinned: AtomicBool,
    /// Where the file goes, when another one is to take its name.
    moves_to: OnceLock<PathBuf>,
    moved: AtomicBool,
}

impl<D: Disk> Handles<D> {
    /// At most `max` open files, but for those that are pinned.
    pub fn new(disk: D, max: usize) -> Self {
        let open = Mutex::new(VecDeque::new());
        Self { shared: Arc::new(Shared { disk, max: max.max(1), open }) }
    }

    /// The disk they are on.
    pub fn disk(&self) -> &D {
        &self.shared.disk
    }

    /// A file that is not opened yet.
    pub(crate) fn slot(&self, path: PathBuf, how: Open) -> Arc<Slot<D>> {
        Arc::new(Slot {
            path,
            how,
            handles: self.clone(),
            file: ArcSwapOption::empty(),
            used: AtomicBool::new(false),
            pinned: AtomicBool::new(false),
            moves_to: OnceLock::new(),
            moved: AtomicBool::new(false),
        })
    }

    /// A file that is open already.
    pub(crate) fn slot_of(&self, path: PathBuf, how: Open, file: D::File) -> Arc<Slot<D>> {
        let slot = self.slot(path, how);
        slot.file.store(Some(Arc::new(file)));
        self.opened(&slot);
        slot
    }

    fn opened(&self, slot: &Arc<Slot<D>>) {
        slot.used.store(true, Ordering::Relaxed);
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_back(Arc::downgrade(slot));
        while open.len() > self.shared.max {
            if !close_one(&mut open) {
                break;
            }
        }
    }
}

/// Closes one that may be closed. `false` when the hand went round twice and found none.
fn close_one<D: Disk>(open: &mut VecDeque<Weak<Slot<D>>>) -> bool {
    for _ in 0..2 * open.len() {
        let Some(weak) = open.pop_front() else { return false };
        // One that is gone has closed its file.
        let Some(slot) = weak.upgrade() else { return true };
        if slot.pinned.load(Ordering::Acquire) || slot.used.swap(false, Ordering::Relaxed) {
            open.push_back(weak);
            continue;
        }
        slot.file.store(None);
        return true;
    }
    false
}

impl<D: Disk> Slot<D> {
    /// The path it was made for.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of the same name with another ending, for reading.
    pub(crate) fn beside(&self, suffix: &str) -> Arc<Self> {
        self.handles.slot(self.path.with_extension(suffix), Open::Read)
    }

    /// The file of another name in the same folder, for reading.
    pub(crate) fn sibling(&self, name: &str) -> Arc<Self> {
        self.handles.slot(self.path.with_file_name(name), Open::Read)
    }

    /// The file, opened if need be.
    ///
    /// # Errors
    /// What the system says to opening it. When it has no handles left, others are closed first.
    pub(crate) fn get(self: &Arc<Self>) -> io::Result<Arc<D::File>> {
        if let Some(file) = self.file.load_full() {
            // Looked at first: most of the time another core's line need not be taken away.
            if !self.used.load(Ordering::Relaxed) {
                self.used.store(true, Ordering::Relaxed);
            }
            return Ok(file);
        }
        let file = Arc::new(self.open()?);
        let before = self.file.compare_and_swap(&None::<Arc<D::File>>, Some(Arc::clone(&file)));
        if let Some(other) = before.as_ref() {
            return Ok(Arc::clone(other));
        }
        self.handles.opened(self);
        Ok(file)
    }

    fn open(&self) -> io::Result<D::File> {
        loop {
            if self.is_moved() {
                return self.open_at(self.moves_to.get().unwrap_or(&self.path), Open::Read);
            }
            let result = self.open_at(&self.path, self.how);
            if self.is_moved() {
                // It may be the other file.
                continue;
            }
            if !result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                return result;
            }
            let mut last = self.path.clone().into_os_string();
            last.push(DELETED);
            let last = PathBuf::from(last);
            return self.open_at(self.moves_to.get().unwrap_or(&last), Open::Read);
        }
    }

    fn open_at(&self, path: &Path, how: Open) -> io::Result<D::File> {
        let disk = self.handles.disk();
        let result = disk.open(path, how);
        if result.as_ref().is_err_and(no_handles) {
            let shared = &self.handles.shared;
            close_one(&mut shared.open.lock().unwrap_or_else(PoisonError::into_inner));
            return disk.open(path, how);
        }
        result
    }

    /// The file is about to be renamed to `to`, and then another one takes its name: between this and
    /// [`Slot::has_moved`] there is only the rename.
    pub(crate) fn moves_to(&self, to: PathBuf) {
        // Once: a file that was replaced is never replaced again.
        _ = self.moves_to.set(to);
    }

    /// The file was renamed; nothing has its old name yet.
    pub(crate) fn has_moved(&self) {
        self.moved.store(true, Ordering::Release);
    }

    /// Whether another file may have its name.
    pub(crate) fn is_moved(&self) -> bool {
        self.moved.load(Ordering::Acquire)
    }

    /// Keeps the file open until [`Slot::unpin`]: it holds bytes that no sync has covered.
    pub(crate) fn pin(&self) {
        if !self.pinned.load(Ordering::Relaxed) {
            self.pinned.store(true, Ordering::Release);
        }
    }

    /// A sync has covered everything written.
    pub(crate) fn unpin(&self) {
        self.pinned.store(false, Ordering::Release);
    }
}

/// Whether the system, or the process, has no handles left to give.
pub(crate) fn no_handles(e: &io::Error) -> bool {
    // ENFILE and EMFILE, on every system we run on.
    matches!(e.raw_os_error(), Some(23 | 24))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::disk::{read_exact_at, write_all_at};

    fn files(disk: &SimDisk, count: usize) -> Vec<PathBuf> {
        let path = |n: usize| PathBuf::from(format!("/file-{n}"));
        for n in 0..count {
            let file = disk.open(&path(n), Open::CreateNew).expect("created");
            write_all_at(&file, &[n as u8; 4], 0).expect("written");
        }
        (0..count).map(path).collect()
    }

    fn content<D: Disk>(slot: &Arc<Slot<D>>) -> u8 {
        let mut bytes = [0; 4];
        read_exact_at(&*slot.get().expect("opens"), &mut bytes, 0).expect("read");
        bytes[0]
    }

    fn is_open<D: Disk>(slot: &Slot<D>) -> bool {
        slot.file.load().is_some()
    }

    #[test]
    fn no_more_than_so_many_are_open_and_all_can_be_read() {
        let disk = SimDisk::new(1);
        let paths = files(&disk, 20);
        disk.set_handles_max(4);
        let handles = Handles::new(disk, 4);
        let slots: Vec<_> = paths.iter().map(|p| handles.slot(p.clone(), Open::Read)).collect();
        for round in 0..3 {
            for (n, slot) in slots.iter().enumerate() {
                assert_eq!(content(slot), n as u8, "round {round}");
                assert!(slots.iter().filter(|s| is_open(s)).count() <= 4);
            }
        }
    }

    #[test]
    fn what_is_used_stays_open_before_what_is_not() {
        let disk = SimDisk::new(2);
        let paths = files(&disk, 12);
        let handles = Handles::new(disk, 4);
        let slots: Vec<_> = paths.iter().map(|p| handles.slot(p.clone(), Open::Read)).collect();
        for other in 1..12 {
            content(&slots[0]);
            content(&slots[other]);
        }
        assert!(is_open(&slots[0]));
    }

    #[test]
    fn what_is_pinned_stays_open_whatever_the_bound() {
        let disk = SimDisk::new(3);
        let paths = files(&disk, 10);
        let handles = Handles::new(disk, 2);
        let slots: Vec<_> = paths.iter().map(|p| handles.slot(p.clone(), Open::Write)).collect();
        for slot in &slots[..5] {
            slot.pin();
            content(slot);
        }
        for slot in &slots[5..] {
            content(slot);
        }
        assert!(slots[..5].iter().all(|slot| is_open(slot)));
        slots[..5].iter().for_each(|slot| slot.unpin());
        for slot in &slots[5..] {
            content(slot);
        }
        assert!(slots.iter().filter(|slot| is_open(slot)).count() <= 2);
    }

    #[test]
    fn a_reader_that_holds_a_handle_goes_on_when_it_is_closed() {
        let disk = SimDisk::new(4);
        let paths = files(&disk, 3);
        let handles = Handles::new(disk.clone(), 1);
        let slots: Vec<_> = paths.iter().map(|p| handles.slot(p.clone(), Open::Read)).collect();
        let held = slots[0].get().expect("opens");
        content(&slots[1]);
        content(&slots[2]);
        assert!(!is_open(&slots[0]));
        let mut bytes = [9; 4];
        read_exact_at(&*held, &mut bytes, 0).expect("still read");
        assert_eq!(bytes, [0; 4]);
        // And a file that is on its way out is found under its last name.
        let mut last = paths[0].clone().into_os_string();
        last.push(DELETED);
        disk.rename(&paths[0], last.as_ref()).expect("renamed");
        assert_eq!(content(&slots[0]), 0);
    }

    /// What compaction does: whoever holds the old segment never sees a byte of the new one.
    #[test]
    fn a_file_whose_name_another_one_takes_is_found_where_it_went() {
        let disk = SimDisk::new(6);
        let paths = files(&disk, 3);
        let handles = Handles::new(disk.clone(), 1);
        let slots: Vec<_> = paths.iter().map(|p| handles.slot(p.clone(), Open::Read)).collect();
        let (old, to) = (&slots[1], PathBuf::from("/file-1.7.deleted"));
        old.moves_to(to.clone());
        assert_eq!(content(old), 1, "about to move");
        content(&slots[0]);
        disk.rename(&paths[1], &to).expect("renamed");
        assert_eq!(content(old), 1, "on its way");
        old.has_moved();
        disk.link(&paths[2], &paths[1]).expect("linked");
        content(&slots[0]);
        assert!(!is_open(old));
        assert_eq!(content(old), 1, "the other file has its name");
        assert_eq!(content(&handles.slot(paths[1].clone(), Open::Read)), 2);
        disk.remove(&to).expect("removed");
        content(&slots[0]);
        assert_eq!(old.get().err().map(|e| e.kind()), Some(io::ErrorKind::NotFound));
    }

    #[test]
    fn when_the_system_has_no_handles_left_one_is_closed() {
        let disk = SimDisk::new(5);
        let paths = files(&disk, 6);
        disk.set_handles_max(3);
        let handles = Handles::new(disk, 100);
        let slots: Vec<_> = paths.iter().map(|p| handles.slot(p.clone(), Open::Read)).collect();
        for (n, slot) in slots.iter().enumerate() {
            assert_eq!(content(slot), n as u8);
        }
    }
}
