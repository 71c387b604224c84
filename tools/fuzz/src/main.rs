//! libFuzzer over one target: `BITNET_FUZZ_TARGET` names it, every argument is libFuzzer's.
//!
//! One binary for all targets, so that it is built once and carried easily.
#![no_main]

use bitforge_fuzz_targets::Target;
use std::sync::OnceLock;

static TARGET: OnceLock<&Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("BITNET_FUZZ_TARGET").unwrap_or_default();
        let target = bitforge_fuzz_targets::target(&name).unwrap_or_else(|| {
            eprintln!("BITNET_FUZZ_TARGET={name:?} is no target: `cargo xtask fuzz list` prints them");
            std::process::exit(2)
        });
        TARGET.set(target).ok();
    },
    |data: &[u8]| (TARGET.get().expect("set by init").run)(data)
);
