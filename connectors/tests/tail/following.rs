//! Growing files, partial lines, ends, backlogs, and going on after a restart.

use thalweg_connectors::source::Polled;

use crate::world::{Delivered, PARTITIONS, World, config, numbered};

#[test]
fn lines_come_once_as_the_file_grows() {
    let mut world = World::new(&["/log/app.log"]);
    world.append("/log/app.log", "one\ntwo\n");
    world.run(1000);
    world.append("/log/app.log", "three\n");
    world.run(1000);
    assert_eq!(world.lines(), ["one", "two", "three"]);
    let rows = world.rows();
    assert_eq!(rows.iter().map(|r| r.offset).collect::<Vec<_>>(), [0, 4, 8]);
    assert!(rows.iter().all(|r| r.file == "/log/app.log" && r.mtime >= 1_000_000));
    world.check_files_are_in_order();
}

#[test]
fn a_partial_line_waits_for_its_newline() {
    let mut world = World::new(&["/log/app.log"]);
    world.append("/log/app.log", "one\ntw");
    world.run(20_000);
    assert_eq!(world.lines(), ["one"]);
    assert_eq!(world.source().stats().lag_bytes, 2);
    world.kill();
    world.append("/log/app.log", "o\n");
    world.run(1000);
    assert_eq!(world.lines(), ["one", "two"]);
    assert_eq!(world.source().stats().lag_bytes, 0);
}

#[test]
fn what_was_committed_is_not_read_again_and_what_was_not_is() {
    let mut world = World::new(&["/log"]);
    world.append("/log/a.log", numbered("a", 0, 40, 50));
    world.append("/log/b.log", numbered("b", 0, 40, 50));
    world.batch.records_max = 7;
    for step in 0..60 {
        world.poll().expect("polls");
        if step % 3 == 0 {
            world.kill();
        } else {
            world.commit().expect("commits");
        }
    }
    world.catch_up();
    let want = numbered("a", 0, 40, 50) + &numbered("b", 0, 40, 50);
    let mut want: Vec<&str> = want.lines().collect();
    want.sort_unstable();
    assert_eq!(world.sorted(), want);
    world.check_files_are_in_order();
}

#[test]
fn once_ends_at_the_sizes_of_the_first_scan_and_takes_the_last_line() {
    let mut world = World::with(
        0,
        thalweg_connectors::file::FileSourceConfig { once: true, ..config(&["/log"]) },
    );
    world.append("/log/a.log", "one\ntwo");
    world.append("/log/empty.log", "");
    world.batch.records_max = 4;
    world.poll().expect("polls");
    world.append("/log/a.log", "\nlater\n");
    world.append("/log/b.log", "too late\n");
    world.append("/log/empty.log", "filled too late\n");
    assert_eq!(world.catch_up(), Polled::End);
    assert_eq!(world.lines(), ["one", "two"]);
    assert_eq!(world.poll().expect("polls"), Polled::End);

    // The next run goes on behind what was taken: the newline ends a line that was taken already.
    world.kill();
    assert_eq!(world.catch_up(), Polled::End);
    assert_eq!(world.sorted(), ["", "filled too late", "later", "one", "too late", "two"]);
}

#[test]
fn once_over_nothing_ends_at_once() {
    for paths in [&["/log"][..], &["/log/none"], &["/log/*.x"]] {
        let mut world = World::with(
            0,
            thalweg_connectors::file::FileSourceConfig { once: true, ..config(paths) },
        );
        assert_eq!(world.catch_up(), Polled::End);
        assert!(world.delivered.is_empty());
    }
}

#[test]
fn a_long_backlog_is_shared_fairly() {
    let mut world = World::with(
        0,
        thalweg_connectors::file::FileSourceConfig {
            quantum: 1000,
            chunk: 500,
            ..config(&["/log"])
        },
    );
    world.append("/log/a.log", numbered("a", 0, 1000, 50));
    world.append("/log/b.log", numbered("b", 0, 1000, 50));
    world.append("/log/c.log", "c\n");
    world.batch.records_max = 200;
    world.poll().expect("polls");
    world.commit().expect("commits");
    let lines = world.lines();
    let of = |name: &str| lines.iter().filter(|line| line.starts_with(name)).count();
    assert_eq!(of("c"), 1, "{lines:?}");
    assert!(of("a").abs_diff(of("b")) <= 40, "a {} b {}", of("a"), of("b"));
}

/// Where the markers are among the lines of each partition.
fn markers(world: &World) -> Vec<Vec<String>> {
    let of = |wanted: u32| {
        let words = world.delivered.iter().filter_map(move |d| match d {
            Delivered::Marker(partition, word) if *partition == wanted => Some(word.clone()),
            Delivered::Line(row) if row.partition == wanted => Some(row.line.clone()),
            _ => None,
        });
        words.collect()
    };
    (0..PARTITIONS).map(of).collect()
}

#[test]
fn the_backlog_is_announced_on_every_partition() {
    let mut world = World::new(&["/log"]);
    world.append("/log/a.log", "old\npartial");
    world.append("/log/b.log", "old\n");
    world.run(1000);
    world.append("/log/b.log", "new\n");
    world.run(1000);
    for words in markers(&world) {
        let begin = words.iter().position(|w| w == "begin").expect("begins");
        let done = words.iter().position(|w| w == "done").expect("is done");
        for (at, word) in words.iter().enumerate() {
            match word.as_str() {
                "old" => assert!(begin < at && at < done, "{words:?}"),
                "new" => assert!(done < at, "{words:?}"),
                _ => {}
            }
        }
        assert_eq!(words.iter().filter(|w| *w == "begin" || *w == "done").count(), 2, "{words:?}");
    }
}

#[test]
fn every_start_says_that_the_backlog_is_done() {
    // A start that finds nothing new must say so too: the run before may have died right before it.
    let mut world = World::new(&["/log"]);
    world.append("/log/a.log", "old\n");
    world.poll().expect("polls");
    world.commit().expect("commits");
    world.delivered.clear();
    world.kill();
    world.run(1000);
    assert!(markers(&world).iter().all(|words| words == &["done"]), "{:?}", world.delivered);

    // Without any file there is nothing to mark, so it is said with the first one.
    let mut world = World::new(&["/log"]);
    world.run(3000);
    assert!(world.delivered.is_empty());
    world.append("/log/a.log", "new\n");
    world.run(3000);
    for words in markers(&world) {
        assert_eq!(words.first().map(String::as_str), Some("done"), "{words:?}");
    }
}

#[test]
fn once_never_says_done() {
    let mut world = World::with(
        0,
        thalweg_connectors::file::FileSourceConfig { once: true, ..config(&["/log"]) },
    );
    world.append("/log/a.log", "old\n");
    assert_eq!(world.catch_up(), Polled::End);
    let words: Vec<String> = markers(&world).concat();
    assert_eq!(words.iter().filter(|w| *w == "begin").count(), 3);
    assert!(!words.contains(&"done".to_owned()));
}

#[test]
fn an_aborted_transaction_is_pushed_again() {
    let mut world = World::new(&["/log"]);
    world.append("/log/a.log", "one\ntwo\n");
    world.poll().expect("polls");
    // The log refused the commit: the runner goes back to what is stored.
    let stored = world.stored.clone();
    futures::executor::block_on(thalweg_connectors::source::Source::open(world.source(), &stored))
        .expect("own positions");
    world.batch = {
        let fresh = World::new(&["/log"]);
        fresh.batch
    };
    world.run(1000);
    assert_eq!(world.lines(), ["one", "two"]);
    assert!(markers(&world).iter().all(|w| w.contains(&"begin".to_owned())));
}

#[test]
fn a_source_that_was_not_opened_says_so() {
    let disk = thalweg_core::disk::sim::SimDisk::new(0);
    let mut source =
        thalweg_connectors::file::FileSource::new(disk, config(&["/log"]), || 0).expect("settings");
    let mut world = World::new(&["/log"]);
    let polled = futures::executor::block_on(thalweg_connectors::source::Source::poll(
        &mut source,
        &mut world.batch,
    ));
    assert!(polled.is_err_and(|e| e.to_string().contains("opened")));
}

#[test]
fn more_files_than_handles_are_all_read() {
    let mut world = World::with(
        0,
        thalweg_connectors::file::FileSourceConfig { max_open: 5, ..config(&["/log"]) },
    );
    world.disk.set_handles_max(7);
    for i in 0..40 {
        world.append(&format!("/log/{i:02}.log"), numbered(&format!("f{i:02}"), 0, 3, 20));
    }
    world.run(2000);
    for i in 0..40 {
        world.append(&format!("/log/{i:02}.log"), numbered(&format!("f{i:02}"), 3, 2, 20));
    }
    world.run(3000);
    let lines = world.sorted();
    assert_eq!(lines.len(), 200);
    assert!(lines.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(world.notices().is_empty());
    world.check_files_are_in_order();
}

#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let mut world = World::new(&["/log"]);
    world.append("/log/a.log", "one\n");
    world.run(1000);
    world.wait(-3_600_000);
    world.append("/log/b.log", "two\n");
    world.append("/log/a.log", "three\n");
    world.run(1500);
    assert_eq!(world.sorted(), ["one", "three", "two"]);
}
