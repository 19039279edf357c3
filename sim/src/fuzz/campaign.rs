//! Fuzzing one target in this process, or several, each in a process of its own: what one takes of
//! memory is not charged to another, and one that aborts takes no other along.
//!
//! Always true here: every finding leaves its input in a file, and says how it is seen again.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Effort, Target, fuzz, note_panics};

/// Fuzzes one target here. Whether nothing was found.
///
/// # Errors
/// When a finding cannot be kept in `dir`.
pub fn one(
    target: &Target,
    seed: u64,
    effort: Effort,
    dir: &Path,
    tell_shapes: bool,
    say: &mut dyn FnMut(&str),
) -> Result<bool, String> {
    note_panics();
    let report = fuzz(target, seed, effort);
    say(&format!("{:<20} {report}", target.name));
    if tell_shapes {
        report.shapes.iter().for_each(|shape| say(&format!("  {shape}")));
    }
    for (number, finding) in report.findings.iter().enumerate() {
        say(&format!("  execution {} of seed {seed}: {}", finding.number, finding.what));
        if !finding.input.is_empty() {
            let path = dir.join(format!("{}-{seed}-{number}", target.name));
            keep(&path, &finding.input)?;
            say(&format!(
                "  again: thalweg-sim fuzz --target {} --input {}",
                target.name,
                path.display()
            ));
        }
    }
    Ok(report.findings.is_empty())
}

/// Runs one kept input. Whether every promise held.
///
/// # Errors
/// When it cannot be read.
pub fn replay(target: &Target, path: &Path, say: &mut dyn FnMut(&str)) -> Result<bool, String> {
    note_panics();
    let input = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    match target.check(&input) {
        Ok(shape) => {
            say(&format!("{}: {shape}", target.name));
            Ok(true)
        }
        Err(what) => {
            say(&format!("{}: {what}", target.name));
            Ok(false)
        }
    }
}

/// Writes the seeds of targets, a folder for each: where another fuzzer begins.
///
/// # Errors
/// When a file cannot be written.
pub fn write_seeds(targets: &[Target], dir: &Path) -> Result<(), String> {
    for target in targets {
        for (number, seed) in target.seeds().iter().enumerate() {
            keep(&dir.join(target.name).join(number.to_string()), seed)?;
        }
    }
    Ok(())
}

fn keep(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(path, bytes)
    };
    write().map_err(|e| format!("{}: {e}", path.display()))
}

/// Runs this program once for each target with `arguments`, `jobs` at a time. Whether all went well.
///
/// # Errors
/// When the program cannot be started again.
pub fn each_alone(
    targets: &[Target],
    arguments: &[&str],
    jobs: usize,
    say: &(dyn Fn(&str) + Sync),
) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let broken: Mutex<Option<String>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut command = Command::new(&program);
                    command.args(["fuzz", "--target", target.name]).args(arguments);
                    match command.stdin(Stdio::null()).output() {
                        Ok(output) => {
                            say(String::from_utf8_lossy(&output.stdout).trim_end());
                            if !output.status.success() {
                                failed.fetch_add(1, Ordering::Relaxed);
                            }
                            if output.status.code().is_none_or(|code| code > 1) {
                                let words = String::from_utf8_lossy(&output.stderr);
                                let words = words.trim_end();
                                say(&format!("{}: {}: {words}", target.name, output.status));
                            }
                        }
                        Err(e) => {
                            let mut broken =
                                broken.lock().expect("nothing panics while it is held");
                            *broken = Some(format!("{}: {e}", program.display()));
                            return;
                        }
                    }
                }
            });
        }
    });
    match broken.into_inner().expect("nothing panics while it is held") {
        Some(e) => Err(e),
        None => Ok(failed.into_inner() == 0),
    }
}
