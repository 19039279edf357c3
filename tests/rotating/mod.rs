//! Programs that write log files, and a rotator that moves the files away under them: four files,
//! each line with an id that no other line has.
//!
//! ```text
//! rename:        web.log.1 -> web.log.2   web.log -> web.log.1   (lines go there)   new web.log
//! copytruncate:  app.log.1 -> app.log.2   app.log copied to app.log.1 in pieces   app.log cut to 0
//! ```
//!
//! Nothing is written between a copy's end and the truncation (no reader of files could save such
//! lines), files are rotated when they hold several KiB (below 1 KiB a copy cannot be told from a
//! new file), and no file is deleted. Everything else happens at any time.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{sleep, yield_now};
use std::time::Duration;

use crate::reference::random::Random;
use crate::reference::time::{self, Civil};

/// What the test and the writer's thread share.
#[derive(Default)]
pub(crate) struct Signals {
    /// Set to end the writing.
    pub(crate) stop: AtomicBool,
    /// How many rotations have begun.
    pub(crate) rotations: AtomicU64,
    /// How many lines are in the files.
    pub(crate) lines: AtomicU64,
}

/// A line that was written.
pub(crate) struct Written {
    /// `web` for all files that were ever `web.log`.
    pub(crate) stem: &'static str,
    /// Where it began in the file it was written to; copies and renames keep that.
    pub(crate) offset: u64,
    /// Without the newline.
    pub(crate) bytes: Vec<u8>,
}

/// Writes until told to stop; every line that is in the files then, whole and with its newline, the
/// last of one file perhaps without.
pub(crate) fn write(
    folder: &Path,
    random: &mut Random,
    clock: i64,
    signals: &Signals,
) -> io::Result<Vec<Written>> {
    let mut ledger = Vec::new();
    let mut lines = Lines { random: random.split(), clock, next: 0 };
    let mut logs = [
        Log::create(folder, "web", Rotation::Rename)?,
        Log::create(folder, "app", Rotation::CopyTruncate)?,
        Log::create(folder, "auth", Rotation::Rename)?,
        Log::create(folder, "mail", Rotation::CopyTruncate)?,
    ];
    while !signals.stop.load(Ordering::Relaxed) {
        let log = &mut logs[random.below(4)];
        let count = 1 + random.below(12);
        log.append(&mut lines, count, random, &mut ledger)?;
        if log.size > log.rotate_at {
            signals.rotations.fetch_add(1, Ordering::Relaxed);
            log.rotate(&mut lines, random, &mut ledger)?;
        }
        signals.lines.store(ledger.len() as u64, Ordering::Relaxed);
        // The pace of the programs that log; nothing waits for this.
        sleep(Duration::from_millis(2 + random.below(6) as u64));
    }
    let line = lines.line("web");
    logs[0].write(&line, &mut ledger)?;
    Ok(ledger)
}

enum Rotation {
    Rename,
    CopyTruncate,
}

struct Log {
    stem: &'static str,
    path: PathBuf,
    file: File,
    size: u64,
    rotate_at: u64,
    /// How many rotated files there are: `.1` to `.older`.
    older: u32,
    rotation: Rotation,
}

impl Log {
    fn create(folder: &Path, stem: &'static str, rotation: Rotation) -> io::Result<Self> {
        let path = folder.join(format!("{stem}.log"));
        let file = Self::open(&path)?;
        Ok(Self { stem, path, file, size: 0, rotate_at: 8_000, older: 0, rotation })
    }

    fn open(path: &Path) -> io::Result<File> {
        File::options().create_new(true).append(true).open(path)
    }

    /// Appends lines, in one write, in one write each, or in pieces that end inside a line.
    fn append(
        &mut self,
        lines: &mut Lines,
        count: usize,
        random: &mut Random,
        ledger: &mut Vec<Written>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            let line = lines.line(self.stem);
            ledger.push(Written {
                stem: self.stem,
                offset: self.size + bytes.len() as u64,
                bytes: line.clone(),
            });
            bytes.extend(line);
            bytes.extend_from_slice(if random.one_in(10) { b"\r\n" } else { b"\n" });
        }
        self.size += bytes.len() as u64;
        let piece = if random.one_in(3) { 1 + random.below(bytes.len()) } else { bytes.len() };
        for piece in bytes.chunks(piece) {
            self.file.write_all(piece)?;
            yield_now();
        }
        Ok(())
    }

    fn write(&mut self, line: &[u8], ledger: &mut Vec<Written>) -> io::Result<()> {
        ledger.push(Written { stem: self.stem, offset: self.size, bytes: line.to_vec() });
        self.size += line.len() as u64;
        self.file.write_all(line)
    }

    fn older_path(&self, n: u32) -> PathBuf {
        self.path.with_file_name(format!("{}.log.{n}", self.stem))
    }

    fn rotate(
        &mut self,
        lines: &mut Lines,
        random: &mut Random,
        ledger: &mut Vec<Written>,
    ) -> io::Result<()> {
        for n in (1..=self.older).rev() {
            fs::rename(self.older_path(n), self.older_path(n + 1))?;
        }
        self.older += 1;
        match self.rotation {
            Rotation::Rename => {
                fs::rename(&self.path, self.older_path(1))?;
                // The program has not yet been told, and goes on in the file it has open.
                for _ in 0..random.below(4) {
                    self.append(lines, 3, random, ledger)?;
                    sleep(Duration::from_millis(random.below(5) as u64));
                }
                self.file = Self::open(&self.path)?;
            }
            Rotation::CopyTruncate => {
                let mut copy = Self::open(&self.older_path(1))?;
                let mut from = File::open(&self.path)?;
                let mut piece = vec![0; 4096 << random.below(3)];
                loop {
                    let read = from.read(&mut piece)?;
                    if read == 0 {
                        break;
                    }
                    copy.write_all(&piece[..read])?;
                    if random.one_in(3) {
                        sleep(Duration::from_millis(random.below(10) as u64));
                    }
                }
                self.file.set_len(0)?;
            }
        }
        self.size = 0;
        self.rotate_at = random.between(6_000, 40_000).unsigned_abs();
        Ok(())
    }
}

/// Lines of all formats; most move forward in time, some come from long ago.
struct Lines {
    random: Random,
    clock: i64,
    next: u64,
}

impl Lines {
    fn line(&mut self, stem: &str) -> Vec<u8> {
        let random = &mut self.random;
        self.clock += random.between(20, 150);
        self.next += 1;
        let at = match random.below(40) {
            0 => self.clock - random.between(60_000, 900_000),
            1..=8 => self.clock - random.between(0, 20_000),
            _ => self.clock,
        };
        let id = format!("id={stem}-{:07}", self.next);
        let word =
            random.pick(&["error", "warn", "ok", "ok", "info", "done", "debug", "failed", "ü"]);
        let program = random.pick(&["sshd", "nginx", "cron", "postfix/smtpd", "api"]);
        let stamp = time::show(at);
        let c = Civil::of(at);
        let mut line = match random.below(10) {
            0..=2 => format!(
                "{{\"time\":\"{stamp}\",\"app\":\"{program}\",\"msg\":\"{word} {id} \\u00e9\",\"n\":[1,2]}}"
            ),
            3 | 4 => format!("{stamp} host {program}[{}]: {word} {id}", random.below(30_000)),
            5 => format!("{stamp} {word} {id} without a tag"),
            6..=8 => {
                let month = crate::reference::generate::line::MONTHS[c.month as usize - 1];
                let (hour, minute, second) = (c.hour, c.minute, c.second);
                let pri = 8 + random.below(8);
                format!(
                    "<{pri}>{month} {:2} {hour:02}:{minute:02}:{second:02} host {program}: {word} {id}",
                    c.day
                )
            }
            _ => format!("{word} {id} without a time"),
        }
        .into_bytes();
        if random.one_in(50) {
            line.extend_from_slice(b" \xff\xc3 bad bytes");
        }
        if random.one_in(1500) {
            line.extend(std::iter::repeat_n(b'x', 150_000));
        }
        line
    }
}
