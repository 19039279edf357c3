//! Tells copies from files of their own.
//!
//! ```text
//!   original   |== consumed, hashed ==|-- not read yet --|
//!   copy A     |======================|------            a twin: not read, looked at at each scan
//!   copy B     |=============|                           shorter: in the making, or stalled
//!   file C     |=====|xxxxxxxxxxxxxxxxxxxxxxxx           a file of its own
//!   file D     |======================|------------------|new lines   outgrew it: its own from there
//! ```
//!
//! While the original is whole, the two files are compared byte by byte. When it is gone, truncated
//! or rewritten, the copy's bytes are hashed and compared with the prefix kept in the original's
//! position; if all of them agree, the position moves over to the copy.
//!
//! Always true here: nothing below 1 KiB is taken for a copy for longer than the patience; every
//! comparison is bounded by a budget of bytes and goes on at the next scan; the copy is measured
//! before the original, so that an original that still grows is never shorter than its copy in the
//! making.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use thalweg_core::disk::{Disk, DiskFile, Open};

use super::discover::is_absent;
use super::identity::{BLOCK, FileId, HEAD, Key, Prefix, read_up_to};
use super::position::Opening;
use super::tail::{Agreement, Held, Seen, Tail, compare, current, path_of};

/// Bytes that two files were found to have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Likeness {
    /// All of them.
    common: Prefix,
    /// Those before the last line that begins within.
    lines: Prefix,
}

impl Likeness {
    /// Everything in `prefix`.
    pub(crate) fn up_to(prefix: Prefix) -> Self {
        Self { common: prefix, lines: prefix }
    }

    /// The common bytes up to the beginning of a line.
    pub(crate) fn lines(&self) -> Prefix {
        self.lines
    }

    /// Whether `len` bytes are in common.
    pub(crate) fn covers(&self, len: u64) -> bool {
        self.common.len() >= len
    }

    fn len(&self) -> u64 {
        self.common.len()
    }

    fn extend(&mut self, bytes: &[u8]) {
        let lines = memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1);
        self.common.advance(&bytes[..lines]);
        if lines > 0 {
            self.lines = self.common;
        }
        self.common.advance(&bytes[lines..]);
    }
}

/// A file of which is not yet known whether it is new.
pub(crate) struct Undecided<F> {
    pub(crate) path: PathBuf,
    pub(crate) birth_ns: Option<i64>,
    pub(crate) seen: Seen,
    /// When it last grew.
    pub(crate) since: i64,
    /// Where a source that reads only once ends.
    pub(crate) end: Option<u64>,
    pub(crate) handle: Option<Held<F>>,
    /// Whether the last scan found it.
    pub(crate) listed: bool,
    /// Its first bytes, when it was looked into.
    pub(crate) opening: Opening,
    /// Its length when it was measured in this scan.
    pub(crate) measured: Option<u64>,
    /// How often it had to let others go first.
    pub(crate) postponed: u32,
    /// Whether the first scan found it, and bytes in it.
    pub(crate) first: bool,
    /// Whether it is known to hold text: it did before it was truncated.
    pub(crate) text: bool,
    /// It could not be opened or read: tried again at each scan.
    pub(crate) denied: bool,
    /// What it is being compared with, and how far.
    against: Option<(Key, Likeness)>,
    /// The position that may turn out to be its own: it must not be retired.
    pub(crate) waits_for: Option<Key>,
}

impl<F> Undecided<F> {
    pub(crate) fn new(path: PathBuf, birth_ns: Option<i64>, seen: Seen, now: i64) -> Self {
        Self {
            path,
            birth_ns,
            seen,
            since: now,
            end: None,
            handle: None,
            listed: true,
            opening: Opening::EMPTY,
            measured: None,
            postponed: 0,
            first: false,
            text: false,
            denied: false,
            against: None,
            waits_for: None,
        }
    }

    /// Takes note of how the file looks at `now`.
    pub(crate) fn see(&mut self, seen: Seen, now: i64) {
        if self.seen != seen {
            self.seen = seen;
            self.since = now;
        }
        self.since = self.since.min(now);
    }

    /// Whether bytes in it may have to be read.
    pub(crate) fn may_hold_lines(&self) -> bool {
        self.seen.len > 0 && !self.denied
    }
}

/// What a file turned out to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    /// A new file.
    New,
    /// Not to be told yet; after the patience it is new.
    Wait,
    /// The comparison goes on at the next call.
    Again,
    /// The same as `of` so far.
    Twin { of: Key, likeness: Likeness },
    /// All of `of`, and more than that: its own from there.
    Own { from: Prefix },
    /// The bytes of a position whose file has them no more.
    Heir { of: Key },
}

/// What a comparison with one original found.
enum Finding {
    /// They differ within what was read of the original.
    Different(Likeness),
    /// All that was read of the original is the same; they differ behind it, and no line in between
    /// is left for the original to give.
    Forked(Likeness),
    /// They differ further on, behind lines that the original will still give.
    ForkedLater(Likeness),
    /// As far as the copy goes, or as far as was looked, they are the same.
    Same(Likeness),
    /// The copy holds everything the original holds, and more.
    Outgrown(Likeness),
    /// The copy does not reach the position, and its original is not there to compare.
    Shorter,
    /// The copy holds all bytes before the position, and the original does not any more.
    Heir,
    /// The budget is used up.
    Again(Likeness),
    /// The original cannot be read just now.
    Unknown,
}

/// Room and limits of a comparison.
pub(crate) struct Means<'a> {
    /// Two halves of it hold the bytes compared.
    pub(crate) scratch: &'a mut [u8],
    /// Bytes that may still be read from the copy.
    pub(crate) budget: u64,
    /// The present boot.
    pub(crate) boot: &'a str,
}

/// Judges a file that has no position. `file` is its open handle, `of` the positions it may be a copy
/// of, from [`candidates`].
pub(crate) fn judge<D: Disk>(
    disk: &D,
    tails: &BTreeMap<Key, Tail<D::File>>,
    id: FileId,
    undecided: &mut Undecided<D::File>,
    file: &D::File,
    originals: &[Key],
    means: &mut Means<'_>,
) -> io::Result<Verdict> {
    let stat = file.stat()?;
    let mut waits = None;
    for &of in originals {
        let original = &tails[&of];
        let before = undecided.against.take_if(|(key, _)| *key == of).map(|(_, likeness)| likeness);
        let likeness = before.unwrap_or(Likeness::up_to(Prefix::EMPTY));
        let finding = match find_original(disk, tails, of, means.boot) {
            Original::Whole(whole) => {
                with_whole(original, &whole, file, stat.len, likeness, means)?
            }
            Original::Gone if original.offset() == 0 => continue,
            Original::Gone => {
                let same_inode = of.file.ino == id.ino
                    && stat.birth_ns.is_some()
                    && stat.birth_ns == original.position.birth_ns;
                with_position(original, file, stat.len, likeness, same_inode, means)?
            }
            Original::Unknown => Finding::Unknown,
        };
        match finding {
            Finding::Different(_) => {}
            Finding::Heir => return Ok(Verdict::Heir { of }),
            Finding::Again(likeness) => {
                undecided.against = Some((of, likeness));
                undecided.waits_for = Some(of);
                return Ok(Verdict::Again);
            }
            Finding::Same(likeness) if stat.len >= HEAD as u64 => {
                return Ok(Verdict::Twin { of, likeness });
            }
            // A power loss may take the end of the original and not that of its copy.
            Finding::ForkedLater(likeness) if likeness.len() >= HEAD as u64 => {
                return Ok(Verdict::Twin { of, likeness });
            }
            Finding::Outgrown(likeness) | Finding::Forked(likeness)
                if likeness.len() >= HEAD as u64 =>
            {
                return Ok(Verdict::Own { from: likeness.lines });
            }
            Finding::Forked(_) | Finding::ForkedLater(_) => {}
            Finding::Same(likeness) | Finding::Outgrown(likeness) => {
                undecided.against = Some((of, likeness));
                waits = waits.or(Some(of));
            }
            Finding::Shorter | Finding::Unknown => waits = waits.or(Some(of)),
        }
    }
    undecided.waits_for = waits;
    Ok(if waits.is_some() { Verdict::Wait } else { Verdict::New })
}

/// The positions whose files begin like `head`, the longest first.
pub(crate) fn candidates<D: Disk>(
    disk: &D,
    tails: &mut BTreeMap<Key, Tail<D::File>>,
    id: FileId,
    head: &[u8],
    boot: &str,
) -> Vec<Key> {
    let mut found: Vec<(u64, Key)> = Vec::new();
    for (&key, tail) in tails.iter_mut() {
        // A file that was truncated is no copy of what it held before; but a power loss may undo the
        // truncation, and bring a removed file back under its number.
        let other = key.file != id || *tail.position.boot != *boot;
        if other && tail.position.twin.is_none() && opens_like(disk, tail, head) {
            found.push((tail.offset(), key));
        }
    }
    found.sort_by_key(|&(offset, key)| (std::cmp::Reverse(offset), key));
    found.into_iter().map(|(_, key)| key).collect()
}

/// Whether the file of `tail` begins with the first 64 bytes of `head`, as far as both have them.
fn opens_like<D: Disk>(disk: &D, tail: &mut Tail<D::File>, head: &[u8]) -> bool {
    let head = &head[..head.len().min(BLOCK)];
    let alike = |bytes: &[u8]| bytes.iter().zip(head).all(|(a, b)| a == b);
    let read = tail.position.prefix.first();
    if !alike(read) {
        return false;
    }
    if read.len() >= head.len() {
        return true;
    }
    // So little of it was read that the file itself has to be asked, once per change.
    if let Some((seen, bytes, have)) = &tail.opening
        && *seen == tail.seen
    {
        return *have > 0 && alike(&bytes[..*have]);
    }
    let mut bytes = [0; BLOCK];
    let have = match (&tail.handle, &tail.at) {
        (Some(held), _) => read_up_to(&held.file, &mut bytes, 0),
        (None, Some(path)) => {
            disk.open(path, Open::Read).and_then(|file| read_up_to(&file, &mut bytes, 0))
        }
        (None, None) => return !read.is_empty(),
    };
    let Ok(have) = have else { return !read.is_empty() };
    tail.opening = Some((tail.seen, bytes, have));
    have > 0 && alike(&bytes[..have])
}

/// What became of a twin.
#[derive(Clone, Copy)]
pub(crate) enum Twinship {
    /// Still the same as its original; this far.
    Stays(Likeness),
    /// The comparison goes on at the next call.
    Again(Likeness),
    /// Its own from there.
    Own(Prefix),
    /// The position of its original is its own now.
    Heir,
}

/// Looks again at a file that was found to be a twin of `of`.
pub(crate) fn look_again<D: Disk>(
    disk: &D,
    tails: &BTreeMap<Key, Tail<D::File>>,
    twin: &Tail<D::File>,
    of: Key,
    file: &D::File,
    means: &mut Means<'_>,
) -> io::Result<Twinship> {
    let likeness = twin.likeness;
    let Some(original) = tails.get(&of) else { return Ok(Twinship::Own(likeness.lines)) };
    let len = file.stat()?.len;
    let finding = match find_original(disk, tails, of, means.boot) {
        Original::Whole(whole) => with_whole(original, &whole, file, len, likeness, means)?,
        Original::Gone if original.offset() == 0 => Finding::Different(likeness),
        Original::Gone => with_position(original, file, len, likeness, false, means)?,
        Original::Unknown => Finding::Unknown,
    };
    Ok(match finding {
        Finding::Heir => Twinship::Heir,
        Finding::Different(likeness) | Finding::Forked(likeness) | Finding::Outgrown(likeness) => {
            Twinship::Own(likeness.lines)
        }
        Finding::Same(likeness) | Finding::ForkedLater(likeness) => Twinship::Stays(likeness),
        Finding::Again(likeness) => Twinship::Again(likeness),
        // Nothing to compare with: wait until the position finds its bytes, or is retired.
        Finding::Shorter | Finding::Unknown => Twinship::Stays(likeness),
    })
}

/// Where the bytes of a position are.
enum Original<'a, F> {
    /// In its file, as they were read.
    Whole(Whole<'a, F>),
    /// Nowhere: the file is gone, or has other content now.
    Gone,
    /// The file cannot be read, or changes just now.
    Unknown,
}

enum Whole<'a, F> {
    Held(&'a F),
    Opened(F),
}

impl<F> Whole<'_, F> {
    fn file(&self) -> &F {
        match self {
            Self::Held(file) => file,
            Self::Opened(file) => file,
        }
    }
}

fn find_original<'a, D: Disk>(
    disk: &D,
    tails: &'a BTreeMap<Key, Tail<D::File>>,
    key: Key,
    boot: &str,
) -> Original<'a, D::File> {
    if current(tails, key.file) != Some(key) {
        return Original::Gone;
    }
    let tail = &tails[&key];
    // A disagreement is for the next scan to settle: it makes a new generation.
    let agrees = |file: &D::File| {
        let stat = file.stat()?;
        Ok::<_, io::Error>((FileId::of(&stat), compare(file, &stat, &tail.position, boot)?))
    };
    if let Some(held) = &tail.handle {
        return match agrees(&held.file) {
            Ok((_, Agreement::Same)) => Original::Whole(Whole::Held(&held.file)),
            _ => Original::Unknown,
        };
    }
    for path in
        [tail.at.as_deref(), Some(path_of(&tail.position.origin.path))].into_iter().flatten()
    {
        let answer = disk.open(path, Open::Read).and_then(|file| Ok((agrees(&file)?, file)));
        match answer {
            Ok(((id, _), _)) if id != key.file => {}
            Ok(((_, Agreement::Same), file)) => return Original::Whole(Whole::Opened(file)),
            Err(e) if is_absent(&e) => {}
            Ok(_) | Err(_) => return Original::Unknown,
        }
    }
    Original::Gone
}

/// Compares a file with an original that is there, byte by byte.
fn with_whole<F: DiskFile>(
    original: &Tail<F>,
    whole: &Whole<'_, F>,
    copy: &F,
    copy_len: u64,
    mut likeness: Likeness,
    means: &mut Means<'_>,
) -> io::Result<Finding> {
    let (left, right) = means.scratch.split_at_mut(means.scratch.len() / 2);
    let room = left.len().min(right.len()) as u64;
    let offset = original.offset();
    if likeness.len() > copy_len {
        likeness = Likeness::up_to(likeness.lines);
    }
    while likeness.len() < copy_len.min(offset) {
        let want = (copy_len.min(offset) - likeness.len()).min(room);
        if means.budget < want {
            return Ok(Finding::Again(likeness));
        }
        means.budget -= want;
        let ours = &mut left[..want as usize];
        let theirs = &mut right[..want as usize];
        let have = read_up_to(copy, ours, likeness.len())?;
        if have < ours.len() || read_up_to(whole.file(), theirs, likeness.len())? < theirs.len() {
            return Ok(Finding::Unknown);
        }
        let same = common(ours, theirs);
        likeness.extend(&ours[..same]);
        if same < ours.len() {
            return Ok(Finding::Different(Likeness::up_to(likeness.lines)));
        }
    }
    if copy_len <= offset {
        return Ok(Finding::Same(likeness));
    }
    // Behind what was read of the original: one window tells whether it still is the same there.
    let whole_len = whole.file().stat()?.len;
    let reach = copy_len.min(whole_len).saturating_sub(offset).min(room) as usize;
    let have = read_up_to(copy, &mut left[..reach], offset)?;
    if have < reach || read_up_to(whole.file(), &mut right[..reach], offset)? < reach {
        return Ok(Finding::Unknown);
    }
    let same = common(&left[..reach], &right[..reach]);
    let lines_to_come = memchr::memchr(b'\n', &left[..same]).is_some();
    let here = Likeness::up_to(likeness.common);
    if same < reach {
        let later = lines_to_come;
        return Ok(if later { Finding::ForkedLater(likeness) } else { Finding::Forked(here) });
    }
    let end = offset + reach as u64;
    if end < whole_len || end == copy_len || lines_to_come {
        return Ok(Finding::Same(likeness));
    }
    // The copy goes on where the original ends. That counts only if the original ends there still.
    let stat = whole.file().stat()?;
    let still = stat.len == whole_len && original.position.prefix.mark_agrees(whole.file())?;
    Ok(if still { Finding::Outgrown(here) } else { Finding::Unknown })
}

/// Compares a file with the hash of an original that is not there any more.
fn with_position<F: DiskFile>(
    original: &Tail<F>,
    copy: &F,
    copy_len: u64,
    likeness: Likeness,
    same_inode: bool,
    means: &mut Means<'_>,
) -> io::Result<Finding> {
    let prefix = &original.position.prefix;
    if !prefix.head_agrees(copy)? {
        return Ok(Finding::Different(likeness));
    }
    if copy_len < prefix.len() {
        return Ok(Finding::Shorter);
    }
    if !prefix.mark_agrees(copy)? {
        return Ok(Finding::Different(likeness));
    }
    if same_inode {
        // Another device number for the same inode, born at the same time: a file system that was
        // mounted again. Head and mark are enough.
        return Ok(Finding::Heir);
    }
    let mut hashed = if likeness.len() <= prefix.len() { likeness.common } else { Prefix::EMPTY };
    while hashed.len() < prefix.len() {
        let want = (prefix.len() - hashed.len()).min(means.scratch.len() as u64);
        if means.budget < want {
            return Ok(Finding::Again(Likeness { common: hashed, lines: likeness.lines }));
        }
        means.budget -= want;
        let bytes = &mut means.scratch[..want as usize];
        if read_up_to(copy, bytes, hashed.len())? < bytes.len() {
            return Ok(Finding::Unknown);
        }
        hashed.advance(bytes);
    }
    Ok(if hashed == *prefix { Finding::Heir } else { Finding::Different(likeness) })
}

/// How many bytes two slices of one length have in common from the front.
fn common(a: &[u8], b: &[u8]) -> usize {
    if a == b {
        return a.len();
    }
    a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len())
}
