//! Decoders: a line of a log in, fields out; fields in, a line of JSON out.
//!
//! ```text
//!   bytes of one line -> line -> json | syslog | iso | raw -> LogLine -> encode -> NDJSON
//!                               scan             time, zone, severity
//! ```
//!
//! Always true here: synchronous and pure (no file, no clock, no [`Log`](thalweg_core::Log));
//! total (any bytes give an answer, nothing panics); a field borrows from the line unless an escape
//! or a byte that is not UTF-8 had to be replaced.
//!
//! Reading order: [`decode_line`] has the order of the formats and what they share; one file a
//! format; `scan` is the strict JSON reader below `json`, `swar` its inner loop; `time` and [`Zone`]
//! turn what is written into milliseconds; [`JsonObject`] writes; [`looks_binary`] keeps what is no
//! text away from all this.

mod classify;
mod encode;
mod iso;
mod json;
mod line;
mod scan;
mod severity;
mod swar;
mod syslog;
mod time;
mod zone;

pub use classify::looks_binary;
pub use encode::JsonObject;
pub use line::{LineContext, LogLine, Origin, decode_line};
pub use severity::Severity;
pub use zone::Zone;
