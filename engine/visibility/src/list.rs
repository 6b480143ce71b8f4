//! Lists and counts over all partitions.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::Namespace;
use everlog_model::{WorkflowRef, limits};
use everlog_proto::api::common::v1::Payload;
use everlog_proto::api::workflowservice::v1::CountWorkflowExecutionsResponse;
use everlog_proto::api::workflowservice::v1::count_workflow_executions_response::AggregationGroup;
use everlog_raft::{Group, ReadConsistency};
use everlog_storage::keys::{KeyRange, after, visibility_range};
use everlog_storage::state::Row;
use futures::future::try_join_all;

use super::field::status_name;
use super::plan;
use super::scan::{Rows, Scan, step};
use super::tallies::{ByStatus, Segment, Tallies, TallyKey, add};
use super::{Filter, Query, SearchAttributeTypes, VisibilityError};

/// A page of the runs that match a query: encoded `WorkflowExecutionInfo`s, newest first, and the token of the next page
/// (empty: there is none). `groups_of` finds the groups that hold a workflow, or all of them. A page size that is not positive, or beyond [`limits::VISIBILITY_PAGE_SIZE_MAX`], is that.
///
/// # Errors
///
/// [`VisibilityError::InvalidArgument`] for a query or token that cannot be read; the others when a partition cannot answer.
pub async fn list(
    groups_of: impl Fn(Option<&WorkflowRef>) -> Vec<Group>,
    namespace: &Arc<Namespace>,
    query: &str,
    types: &SearchAttributeTypes,
    page_size: i32,
    token: &[u8],
) -> Result<(Vec<Bytes>, Vec<u8>), VisibilityError> {
    list_matching(groups_of, namespace, Query::parse(query, types)?, page_size, token).await
}

/// As [`list`], of a query that has been read already.
///
/// # Errors
///
/// As [`list`].
pub async fn list_matching(
    groups_of: impl Fn(Option<&WorkflowRef>) -> Vec<Group>,
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
    let (groups, ranges) = within(groups_of, namespace, query.filter.as_ref()).await?;
    let ranges = behind(ranges, namespace, position);
    let filter = Arc::new(query.filter);
    let scans = groups.iter().map(|group| Scan::new(rows(group), ranges.clone(), filter.clone())).collect();
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
    groups_of: impl Fn(Option<&WorkflowRef>) -> Vec<Group>,
    tallies: &Arc<Tallies>,
    namespace: &Arc<Namespace>,
    query: &str,
    types: &SearchAttributeTypes,
) -> Result<CountWorkflowExecutionsResponse, VisibilityError> {
    let query = Query::parse(query, types)?;
    let is_grouped = query.group_by.is_some();
    let (groups, ranges) = within(groups_of, namespace, query.filter.as_ref()).await?;
    let written_out = format!("{:?}", query.filter);
    let filter = Arc::new(query.filter);
    let count = |group: &Group| {
        let key = TallyKey { group: group.id(), namespace: namespace.id, filter: written_out.clone() };
        count_by_status(tallies.clone(), key, rows(group), ranges.clone(), filter.clone())
    };
    let mut by_status = ByStatus::new();
    for counted in try_join_all(groups.iter().map(count)).await? {
        add(&mut by_status, &counted);
    }
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

/// The partitions that a filter concerns, once they see all that was acknowledged before, and the ranges of their rows.
async fn within(
    groups_of: impl Fn(Option<&WorkflowRef>) -> Vec<Group>,
    namespace: &Arc<Namespace>,
    filter: Option<&Filter>,
) -> Result<(Vec<Group>, Vec<KeyRange>), VisibilityError> {
    let bound = plan::bound(filter);
    let workflow = bound
        .workflow_id
        .as_ref()
        .map(|workflow_id| WorkflowRef { namespace: namespace.clone(), workflow_id: workflow_id.as_str().into() });
    let groups = groups_of(workflow.as_ref());
    let barriers = groups.iter().map(|group| group.read_barrier(ReadConsistency::Lease));
    try_join_all(barriers).await.map_err(|error| VisibilityError::Unavailable(error.to_string()))?;
    Ok((groups, bound.ranges(namespace.id)))
}

fn rows(group: &Group) -> Rows {
    let (visited, watched) = (group.clone(), group.clone());
    Rows {
        visit: Arc::new(move |range, visit| visited.visit(&range.start[..]..&range.end[..], visit)),
        watch: Arc::new(move |range| watched.watch_rows(&range.start[..]..&range.end[..])),
    }
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
                sources = step(move || find(sources, missing)).await?;
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
        self.found.front().map(|(key, _)| key).or_else(|| self.scan.next_range().map(|range| &range.start))
    }

    fn compare(self: &&mut Source, other: &&mut Source) -> std::cmp::Ordering {
        self.next_key().cmp(&other.next_key())
    }
}

/// Takes every source that has run dry one step on. Blocks.
fn find(mut sources: Vec<Source>, missing: usize) -> Result<Vec<Source>, VisibilityError> {
    let wanted = share(missing, sources.len());
    let is_dry = |source: &Source| source.found.is_empty() && source.scan.next_range().is_some();
    let rows_max = limits::VISIBILITY_SCAN_ROWS / sources.iter().filter(|source| is_dry(source)).count().max(1);
    for source in sources.iter_mut().filter(|source| is_dry(source)) {
        let (scan, found) = (&mut source.scan, &mut source.found);
        let mut rows_left = rows_max.max(1);
        while found.len() < wanted && rows_left > 0 && scan.next_range().is_some() {
            rows_left -= scan.examine(rows_left, |key, record, _| {
                found.push_back((Bytes::copy_from_slice(key), Bytes::copy_from_slice(record)));
                if found.len() < wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
    }
    Ok(sources)
}

/// How many of `missing` rows to look for in each of `sources`. They are spread evenly, but for chance: with twice the square root on
/// top it is seldom that one has more to give, which would take another step.
fn share(missing: usize, sources: usize) -> usize {
    let even = missing.div_ceil(sources.max(1));
    missing.min(even + 2 * even.isqrt() + 2)
}

/// The rows of a partition that match, by status.
async fn count_by_status(
    tallies: Arc<Tallies>,
    key: TallyKey,
    rows: Rows,
    ranges: Vec<KeyRange>,
    filter: Arc<Option<Filter>>,
) -> Result<ByStatus, VisibilityError> {
    let (mut total, unknown) = tallies.known(&key, ranges);
    let mut scan = Scan::new(rows, unknown, filter);
    while scan.next_range().is_some() {
        let segment;
        (scan, segment) = step(move || count_segment(scan)).await?;
        add(&mut total, &segment.by_status);
        tallies.remember(&key, segment, &scan.rows);
    }
    Ok(total)
}

/// Counts up to [`limits::VISIBILITY_SCAN_ROWS`] rows. Blocks.
fn count_segment(mut scan: Scan) -> Result<(Scan, Segment), VisibilityError> {
    let mut range = scan.next_range().cloned().unwrap_or_default();
    let watch = (scan.rows.watch)(&range);
    let mut by_status = ByStatus::new();
    let rows = scan.examine(limits::VISIBILITY_SCAN_ROWS, |_, _, status| {
        *by_status.entry(status).or_default() += 1;
        ControlFlow::Continue(())
    })?;
    if let Some(rest) = scan.next_range().filter(|rest| rest.end == range.end) {
        range.end = rest.start.clone();
        watch.end_at(&range.end);
    }
    Ok((scan, Segment { range, watch, rows, by_status }))
}

/// The part of a visibility key behind the namespace: close time, start time, run id.
type Position = [u8; 32];

/// The first byte of a token, for when its form changes.
const TOKEN_VERSION: u8 = 1;

fn key_prefix(namespace: &Namespace) -> Bytes {
    // The range of a namespace begins with its prefix.
    visibility_range(&namespace.id.0).start
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
