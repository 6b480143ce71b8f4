//! What the next lead of a partition takes from the one before: a held workflow task, if the history that its worker was given is
//! there; nothing that was shown and is not; batch jobs that run, and activities by themselves.

use std::time::Duration;

use everlog_kernel::command::Objections;
use everlog_kernel::{
    ActivityExecutionCommand, BatchJobCommand, Command, Limits, Rejection, Reply, RunCommand, ValidActivityStart,
};
use everlog_model::CallError;
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{Command as WorkflowCommand, StartTimerCommandAttributes};
use everlog_proto::api::common::v1::{ActivityType, WorkflowType};
use everlog_proto::api::enums::v1::{ActivityExecutionStatus, CommandType};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::{
    RespondWorkflowTaskCompletedRequest, StartActivityExecutionRequest, StartWorkflowExecutionRequest,
};

use super::test_partition::Partition;

fn start_timer() -> WorkflowCommand {
    WorkflowCommand {
        command_type: CommandType::StartTimer as i32,
        attributes: Some(Attributes::StartTimerCommandAttributes(StartTimerCommandAttributes {
            timer_id: "t".to_owned(),
            start_to_fire_timeout: Some(everlog_proto::wkt::Duration { seconds: 60, nanos: 0 }),
        })),
        ..WorkflowCommand::default()
    }
}

fn is_not_found(result: &Result<(), CallError>) -> bool {
    matches!(result, Err(CallError::Rejected(Rejection::NotFound(_))))
}

#[test]
fn a_completion_is_taken_by_the_next_lead_once() {
    let mut partition = Partition::new();
    partition.start();
    partition.commit();
    let token = partition.start_task().unwrap();
    partition.lead_anew();
    assert!(partition.complete(&token, vec![start_timer()]).is_ok());
    assert!(is_not_found(&partition.complete(&token, Vec::new())));
    let view = partition.view();
    assert_eq!((view.next_event_id, view.tail.len()), (6, 0));
}

#[test]
fn a_task_from_a_history_that_was_lost_is_not_completed_on_another() {
    let mut partition = Partition::new();
    partition.start();
    let token = partition.start_task().unwrap();
    partition.complete(&token, vec![start_timer()]).unwrap();
    // This signal is lost with its lead. The one that takes its place has the same id, and so has the task.
    partition.signal();
    let lost = partition.start_task().unwrap();
    partition.lead_anew();
    partition.pass(Duration::from_millis(1));
    partition.signal();
    partition.commit();
    assert!(is_not_found(&partition.complete(&lost, Vec::new())));
    let token = partition.start_task().unwrap();
    assert_eq!((token.scheduled_event_id, token.attempt), (lost.scheduled_event_id, lost.attempt));
    assert!(is_not_found(&partition.complete(&lost, Vec::new())));
    assert!(partition.complete(&token, Vec::new()).is_ok());
}

#[test]
fn a_start_that_lasts_or_is_shown_is_written() {
    for shown in [false, true] {
        let mut partition = Partition::new();
        partition.start();
        partition.commit();
        let token = partition.start_task().unwrap();
        let entries = partition.entries;
        assert!(!partition.view().tail_is_saved);
        assert_eq!(partition.entries, entries, "a start that is short costs nothing");
        if shown {
            partition.ask(RunCommand::SaveWorkflowTaskStart);
        } else {
            partition.pass(Duration::from_millis(600));
        }
        partition.commit();
        assert_eq!(partition.entries, entries + 1);
        let before = partition.view();
        assert!(before.tail_is_saved);
        partition.lead_anew();
        partition.signal();
        partition.commit();
        assert_eq!(partition.view(), before);
        assert!(partition.start_task().is_err(), "nobody else is given the task");
        assert!(partition.complete(&token, Vec::new()).is_ok());
        assert_eq!(partition.view().next_event_id, before.next_event_id + 4);
    }
}

#[test]
fn a_query_is_put_on_a_history_that_is_durable() {
    let mut partition = Partition::new();
    partition.start();
    partition.commit();
    let token = partition.start_task().unwrap();
    let request = RespondWorkflowTaskCompletedRequest { commands: vec![start_timer()], ..Default::default() };
    partition.ask(RunCommand::CompleteWorkflowTask(token, Box::new(request), Objections::default()));
    let mut waiting = partition.ask(RunCommand::StartQueryTask { task_queue: "q".to_owned() });
    assert!(waiting.try_recv().is_err(), "the worker would be shown what a crash takes back");
    partition.commit();
    assert!(waiting.try_recv().unwrap().is_ok());
}

#[test]
fn batch_jobs_that_run_are_told_of_by_each_lead() {
    let mut partition = Partition::new();
    let start = || BatchJobCommand::Start(Box::default());
    // One that was lost with its lead is not there.
    partition.ask(start());
    partition.lead_anew();
    partition.read_wakes();
    assert!(partition.batch_jobs.is_empty());

    partition.ask(start());
    assert!(partition.batch_jobs.is_empty(), "nobody works on one that may be lost");
    partition.commit();
    assert_eq!(partition.batch_jobs, [true]);
    partition.lead_anew();
    partition.read_wakes();
    assert_eq!(partition.batch_jobs, [true, true]);

    partition.ask(BatchJobCommand::Stop(Box::default()));
    partition.commit();
    assert_eq!(partition.batch_jobs, [true, true, false]);
    partition.lead_anew();
    partition.read_wakes();
    assert_eq!(partition.batch_jobs, [true, true, false]);

    let describe = |partition: &mut Partition| {
        let mut waiting = partition.ask(BatchJobCommand::Describe);
        partition.commit();
        waiting.try_recv().expect("an answer")
    };
    assert!(matches!(describe(&mut partition), Ok(answer) if matches!(answer.reply, Reply::BatchJob(_))));
    partition.pass(Duration::from_secs(86_401));
    partition.read_wakes();
    partition.commit();
    assert!(is_not_found(&describe(&mut partition).map(|_| ())), "it was kept for the retention");
}

#[test]
fn activities_by_themselves_follow_the_lead() {
    let start = |request_id: &str| {
        let request = StartActivityExecutionRequest {
            activity_id: "w".to_owned(),
            activity_type: Some(ActivityType { name: "T".to_owned() }),
            task_queue: Some(TaskQueue { name: "q".to_owned(), ..TaskQueue::default() }),
            start_to_close_timeout: Some(everlog_proto::wkt::Duration { seconds: 60, nanos: 0 }),
            request_id: request_id.to_owned(),
            ..Default::default()
        };
        ActivityExecutionCommand::Start(Box::new(ValidActivityStart::new(request, &Limits::default()).unwrap()))
    };
    let started = |partition: &mut Partition, request_id: &str| {
        let mut waiting = partition.ask(start(request_id));
        partition.commit();
        match waiting.try_recv().unwrap().unwrap().reply {
            Reply::ActivityExecutionStarted(run_id, true) => run_id,
            other => panic!("{other:?}"),
        }
    };
    let status = |partition: &mut Partition, run_id| {
        let mut waiting = partition.ask_of("w", run_id, ActivityExecutionCommand::Describe(Box::default()));
        partition.commit();
        match waiting.try_recv().unwrap().map(|answer| answer.reply) {
            Ok(Reply::ActivityExecution(described, _)) => Some(described.info.unwrap().status()),
            Ok(other) => panic!("{other:?}"),
            Err(CallError::Rejected(_)) => None,
            Err(error) => panic!("{error:?}"),
        }
    };
    let mut partition = Partition::new();
    // One that was lost with its lead is not there.
    partition.ask(start("lost"));
    partition.lead_anew();
    assert_eq!(status(&mut partition, None), None);

    let first = started(&mut partition, "first");
    partition.lead_anew();
    assert_eq!(status(&mut partition, None), Some(ActivityExecutionStatus::Running));
    partition.ask(ActivityExecutionCommand::Terminate(Box::default()));
    let second = started(&mut partition, "second");
    partition.lead_anew();
    assert_eq!(status(&mut partition, Some(first)), Some(ActivityExecutionStatus::Terminated), "it is read by itself");
    assert_eq!(status(&mut partition, None), Some(ActivityExecutionStatus::Running));
    assert_eq!(status(&mut partition, Some(second)), Some(ActivityExecutionStatus::Running));

    partition.lead_anew();
    partition.read_wakes();
    partition.pass(Duration::from_secs(86_401));
    partition.read_wakes();
    partition.commit();
    assert_eq!(status(&mut partition, Some(first)), None, "it was kept for the retention");
    assert_eq!(status(&mut partition, None), Some(ActivityExecutionStatus::Running), "that one goes on");
}

/// Where time is skipped it would be skipped otherwise while a worker is at work on what the lost lead has handed out.
#[test]
fn a_lead_takes_over_what_the_one_before_it_had_in_hand() {
    let mut partition = Partition::skipping();
    partition.start();
    partition.commit();
    partition.start_task().unwrap();
    partition.commit();
    assert_eq!(partition.lead.standing().steps, 1);
    let request = StartWorkflowExecutionRequest {
        workflow_id: "lost".to_owned(),
        workflow_type: Some(WorkflowType { name: "T".to_owned() }),
        task_queue: Some(TaskQueue { name: "q".to_owned(), ..TaskQueue::default() }),
        ..StartWorkflowExecutionRequest::default()
    };
    let _nobody = partition.ask_of("lost", None, Command::start(request, &Limits::default()).unwrap());
    assert_eq!(partition.lead.standing().steps, 2, "two workflows have a task");

    let in_hand = partition.lead.in_hand();
    assert_eq!(in_hand.len(), 2);
    partition.lead_anew();
    partition.lead.take_over(in_hand);
    assert!(!partition.lead.knows_standings());
    assert_eq!(partition.lead.in_hand().len(), 2, "also if it is lost before it knows");
    partition.commit();
    assert!(partition.lead.knows_standings());
    assert_eq!(partition.lead.standing().steps, 1, "the start of the other one is lost");
}
