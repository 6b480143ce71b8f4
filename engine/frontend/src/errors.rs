//! Everything that can go wrong with a request, and the one table that turns it into a gRPC status.
//!
//! Besides code and message a status carries a message of `temporal.api.errordetails.v1` inside a `google.rpc.Status`: SDKs look
//! at that first. Codes, texts and details are Temporal's.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use everlog_cluster::NOT_DONE;
use everlog_kernel::Rejection;
use everlog_meta::MetaError;
use everlog_model::CallError;
use everlog_proto::RpcStatus;
use everlog_proto::api::enums::v1::{NamespaceState, ResourceExhaustedCause, ResourceExhaustedScope};
use everlog_proto::api::errordetails::v1 as details;
use everlog_proto::api::errordetails::v1::multi_operation_execution_failure::OperationStatus;
use everlog_proto::api::failure::v1::MultiOperationExecutionAborted;
use everlog_proto::wkt::Any;
use prost::{Message, Name};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// Longer messages are cut: they travel in headers, whose size is limited.
const MESSAGE_BYTES_MAX: usize = 4000;

/// The same as the header has it, where most bytes that are no letters take three. With the details, which repeat the message, it must stay
/// below the 16 KiB that clients take.
const MESSAGE_ENCODED_BYTES_MAX: usize = 6000;

/// What details repeat of a name that the caller gave, bytes: the longest that a namespace can have.
const NAMED_BYTES_MAX: usize = 1000;

/// How long to wait before another try at something that is briefly not there.
pub(super) const UNAVAILABLE_PAUSE: Duration = Duration::from_millis(50);

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Error {
    /// The workflow's rules, or a check of the same kind.
    Rejected(Rejection),
    /// There is no such namespace.
    NamespaceNotFound(String),
    /// There is one already.
    NamespaceAlreadyExists(String),
    /// Something else has that name.
    Taken(Cow<'static, str>),
    /// The namespace is deprecated or deleted.
    NamespaceInvalidState {
        /// Its name.
        namespace: String,
        /// Its state.
        state: NamespaceState,
        /// The states in which the call is answered.
        allowed: &'static [NamespaceState],
    },
    /// The namespace does not have that turned on.
    PermissionDenied(&'static str),
    /// Not now; the caller may try again.
    Unavailable(String),
    /// As [`Error::Unavailable`], and surely nothing was done: another node may answer.
    NotDone(String),
    /// Too much is waiting already.
    Overloaded(String),
    /// As many polls as may be wait on the queue already.
    TooManyPolls,
    /// The disk has no room for new work.
    DiskFull {
        /// What is left.
        free_bytes: u64,
    },
    /// The server's fault, and trying again will not help.
    Internal(String),
    /// What is stored cannot be read; the same.
    Corrupt(String),
    /// What Temporal's servers have no status for.
    Unknown(String),
    /// The caller's time is up.
    DeadlineExceeded(&'static str),
    /// One of several operations that are done together, or not at all, could not be done; in their order, `None` for each that was
    /// given up because of another.
    MultiOperation(Vec<Option<Error>>),
}

impl Error {
    /// The request can never succeed as it is.
    pub(super) fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
        Error::Rejected(Rejection::InvalidArgument(message.into()))
    }

    /// What was asked for is not there.
    pub(super) fn not_found(message: impl Into<Cow<'static, str>>) -> Error {
        Error::Rejected(Rejection::NotFound(message.into()))
    }

    /// A precondition does not hold.
    pub(super) fn failed_precondition(message: impl Into<Cow<'static, str>>) -> Error {
        Error::Rejected(Rejection::FailedPrecondition(message.into()))
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Error {
        Error::Rejected(rejection)
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Error {
        match error {
            CallError::Rejected(rejection) => Error::Rejected(rejection),
            CallError::Unavailable(message) => Error::Unavailable(message),
            CallError::NotDone(message) => Error::NotDone(message),
            CallError::Overloaded(message) => Error::Overloaded(message),
            CallError::Failed(message) => Error::Internal(message),
            CallError::Corrupt(message) => Error::Corrupt(message),
        }
    }
}

impl From<MetaError> for Error {
    fn from(error: MetaError) -> Error {
        match error {
            MetaError::NotFound(name) => Error::NamespaceNotFound(name),
            MetaError::AlreadyExists(name) => Error::NamespaceAlreadyExists(name),
            MetaError::Missing(message) => Error::not_found(message),
            MetaError::Taken(message) => Error::Taken(message),
            MetaError::Invalid(message) => Error::invalid(message),
            MetaError::Protected(message) => Error::failed_precondition(message),
            MetaError::Rejected(rejection) => Error::Rejected(rejection),
            MetaError::Unavailable(_) => Error::Unavailable(error.to_string()),
            MetaError::LedElsewhere(_) => Error::NotDone(error.to_string()),
            MetaError::Corrupt(_) => Error::Corrupt(error.to_string()),
        }
    }
}

/// A row of the table: what a client sees.
struct Row {
    code: Code,
    message: Cow<'static, str>,
    detail: Option<Any>,
    exhausted: Option<(ResourceExhaustedCause, ResourceExhaustedScope)>,
}

impl Row {
    fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Row {
        Row { code, message: message.into(), detail: None, exhausted: None }
    }

    fn with<M: Message + Name>(self, detail: &M) -> Row {
        let type_url = format!("type.googleapis.com/{}", M::full_name());
        Row { detail: Some(Any { type_url, value: detail.encode_to_vec() }), ..self }
    }

    fn exhausted(message: Cow<'static, str>, cause: ResourceExhaustedCause, scope: ResourceExhaustedScope) -> Row {
        let detail = details::ResourceExhaustedFailure { cause: cause as i32, scope: scope as i32 };
        Row { exhausted: Some((cause, scope)), ..Row::new(Code::ResourceExhausted, message).with(&detail) }
    }
}

/// The table.
fn row_of(error: Error) -> Row {
    match error {
        Error::Rejected(rejection) => row_of_rejection(rejection),
        Error::NamespaceNotFound(namespace) => {
            // The name is the caller's and as long as it likes; details travel in headers too.
            let named = cut(&namespace, NAMED_BYTES_MAX).to_owned();
            Row::new(Code::NotFound, format!("Namespace {namespace} is not found."))
                .with(&details::NamespaceNotFoundFailure { namespace: named })
        }
        Error::NamespaceAlreadyExists(namespace) => {
            Row::new(Code::AlreadyExists, format!("Namespace \"{namespace}\" already exists"))
                .with(&details::NamespaceAlreadyExistsFailure {})
        }
        Error::Taken(message) => Row::new(Code::AlreadyExists, message),
        Error::NamespaceInvalidState { namespace, state, allowed } => {
            let names: Vec<_> = allowed.iter().copied().map(state_name).collect();
            let message =
                format!("Namespace has invalid state: {}. Must be {}.", state_name(state), names.join(" or "));
            Row::new(Code::FailedPrecondition, message).with(&details::NamespaceInvalidStateFailure {
                namespace,
                state: state as i32,
                allowed_states: allowed.iter().map(|state| *state as i32).collect(),
            })
        }
        Error::PermissionDenied(message) => {
            Row::new(Code::PermissionDenied, message).with(&details::PermissionDeniedFailure::default())
        }
        Error::Unavailable(message) | Error::NotDone(message) => Row::new(Code::Unavailable, message),
        Error::Overloaded(message) => {
            Row::exhausted(message.into(), ResourceExhaustedCause::SystemOverloaded, ResourceExhaustedScope::System)
        }
        Error::DiskFull { free_bytes } => Row::exhausted(
            format!("the disk has no room for new work ({} MiB are free)", free_bytes >> 20).into(),
            ResourceExhaustedCause::PersistenceStorageLimit,
            ResourceExhaustedScope::System,
        ),
        Error::TooManyPolls => Row::exhausted(
            "namespace concurrent poller limit exceeded".into(),
            ResourceExhaustedCause::ConcurrentLimit,
            ResourceExhaustedScope::Namespace,
        ),
        Error::Internal(message) => Row::new(Code::Internal, message),
        Error::Corrupt(message) => Row::new(Code::DataLoss, message),
        Error::Unknown(message) => Row::new(Code::Unknown, message),
        Error::DeadlineExceeded(message) => Row::new(Code::DeadlineExceeded, message),
        Error::MultiOperation(operations) => row_of_operations(operations),
    }
}

/// The whole has the code of the operation that failed; its status stands in the details, beside those of the others.
fn row_of_operations(operations: Vec<Option<Error>>) -> Row {
    let aborted = || Row::new(Code::Aborted, "Operation was aborted.").with(&MultiOperationExecutionAborted::default());
    let mut code = Code::Aborted;
    let statuses = operations.into_iter().map(|error| {
        let Row { code: own, message, detail, .. } = error.map_or_else(aborted, row_of);
        if own != Code::Aborted {
            code = own;
        }
        OperationStatus {
            code: own as i32,
            message: cut_encoded(cut(&message, NAMED_BYTES_MAX)).to_owned(),
            details: detail.into_iter().collect(),
        }
    });
    let failure = details::MultiOperationExecutionFailure { statuses: statuses.collect() };
    Row::new(code, "Update-with-Start could not be executed.").with(&failure)
}

fn row_of_rejection(rejection: Rejection) -> Row {
    match rejection {
        Rejection::InvalidArgument(message) => Row::new(Code::InvalidArgument, message),
        Rejection::NotFound(message) => Row::new(Code::NotFound, message).with(&details::NotFoundFailure::default()),
        Rejection::AlreadyExists(message) => Row::new(Code::AlreadyExists, message),
        rejection @ Rejection::OtherChain => {
            Row::new(Code::NotFound, rejection.to_string()).with(&details::NotFoundFailure::default())
        }
        Rejection::AlreadyStarted { message, start_request_id, run_id, first_execution_run_id } => {
            Row::new(Code::AlreadyExists, message).with(&details::WorkflowExecutionAlreadyStartedFailure {
                start_request_id,
                run_id,
                first_execution_run_id,
            })
        }
        rejection @ Rejection::ActivityAlreadyStarted { .. } => already_started(rejection),
        Rejection::WorkflowNotReady(message) => {
            Row::new(Code::FailedPrecondition, message).with(&details::WorkflowNotReadyFailure {})
        }
        Rejection::FailedPrecondition(message) => Row::new(Code::FailedPrecondition, message),
        Rejection::ResourceExhausted { cause, message } => {
            Row::exhausted(message, cause, ResourceExhaustedScope::Namespace)
        }
        Rejection::QueryFailed { message, failure } => Row::new(Code::InvalidArgument, message)
            .with(&details::QueryFailedFailure { failure: failure.map(|failure| *failure) }),
        Rejection::Unimplemented(message) => Row::new(Code::Unimplemented, message),
        Rejection::Unavailable(message) => Row::new(Code::Unavailable, message),
        Rejection::OfUpdate(rejection) => row_of_rejection(*rejection),
    }
}

/// An activity stands in the way of a start.
fn already_started(rejection: Rejection) -> Row {
    let row = Row::new(Code::AlreadyExists, rejection.to_string());
    match rejection {
        Rejection::ActivityAlreadyStarted { start_request_id, run_id } => {
            row.with(&details::ActivityExecutionAlreadyStartedFailure { start_request_id, run_id })
        }
        _ => row,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let is_not_done = matches!(error, Error::NotDone(_));
        let Row { code, message, detail, exhausted } = row_of(error);
        let message = cut_encoded(cut(&message, MESSAGE_BYTES_MAX)).to_owned();
        let details = match detail {
            Some(detail) => {
                let status = RpcStatus { code: code as i32, message: message.clone(), details: vec![detail] };
                Bytes::from(status.encode_to_vec())
            }
            None => Bytes::new(),
        };
        let mut metadata = MetadataMap::new();
        if let Some((cause, scope)) = exhausted {
            insert(
                &mut metadata,
                "x-resource-exhausted-cause",
                &short_name(cause.as_str_name(), "RESOURCE_EXHAUSTED_CAUSE_"),
            );
            insert(
                &mut metadata,
                "x-resource-exhausted-scope",
                &short_name(scope.as_str_name(), "RESOURCE_EXHAUSTED_SCOPE_"),
            );
        }
        if is_not_done {
            insert(&mut metadata, NOT_DONE, "1");
        }
        Status::with_details_and_metadata(code, message, details, metadata)
    }
}

fn insert(metadata: &mut MetadataMap, name: &'static str, value: &str) {
    if let Ok(value) = MetadataValue::try_from(value) {
        metadata.insert(name, value);
    }
}

fn state_name(state: NamespaceState) -> String {
    short_name(state.as_str_name(), "NAMESPACE_STATE_")
}

/// An enum's name as Temporal shows it: `RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW` is `BusyWorkflow`.
fn short_name(name: &str, prefix: &str) -> String {
    let words = name.strip_prefix(prefix).unwrap_or(name).split('_');
    words.flat_map(|word| word.chars().take(1).chain(word.chars().skip(1).map(|c| c.to_ascii_lowercase()))).collect()
}

/// As much of the front of `text` as fits, whole characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// As much of the front of a message as may be in a header, whole characters.
fn cut_encoded(message: &str) -> &str {
    let mut bytes = 0;
    let end = message.char_indices().find(|(_, character)| {
        let plain = character.is_ascii_graphic() && !"\"#%<>?`{}".contains(*character);
        bytes += if plain { 1 } else { 3 * character.len_utf8() };
        bytes > MESSAGE_ENCODED_BYTES_MAX
    });
    &message[..end.map_or(message.len(), |(end, _)| end)]
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::failure::v1::Failure;

    use super::*;

    fn detail_name(status: &Status) -> String {
        if status.details().is_empty() {
            return String::new();
        }
        let decoded = RpcStatus::decode(status.details()).unwrap();
        assert_eq!((decoded.code, decoded.message.as_str()), (status.code() as i32, status.message()));
        let [detail] = decoded.details.as_slice() else { panic!("one detail") };
        detail.type_url.strip_prefix("type.googleapis.com/temporal.api.errordetails.v1.").unwrap().to_owned()
    }

    #[test]
    fn a_long_name_does_not_outgrow_the_headers() {
        let status = Status::from(Error::NamespaceNotFound("n".repeat(100_000)));
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().len() + status.details().len() < 10_000);
    }

    #[test]
    fn what_must_be_escaped_does_not_outgrow_the_headers_either() {
        for text in ["n", "\u{1}", "ü", " ", "%"] {
            let headers = Status::from(Error::NamespaceNotFound(text.repeat(100_000))).into_http::<()>();
            let bytes: usize =
                headers.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!(bytes < 16 << 10, "{text:?}: {bytes} bytes");
        }
    }

    #[test]
    fn each_error_has_its_status() {
        let rejected = Error::Rejected;
        let already_started = Rejection::AlreadyStarted {
            message: "m".into(),
            start_request_id: "s".into(),
            run_id: "r".into(),
            first_execution_run_id: "f".into(),
        };
        let cases = [
            (Error::invalid("m"), Code::InvalidArgument, ""),
            (Error::not_found("m"), Code::NotFound, "NotFoundFailure"),
            (rejected(Rejection::OtherChain), Code::NotFound, "NotFoundFailure"),
            (rejected(already_started), Code::AlreadyExists, "WorkflowExecutionAlreadyStartedFailure"),
            (rejected(Rejection::WorkflowNotReady("m".into())), Code::FailedPrecondition, "WorkflowNotReadyFailure"),
            (Error::failed_precondition("m"), Code::FailedPrecondition, ""),
            (rejected(Rejection::AlreadyExists("m".into())), Code::AlreadyExists, ""),
            (
                rejected(Rejection::QueryFailed { message: "m".into(), failure: Some(Box::new(Failure::default())) }),
                Code::InvalidArgument,
                "QueryFailedFailure",
            ),
            (rejected(Rejection::Unimplemented("m".into())), Code::Unimplemented, ""),
            (rejected(Rejection::Unavailable("m".into())), Code::Unavailable, ""),
            (Error::NamespaceNotFound("n".into()), Code::NotFound, "NamespaceNotFoundFailure"),
            (Error::NamespaceAlreadyExists("n".into()), Code::AlreadyExists, "NamespaceAlreadyExistsFailure"),
            (Error::Taken("m".into()), Code::AlreadyExists, ""),
            (
                Error::NamespaceInvalidState {
                    namespace: "n".into(),
                    state: NamespaceState::Deprecated,
                    allowed: &[NamespaceState::Registered],
                },
                Code::FailedPrecondition,
                "NamespaceInvalidStateFailure",
            ),
            (Error::PermissionDenied("m"), Code::PermissionDenied, "PermissionDeniedFailure"),
            (Error::Unavailable("m".into()), Code::Unavailable, ""),
            (Error::Overloaded("m".into()), Code::ResourceExhausted, "ResourceExhaustedFailure"),
            (Error::TooManyPolls, Code::ResourceExhausted, "ResourceExhaustedFailure"),
            (Error::DiskFull { free_bytes: 1 }, Code::ResourceExhausted, "ResourceExhaustedFailure"),
            (Error::Internal("m".into()), Code::Internal, ""),
            (Error::Corrupt("m".into()), Code::DataLoss, ""),
            (Error::DeadlineExceeded("m"), Code::DeadlineExceeded, ""),
            (
                Error::MultiOperation(vec![None, Some(Error::not_found("m"))]),
                Code::NotFound,
                "MultiOperationExecutionFailure",
            ),
        ];
        for (error, code, detail) in cases {
            let status = Status::from(error.clone());
            assert_eq!((status.code(), detail_name(&status).as_str()), (code, detail), "{error:?}");
        }
    }

    #[test]
    fn exhaustion_is_also_said_in_headers() {
        let status = Status::from(Error::Rejected(Rejection::ResourceExhausted {
            cause: ResourceExhaustedCause::BusyWorkflow,
            message: "Workflow is busy.".into(),
        }));
        let header = |name| status.metadata().get(name).unwrap().to_str().unwrap();
        assert_eq!(header("x-resource-exhausted-cause"), "BusyWorkflow");
        assert_eq!(header("x-resource-exhausted-scope"), "Namespace");
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let status = Status::from(Error::invalid("ü".repeat(3000)));
        assert_eq!(status.message().len(), 2000);
        assert_eq!(cut("aü", 2), "a");
    }
}
