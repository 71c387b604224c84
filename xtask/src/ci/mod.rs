//! `ci`: the pipeline, defined once in `ci/lanes.toml`.

pub mod lanes;
