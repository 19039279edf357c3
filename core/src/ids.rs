//! F0 · The names of things: topics, partitions, producers, offsets.
//!
//! Always true here: a value of one of these types is well formed. Text and bytes from outside are
//! checked when the value is made, and never again.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// The position of a record in its partition, counted from 0 without end. The *end* of a range of
/// offsets is always exclusive. Plain `i64` because offsets are added and subtracted in every file.
pub type Offset = i64;

/// Milliseconds since 1970-01-01 UTC.
pub type Timestamp = i64;

/// The number of a leader epoch, raised on every unclean start of a folder.
pub type LeaderEpoch = i32;

/// A 128-bit id, printed as Kafka prints it: 22 characters of base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Uuid {
    /// Makes an id from 16 random bytes: version 4, never one of the reserved ids (all zero, one),
    /// never starting with `-` in its text form, as Kafka's `Uuid.randomUuid` does.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        // A leading '-' needs the first six bits to be 62: clearing one of them avoids it.
        if bytes[0] >> 2 == 62 {
            bytes[0] &= 0x7f;
        }
        Self(bytes)
    }

    /// Reads the 22-character text form.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the text is no such id.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("{text:?} is not an id of 22 base64url characters"));
        if text.len() != 22 {
            return Err(bad());
        }
        let mut value: u128 = 0;
        for (i, c) in text.bytes().enumerate() {
            let digit = ALPHABET.iter().position(|&a| a == c).ok_or_else(bad)? as u128;
            if i < 21 {
                value = (value << 6) | digit;
            } else {
                // The last character carries two bits of value and four of zero padding.
                if digit & 0x0f != 0 {
                    return Err(bad());
                }
                value = (value << 2) | (digit >> 4);
            }
        }
        Ok(Self(value.to_be_bytes()))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from_be_bytes(self.0);
        for i in 0..21 {
            let digit = (value >> (122 - 6 * i)) & 0x3f;
            write!(f, "{}", ALPHABET[digit as usize] as char)?;
        }
        write!(f, "{}", ALPHABET[((value & 0x3) << 4) as usize] as char)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One partition of a topic. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: u32,
}

impl TopicPartition {
    /// Names partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }

    /// The name of the partition's folder, `<topic>-<partition>`.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who writes a batch: a producer id and its epoch. A higher epoch fences every lower one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProducerIdentity {
    /// The producer id; -1 for a producer without one.
    pub id: i64,
    /// The epoch; -1 for a producer without an id.
    pub epoch: i16,
}

impl ProducerIdentity {
    /// The identity of a producer that is neither idempotent nor transactional.
    pub const NONE: Self = Self { id: -1, epoch: -1 };
}

/// Checks a topic name: 1-249 characters of `[a-zA-Z0-9._-]`, not `.` or `..`.
///
/// # Errors
/// [`Error::Invalid`] naming the topic and the rule.
pub fn check_topic_name(name: &str) -> Result<()> {
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if name.is_empty()
        || name.len() > 249
        || !name.bytes().all(legal)
        || name == "."
        || name == ".."
    {
        return Err(Error::invalid(format!(
            "topic name {name:?}: use 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-'"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_text_round_trips_as_kafka_prints_it() {
        // Checked against org.apache.kafka.common.Uuid.
        let cases = [([0u8; 16], "AAAAAAAAAAAAAAAAAAAAAA"), ([0xff; 16], "_____________________w")];
        for (bytes, text) in cases {
            assert_eq!(Uuid(bytes).to_string(), text);
            assert_eq!(Uuid::parse(text).expect("legal"), Uuid(bytes));
        }
        let id = Uuid::from_random([0xf8; 16]);
        assert!(!id.to_string().starts_with('-'));
        assert_eq!(Uuid::parse(&id.to_string()).expect("legal"), id);
        for bad in
            ["", "A", "AAAAAAAAAAAAAAAAAAAAAB", "AAAAAAAAAAAAAAAAAAAAA!", "AAAAAAAAAAAAAAAAAAAAAAA"]
        {
            assert!(Uuid::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn topic_names_are_kafkas() {
        for good in ["a", "logs.raw", "__x", "A-1_2.b", &"x".repeat(249)] {
            assert!(check_topic_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ü", &"x".repeat(250)] {
            assert!(check_topic_name(bad).is_err(), "{bad}");
        }
    }
}
