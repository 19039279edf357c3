//! What was written beside what had to be: each check gives sentences, none when all is well.
//!
//! ```text
//! events    == the reference's events, line by line            (raw lines: any time)
//! late      are events; exactly those the caller says
//! counts    + late == events, in every (window, program, severity); each cell at most once
//! latest    ends, per program, at the greatest (time, file, offset) of events
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::output::{EventLine, Output, head};
use super::{Event, Stamp, folds, time};

/// A line's place in the inputs. Unique as long as no file was rotated.
pub(crate) type Origin = (String, u64);

/// `events` against the reference: every line once, equal in every field.
pub(crate) fn events(expected: &[Event], found: &[EventLine]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut open: BTreeMap<(&str, u64), &Event> =
        expected.iter().map(|e| ((e.file.as_str(), e.offset), e)).collect();
    if open.len() != expected.len() {
        wrong.push("the reference itself has two lines at one place".to_owned());
    }
    let mut seen: BTreeMap<(&str, u64), &EventLine> = BTreeMap::new();
    for line in found {
        let origin = (line.file.as_str(), line.offset);
        if let Some(first) = seen.insert(origin, line) {
            wrong.push(format!("doubled: {} at {} and {}", show(line), first.at, line.at));
        } else if let Some(event) = open.remove(&origin) {
            wrong.extend(fields(event, line));
        } else {
            wrong.push(format!("not expected: {} at {}", show(line), line.at));
        }
    }
    for event in open.into_values() {
        wrong.push(format!(
            "missing: {}:{} {:?} {} {:?} {:?}",
            event.file,
            event.offset,
            event.format,
            event.severity.name(),
            event.program,
            head(&event.message)
        ));
    }
    wrong
}

/// The fields in which a line differs from its event.
pub(crate) fn fields(event: &Event, line: &EventLine) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut field = |name: &str, expected: &str, found: &str| {
        if expected != found {
            wrong.push(format!(
                "{name} of {}:{} (read as {:?}, at {}): {}",
                event.file,
                event.offset,
                event.format,
                line.at,
                difference(expected, found)
            ));
        }
    };
    if let Stamp::At(at) = event.stamp {
        field("time", &time::show(at), &time::show(line.time));
    }
    field("program", &event.program, &line.program);
    field("severity", event.severity.name(), &line.severity);
    field("message", &event.message, &line.message);
    field("cut", &event.cut.to_string(), &line.cut.to_string());
    wrong
}

/// Where two texts part.
fn difference(expected: &str, found: &str) -> String {
    let same = expected.chars().zip(found.chars()).take_while(|(a, b)| a == b).count();
    if same < 40 {
        return format!("expected {:?}, found {:?}", head(expected), head(found));
    }
    let from = |text: &str| head(&text.chars().skip(same - 20).collect::<String>());
    let (expected, found) = (from(expected), from(found));
    format!("after {same} equal characters expected ..{expected:?}, found ..{found:?}")
}

/// What must hold after every run and every crash, once all windows are closed: `late` are events,
/// counts + late = events cell by cell, no cell twice.
pub(crate) fn conservation(output: &Output) -> Vec<String> {
    let mut wrong = late_are_events(output);
    let mut counted: BTreeMap<folds::Cell, u64> = BTreeMap::new();
    for line in &output.counts {
        let cell = (line.window_start, line.program.clone(), line.severity.clone());
        if line.window_start != time::window_start(line.window_start) {
            wrong.push(format!("{} is no start of a minute, at {}", cell_name(&cell), line.at));
        }
        if line.count == 0 {
            wrong.push(format!("{} has count 0, at {}", cell_name(&cell), line.at));
        }
        if counted.insert(cell.clone(), line.count).is_some() {
            wrong.push(format!("{} was emitted twice, again at {}", cell_name(&cell), line.at));
        }
    }
    let happened = folds::cells(&output.events);
    let late = folds::cells(&output.late);
    let all: BTreeSet<_> = happened.keys().chain(counted.keys()).chain(late.keys()).collect();
    for cell in all {
        let of = |cells: &BTreeMap<folds::Cell, u64>| cells.get(cell).copied().unwrap_or(0);
        let (events, counts, late) = (of(&happened), of(&counted), of(&late));
        if counts + late != events {
            wrong.push(format!(
                "{}: {events} events, but {counts} counted + {late} late",
                cell_name(cell)
            ));
        }
    }
    wrong
}

/// Every line of `late` is a line of `events`, field by field, and at most as often.
fn late_are_events(output: &Output) -> Vec<String> {
    let key = |line: &EventLine| (line.file.clone(), line.offset, line.message.clone());
    let mut events: BTreeMap<_, Vec<&EventLine>> = BTreeMap::new();
    for line in &output.events {
        events.entry(key(line)).or_default().push(line);
    }
    let mut wrong = Vec::new();
    for line in &output.late {
        let same = events.get_mut(&key(line)).map(|lines| {
            let n = lines.iter().position(|event| *event == line)?;
            Some(lines.swap_remove(n))
        });
        if same.flatten().is_none() {
            wrong.push(format!("late, but no such event: {} at {}", show(line), line.at));
        }
    }
    wrong
}

/// `late` against what the caller knows: it holds all of `must` and nothing outside `must` and
/// `may`.
pub(crate) fn late(
    must: &BTreeSet<Origin>,
    may: &BTreeSet<Origin>,
    late: &[EventLine],
) -> Vec<String> {
    let found: BTreeSet<Origin> = late.iter().map(|l| (l.file.clone(), l.offset)).collect();
    let missing = must.difference(&found).map(|(file, at)| format!("not in late: {file}:{at}"));
    let surplus = late.iter().filter(|line| {
        let origin = (line.file.clone(), line.offset);
        !must.contains(&origin) && !may.contains(&origin)
    });
    missing.chain(surplus.map(|line| format!("late without cause: {}", show(line)))).collect()
}

/// `latest` against the fold over `events`: each change shows an event, time never goes back, and
/// the last change shows the winner. Changes are keyed by program, so those of one program lie in one
/// partition, whose files have their order in their names.
pub(crate) fn latest(output: &Output) -> Vec<String> {
    let mut wrong = Vec::new();
    let happened: BTreeSet<(&str, i64, &str)> =
        output.events.iter().map(|e| (e.program.as_str(), e.time, e.message.as_str())).collect();
    let mut last = BTreeMap::new();
    for line in &output.latest {
        if !happened.contains(&(line.program.as_str(), line.time, line.message.as_str())) {
            wrong.push(format!(
                "latest shows what no event says: {:?} at {}",
                line.program, line.at
            ));
        }
        if let Some(before) = last.insert(line.program.as_str(), line)
            && before.time > line.time
        {
            wrong.push(format!("latest of {:?} goes back in time at {}", line.program, line.at));
        }
    }
    for (program, winner) in folds::latest(&output.events) {
        match last.remove(program) {
            Some(l) if l.time == winner.time && l.message == winner.message => {}
            Some(l) => wrong.push(format!(
                "latest of {program:?} ends at {} {:?} ({}), but {}:{} is {} {:?}",
                time::show(l.time),
                head(&l.message),
                l.at,
                winner.file,
                winner.offset,
                time::show(winner.time),
                head(&winner.message)
            )),
            None => wrong.push(format!("latest says nothing of {program:?}")),
        }
    }
    wrong
}

/// Panics with `story` and the first of the sentences, if there are any.
#[track_caller]
pub(crate) fn demand(story: &str, wrong: &[String]) {
    let shown = wrong.iter().take(15).map(|w| format!("\n  {w}")).collect::<String>();
    assert!(wrong.is_empty(), "{story}: {} differences{shown}", wrong.len());
}

fn show(line: &EventLine) -> String {
    let time = time::show(line.time);
    let EventLine { file, offset, program, severity, message, .. } = line;
    format!("{file}:{offset} {time} {severity} {program:?} {:?}", head(message))
}

fn cell_name((start, program, severity): &folds::Cell) -> String {
    format!("({}, {program:?}, {severity})", time::show(*start))
}
