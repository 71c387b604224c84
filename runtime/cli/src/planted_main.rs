//! `bitnet-planted`: the `bitnet` binary with `--plant NAME[@LAYER]` anywhere among its arguments.

use std::ffi::OsString;

fn main() -> std::process::ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--plant") {
        args.remove(at);
        let name = if at < args.len() { args.remove(at) } else { OsString::new() };
        if let Err(error) = bitnet_runtime::planted::plant(&name.to_string_lossy()) {
            eprintln!("error: {error}");
            return error.exit_code().into();
        }
    }
    bitnet_cli::run(args)
}
