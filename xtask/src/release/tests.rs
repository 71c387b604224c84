//! An archive that any changed byte breaks, and planted leaks of a machine that are found and named.

use super::archive::{self, Contents, File, SUMS, sums};
use super::build::Recipe;
use super::cause::Kind;
use super::content::{BINARY, LICENCES, SBOM};
use super::diff::{self, Difference};
use super::plan::{Artifact, Plan};
use super::{provenance, verify};
use crate::ctx::Ctx;
use crate::exit::code_of;
use crate::proc::{self, Command};
use crate::report::Reporter;
use bitforge_schema::exit::ExitCode;
use std::fs;
use std::path::{Path, PathBuf};

fn ctx() -> Ctx {
    Ctx::new(None, Default::default(), Reporter::for_tests())
}

/// A small real binary for this machine.
fn compile(dir: &Path, name: &str, source: &str, args: &[&str], epoch: &str) -> PathBuf {
    let (source_path, out) = (dir.join(format!("{name}.c")), dir.join(name));
    fs::write(&source_path, source).unwrap();
    let command = Command::new("cc").args(args.iter().copied()).args(["-o"]).args([&out, &source_path]);
    proc::read(&ctx(), &command.env("SOURCE_DATE_EPOCH", epoch)).unwrap();
    out
}

fn small_archive(dir: &Path) -> (PathBuf, Contents) {
    let binary = fs::read(compile(dir, "small", "int main(void) { return 0; }", &["-s"], "0")).unwrap();
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let name = format!("bitnet-1.0.0-{platform}");
    let artifact = Artifact { platform, cuda: false, glibc: None, name: name.clone(), steps: Vec::new() };
    let plan = Plan {
        version: "1.0.0".into(),
        python_version: "1.0.0".into(),
        snapshot: false,
        commit: "c0ffee".into(),
        epoch: 1_700_000_000,
        created: "2023-11-14T22:13:20Z".into(),
        artifacts: vec![artifact.clone()],
    };
    let sbom = serde_json::json!({
        "metadata": { "component": { "hashes": [{ "content": archive::digest(&binary) }] } },
        "components": [{ "type": "library", "scope": "required", "bom-ref": "a@1.0.0" }],
    });
    let mut contents = Contents::from([
        (BINARY.into(), File::program(binary)),
        (LICENCES.into(), File::data("a@1.0.0: MIT (texts 1)\n")),
        (SBOM.into(), File::data(sbom.to_string())),
        ("receipts/committed/r.json".into(), File::data(r#"{"body":{"kind":"bench"}}"#)),
    ]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let recipe = Recipe::for_tests();
    let statement = provenance::statement(&root, &plan, &artifact, &recipe, &contents).unwrap();
    contents.insert(provenance::FILE.into(), File::data(statement.to_string()));
    contents.insert(SUMS.into(), File::data(sums(&contents)));
    let path = dir.join(format!("{name}.tar.zst"));
    fs::write(&path, archive::pack(&contents, &name, plan.epoch).unwrap()).unwrap();
    (path, contents)
}

#[test]
fn a_changed_byte_anywhere_breaks_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = small_archive(dir.path());
    assert_eq!(verify::file(&path).unwrap().len(), 5);
    let bytes = fs::read(&path).unwrap();
    // Every byte of head and end, and every 61st between them.
    let chosen = (0..bytes.len()).filter(|at| *at < 64 || at % 61 == 0 || *at + 64 > bytes.len());
    for at in chosen {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&path, &changed).unwrap();
        let error = verify::file(&path).expect_err(&format!("byte {at} was changed"));
        assert_eq!(code_of(&error), ExitCode::Mismatch, "byte {at}: {error:#}");
    }
}

#[test]
fn an_archive_with_right_digests_and_a_wrong_statement_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, contents) = small_archive(dir.path());
    let folder = path.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.zst").to_string();
    let refused = |change: &dyn Fn(&mut Contents), time: u64| {
        let mut contents = contents.clone();
        change(&mut contents);
        let sums = sums(&contents);
        contents.insert(SUMS.into(), File::data(sums));
        fs::write(&path, archive::pack(&contents, &folder, time).unwrap()).unwrap();
        format!("{:#}", verify::file(&path).unwrap_err())
    };
    let time = 1_700_000_000;
    let more = |contents: &mut Contents| drop(contents.insert("more".into(), File::data("x")));
    assert!(refused(&more, time).contains("of other files"));
    let receipt = |contents: &mut Contents| drop(contents.insert("receipts/x.json".into(), File::data("{}")));
    assert!(refused(&receipt, time).contains("of other receipts"));
    let run = |contents: &mut Contents| contents.get_mut(LICENCES).unwrap().executable = true;
    assert!(refused(&run, time).contains("may be run"));
    assert!(refused(&|_| {}, time + 1).contains("another time"));
}

/// The one difference that is of `kind`.
fn the(found: Vec<Difference>, kind: Kind) -> Difference {
    let text = format!("{found:#?}");
    found
        .into_iter()
        .find(|difference| difference.cause.kind == kind)
        .unwrap_or_else(|| panic!("no {kind:?} in {text}"))
}

#[test]
fn a_planted_path_is_named_with_its_flag() {
    let dir = tempfile::tempdir().unwrap();
    let build = |name: &str| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        compile(&folder, "x", "const char where[] = __FILE__;\nint main(void) { return where[0]; }", &[], "0")
    };
    let found = the(diff::paths(&build("one"), &build("two")).unwrap(), Kind::Path);
    assert_eq!((found.section.as_deref(), found.symbol.as_deref()), (Some(".rodata"), Some("where")));
    let cure = format!("-ffile-prefix-map={}", dir.path().display());
    assert!(found.cause.cure.contains(&cure), "{found:?}");
    let cured = |name: &str| {
        let folder = dir.path().join(name);
        let map = format!("-ffile-prefix-map={}=/bitforge", folder.display());
        compile(
            &folder,
            "x",
            "const char where[] = __FILE__;\nint main(void) { return where[0]; }",
            &[&map],
            "0",
        )
    };
    assert_eq!(diff::paths(&cured("one"), &cured("two")).unwrap(), [], "the cure cures");
}

#[test]
fn a_planted_path_in_rust_is_named_with_its_flag() {
    let dir = tempfile::tempdir().unwrap();
    let build = |name: &str| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        let (source, out) = (folder.join("x.rs"), folder.join("x.o"));
        fs::write(&source, "#![no_std]\n#[unsafe(no_mangle)]\npub static PLACE: &str = file!();\n").unwrap();
        let command =
            Command::new("rustc").args(["--crate-type=lib", "--emit=obj", "-o"]).args([&out, &source]);
        proc::read(&ctx(), &command).unwrap();
        out
    };
    let found = the(diff::paths(&build("one"), &build("two")).unwrap(), Kind::Path);
    assert!(found.cause.cure.contains("--remap-path-prefix="), "{found:?}");
}

#[test]
fn a_planted_time_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let source = "const char built[] = __DATE__ \" \" __TIME__;\nint main(void) { return built[0]; }";
    let build = |name: &str, epoch: &str| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        compile(&folder, "x", source, &[], epoch)
    };
    let found =
        the(diff::paths(&build("one", "1700000000"), &build("two", "1700086461")).unwrap(), Kind::Time);
    assert_eq!(found.symbol.as_deref(), Some("built"));
    assert!(found.cause.cure.contains("SOURCE_DATE_EPOCH"), "{found:?}");
}

#[test]
fn a_planted_order_and_a_planted_locale_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let build = |name: &str, words: &[&str]| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        let source =
            format!("const char names[] = \"{}\";\nint main(void) {{ return names[0]; }}", words.join("\\n"));
        compile(&folder, "x", &source, &[], "0")
    };
    let sorted = build("bytes", &["Delta", "alpha", "bravo", "charlie"]);
    let by_hash = build("hash", &["charlie", "alpha", "Delta", "bravo"]);
    let by_locale = build("locale", &["alpha", "bravo", "charlie", "Delta"]);
    let found = the(diff::paths(&sorted, &by_hash).unwrap(), Kind::Order);
    assert_eq!(found.symbol.as_deref(), Some("names"));
    assert!(found.cause.cure.contains("BTreeMap"), "{found:?}");
    let found = the(diff::paths(&sorted, &by_locale).unwrap(), Kind::Locale);
    assert!(found.cause.cure.contains("LC_ALL=C"), "{found:?}");
    let comma = |name: &str, number: &str| build(name, &[number, "seconds"]);
    the(diff::paths(&comma("point", "took 1.5"), &comma("comma", "took 1,5")).unwrap(), Kind::Locale);
}

#[test]
fn planted_owners_times_and_modes_in_an_archive_are_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "same").unwrap();
    let pack = |name: &str, args: &[&str]| {
        let out = dir.path().join(name);
        let command =
            Command::new("tar").args(["--format=ustar", "-cf"]).args([&out]).args(args.iter().copied());
        proc::read(&ctx(), &command.args(["a"]).dir(dir.path())).unwrap();
        out
    };
    let fixed = pack("one.tar", &["--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--mode=644"]);
    let leaky =
        pack("two.tar", &["--owner=someone:1000", "--group=some:1000", "--mtime=@1700000000", "--mode=600"]);
    let found = diff::paths(&fixed, &leaky).unwrap();
    for (kind, cure) in [(Kind::Owner, "--owner=0"), (Kind::Time, "--mtime="), (Kind::Mode, "umask")] {
        let difference = the(found.clone(), kind);
        assert!(difference.cause.cure.contains(cure) && difference.file == "a", "{difference:?}");
    }
    assert_eq!(diff::paths(&fixed, &fixed).unwrap(), []);
}

#[test]
fn a_folder_stands_for_the_archives_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = super::files_of(&[dir.path().into()], &[".whl", ".tar.zst"]).unwrap_err();
    assert_eq!(code_of(&error), ExitCode::NotFound);
    assert!(error.to_string().ends_with("holds no .whl and no .tar.zst"), "{error}");
    for name in ["b.whl", "a.tar.zst", "a.tar.zst.sig"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let paths = [dir.path().to_path_buf(), "named".into()];
    let found = super::files_of(&paths, &[".whl", ".tar.zst"]).unwrap();
    assert_eq!(found, [dir.path().join("a.tar.zst"), dir.path().join("b.whl"), "named".into()]);
}
