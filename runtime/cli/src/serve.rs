//! `bitnet serve`: arguments to settings, a loader for the engine threads, and the end as an exit code.
//!
//! A model is warmed up before it serves: a few tokens are generated, and the receipt of that run is what `/props` shows.
//! Deliberately absent: HTTP and scheduling (see [`bitnet_server`]).

use super::args::{Format, ServeArgs};
use super::ctx::Ctx;
use super::receipt::{self, Ran};
use super::run::sampling_params;
use super::{catalog, settings};
use bitforge_schema::env::Env;
use bitnet_runtime::engine::Engine;
use bitnet_runtime::generate::{self, AtEndOfSequence, Request, load_tokenizer};
use bitnet_runtime::sampling::{Sampler, SamplingParams};
use bitnet_runtime::tokenizer::{Bos, SpecialTokens};
use bitnet_runtime::{Error, Result};
use bitnet_server::{
    About, ApiKey, End, HttpLimits, Loaded, Loader, QueueLimits, SchedulerLimits, Server, Settings, TlsFiles,
};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Tokens of the warm-up.
const WARM_UP: usize = 8;
/// Shorter keys are as good as none.
const SHORTEST_KEY: usize = 16;

pub fn run(ctx: &mut Ctx, args: &ServeArgs) -> Result<()> {
    let settings = settings(ctx, args)?;
    settings.validate()?;
    let server = Server::start_replicas(settings, loaders(ctx, args))?;
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", server.address());
    match ctx.format {
        Format::Human => ctx.print(&format!("{url}\n"))?,
        Format::Json => {
            ctx.print_json_line(&json!({ "url": url, "model": id(&args.engine.model.model, args) }))?
        }
    }
    match server.run()? {
        End::Drained => Ok(()),
        End::CutOff => Err(Error::Interrupted),
    }
}

fn settings(ctx: &Ctx, args: &ServeArgs) -> Result<Settings> {
    let seconds = Duration::from_secs;
    let tls = args.tls_cert.clone().zip(args.tls_key.clone());
    let timeout = seconds(args.client_timeout);
    Ok(Settings {
        address: SocketAddr::new(args.host, args.port),
        keys: keys(&ctx.env, args.api_key_file.as_deref())?,
        open_to_all: args.open_to_all,
        cors_origins: args.cors_origin.clone(),
        tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
        limits: HttpLimits {
            body_bytes: args.max_body,
            connections: args.max_connections,
            choices: args.max_choices,
            header_timeout: timeout,
            body_timeout: timeout,
            write_timeout: timeout,
            request_timeout: seconds(args.request_timeout),
            ..HttpLimits::default()
        },
        queue: QueueLimits { all: args.queue, per_client: args.queue_per_client },
        scheduler: SchedulerLimits { slots: args.parallel.into(), kept_sequences: args.prefix_cache },
        sampling: sampling_params(&args.sampling),
        seed: args.sampling.seed,
        max_tokens: args.max_tokens,
        drain: seconds(args.drain_timeout),
        log_prompts: args.log_prompts,
        metrics: !args.no_metrics,
        strict: ctx.strict,
    })
}

/// The keys of the file and of the environment.
fn keys(env: &Env, file: Option<&Path>) -> Result<Vec<ApiKey>> {
    let text = file.map(|file| std::fs::read_to_string(file).map_err(|source| Error::io(file, source)));
    let text = text.transpose()?.unwrap_or_default();
    let of_file = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<&str> = of_file.chain(env.get("BITNET_API_KEY")).collect();
    if file.is_some() && keys.is_empty() {
        return Err(Error::usage("--api-key-file names a file without keys", "put one key on each line"));
    }
    if keys.iter().any(|key| key.len() < SHORTEST_KEY) {
        let what = format!("an API key is shorter than {SHORTEST_KEY} characters");
        return Err(Error::usage(what, "make longer ones, such as `openssl rand -hex 24` prints"));
    }
    Ok(keys.into_iter().map(ApiKey::new).collect())
}

/// `--alias`, else the name in the catalog, else the file's without its ending.
fn id(model: &str, args: &ServeArgs) -> String {
    let name = model.rsplit('/').next().unwrap_or(model);
    args.alias.clone().unwrap_or_else(|| name.strip_suffix(".gguf").unwrap_or(name).to_owned())
}

/// Load, warm up, and make the receipt; the latter once for every state of the file. One per replica.
fn loaders(ctx: &Ctx, args: &ServeArgs) -> Vec<Loader> {
    let seen: Arc<Mutex<Option<(State, Value)>>> = Arc::default();
    (0..args.replicas.into()).map(|replica| loader(ctx, args, replica, Arc::clone(&seen))).collect()
}

fn loader(ctx: &Ctx, args: &ServeArgs, replica: usize, seen: Arc<Mutex<Option<(State, Value)>>>) -> Loader {
    let (env, strict, args) = (ctx.env.clone(), ctx.strict, args.clone());
    Arc::new(move || {
        let mut ctx = Ctx::new(env.clone(), Format::Human);
        ctx.strict = strict;
        let replica = settings::Replica { index: replica, of: args.replicas.into() };
        let room =
            settings::Room { context: args.ctx_size, sequences: usize::from(args.kv_sequences), replica };
        let settings::Loaded { first: warnings, mut engine, backend } =
            settings::load_engine(&ctx, &args.engine, room, |gguf| Ok(load_tokenizer(gguf)?.1))?;
        ctx.fall_back(&warnings)?;
        let state = State::of(&catalog::resolve(&env, &args.engine.model.model)?)?;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let receipt = match &*seen {
            Some((before, receipt)) if *before == state => receipt.clone(),
            _ => warm_up(&ctx, &args, &mut engine)?,
        };
        *seen = Some((state, receipt.clone()));
        drop(seen);
        let id = id(&args.engine.model.model, &args);
        Loaded::new(engine, &About { id, chat: args.chat, backend, receipt })
    })
}

/// What a file is known by between two loads.
#[derive(PartialEq)]
struct State(u64, Option<SystemTime>);

impl State {
    fn of(path: &Path) -> Result<Self> {
        let meta = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        Ok(State(meta.len(), meta.modified().ok()))
    }
}

/// Generates a few tokens, which brings the weights into memory; returns the receipt of that run.
fn warm_up(ctx: &Ctx, args: &ServeArgs, engine: &mut Engine) -> Result<Value> {
    let (tokenizer, _) = load_tokenizer(engine.gguf())?;
    let prompt = tokenizer.encode("The", SpecialTokens::Parse, Bos::AsFileAsks)?;
    let mut sampler = Sampler::new(SamplingParams::greedy(), tokenizer.real_vocab_size())?;
    let request = Request { at_end_of_sequence: AtEndOfSequence::Continue, ..Request::new(&prompt, WARM_UP) };
    engine.reset_kernel_counts();
    let generation = generate::generate(engine, &tokenizer, &mut sampler, request, &mut |_| Ok(()))?;
    let ran = Ran {
        args: &args.engine,
        engine,
        tokenizer: &tokenizer,
        prompt: &prompt,
        generation: &generation,
        sampling: sampler.params(),
    };
    let receipt = receipt::of(ctx, &ran)?;
    engine.reset();
    Ok(serde_json::to_value(receipt).expect("keys are strings and no Serialize fails"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_the_file_and_the_environment() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("keys");
        std::fs::write(&path, "# ours\n  0123456789abcdef0123  \n\nfedcba9876543210fedc\n").expect("written");
        let env = Env::from_pairs([("BITNET_API_KEY", "a key from outside")]);
        let found = keys(&env, Some(&path)).expect("good keys");
        assert_eq!(found.len(), 3);
        assert_eq!(ApiKey::find(&found, "fedcba9876543210fedc"), Some(1));
        assert_eq!(ApiKey::find(&found, "a key from outside"), Some(2));
        assert!(keys(&Env::default(), None).expect("none").is_empty());
        std::fs::write(&path, "short\n").expect("written");
        let error = keys(&Env::default(), Some(&path)).err().expect("too short").to_string();
        assert!(error.contains("shorter than 16") && !error.contains("short\n"), "{error}");
        std::fs::write(&path, "\n").expect("written");
        assert!(keys(&Env::default(), Some(&path)).is_err(), "a file without keys must not open the server");
    }
}
