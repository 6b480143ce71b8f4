//! `everlog cluster token`: lets nodes join a cluster that is its own certificate authority.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::DateTime;
use clap::{Args, Subcommand};
use everlog_config::parse_duration;
use everlog_proto::cluster::{
    CreateJoinTokenRequest, CreateJoinTokenResponse, JoinToken, JoinTokenState, ListJoinTokensRequest,
    RevokeJoinTokenRequest,
};
use serde_json::{Value, json};

use super::cluster::{ClientArgs, pretty};

const CREATE_EXAMPLES: &str = "\
The token is one line on standard output. The node that is to join gets it as cluster.join_token_file, or in the environment as
EVERLOG__CLUSTER__JOIN_TOKEN, and is started with an empty data directory and nodes of the cluster as its seeds. It is good for one node, once.

Examples:
  everlog cluster token create > join-token
  everlog cluster token create --node-name n4.example.com --expires 10m
  everlog cluster token create --replaces 3    for the new disk of node 3; then: everlog cluster replace";

/// `everlog cluster token ...`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token with which one node can join.
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// Show the tokens; those that were used or have expired for a week.
    List(ListArgs),
    /// Take a token back. A node that has joined with it stays.
    Revoke(RevokeArgs),
}

/// Flags of `everlog cluster token create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The host of the node's `cluster.advertise`; by default any.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// How long it is good, up to 30 days.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = lifetime)]
    expires: Duration,
    /// It is for the new disk of this node, not for one more.
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u32).range(1..))]
    replaces: Option<u32>,
}

/// Flags of `everlog cluster token list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Flags of `everlog cluster token revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Its id, as `list` shows it.
    #[arg(value_name = "ID")]
    id: String,
}

impl TokenCommand {
    /// Does it. Returns what to print.
    ///
    /// # Errors
    ///
    /// One line that says what was wrong.
    pub(super) async fn run(self) -> Result<String, String> {
        match self {
            TokenCommand::Create(args) => args.create().await,
            TokenCommand::List(args) => args.list().await,
            TokenCommand::Revoke(args) => args.revoke().await,
        }
    }
}

impl CreateArgs {
    async fn create(self) -> Result<String, String> {
        let CreateArgs { client, node_name, expires, replaces } = self;
        let request = CreateJoinTokenRequest {
            node_name: node_name.unwrap_or_default(),
            replaces_node_id: replaces.unwrap_or_default(),
            lifetime_seconds: expires.as_secs(),
        };
        let created = client.connect().await?.create_join_token(request).await;
        let CreateJoinTokenResponse { text, token } = created.map_err(|status| client.said(&status))?.into_inner();
        if !client.is_json() {
            return Ok(format!("{text}\n"));
        }
        let mut json = token.as_ref().map(as_json).unwrap_or_default();
        json["token"] = text.into();
        Ok(pretty(&json))
    }
}

impl ListArgs {
    async fn list(self) -> Result<String, String> {
        let ListArgs { client } = self;
        let listed = client.connect().await?.list_join_tokens(ListJoinTokensRequest {}).await;
        let tokens = listed.map_err(|status| client.said(&status))?.into_inner().tokens;
        Ok(match client.is_json() {
            true => pretty(&json!({ "tokens": tokens.iter().map(as_json).collect::<Vec<_>>() })),
            false => table(&tokens),
        })
    }
}

impl RevokeArgs {
    async fn revoke(self) -> Result<String, String> {
        let RevokeArgs { client, id: token_id } = self;
        let request = RevokeJoinTokenRequest { token_id: token_id.clone() };
        let revoked = client.connect().await?.revoke_join_token(request).await;
        revoked.map_err(|status| client.said(&status))?;
        Ok(match client.is_json() {
            true => pretty(&json!({ "tokenId": token_id })),
            false => format!("No node can join with token {token_id} any more.\n"),
        })
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = parse_duration(text).filter(|lifetime| *lifetime >= Duration::from_secs(1));
    lifetime.ok_or_else(|| "a duration such as 10m, 1h or 7d, of a second at least".to_owned())
}

fn state(token: &JoinToken) -> &'static str {
    match token.state() {
        JoinTokenState::Good => "good",
        JoinTokenState::Used => "used",
        JoinTokenState::Expired => "expired",
        JoinTokenState::Unspecified => "unknown",
    }
}

fn as_json(token: &JoinToken) -> Value {
    let JoinToken { token_id, node_name, replaces_node_id, created_ms, expires_ms, used_by_node_id, used_ms, .. } =
        token;
    json!({
        "tokenId": token_id,
        "state": state(token),
        "nodeName": node_name,
        "replacesNodeId": replaces_node_id,
        "createdMs": created_ms,
        "expiresMs": expires_ms,
        "usedByNodeId": used_by_node_id,
        "usedMs": used_ms,
    })
}

fn table(tokens: &[JoinToken]) -> String {
    if tokens.is_empty() {
        return "There are no join tokens.\n".to_owned();
    }
    let at = |ms: u64| {
        let at = i64::try_from(ms / 1000).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        at.map_or("never".to_owned(), |at| format!("{at:?}"))
    };
    let mut text = "ID                STATE    EXPIRES               FOR\n".to_owned();
    for token in tokens {
        let JoinToken { token_id, node_name, replaces_node_id, expires_ms, used_by_node_id, .. } = token;
        let whom = match (used_by_node_id, replaces_node_id) {
            (1.., _) => format!("node {used_by_node_id}"),
            (0, 1..) => format!("a new disk of node {replaces_node_id}"),
            (0, 0) if node_name.is_empty() => "any node".to_owned(),
            (0, 0) => node_name.clone(),
        };
        // A String takes whatever is written to it.
        let _ = writeln!(text, "{token_id}  {:<7}  {}  {whom}", state(token), at(*expires_ms));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_shown_with_whom_they_are_for() {
        let token = |state: JoinTokenState| JoinToken {
            token_id: "00000000000000ff".to_owned(),
            state: state as i32,
            expires_ms: 1_700_000_000_000,
            ..JoinToken::default()
        };
        let tokens = [
            token(JoinTokenState::Good),
            JoinToken { used_by_node_id: 4, node_name: "n4".to_owned(), ..token(JoinTokenState::Used) },
            JoinToken { replaces_node_id: 3, ..token(JoinTokenState::Expired) },
            JoinToken { node_name: "n5".to_owned(), ..token(JoinTokenState::Good) },
        ];
        assert_eq!(
            table(&tokens),
            "ID                STATE    EXPIRES               FOR\n\
             00000000000000ff  good     2023-11-14T22:13:20Z  any node\n\
             00000000000000ff  used     2023-11-14T22:13:20Z  node 4\n\
             00000000000000ff  expired  2023-11-14T22:13:20Z  a new disk of node 3\n\
             00000000000000ff  good     2023-11-14T22:13:20Z  n5\n"
        );
        assert_eq!(table(&[]), "There are no join tokens.\n");
        assert_eq!(
            (as_json(&tokens[1])["state"].as_str(), &as_json(&tokens[1])["usedByNodeId"]),
            (Some("used"), &4.into())
        );
    }

    #[test]
    fn a_lifetime_is_a_second_at_least() {
        assert_eq!(
            (lifetime("1h"), lifetime("7d").map(|week| week.as_secs())),
            (Ok(Duration::from_secs(3600)), Ok(604_800))
        );
        assert!(lifetime("0").is_err() && lifetime("10ms").is_err() && lifetime("soon").is_err());
    }
}
