//! Random histories against models: readers of committed records, lookups by offset, and the producer
//! state that is rebuilt from any snapshot, over segments so small that everything crosses a roll.

mod common;

use std::collections::BTreeMap;

use common::*;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use thalweg_core::client::log::*;
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::ids::{Offset, ProducerIdentity};

/// What happens next in a partition with three transactional producers and one that needs none.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Producer `who` writes a batch of `count` records in its transaction.
    Write { who: usize, count: usize },
    /// Producer `who` ends its transaction, if it has one.
    End { who: usize, commit: bool },
    /// Records outside of any transaction.
    Plain { count: usize },
    /// Time passes.
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3usize, 1..4usize).prop_map(|(who, count)| Step::Write { who, count }),
        4 => (0..3usize, any::<bool>()).prop_map(|(who, commit)| Step::End { who, commit }),
        2 => (1..4usize).prop_map(|count| Step::Plain { count }),
        1 => Just(Step::Tick),
    ]
}

/// What the partition must hold.
#[derive(Default)]
struct Model {
    /// All records by offset: value and the number of the transaction.
    records: BTreeMap<Offset, (String, Option<usize>)>,
    /// How transactions ended; `None` for open ones, with their first offset.
    transactions: Vec<(Offset, Option<bool>)>,
}

impl Model {
    fn last_stable(&self, end: Offset) -> Offset {
        let open = self.transactions.iter().filter(|(_, ended)| ended.is_none());
        open.map(|(first, _)| *first).min().unwrap_or(end)
    }

    fn committed_from(&self, offset: Offset, end: Offset) -> Vec<(Offset, String)> {
        let below = offset.min(end)..self.last_stable(end).max(offset.min(end));
        let seen = |transaction: &Option<usize>| match transaction {
            None => true,
            Some(number) => self.transactions[*number].1 == Some(true),
        };
        let records = self.records.range(below).filter(|(_, (_, transaction))| seen(transaction));
        records.map(|(offset, (value, _))| (*offset, value.clone())).collect()
    }
}

struct Writer {
    identity: ProducerIdentity,
    sequence: i32,
    open: Option<usize>,
}

const IDS: [&str; 3] = ["one", "two", "three"];

fn play(engine: &SimEngine, steps: &[Step], segment_bytes: u32) -> Model {
    let log: &dyn Log = &**engine;
    create(log, "t", 1, segment_bytes).expect("created");
    let mut writers = IDS.map(|id| Writer { identity: init(log, id), sequence: 0, open: None });
    let mut model = Model::default();
    for (n, step) in steps.iter().enumerate() {
        let values = |count: usize| -> Vec<String> {
            (0..count).map(|i| format!("{n}.{i} {}", "x".repeat(n % 40))).collect()
        };
        match *step {
            Step::Write { who, count } => {
                let writer = &mut writers[who];
                let values = values(count);
                let texts: Vec<&str> = values.iter().map(String::as_str).collect();
                let bytes = batch_of(writer.identity, writer.sequence, true, &texts);
                let stored = now(log.append(&at("t"), bytes, Some(IDS[who]), Ack::Written))
                    .expect("written");
                let transaction = *writer.open.get_or_insert_with(|| {
                    model.transactions.push((stored.base_offset, None));
                    model.transactions.len() - 1
                });
                writer.sequence += count as i32;
                for (offset, value) in (stored.base_offset..).zip(values) {
                    model.records.insert(offset, (value, Some(transaction)));
                }
            }
            Step::End { who, commit } => {
                let writer = &mut writers[who];
                let Some(transaction) = writer.open.take() else { continue };
                let how = if commit { TransactionEnd::Commit } else { TransactionEnd::Abort };
                writer.identity = end(log, IDS[who], writer.identity, how).expect("ended");
                writer.sequence = 0;
                model.transactions[transaction].1 = Some(commit);
            }
            Step::Plain { count } => {
                let values = values(count);
                let texts: Vec<&str> = values.iter().map(String::as_str).collect();
                let stored =
                    now(log.append(&at("t"), batch(&texts), None, Ack::Level)).expect("written");
                for (offset, value) in (stored.base_offset..).zip(values) {
                    model.records.insert(offset, (value, None));
                }
            }
            Step::Tick => now(engine.tick()).expect("tick"),
        }
    }
    model
}

/// From every offset, in small and in large reads, a reader sees what the model has.
fn assert_reads_as(log: &dyn Log, model: &Model, what: &str) -> Result<(), TestCaseError> {
    let offsets = now(log.offsets(&at("t"))).expect("there");
    prop_assert_eq!(offsets.last_stable, model.last_stable(offsets.end), "{}", what);
    for from in 0..=offsets.end {
        for bytes in [1, 600] {
            let read = |isolation| records_from(log, &at("t"), isolation, from, bytes);
            let found = read(Isolation::ReadCommitted).expect("read");
            prop_assert_eq!(
                found,
                model.committed_from(from, offsets.end),
                "{} from {}",
                what,
                from
            );
        }
        let all = records_from(log, &at("t"), Isolation::ReadUncommitted, from, 300).expect("read");
        let wanted: Vec<(Offset, String)> =
            model.records.range(from..).map(|(o, (value, _))| (*o, value.clone())).collect();
        prop_assert_eq!(all, wanted, "{}: everything from {}", what, from);
    }
    Ok(())
}

/// Every answer begins with the batch that holds the offset asked for, whatever became of the indexes.
fn assert_lookups_hit(log: &dyn Log, what: &str) -> Result<(), TestCaseError> {
    let end = now(log.offsets(&at("t"))).expect("there").high_watermark;
    let options = FetchOptions {
        isolation: Isolation::ReadUncommitted,
        max_wait: std::time::Duration::ZERO,
        max_bytes: 0,
    };
    for offset in 0..end {
        let from = FetchFrom { at: at("t"), offset, max_bytes: 1 };
        let bytes = now(log.fetch(&[from], options)).expect("read").remove(0).batches;
        let header = thalweg_core::batch::BatchHeader::parse(&bytes).expect("a batch");
        let holds = header.base_offset..=header.last_offset();
        prop_assert!(holds.contains(&offset), "{}: {:?} for {}", what, holds, offset);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn readers_see_committed_records_and_no_others(
        steps in prop::collection::vec(step(), 1..60),
        segment_bytes in 200..900u32,
        level in prop_oneof![Just(Level::Os), Just(Level::Disk)],
        stop in prop_oneof![Just(None), Just(Some(Crash::Process))],
        seed in any::<u64>(),
    ) {
        let disk = SimDisk::new(seed);
        let log = open(&disk, level, 1).expect("opens");
        let mut model = play(&log, &steps, segment_bytes);
        // Everything written becomes durable, and decisions complete.
        now(log.tick()).expect("tick");
        now(log.tick()).expect("tick");
        assert_reads_as(&*log, &model, "before")?;
        log.check_coordinators().expect("equal");

        // Whoever opens the log aborts what is open.
        let (disk, log) = match stop {
            None => (disk.clone(), reopen_cleanly(&disk, log, level)),
            Some(crash) => { drop(log); reopen(&disk, crash, level) }
        };
        model.transactions.iter_mut().for_each(|(_, ended)| _ = ended.get_or_insert(false));
        assert_reads_as(&*log, &model, "after")?;
        assert_decided(&*log, "t", "after");
        // And again, with all of it in sealed segments.
        let log = reopen_cleanly(&disk, log, level);
        assert_reads_as(&*log, &model, "after a clean stop")?;
    }

    #[test]
    fn lookups_find_what_a_scan_finds(
        steps in prop::collection::vec(step(), 20..60),
        segment_bytes in 400..3000u32,
        harm in 0..4u8,
        seed in any::<u64>(),
    ) {
        let disk = SimDisk::new(seed);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        play(&log, &steps, segment_bytes);
        now(log.tick()).expect("tick");
        assert_lookups_hit(&*log, "growing")?;
        log.close().expect("closes");
        drop(log);
        // An index only ever narrows a search: lost, cut, swapped or filled with rubbish it costs time.
        let indexes = names(&disk, &folder("t"), ".index");
        for (n, name) in indexes.iter().enumerate() {
            let path = folder("t").join(name);
            let bytes = bytes_of(&disk, &path);
            match harm {
                0 => {}
                1 => disk.remove(&path).expect("removed"),
                2 => overwrite(&disk, &path, &bytes[..bytes.len().saturating_sub(3)]),
                _ => {
                    let rubbish: Vec<u8> = (0..bytes.len()).map(|i| (i * 31 + n) as u8 & 0x0f).collect();
                    overwrite(&disk, &path, &rubbish);
                }
            }
        }
        let log = open(&disk, Level::Disk, 2).expect("opens");
        prop_assert_eq!(&log.report().damaged, &[]);
        assert_lookups_hit(&*log, "sealed")?;
    }

    #[test]
    fn producers_are_the_same_from_any_snapshot(
        steps in prop::collection::vec(step(), 20..60),
        segment_bytes in 200..700u32,
        kept in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let disk = SimDisk::new(seed);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        play(&log, &steps, segment_bytes);
        now(log.tick()).expect("tick");
        let end = now(log.offsets(&at("t"))).expect("there").end;
        // Closing writes the live state; rolls wrote it as it was then.
        log.close().expect("closes");
        drop(log);
        let live = bytes_of(&disk, &segment("t", end, "snapshot"));
        let rolled: BTreeMap<Offset, Vec<u8>> = bases(&disk, &folder("t"))
            .into_iter()
            .filter(|base| disk.stat(&segment("t", *base, "snapshot")).is_ok())
            .map(|base| (base, bytes_of(&disk, &segment("t", base, "snapshot"))))
            .collect();
        // One of them is left, or none at all; without the hint everything above it is read again.
        for name in names(&disk, &folder("t"), ".snapshot") {
            disk.remove(&folder("t").join(name)).expect("removed");
        }
        let all: Vec<_> = rolled.iter().collect();
        if !all.is_empty() && seed % 4 != 0 {
            let (base, bytes) = all[kept.index(all.len())];
            overwrite(&disk, &segment("t", *base, "snapshot"), bytes);
        }
        disk.remove(&folder("t").join("flushed-offset")).expect("removed");
        let opening = thalweg_core::log::Opening {
            at: at("t"),
            dir: folder("t"),
            config: TopicConfig { segment_bytes, ..TopicConfig::default() },
            clean: false,
            page_cache_bytes: None, recovery_bytes: 64 << 20, gaps: false,
        epoch_max: 1 << 20,
        };
        let (mut log, _) = thalweg_core::log::PartitionLog::open(&thalweg_core::disk::handles::Handles::new(disk.clone(), 8), &opening).expect("opens");
        for (base, bytes) in &rolled {
            // What recovery sealed again says the same, byte for byte.
            if let Ok(found) = thalweg_core::disk::read_file(&disk, &segment("t", *base, "snapshot"), 1 << 20) {
                prop_assert_eq!(&found, bytes, "snapshot {}", base);
            }
        }
        log.close().expect("closes");
        prop_assert_eq!(bytes_of(&disk, &segment("t", end, "snapshot")), live);
    }
}
