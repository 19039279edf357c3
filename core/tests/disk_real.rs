//! What only real files can show: locks against other kinds of lock and across programs, links,
//! pipes, and what the system says of a file.
#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_methods, reason = "real files are what is tested")]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use thalweg_core::disk::real::RealDisk;
use thalweg_core::disk::{Disk, DiskFile, Kind, LockKind, Open, lock_holder, write_all_at};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Apache Kafka holds its folder by a POSIX record lock, which flock does not see. Such a lock of this
/// very process conflicts with ours too, since ours belongs to the open file and not to the process.
#[test]
fn the_record_lock_and_a_posix_lock_exclude_each_other() {
    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    let folder = folder();
    let path = folder.path().join(".lock");
    let kafkas = std::fs::File::create(&path).expect("created");
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&kafkas, FcntlArg::F_SETLK(&whole)).expect("free");
    let refused = RealDisk.lock(&path, LockKind::WithRecordLock).expect_err("Kafka holds it");
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);

    // The refused try closed a descriptor of the file, which freed the POSIX lock.
    let held = RealDisk.lock(&path, LockKind::WithRecordLock).expect("free");
    assert_eq!(fcntl(&kafkas, FcntlArg::F_SETLK(&whole)), Err(Errno::EAGAIN));
    drop(held);
    fcntl(&kafkas, FcntlArg::F_SETLK(&whole)).expect("free again");
    RealDisk.lock(&path, LockKind::Flock).expect("flock alone does not see it");
}

/// A program that we start must not keep our lock when we are gone.
#[test]
fn a_lock_is_not_inherited_by_a_started_program() {
    let folder = folder();
    let path = folder.path().join("lock");
    let held = RealDisk.lock(&path, LockKind::WithRecordLock).expect("free");
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("every system has cat");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(b"x").expect("written");
    let mut echo = [0];
    child.stdout.take().expect("piped").read_exact(&mut echo).expect("it runs now");
    drop(held);
    RealDisk.lock(&path, LockKind::WithRecordLock).expect("the child does not hold it");
    drop(input);
    child.wait().expect("ended");
}

#[test]
fn a_refused_lock_leaves_the_holders_name() {
    let folder = folder();
    let path = folder.path().join("lock");
    std::fs::write(&path, b"99999999\nof an earlier, longer content").expect("written");
    let held = RealDisk.lock(&path, LockKind::Flock).expect("free");
    assert!(RealDisk.lock(&path, LockKind::Flock).is_err());
    assert_eq!(lock_holder(&RealDisk, &path), Some(std::process::id()));
    drop(held);
}

#[test]
fn links_are_followed() {
    let folder = folder();
    let root = RealDisk.canonical(folder.path()).expect("exists");
    std::fs::create_dir(root.join("folder")).expect("created");
    std::fs::write(root.join("folder/file"), b"1234").expect("written");
    for (target, link) in [("folder", "to-folder"), ("folder/file", "to-file"), ("none", "broken")]
    {
        symlink(target, root.join(link)).expect("linked");
    }
    let stat = |name: &str| RealDisk.stat(&root.join(name));
    assert_eq!(stat("to-file").expect("stat"), stat("folder/file").expect("stat"));
    assert_eq!(stat("to-folder").expect("stat").kind, Kind::Dir);
    assert_eq!(stat("broken").expect_err("broken").kind(), ErrorKind::NotFound);
    let listed = RealDisk.list(&root).expect("listed");
    let flags: Vec<_> =
        listed.iter().map(|e| (e.name.to_str().expect("UTF-8"), e.is_dir)).collect();
    assert_eq!(
        flags,
        [("broken", false), ("folder", true), ("to-file", false), ("to-folder", true)]
    );
    let found = RealDisk.canonical(&root.join("to-folder/file")).expect("exists");
    assert_eq!(found, root.join("folder/file"));
}

#[test]
fn names_that_are_no_text_are_kept() {
    let folder = folder();
    let name = std::ffi::OsStr::from_bytes(b"log-\xff\xfe");
    std::fs::write(folder.path().join(name), b"x").expect("written");
    assert_eq!(RealDisk.list(folder.path()).expect("listed")[0].name, name);
}

/// Without care an open of a pipe waits for a writer that never comes.
#[test]
fn a_pipe_is_refused_or_read_but_never_waited_for() {
    let folder = folder();
    let path = folder.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).expect("made");
    assert_eq!(RealDisk.stat(&path).expect("stat").kind, Kind::Other);
    let pipe = RealDisk.open(&path, Open::Read).expect("no writer is waited for");
    assert!(pipe.read_at(&mut [0; 10], 0).is_err(), "a pipe has no positions");
}

#[test]
fn the_system_knows_times_space_and_boot() {
    let folder = folder();
    let path = folder.path().join("f");
    let file = RealDisk.open(&path, Open::CreateNew).expect("opened");
    write_all_at(&file, b"x", 0).expect("written");
    let stat = file.stat().expect("stat");
    // After 2020, before 2100: the right unit.
    assert!((1_577_836_800_000..4_102_444_800_000).contains(&stat.mtime_ms), "{stat:?}");
    if let Some(birth_ns) = stat.birth_ns {
        let apart_ms = stat.mtime_ms - birth_ns / 1_000_000;
        assert!((0..60_000).contains(&apart_ms), "born {apart_ms} ms before it was written");
    }
    assert!(RealDisk.free_space(folder.path()).expect("known") > 1 << 20);
    assert!(RealDisk.boot_id().len() >= 32, "{}", RealDisk.boot_id());
}

#[test]
fn reserved_room_is_given_back_by_set_len() {
    use std::os::unix::fs::MetadataExt;
    let folder = folder();
    let path = folder.path().join("segment");
    let blocks = |path: &Path| std::fs::metadata(path).expect("stat").blocks();
    let file = RealDisk.open(&path, Open::CreateNew).expect("opened");
    write_all_at(&file, b"abc", 0).expect("written");
    file.sync_data().expect("synced");
    let before = blocks(&path);
    file.allocate(3, 4 << 20).expect("reserved");
    // A file system that cannot reserve room leaves the count as it was.
    assert!(blocks(&path) == before || blocks(&path) >= (4 << 20) / 512);
    file.set_len(3).expect("given back");
    assert!(blocks(&path) <= before.max(8), "{} blocks", blocks(&path));
}
