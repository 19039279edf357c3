//! One life of the whole spine: log, source, pipeline and sink on one disk, stepped in line, each
//! turn as the seed says.
//!
//! ```text
//!   open     log, source, pipeline, sink                      as log_etl does
//!   turns    source | a task's worker | sink | a writer or rotator | tick
//!   --once   source at its end -> end of input -> pipeline saved -> sink written -> log closed
//!   follow   everybody done and quiet -> source, pipeline, sink, log closed: Ctrl-C
//! ```
//!
//! Always true here: nothing runs but the product's own code, through the doors that a program has;
//! the order of turns follows from the seed; a life ends well, or by the death of the disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use thalweg_connectors::decode::Zone;
use thalweg_connectors::file::{FileSource, FileSourceConfig};
use thalweg_connectors::files::{FileSink, FileSinkConfig};
use thalweg_connectors::run::Step;
use thalweg_connectors::run::sink::{SinkConfig, SinkRunner};
use thalweg_connectors::run::source::{SourceConfig, SourceRunner};
use thalweg_connectors::run::topic::{Partitions, ensure_topic};
use thalweg_core::client::log::{Log, TopicConfig};
use thalweg_core::config::LogConfig;
use thalweg_core::disk::sim::{Rng, SimDisk};
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::engine::{Engine, open_simulated};
use thalweg_streams::state::forgetful::ForgetfulStore;
use thalweg_streams::{App, Step as TaskStep, Stepped};

use crate::actors::Actors;
use crate::chronicle::Chronicle;
use crate::pipeline::{COUNTS, EVENTS, LATE, LATEST, RAW, pipeline};
use crate::plan::Plan;
use crate::story::IN;

/// The folder of the log.
pub(crate) const DATA: &str = "/data";
/// The folder of the finished files.
pub(crate) const OUT: &str = "/out";
/// The sink's name, and so its group.
pub(crate) const SINK: &str = "ndjson";
/// Turns after which a life should have ended long ago.
const TURNS_MAX: u32 = 60_000;
/// How long everything is quiet before a follower is stopped: longer than any patience with files.
const QUIET_MS: i64 = 13_000;

/// How the program is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// `--once`, while writers and rotators act or not.
    Once {
        /// Whether they do.
        busy: bool,
    },
    /// Until Ctrl-C, which comes when everything has happened.
    Follow,
}

/// What a life did, for the tests of the simulation itself.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Deeds {
    pub(crate) checkpoints_loaded: usize,
    pub(crate) records_replayed: u64,
    pub(crate) files_finished: u64,
    pub(crate) source_commits: u64,
    pub(crate) late: u64,
    pub(crate) turns: u32,
}

/// Why a life ended before its time.
#[derive(Debug)]
pub(crate) enum End {
    /// The program or the machine died under it.
    Died,
    /// It failed though nothing died: the simulation has found something.
    Failed(String),
}

/// What the lives of one run have in common.
pub(crate) struct Surroundings<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) disk: &'a SimDisk,
    pub(crate) store: &'a ForgetfulStore,
    pub(crate) clock: &'a Clock,
    pub(crate) actors: &'a mut Actors,
    pub(crate) rng: Rng,
    /// The number of the operation from which on the state store refuses everything.
    pub(crate) store_stops_at: Option<u64>,
    /// After every turn, rebuild the coordinators by replay and compare.
    pub(crate) check_coordinators: bool,
    /// What happens is told here.
    pub(crate) chronicle: &'a Chronicle,
}

/// Opens the log of the run.
pub(crate) fn open_log(
    plan: &Plan,
    disk: &SimDisk,
    clock: &Clock,
    seed: u64,
) -> thalweg_core::Result<Arc<Engine<SimDisk>>> {
    let config = LogConfig {
        level: plan.kind.level(),
        internal_segment_bytes: plan.internal_segment_bytes,
        min_free_bytes: 0,
        recovery_bytes: 3000,
        page_cache_bytes: Some(4096),
        ..LogConfig::default()
    };
    let entropy = Entropy::seeded(seed);
    open_simulated(disk, Path::new(DATA), config, Runtime::Inline, clock.clone(), entropy)
}

struct Spine {
    log: Arc<Engine<SimDisk>>,
    source: SourceRunner<FileSource<SimDisk>>,
    app: Stepped,
    sink: SinkRunner<FileSink<SimDisk>>,
}

/// Lives one life.
pub(crate) fn live(mut around: Surroundings<'_>, mode: Mode) -> Result<Deeds, End> {
    let mut deeds = Deeds::default();
    let lived = Spine::open(&mut around, mode).and_then(|mut spine| {
        deeds.checkpoints_loaded = spine.app.report().checkpoints_loaded;
        deeds.records_replayed = spine.app.report().records_replayed;
        let turned = spine.turn_until_done(&mut around, mode, &mut deeds);
        turned.and_then(|()| spine.end(&mut around, mode, &mut deeds))
    });
    let operations = around.disk.operations();
    match &lived {
        Ok(()) => around.chronicle.tell(operations, format_args!("ended: {mode:?}, {deeds:?}")),
        Err(what) => around.chronicle.tell(operations, format_args!("ended: {mode:?}, {what}")),
    }
    match lived {
        Ok(()) => Ok(deeds),
        Err(_) if around.is_dead() => Err(End::Died),
        Err(what) => Err(End::Failed(what)),
    }
}

impl Surroundings<'_> {
    fn is_dead(&self) -> bool {
        self.disk.down() || self.store_stops_at.is_some_and(|at| self.store.operations() >= at)
    }

    /// Time goes on, for the program and for the stamps on files.
    fn pass(&self, ms: i64) {
        self.clock.advance(ms);
        self.disk.set_time(self.clock.now());
    }
}

/// What failed, and what the system said.
fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> String {
    move |e| format!("{what}: {e}")
}

impl Spine {
    fn open(around: &mut Surroundings<'_>, mode: Mode) -> Result<Self, String> {
        let Surroundings { plan, disk, store, clock, rng, .. } = around;
        let log = open_log(plan, disk, clock, rng.number()).map_err(failed("opening the log"))?;
        block_on(async {
            let source = open_source(plan, disk, &log, mode).await?;
            make_topics(plan, &*log).await?;
            let app = App::new("log-etl", pipeline(Zone::utc(), plan.grace))
                .map_err(failed("the pipeline"))?
                .state_store(Arc::new(store.clone()))
                .threads(plan.threads)
                .fetch_bytes(plan.fetch_bytes)
                .commit_bytes(plan.commit_bytes)
                .close_at_once(plan.close_at_once)
                .commit_every(Duration::from_millis(100))
                .checkpoint(Duration::from_secs(10), plan.checkpoint_bytes);
            let app = app.open(log.clone()).await.map_err(failed("opening the pipeline"))?;
            // What the store forgets, the log still knows: no state is ever in doubt.
            if let Some((task, why)) = app.report().rebuilt.first() {
                return Err(format!("the state of task {task} was given up: {why}"));
            }
            let sink = open_sink(plan, disk, &log, rng.number()).await?;
            Ok(Self { log, source, app, sink })
        })
    }

    /// Everybody's turns until there is nothing left to do.
    fn turn_until_done(
        &mut self,
        around: &mut Surroundings<'_>,
        mode: Mode,
        deeds: &mut Deeds,
    ) -> Result<(), String> {
        let acting = mode != Mode::Once { busy: false };
        let mut busy_at = around.clock.now();
        loop {
            deeds.turns += 1;
            if deeds.turns > TURNS_MAX {
                return Err("it does not come to an end".to_owned());
            }
            let draw = around.rng.below(14);
            let mut worked = false;
            match draw {
                0..=5 => match self.step_source(around)? {
                    Step::End => return Ok(()),
                    Step::Worked => worked = true,
                    Step::Idle(_) => {}
                },
                6..=7 => {
                    let worker = around.rng.below(self.app.workers() as u64) as usize;
                    worked = block_on(self.app.step(worker)).map_err(failed("a worker"))?
                        == TaskStep::Worked;
                }
                8..=9 => {
                    let step = block_on(self.sink.step()).map_err(failed("the sink"))?;
                    worked = step == Step::Worked;
                }
                10 if around.rng.one_in(16) => {
                    block_on(self.log.tick()).map_err(failed("the tick"))?;
                }
                11..=13 if acting && !around.actors.are_done() => {
                    around.actors.step(around.disk).map_err(failed("a writer"))?;
                    worked = true;
                }
                _ => {}
            }
            self.look_around(around)?;
            let now = around.clock.now();
            if worked || (acting && !around.actors.are_done()) {
                busy_at = now;
            }
            // A follower has no end of its own.
            if mode == Mode::Follow && now - busy_at > QUIET_MS {
                return Ok(());
            }
            // A copy in the making is waited for only so long.
            let hurry = around.actors.are_copying();
            let ms = if worked || hurry { around.rng.below(20) } else { around.rng.below(400) };
            around.pass(ms as i64);
        }
    }

    fn step_source(&mut self, around: &Surroundings<'_>) -> Result<Step, String> {
        let step = block_on(self.source.step()).map_err(failed("the source"));
        for notice in self.source.source_mut().take_notices() {
            let said = format_args!("the source: {} {}", notice.path.display(), notice.what);
            around.chronicle.tell(around.disk.operations(), said);
        }
        step
    }

    /// After every turn: is somebody dead who has not noticed? Do the coordinators stand?
    fn look_around(&self, around: &Surroundings<'_>) -> Result<(), String> {
        if around.is_dead() {
            return Err("dead".to_owned());
        }
        if around.check_coordinators {
            self.log.check_coordinators().map_err(failed("the coordinators"))?;
        }
        Ok(())
    }

    /// As log_etl ends: source, pipeline, sink, log.
    fn end(
        mut self,
        around: &mut Surroundings<'_>,
        mode: Mode,
        deeds: &mut Deeds,
    ) -> Result<(), String> {
        block_on(async {
            match mode {
                Mode::Once { .. } => {
                    self.app.end_of_input().await.map_err(failed("the end of input"))?;
                }
                Mode::Follow => {
                    self.source.finish().await.map_err(failed("stopping the source"))?
                }
            }
            self.look_around(around)?;
            deeds.late = self.app.stats().await.map_err(failed("the counters"))?.late;
            self.app.stop().await.map_err(failed("stopping the pipeline"))?;
            self.sink.finish().await.map_err(failed("finishing the sink"))?;
            deeds.files_finished = self.sink.sink().stats().files_finished;
            deeds.source_commits = self.source.stats().commits;
            self.log.close().map_err(failed("closing the log"))
        })?;
        if around.is_dead() { Err("dead".to_owned()) } else { Ok(()) }
    }
}

fn topic_config(plan: &Plan) -> TopicConfig {
    TopicConfig {
        segment_bytes: plan.segment_bytes,
        index_interval_bytes: 200,
        ..TopicConfig::default()
    }
}

/// Topics that the pipeline would make itself, with segments that roll. Made as often as it takes.
async fn make_topics(plan: &Plan, log: &dyn Log) -> Result<(), String> {
    for name in [EVENTS.name(), "log-etl-by-program-severity"] {
        ensure_topic(log, name, Partitions::AsCreated(plan.partitions), &topic_config(plan))
            .await
            .map_err(failed("making a topic"))?;
    }
    Ok(())
}

async fn open_source(
    plan: &Plan,
    disk: &SimDisk,
    log: &Arc<Engine<SimDisk>>,
    mode: Mode,
) -> Result<SourceRunner<FileSource<SimDisk>>, String> {
    let files = FileSourceConfig {
        paths: vec![IN.into()],
        excluded: vec![DATA.into(), OUT.into()],
        once: mode != Mode::Follow,
        sync_source: plan.kind.level() == thalweg_core::config::Level::Disk,
        ..FileSourceConfig::default()
    };
    let config = SourceConfig {
        partitions: Partitions::Exactly(plan.partitions),
        topic_config: topic_config(plan),
        batch_bytes: plan.source_bytes,
        ..SourceConfig::new("files", RAW.name())
    };
    let clock = Arc::clone(log);
    let source = FileSource::new(disk.clone(), files, move || clock.now())
        .map_err(failed("making the source"))?;
    SourceRunner::open(Arc::clone(log) as Arc<dyn Log>, config, source)
        .await
        .map_err(failed("opening the source"))
}

/// What goes where.
pub(crate) fn folders() -> [(&'static str, &'static str); 4] {
    [
        (EVENTS.name(), "events"),
        (COUNTS.name(), "counts"),
        (LATE.name(), "late"),
        (LATEST.name(), "latest"),
    ]
}

async fn open_sink(
    plan: &Plan,
    disk: &SimDisk,
    log: &Arc<Engine<SimDisk>>,
    nonce: u64,
) -> Result<SinkRunner<FileSink<SimDisk>>, String> {
    let files = FileSinkConfig {
        roll_bytes: plan.roll_bytes,
        buffer_bytes: 1000,
        ..FileSinkConfig::new(Path::new(OUT), folders())
    };
    let sink =
        FileSink::claim(disk.clone(), files, log.id(), nonce).map_err(failed("claiming OUT"))?;
    let config = SinkConfig {
        partition_bytes: plan.fetch_bytes,
        ..SinkConfig::new(SINK, folders().map(|(topic, _)| topic))
    };
    SinkRunner::open(Arc::clone(log) as Arc<dyn Log>, config, sink)
        .await
        .map_err(failed("opening the sink"))
}
