//! What the group coordinator promises, tried on it as a pure value: commands, records, replay.
//!
//! Every command that is carried out rebuilds a second coordinator from the whole log so far, and,
//! when no transaction is open, a third one from what compaction would keep of it; all are equal.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use thalweg_core::client::log::GroupInfo;
use thalweg_core::client::log::TransactionEnd::{self, Abort, Commit};
use thalweg_core::client::log::{Membership, OffsetCommit};
use thalweg_core::coordinator::group::{GroupCoordinator, Lookup};
use thalweg_core::coordinator::{CoordinatorRecord, Plan};
use thalweg_core::error::Error;
use thalweg_core::ids::TopicPartition;

/// What a partition of `__consumer_offsets` holds.
#[derive(Clone, Debug)]
enum Entry {
    Record(CoordinatorRecord),
    InTransaction(i64, CoordinatorRecord),
    Marker(i64, TransactionEnd),
}

/// A coordinator with its partition.
struct World {
    coordinator: GroupCoordinator,
    log: Vec<Entry>,
    now: i64,
}

impl World {
    fn new() -> Self {
        Self { coordinator: GroupCoordinator::new(), log: Vec::new(), now: 1_000 }
    }

    fn take_in(&mut self, entry: Entry) {
        replay(&mut self.coordinator, &entry);
        self.log.push(entry);
        assert_eq!(self.coordinator, rebuilt(&self.log));
        if let Some(compacted) = compacted(&self.log) {
            assert_eq!(self.coordinator, rebuilt(&compacted));
        }
        self.now += 10;
    }

    fn run<R>(&mut self, plan: Plan<R>) -> R {
        plan.records.into_iter().for_each(|record| self.take_in(Entry::Record(record)));
        plan.reply
    }

    fn join(&mut self, group: &str, member: &str) -> Membership {
        let plan = self.coordinator.join(group, member, self.now).expect("good ids");
        self.run(plan)
    }

    fn commit(&mut self, who: &Membership, offsets: &[OffsetCommit]) -> Result<(), Error> {
        let plan = self.coordinator.commit(who, offsets, self.now)?;
        self.run(plan);
        Ok(())
    }

    fn commit_in(
        &mut self,
        producer_id: i64,
        who: &Membership,
        offsets: &[OffsetCommit],
    ) -> Result<(), Error> {
        let plan = self.coordinator.commit_in(who, offsets, self.now)?;
        for record in plan.records {
            self.take_in(Entry::InTransaction(producer_id, record));
        }
        Ok(())
    }

    fn marker(&mut self, producer_id: i64, end: TransactionEnd) {
        self.take_in(Entry::Marker(producer_id, end));
    }

    fn offset(&self, group: &str, at: &TopicPartition) -> Option<i64> {
        self.coordinator.committed(group, at).commit.map(|commit| commit.offset)
    }

    fn pending(&self, group: &str, at: &TopicPartition) -> bool {
        self.coordinator.committed(group, at).pending
    }
}

fn replay(coordinator: &mut GroupCoordinator, entry: &Entry) {
    match entry {
        Entry::Record(record) => coordinator
            .replay(&record.key, record.value.as_deref())
            .expect("the coordinator reads its own records"),
        Entry::InTransaction(producer_id, record) => coordinator
            .replay_pending(*producer_id, &record.key, record.value.as_deref())
            .expect("the coordinator reads its own records"),
        Entry::Marker(producer_id, end) => coordinator.marker(*producer_id, *end),
    }
}

fn rebuilt(log: &[Entry]) -> GroupCoordinator {
    let mut coordinator = GroupCoordinator::new();
    log.iter().for_each(|entry| replay(&mut coordinator, entry));
    coordinator
}

/// What compaction keeps: of the records of no or of committed transactions the last of each key,
/// and the markers. `None` while a transaction is open: nothing is compacted past it.
fn compacted(log: &[Entry]) -> Option<Vec<Entry>> {
    let mut last: BTreeMap<&Bytes, usize> = BTreeMap::new();
    for (i, entry) in log.iter().enumerate() {
        let key = match entry {
            Entry::Record(record) => &record.key,
            Entry::InTransaction(producer, record) => {
                let end = log[i..].iter().find_map(|entry| match entry {
                    Entry::Marker(whose, end) if whose == producer => Some(*end),
                    _ => None,
                });
                match end? {
                    Commit => &record.key,
                    Abort => continue,
                }
            }
            Entry::Marker(..) => continue,
        };
        last.insert(key, i);
    }
    let kept: Vec<usize> = last.into_values().collect();
    let keep = |(i, entry): (usize, &Entry)| {
        (kept.contains(&i) || matches!(entry, Entry::Marker(..))).then(|| entry.clone())
    };
    Some(log.iter().enumerate().filter_map(keep).collect())
}

fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn commit_of(at: &TopicPartition, offset: i64) -> OffsetCommit {
    OffsetCommit { at: at.clone(), offset, leader_epoch: 4, metadata: format!("at {offset}") }
}

// --- bytes, written down a second time by hand ---------------------------------------------------

/// Ten bytes of Kafka's consumer protocol: version 0, no topics, no user data.
const NO_TOPICS: &[u8] = &[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];

fn bytes(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}

fn offset_key(kind: u8, group: &str, at: &TopicPartition) -> Bytes {
    bytes(&[
        &[0, kind],
        &[0, group.len() as u8],
        group.as_bytes(),
        &[0, at.topic.len() as u8],
        at.topic.as_bytes(),
        &at.partition.to_be_bytes(),
    ])
}

fn group_key(group: &str) -> Bytes {
    bytes(&[&[0, 2], &[0, group.len() as u8], group.as_bytes()])
}

#[test]
fn a_commit_is_kafkas_version_3() {
    let coordinator = GroupCoordinator::new();
    let commit =
        OffsetCommit { at: at("t", 7), offset: 42, leader_epoch: 5, metadata: "né".to_owned() };
    let plan = coordinator
        .commit(&Membership::simple("grp"), &[commit], 1_234)
        .expect("the group has no member");
    let value = bytes(&[
        &[0, 3],
        &42_i64.to_be_bytes(),
        &5_i32.to_be_bytes(),
        &[0, 3],
        "né".as_bytes(),
        &1_234_i64.to_be_bytes(),
    ]);
    assert_eq!(
        plan.records,
        [CoordinatorRecord { key: offset_key(1, "grp", &at("t", 7)), value: Some(value) }]
    );
}

#[test]
fn a_group_is_kafkas_version_3() {
    let mut world = World::new();
    world.now = 77;
    let plan = world.coordinator.join("grp", "m-1", world.now).expect("good ids");
    let joined = bytes(&[
        &[0, 3],
        b"\0\x08consumer",
        &1_i32.to_be_bytes(),
        b"\0\x05range",
        b"\0\x03m-1",
        &77_i64.to_be_bytes(),
        &1_i32.to_be_bytes(), // one member
        b"\0\x03m-1",
        &[0xff, 0xff], // no instance id
        b"\0\x07thalweg",
        b"\0\x0a/127.0.0.1",
        &300_000_i32.to_be_bytes(),
        &45_000_i32.to_be_bytes(),
        &10_i32.to_be_bytes(),
        NO_TOPICS,
        &10_i32.to_be_bytes(),
        NO_TOPICS,
    ]);
    assert_eq!(plan.records, [CoordinatorRecord { key: group_key("grp"), value: Some(joined) }]);
    let member = world.run(plan);

    let plan = world.coordinator.leave(&member, 88).expect("it is the member");
    let left = bytes(&[
        &[0, 3],
        b"\0\x08consumer",
        &2_i32.to_be_bytes(),
        &[0xff, 0xff],
        &[0xff, 0xff],
        &88_i64.to_be_bytes(),
        &0_i32.to_be_bytes(),
    ]);
    assert_eq!(plan.records, [CoordinatorRecord { key: group_key("grp"), value: Some(left) }]);
}

#[test]
fn every_version_of_an_offset_commit_is_read() {
    let offset = 42_i64.to_be_bytes();
    let epoch = 5_i32.to_be_bytes();
    let time = 1_234_i64.to_be_bytes();
    // Long past: nothing expires, not even with a time of its own.
    let expiry = 1_235_i64.to_be_bytes();
    let cases: [(i32, Bytes); 5] = [
        (-1, bytes(&[&[0, 0], &offset, b"\0\x02me", &time])),
        (-1, bytes(&[&[0, 1], &offset, b"\0\x02me", &time, &expiry])),
        (-1, bytes(&[&[0, 2], &offset, b"\0\x02me", &time])),
        (5, bytes(&[&[0, 3], &offset, &epoch, b"\0\x02me", &time])),
        // Flexible, with a tagged field nobody knows.
        (5, bytes(&[&[0, 4], &offset, &epoch, b"\x03me", &time, &[1, 9, 2, 0xab, 0xcd]])),
    ];
    for (leader_epoch, value) in cases {
        for kind in [0, 1] {
            let mut coordinator = GroupCoordinator::new();
            coordinator
                .replay(&offset_key(kind, "grp", &at("t", 7)), Some(&value))
                .expect("legal bytes");
            let expected = OffsetCommit {
                at: at("t", 7),
                offset: 42,
                leader_epoch,
                metadata: "me".to_owned(),
            };
            let found = coordinator.committed("grp", &at("t", 7));
            assert_eq!(found, Lookup { commit: Some(expected), pending: false });
            assert_eq!(coordinator.skipped(), 0);
        }
    }
}

#[test]
fn every_version_of_a_group_is_read_with_all_members() {
    let member = |version: u8, id: &[u8]| {
        let text: &dyn Fn(&[u8]) -> Vec<u8> = &|text| match version {
            4 => [&[text.len() as u8 + 1], text].concat(),
            _ => [&[0, text.len() as u8], text].concat(),
        };
        let blob: &dyn Fn(&[u8]) -> Vec<u8> = &|blob| match version {
            4 => [&[blob.len() as u8 + 1], blob].concat(),
            _ => [&[0, 0, 0, blob.len() as u8], blob].concat(),
        };
        let mut out = text(id);
        match version {
            3 => out.extend([0xff, 0xff]),
            4 => out.push(0),
            _ => {}
        }
        out.extend(text(b"client"));
        out.extend(text(b"host"));
        if version >= 1 {
            out.extend(1_i32.to_be_bytes());
        }
        out.extend(2_i32.to_be_bytes());
        out.extend(blob(NO_TOPICS));
        out.extend(blob(b""));
        if version == 4 {
            out.push(0);
        }
        out
    };
    for version in 0..=4_u8 {
        let mut value = vec![0, version];
        value.extend_from_slice(if version == 4 { b"\x09consumer" } else { b"\0\x08consumer" });
        value.extend(6_i32.to_be_bytes());
        value.extend_from_slice(if version == 4 {
            b"\x06range\x02a"
        } else {
            b"\0\x05range\0\x01a"
        });
        if version >= 2 {
            value.extend(99_i64.to_be_bytes());
        }
        value.extend_from_slice(if version == 4 { &[3] } else { &[0, 0, 0, 2] });
        value.extend(member(version, b"a"));
        value.extend(member(version, b"b"));
        if version == 4 {
            value.push(0);
        }
        let mut coordinator = GroupCoordinator::new();
        coordinator.replay(&group_key("grp"), Some(&value)).expect("legal bytes");
        let expected = GroupInfo {
            group: "grp".into(),
            generation: 6,
            members: vec!["a".into(), "b".into()],
            positions: Vec::new(),
        };
        assert_eq!(coordinator.groups(), [expected], "version {version}");
    }
}

#[test]
fn records_of_unknown_type_or_version_are_counted_and_change_nothing() {
    let mut world = World::new();
    let member = world.join("grp", "m");
    world.commit(&member, &[commit_of(&at("t", 0), 1)]).expect("it is the member");
    let (groups, before) = (world.coordinator.groups(), world.coordinator.positions("grp"));
    let before: Vec<OffsetCommit> = before.collect();
    let offset_key = offset_key(1, "grp", &at("t", 0));
    // 3: a consumer group of the newer protocol; 15: share groups; 23: a topology.
    let cases: [(&[u8], Option<&[u8]>); 6] = [
        (&[0, 3, 0, 1, b'g'], Some(b"whatever")),
        (&[0, 15], None),
        (&[0, 23, 1], Some(b"")),
        (&[0xff, 0xff], Some(b"")),
        (&offset_key, Some(&[0, 5])),
        (&group_key("grp"), Some(&[0xff, 0xfe])),
    ];
    for (i, (key, value)) in cases.into_iter().enumerate() {
        world.coordinator.replay(key, value).expect("unknown is not malformed");
        assert_eq!(world.coordinator.skipped(), i as u64 + 1);
    }
    world.coordinator.replay_pending(1, &group_key("grp"), Some(b"x")).expect("not ours");
    assert_eq!(world.coordinator.skipped(), 7);
    assert_eq!(world.coordinator.groups(), groups);
    assert_eq!(world.coordinator.positions("grp").collect::<Vec<_>>(), before);
    assert!(!world.pending("grp", &at("t", 0)));
}

// --- who may commit ------------------------------------------------------------------------------

/// Kafka's table of commits, the rows that a group without rebalances has. Each row is tried outside
/// of a transaction and in one.
#[test]
fn only_those_the_table_admits_may_commit() {
    let member = |member: &str, generation| Membership {
        group: "grp".into(),
        member: member.into(),
        generation,
    };
    let nobody = Membership::simple("grp");
    // Generation 1 was "m", then it left: generation 2, empty. "n" joins with generation 3.
    //  who shows                    no such group   empty group     group of n, generation 3
    //                               plain  in txn   plain  in txn   plain  in txn
    let table: [(Membership, [bool; 6]); 7] = [
        (nobody, [true, true, true, true, false, true]),
        (member("m", -1), [true, true, true, true, false, false]),
        (member("m", 1), [false, false, false, false, false, false]),
        (member("m", 3), [false, false, false, false, false, false]),
        (member("n", 2), [false, false, false, false, false, false]),
        (member("n", 3), [false, false, false, false, true, true]),
        (member("n", 4), [false, false, false, false, false, false]),
    ];
    let none = World::new();
    let mut empty = World::new();
    let left = empty.join("grp", "m");
    let plan = empty.coordinator.leave(&left, 0).expect("it is the member");
    empty.run(plan);
    let mut held = World::new();
    held.log = empty.log.clone();
    held.coordinator = empty.coordinator.clone();
    assert_eq!(held.join("grp", "n").generation, 3);

    let offsets = [commit_of(&at("t", 0), 1)];
    for (who, accepted) in table {
        let worlds = [&none, &empty, &held];
        for (i, accepted) in accepted.into_iter().enumerate() {
            let coordinator = &worlds[i / 2].coordinator;
            let got = match i % 2 {
                0 => coordinator.commit(&who, &offsets, 0),
                _ => coordinator.commit_in(&who, &offsets, 0),
            };
            match got {
                Ok(plan) => assert!(accepted && plan.records.len() == 1, "{who:?} in column {i}"),
                Err(error) => {
                    assert!(!accepted && error.is_fenced(), "{who:?} in column {i}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_newcomer_takes_the_place_of_the_member_before() {
    let mut world = World::new();
    let first = world.join("grp", "m-1");
    assert_eq!(first.generation, 1);
    world.commit(&first, &[commit_of(&at("t", 0), 5)]).expect("it is the member");
    let second = world.join("grp", "m-2");
    assert_eq!(second.generation, 2);
    let refused = world.commit(&first, &[commit_of(&at("t", 0), 9)]).expect_err("expelled");
    assert_eq!(
        refused.to_string(),
        "member \"m-1\", generation 1, of group \"grp\" was fenced: member \"m-2\" took its place"
    );
    assert!(world.coordinator.leave(&first, 0).expect_err("expelled").is_fenced());
    assert_eq!(world.offset("grp", &at("t", 0)), Some(5));
    // The same process again, under the same name: the older generation is fenced all the same.
    let third = world.join("grp", "m-2");
    assert!(world.commit(&second, &[]).expect_err("older").is_fenced());
    world.commit(&third, &[commit_of(&at("t", 0), 9)]).expect("it is the member");
}

#[test]
fn an_opened_folder_has_no_members_and_all_positions() {
    let mut world = World::new();
    let one = world.join("one", "m");
    let two = world.join("two", "m");
    world.commit(&one, &[commit_of(&at("t", 0), 1)]).expect("it is the member");
    let plan = world.coordinator.leave(&two, world.now).expect("it is the member");
    world.run(plan);

    // Away for eight days, and for sixty.
    for days in [8, 60] {
        world.now += days * 86_400_000;
        let plan = world.coordinator.expel_all(world.now);
        let expelled = world.run(plan);
        let expected: &[&str] = if days == 8 { &["one"] } else { &[] };
        assert_eq!(expelled.iter().map(|group| &**group).collect::<Vec<_>>(), expected);
        assert_eq!(world.offset("one", &at("t", 0)), Some(1), "after {days} days");
    }
    assert!(world.commit(&one, &[]).expect_err("it did not survive").is_fenced());
    let again = world.join("one", "m");
    assert_eq!(again.generation, 3, "the generation never comes back");
}

#[test]
fn a_group_tombstone_ends_the_membership_and_keeps_the_positions() {
    let mut world = World::new();
    let member = world.join("grp", "m");
    world.commit(&member, &[commit_of(&at("t", 0), 1)]).expect("it is the member");
    world.take_in(Entry::Record(CoordinatorRecord { key: group_key("grp"), value: None }));
    assert!(world.commit(&member, &[]).expect_err("the group is gone").is_fenced());
    assert_eq!(world.offset("grp", &at("t", 0)), Some(1));
    assert_eq!(world.coordinator.groups()[0].generation, 0);
}

// --- positions -----------------------------------------------------------------------------------

#[test]
fn an_unknown_group_or_partition_has_no_position_and_no_error() {
    let mut world = World::new();
    let nothing = Lookup { commit: None, pending: false };
    assert_eq!(world.coordinator.committed("grp", &at("t", 0)), nothing);
    let member = world.join("grp", "m");
    world.commit(&member, &[commit_of(&at("t", 0), 1)]).expect("it is the member");
    assert_eq!(world.coordinator.committed("grp", &at("t", 1)), nothing);
    assert_eq!(world.coordinator.committed("other", &at("t", 0)), nothing);
    assert_eq!(world.coordinator.positions("other").count(), 0);
}

#[test]
fn a_position_comes_back_as_it_was_given() {
    let mut world = World::new();
    let who = Membership::simple("grp");
    let commits = ["", "x", "ümläut \0 \u{10ffff}", &"m".repeat(4096)].map(|metadata| {
        OffsetCommit { at: at("t", 3), offset: 0, leader_epoch: -1, metadata: metadata.to_owned() }
    });
    for commit in commits {
        world.commit(&who, std::slice::from_ref(&commit)).expect("the group has no member");
        assert_eq!(world.coordinator.committed("grp", &at("t", 3)).commit, Some(commit.clone()));
        assert_eq!(world.coordinator.positions("grp").collect::<Vec<_>>(), [commit]);
    }
}

#[test]
fn what_cannot_be_stored_is_refused_by_name() {
    let coordinator = GroupCoordinator::new();
    let good = commit_of(&at("t", 0), 1);
    let long = "g".repeat(32_768);
    let cases = [
        ("grp", OffsetCommit { metadata: "m".repeat(4097), ..good.clone() }, "4097 bytes"),
        ("grp", OffsetCommit { metadata: "ä".repeat(2049), ..good.clone() }, "4098 bytes"),
        ("grp", OffsetCommit { offset: -1, ..good.clone() }, "offset -1 in t-0"),
        ("grp", OffsetCommit { at: at("t", u32::MAX), ..good.clone() }, "t-4294967295"),
        ("grp", OffsetCommit { at: at("t/u", 0), ..good.clone() }, "\"t/u\""),
        ("", good.clone(), "group id of 0 bytes"),
        (&long, good.clone(), "group id of 32768 bytes"),
    ];
    for (group, commit, what) in cases {
        for offsets in [vec![commit.clone()], vec![good.clone(), commit.clone()]] {
            let error = coordinator
                .commit(&Membership::simple(group), &offsets, 0)
                .expect_err("it cannot be stored");
            assert!(matches!(error, Error::Invalid { .. }));
            assert!(error.to_string().contains(what), "{error} does not name {what}");
        }
    }
    assert!(coordinator.join("", "m", 0).is_err());
    assert!(coordinator.join("grp", "", 0).is_err());
}

#[test]
fn positions_in_a_transaction_are_stored_by_its_commit_only() {
    let mut world = World::new();
    let member = world.join("grp", "m");
    let (a, b) = (at("a", 0), at("b", 0));
    world.commit(&member, &[commit_of(&a, 1)]).expect("it is the member");
    for (end, stored) in [(Abort, Some(1)), (Commit, Some(10))] {
        world.commit_in(7, &member, &[commit_of(&a, 9)]).expect("it is the member");
        // Once more in the same transaction: the later one counts.
        world
            .commit_in(7, &member, &[commit_of(&a, 10), commit_of(&b, 20)])
            .expect("it is the member");
        assert_eq!((world.offset("grp", &a), world.offset("grp", &b)), (Some(1), None));
        assert!(world.pending("grp", &a) && world.pending("grp", &b));
        assert!(!world.pending("other", &a) && !world.pending("grp", &at("a", 1)));
        world.marker(8, Commit); // another producer's
        assert!(world.pending("grp", &a));
        world.marker(7, end);
        assert!(!world.pending("grp", &a) && !world.pending("grp", &b));
        assert_eq!(world.offset("grp", &a), stored, "{end:?}");
        assert_eq!(world.offset("grp", &b), stored.filter(|_| end == Commit).map(|_| 20));
    }
}

/// The last record of a key wins in the order of the log, however the transactions end.
#[test]
fn the_later_record_of_a_key_wins_whichever_transaction_ends_first() {
    type Act = fn(&mut World, &Membership);
    let first: Act = |world, m| world.commit_in(1, m, &[commit_of(&at("t", 0), 10)]).expect("ok");
    let second: Act = |world, m| world.commit_in(2, m, &[commit_of(&at("t", 0), 20)]).expect("ok");
    let outright: Act = |world, m| world.commit(m, &[commit_of(&at("t", 0), 30)]).expect("ok");
    let commit_1: Act = |world, _| world.marker(1, Commit);
    let commit_2: Act = |world, _| world.marker(2, Commit);
    let abort_2: Act = |world, _| world.marker(2, Abort);
    let cases: [(&[Act], i64); 7] = [
        (&[first, second, commit_1, commit_2], 20),
        (&[first, second, commit_2, commit_1], 20),
        (&[second, first, commit_2, commit_1], 10),
        (&[first, second, abort_2, commit_1], 10),
        (&[first, second, commit_1, abort_2], 10),
        (&[first, outright, commit_1], 30),
        (&[outright, first, commit_1], 10),
    ];
    for (i, (acts, expected)) in cases.into_iter().enumerate() {
        let mut world = World::new();
        let member = world.join("grp", "m");
        acts.iter().for_each(|act| act(&mut world, &member));
        assert_eq!(world.offset("grp", &at("t", 0)), Some(expected), "case {i}");
        assert!(!world.pending("grp", &at("t", 0)), "case {i}");
    }
}

#[test]
fn a_deleted_topic_leaves_no_position_behind_not_even_a_pending_one() {
    let mut world = World::new();
    let member = world.join("grp", "m");
    let kept = at("t2", 0);
    world
        .commit(
            &member,
            &[commit_of(&at("t", 0), 1), commit_of(&at("t", 1), 2), commit_of(&kept, 3)],
        )
        .expect("it is the member");
    world
        .commit_in(7, &member, &[commit_of(&at("t", 1), 4), commit_of(&at("t", 2), 5)])
        .expect("it is the member");
    let topics: Vec<String> = world.coordinator.topics().iter().map(ToString::to_string).collect();
    assert_eq!(topics, ["t", "t2"]);

    let plan = world.coordinator.delete_topic("t");
    assert_eq!(plan.records.len(), 3);
    assert!(plan.records.iter().all(|record| record.value.is_none()));
    world.run(plan);
    world.marker(7, Commit);
    for partition in 0..3 {
        assert_eq!(world.offset("grp", &at("t", partition)), None);
    }
    assert_eq!(world.offset("grp", &kept), Some(3));
    assert_eq!(world.coordinator.delete_topic("t").records, []);
}

// --- any order of commands -----------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Join(u8),
    Leave,
    ExpelAll,
    Commit(u8, u8, i64),
    CommitIn(i64, u8, u8, i64),
    Marker(i64, TransactionEnd),
    DeleteTopic(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let producer = 1..4_i64;
    prop_oneof![
        2 => (0..2_u8).prop_map(Step::Join),
        1 => Just(Step::Leave),
        1 => Just(Step::ExpelAll),
        4 => (0..2_u8, 0..3_u8, 0..100_i64).prop_map(|(g, t, o)| Step::Commit(g, t, o)),
        6 => (producer.clone(), 0..2_u8, 0..3_u8, 0..100_i64)
            .prop_map(|(p, g, t, o)| Step::CommitIn(p, g, t, o)),
        4 => (producer, prop_oneof![Just(Commit), Just(Abort)])
            .prop_map(|(p, end)| Step::Marker(p, end)),
        1 => (0..3_u8).prop_map(Step::DeleteTopic),
    ]
}

fn act(world: &mut World, members: &mut BTreeMap<u8, Membership>, step: &Step) {
    let group = |g: u8| format!("g{g}");
    let topic = |t: u8| at(["a", "b", "c"][usize::from(t)], 0);
    let who = |members: &BTreeMap<u8, Membership>, g: u8| {
        members.get(&g).cloned().unwrap_or_else(|| Membership::simple(group(g)))
    };
    match *step {
        Step::Join(g) => {
            let joined = world.join(&group(g), "m");
            if let Some(former) = members.insert(g, joined) {
                let fenced = world.coordinator.commit(&former, &[], 0).expect_err("expelled");
                assert!(fenced.is_fenced());
            }
        }
        Step::Leave => {
            if let Some((_, member)) = members.pop_first() {
                let plan = world.coordinator.leave(&member, world.now).expect("the member");
                world.run(plan);
            }
        }
        Step::ExpelAll => {
            let plan = world.coordinator.expel_all(world.now);
            assert_eq!(world.run(plan).len(), members.len());
            members.clear();
        }
        Step::Commit(g, t, offset) => {
            world.commit(&who(members, g), &[commit_of(&topic(t), offset)]).expect("admitted");
            assert_eq!(world.offset(&group(g), &topic(t)), Some(offset));
        }
        Step::CommitIn(producer, g, t, offset) => {
            let before = world.offset(&group(g), &topic(t));
            world
                .commit_in(producer, &who(members, g), &[commit_of(&topic(t), offset)])
                .expect("admitted");
            assert_eq!(world.offset(&group(g), &topic(t)), before);
            assert!(world.pending(&group(g), &topic(t)));
        }
        Step::Marker(producer, end) => world.marker(producer, end),
        Step::DeleteTopic(t) => {
            let plan = world.coordinator.delete_topic(&topic(t).topic);
            world.run(plan);
            assert!(!world.coordinator.topics().contains(&topic(t).topic));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_commands_keep_replay_equal(steps in prop::collection::vec(step(), 1..50)) {
        let mut world = World::new();
        let mut members = BTreeMap::new();
        for step in &steps {
            act(&mut world, &mut members, step);
        }
        // Whatever was open ends: then the compacted log is compared too.
        for producer in 1..4 {
            world.marker(producer, Abort);
        }
        prop_assert!(compacted(&world.log).is_some());
    }

    #[test]
    fn any_bytes_are_read_or_refused_and_never_panic(
        kind in 0..4_u8,
        key in prop_oneof![
            Just(b"\0\x01g\0\x01t\0\0\0\0".to_vec()),
            Just(b"\0\x01g".to_vec()),
            prop::collection::vec(any::<u8>(), 0..40),
        ],
        version in 0..6_u8,
        value in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let key = [vec![0, kind], key].concat();
        let value = [vec![0, version], value].concat();
        for pending in [false, true] {
            let mut coordinator = GroupCoordinator::new();
            let read = match pending {
                false => coordinator.replay(&key, Some(&value)),
                true => coordinator.replay_pending(1, &key, Some(&value)),
            };
            if read.is_err() {
                prop_assert_eq!(coordinator, GroupCoordinator::new());
            }
        }
    }

    /// Bytes near to legal ones get further into the reader than random ones.
    #[test]
    fn damaged_records_are_read_or_refused_and_never_panic(
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        length in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        let member = world.join("grp", "m");
        world.commit(&member, &[commit_of(&at("t", 0), 1)]).expect("it is the member");
        for entry in &world.log {
            let Entry::Record(CoordinatorRecord { key, value: Some(value) }) = entry else {
                panic!("nothing else was written")
            };
            let mut damaged = value.to_vec();
            damaged[place.index(value.len())] = byte;
            for bytes in [&damaged[..], &value[..length.index(value.len())]] {
                let mut coordinator = GroupCoordinator::new();
                if coordinator.replay(key, Some(bytes)).is_err() {
                    prop_assert_eq!(coordinator, GroupCoordinator::new());
                }
            }
        }
    }
}
