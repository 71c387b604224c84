//! The sources that references are built from: are they what the lock files pin?
//!
//! In: tools/pins.toml, the Cargo.lock beside each manifest, cargo's registry. Out: one [`Check`] per reference. The archive
//! must have the pinned sha256, and the unpacked tree, which is what is compiled, the archive's contents; cargo looks at the
//! first only when it downloads and at the second never. Deliberately absent: sources that a person names.

use super::Check;
use crate::cli::ReferenceName;
use crate::ctx::Ctx;
use crate::exit::{fail, message_of};
use crate::proc::{self, Command, Stdout};
use crate::reference::pins::{Pin, Pins};
use crate::reference::source::digest_file;
use crate::report::State;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn check(ctx: &Ctx) -> Result<Vec<Check>> {
    let pins = Pins::load(ctx)?;
    ReferenceName::ALL.into_iter().map(|name| reference(ctx, name, pins.get(name))).collect()
}

fn reference(ctx: &Ctx, name: ReferenceName, pin: &Pin) -> Result<Check> {
    let say = |state, detail: String| Ok(Check::new(format!("sources of {}", name.name()), state, detail));
    let what = format!("{} {}", pin.krate, pin.version);
    let manifest = ctx.root()?.join(&pin.manifest);
    let lock = manifest.with_file_name("Cargo.lock");
    let text = std::fs::read_to_string(&lock).with_context(|| format!("reading {}", lock.display()))?;
    let Some(pinned) = checksum(&text, &pin.krate, &pin.version) else {
        return say(State::Fail, format!("{} has no checksum of {what}", lock.display()));
    };
    let Some(archive) = archive(ctx, &format!("{}-{}.crate", pin.krate, pin.version)) else {
        return say(
            State::CouldNotCheck,
            format!("{what} is not in cargo's registry; `cargo xtask reference build` fetches it"),
        );
    };
    let digest = digest_file(&archive)?;
    if digest != pinned {
        return say(
            State::Fail,
            format!("{} has sha256 {digest}, pinned is {pinned}; remove it", archive.display()),
        );
    }
    let Some(unpacked) = unpacked(&archive) else {
        return say(State::Ok, format!("{what}: the archive has the pinned sha256, and is not unpacked"));
    };
    let log = ctx.log_file(&format!("audit-{}", name.name()))?;
    match differences(ctx, &archive, &unpacked, &log) {
        Ok(0) => say(
            State::Ok,
            format!("{what}: the archive has the pinned sha256, the unpacked tree its contents"),
        ),
        Ok(count) => say(
            State::Fail,
            format!(
                "{count} files in {} differ from the archive; remove the folder of {what}",
                unpacked.display()
            ),
        ),
        Err(error) => say(State::CouldNotCheck, message_of(&error)),
    }
}

/// The checksum of a package in a Cargo.lock.
fn checksum(lock: &str, name: &str, version: &str) -> Option<String> {
    let lock: toml::Table = toml::from_str(lock).ok()?;
    let is =
        |package: &toml::Value, key: &str, value: &str| package.get(key)?.as_str().map(|text| text == value);
    let packages = lock.get("package")?.as_array()?;
    let package = packages.iter().find(|package| {
        is(package, "name", name) == Some(true) && is(package, "version", version) == Some(true)
    })?;
    Some(package.get("checksum")?.as_str()?.to_string())
}

/// The file in the cache of any registry (a mirror has a folder of its own).
fn archive(ctx: &Ctx, file: &str) -> Option<PathBuf> {
    let home = ctx.env.get("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(ctx.env.get("HOME")?).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/cache")).ok()?;
    registries.flatten().map(|registry| registry.path().join(file)).find(|path| path.is_file())
}

/// The folder that holds what cargo unpacked of an archive of the cache, where it did.
fn unpacked(archive: &Path) -> Option<PathBuf> {
    let registry = archive.parent()?;
    let sources = registry.parent()?.with_file_name("src").join(registry.file_name()?);
    sources.join(archive.file_stem()?).is_dir().then_some(sources)
}

/// How many files of the archive are not below `folder`, or differ there.
fn differences(ctx: &Ctx, archive: &Path, folder: &Path, log: &Path) -> Result<usize> {
    let command = Command::new("tar")
        .args(["--diff", "-z", "--file"])
        .args([archive])
        .args(["--directory"])
        .args([folder])
        .env("LC_ALL", "C")
        .limit(Duration::from_secs(120));
    let mut count = 0;
    // A file that is not there is on stderr, one that differs on stdout.
    let finished =
        proc::run(ctx, &command, Stdout::Capture, log, |line| count += usize::from(is_difference(line)))?;
    count += finished.stdout.lines().filter(|line| is_difference(line)).count();
    // 1: something differs, be it a time; 2: trouble, be it a file that is not there.
    if finished.success() || finished.code == Some(1) || count > 0 {
        return Ok(count);
    }
    fail(ExitCode::Unavailable, finished.explain())
}

/// Differences of time, mode and owner are of no matter.
fn is_difference(line: &str) -> bool {
    ["Contents differ", "Size differs", "No such file", "File type differs"]
        .iter()
        .any(|text| line.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Reporter;
    use bitforge_schema::env::Env;

    #[test]
    fn a_checksum_is_that_of_the_pinned_version() {
        let lock = r#"
            [[package]]
            name = "a"
            version = "1.0.0"
            checksum = "00"
            [[package]]
            name = "a"
            version = "2.0.0"
            checksum = "11"
        "#;
        assert_eq!(checksum(lock, "a", "2.0.0").as_deref(), Some("11"));
        assert_eq!(checksum(lock, "a", "3.0.0"), None);
        assert_eq!(checksum(lock, "b", "1.0.0"), None);
    }

    #[test]
    fn the_lock_files_pin_what_pins_toml_names() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let ctx = Ctx::new(Some(root.clone()), Env::default(), Reporter::for_tests());
        let pins = Pins::load(&ctx).unwrap();
        for name in ReferenceName::ALL {
            let pin = pins.get(name);
            let lock =
                std::fs::read_to_string(root.join(&pin.manifest).with_file_name("Cargo.lock")).unwrap();
            assert_eq!(checksum(&lock, &pin.krate, &pin.version).unwrap().len(), 64, "{}", pin.krate);
        }
    }

    #[test]
    fn an_edited_a_missing_and_an_equal_file_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("src/a-1");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("one.cpp"), "int one;").unwrap();
        std::fs::write(tree.join("two.cpp"), "int two;").unwrap();
        let ctx = Ctx::new(None, Env::default(), Reporter::for_tests());
        let archive = dir.path().join("a-1.crate");
        let pack =
            Command::new("tar").args(["-C"]).args([dir.path().join("src")]).args(["-czf"]).args([&archive]);
        proc::read(&ctx, &pack.args(["a-1"])).unwrap();
        let count = || differences(&ctx, &archive, &dir.path().join("src"), &dir.path().join("log")).unwrap();
        assert_eq!(count(), 0);
        std::fs::write(tree.join("one.cpp"), "int 0ne;").unwrap();
        assert_eq!(count(), 1);
        std::fs::remove_file(tree.join("two.cpp")).unwrap();
        assert_eq!(count(), 2);
    }
}
