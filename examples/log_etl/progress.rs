//! What a person sees of a running `log_etl`: a view on a terminal, plain lines otherwise.
//!
//! Always true here: everything goes to standard error; a line says what changed, not the same again.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Counters that the parts of the program write and the view reads.
#[derive(Default)]
pub(crate) struct Shown {
    /// Files that are followed.
    pub(crate) files: AtomicU64,
    /// Lines committed to the log.
    pub(crate) lines: AtomicU64,
    /// Bytes in the files that are not read yet.
    pub(crate) unread: AtomicU64,
    /// Records that the pipeline and the sink have still to take.
    pub(crate) lag: AtomicU64,
    /// Results of closed windows.
    pub(crate) windows: AtomicU64,
    /// Lines that came too late.
    pub(crate) late: AtomicU64,
    /// Files finished.
    pub(crate) finished: OnceLock<Arc<AtomicU64>>,
    /// Inputs that are left out.
    pub(crate) skipped: AtomicU64,
    /// Lines that were cut.
    pub(crate) cut: AtomicU64,
}

impl Shown {
    pub(crate) fn finished(&self) -> u64 {
        self.finished.get().map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

/// Says something to the person, above the view if there is one.
pub(crate) fn say(line: &str) {
    // A closed standard error must not stop the work.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Shows the counters until the future is dropped.
pub(crate) async fn show(shown: Arc<Shown>) {
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        bar
    });
    let every = Duration::from_millis(if bar.is_some() { 200 } else { 5_000 });
    let (mut before, mut said) = (shown.lines.load(Ordering::Relaxed), String::new());
    loop {
        tokio::time::sleep(every).await;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let lines = get(&shown.lines);
        let rate = (lines - before) as f64 / every.as_secs_f64();
        before = lines;
        let text = format!(
            "{} files, {lines} lines ({rate:.0}/s), {} KiB unread, lag {}, {} windows closed, {} late, {} files written",
            get(&shown.files),
            get(&shown.unread) / 1024,
            get(&shown.lag),
            get(&shown.windows),
            get(&shown.late),
            shown.finished(),
        );
        match &bar {
            Some(bar) => {
                bar.set_message(text);
                bar.tick();
            }
            None if text != said => {
                say(&text);
                said = text;
            }
            None => {}
        }
    }
}
