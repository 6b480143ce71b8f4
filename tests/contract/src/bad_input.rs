//! What a server answers to bad requests, to every method.
//!
//! `bad_input.txt` has requests as they should be, `variations.rs` makes bad ones of them. A method shows what the good request is answered
//! with (`as it is`), and of the bad ones those with another answer. `too large` is for the whole message, `large` for a payload.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use prost::Message;
use serde_json::{Map, Value as Json, json};

use crate::call::Server;
use crate::script::{Scenario, Step, parse};
use crate::show::Shower;
use crate::stage::{self, Call, Results};
use crate::variations::variations;

/// The area that the methods are in.
pub const AREA: &str = "bad_input";

/// The dynamic configuration that goes with it, beyond what all have: polls end soon.
pub const CONFIG: [&str; 3] = [
    "matching.longPollExpirationInterval=\"300ms\"",
    "frontend.rps.namespaceReplicationInducingAPIs=1000",
    "frontend.namespaceRPS.namespaceReplicationInducingAPIs=1000",
];

/// What every method whose name begins with `only` shows on a server, `at_once` of them at a time.
pub(crate) async fn play(server: &Server, only: &str, at_once: usize) -> Result<BTreeMap<String, Json>, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/bad_input.txt");
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let scenarios = parse(AREA, &text)?;
    let [before, requests] = scenarios.as_slice() else { return Err(format!("{path}: not two scenarios")) };
    let nonce = stage::nonce();
    let (shown, results) = stage::play_on(server, before, &nonce).await;
    let is_refused = |shown: &Json| shown.get("message").is_some() || shown.get("not_called").is_some();
    if let Some((step, refused)) = shown.as_object().and_then(|steps| steps.iter().find(|(_, shown)| is_refused(shown)))
    {
        return Err(format!("before bad input: {step}: {refused}"));
    }
    let mut wanted: Vec<&str> = server.methods().filter(|method| method.starts_with(only)).collect();
    wanted.sort_unstable();
    let played = futures::stream::iter(wanted).map(|method| {
        let (nonce, results) = (&nonce, &results);
        async move {
            let step = requests.steps.iter().find(|step| step.verb == method).cloned();
            let step = step.unwrap_or_else(|| Step { verb: method.to_owned(), ..Step::default() });
            Ok((method.to_owned(), play_method(server, &step, nonce, results).await?))
        }
    });
    let played: Vec<Result<_, String>> = played.buffer_unordered(at_once).collect().await;
    played.into_iter().collect()
}

async fn play_method(server: &Server, step: &Step, nonce: &str, results: &Results) -> Result<Json, String> {
    let Call { request, timeout, .. } =
        stage::prepare(server, step, nonce, results).map_err(|problem| format!("{}: {problem}", step.verb))?;
    let mut shower = Shower::new(nonce.to_owned(), false);
    let mut shown = Map::new();
    let mut ask = async |bytes: Bytes| {
        let answer = server.call_with_bytes(&step.verb, bytes, timeout, &[]).await;
        answer.map_or_else(|status| in_a_line(&stage::show_status(server, &mut shower, &status)), |_| "OK".to_owned())
    };
    let usual = ask(request.encode_to_vec().into()).await;
    for variation in variations(&request).filter(|variation| !is_harmful(&step.verb, &variation.name)) {
        let answer = ask(variation.bytes).await;
        if answer != usual {
            shown.insert(variation.name, json!(answer));
        }
    }
    shown.insert("as it is".to_owned(), json!(usual));
    Ok(Json::Object(shown))
}

/// Whether a bad request does something to a Temporal server that shows in what others are answered.
fn is_harmful(method: &str, variation: &str) -> bool {
    match method {
        // There must go on to be no such namespace.
        "RegisterNamespace" => variation.starts_with("nowhere"),
        // Ends the connection, or is not answered.
        "ValidateWorkerDeploymentVersionComputeConfig" => variation == "empty key in compute_config_scaling_groups",
        _ => false,
    }
}

/// `NotFound: text [details]`.
fn in_a_line(status: &Json) -> String {
    let text = |key: &str| status.get(key).and_then(Json::as_str).unwrap_or_default();
    if let Some((before, _)) = text("message").split_once(" larger than max (") {
        // Tokens in a request have other lengths on other servers.
        return format!("{}: {before} larger than max (..)", text("status"));
    }
    let details = status.get("details").map_or_else(String::new, |details| format!(" {details}"));
    // Go's protobuf puts another space into its texts every other time that it is compiled, so that nobody goes by them.
    format!("{}: {}{details}", text("status"), text("message").replace('\u{a0}', " "))
}

/// The scenario that stands for what a method shows.
pub fn scenario(method: &str) -> Scenario {
    Scenario { area: AREA.to_owned(), name: method.to_owned(), config: Vec::new(), timed: false, steps: Vec::new() }
}
