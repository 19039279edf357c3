//! F3 · Who wrote what: sequences, epochs and open transactions of one partition, and the
//! `.snapshot` files that keep them.
//!
//! ```text
//!   batch (pid, epoch, first..last sequence) -> New | Duplicate(original offsets) | refused
//!   marker (pid, epoch)                      -> closes the open transaction, raises the epoch
//!
//!   open:         pid -> first offset of its open transaction
//!   undecided:    first offset -> marker offset, while the marker is not below the high watermark
//!   first unstable = min(open, undecided);  last stable offset = min(high watermark, first unstable)
//! ```
//!
//! Always true here: a batch enters the state only after it was written; replaying the batches of
//! the log over the newest snapshot gives the same state; the duplicate window is cleared by an
//! abort and by an epoch change, so that a reused sequence is never answered with an old offset.
//!
//! Sources: KIP-98, KIP-890 (a marker carries the data's epoch + 1), `ProducerSnapshot.json`.

use std::collections::{BTreeMap, VecDeque};

use crate::batch::{BatchHeader, Marker};
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity, Timestamp};

/// How many of a producer's last batches are remembered to recognise a retry.
const WINDOW: usize = 5;

/// How often producers are looked at until an idle one is forgotten.
const LOOKS: i64 = 100;

/// What a batch is to the partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    /// Append it.
    New,
    /// It is stored already, at these offsets.
    Duplicate {
        /// The offset of its first record.
        base_offset: Offset,
        /// The offset of its last record.
        last_offset: Offset,
    },
}

/// A transaction that a marker ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ended {
    /// The offset of its first record.
    pub(crate) first_offset: Offset,
    /// The offset of its marker.
    pub(crate) marker_offset: Offset,
}

/// The end of a producer's data, as a transaction record names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tail {
    /// The offset of the last record.
    pub last_offset: Offset,
    /// The CRC of the batch that holds it.
    pub crc: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stored {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    last_offset: Offset,
    timestamp: Timestamp,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Producer {
    epoch: i16,
    window: VecDeque<Stored>,
    coordinator_epoch: i32,
    transaction_start: Option<Offset>,
    /// Last data written; the CRC is not in snapshots and unknown (`None`) right after loading one.
    tail: Option<(Offset, Option<u32>)>,
    last_timestamp: Timestamp,
    /// How many looks in a row found that it had written nothing since the one before.
    idle: u32,
}

/// All producers of one partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Producers {
    by_id: BTreeMap<i64, Producer>,
    /// First offsets of open transactions.
    open: BTreeMap<Offset, i64>,
    /// Ended transactions whose marker readers must not rely on yet.
    undecided: BTreeMap<Offset, Offset>,
    /// When [`Producers::expire`] last looked at all of them.
    looked_at: Option<Timestamp>,
}

fn next_sequence(sequence: i32) -> i32 {
    if sequence == i32::MAX { 0 } else { sequence + 1 }
}

impl Producers {
    /// Says whether a batch of a client may be appended.
    pub(crate) fn check(&self, header: &BatchHeader) -> Result<Check> {
        let ProducerIdentity { id, epoch } = header.producer;
        if id < 0 {
            return Ok(Check::New);
        }
        // Unknown producer: retention may have removed its records, so any sequence is taken.
        let Some(known) = self.by_id.get(&id) else { return Ok(Check::New) };
        if epoch < known.epoch {
            return Err(Error::Fenced {
                who: format!("producer {id} epoch {epoch}"),
                why: format!("epoch {} is current", known.epoch),
            });
        }
        if known.transaction_start.is_some() && !header.is_transactional() {
            return Err(Error::invalid(format!(
                "producer {id} has an open transaction here: end it before writing outside of one"
            )));
        }
        self.check_decided(header.producer)?;
        if header.base_sequence < 0 {
            return Ok(Check::New);
        }
        let first = header.base_sequence;
        if epoch > known.epoch || known.window.is_empty() {
            // A new epoch starts over. An entry without batches was made by a marker of this epoch.
            if first != 0 {
                return Err(out_of_order(id, epoch, first, 0));
            }
            return Ok(Check::New);
        }
        let last = header.last_sequence();
        if let Some(stored) =
            known.window.iter().find(|s| s.first_sequence == first && s.last_sequence == last)
        {
            return Ok(Check::Duplicate {
                base_offset: stored.base_offset,
                last_offset: stored.last_offset,
            });
        }
        let expected = known.window.back().map_or(0, |s| next_sequence(s.last_sequence));
        if first != expected {
            return Err(out_of_order(id, epoch, first, expected));
        }
        Ok(Check::New)
    }

    /// Refuses a producer that has another transaction open here than that of its epoch: opening could not
    /// tell how it ended, and the next marker would decide what it is not about.
    pub(crate) fn check_decided(&self, by: ProducerIdentity) -> Result<()> {
        let known = self.by_id.get(&by.id).filter(|known| known.epoch < by.epoch);
        match known.and_then(|known| Some((known.epoch, known.transaction_start?))) {
            None => Ok(()),
            Some((epoch, start)) => Err(Error::invalid(format!(
                "a transaction of producer {} epoch {epoch} is open here since offset {start}, and nobody can tell how it ended: repair the folder, or write to another partition",
                by.id
            ))),
        }
    }

    /// Takes a data batch that was written. Never refuses: the log is the truth.
    pub(crate) fn written(&mut self, header: &BatchHeader) {
        let ProducerIdentity { id, epoch } = header.producer;
        if id < 0 {
            return;
        }
        let producer = self.by_id.entry(id).or_insert_with(|| Producer::new(epoch));
        if producer.epoch != epoch {
            producer.epoch = epoch;
            producer.window.clear();
        }
        producer.idle = 0;
        producer.last_timestamp = header.max_timestamp;
        producer.tail = Some((header.last_offset(), Some(header.crc)));
        if header.base_sequence >= 0 {
            if producer.window.len() == WINDOW {
                producer.window.pop_front();
            }
            producer.window.push_back(Stored {
                first_sequence: header.base_sequence,
                last_sequence: header.last_sequence(),
                base_offset: header.base_offset,
                last_offset: header.last_offset(),
                timestamp: header.max_timestamp,
            });
        }
        // What compaction left of a batch to remember its sequence is no data.
        let data = header.record_count > 0;
        if data && header.is_transactional() && producer.transaction_start.is_none() {
            producer.transaction_start = Some(header.base_offset);
            self.open.insert(header.base_offset, id);
        }
    }

    /// Takes a marker that was written at `offset`. `None` when there was no transaction to end.
    pub(crate) fn marked(
        &mut self,
        marker: Marker,
        by: ProducerIdentity,
        coordinator_epoch: i32,
        offset: Offset,
        timestamp: Timestamp,
    ) -> Option<Ended> {
        let producer = self.by_id.entry(by.id).or_insert_with(|| Producer::new(by.epoch));
        if by.epoch > producer.epoch {
            producer.epoch = by.epoch;
            producer.window.clear();
        }
        if marker == Marker::Abort {
            producer.window.clear();
        }
        producer.coordinator_epoch = coordinator_epoch;
        producer.idle = 0;
        producer.last_timestamp = timestamp;
        let first_offset = producer.transaction_start.take()?;
        self.open.remove(&first_offset);
        self.undecided.insert(first_offset, offset);
        Some(Ended { first_offset, marker_offset: offset })
    }

    /// Readers may rely on markers below the high watermark.
    pub(crate) fn decided_below(&mut self, high_watermark: Offset) {
        self.undecided.retain(|_, marker| *marker >= high_watermark);
    }

    /// Whether nobody ever wrote with an id, as far as is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.undecided.is_empty()
    }

    /// Forgets producers that wrote nothing for `after` milliseconds, but none with an open transaction;
    /// to be called often. Returns how many it forgot.
    ///
    /// They are idle by the clock of the log, not by the times of their records, which are older, or
    /// another clock's. It looks at them a hundred times in so long and counts the looks, so that a clock
    /// which is set, either way, adds one at most; a log that was opened anew begins to count anew.
    pub(crate) fn expire(&mut self, now: Timestamp, after: i64) -> usize {
        if self.by_id.is_empty() {
            return 0;
        }
        match self.looked_at {
            Some(last) if last <= now && now - last < (after / LOOKS).max(1) => return 0,
            // Nothing is known of the time before.
            None => {
                self.looked_at = Some(now);
                return 0;
            }
            Some(_) => self.looked_at = Some(now),
        }
        let before = self.by_id.len();
        self.by_id.retain(|_, producer| {
            producer.idle = producer.idle.saturating_add(1);
            producer.transaction_start.is_some() || i64::from(producer.idle) <= LOOKS
        });
        before - self.by_id.len()
    }

    /// The first offset that read_committed readers must not pass.
    pub(crate) fn first_unstable(&self) -> Option<Offset> {
        let open = self.open.keys().next();
        let undecided = self.undecided.keys().next();
        open.into_iter().chain(undecided).min().copied()
    }

    /// The last stable offset once the transaction of `id` was ended by the marker at `marker`, as the
    /// aborted index has it: no transaction that ends later begins below.
    pub(crate) fn stable_after(&self, id: i64, marker: Offset) -> Offset {
        let others = self.open.iter().find(|&(_, by)| *by != id);
        others.map_or(marker + 1, |(first_offset, _)| *first_offset)
    }

    /// Whether `by` has an open transaction here, under this very epoch.
    pub(crate) fn is_open(&self, by: ProducerIdentity) -> bool {
        self.by_id.get(&by.id).is_some_and(|p| p.epoch == by.epoch && p.transaction_start.is_some())
    }

    /// Producers with an open transaction, with their epochs and first offsets, by id.
    pub(crate) fn open_transactions(&self) -> Vec<(ProducerIdentity, Offset)> {
        self.by_id
            .iter()
            .filter_map(|(&id, p)| {
                Some((ProducerIdentity { id, epoch: p.epoch }, p.transaction_start?))
            })
            .collect()
    }

    /// Where a producer's open transaction begins.
    pub(crate) fn open_start(&self, id: i64) -> Option<Offset> {
        self.by_id.get(&id)?.transaction_start
    }

    /// The end of a producer's data; `None` when it wrote none, or only before the last snapshot.
    pub(crate) fn tail(&self, id: i64) -> Option<Tail> {
        let (last_offset, crc) = self.by_id.get(&id)?.tail?;
        Some(Tail { last_offset, crc: crc? })
    }

    /// One above the highest id there is, or 0.
    pub(crate) fn unseen(&self) -> i64 {
        self.by_id.keys().next_back().map_or(0, |id| id.saturating_add(1))
    }

    /// The epoch a producer has here.
    pub(crate) fn epoch(&self, id: i64) -> Option<i16> {
        self.by_id.get(&id).map(|p| p.epoch)
    }

    /// Every producer's epoch, and the last offset of its data.
    pub(crate) fn last_data(&self) -> BTreeMap<i64, (i16, Option<Offset>)> {
        let last = |p: &Producer| (p.epoch, p.tail.map(|(offset, _)| offset));
        self.by_id.iter().map(|(&id, p)| (id, last(p))).collect()
    }

    /// The bytes of a `.snapshot` file, version 1 as Kafka's.
    pub(crate) fn to_snapshot(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(4 + 46 * self.by_id.len());
        body.extend_from_slice(&(self.by_id.len() as i32).to_be_bytes());
        for (id, p) in &self.by_id {
            let last = p.window.back();
            let (last_offset, delta) = match (last, p.tail) {
                (Some(s), _) => (s.last_offset, (s.last_offset - s.base_offset) as i32),
                (None, Some((offset, _))) => (offset, 0),
                (None, None) => (-1, 0),
            };
            body.extend_from_slice(&id.to_be_bytes());
            body.extend_from_slice(&p.epoch.to_be_bytes());
            body.extend_from_slice(&last.map_or(-1, |s| s.last_sequence).to_be_bytes());
            body.extend_from_slice(&last_offset.to_be_bytes());
            body.extend_from_slice(&delta.to_be_bytes());
            body.extend_from_slice(&p.last_timestamp.to_be_bytes());
            body.extend_from_slice(&p.coordinator_epoch.to_be_bytes());
            body.extend_from_slice(&p.transaction_start.unwrap_or(-1).to_be_bytes());
        }
        let mut file = Vec::with_capacity(6 + body.len());
        file.extend_from_slice(&1i16.to_be_bytes());
        file.extend_from_slice(&crate::batch::crc32c(&body).to_be_bytes());
        file.extend_from_slice(&body);
        file
    }

    /// Reads a `.snapshot` file; `None` when its version, size or checksum is wrong (the caller
    /// takes an older one and replays more).
    pub(crate) fn from_snapshot(file: &[u8]) -> Option<Self> {
        let (version, rest) = file.split_first_chunk::<2>()?;
        let (crc, body) = rest.split_first_chunk::<4>()?;
        if i16::from_be_bytes(*version) != 1
            || u32::from_be_bytes(*crc) != crate::batch::crc32c(body)
        {
            return None;
        }
        let (count, mut rest) = body.split_first_chunk::<4>()?;
        let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
        if rest.len() != count.checked_mul(46)? {
            return None;
        }
        let mut all = Self::default();
        for _ in 0..count {
            let entry;
            (entry, rest) = rest.split_first_chunk::<46>()?;
            let i64_at = |at: usize| -> Option<i64> {
                Some(i64::from_be_bytes(entry.get(at..at + 8)?.try_into().ok()?))
            };
            let i32_at = |at: usize| -> Option<i32> {
                Some(i32::from_be_bytes(entry.get(at..at + 4)?.try_into().ok()?))
            };
            let id = i64_at(0)?;
            let epoch = i16::from_be_bytes([entry[8], entry[9]]);
            let (last_sequence, last_offset, delta) = (i32_at(10)?, i64_at(14)?, i32_at(22)?);
            let timestamp = i64_at(26)?;
            let mut producer = Producer::new(epoch);
            producer.last_timestamp = timestamp;
            producer.coordinator_epoch = i32_at(34)?;
            let start = i64_at(38)?;
            if last_offset >= 0 {
                producer.tail = Some((last_offset, None));
            }
            if last_sequence >= 0 && last_offset >= 0 && delta >= 0 {
                // Wraps: a batch that crossed the largest sequence began before it.
                let first =
                    (i64::from(last_sequence) - i64::from(delta)).rem_euclid(1 << 31) as i32;
                producer.window.push_back(Stored {
                    first_sequence: first,
                    last_sequence,
                    base_offset: last_offset - i64::from(delta),
                    last_offset,
                    timestamp,
                });
            }
            if start >= 0 {
                producer.transaction_start = Some(start);
                all.open.insert(start, id);
            }
            all.by_id.insert(id, producer);
        }
        Some(all)
    }
}

impl Producer {
    fn new(epoch: i16) -> Self {
        Self {
            epoch,
            window: VecDeque::new(),
            coordinator_epoch: -1,
            transaction_start: None,
            tail: None,
            last_timestamp: -1,
            idle: 0,
        }
    }
}

fn out_of_order(id: i64, epoch: i16, got: i32, expected: i32) -> Error {
    Error::invalid(format!(
        "producer {id} epoch {epoch}: sequence {got} where {expected} must follow; an earlier batch was lost or sent twice"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kafka's rule: the first offset of the oldest transaction that another producer still has open,
    /// whether its own end is visible already or not, else the offset behind the marker.
    #[test]
    fn an_aborted_entry_says_where_later_ones_can_begin() {
        let mut producers = Producers::default();
        let begin = |producers: &mut Producers, id: i64, offset: Offset| {
            let producer = producers.by_id.entry(id).or_insert_with(|| Producer::new(0));
            producer.transaction_start = Some(offset);
            producers.open.insert(offset, id);
        };
        let end = |producers: &mut Producers, id: i64, offset: Offset| {
            let by = ProducerIdentity { id, epoch: 1 };
            let stable = producers.stable_after(id, offset);
            producers.marked(Marker::Abort, by, 0, offset, 0);
            // The same when the marker was taken in before.
            assert_eq!(producers.stable_after(id, offset), stable);
            stable
        };
        begin(&mut producers, 1, 10);
        begin(&mut producers, 2, 12);
        begin(&mut producers, 3, 15);
        assert_eq!(end(&mut producers, 2, 20), 10);
        assert_eq!(
            end(&mut producers, 1, 21),
            15,
            "what ended is decided, though nobody may see it"
        );
        begin(&mut producers, 1, 22);
        assert_eq!(end(&mut producers, 3, 25), 22);
        assert_eq!(end(&mut producers, 1, 26), 27);
    }
}
