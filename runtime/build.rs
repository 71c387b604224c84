//! Embeds the CUDA kernels that `cargo xtask kernels build --cuda` made, where the feature `cuda` is on.
//!
//! In: BITNET_CUDA_KERNELS, else target/cuda-kernels of the workspace, a folder of NAME.fatbin. Out: kernels.rs with the
//! table of what is there; an empty table compiles and says at run time what is missing.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-env-changed=BITNET_CUDA_KERNELS");
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let manifest = variable("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let dir = variable("BITNET_CUDA_KERNELS").unwrap_or_else(|| manifest.join("../target/cuda-kernels"));
    println!("cargo::rerun-if-changed={}", dir.display());
    let rows: String = fatbins(&dir)
        .iter()
        .map(|path| {
            println!("cargo::rerun-if-changed={}", path.display());
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            format!("    ({name:?}, include_bytes!({:?})),\n", path.display().to_string())
        })
        .collect();
    let out = variable("OUT_DIR").expect("cargo sets it").join("kernels.rs");
    let text = format!("pub const EMBEDDED: &[(&str, &[u8])] = &[\n{rows}];\n");
    std::fs::write(&out, text).unwrap_or_else(|error| panic!("writing {}: {error}", out.display()));
}

fn fatbins(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "fatbin"))
        .collect();
    found.sort();
    found
}
