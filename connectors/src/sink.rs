//! The seam for data going out: a sink takes records, makes them durable but invisible, and makes
//! them visible after the log has committed the offsets together with a token.
//!
//! ```text
//!   write ... write      prepare -> Token      log transaction: offsets + Token      commit(Token)
//!   records arrive       durable, hidden       the arbiter                           visible; idempotent
//! ```
//!
//! Always true here: the log's transaction decides; a token is committed by the group or it is
//! nothing; `commit` may run any number of times, and returns before the partition's next token is
//! committed, because that one overwrites this one.

use async_trait::async_trait;
use thalweg_core::batch::{BatchError, Scratch, Visible};
use thalweg_core::client::log::Fetched;
use thalweg_core::ids::{Offset, TopicPartition};
use thalweg_core::record::{BACKLOG_HEADER, RecordRef, WATERMARK_HEADER};

use crate::error::{Error, Result};

/// What a prepared sink needs to finish later: kept in the metadata of the committed offset, so at
/// most about 4000 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token(pub String);

/// Where a sink goes on in a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resume {
    /// The group has no position there; this is the first offset there is. A sink that nevertheless
    /// finds its own finished work of that partition must refuse: the position was lost, and to
    /// start over would double everything.
    First(Offset),
    /// The group's position, and the token committed with it.
    At(Offset, Option<Token>),
}

impl Resume {
    /// The next offset to be written.
    pub fn offset(&self) -> Offset {
        match self {
            Self::First(offset) | Self::At(offset, _) => *offset,
        }
    }
}

/// Offsets and tokens to commit in one transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Prepared {
    /// Per partition: the next offset to read, and the token if the sink has one to finish.
    pub parts: Vec<(TopicPartition, Offset, Option<Token>)>,
}

/// A task of a sink connector.
#[async_trait]
pub trait Sink: Send {
    /// Takes partitions, finishes their pending tokens, removes what no token names. Called again
    /// after [`Restart`](crate::error::Error::Restart): whatever was not committed is forgotten.
    async fn open(&mut self, parts: &[(TopicPartition, Resume)]) -> Result<()>;
    /// Takes the visible records of one answer, from the partition's position on. After
    /// [`Retry`](crate::error::Error::Retry) the same answer is given again: records taken before
    /// the failure must not be taken twice.
    async fn write(&mut self, batch: &Fetched) -> Result<()>;
    /// Whether it is time to make something visible: size and age say so. Asked after writes and
    /// while idle; `now_ms` is the wall clock, and the first asking after a write starts the age.
    fn due(&mut self, now_ms: i64) -> bool;
    /// Makes everything written durable, not visible. An empty answer means nothing to commit.
    async fn prepare(&mut self) -> Result<Prepared>;
    /// Makes prepared work visible. Idempotent.
    async fn commit(&mut self, prepared: &Prepared) -> Result<()>;
}

/// Gives the records of `answer` from offset `from` on to `take`, in order: those of committed
/// transactions and of none, without the marks that streams pass on to each other. Sums are checked,
/// so that a damaged batch is reported and never copied on. Stops at the first error.
///
/// # Errors
/// Those of `take`; [`Error::Fatal`] naming partition and offset for bytes that are no legal batch.
pub fn visible_records(
    answer: &Fetched,
    from: Offset,
    scratch: &mut Scratch,
    mut take: impl FnMut(&RecordRef<'_>) -> Result<()>,
) -> Result<()> {
    let damaged = |offset: Offset, e: BatchError| Error::Fatal {
        what: format!(
            "{}, batch at offset {offset}: {e}. The log's copy is damaged: bring it back from a \
             backup, or go on behind it by setting the group's position",
            answer.at
        ),
    };
    let mut next = from;
    for batch in Visible::new(&answer.batches, &answer.aborted, from) {
        let batch = batch.map_err(|e| damaged(next, e))?;
        let base = batch.header.base_offset;
        batch.check_crc().map_err(|e| damaged(base, e))?;
        let records = batch.records(scratch).map_err(|e| damaged(base, e))?;
        for record in records.starting_at(from) {
            let record = record.map_err(|e| damaged(base, e))?;
            if !is_mark(&record) {
                take(&record)?;
            }
        }
        next = batch.header.next_offset();
    }
    Ok(())
}

/// Whether the record carries no user data.
fn is_mark(record: &RecordRef<'_>) -> bool {
    let marked = |key: &str| record.headers.get(key.as_bytes()).is_some();
    !record.headers.is_empty() && (marked(WATERMARK_HEADER) || marked(BACKLOG_HEADER))
}
