//! The whole spine dies at sampled I/O points, and comes back to the right files.
//!
//! `cargo run --release -p thalweg-sim -- crashes --every-point` takes every point of more seeds, and
//! `--all` those of two hundred.

use thalweg_sim::campaign::{Tally, every_point, run_all, sampled, threads};
use thalweg_sim::plan::Kind;
use thalweg_sim::run::{Case, Failure, run};

/// Runs the cases; the first failure says how it is replayed.
fn all_well(cases: &[Case]) -> Tally {
    let (tally, failures) = run_all(cases, threads(), 1);
    if let Some(failure) = failures.first() {
        panic!("{failure}");
    }
    assert_eq!(tally.runs, cases.len() as u64);
    tally
}

fn cases(cases: Result<Vec<Case>, Box<Failure>>) -> Vec<Case> {
    cases.unwrap_or_else(|failure| panic!("without a death: {failure}"))
}

#[test]
fn a_death_at_every_point_of_a_seed_neither_loses_nor_doubles_a_line() {
    // Power loss at level `disk`: the seed whose run is the shortest of the first twenty.
    let cases = cases(every_point(12, Kind::DiskPower));
    assert!(cases.len() > 1_500, "{} points", cases.len());
    let tally = all_well(&cases);
    // Each case dies once in its course, and once more in the end to see what was durable.
    assert!(tally.deaths >= 2 * tally.runs, "{tally:?}");
    assert!(tally.checkpoints_loaded > tally.runs, "{tally:?}");
}

#[test]
fn a_death_at_five_points_of_two_hundred_seeds_neither_loses_nor_doubles_a_line() {
    let cases: Vec<Case> =
        (1_000..1_200).flat_map(|seed| cases(sampled(seed, Kind::of_seed(seed), 5))).collect();
    assert_eq!(cases.len(), 1_000);
    let tally = all_well(&cases);
    assert!(tally.checkpoints_loaded > tally.runs, "{tally:?}");
}

#[test]
fn a_seed_replays_bit_for_bit() {
    for (seed, kind) in [(0, Kind::DiskPower), (3, Kind::DiskProcess), (5, Kind::OsProcess)] {
        let case = Case { point: Some(700), again: vec![40, 90], ..Case::whole(seed, kind) };
        let hash = |case: &Case| run(case).unwrap_or_else(|failure| panic!("{failure}")).trace_hash;
        assert_eq!(hash(&case), hash(&case), "{case}: the trace of all I/O");
        let other = Case { seed: seed + 1, ..case.clone() };
        assert_ne!(hash(&case), hash(&other), "another seed does another thing");
    }
}

#[test]
fn a_run_holds_what_it_is_meant_to_hold() {
    for kind in Kind::ALL {
        let outcome = run(&Case::whole(12, kind)).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(outcome.points > 1_500, "{outcome:?}");
        assert!(outcome.raw_segments > 1, "segments roll: {outcome:?}");
        assert!(outcome.late > 0, "lines are late: {outcome:?}");
        assert!(outcome.files > 8, "each folder of the sink rolls: {outcome:?}");
        assert!(outcome.source_commits > 3, "{outcome:?}");
    }
}
