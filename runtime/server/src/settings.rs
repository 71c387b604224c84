//! How the server is set up. The defaults are those of `bitnet serve`.

use crate::scheduler::SchedulerLimits;
use crate::scheduler::queue::QueueLimits;
use bitnet_runtime::sampling::SamplingParams;
use bitnet_runtime::{Error, Result};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use subtle::{Choice, ConstantTimeEq};

#[derive(Clone)]
pub struct Settings {
    pub address: SocketAddr,
    /// Requests need one of these, where there are any.
    pub keys: Vec<ApiKey>,
    /// Serve others than this machine without a key.
    pub open_to_all: bool,
    /// Pages of these origins may use the server; none but its own may otherwise.
    pub cors_origins: Vec<String>,
    pub tls: Option<TlsFiles>,
    pub limits: HttpLimits,
    pub queue: QueueLimits,
    pub scheduler: SchedulerLimits,
    /// What requests that do not say get.
    pub sampling: SamplingParams,
    /// The seed of requests that give none; `None` takes a random one each time.
    pub seed: Option<u64>,
    /// Tokens of an answer where the request does not say; `None` fills the context.
    pub max_tokens: Option<usize>,
    /// How long answers under way may take when the server is told to stop.
    pub drain: Duration,
    pub log_prompts: bool,
    pub metrics: bool,
    /// Strict mode: shown in `/props`.
    pub strict: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            keys: Vec::new(),
            open_to_all: false,
            cors_origins: Vec::new(),
            tls: None,
            limits: HttpLimits::default(),
            queue: QueueLimits { all: 256, per_client: 128 },
            scheduler: SchedulerLimits { slots: 16, kept_sequences: 32 },
            sampling: SamplingParams::default(),
            seed: None,
            max_tokens: None,
            drain: Duration::from_secs(30),
            log_prompts: false,
            metrics: true,
            strict: false,
        }
    }
}

impl Settings {
    /// # Errors
    /// An address that others reach, without keys and without saying that this is meant.
    pub fn validate(&self) -> Result<()> {
        if !self.address.ip().is_loopback() && self.keys.is_empty() && !self.open_to_all {
            return Err(Error::usage(
                format!("{} can be reached from other machines, and no API key is set", self.address),
                "give --api-key-file, or --open-to-all to serve everybody, or --host 127.0.0.1",
            ));
        }
        self.sampling.validate()
    }
}

#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    pub body_bytes: usize,
    pub header_bytes: usize,
    pub connections: usize,
    /// Choices of one request, all prompts together.
    pub choices: usize,
    /// For the whole head of a request, and between two requests of a connection.
    pub header_timeout: Duration,
    /// For the whole body.
    pub body_timeout: Duration,
    /// How long a write may make no progress.
    pub write_timeout: Duration,
    /// From submission to the last token.
    pub request_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        HttpLimits {
            body_bytes: 4 << 20,
            header_bytes: 32 << 10,
            connections: 16_384,
            choices: 16,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(600),
        }
    }
}

#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The chain, in PEM.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The sha256 of an API key: equal lengths, so that comparing takes equal time.
#[derive(Clone)]
pub struct ApiKey([u8; 32]);

impl ApiKey {
    pub fn new(key: &str) -> Self {
        ApiKey(Sha256::digest(key.as_bytes()).into())
    }

    /// The index of the key that is `given`, in a time that does not depend on which one or how much of it is right.
    pub fn find(keys: &[ApiKey], given: &str) -> Option<usize> {
        let ApiKey(given) = ApiKey::new(given);
        let mut found = (Choice::from(0), 0u64);
        for (index, ApiKey(key)) in keys.iter().enumerate() {
            let same = key.ct_eq(&given);
            let of_this = u64::from(same.unwrap_u8()) * index as u64;
            found = (found.0 | same, found.1 | of_this);
        }
        bool::from(found.0).then_some(found.1 as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_whole_or_not_at_all() {
        let keys = ["alpha", "beta", "gamma"].map(ApiKey::new);
        assert_eq!(ApiKey::find(&keys, "alpha"), Some(0));
        assert_eq!(ApiKey::find(&keys, "gamma"), Some(2));
        for wrong in ["", "alph", "alphaa", "Alpha", "delta"] {
            assert_eq!(ApiKey::find(&keys, wrong), None, "{wrong}");
        }
        assert_eq!(ApiKey::find(&[], ""), None);
    }

    #[test]
    fn off_loopback_needs_a_key_or_a_word() {
        let open = Settings { address: "0.0.0.0:1".parse().unwrap(), ..Settings::default() };
        let text = open.validate().unwrap_err().to_string();
        assert!(text.contains("--api-key-file") && text.contains("--open-to-all"), "{text}");
        assert!(Settings { open_to_all: true, ..open.clone() }.validate().is_ok());
        assert!(Settings { keys: vec![ApiKey::new("k")], ..open }.validate().is_ok());
        assert!(Settings::default().validate().is_ok());
    }
}
