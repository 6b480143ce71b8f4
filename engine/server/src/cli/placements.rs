//! `everlog cluster placement`: where the replicas of groups are, how many, and who should lead.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use everlog_proto::cluster::apply_placements_response::Move;
use everlog_proto::cluster::{
    ApplyPlacementsRequest, DeletePlacementRequest, ListPlacementsRequest, Placement, PlacementReads,
};
use everlog_server::settings::{placement_file, read_placements, reads_name, spread_name};
use serde_json::json;

use super::cluster::{ClientArgs, pretty};

const APPLY_EXAMPLES: &str = "\
The file has a part for each placement:
  [[placement]]
  name = \"default\"                      # what nobody says anything else of is placed by it
  replicas = 5                          # that vote: 1, 3 or 5
  spread = \"zone\"                       # no two of them in one, if there are enough: zone, region, node
  regions = { eu-west = 2, eu-central = 2, eu-north = 1 }    # where they are
  learners = { us-east = 1 }            # others, which do not vote
  leaders = [\"eu-west\", \"eu-central\"]  # from where they should be led, the best one first
  constraints = [\"disk=ssd\"]            # labels that nodes must have
  reads = \"stale\"                       # lists and counts from the nearest replica; \"lease\", \"linearizable\"
  stale_max = \"5s\"                      # how old these may be

Examples:
  everlog cluster placement apply -f placements.toml --plan    what would move
  everlog cluster placement apply -f placements.toml";

/// `everlog cluster placement ...`
#[derive(Debug, Subcommand)]
pub(crate) enum PlacementCommand {
    /// Have placements be as a file says. Replicas move while everything goes on; with the file of before all goes back.
    #[command(after_help = APPLY_EXAMPLES)]
    Apply(ApplyArgs),
    /// Show all placements.
    List(ListArgs),
    /// Show a placement, in the form that `apply` reads.
    Show(NameArgs),
    /// Delete a placement that nothing is placed by.
    Delete(NameArgs),
}

/// Flags of `everlog cluster placement apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The file, TOML.
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Only say what would move.
    #[arg(long)]
    plan: bool,
}

/// Flags of `everlog cluster placement list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Flags of what is about one placement.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Its name.
    #[arg(value_name = "NAME")]
    name: String,
}

impl PlacementCommand {
    /// Does it. Returns what to print.
    ///
    /// # Errors
    ///
    /// One line that says what was wrong.
    pub(super) async fn run(self) -> Result<String, String> {
        match self {
            PlacementCommand::Apply(args) => args.apply().await,
            PlacementCommand::List(ListArgs { client }) => {
                let placements = list(&client).await?;
                Ok(if client.is_json() { as_json(&placements) } else { table(&placements) })
            }
            PlacementCommand::Show(NameArgs { client, name }) => {
                let placements = list(&client).await?;
                let mut named = placements.into_iter().filter(|placement| placement.name == name);
                let placement = named.next().ok_or_else(|| format!("there is no placement {name}"))?;
                Ok(if client.is_json() { as_json(&[placement]) } else { placement_file(&placement) })
            }
            PlacementCommand::Delete(NameArgs { client, name }) => {
                let request = DeletePlacementRequest { name: name.clone() };
                let deleted = client.connect().await?.delete_placement(request).await;
                deleted.map_err(|status| client.said(&status))?;
                Ok(if client.is_json() {
                    pretty(&json!({ "deleted": name }))
                } else {
                    format!("There is no placement {name} any more.\n")
                })
            }
        }
    }
}

impl ApplyArgs {
    async fn apply(self) -> Result<String, String> {
        let ApplyArgs { client, file, plan } = self;
        let path = file.display();
        let text = std::fs::read_to_string(&file).map_err(|error| format!("cannot read {path}: {error}"))?;
        let placements = read_placements(&text).map_err(|why| format!("{path}: {why}"))?;
        let request = ApplyPlacementsRequest { placements, only_plan: plan };
        let applied = client.connect().await?.apply_placements(request).await;
        let applied = applied.map_err(|status| client.said(&status))?.into_inner();
        if client.is_json() {
            let moves: Vec<_> = applied.moves.iter().map(move_json).collect();
            return Ok(pretty(&json!({ "isPlan": plan, "moves": moves, "warnings": applied.warnings })));
        }
        Ok(told(&applied.moves, &applied.warnings, plan))
    }
}

async fn list(client: &ClientArgs) -> Result<Vec<Placement>, String> {
    let listed = client.connect().await?.list_placements(ListPlacementsRequest {}).await;
    listed.map(|listed| listed.into_inner().placements).map_err(|status| client.said(&status))
}

fn as_json(placements: &[Placement]) -> String {
    let one = |placement: &Placement| {
        json!({
            "name": placement.name,
            "replicas": placement.replicas,
            "spread": spread_name(placement),
            "regions": placement.regions.iter().collect::<BTreeMap<_, _>>(),
            "learners": placement.learners.iter().collect::<BTreeMap<_, _>>(),
            "leaders": placement.leaders,
            "reads": reads_name(placement),
            "staleMaxMs": placement.stale_max_ms,
            "constraints": placement.constraints,
            "groups": placement.groups,
            "movingGroups": placement.moving_groups,
        })
    };
    pretty(&json!({ "placements": placements.iter().map(one).collect::<Vec<_>>() }))
}

/// A placement a line.
fn table(placements: &[Placement]) -> String {
    let mut text = String::new();
    for placement in placements {
        let Placement { name, replicas, groups, moving_groups, leaders, constraints, .. } = placement;
        let counts = |of: BTreeMap<&String, &u32>| {
            of.iter().map(|(region, count)| format!("{region} {count}")).collect::<Vec<_>>().join(", ")
        };
        let replicas_are = if *replicas == 1 { "replica" } else { "replicas" };
        let mut parts = vec![format!("{replicas} {replicas_are}, spread by {}", spread_name(placement))];
        let regions = counts(placement.regions.iter().collect());
        let learners = counts(placement.learners.iter().collect());
        let named = [("in", regions), ("learners in", learners), ("led from", leaders.join(", "))];
        parts.extend(named.iter().filter(|(_, of)| !of.is_empty()).map(|(what, of)| format!("{what} {of}")));
        if !constraints.is_empty() {
            parts.push(format!("nodes with {}", constraints.join(", ")));
        }
        if placement.reads() == PlacementReads::Linearizable {
            parts.push("each read asks a quorum".to_owned());
        }
        if placement.reads() == PlacementReads::Stale {
            parts.push(format!("lists and counts up to {} ms old", placement.stale_max_ms));
        }
        parts.push(format!("{groups} groups, {moving_groups} of them moving"));
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{name}: {}", parts.join("; "));
    }
    text
}

fn move_json(of: &Move) -> serde_json::Value {
    json!({ "groupId": of.group_id, "fromNodeIds": of.from_node_ids, "toNodeIds": of.to_node_ids })
}

/// What comes of placements.
fn told(moves: &[Move], warnings: &[String], is_plan: bool) -> String {
    let mut text = String::new();
    let ids = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    for warning in warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    for Move { group_id, from_node_ids, to_node_ids } in moves {
        let _ = writeln!(text, "group {group_id}: nodes {} -> {}", ids(from_node_ids), ids(to_node_ids));
    }
    let _ = match (moves.is_empty(), is_plan) {
        (true, true) => writeln!(text, "Nothing would move."),
        (true, false) => writeln!(text, "Nothing has to move for it."),
        (false, true) => {
            writeln!(text, "{} groups would be elsewhere, or led from elsewhere. Nothing was changed.", moves.len())
        }
        (false, false) => writeln!(
            text,
            "{} groups move, a few at a time: everlog cluster placement list shows how many there are yet.",
            moves.len()
        ),
    };
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const FILE: &str = r#"
[[placement]]
name = "eu"
replicas = 5
spread = "region"
regions = { eu-west = 2, eu-central = 2, eu-north = 1 }
learners = { us-east = 1 }
leaders = ["eu-west"]
reads = "linearizable"
constraints = ["disk=ssd"]
"#;

    #[test]
    fn what_is_shown_is_what_was_applied() {
        let placements = read_placements(FILE).unwrap();
        assert_eq!((placements.len(), placements[0].regions["eu-central"]), (1, 2));
        assert_eq!(read_placements(&placement_file(&placements[0])).unwrap(), placements);
        assert_eq!(
            table(&placements),
            "eu: 5 replicas, spread by region; in eu-central 2, eu-north 1, eu-west 2; learners in us-east 1; led from eu-west; \
             nodes with disk=ssd; each read asks a quorum; 0 groups, 0 of them moving\n"
        );
        assert!(as_json(&placements).contains("\"movingGroups\": 0"));
        let stale = read_placements(&FILE.replace("\"linearizable\"", "\"stale\"\nstale_max = \"1m\"")).unwrap();
        assert_eq!((stale[0].reads(), stale[0].stale_max_ms), (PlacementReads::Stale, 60_000));
        assert_eq!(read_placements(&placement_file(&stale[0])).unwrap(), stale);
        assert!(table(&stale).contains("; lists and counts up to 60000 ms old; "));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_said_in_one_line() {
        for (from, to, expected) in [
            ("\"region\"", "\"rack\"", "placement eu: spread = \"rack\", and \"node\", \"zone\" or \"region\""),
            (
                "replicas = 5",
                "replicas = 5\nwrites = \"relaxed\"",
                "writes = \"relaxed\", and only \"quorum\" is there",
            ),
            ("\"linearizable\"", "\"old\"", "reads = \"old\", and \"lease\", \"linearizable\" or \"stale\" is allowed"),
            ("\"linearizable\"", "\"stale\"\nstale_max = \"0\"", "stale_max = \"0\" is not like \"5s\""),
            ("replicas = 5", "replicas = -5", "line 4: "),
            ("replicas = 5", "copies = 5", "unknown field `copies`"),
        ] {
            let why = read_placements(&FILE.replace(from, to)).unwrap_err();
            assert!(why.contains(expected) && !why.contains('\n'), "{why}");
        }
    }

    #[test]
    fn moves_are_told_of() {
        let moves = [Move { group_id: 3, from_node_ids: vec![1, 2, 3], to_node_ids: vec![4, 2, 3] }];
        let text = told(&moves, &["placement eu: no node is in region x".to_owned()], true);
        assert_eq!(
            text,
            "warning: placement eu: no node is in region x\ngroup 3: nodes 1, 2, 3 -> 4, 2, 3\n1 groups would be elsewhere, or led from \
             elsewhere. Nothing was changed.\n"
        );
        assert_eq!(told(&[], &[], false), "Nothing has to move for it.\n");
    }
}
