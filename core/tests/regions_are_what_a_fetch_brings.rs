//! Regions: the place of what a fetch would bring, which stays readable whatever becomes of the log.

mod common;

use std::os::unix::fs::FileExt;
use std::time::Duration;

use common::*;
use thalweg_core::Error;
use thalweg_core::client::log::*;
use thalweg_core::disk::real::RealDisk;
use thalweg_core::disk::sim::SimDisk;
use thalweg_core::disk::{Disk, Region};
use thalweg_core::engine::Engine;
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::ids::{Offset, TopicPartition};

fn ask(offset: Offset, max_bytes: usize) -> [FetchFrom; 1] {
    [FetchFrom { at: at("t"), offset, max_bytes }]
}

fn options(isolation: Isolation) -> FetchOptions {
    FetchOptions { isolation, max_wait: Duration::ZERO, max_bytes: 0 }
}

fn bytes_in(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len() as usize];
    region.read_exact_at(&mut bytes, 0).expect("the region is there");
    bytes
}

/// From every offset, for every size: the same batches, bounds and aborted transactions.
fn assert_same(log: &dyn Log, what: &str) {
    let offsets = now(log.offsets(&at("t"))).expect("there");
    for isolation in [Isolation::ReadCommitted, Isolation::ReadUncommitted] {
        for offset in offsets.start..=offsets.end {
            for max_bytes in [1, 150, 400, 1 << 20] {
                let fetched = now(log.fetch(&ask(offset, max_bytes), options(isolation)));
                let fetched = fetched.expect("fetched").remove(0);
                let found = now(log.fetch_regions(&ask(offset, max_bytes), options(isolation)));
                let found = found.expect("found").remove(0);
                let what = format!("{what}: {isolation:?} from {offset}, {max_bytes} bytes");
                assert_eq!(bytes_in(&found.region), fetched.batches, "{what}");
                assert_eq!(found.next_offset, fetched.next_offset, "{what}");
                assert_eq!(found.aborted, fetched.aborted, "{what}");
                assert_eq!(found.offsets, fetched.offsets, "{what}");
            }
        }
    }
    for offset in [offsets.start - 1, offsets.end + 1] {
        let e = now(log.fetch_regions(&ask(offset, 1), options(Isolation::ReadCommitted)));
        let e = e.expect_err("nothing is there");
        assert!(matches!(e, Error::OffsetOutOfRange { .. }), "{what}: {e}");
    }
}

#[test]
fn regions_hold_the_bytes_that_a_fetch_brings() {
    for level in [Level::Os, Level::Disk] {
        let disk = SimDisk::new(5);
        let log = open(&disk, level, 1).expect("opens");
        create(&*log, "t", 1, 400).expect("created");
        let producer = init(&*log, "tx");
        for n in 0..9 {
            let some: Vec<String> = (0..=n % 3).map(|i| format!("{n}.{i}")).collect();
            let some: Vec<&str> = some.iter().map(String::as_str).collect();
            now(log.append(&at("t"), batch(&some), None, Ack::Level)).expect("appended");
        }
        append_in(&*log, "tx", producer, &at("t"), 0, "aborted").expect("written");
        let producer = end(&*log, "tx", producer, TransactionEnd::Abort).expect("aborted");
        now(log.tick()).expect("tick");
        append_in(&*log, "tx", producer, &at("t"), 0, "open").expect("written");
        append(&*log, &at("t"), "behind it").expect("appended");
        assert_same(&*log, "growing");
        assert!(bases(&disk, &folder("t")).len() > 2, "several segments");
        let log = reopen_cleanly(&disk, log, level);
        assert_same(&*log, "at rest");
        now(log.delete_records(&at("t"), 7)).expect("deleted");
        assert_same(&*log, "from the log start");
    }
}

/// A reader takes a region; then its records are deleted, their files go, and the topic with them.
#[test]
fn a_region_is_readable_after_its_records_were_deleted() {
    let disk = SimDisk::new(6);
    let clock = Clock::fixed(NOW);
    // So few open files that the log does not keep this one for itself.
    let config = thalweg_core::config::LogConfig { open_files: 2, ..config(Level::Disk) };
    let log = open_at(&disk, config, clock.clone(), 1).expect("opens");
    create(&*log, "t", 1, 250).expect("created");
    for n in 0..12 {
        append(&*log, &at("t"), &format!("value {n}")).expect("appended");
    }
    let all = options(Isolation::ReadCommitted);
    let fetched = now(log.fetch(&ask(0, 1 << 20), all)).expect("fetched").remove(0);
    let held = now(log.fetch_regions(&ask(0, 1 << 20), all)).expect("found").remove(0);
    assert!(held.region.descriptor().is_none(), "a simulated disk has none");
    now(log.delete_records(&at("t"), 7)).expect("deleted");
    assert_eq!(bytes_in(&held.region), fetched.batches, "deleted");
    clock.advance(60_000);
    now(log.tick()).expect("tick");
    assert!(disk.stat(&segment("t", 0, "log")).is_err(), "its file is gone");
    assert_eq!(names(&disk, &folder("t"), ".deleted"), [""; 0]);
    now(log.delete_topic("t")).expect("deleted");
    assert_eq!(bytes_in(&held.region), fetched.batches, "removed");
    // And nothing beside it.
    let mut more = vec![0; held.region.len() as usize + 1];
    let e = held.region.read_exact_at(&mut more, 0).expect_err("not in the region");
    assert_eq!(e.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_region_of_a_real_disk_names_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (clock, entropy) = (Clock::fixed(NOW), Entropy::seeded(1));
    let dir = folder.path().join("data");
    let config = config(Level::Os);
    let log = Engine::open(RealDisk, &dir, config, Runtime::Stepped, clock, entropy);
    let log = now(log).expect("opens");
    create(&log, "t", 1, 1 << 20).expect("created");
    for n in 0..12 {
        append(&log, &TopicPartition::new("t", 0), &format!("value {n}")).expect("appended");
    }
    let all = options(Isolation::ReadCommitted);
    for offset in [0, 7] {
        let fetched = now(log.fetch(&ask(offset, 300), all)).expect("fetched").remove(0);
        let found = now(log.fetch_regions(&ask(offset, 300), all)).expect("found").remove(0);
        let (descriptor, position) = found.region.descriptor().expect("a file");
        let file = std::fs::File::from(descriptor.try_clone_to_owned().expect("cloned"));
        let mut bytes = vec![0; found.region.len() as usize];
        file.read_exact_at(&mut bytes, position).expect("read");
        assert_eq!(bytes, fetched.batches);
        assert_eq!(bytes, bytes_in(&found.region));
    }
    log.close().expect("closes");
}
