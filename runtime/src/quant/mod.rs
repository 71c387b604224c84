//! Block formats of weights: packing and unpacking rows.

pub mod activation;
