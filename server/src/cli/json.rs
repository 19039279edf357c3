//! A record as one line of JSON, out and in; `consume --json | produce --json` copies records exactly.
//!
//! ```text
//!   {"topic":"t","partition":0,"offset":7,"timestamp":1795269120082,"timestamp_type":"CreateTime",
//!    "key":null,"value":{"base64":"/w=="},"headers":[{"key":"unit","value":"celsius"}]}
//!
//!   text that is UTF-8 <-> a string     other bytes <-> {"base64": "..."}     null <-> null
//! ```
//!
//! Always true here: what is read is checked to the last field: unknown fields, a missing value, and
//! values of other types are refused with the column; nothing is guessed.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use thalweg_core::ids::{Timestamp, TopicPartition};
use thalweg_core::record::RecordRef;

// ---------------------------------------------------------------- out

/// The part of a line that all records of a partition share.
pub(crate) fn prefix(at: &TopicPartition) -> Vec<u8> {
    let mut prefix = b"{\"topic\":".to_vec();
    put_text(&mut prefix, at.topic.as_bytes());
    prefix.extend_from_slice(format!(",\"partition\":{},\"offset\":", at.partition).as_bytes());
    prefix
}

/// Writes a record as one line.
pub(crate) fn put_record(
    out: &mut Vec<u8>,
    prefix: &[u8],
    log_append_time: bool,
    record: &RecordRef<'_>,
) {
    out.extend_from_slice(prefix);
    put_number(out, record.offset);
    out.extend_from_slice(b",\"timestamp\":");
    put_number(out, record.timestamp);
    let kind: &[u8] = if log_append_time { b"LogAppendTime" } else { b"CreateTime" };
    out.extend_from_slice(b",\"timestamp_type\":\"");
    out.extend_from_slice(kind);
    out.extend_from_slice(b"\",");
    put_content(out, record);
    out.extend_from_slice(b"}\n");
}

/// Writes key, value and headers as members of an object.
pub(crate) fn put_content(out: &mut Vec<u8>, record: &RecordRef<'_>) {
    out.extend_from_slice(b"\"key\":");
    put_nullable(out, record.key);
    out.extend_from_slice(b",\"value\":");
    put_nullable(out, record.value);
    out.extend_from_slice(b",\"headers\":[");
    for (i, (key, value)) in record.headers.iter().enumerate() {
        out.extend_from_slice(if i == 0 { b"{\"key\":" } else { b",{\"key\":" });
        put_text(out, key);
        out.extend_from_slice(b",\"value\":");
        put_nullable(out, value);
        out.push(b'}');
    }
    out.push(b']');
}

fn put_number(out: &mut Vec<u8>, number: i64) {
    write!(out, "{number}").expect("a vector takes everything");
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => out.extend_from_slice(b"null"),
        Some(bytes) => put_text(out, bytes),
    }
}

/// Writes bytes as a string, or as an object where they are no text.
pub(crate) fn put_text(out: &mut Vec<u8>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::to_writer(out, text).expect("a vector takes everything"),
        Err(_) => {
            let text = STANDARD.encode(bytes);
            write!(out, "{{\"base64\":\"{text}\"}}").expect("a vector takes everything");
        }
    }
}

// ---------------------------------------------------------------- in

/// Bytes of a line, borrowed from it where nothing was escaped; `None` is null.
type Content<'a> = Option<Cow<'a, [u8]>>;

/// A record as a line says it.
#[derive(Default, Debug)]
pub(crate) struct Line<'a> {
    /// The partition, where the line says one.
    pub(crate) partition: Option<u32>,
    /// The time, where the line says one.
    pub(crate) timestamp: Option<Timestamp>,
    /// The key.
    pub(crate) key: Content<'a>,
    /// The value.
    pub(crate) value: Content<'a>,
    /// The headers, in order.
    pub(crate) headers: Vec<(Cow<'a, [u8]>, Content<'a>)>,
}

/// What is wrong with a line, and in which column (a byte, from 1).
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) column: usize,
    pub(crate) what: String,
}

/// Reads a line; with `raw`, keys and values of other types are stored as their text.
pub(crate) fn parse(line: &[u8], raw: bool) -> Result<Line<'_>, Bad> {
    let begin = line.len() - line.trim_ascii_start().len();
    // Derived code would take a list of the members' values too.
    if line.get(begin) != Some(&b'{') {
        let what = "expected one JSON object a line, as `consume --json` writes them".to_owned();
        return Err(Bad { column: begin + 1, what });
    }
    if raw { Object::<'_, Raw<'_>>::read(line) } else { Object::<'_, Plain<'_>>::read(line) }
}

/// A JSON value that stands for bytes.
trait Bytes<'a>: Deserialize<'a> {
    fn into_content(self) -> Result<Content<'a>, serde_json::Error>;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "V: Deserialize<'de>"))]
struct Object<'a, V> {
    // Known, and ignored.
    #[serde(default, rename = "topic")]
    _topic: IgnoredAny,
    #[serde(default, rename = "offset")]
    _offset: IgnoredAny,
    #[serde(default, rename = "timestamp_type")]
    _timestamp_type: IgnoredAny,
    #[serde(default)]
    partition: Option<u32>,
    #[serde(default)]
    timestamp: Option<i64>,
    key: Option<V>,
    // `deserialize_with` takes away what makes a missing option null.
    #[serde(deserialize_with = "required")]
    value: Option<V>,
    #[serde(borrow, default)]
    headers: Headers<'a>,
}

fn required<'de, D: Deserializer<'de>, V: Deserialize<'de>>(d: D) -> Result<Option<V>, D::Error> {
    Option::deserialize(d)
}

impl<'a, V: Bytes<'a>> Object<'a, V> {
    fn read(line: &'a [u8]) -> Result<Line<'a>, Bad> {
        let object: Self = serde_json::from_slice(line).map_err(|e| bad(&e))?;
        let content = |value: Option<V>| value.map_or(Ok(None), V::into_content);
        Ok(Line {
            partition: object.partition,
            timestamp: object.timestamp,
            key: content(object.key).map_err(|e| bad(&e))?,
            value: content(object.value).map_err(|e| bad(&e))?,
            headers: object.headers.0,
        })
    }
}

fn bad(e: &serde_json::Error) -> Bad {
    let text = e.to_string();
    // The place is told with the line's number in the input.
    let what = text.split(" at line 1 column").next().unwrap_or(&text);
    let what = match what {
        "missing field `value`" => {
            "missing field `value`: give one; null stands for none, a tombstone".to_owned()
        }
        what => what.to_owned(),
    };
    Bad { column: e.column().max(1), what }
}

/// A string, or `{"base64": "..."}`.
struct Plain<'a>(Cow<'a, [u8]>);

impl<'a> Bytes<'a> for Plain<'a> {
    fn into_content(self) -> Result<Content<'a>, serde_json::Error> {
        Ok(Some(self.0))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Plain<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(PlainVisitor(PhantomData))
    }
}

struct PlainVisitor<'a>(PhantomData<&'a ()>);

impl PlainVisitor<'_> {
    fn other<E: de::Error, T>(what: &str) -> Result<T, E> {
        Err(E::custom(format_args!(
            "{what}: use a string, null or {{\"base64\": \"...\"}}, or say --raw-json to store the JSON text of keys and values"
        )))
    }
}

impl<'de: 'a, 'a> Visitor<'de> for PlainVisitor<'a> {
    type Value = Plain<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or {\"base64\": \"...\"}")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Plain(Cow::Borrowed(text.as_bytes())))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Plain(Cow::Owned(text.as_bytes().to_vec())))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
        Self::other("a boolean")
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
        Self::other("a number")
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
        Self::other("a number")
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Self::other("a number")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Self::other("a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let other = || Self::other("an object");
        if map.next_key::<String>()?.as_deref() != Some("base64") {
            return other();
        }
        let text: String = map.next_value()?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(|e| {
            de::Error::custom(format_args!("base64: {e}; use the standard alphabet, padded"))
        })?;
        if map.next_key::<IgnoredAny>()?.is_some() {
            return other();
        }
        Ok(Plain(Cow::Owned(bytes)))
    }
}

/// Any JSON value: a string is its characters, anything else its text.
struct Raw<'a>(&'a RawValue);

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(d).map(Self)
    }
}

impl<'a> Bytes<'a> for Raw<'a> {
    fn into_content(self) -> Result<Content<'a>, serde_json::Error> {
        let text = self.0.get();
        if text.starts_with('"') {
            let text: String = serde_json::from_str(text)?;
            return Ok(Some(Cow::Owned(text.into_bytes())));
        }
        Ok(Some(Cow::Borrowed(text.as_bytes())))
    }
}

/// Headers: a list of `{"key","value"}`, or an object.
#[derive(Default)]
struct Headers<'a>(Vec<(Cow<'a, [u8]>, Content<'a>)>);

/// One header of a list.
struct OneHeader<'a> {
    key: Plain<'a>,
    value: Option<Plain<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for OneHeader<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(OneHeaderVisitor(PhantomData))
    }
}

struct OneHeaderVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for OneHeaderVisitor<'a> {
    type Value = OneHeader<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header: {\"key\",\"value\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut key, mut value) = (None, None);
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "key" if key.is_none() => key = Some(map.next_value()?),
                "value" if value.is_none() => value = Some(map.next_value()?),
                "key" => return Err(de::Error::duplicate_field("key")),
                "value" => return Err(de::Error::duplicate_field("value")),
                other => return Err(de::Error::unknown_field(other, &["key", "value"])),
            }
        }
        Ok(OneHeader {
            key: key.ok_or_else(|| de::Error::missing_field("key"))?,
            value: value.ok_or_else(|| de::Error::missing_field("value"))?,
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Headers<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(HeadersVisitor(PhantomData))
    }
}

struct HeadersVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for HeadersVisitor<'a> {
    type Value = Headers<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("headers: a list of {\"key\",\"value\"}, or an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut headers = Vec::new();
        while let Some(OneHeader { key, value }) = list.next_element()? {
            headers.push((key.0, value.map(|value| value.0)));
        }
        Ok(Headers(headers))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut headers = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let value: Option<Plain<'a>> = map.next_value()?;
            headers.push((Cow::Owned(key.into_bytes()), value.map(|value| value.0)));
        }
        Ok(Headers(headers))
    }
}
