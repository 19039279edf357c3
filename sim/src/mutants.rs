//! Whether the tests would notice: each rule of the crash catalogue is taken out by a small patch, and
//! the tests that the patch names must go red.
//!
//! ```text
//!   sim/mutants/01a-what-it-removes.patch
//!       # rule: 1 the sentence that the patch takes out
//!       # red: test -p thalweg-core --test catalogue_01_.. the_name     arguments of cargo
//!       # red: run -p thalweg-sim -- crashes ..                         one line a command
//!       diff --git a/core/src/..
//!
//!   tracked files -> a copy;  every command, as it is: green;  then for each patch
//!   apply -> build -> its commands -> take back         red | GREEN | hangs | does not build | ..
//! ```
//!
//! Always true here: the tree itself is only read; product code has no switch for any of this; what
//! does not apply or does not build is not red, nor is a filter that meets no test.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A command that runs for longer hangs.
const LIMIT: Duration = Duration::from_secs(900);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Exit status of `cargo test` when a test failed, and of a program that panics.
const A_TEST_FAILED: i32 = 101;

/// One patch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mutant {
    /// What stands before the first `-` of its file's name, such as `01a`.
    pub number: String,
    /// The entry of the crash catalogue whose rule it takes out.
    pub rule: u32,
    /// What it takes out, in a sentence.
    pub sentence: String,
    /// Cargo commands, as arguments: each of them must fail.
    pub red: Vec<Vec<String>>,
    /// The patch.
    pub path: PathBuf,
}

/// What became of a mutant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The test noticed.
    Red,
    /// It did not.
    Green,
    /// The test did not come to an end.
    Hangs,
    /// The patch is for other sources than these.
    DoesNotApply,
    /// What the patch leaves is no program.
    DoesNotBuild,
    /// A command fails, or meets no test, without the patch.
    NotGreenBefore,
    /// A command ended, but not in the way of a test: it met none, or was cut off.
    NoVerdict,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Red => "red",
            Self::Green => "GREEN",
            Self::Hangs => "hangs",
            Self::DoesNotApply => "does not apply",
            Self::DoesNotBuild => "does not build",
            Self::NotGreenBefore => "not green without it",
            Self::NoVerdict => "no verdict",
        })
    }
}

/// The workspace this program was built from.
pub fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package folder lies in the workspace")
}

/// The patches of a folder, in the order of their names.
///
/// # Errors
/// What is wrong with which patch, in a sentence.
pub fn load(dir: &Path) -> Result<Vec<Mutant>, String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|e| format!("{}: {e}", dir.display()))?.path());
    }
    paths.retain(|path| path.extension() == Some(OsStr::new("patch")));
    paths.sort();
    let mutants = paths.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    match mutants.windows(2).find(|two| two[0].number == two[1].number) {
        Some(two) => Err(format!("{}: there are two of that number", two[1].path.display())),
        None => Ok(mutants),
    }
}

fn read(path: PathBuf) -> Result<Mutant, String> {
    let wrong = |what: &str| format!("{}: {what}", path.display());
    let text = fs::read_to_string(&path).map_err(|e| wrong(&e.to_string()))?;
    let head = || text.lines().take_while(|line| line.starts_with('#'));
    let rule = head().find_map(|line| line.strip_prefix("# rule: "));
    let rule = rule.ok_or_else(|| wrong("no line `# rule: NUMBER SENTENCE` at its head"))?;
    let (rule, sentence) = rule.split_once(' ').unwrap_or((rule, ""));
    let rule = rule.parse().map_err(|_| wrong("`# rule:` begins with the rule's number"))?;
    let red = head().filter_map(|line| line.strip_prefix("# red: "));
    let red = red.map(|line| line.split_whitespace().map(str::to_owned).collect());
    let red: Vec<Vec<String>> = red.collect();
    let is_known =
        |of: &Vec<String>| matches!(of.first().map(String::as_str), Some("test" | "run"));
    if red.is_empty() || !red.iter().all(is_known) {
        return Err(wrong(
            "a line `# red:` with a command `test ..` or `run ..` of cargo at its head",
        ));
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let number = name.split('-').next().unwrap_or_default().to_owned();
    if !number.starts_with(&format!("{rule:02}")) || sentence.is_empty() {
        return Err(wrong("its name begins with its rule's number, and the rule has a sentence"));
    }
    let sentence = sentence.to_owned();
    Ok(Mutant { number, rule, sentence, red, path })
}

/// Whether a patch applies to the tree at `root`, and if not what git says.
///
/// # Errors
/// `NotFound` when there is no git.
pub fn applies(root: &Path, patch: &Path) -> io::Result<Result<(), String>> {
    apply(root, patch, &["--check"])
}

fn apply(root: &Path, patch: &Path, options: &[&str]) -> io::Result<Result<(), String>> {
    let mut git = Command::new("git");
    git.arg("apply").args(options).arg(fs::canonicalize(patch)?).current_dir(root);
    // The copy lies in an ignored folder of a repository, where git would pass over every path.
    if let Some(above) = root.parent() {
        git.env("GIT_CEILING_DIRECTORIES", above);
    }
    let done = git.output()?;
    Ok(match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
    })
}

/// Tries mutants, all of them when `only` is empty, else those whose number begins with one of it.
/// `say` is told how it goes. Whether all were red.
///
/// # Errors
/// Why it cannot be tried, in a sentence.
pub fn run(dir: &Path, only: &[&str], say: &mut dyn FnMut(&str)) -> Result<bool, String> {
    let wanted = |m: &Mutant| only.is_empty() || only.iter().any(|o| m.number.starts_with(o));
    let mutants: Vec<Mutant> = load(dir)?.into_iter().filter(wanted).collect();
    if mutants.is_empty() {
        return Err(format!("no mutant {only:?} in {}", dir.display()));
    }
    let bench = Bench::prepare()?;
    let commands: BTreeSet<&[String]> =
        mutants.iter().flat_map(|m| &m.red).map(|red| &red[..]).collect();
    let mut before = BTreeMap::new();
    for (number, red) in commands.into_iter().enumerate() {
        let (outcome, seconds) = timed(|| bench.try_command(red, &format!("green-{number}")))?;
        say(&format!("without a patch: {outcome} after {seconds} s: cargo {}", red.join(" ")));
        before.insert(red, outcome);
    }
    let mut table = Vec::new();
    for mutant in &mutants {
        let is_green = |red: &Vec<String>| before.get(&red[..]) == Some(&Outcome::Green);
        let (outcome, seconds) = match mutant.red.iter().all(is_green) {
            true => timed(|| bench.try_mutant(mutant))?,
            false => (Outcome::NotGreenBefore, 0),
        };
        say(&format!("{}: {outcome} after {seconds} s", mutant.number));
        table.push((mutant, outcome, seconds));
    }
    say(&format!("\nlogs: {}\n", bench.logs.display()));
    for (mutant, outcome, seconds) in &table {
        let Mutant { number, rule, sentence, .. } = mutant;
        say(&format!("{number:<4} {outcome:<14} {seconds:>4} s  {rule:>2} {sentence}"));
    }
    let red = table.iter().filter(|(_, outcome, _)| *outcome == Outcome::Red).count();
    say(&format!("{red} of {} mutants are red", table.len()));
    Ok(red == table.len())
}

fn timed(of: impl FnOnce() -> Result<Outcome, String>) -> Result<(Outcome, u64), String> {
    let begin = Instant::now();
    Ok((of()?, begin.elapsed().as_secs()))
}

/// The copy, and where it is built.
struct Bench {
    copy: PathBuf,
    target: PathBuf,
    logs: PathBuf,
    _alone: fs::File,
}

impl Bench {
    /// Brings the copy to what the tree holds. It stays there from run to run, and only files that
    /// differ are written, so that cargo builds only what changed.
    ///
    /// It must not be built in the tree's own target folder: cargo would take a mutant's artefact,
    /// which is younger, for that of the tree.
    fn prepare() -> Result<Self, String> {
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(target) => PathBuf::from(target),
            None => tree().join("target"),
        };
        let target = std::path::absolute(target.join("mutants")).map_err(|e| e.to_string())?;
        let (copy, logs) = (target.join("tree"), target.join("logs"));
        let at = |path: &Path, e: io::Error| format!("{}: {e}", path.display());
        fs::create_dir_all(&copy).map_err(|e| at(&copy, e))?;
        fs::create_dir_all(&logs).map_err(|e| at(&logs, e))?;
        let lock = target.join("lock");
        let alone = fs::File::create(&lock).map_err(|e| at(&lock, e))?;
        alone.try_lock().map_err(|e| format!("{}: another run has it: {e}", lock.display()))?;

        let mut git = Command::new("git");
        let listed = git.args(["ls-files", "-z"]).current_dir(tree()).output();
        let listed = listed.map_err(|e| format!("git ls-files: {e}"))?;
        if !listed.status.success() {
            return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr)));
        }
        let names = String::from_utf8_lossy(&listed.stdout);
        let names = names.split_terminator('\0').map(PathBuf::from);
        let names: BTreeSet<PathBuf> = names.filter(|name| tree().join(name).is_file()).collect();
        for name in &names {
            let (from, to) = (tree().join(name), copy.join(name));
            let bytes = fs::read(&from).map_err(|e| at(&from, e))?;
            if fs::read(&to).is_ok_and(|there| there == bytes) {
                continue;
            }
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).map_err(|e| at(folder, e))?;
            }
            fs::write(&to, bytes).map_err(|e| at(&to, e))?;
        }
        for path in files(&copy).map_err(|e| at(&copy, e))? {
            let name = path.strip_prefix(&copy).unwrap_or(&path);
            if !names.contains(name) {
                fs::remove_file(&path).map_err(|e| at(&path, e))?;
            }
        }
        Ok(Self { copy, target, logs, _alone: alone })
    }

    fn try_mutant(&self, mutant: &Mutant) -> Result<Outcome, String> {
        let git = |e: io::Error| format!("git apply {}: {e}", mutant.path.display());
        if apply(&self.copy, &mutant.path, &[]).map_err(git)?.is_err() {
            return Ok(Outcome::DoesNotApply);
        }
        // The first command that does not go red says what became of it.
        let mut outcome = Ok(Outcome::Red);
        for (number, red) in mutant.red.iter().enumerate() {
            outcome = self.try_command(red, &format!("{}-{number}", mutant.number));
            if outcome != Ok(Outcome::Red) {
                break;
            }
        }
        apply(&self.copy, &mutant.path, &["--reverse"]).map_err(git)??;
        outcome
    }

    /// Builds what the command needs, then runs it.
    fn try_command(&self, red: &[String], log: &str) -> Result<Outcome, String> {
        let ours = red.iter().position(|a| a == "--").unwrap_or(red.len());
        let build: Vec<&str> = match red[0].as_str() {
            "test" => ["test", "--no-run"].into_iter().chain(words(&red[1..ours])).collect(),
            _ => ["build"].into_iter().chain(words(&red[1..ours])).collect(),
        };
        let built = self.cargo(&build, &format!("{log}-build"))?;
        if !built.0.is_some_and(|status| status.success()) {
            return Ok(Outcome::DoesNotBuild);
        }
        let (status, said) = self.cargo(&words(red).collect::<Vec<_>>(), log)?;
        let is_run = red[0] == "run";
        let passed =
            said.contains("test result: ok. ") && !said.contains("test result: ok. 0 passed");
        let failed = said.contains("test result: FAILED");
        Ok(match status.map(|status| status.code()) {
            None => Outcome::Hangs,
            Some(Some(0)) if is_run || passed => Outcome::Green,
            // A program of the workspace says 1, or panics.
            Some(Some(1 | A_TEST_FAILED)) if is_run => Outcome::Red,
            Some(Some(A_TEST_FAILED)) if failed => Outcome::Red,
            _ => Outcome::NoVerdict,
        })
    }

    /// Runs cargo in the copy; no status when it took too long. What it said is kept in a file, too.
    fn cargo(&self, arguments: &[&str], log: &str) -> Result<(Option<ExitStatus>, String), String> {
        let path = self.logs.join(format!("{log}.log"));
        let at = |e: io::Error| format!("cargo, with {}: {e}", path.display());
        let file = fs::File::create(&path).map_err(at)?;
        let mut cargo = Command::new("cargo");
        cargo.args(arguments).current_dir(&self.copy);
        cargo.env("CARGO_TARGET_DIR", &self.target).env("CARGO_TERM_COLOR", "never");
        // A program that cargo itself started is told where *its* package is.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
                cargo.env_remove(name);
            }
        }
        cargo.stdin(Stdio::null()).stdout(file.try_clone().map_err(at)?).stderr(file);
        let mut child = cargo.process_group(0).spawn().map_err(at)?;
        let begin = Instant::now();
        let status = loop {
            match child.try_wait().map_err(at)? {
                Some(status) => break Some(status),
                None if begin.elapsed() > LIMIT => {
                    // The test that cargo started is in the same group.
                    let group = format!("-{}", child.id());
                    Command::new("kill").args(["-KILL", "--", &group]).status().map_err(at)?;
                    child.wait().map_err(at)?;
                    break None;
                }
                None => std::thread::sleep(LOOK_AGAIN),
            }
        };
        let said = fs::read(&path).map_err(at)?;
        Ok((status, String::from_utf8_lossy(&said).into_owned()))
    }
}

fn words(arguments: &[String]) -> impl Iterator<Item = &str> {
    arguments.iter().map(String::as_str)
}

/// The files below a folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => all.extend(files(&path)?),
            false => all.push(path),
        }
    }
    Ok(all)
}
