//! The seam for data going out: a sink takes records, makes them durable but invisible, and makes
//! them visible after the log has committed the offsets together with a token.
//!
//! ```text
//!   write ... write      prepare -> Token      log transaction: offsets + Token      commit(Token)
//!   records arrive       durable, hidden       the arbiter                           visible; idempotent
//! ```
//!
//! Always true here: the log's transaction decides; a token is committed by the group or it is
//! nothing; `commit` may run any number of times.

use async_trait::async_trait;
use thalweg_core::client::log::Fetched;
use thalweg_core::ids::{Offset, TopicPartition};

use crate::error::Result;

/// What a prepared sink needs to finish later: kept in the metadata of the committed offset, so at
/// most 4096 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token(pub String);

/// Offsets and tokens to commit in one transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Prepared {
    /// Per partition: the next offset to read, and the token if the sink has one to finish.
    pub parts: Vec<(TopicPartition, Offset, Option<Token>)>,
}

/// A task of a sink connector.
#[async_trait]
pub trait Sink: Send {
    /// Takes partitions, finishes their pending tokens, removes what no token names. `parts` gives
    /// per partition where the group resumes and the last committed token.
    async fn open(&mut self, parts: &[(TopicPartition, Offset, Option<Token>)]) -> Result<()>;
    /// Takes the visible records of one answer, from the partition's position on.
    async fn write(&mut self, batch: &Fetched) -> Result<()>;
    /// Whether it is time to make something visible: size, age or stop say so. `now_ms` is the wall
    /// clock.
    fn due(&self, now_ms: i64) -> bool;
    /// Makes everything written durable, not visible. An empty answer means nothing to commit.
    async fn prepare(&mut self) -> Result<Prepared>;
    /// Makes prepared work visible. Idempotent.
    async fn commit(&mut self, prepared: &Prepared) -> Result<()>;
}
