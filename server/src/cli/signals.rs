//! SIGINT and SIGTERM: the first asks a command to finish what it holds, the second ends it at once.
//!
//! Always true here: before the log is open, and for commands that hold nothing, the first signal
//! ends the program at once; the exit status says which signal it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::failure::{Failure, Outcome, signal_status};

/// Says when the program is to stop.
#[derive(Clone)]
pub(crate) struct Stop {
    rung: watch::Receiver<i32>,
    graceful: Arc<AtomicBool>,
}

impl Stop {
    /// Listens from now on. Called on a runtime.
    pub(crate) fn listen() -> Outcome<Self> {
        let failed = |e| Failure::Failed(format!("cannot listen to signals: {e}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let (bell, rung) = watch::channel(0);
        let graceful = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&graceful);
        tokio::spawn(async move {
            loop {
                let number = tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt(),
                    _ = terminate.recv() => SignalKind::terminate(),
                }
                .as_raw_value();
                if !asked.swap(false, Ordering::Relaxed) {
                    std::process::exit(i32::from(signal_status(number)));
                }
                bell.send_replace(number);
            }
        });
        Ok(Self { rung, graceful })
    }

    /// The next signal is a request: [`Stop::rung`] tells of it.
    pub(crate) fn be_graceful(&self) {
        self.graceful.store(true, Ordering::Relaxed);
    }

    /// Waits for a signal: its number.
    pub(crate) async fn rung(&self) -> i32 {
        let mut rung = self.rung.clone();
        let number = rung.wait_for(|number| *number != 0).await.map(|number| *number);
        match number {
            Ok(number) => number,
            // The listener never ends before the program does.
            Err(_) => std::future::pending().await,
        }
    }

    /// The signal that came, if one did.
    pub(crate) fn now(&self) -> Option<i32> {
        Some(*self.rung.borrow()).filter(|number| *number != 0)
    }
}
