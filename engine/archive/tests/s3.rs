//! The archive in S3, against a server that speaks as much of that as is needed: it keeps objects, and lists them three at a time.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use everlog_archive::{
    Archive, ArchiveError, ArchiveOptions, ArchivedRun, HistoryPosition, HistoryUpload, PageSize, RecordPosition,
    Records, S3Options, put_record, read_history,
};
use everlog_kernel::{NamespaceId, RunId, Time};
use everlog_proto::api::history::v1::{History, HistoryEvent};
use prost::Message;

const BUCKET: &str = "runs";
const LISTED_MAX: usize = 3;
const NAMESPACE: NamespaceId = NamespaceId([1; 16]);
const DAY_NS: i64 = 86_400_000_000_000;

#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Bytes>,
    /// Whether it answers at all.
    is_down: bool,
}

type Shared = Arc<Mutex<Store>>;

async fn answer(State(store): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let refused = |status: StatusCode, code: &str| {
        let text = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
        Response::builder().status(status).body(Body::from(text)).unwrap()
    };
    let signature = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !signature.starts_with("AWS4-HMAC-SHA256 Credential=id/") || !signature.contains("/eu-central-1/s3/aws4_request")
    {
        return refused(StatusCode::FORBIDDEN, "AccessDenied");
    }
    let mut store = store.lock().unwrap();
    if store.is_down {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
    }
    let path = uri.path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    if bucket != BUCKET {
        return refused(StatusCode::NOT_FOUND, "NoSuchBucket");
    }
    let ok = || Response::builder().header("etag", "\"1\"").header("last-modified", "Sat, 28 Nov 2026 12:00:00 GMT");
    match (method, key) {
        (Method::PUT, key) => {
            store.objects.insert(key.to_owned(), body);
            ok().body(Body::empty()).unwrap()
        }
        (Method::GET, "") => ok().body(Body::from(listed(&store, uri.query().unwrap_or_default()))).unwrap(),
        (Method::GET, key) => match store.objects.get(key) {
            Some(object) => ok().body(Body::from(object.clone())).unwrap(),
            None => refused(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
        _ => refused(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    }
}

fn listed(store: &Store, query: &str) -> String {
    let parameters: BTreeMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.replace("%2F", "/").replace("%3A", ":")))
        .collect();
    let parameter = |name: &str| parameters.get(name).cloned().unwrap_or_default();
    assert_eq!(parameter("list-type"), "2");
    let (prefix, delimiter) = (parameter("prefix"), parameter("delimiter"));
    let after = parameter("start-after").max(parameter("continuation-token"));
    let mut entries: BTreeSet<(String, bool)> = BTreeSet::new();
    for key in store.objects.keys().filter(|key| key.starts_with(&prefix)) {
        match key[prefix.len()..].find('/').filter(|_| !delimiter.is_empty()) {
            Some(end) => entries.insert((key[..prefix.len() + end + 1].to_owned(), true)),
            None => entries.insert((key.clone(), false)),
        };
    }
    let behind: Vec<_> = entries.into_iter().filter(|(name, _)| *name > after).collect();
    let is_truncated = behind.len() > LISTED_MAX;
    let mut text = format!("<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>{is_truncated}</IsTruncated>");
    for (name, is_prefix) in behind.iter().take(LISTED_MAX) {
        let entry = if *is_prefix {
            format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")
        } else {
            let time = "2026-11-28T12:00:00.000Z";
            format!(
                "<Contents><Key>{name}</Key><LastModified>{time}</LastModified><Size>1</Size><ETag>1</ETag></Contents>"
            )
        };
        text.push_str(&entry);
    }
    if is_truncated {
        write!(text, "<NextContinuationToken>{}</NextContinuationToken>", behind[LISTED_MAX - 1].0).unwrap();
    }
    text + "</ListBucketResult>"
}

async fn start() -> (Shared, Archive) {
    let store = Shared::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = Router::new().fallback(answer).with_state(Arc::clone(&store));
    tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
    let s3 = S3Options {
        endpoint: Some(endpoint),
        region: "eu-central-1".to_owned(),
        access_key_id: "id".to_owned(),
        secret_access_key: "secret".to_owned(),
        path_style: true,
    };
    (store, Archive::new(ArchiveOptions { s3: Some(s3), ..ArchiveOptions::default() }))
}

fn run() -> ArchivedRun {
    ArchivedRun {
        namespace_id: NAMESPACE,
        namespace: "default".to_owned(),
        workflow_id: "orders/ä 1".to_owned(),
        run_id: RunId([2; 16]),
    }
}

fn batch(event_id: i64) -> Bytes {
    History { events: vec![HistoryEvent { event_id, ..HistoryEvent::default() }] }.encode_to_vec().into()
}

#[tokio::test]
async fn histories_and_records_are_objects_of_a_bucket() {
    let (store, archive) = start().await;
    let place = archive.place("s3://runs/a/b").await.unwrap();
    let mut upload = HistoryUpload::new(place.clone(), run(), 1);
    for event_id in 1..4 {
        upload.add(batch(event_id)).await.unwrap();
    }
    upload.finish(4).await.unwrap();
    put_record(&place, NAMESPACE, Time(DAY_NS), RunId([2; 16]), Bytes::from_static(b"r")).await.unwrap();
    let names: Vec<String> = store.lock().unwrap().objects.keys().cloned().collect();
    let (namespace, run_id) = (NAMESPACE.to_string(), RunId([2; 16]).to_string());
    let expected = [
        format!("a/b/{namespace}/history/{run_id}/000000.pb"),
        format!("a/b/{namespace}/history/{run_id}/000001.pb"),
        format!("a/b/{namespace}/history/{run_id}/000002.pb"),
        format!("a/b/{namespace}/visibility/1970-01-02/86399999999999-{run_id}.pb"),
    ];
    assert_eq!(names, expected);

    let size = PageSize { events_max: 2, bytes_max: 1000 };
    let page = read_history(&place, &run(), HistoryPosition::default(), size).await.unwrap();
    assert_eq!(page.batches, [batch(1), batch(2)]);
    let page = read_history(&place, &run(), page.next.unwrap(), size).await.unwrap();
    assert_eq!((page.batches, page.next), (vec![batch(3)], None));
    let another = ArchivedRun { run_id: RunId([3; 16]), ..run() };
    let missing = read_history(&place, &another, HistoryPosition::default(), size).await;
    assert_eq!(missing, Err(ArchiveError::NoHistory));
}

#[tokio::test]
async fn records_are_listed_over_pages_and_days() {
    let (_store, archive) = start().await;
    let place = archive.place_if_there("s3://runs").await.unwrap().unwrap();
    for number in 0..20_u8 {
        let close_time = Time(i64::from(number) * DAY_NS / 8);
        let record = Bytes::copy_from_slice(&[number]);
        put_record(&place, NAMESPACE, close_time, RunId([number; 16]), record).await.unwrap();
    }
    let ever = i64::MIN..=i64::MAX;
    let (mut found, mut after): (Vec<u8>, Option<RecordPosition>) = (Vec::new(), None);
    // Each page with a reader of its own, as calls have it.
    loop {
        let mut records = Records::open(place.clone(), NAMESPACE, &ever, after, 4).await.unwrap();
        let page = records.next(3).await.unwrap();
        let Some((position, _)) = page.last() else { break };
        after = RecordPosition::parse(position.to_text().as_bytes());
        found.extend(page.iter().map(|(_, record)| record[0]));
    }
    assert_eq!(found, (0..20).rev().collect::<Vec<u8>>());
}

#[tokio::test]
async fn a_bucket_must_be_there_and_a_service_that_is_down_is_told_of() {
    let (store, archive) = start().await;
    let refusal = async |uri: &str| archive.check_uri(uri).await.err().map(|error| error.to_string());
    assert_eq!(refusal("s3://runs/a").await, None);
    assert_eq!(refusal("s3://others").await.as_deref(), Some("requested bucket does not exist"));
    let place = archive.place("s3://runs").await.unwrap();
    store.lock().unwrap().is_down = true;
    let put = put_record(&place, NAMESPACE, Time(0), RunId([1; 16]), Bytes::new()).await;
    assert!(matches!(put, Err(ArchiveError::Unavailable(_))), "{put:?}");
    store.lock().unwrap().is_down = false;
    put_record(&place, NAMESPACE, Time(0), RunId([1; 16]), Bytes::new()).await.unwrap();
}
