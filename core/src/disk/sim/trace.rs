//! F2 · What was done to the simulated disk: a running hash of all of it, and the last calls in words.
//!
//! Always true here: the hash follows from the seed, the calls, their arguments and their results.
//! Neither memory addresses nor clocks nor the order of hash maps enter, so two runs of one program
//! from one seed agree, and the first line in which two traces differ is where the runs parted.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Calls kept in words.
const LINES_MAX: usize = 200;

pub(super) struct Trace {
    hash: u64,
    lines: VecDeque<Line>,
}

/// A call and its arguments.
pub(super) struct Event {
    pub(super) verb: &'static str,
    pub(super) path: Option<Arc<Path>>,
    pub(super) to: Option<Arc<Path>>,
    pub(super) position: u64,
    pub(super) len: u64,
    /// A hash of the bytes written.
    pub(super) bytes: u64,
}

struct Line {
    /// Crash points passed when the call was over.
    operations: u64,
    event: Event,
    result: Result<u64, Option<i32>>,
}

impl Event {
    pub(super) fn new(verb: &'static str) -> Self {
        Self { verb, path: None, to: None, position: 0, len: 0, bytes: 0 }
    }

    pub(super) fn on(verb: &'static str, path: impl Into<Arc<Path>>) -> Self {
        Self { path: Some(path.into()), ..Self::new(verb) }
    }
}

impl Trace {
    pub(super) fn new(seed: u64) -> Self {
        Self { hash: mix(0, seed), lines: VecDeque::with_capacity(LINES_MAX) }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().map(Line::to_string).collect()
    }

    pub(super) fn note(&mut self, operations: u64, event: Event, result: Result<u64, &io::Error>) {
        let path = |path: &Option<Arc<Path>>| match path {
            Some(path) => hash_bytes(1, path.as_os_str().as_encoded_bytes()),
            None => 0,
        };
        let result = result.map_err(io::Error::raw_os_error);
        let (ok, value) = match result {
            Ok(value) => (1, value),
            Err(code) => (0, code.map_or(0, |code| u64::from(code.unsigned_abs()))),
        };
        let words = [
            hash_bytes(0, event.verb.as_bytes()),
            path(&event.path),
            path(&event.to),
            event.position,
            event.len,
            event.bytes,
            operations,
            ok,
            value,
        ];
        self.hash = words.into_iter().fold(self.hash, mix);
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(Line { operations, event, result });
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {}", self.operations, self.event.verb)?;
        if let Some(path) = &self.event.path {
            write!(f, " {}", path.display())?;
        }
        if let Some(to) = &self.event.to {
            write!(f, " -> {}", to.display())?;
        }
        if (self.event.position, self.event.len) != (0, 0) {
            write!(f, " @{}+{}", self.event.position, self.event.len)?;
        }
        match self.result {
            Ok(value) => write!(f, ": {value}"),
            Err(Some(code)) => write!(f, ": {}", io::Error::from_raw_os_error(code)),
            Err(None) => write!(f, ": the machine went down"),
        }
    }
}

/// A hash of bytes, for the trace only.
pub(super) fn hash_bytes(start: u64, bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(8);
    let mut hash = mix(start, bytes.len() as u64);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        hash = mix(hash, u64::from_le_bytes(word));
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(hash, u64::from_le_bytes(last))
}

fn mix(hash: u64, word: u64) -> u64 {
    let product =
        u128::from(hash ^ 0x9e37_79b9_7f4a_7c15) * u128::from(word ^ 0xd6e8_feb8_6659_fd93);
    ((product >> 64) as u64 ^ product as u64).wrapping_add(hash.rotate_left(31))
}
