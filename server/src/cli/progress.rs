//! Progress of long work: one line on standard error, only where that is a terminal and the records
//! are not printed on the same one.

use std::io::{self, IsTerminal};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

/// A line that says how far the work is.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    records: u64,
    bytes: u64,
}

impl Progress {
    /// Shows nothing unless somebody can see it.
    pub(crate) fn new(prints_records: bool) -> Self {
        let hidden = !io::stderr().is_terminal() || (prints_records && io::stdout().is_terminal());
        let bar = (!hidden).then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
            let bar = ProgressBar::new_spinner();
            match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self { bar, records: 0, bytes: 0 }
    }

    /// So many more. Called once a chunk, never once a record.
    pub(crate) fn add(&mut self, records: u64, bytes: u64) {
        self.records += records;
        self.bytes += bytes;
        if let Some(bar) = &self.bar {
            let (records, bytes) = (HumanCount(self.records), HumanBytes(self.bytes));
            bar.set_message(format!("{records} records, {bytes}"));
            bar.tick();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
