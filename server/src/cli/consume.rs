//! `thalweg consume`: records to standard output.
//!
//! Always true here: the end is the one that the partitions had when the command began, unless it
//! follows; a group's position is stored only behind records that were written to standard output;
//! records are borrowed from what was fetched, and written into one buffer.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thalweg_core::batch::Scratch;
use thalweg_core::client::log::{
    FetchFrom, FetchOptions, Fetched, Isolation, Membership, OffsetCommit, TopicInfo,
};
use thalweg_core::ids::{LeaderEpoch, Offset, Timestamp, TopicPartition};
use thalweg_core::record::RecordRef;
use thalweg_core::{Error, Log};

use super::args::Consume;
use super::failure::{Failure, Outcome};
use super::format::Format;
use super::from::Place;
use super::json;
use super::output::Out;
use super::progress::Progress;
use super::read::{self, FETCH_BYTES};
use super::session::{self, Reading, Session};
use super::signals::Stop;

/// How long a follower waits before it looks whether its reader is still there.
const LOOK: Duration = Duration::from_secs(1);
/// How often positions are stored while records come.
const COMMIT_MS: i64 = 5_000;

/// How a record is shown.
enum Shown {
    /// Its value and a newline.
    Value,
    Json,
    Format(Format),
}

/// One partition, and how far it was read.
struct Lane {
    at: TopicPartition,
    /// The beginning of its JSON lines.
    prefix: Vec<u8>,
    next: Offset,
    /// The leader epoch of the record before `next`, -1 before one was read.
    epoch: LeaderEpoch,
    /// Where it ends; `None` when there is no end.
    end: Option<Offset>,
}

impl Lane {
    fn is_done(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }
}

/// Runs the command.
pub(crate) fn run(data: &Path, options: Consume) -> Outcome {
    if options.group.is_none() && options.from == Some(Place::Stored) {
        let what = "--from stored: only a group has stored positions; name one with --group";
        return Err(Failure::Usage(what.to_owned()));
    }
    let reading = match (&options.group, options.follow, options.read_only) {
        (None, false, true) => Reading::Looking,
        (None, false, false) => Reading::AloneOrLooking,
        // Stored positions, and records to come, need the folder's one writer.
        _ => Reading::Alone,
    };
    session::read(data, reading, async |session: Session| {
        let Session { log, stop } = session;
        let info = log.topic(&options.topic).await?;
        let partitions = partitions_of(&info, &options.partition)?;
        let member = match &options.group {
            Some(group) => Some(log.join_group(group).await?),
            None => None,
        };
        let lanes = begin(&log, &info, &partitions, &options, member.as_ref()).await?;
        let shown = match (options.format, options.json) {
            (Some(format), _) => Shown::Format(format),
            (None, true) => Shown::Json,
            (None, false) => Shown::Value,
        };
        let mut work = Work {
            committed_at: log.now(),
            log,
            lanes,
            member,
            shown,
            isolation: options.isolation,
            left: options.max.unwrap_or(u64::MAX),
            out: Out::new(),
            scratch: Scratch::default(),
        };
        let done = work.run(&stop).await;
        work.end(done).await
    })
}

/// The partitions asked for; all when none was.
pub(crate) fn partitions_of(info: &TopicInfo, asked: &[u32]) -> Outcome<Vec<TopicPartition>> {
    let at = |number| TopicPartition::new(Arc::clone(&info.name), number);
    if asked.is_empty() {
        return Ok((0..info.partitions).map(at).collect());
    }
    let mut numbers = asked.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    if let Some(number) = numbers.iter().find(|number| **number >= info.partitions) {
        let what = format!("partition {number} of {}, which has {},", info.name, info.partitions);
        return Err(Error::Unknown { what }.into());
    }
    Ok(numbers.into_iter().map(at).collect())
}

/// Where each partition begins and ends.
async fn begin(
    log: &Arc<dyn Log>,
    info: &TopicInfo,
    partitions: &[TopicPartition],
    options: &Consume,
    member: Option<&Membership>,
) -> Outcome<Vec<Lane>> {
    let default = if member.is_some() { Place::Stored } else { Place::Beginning };
    let from = options.from.unwrap_or(default);
    let stored = match &options.group {
        Some(group) if from == Place::Stored => log.committed_offsets(group, partitions).await?,
        _ => vec![None; partitions.len()],
    };
    let mut lanes = Vec::with_capacity(partitions.len());
    for (at, stored) in partitions.iter().zip(stored) {
        let offsets = log.offsets(at).await?;
        let end = (!options.follow).then(|| read::bound(&offsets, options.isolation));
        let (next, epoch) = match (from.offset(log, at, &offsets, options.isolation).await?, stored)
        {
            (Some(offset), _) => (offset, -1),
            (None, Some(commit)) => {
                log.check_position(at, info.id, commit.leader_epoch, commit.offset).await?;
                (commit.offset, commit.leader_epoch)
            }
            (None, None) => (offsets.start, -1),
        };
        lanes.push(Lane { at: at.clone(), prefix: json::prefix(at), next, epoch, end });
    }
    Ok(lanes)
}

struct Work {
    log: Arc<dyn Log>,
    lanes: Vec<Lane>,
    member: Option<Membership>,
    shown: Shown,
    isolation: Isolation,
    /// How many records may still be shown.
    left: u64,
    out: Out,
    scratch: Scratch,
    committed_at: Timestamp,
}

impl Work {
    async fn run(&mut self, stop: &Stop) -> Outcome {
        let mut progress = Progress::new(true);
        while self.left > 0 {
            let from: Vec<FetchFrom> = self
                .lanes
                .iter()
                .filter(|lane| !lane.is_done())
                .map(|lane| FetchFrom {
                    at: lane.at.clone(),
                    offset: lane.next,
                    max_bytes: FETCH_BYTES,
                })
                .collect();
            if from.is_empty() {
                return Ok(());
            }
            let isolation = self.isolation;
            let options = FetchOptions { isolation, max_wait: LOOK, max_bytes: 4 * FETCH_BYTES };
            let fetched = tokio::select! {
                biased;
                number = stop.rung() => return Err(Failure::Signal(number)),
                fetched = self.log.fetch(&from, options) => fetched?,
            };
            let before = self.left;
            for one in &fetched {
                self.show(one)?;
                progress.add(before - self.left, one.batches.len() as u64);
            }
            let quiet = fetched.iter().all(|one| one.batches.is_empty());
            if quiet || self.lanes.iter().any(|lane| lane.end.is_none()) {
                self.out.flush()?;
                if quiet && Out::is_closed() {
                    return Err(Failure::ClosedPipe);
                }
            }
            // Next time, those that got nothing come first.
            self.lanes.rotate_left(1);
            if self.log.now().saturating_sub(self.committed_at) >= COMMIT_MS {
                self.commit().await?;
            }
        }
        Ok(())
    }

    /// Writes the records of one answer.
    fn show(&mut self, fetched: &Fetched) -> Outcome {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.at == fetched.at) else {
            return Ok(());
        };
        if fetched.batches.is_empty() || self.left == 0 {
            return Ok(());
        }
        let (from, end) = (lane.next, lane.end.unwrap_or(Offset::MAX));
        let (out, shown, left) = (&mut self.out, &self.shown, &mut self.left);
        let mut failed = Ok(());
        let put = |batch: &thalweg_core::batch::BatchHeader, record: &RecordRef<'_>| {
            match shown {
                Shown::Value => {
                    out.buffer.extend_from_slice(record.value.unwrap_or_default());
                    out.buffer.push(b'\n');
                }
                Shown::Json => {
                    let append_time = batch.attributes.log_append_time();
                    json::put_record(&mut out.buffer, &lane.prefix, append_time, record);
                }
                Shown::Format(format) => format.put(&mut out.buffer, &lane.at, record),
            }
            lane.next = record.offset + 1;
            lane.epoch = batch.leader_epoch;
            *left -= 1;
            failed = out.flush_if_full();
            if *left == 0 || failed.is_err() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        let flow = read::records(fetched, from, end, &mut self.scratch, put)?;
        failed?;
        if flow.is_continue() {
            // Behind markers and aborted records too.
            (lane.next, lane.epoch) = (fetched.next_offset, fetched.leader_epoch);
        } else if self.left > 0 {
            // A record at or behind the end came.
            lane.next = lane.next.max(end);
        }
        Ok(())
    }

    /// Stores the positions of what was written.
    async fn commit(&mut self) -> Outcome {
        self.committed_at = self.log.now();
        let Some(member) = &self.member else { return Ok(()) };
        self.out.flush()?;
        let commit = |lane: &Lane| OffsetCommit {
            at: lane.at.clone(),
            offset: lane.next,
            leader_epoch: lane.epoch,
            metadata: String::new(),
        };
        let commits: Vec<OffsetCommit> = self.lanes.iter().map(commit).collect();
        Ok(self.log.commit_offsets(member, &commits).await?)
    }

    /// Writes what is left and stores the positions, also after a signal or damage: what was read
    /// before is whole.
    async fn end(&mut self, done: Outcome) -> Outcome {
        if let Err(Failure::ClosedPipe) = done {
            return done;
        }
        let flushed = self.out.flush();
        if flushed.is_ok() {
            let committed = self.commit().await;
            if let Some(member) = &self.member {
                self.log.leave_group(member).await?;
            }
            done?;
            return committed;
        }
        done?;
        flushed
    }
}
