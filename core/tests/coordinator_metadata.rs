//! What the metadata image promises, tried on it as a pure value: commands, records, replay.
//!
//! Every command that is carried out rebuilds a second image from all records so far, and a third one
//! from what compaction would keep of them, and demands that all three are equal.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use thalweg_core::client::log::{Cleanup, Level, NewTopic, TopicConfig, TopicInfo};
use thalweg_core::coordinator::metadata::{FIRST_PRODUCER_ID, Metadata};
use thalweg_core::coordinator::{CoordinatorRecord, Plan};
use thalweg_core::error::Error;
use thalweg_core::ids::Uuid;

/// An image with its partition.
#[derive(Default)]
struct World {
    image: Metadata,
    log: Vec<CoordinatorRecord>,
}

impl World {
    fn run<R>(&mut self, plan: Plan<R>) -> R {
        for record in plan.records {
            self.image.replay(&record.key, record.value.as_deref()).expect("its own records");
            self.log.push(record);
            assert_eq!(self.image, rebuilt(&self.log));
            assert_eq!(self.image, rebuilt(&compacted(&self.log)));
        }
        plan.reply
    }

    fn create(&mut self, name: &str, id: u8) -> Result<TopicInfo, Error> {
        let plan = self.image.create_topic(&new_topic(name, 1), uuid(id))?;
        Ok(self.run(plan))
    }

    fn names(&self) -> Vec<&str> {
        self.image.topics().map(|topic| &*topic.name).collect()
    }
}

fn rebuilt(log: &[CoordinatorRecord]) -> Metadata {
    let mut image = Metadata::new();
    for record in log {
        image.replay(&record.key, record.value.as_deref()).expect("replayed before");
    }
    image
}

/// The last record of each key, in order.
fn compacted(log: &[CoordinatorRecord]) -> Vec<CoordinatorRecord> {
    let last: BTreeMap<&Bytes, usize> =
        log.iter().enumerate().map(|(i, record)| (&record.key, i)).collect();
    let mut kept: Vec<usize> = last.into_values().collect();
    kept.sort_unstable();
    kept.into_iter().map(|i| log[i].clone()).collect()
}

fn uuid(byte: u8) -> Uuid {
    Uuid([byte; 16])
}

fn new_topic(name: &str, partitions: u32) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions, config: TopicConfig::default() }
}

#[test]
fn records_are_the_documented_bytes() {
    let record = |key: &[u8], value: &[&[u8]]| CoordinatorRecord {
        key: Bytes::copy_from_slice(key),
        value: Some(value.concat().into()),
    };
    let mut world = World::default();
    let plan = world.image.init(uuid(0xaa)).expect("it has no id");
    assert_eq!(plan.records, [record(&[0], &[&[0], &[0xaa; 16]])]);
    world.run(plan);

    let mut new = new_topic("logs.raw", 3);
    new.config.level = Some(Level::Os);
    new.config.cleanup = Cleanup::Compact;
    let plan = world.image.create_topic(&new, uuid(0xbb)).expect("a good topic");
    let fields = |state: u8| {
        record(
            b"\x01logs.raw",
            &[
                &[0, state],
                &[0xbb; 16],
                &[0, 0, 0, 3],
                &[0, 0, 0, 2],
                b"\0\x0ecleanup.policy\0\x07compact",
                b"\0\x0dthalweg.level\0\x02os",
            ],
        )
    };
    assert_eq!(plan.records, [fields(0)]);
    world.run(plan);

    let plan = world.image.delete_topic("logs.raw").expect("it is there");
    assert_eq!(plan.records, [fields(1)]);
    world.run(plan);
    let plan = world.image.forget_topic("logs.raw").expect("it is being deleted");
    let key = Bytes::from_static(b"\x01logs.raw");
    assert_eq!(plan.records, [CoordinatorRecord { key, value: None }]);

    let plan = world.image.allocate_producer_ids(1000, 0).expect("there are some");
    let next = (1_i64 << 40) + 1000;
    assert_eq!(plan.records, [record(&[2], &[&[0], &next.to_be_bytes()])]);
    let plan = world.image.raise_epoch(-1).expect("there are some");
    assert_eq!(plan.records, [record(&[3], &[&[0], &0_i32.to_be_bytes()])]);
}

#[test]
fn a_topic_is_there_with_all_its_settings_from_its_record_on() {
    let mut world = World::default();
    let config = TopicConfig {
        level: Some(Level::Disk),
        segment_bytes: 1 << 20,
        index_interval_bytes: 1,
        max_message_bytes: 1000,
        cleanup: Cleanup::Compact,
        retention_ms: Some(5),
        ..TopicConfig::default()
    };
    let new = NewTopic { name: "t".to_owned(), partitions: 10_000, config: config.clone() };
    assert!(matches!(world.image.topic("t"), Err(Error::Unknown { .. })));
    let plan = world.image.create_topic(&new, uuid(1)).expect("a good topic");
    assert!(world.image.topic("t").is_err(), "a command changes nothing");
    let info = world.run(plan);
    assert_eq!(info, TopicInfo { name: "t".into(), id: uuid(1), partitions: 10_000, config });
    assert_eq!(world.image.topic("t").expect("it is there"), &info);
    assert_eq!(world.image.topics().collect::<Vec<_>>(), [&info]);
}

#[test]
fn settings_change_by_one_record_and_the_level_never_does() {
    let mut world = World::default();
    let before = world.create("t", 3).expect("a good topic");
    let changes = |name: &str, value: Option<&str>| {
        BTreeMap::from([(name.to_owned(), value.map(str::to_owned))])
    };
    let plan = world.image.alter_topic("t", &changes("retention.ms", Some("7"))).expect("known");
    assert_eq!(plan.records.len(), 1);
    let after = world.run(plan);
    assert_eq!(after.config.retention_ms, Some(7));
    assert_eq!((after.id, after.partitions), (before.id, before.partitions));
    assert_eq!(world.image.topic("t").expect("there"), &after);

    let again = world.image.alter_topic("t", &changes("retention.ms", Some("7"))).expect("known");
    assert!(again.records.is_empty(), "what is so already needs no record");
    let plan = world.image.alter_topic("t", &changes("retention.ms", None)).expect("known");
    assert_eq!(world.run(plan), before, "back to the default");

    for (name, value, told) in [
        ("thalweg.level", Some("os"), "is fixed"),
        ("retention.ms", Some("soon"), "use a whole number"),
        ("retention.hours", None, "is not known"),
    ] {
        let e = world.image.alter_topic("t", &changes(name, value)).expect_err(told);
        assert!(e.to_string().contains(told), "{e}");
    }
    assert!(matches!(world.image.alter_topic("u", &BTreeMap::new()), Err(Error::Unknown { .. })));
}

#[test]
fn bad_topics_are_refused_by_name() {
    let mut world = World::default();
    world.create("a.b", 1).expect("a good topic");
    let small = TopicConfig { segment_bytes: 1, ..TopicConfig::default() };
    let cases = [
        (new_topic("", 1), "topic name"),
        (new_topic("a/b", 1), "\"a/b\""),
        (new_topic("..", 1), "\"..\""),
        (new_topic("t", 0), "0 partitions"),
        (new_topic("t", 10_001), "10001 partitions"),
        (NewTopic { config: small, ..new_topic("t", 1) }, "segment.bytes 1"),
        // As Kafka: their metrics would share a name.
        (new_topic("a_b", 1), "\"a.b\""),
    ];
    for (new, what) in cases {
        let error = world.image.create_topic(&new, uuid(2)).expect_err(what);
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error} does not name {what}");
    }
    assert!(matches!(world.create("a.b", 2), Err(Error::TopicExists { partitions: 1, .. })));
    for good in ["ab", "a-b", "a.b.c", "A.b"] {
        world.create(good, 3).expect(good);
    }
}

/// Crash catalogue 13 and LOG-06: folders go because of a record with the topic's id, and the name is
/// free only when they are gone.
#[test]
fn a_deleted_topic_is_gone_for_clients_first_and_for_good_when_its_folders_are() {
    let mut world = World::default();
    let info = world.create("t", 1).expect("a good topic");
    assert!(matches!(world.image.forget_topic("t"), Err(Error::Invalid { .. })));
    let plan = world.image.delete_topic("t").expect("it is there");
    assert_eq!(world.run(plan), info);

    let gone = |result: Result<(), Error>| matches!(result, Err(Error::Unknown { .. }));
    assert!(gone(world.image.topic("t").map(|_| ())));
    assert!(gone(world.image.delete_topic("t").map(|_| ())));
    assert_eq!(world.names(), [""; 0]);
    assert_eq!(world.image.deleting().collect::<Vec<_>>(), [&info], "with its id, after a crash");
    assert!(matches!(world.create("t", 2), Err(Error::Retry { .. })));

    for records in [1, 0] {
        let plan = world.image.forget_topic("t").expect("it is being deleted, or gone");
        assert_eq!(plan.records.len(), records);
        world.run(plan);
    }
    assert_eq!(world.image.deleting().count(), 0);
    let again = world.create("t", 2).expect("the name is free");
    assert_ne!(again.id, info.id);
}

#[test]
fn a_folder_keeps_its_first_id() {
    let mut world = World::default();
    assert_eq!(world.image.log_id(), None);
    for records in [1, 0] {
        let plan = world.image.init(uuid(1)).expect("the same id");
        assert_eq!(plan.records.len(), records);
        world.run(plan);
    }
    assert_eq!(world.image.log_id(), Some(uuid(1)));
    assert!(matches!(world.image.init(uuid(2)), Err(Error::Invalid { .. })));
}

#[test]
fn producer_ids_are_given_out_once_even_when_the_counters_tail_was_lost() {
    let mut world = World::default();
    let mut take = |count, unseen| {
        let plan = world.image.allocate_producer_ids(count, unseen).expect("there are some");
        world.run(plan)
    };
    let first = FIRST_PRODUCER_ID;
    assert_eq!(take(1000, 0), first..first + 1000);
    assert_eq!(take(1000, 5000), first + 1000..first + 2000, "ids of a Kafka broker lie far below");
    assert_eq!(
        take(10, first + 5000),
        first + 5000..first + 5010,
        "a partition knows 4999 of ours"
    );
    assert_eq!(take(10, 0), first + 5010..first + 5020);
    assert!(world.image.allocate_producer_ids(2, i64::MAX - 1).is_err());
}

#[test]
fn leader_epochs_only_rise_even_when_the_counters_tail_was_lost() {
    let mut world = World::default();
    assert_eq!(world.image.leader_epoch(), -1);
    for (seen, expected) in [(-1, 0), (-1, 1), (0, 2), (7, 8), (3, 9)] {
        let plan = world.image.raise_epoch(seen).expect("there are some");
        assert_eq!(world.run(plan), expected);
        assert_eq!(world.image.leader_epoch(), expected);
    }
    assert!(world.image.raise_epoch(i32::MAX).is_err());
    // A record of an older epoch, found again behind a newer one, lowers nothing.
    let older = world.log[0].clone();
    world.image.replay(&older.key, older.value.as_deref()).expect("its own record");
    assert_eq!(world.image.leader_epoch(), 9);
}

#[test]
fn records_of_unknown_type_or_version_are_counted_and_change_nothing() {
    let mut world = World::default();
    world.create("t", 1).expect("a good topic");
    let cases: [(&[u8], Option<&[u8]>); 5] = [
        (&[4], Some(b"whatever")),
        (&[0x80], None),
        (&[1, b't'], Some(&[1, 2, 3])),
        (&[3], Some(&[0xff])),
        (&[0], None), // a log has no end
    ];
    for (i, (key, value)) in cases.into_iter().enumerate() {
        world.image.replay(key, value).expect("unknown is not malformed");
        assert_eq!(world.image.skipped(), i as u64 + 1);
    }
    assert_eq!(world.names(), ["t"]);
}

#[test]
fn malformed_records_name_the_place_and_change_nothing() {
    let mut world = World::default();
    world.create("t", 1).expect("a good topic");
    let topic = world.log[0].value.clone().expect("no tombstone");
    let with = |place: usize, byte: u8| {
        let mut bytes = topic.to_vec();
        bytes[place] = byte;
        bytes
    };
    let setting = [&topic[..22], &[0, 0, 0, 1], b"\0\x05color\0\x03red"].concat();
    let cases: [(&str, &[u8], Vec<u8>); 10] = [
        ("key type needs 1 bytes", &[], vec![0]),
        ("use 1 to 249 characters", b"\x01", topic.to_vec()),
        ("not UTF-8", b"\x01\xff", topic.to_vec()),
        ("bytes too many", &[3, 0], vec![0, 0, 0, 0, 0]),
        ("state 2", b"\x01t", with(1, 2)),
        ("16777217 partitions", b"\x01t", with(18, 1)),
        ("settings cannot be in", b"\x01t", with(25, 1)),
        ("color=red", b"\x01t", setting),
        ("leader epoch -1", &[3], vec![0, 0xff, 0xff, 0xff, 0xff]),
        ("producer id -1", &[2], [vec![0], vec![0xff; 8]].concat()),
    ];
    let before = world.image.clone();
    for (what, key, value) in cases {
        let error = world.image.replay(key, Some(&value)).expect_err(what);
        assert!(error.to_string().contains(what), "{error} does not say {what:?}");
        assert_eq!(world.image, before);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create(u8),
    Delete(u8),
    Forget(u8),
    ProducerIds(u32, i64),
    Epoch(i32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8).prop_map(Step::Create),
        (0..3_u8).prop_map(Step::Delete),
        (0..3_u8).prop_map(Step::Forget),
        (1..5_u32, 0..50_i64).prop_map(|(count, unseen)| Step::ProducerIds(count, unseen)),
        (-1..20_i32).prop_map(Step::Epoch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_commands_keep_replay_equal_and_counters_rising(
        steps in prop::collection::vec(step(), 1..50),
    ) {
        let mut world = World::default();
        let (mut next_id, mut next_epoch) = (0, 0);
        let mut topic_id = 0;
        for step in &steps {
            let name = |n: u8| format!("t{n}");
            match *step {
                Step::Create(n) => {
                    topic_id += 1;
                    let was_there = world.image.topic(&name(n)).is_ok();
                    if let Ok(info) = world.create(&name(n), topic_id) {
                        prop_assert!(!was_there);
                        prop_assert_eq!(world.image.topic(&name(n)).ok(), Some(&info));
                    }
                }
                Step::Delete(n) => {
                    if let Ok(plan) = world.image.delete_topic(&name(n)) {
                        let info = world.run(plan);
                        prop_assert!(world.image.deleting().any(|topic| *topic == info));
                    }
                }
                Step::Forget(n) => {
                    if let Ok(plan) = world.image.forget_topic(&name(n)) {
                        world.run(plan);
                        prop_assert!(world.image.deleting().all(|topic| *topic.name != *name(n)));
                    }
                }
                Step::ProducerIds(count, unseen) => {
                    let plan = world.image.allocate_producer_ids(count, unseen).expect("some");
                    let ids = world.run(plan);
                    prop_assert!(ids.start >= next_id && ids.start >= unseen);
                    prop_assert_eq!(ids.end - ids.start, i64::from(count));
                    next_id = ids.end;
                }
                Step::Epoch(seen) => {
                    let plan = world.image.raise_epoch(seen).expect("some");
                    let epoch = world.run(plan);
                    prop_assert!(epoch >= next_epoch && epoch > seen);
                    next_epoch = epoch + 1;
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_and_never_panic(
        key in prop_oneof![
            Just(vec![0]), Just(b"\x01t".to_vec()), Just(vec![2]), Just(vec![3]),
            prop::collection::vec(any::<u8>(), 0..20),
        ],
        version in 0..2_u8,
        value in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let value = [vec![version], value].concat();
        let mut image = Metadata::new();
        if image.replay(&key, Some(&value)).is_err() {
            prop_assert_eq!(image, Metadata::new());
        }
    }
}
