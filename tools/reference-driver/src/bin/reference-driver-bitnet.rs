//! The driver that is linked to bitnet's libraries, where the build script found them.

#[cfg(reference_bitnet)]
#[path = "../evaluate.rs"]
mod evaluate;
#[cfg(not(reference_bitnet))]
#[path = "../missing.rs"]
mod missing;
#[cfg(reference_bitnet)]
#[path = "../session.rs"]
mod session;
#[cfg(reference_bitnet)]
#[path = "../taps.rs"]
mod taps;

#[cfg(reference_bitnet)]
fn main() -> std::process::ExitCode {
    evaluate::main("bitnet", env!("REFERENCE_BITNET_VERSION"))
}

#[cfg(not(reference_bitnet))]
fn main() -> std::process::ExitCode {
    missing::main("bitnet", include_str!(concat!(env!("OUT_DIR"), "/bitnet.txt")))
}
