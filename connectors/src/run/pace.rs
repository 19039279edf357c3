//! How far a source is ahead of those who read its topic.
//!
//! ```text
//!   commits of the source     [ 800 upto 1200,900 ] [ 750 upto 1600,1250 ] [ 810 upto 2010,1660 ]
//!   the group's positions              1630,1300: the first two are read, 810 records are not
//! ```
//!
//! Always true here: what counts is records of commits, and a commit is behind the group as soon as all
//! its records are. Markers and records of aborted transactions, for which no group need move its position,
//! can therefore never hold a source back for good.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use thalweg_core::client::log::Log;
use thalweg_core::ids::{Offset, TopicPartition};

use crate::error::Result;

/// Keeps a source beside the readers of its topic: no transaction begins while more records of the ones
/// before are unread.
///
/// Readers that are close find records where they are cheap, in the page cache, and pages that were just
/// given back are written again; a source that is faster than its pipeline makes the system fetch each
/// record from the disk once more (docs/PERFORMANCE.md). The price: what is not read stays where it is, so
/// this is for inputs that wait, not for files that are deleted when their time has come; and when the
/// group does not run, the source stops too. What was in the topic when the runner was opened does not
/// count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pace {
    /// The group that reads the topic; of a pipeline it is the application's id.
    pub group: String,
    /// How many records it may be behind. It commits from time to time: with less than comes within that
    /// time the source waits for each commit.
    pub records: u64,
}

/// How long the readers' positions are waited for at a time.
const PATIENCE: Duration = Duration::from_millis(100);

/// What a source has committed and its readers have not.
pub(super) struct Ahead {
    pace: Pace,
    /// The topic's partitions.
    at: Vec<TopicPartition>,
    sent: VecDeque<Sent>,
    /// Records of all that is in `sent`.
    records: u64,
    /// It was told that nobody reads.
    warned: bool,
}

/// A commit.
struct Sent {
    records: u64,
    /// One past the last record in each partition that has had any.
    upto: Vec<Option<Offset>>,
}

impl Ahead {
    pub(super) fn new(pace: Pace, topic: &str, partitions: u32) -> Self {
        let topic: Arc<str> = topic.into();
        let at = (0..partitions).map(|n| TopicPartition::new(topic.clone(), n)).collect();
        Self { pace, at, sent: VecDeque::new(), records: 0, warned: false }
    }

    /// A transaction is committed.
    pub(super) fn committed(&mut self, records: u64, upto: Vec<Option<Offset>>) {
        if records > 0 {
            self.records += records;
            self.sent.push_back(Sent { records, upto });
        }
    }

    /// Begins anew: the topic may be another one of the same name.
    pub(super) fn forget(&mut self) {
        self.sent.clear();
        self.records = 0;
    }

    /// Whether the readers must come closer first. Asks for their positions only when they may have to.
    pub(super) async fn is_too_far(&mut self, log: &dyn Log) -> Result<bool> {
        if self.records <= self.pace.records {
            return Ok(false);
        }
        // It waits while a position is being decided, which the caller's stop must not.
        let read = log.committed_offsets(&self.pace.group, &self.at);
        let Either::Left((read, _)) = select(read, log.sleep(PATIENCE)).await else {
            return Ok(true);
        };
        let read = read?;
        if read.iter().all(Option::is_none) && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                group = self.pace.group,
                topic = &*self.at[0].topic,
                "the source waits for this group, which has not committed anything there: does it run?"
            );
        }
        let is_read = |upto: &Vec<Option<Offset>>| {
            upto.iter().zip(&read).all(|(upto, read)| {
                upto.is_none_or(|upto| read.as_ref().is_some_and(|read| read.offset >= upto))
            })
        };
        while let Some(first) = self.sent.pop_front_if(|first| is_read(&first.upto)) {
            self.records -= first.records;
        }
        Ok(self.records > self.pace.records)
    }
}
