//! One line in, its fields out: the order of the formats, syslog, ISO and raw lines, severity.
//!
//! Each table is one rule with its edges; a row is a line and what it must become. JSON has a file
//! of its own, and so have zones and the calendar.

use proptest::prelude::*;
use thalweg_connectors::decode::Origin::{self, Iso, Json, Raw, Syslog};
use thalweg_connectors::decode::{LineContext, LogLine, Severity, Zone, decode_line};

/// 2026-11-21T14:00:00Z.
const MTIME_MS: i64 = 1_795_269_600_000;
/// 2026-11-21T14:00:01.500Z: what a raw line gets.
const APPENDED: &str = "2026-11-21T14:00:01.500Z";
const APPENDED_MS: i64 = MTIME_MS + 1500;

fn context<'a>(file: &'a str, zone: &'a Zone) -> LineContext<'a> {
    LineContext { file, mtime_ms: MTIME_MS, append_time_ms: APPENDED_MS, zone }
}

fn utc_ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().expect("an RFC 3339 time in the test").as_millisecond()
}

/// Line, origin, time, program, severity, message.
type Row<'a> = (&'a [u8], Origin, &'a str, &'a str, &'a str, &'a str);

fn check(rows: &[Row<'_>]) {
    let zone = Zone::utc();
    let cx = context("/var/log/app.log", &zone);
    for &(line, origin, time, program, severity, message) in rows {
        let shown = String::from_utf8_lossy(line);
        let got = decode_line(line, &cx).unwrap_or_else(|| panic!("{shown:?} was dropped"));
        let want = (origin, utc_ms(time), program, severity, message);
        let got = (got.origin, got.time_ms, &*got.program, got.severity.as_str(), &*got.message);
        assert_eq!(got, want, "{shown:?}");
    }
}

#[test]
fn each_format_is_known_by_its_first_bytes() {
    check(&[
        (
            br#"{"time":"2026-11-21T13:52:00Z","app":"shop","level":"warn","msg":"slow"}"#,
            Json,
            "2026-11-21T13:52:00Z",
            "shop",
            "warn",
            "slow",
        ),
        (
            b"<38>Nov 21 13:52:00 db1 sshd[412]: Accepted publickey",
            Syslog,
            "2026-11-21T13:52:00Z",
            "sshd",
            "info",
            "Accepted publickey",
        ),
        (
            b"2026-11-21T13:52:00.082123+01:00 db1 cron[7]: (root) CMD (true)",
            Iso,
            "2026-11-21T12:52:00.082Z",
            "cron",
            "info",
            "(root) CMD (true)",
        ),
        (
            b"2026-11-21 13:52:00,082 order 7 accepted",
            Iso,
            "2026-11-21T13:52:00.082Z",
            "app",
            "info",
            "order 7 accepted",
        ),
        (b"order 7 accepted", Raw, APPENDED, "app", "info", "order 7 accepted"),
    ]);
}

#[test]
fn only_an_empty_line_is_dropped_and_one_cr_belongs_to_the_line_end() {
    let zone = Zone::utc();
    let cx = context("/var/log/app.log", &zone);
    for line in [&b""[..], b"\r"] {
        assert_eq!(decode_line(line, &cx), None, "{line:?}");
    }
    check(&[
        (b" ", Raw, APPENDED, "app", "info", " "),
        (b"\t", Raw, APPENDED, "app", "info", "\t"),
        (b"\r\r", Raw, APPENDED, "app", "info", "\r"),
        (b"a\r", Raw, APPENDED, "app", "info", "a"),
        (b"a\rb\r\r", Raw, APPENDED, "app", "info", "a\rb\r"),
        (b"2026-11-21T13:52:00Z\r", Iso, "2026-11-21T13:52:00Z", "app", "info", ""),
        (b"2026-11-21T13:52:00Z h t:\r", Iso, "2026-11-21T13:52:00Z", "t", "info", ""),
        (b"{\"ts\":0}\r", Json, "1970-01-01T00:00:00Z", "app", "info", "{\"ts\":0}"),
        (b"{\"ts\":0}\r\r", Json, "1970-01-01T00:00:00Z", "app", "info", "{\"ts\":0}\r"),
    ]);
}

#[test]
fn bytes_that_are_not_utf8_are_replaced_before_the_formats_are_tried() {
    check(&[
        (b"a\xffb", Raw, APPENDED, "app", "info", "a\u{fffd}b"),
        // One for each maximal subpart: a cut sequence is one, a stray byte is one.
        (b"\xe2\x82 \x80\xc0", Raw, APPENDED, "app", "info", "\u{fffd} \u{fffd}\u{fffd}"),
        (b"\xed\xa0\x80", Raw, APPENDED, "app", "info", "\u{fffd}\u{fffd}\u{fffd}"),
        (
            b"{\"ts\":1,\"app\":\"caf\xe9\",\"msg\":\"a\xf0\x9f\"}",
            Json,
            "1970-01-01T00:00:01Z",
            "caf\u{fffd}",
            "info",
            "a\u{fffd}",
        ),
        (
            b"Nov 21 13:52:00 db1 caf\xe9[1]: error \xfe",
            Syslog,
            "2026-11-21T13:52:00Z",
            "caf\u{fffd}",
            "error",
            "error \u{fffd}",
        ),
        (b"2026-11-21T13:52:00Z \xff x", Iso, "2026-11-21T13:52:00Z", "app", "info", "\u{fffd} x"),
        // A byte order mark is text: nothing begins behind it.
        (
            b"\xef\xbb\xbf2026-11-21T13:52:00Z x",
            Raw,
            APPENDED,
            "app",
            "info",
            "\u{feff}2026-11-21T13:52:00Z x",
        ),
    ]);
}

#[test]
fn program_of_a_file_is_its_base_name_up_to_the_first_dot() {
    let zone = Zone::utc();
    for (file, program) in [
        ("/var/log/syslog", "syslog"),
        ("/var/log/syslog.1", "syslog"),
        ("/var/log/nginx/access.log.2.gz", "access"),
        ("/home/me/.xsession-errors", ".xsession-errors"),
        ("/home/me/.app.log", ".app.log"),
        ("/srv/a.b/c d.log", "c d"),
        ("/srv/a.b/plain", "plain"),
        ("/srv/größe.log", "größe"),
        ("relative.log", "relative"),
        ("/srv/..", ".."),
    ] {
        let line = decode_line(b"x", &context(file, &zone)).expect("a line");
        assert_eq!(line.program, program, "{file}");
    }
}

#[test]
fn syslog_takes_what_rfc_3164_daemons_write() {
    let t = "2026-11-21T13:52:00Z";
    check(&[
        (b"Nov 21 13:52:00 db1 sshd[412]: text", Syslog, t, "sshd", "info", "text"),
        (b"Nov 21 13:52:00 db1 kernel: [ 0.1] text", Syslog, t, "kernel", "info", "[ 0.1] text"),
        (b"Nov 21 13:52:00 (none) init: x", Syslog, t, "init", "info", "x"),
        (b"Nov 21 13:52:00 fe80::1 init: x", Syslog, t, "init", "info", "x"),
        (b"Nov 21 13:52:00 h postfix/smtpd[1]: x", Syslog, t, "postfix/smtpd", "info", "x"),
        (b"Nov 21 13:52:00 h (systemd)[1]: x", Syslog, t, "(systemd)", "info", "x"),
        (b"Nov 21 13:52:00 h a.b-c_d[main]: x", Syslog, t, "a.b-c_d", "info", "x"),
        (b"Nov 21 13:52:00 h app::db: x", Syslog, t, "app::db", "info", "x"),
        (b"Nov 21 13:52:00 h a[b][7]: x", Syslog, t, "a[b]", "info", "x"),
        (b"Nov 21 13:52:00 h a[]: x", Syslog, t, "a", "info", "x"),
        (b"Nov 21 13:52:00 h a]: x", Syslog, t, "a]", "info", "x"),
        (b"Nov 21 13:52:00 h a:", Syslog, t, "a", "info", ""),
        (b"Nov 21 13:52:00 h a: ", Syslog, t, "a", "info", ""),
        (b"Nov 21 13:52:00 h a:     x ", Syslog, t, "a", "info", "x "),
        (b"Nov 21 13:52:00 h a: \tx", Syslog, t, "a", "info", "\tx"),
        (b"Nov 21 13:52:00 h a: b: x", Syslog, t, "a", "info", "b: x"),
        // One digit, one digit behind a blank, two digits.
        (b"Nov 1 13:52:00 h a: x", Syslog, "2026-11-01T13:52:00Z", "a", "info", "x"),
        (b"Nov  1 13:52:00 h a: x", Syslog, "2026-11-01T13:52:00Z", "a", "info", "x"),
        (b"Nov 01 13:52:00 h a: x", Syslog, "2026-11-01T13:52:00Z", "a", "info", "x"),
        (b"Nov 21 00:00:00 h a: x", Syslog, "2026-11-21T00:00:00Z", "a", "info", "x"),
        (b"Nov 21 13:59:60 h a: x", Syslog, "2026-11-21T13:59:59.999Z", "a", "info", "x"),
    ]);
}

#[test]
fn syslog_knows_every_month() {
    let zone = Zone::utc();
    let names = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec";
    for (name, month) in names.split(' ').zip(1..) {
        let line = format!("{name} 15 01:02:03 h a: x");
        let got = decode_line(line.as_bytes(), &context("/f", &zone)).expect("a line");
        let year = if month == 12 { 2025 } else { 2026 };
        assert_eq!(got.time_ms, utc_ms(&format!("{year}-{month:02}-15T01:02:03Z")), "{line}");
    }
}

#[test]
fn priority_decides_severity_by_its_last_three_bits() {
    let t = "2026-11-21T13:52:00Z";
    // The message says something else: the priority wins.
    for (priority, severity) in [
        ("0", "error"),
        ("3", "error"),
        ("4", "warn"),
        ("5", "info"),
        ("6", "info"),
        ("7", "debug"),
        ("11", "error"),
        ("38", "info"),
        ("013", "info"),
        ("188", "warn"),
        ("191", "debug"),
        ("999", "debug"),
    ] {
        let line = format!("<{priority}>Nov 21 13:52:00 h a: warning");
        check(&[(line.as_bytes(), Syslog, t, "a", severity, "warning")]);
    }
    for bad in ["<>", "<1234>", "<-1>", "<a>", "< 1>", "<1", "<1 >", "<<1>"] {
        let line = format!("{bad}Nov 21 13:52:00 h a: x");
        check(&[(line.as_bytes(), Raw, APPENDED, "app", "info", &line)]);
    }
}

#[test]
fn what_is_almost_syslog_is_raw() {
    for line in [
        "nov 21 13:52:00 h a: x",
        "NOV 21 13:52:00 h a: x",
        "Nob 21 13:52:00 h a: x",
        " Nov 21 13:52:00 h a: x",
        "Nov 31 13:52:00 h a: x",
        "Nov 00 13:52:00 h a: x",
        "Nov  0 13:52:00 h a: x",
        "Feb 30 13:52:00 h a: x",
        "Nov   1 13:52:00 h a: x",
        "Nov  21 13:52:00 h a: x",
        "Nov 121 13:52:00 h a: x",
        "Nov21 13:52:00 h a: x",
        "Nov 21  13:52:00 h a: x",
        "Nov 21 24:00:00 h a: x",
        "Nov 21 13:60:00 h a: x",
        "Nov 21 13:52:61 h a: x",
        "Nov 21 3:52:00 h a: x",
        "Nov 21 13:52 h a: x",
        "Nov 21 13:52:00.5 h a: x",
        "Nov 21 2026 13:52:00 h a: x",
        "Nov 21 13:52:00h a: x",
        "Nov 21 13:52:00  h a: x",
        "Nov 21 13:52:00 h  a: x",
        "Nov 21 13:52:00 h a : x",
        "Nov 21 13:52:00 h a:x",
        "Nov 21 13:52:00 h: a: x",
        "Nov 21 13:52:00 h : x",
        "Nov 21 13:52:00 h [7]: x",
        "Nov 21 13:52:00 h last message repeated 2 times",
        "Nov 21 13:52:00 h",
        "Nov 21 13:52:00 ",
        "Nov 21 13:52:00",
        "Nov 21 13:52:0",
        "Nov 2",
        "Nov",
        "N",
        "<38>1 2026-11-21T13:52:00Z h a 7 - - x",
        "<38>2026-11-21T13:52:00Z h a: x",
    ] {
        check(&[(line.as_bytes(), Raw, APPENDED, "app", "info", line)]);
    }
}

#[test]
fn iso_times_come_in_many_shapes() {
    // What stands before " x", and the time it means.
    for (stamp, time) in [
        ("2026-11-21T13:52:00Z", "2026-11-21T13:52:00Z"),
        ("2026-11-21 13:52:00Z", "2026-11-21T13:52:00Z"),
        ("2026-11-21T13:52:00", "2026-11-21T13:52:00Z"),
        ("2026-11-21 13:52:00", "2026-11-21T13:52:00Z"),
        ("2026-11-21T13:52:00.0Z", "2026-11-21T13:52:00Z"),
        ("2026-11-21T13:52:00.1Z", "2026-11-21T13:52:00.100Z"),
        ("2026-11-21T13:52:00,12Z", "2026-11-21T13:52:00.120Z"),
        ("2026-11-21T13:52:00.123", "2026-11-21T13:52:00.123Z"),
        ("2026-11-21 13:52:00,123", "2026-11-21T13:52:00.123Z"),
        // Cut, never rounded.
        ("2026-11-21T13:52:00.1239Z", "2026-11-21T13:52:00.123Z"),
        ("2026-11-21T13:52:00.999999999999Z", "2026-11-21T13:52:00.999Z"),
        ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
        ("2026-11-21T13:52:00+01:00", "2026-11-21T12:52:00Z"),
        ("2026-11-21T13:52:00+0100", "2026-11-21T12:52:00Z"),
        ("2026-11-21T13:52:00-0530", "2026-11-21T19:22:00Z"),
        ("2026-11-21T13:52:00.5-05:30", "2026-11-21T19:22:00.500Z"),
        ("2026-11-21T13:52:00+00:00", "2026-11-21T13:52:00Z"),
        ("2026-11-21T13:52:00-00:00", "2026-11-21T13:52:00Z"),
        ("2026-11-21T13:52:00+23:59", "2026-11-20T13:53:00Z"),
        ("2026-11-21T13:52:60Z", "2026-11-21T13:52:59.999Z"),
        ("2026-11-21T13:52:60.25Z", "2026-11-21T13:52:59.999Z"),
        ("2026-11-21T23:59:60+01:00", "2026-11-21T22:59:59.999Z"),
        ("2028-02-29T00:00:00Z", "2028-02-29T00:00:00Z"),
        ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00-00:01", "0001-01-01T00:01:00Z"),
        ("9999-12-30T00:00:00Z", "9999-12-30T00:00:00Z"),
    ] {
        let line = format!("{stamp} x y");
        check(&[(line.as_bytes(), Iso, time, "app", "info", "x y")]);
    }
}

#[test]
fn the_calendar_ends_with_the_year_9999_in_utc_too() {
    let zone = Zone::utc();
    let cx = context("/f", &zone);
    for (line, ms) in [
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ("9999-12-31 23:59:60", 253_402_300_799_999),
        ("9999-12-31T23:59:00+00:01", 253_402_300_680_000),
    ] {
        let got = decode_line(line.as_bytes(), &cx).expect("a line");
        assert_eq!((got.origin, got.time_ms), (Iso, ms), "{line}");
    }
    for line in ["9999-12-31T23:59:00-00:01", "0001-01-01T00:00:59+00:01"] {
        assert_eq!(decode_line(line.as_bytes(), &cx).expect("a line").origin, Raw, "{line}");
    }
}

#[test]
fn what_follows_an_iso_time_is_host_and_tag_or_message() {
    let t = "2026-11-21T13:52:00Z";
    for (rest, program, message) in [
        (" db1 cron[7]: text", "cron", "text"),
        (" db1 cron: text", "cron", "text"),
        (" db1 cron:", "cron", ""),
        (" db1 cron:    text", "cron", "text"),
        // Exactly one blank before the host and before the tag.
        ("  db1 cron: text", "app", "db1 cron: text"),
        (" db1  cron: text", "app", "db1  cron: text"),
        (" db1 cron : text", "app", "db1 cron : text"),
        (" db1 cron:text", "app", "db1 cron:text"),
        (" get http://a/b", "app", "get http://a/b"),
        (" connect 10.0.0.1:80 refused", "app", "connect 10.0.0.1:80 refused"),
        (" note: db: gone", "app", "note: db: gone"),
        (" cron: text", "app", "cron: text"),
        (" something went wrong: x", "app", "something went wrong: x"),
        (" h [7]: x", "app", "h [7]: x"),
        ("", "app", ""),
        ("    ", "app", ""),
        ("    text  ", "app", "text  "),
        ("\ttext", "app", "\ttext"),
        // Nothing says that a blank must follow.
        ("|text", "app", "|text"),
        ("text", "app", "text"),
        ("é", "app", "é"),
    ] {
        let line = format!("2026-11-21T13:52:00Z{rest}");
        check(&[(line.as_bytes(), Iso, t, program, "info", message)]);
    }
    // No fraction and no offset after all: they are text.
    for (rest, message) in [
        (".", "."),
        (".x", ".x"),
        (",Z", ",Z"),
        ("z", "z"),
        ("+02 x", "+02 x"),
        ("+2:00", "+2:00"),
        ("+ab:cd", "+ab:cd"),
        ("+é1234", "+é1234"),
        ("-", "-"),
        ("0", "0"),
        (" +01:00", "+01:00"),
    ] {
        let line = format!("2026-11-21T13:52:00{rest}");
        check(&[(line.as_bytes(), Iso, t, "app", "info", message)]);
    }
}

#[test]
fn what_is_almost_iso_is_raw() {
    for line in [
        "2026-11-21t13:52:00Z",
        "2026-11-21_13:52:00Z",
        "2026-11-21  13:52:00Z",
        "2026/11/21 13:52:00",
        "2026-11-21T13:52Z",
        "2026-11-21T13:52:0",
        "2026-11-21",
        "26-11-21T13:52:00Z",
        " 2026-11-21T13:52:00Z",
        "[2026-11-21T13:52:00Z]",
        "+2026-11-21T13:52:00Z",
        "2026-1-21T13:52:00Z  ",
        "2026-11-2\u{0661}T13:52:00Z",
        "0000-01-01T00:00:00Z",
        "2026-00-21T13:52:00Z",
        "2026-13-21T13:52:00Z",
        "2026-11-00T13:52:00Z",
        "2026-11-31T13:52:00Z",
        "2026-02-29T13:52:00Z",
        "1900-02-29T13:52:00Z",
        "2026-11-21T24:00:00Z",
        "2026-11-21T13:60:00Z",
        "2026-11-21T13:52:61Z",
        "2026-11-21T13:52:00+24:00",
        "2026-11-21T13:52:00+0060",
        "2026-11-21T13:52:00-99:99 x",
    ] {
        check(&[(line.as_bytes(), Raw, APPENDED, "app", "info", line)]);
    }
}

#[test]
fn severity_words_are_these_in_any_case() {
    let of = |words: &str, severity| {
        for word in words.split(' ') {
            let title = word[..1].to_uppercase() + &word[1..];
            for word in [word.to_owned(), word.to_uppercase(), title] {
                assert_eq!(Severity::of_word(&word), Some(severity), "{word}");
                assert_eq!(Severity::of_message(&format!("{word}: x")), severity, "{word}");
            }
        }
    };
    of("emerg alert crit critical fatal panic err error fail failed", Severity::Error);
    of("warn warning", Severity::Warn);
    of("notice info", Severity::Info);
    of("debug trace", Severity::Debug);
    for word in
        ["", "errors", "warned", "criticals", "critica", "e", "failure", " err", "err ", "éé"]
    {
        assert_eq!(Severity::of_word(word), None, "{word:?}");
    }
}

#[test]
fn severity_is_the_first_word_then_the_first_alarm_then_info() {
    for (message, severity) in [
        ("", "info"),
        ("...", "info"),
        ("all well", "info"),
        ("debug: error", "debug"),
        ("TRACE warn", "debug"),
        ("info: the error is gone", "info"),
        ("[ERROR] x", "error"),
        ("  <Warning> error", "warn"),
        // Info and debug count as a first word only.
        ("x debug", "info"),
        ("x info error", "error"),
        ("got a warning, then an error", "warn"),
        ("got an error, then a warning", "error"),
        ("level=fatal", "error"),
        ("login failed", "error"),
        ("x (fail)", "error"),
        ("x error", "error"),
        ("x error.", "error"),
        // A word is a whole run of letters, digits and underscores.
        ("x errors", "info"),
        ("x my_error", "info"),
        ("x error_code", "info"),
        ("x error2", "info"),
        ("x 2error", "info"),
        ("x stderr", "info"),
        ("error_code: warn", "warn"),
        ("err", "error"),
        ("x éerror", "info"),
        ("x erroré", "info"),
        ("x “error”", "error"),
        ("x — warn — error", "warn"),
        ("éerror warn", "warn"),
        ("ошибка: panic", "error"),
        ("x error١", "info"),
        ("“FATAL”", "error"),
        ("eeeee aaaaa ccccc fffff ppppp wwwww", "info"),
        ("e a c f p w crit", "error"),
    ] {
        assert_eq!(Severity::of_message(message).as_str(), severity, "{message:?}");
    }
}

#[test]
fn an_alarm_is_found_wherever_in_a_line_it_stands() {
    for length in 0..70 {
        for (before, after) in [("-", ""), ("é", "."), ("x ", " x"), ("_ ", "é "), ("— ", " —")]
        {
            let fill = "e a c f p w ".repeat(6);
            let text = format!("x {}{before}Err{after}", &fill[..length]);
            let alone = after != "é " && before != "é";
            let severity = if alone { Severity::Error } else { Severity::Info };
            assert_eq!(Severity::of_message(&text), severity, "{text:?}");
            let text = format!("{text} {} warn {fill} error", &fill[..length]);
            let severity = if alone { Severity::Error } else { Severity::Warn };
            assert_eq!(Severity::of_message(&text), severity, "{text:?}");
        }
    }
}

#[test]
fn a_raw_line_keeps_its_indentation_and_the_append_time() {
    check(&[
        (b"    at Order.accept", Raw, APPENDED, "app", "info", "    at Order.accept"),
        (b"\tError: x", Raw, APPENDED, "app", "error", "\tError: x"),
        (b"debug x", Raw, APPENDED, "app", "debug", "debug x"),
    ]);
    // The append time is given on as it is, whatever it is.
    let zone = Zone::utc();
    let cx = LineContext { append_time_ms: i64::MIN, mtime_ms: i64::MAX, ..context("/f", &zone) };
    assert_eq!(decode_line(b"x", &cx).expect("a line").time_ms, i64::MIN);
}

#[test]
fn fields_of_a_plain_line_borrow() {
    use std::borrow::Cow::Borrowed;
    let zone = Zone::utc();
    let cx = context("/f", &zone);
    for line in [
        &br#"{"ts":1,"app":"a","msg":"b"}"#[..],
        br#"{"ts":1,"msg":{"a":[1,"b c"]}}"#,
        b"Nov 21 13:52:00 h a: x",
        b"2026-11-21T13:52:00Z h a: x",
        b"x",
    ] {
        let got = decode_line(line, &cx).expect("a line");
        assert!(
            matches!(got, LogLine { program: Borrowed(_), message: Borrowed(_), .. }),
            "{got:?}"
        );
        assert_eq!(got.clone().into_owned(), got);
    }
}

/// Lines to break: each format, near misses, and what the severity scan stumbles over.
const SEEDS: [&str; 8] = [
    r#"{"time":"2026-11-21T13:52:00.082Z","level":"warn","msg":"a\n\u00e9\ud83d\ude00","x":[1e3,{}]}"#,
    r#"{"ts": -1.795e9, "msg" : { "a" : null } }"#,
    "<38>Nov  1 13:52:00 db1 sshd[412]: text",
    "Feb 29 23:59:60 h a:",
    "2026-11-21T13:52:00.082123+01:00 db1 cron[7]: text",
    "2026-11-21 13:52:00,082 ERROR x",
    "x éerror warnä “fail”",
    "2026-02-28T00:00:00-0000",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A seed with a stretch of it replaced by arbitrary bytes, with any times around it.
    #[test]
    fn any_bytes_give_a_line_that_keeps_the_promises(
        seed in 0..SEEDS.len(),
        cut in 0usize..120,
        gone in 0usize..8,
        put in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\":\\,+-.eE0 9Zu\r".to_vec())],
            0..6,
        ),
        mtime_ms in prop_oneof![Just(MTIME_MS), any::<i64>()],
        append_time_ms in any::<i64>(),
    ) {
        let mut line = SEEDS[seed].as_bytes().to_vec();
        let from = cut.min(line.len());
        let to = (from + gone).min(line.len());
        line.splice(from..to, put);

        let zone = Zone::named("CET-1CEST,M3.5.0,M10.5.0/3").expect("a POSIX rule");
        let cx = LineContext { file: "/var/log/a.log", mtime_ms, append_time_ms, zone: &zone };
        let stripped = line.strip_suffix(b"\r").unwrap_or(&line);
        let text = String::from_utf8_lossy(stripped);
        match decode_line(&line, &cx) {
            None => prop_assert!(stripped.is_empty()),
            Some(got) => {
                prop_assert!(!got.program.is_empty());
                match got.origin {
                    Raw => {
                        prop_assert_eq!(&got.message, &text);
                        prop_assert_eq!(got.time_ms, append_time_ms);
                        prop_assert_eq!(got.program, "a");
                    }
                    Syslog | Iso => {
                        prop_assert!(text.ends_with(&*got.message));
                        prop_assert!(!got.message.starts_with(' '));
                    }
                    Json => prop_assert_eq!(text.trim_start().chars().next(), Some('{')),
                }
                if got.origin != Raw {
                    prop_assert!((-62_135_596_800_000..=253_402_300_799_999).contains(&got.time_ms));
                }
                if got.origin == Syslog {
                    prop_assert!(got.time_ms <= mtime_ms.saturating_add(86_400_000));
                }
            }
        }
    }

    #[test]
    fn bytes_without_a_pattern_do_no_harm(
        line in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let zone = Zone::utc();
        let _ = decode_line(&line, &context("/f", &zone));
    }

    /// The table scan against the sentence it stands for, word by word.
    #[test]
    fn severity_scan_agrees_with_splitting_into_words(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "error", "WARN", "failed", "crit", "info", "debug", "x", "errors", "_", "é", "9",
            ]),
            0..30,
        ),
        gaps in prop::collection::vec(
            prop::sample::select(vec![" ", "", ".", "—", "  ", "[", "\u{301}", "٣"]),
            31,
        ),
    ) {
        let mut message = gaps[30].to_owned();
        for (word, gap) in words.iter().zip(&gaps) {
            message.push_str(word);
            message.push_str(gap);
        }
        let mut words = message
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty());
        let alarm = |word| Severity::of_word(word).filter(|s| *s <= Severity::Warn);
        let expected = words
            .next()
            .and_then(Severity::of_word)
            .or_else(|| words.find_map(alarm))
            .unwrap_or(Severity::Info);
        prop_assert_eq!(Severity::of_message(&message), expected, "{:?}", message);
    }
}
