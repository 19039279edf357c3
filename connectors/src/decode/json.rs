//! JSON lines: one object with a time, and what its well-known keys say.
//!
//! Always true here: a field is the first usable one among its keys, in the order of [`KEYS`]; of a
//! repeated key the last value counts.

use std::borrow::Cow;
use std::ops::Range;

use super::scan::{self, Value};
use super::time::epoch_ms;
use super::{LineContext, LogLine, Origin, Severity, iso};

/// The keys that are read, those of one field side by side and the preferred first.
const KEYS: [&str; 12] = [
    "time",
    "timestamp",
    "ts",
    "@timestamp",
    "program",
    "app",
    "service",
    "logger",
    "severity",
    "level",
    "message",
    "msg",
];
const TIME: Range<usize> = 0..4;
const PROGRAM: Range<usize> = 4..8;
const SEVERITY: Range<usize> = 8..10;
const MESSAGE: Range<usize> = 10..12;

/// Reads a JSON line.
pub(super) fn decode<'a>(text: &'a str, cx: &LineContext<'a>) -> Option<LogLine<'a>> {
    let mut values = [const { None }; KEYS.len()];
    scan::object(text, |key, value| {
        if let Some(at) = place(&key) {
            values[at] = Some(value);
        }
    })?;
    let among = |keys: Range<usize>| values[keys].iter().flatten();

    let time_ms = among(TIME).find_map(time)?;
    let message = match among(MESSAGE).next() {
        Some(value) => value.text(),
        None => Cow::Borrowed(text),
    };
    let program = among(PROGRAM).find_map(|value| value.string().filter(|name| !name.is_empty()));
    let severity = among(SEVERITY).find_map(|value| Severity::of_word(&value.string()?));
    Some(LogLine {
        time_ms,
        origin: Origin::Json,
        program: program.unwrap_or(Cow::Borrowed(cx.program())),
        severity: severity.unwrap_or_else(|| Severity::of_message(&message)),
        message,
    })
}

/// Where in [`KEYS`] a key is.
fn place(key: &str) -> Option<usize> {
    KEYS.iter().position(|known| *known == key)
}

fn time(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Number(number) => epoch_ms(number),
        _ => iso::rfc3339_ms(&value.string()?),
    }
}
