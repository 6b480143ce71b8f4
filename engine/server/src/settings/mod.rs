//! What an operator can set: addresses, the data directory, namespaces, logs, and the dynamic configuration.
//!
//! Settings come from the command line (`everlog dev`) or from a TOML file (`everlog server`); both end up in [`Settings`].
//! `deploy/everlog.toml` documents every one of them, and a test keeps it complete. Whatever is wrong with a value is said in
//! one line: what, where, and what is allowed.

mod archival;
mod clients;
mod cluster;
mod environment;
mod file;
mod follow;
mod placements;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use everlog_archive::ArchiveOptions;
use everlog_kernel::time::DURATION_MAX;
use everlog_meta::DEFAULT_RETENTION;
use everlog_model::limits;
use everlog_proto::api::enums::v1::IndexedValueType;
use everlog_proto::cluster::Placement;

pub use crate::membership::ClusterOptions;
pub use everlog_config::{Addresses, DynamicSettings, Listen, SettingsError};
pub use file::{load, parse};
pub use follow::follow;
pub use placements::{placement_file, read_placements, reads_name, spread_name};

/// Everything that a node is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Which subcommand runs: only for what is printed.
    pub mode: Mode,
    /// Where the node listens.
    pub listen: Listen,
    /// Where the node keeps its data.
    pub data: DataLocation,
    /// Whether time in which nothing happens is skipped, for tests.
    pub time_skipping: Option<TimeSkipping>,
    /// The cluster that the node is part of, if it is not alone.
    pub cluster: Option<ClusterOptions>,
    /// Placements that the cluster is founded with. Of one that is founded they say nothing.
    pub placements: Vec<Placement>,
    /// When the disk is too full for new work.
    pub disk: Disk,
    /// What becomes of runs whose retention is over.
    pub archive: ArchiveOptions,
    /// Namespaces that are created at the start if they are not there, besides `default`.
    pub namespaces: Vec<String>,
    /// Search attributes that are added to those namespaces and to `default`.
    pub search_attributes: Vec<(String, IndexedValueType)>,
    /// The file that they are from, if they are: its dynamic configuration is read again when it changes.
    pub file: Option<PathBuf>,
    /// A file of its own for the dynamic configuration, in Temporal's form: read again when it changes.
    pub dynamic_file: Option<PathBuf>,
    /// What flags say of the dynamic configuration, `KEY=JSON`: they count more than that file.
    pub dynamic_flags: Vec<String>,
    /// Limits and timeouts: what all of these say.
    pub dynamic: DynamicSettings,
    /// What is logged, and how.
    pub log: Log,
}

/// The subcommand that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `everlog dev`.
    Dev,
    /// `everlog server`.
    Server,
}

/// How a server begins that skips time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TimeSkipping {
    /// Time passes as it always does until a client unlocks it.
    Locked,
    /// Time is skipped until a client locks it.
    Unlocked,
}

impl TimeSkipping {
    /// Whether time passes as it always does at first.
    pub fn is_locked(self) -> bool {
        self == TimeSkipping::Locked
    }
}

/// Where the node keeps its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataLocation {
    /// A directory, created if it is not there.
    Directory(PathBuf),
    /// A temporary directory, removed when the process ends.
    Ephemeral,
}

/// When the disk is too full for new work: when less is free than both of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes.
    pub free_bytes_min: u64,
    /// Of what the disk holds.
    pub free_percent_min: u8,
}

impl Disk {
    /// From how few bytes on a disk of `total_bytes` has too little room: what is free must not be less than both minima, so that
    /// a large disk may be used up to half a gigabyte and a small one can be used at all. A share that is less than a flush takes
    /// counts as that, or as half of the disk.
    pub fn mark(&self, total_bytes: u64) -> u64 {
        let share = u128::from(total_bytes) * u128::from(self.free_percent_min) / 100;
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        share.max(limits::DISK_FLUSH_BYTES.min(total_bytes / 2)).min(self.free_bytes_min)
    }
}

impl Default for Disk {
    /// What a flush of all memtables and a compaction take, and a twentieth of a disk for which that is much.
    fn default() -> Disk {
        Disk { free_bytes_min: 512 << 20, free_percent_min: 5 }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or a filter such as `info,everlog_partition=debug`.
    pub level: String,
    /// The form.
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// The namespace that is always there.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The data directory where none is set.
pub const DEFAULT_DATA_DIR: &str = "./everlog-data";

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            mode: Mode::Dev,
            listen: Listen::default(),
            data: DataLocation::Directory(PathBuf::from(DEFAULT_DATA_DIR)),
            time_skipping: None,
            cluster: None,
            placements: Vec::new(),
            disk: Disk::default(),
            archive: ArchiveOptions::default(),
            namespaces: Vec::new(),
            search_attributes: Vec::new(),
            file: None,
            dynamic_file: None,
            dynamic_flags: Vec::new(),
            dynamic: DynamicSettings::default(),
            log: Log::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { level: "info".to_owned(), format: LogFormat::Pretty }
    }
}

impl Settings {
    /// The line that tells whoever started the node where it serves.
    pub fn serving_line(&self, addresses: &Addresses) -> String {
        let mode = match self.mode {
            Mode::Dev => "dev",
            Mode::Server => "server",
        };
        let data = match &self.data {
            DataLocation::Directory(path) => path.display().to_string(),
            DataLocation::Ephemeral => "ephemeral".to_owned(),
        };
        let Addresses { grpc, http, metrics } = addresses;
        format!("everlog {mode}: grpc={grpc} http={http} metrics={metrics} data={data}")
    }

    /// Adds a namespace to those that must exist.
    ///
    /// # Errors
    ///
    /// A line, if the name is none.
    pub fn add_namespace(&mut self, name: String) -> Result<(), SettingsError> {
        if name.is_empty() {
            return Err(SettingsError("a namespace must have a name".to_owned()));
        }
        self.namespaces.push(name);
        Ok(())
    }

    /// Reads again what is in files.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong with them.
    pub fn again(&self) -> Result<Settings, SettingsError> {
        match &self.file {
            Some(path) => load(path),
            None => self.clone().with_dynamic(),
        }
    }

    /// The same with the dynamic configuration that its file and the flags say.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong with the file or a flag.
    pub fn with_dynamic(mut self) -> Result<Settings, SettingsError> {
        self.dynamic = read_dynamic(self.dynamic_file.as_deref())?;
        self.dynamic_flags.iter().try_for_each(|flag| self.dynamic.set_from_flag(flag))?;
        Ok(self)
    }

    /// How long closed workflows are kept in the namespaces that are made at the start. Where years are skipped in a test, for longer than
    /// that: nothing is to be gone that the test still asks for.
    pub fn retention(&self) -> Duration {
        if self.time_skipping.is_some() { DURATION_MAX } else { DEFAULT_RETENTION }
    }

    /// The namespaces that must exist once the node serves.
    pub fn wanted_namespaces(&self) -> impl Iterator<Item = &str> + Clone {
        let others = self.namespaces.iter().map(String::as_str).filter(|name| *name != DEFAULT_NAMESPACE);
        std::iter::once(DEFAULT_NAMESPACE).chain(others)
    }
}

impl FromStr for LogFormat {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<LogFormat, SettingsError> {
        match text {
            "pretty" => Ok(LogFormat::Pretty),
            "json" => Ok(LogFormat::Json),
            _ => Err(SettingsError(format!("log format {text:?} is none of pretty, json"))),
        }
    }
}

/// What a file of the dynamic configuration says, if there is one.
fn read_dynamic(path: Option<&Path>) -> Result<DynamicSettings, SettingsError> {
    let mut dynamic = DynamicSettings::default();
    if let Some(path) = path {
        let text = std::fs::read_to_string(path)
            .map_err(|error| SettingsError(format!("cannot read {}: {error}", path.display())))?;
        let wrong = |SettingsError(problem)| SettingsError(format!("{}: {problem}", path.display()));
        dynamic.set_from_yaml(&text).map_err(wrong)?;
    }
    Ok(dynamic)
}

/// The names that search attribute types have on command lines and in files.
const SEARCH_ATTRIBUTE_TYPES: [(&str, IndexedValueType); 7] = [
    ("Text", IndexedValueType::Text),
    ("Keyword", IndexedValueType::Keyword),
    ("Int", IndexedValueType::Int),
    ("Double", IndexedValueType::Double),
    ("Bool", IndexedValueType::Bool),
    ("Datetime", IndexedValueType::Datetime),
    ("KeywordList", IndexedValueType::KeywordList),
];

/// The search attribute type with a name.
///
/// # Errors
///
/// A line that lists the types there are.
pub fn search_attribute_type(name: &str) -> Result<IndexedValueType, SettingsError> {
    SEARCH_ATTRIBUTE_TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, kind)| *kind).ok_or_else(
        || {
            let known: Vec<_> = SEARCH_ATTRIBUTE_TYPES.iter().map(|(name, _)| *name).collect();
            SettingsError(format!("search attribute type {name:?} is none of {}", known.join(", ")))
        },
    )
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn the_serving_line_names_mode_addresses_and_data() {
        let settings = Settings::default();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses { grpc: address(7233), http: address(7243), metrics: address(9233) };
        assert_eq!(
            settings.serving_line(&addresses),
            "everlog dev: grpc=127.0.0.1:7233 http=127.0.0.1:7243 metrics=127.0.0.1:9233 data=./everlog-data"
        );
    }

    #[test]
    fn the_smaller_minimum_of_free_space_holds() {
        const GIB: u64 = 1 << 30;
        let mark = |total| Disk::default().mark(total);
        assert_eq!((mark(1 << 50), mark(100 * GIB), mark(5 * GIB)), (GIB / 2, GIB / 2, GIB / 4));
        // A flush must fit.
        assert_eq!((mark(GIB), mark(GIB / 8)), (limits::DISK_FLUSH_BYTES, GIB / 16));
    }

    #[test]
    fn default_is_wanted_once() {
        let settings = Settings { namespaces: vec!["default".into(), "a".into()], ..Settings::default() };
        assert_eq!(settings.wanted_namespaces().collect::<Vec<_>>(), ["default", "a"]);
    }

    #[test]
    fn search_attribute_types_are_named() {
        assert_eq!(search_attribute_type("keywordlist"), Ok(IndexedValueType::KeywordList));
        let error = search_attribute_type("String").unwrap_err().to_string();
        assert!(error.contains("Text, Keyword, Int"), "{error}");
    }
}
