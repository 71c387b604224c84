//! The file's templates against Python's jinja2 (fixtures/chat), the built-in ones, and templates that mean harm.

use super::*;
use serde_json::Value;
use std::fs;
use std::time::{Duration, UNIX_EPOCH};

fn fixture(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/chat");
    fs::read_to_string(dir.join(name)).unwrap()
}

fn context(seconds: u64) -> ChatContext {
    ChatContext {
        bos_token: "<|begin_of_text|>".into(),
        eos_token: "<|eot_id|>".into(),
        now: UNIX_EPOCH + Duration::from_secs(seconds),
    }
}

fn gguf(source: &str) -> Result<ChatTemplate> {
    ChatTemplate::choose(ChatMode::Gguf, Some(source), "gpt-2", Path::new("model.gguf"))
}

fn message(value: &Value) -> Message {
    let roles = [Role::System, Role::User, Role::Assistant];
    let role = roles.into_iter().find(|role| value["role"] == role.name()).unwrap();
    Message::new(role, value["content"].as_str().unwrap())
}

#[test]
fn gguf_templates_render_as_in_python() {
    let goldens: Value = serde_json::from_str(&fixture("goldens.json")).unwrap();
    let context = context(goldens["now"].as_u64().unwrap());
    let cases = goldens["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 40);
    for case in cases {
        let template = gguf(&fixture(case["template"].as_str().unwrap())).unwrap();
        let messages: Vec<Message> = case["messages"].as_array().unwrap().iter().map(message).collect();
        let prompt = match case["add_generation_prompt"].as_bool().unwrap() {
            true => AddGenerationPrompt::Yes,
            false => AddGenerationPrompt::No,
        };
        match (template.render(&messages, prompt, &context), case["rendered"].as_str()) {
            (Ok(text), expected) => assert_eq!(Some(text.as_str()), expected, "{case}"),
            (Err(error), expected) => {
                assert_eq!(expected, None, "{error}: {case}");
                assert!(error.to_string().contains(case["refusal"].as_str().unwrap()), "{error}: {case}");
            }
        }
    }
}

fn conversation() -> Vec<Message> {
    vec![
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, " Hi "),
        Message::new(Role::Assistant, "Hello."),
        Message::new(Role::User, "Why?"),
    ]
}

#[test]
fn built_in_templates() {
    let render = |template: ChatTemplate, messages: &[Message], prompt| {
        template.render(messages, prompt, &context(0)).unwrap()
    };
    let all = |template| render(template, &conversation(), AddGenerationPrompt::Yes);
    let open = |template| render(template, &conversation()[1..3], AddGenerationPrompt::No);
    assert_eq!(all(ChatTemplate::Raw), "Be brief.\n Hi \nHello.\nWhy?");
    assert_eq!(open(ChatTemplate::Raw), " Hi \nHello.");
    assert_eq!(all(ChatTemplate::Instruct), "Be brief.\n\nQ:  Hi \nA: Hello.\n\nQ: Why?\nA:");
    assert_eq!(open(ChatTemplate::Instruct), "Q:  Hi \nA: Hello.\n\n");
    assert_eq!(ChatTemplate::Instruct.stop_texts(), ["\nQ:"]);
    let headed = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
                  <|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>";
    assert_eq!(open(ChatTemplate::Llama3Chat), format!("<|begin_of_text|>{headed}"));
    assert_eq!(
        all(ChatTemplate::Llama3Chat),
        format!(
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>{headed}\
             <|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n"
        )
    );
}

#[test]
fn the_mode_and_the_file_choose_the_template() {
    let choose = |mode, own, family| ChatTemplate::choose(mode, own, family, Path::new("model.gguf"));
    let name = |mode, own, family| choose(mode, own, family).unwrap().name();
    assert_eq!(name(ChatMode::Auto, Some("{{ 1 }}"), "llama3"), "gguf");
    assert_eq!(name(ChatMode::Auto, None, "llama3"), "llama3-chat");
    assert_eq!(name(ChatMode::Auto, None, "llama-spm"), "instruct");
    assert_eq!(name(ChatMode::Raw, Some("{% broken"), "llama3"), "raw");
    assert_eq!(name(ChatMode::Instruct, Some("{{ 1 }}"), "llama3"), "instruct");
    assert_eq!(name(ChatMode::Llama3Chat, Some("{{ 1 }}"), "smollm"), "llama3-chat");
    let error = choose(ChatMode::Gguf, None, "llama3").unwrap_err().to_string();
    assert!(error.contains("no tokenizer.chat_template") && error.contains("--chat raw"), "{error}");
}

fn failure(source: &str) -> String {
    let result = gguf(source).and_then(|t| t.render(&conversation(), AddGenerationPrompt::Yes, &context(0)));
    result.expect_err("must fail").to_string()
}

#[test]
fn a_failing_template_names_file_line_and_remedy() {
    assert_eq!(
        failure("{{ 1 }}\n{% if %}"),
        "model.gguf: tokenizer.chat_template fails in line 2: unexpected end of block; \
         use --chat raw, instruct or llama3-chat instead of the file's template"
    );
    let unknown = failure("a\nb\n{{ messages[0].content.explode() }}");
    assert!(unknown.contains("fails in line 3:"), "{unknown}");
    assert!(failure("{{ raise_exception('no such role') }}").contains("fails in line 1: no such role"));
    assert!(failure("{{ strftime_now('%Q') }}").contains("does not know %Q"));
}

#[test]
fn a_long_conversation_stays_within_the_budget_of_steps() {
    let turns = [Message::new(Role::User, "Why? ".repeat(100)), Message::new(Role::Assistant, "Because.")];
    let messages: Vec<Message> = turns.into_iter().cycle().take(4000).collect();
    for name in ["smollm2.jinja", "llama3.jinja", "qwen2.jinja", "bitnet.jinja"] {
        let text =
            gguf(&fixture(name)).unwrap().render(&messages, AddGenerationPrompt::Yes, &context(0)).unwrap();
        assert_eq!(text.matches("Because.").count(), 2000, "{name}");
    }
}

/// The library recurses as deep as expressions and values nest; a stack overflow would end the process.
#[test]
fn what_nests_deep_does_not_overflow_the_stack() {
    let most = 60_000;
    let list = "{% set ns = namespace(a=[1]) %}{% for i in range(99999) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}";
    for source in [
        format!("{{{{ {}1 }}}}", "-".repeat(most)),
        format!("{{{{ {}1 }}}}", "not ".repeat(most / 4)),
        format!("{{{{ 'a'{} }}}}", "~'a'".repeat(most / 4)),
        format!("{{{{ a{} }}}}", ".b".repeat(most / 2)),
        format!("{{{{ {}x }}}}", "-".repeat(most)),
        format!("{{{{ a{} }}}}", "+a".repeat(most / 2)),
        list.to_owned(),
    ] {
        // An answer or an error, and the process goes on.
        match gguf(&source).and_then(|template| template.render(&[], AddGenerationPrompt::Yes, &context(0))) {
            Ok(text) => assert!(text.len() <= 1 << 20, "{} bytes", text.len()),
            Err(error) => assert!(error.to_string().contains("tokenizer.chat_template fails"), "{error}"),
        }
    }
    let message = failure(&"x".repeat(70_000));
    assert!(message.contains("has 70000 bytes, at most 65536 are read"), "{message}");
}

/// A stranger's template costs bounded time and memory and gives an error, never a panic.
#[test]
fn hostile_templates_are_errors() {
    let endless = "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}";
    assert!(failure(endless).contains("takes more than 1000000 steps"), "{}", failure(endless));
    let growing = "{% set ns = namespace(s='xxxxxxxxxx') %}\
                   {% for i in range(9999) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
    assert!(failure(growing).contains("takes more than 1000000 steps"), "{}", failure(growing));
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(20_000), ")".repeat(20_000));
    for source in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include 'other' %}",
        "{% import '/etc/passwd' as x %}",
        "{{ 'x' * 99999999999 }}",
        &nested,
    ] {
        let message = failure(source);
        assert!(message.contains("tokenizer.chat_template fails"), "{message}");
    }
}

/// The library computes constants while it compiles, and what nests once for each level, before it counts anything.
#[test]
fn what_compiling_takes_is_bounded() {
    let many = "10000000";
    for source in [
        format!("{{% if [1] * {many} == [1] * {many} %}}x{{% endif %}}"),
        format!("{{% if x and 2 in {many} * (1, 2) %}}x{{% endif %}}"),
        format!("{{{{ [1] * {many} * {many} ~ '' }}}}"),
        "{{ ([1] + [2]) * (10 ** 7) < [2] }}".to_owned(),
        format!("{{% set x = {{'a': 0 if y else [3] * {many} != []}} %}}"),
        format!("{{% macro f(a=1 < [[1], 2] * {many} < 2) %}}{{% endmacro %}}"),
        format!("{{% for i in x[[1] * {many} == [1]:] if i %}}{{% endfor %}}"),
        format!("{{% call f([1] * {many} ~ 1) %}}{{% endcall %}}"),
        format!("{{{{ x|join(a=[1] * {many} ~ 1) }}}}"),
        format!("{{{{ x is eq([1] * {many} ~ 1) }}}}"),
        format!("{{{{ a{} }}}}", " and a".repeat(2_000)),
        format!("{{{{ {}a }}}}", "not ".repeat(2_000)),
    ] {
        // Already where it is chosen, without any conversation.
        let message = gguf(&source).expect_err(&source).to_string();
        assert!(message.contains("takes more than 1000000 steps"), "{source}: {message}");
    }
    let render =
        |source: &str| gguf(source).unwrap().render(&[], AddGenerationPrompt::No, &context(0)).unwrap();
    assert_eq!(
        render("{{ '=' * 20 }}{{ ([1, 2] * 100)|length }}{{ [0] * 3 == [0, 0, 0] }}"),
        "====================200True"
    );
    assert_eq!(render(&format!("{{{{ 'a'{} }}}}", " ~ 'b'".repeat(300))).len(), 301);
    assert_eq!(render(&format!("{{% if x{} %}}y{{% endif %}}", " or x == 'some words'".repeat(300))), "");
}

/// Lists that hold the one before twice: a billion items to whoever compares them.
#[test]
fn values_that_nest_are_compared_within_the_budget() {
    let nested = "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(30) %}\
                  {% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}";
    let message = failure(nested);
    assert!(message.contains("takes more than 1000000 steps"), "{message}");
}
