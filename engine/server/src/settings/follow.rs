//! Reads the files of the settings again while the server runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use everlog_config::DynamicConfig;
use everlog_kernel::Limits;
use everlog_model::InForce;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use super::{DynamicSettings, Settings};

/// How often the files are looked at; SIGHUP does it at once.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Puts the dynamic configuration in force whenever it is no longer that of `settings`, for as long as it is polled. A file that is wrong
/// changes nothing, and what else stands in the settings file takes a restart. Tells of what has no effect, once.
pub async fn follow(settings: Settings, config: Arc<InForce<DynamicConfig>>, limits: Arc<InForce<Limits>>) {
    let mut told = BTreeSet::new();
    tell(&settings.dynamic, &mut told);
    if settings.file.is_none() && settings.dynamic_file.is_none() {
        return;
    }
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return tracing::warn!(%error, "changes of the settings file go unnoticed"),
    };
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    let mut dynamic = settings.dynamic.clone();
    let settings = Arc::new(settings);
    let (mut last_others, mut last_problem) = (None, String::new());
    loop {
        tokio::select! {
            _ = hangup.recv() => {}
            _ = interval.tick() => {}
        }
        let settings = Arc::clone(&settings);
        // A panic in there is logged by its thread.
        let Ok(loaded) = spawn_blocking(move || settings.again()).await else { return };
        let found = match loaded {
            Ok(found) => found,
            Err(error) => {
                let problem = error.to_string();
                if problem != last_problem {
                    tracing::warn!(problem, "the settings file is wrong and changes nothing");
                }
                last_problem = problem;
                continue;
            }
        };
        last_problem.clear();
        if found.dynamic != dynamic {
            tracing::info!("the dynamic configuration has changed");
            let values = found.dynamic.per_namespace();
            limits.replace(values.map(|config| config.limits.clone()));
            config.replace(values);
            dynamic = found.dynamic.clone();
            tell(&dynamic, &mut told);
        }
        let others = Settings { dynamic: DynamicSettings::default(), ..found };
        if last_others.as_ref().is_some_and(|last| *last != others) {
            tracing::warn!(
                "the settings file has changed in more than its dynamic configuration, which takes a restart"
            );
        }
        last_others = Some(others);
    }
}

/// Tells of what has no effect, if that was not told before.
fn tell(dynamic: &DynamicSettings, told: &mut BTreeSet<String>) {
    for line in dynamic.without_effect() {
        if told.insert(line.to_owned()) {
            tracing::warn!("{line}: it has no effect");
        }
    }
}
