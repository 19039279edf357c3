//! The promises of `Disk` that every implementation keeps: each is tried on real files and on the
//! simulated disk, and thousands of random calls are answered alike by both, and by an overlay.

use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};

use thalweg_core::disk::overlay::Overlay;
use thalweg_core::disk::real::RealDisk;
use thalweg_core::disk::sim::{Rng, SimDisk};
use thalweg_core::disk::{
    Disk, DiskFile, Kind, LockKind, Open, lock_holder, read_exact_at, read_file, replace_file,
    write_all_at,
};

/// Makes a test on real files and one on the simulated disk of each promise.
macro_rules! on_both {
    ($($promise:ident),* $(,)?) => {
        mod real { $(#[test] fn $promise() { super::on_real(super::$promise); })* }
        mod simulated { $(#[test] fn $promise() { super::on_simulated(super::$promise); })* }
    };
}

on_both!(
    open_modes_say_who_must_exist,
    reads_end_at_the_end_of_the_file,
    a_gap_reads_as_zeros,
    a_vectored_write_is_its_buffers_in_a_row,
    a_cut_file_grows_back_with_zeros,
    a_file_opened_for_reading_is_not_changed,
    reserving_room_leaves_the_length,
    an_offset_out_of_range_is_refused,
    rename_replaces_and_rename_new_refuses,
    a_file_stays_open_through_rename_and_removal,
    folders_are_created_once_and_removed_empty,
    a_folder_is_no_file,
    names_are_listed_in_order,
    a_lock_excludes_others_until_dropped,
    a_lock_says_who_holds_it,
    paths_are_made_canonical,
    a_stat_tells_files_apart,
    syncs_and_hints_succeed,
    a_replaced_file_is_whole,
);

/// An overlay keeps them all, but for keeping others out.
macro_rules! on_an_overlay {
    ($($promise:ident),* $(,)?) => {
        mod overlaid { $(#[test] fn $promise() { super::on_overlaid(super::$promise); })* }
    };
}

on_an_overlay!(
    open_modes_say_who_must_exist,
    reads_end_at_the_end_of_the_file,
    a_gap_reads_as_zeros,
    a_vectored_write_is_its_buffers_in_a_row,
    a_cut_file_grows_back_with_zeros,
    a_file_opened_for_reading_is_not_changed,
    reserving_room_leaves_the_length,
    an_offset_out_of_range_is_refused,
    rename_replaces_and_rename_new_refuses,
    a_file_stays_open_through_rename_and_removal,
    folders_are_created_once_and_removed_empty,
    a_folder_is_no_file,
    names_are_listed_in_order,
    paths_are_made_canonical,
    a_stat_tells_files_apart,
    syncs_and_hints_succeed,
    a_replaced_file_is_whole,
);

fn on_overlaid(promise: impl Fn(&Overlay<SimDisk>, &Path)) {
    let below = SimDisk::new(1);
    let root = Path::new("/root");
    below.create_dir(root).expect("created");
    let before = below.operations();
    promise(&Overlay::new(below.clone()), root);
    assert_eq!(below.operations(), before, "changed below:\n{:#?}", below.trace());
}

fn on_real(promise: impl Fn(&RealDisk, &Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = RealDisk.canonical(folder.path()).expect("it exists");
    promise(&RealDisk, &root);
}

fn on_simulated(promise: impl Fn(&SimDisk, &Path)) {
    let disk = SimDisk::new(1);
    let root = Path::new("/root");
    disk.create_dir(root).expect("created");
    promise(&disk, root);
}

fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

fn put<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) -> D::File {
    let file = disk.open(path, Open::Create).expect("opened");
    write_all_at(&file, bytes, 0).expect("written");
    file
}

fn open_modes_say_who_must_exist<D: Disk>(disk: &D, root: &Path) {
    let (old, new) = (root.join("old"), root.join("new"));
    put(disk, &old, b"old");
    let table = [
        (Open::Read, None, Some(ErrorKind::NotFound)),
        (Open::Write, None, Some(ErrorKind::NotFound)),
        (Open::Create, None, None),
        (Open::CreateNew, Some(ErrorKind::AlreadyExists), None),
    ];
    for (how, when_there, when_missing) in table {
        assert_eq!(kind(disk.open(&old, how)), when_there, "{how:?} of an existing file");
        assert_eq!(kind(disk.open(&new, how)), when_missing, "{how:?} of a missing file");
        if when_missing.is_none() {
            disk.remove(&new).expect("it was created");
        }
    }
    assert_eq!(read_file(disk, &old, 10).expect("read"), b"old", "opening changes nothing");
    assert_eq!(kind(disk.open(&root.join("none/file"), Open::Create)), Some(ErrorKind::NotFound));
    assert_eq!(kind(disk.open(&old.join("file"), Open::Create)), Some(ErrorKind::NotADirectory));
}

fn reads_end_at_the_end_of_the_file<D: Disk>(disk: &D, root: &Path) {
    let file = put(disk, &root.join("f"), b"0123456789");
    let mut buf = [0; 8];
    assert_eq!(file.read_at(&mut buf, 6).expect("read"), 4);
    assert_eq!(&buf[..4], b"6789");
    assert_eq!(file.read_at(&mut buf, 10).expect("at the end"), 0);
    assert_eq!(file.read_at(&mut buf, 1 << 40).expect("past the end"), 0);
    assert_eq!(kind(read_exact_at(&file, &mut buf, 6)), Some(ErrorKind::UnexpectedEof));
}

fn a_gap_reads_as_zeros<D: Disk>(disk: &D, root: &Path) {
    let file = put(disk, &root.join("f"), b"head");
    write_all_at(&file, b"tail", 10_000).expect("written");
    assert_eq!(file.len().expect("length"), 10_004);
    let mut buf = vec![1; 10_004];
    read_exact_at(&file, &mut buf, 0).expect("read");
    assert_eq!(&buf[..4], b"head");
    assert!(buf[4..10_000].iter().all(|byte| *byte == 0));
    assert_eq!(&buf[10_000..], b"tail");
}

fn a_vectored_write_is_its_buffers_in_a_row<D: Disk>(disk: &D, root: &Path) {
    let file = put(disk, &root.join("f"), b"");
    let (a, b, c) = ([1; 3000], [2; 3000], [3; 10]);
    let bufs = [IoSlice::new(&a), IoSlice::new(&[]), IoSlice::new(&b), IoSlice::new(&c)];
    assert_eq!(file.write_vectored_at(&bufs, 5).expect("written"), 6010);
    let mut buf = vec![9; 6015];
    read_exact_at(&file, &mut buf, 0).expect("read");
    assert_eq!(buf, [&[0; 5][..], &a, &b, &c].concat());
    // More buffers than a system call takes: a short write, not an error.
    let many = vec![IoSlice::new(b"x"); 5000];
    let n = file.write_vectored_at(&many, 0).expect("written");
    assert!((1..=5000).contains(&n), "{n}");
}

fn a_cut_file_grows_back_with_zeros<D: Disk>(disk: &D, root: &Path) {
    let file = put(disk, &root.join("f"), &[7; 9000]);
    file.set_len(100).expect("cut");
    file.set_len(9000).expect("grown");
    let mut buf = vec![1; 9000];
    read_exact_at(&file, &mut buf, 0).expect("read");
    assert!(buf[..100].iter().all(|byte| *byte == 7));
    assert!(buf[100..].iter().all(|byte| *byte == 0));
    assert!(!file.is_empty().expect("length"));
    file.set_len(0).expect("cut");
    assert!(file.is_empty().expect("length"));
}

fn a_file_opened_for_reading_is_not_changed<D: Disk>(disk: &D, root: &Path) {
    let path = root.join("f");
    put(disk, &path, b"kept");
    let file = disk.open(&path, Open::Read).expect("opened");
    assert!(file.write_at(b"lost", 0).is_err());
    assert!(file.write_vectored_at(&[IoSlice::new(b"lost")], 0).is_err());
    assert!(file.set_len(0).is_err());
    file.sync_data().expect("a read-only descriptor will do");
    assert_eq!(read_file(disk, &path, 10).expect("read"), b"kept");
}

fn reserving_room_leaves_the_length<D: Disk>(disk: &D, root: &Path) {
    let file = put(disk, &root.join("f"), b"abc");
    file.allocate(3, 1 << 20).expect("reserved");
    assert_eq!(file.len().expect("length"), 3);
    file.set_len(3).expect("the rest is given back");
    assert_eq!(file.len().expect("length"), 3);
}

fn an_offset_out_of_range_is_refused<D: Disk>(disk: &D, root: &Path) {
    let file = put(disk, &root.join("f"), b"abc");
    assert!(file.write_at(b"x", u64::MAX - 10).is_err());
    assert!(file.set_len(u64::MAX).is_err());
    assert!(file.allocate(u64::MAX, 10).is_err());
    assert_eq!(file.len().expect("length"), 3);
}

fn rename_replaces_and_rename_new_refuses<D: Disk>(disk: &D, root: &Path) {
    let (a, b, c) = (root.join("a"), root.join("b"), root.join("c"));
    put(disk, &a, b"a");
    put(disk, &b, b"b");
    assert_eq!(kind(disk.rename_new(&a, &b)), Some(ErrorKind::AlreadyExists));
    assert_eq!(read_file(disk, &a, 10).expect("still there"), b"a");
    assert_eq!(read_file(disk, &b, 10).expect("still there"), b"b");
    disk.rename(&a, &b).expect("replaced");
    assert_eq!(read_file(disk, &b, 10).expect("read"), b"a");
    assert_eq!(kind(disk.stat(&a)), Some(ErrorKind::NotFound));
    disk.rename_new(&b, &c).expect("the name is free");
    assert_eq!(read_file(disk, &c, 10).expect("read"), b"a");
    assert_eq!(kind(disk.stat(&b)), Some(ErrorKind::NotFound));
    disk.rename(&c, &c).expect("nothing to do");
    assert_eq!(kind(disk.rename(&a, &b)), Some(ErrorKind::NotFound));
}

fn a_file_stays_open_through_rename_and_removal<D: Disk>(disk: &D, root: &Path) {
    let (a, b) = (root.join("a"), root.join("b"));
    let file = put(disk, &a, b"first");
    let before = file.stat().expect("stat");
    disk.rename(&a, &b).expect("renamed");
    put(disk, &a, b"second");
    assert_eq!(file.stat().expect("stat").ino, before.ino);
    assert_eq!(disk.stat(&b).expect("stat").ino, before.ino);
    assert_ne!(disk.stat(&a).expect("stat").ino, before.ino);
    disk.remove(&b).expect("removed");
    let mut buf = [0; 5];
    read_exact_at(&file, &mut buf, 0).expect("bytes live as long as the handle");
    assert_eq!(&buf, b"first");
    write_all_at(&file, b"FIRST", 0).expect("written");
    file.sync_data().expect("synced");
}

fn folders_are_created_once_and_removed_empty<D: Disk>(disk: &D, root: &Path) {
    let folder = root.join("folder");
    disk.create_dir(&folder).expect("created");
    assert_eq!(kind(disk.create_dir(&folder)), Some(ErrorKind::AlreadyExists));
    assert_eq!(kind(disk.create_dir(&root.join("no/folder"))), Some(ErrorKind::NotFound));
    put(disk, &folder.join("f"), b"x");
    assert_eq!(kind(disk.remove_dir(&folder)), Some(ErrorKind::DirectoryNotEmpty));
    let moved = root.join("moved");
    disk.rename(&folder, &moved).expect("a folder moves with its content");
    assert_eq!(read_file(disk, &moved.join("f"), 10).expect("read"), b"x");
    assert!(disk.rename(&moved, &moved.join("below")).is_err(), "not below itself");
    disk.remove(&moved.join("f")).expect("removed");
    disk.remove_dir(&moved).expect("removed");
    assert_eq!(kind(disk.remove_dir(&moved)), Some(ErrorKind::NotFound));
    assert_eq!(kind(disk.list(&moved)), Some(ErrorKind::NotFound));
}

fn a_folder_is_no_file<D: Disk>(disk: &D, root: &Path) {
    let (folder, file) = (root.join("folder"), root.join("file"));
    disk.create_dir(&folder).expect("created");
    put(disk, &file, b"x");
    for how in [Open::Read, Open::Write, Open::Create] {
        assert_eq!(kind(disk.open(&folder, how)), Some(ErrorKind::IsADirectory), "{how:?}");
    }
    assert!(disk.remove(&folder).is_err());
    assert_eq!(kind(disk.remove_dir(&file)), Some(ErrorKind::NotADirectory));
    assert_eq!(kind(disk.list(&file)), Some(ErrorKind::NotADirectory));
    assert_eq!(kind(disk.rename(&file, &folder)), Some(ErrorKind::IsADirectory));
    assert_eq!(kind(disk.rename(&folder, &file)), Some(ErrorKind::NotADirectory));
    assert_eq!(kind(disk.rename_new(&folder, &file)), Some(ErrorKind::AlreadyExists));
    assert_eq!(disk.stat(&folder).expect("stat").kind, Kind::Dir);
    assert_eq!(disk.stat(&file).expect("stat").kind, Kind::File);
}

fn names_are_listed_in_order<D: Disk>(disk: &D, root: &Path) {
    for name in ["b", "a.log", "10", "9", "ä", "A"] {
        put(disk, &root.join(name), b"");
    }
    disk.create_dir(&root.join("aa")).expect("created");
    let listed = disk.list(root).expect("listed");
    let names: Vec<_> = listed.iter().map(|entry| entry.name.to_str().expect("UTF-8")).collect();
    assert_eq!(names, ["10", "9", "A", "a.log", "aa", "b", "ä"]);
    let folders: Vec<_> = listed.iter().filter(|entry| entry.is_dir).collect();
    assert_eq!(folders.len(), 1);
    assert_eq!(folders[0].name, "aa");
}

fn a_lock_excludes_others_until_dropped<D: Disk>(disk: &D, root: &Path) {
    let path = root.join("lock");
    let kinds = [LockKind::Flock, LockKind::WithRecordLock];
    for (first, second) in kinds.into_iter().flat_map(|a| kinds.map(|b| (a, b))) {
        let held = disk.lock(&path, first).expect("free");
        let refused = kind(disk.clone().lock(&path, second));
        assert_eq!(refused, Some(ErrorKind::WouldBlock), "{second:?} while {first:?} is held");
        disk.lock(&root.join("other"), second).expect("another file is another lock");
        drop(held);
        disk.lock(&path, second).expect("free again");
    }
    // A clean stop removes the file; the name's next file is another lock.
    let old = disk.lock(&path, LockKind::Flock).expect("free");
    disk.remove(&path).expect("removed");
    disk.lock(&path, LockKind::Flock).expect("a new file");
    drop(old);
}

fn a_lock_says_who_holds_it<D: Disk>(disk: &D, root: &Path) {
    let path = root.join("lock");
    assert_eq!(lock_holder(disk, &path), None, "no such file");
    put(disk, &path, b"123456789012345");
    assert_eq!(lock_holder(disk, &path), None, "not a process id");
    let held = disk.lock(&path, LockKind::WithRecordLock).expect("free");
    let holder = lock_holder(disk, &path).expect("noted");
    assert!(holder > 0);
    drop(held);
}

fn paths_are_made_canonical<D: Disk>(disk: &D, root: &Path) {
    disk.create_dir(&root.join("a")).expect("created");
    put(disk, &root.join("f"), b"");
    let table = [("f", "f"), ("./a/../f", "f"), ("a/.", "a"), ("a/..", "")];
    for (given, canonical) in table {
        let found = disk.canonical(&root.join(given)).expect("exists");
        assert_eq!(found, root.join(canonical).components().collect::<PathBuf>(), "{given}");
    }
    assert_eq!(kind(disk.canonical(&root.join("none"))), Some(ErrorKind::NotFound));
    assert_eq!(kind(disk.canonical(&root.join("f/.."))), Some(ErrorKind::NotADirectory));
}

fn a_stat_tells_files_apart<D: Disk>(disk: &D, root: &Path) {
    let (a, b) = (root.join("a"), root.join("b"));
    let open = put(disk, &a, b"four");
    put(disk, &b, b"");
    let (by_name, by_handle) = (disk.stat(&a).expect("stat"), open.stat().expect("stat"));
    assert_eq!(by_name, by_handle);
    assert_eq!((by_name.len, by_name.kind), (4, Kind::File));
    let other = disk.stat(&b).expect("stat");
    assert_eq!(by_name.dev, other.dev);
    assert_ne!(by_name.ino, other.ino);
    assert_eq!(kind(disk.stat(&root.join("c"))), Some(ErrorKind::NotFound));
}

fn syncs_and_hints_succeed<D: Disk>(disk: &D, root: &Path) {
    let file = put(disk, &root.join("f"), &[5; 5000]);
    file.drop_cache(0..u64::MAX).expect("dirty pages stay");
    file.sync_data().expect("synced");
    file.drop_cache(0..u64::MAX).expect("clean pages are read again");
    disk.sync_dir(root).expect("synced");
    let mut buf = [0; 5000];
    read_exact_at(&file, &mut buf, 0).expect("read");
    assert_eq!(buf, [5; 5000]);
    assert!(disk.free_space(root).expect("known") > 0);
    assert_eq!(disk.boot_id(), disk.clone().boot_id());
    assert_eq!(kind(disk.sync_dir(&root.join("none"))), Some(ErrorKind::NotFound));
    assert_eq!(kind(disk.free_space(&root.join("none"))), Some(ErrorKind::NotFound));
}

fn a_replaced_file_is_whole<D: Disk>(disk: &D, root: &Path) {
    let path = root.join("checkpoint");
    for bytes in [&b"a long first content"[..], b"short", b""] {
        replace_file(disk, &path, bytes).expect("replaced");
        assert_eq!(read_file(disk, &path, 100).expect("read"), bytes);
    }
    assert_eq!(disk.list(root).expect("listed").len(), 1, "no temporary stays behind");
    replace_file(disk, &path, &[1; 101]).expect("replaced");
    assert_eq!(kind(read_file(disk, &path, 100)), Some(ErrorKind::FileTooLarge));
}

/// Random calls on few names, so that they often meet: both disks must answer every one alike.
#[test]
fn the_simulated_disk_answers_as_real_files_do() {
    for seed in 0..100 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let real = RealDisk.canonical(folder.path()).expect("it exists");
        let simulated = SimDisk::new(seed);
        let (mut of_real, mut of_simulated) = (Vec::new(), Vec::new());
        let mut rng = Rng::new(seed);
        for step in 0..250 {
            let call = Random::draw(&mut rng);
            let expected = call.run(&RealDisk, &real, &mut of_real);
            let found = call.run(&simulated, Path::new("/"), &mut of_simulated);
            let agree = found == expected;
            assert!(agree, "seed {seed}, step {step}: {call:?}: {}", apart(&found, &expected));
        }
    }
}

/// Two disks of one history; then every call on an overlay over the first is answered as by the second.
#[test]
fn an_overlay_answers_as_the_disk_below_would_and_leaves_it_alone() {
    let root = Path::new("/");
    for seed in 0..300 {
        let (below, twin) = (SimDisk::new(seed), SimDisk::new(seed));
        let (mut of_below, mut of_twin) = (Vec::new(), Vec::new());
        let mut rng = Rng::new(seed);
        for _ in 0..rng.below(120) {
            let call = Random::draw(&mut rng);
            let agree =
                call.run(&below, root, &mut of_below) == call.run(&twin, root, &mut of_twin);
            assert!(agree, "seed {seed}: {call:?}: the same disk twice");
        }
        of_twin.clear();
        let (before, overlay) = (below.operations(), Overlay::new(below.clone()));
        let mut of_overlay = Vec::new();
        for step in 0..250 {
            let call = Random::draw(&mut rng);
            let expected = call.run(&twin, root, &mut of_twin);
            let found = call.run(&overlay, root, &mut of_overlay);
            let agree = found == expected;
            assert!(agree, "seed {seed}, step {step}: {call:?}: {}", apart(&found, &expected));
        }
        assert_eq!(below.operations(), before, "seed {seed}: changed below:\n{:#?}", below.trace());
    }
}

type Answer = Result<Vec<u8>, ErrorKind>;

/// Where two answers differ, in a line.
fn apart(found: &Answer, expected: &Answer) -> String {
    match (found, expected) {
        (Ok(f), Ok(e)) => {
            let same = f.iter().zip(e).take_while(|(f, e)| f == e).count();
            format!("{} bytes, expected {}, alike up to {same}", f.len(), e.len())
        }
        _ => format!("{:?}, expected {:?}", found.as_ref().err(), expected.as_ref().err()),
    }
}

#[derive(Debug)]
struct Random {
    verb: u64,
    a: PathBuf,
    b: PathBuf,
    how: Open,
    handle: usize,
    position: u64,
    len: usize,
    fill: u8,
}

impl Random {
    fn draw(rng: &mut Rng) -> Self {
        let mut path = || {
            let folder = ["", "", "a", "b", "a/.."][rng.below(5) as usize];
            Path::new(folder).join(["a", "b", "c"][rng.below(3) as usize])
        };
        let (a, b) = (path(), path());
        let how = [Open::Read, Open::Write, Open::Create, Open::CreateNew][rng.below(4) as usize];
        Self {
            verb: rng.below(14),
            a,
            b,
            how,
            handle: rng.below(4) as usize,
            position: rng.below(10_000),
            len: rng.below(9000) as usize,
            fill: rng.below(256) as u8,
        }
    }

    fn run<D: Disk>(&self, disk: &D, root: &Path, handles: &mut Vec<D::File>) -> Answer {
        let (a, b) = (root.join(&self.a), root.join(&self.b));
        let done = |()| Vec::new();
        let answer = match (self.verb, handles.get(self.handle)) {
            (0 | 1, _) => disk.open(&a, self.how).map(|file| {
                if handles.len() > 3 {
                    handles.remove(0);
                }
                handles.push(file);
                Vec::new()
            }),
            (2, _) => disk.rename(&a, &b).map(done),
            (3, _) => disk.rename_new(&a, &b).map(done),
            (4, _) => disk.remove(&a).map(done),
            (5, _) => disk.create_dir(&a).map(done),
            (6, _) => disk.remove_dir(&a).map(done),
            (7, _) => disk.list(&a).map(|entries| format!("{entries:?}").into_bytes()),
            (8, _) => read_file(disk, &a, 1 << 20),
            (9, Some(file)) => {
                let bytes = vec![self.fill; self.len];
                file.write_at(&bytes, self.position).map(|n| n.to_le_bytes().to_vec())
            }
            (10, Some(file)) => file.set_len(self.position).map(done),
            (11, Some(file)) => {
                file.sync_data().and_then(|()| file.drop_cache(0..u64::MAX)).map(done)
            }
            (12, Some(file)) => {
                let mut buf = vec![0; self.len];
                file.read_at(&mut buf, self.position).map(|n| buf[..n].to_vec())
            }
            (_, Some(file)) => file.len().map(|len| len.to_le_bytes().to_vec()),
            (_, None) => disk.sync_dir(root).map(done),
        };
        answer.map_err(|e| e.kind())
    }
}
