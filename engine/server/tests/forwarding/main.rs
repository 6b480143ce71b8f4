//! Two nodes, each of which leads one partition: whatever comes to either of them is answered as by one server.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod activities;
mod batch_jobs;
mod calls;
mod cluster;
mod doors;
#[path = "../harness/mod.rs"]
mod harness;
mod lists;
mod messages;
mod metadata;
mod nonsense;
mod queries;
mod requests;
mod tasks;
mod updates;
mod workers;
