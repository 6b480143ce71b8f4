//! What a namespace says of archival, once for histories and once for what lists show.
//!
//! ```text
//!   never enabled ──enable──▶ enabled at a URI ◀──disable, enable──▶ disabled, with that URI
//! ```
//!
//! Once there is a URI it stays: what was archived is found at one place. States and texts are Temporal's
//! (`common/namespace/archival_config_state_machine.go`).

use everlog_proto::api::enums::v1::ArchivalState;

use super::MetaError;

/// Whether something is archived, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archival {
    /// Whether runs are archived once their retention is over.
    pub is_enabled: bool,
    /// Where to, and where from; empty if that was never said.
    pub uri: String,
}

/// What a request wants of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivalWish {
    /// Unspecified for what it is.
    pub state: ArchivalState,
    /// Empty for what it is, or for the default.
    pub uri: String,
    /// Where a namespace is archived that does not say where.
    pub default_uri: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ArchivalRow {
    #[prost(bool, tag = "1")]
    is_enabled: bool,
    #[prost(string, tag = "2")]
    uri: String,
}

impl Archival {
    /// What becomes of it by a request.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] if the URI would be another one.
    pub fn next(&self, wish: &ArchivalWish) -> Result<Archival, MetaError> {
        if !self.uri.is_empty() && !wish.uri.is_empty() && self.uri != wish.uri {
            return Err(MetaError::Invalid("Cannot update existing archival URI".into()));
        }
        let is_enabled = match wish.state {
            ArchivalState::Unspecified => self.is_enabled,
            ArchivalState::Disabled => false,
            ArchivalState::Enabled => true,
        };
        let default = if is_enabled { wish.default_uri.as_str() } else { "" };
        let uri = [&self.uri, wish.uri.as_str(), default].into_iter().find(|uri| !uri.is_empty());
        Ok(Archival { is_enabled, uri: uri.unwrap_or_default().to_owned() })
    }

    /// As requests and answers have it.
    pub fn state(&self) -> ArchivalState {
        if self.is_enabled { ArchivalState::Enabled } else { ArchivalState::Disabled }
    }

    pub(super) fn to_row(&self) -> Option<ArchivalRow> {
        let Archival { is_enabled, uri } = self.clone();
        (*self != Archival::default()).then_some(ArchivalRow { is_enabled, uri })
    }

    pub(super) fn from_row(row: Option<ArchivalRow>) -> Archival {
        row.map_or_else(Archival::default, |ArchivalRow { is_enabled, uri }| Archival { is_enabled, uri })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(before: (bool, &str), state: ArchivalState, uri: &str) -> Result<(bool, String), String> {
        let before = Archival { is_enabled: before.0, uri: before.1.to_owned() };
        let wish = ArchivalWish { state, uri: uri.to_owned(), default_uri: "file:///default".to_owned() };
        let next = before.next(&wish).map_err(|error| error.to_string())?;
        Ok((next.is_enabled, next.uri))
    }

    #[test]
    fn a_uri_is_for_good() {
        use ArchivalState::{Disabled, Enabled, Unspecified};
        let (never, enabled, disabled) = ((false, ""), (true, "a"), (false, "a"));
        for (before, state, uri, after) in [
            (never, Enabled, "a", (true, "a")),
            (never, Enabled, "", (true, "file:///default")),
            (never, Disabled, "a", (false, "a")),
            (never, Disabled, "", (false, "")),
            (never, Unspecified, "a", (false, "a")),
            (never, Unspecified, "", (false, "")),
            (enabled, Enabled, "a", (true, "a")),
            (enabled, Enabled, "", (true, "a")),
            (enabled, Disabled, "a", (false, "a")),
            (enabled, Disabled, "", (false, "a")),
            (enabled, Unspecified, "a", (true, "a")),
            (enabled, Unspecified, "", (true, "a")),
            (disabled, Enabled, "a", (true, "a")),
            (disabled, Enabled, "", (true, "a")),
            (disabled, Disabled, "a", (false, "a")),
            (disabled, Unspecified, "", (false, "a")),
        ] {
            assert_eq!(next(before, state, uri), Ok((after.0, after.1.to_owned())), "{before:?} {state:?} {uri:?}");
        }
        for before in [enabled, disabled] {
            for state in [Enabled, Disabled, Unspecified] {
                let refused = Err("Cannot update existing archival URI".to_owned());
                assert_eq!(next(before, state, "b"), refused, "{before:?} {state:?}");
            }
        }
    }
}
