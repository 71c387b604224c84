//! Every JSON output against fixtures/schemas/analyze-library.schema.json.
//!
//! The validator below knows the keywords that the schema uses and fails on any other, so that the schema
//! cannot promise what is not checked.

use super::{fixtures, report, samples};
use serde_json::Value;

fn schema() -> Value {
    let path = fixtures().join("../schemas/analyze-library.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn all_samples() {
    let schema = schema();
    for (name, _) in samples().into_iter().filter(|(name, _)| name != "libthin.a") {
        for demangle in [None, Some("--demangle")] {
            let path = format!("bin/{name}");
            let words: Vec<&str> = [path.as_str(), "--json"].into_iter().chain(demangle).collect();
            let value: Value = serde_json::from_str(&report(&words).1).unwrap();
            assert!(!value.as_array().unwrap().is_empty());
            check(&schema, &schema, &value, &name);
        }
    }
}

#[test]
fn diff_and_needs() {
    let schema = schema();
    for (words, part) in [
        (["bin/libvec.so", "--diff", "bin/libvec-soft.so", "--json"], "diffs"),
        (["bin/needs.o", "--needs", "bin/libvec.so", "--json"], "needs"),
        (["bin/libhard.so", "--needs", "bin/libvec.so", "--json"], "needs"),
    ] {
        let value: Value = serde_json::from_str(&report(&words).1).unwrap();
        check(&schema, &schema["$defs"][part], &value, part);
    }
}

#[test]
fn the_validator_notices() {
    let schema = schema();
    let good: Value = serde_json::from_str(&report(&["bin/libvec.so", "--json"]).1).unwrap();
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value[0]);
        std::panic::catch_unwind(|| check(&schema, &schema, &value, "changed")).is_err()
    };
    assert!(!broken(&|_| {}));
    assert!(broken(&|library| library["format"] = "a.out".into()));
    assert!(broken(&|library| library["surprise"] = 1.into()));
    assert!(broken(&|library| drop(library.as_object_mut().unwrap().remove("exports"))));
    assert!(broken(&|library| library["exports"][0]["name"] = Value::Null));
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str) {
    for (keyword, rule) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" => {}
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                check(root, &root["$defs"][name], value, at);
            }
            "type" => {
                let fits = |kind: &Value| match kind.as_str().unwrap() {
                    "null" => value.is_null(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "string" => value.is_string(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    other => panic!("schema: type {other}"),
                };
                let kinds = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                assert!(kinds.iter().any(fits), "{at}: {value} is not {rule}");
            }
            "enum" => assert!(rule.as_array().unwrap().contains(value), "{at}: {value} is not of {rule}"),
            "minimum" => {
                if let Some(number) = value.as_i64() {
                    assert!(number >= rule.as_i64().unwrap(), "{at}: {value}");
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{at}[{index}]"));
                }
            }
            "required" => {
                for key in rule.as_array().unwrap() {
                    assert!(value.get(key.as_str().unwrap()).is_some(), "{at}: no {key}");
                }
            }
            "properties" => {
                for (key, item) in value.as_object().into_iter().flatten() {
                    match rule.get(key) {
                        Some(rule) => check(root, rule, item, &format!("{at}.{key}")),
                        None => check(root, &schema["additionalProperties"], item, &format!("{at}.{key}")),
                    }
                }
            }
            "additionalProperties" => {
                let known = |key: &String| schema["properties"].get(key).is_some();
                for (key, item) in value.as_object().into_iter().flatten().filter(|(key, _)| !known(key)) {
                    match rule {
                        Value::Bool(false) => panic!("{at}: unexpected {key}"),
                        rule => check(root, rule, item, &format!("{at}.{key}")),
                    }
                }
            }
            other => panic!("schema: keyword {other} is not checked"),
        }
    }
}
