//! F2 · The only door to files: one small trait, two living implementations.
//!
//! [`real::RealDisk`] is the operating system; [`sim::SimDisk`] keeps a whole file system in memory,
//! remembers what was synced, and can crash, tear, fill up and rot from a seed. Log, tailer and sink
//! do *all* their file work through this trait, so one simulated disk holds inputs, log and outputs.
//!
//! Always true here: calls are synchronous; there is no clock and no thread inside; a path is
//! absolute or relative to the process, never changed by us.
//!
//! What survives a power loss, for every implementation:
//! - bytes of a file: after [`DiskFile::sync_data`] returned `Ok`; before that any subset of the
//!   written pages may survive, in any order;
//! - a name (create, rename, remove): after [`Disk::sync_dir`] of its folder returned `Ok`; before
//!   that each of the two names of a rename may survive or vanish on its own;
//! - nothing more: a failed sync leaves the content unspecified and must never be retried.
//!
//! What survives a process crash: everything whose call returned.

pub mod handles;
pub mod overlay;
pub mod real;
mod region;
pub mod sim;

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::Path;

pub use self::region::Region;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// The file must exist; reads only. Symbolic links are followed.
    Read,
    /// The file must exist; reads and writes.
    Write,
    /// Reads and writes; created empty when missing.
    Create,
    /// Reads and writes; fails with `AlreadyExists` when the name is taken (O_EXCL).
    CreateNew,
}

/// What kind of thing a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// Anything else: device, pipe, socket.
    Other,
}

/// What the file system says of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// The device.
    pub dev: u64,
    /// The file's number on the device. Reused after removal.
    pub ino: u64,
    /// Nanoseconds since 1970 at which the file was born, where the system knows.
    pub birth_ns: Option<i64>,
    /// Length in bytes.
    pub len: u64,
    /// Milliseconds since 1970 of the last modification.
    pub mtime_ms: i64,
    /// What it is.
    pub kind: Kind,
}

/// One name in a folder.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// The name, without the folder. Names that are not UTF-8 keep their bytes.
    pub name: std::ffi::OsString,
    /// Whether it is a folder (links are followed; a broken link is not).
    pub is_dir: bool,
}

/// A file system. Cloning gives another door to the same one.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;
    /// A held lock: free again when dropped, or when the process dies.
    type Lock: Send + Sync + 'static;

    /// Opens a file. Descriptors are close-on-exec.
    fn open(&self, path: &Path, how: Open) -> io::Result<Self::File>;
    /// Renames over whatever is at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames, and fails with `AlreadyExists` when `to` is taken. When the file system cannot do it
    /// in one step: link, then unlink.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name (a hard link); fails with `AlreadyExists` when `to` is taken, and
    /// with EPERM, ENOSYS or EOPNOTSUPP where the file system has only one name per file. Until the
    /// folder of `to` is synced only the new name may be lost: unlike a rename, which may lose both.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates a folder; its parent must exist. Fails with `AlreadyExists`.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// What a name stands for; symbolic links are followed.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// The absolute, link-free form of an existing path.
    fn canonical(&self, path: &Path) -> io::Result<std::path::PathBuf>;
    /// Takes the exclusive lock of the file at `path` (created when missing) without waiting:
    /// `flock`, and for [`LockKind::WithRecordLock`] an open-file-description record lock as well, so
    /// that Apache Kafka's POSIX lock on the same file is excluded too. `WouldBlock` when it is held.
    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<Self::Lock>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Bytes that may still be written on the file system of `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// An id that changes with every boot of the machine; empty when the system has none.
    fn boot_id(&self) -> String;
}

/// Which locks [`Disk::lock`] takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// `flock` only.
    Flock,
    /// `flock` and an open-file-description record lock (`F_OFD_SETLK`).
    WithRecordLock,
}

/// An open file. All positions are explicit: no cursor is shared.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to `buf.len()` bytes at `position`; fewer only at the end of the file or when the
    /// system chose so; 0 at or past the end.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes up to `buf.len()` bytes at `position`; may write fewer.
    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize>;
    /// Writes several buffers in a row at `position` with one call; may write fewer.
    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize>;
    /// Makes the bytes and the length durable (`fdatasync`). Works on a read-only descriptor.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves room ahead without changing the length, where the file system can; else does nothing.
    fn allocate(&self, position: u64, len: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// What the file system says of this open file, whatever its name is now.
    fn stat(&self) -> io::Result<Stat>;
    /// Drops the file's clean pages that lie wholly within `bytes` (`0..u64::MAX`: all) from the page
    /// cache (`POSIX_FADV_DONTNEED`), so that the next read sees the medium. A hint where the system
    /// has no such call.
    fn drop_cache(&self, bytes: Range<u64>) -> io::Result<()>;
    /// The system's handle, for calls that move bytes without a copy; `None` where there is none.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Reads exactly `buf.len()` bytes at `position`; `UnexpectedEof` when the file is shorter.
pub fn read_exact_at<F: DiskFile + ?Sized>(
    file: &F,
    mut buf: &mut [u8],
    mut position: u64,
) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, position) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = &mut buf[n..];
                position += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes all of `buf` at `position`.
pub fn write_all_at<F: DiskFile>(file: &F, mut buf: &[u8], mut position: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.write_at(buf, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                position += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads a whole file of at most `limit` bytes; longer files fail with `FileTooLarge`.
pub fn read_file<D: Disk>(disk: &D, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let len = file.len()?;
    if len > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; len as usize];
    read_exact_at(&file, &mut bytes, 0)?;
    Ok(bytes)
}

/// Replaces a small file so that after a crash either the old or the new content is there, whole:
/// temporary file, sync, rename, sync of the folder.
pub fn replace_file<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let tmp = std::path::PathBuf::from(tmp);
    let file = disk.open(&tmp, Open::Create)?;
    file.set_len(0)?;
    write_all_at(&file, bytes, 0)?;
    file.sync_data()?;
    disk.rename(&tmp, path)?;
    disk.sync_dir(path.parent().unwrap_or_else(|| Path::new(".")))
}

/// The process that holds the lock file at `path`, as [`Disk::lock`] noted it there: for saying by
/// whom a lock is held after it was refused with `WouldBlock`. `None` when the file says nothing
/// (Apache Kafka writes nothing into its own).
pub fn lock_holder<D: Disk>(disk: &D, path: &Path) -> Option<u32> {
    let text = read_file(disk, path, 32).ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}
