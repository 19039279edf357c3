//! F7 · Records on their way into batches: one open batch per partition, full ones in a queue.
//!
//! ```text
//!   push -> open batch of the slot --(batch_bytes reached)--> ready: FIFO of whole batches -> append
//! ```
//!
//! Always true here: the batches of a partition leave in the order their records came, with
//! contiguous sequences; a batch leaves the queue when it is appended, so nothing is skipped.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::batch::BatchBuilder;
use crate::config::Compression;
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity, Timestamp, TopicPartition};

/// A registered partition of one producer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slot(pub(crate) usize);

/// One partition's open batch.
struct Open {
    at: TopicPartition,
    builder: BatchBuilder,
    sequence: i32,
    next_offset: Option<Offset>,
}

/// A whole batch, waiting to be appended.
pub(crate) struct Ready {
    pub(crate) slot: Slot,
    pub(crate) bytes: Bytes,
}

/// The open and waiting batches of one producer.
pub(crate) struct Accumulator {
    slots: Vec<Open>,
    by_partition: HashMap<TopicPartition, Slot, foldhash::fast::FixedState>,
    ready: VecDeque<Ready>,
    ready_bytes: usize,
    batch_bytes: usize,
    compression: Compression,
    transactional: bool,
}

impl Accumulator {
    pub(crate) fn new(batch_bytes: usize, compression: Compression, transactional: bool) -> Self {
        Self {
            slots: Vec::new(),
            by_partition: HashMap::default(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            batch_bytes,
            compression,
            transactional,
        }
    }

    /// The slot of a partition, made at its first use.
    pub(crate) fn slot(&mut self, at: &TopicPartition) -> Slot {
        if let Some(slot) = self.by_partition.get(at) {
            return *slot;
        }
        let slot = Slot(self.slots.len());
        self.by_partition.insert(at.clone(), slot);
        self.slots.push(Open {
            at: at.clone(),
            builder: BatchBuilder::new(self.compression, self.batch_bytes),
            sequence: 0,
            next_offset: None,
        });
        slot
    }

    pub(crate) fn partition(&self, slot: Slot) -> &TopicPartition {
        &self.slots[slot.0].at
    }

    /// Adds a record; true when a whole batch waits to be appended.
    #[inline]
    pub(crate) fn push(
        &mut self,
        producer: ProducerIdentity,
        slot: Slot,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<bool> {
        let open = &mut self.slots[slot.0];
        open.builder.push(timestamp, key, value, headers).map_err(Error::from)?;
        if open.builder.bytes() >= self.batch_bytes {
            self.seal(producer, slot)?;
        }
        Ok(!self.ready.is_empty())
    }

    /// How many records the slot's open batch holds.
    pub(crate) fn open_records(&self, slot: Slot) -> usize {
        self.slots[slot.0].builder.count()
    }

    /// Turns the slot's open batch into a waiting one.
    pub(crate) fn seal(&mut self, producer: ProducerIdentity, slot: Slot) -> Result<()> {
        let open = &mut self.slots[slot.0];
        if open.builder.is_empty() {
            return Ok(());
        }
        let records = open.builder.count();
        let sequence = if producer.id < 0 { -1 } else { open.sequence };
        let bytes = open.builder.finish(producer, sequence, self.transactional)?;
        open.sequence = ((i64::from(open.sequence) + records as i64) % (1 << 31)) as i32;
        self.ready_bytes += bytes.len();
        self.ready.push_back(Ready { slot, bytes });
        Ok(())
    }

    /// Turns every open batch into a waiting one, in the order the slots were made.
    pub(crate) fn seal_all(&mut self, producer: ProducerIdentity) -> Result<()> {
        (0..self.slots.len()).try_for_each(|slot| self.seal(producer, Slot(slot)))
    }

    /// The next batch to append, taken out of the queue.
    pub(crate) fn next_ready(&mut self) -> Option<Ready> {
        let ready = self.ready.pop_front()?;
        self.ready_bytes -= ready.bytes.len();
        Some(ready)
    }

    /// The next batch to append, left in the queue until [`Accumulator::next_ready`] takes it out: a
    /// call that is given up half way loses nothing.
    pub(crate) fn first_ready(&self) -> Option<(Slot, Bytes)> {
        self.ready.front().map(|ready| (ready.slot, ready.bytes.clone()))
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Notes where a slot's batch went.
    pub(crate) fn appended(&mut self, slot: Slot, next_offset: Offset) {
        self.slots[slot.0].next_offset = Some(next_offset);
    }

    /// One past the slot's last appended record.
    pub(crate) fn next_offset(&self, slot: Slot) -> Option<Offset> {
        self.slots[slot.0].next_offset
    }

    /// Bytes not appended yet.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.ready_bytes
            + self
                .slots
                .iter()
                .filter(|o| !o.builder.is_empty())
                .map(|o| o.builder.bytes())
                .sum::<usize>()
    }

    /// Forgets what was not appended, and begins all sequences anew: a new epoch follows.
    pub(crate) fn restart(&mut self) {
        self.ready.clear();
        self.ready_bytes = 0;
        for open in &mut self.slots {
            open.sequence = 0;
            if !open.builder.is_empty() {
                open.builder = BatchBuilder::new(self.compression, self.batch_bytes);
            }
        }
    }
}
