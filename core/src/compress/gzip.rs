//! F1 · gzip: one member, as Java's `GZIPOutputStream` writes it.
//!
//! ```text
//!   1f 8b 08 | flags | time, 4 | extra flags | system | [extra] [name] [comment] [sum of these]
//!   raw deflate
//!   CRC-32 of the content, little-endian | its length modulo 2^32, little-endian
//! ```
//!
//! Always true here: the content's sum and length are checked; the inflater's tables are made once and
//! used again, which is why the header is read here and not by the library.
//!
//! Source: RFC 1952.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Codec, CompressionError};

const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// No flags, no time, no hint, unknown system: Java's ten bytes.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
const HEADER_SUM: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;
const TRAILER_LEN: usize = 8;
/// Deflate stores at most 258 bytes in two bits.
const RATIO_MAX: usize = 1032;
/// What is added when a member holds more than its trailer says.
const MORE: usize = 64 << 10;

fn damaged(what: impl Into<Box<str>>) -> CompressionError {
    Codec::Gzip.damaged(what)
}

pub(crate) struct Compressor {
    deflate: Compress,
    packed: Vec<u8>,
}

impl Compressor {
    pub(super) fn new() -> Self {
        // Level 6, the default of zlib and of Kafka's clients.
        Self { deflate: Compress::new(Compression::default(), false), packed: Vec::new() }
    }

    pub(super) fn compress(&mut self, section: &[u8]) -> Result<&[u8], CompressionError> {
        self.deflate.reset();
        self.packed.clear();
        // Stored blocks of up to 64 KiB are the worst there is: five bytes each.
        let bound = section.len() + section.len() / 1000 + 64;
        self.packed.reserve(HEADER.len() + bound + TRAILER_LEN);
        self.packed.extend_from_slice(&HEADER);
        loop {
            let rest = &section[self.deflate.total_in() as usize..];
            let status = self
                .deflate
                .compress_vec(rest, &mut self.packed, FlushCompress::Finish)
                .map_err(|e| damaged(e.to_string()))?;
            if status == Status::StreamEnd {
                break;
            }
            self.packed.reserve(MORE);
        }
        let sum = crc_fast::crc32_iso_hdlc(section);
        self.packed.extend_from_slice(&sum.to_le_bytes());
        self.packed.extend_from_slice(&(section.len() as u32).to_le_bytes());
        Ok(&self.packed)
    }
}

pub(crate) struct Decompressor {
    inflate: Decompress,
}

impl Decompressor {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new(false) }
    }

    pub(super) fn decompress(
        &mut self,
        stream: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, CompressionError> {
        let too_large = CompressionError::TooLarge { codec: Codec::Gzip, limit };
        let body = after_header(stream)?;
        let (body, trailer) =
            body.split_last_chunk::<TRAILER_LEN>().ok_or_else(|| damaged("it has no trailer"))?;
        let (sum, length) = trailer.split_at(4);
        let sum = u32::from_le_bytes(*sum.first_chunk().expect("four of the eight bytes"));
        let length = u32::from_le_bytes(*length.first_chunk().expect("the other four"));
        out.clear();
        // What the trailer says is believed when the content was seen to agree; until then it only
        // makes room.
        let room = (length as usize).min(body.len().saturating_mul(RATIO_MAX)).min(limit);
        out.reserve(room.max(1));
        self.inflate.reset(false);
        loop {
            let (taken, filled) = (self.inflate.total_in() as usize, out.len());
            let status = self
                .inflate
                .decompress_vec(&body[taken..], out, FlushDecompress::None)
                .map_err(|e| damaged(e.to_string()))?;
            if out.len() > limit {
                return Err(too_large);
            }
            if status == Status::StreamEnd {
                break;
            }
            if out.len() == out.capacity() {
                // One more byte than the limit tells a stream that ends there from a longer one.
                out.reserve_exact(out.len().max(MORE).min(limit + 1 - out.len()));
            } else if out.len() == filled && self.inflate.total_in() as usize == taken {
                return Err(damaged("it ends within its content"));
            }
        }
        let left = body.len() - self.inflate.total_in() as usize;
        if left > 0 {
            return Err(damaged(format!("{left} bytes follow its end")));
        }
        if out.len() as u32 != length || crc_fast::crc32_iso_hdlc(out) != sum {
            return Err(damaged("its content is not what its trailer says"));
        }
        Ok(out.len())
    }
}

/// What follows the header of a member.
fn after_header(stream: &[u8]) -> Result<&[u8], CompressionError> {
    let cut = || damaged("it ends within its header");
    let (header, mut rest) = stream.split_first_chunk::<10>().ok_or_else(cut)?;
    let flags = header[3];
    if header[..3] != MAGIC || flags & RESERVED != 0 {
        return Err(damaged("it does not begin with a gzip member"));
    }
    if flags & EXTRA != 0 {
        let (length, after) = rest.split_first_chunk().ok_or_else(cut)?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..).ok_or_else(cut)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|byte| *byte == 0).ok_or_else(cut)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & HEADER_SUM != 0 {
        rest = rest.get(2..).ok_or_else(cut)?;
    }
    Ok(rest)
}
