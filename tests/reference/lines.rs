//! Bytes of a file -> lines, and which files are not read at all.
//!
//! ```text
//! ....line\r\n....line\n.....last        '\n' ends a line, one '\r' directly before it goes with it,
//! ^offset     ^offset   ^offset          the last line may have no '\n' (its '\r' goes all the same)
//! ```

/// Longer lines are cut to this many bytes.
pub(crate) const LINE_MAX: usize = 128 * 1024;
const LOOKED_AT: usize = 8 * 1024;

pub(crate) struct Line<'a> {
    /// Where the line begins, counted from the first byte given.
    pub(crate) offset: usize,
    /// Without its end, and cut.
    pub(crate) bytes: &'a [u8],
    pub(crate) cut: bool,
}

/// All lines, also empty ones, also a last one without a newline.
///
/// Decision: a `\r` at the end of a last line without `\n` is half of an end of line, and goes too. The
/// end of line is taken off before the length is judged, so 131,072 bytes and `\r\n` are
/// a whole line. A cut goes through a character where it must; the rest of it becomes U+FFFD.
pub(crate) fn split(bytes: &[u8]) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let found = bytes[start..].iter().position(|b| *b == b'\n');
        let (line, next) = match found {
            Some(n) => {
                let line = &bytes[start..start + n];
                (line.strip_suffix(b"\r").unwrap_or(line), start + n + 1)
            }
            None => {
                let line = &bytes[start..];
                (line.strip_suffix(b"\r").unwrap_or(line), bytes.len())
            }
        };
        let cut = line.len() > LINE_MAX;
        lines.push(Line { offset: start, bytes: if cut { &line[..LINE_MAX] } else { line }, cut });
        start = next;
    }
    lines
}

/// Why a file that begins with these bytes is named and skipped, if it is.
///
/// Decision: the contract says "a compression magic" without a list; these are gzip, zstd, xz, bzip2
/// and lz4 (frames).
pub(crate) fn skipped(bytes: &[u8]) -> Option<&'static str> {
    let magics: [(&[u8], &str); 5] = [
        (&[0x1f, 0x8b], "gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0x00], "xz"),
        (b"BZh", "bzip2"),
        (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    ];
    let magic = magics.iter().find(|(magic, _)| bytes.starts_with(magic));
    let binary = bytes.iter().take(LOOKED_AT).any(|b| *b == 0);
    magic.map(|(_, name)| *name).or(binary.then_some("binary"))
}
