//! `--format`, as kcat's: words with a percent sign are filled in, the rest stands as it is.
//!
//! Always true here: a format is read once, before anything is consumed; one that makes no sense is
//! refused with what would.

use std::io::Write;

use thalweg_core::ids::TopicPartition;
use thalweg_core::record::RecordRef;

/// A format, in pieces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Format(Vec<Piece>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Literal(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    Headers,
    KeyLength,
    ValueLength,
}

impl Format {
    /// Reads it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '%' => match rest.next() {
                    Some('%') => literal.push(b'%'),
                    word => {
                        let piece = Piece::of(word)?;
                        if !literal.is_empty() {
                            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                        }
                        pieces.push(piece);
                    }
                },
                '\\' => literal.push(escaped(&mut rest)?),
                c => literal.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }

    /// Writes a record.
    pub(crate) fn put(&self, out: &mut Vec<u8>, at: &TopicPartition, record: &RecordRef<'_>) {
        let number = |out: &mut Vec<u8>, number: i64| {
            write!(out, "{number}").expect("a vector takes everything");
        };
        let length = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| bytes.len() as i64);
        for piece in &self.0 {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Topic => out.extend_from_slice(at.topic.as_bytes()),
                Piece::Partition => number(out, i64::from(at.partition)),
                Piece::Offset => number(out, record.offset),
                Piece::Timestamp => number(out, record.timestamp),
                Piece::Key => out.extend_from_slice(record.key.unwrap_or_default()),
                Piece::Value => out.extend_from_slice(record.value.unwrap_or_default()),
                Piece::KeyLength => number(out, length(record.key)),
                Piece::ValueLength => number(out, length(record.value)),
                Piece::Headers => {
                    for (i, (key, value)) in record.headers.iter().enumerate() {
                        out.extend_from_slice(if i == 0 { b"" } else { b"," });
                        out.extend_from_slice(key);
                        out.push(b'=');
                        out.extend_from_slice(value.unwrap_or(b"NULL"));
                    }
                }
            }
        }
    }
}

impl Piece {
    fn of(word: Option<char>) -> Result<Self, String> {
        Ok(match word {
            Some('t') => Self::Topic,
            Some('p') => Self::Partition,
            Some('o') => Self::Offset,
            Some('T') => Self::Timestamp,
            Some('k') => Self::Key,
            Some('s') => Self::Value,
            Some('h') => Self::Headers,
            Some('K') => Self::KeyLength,
            Some('S') => Self::ValueLength,
            other => {
                let word = other.map(String::from).unwrap_or_default();
                return Err(format!(
                    "%{word} means nothing: use %t %p %o %T %k %s %h %K %S, or %% for a percent sign"
                ));
            }
        })
    }
}

/// The byte that an escape stands for.
fn escaped(rest: &mut std::str::Chars<'_>) -> Result<u8, String> {
    Ok(match rest.next() {
        Some('n') => b'\n',
        Some('t') => b'\t',
        Some('r') => b'\r',
        Some('\\') => b'\\',
        Some('x') => {
            let text = rest.as_str();
            let hex = text.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
            let hex = hex.ok_or_else(|| "\\x needs two hexadecimal digits".to_owned())?;
            *rest = text[2..].chars();
            u8::from_str_radix(hex, 16).map_err(|e| e.to_string())?
        }
        other => {
            let word = other.map(String::from).unwrap_or_default();
            return Err(format!("\\{word} means nothing: use \\n \\t \\r \\\\ or \\xHH"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_filled_in_and_nonsense_is_refused() {
        let record = RecordRef {
            offset: 7,
            timestamp: 42,
            key: None,
            value: Some(b"v\xff"),
            headers: Default::default(),
        };
        let at = TopicPartition::new("t", 3);
        for (text, wanted) in [
            ("%s\\n", &b"v\xff\n"[..]),
            ("%t-%p@%o %T", b"t-3@7 42"),
            ("[%k] %K %S %h%%", b"[] -1 2 %"),
            ("\\x00\\xfF\\\\\\t\u{e9}", b"\x00\xff\\\t\xc3\xa9"),
            ("", b""),
        ] {
            let mut out = Vec::new();
            Format::parse(text).expect(text).put(&mut out, &at, &record);
            assert_eq!(out, wanted, "{text}");
        }
        for text in ["%", "%x", "%\u{e9}", "\\", "\\q", "\\x", "\\x1", "\\xg0", "\\x\u{e9}"] {
            assert!(Format::parse(text).is_err(), "{text}");
        }
    }
}
