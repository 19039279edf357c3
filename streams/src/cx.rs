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
use crate::time::{EventTime, Judged, Mark, TaskTime};

/// A record inside a pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rec<K, V> {
    /// Its key.
    pub key: K,
    /// Its value.
    pub value: V,
    /// When it happened, in milliseconds since 1970.
    pub time: Timestamp,
    /// Whether it is evidence for how far time has come: it has a time of its own, not ahead of its
    /// append.
    pub(crate) settled: bool,
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
    /// By the bytes of its key, as every Kafka client chooses ([`partition_of`]).
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

/// The partition of a key: Kafka's default partitioner (murmur2 of the bytes, sign bit cleared).
///
/// ```
/// // As org.apache.kafka.common.utils.Utils.murmur2 gives it.
/// assert_eq!(thalweg_streams::partition_of(b"21", 1 << 31), (-973932308_i32 as u32) & 0x7fff_ffff);
/// ```
///
/// # Panics
/// When there are no partitions.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// MurmurHash2, 32 bits, little endian, with Kafka's seed (Austin Appleby, public domain).
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let (words, tail) = data.as_chunks::<4>();
    let mut hash = SEED ^ data.len() as u32;
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, &byte) in tail.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
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
    pub(crate) record: Option<RecordRef<'r>>,
    /// Headers that go along with the record to its outputs.
    pub(crate) headers: Headers<'r>,
    /// How late the record is, on its way down a late stream.
    pub(crate) late_by_ms: Option<i64>,
    pub(crate) topic: &'static str,
    pub(crate) partition: u32,
    pub(crate) task: TaskId,
    pub(crate) input: usize,
    /// The transaction's clock.
    pub(crate) clock: Timestamp,
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

    /// What the tasks behind a repartition topic should know about this one's time.
    pub(crate) fn mark(&self) -> Mark {
        Mark { task: self.task, watermark: self.time.watermark(), idle: self.time.is_idle() }
    }

    /// Judges the time of the record that is being read, and moves time by it.
    #[inline]
    pub(crate) fn observe(&mut self, event: EventTime, appended: Timestamp) -> Judged {
        self.time.observe(self.input, event, appended, self.clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_where_kafka_sends_them() {
        // From Kafka's own UtilsTest.
        let cases: [(&[u8], i32); 7] = [
            (b"21", -973932308),
            (b"foobar", -790332482),
            (b"a-little-bit-long-string", -985981536),
            (b"a-little-bit-longer-string", -1486304829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            (b"abc", 479470107),
            (b"", 275646681),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key).cast_signed(), hash, "{}", key.escape_ascii());
        }
    }
}
