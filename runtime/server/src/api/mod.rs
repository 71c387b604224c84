//! The types of the HTTP interface: what is read and what is written, with JSON Schemas generated from them.
//!
//! Names and meanings are OpenAI's; fields of ours are said to be. Unknown fields are ignored, fields that would change
//! the answer and are not supported are refused. Deliberately absent: behaviour, beyond telling what was given.

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod options;
pub mod props;
pub mod reply;
