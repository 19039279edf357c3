//! What goes to standard output: bytes through one buffer, and lists as tables or NDJSON.
//!
//! ```text
//!   terminal          a table with a line below its header
//!   file or pipe      one line a row, columns separated by tabs
//!   --json            one object a line
//! ```
//!
//! Always true here: one buffer between a record and the system's write; a closed pipe is
//! [`Failure::ClosedPipe`], which ends the command without a word.

use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use super::failure::{Failure, Outcome};

/// Bytes that are collected before they are written.
const FLUSH_BYTES: usize = 256 << 10;

/// Standard output.
pub(crate) struct Out {
    pub(crate) buffer: Vec<u8>,
}

impl Out {
    /// Standard output, nothing written yet.
    pub(crate) fn new() -> Self {
        Self { buffer: Vec::with_capacity(FLUSH_BYTES + (64 << 10)) }
    }

    /// Adds bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Adds an object as one line, its members in the order given.
    pub(crate) fn object(&mut self, members: &[Cell]) {
        for (i, (name, value)) in members.iter().enumerate() {
            self.write(if i == 0 { b"{" } else { b"," });
            self.write(format!("\"{name}\":{value}").as_bytes());
        }
        self.write(b"}\n");
    }

    /// Adds a line of columns.
    pub(crate) fn line(&mut self, columns: impl Iterator<Item = String>) {
        for (i, column) in columns.enumerate() {
            self.write(if i == 0 { b"" } else { b"\t" });
            self.write(column.as_bytes());
        }
        self.write(b"\n");
    }

    /// Writes when there is much to write.
    #[inline]
    pub(crate) fn flush_if_full(&mut self) -> Outcome {
        if self.buffer.len() >= FLUSH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes everything.
    pub(crate) fn flush(&mut self) -> Outcome {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(&self.buffer).and_then(|()| stdout.flush());
        self.buffer.clear();
        written.map_err(Failure::output)
    }

    /// Whether the one who reads standard output is gone, as far as the system says so without a
    /// write: who follows a quiet topic would not notice otherwise.
    pub(crate) fn is_closed() -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stdout = io::stdout();
        let mut one = [PollFd::new(&stdout, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let polled = poll(&mut one, Some(&now));
        polled.is_ok() && one[0].revents().contains(PollFlags::ERR)
    }
}

/// A cell of a row: its name, and its value as programs read it.
pub(crate) type Cell = (&'static str, Value);

/// A list: for people as a table, for programs as one object a row. Both come from the same cells.
pub(crate) struct List {
    json: bool,
    header: &'static [&'static str],
    rows: Vec<Vec<Value>>,
}

impl List {
    /// An empty list of these columns.
    pub(crate) fn new(header: &'static [&'static str], json: bool) -> Self {
        Self { json, header, rows: Vec::new() }
    }

    /// Adds a row: a value for every column.
    pub(crate) fn row<const N: usize>(&mut self, out: &mut Out, values: [Value; N]) {
        debug_assert_eq!(N, self.header.len(), "a value for every column");
        if self.json {
            let cells: Vec<Cell> = self.header.iter().copied().zip(values).collect();
            out.object(&cells);
        } else {
            self.rows.push(values.into());
        }
    }

    /// Writes the table; objects were written row by row.
    pub(crate) fn finish(self, out: &mut Out) {
        if self.json {
            return;
        }
        let header = self.header.iter().map(|name| title(name));
        if io::stdout().is_terminal() {
            let mut table = Table::new();
            table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
            for row in self.rows {
                table.add_row(row.iter().map(|value| {
                    let cell = comfy_table::Cell::new(text(value));
                    if value.is_number() { cell.set_alignment(CellAlignment::Right) } else { cell }
                }));
            }
            out.write(table.to_string().as_bytes());
            out.write(b"\n");
            return;
        }
        out.line(header);
        for row in self.rows {
            out.line(row.iter().map(text));
        }
    }
}

/// The heading of a column.
pub(crate) fn title(name: &str) -> String {
    name.to_ascii_uppercase().replace('_', "-")
}

/// What people read of a value.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(map) => {
            let pairs = map.iter().map(|(name, value)| format!("{name}={}", text(value)));
            pairs.collect::<Vec<_>>().join(" ")
        }
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
