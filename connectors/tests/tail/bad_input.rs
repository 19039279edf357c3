//! Inputs that cannot be read: each named once per change, counted, and the rest goes on.

use std::path::Path;

use thalweg_connectors::file::{FileSource, FileSourceConfig, NoticeLevel};
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::{Call, Failure, SimDisk};

use crate::world::{World, config, numbered};

#[test]
fn missing_paths_are_named_once_and_found_when_they_come() {
    let mut world = World::new(&["/log/a.log", "/log/none", "/log/*.x"]);
    world.append("/log/a.log", "one\n");
    world.run(5000);
    let named: Vec<String> =
        world.notices().into_iter().map(|n| n.path.display().to_string()).collect();
    assert_eq!(named, ["/log/none", "/log/*.x"]);
    assert_eq!(world.source().skipped(), 2);
    world.append("/log/none", "two\n");
    world.append("/log/1.x", "three\n");
    world.run(2000);
    assert_eq!(world.source().skipped(), 0);
    assert_eq!(world.sorted(), ["one", "three", "two"]);
    world.remove("/log/none");
    world.run(2000);
    let again = world.said_of("/log/none");
    assert!(again.iter().any(|what| what.contains("does not exist")), "{again:?}");
}

#[test]
fn binary_and_compressed_files_are_named_and_not_read() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/gz", b"\x1f\x8b\x08\x00 more\nlines\n");
    world.append("/log/nul", b"text\nwith a \0 in it\n");
    world.append("/log/late-nul", [numbered("x", 0, 300, 40).as_bytes(), b"\0\n"].concat());
    world.append("/log/text", "one\n");
    world.run(5000);
    assert_eq!(world.source().skipped(), 2);
    let notices = world.notices();
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices.iter().all(|n| n.level == NoticeLevel::Warning));
    assert_eq!(world.lines().len(), 302, "a NUL behind the first 8 KiB does not count");
    world.append("/log/gz", "more\n");
    world.run(3000);
    assert!(world.notices().is_empty(), "named once");
    assert_eq!(world.source().stats().lag_bytes, 0, "nobody is waiting for these");
}

#[test]
fn unreadable_files_are_named_once_and_tried_again() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/a.log", numbered("a", 0, 1000, 40));
    world.append("/log/b.log", "b\n");
    world.disk.fail_reads(Path::new("/log/a.log"), 20_000..30_000).expect("is there");
    world.config.chunk = 1024;
    world.kill();
    world.run(10_000);
    let read = world.lines().len();
    assert!(read > 300 && read < 501, "the bytes before the bad ones are read: {read}");
    assert!(world.lines().contains(&"b".to_owned()));
    assert_eq!(world.source().skipped(), 1);
    let said = world.said_of("/log/a.log");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("at byte"), "{said:?}");
    assert!(world.restarts < 3);
    world.disk.heal();
    world.run(3000);
    assert_eq!(world.lines().len(), 1001);
    assert_eq!(world.source().skipped(), 0);
    world.check_files_are_in_order();
}

#[test]
fn files_that_cannot_be_opened_are_named_once_and_do_not_stop_the_rest() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/a.log", "a\n");
    world.append("/log/b.log", "b\n");
    world.disk.fail_on(Call::Open, Failure::Io, 8, |path| path.ends_with("a.log"));
    world.run(5000);
    assert_eq!(world.lines(), ["b"]);
    assert_eq!(world.said_of("/log/a.log").len(), 1);
    assert_eq!(world.source().skipped(), 1);
    world.run(8000);
    assert_eq!(world.sorted(), ["a", "b"]);
    assert_eq!(world.source().skipped(), 0);
}

#[test]
fn once_ends_although_an_input_cannot_be_read() {
    let mut world = World::with(0, FileSourceConfig { once: true, ..config(&["/log/*", "/none"]) });
    world.append("/log/a.log", "a\n");
    world.append("/log/b.log", "b\n");
    world.append("/log/gz", b"\x1f\x8b\x08\x00");
    world.disk.fail_on(Call::Open, Failure::Io, 1000, |path| path.ends_with("a.log"));
    world.catch_up();
    assert_eq!(world.poll().expect("polls"), thalweg_connectors::source::Polled::End);
    assert_eq!(world.lines(), ["b"]);
    assert_eq!(world.source().skipped(), 3);
    assert_eq!(world.notices().len(), 3);
}

#[test]
fn too_many_open_files_of_others_are_waited_out() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/a.log", "a\n");
    world.disk.fail_on(Call::Open, Failure::NoHandles, 5, |_| true);
    world.run(3000);
    assert_eq!(world.lines(), ["a"]);
    assert!(world.notices().is_empty());
}

#[test]
fn folders_are_their_files_and_globs_name_folders() {
    let mut world = World::new(&["/log", "/log/sub*", "/log/deep/**/x-*.log"]);
    for dir in ["/log/sub.log", "/log/deep", "/log/deep/1", "/log/deep/1/2"] {
        world.hand.create_dir(Path::new(dir)).expect("new");
    }
    world.append("/log/a.log", "a\n");
    world.append("/log/sub.log/not.log", "not\n");
    world.append("/log/deep/x-0.log", "x0\n");
    world.append("/log/deep/1/2/x-2.log", "x2\n");
    world.append("/log/deep/1/2/y.log", "not\n");
    world.run(3000);
    assert_eq!(world.sorted(), ["a", "x0", "x2"]);
    let said = world.said_of("/log/sub.log");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(world.source().skipped(), 0);
}

#[test]
fn the_programs_own_folders_are_never_read() {
    let excluded = vec!["/log/data".into(), "/log/out".into()];
    let paths = ["/log/**/*.log", "/log/data/log/*.log", "/log/out/x.log", "/log/linked.log"];
    let mut world = World::with(0, FileSourceConfig { excluded, ..config(&paths) });
    for dir in ["/log/data", "/log/data/log", "/log/out", "/log/mine"] {
        world.hand.create_dir(Path::new(dir)).expect("new");
    }
    world.append("/log/data/log/0.log", "own\n");
    world.append("/log/out/x.log", "own\n");
    world.append("/log/mine/a.log", "mine\n");
    world.hand.symlink(Path::new("/log/data"), Path::new("/log/mine/link")).expect("new");
    world.hand.symlink(Path::new("/log/out/x.log"), Path::new("/log/linked.log")).expect("new");
    world.run(3000);
    assert_eq!(world.lines(), ["mine"]);
    let said = world.said_of("/log/out/x.log");
    assert_eq!(said.len(), 1, "it was asked for by name: {said:?}");
}

#[test]
fn links_in_a_circle_end() {
    let mut world = World::new(&["/log/**/*.log"]);
    world.hand.create_dir(Path::new("/log/a")).expect("new");
    world.hand.symlink(Path::new("/log"), Path::new("/log/a/up")).expect("new");
    world.append("/log/a/1.log", "one\n");
    world.run(1000);
    assert_eq!(world.lines(), ["one"]);
}

#[test]
fn a_file_that_cannot_be_made_durable_is_left_alone_and_the_others_go_on() {
    let mut world = World::new(&["/log/*"]);
    world.append("/log/a.log", "a\n");
    world.append("/log/b.log", "b\n");
    world.disk.fail_on(Call::SyncData, Failure::Io, 1, |path| path.ends_with("a.log"));
    world.run(5000);
    assert_eq!(world.lines(), ["b"]);
    assert_eq!(world.restarts, 1);
    assert_eq!(world.source().skipped(), 1);
    world.run(10_000);
    assert_eq!(world.sorted(), ["a", "b"]);
    assert_eq!(world.source().skipped(), 0);
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let base = || config(&["/log"]);
    let cases = [
        (FileSourceConfig { chunk: 1, ..base() }, "chunk"),
        (FileSourceConfig { line_limit: 0, ..base() }, "line_limit"),
        (FileSourceConfig { max_open: 0, ..base() }, "max_open"),
        (FileSourceConfig { paths: Vec::new(), ..base() }, "path"),
        (config(&["/log/[x"]), "/log/[x"),
    ];
    for (config, name) in cases {
        let refused = FileSource::new(SimDisk::new(0), config, || 0).err().expect(name).to_string();
        assert!(refused.contains(name), "{refused}");
    }
}

#[test]
fn cut_lines_are_told_once_per_file_and_counted() {
    let mut world = World::new(&["/log/*"]);
    world.config.line_limit = 100;
    world.kill();
    let long = format!("{}\n", "x".repeat(250));
    world.append("/log/a.log", ["short\n", &long, &long].concat());
    world.append("/log/b.log", &long);
    world.run(1000);
    assert_eq!(world.source().stats().cut_lines, 3);
    let said = world.said_of("/log/a.log");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("byte 6 is 250 bytes long: cut to 100"), "{said:?}");
}

#[test]
fn a_source_that_reads_only_once_does_not_say_that_it_waits() {
    let settings = FileSourceConfig { once: true, ..config(&["/log/none", "/log/*.x"]) };
    let mut world = World::with(0, settings);
    world.catch_up();
    let said: Vec<String> = world.notices().into_iter().map(|n| n.what).collect();
    assert_eq!(said, ["does not exist; left out", "no file is named so; left out"]);
    assert_eq!(world.source().skipped(), 2);
}
