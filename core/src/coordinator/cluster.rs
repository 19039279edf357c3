//! F5 · What Apache Kafka's own metadata says of topics: read from `__cluster_metadata-0`, never written.
//!
//! ```text
//! record   no key; value: uvarint frame 1 | uvarint type | uvarint version | fields | tags, all flexible
//!   type 2   topic             string name | 16 id
//!   type 4   setting           int8 of what (2 a topic, 4 a broker) | string of which | string name | nullable string value
//!   type 9   topic removed     16 id
//!   type 15  producer ids      int32 broker | int64 broker's epoch | int64 the next one to give out
//!   others, and other versions, are passed over and counted
//! ```
//!
//! A snapshot (`<offset>-<epoch>.checkpoint`) holds the same records. Types and fields are those of the
//! public message schemas of Kafka's `metadata` module, and were compared with what 4.3.1 wrote.
//!
//! Always true here: a setting belongs to a topic that is there; a topic that is removed takes its
//! settings with it; bytes of any other layout are [`Malformed`], and nothing has changed then.

use std::collections::BTreeMap;

use super::Malformed;
use super::field::Reader;
use crate::ids::Uuid;

const FRAME: u32 = 1;
const TOPIC: u32 = 2;
const SETTING: u32 = 4;
const TOPIC_REMOVED: u32 = 9;
const PRODUCER_IDS: u32 = 15;
/// What a setting is of.
const OF_TOPIC: i8 = 2;

/// A topic of Kafka's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterTopic {
    /// Its id.
    pub id: Option<Uuid>,
    /// Its settings, under Kafka's names, as far as they were set for it.
    pub settings: BTreeMap<String, String>,
}

/// The replayed image of `__cluster_metadata-0`, as far as a log needs it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cluster {
    topics: BTreeMap<String, ClusterTopic>,
    next_producer_id: i64,
    skipped: u64,
}

impl Cluster {
    /// The image of an empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the value of one record.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that are no record of Kafka's metadata.
    pub fn replay(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let mut from = Reader::value(value);
        from.flexible = true;
        let frame = from.uvarint("frame")?;
        if frame != FRAME {
            return Err(from.malformed(format!("frame version {frame} where {FRAME} is known")));
        }
        let (kind, version) = (from.uvarint("type")?, from.uvarint("version")?);
        match (kind, version) {
            (TOPIC, 0) => {
                let name = from.text("topic")?;
                let id = Uuid(from.bytes16("topic id")?);
                from.skip_tags()?;
                from.end()?;
                self.topics.entry(name.to_owned()).or_default().id = Some(id);
            }
            (SETTING, 0) => {
                let of = from.i8("what the setting is of")?;
                let (which, name) = (from.text("whose setting it is")?, from.text("setting")?);
                let value = from.nullable_text("value")?;
                from.skip_tags()?;
                from.end()?;
                if of != OF_TOPIC {
                    return Ok(());
                }
                let settings = &mut self.topics.entry(which.to_owned()).or_default().settings;
                match value {
                    Some(value) => settings.insert(name.to_owned(), value.to_owned()),
                    None => settings.remove(name),
                };
            }
            (TOPIC_REMOVED, 0) => {
                let id = Uuid(from.bytes16("topic id")?);
                from.skip_tags()?;
                from.end()?;
                self.topics.retain(|_, topic| topic.id != Some(id));
            }
            (PRODUCER_IDS, 0) => {
                from.i32("broker")?;
                from.i64("broker's epoch")?;
                let next = from.i64("next producer id")?;
                from.skip_tags()?;
                from.end()?;
                self.next_producer_id = self.next_producer_id.max(next);
            }
            _ => self.skipped += 1,
        }
        Ok(())
    }

    /// What is known of a topic with this id; one of the same name and another id is another topic.
    pub fn topic(&self, name: &str, id: Uuid) -> Option<&ClusterTopic> {
        self.topics.get(name).filter(|topic| topic.id == Some(id))
    }

    /// No producer id from this on was given out.
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// How many records of other types and versions were passed over.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records as Kafka 4.3.1 wrote them.
    const TOPIC_MADE: &[u8] =
        b"\x01\x02\x00\x04cut\xa1\xc1H\xf2\x1d5N\x18\xbd\xe1\x93\xd3\x087\xc9;\x00";
    const SETTING_MADE: &[u8] = b"\x01\x04\x00\x02\x04cut\x0esegment.bytes\x081048576\x00";
    const OF_A_BROKER: &[u8] = b"\x01\x04\x00\x04\x01\x14min.insync.replicas\x021\x00";
    const IDS: &[u8] = b"\x01\x0f\x00\0\0\0\x01\0\0\0\0\0\0\0\x92\0\0\0\0\0\0\x07\xd0\x00";

    fn id() -> Uuid {
        Uuid(TOPIC_MADE[7..23].try_into().expect("sixteen bytes"))
    }

    #[test]
    fn topics_settings_and_producer_ids_are_read() {
        let mut cluster = Cluster::new();
        for record in [TOPIC_MADE, SETTING_MADE, OF_A_BROKER, IDS, b"\x01\x14\x00any"] {
            cluster.replay(record).expect("Kafka wrote it");
        }
        let topic = cluster.topic("cut", id()).expect("there");
        assert_eq!(topic.settings["segment.bytes"], "1048576");
        assert_eq!((topic.settings.len(), cluster.next_producer_id()), (1, 2000));
        assert_eq!(cluster.skipped(), 1);
        assert_eq!(cluster.topic("cut", Uuid([0; 16])), None, "another one of that name");

        let mut unset = SETTING_MADE[..22].to_vec();
        unset.extend([0, 0]);
        cluster.replay(&unset).expect("a setting without a value");
        assert!(cluster.topic("cut", id()).expect("there").settings.is_empty());
        let removed = [&b"\x01\x09\x00"[..], &id().0, b"\x00"].concat();
        cluster.replay(&removed).expect("read");
        assert_eq!(cluster.topic("cut", id()), None);
    }

    #[test]
    fn no_bytes_panic_and_what_is_cut_is_refused() {
        for record in [TOPIC_MADE, SETTING_MADE, OF_A_BROKER, IDS] {
            for len in 0..record.len() {
                let mut cluster = Cluster::new();
                assert!(cluster.replay(&record[..len]).is_err(), "{len} of {record:?}");
                assert_eq!(cluster, Cluster::new());
            }
        }
        assert!(Cluster::new().replay(b"\x02\x02\x00").is_err(), "another frame");
    }
}
