//! `thalweg take-over`: a log directory of Apache Kafka becomes a data folder of ours, in place.
//!
//! Always true here: the library does it, whole or not at all; what could not be known is told.

use thalweg_core::config::LogConfig;
use thalweg_core::disk::real::RealDisk;
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::{Engine, TakeOver as Done};

use super::args::TakeOver;
use super::confirm::confirm;
use super::failure::{Outcome, note};
use super::output::Out;
use super::session;

/// Runs the command.
pub(crate) fn run(options: &TakeOver) -> Outcome {
    let dir = options.dir.as_path();
    let question = format!(
        "Make the log directory {} of Apache Kafka a data folder of this program? Kafka does not read it afterwards.",
        dir.display()
    );
    confirm(&question, options.yes)?;
    session::run(async |_| {
        let (config, clock, entropy) = (LogConfig::default(), Clock::System, Entropy::System);
        let done = Engine::take_over(RealDisk, dir, config, clock, entropy).await?;
        said(&done, options)
    })
}

fn said(done: &Done, options: &TakeOver) -> Outcome {
    if !done.settings_known && !done.finished {
        note(
            "the settings of the topics are not known here: nothing of them is deleted or compacted until `thalweg topics alter` says so",
        );
    }
    for setting in &done.left_out {
        note(&format!("left out: {setting}"));
    }
    for path in &done.left_behind {
        note(&format!("{} stays where it is", path.display()));
    }
    let mut out = Out::new();
    let partitions: u32 = done.topics.iter().map(|topic| topic.partitions).sum();
    if options.json {
        let left: Vec<String> =
            done.left_behind.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        out.object(&[
            ("dir", options.dir.to_string_lossy().into_owned().into()),
            ("topics", done.topics.len().into()),
            ("partitions", partitions.into()),
            ("was_clean", done.was_clean.into()),
            ("settings_known", done.settings_known.into()),
            ("left_out", done.left_out.clone().into()),
            ("aborted", done.opened.aborted.into()),
            ("finished", done.opened.finished.into()),
            ("left_behind", left.into()),
        ]);
    } else if done.finished {
        let text = format!("{} was taken over before: finished\n", options.dir.display());
        out.write(text.as_bytes());
    } else {
        let text = format!(
            "{} is a data folder now: {} topics, {partitions} partitions, {} transactions aborted, {} finished\n",
            options.dir.display(),
            done.topics.len(),
            done.opened.aborted,
            done.opened.finished
        );
        out.write(text.as_bytes());
    }
    out.flush()
}
