//! JSON out, byte for byte as `serde_json` writes it; and which files are no text.

use proptest::prelude::*;
use thalweg_connectors::decode::{JsonObject, looks_binary};

fn written(write: impl FnOnce(JsonObject<'_>) -> JsonObject<'_>) -> String {
    let mut out = Vec::new();
    write(JsonObject::begin(&mut out)).end();
    String::from_utf8(out).expect("JSON is UTF-8")
}

#[test]
fn fields_stand_in_the_order_of_the_calls() {
    for (got, want) in [
        (written(|o| o), "{}"),
        (written(|o| o.str("a", "")), r#"{"a":""}"#),
        (written(|o| o.bool("cut", true).bool("b", false)), r#"{"cut":true,"b":false}"#),
        (written(|o| o.u64("n", 0).u64("m", u64::MAX)), r#"{"n":0,"m":18446744073709551615}"#),
        (
            written(|o| o.i64("a", i64::MIN).i64("b", -1).i64("c", i64::MAX)),
            r#"{"a":-9223372036854775808,"b":-1,"c":9223372036854775807}"#,
        ),
        (
            written(|o| o.str("file", "/f").u64("offset", 7).time("time", 0).str("m", "x\n\"é")),
            r#"{"file":"/f","offset":7,"time":"1970-01-01T00:00:00.000Z","m":"x\n\"é"}"#,
        ),
    ] {
        assert_eq!(got, want);
    }
}

#[test]
fn an_object_is_appended_to_what_the_buffer_holds() {
    let mut out = b"before\n".to_vec();
    JsonObject::begin(&mut out).u64("a", 1).end();
    out.push(b'\n');
    JsonObject::begin(&mut out).end();
    assert_eq!(out, b"before\n{\"a\":1}\n{}");
}

#[test]
fn times_have_four_digits_of_year_and_three_of_fraction() {
    for (ms, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_795_269_120_082, "2026-11-21T13:52:00.082Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        // Beyond these years there is no such text: the nearest.
        (-62_135_596_800_001, "0001-01-01T00:00:00.000Z"),
        (253_402_300_800_000, "9999-12-31T23:59:59.999Z"),
        (i64::MIN, "0001-01-01T00:00:00.000Z"),
        (i64::MAX, "9999-12-31T23:59:59.999Z"),
    ] {
        assert_eq!(written(|o| o.time("t", ms)), format!(r#"{{"t":"{text}"}}"#), "{ms}");
    }
}

#[test]
fn every_character_is_escaped_as_serde_json_does_it_wherever_it_stands() {
    for special in (0..=0xff).filter_map(char::from_u32).chain(['\u{2028}', '\u{ffff}', '😀']) {
        for before in 0..9 {
            for after in [0, 1, 7, 8] {
                let text = "x".repeat(before) + &special.to_string() + &"y".repeat(after);
                let want = serde_json::to_string(&text).expect("a string");
                assert_eq!(written(|o| o.str("a", &text)), format!("{{\"a\":{want}}}"));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_written_reads_back_the_same(
        name in any::<String>(),
        text in prop_oneof![any::<String>(), "[\"\\\\\u{0}-\u{21}aé😀]{0,40}"],
        number in any::<u64>(),
        signed in any::<i64>(),
        flag in any::<bool>(),
    ) {
        let line = written(|o| {
            o.str("text", &text).u64("number", number).i64("signed", signed).bool("flag", flag)
        });
        let back: serde_json::Value = serde_json::from_str(&line).expect("what was written is JSON");
        let want = serde_json::json!({
            "text": text, "number": number, "signed": signed, "flag": flag
        });
        prop_assert_eq!(back, want);
        prop_assert!(!line.contains('\n'), "one object is one line");

        // Names are escaped like values.
        let line = written(|o| o.str(&name, &text));
        let (name, text) = (serde_json::json!(name), serde_json::json!(text));
        prop_assert_eq!(line, format!("{{{name}:{text}}}"));
    }
}

#[test]
fn compressed_and_binary_files_are_told_from_text() {
    for (head, reason) in [
        (&b"\x1f\x8b\x08\x00\x00"[..], "gzip"),
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd\x04", "zstd"),
        (b"\xfd7zXZ\x00\x00", "xz"),
        (b"\x04\x22\x4d\x18\x64", "lz4"),
        (b"\x02\x21\x4c\x18\x64", "lz4"),
        (b"\x50\x2a\x4d\x18\x04", "lz4 or zstd"),
        (b"\x5f\x2a\x4d\x18\x04", "lz4 or zstd"),
        (b"BZh91AY&SY\x01", "bzip2"),
        (b"BZh1\x17\x72\x45\x38\x50\x90\x00", "bzip2"),
        (b"PK\x03\x04\x14", "zip"),
        (b"PK\x05\x06\x00", "zip"),
        (b"PK\x07\x08", "zip"),
        (b"\xff\x06\x00\x00sNaPpY\x01", "snappy"),
        (b"\x1f\x9d\x90", "compress"),
        (b"LZIP\x01\x0c", "lzip"),
        (b"7z\xbc\xaf\x27\x1c\x00", "7-Zip"),
        (b"\0", "NUL"),
        (b"text\ntext\0", "NUL"),
        (b"\xff\xfea\0b\0", "NUL"),
        (b"\x7fELF\x02\x01\x01\0", "NUL"),
    ] {
        let got = looks_binary(head).expect("no text");
        assert!(got.contains(reason), "{head:?}: {got}");
    }
}

#[test]
fn text_is_text_whatever_it_looks_like_further_on() {
    let mut far = vec![b'x'; 8192];
    far.push(0);
    for head in [
        &b""[..],
        b"\n",
        b"Nov 21 13:52:00 db1 cron[7]: ok\n",
        b"BZh is how a bzip2 file begins\n",
        b"BZh9",
        b"BZh01AY&SY",
        b"PK is a name\n",
        b"LZIP it\n",
        b"7z x\n",
        b"\x1f",
        b"\xfd7zXZ",
        b"\x60\x2a\x4d\x18 text",
        b"\xff\xfe\xfd no UTF-8\n",
        b"x\x1f\x8b\x08",
        &far,
    ] {
        assert_eq!(looks_binary(head), None, "{head:?}");
    }
    assert!(looks_binary(&far[1..]).is_some());
}
