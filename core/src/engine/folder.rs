//! F6 · A data folder from outside: whose it is, which layout it has, how its last process stopped.
//!
//! Always true here: a name is durable before anything rests on it; nothing is written into a folder
//! that is in use, not ours, or newer than this program.

use std::io;
use std::path::Path;

use super::METADATA_TOPIC;
use super::foreign::is_foreign;
use crate::disk::{Disk, LockKind, read_file, replace_file};
use crate::error::{Error, Result};

/// The folder of the log inside the data folder.
pub(super) const LOG_DIR: &str = "log";
/// The folder for the state of the layers above, inside the data folder.
pub const STATE_DIR: &str = "state";
/// The number of the layout that this program writes.
///
/// - 1: partitions begin at 0, their hint ends after the durable end.
/// - 2: a log start, and a recovery point within a segment. What was written at 1 is read; a program of
///   layout 1 would not know that records were deleted.
/// - 3: compacted segments, between whose batches offsets are missing: to a program of layout 2 that
///   is damage.
pub(super) const FORMAT: u32 = 3;
pub(super) const FORMAT_FILE: &str = "format";
pub(super) const CLEAN_MARKER: &str = ".kafka_cleanshutdown";

/// The locks of an open folder.
pub(super) struct Locks<D: Disk> {
    _folder: D::Lock,
    _log: D::Lock,
}

impl<D: Disk> Locks<D> {
    pub(super) fn new(folder: D::Lock, log: D::Lock) -> Self {
        Self { _folder: folder, _log: log }
    }
}

/// Refuses a log directory of Apache Kafka: ours beside it would make a broker refuse it, too.
pub(super) fn refuse_foreign<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    if is_there(disk, &dir.join(FORMAT_FILE))? || !is_there(disk, dir)? || !is_foreign(disk, dir)? {
        return Ok(());
    }
    Err(Error::Unsupported {
        path: dir.to_owned(),
        what: "it is a log directory of Apache Kafka: look at it read-only, or take it over first"
            .to_owned(),
    })
}

/// Makes the data folder with its parents, and every name on the way to it durable: also of folders
/// that are there already, because whoever made them may have been killed before syncing them. Not
/// again once there is a `format`, which is written after this.
pub(super) fn make_data_dir<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    if is_there(disk, &dir.join(FORMAT_FILE))? {
        return Ok(());
    }
    let way: Vec<&Path> = dir.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
    for folder in way.into_iter().rev() {
        let was_there = is_there(disk, folder)?;
        make_dir(disk, folder)?;
        let Some(parent) = folder.parent() else { continue };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent) {
            // We could not have made a name there, and did not.
            Err(e) if was_there && no_place_to_make_names(&e) => {}
            other => other.map_err(|e| Error::io("sync", parent, e))?,
        }
    }
    Ok(())
}

/// Whether a folder refuses to be synced because of what it is: not ours, or of a file system that is
/// read-only or has nothing to sync.
fn no_place_to_make_names(e: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(e.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}

/// Makes a folder that may be there already; its name is not durable yet.
pub(super) fn make_dir<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    if is_there(disk, dir)? {
        return Ok(());
    }
    match disk.create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("create", dir, e)),
        _ => Ok(()),
    }
}

pub(super) fn is_there<D: Disk>(disk: &D, path: &Path) -> Result<bool> {
    match disk.stat(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

pub(super) fn lock<D: Disk>(disk: &D, dir: &Path, path: &Path, kind: LockKind) -> Result<D::Lock> {
    disk.lock(path, kind).map_err(|e| {
        if e.kind() != io::ErrorKind::WouldBlock {
            return Error::io("lock", path, e);
        }
        let pid = read_file(disk, path, 64).ok().and_then(|b| String::from_utf8(b).ok());
        let by = match pid.as_deref().map(str::trim) {
            Some(pid) if !pid.is_empty() => format!(" by process {pid}"),
            _ => String::new(),
        };
        Error::InUse { path: dir.to_owned(), by }
    })
}

pub(super) fn check_format<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    let path = dir.join(FORMAT_FILE);
    match read_file(disk, &path, 64) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            match text.trim().parse::<u32>() {
                Ok(FORMAT) => Ok(()),
                // Before anything is written that an older program would misread.
                Ok(found) if found < FORMAT => {
                    replace_file(disk, &path, format!("{FORMAT}\n").as_bytes())
                        .map_err(|e| Error::io("write", &path, e))
                }
                Ok(found) => Err(Error::Unsupported {
                    path,
                    what: format!(
                        "the folder has layout {found}, this program reads up to {FORMAT}: use the program that wrote it, or a newer one"
                    ),
                }),
                Err(_) => Err(Error::damaged(
                    &path,
                    0,
                    "no layout number in it: restore the file (its content is \"3\") or use another folder",
                )),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if disk.stat(&dir.join(LOG_DIR).join(format!("{METADATA_TOPIC}-0"))).is_ok() {
                return Err(Error::damaged(
                    &path,
                    0,
                    "the file is missing and the folder holds a log: restore it (its content is \"3\")",
                ));
            }
            replace_file(disk, &path, format!("{FORMAT}\n").as_bytes())
                .map_err(|e| Error::io("write", &path, e))
        }
        Err(e) => Err(Error::io("read", &path, e)),
    }
}

/// Says whether the last process stopped cleanly, and durably forgets that it did.
pub(super) fn take_clean_marker<D: Disk>(disk: &D, log_dir: &Path) -> Result<bool> {
    let path = log_dir.join(CLEAN_MARKER);
    match disk.remove(&path) {
        Ok(()) => {
            disk.sync_dir(log_dir).map_err(|e| Error::io("sync", log_dir, e))?;
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("remove", &path, e)),
    }
}

/// Marks the folder as cleanly stopped: the last thing that is written.
pub(super) fn mark_clean<D: Disk>(disk: &D, log_dir: &Path) -> Result<()> {
    let lock = log_dir.join(".lock");
    disk.remove(&lock).map_err(|e| Error::io("remove", &lock, e))?;
    let path = log_dir.join(CLEAN_MARKER);
    let text = format!("{{\"version\":0,\"brokerEpoch\":-1,\"bootId\":\"{}\"}}", disk.boot_id());
    replace_file(disk, &path, text.as_bytes()).map_err(|e| Error::io("write", &path, e))
}
