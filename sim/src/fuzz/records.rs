//! Records of the coordinators, what the layers above keep in records and rows, and lines of logs.
//!
//! Promises, beside that nothing panics: a record that is refused has changed nothing; the same
//! records give the same state; what a coordinator then decides are records that it reads itself;
//! what was read and is written again reads the same.

use std::fmt;

use thalweg_connectors::decode::{LineContext, Zone, decode_line};
use thalweg_connectors::position::SinkMetadata;
use thalweg_connectors::sink::Token;
use thalweg_core::client::log::{Membership, NewTopic, OffsetCommit, TransactionEnd};
use thalweg_core::config::{Cleanup, TopicConfig};
use thalweg_core::coordinator::group::GroupCoordinator;
use thalweg_core::coordinator::metadata::Metadata;
use thalweg_core::coordinator::transaction::{PartitionTail, TransactionCoordinator, Undecided};
use thalweg_core::coordinator::{CoordinatorRecord, Malformed};
use thalweg_core::ids::{TopicPartition, Uuid};
use thalweg_streams::state::meta::{CheckpointMeta, Meta, TaskId};

use super::input::{Part, pack, unpack};
use super::repair::Sums;
use super::{Form, Shape, Target, about, shape_of};

const MIB: u64 = 1 << 20;
const NOW: i64 = 1_790_000_000_000;
const TIMEOUT_MAX: i32 = 900_000;

pub(super) fn targets() -> Vec<Target> {
    let records = |name, about, seeds, run| Target {
        name,
        about,
        // Some states of as many items as fit the input.
        memory_max: 32 * MIB,
        form: Form::Parts,
        seeds,
        run,
    };
    let bytes = |name, about, sums, seeds, run| Target {
        name,
        about,
        memory_max: 16 * MIB,
        form: Form::Bytes(sums),
        seeds,
        run,
    };
    vec![
        records("group-records", "records of __consumer_offsets", group_seeds, groups),
        records(
            "transaction-records",
            "records of __transaction_state",
            transaction_seeds,
            transactions,
        ),
        records("metadata-records", "records of __thalweg_metadata", metadata_seeds, metadata),
        bytes("sink-metadata", "what a sink commits with its offset", Sums::None, sink_seeds, sink),
        bytes(
            "task-meta",
            "meta records of changelogs and checkpoints",
            Sums::Tail,
            task_seeds,
            task,
        ),
        bytes("line", "a line of a log", Sums::None, line_seeds, line),
    ]
}

/// Replays `(key, value)` parts; whatever is refused must leave the state as it was.
fn replay<S: Clone + PartialEq>(
    state: &mut S,
    records: &[Part],
    mut take: impl FnMut(&mut S, &Part, Option<&Part>) -> Result<(), Malformed>,
) -> Result<Option<Malformed>, String> {
    let mut refused = None;
    for record in records.chunks(2) {
        let before = state.clone();
        if let Err(e) = take(state, &record[0], record.get(1)) {
            if *state != before {
                return Err(format!("{e}: and the state has changed"));
            }
            refused.get_or_insert(e);
        }
    }
    Ok(refused)
}

fn value_of(part: Option<&Part>) -> Option<&[u8]> {
    part.filter(|part| part.name != "null").map(|part| part.bytes.as_slice())
}

/// A coordinator's own records are ones it reads.
fn own<S>(
    state: &mut S,
    records: &[CoordinatorRecord],
    take: impl Fn(&mut S, &[u8], Option<&[u8]>) -> Result<(), Malformed>,
) -> Result<(), String> {
    for record in records {
        take(state, &record.key, record.value.as_deref())
            .map_err(|e| format!("its own record is {e}"))?;
    }
    Ok(())
}

fn ending(refused: Option<Malformed>, good: &dyn fmt::Display) -> Shape {
    match refused {
        Some(e) => shape_of(&e, &e),
        None => format!("whole | {good}"),
    }
}

fn groups(bytes: &[u8]) -> Result<Shape, String> {
    let parts = unpack(bytes);
    let run = || {
        let mut state = GroupCoordinator::new();
        let refused = replay(&mut state, &parts, |state, key, value| match key.name.as_str() {
            "pending" => state.replay_pending(producer_of(value), &key.bytes, value_of(value)),
            "commit" => {
                state.marker(producer_of(value), TransactionEnd::Commit);
                Ok(())
            }
            "abort" => {
                state.marker(producer_of(value), TransactionEnd::Abort);
                Ok(())
            }
            _ => state.replay(&key.bytes, value_of(value)),
        })?;
        Ok::<_, String>((state, refused))
    };
    let ((mut state, refused), (twin, _)) = (run()?, run()?);
    if state != twin {
        return Err("the same records give another state".to_owned());
    }
    let (all, skipped) = (state.groups().len(), state.skipped());
    let topics = state.topics();
    for topic in &topics {
        let plan = state.delete_topic(topic);
        own(&mut state, &plan.records, GroupCoordinator::replay)?;
    }
    let plan = state.expel_all(NOW);
    own(&mut state, &plan.records, GroupCoordinator::replay)?;
    if !state.expel_all(NOW).reply.is_empty() {
        return Err("a member outlives its expulsion".to_owned());
    }
    if let Ok(joined) = state.join("g", "member", NOW) {
        own(&mut state, &joined.records, GroupCoordinator::replay)?;
    }
    let good =
        format!("{} groups {} topics {}", about(all), about(topics.len()), about(skipped as usize));
    Ok(ending(refused, &good))
}

/// Few producers, so that markers meet pending positions.
fn producer_of(part: Option<&Part>) -> i64 {
    part.and_then(|part| part.bytes.last()).map_or(0, |byte| i64::from(byte % 4))
}

fn transactions(bytes: &[u8]) -> Result<Shape, String> {
    let parts = unpack(bytes);
    let mut state = TransactionCoordinator::new(TIMEOUT_MAX);
    let take = TransactionCoordinator::replay;
    let refused =
        replay(&mut state, &parts, |state, key, value| state.replay(&key.bytes, value_of(value)))?;
    let undecided = state.undecided();
    let (count, known) = (undecided.len(), state.transactions().count());
    let told = |e: thalweg_core::Error| format!("what is undecided cannot be ended: {e}");
    for one in undecided {
        let id = match one {
            Undecided::Ongoing(id) => {
                let plan = state.abort_ongoing(&id, 99, NOW).map_err(told)?;
                own(&mut state, &plan.records, take)?;
                id
            }
            Undecided::Prepared(plan) => {
                if plan.end == TransactionEnd::Commit {
                    let revoked = state.revoke_commit(&plan.id, NOW).map_err(told)?;
                    own(&mut state, &revoked.records, take)?;
                }
                plan.id
            }
        };
        let plan = state.complete(&id, NOW).map_err(told)?;
        own(&mut state, &plan.records, take)?;
    }
    if !state.undecided().is_empty() {
        return Err("something stays undecided".to_owned());
    }
    _ = state.expired(NOW);
    let ids: Vec<_> = state.transactions().map(|(id, _)| id.clone()).collect();
    for id in ids.iter().filter(|id| !id.is_empty()) {
        if let Ok(plan) = state.init_producer(id, 1000, 100, NOW) {
            own(&mut state, &plan.records, take)?;
        }
    }
    Ok(ending(refused, &format!("{} known {} undecided", about(known), about(count))))
}

fn metadata(bytes: &[u8]) -> Result<Shape, String> {
    let parts = unpack(bytes);
    let mut state = Metadata::new();
    let refused =
        replay(&mut state, &parts, |state, key, value| state.replay(&key.bytes, value_of(value)))?;
    let topics = state.topics().count();
    let deleting: Vec<_> = state.deleting().map(|info| info.name.clone()).collect();
    for name in &deleting {
        let plan =
            state.forget_topic(name).map_err(|e| format!("{name} cannot be forgotten: {e}"))?;
        own(&mut state, &plan.records, Metadata::replay)?;
    }
    let plans = [
        state.raise_epoch(-1).map(|plan| plan.records),
        state.allocate_producer_ids(10, 0).map(|plan| plan.records),
    ];
    for records in plans.into_iter().flatten() {
        own(&mut state, &records, Metadata::replay)?;
    }
    Ok(ending(refused, &format!("{} topics {} deleted", about(topics), about(deleting.len()))))
}

// Seeds: what the coordinators write.

fn parts_of(records: &[CoordinatorRecord]) -> Vec<Part> {
    let part = |record: &CoordinatorRecord| {
        let value = match &record.value {
            Some(value) => Part::new("value", value.to_vec()),
            None => Part::new("null", ""),
        };
        [Part::new("key", record.key.to_vec()), value]
    };
    records.iter().flat_map(part).collect()
}

/// Each alone, and all together.
fn each_and_all(records: &[CoordinatorRecord]) -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> =
        records.iter().map(|one| pack(&parts_of(std::slice::from_ref(one)))).collect();
    seeds.push(pack(&parts_of(records)));
    seeds
}

/// What the workload of a group writes, applied one after the other.
pub(super) fn group_history() -> Vec<CoordinatorRecord> {
    let mut state = GroupCoordinator::new();
    let mut all = Vec::new();
    let mut write = |state: &mut GroupCoordinator, records: Vec<CoordinatorRecord>| {
        own(state, &records, GroupCoordinator::replay).expect("its own");
        all.extend(records);
    };
    let joined = state.join("g", "member-1", NOW).expect("a good name");
    let member: Membership = joined.reply;
    write(&mut state, joined.records);
    let offset = |topic: &str, offset, metadata: &str| OffsetCommit {
        at: TopicPartition::new(topic, 0),
        offset,
        leader_epoch: 1,
        metadata: metadata.to_owned(),
    };
    let offsets = [offset("t", 3, ""), offset("u", 1 << 40, "1 AAAAAAAAAAAAAAAAAAAAAA token")];
    let plan = state.commit(&member, &offsets, NOW).expect("a member's");
    write(&mut state, plan.records);
    let plan = state.delete_topic("u");
    write(&mut state, plan.records);
    let plan = state.leave(&member, NOW).expect("a member");
    write(&mut state, plan.records);
    all
}

fn group_seeds() -> Vec<Vec<u8>> {
    let records = group_history();
    let mut seeds = each_and_all(&records);
    // Positions in a transaction, decided either way; the flexible version; an unknown key.
    let mut parts = parts_of(&records[1..2]);
    parts[0].name = "pending".to_owned();
    for how in ["commit", "abort"] {
        let decided = [&parts[..], &[Part::new(how, ""), parts[1].clone()]].concat();
        seeds.push(pack(&decided));
    }
    let flexible = [
        &[0, 4][..],
        &7_i64.to_be_bytes(),
        &1_i32.to_be_bytes(),
        &[3, b'm', b'd'],
        &NOW.to_be_bytes(),
        &[0],
    ]
    .concat();
    seeds.push(pack(&[parts_of(&records[1..2])[0].clone(), Part::new("value", flexible)]));
    let mut group = vec![0, 4];
    group.extend_from_slice(&[9]);
    group.extend_from_slice(b"consumer");
    group.extend_from_slice(&5_i32.to_be_bytes());
    group.extend_from_slice(&[0, 0]);
    group.extend_from_slice(&NOW.to_be_bytes());
    group.extend_from_slice(&[2, 2, b'm', 0, 2, b'c', 2, b'h', 0, 0, 0, 9, 0, 0, 0, 9, 1, 1, 0, 0]);
    seeds.push(pack(&[parts_of(&records[..1])[0].clone(), Part::new("value", group)]));
    seeds.push(pack(&[Part::new("key", [0, 3, 0, 1, b'g']), Part::new("value", [0, 0])]));
    seeds
}

/// What a transactional id's life writes.
pub(super) fn transaction_history() -> Vec<CoordinatorRecord> {
    let mut state = TransactionCoordinator::new(TIMEOUT_MAX);
    let mut all = Vec::new();
    let take = TransactionCoordinator::replay;
    let at = [TopicPartition::new("t", 0), TopicPartition::new("__consumer_offsets", 0)];
    for (round, end) in [TransactionEnd::Commit, TransactionEnd::Abort].into_iter().enumerate() {
        let mut write = |state: &mut TransactionCoordinator, records: Vec<CoordinatorRecord>| {
            own(state, &records, take).expect("its own");
            all.extend(records);
        };
        let plan = state.init_producer("tx", 60_000, 7, NOW).expect("a good id");
        write(&mut state, plan.records);
        let id = state.describe("tx").expect("just made").producer;
        let plan = state.add_partitions("tx", id, &at, NOW).expect("its own");
        write(&mut state, plan.records);
        let tails = match round {
            0 => vec![PartitionTail { at: at[0].clone(), last_offset: 5, crc: 0xdead_beef }],
            _ => Vec::new(),
        };
        let plan = state.prepare("tx", id, end, tails, 8, NOW).expect("open");
        write(&mut state, plan.records);
        let plan = state.complete("tx", NOW).expect("decided");
        write(&mut state, plan.records);
    }
    all
}

fn transaction_seeds() -> Vec<Vec<u8>> {
    let records = transaction_history();
    let mut seeds = each_and_all(&records);
    // The classic version, and a tombstone.
    let classic = [
        &[0, 0][..],
        &7_i64.to_be_bytes(),
        &3_i16.to_be_bytes(),
        &60_000_i32.to_be_bytes(),
        &[1],
        &1_i32.to_be_bytes(),
        &[0, 1, b't'],
        &1_i32.to_be_bytes(),
        &0_i32.to_be_bytes(),
        &NOW.to_be_bytes(),
        &NOW.to_be_bytes(),
    ]
    .concat();
    let key = parts_of(&records[..1])[0].clone();
    seeds.push(pack(&[key.clone(), Part::new("value", classic)]));
    seeds.push(pack(&[parts_of(&records[..1]), vec![key, Part::new("null", "")]].concat()));
    seeds
}

fn metadata_seeds() -> Vec<Vec<u8>> {
    let mut state = Metadata::new();
    let mut all = Vec::new();
    let mut write = |state: &mut Metadata, records: Vec<CoordinatorRecord>| {
        own(state, &records, Metadata::replay).expect("its own");
        all.extend(records);
    };
    let plan = state.init(Uuid::from_random([3; 16])).expect("once");
    write(&mut state, plan.records);
    let config =
        TopicConfig { cleanup: Cleanup::Compact, segment_bytes: 1 << 20, ..TopicConfig::default() };
    let topic = NewTopic { name: "logs.raw".to_owned(), partitions: 3, config };
    let plan = state.create_topic(&topic, Uuid::from_random([4; 16])).expect("a good name");
    write(&mut state, plan.records);
    let plan = state.allocate_producer_ids(1000, 0).expect("there are many");
    write(&mut state, plan.records);
    let plan = state.raise_epoch(4).expect("there are many");
    write(&mut state, plan.records);
    let plan = state.delete_topic("logs.raw").expect("there");
    write(&mut state, plan.records);
    let plan = state.forget_topic("logs.raw").expect("being deleted");
    write(&mut state, plan.records);
    each_and_all(&all)
}

// Layers above.

fn sink(bytes: &[u8]) -> Result<Shape, String> {
    let text = String::from_utf8_lossy(bytes);
    let Some(found) = SinkMetadata::parse(&text) else { return Ok("None | ".to_owned()) };
    match found.to_text() {
        Ok(again) if SinkMetadata::parse(&again).as_ref() != Some(&found) => {
            Err(format!("{again:?} reads otherwise than {text:?}"))
        }
        Ok(_) => Ok(format!("Some | {}", found.token.is_some())),
        Err(e) => Ok(shape_of(&e, &e)),
    }
}

fn sink_seeds() -> Vec<Vec<u8>> {
    let text = |token: Option<&str>| {
        let token = token.map(|token| Token(token.to_owned()));
        let metadata = SinkMetadata { topic: Uuid::from_random([7; 16]), token };
        metadata.to_text().expect("short").into_bytes()
    };
    vec![text(None), text(Some("1 0 17 a/b.ndjson")), Vec::new()]
}

fn task(bytes: &[u8]) -> Result<Shape, String> {
    let same = |first: &dyn fmt::Debug, second: &dyn fmt::Debug| match format!("{first:?}")
        == format!("{second:?}")
    {
        true => Ok(()),
        false => Err(format!("{first:?} became {second:?}")),
    };
    let meta = Meta::decode(bytes);
    if let Ok(meta) = &meta
        && let Ok(again) = meta.encode()
    {
        same(&Meta::decode(&again).map_err(|e| e.to_string())?, meta)?;
    }
    let checkpoint = CheckpointMeta::decode(bytes);
    if let Ok(meta) = &checkpoint
        && let Ok(again) = meta.encode()
    {
        same(&CheckpointMeta::decode(&again).map_err(|e| e.to_string())?, meta)?;
    }
    Ok(match (meta, checkpoint) {
        (Err(e), Err(_)) => shape_of(&e, &e),
        (Ok(meta), _) => format!("Meta | {}", about(meta.inputs.len())),
        (_, Ok(meta)) => format!("CheckpointMeta | {}", about(meta.changelogs.len())),
    })
}

fn task_seeds() -> Vec<Vec<u8>> {
    let fresh =
        Meta::fresh(Uuid::from_random([1; 16]), 77, TaskId { subtopology: 1, partition: 2 });
    let bytes = fresh.encode().expect("short").to_vec();
    let checkpoint = CheckpointMeta { meta: fresh, changelogs: Vec::new() };
    vec![bytes, checkpoint.encode().expect("short").to_vec(), Vec::new()]
}

fn line(bytes: &[u8]) -> Result<Shape, String> {
    let zone = Zone::utc();
    let context =
        LineContext { file: "/var/log/app.log", mtime_ms: NOW, append_time_ms: NOW, zone: &zone };
    match decode_line(bytes, &context) {
        None if bytes.iter().any(|byte| *byte != b'\r') => {
            Err("a line without an answer".to_owned())
        }
        None => Ok("None | ".to_owned()),
        Some(line) => {
            Ok(format!("{:?} | {:?} {}", line.origin, line.severity, about(line.message.len())))
        }
    }
}

fn line_seeds() -> Vec<Vec<u8>> {
    let lines = [
        r#"{"time":"2026-11-20T10:15:30.123Z","level":"warn","app":"shop","msg":"low stock \u00e4"}"#,
        r#"{"ts":1795269120.082,"severity":"INFO","message":{"a":[1,2,{}]},"service":"x"}"#,
        "<38>Nov 20 10:15:30 host sshd[7]: accepted",
        "Nov  1 00:00:00 host kernel: [    0.000000] begin",
        "2026-11-20T10:15:30.5+01:00 host cron: ERROR done",
        "2026-11-20 10:15:30,123 WARN raw",
        "no format at all",
        "",
    ];
    lines.iter().map(|line| line.as_bytes().to_vec()).collect()
}
