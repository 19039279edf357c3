//! The argument tree: every command, option and help text.
//!
//! Always true here: an option that is shown works; what an option means is parsed here, once, into
//! a type that cannot be wrong; conflicts are declared, so that clap refuses them with status 2.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use thalweg_core::client::log::Isolation;
use thalweg_core::config::Compression;
use thalweg_core::ids::Offset;

use super::format::Format;
use super::from::Place;

/// How exit statuses are told.
const EXIT_STATUS: &str = "Exit status:
  0    done
  1    failed
  2    usage
  3    unknown topic or offset
  4    records damaged
  5    the folder is in use
  6    no log, or a newer format
  7    no space or permission
  8    some input lines were refused (--keep-going)
  9    only files are bad that can be rebuilt
  130, 143   ended by a signal; 141 standard output was closed";

/// The shell on a data folder: topics, records, groups and transactions of an embedded log.
///
/// There is no server: the command opens the folder, works, and closes it. One process at a time
/// has a folder open.
#[derive(Parser)]
#[command(name = "thalweg", version, after_help = EXIT_STATUS, max_term_width = 100)]
pub(crate) struct Arguments {
    /// The data folder.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "THALWEG_DATA",
        default_value = "./thalweg-data"
    )]
    pub(crate) data: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Lists, creates, describes, alters and deletes topics.
    #[command(subcommand, visible_alias = "topic")]
    Topics(Topics),
    Produce(Produce),
    Consume(Consume),
    DeleteRecords(DeleteRecords),
    /// Lists, describes and moves the positions of consumer groups.
    #[command(subcommand, visible_alias = "group")]
    Groups(Groups),
    /// Lists transactions, and aborts one that hangs.
    #[command(subcommand, visible_alias = "transaction")]
    Transactions(Transactions),
    Dump(Dump),
    Verify(Verify),
    Stats(Stats),
    Truncate(Truncate),
    Repair(Repair),
    Maintain(Maintain),
    Backup(Backup),
    TakeOver(TakeOver),
    /// Prints the completions of a shell: `eval "$(thalweg completions bash)"`.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Prints a manual page: `thalweg man | man -l -`.
    Man {
        /// Of which command, as in `thalweg man topics create`; of the whole program when none is
        /// given.
        command: Vec<String>,
    },
}

#[derive(Subcommand)]
pub(crate) enum Topics {
    /// Lists the topics.
    List {
        /// The log's own topics too: groups, transactions, metadata.
        #[arg(long)]
        internal: bool,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Creates a topic, and the data folder when there is none.
    Create {
        /// Its name: 1 to 249 of `a-z A-Z 0-9 . _ -`.
        name: String,
        /// How many partitions it has.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        partitions: u32,
        /// A setting, as in `-c segment.bytes=67108864` or `-c thalweg.level=os`. May be repeated.
        #[arg(short = 'c', long = "config", value_name = "K=V", value_parser = setting)]
        config: Vec<(String, String)>,
        /// One JSON object instead of words.
        #[arg(long)]
        json: bool,
    },
    /// Shows a topic's settings and where its partitions begin and end.
    Describe {
        /// Its name.
        name: String,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Changes settings of a topic.
    Alter {
        /// Its name.
        name: String,
        /// A setting's new value. May be repeated.
        #[arg(short = 'c', long = "config", value_name = "K=V", value_parser = setting, required_unless_present = "unset")]
        config: Vec<(String, String)>,
        /// A setting that goes back to its default. May be repeated.
        #[arg(long, value_name = "K")]
        unset: Vec<String>,
        /// One JSON object instead of words.
        #[arg(long)]
        json: bool,
    },
    /// Deletes a topic with all its records and every group's positions in it.
    Delete {
        /// Its name.
        name: String,
        /// One JSON object instead of words.
        #[arg(long)]
        json: bool,
    },
}

/// Writes lines of standard input as records.
///
/// Each line of standard input becomes a record; its bytes are stored as they are, without the
/// newline. The command ends with its input, when everything is as durable as the topic's level says.
#[derive(Args)]
pub(crate) struct Produce {
    /// The topic; it must exist.
    pub(crate) topic: String,
    /// Lines are JSON objects, as `consume --json` writes them.
    ///
    /// `value` is needed; null is a tombstone. `key`, `partition`, `timestamp` and `headers` (a list
    /// of {"key","value"}, or an object) may be given; `topic`, `offset` and `timestamp_type` are
    /// ignored; anything else is refused. Key and values are strings, null, or {"base64": "..."}.
    #[arg(long)]
    pub(crate) json: bool,
    /// With --json: keys and values that are numbers, booleans, lists or objects are stored as their
    /// JSON text, also {"base64": "..."}.
    #[arg(long, requires = "json")]
    pub(crate) raw_json: bool,
    /// Splits each line at the first S: key before it, value behind it. A line without S is refused.
    #[arg(long, value_name = "S", conflicts_with = "json", value_parser = separator)]
    pub(crate) key_separator: Option<String>,
    /// How batches are compressed: none, gzip, snappy, lz4 or zstd.
    #[arg(long, value_name = "C", default_value = "none", value_parser = compression)]
    pub(crate) compression: Compression,
    /// Bytes of records that make a batch, before compression; at most the topic's
    /// max.message.bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch_size: u32,
    /// Every record goes to this partition. Otherwise a record goes where its line says (--json),
    /// where its key's hash says, or, without a key, where the batch before did not go.
    #[arg(long, value_name = "P")]
    pub(crate) partition: Option<u32>,
    /// Names a line that cannot be stored and goes on with the next; the exit status is then 8.
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Writes in transactions of this producer. Whoever used the id before is fenced.
    #[arg(long, value_name = "ID", requires = "transaction_size", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) transactional_id: Option<String>,
    /// Records of a transaction. The end of input commits the last one, a signal aborts it.
    #[arg(long, value_name = "N", requires = "transactional_id", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) transaction_size: Option<u64>,
    /// Aborts every K-th transaction instead of committing it: K, 2K, ... counted from 1.
    #[arg(long, value_name = "K", requires = "transactional_id", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) abort_every: Option<u64>,
}

/// Reads records to standard output.
///
/// Reads from a topic to where it ended when the command started, or on and on with --follow.
/// Without --json or --format, each record's value and a newline.
#[derive(Args)]
pub(crate) struct Consume {
    /// The topic.
    pub(crate) topic: String,
    /// Where to begin, in each partition: beginning, end, stored (the group's position), N (an
    /// offset), -N (the last N records), @TIME (the first record at or after it: milliseconds since
    /// 1970, RFC 3339, or back from now as in @-10m). Default: stored with --group, else beginning.
    #[arg(long, value_name = "FROM", value_parser = Place::parse, allow_negative_numbers = true)]
    pub(crate) from: Option<Place>,
    /// Only this partition. May be repeated.
    #[arg(long, value_name = "P")]
    pub(crate) partition: Vec<u32>,
    /// Ends after N records.
    #[arg(long, value_name = "N")]
    pub(crate) max: Option<u64>,
    /// Waits for what is written from now on, until a signal or --max ends it.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Reads as the member of group G and stores its positions, once what was read is written.
    #[arg(long, value_name = "G", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) group: Option<String>,
    /// One JSON object a record: topic, partition, offset, timestamp, timestamp_type, key, value,
    /// headers.
    #[arg(long)]
    pub(crate) json: bool,
    /// As kcat's: %t topic, %p partition, %o offset, %T timestamp, %k key, %s value, %h headers, %K
    /// and %S lengths (-1 is null), %% a percent sign; \n \t \r \\ \xHH.
    #[arg(long, value_name = "F", value_parser = Format::parse, conflicts_with = "json")]
    pub(crate) format: Option<Format>,
    /// Which records are seen.
    #[arg(long, value_name = "LEVEL", default_value = "read_committed", value_parser = isolation)]
    pub(crate) isolation: Isolation,
    /// Takes no lock and changes nothing, not even what a crash left behind: reads what is there now,
    /// also beside a program that writes. So it is anyway, without --group and --follow, when the folder
    /// is in use.
    #[arg(long, conflicts_with_all = ["group", "follow"])]
    pub(crate) read_only: bool,
}

/// Deletes the oldest records of a partition, for good.
///
/// Records below OFFSET are gone for every reader at once; their files go when a whole segment is
/// below it.
#[derive(Args)]
pub(crate) struct DeleteRecords {
    /// The topic.
    pub(crate) topic: String,
    /// The partition.
    #[arg(long, value_name = "P")]
    pub(crate) partition: u32,
    /// The first offset that is kept; `end` keeps none.
    #[arg(long, value_name = "OFFSET", value_parser = before)]
    pub(crate) before: Before,
    /// One JSON object instead of words.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Below which offset records are deleted.
#[derive(Clone, Copy)]
pub(crate) enum Before {
    Offset(Offset),
    End,
}

#[derive(Subcommand)]
pub(crate) enum Groups {
    /// Lists the groups.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Shows where a group stands in each partition, and how far it is behind.
    Describe {
        /// The group.
        group: String,
        /// One JSON object a partition.
        #[arg(long)]
        json: bool,
    },
    /// Moves a group's positions in a topic. The group must have no member.
    Reset {
        /// The group; it is made when there is none.
        group: String,
        /// The topic.
        topic: String,
        /// Where to: beginning, end, N, -N or @TIME, as `consume --from`.
        #[arg(long, value_name = "FROM", value_parser = Place::parse, allow_negative_numbers = true)]
        to: Place,
        /// Only this partition. May be repeated.
        #[arg(long, value_name = "P")]
        partition: Vec<u32>,
        /// Shows what would be stored, and stores nothing.
        #[arg(long)]
        dry_run: bool,
        /// One JSON object a partition.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub(crate) enum Transactions {
    /// Lists the transactional ids and what they are doing.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Aborts the open transaction of a transactional id, and fences its producer.
    Abort {
        /// The transactional id.
        id: String,
        /// One JSON object instead of words.
        #[arg(long)]
        json: bool,
    },
}

/// Shows what is in files of a log: batches, records, indexes, snapshots, checkpoints.
///
/// Reads the files alone, takes no lock, and changes nothing; works on files of Apache Kafka too.
#[derive(Args)]
pub(crate) struct Dump {
    /// Files by their names (.log .index .timeindex .txnindex .snapshot, checkpoints,
    /// partition.metadata, flushed-offset), or folders of such files.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// The records of each batch too.
    #[arg(long)]
    pub(crate) records: bool,
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Reads every file of a folder and names what is bad: file, byte, and whether it can be rebuilt.
///
/// Takes no lock and changes nothing. A torn tail behind what was synced is no fault: the next open cuts
/// it. The exit status is 4 when records are damaged, and 9 when only files are bad that can be rebuilt.
#[derive(Args)]
pub(crate) struct Verify {
    /// A data folder, a log directory (Apache Kafka's too), or one partition's folder.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// One JSON object a finding.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Shows what is in each partition: records, bytes, segments, offsets, times, open transactions.
///
/// Takes no lock and changes nothing, so that a folder in use may be counted; also Apache Kafka's log
/// directory.
#[derive(Args)]
pub(crate) struct Stats {
    /// Only this topic; without it, all but the log's own.
    pub(crate) topic: Option<String>,
    /// The log's own topics too: groups, transactions, metadata.
    #[arg(long)]
    pub(crate) internal: bool,
    /// One JSON object a partition.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Cuts the end of a partition back to an offset: the newest records are taken out.
///
/// What goes is kept beside the folder, in DIR.repair-TIME. Positions of groups behind the new end stay,
/// and are told to be lost until `groups reset` moves them.
#[derive(Args)]
pub(crate) struct Truncate {
    /// The topic.
    pub(crate) topic: String,
    /// The partition.
    #[arg(long, value_name = "P")]
    pub(crate) partition: u32,
    /// Where it is to end: the first offset that goes. Within a batch, the batch stays.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) to: Offset,
    /// Does not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// One JSON object instead of words.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Builds anew what `verify` names and sets aside what is damaged.
///
/// No sound record is removed, and none changes its offset: damaged records become offsets without
/// records. Every file that is replaced is kept beside the folder, in DIR.repair-TIME.
#[derive(Args)]
pub(crate) struct Repair {
    /// A data folder, or a log directory.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Does not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// One JSON object a finding and a loss.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs what a program does in the background that keeps the folder open: retention and compaction.
#[derive(Args)]
pub(crate) struct Maintain {
    /// Ends when nothing is left to do, rather than at a signal.
    #[arg(long)]
    pub(crate) once: bool,
    /// One JSON object a turn that freed something.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Copies the data folder, also while a program has it open.
///
/// The copy is as the folder was at one moment: every transaction is whole in it, or not there. Sealed
/// segments are linked where source and target are on one file system. State of applications is not
/// copied: they rebuild it.
#[derive(Args)]
pub(crate) struct Backup {
    /// Where to: a folder that is not there yet, or empty.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// One JSON object instead of words.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Makes a log directory of Apache Kafka a data folder, in place, with all records and positions.
///
/// Kafka must have been stopped, cleanly or not. No batch of its is written to or copied; open
/// transactions are aborted. Interrupted, it is begun again or finished by the next call.
#[derive(Args)]
pub(crate) struct TakeOver {
    /// One of Kafka's `log.dirs`.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Does not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// One JSON object instead of words.
    #[arg(long)]
    pub(crate) json: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("use NAME=VALUE, as in segment.bytes=67108864".to_owned()),
    }
}

fn separator(text: &str) -> Result<String, String> {
    match text {
        "" => Err("use at least one character".to_owned()),
        // What a shell makes hard to write.
        "\\t" => Ok("\t".to_owned()),
        text if text.contains('\n') => Err("lines hold no newline".to_owned()),
        text => Ok(text.to_owned()),
    }
}

fn compression(text: &str) -> Result<Compression, String> {
    match text {
        "none" => Ok(Compression::None),
        "gzip" => Ok(Compression::Gzip),
        "snappy" => Ok(Compression::Snappy),
        "lz4" => Ok(Compression::Lz4),
        "zstd" => Ok(Compression::Zstd),
        _ => Err("use none, gzip, snappy, lz4 or zstd".to_owned()),
    }
}

fn isolation(text: &str) -> Result<Isolation, String> {
    match text {
        "read_committed" => Ok(Isolation::ReadCommitted),
        "read_uncommitted" => Ok(Isolation::ReadUncommitted),
        _ => Err("use read_committed or read_uncommitted".to_owned()),
    }
}

fn before(text: &str) -> Result<Before, String> {
    match text.parse::<Offset>() {
        Ok(offset) if offset >= 0 => Ok(Before::Offset(offset)),
        _ if text == "end" => Ok(Before::End),
        _ => Err("use an offset, or end".to_owned()),
    }
}
