//! Asking before something is removed or cut.
//!
//! Always true here: only a word of a person at a terminal, or `--yes`, means yes.

use std::io::{self, BufRead, IsTerminal, Write};

use super::failure::{Failure, Outcome};

/// Asks on the terminal whether to go on; with `yes` that was answered before.
pub(crate) fn confirm(question: &str, yes: bool) -> Outcome {
    if yes {
        return Ok(());
    }
    let (stdin, mut stderr) = (io::stdin(), io::stderr());
    if !stdin.is_terminal() || !stderr.is_terminal() {
        let what = format!("{question} Nobody is there to say so: say --yes");
        return Err(Failure::Usage(what));
    }
    let failed = |e| Failure::Failed(format!("cannot ask: {e}"));
    write!(stderr, "thalweg: {question} [y/N] ").and_then(|()| stderr.flush()).map_err(failed)?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(failed)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Failed("nothing was changed".to_owned())),
    }
}
