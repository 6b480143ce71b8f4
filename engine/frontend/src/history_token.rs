//! Where a paged read of a history goes on. A token is bound to its run.

use everlog_kernel::{RunId, token};
use everlog_model::RunView;
use serde::{Deserialize, Serialize};

use super::errors::Error;

/// The state of a paged read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HistoryToken {
    /// The run.
    pub(super) run_id: RunId,
    /// The first event that was not sent.
    pub(super) from: i64,
    /// The first event that the history did not have when it was looked at last.
    pub(super) to: i64,
    /// Whether the run was open when `to` was found out.
    pub(super) is_open: bool,
    /// Whether the read is that of a workflow task's history, which ends with the task's start.
    pub(super) is_task: bool,
}

impl HistoryToken {
    /// The rest of a workflow task's history.
    pub(super) fn for_task(run_id: RunId, from: i64, to: i64) -> HistoryToken {
        HistoryToken { run_id, from, to, is_open: true, is_task: true }
    }

    /// Takes what is known of the run now into the read.
    pub(super) fn reach(&mut self, view: &RunView) {
        self.to = self.to.max(view.next_event_id);
        self.is_open = view.is_open;
    }

    /// As clients have it.
    pub(super) fn encode(&self) -> Vec<u8> {
        token::encode(self)
    }

    /// A token that a client sent, if it sent one.
    pub(super) fn decode(bytes: &[u8], run_id: Option<RunId>) -> Result<Option<HistoryToken>, Error> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let token: HistoryToken = token::decode(bytes).ok_or_else(|| Error::invalid("Invalid NextPageToken."))?;
        if run_id.is_some_and(|run_id| run_id != token.run_id) {
            return Err(Error::invalid("RunId in the request does not match the NextPageToken."));
        }
        if token.from < 1 || token.from > token.to {
            return Err(Error::invalid("Invalid NextPageToken."));
        }
        Ok(Some(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_bound_to_their_run() {
        let token = HistoryToken::for_task(RunId([1; 16]), 3, 9);
        let bytes = token.encode();
        assert_eq!(HistoryToken::decode(&bytes, None), Ok(Some(token.clone())));
        assert_eq!(HistoryToken::decode(&bytes, Some(RunId([1; 16]))), Ok(Some(token)));
        assert_eq!(
            HistoryToken::decode(&bytes, Some(RunId([2; 16]))),
            Err(Error::invalid("RunId in the request does not match the NextPageToken."))
        );
        assert_eq!(HistoryToken::decode(&[], None), Ok(None));
        for garbage in [&b"abc"[..], &bytes[..bytes.len() - 1], &HistoryToken::for_task(RunId([1; 16]), 9, 3).encode()]
        {
            assert_eq!(HistoryToken::decode(garbage, None), Err(Error::invalid("Invalid NextPageToken.")));
        }
    }
}
