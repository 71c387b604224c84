//! The `bitnet` binary; see [`bitnet_runtime::cli`].

fn main() -> std::process::ExitCode {
    bitnet_runtime::cli::main()
}
