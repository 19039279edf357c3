//! `thalweg produce`: lines of standard input become records.
//!
//! Always true here: a line is refused before anything of it is stored, with its number and column;
//! what was read before a line that ends the command is stored, inside a transaction nothing is; the
//! end of input, and only that, is success.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thalweg_core::client::log::TopicInfo;
use thalweg_core::ids::Timestamp;
use thalweg_core::{Error, Log};
use tokio::sync::mpsc::Receiver;

use super::args::Produce;
use super::failure::{Failure, Outcome, tell};
use super::input::{self, Input, LINE_MAX};
use super::json::{self, Bad};
use super::progress::Progress;
use super::session::{self, Missing, Session};
use super::signals::Stop;
use super::write::{Batching, Cut, Parts, Plain, Transactional, Writer};

/// How long records wait for company when the input pauses, as Kafka's.
const LINGER: Duration = Duration::from_millis(5);
/// How long they wait at most when it trickles, in milliseconds.
const WAIT_MS: i64 = 100;

/// What a line is.
enum Form {
    /// A value.
    Value,
    /// A key, the separator, a value.
    Keyed(Box<memchr::memmem::Finder<'static>>, usize),
    /// An object.
    Json { raw: bool },
}

/// Runs the command.
pub(crate) fn run(data: &Path, options: &Produce) -> Outcome {
    session::long(data, Missing::Refuse, async |session: Session| {
        let Session { log, stop } = session;
        let info = log.topic(&options.topic).await?;
        if info.name.starts_with("__") {
            let what = format!("topic {} is internal: only the log writes there", info.name);
            return Err(Failure::Usage(what));
        }
        if let Some(partition) = options.partition.filter(|number| *number >= info.partitions) {
            let what =
                format!("partition {partition} of {}, which has {},", info.name, info.partitions);
            return Err(Error::Unknown { what }.into());
        }
        let batching =
            Batching { compression: options.compression, bytes: options.batch_size as usize };
        let writer = match &options.transactional_id {
            None => Writer::Plain(Plain::new(Arc::clone(&log), &info, batching)),
            Some(id) => {
                let cut = Cut {
                    size: options.transaction_size.unwrap_or(1),
                    abort_every: options.abort_every.unwrap_or(0),
                };
                Writer::Transactional(Transactional::open(&log, &info, id, batching, cut).await?)
            }
        };
        let form = match (&options.key_separator, options.json) {
            (Some(separator), _) => {
                let finder = memchr::memmem::Finder::new(separator).into_owned();
                Form::Keyed(Box::new(finder), separator.len())
            }
            (None, true) => Form::Json { raw: options.raw_json },
            (None, false) => Form::Value,
        };
        let (partition, keep_going) = (options.partition, options.keep_going);
        let now = log.now();
        let mut work = Work {
            log,
            info,
            writer,
            form,
            batching,
            partition,
            keep_going,
            now,
            flushed: now,
            line: 0,
            refused: 0,
        };
        let done = work.run(&stop).await;
        work.end(done).await
    })
}

struct Work {
    log: Arc<dyn Log>,
    info: TopicInfo,
    writer: Writer,
    form: Form,
    batching: Batching,
    partition: Option<u32>,
    keep_going: bool,
    /// The time of records that say none; read once a chunk.
    now: Timestamp,
    /// When everything was sent last.
    flushed: Timestamp,
    /// The number of the last line that was looked at.
    line: u64,
    refused: u64,
}

impl Work {
    /// Stores all lines; the signal that ended it early, if one did.
    async fn run(&mut self, stop: &Stop) -> Outcome {
        let failed = |e| Failure::system("read", Path::new("standard input"), e);
        let mut input = input::open().map_err(failed)?;
        let mut progress = Progress::new(false);
        loop {
            let next = tokio::select! {
                biased;
                number = stop.rung() => return Err(Failure::Signal(number)),
                next = self.next(&mut input) => next?,
            };
            match next {
                None => return Ok(()),
                Some(Input::Failed(e)) => return Err(failed(e)),
                Some(Input::TooLong) => {
                    self.line += 1;
                    let what = format!("the line is longer than {LINE_MAX} bytes");
                    self.refuse(&Bad { column: LINE_MAX, what })?;
                }
                Some(Input::Lines(chunk)) => {
                    let before = self.line;
                    self.lines(&chunk, stop).await?;
                    progress.add(self.line - before, chunk.len() as u64);
                }
            }
        }
    }

    /// The next lines. When none come for a moment, what was read is sent.
    async fn next(&mut self, input: &mut Receiver<Input>) -> Outcome<Option<Input>> {
        if self.log.now().saturating_sub(self.flushed) < WAIT_MS {
            if let Ok(next) = input.try_recv() {
                return Ok(Some(next));
            }
            tokio::select! {
                biased;
                next = input.recv() => return Ok(next),
                () = self.log.sleep(LINGER) => {}
            }
        }
        self.writer.flush().await?;
        self.flushed = self.log.now();
        Ok(input.recv().await)
    }

    async fn lines(&mut self, chunk: &[u8], stop: &Stop) -> Outcome {
        self.now = self.log.now();
        for line in input::lines(chunk) {
            self.line += 1;
            let json;
            let mut headers = Vec::new();
            let mut partition = self.partition;
            let (timestamp, key, value) = match &self.form {
                Form::Value => (self.now, None, Some(line)),
                Form::Keyed(separator, len) => match separator.find(line) {
                    Some(at) => (self.now, Some(&line[..at]), Some(&line[at + len..])),
                    None => {
                        let what = "there is no key separator in it".to_owned();
                        self.refuse(&Bad { column: 1, what })?;
                        continue;
                    }
                },
                Form::Json { raw } => {
                    if line.trim_ascii().is_empty() {
                        continue;
                    }
                    json = match json::parse(line, *raw) {
                        Ok(json) => json,
                        Err(bad) => {
                            self.refuse(&bad)?;
                            continue;
                        }
                    };
                    partition = partition.or(json.partition);
                    headers.extend(json.headers.iter().map(|(k, v)| (&**k, v.as_deref())));
                    let timestamp = json.timestamp.unwrap_or(self.now);
                    (timestamp, json.key.as_deref(), json.value.as_deref())
                }
            };
            let parts = Parts { timestamp, key, value, headers: &headers };
            if let Some(what) =
                Writer::refuses(&self.info, self.batching, self.now, partition, &parts)
            {
                self.refuse(&Bad { column: 1, what })?;
                continue;
            }
            if let Writer::Transactional(transactional) = &mut self.writer
                && transactional.needs_room(&parts)
            {
                transactional.make_room(&parts).await?;
            }
            if self.writer.push(partition, &parts)? {
                self.writer.drain().await?;
                if let Some(number) = stop.now() {
                    return Err(Failure::Signal(number));
                }
            }
        }
        Ok(())
    }

    /// Names a line that cannot be stored; it ends the command unless that goes on.
    fn refuse(&mut self, bad: &Bad) -> Outcome {
        let what = format!("line {}, column {}: {}", self.line, bad.column, bad.what);
        if !self.keep_going {
            return Err(Failure::Failed(what));
        }
        self.refused += 1;
        tell(&what);
        Ok(())
    }

    /// Ends what is open, as `done` says, and says how far the command came.
    async fn end(&mut self, done: Outcome) -> Outcome {
        match done {
            Ok(()) => {
                let finished = self.writer.finish().await;
                if let Err(e) = finished {
                    self.writer.settle().await;
                    self.say_stored();
                    return Err(e.into());
                }
                if self.refused > 0 { Err(Failure::Refused(self.refused)) } else { Ok(()) }
            }
            Err(failure) => {
                // The reason is the answer, whatever becomes of the rest.
                let given_up = self.writer.give_up().await;
                self.writer.settle().await;
                self.say_stored();
                if let (Err(e), Failure::Signal(_)) = (given_up, &failure) {
                    return Err(e.into());
                }
                Err(failure)
            }
        }
    }

    fn say_stored(&self) {
        let (stored, topic) = (self.writer.stored(), &self.info.name);
        let how = match self.writer {
            Writer::Plain(_) => "stored",
            Writer::Transactional(_) => "committed",
        };
        tell(&format!("records {how} in {topic}: {stored}; lines read: {}", self.line));
    }
}
