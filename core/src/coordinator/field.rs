//! F5 · Kafka's field types, as the records of internal topics use them.
//!
//! ```text
//!   int8/16/32/64   big-endian                      uvarint  7 bits a byte, low first
//!                   classic versions                flexible versions
//!   string          int16 length, UTF-8             uvarint length + 1, UTF-8
//!   bytes           int32 length                    uvarint length + 1
//!   array           int32 count                     uvarint count + 1
//!   null            length or count -1              length or count 0
//!   end of struct   nothing                         uvarint count of tagged fields, then each as
//!                                                   uvarint tag, uvarint size, bytes; by tag
//! ```
//!
//! Always true here: a length is checked against the bytes that are left before it is believed, so
//! that hostile bytes allocate nothing and never panic. Source: KIP-482.

use bytes::Bytes;

use super::Malformed;
use crate::varint;

/// Reads fields one after the other.
pub(super) struct Reader<'a> {
    part: &'static str,
    bytes: &'a [u8],
    at: usize,
    /// Whether strings, arrays and ends of structs have their flexible form.
    pub(super) flexible: bool,
}

type Read<T> = Result<T, Malformed>;

impl<'a> Reader<'a> {
    pub(super) fn key(bytes: &'a [u8]) -> Self {
        Self { part: "key", bytes, at: 0, flexible: false }
    }

    pub(super) fn value(bytes: &'a [u8]) -> Self {
        Self { part: "value", bytes, at: 0, flexible: false }
    }

    pub(super) fn malformed(&self, what: impl Into<String>) -> Malformed {
        Malformed { part: self.part, position: self.at, what: what.into() }
    }

    pub(super) fn take(&mut self, count: usize, what: &str) -> Read<&'a [u8]> {
        let left = self.bytes.len() - self.at;
        if count > left {
            return Err(self.malformed(format!("{what} needs {count} bytes, {left} are left")));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Read<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    pub(super) fn i8(&mut self, what: &str) -> Read<i8> {
        self.array(what).map(i8::from_be_bytes)
    }

    pub(super) fn i16(&mut self, what: &str) -> Read<i16> {
        self.array(what).map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self, what: &str) -> Read<i32> {
        self.array(what).map(i32::from_be_bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Read<u32> {
        self.array(what).map(u32::from_be_bytes)
    }

    pub(super) fn i64(&mut self, what: &str) -> Read<i64> {
        self.array(what).map(i64::from_be_bytes)
    }

    pub(super) fn bytes16(&mut self, what: &str) -> Read<[u8; 16]> {
        self.array(what)
    }

    pub(super) fn uvarint(&mut self, what: &str) -> Read<u32> {
        let Some((value, rest)) = varint::read_unsigned(&self.bytes[self.at..]) else {
            return Err(self.malformed(format!("{what} is no number of 32 bits")));
        };
        self.at = self.bytes.len() - rest.len();
        Ok(value)
    }

    /// A length or count whose null is -1 (classic, of `wide` bytes) or 0 (flexible).
    fn length(&mut self, what: &str, wide: bool) -> Read<Option<usize>> {
        let length = match (self.flexible, wide) {
            (true, _) => i64::from(self.uvarint(what)?) - 1,
            (false, true) => i64::from(self.i32(what)?),
            (false, false) => i64::from(self.i16(what)?),
        };
        match length {
            -1 => Ok(None),
            _ => usize::try_from(length)
                .map(Some)
                .map_err(|_| self.malformed(format!("{what} has length {length}"))),
        }
    }

    pub(super) fn nullable_text(&mut self, what: &str) -> Read<Option<&'a str>> {
        let Some(length) = self.length(what, false)? else { return Ok(None) };
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes)
            .map(Some)
            .map_err(|_| self.malformed(format!("{what} is not UTF-8")))
    }

    pub(super) fn text(&mut self, what: &str) -> Read<&'a str> {
        self.nullable_text(what)?.ok_or_else(|| self.malformed(format!("{what} is null")))
    }

    pub(super) fn blob(&mut self, what: &str) -> Read<&'a [u8]> {
        let length =
            self.length(what, true)?.ok_or_else(|| self.malformed(format!("{what} is null")))?;
        self.take(length, what)
    }

    /// The count of an array whose items take at least `item_bytes_min` each.
    pub(super) fn nullable_items(
        &mut self,
        what: &str,
        item_bytes_min: usize,
    ) -> Read<Option<usize>> {
        let count = self.length(what, true)?;
        let left = self.bytes.len() - self.at;
        match count {
            Some(count) if count > left / item_bytes_min => {
                Err(self.malformed(format!("{count} {what} cannot be in {left} bytes")))
            }
            count => Ok(count),
        }
    }

    pub(super) fn items(&mut self, what: &str, item_bytes_min: usize) -> Read<usize> {
        self.nullable_items(what, item_bytes_min)?
            .ok_or_else(|| self.malformed(format!("{what} is null")))
    }

    /// Text without a length, up to the end.
    pub(super) fn rest_as_text(&mut self, what: &str) -> Read<&'a str> {
        let bytes = self.take(self.bytes.len() - self.at, what)?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed(format!("{what} is not UTF-8")))
    }

    /// The tagged fields at the end of a struct, each with its own reader. None in classic versions.
    pub(super) fn tags(&mut self, mut field: impl FnMut(u32, &mut Self) -> Read<()>) -> Read<()> {
        if !self.flexible {
            return Ok(());
        }
        let count = self.uvarint("count of tagged fields")?;
        for _ in 0..count {
            let tag = self.uvarint("tag")?;
            let size = self.uvarint("size of a tagged field")? as usize;
            let start = self.at;
            self.take(size, "tagged field")?;
            let mut inner = Reader {
                part: self.part,
                bytes: &self.bytes[..self.at],
                at: start,
                flexible: true,
            };
            field(tag, &mut inner)?;
        }
        Ok(())
    }

    /// Tagged fields of which none is known here.
    pub(super) fn skip_tags(&mut self) -> Read<()> {
        self.tags(|_, _| Ok(()))
    }

    pub(super) fn end(&self) -> Read<()> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            left => Err(self.malformed(format!("{left} bytes too many"))),
        }
    }
}

/// Writes fields one after the other.
pub(super) struct Writer {
    bytes: Vec<u8>,
    flexible: bool,
}

impl Writer {
    pub(super) fn classic() -> Self {
        Self { bytes: Vec::with_capacity(64), flexible: false }
    }

    pub(super) fn flexible() -> Self {
        Self { bytes: Vec::with_capacity(128), flexible: true }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn i8(&mut self, value: i8) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn i16(&mut self, value: i16) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.put(&value.to_be_bytes());
    }

    fn uvarint(&mut self, value: u32) {
        varint::put_unsigned(&mut self.bytes, u64::from(value));
    }

    pub(super) fn text(&mut self, text: &str) {
        let length = i16::try_from(text.len())
            .expect("names, ids and metadata were checked to fit an int16");
        if self.flexible {
            self.uvarint(u32::from(length.unsigned_abs()) + 1);
        } else {
            self.i16(length);
        }
        self.put(text.as_bytes());
    }

    pub(super) fn no_text(&mut self) {
        if self.flexible { self.uvarint(0) } else { self.i16(-1) }
    }

    pub(super) fn blob(&mut self, bytes: &[u8]) {
        self.items(bytes.len());
        self.put(bytes);
    }

    pub(super) fn items(&mut self, count: usize) {
        let count = i32::try_from(count).expect("a record holds less than 2^31 items");
        if self.flexible {
            self.uvarint(count.unsigned_abs() + 1);
        } else {
            self.i32(count);
        }
    }

    pub(super) fn no_items(&mut self) {
        if self.flexible { self.uvarint(0) } else { self.i32(-1) }
    }

    /// The tagged fields at the end of a struct, ascending by tag. Nothing in classic versions.
    pub(super) fn tags(&mut self, fields: &[(u32, Vec<u8>)]) {
        if !self.flexible {
            return;
        }
        debug_assert!(fields.is_sorted_by(|a, b| a.0 < b.0), "readers expect ascending tags");
        self.items_raw(fields.len());
        for (tag, bytes) in fields {
            self.uvarint(*tag);
            self.items_raw(bytes.len());
            self.put(bytes);
        }
    }

    fn items_raw(&mut self, count: usize) {
        self.uvarint(u32::try_from(count).expect("a record holds less than 2^32 bytes"));
    }

    pub(super) fn into_vec(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes.into()
    }
}
