//! From arguments and environment to settings: engine options.
//!
//! An argument goes before its variable. Deliberately absent: prompts (see [`super::prompt`]).

use super::args::{DeviceArg, EngineArgs, WeightArgs};
use super::ctx::Ctx;
use super::{catalog, progress::Progress};
use bitforge_schema::env::Env;
use bitforge_schema::selection::Selection;
#[cfg(feature = "gpu")]
use bitnet_runtime::backend::KernelBackend;
use bitnet_runtime::backend::{self, Choice, Fake};
use bitnet_runtime::engine::{Engine, EngineOptions, available_threads};
use bitnet_runtime::gguf::Gguf;
use bitnet_runtime::kernels::select::KernelRequest;
use bitnet_runtime::kernels::{MatmulKernel, SimdLevel};
use bitnet_runtime::model::WeightOptions;
use bitnet_runtime::quant::old_i2s::CodeMap;
use bitnet_runtime::quant::tl::TlConfig;
use bitnet_runtime::{Error, Result};
use std::path::Path;
use std::sync::Arc;

const MAX_THREADS: usize = 1024;

/// What the KV cache has room for.
#[derive(Clone, Copy)]
pub struct Room {
    /// Positions of one sequence (default: see [`EngineOptions::context`]).
    pub context: Option<usize>,
    pub sequences: usize,
    pub replica: Replica,
}

/// Which of several equal engines it is.
#[derive(Clone, Copy)]
pub struct Replica {
    #[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "says which GPUs are its own"))]
    pub index: usize,
    pub of: usize,
}

impl Replica {
    pub const ONLY: Replica = Replica { index: 0, of: 1 };
}

impl From<Option<usize>> for Room {
    /// One sequence of that many positions.
    fn from(context: Option<usize>) -> Self {
        Room { context, sequences: 1, replica: Replica::ONLY }
    }
}

/// An engine with what was decided on the way.
pub struct Loaded<T> {
    pub first: T,
    pub engine: Engine,
    /// Where it computes, and why.
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "the server shows it"))]
    pub backend: Selection,
}

/// Loads the model that `args` name. `first` takes what else is needed of the file
/// before any weight is touched. Catches interrupts from here on.
pub fn load<T>(
    ctx: &Ctx,
    args: &EngineArgs,
    room: impl Into<Room>,
    first: impl FnOnce(&Gguf) -> Result<T>,
) -> Result<(T, Engine)> {
    ctx.catch_interrupts();
    let Loaded { first, engine, .. } = load_engine(ctx, args, room, first)?;
    Ok((first, engine))
}

/// As [`load`], without a look at interrupts. What was selected is logged.
pub fn load_engine<T>(
    ctx: &Ctx,
    args: &EngineArgs,
    room: impl Into<Room>,
    first: impl FnOnce(&Gguf) -> Result<T>,
) -> Result<Loaded<T>> {
    let room = room.into();
    let path = catalog::resolve(&ctx.env, &args.model.model)?;
    let choice = choose_device(ctx, args.device)?;
    choice.check_real()?;
    if args.tensor_parallel > 1 && !choice.row.backend.is_gpu() {
        return Err(Error::Unavailable {
            what: format!(
                "--tensor-parallel {} splits a model over GPUs, and the CPU was chosen: {}",
                args.tensor_parallel, choice.selection.reason
            ),
            remedy: "use --device cuda on a machine with as many GPUs, or leave --tensor-parallel out".into(),
        });
    }
    #[cfg_attr(not(feature = "gpu"), expect(unused_mut, reason = "a device may be given up"))]
    let mut backend = choice.selection.clone();
    #[cfg_attr(not(feature = "gpu"), expect(unused_mut, reason = "a device may be given up"))]
    let mut options = EngineOptions {
        threads: share(threads(&ctx.env, args.threads)?, room.replica),
        context: room.context,
        sequences: room.sequences,
        kv: args.kv.into(),
        head: args.head.into(),
        activation_quant: args.activation_quant.into(),
        kernels: kernel_request(&ctx.env, args.kernels.as_deref())?,
        profile: super::tune::profile(ctx)?,
        weights: weights(&args.weights)?,
        mapping: args.model.mapping(),
        #[cfg(feature = "gpu")]
        device: choice.row.open.map(|open| (open, choice.selection.clone())),
        #[cfg(feature = "gpu")]
        first_device: room.replica.index * usize::from(args.tensor_parallel),
        #[cfg(feature = "gpu")]
        tensor_parallel: args.tensor_parallel.into(),
        #[cfg(feature = "gpu")]
        nccl: ctx.env.get("BITNET_NCCL").map(String::from),
        interrupt: Arc::clone(&ctx.interrupt),
    };
    let mut progress = Progress::start(format!("loading {}", path.display()));
    let gguf = Gguf::open(&path, options.mapping)?;
    if options.weights.code_map.is_none() {
        gguf.require_readable_types()?;
    }
    let first = first(&gguf)?;
    let gguf = Arc::new(gguf);
    let made = Engine::new(Arc::clone(&gguf), &options, &mut |done, layers| progress.update(done, layers));
    let engine = match made {
        // A device that was chosen and not demanded may fail: then the CPU computes.
        #[cfg(feature = "gpu")]
        Err(error)
            if args.device == DeviceArg::Auto
                && args.tensor_parallel == 1
                && of_device(&error)
                && options.device.is_some() =>
        {
            let failed = format!("{} cannot be used, the CPU computes: {error}", backend.selected);
            ctx.fall_back(std::slice::from_ref(&failed))?;
            (backend.selected, backend.reason) = (KernelBackend::Cpu.name().into(), failed);
            options.device = None;
            Engine::new(gguf, &options, &mut |done, layers| progress.update(done, layers))?
        }
        made => made?,
    };
    log_selection("backend", &backend);
    log_selection("kernels", engine.selection());
    let substituted = substituted(options.kernels, engine.model().matrices().map(|m| engine.kernel_for(m)));
    ctx.fall_back(&Vec::from_iter(substituted))?;
    Ok(Loaded { first, engine, backend })
}

/// One line per choice, with everything that led to it.
fn log_selection(what: &str, selection: &Selection) {
    tracing::info!(
        requested = selection.requested,
        compiled = selection.compiled.join(","),
        detected = selection.detected.join(","),
        selected = selection.selected,
        reason = selection.reason,
        "{what} selected"
    );
}

/// # Errors
/// Tile sizes or a code map that cannot be read.
pub fn weights(args: &WeightArgs) -> Result<WeightOptions> {
    let code_map = args.code_map.as_deref().map(|given| {
        let usage =
            |why| Error::usage(format!("--code-map: {why}"), "give four values, as --code-map=-1,0,1,x");
        CodeMap::parse(given).map_err(usage)
    });
    Ok(WeightOptions {
        i2s_layout: args.i2s_layout.into(),
        tl_config: tl_config(args.tl_config.as_deref())?,
        code_map: code_map.transpose()?,
    })
}

/// `--tl-config`: a file, or the sizes themselves.
///
/// # Errors
/// Tile sizes that cannot be read.
pub fn tl_config(given: Option<&str>) -> Result<TlConfig> {
    let Some(given) = given else { return Ok(TlConfig::default()) };
    let path = Path::new(given);
    let text = if path.is_file() {
        std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?
    } else {
        given.to_owned()
    };
    TlConfig::parse(&text).map_err(|why| {
        Error::usage(
            format!("--tl-config: {why}"),
            "give a kernel_config.ini, or sizes as 3200x8640:160,96,32",
        )
    })
}

/// Where to compute. What `auto` passes over is told.
///
/// # Errors
/// A demand that this build or this machine cannot meet, or a BITNET_GPU_FAKE that is wrong or refused.
pub fn choose_device(ctx: &Ctx, device: DeviceArg) -> Result<Choice> {
    let fake = Fake::from_env(&ctx.env, ctx.strict)?;
    let choice = backend::select(device.into(), fake.as_ref())?;
    choice.passed_over.iter().for_each(|why| ctx.note(format_args!("note: the CPU computes; {why}")));
    Ok(choice)
}

#[cfg(feature = "gpu")]
fn of_device(error: &Error) -> bool {
    matches!(error, Error::Accelerator { .. } | Error::Unavailable { .. })
}

/// Whether BITNET_STRICT_MODE is on.
pub fn strict(env: &Env) -> Result<bool> {
    match env.get("BITNET_STRICT_MODE") {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => {
            Err(Error::usage(format!("BITNET_STRICT_MODE is '{other}'"), "set it to 1, or unset it"))
        }
    }
}

/// `--kernels`, else BITNET_KERNELS, else auto.
pub fn kernel_request(env: &Env, argument: Option<&str>) -> Result<KernelRequest> {
    KernelRequest::parse(argument.or_else(|| env.get("BITNET_KERNELS")).unwrap_or("auto"))
}

/// `--threads`, else BITNET_THREADS, else `None`.
pub fn threads(env: &Env, argument: Option<usize>) -> Result<Option<usize>> {
    let (name, value) = match (argument, env.get("BITNET_THREADS")) {
        (Some(n), _) => ("--threads", n.to_string()),
        (None, Some(text)) => ("BITNET_THREADS", text.to_owned()),
        (None, None) => return Ok(None),
    };
    match value.parse() {
        Ok(n) if (1..=MAX_THREADS).contains(&n) => Ok(Some(n)),
        _ => Err(Error::usage(
            format!("{name} is '{value}'"),
            format!("give a whole number from 1 to {MAX_THREADS}"),
        )),
    }
}

/// The threads of one of several engines; 0 leaves the only one all CPUs.
fn share(threads: Option<usize>, replica: Replica) -> usize {
    match (threads, replica.of) {
        (threads, 1) => threads.unwrap_or(0),
        (threads, of) => (threads.unwrap_or_else(available_threads) / of).max(1),
    }
}

/// A warning where a level was forced and some matrix has no SIMD kernel at all. Levels build on each other: what one has
/// no version of its own of, a lower one does.
fn substituted<'a>(
    request: KernelRequest,
    mut kernels: impl Iterator<Item = &'a MatmulKernel>,
) -> Option<String> {
    let KernelRequest::Level(level) = request else { return None };
    let below = kernels.find(|kernel| kernel.level != level && kernel.level == SimdLevel::Scalar)?;
    Some(format!(
        "kernel set '{request}' was forced, but it has no {}: {} runs instead",
        below.weight, below.id
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_below_the_forced_set_is_told() {
        let scalar = || bitnet_runtime::kernels::arch::all::MATMUL[..1].iter();
        let told = substituted(KernelRequest::Level(SimdLevel::Avx2), scalar()).expect("a warning");
        assert_eq!(told, "kernel set 'avx2' was forced, but it has no F32: f32.f32.scalar runs instead");
        assert_eq!(substituted(KernelRequest::Level(SimdLevel::Scalar), scalar()), None);
        assert_eq!(substituted(KernelRequest::Auto, scalar()), None);
    }

    #[test]
    fn replicas_share_the_threads() {
        let replica = |index, of| Replica { index, of };
        assert_eq!((share(None, Replica::ONLY), share(Some(8), Replica::ONLY)), (0, 8));
        assert_eq!((share(Some(8), replica(1, 2)), share(Some(2), replica(2, 3))), (4, 1));
        assert!(share(None, replica(0, 2)) >= 1);
    }

    #[test]
    fn strict_mode_is_one_or_nothing() {
        let env = |value: &str| Env::from_pairs([("BITNET_STRICT_MODE", value)]);
        assert!(strict(&env("1")).expect("known") && !strict(&env("0")).expect("known"));
        assert!(!strict(&Env::default()).expect("unset"));
        assert!(strict(&env("yes")).expect_err("unknown").to_string().contains("'yes'"));
    }

    #[test]
    fn the_argument_goes_before_the_environment() {
        let env = Env::from_pairs([("BITNET_THREADS", "3"), ("BITNET_KERNELS", "scalar")]);
        assert_eq!(threads(&env, Some(2)).expect("in range"), Some(2));
        assert_eq!(threads(&env, None).expect("in range"), Some(3));
        assert_eq!(threads(&Env::default(), None).expect("unset"), None);
        assert_eq!(kernel_request(&env, None).expect("known").to_string(), "scalar");
        assert_eq!(kernel_request(&env, Some("auto")).expect("known").to_string(), "auto");
    }

    #[test]
    fn bad_thread_counts_name_their_source() {
        let env = Env::from_pairs([("BITNET_THREADS", "many")]);
        let message = |argument| threads(&env, argument).expect_err("out of range").to_string();
        assert_eq!(message(None), "BITNET_THREADS is 'many'; give a whole number from 1 to 1024");
        assert_eq!(message(Some(0)), "--threads is '0'; give a whole number from 1 to 1024");
    }
}
