//! How a figure is measured: ours and its floor in turn, five pairs after one that is thrown away;
//! printed are medians, and the least and the greatest ratio.
//!
//! ```text
//!   o f o f o f o f | o f o f o f o f | o f o f o f o f | ...     o = ours, f = floor: a slice each, of
//!   thrown away       pair 1            pair 2                    fresh files, removed at its end
//! ```
//!
//! Why so: in a virtual machine a page of memory that the host has to find first costs four times a page
//! that was in use a moment ago, and pages that stay free for some seconds go back to the host. So the
//! pair that is thrown away finds the pages, a slice is short, and its files are removed before the next
//! slice begins, which then writes to the same pages. A pair is the sum of its slices, and the ratio is
//! taken pair by pair, so that neighbours who come and go hit both sides of it.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use tempfile::TempDir;
use thalweg::{Error, Result};

const PAIRS: usize = 5;
/// Slices of each side in a pair.
const SLICES: usize = 8;

/// What one side did in one turn, and what it took.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    /// In the unit of the figure.
    pub(crate) amount: f64,
    /// CPU seconds, or for figures of the device seconds by the clock.
    pub(crate) seconds: f64,
}

impl Turn {
    pub(crate) fn rate(self) -> f64 {
        self.amount / self.seconds
    }

    fn and(self, more: Self) -> Self {
        Self { amount: self.amount + more.amount, seconds: self.seconds + more.seconds }
    }
}

/// One measurement beside its floor.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) value: f64,
    pub(crate) floor: f64,
}

/// What a figure is called and counted in.
pub(crate) struct Name<'a> {
    pub(crate) figure: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) level: &'a str,
}

/// Measures a figure whose two sides take turns in short slices, and prints it.
pub(crate) fn in_turn(
    name: &Name<'_>,
    mut ours: impl FnMut() -> Result<Turn>,
    mut floor: impl FnMut() -> Result<Turn>,
) -> Result<()> {
    pairs(name, || {
        let nothing = Turn { amount: 0.0, seconds: 0.0 };
        let (mut value, mut of_floor) = (nothing, nothing);
        for _ in 0..SLICES {
            value = value.and(ours()?);
            of_floor = of_floor.and(floor()?);
        }
        Ok(Pair { value: value.rate(), floor: of_floor.rate() })
    })
}

/// Measures a figure by pairs, after one that is thrown away, and prints it.
pub(crate) fn pairs(name: &Name<'_>, mut pair: impl FnMut() -> Result<Pair>) -> Result<()> {
    pair()?;
    let pairs = (0..PAIRS).map(|_| pair()).collect::<Result<Vec<_>>>()?;
    report(name, &pairs)
}

/// A folder beside the target folder, which is on a real disk: a temporary folder may be memory.
pub(crate) fn fresh_folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("log-bench-").tempdir_in(".");
    folder.map_err(|e| Error::io("create", Path::new("."), e))
}

/// Prints the medians of `pairs` as one line.
pub(crate) fn report(name: &Name<'_>, pairs: &[Pair]) -> Result<()> {
    let of = |what: fn(&Pair) -> f64| sorted(pairs.iter().map(what).collect());
    let (values, floors) = (of(|p| p.value), of(|p| p.floor));
    let ratios = of(|p| p.value / p.floor);
    let (Some(least), Some(most)) = (ratios.first(), ratios.last()) else { return Ok(()) };
    let line = format!(
        "{{\"figure\":\"{}\",\"value\":{},\"unit\":\"{}\",\"floor\":{},\"ratio\":{:.3},\"ratio_min\":{least:.3},\"ratio_max\":{most:.3},\"pairs\":{},\"level\":\"{}\",\"load\":\"{}\"}}",
        name.figure,
        short(quantile(&values, 0.5)),
        name.unit,
        short(quantile(&floors, 0.5)),
        quantile(&ratios, 0.5),
        pairs.len(),
        name.level,
        load(),
    );
    // A reader that went away ends the run.
    writeln!(std::io::stdout(), "{line}")
        .map_err(|e| Error::io("write", Path::new("standard output"), e))
}

fn short(value: f64) -> String {
    if value < 100.0 { format!("{value:.3}") } else { format!("{value:.0}") }
}

/// In rising order.
pub(crate) fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The value below which `part` of `sorted` lies: 0.5 is the median.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1) as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}

/// What the machine does beside us: the mean number of runnable tasks of the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

fn cpu_seconds(of: UsageWho) -> f64 {
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    let of_usage = |usage: Usage| seconds(usage.user_time()) + seconds(usage.system_time());
    getrusage(of).map_or(0.0, of_usage)
}

/// Runs `work` and says how many CPU seconds the process took meanwhile: all threads, user and system.
pub(crate) async fn cpu_of(work: impl Future<Output = Result<()>>) -> Result<f64> {
    let before = cpu_seconds(UsageWho::RUSAGE_SELF);
    work.await?;
    Ok(cpu_seconds(UsageWho::RUSAGE_SELF) - before)
}

/// Runs `work` and says how many CPU seconds this thread took.
pub(crate) fn cpu_of_thread<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let before = cpu_seconds(UsageWho::RUSAGE_THREAD);
    let done = work()?;
    Ok((done, cpu_seconds(UsageWho::RUSAGE_THREAD) - before))
}

/// Runs `work` and says how many seconds passed.
pub(crate) async fn clock_of<T>(work: impl Future<Output = Result<T>>) -> Result<(T, f64)> {
    let begin = Instant::now();
    let done = work.await?;
    Ok((done, begin.elapsed().as_secs_f64()))
}
