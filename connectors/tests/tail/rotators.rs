//! Applications that write their logs, and whatever rotates these, in single steps.
//!
//! What they never do is what no tail can have: write between the end of a copy and the truncation,
//! begin a line and rotate in its midst, remove a file whose lines were not delivered.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use thalweg_core::disk::sim::Rng;

use crate::files::Files;

const OLDEST: usize = 4;

/// The lines that transactions committed, as far as they matter to a rotator.
pub(crate) type DeliveredLines = Arc<Mutex<BTreeSet<String>>>;

pub(crate) struct Rotators {
    files: Files,
    now: Arc<AtomicI64>,
    rng: Rng,
    apps: Vec<App>,
    delivered: DeliveredLines,
    /// Every line ever written.
    pub(crate) written: BTreeSet<String>,
    /// What was done, for the message of a failed test.
    pub(crate) trail: Vec<String>,
    /// How many steps they may still do between calls of the source.
    pub(crate) allowance: u64,
}

/// One application with its log.
struct App {
    name: String,
    lines: usize,
    /// The rest of a line that was begun.
    begun: Option<String>,
    rotation: Rotation,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rotation {
    None,
    /// Copying; whether the last step found nothing more to copy. Then the log is truncated.
    Copying(bool),
    /// As that, and the log is removed then: a move to another device.
    Moving(bool),
}

impl Rotators {
    pub(crate) fn new(
        files: Files,
        now: Arc<AtomicI64>,
        mut rng: Rng,
        delivered: DeliveredLines,
    ) -> Self {
        let app =
            |i| App { name: format!("app{i}"), lines: 0, begun: None, rotation: Rotation::None };
        Self {
            files,
            now,
            apps: (0..1 + rng.below(3)).map(app).collect(),
            rng,
            delivered,
            written: BTreeSet::new(),
            trail: Vec::new(),
            allowance: 0,
        }
    }

    /// One step of one of them, some time after the last.
    pub(crate) fn act(&mut self, ms_max: u64) {
        let now = self.now.fetch_add(1 + self.rng.below(ms_max) as i64, Ordering::Relaxed);
        self.files.0.set_time(now);
        let app = self.rng.below(self.apps.len() as u64) as usize;
        match self.rng.below(10) {
            0..=3 => self.write(app),
            4 => self.rename_away(app),
            5..=7 => self.copy_step(app),
            8 => self.remove_oldest(app),
            _ => self.rename_out(app),
        }
    }

    /// Between two calls of the source: perhaps a step.
    pub(crate) fn get_in_between(&mut self, one_in: u32) {
        if self.allowance > 0 && self.rng.one_in(one_in) {
            self.allowance -= 1;
            self.note("in between:");
            self.act(20);
        }
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        let now = self.now.load(Ordering::Relaxed);
        self.trail.push(format!("{now} {}", what.into()));
    }

    /// Whether no line was begun and not ended.
    pub(crate) fn are_whole(&self) -> bool {
        self.apps.iter().all(|app| app.begun.is_none())
    }

    /// Ends what was begun: rotations and lines.
    pub(crate) fn finish(&mut self) {
        for app in 0..self.apps.len() {
            while self.apps[app].rotation != Rotation::None {
                self.copy_step(app);
            }
            if let Some(rest) = self.apps[app].begun.take() {
                self.files.append(&self.path(app, 0), rest);
            }
        }
    }

    fn path(&self, app: usize, age: usize) -> String {
        let name = &self.apps[app].name;
        if age == 0 { format!("/log/{name}.log") } else { format!("/log/{name}.log.{age}") }
    }

    fn write(&mut self, app: usize) {
        if matches!(self.apps[app].rotation, Rotation::Copying(true) | Rotation::Moving(true)) {
            return;
        }
        let mut text = self.apps[app].begun.take().unwrap_or_default();
        for _ in 0..self.rng.below(6) {
            let width = [10, 60, 400][self.rng.below(3) as usize] + self.rng.below(30) as usize;
            let line = format!("{} {} ", self.apps[app].name, self.apps[app].lines);
            let line = format!("{line:.<width$}");
            self.apps[app].lines += 1;
            self.written.insert(line.clone());
            text.push_str(&line);
            text.push('\n');
        }
        if self.apps[app].rotation == Rotation::None && text.len() > 3 && self.rng.one_in(3) {
            let rest = text.split_off(text.len() - 2);
            self.apps[app].begun = Some(rest);
        }
        self.note(format!("write {} bytes to {}", text.len(), self.path(app, 0)));
        self.files.append(&self.path(app, 0), text);
    }

    /// Makes room for a new `.1`. Whether there is some.
    fn shift(&mut self, app: usize) -> bool {
        let aged = (1..=OLDEST).take_while(|&age| self.files.exists(&self.path(app, age))).count();
        if aged == OLDEST || self.apps[app].begun.is_some() {
            return false;
        }
        for age in (1..=aged).rev() {
            self.files.rename(&self.path(app, age), &self.path(app, age + 1));
        }
        true
    }

    fn rename_away(&mut self, app: usize) {
        let log = self.path(app, 0);
        if self.apps[app].rotation == Rotation::None && self.files.exists(&log) && self.shift(app) {
            self.note(format!("rename {log}"));
            self.files.rename(&log, &self.path(app, 1));
            if self.rng.coin() {
                self.files.append(&log, "");
            }
        }
    }

    fn copy_step(&mut self, app: usize) {
        let (log, copy) = (self.path(app, 0), self.path(app, 1));
        match self.apps[app].rotation {
            Rotation::None => {
                // Some rotators write over the one copy that they keep.
                let over = self.rng.one_in(3)
                    && self.is_delivered(&copy)
                    && self.apps[app].begun.is_none();
                if self.files.exists(&log) && (over || self.shift(app)) {
                    self.note(format!("begin copy of {log}, over the old one: {over}"));
                    self.files.append(&copy, "");
                    self.files.truncate(&copy, 0);
                    let moves = self.rng.one_in(3);
                    self.apps[app].rotation =
                        if moves { Rotation::Moving(false) } else { Rotation::Copying(false) };
                }
            }
            Rotation::Copying(false) | Rotation::Moving(false) => {
                let max = 1 + self.rng.below(3000) as usize;
                let copied = self.files.copy(&log, &copy, max);
                self.note(format!("copy {copied} bytes of {log}"));
                let moves = matches!(self.apps[app].rotation, Rotation::Moving(_));
                self.apps[app].rotation = match moves {
                    true => Rotation::Moving(copied == 0),
                    false => Rotation::Copying(copied == 0),
                };
            }
            Rotation::Copying(true) => {
                self.note(format!("truncate {log}"));
                self.files.truncate(&log, 0);
                self.apps[app].rotation = Rotation::None;
            }
            Rotation::Moving(true) => {
                self.note(format!("remove {log}, its copy stays"));
                self.files.remove(&log);
                self.apps[app].rotation = Rotation::None;
            }
        }
    }

    /// Whether all lines of a file that is there are delivered.
    fn is_delivered(&self, path: &str) -> bool {
        if !self.files.exists(path) {
            return false;
        }
        let delivered = self.delivered.lock().expect("nobody panics with it");
        let text = String::from_utf8(self.files.read(path)).expect("written as text");
        text.lines().all(|line| delivered.contains(line))
    }

    /// Renames the log to where nobody looks, once all its lines are delivered.
    fn rename_out(&mut self, app: usize) {
        let log = self.path(app, 0);
        let idle = self.apps[app].rotation == Rotation::None && self.apps[app].begun.is_none();
        if idle && self.is_delivered(&log) {
            self.note(format!("rename {log} away"));
            self.files.rename(&log, &format!("/log/{}.away", self.apps[app].name));
        }
    }

    /// Removes the oldest rotated file, once all its lines are delivered.
    fn remove_oldest(&mut self, app: usize) {
        let first = if self.apps[app].rotation == Rotation::None { 1 } else { 2 };
        let oldest = (first..=OLDEST).rev().find(|&age| self.files.exists(&self.path(app, age)));
        if let Some(path) = oldest.map(|age| self.path(app, age))
            && self.is_delivered(&path)
        {
            self.note(format!("remove {path}"));
            self.files.remove(&path);
        }
    }
}
