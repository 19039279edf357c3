//! F7 · Records on their way into batches: one open batch per partition, full ones in a queue.
//!
//! ```text
//!   push -> open batch of the slot --(batch_bytes reached)--> ready: FIFO of whole batches -> append
//! ```
//!
//! Always true here: the batches of a partition leave in the order their records came, with
//! contiguous sequences; a batch leaves the queue when it is appended, so nothing is skipped. Memory of
//! appended batches goes round among all partitions; one without records has none.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::batch::BatchBuilder;
use crate::config::Compression;
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity, Timestamp, TopicPartition};
use crate::record::Record;

/// How many batches' memory is kept for the next ones; more is freed.
const SPARE: usize = 8;

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
    /// Bytes of open and waiting batches.
    bytes: usize,
    spare: Vec<BytesMut>,
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
            bytes: 0,
            spare: Vec::new(),
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

    /// Adds a record to the slot's open batch, and seals it when it is full: then it has no records.
    #[inline]
    pub(crate) fn push(
        &mut self,
        producer: ProducerIdentity,
        slot: Slot,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<()> {
        let before = self.begin(slot);
        let pushed = self.slots[slot.0].builder.push(timestamp, key, value, headers);
        pushed.map_err(Error::from)?;
        self.pushed(producer, slot, before)
    }

    /// As [`Accumulator::push`], an owned record; `now` is its time when it has none.
    #[inline]
    pub(crate) fn push_record(
        &mut self,
        producer: ProducerIdentity,
        slot: Slot,
        now: Timestamp,
        record: &Record,
    ) -> Result<()> {
        let before = self.begin(slot);
        self.slots[slot.0].builder.push_record(now, record).map_err(Error::from)?;
        self.pushed(producer, slot, before)
    }

    /// The bytes of the slot's open batch, which is about to get a record.
    #[inline]
    fn begin(&mut self, slot: Slot) -> usize {
        let builder = &mut self.slots[slot.0].builder;
        if !builder.is_empty() {
            return builder.bytes();
        }
        if builder.wants_memory()
            && let Some(memory) = self.spare.pop()
        {
            builder.give(memory);
        }
        0
    }

    #[inline]
    fn pushed(&mut self, producer: ProducerIdentity, slot: Slot, before: usize) -> Result<()> {
        let bytes = self.slots[slot.0].builder.bytes();
        self.bytes += bytes - before;
        if bytes >= self.batch_bytes { self.seal(producer, slot) } else { Ok(()) }
    }

    /// How many records the slot's open batch holds.
    #[inline]
    pub(crate) fn open_records(&self, slot: Slot) -> usize {
        self.slots[slot.0].builder.count()
    }

    /// Turns the slot's open batch into a waiting one.
    pub(crate) fn seal(&mut self, producer: ProducerIdentity, slot: Slot) -> Result<()> {
        let open = &mut self.slots[slot.0];
        if open.builder.is_empty() {
            return Ok(());
        }
        let (records, open_bytes) = (open.builder.count(), open.builder.bytes());
        let sequence = if producer.id < 0 { -1 } else { open.sequence };
        let bytes = open.builder.finish(producer, sequence, self.transactional)?;
        open.sequence = ((i64::from(open.sequence) + records as i64) % (1 << 31)) as i32;
        self.bytes = self.bytes + bytes.len() - open_bytes;
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
        self.bytes -= ready.bytes.len();
        Some(ready)
    }

    /// Takes the memory of a batch that was appended, when nobody else holds it.
    pub(crate) fn reuse(&mut self, batch: Bytes) {
        if self.spare.len() < SPARE
            && let Ok(memory) = batch.try_into_mut()
        {
            self.spare.push(memory);
        }
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
    #[inline]
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets what was not appended, and begins all sequences anew: a new epoch follows.
    pub(crate) fn restart(&mut self) {
        self.ready.clear();
        self.bytes = 0;
        for open in &mut self.slots {
            open.sequence = 0;
            if !open.builder.is_empty() {
                open.builder = BatchBuilder::new(self.compression, self.batch_bytes);
            }
        }
    }
}
