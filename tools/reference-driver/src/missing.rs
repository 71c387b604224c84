//! What the binary says when its reference was not there at build time.

use bitforge_schema::exit::ExitCode;

/// Prints the search that the build script made.
pub fn main(reference: &str, search: &str) -> std::process::ExitCode {
    eprintln!(
        "this binary was built without {reference}; run `cargo xtask reference build {reference}` and build it again"
    );
    eprintln!("{search}");
    ExitCode::Unavailable.into()
}
