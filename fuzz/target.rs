//! One target of `thalweg-sim fuzz` under libFuzzer: the one that `THALWEG_TARGET` names.
//!
//! ```text
//!   cargo install cargo-fuzz
//!   cargo run -p thalweg-sim -- fuzz --list
//!   cargo run -p thalweg-sim -- fuzz --corpus fuzz/corpus
//!   THALWEG_TARGET=batch cargo +nightly fuzz run target fuzz/corpus/batch -- -max_total_time=600
//!   THALWEG_TARGET=batch cargo +nightly fuzz coverage target fuzz/corpus/batch
//! ```
//!
//! Always true here: the target is the same function that the program's own campaign calls; half of
//! the mutations are that campaign's, which know the formats, and the sums of the others are made
//! right again most of the time.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use thalweg_sim::fuzz::{Target, target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("THALWEG_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("THALWEG_TARGET={name:?}: see `thalweg-sim fuzz --list`"))
});

fuzz_target!(|data: &[u8]| TARGET.must_hold(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut input = if seed % 2 == 0 {
        TARGET.mutate(&data[..size], seed.into())
    } else {
        let size = fuzzer_mutate(data, size, max_size);
        data[..size].to_vec()
    };
    if seed % 8 != 1 {
        TARGET.repair(&mut input);
    }
    let size = input.len().min(max_size).min(data.len());
    data[..size].copy_from_slice(&input[..size]);
    size
});
