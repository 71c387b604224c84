//! Which model `up` runs: the one that was asked for, the default one, or a fixture where there is no network.

use super::{Kind, Model};
use crate::cli::ModelArg;
use crate::ctx::Ctx;
use crate::exit::{code_of, fail, message_of};
use crate::models;
use anyhow::Result;
use bitforge_schema::exit::ExitCode;

pub const DEFAULT_MODEL: &str = "smollm2-135m";
/// What runs without network: a small ternary model, trained.
const FIXTURE: &str = "fixtures/trained/kjv-b158.gguf";

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
            let path = ctx.root()?.join(FIXTURE);
            if !path.is_file() {
                return fail(
                    ExitCode::NotFound,
                    format!("{} is missing; check it out again", path.display()),
                );
            }
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let why = format!(
                "{}; running the trained fixture {name} instead, which knows one book",
                message_of(&error)
            );
            let model = Model { name, path, kind: Kind::TrainedFixture };
            Ok(Chosen { model, how: How::Instead(why) })
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Reporter;
    use bitforge_schema::env::Env;

    #[test]
    fn without_network_the_trained_fixture_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx::new(
            Some(dir.path().into()),
            Env::from_pairs([("BITNET_OFFLINE", "1"), ("BITNET_CACHE_DIR", dir.path().to_str().unwrap())]),
            Reporter::for_tests(),
        );
        assert_eq!(code_of(&choose(&ctx, None).unwrap_err()), ExitCode::NotFound);
        let fixture = dir.path().join(FIXTURE);
        std::fs::create_dir_all(fixture.parent().unwrap()).unwrap();
        std::fs::write(fixture, "").unwrap();
        let chosen = choose(&ctx, None).unwrap();
        assert_eq!((chosen.model.name.as_str(), chosen.model.kind), ("kjv-b158", Kind::TrainedFixture));
        assert!(matches!(&chosen.how, How::Instead(why) if why.contains("one book")), "{chosen:?}");
        assert!(chosen.model.path.is_file());
        // A model that was asked for is never replaced.
        let error = choose(&ctx, Some(DEFAULT_MODEL)).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::Offline);
        let error = choose(&ctx, Some("none/such.gguf")).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::NotFound);
    }
}
