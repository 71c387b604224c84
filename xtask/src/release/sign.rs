//! Signatures by an SSH key, in a sidecar `FILE.sig`.
//!
//! In: a file and the path of a key. Out: what `ssh-keygen -Y` makes of them. The key is read by ssh-keygen alone and never
//! copied. Deliberately absent: keys of other kinds.

use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::proc::{self, Command};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use std::path::{Path, PathBuf};

/// What signatures are for: one made for something else is not taken.
const NAMESPACE: &str = "bitforge-release";

/// Where the signature of `path` lies.
pub fn sidecar(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Signs `path` with the private key in the file `key`.
pub fn sign(ctx: &Ctx, key: &Path, path: &Path) -> Result<()> {
    let sig = sidecar(path);
    if sig.exists() {
        std::fs::remove_file(&sig).with_context(|| format!("removing {}", sig.display()))?;
    }
    let command =
        Command::new("ssh-keygen").args(["-Y", "sign", "-q", "-n", NAMESPACE, "-f"]).args([key, path]);
    proc::read(ctx, &command).with_context(|| format!("signing {}", path.display()))?;
    Ok(())
}

/// Checks the signature of `path` against the public key in the file `key`.
///
/// # Errors
/// [`ExitCode::NotFound`] without a signature, [`ExitCode::Mismatch`] where it is not of this key and these bytes.
pub fn verify(ctx: &Ctx, key: &Path, path: &Path) -> Result<()> {
    let sig = sidecar(path);
    if !sig.is_file() {
        let message =
            format!("a key was given, and {} is not there; fetch it beside the archive", sig.display());
        return fail(ExitCode::NotFound, message);
    }
    let text = std::fs::read_to_string(key)
        .map_err(|error| Failure::new(ExitCode::NotFound, format!("the key {}: {error}", key.display())))?;
    let allowed = tempfile::NamedTempFile::new().context("creating a file")?;
    std::fs::write(allowed.path(), format!("release namespaces=\"{NAMESPACE}\" {}\n", text.trim()))
        .context("writing a file")?;
    // ssh-keygen reads what was signed from its standard input.
    let script = "exec ssh-keygen -Y verify -q -I release -n \"$1\" -f \"$2\" -s \"$3\" < \"$4\"";
    let command = Command::new("sh").args(["-c", script, "sh", NAMESPACE]).args([allowed.path(), &sig, path]);
    proc::read(ctx, &command).map(drop).map_err(|error| {
        let message = format!(
            "{} is no signature of {} by {}: {error:#}",
            sig.display(),
            path.display(),
            key.display()
        );
        Failure::new(ExitCode::Mismatch, message).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::code_of;

    #[test]
    fn a_signature_is_of_one_key_and_of_these_bytes() {
        let ctx = Ctx::new(None, Default::default(), crate::report::Reporter::for_tests());
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["ours", "other"] {
            let make = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]);
            if let Err(error) = proc::read(&ctx, &make.args([at(name)])) {
                let text = format!("{error:#}");
                assert!(
                    code_of(&error) == ExitCode::Toolchain && text.contains("could not be started"),
                    "{text}"
                );
                // Past the test harness, which keeps what `eprintln` prints.
                let told = std::io::Write::write_all(
                    &mut std::io::stderr(),
                    b"SKIPPED: no ssh-keygen here, so nothing can be signed\n",
                );
                told.unwrap();
                return;
            }
        }
        std::fs::write(at("a"), "bytes").unwrap();
        assert_eq!(code_of(&verify(&ctx, &at("ours.pub"), &at("a")).unwrap_err()), ExitCode::NotFound);
        sign(&ctx, &at("ours"), &at("a")).unwrap();
        verify(&ctx, &at("ours.pub"), &at("a")).unwrap();
        assert_eq!(code_of(&verify(&ctx, &at("other.pub"), &at("a")).unwrap_err()), ExitCode::Mismatch);
        std::fs::write(at("a"), "Bytes").unwrap();
        assert_eq!(code_of(&verify(&ctx, &at("ours.pub"), &at("a")).unwrap_err()), ExitCode::Mismatch);
    }
}
