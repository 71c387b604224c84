//! What a release is made of, worked out before anything is built.
//!
//! In: git, the workspace's version, the targets asked for. Out: a [`Plan`]: the version, one [`Artifact`] per target and
//! variant with its build, and the order of the steps. `plan` prints it, `build` runs the same value. Deliberately absent: building.

use super::ReleaseArgs;
use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::proc::{self, Command};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::Serialize;

/// Platforms, each on its own and with cuda.
pub const PLATFORMS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// As archives are named: of the tag, otherwise with `-snapshot.gCOMMIT`.
    pub version: String,
    /// As Python wants it.
    pub python_version: String,
    pub snapshot: bool,
    pub commit: String,
    /// Seconds since 1970 of the commit: SOURCE_DATE_EPOCH, and the time of every file.
    pub epoch: u64,
    /// The same as text, in UTC.
    pub created: String,
    pub artifacts: Vec<Artifact>,
}

/// One archive and one wheel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Artifact {
    pub platform: String,
    pub cuda: bool,
    /// The glibc that it is linked against; `None`: this machine's.
    pub glibc: Option<String>,
    /// The folder in the archive, and the archive's name without its endings.
    pub name: String,
    pub steps: Vec<String>,
}

impl Artifact {
    pub fn features(&self) -> &'static [&'static str] {
        if self.cuda { &["cuda"] } else { &[] }
    }

    /// The processor as Python's platform tags call it.
    pub fn machine(&self) -> &str {
        self.platform.split('-').next().unwrap_or_default()
    }
}

/// The plan for what `args` ask.
///
/// # Errors
/// [`ExitCode::Usage`] for a tree with changes, for a commit without a tag and for an unknown target.
pub fn plan(ctx: &Ctx, args: &ReleaseArgs) -> Result<Plan> {
    let root = ctx.root()?;
    let git = |args: &[&str]| {
        let command = Command::new("git").args(args.iter().copied()).dir(root).env("TZ", "UTC");
        proc::read(ctx, &command).map_err(|error| {
            Failure::new(ExitCode::Usage, format!("a release is made from a git checkout: {error:#}"))
        })
    };
    let changes = git(&["status", "--porcelain"])?;
    if !changes.is_empty() {
        let message =
            format!("the tree has changes, and a release is what a commit says; commit or stash:\n{changes}");
        return fail(ExitCode::Usage, message);
    }
    let base = workspace_version(ctx)?;
    let commit = git(&["rev-parse", "HEAD"])?;
    let tagged = git(&["tag", "--points-at", "HEAD"])?.lines().any(|tag| tag == format!("v{base}"));
    if !tagged && !args.allow_untagged {
        let message =
            format!("HEAD has no tag v{base}; set it, or try with --allow-untagged, which marks a snapshot");
        return fail(ExitCode::Usage, message);
    }
    let epoch = git(&["log", "-1", "--format=%ct"])?.parse().context("reading the time of the commit")?;
    let created = git(&["log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ"])?;
    let short = &commit[..commit.len().min(10)];
    let (version, python_version) = match tagged {
        true => (base.clone(), base),
        false => (format!("{base}-snapshot.g{short}"), format!("{base}.dev0+g{short}")),
    };
    let artifacts = artifacts(args, &version)?;
    Ok(Plan { version, python_version, snapshot: !tagged, commit, epoch, created, artifacts })
}

fn workspace_version(ctx: &Ctx) -> Result<String> {
    let path = ctx.root()?.join("Cargo.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let manifest: toml::Value =
        toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    let version = manifest.get("workspace").and_then(|value| value.get("package")?.get("version")?.as_str());
    Ok(version.with_context(|| format!("{} has no workspace.package.version", path.display()))?.into())
}

fn artifacts(args: &ReleaseArgs, version: &str) -> Result<Vec<Artifact>> {
    let known: Vec<String> =
        PLATFORMS.iter().flat_map(|platform| [platform.to_string(), format!("{platform}+cuda")]).collect();
    let wanted = if args.target.is_empty() { &known } else { &args.target };
    let make = |target: &String| {
        if !known.contains(target) {
            let message = format!("no target {target}; there are {}", known.join(", "));
            return fail(ExitCode::Usage, message);
        }
        let (platform, cuda) = match target.strip_suffix("+cuda") {
            Some(platform) => (platform, true),
            None => (target.as_str(), false),
        };
        let glibc = (args.glibc != "host").then(|| args.glibc.clone());
        let name = format!("bitnet-{version}-{platform}{}", if cuda { "-cuda" } else { "" });
        let baseline =
            glibc.as_ref().map_or("this machine's glibc".into(), |glibc| format!("glibc {glibc} (zig)"));
        let mut steps = Vec::new();
        if cuda {
            steps.push("compile the CUDA kernels (kernels build --cuda)".into());
        }
        steps.extend([
            format!("compile bitnet with profile dist, --locked, against {baseline}"),
            "look at the binary: machine, oldest glibc, size; run it".into(),
            "collect licences, man pages, completions, receipts; write the SBOM and the provenance".into(),
            format!("pack {name}.tar.zst and a wheel; verify both"),
        ]);
        if args.key.is_some() {
            steps.push("sign the archive and the wheel".into());
        }
        Ok(Artifact { platform: platform.into(), cuda, glibc, name, steps })
    };
    wanted.iter().map(make).collect()
}

/// The plan for people.
pub fn describe(plan: &Plan, args: &ReleaseArgs) -> String {
    let kind = if plan.snapshot { "snapshot" } else { "release" };
    let mut lines = vec![format!("{kind} {} of commit {} ({})", plan.version, plan.commit, plan.created)];
    for artifact in &plan.artifacts {
        lines.push(artifact.name.clone());
        lines.extend(artifact.steps.iter().enumerate().map(|(n, step)| format!("  {}. {step}", n + 1)));
    }
    if args.twice {
        lines.push("everything once more from a clone in another folder, and compare the bytes".into());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_planned_and_an_unknown_one_is_named() {
        let args = ReleaseArgs { glibc: "2.17".into(), ..Default::default() };
        let all = artifacts(&args, "1.2.3").unwrap();
        let names: Vec<&str> = all.iter().map(|artifact| artifact.name.as_str()).collect();
        assert_eq!(names[1], "bitnet-1.2.3-x86_64-unknown-linux-gnu-cuda");
        assert_eq!(names[2], "bitnet-1.2.3-aarch64-unknown-linux-gnu");
        assert_eq!((all.len(), all[1].steps.len(), all[2].steps.len()), (4, 5, 4));
        let error = artifacts(&ReleaseArgs { target: vec!["riscv".into()], ..args }, "1").unwrap_err();
        assert!(error.to_string().starts_with("no target riscv; there are x86_64"), "{error}");
    }
}
