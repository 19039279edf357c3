//! The folder OUT: whose it is, and what lies in it.
//!
//! ```text
//!   .lock      flock, held for as long as the sink lives
//!   .log-id    "thalweg-files 1 <id of the log>\n", replaced whole or not at all
//!   .tmp/      temporaries of every folder: one place to look through at open
//!   <folder>/  finished files, and whatever people put there
//! ```
//!
//! Always true here: every folder we rely on is durable before a file in it is: after a crash a
//! folder may be there for the process and still be lost with the power, so opening syncs again.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use thalweg_core::disk::{Disk, LockKind, lock_holder, read_file, replace_file};
use thalweg_core::ids::{Offset, TopicPartition, Uuid};

use super::token::{parse_final, parse_temporary};
use super::{FileSinkConfig, failed};
use crate::error::{Error, Result};

/// Where everything of one OUT is.
#[derive(Clone, Debug)]
pub(super) struct Out {
    root: PathBuf,
}

impl Out {
    /// Takes the folder at `root` for this process and `log`, creating it when missing.
    pub(super) fn claim<D: Disk>(disk: &D, root: &Path, log: Uuid) -> Result<(Self, D::Lock)> {
        let out = Self { root: root.to_owned() };
        make_root(disk, root)?;
        let lock_path = root.join(LOCK);
        let lock = match disk.lock(&lock_path, LockKind::Flock) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let by = lock_holder(disk, &lock_path);
                let by = by.map(|pid| format!(" by process {pid}")).unwrap_or_default();
                return Err(thalweg_core::Error::InUse { path: root.to_owned(), by }.into());
            }
            Err(e) => return Err(failed("lock", &lock_path, e)),
        };
        out.check_log(disk, log)?;
        Ok((out, lock))
    }

    /// Writes the log's id, or refuses another log's folder.
    fn check_log<D: Disk>(&self, disk: &D, log: Uuid) -> Result<()> {
        let path = self.root.join(LOG_ID);
        let bytes = match read_file(disk, &path, 256) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let text = format!("{LOG_ID_HEAD}{log}\n");
                return replace_file(disk, &path, text.as_bytes())
                    .map_err(|e| failed("write", &path, e));
            }
            Err(e) => return Err(failed("read", &path, e)),
        };
        let found = std::str::from_utf8(&bytes).ok().and_then(|text| {
            let id = text.strip_prefix(LOG_ID_HEAD)?.strip_suffix('\n')?;
            Uuid::parse(id).ok()
        });
        match found {
            Some(id) if id == log => Ok(()),
            Some(id) => Err(Error::Fatal {
                what: format!(
                    "{} holds the output of another log (id {id}; this one is {log}): give an \
                     empty folder, or open the log it belongs to",
                    self.root.display()
                ),
            }),
            None => Err(Error::Fatal {
                what: format!(
                    "{} does not name a log as this version writes it: if the folder is the \
                     output of this log, put the line {LOG_ID_HEAD}{log} there; else give another \
                     folder",
                    path.display()
                ),
            }),
        }
    }

    /// The folders of the topics, and the one for temporaries: created, and durable.
    pub(super) fn make_folders<'a, D: Disk>(
        &self,
        disk: &D,
        folders: impl Iterator<Item = &'a String>,
    ) -> Result<()> {
        let wanted: BTreeSet<PathBuf> = folders.map(|folder| self.path(folder)).collect();
        let mut made = Vec::new();
        for path in wanted.into_iter().chain([self.temporaries()]) {
            if make_dir(disk, &path)? {
                made.push(path);
            }
        }
        sync_names(disk, &self.root, &made)
    }

    /// The folder of the temporaries.
    pub(super) fn temporaries(&self) -> PathBuf {
        self.root.join(TEMPORARIES)
    }

    /// The path of a temporary.
    pub(super) fn temporary(&self, name: &str) -> PathBuf {
        self.temporaries().join(name)
    }

    /// The path of a name relative to OUT.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes the names of the temporaries durable. A failed sync is not tried again, whatever the
    /// reason: names made after it, with new temporaries, are whole.
    pub(super) fn sync_temporaries<D: Disk>(&self, disk: &D) -> Result<()> {
        let path = self.temporaries();
        disk.sync_dir(&path)
            .map_err(|e| Error::Restart { what: format!("{}: cannot sync: {e}", path.display()) })
    }

    /// Removes the temporaries of the partitions `ours` answers for. Other names are left alone.
    pub(super) fn remove_temporaries<D: Disk>(
        &self,
        disk: &D,
        ours: impl Fn(&TopicPartition) -> bool,
    ) -> Result<u64> {
        let folder = self.temporaries();
        let mut removed = 0;
        for entry in disk.list(&folder).map_err(|e| failed("list", &folder, e))? {
            let at = entry.name.to_str().and_then(parse_temporary);
            if entry.is_dir || !at.is_some_and(|at| ours(&at)) {
                continue;
            }
            let path = folder.join(&entry.name);
            match disk.remove(&path) {
                Ok(()) => removed += 1,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed("remove", &path, e)),
            }
        }
        if removed > 0 {
            self.sync_temporaries(disk)?;
        }
        Ok(removed)
    }

    /// The start offsets of the finished files of a partition, ascending.
    pub(super) fn finals<D: Disk>(
        &self,
        disk: &D,
        folder: &str,
        at: &TopicPartition,
    ) -> Result<Vec<Offset>> {
        let path = self.path(folder);
        let entries = disk.list(&path).map_err(|e| failed("list", &path, e))?;
        Ok(entries
            .iter()
            .filter_map(|entry| parse_final(entry.name.to_str()?))
            .filter(|(found, _)| found == at)
            .map(|(_, start)| start)
            .collect())
    }
}

/// Refuses settings that make no sense.
pub(super) fn check(config: &FileSinkConfig) -> Result<()> {
    let invalid = |what: String| Err(thalweg_core::Error::invalid(what).into());
    for (topic, folder) in &config.folders {
        thalweg_core::ids::check_topic_name(topic)?;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if folder.is_empty() || folder.starts_with('.') || !folder.chars().all(legal) {
            return invalid(format!(
                "folder {folder:?} of topic {topic:?}: use a single name of a-z, A-Z, 0-9, '.', \
                 '_' and '-' that does not begin with '.'"
            ));
        }
    }
    if config.roll_bytes == 0 || config.buffer_bytes == 0 {
        return invalid("roll_bytes and buffer_bytes: use at least 1".to_owned());
    }
    Ok(())
}

/// Creates the folder and those above it. A folder is durable before the next one is made in it, so
/// whatever exists lies in durable folders, except the last: that one is synced here.
fn make_root<D: Disk>(disk: &D, root: &Path) -> Result<()> {
    let mut missing = Vec::new();
    let mut existing = root;
    loop {
        match disk.stat(existing) {
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::NotFound => missing.push(existing),
            Err(e) => return Err(failed("look at", existing, e)),
        }
        match parent(existing) {
            Some(above) => existing = above,
            None => break,
        }
    }
    if let Some(above) = parent(existing) {
        match disk.sync_dir(above) {
            Ok(()) => {}
            // A folder that we may not read is none that an earlier run of ours made.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            Err(e) => return Err(failed("sync", above, e)),
        }
    }
    for path in missing.into_iter().rev() {
        make_dir(disk, path)?;
        if let Some(above) = parent(path) {
            sync_names(disk, above, &[path.to_owned()])?;
        }
    }
    Ok(())
}

/// Makes names in a folder durable. When that fails the folders `made` there are removed again: a
/// name that a failed sync has seen may never reach the medium, also when later syncs succeed.
fn sync_names<D: Disk>(disk: &D, folder: &Path, made: &[PathBuf]) -> Result<()> {
    disk.sync_dir(folder).map_err(|e| {
        for path in made {
            // If this fails too there is nothing left to try; the error says that the sync failed.
            _ = disk.remove_dir(path);
        }
        failed("sync", folder, e)
    })
}

/// The folder above; of a bare relative name the current one.
fn parent(path: &Path) -> Option<&Path> {
    let above = path.parent()?;
    Some(if above.as_os_str().is_empty() { Path::new(".") } else { above })
}

/// Creates a folder; whether it was not there.
fn make_dir<D: Disk>(disk: &D, path: &Path) -> Result<bool> {
    match disk.create_dir(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(failed("create", path, e)),
    }
}

const LOCK: &str = ".lock";
const LOG_ID: &str = ".log-id";
const LOG_ID_HEAD: &str = "thalweg-files 1 ";
const TEMPORARIES: &str = ".tmp";
