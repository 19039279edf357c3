//! Event time: what a record's timestamp does to the watermark of its partition and of its task.
//!
//! ```text
//!   record --EventTime--> accepted? moves time?     per record, before any operator
//!                              |
//!   input      wm_p = greatest timestamp - bound    stands: in a backlog, or by strategy
//!                              |                    repartition: minimum over the upstream tasks
//!   task       wm = max(wm, minimum of wm_p over the inputs that are not idle)
//! ```
//!
//! Always true here: the watermark never goes back; it rises record by record, so that what is late
//! does not depend on how records fell into batches; a timestamp too far ahead, and a record without
//! a time of its own, move nothing; no clock is read: it comes as an argument.

use std::time::Duration;

use bytes::Bytes;
use thalweg_core::ids::Timestamp;

use crate::state::meta::{InputPosition, TaskId};

/// No time yet: before every timestamp.
pub(crate) const NEVER: Timestamp = Timestamp::MIN;

/// When a record happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventTime {
    /// At this time, in milliseconds since 1970, negative before: the record says so itself.
    At(Timestamp),
    /// The record does not say. It counts for when it was appended, and never moves time.
    Unknown,
}

/// How the watermark of a source partition follows its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watermark {
    /// Records come in the order of their time: as [`Watermark::Bounded`] by zero. The default.
    Ascending,
    /// No record is more than this behind the greatest timestamp before it. It delays everything
    /// after the source; a window's grace delays that window only.
    Bounded(Duration),
    /// Records do not move time: only `punctuated`, the clock, or the end of the input does.
    Standing,
    /// Time stands while the source reads what was there before it, where order means nothing, from
    /// its marker record "backlog begins" to "backlog done" (header `__tw.backlog`, value `begin` or
    /// `done`, once per partition). Then time is where the greatest timestamp says, and follows the
    /// records as [`Watermark::Bounded`] does. A partition without such markers is never in a backlog.
    AfterBacklog(Duration),
}

impl Watermark {
    fn bound_ms(self) -> Option<i64> {
        match self {
            Self::Ascending => Some(0),
            Self::Bounded(bound) | Self::AfterBacklog(bound) => Some(millis(bound)),
            Self::Standing => None,
        }
    }
}

/// What happens to a record that is further ahead than a source accepts. In no case does it move time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFuture {
    /// It goes on with the time it claims. The default: outputs that do not depend on time get it.
    #[default]
    Accept,
    /// It goes on with the time at which it was appended.
    Clamp,
}

/// What moves time while every input of a task has come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenIdle {
    /// Nothing: the last windows wait for data. The default.
    #[default]
    Hold,
    /// The clock, this much behind. At most one minute per step, so that a clock that jumps ahead
    /// does not take time with it.
    AdvanceWithClock {
        /// How far behind the clock time stays.
        lag: Duration,
    },
}

/// Time settings of one source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimeSettings {
    pub(crate) watermark: Watermark,
    pub(crate) on_future: OnFuture,
    /// How far ahead of its append a record may claim to be.
    pub(crate) max_ahead: Duration,
}

impl Default for TimeSettings {
    fn default() -> Self {
        Self {
            watermark: Watermark::Ascending,
            on_future: OnFuture::Accept,
            max_ahead: Duration::from_secs(3600),
        }
    }
}

/// A duration in milliseconds, at most as many as a timestamp can hold.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A record's time after it was judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Judged {
    pub(crate) time: Timestamp,
    /// Whether the record is evidence for how far time has come: it has a time of its own, which
    /// was not ahead of its append.
    pub(crate) settled: bool,
}

/// What a repartition topic's partition hears from one upstream task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Upstream {
    task: TaskId,
    watermark: Timestamp,
    idle: bool,
    heard: bool,
}

/// Time in one input partition.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Input {
    settings: TimeSettings,
    max_timestamp: Timestamp,
    watermark: Timestamp,
    /// Some record was read, timed or not.
    seen: bool,
    backlog: bool,
    /// The consumer stands at the end; never stored, since it is a fact of the moment.
    at_end: bool,
    upstream: Vec<Upstream>,
}

impl Input {
    fn is_idle(&self) -> bool {
        if self.backlog {
            return false;
        }
        if self.upstream.is_empty() {
            // A partition that holds only records without a time of their own counts as idle.
            self.at_end || (self.seen && self.watermark == NEVER)
        } else {
            self.at_end && self.upstream.iter().all(|u| u.heard && u.idle)
        }
    }

    /// Moves the partition's watermark to where its records, or its upstream tasks, say.
    fn advance(&mut self) {
        let reached = if self.upstream.is_empty() {
            match self.settings.watermark.bound_ms() {
                Some(bound) if !self.backlog && self.max_timestamp != NEVER => {
                    self.max_timestamp.saturating_sub(bound)
                }
                _ => NEVER,
            }
        } else {
            least(self.upstream.iter().map(|u| (u.watermark, u.heard && u.idle)))
        };
        self.watermark = self.watermark.max(reached);
    }
}

/// The least watermark of those that are not idle. When all are, time stands where the slowest of them
/// left it; those that never had a time say nothing.
fn least(watermarks: impl Iterator<Item = (Timestamp, bool)> + Clone) -> Timestamp {
    let active = watermarks.clone().filter(|&(_, idle)| !idle).map(|(watermark, _)| watermark);
    let idle = watermarks.map(|(watermark, _)| watermark).filter(|&watermark| watermark != NEVER);
    active.min().or_else(|| idle.min()).unwrap_or(NEVER)
}

/// Time in one task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TaskTime {
    inputs: Vec<Input>,
    watermark: Timestamp,
    when_idle: WhenIdle,
    /// The clock of the last step that moved time; not stored: it only bounds jumps.
    clock_step: Option<Timestamp>,
    /// Where the clock moved time last.
    clock_advance: Option<Timestamp>,
}

impl TaskTime {
    /// `inputs` gives per input its settings and, for a repartition topic, the tasks that write it.
    pub(crate) fn new(inputs: &[(TimeSettings, Vec<TaskId>)], when_idle: WhenIdle) -> Self {
        let input = |(settings, tasks): &(TimeSettings, Vec<TaskId>)| Input {
            settings: *settings,
            max_timestamp: NEVER,
            watermark: NEVER,
            seen: false,
            backlog: false,
            at_end: false,
            upstream: tasks
                .iter()
                .map(|&task| Upstream { task, watermark: NEVER, idle: false, heard: false })
                .collect(),
        };
        Self {
            inputs: inputs.iter().map(input).collect(),
            watermark: NEVER,
            when_idle,
            clock_step: None,
            clock_advance: None,
        }
    }

    /// No record below this is expected any more.
    #[inline]
    pub(crate) fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// Judges a record of a source and moves time by it. `appended` is the record's stored
    /// timestamp, `clock` the transaction's: a producer whose own clock is ahead cannot vouch for
    /// its records.
    #[inline]
    pub(crate) fn observe(
        &mut self,
        input: usize,
        event: EventTime,
        appended: Timestamp,
        clock: Timestamp,
    ) -> Judged {
        self.arrived(input);
        let input = &mut self.inputs[input];
        let time = match event {
            EventTime::At(time) => time,
            EventTime::Unknown => return Judged { time: appended, settled: false },
        };
        let known = appended.min(clock);
        if time > known.saturating_add(millis(input.settings.max_ahead)) {
            let time = match input.settings.on_future {
                OnFuture::Accept => time,
                OnFuture::Clamp => known,
            };
            return Judged { time, settled: false };
        }
        if time > input.max_timestamp {
            input.max_timestamp = time;
            self.raise();
        }
        Judged { time, settled: time <= known }
    }

    /// A record was read: the partition was not at its end.
    #[inline]
    pub(crate) fn arrived(&mut self, input: usize) {
        let input = &mut self.inputs[input];
        input.seen = true;
        input.at_end = false;
    }

    /// The record says itself how far time has come (`punctuated`).
    pub(crate) fn punctuate(&mut self, input: usize, watermark: Timestamp) {
        let input = &mut self.inputs[input];
        if !input.backlog && watermark > input.watermark {
            input.watermark = watermark;
            self.raise();
        }
    }

    /// A source begins, or is done with, reading what was there before it.
    pub(crate) fn backlog(&mut self, input: usize, begins: bool) {
        let input = &mut self.inputs[input];
        if matches!(input.settings.watermark, Watermark::AfterBacklog(_)) {
            input.backlog = begins;
            self.raise();
        }
    }

    /// A mark of an upstream task. Marks of tasks that do not write this topic are not heard.
    pub(crate) fn mark(&mut self, input: usize, mark: Mark) {
        let upstream = self.inputs[input].upstream.iter_mut().find(|u| u.task == mark.task);
        if let Some(upstream) = upstream {
            upstream.watermark = upstream.watermark.max(mark.watermark);
            upstream.idle = mark.idle;
            upstream.heard = true;
            self.raise();
        }
    }

    /// The consumer stands at the end of a partition, or does not any more.
    pub(crate) fn set_at_end(&mut self, input: usize, at_end: bool) {
        self.inputs[input].at_end = at_end;
        self.raise();
    }

    /// Whether every input has come to its end, upstream of repartitions included.
    pub(crate) fn is_idle(&self) -> bool {
        self.inputs.iter().all(Input::is_idle)
    }

    /// Lets the clock move time, if everything is idle and the policy says so.
    pub(crate) fn advance_clock(&mut self, clock: Timestamp) {
        const STEP_MS_MAX: i64 = 60_000;
        let WhenIdle::AdvanceWithClock { lag } = self.when_idle else { return };
        let step =
            self.clock_step.map_or(clock, |last| clock.min(last.saturating_add(STEP_MS_MAX)));
        self.clock_step = Some(step);
        let reached = step.saturating_sub(millis(lag));
        if self.is_idle() && reached > self.watermark {
            self.watermark = reached;
            self.clock_advance = Some(reached);
        }
    }

    fn raise(&mut self) {
        for input in &mut self.inputs {
            input.advance();
        }
        let reached = least(self.inputs.iter().map(|i| (i.watermark, i.is_idle())));
        self.watermark = self.watermark.max(reached);
    }

    /// Fills in what the meta record keeps per input, and gives what it keeps per task.
    pub(crate) fn save(&self, positions: &mut [InputPosition]) -> (Bytes, Option<Timestamp>) {
        let mut own = Vec::with_capacity(10 + 9 * self.inputs.len());
        own.extend(self.watermark.to_be_bytes());
        for (input, position) in self.inputs.iter().zip(positions) {
            position.max_timestamp = (input.max_timestamp != NEVER).then_some(input.max_timestamp);
            position.backlog = input.backlog;
            let heard = input.upstream.iter().filter(|u| u.heard);
            position.upstream = heard.clone().map(|u| (u.task, u.watermark)).collect();
            own.push(u8::from(input.seen));
            own.extend(input.watermark.to_be_bytes());
            own.extend(heard.map(|u| u8::from(u.idle)));
        }
        (Bytes::from(own), self.clock_advance)
    }

    /// Takes back what [`TaskTime::save`] gave; `None` when the bytes are not that.
    pub(crate) fn load(&mut self, positions: &[InputPosition], own: &[u8]) -> Option<()> {
        let mut rest = own;
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at_checked(n)?;
            rest = tail;
            Some(head)
        };
        let time = |bytes: &[u8]| bytes.try_into().ok().map(Timestamp::from_be_bytes);
        self.watermark = time(take(8)?)?;
        for (input, position) in self.inputs.iter_mut().zip(positions) {
            input.max_timestamp = position.max_timestamp.unwrap_or(NEVER);
            input.backlog = position.backlog;
            input.seen = take(1)? == [1];
            input.watermark = time(take(8)?)?;
            for &(task, watermark) in &position.upstream {
                let idle = take(1)? == [1];
                if let Some(upstream) = input.upstream.iter_mut().find(|u| u.task == task) {
                    *upstream = Upstream { task, watermark, idle, heard: true };
                }
            }
        }
        rest.is_empty().then_some(())
    }
}

/// What a task says about its time to the tasks behind a repartition topic.
///
/// ```text
///   value of the header __tw.wm:   subtopology u32 | partition u32 | watermark i64 | idle u8    big endian
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub(crate) task: TaskId,
    pub(crate) watermark: Timestamp,
    pub(crate) idle: bool,
}

impl Mark {
    pub(crate) fn to_bytes(self) -> [u8; 17] {
        let mut bytes = [0; 17];
        bytes[..4].copy_from_slice(&self.task.subtopology.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.task.partition.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.watermark.to_be_bytes());
        bytes[16] = u8::from(self.idle);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (subtopology, rest) = bytes.split_first_chunk()?;
        let (partition, rest) = rest.split_first_chunk()?;
        let (watermark, rest) = rest.split_first_chunk()?;
        let task = TaskId {
            subtopology: u32::from_be_bytes(*subtopology),
            partition: u32::from_be_bytes(*partition),
        };
        match rest {
            [idle @ (0 | 1)] => {
                Some(Self { task, watermark: i64::from_be_bytes(*watermark), idle: *idle == 1 })
            }
            _ => None,
        }
    }
}
