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

use super::swar;

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
            Self::String { raw, escaped } => Some(string(raw, escaped)),
            Self::Number(_) | Self::Other { .. } => None,
        }
    }

    /// A string's value, or the compact text of anything else.
    pub(super) fn text(&self) -> Cow<'a, str> {
        match *self {
            Self::String { raw, escaped } => string(raw, escaped),
            Self::Number(raw) | Self::Other { raw, blanks: false } => Cow::Borrowed(raw),
            Self::Other { raw, blanks: true } => Cow::Owned(compact(raw)),
        }
    }
}

fn string(raw: &str, escaped: bool) -> Cow<'_, str> {
    if escaped { Cow::Owned(unescape(raw)) } else { Cow::Borrowed(raw) }
}

/// Where a value stands in the text, quotes and all, and what it is.
///
/// Kept apart from [`Value`] because most members are never looked at: this much stays in
/// registers.
#[derive(Clone, Copy)]
pub(super) struct Token {
    from: usize,
    to: usize,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    String { escaped: bool },
    Number,
    Other { blanks: bool },
}

impl Token {
    /// The value in the text it was found in.
    pub(super) fn value(self, text: &str) -> Value<'_> {
        let Self { from, to, kind } = self;
        match kind {
            Kind::String { escaped } => Value::String { raw: &text[from + 1..to - 1], escaped },
            Kind::Number => Value::Number(&text[from..to]),
            Kind::Other { blanks } => Value::Other { raw: &text[from..to], blanks },
        }
    }

    /// The bytes of a string without escapes; `None` for everything else.
    #[inline]
    pub(super) fn plain_string(self, text: &str) -> Option<&[u8]> {
        match self.kind {
            Kind::String { escaped: false } => Some(&text.as_bytes()[self.from + 1..self.to - 1]),
            _ => None,
        }
    }
}

/// Gives every member of the object that `text` is to `member`, in order: its key, a string, and its
/// value. `None` if `text` is not one object, with blanks around it or not; members that came before
/// the flaw were given.
pub(super) fn object(text: &str, mut member: impl FnMut(Token, Token)) -> Option<()> {
    let mut scanner = Scanner { text, at: 0, blanks: 0 };
    scanner.skip_blanks();
    scanner.members(1, &mut member)?;
    scanner.skip_blanks();
    (scanner.at == text.len()).then_some(())
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// How many bytes of white space were skipped so far.
    blanks: usize,
}

impl Scanner<'_> {
    fn members(&mut self, depth: u32, member: &mut impl FnMut(Token, Token)) -> Option<()> {
        self.open(b'{', depth)?;
        if self.take(b'}') {
            return Some(());
        }
        loop {
            let from = self.at;
            let kind = Kind::String { escaped: self.string()? };
            let key = Token { from, to: self.at, kind };
            self.skip_blanks();
            self.expect(b':')?;
            self.skip_blanks();
            let from = self.at;
            let kind = self.value(depth)?;
            member(key, Token { from, to: self.at, kind });
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

    /// Takes a value inside `depth` objects and arrays.
    fn value(&mut self, depth: u32) -> Option<Kind> {
        let blanks = self.blanks;
        match self.peek()? {
            b'"' => return self.string().map(|escaped| Kind::String { escaped }),
            b'-' | b'0'..=b'9' => return self.number(),
            b'{' => self.members(depth + 1, &mut |_, _| ())?,
            b'[' => self.elements(depth + 1)?,
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            _ => return None,
        }
        Some(Kind::Other { blanks: self.blanks > blanks })
    }

    /// Takes a string with its quotes, and says whether there are escapes in it.
    #[inline]
    fn string(&mut self) -> Option<bool> {
        self.expect(b'"')?;
        let mut escaped = false;
        loop {
            self.at = swar::next_special(self.text.as_bytes(), self.at);
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(escaped);
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

    fn number(&mut self) -> Option<Kind> {
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
        let mut large = whole_digits > 300;
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            if self.digits() == 0 {
                return None;
            }
            large = true;
        }
        // A number too large for an f64 is refused. Where that can be, let serde_json say.
        if large {
            serde_json::from_str::<serde_json::Value>(&self.text[from..self.at]).ok()?;
        }
        Some(Kind::Number)
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
    #[inline]
    fn another(&mut self, close: u8) -> Option<bool> {
        self.skip_blanks();
        let byte = self.peek()?;
        if byte != b',' && byte != close {
            return None;
        }
        self.at += 1;
        if byte == close {
            return Some(false);
        }
        self.skip_blanks();
        Some(true)
    }

    #[inline]
    fn skip_blanks(&mut self) {
        if self.peek().is_some_and(|byte| byte <= b' ') {
            self.skip_some_blanks();
        }
    }

    fn skip_some_blanks(&mut self) {
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
