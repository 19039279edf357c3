//! `thalweg delete-records`: the oldest records of a partition, gone for good.
//!
//! Always true here: nothing is deleted beyond what is durable; the answer is where the partition
//! begins now, which may be further on than asked for.

use std::path::Path;
use std::sync::Arc;

use thalweg_core::ids::TopicPartition;

use super::args::{Before, DeleteRecords};
use super::failure::Outcome;
use super::output::Out;
use super::session::{self, Missing};

/// Runs the command.
pub(crate) fn run(data: &Path, options: &DeleteRecords) -> Outcome {
    session::short(data, Missing::Refuse, async |log| {
        let info = log.topic(&options.topic).await?;
        let at = TopicPartition::new(Arc::clone(&info.name), options.partition);
        let before = match options.before {
            Before::Offset(offset) => offset,
            Before::End => log.offsets(&at).await?.high_watermark,
        };
        let start = log.delete_records(&at, before).await?;
        let mut out = Out::new();
        if options.json {
            out.object(&[
                ("topic", (&*at.topic).into()),
                ("partition", at.partition.into()),
                ("start", start.into()),
            ]);
        } else {
            out.write(format!("{at} begins at offset {start}\n").as_bytes());
        }
        out.flush()
    })
}
