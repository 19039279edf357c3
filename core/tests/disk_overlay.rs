//! What an overlay shows while somebody else writes below it.

use std::io::ErrorKind;
use std::path::Path;

use thalweg_core::disk::overlay::Overlay;
use thalweg_core::disk::sim::SimDisk;
use thalweg_core::disk::{Disk, DiskFile, LockKind, Open, read_exact_at, read_file, write_all_at};

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn put(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let file = disk.open(path(name), Open::Create).expect("opened");
    write_all_at(&file, bytes, 0).expect("written");
}

fn pair() -> (SimDisk, Overlay<SimDisk>) {
    let below = SimDisk::new(1);
    below.create_dir(path("/d")).expect("made");
    put(&below, "/d/f", b"0123456789");
    let overlay = Overlay::new(below.clone());
    (below, overlay)
}

fn read(overlay: &Overlay<SimDisk>, name: &str) -> Result<Vec<u8>, ErrorKind> {
    read_file(overlay, path(name), 1 << 20).map_err(|e| e.kind())
}

#[test]
fn what_is_appended_below_does_not_show_once_a_file_was_seen() {
    let (below, overlay) = pair();
    assert_eq!(overlay.stat(path("/d/f")).expect("there").len, 10);
    let writer = below.open(path("/d/f"), Open::Write).expect("opened");
    write_all_at(&writer, b"more", 10).expect("written");
    assert_eq!(read(&overlay, "/d/f").expect("read"), b"0123456789");
    // Also not behind a cut: bytes there are those that are written here.
    let file = overlay.open(path("/d/f"), Open::Write).expect("opened");
    file.set_len(4).expect("cut");
    file.set_len(8).expect("grown");
    write_all_at(&file, b"x", 9).expect("written");
    assert_eq!(read(&overlay, "/d/f").expect("read"), b"0123\0\0\0\0\0x");
    overlay.forget(path("/d"));
    assert_eq!(read(&overlay, "/d/f").expect("read"), b"0123456789more");
    assert_eq!(read_file(&below, path("/d/f"), 100).expect("read"), b"0123456789more");
}

#[test]
fn names_that_come_and_go_below_show_unless_they_were_changed_here() {
    let (below, overlay) = pair();
    put(&below, "/d/g", b"g");
    overlay.remove(path("/d/f")).expect("removed");
    put(&below, "/d/h", b"h");
    below.remove(path("/d/g")).expect("removed");
    let names: Vec<_> = overlay.list(path("/d")).expect("listed");
    let names: Vec<_> = names.iter().map(|e| e.name.to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["h"]);
    assert_eq!(read(&overlay, "/d/f"), Err(ErrorKind::NotFound), "removed here");
    assert_eq!(read(&overlay, "/d/g"), Err(ErrorKind::NotFound), "removed below, never seen");
}

#[test]
fn a_file_that_is_not_what_was_seen_is_stale_and_never_another_one() {
    let stale = Err(ErrorKind::StaleNetworkFileHandle);
    // On its way out it is found under its last name; then it is gone.
    let (below, overlay) = pair();
    overlay.stat(path("/d/f")).expect("seen");
    let open = overlay.open(path("/d/f"), Open::Read).expect("opened");
    below.rename(path("/d/f"), path("/d/f.deleted")).expect("renamed");
    assert_eq!(read(&overlay, "/d/f").expect("read"), b"0123456789");
    below.remove(path("/d/f.deleted")).expect("removed");
    assert_eq!(read(&overlay, "/d/f"), stale);
    let mut bytes = [0; 10];
    read_exact_at(&open, &mut bytes, 0).expect("an open file is what it was");

    // On its way in as well.
    let (below, overlay) = pair();
    put(&below, "/d/g.swap", b"compacted");
    overlay.rename(path("/d/g.swap"), path("/d/g")).expect("renamed here");
    below.rename(path("/d/g.swap"), path("/d/g")).expect("renamed below");
    assert_eq!(read(&overlay, "/d/g").expect("read"), b"compacted");

    // Replaced, by a file of the same name or under the name of those on their way out.
    for name in ["/d/f", "/d/f.deleted"] {
        let (below, overlay) = pair();
        overlay.stat(path("/d/f")).expect("seen");
        put(&below, "/d/other", b"another one");
        below.remove(path("/d/f")).expect("removed");
        below.rename(path("/d/other"), path(name)).expect("renamed");
        assert_eq!(read(&overlay, "/d/f"), stale, "{name}");
    }

    // Cut below what was seen, whether it was open or not, changed elsewhere or not.
    let (below, overlay) = pair();
    let open = overlay.open(path("/d/f"), Open::Write).expect("opened");
    below.open(path("/d/f"), Open::Write).expect("opened").set_len(3).expect("cut");
    assert_eq!(read(&overlay, "/d/f"), stale);
    write_all_at(&open, b"x", 5000).expect("a page of its own");
    assert_eq!(
        open.read_at(&mut bytes, 3).map_err(|e| e.kind()),
        Err(ErrorKind::StaleNetworkFileHandle)
    );

    // What was written over whole needs nothing below.
    let (below, overlay) = pair();
    overlay.open(path("/d/f"), Open::Write).expect("opened").set_len(0).expect("cut");
    below.remove(path("/d/f")).expect("removed");
    let file = overlay.open(path("/d/f"), Open::Write).expect("opened");
    write_all_at(&file, b"new", 0).expect("written");
    assert_eq!(read(&overlay, "/d/f").expect("read"), b"new");
}

#[test]
fn a_moved_folder_takes_what_is_below_with_it() {
    let (below, overlay) = pair();
    overlay.create_dir(path("/e")).expect("made");
    overlay.rename(path("/d"), path("/e/d")).expect("moved");
    assert_eq!(read(&overlay, "/e/d/f").expect("read"), b"0123456789");
    assert_eq!(read(&overlay, "/d/f"), Err(ErrorKind::NotFound));
    let file = overlay.open(path("/e/d/f"), Open::Write).expect("opened");
    write_all_at(&file, b"X", 0).expect("written");
    overlay.rename(path("/e"), path("/d")).expect("moved on, over a name that is free here");
    assert_eq!(read(&overlay, "/d/d/f").expect("read"), b"X123456789");
    assert_eq!(read_file(&below, path("/d/f"), 100).expect("read"), b"0123456789");
}

#[test]
fn what_is_as_it_was_seen_is_found_below() {
    let (below, overlay) = pair();
    let unchanged = |name: &str| overlay.unchanged(path(name)).expect("looked at");
    assert_eq!(unchanged("/d/f").as_deref(), Some(path("/d/f")), "never seen");
    overlay.rename(path("/d"), path("/e")).expect("moved");
    assert_eq!(unchanged("/e/f").as_deref(), Some(path("/d/f")));
    let file = overlay.open(path("/e/f"), Open::Write).expect("opened");
    assert_eq!(unchanged("/e/f").as_deref(), Some(path("/d/f")));
    file.set_len(9).expect("cut");
    file.set_len(10).expect("grown");
    assert_eq!(unchanged("/e/f"), None);
    put(&below, "/d/g", b"g");
    overlay.stat(path("/e/g")).expect("seen");
    put(&below, "/d/g", b"longer");
    assert_eq!(unchanged("/e/g"), None, "it has grown below");
    drop(overlay.open(path("/e/h"), Open::Create).expect("made"));
    assert_eq!((unchanged("/e/h"), unchanged("/e/none")), (None, None));
}

#[test]
fn nobody_is_kept_out() {
    let (below, overlay) = pair();
    let held = below.lock(path("/d/lock"), LockKind::Flock).expect("free");
    overlay.lock(path("/d/lock"), LockKind::Flock).expect("not asked for");
    drop(held);
}
