//! A folder of Kafka's becomes ours: in place, whole, and whatever interrupts it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::executor::block_on;
use thalweg_core::batch::BatchBuilder;
use thalweg_core::client::log::*;
use thalweg_core::config::Compression;
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::disk::{Disk, LockKind, read_file};
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::engine::{Engine, TakeOver, open_simulated};
use thalweg_core::ids::{Offset, ProducerIdentity, TopicPartition};
use thalweg_core::{Error, Result};

use crate::folder::Folder;
use crate::looked::{DIR, Looked, NOW, config, lay_out, look};

fn take_over(disk: &SimDisk) -> Result<TakeOver> {
    let (clock, entropy) = (Clock::fixed(NOW), Entropy::seeded(7));
    block_on(Engine::take_over(disk.clone(), DIR, config(), clock, entropy))
}

fn open(disk: &SimDisk) -> Result<Arc<Engine<SimDisk>>> {
    let (clock, entropy) = (Clock::fixed(NOW), Entropy::seeded(8));
    open_simulated(disk, Path::new(DIR), config(), Runtime::Inline, clock, entropy)
}

/// Every record of every user's partition: offset, key, value, time.
type Records = BTreeMap<TopicPartition, Vec<(Offset, String)>>;

fn records(looked: &Looked, isolation: Isolation) -> Records {
    let mut all = Records::new();
    for info in block_on(looked.log.topics()).expect("listed") {
        for number in (0..info.partitions).filter(|_| !info.name.starts_with("__")) {
            let at = TopicPartition::new(Arc::clone(&info.name), number);
            let start = looked.offsets(&at).start;
            let of = all.entry(at.clone()).or_default();
            looked.visible(&at, isolation, start, |header, record| {
                let (key, value) = (record.key, record.value);
                let text =
                    format!("{key:?} {value:?} {} {}", record.timestamp, header.leader_epoch);
                of.push((record.offset, text));
                true
            });
        }
    }
    all
}

fn looked(disk: &SimDisk) -> Looked {
    Looked { log: Box::new(block_on(look(disk)).expect("opens to be looked at")) }
}

/// All files of the folder but those in folders of served partitions.
fn others(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in disk.list(Path::new(DIR)).expect("listed") {
        let path = Path::new(DIR).join(&entry.name);
        let name = entry.name.to_string_lossy().into_owned();
        if !entry.is_dir {
            all.insert(path.clone(), read_file(disk, &path, 1 << 30).expect("read"));
        } else if name.starts_with("__cluster") || name.ends_with("-delete") {
            for file in disk.list(&path).expect("listed") {
                let path = path.join(file.name);
                let bytes = read_file(disk, &path, 1 << 30).expect("read");
                all.insert(path, bytes);
            }
        }
    }
    all
}

fn append(log: &dyn Log, at: &TopicPartition, value: &str) -> Offset {
    let mut builder = BatchBuilder::new(Compression::None, 100);
    builder.push(NOW, Some(b"key"), Some(value.as_bytes()), &[]).expect("small");
    let batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("no codec");
    block_on(log.append(at, batch, None, Ack::Level)).expect("appended").base_offset
}

#[test]
fn what_was_taken_over_is_served_as_before_and_goes_on() {
    for folder in Folder::all() {
        let disk = SimDisk::new(1);
        lay_out(&folder, &disk, |_| true);
        let leaving = Path::new(DIR).join("gone-0.0123456789abcdef0123456789abcdef-delete");
        disk.create_dir(&leaving).expect("made");
        let before = looked(&disk);
        let uncommitted = records(&before, Isolation::ReadUncommitted);
        let committed = records(&before, Isolation::ReadCommitted);
        let positions = before.coordinators();
        let bounds: BTreeMap<_, _> =
            uncommitted.keys().map(|at| (at.clone(), before.offsets(at))).collect();
        let (mut kept, clean) = (others(&disk), folder.data(".kafka_cleanshutdown").is_some());
        drop(before);

        let refused = open(&disk).map(drop).expect_err("not a data folder yet");
        assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
        let done = take_over(&disk).unwrap_or_else(|e| panic!("{}: {e}", folder.name));
        assert!(done.settings_known && done.was_clean == clean && !done.finished);
        assert_eq!(done.opened.damaged, []);
        assert_eq!(done.opened.aborted, if clean { 1 } else { 2 }, "left open");
        let cluster = Path::new(DIR).join("__cluster_metadata-0");
        assert_eq!(done.left_behind, [cluster, leaving]);
        let dropped = "append-time-zstd: compression.type=zstd".to_owned();
        assert!(done.left_out.contains(&dropped), "{:?}", done.left_out);

        kept.remove(&Path::new(DIR).join(".kafka_cleanshutdown"));
        kept.remove(&Path::new(DIR).join(".lock"));
        let now = others(&disk);
        for (path, bytes) in kept {
            assert!(now.get(&path) == Some(&bytes), "{} was changed", path.display());
        }
        let engine = open(&disk).expect("a data folder");
        assert!(engine.report().clean, "and it was stopped cleanly");
        engine.check_coordinators().expect("whole");
        let log = Looked { log: Box::new(looking_through(&engine)) };
        assert_eq!(records(&log, Isolation::ReadUncommitted), uncommitted, "{}", folder.name);
        let mut now = records(&log, Isolation::ReadCommitted);
        for (at, all) in &mut now {
            let offsets = log.offsets(at);
            assert_eq!(offsets.last_stable, offsets.end, "{at}: nothing stays open");
            all.retain(|(offset, _)| *offset < bounds[at].last_stable);
            assert_eq!(offsets.start, bounds[at].start);
        }
        assert_eq!(now, committed, "{}", folder.name);
        let of_groups = |lines: &[String]| -> Vec<String> {
            lines.iter().filter(|line| line.starts_with("group ")).cloned().collect()
        };
        assert_eq!(of_groups(&log.coordinators()), of_groups(&positions));

        // It goes on: above every epoch and every producer's id, in segments of its own.
        let at = TopicPartition::new("epochs", 0);
        let offset = append(&*engine, &at, "ours");
        assert_eq!(offset, bounds[&at].end);
        let epoch = block_on(engine.offsets(&at)).expect("there").last_epoch;
        assert!(epoch > bounds[&at].last_epoch && bounds[&at].last_epoch >= 0);
        let hour = std::time::Duration::from_secs(60);
        let producer = block_on(engine.init_producer(None, hour)).expect("a producer");
        assert!(producer.id >= 2000, "{}", producer.id);
        let producer = block_on(engine.init_producer(Some("left-open"), hour)).expect("an old id");
        assert!(producer.epoch >= 0);
        drop(log);
        engine.close().expect("closes");
        drop(engine);
        let again = open(&disk).expect("opens again");
        let log = Looked { log: Box::new(looking_through(&again)) };
        let mut now = records(&log, Isolation::ReadUncommitted);
        let ours = now.get_mut(&at).expect("there").pop().expect("the new one");
        assert!(ours.0 == offset && now == uncommitted);
        let refused = take_over(&disk).expect_err("ours already");
        assert!(matches!(refused, Error::Invalid { .. }), "{refused}");
        drop(log);
        again.close().expect("closes");
        drop(again);

        // The way back: the folders where they were, and nothing of ours beside them.
        let (dir, log_dir) = (Path::new(DIR), Path::new(DIR).join("log"));
        for entry in disk.list(&log_dir).expect("listed") {
            if entry.is_dir && entry.name != "__thalweg_metadata-0" {
                disk.rename(&log_dir.join(&entry.name), &dir.join(&entry.name)).expect("moved");
            }
        }
        remove_all(&disk, &log_dir);
        remove_all(&disk, &dir.join("state"));
        disk.remove(&dir.join("format")).expect("removed");
        let back = records(&looked(&disk), Isolation::ReadUncommitted);
        now.get_mut(&at).expect("there").push(ours);
        assert!(back == now, "a stale side file of ours is no hindrance");
    }
}

fn remove_all(disk: &SimDisk, dir: &Path) {
    for entry in disk.list(dir).expect("listed") {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            remove_all(disk, &path);
        } else {
            disk.remove(&path).expect("removed");
        }
    }
    disk.remove_dir(dir).expect("removed");
}

/// A look beside the open engine.
fn looking_through(
    engine: &Engine<SimDisk>,
) -> Engine<thalweg_core::disk::overlay::Overlay<SimDisk>> {
    block_on(look(engine.disk())).expect("opens to be looked at")
}

/// Small partitions with all that is special.
fn small(folder: &str) -> bool {
    ["transactions", "compacted", "epochs", "empty", "__"].iter().any(|s| folder.starts_with(s))
}

#[test]
fn a_take_over_that_dies_anywhere_is_finished_by_the_next_or_never_was() {
    let folder = &Folder::all()[1];
    let fresh = |seed| {
        let disk = SimDisk::new(seed);
        lay_out(folder, &disk, small);
        disk
    };
    let disk = fresh(0);
    let uncommitted = records(&looked(&disk), Isolation::ReadUncommitted);
    assert!(uncommitted.values().map(Vec::len).sum::<usize>() > 100);
    let before = disk.operations();
    take_over(&disk).expect("nothing is in its way");
    let whole = disk.operations() - before;
    let (mut untouched, mut ours) = (0, 0);
    for crash in [Crash::Process, Crash::Power] {
        let step = if crash == Crash::Power { 2 } else { 5 };
        for point in (0..whole).step_by(step) {
            let what = format!("{crash:?} at operation {point} of {whole}");
            let disk = fresh(point);
            let before = disk.operations();
            disk.crash_at(before + point, crash);
            let died = take_over(&disk);
            if !disk.down() {
                assert!(died.is_ok(), "{what}");
                disk.crash(crash);
            }
            let disk = disk.restart();
            // Whichever it is now, all of it is there.
            match open(&disk) {
                Ok(engine) => {
                    ours += 1;
                    engine.close().expect("closes");
                }
                Err(Error::Unsupported { .. }) => untouched += 1,
                Err(e) => panic!("{what}: {e}\n{:#?}", disk.trace()),
            }
            let found = records(&looked(&disk), Isolation::ReadUncommitted);
            assert!(found == uncommitted, "{what}: it is not what it was");
            match take_over(&disk) {
                Ok(_) => {}
                Err(Error::Invalid { .. }) => {}
                Err(e) => panic!("{what}, again: {e}\n{:#?}", disk.trace()),
            }
            let engine = open(&disk).unwrap_or_else(|e| panic!("{what}, at last: {e}"));
            assert_eq!(engine.report().damaged, []);
            let found = records(&looked(&disk), Isolation::ReadUncommitted);
            assert!(found == uncommitted, "{what}: it is not what it was, at last");
            let names = disk.list(Path::new(DIR)).expect("listed");
            let left = names.iter().any(|e| e.name == "thalweg-take-over" || e.name == "epochs-0");
            assert!(!left, "{what}: names are left");
        }
    }
    assert!(untouched > 50 && ours > 50, "{untouched} {ours}");
}

#[test]
fn what_cannot_be_taken_over_is_refused_and_left_as_it_was() {
    let folder = &Folder::all()[1];
    let fresh = || {
        let disk = SimDisk::new(1);
        lay_out(folder, &disk, small);
        disk
    };
    let path = |name: &str| Path::new(DIR).join(name);
    let refused = |disk: &SimDisk| take_over(disk).expect_err("refused");
    let as_it_was = |disk: &SimDisk| {
        let names = disk.list(Path::new(DIR)).expect("listed");
        !names.iter().any(|e| ["log", "format", "thalweg-take-over"].iter().any(|n| e.name == *n))
    };

    // A broker runs.
    let disk = fresh();
    let held = disk.door_outside().lock(&path(".lock"), LockKind::WithRecordLock).expect("free");
    assert!(matches!(refused(&disk), Error::InUse { .. }) && as_it_was(&disk));
    drop(held);

    // Records that were synced once are damaged.
    let disk = fresh();
    disk.flip_bit(&path("epochs-0/00000000000000000000.log"), 100, 3).expect("flipped");
    let e = refused(&disk);
    assert!(matches!(&e, Error::Damaged { .. }) && as_it_was(&disk), "{e}");
    assert!(e.to_string().contains("/kafka/epochs-0/00000000000000000000.log"), "{e}");

    // Another partition of a topic is elsewhere.
    let disk = fresh();
    let outside = disk.door_outside();
    for file in disk.list(&path("transactions-0")).expect("listed") {
        outside.remove(&path("transactions-0").join(file.name)).expect("removed");
    }
    outside.remove_dir(&path("transactions-0")).expect("removed");
    let e = refused(&disk);
    assert!(matches!(e, Error::Unsupported { .. }) && as_it_was(&disk), "{e}");
    assert!(e.to_string().contains("transactions-0"), "{e}");
    // It can be looked at all the same.
    let looking = looked(&disk);
    let missing = block_on(looking.log.offsets(&TopicPartition::new("transactions", 0)));
    assert!(matches!(missing, Err(Error::Unknown { .. })));
    assert!(looking.offsets(&TopicPartition::new("transactions", 1)).end > 0);

    // Without hard links; then with them.
    let disk = fresh();
    let before = records(&looked(&disk), Isolation::ReadUncommitted);
    disk.set_hard_links(false);
    let e = refused(&disk);
    assert!(matches!(e, Error::Unsupported { .. }), "{e}");
    assert!(records(&looked(&disk), Isolation::ReadUncommitted) == before);
    disk.set_hard_links(true);
    take_over(&disk).expect("taken over");

    // No folder of Kafka's.
    let disk = SimDisk::new(1);
    assert!(matches!(refused(&disk), Error::Io { .. }));
    disk.create_dir(Path::new(DIR)).expect("made");
    assert!(matches!(refused(&disk), Error::Unsupported { .. }));
    assert_eq!(disk.list(Path::new(DIR)).expect("listed"), []);
}
