//! Cuts one file into lines, a chunk at a time.
//!
//! ```text
//!      offset - 64    offset                                    last newline    chunk's end
//!          |   mark     |  line \n  line \n  ...  line \n             |  partial line |
//!   read:  [------------+-------------------------------------------------------------]
//!          compared      pushed as slices of the buffer                 read again later
//!          first
//! ```
//!
//! Always true here: no byte behind the offset is used before the bytes in front of it were compared
//! with what was read before, so a file that was truncated or rewritten in between is noticed, at no
//! extra call; the offset moves only over whole lines that were pushed; memory is one buffer for all
//! files, whatever the length of a line.
//!
//! **Long lines.** A line that does not end within a chunk is walked through chunk by chunk without
//! being kept; when its newline is found, its beginning is read again and pushed, cut at the limit,
//! with its full length.
//!
//! **Zeros.** Files have runs of NUL where a writer went on at its old offset after a truncation,
//! where it reserved room ahead, and where a power loss took blocks but not the length. A run at the
//! beginning of a line is no part of the line: it is passed over when something follows it, and
//! left alone while it reaches to the end of the file, since it may still be overwritten.

use std::io;

use memchr::{memchr, memchr_iter};
use thalweg_core::disk::DiskFile;

use super::identity::{BLOCK, Prefix, read_up_to};
use crate::error::Error;

/// A line, borrowed from the buffer.
pub(crate) struct Line<'a> {
    /// The bytes without the newline, at most the limit.
    pub(crate) bytes: &'a [u8],
    /// Where the line begins.
    pub(crate) offset: u64,
    /// How long it is, when it is longer than the limit.
    pub(crate) cut: Option<u64>,
    /// NUL bytes passed over before it.
    pub(crate) zeros: u64,
}

/// Why a turn ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// There is nothing more for now.
    End,
    /// The quantum is used up.
    Quantum,
    /// The taker of lines has enough.
    Full,
    /// What is in the file now is not what was read before.
    Replaced,
}

/// Why a turn failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The file could not be read.
    Read(io::Error),
    /// The line was not taken.
    Taker(Error),
}

/// How far one file was looked at beyond its offset. Never stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lookahead {
    /// A line that does not end within a chunk.
    long: Option<LongLine>,
    /// From the offset to here there were only zeros when they were last looked at.
    zeros_to: u64,
}

#[derive(Clone, Copy, Debug)]
struct LongLine {
    /// Everything walked through.
    walked: Prefix,
    /// Where the first byte that is not NUL lies.
    begin: Option<u64>,
}

/// The buffer, and what it is used with.
#[derive(Debug)]
pub(crate) struct Reader {
    buffer: Box<[u8]>,
    chunk: usize,
    limit: usize,
}

/// What one turn may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of the file from here on are not looked at.
    pub(crate) upto: u64,
    /// Whether the rest before `upto` is a line even without a newline.
    pub(crate) take_rest: bool,
    /// Bytes it may use up.
    pub(crate) quantum: i64,
}

impl Reader {
    /// A reader of `chunk` bytes at a time that cuts lines at `limit`; its buffer has at least
    /// `room` bytes.
    pub(crate) fn new(chunk: usize, limit: usize, room: usize) -> Self {
        let size = (BLOCK + chunk).max(limit).max(room);
        Self { buffer: vec![0; size].into_boxed_slice(), chunk, limit }
    }

    /// Room for other readers of files; what it holds is not kept.
    pub(crate) fn scratch(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Gives lines from behind `prefix` to `taker` until it answers `false`, and moves `prefix`
    /// behind them. Returns why it ended and how many bytes it used up.
    pub(crate) fn turn<F: DiskFile>(
        &mut self,
        file: &F,
        prefix: &mut Prefix,
        ahead: &mut Lookahead,
        bounds: Bounds,
        mut taker: impl FnMut(Line<'_>) -> Result<bool, Error>,
    ) -> Result<(Stop, i64), Failure> {
        let mut used: i64 = 0;
        loop {
            let stop = match ahead.long {
                None => self.lines(file, prefix, ahead, bounds, &mut used, &mut taker)?,
                Some(_) => self.walk(file, prefix, ahead, bounds, &mut used, &mut taker)?,
            };
            match stop {
                Some(stop) => return Ok((stop, used)),
                None if used >= bounds.quantum => return Ok((Stop::Quantum, used)),
                None => {}
            }
        }
    }

    /// One chunk of lines that end within it.
    fn lines<F: DiskFile>(
        &mut self,
        file: &F,
        prefix: &mut Prefix,
        ahead: &mut Lookahead,
        bounds: Bounds,
        used: &mut i64,
        taker: &mut impl FnMut(Line<'_>) -> Result<bool, Error>,
    ) -> Result<Option<Stop>, Failure> {
        let base = prefix.len();
        let limit = self.limit;
        let Some(fresh) = self.chunk_behind(file, prefix, bounds.upto)? else {
            return Ok(Some(Stop::Replaced));
        };
        let at_end = base + fresh.len() as u64 >= bounds.upto || fresh.len() < self.chunk;
        let fresh = &self.buffer[fresh];
        let mut start = 0;
        let mut wants_more = true;
        for newline in memchr_iter(b'\n', fresh) {
            let line = line_of(&fresh[start..newline], base + start as u64, limit);
            start = newline + 1;
            wants_more = taker(line).map_err(Failure::Taker)?;
            if !wants_more {
                break;
            }
        }
        prefix.advance(&fresh[..start]);
        *used += start as i64;
        let rest = &fresh[start..];
        if !wants_more {
            return Ok(Some(Stop::Full));
        }
        if at_end {
            if bounds.take_rest {
                let text = rest.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
                if text > 0 {
                    taker(line_of(&rest[..text], prefix.len(), limit)).map_err(Failure::Taker)?;
                    prefix.advance(&rest[..text]);
                }
            }
            return Ok(Some(Stop::End));
        }
        if start == 0 {
            let begin = rest.iter().position(|&byte| byte != 0).map(|at| base + at as u64);
            let seen = base + rest.len() as u64;
            if begin.is_none() && ahead.zeros_to > seen {
                let known = ahead.zeros_to;
                ahead.zeros_to = self.zeros_from(file, known, bounds.upto)?.unwrap_or(0);
                if ahead.zeros_to >= bounds.upto {
                    return Ok(Some(Stop::End));
                }
                // Something follows: walk over the run, now byte by byte.
                return Ok(None);
            }
            let mut walked = *prefix;
            walked.advance(rest);
            *used += rest.len() as i64;
            ahead.long = Some(LongLine { walked, begin });
        }
        Ok(None)
    }

    /// One chunk of a line that does not end within one.
    fn walk<F: DiskFile>(
        &mut self,
        file: &F,
        prefix: &mut Prefix,
        ahead: &mut Lookahead,
        bounds: Bounds,
        used: &mut i64,
        taker: &mut impl FnMut(Line<'_>) -> Result<bool, Error>,
    ) -> Result<Option<Stop>, Failure> {
        let Some(mut long) = ahead.long.take() else { return Ok(None) };
        let base = long.walked.len();
        let Some(fresh) = self.chunk_behind(file, &long.walked, bounds.upto)? else {
            return Ok(Some(Stop::Replaced));
        };
        let at_end = base + fresh.len() as u64 >= bounds.upto || fresh.len() < self.chunk;
        let fresh = &self.buffer[fresh];
        let first = fresh.iter().position(|&byte| byte != 0).map(|at| base + at as u64);
        long.begin = long.begin.or(first);
        let from = long.begin.map_or(fresh.len(), |begin| begin.saturating_sub(base) as usize);
        let newline = memchr(b'\n', &fresh[from..]).map(|at| from + at);
        let taken = newline.map_or(fresh.len(), |at| at + 1);
        long.walked.advance(&fresh[..taken]);
        *used += taken as i64;
        let (begin, end) = match (long.begin, newline) {
            (Some(begin), Some(at)) => (begin, base + at as u64),
            (Some(begin), None) if at_end && bounds.take_rest => (begin, base + fresh.len() as u64),
            (None, _) if at_end => {
                ahead.zeros_to = base + fresh.len() as u64;
                return Ok(Some(Stop::End));
            }
            _ => {
                ahead.long = Some(long);
                return Ok(at_end.then_some(Stop::End));
            }
        };
        let keep = (end - begin).min(self.limit as u64) as usize;
        let again = &mut self.buffer[..keep];
        if read_up_to(file, again, begin).map_err(Failure::Read)? < keep {
            return Ok(Some(Stop::Replaced));
        }
        let cut = (end - begin > keep as u64).then_some(end - begin);
        let zeros = begin - prefix.len();
        let line = Line { bytes: &self.buffer[..keep], offset: begin, cut, zeros };
        let wants_more = taker(line).map_err(Failure::Taker)?;
        *prefix = long.walked;
        *ahead = Lookahead::default();
        Ok(match (wants_more, newline) {
            (_, None) => Some(Stop::End),
            (false, _) => Some(Stop::Full),
            (true, Some(_)) => None,
        })
    }

    /// Reads the next chunk behind `prefix` and says where in the buffer it lies; `None` when the
    /// bytes in front of it are not the prefix's.
    fn chunk_behind<F: DiskFile>(
        &mut self,
        file: &F,
        prefix: &Prefix,
        upto: u64,
    ) -> Result<Option<std::ops::Range<usize>>, Failure> {
        let mark = prefix.mark_len();
        let want = upto.saturating_sub(prefix.len()).min(self.chunk as u64) as usize;
        let window = &mut self.buffer[..mark + want];
        let have = read_up_to(file, window, prefix.len() - mark as u64).map_err(Failure::Read)?;
        let same = have >= mark && prefix.ends_with(&window[..mark]);
        Ok(same.then_some(mark..have))
    }

    /// How far a run of zeros that is known up to `from` reaches: to `upto`, or `None` when
    /// something else follows.
    fn zeros_from<F: DiskFile>(
        &mut self,
        file: &F,
        mut from: u64,
        upto: u64,
    ) -> Result<Option<u64>, Failure> {
        while from < upto {
            let want = (upto - from).min(self.chunk as u64) as usize;
            let have = read_up_to(file, &mut self.buffer[..want], from).map_err(Failure::Read)?;
            if have == 0 {
                break;
            }
            if self.buffer[..have].iter().any(|&byte| byte != 0) {
                return Ok(None);
            }
            from += have as u64;
        }
        Ok(Some(from.max(upto)))
    }
}

/// A line within the buffer: without the zeros before it, and cut.
fn line_of(bytes: &[u8], offset: u64, limit: usize) -> Line<'_> {
    let zeros = match bytes.first() {
        Some(0) => bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len()),
        _ => 0,
    };
    let text = &bytes[zeros..];
    Line {
        bytes: &text[..text.len().min(limit)],
        offset: offset + zeros as u64,
        cut: (text.len() > limit).then_some(text.len() as u64),
        zeros: zeros as u64,
    }
}
