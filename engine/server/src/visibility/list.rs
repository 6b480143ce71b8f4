//! Lists and counts over all partitions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::Namespace;
use everlog_proto::api::common::v1::Payload;
use everlog_proto::api::workflowservice::v1::CountWorkflowExecutionsResponse;
use everlog_proto::api::workflowservice::v1::count_workflow_executions_response::AggregationGroup;
use everlog_raft::{Group, ReadConsistency};
use everlog_storage::keys::{KeyRange, VisibilityKey, after};
use everlog_storage::state::{Direction, Row};
use futures::future::try_join_all;

use super::field::status_name;
use super::plan;
use super::scan::{ReadRows, Scan};
use super::{Query, SearchAttributeTypes, VisibilityError};
use crate::limits;
use crate::partition::{Address, Partitions};

/// A page of the runs that match a query: encoded `WorkflowExecutionInfo`s, newest first, and the token of the next page
/// (empty: there is none). A page size that is not positive, or beyond [`limits::VISIBILITY_PAGE_SIZE_MAX`], is that.
///
/// # Errors
///
/// [`VisibilityError::InvalidArgument`] for a query or token that cannot be read; the others when a partition cannot answer.
pub async fn list(
    partitions: &Partitions,
    namespace: &Arc<Namespace>,
    query: &str,
    types: &SearchAttributeTypes,
    page_size: i32,
    token: &[u8],
) -> Result<(Vec<Bytes>, Vec<u8>), VisibilityError> {
    list_matching(partitions, namespace, Query::parse(query, types)?, page_size, token).await
}

/// As [`list`], of a query that has been read already.
///
/// # Errors
///
/// As [`list`].
pub async fn list_matching(
    partitions: &Partitions,
    namespace: &Arc<Namespace>,
    query: Query,
    page_size: i32,
    token: &[u8],
) -> Result<(Vec<Bytes>, Vec<u8>), VisibilityError> {
    let position = decode_token(token)?;
    let page_size = match usize::try_from(page_size) {
        Ok(size) if size > 0 => size.min(limits::VISIBILITY_PAGE_SIZE_MAX),
        _ => limits::VISIBILITY_PAGE_SIZE_MAX,
    };
    let scans = scans(partitions, namespace, query, position).await?;
    let (rows, has_more) = page(scans, page_size).await?;
    let token = rows.last().filter(|_| has_more).map(|(key, _)| encode_token(key)).unwrap_or_default();
    Ok((rows.into_iter().map(|(_, record)| record).collect(), token))
}

/// How many runs match a query; by status, if it says so.
///
/// # Errors
///
/// As [`list`].
pub async fn count(
    partitions: &Partitions,
    namespace: &Arc<Namespace>,
    query: &str,
    types: &SearchAttributeTypes,
) -> Result<CountWorkflowExecutionsResponse, VisibilityError> {
    let query = Query::parse(query, types)?;
    let is_grouped = query.group_by.is_some();
    let scans = scans(partitions, namespace, query, None).await?;
    let by_status = count_by_status(scans).await?;
    let groups =
        if is_grouped { by_status.iter().map(|(status, count)| group(*status, *count)).collect() } else { Vec::new() };
    Ok(CountWorkflowExecutionsResponse { count: by_status.values().sum(), groups })
}

fn group(status: i64, count: i64) -> AggregationGroup {
    let name = status_name(status).unwrap_or_default();
    let metadata = [("encoding", "json/plain"), ("type", "Keyword")];
    let payload = Payload {
        metadata: metadata.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())).into(),
        data: format!("\"{name}\"").into_bytes(),
        ..Payload::default()
    };
    AggregationGroup { group_values: vec![payload], count }
}

/// The scans of the partitions that a query concerns, behind `position`, once they see all that was acknowledged before.
async fn scans(
    partitions: &Partitions,
    namespace: &Arc<Namespace>,
    query: Query,
    position: Option<Position>,
) -> Result<Vec<Scan>, VisibilityError> {
    let bound = plan::bound(query.filter.as_ref());
    let groups: Vec<Group> = match &bound.workflow_id {
        Some(workflow_id) => {
            let address = Address { namespace: namespace.clone(), workflow_id: workflow_id.as_str().into() };
            vec![partitions.of(&address).group().clone()]
        }
        None => partitions.iter().map(|partition| partition.group().clone()).collect(),
    };
    let barriers = groups.iter().map(|group| group.read_barrier(ReadConsistency::Lease));
    try_join_all(barriers).await.map_err(|error| VisibilityError::Unavailable(error.to_string()))?;

    let ranges = behind(bound.ranges(namespace.id), namespace, position);
    let filter = Arc::new(query.filter);
    let scan = |group: Group| {
        let read: ReadRows = Arc::new(move |range: &KeyRange, limit| {
            group.scan(&range.start[..]..&range.end[..], Direction::Ascending, limit)
        });
        Scan::new(read, ranges.clone(), filter.clone())
    };
    Ok(groups.into_iter().map(scan).collect())
}

/// The ranges without what lies before and at `position`.
fn behind(ranges: Vec<KeyRange>, namespace: &Namespace, position: Option<Position>) -> Vec<KeyRange> {
    let Some(position) = position else { return ranges };
    let start = after(&[&key_prefix(namespace)[..], &position].concat());
    let cut = |range: KeyRange| range.start.max(start.clone())..range.end;
    ranges.into_iter().map(cut).filter(|range| range.start < range.end).collect()
}

/// The first rows of all scans in key order, and whether there may be more.
async fn page(scans: Vec<Scan>, page_size: usize) -> Result<(Vec<Row>, bool), VisibilityError> {
    let mut sources: Vec<Source> = scans.into_iter().map(|scan| Source { scan, found: VecDeque::new() }).collect();
    let mut rows = Vec::new();
    // A row can go out once no source can come up with one before it.
    while let Some(next) = sources.iter_mut().filter(|source| source.next_key().is_some()).min_by(Source::compare) {
        if rows.len() == page_size {
            return Ok((rows, true));
        }
        match next.found.pop_front() {
            Some(row) => rows.push(row),
            None => {
                let missing = page_size - rows.len();
                let waiting = sources.iter_mut().filter(|source| source.found.is_empty());
                try_join_all(waiting.map(|source| source.find(missing))).await?;
            }
        }
    }
    Ok((rows, false))
}

/// A scan and the matching rows that it has found.
struct Source {
    scan: Scan,
    found: VecDeque<Row>,
}

impl Source {
    /// No row before this key can come.
    fn next_key(&self) -> Option<&Bytes> {
        self.found.front().map(|(key, _)| key).or_else(|| self.scan.frontier())
    }

    fn compare(self: &&mut Source, other: &&mut Source) -> std::cmp::Ordering {
        self.next_key().cmp(&other.next_key())
    }

    /// Goes one step on.
    async fn find(&mut self, missing: usize) -> Result<(), VisibilityError> {
        if self.scan.frontier().is_some() {
            // Without a filter, more than are missing would be read for nothing.
            let rows_max = if self.scan.takes_all() {
                missing.min(limits::VISIBILITY_SCAN_ROWS)
            } else {
                limits::VISIBILITY_SCAN_ROWS
            };
            self.found = self.scan.step(rows_max, |rows| rows.map(|(row, _)| row).collect()).await?;
        }
        Ok(())
    }
}

/// Matching rows by status.
async fn count_by_status(scans: Vec<Scan>) -> Result<BTreeMap<i64, i64>, VisibilityError> {
    let counts = try_join_all(scans.into_iter().map(|mut scan| async move {
        let mut total = BTreeMap::new();
        while scan.frontier().is_some() {
            let step = scan.step(limits::VISIBILITY_SCAN_ROWS, |rows| {
                let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
                for (_, status) in rows {
                    *counts.entry(status).or_default() += 1;
                }
                counts
            });
            add(&mut total, step.await?);
        }
        Ok(total)
    }));
    let mut total = BTreeMap::new();
    for count in counts.await? {
        add(&mut total, count);
    }
    Ok(total)
}

fn add(total: &mut BTreeMap<i64, i64>, more: BTreeMap<i64, i64>) {
    for (status, count) in more {
        *total.entry(status).or_default() += count;
    }
}

/// The part of a visibility key behind the namespace: close time, start time, run id.
type Position = [u8; 32];

/// The first byte of a token, for when its form changes.
const TOKEN_VERSION: u8 = 1;

fn key_prefix(namespace: &Namespace) -> Bytes {
    // The range of a namespace begins with its prefix.
    VisibilityKey::range(&namespace.id.0).start
}

fn encode_token(key: &[u8]) -> Vec<u8> {
    let position = &key[key.len() - size_of::<Position>()..];
    [&[TOKEN_VERSION], position].concat()
}

fn decode_token(token: &[u8]) -> Result<Option<Position>, VisibilityError> {
    match token {
        [] => Ok(None),
        [TOKEN_VERSION, position @ ..] if position.len() == size_of::<Position>() => Ok(position.try_into().ok()),
        _ => Err(VisibilityError::InvalidArgument("Invalid NextPageToken.".to_owned())),
    }
}

#[cfg(test)]
mod tests;
