//! The reference itself, line by line against the contract, and the comparer against outputs with
//! one fault each: a reference that nobody checks proves nothing.

use reference::compare::{self, Origin};
use reference::generate::line::{Lines, TWO_READINGS};
use reference::lines::{LINE_MAX, skipped, split};
use reference::output::{CountLine, EventLine, LatestLine, Output, Place};
use reference::random::Random;
use reference::{
    Event, FileInput, Format, Severity, Stamp, events, events_from, generate, json, time,
};

mod reference;

use Format::{Iso, Json, Raw, Syslog};
use Severity::{Debug, Error, Info, Warn};

const FILE: &str = "/var/log/stem.access.log";
/// 2026-11-21T16:14:40Z.
const MTIME: i64 = 1_795_277_680_000;

/// `time|severity|program|message`, or `-` for a dropped line.
#[track_caller]
fn check(line: &str, format: Format, expected: &str) {
    check_at(line, MTIME, format, expected);
}

#[track_caller]
fn check_at(line: &str, mtime: i64, format: Format, expected: &str) {
    let parsed = reference::formats::parse(line, &reference::formats::program_of_file(FILE), mtime);
    let time = match parsed.stamp {
        Stamp::At(ms) => time::show(ms),
        Stamp::Append => "append".to_owned(),
    };
    let found = format!("{time}|{}|{}|{}", parsed.severity.name(), parsed.program, parsed.message);
    assert_eq!((parsed.format, found.as_str()), (format, expected), "line {line:?}");
}

#[test]
fn json_takes_the_first_usable_key() {
    let day = "2023-11-14T22:13:20.000Z";
    for (members, expected) in [
        (r#""time":1700000000,"msg":"m""#, format!("{day}|info|stem|m")),
        (r#""timestamp":1700000000,"message":"m","msg":"n""#, format!("{day}|info|stem|m")),
        (r#""@timestamp":1700000000,"msg":"m","message":"n""#, format!("{day}|info|stem|n")),
        (r#""ts":1700000000,"time":"soon","msg":"m""#, format!("{day}|info|stem|m")),
        (r#""ts":1700000000,"time":0,"msg":"m""#, "1970-01-01T00:00:00.000Z|info|stem|m".into()),
        (r#""ts":1700000000,"logger":"l","app":"a","msg":"m""#, format!("{day}|info|a|m")),
        (r#""ts":1700000000,"level":"FATAL","msg":"debug m""#, format!("{day}|error|stem|debug m")),
        (r#""ts":1700000000,"level":"odd","msg":"an Error""#, format!("{day}|error|stem|an Error")),
        (r#""ts":1700000000,"level":30,"msg":"warn""#, format!("{day}|warn|stem|warn")),
        (r#""ts":1700000000,"msg":"a\u0041\ud83d\ude00\/\n""#, format!("{day}|info|stem|aA😀/\n")),
        (
            r#""ts":1700000000,"msg":{"b" : [1, "a \" b"], "a":{ }}"#,
            format!("{day}|info|stem|{{\"b\":[1,\"a \\\" b\"],\"a\":{{}}}}"),
        ),
        (r#""ts":1700000000,"msg":12.50"#, format!("{day}|info|stem|12.50")),
        (r#""\u0074s":1700000000,"msg":"m""#, format!("{day}|info|stem|m")),
    ] {
        check(&format!("{{{members}}}"), Json, &expected);
    }
    let whole = r#" {"ts":1700000000,"x":"failed"} "#;
    check(whole, Json, &format!("{day}|error|stem|{whole}"));
}

#[test]
fn a_number_is_cut_to_milliseconds_as_written() {
    for (number, expected) in [
        ("1795269120.082", Some("2026-11-21T13:52:00.082Z")),
        ("1795269120.0829999999999", Some("2026-11-21T13:52:00.082Z")),
        ("1795269120.1", Some("2026-11-21T13:52:00.100Z")),
        ("1795269120", Some("2026-11-21T13:52:00.000Z")),
        ("1.795269120082e9", Some("2026-11-21T13:52:00.082Z")),
        ("1795269120082e-3", Some("2026-11-21T13:52:00.082Z")),
        ("1795269120082.9", Some("2026-11-21T13:52:00.082Z")),
        ("1795269120082999", Some("2026-11-21T13:52:00.082Z")),
        ("1795269120082999999", Some("2026-11-21T13:52:00.082Z")),
        ("99999999999", Some("5138-11-16T09:46:39.000Z")),
        ("99999999999.9999", Some("5138-11-16T09:46:39.999Z")),
        ("100000000000", Some("1973-03-03T09:46:40.000Z")),
        ("1e11", Some("1973-03-03T09:46:40.000Z")),
        ("99999999999999", Some("5138-11-16T09:46:39.999Z")),
        ("100000000000000", Some("1973-03-03T09:46:40.000Z")),
        ("99999999999999999", Some("5138-11-16T09:46:39.999Z")),
        ("100000000000000000", Some("1973-03-03T09:46:40.000Z")),
        ("253402300799999999999", Some("9999-12-31T23:59:59.999Z")),
        ("253402300800000000000", None),
        ("1e400", None),
        ("1e99999999999999999999", None),
        ("1e-99999999999999999999", Some("1970-01-01T00:00:00.000Z")),
        ("0", Some("1970-01-01T00:00:00.000Z")),
        ("-0.0", Some("1970-01-01T00:00:00.000Z")),
        ("0.0019", Some("1970-01-01T00:00:00.001Z")),
        ("-1.5", Some("1969-12-31T23:59:58.500Z")),
        ("-62135596800", Some("0001-01-01T00:00:00.000Z")),
        ("-62135596801", None),
        ("-1795269120082", None),
    ] {
        let found = time::epoch(number).map(time::show);
        assert_eq!(found.as_deref(), expected, "number {number}");
    }
}

#[test]
fn syslog_gives_every_part() {
    let day = "2026-11-05T01:02:03.000Z";
    for (line, expected) in [
        (
            "Nov  5 01:02:03 host sshd[77]: Failed password",
            format!("{day}|error|sshd|Failed password"),
        ),
        ("Nov 05 01:02:03 host sshd: ok", format!("{day}|info|sshd|ok")),
        ("Nov 5 01:02:03 host sshd: ok", format!("{day}|info|sshd|ok")),
        ("<3>Nov  5 01:02:03 host a[1]: info: b", format!("{day}|error|a|info: b")),
        ("<12>Nov  5 01:02:03 host a[1]: error", format!("{day}|warn|a|error")),
        ("<191>Nov  5 01:02:03 host a[1]: error", format!("{day}|debug|a|error")),
        ("Nov  5 01:02:03 host a:    b: c ", format!("{day}|info|a|b: c ")),
        ("Nov  5 01:02:03 host a:", format!("{day}|info|a|")),
        ("Nov  5 01:02:60 host a: b", "2026-11-05T01:02:59.999Z|info|a|b".into()),
    ] {
        check(line, Syslog, &expected);
    }
}

#[test]
fn syslog_takes_the_latest_year_up_to_a_day_after_the_file() {
    // The file was last written on 2026-11-21T16:14:40Z.
    check("Nov 22 16:14:40 h a: x", Syslog, "2026-11-22T16:14:40.000Z|info|a|x");
    check("Nov 22 16:14:41 h a: x", Syslog, "2025-11-22T16:14:41.000Z|info|a|x");
    check("Dec 31 00:00:00 h a: x", Syslog, "2025-12-31T00:00:00.000Z|info|a|x");
    check("Feb 29 00:00:00 h a: x", Syslog, "2024-02-29T00:00:00.000Z|info|a|x");
    let eve = time::rfc3339("2025-12-31T12:00:00Z").expect("a time");
    check_at("Jan  1 11:00:00 h a: x", eve, Syslog, "2026-01-01T11:00:00.000Z|info|a|x");
    check_at("Jan  1 13:00:00 h a: x", eve, Syslog, "2025-01-01T13:00:00.000Z|info|a|x");
    check("Feb 30 00:00:00 h a: x", Raw, "append|info|stem|Feb 30 00:00:00 h a: x");
}

#[test]
fn iso_takes_every_spelling_of_time_and_zone() {
    for (start, expected) in [
        ("2024-01-02T03:04:05", "2024-01-02T03:04:05.000Z"),
        ("2024-01-02 03:04:05", "2024-01-02T03:04:05.000Z"),
        ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05.000Z"),
        ("2024-01-02T03:04:05.1", "2024-01-02T03:04:05.100Z"),
        ("2024-01-02 03:04:05,678", "2024-01-02T03:04:05.678Z"),
        ("2024-01-02T03:04:05.6789999Z", "2024-01-02T03:04:05.678Z"),
        ("2024-01-02T03:04:05+01:00", "2024-01-02T02:04:05.000Z"),
        ("2024-01-02T03:04:05.5-0330", "2024-01-02T06:34:05.500Z"),
        ("2024-02-29T23:59:60.5Z", "2024-02-29T23:59:59.999Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59.999Z"),
        ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00.000Z"),
    ] {
        check(&format!("{start} web1 app[7]: hello"), Iso, &format!("{expected}|info|app|hello"));
        check(&format!("{start} web1 app: hello"), Iso, &format!("{expected}|info|app|hello"));
        check(&format!("{start}   hello there"), Iso, &format!("{expected}|info|stem|hello there"));
        check(start, Iso, &format!("{expected}|info|stem|"));
    }
}

#[test]
fn what_no_calendar_has_falls_to_raw() {
    for line in [
        "2023-02-29T00:00:00Z x",
        "2100-02-29T00:00:00Z x",
        "2024-00-01T00:00:00Z x",
        "2024-04-31 00:00:00 x",
        "2024-01-01T24:00:00Z x",
        "2024-01-01T00:00:61Z x",
        "0000-01-01T00:00:00Z x",
        "20240101T000000Z x",
        "0001-01-01T00:00:00+00:01 x",
    ] {
        check(line, Raw, &format!("append|info|stem|{line}"));
    }
}

#[test]
fn severity_comes_from_first_word_then_from_grave_words() {
    for (message, severity) in [
        ("emerg", Error),
        ("ALERT x", Error),
        ("Crit", Error),
        ("critical", Error),
        ("fatal", Error),
        ("panic", Error),
        ("err", Error),
        ("error", Error),
        ("fail", Error),
        ("failed", Error),
        ("warn", Warn),
        ("warning", Warn),
        ("notice", Info),
        ("info", Info),
        ("debug", Debug),
        ("trace", Debug),
        ("", Info),
        ("---", Info),
        ("hello", Info),
        ("  [ERROR] x", Error),
        ("info: an error", Info),
        ("debug error", Debug),
        ("x debug", Info),
        ("x warn error", Warn),
        ("x error warn", Error),
        ("errors failing", Info),
        ("error_code", Info),
        ("x=fail", Error),
        ("x error7", Info),
        ("über-error", Error),
    ] {
        assert_eq!(reference::severity::of_message(message), severity, "message {message:?}");
    }
}

#[test]
fn the_program_of_a_file_is_its_name_up_to_the_first_dot() {
    for (path, program) in [
        ("/var/log/syslog", "syslog"),
        ("/var/log/a.b.log", "a"),
        ("/x.y/plain", "plain"),
        ("/var/log/.hidden", ".hidden"),
        ("/var/log/.a.log", ".a.log"),
        ("/l/with space.log", "with space"),
    ] {
        assert_eq!(reference::formats::program_of_file(path), program);
    }
}

#[test]
fn json_is_read_by_the_letter() {
    for good in [
        "{}",
        " { } ",
        r#"{"a":[]}"#,
        r#"{"a":[1,[2,{"b":[{}]}],"]"]}"#,
        r#"{"a":-0.5e+7,"a":true}"#,
        r#"{"":{"x":null,"y":[false]}}"#,
    ] {
        assert!(json::object(good).is_some(), "{good} is an object");
    }
    for bad in [
        "",
        "[]",
        "1",
        "{",
        "{}}",
        "{,}",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{a:1}"#,
        r#"{"a":01}"#,
        r#"{"a":1.}"#,
        r#"{"a":.5}"#,
        r#"{"a":+1}"#,
        r#"{"a":[1,]}"#,
        r#"{"a":[1}"#,
        r#"{"a":{"b"}}"#,
        r#"{"a":tru}"#,
        r#"{"a":"\q"}"#,
        r#"{"a":"\u12"}"#,
        r#"{"a":"\udc00"}"#,
        r#"{"a":"\ud800\u0041"}"#,
        "{\"a\":\"\t\"}",
        "{\"a\":1}\u{a0}",
        r#"{"a":1e}"#,
        r#"{"a":1e400}"#,
        r#"{"a":--1}"#,
        r#"{"a":"b}"#,
    ] {
        assert!(json::object(bad).is_none(), "{bad} is no object");
    }
    for (depth, read) in [(126, true), (127, false), (60_000, false)] {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(json::object(&deep).is_some(), read, "{depth} arrays in an object");
    }
}

#[test]
fn lines_end_cut_and_start_where_the_bytes_say() {
    let found = |bytes: &[u8]| -> Vec<(usize, Vec<u8>)> {
        split(bytes).into_iter().map(|l| (l.offset, l.bytes.to_vec())).collect()
    };
    assert_eq!(found(b""), []);
    assert_eq!(
        found(b"\n\r\na\r\nb\r\r\nc\r"),
        [
            (0, b"".to_vec()),
            (1, b"".to_vec()),
            (3, b"a".to_vec()),
            (6, b"b\r".to_vec()),
            (10, b"c".to_vec()),
        ]
    );
    for (length, end, cut) in [
        (LINE_MAX, "", false),
        (LINE_MAX, "\n", false),
        (LINE_MAX - 1, "\r\n", false),
        (LINE_MAX, "\r\n", true),
        (LINE_MAX + 1, "\n", true),
        (3 * LINE_MAX, "", true),
    ] {
        let bytes = ["x".repeat(length), end.to_owned()].concat().into_bytes();
        let lines = split(&bytes);
        assert_eq!((lines.len(), lines[0].cut), (1, cut), "{length} bytes and {end:?}");
        assert_eq!(lines[0].bytes.len(), length.min(LINE_MAX));
    }
}

#[test]
fn binary_and_compressed_files_are_skipped() {
    let mut late = vec![b'x'; 8193];
    late[8192] = 0;
    assert_eq!(skipped(&late), None);
    late[8191] = 0;
    assert_eq!(skipped(&late), Some("binary"));
    assert_eq!(skipped(b""), None);
    for made in generate::skipped(generate::noon(1)) {
        assert!(skipped(&made.bytes).is_some(), "{} is skipped", made.name);
    }
    let file = FileInput { path: FILE.into(), bytes: b"\x1f\x8b text\n".to_vec(), mtime: MTIME };
    assert_eq!(events(&[file]), []);
}

#[test]
fn empty_and_debug_lines_are_dropped_and_offsets_stay() {
    let bytes = b"one\n\ndebug two\n\xff\n   \n{\"ts\":1,\"level\":\"trace\"}\nlast".to_vec();
    let file = FileInput { path: FILE.into(), bytes, mtime: MTIME };
    let found: Vec<_> = events_from(&file, 0).into_iter().map(|e| (e.offset, e.message)).collect();
    let text = |n: u64, s: &str| (n, s.to_owned());
    assert_eq!(found, [text(0, "one"), text(15, "\u{fffd}"), text(17, "   "), text(46, "last")]);
    let found: Vec<_> = events_from(&file, 17).into_iter().map(|e| e.offset).collect();
    assert_eq!(found, [17, 46]);
}

/// Each shape is read as the list says: its note begins with the format.
#[test]
fn shapes_with_two_readings_are_read_as_listed() {
    for (line, note) in TWO_READINGS {
        let text = String::from_utf8_lossy(line);
        let parsed = reference::formats::parse(&text, "stem", MTIME);
        let name = format!("{:?}", parsed.format).to_lowercase();
        assert_eq!(note.split(':').next(), Some(name.as_str()), "{text:?}: {note}");
    }
}

#[test]
fn dates_survive_the_way_there_and_back() {
    let mut random = Random::new(7);
    for _ in 0..5000 {
        let ms = random.between(-62_135_596_800_000, 253_402_300_799_999);
        assert_eq!(time::rfc3339(&time::show(ms)), Some(ms));
    }
    assert_eq!(time::window_start(-1), -60_000);
    assert_eq!(time::show(MTIME), "2026-11-21T16:14:40.000Z");
}

#[test]
fn generated_lines_hold_every_format_and_nothing_panics() {
    let made = generate::files(3, 4000);
    let files: Vec<FileInput> = made
        .iter()
        .map(|m| FileInput {
            path: format!("/l/{}", m.name),
            bytes: m.bytes.clone(),
            mtime: m.mtime,
        })
        .collect();
    let found = events(&files);
    let of = |format| found.iter().filter(|e| e.format == format).count();
    for format in [Json, Syslog, Iso] {
        assert!(of(format) > 600, "only {} lines of {format:?}", of(format));
    }
    assert!(of(Raw) > 100, "only {} raw lines", of(Raw));
    assert!(found.iter().filter(|e| e.cut).count() >= 3);
    for severity in [Info, Warn, Error] {
        assert!(found.iter().any(|e| e.severity == severity));
    }
    let mut lines = Lines::new(Random::new(11), MTIME);
    for _ in 0..20_000 {
        let _ = reference::parse_line(&lines.any(), FILE, MTIME);
    }
}

/// Output as a flawless program writes it.
fn flawless(events: &[Event]) -> Output {
    let line = |event: &Event| EventLine {
        file: event.file.clone(),
        offset: event.offset,
        time: match event.stamp {
            Stamp::At(ms) => ms,
            Stamp::Append => MTIME,
        },
        program: event.program.clone(),
        severity: event.severity.name().to_owned(),
        message: event.message.clone(),
        cut: event.cut,
        at: Place("events/x.ndjson:1".into()),
    };
    let events: Vec<EventLine> = events.iter().map(line).collect();
    let counts = reference::folds::cells(&events)
        .into_iter()
        .map(|((window_start, program, severity), count)| CountLine {
            window_start,
            program,
            severity,
            count,
            at: Place("counts/x.ndjson:1".into()),
        })
        .collect();
    let latest = reference::folds::latest(&events)
        .into_values()
        .map(|e| LatestLine {
            program: e.program.clone(),
            time: e.time,
            message: e.message.clone(),
            at: Place("latest/x.ndjson:1".into()),
        })
        .collect();
    Output { events, counts, late: Vec::new(), latest }
}

fn check_all(expected: &[Event], output: &Output) -> Vec<String> {
    [
        compare::events(expected, &output.events),
        compare::conservation(output),
        compare::latest(output),
        compare::late(&[].into(), &[].into(), &output.late),
    ]
    .concat()
}

/// The comparer is silent about a flawless output and speaks about every single fault.
#[test]
fn every_fault_is_noticed() {
    let made = generate::files(1, 300);
    let files: Vec<FileInput> = made
        .iter()
        .map(|m| FileInput {
            path: format!("/l/{}", m.name),
            bytes: m.bytes.clone(),
            mtime: m.mtime,
        })
        .collect();
    let expected = events(&files);
    let whole = flawless(&expected);
    assert_eq!(check_all(&expected, &whole), Vec::<String>::new());

    type Fault = (&'static str, fn(&mut Output));
    let faults: [Fault; 17] = [
        ("missing", |o| drop(o.events.pop())),
        ("doubled", |o| o.events.push(o.events[3].clone())),
        ("not expected", |o| o.events[0].offset += 1),
        ("message of", |o| o.events[5].message.push(' ')),
        ("severity of", |o| o.events[5].severity = "debug".into()),
        ("cut of", |o| o.events[5].cut = true),
        ("counted", |o| drop(o.counts.pop())),
        ("counted", |o| o.counts[2].count += 1),
        ("emitted twice", |o| o.counts.push(o.counts[2].clone())),
        ("no start of a minute", |o| o.counts[2].window_start += 1),
        ("late without cause", |o| o.late.push(o.events[4].clone())),
        ("no such event", |o| {
            let mut line = o.events[4].clone();
            line.time += 1;
            o.late.push(line);
        }),
        ("says nothing", |o| drop(o.latest.pop())),
        ("ends at", |o| o.latest[0].message.push('!')),
        ("latest shows", |o| o.latest[0].message.push('!')),
        ("goes back in time", |o| {
            let mut line = o.latest[0].clone();
            line.time -= 1;
            o.latest.push(line);
        }),
        ("latest", |o| o.latest[0].time -= 1),
    ];
    for (sentence, fault) in faults {
        let mut output = whole.clone();
        fault(&mut output);
        let wrong = check_all(&expected, &output);
        assert!(wrong.iter().any(|w| w.contains(sentence)), "{sentence:?} not among {wrong:#?}");
    }
    let origin: Origin = ("/l/x".into(), 7);
    assert_eq!(compare::late(&[origin].into(), &[].into(), &[]), ["not in late: /l/x:7"]);
}

/// Half lines, foreign fields and broken objects in a committed file are errors, never skipped.
#[test]
fn a_committed_file_holds_only_whole_lines() {
    let good = r#"{"program":"a","time":"2026-01-01T00:00:00.000Z","message":"m"}"#;
    let cases: [(&str, &str); 8] = [
        ("", ""),
        ("{good}\n{good}\n", ""),
        ("{good}", "no end"),
        ("{good}\n{\"program\":\n", "not one JSON object"),
        ("{good}\n\n", "not one JSON object"),
        ("{\"program\":\"a\",\"message\":\"m\",\"time\":\"x\"}\n", "stands where"),
        (
            "{\"program\":\"a\",\"time\":\"2026-01-01T00:00:00Z\",\"message\":\"m\"}\n",
            "milliseconds",
        ),
        (
            "{\"program\":\"a\",\"time\":\"2026-01-01T00:00:00.000Z\",\"message\":\"m\",\"x\":1}\n",
            "unknown",
        ),
    ];
    for (text, error) in cases {
        let out = tempfile::tempdir().expect("a folder for the test");
        let dir = out.path().join("latest");
        std::fs::create_dir_all(dir.join(".tmp")).expect("a folder for the test");
        std::fs::write(dir.join("half.tmp"), "{").expect("a file for the test");
        std::fs::write(dir.join("a.ndjson"), text.replace("{good}", good)).expect("a file");
        match Output::read(out.path()) {
            Ok(_) => assert!(error.is_empty(), "{text:?} was read, not refused as {error:?}"),
            Err(e) => assert!(!error.is_empty() && e.contains(error), "{text:?}: {e}"),
        }
    }
}
