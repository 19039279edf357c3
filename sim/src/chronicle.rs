//! What happened in a run, in order: acts of writers and rotators, starts, ends and deaths, and what
//! the source said of its files. Printed when a run fails.
//!
//! Always true here: it is written and never read by the run, so it changes nothing.

use std::cell::RefCell;
use std::rc::Rc;

/// The lines that everybody in a run writes to.
#[derive(Clone, Default)]
pub(crate) struct Chronicle(Rc<RefCell<Vec<String>>>);

impl Chronicle {
    /// Adds a line, with the number of I/O points that were passed before.
    pub(crate) fn tell(&self, operations: u64, what: impl std::fmt::Display) {
        self.0.borrow_mut().push(format!("#{operations} {what}"));
    }

    /// Everything told so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}
