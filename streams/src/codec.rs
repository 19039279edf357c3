//! Values <-> bytes: the seam, and the codecs that ship with it.
//!
//! | codec | of | bytes |
//! |---|---|---|
//! | [`Bincode`] | any serde type | compact, fixed-width integers; the default of topics and stored values |
//! | [`Json`] | any serde type | text that other programs read |
//! | [`Ordered`] | keys | sort as the values do; the default of store keys |
//! | [`Str`] | `String`, [`Text`](crate::Text) | UTF-8 |
//! | [`Raw`] | `Bytes`, `Vec<u8>` | themselves |
//! | [`NoKey`] | `()` | null |
//! | [`Nullable`] | `Option<T>` | null, or those of another codec |
//!
//! Always true here: equal values have equal bytes (partitions are chosen by the bytes of keys); no
//! bytes from outside make a codec panic, allocate without bound, or be half read: what is left over
//! is an error.

use crate::error::CodecError;

mod bincode;
mod json;
mod ordered;
mod raw;

pub use self::bincode::Bincode;
pub use json::Json;
pub use ordered::Ordered;
pub use raw::{NoKey, Nullable, Raw, Str};

/// The name of a codec's format and the version of that format: part of the topology's hash, so that
/// stored state is never read with another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CodecId {
    /// The format's name.
    pub name: &'static str,
    /// Raised when the bytes change.
    pub version: u16,
}

/// Turns values of `T` into bytes and back.
///
/// ```
/// use thalweg_streams::codec::{Bincode, Codec, Json};
///
/// let mut bytes = Vec::new();
/// Json.encode(&(1, "one".to_owned()), &mut bytes)?;
/// assert_eq!(bytes, br#"[1,"one"]"#);
/// let back: (i32, String) = Json.decode(&bytes)?;
/// assert_eq!(back.1, "one");
/// let refused: Result<u64, _> = Bincode.decode(b"short");
/// assert!(refused.is_err());
/// # Ok::<(), thalweg_streams::error::CodecError>(())
/// ```
pub trait Codec<T>: Clone + Send + Sync + 'static {
    /// Which format this is.
    const ID: CodecId;

    /// Appends the bytes of `value`. Equal values must give equal bytes.
    ///
    /// # Errors
    /// When the format has no place for this value. `out` may hold a part of it then.
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads a value from all of `bytes`.
    ///
    /// # Errors
    /// When the bytes are no value of `T`, or more than one.
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError>;

    /// Whether `value` is written as null: no bytes at all, which is not the same as empty bytes.
    #[inline]
    fn is_null(&self, value: &T) -> bool {
        let _ = value;
        false
    }

    /// The value that null stands for.
    ///
    /// # Errors
    /// When there is none, which is the rule.
    #[inline]
    fn decode_null(&self) -> Result<T, CodecError> {
        Err(CodecError::new(Self::ID.name, "null where a value is needed (Nullable reads nulls)"))
    }

    /// Reads bytes or null.
    ///
    /// # Errors
    /// As [`Codec::decode`] and [`Codec::decode_null`].
    #[inline]
    fn decode_nullable(&self, bytes: Option<&[u8]>) -> Result<T, CodecError> {
        match bytes {
            Some(bytes) => self.decode(bytes),
            None => self.decode_null(),
        }
    }

    /// Writes bytes into `out`, cleared before, or gives null.
    ///
    /// # Errors
    /// As [`Codec::encode`].
    #[inline]
    fn encode_nullable<'o>(
        &self,
        value: &T,
        out: &'o mut Vec<u8>,
    ) -> Result<Option<&'o [u8]>, CodecError> {
        if self.is_null(value) {
            return Ok(None);
        }
        out.clear();
        self.encode(value, out)?;
        Ok(Some(out))
    }
}
