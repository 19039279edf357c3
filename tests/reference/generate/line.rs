//! Single lines from a seed, of each format, in the spellings that are met in the wild.
//!
//! [`Lines::line`] keeps to shapes whose meaning the contract fixes. [`Lines::any`] also breaks
//! lines at random, for comparing two readers of the contract with each other; [`TWO_READINGS`]
//! lists shapes that two honest builders may read in two ways.

use super::super::random::Random;
use super::super::time::{self, Civil};

pub(crate) const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Syslog,
    Iso,
    Raw,
    Broken,
}

impl Kind {
    /// A third each of the formats with a time, now and then something else.
    pub(crate) fn any(random: &mut Random) -> Self {
        match random.below(30) {
            0 | 1 => Self::Raw,
            2 => Self::Broken,
            n => [Self::Json, Self::Syslog, Self::Iso][n % 3],
        }
    }
}

/// Lines of one file: a clock that mostly moves forward, and a source of chance.
pub(crate) struct Lines {
    random: Random,
    clock: i64,
}

impl Lines {
    pub(crate) fn new(random: Random, clock: i64) -> Self {
        Self { random, clock }
    }

    /// One line without its end.
    pub(crate) fn line(&mut self, kind: Kind) -> Vec<u8> {
        self.clock += self.random.between(-4_000, 9_000);
        let line = match kind {
            Kind::Json => self.json(),
            Kind::Syslog => self.syslog(),
            Kind::Iso => self.iso(),
            Kind::Raw => self.raw(),
            Kind::Broken => self.broken(),
        };
        if self.random.one_in(25) { self.spoilt(line.into_bytes()) } else { line.into_bytes() }
    }

    /// One line of any kind, or a list's shape with two readings, or either with random damage.
    pub(crate) fn any(&mut self) -> Vec<u8> {
        let mut line = if self.random.one_in(8) {
            TWO_READINGS[self.random.below(TWO_READINGS.len())].0.to_vec()
        } else {
            let kind = Kind::any(&mut self.random);
            self.line(kind)
        };
        for _ in 0..self.random.below(4) {
            let at = self.random.below(line.len() + 1);
            let bytes = b" :[]<>{}\",.-+TZz/\\\t\r0159ade_u\x7f\xc3\xff";
            let byte = bytes[self.random.below(bytes.len())];
            match self.random.below(4) {
                0 => line.insert(at, byte),
                1 if at < line.len() => line[at] = byte,
                2 if at < line.len() => drop(line.remove(at)),
                _ => {
                    let end = (at + self.random.below(12)).min(line.len());
                    let again = line[at..end].to_vec();
                    line.splice(at..at, again);
                }
            }
        }
        line
    }

    /// Somewhere within the hour around the file's clock; rarely at the ends of the calendar.
    fn moment(&mut self) -> i64 {
        match self.random.below(300) {
            0 => -62_135_596_800_000 + self.random.between(0, 200_000), // Year 1.
            1 => 253_402_300_799_999 - self.random.between(0, 200_000), // Year 9999.
            2 => self.random.between(-90_000, 90_000),                  // Around 1970.
            3..=60 => self.clock + self.random.between(-1_500_000, 1_500_000),
            _ => self.clock,
        }
    }

    fn json(&mut self) -> String {
        let mut members = vec![self.json_time()];
        if !self.random.one_in(6) {
            let (key, text) = (self.pick(&["program", "app", "service", "logger"]), self.program());
            let text = self.quoted(text);
            members.push((key, text));
        }
        if !self.random.one_in(4) {
            let word = self.pick(&[
                "info", "INFO", "Notice", "warn", "WARNING", "error", "ERR", "Critical", "fatal",
                "emerg", "debug", "Trace", "unknown", "",
            ]);
            let value = match self.random.below(8) {
                0 => "30".to_owned(),
                1 => "null".to_owned(),
                _ => self.quoted(word),
            };
            members.push((self.pick(&["severity", "level"]), value));
        }
        if !self.random.one_in(8) {
            let value = self.json_message();
            members.push((self.pick(&["message", "msg"]), value));
        }
        for key in ["pid", "ctx", "Time", "messages"] {
            if self.random.one_in(4) {
                members.push((key, self.nested(2)));
            }
        }
        for n in (1..members.len()).rev() {
            members.swap(n, self.random.below(n + 1));
        }
        let mut out = self.pick(&["", "", "", " ", "\t "]).to_owned() + "{";
        for (n, (key, value)) in members.iter().enumerate() {
            let key = if self.random.one_in(30) {
                format!("\"\\u{:04x}{}\"", u32::from(key.as_bytes()[0]), &key[1..])
            } else {
                format!("\"{key}\"")
            };
            let (comma, blank) =
                (if n > 0 { "," } else { "" }, self.pick(&["", "", " ", "  ", "\t"]));
            out += &format!("{comma}{blank}{key}:{blank}{value}{blank}");
        }
        out + "}" + self.pick(&["", "", "", " "])
    }

    /// One key with a usable time; sometimes an earlier key beside it cannot be used.
    fn json_time(&mut self) -> (&'static str, String) {
        let ms = self.moment();
        let key = self.pick(&["time", "timestamp", "ts", "@timestamp"]);
        let digits = self.random.next() % 1_000_000;
        let usual = ms >= 100_000_000_000; // Then each unit is told by its size.
        let value = match self.random.below(8) {
            0 if usual => format!("{}", ms / 1000),
            1 if usual => format!("{}.{:03}", ms / 1000, ms % 1000),
            2 if usual => format!("{}.{:03}{digits:06}", ms / 1000, ms % 1000),
            3 if usual && ms < 100_000_000_000_000 => format!("{ms}"),
            4 if usual && ms < 100_000_000_000_000 => format!("{ms}{:03}", digits % 1000),
            5 if usual && ms < 9_000_000_000_000 => format!("{ms}{digits:06}"),
            _ => format!("\"{}\"", self.rfc3339(ms)),
        };
        if self.random.one_in(12) && key == "@timestamp" {
            let bad = self.pick(&["null", "\"yesterday\"", "\"2024-02-30T00:00:00Z\"", "[1]"]);
            return ("ts", format!("{bad},\"@timestamp\":{value}"));
        }
        (key, value)
    }

    fn json_message(&mut self) -> String {
        match self.random.below(10) {
            0 => self.nested(3),
            1 => format!("{}", self.random.below(100_000)),
            2 => self.pick(&["true", "[]", "{ }", "\"\""]).to_owned(),
            _ => {
                let mut text = self.message();
                if self.random.one_in(10) {
                    text.push_str(self.pick(&[
                        "\n  at main (app.rs:7)",
                        "\0",
                        "\u{1b}[31m",
                        "\r\n",
                    ]));
                }
                self.quoted(&text)
            }
        }
    }

    /// A nested value with blanks in it, in spellings that every JSON writer would choose.
    fn nested(&mut self, depth: usize) -> String {
        if depth == 0 || self.random.one_in(4) {
            return self
                .pick(&["1", "-20", "true", "null", "\"a b\"", "\"x\\\"y \\\\\"", "\"é {,}\""])
                .to_owned();
        }
        let blank = self.pick(&["", " ", " \t"]);
        let values = (0..self.random.below(4)).map(|n| {
            let value = self.nested(depth - 1);
            (self.pick(&["zeta", "a", "mid dle", "é"]), n, value)
        });
        let values: Vec<_> = values.collect();
        let text = |open: &str, close: &str, one: &dyn Fn(&(&str, usize, String)) -> String| {
            let all: Vec<_> = values.iter().map(one).collect();
            format!("{open}{blank}{}{blank}{close}", all.join(&format!("{blank},{blank}")))
        };
        if depth % 2 == 1 {
            text("{", "}", &|(key, n, value)| format!("\"{key}{n}\"{blank}:{blank}{value}"))
        } else {
            text("[", "]", &|(_, _, value)| value.clone())
        }
    }

    fn syslog(&mut self) -> String {
        let c = Civil::of(self.clock + self.random.between(-1_500_000, 1_500_000));
        let pri = if self.random.one_in(2) {
            format!("<{}>", self.random.below(192))
        } else {
            String::new()
        };
        let day = match self.random.below(3) {
            0 => format!("{:2}", c.day),
            1 => format!("{:02}", c.day),
            _ => format!("{}", c.day),
        };
        let second = if self.random.one_in(60) { 60 } else { c.second };
        let (month, tail) = (MONTHS[c.month as usize - 1], self.tail());
        format!("{pri}{month} {day} {:02}:{:02}:{second:02} {tail}", c.hour, c.minute)
    }

    fn iso(&mut self) -> String {
        let ms = self.moment();
        // Zones would carry the ends of the calendar over it.
        let inside = (-60_000_000_000_000..=250_000_000_000_000).contains(&ms);
        let zone = if inside { self.zone() } else { 0 };
        let c = Civil::of(ms + zone * 60_000);
        let second = if self.random.one_in(80) { 60 } else { c.second };
        let point = self.pick(&[".", ","]);
        let fraction = match self.random.below(5) {
            0 => String::new(),
            1 => format!("{point}{}", c.millis / 100),
            2 => format!("{point}{:03}{:06}", c.millis, self.random.below(1_000_000)),
            _ => format!("{point}{:03}", c.millis),
        };
        let colon = self.pick(&["", ":"]);
        let zone = match zone {
            0 => self.pick(&["", "Z", "+00:00", "-0000"]).to_owned(),
            m => {
                let sign = if m < 0 { '-' } else { '+' };
                format!("{sign}{:02}{colon}{:02}", m.abs() / 60, m.abs() % 60)
            }
        };
        let t = self.pick(&["T", " "]);
        let rest = match self.random.below(6) {
            0 => format!(" {}", self.message()),
            1 => format!("  {}", self.message()),
            2 => format!(" [{}] {}", self.pick(&["main", "worker-3"]), self.message()),
            3 if self.random.one_in(4) => String::new(),
            _ => format!(" {}", self.tail()),
        };
        let (year, month, day) = (c.year, c.month, c.day);
        let (hour, minute) = (c.hour, c.minute);
        format!(
            "{year:04}-{month:02}-{day:02}{t}{hour:02}:{minute:02}:{second:02}{fraction}{zone}{rest}"
        )
    }

    /// `host tag[pid]: text`.
    fn tail(&mut self) -> String {
        let host = self.pick(&["web1", "10.0.0.7", "db-2.example.org", "_", "-"]);
        let (tag, pid) = (self.program(), self.random.below(70_000));
        let pid = if self.random.one_in(3) { String::new() } else { format!("[{pid}]") };
        match self.random.below(30) {
            0 => format!("{host} {tag}{pid}:"),
            1 => format!("{host} {tag}{pid}:    {}", self.message()),
            _ => format!("{host} {tag}{pid}: {}", self.message()),
        }
    }

    fn raw(&mut self) -> String {
        let text = self.message();
        match self.random.below(6) {
            0 => format!("\tat com.example.Main({text}:12)"),
            1 => format!("    {text}"),
            2 => format!("[1, 2, \"{text}\"]"),
            3 => format!("### {text}"),
            _ => text,
        }
    }

    /// Almost one of the formats, and by the contract none of them, or another.
    fn broken(&mut self) -> String {
        let text = self.message();
        let shape = self.pick(&[
            "2024-02-30T10:00:00Z host app[1]: @",
            "2023-02-29 10:00:00 @",
            "2024-13-01T10:00:00Z @",
            "2024-01-01T24:00:00Z @",
            "2024-01-01T10:60:00Z @",
            "2024-01-01T10:00:61Z @",
            "0000-01-01T00:00:00Z @",
            "2024-1-01T10:00:00Z @",
            "24-01-01T10:00:00Z @",
            "Feb 30 10:00:00 web1 sshd[1]: @",
            "Apr 31 10:00:00 web1 sshd[1]: @",
            "Jan  0 10:00:00 web1 sshd[1]: @",
            "Jan  5 25:00:00 web1 sshd[1]: @",
            "Foo  5 10:00:00 web1 sshd[1]: @",
            "Jan  5 10:00 web1 sshd[1]: @",
            "<192>Jan  5 10:00:00 web1 sshd[1]: @",
            "<>Jan  5 10:00:00 web1 sshd[1]: @",
            "<13Jan  5 10:00:00 web1 sshd[1]: @",
            "Jan  5 10:00:00 web1 last message repeated",
            "{\"time\":\"2024-01-01T00:00:00Z\",\"msg\":\"@\"",
            "{\"time\":1700000000,}",
            "{\"time\":1700000000} {}",
            "[{\"time\":1700000000,\"msg\":\"x\"}]",
            "{'time':1700000000,'msg':'x'}",
            "{\"time\":01700000000}",
            "\"just a string\"",
            "{\"time\":1700000000,\"msg\":\"tab\there\"}",
            "{\"time\":1e30,\"msg\":\"far\"}",
            "{\"time\":1700000000,\"msg\":\"\\x41\"}",
            "{",
            "}",
            "{}",
            "[]",
            "null",
            "17",
            "<13>",
        ]);
        shape.replace('@', &text)
    }

    fn message(&mut self) -> String {
        let words = [
            "connection",
            "accepted",
            "user=42",
            "error",
            "Failed",
            "ERR:",
            "Warning",
            "warn",
            "debugging",
            "errors",
            "fail_over",
            "timeout",
            "naïve",
            "日本語",
            "😀",
            "path=/a/b",
            "\"quoted\"",
            "back\\slash",
            "100%",
            "(warn)",
            "non-error",
            "TRACE",
            "debug",
            "info",
            "x7",
            "panic!",
            "ok",
        ];
        let count = 1 + self.random.below(9);
        let first = match self.random.below(25) {
            0 => "DEBUG ",
            1 => "[error] ",
            2 => "info: ",
            3 => "NOTICE ",
            _ => "",
        };
        let words: Vec<&str> = (0..count).map(|_| self.random.pick(&words)).collect();
        format!("{first}{} {}", words.join(" "), self.random.below(1_000_000))
    }

    fn program(&mut self) -> &'static str {
        self.pick(&[
            "sshd",
            "CRON",
            "kernel",
            "systemd-logind",
            "postfix/smtpd",
            "org.gnome.Shell",
            "api_v2",
        ])
    }

    fn zone(&mut self) -> i64 {
        [0, 0, 0, 60, -300, 330, -30, 845, -720][self.random.below(9)]
    }

    fn rfc3339(&mut self, ms: i64) -> String {
        let inside = (-60_000_000_000_000..=250_000_000_000_000).contains(&ms);
        let minutes = if inside { self.zone() } else { 0 };
        let text = time::show(ms + minutes * 60_000);
        let (seconds, millis) = (&text[..19], &text[20..23]);
        let fraction = match self.random.below(5) {
            0 => String::new(),
            1 => format!(".{}", &millis[..1]),
            2 => format!(".{millis}{:03}", self.random.below(1000)),
            3 => format!(".{millis}{:06}", self.random.below(1_000_000)),
            _ => format!(".{millis}"),
        };
        let zone = match minutes {
            0 => self.pick(&["Z", "Z", "+00:00", "-00:00"]).to_owned(),
            m => {
                let sign = if m < 0 { '-' } else { '+' };
                format!("{sign}{:02}:{:02}", m.abs() / 60, m.abs() % 60)
            }
        };
        format!("{seconds}{fraction}{zone}")
    }

    /// A JSON string; what need not be escaped sometimes is.
    fn quoted(&mut self, text: &str) -> String {
        let mut out = String::from("\"");
        for c in text.chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '/' if self.random.one_in(3) => out.push_str("\\/"),
                _ if c < ' ' || self.random.one_in(40) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        out.push_str(&format!("\\u{unit:04X}"));
                    }
                }
                _ => out.push(c),
            }
        }
        out + "\""
    }

    /// Bytes that are no UTF-8 somewhere in the second half of the line.
    fn spoilt(&mut self, mut line: Vec<u8>) -> Vec<u8> {
        let bad = self.random.pick(&[
            &b"\xff"[..],
            b"\xc3",
            b"\xe2\x82",
            b"\xf0\x9f\x98",
            b"\xed\xa0\x80",
            b"\xc0\xaf",
            b"\x80\x80",
        ]);
        let half = line.len() / 2;
        let at = half + self.random.below(line.len() - half + 1);
        line.splice(at..at, bad.iter().copied());
        line
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.random.below(from.len())]
    }
}

/// Lines that two honest builders may read in two ways, and how the reference reads them.
pub(crate) const TWO_READINGS: &[(&[u8], &str)] = &[
    (b"{\"msg\":\"no time\"}", "raw: only raw lines have no time of their own"),
    (b"{\"time\":\"2024-01-01T10:00:00\",\"msg\":\"x\"}", "raw: without a zone it is no RFC 3339"),
    (
        b"{\"time\":\"2024-01-01 10:00:00z\",\"msg\":\"x\"}",
        "json: RFC 3339 allows space and small z",
    ),
    (b"{\"time\":\"1700000000\",\"msg\":\"x\"}", "raw: a string of digits is neither kind of time"),
    (
        b"{\"time\":\"2024-02-30T00:00:00Z\",\"ts\":1700000000,\"msg\":\"x\"}",
        "json: the next key is usable",
    ),
    (b"{\"time\":-5,\"msg\":\"x\"}", "json: seconds before 1970"),
    (b"{\"time\":-1.9999,\"msg\":\"x\"}", "json: digits are cut towards zero, -1.999"),
    (b"{\"time\":1.7e9,\"msg\":\"x\"}", "json: an exponent moves the point, exactly"),
    (b"{\"time\":1700000000000.9,\"msg\":\"x\"}", "json: milliseconds, the rest is cut"),
    (b"{\"ts\":1700000000,\"msg\":null}", "json: null is no string, so compact JSON"),
    (b"{\"ts\":1700000000,\"msg\":\"a\",\"msg\":\"b\"}", "json: of a doubled key the last"),
    (b"{\"ts\":1700000000,\"message\":\"\",\"msg\":\"b\"}", "json: an empty string is a message"),
    (b"{\"ts\":1700000000,\"program\":\"\",\"app\":\"b\"}", "json: an empty program is not usable"),
    (b"{\"ts\":1700000000,\"program\":7,\"msg\":\"x\"}", "json: a number is no program"),
    (
        b"{\"ts\":1700000000,\"severity\":\"odd\",\"level\":\"error\"}",
        "json: the known word is usable",
    ),
    (b"{\"ts\":1700000000,\"level\":\" error\",\"msg\":\"x\"}", "json: words are not trimmed"),
    (b"{\"ts\":1700000000,\"msg\":{\"z\":1.50,\"a\":\"\\u0041\"}}", "json: compact as written"),
    (b"{\"ts\":1700000000,\"msg\":\"\\ud800\"}", "raw: half a surrogate pair is no text"),
    (b"{\"ts\":1700000000,\"other\":\"\\ud800\"}", "raw: nor in a value that is not used"),
    (b"\xef\xbb\xbf{\"ts\":1700000000}", "raw: a byte order mark is not JSON's blank"),
    (b"Jan  5 10:00:00 h app:text", "raw: the word with the colon ends the tag"),
    (b"Jan  5 10:00:00 h app[worker-1]: x", "syslog: a pid is what stands in brackets"),
    (b"Jan  5 10:00:00  h app: x", "raw: one space between the parts"),
    (b"Jan   5 10:00:00 h app: x", "raw: at most one space pads the day"),
    (b"Jan  15 10:00:00 h app: x", "raw: a day of two digits is not padded"),
    (b"Jan  5 10:00:00.123 h app: x", "raw: syslog's time has no fraction"),
    (b"jan  5 10:00:00 h app: x", "raw: months are written Mmm"),
    (b"<007>Jan  5 10:00:00 h app: x", "syslog: leading zeros, 7 is debug, dropped"),
    (b"<0013>Jan  5 10:00:00 h app: x", "raw: PRI has at most three digits"),
    (b"Feb 29 10:00:00 h app: x", "syslog: the latest leap year"),
    (b"Jan  5 10:00:00 h app[]: x", "syslog: even nothing"),
    (b"Jan  5 10:00:00 h a[b]c[7]: x", "syslog: tag a[b]c"),
    (b"Jan  5 10:00:00 h [7]: x", "raw: a tag has a name"),
    (b"Jan  5 10:00:00 h a::b: x", "syslog: tag a::b"),
    (b"<192>Jan  5 10:00:00 h app: x", "syslog: above 191, modulo 8 all the same"),
    (b"Jan  5 10:00:00 h a b: x", "raw: no tag"),
    (b"2024-01-01t10:00:00z x", "raw: ISO has T or space, and Z"),
    (b"2024-01-01T10:00:00+25:00 x", "raw: no clock has this zone"),
    (b"2024-01-01T10:00:00+01 x", "iso: no zone, message +01 x"),
    (b"2024-01-01T10:00:00x", "iso: nothing is demanded after the time"),
    (b"2024-01-01T10:00:00. x", "iso: no fraction, message . x"),
    (b"2024-01-01 10:00:00 +0100 x", "iso: a zone stands directly behind the time"),
    (b"2024-01-01 10:00:00-0500 x", "iso: a zone"),
    (b"2024-01-01T10:00:00Z error: oops: x", "iso: a host does not end in a colon, so no tag"),
    (b"2024-01-01T10:00:00Z request took: 5ms", "iso: host request, tag took"),
    (b"2024-01-01T10:00:00Z  h app: x", "iso: one space before the host, so no tag"),
    (b"2024-01-01T10:00:00Z \tx", "iso: spaces are removed, a tab stays"),
    (b"9999-12-31T23:30:00-01:00 x", "raw: its year in UTC is 10000"),
    (b"  leading", "raw: the message keeps its spaces"),
    (b"\xc3\xbcerror ok", "raw: one word of Unicode letters, info"),
    (b"2024-01-01T10:00:00Z", "iso: an empty message is not an empty line"),
];
