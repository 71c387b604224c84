//! What requests need to know of the loaded model: its tokenizer, its chat template, and facts to show.
//!
//! In: an engine and what the command line knows about it. Out: a [`Model`] that any thread may read, and the engine's
//! sequences for the engine thread. Deliberately absent: computing.

use crate::api::props::{EngineProps, KernelProps, ModelProps};
use crate::grammar::Grammars;
use bitforge_schema::selection::Selection;
use bitnet_runtime::Result;
use bitnet_runtime::chat::{AddGenerationPrompt, ChatContext, ChatMode, ChatTemplate, Message};
use bitnet_runtime::engine::{Engine, Sequences};
use bitnet_runtime::generate::load_tokenizer;
use bitnet_runtime::gguf::TensorInfo;
use bitnet_runtime::model::Pooling;
use bitnet_runtime::tokenizer::{Bos, SpecialTokens, Tokenizer};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// A model that is ready to compute.
pub struct Loaded {
    pub sequences: Box<dyn Sequences>,
    pub model: Model,
}

/// What the engine does not know about itself.
#[derive(Clone)]
pub struct About {
    /// How requests name the model.
    pub id: String,
    pub chat: ChatMode,
    /// Where it computes, and why.
    pub backend: Selection,
    /// What was loaded and selected, in the form of `bitforge_receipt_schema`.
    pub receipt: serde_json::Value,
}

pub struct Model {
    pub id: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    /// Positions of one sequence.
    pub context: usize,
    pub facts: ModelFacts,
    /// Why it makes no embeddings, where it does not.
    pub no_embeddings: Option<String>,
    /// What may change answers: the build and the kernels.
    pub fingerprint: String,
    bos: String,
    eos: String,
    grammars: OnceLock<Result<Grammars, String>>,
}

/// What `/props` says of the model and its engine.
#[derive(Clone, Debug)]
pub struct ModelFacts {
    pub model: ModelProps,
    pub engine: EngineProps,
    pub selection: Selection,
    pub backend: Selection,
    pub kernels: Vec<KernelProps>,
    pub receipt: serde_json::Value,
}

impl Loaded {
    /// # Errors
    /// A tokenizer or a chat template that does not work.
    pub fn new(engine: Engine, about: &About) -> Result<Self> {
        let gguf = engine.gguf();
        let (tokenizer, _) = load_tokenizer(gguf)?;
        let template =
            ChatTemplate::choose(about.chat, tokenizer.chat_template(), tokenizer.family(), gguf.path())?;
        let text = |id: Option<u32>| {
            id.map(|id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned()).unwrap_or_default()
        };
        let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
        let facts = ModelFacts {
            model: model_props(&engine, about, &tokenizer, &template)?,
            engine: engine_props(&engine),
            selection: engine.selection().clone(),
            backend: about.backend.clone(),
            kernels: kernels(&engine),
            receipt: about.receipt.clone(),
        };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let model = Model {
            id: about.id.clone(),
            created,
            template,
            context: engine.context(),
            no_embeddings: no_embeddings(&engine, &facts.engine),
            fingerprint: format!("bitnet-{}-{}", env!("CARGO_PKG_VERSION"), facts.selection.selected),
            facts,
            bos,
            eos,
            grammars: OnceLock::new(),
            tokenizer,
        };
        Ok(Loaded { sequences: Box::new(engine), model })
    }
}

impl Model {
    /// Token ids of a conversation, with what opens the answer.
    ///
    /// # Errors
    /// A template that refuses the messages, or text that cannot be tokenized.
    pub fn chat_tokens(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let context =
            ChatContext { bos_token: self.bos.clone(), eos_token: self.eos.clone(), now: SystemTime::now() };
        let text = self.template.render(messages, AddGenerationPrompt::Yes, &context)?;
        self.tokens(&text)
    }

    /// Token ids of a text; special tokens in it are parsed.
    ///
    /// # Errors
    /// Text that cannot be tokenized.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text, SpecialTokens::Parse, Bos::AsFileAsks)
    }

    /// # Errors
    /// What is wrong with the vocabulary.
    pub fn grammars(&self) -> Result<&Grammars, String> {
        self.grammars.get_or_init(|| Grammars::new(&self.tokenizer)).as_ref().map_err(Clone::clone)
    }
}

fn no_embeddings(engine: &Engine, props: &EngineProps) -> Option<String> {
    let config = &engine.model().config;
    let architecture = &config.architecture_name;
    match (config.pooling, &props.device) {
        (Some(Pooling::Last), None) => None,
        (Some(Pooling::Last), Some(device)) => {
            Some(format!("embeddings are computed on the CPU, and the model is on {device}"))
        }
        (Some(Pooling::Other(number)), _) => Some(format!(
            "the served model pools by {architecture}.pooling_type {number}; embeddings are made by pooling type 3 (last)"
        )),
        (None, _) => Some(format!(
            "the served model ('{architecture}') generates text and was not trained to make embeddings: it has no \
             {architecture}.pooling_type"
        )),
    }
}

fn model_props(
    engine: &Engine,
    about: &About,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
) -> Result<ModelProps> {
    let (gguf, config) = (engine.gguf(), &engine.model().config);
    let elements = |info: &TensorInfo| info.dims.iter().fold(1u64, |n, dim| n.saturating_mul(*dim));
    let parameters = gguf.tensors().iter().map(elements).fold(0, u64::saturating_add);
    let bytes = gguf.tensors().iter().map(|info| info.len).try_fold(0u64, |sum, len| Some(sum + len?));
    let mut by_type: BTreeMap<String, u64> = BTreeMap::new();
    gguf.tensors().iter().for_each(|info| *by_type.entry(info.type_name()).or_default() += elements(info));
    Ok(ModelProps {
        id: about.id.clone(),
        name: gguf.opt_str("general.name")?.map(str::to_owned),
        architecture: config.architecture_name.clone(),
        parameters,
        weight_type: by_type.into_iter().max_by_key(|(_, n)| *n).map(|(name, _)| name),
        bits_per_weight: bytes.filter(|_| parameters > 0).map(|bytes| bytes as f64 * 8.0 / parameters as f64),
        file_bytes: gguf.file_len(),
        layers: config.layers,
        hidden: config.hidden,
        vocabulary: tokenizer.real_vocab_size(),
        trained_context: config.context_length,
        chat_template: template.name().into(),
    })
}

fn engine_props(engine: &Engine) -> EngineProps {
    #[cfg(feature = "gpu")]
    let device = engine.device().map(|facts| facts.name.clone());
    #[cfg(not(feature = "gpu"))]
    let device = None;
    EngineProps {
        context_size: engine.context(),
        batch_rows: engine.batch_rows(),
        threads: engine.threads(),
        kv_type: engine.kv_type().name().into(),
        kv_cache_bytes: engine.kv_bytes(),
        kv_pages: engine.page_use().total,
        head: engine.head_mode().name().into(),
        device,
    }
}

/// The products of the layers and of the head. A device that computes has kernels of its own for them.
fn kernels(engine: &Engine) -> Vec<KernelProps> {
    let model = engine.model();
    let layers = model.layers.iter().flat_map(|layer| layer.linears()).map(|linear| &linear.matrix);
    let all = layers.map(|matrix| ("product", matrix)).chain([("head", model.head())]);
    let mut found: Vec<KernelProps> = Vec::new();
    for (operation, matrix) in all {
        let kernel = engine.kernel_for(matrix);
        let same = |props: &&mut KernelProps| props.operation == operation && props.kernel == kernel.id;
        match found.iter_mut().find(same) {
            Some(props) => props.matrices += 1,
            None => found.push(KernelProps {
                operation: operation.into(),
                weight: matrix.ty.name().into(),
                activation: format!("{:?}", kernel.activation),
                kernel: kernel.id.into(),
                matrices: 1,
            }),
        }
    }
    found
}
