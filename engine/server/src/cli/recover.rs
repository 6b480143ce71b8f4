//! `everlog cluster recover`: makes a cluster of what is left of one, after a majority was lost for ever.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use chrono::DateTime;
use clap::{Args, Subcommand};
use everlog_server::recovery::{self, Allowed, Collected, Outcome, RecoveryPlan};

const COLLECT_EXAMPLE: &str = "\
Example, on each node that is left, while its process does not run:
  everlog cluster recover collect --data-dir /var/lib/everlog > node1.json";

const PLAN_EXAMPLE: &str = "\
Example, with the files of all nodes that are left:
  everlog cluster recover plan node1.json node4.json --lost 2,3,5 --output plan.json";

const APPLY_EXAMPLE: &str = "\
Example, on each node that is left, before any of them is started:
  everlog cluster recover apply --data-dir /var/lib/everlog --plan plan.json --confirm prod";

/// `everlog cluster recover ...`
#[derive(Debug, Subcommand)]
pub(crate) enum RecoverCommand {
    /// Say what a node that is left has, as JSON. Changes nothing.
    #[command(after_help = COLLECT_EXAMPLE)]
    Collect(CollectArgs),
    /// Say what can be saved and what is lost, and write down the plan. Changes nothing.
    #[command(after_help = PLAN_EXAMPLE)]
    Plan(PlanArgs),
    /// Make a node part of the cluster that the plan makes of what is left. Cannot be undone: copy the data directory first.
    #[command(after_help = APPLY_EXAMPLE)]
    Apply(ApplyArgs),
}

/// Flags of `everlog cluster recover collect`.
#[derive(Debug, Args)]
pub(crate) struct CollectArgs {
    /// The node's data directory.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

/// Flags of `everlog cluster recover plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// What was collected, a file for each node that is left.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// All nodes that are lost for ever. They can never come back.
    #[arg(long, value_name = "NODE", value_delimiter = ',', required = true)]
    lost: Vec<u32>,
    /// Where the plan goes; a file that is there is not overwritten.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Let a replica that did not vote go on where none that did is left: it may lack more.
    #[arg(long)]
    allow_learners: bool,
    /// Let a group of which nothing is left begin anew: its workflows are lost.
    #[arg(long)]
    allow_empty: bool,
}

/// Flags of `everlog cluster recover apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The node's data directory.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The plan.
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// The name of the cluster, to say that what the plan names as lost may be lost.
    #[arg(long, value_name = "NAME")]
    confirm: String,
}

impl RecoverCommand {
    /// Does it. Returns what to print.
    ///
    /// # Errors
    ///
    /// One line that says what was wrong.
    pub(crate) async fn run(self) -> Result<String, String> {
        match self {
            RecoverCommand::Collect(CollectArgs { data_dir }) => {
                let collected = recovery::collect(&data_dir).await.map_err(|error| error.to_string())?;
                json(&collected)
            }
            RecoverCommand::Plan(args) => args.run(),
            RecoverCommand::Apply(args) => args.run().await,
        }
    }
}

impl PlanArgs {
    fn run(self) -> Result<String, String> {
        let collected = self.files.iter().map(|path| read::<Collected>(path)).collect::<Result<Vec<_>, _>>()?;
        let lost: BTreeSet<_> = self.lost.iter().copied().collect();
        let allowed = Allowed { learners: self.allow_learners, empty: self.allow_empty };
        let plan =
            recovery::plan(&collected, &lost, allowed, uuid::Uuid::new_v4()).map_err(|error| error.to_string())?;
        let text = json(&plan)?;
        let failed = |error: std::io::Error| format!("{}: {error}", self.output.display());
        let mut file = OpenOptions::new().write(true).create_new(true).open(&self.output).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        Ok(shown(&plan, &self.output))
    }
}

/// What a plan means, for people.
fn shown(plan: &RecoveryPlan, path: &Path) -> String {
    let nodes = |nodes: &[u32]| nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let mut text = format!("{:>5}  {:<44}last entry\n", "group", "what becomes of it");
    for planned in &plan.groups {
        let (becomes, last) = match &planned.outcome {
            Outcome::Stays { nodes: on } => (format!("stays, on nodes {}: nothing is lost", nodes(on)), String::new()),
            Outcome::Alone { node, is_whole: true, .. } => {
                (format!("goes on from node {node}: nothing is lost"), String::new())
            }
            Outcome::Alone { node, last_at, .. } => {
                let at = DateTime::from_timestamp_nanos(i64::try_from(*last_at).unwrap_or(i64::MAX));
                (format!("GOES ON FROM NODE {node} ALONE"), at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
            }
            Outcome::Anew { node, .. } => (format!("ALL OF IT IS LOST, begins anew on node {node}"), String::new()),
        };
        let line = format!("{:>5}  {becomes:<44}{last}", planned.group);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let left: Vec<_> = plan.survivors.iter().map(|survivor| survivor.node).collect();
    let _ = write!(
        text,
        "\nOf a group that goes on alone, what was acknowledged after its last entry is lost, and what was acknowledged shortly before and had \
         not reached\nthat node yet. Nodes {} are removed, and can never come back. The cluster gets a new id ({}).\nNext, on each of nodes {}, \
         with a copy of the data directory made:\n  everlog cluster recover apply --data-dir DIR --plan {} --confirm {}\n",
        nodes(&plan.lost),
        plan.new_cluster_id,
        nodes(&left),
        path.display(),
        plan.cluster,
    );
    text
}

impl ApplyArgs {
    async fn run(self) -> Result<String, String> {
        let plan: RecoveryPlan = read(&self.plan)?;
        if plan.format != recovery::FORMAT {
            return Err(format!(
                "{} has format {}, this everlog reads {}",
                self.plan.display(),
                plan.format,
                recovery::FORMAT
            ));
        }
        if self.confirm != plan.cluster {
            return Err(format!("--confirm {:?} is not the name of the cluster: {:?}", self.confirm, plan.cluster));
        }
        let done = recovery::apply(&self.data_dir, &plan).await.map_err(|error| error.to_string())?;
        let mut text: String = done.iter().map(|line| format!("{line}\n")).collect();
        text.push_str("Start the nodes once the plan was applied on all of them; then add others in the place of those that are lost.\n");
        Ok(text)
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn json(value: &impl serde::Serialize) -> Result<String, String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    Ok(text + "\n")
}
