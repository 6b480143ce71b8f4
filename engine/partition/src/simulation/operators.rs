//! Operators: they pause activities, have them go on, reset them and change how they are attempted, whatever workers do meanwhile.

use everlog_kernel::RunCommand;
use everlog_proto::api::activity::v1::ActivityOptions;
use everlog_proto::api::common::v1::{Priority, RetryPolicy};
use everlog_proto::api::workflow::v1::WorkflowExecutionOptions;
use everlog_proto::api::workflowservice::v1::{
    PauseActivityRequest, ResetActivityRequest, UnpauseActivityRequest, UpdateActivityOptionsRequest,
    UpdateWorkflowExecutionOptionsRequest, pause_activity_request, reset_activity_request, unpause_activity_request,
    update_activity_options_request,
};
use everlog_proto::wkt;

use super::clients::Asked;
use super::workers::{OFTEN, ONCE, seconds};
use super::world::World;

impl World {
    /// Something that an operator does to the activities of a workflow, or to the workflow.
    pub(super) fn operate(&mut self, workflow_id: &str) {
        let jitter = self.random.percent(30).then(|| seconds(2));
        let command = match self.random.below(6) {
            0 | 1 => {
                let activity_type = if self.random.percent(50) { ONCE } else { OFTEN };
                RunCommand::PauseActivity(Box::new(PauseActivityRequest {
                    activity: Some(pause_activity_request::Activity::Type(activity_type.to_owned())),
                    ..PauseActivityRequest::default()
                }))
            }
            2 => RunCommand::UnpauseActivity(Box::new(UnpauseActivityRequest {
                activity: Some(unpause_activity_request::Activity::UnpauseAll(true)),
                jitter,
                ..UnpauseActivityRequest::default()
            })),
            // Of one that may be attempted once, attempts are not counted anew.
            3 => RunCommand::ResetActivity(Box::new(ResetActivityRequest {
                activity: Some(reset_activity_request::Activity::Type(OFTEN.to_owned())),
                keep_paused: self.random.percent(50),
                restore_original_options: self.random.percent(50),
                jitter,
                ..ResetActivityRequest::default()
            })),
            4 => self.other_options(),
            _ => RunCommand::UpdateWorkflowOptions(Box::new(UpdateWorkflowExecutionOptionsRequest {
                workflow_execution_options: Some(WorkflowExecutionOptions {
                    priority: Some(self.some_priority()),
                    ..WorkflowExecutionOptions::default()
                }),
                update_mask: mask(["priority"]),
                ..UpdateWorkflowExecutionOptionsRequest::default()
            })),
        };
        self.send(workflow_id, None, command, Asked::Other);
    }

    /// A priority, a fairness key and a weight. Each of them may be none.
    pub(super) fn some_priority(&mut self) -> Priority {
        Priority {
            priority_key: self.random.below(6) as i32,
            fairness_key: (*self.random.of(&["", "a", "b", "c"])).to_owned(),
            fairness_weight: *self.random.of(&[0.0, 0.1, 1.0, 20.0]),
        }
    }

    fn other_options(&mut self) -> RunCommand {
        let options = ActivityOptions {
            start_to_close_timeout: Some(seconds(1 + self.random.below(10) as i64)),
            priority: Some(self.some_priority()),
            retry_policy: Some(RetryPolicy { initial_interval: Some(seconds(2)), ..RetryPolicy::default() }),
            ..ActivityOptions::default()
        };
        let activity_type = if self.random.percent(50) { ONCE } else { OFTEN };
        RunCommand::UpdateActivityOptions(Box::new(UpdateActivityOptionsRequest {
            activity: Some(update_activity_options_request::Activity::Type(activity_type.to_owned())),
            activity_options: Some(options),
            update_mask: mask(["start_to_close_timeout", "priority", "retry_policy.initial_interval"]),
            ..UpdateActivityOptionsRequest::default()
        }))
    }
}

fn mask<const N: usize>(paths: [&str; N]) -> Option<wkt::FieldMask> {
    Some(wkt::FieldMask { paths: paths.map(str::to_owned).into() })
}
