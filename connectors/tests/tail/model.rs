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
    /// As that, and the log is removed then instead of truncated: a move to another device.
    Moving(bool),
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
        match self.rng.below(16) {
            0..=3 => self.write(app),
            4 => self.rename_away(app),
            13 => self.rename_out(app),
            14 => self.run_once(),
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
        if matches!(self.apps[app].rotation, Rotation::Copying(true) | Rotation::Moving(true)) {
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
                // Some rotators write over the one copy that they keep.
                let over = self.rng.one_in(3) && self.is_delivered(&copy) && self.is_whole(app);
                if self.exists(&log) && (over || self.shift(app)) {
                    self.note(format!("begin copy of {log}, over the old one: {over}"));
                    self.world.append(&copy, "");
                    self.world.truncate(&copy, 0);
                    let moves = self.rng.one_in(3);
                    self.apps[app].rotation =
                        if moves { Rotation::Moving(false) } else { Rotation::Copying(false) };
                }
            }
            Rotation::Copying(false) | Rotation::Moving(false) => {
                let max = 1 + self.rng.below(3000) as usize;
                let copied = self.world.copy(&log, &copy, max);
                self.note(format!("copy {copied} bytes of {log}"));
                let moves = matches!(self.apps[app].rotation, Rotation::Moving(_));
                self.apps[app].rotation = match moves {
                    true => Rotation::Moving(copied == 0),
                    false => Rotation::Copying(copied == 0),
                };
            }
            Rotation::Copying(true) => {
                self.note(format!("truncate {log}"));
                self.world.truncate(&log, 0);
                self.apps[app].rotation = Rotation::None;
            }
            Rotation::Moving(true) => {
                self.note(format!("remove {log}, its copy stays"));
                self.world.remove(&log);
                self.apps[app].rotation = Rotation::None;
            }
        }
    }

    /// Whether no line was begun and not ended.
    fn is_whole(&self, app: usize) -> bool {
        self.apps[app].begun.is_none()
    }

    /// Whether all lines of a file that is there are delivered.
    fn is_delivered(&self, path: &str) -> bool {
        if !self.exists(path) {
            return false;
        }
        let delivered: BTreeSet<String> = self.world.lines().into_iter().collect();
        let text = String::from_utf8(self.world.read(path)).expect("written as text");
        text.lines().all(|line| delivered.contains(line))
    }

    /// Renames the log to where nobody looks, once all its lines are delivered.
    fn rename_out(&mut self, app: usize) {
        let log = self.path(app, 0);
        if self.apps[app].rotation == Rotation::None
            && self.is_whole(app)
            && self.is_delivered(&log)
        {
            self.note(format!("rename {log} away"));
            self.world.rename(&log, &format!("/log/{}.away", self.apps[app].name));
        }
    }

    /// A run that ends, between two that follow. It takes unterminated lines.
    fn run_once(&mut self) {
        if (0..self.apps.len()).all(|app| self.is_whole(app)) {
            self.note("run once");
            self.world.config.once = true;
            self.world.kill();
            self.world.catch_up();
            self.world.config.once = false;
            self.world.kill();
        }
    }

    /// Removes the oldest rotated file, once all its lines are delivered.
    fn remove_oldest(&mut self, app: usize) {
        let first = if self.apps[app].rotation == Rotation::None { 1 } else { 2 };
        let Some(age) = (first..=OLDEST).rev().find(|&age| self.exists(&self.path(app, age)))
        else {
            return;
        };
        let path = self.path(app, age);
        if self.is_delivered(&path) {
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
        let lost: Vec<&String> =
            self.expected.iter().filter(|l| !counts.contains_key(*l)).collect();
        let strange: Vec<(&String, &usize)> = counts
            .iter()
            .filter(|(line, count)| **count != 1 || !self.expected.contains(*line))
            .collect();
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

/// 200 seeds; `TAIL_FROM` and `TAIL_SEEDS` choose others.
#[test]
fn every_line_arrives_once_whatever_the_rotators_do() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let from: u64 = number("TAIL_FROM").unwrap_or(0);
    for seed in from..from + number("TAIL_SEEDS").unwrap_or(200) {
        play(seed);
    }
}
