//! F6 · Group commit: many partitions are synced at the same time, and a sync serves everybody who
//! wrote before it began.
//!
//! ```text
//!   writer:  append, request(partition) -------> queue --> thread: capture the end   (partition lock)
//!            wait until durable end >= mine                        fdatasync          (no lock)
//!                     ^                                            raise the end      (partition lock)
//!                     '------------------------------------------- wake everybody
//!
//!   Idle -> Queued -> Running -> Idle
//!                        |  ^
//!                        v  | a request while it runs: once more, it may have missed a batch
//!                    RunningAgain
//! ```
//!
//! Always true here: at most one sync per partition at a time; the end is captured *before* the sync;
//! there is no linger (an idle partition is synced at once, a busy one gathers during the sync that
//! runs); a failed sync stops the whole log and is never tried again (Rebello et al., ATC 2020).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex};

use super::Inner;
use super::handle::PartitionHandle;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::Offset;

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const RUNNING_AGAIN: u8 = 3;

/// The queue of partitions that want to be durable, and the threads that serve it.
pub(crate) struct SyncQueue<D: Disk> {
    queue: Mutex<Queue<D>>,
    wake: Condvar,
    threads_max: usize,
}

struct Queue<D: Disk> {
    waiting: VecDeque<Arc<PartitionHandle<D>>>,
    idle: usize,
    threads: usize,
    closing: bool,
}

impl<D: Disk> SyncQueue<D> {
    pub(crate) fn new(threads_max: usize) -> Self {
        let queue = Queue { waiting: VecDeque::new(), idle: 0, threads: 0, closing: false };
        Self { queue: Mutex::new(queue), wake: Condvar::new(), threads_max: threads_max.max(1) }
    }

    /// Ends the threads once the queue is empty.
    pub(crate) fn close(&self) {
        self.queue.lock().closing = true;
        self.wake.notify_all();
    }
}

impl<D: Disk> Inner<D> {
    /// Asks for everything written so far to become durable. Returns at once (in line: when it is).
    pub(crate) fn request_sync(self: &Arc<Self>, handle: &Arc<PartitionHandle<D>>) {
        let state = &handle.sync_state;
        let queued = state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |s| match s {
                IDLE => Some(QUEUED),
                RUNNING => Some(RUNNING_AGAIN),
                _ => None,
            })
            .is_ok_and(|before| before == IDLE);
        if queued {
            self.enqueue(Arc::clone(handle));
        }
    }

    fn enqueue(self: &Arc<Self>, handle: Arc<PartitionHandle<D>>) {
        if self.runtime.is_inline() {
            return self.serve(&handle);
        }
        let mut queue = self.sync.queue.lock();
        queue.waiting.push_back(handle);
        if queue.idle > 0 {
            self.sync.wake.notify_one();
        } else if queue.threads < self.sync.threads_max {
            queue.threads += 1;
            drop(queue);
            self.start_thread();
        }
    }

    fn start_thread(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        #[expect(clippy::disallowed_methods, reason = "the engine's sync pool")]
        let started = std::thread::Builder::new()
            .name("thalweg-sync".to_owned())
            .spawn(move || inner.sync_loop());
        if let Err(e) = started {
            // Without any thread nobody would ever be answered.
            self.stop(&Error::Stopped { why: format!("cannot start a sync thread: {e}") });
        }
    }

    fn sync_loop(self: Arc<Self>) {
        loop {
            let next = {
                let mut queue = self.sync.queue.lock();
                loop {
                    if let Some(handle) = queue.waiting.pop_front() {
                        break handle;
                    }
                    if queue.closing {
                        return;
                    }
                    queue.idle += 1;
                    self.sync.wake.wait(&mut queue);
                    queue.idle -= 1;
                }
            };
            self.serve(&next);
        }
    }

    /// Makes one partition durable, again while requests come in.
    fn serve(&self, handle: &Arc<PartitionHandle<D>>) {
        loop {
            handle.sync_state.store(RUNNING, Ordering::Release);
            if self.stopped().is_none()
                && let Err(e) = sync_once(handle)
            {
                self.stop(&e);
            }
            handle.changed.notify_waiters();
            let done = handle.sync_state.compare_exchange(
                RUNNING,
                IDLE,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            if done.is_ok() {
                return;
            }
        }
    }

    /// Waits until every given partition is durable up to its offset.
    ///
    /// # Errors
    /// `Stopped` when a sync failed: nobody knows what reached the medium.
    pub(crate) async fn wait_durable(
        self: &Arc<Self>,
        wanted: &[(Arc<PartitionHandle<D>>, Offset)],
    ) -> Result<()> {
        let late = |(handle, offset): &&(Arc<PartitionHandle<D>>, Offset)| {
            handle.durable_end() < *offset
        };
        let mut order: Vec<_> = wanted.iter().filter(late).collect();
        if self.runtime.is_inline() {
            // Any order of the devices' answers is legal: let the seed choose one.
            for at in (1..order.len()).rev() {
                order.swap(at, (self.entropy.next() % (at as u64 + 1)) as usize);
            }
        }
        for (handle, _) in &order {
            self.request_sync(handle);
        }
        for (handle, offset) in order {
            loop {
                let changed = handle.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                self.check_running()?;
                if handle.durable_end() >= *offset {
                    break;
                }
                self.request_sync(handle);
                if self.runtime.is_inline() {
                    self.check_running()?;
                    continue;
                }
                changed.await;
            }
        }
        Ok(())
    }
}

fn sync_once<D: Disk>(handle: &PartitionHandle<D>) -> Result<()> {
    let job = handle.lock().sync_job();
    if let Some(job) = job {
        job.run()?;
        handle.lock().synced(&job);
    }
    Ok(())
}
