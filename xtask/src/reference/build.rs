//! Building one reference: the key, the lock, cmake and ninja, and the manifest that makes a build complete.
//!
//! In: a [`Recipe`]. Out: `CACHE/references/NAME-KEY` with `lib`, `include`, `build.log` and `manifest.json`.
//! The manifest is written last, by a rename: a folder without one is unfinished, and the next build goes on
//! where it stopped. Deliberately absent: what the libraries can do.

use super::failure;
use super::pins::{Pin, Pins};
use super::source::{Tree, digest_file, hex};
use super::stage::{self, Change};
use super::tools::{self, Compiler};
use crate::cli::{self, Cpu, Kernels, Linkage, ReferenceName};
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::lock::{lock, share_with_children};
use crate::proc::{self, Command, Finished, Stdout};
use crate::report::bytes;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Everything that decides what a build is.
pub struct Recipe {
    pub name: ReferenceName,
    pub tree: Tree,
    pub variant: Variant,
    /// `NAME=VALUE` for cmake, without the compiler.
    pub flags: Vec<String>,
    pub compiler: Compiler,
    pub changes: Vec<Change>,
    pub key: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    pub kernels: Kernels,
    pub cpu: Cpu,
    pub linkage: Linkage,
}

/// `manifest.json` of a finished build. Paths are relative to its folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub schema: u32,
    pub name: String,
    pub key: String,
    pub source: String,
    pub source_sha256: String,
    pub variant: Variant,
    pub flags: Vec<String>,
    pub compiler: String,
    pub compiler_sha256: String,
    pub patches: Vec<Change>,
    pub seconds: f64,
    pub libraries: Vec<Library>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Library {
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Built {
    pub name: String,
    pub dir: PathBuf,
    /// Whether it was there before.
    pub cached: bool,
}

impl Recipe {
    pub fn new(
        ctx: &Ctx,
        pins: &Pins,
        args: &cli::ReferenceBuild,
        name: ReferenceName,
        cache: &Path,
    ) -> Result<Self> {
        let pin = pins.get(name);
        let compiler = Compiler::find(ctx, args.compiler)?;
        let tree = args.source.obtain(ctx, pin, cache)?;
        let changes = stage::changes(ctx.root()?, pin, &tree, args.kernels)?;
        let variant = Variant { kernels: args.kernels, cpu: args.cpu, linkage: args.linkage };
        let flags = flags(pin, name, variant);
        let mut recipe = Recipe { name, tree, variant, flags, compiler, changes, key: String::new() };
        recipe.key = recipe.digest();
        Ok(recipe)
    }

    /// sha256 over source, flags, compiler and patches; a native build also depends on the CPU.
    fn digest(&self) -> String {
        let cpu = if self.variant.cpu == Cpu::Native { cpu_features() } else { String::new() };
        let changes: Vec<_> = self.changes.iter().map(|change| (&change.path, &change.sha256)).collect();
        let parts =
            serde_json::json!([1, self.tree.digest, self.flags, self.compiler.identity, changes, cpu]);
        hex(&Sha256::digest(parts.to_string().as_bytes()))[..16].to_string()
    }

    pub fn dir(&self, cache: &Path) -> PathBuf {
        cache.join(format!("{}-{}", self.name.name(), self.key))
    }
}

fn flags(pin: &Pin, name: ReferenceName, variant: Variant) -> Vec<String> {
    let on = |yes: bool| if yes { "ON" } else { "OFF" };
    let mut flags = pin.flags.clone();
    flags.push(format!("BUILD_SHARED_LIBS={}", on(variant.linkage == Linkage::Shared)));
    flags.push(format!("GGML_NATIVE={}", on(variant.cpu == Cpu::Native)));
    if name == ReferenceName::Bitnet {
        flags.push(format!("BITNET_X86_TL2={}", on(variant.kernels == Kernels::Tl2)));
    }
    // Libraries find each other next to themselves, so the folder may be moved.
    flags.extend(["CMAKE_BUILD_WITH_INSTALL_RPATH=ON", "CMAKE_INSTALL_RPATH=$ORIGIN"].map(String::from));
    flags
        .extend(["CMAKE_POSITION_INDEPENDENT_CODE=ON", "CMAKE_POLICY_VERSION_MINIMUM=3.5"].map(String::from));
    flags
}

/// The CPU's feature flags, sorted; empty where they cannot be read.
fn cpu_features() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let mut words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    words.sort_unstable();
    words.join(" ")
}

/// Builds, or finds the finished build. `cache` is `CACHE/references`.
pub fn build(
    ctx: &Ctx,
    pins: &Pins,
    recipe: &Recipe,
    cache: &Path,
    args: &cli::ReferenceBuild,
) -> Result<Built> {
    let name = recipe.name.name();
    let dir = recipe.dir(cache);
    let built = |cached| Built { name: name.into(), dir: dir.clone(), cached };
    if read_manifest(&dir).is_some() {
        return Ok(built(true));
    }
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let lock = lock(ctx, &cache.join(format!("{name}-{}.lock", recipe.key)))?;
    // Whoever held the lock may have finished it, or `clean` removed it.
    if read_manifest(&dir).is_some() {
        return Ok(built(true));
    }
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    if args.launcher.is_none() {
        // Where this process is killed, the next build waits until its compilers are gone. A launcher's daemon
        // would hold the lock for good.
        share_with_children(&lock)?;
    }
    enough_space(recipe, cache)?;
    let start = Instant::now();
    let tools = tools::build_tools(ctx, &pins.tools, cache)?;
    for change in &recipe.changes {
        ctx.out.line(format!("  {}: {} ({})", name, change.path, change.reason));
    }
    let source = stage::stage(&recipe.tree, &recipe.changes, &dir.join("source"))?;
    let tree = dir.join("build");
    forget_other_source(&tree, &source)?;
    // In the build's own folder: zig writes a file named - where cmake asks it for standard output.
    let mut configure =
        Command::new(&tools.cmake).dir(&dir).args(["-S"]).args([&source]).args(["-B"]).args([&tree]).args([
            "-G".to_string(),
            "Ninja".to_string(),
            format!("-DCMAKE_MAKE_PROGRAM={}", tools.ninja.display()),
        ]);
    configure = configure
        .args(recipe.compiler.definitions().iter().chain(&recipe.flags).map(|flag| format!("-D{flag}")));
    if let Some(launcher) = args.launcher {
        let launcher = tools::launcher(ctx, launcher)?;
        for language in ["C", "CXX"] {
            configure =
                configure.args([format!("-DCMAKE_{language}_COMPILER_LAUNCHER={}", launcher.display())]);
        }
    }
    let mut progress = ctx.out.progress(format!("building {name}"));
    let log = dir.join("configure.log");
    let finished = proc::run(ctx, &configure, Stdout::Log, &log, |line| progress.message(line))?;
    judge(name, "configuring", finished)?;
    let mut compile = Command::new(&tools.ninja).args(["-C"]).args([&tree]);
    if let Some(jobs) = args.jobs {
        compile = compile.args(["-j".to_string(), jobs.to_string()]);
    }
    compile = compile.args(&pins.get(recipe.name).targets);
    let log = dir.join("build.log");
    let finished = proc::run(ctx, &compile, Stdout::Log, &log, |line| progress.message(line))?;
    judge(name, "compiling", finished)?;
    drop(progress);
    collect(ctx, recipe, &source, &tree, &dir, start)?;
    Ok(built(false))
}

/// cmake refuses a build tree that was configured for the same files in another place.
fn forget_other_source(tree: &Path, source: &Path) -> Result<()> {
    let text = fs::read_to_string(tree.join("CMakeCache.txt")).unwrap_or_default();
    let home = text.lines().find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="));
    if home.is_some_and(|home| Path::new(home) != source) {
        fs::remove_dir_all(tree).with_context(|| format!("removing {}", tree.display()))?;
    }
    Ok(())
}

/// A failed step as an error that names the cause and the remedy.
fn judge(name: &str, step: &str, finished: Finished) -> Result<()> {
    if finished.success() {
        return Ok(());
    }
    let output = fs::read(&finished.log).unwrap_or_default();
    let (code, why) = match failure::recognize(&String::from_utf8_lossy(&output)) {
        Some(cause) => (cause.code, format!("{}; {}", cause.name, cause.remedy)),
        None => (ExitCode::CheckFailed, "the cause is not one that is known".to_string()),
    };
    fail(code, format!("{step} {name}: {why}\n{}", finished.explain()))
}

/// Takes libraries and headers out of the build tree, writes the manifest, and frees the tree.
fn collect(ctx: &Ctx, recipe: &Recipe, source: &Path, tree: &Path, dir: &Path, start: Instant) -> Result<()> {
    let lib = dir.join("lib");
    let include = dir.join("include");
    for folder in [&lib, &include] {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
        }
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let mut libraries = Vec::new();
    let mut open = vec![tree.to_path_buf()];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().with_context(|| format!("looking at {}", path.display()))?;
            let is_library = name.starts_with("lib")
                && (name.contains(".so") || name.ends_with(".a") || name.ends_with(".dylib"));
            if kind.is_dir() {
                open.push(path);
            } else if is_library && kind.is_symlink() {
                let target = fs::read_link(&path).with_context(|| format!("reading {}", path.display()))?;
                let link = lib.join(&name);
                std::os::unix::fs::symlink(target.file_name().unwrap_or_default(), &link)
                    .with_context(|| format!("creating {}", link.display()))?;
            } else if is_library {
                let to = lib.join(&name);
                let size = fs::copy(&path, &to).with_context(|| format!("copying to {}", to.display()))?;
                libraries.push(Library {
                    path: format!("lib/{name}"),
                    bytes: size,
                    sha256: digest_file(&to)?,
                });
            }
        }
    }
    if libraries.is_empty() {
        return fail(ExitCode::BadInput, format!("the build left no library in {}", tree.display()));
    }
    libraries.sort_by(|a, b| a.path.cmp(&b.path));
    for folder in bitforge_discovery::HEADER_FOLDERS {
        for entry in fs::read_dir(source.join(folder)).into_iter().flatten().flatten() {
            let to = include.join(entry.file_name());
            if entry.path().extension().is_some_and(|end| end == "h") && !to.exists() {
                fs::copy(entry.path(), &to).with_context(|| format!("copying to {}", to.display()))?;
            }
        }
    }
    let manifest = Manifest {
        schema: 1,
        name: recipe.name.name().into(),
        key: recipe.key.clone(),
        source: recipe.tree.origin.clone(),
        source_sha256: recipe.tree.digest.clone(),
        variant: recipe.variant,
        flags: recipe.flags.clone(),
        compiler: recipe.compiler.version.clone(),
        compiler_sha256: recipe.compiler.identity.clone(),
        patches: recipe.changes.clone(),
        seconds: (start.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        libraries,
    };
    let text = serde_json::to_string_pretty(&manifest).context("serializing the manifest")? + "\n";
    let partial = dir.join("manifest.json.partial");
    fs::write(&partial, text).with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, dir.join("manifest.json"))
        .with_context(|| format!("renaming {}", partial.display()))?;
    touch_stamp(ctx)?;
    // The build is complete; what cannot be freed now is freed by `reference clean`.
    let _ = fs::remove_dir_all(tree);
    let _ = fs::remove_dir_all(dir.join("source"));
    Ok(())
}

/// Tells the driver's build script that there is a build more or less.
pub fn touch_stamp(ctx: &Ctx) -> Result<()> {
    let Some(stamp) = bitforge_discovery::stamp(&ctx.env) else { return Ok(()) };
    let text = format!("{:?}\n", std::time::SystemTime::now());
    fs::write(&stamp, text).with_context(|| format!("writing {}", stamp.display()))
}

/// The manifest of a finished build whose libraries are all there with their sizes.
pub fn read_manifest(dir: &Path) -> Option<Manifest> {
    let manifest: Manifest =
        serde_json::from_str(&fs::read_to_string(dir.join("manifest.json")).ok()?).ok()?;
    let there = |library: &Library| {
        fs::metadata(dir.join(&library.path)).is_ok_and(|meta| meta.len() == library.bytes)
    };
    manifest.libraries.iter().all(there).then_some(manifest)
}

/// A disk that cannot hold the build is named before cmake meets it.
fn enough_space(recipe: &Recipe, cache: &Path) -> Result<()> {
    // Object files, libraries and a copy of the tree: about four times the source, seen with both references.
    let needed = 4 * recipe.tree.bytes;
    let free = crate::preflight::machine::free_space(cache)?;
    if free < needed {
        let (free, needed) = (bytes(free), bytes(needed));
        let dir = cache.display();
        return fail(
            ExitCode::Limit,
            format!(
                "{dir} has {free} free and building {} needs {needed}; free some with `cargo xtask clean`, or set BITNET_CACHE_DIR to another disk",
                recipe.name.name()
            ),
        );
    }
    Ok(())
}
