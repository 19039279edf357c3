//! The seam for data coming in: a source pushes records and marks how far they cover its splits.
//!
//! ```text
//!   Source::open <- the stored positions
//!   Source::poll -> Outbox: record, record, mark(split, position), record, mark ...
//!                     |
//!   one transaction:  records -> their topic     positions -> __connect_positions     commit
//!                     |
//!   Source::committed(positions)      the only place for deletes, moves, acknowledgements
//! ```
//!
//! Always true here: a position is *the first byte not covered by a pushed record*, never the number
//! of bytes read; records pushed after the last mark of their split are not sent; the runner never
//! looks inside a position.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use thalweg_core::ids::Timestamp;

use crate::error::Result;

/// One resumable stream of a source: a file, a shard, a table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Split(pub Arc<str>);

/// Where to go on in a split: opaque to the runner, versioned by its connector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position(pub Bytes);

/// Positions by split. `None` retires the split: its stored position is deleted (a tombstone).
pub type Positions = BTreeMap<Split, Option<Position>>;

/// What a poll found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polled {
    /// Something was pushed; poll again at once.
    More,
    /// Nothing new; poll again after at most this long.
    Idle(Duration),
    /// The source has come to its end (only bounded sources do).
    End,
}

/// Where a source puts its records: straight into the batches of the open transaction.
pub trait Outbox {
    /// How many partitions the topic has.
    fn partitions(&self) -> u32;
    /// Adds a record to a partition of the source's topic.
    ///
    /// # Errors
    /// When the record is larger than the topic's largest batch.
    fn record(
        &mut self,
        partition: u32,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<()>;
    /// Everything pushed so far for `split` is covered by `position`.
    fn mark(&mut self, split: &Split, position: Option<Position>);
    /// Whether the transaction has taken as much as it should: return from `poll`.
    fn is_full(&self) -> bool;
}

/// A task of a source connector.
#[async_trait]
pub trait Source: Send {
    /// Goes back to `stored`, whatever was pushed since. Called before the first `poll`, and after
    /// every transaction that was not committed.
    async fn open(&mut self, stored: &Positions) -> Result<()>;
    /// Pushes records until there are no more for now or the outbox is full. Must not wait for data:
    /// say [`Polled::Idle`].
    async fn poll(&mut self, out: &mut (dyn Outbox + Send)) -> Result<Polled>;
    /// Called after `poll` and right before the transaction is committed: the source makes durable
    /// what its positions rest on and checks that nothing changed under the read. An error aborts.
    async fn before_commit(&mut self) -> Result<()>;
    /// `upto` is durable and visible. The only place for deletes, moves, acknowledgements; also
    /// called with the stored positions after a restart. Idempotent.
    async fn committed(&mut self, upto: &Positions) -> Result<()>;
    /// Bytes known to be there but not yet pushed, for people to look at.
    fn lag_bytes(&self) -> u64;
}
