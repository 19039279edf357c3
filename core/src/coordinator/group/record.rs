//! F5 · The bytes of `__consumer_offsets`: Kafka's, byte for byte.
//!
//! ```text
//! offset commit
//!   key     int16 1 (0 is read too)   string group   string topic   int32 partition
//!   value   int16 version: 3 is written, 0 to 4 are read (4: flexible fields)
//!           int64 offset   int32 leader epoch (from 3)   string metadata
//!           int64 commit time, ms   int64 expiry, ms (only in 1)
//!
//! group
//!   key     int16 2   string group
//!   value   int16 version: 3 is written, 0 to 4 are read (4: flexible fields)
//!           string protocol type   int32 generation   nullable string protocol
//!           nullable string leader   int64 time of the state, ms (from 2)
//!           array of { string member   nullable string instance (from 3)   string client
//!                      string host   int32 rebalance timeout, ms (from 1)
//!                      int32 session timeout, ms   bytes subscription   bytes assignment }
//! ```
//!
//! Version 3 has no field for a topic's id. A position still never meets a topic that was deleted and
//! created again: its offsets are removed durably before the name is used again (see
//! [`super::GroupCoordinator::delete_topic`]). Who keeps positions elsewhere, or wants the id beside
//! them, puts it into the metadata string, which comes back as it was.
//!
//! Always true here: what is read back is what was written. The expiry of version 1 is read and not
//! kept: nothing expires here.

use std::sync::Arc;

use bytes::Bytes;

use super::StoredOffset;
use crate::coordinator::field::{Reader, Writer};
use crate::coordinator::{CoordinatorRecord, Malformed};
use crate::ids::{Timestamp, TopicPartition, check_topic_name};

const KEY_OFFSET_OLD: i16 = 0;
const KEY_OFFSET: i16 = 1;
const KEY_GROUP: i16 = 2;
const OFFSET_VERSION: i16 = 3;
const GROUP_VERSION: i16 = 3;
/// The first version with flexible fields, and the last one known, of both values.
const FLEXIBLE_VERSION: i16 = 4;

const PROTOCOL_TYPE: &str = "consumer";
/// Kafka's name for the assignor every client knows.
const PROTOCOL: &str = "range";
const CLIENT: &str = "thalweg";
const HOST: &str = "/127.0.0.1";
/// Kafka's defaults. No session can time out in one process; a broker that takes the folder over
/// expels the member after this time.
const REBALANCE_TIMEOUT_MS: i32 = 300_000;
const SESSION_TIMEOUT_MS: i32 = 45_000;

/// Kafka's embedded consumer protocol, version 0, for a subscription and an assignment alike: int16
/// version, array of topics (empty), nullable bytes of user data (null).
const NO_TOPICS: [u8; 10] = [0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];

/// What a key names.
pub(super) enum Key<'a> {
    Offset {
        group: &'a str,
        at: TopicPartition,
    },
    Group(&'a str),
    /// Of a type not known here.
    Unknown,
}

/// What a group's record says, as far as it is needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct GroupValue {
    pub(super) generation: i32,
    pub(super) members: Vec<Arc<str>>,
}

pub(super) fn offset_key(group: &str, at: &TopicPartition) -> Bytes {
    let mut out = Writer::classic();
    out.i16(KEY_OFFSET);
    out.text(group);
    out.text(&at.topic);
    out.u32(at.partition);
    out.into_bytes()
}

pub(super) fn encode_offset(
    group: &str,
    at: &TopicPartition,
    stored: &StoredOffset,
) -> CoordinatorRecord {
    let mut out = Writer::classic();
    out.i16(OFFSET_VERSION);
    out.i64(stored.offset);
    out.i32(stored.leader_epoch);
    out.text(&stored.metadata);
    out.i64(stored.committed);
    CoordinatorRecord { key: offset_key(group, at), value: Some(out.into_bytes()) }
}

/// The record of a group with one member, or with none.
pub(super) fn encode_group(
    group: &str,
    generation: i32,
    member: Option<&str>,
    now: Timestamp,
) -> CoordinatorRecord {
    let mut key = Writer::classic();
    key.i16(KEY_GROUP);
    key.text(group);

    let mut out = Writer::classic();
    out.i16(GROUP_VERSION);
    out.text(PROTOCOL_TYPE);
    out.i32(generation);
    match member {
        Some(member) => {
            out.text(PROTOCOL);
            out.text(member);
        }
        None => {
            out.no_text();
            out.no_text();
        }
    }
    out.i64(now);
    out.items(usize::from(member.is_some()));
    if let Some(member) = member {
        out.text(member);
        out.no_text();
        out.text(CLIENT);
        out.text(HOST);
        out.i32(REBALANCE_TIMEOUT_MS);
        out.i32(SESSION_TIMEOUT_MS);
        out.blob(&NO_TOPICS);
        out.blob(&NO_TOPICS);
    }
    CoordinatorRecord { key: key.into_bytes(), value: Some(out.into_bytes()) }
}

pub(super) fn decode_key(key: &[u8]) -> Result<Key<'_>, Malformed> {
    let mut from = Reader::key(key);
    let key = match from.i16("key type")? {
        KEY_OFFSET_OLD | KEY_OFFSET => {
            let group = from.text("group")?;
            let topic = from.text("topic")?;
            check_topic_name(topic).map_err(|error| from.malformed(error.to_string()))?;
            let partition = from.i32("partition")?;
            let partition = u32::try_from(partition)
                .map_err(|_| from.malformed(format!("partition {partition} of {topic}")))?;
            Key::Offset { group, at: TopicPartition::new(topic, partition) }
        }
        KEY_GROUP => Key::Group(from.text("group")?),
        _ => return Ok(Key::Unknown),
    };
    from.end()?;
    Ok(key)
}

/// A stored offset, or `None` for a value of an unknown version.
pub(super) fn decode_offset(value: &[u8]) -> Result<Option<StoredOffset>, Malformed> {
    let mut from = Reader::value(value);
    let version = from.i16("version")?;
    if !(0..=FLEXIBLE_VERSION).contains(&version) {
        return Ok(None);
    }
    from.flexible = version >= FLEXIBLE_VERSION;
    let offset = from.i64("offset")?;
    let leader_epoch = if version >= 3 { from.i32("leader epoch")? } else { -1 };
    let metadata = from.text("metadata")?.into();
    let committed = from.i64("commit time")?;
    if version == 1 {
        from.i64("expiry")?;
    }
    from.skip_tags()?;
    from.end()?;
    Ok(Some(StoredOffset { offset, leader_epoch, metadata, committed }))
}

/// A group, or `None` for a value of an unknown version.
pub(super) fn decode_group(value: &[u8]) -> Result<Option<GroupValue>, Malformed> {
    let mut from = Reader::value(value);
    let version = from.i16("version")?;
    if !(0..=FLEXIBLE_VERSION).contains(&version) {
        return Ok(None);
    }
    from.flexible = version >= FLEXIBLE_VERSION;
    from.text("protocol type")?;
    let generation = from.i32("generation")?;
    from.nullable_text("protocol")?;
    from.nullable_text("leader")?;
    if version >= 2 {
        from.i64("time of the state")?;
    }
    // Three strings and two byte strings of at least one byte each, and the session timeout.
    let count = from.items("members", 9)?;
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        members.push(Arc::from(from.text("member")?));
        if version >= 3 {
            from.nullable_text("instance")?;
        }
        from.text("client")?;
        from.text("host")?;
        if version >= 1 {
            from.i32("rebalance timeout")?;
        }
        from.i32("session timeout")?;
        from.blob("subscription")?;
        from.blob("assignment")?;
        from.skip_tags()?;
    }
    from.skip_tags()?;
    from.end()?;
    Ok(Some(GroupValue { generation, members }))
}
