//! Two hundred seeds of a program that appends, commits, aborts, stops and starts, on a machine that
//! kills it or loses its power at any operation, in recovery too. A model says what must be there.

mod common;

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use common::*;
use thalweg_core::Result;
use thalweg_core::client::log::*;
use thalweg_core::config::LogConfig;
use thalweg_core::disk::sim::{Call, Crash, Failure, Rng, SimDisk};
use thalweg_core::engine::clock::Clock;
use thalweg_core::ids::ProducerIdentity;

/// How far a value has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Acknowledged, or seen: it stays.
    Kept,
    /// Under way when the program died: the whole group is there, or none of it.
    Open,
    /// Aborted, or found missing: it never shows.
    Gone,
}

/// Values that are there together or not at all. Each goes to both topics when `transactional`.
struct Group {
    values: Vec<String>,
    transactional: bool,
    fate: Fate,
}

struct Run {
    rng: Rng,
    disk: SimDisk,
    level: Level,
    coordinators: u32,
    groups: Vec<Group>,
    next: usize,
    /// Whether what was not synced may be gone since the model was last compared.
    lost_power: bool,
}

const TOPICS: [&str; 2] = ["a", "b"];
const IDS: [&str; 2] = ["one", "two"];

struct Open {
    identity: ProducerIdentity,
    sequence: i32,
    group: Option<usize>,
}

impl Run {
    fn value(&mut self) -> String {
        self.next += 1;
        let length = self.rng.below(60) as usize;
        format!("{} {}", self.next, "x".repeat(length))
    }

    /// One life of the program, until it is cut short or has had enough.
    fn live(&mut self, seed: u64) -> Result<()> {
        let settings =
            LogConfig { coordinator_partitions: self.coordinators, ..config(self.level) };
        let log = open_at(&self.disk, settings, Clock::fixed(NOW), seed)?;
        for topic in TOPICS {
            create(&*log, topic, 1, 500)?;
        }
        self.compare(&log);
        let mut producers = Vec::new();
        for id in IDS {
            let identity = now(log.init_producer(Some(id), Duration::from_secs(60)))?;
            producers.push(Open { identity, sequence: 0, group: None });
        }
        for _ in 0..4 + self.rng.below(14) {
            match self.rng.below(10) {
                0..=1 => {
                    let value = self.value();
                    let group = Group {
                        values: vec![value.clone()],
                        transactional: false,
                        fate: Fate::Open,
                    };
                    self.groups.push(group);
                    let at = at(TOPICS[0]);
                    append(&*log, &at, &value)?;
                    self.groups.last_mut().expect("pushed").fate = Fate::Kept;
                }
                2..=5 => {
                    let who = self.rng.below(2) as usize;
                    let value = self.value();
                    let producer = &mut producers[who];
                    let group = *producer.group.get_or_insert_with(|| {
                        // Without its end it is gone, whatever happens.
                        self.groups.push(Group {
                            values: Vec::new(),
                            transactional: true,
                            fate: Fate::Gone,
                        });
                        self.groups.len() - 1
                    });
                    self.groups[group].values.push(value.clone());
                    for topic in TOPICS {
                        append_in(
                            &*log,
                            IDS[who],
                            producer.identity,
                            &at(topic),
                            producer.sequence,
                            &value,
                        )?;
                    }
                    producer.sequence += 1;
                }
                6..=8 => {
                    let who = self.rng.below(2) as usize;
                    let producer = &mut producers[who];
                    let Some(group) = producer.group.take() else { continue };
                    let commit = self.rng.below(3) > 0;
                    if commit {
                        self.groups[group].fate = Fate::Open;
                    }
                    let how = if commit { TransactionEnd::Commit } else { TransactionEnd::Abort };
                    producer.identity = end(&*log, IDS[who], producer.identity, how)?;
                    producer.sequence = 0;
                    if commit {
                        self.groups[group].fate = Fate::Kept;
                    }
                }
                _ => now(log.tick())?,
            }
        }
        log.check_coordinators()?;
        if self.rng.coin() {
            log.close()?;
        }
        Ok(())
    }

    /// What readers see is what the model allows; what was open until now is settled by it.
    fn compare(&mut self, log: &SimEngine) {
        let found = TOPICS.map(|topic| committed(&**log, topic));
        for topic in TOPICS {
            assert_decided(&**log, topic, "after open");
        }
        log.check_coordinators().expect("equal");
        let forgives = self.level == Level::Os && self.lost_power;
        for group in &mut self.groups {
            let topics = if group.transactional { &found[..] } else { &found[..1] };
            let there =
                |topic: &Vec<String>| group.values.iter().filter(|v| topic.contains(v)).count();
            let counts: Vec<usize> = topics.iter().map(there).collect();
            let whole = group.values.len();
            match group.fate {
                Fate::Gone => {
                    assert!(counts.iter().all(|c| *c == 0), "{:?} came back", group.values)
                }
                // The power took what level `os` never promised: any part.
                _ if forgives => {}
                Fate::Kept => {
                    assert!(counts.iter().all(|c| *c == whole), "{:?} lost", group.values)
                }
                Fate::Open => {
                    let all = counts.iter().all(|c| *c == whole);
                    assert!(
                        all || counts.iter().all(|c| *c == 0),
                        "{:?} torn: {counts:?}",
                        group.values
                    );
                    group.fate = if all { Fate::Kept } else { Fate::Gone };
                }
            }
            if forgives {
                // What is seen from here on stays seen; a torn group is left out of the comparison.
                let all = counts.iter().all(|c| *c == whole);
                let none = counts.iter().all(|c| *c == 0);
                group.fate = match (all, none) {
                    (true, _) => Fate::Kept,
                    (_, true) => Fate::Gone,
                    _ => {
                        group.values.clear();
                        Fate::Gone
                    }
                };
            }
        }
        self.lost_power = false;
        for topic in &found {
            let mut numbers: Vec<usize> = topic.iter().map(|value| number(value)).collect();
            numbers.sort_unstable();
            let count = numbers.len();
            numbers.dedup();
            assert_eq!(count, numbers.len(), "each once: {topic:?}");
        }
    }
}

fn number(value: &str) -> usize {
    value.split_once(' ').and_then(|(n, _)| n.parse().ok()).expect("begins with its number")
}

fn history(seed: u64, level: Level) -> u64 {
    let mut rng = Rng::new(seed);
    let disk = SimDisk::new(seed);
    let mut run = Run {
        rng: rng.fork(),
        disk,
        level,
        coordinators: 1 + (seed % 3) as u32,
        groups: Vec::new(),
        next: 0,
        lost_power: false,
    };
    for life in 0..5 {
        // A first life of about 120 operations, later ones with their recovery of about 80.
        let kind = match rng.below(5) {
            0 | 1 => Some(Crash::Power),
            2 | 3 => Some(Crash::Process),
            _ => None,
        };
        let point = run.disk.operations() + 1 + rng.below(160);
        match kind {
            Some(crash) => run.disk.crash_at(point, crash),
            None => {
                // Among the syncs of files only: what a failed sync of a folder leaves behind no call
                // repairs, and file systems go read-only then.
                let nth = rng.below(60);
                let count = AtomicU64::new(0);
                let due = move |_: &Path| count.fetch_add(1, Relaxed) == nth;
                run.disk.fail_on(Call::SyncData, Failure::Io, 1, due);
            }
        }
        let ended = run.live(seed ^ (life << 32));
        if ended.is_ok() && !run.disk.down() {
            run.disk.heal();
            let crash = if rng.coin() { Crash::Power } else { Crash::Process };
            run.disk.crash(crash);
            run.lost_power |= crash == Crash::Power;
        }
        // At level `os` a failed sync may take what was never synced, as a power loss does.
        run.lost_power |= kind.is_none() || (run.disk.down() && kind == Some(Crash::Power));
        run.disk.heal();
        run.disk = run.disk.restart();
    }
    let log = open(&run.disk, level, seed ^ 77)
        .unwrap_or_else(|e| panic!("{e}: {:#?}", run.disk.trace()));
    TOPICS.iter().for_each(|topic| create(&*log, topic, 1, 500).expect("created"));
    run.compare(&log);
    // It goes on as if nothing had been.
    let producer = init(&*log, IDS[0]);
    append_in(&*log, IDS[0], producer, &at("a"), 0, "999999 last").expect("written");
    end(&*log, IDS[0], producer, TransactionEnd::Commit).expect("committed");
    init(&*log, IDS[0]);
    assert_eq!(committed(&*log, "a").last().expect("there"), "999999 last");
    run.disk.trace_hash()
}

fn histories(seeds: std::ops::Range<u64>, level: Level) {
    for seed in seeds {
        // A failure names its seed.
        let named = std::panic::catch_unwind(|| history(seed, level));
        assert!(named.is_ok(), "seed {seed}, {level:?}");
    }
}

#[test]
fn at_level_disk_no_crash_takes_what_was_acknowledged() {
    histories(0..200, Level::Disk);
}

#[test]
fn at_level_os_no_kill_takes_what_was_acknowledged() {
    histories(1000..1200, Level::Os);
}

#[test]
fn a_seed_replays_bit_for_bit() {
    for seed in 3000..3004 {
        assert_eq!(history(seed, Level::Disk), history(seed, Level::Disk), "seed {seed}");
    }
}
