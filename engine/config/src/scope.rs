//! Where a value of the dynamic configuration holds.

use std::fmt;

use everlog_kernel::transition::TaskKind;
use serde_json::{Map, Value};

/// The constraints of a value. What is not named holds everywhere.
///
/// A task queue is looked up by its namespace, name and type, then by its namespace and name, then by its name in all namespaces, and
/// then as its namespace is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) namespace: Option<String>,
    pub(crate) queue: Option<Queue>,
}

/// A task queue, or both of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    name: String,
    kind: Option<TaskKind>,
}

/// Why constraints are no [`Scope`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unscoped {
    /// Nothing is ever looked up by these.
    Never(String),
    /// They cannot be read.
    Wrong(String),
}

/// Constraints that Temporal has for what Everlog does not: shards, and queues of its own tasks.
const OF_TEMPORAL: [&str; 5] = ["namespaceId", "shardId", "historyTaskType", "destination", "chasmTaskType"];

impl Scope {
    /// Reads constraints as they are written. Their names may be written in capitals or not.
    pub(crate) fn read(constraints: &Map<String, Value>) -> Result<Scope, Unscoped> {
        let (mut scope, mut queue, mut kind) = (Scope::default(), None, None);
        for (name, value) in constraints {
            match name.to_ascii_lowercase().as_str() {
                "namespace" => scope.namespace = Some(text(name, value)?),
                "taskqueuename" => queue = Some(text(name, value)?),
                "tasktype" => kind = Some(task_kind(name, value)?),
                other => {
                    if let Some(known) = OF_TEMPORAL.iter().find(|known| known.eq_ignore_ascii_case(other)) {
                        return Err(Unscoped::Never((*known).to_owned()));
                    }
                    let known = "namespace, taskQueueName, taskType";
                    return Err(Unscoped::Wrong(format!("constraint {name:?} is none of {known}")));
                }
            }
        }
        match (queue, kind) {
            (None, None) => {}
            (Some(name), kind) if kind.is_none() || scope.namespace.is_some() => {
                scope.queue = Some(Queue { name, kind });
            }
            _ => return Err(Unscoped::Never("taskType without namespace and taskQueueName".to_owned())),
        }
        Ok(scope)
    }

    /// Whether a task queue of the namespace is meant.
    pub(crate) fn has_queue(&self, name: &str, kind: TaskKind) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.name == name && queue.kind.is_none_or(|other| other == kind))
    }

    /// How much it says of a task queue: what says most counts.
    pub(crate) fn rank(&self) -> u8 {
        let has_kind = self.queue.as_ref().is_some_and(|queue| queue.kind.is_some());
        u8::from(self.namespace.is_some()) + u8::from(has_kind)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [self.namespace.as_ref().map(|_| "namespace"), self.queue.as_ref().map(|_| "taskQueueName")];
        f.write_str(&names.into_iter().flatten().collect::<Vec<_>>().join(" and "))
    }
}

fn text(name: &str, value: &Value) -> Result<String, Unscoped> {
    let wrong = || Unscoped::Wrong(format!("constraint {name}: {value} is no text"));
    value.as_str().map(str::to_owned).ok_or_else(wrong)
}

/// The type of a task queue, by its name or its number in the API.
fn task_kind(name: &str, value: &Value) -> Result<TaskKind, Unscoped> {
    let by_name = |text: &str| match text.to_ascii_lowercase().as_str() {
        "workflow" => Some(TaskKind::Workflow),
        "activity" => Some(TaskKind::Activity),
        _ => None,
    };
    let by_number = |number: u64| TaskKind::from_byte(u8::try_from(number).ok()?);
    let kind = value.as_str().and_then(by_name).or_else(|| value.as_u64().and_then(by_number));
    kind.ok_or_else(|| Unscoped::Wrong(format!("constraint {name}: {value} is none of Workflow, Activity")))
}
