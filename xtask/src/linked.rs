//! The crates that a program of the workspace is compiled from.
//!
//! In: the package, a platform, features. Out: every crate with its version. Asked of `cargo tree`, which resolves features for
//! one package as `cargo build -p` does; `cargo metadata` unites those of the whole workspace and of its tests, and names crates that are
//! in no program. Deliberately absent: build scripts and what they use.

use crate::ctx::Ctx;
use crate::proc;
use anyhow::Result;
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Linked {
    pub name: String,
    pub version: String,
    /// Run by the compiler: nothing of it is in the binary but what it wrote.
    pub proc_macro: bool,
}

impl Linked {
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// What `package` is compiled from, itself included.
pub fn crates(ctx: &Ctx, package: &str, platform: &str, features: &[&str]) -> Result<BTreeSet<Linked>> {
    let command = ctx
        .cargo(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"])?
        .args(["--package", package, "--target", platform])
        .args(["--features".to_string(), features.join(",")]);
    Ok(parse(&proc::read(ctx, &command)?))
}

/// Lines such as `serde_derive v1.0.0 (proc-macro) (*)`.
fn parse(text: &str) -> BTreeSet<Linked> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(" v")?;
        let version = rest.split(' ').next()?;
        let proc_macro = rest.contains("(proc-macro)");
        Some(Linked { name: name.into(), version: version.into(), proc_macro })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_is_there_once_and_macros_are_told_apart() {
        let text = "a v0.1.0 (/somewhere/a v2)\nb v1.2.3+x\nc_derive v2.0.0 (proc-macro)\n\nb v1.2.3+x (*)\nb v0.9.0\n";
        let found: Vec<_> = parse(text).iter().map(|krate| (krate.id(), krate.proc_macro)).collect();
        let wanted = [("a@0.1.0", false), ("b@0.9.0", false), ("b@1.2.3+x", false), ("c_derive@2.0.0", true)];
        assert_eq!(found, wanted.map(|(id, proc_macro)| (id.to_string(), proc_macro)));
    }
}
