//! JSON lines: one object with a time, and what its well-known keys say.
//!
//! Always true here: a field is the first usable one among its keys, in the order of [`place`]; of a
//! repeated key the last value counts.

use std::borrow::Cow;
use std::ops::Range;

use super::scan::{self, Token, Value};
use super::time::epoch_ms;
use super::{LineContext, LogLine, Origin, Severity, iso};

/// Reads a JSON line.
pub(super) fn decode<'a>(text: &'a str, cx: &LineContext<'a>) -> Option<LogLine<'a>> {
    let mut values = [const { None }; PLACES];
    scan::object(text, |key, value| {
        if let Some(at) = place(key, text) {
            values[at] = Some(value);
        }
    })?;
    let among = |places: Range<usize>| values[places].iter().flatten().map(|it| it.value(text));

    let time_ms = among(TIME).find_map(time)?;
    let severity = among(SEVERITY).find_map(severity);
    let program = among(PROGRAM).find(names_a_program).and_then(|value| value.string());
    let message = among(MESSAGE).next().map_or(Cow::Borrowed(text), |value| value.text());
    Some(LogLine {
        time_ms,
        origin: Origin::Json,
        program: program.unwrap_or_else(|| Cow::Borrowed(cx.program())),
        severity: severity.unwrap_or_else(|| Severity::of_message(&message)),
        message,
    })
}

/// The place of a key that is read: those of one field side by side and the preferred first.
fn place(key: Token, text: &str) -> Option<usize> {
    let unescaped;
    let name = match key.plain_string(text) {
        Some(name) => name,
        None => {
            unescaped = key.value(text).string()?;
            unescaped.as_bytes()
        }
    };
    Some(match name {
        b"time" => 0,
        b"timestamp" => 1,
        b"ts" => 2,
        b"@timestamp" => 3,
        b"program" => 4,
        b"app" => 5,
        b"service" => 6,
        b"logger" => 7,
        b"severity" => 8,
        b"level" => 9,
        b"message" => 10,
        b"msg" => 11,
        _ => return None,
    })
}

const PLACES: usize = 12;
const TIME: Range<usize> = 0..4;
const PROGRAM: Range<usize> = 4..8;
const SEVERITY: Range<usize> = 8..10;
const MESSAGE: Range<usize> = 10..12;

fn time(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Number(number) => epoch_ms(number),
        Value::String { raw, escaped: false } => iso::rfc3339_ms(raw),
        _ => iso::rfc3339_ms(&value.string()?),
    }
}

fn severity(value: Value<'_>) -> Option<Severity> {
    match value {
        Value::String { raw, escaped: false } => Severity::of_word(raw),
        _ => Severity::of_word(&value.string()?),
    }
}

/// A string is empty if and only if nothing is between its quotes: no escape stands for nothing.
fn names_a_program(value: &Value<'_>) -> bool {
    matches!(value, Value::String { raw, .. } if !raw.is_empty())
}
