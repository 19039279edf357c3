//! The patches of `sim/mutants` are for these sources, and every rule has one. Whether a test notices
//! them is a matter of an hour: `cargo run -p thalweg-sim -- mutants`.

use std::io::ErrorKind;

use thalweg_sim::mutants::{applies, load, tree};

/// Rules of the table in docs/ARCHITECTURE.md, section 7; the fourteenth is about the oracle.
const RULES: [std::ops::RangeInclusive<u32>; 2] = [1..=13, 15..=18];

#[test]
fn every_rule_has_a_mutant_and_every_mutant_applies() {
    let mutants = load(&tree().join("sim/mutants")).unwrap_or_else(|e| panic!("{e}"));
    for rule in RULES.into_iter().flatten() {
        assert!(mutants.iter().any(|m| m.rule == rule), "no mutant takes out rule {rule}");
    }
    for mutant in &mutants {
        match applies(tree(), &mutant.path) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => panic!("{}: make it anew: {why}", mutant.path.display()),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                eprintln!("no git: nobody knows whether the patches apply");
                return;
            }
            Err(e) => panic!("git apply: {e}"),
        }
    }
}
