//! Receipts of what was done: written by the steps, judged by a stranger.
//!
//! [`store`] writes and reads the files, [`gates`] judges what they say, [`verify`] is the command. Deliberately absent: any field that says whether the compute was real;
//! that is derived from what a receipt holds and what can still be checked.

mod counters;
pub mod gates;
pub mod machine;
pub mod store;
pub mod verify;

#[cfg(test)]
mod tests;
