//! F1 · What a reader of committed records sees of the batches it fetched.
//!
//! ```text
//!   aborted: producer 7, first 10, marker 14
//!
//!   offset     10     11     12     13     14       15
//!   producer    7      8      7      -      7        7
//!              data   data   data   data   ABORT    data
//!   seen        .      x      .      x      .        x
//! ```
//!
//! Always true here: nothing that a batch says about itself is believed before its sum was checked, so
//! that a flipped bit is an error and never a batch that silently is not there; a batch of an aborted
//! transaction and a control batch are never given out; every other batch is, in order and verified,
//! one without records too. An aborted transaction ends at its ABORT marker (of the same producer and
//! of an epoch not below its records': under KIP-890 the marker's is one above), or behind the offset
//! of the marker where compaction removed it.
//!
//! Source: KIP-98 and Kafka's `CompletedFetch`; docs/FORMAT.md.

use super::{BatchError, BatchRef, Batches, Marker, Scratch, batches, parse_marker};
use crate::ids::Offset;
use crate::record::AbortedTransaction;

/// The batches a reader may see. For a reader of uncommitted records, give no aborted transactions:
/// then only control batches are left out.
#[derive(Debug)]
pub struct Visible<'a> {
    batches: Batches<'a>,
    /// Those not reached yet, by first offset.
    ahead: &'a [AbortedTransaction],
    /// Those that the batches are in the middle of.
    open: Vec<Open>,
    from: Offset,
    /// The last offset of the batch before; -1 before the first, since no offset is negative.
    previous: Offset,
}

#[derive(Debug)]
struct Open {
    transaction: AbortedTransaction,
    /// The epoch of its records, as far as they were seen.
    epoch: i16,
}

impl<'a> Visible<'a> {
    /// `bytes` are fetched batches, `aborted` the transactions that touch them, by first offset (one
    /// may have begun before the bytes do). Batches that end before `from` are left out; of the first
    /// one given, records before `from` are left out with [`super::Records::starting_at`].
    pub fn new(bytes: &'a [u8], aborted: &'a [AbortedTransaction], from: Offset) -> Self {
        debug_assert!(aborted.is_sorted_by_key(|aborted| aborted.first_offset));
        Self { batches: batches(bytes), ahead: aborted, open: Vec::new(), from, previous: -1 }
    }

    /// Notes which aborted transactions have begun, and which are over, when `batch` comes.
    fn advance(&mut self, batch: &BatchRef<'_>) {
        let (base, last) = (batch.header.base_offset, batch.header.last_offset());
        self.open.retain(|open| open.transaction.last_offset >= base);
        while let [first, rest @ ..] = self.ahead
            && first.first_offset <= last
        {
            if first.last_offset >= base {
                self.open.push(Open { transaction: *first, epoch: -1 });
            }
            self.ahead = rest;
        }
    }

    /// Whether the batch belongs to an aborted transaction.
    fn is_aborted(&mut self, batch: &BatchRef<'_>) -> bool {
        if !batch.header.is_transactional() {
            return false;
        }
        let producer = batch.header.producer;
        match self.open.iter_mut().find(|open| open.transaction.producer_id == producer.id) {
            Some(open) => {
                open.epoch = open.epoch.max(producer.epoch);
                true
            }
            None => false,
        }
    }

    /// The next batch, verified, if it may be seen.
    fn look(&mut self, batch: BatchRef<'a>) -> Result<Option<BatchRef<'a>>, BatchError> {
        let batch = batch.verified()?;
        // The first offset lies before the bytes that are summed: what can be said about it is that
        // offsets rise.
        let base_offset = batch.header.base_offset;
        if base_offset <= self.previous {
            return Err(BatchError::Order { base_offset, previous: self.previous });
        }
        self.previous = batch.header.last_offset();
        self.advance(&batch);
        if batch.header.is_control() {
            self.control(&batch)?;
            return Ok(None);
        }
        let seen = !self.is_aborted(&batch) && batch.header.last_offset() >= self.from;
        Ok(seen.then_some(batch))
    }

    /// Lets an ABORT marker end its transaction.
    fn control(&mut self, batch: &BatchRef<'_>) -> Result<(), BatchError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let producer = batch.header.producer;
        for record in batch.records(&mut Scratch::default())? {
            if let Some((Marker::Abort, _)) = parse_marker(&record?) {
                self.open.retain(|open| {
                    open.transaction.producer_id != producer.id || open.epoch > producer.epoch
                });
            }
        }
        Ok(())
    }
}

impl<'a> Iterator for Visible<'a> {
    type Item = Result<BatchRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let batch = self.batches.next()?;
            match batch.and_then(|batch| self.look(batch)) {
                Ok(Some(batch)) => return Some(Ok(batch)),
                Ok(None) => {}
                Err(error) => {
                    self.batches = batches(&[]);
                    return Some(Err(error));
                }
            }
        }
    }
}
