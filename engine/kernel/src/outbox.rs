//! Messages from one workflow to another, which may live in another partition.
//!
//! ```text
//!   source: a command ──▶ Initiated event, what is pending, [`Effect::Send`]       one entry with the message's row
//!                                                    │ durable
//!   target:                     RunCommand::ReceiveMessage ──▶ the event that it causes, once for each message
//!                                                    │ durable
//!   source: RunCommand::SettleMessage ◀─ [`Outcome`] ┘  the event that tells how it went; the message's row goes
//! ```
//!
//! A message is sent until its outcome is known, so it may arrive more than once: the target knows it again by its
//! [`OutboxMessage::id`], which the run that took it remembers as it does those of signals, for as long as it is kept.
//!
//! A message that names no run is for whichever is the current one when it comes first. That need not be the current one any more
//! when it comes again, so the runs are asked one after the other, from the newest back to the one that was current when the message
//! was sent ([`Workflow::recipient`]): nearly always that is the current run, and nothing is read. So nobody has to tell the target
//! what it may forget. It forgets a run's messages with the run, a retention after that has closed, while a message whose outcome is
//! unknown is sent again every few seconds: only one that gets no answer through for that long could be taken a second time. The same
//! is true of a child's first run, which is what a repeated start is known by.
//!
//! [`Effect::Send`]: crate::Effect::Send

mod children;
mod completions;
mod scheduled;

use bytes::Bytes;
use everlog_proto::api::command::v1::{
    RequestCancelExternalWorkflowExecutionCommandAttributes, SignalExternalWorkflowExecutionCommandAttributes,
};
use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::enums::v1::SignalExternalWorkflowExecutionFailedCause;
use prost::Message;

pub(crate) use self::children::start_request_id;
pub use self::children::{ChildClosed, ParentClosed, StartChild, child_run_id};
pub use self::completions::{CallbackToken, NexusCompleted, OPERATION_TOKEN_HEADER, SYSTEM_CALLBACK, TOKEN_HEADER};
pub use self::scheduled::{EndScheduled, ScheduledClosed, StartScheduled};
pub use crate::inheritance::Inherited;
use crate::state::row::{decode, encode, required};
use crate::state::{CorruptRow, PreviousRun};
use crate::{EntityKind, Ids, NamespaceId, Rejection, RunId, Time, Workflow};

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxMessage {
    /// The namespace of both workflows; of the source, if [`OutboxMessage::target_namespace_id`] says so.
    pub namespace_id: NamespaceId,
    /// The workflow that sends it.
    pub source_workflow_id: String,
    /// Its run.
    pub source_run_id: RunId,
    /// The run whose message this is, if that is another one than the source: a reset has kept the event that sent it, and the source goes
    /// on from there. Whatever the two send is one message.
    pub origin_run_id: Option<RunId>,
    /// The event with which the run has sent it; 0 if it has told a child with it that it has closed.
    pub event_id: i64,
    /// When, by the clock of the source's partition. That of the target's goes on behind it, so that what is caused is never dated
    /// before its cause.
    pub sent: Time,
    /// The workflow that it is for.
    pub target_workflow_id: String,
    /// The run that it is for; `None` for the current one.
    pub target_run_id: Option<RunId>,
    /// What it says.
    pub body: MessageBody,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub enum MessageBody {
    /// Signals the workflow.
    SignalExternal(SignalExternalWorkflowExecutionCommandAttributes),
    /// Asks the workflow to cancel.
    CancelExternal(RequestCancelExternalWorkflowExecutionCommandAttributes),
    /// Starts the workflow as a child.
    StartChild(Box<StartChild>),
    /// Tells the parent that a child has ended.
    ChildClosed(Box<ChildClosed>),
    /// Tells a child that its parent has closed.
    ParentClosed(ParentClosed),
    /// Starts the workflow for a schedule.
    StartScheduled(Box<StartScheduled>),
    /// Ends the workflow that a schedule has started, or asks it to end.
    EndScheduled(EndScheduled),
    /// Tells a schedule that a workflow has ended that it has started.
    ScheduledClosed(Box<ScheduledClosed>),
    /// Tells a workflow how an operation has ended that it waits for.
    NexusCompleted(Box<NexusCompleted>),
}

impl MessageBody {
    /// What sends it.
    pub fn source_kind(&self) -> EntityKind {
        match self {
            MessageBody::StartScheduled(_) | MessageBody::EndScheduled(_) => EntityKind::Schedule,
            _ => EntityKind::Workflow,
        }
    }

    /// What it is for.
    pub fn target_kind(&self) -> EntityKind {
        match self {
            MessageBody::ScheduledClosed(_) => EntityKind::Schedule,
            _ => EntityKind::Workflow,
        }
    }
}

/// What has become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target has it.
    Delivered,
    /// There is no such workflow, or it has closed.
    NotFound,
    /// The target takes no more signals.
    TooManySignals,
    /// The child cannot be started: another run is in its way.
    AlreadyExists,
}

impl Outcome {
    /// What a refusal by the target means for the message; `None` if it is to be sent again.
    pub fn of_rejection(rejection: &Rejection) -> Option<Outcome> {
        match rejection {
            Rejection::ResourceExhausted { .. } | Rejection::Unavailable(_) => None,
            Rejection::FailedPrecondition(_) => Some(Outcome::TooManySignals),
            Rejection::AlreadyStarted { .. } => Some(Outcome::AlreadyExists),
            _ => Some(Outcome::NotFound),
        }
    }

    /// The cause in the event that tells of a failure to signal or to cancel. Both kinds of events number the causes that they share alike.
    pub(crate) fn cause(self) -> i32 {
        let cause = match self {
            Outcome::Delivered => SignalExternalWorkflowExecutionFailedCause::Unspecified,
            Outcome::NotFound | Outcome::AlreadyExists => {
                SignalExternalWorkflowExecutionFailedCause::ExternalWorkflowExecutionNotFound
            }
            Outcome::TooManySignals => SignalExternalWorkflowExecutionFailedCause::SignalCountLimitExceeded,
        };
        cause.into()
    }
}

/// The value of a message's row.
#[derive(Message)]
struct OutboxRow {
    #[prost(bytes = "bytes", tag = "1")]
    namespace_id: Bytes,
    #[prost(string, tag = "2")]
    source_workflow_id: String,
    #[prost(bytes = "bytes", tag = "3")]
    source_run_id: Bytes,
    #[prost(int64, tag = "4")]
    event_id: i64,
    #[prost(string, tag = "5")]
    target_workflow_id: String,
    /// Empty for the current run.
    #[prost(bytes = "bytes", tag = "6")]
    target_run_id: Bytes,
    #[prost(message, optional, tag = "7")]
    signal_external: Option<SignalExternalWorkflowExecutionCommandAttributes>,
    #[prost(message, optional, tag = "8")]
    cancel_external: Option<RequestCancelExternalWorkflowExecutionCommandAttributes>,
    #[prost(sfixed64, tag = "9")]
    sent_ns: i64,
    /// [`StartChild`].
    #[prost(bytes = "bytes", optional, tag = "10")]
    start_child: Option<Bytes>,
    /// [`ChildClosed`].
    #[prost(bytes = "bytes", optional, tag = "11")]
    child_closed: Option<Bytes>,
    /// [`ParentClosed`].
    #[prost(bytes = "bytes", optional, tag = "12")]
    parent_closed: Option<Bytes>,
    /// [`StartScheduled`].
    #[prost(bytes = "bytes", optional, tag = "13")]
    start_scheduled: Option<Bytes>,
    /// [`EndScheduled`].
    #[prost(bytes = "bytes", optional, tag = "14")]
    end_scheduled: Option<Bytes>,
    /// [`ScheduledClosed`].
    #[prost(bytes = "bytes", optional, tag = "15")]
    scheduled_closed: Option<Bytes>,
    /// Empty if it is the source.
    #[prost(bytes = "bytes", tag = "16")]
    origin_run_id: Bytes,
    /// [`NexusCompleted`].
    #[prost(bytes = "bytes", optional, tag = "17")]
    nexus_completed: Option<Bytes>,
}

/// What a target knows a message by that a run has sent with an event.
pub fn message_id(source_run_id: RunId, event_id: i64) -> String {
    Ids::new(seed(source_run_id, event_id)).request_id()
}

/// The seed of the ids that follow from a run and one of its events.
fn seed(run_id: RunId, event_id: i64) -> u128 {
    let event = u128::from(event_id.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    u128::from(run_id) ^ event
}

/// Which run of a workflow a message is for that names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// There is no current run.
    Nobody,
    /// This one: it has taken the message already, or it is the current one and no other run has.
    Run(RunId),
    /// The current one, unless the run `from`, which is not in memory, or one before it has taken the message.
    CurrentUnless {
        /// The newest run that is to be looked at.
        from: RunId,
    },
}

impl Workflow {
    /// Which run a message is for that names none. The current run must be in memory, if there is one.
    ///
    /// A run that had made place for another before the message was sent cannot have taken it, and is as far back as one has to look.
    /// Its clock may be another than the sender's, but by [`Context::latest`](crate::Context::latest) whoever takes a message goes on
    /// behind the time at which it was sent.
    pub fn recipient(&self, message: &OutboxMessage) -> Recipient {
        let Some(current) = self.current_run() else { return Recipient::Nobody };
        let id = message.id();
        let mut run = current;
        // Each step is to another run that is in memory.
        for _ in 0..self.runs.len() {
            if run.signal_requests.contains(&id) {
                return Recipient::Run(run.id);
            }
            match run.info.previous.filter(|previous| previous.until >= message.sent) {
                None => return Recipient::Run(current.id),
                Some(PreviousRun { run_id: from, .. }) => match self.run(Some(from)) {
                    Some(previous) => run = previous,
                    None => return Recipient::CurrentUnless { from },
                },
            }
        }
        Recipient::Run(current.id)
    }
}

impl Workflow {
    /// The run that a message is for instead of `run_id`, to which it was sent: one that goes on from there, if that run was reset. So a
    /// child's end, or that of an operation, reaches the run that waits for it. (Temporal: `recordchildworkflowcompleted`.)
    pub fn goes_on_as(&self, run_id: RunId, message: &OutboxMessage) -> Option<RunId> {
        let run = self.runs.get(&run_id).filter(|run| !run.is_open())?;
        let is_end = matches!(message.body, MessageBody::ChildClosed(_) | MessageBody::NexusCompleted(_));
        run.state.reset_run_id.filter(|_| is_end)
    }
}

impl OutboxMessage {
    /// Stands for the event of a message that none goes with.
    pub(crate) const NO_EVENT: i64 = 0;

    /// What the target knows the message by: the same whenever it is sent, and by whomever, but that each run closes for itself.
    ///
    /// It is what the event says that records the message: a child names the run that has closed, not the one that had started it.
    pub fn id(&self) -> String {
        let by = match self.body {
            MessageBody::ParentClosed(_) => self.source_run_id,
            _ => self.origin(),
        };
        message_id(by, self.event_id)
    }

    /// The run that has sent it first.
    pub fn origin(&self) -> RunId {
        self.origin_run_id.unwrap_or(self.source_run_id)
    }

    /// The namespace of the workflow that it is for.
    pub fn target_namespace_id(&self) -> NamespaceId {
        match &self.body {
            MessageBody::NexusCompleted(completed) => {
                completed.namespace_id[..].try_into().map_or(self.namespace_id, NamespaceId)
            }
            _ => self.namespace_id,
        }
    }

    /// Whether it may begin the workflow that it is for. Others are for one that is there.
    pub fn begins_workflow(&self) -> bool {
        matches!(self.body, MessageBody::StartChild(_) | MessageBody::StartScheduled(_))
    }

    /// About what its payloads take, bytes.
    pub fn payload_bytes(&self) -> usize {
        let payloads = |payloads: &Option<Payloads>| payloads.as_ref().map_or(0, Message::encoded_len);
        match &self.body {
            MessageBody::SignalExternal(signal) => payloads(&signal.input),
            MessageBody::StartChild(start) => start.encoded_len(),
            MessageBody::ChildClosed(closed) => closed.encoded_len(),
            MessageBody::StartScheduled(start) => start.encoded_len(),
            MessageBody::ScheduledClosed(closed) => closed.encoded_len(),
            MessageBody::NexusCompleted(completed) => completed.encoded_len(),
            MessageBody::CancelExternal(_) | MessageBody::ParentClosed(_) | MessageBody::EndScheduled(_) => 0,
        }
    }

    /// The value of its row.
    pub fn to_row(&self) -> Bytes {
        let bytes = |id: RunId| Bytes::copy_from_slice(&id.0);
        let mut row = OutboxRow::default();
        match &self.body {
            MessageBody::SignalExternal(signal) => row.signal_external = Some(signal.clone()),
            MessageBody::CancelExternal(cancel) => row.cancel_external = Some(cancel.clone()),
            MessageBody::StartChild(start) => row.start_child = children::encoded(&**start),
            MessageBody::ChildClosed(closed) => row.child_closed = children::encoded(&**closed),
            MessageBody::ParentClosed(closed) => row.parent_closed = children::encoded(closed),
            MessageBody::StartScheduled(start) => row.start_scheduled = children::encoded(&**start),
            MessageBody::EndScheduled(end) => row.end_scheduled = children::encoded(end),
            MessageBody::ScheduledClosed(closed) => row.scheduled_closed = children::encoded(&**closed),
            MessageBody::NexusCompleted(completed) => row.nexus_completed = children::encoded(&**completed),
        }
        encode(&OutboxRow {
            namespace_id: Bytes::copy_from_slice(&self.namespace_id.0),
            source_workflow_id: self.source_workflow_id.clone(),
            source_run_id: bytes(self.source_run_id),
            event_id: self.event_id,
            target_workflow_id: self.target_workflow_id.clone(),
            target_run_id: self.target_run_id.map(bytes).unwrap_or_default(),
            origin_run_id: self.origin_run_id.map(bytes).unwrap_or_default(),
            sent_ns: self.sent.0,
            ..row
        })
    }

    /// From the value of its row.
    ///
    /// # Errors
    ///
    /// [`CorruptRow`] if it is none.
    pub fn from_row(value: &[u8]) -> Result<OutboxMessage, CorruptRow> {
        let row: OutboxRow = decode(value)?;
        let id = |bytes: &Bytes| <[u8; 16]>::try_from(&bytes[..]).ok();
        let body = if let Some(signal) = row.signal_external {
            Some(MessageBody::SignalExternal(signal))
        } else if let Some(cancel) = row.cancel_external {
            Some(MessageBody::CancelExternal(cancel))
        } else if let Some(start) = row.start_child {
            Some(MessageBody::StartChild(Box::new(decode(&start)?)))
        } else if let Some(closed) = row.child_closed {
            Some(MessageBody::ChildClosed(Box::new(decode(&closed)?))).filter(is_known)
        } else if let Some(closed) = row.parent_closed {
            Some(MessageBody::ParentClosed(decode(&closed)?))
        } else if let Some(start) = row.start_scheduled {
            Some(MessageBody::StartScheduled(Box::new(decode(&start)?))).filter(is_known)
        } else if let Some(end) = row.end_scheduled {
            Some(MessageBody::EndScheduled(decode(&end)?))
        } else if let Some(closed) = row.scheduled_closed {
            Some(MessageBody::ScheduledClosed(Box::new(decode(&closed)?)))
        } else if let Some(completed) = row.nexus_completed {
            Some(MessageBody::NexusCompleted(Box::new(decode(&completed)?)))
        } else {
            None
        };
        let run_id = |bytes: &Bytes, name: &str| {
            let run_id = (!bytes.is_empty()).then(|| required(id(bytes), name)).transpose()?;
            Ok::<_, CorruptRow>(run_id.map(RunId))
        };
        Ok(OutboxMessage {
            namespace_id: NamespaceId(required(id(&row.namespace_id), "namespace")?),
            source_workflow_id: row.source_workflow_id,
            source_run_id: RunId(required(id(&row.source_run_id), "source")?),
            event_id: row.event_id,
            sent: Time(row.sent_ns),
            target_workflow_id: row.target_workflow_id,
            target_run_id: run_id(&row.target_run_id, "target run")?,
            origin_run_id: run_id(&row.origin_run_id, "origin")?,
            body: required(body, "body")?,
        })
    }
}

/// Whether a message says something that this build can do.
fn is_known(body: &MessageBody) -> bool {
    match body {
        MessageBody::ChildClosed(closed) => closed.is_end(),
        MessageBody::StartScheduled(start) => start.request.is_some(),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
