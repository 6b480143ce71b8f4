//! The HTTP JSON API: Temporal's methods for whoever has no SDK. (Temporal: `service/frontend/http_api_server.go`, grpc-gateway.)
//!
//! ```text
//!   verb, path ─▶ routes ─▶ method      JSON, query, path ─▶ json, fields ─▶ request
//!                                                                              │ call: gRPC, in this process
//!   HTTP status, JSON ◀─ errors, json ◀──────────────────────────── response ◀─┘
//! ```
//!
//! Nothing here knows a method: a table (`routes`) names them, and messages are read and written by their descriptors (`json`). So
//! a method that gRPC answers is answered here, with the same checks, bounds and errors, on whichever node its workflow is led. From the
//! same table and descriptors documents are made that say what there is (`openapi`). What the pages of Temporal's Web UI ask of their own
//! server besides is in `pages`.

mod call;
mod encoding;
mod errors;
mod fields;
mod json;
mod metadata;
mod openapi;
mod origins;
mod pages;
mod path;
mod routes;
mod serve;

pub use serve::{Api, Settings};
