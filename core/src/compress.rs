//! F1 · The codecs of a batch's records section.
//!
//! Always true here: what is read is bounded. No codec gives out more bytes than its caller allows,
//! and nothing is allocated because a length field asks for it. What is written is what Kafka's own
//! clients write: LZ4 frames of independent 64 KiB blocks without checksums, plain zstd frames.
//!
//! ```text
//!   code point   0 none   1 gzip   2 snappy   3 lz4             4 zstd
//!   here         copied   named    named      feature `lz4`     feature `zstd`
//! ```
//!
//! *Named* means: recognised, and refused with an error that says which codec it is.

use std::fmt;

use crate::config::Compression;

/// The most bytes a records section may decompress to, whatever a topic allows for its batches.
pub const DECOMPRESSED_MAX: usize = 64 << 20;

/// How many bytes a records section may decompress to in a topic that accepts batches of
/// `max_message_bytes`: sixteen times as many, and at most [`DECOMPRESSED_MAX`]. Log text compresses
/// five to ten times; what goes far beyond is made to fill memory.
pub fn decompressed_max(max_message_bytes: usize) -> usize {
    max_message_bytes.saturating_mul(16).min(DECOMPRESSED_MAX)
}

/// A codec's code point in the attributes of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Codec {
    /// The records as they are.
    None = 0,
    /// A gzip member. Not read or written here.
    Gzip = 1,
    /// Snappy in xerial's framing. Not read or written here.
    Snappy = 2,
    /// An LZ4 frame.
    Lz4 = 3,
    /// A zstd frame.
    Zstd = 4,
}

impl Codec {
    /// The codec of a code point.
    ///
    /// # Errors
    /// [`CompressionError::Unknown`] for the code points that nobody has defined.
    pub fn from_code(code: u8) -> Result<Self, CompressionError> {
        match code {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            _ => Err(CompressionError::Unknown { code }),
        }
    }

    /// The code point.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The codec's name, as Kafka spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Says whether this build reads and writes the codec.
    ///
    /// # Errors
    /// [`CompressionError::Unsupported`] or [`CompressionError::Disabled`], naming it.
    pub fn check_supported(self) -> Result<(), CompressionError> {
        match self {
            Self::None => Ok(()),
            Self::Lz4 if cfg!(feature = "lz4") => Ok(()),
            Self::Zstd if cfg!(feature = "zstd") => Ok(()),
            Self::Lz4 | Self::Zstd => Err(CompressionError::Disabled { codec: self }),
            Self::Gzip | Self::Snappy => Err(CompressionError::Unsupported { codec: self }),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => Self::Zstd,
        }
    }
}

/// Why a records section cannot be compressed or decompressed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CompressionError {
    /// A code point that nobody has defined.
    #[error("unknown compression codec {code}: 0 none, 3 lz4 and 4 zstd can be read")]
    Unknown {
        /// The code point found.
        code: u8,
    },
    /// A codec that this program does not have.
    #[error("compressed with {codec}, which is not supported: use none, lz4 or zstd")]
    Unsupported {
        /// The codec.
        codec: Codec,
    },
    /// A codec that was left out of this build.
    #[error("compressed with {codec}, which this build leaves out: enable the feature `{codec}`")]
    Disabled {
        /// The codec.
        codec: Codec,
    },
    /// A stream that is not what its codec writes.
    #[error("not a whole {codec} stream: {what}")]
    Damaged {
        /// The codec.
        codec: Codec,
        /// What is wrong with it.
        what: Box<str>,
    },
    /// A stream that holds more than is allowed.
    #[error("the {codec} stream holds more than the {limit} bytes that are allowed")]
    TooLarge {
        /// The codec.
        codec: Codec,
        /// The limit.
        limit: usize,
    },
}

/// Compresses records sections of one codec; keeps the codec's tables from one to the next.
pub(crate) enum Compressor {
    None,
    #[cfg(feature = "lz4")]
    Lz4(Box<lz4::Compressor>),
    #[cfg(feature = "zstd")]
    Zstd(zstandard::Compressor),
}

impl Compressor {
    pub(crate) fn new(compression: Compression) -> Self {
        match compression {
            #[cfg(feature = "lz4")]
            Compression::Lz4 => Self::Lz4(Box::new(lz4::Compressor::new())),
            #[cfg(feature = "zstd")]
            Compression::Zstd => Self::Zstd(zstandard::Compressor::new()),
            _ => Self::None,
        }
    }

    /// The compressed form of `section`, kept until the next call.
    pub(crate) fn compress<'s>(
        &'s mut self,
        section: &'s [u8],
    ) -> Result<&'s [u8], CompressionError> {
        match self {
            Self::None => Ok(section),
            #[cfg(feature = "lz4")]
            Self::Lz4(lz4) => lz4.compress(section),
            #[cfg(feature = "zstd")]
            Self::Zstd(zstd) => zstd.compress(section),
        }
    }
}

/// Decompresses records sections; keeps the codecs' tables from one to the next.
#[derive(Default)]
pub(crate) struct Decompressor {
    #[cfg(feature = "zstd")]
    zstd: Option<zstandard::Decompressor>,
}

impl Decompressor {
    /// Replaces what `out` holds by what `stream` decompresses to, at most `limit` bytes.
    pub(crate) fn decompress(
        &mut self,
        codec: Codec,
        stream: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        codec.check_supported()?;
        out.clear();
        match codec {
            #[cfg(feature = "lz4")]
            Codec::Lz4 => lz4::decompress(stream, limit, out),
            #[cfg(feature = "zstd")]
            Codec::Zstd => self
                .zstd
                .get_or_insert_with(zstandard::Decompressor::new)
                .decompress(stream, limit, out),
            _ if stream.len() > limit => Err(CompressionError::TooLarge { codec, limit }),
            _ => {
                out.extend_from_slice(stream);
                Ok(())
            }
        }
    }
}

#[cfg(feature = "lz4")]
mod lz4 {
    use std::io::{BufRead, Write};

    use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

    use super::{Codec, CompressionError};

    const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
    const INDEPENDENT_BLOCKS: u8 = 1 << 5;

    fn damaged(what: impl Into<Box<str>>) -> CompressionError {
        CompressionError::Damaged { codec: Codec::Lz4, what: what.into() }
    }

    pub(crate) struct Compressor {
        encoder: FrameEncoder<Vec<u8>>,
    }

    impl Compressor {
        pub(crate) fn new() -> Self {
            // The default frame of the library takes larger blocks, which decode six times slower.
            let frame = FrameInfo::new()
                .block_mode(BlockMode::Independent)
                .block_size(BlockSize::Max64KB)
                .block_checksums(false)
                .content_checksum(false);
            Self { encoder: FrameEncoder::with_frame_info(frame, Vec::new()) }
        }

        pub(crate) fn compress(&mut self, section: &[u8]) -> Result<&[u8], CompressionError> {
            self.encoder.get_mut().clear();
            self.encoder.write_all(section).map_err(|e| damaged(e.to_string()))?;
            self.encoder.try_finish().map_err(|e| damaged(e.to_string()))?;
            Ok(self.encoder.get_ref())
        }
    }

    pub(crate) fn decompress(
        stream: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        // Legacy and skippable frames are no part of Kafka's format, and linked blocks are refused
        // there too.
        match stream {
            [a, b, c, d, flags, ..] if [*a, *b, *c, *d] == MAGIC => {
                if flags & INDEPENDENT_BLOCKS == 0 {
                    return Err(damaged("its blocks depend on each other"));
                }
            }
            _ => return Err(damaged("it does not begin with an lz4 frame")),
        }
        let mut decoder = FrameDecoder::new(stream);
        loop {
            let block = decoder.fill_buf().map_err(|e| damaged(e.to_string()))?;
            if block.is_empty() {
                break;
            }
            let len = block.len();
            if out.len() + len > limit {
                return Err(CompressionError::TooLarge { codec: Codec::Lz4, limit });
            }
            out.extend_from_slice(block);
            decoder.consume(len);
        }
        match decoder.get_ref().len() {
            0 => Ok(()),
            left => Err(damaged(format!("{left} bytes follow its end"))),
        }
    }
}

#[cfg(feature = "zstd")]
mod zstandard {
    use zstd::zstd_safe::{
        CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, compress_bound,
        get_error_name, get_frame_content_size,
    };

    use super::{Codec, CompressionError};

    const LEVEL: i32 = 1;
    /// Frames may look back 8 MiB, what RFC 8878 (3.1.1.1.2) asks every decoder to support.
    const WINDOW_LOG_MAX: u32 = 23;
    /// No frame holds more than this many times its own length: a block of 128 KiB takes 4 bytes.
    const RATIO_MAX: usize = 1 << 15;
    const FIRST_CHUNK: usize = 64 << 10;

    fn damaged(what: impl Into<Box<str>>) -> CompressionError {
        CompressionError::Damaged { codec: Codec::Zstd, what: what.into() }
    }

    fn failed(code: usize) -> CompressionError {
        damaged(get_error_name(code))
    }

    pub(crate) struct Compressor {
        context: CCtx<'static>,
        packed: Vec<u8>,
    }

    impl Compressor {
        pub(crate) fn new() -> Self {
            Self { context: CCtx::create(), packed: Vec::new() }
        }

        pub(crate) fn compress(&mut self, section: &[u8]) -> Result<&[u8], CompressionError> {
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
        pub(crate) fn new() -> Self {
            Self { context: DCtx::create() }
        }

        pub(crate) fn decompress(
            &mut self,
            stream: &[u8],
            limit: usize,
            out: &mut Vec<u8>,
        ) -> Result<(), CompressionError> {
            let too_large = CompressionError::TooLarge { codec: Codec::Zstd, limit };
            let declared = get_frame_content_size(stream)
                .map_err(|_| damaged("it does not begin with a zstd frame"))?;
            // A frame that says its size is decompressed in one pass, straight into `out` and
            // without a window, when there is room for it: make that room, unless the size is a lie.
            let room = match declared {
                Some(size) if size > limit as u64 => return Err(too_large),
                Some(size) => (size as usize).min(stream.len().saturating_mul(RATIO_MAX)),
                None => FIRST_CHUNK.min(limit),
            };
            out.reserve(room.max(1));
            self.context.reset(ResetDirective::SessionOnly).map_err(failed)?;
            self.context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(failed)?;
            let mut input = InBuffer::around(stream);
            loop {
                let filled = out.len();
                let taken = input.pos();
                let mut output = OutBuffer::around_pos(out, filled);
                let hint =
                    self.context.decompress_stream(&mut output, &mut input).map_err(failed)?;
                if out.len() > limit {
                    return Err(too_large);
                }
                if hint == 0 {
                    break;
                }
                if out.len() == out.capacity() {
                    // One more byte than the limit tells a stream that ends there from a longer one.
                    let more = out.len().max(FIRST_CHUNK).min(limit + 1 - out.len());
                    out.reserve_exact(more);
                } else if out.len() == filled && input.pos() == taken {
                    return Err(damaged("it ends within a frame"));
                }
            }
            match stream.len() - input.pos() {
                0 => Ok(()),
                left => Err(damaged(format!("{left} bytes follow its end"))),
            }
        }
    }
}

#[cfg(all(test, feature = "zstd"))]
mod tests {
    use super::*;

    #[test]
    fn a_declared_size_makes_no_room_that_the_stream_cannot_fill() {
        // A frame of one segment that says how much it holds, and then hardly goes on.
        let frame = |size: u64| {
            [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0], &size.to_le_bytes()[..], &[7; 4]].concat()
        };
        // (size declared, limit, most bytes that may be reserved)
        let cases = [
            (u64::MAX - 1, 1 << 20, 0),
            (1 << 30, DECOMPRESSED_MAX, 0),
            (60 << 20, DECOMPRESSED_MAX, 17 << 15),
            (1000, DECOMPRESSED_MAX, 1000),
        ];
        for (size, limit, room) in cases {
            let mut out = Vec::new();
            let found =
                Decompressor::default().decompress(Codec::Zstd, &frame(size), limit, &mut out);
            assert!(found.is_err(), "{size}");
            assert!(out.capacity() <= room, "{size}: {}", out.capacity());
        }
    }
}
