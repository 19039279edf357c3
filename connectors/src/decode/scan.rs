//! A strict JSON reader that borrows: the members of one object, each value as its text.
//!
//! ```text
//!   {"level":"warn", "n":1.50, "who":{"id": 7}}
//!    ^key    ^String  ^Number    ^Other, looked through to its end
//! ```
//!
//! Always true here: an object is taken if and only if `serde_json` takes it as a map of `Value`s.
//! A hand scanner because a line needs a few members as they are written, numbers to their last
//! digit, and this is several times faster than building values and forgetting most of them.

use std::borrow::Cow;

/// A value as written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// What stands between the quotes.
    String { raw: &'a str, escaped: bool },
    /// A number.
    Number(&'a str),
    /// An object, an array, `true`, `false` or `null`.
    Other { raw: &'a str, blanks: bool },
}

impl<'a> Value<'a> {
    /// A string's value; `None` for everything else.
    pub(super) fn string(&self) -> Option<Cow<'a, str>> {
        match *self {
            Self::String { raw, escaped: false } => Some(Cow::Borrowed(raw)),
            Self::String { raw, escaped: true } => Some(Cow::Owned(unescape(raw))),
            Self::Number(_) | Self::Other { .. } => None,
        }
    }

    /// A string's value, or the compact text of anything else.
    pub(super) fn text(&self) -> Cow<'a, str> {
        match *self {
            Self::String { .. } => self.string().unwrap_or_default(),
            Self::Number(raw) | Self::Other { raw, blanks: false } => Cow::Borrowed(raw),
            Self::Other { raw, blanks: true } => Cow::Owned(compact(raw)),
        }
    }
}

/// Gives every member of the object that `text` is to `member`, in order. `None` if `text` is not
/// one object, with blanks around it or not; members that came before the flaw were given.
pub(super) fn object<'a>(
    text: &'a str,
    mut member: impl FnMut(Cow<'a, str>, Value<'a>),
) -> Option<()> {
    let mut scanner = Scanner { text, at: 0, blanks: 0 };
    scanner.skip_blanks();
    scanner.members(1, &mut |key, value| {
        let key = key.string().unwrap_or_default();
        member(key, value);
    })?;
    scanner.skip_blanks();
    (scanner.at == text.len()).then_some(())
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// How many bytes of white space were skipped so far.
    blanks: usize,
}

impl<'a> Scanner<'a> {
    fn members(&mut self, depth: u32, member: &mut impl FnMut(Value<'a>, Value<'a>)) -> Option<()> {
        self.open(b'{', depth)?;
        if self.take(b'}') {
            return Some(());
        }
        loop {
            let key = self.string()?;
            self.skip_blanks();
            self.expect(b':')?;
            self.skip_blanks();
            let value = self.value(depth)?;
            member(key, value);
            if !self.another(b'}')? {
                return Some(());
            }
        }
    }

    fn elements(&mut self, depth: u32) -> Option<()> {
        self.open(b'[', depth)?;
        if self.take(b']') {
            return Some(());
        }
        loop {
            self.value(depth)?;
            if !self.another(b']')? {
                return Some(());
            }
        }
    }

    /// A value inside `depth` objects and arrays.
    fn value(&mut self, depth: u32) -> Option<Value<'a>> {
        let (from, blanks) = (self.at, self.blanks);
        match self.peek()? {
            b'"' => return self.string(),
            b'-' | b'0'..=b'9' => return self.number(),
            b'{' => self.members(depth + 1, &mut |_, _| ())?,
            b'[' => self.elements(depth + 1)?,
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            _ => return None,
        }
        Some(Value::Other { raw: &self.text[from..self.at], blanks: self.blanks > blanks })
    }

    fn string(&mut self) -> Option<Value<'a>> {
        self.expect(b'"')?;
        let from = self.at;
        let mut escaped = false;
        loop {
            self.at = next_special(self.text.as_bytes(), self.at);
            match self.peek()? {
                b'"' => {
                    let raw = &self.text[from..self.at];
                    self.at += 1;
                    return Some(Value::String { raw, escaped });
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                // A control character must be escaped.
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        self.expect(b'\\')?;
        let kind = self.peek()?;
        self.at += 1;
        match kind {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => match self.hex4()? {
                0xdc00..=0xdfff => None,
                0xd800..=0xdbff => {
                    self.expect(b'\\')?;
                    self.expect(b'u')?;
                    (0xdc00..=0xdfff).contains(&self.hex4()?).then_some(())
                }
                _ => Some(()),
            },
            _ => None,
        }
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.text.as_bytes()[self.at..].first_chunk::<4>()?;
        self.at += 4;
        hex4(*digits)
    }

    fn number(&mut self) -> Option<Value<'a>> {
        let from = self.at;
        self.take(b'-');
        let whole = self.at;
        if !self.take(b'0') && self.digits() == 0 {
            return None;
        }
        let whole_digits = self.at - whole;
        if self.take(b'.') && self.digits() == 0 {
            return None;
        }
        let mut exponent = "";
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            let at = self.at;
            if self.digits() == 0 {
                return None;
            }
            exponent = &self.text[at..self.at];
        }
        let raw = &self.text[from..self.at];
        // A number too large for an f64 is refused. Close to the edge, let serde_json say.
        let magnitude = whole_digits.saturating_add(exponent.parse().unwrap_or(match exponent {
            "" => 0,
            _ => usize::MAX,
        }));
        if magnitude > 300 && serde_json::from_str::<serde_json::Value>(raw).is_err() {
            return None;
        }
        Some(Value::Number(raw))
    }

    /// How many digits were taken.
    fn digits(&mut self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        rest.starts_with(word.as_bytes()).then(|| self.at += word.len())
    }

    /// Enters an object or array as the `depth`th of those around it, up to its first member.
    fn open(&mut self, bracket: u8, depth: u32) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.expect(bracket)?;
        self.skip_blanks();
        Some(())
    }

    /// Goes to the next member behind a comma, or leaves behind the closing bracket.
    fn another(&mut self, close: u8) -> Option<bool> {
        self.skip_blanks();
        if self.take(close) {
            return Some(false);
        }
        self.expect(b',')?;
        self.skip_blanks();
        Some(true)
    }

    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
            self.blanks += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }
}

/// Where, from `from` on, the next byte is that a JSON string cannot hold as it is: a quote, a
/// backslash or a control character. The end if there is none.
///
/// Eight bytes at a time: the high bit of a byte in `hits` is set where the byte is one of these.
/// A borrow can set it falsely, but only behind a true one, and the first is all that is asked for.
pub(super) fn next_special(bytes: &[u8], from: usize) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;

    let mut at = from;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let quotes = zeros(word ^ (ONES * u64::from(b'"')));
        let backslashes = zeros(word ^ (ONES * u64::from(b'\\')));
        let controls = word.wrapping_sub(ONES * 0x20) & !word;
        let hits = (quotes | backslashes | controls) & HIGH;
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..0x20);
    at + bytes[at..].iter().position(special).unwrap_or(bytes.len() - at)
}

/// The value of a string that [`Scanner::string`] took.
fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut pieces = raw.split('\\');
    out.push_str(pieces.next().unwrap_or_default());
    // The leading half of a pair, until the piece with the other half comes.
    let mut leading = 0;
    while let Some(piece) = pieces.next() {
        let Some(kind) = piece.chars().next() else {
            // Two backslashes: this piece lies between them, the next one has no escape of its own.
            out.push('\\');
            out.push_str(pieces.next().unwrap_or_default());
            continue;
        };
        let mut tail = &piece[1..];
        match kind {
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'u' => {
                let unit = tail.as_bytes().first_chunk().and_then(|hex| hex4(*hex)).unwrap_or(0);
                tail = &tail[4..];
                match unit {
                    0xd800..=0xdbff => leading = unit,
                    0xdc00..=0xdfff => {
                        let code = 0x1_0000 + ((leading & 0x3ff) << 10) + (unit & 0x3ff);
                        out.extend(char::from_u32(code));
                    }
                    _ => out.extend(char::from_u32(unit)),
                }
            }
            itself => out.push(itself),
        }
        out.push_str(tail);
    }
    out
}

fn hex4(digits: [u8; 4]) -> Option<u32> {
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

/// A value that [`Scanner::value`] took, without the white space between its tokens.
fn compact(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut scanner = Scanner { text: raw, at: 0, blanks: 0 };
    while let Some(byte) = scanner.peek() {
        let from = scanner.at;
        if byte == b'"' && scanner.string().is_some() {
            out.push_str(&raw[from..scanner.at]);
        } else {
            scanner.at += 1;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                out.push(char::from(byte));
            }
        }
    }
    out
}

/// As deep as `serde_json` goes.
const DEPTH_MAX: u32 = 127;
