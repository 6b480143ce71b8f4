//! A node that joins by way of a node that it does not know.

use super::*;

const ADD: &str = "everlog cluster add --directory ";

#[tokio::test(flavor = "multi_thread")]
async fn any_node_lets_another_one_join() {
    let dir = tempfile::tempdir().unwrap();
    let all = addresses_of(4);
    let founders = &all[..3];
    let start = |node| Running::start(&settings(dir.path(), node, founders, None));
    let (first, second, third) = (start(1), start(2), start(3));
    first.sees(is_spread).await;
    let nobody = uuid::Uuid::from_u128(7).to_string();
    let (code, _, error) = second.cluster(&["add", "--directory", &nobody]).await;
    assert!(code == Some(1) && error.contains("no node waits with the data directory"), "{error}");
    // It asks node 1 alone.
    let path = settings(dir.path(), 4, &all, None);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&format!("seeds = {all:?}"), &format!("seeds = {:?}", &all[..1]))).unwrap();
    let fourth = Running::start(&path);
    fourth.until(ADD).await;
    let printed = fourth.printed();
    let directory: String = printed.split_once(ADD).unwrap().1.chars().take(36).collect();
    for node in [&third, &second] {
        // Once more changes nothing.
        let (code, _, error) = node.cluster(&["add", "--directory", &directory]).await;
        assert_eq!(code, Some(0), "{error}");
    }
    fourth.client().await;
    let status = first.sees(|status| status["nodes"].as_array().unwrap().len() == 4).await;
    assert_eq!(node(&status, 4)["address"], *all[3]);
}
