//! `thalweg maintain`: retention and compaction of a folder that no program keeps open.
//!
//! Always true here: a turn does what an open log does by itself; files of deleted segments are removed at
//! once, because no reader of this process holds them; `--once` ends when a turn changed nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::HumanBytes;
use thalweg_core::Log;

use super::args::Maintain;
use super::failure::{Failure, Outcome};
use super::output::Out;
use super::session;

/// Time between turns, when it goes on for ever.
const TURN: Duration = Duration::from_secs(10);
/// Time between turns, when it ends with the work: what one turn sealed, the next one finds synced.
const SHORT: Duration = Duration::from_millis(50);
/// So many turns without a change, and nothing is left to do.
const QUIET: u32 = 3;

/// Runs the command.
pub(crate) fn run(data: &Path, options: &Maintain) -> Outcome {
    session::engine(data, async |engine, stop| {
        let mut out = Out::new();
        let mut before = files(data)?;
        let mut total = 0;
        let mut quiet = 0;
        while !options.once || quiet < QUIET {
            engine.maintain().await?;
            remove_deleted(data)?;
            let now = files(data)?;
            quiet = if now == before { quiet + 1 } else { 0 };
            let freed = freed(&before, &now);
            for (folder, bytes) in &freed {
                total += bytes;
                say(&mut out, folder, *bytes, options.json)?;
            }
            before = now;
            let pause = if options.once { SHORT } else { TURN };
            tokio::select! {
                number = stop.rung() => return Err(Failure::Signal(number)),
                () = engine.sleep(pause) => {}
            }
        }
        if !options.json {
            out.write(format!("{} freed\n", HumanBytes(total)).as_bytes());
        }
        out.flush()
    })
}

fn say(out: &mut Out, folder: &str, bytes: u64, json: bool) -> Outcome {
    if json {
        out.object(&[("partition", folder.into()), ("freed_bytes", bytes.into())]);
    } else {
        out.write(format!("{folder}: {} freed\n", HumanBytes(bytes)).as_bytes());
    }
    out.flush()
}

/// The segments there are, with their bytes, by partition's folder.
fn files(data: &Path) -> Outcome<BTreeMap<PathBuf, u64>> {
    let mut all = BTreeMap::new();
    each(data, &mut |path, len| {
        if path.extension().is_some_and(|suffix| suffix == "log") {
            all.insert(path, len);
        }
        Ok(())
    })?;
    Ok(all)
}

/// What each partition has less than before.
fn freed(before: &BTreeMap<PathBuf, u64>, now: &BTreeMap<PathBuf, u64>) -> Vec<(String, u64)> {
    let sums = |files: &BTreeMap<PathBuf, u64>| {
        let mut sums = BTreeMap::<String, u64>::new();
        for (path, len) in files {
            let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
            *sums.entry(folder.to_string_lossy().into_owned()).or_default() += len;
        }
        sums
    };
    let now = sums(now);
    sums(before)
        .into_iter()
        .filter_map(|(folder, before)| {
            let less = before.checked_sub(now.get(&folder).copied().unwrap_or(0))?;
            (less > 0).then_some((folder, less))
        })
        .collect()
}

/// Removes files of deleted segments; the log does not mind when they are gone.
fn remove_deleted(data: &Path) -> Outcome {
    each(data, &mut |path, _| {
        if path.extension().is_none_or(|suffix| suffix != "deleted") {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::system("remove", &path, e))
            }
            _ => Ok(()),
        }
    })
}

/// Shows every file of every partition's folder.
fn each(data: &Path, show: &mut dyn FnMut(PathBuf, u64) -> Outcome) -> Outcome {
    let log = data.join("log");
    let list = |dir: &Path| fs::read_dir(dir).map_err(|e| Failure::system("read", dir, e));
    for folder in list(&log)? {
        let folder = folder.map_err(|e| Failure::system("read", &log, e))?.path();
        if !folder.is_dir() {
            continue;
        }
        for file in list(&folder)? {
            let file = file.map_err(|e| Failure::system("read", &folder, e))?;
            // It may be gone meanwhile.
            if let Ok(meta) = file.metadata()
                && meta.is_file()
            {
                show(file.path(), meta.len())?;
            }
        }
    }
    Ok(())
}
