//! Whether the package indexes answer, as pip and cargo are configured.
//!
//! No host name is built in: pip and cargo say where they would go. A connection is opened (to the proxy where
//! one is set) and closed again; nothing is sent. Absence is a warning, not knowing is could-not-check.

use super::Check;
use super::system::System;
use super::toolchain::PythonFacts;
use crate::cli::Class;
use crate::report::State;
use bitforge_schema::env::Env;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// How long a name look-up and a connection may take together.
const LIMIT: Duration = Duration::from_millis(300);

pub fn pip_index(system: &System<'_>, python: &PythonFacts) -> Check {
    let check = |found: &str| Check::ok("pip-index", Class::Network, found, "fetching models");
    if python.problem.is_some() {
        return check("python3 gave no answer").but(State::CouldNotCheck, "python3 -m pip config list");
    }
    let Some(url) = &python.index_url else {
        return if python.pip.is_some() {
            check("pip is told to use no index")
        } else {
            check("there is no pip to ask").but(State::CouldNotCheck, "python3 -m pip config list")
        };
    };
    reach(system, check, url, python.proxy.as_deref(), "python3 -m pip index versions pip")
}

pub fn cargo_index(system: &System<'_>) -> Check {
    let check = |found: &str| Check::ok("cargo-index", Class::Network, found, "fetching crates");
    match cargo_source(system) {
        Some(Source::Url(url)) => {
            let proxy = system.ctx.env.get("CARGO_HTTP_PROXY");
            reach(system, check, &url, proxy, "cargo fetch --locked")
        }
        Some(Source::Local(path)) => check(&format!("crates come from {path}")),
        None => check("cargo has not used an index yet").but(State::CouldNotCheck, "cargo fetch --locked"),
    }
}

fn reach(
    system: &System<'_>,
    check: impl Fn(&str) -> Check,
    url: &str,
    proxy: Option<&str>,
    fix: &str,
) -> Check {
    let Some((host, port)) = endpoint(url) else {
        return check(&format!("{url} is not a URL with a host")).but(State::Warn, fix);
    };
    if system.ctx.offline {
        return check(&format!("{host} was not asked: offline")).but(State::CouldNotCheck, fix);
    }
    let proxy = proxy.map(str::to_string).or_else(|| proxy_for(&system.ctx.env, url, &host));
    let (target, via) = match proxy.as_deref().and_then(endpoint) {
        Some((proxy, port)) => ((proxy.clone(), port), format!(" through the proxy {proxy}")),
        None => ((host.clone(), port), String::new()),
    };
    match connect(target) {
        Connected::Yes => check(&format!("{host} answers{via}")),
        Connected::No(error) => {
            check(&format!("{host} cannot be reached{via}: {error}")).but(State::Warn, fix)
        }
        Connected::NoAnswer => check(&format!("{host} did not answer{via} within {} ms", LIMIT.as_millis()))
            .but(State::CouldNotCheck, fix),
    }
}

enum Connected {
    Yes,
    No(String),
    NoAnswer,
}

/// Looks a name up and connects, in a thread of its own because a look-up has no time limit.
fn connect(target: (String, u16)) -> Connected {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let result = target.to_socket_addrs().and_then(|addresses| {
            let mut last = std::io::Error::other("the name has no address");
            for address in addresses {
                match TcpStream::connect_timeout(&address, LIMIT) {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error,
                }
            }
            Err(last)
        });
        let _ = send.send(result);
    });
    match receive.recv_timeout(LIMIT) {
        Ok(Ok(())) => Connected::Yes,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::TimedOut => Connected::NoAnswer,
        Ok(Err(error)) => Connected::No(error.to_string()),
        Err(_) => Connected::NoAnswer,
    }
}

/// Host and port of a URL, with or without credentials, brackets and a `sparse+` mark.
fn endpoint(url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let default = if scheme.ends_with("http") { 80 } else { 443 };
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit('@').next()?;
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(default), |port| port.parse().ok())?;
    (!host.is_empty()).then(|| (host.to_string(), port))
}

/// The proxy that the usual variables give for `url`.
fn proxy_for(env: &Env, url: &str, host: &str) -> Option<String> {
    let get = |name: &str| env.get(name).or_else(|| env.get(&name.to_uppercase())).map(str::to_string);
    let excluded = get("no_proxy").is_some_and(|list| {
        list.split(',').map(|entry| entry.trim().trim_start_matches('.')).any(|entry| {
            entry == "*" || (!entry.is_empty() && (host == entry || host.ends_with(&format!(".{entry}"))))
        })
    });
    if excluded {
        return None;
    }
    let scheme = if url.starts_with("http://") { "http_proxy" } else { "https_proxy" };
    let proxy = get(scheme).or_else(|| get("all_proxy"))?;
    Some(if proxy.contains("://") { proxy } else { format!("http://{proxy}") })
}

#[derive(Debug, PartialEq, Eq)]
enum Source {
    Url(String),
    Local(String),
}

/// Where cargo takes crates from: a replacement in its configuration, otherwise the index it has used before.
fn cargo_source(system: &System<'_>) -> Option<Source> {
    let env = &system.ctx.env;
    let home = env
        .get("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env.get("HOME").map(|home| Path::new(home).join(".cargo")))?;
    let root = system.ctx.root().ok();
    let dirs = root.into_iter().flat_map(|root| root.ancestors().map(|dir| dir.join(".cargo")));
    let configs: Vec<toml::Table> = dirs
        .chain([home.clone()])
        .flat_map(|dir| [dir.join("config.toml"), dir.join("config")])
        .filter_map(|file| std::fs::read_to_string(file).ok()?.parse().ok())
        .collect();
    let look_up = |keys: &[&str]| {
        configs.iter().find_map(|config| {
            let mut value = config.get(keys[0])?;
            for key in &keys[1..] {
                value = value.get(key)?;
            }
            value.as_str().map(str::to_string)
        })
    };
    let replacement = env
        .get("CARGO_SOURCE_CRATES_IO_REPLACE_WITH")
        .map(str::to_string)
        .or_else(|| look_up(&["source", "crates-io", "replace-with"]));
    if let Some(name) = replacement {
        let local = look_up(&["source", &name, "directory"])
            .or_else(|| look_up(&["source", &name, "local-registry"]));
        return local.map(Source::Local).or_else(|| {
            look_up(&["source", &name, "registry"])
                .or_else(|| look_up(&["registries", &name, "index"]))
                .map(Source::Url)
        });
    }
    // cargo names the folder of an index HOST-HASH.
    let names = std::fs::read_dir(home.join("registry/index")).ok()?.flatten();
    let mut hosts: Vec<String> =
        names.filter_map(|entry| Some(entry.file_name().to_str()?.rsplit_once('-')?.0.to_string())).collect();
    hosts.sort();
    hosts.into_iter().next().map(|host| Source::Url(format!("https://{host}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctx::Ctx;
    use crate::report::Reporter;
    use std::net::TcpListener;

    fn look<T>(pairs: &[(&str, &str)], look: impl FnOnce(&System<'_>) -> T) -> T {
        let ctx = Ctx::new(None, Env::from_pairs(pairs.iter().copied()), Reporter::for_tests());
        look(&System { ctx: &ctx, sysroot: Path::new("/") })
    }

    fn facts(url: &str) -> PythonFacts {
        PythonFacts { pip: Some("23".into()), index_url: Some(url.into()), ..PythonFacts::default() }
    }

    #[test]
    fn endpoints() {
        assert_eq!(endpoint("https://a.example/simple"), Some(("a.example".into(), 443)));
        assert_eq!(endpoint("sparse+https://u:p@a.example:8443/i/"), Some(("a.example".into(), 8443)));
        assert_eq!(endpoint("http://[::1]:81"), Some(("::1".into(), 81)));
        assert_eq!(endpoint("http://a.example"), Some(("a.example".into(), 80)));
        assert_eq!(endpoint("not a url"), None);
        assert_eq!(endpoint("http://a:port/"), None);
    }

    #[test]
    fn proxies_follow_the_usual_variables() {
        let env = Env::from_pairs([
            ("HTTPS_PROXY", "proxy.example:3128"),
            ("no_proxy", "localhost,.inner.example"),
        ]);
        assert_eq!(
            proxy_for(&env, "https://a.example/", "a.example").as_deref(),
            Some("http://proxy.example:3128")
        );
        assert_eq!(proxy_for(&env, "https://x.inner.example/", "x.inner.example"), None);
        assert_eq!(proxy_for(&env, "http://a.example/", "a.example"), None);
    }

    #[test]
    fn an_index_that_listens_is_ok_and_one_that_refuses_warns() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/simple", listener.local_addr().unwrap());
        assert_eq!(look(&[], |system| pip_index(system, &facts(&url)).state), State::Ok);
        let refused = {
            let closed = TcpListener::bind("127.0.0.1:0").unwrap();
            format!("http://{}/simple", closed.local_addr().unwrap())
        };
        assert_eq!(look(&[], |system| pip_index(system, &facts(&refused)).state), State::Warn);
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        let check = look(&[("http_proxy", &proxy)], |system| pip_index(system, &facts(&refused)));
        assert_eq!(check.state, State::Ok);
        assert_eq!(check.found, "127.0.0.1 answers through the proxy 127.0.0.1");
    }

    #[test]
    fn offline_is_not_a_pass() {
        let pairs = [("BITNET_OFFLINE", "1")];
        let check = look(&pairs, |system| pip_index(system, &facts("https://a.example/")));
        assert_eq!(check.state, State::CouldNotCheck);
    }

    #[test]
    fn cargo_says_where_it_goes() {
        let home = tempfile::tempdir().unwrap();
        let pairs = [("CARGO_HOME", home.path().to_str().unwrap())];
        assert_eq!(look(&pairs, cargo_source), None);
        std::fs::create_dir_all(home.path().join("registry/index/index.example-1949cf8c6b5b557f")).unwrap();
        assert_eq!(look(&pairs, cargo_source), Some(Source::Url("https://index.example".into())));
        let config =
            "[source.crates-io]\nreplace-with = 'm'\n[source.m]\nregistry = 'sparse+https://m.example/'\n";
        std::fs::write(home.path().join("config.toml"), config).unwrap();
        assert_eq!(look(&pairs, cargo_source), Some(Source::Url("sparse+https://m.example/".into())));
        let config = "[source.crates-io]\nreplace-with = 'v'\n[source.v]\ndirectory = 'vendor'\n";
        std::fs::write(home.path().join("config.toml"), config).unwrap();
        assert_eq!(look(&pairs, cargo_source), Some(Source::Local("vendor".into())));
    }
}
