//! Keeping API messages in rows: as their protobuf bytes inside a bincode struct.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// An API message as a field of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proto<M>(pub M);

impl<M> Deref for Proto<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M> DerefMut for Proto<M> {
    fn deref_mut(&mut self) -> &mut M {
        &mut self.0
    }
}

impl<M: Message> Serialize for Proto<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(self.0.encoded_len());
        self.0.encode(&mut bytes).map_err(ser::Error::custom)?;
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de, M: Message + Default> Deserialize<'de> for Proto<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserialize_bytes(deserializer)?;
        M::decode(bytes.as_slice()).map(Proto).map_err(de::Error::custom)
    }
}

/// The same, left encoded: for what is rarely looked at, and then handed on as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded<M> {
    bytes: Bytes,
    message: PhantomData<M>,
}

impl<M: Message + Default> Encoded<M> {
    /// An encoded message, which is known to be valid.
    pub(crate) fn new(bytes: Bytes) -> Encoded<M> {
        Encoded { bytes, message: PhantomData }
    }

    /// Bytes of the message.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The message.
    pub fn decode(&self) -> M {
        M::decode(self.bytes.clone()).expect("it was encoded here, or decoded when it was read")
    }
}

impl<M> Serialize for Encoded<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de, M: Message + Default> Deserialize<'de> for Encoded<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Bytes::from(deserialize_bytes(deserializer)?);
        M::decode(bytes.clone()).map_err(de::Error::custom)?;
        Ok(Encoded::new(bytes))
    }
}

/// Reads bytes in one piece; a `Vec<u8>` would be read as a list of numbers, one by one.
pub(crate) fn deserialize_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    struct Visitor;

    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<u8>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("bytes")
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }

    deserializer.deserialize_byte_buf(Visitor)
}

/// The level of a priority key: 1 to 5, and 3 where none was given.
pub(crate) fn priority_level(priority_key: i32) -> u8 {
    match priority_key {
        ..=0 => 3,
        key => u8::try_from(key.min(5)).expect("1 to 5 fits"),
    }
}
