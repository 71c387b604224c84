//! Where bitforge keeps files outside the checkout.

use crate::env::Env;
use std::path::PathBuf;

/// The cache folder: `BITNET_CACHE_DIR`, otherwise `$XDG_CACHE_HOME/bitforge`, otherwise `~/.cache/bitforge`.
///
/// `None` where none of the three variables (the last is `HOME`) is set.
pub fn cache_dir(env: &Env) -> Option<PathBuf> {
    let from = |name: &str, below: &str| env.get(name).map(|dir| PathBuf::from(dir).join(below));
    env.get("BITNET_CACHE_DIR")
        .map(PathBuf::from)
        .or_else(|| from("XDG_CACHE_HOME", "bitforge"))
        .or_else(|| from("HOME", ".cache/bitforge"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence() {
        let dir = |pairs: &[(&str, &str)]| cache_dir(&Env::from_pairs(pairs.iter().copied()));
        let all = [("BITNET_CACHE_DIR", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(dir(&all), Some("/a".into()));
        assert_eq!(dir(&all[1..]), Some("/b/bitforge".into()));
        assert_eq!(dir(&all[2..]), Some("/c/.cache/bitforge".into()));
        assert_eq!(dir(&[]), None);
    }
}
