//! `bitnet evaluate`: the engine protocol ([`bitforge_schema::protocol`]) on stdin and stdout.
//!
//! In: one request per line. Out: one line that says what was loaded, then one answer per line. Large values go to
//! the files the requests name. A request that fails is answered with an error and the process goes on; it ends
//! where stdin ends. Deliberately absent: sampling and text.

use super::args::EvaluateArgs;
use super::ctx::Ctx;
use super::measure::{Measured, Work};
use super::settings;
use bitforge_schema::protocol::{Hello, ModelShape, PROTOCOL, Request, Response, Tap, TapPoint};
use bitnet_runtime::engine::Engine;
use bitnet_runtime::engine::taps::{TapSink, Tapped};
use bitnet_runtime::generate::load_tokenizer;
use bitnet_runtime::gguf::Gguf;
use bitnet_runtime::model::Layer;
use bitnet_runtime::tokenizer::{Bos, SpecialTokens, Tokenizer};
use bitnet_runtime::{Error, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub fn run(ctx: &mut Ctx, args: &EvaluateArgs) -> Result<()> {
    let room = settings::Room {
        context: args.ctx_size,
        sequences: args.sequences,
        replica: settings::Replica::ONLY,
    };
    // A file without a usable tokenizer can still be evaluated: tokenizing is what fails then.
    let (tokenizer, mut engine) = settings::load(ctx, &args.engine, room, |gguf| Ok(tokenizer(ctx, gguf)))?;
    ctx.note(engine.selection());
    line(ctx, &hello(&engine))?;
    for request in std::io::stdin().lock().lines() {
        let request = request.map_err(|error| Error::io(Path::new("<stdin>"), error))?;
        let response = serde_json::from_str(&request)
            .map_err(|error| format!("not a request of the engine protocol: {error}"))
            .and_then(|request| answer(&mut engine, &tokenizer, &request).map_err(|error| error.to_string()));
        line(ctx, &response.unwrap_or_else(|message| Response::Error { message }))?;
    }
    Ok(())
}

/// What a strict run must not do with a text is refused when a text comes.
fn tokenizer(ctx: &Ctx, gguf: &Gguf) -> Result<Tokenizer> {
    let (tokenizer, warnings) = load_tokenizer(gguf)?;
    ctx.fall_back(&warnings)?;
    Ok(tokenizer)
}

fn line(ctx: &Ctx, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string(value).expect("keys are strings and no Serialize of ours fails");
    ctx.print(&(text + "\n"))
}

fn hello(engine: &Engine) -> Hello {
    let config = &engine.model().config;
    let ternary = |layer: &Layer| layer.down.matrix.ty.is_ternary();
    Hello {
        protocol: PROTOCOL,
        engine: "bitforge".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        system: engine.selection().to_string(),
        threads: engine.threads() as u32,
        model: ModelShape {
            architecture: config.architecture_name.clone(),
            layers: config.layers as u32,
            hidden: config.hidden as u32,
            vocabulary: engine.vocab_size() as u32,
        },
        activation_quant: engine
            .model()
            .layers
            .iter()
            .any(ternary)
            .then_some(engine.activation_quant().into()),
    }
}

fn answer(engine: &mut Engine, tokenizer: &Result<Tokenizer>, request: &Request) -> Result<Response> {
    engine.reset();
    engine.reset_kernel_counts();
    match request {
        Request::Tokenize { text } => match tokenizer {
            Ok(tokenizer) => {
                let tokens = tokenizer.encode(text, SpecialTokens::Parse, Bos::AsFileAsks)?;
                Ok(Response::Tokens { tokens })
            }
            Err(error) => {
                Err(Error::usage(format!("this model's tokenizer cannot be used: {error}"), "send token ids"))
            }
        },
        Request::Evaluate { given: Some(_), .. } => Err(Error::usage(
            "this engine computes from its own intermediate results",
            "send `given` to the oracle (tools/oracle/evaluate.py)",
        )),
        Request::Evaluate { tokens, logits, taps, given: None } => {
            evaluate(engine, tokens, logits, taps.as_deref())
        }
        Request::Bench { depth, prompt, generate, sequences } => {
            let work = Work { depth: *depth, prompt: *prompt, steps: *generate, sequences: *sequences };
            let Measured { prompt_ns, steps_ns } = work.measure(engine)?;
            Ok(Response::Measured { prompt_ns, generate_ns: steps_ns, kernels: engine.kernel_counts() })
        }
    }
}

fn evaluate(engine: &mut Engine, tokens: &[u32], logits: &Path, taps: Option<&Path>) -> Result<Response> {
    let io = |error| Error::io(logits, error);
    let mut file = BufWriter::new(File::create(logits).map_err(io)?);
    let mut taps = taps.map(|path| TapFile::create(path, tokens.len())).transpose()?;
    let mut keep = taps.as_mut().map(|taps| |tapped: &Tapped<'_>| taps.write(tapped));
    engine.logits_and_taps(
        tokens,
        &mut |_, logits| logits.iter().try_for_each(|logit| file.write_all(&logit.to_le_bytes())).map_err(io),
        keep.as_mut().map(|keep| keep as TapSink<'_>),
    )?;
    file.flush().map_err(io)?;
    Ok(Response::Evaluated {
        positions: tokens.len() as u32,
        vocabulary: engine.vocab_size() as u32,
        taps: taps.map(TapFile::finish).transpose()?.unwrap_or_default(),
        kernels: engine.kernel_counts(),
    })
}

/// The taps of one request: a tensor gets its place in the file when its first rows arrive.
struct TapFile<'a> {
    path: &'a Path,
    file: File,
    positions: usize,
    taps: Vec<Tap>,
    places: HashMap<(TapPoint, Option<u32>), u64>,
    end: u64,
    outcome: std::io::Result<()>,
}

impl<'a> TapFile<'a> {
    fn create(path: &'a Path, positions: usize) -> Result<Self> {
        let file = File::create(path).map_err(|error| Error::io(path, error))?;
        let (taps, places) = (Vec::new(), HashMap::new());
        Ok(TapFile { path, file, positions, taps, places, end: 0, outcome: Ok(()) })
    }

    fn write(&mut self, tapped: &Tapped<'_>) {
        let row = 4 * tapped.width as u64;
        let layer = tapped.layer.map(|layer| layer as u32);
        let offset = *self.places.entry((tapped.point, layer)).or_insert_with(|| {
            let (point, width, offset) = (tapped.point, tapped.width as u32, self.end);
            self.taps.push(Tap { point, layer, width, offset });
            self.end += row * self.positions as u64;
            offset
        });
        if self.outcome.is_ok() {
            let bytes: Vec<u8> = tapped.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.outcome = self.file.write_all_at(&bytes, offset + row * tapped.position as u64);
        }
    }

    fn finish(self) -> Result<Vec<Tap>> {
        self.outcome.map_err(|error| Error::io(self.path, error))?;
        Ok(self.taps)
    }
}
