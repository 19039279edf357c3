//! F7 · Records on their way into batches: one open batch per partition, full ones in a queue.
//!
//! ```text
//!   push -> open batch of the slot --(no room for another)--> ready: FIFO of whole batches -> append
//! ```
//!
//! Always true here: a batch takes no more than its slot's limit, unless it is of one record that alone
//! takes more (however small the records before it were: a large one begins a batch of its own); the
//! batches of a partition leave in the order their records came, with contiguous sequences; a batch leaves the queue when it is appended, so nothing is skipped. Memory of
//! appended batches goes round among all partitions; one without records has none.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::batch::{BatchBuilder, HEADER_LEN, Sealed};
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
    /// The most bytes of a batch, before compression.
    limit: usize,
    sequence: i32,
    next_offset: Option<Offset>,
}

/// A whole batch, waiting to be appended.
pub(crate) struct Ready {
    pub(crate) slot: Slot,
    pub(crate) batch: Sealed,
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
        self.add(at, self.batch_bytes)
    }

    /// As [`Accumulator::slot`], of a topic that takes batches of at most `max_message_bytes`, as they
    /// are stored.
    pub(crate) fn slot_within(&mut self, at: &TopicPartition, max_message_bytes: usize) -> Slot {
        // What cannot be compressed becomes a little longer by the attempt, with every codec.
        let growth = match self.compression {
            Compression::None => 0,
            _ => max_message_bytes / 64 + 64,
        };
        let limit = self.batch_bytes.min(max_message_bytes.saturating_sub(growth));
        match self.by_partition.get(at) {
            Some(slot) => {
                self.slots[slot.0].limit = limit;
                *slot
            }
            None => self.add(at, limit),
        }
    }

    fn add(&mut self, at: &TopicPartition, limit: usize) -> Slot {
        let slot = Slot(self.slots.len());
        self.by_partition.insert(at.clone(), slot);
        self.slots.push(Open {
            at: at.clone(),
            builder: BatchBuilder::new(self.compression, limit),
            limit,
            sequence: 0,
            next_offset: None,
        });
        slot
    }

    pub(crate) fn partition(&self, slot: Slot) -> &TopicPartition {
        &self.slots[slot.0].at
    }

    /// Adds a record to the slot's open batch. One that has no room for it is sealed first, and it
    /// begins the next; one that has no room for another like it is sealed then.
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
        loop {
            let before = self.begin(slot);
            let Open { builder, limit, .. } = &mut self.slots[slot.0];
            let pushed = builder.push_within(*limit, timestamp, key, value, headers);
            if pushed.map_err(Error::from)? {
                return self.pushed(producer, slot, before);
            }
            self.seal(producer, slot)?;
        }
    }

    /// As [`Accumulator::push`], an owned record; `now` is its time when it has none. `false` when there
    /// is no room: the caller seals the open batch, which has records, and pushes again.
    #[inline]
    pub(crate) fn push_record(
        &mut self,
        producer: ProducerIdentity,
        slot: Slot,
        now: Timestamp,
        record: &Record,
    ) -> Result<bool> {
        let before = self.begin(slot);
        let Open { builder, limit, .. } = &mut self.slots[slot.0];
        let has_room = builder.push_record_within(*limit, now, record).map_err(Error::from)?;
        if has_room {
            self.pushed(producer, slot, before)?;
        }
        Ok(has_room)
    }

    /// Adds records from the front of `records` to the slot's open batch, which has some, as long as none
    /// of them has a key or headers, fills the batch, or takes more than is left of `room`: what
    /// [`Accumulator::push_record`] of each would do, at less cost. Returns how many.
    #[inline]
    pub(crate) fn push_values(
        &mut self,
        slot: Slot,
        now: Timestamp,
        records: &[Record],
        room: usize,
    ) -> usize {
        let Open { builder, limit, .. } = &mut self.slots[slot.0];
        let before = builder.bytes();
        let upto = before.saturating_add(room).min(*limit);
        let pushed = builder.push_values(now, records, upto);
        self.bytes += builder.bytes() - before;
        pushed
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
        let Open { builder, limit, .. } = &self.slots[slot.0];
        let bytes = builder.bytes();
        self.bytes += bytes - before;
        // Another record of this size has no room: why should the batch wait for it?
        let record = bytes - before.max(HEADER_LEN);
        if bytes + record > *limit { self.seal(producer, slot) } else { Ok(()) }
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
        let batch = open.builder.seal(producer, sequence, self.transactional)?;
        open.sequence = ((i64::from(open.sequence) + records as i64) % (1 << 31)) as i32;
        self.bytes = self.bytes + batch.bytes().len() - open_bytes;
        self.ready.push_back(Ready { slot, batch });
        Ok(())
    }

    /// Turns every open batch into a waiting one, in the order the slots were made.
    pub(crate) fn seal_all(&mut self, producer: ProducerIdentity) -> Result<()> {
        (0..self.slots.len()).try_for_each(|slot| self.seal(producer, Slot(slot)))
    }

    /// The next batch to append, taken out of the queue.
    pub(crate) fn next_ready(&mut self) -> Option<Ready> {
        let ready = self.ready.pop_front()?;
        self.bytes -= ready.batch.bytes().len();
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
    pub(crate) fn first_ready(&self) -> Option<&Ready> {
        self.ready.front()
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
                open.builder = BatchBuilder::new(self.compression, open.limit);
            }
        }
    }
}
