//! State survives any crash of a checkpoint and of a restore, because the log brings it back; and
//! whatever the state folder lost, held too much of, or was swapped for is found and rebuilt.
#![expect(clippy::disallowed_methods, reason = "sled has real files, and a test damages them")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;
use thalweg_core::ids::Uuid;
use thalweg_streams::state::backend::{
    Change, Persist, Rows, StateBackend, StateError, StateStore,
};
use thalweg_streams::state::checkpoint::{Plan, Rebuild, Stored, Truth, plan, write_checkpoint};
use thalweg_streams::state::forgetful::{Crash, ForgetfulStore};
use thalweg_streams::state::memory::MemoryStore;
use thalweg_streams::state::meta::{CheckpointMeta, META_KEY, MetaError, TaskId};
use thalweg_streams::state::restore::{Finish, ReplayLimits, Replayer};
use thalweg_streams::state::sled::{Quarantined, SledSettings, SledStore};

mod state_world;
use state_world::{Random, World, rows_of};

const TREE: &str = "1-3";

/// A life of the task: transactions, aborts and checkpoints, until the store stops it.
fn live(world: &mut World, store: &ForgetfulStore, steps: usize) -> Result<(), StateError> {
    let mut backend = store.open(TREE)?;
    for _ in 0..steps {
        match world.random.below(8) {
            0..=4 => world.transaction(),
            5 => world.abort(),
            6 => world.compact(),
            _ => {
                world.checkpoint(backend.as_mut())?;
            }
        }
    }
    Ok(())
}

/// Each scenario of a seed is crashed at every row written, persist and clear of the life, then
/// somewhere within the restore, and within the restore after that. The rows must be the fold of all
/// that was committed, and never doubted on the way: a half-written checkpoint is no false alarm.
#[test]
fn rows_are_the_fold_of_everything_committed_after_a_crash_at_any_point() {
    let (mut runs, mut loaded) = (0, 0);
    for seed in 0..40 {
        let steps = 20 + seed as usize;
        let whole = ForgetfulStore::new(seed);
        live(&mut World::new(seed), &whole, steps).expect("nothing stops it");
        for point in 0..=whole.operations() {
            for crash in [Crash::Process, Crash::Power] {
                let context = format!("seed {seed}, operation {point}, {crash:?}");
                let mut world = World::new(seed);
                let store = ForgetfulStore::new(seed ^ point << 8);
                store.stop_after(point);
                let _ = live(&mut world, &store, steps);
                for within in [Some(world.random.below(30)), Some(world.random.below(12)), None] {
                    store.crash(crash);
                    if crash == Crash::Power {
                        world.new_epoch();
                    }
                    world.audit(store.open(TREE).expect("opens").as_ref(), &context);
                    if let Some(operations) = within {
                        store.stop_after(operations as u64);
                    }
                    let found = match world.restart(&store) {
                        Ok(found) => found,
                        Err(StateError::Stopped { .. }) if within.is_some() => continue,
                        Err(e) => panic!("{context}: {e}"),
                    };
                    assert_eq!(found.again, None, "{context}");
                    world.judge(&found, &context);
                    loaded += usize::from(found.rebuilt.is_none());
                }
                runs += 1;
            }
        }
    }
    // The test would pass with a store that always forgets everything.
    assert!(loaded > runs / 2, "{loaded} checkpoints loaded in {runs} runs");
}

/// Several lives in a row on one store, each ended by a crash or cleanly.
#[test]
fn rows_are_the_fold_after_many_lives() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        let store = ForgetfulStore::new(seed);
        for life in 0..12 {
            let context = format!("seed {seed}, life {life}");
            let found = world.restart(&store).expect(&context);
            assert_eq!(found.again, None, "{context}");
            world.judge(&found, &context);
            // What was replayed is in the rows; the overlay of the life before died with it.
            world.overlay.clear();
            store.stop_after(world.random.below(80) as u64);
            let _ = live(&mut world, &store, 15);
            let power = world.random.chance(2);
            store.crash(if power { Crash::Power } else { Crash::Process });
            world.audit(store.open(TREE).expect("opens").as_ref(), &context);
        }
    }
}

/// A store with a finished checkpoint, and some transactions after it.
fn checkpointed(seed: u64, store: &dyn StateStore) -> World {
    let mut world = World::new(seed);
    let rows = |range: std::ops::Range<u8>| {
        range.map(|i| (Bytes::from(vec![0, 1 + i % 2, i]), Some(Bytes::from(vec![i; 3])))).collect()
    };
    world.commit(rows(0..40));
    let mut backend = store.open(TREE).expect("opens");
    world.checkpoint(backend.as_mut()).expect("written");
    world.commit(rows(50..60));
    world.transaction();
    world
}

#[test]
fn a_restart_replays_only_what_came_after_the_checkpoint() {
    let store = MemoryStore::default();
    let mut world = checkpointed(1, &store);
    let found = world.restart(&store).expect("restored");
    world.judge(&found, "first");
    assert_eq!((found.rebuilt, found.again), (None, None));
    let all: usize = world.logs.iter().map(|log| log.records.len()).sum();
    assert!((1..=30).contains(&found.records), "{} of {all} records", found.records);
    // The restore marked its end, so that the next one has nothing to do.
    let found = world.restart(&store).expect("restored");
    world.judge(&found, "second");
    assert_eq!(found.records, 0);
}

/// What may have happened to a stored tree, done by hand: the rows are changed and the meta row is
/// left as it was. Only the digest can tell.
#[test]
fn rows_that_were_lost_or_changed_are_found_and_rebuilt() {
    type Damage = fn(&mut dyn StateBackend) -> Result<(), StateError>;
    let cases: [(&str, Damage); 4] = [
        ("a row is gone", |tree| {
            tree.write(&mut [(Bytes::from_static(&[0, 1, 20]), None)].into_iter())
        }),
        ("a row has an old value", |tree| {
            let old = Some(Bytes::from_static(b"old"));
            tree.write(&mut [(Bytes::from_static(&[0, 1, 20]), old)].into_iter())
        }),
        ("a deleted row is back", |tree| {
            let back = Some(Bytes::from_static(b"back"));
            tree.write(&mut [(Bytes::from_static(&[0, 2, 200]), back)].into_iter())
        }),
        ("a row of no store", |tree| {
            let stray = Some(Bytes::from_static(b"stray"));
            tree.write(&mut [(Bytes::from_static(&[0, 0, 1]), stray)].into_iter())
        }),
    ];
    for (what, damage) in cases {
        let store = MemoryStore::default();
        let mut world = checkpointed(2, &store);
        damage(store.open(TREE).expect("opens").as_mut()).expect(what);
        let found = world.restart(&store).expect(what);
        assert!(found.again.is_some(), "{what}");
        assert!(matches!(found.rebuilt, Some(Rebuild::Mismatch(_))), "{what}: {:?}", found.rebuilt);
        world.judge(&found, what);
        let found = world.restart(&store).expect(what);
        assert_eq!((found.again, found.rebuilt, found.records), (None, None, 0), "{what}");
    }
}

/// The changelog itself does not give what was committed: no rebuild can help, so the task stops with
/// an error that names the task and what differs. It never goes on with wrong rows.
#[test]
fn a_changelog_that_lost_records_stops_the_task() {
    type Damage = fn(&mut World);
    let cases: [(&str, Damage, &str); 6] = [
        ("a row's record", |w| drop(w.logs[0].records.remove(3)), "store 1"),
        (
            "the last meta record of one partition",
            |w| {
                let last = w.logs[1].records.iter().rposition(|r| r.key == META_KEY);
                w.logs[1].records.remove(last.expect("there is one"));
            },
            "ends with transaction",
        ),
        (
            "everything",
            |w| w.logs.iter_mut().for_each(|log| log.records.clear()),
            "transaction is 0",
        ),
        ("the committed positions", |w| w.input -= 1, "positions"),
        (
            "the order of meta records",
            |w| {
                let log = &mut w.logs[0];
                let mut twin = log.records[20].clone();
                assert_eq!(twin.key, META_KEY);
                twin.offset = log.end - 1;
                log.records.push(twin);
            },
            "not the next one",
        ),
        (
            "the store of a record",
            |w| w.logs[0].records[0].key = "\0\u{2}x".into(),
            "another store",
        ),
    ];
    for (what, damage, says) in cases {
        for loaded in [false, true] {
            let store = MemoryStore::default();
            let mut world = checkpointed(3, &store);
            damage(&mut world);
            if !loaded {
                store.open(TREE).expect("opens").clear().expect("cleared");
            }
            match world.restart(&store).map(|found| found.again) {
                Err(StateError::Corrupt { task, why }) => {
                    assert_eq!(task, "1-3", "{what}");
                    assert!(why.contains(says), "{what}: {why}");
                }
                // The stored rows may hold what the log lost: then nothing is wrong yet.
                Ok(None) if loaded => {}
                Ok(again) => panic!("{what}: went on, {again:?}"),
                Err(other) => panic!("{what}: {other}"),
            }
        }
    }
}

#[test]
fn a_meta_record_of_a_newer_program_is_never_wiped() {
    let store = MemoryStore::default();
    let mut world = checkpointed(4, &store);
    let newer = world.logs[0].records.iter_mut().rfind(|r| r.key == META_KEY).expect("there");
    newer.value = Some(Bytes::from_static(&[2, 0, 1, 2, 3]));
    match world.restart(&store) {
        Err(StateError::Unsupported { what, .. }) => assert!(what.contains("version 2"), "{what}"),
        other => panic!("{:?}", other.map(|found| found.again)),
    }
}

/// The log lost an unsynced tail (level `os`, power loss): the state is ahead of it, and the log then
/// grows past the same offsets with other records. Even without epochs to tell them apart the old rows
/// must not come back, whatever was persisted when power failed again.
#[test]
fn state_ahead_of_the_log_is_dropped_for_good() {
    for seed in 0..200 {
        for epochs_checked in [false, true] {
            let context = format!("seed {seed}, epochs checked: {epochs_checked}");
            let store = ForgetfulStore::new(seed);
            let mut world = World::new(seed);
            world.epochs_checked = epochs_checked;
            for _ in 0..world.random.below(3) {
                world.transaction();
            }
            let mut kept = world.clone();
            world.transaction();
            world.transaction();
            let mut backend = store.open(TREE).expect("opens");
            world.checkpoint(backend.as_mut()).expect("written");
            drop(backend);
            // The log is back where it was; what the store had persisted is not.
            store.crash(Crash::Power);
            kept.new_epoch();
            kept.overlay.clear();
            let found = kept.restart(&store).expect(&context);
            assert!(matches!(found.rebuilt, Some(Rebuild::AheadOfTheLog { .. })), "{context}");
            kept.judge(&found, &context);
            kept.random = Random::new(seed + 1000);
            for _ in 0..4 {
                kept.transaction();
            }
            store.crash(Crash::Power);
            kept.audit(store.open(TREE).expect("opens").as_ref(), &context);
            let found = kept.restart(&store).expect(&context);
            assert_eq!(found.again, None, "{context}");
            kept.judge(&found, &context);
        }
    }
}

/// The steps whose order is the promise, as the backend sees them.
#[test]
fn the_order_of_writes_and_barriers_is_fixed() {
    let store = MemoryStore::default();
    let steps = Steps::default();
    let traced = || -> Box<dyn StateBackend> {
        Box::new(Traced { inner: store.open(TREE).expect("opens"), steps: steps.clone() })
    };
    let mut world = World::new(5);
    let row = |i: u8| (Bytes::from(vec![0, 1, i]), Some(Bytes::from(vec![i])));
    world.commit([row(1), row(2)].into());

    world.checkpoint(traced().as_mut()).expect("written");
    assert_eq!(steps.take(), ["row", "row", "persist Power", "meta", "persist Power"]);

    world.commit([row(3)].into());
    let plan = Plan::Rebuild { why: Rebuild::NoCheckpoint };
    let limits = ReplayLimits { batch_bytes: 1, mark_bytes: 1 << 20 };
    let replayer = Replayer::start(traced(), plan, world.truth(), limits);
    let mut replayer = replayer.expect("started");
    assert_eq!(
        steps.take(),
        ["no meta", "persist Power", "clear", "persist Power"],
        "a tree is forgotten durably, its meta row first, before anything else happens"
    );
    for log in &world.logs {
        for record in &log.records {
            let mut records =
                std::iter::once((record.offset, record.key.clone(), record.value.clone()));
            replayer.apply(log.store, 0, record.offset + 1, &mut records).expect("applied");
        }
        replayer.apply(log.store, 0, log.end, &mut std::iter::empty()).expect("applied");
    }
    assert!(matches!(replayer.finish(), Ok(Finish::Restored(_))));
    assert_eq!(
        steps.take(),
        ["row", "row", "row", "persist Power", "meta", "persist Power"],
        "a restore marks its end as a checkpoint does"
    );
}

/// In the middle of a long replay too, the offset is stored behind a barrier that its rows are
/// behind.
#[test]
fn a_long_replay_marks_its_progress() {
    let store = MemoryStore::default();
    let steps = Steps::default();
    let backend = Traced { inner: store.open(TREE).expect("opens"), steps: steps.clone() };
    let mut world = World::new(6);
    let row = |i: u8| (Bytes::from(vec![0, 1, i]), Some(Bytes::from(vec![i; 97])));
    world.commit((0..10).map(row).collect());
    let plan = Plan::Rebuild { why: Rebuild::NoCheckpoint };
    let limits = ReplayLimits { batch_bytes: 200, mark_bytes: 400 };
    let mut replayer =
        Replayer::start(Box::new(backend), plan, world.truth(), limits).expect("started");
    steps.take();
    let log = &world.logs[0];
    for record in &log.records[..4] {
        let mut records =
            std::iter::once((record.offset, record.key.clone(), record.value.clone()));
        replayer.apply(1, 0, record.offset + 1, &mut records).expect("applied");
    }
    assert_eq!(
        steps.take(),
        ["row", "row", "row", "row", "persist Power", "meta", "persist Power"],
        "two batches, then a mark"
    );
    drop(replayer);
    let backend = store.open(TREE).expect("opens");
    let Stored::Checkpoint(marked) = Stored::load(backend.as_ref()).expect("readable") else {
        panic!("no mark");
    };
    assert_eq!(marked.changelogs[0].offset, 4);
    world.judge(&world.clone().restart(&store).expect("restored"), "after a mark");
}

/// The log went on after its end was captured: what came later is not part of this restore.
#[test]
fn records_past_the_captured_end_are_left_alone() {
    let store = MemoryStore::default();
    let mut world = checkpointed(14, &store);
    let truth = world.truth();
    let backend = store.open(TREE).expect("opens");
    let stored = Stored::load(backend.as_ref()).expect("readable");
    let then = world.clone();
    world.commit([(Bytes::from_static(&[0, 1, 1]), Some(Bytes::from_static(b"later")))].into());
    let plan = plan(stored, &truth, |position| world.still_means(position)).expect("planned");
    let mut replayer =
        Replayer::start(backend, plan, truth, ReplayLimits::default()).expect("started");
    for log in &world.logs {
        let mut records = log.records.iter().map(|r| (r.offset, r.key.clone(), r.value.clone()));
        replayer.apply(log.store, 0, log.end, &mut records).expect("applied");
    }
    let Ok(Finish::Restored(restored)) = replayer.finish() else { panic!("not restored") };
    assert_eq!(rows_of(restored.backend.as_ref()).expect("readable"), then.committed);
    let ends: Vec<_> = then.logs.iter().map(|log| log.end).collect();
    assert_eq!(restored.changelogs.iter().map(|c| c.offset).collect::<Vec<_>>(), ends);
}

#[test]
fn a_replay_that_was_not_fed_to_the_end_is_refused() {
    let mut world = World::new(7);
    world.transaction();
    let backend = MemoryStore::default().open(TREE).expect("opens");
    let plan = Plan::Rebuild { why: Rebuild::NoCheckpoint };
    let replayer = Replayer::start(backend, plan, world.truth(), ReplayLimits::default());
    let finished = replayer.expect("started").finish();
    assert!(matches!(finished, Err(StateError::Invalid { .. })));
}

#[test]
fn a_row_with_the_reserved_store_id_is_refused() {
    let store = MemoryStore::default();
    let world = checkpointed(8, &store);
    let mut backend = store.open(TREE).expect("opens");
    let before = backend.get(META_KEY).expect("readable");
    let rows = [(Bytes::from_static(META_KEY), Some(Bytes::from_static(b"x")))];
    let last = world.last.as_ref().expect("committed");
    let refused = write_checkpoint(backend.as_mut(), &mut rows.into_iter(), last);
    assert!(matches!(refused, Err(StateError::Invalid { .. })));
    assert_eq!(backend.get(META_KEY).expect("readable"), before);
}

/// Which stored checkpoints are believed. Each case changes one thing of a good checkpoint or of what
/// the log says.
#[test]
fn a_checkpoint_is_used_only_when_everything_about_it_agrees() {
    let mut world = World::new(9);
    for _ in 0..5 {
        world.transaction();
    }
    let good = world.last.clone().expect("committed");
    type Change = fn(&mut CheckpointMeta, &mut Truth);
    let cases: [(&str, Change); 12] = [
        ("", |_, _| {}),
        ("belongs to log", |c, _| c.meta.log_id = Uuid([1; 16])),
        ("belongs to log", |c, t| {
            // A folder from elsewhere is not this application's: its topology is nobody's concern.
            c.meta.log_id = Uuid([1; 16]);
            t.topology_hash += 1;
        }),
        ("of task", |c, _| c.meta.task.partition += 1),
        ("of transaction 5", |_, t| t.txn_seq = 4),
        ("the log begins at", |c, t| t.changelogs[1].start = c.changelogs[1].offset + 1),
        ("the log ends at", |c, t| t.changelogs[0].end = c.changelogs[0].offset - 1),
        ("deletions below", |c, t| {
            t.changelogs[1].tombstone_floor = c.changelogs[1].offset + 1;
        }),
        ("had the id", |_, t| t.changelogs[0].topic_id = Uuid([5; 16])),
        ("it has 2, there are 1", |_, t| drop(t.changelogs.pop())),
        ("is not in it", |c, _| c.changelogs[1].store = 3),
        ("another epoch", |c, _| c.changelogs[1].leader_epoch = 77),
    ];
    for (says, change) in cases {
        let (mut checkpoint, mut truth) = (good.clone(), world.truth());
        change(&mut checkpoint, &mut truth);
        let stored = Stored::Checkpoint(Box::new(checkpoint));
        let epochs = |at: &thalweg_streams::state::meta::ChangelogPosition| {
            if at.leader_epoch == 77 { Err("another epoch".to_owned()) } else { Ok(()) }
        };
        match plan(stored, &truth, epochs).expect(says) {
            Plan::Replay { from, .. } => {
                assert_eq!(says, "");
                let offsets: Vec<_> = good.changelogs.iter().map(|c| (c.store, c.offset)).collect();
                assert_eq!(from, offsets);
            }
            Plan::Rebuild { why } => {
                let why = why.to_string();
                assert!(!says.is_empty() && why.contains(says), "{says}: {why}");
            }
        }
    }

    let truth = world.truth();
    let nothing = plan(Stored::Nothing, &truth, |_| Ok(()));
    assert_eq!(nothing.expect("planned"), Plan::Rebuild { why: Rebuild::NoCheckpoint });
    let damaged = Stored::Unreadable(MetaError::Newer { version: 9 });
    assert!(matches!(plan(damaged, &truth, |_| Ok(())), Ok(Plan::Rebuild { .. })));
    let other = Truth { topology_hash: 1, ..truth };
    let refused = plan(Stored::Checkpoint(Box::new(good)), &other, |_| Ok(()));
    assert!(
        matches!(refused, Err(StateError::OtherTopology { found: 0x70b0, expected: 1, .. })),
        "state is never wiped because the program changed"
    );
}

/// The tree was wiped, so the plan cannot see the topology; the log can.
#[test]
fn another_topology_is_refused_when_only_the_log_remembers_the_old_one() {
    let store = MemoryStore::default();
    let mut world = checkpointed(10, &store);
    store.open(TREE).expect("opens").clear().expect("cleared");
    world.topology_hash += 1;
    let refused = world.restart(&store).map(|found| found.again);
    assert!(matches!(refused, Err(StateError::OtherTopology { .. })), "{refused:?}");
}

/// Two tasks whose trees were swapped, and a folder moved beside a copy of the application on another
/// log: both are recognised by what the meta row says, and rebuilt.
#[test]
fn swapped_folders_are_recognised() {
    let (one, two) = (MemoryStore::default(), MemoryStore::default());
    let mut here = checkpointed(11, &one);
    let mut there = World::new(12);
    there.log_id = Uuid([8; 16]);
    for _ in 0..20 {
        there.transaction();
    }
    let mut backend = two.open(TREE).expect("opens");
    there.checkpoint(backend.as_mut()).expect("written");
    let found = here.restart(&two).expect("rebuilt");
    assert!(matches!(found.rebuilt, Some(Rebuild::OtherLog { .. })), "{:?}", found.rebuilt);
    here.judge(&found, "here");
    let found = there.restart(&one).expect("rebuilt");
    assert!(matches!(found.rebuilt, Some(Rebuild::OtherLog { .. })), "{:?}", found.rebuilt);
    there.judge(&found, "there");

    let mut neighbour = here.clone();
    neighbour.task = TaskId { subtopology: 1, partition: 4 };
    let moved = rows_of(one.open(TREE).expect("opens").as_ref()).expect("readable");
    assert_eq!(moved, there.committed);
    let from = two.open(TREE).expect("opens");
    let everything = from.range(&[], &[], false).expect("readable");
    let mut everything = everything.map(|row| row.map(|(k, v)| (k, Some(v))).expect("readable"));
    two.open("1-4").expect("opens").write(&mut everything).expect("written");
    drop(everything);
    // The neighbour never committed anything: whatever is in its tree is not its own.
    (neighbour.last, neighbour.input) = (None, 0);
    neighbour.committed.clear();
    neighbour.logs = World::new(13).logs;
    let found = neighbour.restart(&two).expect("rebuilt");
    assert!(matches!(found.rebuilt, Some(Rebuild::OtherTask { .. })), "{:?}", found.rebuilt);
    neighbour.judge(&found, "neighbour");
}

/// The data file as power cuts, bad media and people leave it: old and new pages mixed, cut, zeroed,
/// overwritten, with and without its companions. Opening never panics out, the rows end up as they were
/// committed, and rows that sled gives back are believed only when they are all there.
#[test]
fn a_damaged_database_is_found_and_rebuilt() {
    let (mut moved_aside, mut doubted, mut empty, mut believed) = (0, 0, 0, 0);
    let mut found_later = 0;
    for seed in 0..24 {
        let context = format!("seed {seed}");
        let dir = folder();
        let db = dir.path().join("sled/db");
        let mut world = World::new(seed);
        let mut before = Vec::new();
        for life in 0..3u8 {
            let store = open(dir.path()).0;
            let mut tree = store.open(TREE).expect("opens");
            for round in 0..2u8 {
                before = std::fs::read(&db).expect("readable");
                let row = |i: u8| {
                    let key = vec![0, 1 + i % 2, b'k', round, i.wrapping_mul(life + 1)];
                    (Bytes::from(key), Some(Bytes::from(vec![life * 16 + round; 900])))
                };
                world.commit((0..=255).map(row).collect());
                world.transaction();
                world.checkpoint(tree.as_mut()).expect("written");
            }
            drop(tree);
            store.close().expect("closed");
        }
        damage(&db, &before, &mut world.random);

        let (mut store, mut moved) = open(dir.path());
        let found = match world.restart(&store) {
            // A page that was not read by the open. The next open knows.
            Err(StateError::Damaged { .. }) => {
                assert!(store.close().is_err(), "{context}");
                (store, moved) = open(dir.path());
                assert!(moved.is_some(), "{context}");
                found_later += 1;
                world.restart(&store)
            }
            found => found,
        };
        let found = found.expect(&context);
        world.judge(&found, &context);
        match (moved, &found.again, &found.rebuilt) {
            (Some(_), ..) => moved_aside += 1,
            (None, Some(_), _) => doubted += 1,
            (None, None, Some(_)) => empty += 1,
            (None, None, None) => believed += 1,
        }
        store.close().expect(&context);
        let found = world.restart(&open(dir.path()).0).expect(&context);
        assert_eq!((found.again, found.rebuilt), (None, None), "{context}: healthy afterwards");
    }
    // Otherwise the damage was not what it should be.
    let all = format!(
        "{moved_aside} moved, {found_later} of them late, {doubted} doubted, {empty} empty, {believed} believed"
    );
    assert!(moved_aside > 0 && doubted + empty > 0 && believed > 0, "{all}");
}

/// In memory where the system has such a folder: nothing here rests on a medium, and a hundred syncs
/// a second would be slow on one.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

fn open(dir: &Path) -> (SledStore, Option<Quarantined>) {
    let settings = SledSettings { cache_bytes: 16 << 20, ..SledSettings::default() };
    SledStore::open(dir, &settings, 1).expect("opens")
}

fn damage(db: &Path, before: &[u8], random: &mut Random) {
    let mut bytes = std::fs::read(db).expect("readable");
    let page = |random: &mut Random, len: usize| random.below(len / 4096) * 4096;
    match random.below(6) {
        0 => {
            for at in (0..before.len().min(bytes.len())).step_by(4096) {
                let end = (at + 4096).min(before.len()).min(bytes.len());
                if random.chance(2) {
                    bytes[at..end].copy_from_slice(&before[at..end]);
                }
            }
        }
        1 => {
            let len = page(random, bytes.len());
            bytes.truncate(len);
        }
        2 => bytes.fill(0),
        3 => {
            for _ in 0..4 {
                let at = page(random, bytes.len());
                bytes[at..at + 4096].fill(0);
            }
        }
        4 => {
            for _ in 0..200 {
                let at = random.below(bytes.len());
                bytes[at] = random.below(256) as u8;
            }
        }
        _ => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
    }
    std::fs::write(db, bytes).expect("written");
    if random.chance(2) {
        // What was not synced with the folder.
        let folder = db.parent().expect("a folder");
        for entry in std::fs::read_dir(folder).expect("listed") {
            let path = entry.expect("listed").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if name.starts_with("snap.") || name == "conf" && random.chance(2) {
                std::fs::remove_file(path).expect("removed");
            }
        }
    }
}

/// Writes down what is asked of a backend.
struct Traced {
    inner: Box<dyn StateBackend>,
    steps: Steps,
}

#[derive(Clone, Default)]
struct Steps(Arc<Mutex<Vec<String>>>);

impl Steps {
    fn add(&self, step: impl Into<String>) {
        self.0.lock().push(step.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl StateBackend for Traced {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.inner.get(key)
    }

    fn range(&self, from: &[u8], to: &[u8], rev: bool) -> Result<Rows<'_>, StateError> {
        self.inner.range(from, to, rev)
    }

    fn write(&mut self, sorted: &mut dyn Iterator<Item = Change>) -> Result<(), StateError> {
        let steps = &self.steps;
        self.inner.write(&mut sorted.inspect(|(key, value)| {
            let what = if key == META_KEY { "meta" } else { "row" };
            steps.add(format!("{}{what}", if value.is_some() { "" } else { "no " }));
        }))
    }

    fn persist(&mut self, level: Persist) -> Result<(), StateError> {
        self.steps.add(format!("persist {level:?}"));
        self.inner.persist(level)
    }

    fn clear(&mut self) -> Result<(), StateError> {
        self.steps.add("clear");
        self.inner.clear()
    }
}
