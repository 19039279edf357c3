//! Which file this is: the names a file system gives it, and the bytes that were read from it.
//!
//! ```text
//!   0        64       128                    1024                     len / 64 * 64   len
//!   |  first  | block | block | ...            |  ...                       | partial |
//!   |         |                                |                            |         |
//!   kept raw  chain = link(chain, xxh3(block))   head = chain here           chain     kept raw in
//!                                                                                     `tail`
//! ```
//!
//! Always true here: a [`Prefix`] stands for *all* bytes before its length. It takes more bytes
//! without looking back, it can be stored and taken up again, and two of them are equal only when
//! the bytes are (up to a collision of 64 bits). The last 64 bytes are kept as they are: they are
//! the mark that is compared with the file before anything is read behind it, and they hold the
//! block that is not yet full.

use std::fmt;

use thalweg_core::disk::{DiskFile, Stat};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes hashed in one step, and kept raw at both ends of a prefix.
pub(crate) const BLOCK: usize = 64;
/// Where the head ends: with this many bytes a file counts as recognisable.
pub(crate) const HEAD: usize = 1024;

/// A file as the file system names it, whatever its path is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FileId {
    /// The device.
    pub(crate) dev: u64,
    /// The number on the device; reused after removal.
    pub(crate) ino: u64,
}

impl FileId {
    /// The file a stat speaks of.
    pub(crate) fn of(stat: &Stat) -> Self {
        Self { dev: stat.dev, ino: stat.ino }
    }
}

/// One content of a file: the number rises when a file is truncated, rewritten, or its inode reused.
///
/// Its text, `dev:ino:generation`, names the split, and the file in records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    /// The file.
    pub(crate) file: FileId,
    /// Which of its contents, from 0.
    pub(crate) generation: u32,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.dev, self.file.ino, self.generation)
    }
}

/// All bytes of a file before `len`, in 160 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefix {
    len: u64,
    /// Over all full blocks below `len`.
    chain: u64,
    /// The chain at [`HEAD`], once `len` is there.
    head: u64,
    /// The first bytes, at most a block.
    first: [u8; BLOCK],
    /// The last bytes, at most a block; the byte at position `p` lies at `p % 64`.
    tail: [u8; BLOCK],
}

impl Prefix {
    /// No bytes.
    pub(crate) const EMPTY: Self =
        Self { len: 0, chain: 0, head: 0, first: [0; BLOCK], tail: [0; BLOCK] };

    /// Takes up a stored prefix; `None` when the parts do not fit together.
    pub(crate) fn from_parts(
        len: u64,
        chain: u64,
        head: u64,
        first: &[u8],
        mark: &[u8],
    ) -> Option<Self> {
        let kept = kept(len);
        if first.len() != kept || mark.len() != kept {
            return None;
        }
        let mut prefix = Self { len, chain, head, ..Self::EMPTY };
        prefix.first[..kept].copy_from_slice(first);
        for (i, &byte) in mark.iter().enumerate() {
            prefix.tail[((len - kept as u64 + i as u64) % BLOCK as u64) as usize] = byte;
        }
        Some(prefix)
    }

    /// How many bytes it stands for.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The hash of its full blocks.
    pub(crate) fn chain(&self) -> u64 {
        self.chain
    }

    /// The hash of its first [`HEAD`] bytes, when it has as many.
    pub(crate) fn head(&self) -> Option<u64> {
        (self.len >= HEAD as u64).then_some(self.head)
    }

    /// Its first bytes, at most 64.
    pub(crate) fn first(&self) -> &[u8] {
        &self.first[..kept(self.len)]
    }

    /// How many bytes of a file, right before `len`, [`Prefix::ends_with`] wants to see.
    pub(crate) fn mark_len(&self) -> usize {
        kept(self.len)
    }

    /// Its last bytes, in order.
    pub(crate) fn mark(&self) -> ([u8; BLOCK], usize) {
        let kept = kept(self.len);
        let mut bytes = [0; BLOCK];
        let start = self.len - kept as u64;
        for (i, byte) in bytes[..kept].iter_mut().enumerate() {
            *byte = self.tail[((start + i as u64) % BLOCK as u64) as usize];
        }
        (bytes, kept)
    }

    /// Whether `bytes`, of [`Prefix::mark_len`], are its last ones.
    pub(crate) fn ends_with(&self, bytes: &[u8]) -> bool {
        let kept = kept(self.len);
        if kept < BLOCK {
            return bytes == &self.tail[..kept];
        }
        let full = (self.len % BLOCK as u64) as usize;
        bytes.len() == BLOCK
            && bytes[BLOCK - full..] == self.tail[..full]
            && bytes[..BLOCK - full] == self.tail[full..]
    }

    /// Takes the bytes that follow.
    pub(crate) fn advance(&mut self, mut bytes: &[u8]) {
        if self.len < HEAD as u64 {
            let (below, above) = bytes.split_at(bytes.len().min(HEAD - self.len as usize));
            let at = self.len as usize;
            if at < BLOCK {
                let first = below.len().min(BLOCK - at);
                self.first[at..at + first].copy_from_slice(&below[..first]);
            }
            self.absorb(below);
            if self.len == HEAD as u64 {
                self.head = self.chain;
            }
            bytes = above;
        }
        self.absorb(bytes);
    }

    fn absorb(&mut self, mut bytes: &[u8]) {
        let filled = (self.len % BLOCK as u64) as usize;
        self.len += bytes.len() as u64;
        if filled > 0 {
            let (more, rest) = bytes.split_at(bytes.len().min(BLOCK - filled));
            self.tail[filled..filled + more.len()].copy_from_slice(more);
            if filled + more.len() < BLOCK {
                return;
            }
            self.chain = link(self.chain, &self.tail);
            bytes = rest;
        }
        let blocks = bytes.chunks_exact(BLOCK);
        let partial = blocks.remainder();
        let mut chain = self.chain;
        for block in blocks {
            chain = link(chain, block);
        }
        self.chain = chain;
        let full = bytes.len() - partial.len();
        if full > 0 {
            self.tail.copy_from_slice(&bytes[full - BLOCK..full]);
        }
        self.tail[..partial.len()].copy_from_slice(partial);
    }

    /// Whether the file, as far as it goes, begins as this prefix does. A file without a byte, or a
    /// prefix without one, says nothing and agrees.
    pub(crate) fn head_agrees(&self, file: &impl DiskFile) -> std::io::Result<bool> {
        let mut bytes = [0; HEAD];
        let want = (HEAD as u64).min(self.len) as usize;
        let have = read_up_to(file, &mut bytes[..want], 0)?;
        Ok(self.begins_like(&bytes[..have]))
    }

    /// Whether `bytes`, the first of a file, agree with this prefix as far as both can be compared:
    /// by the hash when the whole head is there, by the first bytes otherwise.
    pub(crate) fn begins_like(&self, bytes: &[u8]) -> bool {
        let raw = self.first();
        let common = raw.len().min(bytes.len());
        if raw[..common] != bytes[..common] {
            return false;
        }
        let of = |len: usize| {
            let mut other = Self::EMPTY;
            other.advance(&bytes[..len]);
            other
        };
        match self.head() {
            Some(head) => bytes.len() < HEAD || of(HEAD).chain == head,
            // Below the head's end the prefix itself is the head.
            None => (bytes.len() as u64) < self.len || of(self.len as usize) == *self,
        }
    }

    /// Whether the file still has this prefix's last bytes right before its length.
    pub(crate) fn mark_agrees(&self, file: &impl DiskFile) -> std::io::Result<bool> {
        let mut bytes = [0; BLOCK];
        let kept = self.mark_len();
        let have = read_up_to(file, &mut bytes[..kept], self.len - kept as u64)?;
        Ok(have == kept && self.ends_with(&bytes[..kept]))
    }
}

impl PartialEq for Prefix {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.chain == other.chain && self.mark() == other.mark()
    }
}

/// Reads until `buf` is full or the file ends; how many bytes there were.
pub(crate) fn read_up_to(
    file: &impl DiskFile,
    buf: &mut [u8],
    position: u64,
) -> std::io::Result<usize> {
    let mut have = 0;
    while have < buf.len() {
        match file.read_at(&mut buf[have..], position + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

/// The chain with one more block. The block's hash does not wait for the chain, so that the
/// processor works on several blocks at once; each step can be undone, so that nothing of what came
/// before gets lost.
fn link(chain: u64, block: &[u8]) -> u64 {
    (chain ^ xxh3_64(block)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
}

fn kept(len: u64) -> usize {
    len.min(BLOCK as u64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(bytes: &[u8]) -> Prefix {
        let mut prefix = Prefix::EMPTY;
        prefix.advance(bytes);
        prefix
    }

    proptest! {
        /// However the bytes are cut, and wherever the prefix is stored and taken up again, it is
        /// the same prefix, and it knows its first and last bytes.
        #[test]
        fn prefix_does_not_depend_on_the_cuts(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            cuts in proptest::collection::vec(0usize..3000, 0..8),
        ) {
            let whole = of(&bytes);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut piecewise = Prefix::EMPTY;
            let mut at = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                piecewise.advance(&bytes[at..cut]);
                at = cut;
                let (mark, kept) = piecewise.mark();
                let head = piecewise.head().unwrap_or(0);
                let stored = Prefix::from_parts(
                    piecewise.len(), piecewise.chain(), head, piecewise.first(), &mark[..kept],
                );
                prop_assert_eq!(stored, Some(piecewise));
                piecewise = stored.expect("the parts of a prefix fit together");
            }
            prop_assert_eq!(piecewise, whole);
            prop_assert_eq!(piecewise.head(), whole.head());
            let kept = bytes.len().min(BLOCK);
            prop_assert_eq!(whole.first(), &bytes[..kept]);
            prop_assert!(whole.ends_with(&bytes[bytes.len() - kept..]));
            prop_assert!(whole.begins_like(&bytes));
        }

        /// One changed byte anywhere makes another prefix.
        #[test]
        fn every_byte_counts(
            bytes in proptest::collection::vec(any::<u8>(), 1..3000),
            at in any::<prop::sample::Index>(),
        ) {
            let mut other = bytes.clone();
            let at = at.index(bytes.len());
            other[at] ^= 1;
            prop_assert_ne!(of(&bytes), of(&other));
            if at < HEAD {
                prop_assert!(!of(&bytes).begins_like(&other));
            }
            if at + BLOCK >= bytes.len() {
                let kept = bytes.len().min(BLOCK);
                prop_assert!(!of(&bytes).ends_with(&other[bytes.len() - kept..]));
            }
        }
    }
}
