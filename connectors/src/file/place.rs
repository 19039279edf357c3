//! Where a tailed line is from: the headers of its record.
//!
//! ```text
//!   file    the path where the line's file was first found
//!   offset  8 bytes, big-endian: where the line begins
//!   mtime   8 bytes, big-endian: when the file was last modified, milliseconds since 1970 UTC
//!   cut     8 bytes, big-endian: how long the line is, of which the record holds the beginning
//! ```

use std::borrow::Cow;

/// The header with the path where the line's file was first found.
pub const FILE_HEADER: &str = "file";
/// The header with the byte position of the line's start: 8 bytes, big-endian.
pub const OFFSET_HEADER: &str = "offset";
/// The header with the file's modification time: milliseconds since 1970, 8 bytes, big-endian.
pub const MTIME_HEADER: &str = "mtime";
/// The header of a cut line with its full length: 8 bytes, big-endian.
pub const CUT_HEADER: &str = "cut";

/// Where a tailed line is from.
///
/// ```
/// use thalweg_connectors::decode::{LineContext, LogLine, Zone, decode_line};
/// use thalweg_connectors::file::LinePlace;
/// use thalweg_core::record::RecordRef;
///
/// /// Reads a record of a topic that a [`FileSource`](thalweg_connectors::file::FileSource) fills.
/// fn show(line: &RecordRef<'_>, zone: &Zone) -> Option<String> {
///     let place = LinePlace::of(line.headers)?;
///     let context = LineContext {
///         file: &place.file,
///         mtime_ms: place.mtime_ms,
///         append_time_ms: line.timestamp,
///         zone,
///     };
///     let LogLine { program, .. } = decode_line(line.value?, &context)?;
///     Some(format!("{}:{}: {program}", place.file, place.offset))
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinePlace<'a> {
    /// The path where the line's file was first found; U+FFFD for what is not UTF-8.
    pub file: Cow<'a, str>,
    /// The byte in that file at which the line begins.
    pub offset: u64,
    /// When the file was last modified, milliseconds since 1970 UTC.
    pub mtime_ms: i64,
    /// The bytes of the whole line, when the record holds only its beginning.
    pub cut: Option<u64>,
}

impl<'a> LinePlace<'a> {
    /// Reads the headers of a line's record, each once. `None` when it is no tailed line: one of file,
    /// offset and time is missing or not what a [`FileSource`](super::FileSource) writes.
    #[inline]
    pub fn of(headers: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Option<Self> {
        let (mut file, mut offset, mut mtime, mut cut) = (None, None, None, None);
        for (key, value) in headers {
            let number = || value.and_then(|value| value.try_into().ok());
            if key == FILE_HEADER.as_bytes() {
                file = file.or(value);
            } else if key == OFFSET_HEADER.as_bytes() {
                offset = offset.or_else(number);
            } else if key == MTIME_HEADER.as_bytes() {
                mtime = mtime.or_else(number);
            } else if key == CUT_HEADER.as_bytes() {
                cut = cut.or_else(number);
            }
        }
        Some(Self {
            file: String::from_utf8_lossy(file?),
            offset: u64::from_be_bytes(offset?),
            mtime_ms: i64::from_be_bytes(mtime?),
            cut: cut.map(u64::from_be_bytes),
        })
    }
}
