//! A run follows from its seed: the same I/O, call by call, whenever it is run.

use thalweg_sim::plan::Kind;
use thalweg_sim::run::{Case, run};

#[test]
fn a_run_without_a_crash_is_what_the_reference_says() {
    for seed in std::env::var("SEED").map_or(0..12, |s| { let s: u64 = s.parse().unwrap(); s..s+1 }) {
        for kind in Kind::ALL {
            match run(&Case::whole(seed, kind)) {
                Ok(outcome) => eprintln!("{seed} {kind} {outcome:?}"),
                Err(failure) => panic!("{failure}"),
            }
        }
    }
}
