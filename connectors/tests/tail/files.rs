//! What writers and rotators do to files.

use std::path::Path;

use thalweg_core::disk::sim::SimDisk;
use thalweg_core::disk::{Disk, DiskFile, Open, read_file, write_all_at};

/// The files, through a door of others than the program under test.
#[derive(Clone)]
pub(crate) struct Files(pub(crate) SimDisk);

impl Files {
    pub(crate) fn append(&self, path: &str, text: impl AsRef<[u8]>) {
        let file = self.0.open(Path::new(path), Open::Create).expect("may be written");
        let len = file.len().expect("has a length");
        write_all_at(&file, text.as_ref(), len).expect("room");
    }

    pub(crate) fn truncate(&self, path: &str, len: u64) {
        let file = self.0.open(Path::new(path), Open::Write).expect("is there");
        file.set_len(len).expect("may be cut");
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        self.0.rename(Path::new(from), Path::new(to)).expect("is there");
    }

    pub(crate) fn remove(&self, path: &str) {
        self.0.remove(Path::new(path)).expect("is there");
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.0.stat(Path::new(path)).is_ok()
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        read_file(&self.0, Path::new(path), u64::MAX).expect("is there")
    }

    /// Copies what a file has beyond the length of another to the end of that, at most `max` bytes.
    /// How many there were.
    pub(crate) fn copy(&self, from: &str, to: &str, max: usize) -> usize {
        let source = self.read(from);
        let file = self.0.open(Path::new(to), Open::Create).expect("may be written");
        let at = file.len().expect("has a length");
        let rest = &source[(at as usize).min(source.len())..];
        let part = &rest[..rest.len().min(max)];
        write_all_at(&file, part, at).expect("room");
        part.len()
    }
}
