//! What the tests of the simulated disk share: writing files, crashing, counting outcomes.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::disk::{Disk, DiskFile, Open, read_file, write_all_at};

pub(crate) const SEEDS: u64 = 300;

pub(crate) const ROOT: &str = "/";

pub(crate) fn path(name: &str) -> &Path {
    Path::new(name)
}

/// Writes a file through one handle and gives the handle back; nothing is synced.
pub(crate) fn put(disk: &SimDisk, name: &str, bytes: &[u8]) -> <SimDisk as Disk>::File {
    let file = disk.open(path(name), Open::Create).expect("opened");
    write_all_at(&file, bytes, 0).expect("written");
    file
}

pub(crate) fn put_durably(disk: &SimDisk, name: &str, bytes: &[u8]) -> <SimDisk as Disk>::File {
    let file = put(disk, name, bytes);
    file.sync_data().expect("synced");
    let folder = path(name).parent().expect("absolute");
    disk.sync_dir(folder).expect("synced");
    file
}

pub(crate) fn content(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    match read_file(disk, path(name), 1 << 20) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => panic!("{name}: {e}\n{}", disk.trace().join("\n")),
    }
}

pub(crate) fn crashed(disk: &SimDisk, crash: Crash) -> SimDisk {
    disk.crash(crash);
    disk.restart()
}

/// How often each outcome came over the seeds.
pub(crate) fn outcomes<T: Ord>(one: impl Fn(u64) -> T) -> BTreeMap<T, u64> {
    let mut counts = BTreeMap::new();
    for seed in 0..SEEDS {
        *counts.entry(one(seed)).or_insert(0) += 1;
    }
    counts
}
