//! F3 · Which leader epoch began at which offset: `leader-epoch-checkpoint`.
//!
//! ```text
//!   0            version
//!   2            number of entries
//!   0 0          epoch, start offset
//!   3 1200
//! ```
//!
//! Always true here: both columns strictly rise. The epochs are also in every batch header, so the
//! file only has to be durable when the recovery point passes; above it they are read again.

use crate::ids::{LeaderEpoch, Offset};

/// The epochs of one partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Epochs {
    entries: Vec<(LeaderEpoch, Offset)>,
}

impl Epochs {
    /// Notes that a batch of `epoch` was written at `offset`. Returns whether that began an epoch.
    pub(crate) fn note(&mut self, epoch: LeaderEpoch, offset: Offset) -> bool {
        if epoch < 0 || self.entries.last().is_some_and(|&(last, _)| last >= epoch) {
            return false;
        }
        self.entries.push((epoch, offset));
        true
    }

    /// Forgets everything at or above `end`: the log was cut there.
    pub(crate) fn cut(&mut self, end: Offset) {
        self.entries.retain(|&(_, start)| start < end);
    }

    /// The last epoch, or -1.
    pub(crate) fn last(&self) -> LeaderEpoch {
        self.entries.last().map_or(-1, |&(epoch, _)| epoch)
    }

    /// Whether an epoch is among them.
    pub(crate) fn has(&self, epoch: LeaderEpoch) -> bool {
        self.entries.iter().any(|&(known, _)| known == epoch)
    }

    /// The epoch under which the record at `offset` was written, or -1.
    pub(crate) fn at(&self, offset: Offset) -> LeaderEpoch {
        self.entries.iter().rev().find(|&&(_, start)| start <= offset).map_or(-1, |&(e, _)| e)
    }

    /// The text of the file.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("0\n{}\n", self.entries.len());
        for (epoch, start) in &self.entries {
            text.push_str(&format!("{epoch} {start}\n"));
        }
        text
    }

    /// Reads the file; `None` when it is no such file.
    pub(crate) fn from_text(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        if text.is_empty() {
            return Some(Self::default());
        }
        let mut words = text.split_ascii_whitespace();
        if words.next()? != "0" {
            return None;
        }
        let count: usize = words.next()?.parse().ok()?;
        let mut all = Self::default();
        for _ in 0..count {
            let epoch: LeaderEpoch = words.next()?.parse().ok()?;
            let start: Offset = words.next()?.parse().ok()?;
            let rises = all.entries.last().is_none_or(|&(e, s)| e < epoch && s < start);
            if !rises || epoch < 0 || start < 0 {
                return None;
            }
            all.entries.push((epoch, start));
        }
        words.next().is_none().then_some(all)
    }
}
