//! Settings that more than one crate reads: the dynamic configuration, where the node listens and to whom, and how durations are written.
//!
//! Where settings come from (command line, file) is the binary's business; here is what they mean.

mod access;
mod durations;
mod dynamic;
mod listen;
mod scope;

pub use access::{HttpAccess, Network, Origin};
pub use durations::parse_duration;
pub use dynamic::{ArchivalSwitch, DynamicConfig, DynamicSettings, FrontendLimits};
pub use listen::{Addresses, ClientCertificates, FrontendTls, Listen};

/// A setting is wrong; the text is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub String);
