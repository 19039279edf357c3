//! `consume --json | produce --json` copies records exactly, and bad lines are named.

mod shell;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

use shell::Shell;

/// Bytes as a line of JSON says them.
fn said(bytes: &Option<Vec<u8>>) -> Value {
    match bytes {
        None => Value::Null,
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => json!({"base64": STANDARD.encode(bytes)}),
        },
    }
}

type Record = (u32, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

/// Bytes of all kinds: text, text with what must be escaped, and no text at all.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..12),
        "\\PC{0,12}".prop_map(String::into_bytes),
        "[\"\\\\/\u{0}-\u{1f}\u{7f}\u{2028}\u{10ffff}]{0,8}".prop_map(String::into_bytes),
        Just(b"\xed\xa0\x80".to_vec()),
        Just(b"{\"base64\":\"AA==\"}".to_vec()),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let time = prop_oneof![Just(-1), Just(0), 0..253_402_300_800_000_i64];
    let headers = vec((bytes(), option::of(bytes())), 0..4);
    (0..2_u32, time, option::of(bytes()), option::of(bytes()), headers)
}

/// A record without its place.
fn content(record: &Value) -> Value {
    let mut record = record.clone();
    let members = record.as_object_mut().expect("a record is an object");
    members.remove("topic");
    members.remove("offset");
    record
}

/// The records of a topic, in the order of their partitions.
fn stored(shell: &Shell, topic: &str) -> Vec<Value> {
    let mut all = shell.records(topic);
    all.sort_by_key(|record| (record["partition"].as_u64(), record["offset"].as_u64()));
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn copies_are_exact(records in vec(record(), 0..60)) {
        let shell = Shell::with_topic("a", 2);
        shell.run(&["topics", "create", "b", "--partitions", "2"]).expect(0);
        let mut lines = Vec::new();
        let mut wanted = Vec::new();
        for (partition, timestamp, key, value, headers) in &records {
            let headers: Vec<Value> = headers
                .iter()
                .map(|(key, value)| json!({"key": said(&Some(key.clone())), "value": said(value)}))
                .collect();
            let record = json!({
                "partition": partition, "timestamp": timestamp, "timestamp_type": "CreateTime",
                "key": said(key), "value": said(value), "headers": headers,
            });
            lines.extend_from_slice(record.to_string().as_bytes());
            lines.push(b'\n');
            wanted.push(record);
        }
        wanted.sort_by_key(|record| record["partition"].as_u64());
        shell.feed(&["produce", "a", "--json"], &lines).expect(0);
        let first = shell.run(&["consume", "a", "--json"]).expect(0);
        shell.feed(&["produce", "b", "--json", "--compression", "zstd"], &first.out).expect(0);
        let a = stored(&shell, "a");
        let b = stored(&shell, "b");
        prop_assert_eq!(a.iter().map(content).collect::<Vec<_>>(), wanted);
        prop_assert_eq!(
            a.iter().map(content).collect::<Vec<_>>(),
            b.iter().map(content).collect::<Vec<_>>()
        );
        // Not one byte differs but the topic's name.
        let second = shell.run(&["consume", "b", "--json"]).expect(0);
        let first = first.text().replace("{\"topic\":\"a\",", "{\"topic\":\"b\",");
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        prop_assert_eq!(sorted(&first), sorted(second.text()));
    }
}

#[test]
fn lines_are_read_as_the_contract_says() {
    let shell = Shell::with_topic("t", 1);
    for (line, key, value, headers) in [
        (r#"{"value":"v"}"#, json!(null), json!("v"), json!([])),
        (r#"{"value":null,"key":"k"}"#, json!("k"), json!(null), json!([])),
        (r#"{"value":"","key":""}"#, json!(""), json!(""), json!([])),
        (r#"{"value":{"base64":"/w=="}}"#, json!(null), json!({"base64": "/w=="}), json!([])),
        // Bytes that turn out to be text are shown as text.
        (r#"{"value":{"base64":"aGk="}}"#, json!(null), json!("hi"), json!([])),
        (
            r#" { "value" : "\u00e9\ud83d\ude00" } "#,
            json!(null),
            json!("\u{e9}\u{1f600}"),
            json!([]),
        ),
        (
            r#"{"value":"v","headers":{"b":"1","a":null,"b":{"base64":"/w=="}}}"#,
            json!(null),
            json!("v"),
            json!([{"key":"b","value":"1"},{"key":"a","value":null},{"key":"b","value":{"base64":"/w=="}}]),
        ),
        (
            r#"{"value":"v","headers":[{"key":"a","value":"1"}],"topic":"x","offset":{"any":1},"timestamp_type":7}"#,
            json!(null),
            json!("v"),
            json!([{"key":"a","value":"1"}]),
        ),
        (
            r#"{"value":"v","key":null,"partition":null,"timestamp":null}"#,
            json!(null),
            json!("v"),
            json!([]),
        ),
    ] {
        shell.feed(&["produce", "t", "--json"], line.as_bytes()).expect(0);
        let all = shell.records("t");
        let last = all.last().expect("it was stored");
        assert_eq!(
            (&last["key"], &last["value"], &last["headers"]),
            (&key, &value, &headers),
            "{line}"
        );
    }
}

/// Each with the column at which it is wrong, and a word of the reason.
#[test]
fn bad_lines_are_named_with_line_and_column() {
    let cases = [
        ("", 0, ""),
        ("nonsense", 1, "expected"),
        (r#"{"value":"v""#, 12, "EOF"),
        (r#"{"value":"v"} x"#, 15, "trailing"),
        (r#"["v"]"#, 1, "one JSON object"),
        (r#"{"key":"k"}"#, 11, "tombstone"),
        (r#"{"value":"v","vaule":"w"}"#, 20, "unknown field `vaule`"),
        (r#"{"value":"v","value":"w"}"#, 20, "duplicate"),
        (r#"{"value":17}"#, 11, "--raw-json"),
        (r#"{"value":1.5}"#, 12, "--raw-json"),
        (r#"{"value":true}"#, 13, "--raw-json"),
        (r#"{"value":["v"]}"#, 10, "--raw-json"),
        (r#"{"value":{"a":1}}"#, 13, "--raw-json"),
        (r#"{"value":{"base64":"AA==","x":1}}"#, 29, "--raw-json"),
        (r#"{"value":{"base64":"A"}}"#, 22, "base64"),
        (r#"{"value":"v","key":7}"#, 20, "--raw-json"),
        (r#"{"value":"v","timestamp":"now"}"#, 30, "i64"),
        (r#"{"value":"v","timestamp":1.5}"#, 28, "i64"),
        (r#"{"value":"v","partition":-1}"#, 27, "u32"),
        (r#"{"value":"v","partition":1}"#, 1, "no partition 1"),
        (r#"{"value":"v","headers":[{"key":"a"}]}"#, 35, "missing"),
        (r#"{"value":"v","headers":[{"value":"a"}]}"#, 37, "missing"),
        (r#"{"value":"v","headers":{"a":1}}"#, 29, "number"),
        (r#"{"value":"\ud800"}"#, 17, "hex escape"),
    ];
    let shell = Shell::with_topic("t", 1);
    let mut input = Vec::new();
    for (line, _, _) in cases {
        input.extend_from_slice(line.as_bytes());
        input.push(b'\n');
    }
    input.extend_from_slice(b"{\"value\":\"\xff\"}\n{\"value\":\"good\"}\n");
    let said = shell.feed(&["produce", "t", "--json", "--keep-going"], &input).expect(8);
    let errors: Vec<&str> = said.err.lines().collect();
    // An empty line is none, and is passed over.
    for ((number, (line, column, word)), error) in (1..).zip(cases).skip(1).zip(&errors) {
        let place = format!("thalweg: line {number}, column ");
        let rest = error.strip_prefix(&place).unwrap_or_else(|| panic!("{line}: {error}"));
        let (found, what) = rest.split_once(": ").expect("a column and a reason");
        assert!(what.contains(word), "{line}: {error}");
        let found: i64 = found.parse().expect("a column is a number");
        assert!((found - column).abs() <= 1, "{line}: column {column}, not {found}");
    }
    assert_eq!(errors.len(), cases.len() + 1, "{errors:#?}");
    assert!(errors[cases.len() - 1].contains("line 25, column"), "{errors:#?}");
    assert!(errors[cases.len()].contains("24 lines were refused"), "{errors:#?}");
    assert_eq!(shell.values(&["t"]), ["good"]);

    // Without --keep-going the first one ends it; what came before it is stored.
    let said = shell
        .feed(&["produce", "t", "--json"], b"{\"value\":\"before\"}\nx\n{\"value\":\"after\"}\n");
    let said = said.expect(1);
    assert!(
        said.err.contains("line 2, column 1")
            && said.err.contains("records stored in t: 1; lines read: 2"),
        "{}",
        said.err
    );
    assert_eq!(shell.values(&["t"]), ["good", "before"]);
}

#[test]
fn raw_json_stores_the_text_of_values() {
    let shell = Shell::with_topic("t", 1);
    let lines = concat!(
        "{\"value\":17,\"key\":1.50}\n",
        "{\"value\": {\"a\" : [1,  2]} }\n",
        "{\"value\":\"te\\nxt\"}\n",
        "{\"value\":null,\"key\":true}\n",
        "{\"value\":{\"base64\":\"AA==\"}}\n",
    );
    shell.feed(&["produce", "t", "--json", "--raw-json"], lines.as_bytes()).expect(0);
    let all = shell.records("t");
    let stored: Vec<(&Value, &Value)> = all.iter().map(|r| (&r["key"], &r["value"])).collect();
    assert_eq!(
        stored,
        [
            (&json!("1.50"), &json!("17")),
            (&json!(null), &json!("{\"a\" : [1,  2]}")),
            (&json!(null), &json!("te\nxt")),
            (&json!("true"), &json!(null)),
            (&json!(null), &json!("{\"base64\":\"AA==\"}")),
        ]
    );
    shell.feed(&["produce", "t", "--json", "--raw-json"], b"{\"key\":1}\n").expect(1);
}
