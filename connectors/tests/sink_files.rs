//! The folder OUT: who may use it, what people do to it, and what it looks like.
#![expect(clippy::disallowed_methods, reason = "the last test looks at real files")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::FakeLog;
use common::files::{
    GROUP, OUT, config, finals, lines_in_order, open, open_with, run, temporaries,
};
use futures::executor::block_on;
use thalweg_connectors::error::Error;
use thalweg_connectors::files::{FileSink, FileSinkConfig};
use thalweg_connectors::run::Step;
use thalweg_connectors::sink::{Resume, Sink};
use thalweg_core::batch::BatchBuilder;
use thalweg_core::client::log::{Ack, FetchFrom, FetchOptions, Isolation, Log};
use thalweg_core::config::Compression;
use thalweg_core::disk::real::RealDisk;
use thalweg_core::disk::sim::{Call, Failure, SimDisk};
use thalweg_core::disk::{Disk, DiskFile, Open, write_all_at};
use thalweg_core::ids::{ProducerIdentity, TopicPartition};
use thalweg_core::record::WATERMARK_HEADER;

fn log() -> FakeLog {
    let log = FakeLog::new();
    log.create("events", 2);
    log.create("counts", 1);
    log
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new(OUT).join(name)
}

/// The only finished file.
fn only_file(disk: &SimDisk) -> String {
    let files = finals(disk);
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_keys().next().expect("one file")
}

fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("refused").to_string()
}

#[test]
fn a_second_run_on_the_same_folder_is_refused_while_the_first_lives() {
    let (disk, log) = (SimDisk::new(1), log());
    let first = open(&disk, &log, 1).expect("free");
    let refused = open(&disk, &log, 2).err().expect("in use");
    assert!(
        matches!(&refused, Error::Log(thalweg_core::Error::InUse { path, .. }) if path == Path::new(OUT)),
        "{refused}"
    );
    assert!(refused.to_string().contains("close it there, or open another folder"), "{refused}");
    drop(first);
    open(&disk, &log, 3).expect("free again");
}

#[test]
fn a_folder_of_another_log_is_refused_with_what_to_do() {
    let disk = SimDisk::new(1);
    run(&disk, &log(), 1).expect("a new folder");
    let other = FakeLog::with_id(2);
    let refused = message(FileSink::claim(disk.clone(), config(), other.id(), 2));
    for part in ["/out", &log().id().to_string(), &other.id().to_string(), "empty folder"] {
        assert!(refused.contains(part), "{refused:?} names {part}");
    }
    // A note that cannot be read is no permission either.
    let note = disk.open(&path(".log-id"), Open::Write).expect("there");
    note.set_len(3).expect("cut");
    let refused = message(FileSink::claim(disk, config(), log().id(), 3));
    assert!(refused.contains("/out/.log-id"), "{refused}");
}

#[test]
fn finished_files_that_people_remove_are_missed_with_a_warning_and_not_written_again() {
    let (disk, log) = (SimDisk::new(1), log());
    log.produce("events", 0, &["a", "b"]);
    run(&disk, &log, 1).expect("done");
    disk.remove(&path(&only_file(&disk))).expect("people may");

    log.produce("events", 0, &["c"]);
    let mut runner = open(&disk, &log, 2).expect("goes on");
    assert_eq!(runner.sink().stats().files_missing, 1);
    block_on(runner.finish()).expect("done");
    let files = finals(&disk);
    assert_eq!(only_file(&disk), "events/events-0-00000000000000000002.ndjson");
    assert!(files.values().eq(["c\n"]), "{files:?}");
}

#[test]
fn a_finished_file_that_was_changed_stops_the_sink_and_is_named() {
    let (disk, log) = (SimDisk::new(1), log());
    log.produce("events", 0, &["a", "b"]);
    run(&disk, &log, 1).expect("done");
    let name = only_file(&disk);
    let file = disk.open(&path(&name), Open::Write).expect("there");
    write_all_at(&file, b"X", 0).expect("people may");
    let refused = message(open(&disk, &log, 2));
    assert!(refused.contains(&name) && refused.contains("Move it"), "{refused}");
    // The way out it names leads on.
    disk.rename(&path(&name), Path::new("/elsewhere")).expect("moved");
    run(&disk, &log, 3).expect("goes on");
}

#[test]
fn somebody_elses_file_under_our_name_is_never_replaced() {
    let (disk, log) = (SimDisk::new(1), log());
    log.produce("events", 0, &["a"]);
    let mut runner = open(&disk, &log, 1).expect("a new folder");
    assert_eq!(block_on(runner.step()).expect("read"), Step::Worked);
    let name = "events/events-0-00000000000000000000.ndjson";
    let file = disk.open(&path(name), Open::CreateNew).expect("free");
    write_all_at(&file, b"theirs\n", 0).expect("written");
    let refused = message(block_on(runner.finish()));
    assert!(refused.contains(name), "{refused}");
    assert_eq!(finals(&disk)[name], "theirs\n");

    drop(runner);
    disk.rename(&path(name), Path::new("/elsewhere")).expect("moved");
    run(&disk, &log, 2).expect("the committed file is finished now");
    assert_eq!(finals(&disk)[name], "a\n");
}

#[test]
fn a_lost_position_is_told_and_nothing_is_written_twice() {
    let (disk, log) = (SimDisk::new(1), log());
    log.produce("events", 0, &["a", "b"]);
    run(&disk, &log, 1).expect("done");
    let name = only_file(&disk);
    log.forget_group(GROUP);
    let refused = message(open(&disk, &log, 2));
    for part in [&name, "no position", "bring back", "move"] {
        assert!(refused.contains(part), "{refused:?} names {part}");
    }
    // The second way out.
    disk.rename(&path(&name), Path::new("/elsewhere")).expect("moved");
    run(&disk, &log, 3).expect("from the first record on");
    assert_eq!(finals(&disk)[&name], "a\nb\n");
}

#[test]
fn a_position_that_went_back_behind_finished_files_is_told() {
    let (disk, log) = (SimDisk::new(1), log());
    log.produce("events", 0, &["a", "b"]);
    run(&disk, &log, 1).expect("done");
    let early = log.committed(GROUP, "events", 0).expect("committed");
    log.produce("events", 0, &["c"]);
    run(&disk, &log, 2).expect("done");
    let member = block_on(log.join_group(GROUP)).expect("joined");
    block_on(log.commit_offsets(&member, &[early])).expect("set back");
    let refused = message(open(&disk, &log, 3));
    assert!(refused.contains("events-0-00000000000000000002.ndjson"), "{refused}");
    assert!(refused.contains("position is 2"), "{refused}");
}

#[test]
fn files_roll_by_size_and_by_age_and_never_empty() {
    let (disk, log) = (SimDisk::new(1), log());
    let config = FileSinkConfig { roll_bytes: 100, roll_age: Duration::from_secs(10), ..config() };
    let mut runner = open_with(&disk, &log, config, 1).expect("a new folder");
    let mut idle = |what: &str| {
        while block_on(runner.step()).expect(what) == Step::Worked {}
        finals(&disk).len()
    };
    assert_eq!(idle("nothing to read"), 0);
    log.advance(Duration::from_secs(60));
    assert_eq!(idle("an empty roll makes no file"), 0);

    log.produce("events", 0, &["young"]);
    assert_eq!(idle("too young"), 0);
    log.advance(Duration::from_secs(9));
    assert_eq!(idle("still too young"), 0);
    log.advance(Duration::from_secs(1));
    assert_eq!(idle("old enough"), 1);

    log.produce("events", 0, &[&"x".repeat(99)]);
    assert_eq!(idle("large enough"), 2);
    log.produce("events", 0, &["after"]);
    assert_eq!(idle("too small"), 2);
    assert_eq!(temporaries(&disk).len(), 1);
    block_on(runner.roll()).expect("stop");
    assert_eq!(finals(&disk).len(), 3);
    assert_eq!(runner.sink().stats().files_finished, 3);
    assert_eq!(runner.sink().stats().records, 3);
    let lines = lines_in_order(&finals(&disk), "events", "events", 0);
    assert_eq!(lines, ["young", &"x".repeat(99), "after"]);
}

#[test]
fn a_clock_that_is_set_back_does_not_keep_a_file_open_for_ever() {
    let (disk, log) = (SimDisk::new(1), log());
    let config = FileSinkConfig { roll_age: Duration::from_secs(10), ..config() };
    let mut sink = FileSink::claim(disk, config, log.id(), 1).expect("a new folder");
    let at = TopicPartition::new("events", 0);
    block_on(sink.open(&[(at.clone(), Resume::First(0))])).expect("nothing to finish");
    assert!(!sink.due(1_000_000), "nothing is open");
    log.produce("events", 0, &["a"]);
    let from = FetchFrom { at, offset: 0, max_bytes: 1000 };
    let options = FetchOptions {
        isolation: Isolation::ReadCommitted,
        max_wait: Duration::ZERO,
        max_bytes: 0,
    };
    let answers = block_on(log.fetch(&[from], options)).expect("readable");
    block_on(sink.write(&answers[0])).expect("written");
    let asked = [(1_000_000, false), (1_009_000, false), (500_000, false), (509_999, false)];
    for (now, due) in asked {
        assert_eq!(sink.due(now), due, "at {now}");
    }
    assert!(sink.due(510_000), "ten seconds after the clock was set back");
}

#[test]
fn topics_may_share_a_folder_and_names_stay_apart() {
    let (disk, log) = (SimDisk::new(1), log());
    log.produce("events", 0, &["e"]);
    log.produce("counts", 0, &["c"]);
    let config = FileSinkConfig::new(OUT, [("events", "all"), ("counts", "all")]);
    let mut runner = open_with(&disk, &log, config, 1).expect("a new folder");
    block_on(runner.finish()).expect("done");
    let names: Vec<_> = disk.list(&path("all")).expect("there");
    let names: Vec<_> = names.iter().map(|entry| entry.name.to_string_lossy()).collect();
    assert_eq!(
        names,
        ["counts-0-00000000000000000000.ndjson", "events-0-00000000000000000000.ndjson"]
    );
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let disk = SimDisk::new(1);
    let id = log().id();
    let bad = [
        FileSinkConfig::new(OUT, [("events", "../events")]),
        FileSinkConfig::new(OUT, [("events", ".tmp")]),
        FileSinkConfig::new(OUT, [("events", "")]),
        FileSinkConfig::new(OUT, [("no/topic", "events")]),
        FileSinkConfig { roll_bytes: 0, ..config() },
        FileSinkConfig { buffer_bytes: 0, ..config() },
    ];
    for config in bad {
        let refused = FileSink::claim(disk.clone(), config, id, 1).err().expect("refused");
        assert!(matches!(refused, Error::Log(thalweg_core::Error::Invalid { .. })), "{refused}");
    }
    let only_counts = FileSinkConfig::new(OUT, [("counts", "counts")]);
    let refused = message(open_with(&disk, &log(), only_counts, 1));
    assert!(refused.contains("\"events\" has no folder"), "{refused}");

    let long = "t".repeat(240);
    let log = FakeLog::new();
    log.create("events", 1);
    log.create("counts", 1);
    let config = FileSinkConfig::new(OUT, [(long.as_str(), "events")]);
    let mut sink = FileSink::claim(disk, config, log.id(), 1).expect("checked later");
    let parts = [(TopicPartition::new(long, 0), Resume::First(0))];
    let refused = message(block_on(sink.open(&parts)));
    assert!(refused.contains("at most 200 characters"), "{refused}");
}

#[test]
fn values_are_copied_byte_by_byte_and_what_is_no_users_record_makes_no_line() {
    let (disk, log) = (SimDisk::new(1), log());
    let mut builder = BatchBuilder::new(Compression::None, 1024);
    let mark: &[(&[u8], Option<&[u8]>)] = &[(WATERMARK_HEADER.as_bytes(), Some(b"1"))];
    let header: &[(&[u8], Option<&[u8]>)] = &[(b"file", None)];
    builder.push(0, Some(b"k"), Some("{\"ä\":\"\\u0000\"}".as_bytes()), header).expect("small");
    builder.push(0, Some(b"k"), None, &[]).expect("small");
    builder.push(0, None, Some(b""), mark).expect("small");
    builder.push(0, None, Some(b"last"), &[]).expect("small");
    let batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("not empty");
    block_on(log.append(&TopicPartition::new("events", 0), batch, None, Ack::Level))
        .expect("appended");
    let mut runner = open(&disk, &log, 1).expect("a new folder");
    block_on(runner.finish()).expect("done");
    assert!(finals(&disk).values().eq(["{\"ä\":\"\\u0000\"}\nlast\n"]), "{:?}", finals(&disk));
    assert_eq!(runner.sink().stats().without_value, 1);
    assert_eq!(log.committed(GROUP, "events", 0).expect("committed").offset, 4);
}

#[test]
fn a_full_disk_stops_reading_keeps_the_temporary_and_heals() {
    let (disk, log) = (SimDisk::new(1), log());
    for batch in 0..8 {
        let line = format!("{batch}{}", "x".repeat(4000));
        log.produce("events", 0, &[&line]);
    }
    let mut runner = open(&disk, &log, 1).expect("a new folder");
    disk.set_capacity(12 << 10);
    for _ in 0..20 {
        block_on(runner.step()).expect("waits");
    }
    let stuck = finals(&disk).len();
    let lag = block_on(runner.lag()).expect("known");
    assert!(lag > 0, "not everything can be read while nothing can be written");
    disk.set_capacity(1 << 30);
    block_on(runner.finish()).expect("there is room again");
    let lines = lines_in_order(&finals(&disk), "events", "events", 0);
    assert_eq!(lines, log.values("events", 0));
    assert!(finals(&disk).len() > stuck);
    assert_eq!(runner.stats().restarts, 0, "a full disk costs no restart");
}

#[test]
fn a_sync_that_fails_again_and_again_stops_the_sink() {
    let (disk, log) = (SimDisk::new(1), log());
    log.produce("events", 0, &["a"]);
    let mut runner = open(&disk, &log, 1).expect("a new folder");
    disk.fail_on(Call::SyncData, Failure::Io, u32::MAX, |path| path.starts_with("/out/.tmp"));
    let stopped = message(block_on(runner.finish()));
    assert!(stopped.contains("again and again") && stopped.contains("sync"), "{stopped}");
    assert!(finals(&disk).is_empty());
    assert_eq!(message(block_on(runner.step())), stopped, "and stays so");
}

#[test]
fn temporaries_of_others_are_left_alone() {
    let (disk, log) = (SimDisk::new(1), log());
    run(&disk, &log, 1).expect("a new folder");
    let theirs = [
        "notes.txt",
        "events-9-00000000000000000000.00000000000000ff",
        "other-0-00000000000000000000.00000000000000ff",
    ];
    let ours = "events-1-00000000000000000000.00000000000000ff";
    for name in theirs.iter().chain([&ours]) {
        disk.open(&path(".tmp").join(name), Open::CreateNew).expect("free");
    }
    let runner = open(&disk, &log, 2).expect("goes on");
    assert_eq!(runner.sink().stats().temporaries_removed, 1);
    let mut expected = theirs.map(str::to_owned);
    expected.sort();
    assert_eq!(temporaries(&disk), expected);
}

#[test]
fn real_files_are_written_as_simulated_ones() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("a/b/out");
    let log = log();
    for batch in 0..5 {
        log.produce("events", 1, &[&format!("line {batch}"), "{\"a\":1}"]);
    }
    let config = |out: &Path| FileSinkConfig {
        roll_bytes: 30,
        ..FileSinkConfig::new(out, [("events", "events"), ("counts", "counts")])
    };
    let mut runner = open_with(&RealDisk, &log, config(&out), 1).expect("a new folder");
    let refused = open_with(&RealDisk, &log, config(&out), 2).err().expect("in use");
    assert!(refused.to_string().contains("by process"), "{refused}");
    block_on(runner.finish()).expect("done");
    drop(runner);

    let mut files: Vec<_> = std::fs::read_dir(out.join("events"))
        .expect("there")
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    assert!(files.len() > 1, "it rolled");
    let text: String =
        files.iter().map(|path| std::fs::read_to_string(path).expect("text")).collect();
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines, log.values("events", 1));
    assert_eq!(std::fs::read_dir(out.join(".tmp")).expect("there").count(), 0);
    open_with(&RealDisk, &log, config(&out), 3).expect("tokens are found finished");
}
