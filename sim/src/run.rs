//! One run: a seed's machine from its first start to the last look at its files, with deaths on the
//! way.
//!
//! ```text
//!   --once  ->  follow (or --once, again and again)  ->  --once  ->  the oracle
//!      ^  | died at point P          ^  | died               ^  | died
//!      '--' power back, restart      '--'                    '--'
//! ```
//!
//! Always true here: a run follows from its [`Case`]; the machine dies where the case says and
//! nowhere else; after a death the same phase is started again until it ends by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::disk::{Disk, read_file};
use thalweg_core::engine::clock::Clock;
use thalweg_streams::state::forgetful::{Crash as StoreCrash, ForgetfulStore};

use crate::actors::Actors;
use crate::chronicle::Chronicle;
use crate::life::{Deeds, End, Mode, OUT, Surroundings, folders, live};
use crate::oracle;
use crate::plan::{Kind, Plan};
use crate::story::{IN, START, Story};

/// Files of OUT by their names.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What to run: everything else follows from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// The world.
    pub seed: u64,
    /// Level and death.
    pub kind: Kind,
    /// The I/O point at which it dies for the first time, counted from 1.
    pub point: Option<u64>,
    /// I/O points after each restart at which it dies again.
    pub again: Vec<u64>,
    /// Instead of an I/O point: so many operations of the state store pass before it dies.
    pub store: Option<u64>,
    /// Compare the coordinators with their replay after every turn.
    pub coordinators: bool,
}

impl Case {
    /// A run in which nothing dies.
    pub fn whole(seed: u64, kind: Kind) -> Self {
        Self { seed, kind, point: None, again: Vec::new(), store: None, coordinators: false }
    }
}

/// The arguments that replay it.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--seed {} --kind {}", self.seed, self.kind)?;
        if let Some(point) = self.point {
            write!(f, " --point {point}")?;
        }
        for again in &self.again {
            write!(f, " --again {again}")?;
        }
        if let Some(store) = self.store {
            write!(f, " --store {store}")?;
        }
        Ok(())
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// I/O points passed, recoveries included.
    pub points: u64,
    /// Operations of the state store.
    pub store_operations: u64,
    /// The hash of the trace of all I/O.
    pub trace_hash: u64,
    /// How often it died.
    pub deaths: u32,
    /// Saved states that were taken up after a start.
    pub checkpoints_loaded: usize,
    /// Lines that were too late.
    pub late: u64,
    /// Finished files.
    pub files: usize,
    /// Committed transactions of the source.
    pub source_commits: u64,
    /// Segments of the raw topic.
    pub raw_segments: usize,
    /// Records of changelogs replayed at starts.
    pub records_replayed: u64,
}

/// A run that came to the wrong end.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was run.
    pub case: Case,
    /// The first thing that is wrong.
    pub what: String,
    /// What happened, in order.
    pub chronicle: Vec<String>,
    /// The last calls before each death, and before the end.
    pub traces: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "replay with: cargo run --release -p thalweg-sim -- crashes {}", self.case)?;
        for trace in self.chronicle.iter().chain(&self.traces) {
            writeln!(f, "{trace}")?;
        }
        write!(f, "{}", self.what)
    }
}

/// Runs a case from its first start to the oracle.
///
/// # Errors
/// The first thing that is wrong, with what led to it.
pub fn run(case: &Case) -> Result<Outcome, Box<Failure>> {
    let mut machine = Machine::new(case);
    machine.run().map_err(|what| {
        machine.note("in the end");
        let (case, traces) = (case.clone(), machine.traces.clone());
        Box::new(Failure { case, what, chronicle: machine.chronicle.lines(), traces })
    })?;
    Ok(machine.outcome)
}

struct Machine<'a> {
    case: &'a Case,
    plan: Plan,
    story: Story,
    disk: SimDisk,
    store: ForgetfulStore,
    clock: Clock,
    actors: Actors,
    again: std::vec::IntoIter<u64>,
    store_stops_at: Option<u64>,
    lives: u64,
    /// The finished files at the last look: they never change.
    finished: Files,
    traces: Vec<String>,
    chronicle: Chronicle,
    outcome: Outcome,
}

impl<'a> Machine<'a> {
    fn new(case: &'a Case) -> Self {
        let plan = Plan::new(case.seed, case.kind);
        let story = Story::new(&plan);
        let disk = SimDisk::new(case.seed);
        disk.set_short_io(plan.short_io);
        disk.set_birth_times(plan.birth_times);
        disk.set_time(START);
        if let Some(point) = case.point {
            disk.crash_at(point, case.kind.crash());
        }
        let store = ForgetfulStore::new(case.seed);
        let store_stops_at = case.store;
        if let Some(count) = store_stops_at {
            store.stop_after(count);
        }
        let chronicle = Chronicle::default();
        let actors = Actors::new(&plan, &story, chronicle.clone());
        Self {
            case,
            plan,
            story,
            disk,
            store,
            clock: Clock::fixed(START),
            actors,
            again: case.again.clone().into_iter(),
            store_stops_at,
            lives: 0,
            finished: Files::new(),
            traces: Vec::new(),
            chronicle,
            outcome: Outcome::default(),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let prepared = self.actors.prepare(&self.disk, &self.story.before);
        prepared.map_err(|e| format!("the simulation cannot make its files: {e}"))?;
        self.phase(Mode::Once { busy: false })?;
        self.look(false).map_err(|what| format!("after the first --once: {what}"))?;
        match self.plan.once_throughout {
            true => {
                while !self.actors.are_done() {
                    // Most happens while no program runs, the rest beside it.
                    for _ in 0..12 {
                        if self.actors.step(&self.disk).is_err() {
                            self.revive_dead()?;
                        }
                    }
                    self.phase(Mode::Once { busy: true })?;
                }
            }
            false => self.phase(Mode::Follow)?,
        }
        self.phase(Mode::Once { busy: false })?;
        if self.plan.once_throughout {
            // A file that changes under a `--once` run is read on by the next.
            self.phase(Mode::Once { busy: false })?;
        }
        self.outcome.points = self.disk.operations();
        self.outcome.store_operations = self.store.operations();
        self.outcome.trace_hash = self.disk.trace_hash();
        self.disk.heal();
        self.look(true)?;
        if self.case.kind.crash() == Crash::Power {
            // What is finished and closed is there after any power loss, too.
            self.die();
            self.revive()?;
            oracle::unchanged(&self.finished, &self.files()?)
                .map_err(|what| format!("after the power went in the end: {what}"))?;
        }
        Ok(())
    }

    /// Starts the program until it has ended well.
    fn phase(&mut self, mode: Mode) -> Result<(), String> {
        loop {
            self.lives += 1;
            let around = Surroundings {
                plan: &self.plan,
                disk: &self.disk,
                store: &self.store,
                clock: &self.clock,
                actors: &mut self.actors,
                rng: self.plan.rng(100 + self.lives),
                store_stops_at: self.store_stops_at,
                check_coordinators: self.case.coordinators,
                chronicle: &self.chronicle,
            };
            match live(around, mode) {
                Ok(deeds) => {
                    self.add(deeds);
                    self.disk = self.disk.restart();
                    return Ok(());
                }
                Err(End::Failed(what)) => {
                    return Err(format!("{mode:?}, life {}: {what}", self.lives));
                }
                Err(End::Died) => self.revive_dead()?,
            }
        }
    }

    /// Makes a death whole, and starts again.
    fn revive_dead(&mut self) -> Result<(), String> {
        self.note("before a death");
        self.die();
        self.revive()?;
        if let Some(after) = self.again.next() {
            self.disk.crash_at(self.disk.operations() + after, self.case.kind.crash());
        }
        // What was finished stays as it was.
        let now = self.files()?;
        oracle::unchanged(&self.finished, &now)?;
        self.finished = now;
        Ok(())
    }

    fn die(&mut self) {
        self.outcome.deaths += 1;
        let crash = self.case.kind.crash();
        self.chronicle.tell(self.disk.operations(), format_args!("death: {crash:?}"));
        self.disk.crash(crash);
        self.store.crash(match crash {
            Crash::Power => StoreCrash::Power,
            Crash::Process => StoreCrash::Process,
        });
        self.store_stops_at = None;
    }

    fn revive(&mut self) -> Result<(), String> {
        self.disk = self.disk.restart();
        if self.case.kind.crash() == Crash::Power {
            self.tell_inputs();
            let back = self.actors.come_back(&self.disk);
            back.map_err(|e| format!("a writer cannot go on: {e}"))?;
        }
        Ok(())
    }

    /// What the power loss has left of the files that are tailed.
    fn tell_inputs(&self) {
        let disk = self.disk.door_outside();
        for entry in disk.list(Path::new(IN)).unwrap_or_default() {
            let bytes = read_file(&disk, &Path::new(IN).join(&entry.name), 1 << 24);
            let bytes = bytes.unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let left = format!(
                "left: {} with {} bytes, ids {:?}",
                entry.name.display(),
                bytes.len(),
                oracle::ids(&text)
            );
            self.chronicle.tell(self.disk.operations(), left);
        }
    }

    fn add(&mut self, deeds: Deeds) {
        let outcome = &mut self.outcome;
        outcome.checkpoints_loaded += deeds.checkpoints_loaded;
        outcome.records_replayed += deeds.records_replayed;
        outcome.late += deeds.late;
        outcome.source_commits += deeds.source_commits;
    }

    fn note(&mut self, when: &str) {
        let calls = self.disk.trace();
        let last = &calls[calls.len().saturating_sub(12)..];
        self.traces.push(format!("the last calls {when}:\n  {}", last.join("\n  ")));
    }

    /// The finished files. Anything else in their folders is wrong.
    fn files(&self) -> Result<Files, String> {
        let disk = self.disk.door_outside();
        let mut files = Files::new();
        for (_, folder) in folders() {
            let dir = Path::new(OUT).join(folder);
            // Until the sink was opened there is none.
            for entry in disk.list(&dir).unwrap_or_default() {
                let name = entry.name.to_string_lossy().into_owned();
                let bytes = read_file(&disk, &dir.join(&name), 1 << 24)
                    .map_err(|e| format!("{folder}/{name}: {e}"))?;
                if !name.ends_with(".ndjson") {
                    return Err(format!("{folder}/{name} does not belong there"));
                }
                files.insert(format!("{folder}/{name}"), bytes);
            }
        }
        Ok(files)
    }

    /// Compares everything with what should be.
    fn look(&mut self, is_end: bool) -> Result<(), String> {
        let files = self.files()?;
        oracle::unchanged(&self.finished, &files)?;
        self.finished = files;
        self.outcome.files = self.finished.len();
        let seen = oracle::Seen {
            plan: &self.plan,
            story: &self.story,
            actors: &self.actors,
            disk: &self.disk,
            files: &self.finished,
        };
        if is_end { seen.check_end() } else { seen.check_first() }?;
        if is_end {
            self.outcome.raw_segments = seen.check_log(&self.clock)?;
            self.disk = self.disk.restart();
        }
        Ok(())
    }
}
