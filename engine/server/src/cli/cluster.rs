//! `everlog cluster`: makes what nodes prove themselves with.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::certificates::{self, DAYS_DEFAULT};

const INIT_EXAMPLE: &str = "\
Example:
  everlog cluster init --name prod --nodes n1.example.com n2.example.com n3.example.com --dir certificates";

/// `everlog cluster ...`
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make a certificate authority and a certificate for each node, and say what to do with them. Overwrites nothing.
    #[command(after_help = INIT_EXAMPLE)]
    Init(InitArgs),
    /// Make the certificates of all nodes anew, with new keys, before they expire. Nodes take them at their next connections.
    Renew(RenewArgs),
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

impl ClusterCommand {
    /// Does it. Returns what to print.
    ///
    /// # Errors
    ///
    /// One line that says what was wrong.
    pub(crate) fn run(self) -> Result<String, String> {
        match self {
            ClusterCommand::Init(InitArgs { name, nodes, dir, days }) => certificates::init(&name, &nodes, &dir, days),
            ClusterCommand::Renew(RenewArgs { dir, days }) => certificates::renew(&dir, days),
        }
    }
}
