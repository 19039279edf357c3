//! Single bits turned in what is stored: a reader gets the right records or an error, never others,
//! and `verify` names the file.
//!
//! ```text
//!   0.log        every bit of every batch's header, and random bits of all: read around the batch
//!   0.index      random bits: read from the offsets around the entry, and from others
//!   0.timeindex  random bits: opened anew, read as a whole, and asked for times
//!   the rest     every bit, or random ones: opened anew, and read as a whole
//! ```
//!
//! Always true here: one bit is turned at a time, and turned back; what a reader must see is what it
//! saw before; an answer that leads nowhere, so that a consumer would ask for ever, counts as wrong.
//! `verify` is held to every bit but those of `idle`, which mean nothing to anybody.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::executor::block_on;
use thalweg_core::Error;
use thalweg_core::batch::batches;
use thalweg_core::client::log::{Isolation, Log, OffsetSpec};
use thalweg_core::disk::sim::{Rng, SimDisk};
use thalweg_core::engine::Engine;
use thalweg_core::ids::Offset;
use thalweg_core::verify::{Severity, verify};

use crate::image::{self, DIR, Ending, FOLDER, Image, Seen};

/// What is turned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Bytes of the sealed segment.
    pub segment_bytes: u32,
    /// Random bits of each file; all, where it has fewer.
    pub bits: usize,
    /// Of the bits of batch headers, one in so many.
    pub header_bits_one_in: u32,
    /// Chooses.
    pub seed: u64,
}

impl Options {
    /// Every header bit and 10,000 random bits of each file, of a segment of 4 MiB: a quarter of an hour
    /// of two cores.
    pub const FULL: Self =
        Self { segment_bytes: 4 << 20, bits: 10_000, header_bits_one_in: 1, seed: 1 };
    /// Some of them, of a segment of 128 KiB.
    pub const SAMPLED: Self =
        Self { segment_bytes: 128 << 10, bits: 300, header_bits_one_in: 10, seed: 1 };
}

/// What came of the bits of one file.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The file's name.
    pub file: String,
    /// Bits that were turned.
    pub bits: usize,
    /// Every record was read as it was written.
    pub right: usize,
    /// An error told, by its kind; what was read before it was right.
    pub told: BTreeMap<String, usize>,
    /// Other records were read, or fewer without a word.
    pub wrong: Vec<String>,
    /// Bits that mean something, of which `verify` said nothing.
    pub unnamed: Vec<String>,
    /// Bits that mean nothing.
    pub idle: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, bits, right, told, wrong, unnamed, idle } = self;
        write!(f, "{file:<34} {bits:>7} bits: {right} read right, {} wrong, told", wrong.len())?;
        told.iter().try_for_each(|(kind, count)| write!(f, " {count} {kind}"))?;
        let named = bits - idle - unnamed.len();
        write!(f, "; verify named {named}, not {}, {idle} mean nothing", unnamed.len())
    }
}

/// Turns bits of every file of a partition; `told` hears of each file when it is done.
pub fn run(options: &Options, told: &mut dyn FnMut(&Tally)) -> Vec<Tally> {
    let image = &Image::of_bytes(options.segment_bytes);
    let mut rng = Rng::new(options.seed);
    let mut all = Vec::new();
    let mut done = |tally: Tally| {
        told(&tally);
        all.push(tally);
    };
    done(log(image, options, &mut rng));
    done(index(image, options, &mut rng));
    for (name, bytes) in image.partition() {
        // The last segment is read at open, and its index built then.
        let sealed = name.starts_with(&format!("{:020}.", 0));
        let by_itself = name.ends_with(".log") || name.ends_with(".index");
        if !by_itself && (sealed || !name.ends_with(".txnindex")) {
            done(anew(image, name, &random_bits(bytes.len(), options.bits, &mut rng)));
        }
    }
    all
}

/// Of topic ids, as base64 of names of files has them.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Whether a bit of a file means nothing: what stands there is the same, or nobody reads it any more.
fn idle(image: &Image, name: &str, (byte, bit): Bit) -> bool {
    match name {
        // Behind the fields of each slot.
        "flushed-offset" => byte % 512 >= 60,
        // The last digit of an id has two bits of six.
        "partition.metadata" => {
            let bytes = image.file(name).expect("it is there");
            let last = bytes[bytes.len() - 1];
            let means = |digit: u8| DIGITS.iter().position(|one| *one == digit).map(|n| n >> 4);
            byte + 1 == bytes.len() as u64 && means(last ^ 1 << bit) == means(last)
        }
        // Of recovery points that were passed.
        _ => match name.split_once('.') {
            Some((at, "snapshot" | "sidecar")) => {
                let at: Offset = at.parse().expect("files are named by offsets");
                at != image.end && image.file(&format!("{at:020}.log")).is_none()
            }
            _ => false,
        },
    }
}

/// Whether `verify` names a file, and finds it as bad as it is.
fn is_named(disk: &SimDisk, name: &str) -> bool {
    let report = verify(disk, Path::new(DIR), &mut |_| {}).expect("it is a log");
    let wanted = match name.ends_with(".log") {
        true => Severity::Damaged,
        false => Severity::Rebuildable,
    };
    let path = path_of(name);
    report.findings.iter().any(|found| found.path == path && found.severity == wanted)
}

/// A bit: its byte, and its place in there.
type Bit = (u64, u8);

fn random_bits(len: usize, count: usize, rng: &mut Rng) -> Vec<Bit> {
    let all = len as u64 * 8;
    let bit = |n: u64| (n / 8, (n % 8) as u8);
    match all <= count as u64 {
        true => (0..all).map(bit).collect(),
        false => (0..count).map(|_| bit(rng.below(all))).collect(),
    }
}

/// A log that is open while bits are turned below it.
struct Opened<'a> {
    image: &'a Image,
    disk: SimDisk,
    log: std::sync::Arc<Engine<SimDisk>>,
}

/// One batch of the sealed segment.
#[derive(Clone, Copy)]
struct Place {
    position: usize,
    size: usize,
    base: Offset,
    end: Offset,
}

impl<'a> Opened<'a> {
    fn new(image: &'a Image) -> Self {
        let disk = image.lay(|_| true);
        let log = image::open(&disk).expect("the image opened before");
        Self { image, disk, log }
    }

    /// Reads a range with both isolations. What it came to: nothing, an error, or what is wrong.
    fn read(&self, from: Offset, to: Offset) -> Result<(), Verdict> {
        let all = (Isolation::ReadUncommitted, &self.image.all);
        let committed = (Isolation::ReadCommitted, &self.image.committed);
        [all, committed].into_iter().try_for_each(|(isolation, wanted)| {
            let (wanted, mut count) = (wanted_in(wanted, from, to), 0);
            let mut other = None;
            let ending = image::visit(&self.log, isolation, from, to, &mut |record| {
                let next = wanted.get(count);
                if !next.is_some_and(|next| next.is(record)) {
                    other.get_or_insert_with(|| format!("{:?}, not {next:?}", Seen::of(record)));
                }
                count += 1;
            });
            judge(other, count, wanted.len(), ending)
                .map_err(|verdict| verdict.with(&format!("{isolation:?} {from}..{to}")))
        })
    }

    /// Asks for times all over the log.
    fn ask_for_times(&self) -> Result<(), Verdict> {
        let step = (self.image.all.len() / 16).max(1);
        self.image.all.iter().step_by(step).try_for_each(|first| {
            let which = OffsetSpec::AtOrAfter(first.timestamp);
            let (at, isolation) = (image::at(), Isolation::ReadUncommitted);
            let found = self.log.list_offset(&at, which, isolation);
            match block_on(found).map_err(Verdict::Told)? {
                Some(found) if found.offset == first.offset => Ok(()),
                other => {
                    let (time, offset) = (first.timestamp, first.offset);
                    Err(Verdict::Wrong(format!("time {time}: {other:?}, not {offset}")))
                }
            }
        })
    }

    /// Turns a bit, looks, asks `verify`, and turns it back.
    fn with_flip(
        &self,
        name: &str,
        (byte, bit): Bit,
        look: impl FnOnce() -> Result<(), Verdict>,
    ) -> (Result<(), Verdict>, bool) {
        let path = path_of(name);
        self.disk.flip_bit(&path, byte, bit).expect("the byte is there");
        let answer = (look(), is_named(&self.disk, name));
        self.disk.flip_bit(&path, byte, bit).expect("the byte is there");
        answer
    }
}

enum Verdict {
    Told(Error),
    Wrong(String),
}

impl Verdict {
    fn with(self, place: &str) -> Self {
        match self {
            Self::Wrong(what) => Self::Wrong(format!("{place}: {what}")),
            told => told,
        }
    }
}

fn wanted_in(all: &[Seen], from: Offset, to: Offset) -> &[Seen] {
    let begin = all.partition_point(|one| one.offset < from);
    &all[begin..all.partition_point(|one| one.offset < to)]
}

fn judge(other: Option<String>, seen: usize, wanted: usize, ending: Ending) -> Result<(), Verdict> {
    match (other, ending) {
        (Some(other), _) => Err(Verdict::Wrong(other)),
        (None, Ending::Told(e)) => Err(Verdict::Told(e)),
        (None, Ending::Stuck(at)) => {
            Err(Verdict::Wrong(format!("the answer at {at} leads nowhere")))
        }
        (None, Ending::End) if seen < wanted => {
            Err(Verdict::Wrong(format!("{seen} of {wanted} records, and no word")))
        }
        (None, Ending::End) => Ok(()),
    }
}

impl Tally {
    fn of(file: &str) -> Self {
        Self { file: file.to_owned(), ..Self::default() }
    }

    fn add(&mut self, image: &Image, at: Bit, (verdict, named): (Result<(), Verdict>, bool)) {
        let (byte, bit) = at;
        self.bits += 1;
        if idle(image, &self.file, at) {
            self.idle += 1;
        } else if !named {
            self.unnamed.push(format!("byte {byte} bit {bit}"));
        }
        match verdict {
            Ok(()) => self.right += 1,
            Err(Verdict::Told(e)) => {
                let words = format!("{e:?}");
                let kind = words.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                *self.told.entry(kind.to_owned()).or_insert(0) += 1;
            }
            Err(Verdict::Wrong(what)) => {
                self.wrong.push(format!("byte {byte} bit {bit}: {what}"));
            }
        }
    }

    fn join(&mut self, other: Self) {
        self.bits += other.bits;
        self.right += other.right;
        for (kind, count) in other.told {
            *self.told.entry(kind).or_insert(0) += count;
        }
        self.wrong.extend(other.wrong);
        self.unnamed.extend(other.unnamed);
        self.idle += other.idle;
    }
}

/// The batches of the sealed segment.
fn places(image: &Image) -> Vec<Place> {
    let bytes = image.file(LOG).expect("the first segment");
    let mut position = 0;
    batches(bytes)
        .map(|batch| {
            let batch = batch.expect("as it was written");
            let size = batch.bytes.len();
            position += size;
            let header = batch.header;
            let (base, end) = (header.base_offset, header.next_offset());
            Place { position: position - size, size, base, end }
        })
        .collect()
}

const LOG: &str = "00000000000000000000.log";
const INDEX: &str = "00000000000000000000.index";
const HEADER_BITS: usize = 61 * 8;

fn path_of(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn log(image: &Image, options: &Options, rng: &mut Rng) -> Tally {
    let places = places(image);
    let last = places.last().expect("there are batches");
    let mut bits = random_bits(last.position + last.size, options.bits, rng);
    for place in &places {
        for n in 0..HEADER_BITS {
            if rng.one_in(options.header_bits_one_in) {
                bits.push(((place.position + n / 8) as u64, (n % 8) as u8));
            }
        }
    }
    in_parts(LOG, &bits, |bits| {
        let opened = Opened::new(image);
        let mut tally = Tally::of(LOG);
        for &bit in bits {
            let hit = places.partition_point(|place| place.position as u64 <= bit.0) - 1;
            let before = places[hit.saturating_sub(1)];
            let after = places[(hit + 1).min(places.len() - 1)];
            let verdict = opened.with_flip(LOG, bit, || {
                opened.read(before.base, after.end)?;
                opened.read(places[hit].base, after.end)?;
                opened.read(places[hit].end - 1, after.end)?;
                opened.read(after.base, after.end)
            });
            tally.add(image, bit, verdict);
        }
        tally
    })
}

fn index(image: &Image, options: &Options, rng: &mut Rng) -> Tally {
    let bytes = image.file(INDEX).expect("the first segment's index");
    let bits = random_bits(bytes.len(), options.bits, rng);
    let places = places(image);
    let seed = rng.number();
    in_parts(INDEX, &bits, |bits| {
        let opened = Opened::new(image);
        let mut rng = Rng::new(seed);
        let mut tally = Tally::of(INDEX);
        for &bit in bits {
            let entry = &bytes[bit.0 as usize / 8 * 8..];
            let named = entry[..4].iter().fold(0, |n, byte| n << 8 | i64::from(*byte));
            let near = places.partition_point(|place| place.base <= named);
            let near = near.saturating_sub(2)..(near + 2).min(places.len());
            let others = [(); 4].map(|()| rng.below(places.len() as u64) as usize);
            let verdict = opened.with_flip(INDEX, bit, || {
                near.chain(others).try_for_each(|n| opened.read(places[n].base, places[n].end))
            });
            tally.add(image, bit, verdict);
        }
        tally
    })
}

/// Opens the folder anew for each bit, and reads all of it.
fn anew(image: &Image, name: &str, bits: &[Bit]) -> Tally {
    let path = path_of(name);
    in_parts(name, bits, |bits| {
        let mut tally = Tally::of(name);
        for &bit in bits {
            let disk = image.lay(|_| true);
            disk.flip_bit(&path, bit.0, bit.1).expect("the byte is there");
            let named = is_named(&disk, name);
            let verdict = match image::open(&disk) {
                Err(e) => Err(Verdict::Told(e)),
                Ok(log) => {
                    let opened = Opened { image, disk, log };
                    opened.read(0, Offset::MAX).and_then(|()| match name.ends_with(".timeindex") {
                        true => opened.ask_for_times(),
                        false => Ok(()),
                    })
                }
            };
            tally.add(image, bit, (verdict, named));
        }
        tally
    })
}

/// Shares bits out among threads; the tallies are joined in the order of the bits.
fn in_parts(name: &str, bits: &[Bit], look: impl Fn(&[Bit]) -> Tally + Sync) -> Tally {
    let parts: Vec<&[Bit]> = bits.chunks(512).collect();
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Tally>> = Mutex::new(BTreeMap::new());
    let held = "nothing panics while it is held";
    std::thread::scope(|scope| {
        for _ in 0..crate::campaign::threads() {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(part) = parts.get(number) else { return };
                    let tally = look(part);
                    done.lock().expect(held).insert(number, tally);
                }
            });
        }
    });
    let mut all = Tally::of(name);
    done.into_inner().expect(held).into_values().for_each(|tally| all.join(tally));
    all
}
