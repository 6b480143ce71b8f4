//! The part of the settings file that makes a node one of several.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use everlog_meta::{NodeLabels, is_name};
use everlog_model::{FormatVersion, ReadableFormats};
use everlog_transport::TlsFiles;
use serde::Deserialize;

use super::SettingsError;
use super::clients::FileFrontendTls;
use super::file::duration;
use crate::enrolment::{AutoTls, CERTIFICATE_LIFETIME};
use crate::membership::{CatchingUp, ClusterOptions, ClusterTls, FINALIZE_AFTER, is_private};

/// How many nodes may found a cluster: all of them keep the metadata.
const INITIAL_NODES_MAX: u32 = 7;

/// How long a leader may be silent where nobody says.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// Less than a slow fsync would elect somebody all the time; more is of no use to anybody.
const ELECTION_TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(200)..=Duration::from_secs(30);

/// How long a node may be away until it is made up for where nobody says: longer than a restart takes.
const DEAD_AFTER: Duration = Duration::from_secs(600);
/// A shorter absence is no reason to move anything.
const DEAD_AFTER_MIN: Duration = Duration::from_secs(10);

/// Labels of a node: all nodes keep those of all.
const LABELS_MAX: usize = 32;

/// A shorter one would be renewed all the time; a longer one would be good for too long once it is stolen.
const CERTIFICATE_LIFETIMES: RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(5 * 365 * 24 * 60 * 60);

/// Less is of no use to anybody.
const MIB: u64 = 1 << 20;

/// `[cluster]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileCluster {
    name: Option<String>,
    seeds: Vec<String>,
    initial_nodes: Option<u32>,
    election_timeout: Option<String>,
    region: String,
    zone: String,
    labels: BTreeMap<String, String>,
    dead_after: Option<String>,
    finalize_after: Option<String>,
    /// For tests: as if this were an earlier release.
    newest_format: Option<u32>,
    log_retain_bytes: Option<u64>,
    seed_bytes_per_second: Option<u64>,
    listen: Option<SocketAddr>,
    advertise: Option<String>,
    insecure: bool,
    tls: Option<Tls>,
    join_secret_file: Option<PathBuf>,
    join_token_file: Option<PathBuf>,
    join_token: Option<String>,
    certificate_lifetime: Option<String>,
}

/// How nodes prove to each other who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tls {
    /// With certificates that the cluster makes.
    Auto,
    /// With the certificates in the files of `[tls.node]`.
    Files,
    /// Not at all.
    Off,
}

/// `[tls]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileTls {
    pub(super) frontend: Option<FileFrontendTls>,
    node: Option<FileNodeTls>,
}

/// `[tls.node]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileNodeTls {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    #[serde(default)]
    peer_names: Vec<String>,
}

/// Checks what is written.
///
/// # Errors
///
/// One line that says what is wrong and what is allowed.
pub(super) fn read(file: FileCluster, tls: FileTls) -> Result<ClusterOptions, SettingsError> {
    let name = file.name.unwrap_or_else(|| "everlog".to_owned());
    if name.is_empty() || name.chars().any(char::is_control) {
        return wrong("cluster.name must be a line of text");
    }
    let initial_nodes = file.initial_nodes.unwrap_or(0);
    if initial_nodes != 1 && !(3..=INITIAL_NODES_MAX).contains(&initial_nodes) {
        return wrong(format!(
            "cluster.initial_nodes must be 1 or 3 to {INITIAL_NODES_MAX}, and the same on every node: two nodes survive no more than one does"
        ));
    }
    if file.seeds.is_empty() {
        return wrong("cluster.seeds must name the nodes of the cluster, \"host:port\" each");
    }
    if let Some(seed) = file.seeds.iter().find(|seed| !is_address(seed)) {
        return wrong(format!("cluster.seeds: {seed:?} is no \"host:port\""));
    }
    let election_timeout = duration("cluster.election_timeout", file.election_timeout)?.unwrap_or(ELECTION_TIMEOUT);
    if !ELECTION_TIMEOUTS.contains(&election_timeout) {
        return wrong("cluster.election_timeout must be from \"200ms\" to \"30s\"");
    }
    let labels = labels(file.region, file.zone, file.labels)?;
    let dead_after = match file.dead_after.as_deref() {
        Some("never") => None,
        _ => Some(duration("cluster.dead_after", file.dead_after)?.unwrap_or(DEAD_AFTER)),
    };
    if dead_after.is_some_and(|after| after < DEAD_AFTER_MIN) {
        return wrong("cluster.dead_after must be \"10s\" or more, or \"never\"");
    }
    let finalize_after = match file.finalize_after.as_deref() {
        Some("never") => None,
        _ => Some(duration("cluster.finalize_after", file.finalize_after)?.unwrap_or(FINALIZE_AFTER)),
    };
    let newest_format = file.newest_format.map_or(FormatVersion::NEWEST, FormatVersion);
    if !ReadableFormats::OF_THIS_RELEASE.contains(newest_format) {
        return wrong(format!("cluster.newest_format: this release reads {}", ReadableFormats::OF_THIS_RELEASE));
    }
    let formats = ReadableFormats { newest: newest_format, ..ReadableFormats::OF_THIS_RELEASE };
    let defaults = CatchingUp::default();
    let catching_up = CatchingUp {
        log_retain_bytes: file.log_retain_bytes.unwrap_or(defaults.log_retain_bytes),
        seed_bytes_per_second: file.seed_bytes_per_second.unwrap_or(defaults.seed_bytes_per_second),
    };
    if catching_up.log_retain_bytes < MIB {
        return wrong("cluster.log_retain_bytes must be 1048576 (1 MiB) or more");
    }
    if catching_up.seed_bytes_per_second < MIB {
        return wrong("cluster.seed_bytes_per_second must be 1048576 (1 MiB) or more");
    }
    let listen = file.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7235)));
    let advertise = match file.advertise {
        Some(advertise) if !is_address(&advertise) => {
            return wrong(format!("cluster.advertise: {advertise:?} is no \"host:port\""));
        }
        Some(advertise) => advertise,
        None if listen.ip().is_unspecified() => {
            return wrong("cluster.advertise must say where other nodes reach this one: it listens on every address");
        }
        None => listen.to_string(),
    };
    let tls = how_to_prove(
        file.tls,
        tls,
        Joining {
            secret_file: file.join_secret_file,
            token_file: file.join_token_file,
            token: file.join_token,
            certificate_lifetime: file.certificate_lifetime,
        },
    )?;
    if !is_private(&listen) && !file.insecure && tls.is_none() {
        return wrong(format!(
            "cluster.listen: without TLS whoever reaches {listen} is taken for a node; set cluster.tls = \"auto\" with a secret of all nodes in \
             cluster.join_secret_file (`openssl rand -hex 32`), or [tls.node], or cluster.insecure = true once a firewall keeps others out"
        ));
    }
    let seeds = file.seeds;
    Ok(ClusterOptions {
        name,
        seeds,
        initial_nodes,
        election_timeout,
        labels,
        dead_after,
        formats,
        finalize_after,
        catching_up,
        listen,
        advertise,
        tls,
    })
}

/// What `[cluster]` says of how nodes get certificates that the cluster makes.
struct Joining {
    secret_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    token: Option<String>,
    certificate_lifetime: Option<String>,
}

/// How nodes prove to each other who they are, if they do.
fn how_to_prove(tls: Option<Tls>, files: FileTls, joining: Joining) -> Result<Option<ClusterTls>, SettingsError> {
    let files = files.node.map(|FileNodeTls { ca, certificate, key, peer_names }| TlsFiles {
        ca,
        certificate,
        key,
        peer_names,
    });
    if files.as_ref().is_some_and(|files| files.peer_names.iter().any(String::is_empty)) {
        return wrong("tls.node.peer_names: an empty name is none");
    }
    let Joining { secret_file, token_file, token, certificate_lifetime } = joining;
    let joins = secret_file.is_some() || token_file.is_some() || token.is_some();
    let is_auto = match (tls, &files) {
        (Some(Tls::Auto), Some(_)) => {
            return wrong("cluster.tls = \"auto\" makes certificates itself: leave [tls.node] out");
        }
        (Some(Tls::Auto), None) => true,
        (None, Some(_)) if joins => {
            return wrong(
                "there are both [tls.node] and a join secret or token: cluster.tls must say \"files\" or \"auto\"",
            );
        }
        (None, None) => joins,
        _ => false,
    };
    if is_auto {
        let lifetime = duration("cluster.certificate_lifetime", certificate_lifetime)?.unwrap_or(CERTIFICATE_LIFETIME);
        if !CERTIFICATE_LIFETIMES.contains(&lifetime) {
            return wrong("cluster.certificate_lifetime must be from \"10s\" to \"1825d\" (five years)");
        }
        let token = token.map(|token| token.trim().parse());
        let token = token.transpose().map_err(|why| SettingsError(format!("cluster.join_token is none: {why}")))?;
        return Ok(Some(ClusterTls::Auto(AutoTls {
            join_secret_file: secret_file,
            join_token_file: token_file,
            join_token: token,
            certificate_lifetime: lifetime,
        })));
    }
    match (tls, files) {
        (Some(Tls::Files), None) => wrong("cluster.tls = \"files\" needs [tls.node] with ca, certificate and key"),
        (Some(Tls::Off), _) => Ok(None),
        (_, files) => Ok(files.map(ClusterTls::Files)),
    }
}

/// Where and what the node is.
fn labels(region: String, zone: String, others: BTreeMap<String, String>) -> Result<NodeLabels, SettingsError> {
    const NAME: &str = "1 to 64 letters, digits and any of \"-_.:+\"";
    for (field, name) in [("region", &region), ("zone", &zone)] {
        if !name.is_empty() && !is_name(name) {
            return wrong(format!("cluster.{field}: {name:?} is no name; one has {NAME}"));
        }
    }
    if let Some((label, value)) = others.iter().find(|(label, value)| !is_name(label) || !is_name(value)) {
        return wrong(format!("cluster.labels: {label:?} = {value:?}: both are {NAME}"));
    }
    if others.len() > LABELS_MAX {
        return wrong(format!("cluster.labels: {} labels, and {LABELS_MAX} are allowed", others.len()));
    }
    Ok(NodeLabels { region, zone, others })
}

fn is_address(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn wrong<T>(message: impl Into<String>) -> Result<T, SettingsError> {
    Err(SettingsError(message.into()))
}

#[cfg(test)]
mod tests {
    use everlog_transport::{Fingerprint, JoinToken};

    use super::*;

    fn parse(text: &str) -> Result<ClusterOptions, String> {
        let file: FileCluster = toml::from_str(text).map_err(|error| error.to_string())?;
        read(file, FileTls::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_samples_are_three_nodes_of_one_cluster() {
        #[derive(Deserialize)]
        struct Whole {
            cluster: FileCluster,
        }
        let mut seeds = Vec::new();
        for node in 1..=3 {
            let path = format!("{}/../../deploy/three-nodes/node{node}.toml", env!("CARGO_MANIFEST_DIR"));
            let whole: Whole = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            let options = read(whole.cluster, FileTls::default()).unwrap();
            let Some(ClusterTls::Auto(auto)) = options.tls else { panic!("{:?}", options.tls) };
            assert!(auto.join_secret_file.is_some_and(|file| file.ends_with("join-secret")));
            assert_eq!((options.initial_nodes, options.advertise.as_str()), (3, options.seeds[node - 1].as_str()));
            seeds.push((options.name, options.seeds));
        }
        assert!(seeds.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn what_is_left_out_follows_from_the_rest() {
        let options = parse("seeds = [\"a:1\"]\ninitial_nodes = 3\nlisten = \"127.0.0.2:7\"").unwrap();
        assert_eq!((options.name.as_str(), options.advertise.as_str()), ("everlog", "127.0.0.2:7"));
        assert_eq!(options.labels, NodeLabels::default());
        let labels = "seeds = [\"a:1\"]\ninitial_nodes = 3\nregion = \"eu\"\nzone = \"b\"\nlabels = { disk = \"ssd\" }";
        let labels = parse(labels).unwrap().labels;
        assert_eq!((labels.region.as_str(), labels.zone.as_str(), labels.others["disk"].as_str()), ("eu", "b", "ssd"));
        let options =
            "seeds = [\"a:1\"]\ninitial_nodes = 5\nlisten = \"0.0.0.0:7\"\nadvertise = \"a:7\"\ninsecure = true";
        assert_eq!(parse(options).unwrap().advertise, "a:7");
    }

    #[test]
    fn nodes_prove_who_they_are_where_files_are_named() {
        let cluster = |more: &str| -> FileCluster {
            toml::from_str(&format!("seeds = [\"a:1\"]\ninitial_nodes = 3\nlisten = \"10.0.0.1:7\"\n{more}")).unwrap()
        };
        let files = |more: &str| -> FileTls {
            toml::from_str(&format!("[node]\nca = \"a\"\ncertificate = \"b\"\nkey = \"c\"\n{more}")).unwrap()
        };
        let tls = |cluster, files| read(cluster, files).map(|options| options.tls).map_err(|error| error.to_string());
        let found = tls(cluster(""), files("peer_names = [\"*.example\"]")).unwrap().unwrap();
        let ClusterTls::Files(found) = found else { panic!("{found:?}") };
        assert_eq!((found.ca.to_str(), found.peer_names), (Some("a"), vec!["*.example".to_owned()]));
        assert!(tls(cluster("tls = \"files\""), files("")).unwrap().is_some());
        assert_eq!(tls(cluster("tls = \"off\"\ninsecure = true"), files("")), Ok(None));
        let error = |found: Result<Option<ClusterTls>, String>| found.unwrap_err();
        assert!(error(tls(cluster("tls = \"off\""), files(""))).contains("cluster.insecure = true"));
        assert!(error(tls(cluster("tls = \"files\""), FileTls::default())).contains("needs [tls.node]"));
        assert!(error(tls(cluster(""), files("peer_names = [\"\"]"))).contains("an empty name is none"));
    }

    #[test]
    fn the_cluster_makes_certificates_where_there_is_a_secret_or_a_token() {
        let cluster = |more: &str| -> FileCluster {
            toml::from_str(&format!("seeds = [\"a:1\"]\ninitial_nodes = 3\nlisten = \"10.0.0.1:7\"\n{more}")).unwrap()
        };
        let tls = |more: &str| read(cluster(more), FileTls::default()).unwrap().tls;
        let auto = |more: &str| match tls(more) {
            Some(ClusterTls::Auto(auto)) => auto,
            other => panic!("{more}: {other:?}"),
        };
        let token = JoinToken::make(Fingerprint([7; 32])).unwrap();
        let found = auto("join_secret_file = \"secret\"");
        assert_eq!((found.join_secret_file.unwrap().to_str(), found.join_token), (Some("secret"), None));
        assert_eq!(found.certificate_lifetime, CERTIFICATE_LIFETIME);
        let found = auto(&format!("tls = \"auto\"\njoin_token = \"{}\"\ncertificate_lifetime = \"30d\"", token.text()));
        assert_eq!((found.join_token, found.certificate_lifetime.as_secs()), (Some(token), 30 * 86_400));
        assert_eq!(tls("tls = \"off\"\ninsecure = true\njoin_secret_file = \"secret\""), None);
        auto("tls = \"auto\"");

        let files = || -> FileTls { toml::from_str("[node]\nca = \"a\"\ncertificate = \"b\"\nkey = \"c\"").unwrap() };
        let refused = |more: &str, files, expected: &str| {
            let error = read(cluster(more), files).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        };
        refused(
            "",
            FileTls::default(),
            "set cluster.tls = \"auto\" with a secret of all nodes in cluster.join_secret_file",
        );
        refused("tls = \"auto\"", files(), "leave [tls.node] out");
        refused("join_secret_file = \"s\"", files(), "cluster.tls must say \"files\" or \"auto\"");
        refused("join_token = \"x\"", FileTls::default(), "cluster.join_token is none: it does not begin with");
        refused("tls = \"auto\"\ncertificate_lifetime = \"9s\"", FileTls::default(), "from \"10s\" to \"1825d\"");
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_allowed() {
        let seeds = "seeds = [\"a:1\"]\n";
        let cases = [
            ("initial_nodes = 3".to_owned(), "cluster.seeds must name the nodes"),
            (format!("{seeds}name = \"\"\ninitial_nodes = 3"), "cluster.name must be a line of text"),
            (seeds.to_owned(), "cluster.initial_nodes must be 1 or 3 to 7"),
            (format!("{seeds}initial_nodes = 2"), "cluster.initial_nodes must be 1 or 3 to 7"),
            (format!("{seeds}initial_nodes = 8"), "cluster.initial_nodes must be 1 or 3 to 7"),
            ("seeds = [\"a\"]\ninitial_nodes = 3".to_owned(), "cluster.seeds: \"a\" is no \"host:port\""),
            (format!("{seeds}initial_nodes = 3\nelection_timeout = \"0.1s\""), "cluster.election_timeout must be from"),
            (
                format!("{seeds}initial_nodes = 3\nelection_timeout = \"x\""),
                "cluster.election_timeout: \"x\" is not a duration",
            ),
            (format!("{seeds}initial_nodes = 3\ndead_after = \"9s\""), "cluster.dead_after must be \"10s\" or more"),
            (format!("{seeds}initial_nodes = 3\nfinalize_after = \"soon\""), "cluster.finalize_after"),
            (
                format!("{seeds}initial_nodes = 3\nnewest_format = 9"),
                "cluster.newest_format: this release reads formats 1 to 2",
            ),
            (format!("{seeds}initial_nodes = 3\nregion = \"a b\""), "cluster.region: \"a b\" is no name"),
            (format!("{seeds}initial_nodes = 3\nlabels = {{ disk = \"\" }}"), "cluster.labels: \"disk\" = \"\""),
            (format!("{seeds}initial_nodes = 3\nlog_retain_bytes = 1"), "cluster.log_retain_bytes must be 1048576"),
            (
                format!("{seeds}initial_nodes = 3\nseed_bytes_per_second = 0"),
                "cluster.seed_bytes_per_second must be 1048576",
            ),
            (format!("{seeds}initial_nodes = 3\nlog_retain_bytes = -1"), "expected u64"),
            (format!("{seeds}initial_nodes = 3\nadvertise = \":1\""), "cluster.advertise: \":1\" is no"),
            (format!("{seeds}initial_nodes = 3\nlisten = \"0.0.0.0:1\""), "cluster.advertise must say where"),
            (format!("{seeds}initial_nodes = 3\nlisten = \"10.0.0.1:1\""), "or cluster.insecure = true"),
            (
                format!("{seeds}initial_nodes = 3\ntls = \"on\""),
                "unknown variant `on`, expected one of `auto`, `files`, `off`",
            ),
        ];
        for (text, expected) in cases {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            // Those of the parser are made one line where the file is read.
            assert!(!error.contains('\n') || expected.contains("expected"), "{text}: {error}");
        }
    }
}
