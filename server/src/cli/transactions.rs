//! `thalweg transactions`: what transactional ids are doing, and the end of one that hangs.
//!
//! Always true here: an abort is the coordinator's own: the producer is fenced, and readers go on once
//! its markers are written.

use std::path::Path;
use std::sync::Arc;

use thalweg_core::Log;

use super::args::Transactions;
use super::failure::Outcome;
use super::output::{List, Out};
use super::session::{self, Missing};

/// Runs the command.
pub(crate) fn run(data: &Path, command: Transactions) -> Outcome {
    match command {
        Transactions::List { json } => session::ask(data, async |log| list(&log, json).await),
        Transactions::Abort { id, json } => session::short(data, Missing::Refuse, async |log| {
            log.abort_transaction(&id).await?;
            let mut out = Out::new();
            if json {
                out.object(&[("transactional_id", id.as_str().into())]);
            } else {
                out.write(format!("transaction of {id} aborted\n").as_bytes());
            }
            out.flush()
        }),
    }
}

async fn list(log: &Arc<dyn Log>, json: bool) -> Outcome {
    let names =
        &["transactional_id", "producer_id", "producer_epoch", "state", "started", "partitions"];
    let mut out = Out::new();
    let mut list = List::new(names, json);
    for one in log.transactions().await? {
        let partitions: Vec<String> = one.partitions.iter().map(|at| at.to_string()).collect();
        list.row(
            &mut out,
            [
                (&*one.id).into(),
                one.producer.id.into(),
                one.producer.epoch.into(),
                one.state.into(),
                one.started.into(),
                partitions.into(),
            ],
        );
    }
    list.finish(&mut out);
    out.flush()
}
