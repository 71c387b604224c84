//! The driver that is linked to bitnet's libraries, where the build script found them.

#[cfg(reference_bitnet)]
#[path = "../commands.rs"]
mod commands;
#[cfg(not(reference_bitnet))]
#[path = "../missing.rs"]
mod missing;
#[cfg(reference_bitnet)]
#[path = "../session.rs"]
mod session;

#[cfg(reference_bitnet)]
fn main() -> std::process::ExitCode {
    commands::main("bitnet")
}

#[cfg(not(reference_bitnet))]
fn main() -> std::process::ExitCode {
    missing::main("bitnet", include_str!(concat!(env!("OUT_DIR"), "/bitnet.txt")))
}
