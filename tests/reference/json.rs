//! A small JSON reader (RFC 8259) for one object on one line.
//!
//! The members of the outer object are told apart; nested values are checked and kept as written.

const DEPTH: usize = 127;

/// A value of the outer object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A string, its escapes resolved.
    Text(String),
    /// A number as written.
    Number(&'a str),
    /// An object, an array, `true`, `false` or `null`, as written.
    Other(&'a str),
}

/// The members of the object that `line` is, in the order written, doubled keys included; `None`
/// when it is anything else.
///
/// Decision: half a surrogate pair (`\ud800`) is no Unicode text, so such a line is no readable
/// object. RFC 8259 lets a reader set limits: objects and arrays lie at most 127 deep, and a number
/// is one that a double can hold.
pub(crate) fn object(line: &str) -> Option<Vec<(String, Value<'_>)>> {
    let mut reader = Reader { text: line, at: 0 };
    let mut members = Vec::new();
    reader.blank();
    reader.take(b'{')?;
    reader.blank();
    if reader.take(b'}').is_none() {
        loop {
            let key = reader.key()?;
            members.push((key, reader.value()?));
            reader.blank();
            if reader.take(b',').is_none() {
                reader.take(b'}')?;
                break;
            }
        }
    }
    reader.blank();
    (reader.at == line.len()).then_some(members)
}

/// A JSON value without the blanks between its tokens, otherwise as written: key order, number
/// spelling and escapes stay.
pub(crate) fn compact(value: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let keep = |c: &char| {
        let blank = matches!(c, ' ' | '\t' | '\n' | '\r');
        let keep = inside || !blank;
        if *c == '"' && !escaped {
            inside = !inside;
        }
        escaped = inside && *c == '\\' && !escaped;
        keep
    };
    value.chars().filter(keep).collect()
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn key(&mut self) -> Option<String> {
        self.blank();
        let key = self.string()?;
        self.blank();
        self.take(b':')?;
        Some(key)
    }

    fn value(&mut self) -> Option<Value<'a>> {
        self.blank();
        let start = self.at;
        Some(match self.peek()? {
            b'"' => Value::Text(self.string()?),
            b'-' | b'0'..=b'9' => Value::Number(self.number()?),
            _ => {
                self.nested()?;
                Value::Other(&self.text[start..self.at])
            }
        })
    }

    /// Steps over one value of any kind. `open` holds the brackets still to be closed.
    fn nested(&mut self) -> Option<()> {
        let mut open = Vec::new();
        loop {
            self.blank();
            match self.peek()? {
                bracket @ (b'{' | b'[') => {
                    let close = bracket + 2; // In ASCII `}` and `]` follow their partners by two.
                    self.at += 1;
                    self.blank();
                    if open.len() + 2 > DEPTH {
                        return None;
                    }
                    if self.take(close).is_none() {
                        open.push(close);
                        if close == b'}' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                b'"' => drop(self.string()?),
                b'-' | b'0'..=b'9' => drop(self.number()?),
                _ => self.word()?,
            }
            // A value has ended here; so may have what holds it.
            loop {
                let Some(close) = open.last().copied() else { return Some(()) };
                self.blank();
                if self.take(close).is_some() {
                    open.pop();
                    continue;
                }
                self.take(b',')?;
                if close == b'}' {
                    self.key()?;
                }
                break;
            }
        }
    }

    fn word(&mut self) -> Option<()> {
        let rest = &self.text[self.at..];
        let word = ["true", "false", "null"].into_iter().find(|w| rest.starts_with(w))?;
        self.at += word.len();
        Some(())
    }

    fn number(&mut self) -> Option<&'a str> {
        let start = self.at;
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let number = &self.text[start..self.at];
        number.parse::<f64>().is_ok_and(f64::is_finite).then_some(number)
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn string(&mut self) -> Option<String> {
        self.take(b'"')?;
        let mut out = String::new();
        loop {
            let c = self.text[self.at..].chars().next()?;
            self.at += c.len_utf8();
            match c {
                '"' => return Some(out),
                '\\' => out.push(self.escape()?),
                '\0'..='\x1f' => return None,
                _ => out.push(c),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.at += 1;
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.unit()?;
                if !(0xd800..0xdc00).contains(&unit) {
                    return char::from_u32(unit);
                }
                self.take(b'\\')?;
                self.take(b'u')?;
                let low = self.unit()?;
                if !(0xdc00..0xe000).contains(&low) {
                    return None;
                }
                char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00))?
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u32> {
        let hex = self.text.as_bytes().get(self.at..self.at + 4)?;
        self.at += 4;
        hex.iter().try_fold(0, |n, b| Some(n * 16 + char::from(*b).to_digit(16)?))
    }
}
