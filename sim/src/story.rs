//! The lines and what happens to their files: made from a seed, before anything runs.
//!
//! ```text
//!   first --once    web.log  auth.log  app.json  old.log         half of the lines
//!   then            web.log      rename + create, twice          the writer goes on in the old file
//!                   auth.log     copied in chunks inside the glob, truncated
//!                   old.log      compressed beside itself, removed; new.log takes its inode
//!                   app.json     lines in two pieces, late lines, a last line without its newline
//!   last --once     the rest
//! ```
//!
//! Always true here: every line that is not to be dropped says `id=` and four digits, each once in all
//! the files; the order within a file is that of the ids; times of the second half lie in later
//! minutes than those of the first, but for the late lines.

use std::fmt;

use thalweg_core::disk::sim::Rng;

use crate::plan::Plan;

/// When the machine is switched on: 2026-11-21T12:00:00Z.
pub(crate) const START: i64 = 1_795_262_400_000;
/// The folder that is tailed.
pub(crate) const IN: &str = "/in";
/// The time of the first lines: two hours before.
const FIRST: i64 = START - 7_200_000;
/// The time of the lines after the first `--once`.
const SECOND: i64 = FIRST + 900_000;

/// A line of a log.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Without its newline.
    pub(crate) bytes: Vec<u8>,
    /// The log it was written to: its program may follow from it.
    pub(crate) path: &'static str,
    /// It comes after its minute was closed.
    pub(crate) is_late: bool,
    /// Its time is none of its own, or far ahead: whether it is late depends on the moment.
    pub(crate) may_be_late: bool,
}

/// One thing that a writer or rotator does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Writes at the end of a file, created when missing. `starts`: which lines begin where in it.
    Append {
        path: String,
        bytes: Vec<u8>,
        starts: Vec<(usize, u64)>,
    },
    /// Gives a log its next file.
    Create {
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    CopyBegin {
        from: String,
        to: String,
    },
    /// Copies this quarter of the file.
    CopyQuarter {
        from: String,
        to: String,
        quarter: u64,
    },
    CopyEnd {
        to: String,
    },
    Truncate {
        path: String,
    },
    /// Writes at the end of a file that holds no lines.
    Put {
        path: String,
        bytes: Vec<u8>,
    },
    Remove {
        path: String,
    },
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append { path, bytes, starts } => {
                write!(f, "append {path} +{}", bytes.len())?;
                match (starts.first(), starts.last()) {
                    (Some((first, _)), Some((last, _))) => write!(f, ", lines {first} to {last}"),
                    _ => Ok(()),
                }
            }
            Self::Create { path } => write!(f, "create {path}"),
            Self::Rename { from, to } => write!(f, "rename {from} -> {to}"),
            Self::CopyBegin { from, to } => write!(f, "copy {from} -> {to}"),
            Self::CopyQuarter { to, quarter, .. } => write!(f, "copy quarter {quarter} -> {to}"),
            Self::CopyEnd { to } => write!(f, "sync the copy {to}"),
            Self::Truncate { path } => write!(f, "truncate {path}"),
            Self::Put { path, bytes } => write!(f, "append {path} +{}, no lines", bytes.len()),
            Self::Remove { path } => write!(f, "remove {path}"),
        }
    }
}

/// All of it.
pub(crate) struct Story {
    pub(crate) lines: Vec<Line>,
    /// Before the program is started for the first time.
    pub(crate) before: Vec<Act>,
    /// Who does what after the first `--once`: one list each, whose orders are kept.
    pub(crate) after: Vec<Vec<Act>>,
}

impl Story {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut teller = Teller {
            rng: plan.rng(1),
            whole_lines: plan.once_throughout,
            lines: Vec::new(),
            time: FIRST,
        };
        let before = vec![
            teller.append("/in/web.log", WEB, 26),
            teller.append("/in/auth.log", AUTH, 34),
            teller.append("/in/app.json", APP, 26),
            teller.append("/in/old.log", OLD, 14),
        ];
        teller.time = SECOND;
        let mut after = vec![Vec::new(); 4];
        teller.web(&mut after[0]);
        teller.auth(&mut after[1]);
        teller.app(&mut after[2]);
        teller.old(&mut after[3]);
        Self { lines: teller.lines, before, after }
    }
}

const WEB: &str = "/in/web.log";
const AUTH: &str = "/in/auth.log";
const APP: &str = "/in/app.json";
const OLD: &str = "/in/old.log";
const NEW: &str = "/in/new.log";

struct Teller {
    rng: Rng,
    /// `--once` takes a line that has no newline yet, and the rest of it as another.
    whole_lines: bool,
    lines: Vec<Line>,
    time: i64,
}

impl Teller {
    /// Renamed and created anew, twice; the writer still holds the old file for some lines.
    fn web(&mut self, acts: &mut Vec<Act>) {
        let renamed = |from: &str, to: &str| Act::Rename { from: from.into(), to: to.into() };
        acts.push(self.append(WEB, WEB, 5));
        acts.push(renamed(WEB, "/in/web.log.1"));
        acts.push(self.append("/in/web.log.1", WEB, 3));
        acts.push(Act::Create { path: WEB.into() });
        acts.push(self.append(WEB, WEB, 7));
        acts.push(self.append(WEB, WEB, 4));
        acts.push(renamed("/in/web.log.1", "/in/web.log.2"));
        acts.push(renamed(WEB, "/in/web.log.1"));
        acts.push(Act::Create { path: WEB.into() });
        acts.push(self.append(WEB, WEB, 5));
    }

    /// Copied in quarters, with the copy where files are looked for, then truncated.
    fn auth(&mut self, acts: &mut Vec<Act>) {
        let to = "/in/auth.log.1";
        acts.push(self.append(AUTH, AUTH, 4));
        acts.push(self.append(AUTH, AUTH, 3));
        acts.push(Act::CopyBegin { from: AUTH.into(), to: to.into() });
        for quarter in 0..4 {
            acts.push(Act::CopyQuarter { from: AUTH.into(), to: to.into(), quarter });
        }
        acts.push(Act::CopyEnd { to: to.into() });
        acts.push(Act::Truncate { path: AUTH.into() });
        acts.push(self.append(AUTH, AUTH, 6));
        acts.push(self.append(AUTH, AUTH, 6));
    }

    /// Never rotated. Lines in pieces, late lines, and no newline in the end.
    fn app(&mut self, acts: &mut Vec<Act>) {
        acts.push(self.append(APP, APP, 6));
        let late = self.late();
        acts.push(late);
        acts.extend(self.pieces(APP, APP, 5));
        acts.push(self.append(APP, APP, 8));
        acts.extend(self.pieces(APP, APP, 4));
        let late = self.late();
        acts.push(late);
        let mut last = self.append(APP, APP, 4);
        if let Act::Append { bytes, .. } = &mut last {
            bytes.pop();
        }
        acts.push(last);
    }

    /// Compressed beside itself and removed; the next file has its number.
    fn old(&mut self, acts: &mut Vec<Act>) {
        let gz = "/in/old.log.gz";
        let bytes: Vec<u8> = (0..300).map(|_| self.rng.number() as u8).collect();
        let head = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], &bytes[..140]].concat();
        acts.push(Act::Create { path: gz.into() });
        acts.push(Act::Put { path: gz.into(), bytes: head });
        acts.push(Act::Put { path: gz.into(), bytes: bytes[140..].to_vec() });
        acts.push(Act::Remove { path: OLD.into() });
        acts.push(Act::Create { path: NEW.into() });
        acts.push(self.append(NEW, NEW, 5));
        acts.extend(self.pieces(NEW, NEW, 3));
    }

    /// So many lines of the log `log`, written to the file that is `path` by now.
    fn append(&mut self, path: &str, log: &'static str, count: usize) -> Act {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for _ in 0..count {
            self.time += self.rng.below(9_000) as i64 - 2_000;
            if self.rng.one_in(14) {
                // Lines that must not be seen.
                bytes.extend_from_slice(if self.rng.coin() { b"\n" } else { b"\r\n" });
            }
            if self.rng.one_in(14) {
                bytes.extend_from_slice(b"DEBUG nobody wants to know\n");
            }
            let start = bytes.len() as u64;
            let line = self.line(log);
            bytes.extend_from_slice(&line.bytes);
            bytes.push(b'\n');
            starts.push((self.lines.len(), start));
            self.lines.push(line);
        }
        Act::Append { path: path.to_owned(), bytes, starts }
    }

    /// As `append`, but the writer's buffer ends within a line.
    fn pieces(&mut self, path: &str, log: &'static str, count: usize) -> [Act; 2] {
        let Act::Append { bytes, starts, .. } = self.append(path, log, count) else {
            unreachable!("append makes an append")
        };
        let last = starts.last().map_or(0, |last| last.1 as usize);
        let cut = match self.whole_lines {
            true => last,
            false => last + 1 + self.rng.below((bytes.len() - last - 1) as u64) as usize,
        };
        let act = |bytes: &[u8], starts| Act::Append {
            path: path.to_owned(),
            bytes: bytes.to_vec(),
            starts,
        };
        let (first, second): (Vec<_>, Vec<_>) =
            starts.into_iter().partition(|start| start.1 < cut as u64);
        let second = second.into_iter().map(|(line, at)| (line, at - cut as u64));
        [act(&bytes[..cut], first), act(&bytes[cut..], second.collect())]
    }

    /// Lines of minutes that the first `--once` has closed.
    fn late(&mut self) -> Act {
        let now = std::mem::replace(&mut self.time, FIRST + 20_000);
        let first = self.lines.len();
        let mut act = self.append(APP, APP, 2);
        self.time = now;
        for line in &mut self.lines[first..] {
            line.is_late = !line.may_be_late;
        }
        if let Act::Append { bytes, .. } = &mut act {
            bytes.extend_from_slice(b"trace this one is dropped, late or not\n");
        }
        act
    }

    /// One line in the formats that its log has.
    fn line(&mut self, log: &'static str) -> Line {
        let id = self.lines.len();
        let time = self.time;
        let text = self.message(id);
        let shape = match (log, self.rng.below(10)) {
            (APP, 0) | (OLD | NEW, 0..=2) => Shape::Raw,
            (APP, 1) => Shape::Future,
            (APP, _) => Shape::Json,
            (AUTH, 0..=7) => Shape::Syslog,
            (_, 0) => Shape::Raw,
            (_, 1..=5) => Shape::IsoTagged,
            _ => Shape::Iso,
        };
        let civil = Civil::of(time);
        let tag = self.pick(&["sshd", "cron", "kernel", "web"]);
        let bytes = match shape {
            Shape::Raw => text,
            Shape::Json => self.json(&civil.rfc3339(), time, &text),
            // A line of 2030: more than an hour ahead of everything.
            Shape::Future => self.json("2030-01-01T00:00:30Z", 1_893_456_030_000, &text),
            Shape::Syslog => {
                let pri = match self.rng.below(3) {
                    0 => "",
                    1 => "<38>",
                    _ => "<35>",
                };
                format!("{pri}{} host {tag}[77]: {text}", civil.syslog())
            }
            Shape::IsoTagged => format!("{} host {tag}: {text}", civil.rfc3339()),
            Shape::Iso => format!("{} {text}", civil.rfc3339()),
        };
        let may_be_late = matches!(shape, Shape::Raw | Shape::Future);
        Line { bytes: bytes.into_bytes(), path: log, is_late: false, may_be_late }
    }

    fn json(&mut self, text_time: &str, time: i64, text: &str) -> String {
        let time = match self.rng.below(3) {
            0 => format!("{}.{:03}", time / 1000, time % 1000),
            1 => time.to_string(),
            _ => format!("\"{text_time}\""),
        };
        let program = self.pick(&["pay", "cart", "web"]);
        let level = self.pick(&["info", "warning", "error", "odd"]);
        format!("{{\"ts\":{time},\"app\":\"{program}\",\"level\":\"{level}\",\"msg\":\"{text}\"}}")
    }

    fn message(&mut self, id: usize) -> String {
        let first = self.pick(&["", "", "error: ", "warn ", "info "]);
        let what = self.pick(&[
            "accepted a connection",
            "took 17 ms",
            "user=42 failed to pay",
            "gr\u{fc}\u{df}e aus k\u{f6}ln",
            "cache is warm, nothing to do here, going on with the next request",
        ]);
        format!("{first}{what} id={id:04}")
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.rng.below(from.len() as u64) as usize]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Raw,
    Json,
    Future,
    Syslog,
    IsoTagged,
    Iso,
}

/// A moment of 2026-11-21, the only day on which lines are written.
struct Civil {
    of_day: i64,
}

impl Civil {
    fn of(time: i64) -> Self {
        Self { of_day: time - (START - 43_200_000) }
    }

    fn clock(&self) -> String {
        let seconds = self.of_day / 1000;
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }

    fn rfc3339(&self) -> String {
        format!("2026-11-21T{}.{:03}Z", self.clock(), self.of_day % 1000)
    }

    fn syslog(&self) -> String {
        format!("Nov 21 {}", self.clock())
    }
}
