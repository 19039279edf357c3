//! `thalweg` as a process, on a data folder of its own.
//!
//! Always true here: no variable of the tester's environment names a folder; standard input is what
//! the test gives, and nothing else; what a program left behind is removed with its folder.
#![allow(dead_code, reason = "each test program that includes this uses its own part of it")]

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

/// A data folder.
pub(crate) struct Shell {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) data: PathBuf,
}

/// What a program came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Said {
    /// Its output as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("the output is text")
    }

    /// Its lines of output.
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.text().lines().collect()
    }

    /// Itself, if this was its status.
    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{self:?}");
        self
    }
}

impl Shell {
    /// A folder that is not there yet.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { data: folder.path().join("data"), folder }
    }

    /// A folder with this topic.
    pub(crate) fn with_topic(topic: &str, partitions: u32) -> Self {
        let shell = Self::new();
        shell.run(&["topics", "create", topic, "--partitions", &partitions.to_string()]).expect(0);
        shell
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thalweg"));
        command.env("THALWEG_DATA", &self.data).env_remove("NO_COLOR").args(arguments);
        command.current_dir(self.folder.path());
        command
    }

    /// Runs it to its end, without input.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        self.feed(arguments, b"")
    }

    /// Runs it to its end with this input.
    pub(crate) fn feed(&self, arguments: &[&str], input: &[u8]) -> Said {
        let mut child = self.start(arguments);
        let mut stdin = child.stdin.take().expect("it is a pipe");
        let input = input.to_vec();
        // It may end before it read everything.
        let feeder = thread::spawn(move || stdin.write_all(&input).is_ok());
        let said = end(child);
        feeder.join().expect("the feeder does not panic");
        said
    }

    /// Starts it; all three streams are pipes.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program can be started")
    }

    /// What a topic holds, as lines of JSON.
    pub(crate) fn records(&self, topic: &str) -> Vec<serde_json::Value> {
        let said = self.run(&["consume", topic, "--json"]).expect(0);
        let parse = |line: &&str| serde_json::from_str(line).expect("a line is JSON");
        said.lines().iter().map(parse).collect()
    }

    /// The values that a reader of a topic sees.
    pub(crate) fn values(&self, arguments: &[&str]) -> Vec<String> {
        let all: Vec<&str> = [&["consume"], arguments].concat();
        self.run(&all).expect(0).lines().iter().map(|&line| line.to_owned()).collect()
    }
}

/// Waits for the end of a program.
pub(crate) fn end(mut child: Child) -> Said {
    let mut stderr = child.stderr.take();
    let errors = thread::spawn(move || {
        let mut err = String::new();
        if let Some(stderr) = &mut stderr {
            stderr.read_to_string(&mut err).expect("standard error is text");
        }
        err
    });
    let mut out = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut out).expect("its output can be read");
    }
    let status = child.wait().expect("it ends").code();
    Said { status, out, err: errors.join().expect("the reader does not panic") }
}
