//! Codecs keep what they promise: values come back, order is kept, and no bytes make them panic.

use std::fmt::Debug;

use bytes::Bytes;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use thalweg_streams::Text;
use thalweg_streams::Windowed;
use thalweg_streams::codec::{Bincode, Codec, Json, NoKey, Nullable, Ordered, Raw, Str};

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
enum Severity {
    Error,
    Warn { code: u16 },
    Info(String, i32),
    Debug(Option<Box<Self>>),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
struct Key {
    program: String,
    severity: Severity,
    line: Option<i64>,
    path: Vec<String>,
    unit: (),
    flags: (bool, char, u8, i8, u128, i128),
}

fn severity() -> impl Strategy<Value = Severity> {
    let leaf = prop_oneof![
        Just(Severity::Error),
        any::<u16>().prop_map(|code| Severity::Warn { code }),
        (text(), any::<i32>()).prop_map(|(text, n)| Severity::Info(text, n)),
    ];
    leaf.prop_recursive(4, 8, 1, |inner| {
        proptest::option::of(inner.prop_map(Box::new)).prop_map(Severity::Debug)
    })
}

/// Text with many zero bytes and common prefixes, where an order is easily lost.
fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![Just('\0'), Just('\u{1}'), Just('a'), any::<char>()],
        0..5,
    )
    .prop_map(String::from_iter)
}

prop_compose! {
    fn key()(
        program in text(),
        severity in severity(),
        line in any::<Option<i64>>(),
        path in proptest::collection::vec(text(), 0..3),
        flags in any::<(bool, char, u8, i8, u128, i128)>(),
    ) -> Key {
        Key { program, severity, line, path, unit: (), flags }
    }
}

fn bytes<T, C: Codec<T>>(codec: &C, value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    codec.encode(value, &mut out).expect("the codec takes this value");
    out
}

proptest! {
    #[test]
    fn ordered_bytes_sort_as_the_values_do(a in key(), b in key()) {
        prop_assert_eq!(a.cmp(&b), bytes(&Ordered, &a).cmp(&bytes(&Ordered, &b)));
    }

    #[test]
    fn ordered_numbers_sort_as_the_values_do(
        a in any::<(i16, i32, i64, u16, u32, u64)>(),
        b in any::<(i16, i32, i64, u16, u32, u64)>(),
    ) {
        prop_assert_eq!(a.cmp(&b), bytes(&Ordered, &a).cmp(&bytes(&Ordered, &b)));
    }

    #[test]
    fn ordered_floats_sort_as_the_values_do(a in any::<f64>(), b in any::<f64>(), c in any::<f32>()) {
        let order = a.partial_cmp(&b).expect("no NaN is made here");
        prop_assert_eq!(order, bytes(&Ordered, &a).cmp(&bytes(&Ordered, &b)));
        prop_assert_eq!(Ordered.decode(&bytes(&Ordered, &a)), Ok(a));
        prop_assert_eq!(Ordered.decode(&bytes(&Ordered, &c)), Ok(c));
    }

    #[test]
    fn windowed_keys_sort_by_end_then_start_then_key(
        a in (any::<i64>(), any::<i64>(), text()),
        b in (any::<i64>(), any::<i64>(), text()),
    ) {
        let windowed = |(end, start, key)| Windowed { end, start, key };
        let (encoded_a, encoded_b) =
            (bytes(&Ordered, &windowed(a.clone())), bytes(&Ordered, &windowed(b.clone())));
        prop_assert_eq!(a.cmp(&b), encoded_a.cmp(&encoded_b));
    }

    #[test]
    fn values_come_back_from_every_codec(value in key()) {
        prop_assert_eq!(Ordered.decode(&bytes(&Ordered, &value)), Ok(value.clone()));
        prop_assert_eq!(Bincode.decode(&bytes(&Bincode, &value)), Ok(value.clone()));
        prop_assert_eq!(Json.decode(&bytes(&Json, &value)), Ok(value.clone()));
        let text = value.program;
        prop_assert_eq!(Str.decode(&bytes(&Str, &text)), Ok(text.clone()));
        let raw = Bytes::from(text);
        prop_assert_eq!(Raw.decode(&bytes(&Raw, &raw)), Ok(raw));
    }

    #[test]
    fn no_bytes_make_a_codec_panic(hostile in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = Codec::<Key>::decode(&Ordered, &hostile);
        let _ = Codec::<Key>::decode(&Bincode, &hostile);
        let _ = Codec::<Key>::decode(&Json, &hostile);
        let _ = Codec::<Vec<String>>::decode(&Ordered, &hostile);
        let _ = Codec::<Vec<String>>::decode(&Bincode, &hostile);
        let _ = Codec::<String>::decode(&Str, &hostile);
        let _ = Codec::<Text>::decode(&Str, &hostile);
    }

    #[test]
    fn what_is_left_over_is_refused(value in key(), more in 1_usize..4) {
        let padded = |mut bytes: Vec<u8>| { bytes.extend(vec![1; more]); bytes };
        prop_assert!(Codec::<Key>::decode(&Ordered, &padded(bytes(&Ordered, &value))).is_err());
        prop_assert!(Codec::<Key>::decode(&Bincode, &padded(bytes(&Bincode, &value))).is_err());
        prop_assert!(Codec::<Key>::decode(&Json, &padded(bytes(&Json, &value))).is_err());
    }

    #[test]
    fn a_value_cut_short_is_refused(value in key(), cut in any::<prop::sample::Index>()) {
        let whole = bytes(&Ordered, &value);
        let cut = &whole[..cut.index(whole.len())];
        prop_assert!(Codec::<Key>::decode(&Ordered, cut).is_err());
    }
}

#[test]
fn ordered_bytes_are_fixed() {
    // These bytes are in state folders and changelogs: a change of any is a new format.
    let cases: [(Vec<u8>, &[u8]); 9] = [
        (bytes(&Ordered, &(1_u16, -1_i16)), &[0, 1, 0x7f, 0xff]),
        (bytes(&Ordered, &"a\0b".to_owned()), &[b'a', 0, 0xff, b'b', 0, 0]),
        (bytes(&Ordered, &Some(true)), &[1, 1]),
        (bytes(&Ordered, &None::<bool>), &[0]),
        (bytes(&Ordered, &vec![1_u8, 2]), &[1, 1, 1, 2, 0]),
        (bytes(&Ordered, &Severity::Warn { code: 7 }), &[1, 0, 7]),
        (bytes(&Ordered, &1.0_f32), &[0xbf, 0x80, 0, 0]),
        (bytes(&Ordered, &'a'), &[0, 0, 0, 0x61]),
        (
            bytes(&Ordered, &Windowed { end: 1_i64, start: 0, key: 2_u8 }),
            &[0x80, 0, 0, 0, 0, 0, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 2],
        ),
    ];
    for (encoded, expected) in cases {
        assert_eq!(encoded, expected);
    }
}

#[test]
fn bincode_bytes_are_those_of_bincode_1() {
    let cases: [(Vec<u8>, &[u8]); 3] = [
        (bytes(&Bincode, &(1_u16, -1_i32)), &[1, 0, 0xff, 0xff, 0xff, 0xff]),
        (bytes(&Bincode, &"ab".to_owned()), &[2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b']),
        (bytes(&Bincode, &Severity::Warn { code: 7 }), &[1, 0, 0, 0, 7, 0]),
    ];
    for (encoded, expected) in cases {
        assert_eq!(encoded, expected);
    }
}

#[test]
fn a_hostile_length_allocates_nothing() {
    let mut bytes = u64::MAX.to_le_bytes().to_vec();
    bytes.extend([0; 16]);
    refuses::<String, _>(&Bincode, &bytes);
    refuses::<Vec<u64>, _>(&Bincode, &bytes);
    refuses::<Vec<u8>, _>(&Bincode, &bytes[..8]);
}

#[test]
fn a_deep_value_is_refused_before_the_stack_ends() {
    // `Debug(Some(Box(Debug(Some(..` without end.
    refuses::<Severity, _>(&Ordered, &[3, 1].repeat(1 << 16));
}

#[test]
fn what_has_no_order_is_refused() {
    let mut out = Vec::new();
    assert!(Ordered.encode(&f64::NAN, &mut out).is_err());
    assert!(Ordered.encode(&f32::NAN, &mut out).is_err());
    let map = std::collections::BTreeMap::from([(1, 2)]);
    assert!(Ordered.encode(&map, &mut out).is_err());
    assert_eq!(bytes(&Ordered, &-0.0_f64), bytes(&Ordered, &0.0_f64), "equal keys, equal bytes");
}

#[test]
fn null_is_not_empty() {
    let text = Nullable(Str);
    assert!(text.is_null(&None::<String>) && !text.is_null(&Some(String::new())));
    assert_eq!(text.decode_nullable(None), Ok(None::<String>));
    assert_eq!(text.decode_nullable(Some(b"")), Ok(Some(String::new())));
    assert!(Codec::<String>::decode_nullable(&Str, None).is_err());
    assert!(NoKey.is_null(&()) && NoKey.decode_nullable(None).is_ok());
}

fn refuses<T: Debug, C: Codec<T>>(codec: &C, bytes: &[u8]) {
    let decoded = codec.decode(bytes);
    assert!(decoded.is_err(), "{decoded:?}");
}
