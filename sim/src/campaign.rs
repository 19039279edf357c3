//! Which cases are run: every point of a seed, some points of many seeds, or the one that failed.
//!
//! Always true here: the cases follow from the seeds; which thread runs a case changes nothing; the
//! failure that is told is the first in the order of the cases.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use thalweg_core::disk::sim::Rng;

use crate::plan::Kind;
use crate::run::{Case, Failure, Outcome, run};

/// I/O points after a restart within which the second death comes: a start takes about as many.
const RECOVERY_POINTS: u64 = 200;

/// How many cases were run, and what they did together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Runs that came to the right end.
    pub runs: u64,
    /// Deaths in them.
    pub deaths: u64,
    /// Saved states taken up after a start.
    pub checkpoints_loaded: u64,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.deaths += u64::from(outcome.deaths);
        self.checkpoints_loaded += outcome.checkpoints_loaded as u64;
    }
}

/// Every I/O point of a seed as the place of the first death; in a fourth of them a second one comes
/// in the recovery.
///
/// # Errors
/// When the run without a death already fails.
pub fn every_point(seed: u64, kind: Kind) -> Result<Vec<Case>, Box<Failure>> {
    let points = run(&Case::whole(seed, kind))?.points;
    let case = |point| Case {
        point: Some(point),
        again: again(seed, point, 4),
        ..Case::whole(seed, kind)
    };
    Ok((1..=points).map(case).collect())
}

/// Some points of a seed, and of its state store. One in twenty compares the coordinators with their
/// replay after every turn.
///
/// # Errors
/// When the run without a death already fails.
pub fn sampled(seed: u64, kind: Kind, count: u64) -> Result<Vec<Case>, Box<Failure>> {
    let whole = run(&Case::whole(seed, kind))?;
    let mut rng = Rng::new(seed ^ 0x5a5a);
    let mut case = |_| {
        let point = 1 + rng.below(whole.points);
        let in_store = rng.one_in(8);
        Case {
            point: (!in_store).then_some(point),
            store: in_store.then(|| 1 + rng.below(whole.store_operations)),
            again: again(seed, point, 2),
            coordinators: rng.one_in(20),
            ..Case::whole(seed, kind)
        }
    };
    Ok((0..count).map(&mut case).collect())
}

/// Where it dies again: once in so many cases, and then rarely a third time.
fn again(seed: u64, point: u64, one_in: u32) -> Vec<u64> {
    let mut rng = Rng::new(seed.rotate_left(32) ^ point);
    let mut again = Vec::new();
    if rng.one_in(one_in) {
        again.push(1 + rng.below(RECOVERY_POINTS));
        if rng.one_in(4) {
            again.push(1 + rng.below(RECOVERY_POINTS));
        }
    }
    again
}

/// Runs cases on some threads; stops after so many failures. Gives what was done, and the failures in
/// the order of their cases.
pub fn run_all(cases: &[Case], threads: usize, failures_max: usize) -> (Tally, Vec<Failure>) {
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(Tally::default());
    let failures: Mutex<Vec<(usize, Failure)>> = Mutex::new(Vec::new());
    let held = "nothing panics while it is held";
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while failures.lock().expect(held).len() < failures_max {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(number) else { return };
                    match run(case) {
                        Ok(outcome) => tally.lock().expect(held).add(&outcome),
                        Err(failure) => failures.lock().expect(held).push((number, *failure)),
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect(held);
    failures.sort_by_key(|(number, _)| *number);
    let failures = failures.into_iter().map(|(_, failure)| failure).collect();
    (tally.into_inner().expect(held), failures)
}

/// How many threads this machine runs at once.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
