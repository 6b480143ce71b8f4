//! The stores behind URIs.

use std::collections::HashMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use parking_lot::Mutex;

use super::uri::{ArchiveUri, check_root};
use super::{ArchiveError, ArchiveOptions, PartOptions, S3Options};

/// Buckets whose connections are kept.
const BUCKETS_MAX: usize = 100;

/// How long one request to a store may take.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(20);

/// How often a request is made again at once; whoever archives comes again later in any case.
const RETRIES_MAX: usize = 2;

/// The archive of a server. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Archive(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    options: ArchiveOptions,
    buckets: Mutex<HashMap<String, Arc<AmazonS3>>>,
}

/// What a URI stands for.
#[derive(Clone, Debug)]
pub struct Place {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Whether lists come in the order of names.
    pub(crate) lists_in_order: bool,
}

impl Archive {
    /// An archive as an operator wants it.
    pub fn new(options: ArchiveOptions) -> Archive {
        if options.s3.is_some() {
            // The one that nodes speak with. An error means that there is one already.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Archive(Arc::new(Inner { options, buckets: Mutex::default() }))
    }

    /// What is set of histories.
    pub fn history(&self) -> &PartOptions {
        &self.0.options.history
    }

    /// What is set of what lists show.
    pub fn visibility(&self) -> &PartOptions {
        &self.0.options.visibility
    }

    /// Whether a namespace can be archived to a URI.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Uri`] if not, [`ArchiveError::Unavailable`] if the store does not tell.
    pub async fn check_uri(&self, text: &str) -> Result<(), ArchiveError> {
        match self.known(text)? {
            ArchiveUri::File(path) => blocking(move || check_directory(FilePath::new(&path))).await,
            ArchiveUri::S3 { bucket, .. } => {
                let mut objects = self.bucket(&bucket)?.list(None);
                match objects.next().await.transpose() {
                    Ok(_) => Ok(()),
                    Err(error) if is_no_bucket(&error) => {
                        Err(ArchiveError::Uri("requested bucket does not exist".to_owned()))
                    }
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// What a URI stands for, to be written to.
    ///
    /// # Errors
    ///
    /// As [`Archive::check_uri`].
    pub async fn place(&self, text: &str) -> Result<Place, ArchiveError> {
        match self.known(text)? {
            ArchiveUri::File(path) => blocking(move || Place::of_directory(path.into(), true)).await,
            ArchiveUri::S3 { bucket, path } => Ok(Place::of_bucket(self.bucket(&bucket)?, &path)),
        }
    }

    /// The same to be read from: nothing, if nothing was ever written there.
    ///
    /// # Errors
    ///
    /// As [`Archive::check_uri`].
    pub async fn place_if_there(&self, text: &str) -> Result<Option<Place>, ArchiveError> {
        match self.known(text)? {
            ArchiveUri::File(path) => {
                blocking(move || {
                    let path = PathBuf::from(path);
                    path.exists().then(|| Place::of_directory(path, false)).transpose()
                })
                .await
            }
            ArchiveUri::S3 { bucket, path } => Ok(Some(Place::of_bucket(self.bucket(&bucket)?, &path))),
        }
    }

    fn known(&self, text: &str) -> Result<ArchiveUri, ArchiveError> {
        self.0.options.known(text)
    }

    fn bucket(&self, bucket: &str) -> Result<Arc<AmazonS3>, ArchiveError> {
        let options = self.0.options.s3.as_ref().ok_or_else(not_set)?;
        let mut buckets = self.0.buckets.lock();
        if let Some(known) = buckets.get(bucket) {
            return Ok(Arc::clone(known));
        }
        let opened = Arc::new(open_bucket(options, bucket)?);
        if buckets.len() >= BUCKETS_MAX {
            buckets.clear();
        }
        buckets.insert(bucket.to_owned(), Arc::clone(&opened));
        Ok(opened)
    }
}

impl ArchiveOptions {
    /// Whether a URI is of a kind that is set.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Uri`] if not.
    pub fn check_uri(&self, text: &str) -> Result<(), ArchiveError> {
        self.known(text).map(|_| ())
    }

    /// Reads a URI, which must be of a kind that is set.
    fn known(&self, text: &str) -> Result<ArchiveUri, ArchiveError> {
        let uri = ArchiveUri::parse(text)?;
        match &uri {
            ArchiveUri::File(path) => check_root(path, self.file.as_ref().ok_or_else(not_set)?)?,
            ArchiveUri::S3 { .. } if self.s3.is_none() => return Err(not_set()),
            ArchiveUri::S3 { .. } => {}
        }
        Ok(uri)
    }
}

fn not_set() -> ArchiveError {
    ArchiveError::Uri("unable to find archiver config for the given scheme".to_owned())
}

impl Place {
    fn of_directory(path: PathBuf, is_made: bool) -> Result<Place, ArchiveError> {
        check_directory(&path)?;
        if is_made {
            let unavailable = |error: std::io::Error| ArchiveError::Unavailable(format!("{}: {error}", path.display()));
            std::fs::create_dir_all(&path).map_err(unavailable)?;
        }
        // What is not on the disk yet must not let the run go that it stands for.
        let store = LocalFileSystem::new_with_prefix(&path)?.with_fsync(true);
        Ok(Place { store: Arc::new(store), prefix: Path::default(), lists_in_order: false })
    }

    fn of_bucket(store: Arc<AmazonS3>, path: &str) -> Place {
        Place { store, prefix: Path::from(path), lists_in_order: true }
    }

    /// The name of an object.
    pub(crate) fn path<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Path {
        parts.into_iter().fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Writes an object, in the place of one that has its name.
    pub(crate) async fn put(&self, path: &Path, object: Bytes) -> Result<(), ArchiveError> {
        self.store.put(path, object.into()).await?;
        Ok(())
    }

    /// Reads an object, if it is there.
    pub(crate) async fn get(&self, path: &Path) -> Result<Option<Bytes>, ArchiveError> {
        match self.store.get(path).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the names begin with that have more parts than `prefix`: the next one of each.
    pub(crate) async fn list_parts(&self, prefix: &Path) -> Result<Vec<String>, ArchiveError> {
        match self.store.list_with_delimiter(Some(prefix)).await {
            Ok(found) => {
                Ok(found.common_prefixes.iter().filter_map(|path| Some(path.filename()?.to_owned())).collect())
            }
            Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The last parts of the names of objects below a prefix, behind one of them if that is given, `count_max` at most; in any order, and
    /// those that come first only where lists are in order.
    pub(crate) async fn list_names(
        &self,
        prefix: &Path,
        behind: Option<&Path>,
        count_max: usize,
    ) -> Result<Vec<String>, ArchiveError> {
        let mut found = match behind {
            Some(behind) => self.store.list_with_offset(Some(prefix), behind),
            None => self.store.list(Some(prefix)),
        }
        .take(count_max);
        let mut names = Vec::new();
        while let Some(object) = found.next().await {
            match object {
                Ok(object) => names.extend(object.location.filename().map(str::to_owned)),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(names)
    }
}

fn open_bucket(options: &S3Options, bucket: &str) -> Result<AmazonS3, ArchiveError> {
    let client = ClientOptions::new().with_timeout(REQUEST_TIME_MAX).with_connect_timeout(REQUEST_TIME_MAX / 4);
    let is_plain = options.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let retry = RetryConfig {
        max_retries: RETRIES_MAX,
        retry_timeout: REQUEST_TIME_MAX,
        backoff: BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() },
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&options.region)
        .with_access_key_id(&options.access_key_id)
        .with_secret_access_key(&options.secret_access_key)
        .with_virtual_hosted_style_request(!options.path_style)
        .with_client_options(client)
        .with_allow_http(is_plain)
        .with_retry(retry);
    if let Some(endpoint) = &options.endpoint {
        // The bucket's own host is for the endpoint to name where it is not part of the path.
        let host = if options.path_style { endpoint.clone() } else { with_bucket(endpoint, bucket) };
        builder = builder.with_endpoint(host);
    }
    builder.build().map_err(|error| ArchiveError::Uri(error.to_string()))
}

/// An endpoint's URL with a bucket in front of its host.
fn with_bucket(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => format!("{bucket}.{endpoint}"),
    }
}

fn is_no_bucket(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) || error.to_string().contains("NoSuchBucket")
}

/// Whether a directory may be there, or become one.
fn check_directory(path: &FilePath) -> Result<(), ArchiveError> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_dir() => Err(ArchiveError::Uri("a path to a directory was expected".to_owned())),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ArchiveError::Uri(format!("stat {}: {error}", path.display()))),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ArchiveError::Unavailable(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::super::FileOptions;
    use super::*;

    async fn refusal(archive: &Archive, uri: &str) -> Option<String> {
        archive.check_uri(uri).await.err().map(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_uri_is_of_a_kind_that_is_set() {
        let nothing = Archive::default();
        let not_set = Some("unable to find archiver config for the given scheme".to_owned());
        for uri in ["file:///tmp", "s3://bucket"] {
            assert_eq!(refusal(&nothing, uri).await, not_set, "{uri}");
        }
        assert_eq!(nothing.place("file:///tmp").await.err().map(|error| error.to_string()), not_set);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        std::fs::write(directory.path().join("file"), "").unwrap();
        let root = Some(path.to_string());
        let files = Archive::new(ArchiveOptions { file: Some(FileOptions { root }), ..ArchiveOptions::default() });
        assert_eq!(refusal(&files, &format!("file://{path}")).await, None);
        assert_eq!(refusal(&files, &format!("file://{path}/new")).await, None);
        let expected = Some("a path to a directory was expected".to_owned());
        assert_eq!(refusal(&files, &format!("file://{path}/file")).await, expected);
        assert!(refusal(&files, "file:///elsewhere").await.is_some());
        assert!(files.place_if_there(&format!("file://{path}/new")).await.unwrap().is_none(), "looking makes nothing");
    }

    #[test]
    fn secrets_are_not_shown() {
        let options = S3Options {
            endpoint: None,
            region: "r".to_owned(),
            access_key_id: "id".to_owned(),
            secret_access_key: "hidden".to_owned(),
            path_style: true,
        };
        assert!(!format!("{options:?}").contains("hidden"));
    }
}
