//! Finds the references, compiles the shim against each one's headers, and links each binary to its reference.
//!
//! Cfgs: `reference_llama`, `reference_bitnet` (the lane was found), `reference_i2s`, `reference_cuda` (what the
//! libraries can do), `llama_api_old`, `llama_api_new`, `bitnet_api_old`, `bitnet_api_new`. Without a reference
//! nothing is compiled and the binary prints the search.

use bitforge_discovery::{Api, Capability, Lane, Reference, discover};
use bitforge_schema::env::Env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=src/shim.cpp");
    println!("cargo::rerun-if-changed=src/shim.h");
    let env = Env::from_process();
    for name in bitforge_discovery::VARIABLES.iter().chain(&["CC", "CXX"]) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Some(stamp) = bitforge_discovery::stamp(&env) {
        println!("cargo::rerun-if-changed={}", stamp.display());
    }
    for cfg in ["reference_llama", "reference_bitnet", "reference_i2s", "reference_cuda"] {
        println!("cargo::rustc-check-cfg=cfg({cfg})");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for lane in Lane::ALL {
        let name = lane.name();
        println!("cargo::rustc-check-cfg=cfg({name}_api_old)");
        println!("cargo::rustc-check-cfg=cfg({name}_api_new)");
        let discovery = discover(&env, lane);
        let mut search = discovery.render();
        if let Some(reference) = &discovery.reference {
            match compile(reference, &out) {
                Ok(shim) => link(reference, &shim),
                Err(why) => {
                    search.push_str(&format!("\nthe shim does not compile against its headers: {why}"));
                    println!(
                        "cargo::warning={name}: the shim does not compile against its headers; run the driver to read why"
                    );
                }
            }
        }
        std::fs::write(out.join(format!("{name}.txt")), search).expect("OUT_DIR is writable");
    }
}

/// Compiles the shim into an archive of its own.
fn compile(reference: &Reference, out: &Path) -> Result<PathBuf, String> {
    let name = format!("shim_{}", reference.lane.name());
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").cargo_metadata(false).opt_level(1).file("src/shim.cpp");
    build.flag("-Wno-deprecated-declarations").includes(&reference.include);
    if reference.api == Api::New {
        build.define("REFERENCE_API_NEW", None);
    }
    build.out_dir(out.join(reference.lane.name()));
    build.try_compile(&name).map_err(|error| error.to_string())?;
    Ok(out.join(reference.lane.name()).join(format!("lib{name}.a")))
}

/// Linker arguments for this lane's binary only, so that the two references never meet in a process.
fn link(reference: &Reference, shim: &Path) {
    let name = reference.lane.name();
    println!("cargo::rustc-cfg=reference_{name}");
    println!("cargo::rustc-cfg={name}_api_{}", reference.api.name());
    println!("cargo::rustc-env=REFERENCE_{}_VERSION={}", name.to_uppercase(), version(reference));
    if reference.has(Capability::I2s) {
        println!("cargo::rustc-cfg=reference_i2s");
    }
    if reference.has(Capability::Cuda) {
        println!("cargo::rustc-cfg=reference_cuda");
    }
    let arg = |arg: &str| println!("cargo::rustc-link-arg-bin=reference-driver-{name}={arg}");
    arg(&shim.display().to_string());
    arg("-Wl,--no-as-needed");
    arg("-Wl,--start-group");
    for library in &reference.libraries {
        arg(&library.path.display().to_string());
        println!("cargo::rerun-if-changed={}", library.path.display());
    }
    arg("-Wl,--end-group");
    arg("-Wl,--as-needed");
    // DT_RPATH, not DT_RUNPATH: it also finds libggml for a libllama that lies in another folder.
    arg("-Wl,--disable-new-dtags");
    for dir in reference.library_dirs() {
        // Not -Wl, which splits at commas. The linker splits at colons, and so does the loader.
        arg("-Xlinker");
        arg(&format!("-rpath={}", dir.display()));
    }
    for library in ["stdc++", "m", "pthread", "dl"] {
        arg(&format!("-l{library}"));
    }
}

/// Source and build key of a build that `cargo xtask reference build` made; of any other, where it was found.
fn version(reference: &Reference) -> String {
    let manifest = reference.llama_dir().join("../manifest.json");
    let manifest = std::fs::read(manifest).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let manifest: serde_json::Value = manifest.unwrap_or_default();
    match (manifest["source"].as_str(), manifest["key"].as_str()) {
        (Some(source), Some(key)) => format!("{source}, build {key}"),
        _ => reference.origin.clone(),
    }
}
