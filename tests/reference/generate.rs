//! Folders of log files from a seed: realistic lines, and what real machines do to them.
//!
//! A third of the lines each is JSON, syslog and ISO, some are raw; every file mixes programs,
//! times go back and forth within an hour, ends of lines differ, the last line may have none. Files
//! that must be skipped can lie among them. The same seed gives the same folder.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::FileInput;
use super::lines::LINE_MAX;
use super::random::Random;
use super::time::{self, Civil};

pub(crate) mod line;

use line::{Kind, Lines};

/// A file before it has a folder.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) mtime: i64,
}

impl Made {
    /// Writes the file and sets its modification time; gives the input as the program sees it.
    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<FileInput> {
        let path = folder.join(&self.name);
        fs::write(&path, &self.bytes)?;
        set_mtime(&path, self.mtime)?;
        let path = path.to_string_lossy().into_owned();
        Ok(FileInput { path, bytes: self.bytes.clone(), mtime: self.mtime })
    }
}

/// Sets a file's modification time, in milliseconds since 1970 (not before).
pub(crate) fn set_mtime(path: &Path, ms: i64) -> std::io::Result<()> {
    let at = UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs());
    File::options().append(true).open(path)?.set_modified(at)
}

/// The hour around which a seed's lines lie: turns of years, a leap day, an ordinary noon. All
/// past.
pub(crate) fn noon(seed: u64) -> i64 {
    let at = |year, month, day, hour, minute| {
        let civil = Civil { year, month, day, hour, minute, second: 7, millis: 0 };
        civil.utc(0).expect("the dates below exist")
    };
    match seed % 4 {
        0 => at(2024, 1, 1, 0, 20),
        1 => at(2025, 7, 14, 12, 0),
        2 => at(2024, 2, 29, 23, 40),
        _ => at(2023, 12, 31, 23, 50),
    }
}

/// Files with about `lines` lines in all, each readable.
pub(crate) fn files(seed: u64, lines: usize) -> Vec<Made> {
    let mut random = Random::new(seed);
    let noon = noon(seed);
    let names = [
        "web.access.log",
        "auth.log",
        "syslog",
        "api.json",
        ".hidden",
        "nightly",
        "röm.log",
        "with space.log",
        "mixed.log.1",
    ];
    let each = lines / names.len();
    let mut made: Vec<Made> = names
        .iter()
        .map(|name| {
            let mut lines = Lines::new(random.split(), noon);
            let kind = match *name {
                "syslog" | "auth.log" => Some(Kind::Syslog),
                "api.json" => Some(Kind::Json),
                "web.access.log" => Some(Kind::Iso),
                _ => None,
            };
            let bytes = bytes(&mut lines, &mut random, each, kind);
            Made {
                name: (*name).to_owned(),
                bytes,
                mtime: noon + random.between(1_800_000, 7_200_000),
            }
        })
        .collect();
    year_edges(&mut made[2]);
    made.push(Made { name: "long.log".into(), bytes: long_lines(noon), mtime: noon });
    made.push(Made { name: "empty.log".into(), bytes: Vec::new(), mtime: noon });
    made.push(Made { name: "late-nul.log".into(), bytes: late_nul(noon), mtime: noon });
    // Two files of the same bytes on the first scan are two files.
    let twin = Made { name: "twin.log".into(), ..made[1].clone() };
    made.push(twin);
    made
}

/// Files that are named and skipped, never read as lines.
pub(crate) fn skipped(noon: i64) -> Vec<Made> {
    let line = format!("{} host app: this line must not be read\n", time::show(noon)).into_bytes();
    let with = |start: &[u8]| [start, &line, &line].concat();
    let files = [
        ("old.log.2.gz", with(&[0x1f, 0x8b, 8, 0, 1, 2, 3, 4, 2, 3])),
        ("old.log.3.zst", with(&[0x28, 0xb5, 0x2f, 0xfd, 4, 0, 1])),
        ("wtmp", with(&[7, 0, 0, 0, 1, 2])),
        ("nul-at-8191.log", {
            let mut bytes = line.repeat(200);
            bytes[8191] = 0;
            bytes
        }),
    ];
    let made = |(name, bytes): (&str, _)| Made { name: name.to_owned(), bytes, mtime: noon };
    files.into_iter().map(made).collect()
}

fn bytes(lines: &mut Lines, random: &mut Random, count: usize, kind: Option<Kind>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let crlf = random.one_in(4);
    for _ in 0..count {
        // Even a file of one format has foreign lines in it.
        let kind = kind.filter(|_| !random.one_in(10)).unwrap_or_else(|| Kind::any(random));
        bytes.extend(lines.line(kind));
        bytes.extend_from_slice(if crlf || random.one_in(20) { b"\r\n" } else { b"\n" });
        if random.one_in(15) {
            bytes.extend_from_slice(random.pick(&[&b"\n"[..], b"\r\n", b"   \n", b"\r\r\n"]));
        }
    }
    if random.one_in(3) && bytes.ends_with(b"\n") {
        bytes.pop();
    }
    bytes
}

/// Syslog lines around the moment from which a date means last year: modification time + 24 h.
fn year_edges(file: &mut Made) {
    file.mtime = file.mtime / 1000 * 1000;
    let mut edges = Vec::new();
    for after in [-1000, 0, 1000] {
        let c = Civil::of(file.mtime + 86_400_000 + after);
        let month = line::MONTHS[c.month as usize - 1];
        edges.extend(
            format!(
                "<13>{month} {:2} {:02}:{:02}:{:02} edge clock[1]: {after} ms from the edge\n",
                c.day, c.hour, c.minute, c.second
            )
            .into_bytes(),
        );
    }
    edges.extend_from_slice(&file.bytes);
    file.bytes = edges;
}

/// Lines at, just above and far above the limit; a character on the cut; JSON that the cut breaks.
fn long_lines(noon: i64) -> Vec<u8> {
    let stamp = time::show(noon);
    let mut bytes = Vec::new();
    for length in [LINE_MAX - 1, LINE_MAX, LINE_MAX + 1, 3 * LINE_MAX] {
        let mut line = format!("{stamp} host long[7]: warn {length} ");
        line.extend(std::iter::repeat_n('x', length - line.len()));
        for end in ["\n", "\r\n"] {
            bytes.extend(line.bytes());
            bytes.extend_from_slice(end.as_bytes());
        }
    }
    for _ in 0..2 {
        let mut line = format!("{stamp} é on the cut ");
        while line.len() + 2 <= LINE_MAX + 1 + bytes.len() % 2 {
            line.push('é');
        }
        bytes.extend(line.into_bytes());
        bytes.extend_from_slice(b"\xc3\xa9\r\nshort\n");
    }
    let json = format!("{{\"time\":\"{stamp}\",\"msg\":\"{}\"}}\n", "j".repeat(LINE_MAX));
    bytes.extend(json.into_bytes());
    bytes
}

/// A NUL behind the first 8 KiB does not make a file binary.
fn late_nul(noon: i64) -> Vec<u8> {
    let stamp = time::show(noon);
    let mut bytes = Vec::new();
    while bytes.len() <= 8192 {
        bytes.extend(format!("{stamp} host nul[3]: before {}\n", bytes.len()).into_bytes());
    }
    bytes.extend(
        format!("{stamp} host nul[3]: a \0 and \u{1}\u{7f}\u{2028} inside\nafter\n").into_bytes(),
    );
    bytes
}
