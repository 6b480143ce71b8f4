//! The settings file of `everlog server`: TOML, the same settings as the command line has.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use everlog_config::parse_duration;
use everlog_proto::cluster::Placement;
use serde::Deserialize;

use super::archival::{self, FileArchival};
use super::clients::{self, FileHttp};
use super::cluster::{self, FileCluster, FileTls};
use super::placements::{self, FilePlacement};
use super::{
    DataLocation, Disk, Listen, Log, LogFormat, Mode, Settings, SettingsError, environment, read_dynamic,
    search_attribute_type,
};

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    data_dir: Option<PathBuf>,
    ephemeral: bool,
    namespaces: Vec<String>,
    search_attributes: BTreeMap<String, String>,
    listen: FileListen,
    http: FileHttp,
    cluster: Option<FileCluster>,
    placement: Vec<FilePlacement>,
    tls: FileTls,
    disk: FileDisk,
    archival: FileArchival,
    log: FileLog,
    dynamic_config_file: Option<PathBuf>,
    dynamic_config: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileListen {
    ip: Option<IpAddr>,
    port: Option<u16>,
    http_port: Option<u16>,
    metrics_port: Option<u16>,
    max_request_bytes: Option<usize>,
    handshake_timeout: Option<String>,
    max_handshakes_per_address: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileDisk {
    free_bytes_min: Option<u64>,
    free_percent_min: Option<u8>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileLog {
    level: Option<String>,
    format: Option<LogFormat>,
}

/// The placements that a cluster is founded with.
fn placements(file: Vec<FilePlacement>, has_cluster: bool) -> Result<Vec<Placement>, SettingsError> {
    if !file.is_empty() && !has_cluster {
        return Err(SettingsError("[[placement]] is for a node of a cluster: there is no [cluster]".to_owned()));
    }
    let read = |placement| {
        let placement = placements::placement(placement)?;
        everlog_cluster::check_placement(&placement).map(|()| placement)
    };
    file.into_iter().map(read).collect::<Result<_, _>>().map_err(SettingsError)
}

/// Reads the settings file at `path`, and what the environment says instead.
///
/// # Errors
///
/// One line that says what is wrong with it, and where.
pub fn load(path: &Path) -> Result<Settings, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| SettingsError(format!("cannot read {}: {error}", path.display())))?;
    let settings = parse(&text, &environment::variables())
        .map_err(|SettingsError(message)| SettingsError(format!("{}: {message}", path.display())))?;
    Ok(Settings { file: Some(path.to_owned()), ..settings })
}

/// The settings of a file with this text, and of these variables.
///
/// # Errors
///
/// One line that says what is wrong, and where.
pub fn parse(text: &str, variables: &[(String, String)]) -> Result<Settings, SettingsError> {
    let mut file: File = if variables.is_empty() {
        toml::from_str(text).map_err(|error| one_line(text, &error))?
    } else {
        let mut table: toml::Table = toml::from_str(text).map_err(|error| one_line(text, &error))?;
        variables.iter().try_for_each(|(name, value)| environment::set(&mut table, name, value))?;
        File::deserialize(table).map_err(|error| {
            let names: Vec<_> = variables.iter().map(|(name, _)| name.as_str()).collect();
            let message = error.message().replace('\n', " ");
            SettingsError(format!("with {} of the environment: {message}", names.join(", ")))
        })?
    };
    let mut settings = Settings { mode: Mode::Server, ..Settings::default() };
    file.namespaces.into_iter().try_for_each(|name| settings.add_namespace(name))?;
    settings.data = match (file.data_dir, file.ephemeral) {
        (Some(_), true) => return Err(SettingsError("data_dir and ephemeral exclude each other".to_owned())),
        (Some(path), false) => DataLocation::Directory(path),
        (None, true) => DataLocation::Ephemeral,
        (None, false) => settings.data,
    };
    let (listen, defaults) = (file.listen, Listen::default());
    settings.listen = Listen {
        ip: listen.ip.unwrap_or(defaults.ip),
        grpc_port: listen.port.unwrap_or(defaults.grpc_port),
        http_port: listen.http_port.unwrap_or(defaults.http_port),
        metrics_port: listen.metrics_port.unwrap_or(defaults.metrics_port),
        request_bytes_max: listen.max_request_bytes.unwrap_or(defaults.request_bytes_max),
        handshake_timeout: duration("listen.handshake_timeout", listen.handshake_timeout)?
            .unwrap_or(defaults.handshake_timeout),
        handshakes_per_address_max: listen.max_handshakes_per_address.unwrap_or(defaults.handshakes_per_address_max),
        tls: file.tls.frontend.take().map(clients::tls).transpose()?,
        http: clients::access(&file.http)?,
    };
    let tls = file.tls;
    settings.cluster = file.cluster.map(|cluster| cluster::read(cluster, tls)).transpose()?;
    if settings.cluster.is_some() && settings.data == DataLocation::Ephemeral {
        let message = "ephemeral and [cluster] exclude each other: a node whose data is gone is another node";
        return Err(SettingsError(message.to_owned()));
    }
    settings.placements = placements(file.placement, settings.cluster.is_some())?;
    let defaults = Disk::default();
    settings.disk = Disk {
        free_bytes_min: file.disk.free_bytes_min.unwrap_or(defaults.free_bytes_min),
        free_percent_min: file.disk.free_percent_min.unwrap_or(defaults.free_percent_min),
    };
    settings.archive = archival::read(file.archival)?;
    let defaults = Log::default();
    settings.log =
        Log { level: file.log.level.unwrap_or(defaults.level), format: file.log.format.unwrap_or(defaults.format) };
    for (name, kind) in file.search_attributes {
        settings.search_attributes.push((name, search_attribute_type(&kind)?));
    }
    settings.dynamic = read_dynamic(file.dynamic_config_file.as_deref())?;
    settings.dynamic_file = file.dynamic_config_file;
    for (name, value) in &file.dynamic_config {
        settings.dynamic.set(name, value)?;
    }
    Ok(settings)
}

pub(super) fn duration(key: &str, text: Option<String>) -> Result<Option<Duration>, SettingsError> {
    let parse = |text: String| {
        parse_duration(&text)
            .ok_or_else(|| SettingsError(format!("{key}: {text:?} is not a duration such as \"90s\" or \"1h30m\"")))
    };
    text.map(parse).transpose()
}

/// What the parser says, with the line that it means and without its drawing of it.
fn one_line(text: &str, error: &toml::de::Error) -> SettingsError {
    let message = error.message().replace('\n', " ");
    match error.span() {
        Some(span) => {
            let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
            SettingsError(format!("line {line}: {message}"))
        }
        None => SettingsError(message),
    }
}

#[cfg(test)]
mod tests {
    use everlog_config::DynamicSettings;

    use super::*;

    /// The sample lies outside of the crate, so that operators find it.
    fn sample() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/everlog.toml");
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_sample_shows_the_defaults() {
        assert_eq!(parse(&sample(), &[]).unwrap(), Settings { mode: Mode::Server, ..Settings::default() });
    }

    #[test]
    fn the_sample_documents_every_key_with_its_default() {
        let sample = sample();
        for key in DynamicSettings::keys() {
            let line = sample.lines().find(|line| line.contains(&format!("\"{key}\"")));
            let line = line.unwrap_or_else(|| panic!("deploy/everlog.toml does not mention {key}"));
            let uncommented = format!("[dynamic_config]\n{}", line.trim_start_matches("# "));
            assert_eq!(parse(&uncommented, &[]).unwrap().dynamic, Settings::default().dynamic, "{line}");
        }
    }

    #[test]
    fn a_file_sets_everything() {
        let settings = parse(
            r#"
            ephemeral = true
            namespaces = ["orders"]
            [search_attributes]
            CustomerId = "Keyword"
            [listen]
            ip = "0.0.0.0"
            port = 1
            http_port = 2
            metrics_port = 3
            max_request_bytes = 4
            handshake_timeout = "5s"
            max_handshakes_per_address = 8
            [disk]
            free_bytes_min = 6
            free_percent_min = 7
            [log]
            level = "debug"
            format = "json"
            [dynamic_config]
            "limit.maxIDLength" = 255
            "#,
            &[],
        )
        .unwrap();
        assert_eq!(settings.data, DataLocation::Ephemeral);
        assert_eq!(settings.namespaces, ["orders"]);
        assert_eq!(settings.search_attributes.len(), 1);
        assert_eq!((settings.listen.grpc_port, settings.listen.request_bytes_max), (1, 4));
        assert_eq!(settings.listen.handshake_timeout, Duration::from_secs(5));
        assert_eq!(settings.listen.handshakes_per_address_max, 8);
        assert_eq!(settings.disk, Disk { free_bytes_min: 6, free_percent_min: 7 });
        assert_eq!(settings.log, Log { level: "debug".to_owned(), format: LogFormat::Json });
        assert_eq!(settings.dynamic.everywhere.limits.id_bytes_max, 255);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        let cases = [
            ("[listen]\nprot = 1", "line 2: unknown field `prot`, expected one of `ip`, `port`"),
            ("[listen]\nport = 70000", "line 2: "),
            ("nonsense", "line 1: "),
            ("namespaces = [\"\"]", "a namespace must have a name"),
            ("[listen]\nhandshake_timeout = \"soon\"", "listen.handshake_timeout: \"soon\" is not a duration"),
            ("[log]\nformat = \"xml\"", "line 2: unknown variant `xml`, expected `pretty` or `json`"),
            ("data_dir = \"x\"\nephemeral = true", "data_dir and ephemeral exclude each other"),
            ("[search_attributes]\nA = \"B\"", "search attribute type \"B\" is none of Text, "),
            ("[dynamic_config]\n\"limit.maxIDLength\" = -1", "limit.maxIDLength: -1 is not a whole number"),
            ("dynamic_config_file = \"/nowhere\"", "cannot read /nowhere: "),
            (
                "ephemeral = true\n[cluster]\nseeds = [\"127.0.0.1:1\"]\ninitial_nodes = 3",
                "ephemeral and [cluster] exclude",
            ),
            ("[cluster]\nname = 1", "line 2: "),
            (
                "[[placement]]\nname = \"eu\"\nreplicas = 3",
                "[[placement]] is for a node of a cluster: there is no [cluster]",
            ),
            (
                "[cluster]\nseeds = [\"127.0.0.1:1\"]\ninitial_nodes = 3\n[[placement]]\nname = \"eu\"\nreplicas = 4",
                "placement eu: replicas = 4, and 1, 3 or 5 is allowed",
            ),
            ("[tls.node]\nca = \"a\"", "line 1: missing field `certificate`"),
            ("[tls.backend]\nca = \"a\"", "line 1: unknown field `backend`, expected `frontend` or `node`"),
        ];
        for (text, expected) in cases {
            let error = parse(text, &[]).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{text}: {error}");
        }
    }
    #[test]
    fn the_environment_counts_more_than_the_file() {
        let variables = |pairs: &[(&str, &str)]| -> Vec<_> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let listen = variables(&[("EVERLOG__LISTEN__PORT", "9"), ("EVERLOG__LOG__FORMAT", "json")]);
        let settings = parse("[listen]\nport = 1\nhttp_port = 2", &listen).unwrap();
        assert_eq!((settings.listen.grpc_port, settings.listen.http_port), (9, 2));
        assert_eq!(settings.log.format, LogFormat::Json);
        let wrong = [
            ("EVERLOG__LISTEN__PROT", "1", "unknown field `prot`, expected one of `ip`"),
            ("EVERLOG__LISTEN__PORT", "many", "invalid type: string \"many\", expected u16"),
            ("EVERLOG__LISTEN", "1", "invalid type: integer `1`"),
        ];
        for (name, value, expected) in wrong {
            let error = parse("", &variables(&[(name, value)])).unwrap_err().to_string();
            let start = format!("with {name} of the environment: ");
            assert!(error.starts_with(&start) && error.contains(expected), "{error}");
        }
    }
}
