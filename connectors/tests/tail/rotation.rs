//! Files that are renamed, replaced, removed and truncated, while the source runs or is down.

use std::path::Path;

use thalweg_connectors::file::FileSourceConfig;
use thalweg_core::disk::Disk;

use crate::world::{World, config, is_restart, numbered};

#[test]
fn a_renamed_file_is_read_to_its_end_under_its_first_name() {
    // The new name inside and outside of what is looked for; the source running, and down.
    for (glob, to) in [("/log/app.log*", "/log/app.log.1"), ("/log/app.log", "/log/app.log.1")] {
        let mut world = World::new(&[glob]);
        world.append("/log/app.log", "one\n");
        world.run(1000);
        world.append("/log/app.log", "two\n");
        world.rename("/log/app.log", to);
        world.append("/log/app.log", "new one\n");
        world.append(to, "three\n");
        world.run(3000);
        world.append(to, "four\n");
        world.run(3000);
        assert_eq!(world.sorted(), ["four", "new one", "one", "three", "two"], "{glob}");
        assert!(world.rows().iter().all(|row| row.file == "/log/app.log"));
        world.check_files_are_in_order();
    }
}

#[test]
fn a_file_renamed_while_down_is_found_by_its_inode() {
    let mut world = World::new(&["/log/app.log*"]);
    world.append("/log/app.log", "one\n");
    world.run(1000);
    world.append("/log/app.log", "two\n");
    world.rename("/log/app.log", "/log/app.log.1");
    world.append("/log/app.log", "three\n");
    world.kill();
    world.run(1000);
    assert_eq!(world.sorted(), ["one", "three", "two"]);
    let rows = world.rows();
    assert_eq!(rows[0].key, rows.iter().find(|r| r.line == "two").expect("read").key);
    assert_ne!(rows[0].key, rows.iter().find(|r| r.line == "three").expect("read").key);
}

#[test]
fn a_file_renamed_out_of_the_glob_while_down_is_read_to_its_end() {
    for to in ["/log/app/app.log.1", "/log/app/old/app.log.1", "/log/archive/app.log.1"] {
        for once in [false, true] {
            let what = format!("{to}, once: {once}");
            let settings = FileSourceConfig { once, ..config(&["/log/app/*.log"]) };
            let mut world = World::with(1, settings);
            for folder in ["/log/app", "/log/app/old", "/log/archive"] {
                world.hand.create_dir(Path::new(folder)).expect("made");
            }
            // Never read, and not ours to read.
            world.append("/log/archive/other.log.1", "other\n");
            world.append("/log/app/app.log", numbered("a", 0, 50, 40));
            world.run(1000);
            world.append("/log/app/app.log", numbered("a", 50, 50, 40) + "the rest");
            world.kill();
            world.rename("/log/app/app.log", to);
            world.append("/log/app/app.log", "new\n");
            world.run(30_000);
            let lines = world.lines();
            assert_eq!(lines.len(), 102, "{what}");
            assert!(lines.contains(&"the rest".to_owned()), "{what}");
            world.check_files_are_in_order();
            let rows = world.rows();
            assert_eq!(rows.iter().filter(|row| row.key == rows[0].key).count(), 101, "{what}");
            // Its end was read: from now on it is nobody's business.
            world.kill();
            world.run(30_000);
            assert_eq!(world.lines().len(), 102, "{what}");
            assert_eq!(world.stored.len(), 1, "{what}: its position is gone");
        }
    }
}

#[test]
fn a_file_renamed_out_of_the_glob_is_not_taken_for_another() {
    // Its number went to a new file that begins otherwise.
    let mut world = World::new(&["/log/*.log"]);
    world.append("/log/app.log", "one\n");
    world.run(1000);
    world.kill();
    world.remove("/log/app.log");
    world.append("/log/app.txt", "something else\n");
    world.append("/log/new.log", "two\n");
    world.run(30_000);
    assert_eq!(world.sorted(), ["one", "two"]);
}

#[test]
fn a_removed_file_is_read_to_its_end_from_the_open_handle() {
    let mut world = World::new(&["/log"]);
    world.append("/log/a.log", numbered("a", 0, 50, 100));
    world.batch.records_max = 5;
    world.poll().expect("polls");
    world.remove("/log/a.log");
    world.run(2000);
    assert_eq!(world.lines().len(), 50);
    assert_eq!(world.stored.len(), 1, "its position stays while it is open");
    world.run(10_000);
    assert!(world.stored.is_empty(), "two full scans did not find it");
    assert_eq!(world.source().stats().files, 0);
}

#[test]
fn an_unterminated_line_of_a_rotated_file_is_taken_when_it_is_quiet() {
    let mut world = World::new(&["/log"]);
    for path in ["/log/removed.log", "/log/renamed.log"] {
        world.append(path, format!("whole {path}\nrest {path}"));
    }
    world.run(1000);
    world.remove("/log/removed.log");
    world.rename("/log/renamed.log", "/log/renamed.log.1");
    world.run(3000);
    assert_eq!(world.lines().len(), 2, "it may still be written to");
    world.run(10_000);
    let want = ["rest /log/removed.log", "rest /log/renamed.log", "whole /log/removed.log"];
    assert_eq!(&world.sorted()[..3], want);
    world.kill();
    world.run(3000);
    assert_eq!(world.lines().len(), 4, "once");
}

#[test]
fn a_truncated_file_is_read_from_its_start_as_another_generation() {
    // The new content shorter, as long, and longer than the old one.
    for (case, new) in ["x\n", "xyz\nabc\n", "much longer than it was before\n"].iter().enumerate()
    {
        for down in [false, true] {
            let mut world = World::new(&["/log/a.log"]);
            world.append("/log/a.log", "one\ntwo\n");
            world.run(1000);
            world.truncate("/log/a.log", 0);
            world.append("/log/a.log", new);
            world.wait(100);
            if down {
                world.kill();
            }
            world.run(2000);
            let lines = world.lines();
            assert_eq!(lines[2..], new.lines().collect::<Vec<_>>(), "case {case}, down {down}");
            let said = world.said_of("/log/a.log");
            assert!(said.iter().any(|what| what.starts_with("file_replaced")), "{said:?}");
            let keys: Vec<String> = world.rows().into_iter().map(|row| row.key).collect();
            assert!(keys[0].ends_with(":0") && keys[2].ends_with(":1"), "{keys:?}");
            world.run(5000);
            assert_eq!(world.stored.len(), 1, "the old generation is retired");
        }
    }
}

#[test]
fn a_file_that_is_written_anew_under_its_name_is_another_file() {
    let mut world = World::new(&["/log/a.log"]);
    world.append("/log/a.log", "one\ntwo\n");
    world.run(1000);
    world.append("/log/tmp", "three\n");
    world.rename("/log/tmp", "/log/a.log");
    world.run(10_000);
    assert_eq!(world.lines(), ["one", "two", "three"]);
    assert_eq!(world.stored.len(), 1);
}

#[test]
fn a_reused_inode_is_another_file_even_if_it_begins_the_same() {
    for births in [true, false] {
        let mut world = World::new(&["/log/*"]);
        world.disk.set_birth_times(births);
        let mut written = Vec::new();
        for round in 0..20 {
            written.extend(["banner".to_owned(), format!("round {round:02}")]);
            world.append("/log/a.log", format!("banner\nround {round:02}\n"));
            world.wait(10);
            world.kill();
            world.run(1000);
            assert_eq!(world.lines(), written);
            // Without an open handle the number is free again at once.
            world.kill();
            world.remove("/log/a.log");
        }
        let reused = world.rows().into_iter().filter(|row| !row.key.ends_with(":0")).count();
        assert!(reused > 0, "no number was ever reused");
    }
}

#[test]
fn a_reused_inode_is_told_by_its_birth_where_head_and_mark_agree() {
    // The first KiB and the last bytes before the position are the same; one line between them is not.
    let mut world = World::new(&["/log/*"]);
    world.append("/log/anchor", "anchor\n");
    world.append("/log/a.log", numbered("a", 0, 100, 40));
    world.run(1000);
    world.kill();
    world.remove("/log/a.log");
    world.wait(10);
    let other = [numbered("a", 0, 50, 40), numbered("b", 50, 1, 40), numbered("a", 51, 50, 40)];
    world.append("/log/a.log", other.concat());
    world.run(10_000);
    let again = world.rows().into_iter().filter(|row| row.key.ends_with(":1")).count();
    assert_eq!((world.lines().len(), again), (202, 101), "all of it is new");
}

#[test]
fn a_reused_inode_of_which_nothing_was_read_has_its_own_name() {
    for births in [true, false] {
        let mut world = World::new(&["/log/*"]);
        world.disk.set_birth_times(births);
        world.append("/log/anchor", "anchor\n");
        world.run(1000);
        world.append("/log/a.log", "one\n");
        world.wait(1000);
        world.batch.records_max = 0;
        world.poll().expect("polls");
        world.commit().expect("commits");
        world.kill();
        world.remove("/log/a.log");
        world.wait(10);
        world.append("/log/b.log", "two\n");
        world.batch.records_max = usize::MAX;
        world.run(1000);
        let row = world.rows().pop().expect("read");
        assert_eq!((row.line.as_str(), row.file.as_str()), ("two", "/log/b.log"), "{births}");
        assert!(row.key.ends_with(":1"), "the number was not reused: {}", row.key);
    }
}

#[test]
fn the_same_lines_again_after_a_truncation_are_read_at_once() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/a.log", "tick\n".repeat(1000));
    world.run(1000);
    world.truncate("/log/a.log", 0);
    world.append("/log/a.log", "tick\n".repeat(3));
    world.run(2000);
    assert_eq!(world.lines().len(), 1003);
}

#[test]
fn one_scan_that_misses_a_file_does_not_make_it_forgotten() {
    // Listing a folder in the moment of a rename may show neither name.
    let mut world = World::new(&["/log/a.log"]);
    world.append("/log/a.log", "one\n");
    world.run(1000);
    world.kill();
    world.rename("/log/a.log", "/log/away");
    world.catch_up();
    world.rename("/log/away", "/log/a.log");
    world.append("/log/a.log", "two\n");
    world.run(5000);
    assert_eq!(world.lines(), ["one", "two"]);
}

#[test]
fn open_files_without_a_name_survive_an_aborted_transaction() {
    // One that has a position, and one that was found in the transaction that was aborted.
    let mut world = World::new(&["/log/*"]);
    world.append("/log/a.log", "one\n");
    world.append("/log/c.log", "c\n");
    world.run(1000);
    world.append("/log/a.log", "two\n");
    world.append("/log/b.log", "three\n");
    world.append("/log/c.log", "c again\n");
    world.wait(1000);
    world.poll().expect("polls");
    world.remove("/log/a.log");
    world.remove("/log/b.log");
    world.truncate("/log/c.log", 0);
    assert!(is_restart(&world.commit()));
    world.run(20_000);
    assert_eq!(world.sorted(), ["c", "one", "three", "two"]);
    assert!(world.stored.is_empty());
}

#[test]
fn a_file_truncated_under_the_read_restarts_the_transaction() {
    let mut world = World::new(&["/log/a.log"]);
    world.append("/log/a.log", "one\ntwo\n");
    world.run(1000);
    world.append("/log/a.log", "three\n");
    world.wait(1000);
    world.poll().expect("polls");
    world.truncate("/log/a.log", 0);
    world.append("/log/a.log", "new\n");
    assert!(is_restart(&world.commit()));
    world.run(2000);
    assert_eq!(world.lines(), ["one", "two", "new"]);
}

#[test]
fn a_file_rewritten_between_two_chunks_is_not_mixed() {
    // The chunk is small, so that the file is read in many; it is truncated and grows past the
    // offset between two polls.
    let mut world = World::with(0, FileSourceConfig { chunk: 128, ..config(&["/log/a.log"]) });
    world.append("/log/a.log", numbered("old", 0, 100, 40));
    world.batch.records_max = 10;
    world.poll().expect("polls");
    world.commit().expect("commits");
    world.truncate("/log/a.log", 0);
    world.append("/log/a.log", numbered("new", 0, 200, 40));
    // Until it is sure that the rest of the old content is nowhere.
    world.run(10_000);
    let lines = world.lines();
    assert_eq!(lines.iter().filter(|line| line.starts_with("new")).count(), 200);
    assert_eq!(lines.iter().filter(|line| line.starts_with("old")).count(), 7);
    let warned = world.said_of("/log/a.log");
    assert!(warned.iter().any(|what| what.starts_with("3720 bytes")), "{warned:?}");
    assert_eq!(world.source().stats().lost_bytes, 3720);
}

#[test]
fn positions_of_files_looked_for_no_more_are_kept() {
    let mut world = World::new(&["/log/a.log"]);
    world.append("/log/a.log", "one\n");
    world.append("/log/b.log", "two\n");
    world.run(1000);
    world.config = config(&["/log/b.log"]);
    world.kill();
    world.run(10_000);
    world.config = config(&["/log/*"]);
    world.kill();
    world.run(10_000);
    assert_eq!(world.sorted(), ["one", "two"]);
}

#[test]
fn a_folder_without_its_mount_retires_nothing() {
    let mut world = World::new(&["/log/deep/a.log"]);
    let dir = Path::new("/log/deep");
    Disk::create_dir(&world.hand, dir).expect("new");
    world.append("/log/deep/a.log", "one\n");
    world.run(1000);
    world.kill();
    world.disk.fail_on(
        thalweg_core::disk::sim::Call::Stat,
        thalweg_core::disk::sim::Failure::Io,
        20,
        |path| path.starts_with("/log/deep"),
    );
    world.run(4000);
    assert_eq!(world.stored.len(), 1);
    world.disk.heal();
    world.run(4000);
    assert_eq!(world.lines(), ["one"]);
}

#[test]
fn a_link_that_is_pointed_elsewhere_is_a_rotation() {
    let mut world = World::new(&["/log/current"]);
    world.append("/log/1", "one\n");
    world.append("/log/2", "three\n");
    let link = Path::new("/log/current");
    world.hand.symlink(Path::new("/log/1"), link).expect("new");
    world.run(1000);
    world.append("/log/1", "two\n");
    world.remove("/log/current");
    world.hand.symlink(Path::new("/log/2"), link).expect("new");
    world.run(3000);
    assert_eq!(world.sorted(), ["one", "three", "two"]);
}
