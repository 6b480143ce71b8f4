//! UpdateTaskQueueConfig: how many tasks a queue hands out a second.

use std::collections::HashMap;

use everlog_kernel::transition::TaskKind;
use everlog_meta::ConfiguredQueue;
use everlog_model::QueueId;
use everlog_proto::api::enums::v1::TaskQueueType;
use everlog_proto::api::taskqueue::v1::{ConfigMetadata, RateLimit, RateLimitConfig, TaskQueueConfig};
use everlog_proto::api::workflowservice::v1::update_task_queue_config_request::RateLimitUpdate;
use everlog_proto::api::workflowservice::v1::{UpdateTaskQueueConfigRequest, UpdateTaskQueueConfigResponse};
use everlog_proto::wkt;

use super::call::Call;
use super::errors::Error;
use super::{Frontend, Services, validate};

/// Longest reason of a change, bytes.
const REASON_BYTES_MAX: usize = 1000;

/// Longest fairness key, bytes.
const FAIRNESS_KEY_BYTES_MAX: usize = 64;

/// Weights that a request may set or unset.
const FAIRNESS_WEIGHTS_MAX: usize = 1000;

/// Sets, changes or unsets what a queue hands out a second.
pub(super) async fn update_task_queue_config(
    frontend: &Frontend,
    _call: Call,
    request: UpdateTaskQueueConfigRequest,
) -> Result<UpdateTaskQueueConfigResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let id_bytes_max = frontend.config(&request.namespace).limits.id_bytes_max;
    check(&request, id_bytes_max)?;
    let queue = ConfiguredQueue {
        namespace_id: namespace.namespace.id,
        kind: u8::try_from(request.task_queue_type).unwrap_or(0),
        name: request.task_queue,
    };
    let Some(update) = request.update_queue_rate_limit else {
        let config = frontend.namespaces.task_queue_config(&queue);
        return Ok(UpdateTaskQueueConfigResponse { config: config.map(|config| TaskQueueConfig::clone(&config)) });
    };
    let update_time = wkt::Timestamp::from(std::time::SystemTime::now());
    let setting = RateLimitConfig {
        rate_limit: update.rate_limit,
        metadata: Some(ConfigMetadata {
            reason: update.reason,
            update_identity: request.identity,
            update_time: Some(update_time),
        }),
    };
    let set = |config: &mut TaskQueueConfig| {
        config.queue_rate_limit = Some(setting.clone());
        Ok(())
    };
    let config = frontend.namespaces.update_task_queue(&queue, set).await?;
    // Who is told of changes may not have heard of it yet.
    frontend.apply_queue_settings(&queue, frontend.namespaces.task_queue_config(&queue).as_deref());
    Ok(UpdateTaskQueueConfigResponse { config: Some(TaskQueueConfig::clone(&config)) })
}

/// What Temporal refuses, and what is not there yet.
fn check(request: &UpdateTaskQueueConfigRequest, id_bytes_max: usize) -> Result<(), Error> {
    let is_workflow = request.task_queue_type() == TaskQueueType::Workflow;
    let sets = |update: &Option<RateLimitUpdate>| update.as_ref().is_some_and(|update| update.rate_limit.is_some());
    let (queue, fairness) = (&request.update_queue_rate_limit, &request.update_fairness_key_rate_limit_default);
    if is_workflow && sets(queue) {
        return Err(Error::invalid("Setting rate limit on workflow task queues is not allowed."));
    }
    rate_limit(queue.as_ref(), "UpdateQueueRateLimit")?;
    if is_workflow && sets(fairness) {
        return Err(Error::invalid("Setting fairness key rate limit on workflow task queues is not allowed."));
    }
    rate_limit(fairness.as_ref(), "UpdateFairnessKeyRateLimitDefault")?;
    text("Identity", &request.identity, id_bytes_max)?;
    fairness_weights(&request.set_fairness_weight_overrides, &request.unset_fairness_weight_overrides)?;
    validate::length(&request.task_queue, id_bytes_max, "taskQueue length exceeds limit")?;
    let weights =
        !request.set_fairness_weight_overrides.is_empty() || !request.unset_fairness_weight_overrides.is_empty();
    if fairness.is_some() || weights {
        return Err(Error::invalid("Fairness keys are not supported by this server yet."));
    }
    Ok(())
}

fn rate_limit(update: Option<&RateLimitUpdate>, label: &str) -> Result<(), Error> {
    let Some(update) = update else { return Ok(()) };
    let Some(RateLimit { requests_per_second }) = update.rate_limit else { return Ok(()) };
    if requests_per_second < 0.0 {
        return Err(Error::invalid(format!("RequestsPerSecond for {label} rate limit must be non-negative.")));
    }
    text(&format!("{label}.Reason"), &update.reason, REASON_BYTES_MAX)
}

fn text(field: &str, value: &str, bytes_max: usize) -> Result<(), Error> {
    if value.len() > bytes_max {
        return Err(Error::invalid(format!("{field} field too long (max {bytes_max} characters).")));
    }
    Ok(())
}

fn fairness_weights(set: &HashMap<String, f32>, unset: &[String]) -> Result<(), Error> {
    let total = set.len() + unset.len();
    if total > FAIRNESS_WEIGHTS_MAX {
        let message =
            format!("too many fairness weight overrides in request: got {total}, maximum {FAIRNESS_WEIGHTS_MAX}");
        return Err(Error::invalid(message));
    }
    for key in set.keys().chain(unset) {
        if key.is_empty() {
            return Err(Error::invalid("fairness weight override key must not be empty"));
        }
        validate::length(key, FAIRNESS_KEY_BYTES_MAX, "fairness key length exceeds limit")?;
    }
    if let Some((key, _)) = set.iter().find(|(_, weight)| **weight <= 0.0) {
        let message = format!("invalid fairness weight weight for key {key:?}: must be greater than zero");
        return Err(Error::invalid(message));
    }
    match unset.iter().find(|key| set.contains_key(*key)) {
        Some(key) => {
            let message = format!("fairness weight override key {key:?} present in both set and unset lists");
            Err(Error::invalid(message))
        }
        None => Ok(()),
    }
}

impl Services {
    /// Has the settings of a queue kept from here on. Those of workflow queues say nothing about rates.
    pub(super) fn apply_queue_settings(&self, queue: &ConfiguredQueue, config: Option<&TaskQueueConfig>) {
        if i32::from(queue.kind) != TaskQueueType::Activity as i32 {
            return;
        }
        let rate = config.and_then(|config| config.queue_rate_limit.as_ref()?.rate_limit);
        let id = QueueId::new(queue.namespace_id, TaskKind::Activity, queue.name.as_str());
        self.matching.local().configure(&id, rate.map(|rate| f64::from(rate.requests_per_second)));
    }
}
