//! Logs, on the standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::settings::{Log, LogFormat, SettingsError};

/// Starts logging; once a process.
///
/// # Errors
///
/// One line if the level is not one, or if logging has been started before.
pub fn init_logs(log: &Log) -> Result<(), SettingsError> {
    let wrong = |problem: &dyn std::fmt::Display| {
        let level = &log.level;
        SettingsError(format!("log level {level:?} is neither error, warn, info, debug, trace nor a filter: {problem}"))
    };
    // The filter would take a word that is no level for the name of a module, and log nothing else.
    if let Some(word) = log.level.split(',').find(|part| !part.contains('=') && part.parse::<LevelFilter>().is_err()) {
        return Err(wrong(&format!("{word:?} is no level")));
    }
    // openraft tells of every timer at `info`; whoever wants that can say so.
    let filter = EnvFilter::try_new(format!("openraft=error,{}", log.level)).map_err(|error| wrong(&error))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match log.format {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| SettingsError(format!("logging cannot be started: {error}")))
}
