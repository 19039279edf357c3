//! The line decoder and the independent reference read the same lines in the same way: lines of
//! every format, lines broken at random, and every shape that has two readings.

use reference::generate::line::{Lines, TWO_READINGS};
use reference::random::Random;
use reference::{Format, Stamp, formats, time};
use thalweg::connectors::decode::{LineContext, Origin, Zone, decode_line};

mod reference;

const MTIME: i64 = 1_795_277_680_000;
const APPEND: i64 = 1_795_300_000_123;

/// `format time severity program message` as the decoder sees the line.
fn decoder(line: &[u8], file: &str, mtime: i64) -> Option<String> {
    let zone = Zone::utc();
    let cx = LineContext { file, mtime_ms: mtime, append_time_ms: APPEND, zone: &zone };
    let read = decode_line(line, &cx)?;
    let format = match read.origin {
        Origin::Json => Format::Json,
        Origin::Syslog => Format::Syslog,
        Origin::Iso => Format::Iso,
        Origin::Raw => Format::Raw,
    };
    let (at, severity) = (time::show(read.time_ms), read.severity.as_str());
    Some(format!("{format:?} {at} {severity} {:?} {:?}", read.program, read.message))
}

/// The same as the reference sees it.
fn reference(line: &[u8], file: &str, mtime: i64) -> Option<String> {
    let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    if text.is_empty() {
        return None;
    }
    let read = formats::parse(&text, &formats::program_of_file(file), mtime);
    let at = match read.stamp {
        Stamp::At(ms) => time::show(ms),
        Stamp::Append => time::show(APPEND),
    };
    let (format, severity) = (read.format, read.severity.name());
    Some(format!("{format:?} {at} {severity} {:?} {:?}", read.program, read.message))
}

/// Tried: seeds x files x lines, each at three modification times.
#[test]
fn they_agree_on_every_line() {
    let mut wrong = Vec::new();
    let mut check = |line: &[u8], file: &str, mtime: i64| {
        let (expected, found) = (reference(line, file, mtime), decoder(line, file, mtime));
        if expected != found {
            let line = String::from_utf8_lossy(line);
            wrong.push(format!("{line:?}\n  expected {expected:?}\n  found    {found:?}"));
        }
    };
    for (line, _) in TWO_READINGS {
        check(line, "/var/log/a.log", MTIME);
    }
    for seed in 0..8 {
        let mut lines = Lines::new(Random::new(seed), MTIME - 86_400_000);
        for n in 0..8_000 {
            let line: Vec<u8> = lines.any().into_iter().filter(|b| *b != b'\n').collect();
            let file = ["/var/log/a.b.log", "/l/.x", "/plain"][n % 3];
            check(&line, file, MTIME + [0, 43_200_000, -86_400_000 * 300][n % 3]);
        }
    }
    let shown = wrong.iter().take(20).map(|w| format!("\n{w}")).collect::<String>();
    assert!(wrong.is_empty(), "{} lines are read in two ways:{shown}", wrong.len());
}
