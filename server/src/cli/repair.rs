//! `thalweg repair`: what `verify` names, built anew or set aside.
//!
//! Always true here: what is to be done was shown and agreed to before anything changed; what is replaced
//! is kept beside the folder; afterwards the folder is verified again.

use thalweg_core::disk::real::RealDisk;
use thalweg_core::repair::{Repair as Work, Repaired};
use thalweg_core::verify::{Severity, Totals};

use super::args::Repair;
use super::beside::{beside, now_ms};
use super::confirm::confirm;
use super::failure::{Failure, Outcome, note};
use super::output::Out;
use super::progress::Progress;
use super::verify;

/// Runs the command.
pub(crate) fn run(options: &Repair) -> Outcome {
    let work = {
        let mut progress = Progress::new(false);
        let mut before = Totals::default();
        Work::open(RealDisk, &options.dir, &mut |totals| {
            progress.add(totals.records - before.records, totals.bytes - before.bytes);
            before = *totals;
        })?
    };
    let report = work.report();
    verify::show(report, options.json)?;
    let (damaged, bad) = (report.count(Severity::Damaged), report.count(Severity::Rebuildable));
    if damaged + bad == 0 {
        note("nothing is to be repaired");
        return Ok(());
    }
    let (dir, kept) = beside(&options.dir)?;
    let lost: i64 = report
        .findings
        .iter()
        .filter_map(|finding| finding.lost.as_ref())
        .map(|lost| (lost.end - lost.start).max(0))
        .sum();
    let question = format!(
        "Rebuild {bad} files and set {damaged} damaged places of {} aside ({lost} offsets lose their records), keeping what is replaced in {}?",
        dir.display(),
        kept.display()
    );
    confirm(&question, options.yes)?;
    let done = work.run(&kept, now_ms())?;
    said(&done, options.json)?;
    let after = verify::look(&options.dir)?;
    let left = after.count(Severity::Damaged) + after.count(Severity::Rebuildable);
    if left > 0 {
        verify::show(&after, options.json)?;
        return Err(Failure::Damaged(format!("{left} places are bad still")));
    }
    note("everything that is there now is well");
    Ok(())
}

fn said(done: &Repaired, json: bool) -> Outcome {
    let mut out = Out::new();
    for (dir, lost) in &done.lost {
        let folder = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if json {
            out.object(&[
                ("partition", folder.into()),
                ("lost_from", lost.start.into()),
                ("lost_to", (lost.end - 1).into()),
            ]);
        } else {
            let text = format!(
                "{folder}: the records of offsets {} to {} are gone\n",
                lost.start,
                lost.end - 1
            );
            out.write(text.as_bytes());
        }
    }
    let kept = done.aside.as_ref().map(|kept| kept.to_string_lossy().into_owned());
    if json {
        out.object(&[
            ("partitions", done.partitions.len().into()),
            ("segments", done.segments.into()),
            ("kept", kept.into()),
        ]);
    } else {
        let text = format!(
            "repaired {} partitions, {} segments written anew\n",
            done.partitions.len(),
            done.segments
        );
        out.write(text.as_bytes());
        if let Some(kept) = kept {
            out.write(format!("what was replaced is in {kept}\n").as_bytes());
        }
    }
    out.flush()
}
