//! How grave a line is: four levels, the words that name them, and what a message's own words say.

/// Levels of the contract. Lines of level `Debug` are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Debug,
    Info,
    Warn,
    Error,
}

impl Severity {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// The level a word names, in any case.
pub(crate) fn of_word(word: &str) -> Option<Severity> {
    Some(match word.to_ascii_lowercase().as_str() {
        "emerg" | "alert" | "crit" | "critical" | "fatal" | "panic" | "err" | "error" | "fail"
        | "failed" => Severity::Error,
        "warn" | "warning" => Severity::Warn,
        "notice" | "info" => Severity::Info,
        "debug" | "trace" => Severity::Debug,
        _ => return None,
    })
}

/// The level of syslog's `<PRI>` number.
pub(crate) fn of_pri(pri: u32) -> Severity {
    match pri % 8 {
        0..=3 => Severity::Error,
        4 => Severity::Warn,
        5 | 6 => Severity::Info,
        _ => Severity::Debug,
    }
}

/// What the message says when its format named no level: its first word if that is a level; else
/// the first word that means error or warn, wherever it stands; else info.
///
/// Decision: "letters, digits and `_`" are Unicode's (`char::is_alphanumeric`), so `Überfail` is
/// one word and no failure; the first word is the first such run, whatever stands before it
/// (`[ERROR] ..`).
pub(crate) fn of_message(message: &str) -> Severity {
    let mut words =
        message.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty());
    let first = words.next().and_then(of_word);
    let grave = || words.filter_map(of_word).find(|s| *s >= Severity::Warn);
    first.or_else(grave).unwrap_or(Severity::Info)
}
