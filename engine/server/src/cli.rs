//! The command line.

mod certificates;
mod cluster;
mod cluster_view;
mod namespaces;
mod placements;
mod recover;
mod tls;
mod tokens;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
pub(crate) use cluster::ClusterCommand;
use everlog_server::settings::{
    DEFAULT_DATA_DIR, DataLocation, Disk, Listen, Log, LogFormat, Mode, Settings, SettingsError, TimeSkipping, load,
    search_attribute_type,
};

const EXAMPLES: &str = "\
Examples:
  everlog dev                                     everything on its default port, data in ./everlog-data
  everlog dev --ephemeral --port 0                for tests: nothing is kept, the system picks the port
  everlog dev --time-skipping --port 0            for tests in which years pass
  everlog dev --namespace orders --search-attribute CustomerId=Keyword
  everlog server --config /etc/everlog.toml
  everlog cluster init --name prod --nodes n1 n2 n3 --dir certificates
  everlog cluster status --address n1:7233
  everlog completions bash > /etc/bash_completion.d/everlog";

/// A durable-execution server that speaks Temporal's gRPC API.
#[derive(Debug, Parser)]
#[command(name = "everlog", version, about, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server for development: one node, no configuration needed.
    #[command(after_help = EXAMPLES)]
    Dev(DevArgs),
    /// Run a server with the settings of a file.
    Server(ServerArgs),
    /// Make the certificates of a cluster's nodes; show and steer a cluster.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Print the version.
    Version,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Flags of `everlog dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Address of all listeners.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    ip: IpAddr,
    /// gRPC port, for SDKs, the CLI and the UI; 0 lets the system pick.
    #[arg(long, default_value_t = 7233)]
    port: u16,
    /// HTTP port (JSON API, /health, /ready); 0 lets the system pick.
    #[arg(long, default_value_t = 7243, value_name = "PORT")]
    http_port: u16,
    /// Prometheus port (/metrics); 0 lets the system pick.
    #[arg(long, default_value_t = 9233, value_name = "PORT")]
    metrics_port: u16,
    /// Where the data is kept; created if it is not there.
    #[arg(long, default_value = DEFAULT_DATA_DIR, value_name = "DIR", conflicts_with = "ephemeral")]
    data_dir: PathBuf,
    /// Keep the data in a temporary directory that is removed at the end.
    #[arg(long)]
    ephemeral: bool,
    /// Skip time in which nothing happens, for tests, and serve Temporal's test service, by which the time-skipping test environments of SDKs
    /// say when. Nothing is kept, as with --ephemeral. It begins `locked`, as these environments expect it, or `unlocked`.
    #[arg(
        long,
        value_name = "STATE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "locked",
        conflicts_with = "data_dir"
    )]
    time_skipping: Option<TimeSkipping>,
    /// Create this namespace besides `default`, if it is not there (may be repeated). Retention is 24 hours; 100 years with
    /// --time-skipping.
    #[arg(long = "namespace", value_name = "NAME")]
    namespaces: Vec<String>,
    /// Add a search attribute to `default` and the namespaces above (may be repeated). Types: Text, Keyword, Int, Double, Bool,
    /// Datetime, KeywordList.
    #[arg(long = "search-attribute", value_name = "NAME=TYPE")]
    search_attributes: Vec<String>,
    /// Set a limit or timeout under the name it has in Temporal's dynamic configuration (may be repeated), such as
    /// limit.blobSize.error=4194304 (bytes) or matching.longPollExpirationInterval='"30s"'. deploy/everlog.toml lists the keys.
    #[arg(long = "dynamic-config-value", value_name = "KEY=JSON")]
    dynamic_config_values: Vec<String>,
    /// A file with such limits and timeouts as Temporal's servers have it, in YAML; it is read again when it changes. The flag above
    /// counts more.
    #[arg(long, value_name = "FILE")]
    dynamic_config_file: Option<PathBuf>,
    /// Take no new work when less is free on the disk than this, in bytes, and than the next flag says.
    #[arg(long, default_value_t = Disk::default().free_bytes_min, value_name = "BYTES")]
    disk_free_bytes_min: u64,
    /// See the flag above; a share of the disk.
    #[arg(long, default_value_t = Disk::default().free_percent_min, value_name = "PERCENT")]
    disk_free_percent_min: u8,
    /// Let pages of this origin, SCHEME://HOST or SCHEME://HOST:PORT, call the HTTP API from browsers (may be repeated).
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    cors_origins: Vec<String>,
    #[command(flatten)]
    log: LogArgs,
}

/// Flags of `everlog server`.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The settings, in TOML. deploy/everlog.toml shows every one with its default. Variables of the environment count more:
    /// EVERLOG__LISTEN__PORT is `port` of `[listen]`.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct LogArgs {
    /// error, warn, info, debug, trace, or a filter such as info,everlog_partition=debug.
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log_level: String,
    /// pretty or json; logs go to the standard error.
    #[arg(long, default_value = "pretty", value_name = "FORMAT")]
    log_format: String,
}

/// Why the command line was not taken: what to print, and the exit code.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It asked for help or the version, which is the text.
    Help(String),
    /// It is wrong; the text is one line.
    Wrong(String),
}

/// Reads the command line.
///
/// # Errors
///
/// See [`Refused`].
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Refused> {
    Cli::try_parse_from(args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Refused::Help(error.to_string())
        }
        _ => {
            let text = error.to_string();
            // The first paragraph says what is wrong; it has more than one line where it lists something.
            let lines = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
            let line = lines.collect::<Vec<_>>().join(" ");
            Refused::Wrong(format!("{} (see everlog --help)", line.trim_start_matches("error: ")))
        }
    })
}

impl DevArgs {
    /// The settings that the flags mean.
    ///
    /// # Errors
    ///
    /// One line about the flag that is wrong.
    pub(crate) fn settings(self) -> Result<Settings, SettingsError> {
        let mut settings = Settings {
            mode: Mode::Dev,
            listen: Listen {
                ip: self.ip,
                grpc_port: self.port,
                http_port: self.http_port,
                metrics_port: self.metrics_port,
                ..Listen::default()
            },
            time_skipping: self.time_skipping,
            data: if self.ephemeral || self.time_skipping.is_some() {
                DataLocation::Ephemeral
            } else {
                DataLocation::Directory(self.data_dir)
            },
            disk: Disk { free_bytes_min: self.disk_free_bytes_min, free_percent_min: self.disk_free_percent_min },
            log: Log { level: self.log.log_level, format: self.log.log_format.parse::<LogFormat>()? },
            ..Settings::default()
        };
        for origin in &self.cors_origins {
            let wrong = |SettingsError(why)| SettingsError(format!("--cors-origin: {why}"));
            settings.listen.http.origins.push(origin.parse().map_err(wrong)?);
        }
        self.namespaces.into_iter().try_for_each(|name| settings.add_namespace(name))?;
        for flag in &self.search_attributes {
            let (name, kind) = flag
                .split_once('=')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| SettingsError(format!("search attribute {flag:?} is not NAME=TYPE")))?;
            settings.search_attributes.push((name.to_owned(), search_attribute_type(kind)?));
        }
        settings.dynamic_file = self.dynamic_config_file;
        settings.dynamic_flags = self.dynamic_config_values;
        settings.with_dynamic()
    }
}

impl ServerArgs {
    /// The settings in the file.
    ///
    /// # Errors
    ///
    /// One line about what is wrong with it.
    pub(crate) fn settings(self) -> Result<Settings, SettingsError> {
        load(&self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dev(flags: &[&str]) -> Result<Settings, String> {
        let args = ["everlog", "dev"].iter().chain(flags).map(OsString::from);
        match parse(args) {
            Ok(Cli { command: Command::Dev(args) }) => args.settings().map_err(|error| error.to_string()),
            Ok(_) => Err("another command".to_owned()),
            Err(Refused::Help(text) | Refused::Wrong(text)) => Err(text),
        }
    }

    #[test]
    fn without_flags_everything_is_as_the_defaults_say() {
        assert_eq!(dev(&[]), Ok(Settings::default()));
    }

    #[test]
    fn flags_set_everything() {
        let settings = dev(&[
            "--ip",
            "0.0.0.0",
            "--port",
            "0",
            "--http-port",
            "1",
            "--metrics-port",
            "2",
            "--ephemeral",
            "--namespace",
            "a",
            "--namespace",
            "b",
            "--search-attribute",
            "C=Keyword",
            "--dynamic-config-value",
            "limit.maxIDLength=255",
            "--cors-origin",
            "http://localhost:3000",
            "--log-level",
            "debug",
            "--log-format",
            "json",
        ])
        .unwrap();
        assert_eq!((settings.listen.grpc_port, settings.listen.http_port, settings.listen.metrics_port), (0, 1, 2));
        assert_eq!(settings.data, DataLocation::Ephemeral);
        assert_eq!(settings.namespaces, ["a", "b"]);
        assert_eq!(settings.search_attributes.len(), 1);
        assert_eq!(settings.dynamic.everywhere.limits.id_bytes_max, 255);
        assert_eq!(settings.listen.http.origins[0].as_str(), "http://localhost:3000");
        assert_eq!(settings.log, Log { level: "debug".to_owned(), format: LogFormat::Json });
    }

    #[test]
    fn time_that_is_skipped_is_kept_nowhere() {
        let settings = dev(&["--time-skipping"]).unwrap();
        assert_eq!((settings.time_skipping, &settings.data), (Some(TimeSkipping::Locked), &DataLocation::Ephemeral));
        assert!(settings.retention() > dev(&[]).unwrap().retention());
        assert_eq!(dev(&["--time-skipping=unlocked"]).unwrap().time_skipping, Some(TimeSkipping::Unlocked));
        let server = parse(["everlog", "server", "--config", "x", "--time-skipping"].map(OsString::from));
        assert!(matches!(server, Err(Refused::Wrong(line)) if line.contains("'--time-skipping'")));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        let cases: [(&[&str], &str); 12] = [
            (&["--prot", "1"], "unexpected argument '--prot' found"),
            (&["--port", "70000"], "invalid value '70000' for '--port <PORT>'"),
            (&["--ephemeral", "--data-dir", "x"], "cannot be used with"),
            (&["--time-skipping", "--data-dir", "x"], "cannot be used with"),
            (&["--time-skipping=half"], "[possible values: locked, unlocked]"),
            (&["--namespace", ""], "a namespace must have a name"),
            (&["--search-attribute", "C"], "search attribute \"C\" is not NAME=TYPE"),
            (&["--search-attribute", "C=String"], "\"String\" is none of Text, "),
            (&["--dynamic-config-value", "limit.maxIDLength=x"], "limit.maxIDLength: \"x\" is not a whole number"),
            (&["--dynamic-config-file", "/nowhere"], "cannot read /nowhere: "),
            (&["--cors-origin", "localhost:3000"], "--cors-origin: \"localhost:3000\" is no origin: write SCHEME://"),
            (&["--log-format", "xml"], "log format \"xml\" is none of pretty, json"),
        ];
        for (flags, expected) in cases {
            let error = dev(flags).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{flags:?}: {error}");
        }
    }
}
