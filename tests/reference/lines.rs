//! Bytes of a file -> lines, and which files are not read at all.
//!
//! ```text
//! ....line\r\n....line\n.....last      '\n' ends a line, one '\r' directly before it goes with it;
//! ^offset     ^offset   ^offset        so does the end of the file
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
/// Decisions: what stands before the newline is cut first, then one `\r` at its end goes, so
/// 131,072 bytes and `\r\n` count as cut although they lose nothing else. A last line without a
/// newline is taken as if it had come. A cut goes through a character where it must; its rest
/// becomes U+FFFD.
pub(crate) fn split(bytes: &[u8]) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let found = bytes[start..].iter().position(|b| *b == b'\n');
        let end = found.map_or(bytes.len(), |n| start + n);
        let whole = &bytes[start..end];
        let kept = &whole[..whole.len().min(LINE_MAX)];
        lines.push(Line {
            offset: start,
            bytes: kept.strip_suffix(b"\r").unwrap_or(kept),
            cut: kept.len() < whole.len(),
        });
        start = end + 1;
    }
    lines
}

/// Why a file that begins with these bytes is named and skipped, if it is.
///
/// Decision: the contract says "a compression magic" without a list; these are gzip, zstd, xz,
/// bzip2 and lz4 (frames).
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
