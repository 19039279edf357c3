//! A door to the simulated disk through which somebody else gets in between any two calls.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use thalweg_core::disk::sim::{SimDisk, SimFile, SimLock};
use thalweg_core::disk::{Disk, DiskFile, Entry, LockKind, Open, Stat};

/// Something that another program does.
type Act = Box<dyn FnMut() + Send>;

/// What happens before each call.
#[derive(Clone, Default)]
pub(crate) struct Between(Arc<Mutex<Option<Act>>>);

impl Between {
    pub(crate) fn set(&self, act: impl FnMut() + Send + 'static) {
        *self.0.lock().expect("nobody panics with it") = Some(Box::new(act));
    }

    fn call(&self) {
        if let Some(act) = &mut *self.0.lock().expect("nobody panics with it") {
            act();
        }
    }
}

#[derive(Clone)]
pub(crate) struct RacingDisk {
    pub(crate) disk: SimDisk,
    pub(crate) between: Between,
}

pub(crate) struct RacingFile {
    file: SimFile,
    between: Between,
}

impl RacingDisk {
    fn now(&self) -> &SimDisk {
        self.between.call();
        &self.disk
    }
}

impl RacingFile {
    fn now(&self) -> &SimFile {
        self.between.call();
        &self.file
    }
}

impl Disk for RacingDisk {
    type File = RacingFile;
    type Lock = SimLock;

    fn open(&self, path: &Path, how: Open) -> io::Result<RacingFile> {
        Ok(RacingFile { file: self.now().open(path, how)?, between: self.between.clone() })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.now().rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.now().rename_new(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.now().link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.now().remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.now().create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.now().remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.now().list(path)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.now().stat(path)
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        self.now().canonical(path)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<SimLock> {
        self.now().lock(path, kind)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.now().sync_dir(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.now().free_space(path)
    }

    fn boot_id(&self) -> String {
        self.disk.boot_id()
    }
}

impl DiskFile for RacingFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.now().read_at(buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.now().write_at(buf, position)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.now().write_vectored_at(bufs, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.now().sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.now().set_len(len)
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.now().allocate(position, len)
    }

    fn len(&self) -> io::Result<u64> {
        self.now().len()
    }

    fn stat(&self) -> io::Result<Stat> {
        self.now().stat()
    }

    fn drop_cache(&self, bytes: std::ops::Range<u64>) -> io::Result<()> {
        self.now().drop_cache(bytes)
    }
}
