//! F1 · Records: borrowed from a batch, or owned and on their way into one.
//!
//! Always true here: null and empty are different things for keys, values and header values; a
//! [`RecordRef`] was checked against the bounds of its batch when it was read, so that nothing in it
//! can fail or panic later.

use std::fmt;

use bytes::Bytes;

use crate::ids::{Offset, Timestamp};
use crate::varint::read_varint;

/// The header of a record that carries a stream's watermark to a partition without records. Such a
/// record holds no user data.
pub const WATERMARK_HEADER: &str = "__tw.wm";

/// The header of a record that says that a source begins, or is done with, reading a backlog in this
/// partition. Such a record holds no user data.
pub const BACKLOG_HEADER: &str = "__tw.backlog";

/// Whose time the records of a batch carry. Kafka's `message.timestamp.type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimestampType {
    /// Each record its own: the producer's.
    #[default]
    CreateTime,
    /// All the same: when the log appended the batch.
    LogAppendTime,
}

/// One record of a batch, borrowed from the batch's bytes or from the scratch it was decompressed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordRef<'a> {
    /// Its position in the partition.
    pub offset: Offset,
    /// Its time in milliseconds since 1970: the producer's, -1 for none; or the log's, see
    /// [`TimestampType`].
    pub timestamp: Timestamp,
    /// Its key; `None` is null, which is not the empty key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is null, the tombstone of compacted topics.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
}

/// The headers of a record, in the order they were written. Keys may repeat.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Takes `count` headers from the front of `bytes`, checks each, and gives back what follows.
    pub(crate) fn read(count: u32, bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut rest = bytes;
        for _ in 0..count {
            (_, _, rest) = read_header(rest)?;
        }
        let used = bytes.len() - rest.len();
        Some((Self { count, bytes: &bytes[..used] }, rest))
    }

    /// The headers one by one: key, and value or null.
    pub fn iter(&self) -> HeaderIter<'a> {
        HeaderIter { left: self.count, rest: self.bytes }
    }

    /// The value of the first header of this key; `Some(None)` when that header's value is null.
    pub fn get(&self, key: &[u8]) -> Option<Option<&'a [u8]>> {
        self.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// How many headers there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        f.debug_map().entries(self.iter().map(|(k, v)| (text(k), v.map(text)))).finish()
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);
    type IntoIter = HeaderIter<'a>;

    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

/// Iterates over [`Headers`].
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    left: u32,
    rest: &'a [u8],
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (key, value, rest) = read_header(self.rest)?;
        self.rest = rest;
        Some((key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for HeaderIter<'_> {}

type RawHeader<'a> = (&'a [u8], Option<&'a [u8]>, &'a [u8]);

#[inline]
fn read_header(bytes: &[u8]) -> Option<RawHeader<'_>> {
    let (key, rest) = read_nullable(bytes)?;
    let (value, rest) = read_nullable(rest)?;
    Some((key?, value, rest))
}

/// Reads a length and as many bytes; the length -1 is null.
#[inline]
pub(crate) fn read_nullable(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (len, rest) = read_varint(bytes)?;
    if len == -1 {
        return Some((None, rest));
    }
    let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    Some((Some(value), rest))
}

/// A header of an owned record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Its key. Keys that start with `__tw.` are kept for the log itself.
    pub key: String,
    /// Its value, or null.
    pub value: Option<Bytes>,
}

/// A record that owns its bytes: what is handed to a producer.
///
/// ```
/// use thalweg_core::record::Record;
///
/// let record = Record::value("42 degrees").key("sensor-7").header("unit", "celsius");
/// assert_eq!(record.key.as_deref(), Some(&b"sensor-7"[..]));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Its time; `None`: when it is sent.
    pub timestamp: Option<Timestamp>,
    /// Its key, or null.
    pub key: Option<Bytes>,
    /// Its value, or null.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<Header>,
}

impl Record {
    /// A record of this value, without a key.
    pub fn value(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// A record that says that its key has no value any more. It means something only with a key.
    pub fn tombstone(key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    /// Gives the record a key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Gives the record a time, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header { key: key.into(), value: Some(value.into()) });
        self
    }
}

/// A transaction that was aborted, as far as a range of a partition is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbortedTransaction {
    /// Whose it was.
    pub producer_id: i64,
    /// The offset of its first record in the partition.
    pub first_offset: Offset,
    /// The offset of its ABORT marker.
    pub last_offset: Offset,
}
