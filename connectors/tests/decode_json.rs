//! JSON lines: which keys count, which values are usable, and that what is JSON is what `serde_json`
//! says.

use proptest::prelude::*;
use serde_json::{Map, Value};
use thalweg_connectors::decode::{LineContext, LogLine, Origin, Severity, Zone, decode_line};

const APPENDED_MS: i64 = 1_795_269_601_500;

fn with_line<T>(line: &str, see: impl FnOnce(LogLine<'_>) -> T) -> T {
    let zone = Zone::named("CET-1CEST,M3.5.0,M10.5.0/3").expect("a POSIX rule");
    let cx = LineContext {
        file: "/var/log/app.log",
        mtime_ms: APPENDED_MS,
        append_time_ms: APPENDED_MS,
        zone: &zone,
    };
    see(decode_line(line.as_bytes(), &cx).expect("a line that is not empty"))
}

fn is_json(line: &str) -> bool {
    with_line(line, |got| got.origin == Origin::Json)
}

/// The milliseconds of a line's time; `None` if it is no JSON line.
fn time_of(line: &str) -> Option<i64> {
    with_line(line, |got| (got.origin == Origin::Json).then_some(got.time_ms))
}

#[test]
fn time_is_the_first_usable_of_its_keys() {
    for (line, ms) in [
        (r#"{"time":1}"#, Some(1000)),
        (r#"{"timestamp":1}"#, Some(1000)),
        (r#"{"ts":1}"#, Some(1000)),
        (r#"{"@timestamp":1}"#, Some(1000)),
        // Their order counts, not the line's.
        (r#"{"@timestamp":4,"ts":3,"timestamp":2,"time":1}"#, Some(1000)),
        (r#"{"@timestamp":4,"ts":3,"timestamp":2}"#, Some(2000)),
        (r#"{"@timestamp":4,"ts":3}"#, Some(3000)),
        (r#"{"time":"yesterday","timestamp":null,"ts":[1],"@timestamp":4}"#, Some(4000)),
        (r#"{"time":true,"ts":2}"#, Some(2000)),
        (r#"{"time":{"time":1},"ts":2}"#, Some(2000)),
        (r#"{"time":"1","ts":2}"#, Some(2000)),
        (r#"{"time":1e30,"ts":2}"#, Some(2000)),
        // The last of a repeated key, even if the first was better.
        (r#"{"time":1,"time":2}"#, Some(2000)),
        (r#"{"time":1,"time":"x"}"#, None),
        (r#"{"time":1,"time":"x","ts":2}"#, Some(2000)),
        // No time, no JSON line.
        ("{}", None),
        (r#"{"msg":"x"}"#, None),
        (r#"{"Time":1}"#, None),
        (r#"{"time ":1}"#, None),
        (r#"{"a":{"time":1}}"#, None),
        (r#"{"time":""}"#, None),
        // A key is what it says, however it is written.
        (r#"{"\u0074im\u0065":1}"#, Some(1000)),
        (r#"{"\/time":1}"#, None),
    ] {
        assert_eq!(time_of(line), ms, "{line}");
    }
}

#[test]
fn strings_are_times_in_rfc_3339() {
    for (text, ms) in [
        ("1970-01-01T00:00:01Z", Some(1000)),
        ("1970-01-01t00:00:01z", Some(1000)),
        ("1970-01-01 00:00:01Z", Some(1000)),
        ("1970-01-01T00:00:01.5Z", Some(1500)),
        ("1970-01-01T00:00:01.0019999999Z", Some(1001)),
        ("1970-01-01T01:00:01+01:00", Some(1000)),
        ("1969-12-31T23:00:01-01:00", Some(1000)),
        ("1970-01-01T00:00:01-00:00", Some(1000)),
        ("1970-01-01T00:00:60Z", Some(59_999)),
        ("1970-01-01T00:00:60.000+00:00", Some(59_999)),
        (r"1970\u002d01-01T00:00:01\u005a", Some(1000)),
        ("0001-01-01T00:00:00Z", Some(-62_135_596_800_000)),
        ("9999-12-31T23:59:59.999Z", Some(253_402_300_799_999)),
        // No offset, no instant: unlike a line that begins with a time.
        ("1970-01-01T00:00:01", None),
        ("1970-01-01T00:00:01.5", None),
        ("1970-01-01T00:00:01,5Z", None),
        ("1970-01-01T00:00:01.Z", None),
        ("1970-01-01T00:00:01+0100", None),
        ("1970-01-01T00:00:01+01", None),
        ("1970-01-01T00:00:01+24:00", None),
        ("1970-01-01T00:00:01+00:60", None),
        ("1970-01-01T00:00:01 Z", None),
        (" 1970-01-01T00:00:01Z", None),
        ("1970-01-01T00:00:01Z ", None),
        ("1970-01-01T00:00Z", None),
        ("1970-01-01", None),
        ("1970-02-29T00:00:01Z", None),
        ("1970-01-01T24:00:00Z", None),
        ("1970-01-01T00:00:61Z", None),
        ("0000-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+00:01", None),
        ("9999-12-31T23:59:59-00:01", None),
    ] {
        assert_eq!(time_of(&format!(r#"{{"ts":"{text}"}}"#)), ms, "{text}");
    }
}

#[test]
fn numbers_are_seconds_to_nanoseconds_by_their_size() {
    for (number, ms) in [
        ("0", Some(0)),
        ("-0", Some(0)),
        ("0.0", Some(0)),
        ("0e7", Some(0)),
        ("0e99999999999999999999", Some(0)),
        ("1795269120", Some(1_795_269_120_000)),
        // A float has .081999778747558594 here.
        ("1795269120.082", Some(1_795_269_120_082)),
        ("1795269120.0829999999999999999999", Some(1_795_269_120_082)),
        ("1795269120.9999999999999999999999", Some(1_795_269_120_999)),
        ("1.795269120082e9", Some(1_795_269_120_082)),
        ("17952691200829E-4", Some(1_795_269_120_082)),
        ("0.001795269120082e+12", Some(1_795_269_120_082)),
        ("0.0009", Some(0)),
        ("0.001", Some(1)),
        ("1e-3", Some(1)),
        ("1e-99999999999999999999", Some(0)),
        ("0.1", Some(100)),
        ("1", Some(1000)),
        // The three borders, and just below them.
        ("99999999999", Some(99_999_999_999_000)),
        ("99999999999.999999", Some(99_999_999_999_999)),
        ("100000000000", Some(100_000_000_000)),
        ("1e11", Some(100_000_000_000)),
        ("1795269120082", Some(1_795_269_120_082)),
        ("1795269120082.9", Some(1_795_269_120_082)),
        ("99999999999999.9", Some(99_999_999_999_999)),
        ("100000000000000", Some(100_000_000_000)),
        ("1795269120082999", Some(1_795_269_120_082)),
        ("99999999999999999", Some(99_999_999_999_999)),
        ("100000000000000000", Some(100_000_000_000)),
        ("1795269120082999999", Some(1_795_269_120_082)),
        ("1795269120082999999.9e0", Some(1_795_269_120_082)),
        // Beyond u64, within the years.
        ("253402300799999999999", Some(253_402_300_799_999)),
        ("2.53402300799999999999e20", Some(253_402_300_799_999)),
        ("253402300800000000000", None),
        ("1e22", None),
        ("1e300", None),
        // Negative: always seconds; cut digits, so towards 1970.
        ("-1", Some(-1000)),
        ("-0.0015", Some(-1)),
        ("-0.0009", Some(0)),
        ("-62135596800", Some(-62_135_596_800_000)),
        ("-62135596800.001", None),
        ("-100000000000", None),
        ("-1795269120082", None),
    ] {
        assert_eq!(time_of(&format!(r#"{{"ts":{number}}}"#)), ms, "{number}");
    }
}

#[test]
fn program_is_the_first_string_that_is_not_empty() {
    for (members, program) in [
        (r#""program":"a""#, "a"),
        (r#""app":"a""#, "a"),
        (r#""service":"a""#, "a"),
        (r#""logger":"a""#, "a"),
        (r#""logger":"d","service":"c","app":"b","program":"a""#, "a"),
        (r#""logger":"d","service":"c","app":"b""#, "b"),
        (r#""logger":"d","service":"c""#, "c"),
        (r#""program":"","app":7,"service":null,"logger":"d""#, "d"),
        (r#""program":{"program":"x"},"app":["y"],"service":true"#, "app"),
        (r#""program":" ""#, " "),
        (r#""program":"a.b [7]""#, "a.b [7]"),
        (r#""program":"caf\u00e9""#, "café"),
        (r#""program":"a","program":"b""#, "b"),
        (r#""program":"a","program":"""#, "app"),
        (r#""x":1"#, "app"),
    ] {
        with_line(&format!(r#"{{"ts":1,{members}}}"#), |got| assert_eq!(got.program, program));
    }
}

#[test]
fn severity_is_the_first_known_word_or_what_the_message_says() {
    for (members, severity) in [
        (r#""severity":"ERROR""#, Severity::Error),
        (r#""level":"Warning""#, Severity::Warn),
        (r#""level":"error","severity":"debug""#, Severity::Debug),
        (r#""severity":"odd","level":"warn""#, Severity::Warn),
        (r#""severity":30,"level":"warn""#, Severity::Warn),
        (r#""level":"\u0065rr""#, Severity::Error),
        (r#""level":"info","msg":"error""#, Severity::Info),
        (r#""level":"odd","msg":"an error""#, Severity::Error),
        (r#""level":50,"msg":"trace: x""#, Severity::Debug),
        (r#""level":" error","msg":"x""#, Severity::Info),
        (r#""level":"","msg":"x warn""#, Severity::Warn),
        (r#""msg":"x""#, Severity::Info),
        // Without a message the line is the message, and `ts` its first word.
        (r#""x":"error""#, Severity::Error),
        (r#""msg":{"error":"x"}"#, Severity::Error),
    ] {
        with_line(&format!(r#"{{"ts":1,{members}}}"#), |got| {
            assert_eq!(got.severity, severity, "{members}");
        });
    }
}

#[test]
fn message_is_a_string_or_compact_json_or_the_line() {
    for (members, message) in [
        (r#""message":"a""#, "a"),
        (r#""msg":"a""#, "a"),
        (r#""msg":"b","message":"a""#, "a"),
        (r#""msg":"b","message":"""#, ""),
        (r#""msg":"b","message":null"#, "null"),
        (r#""msg":"  a ""#, "  a "),
        (r#""msg":"a\"b\\c\/d\b\f\n\r\t""#, "a\"b\\c/d\u{8}\u{c}\n\r\t"),
        (r#""msg":"\\n\\\\\n\\u0041""#, "\\n\\\\\n\\u0041"),
        (r#""msg":"\u0041\u00e9\u20ac\ud83d\ude00!\u0000""#, "Aé€😀!\0"),
        (r#""msg":"\uD834\uDD1E\uD834\uDD1E""#, "𝄞𝄞"),
        (r#""msg":"é😀""#, "é😀"),
        (r#""msg":true"#, "true"),
        (r#""msg": 1.50e+1 "#, "1.50e+1"),
        (r#""msg":-0"#, "-0"),
        (r#""msg":[]"#, "[]"),
        (r#""msg":{ }"#, "{}"),
        (
            "\"msg\":\t{ \"b\" :\n[ 1 , 2.0 ],\r\"a\": \" x \\\" { \" }",
            r#"{"b":[1,2.0],"a":" x \" { "}"#,
        ),
        (r#""msg":{"b":1,"a":2,"b":3}"#, r#"{"b":1,"a":2,"b":3}"#),
        (r#""msg":["\u0041 é", null , false]"#, r#"["\u0041 é",null,false]"#),
    ] {
        with_line(&format!(r#"{{"ts":1,{members}}}"#), |got| {
            assert_eq!((got.origin, &*got.message), (Origin::Json, message), "{members}");
        });
    }
    for line in [r#"{"ts":1}"#, " {\t\"ts\" : 1 } ", r#"{"Message":"x","ts":1}"#] {
        with_line(line, |got| assert_eq!((got.origin, &*got.message), (Origin::Json, line)));
    }
}

#[test]
fn an_object_without_a_usable_time_is_a_raw_line() {
    let line = r#"{"level":"error","app":"shop","msg":"no time"}"#;
    with_line(line, |got| {
        assert_eq!((got.origin, got.time_ms), (Origin::Raw, APPENDED_MS));
        assert_eq!((&*got.program, &*got.message), ("app", line));
        // By the rules for a raw line: `level` is its first word, `error` its first alarm.
        assert_eq!(got.severity, Severity::Error);
    });
}

/// Each of these with `"ts":1` behind it, where that makes sense, is JSON or is not: `serde_json`
/// knows.
#[test]
fn what_is_json_is_what_serde_json_takes() {
    let mut lines: Vec<String> = [
        r#"{"ts":1}"#,
        " \t\r\n{ \"ts\" : 1 } \t\r\n",
        "\u{feff}{\"ts\":1}",
        "\u{a0}{\"ts\":1}",
        "\u{c}{\"ts\":1}",
        "{\"ts\":1}x",
        "{\"ts\":1}{}",
        "{\"ts\":1}}",
        "{\"ts\":1,}",
        "{,\"ts\":1}",
        "{\"ts\" 1}",
        "{\"ts\"::1}",
        "{\"ts\":}",
        "{\"ts\":1",
        "{\"ts",
        "{\"ts\"",
        "{\"ts\":",
        "{ts:1}",
        "{'ts':1}",
        "[{\"ts\":1}]",
        "\"ts\"",
        "{",
        "}",
        "{\"ts\":1,\"a\"}",
        "{\"ts\":1 \"a\":1}",
        "{\"ts\":1;\"a\":1}",
        "{1:1,\"ts\":1}",
        "{null:1,\"ts\":1}",
        "{\"\":1,\"ts\":1}",
    ]
    .map(str::to_owned)
    .into();
    let values = [
        "0",
        "-0",
        "00",
        "01",
        "-01",
        "-",
        "+1",
        "1.",
        ".1",
        "1.e1",
        "1e",
        "1e+",
        "1E-1",
        "1e1.0",
        "0x1",
        "1_0",
        "1 0",
        "--1",
        "NaN",
        "-NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "inf",
        "1e308",
        "1.7976931348623157e308",
        "1.7976931348623159e308",
        "1.8e308",
        "-1.8e308",
        "1e309",
        "1e400",
        "-1e400",
        "1e-400",
        "0e400",
        "0.000e9999999999999999999999",
        "1e9999999999999999999999",
        "1e-9999999999999999999999",
        "0.00001e312",
        "123456789012345678901234567890",
        "10e307",
        "100e307",
        "0.1e309",
        "true",
        "false",
        "null",
        "True",
        "tru",
        "truee",
        "nul",
        "nullnull",
        "\"\"",
        "\"\\\"",
        "\"\\a\"",
        "\"\\x41\"",
        "\"\\u\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\u+123\"",
        "\"\\uFFFF\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\ud800\"",
        "\"\\ud800x\"",
        "\"\\ud800\\n\"",
        "\"\\ud800\\udc00\"",
        "\"\\udbff\\udfff\"",
        "\"\\uDBFF\\uE000\"",
        "\"\u{1}\"",
        "\"\u{1f}\"",
        "\"\u{7f}\"",
        "\"\t\"",
        "\"\n\"",
        "\"\u{2028}\"",
        "[]",
        "[1]",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1,2",
        "[",
        "]",
        "{}",
        "{\"a\":1,}",
        "{\"a\"}",
        "{\"a\":1",
        "{]",
        "[}",
        "[\"a\":1]",
        "//",
        "/**/1",
        "1//",
        "",
    ];
    lines.extend(values.iter().map(|value| format!("{{\"a\":{value},\"ts\":1}}")));
    // Wide numbers around the edge of f64.
    for zeros in [0, 17, 295, 299, 300, 301, 306, 307, 308, 309, 320] {
        for lead in ["1", "17", "18", "0.", "0.0"] {
            for tail in ["", "e1", "e-20", "e307", "e308", "e-308", ".5", "9"] {
                let zeros = "0".repeat(zeros);
                lines.push(format!("{{\"a\":{lead}{zeros}{tail},\"ts\":1}}"));
            }
        }
    }
    for depth in [1, 2, 125, 126, 127, 128, 129, 1000] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        lines.push(format!("{{\"a\":{open}{close},\"ts\":1}}"));
        let (open, close) = ("{\"a\":".repeat(depth), "}".repeat(depth));
        lines.push(format!("{{\"a\":{open}1{close},\"ts\":1}}"));
    }
    let mut taken = 0;
    for line in &lines {
        let expected = serde_json::from_str::<Map<String, Value>>(line).is_ok();
        assert_eq!(is_json(line), expected, "{line}");
        taken += usize::from(expected);
    }
    assert!(taken > 100 && lines.len() - taken > 100, "{taken} of {} are JSON", lines.len());
}

/// JSON text, mostly valid: blanks anywhere, every escape, odd numbers.
fn json_text() -> impl Strategy<Value = String> {
    let blank = || prop::sample::select(vec!["", "", "", " ", "\t", "  ", "\r"]);
    let piece = prop::sample::select(vec![
        "a",
        "bc",
        "\\n",
        "\\\"",
        "\\\\",
        "\\/",
        "\\u0041",
        "\\ud83d\\ude00",
        "\\u00e9",
        "é",
        "😀",
        "twelve bytes",
        "{",
        "]",
        ",",
    ]);
    let string =
        prop::collection::vec(piece, 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat()));
    let leaf = prop_oneof![
        string.clone(),
        prop::sample::select(vec![
            "null", "true", "false", "0", "-1", "1.25e-7", "1e308", "12e400"
        ])
        .prop_map(str::to_owned),
        any::<f64>()
            .prop_filter("JSON has no NaN", |n| n.is_finite())
            .prop_map(|n| format!("{n:e}")),
    ];
    leaf.prop_recursive(6, 30, 4, move |inner| {
        let element = (blank(), inner, blank()).prop_map(|(a, b, c)| format!("{a}{b}{c}"));
        let member = (blank(), string.clone(), blank(), element.clone())
            .prop_map(|(a, b, c, d)| format!("{a}{b}{c}:{d}"));
        prop_oneof![
            prop::collection::vec(element, 0..4).prop_map(|all| format!("[{}]", all.join(","))),
            prop::collection::vec(member, 0..4).prop_map(|all| format!("{{{}}}", all.join(","))),
        ]
    })
}

/// A copy of `text` with some characters replaced, removed or added.
fn broken(text: &str, edits: &[(prop::sample::Index, u8, char)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, kind, c) in edits {
        let at = at.index(chars.len() + 1);
        match kind {
            0 if at < chars.len() => chars[at] = *c,
            1 if at < chars.len() => {
                chars.remove(at);
            }
            _ => chars.insert(at, *c),
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_text_is_json_exactly_when_serde_json_takes_it(
        text in json_text(),
        edits in prop::collection::vec(
            (
                any::<prop::sample::Index>(),
                0u8..3,
                prop::sample::select("{}[]\":,\\u0123456789abcdefDE+-. \t\u{1}\u{7f}éntrul".chars().collect::<Vec<_>>()),
            ),
            0..3,
        ),
    ) {
        // The time comes last, so that it counts whatever the rest became.
        let line = format!("{{\"a\":{},\"ts\":1}}", broken(&text, &edits));
        let expected = serde_json::from_str::<Map<String, Value>>(&line).is_ok();
        prop_assert_eq!(is_json(&line), expected, "{}", line);
    }

    #[test]
    fn a_message_that_is_no_string_keeps_its_meaning(text in json_text()) {
        let line = format!("{{\"ts\":1,\"msg\":{text}}}");
        let Ok(object) = serde_json::from_str::<Map<String, Value>>(&line) else { return Ok(()) };
        with_line(&line, |got| {
            if let Value::String(message) = &object["msg"] {
                prop_assert_eq!(&*got.message, message);
            } else {
                let back: Value = serde_json::from_str(&got.message).expect("compact JSON");
                prop_assert_eq!(&back, &object["msg"]);
                prop_assert!(got.message.len() <= text.len());
                // Nothing is left to take out: blanks stand in strings only.
                let outside = got.message.replace("\\\\", "").replace("\\\"", "");
                let outside: String = outside.split('"').step_by(2).collect();
                prop_assert!(!outside.contains([' ', '\t', '\r', '\n']), "{}", got.message);
            }
            Ok(())
        })?;
    }

    /// Objects as a program writes them, against the same rules on top of `serde_json`'s values.
    #[test]
    fn fields_are_those_that_the_rules_pick(
        members in prop::collection::vec(
            (
                prop::sample::select(vec![
                    "time", "ts", "program", "app", "logger", "severity", "level", "message", "msg",
                    "other",
                ]),
                prop_oneof![
                    prop::sample::select(vec!["error", "WARN", "debug", "", "a fail", "1970-01-01T00:00:09Z"])
                        .prop_map(Value::from),
                    any::<String>().prop_map(Value::from),
                    (0u32..100_000).prop_map(Value::from),
                    Just(Value::Null),
                ],
            ),
            0..8,
        ),
        pretty in any::<bool>(),
    ) {
        let object: Map<String, Value> =
            members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let line = if pretty {
            serde_json::to_string_pretty(&object)
        } else {
            serde_json::to_string(&object)
        }
        .expect("strings and numbers");

        let among = |keys: &'static [&'static str]| keys.iter().filter_map(|key| object.get(*key));
        let time = among(&["time", "ts"]).find_map(|value| match value {
            Value::Number(n) => Some(n.as_i64()? * 1000),
            Value::String(s) => Some(s.parse::<jiff::Timestamp>().ok()?.as_millisecond()),
            _ => None,
        });
        let message = match among(&["message", "msg"]).next() {
            Some(Value::String(s)) => s.clone(),
            Some(other) => other.to_string(),
            None => line.clone(),
        };
        let program = among(&["program", "app", "logger"])
            .find_map(|value| value.as_str().filter(|name| !name.is_empty()))
            .unwrap_or("app");
        let severity = among(&["severity", "level"])
            .find_map(|value| Severity::of_word(value.as_str()?))
            .unwrap_or_else(|| Severity::of_message(&message));
        with_line(&line, |got| {
            match time {
                None => prop_assert_eq!(got.origin, Origin::Raw),
                Some(time_ms) => prop_assert_eq!(
                    got,
                    LogLine {
                        time_ms,
                        origin: Origin::Json,
                        program: program.into(),
                        severity,
                        message: message.into(),
                    }
                ),
            }
            Ok(())
        })?;
    }

    /// The same number with its point moved about, against exact integers.
    #[test]
    fn a_number_means_the_same_however_it_is_written(
        scaled in 0u64..10_000_000_000_000_000,
        decimals in 0usize..12,
        zeros in 0usize..30,
    ) {
        // The value is scaled / 10^decimals.
        let text = format!("{scaled:0>width$}", width = decimals + 1);
        let (whole, fraction) = text.split_at(text.len() - decimals);
        let point = if decimals == 0 { "" } else { "." };
        let plain = format!("{whole}{point}{fraction}");
        let shifted = format!("{scaled}e-{decimals}");
        let padded = format!("{scaled}{}e-{}", "0".repeat(zeros), decimals + zeros);

        let unit = 10u128.pow(decimals as u32);
        let value = u128::from(scaled);
        let ms = match value {
            v if v < 10u128.pow(11) * unit => v * 1000 / unit,
            v if v < 10u128.pow(14) * unit => v / unit,
            v => v / unit / 1000,
        };
        let ms = i64::try_from(ms).expect("16 digits at most");
        for number in [plain, shifted, padded] {
            prop_assert_eq!(time_of(&format!("{{\"ts\":{number}}}")), Some(ms), "{}", number);
        }
    }
}
