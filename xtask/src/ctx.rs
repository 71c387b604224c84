//! What every command gets as its first parameter: the checkout, the environment and the reporter, as values.
//!
//! In: the process environment and the global flags. Out: [`Ctx`]. Deliberately absent: behaviour, and any
//! write to the process environment; tests build a `Ctx` of their own.

use crate::exit::Failure;
use crate::proc::Command;
use crate::report::{Format, Reporter};
use anyhow::{Context, Result};
use bitforge_schema::env::Env;
use bitforge_schema::exit::ExitCode;
use bitforge_schema::paths;
use std::path::{Path, PathBuf};

#[derive(Clone)]
pub struct Ctx {
    /// The checkout, where one was found.
    root: Option<PathBuf>,
    pub env: Env,
    pub out: Reporter,
    /// Never touch the network (`--offline` or `BITNET_OFFLINE=1`).
    pub offline: bool,
}

impl Ctx {
    pub fn new(root: Option<PathBuf>, env: Env, out: Reporter) -> Self {
        let offline = env.get("BITNET_OFFLINE").is_some_and(|value| value != "0");
        Ctx { root, env, out, offline }
    }

    /// The same for a part of a command whose JSON the whole command prints.
    pub fn for_people(&self) -> Self {
        let mut out = self.out;
        out.format = Format::Human;
        Ctx { out, ..self.clone() }
    }

    /// The root of the checkout: the folder with `xtask/Cargo.toml`.
    pub fn root(&self) -> Result<&Path> {
        self.root.as_deref().ok_or_else(|| {
            Failure::new(ExitCode::Usage, "not inside a bitforge checkout; change into one and run it again")
                .into()
        })
    }

    /// The folder for fetched models and built references.
    pub fn cache_dir(&self) -> Result<PathBuf> {
        paths::cache_dir(&self.env).ok_or_else(|| {
            Failure::new(
                ExitCode::Usage,
                "no cache folder: HOME is not set; set BITNET_CACHE_DIR to a directory",
            )
            .into()
        })
    }

    /// The folder cargo builds into.
    pub fn target_dir(&self) -> Result<PathBuf> {
        let root = self.root()?;
        Ok(self.env.get("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir)))
    }

    /// The file that keeps the whole output of the long command `name`.
    pub fn log_file(&self, name: &str) -> Result<PathBuf> {
        let dir = self.target_dir()?.join("logs");
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir.join(format!("{name}.log")))
    }

    /// A cargo command in the root: the cargo that runs this xtask, without network where that was asked for.
    pub fn cargo<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Command> {
        let cargo = self.env.get("CARGO").unwrap_or("cargo");
        let command = Command::new(cargo).args(args).dir(self.root()?);
        Ok(if self.offline { command.env("CARGO_NET_OFFLINE", "true") } else { command })
    }
}

/// Finds the checkout: from `start` upwards, otherwise where cargo says that xtask lies.
pub fn find_root(start: &Path, env: &Env) -> Option<PathBuf> {
    let is_root = |dir: &&Path| dir.join("xtask/Cargo.toml").is_file() && dir.join("Cargo.lock").is_file();
    let manifest_dir = env.get("CARGO_MANIFEST_DIR").map(Path::new).unwrap_or(Path::new("/"));
    start.ancestors().chain(manifest_dir.ancestors()).find(is_root).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_found_from_a_sub_folder_and_from_cargo() {
        let dir = tempfile::tempdir().unwrap();
        let xtask = dir.path().join("xtask/src");
        std::fs::create_dir_all(&xtask).unwrap();
        std::fs::write(dir.path().join("xtask/Cargo.toml"), "").unwrap();
        std::fs::write(dir.path().join("Cargo.lock"), "").unwrap();
        let env = Env::default();
        assert_eq!(find_root(&xtask, &env).as_deref(), Some(dir.path()));
        assert_eq!(find_root(Path::new("/"), &env), None);
        let env = Env::from_pairs([("CARGO_MANIFEST_DIR", dir.path().join("xtask").to_str().unwrap())]);
        assert_eq!(find_root(Path::new("/"), &env).as_deref(), Some(dir.path()));
    }

    #[test]
    fn offline_comes_from_the_environment() {
        let ctx = |pairs: &[(&str, &str)]| {
            Ctx::new(None, Env::from_pairs(pairs.iter().copied()), Reporter::for_tests())
        };
        assert!(ctx(&[("BITNET_OFFLINE", "1")]).offline);
        assert!(!ctx(&[("BITNET_OFFLINE", "0")]).offline);
        assert!(!ctx(&[]).offline);
    }
}
