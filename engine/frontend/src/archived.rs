//! What is read from the archive: histories of runs that are not there any more, and ListArchivedWorkflowExecutions.
//!
//! Lists of the archive are asked in the language of all other lists. The archives of a Temporal server understand a small part of that each,
//! one of files another one than one of S3.

use std::ops::RangeInclusive;

use bytes::Bytes;
use everlog_archive::{
    ArchiveError, ArchivedRun, HistoryPosition, PageSize, PartOptions, RecordPosition, Records, read_history,
};
use everlog_config::ArchivalSwitch;
use everlog_kernel::{Rejection, RunId};
use everlog_meta::NamespaceRecord;
use everlog_model::limits;
use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1::{
    GetWorkflowExecutionHistoryResponse as PlainResponse, ListArchivedWorkflowExecutionsRequest,
    ListArchivedWorkflowExecutionsResponse,
};
use everlog_proto::encoded::{EncodedHistory, GetWorkflowExecutionHistoryResponse};
use everlog_visibility as visibility;
use everlog_visibility::{Ask, Record};
use prost::Message;

use super::Frontend;
use super::call::Call;
use super::errors::Error;
use super::history::in_place;

/// What a token of an archived history begins with, so that it is no other one.
const TOKEN_PREFIX: &str = "archive/";

/// Where a read of an archived history goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArchivedToken {
    run_id: RunId,
    position: HistoryPosition,
}

impl ArchivedToken {
    fn encode(&self) -> Vec<u8> {
        let ArchivedToken { run_id, position: HistoryPosition { object, batch } } = self;
        format!("{TOKEN_PREFIX}{run_id}/{object}/{batch}").into_bytes()
    }

    /// A token that a client sent, if it is one of these.
    pub(super) fn decode(bytes: &[u8]) -> Option<ArchivedToken> {
        let text = std::str::from_utf8(bytes).ok()?.strip_prefix(TOKEN_PREFIX)?;
        let mut parts = text.split('/');
        let run_id = parts.next()?.parse().ok()?;
        let position = HistoryPosition { object: parts.next()?.parse().ok()?, batch: parts.next()?.parse().ok()? };
        parts.next().is_none().then_some(ArchivedToken { run_id, position })
    }
}

/// Whether a history that was named is to be looked for in the archive: its run is not there.
pub(super) fn is_wanted(frontend: &Frontend, error: &Error) -> bool {
    is_read(&frontend.history_archive()) && matches!(error, Error::Rejected(Rejection::NotFound(_)))
}

fn is_read(part: &PartOptions) -> bool {
    part.is_enabled && part.is_read
}

/// What the dynamic configuration leaves of what the settings file says of archiving. (Temporal: `common/archiver/archival_metadata.go`.)
pub(super) fn in_force(part: &PartOptions, switch: ArchivalSwitch, is_read: Option<bool>) -> PartOptions {
    let is_enabled = part.is_enabled && switch == ArchivalSwitch::AsConfigured;
    PartOptions { is_enabled, is_read: is_enabled && is_read.unwrap_or(part.is_read), ..part.clone() }
}

/// Reads a page of the history of a run that is in the archive.
pub(super) async fn history(
    frontend: &Frontend,
    namespace: &NamespaceRecord,
    workflow_id: &str,
    run_id: RunId,
    token: Option<ArchivedToken>,
    events_max: usize,
) -> Result<GetWorkflowExecutionHistoryResponse, Error> {
    if token.is_some_and(|token| token.run_id != run_id) {
        return Err(Error::invalid("RunId in the request does not match the NextPageToken."));
    }
    let uri = &namespace.history_archival.uri;
    if uri.is_empty() || !is_read(&frontend.history_archive()) {
        return Err(Error::invalid("Requested workflow history not found, may have passed retention period."));
    }
    let run = ArchivedRun {
        namespace_id: namespace.namespace.id,
        namespace: namespace.name().to_owned(),
        workflow_id: workflow_id.to_owned(),
        run_id,
    };
    let place = frontend.archive.place_if_there(uri).await?.ok_or(ArchiveError::NoHistory)?;
    let permit = frontend.place_for_page().await?;
    let from = token.map(|token| token.position).unwrap_or_default();
    let size = PageSize { events_max, bytes_max: limits::HISTORY_PAGE_BYTES_MAX };
    let page = read_history(&place, &run, from, size).await?;
    let next = page.next.map(|position| ArchivedToken { run_id, position }.encode());
    Ok(GetWorkflowExecutionHistoryResponse {
        message: PlainResponse {
            next_page_token: next.unwrap_or_default(),
            archived: true,
            ..PlainResponse::default()
        },
        history: Some(EncodedHistory { batches: in_place(page.batches, permit) }),
    })
}

/// Lists the runs of a namespace that are in the archive.
pub(super) async fn list_archived_workflow_executions(
    frontend: &Frontend,
    _call: Call,
    request: ListArchivedWorkflowExecutionsRequest,
) -> Result<ListArchivedWorkflowExecutionsResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let page_max = frontend.config("").frontend.archive_page_max.max(1);
    if request.page_size > page_max {
        return Err(Error::invalid(format!("PageSize is larger than allowed {page_max}.")));
    }
    let part = frontend.visibility_archive();
    if !part.is_enabled {
        return Err(Error::invalid("Cluster is not configured for visibility archival."));
    }
    if !part.is_read {
        return Err(Error::invalid("Cluster is not configured for reading archived visibility records."));
    }
    if !namespace.visibility_archival.is_enabled {
        return Err(Error::invalid("Namespace is not configured for visibility archival."));
    }
    let query = Ask::Query(request.query).read(&super::visibility::types(&namespace))?;
    let after = match request.next_page_token.as_slice() {
        [] => None,
        token => Some(RecordPosition::parse(token).ok_or_else(|| Error::invalid("next page token is corrupted"))?),
    };
    let Some(close_times) = visibility::close_times(&query) else {
        return Ok(ListArchivedWorkflowExecutionsResponse::default());
    };
    let size = if request.page_size > 0 { request.page_size } else { page_max };
    let found = find(frontend, &namespace, &query, &close_times, after, usize::try_from(size).unwrap_or(1)).await?;
    let decode = |record: Bytes| WorkflowExecutionInfo::decode(visibility::shown(record));
    let executions: Result<Vec<_>, _> = found.records.into_iter().map(decode).collect();
    Ok(ListArchivedWorkflowExecutionsResponse {
        executions: executions.map_err(|error| ArchiveError::Corrupt(error.to_string()))?,
        next_page_token: found.next.map(|position| position.to_text().into_bytes()).unwrap_or_default(),
    })
}

/// Records that match a query.
struct Found {
    records: Vec<Bytes>,
    /// Behind which there may be more.
    next: Option<RecordPosition>,
}

/// Looks for records that match, until there are enough, or enough was looked at, or is to be sent.
async fn find(
    frontend: &Frontend,
    namespace: &NamespaceRecord,
    query: &visibility::Query,
    close_times: &RangeInclusive<i64>,
    after: Option<RecordPosition>,
    limit: usize,
) -> Result<Found, Error> {
    let mut found = Found { records: Vec::new(), next: None };
    let Some(place) = frontend.archive.place_if_there(&namespace.visibility_archival.uri).await? else {
        return Ok(found);
    };
    let id = namespace.namespace.id;
    let mut records = Records::open(place, id, close_times, after, limits::ARCHIVE_READS_MAX).await?;
    let (mut looked_at, mut bytes) = (0, 0);
    loop {
        let page = records.next(limits::ARCHIVE_READS_MAX).await?;
        if page.is_empty() {
            return Ok(found);
        }
        for (position, record) in page {
            looked_at += 1;
            let parsed = Record::parse(&record);
            let parsed = parsed.ok_or_else(|| ArchiveError::Corrupt(format!("{} is no record", position.to_text())))?;
            if query.filter.as_ref().is_none_or(|filter| filter.matches(&parsed)) {
                bytes += record.len();
                found.records.push(record);
            }
            let is_enough = found.records.len() >= limit || bytes >= limits::HISTORY_PAGE_BYTES_MAX;
            if is_enough || looked_at >= limits::ARCHIVE_RECORDS_MAX {
                found.next = Some(position);
                return Ok(found);
            }
        }
    }
}

impl From<ArchiveError> for Error {
    fn from(error: ArchiveError) -> Error {
        match error {
            ArchiveError::Uri(message) => Error::Unknown(message),
            ArchiveError::NoHistory => Error::not_found(error.to_string()),
            ArchiveError::Unavailable(_) => Error::Unavailable(error.to_string()),
            ArchiveError::Corrupt(_) => Error::Corrupt(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_they_were_written() {
        let token = ArchivedToken { run_id: RunId([1; 16]), position: HistoryPosition { object: 3, batch: 70 } };
        let bytes = token.encode();
        assert_eq!(bytes, b"archive/01010101-0101-0101-0101-010101010101/3/70");
        assert_eq!(ArchivedToken::decode(&bytes), Some(token));
        for text in ["", "archive/", "archive/x/1/2", "archive/01010101-0101-0101-0101-010101010101/3/70/1"] {
            assert_eq!(ArchivedToken::decode(text.as_bytes()), None, "{text}");
        }
    }
}
