//! Random rotators against a simple truth: every line that was written arrives once, and those of
//! one file in order. They act between the polls, and between any two calls of one poll.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thalweg_connectors::file::FileSourceConfig;
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::Rng;

use crate::rotators::{DeliveredLines, Rotators};
use crate::world::{World, config};

struct Model {
    world: World,
    rng: Rng,
    rotators: Arc<Mutex<Rotators>>,
    delivered: DeliveredLines,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let one_of =
            |rng: &mut Rng, choices: &[usize]| choices[rng.below(choices.len() as u64) as usize];
        let settings = FileSourceConfig {
            chunk: one_of(&mut rng, &[64, 256, 4096, 256 << 10]),
            quantum: one_of(&mut rng, &[200, 256 << 10]),
            max_open: one_of(&mut rng, &[3, 400]),
            // A copy takes as long as the dice say: it must not be given up.
            copy_patience: Duration::from_secs(100_000),
            ..config(&["/log/*.log", "/log/*.log.*"])
        };
        let mut world = World::with(seed, settings);
        world.disk.set_birth_times(rng.coin());
        world.disk.set_short_io(if rng.coin() { 3 } else { 0 });
        world.batch.records_max = one_of(&mut rng, &[5, 1000]);
        // Files of the very first scan are never copies: let it be over before the rotators begin.
        world.append("/log/anchor.log", "anchor\n");
        world.catch_up();
        let delivered = DeliveredLines::default();
        let hands = (world.files(), Arc::clone(&world.now), rng.fork(), Arc::clone(&delivered));
        let mut rotators = Rotators::new(hands.0, hands.1, hands.2, hands.3);
        rotators.written.insert("anchor".to_owned());
        let rotators = Arc::new(Mutex::new(rotators));
        let one_in = one_of(&mut rng, &[0, 3, 20, 100]) as u32;
        let others = Arc::clone(&rotators);
        world.between.set(move || {
            others.lock().expect("nobody panics with it").get_in_between(one_in);
        });
        Self { world, rng, rotators, delivered }
    }

    fn rotators(&self) -> std::sync::MutexGuard<'_, Rotators> {
        self.rotators.lock().expect("nobody panics with it")
    }

    fn step(&mut self) {
        let allowance = self.rng.below(5);
        self.rotators().allowance = allowance;
        match self.rng.below(16) {
            0..=9 => self.rotators().act(700),
            10..=11 => {
                self.rotators().note("poll");
                self.world.poll().expect("polls");
            }
            12 => {
                self.rotators().note("commit");
                self.world.commit().ok();
            }
            13 => {
                self.rotators().note("kill");
                self.world.kill();
            }
            14 => {
                self.rotators().note("run");
                self.world.run(1000);
            }
            _ => self.run_once(),
        }
        *self.delivered.lock().expect("nobody panics with it") =
            self.world.lines().into_iter().collect();
    }

    /// A run that ends, between two that follow. It takes unterminated lines, so there are none.
    fn run_once(&mut self) {
        if self.rotators().are_whole() {
            self.rotators().note("run once");
            self.rotators().allowance = 0;
            self.world.config.once = true;
            self.world.kill();
            self.world.catch_up();
            self.world.config.once = false;
            self.world.kill();
        }
    }

    fn finish(&mut self, seed: u64) {
        self.rotators().allowance = 0;
        self.rotators().finish();
        self.world.run(5000);
        // Past every patience.
        self.world.wait(200_000_000);
        self.world.run(5000);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for line in self.world.lines() {
            *counts.entry(line).or_default() += 1;
        }
        let rotators = Arc::clone(&self.rotators);
        let rotators = rotators.lock().expect("nobody panics with it");
        let written = &rotators.written;
        let lost: Vec<&String> = written.iter().filter(|l| !counts.contains_key(*l)).collect();
        let strange: BTreeSet<(&String, &usize)> =
            counts.iter().filter(|(line, n)| **n != 1 || !written.contains(*line)).collect();
        assert!(
            lost.is_empty() && strange.is_empty(),
            "seed {seed}: lost {lost:?}, not once {strange:?}\n{}\n{:#?}",
            rotators.trail.join("\n"),
            self.world.notices(),
        );
        self.check_order(seed);
        assert_eq!(self.world.source().stats().lag_bytes, 0, "seed {seed}");
        let files = self.world.hand.list(std::path::Path::new("/log")).expect("is there").len();
        assert!(self.world.stored.len() <= files, "seed {seed}: positions without files stay");
    }

    /// Lines of one file come in the order they were written, into one partition. A key that begins
    /// again at 0 is a new file under the number of a removed one.
    fn check_order(&self, seed: u64) {
        let mut last: BTreeMap<String, (u32, u64)> = BTreeMap::new();
        for row in self.world.rows() {
            if let Some((partition, offset)) =
                last.insert(row.key.clone(), (row.partition, row.offset))
            {
                assert!(
                    partition == row.partition && (offset < row.offset || row.offset == 0),
                    "seed {seed}: {row:?} after offset {offset} of partition {partition}"
                );
            }
        }
    }
}

fn play(seed: u64) {
    let mut model = Model::new(seed);
    for _ in 0..120 {
        model.step();
    }
    model.finish(seed);
}

/// 200 seeds; `TAIL_FROM` and `TAIL_SEEDS` choose others.
#[test]
fn every_line_arrives_once_whatever_the_rotators_do() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let from: u64 = number("TAIL_FROM").unwrap_or(0);
    for seed in from..from + number("TAIL_SEEDS").unwrap_or(200) {
        play(seed);
    }
}
