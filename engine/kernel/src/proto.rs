//! Keeping API messages in rows: as their protobuf bytes inside a bincode struct.

use std::ops::{Deref, DerefMut};

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
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        M::decode(bytes.as_slice()).map(Proto).map_err(de::Error::custom)
    }
}

/// The level of a priority key: 1 to 5, and 3 where none was given.
pub(crate) fn priority_level(priority_key: i32) -> u8 {
    match priority_key {
        ..=0 => 3,
        key => u8::try_from(key.min(5)).expect("1 to 5 fits"),
    }
}
