//! API messages that are kept encoded.

use std::marker::PhantomData;

use bytes::Bytes;
use prost::{DecodeError, Message};

/// An API message that is rarely looked at, and then handed on as it is.
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

    /// An encoded message, if that is what `bytes` are.
    pub(crate) fn check(bytes: Bytes) -> Result<Encoded<M>, DecodeError> {
        M::decode(bytes.clone())?;
        Ok(Encoded::new(bytes))
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The message.
    pub fn decode(&self) -> M {
        M::decode(self.bytes.clone()).expect("it was encoded here, or decoded when it was read")
    }
}

/// The level of a priority key: 1 to 5, and 3 where none was given.
pub(crate) fn priority_level(priority_key: i32) -> u8 {
    match priority_key {
        ..=0 => 3,
        key => u8::try_from(key.min(5)).expect("1 to 5 fits"),
    }
}
