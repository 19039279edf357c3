//! Where connectors stand: in the log, and nowhere else.
//!
//! A source's positions are records of a compacted topic of its own, in the transaction of the lines
//! they cover (the idea of Kafka's KIP-618):
//!
//! ```text
//!   topic   __connect_positions.<connector>     one partition, internal
//!   key     int16 version 0   int16 length   connector   split, to the end
//!   value   the position as its connector wrote it, versioned by it; null: the split is retired
//! ```
//!
//! A topic for each connector, because readers wait until every transaction in the partition is
//! decided: so only the connector's own transactions, which its start has fenced, can hold it back.
//! The connector is in the key as well, so that a record says whose it is.
//!
//! A sink's position is the group's committed offset; its metadata says of which topic it is, and
//! what the sink has yet to finish:
//!
//! ```text
//!   metadata   "1 <topic id, 22 characters> <token, to the end>"    without a token: nothing behind
//!                                                                   the second blank
//! ```
//!
//! Always true here: positions are read to the high watermark as it was after the connector's
//! transactional id was fenced, and not only to the last stable offset, behind which our own
//! committed positions may still lie; what was not written by these functions is a typed error.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thalweg_core::batch::Scratch;
use thalweg_core::client::log::{FetchFrom, FetchOptions, Isolation, Log};
use thalweg_core::ids::{Offset, TopicPartition, Uuid};

use crate::error::{Error, Result};
use crate::sink::{Token, visible_records};
use crate::source::{Position, Positions, Split};

/// The topic that holds the positions of a source.
pub fn positions_topic(connector: &str) -> String {
    format!("__connect_positions.{connector}")
}

/// Reads a source's positions: everything that was decided before this call, once it can be read.
/// Call it after the source's transactional id was fenced. Every position is `Some`.
///
/// # Errors
/// Those of the log; [`Error::Fatal`] for records that are no positions of this connector;
/// [`Error::Retry`] when a transaction in front of them is not decided within a minute.
pub async fn load(log: &dyn Log, connector: &str) -> Result<Positions> {
    let mut loading = Loading::begin(log, connector).await?;
    for _ in 0..UNDECIDED_PATIENCE {
        if loading.advance(log).await? {
            return Ok(loading.positions);
        }
        log.sleep(UNDECIDED_WAIT).await;
    }
    Err(Error::Retry {
        what: format!(
            "{}: a transaction in front of the stored positions is not decided: abort or end it",
            loading.at
        ),
    })
}

/// How long to wait before looking again whether the transactions in the way are decided.
pub(crate) const UNDECIDED_WAIT: Duration = Duration::from_millis(20);

/// How often that is done without any progress, a minute in all, before it is told.
pub(crate) const UNDECIDED_PATIENCE: u32 = 3000;

/// Positions being read, without waiting: the reader may have to let others work in between.
#[derive(Debug)]
pub(crate) struct Loading {
    connector: Arc<str>,
    at: TopicPartition,
    next: Offset,
    /// The high watermark when the reading began.
    upto: Offset,
    pub(crate) positions: Positions,
}

impl Loading {
    /// Notes how far must be read. Without the topic there is nothing to read.
    pub(crate) async fn begin(log: &dyn Log, connector: &str) -> Result<Self> {
        let at = TopicPartition::new(positions_topic(connector), 0);
        let (next, upto) = match log.offsets(&at).await {
            Ok(offsets) => (offsets.start, offsets.high_watermark),
            Err(thalweg_core::Error::Unknown { .. }) => (0, 0),
            Err(e) => return Err(e.into()),
        };
        Ok(Self { connector: connector.into(), at, next, upto, positions: Positions::new() })
    }

    /// Reads what can be read; `true` when that is all.
    pub(crate) async fn advance(&mut self, log: &dyn Log) -> Result<bool> {
        let mut scratch = Scratch::default();
        while self.next < self.upto {
            let from = FetchFrom { at: self.at.clone(), offset: self.next, max_bytes: LOAD_BYTES };
            let options = FetchOptions {
                isolation: Isolation::ReadCommitted,
                max_wait: Duration::ZERO,
                max_bytes: 0,
            };
            let answers = log.fetch(&[from], options).await?;
            let before = self.next;
            for answer in answers {
                let Self { connector, positions, .. } = &mut *self;
                visible_records(&answer, before, &mut scratch, |record| {
                    let split = record.key.and_then(|key| decode_key(connector, key));
                    let split = split.ok_or_else(|| Error::Fatal {
                        what: format!(
                            "{}, offset {}: no position of connector {connector:?} in a form this \
                             version reads: use the version that wrote it, or another name for \
                             the connector",
                            answer.at, record.offset
                        ),
                    })?;
                    match record.value {
                        Some(value) => {
                            let position = Position(Bytes::copy_from_slice(value));
                            positions.insert(split, Some(position));
                        }
                        None => _ = positions.remove(&split),
                    }
                    Ok(())
                })?;
                self.next = self.next.max(answer.next_offset);
            }
            if self.next == before {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The key of a split's position.
pub(crate) fn encode_key(connector: &str, split: &Split) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + connector.len() + split.0.len());
    key.extend_from_slice(&0i16.to_be_bytes());
    // A connector's name is part of a topic's name, which has at most 249 characters.
    key.extend_from_slice(&(connector.len() as i16).to_be_bytes());
    key.extend_from_slice(connector.as_bytes());
    key.extend_from_slice(split.0.as_bytes());
    key
}

fn decode_key(connector: &str, key: &[u8]) -> Option<Split> {
    let (version, rest) = key.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let len = usize::try_from(i16::from_be_bytes(*len)).ok()?;
    let (name, split) = rest.split_at_checked(len)?;
    let ours = i16::from_be_bytes(*version) == 0 && name == connector.as_bytes();
    let split = std::str::from_utf8(split).ok()?;
    ours.then(|| Split(split.into()))
}

/// What a sink stores with a committed offset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SinkMetadata {
    /// The topic the offset belongs to: another one after it was deleted and created again.
    pub topic: Uuid,
    /// What the sink has to finish.
    pub token: Option<Token>,
}

impl SinkMetadata {
    /// The text that is committed.
    ///
    /// # Errors
    /// [`Error::Fatal`] when it is longer than the 4096 bytes that a log takes.
    pub fn to_text(&self) -> Result<String> {
        let token = self.token.as_ref().map_or("", |token| &token.0);
        let text = format!("1 {} {token}", self.topic);
        if text.len() > METADATA_MAX {
            return Err(Error::Fatal {
                what: format!("a sink's token of {} bytes: at most 4000 can be kept", token.len()),
            });
        }
        Ok(text)
    }

    /// Reads the text; `None` when it is not such a text.
    pub fn parse(text: &str) -> Option<Self> {
        let (topic, token) = text.strip_prefix("1 ")?.split_once(' ')?;
        let topic = Uuid::parse(topic).ok()?;
        let token = (!token.is_empty()).then(|| Token(token.to_owned()));
        Some(Self { topic, token })
    }
}

const LOAD_BYTES: usize = 1 << 20;
const METADATA_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_connector_and_split() {
        for split in ["", "a", "/var/log/ä b.log", "64769:12:3"] {
            let split = Split(split.into());
            let key = encode_key("logs", &split);
            assert_eq!(decode_key("logs", &key), Some(split));
            assert_eq!(decode_key("log", &key), None);
        }
        let bad: [&[u8]; 6] =
            [b"", b"\0", b"\0\0\0", b"\0\0\0\x09logs", b"\0\x01\0\x04logs", b"\0\0\0\x04logs\xff"];
        for key in bad {
            assert_eq!(decode_key("logs", key), None, "{key:?}");
        }
    }

    #[test]
    fn metadata_round_trips_and_refuses_what_it_did_not_write() {
        let topic = Uuid::from_random([7; 16]);
        for token in [None, Some(Token("1 0 with blanks".to_owned()))] {
            let metadata = SinkMetadata { topic, token };
            let text = metadata.to_text().expect("short");
            assert_eq!(SinkMetadata::parse(&text), Some(metadata));
        }
        for bad in ["", "1", "1 ", "2 AAAAAAAAAAAAAAAAAAAAAA ", "1 AAAAAAAAAAAAAAAAAAAAAA", "1 x "]
        {
            assert_eq!(SinkMetadata::parse(bad), None, "{bad:?}");
        }
        let long = SinkMetadata { topic, token: Some(Token("x".repeat(5000))) };
        assert!(long.to_text().is_err());
    }
}
