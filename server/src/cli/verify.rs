//! `thalweg verify`: every file of a folder is read, and what is bad is named.
//!
//! Always true here: the library looks, nothing is locked or changed; one row a finding, whatever the
//! output; the exit status is that of the worst.

use std::path::Path;

use serde_json::Value;
use thalweg_core::disk::real::RealDisk;
use thalweg_core::verify::{self, Finding, Report, Severity, Totals};

use super::args::Verify;
use super::failure::{Failure, Outcome, note};
use super::output::{List, Out};
use super::progress::Progress;

/// Runs the command.
pub(crate) fn run(options: &Verify) -> Outcome {
    let report = look(&options.dir)?;
    show(&report, options.json)?;
    note(&summary(&report));
    let dir = options.dir.display();
    match report.worst() {
        Some(Severity::Damaged) => Err(Failure::Damaged(format!(
            "records are damaged in {} places: restore the files from a copy, or `thalweg repair {dir}` keeps what is sound",
            report.count(Severity::Damaged)
        ))),
        Some(Severity::Rebuildable) => Err(Failure::Rebuildable(format!(
            "{} files are bad that can be rebuilt: `thalweg repair {dir}` does",
            report.count(Severity::Rebuildable)
        ))),
        Some(Severity::Note) | None => Ok(()),
    }
}

/// Reads the folder, and says how far it is.
pub(super) fn look(dir: &Path) -> Outcome<Report> {
    let mut progress = Progress::new(false);
    let mut before = Totals::default();
    let report = verify::verify(&RealDisk, dir, &mut |totals| {
        progress.add(totals.records - before.records, totals.bytes - before.bytes);
        before = *totals;
    })?;
    Ok(report)
}

/// Lists what was found.
pub(super) fn show(report: &Report, json: bool) -> Outcome {
    let mut out = Out::new();
    if !report.findings.is_empty() {
        let mut list =
            List::new(&["severity", "file", "position", "what", "lost_from", "lost_to"], json);
        for finding in &report.findings {
            list.row(&mut out, cells(finding));
        }
        list.finish(&mut out);
    }
    out.flush()
}

fn cells(finding: &Finding) -> [Value; 6] {
    let severity = match finding.severity {
        Severity::Note => "note",
        Severity::Rebuildable => "rebuildable",
        Severity::Damaged => "damaged",
    };
    let lost = finding.lost.as_ref().filter(|lost| lost.start < lost.end);
    [
        severity.into(),
        finding.path.to_string_lossy().into_owned().into(),
        finding.position.into(),
        finding.what.as_str().into(),
        lost.map(|lost| lost.start).into(),
        lost.map(|lost| lost.end - 1).into(),
    ]
}

/// What was looked at, in words.
fn summary(report: &Report) -> String {
    let Totals { partitions, files, bytes, batches, records } = report.totals;
    format!(
        "read {partitions} partitions, {files} files, {batches} batches, {records} records, {bytes} bytes: {}",
        match report.worst() {
            None => "all is well".to_owned(),
            Some(_) => format!(
                "{} damaged, {} rebuildable, {} notes",
                report.count(Severity::Damaged),
                report.count(Severity::Rebuildable),
                report.count(Severity::Note)
            ),
        }
    )
}
