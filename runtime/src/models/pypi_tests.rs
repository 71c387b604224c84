//! Fetching with the real pip from a wheel that the test builds: no network, nothing simulated.

use super::super::digest::sha256;
use super::super::tests_support::with_context;
use super::super::{Spec, fetch};
use super::*;
use bitforge_schema::exit::ExitCode;
use std::io::Write;
use zip::write::{SimpleFileOptions, ZipWriter};

const MEMBER: &str = "tiny_model/tiny.gguf";
const SPEC: &str = "pypi:tiny-model==1.0:tiny_model/tiny.gguf";

fn content() -> Vec<u8> {
    (0..200_000u32).flat_map(|i| (i * 7).to_le_bytes()).collect()
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

/// A folder with one wheel in it is the whole package index.
fn with_shop(test: impl FnOnce(&Context<'_>, &Path)) {
    let shop = tempfile::tempdir().unwrap();
    let wheel = shop.path().join("tiny_model-1.0-py3-none-any.whl");
    build_wheel(&wheel, &content());
    let links = shop.path().to_str().unwrap();
    let pip = [("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", links), ("PIP_CONFIG_FILE", "/dev/null")];
    with_context(&pip, |ctx, _| test(ctx, &wheel));
}

fn slot(ctx: &Context<'_>) -> Slot {
    Slot::of(&ctx.cache, &Spec::parse(SPEC).unwrap()).unwrap()
}

/// Whether a machine without pip and without venv says so, which is all that such a machine can show.
fn lacks_pip(error: &Error) -> bool {
    error.exit_code() == ExitCode::Toolchain
}

#[test]
fn a_fetched_wheel_is_used_again_without_pip() {
    with_shop(|ctx, _| {
        let spec = Spec::parse(SPEC).unwrap();
        let stale = with_suffix(&slot(ctx).dir, ".partial");
        fs::create_dir_all(&stale).unwrap();
        fs::write(stale.join("half"), "x").unwrap();
        let options = fetch::Options { sha256: Some(sha256(&content())), ..Default::default() };
        let fetched = match fetch::fetch(ctx, &spec, &options) {
            Ok(fetched) => fetched,
            Err(error) => return assert!(lacks_pip(&error), "{error}"),
        };
        assert!(!fetched[0].cached && !stale.exists());
        assert_eq!(fs::read(&fetched[0].path).unwrap(), content());
        // A file that was changed is noticed by its digest and fetched again.
        fs::write(&fetched[0].path, vec![0; content().len()]).unwrap();
        assert!(fetch::fetch(ctx, &spec, &options).unwrap()[0].cached);
        let options = fetch::Options { verify: true, ..options };
        assert!(!fetch::fetch(ctx, &spec, &options).unwrap()[0].cached);
        assert!(fetch::fetch(ctx, &spec, &options).unwrap()[0].cached);
    });
}

#[test]
fn a_wheel_with_another_digest_is_refused() {
    with_shop(|ctx, wheel| {
        let fetch = |sha256: &str| {
            let bytes = fs::metadata(wheel).unwrap().len();
            let wheel = Wheel { package: "tiny-model", version: "1.0", sha256: Some(sha256), bytes };
            fetch(ctx, &wheel, MEMBER, None, None, &slot(ctx)).map(|_| ())
        };
        let error = fetch(&"0".repeat(64)).unwrap_err();
        assert!(error.exit_code() == ExitCode::Mismatch || lacks_pip(&error), "{error}");
        assert!(!slot(ctx).path().exists());
        let fetched = fetch(&sha256(&fs::read(wheel).unwrap()));
        assert!(fetched.as_ref().map_or_else(lacks_pip, |()| true), "{fetched:?}");
    });
}

#[test]
fn a_package_that_is_not_there_is_a_network_failure() {
    with_shop(|ctx, _| {
        let spec = Spec::parse("pypi:tiny-model==9.9:a").unwrap();
        let error = fetch::fetch(ctx, &spec, &Default::default()).unwrap_err();
        assert!(error.exit_code() == ExitCode::Network || lacks_pip(&error), "{error}");
    });
}

#[test]
fn a_member_with_another_digest_size_or_name_leaves_nothing() {
    with_shop(|ctx, wheel| {
        let bytes = content().len() as u64;
        let right = Expected::Sha256(sha256(&content()));
        let wrong = Expected::Sha256("f".repeat(64));
        let extract = |member: &str, bytes: u64, expected: &Expected| {
            super::extract(ctx, wheel, member, Some(bytes), Some(expected), &slot(ctx))
        };
        for (outcome, problem) in [
            (extract(MEMBER, bytes, &wrong), "has the sha256"),
            (extract(MEMBER, bytes + 1, &right), "has 800000 bytes instead of 800001"),
            (extract("tiny_model/other", bytes, &right), "member tiny_model/other"),
        ] {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
            assert_eq!(super::super::fetch::files_below(&slot(ctx).dir), [] as [String; 0]);
        }
        extract(MEMBER, bytes, &right).unwrap();
        assert_eq!(super::super::fetch::files_below(&slot(ctx).dir), ["tiny.gguf"]);
    });
}

#[test]
fn without_python_the_message_says_so() {
    let empty = tempfile::tempdir().unwrap();
    with_context(&[("PATH", empty.path().to_str().unwrap())], |ctx, _| {
        let error = fetch::fetch(ctx, &Spec::parse(SPEC).unwrap(), &Default::default()).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Toolchain);
        assert!(error.to_string().contains("python3 could not be started"), "{error}");
    });
}

#[test]
fn causes_of_pip_failures_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    for (output, code) in [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", ExitCode::Mismatch),
        ("OSError: [Errno 28] No space left on device", ExitCode::Limit),
        ("ERROR: No matching distribution found for tiny-model==1.0", ExitCode::Network),
        ("WARNING: Retrying after connection broken by 'NewConnectionError'", ExitCode::Network),
    ] {
        fs::write(&log, output).unwrap();
        assert_eq!(pip_failure("tiny-model 1.0", &log).exit_code(), code, "{output}");
    }
}
