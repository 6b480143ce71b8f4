//! `everlog cluster`: makes what nodes prove themselves with, and shows and steers a cluster as a client of any of its nodes.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use everlog_proto::cluster::{
    AddNodeRequest, ClusterServiceClient, DescribeClusterRequest, DescribeClusterResponse, DrainNodeRequest,
    FinalizeFormatsRequest, FinalizeFormatsResponse, RemoveNodeRequest, ReplaceDiskRequest, TransferLeadsRequest,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::certificates::{self, DAYS_DEFAULT};
use super::cluster_view as view;
use super::namespaces::NamespacesArgs;
use super::placements::PlacementCommand;
use super::recover::RecoverCommand;
use super::tls::TlsArgs;
use super::tokens::TokenCommand;

const INIT_EXAMPLE: &str = "\
Example:
  everlog cluster init --name prod --nodes n1.example.com n2.example.com n3.example.com --dir certificates";

const TRANSFER_EXAMPLES: &str = "\
Examples:
  everlog cluster transfer --group 3 --to 2    node 2 leads group 3, and keeps it until it restarts or loses it
  everlog cluster transfer --from 1 --to 2     the same for all groups that node 1 leads
  everlog cluster transfer --from 2 --back     each goes to the node that should lead it";

const REPLACE_EXAMPLE: &str = "\
The node is started with the new directory first: it waits, and its log says the id of that. What the lost disk held is on the others; the
node gets it from them. The lost disk is the node's no more, for ever, even if it is found again.

Example:
  everlog cluster replace --node 3 --directory 6f1c1f9e-6c39-4a43-8a0c-3f6a4d3c9f10 --address n1.example.com:7233";

const ADD_EXAMPLE: &str = "\
The node is started first, with an empty data directory and nodes of the cluster as its seeds: it waits, and its log says the id of the
directory. Once it is added it gets its share of the replicas, a few at a time.

Example:
  everlog cluster add --directory 6f1c1f9e-6c39-4a43-8a0c-3f6a4d3c9f10 --address n1.example.com:7233";

const REMOVE_EXAMPLES: &str = "\
The node may be up or lost. What it has goes to the others, a few groups at a time; then it leaves for good, and its process ends. Its id is
never used again.

Examples:
  everlog cluster remove --node 2 --address n1.example.com:7233
  everlog cluster remove --node 2 --undo    it stays after all, if it has not left yet";

const FINALIZE_EXAMPLES: &str = "\
By itself the cluster does so a day after the last node has been started with the new release (cluster.finalize_after): until then each node can
go back to the release before. Nodes that are down count by what they said when they ran.

Examples:
  everlog cluster finalize --address n1.example.com:7233
  everlog cluster finalize --without-node 3    node 3 is lost, and was not started with the new release";

/// What the library says when an answer is not there in time.
const LATE: &str = "Timeout expired";

/// How long a connection may take, and an answer: leads have ten seconds to move.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// `everlog cluster ...`
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make a certificate authority and a certificate for each node, and say what to do with them. Overwrites nothing.
    #[command(after_help = INIT_EXAMPLE)]
    Init(InitArgs),
    /// Make a certificate for a node that is to join.
    Certify(CertifyArgs),
    /// Make the certificates of all nodes anew, with new keys, before they expire. Nodes take them at their next connections.
    Renew(RenewArgs),
    /// Show how the cluster is: its nodes, and what is wrong.
    Status(ShowArgs),
    /// Show the nodes.
    Nodes(ShowArgs),
    /// Show the Raft groups: who leads them, and who lacks how many entries.
    Groups(ShowArgs),
    /// Show where namespaces are, and how far those are that move from one placement to another.
    Namespaces(NamespacesArgs),
    /// Hand leads over to another node.
    #[command(after_help = TRANSFER_EXAMPLES)]
    Transfer(TransferArgs),
    /// Have a node give all of its leads to others and take no more, before it is stopped for example. It goes on serving.
    Drain(DrainArgs),
    /// Have a new, empty data directory take the place of a node's disk that is lost.
    #[command(after_help = REPLACE_EXAMPLE)]
    Replace(ReplaceArgs),
    /// Have a node with a new, empty data directory join the cluster.
    #[command(after_help = ADD_EXAMPLE)]
    Add(AddArgs),
    /// Have the cluster write the newest formats that all nodes read, without waiting for a day. Earlier releases cannot be started in it any more.
    #[command(after_help = FINALIZE_EXAMPLES)]
    Finalize(FinalizeArgs),
    /// Let nodes join that prove themselves with a token, of a cluster that is its own certificate authority (cluster.tls = "auto").
    #[command(subcommand)]
    Token(TokenCommand),
    /// Have a node give all it has to others and leave the cluster for good.
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove(RemoveArgs),
    /// Say where the replicas of groups are, how many, and who should lead.
    #[command(subcommand)]
    Placement(PlacementCommand),
    /// After a majority of the nodes was lost for ever: make a cluster of what is left, and lose what only the others had.
    #[command(subcommand)]
    Recover(RecoverCommand),
}

/// Flags of `everlog cluster init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The name of the cluster, as `cluster.name` of all nodes has it.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Where the nodes are, HOST or HOST:PORT, in the order of `cluster.seeds`: the first one is node 1. The port is 7235 if none is named.
    #[arg(long, value_name = "HOST", num_args = 1.., required = true)]
    nodes: Vec<String>,
    /// Where the files go; created if it is not there.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// How long the certificates of the nodes are valid. That of the authority is for ten years.
    #[arg(long, value_name = "DAYS", default_value_t = DAYS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// Flags of `everlog cluster certify`.
#[derive(Debug, Args)]
pub(crate) struct CertifyArgs {
    /// Where the node is, HOST or HOST:PORT.
    #[arg(value_name = "HOST")]
    host: String,
    /// What `everlog cluster init` has made, with the authority's key.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The id that the node is to have; by default the one behind the last one in DIR.
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u32).range(1..=65535))]
    node: Option<u32>,
    /// How long the certificate is valid.
    #[arg(long, value_name = "DAYS", default_value_t = DAYS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// Flags of `everlog cluster renew`.
#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    /// What `everlog cluster init` has made, with the authority's key.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// How long the new certificates are valid.
    #[arg(long, value_name = "DAYS", default_value_t = DAYS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// Whom to ask, and how to show the answer.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// The gRPC address of any node of the cluster.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7233")]
    address: String,
    #[command(flatten)]
    tls: TlsArgs,
    /// The form of the answer.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

/// Flags of what shows something.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Show it again and again, every so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

/// Flags of `everlog cluster transfer`.
#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// A group (may be repeated).
    #[arg(long = "group", value_name = "GROUP", required_unless_present = "from")]
    groups: Vec<u32>,
    /// The node that leads them now; without --group all that it leads.
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u32).range(1..))]
    from: Option<u32>,
    /// The node that is to lead them.
    #[arg(long, value_name = "NODE", required_unless_present = "back", conflicts_with = "back",
          value_parser = clap::value_parser!(u32).range(1..))]
    to: Option<u32>,
    /// Give them to the nodes that should lead them.
    #[arg(long)]
    back: bool,
}

/// Flags of `everlog cluster drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The node; by default the one at the address.
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u32).range(1..))]
    node: Option<u32>,
    /// Let it take leads again. A restart does so, too.
    #[arg(long)]
    undo: bool,
}

/// Flags of `everlog cluster replace`.
#[derive(Debug, Args)]
pub(crate) struct ReplaceArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The node whose disk is lost.
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u32).range(1..))]
    node: u32,
    /// The id of its new data directory.
    #[arg(long, value_name = "UUID")]
    directory: uuid::Uuid,
}

/// Flags of `everlog cluster add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The id of its data directory.
    #[arg(long, value_name = "UUID")]
    directory: uuid::Uuid,
    /// The id that the node is to have, for example because its certificate names it; by default the next one.
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u32).range(1..))]
    node: Option<u32>,
}

/// Flags of `everlog cluster remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The node.
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u32).range(1..))]
    node: u32,
    /// Let it stay, if it has not left yet.
    #[arg(long)]
    undo: bool,
}

/// Flags of `everlog cluster finalize`.
#[derive(Debug, Args)]
pub(crate) struct FinalizeArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// A node that is lost: it is not waited for (may be repeated).
    #[arg(long = "without-node", value_name = "NODE", value_parser = clap::value_parser!(u32).range(1..))]
    without_nodes: Vec<u32>,
}

impl ClusterCommand {
    /// Does it. Returns what to print.
    ///
    /// # Errors
    ///
    /// One line that says what was wrong.
    pub(crate) fn run(self) -> Result<String, String> {
        match self {
            ClusterCommand::Init(InitArgs { name, nodes, dir, days }) => certificates::init(&name, &nodes, &dir, days),
            ClusterCommand::Certify(CertifyArgs { host, dir, node, days }) => {
                certificates::extend(&dir, &host, node, days)
            }
            ClusterCommand::Renew(RenewArgs { dir, days }) => certificates::renew(&dir, days),
            ClusterCommand::Status(args) => wait_for(args.show(view::status, view::status_json)),
            ClusterCommand::Nodes(args) => wait_for(args.show(view::nodes, view::nodes_json)),
            ClusterCommand::Groups(args) => wait_for(args.show(view::groups, view::groups_json)),
            ClusterCommand::Transfer(args) => wait_for(args.transfer()),
            ClusterCommand::Drain(args) => wait_for(args.drain()),
            ClusterCommand::Replace(args) => wait_for(args.replace()),
            ClusterCommand::Add(args) => wait_for(args.add()),
            ClusterCommand::Remove(args) => wait_for(args.remove()),
            ClusterCommand::Finalize(args) => wait_for(args.finalize()),
            ClusterCommand::Token(command) => wait_for(command.run()),
            ClusterCommand::Namespaces(args) => wait_for(args.show()),
            ClusterCommand::Placement(command) => wait_for(command.run()),
            ClusterCommand::Recover(command) => wait_for(command.run()),
        }
    }
}

fn wait_for(asked: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))?.block_on(asked)
}

impl ClientArgs {
    /// Whether the answer is for programs.
    pub(super) fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    pub(super) async fn connect(&self) -> Result<ClusterServiceClient<Channel>, String> {
        let ClientArgs { address, tls, .. } = self;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| format!("--address {address:?} is no HOST:PORT"))?
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(ANSWER_TIME_MAX);
        let channel = tls.connect(endpoint, address).await;
        let channel = channel.map_err(|why| format!("nobody answers at {address}: {why}"))?;
        Ok(ClusterServiceClient::new(channel).max_decoding_message_size(usize::MAX))
    }

    async fn describe(&self) -> Result<DescribeClusterResponse, String> {
        let described = self.connect().await?.describe_cluster(DescribeClusterRequest {}).await;
        described.map(tonic::Response::into_inner).map_err(|status| self.said(&status))
    }

    pub(super) fn said(&self, status: &Status) -> String {
        match status.code() {
            Code::Unimplemented => format!(
                "the server at {} knows no clusters: it is not Everlog, or an earlier release ({})",
                self.address,
                status.message()
            ),
            Code::DeadlineExceeded | Code::Cancelled if !has_ended(status) => {
                format!("{} has not answered within {} s", self.address, ANSWER_TIME_MAX.as_secs())
            }
            _ if has_ended(status) => {
                format!("{} has ended the connection without an answer: {}", self.address, self.tls.doubt())
            }
            _ => status.message().replace('\n', " "),
        }
    }
}

/// Whether a status is no server's: what has failed is its connection.
fn has_ended(status: &Status) -> bool {
    std::error::Error::source(status).is_some() && status.message() != LATE
}

impl ShowArgs {
    async fn show(
        self,
        table: fn(&DescribeClusterResponse) -> String,
        json: fn(&DescribeClusterResponse) -> serde_json::Value,
    ) -> Result<String, String> {
        let shown = async || {
            let cluster = self.client.describe().await?;
            Ok::<_, String>(match self.client.output {
                Output::Table => table(&cluster),
                Output::Json => pretty(&json(&cluster)),
            })
        };
        let Some(seconds) = self.watch else { return shown().await };
        loop {
            let text = shown().await.unwrap_or_else(|line| format!("everlog: {line}\n"));
            let mut out = std::io::stdout().lock();
            // What was there before goes, where that is possible.
            let clear = if out.is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            let written = write!(out, "{clear}{text}").and_then(|()| out.flush());
            drop(out);
            // Whoever reads has gone away.
            if written.is_err() {
                return Ok(String::new());
            }
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }
}

impl TransferArgs {
    async fn transfer(self) -> Result<String, String> {
        let TransferArgs { client, groups, from, to, back: _ } = self;
        let request = TransferLeadsRequest {
            group_ids: groups,
            from_node: from.unwrap_or_default(),
            to_node: to.unwrap_or_default(),
        };
        let transferred = client.connect().await?.transfer_leads(request).await;
        let transfers = transferred.map_err(|status| client.said(&status))?.into_inner().transfers;
        let failed = transfers.iter().filter(|transfer| !transfer.problem.is_empty()).count();
        let text = match client.output {
            Output::Table => view::transfers(&transfers),
            Output::Json => pretty(&view::transfers_json(&transfers)),
        };
        if failed == 0 {
            return Ok(text);
        }
        // What was done is shown all the same.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Err(format!("{failed} of {} leads are not where they should be", transfers.len()))
    }
}

impl DrainArgs {
    async fn drain(self) -> Result<String, String> {
        let DrainArgs { client, node, undo } = self;
        let node_id = match node {
            Some(node) => node,
            None => client.describe().await?.answered_by,
        };
        let drained = client.connect().await?.drain_node(DrainNodeRequest { node_id, undo }).await;
        let remaining = drained.map_err(|status| client.said(&status))?.into_inner().remaining_group_ids;
        if client.output == Output::Json {
            let json = serde_json::json!({ "nodeId": node_id, "isDraining": !undo, "remainingGroupIds": remaining });
            return Ok(pretty(&json));
        }
        match (undo, &remaining[..]) {
            (true, _) => Ok(format!("Node {node_id} takes leads again. It gets back those that it should have.\n")),
            (false, []) => Ok(format!(
                "Node {node_id} leads nothing and takes no leads, until it restarts or: everlog cluster drain --node {node_id} --undo\n"
            )),
            (false, remaining) => {
                let remaining: Vec<_> = remaining.iter().map(u32::to_string).collect();
                Err(format!(
                    "node {node_id} still leads groups {}: no other node can take them; it gives them away once one can",
                    remaining.join(", ")
                ))
            }
        }
    }
}

impl ReplaceArgs {
    async fn replace(self) -> Result<String, String> {
        let ReplaceArgs { client, node, directory } = self;
        let request = ReplaceDiskRequest { node_id: node, directory_id: directory.to_string() };
        let replaced = client.connect().await?.replace_disk(request).await;
        let disk = replaced.map_err(|status| client.said(&status))?.into_inner().disk;
        if client.output == Output::Json {
            return Ok(pretty(
                &serde_json::json!({ "nodeId": node, "directoryId": directory.to_string(), "disk": disk }),
            ));
        }
        Ok(format!(
            "Node {node} has a new disk, and gets its replicas from the others: everlog cluster nodes --watch shows how far it is.\n"
        ))
    }
}

impl AddArgs {
    async fn add(self) -> Result<String, String> {
        let AddArgs { client, directory, node } = self;
        let request = AddNodeRequest { directory_id: directory.to_string(), node_id: node.unwrap_or_default() };
        let added = client.connect().await?.add_node(request).await;
        let node = added.map_err(|status| client.said(&status))?.into_inner().node_id;
        if client.output == Output::Json {
            return Ok(pretty(&serde_json::json!({ "nodeId": node, "directoryId": directory.to_string() })));
        }
        Ok(format!(
            "It is node {node}, and gets its share of the replicas: everlog cluster nodes --watch shows how far it is.\n"
        ))
    }
}

impl RemoveArgs {
    async fn remove(self) -> Result<String, String> {
        let RemoveArgs { client, node, undo } = self;
        let removed = client.connect().await?.remove_node(RemoveNodeRequest { node_id: node, undo }).await;
        removed.map_err(|status| client.said(&status))?;
        if client.output == Output::Json {
            return Ok(pretty(&serde_json::json!({ "nodeId": node, "isLeaving": !undo })));
        }
        Ok(match undo {
            true => format!("Node {node} stays, and gets its share of the replicas again.\n"),
            false => format!(
                "Node {node} gives what it has to the others and leaves then: everlog cluster nodes --watch shows how far it is. Until then: \
                 everlog cluster remove --node {node} --undo\n"
            ),
        })
    }
}

impl FinalizeArgs {
    async fn finalize(self) -> Result<String, String> {
        let FinalizeArgs { client, without_nodes: without_node_ids } = self;
        let request = FinalizeFormatsRequest { without_node_ids: without_node_ids.clone() };
        let finalized = client.connect().await?.finalize_formats(request).await;
        let FinalizeFormatsResponse { version, before } =
            finalized.map_err(|status| client.said(&status))?.into_inner();
        if client.output == Output::Json {
            let json =
                serde_json::json!({ "formatVersion": version, "formerly": before, "withoutNodeIds": without_node_ids });
            return Ok(pretty(&json));
        }
        let mut text = match version == before {
            true => format!("The cluster has format {version} already.\n"),
            false => format!(
                "The cluster has format {version} from now on. Releases that read no newer one than format {before} cannot be started in it.\n"
            ),
        };
        for node in without_node_ids {
            text +=
                &format!("Node {node} was left out: start it with a newer release, replace its disk, or remove it.\n");
        }
        Ok(text)
    }
}

pub(super) fn pretty(value: &serde_json::Value) -> String {
    // Its alternate form is indented.
    format!("{value:#}\n")
}
