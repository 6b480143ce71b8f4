use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use everlog_kernel::transition::VisibilityKey;
use everlog_kernel::{NamespaceId, RunId, Time};
use everlog_model::rows;
use everlog_proto::api::common::v1::{Memo, WorkflowExecution};
use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
use everlog_proto::wkt;
use everlog_storage::GroupId;
use everlog_storage::state::{Direction, RowBatch, StateEngine};
use everlog_storage::twin::CrashState;
use prost::Message;

use super::*;
use crate::SearchAttributeTypes;

fn namespace() -> Namespace {
    Namespace {
        id: NamespaceId([7; 16]),
        name: "default".to_owned(),
        retention: Duration::ZERO,
        ..Namespace::default()
    }
}

/// Partitions in memory.
struct Store {
    state: Arc<CrashState>,
    groups: Vec<GroupId>,
    read: Arc<AtomicUsize>,
    reader: Reader,
}

/// The row of run `n`: every third is open, start times repeat.
fn row(n: i64) -> (VisibilityKey, Vec<u8>) {
    let close = (n % 3 != 0).then_some((n * 7919) % 1000);
    let start = n % 50;
    let mut run_id = [0; 16];
    run_id[..8].copy_from_slice(&n.to_be_bytes());
    let close_time = close.map_or(Time::MAX, Time);
    let key = VisibilityKey { close_time, start_time: Time(start), run_id: RunId(run_id) };
    let time = |nanos: i64| wkt::Timestamp { seconds: 0, nanos: nanos as i32 };
    let info = WorkflowExecutionInfo {
        execution: Some(WorkflowExecution { workflow_id: format!("w{n}"), run_id: n.to_string() }),
        start_time: Some(time(start)),
        close_time: close.map(time),
        status: if close.is_some() { 2 + (n % 2) as i32 } else { 1 },
        ..WorkflowExecutionInfo::default()
    };
    (key, info.encode_to_vec())
}

fn encoded(key: &VisibilityKey) -> Bytes {
    rows::visibility_key(namespace().id, key)
}

impl Store {
    /// Runs `0..runs`, spread over the partitions.
    fn new(partitions: usize, runs: i64) -> Store {
        let state = Arc::new(CrashState::new(1));
        let groups = (1..=partitions as u32).map(GroupId).collect();
        let store = Store { state, groups, read: Arc::default(), reader: Reader::default() };
        let mut batches = vec![RowBatch::new(); partitions];
        for n in 0..runs {
            let (key, record) = row(n);
            batches[n as usize * 31 % partitions].put(encoded(&key), record);
        }
        for (group, batch) in store.groups.iter().zip(batches) {
            store.commit(*group, batch);
        }
        store
    }

    fn commit(&self, group: GroupId, batch: RowBatch) {
        self.state.commit(group, b"", &[batch]).unwrap();
    }

    fn rows(&self, group: GroupId) -> Rows {
        let (visited, watched, read) = (self.state.clone(), self.state.clone(), self.read.clone());
        Rows {
            visit: Arc::new(move |range, visit| {
                let mut counted = |key: &[u8], value: &[u8]| {
                    read.fetch_add(1, Ordering::Relaxed);
                    visit(key, value)
                };
                visited.visit(group, &range.start[..]..&range.end[..], &mut counted)
            }),
            watch: Arc::new(move |range| watched.watch(group, &range.start[..]..&range.end[..])),
        }
    }

    fn scans(&self, query: &str, token: &[u8]) -> Vec<Scan> {
        let query = Query::parse(query, &SearchAttributeTypes::new()).unwrap();
        let ranges = plan::bound(query.filter.as_ref()).ranges(namespace().id);
        let ranges = behind(ranges, &namespace(), decode_token(token).unwrap());
        let filter = Arc::new(query.filter);
        self.groups.iter().map(|group| Scan::new(self.rows(*group), ranges.clone(), filter.clone())).collect()
    }

    async fn count(&self, reader: &Reader, query: &str) -> Result<ByStatus, VisibilityError> {
        let filter = Arc::new(Query::parse(query, &SearchAttributeTypes::new()).unwrap().filter);
        let ranges = plan::bound((*filter).as_ref()).ranges(namespace().id);
        let mut total = ByStatus::new();
        for group in &self.groups {
            let key = TallyKey { group: *group, namespace: namespace().id, filter: format!("{filter:?}") };
            let rows = self.rows(*group);
            add(&mut total, &count_by_status(reader, key, rows, ranges.clone(), filter.clone(), None).await?);
        }
        Ok(total)
    }

    /// Rows that were read since the last call.
    fn read(&self) -> usize {
        self.read.swap(0, Ordering::Relaxed)
    }

    /// Keys of all pages, page by page.
    async fn pages(&self, query: &str, page_size: usize) -> Vec<Vec<Bytes>> {
        let (mut pages, mut token) = (Vec::new(), Vec::new());
        loop {
            let (rows, has_more) = page(&self.reader, self.scans(query, &token), page_size).await.unwrap();
            if let Some((last, _)) = rows.last() {
                token = encode_token(&position_of(last).unwrap());
            }
            pages.push(rows.into_iter().map(|(key, _)| key).collect());
            if !has_more {
                return pages;
            }
        }
    }

    fn all_keys(&self) -> Vec<Bytes> {
        let keys = |group: &GroupId| {
            let rows = self.state.scan(*group, &[1]..&[0xff], Direction::Ascending, usize::MAX).unwrap();
            rows.into_iter().map(|(key, _)| key)
        };
        let mut keys: Vec<Bytes> = self.groups.iter().flat_map(keys).collect();
        keys.sort();
        keys
    }
}

fn decoded(key: &Bytes) -> VisibilityKey {
    VisibilityKey::from_bytes(&key[visibility_range(&namespace().id.0).start.len()..]).unwrap()
}

#[tokio::test]
async fn pages_are_in_global_order_and_join_on_to_each_other() {
    let rows = Store::new(4, 2000);
    let all = rows.all_keys();
    for page_size in [1000, 999, 137, 2000, 5000] {
        let pages = rows.pages("", page_size).await;
        assert!(pages.iter().rev().skip(1).all(|page| page.len() == page_size));
        assert_eq!(pages.concat(), all, "pages of {page_size}");
    }
    // Open runs first, then the latest close time.
    let order = |key: &Bytes| {
        (std::cmp::Reverse(decoded(key).close_time), std::cmp::Reverse(decoded(key).start_time), decoded(key).run_id)
    };
    assert!(all.is_sorted_by_key(order));
}

#[tokio::test]
async fn a_page_of_large_records_ends_early() {
    const LARGE_BYTES: usize = 1 << 20;
    let rows = Store::new(3, 30);
    for n in 0..30 {
        let (key, record) = row(n);
        let memo =
            Memo { fields: [("k".to_owned(), Payload { data: vec![7; LARGE_BYTES], ..Payload::default() })].into() };
        let large = WorkflowExecutionInfo { memo: Some(memo), ..WorkflowExecutionInfo::decode(&record[..]).unwrap() };
        let mut batch = RowBatch::new();
        batch.put(encoded(&key), large.encode_to_vec());
        rows.commit(rows.groups[n as usize * 31 % rows.groups.len()], batch);
    }
    let pages = rows.pages("", 1000).await;
    assert!(pages.iter().rev().skip(1).all(|page| page.len() == limits::VISIBILITY_PAGE_BYTES_MAX / LARGE_BYTES));
    assert_eq!(pages.concat(), rows.all_keys());
    let pages = rows.pages("", 3).await;
    assert!(pages.iter().rev().skip(1).all(|page| page.len() == 3));
    assert_eq!(pages.concat(), rows.all_keys());
}

#[tokio::test]
async fn a_filter_leaves_the_order_and_the_pages_as_they_are() {
    let rows = Store::new(3, 2000);
    let is_asked = |key: &Bytes| (100..=300).contains(&decoded(key).close_time.0);
    let expected: Vec<Bytes> = rows.all_keys().into_iter().filter(is_asked).collect();
    assert!(expected.len() > 200);
    for page_size in [7, 100, 1000] {
        assert_eq!(rows.pages("CloseTime BETWEEN 100 AND 300", page_size).await.concat(), expected);
    }
    assert_eq!(rows.pages("WorkflowId = 'w1234'", 10).await.concat().len(), 1);
    assert!(rows.pages("WorkflowId = 'nobody'", 10).await.concat().is_empty());
}

#[tokio::test]
async fn few_more_rows_are_read_than_are_asked_for() {
    let store = Store::new(4, 2000);
    page(&store.reader, store.scans("", &[]), 10).await.unwrap();
    assert!(store.read() <= 40);
    page(&store.reader, store.scans("", &[]), 100).await.unwrap();
    assert!(store.read() <= 160);
    page(&store.reader, store.scans("ExecutionStatus = 'Running'", &[]), 1000).await.unwrap();
    assert!(store.read() <= 2000_usize.div_ceil(3));
    page(&store.reader, store.scans("CloseTime > 900", &[]), 1000).await.unwrap();
    assert!(store.read() <= 150);
    // Every second one matches.
    let store = Store::new(5, 2000);
    page(&store.reader, store.scans("ExecutionStatus = 'Failed'", &[]), 100).await.unwrap();
    assert!(store.read() <= 400);
}

#[tokio::test]
async fn counts_by_status() {
    let store = Store::new(4, 2000);
    let counted = store.count(&store.reader, "").await.unwrap();
    assert_eq!(counted, [(1, 667), (2, 666), (3, 667)].into());
    let counted = store.count(&store.reader, "ExecutionStatus != 2 AND StartTime < 10").await.unwrap();
    assert_eq!(counted.values().sum::<i64>(), 267);
    let group = group(1, 667);
    assert_eq!(group.group_values[0].data, b"\"Running\"");
}

#[tokio::test]
async fn a_count_reads_rows_again_only_where_something_changed() {
    let store = Store::new(1, 50_000);
    let group = store.groups[0];
    let closed = "ExecutionStatus = 'Completed'";
    assert_eq!(store.count(&store.reader, closed).await.unwrap(), [(2, 16_666)].into());
    assert_eq!(store.read(), 33_333);
    assert_eq!(store.count(&store.reader, closed).await.unwrap(), [(2, 16_666)].into());
    assert_eq!(store.read(), 0);
    // What another filter finds is its own.
    assert_eq!(store.count(&store.reader, "ExecutionStatus = 'Failed'").await.unwrap(), [(3, 16_667)].into());
    assert_eq!(store.read(), 33_333);
    // An open run starts: no closed one is read. One closes, and closed ones are deleted: those around them are read.
    let put = |n: i64, close_time: Option<i64>| {
        let (key, record) = row(n);
        let mut batch = RowBatch::new();
        batch.put(encoded(&VisibilityKey { close_time: close_time.map_or(Time::MAX, Time), ..key }), record);
        batch
    };
    store.commit(group, put(60_000, None));
    assert_eq!(store.count(&store.reader, closed).await.unwrap(), [(2, 16_666)].into());
    assert_eq!(store.read(), 0);
    for (n, expected) in [(60_002, 16_667), (60_004, 16_668), (60_008, 16_669)] {
        store.commit(group, put(n, Some(2000 + n)));
        assert_eq!(store.count(&store.reader, closed).await.unwrap(), [(2, expected)].into());
        assert!((1..=limits::VISIBILITY_TALLY_SEGMENT_ROWS + 4).contains(&store.read()));
    }
    let oldest = visibility_range(&namespace().id.0).end;
    let last = store.all_keys().pop().unwrap();
    let mut batch = RowBatch::new();
    batch.delete_range(last, oldest);
    store.commit(group, batch);
    let left = store.count(&store.reader, closed).await.unwrap();
    assert!((1..=limits::VISIBILITY_TALLY_SEGMENT_ROWS + 4).contains(&store.read()));
    assert_eq!(left, store.count(&Reader::default(), closed).await.unwrap());
}

/// Rows come and go at random, and counts with and without a memory agree.
#[tokio::test]
async fn remembered_counts_are_exact() {
    let store = Store::new(2, 9000);
    let queries = ["", "ExecutionStatus = 2", "StartTime < 25", "CloseTime BETWEEN 100 AND 300", "WorkflowId = 'w77'"];
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..200 {
        let group = store.groups[random(2) as usize];
        let mut batch = RowBatch::new();
        let (key, record) = row(random(12_000) as i64);
        match random(3) {
            0 => batch.put(encoded(&key), record),
            1 => batch.delete(encoded(&key)),
            _ => batch.delete_range(encoded(&key), encoded(&row(random(12_000) as i64).0)[..30].to_vec()),
        }
        if random(4) > 0 {
            store.commit(group, batch);
        }
        let query = queries[random(queries.len() as u64) as usize];
        let remembered = store.count(&store.reader, query).await.unwrap();
        assert_eq!(remembered, store.count(&Reader::default(), query).await.unwrap(), "{query}");
    }
}

#[tokio::test]
async fn no_more_counts_are_remembered_than_may_be() {
    let store = Store::new(1, 10);
    for n in 0..limits::VISIBILITY_TALLY_SEGMENTS_MAX + 10 {
        store.count(&store.reader, &format!("ExecutionStatus = 2 AND StartTime < {n}")).await.unwrap();
    }
    store.read();
    store.count(&store.reader, "ExecutionStatus = 2 AND StartTime < 20").await.unwrap();
    assert_eq!(store.read(), 0);
    store.count(&store.reader, "ExecutionStatus = 2 AND StartTime < 5").await.unwrap();
    assert_eq!(store.read(), 6);
}

#[tokio::test]
async fn a_row_that_is_no_record_is_an_error() {
    let store = Store::new(1, 1);
    let mut batch = RowBatch::new();
    batch.put(encoded(&row(0).0), Bytes::from_static(&[0xff]));
    store.commit(store.groups[0], batch);
    assert!(matches!(page(&store.reader, store.scans("", &[]), 10).await, Err(VisibilityError::Internal(_))));
    assert!(matches!(store.count(&Reader::default(), "").await, Err(VisibilityError::Internal(_))));
}

#[test]
fn pages_become_one() {
    let page = |numbers: &[u8], has_more| {
        let runs = numbers.iter().map(|number| ([*number; 32], Bytes::copy_from_slice(&[*number]))).collect();
        Page { runs, has_more }
    };
    let merged = |pages: Vec<Page>| {
        let Page { runs, has_more } = Page::merge(pages, 3);
        (runs.iter().map(|(_, record)| record[0]).collect::<Vec<_>>(), has_more)
    };
    assert_eq!(merged(vec![page(&[2, 5], false), page(&[], false), page(&[3], false)]), (vec![2, 3, 5], false));
    assert_eq!(merged(vec![page(&[2, 5], false), page(&[1, 9], false)]), (vec![1, 2, 5], true));
    assert_eq!(merged(vec![page(&[1, 2, 3], true), page(&[], false)]), (vec![1, 2, 3], true));
    assert_eq!(
        merged(vec![page(&[2], true), page(&[1, 3], false)]),
        (vec![1, 2], true),
        "what follows 2 on the first may stand before 3"
    );
    assert_eq!(Page::merge(vec![page(&[1, 2], true)], 2).into_response().1, [&[1][..], &[2; 32]].concat());
    assert!(page(&[1, 2], false).into_response().1.is_empty());
}

#[test]
fn tokens() {
    let key = Store::new(1, 1).all_keys().remove(0);
    let token = encode_token(&position_of(&key).unwrap());
    assert_eq!(decode_token(&token).unwrap().unwrap(), key[17..]);
    assert_eq!(decode_token(&[]).unwrap(), None);
    for wrong in [&[1][..], &[2; 33], &[1; 34], b"foo"] {
        let error = decode_token(wrong).unwrap_err();
        assert_eq!(error, VisibilityError::InvalidArgument("Invalid NextPageToken.".to_owned()));
    }
}

#[tokio::test]
async fn runs_of_slots_that_are_looked_for_elsewhere_are_hidden() {
    let store = Store::new(1, 300);
    let whole = store.count(&Reader::default(), "").await.unwrap();
    let (mut seen, mut total) = (Vec::new(), ByStatus::new());
    for parity in 0..2 {
        let slots: SlotSet = (parity..everlog_storage::keys::SLOTS).step_by(2).collect();
        let shown = Shown { namespace_id: namespace().id, slots };
        let scans = store.scans("", b"").into_iter().map(|scan| scan.of(Some(shown.clone()))).collect();
        let (rows, has_more) = page(&Reader::default(), scans, 1000).await.unwrap();
        assert!(rows.len() > 100 && !has_more, "{}", rows.len());
        seen.extend(rows.into_iter().map(|(key, _)| key));
        let key = TallyKey { group: GroupId(1), namespace: namespace().id, filter: parity.to_string() };
        let ranges = plan::bound(None).ranges(namespace().id);
        let rows = store.rows(GroupId(1));
        let counted = count_by_status(&store.reader, key, rows, ranges, Arc::new(None), Some(shown)).await;
        add(&mut total, &counted.unwrap());
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!((seen.len(), total), (300, whole));
}

#[test]
fn who_looks_where_slots_are_no_more_is_told_so() {
    use everlog_model::{Step, StepId, StepRecord, StepState};
    let id = namespace().id;
    let step = |number: u64, slots: std::ops::Range<u16>, state| {
        let (from, to) = (GroupId(1), GroupId(2));
        StepRecord { step: Step { id: StepId(number), namespace_id: id, slots: slots.collect(), from, to }, state }
            .to_row()
    };
    let rows: std::collections::BTreeMap<Bytes, Bytes> =
        [step(1, 0..10, StepState::Gone { is_clean: false }), step(2, 20..30, StepState::Frozen)].into();
    let scan = |range: KeyRange| Ok(rows.range(range).map(|(key, value)| (key.clone(), value.clone())).collect());
    let told = |id, slots: SlotSet| shown(id, &slots, scan).map(|shown| shown.map(|shown| shown.slots));
    let except = |range: std::ops::Range<u16>| SlotSet::all().difference(&range.collect());
    for slots in [SlotSet::all(), except(0..10), except(20..30), except(1..30), [25].into_iter().collect()] {
        assert!(matches!(told(id, slots.clone()), Err(VisibilityError::Outdated(_))), "{slots}");
    }
    assert_eq!(told(id, except(0..30)), Ok(Some(except(0..30))), "rows of the others may be there");
    assert_eq!(told(NamespaceId([8; 16]), SlotSet::all()), Ok(None), "another namespace");
}
