//! One content of one file that is followed: its position, and what is known of the file now.
//!
//! ```text
//!            found                 no name any more                 quiet, read to its end
//!   (new) ----------> named ---------------------------> draining --------------------------> gone
//!                       |  truncated, rewritten                                                 |
//!                       +-------------------> superseded by the next generation                 |
//!                                                   |                                           |
//!                                                   +--> its bytes are found elsewhere: moves <-+
//!                                                   +--> full scans without them: retired <-----+
//! ```
//!
//! Always true here: a file and its position are compared by head and mark before the first byte
//! behind the position is used; what is said of a comparison holds for the moment of the comparison
//! only, the reader and the commit look again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_core::disk::{DiskFile, Stat};
use xxhash_rust::xxh3::xxh3_64;

use super::JUDGED;
use super::copies::{Likeness, Undecided};
use super::identity::{BLOCK, FileId, HEAD, Key, Prefix, read_up_to};
use super::position::FilePosition;
use super::reader::Lookahead;
use crate::decode::looks_binary;
use crate::source::Split;

/// An open file that counts against the limit as long as it lives.
pub(crate) struct Held<F> {
    /// The file.
    pub(crate) file: F,
    _counted: Arc<()>,
}

/// Counts the files held open.
#[derive(Debug, Default)]
pub(crate) struct HeldCount(Arc<()>);

impl HeldCount {
    /// Counts one more, until it is dropped.
    pub(crate) fn hold<F>(&self, file: F) -> Held<F> {
        Held { file, _counted: Arc::clone(&self.0) }
    }

    /// How many are held.
    pub(crate) fn get(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// What tells whether a file changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) len: u64,
    pub(crate) mtime_ms: i64,
}

impl Seen {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self { len: stat.len, mtime_ms: stat.mtime_ms }
    }
}

/// One content of one file.
pub(crate) struct Tail<F> {
    /// Where to go on, to be stored.
    pub(crate) position: FilePosition,
    /// The name of its split.
    pub(crate) split: Split,
    /// The key of its records.
    pub(crate) record_key: Box<str>,
    /// Decides its partition.
    pub(crate) hash: u64,
    /// Where the last scan found it; `None` for a file without a name, or superseded.
    pub(crate) at: Option<PathBuf>,
    /// The open file.
    pub(crate) handle: Option<Held<F>>,
    /// What lies behind the offset, as far as looked at.
    pub(crate) ahead: Lookahead,
    /// The file at the last look.
    pub(crate) seen: Seen,
    /// The file when it was last read to its end, or found to be of no use.
    pub(crate) looked: Option<Seen>,
    /// The file when head and mark were last compared.
    pub(crate) compared: Option<Seen>,
    /// When it last changed, by the clock, in milliseconds.
    pub(crate) changed_at: i64,
    /// When it was last read, by the clock, in milliseconds.
    pub(crate) used_at: i64,
    /// Its file has other content now.
    pub(crate) superseded: bool,
    /// Bytes of a superseded content that had been seen but not read.
    pub(crate) unread: u64,
    /// Full scans in a row that did not find it.
    pub(crate) missed: u32,
    /// When the first of these was.
    pub(crate) missed_since: i64,
    /// Its size at the first scan, while that much is not yet read.
    pub(crate) backlog: Option<u64>,
    /// Where a source that reads only once ends.
    pub(crate) end: Option<u64>,
    /// Nothing more is read in this run.
    pub(crate) finished: bool,
    /// The next turn takes the rest without a newline.
    pub(crate) take_rest: bool,
    /// The file when its rest was taken last.
    pub(crate) rest_taken: Option<Seen>,
    /// It was told that lines of it are cut.
    pub(crate) cut_told: bool,
    /// It could not be opened or read: tried again at each scan.
    pub(crate) denied: bool,
    /// Waits for its turn.
    pub(crate) queued: bool,
    /// Bytes it may still use up (deficit round robin).
    pub(crate) deficit: i64,
    /// The first bytes of a file of which less than that was read, and the file then.
    pub(crate) opening: Option<(Seen, [u8; BLOCK], usize)>,
    /// For a file that is but a copy: how far that was looked at.
    pub(crate) likeness: Likeness,
}

impl<F: DiskFile> Tail<F> {
    /// A file to go on in at `position`.
    pub(crate) fn new(position: FilePosition) -> Self {
        let record_key = position.origin.key.to_string().into_boxed_str();
        Self {
            split: FilePosition::split(position.key),
            hash: xxh3_64(record_key.as_bytes()),
            record_key,
            at: None,
            handle: None,
            ahead: Lookahead::default(),
            seen: Seen { len: 0, mtime_ms: i64::MIN },
            looked: None,
            compared: None,
            changed_at: i64::MIN,
            used_at: i64::MIN,
            superseded: false,
            unread: 0,
            missed: 0,
            missed_since: i64::MIN,
            backlog: None,
            end: None,
            finished: false,
            take_rest: false,
            rest_taken: None,
            cut_told: false,
            denied: false,
            queued: false,
            deficit: 0,
            opening: None,
            likeness: Likeness::up_to(position.prefix),
            position,
        }
    }

    /// Takes what is known of a file that was undecided until now.
    pub(crate) fn take_over(&mut self, undecided: Undecided<F>, is_twin: bool) {
        self.seen = undecided.seen;
        self.changed_at = undecided.since;
        self.end = undecided.end;
        self.backlog = undecided.first.then_some(undecided.seen.len);
        if !is_twin {
            self.handle = undecided.handle;
        }
        self.at = undecided.listed.then_some(undecided.path);
    }

    /// The first byte that no pushed record covers.
    pub(crate) fn offset(&self) -> u64 {
        self.position.prefix.len()
    }

    /// The name it has, or was first found under.
    pub(crate) fn name(&self) -> &Path {
        self.at.as_deref().unwrap_or(path_of(&self.position.origin.path))
    }

    /// Where reading ends for now.
    pub(crate) fn upto(&self) -> u64 {
        self.end.map_or(self.seen.len, |end| end.min(self.seen.len))
    }

    /// Bytes there but not pushed.
    pub(crate) fn lag(&self) -> u64 {
        let followed = self.position.twin.is_none() && !self.finished && !self.position.binary;
        if followed { self.upto().saturating_sub(self.offset()) } else { 0 }
    }

    /// Takes note of how the file looks at `now`.
    pub(crate) fn see(&mut self, seen: Seen, now: i64) {
        if self.seen != seen {
            self.seen = seen;
            self.changed_at = now;
        }
        // A clock that was set back must not make a file look quiet for less than no time.
        self.changed_at = self.changed_at.min(now);
    }

    /// Whether a turn may find something.
    pub(crate) fn is_wanted(&self) -> bool {
        if self.position.twin.is_some()
            || self.finished
            || (self.handle.is_none() && self.at.is_none())
        {
            return false;
        }
        let unread = self.upto() > self.offset();
        // As long as the offset, but touched: only a look tells whether it is still the same.
        let touched = self.handle.is_none() && self.seen.mtime_ms != self.position.mtime_ms;
        self.take_rest
            || (self.looked != Some(self.seen) && (unread || (touched && self.offset() > 0)))
    }

    /// Whether the file may be closed and opened again when it is needed: it still has a name.
    pub(crate) fn is_closable(&self) -> bool {
        self.handle.is_some() && self.at.is_some() && !self.queued && !self.is_wanted()
    }

    /// Whether some of the backlog of the first scan may still be read.
    pub(crate) fn has_backlog(&self) -> bool {
        let there = self.at.is_some() || self.handle.is_some();
        there && !self.finished && self.backlog.is_some_and(|backlog| self.offset() < backlog)
    }

    /// Whether it was renamed since it was found, or lost its name.
    pub(crate) fn is_rotated(&self) -> bool {
        self.at.as_deref() != Some(path_of(&self.position.origin.path))
    }
}

/// How a file and a position go together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Agreement {
    /// Go on at the offset.
    Same,
    /// Shorter than the position after another boot: its end is where to go on.
    Shrunk,
    /// Zeros where bytes had been read, after another boot: go on at the offset.
    Zeroed,
    /// Truncated, rewritten, or another file under a reused number.
    Other,
}

/// Whether a file and a position were born at different times: the number was reused.
pub(crate) fn born_apart(stat: &Stat, position: &FilePosition) -> bool {
    matches!((stat.birth_ns, position.birth_ns), (Some(now), Some(then)) if now != then)
}

/// Compares a file with a position of the same device and number. `boot` is the present boot.
///
/// Head and mark decide. When the number was reused, they are not enough: then all bytes do, as for
/// a copy under another number, since whoever writes a file anew under its old number may have
/// written the old lines again.
pub(crate) fn compare(
    file: &impl DiskFile,
    stat: &Stat,
    position: &FilePosition,
    boot: &str,
) -> io::Result<Agreement> {
    let reused = born_apart(stat, position);
    let prefix = &position.prefix;
    if prefix.len() == 0 {
        let opening = position.opening.bytes();
        let mut bytes = [0; BLOCK];
        let have = read_up_to(file, &mut bytes[..opening.len()], 0)?;
        let same = !reused && bytes[..have] == *opening && !has_become_text(file, position)?;
        return Ok(if same { Agreement::Same } else { Agreement::Other });
    }
    if reused {
        let same = prefix.head_agrees(file)?
            && prefix.mark_agrees(file)?
            && prefix_of(file, prefix.len(), &mut vec![0; 64 << 10])? == *prefix;
        return Ok(if same { Agreement::Same } else { Agreement::Other });
    }
    let rebooted = !boot.is_empty() && !position.boot.is_empty() && *position.boot != *boot;
    let mut bytes = [0; HEAD];
    let want = (HEAD as u64).min(prefix.len()) as usize;
    let have = read_up_to(file, &mut bytes[..want], 0)?;
    let head = &bytes[..have];
    let text = &head[..head.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)];
    if stat.len < prefix.len() {
        // An empty file was truncated; nothing says otherwise.
        let shrunk = rebooted && !text.is_empty() && prefix.begins_like(text);
        return Ok(if shrunk { Agreement::Shrunk } else { Agreement::Other });
    }
    if prefix.begins_like(head) && prefix.mark_agrees(file)? {
        return Ok(Agreement::Same);
    }
    let mut last = [1];
    read_up_to(file, &mut last, prefix.len() - 1)?;
    let zeroed = rebooted && last == [0] && !text.is_empty() && prefix.begins_like(text);
    Ok(if zeroed { Agreement::Zeroed } else { Agreement::Other })
}

/// Whether a file that was passed over as binary holds text now: then it may be a copy.
fn has_become_text(file: &impl DiskFile, position: &FilePosition) -> io::Result<bool> {
    if !position.binary {
        return Ok(false);
    }
    let mut head = vec![0; JUDGED];
    let have = read_up_to(file, &mut head, 0)?;
    Ok(looks_binary(&head[..have]).is_none())
}

/// The prefix of the first `len` bytes of a file, or of all when it is shorter.
pub(crate) fn prefix_of(file: &impl DiskFile, len: u64, scratch: &mut [u8]) -> io::Result<Prefix> {
    let mut prefix = Prefix::EMPTY;
    while prefix.len() < len {
        let want = (len - prefix.len()).min(scratch.len() as u64) as usize;
        let have = read_up_to(file, &mut scratch[..want], prefix.len())?;
        if have == 0 {
            break;
        }
        prefix.advance(&scratch[..have]);
    }
    Ok(prefix)
}

/// The last generation known of a file.
fn newest<F>(tails: &BTreeMap<Key, Tail<F>>, file: FileId) -> Option<Key> {
    let range = Key { file, generation: 0 }..=Key { file, generation: u32::MAX };
    tails.range(range).next_back().map(|(&key, _)| key)
}

/// The content that a file has now, if it has a position.
pub(crate) fn current<F>(tails: &BTreeMap<Key, Tail<F>>, file: FileId) -> Option<Key> {
    newest(tails, file).filter(|key| tails.get(key).is_some_and(|tail| !tail.superseded))
}

/// The path that the system's bytes stand for.
pub(crate) fn path_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// The system's bytes of a path.
pub(crate) fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}
