//! Drives a source: records and the positions that cover them, in one transaction of the log.
//!
//! ```text
//!   open      fence the predecessor (its open transaction is finished either way)
//!   Loading   positions, up to the high watermark after the fencing; source.open(positions)
//!   Telling   source.committed(positions)                deletes, moves, acknowledgements
//!   Reading   poll, poll ...                             records go straight into batches; not before
//!                                                        the readers are close, where a pace is set
//!   Covering  source.before_commit, positions behind     250 ms, 8 MiB, an idle source, its end
//!   Flushing  the last batches are appended
//!   Ending    end of the transaction                     -> Telling
//!   Aborting  nothing of it will be seen; fence again    -> Loading
//! ```
//!
//! Always true here: a position is appended only when every byte it covers is in an appended record of
//! the same transaction; `committed` is told only what is durable; a source that may not be polled
//! (no room in the log) keeps its open files and goes on where it was.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use thalweg_core::client::log::{Cleanup, Log, TopicConfig};
use thalweg_core::client::transaction::{ProducerConfig, Slot, TransactionalProducer};
use thalweg_core::config::Compression;
use thalweg_core::ids::{Timestamp, TopicPartition};

pub use super::pace::Pace;

use super::pace::Ahead;
use super::topic::{Partitions, ensure_topic};
use super::{Backoff, Step, Verdict, is_ready};
use crate::error::{Error, Result};
use crate::position::{Loading, UNDECIDED_WAIT, encode_key, positions_topic};
use crate::source::{Outbox, Polled, Position, Positions, Source, Split};

/// Settings of a [`SourceRunner`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceConfig {
    /// The connector's name: its positions and its transactional id go by it, so it must not change,
    /// and two sources on one log must not share one.
    pub name: String,
    /// The topic that receives the records; created when missing.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: Partitions,
    /// The settings it, and the topic of the positions, are created with; the positions are compacted
    /// and take only the level from here.
    pub topic_config: TopicConfig,
    /// How records are compressed.
    pub compression: Compression,
    /// The longest a record waits for its commit. Default 250 ms: readers see nothing before it.
    pub interval: Duration,
    /// Bytes of records that are committed at once. Default 8 MiB: a commit costs a sync at level
    /// `disk`.
    pub batch_bytes: u64,
    /// The longest a transaction may stay open. Default 1 min.
    pub transaction_timeout: Duration,
    /// Whom the source does not run away from. Default nobody: the log holds what is not read yet.
    pub pace: Option<Pace>,
}

/// How long a source waits that is ahead before it looks again.
const AHEAD_WAIT: Duration = Duration::from_millis(5);

impl SourceConfig {
    /// The defaults.
    pub fn new(name: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            topic: topic.into(),
            partitions: Partitions::AsCreated(1),
            topic_config: TopicConfig::default(),
            compression: Compression::None,
            interval: Duration::from_millis(250),
            batch_bytes: 8 << 20,
            transaction_timeout: Duration::from_secs(60),
            pace: None,
        }
    }
}

/// What a [`SourceRunner`] has done since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SourceStats {
    /// Records committed.
    pub records: u64,
    /// Bytes of their keys, values and headers.
    pub bytes: u64,
    /// Transactions committed.
    pub commits: u64,
    /// Transactions aborted, or given up before they had anything.
    pub aborts: u64,
    /// Bytes that are known to be there but were not yet read.
    pub lag_bytes: u64,
}

/// Runs one source.
///
/// ```
/// use std::sync::Arc;
/// use thalweg_connectors::error::Result;
/// use thalweg_connectors::run::source::{SourceConfig, SourceRunner};
/// use thalweg_connectors::source::Source;
/// use thalweg_core::Log;
///
/// async fn ingest(
///     log: Arc<dyn Log>,
///     source: impl Source,
///     stop: impl Future<Output = ()> + Send,
/// ) -> Result<()> {
///     let config = SourceConfig::new("syslog", "logs.raw");
///     let mut runner = SourceRunner::open(log, config, source).await?;
///     runner.run(stop).await // What was told to `committed` is in the log, once, whatever dies.
/// }
/// ```
pub struct SourceRunner<S> {
    log: Arc<dyn Log>,
    config: SourceConfig,
    producer: TransactionalProducer,
    slots: Vec<Slot>,
    positions: Slot,
    source: S,
    ahead: Option<Ahead>,
    phase: Phase,
    taken: Taken,
    backoff: Backoff,
    stats: SourceStats,
}

enum Phase {
    /// Positions are to be read; `None`: from how far is not yet known.
    Loading(Option<Loading>),
    Telling(Positions),
    Reading,
    Covering,
    Flushing,
    Ending,
    Aborting,
    /// The source is at its end and told.
    Ended,
    /// Nothing more can be done.
    Stopped(String),
}

/// What the open transaction holds.
#[derive(Default)]
struct Taken {
    marks: Positions,
    records: u64,
    bytes: u64,
    /// When the first of it came.
    since: Option<Timestamp>,
    /// A batch is full: flush before the source is asked for more.
    flush: bool,
    /// The source has nothing more.
    ended: bool,
}

impl Taken {
    fn is_empty(&self) -> bool {
        self.records == 0 && self.marks.is_empty()
    }
}

impl<S: Source> SourceRunner<S> {
    /// Fences whoever ran this connector before, creates what topics are missing, and opens the
    /// source where the last commit left off.
    ///
    /// # Errors
    /// The topic has another number of partitions than asked for; those of the log; those of the
    /// source that no waiting heals.
    pub async fn open(log: Arc<dyn Log>, config: SourceConfig, source: S) -> Result<Self> {
        let topic =
            ensure_topic(&*log, &config.topic, config.partitions, &config.topic_config).await?;
        let positions_config = TopicConfig {
            level: config.topic_config.level,
            cleanup: Cleanup::Compact,
            ..TopicConfig::default()
        };
        let positions_name = positions_topic(&config.name);
        ensure_topic(&*log, &positions_name, Partitions::Exactly(1), &positions_config).await?;
        let (producer, slots, positions) = fence(&log, &config, topic.partitions).await?;
        let ahead = config.pace.clone();
        let ahead = ahead.map(|pace| Ahead::new(pace, &config.topic, topic.partitions));
        let mut runner = Self {
            log,
            config,
            producer,
            slots,
            positions,
            source,
            ahead,
            phase: Phase::Loading(None),
            taken: Taken::default(),
            backoff: Backoff::default(),
            stats: SourceStats::default(),
        };
        // Once, so that a source that cannot be opened is told here; if it has to wait, steps go on.
        runner.step().await?;
        Ok(runner)
    }

    /// Does the next thing there is to do. Waits for time to pass only to keep
    /// [`pace`](SourceConfig::pace), then at most a tenth of a second.
    ///
    /// # Errors
    /// Those that stop the runner; every later step then fails too.
    pub async fn step(&mut self) -> Result<Step> {
        match self.turn().await {
            Ok(step) => Ok(step),
            Err(error) => self.recover(error),
        }
    }

    /// Steps until the source ends or `stop` is ready, then commits what is open.
    ///
    /// # Errors
    /// Those that stop the runner.
    pub async fn run(&mut self, stop: impl Future<Output = ()> + Send) -> Result<()> {
        let mut stop = pin!(stop);
        while !is_ready(&mut stop).await {
            match self.step().await? {
                Step::Worked => {}
                Step::Idle(time) => match select(stop.as_mut(), self.log.sleep(time)).await {
                    Either::Left(_) => break,
                    Either::Right(_) => {}
                },
                Step::End => return Ok(()),
            }
        }
        self.finish().await
    }

    /// Commits what is open, or gives it up where the log takes nothing: the input still has it.
    ///
    /// # Errors
    /// Those that stop the runner.
    pub async fn finish(&mut self) -> Result<()> {
        let mut patience = 8;
        loop {
            match &self.phase {
                Phase::Reading if self.taken.is_empty() => return Ok(()),
                Phase::Reading => self.phase = Phase::Covering,
                Phase::Loading(_) | Phase::Ended => return Ok(()),
                _ => {}
            }
            if let Step::Idle(time) = self.step().await? {
                patience -= 1;
                if patience == 0 {
                    tracing::warn!(
                        connector = self.config.name,
                        "stopped without a last commit: the next start reads those lines again"
                    );
                    return Ok(());
                }
                self.log.sleep(time).await;
            }
        }
    }

    /// What was done so far.
    pub fn stats(&self) -> SourceStats {
        SourceStats { lag_bytes: self.source.lag_bytes(), ..self.stats }
    }

    /// The source, for its own statistics.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The source, for what it has to tell. Its positions are the runner's business.
    pub fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    async fn turn(&mut self) -> Result<Step> {
        match std::mem::replace(&mut self.phase, Phase::Reading) {
            Phase::Loading(loading) => self.load(loading).await,
            Phase::Telling(positions) => {
                let told = self.source.committed(&positions).await;
                if let Err(e) = told {
                    self.phase = Phase::Telling(positions);
                    return Err(e);
                }
                if self.taken.ended {
                    self.phase = Phase::Ended;
                }
                Ok(Step::Worked)
            }
            Phase::Reading => self.read().await,
            Phase::Covering => {
                self.phase = Phase::Covering;
                self.source.before_commit().await?;
                self.cover()?;
                self.phase = Phase::Flushing;
                Ok(Step::Worked)
            }
            Phase::Flushing => {
                self.phase = Phase::Flushing;
                self.producer.flush().await?;
                self.phase = Phase::Ending;
                Ok(Step::Worked)
            }
            Phase::Ending => {
                self.phase = Phase::Ending;
                self.end().await
            }
            Phase::Aborting => {
                self.phase = Phase::Aborting;
                if self.producer.in_transaction() {
                    self.producer.abort().await?;
                }
                // The fencing finishes what an earlier transaction of ours has left to do: only
                // then can all of our positions be read.
                let partitions = self.slots.len() as u32;
                (self.producer, self.slots, self.positions) =
                    fence(&self.log, &self.config, partitions).await?;
                self.stats.aborts += 1;
                self.taken = Taken::default();
                if let Some(ahead) = &mut self.ahead {
                    ahead.forget();
                }
                self.phase = Phase::Loading(None);
                Ok(Step::Worked)
            }
            Phase::Ended => {
                self.phase = Phase::Ended;
                Ok(Step::End)
            }
            Phase::Stopped(what) => {
                self.phase = Phase::Stopped(what.clone());
                Err(Error::Fatal { what })
            }
        }
    }

    /// Reads the positions, as far as that is possible without waiting, and takes the source back to
    /// them.
    async fn load(&mut self, loading: Option<Loading>) -> Result<Step> {
        self.phase = Phase::Loading(None);
        let mut loading = match loading {
            Some(loading) => loading,
            None => Loading::begin(&*self.log, &self.config.name).await?,
        };
        if !loading.advance(&*self.log).await? {
            self.phase = Phase::Loading(Some(loading));
            return Ok(Step::Idle(UNDECIDED_WAIT));
        }
        self.source.open(&loading.positions).await?;
        self.phase = Phase::Telling(loading.positions);
        Ok(Step::Worked)
    }

    /// Lets the source push records, and decides whether that is enough.
    async fn read(&mut self) -> Result<Step> {
        if self.taken.is_empty()
            && let Some(ahead) = &mut self.ahead
            && ahead.is_too_far(&*self.log).await?
        {
            return Ok(Step::Idle(AHEAD_WAIT));
        }
        self.flush().await?;
        if !self.producer.in_transaction() {
            self.producer.begin().await?;
        }
        let mut out = Open {
            producer: &mut self.producer,
            slots: &self.slots,
            taken: &mut self.taken,
            batch_bytes: self.config.batch_bytes,
            uncovered: 0,
        };
        let polled = self.source.poll(&mut out).await;
        let uncovered = out.uncovered;
        let now = self.log.now();
        if self.taken.since.is_none() && !self.taken.is_empty() {
            self.taken.since = Some(now);
        }
        let polled = match polled {
            // What was pushed behind the last mark would be pushed again.
            Err(Error::Retry { what }) if uncovered > 0 => return Err(Error::Restart { what }),
            polled => polled?,
        };
        if uncovered > 0 {
            return Err(Error::Fatal {
                what: format!(
                    "source {:?} pushed {uncovered} records behind its last mark: a poll ends with \
                     a mark of each split it has read",
                    self.config.name
                ),
            });
        }
        self.taken.ended = polled == Polled::End;
        let due = match polled {
            Polled::More => self.is_due(now),
            Polled::Idle(_) | Polled::End => true,
        };
        if due && !self.taken.is_empty() {
            self.phase = Phase::Covering;
            return Ok(Step::Worked);
        }
        self.flush().await?;
        match polled {
            Polled::More => Ok(Step::Worked),
            Polled::Idle(time) => Ok(Step::Idle(time)),
            Polled::End => {
                self.phase = Phase::Ended;
                Ok(Step::End)
            }
        }
    }

    /// Whether size or time asks for a commit. A clock that was set back counts as due.
    fn is_due(&self, now: Timestamp) -> bool {
        let waited = self.taken.since.map_or(0, |since| now - since);
        self.taken.bytes >= self.config.batch_bytes
            || waited < 0
            || u128::from(waited.unsigned_abs()) >= self.config.interval.as_millis()
    }

    async fn flush(&mut self) -> Result<()> {
        if self.taken.flush {
            self.producer.flush_full().await?;
            self.taken.flush = false;
        }
        Ok(())
    }

    /// Appends the positions behind the records they cover.
    fn cover(&mut self) -> Result<()> {
        let now = self.log.now();
        for (split, position) in &self.taken.marks {
            let key = encode_key(&self.config.name, split);
            let value = position.as_ref().map(|position| &position.0[..]);
            self.producer.push(self.positions, now, Some(&key), value, &[])?;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<Step> {
        self.producer.commit().await?;
        let taken = std::mem::take(&mut self.taken);
        if let Some(ahead) = &mut self.ahead {
            let upto = self.slots.iter().map(|slot| self.producer.next_offset(*slot)).collect();
            ahead.committed(taken.records, upto);
        }
        self.stats.records += taken.records;
        self.stats.bytes += taken.bytes;
        self.stats.commits += 1;
        self.backoff.reset();
        self.taken.ended = taken.ended;
        self.phase = Phase::Telling(taken.marks);
        Ok(Step::Worked)
    }

    /// Decides how to go on after a failure.
    fn recover(&mut self, error: Error) -> Result<Step> {
        let who = format!("source {:?}", self.config.name);
        let (what, pause) = match Verdict::of(&who, error) {
            Verdict::Later(what) if !self.is_stale() => {
                let pause = self.backoff.pause();
                if self.backoff.is_news() {
                    tracing::warn!(connector = self.config.name, "{what}");
                }
                return Ok(Step::Idle(pause));
            }
            // The log would abort it in time, and fence us.
            Verdict::Later(what) => (what, Some(self.backoff.pause())),
            Verdict::Again(what) => {
                let pause = self.backoff.restart();
                (what, pause)
            }
            Verdict::Stop(error) => return self.stop(error),
        };
        let Some(pause) = pause else {
            let what = format!("{who} failed again and again, and stops: {what}");
            return self.stop(Error::Fatal { what });
        };
        tracing::warn!(
            connector = self.config.name,
            ?pause,
            "starting from the last commit: {what}"
        );
        self.phase = Phase::Aborting;
        Ok(Step::Idle(pause))
    }

    fn stop(&mut self, error: Error) -> Result<Step> {
        self.phase = Phase::Stopped(error.to_string());
        Err(error)
    }

    /// Whether a transaction that cannot go on has been open for half of what it may.
    fn is_stale(&self) -> bool {
        let filling = matches!(self.phase, Phase::Reading | Phase::Covering | Phase::Flushing);
        let open = self.taken.since.map_or(0, |since| self.log.now() - since);
        filling
            && u128::from(open.unsigned_abs()) >= self.config.transaction_timeout.as_millis() / 2
    }
}

/// Takes over the connector's transactional id, and registers its partitions: those of its topic, and
/// the one of its positions.
async fn fence(
    log: &Arc<dyn Log>,
    config: &SourceConfig,
    partitions: u32,
) -> Result<(TransactionalProducer, Vec<Slot>, Slot)> {
    let id = format!("connect-source/{}", config.name);
    let producer_config = ProducerConfig {
        compression: config.compression,
        transaction_timeout: config.transaction_timeout,
        ..ProducerConfig::default()
    };
    let mut producer = TransactionalProducer::open(log.clone(), &id, producer_config).await?;
    let topic: Arc<str> = config.topic.as_str().into();
    let slots = (0..partitions)
        .map(|partition| producer.slot(&TopicPartition::new(topic.clone(), partition)))
        .collect();
    let positions = producer.slot(&TopicPartition::new(positions_topic(&config.name), 0));
    Ok((producer, slots, positions))
}

/// The open transaction, as a source sees it.
struct Open<'a> {
    producer: &'a mut TransactionalProducer,
    slots: &'a [Slot],
    taken: &'a mut Taken,
    batch_bytes: u64,
    /// Records since the last mark.
    uncovered: u64,
}

impl Outbox for Open<'_> {
    fn partitions(&self) -> u32 {
        self.slots.len() as u32
    }

    fn record(
        &mut self,
        partition: u32,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<()> {
        let slot = self.slots.get(partition as usize).copied().ok_or_else(|| {
            thalweg_core::Error::invalid(format!(
                "partition {partition} of a topic of {} partitions",
                self.slots.len()
            ))
        })?;
        self.taken.flush |= self.producer.push(slot, timestamp, key, value, headers)?;
        let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len) as u64;
        let headers: u64 = headers.iter().map(|(k, v)| k.len() as u64 + len(*v)).sum();
        self.taken.bytes += len(key) + len(value) + headers;
        self.taken.records += 1;
        self.uncovered += 1;
        Ok(())
    }

    fn mark(&mut self, split: &Split, position: Option<Position>) {
        self.uncovered = 0;
        self.taken.marks.insert(split.clone(), position);
    }

    fn is_full(&self) -> bool {
        self.taken.flush || self.taken.bytes >= self.batch_bytes
    }
}
