//! What config.json decides. Whole directories are converted in tools/fixtures/tests/convert.rs.

use super::*;

fn config(extra: &str) -> (tempfile::TempDir, Checkpoint, Config) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.safetensors"), safetensors::tests::file("{}", &[])).unwrap();
    let text = format!(
        r#"{{"model_type":"llama","architectures":["LlamaForCausalLM"],"hidden_size":64,"intermediate_size":96,
            "num_hidden_layers":1,"num_attention_heads":4,"max_position_embeddings":128,"rms_norm_eps":1e-5,
            "vocab_size":10 {extra}}}"#
    );
    std::fs::write(dir.path().join("config.json"), text).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let config = Config::read(&checkpoint).unwrap();
    (dir, checkpoint, config)
}

#[test]
fn the_linear_class_says_what_weight_scale_means() {
    for (extra, expected) in [
        ("", Some(ScaleMeaning::Divides)),
        (r#","quantization_config":{"quant_method":"bitnet"}"#, Some(ScaleMeaning::Divides)),
        (
            r#","quantization_config":{"quant_method":"bitnet","linear_class":"bitlinear"}"#,
            Some(ScaleMeaning::Divides),
        ),
        (
            r#","quantization_config":{"quant_method":"bitnet","linear_class":"autobitlinear","quantization_mode":"offline"}"#,
            Some(ScaleMeaning::Multiplies),
        ),
        (r#","quantization_config":{"quant_method":"bitnet","linear_class":"other"}"#, None),
    ] {
        let (_dir, checkpoint, config) = config(extra);
        assert_eq!(config.scale_meaning(&checkpoint).ok(), expected, "{extra}");
    }
}

#[test]
fn head_dimensions_and_rope_come_from_the_configuration() {
    let (_dir, checkpoint, plain) = config("");
    let keys = |config: &Config, checkpoint: &Checkpoint| {
        let keys = config.keys(checkpoint, "llama", 10).unwrap();
        keys.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    assert!(keys(&plain, &checkpoint).contains(&"llama.rope.freq_base=10000.0".to_owned()));
    assert!(!keys(&plain, &checkpoint).iter().any(|key| key.contains("key_length")));
    let (_dir, checkpoint, falcon) =
        config(r#","head_dim":32,"num_key_value_heads":2,"rope_theta":1000042.0"#);
    let keys = keys(&falcon, &checkpoint);
    for key in
        ["llama.attention.key_length=32", "llama.attention.head_count_kv=2", "llama.rope.freq_base=1000042.0"]
    {
        assert!(keys.contains(&key.to_owned()), "{keys:?}");
    }
    assert_eq!((falcon.linear_shape("attn_q"), falcon.linear_shape("attn_k")), ((128, 64), (64, 64)));
}

/// Llama 3.1 8B: short wavelengths stay, long ones are divided by 8, and a few in between blend.
#[test]
fn llama_3_scaling_becomes_divisors() {
    let (_dir, checkpoint, config) = config(
        r#","head_dim":128,"rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,
            "low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}"#,
    );
    let factors = config.rope_factors(&checkpoint).unwrap().expect("llama3 asks for them");
    assert_eq!((factors.len(), factors[0], factors[28], factors[63]), (64, 1.0, 1.0, 8.0));
    assert!(
        factors.is_sorted() && factors[29] > 1.0 && factors[34] < 8.0 && factors[35] == 8.0,
        "{factors:?}"
    );
    assert!(config.keys(&checkpoint, "llama", 10).is_ok());
}

#[test]
fn families_are_told_by_class_activation_and_norms() {
    let (_dir, checkpoint, llama) = config(r#","hidden_act":"silu""#);
    assert_eq!(llama.architecture(&checkpoint, false).unwrap(), "llama");
    assert_eq!(llama.architecture(&checkpoint, true).unwrap(), "bitnet");
    let (_dir, checkpoint, gelu) = config(r#","hidden_act":"gelu""#);
    assert!(gelu.architecture(&checkpoint, false).is_err());
    let (_dir, checkpoint, relu2) = config(r#","hidden_act":"relu2""#);
    assert_eq!(relu2.architecture(&checkpoint, true).unwrap(), "bitnet-b1.58");
    assert!(relu2.architecture(&checkpoint, false).is_err());
}
