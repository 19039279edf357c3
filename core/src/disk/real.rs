//! F2 · The operating system's files behind [`Disk`]. The only file of core that touches `std::fs`.
//!
//! Always true here: one call is one or two system calls and nothing is remembered between calls;
//! descriptors are close-on-exec; no call waits for another process (a pipe opened by mistake fails
//! instead of hanging, a lock that is held is `WouldBlock`).
//!
//! What the system lacks is left out where the trait calls it a hint (reserving room, dropping
//! cached pages, birth times); what it cannot do in one step (a rename that refuses a taken name) is
//! done in two.
//!
//! A lock file holds its holder's process id as decimal text, so that whoever is refused can say by
//! whom: see [`lock_holder`](super::lock_holder).
#![expect(clippy::disallowed_methods, reason = "the door to files itself")]

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{Disk, DiskFile, Entry, Kind, LockKind, Open, Stat};

/// The file systems of the operating system.
///
/// ```
/// use thalweg_core::disk::{Disk, DiskFile, Open, real::RealDisk, read_file, write_all_at};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("greeting");
/// let disk = RealDisk;
/// let file = disk.open(&path, Open::CreateNew)?;
/// write_all_at(&file, b"good morning", 0)?;
/// file.sync_data()?; // the bytes survive a power loss,
/// disk.sync_dir(folder.path())?; // and now the name does too
/// assert_eq!(read_file(&disk, &path, 100)?, b"good morning");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Default, Debug)]
pub struct RealDisk;

/// An open file of the operating system.
#[derive(Debug)]
pub struct RealFile {
    file: File,
}

/// A held lock of the operating system. Freed when dropped, or by the kernel when the process dies
/// and its last thread has left the kernel.
#[derive(Debug)]
pub struct RealLock {
    _file: File,
}

impl Disk for RealDisk {
    type File = RealFile;
    type Lock = RealLock;

    fn open(&self, path: &Path, how: Open) -> io::Result<RealFile> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(PASSIVE.bits().cast_signed());
        match how {
            Open::Read => {}
            Open::Write => _ = options.write(true),
            Open::Create => _ = options.write(true).create(true),
            Open::CreateNew => _ = options.write(true).create_new(true),
        }
        let file = options.open(path)?;
        // Linux opens a folder for reading and fails at the first read: say it here.
        if how == Open::Read && file.metadata()?.is_dir() {
            return Err(Errno::ISDIR.into());
        }
        Ok(RealFile { file })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rename_no_replace(from, to) {
            // NFS, old overlayfs, kernels without renameat2.
            Err(first @ (Errno::INVAL | Errno::NOSYS | Errno::NOTSUP)) => {
                match link_then_unlink(from, to) {
                    // Folders cannot be linked: what the rename said of them holds.
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(first.into()),
                    other => other,
                }
            }
            other => Ok(other?),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let is_dir = match kind.is_symlink() {
                true => fs::metadata(entry.path()).is_ok_and(|target| target.is_dir()),
                false => kind.is_dir(),
            };
            entries.push(Entry { name: entry.file_name(), is_dir });
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        Ok(stat_of(&fs::metadata(path)?))
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<RealLock> {
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .custom_flags(PASSIVE.bits().cast_signed())
                .open(path)?;
            retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive))?;
            if kind == LockKind::WithRecordLock {
                record_lock(&file)?;
            }
            // A holder that stopped cleanly may have removed the file between our open and our lock:
            // then we hold a file without a name, and another process can lock the name's new file.
            if names_this(path, &file)? {
                file.set_len(0)?;
                // The lock holds without the note, so a full disk does not refuse it.
                _ = file.write_all_at(std::process::id().to_string().as_bytes(), 0);
                return Ok(RealLock { _file: file });
            }
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let system = rustix::fs::statvfs(path)?;
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
    }

    fn boot_id(&self) -> String {
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().to_owned())
            .unwrap_or_default()
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.file.write_at(buf, position)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        // More than IOV_MAX buffers become a short write.
        let bufs = &bufs[..bufs.len().min(BUFFERS_MAX)];
        Ok(rustix::io::pwritev(&self.file, bufs, position)?)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        match reserve(&self.file, position, len) {
            Err(Errno::NOSYS | Errno::NOTSUP) => Ok(()),
            other => Ok(other?),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&self.file.metadata()?))
    }

    fn drop_cache(&self, bytes: Range<u64>) -> io::Result<()> {
        Ok(forget_pages(&self.file, bytes)?)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

/// Never wait for the other end of a pipe, never take a terminal as ours. Without effect on files.
const PASSIVE: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY);

/// `IOV_MAX` of Linux and of the BSDs.
const BUFFERS_MAX: usize = 1024;

fn stat_of(of: &Metadata) -> Stat {
    let kind = match of.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Dir,
        _ => Kind::Other,
    };
    // On Linux the standard library asks with statx, so the birth time costs no call of its own.
    let birth_ns = of.created().ok().and_then(|at| match at.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).ok(),
        Err(before) => i64::try_from(before.duration().as_nanos()).ok().map(|ns| -ns),
    });
    Stat {
        dev: of.dev(),
        ino: of.ino(),
        birth_ns,
        len: of.len(),
        mtime_ms: of.mtime().saturating_mul(1000).saturating_add(of.mtime_nsec() / 1_000_000),
        kind,
    }
}

/// Whether `path` still stands for the open `file`.
fn names_this(path: &Path, file: &File) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

fn link_then_unlink(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_no_replace(from: &Path, to: &Path) -> Result<(), Errno> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_no_replace(_: &Path, _: &Path) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// Locks the whole file for this open file description. POSIX record locks of other processes
/// conflict with it, `flock` does not; unlike theirs it is not freed when some other descriptor of
/// the same file is closed in this process.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn record_lock(file: &File) -> io::Result<()> {
    use nix::errno::Errno as NixErrno;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(()),
        Err(NixErrno::EAGAIN | NixErrno::EACCES) => Err(Errno::WOULDBLOCK.into()),
        Err(e) => Err(e.into()),
    }
}

/// Other systems have no lock that belongs to the open file: `flock` alone must do.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn record_lock(_: &File) -> io::Result<()> {
    Ok(())
}

/// The length stays what was written, so neither readers nor recovery see a tail of zeros.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reserve(file: &File, position: u64, len: u64) -> Result<(), Errno> {
    use rustix::fs::{FallocateFlags, fallocate};
    retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, position, len))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reserve(_: &File, _: u64, _: u64) -> Result<(), Errno> {
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn forget_pages(file: &File, bytes: Range<u64>) -> Result<(), Errno> {
    let Some(len) = NonZeroU64::new(bytes.end.saturating_sub(bytes.start)) else { return Ok(()) };
    // Without a length it means up to the end of the file, and so does one that no file can have.
    let len = Some(len).filter(|_| i64::try_from(bytes.end).is_ok());
    rustix::fs::fadvise(file, bytes.start, len, rustix::fs::Advice::DontNeed)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn forget_pages(_: &File, _: Range<u64>) -> Result<(), Errno> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// File systems without RENAME_NOREPLACE are hard to come by: the fall-back is tried directly.
    #[test]
    fn renaming_in_two_steps_refuses_a_taken_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, b"new").expect("written");
        fs::write(&to, b"old").expect("written");
        let refused = link_then_unlink(&from, &to).expect_err("the name is taken");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).expect("still there"), b"old");

        fs::remove_file(&to).expect("removed");
        link_then_unlink(&from, &to).expect("the name is free");
        assert_eq!(fs::read(&to).expect("moved"), b"new");
        assert!(!from.exists());
    }
}
