//! How nodes that know each other's addresses found a cluster, once and for ever.
//!
//! ```text
//!   FRESH ── sees exactly as many fresh nodes as are wanted, with the same name
//!     ├─ smallest directory id ──▶ PROPOSING: asks all of them for their word ──all give it──▶ FOUNDED
//!     └─ the others: give it once, durably ──▶ PROMISED ──the proposer says that it is founded──▶ FOUNDED
//! ```
//!
//! All must give their word, and it is given to one proposer only. So no two clusters are ever founded by one set of nodes, however they
//! are cut off from each other. When a node is missing, the others wait, and say for whom.
//!
//! A node that finds a cluster which was founded without its data directory waits until an operator has it join as another node, or take the place
//! of a member whose disk is lost; or it joins by a token.
//!
//! Where a cluster is its own certificate authority, whoever has no certificate asks for one in the same way: by the secret that founders share,
//! or by a token. Whoever is asked passes that on ([`Enrolments`]).

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use everlog_model::{NodeId, limits};
use everlog_storage::directory::{DataDirectory, DirectoryError, Founding, FoundingMember, Joined, Promise};
use everlog_transport::{Answer, Contact, Hello, Mesh, Proof, Stranger, StrangerCalls};
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use prost::Message;

/// The kinds of calls that nodes which are in no cluster yet answer.
const LOOK: u8 = 48;
const PROMISE: u8 = 49;
const ENROL: u8 = 50;

/// How often a node looks whom it sees.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long ago a node that waits for a place may have asked for it.
const ASKING_TIME: Duration = Duration::from_secs(10);
/// How soon it says once more what it waits for; each time twice as long, up to the longest.
const SAY_INTERVAL: Duration = Duration::from_secs(10);
const SAY_INTERVAL_MAX: Duration = Duration::from_secs(600);
/// How long a proposal waits for all of its members before another one is made.
const PROPOSAL_TIME_MAX: Duration = Duration::from_secs(30);

/// What a node says of itself as long as there is no cluster.
#[derive(Clone, PartialEq, Message)]
struct Seen {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    initial_nodes: u32,
    /// The cluster that it has given its word for, as text; empty if it has not.
    #[prost(string, tag = "3")]
    promised: String,
    /// The cluster that it is in, as text; empty if it is in none.
    #[prost(string, tag = "4")]
    founded: String,
    #[prost(uint32, tag = "5")]
    election_timeout_ms: u32,
    /// The node that whoever looks is, and how many disks that has lost before; 0 if it is none.
    #[prost(uint32, tag = "6")]
    node_id: u32,
    #[prost(uint32, tag = "7")]
    disk: u32,
    /// The nodes that there are, once the cluster is founded.
    #[prost(message, repeated, tag = "8")]
    nodes: Vec<SeenNode>,
}

#[derive(Clone, PartialEq, Message)]
struct SeenNode {
    #[prost(uint32, tag = "1")]
    node_id: u32,
    #[prost(string, tag = "2")]
    address: String,
}

#[derive(Clone, PartialEq, Message)]
struct PromiseAnswer {
    #[prost(bool, tag = "1")]
    is_given: bool,
    /// Why not.
    #[prost(string, tag = "2")]
    why: String,
}

#[derive(Clone, PartialEq, Message)]
struct EnrolAnswer {
    /// Why not; empty if it is given.
    #[prost(string, tag = "1")]
    why: String,
    #[prost(uint32, tag = "2")]
    node_id: u32,
    #[prost(string, tag = "3")]
    certificate: String,
    #[prost(string, tag = "4")]
    authority: String,
    #[prost(string, tag = "5")]
    authority_key: String,
}

/// Somebody without a certificate who asks for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolling {
    /// What it has proven to know.
    pub contact: Contact,
    /// Its data directory.
    pub directory_id: uuid::Uuid,
    /// Where it is dialled, `host:port`.
    pub address: String,
    /// Its signing request.
    pub request: Bytes,
}

/// What it gets.
#[derive(Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The node that it is.
    pub node: NodeId,
    /// Its certificate, PEM.
    pub certificate: String,
    /// That of the cluster's authority, PEM.
    pub authority: String,
    /// The authority's key, PEM, as long as the metadata do not have it: any founder may be left to write it down. Empty otherwise.
    pub authority_key: String,
}

/// Certifies those who may have a certificate, or says why they may not.
pub type Enrolments = Box<dyn Fn(Enrolling) -> BoxFuture<'static, Result<Enrolled, String>> + Send + Sync>;

/// What somebody is told who looks for its cluster with a data directory that this was founded without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The node that it is, and how many disks that has lost before this one, if an operator has said so.
    pub place: Option<(NodeId, u32)>,
    /// The nodes that there are, and where.
    pub nodes: Vec<(NodeId, String)>,
}

/// Tells whose a data directory is.
pub type Admissions = Box<dyn Fn(uuid::Uuid) -> Admission + Send + Sync>;

/// What the settings say of the cluster that a node is to be part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormationOptions {
    /// The name that all nodes of the cluster have in their settings.
    pub name: String,
    /// Addresses of nodes, `host:port`; this one's may be among them.
    pub seeds: Vec<String>,
    /// How many nodes found the cluster.
    pub initial_nodes: u32,
    /// How long a leader may be silent, milliseconds.
    pub election_timeout_ms: u32,
    /// Where this node is dialled.
    pub address: String,
    /// Whether it asks to join by a token, so that no operator has to say that it may.
    pub has_token: bool,
}

/// A node that looks for its cluster, and helps others to find it.
pub struct Formation {
    directory: Arc<DataDirectory>,
    options: FormationOptions,
    /// The data directories that were seen last, without this one, with where they are; none unless all are fresh and of one mind.
    seen: Mutex<BTreeMap<uuid::Uuid, String>>,
    /// Promises are given one by one.
    promising: Mutex<()>,
    /// Known once the metadata is.
    admissions: OnceLock<Admissions>,
    /// What certifies founders before the metadata are there, if this node can.
    early_enrolments: OnceLock<Enrolments>,
    enrolments: OnceLock<Enrolments>,
    /// The data directories that have asked for a place, when they did last, and where they are dialled.
    asking: Mutex<BTreeMap<uuid::Uuid, (tokio::time::Instant, String)>>,
}

impl Formation {
    /// A node with this data directory. It answers others through `mesh` from now on.
    pub fn start(directory: Arc<DataDirectory>, options: FormationOptions, mesh: &Mesh) -> Arc<Formation> {
        let formation = Arc::new(Formation {
            directory,
            options,
            seen: Mutex::default(),
            promising: Mutex::default(),
            admissions: OnceLock::new(),
            early_enrolments: OnceLock::new(),
            enrolments: OnceLock::new(),
            asking: Mutex::default(),
        });
        mesh.answer_strangers(Arc::clone(&formation) as _);
        formation
    }

    /// Waits until the cluster is founded with this node, and tells with which others.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written.
    pub async fn founded(&self, mesh: &Mesh) -> Result<Founding, DirectoryError> {
        let mut said = String::new();
        let mut say_again = tokio::time::Instant::now();
        let mut interval = SAY_INTERVAL;
        let mut proposed_at = tokio::time::Instant::now();
        loop {
            if let Some(founding) = self.directory.founded()? {
                return Ok(founding);
            }
            let waits_for = self.step(mesh, &mut proposed_at).await?;
            if let Some(waits_for) = waits_for {
                if said != waits_for {
                    interval = SAY_INTERVAL;
                }
                if said != waits_for || say_again <= tokio::time::Instant::now() {
                    tracing::info!(waits_for, "the cluster is not founded yet");
                    say_again = tokio::time::Instant::now() + interval;
                    interval = (2 * interval).min(SAY_INTERVAL_MAX);
                    said = waits_for;
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
    }

    /// Tells data directories that joined, or took the place of lost disks, whose they are, from now on.
    pub fn admit(&self, admissions: Admissions) {
        // They are named once.
        let _ = self.admissions.set(admissions);
    }

    /// Those who ask for certificates get them by this, until there is something better.
    pub fn enrol_founders(&self, enrolments: Enrolments) {
        // They are named once.
        let _ = self.early_enrolments.set(enrolments);
    }

    /// Those who ask for certificates get them by this, from now on.
    pub fn enrol(&self, enrolments: Enrolments) {
        // They are named once.
        let _ = self.enrolments.set(enrolments);
    }

    /// Asks whoever is at an address for a certificate.
    ///
    /// # Errors
    ///
    /// Why there is none, one line.
    pub async fn ask_for_certificate(mesh: &Mesh, address: &str, request: Bytes) -> Result<Enrolled, String> {
        let (_, answer) = mesh.call_stranger(address, ENROL, request).await.map_err(|error| error.to_string())?;
        let answer = EnrolAnswer::decode(answer).map_err(|error| error.to_string())?;
        let EnrolAnswer { why, node_id, certificate, authority, authority_key } = answer;
        match why.is_empty() {
            true => Ok(Enrolled { node: NodeId(node_id), certificate, authority, authority_key }),
            false => Err(why),
        }
    }

    /// Somebody asks for a certificate.
    fn asked_for_certificate(&self, from: &Stranger, request: Bytes, answer: Answer) {
        let say = |why: &str| EnrolAnswer { why: why.to_owned(), ..EnrolAnswer::default() };
        let Proof::Contact(contact, directory_id) = from.proof else {
            return answer.send(say("it has not proven that it may have one").encode_to_vec().into());
        };
        let Some(enrolments) = self.enrolments.get().or(self.early_enrolments.get()) else {
            return answer.send(say("this node makes no certificates yet").encode_to_vec().into());
        };
        let address = from.hello.address.clone();
        let enrolled = enrolments(Enrolling { contact, directory_id, address, request });
        tokio::spawn(async move {
            let answered = match enrolled.await {
                Ok(Enrolled { node, certificate, authority, authority_key }) => {
                    EnrolAnswer { why: String::new(), node_id: node.0, certificate, authority, authority_key }
                }
                Err(why) => EnrolAnswer { why, ..EnrolAnswer::default() },
            };
            answer.send(answered.encode_to_vec().into());
        });
    }

    /// The data directories that nodes wait with for a place, and where these nodes are dialled.
    pub fn waiting(&self) -> Vec<(uuid::Uuid, String)> {
        let asking = self.asking.lock();
        let waiting = asking.iter().filter(|(_, (asked, _))| asked.elapsed() < ASKING_TIME);
        waiting.map(|(directory_id, (_, address))| (*directory_id, address.clone())).collect()
    }

    /// Goes as far as it can now. Returns what it waits for, if it does.
    async fn step(
        &self,
        mesh: &Mesh,
        proposed_at: &mut tokio::time::Instant,
    ) -> Result<Option<String>, DirectoryError> {
        let me = self.directory.id();
        let looked = self.look(mesh).await;
        // Somebody may be further already.
        let foundings = looked.iter().filter_map(|(_, _, seen)| Founding::decode(&seen.founded).ok());
        let foundings: Vec<_> = foundings.collect();
        let promised = self.directory.promised()?;
        if let Some(mine) = foundings.iter().find(|founding| promised.as_ref() == Some(founding)) {
            self.directory.found(mine)?;
            return Ok(None);
        }
        if let Some(founding) = foundings.into_iter().next() {
            return self.take_place(founding, &looked);
        }
        let fresh = self.fresh(&looked);
        *self.seen.lock() = fresh.clone().unwrap_or_default();
        match promised {
            Some(promised) if promised.proposer != me => {
                let proposer = promised.members.iter().find(|member| member.directory_id == promised.proposer);
                let address = proposer.map_or("an unknown node", |member| member.address.as_str());
                Ok(Some(format!("{address}, which has this node's word, to say that all have given theirs")))
            }
            Some(promised) if fresh.is_err() || proposed_at.elapsed() < PROPOSAL_TIME_MAX => {
                let missing = self.ask_all(mesh, &promised).await;
                if !missing.is_empty() {
                    return Ok(Some(format!("the word of {}", missing.join(", "))));
                }
                self.directory.found(&promised)?;
                Ok(None)
            }
            promised => {
                let others = match fresh {
                    Ok(others) => others,
                    Err(why) => return Ok(Some(why)),
                };
                if others.keys().any(|other| *other < me) {
                    return Ok(Some("another node to propose the cluster".to_owned()));
                }
                let founding = self.propose(others, promised.map_or(0, |promised| promised.attempt));
                *proposed_at = tokio::time::Instant::now();
                match self.directory.promise(&founding)? {
                    Promise::Given => Ok(None),
                    Promise::Elsewhere(_) => Ok(Some("a proposal that was made before".to_owned())),
                }
            }
        }
    }

    /// Becomes a member of a cluster that was founded without this data directory, if an operator has said which one.
    fn take_place(
        &self,
        mut founding: Founding,
        looked: &[(uuid::Uuid, String, Seen)],
    ) -> Result<Option<String>, DirectoryError> {
        founding.joined = None;
        let is_of_it =
            |seen: &&Seen| Founding::decode(&seen.founded).is_ok_and(|other| other.cluster_id == founding.cluster_id);
        let admissions = looked.iter().map(|(_, _, seen)| seen).filter(|seen| seen.node_id > 0).filter(is_of_it);
        let (me, address) = (self.directory.id(), self.options.address.clone());
        let Some(Seen { node_id, disk, nodes, .. }) = admissions.max_by_key(|seen| seen.disk) else {
            let cluster_id = founding.cluster_id;
            if self.options.has_token {
                return Ok(Some(format!(
                    "a node of cluster {cluster_id} to take the join token of this one, whose data directory is {me}"
                )));
            }
            // A node with its address is likely the one whose disk is lost. Of several the last one has it now.
            let nodes = looked.iter().map(|(_, _, seen)| seen).filter(is_of_it).flat_map(|seen| &seen.nodes);
            let here = nodes.filter(|node| node.address == address).map(|node| node.node_id).max();
            let node = here.map_or("N".to_owned(), |node| node.to_string());
            return Ok(Some(format!(
                "an operator: cluster {cluster_id} was founded without this data directory. If this is another node: everlog cluster add \
                 --directory {me}. If the disk of node {node} is lost and this is its new one: everlog cluster replace --node {node} --directory {me}"
            )));
        };
        let member = FoundingMember { directory_id: me, address, disk: *disk };
        if let Some(founder) = founding.members.get_mut(*node_id as usize - 1) {
            *founder = member.clone();
        }
        // Founders may be gone, and whoever leads the metadata may be none of them.
        let others = nodes.iter().filter(|node| node.node_id != *node_id);
        let others = others.map(|node| (node.node_id, node.address.clone())).collect();
        founding.joined = Some(Joined { node_id: *node_id, member, others });
        tracing::info!(node = node_id, disk, "this data directory is that of a node from now on");
        self.directory.found(&founding)?;
        Ok(None)
    }

    /// Everybody who is at a seed's address, but this node itself.
    async fn look(&self, mesh: &Mesh) -> Vec<(uuid::Uuid, String, Seen)> {
        let asked = self.options.seeds.iter().map(|seed| async move {
            let (hello, answer) = mesh.call_stranger(seed, LOOK, Bytes::new()).await.ok()?;
            let directory_id = uuid::Uuid::from_slice(&hello.directory_id).ok()?;
            Some((directory_id, hello.address, Seen::decode(answer).ok()?))
        });
        let me = self.directory.id();
        join_all(asked).await.into_iter().flatten().filter(|(directory_id, ..)| *directory_id != me).collect()
    }

    /// The other nodes that are to found the cluster, if all are there and of one mind.
    fn fresh(&self, looked: &[(uuid::Uuid, String, Seen)]) -> Result<BTreeMap<uuid::Uuid, String>, String> {
        let FormationOptions { name, initial_nodes, election_timeout_ms, .. } = &self.options;
        let said = |name: &str, nodes: &u32, timeout: &u32| {
            format!("name {name:?}, initial_nodes {nodes}, election_timeout {timeout} ms")
        };
        let mine = said(name, initial_nodes, election_timeout_ms);
        for (_, address, seen) in looked {
            let theirs = said(&seen.name, &seen.initial_nodes, &seen.election_timeout_ms);
            if theirs != mine {
                return Err(format!("{address} to have the same settings: it has {theirs}; this node {mine}"));
            }
        }
        let fresh: BTreeMap<_, _> = looked.iter().map(|(id, address, _)| (*id, address.clone())).collect();
        let wanted = *initial_nodes as usize - 1;
        if wanted == 0 && self.options.seeds.iter().any(|seed| *seed != self.options.address) {
            // Whoever does not answer may be in a cluster already.
            return Err(
                "its other seeds, which it is to join; with none but itself it would found a cluster of one".to_owned()
            );
        }
        match fresh.len() {
            found if found == wanted => Ok(fresh),
            found if found < wanted => {
                let there: Vec<_> = fresh.values().map(String::as_str).collect();
                let there = if there.is_empty() { "nobody".to_owned() } else { there.join(", ") };
                Err(format!("{} of {wanted} other nodes; there: {there}", wanted - found))
            }
            found => {
                Err(format!("somebody to say which: initial_nodes is {initial_nodes}, but {} are there", found + 1))
            }
        }
    }

    fn propose(&self, others: BTreeMap<uuid::Uuid, String>, attempt_before: u32) -> Founding {
        let FormationOptions { name, seeds, initial_nodes, election_timeout_ms, address, .. } = &self.options;
        let me = FoundingMember { directory_id: self.directory.id(), address: address.clone(), disk: 0 };
        let others =
            others.into_iter().map(|(directory_id, address)| FoundingMember { directory_id, address, disk: 0 });
        let mut members: Vec<_> = std::iter::once(me).chain(others).collect();
        // Node 1 is the first seed, and so on, where seeds are what nodes are dialled by.
        members.sort_by_key(|member| {
            let place = seeds.iter().position(|seed| *seed == member.address);
            (place.unwrap_or(usize::MAX), member.directory_id)
        });
        Founding {
            cluster_id: uuid::Uuid::new_v4(),
            name: name.clone(),
            proposer: self.directory.id(),
            attempt: attempt_before + 1,
            partitions: limits::PARTITIONS_DEFAULT.max(2 * initial_nodes),
            election_timeout_ms: *election_timeout_ms,
            members,
            former: Vec::new(),
            joined: None,
        }
    }

    /// Asks all members for their word, and returns who has not given it.
    async fn ask_all(&self, mesh: &Mesh, founding: &Founding) -> Vec<String> {
        let me = self.directory.id();
        let text = Bytes::from(founding.encode());
        let others = founding.members.iter().filter(|member| member.directory_id != me);
        let asked = others.map(|member| {
            let text = text.clone();
            async move {
                let given = match mesh.call_stranger(&member.address, PROMISE, text).await {
                    Ok((hello, answer)) if hello.directory_id == member.directory_id.as_bytes() => {
                        match PromiseAnswer::decode(answer) {
                            Ok(PromiseAnswer { is_given: true, .. }) => Ok(()),
                            Ok(PromiseAnswer { why, .. }) => Err(why),
                            Err(error) => Err(error.to_string()),
                        }
                    }
                    Ok(_) => Err("another data directory is there".to_owned()),
                    Err(error) => Err(error.to_string()),
                };
                given.err().map(|why| format!("{} ({why})", member.address))
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    fn seen_by(&self, from: &Hello) -> Result<Seen, DirectoryError> {
        let text = |founding: Option<&Founding>| founding.map(Founding::encode).unwrap_or_default();
        let founded = self.directory.founded()?;
        let admission = founded.as_ref().and_then(|_| self.admission(from));
        let (place, nodes) = admission.map_or((None, Vec::new()), |admission| (admission.place, admission.nodes));
        let (node_id, disk) = place.map_or((0, 0), |(node, disk)| (node.0, disk));
        let nodes = nodes.into_iter().map(|(node, address)| SeenNode { node_id: node.0, address }).collect();
        Ok(Seen {
            name: self.options.name.clone(),
            initial_nodes: self.options.initial_nodes,
            election_timeout_ms: self.options.election_timeout_ms,
            promised: text(self.directory.promised()?.as_ref()),
            founded: text(founded.as_ref()),
            node_id,
            disk,
            nodes,
        })
    }

    /// What is known of somebody who looks for its cluster. It waits until an operator says who it is.
    fn admission(&self, from: &Hello) -> Option<Admission> {
        let directory_id = uuid::Uuid::from_slice(&from.directory_id).ok()?;
        let mut asking = self.asking.lock();
        asking.retain(|_, (asked, _)| asked.elapsed() < ASKING_TIME);
        asking.insert(directory_id, (tokio::time::Instant::now(), from.address.clone()));
        drop(asking);
        self.admissions.get().map(|admissions| admissions(directory_id))
    }

    /// Gives this node's word, if it sees the same nodes as whoever asks for it.
    fn promise(&self, text: &[u8]) -> Result<(), String> {
        let founding = std::str::from_utf8(text).map_err(|error| error.to_string())?;
        let founding = Founding::decode(founding).map_err(str::to_owned)?;
        let _turn = self.promising.lock();
        let me = self.directory.id();
        let known = [self.directory.founded(), self.directory.promised()];
        let is_known = known.into_iter().any(|known| matches!(known, Ok(Some(known)) if known == founding));
        if !is_known {
            let others = founding.members.iter().map(|member| member.directory_id).filter(|id| *id != me);
            let others: std::collections::BTreeSet<_> = others.collect();
            let seen: std::collections::BTreeSet<_> = self.seen.lock().keys().copied().collect();
            let is_for_me = founding.node(me).is_some() && founding.name == self.options.name;
            if !is_for_me || others != seen {
                return Err("it does not see the same nodes".to_owned());
            }
        }
        match self.directory.promise(&founding) {
            Ok(Promise::Given) => Ok(()),
            Ok(Promise::Elsewhere(other)) => Err(format!("it has given its word for cluster {}", other.cluster_id)),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl StrangerCalls for Formation {
    fn answer(&self, from: &Stranger, kind: u8, body: Bytes, answer: Answer) {
        if kind == ENROL {
            return self.asked_for_certificate(from, body, answer);
        }
        // A few small files are read and at most one is written, once in the life of a cluster.
        let bytes = tokio::task::block_in_place(|| match kind {
            LOOK => self.seen_by(&from.hello).ok().map(|seen| seen.encode_to_vec()),
            PROMISE => {
                let given = self.promise(&body);
                let why = given.as_ref().err().cloned().unwrap_or_default();
                Some(PromiseAnswer { is_given: given.is_ok(), why }.encode_to_vec())
            }
            _ => None,
        });
        if let Some(bytes) = bytes {
            answer.send(bytes.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use everlog_transport::{Abilities, Links as _, MeshOptions, Timing};
    use tokio::net::TcpListener;

    use super::*;

    struct Node {
        dir: tempfile::TempDir,
        address: String,
    }

    struct Running {
        formation: Arc<Formation>,
        mesh: Mesh,
    }

    fn nodes(count: usize) -> Vec<Node> {
        let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        (0..count).map(|_| Node { dir: tempfile::tempdir().unwrap(), address: port().to_string() }).collect()
    }

    async fn start(node: &Node, all: &[Node], name: &str) -> Running {
        let directory = Arc::new(DataDirectory::open(node.dir.path()).unwrap());
        let listener = TcpListener::bind(&node.address).await.unwrap();
        let options = MeshOptions {
            directory_id: directory.id(),
            address: node.address.clone(),
            timing: Timing::default(),
            tls: None,
            abilities: Abilities::default(),
        };
        let mesh = Mesh::start(options, listener);
        let options = FormationOptions {
            name: name.to_owned(),
            seeds: all.iter().map(|node| node.address.clone()).collect(),
            initial_nodes: u32::try_from(all.len()).unwrap(),
            election_timeout_ms: 500,
            address: node.address.clone(),
            has_token: false,
        };
        Running { formation: Formation::start(directory, options, &mesh), mesh }
    }

    async fn founded(running: &Running) -> Founding {
        let founded = running.formation.founded(&running.mesh);
        tokio::time::timeout(Duration::from_secs(60), founded).await.expect("in time").unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn three_nodes_found_one_cluster_in_whatever_order_they_start() {
        let nodes = nodes(3);
        let first = start(&nodes[2], &nodes, "x").await;
        let waits = tokio::time::timeout(Duration::from_secs(2), first.formation.founded(&first.mesh)).await;
        assert!(waits.is_err(), "one of three founds nothing: {waits:?}");
        let second = start(&nodes[0], &nodes, "x").await;
        let two = async { tokio::join!(founded(&first), founded(&second)) };
        assert!(tokio::time::timeout(Duration::from_secs(2), two).await.is_err(), "nor do two");
        let third = start(&nodes[1], &nodes, "x").await;
        let (a, b, c) = tokio::join!(founded(&first), founded(&second), founded(&third));
        assert_eq!((&a, &b), (&b, &c));
        let addresses: Vec<_> = a.members.iter().map(|member| &member.address).collect();
        assert_eq!(addresses, nodes.iter().map(|node| &node.address).collect::<Vec<_>>(), "node ids follow the seeds");
        assert_eq!(a.partitions, 6);
        for running in [first, second, third] {
            running.mesh.shutdown().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_dies_after_its_word_is_waited_for_and_a_new_disk_is_left_out() {
        let mut nodes = nodes(3);
        let mut all = Vec::new();
        for node in &nodes {
            all.push(start(node, &nodes, "x").await);
        }
        // Steps by hand, so that one dies in between.
        let mut proposer = None;
        for _ in 0..50 {
            for (at, running) in all.iter().enumerate() {
                let mut now = tokio::time::Instant::now();
                running.formation.step(&running.mesh, &mut now).await.unwrap();
                if running.formation.directory.promised().unwrap().is_some() && proposer.is_none() {
                    proposer = Some(at);
                }
            }
            if proposer.is_some() {
                break;
            }
        }
        let at = proposer.expect("somebody proposes");
        let running = all.remove(at);
        running.mesh.shutdown().await;
        drop(running);
        let others = async { tokio::join!(founded(&all[0]), founded(&all[1])) };
        assert!(tokio::time::timeout(Duration::from_secs(2), others).await.is_err(), "two found nothing");
        let back = start(&nodes[at], &nodes, "x").await;
        let (a, b, c) = tokio::join!(founded(&back), founded(&all[0]), founded(&all[1]));
        assert_eq!((&a, &b), (&b, &c));
        back.mesh.shutdown().await;
        drop(back);
        // The same address with an empty disk is not the same node.
        nodes[at].dir = tempfile::tempdir().unwrap();
        let wiped = start(&nodes[at], &nodes, "x").await;
        let waits = tokio::time::timeout(Duration::from_secs(3), wiped.formation.founded(&wiped.mesh)).await;
        assert!(waits.is_err(), "{waits:?}");
        assert_eq!(wiped.formation.directory.promised().unwrap(), None);
        for running in all.iter().chain([&wiped]) {
            running.mesh.shutdown().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nodes_with_other_settings_found_nothing_together() {
        let nodes = nodes(3);
        let all = [
            start(&nodes[0], &nodes, "x").await,
            start(&nodes[1], &nodes, "x").await,
            start(&nodes[2], &nodes, "y").await,
        ];
        let together = async { tokio::join!(founded(&all[0]), founded(&all[1]), founded(&all[2])) };
        assert!(tokio::time::timeout(Duration::from_secs(3), together).await.is_err());
        for running in &all {
            running.mesh.shutdown().await;
        }
    }
}
