//! How a node of a cluster that is its own certificate authority gets its certificate, and keeps it good.
//!
//! ```text
//! <data directory>/tls/ca.crt     the authority's certificate
//! <data directory>/tls/ca.key     its key: on founders, until the metadata have it
//! <data directory>/tls/node.pem   this node's certificate and key, in one file, so that both change at once
//! ```
//!
//! The node that proposed the cluster makes the authority, and certifies the other founders as soon as the cluster is founded, for without
//! certificates there are no metadata. From then on these name the authority, and whoever leads them certifies: nodes that join, and each
//! node again when two thirds of its certificate's time are over. Files are readable by the owner of the data directory alone.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use everlog_cluster::{Enrolled, Enrolling, Enrolments, Formation, Operations, Places};
use everlog_meta::{ClusterAuthority, NodeCertificate};
use everlog_model::NodeId;
use everlog_proto::internal::{EnrolRequest, EnrolResponse};
use everlog_storage::directory::{DataDirectory, Founding};
use everlog_transport::{
    Authority, Contact, ContactKey, Credential, FirstContact, JoinToken, Mesh, NodeTls, SigningRequest, TlsError,
    TlsFiles,
};
use futures::FutureExt;

use crate::node::NodeError;

/// How long a certificate is valid where nobody says.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A shorter secret could be guessed.
const SECRET_CHARS_MIN: usize = 16;

/// How often is looked at what has to wait for others, and how often at what only changes with time.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// How often a node says once more what it waits for.
const SAY_INTERVAL: Duration = Duration::from_secs(30);

/// What the settings say of a cluster that is its own authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoTls {
    /// The file with the secret that founders share.
    pub join_secret_file: Option<PathBuf>,
    /// The file with a token that lets this node join.
    pub join_token_file: Option<PathBuf>,
    /// The token itself.
    pub join_token: Option<JoinToken>,
    /// How long certificates are valid that this node makes.
    pub certificate_lifetime: Duration,
}

/// The certificate of a node, and where it comes from.
pub struct Enrolment {
    dir: PathBuf,
    directory_id: uuid::Uuid,
    cluster: String,
    address: String,
    lifetime: Duration,
    tls: Arc<NodeTls>,
}

impl Enrolment {
    /// What a node with this data directory has, and can get a certificate with. `address` is where others dial it.
    ///
    /// # Errors
    ///
    /// When the directory cannot be used, or a file that is needed cannot be read.
    pub(crate) fn open(
        directory: &DataDirectory,
        cluster: &str,
        address: &str,
        auto: &AutoTls,
    ) -> Result<Enrolment, NodeError> {
        let dir = directory.path().join("tls");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| failed(&dir, &error))?;
        let secret = auto.join_secret_file.as_deref().map(read_secret).transpose();
        let token = match (&auto.join_token, &auto.join_token_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, file) => file.as_deref().map(read_token).transpose(),
        };
        let credential = match (&token, &secret) {
            (Ok(Some(token)), _) => Some(Credential::Token(token.clone())),
            (_, Ok(Some(secret))) => Some(Credential::Secret(*secret)),
            _ => None,
        };
        let known = secret.as_ref().ok().copied().flatten();
        let contact = FirstContact::new(credential, known).map_err(|error| NodeError::Cluster(error.to_string()))?;
        let node = dir.join("node.pem");
        let files = TlsFiles { ca: dir.join("ca.crt"), certificate: node.clone(), key: node, peer_names: Vec::new() };
        let tls = Arc::new(NodeTls::of_its_own(files, cluster, contact));
        // Whoever has a certificate needs neither, and may have been rid of them.
        for problem in [secret.err(), token.err()].into_iter().flatten() {
            if tls.validity().is_none() {
                return Err(NodeError::Cluster(problem));
            }
            tracing::info!(problem, "this node has its certificate, and can do without");
        }
        let (cluster, address) = (cluster.to_owned(), address.to_owned());
        let (directory_id, lifetime) = (directory.id(), auto.certificate_lifetime);
        Ok(Enrolment { dir, directory_id, cluster, address, lifetime, tls })
    }

    /// What the node proves itself with.
    pub(crate) fn tls(&self) -> &Arc<NodeTls> {
        &self.tls
    }

    /// How long certificates are valid that this node makes.
    pub(crate) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Whether the node is to join by a token.
    pub(crate) fn has_token(&self) -> bool {
        let credential = self.tls.contact().and_then(FirstContact::credential);
        matches!(credential, Some(Credential::Token(_))) && self.tls.validity().is_none()
    }

    /// Makes the cluster's authority, unless there is one: only whoever founds the cluster may.
    pub(crate) fn found_authority(&self) -> Result<(), NodeError> {
        if self.dir.join("ca.crt").exists() {
            return Ok(());
        }
        let authority = Authority::make().map_err(wrong)?;
        // A key without its certificate is of no use, and is written over.
        self.write("ca.key", &authority.key())?;
        self.write("ca.crt", authority.certificate())?;
        tracing::info!("the cluster has a certificate authority of its own");
        Ok(())
    }

    /// The authority, if this node has its key.
    fn authority(&self) -> Result<Option<Authority>, NodeError> {
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name));
        match (read("ca.crt"), read("ca.key")) {
            (Ok(certificate), Ok(key)) => Authority::of(certificate, &key).map(Some).map_err(wrong),
            _ => Ok(None),
        }
    }

    /// Asks the nodes at these addresses for a place and a certificate by this node's token until it has both.
    pub(crate) async fn join(&self, mesh: &Mesh, seeds: &[String]) -> Result<(), NodeError> {
        let seeds: BTreeSet<_> = seeds.iter().cloned().collect();
        self.ask(mesh, &seeds).await
    }

    /// Waits until this node, which a cluster was founded with or has taken in, has a certificate.
    pub(crate) async fn certified(
        &self,
        directory: &DataDirectory,
        mesh: &Mesh,
        formation: &Formation,
        founding: &Founding,
        me: NodeId,
    ) -> Result<(), NodeError> {
        let has_served = directory.identity()?.is_some();
        if founding.proposer == self.directory_id && !has_served {
            self.found_authority()?;
        }
        let authority = self.authority()?.map(Arc::new);
        if let Some(authority) = &authority {
            formation.enrol_founders(self.founders(authority, founding));
        }
        if self.tls.validity().is_none() {
            if let Some(authority) = authority {
                let SigningRequest { key, request } = SigningRequest::make().map_err(wrong)?;
                let certificate = authority.certify(&request, &self.cluster, me, self.lifetime).map_err(wrong)?;
                self.write("node.pem", &(certificate + &key))?;
                self.tls.read().map_err(wrong)?;
            } else if has_served && !self.dir.join("ca.crt").exists() && !self.has_token() {
                return Err(NodeError::Cluster(format!(
                    "cluster {:?} was founded without cluster.tls = \"auto\", and {} has no certificate: set cluster.tls as it was",
                    self.cluster,
                    self.dir.display()
                )));
            } else {
                let members = founding.members.iter().map(|member| &member.address);
                let met = founding.joined.iter().flat_map(|joined| &joined.others).map(|(_, address)| address);
                self.ask(mesh, &members.chain(met).cloned().collect()).await?;
            }
        }
        match self.tls.node() {
            Some(node) if node == me => Ok(()),
            _ => Err(NodeError::Cluster(format!(
                "{} is not the certificate of node {me}, which this data directory is of",
                self.tls.certificate().display()
            ))),
        }
    }

    /// Certifies the nodes that the cluster is founded with, by the secret that they share.
    fn founders(&self, authority: &Arc<Authority>, founding: &Founding) -> Enrolments {
        let (authority, founding) = (Arc::clone(authority), founding.clone());
        let (cluster, lifetime) = (self.cluster.clone(), self.lifetime);
        Box::new(move |Enrolling { contact, directory_id, request, .. }| {
            let place = founding.members.iter().position(|member| member.directory_id == directory_id);
            let node = place.and_then(|place| u32::try_from(place + 1).ok()).map(NodeId);
            let enrolled = match (contact, node) {
                (Contact::Secret, Some(node)) => {
                    let certificate = authority.certify(&request, &cluster, node, lifetime);
                    certificate.map_err(|error| error.to_string()).map(|certificate| Enrolled {
                        node,
                        certificate,
                        authority: authority.certificate().to_owned(),
                        authority_key: authority.key(),
                    })
                }
                _ => Err("only founders get certificates until the metadata are there".to_owned()),
            };
            async move { enrolled }.boxed()
        })
    }

    /// Asks whoever is at these addresses until one of them gives this node a certificate.
    async fn ask(&self, mesh: &Mesh, addresses: &BTreeSet<String>) -> Result<(), NodeError> {
        let SigningRequest { key, request } = SigningRequest::make().map_err(wrong)?;
        let request = Bytes::from(request);
        let (mut said, mut said_at) = (String::new(), tokio::time::Instant::now());
        loop {
            let mut problems = Vec::new();
            for address in addresses.iter().filter(|address| **address != self.address) {
                match Formation::ask_for_certificate(mesh, address, request.clone()).await {
                    Ok(enrolled) => return self.take(&key, enrolled),
                    Err(why) => problems.push(format!("{address}: {why}")),
                }
            }
            let problems = problems.join("; ");
            if said != problems || said_at.elapsed() > SAY_INTERVAL {
                tracing::info!(problems, "this node has no certificate yet");
                (said, said_at) = (problems, tokio::time::Instant::now());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn take(&self, key: &str, enrolled: Enrolled) -> Result<(), NodeError> {
        let Enrolled { node, certificate, authority, authority_key } = enrolled;
        if let Some(contact) = self.tls.contact() {
            contact.check_authority(&authority).map_err(wrong)?;
        }
        if !authority_key.is_empty() {
            self.write("ca.key", &authority_key)?;
        }
        self.write("ca.crt", &authority)?;
        self.write("node.pem", &(certificate + key))?;
        self.tls.read().map_err(wrong)?;
        tracing::info!(%node, "this node has a certificate");
        Ok(())
    }

    /// Takes tokens of others from now on, and passes on to whoever leads the metadata that they ask for certificates.
    pub(crate) fn serve(
        &self,
        founding: &Founding,
        places: &Arc<Places>,
        operations: &Arc<Operations>,
    ) -> Result<Enrolments, NodeError> {
        let known = Arc::downgrade(operations);
        if let Some(contact) = self.tls.contact() {
            contact.take_tokens(Box::new(move |id| known.upgrade()?.known_token(id)));
        }
        let founders = self.authority()?.map(|authority| self.founders(&Arc::new(authority), founding));
        let (places, operations) = (Arc::clone(places), Arc::downgrade(operations));
        Ok(Box::new(move |enrolling| {
            // Until the metadata name it, nobody may be able to write that down without those who ask.
            if let Some(founders) = founders.as_ref().filter(|_| places.topology().authority.is_none()) {
                return founders(enrolling);
            }
            let operations = operations.upgrade();
            async move {
                let Enrolling { contact, directory_id, address, request } = enrolling;
                let directory_id = Bytes::copy_from_slice(directory_id.as_bytes());
                let token = match contact {
                    Contact::Token(id) => Some(id.0),
                    Contact::Secret => None,
                };
                let operations = operations.ok_or("this node is stopping")?;
                let asked = operations.enrol(EnrolRequest { directory_id, address, token, node: 0, request }).await;
                let EnrolResponse { node, certificate, authority } =
                    asked.map_err(|status| status.message().to_owned())?;
                Ok(Enrolled { node: NodeId(node), certificate, authority, authority_key: String::new() })
            }
            .boxed()
        }))
    }

    /// Has the metadata know the authority and this node's certificate, and renews that in time, for as long as it is polled.
    pub(crate) async fn keep(self: Arc<Enrolment>, me: NodeId, places: Arc<Places>, operations: Arc<Operations>) {
        loop {
            let wait = match self.step(me, &places, &operations).await {
                Ok(wait) => wait,
                Err(why) => {
                    tracing::info!(why, "the certificate of this node waits for the metadata");
                    LOOK_INTERVAL
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Does what there is to do now. Returns when to look again.
    async fn step(&self, me: NodeId, places: &Places, operations: &Operations) -> Result<Duration, String> {
        let said = |status: tonic::Status| status.message().to_owned();
        let topology = places.topology();
        match (&topology.authority, self.authority().map_err(|error| error.to_string())?) {
            (None, Some(authority)) => {
                let (certificate, key) = (authority.certificate().to_owned(), authority.key());
                operations.note_authority(&ClusterAuthority { certificate, key }).await.map_err(said)?;
                return Ok(Duration::ZERO);
            }
            (None, None) => return Ok(LOOK_INTERVAL),
            // It lies in the rows from now on.
            (Some(_), Some(_)) => drop(std::fs::remove_file(self.dir.join("ca.key"))),
            (Some(_), None) => {}
        }
        let Some((begins, expires)) = self.tls.validity() else { return Ok(LOOK_INTERVAL) };
        let since = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let expires_ms = u64::try_from(since).unwrap_or(u64::MAX);
        let certificate = NodeCertificate { directory_id: self.directory_id, expires_ms };
        if topology.certificates.get(&me) != Some(&certificate) {
            operations.note_certificate(&certificate).await.map_err(said)?;
        }
        let renew_at = begins + expires.duration_since(begins).unwrap_or_default() * 2 / 3;
        if let Ok(wait) = renew_at.duration_since(SystemTime::now()) {
            return Ok(wait.clamp(LOOK_INTERVAL, LOOK_INTERVAL_MAX));
        }
        let SigningRequest { key, request } = SigningRequest::make().map_err(|error| error.to_string())?;
        let request = EnrolRequest {
            directory_id: Bytes::copy_from_slice(self.directory_id.as_bytes()),
            address: self.address.clone(),
            token: None,
            node: me.0,
            request: request.into(),
        };
        let EnrolResponse { certificate, authority, .. } = operations.enrol(request).await.map_err(said)?;
        let written = self.write("ca.crt", &authority).and_then(|()| self.write("node.pem", &(certificate + &key)));
        written.map_err(|error| error.to_string())?;
        self.tls.read().map_err(|error| error.to_string())?;
        tracing::info!("the certificate of this node was renewed");
        Ok(Duration::ZERO)
    }

    /// Writes a file that only the owner can read, whole or not at all.
    fn write(&self, name: &str, text: &str) -> Result<(), NodeError> {
        let (path, new) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        let written = || {
            // One may be left of an attempt before.
            let _ = std::fs::remove_file(&new);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        written().map_err(|error: std::io::Error| failed(&path, &error))
    }
}

fn failed(path: &Path, error: &std::io::Error) -> NodeError {
    NodeError::Cluster(format!("{}: {error}", path.display()))
}

fn wrong(error: TlsError) -> NodeError {
    NodeError::Cluster(format!("cluster.tls = \"auto\": {error}"))
}

fn read_secret(path: &Path) -> Result<ContactKey, String> {
    let secret = read("cluster.join_secret_file", path)?;
    match secret.chars().count() {
        chars if chars < SECRET_CHARS_MIN => Err(format!(
            "cluster.join_secret_file: {} has {chars} characters, and a secret {SECRET_CHARS_MIN} or more: openssl rand -hex 32",
            path.display()
        )),
        _ => Ok(ContactKey::of_secret(&secret)),
    }
}

fn read_token(path: &Path) -> Result<JoinToken, String> {
    const KEY: &str = "cluster.join_token_file";
    read(KEY, path)?.parse().map_err(|why| format!("{KEY}: {} holds no join token: {why}", path.display()))
}

fn read(key: &str, path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path);
    text.map(|text| text.trim().to_owned()).map_err(|error| format!("{key}: cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(dir: &Path) -> AutoTls {
        AutoTls {
            join_secret_file: Some(dir.join("secret")),
            join_token_file: None,
            join_token: None,
            certificate_lifetime: CERTIFICATE_LIFETIME,
        }
    }

    #[test]
    fn what_a_node_cannot_get_a_certificate_with_is_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(&dir.path().join("data")).unwrap();
        let open = |auto: &AutoTls| Enrolment::open(&directory, "x", "a:1", auto).err().map(|error| error.to_string());
        let why = open(&auto(dir.path())).unwrap();
        assert!(why.contains("cluster.join_secret_file: cannot read") && why.contains("No such file"), "{why}");
        std::fs::write(dir.path().join("secret"), "too short\n").unwrap();
        let why = open(&auto(dir.path())).unwrap();
        assert!(why.contains("has 9 characters, and a secret 16 or more"), "{why}");
        let by_token = AutoTls { join_token_file: Some(dir.path().join("secret")), ..auto(dir.path()) };
        std::fs::write(dir.path().join("secret"), "long enough to be a secret").unwrap();
        let why = open(&by_token).unwrap();
        assert!(why.contains("holds no join token: it does not begin with \"everlog-join-1.\""), "{why}");
        assert_eq!(open(&auto(dir.path())), None);
    }

    #[test]
    fn a_node_with_a_certificate_needs_no_secret_and_its_key_is_its_owners() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(&dir.path().join("data")).unwrap();
        let (auto, secret) = (auto(dir.path()), dir.path().join("secret"));
        std::fs::write(&secret, "long enough to be a secret").unwrap();
        let enrolment = Enrolment::open(&directory, "x", "a:1", &auto).unwrap();
        enrolment.found_authority().unwrap();
        let authority = enrolment.authority().unwrap().unwrap();
        enrolment.found_authority().unwrap();
        assert_eq!(enrolment.authority().unwrap().unwrap().key(), authority.key(), "it is made once");
        let SigningRequest { key, request } = SigningRequest::make().unwrap();
        let certificate = authority.certify(&request, "x", NodeId(4), CERTIFICATE_LIFETIME).unwrap();
        let (authority, authority_key) = (authority.certificate().to_owned(), String::new());
        enrolment.take(&key, Enrolled { node: NodeId(4), certificate, authority, authority_key }).unwrap();
        assert_eq!(enrolment.tls.node(), Some(NodeId(4)));
        std::fs::remove_file(secret).unwrap();
        let again = Enrolment::open(&directory, "x", "a:1", &auto).unwrap();
        assert_eq!(again.tls.node(), Some(NodeId(4)));
        for (name, mode) in [("", 0o700), ("node.pem", 0o600), ("ca.key", 0o600)] {
            let path = directory.path().join("tls").join(name);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{path:?}");
        }
    }
}
