//! What a cluster is founded with: the FORMING file, in which a node promises to be part of it, and the CLUSTER file once all have.
//!
//! ```text
//! cluster 67e55044-10b1-426f-9247-bb680e5fe0c8
//! name everlog
//! proposer 6fa459ea-ee8a-3ca4-894e-db77e160355e
//! attempt 1
//! partitions 6
//! election_timeout_ms 500
//! member 6fa459ea-ee8a-3ca4-894e-db77e160355e 10.0.0.7:7235
//! member 886313e1-3b8a-5372-9b90-0c9aee199e5d 10.0.0.8:7235
//! member 16fd2706-8baf-433b-82eb-8c7fada847da 10.0.0.9:7235
//! ```
//!
//! Members are named by the ids of their data directories, and get the node ids 1, 2, and so on, in this order. The same text goes from
//! node to node.

use std::path::Path;

use super::identity::write_synced;
use super::{DataDirectory, DirectoryError, exists, io_error, sync_directory};

const FORMING: &str = "FORMING";
const CLUSTER: &str = "CLUSTER";

/// The members that a text may name: more than any cluster begins with.
const MEMBERS_MAX: usize = 64;

/// What a cluster is founded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The id that the cluster is to have.
    pub cluster_id: uuid::Uuid,
    /// The name that its nodes have in their settings.
    pub name: String,
    /// The data directory of the node that proposes it.
    pub proposer: uuid::Uuid,
    /// Of several proposals of one node the last one counts.
    pub attempt: u32,
    /// How many partitions it begins with.
    pub partitions: u32,
    /// How long a leader may be silent until another one is elected, milliseconds. All nodes must mean the same, for leases follow from it.
    pub election_timeout_ms: u32,
    /// In the order of their node ids.
    pub members: Vec<FoundingMember>,
    /// The ids of the clusters that this one was made of what was left of, oldest first. Whoever is still in one of those is lost.
    pub former: Vec<uuid::Uuid>,
    /// Of a node that joined the cluster later: in its own directory alone.
    pub joined: Option<Joined>,
}

/// How a node came to a cluster that had been founded without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its id.
    pub node_id: u32,
    /// Itself.
    pub member: FoundingMember,
    /// The nodes that there were then, by their ids, and where they were: those of the founding may be gone.
    pub others: Vec<(u32, String)>,
}

/// A node that a cluster is founded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundingMember {
    /// Its data directory.
    pub directory_id: uuid::Uuid,
    /// Where other nodes dial it, `host:port`.
    pub address: String,
    /// How many disks of that node were lost before this one. In the directory of a node that took the place of one, of itself.
    pub disk: u32,
}

/// What a node answers to a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It takes part, durably, and in no other cluster unless the proposer itself says so.
    Given,
    /// It has given its word for this one.
    Elsewhere(Box<Founding>),
}

impl Founding {
    /// The node with that data directory, and how many disks it lost before that one.
    pub fn node(&self, directory_id: uuid::Uuid) -> Option<(u32, u32)> {
        if let Some(joined) = self.joined.as_ref().filter(|joined| joined.member.directory_id == directory_id) {
            return Some((joined.node_id, joined.member.disk));
        }
        let place = self.members.iter().position(|member| member.directory_id == directory_id)?;
        Some((u32::try_from(place + 1).ok()?, self.members[place].disk))
    }

    /// As text.
    pub fn encode(&self) -> String {
        let Founding { cluster_id, name, proposer, attempt, partitions, election_timeout_ms, members, former, joined } =
            self;
        let mut text = format!(
            "cluster {cluster_id}\nname {name}\nproposer {proposer}\nattempt {attempt}\npartitions {partitions}\n\
             election_timeout_ms {election_timeout_ms}\n"
        );
        let written = |FoundingMember { directory_id, address, disk }: &FoundingMember| {
            let disk = if *disk == 0 { String::new() } else { format!(" {disk}") };
            format!("{directory_id} {address}{disk}\n")
        };
        for member in members {
            text.push_str(&format!("member {}", written(member)));
        }
        for id in former {
            text.push_str(&format!("former {id}\n"));
        }
        if let Some(Joined { node_id, member, others }) = joined {
            text.push_str(&format!("joined {node_id} {}", written(member)));
            for (node_id, address) in others {
                text.push_str(&format!("node {node_id} {address}\n"));
            }
        }
        text
    }

    /// From text.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn decode(text: &str) -> Result<Founding, &'static str> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let number = |name: &str| value(name).and_then(|number| number.parse().ok()).filter(|number| *number > 0);
        let id = |name: &str| value(name).and_then(|id| id.parse().ok());
        let member = |line: &str| {
            let mut words = line.split(' ');
            let (directory_id, address) = (words.next()?.parse().ok()?, words.next()?.to_owned());
            let disk = words.next().map_or(Some(0), |disk| disk.parse().ok())?;
            words.next().is_none().then_some(FoundingMember { directory_id, address, disk })
        };
        let node = |line: &str| {
            let (node_id, rest) = line.split_once(' ')?;
            Some((node_id.parse().ok().filter(|id| *id > 0)?, rest.to_owned()))
        };
        let members = text.lines().filter_map(|line| line.strip_prefix("member ")).take(MEMBERS_MAX + 1).map(member);
        let members: Vec<_> = members.collect::<Option<_>>().ok_or("a member is no \"member <uuid> <host:port>\"")?;
        if members.is_empty() || members.len() > MEMBERS_MAX {
            return Err("it names no members, or too many");
        }
        let former = text.lines().filter_map(|line| line.strip_prefix("former ")).map(|id| id.parse().ok());
        let former = former.collect::<Option<_>>().ok_or("a former cluster is no \"former <uuid>\"")?;
        let joined = value("joined").map(|line| {
            let (node_id, rest) = node(line)?;
            let others = text.lines().filter_map(|line| line.strip_prefix("node ")).take(MEMBERS_MAX).map(node);
            Some(Joined { node_id, member: member(&rest)?, others: others.collect::<Option<_>>()? })
        });
        let joined = match joined {
            Some(None) => return Err("who joined is no \"joined <node> <uuid> <host:port>\""),
            joined => joined.flatten(),
        };
        Ok(Founding {
            cluster_id: id("cluster").ok_or("no line \"cluster <uuid>\"")?,
            name: value("name").ok_or("no line \"name <name>\"")?.to_owned(),
            proposer: id("proposer").ok_or("no line \"proposer <uuid>\"")?,
            attempt: number("attempt").ok_or("no line \"attempt <number>\"")?,
            partitions: number("partitions").ok_or("no line \"partitions <number>\"")?,
            election_timeout_ms: number("election_timeout_ms").ok_or("no line \"election_timeout_ms <number>\"")?,
            members,
            former,
            joined,
        })
    }
}

impl DataDirectory {
    /// The cluster that this node has given its word for, if it has.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::CorruptNode`] if the file makes no sense.
    pub fn promised(&self) -> Result<Option<Founding>, DirectoryError> {
        self.read_founding(FORMING)
    }

    /// The cluster that this node was founded with, if it was.
    ///
    /// # Errors
    ///
    /// As [`DataDirectory::promised`].
    pub fn founded(&self) -> Result<Option<Founding>, DirectoryError> {
        self.read_founding(CLUSTER)
    }

    /// Gives this node's word for a cluster, durably, unless it has been given for another one.
    ///
    /// A proposer may change its mind as long as the cluster is not founded; nobody else can.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written.
    pub fn promise(&self, founding: &Founding) -> Result<Promise, DirectoryError> {
        if let Some(founded) = self.founded()? {
            return Ok(if founded == *founding { Promise::Given } else { Promise::Elsewhere(Box::new(founded)) });
        }
        match self.promised()? {
            Some(known) if known == *founding => Ok(Promise::Given),
            Some(known) if known.proposer != founding.proposer || known.attempt >= founding.attempt => {
                Ok(Promise::Elsewhere(Box::new(known)))
            }
            _ => {
                self.write_founding(FORMING, founding)?;
                Ok(Promise::Given)
            }
        }
    }

    /// Writes down that the cluster is founded: all of its members have given their word.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn found(&self, founding: &Founding) -> Result<(), DirectoryError> {
        self.write_founding(CLUSTER, founding)?;
        // What was promised is kept. A leftover of it does no harm.
        let _ = std::fs::remove_file(self.path().join(FORMING));
        Ok(())
    }

    fn read_founding(&self, name: &str) -> Result<Option<Founding>, DirectoryError> {
        let path = self.path().join(name);
        if !exists(&path)? {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(io_error(&path, "read the file"))?;
        let corrupt = |why: &str| DirectoryError::CorruptNode { path: path.clone(), why: why.to_owned() };
        Founding::decode(&text).map(Some).map_err(corrupt)
    }

    fn write_founding(&self, name: &str, founding: &Founding) -> Result<(), DirectoryError> {
        let unfinished = self.path().join(format!("{name}.new"));
        write_synced(&unfinished, &founding.encode()).map_err(io_error(&unfinished, "write the file"))?;
        let path: &Path = &self.path().join(name);
        std::fs::rename(&unfinished, path).map_err(io_error(path, "replace the file"))?;
        sync_directory(self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> uuid::Uuid {
        uuid::Uuid::from_u128(number)
    }

    fn founding(proposer: u128, attempt: u32) -> Founding {
        let member =
            |number| FoundingMember { directory_id: id(number), address: format!("10.0.0.{number}:7235"), disk: 0 };
        let members = [3, 1, 2].map(member).to_vec();
        Founding {
            cluster_id: id(9),
            name: "my cluster".to_owned(),
            proposer: id(proposer),
            attempt,
            partitions: 6,
            election_timeout_ms: 500,
            members,
            former: Vec::new(),
            joined: None,
        }
    }

    #[test]
    fn text_is_read_as_it_was_written() {
        let written = founding(1, 2);
        assert_eq!(Founding::decode(&written.encode()), Ok(written.clone()));
        assert_eq!(written.node(id(1)), Some((2, 0)));
        assert_eq!(written.node(id(4)), None);
        let text = written.encode();
        for line in text.lines().filter(|line| !line.starts_with("member")) {
            Founding::decode(&text.replace(line, "")).unwrap_err();
        }
        Founding::decode(&text.replace("member", "membre")).unwrap_err();
        Founding::decode(&text.replace(" 10.0.0.2:7235", "")).unwrap_err();
        Founding::decode(&text.replace(" 10.0.0.2:7235", " 10.0.0.2:7235 x")).unwrap_err();
        Founding::decode(&text.replace(" 10.0.0.2:7235", " 10.0.0.2:7235 1 2")).unwrap_err();
    }

    #[test]
    fn a_disk_that_took_the_place_of_a_lost_one_is_counted() {
        let mut written = founding(1, 2);
        written.members[1].disk = 2;
        assert!(written.encode().contains("10.0.0.1:7235 2\n"));
        assert_eq!(Founding::decode(&written.encode()), Ok(written));
    }

    #[test]
    fn what_a_cluster_was_before_is_remembered() {
        let mut written = founding(1, 2);
        written.former = vec![id(5), id(6)];
        let text = written.encode();
        assert!(text.ends_with(&format!("former {}\nformer {}\n", id(5), id(6))), "{text}");
        assert_eq!(Founding::decode(&text), Ok(written));
        Founding::decode(&text.replace("former 0", "former x")).unwrap_err();
    }

    #[test]
    fn a_node_that_joined_knows_who_it_is_and_whom_it_met() {
        let mut written = founding(1, 2);
        let member = FoundingMember { directory_id: id(7), address: "10.0.0.7:7235".to_owned(), disk: 1 };
        let others = vec![(1, "10.0.0.3:7235".to_owned()), (6, "10.0.0.6:7235".to_owned())];
        written.joined = Some(Joined { node_id: 5, member, others });
        let text = written.encode();
        assert!(text.ends_with("10.0.0.7:7235 1\nnode 1 10.0.0.3:7235\nnode 6 10.0.0.6:7235\n"), "{text}");
        assert_eq!(Founding::decode(&text), Ok(written.clone()));
        assert_eq!((written.node(id(7)), written.node(id(1))), (Some((5, 1)), Some((2, 0))));
        for (text, other) in [("joined 5 ", "joined x "), ("node 6 ", "node 0 "), ("joined 5 ", "joined ")] {
            Founding::decode(&written.encode().replace(text, other)).unwrap_err();
        }
    }

    #[test]
    fn a_word_is_given_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(dir.path()).unwrap();
        assert_eq!(directory.promised().unwrap(), None);
        let first = founding(1, 1);
        assert_eq!(directory.promise(&first).unwrap(), Promise::Given);
        assert_eq!(directory.promise(&first).unwrap(), Promise::Given, "again");
        assert_eq!(directory.promise(&founding(2, 9)).unwrap(), Promise::Elsewhere(Box::new(first.clone())));
        let other = Founding { cluster_id: id(8), ..first.clone() };
        assert_eq!(directory.promise(&other).unwrap(), Promise::Elsewhere(Box::new(first)));
        // The proposer may propose something else.
        let second = founding(1, 2);
        assert_eq!(directory.promise(&second).unwrap(), Promise::Given);
        assert_eq!(directory.promised().unwrap(), Some(second.clone()));
        drop(directory);
        let directory = DataDirectory::open(dir.path()).unwrap();
        assert_eq!(directory.promised().unwrap(), Some(second.clone()));
        directory.found(&second).unwrap();
        assert_eq!((directory.founded().unwrap(), directory.promised().unwrap()), (Some(second.clone()), None));
        assert_eq!(directory.promise(&second).unwrap(), Promise::Given);
        assert_eq!(directory.promise(&founding(1, 3)).unwrap(), Promise::Elsewhere(Box::new(second)));
    }
}
