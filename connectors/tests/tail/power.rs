//! What a power loss does to files that others write, and what is made of it.

use std::path::Path;

use thalweg_connectors::file::FileSourceConfig;
use thalweg_core::disk::{Disk, DiskFile, Open, write_all_at};

use crate::world::{World, config, numbered};

fn synced_name(world: &World) {
    world.hand.sync_dir(Path::new("/log")).expect("syncs");
}

#[test]
fn what_was_committed_is_made_durable_first() {
    // The writer never syncs. Whatever the power loss takes, nothing that was committed is read
    // again, and nothing that survived behind it is left out.
    for seed in 0..40 {
        let mut world = World::with(seed, config(&["/log/a.log"]));
        world.append("/log/a.log", numbered("a", 0, 300, 40));
        synced_name(&world);
        world.batch.records_max = 120;
        world.poll().expect("polls");
        world.commit().expect("commits");
        let before = world.lines().len();
        world.lose_power();
        world.run(3000);
        let left = world.read("/log/a.log");
        assert!(left.len() >= before * 40, "seed {seed}");
        let read = world.lines();
        let unique: std::collections::BTreeSet<&String> = read.iter().collect();
        assert_eq!(unique.len(), read.len(), "seed {seed}: nothing twice");
        assert!(world.rows().iter().all(|row| row.key.ends_with(":0")), "seed {seed}");
    }
}

#[test]
fn a_file_that_shrank_goes_on_at_its_end() {
    // Without the sync the file may lose what is in the log already.
    let mut shrunk = 0;
    for seed in 0..60 {
        let settings = FileSourceConfig { sync_source: false, ..config(&["/log/a.log"]) };
        let mut world = World::with(seed, settings);
        world.disk.set_early_write_back(0);
        world.append("/log/a.log", numbered("a", 0, 100, 40));
        let file = world.hand.open(Path::new("/log/a.log"), Open::Write).expect("is there");
        file.sync_data().expect("syncs");
        synced_name(&world);
        world.append("/log/a.log", numbered("a", 100, 100, 40));
        world.run(1000);
        assert_eq!(world.lines().len(), 200);
        world.lose_power();
        let left = world.read("/log/a.log");
        let whole = numbered("a", 0, 200, 40).into_bytes();
        if left != whole[..left.len()] {
            continue; // Torn in another way: see below.
        }
        world.run(3000);
        assert_eq!(world.lines().len(), 200, "seed {seed}: nothing again");
        if left.len() < whole.len() {
            shrunk += 1;
            let said = world.said_of("/log/a.log");
            assert!(said.iter().any(|what| what.contains("shorter")), "seed {seed}: {said:?}");
        }
        world.append("/log/a.log", "new\n");
        world.run(1000);
        assert_eq!(world.lines().len(), 201, "seed {seed}");
        assert_eq!(world.rows().last().map(|row| row.offset), Some(left.len() as u64));
        // The same partition and the same name as before.
        let keys: std::collections::BTreeSet<String> =
            world.rows().into_iter().map(|row| row.key).collect();
        assert_eq!(keys.len(), 1, "seed {seed}");
    }
    assert!(shrunk > 3, "the power loss took something in {shrunk} of 60 worlds");
}

#[test]
fn zeros_where_bytes_had_been_read_are_not_read_again() {
    // The length survived, the blocks did not: from somewhere before the position on it is zeros.
    for zeros_from in [50usize, 1000, 3000, 7990] {
        for behind in ["", "new\n"] {
            let settings = FileSourceConfig { sync_source: false, ..config(&["/log/a.log"]) };
            let mut world = World::with(1, settings);
            world.append("/log/a.log", numbered("a", 0, 200, 40));
            synced_name(&world);
            world.run(1000);
            let file = world.hand.open(Path::new("/log/a.log"), Open::Write).expect("is there");
            write_all_at(&file, &vec![0; 8100 - zeros_from], zeros_from as u64).expect("room");
            file.sync_data().expect("syncs");
            world.lose_power();
            world.append("/log/a.log", behind);
            world.run(3000);
            let lines = world.lines();
            assert_eq!(lines.len(), 200 + behind.lines().count(), "{zeros_from} {behind:?}");
            assert!(!world.said_of("/log/a.log").is_empty());
            world.kill();
            world.append("/log/a.log", "more\n");
            world.run(3000);
            assert_eq!(world.lines().len(), lines.len() + 1, "{zeros_from} {behind:?}");
        }
    }
}

#[test]
fn an_empty_file_after_a_boot_was_truncated() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/anchor", "anchor\n");
    world.append("/log/app.log", numbered("old", 0, 100, 40));
    synced_name(&world);
    world.batch.records_max = 50;
    world.poll().expect("polls");
    world.commit().expect("commits");
    // Copied and truncated; then the machine starts again.
    world.copy("/log/app.log", "/log/app.log.1", usize::MAX);
    let copy = world.hand.open(Path::new("/log/app.log.1"), Open::Write).expect("is there");
    copy.sync_data().expect("syncs");
    world.truncate("/log/app.log", 0);
    let app = world.hand.open(Path::new("/log/app.log"), Open::Write).expect("is there");
    app.sync_data().expect("syncs");
    synced_name(&world);
    drop((copy, app));
    world.batch.records_max = usize::MAX;
    world.lose_power();
    world.append("/log/app.log", "new\n");
    world.run(20_000);
    assert_eq!(world.lines().len(), 102);
}

#[test]
fn a_removal_that_nobody_synced_does_not_bring_lines_back() {
    // The position of a removed file goes; were the removal then undone, nobody would know the file.
    for seed in 0..40 {
        let mut world = World::with(seed, config(&["/log/*"]));
        world.append("/log/a.log", numbered("a", 0, 100, 40));
        world.append("/log/anchor", "anchor\n");
        synced_name(&world);
        world.run(1000);
        world.remove("/log/a.log");
        // Its number goes to the next file in every other world.
        if seed % 2 == 0 {
            world.append("/log/b.log", numbered("b", 0, 50, 40));
        }
        world.run(10_000);
        world.lose_power();
        world.run(10_000);
        let old = world.lines().iter().filter(|line| line.starts_with('a')).count();
        assert_eq!(old, 101, "seed {seed}: each line of a.log and the anchor once");
    }
}

#[test]
fn a_truncation_that_nobody_synced_does_not_bring_lines_back() {
    // The lines go on in the copy; were the truncation undone, the original would be new.
    for seed in 0..40 {
        let mut world = World::with(seed, config(&["/log/*"]));
        world.append("/log/a.log", numbered("a", 0, 100, 40));
        synced_name(&world);
        world.run(1000);
        world.copy("/log/a.log", "/log/a.log.1", usize::MAX);
        let copy = world.hand.open(Path::new("/log/a.log.1"), Open::Write).expect("is there");
        copy.sync_data().expect("syncs");
        synced_name(&world);
        drop(copy);
        world.truncate("/log/a.log", 0);
        world.append("/log/a.log", "new\n");
        world.run(10_000);
        world.lose_power();
        world.run(10_000);
        let old = world.lines().iter().filter(|line| line.starts_with('a')).count();
        assert_eq!(old, 100, "seed {seed}");
    }
}

#[test]
fn what_a_power_loss_leaves_of_a_copy_is_still_a_copy() {
    // The copy was recognised, then lost its end, and is made whole again.
    let mut world = World::new(&["/log/*"]);
    world.append("/log/a.log", numbered("a", 0, 100, 40));
    synced_name(&world);
    world.run(1000);
    world.copy("/log/a.log", "/log/a.log.1", usize::MAX);
    world.run(1000);
    assert_eq!(world.lines().len(), 100);
    let copy = world.hand.open(Path::new("/log/a.log.1"), Open::Write).expect("is there");
    copy.set_len(2000).expect("is cut");
    copy.sync_data().expect("syncs");
    synced_name(&world);
    drop(copy);
    world.lose_power();
    world.run(1000);
    world.copy("/log/a.log", "/log/a.log.1", usize::MAX);
    world.run(10_000);
    assert_eq!(world.lines().len(), 100);
    // The original moves on, and so do we.
    world.truncate("/log/a.log", 0);
    world.append("/log/a.log", "new\n");
    world.run(10_000);
    assert_eq!(world.lines().len(), 101);
}

#[test]
fn a_copy_that_was_passed_over_as_binary_is_judged_again() {
    // A power loss left a hole in it; then it is copied anew, under the same number.
    for killed in [false, true] {
        let mut world = World::new(&["/log/*"]);
        world.append("/log/a.log", numbered("a", 0, 100, 40));
        synced_name(&world);
        world.run(1000);
        let mut torn = world.read("/log/a.log");
        torn[512..1024].fill(0);
        world.append("/log/a.log.1", &torn);
        synced_name(&world);
        world.run(10_000);
        assert!(world.said_of("/log/a.log.1").iter().any(|what| what.contains("binary")));
        if killed {
            world.kill();
        }
        let file = world.hand.open(Path::new("/log/a.log.1"), Open::Write).expect("is there");
        write_all_at(&file, &world.read("/log/a.log"), 0).expect("room");
        drop(file);
        world.run(10_000);
        world.truncate("/log/a.log", 0);
        world.append("/log/a.log", "new\n");
        world.run(10_000);
        assert_eq!(world.lines().len(), 101, "killed: {killed}");
    }
}

#[test]
fn a_copy_that_kept_what_its_original_lost_gives_only_that() {
    // Lines were written and copied, but not yet read; the power loss takes them from the original.
    for new in ["", "new\n"] {
        let mut world = World::new(&["/log/*"]);
        world.append("/log/a.log", numbered("a", 0, 60, 40));
        let file = world.hand.open(Path::new("/log/a.log"), Open::Write).expect("is there");
        file.sync_data().expect("syncs");
        synced_name(&world);
        world.run(1000);
        world.append("/log/a.log", numbered("a", 60, 5, 40));
        world.copy("/log/a.log", "/log/a.log.1", usize::MAX);
        let copy = world.hand.open(Path::new("/log/a.log.1"), Open::Write).expect("is there");
        copy.sync_data().expect("syncs");
        file.set_len(60 * 40).expect("is cut");
        write_all_at(&file, &[0; 80], 60 * 40).expect("room");
        file.sync_data().expect("syncs");
        synced_name(&world);
        drop((file, copy));
        world.lose_power();
        world.append("/log/a.log", new);
        world.run(20_000);
        let mut lines = world.lines();
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), world.lines().len(), "nothing twice");
        assert_eq!(lines.len(), 65 + new.lines().count());
    }
}
