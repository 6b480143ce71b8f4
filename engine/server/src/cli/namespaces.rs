//! `everlog cluster namespaces`: where they are, and how far those are that move.

use clap::Args;
use everlog_proto::cluster::{ListNamespacePlacesRequest, NamespacePlace};
use serde_json::{Value, json};

use super::cluster::{ClientArgs, pretty};
use super::cluster_view::table;

/// Flags of `everlog cluster namespaces`.
#[derive(Debug, Args)]
pub(crate) struct NamespacesArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Only those that move.
    #[arg(long)]
    moving: bool,
}

impl NamespacesArgs {
    /// Asks, and returns what to print.
    ///
    /// # Errors
    ///
    /// One line that says what was wrong.
    pub(super) async fn show(self) -> Result<String, String> {
        let NamespacesArgs { client, moving } = self;
        let listed = client.connect().await?.list_namespace_places(ListNamespacePlacesRequest {}).await;
        let mut namespaces = listed.map_err(|status| client.said(&status))?.into_inner().namespaces;
        namespaces.retain(|namespace| !moving || namespace.r#move.is_some());
        if client.is_json() {
            return Ok(pretty(&json!({ "namespaces": namespaces.iter().map(as_json).collect::<Vec<_>>() })));
        }
        if namespaces.is_empty() {
            return Ok("No namespace moves.\n".to_owned());
        }
        Ok(as_table(&namespaces))
    }
}

/// A row a namespace.
fn as_table(namespaces: &[NamespacePlace]) -> String {
    let row = |namespace: &NamespacePlace| {
        let moves = namespace.r#move.as_ref();
        let active = if namespace.is_global { &namespace.active_region } else { "-" };
        vec![
            namespace.name.clone(),
            namespace.placement.clone(),
            moves.map_or("-".to_owned(), |moves| format!("to {}: {} %", moves.to_placement, moves.percent)),
            active.to_owned(),
            namespace.group_ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
        ]
    };
    table(&["NAMESPACE", "PLACEMENT", "MOVES", "ACTIVE", "GROUPS"], &[], namespaces.iter().map(row))
}

fn as_json(namespace: &NamespacePlace) -> Value {
    let moves = namespace.r#move.as_ref();
    json!({
        "name": namespace.name,
        "namespaceId": namespace.namespace_id,
        "placement": namespace.placement,
        "groupIds": namespace.group_ids,
        "move": moves.map(|moves| json!({ "toPlacement": moves.to_placement, "percent": moves.percent })),
        "isGlobal": namespace.is_global,
        "activeRegion": namespace.active_region,
    })
}

#[cfg(test)]
mod tests {
    use everlog_proto::cluster::NamespaceMove;

    use super::*;

    #[test]
    fn namespaces_are_shown_with_where_they_move() {
        let orders = NamespacePlace {
            name: "orders".to_owned(),
            namespace_id: "id".to_owned(),
            placement: "default".to_owned(),
            group_ids: vec![1, 5],
            r#move: Some(NamespaceMove { to_placement: "eu".to_owned(), percent: 37 }),
            is_global: false,
            active_region: String::new(),
        };
        let shop = NamespacePlace {
            name: "shop".to_owned(),
            placement: "eu".to_owned(),
            group_ids: vec![5],
            is_global: true,
            active_region: "eu-west".to_owned(),
            ..NamespacePlace::default()
        };
        let shown = as_table(&[orders.clone(), shop.clone()]);
        let lines: Vec<Vec<_>> = shown
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(lines[1], ["orders", "default", "to eu: 37 %", "-", "1, 5"]);
        assert_eq!(lines[2], ["shop", "eu", "-", "eu-west", "5"]);
        assert_eq!(as_json(&orders)["move"], json!({ "toPlacement": "eu", "percent": 37 }));
        assert_eq!(as_json(&shop)["move"], Value::Null);
    }
}
