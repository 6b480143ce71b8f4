//! No request hurts the server: thousands of requests that make half sense or none, to every method, are each answered with a
//! status and in time, nothing panics, and the server works as before.
//!
//! The seed is fixed; `SEED=number` tries another one.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test fails by panicking, also in its helpers

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use everlog_config::DynamicConfig;
use everlog_proto::api::workflowservice::v1::{
    PollActivityTaskQueueResponse, PollWorkflowTaskQueueResponse, RegisterNamespaceRequest,
    StartWorkflowExecutionRequest,
};
use everlog_random::Random;
use harness::requests::{NAMESPACE, complete, poll_activity, poll_workflow, respond, schedule_activity, seconds};
use harness::wire::{call, descriptors, message, methods};
use harness::{Server, poll, start_request, task_queue, within};
use prost::Message;
use prost_types_plain::field_descriptor_proto::{Label, Type};
use prost_types_plain::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use tonic::{Code, Status};

const LONG: Duration = Duration::from_secs(30);

/// Makes messages of the right shape, filled with what means something to the server and what does not.
struct Nonsense {
    random: Random,
    namespace: &'static str,
    files: Vec<FileDescriptorProto>,
    texts: Vec<String>,
    tokens: Vec<Vec<u8>>,
}

impl Nonsense {
    fn request(&mut self, method: &str, input: &DescriptorProto) -> Vec<u8> {
        // Whatever is done to a namespace is done to one that nothing else uses.
        self.namespace = if method.contains("Namespace") { "scratch" } else { NAMESPACE };
        if self.random.one_in(20) {
            return self.random.up_to_bytes(200);
        }
        let mut bytes = self.message(input, 0);
        if self.random.one_in(10) {
            self.mutate(&mut bytes);
        }
        bytes
    }

    /// Takes the token of a task that a poll was given.
    fn learn_token(&mut self, answer: &Result<Bytes, Status>) {
        const TOKENS_MAX: usize = 8;
        let Ok(response) = answer else { return };
        let token = PollActivityTaskQueueResponse::decode(response.clone()).map(|response| response.task_token);
        if let Ok(token) =
            token.or_else(|_| PollWorkflowTaskQueueResponse::decode(response.clone()).map(|task| task.task_token))
            && !token.is_empty()
        {
            self.tokens.insert(0, token);
            self.tokens.truncate(TOKENS_MAX);
        }
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.random.below(3) {
            if bytes.is_empty() {
                return;
            }
            let at = self.random.below(bytes.len());
            match self.random.below(4) {
                0 => bytes[at] = self.random.any() as u8,
                1 => bytes.truncate(at),
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, self.random.any() as u8),
            }
        }
    }

    fn message(&mut self, message: &DescriptorProto, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in &message.field {
            // Most requests name a namespace, a workflow and a task queue, so that they get somewhere.
            let likely =
                ["namespace", "workflow_id", "execution", "workflow_execution", "task_queue", "name", "task_token"];
            let sparse = if likely.contains(&field.name()) { 10 } else { 3 + depth };
            if likely.contains(&field.name()) == self.random.one_in(sparse) {
                continue;
            }
            let times = if field.label() == Label::Repeated { self.random.below(4) } else { 1 };
            for _ in 0..times {
                self.field(field, depth, &mut bytes);
            }
        }
        bytes
    }

    fn field(&mut self, field: &FieldDescriptorProto, depth: usize, bytes: &mut Vec<u8>) {
        use prost::encoding::{WireType, encode_key, encode_varint};
        let tag = u32::try_from(field.number()).unwrap();
        let numbers = [0, 1, 2, 3, 5, 60, 1000, i32::MAX as u64, i64::MAX as u64, u64::MAX, 1 << 63];
        let mut delimited = |value: &[u8]| {
            encode_key(tag, WireType::LengthDelimited, bytes);
            encode_varint(value.len() as u64, bytes);
            bytes.extend_from_slice(value);
        };
        match field.r#type() {
            Type::String if field.name() == "namespace" => {
                let namespace = if self.random.one_in(20) { "none" } else { self.namespace };
                delimited(namespace.as_bytes());
            }
            Type::String if self.random.one_in(200) => delimited(&self.random.up_to_bytes(20)),
            Type::String => delimited(self.random.of(&self.texts).clone().as_bytes()),
            Type::Bytes if self.random.one_in(4) => delimited(&self.random.up_to_bytes(50)),
            Type::Bytes => delimited(&self.random.of(&self.tokens).clone()),
            Type::Message | Type::Group => {
                if depth < 5
                    && let Some(inner) = message(&self.files, field.type_name()).cloned()
                {
                    let inner = self.message(&inner, depth + 1);
                    delimited(&inner);
                }
            }
            Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                encode_key(tag, WireType::SixtyFourBit, bytes);
                let odd = [f64::NAN, f64::INFINITY, -1.0, 0.5, 2.0, 1e300];
                bytes.extend_from_slice(&self.random.of(&odd).to_le_bytes());
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                encode_key(tag, WireType::ThirtyTwoBit, bytes);
                bytes.extend_from_slice(&(self.random.any() as u32).to_le_bytes());
            }
            _ => {
                encode_key(tag, WireType::Varint, bytes);
                let small = self.random.any() % 12;
                encode_varint(if self.random.one_in(3) { *self.random.of(&numbers) } else { small }, bytes);
            }
        }
    }
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_answered_and_hurts_nobody() {
    const REQUESTS: usize = 20_000;
    const AT_ONCE: usize = 32;
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("SEED={seed}");
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(panic);
    }));
    let mut config = DynamicConfig::default();
    config.frontend.poll_wait_max = Duration::from_millis(20);
    config.frontend.history_wait_max = Duration::from_millis(20);
    let server = Server::with(2, config).await;
    let channel = server.channel().await;
    let mut client = server.client().await;

    let run_id = client.start_workflow_execution(start_request("w")).await.unwrap().into_inner().run_id;
    let mut tokens = vec![Vec::new()];
    tokens.push(poll(&mut client).await.task_token);
    let scratch = RegisterNamespaceRequest {
        namespace: "scratch".to_owned(),
        workflow_execution_retention_period: seconds(86_400),
        ..RegisterNamespaceRequest::default()
    };
    client.register_namespace(scratch).await.unwrap();
    client.start_workflow_execution(start_request("w2")).await.unwrap();
    let task = poll(&mut client).await;
    let commands = vec![schedule_activity("a")];
    client.respond_workflow_task_completed(respond(task.task_token.clone(), commands)).await.unwrap();
    tokens.push(task.task_token);
    let activity = client.poll_activity_task_queue(within(LONG, poll_activity("queue"))).await.unwrap().into_inner();
    tokens.push(activity.task_token);
    let texts = [
        "",
        "w",
        "w2",
        "w3",
        "queue",
        "type",
        "a",
        "signal",
        &run_id,
        "01a204fb-a099-7a46-81de-22daaaf0b2ea",
        "WorkflowId = 'w'",
        "CustomKeyword",
    ];
    let mut nonsense = Nonsense {
        random: Random::new(seed),
        namespace: NAMESPACE,
        files: descriptors().file,
        texts: texts.iter().map(|text| (*text).to_owned()).collect(),
        tokens,
    };

    let mut methods = methods();
    let mut served = BTreeSet::new();
    let mut calls = tokio::task::JoinSet::new();
    let mut codes = BTreeMap::new();
    for number in 0..REQUESTS {
        if number == 3 * methods.len() {
            // Enough of those that are not built.
            methods.retain(|(_, method, _)| served.contains(method));
        }
        let (service, method, input) = &methods[number % methods.len()];
        let request = Bytes::from(nonsense.request(method, input));
        // A query waits for a worker as long as its caller does.
        let timeout = if method == "QueryWorkflow" { Duration::from_millis(500) } else { Duration::from_secs(20) };
        let (channel, service, method) = (channel.clone(), *service, method.clone());
        calls.spawn(async move {
            let answer = call(&channel, service, &method, request.clone(), Some(timeout)).await;
            (method, request, answer)
        });
        if calls.len() == AT_ONCE || number == REQUESTS - 1 {
            let wanted = if number == REQUESTS - 1 { 0 } else { AT_ONCE - 1 };
            while calls.len() > wanted {
                let (method, request, answer) = calls.join_next().await.unwrap().unwrap();
                let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
                let is_fine = match code {
                    Code::Internal => {
                        answer.as_ref().is_err_and(|status| status.message().contains("error unmarshalling request"))
                    }
                    Code::DeadlineExceeded => method == "QueryWorkflow",
                    Code::Unknown | Code::Cancelled | Code::DataLoss | Code::Unavailable => false,
                    _ => true,
                };
                if !matches!(code, Code::Unimplemented | Code::Internal) {
                    served.insert(method.clone());
                }
                if method.starts_with("Poll") {
                    nonsense.learn_token(&answer);
                }
                assert!(is_fine, "{method} answered {answer:?} to {request:02x?}");
                *codes.entry(format!("{code:?}")).or_insert(0) += 1;
            }
        }
    }
    println!("{codes:?}");
    assert!(codes["Ok"] > REQUESTS / 20, "the requests are too wild to get anywhere");
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);

    // It still works.
    client
        .start_workflow_execution(StartWorkflowExecutionRequest {
            task_queue: task_queue("after"),
            ..start_request("after")
        })
        .await
        .unwrap();
    let task = client.poll_workflow_task_queue(within(LONG, poll_workflow("after"))).await.unwrap().into_inner();
    client.respond_workflow_task_completed(respond(task.task_token, vec![complete("done")])).await.unwrap();
    server.stopped().await;
}
