//! The certificates that the nodes of a cluster prove to each other with who they are: an authority of the cluster's own, and one
//! certificate a node.
//!
//! ```text
//!   DIR/ca.crt       every node has it                      0644
//!   DIR/ca.key       no node needs it; makes new nodes      0600
//!   DIR/node-N.crt   node N's, with its id in its name      0644
//!   DIR/node-N.key   node N alone has it                    0600
//! ```

use std::fmt::Write as _;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Datelike};
use everlog_model::NodeId;
use everlog_transport::{certificate_names, certificate_of_authority, certificate_of_node, node_name};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType, SigningKey, date_time_ymd};

/// How long a node's certificate is valid where nobody says.
pub(super) const DAYS_DEFAULT: u32 = 365;
/// How long the authority's is.
const AUTHORITY_DAYS: u32 = 3650;
/// Clocks of nodes may differ.
const DAYS_BEFORE: u64 = 1;
/// More nodes than a cluster has.
const NODES_MAX: usize = 64;
/// Where nodes listen to each other where nobody says.
const PEER_PORT: u16 = 7235;

const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A node as it was named: its host, and the port where others dial it.
struct Host {
    host: String,
    port: u16,
}

/// Makes the files of a new cluster. Returns what to do with them.
///
/// # Errors
///
/// One line: a name that is none, a file that is there already, or what the system says.
pub(super) fn init(name: &str, nodes: &[String], dir: &Path, days: u32) -> Result<String, String> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err("--name must be a line of text".to_owned());
    }
    if nodes.len() > NODES_MAX {
        return Err(format!("--nodes names {} nodes, at most {NODES_MAX} can be", nodes.len()));
    }
    let hosts = nodes.iter().map(|node| host(node)).collect::<Result<Vec<_>, _>>()?;
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = certificate_of_authority();
    lasts(&mut params, AUTHORITY_DAYS);
    let certificate = params.self_signed(&key).map_err(failed)?;
    let mut files =
        vec![(dir.join("ca.crt"), certificate.pem(), PUBLIC), (dir.join("ca.key"), key.serialize_pem(), PRIVATE)];
    let issuer = Issuer::new(params, key);
    for (place, Host { host, .. }) in (1..).zip(&hosts) {
        let names = with_host(node_name(name, NodeId(place)), host);
        let (certificate, key) = of_names(&names, place, days, &issuer)?;
        files.push((dir.join(format!("node-{place}.crt")), certificate, PUBLIC));
        files.push((dir.join(format!("node-{place}.key")), key, PRIVATE));
    }
    if let Some((path, ..)) = files.iter().find(|(path, ..)| path.exists()) {
        return Err(format!("{} is there already, and nothing was written; name another --dir", path.display()));
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    for (path, text, mode) in &files {
        write_new(path, text, *mode)?;
    }
    Ok(next_steps(name, &hosts, dir, days))
}

/// Makes a certificate for one more node beside those in `dir`, with that id or the next one.
///
/// # Errors
///
/// As [`init`], and when there is no certificate of another node in `dir`, which says what the cluster is called.
pub(super) fn extend(dir: &Path, node: &str, id: Option<u32>, days: u32) -> Result<String, String> {
    let Host { host, .. } = host(node)?;
    let last = certified(dir)?
        .into_iter()
        .max()
        .ok_or_else(|| format!("there is no certificate of a node in {}", dir.display()))?;
    let known = dir.join(format!("node-{last}.crt"));
    let names = certificate_names(&known).map_err(|error| error.to_string())?;
    let of = format!("/node/{last}");
    let cluster = names.iter().find_map(|name| name.strip_suffix(&of));
    let cluster = cluster.ok_or_else(|| format!("{} does not say of which cluster it is", known.display()))?;
    let id = id.unwrap_or(last + 1);
    let (certificate, key) = (dir.join(format!("node-{id}.crt")), dir.join(format!("node-{id}.key")));
    if let Some(path) = [&certificate, &key].into_iter().find(|path| path.exists()) {
        return Err(format!("{} is there already, and nothing was written", path.display()));
    }
    let names = with_host(format!("{cluster}/node/{id}"), &host);
    let (text, key_text) = of_names(&names, id, days, &issuer(dir)?)?;
    write_new(&key, &key_text, PRIVATE)?;
    write_new(&certificate, &text, PUBLIC)?;
    Ok(format!(
        "Made {} and its key, valid until {}. Copy both, and ca.crt, to node {id}, start it with an empty data directory, and then:\n  \
         everlog cluster add --node {id} --directory ID, where its log says the ID\n",
        certificate.display(),
        day(days)
    ))
}

/// The nodes that have certificates in `dir`, in no order.
fn certified(dir: &Path) -> Result<Vec<u32>, String> {
    let entries = std::fs::read_dir(dir).map_err(|error| format!("cannot read {}: {error}", dir.display()))?;
    let id = |name: &str| name.strip_prefix("node-")?.strip_suffix(".crt")?.parse().ok();
    Ok(entries.flatten().filter_map(|entry| id(entry.file_name().to_str()?)).collect())
}

/// The authority whose key is in `dir`.
fn issuer(dir: &Path) -> Result<Issuer<'static, KeyPair>, String> {
    let path = dir.join("ca.key");
    let key = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let key = KeyPair::from_pem(&key).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Issuer::new(certificate_of_authority(), key))
}

/// Makes the certificates of all nodes in `dir` anew, with the names that they have.
///
/// # Errors
///
/// One line: a file that is missing or cannot be read, or what the system says.
pub(super) fn renew(dir: &Path, days: u32) -> Result<String, String> {
    let issuer = issuer(dir)?;
    let mut renewed = Vec::new();
    for place in certified(dir)? {
        let (certificate, key) = (dir.join(format!("node-{place}.crt")), dir.join(format!("node-{place}.key")));
        let names = certificate_names(&certificate).map_err(|error| error.to_string())?;
        let (text, key_text) = of_names(&names, place, days, &issuer)?;
        renewed.push((certificate, text, PUBLIC));
        renewed.push((key, key_text, PRIVATE));
    }
    if renewed.is_empty() {
        return Err(format!("there is no node-1.crt in {}", dir.display()));
    }
    // All of them are there before the first one takes its place.
    for (path, text, mode) in &renewed {
        let new = beside(path);
        // One may be left of an attempt before.
        let _ = std::fs::remove_file(&new);
        write_new(&new, text, *mode)?;
    }
    for (path, ..) in &renewed {
        let moved = std::fs::rename(beside(path), path);
        moved.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(format!(
        "Made {} certificates anew, valid until {}. Copy node-N.crt and node-N.key to node N, key first:\n\
         it reads them at its next connection, and needs no restart.\n",
        renewed.len() / 2,
        day(days)
    ))
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension(match path.extension() {
        Some(extension) => format!("{}.new", extension.display()),
        None => "new".to_owned(),
    })
}

/// The names of a node's certificate. Its host is for people and other tools: nodes do not look at hosts.
fn with_host(name: String, host: &str) -> Vec<String> {
    let is_ip = host.parse::<IpAddr>().is_ok();
    std::iter::once(name).chain((!is_ip).then(|| host.to_owned())).collect()
}

/// A certificate with these names, and its key, PEM both.
fn of_names(
    names: &[String],
    place: u32,
    days: u32,
    issuer: &Issuer<'_, impl SigningKey>,
) -> Result<(String, String), String> {
    let key = KeyPair::generate().map_err(failed)?;
    let names = names.iter().map(|name| alternative(name)).collect::<Result<_, _>>()?;
    let mut params = certificate_of_node(NodeId(place), names);
    lasts(&mut params, days);
    let certificate = params.signed_by(&key, issuer).map_err(failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn host(text: &str) -> Result<Host, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("--nodes: {text:?} has no port"))?)
        }
        _ => (text, PEER_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(format!("--nodes: {text:?} is no HOST or HOST:PORT"));
    }
    Ok(Host { host: host.to_owned(), port })
}

impl Host {
    fn address(&self) -> String {
        let Host { host, port } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

fn alternative(name: &str) -> Result<SanType, String> {
    let text = name.try_into().map_err(|_| format!("a certificate cannot have the name {name:?}"))?;
    Ok(if name.contains("://") { SanType::URI(text) } else { SanType::DnsName(text) })
}

fn lasts(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    let date = |at: SystemTime| {
        let at = date_of(at);
        // Months and days are small.
        date_time_ymd(at.year(), at.month() as u8, at.day() as u8)
    };
    params.not_before = date(now - Duration::from_secs(DAYS_BEFORE * DAY.as_secs()));
    params.not_after = date(now + days * DAY);
}

fn day(days: u32) -> String {
    date_of(SystemTime::now() + days * DAY).format("%Y-%m-%d").to_string()
}

fn date_of(at: SystemTime) -> DateTime<chrono::Utc> {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    DateTime::from_timestamp(i64::try_from(seconds).unwrap_or(0), 0).unwrap_or_default()
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = written.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn failed(error: impl std::fmt::Display) -> String {
    format!("cannot make a certificate: {error}")
}

fn next_steps(name: &str, hosts: &[Host], dir: &Path, days: u32) -> String {
    let dir = dir.display();
    let seeds: Vec<_> = hosts.iter().map(|host| format!("{:?}", host.address())).collect();
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = writeln!(text, "Made the certificates of cluster {name:?} in {dir}:\n");
    let _ = writeln!(text, "  ca.crt                    the cluster's certificate authority: every node needs it");
    let _ = writeln!(
        text,
        "  ca.key                    its key: whoever has it can make nodes. No node needs it: keep it safe"
    );
    for (place, host) in (1..).zip(hosts) {
        let files = format!("node-{place}.crt node-{place}.key");
        let _ = writeln!(text, "  {files:<25} node {place}, {}", host.address());
    }
    let _ = writeln!(
        text,
        "\nNext: copy ca.crt, node-N.crt and node-N.key to node N, and put this into its settings (deploy/everlog.toml):\n\n\
         [cluster]\nname = {name:?}\nseeds = [{}]\ninitial_nodes = {}\nlisten = \"0.0.0.0:{}\"\nadvertise = \"\"   \
         # this node's seed\n\n\
         [tls.node]\nca = \"ca.crt\"\ncertificate = \"node-N.crt\"\nkey = \"node-N.key\"\n\n\
         Then start all nodes with: everlog server --config FILE\n\
         The certificates of the nodes expire on {}; before that: everlog cluster renew --dir {dir}",
        seeds.join(", "),
        hosts.len(),
        hosts.first().map_or(PEER_PORT, |host| host.port),
        day(days),
    );
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use everlog_transport::{NodeTls, TlsFiles};

    use super::*;

    fn hosts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn open(dir: &Path, node: u32, cluster: &str) -> Result<NodeTls, String> {
        let (certificate, key) = (dir.join(format!("node-{node}.crt")), dir.join(format!("node-{node}.key")));
        let files = TlsFiles { ca: dir.join("ca.crt"), certificate, key, peer_names: Vec::new() };
        NodeTls::open(files, cluster).map_err(|error| error.to_string())
    }

    #[test]
    fn each_node_gets_what_it_needs_and_nobody_else_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("certificates");
        let said = init("our own", &hosts(&["n1.example", "10.0.0.2:99", "[::1]:7"]), &dir, 30).unwrap();
        for expected in
            ["seeds = [\"n1.example:7235\", \"10.0.0.2:99\", \"[::1]:7\"]", "initial_nodes = 3", "node-3.key"]
        {
            assert!(said.contains(expected), "{said}");
        }
        for node in 1..=3 {
            assert_eq!(open(&dir, node, "our own").unwrap().node(), Some(NodeId(node)));
            assert!(open(&dir, node, "other").unwrap_err().contains("no name"));
        }
        let mode = |name: &str| std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("ca.key"), mode("node-1.key"), mode("ca.crt"), mode("node-1.crt")),
            (0o600, 0o600, 0o644, 0o644)
        );
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("node-2.key"), "precious").unwrap();
        let error = init("prod", &hosts(&["a", "b"]), dir.path(), 30).unwrap_err();
        assert!(error.contains("node-2.key is there already, and nothing was written"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_to_string(dir.path().join("node-2.key")).unwrap(), "precious");
    }

    #[test]
    fn certificates_are_renewed_with_their_names_and_new_keys() {
        let dir = tempfile::tempdir().unwrap();
        init("prod", &hosts(&["a.example", "10.0.0.2", "::1"]), dir.path(), 2).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let before = [read("node-1.crt"), read("node-3.key"), read("ca.crt")];
        let names_of = |node: &str| certificate_names(&dir.path().join(node)).unwrap();
        let names = names_of("node-1.crt");
        assert_eq!(names, ["a.example", "spiffe://everlog/cluster/prod/node/1"]);
        let said = renew(dir.path(), 30).unwrap();
        assert!(said.contains("Made 3 certificates anew") && said.contains(&day(30)), "{said}");
        let after = [read("node-1.crt"), read("node-3.key"), read("ca.crt")];
        assert!(before[0] != after[0] && before[1] != after[1] && before[2] == after[2]);
        assert_eq!(names_of("node-1.crt"), names);
        for node in 1..=3 {
            assert_eq!(open(dir.path(), node, "prod").unwrap().node(), Some(NodeId(node)));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 8, "nothing is left beside");

        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        assert!(renew(dir.path(), 30).unwrap_err().contains("ca.key: No such file"));
    }

    #[test]
    fn a_node_that_joins_gets_a_certificate_of_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        assert!(extend(dir.path(), "d.example", None, 2).unwrap_err().contains("no certificate of a node"));
        init("prod", &hosts(&["a.example", "10.0.0.2", "::1"]), dir.path(), 2).unwrap();
        let said = extend(dir.path(), "d.example:7235", None, 2).unwrap();
        assert!(said.contains("everlog cluster add --node 4 --directory"), "{said}");
        assert_eq!(open(dir.path(), 4, "prod").unwrap().node(), Some(NodeId(4)));
        let names = certificate_names(&dir.path().join("node-4.crt")).unwrap();
        assert_eq!(names, ["d.example", "spiffe://everlog/cluster/prod/node/4"]);
        extend(dir.path(), "10.0.0.9", Some(100), 2).unwrap();
        assert_eq!(open(dir.path(), 100, "prod").unwrap().node(), Some(NodeId(100)));
        assert!(extend(dir.path(), "e.example", Some(4), 2).unwrap_err().contains("is there already"));
        assert!(extend(dir.path(), "e/x", None, 2).unwrap_err().contains("is no HOST"));
        assert!(extend(dir.path(), "e.example", None, 2).unwrap().contains("--node 101"));
        assert!(renew(dir.path(), 30).unwrap().contains("Made 6 certificates anew"));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let cases = [
            ("", "a", "--name must be a line of text"),
            ("a\nb", "a", "--name must be a line of text"),
            ("a", "", "is no HOST or HOST:PORT"),
            ("a", "b c", "is no HOST or HOST:PORT"),
            ("a", "b:0", "has no port"),
            ("a", "b:x", "has no port"),
        ];
        for (name, node, expected) in cases {
            let error = init(name, &hosts(&[node]), dir.path(), 30).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
        assert!(renew(dir.path(), 30).unwrap_err().contains("cannot read"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
