//! A folder is looked at without being changed: after any death of its writer, and beside a living one.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use thalweg_core::batch::BatchBuilder;
use thalweg_core::client::log::*;
use thalweg_core::config::{Cleanup, Compression, LogConfig};
use thalweg_core::disk::overlay::Overlay;
use thalweg_core::disk::real::RealDisk;
use thalweg_core::disk::sim::{Crash, Rng, SimDisk};
use thalweg_core::disk::{Disk, DiskFile, Open, write_all_at};
use thalweg_core::engine::Engine;
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::ids::{Offset, ProducerIdentity};
use thalweg_core::{Error, Result};

type Looking = Arc<Engine<Overlay<SimDisk>>>;

fn look(disk: &SimDisk) -> Result<Looking> {
    let clock = Clock::fixed(NOW);
    now(Engine::look(disk.clone(), DIR, config(Level::Disk), Runtime::Inline, clock)).map(Arc::new)
}

/// Looks, and is sure that this changed nothing.
fn look_only(disk: &SimDisk, what: &str) -> Looking {
    let before = disk.operations();
    let looking = look(disk).unwrap_or_else(|e| panic!("{what}: {e}\n{:#?}", disk.trace()));
    assert_eq!(disk.operations(), before, "{what}: something was changed\n{:#?}", disk.trace());
    looking
}

fn all(log: &dyn Log, topic: &str, isolation: Isolation) -> Vec<(Offset, String)> {
    let start = now(log.offsets(&at(topic))).expect("there").start;
    records_from(log, &at(topic), isolation, start, 700).expect("read")
}

#[test]
fn after_any_death_a_look_sees_what_the_next_writer_finds() {
    let mut open_transactions = 0;
    for seed in 0..120 {
        for crash in [Crash::Process, Crash::Power] {
            let what = format!("seed {seed}, {crash:?}");
            let disk = SimDisk::new(seed);
            let mut rng = Rng::new(seed);
            disk.crash_at(150 + rng.below(600), crash);
            let acknowledged = transfers(&disk, Level::Disk, seed, 20).unwrap_or(0);
            if !disk.down() {
                disk.crash(crash);
            }
            let disk = disk.restart();
            let looking = match look(&disk) {
                Ok(looking) => looking,
                // The death came before there was a whole log.
                Err(Error::Unsupported { .. } | Error::Io { .. }) if acknowledged == 0 => continue,
                Err(e) => panic!("{what}: {e}\n{:#?}", disk.trace()),
            };
            looking.check_coordinators().unwrap_or_else(|e| panic!("{what}: {e}"));
            let mut seen = BTreeMap::new();
            for topic in ["a", "b"] {
                let Ok(offsets) = now(looking.offsets(&at(topic))) else { continue };
                open_transactions += usize::from(offsets.last_stable < offsets.end);
                let committed = all(&*looking, topic, Isolation::ReadCommitted);
                let uncommitted = all(&*looking, topic, Isolation::ReadUncommitted);
                seen.insert(topic, (offsets, committed, uncommitted));
            }
            let position = now(looking.committed_offsets("g", &[at("a")]));
            looking.close().expect("nothing is written");
            drop(looking);
            drop(look_only(&disk, &what));

            let log = open(&disk, Level::Disk, 5).unwrap_or_else(|e| panic!("{what}: {e}"));
            for (topic, (offsets, committed, uncommitted)) in seen {
                let theirs = all(&*log, topic, Isolation::ReadUncommitted);
                assert_eq!(uncommitted, theirs, "{what}: {topic}");
                let mut theirs = all(&*log, topic, Isolation::ReadCommitted);
                theirs.retain(|(offset, _)| *offset < offsets.last_stable);
                assert_eq!(committed, theirs, "{what}: {topic}");
            }
            if let Ok(position) = position
                && let [Some(position)] = &position[..]
            {
                let theirs = now(log.committed_offsets("g", &[at("a")])).expect("decided");
                let theirs = theirs[0].as_ref().expect("never taken back");
                assert!(theirs.offset >= position.offset, "{what}");
            }
        }
    }
    assert!(open_transactions > 20, "{open_transactions}");
}

#[test]
fn beside_a_writer_a_look_ends_where_it_began_and_decides_nothing() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "a", 1, 600).expect("created");
    let member = now(log.join_group("g")).expect("joins");
    let producer = init(&*log, "tx");
    append(&*log, &at("a"), "before").expect("appended");
    append_in(&*log, "tx", producer, &at("a"), 0, "inside").expect("appended");
    append(&*log, &at("a"), "behind").expect("appended");

    let early = look_only(&disk, "while a transaction is open");
    let values_of = |log: &Looking, isolation| values(&**log, &at("a"), isolation).expect("read");
    assert_eq!(values_of(&early, Isolation::ReadCommitted), ["before"]);
    let three = ["before", "inside", "behind"];
    assert_eq!(values_of(&early, Isolation::ReadUncommitted), three);
    let transactions = now(early.transactions()).expect("listed");
    assert_eq!(transactions[0].state, "Ongoing");
    let groups = now(early.groups()).expect("listed");
    assert_eq!(groups[0].members, [Arc::clone(&member.member)], "members stay members");

    end(&*log, "tx", producer, TransactionEnd::Commit).expect("commits");
    for n in 0..40 {
        append(&*log, &at("a"), &format!("later {n}")).expect("appended");
    }
    assert_eq!(values_of(&early, Isolation::ReadCommitted), ["before"]);
    assert_eq!(values_of(&early, Isolation::ReadUncommitted), three);
    now(log.tick()).expect("finishes the transaction");
    let late = look_only(&disk, "after the commit");
    assert_eq!(values_of(&late, Isolation::ReadCommitted).len(), 43);
    assert_eq!(late.id(), log.id());
    assert_eq!(now(late.transactions()).expect("listed")[0].state, "CompleteCommit");
}

#[test]
fn whatever_writes_is_refused_and_what_reads_is_not() {
    let disk = SimDisk::new(2);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "a", 1, 600).expect("created");
    let a = at("a");
    append(&*log, &a, "x").expect("appended");
    let member = now(log.join_group("g")).expect("joins");
    let looking = look_only(&disk, "a look");
    let before = disk.operations();

    let topic = NewTopic { name: "b".into(), partitions: 1, config: TopicConfig::default() };
    let changes = BTreeMap::from([("retention.ms".to_owned(), Some("1000".to_owned()))]);
    let commit =
        OffsetCommit { at: a.clone(), offset: 1, leader_epoch: 0, metadata: String::new() };
    let commits = std::slice::from_ref(&commit);
    let who = ProducerIdentity { id: 0, epoch: 0 };
    let second = Duration::from_secs(1);
    let simple = Membership::simple("g");
    let refused: [(&str, Option<Error>); 15] = [
        ("maintain", now(looking.maintain()).err()),
        ("create_topic", now(looking.create_topic(&topic)).err()),
        ("delete_topic", now(looking.delete_topic("a")).err()),
        ("alter_topic", now(looking.alter_topic("a", &changes)).err()),
        ("delete_records", now(looking.delete_records(&a, 1)).err()),
        ("append", append(&*looking, &a, "y").err()),
        ("init_producer", now(looking.init_producer(None, second)).err()),
        ("init_producer", now(looking.init_producer(Some("tx"), second)).err()),
        ("commit_offsets_in", {
            now(looking.commit_offsets_in("tx", who, &member, commits)).err()
        }),
        ("end_transaction", end(&*looking, "tx", who, TransactionEnd::Abort).err()),
        ("abort_transaction", now(looking.abort_transaction("tx")).err()),
        ("join_group", now(looking.join_group("g")).err()),
        ("leave_group", now(looking.leave_group(&member)).err()),
        ("commit_offsets", now(looking.commit_offsets(&simple, commits)).err()),
        ("commit_offsets", now(looking.commit_offsets(&member, commits)).err()),
    ];
    for (what, error) in refused {
        let error = error.unwrap_or_else(|| panic!("{what} is not refused"));
        assert!(matches!(&error, Error::ReadOnly { path } if path == Path::new(DIR)), "{error}");
    }
    now(looking.tick()).expect("does nothing");
    assert_eq!(now(looking.topics()).expect("listed"), now(log.topics()).expect("listed"));
    let spec = OffsetSpec::AtOrAfter(NOW);
    let found = now(looking.list_offset(&a, spec, Isolation::ReadCommitted)).expect("looked up");
    assert_eq!(found.map(|found| found.offset), Some(0));
    assert_eq!(disk.operations(), before);
    looking.close().expect("nothing to do");
    assert!(matches!(values(&*looking, &a, Isolation::ReadCommitted), Err(Error::Stopped { .. })));
}

#[test]
fn a_folder_without_a_log_is_refused_and_not_made() {
    let disk = SimDisk::new(3);
    assert!(matches!(look(&disk), Err(Error::Io { .. })), "no folder");
    disk.create_dir(Path::new(DIR)).expect("made");
    assert!(matches!(look(&disk), Err(Error::Unsupported { .. })), "an empty folder");
    let file = disk.open(Path::new("/data/format"), Open::Create).expect("made");
    write_all_at(&file, b"99\n", 0).expect("written");
    let newer = look(&disk).err().expect("a newer layout");
    assert!(matches!(newer, Error::Unsupported { .. }) && newer.to_string().contains("99"));
    file.set_len(0).expect("cut");
    assert!(matches!(look(&disk), Err(Error::Damaged { .. })), "no layout");
    write_all_at(&file, b"2\n", 0).expect("written");
    assert!(matches!(look(&disk), Err(Error::Unsupported { .. })), "a layout and no log");
    assert_eq!(disk.list(Path::new(DIR)).expect("listed").len(), 1);
    disk.remove(Path::new("/data/format")).expect("removed");
    drop(open(&disk, Level::Disk, 1).expect("opens"));
    disk.remove(Path::new("/data/format")).expect("removed");
    assert!(matches!(look(&disk), Err(Error::Damaged { .. })), "a log and no layout");
}

#[test]
fn records_deleted_meanwhile_are_named_as_such() {
    let disk = SimDisk::new(4);
    let few = LogConfig { open_files: 2, ..config(Level::Disk) };
    let clock = Clock::fixed(NOW);
    let log = open_at(&disk, few.clone(), clock.clone(), 1).expect("opens");
    create(&*log, "a", 1, 600).expect("created");
    for n in 0..60 {
        append(&*log, &at("a"), &format!("{n}")).expect("appended");
    }
    let looking = Engine::look(disk, DIR, few, Runtime::Inline, Clock::fixed(NOW));
    let looking = now(looking).expect("opens");
    now(log.delete_records(&at("a"), 50)).expect("deleted");
    // Its files are on their way out, under other names.
    let sixty = records_from(&looking, &at("a"), Isolation::ReadCommitted, 0, 700).expect("read");
    assert_eq!(sixty.len(), 60);
    clock.advance(3_600_000);
    now(log.tick()).expect("removes the files");
    let gone = records_from(&looking, &at("a"), Isolation::ReadCommitted, 0, 700);
    let gone = gone.expect_err("the files are gone");
    assert!(matches!(&gone, Error::Gone { path } if path.starts_with(DIR)), "{gone}");
    let left = records_from(&looking, &at("a"), Isolation::ReadCommitted, 55, 700).expect("read");
    assert_eq!(left.len(), 5, "what is there is read");
}

/// A writer that makes, fills, rolls, cuts from the front and deletes topics, and looks beside it: each
/// sees for every topic a whole run of its numbers.
#[test]
fn looks_beside_a_busy_writer_see_whole_logs() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let config = || LogConfig { min_free_bytes: 0, recovery_bytes: 2000, ..LogConfig::default() };
    let (done, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let opened = runtime.block_on(Engine::open(
        RealDisk,
        dir.clone(),
        LogConfig { level: Level::Os, hint_interval: Duration::from_millis(1), ..config() },
        Runtime::Threads(runtime.handle().clone()),
        Clock::System,
        Entropy::System,
    ));
    let writer = Arc::new(opened.expect("opens"));
    let busy = {
        let (log, done) = (Arc::clone(&writer), Arc::clone(&done));
        let rounds = Arc::clone(&rounds);
        runtime.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let round = rounds.fetch_add(1, Ordering::Relaxed);
                let name = format!("t{}", round % 3);
                let config = TopicConfig {
                    cleanup: if round % 2 == 0 { Cleanup::Delete } else { Cleanup::Compact },
                    min_cleanable_dirty_permille: 1,
                    segment_bytes: 2000,
                    file_delete_delay_ms: 0,
                    index_interval_bytes: 150,
                    ..TopicConfig::default()
                };
                let new = NewTopic { name: name.clone(), partitions: 2, config };
                log.create_topic(&new).await.expect("created");
                for n in 0..200 {
                    let mut builder = BatchBuilder::new(Compression::None, 100);
                    // Every second one is superfluous once the next one is there.
                    let key = (n / 2).to_string();
                    let value = n.to_string();
                    let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
                    builder.push(NOW, key, value, &[]).expect("small");
                    let bytes = builder.finish(ProducerIdentity::NONE, -1, false).expect("small");
                    log.append(&at(&name), bytes, None, Ack::Written).await.expect("appended");
                    if n % 50 == 49 {
                        log.delete_records(&at(&name), n - 20).await.expect("deleted");
                        log.maintain().await.expect("compacted");
                    }
                }
                if round > 1 {
                    log.delete_topic(&format!("t{}", (round + 1) % 3)).await.expect("deleted");
                }
            }
        })
    };
    let (mut read, mut gone) = (0, 0);
    while (read < 5000 || rounds.load(Ordering::Relaxed) < 12) && !busy.is_finished() {
        let now_looking = Engine::look(
            RealDisk,
            dir.clone(),
            config(),
            Runtime::Threads(runtime.handle().clone()),
            Clock::System,
        );
        let looking = match runtime.block_on(now_looking) {
            Ok(looking) => looking,
            Err(Error::Retry { .. }) => continue,
            Err(e) => panic!("{e}"),
        };
        assert_eq!(looking.report().damaged, []);
        for topic in runtime.block_on(looking.topics()).expect("listed") {
            if topic.name.starts_with("__") {
                continue;
            }
            let offsets = runtime.block_on(looking.offsets(&at(&topic.name))).expect("there");
            let level = Isolation::ReadUncommitted;
            match records_from(&looking, &at(&topic.name), level, offsets.start, 700) {
                Ok(records) => {
                    let compacts = topic.config.cleanup.compacts();
                    let mut next = offsets.start;
                    for (offset, value) in &records {
                        assert_eq!(*value, offset.to_string(), "{}", topic.name);
                        let skipped = *offset - next;
                        assert!(skipped == 0 || (compacts && skipped == 1 && next % 2 == 0));
                        next = offset + 1;
                    }
                    assert_eq!(next, offsets.end, "{}", topic.name);
                    read += records.len();
                }
                Err(Error::Gone { .. }) => gone += 1,
                Err(e) => panic!("{}: {e}", topic.name),
            }
        }
    }
    done.store(true, Ordering::Relaxed);
    runtime.block_on(busy).expect("the writer was never disturbed");
    assert!(read >= 5000, "{read} records, {gone} times gone");
    writer.close().expect("closes");
}
