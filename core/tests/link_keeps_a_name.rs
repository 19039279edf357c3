//! A link followed by syncs leaves a file with a name whatever happens in between; a rename need not.

use std::io;
use std::path::Path;

use thalweg_core::disk::real::RealDisk;
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::disk::{Disk, DiskFile, Open, read_file, write_all_at};

/// A synced file under a synced name.
fn prepare<D: Disk>(disk: &D, root: &Path) {
    for folder in ["a", "b"] {
        disk.create_dir(&root.join(folder)).expect("free");
    }
    let file = disk.open(&root.join("a/old"), Open::CreateNew).expect("free");
    write_all_at(&file, b"bytes", 0).expect("room");
    file.sync_data().expect("synced");
    disk.sync_dir(&root.join("a")).expect("synced");
    disk.sync_dir(root).expect("synced");
}

fn check_both_disks<D: Disk>(disk: &D, root: &Path) {
    prepare(disk, root);
    let (old, new) = (root.join("a/old"), root.join("b/new"));
    disk.link(&old, &new).expect("free");
    assert_eq!(read_file(disk, &new, 100).expect("there"), b"bytes");
    let stat = |path| disk.stat(path).expect("there");
    assert_eq!(stat(&old).ino, stat(&new).ino, "one file with two names");
    let taken = disk.link(&old, &new).expect_err("the name is taken");
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    disk.remove(&old).expect("there");
    assert_eq!(read_file(disk, &new, 100).expect("still there"), b"bytes");
    let missing = disk.link(&old, &root.join("b/other")).expect_err("nothing to link");
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}

#[test]
fn both_disks_give_second_names() {
    check_both_disks(&SimDisk::new(1), Path::new("/"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    check_both_disks(&RealDisk, folder.path());
}

#[test]
fn a_power_loss_between_link_and_unlink_leaves_a_name() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let root = Path::new("/");
        prepare(&disk, root);
        let before = disk.operations();
        for operation in 1..=5 {
            let disk = SimDisk::new(seed);
            prepare(&disk, root);
            disk.crash_at(before + operation, Crash::Power);
            let (old, new) = (root.join("a/old"), root.join("b/new"));
            // Stops at the first failure, as a program does.
            let done = disk
                .link(&old, &new)
                .and_then(|()| disk.sync_dir(&root.join("b")))
                .and_then(|()| disk.remove(&old))
                .and_then(|()| disk.sync_dir(&root.join("a")));
            assert_eq!(done.is_err(), operation <= 4);
            disk.crash(Crash::Power);
            let disk = disk.restart();
            let found = read_file(&disk, &new, 100).or_else(|_| read_file(&disk, &old, 100));
            assert_eq!(found.expect("one name is left"), b"bytes", "operation {operation}");
        }
    }
}

#[test]
fn a_file_system_without_links_says_so() {
    let disk = SimDisk::new(1);
    prepare(&disk, Path::new("/"));
    disk.set_hard_links(false);
    let refused = disk.link(Path::new("/a/old"), Path::new("/b/new")).expect_err("refused");
    assert_eq!(refused.raw_os_error(), Some(1), "EPERM, as FAT answers");
}
