//! Histories in the archive: a run has one object or several, each with batches of events as they were written.
//!
//! An object is a [`Blob`], which is `temporal.server.api.archiver.v1.HistoryBlob` as protobuf has it: other tools may read it. The first object
//! is written last, so whoever finds that finds all of them.

use bytes::Bytes;
use object_store::path::Path;
use prost::Message;

use super::{ArchiveError, ArchivedRun, Place};

/// An object.
#[derive(Clone, PartialEq, Message)]
struct Blob {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    /// Encoded `History` messages.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    body: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    namespace_id: String,
    #[prost(string, tag = "3")]
    workflow_id: String,
    #[prost(string, tag = "4")]
    run_id: String,
    #[prost(bool, tag = "5")]
    is_last: bool,
    #[prost(int64, tag = "8")]
    first_event_id: i64,
    #[prost(int64, tag = "9")]
    last_event_id: i64,
    #[prost(int64, tag = "10")]
    event_count: i64,
}

/// A `History` whose events stay encoded.
#[derive(Clone, PartialEq, Message)]
struct Events {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    events: Vec<Bytes>,
}

fn count_events(batch: &Bytes) -> Result<usize, ArchiveError> {
    let events = Events::decode(batch.clone());
    events.map(|events| events.events.len()).map_err(|error| ArchiveError::Corrupt(error.to_string()))
}

fn path(place: &Place, run: &ArchivedRun, number: u32) -> Path {
    let [namespace_id, run_id, name] =
        [run.namespace_id.to_string(), run.run_id.to_string(), format!("{number:06}.pb")];
    place.path([&*namespace_id, "history", &*run_id, &*name])
}

/// The history of a run on its way into the archive.
pub struct HistoryUpload {
    place: Place,
    run: ArchivedRun,
    /// From so many bytes on, what follows goes into another object.
    object_bytes_max: usize,
    /// The object that is being filled.
    number: u32,
    body: Vec<Bytes>,
    body_bytes: usize,
    first_event_id: i64,
    next_event_id: i64,
    /// The first object, which is written last.
    first: Option<Bytes>,
}

impl HistoryUpload {
    /// Begins to archive the history of a run.
    pub fn new(place: Place, run: ArchivedRun, object_bytes_max: usize) -> HistoryUpload {
        HistoryUpload {
            place,
            run,
            object_bytes_max,
            number: 0,
            body: Vec::new(),
            body_bytes: 0,
            first_event_id: 1,
            next_event_id: 1,
            first: None,
        }
    }

    /// The next batch: an encoded `History`.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Unavailable`] if the store does not take it.
    pub async fn add(&mut self, batch: Bytes) -> Result<(), ArchiveError> {
        if !self.body.is_empty() && self.body_bytes + batch.len() > self.object_bytes_max {
            self.write(false).await?;
        }
        self.next_event_id += i64::try_from(count_events(&batch)?).unwrap_or(i64::MAX);
        self.body_bytes += batch.len();
        self.body.push(batch);
        Ok(())
    }

    /// Ends it: from here on it can be read. There must have been events up to but without `next_event_id`.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Unavailable`] if the store does not take it, [`ArchiveError::Corrupt`] if there were others.
    pub async fn finish(mut self, next_event_id: i64) -> Result<(), ArchiveError> {
        if self.next_event_id != next_event_id || next_event_id <= 1 {
            let (run, found) = (self.run.run_id, self.next_event_id);
            return Err(ArchiveError::Corrupt(format!("run {run} has events up to {next_event_id}, not to {found}")));
        }
        self.write(true).await?;
        let first = self.first.take().unwrap_or_default();
        self.place.put(&path(&self.place, &self.run, 0), first).await
    }

    async fn write(&mut self, is_last: bool) -> Result<(), ArchiveError> {
        let ArchivedRun { namespace_id, namespace, workflow_id, run_id } = self.run.clone();
        let header = Header {
            namespace,
            namespace_id: namespace_id.to_string(),
            workflow_id,
            run_id: run_id.to_string(),
            is_last,
            first_event_id: self.first_event_id,
            last_event_id: self.next_event_id - 1,
            event_count: self.next_event_id - self.first_event_id,
        };
        let blob = Blob { header: Some(header), body: std::mem::take(&mut self.body) };
        let object = Bytes::from(blob.encode_to_vec());
        if self.number == 0 {
            self.first = Some(object);
        } else {
            self.place.put(&path(&self.place, &self.run, self.number), object).await?;
        }
        self.number += 1;
        self.body_bytes = 0;
        self.first_event_id = self.next_event_id;
        Ok(())
    }
}

/// Where a page of an archived history begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryPosition {
    /// The object.
    pub object: u32,
    /// The batch in it, counted from 0.
    pub batch: u32,
}

/// How long a page gets. It has at least one batch.
#[derive(Clone, Copy, Debug)]
pub struct PageSize {
    /// No batch begins in a page that has so many events.
    pub events_max: usize,
    /// The same in bytes.
    pub bytes_max: usize,
}

/// A page of an archived history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// Encoded `History` messages.
    pub batches: Vec<Bytes>,
    /// Where the next page begins, if there is one.
    pub next: Option<HistoryPosition>,
}

/// Reads a page of the history of a run.
///
/// # Errors
///
/// [`ArchiveError::NoHistory`] if there is none at that position, and see there.
pub async fn read_history(
    place: &Place,
    run: &ArchivedRun,
    from: HistoryPosition,
    size: PageSize,
) -> Result<HistoryPage, ArchiveError> {
    let mut batches = Vec::new();
    let (mut events, mut bytes) = (0, 0);
    let HistoryPosition { mut object, mut batch } = from;
    loop {
        let found = place.get(&path(place, run, object)).await?.ok_or(ArchiveError::NoHistory)?;
        let blob = Blob::decode(found).map_err(|error| ArchiveError::Corrupt(error.to_string()))?;
        let header = blob.header.unwrap_or_default();
        if header.workflow_id != run.workflow_id {
            return Err(ArchiveError::NoHistory);
        }
        let count = u32::try_from(blob.body.len()).unwrap_or(u32::MAX);
        if batch > count {
            return Err(ArchiveError::NoHistory);
        }
        for body in blob.body.into_iter().skip(batch as usize) {
            if events >= size.events_max || bytes >= size.bytes_max {
                return Ok(HistoryPage { batches, next: Some(HistoryPosition { object, batch }) });
            }
            events += count_events(&body)?;
            bytes += body.len();
            batches.push(body);
            batch += 1;
        }
        if header.is_last {
            return Ok(HistoryPage { batches, next: None });
        }
        (object, batch) = (object + 1, 0);
        if events >= size.events_max || bytes >= size.bytes_max {
            return Ok(HistoryPage { batches, next: Some(HistoryPosition { object, batch }) });
        }
    }
}

#[cfg(test)]
mod tests {
    use everlog_kernel::{NamespaceId, RunId};
    use everlog_proto::api::history::v1::{History, HistoryEvent};

    use super::super::{Archive, ArchiveOptions, FileOptions};
    use super::*;

    async fn place(directory: &tempfile::TempDir) -> Place {
        let options = ArchiveOptions { file: Some(FileOptions::default()), ..ArchiveOptions::default() };
        let uri = format!("file://{}", directory.path().display());
        Archive::new(options).place(&uri).await.unwrap()
    }

    fn run(workflow_id: &str) -> ArchivedRun {
        ArchivedRun {
            namespace_id: NamespaceId([1; 16]),
            namespace: "default".to_owned(),
            workflow_id: workflow_id.to_owned(),
            run_id: RunId([2; 16]),
        }
    }

    fn batch(ids: std::ops::Range<i64>) -> Bytes {
        let events = ids.map(|event_id| HistoryEvent { event_id, ..HistoryEvent::default() }).collect();
        History { events }.encode_to_vec().into()
    }

    /// Archives these batches, in objects of about so many bytes.
    async fn archive(place: &Place, batches: &[Bytes], object_bytes_max: usize) {
        let mut upload = HistoryUpload::new(place.clone(), run("w"), object_bytes_max);
        for batch in batches {
            upload.add(batch.clone()).await.unwrap();
        }
        let events: usize = batches.iter().map(|batch| count_events(batch).unwrap()).sum();
        upload.finish(events as i64 + 1).await.unwrap();
    }

    fn files(directory: &tempfile::TempDir) -> Vec<String> {
        let below =
            directory.path().join("01010101-0101-0101-0101-010101010101/history/02020202-0202-0202-0202-020202020202");
        let found = std::fs::read_dir(below).unwrap();
        let mut names: Vec<_> = found.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn pages(place: &Place, events_max: usize) -> Vec<Vec<Bytes>> {
        let mut pages = Vec::new();
        let mut from = HistoryPosition::default();
        loop {
            let page = read_history(place, &run("w"), from, PageSize { events_max, bytes_max: 1000 }).await.unwrap();
            pages.push(page.batches);
            match page.next {
                Some(next) => from = next,
                None => return pages,
            }
        }
    }

    #[tokio::test]
    async fn a_history_is_read_as_it_was_archived() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(&directory).await;
        let batches = [batch(1..3), batch(3..4), batch(4..9), batch(9..10)];
        for (object_bytes_max, objects) in [(1000, 1), (1, 4), (batches[0].len() + batches[1].len(), 3)] {
            archive(&place, &batches, object_bytes_max).await;
            for events_max in 1..12 {
                let pages = pages(&place, events_max).await;
                assert!(pages.iter().all(|page| !page.is_empty()), "{events_max} events a page");
                assert_eq!(pages.concat(), batches, "{events_max} events a page");
            }
            assert_eq!(pages(&place, 10).await.len(), 1);
            assert_eq!(pages(&place, 2).await.len(), 3, "a page takes whole batches until it has enough");
            assert!(files(&directory).len() >= objects);
        }
        assert_eq!(files(&directory), ["000000.pb", "000001.pb", "000002.pb", "000003.pb"]);
    }

    #[tokio::test]
    async fn a_history_that_is_not_whole_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(&directory).await;
        let size = PageSize { events_max: 10, bytes_max: 1000 };
        let read = |run: ArchivedRun, from| {
            let place = place.clone();
            async move { read_history(&place, &run, from, size).await }
        };
        assert_eq!(read(run("w"), HistoryPosition::default()).await, Err(ArchiveError::NoHistory));
        let mut upload = HistoryUpload::new(place.clone(), run("w"), 1);
        upload.add(batch(1..3)).await.unwrap();
        upload.add(batch(3..4)).await.unwrap();
        upload.add(batch(4..5)).await.unwrap();
        assert_eq!(files(&directory), ["000001.pb"], "the first object is written last");
        assert_eq!(read(run("w"), HistoryPosition::default()).await, Err(ArchiveError::NoHistory));
        assert!(matches!(upload.finish(9).await, Err(ArchiveError::Corrupt(_))), "there are not so many events");
        assert_eq!(read(run("w"), HistoryPosition::default()).await, Err(ArchiveError::NoHistory));

        archive(&place, &[batch(1..3), batch(3..4)], 1).await;
        assert_eq!(read(run("another"), HistoryPosition::default()).await, Err(ArchiveError::NoHistory));
        let behind = HistoryPosition { object: 7, batch: 0 };
        assert_eq!(read(run("w"), behind).await, Err(ArchiveError::NoHistory));
    }

    #[test]
    fn the_form_of_objects_is_for_ever() {
        let header = Header {
            namespace: "n".to_owned(),
            namespace_id: "i".to_owned(),
            workflow_id: "w".to_owned(),
            run_id: "r".to_owned(),
            is_last: true,
            first_event_id: 1,
            last_event_id: 2,
            event_count: 2,
        };
        let blob = Blob { header: Some(header), body: vec![Bytes::from_static(b"ab")] };
        assert_eq!(
            blob.encode_to_vec(),
            b"\x0a\x14\x0a\x01n\x12\x01i\x1a\x01w\x22\x01r\x28\x01\x40\x01\x48\x02\x50\x02\x12\x02ab"
        );
    }
}
