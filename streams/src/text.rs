//! Text that is cheap to share.
//!
//! Always true here: a clone copies no byte; it is written as a `String` is, by every codec, so that a
//! topic or a store may change between the two.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text that does not change and that many hold at once: what the branches of a pipeline take of a
/// record that they split. A clone is one addition; a `String` would be copied for each branch.
///
/// ```
/// use thalweg_streams::Text;
///
/// let message = Text::from("disk is full");
/// let shown = message.clone();
/// assert_eq!(shown.as_ptr(), message.as_ptr());
/// assert!(message.starts_with("disk"));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Arc<str>);

impl Deref for Text {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Text {
    #[inline]
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Text {
    #[inline]
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    #[inline]
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::from("")
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

impl Serialize for Text {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Text {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            #[inline]
            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(text.into())
            }
        }

        // Lent where the format can: then there is one copy, into its own memory.
        deserializer.deserialize_str(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::Text;
    use crate::codec::{Bincode, Codec, Json, Ordered, Str};

    /// The bytes are those of a `String` everywhere, or stored state could not be read again.
    #[test]
    fn text_is_written_as_a_string_is() {
        fn check<C: Codec<(Text, u8)> + Codec<(String, u8)>>(codec: &C) {
            for text in ["", "a", "Zürich\n\0\"", &"long ".repeat(1000)] {
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                codec.encode(&(Text::from(text), 7), &mut ours).expect("text");
                codec.encode(&(text.to_owned(), 7), &mut theirs).expect("text");
                assert_eq!(ours, theirs);
                let (back, seven): (Text, u8) = codec.decode(&ours).expect("what was written");
                assert_eq!((&*back, seven), (text, 7));
            }
        }
        check(&Bincode);
        check(&Json);
        check(&Ordered);
        let mut bytes = Vec::new();
        Str.encode(&Text::from("x"), &mut bytes).expect("text");
        let back: Text = Str.decode(&bytes).expect("what was written");
        assert_eq!(back, Text::from("x".to_owned()));
        let refused: Result<Text, _> = Str.decode(&[0xff]);
        assert!(refused.is_err());
    }

    #[test]
    fn text_is_found_by_str() {
        let map = std::collections::HashMap::from([(Text::from("a"), 1)]);
        assert_eq!(map.get("a"), Some(&1));
        assert!(Text::default().is_empty());
        assert_eq!(format!("{0} {0:?}", Text::from("q\"")), "q\" \"q\\\"\"");
    }
}
