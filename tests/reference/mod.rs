//! What `log_etl` has to write, worked out a second time and by other means.
//!
//! This is the independent reference: plain standard library, not one line shared with the
//! workspace (no crate of ours, no JSON library, no calendar library). It is slow and simple on
//! purpose. Where it and the program disagree, one of them is wrong, or the contract has two
//! readings; the readings taken here are marked *Decision* and listed in
//! [`generate::TWO_READINGS`].
//!
//! ```text
//! files (path, bytes, mtime) -> lines -> formats -> Event*  --folds--> counts, latest
//!                                                     |
//!                      OUT folder -> output::Output --+--> compare: sentences, empty when equal
//! ```
//!
//! Always true here: the zone is UTC (programs under test run with `TZ=UTC`); times are
//! milliseconds since 1970; nothing depends on the clock. A raw line's time is the moment it was
//! appended, which no reference can know, so it is [`Stamp::Append`]: any time is accepted, and
//! what is folded from it is folded from the time the program showed.
#![allow(dead_code, reason = "each test program that includes this uses its own part of it")]

pub(crate) mod compare;
pub(crate) mod folds;
pub(crate) mod formats;
pub(crate) mod generate;
pub(crate) mod json;
pub(crate) mod lines;
pub(crate) mod output;
pub(crate) mod random;
pub(crate) mod severity;
pub(crate) mod time;

pub(crate) use formats::{Format, Parsed};
pub(crate) use severity::Severity;

/// One input file as it lies on disk.
#[derive(Clone, Debug)]
pub(crate) struct FileInput {
    /// Absolute path, as the program shows it.
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
    /// Modification time, milliseconds since 1970: gives syslog lines their year.
    pub(crate) mtime: i64,
}

/// When a line says it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stamp {
    /// Milliseconds since 1970, from the line itself.
    At(i64),
    /// The line has no time: that of its append counts.
    Append,
}

/// One object that `events` must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) file: String,
    pub(crate) offset: u64,
    pub(crate) stamp: Stamp,
    pub(crate) program: String,
    pub(crate) severity: Severity,
    pub(crate) message: String,
    pub(crate) cut: bool,
    /// Not part of the object; says in a failure how the reference read the line.
    pub(crate) format: Format,
}

/// Every event of the files, in their order. Files that must be skipped give none.
pub(crate) fn events(files: &[FileInput]) -> Vec<Event> {
    files.iter().flat_map(|file| events_from(file, 0)).collect()
}

/// The events of one file from byte `start`, where a line begins: what a run finds that was already
/// at `start` before. The last line counts also without a newline.
pub(crate) fn events_from(file: &FileInput, start: usize) -> Vec<Event> {
    if lines::skipped(&file.bytes).is_some() {
        return Vec::new();
    }
    let lines = lines::split(&file.bytes[start..]);
    lines.iter().filter_map(|line| event(file, start, line)).collect()
}

fn event(file: &FileInput, start: usize, line: &lines::Line<'_>) -> Option<Event> {
    let parsed = parse_line(line.bytes, &file.path, file.mtime)?;
    Some(Event {
        file: file.path.clone(),
        offset: (start + line.offset) as u64,
        stamp: parsed.stamp,
        program: parsed.program,
        severity: parsed.severity,
        message: parsed.message,
        cut: line.cut,
        format: parsed.format,
    })
}

/// One line (its end already removed) of the file at `path`; `None` when it is dropped.
pub(crate) fn parse_line(line: &[u8], path: &str, mtime: i64) -> Option<Parsed> {
    let text = String::from_utf8_lossy(line);
    if text.is_empty() {
        return None;
    }
    let parsed = formats::parse(&text, &formats::program_of_file(path), mtime);
    (parsed.severity != Severity::Debug).then_some(parsed)
}
