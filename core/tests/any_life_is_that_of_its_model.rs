//! Random lives of one partition against a model log: records in and outside of transactions, deletion,
//! retention while time moves, settings altered, clean stops, kills and power losses, also in recovery.
//!
//! ```text
//!   the model:   0 ..... start ................ durable ........... end
//!                gone for ever | there for ever  | whatever a crash leaves: whole batches, none missing
//! ```
//!
//! `PROPTEST_CASES=50000` lives so many lives of each level, 96 when it is not set.
//!
//! What a crash leaves open (how far the log reaches, whether a commit, a deletion or a setting that was
//! under way came about) the model learns from the log, once, and holds it to that from then on.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use thalweg_core::batch::BatchBuilder;
use thalweg_core::client::log::*;
use thalweg_core::config::Compression;
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::engine::clock::Clock;
use thalweg_core::ids::{Offset, ProducerIdentity, Timestamp};
use thalweg_core::{Error, Result};

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Records outside of any transaction, this many milliseconds old.
    Plain { count: usize, age: i64 },
    /// Producer `who` writes a batch in its transaction.
    Write { who: usize, count: usize },
    /// Producer `who` ends its transaction, if it has one.
    End { who: usize, commit: bool },
    /// That many sixteenths of what is there are deleted.
    Delete { part: i64 },
    /// Time passes.
    Time { ms: i64 },
    /// A setting gets a value, or its default back.
    Alter { setting: usize, value: usize },
    /// What runs by itself runs.
    Tick,
    /// Reads everything.
    Look,
    /// Stops cleanly, and opens.
    Stop,
    /// So many operations of the disk from now the process dies or the power goes; and, maybe, so many
    /// operations into the recovery once more.
    Crash { after: u64, power: bool, again: Option<u64> },
}

fn step() -> impl Strategy<Value = Step> {
    let again = prop_oneof![Just(None), (1..60u64).prop_map(Some)];
    prop_oneof![
        4 => (1..4usize, 0..3000i64).prop_map(|(count, age)| Step::Plain { count, age }),
        6 => (0..2usize, 1..4usize).prop_map(|(who, count)| Step::Write { who, count }),
        4 => (0..2usize, any::<bool>()).prop_map(|(who, commit)| Step::End { who, commit }),
        2 => (0..=16i64).prop_map(|part| Step::Delete { part }),
        2 => (1..2000i64).prop_map(|ms| Step::Time { ms }),
        2 => (0..SETTINGS.len(), 0..3usize).prop_map(|(setting, value)| Step::Alter { setting, value }),
        3 => Just(Step::Tick),
        1 => Just(Step::Look),
        1 => Just(Step::Stop),
        3 => (0..120u64, any::<bool>(), again)
            .prop_map(|(after, power, again)| Step::Crash { after, power, again }),
    ]
}

const SETTINGS: [(&str, [Option<&str>; 3]); 5] = [
    ("segment.bytes", [Some("250"), Some("700"), Some("4000")]),
    ("retention.ms", [Some("1000"), Some("100000"), None]),
    ("retention.bytes", [Some("600"), Some("2000"), None]),
    ("segment.ms", [Some("700"), None, None]),
    ("flush.messages", [Some("1"), Some("5"), None]),
];

const IDS: [&str; 2] = ["one", "two"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Open,
    Committed,
    Aborted,
    /// Its end was under way when the program died.
    Unknown,
}

#[derive(Clone, Debug)]
struct Kept {
    time: Timestamp,
    value: String,
    /// The number of its transaction.
    transaction: Option<usize>,
}

#[derive(Default)]
struct Writer {
    identity: Option<ProducerIdentity>,
    sequence: i32,
    open: Option<usize>,
}

/// The partition as it must be, and the program that has it.
struct Life {
    disk: SimDisk,
    clock: Clock,
    level: Level,
    log: SimEngine,
    /// How the next crash is meant, and what follows in its recovery.
    armed: Option<(Crash, Option<u64>)>,
    opened: u64,
    writers: [Writer; 2],
    records: BTreeMap<Offset, Kept>,
    /// One past the last record of each batch.
    ends: BTreeSet<Offset>,
    transactions: Vec<Fate>,
    start: Offset,
    /// Everything below survives the power, too.
    durable: Offset,
    /// Everything below was answered.
    written: Offset,
    /// As far as the log reached, markers included.
    reached: Offset,
    config: TopicConfig,
    /// A deletion, or a change of settings, that was not answered.
    deleting: Option<Offset>,
    altering: bool,
}

impl Life {
    fn begin(level: Level, seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        let clock = Clock::fixed(NOW);
        let log = open_at(&disk, config(level), clock.clone(), 1).expect("opens");
        create(&*log, "t", 1, 400).expect("created");
        let config = now(log.topic("t")).expect("there").config;
        let mut life = Self {
            disk,
            clock,
            level,
            log,
            armed: None,
            opened: 1,
            writers: Default::default(),
            records: BTreeMap::new(),
            ends: BTreeSet::new(),
            transactions: Vec::new(),
            start: 0,
            durable: 0,
            written: 0,
            reached: 0,
            config,
            deleting: None,
            altering: false,
        };
        life.take_writers().expect("nothing was armed");
        life
    }

    fn take_writers(&mut self) -> Result<()> {
        for (writer, id) in self.writers.iter_mut().zip(IDS) {
            let init = self.log.init_producer(Some(id), std::time::Duration::from_secs(60));
            *writer = Writer { identity: Some(now(init)?), ..Writer::default() };
        }
        Ok(())
    }

    fn offsets(&self) -> Result<PartitionOffsets> {
        now(self.log.offsets(&at("t")))
    }

    fn batch(&self, n: usize, count: usize, age: i64, by: Option<&Writer>) -> (Bytes, Vec<Kept>) {
        let time = self.clock.now() - age;
        let mut builder = BatchBuilder::new(Compression::None, 512);
        let kept: Vec<Kept> = (0..count)
            .map(|i| {
                let value = format!("{n}.{i} {}", "x".repeat(n % 40));
                Kept { time: time + i as i64, value, transaction: by.and_then(|w| w.open) }
            })
            .collect();
        for record in &kept {
            builder.push(record.time, None, Some(record.value.as_bytes()), &[]).expect("small");
        }
        let identity = by.and_then(|w| w.identity);
        let bytes = match (identity, by) {
            (Some(identity), Some(by)) => builder.finish(identity, by.sequence, true),
            _ => builder.finish(ProducerIdentity::NONE, -1, false),
        };
        (bytes.expect("a batch"), kept)
    }

    /// The model has the records before the log is asked to: a crash may leave them.
    fn expect(&mut self, base: Offset, kept: Vec<Kept>) -> Offset {
        let next = base + kept.len() as Offset;
        self.ends.insert(next);
        self.records.extend((base..).zip(kept));
        next
    }

    /// Takes a step. An error is one of the disk that went down, or of this test.
    fn take(&mut self, n: usize, step: Step) -> Result<()> {
        match step {
            Step::Plain { count, age } => {
                let end = self.offsets()?.end;
                let (bytes, kept) = self.batch(n, count, age, None);
                let next = self.expect(end, kept);
                let stored = now(self.log.append(&at("t"), bytes, None, Ack::Level))?;
                assert_eq!((stored.base_offset, stored.next_offset), (end, next));
                self.written = next;
                if self.level == Level::Disk {
                    self.durable = next;
                }
            }
            Step::Write { who, count } => {
                if self.writers[who].open.is_none() {
                    self.transactions.push(Fate::Open);
                    self.writers[who].open = Some(self.transactions.len() - 1);
                }
                let end = self.offsets()?.end;
                let (bytes, kept) = self.batch(n, count, 0, Some(&self.writers[who]));
                let next = self.expect(end, kept);
                let stored = now(self.log.append(&at("t"), bytes, Some(IDS[who]), Ack::Written))?;
                assert_eq!((stored.base_offset, stored.next_offset), (end, next));
                self.writers[who].sequence += count as i32;
                self.written = next;
            }
            Step::End { who, commit } => {
                let Some(transaction) = self.writers[who].open.take() else { return Ok(()) };
                let (how, fate) = match commit {
                    true => (TransactionEnd::Commit, Fate::Committed),
                    false => (TransactionEnd::Abort, Fate::Aborted),
                };
                if commit {
                    self.transactions[transaction] = Fate::Unknown;
                }
                let identity = self.writers[who].identity.expect("taken at open");
                let next = now(self.log.end_transaction(IDS[who], identity, how))?;
                self.writers[who] = Writer { identity: Some(next), ..Writer::default() };
                self.transactions[transaction] = fate;
                if commit && self.level == Level::Disk {
                    // Its own records, and what lies before them.
                    let of_it = |kept: &Kept| kept.transaction == Some(transaction);
                    let last = self.records.iter().rfind(|(_, kept)| of_it(kept));
                    self.durable = self.durable.max(last.map_or(0, |(offset, _)| offset + 1));
                }
            }
            Step::Delete { part } => {
                let offsets = self.offsets()?;
                let to = self.start + (offsets.last_stable - self.start) * part / 16;
                self.deleting = Some(to);
                let start = now(self.log.delete_records(&at("t"), to))?;
                assert_eq!(start, to.max(self.start));
                (self.start, self.deleting) = (start, None);
            }
            Step::Time { ms } => self.clock.advance(ms),
            Step::Alter { setting, value } => {
                let (name, values) = SETTINGS[setting];
                let value = values[value].map(str::to_owned);
                self.altering = true;
                let changes = BTreeMap::from([(name.to_owned(), value)]);
                self.config = now(self.log.alter_topic("t", &changes))?.config;
                self.altering = false;
            }
            Step::Tick => {
                now(self.log.tick())?;
                self.check_start("retention", false)?;
            }
            Step::Look => {
                for _ in 0..2 {
                    now(self.log.tick())?;
                }
                self.check_start("retention", false)?;
                self.look("alive")?;
            }
            Step::Stop => {
                self.log.close()?;
                self.open(false)?;
                assert!(self.log.report().clean);
            }
            // One at a time.
            Step::Crash { .. } if self.armed.is_some() => {}
            Step::Crash { after, power, again } => {
                let crash = if power { Crash::Power } else { Crash::Process };
                self.armed = Some((crash, again));
                self.disk.crash_at(self.disk.operations() + after, crash);
            }
        }
        Ok(())
    }

    /// The log start only rises, and by nothing but what was asked for, what was under way, or what the
    /// topic's retention lets go of.
    fn check_start(&mut self, what: &str, shrank: bool) -> Result<()> {
        let offsets = self.offsets()?;
        let (before, start) = (self.start, offsets.start);
        assert!(start >= before, "{what}: the log start fell from {before} to {start}");
        let asked = start == before || Some(start) == self.deleting;
        // Nothing of a topic that no setting limits.
        let by_size = self.config.retention_bytes.is_some() || self.altering;
        let late = |record: &Kept| match self.config.retention_ms {
            Some(keep) => self.clock.now() - record.time > keep.cast_signed(),
            None => self.altering,
        };
        let by_time = self.records.range(before..start).all(|(_, record)| late(record));
        let limited = self.config.retention_ms.is_some() || self.altering;
        assert!(
            asked || by_size || (by_time && limited),
            "{what}: the log start rose from {before} to {start}"
        );
        assert!(start <= offsets.last_stable, "{what}: {offsets:?}");
        let only_by_size = !asked && !limited && !shrank;
        if let (Some(keep), true) = (self.config.retention_bytes, only_by_size) {
            let mut left = 0;
            let io = |e| Error::io("look at", &folder("t"), e);
            for entry in self.disk.list(&folder("t")).map_err(io)? {
                let name = entry.name.to_string_lossy().into_owned();
                let base = name.strip_suffix(".log").and_then(|base| base.parse::<Offset>().ok());
                if base.is_some_and(|base| base >= start) {
                    left += self.disk.stat(&folder("t").join(name)).map_err(io)?.len;
                }
            }
            assert!(left >= keep || self.altering, "{what}: {left} bytes of {keep} are left");
        }
        self.start = start;
        Ok(())
    }

    /// Opens after a stop, and takes over what is there.
    fn open(&mut self, power: bool) -> Result<()> {
        self.opened += 1;
        let (config, clock) = (config(self.level), self.clock.clone());
        self.log = open_at(&self.disk, config, clock, self.opened)?;
        assert_eq!(self.log.report().damaged, []);
        self.learn(power)?;
        self.take_writers()
    }

    /// The disk went down: starts over, as often as it goes down again.
    fn recover(&mut self) {
        let (crash, mut again) = self.armed.take().expect("only a crash takes the disk down");
        loop {
            self.disk = self.disk.restart();
            if let Some(after) = again.take() {
                self.armed = Some((crash, None));
                self.disk.crash_at(self.disk.operations() + after, crash);
            }
            match self.open(crash == Crash::Power) {
                Ok(()) => return,
                Err(e) => assert!(self.disk.down(), "recovery: {e}"),
            }
            self.armed = None;
        }
    }

    /// What a crash left open is settled by what is there now, which is durable.
    fn learn(&mut self, power: bool) -> Result<()> {
        let config = now(self.log.topic("t")).expect("there").config;
        assert!(config == self.config || self.altering, "{config:?} where {:?}", self.config);
        let found = records_from(
            &*self.log,
            &at("t"),
            Isolation::ReadUncommitted,
            self.offsets()?.start,
            500,
        )?;
        // At level `os` a power loss may take what made the log large enough for its front to go; markers
        // that recovery wrote may be in its place.
        let forgives = power && self.level == Level::Os;
        let end = found.last().map_or(self.offsets()?.start, |(last, _)| last + 1);
        let lost = self.records.range(end..).next().is_some();
        let shrank = forgives && (lost || self.offsets()?.end < self.reached);
        self.check_start("recovery", shrank)?;
        (self.config, self.altering, self.deleting) = (config, false, None);
        let kept = if power { self.durable } else { self.written };
        if let Some((lost, record)) = self.records.range(end..kept.max(end)).next() {
            panic!("{lost} was answered and is lost: {record:?}; durable below {}", self.durable);
        }
        let whole = end == self.start || self.ends.contains(&end);
        assert!(whole, "the log ends at {end}, inside a batch");
        self.records.split_off(&end);
        self.ends.retain(|&next| next <= end);
        let seen = self.offsets_seen(Isolation::ReadCommitted)?;
        for (number, fate) in self.transactions.iter_mut().enumerate() {
            let of_it = |(offset, kept): (&Offset, &Kept)| {
                (kept.transaction == Some(number)).then_some(*offset)
            };
            let all: Vec<Offset> = self.records.range(self.start..).filter_map(of_it).collect();
            let visible = all.iter().filter(|offset| seen.contains(offset)).count();
            assert!(visible == 0 || visible == all.len(), "{number}: {visible} of {}", all.len());
            *fate = match *fate {
                Fate::Open | Fate::Aborted => Fate::Aborted,
                Fate::Committed if !forgives => Fate::Committed,
                _ if visible > 0 => Fate::Committed,
                // Also one that is gone altogether: it never comes back.
                _ => Fate::Aborted,
            };
        }
        let offsets = self.offsets()?;
        assert_eq!(offsets.last_stable, offsets.end, "opened, and undecided");
        (self.durable, self.written) = (offsets.end, offsets.end);
        self.look("opened")
    }

    fn offsets_seen(&self, isolation: Isolation) -> Result<BTreeSet<Offset>> {
        let found = records_from(&*self.log, &at("t"), isolation, self.start, 500)?;
        Ok(found.into_iter().map(|(offset, _)| offset).collect())
    }

    /// Readers see what the model has, from wherever they begin.
    fn look(&self, what: &str) -> Result<()> {
        let offsets = self.offsets()?;
        let open =
            |kept: &Kept| kept.transaction.is_some_and(|t| self.transactions[t] == Fate::Open);
        let first_open =
            self.records.iter().find(|(_, kept)| open(kept)).map(|(offset, _)| *offset);
        let stable = first_open.unwrap_or(offsets.end);
        assert_eq!(offsets.last_stable, stable, "{what}");
        let committed =
            |kept: &Kept| kept.transaction.is_none_or(|t| self.transactions[t] == Fate::Committed);
        let middle = self.start.midpoint(offsets.end);
        for (from, bytes) in [(self.start, 1), (self.start, 900), (middle, 300), (offsets.end, 1)] {
            let read = |isolation| records_from(&*self.log, &at("t"), isolation, from, bytes);
            let wanted = |to: Offset, seen: &dyn Fn(&Kept) -> bool| {
                let records = self.records.range(from..to.max(from)).filter(|(_, kept)| seen(kept));
                records.map(|(offset, kept)| (*offset, kept.value.clone())).collect::<Vec<_>>()
            };
            let found = read(Isolation::ReadUncommitted)?;
            assert_eq!(found, wanted(offsets.end, &|_| true), "{what}: everything from {from}");
            let found = read(Isolation::ReadCommitted)?;
            assert_eq!(found, wanted(stable, &committed), "{what}: committed from {from}");
        }
        if self.start > 0 {
            let e = records_from(&*self.log, &at("t"), Isolation::ReadCommitted, self.start - 1, 1);
            assert!(matches!(e, Err(Error::OffsetOutOfRange { .. })), "{what}: {e:?}");
        }
        Ok(())
    }

    /// All of a life. Returns how many crashes it had.
    fn live(mut self, steps: &[Step]) -> usize {
        let mut crashes = 0;
        let end = [Step::Look, Step::Stop, Step::Look];
        for (n, step) in steps.iter().chain(&end).enumerate() {
            match self.take(n, *step).and_then(|()| self.offsets()) {
                Ok(offsets) => self.reached = offsets.end,
                Err(e) => assert!(self.disk.down(), "{step:?}: {e}"),
            }
            if self.disk.down() {
                crashes += 1;
                self.recover();
            }
        }
        crashes
    }
}

/// How many lives a run has.
fn lives() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(96), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(lives())]

    #[test]
    fn at_level_disk_a_partition_is_what_its_model_is(
        steps in prop::collection::vec(step(), 1..70),
        seed in any::<u64>(),
    ) {
        Life::begin(Level::Disk, seed).live(&steps);
    }

    #[test]
    fn at_level_os_a_partition_is_what_its_model_is(
        steps in prop::collection::vec(step(), 1..70),
        seed in any::<u64>(),
    ) {
        Life::begin(Level::Os, seed).live(&steps);
    }
}

/// The lives are not idle: most have crashes, and go on after them.
#[test]
fn lives_have_crashes() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let lives = prop::collection::vec(step(), 40..70);
    let crashes: usize = (0..20)
        .map(|seed| {
            let steps = lives.new_tree(&mut runner).expect("steps").current();
            Life::begin(Level::Disk, seed).live(&steps)
        })
        .sum();
    assert!(crashes >= 20, "{crashes} crashes in 20 lives");
}
