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
    /// does not take time with it. It waits for a source with [`Watermark::AfterBacklog`] to say, in
    /// every partition and since this start, that its backlog is done: one that was not heard of yet
    /// may be about to read what was written yesterday.
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

impl Judged {
    /// Of no record.
    pub(crate) const NEVER: Self = Self { time: NEVER, settled: false };
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
    /// How far behind the greatest timestamp time is; `None`: records do not move it.
    bound_ms: Option<i64>,
    after_backlog: bool,
    on_future: OnFuture,
    max_ahead_ms: i64,
    max_timestamp: Timestamp,
    watermark: Timestamp,
    /// Some record was read, timed or not.
    seen: bool,
    backlog: bool,
    /// The source said since the start that its backlog is done, or is none that would say so; never
    /// stored: the next start has a backlog of its own.
    caught_up: bool,
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
            self.at_end || (self.seen && self.reached() == NEVER)
        } else {
            self.at_end && self.upstream.iter().all(|u| u.heard && u.idle)
        }
    }

    /// Where the partition's watermark is. Computed when somebody looks, which most records need not
    /// pay for: between settlements only `max_timestamp` moves.
    #[inline]
    fn reached(&self) -> Timestamp {
        match self.bound_ms {
            // Subtracting saturates: what never was stays never.
            Some(bound) if !self.backlog && self.upstream.is_empty() => {
                self.watermark.max(self.max_timestamp.saturating_sub(bound))
            }
            _ => self.watermark,
        }
    }

    /// Notes where the partition's watermark is, by its records and its upstream tasks.
    fn settle(&mut self) {
        self.watermark = self.reached();
        if !self.upstream.is_empty() {
            let heard = least(self.upstream.iter().map(|u| (u.watermark, u.heard && u.idle)));
            self.watermark = self.watermark.max(heard);
        }
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
            bound_ms: settings.watermark.bound_ms(),
            after_backlog: matches!(settings.watermark, Watermark::AfterBacklog(_)),
            on_future: settings.on_future,
            max_ahead_ms: millis(settings.max_ahead),
            max_timestamp: NEVER,
            watermark: NEVER,
            seen: false,
            backlog: false,
            caught_up: !matches!(settings.watermark, Watermark::AfterBacklog(_)),
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
        let reached = match &self.inputs[..] {
            [only] => only.reached(),
            several => least(several.iter().map(|i| (i.reached(), i.is_idle()))),
        };
        self.watermark.max(reached)
    }

    /// Notes where time is: after each batch, and before anything changes that it depends on beside
    /// the records' times (who is idle, what is a backlog), so that it never goes back.
    pub(crate) fn settle(&mut self) {
        self.watermark = self.watermark();
        self.inputs.iter_mut().for_each(Input::settle);
        self.watermark = self.watermark();
    }

    /// Judges a record of a source and moves time by it. `appended` is the record's stored
    /// timestamp, `clock` the transaction's: a producer whose own clock is ahead cannot vouch for
    /// its records.
    #[inline]
    pub(crate) fn observe(
        &mut self,
        at: usize,
        event: EventTime,
        appended: Timestamp,
        clock: Timestamp,
    ) -> Judged {
        self.arrived(at);
        let EventTime::At(time) = event else { return Judged { time: appended, settled: false } };
        let input = &mut self.inputs[at];
        let known = appended.min(clock);
        if time > known.saturating_add(input.max_ahead_ms) {
            let time = match input.on_future {
                OnFuture::Accept => time,
                OnFuture::Clamp => known,
            };
            return Judged { time, settled: false };
        }
        input.max_timestamp = input.max_timestamp.max(time);
        Judged { time, settled: time <= known }
    }

    /// A record was read: the partition was not at its end.
    #[inline]
    pub(crate) fn arrived(&mut self, at: usize) {
        if self.inputs[at].at_end || !self.inputs[at].seen {
            self.wake(at);
        }
    }

    #[cold]
    fn wake(&mut self, at: usize) {
        self.settle();
        self.inputs[at].seen = true;
        self.inputs[at].at_end = false;
    }

    /// The record says itself how far time has come (`punctuated`).
    pub(crate) fn punctuate(&mut self, at: usize, watermark: Timestamp) {
        let input = &mut self.inputs[at];
        if !input.backlog && watermark > input.watermark {
            input.watermark = watermark;
            self.settle();
        }
    }

    /// A source begins, or is done with, reading what was there before it.
    pub(crate) fn backlog(&mut self, at: usize, begins: bool) {
        if self.inputs[at].after_backlog {
            self.settle();
            self.inputs[at].backlog = begins;
            self.inputs[at].caught_up = !begins;
            self.settle();
        }
    }

    /// A mark of an upstream task. Marks of tasks that do not write this topic are not heard.
    pub(crate) fn mark(&mut self, at: usize, mark: Mark) {
        let upstream = self.inputs[at].upstream.iter_mut().find(|u| u.task == mark.task);
        if let Some(upstream) = upstream {
            upstream.watermark = upstream.watermark.max(mark.watermark);
            upstream.idle = mark.idle;
            upstream.heard = true;
            self.settle();
        }
    }

    /// The consumer stands at the end of a partition, or does not any more.
    pub(crate) fn set_at_end(&mut self, at: usize, at_end: bool) {
        self.settle();
        self.inputs[at].at_end = at_end;
        self.settle();
    }

    /// Whether every input has come to its end, upstream of repartitions included.
    pub(crate) fn is_idle(&self) -> bool {
        self.inputs.iter().all(Input::is_idle)
    }

    /// What the tasks behind a repartition should know. Where the clock moves time they may not take
    /// this task for idle before it moves time here. A task that is closing has results from before the
    /// watermark still to send: it says nothing of it, and that it is not idle.
    pub(crate) fn word(&self, task: TaskId, is_closing: bool) -> Word {
        if is_closing {
            return Word { task, watermark: None, idle: false };
        }
        let idle = self.is_idle() && (self.when_idle == WhenIdle::Hold || self.is_caught_up());
        Word { task, watermark: Some(self.watermark()), idle }
    }

    fn is_caught_up(&self) -> bool {
        self.inputs.iter().all(|input| input.caught_up)
    }

    /// Lets the clock move time, if everything is idle and the policy says so.
    pub(crate) fn advance_clock(&mut self, clock: Timestamp) {
        const STEP_MS_MAX: i64 = 60_000;
        let WhenIdle::AdvanceWithClock { lag } = self.when_idle else { return };
        let step =
            self.clock_step.map_or(clock, |last| clock.min(last.saturating_add(STEP_MS_MAX)));
        self.clock_step = Some(step);
        let reached = step.saturating_sub(millis(lag));
        if self.is_idle() && self.is_caught_up() && reached > self.watermark() {
            self.watermark = reached;
            self.clock_advance = Some(reached);
        }
    }

    /// Fills in what the meta record keeps per input, and gives what it keeps per task.
    pub(crate) fn save(&self, positions: &mut [InputPosition]) -> (Bytes, Option<Timestamp>) {
        let mut own = Vec::with_capacity(10 + 9 * self.inputs.len());
        own.extend(self.watermark().to_be_bytes());
        for (input, position) in self.inputs.iter().zip(positions) {
            position.max_timestamp = (input.max_timestamp != NEVER).then_some(input.max_timestamp);
            position.backlog = input.backlog;
            let heard = input.upstream.iter().filter(|u| u.heard);
            position.upstream = heard.clone().map(|u| (u.task, u.watermark)).collect();
            own.push(u8::from(input.seen));
            own.extend(input.reached().to_be_bytes());
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
                // Where the clock moves time, they have to say it again: a new start, a new backlog.
                let idle = take(1)? == [1] && self.when_idle == WhenIdle::Hold;
                if let Some(upstream) = input.upstream.iter_mut().find(|u| u.task == task) {
                    *upstream = Upstream { task, watermark, idle, heard: true };
                }
            }
        }
        rest.is_empty().then_some(())
    }
}

/// What a task would say of its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word {
    pub(crate) task: TaskId,
    /// Nothing before this comes any more; `None` to leave it at what was said before.
    pub(crate) watermark: Option<Timestamp>,
    /// It holds up nobody's time.
    pub(crate) idle: bool,
}

impl Word {
    /// The mark that says it, after the last mark that was sent; `None` when it is nothing new. Whoever is
    /// closing before its first mark says that it is not idle, as an earlier owner may have said that it is.
    pub(crate) fn after(self, sent: Option<Mark>) -> Option<Mark> {
        let Self { task, watermark, idle } = self;
        let said = sent.map_or(NEVER, |mark| mark.watermark);
        let mark = Mark { task, watermark: watermark.unwrap_or(said), idle };
        let is_news = match sent {
            Some(sent) => sent != mark,
            None => watermark.is_none_or(|w| w != NEVER) || idle,
        };
        is_news.then_some(mark)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_inputs_are_as_far_as_the_slowest_that_is_not_idle() {
        enum Step {
            Record(usize, Timestamp),
            AtEnd(usize),
        }
        use Step::{AtEnd, Record};
        let steps = [
            (Record(0, 100), NEVER, "input 1 may hold anything"),
            (AtEnd(1), 100, "it is empty"),
            (Record(1, 30), 100, "it is back, behind; time does not go back"),
            (Record(0, 150), 100, "and holds time"),
            (Record(1, 120), 120, "until it is past it"),
            (AtEnd(1), 150, "or at its end"),
            (AtEnd(0), 150, "with all at their ends, time stands"),
            (Record(1, 200), 200, "and follows whoever goes on"),
        ];
        let inputs = [(TimeSettings::default(), Vec::new()), (TimeSettings::default(), Vec::new())];
        let mut time = TaskTime::new(&inputs, WhenIdle::Hold);
        for (step, expected, why) in steps {
            match step {
                Record(input, at) => {
                    time.observe(input, EventTime::At(at), 1000, 1000);
                }
                AtEnd(input) => time.set_at_end(input, true),
            }
            assert_eq!(time.watermark(), expected, "{why}");
        }
    }

    #[test]
    fn marks_are_read_back_and_other_bytes_are_refused() {
        let task = TaskId { subtopology: 1, partition: 2 };
        let mark = Mark { task, watermark: -5, idle: true };
        let bytes = mark.to_bytes();
        assert_eq!(Mark::from_bytes(&bytes), Some(mark));
        for bad in [&bytes[..16], &[&bytes[..], &[0]].concat(), &[&bytes[..16], &[2]].concat()] {
            assert_eq!(Mark::from_bytes(bad), None);
        }
    }
}
