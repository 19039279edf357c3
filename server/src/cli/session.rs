//! Opening the data folder, working on it, and closing it whatever the work came to.
//!
//! Always true here: only a command that creates something makes a folder; a folder that holds
//! something else is refused before anything is written into it; after the work the log is closed, so
//! that the next command need not recover.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use thalweg_core::config::LogConfig;
use thalweg_core::disk::real::RealDisk;
use thalweg_core::engine::clock::Clock;
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::engine::{Engine, open_real};
use thalweg_core::{Error, Log};
use tokio::runtime::Builder;

use super::failure::{Failure, Outcome, note};
use super::signals::Stop;

/// What happens when there is no log in the folder.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is made, with its folder.
    Create,
    /// The command ends.
    Refuse,
}

/// An open log, and the bell that ends the work.
pub(crate) struct Session {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) stop: Stop,
}

/// Opens the folder, does the work, closes the folder. A signal gives the work up where it waits.
pub(crate) fn short(
    data: &Path,
    missing: Missing,
    work: impl AsyncFnOnce(Arc<dyn Log>) -> Outcome,
) -> Outcome {
    long(data, missing, async |session: Session| {
        tokio::select! {
            done = work(session.log) => done,
            number = session.stop.rung() => Err(Failure::Signal(number)),
        }
    })
}

/// As [`short`], for work that looks at the bell itself and finishes what it holds.
pub(crate) fn long(
    data: &Path,
    missing: Missing,
    work: impl AsyncFnOnce(Session) -> Outcome,
) -> Outcome {
    open(data, missing, async |engine: Arc<Engine<RealDisk>>, stop| {
        work(Session { log: engine.into_log(), stop }).await
    })
}

/// As [`long`], for work on the engine itself, in a folder that is there.
pub(crate) fn engine(
    data: &Path,
    work: impl AsyncFnOnce(Arc<Engine<RealDisk>>, Stop) -> Outcome,
) -> Outcome {
    open(data, Missing::Refuse, work)
}

/// How a folder is opened to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// By its one writer, which this process is then.
    Alone,
    /// By its writer, or, when that is another process, by looking at what is there.
    AloneOrLooking,
    /// By looking: no lock, no byte and no name is changed.
    Looking,
}

/// As [`long`], for work that only reads.
pub(crate) fn read(
    data: &Path,
    how: Reading,
    work: impl AsyncFnOnce(Session) -> Outcome,
) -> Outcome {
    // One of Apache Kafka's is looked at; a group's positions there are Kafka's to store.
    let foreign = how != Reading::Alone && is_kafkas(data);
    if !foreign {
        check(data, Missing::Refuse)?;
    }
    run(async |stop: Stop| {
        if how != Reading::Looking && !foreign {
            match open_alone(data).await {
                Ok(engine) => {
                    stop.be_graceful();
                    let log = Arc::clone(&engine).into_log();
                    return closed(work(Session { log, stop }).await, &engine);
                }
                Err(Error::InUse { by, .. }) if how == Reading::AloneOrLooking => {
                    note(&format!("{} is in use{by}: what is there now is read", data.display()));
                }
                Err(e) => return Err(e.into()),
            }
        }
        let config = LogConfig::default();
        let engine =
            Engine::look(RealDisk, data, config, Runtime::current(), Clock::System).await?;
        stop.be_graceful();
        let engine = Arc::new(engine);
        work(Session { log: engine.into_log(), stop }).await
    })
}

/// As [`short`], for a question: a log directory of Apache Kafka is asked as it is.
pub(crate) fn ask(data: &Path, work: impl AsyncFnOnce(Arc<dyn Log>) -> Outcome) -> Outcome {
    if is_kafkas(data) {
        return read(data, Reading::Looking, async |session: Session| work(session.log).await);
    }
    short(data, Missing::Refuse, work)
}

async fn open_alone(data: &Path) -> Result<Arc<Engine<RealDisk>>, Error> {
    open_real(data, LogConfig::default()).await
}

/// Closes the log whatever the work came to.
fn closed(done: Outcome, engine: &Engine<RealDisk>) -> Outcome {
    let closed = engine.close();
    done?;
    Ok(closed?)
}

fn open(
    data: &Path,
    missing: Missing,
    work: impl AsyncFnOnce(Arc<Engine<RealDisk>>, Stop) -> Outcome,
) -> Outcome {
    check(data, missing)?;
    run(async |stop: Stop| {
        let engine = open_alone(data).await?;
        stop.be_graceful();
        closed(work(Arc::clone(&engine), stop).await, &engine)
    })
}

/// Runs work on a runtime of its own.
pub(super) fn run(work: impl AsyncFnOnce(Stop) -> Outcome) -> Outcome {
    // One thread beside this one: for what the engine does in the background, and for signals.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::Failed(format!("cannot start: {e}")))?;
    let outcome = runtime.block_on(async { work(Stop::listen()?).await });
    // A thread that waits for standard input is not waited for.
    runtime.shutdown_background();
    outcome
}

/// Whether it is a log directory of Apache Kafka, and not one that was taken over.
fn is_kafkas(data: &Path) -> bool {
    let has = |name: &str| data.join(name).exists();
    !has("format") && (has("meta.properties") || has("recovery-point-offset-checkpoint"))
}

/// Looks whether the folder is one that the library may open.
fn check(data: &Path, missing: Missing) -> Outcome {
    let no_log = |what: String| Err(Failure::NoLog { path: data.to_owned(), what });
    let how = "`thalweg topics create NAME` makes one; --data DIR or THALWEG_DATA names another";
    let entries = match fs::read_dir(data) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound && missing == Missing::Create => {
            return Ok(());
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return no_log(format!("there is no such folder, hence no log: {how}"));
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return no_log("it is no folder; a log is one: give the folder".to_owned());
        }
        Err(e) => return Err(Failure::system("read", data, e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(|e| Failure::system("read", data, e))?.file_name());
    }
    let has = |name: &str| names.iter().any(|found| found.to_str() == Some(name));
    // A start that was killed leaves a lock and nothing else, or the log without the rest.
    let ours = |name: &std::ffi::OsString| matches!(name.to_str(), Some("format" | "lock"));
    if has("format") || data.join("log").join("__thalweg_metadata-0").exists() {
        Ok(())
    } else if is_kafkas(data) {
        no_log(
            "it is a log directory of Apache Kafka: it is read as it is (`thalweg consume`, `topics \
             list`, `stats`), and `thalweg take-over` makes it a data folder of this program"
                .to_owned(),
        )
    } else if let Some(other) = names.iter().find(|name| !ours(name)) {
        let other = other.to_string_lossy();
        no_log(format!("it is no log: there is no `format` in it, but {other:?} is; {how}"))
    } else if missing == Missing::Create {
        Ok(())
    } else {
        no_log(format!("it holds no log: {how}"))
    }
}
