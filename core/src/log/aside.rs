//! F3 · Where what is removed from a folder is kept: beside it, under the same names.
//!
//! ```text
//!   DIR/log/orders-0/00000000000000000000.log   ->   DIR.repair-TIME/log/orders-0/00000000000000000000.log
//! ```
//!
//! Always true here: nothing is ever put inside the folder itself, where Apache Kafka would refuse it;
//! a file that was kept is not written over; a second name is given where the file system can, else
//! the bytes are copied and synced.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::truncate::copy_part;
use crate::disk::{Disk, DiskFile, Open};
use crate::error::{Error, Result};

/// A folder beside another one.
pub(crate) struct Aside<'a, D> {
    disk: &'a D,
    /// The folder whose files are kept.
    of: &'a Path,
    /// Where they are kept.
    root: &'a Path,
    made: RefCell<BTreeSet<PathBuf>>,
}

impl<'a, D: Disk> Aside<'a, D> {
    /// Keeps files of `of` below `root`, which is made with the first of them.
    pub(crate) fn new(disk: &'a D, of: &'a Path, root: &'a Path) -> Self {
        Self { disk, of, root, made: RefCell::default() }
    }

    /// Where a file is kept; the folders to there are made.
    pub(crate) fn path(&self, file: &Path) -> Result<PathBuf> {
        let name = file
            .strip_prefix(self.of)
            .unwrap_or_else(|_| Path::new(file.file_name().unwrap_or(file.as_os_str())));
        let path = self.root.join(name);
        let folders = path.ancestors().skip(1).take_while(|dir| dir.starts_with(self.root));
        let folders: Vec<PathBuf> = folders.map(Path::to_owned).collect();
        for dir in folders.into_iter().rev() {
            if self.made.borrow().contains(&dir) {
                continue;
            }
            match self.disk.create_dir(&dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create", &dir, e));
                }
                _ => self.made.borrow_mut().insert(dir),
            };
        }
        Ok(path)
    }

    /// Keeps a file that is about to be replaced or removed. One that is not there is nothing to keep.
    pub(crate) fn keep(&self, file: &Path) -> Result<()> {
        if self.disk.stat(file).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        let to = self.path(file)?;
        if self.disk.stat(&to).is_ok() {
            return Ok(());
        }
        // The hint is written in place: a second name would show what is written.
        let in_place = file.file_name().is_some_and(|name| name == super::HINT_FILE);
        if !in_place && self.disk.link(file, &to).is_ok() {
            return Ok(());
        }
        // Also where the file system gives no second names, or is another one.
        self.copy(file, &to)
    }

    /// Keeps the bytes of a file that is about to be written in place.
    pub(crate) fn copy(&self, file: &Path, to: &Path) -> Result<()> {
        let from = self.disk.open(file, Open::Read).map_err(|e| Error::io("open", file, e))?;
        let len = from.len().map_err(|e| Error::io("read", file, e))?;
        copy_part(self.disk, &from, file, 0..len, to)
    }

    /// Makes the names durable.
    pub(crate) fn sync(&self) -> Result<()> {
        let made = self.made.borrow();
        let parent = self.root.parent().filter(|_| !made.is_empty());
        for dir in made.iter().map(PathBuf::as_path).chain(parent) {
            let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            self.disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
        }
        Ok(())
    }

    /// Whether anything was kept.
    pub(crate) fn is_used(&self) -> bool {
        !self.made.borrow().is_empty()
    }
}
