//! UpdateWorkflowExecutionOptions: the options of a workflow that can be changed while it is open.

use everlog_kernel::command::Reply;
use everlog_kernel::deployment::check_override;
use everlog_kernel::{Rejection, RunCommand, check_priority, check_workflow_option_paths};
use everlog_proto::api::workflow::v1::WorkflowExecutionOptions;
use everlog_proto::api::workflowservice::v1::{
    UpdateWorkflowExecutionOptionsRequest, UpdateWorkflowExecutionOptionsResponse,
};

use super::call::Call;
use super::errors::Error;
use super::execute::unexpected;
use super::{Frontend, address, validate};

/// Changes options of a run.
pub(super) async fn update_workflow_execution_options(
    frontend: &Frontend,
    _call: Call,
    request: UpdateWorkflowExecutionOptionsRequest,
) -> Result<UpdateWorkflowExecutionOptionsResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let (workflow_id, run_id) = validate::named_execution(request.workflow_execution.as_ref())?;
    let mask = request.update_mask.as_ref().ok_or_else(|| Error::invalid("UpdateMask is required"))?;
    let options = request.workflow_execution_options.as_ref();
    let options = options.ok_or_else(|| Error::invalid("WorkflowExecutionOptions is required"))?;
    check_workflow_option_paths(mask).map_err(|wrong| Error::invalid(format!("error parsing UpdateMask: {wrong}")))?;
    check_priority(options.priority.as_ref())?;
    check_support(options)?;
    let address = address(&namespace, workflow_id);
    match frontend.execute(address, run_id, RunCommand::UpdateWorkflowOptions(Box::new(request))).await? {
        Reply::WorkflowOptions(options) => Ok(UpdateWorkflowExecutionOptionsResponse {
            workflow_execution_options: Some(*options),
            // Temporal leaves it out.
            update_time: None,
        }),
        reply => Err(unexpected(&reply)),
    }
}

/// Refuses options whose meaning is not there yet, as at the start of a workflow.
pub(super) fn check_support(options: &WorkflowExecutionOptions) -> Result<(), Error> {
    let unsupported = |text: &'static str| Err(Error::Rejected(Rejection::Unimplemented(text.into())));
    if options.time_skipping_config.is_some() {
        return unsupported("The Time-Skipping feature is not enabled for namespace.");
    }
    Ok(check_override(options.versioning_override.as_ref())?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use everlog_kernel::WORKFLOW_OPTION_PATHS;
    use prost::Message;
    use prost_types_plain::{DescriptorProto, FileDescriptorSet};

    /// The descriptor of a message, by its name with the dot in front.
    fn descriptor<'f>(files: &'f FileDescriptorSet, name: &str) -> Option<&'f DescriptorProto> {
        files.file.iter().find_map(|file| {
            let name = name.strip_prefix('.')?.strip_prefix(file.package())?.strip_prefix('.')?;
            let mut names = name.split('.');
            let first = names.next()?;
            let outermost = file.message_type.iter().find(|message| message.name() == first)?;
            names.try_fold(outermost, |message, name| message.nested_type.iter().find(|inner| inner.name() == name))
        })
    }

    fn paths(files: &FileDescriptorSet, message: &str, before: &str, found: &mut BTreeSet<String>) {
        let Some(message) = descriptor(files, message) else { return };
        for field in &message.field {
            let path = format!("{before}{}", field.name());
            paths(files, field.type_name(), &format!("{path}."), found);
            found.insert(path);
        }
    }

    #[test]
    fn the_paths_are_those_of_the_message() {
        let files = FileDescriptorSet::decode(everlog_proto::DESCRIPTORS).unwrap();
        let mut found = BTreeSet::new();
        paths(&files, ".temporal.api.workflow.v1.WorkflowExecutionOptions", "", &mut found);
        let listed: BTreeSet<String> = WORKFLOW_OPTION_PATHS.into_iter().map(str::to_owned).collect();
        assert_eq!(listed, found);
    }
}
