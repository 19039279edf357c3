//! `log_etl` follows files that grow and rotate, and is killed with SIGKILL again and again: in the
//! end no line is lost, none is doubled, and every minute was counted once.
//!
//! ```text
//! THALWEG_KILLS=50      kills of a run; 5 when not set
//! THALWEG_SEED=17       the run of this seed; 1 when not set
//! THALWEG_SOAK=3600     runs of one seed after the other for so many seconds
//! ```
//!
//! The seed decides what is written, how files rotate and when a kill is due; how far the program
//! has come by then is the machine's choice, which is the point of the test.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reference::compare::{self, demand};
use reference::output::{EventLine, Output, Place, changed, head, snapshot};
use reference::random::Random;
use reference::{Event, Stamp, lines, parse_line};
use rotating::{Signals, Written};
use running::{Folders, Run, Running};

mod reference;
mod rotating;
mod running;

#[test]
fn no_line_is_lost_or_doubled_over_kills() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = number("THALWEG_KILLS").unwrap_or(5);
    let soak = Duration::from_secs(number("THALWEG_SOAK").unwrap_or(0));
    let (first, begin) = (number("THALWEG_SEED").unwrap_or(1), Instant::now());
    for seed in first.. {
        let place = Folders::new();
        eprintln!("seed {seed}, {kills} kills, folder {}", place.root.display());
        let run = std::panic::AssertUnwindSafe(|| survive(&place, seed, kills));
        let outcome = std::panic::catch_unwind(run);
        place.keep_if(outcome.is_err());
        if let Err(failure) = outcome {
            eprintln!("again: THALWEG_SEED={seed} THALWEG_KILLS={kills}");
            std::panic::resume_unwind(failure);
        }
        if begin.elapsed() >= soak {
            return;
        }
    }
}

/// When a run is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after its start: inside the opening, the recovery, or the first commits.
    Early(Duration),
    /// When a file has just become visible in OUT.
    Rolled,
    /// While the rotator is at work.
    Rotating,
}

impl Moment {
    /// The first run is long enough for outputs to appear, and for a checkpoint to be made; then
    /// all kinds take turns.
    fn of(kill: u64, random: &mut Random) -> Self {
        match kill % 8 {
            0 => Self::Rolled,
            1 | 4 => Self::Early(Duration::from_micros(1 << (10 + random.below(12)))),
            2 | 6 => Self::Rotating,
            _ => Self::Early(Duration::from_millis(random.below(4000) as u64)),
        }
    }

    fn wait(self, run: &mut Running, place: &Folders, signals: &Signals) {
        match self {
            Self::Early(age) => {
                let begin = Instant::now();
                run.until("its time has come", || begin.elapsed() >= age);
            }
            Self::Rolled => {
                let before = names(place);
                run.until("a file appears in OUT", || names(place) != before);
            }
            Self::Rotating => {
                run.until_it_says("state: loaded");
                let before = signals.rotations.load(Ordering::Relaxed);
                run.until("a file rotates", || signals.rotations.load(Ordering::Relaxed) > before);
            }
        }
    }
}

fn names(place: &Folders) -> usize {
    let count = |folder: &str| match std::fs::read_dir(place.out.join(folder)) {
        Ok(entries) => entries
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|e| e == "ndjson"))
            .count(),
        Err(_) => 0,
    };
    ["events", "counts", "late", "latest"].into_iter().map(count).sum()
}

/// Ends the writer also when the test fails: its thread is waited for.
struct StopWriting<'a>(&'a Signals);

impl Drop for StopWriting<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn survive(place: &Folders, seed: u64, kills: u64) {
    let mut random = Random::new(seed);
    let level = if seed.is_multiple_of(2) { "os" } else { "disk" };
    let glob = place.logs.join("*.log*");
    let follow = |place: &Folders| -> Run {
        place.log_etl().args(&["--level", level, "--grace", "1m"]).arg(glob.clone())
    };
    let started = now_ms();
    // Lines are forty days old, so that no turn of a year lies between them and their file's time.
    let clock = started - 40 * 86_400_000;
    let signals = Signals::default();
    let mut checkpoints = 0;
    let mut committed = BTreeMap::new();

    let written = std::thread::scope(|scope| {
        let stop = StopWriting(&signals);
        let (mut theirs, folder, signals) = (random.split(), &place.logs, &signals);
        let writer = scope.spawn(move || rotating::write(folder, &mut theirs, clock, signals));
        for kill in 0..kills {
            let mut run = follow(place).start();
            let moment = Moment::of(kill, &mut random);
            moment.wait(&mut run, place, signals);
            let words = run.kill().words;
            // What was loaded here was saved by a run that had been killed.
            checkpoints += checkpoints_loaded(&words);
            let story = format!("seed {seed}, kill {kill} ({moment:?})");
            committed = check_committed(&story, place, &committed);
        }
        // The last run goes on until it has shown what it does, then it is asked to stop.
        let mut run = follow(place).start();
        run.until_it_says("files written");
        drop(stop);
        let written =
            writer.join().expect("the writer does not panic").expect("files can be written");
        let process = i32::try_from(run.id()).expect("process ids are small");
        kill_with(process, Signal::SIGTERM);
        let words = run.finish().expect(0).words;
        checkpoints += checkpoints_loaded(&words);
        written
    });
    let story = format!("seed {seed}, after SIGTERM");
    committed = check_committed(&story, place, &committed);

    follow(place).arg("--once").finish().expect(0);
    let story = format!("seed {seed}, at the end");
    check_committed(&story, place, &committed);
    let output = Output::read(&place.out).expect("OUT holds whole lines");
    let expected = expected(&written, &place.logs, started);
    demand(&format!("{story}: events"), &ids(&expected, &output.events));
    demand(&format!("{story}: counts"), &compare::conservation(&output));
    demand(&format!("{story}: latest"), &compare::latest(&output));
    eprintln!(
        "{} lines, {} events, {} late, {} rotations, {kills} kills, checkpoints loaded: {checkpoints}",
        written.len(),
        output.events.len(),
        output.late.len(),
        signals.rotations.load(Ordering::Relaxed),
    );
    assert!(checkpoints > 0, "{story}: no checkpoint was loaded, so none was tested");
}

fn kill_with(process: i32, signal: Signal) {
    kill(Pid::from_raw(process), signal).expect("a running child can be signalled");
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_millis()).expect("the clock is before the year 292 million")
}

/// What is committed stays as it is. That it is whole is seen at the end, where all of it is read.
#[track_caller]
fn check_committed(
    story: &str,
    place: &Folders,
    before: &BTreeMap<String, Vec<u8>>,
) -> BTreeMap<String, Vec<u8>> {
    let now = snapshot(&place.out).expect("OUT can be read");
    demand(&format!("{story}: committed files"), &changed(before, &now));
    now
}

/// From the line `state: loaded checkpoint of N tasks, replayed M records`; 0 when the run was
/// killed before it said so.
fn checkpoints_loaded(words: &str) -> u64 {
    let line = words.lines().find_map(|line| line.strip_prefix("state: loaded checkpoint of "));
    line.map_or(0, |rest| {
        let number = rest.split(' ').next().and_then(|n| n.parse().ok());
        number.expect("the line names a number of tasks")
    })
}

/// The events that the written lines are, by id.
fn expected(written: &[Written], folder: &Path, mtime: i64) -> BTreeMap<String, Event> {
    let mut events = BTreeMap::new();
    for line in written {
        let path = folder.join(format!("{}.log", line.stem)).to_string_lossy().into_owned();
        let whole = &lines::split(&line.bytes)[0];
        let Some(parsed) = parse_line(whole.bytes, &path, mtime) else { continue };
        let event = Event {
            file: path,
            offset: line.offset,
            stamp: parsed.stamp,
            program: parsed.program,
            severity: parsed.severity,
            message: parsed.message,
            cut: whole.cut,
            format: parsed.format,
        };
        let id = id(&event.message).expect("every line has an id");
        assert!(events.insert(id.to_owned(), event).is_none(), "ids are given out once");
    }
    events
}

fn id(message: &str) -> Option<&str> {
    let start = message.find("id=")?;
    message[start..].split([' ', '"', '\\']).next()
}

/// Every line once, in every field; its place may have any of the names that its file has had.
fn ids(expected: &BTreeMap<String, Event>, found: &[EventLine]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen: BTreeMap<&str, &EventLine> = BTreeMap::new();
    for line in found {
        let Some(event) = id(&line.message).and_then(|id| expected.get(id)) else {
            wrong.push(format!("not written: {:?} at {}", head(&line.message), line.at));
            continue;
        };
        let id = id(&line.message).unwrap_or_default();
        if let Some(first) = seen.insert(id, line) {
            wrong.push(format!(
                "doubled: {id} from {}:{} at {} and from {}:{} at {}",
                first.file, first.offset, first.at, line.file, line.offset, line.at
            ));
        }
        wrong.extend(compare::fields(event, line));
        let own = line.file == event.file || line.file.starts_with(&format!("{}.", event.file));
        if !own || line.offset != event.offset {
            wrong.push(format!(
                "{id} was written to {}:{}, but shown as {}:{} at {}",
                event.file, event.offset, line.file, line.offset, line.at
            ));
        }
    }
    let lost = expected.iter().filter(|(id, _)| !seen.contains_key(id.as_str()));
    wrong.extend(lost.map(|(id, event)| {
        let time = if event.stamp == Stamp::Append { "no time" } else { "a time" };
        format!("lost: {id}, written to {}:{}, a line with {time}", event.file, event.offset)
    }));
    wrong
}

/// The judge of the runs above is silent about what was written and speaks about each fault.
#[test]
fn a_lost_a_doubled_and_a_moved_line_are_noticed() {
    let line = |n: u64| Written {
        stem: "web",
        offset: 40 * n,
        bytes: format!("2024-01-01T00:00:00Z host sshd: ok id=web-{n:07} end").into_bytes(),
    };
    let written: Vec<Written> = (0..3).map(line).collect();
    let expected = expected(&written, Path::new("/l"), 0);
    let shown = |event: &Event| EventLine {
        file: "/l/web.log.2".into(),
        offset: event.offset,
        time: 1_704_067_200_000,
        program: "sshd".into(),
        severity: "info".into(),
        message: event.message.clone(),
        cut: false,
        at: Place("events/x.ndjson:1".into()),
    };
    let good: Vec<EventLine> = expected.values().map(shown).collect();
    assert_eq!(ids(&expected, &good), Vec::<String>::new());
    assert!(ids(&expected, &good[1..])[0].starts_with("lost: id=web-0000000"));
    assert!(
        ids(&expected, &[&good[..], &good[2..]].concat())[0].starts_with("doubled: id=web-0000002")
    );
    type Fault = (&'static str, fn(&mut EventLine));
    let faults: [Fault; 5] = [
        ("not written", |line| line.message = "id=web-0000009".into()),
        ("message of", |line| line.message.push('!')),
        ("time of", |line| line.time += 1),
        ("was written to", |line| line.offset += 1),
        ("was written to", |line| line.file = "/l/webber.log".into()),
    ];
    for (sentence, fault) in faults {
        let mut lines = good.clone();
        fault(&mut lines[0]);
        let wrong = ids(&expected, &lines);
        let message = wrong.iter().any(|w| w.contains(sentence));
        assert!(message, "{sentence:?} not among {wrong:#?}");
    }
}
