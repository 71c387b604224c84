//! Every rule catches a violation that its test plants, and this repository has none.

use super::*;
use crate::report::Reporter;
use bitforge_schema::env::Env;

fn ctx() -> Ctx {
    Ctx::new(None, Env::default(), Reporter::for_tests())
}

/// What `rule` says about a tree of the given files, as lines.
fn said(rule: Rule, files: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let file = dir.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let tree = Tree::read(&ctx(), dir.path()).unwrap();
    rule(&tree).iter().map(Violation::to_string).collect()
}

#[test]
fn this_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let ctx = Ctx::new(Some(root.into()), Env::default(), Reporter::for_tests());
    let violations: Vec<String> = check(&ctx).unwrap().iter().map(Violation::to_string).collect();
    assert_eq!(violations, [] as [String; 0]);
}

#[test]
fn an_extra_and_a_missing_entry_at_the_top_are_seen() {
    let mut files: Vec<(&str, &str)> =
        TOP_LEVEL.iter().filter(|name| **name != "README.md").map(|name| (*name, "x")).collect();
    files.extend([("notes.txt", "x"), (".hidden", "x")]);
    assert_eq!(
        said(top_level, &files),
        [
            "notes.txt: does not belong at the top level; move it below a folder (top-level)",
            "README.md: is missing at the top level (top-level)"
        ]
    );
}

#[test]
fn a_long_file_is_seen() {
    let long = "x\n".repeat(MAX_LINES + 1);
    let files = [("a.rs", long.as_str()), ("b.rs", &long[2..]), ("c.txt", &long)];
    assert_eq!(
        said(file_length, &files),
        ["a.rs: has 601 lines, at most 600 are allowed; split it by topic (file-length)"]
    );
}

#[test]
fn every_forbidden_text_is_seen_with_its_line() {
    for (text, extensions, remedy) in FORBIDDEN {
        let file = format!("a.{}", extensions[0]);
        let content = format!("fine\n  {text}");
        assert_eq!(
            said(forbidden_text, &[(&file, &content), ("a.md", &content)]),
            [format!("{file}:2: holds `{text}`; {remedy} (forbidden-text)")]
        );
    }
}

#[test]
fn machine_paths_are_seen_and_relative_ones_are_not() {
    for path in MACHINE_PATHS {
        let planted = format!("see `{path}x`\nbut not target{path}x");
        let said = said(machine_paths, &[("a.md", &planted)]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("a.md:1: "), "{said:?}");
    }
}

#[test]
fn a_second_place_that_starts_processes_is_seen() {
    let planted = concat!("use std::process::Com", "mand;\n");
    let files = [("xtask/src/up.rs", planted), (PROC, planted), ("xtask/tests/a.rs", planted)];
    let said = said(one_process_module, &files);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("xtask/src/up.rs:1: "), "{said:?}");
}

#[test]
fn large_fixtures_are_seen_alone_and_together() {
    let large = "x".repeat(FIXTURE_BYTES as usize + 1);
    let said_large = said(fixture_sizes, &[("fixtures/a", &large), ("other/a", &large)]);
    assert_eq!(said_large.len(), 1, "{said_large:?}");
    let names: Vec<String> = (0..9).map(|i| format!("fixtures/{i}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), &large[1..])).collect();
    let said_many = said(fixture_sizes, &files);
    assert_eq!(said_many.len(), 1, "{said_many:?}");
    assert!(said_many[0].starts_with("fixtures: holds 9437184 bytes"), "{said_many:?}");
    let trained: Vec<String> = (0..7).map(|i| format!("fixtures/trained/{i}")).collect();
    let mut files: Vec<(&str, &str)> = trained.iter().map(|name| (name.as_str(), large.as_str())).collect();
    assert!(said(fixture_sizes, &files).is_empty());
    files.push(("fixtures/trained/8", &large));
    let said_trained = said(fixture_sizes, &files);
    assert_eq!(said_trained.len(), 1, "{said_trained:?}");
    assert!(said_trained[0].starts_with("fixtures/trained/: holds 8388616 bytes"), "{said_trained:?}");
}

#[test]
fn dead_links_are_seen() {
    let page = "# A page: one\n[good](b.md) [self](#a-page-one) [web](https://example.org/x)\n\
                [dead](c.md)\n[no heading](b.md#none) `[code](d.md)`\n```\n[code](e.md)\n```\n[above](../up.md)\n";
    let files = [("docs/a.md", page), ("docs/b.md", "# B\n"), ("up.md", "")];
    assert_eq!(
        said(links::links, &files),
        [
            "docs/a.md:3: links to c.md, which does not exist (links)",
            "docs/a.md:4: links to b.md#none, but the file has no such heading (links)"
        ]
    );
}

#[test]
fn pages_outside_the_book_are_seen() {
    let files = [
        ("docs/SUMMARY.md", "[a](howto/a.md)\n[b](b.md)\n[a](howto/a.md)\n"),
        ("docs/howto/a.md", "[b](../b.md) [n](../../notes/n.md)\n"),
        ("docs/b.md", ""),
        ("docs/c.md", ""),
        ("notes/n.md", ""),
        ("README.md", ""),
    ];
    assert_eq!(
        said(links::book, &files),
        [
            "docs/SUMMARY.md:3: lists docs/howto/a.md twice (book)",
            "README.md: is not in docs/SUMMARY.md; add it where a reader looks for it (book)",
            "docs/c.md: is not in docs/SUMMARY.md; add it where a reader looks for it (book)",
            "docs/howto/a.md:1: links to notes/n.md, which is not in docs/SUMMARY.md (book)",
        ]
    );
    assert!(said(links::book, &files[1..]).is_empty());
}

#[test]
fn stale_generated_pages_are_seen() {
    assert_eq!(
        said(generated_docs, &[("docs/reference/exit-codes.md", "old")]),
        docs::pages()
            .map(|(path, _)| format!("{path}: is out of date; run `cargo xtask docs` (generated-docs)"))
    );
}

#[test]
fn bad_lanes_and_stale_workflows_are_seen() {
    let said_bad = said(workflows, &[("xtask/src/ci/mod.rs", ""), ("ci/lanes.toml", "version = 2\n")]);
    assert_eq!(said_bad.len(), 1, "{said_bad:?}");
    assert!(said_bad[0].starts_with("ci/lanes.toml: ci/lanes.toml: line 1: missing field"), "{said_bad:?}");
    let lanes = ci::lanes::parse(ci::TEXT).unwrap();
    let said_stale = said(
        workflows,
        &[("xtask/src/ci/mod.rs", ""), (ci::FILE, ci::TEXT), (".github/workflows/pr.yml", "old")],
    );
    assert_eq!(said_stale.len(), lanes.lanes.len());
    let remedy = "is out of date; run `cargo xtask ci generate` (workflows)";
    assert!(said_stale.contains(&format!(".github/workflows/pr.yml: {remedy}")), "{said_stale:?}");
}

#[test]
fn a_dependency_on_the_runtime_is_seen_through_another_crate() {
    let dir = tempfile::tempdir().unwrap();
    let package = |name: &str, dependency: &str| {
        let folder = dir.path().join(name);
        std::fs::create_dir_all(folder.join("src")).unwrap();
        std::fs::write(folder.join("src/lib.rs"), "").unwrap();
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\n{dependency}\n"
        );
        std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    };
    let workspace = "[workspace]\nresolver = \"3\"\nmembers = [\"xtask\", \"between\", \"bitnet-runtime\"]\n";
    std::fs::write(dir.path().join("Cargo.toml"), workspace).unwrap();
    package("bitnet-runtime", "");
    package("between", "");
    package("xtask", "between = { path = \"../between\" }");
    let ctx = Ctx::new(Some(dir.path().into()), Env::default(), Reporter::for_tests());
    assert_eq!(runtime_apart(&metadata(&ctx).unwrap()), []);
    package("between", "bitnet-runtime = { path = \"../bitnet-runtime\" }");
    let said = runtime_apart(&metadata(&ctx).unwrap());
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].rule, "runtime-apart");
}

#[test]
fn gpu_code_outside_its_feature_is_seen() {
    let import = ["use cuda", "rc::driver;\n"].concat();
    let files = [
        ("runtime/src/cuda/driver.rs", import.as_str()),
        ("runtime/src/engine/mod.rs", import.as_str()),
        ("runtime/src/backend.rs", "#[cfg(feature = \"cuda\")]\ncrate::cuda::ROW,\n\ncrate::cuda::ROW,\n"),
        ("runtime/src/gpu/mod.rs", "use crate::gpu::pack;\n"),
        ("runtime/cli/src/run.rs", "fn f() {\n    bitnet_runtime::gpu::pack();\n}\n"),
    ];
    assert_eq!(
        said(gpu_apart, &files),
        [
            "runtime/src/engine/mod.rs:1: uses the CUDA crate; only runtime/src/cuda may (gpu-apart)",
            "runtime/cli/src/run.rs:2: names bitnet_runtime::gpu without #[cfg(feature = \"gpu\")] above it (gpu-apart)",
            "runtime/src/backend.rs:4: names crate::cuda without #[cfg(feature = \"cuda\")] above it (gpu-apart)",
        ]
    );
}

#[test]
fn too_few_property_tests_and_snapshots_are_seen() {
    let laws = |count: usize| {
        let test = "    #[test]\n    fn law(x in 0u8..9) { if x > 9 { panic!() } }\n";
        format!(
            "#[test]\nfn plain() {{}}\n{} {{\n{}}}\n#[test]\nfn other() {{}}\n",
            concat!("prop", "test!"),
            test.repeat(count)
        )
    };
    let (sampling, generation) = (laws(13), laws(7));
    let files = [
        ("runtime/Cargo.toml", ""),
        ("runtime/src/sampling/laws.rs", sampling.as_str()),
        ("runtime/src/generate/stop.rs", &generation),
    ];
    let lines = said(floors::floors, &files);
    assert!(!lines.iter().any(|line| line.contains("of logits")), "{lines:?}");
    assert!(
        lines.contains(
            &"runtime/src/generate/: 7 property tests of generation, at least 8 are wanted; write some (floors)".into()
        ),
        "{lines:?}"
    );
    assert!(lines.iter().any(|line| line.contains(": 0 snapshots, at least 45")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains(": 0 log-capture tests, at least 3")), "{lines:?}");
}

/// The counts that docs/reference/assurance.md shows.
#[test]
fn the_documented_counts_are_those_of_the_tree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let tree = Tree::read(&ctx(), root).unwrap();
    let text = tree.text("docs/reference/assurance.md");
    for floor in floors::FLOORS {
        let row = format!("| {} | {} |", floor.name, floor.least);
        assert!(text.contains(&row), "docs/reference/assurance.md lacks the row '{row}'");
        assert!(floors::counted(&tree, floor) >= floor.least);
    }
    let (snapshots, modules) = floors::snapshots(&tree);
    assert!(snapshots >= 45 && modules.len() >= 10, "{snapshots} {modules:?}");
}

#[test]
fn a_command_that_xtask_does_not_take_is_seen() {
    let page = "`cargo xtask tidy`, `cargo xtask tidi`, `cargo xtask up --al`, `cargo xtask bench --repetitions N`\n\
        ```sh\ncargo xtask reference build lama\ncargo xtask models fetch NAME\n```\n";
    let lines = said(commands::commands, &[("docs/page.md", page)]);
    let shown: Vec<&str> = lines.iter().filter_map(|line| line.split('`').nth(1)).collect();
    assert_eq!(
        shown,
        ["cargo xtask tidi", "cargo xtask up --al", "cargo xtask reference build lama"],
        "{lines:?}"
    );
}
