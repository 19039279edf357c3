//! The commands: arguments in, work by the library, one exit status out.
//!
//! ```text
//!   args.rs      the argument tree          failure.rs   what went wrong -> exit status
//!   session.rs   open, work, close          signals.rs   Ctrl-C and friends
//!   output.rs    tables, NDJSON, stdout     json.rs      record <-> one line of JSON
//!   input.rs     lines of standard input    from.rs      --from
//!   confirm.rs   asking first            beside.rs    DIR.repair-TIME
//!   topics, produce, consume, groups, transactions, delete_records, truncate, maintain: a file each,
//!   on an open log; dump, verify, stats, repair, backup, take_over: a file each, on files
//! ```
//!
//! Always true here: what a command says goes to standard output, everything about it to standard
//! error; nothing is printed after a closed pipe; every way out goes through [`Failure::status`].

mod args;
mod backup;
mod beside;
mod confirm;
mod consume;
mod delete_records;
mod dump;
mod failure;
mod format;
mod from;
mod groups;
mod input;
mod json;
mod maintain;
mod output;
mod pages;
mod produce;
mod progress;
mod read;
mod repair;
mod session;
mod signals;
mod stats;
mod take_over;
mod topics;
mod transactions;
mod truncate;
mod verify;
mod write;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use self::args::{Arguments, Command};
use self::failure::{Failure, Outcome};
use self::output::Out;

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    let outcome = match Arguments::try_parse() {
        Ok(arguments) => run(arguments),
        Err(e) => refuse(&e),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            ExitCode::from(failure.status())
        }
    }
}

fn run(arguments: Arguments) -> Outcome {
    let data = arguments.data;
    match arguments.command {
        Command::Topics(command) => topics::run(&data, command),
        Command::Produce(options) => produce::run(&data, &options),
        Command::Consume(options) => consume::run(&data, options),
        Command::DeleteRecords(options) => delete_records::run(&data, &options),
        Command::Groups(command) => groups::run(&data, command),
        Command::Transactions(command) => transactions::run(&data, command),
        Command::Dump(options) => dump::run(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Stats(options) => stats::run(&data, &options),
        Command::Truncate(options) => truncate::run(&data, &options),
        Command::Repair(options) => repair::run(&options),
        Command::Maintain(options) => maintain::run(&data, &options),
        Command::Backup(options) => backup::run(&data, &options),
        Command::TakeOver(options) => take_over::run(&options),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { command } => pages::man(&command),
    }
}

/// Shows what was asked of the argument tree (help, version), or what is wrong with the arguments.
fn refuse(e: &clap::Error) -> Outcome {
    let text = e.render();
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let mut out = Out::new();
        let styled = failure::colour(&std::io::stdout());
        let text = if styled { text.ansi().to_string() } else { text.to_string() };
        out.write(text.as_bytes());
        return out.flush();
    }
    let mut stderr = std::io::stderr();
    let text = if stderr.is_terminal() && failure::colour(&stderr) {
        text.ansi().to_string()
    } else {
        text.to_string()
    };
    // Nobody can be told that standard error is closed.
    stderr.write_all(text.as_bytes()).ok();
    Err(Failure::Told(failure::USAGE))
}
