//! F5 · The bytes of `__transaction_state`: Kafka's, with one tagged field of our own.
//!
//! ```text
//! key     int16 0   string transactional id
//!
//! value   int16 version: 1 is written, 0 and 1 are read      (0: classic fields, no tags)
//!         int64 producer id            int16 producer epoch     int32 timeout, ms
//!         int8  state: 0 Empty 1 Ongoing 2 PrepareCommit 3 PrepareAbort
//!                      4 CompleteCommit 5 CompleteAbort 6 Dead
//!         array of { string topic, array of int32 partition }   null when Empty
//!         int64 last update, ms        int64 start of the transaction, ms, or -1
//!         tag 0      int64  producer id before this transition
//!         tag 1      int64  producer id after Complete, when the epochs have run out
//!         tag 2      int16  transaction version of the client, absent for 0
//!         tag 29800  array of { string topic, int32 partition, int64 last offset,
//!                               uint32 CRC of the last batch, no tags }
//! ```
//!
//! Tag 29800 (0x7468, "th") is ours. A Prepare says with it what it commits: per partition the last
//! offset of the transaction's data and the CRC of the batch that ends there, so that recovery can
//! tell a decision over durable data from one over data that a power loss took. Kafka's readers skip
//! tags they do not know (KIP-915), as this one does; far from Kafka's own numbers, which count up
//! from 0, it will not collide.
//!
//! Always true here: what is read back is what was written; a record without our tag reads as one
//! without tails.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::{PartitionTail, Transaction, TransactionState};
use crate::coordinator::field::{Reader, Writer};
use crate::coordinator::{CoordinatorRecord, Malformed};
use crate::ids::{ProducerIdentity, TopicPartition, check_topic_name};

const KEY_TYPE: i16 = 0;
const VERSION: i16 = 1;

const TAG_PREVIOUS_ID: u32 = 0;
const TAG_NEXT_ID: u32 = 1;
const TAG_CLIENT_VERSION: u32 = 2;
const TAG_TAILS: u32 = 29_800;

/// What a value says.
pub(super) enum Value {
    Transaction(Box<Transaction>),
    /// The id expired: the same as a tombstone.
    Dead,
    /// Of a version not known here.
    Unknown,
}

pub(super) fn encode(id: &str, transaction: &Transaction) -> CoordinatorRecord {
    let mut key = Writer::classic();
    key.i16(KEY_TYPE);
    key.text(id);
    CoordinatorRecord { key: key.into_bytes(), value: Some(encode_value(transaction)) }
}

fn encode_value(transaction: &Transaction) -> Bytes {
    let mut out = Writer::flexible();
    out.i16(VERSION);
    out.i64(transaction.producer.id);
    out.i16(transaction.producer.epoch);
    out.i32(transaction.timeout_ms);
    out.i8(transaction.state as i8);
    if transaction.state == TransactionState::Empty {
        out.no_items();
    } else {
        put_partitions(&mut out, &transaction.partitions);
    }
    out.i64(transaction.updated);
    out.i64(transaction.started);
    out.tags(&tagged_fields(transaction));
    out.into_bytes()
}

fn put_partitions(out: &mut Writer, partitions: &BTreeSet<TopicPartition>) {
    // The set is ordered by topic first, so the partitions of one topic are neighbours.
    let all: Vec<&TopicPartition> = partitions.iter().collect();
    let topics: Vec<&[&TopicPartition]> = all.chunk_by(|a, b| a.topic == b.topic).collect();
    out.items(topics.len());
    for topic in topics {
        out.text(&topic[0].topic);
        out.items(topic.len());
        for at in topic {
            out.u32(at.partition);
        }
        out.tags(&[]);
    }
}

fn tagged_fields(transaction: &Transaction) -> Vec<(u32, Vec<u8>)> {
    let mut fields = Vec::new();
    if transaction.previous_id != -1 {
        fields.push((TAG_PREVIOUS_ID, transaction.previous_id.to_be_bytes().to_vec()));
    }
    if transaction.next_id != -1 {
        fields.push((TAG_NEXT_ID, transaction.next_id.to_be_bytes().to_vec()));
    }
    if transaction.client_version != 0 {
        fields.push((TAG_CLIENT_VERSION, transaction.client_version.to_be_bytes().to_vec()));
    }
    if !transaction.tails.is_empty() {
        let mut out = Writer::flexible();
        out.items(transaction.tails.len());
        for tail in &transaction.tails {
            out.text(&tail.at.topic);
            out.u32(tail.at.partition);
            out.i64(tail.last_offset);
            out.u32(tail.crc);
            out.tags(&[]);
        }
        fields.push((TAG_TAILS, out.into_vec()));
    }
    fields
}

/// The transactional id, or `None` for a key of another type.
pub(super) fn decode_key(key: &[u8]) -> Result<Option<&str>, Malformed> {
    let mut from = Reader::key(key);
    if from.i16("key type")? != KEY_TYPE {
        return Ok(None);
    }
    let id = from.text("transactional id")?;
    from.end()?;
    Ok(Some(id))
}

pub(super) fn decode_value(value: &[u8]) -> Result<Value, Malformed> {
    let mut from = Reader::value(value);
    let version = from.i16("version")?;
    if !(0..=VERSION).contains(&version) {
        return Ok(Value::Unknown);
    }
    from.flexible = version >= 1;
    let producer =
        ProducerIdentity { id: from.i64("producer id")?, epoch: from.i16("producer epoch")? };
    let timeout_ms = from.i32("timeout")?;
    let state = from.i8("state")?;
    let partitions = read_partitions(&mut from)?;
    let updated = from.i64("last update")?;
    let started = from.i64("start")?;
    let (mut previous_id, mut next_id, mut client_version) = (-1, -1, 0);
    let mut tails = Vec::new();
    from.tags(|tag, field| {
        match tag {
            TAG_PREVIOUS_ID => previous_id = field.i64("previous producer id")?,
            TAG_NEXT_ID => next_id = field.i64("next producer id")?,
            TAG_CLIENT_VERSION => client_version = field.i16("client's transaction version")?,
            TAG_TAILS => tails = read_tails(field)?,
            _ => return Ok(()),
        }
        field.end()
    })?;
    from.end()?;
    let state = match state {
        6 => return Ok(Value::Dead),
        _ => TransactionState::from_byte(state)
            .ok_or_else(|| from.malformed(format!("state {state} is none of 0 to 6")))?,
    };
    Ok(Value::Transaction(Box::new(Transaction {
        producer,
        previous_id,
        next_id,
        timeout_ms,
        state,
        partitions,
        tails,
        started,
        updated,
        client_version,
    })))
}

fn read_partitions(from: &mut Reader<'_>) -> Result<BTreeSet<TopicPartition>, Malformed> {
    let mut partitions = BTreeSet::new();
    // A topic takes at least its length, one character and the count of partitions.
    let topics = from.nullable_items("topics", 3)?.unwrap_or(0);
    for _ in 0..topics {
        let topic = read_topic(from)?;
        for _ in 0..from.items("partitions", 4)? {
            partitions.insert(read_partition(from, &topic)?);
        }
        from.skip_tags()?;
    }
    Ok(partitions)
}

fn read_tails(from: &mut Reader<'_>) -> Result<Vec<PartitionTail>, Malformed> {
    // Length and character of the topic, partition, offset, CRC, no tags.
    let count = from.items("tails", 19)?;
    let mut tails = Vec::with_capacity(count);
    for _ in 0..count {
        let topic = read_topic(from)?;
        tails.push(PartitionTail {
            at: read_partition(from, &topic)?,
            last_offset: from.i64("last offset")?,
            crc: from.u32("CRC")?,
        });
        from.skip_tags()?;
    }
    Ok(tails)
}

fn read_topic(from: &mut Reader<'_>) -> Result<Arc<str>, Malformed> {
    let topic = from.text("topic")?;
    check_topic_name(topic).map_err(|error| from.malformed(error.to_string()))?;
    Ok(topic.into())
}

fn read_partition(from: &mut Reader<'_>, topic: &Arc<str>) -> Result<TopicPartition, Malformed> {
    let partition = from.i32("partition")?;
    let partition = u32::try_from(partition)
        .map_err(|_| from.malformed(format!("partition {partition} of {topic}")))?;
    Ok(TopicPartition::new(Arc::clone(topic), partition))
}
