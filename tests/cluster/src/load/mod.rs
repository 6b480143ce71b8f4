//! What callers do while nodes fail.

mod pipelines;
mod registers;

pub(crate) use pipelines::Pipelines;
pub(crate) use registers::Registers;
