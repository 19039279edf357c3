//! Lines of standard input, in chunks: a thread reads ahead, the command takes whole lines.
//!
//! ```text
//!   read -> [ line \n line \n li ]      the chunk goes over up to its last newline,
//!                          '-> [ li ]   what is left begins the next one
//! ```
//!
//! Always true here: a line's bytes are moved once, into their batch, and, of the last line of a
//! chunk, once more; memory is bounded: two chunks ahead, and no line longer than [`LINE_MAX`] is
//! kept; the last line needs no newline.

use std::io::{self, Read};
use std::thread;

use tokio::sync::mpsc;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 512 << 10;
/// The longest line that is kept: as much as the records of a batch may decompress to.
pub(crate) const LINE_MAX: usize = 64 << 20;
/// Chunks that wait.
const AHEAD: usize = 2;

/// What comes from standard input.
pub(crate) enum Input {
    /// Whole lines, each with its newline but perhaps the last one of the input.
    Lines(Vec<u8>),
    /// A line longer than [`LINE_MAX`]; it was passed over.
    TooLong,
    /// Reading failed.
    Failed(io::Error),
}

/// Begins to read.
pub(crate) fn open() -> io::Result<mpsc::Receiver<Input>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let read = move || {
        if let Err(e) =
            read(&mut io::stdin().lock(), &mut |input| sender.blocking_send(input).is_ok())
        {
            // Nobody takes it: the command ended.
            sender.blocking_send(Input::Failed(e)).ok();
        }
    };
    thread::Builder::new().name("standard input".to_owned()).spawn(read)?;
    Ok(receiver)
}

/// Reads to the end, or until `send` says that nobody listens.
fn read(from: &mut impl Read, send: &mut impl FnMut(Input) -> bool) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut filled = 0;
    let mut passing_over = false;
    loop {
        if filled == chunk.len() {
            if filled >= LINE_MAX {
                // What is there belongs to a line whose rest is still to come.
                passing_over = true;
                filled = 0;
            } else {
                chunk.resize(filled * 2, 0);
            }
        }
        let got = match from.read(&mut chunk[filled..]) {
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if got == 0 {
            break;
        }
        let fresh = filled;
        filled += got;
        if passing_over {
            let Some(end) = memchr::memchr(b'\n', &chunk[..filled]) else {
                filled = 0;
                continue;
            };
            passing_over = false;
            chunk.copy_within(end + 1..filled, 0);
            filled -= end + 1;
            if !send(Input::TooLong) {
                return Ok(());
            }
            if memchr::memrchr(b'\n', &chunk[..filled]).is_none() {
                continue;
            }
        }
        let searched = if fresh < filled { fresh } else { 0 };
        let Some(last) = memchr::memrchr(b'\n', &chunk[searched..filled]) else { continue };
        let whole = searched + last + 1;
        let rest = &chunk[whole..filled];
        let mut next = vec![0; CHUNK_BYTES.max(rest.len() * 2)];
        next[..rest.len()].copy_from_slice(rest);
        filled = rest.len();
        chunk.truncate(whole);
        if !send(Input::Lines(std::mem::replace(&mut chunk, next))) {
            return Ok(());
        }
    }
    if passing_over {
        send(Input::TooLong);
    } else if filled > 0 {
        chunk.truncate(filled);
        send(Input::Lines(chunk));
    }
    Ok(())
}

/// The lines of a chunk, without their newlines.
pub(crate) fn lines(chunk: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', chunk);
    let last = (!chunk.ends_with(b"\n") && !chunk.is_empty()).then_some(chunk.len());
    ends.chain(last).map(move |end| {
        let line = &chunk[start..end];
        start = end + 1;
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives out its bytes in pieces of the lengths given, over and over.
    struct Pieces<'a>(&'a [u8], std::iter::Cycle<std::slice::Iter<'a, usize>>);

    impl Read for Pieces<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let len = self.1.next().copied().unwrap_or(1).min(self.0.len()).min(to.len());
            to[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn read_all(bytes: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, usize) {
        let (mut all, mut too_long) = (Vec::new(), 0);
        let mut take = |input| {
            match input {
                Input::Lines(chunk) => all.extend(lines(&chunk).map(<[u8]>::to_vec)),
                Input::TooLong => too_long += 1,
                Input::Failed(e) => panic!("{e}"),
            }
            true
        };
        read(&mut Pieces(bytes, pieces.iter().cycle()), &mut take).expect("pieces can be read");
        (all, too_long)
    }

    #[test]
    fn lines_do_not_depend_on_how_they_arrive() {
        let mut long = vec![b'x'; 3 * CHUNK_BYTES];
        long.extend_from_slice(b"\n\nend");
        for text in [&b""[..], b"\n", b"a", b"a\n", b"a\n\nb\r\nc", b"\n\n\n", &long] {
            let mut wanted: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
            if text.is_empty() || text.ends_with(b"\n") {
                wanted.pop();
            }
            for pieces in [&[usize::MAX][..], &[1, 2, 3], &[7], &[CHUNK_BYTES - 1, 2]] {
                if text.len() > CHUNK_BYTES && pieces.len() == 3 {
                    continue;
                }
                assert_eq!(
                    read_all(text, pieces),
                    (wanted.iter().map(|l| l.to_vec()).collect(), 0)
                );
            }
        }
    }

    #[test]
    fn a_line_beyond_the_limit_is_passed_over_and_told() {
        let mut text = b"first\n".to_vec();
        text.resize(LINE_MAX * 2 + 100, b'x');
        text.extend_from_slice(b"\nsecond\nthird");
        let wanted = vec![b"first".to_vec(), b"second".to_vec(), b"third".to_vec()];
        assert_eq!(read_all(&text, &[usize::MAX]), (wanted, 1));
        text.truncate(LINE_MAX * 2 + 50);
        assert_eq!(read_all(&text, &[usize::MAX]), (vec![b"first".to_vec()], 1));
    }
}
