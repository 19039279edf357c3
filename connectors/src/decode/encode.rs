//! Writing JSON objects straight into a buffer, a field at a time.
//!
//! ```text
//!   {"file":"/var/log/syslog","offset":4096,"time":"2026-11-21T13:52:00.082Z"}
//!   begin    str               u64           time                             end
//! ```
//!
//! Always true here: strings are escaped exactly as `serde_json` does it; nothing is allocated but
//! room in the buffer.

use super::swar;
use super::time::{DAY_MS, FIRST_MS, LAST_MS, civil};

/// A JSON object being appended to a buffer. Fields appear in the order of the calls; it is the
/// caller's part to name none twice and to call [`end`](Self::end).
///
/// ```
/// use thalweg_connectors::decode::JsonObject;
///
/// let mut out = Vec::new();
/// JsonObject::begin(&mut out)
///     .time("window_start", 1_795_269_120_082)
///     .str("program", "cron")
///     .u64("count", 3)
///     .end();
/// assert_eq!(
///     out,
///     br#"{"window_start":"2026-11-21T13:52:00.082Z","program":"cron","count":3}"#
/// );
/// ```
#[derive(Debug)]
#[must_use = "an object that is not ended is no JSON"]
pub struct JsonObject<'a> {
    out: &'a mut Vec<u8>,
    /// What comes before the next field.
    lead: u8,
}

impl<'a> JsonObject<'a> {
    /// Begins an object at the end of `out`.
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        Self { out, lead: b'{' }
    }

    /// Adds a string.
    #[inline]
    pub fn str(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        self.out.push(b'"');
        push_text(self.out, value);
        self.out.push(b'"');
        self
    }

    /// Adds a number.
    #[inline]
    pub fn u64(mut self, name: &str, value: u64) -> Self {
        self.name(name);
        push_u64(self.out, value);
        self
    }

    /// Adds a number.
    #[inline]
    pub fn i64(mut self, name: &str, value: i64) -> Self {
        self.name(name);
        if value < 0 {
            self.out.push(b'-');
        }
        push_u64(self.out, value.unsigned_abs());
        self
    }

    /// Adds `true` or `false`.
    #[inline]
    pub fn bool(mut self, name: &str, value: bool) -> Self {
        self.name(name);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
        self
    }

    /// Adds an instant in milliseconds since 1970 UTC as RFC 3339 in UTC with milliseconds,
    /// `1970-01-01T00:00:00.000Z`. Its years have four digits, so an instant outside the years 1 to
    /// 9999 is written as the nearest inside.
    #[inline]
    pub fn time(mut self, name: &str, ms: i64) -> Self {
        self.name(name);
        push_time(self.out, ms);
        self
    }

    /// Ends the object. A line of NDJSON also wants its LF, which is for the caller to push.
    pub fn end(self) {
        if self.lead == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }

    /// Inlined into the caller, where a name is a literal, so that most of this happens when it is
    /// compiled.
    #[inline]
    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(&[self.lead, b'"']);
        self.lead = b',';
        match name.len() {
            ..=8 if swar::specials(swar::load(name.as_bytes())) == 0 => {
                self.out.extend_from_slice(name.as_bytes());
            }
            _ => push_text(self.out, name),
        }
        self.out.extend_from_slice(b"\":");
    }
}

/// Appends what stands between the quotes of a string.
fn push_text(out: &mut Vec<u8>, value: &str) {
    let mut bytes = value.as_bytes();
    // Room for all of it if nothing needs an escape, and for what is written too much below.
    out.reserve(bytes.len() + 8);
    loop {
        // Eight bytes are copied whatever they are, and what was too much is taken back: a copy of
        // a length known in advance is two instructions, any other is a call.
        let word = swar::load(bytes);
        let plain = swar::first(swar::specials(word)).min(bytes.len());
        let end = out.len() + plain;
        out.extend_from_slice(&word.to_le_bytes());
        out.truncate(end);
        bytes = &bytes[plain..];
        if plain < 8 {
            let Some((special, rest)) = bytes.split_first() else { return };
            push_escape(out, *special);
            bytes = rest;
        }
    }
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[high], HEX[low]]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

fn push_u64(out: &mut Vec<u8>, mut value: u64) {
    // 20 digits: u64::MAX.
    let mut digits = [0; 20];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[from..]);
}

fn push_time(out: &mut Vec<u8>, ms: i64) {
    let ms = ms.clamp(FIRST_MS, LAST_MS);
    let (year, month, day) = civil(ms);
    let in_day = ms.rem_euclid(DAY_MS) as u32;
    let (second, milli) = (in_day / 1000, in_day % 1000);
    let mut text = *b"\"0000-00-00T00:00:00.000Z\"";
    let mut two = |at: usize, value: u32| {
        text[at] = b'0' + (value / 10) as u8;
        text[at + 1] = b'0' + (value % 10) as u8;
    };
    two(1, year / 100);
    two(3, year % 100);
    two(6, month);
    two(9, day);
    two(12, second / 3600);
    two(15, second / 60 % 60);
    two(18, second % 60);
    two(21, milli / 10);
    text[23] = b'0' + (milli % 10) as u8;
    out.extend_from_slice(&text);
}
