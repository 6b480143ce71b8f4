//! What the pages of Temporal's Web UI ask of their own server beside the methods, so that they can be served in front of this one: its
//! settings, and a history as a file. (Temporal: `server/api` of its Web UI, version 2.54.)

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::HeaderMap;
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor, Value};
use serde_json::json;
use tonic::{Code, Status};

use crate::call::{Grpc, call};
use crate::encoding::Encoder;
use crate::json::go_json;
use crate::path::{segments, unescaped};
use crate::routes::{API, pool};

/// What a page asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// How it is to look.
    Settings,
    /// All events of a run.
    History(Run),
}

/// A run, by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    namespace: String,
    workflow_id: String,
    run_id: String,
}

/// What is at a path.
pub(crate) fn at(path: &str) -> Option<Page> {
    let rest = path.strip_prefix(API)?;
    let parts: Vec<_> = segments(rest).collect();
    match parts[..] {
        ["settings"] => Some(Page::Settings),
        ["namespaces", namespace, "workflows", workflow_id, "run", run_id, "history.json"] => {
            let name = |part| unescaped(part, true).into_owned();
            let run = Run { namespace: name(namespace), workflow_id: name(workflow_id), run_id: name(run_id) };
            Some(Page::History(run))
        }
        _ => None,
    }
}

/// The settings: nothing is hidden or turned off, nobody signs in.
pub(crate) fn settings() -> Bytes {
    let on = false;
    let settings = json!({
        "Auth": { "Enabled": on, "Options": null, "RedirectToProvider": on },
        "DefaultNamespace": "",
        "ShowTemporalSystemNamespace": on,
        "NavCollapsedByDefault": on,
        "FeedbackURL": "",
        // Pages of a server that is on its own ask nobody else.
        "DisableNewsFetch": true,
        "Codec": {
            "Endpoint": "",
            "PassAccessToken": on,
            "IncludeCredentials": on,
            "DefaultErrorMessage": "",
            "DefaultErrorLink": "",
        },
        "Version": env!("CARGO_PKG_VERSION"),
        "DisableWriteActions": on,
        "WorkflowTerminateDisabled": on,
        "WorkflowCancelDisabled": on,
        "WorkflowSignalDisabled": on,
        "WorkflowUpdateDisabled": on,
        "WorkflowResetDisabled": on,
        "WorkflowPauseDisabled": on,
        "BatchActionsDisabled": on,
        "StartWorkflowDisabled": on,
        "HideWorkflowQueryErrors": on,
        "RefreshWorkflowCountsDisabled": on,
        "ActivityCommandsDisabled": on,
    });
    settings.to_string().into()
}

/// The events of a run as a list, page after page as the reader takes them: a long history is never in memory as a whole. What goes wrong is
/// told as the last element, since by then the answer has begun.
pub(crate) fn history(grpc: Grpc, headers: HeaderMap, run: Run, encoder: Encoder) -> Body {
    let file = File { grpc, headers, run, next_page: Some(Bytes::new()), events: 0, encoder };
    Body::from_stream(stream::unfold(Some(file), |file| async move {
        let mut file = file?;
        let text = file.more().await;
        let is_last = file.next_page.is_none();
        let bytes = file.encoder.add(text.as_bytes(), is_last);
        Some((bytes, (!is_last).then_some(file)))
    }))
}

/// A history that is being read.
struct File {
    grpc: Grpc,
    headers: HeaderMap,
    run: Run,
    /// Where the next page begins; none after the last.
    next_page: Option<Bytes>,
    events: usize,
    encoder: Encoder,
}

impl File {
    /// What comes next.
    async fn more(&mut self) -> String {
        let mut text = String::from(if self.events == 0 && self.next_page.as_ref().is_some_and(Bytes::is_empty) {
            "["
        } else {
            ""
        });
        let token = self.next_page.take().unwrap_or_default();
        let elements = match self.page(token).await {
            Ok((events, next_page)) => {
                self.next_page = Some(next_page).filter(|token| !token.is_empty());
                events
            }
            Err(status) => {
                let problem = format!("rpc error: code = {} desc = {}", code(status.code()), status.message());
                vec![json!({ "error": problem }).to_string()]
            }
        };
        for element in elements {
            text.push_str(if self.events == 0 { "" } else { "," });
            text.push_str(&element);
            text.push('\n');
            self.events += 1;
        }
        if self.next_page.is_none() {
            text.push(']');
        }
        text
    }

    /// A page's events, and where the next begins.
    async fn page(&self, token: Bytes) -> Result<(Vec<String>, Bytes), Status> {
        let method = method().ok_or_else(|| Status::internal("the descriptors have no histories"))?;
        let request = self.request(method.input(), token);
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let answer = call(&self.grpc, &path, &self.headers, &request.encode_to_vec()).await?;
        let read = move || {
            let page =
                DynamicMessage::decode(method.output(), answer).map_err(|error| Status::internal(error.to_string()))?;
            let token = page.get_field_by_name("next_page_token").and_then(|token| token.as_bytes().cloned());
            let history = page.get_field_by_name("history");
            let events = history.as_ref().and_then(|history| history.as_message()?.get_field_by_name("events"));
            let events = events.as_ref().and_then(|events| events.as_list()).unwrap_or_default();
            Ok((events.iter().filter_map(Value::as_message).map(go_json).collect(), token.unwrap_or_default()))
        };
        // A page may be large. A panic in there is logged by its thread.
        tokio::task::spawn_blocking(read).await.map_err(|_| Status::internal("the history could not be converted"))?
    }

    fn request(&self, descriptor: MessageDescriptor, token: Bytes) -> DynamicMessage {
        let mut request = DynamicMessage::new(descriptor);
        request.set_field_by_name("namespace", Value::String(self.run.namespace.clone()));
        request.set_field_by_name("next_page_token", Value::Bytes(token));
        if let Some(Value::Message(run)) = request.get_field_by_name_mut("execution") {
            run.set_field_by_name("workflow_id", Value::String(self.run.workflow_id.clone()));
            run.set_field_by_name("run_id", Value::String(self.run.run_id.clone()));
        }
        request
    }
}

fn method() -> Option<MethodDescriptor> {
    let service = pool().ok()?.get_service_by_name("temporal.api.workflowservice.v1.WorkflowService")?;
    service.methods().find(|method| method.name() == "GetWorkflowExecutionHistory")
}

/// What Go calls a code.
fn code(code: Code) -> String {
    match code {
        Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_may_be_escaped_twice() {
        let run = |path: &str| match at(path) {
            Some(Page::History(run)) => Some(run.workflow_id),
            _ => None,
        };
        assert_eq!(run("/api/v1/namespaces/n/workflows/a%2Fb/run/r/history.json").as_deref(), Some("a/b"));
        assert_eq!(run("/api/v1/namespaces/n/workflows/a%252Fb/run/r/history.json").as_deref(), Some("a/b"));
        assert_eq!(run("/namespaces/n/workflows/a/run/r/history.json"), None);
        assert_eq!(run("/api/v1/namespaces/n/workflows/a/run/r/history.json/"), None);
        assert_eq!(at("/api/v1/settings"), Some(Page::Settings));
        assert_eq!(at("/settings"), None);
    }
}
