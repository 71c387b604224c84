//! Which model `up` runs: the one that was asked for, the default one, or a fixture where there is no network.

use super::{Kind, Model};
use crate::cli::ModelArg;
use crate::ctx::Ctx;
use crate::exit::{Failure, code_of, fail, message_of};
use crate::models;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use std::path::{Path, PathBuf};

pub const DEFAULT_MODEL: &str = "smollm2-135m";
/// What runs without network: a tiny ternary model with random weights.
const FIXTURES: &str = "fixtures/gguf/ok";

/// The model, and how it was had.
#[derive(Debug)]
pub struct Chosen {
    pub model: Model,
    pub how: How,
}

#[derive(Debug, PartialEq, Eq)]
pub enum How {
    Given,
    Cached,
    Fetched,
    /// Not what was wanted, and why.
    Instead(String),
}

/// The model that was asked for; the default one gives way to a fixture where there is no network.
pub fn choose(ctx: &Ctx, asked: Option<&str>) -> Result<Chosen> {
    let name = match asked.map(ModelArg::parse) {
        Some(ModelArg::File(path)) if path.is_file() => {
            let model = Model { name: path.display().to_string(), path, kind: Kind::File };
            return Ok(Chosen { model, how: How::Given });
        }
        Some(ModelArg::File(path)) => {
            return fail(
                ExitCode::NotFound,
                format!("{} is not a file; give --model a name or a path", path.display()),
            );
        }
        Some(ModelArg::Name(name)) => name,
        None => DEFAULT_MODEL.to_string(),
    };
    match models::fetch(ctx, &name) {
        Ok(fetched) => Ok(Chosen {
            model: Model { name, path: fetched.path, kind: Kind::Catalog },
            how: if fetched.cached { How::Cached } else { How::Fetched },
        }),
        Err(error) if asked.is_none() && matches!(code_of(&error), ExitCode::Network | ExitCode::Offline) => {
            let path = fixture(ctx.root()?)?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let why = format!(
                "{}; running the fixture {name} instead, whose weights are random: its text means nothing",
                message_of(&error)
            );
            Ok(Chosen {
                model: Model { name, path, kind: Kind::RandomWeightFixture },
                how: How::Instead(why),
            })
        }
        Err(error) => Err(error),
    }
}

/// The first ternary fixture, I2_S before others.
fn fixture(root: &Path) -> Result<PathBuf> {
    let dir = root.join(FIXTURES);
    let entries = std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    files.sort_by_key(|path| (!path.to_string_lossy().contains("i2_s"), path.clone()));
    files.into_iter().next().ok_or_else(|| {
        Failure::new(
            ExitCode::NotFound,
            format!("{} has no fixture; run `cargo xtask fixtures`", dir.display()),
        )
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Reporter;
    use bitforge_schema::env::Env;

    #[test]
    fn without_network_a_ternary_fixture_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx::new(
            Some(dir.path().into()),
            Env::from_pairs([("BITNET_OFFLINE", "1"), ("BITNET_CACHE_DIR", dir.path().to_str().unwrap())]),
            Reporter::for_tests(),
        );
        std::fs::create_dir_all(dir.path().join(FIXTURES)).unwrap();
        assert_eq!(code_of(&choose(&ctx, None).unwrap_err()), ExitCode::NotFound);
        for name in ["a-tq1_0.gguf", "b-i2_s.gguf", "README.md"] {
            std::fs::write(dir.path().join(FIXTURES).join(name), "").unwrap();
        }
        let chosen = choose(&ctx, None).unwrap();
        assert_eq!((chosen.model.name.as_str(), chosen.model.kind), ("b-i2_s", Kind::RandomWeightFixture));
        assert!(matches!(&chosen.how, How::Instead(why) if why.contains("means nothing")), "{chosen:?}");
        assert!(chosen.model.path.is_file());
        // A model that was asked for is never replaced.
        let error = choose(&ctx, Some(DEFAULT_MODEL)).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::Offline);
        let error = choose(&ctx, Some("none/such.gguf")).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::NotFound);
    }
}
