//! What follows from events: counts per window, the last message per program, which lines are late.
//!
//! Folded from events *with* a time, so for raw lines from the time the program showed for them.

use std::collections::BTreeMap;

use super::output::EventLine;
use super::time::window_start;

/// A row of `counts`: window start, program, severity.
pub(crate) type Cell = (i64, String, String);

/// How many of these lines lie in each cell.
pub(crate) fn cells<'a>(lines: impl IntoIterator<Item = &'a EventLine>) -> BTreeMap<Cell, u64> {
    let mut cells = BTreeMap::new();
    for line in lines {
        *cells.entry(cell(line)).or_default() += 1;
    }
    cells
}

pub(crate) fn cell(line: &EventLine) -> Cell {
    (window_start(line.time), line.program.clone(), line.severity.clone())
}

/// Per program the line with the greatest (time, file, offset). Files compare by their bytes.
pub(crate) fn latest(lines: &[EventLine]) -> BTreeMap<&str, &EventLine> {
    let mut latest: BTreeMap<&str, &EventLine> = BTreeMap::new();
    for line in lines {
        let slot = latest.entry(&line.program).or_insert(line);
        if (line.time, &line.file, line.offset) >= (slot.time, &slot.file, slot.offset) {
            *slot = line;
        }
    }
    latest
}
