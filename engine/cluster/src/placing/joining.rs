//! Who may join and who is certified, where a cluster is its own authority: decided on the metadata by whoever leads them.

use everlog_meta::{
    ClusterAuthority, MetaError, NodeCertificate, TOKENS_MAX, TokenRow, TokenScope, TokenUse, Topology, TopologyChange,
};
use everlog_model::NodeId;

use super::{Picture, Places, places};

/// Somebody who asks for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// Its data directory.
    pub directory_id: uuid::Uuid,
    /// Where it is dialled, `host:port`.
    pub address: String,
    /// What it has proven.
    pub by: EnrolledBy,
}

/// What somebody has proven who asks for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnrolledBy {
    /// That it knows the secret that founders share.
    Secret,
    /// That it has a token.
    Token(u64),
    /// That it is a node: it has a certificate already.
    Node(NodeId),
}

/// What the metadata are to say of how nodes prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The authority, if none is known.
    Authority(ClusterAuthority),
    /// The certificate of a node.
    Certificate(NodeId, NodeCertificate),
    /// A new token.
    Token(u64, TokenRow),
    /// A token that is taken back.
    NoToken(u64),
}

impl Places {
    /// Gives somebody a place in the cluster, or finds the one that it has, if it may have a certificate. Returns which node it is and how many disks
    /// that has lost before. Only where the metadata are led.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] with the reason if it may not, and see there.
    pub async fn enrol(&self, enrolment: &Enrolment, now_ms: u64) -> Result<(NodeId, u32), MetaError> {
        self.change_with(|picture, topology| enrolled(picture, topology, enrolment, now_ms)).await
    }

    /// Writes something down, if that is not so already. Only where the metadata are led.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] with the reason if it must not be, and see there.
    pub async fn note(&self, note: &Note, now_ms: u64) -> Result<(), MetaError> {
        self.change_with(|_, topology| noted(topology, note, now_ms).map(|changes| (changes, ()))).await
    }
}

fn enrolled(
    picture: &Picture,
    topology: &Topology,
    enrolment: &Enrolment,
    now_ms: u64,
) -> Result<(Vec<TopologyChange>, (NodeId, u32)), String> {
    let Enrolment { directory_id, address, by } = enrolment;
    let place = picture.node_with(*directory_id);
    let no_place =
        || format!("an operator has to say which node it is: everlog cluster add --directory {directory_id}");
    match by {
        EnrolledBy::Node(node) => match place {
            Some((known, disk)) if known == *node => Ok((Vec::new(), (known, disk))),
            _ => Err(format!("{directory_id} is not the data directory of node {node}")),
        },
        EnrolledBy::Secret => {
            let (node, disk) = place.ok_or_else(no_place)?;
            let has_one = topology.certificates.get(&node).is_some_and(|known| known.directory_id == *directory_id);
            if has_one {
                return Err(format!(
                    "node {node} has had a certificate, for which the join secret is good once; a token gets it another one: everlog \
                     cluster token create"
                ));
            }
            Ok((Vec::new(), (node, disk)))
        }
        EnrolledBy::Token(id) => {
            let row = good(topology, *id, *directory_id, now_ms)?;
            let TokenScope { host, replaces } = &row.scope;
            if !host.is_empty() && host_of(address) != host {
                return Err(format!("the join token is for {host}, and this node is dialled at {address}"));
            }
            let (mut changes, (node, disk)) = match (place, replaces) {
                (Some((node, _)), Some(replaced)) if node != *replaced => {
                    return Err(format!(
                        "the join token is for a new disk of node {replaced}, and this is node {node}"
                    ));
                }
                (Some(place), _) => (Vec::new(), place),
                (None, Some(replaced)) => {
                    return Err(format!(
                        "an operator has to say so: everlog cluster replace --node {replaced} --directory {directory_id}"
                    ));
                }
                (None, None) => {
                    let changes = places::joins(picture, *directory_id, address, None)?;
                    let node = changes.iter().find_map(|change| match change {
                        TopologyChange::Node(node, _) => Some(*node),
                        _ => None,
                    });
                    (changes, (node.ok_or("it has joined already")?, 0))
                }
            };
            let used = TokenUse { directory_id: *directory_id, node, at_ms: now_ms };
            if row.used.is_none() {
                changes.push(TopologyChange::Token(*id, TokenRow { used: Some(used), ..row.clone() }));
            }
            Ok((changes, (node, disk)))
        }
    }
}

/// The token, if this data directory may use it. It has proven that it knows the token's secret.
fn good(topology: &Topology, id: u64, directory_id: uuid::Uuid, now_ms: u64) -> Result<&TokenRow, String> {
    let row = topology.tokens.get(&id).ok_or("the join token was taken back")?;
    match row.used {
        Some(used) if used.directory_id != directory_id => {
            Err(format!("the join token was used by node {}: each needs its own", used.node))
        }
        _ if row.expires_ms <= now_ms => Err("the join token has expired".to_owned()),
        _ => Ok(row),
    }
}

fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

fn noted(topology: &Topology, note: &Note, now_ms: u64) -> Result<Vec<TopologyChange>, String> {
    match note {
        Note::Authority(authority) => match &topology.authority {
            Some(known) if known != authority => Err("the cluster has another authority".to_owned()),
            Some(_) => Ok(Vec::new()),
            None => Ok(vec![TopologyChange::Authority(authority.clone())]),
        },
        Note::Certificate(node, certificate) => match topology.certificates.get(node) {
            Some(known) if known == certificate => Ok(Vec::new()),
            _ => Ok(vec![TopologyChange::Certificate(*node, certificate.clone())]),
        },
        Note::Token(id, row) => {
            let over = topology.tokens_over(now_ms);
            if topology.tokens.len() - over.len() >= TOKENS_MAX {
                return Err(format!("a cluster has no more than {TOKENS_MAX} join tokens: take some back"));
            }
            let over = over.into_iter().map(TopologyChange::NoToken);
            Ok(over.chain([TopologyChange::Token(*id, row.clone())]).collect())
        }
        Note::NoToken(id) => match topology.tokens.contains_key(id) {
            true => Ok(vec![TopologyChange::NoToken(*id)]),
            false => Err(format!("there is no join token {id:016x}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::founding;
    use super::*;

    const NOW: u64 = 1_000_000;

    fn token(scope: TokenScope) -> TokenRow {
        TokenRow { key: [7; 32], created_ms: 0, expires_ms: NOW + 1, scope, used: None }
    }

    fn topology(tokens: &[(u64, TokenRow)]) -> Topology {
        let mut topology = Topology::default();
        topology.tokens.extend(tokens.iter().cloned());
        topology
    }

    /// Who it is, once what comes of it is written down.
    fn enrols(topology: &mut Topology, directory: u128, by: EnrolledBy, now_ms: u64) -> Result<u32, String> {
        let directory_id = uuid::Uuid::from_u128(directory);
        let enrolment = Enrolment { directory_id, address: "n4:7235".to_owned(), by };
        let picture = Picture::new(&founding(3, 6), topology);
        let (changes, (node, _)) = enrolled(&picture, topology, &enrolment, now_ms)?;
        for change in changes {
            match change {
                TopologyChange::Node(node, row) => drop(topology.nodes.insert(node, row)),
                TopologyChange::Token(id, row) => drop(topology.tokens.insert(id, row)),
                other => panic!("{other:?}"),
            }
        }
        Ok(node.0)
    }

    #[test]
    fn a_token_lets_one_data_directory_join() {
        let topology = &mut topology(&[(1, token(TokenScope::default())), (2, token(TokenScope::default()))]);
        let by = EnrolledBy::Token;
        assert_eq!(enrols(topology, 40, by(1), NOW), Ok(4));
        assert_eq!(enrols(topology, 40, by(1), NOW), Ok(4), "the answer was lost");
        let why = enrols(topology, 50, by(1), NOW).unwrap_err();
        assert_eq!(why, "the join token was used by node 4: each needs its own");
        assert_eq!(topology.tokens[&1].used.unwrap().node, NodeId(4));
        assert_eq!(enrols(topology, 50, by(2), NOW + 1).unwrap_err(), "the join token has expired");
        assert_eq!(enrols(topology, 50, by(3), NOW).unwrap_err(), "the join token was taken back");
        assert_eq!(enrols(topology, 50, by(2), NOW), Ok(5));
        // One whose certificate has expired is the node that it was.
        topology.tokens.insert(6, token(TokenScope::default()));
        assert_eq!(enrols(topology, 2, by(6), NOW), Ok(2));
        topology.nodes.get_mut(&NodeId(4)).unwrap().membership = everlog_meta::Membership::Removed;
        topology.tokens.insert(7, token(TokenScope::default()));
        assert!(enrols(topology, 40, by(7), NOW).unwrap_err().contains("was removed"));
        assert_eq!(topology.tokens[&7].used, None);
    }

    #[test]
    fn a_token_may_be_for_one_host_or_one_disk() {
        let scope =
            |host: &str, replaces: Option<u32>| TokenScope { host: host.to_owned(), replaces: replaces.map(NodeId) };
        let tokens = [(1, token(scope("n5", None))), (2, token(scope("n4", None))), (3, token(scope("", Some(3))))];
        let topology = &mut topology(&tokens);
        let by = EnrolledBy::Token;
        assert!(enrols(topology, 40, by(1), NOW).unwrap_err().contains("is for n5, and this node is dialled at n4:"));
        assert_eq!(enrols(topology, 40, by(2), NOW), Ok(4));
        assert!(enrols(topology, 40, by(3), NOW).unwrap_err().contains("for a new disk of node 3, and this is node 4"));
        let why = enrols(topology, 50, by(3), NOW).unwrap_err();
        assert!(why.contains("everlog cluster replace --node 3 --directory"), "{why}");
        let directory_id = uuid::Uuid::from_u128(50);
        topology.disks.insert(NodeId(3), everlog_meta::NodeDisk { directory_id, number: 1 });
        assert_eq!(enrols(topology, 50, by(3), NOW), Ok(3));
    }

    #[test]
    fn the_secret_is_good_once_for_each_disk_that_has_a_place() {
        let topology = &mut topology(&[]);
        assert_eq!(enrols(topology, 2, EnrolledBy::Secret, NOW), Ok(2));
        assert_eq!(enrols(topology, 2, EnrolledBy::Secret, NOW), Ok(2), "it has not said yet that it has one");
        assert!(enrols(topology, 40, EnrolledBy::Secret, NOW).unwrap_err().contains("an operator has to say"));
        let certificate = NodeCertificate { directory_id: uuid::Uuid::from_u128(2), expires_ms: NOW };
        let note = Note::Certificate(NodeId(2), certificate.clone());
        assert_eq!(noted(topology, &note, NOW).unwrap().len(), 1);
        topology.certificates.insert(NodeId(2), certificate);
        assert_eq!(noted(topology, &note, NOW), Ok(Vec::new()));
        assert!(enrols(topology, 2, EnrolledBy::Secret, NOW).unwrap_err().contains("everlog cluster token create"));
        assert_eq!(enrols(topology, 2, EnrolledBy::Node(NodeId(2)), NOW), Ok(2));
        assert!(enrols(topology, 2, EnrolledBy::Node(NodeId(1)), NOW).is_err());
    }

    #[test]
    fn there_is_one_authority_and_tokens_are_not_without_end() {
        let authority = |key: &str| ClusterAuthority { certificate: "c".to_owned(), key: key.to_owned() };
        let mut known = topology(&[]);
        assert_eq!(noted(&known, &Note::Authority(authority("a")), NOW).unwrap().len(), 1);
        known.authority = Some(authority("a"));
        assert_eq!(noted(&known, &Note::Authority(authority("a")), NOW), Ok(Vec::new()));
        assert!(noted(&known, &Note::Authority(authority("b")), NOW).unwrap_err().contains("another authority"));

        let row = token(TokenScope::default());
        let all: Vec<_> = (0..TOKENS_MAX as u64).map(|id| (id, row.clone())).collect();
        let (full, new) = (topology(&all), Note::Token(1 << 40, row));
        assert!(noted(&full, &new, NOW).unwrap_err().contains("no more than 1000 join tokens"));
        let month = 30 * 24 * 60 * 60 * 1000;
        assert_eq!(noted(&full, &new, NOW + month).unwrap().len(), TOKENS_MAX + 1, "those of old are forgotten");
        assert_eq!(noted(&full, &Note::NoToken(3), NOW).unwrap(), [TopologyChange::NoToken(3)]);
        assert_eq!(noted(&full, &Note::NoToken(1 << 50), NOW).unwrap_err(), "there is no join token 0004000000000000");
    }
}
