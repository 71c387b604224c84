use bitnet_runtime::engine::{Engine, EngineOptions};
use bitnet_runtime::generate::{Request, generate, load_tokenizer};
use bitnet_runtime::sampling::{Sampler, SamplingParams};
use bitnet_runtime::tokenizer::{Bos::AsFileAsks, SpecialTokens::Parse};

fn main() -> bitnet_runtime::Result<()> {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/trained/kjv-b158.gguf"); // or any other
    let mut engine = Engine::load(model.as_ref(), &EngineOptions::default(), &mut |_, _| ())?;
    let (tokenizer, _) = load_tokenizer(engine.gguf())?;
    let prompt = tokenizer.encode("In the beginning God created the", Parse, AsFileAsks)?;
    let mut sampler = Sampler::new(SamplingParams::greedy(), tokenizer.real_vocab_size())?;
    let request = Request::new(&prompt, 24);
    let made = generate(&mut engine, &tokenizer, &mut sampler, request, &mut |_| Ok(()))?;
    println!("{}", made.text);
    assert!(made.text.starts_with(" heavens, and the earth"), "{}", made.text);
    Ok(())
}
