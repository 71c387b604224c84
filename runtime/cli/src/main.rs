//! The `bitnet` binary; see [`bitnet_cli`].

fn main() -> std::process::ExitCode {
    bitnet_cli::main()
}
