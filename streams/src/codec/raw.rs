//! Bytes as they are, text as it is, and null.
//!
//! Always true here: null is not empty. Only [`NoKey`] and [`Nullable`] write and read null.

use super::{Codec, CodecId};
use crate::error::CodecError;

/// Bytes as they are, in whatever holds them: `Bytes`, `Vec<u8>`. Reading copies them out of the batch;
/// a pipeline that parses lines reads them in place with [`Builder::parse`](crate::Builder::parse).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Raw;

impl<T: AsRef<[u8]> + From<Vec<u8>>> Codec<T> for Raw {
    const ID: CodecId = CodecId { name: "raw", version: 1 };

    #[inline]
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value.as_ref());
        Ok(())
    }

    #[inline]
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        Ok(T::from(bytes.to_vec()))
    }
}

/// UTF-8 text, in whatever holds it: `String`, [`Text`](crate::Text), `Arc<str>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Str;

impl<T: AsRef<str> + for<'a> From<&'a str>> Codec<T> for Str {
    const ID: CodecId = CodecId { name: "str", version: 1 };

    #[inline]
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value.as_ref().as_bytes());
        Ok(())
    }

    #[inline]
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        let text = std::str::from_utf8(bytes);
        text.map(T::from).map_err(|e| CodecError::new("str", e.to_string()))
    }
}

/// The key of records without one: `()`, written as null. Their partition is the producer's choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NoKey;

impl Codec<()> for NoKey {
    const ID: CodecId = CodecId { name: "none", version: 1 };

    #[inline]
    fn encode(&self, (): &(), _out: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(())
    }

    #[inline]
    fn decode(&self, _bytes: &[u8]) -> Result<(), CodecError> {
        // A key that somebody gave the record is none of this reader's business.
        Ok(())
    }

    #[inline]
    fn is_null(&self, (): &()) -> bool {
        true
    }

    #[inline]
    fn decode_null(&self) -> Result<(), CodecError> {
        Ok(())
    }
}

/// Null for `None`, another codec for the rest: values of topics whose nulls mean "deleted".
///
/// ```
/// use thalweg_streams::codec::{Codec, Nullable, Str};
///
/// let codec = Nullable(Str);
/// assert!(codec.is_null(&None::<String>));
/// assert_eq!(codec.decode_nullable(None)?, None::<String>);
/// assert_eq!(codec.decode_nullable(Some(b""))?, Some(String::new()));
/// # Ok::<(), thalweg_streams::error::CodecError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Nullable<C>(
    /// The codec of values that are there.
    pub C,
);

impl<T, C: Codec<T>> Codec<Option<T>> for Nullable<C> {
    const ID: CodecId = C::ID;

    #[inline]
    fn encode(&self, value: &Option<T>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match value {
            Some(value) => self.0.encode(value, out),
            None => Err(CodecError::new(C::ID.name, "null has no bytes")),
        }
    }

    #[inline]
    fn decode(&self, bytes: &[u8]) -> Result<Option<T>, CodecError> {
        self.0.decode(bytes).map(Some)
    }

    #[inline]
    fn is_null(&self, value: &Option<T>) -> bool {
        value.is_none()
    }

    #[inline]
    fn decode_null(&self) -> Result<Option<T>, CodecError> {
        Ok(None)
    }
}
