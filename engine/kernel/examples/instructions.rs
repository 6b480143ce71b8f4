//! What the kernel itself costs: a workflow with one activity, decided from start to end, over and over.
//!
//! There is no clock and no I/O in it, so instructions can be counted exactly and compared between two builds:
//!
//! ```text
//! cargo build --release -p everlog-kernel --example instructions
//! valgrind --tool=callgrind --callgrind-out-file=few.out  target/release/examples/instructions 100
//! valgrind --tool=callgrind --callgrind-out-file=many.out target/release/examples/instructions 1100
//! callgrind_annotate --inclusive=yes many.out | head -60
//! ```
//!
//! The difference of the two totals, divided by 1,000, is the cost of one workflow without that of starting the process.

use std::io::Write;

use everlog_kernel::command::{ActivityRef, Objections, StartActivityTask, StartWorkflowTask};
use everlog_kernel::{
    Command, Context, Ids, Limits, Namespace, NamespaceId, Reply, RunCommand, Time, Transition, Workflow, decide, token,
};
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{
    Command as WorkflowCommand, CompleteWorkflowExecutionCommandAttributes, ScheduleActivityTaskCommandAttributes,
};
use everlog_proto::api::common::v1::{ActivityType, Payload, Payloads, WorkflowType};
use everlog_proto::api::enums::v1::CommandType;
use everlog_proto::api::taskqueue::v1::{StickyExecutionAttributes, TaskQueue};
use everlog_proto::api::workflowservice::v1::{RespondWorkflowTaskCompletedRequest, StartWorkflowExecutionRequest};
use everlog_proto::wkt::Duration;

/// A partition's clock and ids, and one workflow.
struct Server {
    namespace: Namespace,
    limits: Limits,
    ids: Ids,
    now: Time,
    workflow: Workflow,
    rows: usize,
    row_bytes: usize,
}

impl Server {
    fn decide(&mut self, command: impl Into<Command>) -> Reply {
        self.now = self.now.plus(std::time::Duration::from_millis(1));
        let mut context = Context {
            now: self.now,
            latest: self.now,
            namespace: &self.namespace,
            limits: &self.limits,
            ids: &mut self.ids,
        };
        let Transition { reply, rows, .. } = decide(&mut self.workflow, None, command.into(), &mut context)
            .expect("every command of the script is valid");
        self.rows += rows.len();
        self.row_bytes += rows.iter().filter_map(|(_, value)| value.as_ref()).map(|value| value.len()).sum::<usize>();
        reply.expect("every command of the script is accepted")
    }

    /// Starts the pending workflow task and completes it with `command`.
    fn workflow_task(&mut self, scheduled_event_id: i64, task_queue: &str, command: WorkflowCommand) {
        let start = StartWorkflowTask {
            deployment_version: None,
            scheduled_event_id,
            attempt: 1,
            task_queue: task_queue.to_owned(),
            identity: "1234@worker".to_owned(),
            request_id: "0b5e2b0c-5d0a-4a8e-8d8c-1f0a6a1e7c55".to_owned(),
            worker_version: None,
        };
        let Reply::WorkflowTaskStarted(started) = self.decide(RunCommand::StartWorkflowTask(start)) else {
            unreachable!("the reply to that command");
        };
        let token = token::decode(&started.response.task_token).expect("the token was encoded by the kernel");
        let sticky = StickyExecutionAttributes {
            worker_task_queue: Some(queue("1234@worker-sticky")),
            schedule_to_start_timeout: Some(Duration { seconds: 10, nanos: 0 }),
        };
        let request = RespondWorkflowTaskCompletedRequest {
            identity: "1234@worker".to_owned(),
            commands: vec![command],
            sticky_attributes: Some(sticky),
            ..RespondWorkflowTaskCompletedRequest::default()
        };
        self.decide(RunCommand::CompleteWorkflowTask(token, Box::new(request), Objections::default()));
    }

    /// A workflow with one activity, from its start to its end.
    fn run_workflow(&mut self, number: usize) {
        let workflow_id = format!("instructions-{number}");
        self.workflow = Workflow::new(workflow_id.clone());
        let request = StartWorkflowExecutionRequest {
            namespace: self.namespace.name.clone(),
            workflow_id,
            workflow_type: Some(WorkflowType { name: "Greeting".to_owned() }),
            task_queue: Some(queue("greetings")),
            input: payloads("\"world\""),
            identity: "1234@client".to_owned(),
            request_id: "7c2d3b8e-2f43-4a0e-9a39-2d6a1e1c9f10".to_owned(),
            ..StartWorkflowExecutionRequest::default()
        };
        self.decide(Command::start(request, &self.limits).expect("every command of the script is valid"));
        let schedule = ScheduleActivityTaskCommandAttributes {
            activity_id: "1".to_owned(),
            activity_type: Some(ActivityType { name: "Compose".to_owned() }),
            task_queue: Some(queue("greetings")),
            input: payloads("\"world\""),
            start_to_close_timeout: Some(Duration { seconds: 10, nanos: 0 }),
            ..ScheduleActivityTaskCommandAttributes::default()
        };
        self.workflow_task(
            2,
            "greetings",
            command(CommandType::ScheduleActivityTask, Attributes::ScheduleActivityTaskCommandAttributes(schedule)),
        );
        let start = StartActivityTask {
            deployment_version: None,
            scheduled_event_id: 5,
            attempt: 1,
            key: None,
            identity: "1234@worker".to_owned(),
            request_id: "b0a4c6d2-7a3e-4f0b-8c55-0d1e2f3a4b5c".to_owned(),
            sdk: Default::default(),
        };
        let Reply::ActivityTaskStarted(started) = self.decide(RunCommand::StartActivityTask(start)) else {
            unreachable!("the reply to that command");
        };
        let token = token::decode(&started.task_token).expect("the token was encoded by the kernel");
        self.decide(RunCommand::CompleteActivity {
            activity: ActivityRef::Token(token),
            result: payloads("\"Hello, world!\""),
            identity: "1234@worker".to_owned(),
            worker_version: None,
        });
        let complete = CompleteWorkflowExecutionCommandAttributes { result: payloads("\"Hello, world!\"") };
        self.workflow_task(
            8,
            "1234@worker-sticky",
            command(
                CommandType::CompleteWorkflowExecution,
                Attributes::CompleteWorkflowExecutionCommandAttributes(complete),
            ),
        );
    }
}

fn queue(name: &str) -> TaskQueue {
    TaskQueue { name: name.to_owned(), ..TaskQueue::default() }
}

fn payloads(json: &str) -> Option<Payloads> {
    let metadata = [("encoding".to_owned(), b"json/plain".to_vec())].into();
    Some(Payloads { payloads: vec![Payload { metadata, data: json.as_bytes().to_vec(), ..Payload::default() }] })
}

fn command(kind: CommandType, attributes: Attributes) -> WorkflowCommand {
    WorkflowCommand { command_type: kind as i32, attributes: Some(attributes), ..WorkflowCommand::default() }
}

fn main() {
    let workflows = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(10_000);
    let mut server = Server {
        namespace: Namespace {
            id: NamespaceId([7; 16]),
            name: "default".to_owned(),
            retention: std::time::Duration::from_secs(24 * 3600),
            ..Namespace::default()
        },
        limits: Limits::default(),
        ids: Ids::new(1),
        now: Time(1_700_000_000_000_000_000),
        workflow: Workflow::default(),
        rows: 0,
        row_bytes: 0,
    };
    for number in 0..workflows {
        server.run_workflow(number);
        assert!(server.workflow.current_run().is_some_and(|run| !run.is_open()), "the script runs to its end");
    }
    let per_workflow = |total: usize| total as f64 / workflows.max(1) as f64;
    let (rows, bytes) = (per_workflow(server.rows), per_workflow(server.row_bytes));
    // Whoever has closed the output does not want to know.
    let _ = writeln!(std::io::stdout(), "{workflows} workflows, {rows:.1} rows and {bytes:.0} bytes of values each");
}
