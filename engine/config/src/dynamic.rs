//! The dynamic configuration: limits and timeouts under the names that they have in Temporal's.
//!
//! One table lists every key with the field that it sets; the sample file, the command line and the messages about unknown
//! keys follow from it. A value holds for every namespace, or for one, as Temporal writes it:
//!
//! ```text
//!   "limit.blobSize.error" = 2097152
//!   "limit.blobSize.error" = [{ value = 4194304, constraints = { namespace = "orders" } }, { value = 2097152 }]
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use everlog_kernel::Limits;
use everlog_model::PerNamespace;
use serde::Deserialize;
use serde_json::Value;

use crate::{SettingsError, parse_duration};

/// Limits and timeouts that hold in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DynamicConfig {
    /// What decisions depend on.
    pub limits: Limits,
    /// What requests are checked against before they reach a workflow.
    pub frontend: FrontendLimits,
}

/// Everything that was set: for all namespaces, and for single ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DynamicSettings {
    /// What holds where nothing else is said.
    pub everywhere: DynamicConfig,
    /// What namespaces have of their own, by name, in the order in which it was set.
    own: BTreeMap<String, Vec<(&'static str, Value)>>,
}

/// Limits and waits of the frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendLimits {
    /// Events in one page of history.
    pub history_page_events_max: usize,
    /// Executions in one page of a list.
    pub visibility_page_max: usize,
    /// Polls of each kind that a namespace may have open.
    pub polls_max: usize,
    /// How long a worker's poll is held.
    pub poll_wait_max: Duration,
    /// How long a read of history waits for new events.
    pub history_wait_max: Duration,
    /// A query is refused when nobody polled its task queue for this long.
    pub query_poller_window: Duration,
    /// Search attributes of one run.
    pub search_attributes_max: usize,
    /// Bytes of one search attribute's value.
    pub search_attribute_bytes_max: usize,
    /// Bytes of all search attributes of a run.
    pub search_attributes_bytes_max: usize,
    /// The shortest retention that a namespace may have.
    pub retention_min: Duration,
    /// Namespaces that cannot be deleted.
    pub protected_namespaces: Vec<String>,
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
            history_wait_max: Duration::from_secs(20),
            query_poller_window: Duration::from_secs(20),
            search_attributes_max: 100,
            search_attribute_bytes_max: 2 * 1024,
            search_attributes_bytes_max: 40 * 1024,
            retention_min: Duration::from_secs(3600),
            protected_namespaces: Vec::new(),
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
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

number_setting!(usize, u64, u32, i64);

impl Setting for Duration {
    const ALLOWED: &'static str = "a duration such as \"90s\" or \"1h30m\"";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => parse_duration(text),
            Value::Number(seconds) => Some(Duration::from_secs(seconds.as_u64()?)),
            _ => None,
        }
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
const OF_THE_SERVER: [&str; 4] = [
    "frontend.keepAliveTime",
    "frontend.keepAliveTimeout",
    "system.namespaceMinRetentionLocal",
    "worker.protectedNamespaces",
];

/// A value with where it holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Constrained {
    value: Value,
    #[serde(default)]
    constraints: Constraints,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Constraints {
    namespace: Option<String>,
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
    "frontend.keepAliveTime" => frontend.keepalive_interval,
    "frontend.keepAliveTimeout" => frontend.keepalive_timeout,
    "frontend.linkMaxSize" => limits.link_bytes_max,
    "frontend.maxlinksPerRequest" => limits.links_max,
    "frontend.namespaceCount" => frontend.polls_max,
    "frontend.searchAttributesNumberOfKeysLimit" => frontend.search_attributes_max,
    "frontend.searchAttributesSizeOfValueLimit" => frontend.search_attribute_bytes_max,
    "frontend.searchAttributesTotalSizeLimit" => frontend.search_attributes_bytes_max,
    "frontend.visibilityMaxPageSize" => frontend.visibility_page_max,
    "history.MaxBufferedQueryCount" => limits.buffered_queries_max,
    "history.defaultWorkflowTaskTimeout" => limits.workflow_task_timeout,
    "history.longPollExpirationInterval" => frontend.history_wait_max,
    "history.maximumBufferedEventsBatch" => limits.buffered_events_max,
    "history.maximumBufferedEventsSizeInBytes" => limits.buffered_bytes_max,
    "history.maximumSignalsPerExecution" => limits.signals_max,
    "history.retentionTimerJitterDuration" => limits.retention_jitter,
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
    "limit.numPendingChildExecutions.error" => limits.pending_children_max,
    "matching.longPollExpirationInterval" => frontend.poll_wait_max,
    "matching.queryPollerUnavailableWindow" => frontend.query_poller_window,
    "system.namespaceMinRetentionLocal" => frontend.retention_min,
    "worker.protectedNamespaces" => frontend.protected_namespaces,
};

impl Key {
    fn find(name: &str) -> Result<&'static Key, SettingsError> {
        KEYS.iter().find(|key| key.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known: Vec<_> = KEYS.iter().map(|key| key.name).collect();
            SettingsError(format!("dynamic configuration key {name:?} is none of {}", known.join(", ")))
        })
    }

    fn set(&self, config: &mut DynamicConfig, value: &Value) -> Result<(), SettingsError> {
        (self.set)(config, value).map_err(|allowed| self.wrong(format!("{value} is not {allowed}")))
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

    /// Sets one key: to a value, or to several that each say where they hold.
    ///
    /// # Errors
    ///
    /// A line that names the keys there are, or what the key's value may be.
    pub fn set(&mut self, name: &str, value: &Value) -> Result<(), SettingsError> {
        let key = Key::find(name)?;
        // A list of names is a value itself.
        let values = value.as_array().filter(|values| !values.iter().all(Value::is_string));
        let Some(values) = values else { return key.set(&mut self.everywhere, value) };
        for value in values {
            let Constrained { value, constraints } =
                Constrained::deserialize(value).map_err(|error| key.wrong(error))?;
            let Some(namespace) = constraints.namespace else {
                key.set(&mut self.everywhere, &value)?;
                continue;
            };
            if OF_THE_SERVER.contains(&key.name) {
                return Err(key.wrong("it holds for the whole server, not for a namespace"));
            }
            // Tried out here, so that it cannot fail later.
            key.set(&mut DynamicConfig::default(), &value)?;
            self.own.entry(namespace).or_default().push((key.name, value));
        }
        Ok(())
    }

    /// What holds in each namespace.
    pub fn per_namespace(&self) -> PerNamespace<DynamicConfig> {
        let own = self.own.iter().map(|(namespace, values)| {
            let mut config = self.everywhere.clone();
            for (name, value) in values {
                // Both were looked at when they were set.
                let _ = Key::find(name).and_then(|key| key.set(&mut config, value));
            }
            (namespace.clone(), config)
        });
        PerNamespace::new(self.everywhere.clone(), own)
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
            ("limit.nothing=1", "is none of frontend.keepAliveTime, "),
            ("limit.blobSize.error=-1", "limit.blobSize.error: -1 is not a whole number, not negative"),
            ("matching.longPollExpirationInterval=soon", "\"soon\" is not a duration such as"),
            ("limit.blobSize.error=[{}]", "limit.blobSize.error: missing field `value`"),
            ("limit.blobSize.error=[{\"value\":1,\"constraints\":{\"taskQueue\":\"a\"}}]", "unknown field `taskQueue`"),
            ("limit.blobSize.error=[{\"value\":-1,\"constraints\":{\"namespace\":\"a\"}}]", "-1 is not a whole number"),
            ("frontend.keepAliveTime=[{\"value\":1,\"constraints\":{\"namespace\":\"a\"}}]", "for the whole server"),
        ];
        for (flag, expected) in cases {
            let error = config.set_from_flag(flag).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{flag}: {error}");
        }
        assert_eq!(config, DynamicSettings::default());
    }
}
