//! What surrounds a record on its way through a task: where it came from, what time it is, where the
//! state lies, and the door out.
//!
//! Always true here: nothing in a task does I/O; what leaves it goes through [`Emit`], bytes that are
//! borrowed for the call.

use thalweg_core::ids::{Offset, Timestamp};
use thalweg_core::record::{Headers, RecordRef};

use crate::error::Result;
use crate::state::backend::StateBackend;
use crate::state::meta::TaskId;
use crate::time::{EventTime, Judged, TaskTime, Word};

/// A record inside a pipeline, for operators that want its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rec<K, V> {
    /// Its key.
    pub key: K,
    /// Its value.
    pub value: V,
    /// When it happened, in milliseconds since 1970.
    pub time: Timestamp,
}

/// Where a record came from, for operators that want to know.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'r> {
    /// The topic that the task reads.
    pub topic: &'static str,
    /// The partition that the task reads.
    pub partition: u32,
    /// The record's offset; `None` for a result that no single record caused, as a closed window.
    pub offset: Option<Offset>,
    /// The stored timestamp: when the record was appended, or what its producer said.
    pub appended: Option<Timestamp>,
    /// The record's headers, those that the log keeps for itself (`__tw.*`) included.
    pub headers: Headers<'r>,
}

/// One output of a subtopology: its index in [`Subtopology::outputs`](crate::Subtopology::outputs).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OutputId(pub u16);

/// To which partition of an output a record goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// By the bytes of its key, as every Kafka client chooses ([`partition_of`](thalweg_core::client::partitioner::partition_of)).
    Key,
    /// It has no key: whichever suits the producer.
    Any,
    /// This one.
    Partition(u32),
    /// A copy to every partition.
    Every,
}

/// A record that leaves a task. Its bytes are valid during the call only.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The output.
    pub output: OutputId,
    /// The partition, or how to choose it.
    pub route: Route,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` deletes the key in a table.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
}

/// The door out of a task: encodes records into the batches of the open transaction.
pub trait Emit {
    /// Takes a record. Order per output and partition is kept.
    ///
    /// # Errors
    /// When the record cannot be part of the transaction (too large, fenced): the transaction must
    /// be aborted.
    fn emit(&mut self, record: Outgoing<'_>) -> Result<()>;
}

/// What a task counted since it was made; aborted transactions included.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Records read, markers not included.
    pub records: u64,
    /// Records too late for every window.
    pub late: u64,
    /// Results of closed windows.
    pub windows_closed: u64,
}

/// The surroundings of the record that is being processed, and of results between records.
pub struct Cx<'r, 't> {
    /// The record at hand; none while windows close or changes are flushed.
    pub(crate) record: Option<&'r RecordRef<'r>>,
    /// Whether its headers go along with it to its outputs.
    pub(crate) headers_go_along: bool,
    /// The time of the record or result at hand.
    pub(crate) now: Judged,
    /// How late the record is, on its way down a late stream.
    pub(crate) late_by_ms: Option<i64>,
    pub(crate) topic: &'static str,
    pub(crate) partition: u32,
    pub(crate) task: TaskId,
    pub(crate) input: usize,
    /// The transaction's clock.
    pub(crate) clock: Timestamp,
    /// About how many rows are closed at once.
    pub(crate) at_once: usize,
    /// Time, or the end of the input, closed more than was emitted and committed so far.
    pub(crate) is_closing: bool,
    pub(crate) time: &'t mut TaskTime,
    pub(crate) base: &'t dyn StateBackend,
    pub(crate) counters: &'t mut Counters,
    pub(crate) out: &'t mut dyn Emit,
}

impl<'r> Cx<'r, '_> {
    /// Where the record at hand came from.
    pub(crate) fn meta(&self) -> Meta<'r> {
        Meta {
            topic: self.topic,
            partition: self.partition,
            offset: self.record.map(|r| r.offset),
            appended: self.record.map(|r| r.timestamp),
            headers: self.record.map(|r| r.headers).unwrap_or_default(),
        }
    }

    /// The headers that a result of the record at hand has.
    #[inline]
    pub(crate) fn headers(&self) -> Headers<'r> {
        match self.record {
            Some(record) if self.headers_go_along => record.headers,
            _ => Headers::default(),
        }
    }

    /// What the tasks behind a repartition topic should know about this one's time.
    pub(crate) fn word(&self) -> Word {
        self.time.word(self.task, self.is_closing)
    }

    /// Judges the time of the record that is being read, and moves time by it.
    #[inline]
    pub(crate) fn observe(&mut self, event: EventTime, appended: Timestamp) {
        self.now = self.time.observe(self.input, event, appended, self.clock);
    }
}
