//! What names a model: a name of the catalog or an address. Everything that will become part of a path or a URL is
//! checked here, so that nothing hostile gets further.
//!
//! In: text. Out: a [`Spec`]. Deliberately absent: looking whether it exists.

use crate::{Error, Result};
use bitforge_schema::catalog::{Catalog, Model, is_plain};
use std::fmt;
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub enum Spec {
    Catalog(Box<Model>),
    /// `hf:owner/name[@revision][:file]`; the whole repository without a file.
    Hub(HubSpec),
    /// `pypi:package==version:member`.
    Pypi {
        package: String,
        version: String,
        member: String,
    },
    /// `http://` or `https://`.
    Http(String),
    /// `file:PATH`.
    File(PathBuf),
    /// `bundle:PATH[:name]`.
    Bundle {
        path: PathBuf,
        name: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSpec {
    /// `owner/name`.
    pub repo: String,
    /// A branch, a tag, `refs/pr/N` or a commit.
    pub revision: String,
    pub file: Option<String>,
}

impl Spec {
    /// # Errors
    /// `Usage` for an address that is malformed, `NotFound` for a name that the catalog lacks.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: &str, remedy: &str| Error::usage(format!("'{text}': {what}"), remedy);
        if let Some(rest) = text.strip_prefix("hf:") {
            return HubSpec::parse(rest)
                .map(Spec::Hub)
                .map_err(|what| bad(&what, "write hf:owner/name[@revision][:file]"));
        }
        if let Some(rest) = text.strip_prefix("pypi:") {
            let remedy = "write pypi:package==version:member";
            let (package, rest) = rest.split_once("==").ok_or_else(|| bad("no version", remedy))?;
            let (version, member) = rest.split_once(':').ok_or_else(|| bad("no member", remedy))?;
            if !is_plain(package) || !is_version(version) {
                return Err(bad("package and version must be plain words", remedy));
            }
            safe_relative(member).map_err(|what| bad(&what, remedy))?;
            let (package, version, member) = (package.into(), version.into(), member.into());
            return Ok(Spec::Pypi { package, version, member });
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            let remedy = "give a URL that ends with the name of a file";
            let authority = text.split('/').nth(2).unwrap_or_default();
            if authority.contains('@') {
                return Err(bad("it holds a user name or password", "leave it out: bitforge sends none"));
            }
            if authority.is_empty() || !is_plain(url_file(text)) {
                return Err(bad("it does not name a file", remedy));
            }
            return Ok(Spec::Http(text.into()));
        }
        if let Some(path) = text.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(Spec::File(path.into()));
        }
        if let Some(rest) = text.strip_prefix("bundle:") {
            // A path may hold a colon; a name does not.
            let (path, name) = match rest.rsplit_once(':') {
                Some((path, name)) if is_plain(name) => (path, Some(name.to_owned())),
                _ => (rest, None),
            };
            return Ok(Spec::Bundle { path: path.into(), name });
        }
        let catalog = Catalog::committed();
        match catalog.get(text) {
            Some(model) => Ok(Spec::Catalog(Box::new(model.clone()))),
            None => {
                let near = catalog.nearest(text).unwrap_or("nothing");
                Err(Error::not_found(
                    format!("no model is called '{text}' (nearest: {near})"),
                    "`bitnet models list` shows all; addresses begin with hf:, pypi:, http(s)://, file: or bundle:",
                ))
            }
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spec::Catalog(model) => f.write_str(&model.name),
            Spec::Hub(hub) => hub.fmt(f),
            Spec::Pypi { package, version, member } => write!(f, "pypi:{package}=={version}:{member}"),
            Spec::Http(url) => f.write_str(url),
            Spec::File(path) => write!(f, "file:{}", path.display()),
            Spec::Bundle { path, name: None } => write!(f, "bundle:{}", path.display()),
            Spec::Bundle { path, name: Some(name) } => write!(f, "bundle:{}:{name}", path.display()),
        }
    }
}

impl HubSpec {
    fn parse(text: &str) -> Result<Self, String> {
        let (address, file) = match text.split_once(':') {
            Some((address, file)) => (address, Some(file.to_owned())),
            None => (text, None),
        };
        let (repo, revision) = address.split_once('@').unwrap_or((address, "main"));
        let spec = HubSpec { repo: repo.into(), revision: revision.into(), file };
        spec.check()?;
        Ok(spec)
    }

    /// Whether every part is safe in a path and in a URL.
    pub fn check(&self) -> Result<(), String> {
        let parts: Vec<&str> = self.repo.split('/').collect();
        if parts.len() != 2 || !parts.iter().all(|part| is_plain(part) && !part.contains("--")) {
            return Err("the repository must read owner/name".into());
        }
        if !self.revision.split('/').all(is_version) || self.revision.len() > 200 {
            return Err("the revision is not a plain word".into());
        }
        self.file.as_deref().map_or(Ok(()), safe_relative)
    }
}

impl fmt::Display for HubSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HubSpec { repo, revision, file } = self;
        write!(f, "hf:{repo}@{revision}")?;
        file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
    }
}

/// A plain word, with the signs that versions and tags may hold besides.
fn is_version(text: &str) -> bool {
    is_plain(&text.replace(['+', '!'], "_"))
}

/// The last part of a URL's path.
pub fn url_file(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.splitn(4, '/').nth(3).and_then(|path| path.rsplit('/').next()).unwrap_or_default()
}

/// Whether a path from elsewhere stays below the folder it is joined to, on any system.
///
/// # Errors
/// What is wrong with it.
pub fn safe_relative(path: &str) -> Result<(), String> {
    let parts: Vec<&str> = path.split('/').collect();
    let reserved = |c: char| c.is_control() || "\\:*?\"<>|".contains(c);
    let bad = |part: &&str| part.is_empty() || *part == "." || *part == ".." || part.len() > 255;
    if path.len() > 1024 || parts.len() > 16 {
        return Err(format!("a path of {} bytes in {} parts is too long", path.len(), parts.len()));
    }
    match parts.iter().any(bad) || path.contains(reserved) {
        true => Err(format!("{path:?} is not a plain relative path")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        Spec::parse(text).unwrap_or_else(|error| panic!("{error}")).to_string()
    }

    #[test]
    fn addresses_are_read_and_written() {
        assert_eq!(written("hf:a/b"), "hf:a/b@main");
        assert_eq!(written("hf:a/b.c@refs/pr/1:d/e.gguf"), "hf:a/b.c@refs/pr/1:d/e.gguf");
        for same in [
            "smollm2-135m",
            "pypi:a-b==1.0+cpu:a/b.gguf",
            "https://h:1/a/b.gguf?x=1",
            "file:a/b",
            "bundle:a.zip:name",
            "bundle:/a/b.zip",
        ] {
            assert_eq!(written(same), same);
        }
    }

    #[test]
    fn hostile_and_malformed_addresses_are_refused() {
        for text in [
            "hf:a",
            "hf:../b",
            "hf:a/..",
            "hf:a/b/c",
            "hf:a/b@../x",
            "hf:a/b@",
            "hf:a/b:../../x",
            "hf:a/b:/etc/passwd",
            "hf:a/b:c\\d",
            "hf:a/b:c//d",
            "hf:a--b/c",
            "hf:a/b:x\n",
            "hf:a/b@main?x=1",
            "pypi:a==1",
            "pypi:a b==1:c",
            "pypi:a==1 --index-url=x:c",
            "pypi:a==-r:c",
            "pypi:a==1:../c",
            "https://",
            "https://host/",
            "https://host/..",
            "https://user:secret@host/a.gguf",
            "no-such-model",
        ] {
            assert!(Spec::parse(text).is_err(), "{text}");
        }
        assert!(safe_relative(&"a/".repeat(20)).is_err());
        assert!(safe_relative(&"a".repeat(300)).is_err());
    }
}
