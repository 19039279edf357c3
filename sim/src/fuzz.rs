//! Fuzzing: bytes from outside into everything that reads them, from one seed.
//!
//! ```text
//!   seeds: what the program itself writes, each shape once
//!     -> a mutation, or several                        bits, lengths, varints, cuts, splices
//!     -> sums made right again, most of the time       else nothing gets past the first check
//!     -> the target                                    a shape | a broken promise | a panic
//!   a shape never seen before keeps its input for further mutations
//! ```
//!
//! What guides it is the set of *shapes*: the kind of an error with its message, numbers left out, or
//! how far a good input got. That is no coverage of branches. `.ci/coverage` measures which branches
//! this campaign reaches, and `fuzz/` in the workspace's root runs the same targets under libFuzzer,
//! which is guided by them.
//!
//! Always true here: what is tried follows from seed and number of the execution; a panic, a broken
//! promise, an answer that takes seconds and memory beyond a target's limit are findings, and each
//! leaves its input in a file.
//!
//! | room | idea |
//! |---|---|
//! | `batches` | record batches, what readers see of them, the codecs |
//! | `records` | records of the coordinators, state and positions of the layers above |
//! | `folder` | a partition's folder, as a whole and file by file, through the engine |
//! | `input` | several byte strings in one |
//! | `mutate`, `repair` | how inputs change, and how their sums are made right |
//! | `memory` | what the system says of this process |
//! | [`campaign`] | one target here, or each in a process of its own |

mod batches;
pub mod campaign;
mod folder;
mod input;
mod memory;
mod mutate;
mod records;
pub(crate) mod repair;

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use thalweg_core::disk::sim::Rng;

use self::memory::Memory;
use self::mutate::Mutator;

/// What one execution came to when every promise held: the kind of the answer, a bar, and the answer
/// without its numbers.
pub(crate) type Shape = String;

/// Something that reads bytes from outside.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it reads, and what must hold.
    pub about: &'static str,
    /// How much memory an execution may take, in bytes: the limits that the decoder declares, with
    /// room for the harness.
    pub memory_max: u64,
    form: Form,
    seeds: fn() -> Vec<Vec<u8>>,
    run: fn(&[u8]) -> Result<Shape, String>,
}

/// What an input is, for those who change it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Bytes with sums of this kind.
    Bytes(repair::Sums),
    /// Several byte strings: see `input`. The sums follow from their names.
    Parts,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All targets.
pub fn targets() -> Vec<Target> {
    [batches::targets(), records::targets(), folder::targets()].concat()
}

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    targets().into_iter().find(|target| target.name == name)
}

impl Target {
    /// Inputs that the program itself writes.
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }

    /// Runs the target on one input: its shape when every promise held.
    ///
    /// # Errors
    /// The promise that was broken, in words; a panic with its place is one as well.
    pub fn check(&self, input: &[u8]) -> Result<String, String> {
        catch_unwind(AssertUnwindSafe(|| (self.run)(input))).unwrap_or_else(|panic| {
            let place = PLACE.with_borrow_mut(Option::take).unwrap_or_default();
            Err(format!("panic{place}: {}", words_of(&*panic)))
        })
    }

    /// A change of one input, as the program's own campaign makes them.
    pub fn mutate(&self, input: &[u8], seed: u64) -> Vec<u8> {
        mutated(self, &mut Rng::new(seed), &[input.to_vec()])
    }

    /// Makes the sums in an input right.
    pub fn repair(&self, input: &mut Vec<u8>) {
        match self.form {
            Form::Bytes(sums) => repair::repair(sums, input),
            Form::Parts => {
                let mut parts = input::unpack(input);
                input::repair_all(&mut parts);
                *input = input::pack(&parts);
            }
        }
    }

    /// As [`Target::check`], for a fuzzer that drives from outside.
    ///
    /// # Panics
    /// When a promise is broken.
    pub fn must_hold(&self, input: &[u8]) {
        if let Err(broken) = (self.run)(input) {
            panic!("{}: {broken}", self.name);
        }
    }
}

thread_local! {
    /// Where the last panic of this thread was.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Lets panics be noted with their place instead of printed.
pub fn note_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line()));
        PLACE.set(place);
    }));
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// For how long a target is fuzzed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effort {
    /// So many executions: the same every time.
    Runs(u64),
    /// As many executions as fit.
    Time(Duration),
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The number of the execution.
    pub number: u64,
    /// What went wrong.
    pub what: String,
    /// What it was given.
    pub input: Vec<u8>,
}

/// What fuzzing a target came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Executions.
    pub executions: u64,
    /// How long they took.
    pub time: Duration,
    /// Different shapes that were reached.
    pub shapes: BTreeSet<String>,
    /// Inputs that were kept.
    pub kept: usize,
    /// By how much the process grew at most while the target ran: resident, and mapped.
    pub grown: Memory,
    /// The longest execution.
    pub slowest: Duration,
    /// What was found, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
}

/// After so many findings a target is left: the first one says most.
pub const FINDINGS_MAX: usize = 5;
/// Further inputs replace some of those that were kept.
const KEPT_MAX: usize = 1024;
/// Shapes that are told apart: text of the input in them must not fill the memory that is measured.
const SHAPES_MAX: usize = 8192;
/// Longer inputs are cut.
const INPUT_MAX: usize = 256 << 10;
/// An execution that takes longer hangs, however slow the machine.
const HANGS: Duration = Duration::from_secs(20);
/// What is mapped and not resident may be more: the allocator takes address space in large pieces.
const MAPPED_ROOM: u64 = 128 << 20;
/// Memory is looked at every so many executions.
const LOOK_EVERY: u64 = 64;

impl Report {
    /// How many different kinds of answers there were.
    pub fn kinds(&self) -> BTreeSet<&str> {
        self.shapes.iter().map(|shape| shape.split(" | ").next().unwrap_or_default()).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.as_secs_f64().max(0.001);
        write!(
            f,
            "{:>9} executions {:>7.0}/s {:>3} kinds {:>4} shapes {:>4} kept  +{:.1} MiB  slowest {:.1} ms  {} found",
            self.executions,
            self.executions as f64 / seconds,
            self.kinds().len(),
            self.shapes.len(),
            self.kept,
            self.grown.resident as f64 / (1 << 20) as f64,
            self.slowest.as_secs_f64() * 1e3,
            self.findings.len()
        )
    }
}

/// Fuzzes one target. Call [`note_panics`] before, and nothing beside it in the process: what it
/// takes of memory is seen by the process as a whole.
pub fn fuzz(target: &Target, seed: u64, effort: Effort) -> Report {
    let mut rng = Rng::new(seed);
    let mut kept = target.seeds();
    let mut report = Report::default();
    // Every seed is whole: where one breaks a promise there is nothing to mutate.
    for (number, input) in kept.iter().enumerate() {
        take(target, &mut report, number as u64, input.clone());
    }
    let begin = Instant::now();
    let before = Memory::reset();
    let mut number = kept.len() as u64;
    while report.findings.len() < FINDINGS_MAX {
        let over = match effort {
            Effort::Runs(runs) => number >= runs,
            Effort::Time(time) => begin.elapsed() >= time,
        };
        if over {
            break;
        }
        let input = mutated(target, &mut rng, &kept);
        if take(target, &mut report, number, input.clone()) {
            match kept.len() < KEPT_MAX {
                true => kept.push(input),
                false => {
                    let place = rng.below(KEPT_MAX as u64) as usize;
                    kept[place] = input;
                }
            }
        }
        number += 1;
        if number.is_multiple_of(LOOK_EVERY) {
            report.grown = Memory::now().beyond(before);
            let Memory { resident, mapped } = report.grown;
            if resident > target.memory_max || mapped > target.memory_max + MAPPED_ROOM {
                let what = format!(
                    "memory: {resident} bytes more are resident and {mapped} mapped, {} are declared; within the last {LOOK_EVERY} executions",
                    target.memory_max
                );
                report.findings.push(Finding { number, what, input: Vec::new() });
                break;
            }
        }
    }
    report.grown = Memory::now().beyond(before);
    report.executions = number;
    report.time = begin.elapsed();
    report.kept = kept.len();
    report
}

/// Executes one input. Whether it reached a shape that is new.
fn take(target: &Target, report: &mut Report, number: u64, input: Vec<u8>) -> bool {
    let begin = Instant::now();
    let outcome = target.check(&input);
    let time = begin.elapsed();
    report.slowest = report.slowest.max(time);
    if time > HANGS {
        let what = format!("it took {time:?}");
        report.findings.push(Finding { number, what, input: input.clone() });
    }
    match outcome {
        Ok(shape) => report.shapes.len() < SHAPES_MAX && report.shapes.insert(shape),
        Err(what) => {
            // The same panic again says nothing new.
            if !report.findings.iter().any(|finding| finding.what == what) {
                report.findings.push(Finding { number, what, input });
            }
            false
        }
    }
}

fn mutated(target: &Target, rng: &mut Rng, kept: &[Vec<u8>]) -> Vec<u8> {
    let pick = |rng: &mut Rng| &kept[rng.below(kept.len() as u64) as usize];
    let (mut input, donor) = (pick(rng).clone(), pick(rng).clone());
    let repaired = !rng.one_in(8);
    match target.form {
        Form::Bytes(sums) => {
            Mutator { rng, donor: &donor }.change(&mut input);
            input.truncate(INPUT_MAX);
            if repaired {
                repair::repair(sums, &mut input);
            }
        }
        Form::Parts => {
            let mut parts = input::unpack(&input);
            input::change(&mut parts, &input::unpack(&donor), rng, repaired);
            input = input::pack(&parts);
            input.truncate(INPUT_MAX);
        }
    }
    input
}

/// An error's kind and its words, without what is in them of the input: numbers, sums, quoted text.
pub(crate) fn shape_of(kind: &dyn fmt::Debug, words: &dyn fmt::Display) -> Shape {
    let kind = format!("{kind:?}");
    let kind = kind.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let words = words.to_string();
    let mut shape = format!("{kind} | ");
    for (number, part) in words.split('"').take(16).enumerate() {
        if number % 2 == 1 {
            shape.push_str("\"..\"");
            continue;
        }
        for word in part.split_inclusive(|c: char| !c.is_ascii_alphanumeric()).take(60) {
            let end = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len();
            let (word, rest) = word.split_at(end);
            let said = if word.contains(|c: char| c.is_ascii_digit()) { "#" } else { word };
            shape.push_str(said);
            shape.push_str(if rest.is_ascii() { rest } else { "?" });
        }
    }
    shape
}

/// A number as its power of two, for shapes.
pub(crate) fn about(number: usize) -> u32 {
    number.checked_ilog2().map_or(0, |bits| bits + 1)
}
