//! What the transaction coordinator promises, tried on it as a pure value: commands, records, replay.
//!
//! Every command that is carried out rebuilds a second coordinator from all records so far, and a
//! third one from what compaction would keep of them, and demands that all three are equal.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use thalweg_core::client::log::TransactionEnd::{self, Abort, Commit};
use thalweg_core::coordinator::transaction::{
    EndPlan, Init, PartitionTail, Prepared, TransactionCoordinator, TransactionState, Undecided,
};
use thalweg_core::coordinator::{CoordinatorRecord, Plan};
use thalweg_core::error::Error;
use thalweg_core::ids::{ProducerIdentity, TopicPartition};

const TIMEOUT_MS: i32 = 60_000;
const TIMEOUT_MS_MAX: i32 = 900_000;

/// A coordinator with its partition.
struct World {
    coordinator: TransactionCoordinator,
    log: Vec<CoordinatorRecord>,
    fresh_pid: i64,
    now: i64,
}

impl World {
    fn new() -> Self {
        Self {
            coordinator: TransactionCoordinator::new(TIMEOUT_MS_MAX),
            log: Vec::new(),
            fresh_pid: 1000,
            now: 1_000_000,
        }
    }

    /// Appends and replays.
    fn run<R>(&mut self, plan: Plan<R>) -> R {
        for record in plan.records {
            self.coordinator
                .replay(&record.key, record.value.as_deref())
                .expect("the coordinator reads its own records");
            self.log.push(record);
        }
        assert_eq!(self.coordinator, rebuilt(&self.log));
        assert_eq!(self.coordinator, rebuilt(&compacted(&self.log)));
        self.now += 10;
        plan.reply
    }

    fn init(&mut self, id: &str) -> Init {
        self.fresh_pid += 1;
        let plan = self
            .coordinator
            .init_producer(id, TIMEOUT_MS, self.fresh_pid, self.now)
            .expect("a good id and timeout");
        self.run(plan)
    }

    /// An identity, as the engine comes by it: everything unfinished is finished first.
    fn ready(&mut self, id: &str) -> ProducerIdentity {
        loop {
            match self.init(id) {
                Init::Ready(identity) => return identity,
                Init::EndFirst(_) | Init::Finishing(_) => {
                    self.complete(id);
                }
            }
        }
    }

    fn add(&mut self, id: &str, identity: ProducerIdentity, topic: &str) {
        let at = [TopicPartition::new(topic, 0)];
        let plan = self
            .coordinator
            .add_partitions(id, identity, &at, self.now)
            .expect("the owner may add");
        self.run(plan);
    }

    fn prepare(
        &mut self,
        id: &str,
        identity: ProducerIdentity,
        end: TransactionEnd,
    ) -> Result<Prepared, Error> {
        self.fresh_pid += 1;
        let plan = self.coordinator.prepare(id, identity, end, vec![], self.fresh_pid, self.now)?;
        Ok(self.run(plan))
    }

    fn decide(&mut self, id: &str, identity: ProducerIdentity, end: TransactionEnd) -> EndPlan {
        match self.prepare(id, identity, end).expect("the owner may end it") {
            Prepared::Decided(plan) => plan,
            Prepared::AlreadyDone(next) => panic!("decided before, next is {next:?}"),
        }
    }

    fn complete(&mut self, id: &str) -> ProducerIdentity {
        let plan = self.coordinator.complete(id, self.now).expect("it was decided");
        self.run(plan)
    }

    /// One whole transaction.
    fn transact(&mut self, id: &str, identity: ProducerIdentity) -> ProducerIdentity {
        self.add(id, identity, "t");
        self.decide(id, identity, Commit);
        self.complete(id)
    }

    /// Puts an id into the world whose producer stands at `identity`, Empty.
    fn seed(&mut self, id: &str, identity: ProducerIdentity) {
        let value = Value { identity, ..Value::default() };
        let record = CoordinatorRecord { key: key(id), value: Some(value.v1(&[])) };
        self.run(Plan { records: vec![record], reply: () });
    }

    fn state(&self, id: &str) -> TransactionState {
        self.coordinator.describe(id).expect("known").state
    }
}

fn rebuilt(log: &[CoordinatorRecord]) -> TransactionCoordinator {
    let mut coordinator = TransactionCoordinator::new(TIMEOUT_MS_MAX);
    for record in log {
        coordinator.replay(&record.key, record.value.as_deref()).expect("replayed before");
    }
    coordinator
}

/// The last record of each key, in order.
fn compacted(log: &[CoordinatorRecord]) -> Vec<CoordinatorRecord> {
    let last: BTreeMap<&Bytes, usize> =
        log.iter().enumerate().map(|(i, record)| (&record.key, i)).collect();
    let mut kept: Vec<usize> = last.into_values().collect();
    kept.sort_unstable();
    kept.into_iter().map(|i| log[i].clone()).collect()
}

fn identity(id: i64, epoch: i16) -> ProducerIdentity {
    ProducerIdentity { id, epoch }
}

// --- bytes, written down a second time by hand ---------------------------------------------------

fn key(id: &str) -> Bytes {
    let mut key = vec![0, 0];
    key.extend(i16::try_from(id.len()).expect("short").to_be_bytes());
    key.extend(id.as_bytes());
    key.into()
}

/// The fields of a value, with helpers for the two layouts. Lengths below are single bytes because
/// everything is short.
struct Value {
    identity: ProducerIdentity,
    timeout_ms: i32,
    state: u8,
    partitions: Option<Vec<(&'static str, Vec<i32>)>>,
    updated: i64,
    started: i64,
}

impl Default for Value {
    fn default() -> Self {
        Self {
            identity: identity(7, 3),
            timeout_ms: TIMEOUT_MS,
            state: 0,
            partitions: None,
            updated: 1111,
            started: -1,
        }
    }
}

impl Value {
    fn v0(&self) -> Bytes {
        let mut out = vec![0, 0];
        self.head(&mut out);
        match &self.partitions {
            None => out.extend([0xff; 4]),
            Some(topics) => {
                out.extend([0, 0, 0, topics.len() as u8]);
                for (topic, partitions) in topics {
                    out.extend([0, topic.len() as u8]);
                    out.extend(topic.as_bytes());
                    out.extend([0, 0, 0, partitions.len() as u8]);
                    partitions.iter().for_each(|p| out.extend(p.to_be_bytes()));
                }
            }
        }
        self.times(&mut out);
        out.into()
    }

    fn v1(&self, tags: &[(&[u8], &[u8])]) -> Bytes {
        let mut out = vec![0, 1];
        self.head(&mut out);
        match &self.partitions {
            None => out.push(0),
            Some(topics) => {
                out.push(topics.len() as u8 + 1);
                for (topic, partitions) in topics {
                    out.push(topic.len() as u8 + 1);
                    out.extend(topic.as_bytes());
                    out.push(partitions.len() as u8 + 1);
                    partitions.iter().for_each(|p| out.extend(p.to_be_bytes()));
                    out.push(0);
                }
            }
        }
        self.times(&mut out);
        out.push(tags.len() as u8);
        for (tag, bytes) in tags {
            out.extend(*tag);
            out.push(bytes.len() as u8);
            out.extend(*bytes);
        }
        out.into()
    }

    fn head(&self, out: &mut Vec<u8>) {
        out.extend(self.identity.id.to_be_bytes());
        out.extend(self.identity.epoch.to_be_bytes());
        out.extend(self.timeout_ms.to_be_bytes());
        out.push(self.state);
    }

    fn times(&self, out: &mut Vec<u8>) {
        out.extend(self.updated.to_be_bytes());
        out.extend(self.started.to_be_bytes());
    }
}

#[test]
fn records_are_kafkas_version_1_with_our_tag_after_kafkas() {
    let mut world = World::new();
    world.now = 100;
    let plan =
        world.coordinator.init_producer("tx", TIMEOUT_MS, 7, world.now).expect("a good request");
    let empty = Value { identity: identity(7, 0), updated: 100, ..Value::default() };
    assert_eq!(
        plan.records,
        [CoordinatorRecord {
            key: key("tx"),
            value: Some(empty.v1(&[(&[0], &7_i64.to_be_bytes())])),
        }]
    );
    world.run(plan);

    // Sorted by topic and partition, each topic once.
    let at = [("b", 2), ("a", 1), ("b", 0)].map(|(t, p)| TopicPartition::new(t, p));
    let plan = world
        .coordinator
        .add_partitions("tx", identity(7, 0), &at, 200)
        .expect("the owner may add");
    let ongoing = Value {
        identity: identity(7, 0),
        state: 1,
        partitions: Some(vec![("a", vec![1]), ("b", vec![0, 2])]),
        updated: 200,
        started: 200,
        ..Value::default()
    };
    let kafka_tags: [(&[u8], &[u8]); 2] = [(&[0], &7_i64.to_be_bytes()), (&[2], &[0, 2])];
    assert_eq!(plan.records[0].value, Some(ongoing.v1(&kafka_tags)));
    world.run(plan);

    let tails = vec![PartitionTail { at: at[0].clone(), last_offset: 41, crc: 0xdead_beef }];
    let plan = world
        .coordinator
        .prepare("tx", identity(7, 0), Commit, tails, 8, 300)
        .expect("the owner may commit");
    let prepared = Value { identity: identity(7, 1), state: 2, updated: 300, ..ongoing };
    // 29800 as a varint: 0x68, 0x68 + continuation bits, 0x01.
    let ours: &[u8] = &[
        2, // one tail
        2, b'b', // topic
        0, 0, 0, 2, // partition
        0, 0, 0, 0, 0, 0, 0, 41, // last offset
        0xde, 0xad, 0xbe, 0xef, // CRC
        0,    // no tags
    ];
    let tags = [kafka_tags[0], kafka_tags[1], (&[0xe8, 0xe8, 0x01], ours)];
    assert_eq!(plan.records[0].value, Some(prepared.v1(&tags)));
    world.run(plan);

    let plan = world.coordinator.complete("tx", 400).expect("it was decided");
    let complete =
        Value { state: 4, partitions: Some(vec![]), updated: 400, started: 200, ..prepared };
    assert_eq!(plan.records[0].value, Some(complete.v1(&kafka_tags)));
    world.run(plan);

    // The last epoch: the next producer id waits in tag 1.
    world.seed("last", identity(9, 32_766));
    let plan = world
        .coordinator
        .prepare("last", identity(9, 32_766), Abort, vec![], 10, 500)
        .expect("an abort of nothing");
    let rotating = Value {
        identity: identity(9, 32_767),
        state: 3,
        partitions: Some(vec![]),
        updated: 500,
        started: 500,
        ..Value::default()
    };
    let nine: &[u8] = &9_i64.to_be_bytes();
    let tags: [(&[u8], &[u8]); 3] = [(&[0], nine), (&[1], &10_i64.to_be_bytes()), (&[2], &[0, 2])];
    assert_eq!(plan.records[0].value, Some(rotating.v1(&tags)));
    world.run(plan);

    // Complete switches to it, and the transaction after that forgets the old one.
    let plan = world.coordinator.complete("last", 600).expect("it was decided");
    let rotated = Value { identity: identity(10, 0), state: 5, updated: 600, ..rotating };
    assert_eq!(plan.records[0].value, Some(rotated.v1(&[(&[0], nine), (&[2], &[0, 2])])));
    world.run(plan);
    let plan = world
        .coordinator
        .add_partitions("last", identity(10, 0), &at[..1], 700)
        .expect("the owner may add");
    let next = Value {
        state: 1,
        partitions: Some(vec![("b", vec![2])]),
        updated: 700,
        started: 700,
        ..rotated
    };
    let tags: [(&[u8], &[u8]); 2] = [(&[0], &10_i64.to_be_bytes()), (&[2], &[0, 2])];
    assert_eq!(plan.records[0].value, Some(next.v1(&tags)));
}

#[test]
fn both_versions_are_read_and_foreign_tags_are_passed_over() {
    let ongoing = Value {
        state: 1,
        partitions: Some(vec![("x", vec![4, 5]), ("y", vec![0])]),
        started: 1000,
        ..Value::default()
    };
    // Tags as Kafka may add them: one between ours and the known ones, one above.
    let foreign: [(&[u8], &[u8]); 4] =
        [(&[0], &6_i64.to_be_bytes()), (&[2], &[0, 2]), (&[3], &[0, 9]), (&[0xff, 0x7f], b"new")];
    for (value, previous_id, client_version) in
        [(ongoing.v0(), -1, 0), (ongoing.v1(&[]), -1, 0), (ongoing.v1(&foreign), 6, 2)]
    {
        let mut coordinator = TransactionCoordinator::new(TIMEOUT_MS_MAX);
        coordinator.replay(&key("tx"), Some(&value)).expect("legal bytes");
        let read = coordinator.describe("tx").expect("read");
        assert_eq!(read.producer, identity(7, 3));
        assert_eq!((read.previous_id, read.next_id), (previous_id, -1));
        assert_eq!(read.client_version, client_version);
        assert_eq!(read.timeout_ms, TIMEOUT_MS);
        assert_eq!(read.state, TransactionState::Ongoing);
        assert_eq!((read.started, read.updated), (1000, 1111));
        let at: Vec<String> = read.partitions.iter().map(ToString::to_string).collect();
        assert_eq!(at, ["x-4", "x-5", "y-0"]);
        assert_eq!(read.tails, []);
        assert_eq!(coordinator.skipped(), 0);
    }
    let empty = Value::default().v0();
    let mut coordinator = TransactionCoordinator::new(TIMEOUT_MS_MAX);
    coordinator.replay(&key("tx"), Some(&empty)).expect("legal bytes");
    assert_eq!(coordinator.describe("tx").expect("read").state, TransactionState::Empty);
}

#[test]
fn a_tombstone_or_a_dead_record_removes_the_id() {
    let dead = Value { state: 6, ..Value::default() }.v1(&[]);
    for end in [None, Some(&*dead)] {
        let mut coordinator = TransactionCoordinator::new(TIMEOUT_MS_MAX);
        coordinator.replay(&key("tx"), Some(&Value::default().v1(&[]))).expect("legal bytes");
        coordinator.replay(&key("tx"), end).expect("legal bytes");
        assert_eq!(coordinator, TransactionCoordinator::new(TIMEOUT_MS_MAX));
    }
}

#[test]
fn records_of_unknown_type_or_version_are_counted_and_change_nothing() {
    let mut coordinator = TransactionCoordinator::new(TIMEOUT_MS_MAX);
    coordinator.replay(&key("tx"), Some(&Value::default().v1(&[]))).expect("legal bytes");
    let before = coordinator.describe("tx").cloned();
    let mut newer = Value::default().v1(&[]).to_vec();
    newer[1] = 2;
    let cases: [(&[u8], Option<&[u8]>); 4] = [
        (&[0, 1, 0, 1, b'x'], Some(b"whatever")),
        (&[0x7f, 0xff], None),
        (&key("tx"), Some(&newer)),
        (&key("tx"), Some(&[0xff, 0xff])),
    ];
    for (i, (key, value)) in cases.into_iter().enumerate() {
        coordinator.replay(key, value).expect("unknown is not malformed");
        assert_eq!(coordinator.skipped(), i as u64 + 1);
        assert_eq!(coordinator.describe("tx").cloned(), before);
    }
}

#[test]
fn malformed_records_name_the_place_and_change_nothing() {
    let good = Value { state: 1, partitions: Some(vec![("x", vec![1])]), ..Value::default() };
    let with = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.v1(&[]).to_vec();
        change(&mut bytes);
        bytes
    };
    // Offsets: 2 version, 8 id, 2 epoch, 4 timeout, 1 state at 16, topics at 17, length at 18.
    let cases: [(&str, Vec<u8>, Vec<u8>); 10] = [
        ("key type needs 2 bytes", vec![0], with(|_| {})),
        ("transactional id needs 9 bytes", vec![0, 0, 0, 9, b'x'], with(|_| {})),
        ("not UTF-8", vec![0, 0, 0, 1, 0xff], with(|_| {})),
        ("bytes too many", vec![0, 0, 0, 1, b'x', 0], with(|_| {})),
        ("version needs 2 bytes", key("x").to_vec(), vec![0]),
        ("state 7", key("x").to_vec(), with(|b| b[16] = 7)),
        ("topics cannot be in", key("x").to_vec(), with(|b| b[17] = 0x7f)),
        ("use 1 to 249 characters", key("x").to_vec(), with(|b| b[19] = b'/')),
        ("partition -1", key("x").to_vec(), with(|b| b[21..25].fill(0xff))),
        ("bytes too many", key("x").to_vec(), with(|b| b.push(0))),
    ];
    let mut coordinator = TransactionCoordinator::new(TIMEOUT_MS_MAX);
    for (what, key, value) in cases {
        let error = coordinator.replay(&key, Some(&value)).expect_err(what);
        assert!(error.to_string().contains(what), "{error} does not say {what:?}");
        assert_eq!(coordinator, TransactionCoordinator::new(TIMEOUT_MS_MAX));
    }
}

// --- the table of ends ---------------------------------------------------------------------------

/// How an end was answered.
#[derive(PartialEq, Debug)]
enum Answer {
    Decided { partitions: usize },
    AlreadyDone,
    Fenced,
    Invalid,
    Retry,
    Abortable,
}

fn answer(result: Result<Prepared, Error>) -> Answer {
    match result {
        Ok(Prepared::Decided(plan)) => Answer::Decided { partitions: plan.partitions.len() },
        Ok(Prepared::AlreadyDone(_)) => Answer::AlreadyDone,
        Err(Error::Fenced { .. }) => Answer::Fenced,
        Err(Error::Invalid { .. }) => Answer::Invalid,
        Err(Error::Retry { .. }) => Answer::Retry,
        Err(Error::Abortable { .. }) => Answer::Abortable,
        Err(other) => panic!("{other}"),
    }
}

/// An id brought into `state`, with its stored identity at least at epoch 1.
fn in_state(state: TransactionState) -> (World, ProducerIdentity) {
    let mut world = World::new();
    world.ready("tx");
    let first = world.ready("tx");
    match state {
        TransactionState::Empty => {}
        TransactionState::Ongoing => world.add("tx", first, "t"),
        TransactionState::PrepareCommit | TransactionState::CompleteCommit => {
            world.add("tx", first, "t");
            world.decide("tx", first, Commit);
        }
        TransactionState::PrepareAbort | TransactionState::CompleteAbort => {
            world.add("tx", first, "t");
            world.decide("tx", first, Abort);
        }
    }
    if matches!(state, TransactionState::CompleteCommit | TransactionState::CompleteAbort) {
        world.complete("tx");
    }
    assert_eq!(world.state("tx"), state);
    let stored = world.coordinator.describe("tx").expect("known").producer;
    (world, stored)
}

/// Kafka's table for transaction version 2. "Retry" is the epoch below the stored one. Two columns
/// differ from Kafka in how they are told, see the head of the coordinator's file: `Retry` where a
/// pending transition would answer first, `Abortable` where the coordinator aborted.
#[test]
fn every_end_in_every_state_is_answered_as_the_table_says() {
    use TransactionState::*;
    let none = || Answer::Decided { partitions: 0 };
    let one = || Answer::Decided { partitions: 1 };
    //  state           commit again          commit           abort again          abort
    let table = [
        (Empty, [Answer::Fenced, Answer::Invalid, Answer::Fenced, none()]),
        (Ongoing, [Answer::Fenced, one(), Answer::Fenced, one()]),
        (PrepareCommit, [Answer::Retry, Answer::Retry, Answer::Invalid, Answer::Retry]),
        (PrepareAbort, [Answer::Abortable, Answer::Retry, Answer::Retry, Answer::Retry]),
        (CompleteCommit, [Answer::AlreadyDone, Answer::Invalid, Answer::Invalid, none()]),
        (CompleteAbort, [Answer::Abortable, Answer::Invalid, Answer::AlreadyDone, none()]),
    ];
    for (state, answers) in table {
        let columns = [(-1, Commit), (0, Commit), (-1, Abort), (0, Abort)];
        for ((back, end), expected) in columns.into_iter().zip(answers) {
            let (mut world, stored) = in_state(state);
            let asked = identity(stored.id, stored.epoch + back);
            let records = world.log.len();
            let got = answer(world.prepare("tx", asked, end));
            assert_eq!(got, expected, "{state:?} {end:?} {back}");
            let written = usize::from(matches!(got, Answer::Decided { .. }));
            assert_eq!(world.log.len() - records, written, "{state:?} {end:?} {back}");
        }
        // Nobody else is heard: another producer id, an epoch too new, one too old.
        for (id, epoch) in [(-1, 0), (0, 1), (0, -2)] {
            for end in [Commit, Abort] {
                let (mut world, stored) = in_state(state);
                let asked = identity(stored.id + id, stored.epoch + epoch);
                assert_eq!(answer(world.prepare("tx", asked, end)), Answer::Fenced, "{state:?}");
            }
        }
    }
}

#[test]
fn an_end_gives_the_identities_of_markers_and_of_the_next_transaction() {
    let (mut world, stored) = in_state(TransactionState::Ongoing);
    let plan = world.decide("tx", stored, Commit);
    let bumped = identity(stored.id, stored.epoch + 1);
    assert_eq!(
        plan,
        EndPlan {
            id: "tx".into(),
            end: Commit,
            marker: bumped,
            partitions: vec![TopicPartition::new("t", 0)],
            tails: vec![],
            next: bumped,
            raises: true,
        }
    );
    assert_eq!(world.complete("tx"), bumped);
    // Again, as after a marker that was written twice: nothing to append.
    let records = world.log.len();
    assert_eq!(world.complete("tx"), bumped);
    assert_eq!(world.log.len(), records);
}

/// What a lost marker said is known of an id's last transaction, until the next one begins, and not of
/// clients that keep their epoch from one transaction to the next.
#[test]
fn how_the_last_transaction_ended_is_known_by_its_identity() {
    for end in [Commit, Abort] {
        let (mut world, data) = in_state(TransactionState::Ongoing);
        assert_eq!(world.coordinator.ended(data), None);
        let plan = world.decide("tx", data, end);
        assert_eq!(world.coordinator.ended(data), None, "its markers are under way");
        world.complete("tx");
        assert_eq!(world.coordinator.ended(data), Some(end));
        assert_eq!(world.coordinator.ended(identity(data.id, data.epoch + 1)), None);
        assert_eq!(world.coordinator.ended(identity(data.id, data.epoch - 1)), None);
        assert_eq!(world.coordinator.ended(identity(data.id + 1, data.epoch)), None);
        world.add("tx", plan.next, "t");
        assert_eq!(world.coordinator.ended(data), None);
    }
    // CompleteCommit of producer 7 epoch 3: (tag 0) its markers' id, (tag 2) how its client ends.
    let value = Value { state: 4, ..Value::default() };
    for (version, known) in [(1, None), (2, Some(Commit))] {
        let tags: [(&[u8], &[u8]); 2] = [(&[0], &7_i64.to_be_bytes()), (&[2], &[0, version])];
        let mut coordinator = TransactionCoordinator::new(TIMEOUT_MS_MAX);
        coordinator.replay(&key("tx"), Some(&value.v1(&tags))).expect("legal bytes");
        assert_eq!(coordinator.ended(identity(7, 2)), known, "version {version}");
    }
}

#[test]
fn a_repeated_end_gets_the_first_answer_until_the_next_transaction_begins() {
    for end in [Commit, Abort] {
        let (mut world, data) = in_state(TransactionState::Ongoing);
        let plan = world.decide("tx", data, end);
        assert_eq!(answer(world.prepare("tx", data, end)), Answer::Retry);
        world.complete("tx");
        for _ in 0..3 {
            let again = world.prepare("tx", data, end).expect("a repeated call");
            assert_eq!(again, Prepared::AlreadyDone(plan.next));
        }
        world.add("tx", plan.next, "t");
        assert_eq!(answer(world.prepare("tx", data, end)), Answer::Fenced);
    }
}

#[test]
fn a_repeated_end_is_recognised_across_the_change_of_the_producer_id() {
    for end in [Commit, Abort] {
        let mut world = World::new();
        let last = identity(7, 32_766);
        world.seed("tx", last);
        world.add("tx", last, "t");
        let plan = world.decide("tx", last, end);
        assert_eq!(plan.marker, identity(7, 32_767));
        assert_eq!(plan.next, identity(world.fresh_pid, 0));

        // While markers are under way: the old identity repeats, the new one waits.
        assert_eq!(answer(world.prepare("tx", last, end)), Answer::Retry);
        assert_eq!(answer(world.prepare("tx", plan.next, Abort)), Answer::Retry);
        // The markers' identity is nobody's.
        assert_eq!(answer(world.prepare("tx", plan.marker, Abort)), Answer::Fenced);
        let add = world.coordinator.add_partitions("tx", plan.next, &[], world.now);
        assert!(matches!(add, Err(Error::Retry { .. })));

        assert_eq!(world.complete("tx"), plan.next);
        let again = world.prepare("tx", last, end).expect("a repeated call");
        assert_eq!(again, Prepared::AlreadyDone(plan.next));
        world.add("tx", plan.next, "t");
        assert_eq!(answer(world.prepare("tx", last, end)), Answer::Fenced);
    }
}

// --- epochs --------------------------------------------------------------------------------------

/// From 32760, by each way a transaction can end: the epochs rise by one until 32766, then a new
/// producer id begins at 0. The client never sees 32767, the markers always carry the data's epoch
/// + 1 under the data's producer id.
#[test]
fn a_new_producer_id_comes_before_the_epochs_run_out() {
    type End = fn(&mut World, ProducerIdentity) -> EndPlan;
    let ways: [(&str, End); 3] = [
        ("commit", |world, data| world.decide("tx", data, Commit)),
        ("abort", |world, data| world.decide("tx", data, Abort)),
        ("timeout", |world, _| {
            world.now += i64::from(TIMEOUT_MS) + 1;
            assert_eq!(world.coordinator.expired(world.now), ["tx".into()]);
            world.fresh_pid += 1;
            let plan = world
                .coordinator
                .abort_ongoing("tx", world.fresh_pid, world.now)
                .expect("it is open");
            world.run(plan)
        }),
    ];
    for (way, end) in ways {
        let mut world = World::new();
        let mut data = identity(7, 32_760);
        world.seed("tx", data);
        let mut seen = Vec::new();
        for _ in 0..12 {
            seen.push(data.epoch);
            world.add("tx", data, "t");
            let plan = end(&mut world, data);
            assert_eq!(plan.marker, identity(data.id, data.epoch + 1), "{way}");
            data = world.complete("tx");
            assert_eq!(data, plan.next, "{way}");
        }
        let wanted: Vec<i16> = (32_760..=32_766).chain(0..5).collect();
        assert_eq!(seen, wanted, "{way}");
        assert!(data.id > 1000, "{way}: {data:?}");
    }
}

/// KAFKA-19367, KAFKA-20090: a successor that finds an open transaction bumps once for the abort and
/// once for itself, and rotates the id on that path too.
#[test]
fn a_successor_of_an_open_transaction_bumps_once_for_it_and_once_for_itself() {
    for epoch in 32_760..=32_766 {
        let mut world = World::new();
        let data = identity(7, epoch);
        world.seed("tx", data);
        world.add("tx", data, "t");
        let Init::EndFirst(plan) = world.init("tx") else { panic!("the transaction is open") };
        assert_eq!((plan.end, plan.marker), (Abort, identity(7, epoch + 1)));
        assert_eq!(plan.partitions, [TopicPartition::new("t", 0)]);
        let Init::Finishing(again) = world.init("tx") else { panic!("markers are under way") };
        assert_eq!(again, plan);
        world.complete("tx");
        let Init::Ready(successor) = world.init("tx") else { panic!("nothing is open") };
        match epoch {
            ..=32_764 => assert_eq!(successor, identity(7, epoch + 2)),
            // The abort used 32766, which is exhausted for the successor.
            32_765 => assert_eq!(successor.epoch, 0),
            // The abort rotated already.
            _ => assert_eq!(successor, identity(plan.next.id, 1)),
        }
        assert!(successor.epoch < 32_767);
        assert_eq!(answer(world.prepare("tx", data, Commit)), Answer::Fenced, "{epoch}");
        assert_eq!(answer(world.prepare("tx", data, Abort)), Answer::Fenced, "{epoch}");
    }
}

#[test]
fn each_init_raises_the_epoch_and_fences_the_former_producer() {
    let mut world = World::new();
    let first = world.ready("tx");
    assert_eq!(first.epoch, 0);
    let second = world.ready("tx");
    assert_eq!(second, identity(first.id, 1));
    let add =
        world.coordinator.add_partitions("tx", first, &[TopicPartition::new("t", 0)], world.now);
    assert!(matches!(add, Err(Error::Fenced { .. })), "{add:?}");

    // At the last epoch a new producer id, and nothing of the old one is left to use.
    world.seed("tx", identity(7, 32_766));
    let rotated = world.ready("tx");
    assert_eq!(rotated, identity(world.fresh_pid, 0));
    assert_eq!(answer(world.prepare("tx", identity(7, 32_766), Abort)), Answer::Fenced);
}

/// KAFKA-9666: a record that was not written must not count.
#[test]
fn a_command_whose_records_are_not_appended_has_not_happened() {
    let (world, stored) = in_state(TransactionState::Ongoing);
    let before = world.coordinator.clone();
    for _ in 0..3 {
        let plan =
            world.coordinator.init_producer("tx", TIMEOUT_MS, 5000, world.now).expect("legal");
        let Init::EndFirst(end) = plan.reply else { panic!("the transaction is open") };
        assert_eq!(end.marker.epoch, stored.epoch + 1);
    }
    assert_eq!(world.coordinator, before);
}

#[test]
fn ids_and_timeouts_out_of_range_are_refused() {
    let coordinator = TransactionCoordinator::new(TIMEOUT_MS_MAX);
    let long = "x".repeat(32_768);
    let cases = [("", 1), (&*long, 1), ("tx", 0), ("tx", -1), ("tx", TIMEOUT_MS_MAX + 1)];
    for (id, timeout_ms) in cases {
        let refused = coordinator.init_producer(id, timeout_ms, 1, 0);
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{} {timeout_ms}", id.len());
    }
    for (id, timeout_ms) in [("t", 1), (&long[1..], TIMEOUT_MS_MAX)] {
        assert!(coordinator.init_producer(id, timeout_ms, 1, 0).is_ok());
    }
}

// --- joining -------------------------------------------------------------------------------------

/// TXN-11: first the id, then the identity, then what is under way.
#[test]
fn partitions_join_in_the_owners_name_only_and_only_after_complete() {
    use TransactionState::*;
    let at = [TopicPartition::new("new", 0)];
    for state in [Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit, CompleteAbort] {
        let (world, stored) = in_state(state);
        let add = |id, who| world.coordinator.add_partitions(id, who, &at, world.now).map(|_| ());
        assert!(matches!(add("nobody", stored), Err(Error::Unknown { .. })), "{state:?}");
        for (id, epoch) in [(1, 0), (0, -1), (0, 1)] {
            let other = identity(stored.id + id, stored.epoch + epoch);
            assert!(matches!(add("tx", other), Err(Error::Fenced { .. })), "{state:?} {other:?}");
        }
        match state {
            PrepareCommit | PrepareAbort => {
                assert!(matches!(add("tx", stored), Err(Error::Retry { .. })), "{state:?}");
            }
            _ => add("tx", stored).expect("the owner may add"),
        }
    }
}

#[test]
fn a_partition_that_joined_already_needs_no_record() {
    let (mut world, owner) = in_state(TransactionState::Ongoing);
    let started = world.coordinator.describe("tx").expect("known").started;
    let records = world.log.len();
    world.add("tx", owner, "t");
    assert_eq!(world.log.len(), records);
    world.add("tx", owner, "u");
    assert_eq!(world.log.len(), records + 1);
    let now = world.coordinator.describe("tx").expect("known");
    assert_eq!(now.started, started, "a transaction begins once");
    assert_eq!(now.partitions.len(), 2);
    let joined = [TopicPartition::new("t", 0), TopicPartition::new("u", 0)];
    assert_eq!(world.coordinator.open_partitions("tx", owner), joined);
    // Not for a former owner, and not once it is decided.
    let former = identity(owner.id, owner.epoch - 1);
    assert_eq!(world.coordinator.open_partitions("tx", former), []);
    world.decide("tx", owner, Commit);
    assert_eq!(world.coordinator.open_partitions("tx", owner), []);
}

#[test]
fn a_commit_names_only_partitions_of_its_transaction() {
    let (world, owner) = in_state(TransactionState::Ongoing);
    let tail = |topic| PartitionTail { at: TopicPartition::new(topic, 0), last_offset: 1, crc: 2 };
    let prepare =
        |tails| world.coordinator.prepare("tx", owner, Commit, tails, 5000, world.now).map(|_| ());
    assert!(matches!(prepare(vec![tail("other")]), Err(Error::Invalid { .. })));
    prepare(vec![tail("t")]).expect("it is in the transaction");
}

// --- opening a folder ----------------------------------------------------------------------------

#[test]
fn an_opened_folder_finds_all_that_is_undecided_and_brings_it_to_an_end() {
    let mut world = World::new();
    let owners: BTreeMap<&str, ProducerIdentity> =
        ["done", "idle", "open", "prepared"].map(|id| (id, world.ready(id))).into();
    world.transact("done", owners["done"]);
    world.add("open", owners["open"], "o");
    world.add("prepared", owners["prepared"], "p");
    world.add("prepared", owners["prepared"], "q");
    let tails =
        vec![PartitionTail { at: TopicPartition::new("p", 0), last_offset: 9, crc: 0xffff_ffff }];
    let plan = world
        .coordinator
        .prepare("prepared", owners["prepared"], Commit, tails.clone(), 5000, world.now)
        .expect("the owner may commit");
    let Prepared::Decided(decided) = world.run(plan) else { panic!("it was open") };

    let mut opened = World { coordinator: rebuilt(&world.log), ..world };
    assert_eq!(decided.tails, tails);
    let undecided = opened.coordinator.undecided();
    assert_eq!(opened.coordinator.under_way("prepared").as_ref(), Some(&decided));
    for id in ["open", "done", "idle", "nobody"] {
        assert_eq!(opened.coordinator.under_way(id), None, "{id}");
    }
    assert_eq!(undecided, [Undecided::Ongoing("open".into()), Undecided::Prepared(decided)]);

    // Only the open partitions of known producers are owned; everything else is an orphan.
    let owns = |id: &str, topic: &str| {
        opened.coordinator.owns(owners[id].id, &TopicPartition::new(topic, 0))
    };
    assert!(owns("open", "o") && owns("prepared", "p") && owns("prepared", "q"));
    assert!(!owns("open", "p"), "its AddPartitions was lost");
    assert!(!owns("done", "t") && !owns("idle", "t"));
    assert!(!opened.coordinator.owns(1, &TopicPartition::new("o", 0)));

    let plan = opened.coordinator.abort_ongoing("open", 6000, opened.now).expect("it is open");
    assert_eq!(opened.run(plan).end, Abort);
    opened.complete("open");
    opened.complete("prepared");
    assert_eq!(opened.coordinator.undecided(), []);
    assert_eq!(opened.state("open"), TransactionState::CompleteAbort);
    assert_eq!(opened.state("prepared"), TransactionState::CompleteCommit);
}

/// Crash catalogue 3: the data that a Prepare names did not survive, and nobody was told.
#[test]
fn a_commit_over_lost_data_becomes_an_abort_with_the_same_markers() {
    for epoch in [5, 32_766] {
        let mut world = World::new();
        let data = identity(7, epoch);
        world.seed("tx", data);
        world.add("tx", data, "t");
        let commit = world.decide("tx", data, Commit);
        let plan = world.coordinator.revoke_commit("tx", world.now).expect("a commit under way");
        let abort = world.run(plan);
        assert_eq!(abort, EndPlan { end: Abort, tails: vec![], ..commit });
        assert!(world.coordinator.revoke_commit("tx", world.now).is_err(), "it is an abort now");
        assert_eq!(world.complete("tx"), abort.next);
        assert_eq!(world.state("tx"), TransactionState::CompleteAbort);
        // The client that was never answered asks again, and learns that it can only abort.
        assert_eq!(answer(world.prepare("tx", data, Commit)), Answer::Abortable);
        assert_eq!(answer(world.prepare("tx", data, Abort)), Answer::AlreadyDone);
    }
}

#[test]
fn commands_in_the_wrong_state_are_refused() {
    use TransactionState::*;
    for state in [Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit, CompleteAbort] {
        let (world, _) = in_state(state);
        let it = &world.coordinator;
        assert_eq!(it.abort_ongoing("tx", 1, 0).is_ok(), state == Ongoing, "{state:?}");
        assert_eq!(it.revoke_commit("tx", 0).is_ok(), state == PrepareCommit, "{state:?}");
        let undecided = matches!(state, Empty | Ongoing);
        assert_eq!(it.complete("tx", 0).is_ok(), !undecided, "{state:?}");
    }
    let nobody = TransactionCoordinator::new(TIMEOUT_MS_MAX);
    assert!(matches!(nobody.complete("tx", 0), Err(Error::Unknown { .. })));
    assert!(matches!(nobody.abort_ongoing("tx", 1, 0), Err(Error::Unknown { .. })));
    assert!(matches!(nobody.revoke_commit("tx", 0), Err(Error::Unknown { .. })));
}

#[test]
fn only_open_transactions_expire_and_only_after_their_timeout() {
    use TransactionState::*;
    for state in [Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit, CompleteAbort] {
        let (world, _) = in_state(state);
        let started = world.coordinator.describe("tx").expect("known").started;
        let late = started + i64::from(TIMEOUT_MS);
        assert_eq!(world.coordinator.expired(late).len(), 0, "{state:?}");
        assert_eq!(world.coordinator.expired(late + 1).len(), usize::from(state == Ongoing));
        assert_eq!(world.coordinator.expired(i64::MIN).len(), 0, "a clock set back");
    }
}

// --- any order of commands -----------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Init,
    Add(u8),
    End(TransactionEnd),
    /// The same call with an identity given out earlier: a zombie, or a repeated call.
    OldAdd(usize),
    OldEnd(usize, TransactionEnd),
    Complete,
    Expire,
    Revoke,
}

fn step() -> impl Strategy<Value = Step> {
    let end = || prop_oneof![Just(Commit), Just(Abort)];
    prop_oneof![
        2 => Just(Step::Init),
        4 => (0..3_u8).prop_map(Step::Add),
        4 => end().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::OldAdd),
        2 => (any::<usize>(), end()).prop_map(|(which, end)| Step::OldEnd(which, end)),
        6 => Just(Step::Complete),
        1 => Just(Step::Expire),
        1 => Just(Step::Revoke),
    ]
}

/// One transactional id with everyone who ever held an identity of it.
struct Players {
    world: World,
    given: Vec<ProducerIdentity>,
}

impl Players {
    /// A client got an identity: never one given before, never the last epoch.
    fn give(&mut self, identity: ProducerIdentity) {
        assert!(identity.epoch < 32_767, "{identity:?} was given to a client");
        assert!(!self.given[..self.given.len().saturating_sub(1)].contains(&identity));
        if self.given.last() != Some(&identity) {
            self.given.push(identity);
        }
    }

    fn owner(&self) -> ProducerIdentity {
        self.given.last().copied().unwrap_or(identity(0, 0))
    }

    fn old(&self, which: usize) -> Option<ProducerIdentity> {
        let old = self.given.len().saturating_sub(1);
        (old > 0).then(|| self.given[which % old])
    }

    fn step(&mut self, step: &Step) {
        let before = self.world.coordinator.describe("tx").cloned();
        match *step {
            Step::Init => match self.world.init("tx") {
                Init::Ready(identity) => self.give(identity),
                Init::EndFirst(plan) => {
                    let data = before.expect("it is open").producer;
                    assert_eq!(plan.marker, identity(data.id, data.epoch + 1));
                }
                Init::Finishing(_) => {}
            },
            Step::Add(partition) => {
                let at = [TopicPartition::new("t", u32::from(partition))];
                let add =
                    self.world.coordinator.add_partitions("tx", self.owner(), &at, self.world.now);
                if let Ok(plan) = add {
                    self.world.run(plan);
                }
            }
            Step::End(end) => {
                let owner = self.owner();
                self.end(owner, end);
            }
            Step::OldAdd(which) => {
                let Some(old) = self.old(which) else { return };
                let at = [TopicPartition::new("t", 9)];
                let add = self.world.coordinator.add_partitions("tx", old, &at, self.world.now);
                assert!(matches!(add, Err(Error::Fenced { .. })), "{old:?}: {add:?}");
            }
            Step::OldEnd(which, end) => {
                let Some(old) = self.old(which) else { return };
                let records = self.world.log.len();
                self.end(old, end);
                assert_eq!(self.world.log.len(), records, "an old identity decided something");
            }
            Step::Complete => {
                if let Ok(plan) = self.world.coordinator.complete("tx", self.world.now) {
                    self.world.run(plan);
                }
            }
            Step::Expire => {
                self.world.now += i64::from(TIMEOUT_MS);
                for id in self.world.coordinator.expired(self.world.now) {
                    self.world.fresh_pid += 1;
                    let plan = self
                        .world
                        .coordinator
                        .abort_ongoing(&id, self.world.fresh_pid, self.world.now)
                        .expect("an expired one is open");
                    self.world.run(plan);
                }
            }
            Step::Revoke => {
                // As recovery does it: no client is there to know another answer.
                if let Ok(plan) = self.world.coordinator.revoke_commit("tx", self.world.now) {
                    self.world.run(plan);
                }
            }
        }
    }

    fn end(&mut self, who: ProducerIdentity, end: TransactionEnd) {
        match self.world.prepare("tx", who, end) {
            Ok(Prepared::Decided(plan)) => {
                assert_eq!(plan.marker, identity(who.id, who.epoch + 1));
                self.give(plan.next);
            }
            Ok(Prepared::AlreadyDone(next)) => self.give(next),
            Err(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_commands_keep_replay_equal_and_old_identities_out(
        first_epoch in prop_oneof![Just(0_i16), 32_755..=32_766_i16],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new();
        let first = identity(7, first_epoch);
        world.seed("tx", first);
        let mut players = Players { world, given: vec![first] };
        for step in &steps {
            players.step(step);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_and_never_panic(
        key_bytes in prop_oneof![
            Just(key("tx").to_vec()),
            prop::collection::vec(any::<u8>(), 0..40),
        ],
        version in 0..3_u8,
        value in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let value = [vec![0, version], value].concat();
        let mut coordinator = TransactionCoordinator::new(TIMEOUT_MS_MAX);
        let before = coordinator.clone();
        if coordinator.replay(&key_bytes, Some(&value)).is_err() {
            prop_assert_eq!(coordinator, before);
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
        let data = identity(7, 32_766);
        world.seed("tx", data);
        world.add("tx", data, "a");
        world.add("tx", data, "b");
        let tails = ["a", "b"]
            .map(|topic| PartitionTail { at: TopicPartition::new(topic, 0), last_offset: 1, crc: 2 });
        let plan = world
            .coordinator
            .prepare("tx", data, Commit, tails.into(), 8, world.now)
            .expect("the owner may commit");
        let value = plan.records[0].value.clone().expect("no tombstone");
        let mut damaged = value.to_vec();
        damaged[place.index(value.len())] = byte;
        for bytes in [&damaged[..], &value[..length.index(value.len())]] {
            let mut coordinator = rebuilt(&world.log);
            if coordinator.replay(&key("tx"), Some(bytes)).is_err() {
                prop_assert_eq!(coordinator, rebuilt(&world.log));
            }
        }
    }
}
