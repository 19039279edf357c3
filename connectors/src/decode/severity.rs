//! How bad a line is: the words that say so, and where they are looked for.
//!
//! Always true here: a word is a maximal run of letters, digits and `_` (Unicode's, so the `error`
//! in `éerror` is none); case is ASCII's and does not matter.

/// Four classes are enough to count by; every scheme folds into them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
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

/// The first error or warn word of a text that does not begin inside a word.
///
/// One table look-up a byte finds where a word opens with a letter that such a word can have. Bytes
/// above ASCII count as gaps on the way; [`alarm_at`] looks closer at the few that touch a find.
fn first_alarm(text: &str) -> Option<Severity> {
    let mut in_word = false;
    for (at, &byte) in text.as_bytes().iter().enumerate() {
        let class = CLASS[usize::from(byte)];
        if class & OPENS_ALARM != 0 && !in_word {
            let alarm = alarm_at(text, at);
            if alarm.is_some() {
                return alarm;
            }
        }
        in_word = class & IN_WORD != 0;
    }
    None
}

fn alarm_at(text: &str, at: usize) -> Option<Severity> {
    let (before, rest) = text.split_at(at);
    let length = rest.bytes().position(|b| CLASS[usize::from(b)] & IN_WORD == 0);
    let (word, after) = rest.split_at(length.unwrap_or(rest.len()));
    let severity = Severity::of_word(word).filter(|s| *s <= Severity::Warn)?;
    let alone = !before.chars().next_back().is_some_and(is_word)
        && !after.chars().next().is_some_and(is_word);
    alone.then_some(severity)
}

/// The length of `critical`.
const LONGEST: usize = 8;

const IN_WORD: u8 = 1;
const OPENS_ALARM: u8 = 2;

const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        if c.is_ascii_alphanumeric() || c == b'_' {
            class[byte] = IN_WORD;
        }
        if matches!(c.to_ascii_lowercase(), b'a' | b'c' | b'e' | b'f' | b'p' | b'w') {
            class[byte] |= OPENS_ALARM;
        }
        byte += 1;
    }
    class
};
