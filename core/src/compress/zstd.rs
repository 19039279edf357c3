//! F1 · Zstandard: one frame.
//!
//! ```text
//!   28 b5 2f fd | descriptor | [window] | [dictionary, 0-4] | [content size, 0-8]
//!   blocks: 3 bytes, little-endian: bit 0 last, bits 1-2 type, bits 3-23 size | bytes | ...
//!   [sum of the content, 4]
//!
//!   type    0 raw: `size` bytes      1 one byte, `size` times      2 packed: at most 128 KiB
//! ```
//!
//! Always true here: a frame is decompressed in one pass, straight to where it is read from. That
//! pass looks back into what it has written, so it needs **no window of its own**: a frame may ask for
//! any (Kafka's levels 20 to 22 ask for 32 to 128 MiB, and say so even in front of ten bytes), and
//! costs nothing for asking. What bounds the memory is the caller's limit. How much room to make is
//! found by walking the block headers first: frames that were written as streams, as Kafka's clients
//! do, do not say how much they hold.
//!
//! Source: RFC 8878, 3.1.1.

use ::zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound, get_error_name};

use super::{Codec, CompressionError};

/// On log text level 1 is four times as fast as Kafka's 3, for a tenth more bytes.
const LEVEL: i32 = 1;
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const BLOCK_MAX: usize = 128 << 10;
/// What the library returns when the content does not fit: minus `ZSTD_error_dstSize_tooSmall`, one
/// of the values that zstd_errors.h promises to keep.
const DESTINATION_TOO_SMALL: usize = 70_usize.wrapping_neg();

fn damaged(what: impl Into<Box<str>>) -> CompressionError {
    Codec::Zstd.damaged(what)
}

fn failed(code: usize) -> CompressionError {
    damaged(get_error_name(code))
}

pub(crate) struct Compressor {
    context: CCtx<'static>,
    packed: Vec<u8>,
}

impl Compressor {
    pub(super) fn new() -> Self {
        Self { context: CCtx::create(), packed: Vec::new() }
    }

    pub(super) fn compress(&mut self, section: &[u8]) -> Result<&[u8], CompressionError> {
        self.packed.clear();
        self.packed.reserve(compress_bound(section.len()));
        self.context.set_parameter(CParameter::CompressionLevel(LEVEL)).map_err(failed)?;
        self.context.compress2(&mut self.packed, section).map_err(failed)?;
        Ok(&self.packed)
    }
}

pub(crate) struct Decompressor {
    context: DCtx<'static>,
}

impl Decompressor {
    pub(super) fn new() -> Self {
        Self { context: DCtx::create() }
    }

    pub(super) fn decompress(
        &mut self,
        stream: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, CompressionError> {
        let too_large = CompressionError::TooLarge { codec: Codec::Zstd, limit };
        let frame = Frame::walk(stream)?;
        if frame.content_size.is_some_and(|size| size > limit as u64) {
            return Err(too_large);
        }
        if frame.length < stream.len() {
            return Err(damaged(format!("{} bytes follow its end", stream.len() - frame.length)));
        }
        out.clear();
        out.reserve_exact(frame.content_max.min(limit).max(1));
        match self.context.decompress(out, stream) {
            Ok(_) if out.len() > limit => Err(too_large),
            Ok(_) => Ok(out.len()),
            // Room was made for all that the blocks can hold, or for as much as is allowed.
            Err(DESTINATION_TOO_SMALL) if frame.content_max > limit => Err(too_large),
            Err(code) => Err(failed(code)),
        }
    }
}

/// What the headers of a frame tell without decompressing it.
struct Frame {
    /// How many bytes it takes.
    length: usize,
    /// What it says it holds.
    content_size: Option<u64>,
    /// No more than this can be in it.
    content_max: usize,
}

impl Frame {
    fn walk(stream: &[u8]) -> Result<Self, CompressionError> {
        let cut = || damaged("it ends within a frame");
        let rest = stream
            .strip_prefix(&MAGIC)
            .ok_or_else(|| damaged("it does not begin with a zstd frame"))?;
        let (&descriptor, rest) = rest.split_first().ok_or_else(cut)?;
        let single_segment = descriptor & 1 << 5 != 0;
        let window = usize::from(!single_segment);
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let size_len = match descriptor >> 6 {
            0 => usize::from(single_segment),
            flag => 1 << flag,
        };
        let rest = rest.get(window + dictionary..).ok_or_else(cut)?;
        let (size, mut rest) = rest.split_at_checked(size_len).ok_or_else(cut)?;
        let content_size = (size_len > 0).then(|| {
            let value = size.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            // Two bytes count from 256 on.
            if size_len == 2 { value + 256 } else { value }
        });
        let mut content_max = 0_usize;
        loop {
            let ([a, b, c], after) = rest.split_first_chunk().ok_or_else(cut)?;
            let header = u32::from_le_bytes([*a, *b, *c, 0]);
            let size = (header >> 3) as usize;
            let (length, holds) = match header >> 1 & 3 {
                0 => (size, size),
                1 => (1, size),
                2 => (size, BLOCK_MAX),
                _ => return Err(damaged("a block is of no known type")),
            };
            content_max = content_max.saturating_add(holds.min(BLOCK_MAX));
            rest = after.get(length..).ok_or_else(cut)?;
            if header & 1 != 0 {
                break;
            }
        }
        let sum = if descriptor & 1 << 2 != 0 { 4 } else { 0 };
        let rest = rest.get(sum..).ok_or_else(cut)?;
        if let Some(size) = content_size {
            content_max = content_max.min(usize::try_from(size).unwrap_or(usize::MAX));
        }
        Ok(Self { length: stream.len() - rest.len(), content_size, content_max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_size_or_window_makes_no_room_that_the_stream_cannot_fill() {
        // (descriptor and what follows it, blocks, limit, most bytes that may be reserved)
        let sized = |size: u64| [&[0xe0], &size.to_le_bytes()[..]].concat();
        let windowed = vec![0x00, 0xf8];
        let packed = |n: usize| [&[5 | 8 * 2, 0, 0][..], &vec![7; n]].concat();
        let cases = [
            (sized(u64::MAX - 1), packed(2), 1 << 20, 0),
            (sized(1 << 30), packed(2), 64 << 20, 0),
            (sized(60 << 20), packed(2), 64 << 20, BLOCK_MAX),
            (sized(1000), packed(2), 64 << 20, 1000),
            (windowed.clone(), packed(2), 64 << 20, BLOCK_MAX),
            (windowed, packed(1), 64 << 20, 0),
        ];
        for (header, blocks, limit, room) in cases {
            let frame = [&MAGIC[..], &header, &blocks].concat();
            let mut out = Vec::new();
            assert!(Decompressor::new().decompress(&frame, limit, &mut out).is_err());
            assert!(out.capacity() <= room, "{header:x?}: {}", out.capacity());
        }
    }
}
