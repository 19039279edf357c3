//! `thalweg truncate`: the newest records of a partition, taken out.
//!
//! Always true here: what goes was shown and agreed to before anything changed; it is kept beside the
//! folder.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use thalweg_core::engine::Truncation;
use thalweg_core::ids::TopicPartition;

use super::args::Truncate;
use super::beside::beside;
use super::confirm::confirm;
use super::failure::{Failure, Outcome, note};
use super::output::Out;
use super::session;

/// Runs the command.
pub(crate) fn run(data: &Path, options: &Truncate) -> Outcome {
    session::engine(data, async |engine, stop| {
        let log = Arc::clone(&engine).into_log();
        let info = log.topic(&options.topic).await?;
        let at = TopicPartition::new(Arc::clone(&info.name), options.partition);
        let found = engine.truncation(&at, options.to)?;
        if found.bytes == 0 {
            note(&format!("{at} ends at offset {} already", found.end));
            return said(&found, None, options.json);
        }
        if found.to != options.to {
            note(&format!(
                "offset {} is within a batch, which stays: {at} is cut at {}",
                options.to, found.to
            ));
        }
        for (group, offset) in &found.groups {
            note(&format!(
                "group {group} stands at {offset}, behind the new end: it is told so until `thalweg groups reset {group} {} --to end`",
                at.topic
            ));
        }
        let (_, kept) = beside(data)?;
        let question = format!(
            "Take offsets {} to {} ({} bytes) out of {at}, and keep them in {}?",
            found.to,
            found.end - 1,
            found.bytes,
            kept.display()
        );
        confirm(&question, options.yes)?;
        if let Some(number) = stop.now() {
            return Err(Failure::Signal(number));
        }
        let done = engine.truncate(&at, options.to, &kept).await?;
        said(&done, Some(&kept), options.json)
    })
}

fn said(done: &Truncation, kept: Option<&Path>, json: bool) -> Outcome {
    let mut out = Out::new();
    let kept = kept.map(|kept| kept.to_string_lossy().into_owned());
    if json {
        let groups: Vec<_> = done
            .groups
            .iter()
            .map(|(group, offset)| json!({"group": &**group, "offset": offset}))
            .collect();
        out.object(&[
            ("topic", (&*done.at.topic).into()),
            ("partition", done.at.partition.into()),
            ("end", done.to.into()),
            ("ended", done.end.into()),
            ("bytes", done.bytes.into()),
            ("groups_behind", groups.into()),
            ("kept", kept.into()),
        ]);
    } else {
        out.write(format!("{} ends at offset {}\n", done.at, done.to).as_bytes());
        if let Some(kept) = kept {
            out.write(format!("what was taken out is in {kept}\n").as_bytes());
        }
    }
    out.flush()
}
