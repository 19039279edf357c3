//! The program `thalweg`: the shell on a data folder, as sqlite3 is to a database file.
//!
//! No server and no network: the library opens the folder, the commands are thin.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
