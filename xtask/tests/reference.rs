//! `xtask reference` on a tiny tree with planted build tools: caching, and every class of failure.
//!
//! The planted cmake and ninja are shell scripts that call the real compiler and keep objects that are there
//! already, as ninja does; so these tests need no network and take seconds.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const CMAKE: &str = r#"
[ "$1" = --version ] && { echo "cmake version 4.1.2"; exit; }
while [ $# -gt 0 ]; do
  case $1 in
    -S) source=$2; shift ;;
    -B) build=$2; shift ;;
    -DCMAKE_CXX_COMPILER=*) cxx=${1#*=} ;;
  esac
  shift
done
mkdir -p "$build"
printf '%s\n' "$source" "$cxx" > "$build/plan"
"#;

/// Compiles one.cpp and two.cpp unless their objects are there, and links libllama.so. Between the two it runs
/// a hook of the test.
const NINJA: &str = r#"
[ "$1" = --version ] && { echo 1.13.0; exit; }
cd "$2" || exit 1
{ read -r source; read -r cxx; } < plan
for unit in one two; do
  if [ ! -f $unit.o ]; then
    echo "compiling $unit" | tee -a "$TEST_DIR/compiled"
    "$cxx" -fPIC -c "$source/$unit.cpp" -o $unit.tmp || exit 1
    mv $unit.tmp $unit.o
  fi
  [ -f "$TEST_DIR/hook" ] && . "$TEST_DIR/hook"
done
"$cxx" -shared -o libllama.so one.o two.o
"#;

/// In front of every definition: the tree is C and C++ at once.
const EXTERN_C: &str = "\n#ifdef __cplusplus\nextern \"C\"\n#endif\n";

/// Stands in for g++ on a machine that has only gcc: the tree is valid C too.
const GXX_FROM_GCC: &str = r#"
case " $* " in
  *" -c "*) exec gcc -x c "$@" ;;
  *) exec gcc "$@" ;;
esac
"#;

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// A checkout with the planted tools in `bin`, a tiny tree in `tree dir`, and a cache of its own.
struct Planted(tempfile::TempDir);

impl Planted {
    fn new() -> Self {
        let planted = Planted(tempfile::tempdir().unwrap());
        planted.write("Cargo.lock", "");
        planted.write("xtask/Cargo.toml", "");
        planted.write("tools/pins.toml", include_str!("../../tools/pins.toml"));
        planted.write("tools/requirements-build.txt", include_str!("../../tools/requirements-build.txt"));
        for name in ["bitnet-const-y-col", "bitnet-tl2-preset"] {
            let patch = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tools/patches/{name}.patch"));
            planted.write(&format!("tools/patches/{name}.patch"), &std::fs::read_to_string(patch).unwrap());
        }
        planted.program("bin/cmake", CMAKE);
        planted.program("bin/ninja", NINJA);
        planted.write("tree dir/CMakeLists.txt", "project(\"llama.cpp\" C CXX)\n");
        planted.write("tree dir/include/llama.h", "");
        planted.write("tree dir/ggml/include/ggml.h", "");
        planted.write(
            "tree dir/one.cpp",
            &format!("{EXTERN_C} void llama_model_load_from_file() {{}} {EXTERN_C} void llama_init_from_model() {{}}\n"),
        );
        planted.write("tree dir/two.cpp", &format!("{EXTERN_C} void ggml_init() {{}}\n"));
        if !on_path("g++") {
            planted.program("bin/g++", GXX_FROM_GCC);
        }
        planted
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let file = self.path(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    fn program(&self, name: &str, script: &str) {
        self.write(name, &format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn environment(&self, command: &mut Command) {
        command
            .current_dir(self.0.path())
            .env("PATH", format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap()))
            .env("BITNET_CACHE_DIR", self.path("cache"))
            .env("HOME", self.0.path())
            .env("TEST_DIR", self.0.path());
        let others =
            ["CC", "CXX", "CI", "BITNET_OFFLINE", "BITNET_CPP_DIR", "LLAMA_CPP_DIR", "CARGO_TARGET_DIR"];
        let places =
            ["BITNET_CROSSVAL_LIBDIR", "CROSSVAL_RPATH_LLAMA", "CROSSVAL_RPATH_BITNET", "XDG_CACHE_HOME"];
        for name in others.iter().chain(&places) {
            command.env_remove(name);
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        self.environment(&mut command);
        command.args(args);
        command
    }

    fn build(&self) -> Command {
        let source = format!("dir:{}", self.path("tree dir").display());
        self.command(&["reference", "build", "llama", "--source", &source])
    }

    fn builds(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("cache/references")).into_iter().flatten().flatten();
        let folders = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
        folders.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("llama-")).collect()
    }

    fn finished(&self) -> usize {
        self.builds().iter().filter(|dir| dir.join("manifest.json").is_file()).count()
    }

    fn compiled(&self) -> String {
        self.read("compiled").replace("compiling ", "").replace('\n', " ")
    }
}

/// Exit code, stdout, stderr.
fn run(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn wait_for(path: &Path) {
    for _ in 0..1200 {
        if path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{} did not appear", path.display());
}

/// Past the test harness's capture, so that a skipped test is seen.
fn skip(why: &str) {
    std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes()).unwrap();
}

#[test]
fn a_build_is_made_once_listed_located_and_removed() {
    let planted = Planted::new();
    let mut relative = planted.build();
    relative.env("BITNET_CACHE_DIR", "cache");
    let (code, stdout, stderr) = run(relative);
    assert_eq!(code, Some(0), "{stderr}");
    let dir = PathBuf::from(stdout.trim());
    let manifest: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["libraries"][0]["path"], "lib/libllama.so");
    assert!(dir.join("include/llama.h").is_file() && dir.join("include/ggml.h").is_file());
    assert!(!dir.join("build").exists());
    let (code, again, stderr) = run(planted.build());
    assert_eq!((code, again), (Some(0), stdout), "{stderr}");
    assert!(stderr.contains("was built before"), "{stderr}");
    assert_eq!(planted.compiled(), "one two ");
    // Another source, or another flag, is another build.
    planted
        .write("tree dir/two.cpp", &format!("{EXTERN_C} void ggml_init() {{}} {EXTERN_C} void x() {{}}\n"));
    assert_eq!(run(planted.build()).0, Some(0));
    let mut portable = planted.build();
    portable.args(["--cpu", "portable"]);
    assert_eq!(run(portable).0, Some(0));
    assert_eq!(planted.finished(), 3);
    let (code, path, stderr) = run(planted.command(&["reference", "path", "llama"]));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(Path::new(path.trim()).join("libllama.so").is_file(), "{path}");
    let (_, status, _) = run(planted.command(&["--json", "reference", "status"]));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status.as_array().unwrap().len(), 3);
    assert_eq!(run(planted.command(&["reference", "clean", "llama"])).0, Some(0));
    assert_eq!(planted.builds().len(), 0);
    let (code, _, stderr) = run(planted.command(&["reference", "path", "llama"]));
    assert_eq!(code, Some(4));
    assert!(stderr.contains("cargo xtask reference build llama"), "{stderr}");
}

#[test]
fn a_compiler_that_fails_is_shown_with_its_first_error() {
    let planted = Planted::new();
    let answer = |text: &str| format!("[ \"$1\" = --version ] && {{ echo cc 1.0; exit; }}\n{text}; exit 1");
    planted.program("bin/gcc", &answer("true"));
    planted.program("bin/g++", &answer("echo \"x.cpp:3:1: error: expected ';'\"; echo; echo later"));
    let (code, _, stderr) = run(planted.build());
    assert_eq!(code, Some(7), "{stderr}");
    assert!(stderr.contains("x.cpp:3:1: error: expected ';'") && stderr.contains("build.log"), "{stderr}");
    assert!(!stderr.contains("later"), "{stderr}");
    planted.program("bin/g++", &answer("echo 'g++: fatal error: Killed signal terminated program cc1plus'"));
    let (code, _, stderr) = run(planted.build());
    assert_eq!(code, Some(8), "{stderr}");
    assert!(stderr.contains("out of memory") && stderr.contains("--jobs 1"), "{stderr}");
    assert_eq!(planted.finished(), 0);
}

#[test]
fn a_missing_compiler_is_named() {
    let planted = Planted::new();
    let mut build = planted.build();
    build.env("PATH", planted.path("bin"));
    let (code, _, stderr) = run(build);
    assert_eq!(code, Some(10), "{stderr}");
    assert!(stderr.contains("gcc and g++") && stderr.contains("cargo xtask preflight"), "{stderr}");
}

#[test]
fn a_full_disk_is_named() {
    let planted = Planted::new();
    planted.write("hook", "dd if=/dev/zero of=big bs=1024 count=2048 || exit 1");
    std::fs::create_dir(planted.path("cache")).unwrap();
    // A mount namespace of its own needs no root where the kernel allows it.
    let mount = "mount -t tmpfs -o size=512k none \"$BITNET_CACHE_DIR\"";
    let unshared = |script: &str| {
        let mut command = Command::new("unshare");
        planted.environment(&mut command);
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command
    };
    if !unshared(mount).output().is_ok_and(|output| output.status.success()) {
        return skip("a full disk cannot be planted: no user and mount namespaces here");
    }
    let mut command = unshared(&format!("{mount} && exec \"$@\""));
    let build = planted.build();
    command.arg(build.get_program()).args(build.get_args());
    let (code, _, stderr) = run(command);
    assert_eq!(code, Some(8), "{stderr}");
    assert!(stderr.contains("the disk is full") && stderr.contains("cargo xtask clean"), "{stderr}");
}

#[test]
fn an_interrupted_or_killed_build_goes_on_where_it_stopped() {
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let planted = Planted::new();
        planted.write("hook", "echo $$ > \"$TEST_DIR/pid\"; [ $unit = two ] || sleep 100");
        let child = start(planted.build());
        wait_for(&planted.path("pid"));
        std::thread::sleep(Duration::from_millis(100));
        let xtask = i32::try_from(child.id()).unwrap();
        // SAFETY: kill takes plain integers and touches no memory.
        unsafe { libc::kill(xtask, signal) };
        if signal == libc::SIGKILL {
            // Like a machine that goes down: the build tool dies as well. It leads a group of its own.
            let ninja: i32 = planted.read("pid").trim().parse().unwrap();
            // SAFETY: as above; the group was made for this child.
            unsafe { libc::kill(-ninja, signal) };
        }
        let (code, stderr) = finish(child);
        assert_eq!(code, (signal == libc::SIGTERM).then_some(130), "{stderr}");
        assert_eq!((planted.finished(), planted.builds().len()), (0, 1));
        std::fs::remove_file(planted.path("hook")).unwrap();
        let (code, _, stderr) = run(planted.build());
        assert_eq!(code, Some(0), "{stderr}");
        // The unit that was done is not compiled again.
        assert_eq!(planted.compiled(), "one two ");
        assert_eq!(planted.finished(), 1);
    }
}

#[test]
fn the_compilers_of_a_killed_build_are_waited_for() {
    let planted = Planted::new();
    planted.write("hook", "touch \"$TEST_DIR/begun\"; while [ ! -f \"$TEST_DIR/go\" ]; do sleep 0.05; done");
    let mut first = start(planted.build());
    wait_for(&planted.path("begun"));
    first.kill().unwrap();
    first.wait().unwrap();
    let second = start(planted.build());
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(planted.compiled(), "one ");
    planted.write("go", "");
    let (code, stderr) = finish(second);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("waiting for it"), "{stderr}");
    assert_eq!(planted.finished(), 1);
}

#[test]
fn two_builds_at_once_wait_for_each_other() {
    let planted = Planted::new();
    planted.write("hook", "touch \"$TEST_DIR/begun\"; while [ ! -f \"$TEST_DIR/go\" ]; do sleep 0.05; done");
    let first = start(planted.build());
    wait_for(&planted.path("begun"));
    let second = start(planted.build());
    std::thread::sleep(Duration::from_millis(500));
    planted.write("go", "");
    let (first, _) = finish(first);
    let (second, stderr) = finish(second);
    assert_eq!((first, second), (Some(0), Some(0)), "{stderr}");
    assert!(stderr.contains("waiting for it") && stderr.contains("was built before"), "{stderr}");
    assert_eq!(planted.compiled(), "one two ");
}

#[test]
fn a_tree_is_supplied_and_patched_in_a_copy() {
    let planted = Planted::new();
    let preset = "preset_kernels/bitnet_b1_58-3B/bitnet-lut-kernels-tl2.h";
    let text =
        "#if defined(GGML_BITNET_X86_TL2)\n#include \"ggml-bitnet.h\"\n    __m256 vec_lut[16];\n#endif\n";
    planted.write(&format!("tree dir/{preset}"), text);
    planted.write("tree dir/src/ggml-bitnet-mad.cpp", "x\n        int8_t * y_col = y + col * by;\n");
    planted.write(
        "hook",
        "cp \"$source/include/bitnet-lut-kernels.h\" \"$source/src/ggml-bitnet-mad.cpp\" \"$TEST_DIR\"",
    );
    for (kernels, header) in [("i2s", text.to_string()), ("tl2", text.replace("__m256 ", "__m256i "))] {
        let source = format!("dir:{}", planted.path("tree dir").display());
        let args = ["reference", "build", "bitnet", "--kernels", kernels, "--source", &source];
        let (code, stdout, stderr) = run(planted.command(&args));
        assert_eq!(code, Some(0), "{stderr}");
        let seen = planted.read("bitnet-lut-kernels.h").replace("#include <immintrin.h>\n", "");
        assert_eq!(seen, header);
        assert!(planted.read("ggml-bitnet-mad.cpp").contains("        const int8_t * y_col"));
        let manifest = std::fs::read_to_string(Path::new(stdout.trim()).join("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let changed: Vec<&str> = manifest["patches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|patch| patch["path"].as_str().unwrap())
            .collect();
        assert_eq!(changed, ["include/bitnet-lut-kernels.h", "src/ggml-bitnet-mad.cpp"]);
    }
    // The tree itself is as it was.
    assert!(!planted.path("tree dir/include/bitnet-lut-kernels.h").exists());
    assert!(!planted.read("tree dir/src/ggml-bitnet-mad.cpp").contains("const"));
}

#[test]
fn sources_that_cannot_be_used_are_named() {
    let planted = Planted::new();
    let build = |source: &str| run(planted.command(&["reference", "build", "llama", "--source", source]));
    assert_eq!(build("somewhere").0, Some(2));
    assert_eq!(build("dir:no such folder").0, Some(4));
    let (code, _, stderr) = build(&format!("dir:{}", planted.path("bin").display()));
    assert_eq!(code, Some(3));
    assert!(stderr.contains("has no CMakeLists.txt"), "{stderr}");
    let (code, _, stderr) = build(&format!("archive:Cargo.lock#{}", "0".repeat(64)));
    assert_eq!(code, Some(3));
    assert!(stderr.contains("has sha256 e3b0c442"), "{stderr}");
    assert_eq!(run(planted.command(&["reference", "build", "llama", "--kernels", "tl2"])).0, Some(2));
}

#[test]
fn archives_and_git_revisions_are_unpacked_once() {
    let planted = Planted::new();
    let sh = |script: &str| {
        let mut command = Command::new("sh");
        planted.environment(&mut command);
        command.args(["-c", script]).output().is_ok_and(|output| output.status.success())
    };
    if !sh("tar czf tree.tar.gz 'tree dir' && sha256sum tree.tar.gz > sum && python3 -c 'import tarfile'") {
        return skip("no tar, sha256sum or python3 here");
    }
    let sum = planted.read("sum");
    let source = format!("archive:tree.tar.gz#{}", sum.split_whitespace().next().unwrap());
    let (code, _, stderr) = run(planted.command(&["reference", "build", "llama", "--source", &source]));
    assert_eq!(code, Some(0), "{stderr}");
    let commit = "cd 'tree dir' && git init -q && git add . && \
        git -c user.name=t -c user.email=t@t commit -q -m x && git tag v1";
    if !sh(commit) {
        return skip("no git here");
    }
    let source = format!("git:file://{}#v1", planted.path("tree dir").display());
    let (code, _, stderr) = run(planted.command(&["reference", "build", "llama", "--source", &source]));
    // The same files are the same build, wherever they came from.
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("was built before"), "{stderr}");
    assert_eq!(planted.finished(), 1);
}

#[test]
fn preflight_names_the_command_and_repairs_only_where_asked() {
    let planted = Planted::new();
    let (code, stdout, stderr) = run(planted.command(&["--json", "preflight", "--backend", "bitnet"]));
    assert_eq!(code, Some(5), "{stderr}");
    let verdict: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(verdict["usable"], false);
    assert_eq!(verdict["fix"], "cargo xtask reference build bitnet");
    assert_eq!(verdict["candidates"][0]["origin"], "BITNET_CROSSVAL_LIBDIR");
    let mut repair = planted.command(&["preflight", "--backend", "bitnet", "--repair"]);
    repair.env("CI", "true");
    let (code, _, stderr) = run(repair);
    assert_eq!(code, Some(5));
    assert!(stderr.contains("--repair=always"), "{stderr}");
}

#[test]
fn clean_shows_sizes_and_frees_what_is_named() {
    let planted = Planted::new();
    planted.write("cache/models/a/a.gguf", "12345");
    assert_eq!(run(planted.build()).0, Some(0));
    let (code, stdout, _) = run(planted.command(&["--json", "clean"]));
    assert_eq!(code, Some(0));
    let parts: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&parts[0]["kind"], &parts[0]["bytes"]), (&"models".into(), &5.into()));
    assert_eq!(run(planted.command(&["clean", "references"])).0, Some(0));
    assert!(planted.path("cache/models/a/a.gguf").is_file());
    assert_eq!(planted.builds().len(), 0);
}
