//! Random rotators against a simple truth: every line that was written arrives once, and those of
//! one file in order.
//!
//! What is kept out of the actions is what no tail can have: writing between the end of a copy and
//! the truncation, and removing a file that was not read to its end.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_connectors::file::FileSourceConfig;
use thalweg_core::disk::sim::Rng;

use crate::world::{World, config};

const OLDEST: usize = 4;

/// One application with its log and its rotator.
struct App {
    name: String,
    written: usize,
    /// A line that was begun.
    begun: Option<String>,
    rotation: Rotation,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rotation {
    None,
    /// Copying; whether the last step found nothing more to copy.
    Copying(bool),
}

struct Model {
    world: World,
    rng: Rng,
    apps: Vec<App>,
    expected: BTreeSet<String>,
    trail: Vec<String>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let once_in = |rng: &mut Rng, a: usize, b: usize| if rng.coin() { a } else { b };
        let settings = FileSourceConfig {
            chunk: [64, 256, 4096, 256 << 10][rng.below(4) as usize],
            quantum: once_in(&mut rng, 200, 256 << 10),
            max_open: once_in(&mut rng, 3, 400),
            // A copy takes as long as the dice say: it must not be given up.
            copy_patience: std::time::Duration::from_secs(100_000),
            ..config(&["/log/*.log", "/log/*.log.*"])
        };
        let mut world = World::with(seed, settings);
        world.disk.set_birth_times(rng.coin());
        world.disk.set_short_io(if rng.coin() { 3 } else { 0 });
        world.batch.records_max = once_in(&mut rng, 5, 1000);
        // Files of the very first scan are never copies: let it be over before the rotators begin.
        world.append("/log/anchor.log", "anchor\n");
        world.catch_up();
        let expected = BTreeSet::from(["anchor".to_owned()]);
        let mut model = Self { world, rng, apps: Vec::new(), expected, trail: Vec::new() };
        for _ in 0..1 + model.rng.below(3) {
            let name = format!("app{}", model.apps.len());
            model.apps.push(App { name, written: 0, begun: None, rotation: Rotation::None });
        }
        model
    }

    fn step(&mut self) {
        let wait = 1 + self.rng.below(700) as i64;
        self.world.wait(wait);
        let app = self.rng.below(self.apps.len() as u64) as usize;
        match self.rng.below(14) {
            0..=3 => self.write(app),
            4 => self.rename_away(app),
            5..=7 => self.copy_step(app),
            8 => self.remove_oldest(app),
            9..=10 => {
                self.note("poll");
                self.world.poll().expect("polls");
            }
            11 => {
                self.note("commit");
                self.world.commit().ok();
            }
            12 => {
                self.note("kill");
                self.world.kill();
            }
            _ => {
                self.note("run");
                self.world.run(1000);
            }
        }
    }

    fn note(&mut self, what: impl Into<String>) {
        let now = self.world.now();
        self.trail.push(format!("{now} {}", what.into()));
    }

    fn path(&self, app: usize, age: usize) -> String {
        let name = &self.apps[app].name;
        if age == 0 { format!("/log/{name}.log") } else { format!("/log/{name}.log.{age}") }
    }

    fn exists(&self, path: &str) -> bool {
        use thalweg_core::disk::Disk;
        self.world.hand.stat(std::path::Path::new(path)).is_ok()
    }

    fn write(&mut self, app: usize) {
        if self.apps[app].rotation == Rotation::Copying(true) {
            return; // Between the end of the copy and the truncation.
        }
        let mut text = String::new();
        if let Some(rest) = self.apps[app].begun.take() {
            text.push_str(&rest);
        }
        for _ in 0..self.rng.below(6) {
            let width = [10, 60, 400][self.rng.below(3) as usize] + self.rng.below(30) as usize;
            let line = format!("{} {} ", self.apps[app].name, self.apps[app].written);
            let line = format!("{line:.<width$}");
            self.apps[app].written += 1;
            self.expected.insert(line.clone());
            text.push_str(&line);
            text.push('\n');
        }
        // A line in two pieces, when nothing rotates: a rotation in its midst cuts it for good.
        if self.apps[app].rotation == Rotation::None && text.len() > 3 && self.rng.one_in(3) {
            let rest = text.split_off(text.len() - 2);
            self.apps[app].begun = Some(rest);
        }
        self.note(format!("write {} bytes to {}", text.len(), self.path(app, 0)));
        self.world.append(&self.path(app, 0), text);
    }

    /// Makes room for a new `.1`. Whether there is some.
    fn shift(&mut self, app: usize) -> bool {
        let taken = (1..=OLDEST).take_while(|&age| self.exists(&self.path(app, age))).count();
        if taken == OLDEST || self.apps[app].begun.is_some() {
            return false;
        }
        for age in (1..=taken).rev() {
            let (from, to) = (self.path(app, age), self.path(app, age + 1));
            self.world.rename(&from, &to);
        }
        true
    }

    fn rename_away(&mut self, app: usize) {
        if self.apps[app].rotation != Rotation::None || !self.exists(&self.path(app, 0)) {
            return;
        }
        if self.shift(app) {
            self.note(format!("rename {}", self.path(app, 0)));
            self.world.rename(&self.path(app, 0), &self.path(app, 1));
            if self.rng.coin() {
                self.world.append(&self.path(app, 0), "");
            }
        }
    }

    fn copy_step(&mut self, app: usize) {
        let (log, copy) = (self.path(app, 0), self.path(app, 1));
        match self.apps[app].rotation {
            Rotation::None => {
                if self.exists(&log) && self.shift(app) {
                    self.note(format!("begin copy of {log}"));
                    self.world.append(&copy, "");
                    self.apps[app].rotation = Rotation::Copying(false);
                }
            }
            Rotation::Copying(false) => {
                let max = 1 + self.rng.below(3000) as usize;
                let copied = self.world.copy(&log, &copy, max);
                self.note(format!("copy {copied} bytes of {log}"));
                self.apps[app].rotation = Rotation::Copying(copied == 0);
            }
            Rotation::Copying(true) => {
                self.note(format!("truncate {log}"));
                self.world.truncate(&log, 0);
                self.apps[app].rotation = Rotation::None;
            }
        }
    }

    /// Removes the oldest rotated file, once all its lines are delivered.
    fn remove_oldest(&mut self, app: usize) {
        let first = if self.apps[app].rotation == Rotation::None { 1 } else { 2 };
        let Some(age) = (first..=OLDEST).rev().find(|&age| self.exists(&self.path(app, age))) else {
            return;
        };
        let path = self.path(app, age);
        let delivered: BTreeSet<String> = self.world.lines().into_iter().collect();
        let text = String::from_utf8(self.world.read(&path)).expect("written as text");
        if text.lines().all(|line| delivered.contains(line)) {
            self.note(format!("remove {path}"));
            self.world.remove(&path);
        }
    }

    fn finish(&mut self, seed: u64) {
        for app in 0..self.apps.len() {
            while self.apps[app].rotation != Rotation::None {
                self.copy_step(app);
            }
            if let Some(rest) = self.apps[app].begun.take() {
                self.world.append(&self.path(app, 0), rest);
            }
        }
        // Past every patience.
        self.world.run(5000);
        self.world.wait(200_000_000);
        self.world.run(5000);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for line in self.world.lines() {
            *counts.entry(line).or_default() += 1;
        }
        let lost: Vec<&String> = self.expected.iter().filter(|l| !counts.contains_key(*l)).collect();
        let strange: Vec<(&String, &usize)> = counts
            .iter()
            .filter(|(line, count)| **count != 1 || !self.expected.contains(*line))
            .collect();
        if !lost.is_empty() { let d = self.world.source().debug_dump(); eprintln!("{d}"); }
        for row in self.world.rows() { if strange.iter().any(|(l, _)| **l == row.line) { eprintln!("{} {} {} {}", &row.line[..10.min(row.line.len())], row.key, row.file, row.offset); } }
        assert!(
            lost.is_empty() && strange.is_empty(),
            "seed {seed}: lost {lost:?}, not once {strange:?}\n{}\n{:#?}",
            self.trail.join("\n"),
            self.world.notices(),
        );
        self.check_order(seed);
        assert_eq!(self.world.source().stats().lag_bytes, 0, "seed {seed}");
        let listed = thalweg_core::disk::Disk::list(&self.world.hand, std::path::Path::new("/log"));
        let files = listed.expect("is there").len();
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

#[test]
fn every_line_arrives_once_whatever_the_rotators_do() {
    let seeds = std::env::var("TAIL_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let from = std::env::var("TAIL_FROM").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in from..from + seeds.unwrap_or(200) {
        play(seed);
    }
}
