//! Drives a sink: reads committed records, and commits offsets together with what the sink has yet to
//! finish.
//!
//! ```text
//!   open     fence the predecessor; join the group; positions and tokens; check_position; sink.open
//!   Reading  fetch, write, fetch, write ..., sink.prepare when it is due
//!   Sending  offsets + tokens go into a transaction
//!   Deciding end of the transaction                       the arbiter
//!   Making   sink.commit                                  -> Reading
//!
//!   crash in    Reading, Sending       what was written is nobody's; it is read again
//!               Deciding               the log says which; a token is found at open, or none
//!               Making                 the token is found at open, and finished
//! ```
//!
//! Always true here: a token is committed only with the offset behind the records it stands for;
//! `sink.commit` returns before the next commit begins; a position that the log can no longer vouch
//! for is an error with ways out, never a silent jump.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use thalweg_core::batch::batches;
use thalweg_core::client::log::{
    FetchFrom, FetchOptions, Fetched, Isolation, Log, Membership, OffsetCommit, TopicInfo,
};
use thalweg_core::client::transaction::{ProducerConfig, TransactionalProducer};
use thalweg_core::ids::{LeaderEpoch, Offset, TopicPartition, Uuid, check_topic_name};

use super::{Backoff, Step, Verdict, is_ready};
use crate::error::{Error, Result};
use crate::position::{SinkMetadata, UNDECIDED_PATIENCE, UNDECIDED_WAIT};
use crate::sink::{Prepared, Resume, Sink};

/// Settings of a [`SinkRunner`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SinkConfig {
    /// The sink's name: its group and its transactional id go by it, so it must not change, and two
    /// sinks on one log must not share one.
    pub name: String,
    /// The topics to read, all partitions of each. They must exist.
    pub topics: Vec<String>,
    /// Bytes of one answer from one partition. Default 1 MiB.
    pub partition_bytes: usize,
    /// Bytes of one answer from all partitions: what the runner holds at once. Default 8 MiB.
    pub fetch_bytes: usize,
    /// The longest [`SinkRunner::run`] waits for records before it looks at the clock. Default
    /// 250 ms: how late a file may be finished for its age.
    pub wait: Duration,
}

impl SinkConfig {
    /// The defaults.
    pub fn new<'a>(name: impl Into<String>, topics: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            name: name.into(),
            topics: topics.into_iter().map(str::to_owned).collect(),
            partition_bytes: 1 << 20,
            fetch_bytes: 8 << 20,
            wait: Duration::from_millis(250),
        }
    }

    fn group(&self) -> String {
        format!("connect-{}", self.name)
    }
}

/// What a [`SinkRunner`] has done since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SinkStats {
    /// Bytes of batches given to the sink; what is read again after a restart counts again.
    pub bytes: u64,
    /// Offsets committed, and made visible by the sink.
    pub commits: u64,
    /// Times that everything since the last commit was given up.
    pub restarts: u64,
    /// Offsets that were readable at the last fetch but not yet read.
    pub lag: u64,
}

/// Runs one sink over all partitions of some topics, as the only member of its group.
///
/// ```
/// use std::sync::Arc;
/// use thalweg_connectors::error::Result;
/// use thalweg_connectors::files::{FileSink, FileSinkConfig};
/// use thalweg_connectors::run::sink::{SinkConfig, SinkRunner};
/// use thalweg_core::Log;
/// use thalweg_core::disk::real::RealDisk;
///
/// async fn export(
///     log: Arc<dyn Log>,
///     random: u64,
///     stop: impl Future<Output = ()> + Send,
/// ) -> Result<()> {
///     let files = FileSinkConfig::new("./out", [("events", "events")]);
///     let sink = FileSink::claim(RealDisk, files, log.id(), random)?;
///     let config = SinkConfig::new("files", ["events"]);
///     SinkRunner::open(log, config, sink).await?.run(stop).await
/// }
/// ```
pub struct SinkRunner<S> {
    log: Arc<dyn Log>,
    config: SinkConfig,
    producer: TransactionalProducer,
    member: Membership,
    sink: S,
    parts: Vec<Part>,
    /// Which partition is asked first: the next one each time, so that none starves.
    first: usize,
    /// Read, but not yet taken by the sink.
    answers: VecDeque<Fetched>,
    phase: Phase,
    backoff: Backoff,
    stats: SinkStats,
}

/// One partition that is read.
struct Part {
    at: TopicPartition,
    topic: Uuid,
    /// The next offset to read.
    position: Offset,
    /// The leader epochs of what was read since the last commit, each with its first offset.
    epochs: Vec<(Offset, LeaderEpoch)>,
    /// The end of what was readable at the last answer.
    readable: Offset,
}

enum Phase {
    Opening,
    Reading,
    Sending(Prepared),
    Deciding(Prepared),
    Making(Prepared),
    Aborting,
    Stopped(String),
}

impl<S: Sink> SinkRunner<S> {
    /// Fences whoever ran this sink before, and opens the sink at the group's positions: what an
    /// earlier run had prepared and committed is finished here.
    ///
    /// # Errors
    /// A topic is missing; a position rests on records that are gone
    /// ([`thalweg_core::Error::PositionLost`]); those of the log and the sink that no waiting heals.
    pub async fn open(log: Arc<dyn Log>, config: SinkConfig, sink: S) -> Result<Self> {
        check_topic_name(&config.name)?;
        let transactional_id = format!("connect-sink/{}", config.name);
        let producer =
            TransactionalProducer::open(log.clone(), &transactional_id, ProducerConfig::default())
                .await?;
        let member = log.join_group(&config.group()).await?;
        let mut parts = Vec::new();
        for topic in &config.topics {
            let TopicInfo { name, id, partitions, .. } = log.topic(topic).await?;
            parts.extend((0..partitions).map(|partition| Part {
                at: TopicPartition::new(name.clone(), partition),
                topic: id,
                position: 0,
                epochs: Vec::new(),
                readable: 0,
            }));
        }
        let mut runner = Self {
            log,
            config,
            producer,
            member,
            sink,
            parts,
            first: 0,
            answers: VecDeque::new(),
            phase: Phase::Opening,
            backoff: Backoff::default(),
            stats: SinkStats::default(),
        };
        // Once, so that what cannot be opened is told here; if it has to wait, steps go on.
        runner.step().await?;
        Ok(runner)
    }

    /// Does the next thing there is to do. Never waits for time to pass.
    ///
    /// # Errors
    /// Those that stop the runner; every later step then fails too.
    pub async fn step(&mut self) -> Result<Step> {
        let result = match self.must_fetch() {
            true => match self.fetch(Duration::ZERO).await {
                Ok(answers) => self.take(answers).await,
                Err(e) => Err(e),
            },
            false => self.turn().await,
        };
        result.or_else(|error| self.recover(error))
    }

    /// Steps until `stop` is ready, then commits what is written.
    ///
    /// # Errors
    /// Those that stop the runner.
    pub async fn run(&mut self, stop: impl Future<Output = ()> + Send) -> Result<()> {
        let mut stop = pin!(stop);
        while !is_ready(&mut stop).await {
            let step = if self.must_fetch() {
                // Only the waiting may be broken off, never a write or a commit.
                let fetched = match select(stop.as_mut(), pin!(self.fetch(self.config.wait))).await
                {
                    Either::Left(_) => break,
                    Either::Right((fetched, _)) => fetched,
                };
                let result = match fetched {
                    Ok(answers) => self.take(answers).await.map(|_| Step::Worked),
                    Err(e) => Err(e),
                };
                result.or_else(|error| self.recover(error))?
            } else {
                self.step().await?
            };
            if let Step::Idle(time) = step
                && let Either::Left(_) = select(stop.as_mut(), self.log.sleep(time)).await
            {
                break;
            }
        }
        self.roll().await
    }

    /// Reads to the end, and commits: for a bounded run, after everything upstream is committed.
    ///
    /// # Errors
    /// Those that stop the runner; [`Error::Retry`] when records stay undecided for a minute: call
    /// again once their transactions are ended.
    pub async fn finish(&mut self) -> Result<()> {
        self.finish_until(std::future::pending()).await.map(drop)
    }

    /// As [`SinkRunner::finish`], until `stop` is ready: then what is written is committed, if that
    /// needs no long wait, and the rest is left to the next start. Whether it came to the end.
    ///
    /// # Errors
    /// Those of [`SinkRunner::finish`].
    pub async fn finish_until(&mut self, stop: impl Future<Output = ()> + Send) -> Result<bool> {
        let mut stop = pin!(stop);
        let mut patience = UNDECIDED_PATIENCE;
        loop {
            if is_ready(&mut stop).await {
                self.roll().await?;
                return Ok(false);
            }
            let pauses = self.backoff.pauses;
            let Step::Idle(time) = self.step().await? else {
                patience = UNDECIDED_PATIENCE;
                continue;
            };
            if self.backoff.pauses > pauses {
                // A failure that is waited for, such as a full disk, has no end of its own.
                if let Either::Left(_) = select(stop.as_mut(), self.log.sleep(time)).await {
                    self.roll().await?;
                    return Ok(false);
                }
            } else if self.lag().await? > 0 {
                // A step cannot know how soon the markers of a transaction come.
                if patience == 0 {
                    return Err(self.undecided().await);
                }
                patience -= 1;
                self.log.sleep(UNDECIDED_WAIT).await;
            } else if self.roll_within(ROLL_PATIENCE).await? {
                return Ok(true);
            }
        }
    }

    /// Says which records cannot be read.
    async fn undecided(&self) -> Error {
        let mut first = None;
        for part in &self.parts {
            match self.log.offsets(&part.at).await {
                Ok(offsets) if offsets.high_watermark > part.position => {
                    first.get_or_insert((&part.at, part.position));
                }
                Ok(_) => {}
                Err(e) => return e.into(),
            }
        }
        let what =
            first.map_or_else(String::new, |(at, from)| format!("{at} from offset {from} on"));
        Error::Retry { what: format!("records of {what} are in a transaction that is not decided") }
    }

    /// Commits what is written, whether it is due or not, and makes it visible; gives up after some
    /// attempts: whoever comes next reads it again.
    ///
    /// # Errors
    /// Those that stop the runner.
    pub async fn roll(&mut self) -> Result<()> {
        if !self.roll_within(ROLL_PATIENCE).await? {
            tracing::warn!(
                connector = self.config.name,
                "stopped without a last commit: the next start reads those records again"
            );
        }
        Ok(())
    }

    /// Commits what is written, with so many pauses; whether that was done.
    async fn roll_within(&mut self, mut patience: u32) -> Result<bool> {
        let mut prepared = false;
        loop {
            let result = match &self.phase {
                Phase::Reading if !self.answers.is_empty() => self.take(Vec::new()).await,
                Phase::Reading if prepared => return Ok(true),
                Phase::Reading => self.prepare().await.inspect(|_| prepared = true),
                Phase::Opening => return Ok(false),
                _ => self.turn().await,
            };
            if let Err(error) = result
                && let Step::Idle(time) = self.recover(error)?
            {
                if patience == 0 {
                    return Ok(false);
                }
                patience -= 1;
                self.log.sleep(time).await;
            }
        }
    }

    /// Offsets that exist, decided or not, and were not yet read.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn lag(&self) -> Result<u64> {
        let mut lag = 0;
        for part in &self.parts {
            let offsets = self.log.offsets(&part.at).await?;
            lag += u64::try_from(offsets.high_watermark - part.position).unwrap_or(0);
        }
        Ok(lag)
    }

    /// What was done so far.
    pub fn stats(&self) -> SinkStats {
        let behind = |part: &Part| u64::try_from(part.readable - part.position).unwrap_or(0);
        SinkStats { lag: self.parts.iter().map(behind).sum(), ..self.stats }
    }

    /// The sink, for its own statistics.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    fn is_reading(&self) -> bool {
        matches!(self.phase, Phase::Reading)
    }

    fn must_fetch(&self) -> bool {
        self.is_reading() && self.answers.is_empty()
    }

    async fn turn(&mut self) -> Result<Step> {
        match &self.phase {
            Phase::Opening => {
                self.open_sink().await?;
                self.phase = Phase::Reading;
            }
            Phase::Reading => return self.take(Vec::new()).await,
            Phase::Sending(prepared) => {
                let offsets = offsets_to_commit(&self.parts, prepared)?;
                // An attempt that failed is given up, so that none stays open until it is too old.
                if self.producer.in_transaction() {
                    self.producer.abort().await?;
                }
                self.producer.begin().await?;
                self.producer.send_offsets(&self.member, &offsets).await?;
                self.pass(Phase::Deciding);
            }
            Phase::Deciding(_) => {
                self.producer.commit().await?;
                self.pass(Phase::Making);
            }
            Phase::Making(prepared) => {
                self.sink.commit(prepared).await?;
                for (at, offset, _) in &prepared.parts {
                    if let Some(part) = self.parts.iter_mut().find(|part| part.at == *at) {
                        part.forget_epochs(*offset);
                    }
                }
                self.stats.commits += 1;
                self.backoff.reset();
                self.phase = Phase::Reading;
            }
            Phase::Aborting => {
                if self.producer.in_transaction() {
                    self.producer.abort().await?;
                }
                self.phase = Phase::Opening;
            }
            Phase::Stopped(what) => return Err(Error::Fatal { what: what.clone() }),
        }
        Ok(Step::Worked)
    }

    /// Goes on to the next phase of a commit.
    fn pass(&mut self, next: fn(Prepared) -> Phase) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Reading) {
            Phase::Sending(prepared) | Phase::Deciding(prepared) => next(prepared),
            other => other,
        };
    }

    /// Finds the group's positions, checks that they still mean the same records, and gives them and
    /// their tokens to the sink.
    async fn open_sink(&mut self) -> Result<()> {
        self.answers.clear();
        let at: Vec<_> = self.parts.iter().map(|part| part.at.clone()).collect();
        let committed = self.log.committed_offsets(&self.member.group, &at).await?;
        let mut resumes = Vec::with_capacity(at.len());
        for (part, committed) in self.parts.iter_mut().zip(committed) {
            let resume = match committed {
                None => Resume::First(self.log.offsets(&part.at).await?.start),
                Some(commit) => {
                    let metadata =
                        SinkMetadata::parse(&commit.metadata).ok_or_else(|| Error::Fatal {
                            what: format!(
                                "group {:?} has a position of {} that no sink has stored \
                                 (metadata {:?}): give this sink another name, or delete the group",
                                self.member.group, part.at, commit.metadata
                            ),
                        })?;
                    let epoch = commit.leader_epoch;
                    self.log.check_position(&part.at, metadata.topic, epoch, commit.offset).await?;
                    Resume::At(commit.offset, metadata.token)
                }
            };
            part.position = resume.offset();
            part.epochs.clear();
            resumes.push((part.at.clone(), resume));
        }
        self.sink.open(&resumes).await
    }

    /// Asks all partitions for what comes next.
    async fn fetch(&self, max_wait: Duration) -> Result<Vec<Fetched>> {
        let from: Vec<_> = self.parts[self.first..]
            .iter()
            .chain(&self.parts[..self.first])
            .map(|part| FetchFrom {
                at: part.at.clone(),
                offset: part.position,
                max_bytes: self.config.partition_bytes,
            })
            .collect();
        let options = FetchOptions {
            isolation: Isolation::ReadCommitted,
            max_wait,
            max_bytes: self.config.fetch_bytes,
        };
        Ok(self.log.fetch(&from, options).await?)
    }

    /// Gives answers to the sink, and prepares a commit when one is due.
    async fn take(&mut self, answers: Vec<Fetched>) -> Result<Step> {
        self.answers.extend(answers);
        self.first = (self.first + 1) % self.parts.len().max(1);
        let mut step = Step::Idle(self.config.wait);
        while let Some(answer) = self.answers.front() {
            self.sink.write(answer).await?;
            if let Some(part) = self.parts.iter_mut().find(|part| part.at == answer.at) {
                if part.read(answer)? {
                    step = Step::Worked;
                }
                self.stats.bytes += answer.batches.len() as u64;
            }
            self.answers.pop_front();
        }
        if self.sink.due(self.log.now()) {
            self.prepare().await?;
            step = Step::Worked;
        }
        Ok(step)
    }

    async fn prepare(&mut self) -> Result<Step> {
        let prepared = self.sink.prepare().await?;
        if !prepared.parts.is_empty() {
            self.phase = Phase::Sending(prepared);
        }
        Ok(Step::Worked)
    }

    /// Decides how to go on after a failure.
    fn recover(&mut self, error: Error) -> Result<Step> {
        let who = format!("sink {:?}", self.config.name);
        let (what, pause) = match Verdict::of(&who, error) {
            Verdict::Later(what) => {
                let pause = self.backoff.pause();
                if self.backoff.is_news() {
                    tracing::warn!(connector = self.config.name, "{what}");
                }
                return Ok(Step::Idle(pause));
            }
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
        self.stats.restarts += 1;
        self.answers.clear();
        self.phase = Phase::Aborting;
        Ok(Step::Idle(pause))
    }

    fn stop(&mut self, error: Error) -> Result<Step> {
        self.phase = Phase::Stopped(error.to_string());
        Err(error)
    }
}

impl Part {
    /// Notes what an answer covered; whether it brought the position forward.
    fn read(&mut self, answer: &Fetched) -> Result<bool> {
        for batch in batches(&answer.batches) {
            let header = batch.map_err(thalweg_core::Error::from)?.header;
            if self.epochs.last().is_none_or(|(_, epoch)| *epoch != header.leader_epoch) {
                self.epochs.push((header.base_offset, header.leader_epoch));
            }
        }
        let moved = answer.next_offset > self.position;
        self.position = self.position.max(answer.next_offset);
        self.readable = answer.offsets.last_stable;
        Ok(moved)
    }

    /// The leader epoch of the record before `offset`, or -1 when none was read.
    fn epoch_before(&self, offset: Offset) -> LeaderEpoch {
        let before = self.epochs.iter().rev().find(|(first, _)| *first < offset);
        before.map_or(-1, |(_, epoch)| *epoch)
    }

    fn forget_epochs(&mut self, before: Offset) {
        let old = self.epochs.iter().filter(|(first, _)| *first < before).count();
        // The last of them is the epoch of what comes next, until another is seen.
        self.epochs.drain(..old.saturating_sub(1));
    }
}

/// Pauses that a last commit may take: about ten seconds.
const ROLL_PATIENCE: u32 = 8;

/// Offsets with what makes them safe to resume from.
fn offsets_to_commit(parts: &[Part], prepared: &Prepared) -> Result<Vec<OffsetCommit>> {
    let commit = |(at, offset, token): &(TopicPartition, Offset, _)| {
        let part = parts.iter().find(|part| part.at == *at).ok_or_else(|| Error::Fatal {
            what: format!("the sink prepared {at}, which it does not hold"),
        })?;
        let metadata = SinkMetadata { topic: part.topic, token: Clone::clone(token) };
        Ok(OffsetCommit {
            at: at.clone(),
            offset: *offset,
            leader_epoch: part.epoch_before(*offset),
            metadata: metadata.to_text()?,
        })
    };
    prepared.parts.iter().map(commit).collect()
}
