//! F6 · The two engines that programs open, on the disk of this machine and on the simulated one.
//!
//! Always true here: each is compiled once, with this crate, and not again in each of the many programs
//! and tests that open it, which took longer than everything else in them together.

use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;
use futures::executor::block_on;
use futures::future::BoxFuture;

use super::Engine;
use super::clock::{Clock, Entropy};
use super::runtime::Runtime;
use crate::client::log::Log;
use crate::config::LogConfig;
use crate::disk::real::RealDisk;
use crate::disk::sim::SimDisk;
use crate::error::Result;

/// Opens the log in a folder of this machine, made when it is missing, on the tokio runtime that polls
/// the future, with the system's clock and random numbers.
///
/// ```
/// use thalweg_core::config::LogConfig;
/// use thalweg_core::engine::open_real;
///
/// # #[tokio::main]
/// # async fn main() -> thalweg_core::Result<()> {
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let log = open_real(folder.path(), LogConfig::default()).await?;
/// log.close()
/// # }
/// ```
///
/// # Errors
/// As [`Engine::open`].
pub fn open_real(
    dir: &Path,
    config: LogConfig,
) -> BoxFuture<'static, Result<Arc<Engine<RealDisk>>>> {
    let dir = dir.to_owned();
    let open = async move {
        let (runtime, clock, entropy) = (Runtime::current(), Clock::System, Entropy::System);
        Engine::open(RealDisk, dir, config, runtime, clock, entropy).await
    };
    open.map(|engine| engine.map(compiled)).boxed()
}

/// Opens a log on a simulated disk; the calling thread waits for that. With [`Runtime::Inline`] and
/// [`Runtime::Stepped`] every future of the engine is ready when it is first polled, and what happens
/// follows from the disk's seed, the entropy's and the calls alone.
///
/// # Errors
/// As [`Engine::open`].
///
/// ```
/// use std::path::Path;
/// use thalweg_core::config::LogConfig;
/// use thalweg_core::disk::sim::{Crash, SimDisk};
/// use thalweg_core::engine::clock::{Clock, Entropy};
/// use thalweg_core::engine::open_simulated;
/// use thalweg_core::engine::runtime::Runtime;
///
/// let disk = SimDisk::new(1);
/// let open = |disk: &SimDisk| {
///     let config = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
///     let (clock, entropy) = (Clock::fixed(1_790_000_000_000), Entropy::seeded(1));
///     open_simulated(disk, Path::new("/data"), config, Runtime::Inline, clock, entropy)
/// };
/// let log = open(&disk)?;
/// assert!(!log.report().clean);
/// disk.crash(Crash::Power);
/// assert!(open(&disk.restart()).is_ok());
/// # Ok::<(), thalweg_core::Error>(())
/// ```
pub fn open_simulated(
    disk: &SimDisk,
    dir: &Path,
    config: LogConfig,
    runtime: Runtime,
    clock: Clock,
    entropy: Entropy,
) -> Result<Arc<Engine<SimDisk>>> {
    block_on(Engine::open(disk.clone(), dir, config, runtime, clock, entropy)).map(compiled)
}

/// An engine whose every method is compiled here, as the table of a `dyn Log` needs all of them.
fn compiled<L: Log>(engine: L) -> Arc<L> {
    let engine = Arc::new(engine);
    let _: &dyn Log = &*engine;
    engine
}
