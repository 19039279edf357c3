//! How bad a line is: the words that say so, and where they are looked for.
//!
//! Always true here: a word is a maximal run of letters, digits and `_` (Unicode's, so the `error`
//! in `éerror` is none); case is ASCII's and does not matter.

use serde::{Deserialize, Serialize};

use std::ops::Range;

/// Four classes are enough to count by; every scheme folds into them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Severity {
    /// emerg, alert, crit, critical, fatal, panic, err, error, fail, failed; syslog 0 to 3.
    Error,
    /// warn, warning; syslog 4.
    Warn,
    /// notice, info; syslog 5 and 6; and whatever says nothing about itself.
    Info,
    /// debug, trace; syslog 7.
    Debug,
}

impl Severity {
    /// `error`, `warn`, `info` or `debug`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// The class of a severity word of any case; `None` for every other text.
    pub fn of_word(word: &str) -> Option<Self> {
        let mut lower = [0; LONGEST];
        let lower = lower.get_mut(..word.len())?;
        lower.copy_from_slice(word.as_bytes());
        lower.make_ascii_lowercase();
        Some(match &*lower {
            b"emerg" | b"alert" | b"crit" | b"critical" | b"fatal" | b"panic" | b"err"
            | b"error" | b"fail" | b"failed" => Self::Error,
            b"warn" | b"warning" => Self::Warn,
            b"notice" | b"info" => Self::Info,
            b"debug" | b"trace" => Self::Debug,
            _ => return None,
        })
    }

    /// What a message says of itself: its first word if that is a severity word, else the first
    /// error or warn word in it, else [`Info`](Self::Info).
    ///
    /// The first word is the first wherever it stands: `[WARN] disk` begins with `WARN`.
    pub fn of_message(message: &str) -> Self {
        let Some(begin) = message.find(is_word) else { return Self::Info };
        let message = &message[begin..];
        let end = message.find(|c| !is_word(c)).unwrap_or(message.len());
        let (first, rest) = message.split_at(end);
        Self::of_word(first).or_else(|| first_alarm(rest)).unwrap_or(Self::Info)
    }

    /// The class of a syslog priority: its last three bits.
    pub(super) fn of_priority(priority: u32) -> Self {
        match priority % 8 {
            0..=3 => Self::Error,
            4 => Self::Warn,
            5 | 6 => Self::Info,
            _ => Self::Debug,
        }
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The first error or warn word of a text that begins with no word.
///
/// Words open rarely as these do, so blocks of sixteen places are first asked whether any of them
/// does, in a loop without branches that the compiler turns into vector instructions. The last block
/// overlaps the one before, where nothing was found.
fn first_alarm(text: &str) -> Option<Severity> {
    let bytes = text.as_bytes();
    let last = bytes.len().saturating_sub(17);
    let mut at = 1;
    while let Some(block) = bytes.get(at - 1..).and_then(|rest| rest.first_chunk::<18>()) {
        let opens =
            (0..16).fold(false, |any, i| any | opens_alarm(block[i], block[i + 1], block[i + 2]));
        if opens {
            let alarm = alarm_among(text, at..at + 16);
            if alarm.is_some() {
                return alarm;
            }
        }
        if at == last {
            return None;
        }
        at = (at + 16).min(last);
    }
    alarm_among(text, 1..bytes.len().saturating_sub(1))
}

fn alarm_among(text: &str, places: Range<usize>) -> Option<Severity> {
    let bytes = text.as_bytes();
    places
        .filter(|&at| opens_alarm(bytes[at - 1], bytes[at], bytes[at + 1]))
        .find_map(|at| alarm_at(text, at))
}

/// Whether a word that begins as an error or warn word may begin at `first`. Bytes above ASCII
/// count as gaps; [`alarm_at`] looks closer at the few that touch a find.
fn opens_alarm(before: u8, first: u8, second: u8) -> bool {
    let (first, second) = (first | 0x20, second | 0x20);
    let letters = (second == b'a') & ((first == b'f') | (first == b'p') | (first == b'w'))
        | (second == b'r') & ((first == b'e') | (first == b'c'))
        | (second == b'm') & (first == b'e')
        | (second == b'l') & (first == b'a');
    letters & !is_ascii_word(before)
}

fn is_ascii_word(byte: u8) -> bool {
    ((byte | 0x20).wrapping_sub(b'a') < 26) | (byte.wrapping_sub(b'0') < 10) | (byte == b'_')
}

fn alarm_at(text: &str, at: usize) -> Option<Severity> {
    let (before, rest) = text.split_at(at);
    let length = rest.bytes().position(|byte| !is_ascii_word(byte)).unwrap_or(rest.len());
    let (word, after) = rest.split_at(length);
    let severity = Severity::of_word(word).filter(|s| *s <= Severity::Warn)?;
    let alone = !before.chars().next_back().is_some_and(is_word)
        && !after.chars().next().is_some_and(is_word);
    alone.then_some(severity)
}

/// The length of `critical`.
const LONGEST: usize = 8;
