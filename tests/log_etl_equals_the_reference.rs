//! `log_etl --once` over generated folders writes what an independent reference says, line by line;
//! run again it goes on where it was; misuse is refused with what to do.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;

use reference::compare::{self, Origin, demand};
use reference::generate::{self, Made, set_mtime};
use reference::output::{EventLine, Output, changed, snapshot};
use reference::random::Random;
use reference::{Event, FileInput, Stamp, events, events_from, time};
use running::{Folders, Run};

mod reference;
mod running;

/// Generated files in the place's folder of logs.
fn write_files(place: &Folders, made: &[Made]) -> Vec<FileInput> {
    made.iter().map(|m| m.write(&place.logs).expect("the test's folder can be written")).collect()
}

fn once(place: &Folders, options: &[&str]) -> Run {
    place.log_etl().arg("--once").args(options).arg(&place.logs)
}

fn read(place: &Folders) -> Output {
    Output::read(&place.out).expect("OUT holds whole lines")
}

/// All that must hold of a first `--once`, and of its events against the reference.
#[track_caller]
fn check_first(story: &str, expected: &[Event], output: &Output) {
    demand(&format!("{story}: events"), &compare::events(expected, &output.events));
    demand(&format!("{story}: counts"), &compare::conservation(output));
    demand(&format!("{story}: latest"), &compare::latest(output));
    demand(&format!("{story}: late"), &compare::late(&[].into(), &[].into(), &output.late));
}

/// Tried: seeds x levels x partitions x threads; files of every format, twins, long lines, lines of
/// the years 1 and 9999, bad bytes, files that must be skipped.
#[test]
fn every_line_becomes_its_event_exactly_once() {
    let cases: [(u64, usize, &[&str]); 4] = [
        (0, 4000, &["--level", "os"]),
        (1, 2000, &["--level", "disk"]),
        (2, 2000, &["--level", "os", "--partitions", "1", "--grace", "1m"]),
        (3, 2000, &["--level", "disk", "--partitions", "7", "--threads", "3"]),
    ];
    for (seed, lines, options) in cases {
        let place = Folders::new();
        let files = write_files(&place, &generate::files(seed, lines));
        once(&place, options).finish().expect(0);
        check_first(&format!("seed {seed}, {options:?}"), &events(&files), &read(&place));
    }
}

/// Tried: binary and compressed files, an unreadable one, a named pipe, a path that leads nowhere;
/// folders below the folder are not inputs at all.
#[test]
fn skipped_inputs_are_named_and_the_rest_is_read() {
    let place = Folders::new();
    let mut files = write_files(&place, &generate::files(5, 300));
    let skipped = generate::skipped(generate::noon(5));
    write_files(&place, &skipped);
    let below = place.logs.join("below.log");
    fs::create_dir(&below).expect("the folder is new");
    fs::write(below.join("inner.log"), "not read\n").expect("the folder is new");
    let secret = place.logs.join("secret.log");
    fs::write(&secret, "warn: readable only by root\n").expect("the folder is new");
    set_mode_0(&secret);
    let readable = File::open(&secret).is_ok(); // The superuser reads everything.
    if readable {
        files.push(FileInput {
            path: secret.to_string_lossy().into_owned(),
            bytes: fs::read(&secret).expect("it was just opened"),
            mtime: 0,
        });
    }
    // Nobody writes to it: whoever opens it waits for ever.
    nix::unistd::mkfifo(&place.logs.join("pipe.log"), nix::sys::stat::Mode::S_IRWXU)
        .expect("the name is new");
    let nowhere = place.root.join("nowhere.log");
    std::os::unix::fs::symlink("/does/not/exist", &nowhere).expect("the name is new");

    let run = once(&place, &["--level", "os"]).arg(&nowhere).finish().expect(3);
    let names: Vec<&str> = skipped.iter().map(|m| m.name.as_str()).collect();
    let run = run.says(&names).says(&["nowhere.log"]);
    if !readable {
        run.says(&["secret.log"]);
    }
    check_first("with skipped inputs", &events(&files), &read(&place));
}

/// Tried: a file named twice, by folder, glob and relative path; a glob over OUT and DATA
/// themselves.
#[test]
fn a_file_named_twice_is_read_once_and_own_folders_never() {
    let place = Folders::new();
    let files = write_files(&place, &generate::files(6, 300));
    once(&place, &["--level", "os"])
        .args(&["logs/*.log", "logs/syslog", "./logs"])
        .finish()
        .expect(0);
    check_first("paths that overlap", &events(&files), &read(&place));

    let before = snapshot(&place.out).expect("OUT can be read");
    let own = ["out/events/*.ndjson", "out/*/*", "data/*", "data/log/*/*"];
    once(&place, &["--level", "os"]).args(&own).finish();
    let after = snapshot(&place.out).expect("OUT can be read");
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
}

/// The window's end behind which a task of this line's time was closed at the end of input.
fn window_end(ms: i64) -> i64 {
    time::window_start(ms) + 60_000
}

/// A line that the clock of no machine has reached. Such lines move no time.
const FAR: i64 = 200_000_000_000_000;

/// Text that is appended for the second run: behind, at and before the closed minutes.
fn second_lines(random: &mut Random, first: &[Event], closed: i64) -> Vec<u8> {
    let mut text = String::new();
    for n in 0..400 {
        let old = &first[random.below(first.len())];
        let (program, word) = (&old.program, old.severity.name());
        let at = match (old.stamp, n % 4) {
            (Stamp::At(ms), 0 | 1) => ms,
            (_, 2) => closed + random.between(-60_000, 60_000),
            _ => closed + random.between(0, 600_000),
        };
        let at = match n {
            0 => closed - 1,
            1 => closed,
            _ => at,
        };
        let program = if n % 5 == 4 { "newcomer" } else { program };
        if !program.contains([' ', '[', ':']) {
            text += &format!("{} h {program}[9]: {word} again {n}\n", time::show(at));
        }
        if n % 40 == 7 {
            text += &format!("{word} without a time {n}\n");
        }
    }
    text.into_bytes()
}

/// Tried: lines appended after a completed run, older, at the edge of, and newer than what was
/// closed, with one task (then the reference knows the edge) and with several (then it knows it per
/// key).
#[test]
fn late_lines_are_those_whose_minute_was_closed() {
    for (seed, partitions) in [(1, "1"), (3, "4")] {
        let place = Folders::new();
        let made = generate::files(seed, 900);
        let mut files = write_files(&place, &made);
        let options = ["--level", "os", "--partitions", partitions];
        once(&place, &options).finish().expect(0);
        let first = events(&files);
        let story = format!("seed {seed}, {partitions} partitions");
        check_first(&format!("{story}, first run"), &first, &read(&place));
        let committed = snapshot(&place.out).expect("OUT can be read");

        let closed = first.iter().filter_map(time_of).filter(|t| *t < FAR).map(window_end);
        let closed = closed.max().expect("generated lines have times");
        let mut random = Random::new(seed);
        let mut expected = first.clone();
        let mut second = Vec::new();
        for (file, made) in files.iter_mut().zip(&made) {
            if made.name == "long.log" || made.name == "twin.log" {
                continue;
            }
            let start = file.bytes.len();
            file.bytes.extend(second_lines(&mut random, &first, closed));
            file.mtime += 60_000;
            append(file, start);
            second.extend(events_from(file, start));
        }
        expected.extend(second.iter().cloned());

        // Without --partitions the topic stays as it was created.
        once(&place, &options[..2]).finish().expect(0);
        let output = read(&place);
        demand(&format!("{story}: events"), &compare::events(&expected, &output.events));
        demand(&format!("{story}: counts"), &compare::conservation(&output));
        demand(&format!("{story}: latest"), &compare::latest(&output));
        let (must, may) = lateness(&first, &second, closed, partitions == "1", &output.events);
        assert!(must.len() > 300, "{story}: only {} lines are late for certain", must.len());
        demand(&format!("{story}: late"), &compare::late(&must, &may, &output.late));
        let now = snapshot(&place.out).expect("OUT can be read");
        demand(&format!("{story}: files of the first run"), &changed(&committed, &now));

        once(&place, &options).finish().expect(0);
        let third = snapshot(&place.out).expect("OUT can be read");
        demand(&format!("{story}: a run without new lines"), &changed(&third, &now));
        demand(&format!("{story}: a run without new lines"), &changed(&now, &third));
    }
}

fn time_of(event: &Event) -> Option<i64> {
    match event.stamp {
        Stamp::At(ms) => Some(ms),
        Stamp::Append => None,
    }
}

fn append(file: &FileInput, start: usize) {
    let path = std::path::Path::new(&file.path);
    let mut on_disk = File::options().append(true).open(path).expect("the test wrote this file");
    on_disk.write_all(&file.bytes[start..]).expect("the test's folder can be written");
    set_mtime(path, file.mtime).expect("the test wrote this file");
}

/// Which lines of the second run must be late, and which may.
///
/// Minutes are closed per task: up to `closed` when there is one task. With several, at least up to
/// the last minute of the line's own key, at most up to `closed`. A minute that was emitted ahead
/// of the clock, or from raw lines, was remembered by itself: its key must not be emitted again.
fn lateness(
    first: &[Event],
    second: &[Event],
    closed: i64,
    one_task: bool,
    found: &[EventLine],
) -> (BTreeSet<Origin>, BTreeSet<Origin>) {
    let (mut must, mut may) = (BTreeSet::new(), BTreeSet::new());
    for event in second {
        let origin = (event.file.clone(), event.offset);
        let Some(at) = time_of(event) else {
            may.insert(origin);
            continue;
        };
        let same_key = |e: &&Event| e.program == event.program && e.severity == event.severity;
        let own = first.iter().filter(same_key).filter_map(time_of);
        let emitted = own.clone().any(|t| time::window_start(t) == time::window_start(at));
        let own_end = own.filter(|t| *t < FAR).map(window_end).max();
        let certain = if one_task { Some(closed) } else { own_end };
        if emitted || certain.is_some_and(|end| window_end(at) <= end) {
            must.insert(origin);
        } else if at >= FAR || (!one_task && window_end(at) <= closed) {
            may.insert(origin);
        }
    }
    let known: BTreeSet<Origin> = found.iter().map(|e| (e.file.clone(), e.offset)).collect();
    assert!(must.is_subset(&known), "every late line is an event");
    (must, may)
}

/// Tried: a line without its newline, taken by `--once`, goes on afterwards.
#[test]
fn what_follows_a_line_taken_without_its_end_is_a_line_of_its_own() {
    let place = Folders::new();
    let path = place.logs.join("half.log");
    let mut file =
        FileInput { path: path.to_string_lossy().into_owned(), bytes: Vec::new(), mtime: 0 };
    let mut expected = Vec::new();
    for (n, part) in ["first\nsecond has no e", "nd\nwarn third", "\nfourth\r\n"].iter().enumerate()
    {
        let start = file.bytes.len();
        file.bytes.extend_from_slice(part.as_bytes());
        file.mtime = generate::noon(1) + n as i64;
        File::options().create(true).append(true).open(&path).expect("the folder can be written");
        append(&file, start);
        once(&place, &["--level", "os"]).finish().expect(0);
        expected.extend(events_from(&file, start));
        let output = read(&place);
        demand(&format!("after part {n}"), &compare::events(&expected, &output.events));
        demand(&format!("after part {n}"), &compare::conservation(&output));
    }
}

#[test]
fn another_number_of_partitions_is_refused() {
    let place = Folders::new();
    write_files(&place, &generate::files(1, 100));
    once(&place, &["--level", "os", "--partitions", "3"]).finish().expect(0);
    let before = snapshot(&place.out).expect("OUT can be read");
    let refused = once(&place, &["--level", "os", "--partitions", "8"]).finish().expect(1);
    refused.says(&["partitions", "3", "8", "logs.raw"]);
    once(&place, &["--level", "os", "--partitions", "3"]).finish().expect(0);
    assert_eq!(before, snapshot(&place.out).expect("OUT can be read"));
}

#[test]
fn another_log_on_the_same_out_is_refused() {
    let place = Folders::new();
    write_files(&place, &generate::files(2, 100));
    once(&place, &["--level", "os"]).finish().expect(0);
    let before = snapshot(&place.out).expect("OUT can be read");
    let other = Run::new(&place.root).args(&["--data", "other-data", "--out"]).arg(&place.out);
    let refused = other.args(&["--once", "--level", "os", "logs"]).finish().expect(1);
    refused.says(&[&place.out.to_string_lossy()]);
    assert_eq!(before, snapshot(&place.out).expect("OUT can be read"));
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let place = Folders::new();
    write_files(&place, &generate::files(2, 100));
    let mut first = place.log_etl().args(&["--level", "os"]).arg(&place.logs).start();
    first.until_it_says("state: loaded");
    let refused = once(&place, &["--level", "os"]).finish().expect(1);
    refused.says(&[&place.data.to_string_lossy()]);
    first.kill();
}

/// Tried: each way to call the program wrongly; nothing is made on disk.
#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let cases: [(&[&str], &str); 7] = [
        (&["--level", "paper", "logs"], "paper"),
        (&["--grace", "soon", "logs"], "soon"),
        (&["--grace=-5s", "logs"], "-5s"),
        (&["--partitions", "0", "logs"], "partitions"),
        (&["--threads", "0", "logs"], "threads"),
        (&["--unknown", "logs"], "--unknown"),
        (&["--data"], "--data"),
    ];
    for (arguments, part) in cases {
        let place = Folders::new();
        Run::new(&place.root).arg("--once").args(arguments).finish().expect(2).says(&[part]);
        for default in ["thalweg-data", "thalweg-out"] {
            assert!(!place.root.join(default).exists(), "{arguments:?} made {default}");
        }
    }
}

fn set_mode_0(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let nobody = fs::Permissions::from_mode(0o000);
    fs::set_permissions(path, nobody).expect("the test owns this file");
}
