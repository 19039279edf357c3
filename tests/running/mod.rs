//! `log_etl` as a process: started, waited for with a deadline, killed, its words read back.
//!
//! Always true here: `TZ` is UTC, standard input is empty, what the program says goes to a file (no
//! pipe that could fill up), and a program that does not end is killed and its words are shown.
#![allow(dead_code, reason = "each test program that includes this uses its own part of it")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than any run of these tests on a busy machine; reached only when something hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(2);

/// The program beside this test: Cargo builds a package's examples before it runs its tests.
pub(crate) fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let name = format!("log_etl{}", std::env::consts::EXE_SUFFIX);
    let path = test.ancestors().nth(2).map(|target| target.join("examples").join(name));
    let path = path.expect("tests run in target/PROFILE/deps");
    assert!(path.exists(), "{} is missing: run `cargo build --example log_etl`", path.display());
    path
}

/// A data folder, an OUT folder and the inputs; all below one temporary folder.
pub(crate) struct Folders {
    pub(crate) root: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) out: PathBuf,
    folder: tempfile::TempDir,
}

impl Folders {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let root = folder.path().canonicalize().expect("the folder was just made");
        let logs = root.join("logs");
        fs::create_dir(&logs).expect("the folder was just made");
        Self { data: root.join("data"), out: root.join("out"), logs, root, folder }
    }

    /// Leaves the folder on disk when the test fails, and says where.
    pub(crate) fn keep_if(self, failed: bool) {
        if failed {
            eprintln!("the folder of this run stays: {}", self.folder.keep().display());
        }
    }

    /// The command with this place's folders; the caller adds options and paths.
    pub(crate) fn log_etl(&self) -> Run {
        Run::new(&self.root).arg("--data").arg(&self.data).arg("--out").arg(&self.out)
    }
}

/// A run that has not begun.
pub(crate) struct Run {
    arguments: Vec<OsString>,
    root: PathBuf,
}

impl Run {
    /// A bare command in folder `root`, without any option.
    pub(crate) fn new(root: &Path) -> Self {
        Self { arguments: Vec::new(), root: root.to_owned() }
    }

    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    /// Starts the process.
    pub(crate) fn start(self) -> Running {
        // Every run has its own file of words, numbered in the order of starts.
        let words = (0..).map(|n| self.root.join(format!("stderr.{n}")));
        let words = words.into_iter().find(|path| !path.exists()).expect("numbers do not end");
        let file = File::create(&words).expect("the test's folder can be written");
        let child = Command::new(binary())
            .args(&self.arguments)
            .current_dir(&self.root)
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file has a second handle"))
            .stderr(file)
            .spawn()
            .expect("log_etl can be started");
        Running { child, words, since: Instant::now() }
    }

    /// Starts the process and waits until it ends.
    #[track_caller]
    pub(crate) fn finish(self) -> Finished {
        self.start().finish()
    }
}

/// A process that may still run. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    words: PathBuf,
    since: Instant,
}

/// How a run ended and what it said.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) words: String,
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    pub(crate) fn words(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.words).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits until the process ends by itself.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Finished { status, words: self.words() };
            }
            assert!(begin.elapsed() < PATIENCE, "log_etl does not end; it said:\n{}", self.words());
            sleep(LOOK);
        }
    }

    /// Waits until `condition` holds, while the process must go on running.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !condition() {
            if let Some(status) = self.ended() {
                panic!("log_etl ended ({status}) before {what}; it said:\n{}", self.words());
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{what}: waited in vain; it said:\n{}",
                self.words()
            );
            sleep(LOOK);
        }
    }

    /// Waits until the process has said `part`.
    #[track_caller]
    pub(crate) fn until_it_says(&mut self, part: &str) {
        let words = self.words.clone();
        let said =
            move || fs::read(&words).is_ok_and(|w| String::from_utf8_lossy(&w).contains(part));
        self.until(&format!("it says {part:?}"), said);
    }

    /// SIGKILL: the process has no last word.
    #[track_caller]
    pub(crate) fn kill(mut self) -> Finished {
        if let Some(status) = self.ended() {
            panic!("log_etl ended by itself ({status}); it said:\n{}", self.words());
        }
        self.child.kill().expect("a running child can be killed");
        let status = self.child.wait().expect("a child can be waited for");
        Finished { status, words: self.words() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Demands an exit status; shows what the program said when it is another.
    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> Self {
        let Self { status: found, words } = &self;
        assert_eq!(found.code(), Some(status), "log_etl ended with {found}; it said:\n{words}");
        self
    }

    /// Demands that the program said each of these.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.words.contains(part), "log_etl did not say {part:?} but:\n{}", self.words);
        }
        self
    }
}
