//! The table of every sample, as committed in fixtures/elf/goldens.

use super::{report, samples};

#[test]
fn tables_of_all_samples() {
    insta::with_settings!({
        snapshot_path => "../../../../fixtures/elf/goldens",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        for (name, _) in samples() {
            let (_, out, errors) = report(&[&format!("bin/{name}")]);
            insta::assert_snapshot!(name, format!("{out}{errors}"));
        }
    });
}

#[test]
fn diff_and_needs() {
    insta::with_settings!({
        snapshot_path => "../../../../fixtures/elf/goldens",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!("diff", report(&["bin/libvec.so", "--diff", "bin/libvec-soft.so"]).1);
        insta::assert_snapshot!("diff-fat", report(&["bin/vec-fat.dylib", "--diff", "bin/vec-aarch64-macos.dylib"]).1);
        insta::assert_snapshot!("needs", report(&["bin/needs.o", "--needs", "bin/libvec.so"]).1);
        insta::assert_snapshot!(
            "needs-json",
            report(&["bin/libhard.so", "--needs", "bin/libvec.so", "--json"]).1
        );
    });
}

#[test]
fn names_are_demangled_where_asked() {
    let plain = report(&["bin/libmangled.so"]).1;
    assert!(plain.contains(" T _ZN6tensorplERKNS_4ViewIfEEi\n"), "{plain}");
    let source = report(&["bin/libmangled.so", "--demangle"]).1;
    assert!(source.contains(" T tensor::operator+(tensor::View<float> const&, int)\n"), "{source}");
    assert!(source.contains(" W tensor::View<float>::at(int) const\n"), "{source}");
}

#[test]
fn a_stripped_file_and_one_without_section_headers_say_the_same() {
    let exports = |name| {
        let (_, out, _) = report(&[name, "--top", "0"]);
        out[out.find("exports").unwrap()..].to_owned()
    };
    assert_eq!(exports("bin/libvec.so"), exports("bin/libvec-stripped.so"));
    assert_eq!(exports("bin/libvec.so"), exports("bin/libvec-headless.so"));
}

#[test]
fn the_full_symbol_table_has_the_local_symbols() {
    let (_, out, _) = report(&["bin/libvec.so", "--all-symbols"]);
    assert!(out.contains(" t secret\n"), "{out}");
    let (_, out, _) = report(&["bin/libvec-stripped.so", "--all-symbols"]);
    assert!(!out.contains("secret"), "{out}");
}
