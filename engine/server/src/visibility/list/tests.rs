use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use everlog_kernel::NamespaceId;
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
use everlog_proto::wkt;
use prost::Message;

use super::*;

fn namespace() -> Namespace {
    Namespace { id: NamespaceId([7; 16]), name: "default".to_owned(), retention: Duration::ZERO }
}

/// Partitions in memory, by key.
struct Rows {
    partitions: Vec<Arc<BTreeMap<Bytes, Bytes>>>,
    read: Arc<AtomicUsize>,
}

impl Rows {
    /// Runs `0..runs`, spread over the partitions: every third is open, start times repeat.
    fn new(partitions: usize, runs: i64) -> Rows {
        let mut rows = vec![BTreeMap::new(); partitions];
        for n in 0..runs {
            let close = (n % 3 != 0).then_some((n * 7919) % 1000);
            let start = n % 50;
            let mut run_id = [0; 16];
            run_id[..8].copy_from_slice(&n.to_be_bytes());
            let key = VisibilityKey { namespace: namespace().id.0, close_time_ns: close, start_time_ns: start, run_id };
            let time = |nanos: i64| wkt::Timestamp { seconds: 0, nanos: nanos as i32 };
            let info = WorkflowExecutionInfo {
                execution: Some(WorkflowExecution { workflow_id: format!("w{n}"), run_id: n.to_string() }),
                start_time: Some(time(start)),
                close_time: close.map(time),
                status: if close.is_some() { 2 + (n % 2) as i32 } else { 1 },
                ..WorkflowExecutionInfo::default()
            };
            rows[n as usize * 31 % partitions].insert(key.encode(), Bytes::from(info.encode_to_vec()));
        }
        Rows { partitions: rows.into_iter().map(Arc::new).collect(), read: Arc::default() }
    }

    fn scans(&self, query: &str, token: &[u8]) -> Vec<Scan> {
        let query = Query::parse(query, &SearchAttributeTypes::new()).unwrap();
        let ranges = plan::bound(query.filter.as_ref()).ranges(namespace().id);
        let ranges = behind(ranges, &namespace(), decode_token(token).unwrap());
        let filter = Arc::new(query.filter);
        let scan = |rows: &Arc<BTreeMap<Bytes, Bytes>>| {
            let (rows, read) = (rows.clone(), self.read.clone());
            let read: ReadRows = Arc::new(move |range: &KeyRange, limit| {
                let rows: Vec<Row> =
                    rows.range(range.clone()).take(limit).map(|(key, value)| (key.clone(), value.clone())).collect();
                read.fetch_add(rows.len(), Ordering::Relaxed);
                Ok(rows)
            });
            Scan::new(read, ranges.clone(), filter.clone())
        };
        self.partitions.iter().map(scan).collect()
    }

    /// Keys of all pages, page by page.
    async fn pages(&self, query: &str, page_size: usize) -> Vec<Vec<Bytes>> {
        let (mut pages, mut token) = (Vec::new(), Vec::new());
        loop {
            let (rows, has_more) = page(self.scans(query, &token), page_size).await.unwrap();
            if let Some((last, _)) = rows.last() {
                token = encode_token(last);
            }
            pages.push(rows.into_iter().map(|(key, _)| key).collect());
            if !has_more {
                return pages;
            }
        }
    }

    fn all_keys(&self) -> Vec<Bytes> {
        let mut keys: Vec<Bytes> = self.partitions.iter().flat_map(|rows| rows.keys().cloned()).collect();
        keys.sort();
        keys
    }
}

fn decoded(key: &Bytes) -> VisibilityKey {
    VisibilityKey::decode(key).unwrap()
}

#[tokio::test]
async fn pages_are_in_global_order_and_join_on_to_each_other() {
    let rows = Rows::new(4, 2000);
    let all = rows.all_keys();
    for page_size in [1000, 999, 137, 2000, 5000] {
        let pages = rows.pages("", page_size).await;
        assert!(pages.iter().rev().skip(1).all(|page| page.len() == page_size));
        assert_eq!(pages.concat(), all, "pages of {page_size}");
    }
    // Open runs first, then the latest close time.
    let order = |key: &Bytes| {
        (
            std::cmp::Reverse(decoded(key).close_time_ns.unwrap_or(i64::MAX)),
            std::cmp::Reverse(decoded(key).start_time_ns),
            decoded(key).run_id,
        )
    };
    assert!(all.is_sorted_by_key(order));
}

#[tokio::test]
async fn a_filter_leaves_the_order_and_the_pages_as_they_are() {
    let rows = Rows::new(3, 2000);
    let is_asked = |key: &Bytes| decoded(key).close_time_ns.is_some_and(|time| (100..=300).contains(&time));
    let expected: Vec<Bytes> = rows.all_keys().into_iter().filter(is_asked).collect();
    assert!(expected.len() > 200);
    for page_size in [7, 100, 1000] {
        assert_eq!(rows.pages("CloseTime BETWEEN 100 AND 300", page_size).await.concat(), expected);
    }
    assert_eq!(rows.pages("WorkflowId = 'w1234'", 10).await.concat().len(), 1);
    assert!(rows.pages("WorkflowId = 'nobody'", 10).await.concat().is_empty());
}

#[tokio::test]
async fn no_more_rows_are_read_than_are_asked_for() {
    let rows = Rows::new(4, 2000);
    let read = |rows: &Rows| rows.read.swap(0, Ordering::Relaxed);
    page(rows.scans("", &[]), 10).await.unwrap();
    assert!(read(&rows) <= 80);
    page(rows.scans("ExecutionStatus = 'Running'", &[]), 1000).await.unwrap();
    assert!(read(&rows) <= 2000_usize.div_ceil(3));
    page(rows.scans("CloseTime > 900", &[]), 1000).await.unwrap();
    assert!(read(&rows) <= 150);
}

#[tokio::test]
async fn counts_by_status() {
    let rows = Rows::new(4, 2000);
    let counted = count_by_status(rows.scans("", &[])).await.unwrap();
    assert_eq!(counted, [(1, 667), (2, 666), (3, 667)].into());
    let counted = count_by_status(rows.scans("ExecutionStatus != 2 AND StartTime < 10", &[])).await.unwrap();
    assert_eq!(counted.values().sum::<i64>(), 267);
    let group = group(1, 667);
    assert_eq!(group.group_values[0].data, b"\"Running\"");
}

#[tokio::test]
async fn a_row_that_is_no_record_is_an_error() {
    let rows = Rows {
        partitions: vec![Arc::new([(Rows::new(1, 1).all_keys().remove(0), Bytes::from_static(&[0xff]))].into())],
        read: Arc::default(),
    };
    assert!(matches!(page(rows.scans("", &[]), 10).await, Err(VisibilityError::Internal(_))));
    assert!(matches!(count_by_status(rows.scans("", &[])).await, Err(VisibilityError::Internal(_))));
}

#[test]
fn tokens() {
    let key = Rows::new(1, 1).all_keys().remove(0);
    let token = encode_token(&key);
    assert_eq!(decode_token(&token).unwrap().unwrap(), key[17..]);
    assert_eq!(decode_token(&[]).unwrap(), None);
    for wrong in [&[1][..], &[2; 33], &[1; 34], b"foo"] {
        let error = decode_token(wrong).unwrap_err();
        assert_eq!(error, VisibilityError::InvalidArgument("Invalid NextPageToken.".to_owned()));
    }
}
