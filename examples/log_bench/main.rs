//! Figures of the log against floors measured in the same run: one JSON line each.
//!
//! ```text
//! cargo run --release --example log_bench [-- [--preallocate] FIGURE...]     default: all but those that
//!                                                                            take minutes (scale.rs)
//! {"figure","value","unit","floor","ratio","ratio_min","ratio_max","pairs","level","load"}
//! ```
//!
//! | figures | ours | floor |
//! |---|---|---|
//! | `append/*` | batches that `BatchBuilder` sealed, through the engine | `write()` of the same chunks |
//! | `append/*/foreign` | the same as bytes, which are summed | `write()` of the same chunks |
//! | `producer/*` | records through the producer | a loop by hand: encode, sum, write |
//! | `read/fetch` | fetched and summed | `pread` and sum |
//! | `read/regions` | regions, each read into the same buffer | `pread` |
//! | `read/records` | the consumer's records, each visited | `pread` and sum, in records |
//! | `read+write/*` | a reader beside a writer | each alone |
//! | `append/disk/*` | appends that wait for the device | `write` and `fdatasync`, as many at a time |
//! | `dsl/4ops` | four operators of the DSL | a loop by hand |
//! | `partitions/*`, `open/kill9/*` | see `scale.rs` | the bar |
//!
//! `value` and `floor` are per CPU-second of this process (getrusage), except where the unit says that the
//! clock was looked at. How turns alternate: `measure.rs`. `--preallocate` reserves room 16 MiB ahead in
//! the floors' files: for a log that does so itself.

mod hand;
mod measure;
mod read;
mod scale;
mod sync;
#[path = "../../streams/benches/dsl/workload.rs"]
mod workload;
mod write;

use std::path::Path;

use measure::{Name, Pair, Turn, cpu_of, pairs};
use thalweg::{Error, Result};
use tokio::runtime::Runtime;
use write::{Built, By};

fn main() -> Result<()> {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let preallocate = wanted.iter().any(|w| w == "--preallocate");
    wanted.retain(|w| w != "--preallocate");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::io("start", Path::new("runtime"), e))?;
    if let [first, args @ ..] = &wanted[..]
        && first == "--child"
    {
        return scale::be_child(&runtime, args);
    }
    let gib = match wanted.iter().position(|w| w == "--gib") {
        Some(at) => wanted.drain(at..(at + 2).min(wanted.len())).next_back(),
        None => None,
    };
    let gib = gib.map_or(Ok(10), |gib| {
        gib.parse().map_err(|_| Error::invalid(format!("--gib {gib}: give a number of GiB")))
    })?;
    // A figure is asked for by its name or the beginning of it.
    let run = |name: &str, figure: &dyn Fn(&Runtime, &str) -> Result<()>| {
        let asked = wanted.is_empty() || wanted.iter().any(|w| name.starts_with(w.as_str()));
        if asked { figure(&runtime, name) } else { Ok(()) }
    };
    for (size, len) in [("1KiB", 1024), ("100B", 100)] {
        for (suffix, built) in [("", Built::Here), ("/foreign", Built::Elsewhere)] {
            let append =
                |rt: &Runtime, name: &str| write::append(rt, len, built, name, preallocate);
            run(&format!("append/{size}{suffix}"), &append)?;
        }
        for (by, how) in [("", By::SendAll), ("/send", By::Send)] {
            let produce =
                |rt: &Runtime, name: &str| write::produce(rt, len, how, name, preallocate);
            run(&format!("producer/{size}{by}"), &produce)?;
        }
    }
    run("read/fetch", &|rt, _| read::fetches(rt))?;
    run("read/regions", &|rt, _| read::regions(rt))?;
    run("read/records", &|rt, _| read::records(rt))?;
    run("read+write", &|rt, _| read::beside_a_writer(rt))?;
    run("append/disk/64x64", &|rt, _| sync::many(rt, preallocate))?;
    run("append/disk/idle", &|rt, _| sync::idle(rt, preallocate))?;
    run("dsl/4ops", &|rt, name| four_operators(rt, name))?;
    if !wanted.is_empty() {
        run("partitions", &|rt, _| scale::partitions(rt))?;
        run("open/kill9", &|_, _| scale::open_after_a_kill(gib))?;
    }
    Ok(())
}

/// The DSL's cost per record, against a hand-written loop that does the same; no log, no level.
fn four_operators(runtime: &Runtime, name: &str) -> Result<()> {
    const BATCHES: usize = 2_000;
    let (input, mut task) = (workload::input(), workload::task());
    let (mut ours, mut theirs, mut scratch) =
        (workload::Batch::default(), workload::Batch::default(), Default::default());
    let amount = (BATCHES * workload::RECORDS) as f64;
    pairs(&Name { figure: name, unit: "records/cpu_s", level: "none" }, || {
        let dsl = runtime.block_on(cpu_of(async {
            for _ in 0..BATCHES {
                ours.bytes.clear();
                workload::by_the_dsl(&mut task, &input, &mut ours);
            }
            Ok(())
        }))?;
        let hand = runtime.block_on(cpu_of(async {
            for _ in 0..BATCHES {
                theirs.bytes.clear();
                workload::by_hand(&input, &mut scratch, &mut theirs);
            }
            Ok(())
        }))?;
        assert!(ours.bytes == theirs.bytes && ours.records == theirs.records, "both do the same");
        let rate = |seconds| Turn { amount, seconds }.rate();
        Ok(Pair { value: rate(dsl), floor: rate(hand) })
    })
}
