//! UpdateTaskQueueConfig: how many tasks a queue hands out a second, in all and of each fairness key, and how much keys weigh.

use std::collections::HashMap;
use std::sync::Arc;

use everlog_kernel::transition::TaskKind;
use everlog_kernel::{Lane, Weight};
use everlog_matching::QueueSettings;
use everlog_meta::{ConfiguredQueue, MetaError};
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

/// Weights that a request may set or unset, and that a queue may have.
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
    let (set, unset) = (request.set_fairness_weight_overrides, request.unset_fairness_weight_overrides);
    let changes_weights = !set.is_empty() || !unset.is_empty();
    let update_time = wkt::Timestamp::from(std::time::SystemTime::now());
    let setting = |update: RateLimitUpdate| RateLimitConfig {
        rate_limit: update.rate_limit,
        metadata: Some(ConfigMetadata {
            reason: update.reason,
            update_identity: request.identity.clone(),
            update_time: Some(update_time),
        }),
    };
    let queue_rate_limit = request.update_queue_rate_limit.map(setting);
    let rate_limit_of_keys = request.update_fairness_key_rate_limit_default.map(setting);
    if queue_rate_limit.is_none() && rate_limit_of_keys.is_none() && !changes_weights {
        let config = frontend.namespaces.task_queue_config(&queue);
        return Ok(UpdateTaskQueueConfigResponse { config: config.map(|config| TaskQueueConfig::clone(&config)) });
    }
    let set = |config: &mut TaskQueueConfig| {
        if let Some(setting) = &queue_rate_limit {
            config.queue_rate_limit = Some(setting.clone());
        }
        if let Some(setting) = &rate_limit_of_keys {
            config.fairness_keys_rate_limit_default = Some(setting.clone());
        }
        change_weights(&mut config.fairness_weight_overrides, &set, &unset)
    };
    let config = frontend.namespaces.update_task_queue(&queue, set).await?;
    // Who is told of changes may not have heard of it yet.
    frontend.apply_queue_settings(&queue, frontend.namespaces.task_queue_config(&queue).as_deref());
    Ok(UpdateTaskQueueConfigResponse { config: Some(TaskQueueConfig::clone(&config)) })
}

/// What Temporal refuses.
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
    Ok(())
}

/// Sets and unsets weights of keys, of which a queue has at most so many.
fn change_weights(
    weights: &mut HashMap<String, f32>,
    set: &HashMap<String, f32>,
    unset: &[String],
) -> Result<(), MetaError> {
    weights.retain(|key, _| !unset.contains(key));
    weights.extend(set.iter().map(|(key, weight)| (key.clone(), *weight)));
    if weights.len() > FAIRNESS_WEIGHTS_MAX {
        return Err(MetaError::Invalid("fairness weight overrides update rejected: exceeding maximum key size".into()));
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

/// What settings say to matching.
fn settings(config: &TaskQueueConfig) -> QueueSettings {
    let rate = |limit: &Option<RateLimitConfig>| Some(f64::from(limit.as_ref()?.rate_limit?.requests_per_second));
    let weights = config.fairness_weight_overrides.iter();
    QueueSettings {
        per_second: rate(&config.queue_rate_limit),
        per_second_and_key: rate(&config.fairness_keys_rate_limit_default),
        weights: Arc::new(weights.map(|(key, weight)| (Lane::of(key), Weight::of(*weight))).collect()),
    }
}

impl Services {
    /// Has the settings of a queue kept from here on. Queues of Nexus tasks have none that count.
    pub(super) fn apply_queue_settings(&self, queue: &ConfiguredQueue, config: Option<&TaskQueueConfig>) {
        let kind = match TaskQueueType::try_from(i32::from(queue.kind)) {
            Ok(TaskQueueType::Workflow) => TaskKind::Workflow,
            Ok(TaskQueueType::Activity) => TaskKind::Activity,
            _ => return,
        };
        let id = QueueId::new(queue.namespace_id, kind, queue.name.as_str());
        self.matching.local().configure(&id, config.map(settings));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_set_and_unset_and_a_queue_has_only_so_many() {
        let some =
            |keys: std::ops::Range<usize>| keys.map(|key| (format!("key-{key}"), 2.0)).collect::<HashMap<_, _>>();
        let mut weights = some(0..FAIRNESS_WEIGHTS_MAX);
        change_weights(&mut weights, &[("key-0".to_owned(), 3.0)].into(), &["key-1".to_owned(), "none".to_owned()])
            .unwrap();
        assert_eq!((weights.len(), weights["key-0"]), (FAIRNESS_WEIGHTS_MAX - 1, 3.0));
        let refused = change_weights(&mut weights, &some(2_000..2_002), &[]).unwrap_err();
        let text = "fairness weight overrides update rejected: exceeding maximum key size";
        assert_eq!(refused, MetaError::Invalid(text.into()));
    }

    #[test]
    fn what_is_unset_is_not_said() {
        let limit = |rate| Some(RateLimitConfig { rate_limit: rate, metadata: None });
        let config = TaskQueueConfig {
            queue_rate_limit: limit(None),
            fairness_keys_rate_limit_default: limit(Some(RateLimit { requests_per_second: 2.5 })),
            fairness_weight_overrides: [("tenant-1".to_owned(), 0.5)].into(),
        };
        let QueueSettings { per_second, per_second_and_key, weights } = settings(&config);
        assert_eq!((per_second, per_second_and_key), (None, Some(2.5)));
        assert_eq!(weights.get(&Lane::of("tenant-1")), Some(&Weight(500)));
    }
}
