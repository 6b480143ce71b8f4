//! What certificates call nodes.

use std::fmt;
use std::path::Path;

use everlog_storage::NodeId;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::{TlsError, certificates};

/// What the names of the certificates begin with that `everlog cluster init` makes.
const NAME_PREFIX: &str = "spiffe://everlog/cluster/";

/// The name that a certificate of a node of a cluster has.
pub fn node_name(cluster: &str, node: NodeId) -> String {
    format!("{}/node/{node}", cluster_name(cluster))
}

fn cluster_name(cluster: &str) -> String {
    let mut name = NAME_PREFIX.to_owned();
    for byte in cluster.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => name.push(byte.into()),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

/// DNS names and URIs of a certificate.
pub(super) struct Names(Vec<String>);

/// The DNS names and URIs of the first certificate in a file.
///
/// # Errors
///
/// When no certificate can be read.
pub fn certificate_names(path: &Path) -> Result<Vec<String>, TlsError> {
    let names = Names::of(&certificates(path)?[0]);
    names.map(|names| names.0).map_err(|why| TlsError(format!("{}: {why}", path.display())))
}

impl Names {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Names, String> {
        let parsed = EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
        Ok(Names(parsed.valid_dns_names().chain(parsed.valid_uri_names()).map(str::to_owned).collect()))
    }

    pub(super) fn are_of(&self, cluster: &str, peer_names: &[String]) -> bool {
        if !peer_names.is_empty() {
            return self.0.iter().any(|name| peer_names.iter().any(|pattern| matches(pattern, name)));
        }
        let wanted = cluster_name(cluster);
        let is_of =
            |name: &String| name.strip_prefix(&wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.0.iter().any(is_of)
    }

    /// The node that they are the names of. Two of them are none.
    pub(super) fn node(&self, cluster: &str) -> Option<NodeId> {
        let prefix = format!("{}/node/", cluster_name(cluster));
        let mut nodes = self.0.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok().map(NodeId));
        nodes.next().filter(|node| nodes.all(|other| other == *node))
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [] => f.write_str("none"),
            names => f.write_str(&names.join(", ")),
        }
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    if let Some(suffix) = pattern.strip_prefix("*.") {
        return name
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix));
    }
    match pattern.strip_suffix("/*") {
        Some(prefix) => name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')),
        None => name.eq_ignore_ascii_case(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_a_cluster_and_of_a_node() {
        let names = |names: &[&str]| Names(names.iter().map(|name| (*name).to_owned()).collect());
        let of_node = names(&["node2.example", "spiffe://everlog/cluster/prod/node/2"]);
        assert!(of_node.are_of("prod", &[]) && !of_node.are_of("pro", &[]) && !of_node.are_of("production", &[]));
        assert_eq!((of_node.node("prod"), of_node.node("other")), (Some(NodeId(2)), None));
        let of_cluster = names(&["spiffe://everlog/cluster/our%20own"]);
        assert_eq!((of_cluster.are_of("our own", &[]), of_cluster.node("our own")), (true, None));
        let two = names(&["spiffe://everlog/cluster/prod/node/2", "spiffe://everlog/cluster/prod/node/3"]);
        assert_eq!((two.are_of("prod", &[]), two.node("prod")), (true, None));
        assert!(!names(&[]).are_of("prod", &[]));
        assert_eq!(node_name("our own", NodeId(7)), "spiffe://everlog/cluster/our%20own/node/7");
    }

    #[test]
    fn settings_may_name_other_names() {
        let cases = [
            ("*.svc.local", "a.svc.local", true),
            ("*.svc.local", "A.SVC.local", true),
            ("*.svc.local", "a.b.svc.local", false),
            ("*.svc.local", "svc.local", false),
            ("*.svc.local", ".svc.local", false),
            ("node1.example", "node1.example", true),
            ("node1.example", "node1.example.org", false),
            ("spiffe://prod/everlog/*", "spiffe://prod/everlog/3", true),
            ("spiffe://prod/everlog/*", "spiffe://prod/everlogs", false),
            ("spiffe://prod/everlog", "spiffe://prod/everlog/3", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(matches(pattern, name), expected, "{pattern} and {name}");
        }
    }
}
