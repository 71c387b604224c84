//! Lists the files of the web page, so that the binary has whatever lies in `page`.

use std::path::{Path, PathBuf};

fn main() {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).expect("cargo sets it");
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).expect("cargo sets it");
    println!("cargo::rerun-if-changed=page");
    let mut files = files(&root.join("page"));
    files.sort();
    let mut table = String::from("&[\n");
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str()).expect("names of the page are plain");
        table += &format!("    ({name:?}, include_bytes!({path:?})),\n");
    }
    std::fs::write(out.join("page.rs"), table + "]\n").expect("cargo's folder can be written to");
}

/// The files in `folder`; none where it does not exist.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()).collect()
}
