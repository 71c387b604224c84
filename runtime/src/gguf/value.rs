//! Metadata values of a GGUF file: the 13 value types, their ids, little-endian bytes, and conversions.
//!
//! In: a type id and bytes (from [`super::parse`]) or Rust values (for [`super::GgufWriter`]). Out: a
//! [`Value`], or the Rust type a caller asks for through [`FromValue`]. Strings are bytes, since vocabularies
//! in the field hold tokens that are not UTF-8; an array of strings is one buffer, not one allocation each.
//! Deliberately absent: nested arrays (no known writer makes them), files, keys.
//!
//! Source: `gguf_metadata_value_type` in ggml's docs/gguf.md.

use std::borrow::Cow;
use std::fmt;

pub(super) const BOOL: u32 = 7;
pub(super) const STRING: u32 = 8;
pub(super) const ARRAY: u32 = 9;

macro_rules! define_values {
    (integers: $($int:ident($int_ty:ident) = $int_id:literal),+;
     floats: $($float:ident($float_ty:ident) = $float_id:literal),+;) => {
        /// One metadata value. Numbers keep the width they have in the file.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Value {
            $($int($int_ty),)+
            $($float($float_ty),)+
            Bool(bool),
            Str(Vec<u8>),
            Array(Array),
        }

        /// An array of values of one type, held without boxing.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Array {
            $($int(Vec<$int_ty>),)+
            $($float(Vec<$float_ty>),)+
            Bool(Vec<bool>),
            Str(Strings),
        }

        impl Value {
            /// The type id in the file.
            pub fn type_id(&self) -> u32 {
                match self {
                    $(Value::$int(_) => $int_id,)+
                    $(Value::$float(_) => $float_id,)+
                    Value::Bool(_) => BOOL,
                    Value::Str(_) => STRING,
                    Value::Array(_) => ARRAY,
                }
            }

            fn integer(&self) -> Option<i128> {
                match self {
                    $(Value::$int(v) => Some(i128::from(*v)),)+
                    _ => None,
                }
            }

            /// Appends the value's bytes as they lie in a file, without its type id.
            pub fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $(Value::$int(v) => out.extend(v.to_le_bytes()),)+
                    $(Value::$float(v) => out.extend(v.to_le_bytes()),)+
                    Value::Bool(v) => out.push(u8::from(*v)),
                    Value::Str(v) => encode_string(v, out),
                    Value::Array(v) => v.encode(out),
                }
            }
        }

        impl Array {
            /// The type id of the elements in the file.
            pub fn element_type_id(&self) -> u32 {
                match self {
                    $(Array::$int(_) => $int_id,)+
                    $(Array::$float(_) => $float_id,)+
                    Array::Bool(_) => BOOL,
                    Array::Str(_) => STRING,
                }
            }

            /// Number of elements.
            pub fn len(&self) -> usize {
                match self {
                    $(Array::$int(v) => v.len(),)+
                    $(Array::$float(v) => v.len(),)+
                    Array::Bool(v) => v.len(),
                    Array::Str(v) => v.len(),
                }
            }

            fn integers(&self) -> Option<Vec<i128>> {
                match self {
                    $(Array::$int(v) => Some(v.iter().map(|v| i128::from(*v)).collect()),)+
                    _ => None,
                }
            }

            fn encode(&self, out: &mut Vec<u8>) {
                out.extend(self.element_type_id().to_le_bytes());
                out.extend((self.len() as u64).to_le_bytes());
                match self {
                    $(Array::$int(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),)+
                    $(Array::$float(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),)+
                    Array::Bool(v) => out.extend(v.iter().map(|v| u8::from(*v))),
                    Array::Str(v) => v.iter().for_each(|v| encode_string(v, out)),
                }
            }
        }

        /// Bytes of one number with this type id, `None` where it is not a number.
        pub(super) fn number_width(id: u32) -> Option<usize> {
            match id {
                $($int_id => Some(size_of::<$int_ty>()),)+
                $($float_id => Some(size_of::<$float_ty>()),)+
                _ => None,
            }
        }

        /// Numbers from packed little-endian bytes; `id` is one that [`number_width`] knows.
        pub(super) fn numbers(id: u32, bytes: &[u8]) -> Option<Array> {
            match id {
                $($int_id => Some(Array::$int(
                    bytes.as_chunks().0.iter().map(|v| <$int_ty>::from_le_bytes(*v)).collect())),)+
                $($float_id => Some(Array::$float(
                    bytes.as_chunks().0.iter().map(|v| <$float_ty>::from_le_bytes(*v)).collect())),)+
                _ => None,
            }
        }

        /// One number from its little-endian bytes.
        pub(super) fn number(id: u32, bytes: &[u8]) -> Option<Value> {
            match id {
                $($int_id => Some(Value::$int(<$int_ty>::from_le_bytes(bytes.try_into().ok()?))),)+
                $($float_id => Some(Value::$float(<$float_ty>::from_le_bytes(bytes.try_into().ok()?))),)+
                _ => None,
            }
        }

        /// The name of a value type, for messages.
        pub fn value_type_name(id: u32) -> &'static str {
            match id {
                $($int_id => stringify!($int_ty),)+
                $($float_id => stringify!($float_ty),)+
                BOOL => "bool",
                STRING => "string",
                ARRAY => "array",
                _ => "unknown type",
            }
        }

        impl fmt::Display for Value {
            /// Numbers and flags as they are, strings quoted, arrays as `[length x type]`.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Value::$int(v) => write!(f, "{v}"),)+
                    $(Value::$float(v) => write!(f, "{v:?}"),)+
                    Value::Bool(v) => write!(f, "{v}"),
                    Value::Str(v) => write!(f, "{:?}", String::from_utf8_lossy(v)),
                    Value::Array(v) => write!(f, "[{} x {}]", v.len(), value_type_name(v.element_type_id())),
                }
            }
        }

        $(impl From<$int_ty> for Value { fn from(v: $int_ty) -> Self { Value::$int(v) } })+
        $(impl From<$float_ty> for Value { fn from(v: $float_ty) -> Self { Value::$float(v) } })+
        $(impl From<Vec<$int_ty>> for Value {
            fn from(v: Vec<$int_ty>) -> Self { Value::Array(Array::$int(v)) }
        })+
        $(impl From<Vec<$float_ty>> for Value {
            fn from(v: Vec<$float_ty>) -> Self { Value::Array(Array::$float(v)) }
        })+
    };
}

define_values! {
    integers: U8(u8) = 0, I8(i8) = 1, U16(u16) = 2, I16(i16) = 3, U32(u32) = 4, I32(i32) = 5, U64(u64) = 10, I64(i64) = 11;
    floats: F32(f32) = 6, F64(f64) = 12;
}

impl Array {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Value {
    /// The type's name: `u32`, `string`, `array of i32`.
    pub fn type_name(&self) -> String {
        match self {
            Value::Array(array) => format!("array of {}", value_type_name(array.element_type_id())),
            value => value_type_name(value.type_id()).to_owned(),
        }
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Value::Bool(v)
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Value::Str(v.as_bytes().to_vec())
    }
}

impl From<Strings> for Value {
    fn from(v: Strings) -> Self {
        Value::Array(Array::Str(v))
    }
}

/// Many byte strings in one buffer, in file order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strings {
    bytes: Vec<u8>,
    /// Where each string ends in `bytes`.
    ends: Vec<usize>,
}

impl Strings {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn push(&mut self, string: &[u8]) {
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len());
    }

    /// The bytes of string `index`, `None` past the end.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.bytes[start..end])
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| &self.bytes[std::mem::replace(&mut start, end)..end])
    }

    /// The strings as text; bytes that are not UTF-8 become U+FFFD.
    pub fn iter_lossy(&self) -> impl ExactSizeIterator<Item = Cow<'_, str>> {
        self.iter().map(String::from_utf8_lossy)
    }
}

impl<S: AsRef<[u8]>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut all = Strings::default();
        strings.into_iter().for_each(|string| all.push(string.as_ref()));
        all
    }
}

pub(super) fn encode_string(string: &[u8], out: &mut Vec<u8>) {
    out.extend((string.len() as u64).to_le_bytes());
    out.extend_from_slice(string);
}

/// What [`super::Gguf::get`] can turn a value into. Integers of every width convert where the number fits,
/// f32 and f64 convert to f32 where the result is finite or the value was not.
pub trait FromValue<'a>: Sized {
    /// What is wanted, for the message of a failed conversion.
    const EXPECTED: &'static str;

    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! integers_from_value {
    ($($ty:ident)+) => {$(
        impl FromValue<'_> for $ty {
            const EXPECTED: &'static str = concat!("an integer that fits ", stringify!($ty));
            fn from_value(value: &Value) -> Option<Self> {
                value.integer()?.try_into().ok()
            }
        }

        impl FromValue<'_> for Vec<$ty> {
            const EXPECTED: &'static str = concat!("an array of integers that fit ", stringify!($ty));
            fn from_value(value: &Value) -> Option<Self> {
                let Value::Array(array) = value else { return None };
                array.integers()?.into_iter().map(|v| v.try_into().ok()).collect()
            }
        }
    )+};
}
integers_from_value!(u32 u64 i32);

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a float";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::F32(v) => Some(*v),
            Value::F64(v) => narrow(*v),
            _ => None,
        }
    }
}

impl FromValue<'_> for Vec<f32> {
    const EXPECTED: &'static str = "an array of floats";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Array(Array::F32(v)) => Some(v.clone()),
            Value::Array(Array::F64(v)) => v.iter().map(|v| narrow(*v)).collect(),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a bool";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(v) => Some(*v),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a UTF-8 string";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Str(v) => std::str::from_utf8(v).ok(),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a Strings {
    const EXPECTED: &'static str = "an array of strings";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(Array::Str(v)) => Some(v),
            _ => None,
        }
    }
}

fn narrow(v: f64) -> Option<f32> {
    let narrow = v as f32;
    (narrow.is_finite() || !v.is_finite()).then_some(narrow)
}
