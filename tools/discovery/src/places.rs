//! Where references are looked for, in order of precedence.

use crate::Lane;
use bitforge_schema::env::Env;
use bitforge_schema::paths;
use std::path::PathBuf;

/// Every variable that the search reads.
pub const VARIABLES: &[&str] = &[
    "BITNET_CROSSVAL_LIBDIR",
    "CROSSVAL_RPATH_LLAMA",
    "CROSSVAL_RPATH_BITNET",
    "LLAMA_CPP_DIR",
    "BITNET_CPP_DIR",
    "BITNET_CACHE_DIR",
    "XDG_CACHE_HOME",
    "HOME",
];

/// Those of [`VARIABLES`] by which a user names a place; the others lead to the builds of the cache.
pub const NAMED_PLACES: &[&str] = &[
    "BITNET_CROSSVAL_LIBDIR",
    "CROSSVAL_RPATH_LLAMA",
    "CROSSVAL_RPATH_BITNET",
    "LLAMA_CPP_DIR",
    "BITNET_CPP_DIR",
];

/// The file that changes whenever a build is finished or removed.
pub fn stamp(env: &Env) -> Option<PathBuf> {
    paths::cache_dir(env).map(|cache| cache.join("references/builds.stamp"))
}

/// One place of precedence: no folders where its variable is not set or nothing is there.
pub struct Place {
    pub origin: String,
    pub dirs: Vec<PathBuf>,
    /// How many levels of folders are searched.
    pub depth: usize,
    /// What to say without folders.
    pub absent: &'static str,
}

pub fn places(env: &Env, lane: Lane) -> Vec<Place> {
    let (rpath, checkout, other) = match lane {
        Lane::Llama => ("CROSSVAL_RPATH_LLAMA", "LLAMA_CPP_DIR", "llama_cpp"),
        Lane::Bitnet => ("CROSSVAL_RPATH_BITNET", "BITNET_CPP_DIR", "bitnet_cpp"),
    };
    let variable = |name: &str, depth| Place {
        origin: name.into(),
        dirs: env.get(name).map(|value| std::env::split_paths(value).collect()).unwrap_or_default(),
        depth,
        absent: "not set",
    };
    let mut places = vec![variable("BITNET_CROSSVAL_LIBDIR", 2), variable(rpath, 2), variable(checkout, 6)];
    // Newest build first.
    let cache = paths::cache_dir(env).map(|cache| cache.join("references"));
    let mut builds: Vec<_> = std::fs::read_dir(cache.unwrap_or_default())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{}-", lane.name())))
        .filter_map(|entry| {
            let manifest = entry.path().join("manifest.json").metadata().ok()?;
            Some((manifest.modified().ok()?, entry.path()))
        })
        .collect();
    builds.sort();
    if builds.is_empty() {
        let absent = "no finished build";
        places.push(Place { origin: "build cache".into(), dirs: Vec::new(), depth: 0, absent });
    }
    places.extend(builds.into_iter().rev().map(|(_, dir)| Place {
        origin: "build cache".into(),
        dirs: vec![dir],
        depth: 2,
        absent: "",
    }));
    let home = env.get("HOME").map(|home| PathBuf::from(home).join(".cache").join(other));
    places.push(Place {
        origin: format!("~/.cache/{other}"),
        dirs: home.into_iter().filter(|dir| dir.is_dir()).collect(),
        depth: 6,
        absent: "does not exist",
    });
    let system = ["/usr/local/lib", "/usr/local/lib64", "/usr/lib64", "/usr/lib"];
    places.extend(system.map(PathBuf::from).into_iter().filter(|dir| dir.is_dir()).map(|dir| Place {
        origin: "system".into(),
        dirs: vec![dir],
        depth: 2,
        absent: "",
    }));
    places
}
