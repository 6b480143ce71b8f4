//! The dynamic configuration: limits and timeouts under the names that they have in Temporal's.
//!
//! One table lists every key with the field that it sets; the sample file and the command line follow from it. A value holds
//! everywhere, or where its constraints say ([`Scope`]), as Temporal writes it:
//!
//! ```text
//!   "limit.blobSize.error" = 2097152
//!   "limit.blobSize.error" = [{ value = 4194304, constraints = { namespace = "orders" } }, { value = 2097152 }]
//! ```
//!
//! Keys that Everlog does not have, and constraints that a key is not looked up by, have no effect and are told of
//! ([`DynamicSettings::without_effect`]): a configuration that was made for a Temporal server is taken as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use everlog_kernel::Limits;
use everlog_kernel::context::PerMille;
use everlog_kernel::transition::TaskKind;
use everlog_model::PerNamespace;
use serde::Deserialize;
use serde_json::Value;

use crate::scope::{Scope, Unscoped};
use crate::{SettingsError, parse_duration};

/// Limits and timeouts that hold in a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DynamicConfig {
    /// What decisions depend on.
    pub limits: Limits,
    /// What requests are checked against before they reach a workflow.
    pub frontend: FrontendLimits,
}

/// Everything that was set: for all namespaces, and for single ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DynamicSettings {
    /// What holds where nothing else is said.
    pub everywhere: DynamicConfig,
    /// What holds in some places only, in the order in which it was set: what comes later counts.
    own: Vec<(Scope, &'static str, Value)>,
    /// What was set and does nothing, a line each.
    without_effect: BTreeSet<String>,
}

/// Limits and waits of the frontend.
#[derive(Clone, Debug, PartialEq)]
pub struct FrontendLimits {
    /// Events in one page of history.
    pub history_page_events_max: usize,
    /// Executions in one page of a list.
    pub visibility_page_max: usize,
    /// Polls of each kind that a namespace may have open.
    pub polls_max: usize,
    /// How long a worker's poll is held.
    pub poll_wait_max: Duration,
    /// The same on single task queues: what comes later counts.
    poll_waits_of_queues: Vec<(Scope, Duration)>,
    /// A poll that waits this long is one too many for its worker.
    pub poller_scaling_wait: Duration,
    /// A task that waits this long wants more polls.
    pub poller_scaling_backlog_age: Duration,
    /// How often a second a worker is told so, for each that polls the queue.
    pub poller_scaling_per_second: f64,
    /// More polls are wanted where this many times as many tasks come as go.
    pub poller_scaling_ratio: f64,
    /// How long a read of history waits for new events.
    pub history_wait_max: Duration,
    /// Whether workflows take updates.
    pub updates: bool,
    /// Whether callers may wait for an update to be accepted only.
    pub updates_async_accepted: bool,
    /// Whether a workflow can be started together with an update to it.
    pub multi_operations: bool,
    /// A query is refused when nobody polled its task queue for this long.
    pub query_poller_window: Duration,
    /// Search attributes of one run.
    pub search_attributes_max: usize,
    /// Bytes of a worker's build id.
    pub build_id_bytes_max: usize,
    /// Build ids of which it can be asked at a time whether they are reachable.
    pub reachability_build_ids_max: usize,
    /// Binaries of workers that a namespace may mark as bad.
    pub bad_binaries_max: usize,
    /// The shortest retention that a namespace may have.
    pub retention_min: Duration,
    /// Namespaces that cannot be deleted.
    pub protected_namespaces: Vec<String>,
    /// Names by which the HTTP API may be called, `*` in one for anything; empty for all.
    pub http_hosts: Vec<String>,
    /// Whether histories are archived where the settings file has them archived.
    pub history_archival: ArchivalSwitch,
    /// Whether archived histories are read then, if it is not as that file says.
    pub history_archive_read: Option<bool>,
    /// The same of what lists show.
    pub visibility_archival: ArchivalSwitch,
    /// The same of what lists show.
    pub visibility_archive_read: Option<bool>,
    /// Executions in one page of a list of the archive.
    pub archive_page_max: i32,
    /// Whether there are batch jobs.
    pub batch_jobs: bool,
    /// Batch jobs that may run at a time.
    pub batch_jobs_running_max: usize,
    /// Workflows that a batch job takes on a second.
    pub batch_job_operations_per_second: u32,
    /// Workflows that a batch job works on at a time.
    pub batch_job_concurrency: usize,
    /// Whether there are activities that are no workflow's.
    pub activities: bool,
    /// Whether their first attempt can be put off.
    pub activity_start_delay: bool,
    /// Whether operators can pause them, reset them, and change how they are attempted.
    pub activity_operations: bool,
    /// Whether batch jobs can be for them.
    pub activity_batch_jobs: bool,
    /// How long a call waits for news of one.
    pub activity_wait_max: Duration,
    /// How often an idle connection is asked whether its client is still there.
    pub keepalive_interval: Duration,
    /// How long the client may take to say so.
    pub keepalive_timeout: Duration,
}

impl Default for FrontendLimits {
    fn default() -> FrontendLimits {
        FrontendLimits {
            history_page_events_max: everlog_model::limits::HISTORY_PAGE_EVENTS_MAX,
            visibility_page_max: 1000,
            polls_max: 1200,
            poll_wait_max: Duration::from_secs(60),
            poll_waits_of_queues: Vec::new(),
            poller_scaling_wait: Duration::from_secs(1),
            poller_scaling_backlog_age: Duration::from_millis(200),
            poller_scaling_per_second: 10.0,
            poller_scaling_ratio: 1.2,
            history_wait_max: Duration::from_secs(20),
            updates: true,
            updates_async_accepted: true,
            multi_operations: true,
            query_poller_window: Duration::from_secs(20),
            search_attributes_max: 100,
            build_id_bytes_max: 255,
            reachability_build_ids_max: 5,
            bad_binaries_max: 10,
            retention_min: Duration::from_secs(3600),
            protected_namespaces: Vec::new(),
            http_hosts: Vec::new(),
            history_archival: ArchivalSwitch::default(),
            history_archive_read: None,
            visibility_archival: ArchivalSwitch::default(),
            visibility_archive_read: None,
            archive_page_max: 10_000,
            batch_jobs: true,
            batch_jobs_running_max: 1,
            batch_job_operations_per_second: 50,
            batch_job_concurrency: 5,
            activities: true,
            activity_start_delay: true,
            activity_operations: true,
            activity_batch_jobs: true,
            activity_wait_max: Duration::from_secs(20),
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

impl FrontendLimits {
    /// How long a poll of a task queue is held.
    pub fn poll_wait_of(&self, queue: &str, kind: TaskKind) -> Duration {
        let matching = self.poll_waits_of_queues.iter().rev().filter(|(scope, _)| scope.has_queue(queue, kind));
        // Of those that say as much, the first one here.
        let most = matching.reduce(|best, other| if other.0.rank() > best.0.rank() { other } else { best });
        most.map_or(self.poll_wait_max, |(_, wait)| *wait)
    }
}

/// Whether what the settings file has archived is archived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArchivalSwitch {
    /// It is.
    #[default]
    AsConfigured,
    /// It is not, for now or for good, which is the same with Temporal.
    Off,
}

/// A value that a key can have.
trait Setting: Sized {
    /// What is allowed, for messages.
    const ALLOWED: &'static str;

    fn read(value: &Value) -> Option<Self>;
}

macro_rules! number_setting {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            const ALLOWED: &'static str = "a whole number, not negative";

            fn read(value: &Value) -> Option<Self> {
                <$number>::try_from(value.as_u64()?).ok()
            }
        }
    )*};
}

number_setting!(usize, u64, u32, i64, i32);

impl Setting for bool {
    const ALLOWED: &'static str = "true or false";

    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Setting for Option<bool> {
    const ALLOWED: &'static str = "true, false, or \"\" for what the settings file says";

    fn read(value: &Value) -> Option<Self> {
        if value.as_str() == Some("") { Some(None) } else { bool::read(value).map(Some) }
    }
}

impl Setting for ArchivalSwitch {
    const ALLOWED: &'static str = "\"enabled\", \"paused\" or \"disabled\"";

    /// Nothing is archived that the settings file does not have archived: it says where.
    fn read(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "" | "enabled" => Some(ArchivalSwitch::AsConfigured),
            "paused" | "disabled" => Some(ArchivalSwitch::Off),
            _ => None,
        }
    }
}

impl Setting for Duration {
    const ALLOWED: &'static str = "a duration such as \"90s\" or \"1h30m\"";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => parse_duration(text),
            Value::Number(seconds) => Duration::try_from_secs_f64(seconds.as_f64()?).ok(),
            _ => None,
        }
    }
}

impl Setting for f64 {
    const ALLOWED: &'static str = "a number, not negative";

    fn read(value: &Value) -> Option<Self> {
        value.as_f64().filter(|number| *number >= 0.0)
    }
}

impl Setting for PerMille {
    const ALLOWED: &'static str = "a share from 0 to 1";

    fn read(value: &Value) -> Option<Self> {
        let share = value.as_f64().filter(|share| (0.0..=1.0).contains(share))?;
        Some(PerMille((1000.0 * share).round() as u16))
    }
}

impl Setting for Vec<String> {
    const ALLOWED: &'static str = "a list of names";

    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(|name| Some(name.as_str()?.to_owned())).collect()
    }
}

/// A key of the dynamic configuration.
struct Key {
    name: &'static str,
    set: fn(&mut DynamicConfig, &Value) -> Result<(), &'static str>,
}

/// Keys of what no namespace is asked for.
const OF_THE_SERVER: [&str; 12] = [
    "frontend.httpAllowedHosts",
    "frontend.keepAliveTime",
    "frontend.keepAliveTimeout",
    "frontend.visibilityArchivalQueryMaxPageSize",
    "limit.reachabilityQueryBuildIds",
    "limit.workerBuildIdSize",
    "system.enableReadFromHistoryArchival",
    "system.enableReadFromVisibilityArchival",
    "system.historyArchivalState",
    "system.namespaceMinRetentionLocal",
    "system.visibilityArchivalState",
    "worker.protectedNamespaces",
];

/// How long polls are held: the one key that is looked up by task queues.
const POLL_WAIT: &str = "matching.longPollExpirationInterval";

/// A value with where it holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Constrained {
    value: Value,
    #[serde(default)]
    constraints: Option<serde_json::Map<String, Value>>,
}

fn read_into<T: Setting>(field: &mut T, value: &Value) -> Result<(), &'static str> {
    *field = T::read(value).ok_or(T::ALLOWED)?;
    Ok(())
}

macro_rules! keys {
    ($($name:literal => $part:ident.$field:ident,)*) => {
        &[$(Key { name: $name, set: |config, value| read_into(&mut config.$part.$field, value) },)*]
    };
}

/// Every key, by name.
const KEYS: &[Key] = keys! {
    "activity.enableStandalone" => frontend.activities,
    "activity.longPollTimeout" => frontend.activity_wait_max,
    "activity.startDelayEnabled" => frontend.activity_start_delay,
    "component.nexusoperations.limit.operation.concurrency" => limits.pending_nexus_operations_max,
    "frontend.MaxConcurrentBatchOperationPerNamespace" => frontend.batch_jobs_running_max,
    "frontend.enableBatcher" => frontend.batch_jobs,
    "frontend.enableBatchOperationsForStandaloneActivities" => frontend.activity_batch_jobs,
    "frontend.enableExecuteMultiOperation" => frontend.multi_operations,
    "frontend.enableUpdateWorkflowExecution" => frontend.updates,
    "frontend.enableUpdateWorkflowExecutionAsyncAccepted" => frontend.updates_async_accepted,
    "frontend.httpAllowedHosts" => frontend.http_hosts,
    "frontend.keepAliveTime" => frontend.keepalive_interval,
    "frontend.keepAliveTimeout" => frontend.keepalive_timeout,
    "frontend.linkMaxSize" => limits.link_bytes_max,
    "frontend.maxBadBinaries" => frontend.bad_binaries_max,
    "frontend.maxlinksPerRequest" => limits.links_max,
    "frontend.namespaceCount" => frontend.polls_max,
    "frontend.searchAttributesNumberOfKeysLimit" => frontend.search_attributes_max,
    "frontend.searchAttributesSizeOfValueLimit" => limits.search_attribute_bytes_max,
    "frontend.searchAttributesTotalSizeLimit" => limits.search_attributes_bytes_max,
    "frontend.visibilityArchivalQueryMaxPageSize" => frontend.archive_page_max,
    "frontend.visibilityMaxPageSize" => frontend.visibility_page_max,
    "history.MaxBufferedQueryCount" => limits.buffered_queries_max,
    "history.defaultWorkflowTaskTimeout" => limits.workflow_task_timeout,
    "history.discardSpeculativeWorkflowTaskMaximumEventsCount" => limits.speculative_events_max,
    "history.enableStandaloneActivityOperatorCommands" => frontend.activity_operations,
    "history.historyMaxAutoResetPoints" => limits.reset_points_max,
    "history.longPollExpirationInterval" => frontend.history_wait_max,
    "history.maxInFlightUpdatePayloads" => limits.updates_in_flight_bytes_max,
    "history.maxInFlightUpdates" => limits.updates_in_flight_max,
    "history.maxTotalUpdates" => limits.updates_max,
    "history.maxTotalUpdates.suggestContinueAsNewThreshold" => limits.updates_suggest_continue_as_new,
    "history.maximumBufferedEventsBatch" => limits.buffered_events_max,
    "history.maximumBufferedEventsSizeInBytes" => limits.buffered_bytes_max,
    "history.maximumSignalsPerExecution" => limits.signals_max,
    "history.retentionTimerJitterDuration" => limits.retention_jitter,
    "history.workflowIdReuseMinimalInterval" => limits.run_interval_min,
    "history.workflowTaskHeartbeatTimeout" => limits.workflow_task_heartbeat_timeout,
    "history.workflowTaskRetryMaxInterval" => limits.workflow_task_retry_max_interval,
    "limit.blobSize.error" => limits.blob_bytes_max,
    "limit.historyCount.error" => limits.history_events_max,
    "limit.historyCount.suggestContinueAsNew" => limits.history_events_suggest_continue_as_new,
    "limit.historyMaxPageSize" => frontend.history_page_events_max,
    "limit.historySize.error" => limits.history_bytes_max,
    "limit.historySize.suggestContinueAsNew" => limits.history_bytes_suggest_continue_as_new,
    "limit.maxIDLength" => limits.id_bytes_max,
    "limit.memoSize.error" => limits.memo_bytes_max,
    "limit.numPendingActivities.error" => limits.pending_activities_max,
    "limit.numPendingCancelRequests.error" => limits.pending_cancel_requests_max,
    "limit.numPendingChildExecutions.error" => limits.pending_children_max,
    "limit.numPendingSignals.error" => limits.pending_signals_max,
    "limit.reachabilityQueryBuildIds" => frontend.reachability_build_ids_max,
    "limit.workerBuildIdSize" => frontend.build_id_bytes_max,
    "matching.longPollExpirationInterval" => frontend.poll_wait_max,
    "matching.pollerScalingDecisionsPerSecond" => frontend.poller_scaling_per_second,
    "matching.pollerScalingMinimumBacklog" => frontend.poller_scaling_backlog_age,
    "matching.pollerScalingTaskAddToDispatchRatio" => frontend.poller_scaling_ratio,
    "matching.pollerScalingWaitTime" => frontend.poller_scaling_wait,
    "matching.queryPollerUnavailableWindow" => frontend.query_poller_window,
    "system.enableActivityEagerExecution" => limits.has_eager_activities,
    "system.enableEagerWorkflowStart" => limits.has_eager_start,
    "system.enableReadFromHistoryArchival" => frontend.history_archive_read,
    "system.enableReadFromVisibilityArchival" => frontend.visibility_archive_read,
    "system.historyArchivalState" => frontend.history_archival,
    "system.maxCallbacksPerWorkflow" => limits.callbacks_max,
    "system.namespaceMinRetentionLocal" => frontend.retention_min,
    "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute" => limits.workflow_task_problems_reported,
    "system.visibilityArchivalState" => frontend.visibility_archival,
    "worker.batcherConcurrency" => frontend.batch_job_concurrency,
    "worker.batcherRPS" => frontend.batch_job_operations_per_second,
    "worker.protectedNamespaces" => frontend.protected_namespaces,
};

impl Key {
    fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name.eq_ignore_ascii_case(name))
    }

    fn set(&self, config: &mut DynamicConfig, value: &Value) -> Result<(), SettingsError> {
        (self.set)(config, value).map_err(|allowed| self.wrong(format!("{value} is not {allowed}")))
    }

    /// Whether the key is ever looked up for what the scope names.
    fn has_scope(&self, scope: &Scope) -> bool {
        !(OF_THE_SERVER.contains(&self.name) && scope.namespace.is_some()
            || self.name != POLL_WAIT && scope.queue.is_some())
    }

    fn wrong(&self, problem: impl std::fmt::Display) -> SettingsError {
        SettingsError(format!("dynamic configuration key {}: {problem}", self.name))
    }
}

impl DynamicSettings {
    /// The names of all keys, sorted.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        KEYS.iter().map(|key| key.name)
    }

    /// What was set and does nothing: a line for each such key or constraint.
    pub fn without_effect(&self) -> impl Iterator<Item = &str> {
        self.without_effect.iter().map(String::as_str)
    }

    /// Sets one key: to a value, or to several that each say where they hold. Of several that hold at the same place the first one counts.
    /// A key that there is not has no effect.
    ///
    /// # Errors
    ///
    /// A line that says what the key's value may be.
    pub fn set(&mut self, name: &str, value: &Value) -> Result<(), SettingsError> {
        let Some(key) = Key::find(name) else {
            self.without_effect.insert(format!("dynamic configuration key {name:?} is not one of Everlog's"));
            return Ok(());
        };
        // A list of names is a value itself.
        let values = value.as_array().filter(|values| !values.iter().all(Value::is_string));
        let Some(values) = values else { return key.set(&mut self.everywhere, value) };
        for value in values.iter().rev() {
            let Constrained { value, constraints } =
                Constrained::deserialize(value).map_err(|error| key.wrong(error))?;
            // Tried out also where it has no effect, and so that it cannot fail later.
            key.set(&mut DynamicConfig::default(), &value)?;
            match Scope::read(&constraints.unwrap_or_default()) {
                Ok(scope) if scope == Scope::default() => key.set(&mut self.everywhere, &value)?,
                Ok(scope) if key.has_scope(&scope) => self.own.push((scope, key.name, value)),
                Ok(scope) => self.ignore(key, scope),
                Err(Unscoped::Never(constraint)) => self.ignore(key, constraint),
                Err(Unscoped::Wrong(problem)) => return Err(key.wrong(problem)),
            }
        }
        Ok(())
    }

    fn ignore(&mut self, key: &Key, constraint: impl std::fmt::Display) {
        self.without_effect.insert(format!("dynamic configuration key {} is not looked up by {constraint}", key.name));
    }

    /// Sets keys from a file as Temporal's servers have it: YAML, with a list of values for each key.
    ///
    /// # Errors
    ///
    /// A line that says what is wrong, or what a key's value may be.
    pub fn set_from_yaml(&mut self, text: &str) -> Result<(), SettingsError> {
        let keys: Option<BTreeMap<String, Value>> = serde_saphyr::from_str(text).map_err(|error| {
            let location = error.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default();
            let message = error.without_snippet().to_string();
            SettingsError(format!("{location}{}", message.lines().next().unwrap_or("it is not YAML")))
        })?;
        keys.into_iter().flatten().try_for_each(|(name, value)| self.set(&name, &value))
    }

    /// What holds in each namespace.
    pub fn per_namespace(&self) -> PerNamespace<DynamicConfig> {
        let namespaces: BTreeSet<&String> =
            self.own.iter().filter_map(|(scope, ..)| scope.namespace.as_ref()).collect();
        let own = namespaces.into_iter().map(|namespace| (namespace.clone(), self.of(Some(namespace))));
        PerNamespace::new(self.of(None), own.collect::<Vec<_>>())
    }

    /// What holds in a namespace, or in those that have nothing of their own.
    fn of(&self, namespace: Option<&String>) -> DynamicConfig {
        let mut config = self.everywhere.clone();
        let is_here = |scope: &Scope| scope.namespace.is_none() || scope.namespace.as_ref() == namespace;
        for (scope, name, value) in self.own.iter().filter(|(scope, ..)| is_here(scope)) {
            if scope.queue.is_none() {
                // Both were looked at when they were set.
                let _ = Key::find(name).map(|key| key.set(&mut config, value));
            } else if let Some(wait) = Duration::read(value) {
                config.frontend.poll_waits_of_queues.push((scope.clone(), wait));
            }
        }
        config
    }

    /// Sets one key from `KEY=JSON`, as the command line has it.
    ///
    /// # Errors
    ///
    /// As [`DynamicSettings::set`].
    pub fn set_from_flag(&mut self, flag: &str) -> Result<(), SettingsError> {
        let (name, json) = flag
            .split_once('=')
            .ok_or_else(|| SettingsError(format!("dynamic configuration value {flag:?} is not KEY=JSON")))?;
        // Shells eat quotes, so what is not JSON is taken for a string.
        let value = serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.to_owned()));
        self.set(name, &value)
    }
}

#[cfg(test)]
mod tests {
    use everlog_model::InForce;

    use super::*;

    #[test]
    fn keys_are_set_in_both_parts() {
        let mut config = DynamicSettings::default();
        config.set_from_flag("limit.blobSize.error=1024").unwrap();
        config.set_from_flag("matching.longPollExpirationInterval=\"5s\"").unwrap();
        config.set_from_flag("history.longPollExpirationInterval=7s").unwrap();
        assert_eq!(config.everywhere.limits.blob_bytes_max, 1024);
        assert_eq!(config.everywhere.frontend.poll_wait_max, Duration::from_secs(5));
        assert_eq!(config.everywhere.frontend.history_wait_max, Duration::from_secs(7));
        config.set_from_flag(r#"worker.protectedNamespaces=["a","b"]"#).unwrap();
        assert_eq!(config.everywhere.frontend.protected_namespaces, ["a", "b"]);
        config.set_from_flag(r#"frontend.httpAllowedHosts=["*.internal"]"#).unwrap();
        assert_eq!(config.everywhere.frontend.http_hosts, ["*.internal"]);
    }

    #[test]
    fn archival_is_turned_off_as_temporals_is() {
        let mut config = DynamicSettings::default();
        for (flag, switch) in [
            ("system.historyArchivalState=disabled", ArchivalSwitch::Off),
            ("system.historyArchivalState=enabled", ArchivalSwitch::AsConfigured),
            ("system.historyArchivalState=paused", ArchivalSwitch::Off),
            ("system.historyArchivalState=\"\"", ArchivalSwitch::AsConfigured),
        ] {
            config.set_from_flag(flag).unwrap();
            assert_eq!(config.everywhere.frontend.history_archival, switch, "{flag}");
        }
        config.set_from_flag("system.enableReadFromHistoryArchival=false").unwrap();
        assert_eq!(config.everywhere.frontend.history_archive_read, Some(false));
        for (flag, expected) in [
            ("system.visibilityArchivalState=on", "\"on\" is not \"enabled\", \"paused\" or \"disabled\""),
            ("system.enableReadFromVisibilityArchival=yes", "\"yes\" is not true, false, or \"\""),
        ] {
            let error = config.set_from_flag(flag).unwrap_err().to_string();
            assert!(error.contains(expected), "{flag}: {error}");
        }
    }

    #[test]
    fn a_namespace_has_what_it_was_given_and_otherwise_what_all_have() {
        let mut settings = DynamicSettings::default();
        settings
            .set_from_flag(r#"limit.blobSize.error=[{"value":1,"constraints":{"namespace":"a"}},{"value":2}]"#)
            .unwrap();
        settings.set_from_flag("limit.maxIDLength=3").unwrap();
        let in_force = InForce::new(settings.per_namespace());
        let limits = |namespace| {
            let config = in_force.of(namespace);
            (config.limits.blob_bytes_max, config.limits.id_bytes_max)
        };
        assert_eq!((limits("a"), limits("b")), ((1, 3), (2, 3)));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        let mut config = DynamicSettings::default();
        let cases = [
            ("limit.blobsize", "is not KEY=JSON"),
            ("limit.blobSize.error=-1", "limit.blobSize.error: -1 is not a whole number, not negative"),
            ("system.enableEagerWorkflowStart=yes", "\"yes\" is not true or false"),
            ("matching.longPollExpirationInterval=soon", "\"soon\" is not a duration such as"),
            ("limit.blobSize.error=[{}]", "limit.blobSize.error: missing field `value`"),
            (
                "limit.blobSize.error=[{\"value\":1,\"constraints\":{\"taskQueue\":\"a\"}}]",
                "constraint \"taskQueue\" is none of namespace, ",
            ),
            (
                "limit.blobSize.error=[{\"value\":1,\"constraints\":{\"namespace\":1}}]",
                "constraint namespace: 1 is no text",
            ),
            ("limit.blobSize.error=[{\"value\":-1,\"constraints\":{\"namespace\":\"a\"}}]", "-1 is not a whole number"),
        ];
        for (flag, expected) in cases {
            let error = config.set_from_flag(flag).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{flag}: {error}");
        }
        assert_eq!(config, DynamicSettings::default());
    }

    #[test]
    fn what_everlog_does_not_have_changes_nothing_and_is_told_of() {
        let mut settings = DynamicSettings::default();
        for flag in [
            "limit.nothing=1",
            r#"frontend.keepAliveTime=[{"value":1,"constraints":{"namespace":"a"}}]"#,
            r#"limit.maxIDLength=[{"value":1,"constraints":{"namespace":"a","taskQueueName":"b"}}]"#,
            r#"limit.maxIDLength=[{"value":1,"constraints":{"shardId":7}}]"#,
        ] {
            settings.set_from_flag(flag).unwrap();
        }
        let told: Vec<_> = settings.without_effect().collect();
        assert_eq!(
            told,
            [
                "dynamic configuration key \"limit.nothing\" is not one of Everlog's",
                "dynamic configuration key frontend.keepAliveTime is not looked up by namespace",
                "dynamic configuration key limit.maxIDLength is not looked up by namespace and taskQueueName",
                "dynamic configuration key limit.maxIDLength is not looked up by shardId",
            ]
        );
        assert_eq!(settings.per_namespace(), DynamicSettings::default().per_namespace());
    }

    #[test]
    fn temporals_yaml_is_read() {
        let mut settings = DynamicSettings::default();
        let yaml = r#"
            limit.blobSize.error:
              - value: 10
                constraints:
                  namespace: "a"
              - value: 20
                constraints: {}
              - value: 30 # too late
            frontend.enableNexusAPIs:
              - value: true
            matching.longPollExpirationInterval:
              - value: 1500ms
                constraints: { namespace: a, taskQueueName: q, taskType: Activity }
              - value: 2s
                constraints: { namespace: a, taskQueueName: q }
              - value: 3
                constraints: { taskQueueName: q }
              - value: 4s
                constraints: { namespace: a }
        "#;
        settings.set_from_yaml(yaml).unwrap();
        assert_eq!(settings.without_effect().count(), 1);
        let in_force = InForce::new(settings.per_namespace());
        let (a, b) = (in_force.of("a"), in_force.of("b"));
        assert_eq!((a.limits.blob_bytes_max, b.limits.blob_bytes_max), (10, 20));
        let wait = |config: &DynamicConfig, queue, kind| config.frontend.poll_wait_of(queue, kind).as_millis();
        assert_eq!(
            [wait(&a, "q", TaskKind::Activity), wait(&a, "q", TaskKind::Workflow), wait(&a, "r", TaskKind::Workflow)],
            [1500, 2000, 4000]
        );
        assert_eq!([wait(&b, "q", TaskKind::Activity), wait(&b, "r", TaskKind::Activity)], [3000, 60_000]);

        DynamicSettings::default().set_from_yaml("# nothing\n").unwrap();
        let cases = [
            ("limit.maxIDLength:\n  - value: [\n", "line "),
            ("limit.maxIDLength:\n  - value: soon\n", "\"soon\" is not a whole number"),
            ("- 1\n", "line 1: "),
            ("limit.maxIDLength:\n  - valeu: 1\n", "unknown field `valeu`"),
            (
                "matching.longPollExpirationInterval:\n  - value: 1s\n    constraints: { taskQueueName: a, taskType: Timer }\n",
                "constraint taskType: \"Timer\" is none of Workflow, Activity",
            ),
        ];
        for (yaml, expected) in cases {
            let error = DynamicSettings::default().set_from_yaml(yaml).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{yaml}: {error}");
        }
    }
}
