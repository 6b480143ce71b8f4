//! Lists and counts over partitions.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::{Namespace, NamespaceId};
use everlog_model::{Moves, SlotSet, WorkflowRef, limits};
use everlog_proto::api::common::v1::Payload;
use everlog_proto::api::workflowservice::v1::CountWorkflowExecutionsResponse;
use everlog_proto::api::workflowservice::v1::count_workflow_executions_response::AggregationGroup;
use everlog_raft::Group;
use everlog_storage::Watch;
use everlog_storage::keys::{KeyRange, after, visibility_range};
use everlog_storage::state::{Direction, Row, StateError, Visitor};
use futures::future::try_join_all;

use super::field::status_name;
use super::plan;
use super::scan::{Reader, Rows, Scan, Shown};
use super::tallies::{ByStatus, Segment, TallyKey, add};
use super::{Filter, Query, VisibilityError};

/// The part of a visibility key behind the namespace: close time, start time, run id. Lists show runs in its order.
pub type Position = [u8; 32];

/// Runs in the order of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Where each stands, and its encoded `WorkflowExecutionInfo`.
    pub runs: Vec<(Position, Bytes)>,
    /// Whether there may be more behind them.
    pub has_more: bool,
}

impl Page {
    /// The first runs, `limit` at most, of pages of up to that size that have no run in common.
    pub fn merge(pages: Vec<Page>, limit: usize) -> Page {
        // What comes behind the end of a page that was ended by its bytes is not known yet.
        let ends = pages.iter().filter(|page| page.has_more).filter_map(|page| page.runs.last());
        let known_until = ends.map(|(position, _)| *position).min();
        let has_more = pages.iter().any(|page| page.has_more);
        let mut runs: Vec<_> = pages.into_iter().flat_map(|page| page.runs).collect();
        runs.retain(|(position, _)| known_until.is_none_or(|end| *position <= end));
        runs.sort_unstable_by_key(|(position, _)| *position);
        let is_cut = runs.len() > limit;
        runs.truncate(limit);
        Page { runs, has_more: has_more || is_cut }
    }

    /// The runs as they are stored, and the token of the next page (empty: there is none).
    pub fn into_records(self) -> (Vec<Bytes>, Vec<u8>) {
        let token = self.runs.last().filter(|_| self.has_more).map(|(position, _)| encode_token(position));
        (self.runs.into_iter().map(|(_, record)| record).collect(), token.unwrap_or_default())
    }

    /// The encoded runs as lists show them, and the token of the next page (empty: there is none).
    pub fn into_response(self) -> (Vec<Bytes>, Vec<u8>) {
        let (records, token) = self.into_records();
        (records.into_iter().map(super::shown::entry).collect(), token)
    }
}

/// The runs of a page that is asked for: a number that is not positive, or beyond [`limits::VISIBILITY_PAGE_SIZE_MAX`], is that.
pub fn page_size(asked_for: i32) -> usize {
    match usize::try_from(asked_for) {
        Ok(size) if size > 0 => size.min(limits::VISIBILITY_PAGE_SIZE_MAX),
        _ => limits::VISIBILITY_PAGE_SIZE_MAX,
    }
}

/// The only workflow whose runs can match a query, if there is such a one.
pub fn only_workflow(namespace: &Arc<Namespace>, query: &Query) -> Option<WorkflowRef> {
    let workflow_id = plan::bound(query.filter.as_ref()).workflow_id?;
    Some(WorkflowRef { namespace: Arc::clone(namespace), workflow_id: workflow_id.as_str().into() })
}

/// Up to `limit` of the runs in some partitions that match a query and stand behind `after`, by what is applied here: whoever must not miss anything that was
/// acknowledged makes sure before that these partitions are led here.
///
/// # Errors
///
/// When a partition cannot answer, or has moved some of the runs since whoever asks has planned.
pub async fn list(
    reader: &Reader,
    whose: Whose,
    namespace: &Namespace,
    query: Query,
    after: Option<Position>,
    limit: usize,
) -> Result<Page, VisibilityError> {
    let ranges = behind(plan::bound(query.filter.as_ref()).ranges(namespace.id), namespace, after);
    let filter = Arc::new(query.filter);
    let scans = reader.step(move || whose.views(&ranges, &filter)).await?;
    let (rows, has_more) = page(reader, scans, limit).await?;
    let runs = rows.into_iter().map(|(key, record)| Some((position_of(&key)?, record))).collect::<Option<_>>();
    let runs = runs.ok_or_else(|| VisibilityError::Internal("a visibility row without a position".to_owned()))?;
    Ok(Page { runs, has_more })
}

/// How many runs in some partitions match a query, by status; as [`list`].
///
/// # Errors
///
/// As [`list`].
pub async fn count(
    reader: &Reader,
    whose: Whose,
    namespace: &Namespace,
    query: Query,
) -> Result<ByStatus, VisibilityError> {
    let ranges = plan::bound(query.filter.as_ref()).ranges(namespace.id);
    let filter = Arc::new(query.filter);
    let count = |(group, slots): &(Group, Option<SlotSet>)| {
        let (group, slots) = (group.clone(), slots.clone());
        let (ranges, filter) = (ranges.clone(), Arc::clone(&filter));
        let (real, lists) = (whose.namespace_id, namespace.id);
        async move {
            let looked_for = slots.unwrap_or_else(SlotSet::all);
            let moving = group.clone();
            let (shown, looked_for) = reader
                .step(move || Ok((shown(real, &looked_for, |range| rows_of(&moving, &range))?, looked_for)))
                .await?;
            // What is hidden is counted under another name.
            let filter_text = match &shown {
                None => format!("{filter:?}"),
                Some(_) => format!("{filter:?} {looked_for}"),
            };
            let key = TallyKey { group: group.id(), namespace: lists, filter: filter_text };
            let counted = count_by_status(reader, key, rows(&group), ranges, filter, shown).await?;
            // Rows that a step took away meanwhile are missing; that it did is written down before.
            reader.step(move || self::shown(real, &looked_for, |range| rows_of(&group, &range))).await?;
            Ok::<_, VisibilityError>(counted)
        }
    };
    let mut by_status = ByStatus::new();
    for counted in try_join_all(whose.parts.iter().map(count)).await? {
        add(&mut by_status, &counted);
    }
    Ok(by_status)
}

/// Whose runs are looked for, and where.
#[derive(Clone)]
pub struct Whose {
    /// The namespace. Lists of what is no workflow have ids of their own.
    pub namespace_id: NamespaceId,
    /// The partitions, with the slots that are looked for in each: all, if nothing is known of a move.
    pub parts: Vec<(Group, Option<SlotSet>)>,
}

impl Whose {
    /// The rows of all partitions, each as they are at one moment: a run that closes meanwhile changes its place, and would be seen twice. Blocks.
    fn views(self, ranges: &[KeyRange], filter: &Arc<Option<Filter>>) -> Result<Vec<Scan>, VisibilityError> {
        let namespace_id = self.namespace_id;
        let scan = |(group, slots): (Group, Option<SlotSet>)| {
            let all: Vec<_> = ranges.iter().cloned().chain(Moves::ranges()).collect();
            let view = group.view(&all).map_err(|error| VisibilityError::Internal(error.to_string()))?;
            let looked_for = slots.unwrap_or_else(SlotSet::all);
            let shown =
                shown(namespace_id, &looked_for, |range| view.rows(&range.start[..]..&range.end[..], usize::MAX))?;
            let visit = move |range: &KeyRange, visit: Visitor<'_>| view.visit(&range.start[..]..&range.end[..], visit);
            let rows = Rows { visit: Arc::new(visit), ..rows(&group) };
            Ok(Scan::new(rows, ranges.to_vec(), Arc::clone(filter)).of(shown))
        };
        self.parts.into_iter().map(scan).collect()
    }
}

/// Which runs of a partition are to be shown to whoever looks for some slots in it: all, if no other is there.
///
/// # Errors
///
/// [`VisibilityError::Outdated`] if one of the slots is not here, or not any more.
fn shown(
    namespace_id: NamespaceId,
    looked_for: &SlotSet,
    scan: impl Fn(KeyRange) -> Result<Vec<Row>, StateError>,
) -> Result<Option<Shown>, VisibilityError> {
    let moves = Moves::read(scan).map_err(VisibilityError::Internal)?;
    moves.check_asker(namespace_id, looked_for).map_err(|behind| VisibilityError::Outdated(behind.to_string()))?;
    let hides = moves.hides(namespace_id, looked_for);
    Ok(hides.then(|| Shown { namespace_id, slots: looked_for.clone() }))
}

/// The rows of a partition in a range, as they are.
fn rows_of(group: &Group, range: &KeyRange) -> Result<Vec<Row>, StateError> {
    group.scan(&range.start[..]..&range.end[..], Direction::Ascending, usize::MAX)
}

/// Counts as they are told: by status, if the query is `is_grouped`.
pub fn counted(by_status: &ByStatus, is_grouped: bool) -> CountWorkflowExecutionsResponse {
    let groups =
        if is_grouped { by_status.iter().map(|(status, count)| group(*status, *count)).collect() } else { Vec::new() };
    CountWorkflowExecutionsResponse { count: by_status.values().sum(), groups }
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

/// The rows as they are.
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

/// The first rows of all scans in key order, as many as make a page, and whether there may be more.
async fn page(reader: &Reader, scans: Vec<Scan>, page_size: usize) -> Result<(Vec<Row>, bool), VisibilityError> {
    let mut sources: Vec<Source> = scans.into_iter().map(|scan| Source { scan, found: VecDeque::new() }).collect();
    let (mut rows, mut bytes) = (Vec::new(), 0);
    // A row can go out once no source can come up with one before it.
    while let Some(next) = sources.iter_mut().filter(|source| source.next_key().is_some()).min_by(Source::compare) {
        if rows.len() == page_size || bytes >= limits::VISIBILITY_PAGE_BYTES_MAX {
            return Ok((rows, true));
        }
        match next.found.pop_front() {
            Some(row) => {
                bytes += row.1.len();
                rows.push(row);
            }
            None => {
                let missing = page_size - rows.len();
                sources = reader.step(move || find(sources, missing)).await?;
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
    let dry = sources.iter().filter(|source| is_dry(source)).count().max(1);
    let bytes_max = limits::VISIBILITY_PAGE_BYTES_MAX / dry;
    for source in sources.iter_mut().filter(|source| is_dry(source)) {
        let (scan, found) = (&mut source.scan, &mut source.found);
        let (mut rows_left, mut bytes) = ((scan.step_rows() / dry).max(1), 0);
        while found.len() < wanted && bytes < bytes_max && rows_left > 0 && scan.next_range().is_some() {
            rows_left -= scan.examine(rows_left, |key, record, _| {
                found.push_back((Bytes::copy_from_slice(key), Bytes::copy_from_slice(record)));
                bytes += record.len();
                let goes_on = found.len() < wanted && bytes < bytes_max;
                if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
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

/// How often runs are counted until they have not changed meanwhile. Where they always do, a count is of no moment.
const COUNT_TIMES_MAX: usize = 4;

/// The rows of a partition that match, by status.
async fn count_by_status(
    reader: &Reader,
    key: TallyKey,
    rows: Rows,
    ranges: Vec<KeyRange>,
    filter: Arc<Option<Filter>>,
    shown: Option<Shown>,
) -> Result<ByStatus, VisibilityError> {
    let mut times = 0;
    loop {
        let watches: Vec<_> = ranges.iter().map(|range| (rows.watch)(range)).collect();
        let (mut total, unknown) = reader.tallies.known(&key, ranges.clone());
        let mut scan = Scan::new(rows.clone(), unknown, filter.clone()).of(shown.clone());
        while scan.next_range().is_some() {
            let segment;
            (scan, segment) = reader.step(move || count_segment(scan)).await?;
            add(&mut total, &segment.by_status);
            reader.tallies.remember(&key, segment, &scan.rows);
        }
        times += 1;
        // A run that closed meanwhile may be counted twice. What is known already is not read again.
        if times == COUNT_TIMES_MAX || !watches.iter().any(Watch::is_changed) {
            return Ok(total);
        }
    }
}

/// Counts as many rows as a step examines. Blocks.
fn count_segment(mut scan: Scan) -> Result<(Scan, Segment), VisibilityError> {
    let mut range = scan.next_range().cloned().unwrap_or_default();
    let watch = (scan.rows.watch)(&range);
    let mut by_status = ByStatus::new();
    let rows = scan.examine(scan.step_rows(), |_, _, status| {
        *by_status.entry(status).or_default() += 1;
        ControlFlow::Continue(())
    })?;
    if let Some(rest) = scan.next_range().filter(|rest| rest.end == range.end) {
        range.end = rest.start.clone();
        watch.end_at(&range.end);
    }
    Ok((scan, Segment { range, watch, rows, by_status }))
}

/// The first byte of a token, for when its form changes.
const TOKEN_VERSION: u8 = 1;

fn key_prefix(namespace: &Namespace) -> Bytes {
    // The range of a namespace begins with its prefix.
    visibility_range(&namespace.id.0).start
}

fn position_of(key: &[u8]) -> Option<Position> {
    key.last_chunk().copied()
}

fn encode_token(position: &Position) -> Vec<u8> {
    [&[TOKEN_VERSION], &position[..]].concat()
}

/// The position that a token of the next page names; `None` for the first page.
///
/// # Errors
///
/// [`VisibilityError::InvalidArgument`] if it is none.
pub fn decode_token(token: &[u8]) -> Result<Option<Position>, VisibilityError> {
    match token {
        [] => Ok(None),
        [TOKEN_VERSION, position @ ..] if position.len() == size_of::<Position>() => Ok(position.try_into().ok()),
        _ => Err(VisibilityError::InvalidArgument("Invalid NextPageToken.".to_owned())),
    }
}

#[cfg(test)]
mod tests;
