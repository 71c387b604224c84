//! HTTP requests whose redirects, tokens and failures are under control.
//!
//! In: a [`Remote`]. Out: a [`Reply`], or a [`Fault`] that says whether trying again may help. Redirects are followed
//! here and not by the client library, so that a token goes to the one origin it is for and never comes back after the
//! request left it. Proxies are those of the environment, certificates those of the system. Deliberately absent:
//! waiting and trying again (see [`super::download`]), cookies, compression.

use super::Context;
use crate::Error;
use std::io::Read;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use ureq::http::{HeaderMap, Method, Request, Uri};
use ureq::tls::{RootCerts, TlsConfig};

const MAX_REDIRECTS: usize = 10;
/// A server that asks for a longer wait is not waited for.
const MAX_WAIT: Duration = Duration::from_secs(300);
const HEADERS_LIMIT: usize = 64 << 10;
const TRY_LATER: &str = "try again later: what has arrived is kept and not fetched again";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Remote {
    pub url: String,
    /// How messages call it.
    pub what: String,
    pub token: Option<Token>,
    /// The page where access to a gated repository is asked for.
    pub page: Option<String>,
}

/// A secret and the one origin that may see it.
#[derive(Clone)]
pub struct Token {
    pub secret: String,
    /// scheme://host:port
    pub origin: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token for {}", self.origin)
    }
}

/// Why a request gave nothing.
#[derive(Debug)]
pub enum Fault {
    /// It may work later.
    Again {
        what: String,
        after: Option<Duration>,
    },
    /// It is not what it was when the download began.
    Changed(String),
    Fatal(Error),
}

/// The beginning of an answer.
pub struct Reply {
    pub status: u16,
    headers: HeaderMap,
    /// Where it came from in the end.
    pub url: String,
    body: ureq::Body,
}

pub struct Client {
    agent: ureq::Agent,
    proxies: Proxies,
}

struct Proxies {
    http: Option<ureq::Proxy>,
    https: Option<ureq::Proxy>,
}

impl Client {
    /// # Errors
    /// `Usage` for a proxy variable that is not a URL.
    pub fn new(ctx: &Context<'_>) -> crate::Result<Self> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("bitforge/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .max_response_header_size(HEADERS_LIMIT)
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .max_idle_connections_per_host(ctx.tuning.connections)
            .timeout_connect(Some(ctx.tuning.stall.min(Duration::from_secs(15))))
            .timeout_recv_response(Some(ctx.tuning.stall))
            .timeout_per_read(Some(ctx.tuning.stall))
            .build();
        let proxy = |names: [&str; 4]| {
            let Some((name, url)) = names.into_iter().find_map(|name| Some((name, ctx.env.get(name)?)))
            else {
                return Ok(None);
            };
            let bad = || Error::usage(format!("{name} is not the URL of a proxy"), "correct or unset it");
            build_proxy(url, ctx.env.get("NO_PROXY").or_else(|| ctx.env.get("no_proxy")))
                .map(Some)
                .ok_or_else(bad)
        };
        let proxies = Proxies {
            http: proxy(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])?,
            https: proxy(["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?,
        };
        Ok(Client { agent: ureq::Agent::new_with_config(config), proxies })
    }

    /// Ends every request that is under way; none can be made afterwards.
    pub fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    pub fn get(&self, remote: &Remote, headers: &[(&str, String)]) -> Result<Reply, Fault> {
        self.follow(&Method::GET, remote, headers)
    }

    /// The headers about a file: of the hub's own answer where that has them, before the redirect to its storage.
    pub fn head(&self, remote: &Remote) -> Result<Reply, Fault> {
        self.follow(&Method::HEAD, remote, &[])
    }

    fn follow(&self, method: &Method, remote: &Remote, headers: &[(&str, String)]) -> Result<Reply, Fault> {
        let mut url = remote.url.clone();
        let mut seen: Vec<String> = Vec::new();
        let mut token = remote.token.as_ref();
        loop {
            let here =
                origin(&url).ok_or_else(|| bad_redirect(remote, &url, "is not an http or https URL"))?;
            token = token.filter(|token| token.origin == here);
            let reply = self.once(method, &url, token, headers, remote)?;
            let Some(location) = reply.redirect() else { return judge(reply, remote, seen.is_empty()) };
            if *method == Method::HEAD && reply.header("x-linked-etag").is_some() {
                return Ok(reply);
            }
            let next = join(&url, location)
                .ok_or_else(|| bad_redirect(remote, location, "is not a place to go on to"))?;
            if url.starts_with("https:") && !next.starts_with("https:") {
                return Err(bad_redirect(remote, &next, "would leave https"));
            }
            if seen.contains(&next) || next == url || seen.len() == MAX_REDIRECTS {
                return Err(bad_redirect(remote, &next, "goes round in circles"));
            }
            seen.push(std::mem::replace(&mut url, next));
        }
    }

    fn once(
        &self,
        method: &Method,
        url: &str,
        token: Option<&Token>,
        headers: &[(&str, String)],
        remote: &Remote,
    ) -> Result<Reply, Fault> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {}", token.secret));
        }
        let proxy = if url.starts_with("https:") { &self.proxies.https } else { &self.proxies.http };
        let request = request.body(()).map_err(|error| fault(error.into(), remote))?;
        let request = self.agent.configure_request(request).proxy(proxy.clone()).build();
        let (parts, body) = self.agent.run(request).map_err(|error| fault(error, remote))?.into_parts();
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, url: url.into(), body })
    }
}

/// A proxy that names of `NO_PROXY` go past, with everything below them.
fn build_proxy(url: &str, no_proxy: Option<&str>) -> Option<ureq::Proxy> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let given = ureq::Proxy::new(&url).ok()?;
    let mut builder = ureq::Proxy::builder(given.protocol()).host(given.host()).port(given.port());
    if let Some(name) = given.username() {
        builder = builder.username(name);
    }
    if let Some(password) = given.password() {
        builder = builder.password(password);
    }
    for entry in no_proxy.unwrap_or_default().split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        builder = builder.no_proxy(entry);
        if !entry.starts_with(['.', '*']) {
            builder = builder.no_proxy(&format!(".{entry}"));
        }
    }
    builder.build().ok()
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    /// The entity tag without quotes and weakness.
    pub fn etag(&self) -> Option<&str> {
        let tag = self.header("x-linked-etag").or_else(|| self.header("etag"))?;
        Some(tag.trim_start_matches("W/").trim_matches('"'))
    }

    /// The entity tag as `If-Range` takes it: strong ones only.
    pub fn validator(&self) -> Option<&str> {
        self.header("etag").filter(|tag| tag.starts_with('"'))
    }

    /// First and last byte, and the length of the whole where it is known.
    pub fn content_range(&self) -> Option<(u64, u64, Option<u64>)> {
        let (range, total) = self.header("content-range")?.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total = if total == "*" { None } else { Some(total.parse().ok()?) };
        Some((first.parse().ok()?, last.parse().ok()?, total))
    }

    pub fn into_reader(self) -> impl Read {
        self.body.into_reader()
    }

    /// The whole body, of `limit` bytes at most.
    pub fn text(self, limit: u64, remote: &Remote) -> Result<String, Fault> {
        let mut text = Vec::new();
        self.body
            .into_reader()
            .take(limit + 1)
            .read_to_end(&mut text)
            .map_err(|error| read_fault(&error, remote))?;
        match String::from_utf8(text) {
            Ok(text) if text.len() as u64 <= limit => Ok(text),
            _ => Err(fatal(remote, format!("answered more than {limit} bytes or no UTF-8"), TRY_LATER)),
        }
    }

    fn redirect(&self) -> Option<&str> {
        if matches!(self.status, 301 | 302 | 303 | 307 | 308) { self.header("location") } else { None }
    }
}

/// Whether an answer is a success; `direct` is false after a redirect.
fn judge(reply: Reply, remote: &Remote, direct: bool) -> Result<Reply, Fault> {
    let Remote { what, page, .. } = remote;
    let status = reply.status;
    let code = reply.header("x-error-code").unwrap_or_default();
    let told = if code.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}, {code}") };
    let access = match page {
        Some(page) => format!("ask for access at {page}, then set HF_TOKEN to a token of that account"),
        None => "check the address, and that it needs no account".into(),
    };
    Err(match status {
        200 | 206 => return Ok(reply),
        // Signed addresses of a storage expire: the way from the beginning gives a new one.
        401 | 403 | 404 | 410 if !direct => {
            Fault::Again { what: format!("{what}: the storage answered {told}"), after: None }
        }
        401 | 404 if code == "RepoNotFound" && remote.token.is_some() => not_found(what, &told),
        401 if code == "RepoNotFound" => Fault::Fatal(Error::gated(
            format!("{what} does not exist or is not public ({told})"),
            format!("check the name; if it is private, {access}"),
        )),
        401 | 403 if remote.token.is_none() => {
            Fault::Fatal(Error::gated(format!("{what} is not open to everybody ({told})"), access))
        }
        401 | 403 => Fault::Fatal(Error::gated(format!("{what}: the token was refused ({told})"), access)),
        404 | 410 => not_found(what, &told),
        416 => Fault::Changed(format!("{what} is shorter than it was ({told})")),
        408 | 425 | 429 | 500 | 502 | 503 | 504 => {
            let after = reply.header("retry-after").and_then(retry_after);
            match after {
                Some(after) if after > MAX_WAIT => {
                    let asked = format!("answered {told} and asks to wait {} s", after.as_secs());
                    fatal(remote, asked, TRY_LATER)
                }
                _ => Fault::Again { what: format!("{what}: {told}"), after },
            }
        }
        _ => fatal(remote, format!("answered {told}"), "check the address"),
    })
}

fn not_found(what: &str, told: &str) -> Fault {
    Fault::Fatal(Error::not_found(format!("{what} does not exist ({told})"), "check name, revision and file"))
}

fn fatal(remote: &Remote, told: String, remedy: &str) -> Fault {
    Fault::Fatal(Error::network(format!("{}: the server {told}", remote.what), remedy))
}

fn bad_redirect(remote: &Remote, location: &str, why: &str) -> Fault {
    let location: String = location.chars().take(120).collect();
    fatal(remote, format!("redirects to {location:?}, which {why}"), "check the address and HF_ENDPOINT")
}

fn fault(error: ureq::Error, remote: &Remote) -> Fault {
    use ureq::Error as E;
    let what = format!("{}: {error}", remote.what);
    match error {
        E::Http(_) | E::BadUri(_) | E::InvalidProxyUrl => {
            Fault::Fatal(Error::usage(what, "check the address and the proxy variables"))
        }
        E::LargeResponseHeader(..) => Fault::Fatal(Error::network(what, "check the address")),
        _ => Fault::Again { what, after: None },
    }
}

/// What an error while reading a body means.
pub fn read_fault(error: &std::io::Error, remote: &Remote) -> Fault {
    Fault::Again { what: format!("{}: {error}", remote.what), after: None }
}

/// Seconds, or a date of the form `Wed, 21 Oct 2015 07:28:00 GMT`.
pub fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(http_date(text.trim())?.saturating_sub(now.as_secs())))
}

/// Seconds since 1970 of an HTTP date.
fn http_date(text: &str) -> Option<u64> {
    let parts: Vec<&str> = text.split([' ', ':']).collect();
    let &[_, day, month, year, hour, minute, second, "GMT"] = parts.as_slice() else { return None };
    let number = |text: &str| text.parse::<u64>().ok();
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month)? as u64 + 1;
    let (year, day) = (number(year).filter(|year| (1970..10_000).contains(year))?, number(day)?);
    // Days since 1970 by counting from March, so that a leap day is the last of its year.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + number(hour)? * 3600 + number(minute)? * 60 + number(second)?)
}

/// `scheme://host:port` of an http or https URL without credentials.
pub fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?;
    let port = match (scheme, uri.port_u16()) {
        (_, Some(port)) => port,
        ("http", None) => 80,
        ("https", None) => 443,
        _ => return None,
    };
    let authority = uri.authority()?;
    if !matches!(scheme, "http" | "https") || authority.as_str().contains('@') {
        return None;
    }
    Some(format!("{scheme}://{}:{port}", authority.host().to_ascii_lowercase()))
}

/// The URL that `location` means on the page `base`.
pub fn join(base: &str, location: &str) -> Option<String> {
    let unclean = |text: &str| text.chars().any(|c| c.is_control() || c == ' ');
    if unclean(base) || unclean(location) || location.is_empty() {
        return None;
    }
    let (scheme, rest) = base.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let authority = rest.split(['/', '?', '#']).next()?;
    let absolute = location
        .split_once("://")
        .map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest))
        .filter(|(scheme, _)| matches!(scheme.as_str(), "http" | "https"));
    let joined = if let Some((scheme, rest)) = absolute {
        format!("{scheme}://{rest}")
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.contains(':') {
        return None;
    } else {
        let path = rest.split(['?', '#']).next()?;
        let folder = path.rsplit_once('/').map_or(path, |(folder, _)| folder);
        format!("{scheme}://{folder}/{location}")
    };
    let joined = joined.split('#').next()?.to_owned();
    origin(&joined).map(|_| joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_tell_hosts_ports_and_schemes_apart() {
        assert_eq!(origin("https://Hub.example/a?b").as_deref(), Some("https://hub.example:443"));
        assert_eq!(origin("http://h:81/").as_deref(), Some("http://h:81"));
        for bad in ["ftp://h/a", "https://hub.example@evil.example/", "file:///etc/passwd", "/a", "https://"]
        {
            assert_eq!(origin(bad), None, "{bad}");
        }
    }

    #[test]
    fn locations_are_joined_or_refused() {
        let join = |location| join("https://h/a/b?c=1", location);
        assert_eq!(join("/x").as_deref(), Some("https://h/x"));
        assert_eq!(join("x").as_deref(), Some("https://h/a/x"));
        assert_eq!(join("//other/x").as_deref(), Some("https://other/x"));
        assert_eq!(join("http://o:1/x#f").as_deref(), Some("http://o:1/x"));
        assert_eq!(join("HTTPS://o/x").as_deref(), Some("https://o/x"));
        assert_eq!(super::join("hTtps://h", "x").as_deref(), Some("https://h/x"), "a page without a path");
        assert_eq!(super::join("https://h/\u{9c}", "x"), None);
        for bad in ["", "file:///etc/passwd", "javascript:1", "http://a b/", "https://h@evil/", "x\ny"] {
            assert_eq!(join(bad), None, "{bad}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(http_date("Wed, 21 Oct 2015 07:28:00 GMT"), Some(1_445_412_480));
        assert_eq!(http_date("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn a_token_is_never_printed() {
        let token = Token { secret: "hf_secret".into(), origin: "https://h:443".into() };
        assert!(!format!("{token:?}").contains("secret"));
    }
}
