//! The server over real HTTP on loopback, with trained and tiny models.
//!
//! Every test starts servers of its own on free ports; nothing is timed, nothing leaves the machine.

mod answers;
mod client;
mod connections;
mod embeddings;
mod faults;
mod faulty;
mod limits;
mod replicas;
mod security;
mod support;
