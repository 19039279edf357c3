//! What ours serves of one partition: its records for both isolation levels, and the answers to what
//! Folders.java asks.
//!
//! Always true here: everything comes from what the engine's fetch gave, batch by batch; lookups are
//! answered by a walk over all of it, so that they say what is right, not what an index finds; what the
//! engine's own lookups find must be the same.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thalweg_core::Log;
use thalweg_core::batch::{Scratch, Visible, batches};
use thalweg_core::client::log::{FetchFrom, FetchOptions, Isolation, OffsetSpec, PartitionOffsets};
use thalweg_core::ids::{Offset, Timestamp, TopicPartition};
use thalweg_core::record::AbortedTransaction;

use crate::{Outcome, json};

/// A partition, read once for each isolation level.
pub(crate) struct Partition {
    at: TopicPartition,
    offsets: PartitionOffsets,
    committed: Vec<(Bytes, Vec<AbortedTransaction>)>,
    uncommitted: Vec<(Bytes, Vec<AbortedTransaction>)>,
}

impl Partition {
    /// Reads all of it.
    pub(crate) async fn read(log: &Arc<dyn Log>, topic: &str, number: u32) -> Outcome<Self> {
        let at = TopicPartition::new(topic, number);
        let offsets = log.offsets(&at).await?;
        let committed = fetch(log, &at, offsets, Isolation::ReadCommitted).await?;
        let uncommitted = fetch(log, &at, offsets, Isolation::ReadUncommitted).await?;
        Ok(Self { at, offsets, committed, uncommitted })
    }

    /// Adds a line for every record that a reader sees.
    pub(crate) fn records(&self, isolation: Isolation, out: &mut String) -> Outcome<()> {
        let mut scratch = Scratch::default();
        for (bytes, aborted) in self.fetched(isolation) {
            for batch in Visible::new(bytes, aborted, self.offsets.start) {
                let batch = batch?;
                batch.check_crc()?;
                for record in batch.records(&mut scratch)?.starting_at(self.offsets.start) {
                    let (topic, number) = (&self.at.topic, self.at.partition);
                    json::line(out, topic, number, &batch.header, &record?);
                }
            }
        }
        Ok(())
    }

    /// Adds the questions that may be asked of this partition, and the answers; and a line for each lookup of
    /// the engine that finds something else.
    pub(crate) async fn answers(
        &self,
        log: &Arc<dyn Log>,
        out: &mut String,
        faults: &mut String,
    ) -> Outcome<()> {
        let times = self.times()?;
        let head = format!("{} {}", self.at.topic, self.at.partition);
        writeln!(out, "{head} start 0 {}", self.offsets.start)?;
        writeln!(out, "{head} end read_committed {}", self.offsets.last_stable)?;
        writeln!(out, "{head} end read_uncommitted {}", self.offsets.high_watermark)?;
        let latest = times.iter().map(|&(_, time)| time).max();
        let latest = times.iter().find(|&&(_, time)| Some(time) == latest).copied();
        writeln!(out, "{head} latest-time 0 {}", or_none(latest))?;
        let mut look_up = vec![
            (OffsetSpec::Earliest, Some((self.offsets.start, -1))),
            (OffsetSpec::Latest, Some((self.offsets.high_watermark, -1))),
            (OffsetSpec::MaxTimestamp, latest),
        ];
        let asked: BTreeSet<Timestamp> = (times.iter())
            .flat_map(|&(_, time)| (time - 1..=time + 1).map(|near| near.max(0)))
            .chain([0])
            .collect();
        for asked in some(asked.into_iter().collect()) {
            let found = times.iter().find(|&&(_, time)| time >= asked).copied();
            writeln!(out, "{head} time {asked} {}", or_none(found))?;
            look_up.push((OffsetSpec::AtOrAfter(asked), found));
        }
        for (spec, wanted) in look_up {
            let found = log.list_offset(&self.at, spec, Isolation::ReadUncommitted).await?;
            let found = found.map(|found| (found.offset, found.timestamp));
            if found != wanted {
                let (found, wanted) = (or_none(found), or_none(wanted));
                writeln!(faults, "{head} {spec:?}: {found} found, {wanted} is right")?;
            }
        }
        let committed = self.visible(Isolation::ReadCommitted)?;
        let uncommitted = self.visible(Isolation::ReadUncommitted)?;
        for asked in some((self.offsets.start..=self.offsets.high_watermark).collect()) {
            for (name, all) in [("read_committed", &committed), ("read_uncommitted", &uncommitted)]
            {
                let first = all.iter().find(|&&offset| offset >= asked);
                let first = first.map_or("none".to_owned(), Offset::to_string);
                writeln!(out, "{head} {name} {asked} {first}")?;
            }
        }
        Ok(())
    }

    fn fetched(&self, isolation: Isolation) -> &[(Bytes, Vec<AbortedTransaction>)] {
        match isolation {
            Isolation::ReadCommitted => &self.committed,
            Isolation::ReadUncommitted => &self.uncommitted,
        }
    }

    /// Offset and time of every record that is there, markers among them.
    fn times(&self) -> Outcome<Vec<(Offset, Timestamp)>> {
        let mut scratch = Scratch::default();
        let mut all = Vec::new();
        for (bytes, _) in &self.uncommitted {
            for batch in batches(bytes) {
                for record in batch?.records(&mut scratch)? {
                    let record = record?;
                    if record.offset >= self.offsets.start {
                        all.push((record.offset, record.timestamp));
                    }
                }
            }
        }
        Ok(all)
    }

    fn visible(&self, isolation: Isolation) -> Outcome<Vec<Offset>> {
        let mut scratch = Scratch::default();
        let mut all = Vec::new();
        for (bytes, aborted) in self.fetched(isolation) {
            for batch in Visible::new(bytes, aborted, self.offsets.start) {
                for record in batch?.records(&mut scratch)?.starting_at(self.offsets.start) {
                    all.push(record?.offset);
                }
            }
        }
        Ok(all)
    }
}

async fn fetch(
    log: &Arc<dyn Log>,
    at: &TopicPartition,
    offsets: PartitionOffsets,
    isolation: Isolation,
) -> Outcome<Vec<(Bytes, Vec<AbortedTransaction>)>> {
    let end = match isolation {
        Isolation::ReadCommitted => offsets.last_stable,
        Isolation::ReadUncommitted => offsets.high_watermark,
    };
    let options = FetchOptions { isolation, max_wait: Duration::ZERO, max_bytes: 0 };
    let mut offset = offsets.start;
    let mut all = Vec::new();
    while offset < end {
        let from = FetchFrom { at: at.clone(), offset, max_bytes: 1 << 20 };
        let mut fetched = log.fetch(&[from], options).await?;
        let Some(fetched) = fetched.pop() else {
            return Err(format!("{at} ends at {end}, and nothing is served at {offset}").into());
        };
        offset = fetched.next_offset;
        all.push((fetched.batches, fetched.aborted));
    }
    Ok(all)
}

/// About a hundred of them, the first and the last one with certainty.
fn some(all: Vec<i64>) -> Vec<i64> {
    let step = all.len() / 100 + 1;
    let last = all.last().copied();
    let mut some: Vec<i64> = all.into_iter().step_by(step).collect();
    if some.last().copied() != last {
        some.extend(last);
    }
    some
}

fn or_none(found: Option<(Offset, Timestamp)>) -> String {
    found.map_or("none".to_owned(), |(offset, time)| format!("{offset} {time}"))
}
