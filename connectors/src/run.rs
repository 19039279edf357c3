//! Runners: a source or a sink, driven inside transactions of the log.
//!
//! ```text
//!   step() -> Worked   call again at once
//!             Idle(d)  nothing to do, or not now: call again after at most d
//!             End      a bounded source is read and committed
//!
//!   what fails            what the runner does
//!   Retry, no room        waits, and does the same step again; a source is not polled meanwhile
//!   Restart, Abortable    aborts, reads its positions again, takes the connector back to them
//!   Fenced                stops: another run has taken its place
//!   Stopped               stops: whether the last transaction was committed shows at the next start
//!   anything else         stops, and says what to do
//! ```
//!
//! A step starts no thread, and waits for time to pass only where a source keeps pace with readers
//! that are behind ([`pace`](source::SourceConfig::pace); then at most a tenth of a second, by the log's
//! clock). So a simulation calls `step` in a loop, and a program gives
//! [`run`](source::SourceRunner::run) a thread of its own.
//!
//! Always true here: the log's transaction is the only arbiter; after a failure whose outcome is not
//! known nothing is guessed; the same failure again and again, without a commit in between, stops the
//! runner instead of turning for ever.

mod pace;
pub mod sink;
pub mod source;
pub mod topic;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::future::poll_immediate;

use crate::error::Error;

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Something; call again at once.
    Worked,
    /// Nothing, or nothing more for now: call again after at most this long.
    Idle(Duration),
    /// The source is read to its end, and everything is committed.
    End,
}

/// What a failure asks for.
#[derive(Debug)]
enum Verdict {
    /// The same again, later.
    Later(String),
    /// Everything since the last commit again.
    Again(String),
    /// Nothing more.
    Stop(Error),
}

impl Verdict {
    /// Sorts a failure of the runner `who`.
    fn of(who: &str, error: Error) -> Self {
        use thalweg_core::Error as Log;
        match error {
            Error::Retry { what } => Self::Later(what),
            Error::Restart { what } => Self::Again(what),
            Error::Fatal { what } => Self::Stop(Error::Fatal { what }),
            Error::Log(e) if e.is_retriable() => Self::Later(e.to_string()),
            Error::Log(e @ Log::Abortable { .. }) => Self::Again(e.to_string()),
            Error::Log(e @ Log::Fenced { .. }) => Self::Stop(Error::Fatal {
                what: format!(
                    "{who} stops, another run has taken its place: {e}. Let one of them run, or \
                     give them different names"
                ),
            }),
            Error::Log(e @ Log::Stopped { .. }) => Self::Stop(Error::Fatal {
                what: format!(
                    "{who} stops, whether its last transaction was committed is not known: {e}. \
                     Open the log again and start again: it goes on exactly behind what was \
                     committed"
                ),
            }),
            Error::Log(e) => Self::Stop(Error::Log(e)),
        }
    }
}

/// Pauses between attempts: doubling, and limited in number where nothing may heal by itself.
#[derive(Debug, Default)]
struct Backoff {
    pauses: u32,
    restarts: u32,
}

impl Backoff {
    /// Something was committed.
    fn reset(&mut self) {
        *self = Self::default();
    }

    fn pause(&mut self) -> Duration {
        let pause = PAUSE_FIRST.saturating_mul(1 << self.pauses.min(10));
        self.pauses += 1;
        pause.min(PAUSE_LONGEST)
    }

    /// Whether the pause that was just given is worth a word: the first, and then about one a minute.
    fn is_news(&self) -> bool {
        self.pauses == 1 || self.pauses.is_multiple_of(NEWS_EVERY)
    }

    /// Counts a restart; `None` when there were too many without a commit.
    fn restart(&mut self) -> Option<Duration> {
        self.restarts += 1;
        (self.restarts <= RESTARTS_MAX).then(|| self.pause())
    }
}

/// Whether `stop` is ready, without waiting.
async fn is_ready(stop: &mut Pin<&mut (impl Future<Output = ()> + Send)>) -> bool {
    poll_immediate(stop.as_mut()).await.is_some()
}

const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
/// So many of the longest pauses make a minute.
const NEWS_EVERY: u32 = 12;
const RESTARTS_MAX: u32 = 12;
