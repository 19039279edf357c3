//! `thalweg stats`: what each partition holds.
//!
//! Always true here: files are counted, nothing is locked, so that a folder in use is counted too.

use std::path::Path;

use serde_json::{Value, json};
use thalweg_core::disk::real::RealDisk;
use thalweg_core::stats;

use super::args::Stats;
use super::failure::Outcome;
use super::output::{List, Out};

/// Runs the command.
pub(crate) fn run(data: &Path, options: &Stats) -> Outcome {
    let names = &[
        "topic",
        "partition",
        "records",
        "batches",
        "segments",
        "bytes",
        "side_bytes",
        "leaving_bytes",
        "start",
        "last_stable",
        "high_watermark",
        "durable",
        "oldest",
        "newest",
        "open_transactions",
        "leader_epoch",
    ];
    let mut out = Out::new();
    let mut list = List::new(names, options.json);
    let wanted = options.topic.as_deref();
    for (at, found) in stats::stats(&RealDisk, data, wanted)? {
        if at.topic.starts_with("__") && !options.internal && wanted.is_none() {
            continue;
        }
        let open = found.open_transactions.iter();
        let open: Vec<Value> = open
            .map(|(producer, first)| json!({"producer_id": producer, "first_offset": first}))
            .collect();
        let open = if options.json { open.into() } else { open.len().into() };
        list.row(
            &mut out,
            [
                (&*at.topic).into(),
                at.partition.into(),
                found.records.into(),
                found.batches.into(),
                found.segments.into(),
                found.bytes.into(),
                found.side_bytes.into(),
                found.leaving_bytes.into(),
                found.log_start.into(),
                found.last_stable.into(),
                found.end.into(),
                found.durable_end.into(),
                time(found.oldest, options.json),
                time(found.newest, options.json),
                open,
                found.last_epoch.into(),
            ],
        );
    }
    list.finish(&mut out);
    out.flush()
}

/// Milliseconds for programs, a date for people.
fn time(ms: Option<i64>, json: bool) -> Value {
    let Some(ms) = ms else { return Value::Null };
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) if !json => time.to_string().into(),
        _ => ms.into(),
    }
}
