//! Where to go on in a file, as bytes in the log.
//!
//! ```text
//!   u8 version = 1 | u8 flags: 1 birth, 2 twin, 4 text, 8 binary
//!   key     u64 dev  u64 ino  u32 generation         the split
//!   origin  u64 dev  u64 ino  u32 generation         the file as it was first found
//!   [birth  i64 nanoseconds]   [twin  u64 dev  u64 ino  u32 generation]
//!   u64 offset  u64 chain  u64 head  first[min(64, offset)]  mark[min(64, offset)]
//!   u8 length, opening    u64 lines   i64 mtime
//!   u8 length, boot id   u16 length, path             integers big-endian
//! ```
//!
//! Always true here: `offset` is the first byte that no pushed record covers; a position holds what
//! is needed to go on *without reading again* what is before it; its size is bounded by the path.
//! Bytes that are not exactly such a position are refused with the split's name.

use std::sync::Arc;

use bytes::Bytes;

use super::identity::{BLOCK, FileId, Key, Prefix};
use crate::error::{Error, Result};
use crate::source::{Position, Split};

const VERSION: u8 = 1;
const BIRTH: u8 = 1;
const TWIN: u8 = 2;
const TEXT: u8 = 4;
const BINARY: u8 = 8;
/// The longest path kept: what Linux allows.
pub(crate) const PATH_MAX: usize = 4096;
/// The longest boot id kept.
pub(crate) const BOOT_MAX: usize = 64;

/// The file a line came from, as it was first found: unchanged by renames and copies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    /// The content's key when it was first found: the key of its records.
    pub(crate) key: Key,
    /// The absolute path under which it was first found, as the system's bytes.
    pub(crate) path: Arc<[u8]>,
}

/// Where to go on in one content of one file.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct FilePosition {
    /// The split.
    pub(crate) key: Key,
    /// What its records name.
    pub(crate) origin: Origin,
    /// When the inode was born, where the system knows.
    pub(crate) birth_ns: Option<i64>,
    /// The file whose bytes these are, when this one is but a copy and not read.
    pub(crate) twin: Option<Key>,
    /// Whether the file is known to hold text, so that its first bytes need not be judged.
    pub(crate) text: bool,
    /// Passed over because it held no text. Once it does, it is another content.
    pub(crate) binary: bool,
    /// Everything before the offset.
    pub(crate) prefix: Prefix,
    /// The first bytes of a file of which nothing was read yet, at most 64: what tells it from
    /// another one under its number. Empty for a file that was registered without a look inside.
    pub(crate) opening: Opening,
    /// Lines pushed.
    pub(crate) lines: u64,
    /// Modification time when the file was last looked at: a file of this time and of just the
    /// offset's length needs no second look after a restart.
    pub(crate) mtime_ms: i64,
    /// The boot in which this was written: after another one a file may have shrunk.
    pub(crate) boot: Arc<str>,
}

/// The first bytes of a file, at most a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Opening {
    bytes: [u8; BLOCK],
    len: u8,
}

impl Opening {
    /// Nothing is known.
    pub(crate) const EMPTY: Self = Self { bytes: [0; BLOCK], len: 0 };

    /// The first of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let len = bytes.len().min(BLOCK);
        let mut opening = Self { len: len as u8, ..Self::EMPTY };
        opening.bytes[..len].copy_from_slice(&bytes[..len]);
        opening
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }
}

impl FilePosition {
    /// The name of its split.
    pub(crate) fn split(key: Key) -> Split {
        Split(Arc::from(key.to_string()))
    }

    /// As bytes.
    pub(crate) fn encode(&self) -> Position {
        let (mark, kept) = self.prefix.mark();
        let mut out = Vec::with_capacity(320);
        out.push(VERSION);
        let birth = if self.birth_ns.is_some() { BIRTH } else { 0 };
        let twin = if self.twin.is_some() { TWIN } else { 0 };
        let text = if self.text { TEXT } else { 0 };
        let binary = if self.binary { BINARY } else { 0 };
        out.push(birth | twin | text | binary);
        put_key(&mut out, self.key);
        put_key(&mut out, self.origin.key);
        if let Some(birth) = self.birth_ns {
            out.extend(birth.to_be_bytes());
        }
        if let Some(twin) = self.twin {
            put_key(&mut out, twin);
        }
        out.extend(self.prefix.len().to_be_bytes());
        out.extend(self.prefix.chain().to_be_bytes());
        out.extend(self.prefix.head().unwrap_or(0).to_be_bytes());
        out.extend(self.prefix.first());
        out.extend(&mark[..kept]);
        out.push(self.opening.len);
        out.extend(self.opening.bytes());
        out.extend(self.lines.to_be_bytes());
        out.extend(self.mtime_ms.to_be_bytes());
        let boot = &self.boot.as_bytes()[..self.boot.len().min(BOOT_MAX)];
        out.push(boot.len() as u8);
        out.extend(boot);
        let path = &self.origin.path[..self.origin.path.len().min(PATH_MAX)];
        out.extend((path.len() as u16).to_be_bytes());
        out.extend(path);
        Position(Bytes::from(out))
    }

    /// Reads what [`FilePosition::encode`] wrote for `split`.
    ///
    /// # Errors
    /// [`Error::Fatal`] naming the split, for another version or bytes that are no position.
    pub(crate) fn decode(split: &Split, position: &Position) -> Result<Self> {
        let refuse = |what: String| Error::Fatal {
            what: format!(
                "the stored position of file {} {what}: use the version that wrote it, or remove \
                 this position to read the file again from its start",
                split.0
            ),
        };
        if let Some(&version) = position.0.first()
            && version != VERSION
        {
            return Err(refuse(format!("has version {version}, this program reads {VERSION}")));
        }
        let found =
            Fields(&position.0).position().ok_or_else(|| refuse("is damaged".to_owned()))?;
        if found.key.to_string() != *split.0 {
            return Err(refuse(format!("is that of file {}", found.key)));
        }
        Ok(found)
    }
}

fn put_key(out: &mut Vec<u8>, key: Key) {
    out.extend(key.file.dev.to_be_bytes());
    out.extend(key.file.ino.to_be_bytes());
    out.extend(key.generation.to_be_bytes());
}

/// What is left to read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn position(mut self) -> Option<FilePosition> {
        let [_version, flags] = self.array()?;
        if flags & !(BIRTH | TWIN | TEXT | BINARY) != 0 {
            return None;
        }
        let key = self.key()?;
        let origin = self.key()?;
        let birth_ns =
            if flags & BIRTH != 0 { Some(self.array().map(i64::from_be_bytes)?) } else { None };
        let twin = if flags & TWIN != 0 { Some(self.key()?) } else { None };
        let [len, chain, head] = [self.u64()?, self.u64()?, self.u64()?];
        let kept = len.min(BLOCK as u64) as usize;
        let prefix = Prefix::from_parts(len, chain, head, self.take(kept)?, self.take(kept)?)?;
        let [opening] = self.array()?;
        let opening = Opening::of(self.take(opening.into())?);
        let lines = self.u64()?;
        let mtime_ms = self.array().map(i64::from_be_bytes)?;
        let [boot] = self.array()?;
        let boot = std::str::from_utf8(self.take(boot.into())?).ok()?;
        let path = u16::from_be_bytes(self.array()?);
        let path = self.take(path.into())?;
        if !self.0.is_empty() || path.len() > PATH_MAX {
            return None;
        }
        Some(FilePosition {
            key,
            origin: Origin { key: origin, path: Arc::from(path) },
            birth_ns,
            twin,
            text: flags & TEXT != 0,
            binary: flags & BINARY != 0,
            prefix,
            opening,
            lines,
            mtime_ms,
            boot: Arc::from(boot),
        })
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn key(&mut self) -> Option<Key> {
        let file = FileId { dev: self.u64()?, ino: self.u64()? };
        let generation = u32::from_be_bytes(self.array()?);
        // The last number is never given out: there is always a next generation.
        (generation < u32::MAX).then_some(Key { file, generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(offset: usize, twin: bool) -> FilePosition {
        let mut prefix = Prefix::EMPTY;
        prefix.advance(&(0..offset).map(|i| i as u8).collect::<Vec<u8>>());
        let key = Key { file: FileId { dev: 7, ino: u64::MAX }, generation: 3 };
        FilePosition {
            key,
            origin: Origin {
                key: Key { file: FileId { dev: 7, ino: 9 }, generation: 0 },
                path: Arc::from(&b"/a/\xff"[..]),
            },
            birth_ns: twin.then_some(-5),
            twin: twin.then_some(key),
            text: !twin,
            binary: twin && offset == 0,
            prefix,
            opening: Opening::of(&[b'o'; 70][..if offset == 0 { 70 } else { 0 }]),
            lines: 12,
            mtime_ms: -1,
            boot: Arc::from("boot"),
        }
    }

    #[test]
    fn position_comes_back_as_it_was() {
        for (offset, twin) in
            [(0, false), (0, true), (1, true), (63, false), (64, true), (1024, false), (5000, true)]
        {
            let position = sample(offset, twin);
            let split = FilePosition::split(position.key);
            let back = FilePosition::decode(&split, &position.encode()).expect("own bytes");
            assert_eq!(back, position, "offset {offset}");
            assert_eq!(back.prefix.head(), position.prefix.head());
            assert_eq!(back.prefix.first(), position.prefix.first());
        }
    }

    #[test]
    fn bytes_that_are_no_position_are_refused_by_name() {
        let position = sample(100, true);
        let split = FilePosition::split(position.key);
        let bytes = position.encode().0;
        let mut cases: Vec<Vec<u8>> = (0..bytes.len()).map(|end| bytes[..end].to_vec()).collect();
        cases.push([&bytes[..], b"x"].concat());
        cases.push([&[2u8][..], &bytes[1..]].concat());
        cases.push([&bytes[..1], &[255], &bytes[2..]].concat());
        for case in cases {
            let error = FilePosition::decode(&split, &Position(Bytes::from(case)))
                .expect_err("not a position")
                .to_string();
            assert!(error.contains(&*split.0), "{error}");
        }
        let other = FilePosition::split(Key { generation: 4, ..position.key });
        assert!(FilePosition::decode(&other, &position.encode()).is_err());
    }
}
