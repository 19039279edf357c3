//! F6 · Where waiting work runs: on threads and a tokio runtime, or in line.
//!
//! ```text
//!   Threads  syncs on a pool of threads, timers and background steps on the caller's tokio runtime
//!   Inline   every sync and every background step runs in the call that asks for it: one thread,
//!            one order, the same again from the same seed. The simulation runs the engine so.
//! ```
//!
//! Always true here: the engine's steps are the same code in both; only *where* a step runs differs.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;

/// How an engine runs.
#[derive(Clone, Debug)]
pub enum Runtime {
    /// With threads, on this tokio runtime (its timer must be enabled).
    Threads(Handle),
    /// In line, without a thread, a timer or a wait.
    Inline,
    /// As `Inline`, but what follows an acknowledgement waits: until the same transactional id is used
    /// again, until a tick, or until the folder is opened. So a test can look in between.
    Stepped,
}

impl Runtime {
    /// The tokio runtime this is called on.
    ///
    /// # Panics
    /// Outside of a tokio runtime, as `Handle::current` does.
    pub fn current() -> Self {
        Self::Threads(Handle::current())
    }

    /// Whether everything runs in the caller.
    pub fn is_inline(&self) -> bool {
        matches!(self, Self::Inline | Self::Stepped)
    }

    /// A timer; in line, time does not pass by waiting, so it is over at once.
    pub(crate) fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        match self {
            Self::Threads(handle) => {
                let guard = handle.enter();
                #[expect(clippy::disallowed_methods, reason = "the engine's one timer")]
                let sleep = tokio::time::sleep(time);
                drop(guard);
                Box::pin(sleep)
            }
            Self::Inline | Self::Stepped => Box::pin(std::future::ready(())),
        }
    }

    /// Runs `what`, which computes and waits for the disk, beside whoever waits for this runtime's
    /// threads; in line, at once.
    pub(crate) fn run_blocking(&self, what: impl FnOnce() + Send + 'static) {
        match self {
            Self::Threads(handle) => drop(handle.spawn_blocking(what)),
            Self::Inline | Self::Stepped => what(),
        }
    }

    /// Runs `what` after `delay`; in line, at once.
    pub(crate) fn run_later(&self, delay: Duration, what: BoxFuture<'static, ()>) {
        match self {
            Self::Threads(handle) => {
                let sleep = (!delay.is_zero()).then(|| self.sleep(delay));
                #[expect(clippy::disallowed_methods, reason = "the engine's one spawn")]
                let task = handle.spawn(async move {
                    if let Some(sleep) = sleep {
                        sleep.await;
                    }
                    what.await;
                });
                drop(task);
            }
            Self::Inline | Self::Stepped => {
                let over = what.now_or_never();
                debug_assert!(over.is_some(), "in line, nothing may wait");
            }
        }
    }
}
