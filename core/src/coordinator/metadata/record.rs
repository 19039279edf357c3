//! F5 · The bytes of `__thalweg_metadata`: our own. Numbers are big-endian, text is UTF-8.
//!
//! ```text
//! key     byte  type: 0 log, 1 topic, 2 producer ids, 3 leader epoch
//!         bytes of the topic's name, up to the end (type 1; nothing otherwise)
//!
//! value   byte  version: 0
//!   log            16 bytes id
//!   topic          byte state: 0 there, 1 being deleted
//!                  16 bytes id
//!                  uint32 partitions
//!                  int32 count of settings, then each, by name:
//!                      int16 length, name   int16 length, value      (Kafka's names)
//!   producer ids   int64 the next one to give out
//!   leader epoch   int32 the last one given out
//! ```
//!
//! Always true here: the key names the thing and nothing else, so compaction by key keeps exactly the
//! last word on each. A topic's tombstone is written only after its folders are gone.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::config::TopicConfig;
use crate::coordinator::field::{Reader, Writer};
use crate::coordinator::{CoordinatorRecord, Malformed};
use crate::ids::{LeaderEpoch, Uuid, check_topic_name};
use crate::request::TopicInfo;

const TYPE_LOG: i8 = 0;
const TYPE_TOPIC: i8 = 1;
const TYPE_PRODUCER_IDS: i8 = 2;
const TYPE_LEADER_EPOCH: i8 = 3;
const VERSION: i8 = 0;

/// What a key names.
pub(super) enum Key<'a> {
    Log,
    Topic(&'a str),
    ProducerIds,
    LeaderEpoch,
    /// Of a type not known here.
    Unknown,
}

pub(super) fn encode_log(id: Uuid) -> CoordinatorRecord {
    let mut out = value();
    out.put(&id.0);
    CoordinatorRecord { key: key(TYPE_LOG, ""), value: Some(out.into_bytes()) }
}

pub(super) fn encode_topic(topic: &TopicInfo, deleting: bool) -> CoordinatorRecord {
    let mut out = value();
    out.i8(i8::from(deleting));
    out.put(&topic.id.0);
    out.u32(topic.partitions);
    let settings = topic.config.to_map();
    out.items(settings.len());
    for (name, value) in &settings {
        out.text(name);
        out.text(value);
    }
    CoordinatorRecord { key: key(TYPE_TOPIC, &topic.name), value: Some(out.into_bytes()) }
}

pub(super) fn topic_tombstone(name: &str) -> CoordinatorRecord {
    CoordinatorRecord { key: key(TYPE_TOPIC, name), value: None }
}

pub(super) fn encode_producer_ids(next: i64) -> CoordinatorRecord {
    let mut out = value();
    out.i64(next);
    CoordinatorRecord { key: key(TYPE_PRODUCER_IDS, ""), value: Some(out.into_bytes()) }
}

pub(super) fn encode_leader_epoch(epoch: LeaderEpoch) -> CoordinatorRecord {
    let mut out = value();
    out.i32(epoch);
    CoordinatorRecord { key: key(TYPE_LEADER_EPOCH, ""), value: Some(out.into_bytes()) }
}

fn key(kind: i8, name: &str) -> Bytes {
    let mut out = Writer::classic();
    out.i8(kind);
    out.put(name.as_bytes());
    out.into_bytes()
}

fn value() -> Writer {
    let mut out = Writer::classic();
    out.i8(VERSION);
    out
}

pub(super) fn decode_key(key: &[u8]) -> Result<Key<'_>, Malformed> {
    let mut from = Reader::key(key);
    let key = match from.i8("key type")? {
        TYPE_LOG => Key::Log,
        TYPE_TOPIC => {
            let name = from.rest_as_text("topic")?;
            check_topic_name(name).map_err(|error| from.malformed(error.to_string()))?;
            Key::Topic(name)
        }
        TYPE_PRODUCER_IDS => Key::ProducerIds,
        TYPE_LEADER_EPOCH => Key::LeaderEpoch,
        _ => return Ok(Key::Unknown),
    };
    from.end()?;
    Ok(key)
}

/// Reads a value with `fields`, or `None` when its version is unknown.
pub(super) fn decode_value<T>(
    bytes: &[u8],
    fields: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    let mut from = Reader::value(bytes);
    if from.i8("version")? != VERSION {
        return Ok(None);
    }
    let value = fields(&mut from)?;
    from.end()?;
    Ok(Some(value))
}

pub(super) fn log_fields(from: &mut Reader<'_>) -> Result<Uuid, Malformed> {
    from.bytes16("log id").map(Uuid)
}

/// The topic, and whether it is being deleted.
pub(super) fn topic_fields(
    from: &mut Reader<'_>,
    name: &str,
) -> Result<(TopicInfo, bool), Malformed> {
    let deleting = match from.i8("state")? {
        0 => false,
        1 => true,
        state => return Err(from.malformed(format!("state {state} is neither 0 nor 1"))),
    };
    let id = Uuid(from.bytes16("topic id")?);
    let partitions = from.u32("partitions")?;
    if !super::PARTITIONS.contains(&partitions) {
        return Err(from.malformed(format!("{partitions} partitions")));
    }
    let mut settings = BTreeMap::new();
    for _ in 0..from.items("settings", 4)? {
        let name = from.text("name of a setting")?.to_owned();
        settings.insert(name, from.text("value of a setting")?.to_owned());
    }
    let config =
        TopicConfig::from_map(&settings).map_err(|error| from.malformed(error.to_string()))?;
    Ok((TopicInfo { name: name.into(), id, partitions, config }, deleting))
}

pub(super) fn producer_ids_fields(from: &mut Reader<'_>) -> Result<i64, Malformed> {
    let next = from.i64("next producer id")?;
    if next < 0 { Err(from.malformed(format!("producer id {next}"))) } else { Ok(next) }
}

pub(super) fn leader_epoch_fields(from: &mut Reader<'_>) -> Result<LeaderEpoch, Malformed> {
    let epoch = from.i32("leader epoch")?;
    // The next unclean open takes the one above.
    let known = (0..LeaderEpoch::MAX).contains(&epoch);
    if known { Ok(epoch) } else { Err(from.malformed(format!("leader epoch {epoch}"))) }
}
