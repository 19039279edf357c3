//! What a line is: long ones, empty ones, carriage returns, runs of NUL.

use thalweg_connectors::file::FileSourceConfig;

use crate::world::{World, config};

fn small_chunks(once: bool) -> FileSourceConfig {
    FileSourceConfig { chunk: 64, line_limit: 100, once, ..config(&["/log/a.log"]) }
}

#[test]
fn bytes_are_kept_but_for_the_newline() {
    let mut world = World::new(&["/log/a.log"]);
    world.append("/log/a.log", b"\n\r\nwith cr\r\n  spaces \n\xff\xfe\n");
    world.run(1000);
    assert_eq!(world.lines(), ["", "\r", "with cr\r", "  spaces ", "\u{fffd}\u{fffd}"]);
}

#[test]
fn long_lines_are_cut_and_say_how_long_they_were() {
    // Around every size that matters: the chunk (64), the limit (100), several chunks.
    for len in [1, 63, 64, 65, 99, 100, 101, 127, 128, 129, 200, 1000, 5000] {
        for once in [false, true] {
            let mut world = World::with(0, small_chunks(once));
            let long: String = (0..len).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
            world.append("/log/a.log", format!("before\n{long}\nafter\n"));
            world.catch_up();
            let rows = world.rows();
            let lines: Vec<&str> = rows.iter().map(|row| &*row.line).collect();
            assert_eq!(lines, ["before", &long[..len.min(100)], "after"], "{len}");
            let cut = (len > 100).then_some(len as u64);
            assert_eq!(
                rows.iter().map(|row| row.cut).collect::<Vec<_>>(),
                [None, cut, None],
                "{len}"
            );
            world.check_files_are_in_order();
            assert_eq!(world.source().stats().cut_lines, u64::from(len > 100));
            // The position holds: nothing comes again.
            world.kill();
            world.catch_up();
            assert_eq!(world.rows().len(), 3);
        }
    }
}

#[test]
fn a_long_line_may_come_in_pieces_and_over_restarts() {
    let mut world = World::with(0, small_chunks(false));
    for piece in 0..10 {
        world.append("/log/a.log", "x".repeat(77));
        world.run(500);
        assert!(world.rows().is_empty());
        if piece % 3 == 0 {
            world.kill();
        }
    }
    world.append("/log/a.log", "\nnext\n");
    world.run(500);
    let rows = world.rows();
    assert_eq!(rows[0].cut, Some(770));
    assert_eq!(rows[1].line, "next");
    world.check_files_are_in_order();
}

#[test]
fn once_takes_a_long_rest() {
    let mut world = World::with(0, small_chunks(true));
    world.append("/log/a.log", format!("one\n{}", "y".repeat(300)));
    world.catch_up();
    let rows = world.rows();
    assert_eq!((rows[1].line.len(), rows[1].cut, rows[1].offset), (100, Some(300), 4));
}

#[test]
fn a_line_of_a_hundred_megabytes_costs_no_memory_and_stops_nobody() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/a.log", "first\n");
    world.append("/log/a.log", vec![b'z'; 20 << 20]);
    world.append("/log/a.log", "\nlast\n");
    world.append("/log/b.log", "other\n");
    world.run(1000);
    let rows = world.rows();
    let at = |line: &str| rows.iter().position(|row| row.line == line).expect("read");
    assert!(at("other") < at("last"), "the other file had its turn in between");
    let long = rows.iter().find(|row| row.cut.is_some()).expect("cut");
    assert_eq!((long.cut, long.line.len()), (Some(20 << 20), 128 << 10));
}

#[test]
fn zeros_before_a_line_are_passed_over() {
    // A writer that goes on at its old offset after a truncation leaves a hole. Runs below and above
    // a chunk; the first bytes too, since the file is known to be text.
    for zeros in [1usize, 63, 64, 65, 128, 1000, 10_000] {
        let mut world = World::with(0, small_chunks(false));
        world.append("/log/a.log", "one\n");
        world.run(1000);
        world.truncate("/log/a.log", 0);
        world.append("/log/a.log", [vec![0; zeros], b"two\nthree\n".to_vec()].concat());
        world.run(3000);
        let rows = world.rows();
        assert_eq!(world.lines(), ["one", "two", "three"], "{zeros}");
        assert_eq!(rows[1].offset, zeros as u64);
        assert_eq!(world.source().stats().zero_bytes, zeros as u64);
    }
}

#[test]
fn zeros_up_to_the_end_wait_until_they_are_overwritten() {
    for room in [10usize, 500, 5000] {
        for step in [9usize, 90] {
            let mut world = World::with(0, small_chunks(false));
            world.append("/log/a.log", "one\n");
            world.run(1000);
            // Reserved room, written into from its beginning.
            let path = std::path::Path::new("/log/a.log");
            use thalweg_core::disk::{Disk, DiskFile, Open};
            let file = world.hand.open(path, Open::Write).expect("is there");
            file.set_len(4 + room as u64).expect("room");
            world.run(1000);
            assert_eq!(world.lines(), ["one"]);
            let mut at = 4;
            let mut count = 1;
            while at + (step as u64) < 4 + room as u64 {
                let line = format!("{:>width$}\n", count, width = step - 1);
                thalweg_core::disk::write_all_at(&file, line.as_bytes(), at).expect("room");
                at += step as u64;
                count += 1;
                world.run(500);
                assert_eq!(world.lines().len(), count, "room {room}, step {step}");
            }
            world.check_files_are_in_order();
            // And behind the room.
            world.append("/log/a.log", "end\n");
            world.run(1000);
            assert_eq!(world.lines().last().map(String::as_str), Some("end"));
        }
    }
}

#[test]
fn once_leaves_zeros_at_the_end_alone() {
    let mut world = World::with(0, small_chunks(true));
    world.append("/log/a.log", "one\ntwo");
    world.catch_up();
    world.append("/log/a.log", vec![0; 10]);
    world.kill();
    world.catch_up();
    assert_eq!(world.lines(), ["one", "two"]);
    world.append("/log/a.log", "three\n");
    world.kill();
    world.catch_up();
    assert_eq!(world.lines(), ["one", "two", "three"]);
    assert_eq!(world.rows()[2].offset, 17);
}
