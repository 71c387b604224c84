//! The driver that is linked to llama's libraries, where the build script found them.

#[cfg(reference_llama)]
#[path = "../evaluate.rs"]
mod evaluate;
#[cfg(not(reference_llama))]
#[path = "../missing.rs"]
mod missing;
#[cfg(reference_llama)]
#[path = "../session.rs"]
mod session;
#[cfg(reference_llama)]
#[path = "../taps.rs"]
mod taps;

#[cfg(reference_llama)]
fn main() -> std::process::ExitCode {
    evaluate::main("llama", env!("REFERENCE_LLAMA_VERSION"))
}

#[cfg(not(reference_llama))]
fn main() -> std::process::ExitCode {
    missing::main("llama", include_str!(concat!(env!("OUT_DIR"), "/llama.txt")))
}
