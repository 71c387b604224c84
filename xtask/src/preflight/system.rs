//! The machine as the checks see it: files below a root that tests can plant, programs on the PATH of the
//! given environment, and the package manager's install command.

use crate::ctx::Ctx;
use crate::proc::{self, Command, Probe};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct System<'a> {
    pub ctx: &'a Ctx,
    /// `/`, or a planted tree in tests.
    pub sysroot: &'a Path,
}

/// Names of one package per package manager.
pub struct Package {
    pub apt: &'static str,
    pub dnf: &'static str,
    pub apk: &'static str,
    pub brew: &'static str,
}

impl System<'_> {
    /// How long a program that only prints its version may take.
    const PROBE: Duration = Duration::from_millis(800);

    pub fn path(&self, absolute: &str) -> PathBuf {
        self.sysroot.join(absolute.trim_start_matches('/'))
    }

    pub fn read(&self, absolute: &str) -> Option<String> {
        std::fs::read_to_string(self.path(absolute)).ok()
    }

    /// Entries of a folder, sorted; none where it cannot be read.
    pub fn list(&self, absolute: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path(absolute)).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }

    /// The first file named `program` on PATH.
    pub fn which(&self, program: &str) -> Option<PathBuf> {
        let path = self.ctx.env.get("PATH")?;
        std::env::split_paths(path).map(|dir| dir.join(program)).find(|file| file.is_file())
    }

    pub fn probe(&self, program: &str, args: &[&str]) -> Probe {
        match self.which(program) {
            Some(path) => proc::probe(self.ctx, &Command::new(path).args(args.iter().copied()), Self::PROBE),
            None => Probe::Missing,
        }
    }

    /// The command that installs `package` here.
    pub fn install(&self, package: &Package) -> String {
        let managers = [
            ("apt-get", "apt-get install -y", package.apt),
            ("dnf", "dnf install -y", package.dnf),
            ("apk", "apk add", package.apk),
            ("brew", "brew install", package.brew),
        ];
        let (_, command, name) =
            managers.iter().find(|(program, ..)| self.which(program).is_some()).unwrap_or(&managers[0]);
        format!("{command} {name}")
    }
}
