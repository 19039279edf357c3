//! Completions and manual pages, made from the argument tree.

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Arguments;
use super::failure::{Failure, Outcome};
use super::output::Out;

/// Prints a shell's completions.
pub(crate) fn completions(shell: Shell) -> Outcome {
    let mut out = Out::new();
    clap_complete::generate(shell, &mut Arguments::command(), "thalweg", &mut out.buffer);
    out.flush()
}

/// Prints the manual page of a command, or of the program.
pub(crate) fn man(path: &[String]) -> Outcome {
    let mut command = Arguments::command();
    command.build();
    for name in path {
        let Some(found) = command.find_subcommand(name) else {
            return Err(Failure::Usage(format!(
                "there is no command {:?}: `thalweg help` lists those there are",
                path.join(" ")
            )));
        };
        command = found.clone();
    }
    let mut out = Out::new();
    clap_mangen::Man::new(command).render(&mut out.buffer).map_err(Failure::output)?;
    out.flush()
}
