//! Prints what proposals cost on this machine: CPU per proposal and per row, latency, and the CPU of idle groups.
//!
//! `cargo run --release -p everlog-raft --example proposal_cost [directory]` (the directory decides which disk is used)

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::collections::VecDeque;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use everlog_raft::{EntryStamp, Group, GroupReplica, Hlc, Leadership, Node, NodeOptions};
use everlog_storage::state::{RowBatch, RowChange};
use everlog_storage::{GroupId, LogOptions, RocksState, SegmentLog, StateOptions};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const GROUPS: u32 = 5;
const IN_FLIGHT: usize = 4;
const ROW_BYTES: usize = 256;

#[tokio::main]
async fn main() -> Outcome<()> {
    let temporary = tempfile::tempdir()?;
    let path = std::env::args().nth(1).map_or_else(|| temporary.path().to_path_buf(), PathBuf::from);
    let log = SegmentLog::open(&path.join("log"), LogOptions::default())?;
    let state = RocksState::open(&path.join("state"), StateOptions::default())?;
    let node = Node::new(NodeOptions::default(), Arc::new(log), Arc::new(state));

    let started = Instant::now();
    let mut groups = Vec::new();
    for id in 0..GROUPS {
        groups.push(node.create_group(GroupReplica::founding(GroupId(id))).await?);
    }
    for group in &groups {
        term(group).await?;
    }
    println!("{GROUPS} groups opened and led after {:.1?}", started.elapsed());

    let (cpu, started) = (cpu_time()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    println!("{GROUPS} idle groups: {:.2} % of a core", share(cpu_time()? - cpu, started.elapsed()));

    println!("groups  rows/proposal  in flight  proposals/s  CPU/proposal  CPU/row  latency");
    for group_count in [1, GROUPS as usize] {
        for (rows, in_flight) in [(1, 1), (1, IN_FLIGHT), (16, IN_FLIGHT), (128, IN_FLIGHT)] {
            measure(&groups[..group_count], rows, in_flight).await?;
        }
    }
    node.shutdown().await?;
    Ok(())
}

async fn measure(groups: &[Group], rows: usize, in_flight: usize) -> Outcome<()> {
    const LONG: Duration = Duration::from_secs(3);
    let (cpu, started) = (cpu_time()?, Instant::now());
    let mut writers = tokio::task::JoinSet::new();
    for group in groups {
        let group = group.clone();
        writers.spawn(async move {
            let mut next = group.applied_chain().next_epoch(term(&group).await?).start();
            let (mut proposals, mut latency) = (0_u32, Duration::ZERO);
            let mut outcomes = VecDeque::new();
            while started.elapsed() < LONG || !outcomes.is_empty() {
                if outcomes.len() < in_flight && started.elapsed() < LONG {
                    let stamp = EntryStamp { chain: next, hlc: Hlc(u64::from(proposals)) };
                    outcomes.push_back((Instant::now(), group.propose(stamp, batch(proposals, rows))?));
                    next = next.next();
                    proposals += 1;
                } else if let Some((proposed, outcome)) = outcomes.pop_front() {
                    outcome.await??;
                    latency += proposed.elapsed();
                }
            }
            Outcome::Ok((proposals, latency))
        });
    }
    let (mut proposals, mut latency) = (0, Duration::ZERO);
    while let Some(written) = writers.join_next().await {
        let (more, spent) = written??;
        proposals += more;
        latency += spent;
    }
    let (cpu, elapsed) = (cpu_time()? - cpu, started.elapsed());
    println!(
        "{:>6}  {rows:>13}  {in_flight:>9}  {:>11.0}  {:>12.1?}  {:>7.1?}  {:.2?}",
        groups.len(),
        f64::from(proposals) / elapsed.as_secs_f64(),
        cpu / proposals,
        cpu / proposals / rows as u32,
        latency / proposals,
    );
    Ok(())
}

fn batch(proposal: u32, rows: usize) -> RowBatch {
    let row = |row: usize| {
        let key = Bytes::from(format!("k{:016x}{row:04x}", u64::from(proposal).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        RowChange::Put { key, value: Bytes::from(vec![row as u8; ROW_BYTES]) }
    };
    RowBatch { changes: (0..rows).map(row).collect() }
}

async fn term(group: &Group) -> Outcome<u64> {
    let mut leadership = group.leadership();
    match *leadership.wait_for(|now| *now != Leadership::Follower).await? {
        Leadership::Leader { term } => Ok(term),
        _ => Err("the group has stopped".into()),
    }
}

/// User and system time of this process so far, from the kernel's count of ticks of 10 ms.
fn cpu_time() -> Outcome<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no command name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn share(cpu: Duration, elapsed: Duration) -> f64 {
    100.0 * cpu.as_secs_f64() / elapsed.as_secs_f64()
}
