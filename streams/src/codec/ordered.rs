//! Keys whose bytes sort as the values do: what range scans of stores rest on.
//!
//! ```text
//!   unsigned integer    big endian, full width          bool, u8     one byte
//!   signed integer      the same, sign bit flipped      char         as u32
//!   f32, f64            IEEE total order; -0 as 0       ()           nothing
//!   String, bytes       00 -> 00 FF, ended by 00 00     tuple, struct   its fields in order
//!   sequence            01 before each element, then 00
//!   Option              00, or 01 and the value
//!   enum                index of the variant: 00..FE, or FF and u32; then its fields
//! ```
//!
//! Always true here: `a.cmp(&b) == bytes(a).cmp(&bytes(b))` for every supported type whose `Ord` is
//! the derived one, and no value's bytes are a prefix of another's of the same type. Maps and NaN are
//! refused: they have no such order. Reading follows the type's shape, at most 64 levels
//! deep, so that hostile bytes cannot exhaust the stack.

use std::fmt;

use serde::de::value::U32Deserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde::{Deserializer, Serialize, Serializer, ser};

use super::{Codec, CodecId};
use crate::error::CodecError;

/// Order-preserving bytes of any serde type without maps.
///
/// ```
/// use thalweg_streams::codec::{Codec, Ordered};
///
/// let bytes = |key: &(i32, String)| {
///     let mut out = Vec::new();
///     Ordered.encode(key, &mut out).map(|()| out)
/// };
/// let mut keys = vec![(1, "b".to_owned()), (-7, "z".to_owned()), (1, "a".to_owned())];
/// let mut encoded = keys.iter().map(bytes).collect::<Result<Vec<_>, _>>()?;
/// keys.sort();
/// encoded.sort();
/// assert_eq!(Ordered.decode(&encoded[0]), Ok(keys[0].clone()));
/// assert_eq!(Ordered.decode(&encoded[2]), Ok(keys[2].clone()));
/// # Ok::<(), thalweg_streams::error::CodecError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ordered;

impl<T: Serialize + DeserializeOwned> Codec<T> for Ordered {
    const ID: CodecId = CodecId { name: NAME, version: 1 };

    #[inline]
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        value.serialize(Writer { out }).map_err(Fault::into_error)
    }

    #[inline]
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        let mut reader = Reader { rest: bytes, depth: 0 };
        let value = T::deserialize(&mut reader).map_err(Fault::into_error)?;
        match reader.rest.len() {
            0 => Ok(value),
            left => Err(Fault::new(format!("{left} of {} bytes are left over", bytes.len())).0),
        }
    }
}

/// How deep a value may nest while it is read.
const DEPTH_MAX: usize = 64;

const NAME: &str = "ordered";

/// Serde's error here: a [`CodecError`] in the making.
#[derive(Debug)]
struct Fault(CodecError);

impl Fault {
    fn new(what: impl Into<String>) -> Self {
        Self(CodecError::new(NAME, what))
    }

    fn into_error(self) -> CodecError {
        self.0
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fault {}

impl ser::Error for Fault {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self::new(what.to_string())
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self::new(what.to_string())
    }
}

/// Appends ordered bytes.
struct Writer<'o> {
    out: &'o mut Vec<u8>,
}

impl Writer<'_> {
    fn variant(&mut self, index: u32) {
        match u8::try_from(index) {
            Ok(small) if small < u8::MAX => self.out.push(small),
            _ => {
                self.out.push(u8::MAX);
                self.out.extend(index.to_be_bytes());
            }
        }
    }
}

impl<'o> Serializer for Writer<'o> {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Elements<'o>;
    type SerializeTuple = Fields<'o>;
    type SerializeTupleStruct = Fields<'o>;
    type SerializeTupleVariant = Fields<'o>;
    type SerializeMap = ser::Impossible<(), Fault>;
    type SerializeStruct = Fields<'o>;
    type SerializeStructVariant = Fields<'o>;

    fn serialize_bool(self, v: bool) -> Result<(), Fault> {
        self.out.push(u8::from(v));
        Ok(())
    }
    fn serialize_u8(self, v: u8) -> Result<(), Fault> {
        self.out.push(v);
        Ok(())
    }
    fn serialize_u16(self, v: u16) -> Result<(), Fault> {
        self.out.extend(v.to_be_bytes());
        Ok(())
    }
    fn serialize_u32(self, v: u32) -> Result<(), Fault> {
        self.out.extend(v.to_be_bytes());
        Ok(())
    }
    fn serialize_u64(self, v: u64) -> Result<(), Fault> {
        self.out.extend(v.to_be_bytes());
        Ok(())
    }
    fn serialize_u128(self, v: u128) -> Result<(), Fault> {
        self.out.extend(v.to_be_bytes());
        Ok(())
    }
    fn serialize_i8(self, v: i8) -> Result<(), Fault> {
        self.serialize_u8(v.cast_unsigned() ^ (1 << 7))
    }
    fn serialize_i16(self, v: i16) -> Result<(), Fault> {
        self.serialize_u16(v.cast_unsigned() ^ (1 << 15))
    }
    fn serialize_i32(self, v: i32) -> Result<(), Fault> {
        self.serialize_u32(v.cast_unsigned() ^ (1 << 31))
    }
    fn serialize_i64(self, v: i64) -> Result<(), Fault> {
        self.serialize_u64(v.cast_unsigned() ^ (1 << 63))
    }
    fn serialize_i128(self, v: i128) -> Result<(), Fault> {
        self.serialize_u128(v.cast_unsigned() ^ (1 << 127))
    }
    fn serialize_f32(self, v: f32) -> Result<(), Fault> {
        if v.is_nan() {
            return Err(Fault::new("NaN has no place in an order"));
        }
        let bits = (v + 0.0).to_bits();
        self.serialize_u32(if bits >> 31 == 0 { bits | 1 << 31 } else { !bits })
    }
    fn serialize_f64(self, v: f64) -> Result<(), Fault> {
        if v.is_nan() {
            return Err(Fault::new("NaN has no place in an order"));
        }
        // Adding 0 turns -0 into 0: equal values, equal bytes.
        let bits = (v + 0.0).to_bits();
        self.serialize_u64(if bits >> 63 == 0 { bits | 1 << 63 } else { !bits })
    }
    fn serialize_char(self, v: char) -> Result<(), Fault> {
        self.serialize_u32(u32::from(v))
    }
    fn serialize_str(self, v: &str) -> Result<(), Fault> {
        self.serialize_bytes(v.as_bytes())
    }
    fn serialize_bytes(self, v: &[u8]) -> Result<(), Fault> {
        self.out.reserve(v.len() + 2);
        for part in v.split_inclusive(|&b| b == 0) {
            self.out.extend_from_slice(part);
            if part.last() == Some(&0) {
                self.out.push(0xff);
            }
        }
        self.out.extend([0, 0]);
        Ok(())
    }
    fn serialize_none(self) -> Result<(), Fault> {
        self.serialize_u8(0)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Fault> {
        self.out.push(1);
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), Fault> {
        Ok(())
    }
    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Fault> {
        Ok(())
    }
    fn serialize_unit_variant(
        mut self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
    ) -> Result<(), Fault> {
        self.variant(index);
        Ok(())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        self.variant(index);
        value.serialize(self)
    }
    fn serialize_seq(self, _len: Option<usize>) -> Result<Elements<'o>, Fault> {
        Ok(Elements { out: self.out })
    }
    fn serialize_tuple(self, _len: usize) -> Result<Fields<'o>, Fault> {
        Ok(Fields { out: self.out })
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Fields<'o>, Fault> {
        Ok(Fields { out: self.out })
    }
    fn serialize_tuple_variant(
        mut self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Fields<'o>, Fault> {
        self.variant(index);
        Ok(Fields { out: self.out })
    }
    fn serialize_map(self, _len: Option<usize>) -> Result<Self::SerializeMap, Fault> {
        Err(Fault::new("a map has no order of its own: use a sequence of pairs"))
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields<'o>, Fault> {
        Ok(Fields { out: self.out })
    }
    fn serialize_struct_variant(
        mut self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Fields<'o>, Fault> {
        self.variant(index);
        Ok(Fields { out: self.out })
    }
    fn is_human_readable(&self) -> bool {
        false
    }
}

/// A sequence being written: elements with a mark before each, and one at the end.
struct Elements<'o> {
    out: &'o mut Vec<u8>,
}

impl ser::SerializeSeq for Elements<'_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.out.push(1);
        value.serialize(Writer { out: self.out })
    }
    fn end(self) -> Result<(), Fault> {
        self.out.push(0);
        Ok(())
    }
}

/// A tuple or struct being written: fields one after the other.
struct Fields<'o> {
    out: &'o mut Vec<u8>,
}

impl Fields<'_> {
    fn field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        value.serialize(Writer { out: self.out })
    }
}

impl ser::SerializeTuple for Fields<'_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.field(value)
    }
    fn end(self) -> Result<(), Fault> {
        Ok(())
    }
}

impl ser::SerializeTupleStruct for Fields<'_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.field(value)
    }
    fn end(self) -> Result<(), Fault> {
        Ok(())
    }
}

impl ser::SerializeTupleVariant for Fields<'_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.field(value)
    }
    fn end(self) -> Result<(), Fault> {
        Ok(())
    }
}

impl ser::SerializeStruct for Fields<'_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        _key: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        self.field(value)
    }
    fn end(self) -> Result<(), Fault> {
        Ok(())
    }
}

impl ser::SerializeStructVariant for Fields<'_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        _key: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        self.field(value)
    }
    fn end(self) -> Result<(), Fault> {
        Ok(())
    }
}

/// Reads ordered bytes front to back.
struct Reader<'b> {
    rest: &'b [u8],
    depth: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (head, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| Fault::new(format!("{} bytes where {N} are needed", self.rest.len())))?;
        self.rest = rest;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        self.array().map(|[byte]| byte)
    }

    fn variant(&mut self) -> Result<u32, Fault> {
        match self.byte()? {
            u8::MAX => Ok(u32::from_be_bytes(self.array()?)),
            small => Ok(u32::from(small)),
        }
    }

    /// Text or bytes: up to `00 00`, with `00 FF` for 00.
    fn bytes(&mut self) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        loop {
            let zero = self.rest.iter().position(|&b| b == 0);
            let zero = zero.ok_or_else(|| Fault::new("text without its end"))?;
            out.extend_from_slice(&self.rest[..zero]);
            self.rest = &self.rest[zero + 1..];
            match self.byte()? {
                0 => return Ok(out),
                0xff => out.push(0),
                other => return Err(Fault::new(format!("byte {other:#04x} after 00 in text"))),
            }
        }
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.depth == DEPTH_MAX {
            return Err(Fault::new(format!("nested deeper than {DEPTH_MAX}")));
        }
        self.depth += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn fields<'de, V: Visitor<'de>>(&mut self, left: usize, v: V) -> Result<V::Value, Fault> {
        self.nested(|reader| v.visit_seq(FieldReader { reader, left }))
    }
}

impl<'de> Deserializer<'de> for &mut Reader<'_> {
    type Error = Fault;

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u8(self.byte()?)
    }
    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u16(u16::from_be_bytes(self.array()?))
    }
    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u32(u32::from_be_bytes(self.array()?))
    }
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u64(u64::from_be_bytes(self.array()?))
    }
    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u128(u128::from_be_bytes(self.array()?))
    }
    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i8((self.byte()? ^ (1 << 7)).cast_signed())
    }
    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i16((u16::from_be_bytes(self.array()?) ^ (1 << 15)).cast_signed())
    }
    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i32((u32::from_be_bytes(self.array()?) ^ (1 << 31)).cast_signed())
    }
    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i64((u64::from_be_bytes(self.array()?) ^ (1 << 63)).cast_signed())
    }
    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i128((u128::from_be_bytes(self.array()?) ^ (1 << 127)).cast_signed())
    }
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let bits = u32::from_be_bytes(self.array()?);
        let value = f32::from_bits(if bits >> 31 == 1 { bits ^ 1 << 31 } else { !bits });
        if value.is_nan() {
            return Err(Fault::new("NaN has no place in an order"));
        }
        visitor.visit_f32(value)
    }
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let bits = u64::from_be_bytes(self.array()?);
        let value = f64::from_bits(if bits >> 63 == 1 { bits ^ 1 << 63 } else { !bits });
        if value.is_nan() {
            return Err(Fault::new("NaN has no place in an order"));
        }
        visitor.visit_f64(value)
    }
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.byte()? {
            0 => visitor.visit_bool(false),
            1 => visitor.visit_bool(true),
            other => Err(Fault::new(format!("byte {other} where 0 or 1 is needed"))),
        }
    }
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let code = u32::from_be_bytes(self.array()?);
        let char = char::from_u32(code);
        visitor.visit_char(char.ok_or_else(|| Fault::new(format!("{code:#x} is no character")))?)
    }
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_string(visitor)
    }
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let text = String::from_utf8(self.bytes()?).map_err(|e| Fault::new(e.to_string()))?;
        visitor.visit_string(text)
    }
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_byte_buf(visitor)
    }
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_byte_buf(self.bytes()?)
    }
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::new("the bytes do not describe themselves: the type must say what it holds"))
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.byte()? {
            0 => visitor.visit_none(),
            1 => self.nested(|reader| visitor.visit_some(reader)),
            other => Err(Fault::new(format!("byte {other} where 0 or 1 is needed"))),
        }
    }
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.nested(|reader| visitor.visit_newtype_struct(reader))
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.nested(|reader| visitor.visit_seq(ElementReader { reader }))
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, v: V) -> Result<V::Value, Fault> {
        self.fields(len, v)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.fields(len, visitor)
    }
    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::new("a map has no order of its own: use a sequence of pairs"))
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.fields(fields.len(), visitor)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.nested(|reader| visitor.visit_enum(VariantReader { reader }))
    }
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }
    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The elements of a sequence, as long as a mark says that there is another.
struct ElementReader<'r, 'b> {
    reader: &'r mut Reader<'b>,
}

impl<'de> de::SeqAccess<'de> for ElementReader<'_, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        match self.reader.byte()? {
            0 => Ok(None),
            1 => seed.deserialize(&mut *self.reader).map(Some),
            other => Err(Fault::new(format!("byte {other} where 0 or 1 is needed"))),
        }
    }
}

/// A known number of fields.
struct FieldReader<'r, 'b> {
    reader: &'r mut Reader<'b>,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for FieldReader<'_, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.reader).map(Some)
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// A variant: its index, then its fields.
struct VariantReader<'r, 'b> {
    reader: &'r mut Reader<'b>,
}

impl<'de> de::EnumAccess<'de> for VariantReader<'_, '_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Fault> {
        let index: U32Deserializer<Fault> = self.reader.variant()?.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for VariantReader<'_, '_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self.reader)
    }
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.reader.fields(len, visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.reader.fields(fields.len(), visitor)
    }
}
