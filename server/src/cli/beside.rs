//! Where what is taken out of a folder is kept: `DIR.repair-TIME/`, beside it.
//!
//! Always true here: the folder is named by its whole, link-free path, so that beside it is beside it; a
//! name that is taken is not used again.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::failure::{Failure, Outcome};

/// The folder itself, and a name beside it that is free.
pub(crate) fn beside(dir: &Path) -> Outcome<(PathBuf, PathBuf)> {
    let whole = dir.canonicalize().map_err(|e| Failure::system("find", dir, e))?;
    let Some(name) = whole.file_name() else {
        let what = "nothing can be kept beside it: give a folder below another one".to_owned();
        return Err(Failure::NoLog { path: whole, what });
    };
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut number = 0;
    loop {
        let mut kept = name.to_owned();
        kept.push(format!(".repair-{time}"));
        if number > 0 {
            kept.push(format!("-{number}"));
        }
        let kept = whole.with_file_name(kept);
        if !kept.exists() {
            return Ok((whole, kept));
        }
        number += 1;
    }
}

/// Now, in milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}
