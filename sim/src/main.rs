//! The simulation as a program.
//!
//! ```text
//!   thalweg-sim crashes [--from S] [--seeds N] [--kind K] --every-point     every point of N seeds
//!   thalweg-sim crashes [--from S] [--seeds N] [--kind K] --points P        P points of each
//!   thalweg-sim crashes --all                                               every point of 200 seeds
//!   thalweg-sim crashes --seed S --kind K [--point P] [--again Q].. [--store R]     one run, as told
//!   thalweg-sim fuzz [--target T].. [--seconds N | --runs N] [--seed S] [--jobs J] [--shapes]
//!                                                         each target in a process of its own
//!   thalweg-sim fuzz --target T --input FILE              one input, as a finding left it
//!   thalweg-sim fuzz --list                               the targets
//!   thalweg-sim fuzz [--target T].. --corpus DIR          writes what mutation begins with
//!   thalweg-sim flips [--sampled] [--seed S]              single bits of stored files
//!   thalweg-sim mutants [--only N[,N]] [--dir FOLDER]     each rule taken out: its test goes red
//! ```
//!
//! Exit status: 0; 1 when something was found; 2 usage.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use thalweg_sim::campaign::{Tally, every_point, run_all, sampled, threads};
use thalweg_sim::flips;
use thalweg_sim::fuzz::{self, Effort, Target};
use thalweg_sim::mutants::tree;
use thalweg_sim::plan::Kind;
use thalweg_sim::run::{Case, Failure, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.split_first() {
        Some((&"crashes", options)) => Crashes::parse(options).and_then(|crashes| crashes.run()),
        Some((&"fuzz", options)) => Fuzz::parse(options).and_then(|fuzz| fuzz.run()),
        Some((&"flips", options)) => turn_bits(options),
        Some((&"mutants", options)) => mutants(options),
        _ => Err(format!("use: crashes, fuzz, flips or mutants; got {arguments:?}")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(usage) => {
            say(&format!("{usage}\nsee the head of sim/src/main.rs"));
            ExitCode::from(2)
        }
    }
}

fn say(text: &str) {
    // Whoever closed the pipe does not want to know.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Whether all were red.
fn mutants(options: &[&str]) -> Result<bool, String> {
    let (mut dir, mut only) = (tree().join("sim/mutants"), Vec::new());
    let mut rest = options.iter();
    while let Some(&option) = rest.next() {
        let mut value = || rest.next().copied().ok_or(format!("{option} needs a value"));
        match option {
            "--only" => only.extend(value()?.split(',')),
            "--dir" => dir = PathBuf::from(value()?),
            _ => return Err(format!("{option} is not known")),
        }
    }
    thalweg_sim::mutants::run(&dir, &only, &mut |text| say(text))
}

/// Whether every record was right or an error told, and `verify` named what was turned.
fn turn_bits(options: &[&str]) -> Result<bool, String> {
    let mut wanted = flips::Options::FULL;
    let mut rest = options.iter();
    while let Some(&option) = rest.next() {
        match option {
            "--sampled" => {
                wanted = flips::Options { seed: wanted.seed, ..flips::Options::SAMPLED };
            }
            "--seed" => wanted.seed = number(option, rest.next())?,
            _ => return Err(format!("{option} is not known")),
        }
    }
    let all = flips::run(&wanted, &mut |tally| {
        say(&tally.to_string());
        tally.wrong.iter().take(5).for_each(|wrong| say(&format!("  {wrong}")));
        tally.unnamed.iter().take(5).for_each(|bit| say(&format!("  {bit}: verify is silent")));
    });
    Ok(all.iter().all(|tally| tally.wrong.is_empty() && tally.unnamed.is_empty()))
}

fn number(option: &str, value: Option<&&str>) -> Result<u64, String> {
    let value = value.ok_or(format!("{option} needs a value"))?;
    value.parse().map_err(|e| format!("{option} {value}: {e}"))
}

struct Fuzz {
    targets: Vec<Target>,
    effort: Effort,
    seed: u64,
    jobs: usize,
    shapes: bool,
    list: bool,
    input: Option<PathBuf>,
    corpus: Option<PathBuf>,
    /// Where findings are kept.
    found: PathBuf,
}

impl Fuzz {
    fn parse(options: &[&str]) -> Result<Self, String> {
        let mut all = Self {
            targets: Vec::new(),
            effort: Effort::Time(Duration::from_secs(1)),
            seed: 1,
            jobs: threads(),
            shapes: false,
            list: false,
            input: None,
            corpus: None,
            found: PathBuf::from("target/fuzz"),
        };
        let mut rest = options.iter();
        while let Some(&option) = rest.next() {
            let mut value = || rest.next().copied().ok_or(format!("{option} needs a value"));
            match option {
                "--target" => {
                    let name = value()?;
                    let known = "see thalweg-sim fuzz --list";
                    let target = fuzz::target(name);
                    all.targets.push(target.ok_or(format!("--target {name}: {known}"))?);
                }
                "--input" => all.input = Some(value()?.into()),
                "--corpus" => all.corpus = Some(value()?.into()),
                "--found" => all.found = value()?.into(),
                "--shapes" => all.shapes = true,
                "--list" => all.list = true,
                "--seconds" => {
                    all.effort = Effort::Time(Duration::from_secs(number(option, rest.next())?));
                }
                "--runs" => all.effort = Effort::Runs(number(option, rest.next())?),
                "--seed" => all.seed = number(option, rest.next())?,
                "--jobs" => all.jobs = number(option, rest.next())? as usize,
                _ => return Err(format!("{option} is not known")),
            }
        }
        Ok(all)
    }

    /// Whether nothing was found.
    fn run(&self) -> Result<bool, String> {
        let chosen = if self.targets.is_empty() { fuzz::targets() } else { self.targets.clone() };
        if self.list {
            for target in &chosen {
                let mib = target.memory_max >> 20;
                say(&format!("{:<20} {} (at most {mib} MiB)", target.name, target.about));
            }
            return Ok(true);
        }
        if let Some(dir) = &self.corpus {
            return fuzz::campaign::write_seeds(&chosen, dir).map(|()| true);
        }
        let mut say_one = |text: &str| say(text);
        match (&self.input, chosen.as_slice()) {
            (Some(input), [target]) => fuzz::campaign::replay(target, input, &mut say_one),
            (Some(_), _) => Err("--input needs one --target".to_owned()),
            (None, [target]) => {
                let (seed, effort) = (self.seed, self.effort);
                fuzz::campaign::one(target, seed, effort, &self.found, self.shapes, &mut say_one)
            }
            (None, targets) => {
                let (option, number) = match self.effort {
                    Effort::Runs(runs) => ("--runs", runs.to_string()),
                    Effort::Time(time) => ("--seconds", time.as_secs().to_string()),
                };
                let (seed, found) = (self.seed.to_string(), self.found.to_string_lossy());
                let mut arguments = vec![option, &number, "--seed", &seed, "--found", &found];
                if self.shapes {
                    arguments.push("--shapes");
                }
                fuzz::campaign::each_alone(targets, &arguments, self.jobs, &say)
            }
        }
    }
}

#[derive(Default)]
struct Crashes {
    from: u64,
    seeds: u64,
    kind: Option<Kind>,
    every_point: bool,
    points: u64,
    failures: usize,
    seed: Option<u64>,
    point: Option<u64>,
    again: Vec<u64>,
    store: Option<u64>,
    coordinators: bool,
}

impl Crashes {
    fn parse(options: &[&str]) -> Result<Self, String> {
        let mut all = Self { seeds: 10, points: 5, failures: 1, ..Self::default() };
        let mut rest = options.iter();
        while let Some(&option) = rest.next() {
            let mut value = || rest.next().copied().ok_or(format!("{option} needs a value"));
            let number = |value: Result<&str, String>| {
                value.and_then(|v| v.parse().map_err(|e| format!("{option} {v}: {e}")))
            };
            match option {
                "--from" => all.from = number(value())?,
                "--seeds" => all.seeds = number(value())?,
                "--points" => all.points = number(value())?,
                "--failures" => all.failures = number(value())? as usize,
                "--seed" => all.seed = Some(number(value())?),
                "--point" => all.point = Some(number(value())?),
                "--again" => all.again.push(number(value())?),
                "--store" => all.store = Some(number(value())?),
                "--every-point" => all.every_point = true,
                "--coordinators" => all.coordinators = true,
                "--all" => (all.every_point, all.seeds) = (true, 200),
                "--kind" => {
                    let kind = value()?;
                    let known = "use disk-power, disk-process or os-process";
                    all.kind = Some(Kind::parse(kind).ok_or(format!("--kind {kind}: {known}"))?);
                }
                _ => return Err(format!("{option} is not known")),
            }
        }
        Ok(all)
    }

    /// Whether nothing was found.
    fn run(&self) -> Result<bool, String> {
        if let Some(seed) = self.seed {
            return Ok(self.one(seed));
        }
        let (mut tally, mut found) = (Tally::default(), 0);
        for seed in self.from..self.from + self.seeds {
            let kind = self.kind.unwrap_or(Kind::of_seed(seed));
            let cases = match self.every_point {
                true => every_point(seed, kind),
                false => sampled(seed, kind, self.points),
            };
            let (done, failures) = match cases {
                Ok(cases) => run_all(&cases, threads(), self.failures),
                Err(failure) => (Tally::default(), vec![*failure]),
            };
            tally.runs += done.runs;
            tally.deaths += done.deaths;
            tally.checkpoints_loaded += done.checkpoints_loaded;
            if self.every_point || !failures.is_empty() {
                say(&format!("seed {seed} {kind}: {} runs, {} failed", done.runs, failures.len()));
            }
            tell(&failures, found == 0);
            found += failures.len();
            if found >= self.failures {
                break;
            }
        }
        say(&format!(
            "{} runs, {} deaths, {} checkpoints loaded, {found} failed",
            tally.runs, tally.deaths, tally.checkpoints_loaded
        ));
        Ok(found == 0)
    }

    fn one(&self, seed: u64) -> bool {
        let kind = self.kind.unwrap_or(Kind::of_seed(seed));
        let case = Case {
            seed,
            kind,
            point: self.point,
            again: self.again.clone(),
            store: self.store,
            coordinators: self.coordinators,
        };
        match run(&case) {
            Ok(outcome) => say(&format!("{outcome:#?}")),
            Err(failure) => {
                say(&failure.to_string());
                return false;
            }
        }
        true
    }
}

/// The first in full, the others in a line.
fn tell(failures: &[Failure], in_full: bool) {
    for (number, failure) in failures.iter().enumerate() {
        match in_full && number == 0 {
            true => say(&failure.to_string()),
            false => say(&format!("{}: {}", failure.case, failure.what)),
        }
    }
}
