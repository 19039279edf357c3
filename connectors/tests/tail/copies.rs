//! Copies: of copytruncate, across devices, beside their originals; and files that only look so.

use std::time::Duration;

use thalweg_connectors::file::FileSourceConfig;

use crate::world::{World, config, numbered};

/// Rotates `/log/app.log` by copy and truncate, in steps; `between` is called after each.
fn copytruncate(world: &mut World, to: &str, mut between: impl FnMut(&mut World)) {
    while world.copy("/log/app.log", to, 700) > 0 {
        between(world);
    }
    world.truncate("/log/app.log", 0);
    between(world);
}

#[test]
fn copytruncate_loses_and_doubles_nothing() {
    // Files below and above the size that is recognised; the source running, idle, or killed
    // between all steps; what was there read, half read, or not at all.
    for count in [3usize, 60, 300] {
        for mode in ["running", "asleep", "killed", "aborted"] {
            for read_max in [usize::MAX, 20, 1] {
                let mut world = World::new(&["/log/*"]);
                world.append("/log/anchor", "anchor\n");
                world.append("/log/app.log", numbered("old", 0, count, 40));
                world.batch.records_max = read_max;
                world.poll().expect("polls");
                world.commit().expect("commits");
                copytruncate(&mut world, "/log/app.log.1", |world| match mode {
                    "running" => world.run(1000),
                    "killed" => {
                        world.wait(500);
                        world.kill();
                        world.poll().expect("polls");
                        world.commit().ok();
                    }
                    "aborted" => {
                        world.wait(1000);
                        world.poll().expect("polls");
                        world.kill();
                    }
                    _ => {}
                });
                world.append("/log/app.log", numbered("new", 0, 5, 40));
                world.run(20_000);
                let case = format!("{count} lines, {mode}, {read_max} at a time");
                let mut want: Vec<String> = numbered("old", 0, count, 40)
                    .lines()
                    .chain(numbered("new", 0, 5, 40).lines())
                    .chain(["anchor"])
                    .map(str::to_owned)
                    .collect();
                want.sort();
                assert_eq!(world.sorted(), want, "{case}\n{:#?}", world.notices());
                world.check_files_are_in_order();
                let rows = world.rows();
                let mut old = rows.iter().filter(|row| row.line.starts_with("old"));
                // Without a byte read, the copy is the first to be found with these bytes.
                assert!(read_max == 1 || old.all(|row| row.file == "/log/app.log"), "{case}");
            }
        }
    }
}

#[test]
fn lines_that_came_during_the_copy_are_read_from_the_copy() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/app.log", numbered("old", 0, 100, 40));
    world.run(1000);
    world.copy("/log/app.log", "/log/app.log.1", 1500);
    world.run(2000);
    world.append("/log/app.log", numbered("old", 100, 50, 40));
    world.copy("/log/app.log", "/log/app.log.1", usize::MAX);
    // Nobody looked since the last lines came.
    world.truncate("/log/app.log", 0);
    world.append("/log/app.log", "new\n");
    world.run(10_000);
    let lines = world.lines();
    assert_eq!(lines.len(), 151);
    world.check_files_are_in_order();
}

#[test]
fn a_copy_outside_costs_only_what_was_not_read() {
    let mut world = World::new(&["/log/app.log"]);
    world.append("/log/app.log", numbered("old", 0, 100, 40));
    world.run(1000);
    copytruncate(&mut world, "/log/app.log.1", |world| world.run(1000));
    world.append("/log/app.log", "new\n");
    world.run(10_000);
    assert_eq!(world.lines().len(), 101);
    assert_eq!(world.stored.len(), 1);
}

#[test]
fn a_copy_beside_its_original_is_not_read_and_stays_unread() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/app.log", numbered("a", 0, 100, 40));
    world.run(1000);
    world.copy("/log/app.log", "/log/backup", usize::MAX);
    world.run(20_000);
    world.append("/log/app.log", numbered("a", 100, 100, 40));
    world.run(3000);
    world.kill();
    world.run(20_000);
    world.remove("/log/app.log");
    world.run(30_000);
    world.kill();
    world.run(20_000);
    assert_eq!(world.lines().len(), 200);
}

#[test]
fn a_copy_that_outgrows_its_original_goes_on_from_there() {
    for (whole, down) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut world = World::new(&["/log/*"]);
        world.append("/log/a.log", numbered("a", 0, 100, 40));
        world.run(1000);
        let copied = if whole { usize::MAX } else { 2010 };
        world.copy("/log/a.log", "/log/b.log", copied);
        world.run(10_000);
        if down {
            world.kill();
        }
        let end = if whole { "" } else { "is not the line that was begun\n" };
        world.append("/log/b.log", format!("{end}{}", numbered("b", 0, 3, 40)));
        world.run(10_000);
        let own = world.rows().into_iter().filter(|row| row.file == "/log/b.log").count();
        assert_eq!(own, 3 + usize::from(!whole), "whole {whole}, down {down}: without waiting");
        world.append("/log/a.log", numbered("a", 100, 1, 40));
        world.append("/log/b.log", numbered("b", 3, 1, 40));
        world.run(10_000);
        let case = format!("whole {whole}, down {down}");
        let rows = world.rows();
        let a = rows.iter().filter(|row| row.file == "/log/a.log").count();
        let b: Vec<&str> =
            rows.iter().filter(|row| row.file == "/log/b.log").map(|row| &*row.line).collect();
        assert_eq!(a, 101, "{case}");
        assert_eq!(b.len(), 4 + usize::from(!whole), "{case}: {b:?}");
        world.check_files_are_in_order();
    }
}

#[test]
fn nothing_below_a_kilobyte_stays_a_copy() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/a.log", "the same banner\n");
    world.run(1000);
    world.append("/log/b.log", "the same banner\n");
    world.run(3000);
    assert_eq!(world.lines().len(), 1, "it may be a copy in the making");
    world.run(6000);
    assert_eq!(world.lines().len(), 2);
    // Another first line tells at once.
    world.append("/log/c.log", "another banner\n");
    world.run(1000);
    assert_eq!(world.lines().len(), 3);
}

#[test]
fn files_of_the_first_scan_are_never_copies() {
    let mut world = World::new(&["/log/*"]);
    for path in ["/log/a.log", "/log/b.log"] {
        world.append(path, numbered("same", 0, 100, 40));
    }
    world.batch.records_max = 10;
    world.poll().expect("polls");
    world.commit().expect("commits");
    assert_eq!(world.stored.len(), 2, "both are registered before one is read");
    world.kill();
    world.run(10_000);
    assert_eq!(world.lines().len(), 200);
}

#[test]
fn a_position_has_one_claimant() {
    // Two copies of a file that is truncated then: one goes on, the other stays a copy.
    let mut world = World::new(&["/log/*"]);
    world.append("/log/app.log", numbered("old", 0, 100, 40));
    world.batch.records_max = 50;
    world.poll().expect("polls");
    world.commit().expect("commits");
    world.kill();
    world.copy("/log/app.log", "/log/x", usize::MAX);
    world.copy("/log/app.log", "/log/y", usize::MAX);
    world.truncate("/log/app.log", 0);
    world.run(20_000);
    assert_eq!(world.lines().len(), 100);
    world.check_files_are_in_order();
    assert_eq!(
        world.rows().iter().map(|row| &row.key).collect::<std::collections::BTreeSet<_>>().len(),
        1
    );
}

#[test]
fn a_file_moved_across_devices_goes_on() {
    // mv: copy, then unlink. While running, and while down; with bytes that were not read yet.
    for down in [false, true] {
        let mut world = World::new(&["/log/*"]);
        world.append("/log/app.log", numbered("a", 0, 100, 40));
        world.batch.records_max = 50;
        world.poll().expect("polls");
        world.commit().expect("commits");
        if down {
            world.kill();
        }
        world.copy("/log/app.log", "/log/moved", usize::MAX);
        if !down {
            world.poll().expect("polls");
        }
        world.remove("/log/app.log");
        world.batch.records_max = usize::MAX;
        world.run(20_000);
        world.append("/log/moved", "more\n");
        world.run(2000);
        assert_eq!(world.lines().len(), 101, "down {down}");
        assert!(world.rows().iter().all(|row| row.file == "/log/app.log"), "down {down}");
        world.check_files_are_in_order();
    }
}

#[test]
fn a_copy_in_the_making_is_waited_for_but_not_for_ever() {
    let mut world = World::with(
        0,
        FileSourceConfig { copy_patience: Duration::from_secs(10), ..config(&["/log/*"]) },
    );
    world.append("/log/anchor", "anchor\n");
    world.append("/log/app.log", numbered("old", 0, 20, 40));
    world.run(1000);
    // 800 bytes in all: too small to be a copy for long.
    for _ in 0..10 {
        world.copy("/log/app.log", "/log/app.log.1", 80);
        world.run(8000);
    }
    assert_eq!(world.lines().len(), 21, "it grew all the time");
    world.run(12_000);
    assert_eq!(world.lines().len(), 41, "it stopped growing, its original is there still");
}

/// A row of `--once` runs, of which one sees the copy at any stage, and the truncation while it runs.
#[test]
fn a_copy_made_beside_runs_that_read_once_is_no_new_file() {
    for before in 0..5 {
        for beside in 0..=5 - before {
            if (before, beside) == (1, 0) {
                // Below a kilobyte, and it does not grow: a file of its own after the patience.
                continue;
            }
            let once = FileSourceConfig { once: true, ..config(&["/log/*"]) };
            let mut world = World::with(0, once);
            world.append("/log/anchor", "anchor\n");
            world.append("/log/app.log", numbered("old", 0, 60, 40));
            world.run(1000);
            world.kill();
            let mut acts = 0;
            let mut act = |world: &World| {
                acts += 1;
                match acts {
                    1..=4 => drop(world.copy("/log/app.log", "/log/app.log.1", 600)),
                    5 => world.truncate("/log/app.log", 0),
                    _ => {}
                }
            };
            (0..before).for_each(|_| act(&world));
            world.catch_up();
            for _ in 0..beside {
                act(&world);
                world.run(1000);
            }
            world.run(20_000);
            world.kill();
            (0..5 - before - beside).for_each(|_| act(&world));
            world.append("/log/app.log", "new\n");
            for _ in 0..2 {
                world.run(20_000);
                world.kill();
            }
            let case = format!("{before} before a run, {beside} beside it");
            assert_eq!(world.lines().len(), 62, "{case}: {:#?}", world.notices());
        }
    }
}

#[test]
fn equal_heads_are_two_files_as_soon_as_they_differ() {
    let mut world = World::new(&["/log/*"]);
    let banner = numbered("banner", 0, 50, 40);
    world.append("/log/a.log", &banner);
    world.append("/log/a.log", "a\n");
    world.run(1000);
    world.append("/log/b.log", format!("{banner}b\n"));
    world.run(2000);
    assert_eq!(world.lines().len(), 102);
    assert_eq!(world.rows().iter().filter(|row| row.file == "/log/b.log").count(), 51);
}

#[test]
fn a_copy_that_differs_in_one_byte_is_another_file() {
    // Head and mark are the same; the original is gone, so that only the hash of all bytes tells.
    let mut world = World::new(&["/log/*"]);
    world.append("/log/anchor", "anchor\n");
    world.append("/log/a.log", numbered("a", 0, 100, 40));
    world.run(1000);
    world.kill();
    let mut other = world.read("/log/a.log");
    other[2020] = b'!';
    world.append("/log/b.log", other);
    world.truncate("/log/a.log", 0);
    world.run(10_000);
    assert_eq!(world.lines().len(), 201);
}

#[test]
fn a_copy_in_the_making_finds_its_position_after_the_original_is_gone() {
    for (complete, want) in [(true, 101), (false, 151)] {
        let mut world = World::new(&["/log/*"]);
        world.append("/log/anchor", "anchor\n");
        world.append("/log/app.log", numbered("old", 0, 100, 40));
        world.run(1000);
        world.kill();
        let old = world.read("/log/app.log");
        world.truncate("/log/app.log", 0);
        world.append("/log/app.log.1", &old[..2000]);
        // Longer than it takes to retire a position that nobody waits for.
        world.run(4000);
        assert_eq!(world.lines().len(), 101, "it may be a copy in the making");
        if complete {
            world.append("/log/app.log.1", &old[2000..]);
        }
        world.run(20_000);
        assert_eq!(world.lines().len(), want, "complete {complete}");
        assert!(world.stored.len() <= 2);
    }
}

#[test]
fn an_empty_file_may_become_a_copy_at_any_time() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/app.log", numbered("old", 0, 100, 40));
    world.run(1000);
    world.append("/log/app.log.1", "");
    world.run(60_000);
    copytruncate(&mut world, "/log/app.log.1", |world| world.run(1000));
    world.run(10_000);
    assert_eq!(world.lines().len(), 100);
}

#[test]
fn an_original_comes_before_its_copy_whatever_their_names() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/anchor", "anchor\n");
    world.run(1000);
    // Both are new in the same scan, the copy is in the making.
    world.append("/log/z.log", numbered("z", 0, 100, 40));
    world.copy("/log/z.log", "/log/a.copy", 2000);
    world.run(2000);
    world.copy("/log/z.log", "/log/a.copy", usize::MAX);
    world.run(2000);
    world.truncate("/log/z.log", 0);
    world.run(10_000);
    assert_eq!(world.lines().len(), 101);
    assert!(world.rows()[1..].iter().all(|row| row.file == "/log/z.log"));
}

#[test]
fn a_small_file_moved_across_devices_is_waited_for_until_the_old_one_is_let_go() {
    let mut world = World::with(
        0,
        FileSourceConfig { rotate_wait: Duration::from_secs(30), ..config(&["/log/*"]) },
    );
    world.append("/log/anchor", "anchor\n");
    world.append("/log/app.log", numbered("a", 0, 10, 40));
    world.run(1000);
    world.copy("/log/app.log", "/log/moved", usize::MAX);
    world.remove("/log/app.log");
    world.run(60_000);
    assert_eq!(world.lines().len(), 11);
    world.append("/log/moved", "more\n");
    world.run(2000);
    assert_eq!(world.rows().last().map(|row| row.file.as_str()), Some("/log/app.log"));
}
