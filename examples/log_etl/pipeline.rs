//! The pipeline of `log_etl`, whole: lines in, four kinds of NDJSON out.
//!
//! ```text
//!   logs.raw --parse, drop--> events                                     every line, as JSON
//!                        \--> by (program, severity) --> counts          per minute, when it closes
//!                         \                         \--> late            lines behind their minute
//!                          \-> by program ------------> latest           the last message of each
//! ```
//!
//! Topics and stores are constants: a name and two types each. A stream whose key changed must go
//! through a named topic before anything is counted; forget it, and the program does not compile.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thalweg::connectors::decode::{JsonObject, LineContext, Origin, Severity, Zone, decode_line};
use thalweg::connectors::file::LinePlace;
use thalweg::core::record::RecordRef;
use thalweg::streams::codec::{NoKey, Raw, Str};
use thalweg::streams::{
    Builder, EventTime, OnClose, Result, Store, Text, Topic, Tumbling, Watermark, Windowed,
};

/// Lines as they were tailed: the key is the file, the value the bytes, headers say where from.
pub(crate) const RAW: Topic<Bytes, Bytes, Raw, Raw> = Topic::raw("logs.raw");
/// Every line that is not dropped, as one JSON object.
pub(crate) const EVENTS: Topic<(), Vec<u8>, NoKey, Raw> = Topic::with("events", NoKey, Raw);
/// How many lines a program wrote of a severity in a minute, once the minute is over.
pub(crate) const COUNTS: Topic<(), Vec<u8>, NoKey, Raw> = Topic::with("counts", NoKey, Raw);
/// Lines that came after their minute was over.
pub(crate) const LATE: Topic<(), Vec<u8>, NoKey, Raw> = Topic::with("late", NoKey, Raw);
/// Changes of the table "last message per program": keyed, so that those of one program stay in order.
pub(crate) const LATEST: Topic<Text, Vec<u8>, Str, Raw> = Topic::with("latest", Str, Raw);

/// Lines on their way to the task that counts them: whole, because the late ones are written out.
const BY_PROGRAM_SEVERITY: Topic<(Text, Severity), Line> =
    Topic::internal("log-etl-by-program-severity");
/// Lines on their way to the task that knows the last one.
const BY_PROGRAM: Topic<Text, Latest> = Topic::internal("log-etl-by-program");

/// Counts of open minutes.
const COUNT: Store<Windowed<(Text, Severity)>, u64> = Store::new("count");
/// The last message per program.
const LAST: Store<Text, Latest> = Store::new("last");

/// A parsed line. Shared by the branches, so that splitting the stream copies nothing.
struct Event {
    program: Text,
    severity: Severity,
    line: Line,
}

/// The rest of a parsed line: all that is not the key it is counted by.
#[derive(Clone, Serialize, Deserialize)]
struct Line {
    file: Text,
    offset: u64,
    time: i64,
    message: Text,
    cut: bool,
}

/// What is remembered of a program's last line.
#[derive(Clone, Serialize, Deserialize)]
struct Latest {
    time: i64,
    file: Text,
    offset: u64,
    message: Text,
}

/// Builds the pipeline. `zone` is for times that name none, `grace` how long a minute waits for
/// stragglers.
pub(crate) fn pipeline(zone: Zone, grace: Duration) -> impl FnOnce(&Builder) -> Result<()> {
    move |b| {
        let lines = b
            .parse(&RAW, move |line| parse(line, &zone))
            // While files are caught up with, order between them means nothing: time stands.
            .watermark(Watermark::AfterBacklog(Duration::ZERO));

        let (events, lines) = lines.tee();
        events
            .map_values(|(), event: Arc<Event>| event.line.to_json(&event.program, event.severity))
            .to(&EVENTS);

        let (counted, lines) = lines.tee();
        counted
            .map(|(), event| ((event.program.clone(), event.severity), event.line.clone()))
            .repartition(&BY_PROGRAM_SEVERITY)
            .window(Tumbling::of(Duration::from_secs(60)).grace(grace))
            .count(&COUNT)
            .late(|late| {
                late.map(|(program, severity), line| ((), line.to_json(&program, severity)))
                    .to(&LATE)
            })
            .emit(OnClose)
            .map(|window, count| ((), count_json(&window, count)))
            .to(&COUNTS);

        lines
            .map(|(), event| (event.program.clone(), Latest::of(&event)))
            // Of what one commit sends only the last line of each program can win.
            .repartition_combined(&BY_PROGRAM, |held, new| {
                if new.order() > held.order() {
                    *held = new;
                }
            })
            .to_table_by(&LAST, |new, old| new.order() > old.order())
            .to_stream()
            .flat_map_values(|program, last| last.map(|last| last.to_json(program)))
            .to(&LATEST);
        Ok(())
    }
}

/// Turns a tailed line into an event; `None` drops it.
fn parse(line: &RecordRef<'_>, zone: &Zone) -> Option<((), Arc<Event>, EventTime)> {
    let place = LinePlace::of(line.headers)?;
    let context = LineContext {
        file: &place.file,
        mtime_ms: place.mtime_ms,
        append_time_ms: line.timestamp,
        zone,
    };
    let parsed = decode_line(line.value?, &context)?;
    if parsed.severity == Severity::Debug {
        return None;
    }
    // A line without a time of its own has the append time, which must never move event time.
    let time = match parsed.origin {
        Origin::Raw => EventTime::Unknown,
        Origin::Json | Origin::Syslog | Origin::Iso => EventTime::At(parsed.time_ms),
    };
    let event = Event {
        severity: parsed.severity,
        program: Text::from(&*parsed.program),
        line: Line {
            file: Text::from(&*place.file),
            offset: place.offset,
            time: parsed.time_ms,
            message: Text::from(&*parsed.message),
            cut: place.cut.is_some(),
        },
    };
    Some(((), Arc::new(event), time))
}

impl Line {
    fn to_json(&self, program: &str, severity: Severity) -> Vec<u8> {
        let size = self.file.len() + self.message.len() + program.len() + 128;
        let mut json = Vec::with_capacity(size);
        let mut object = JsonObject::begin(&mut json)
            .str("file", &self.file)
            .u64("offset", self.offset)
            .time("time", self.time)
            .str("program", program)
            .str("severity", severity.as_str())
            .str("message", &self.message);
        if self.cut {
            object = object.bool("cut", true);
        }
        object.end();
        json
    }
}

fn count_json(window: &Windowed<(Text, Severity)>, count: u64) -> Vec<u8> {
    let (program, severity) = &window.key;
    let mut json = Vec::with_capacity(program.len() + 96);
    JsonObject::begin(&mut json)
        .time("window_start", window.start)
        .str("program", program)
        .str("severity", severity.as_str())
        .u64("count", count)
        .end();
    json
}

impl Latest {
    fn of(event: &Event) -> Self {
        let Line { file, offset, time, message, .. } = &event.line;
        Self { time: *time, file: file.clone(), offset: *offset, message: message.clone() }
    }

    /// The greatest wins.
    fn order(&self) -> (i64, &str, u64) {
        (self.time, &self.file, self.offset)
    }

    fn to_json(&self, program: &str) -> Vec<u8> {
        let mut json = Vec::with_capacity(program.len() + self.message.len() + 80);
        JsonObject::begin(&mut json)
            .str("program", program)
            .time("time", self.time)
            .str("message", &self.message)
            .end();
        json
    }
}
