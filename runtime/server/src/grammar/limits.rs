//! How large a JSON schema may be: what is within these limits is compiled in well under a second.
//!
//! In: a schema. Out: nothing, or which limit it exceeds. The library's own limits hold for regular expressions and for the
//! grammar that comes out; here is what takes it time in the square of a number, or a stack that grows with it. Keywords
//! are counted wherever they stand. Deliberately absent: whether the schema is right.

use serde_json::{Map, Value};

/// JSON objects in a schema: subschemas, mostly.
const OBJECTS: usize = 5_000;
/// Elements of arrays in a schema: values of `enum`, mostly.
const ELEMENTS: usize = 50_000;
/// Names that one object describes in `properties` and `required`.
const NAMES_OF_ONE: usize = 1_000;
/// And all objects together.
const NAMES: usize = 5_000;
/// Subschemas in one `anyOf`, `oneOf`, `allOf` or `prefixItems`.
const CHOICES: usize = 2_000;
/// `patternProperties` in a schema: every two are compared.
const PATTERNS: usize = 50;
/// Squares of the numbers of properties beside `minProperties` or `maxProperties`: every one is written down with all others.
const COUNTED_SQUARED: usize = 10_000;
/// Least common multiple of every `multipleOf`, without trailing zeros: each remainder is a state.
const MULTIPLE: u64 = 20_000;

/// What has been seen so far.
struct Seen {
    objects: usize,
    elements: usize,
    names: usize,
    patterns: usize,
    counted_squared: usize,
    multiple: u64,
}

/// # Errors
/// The limit that `schema` exceeds.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    let mut seen = Seen { objects: 0, elements: 0, names: 0, patterns: 0, counted_squared: 0, multiple: 1 };
    let mut rest = vec![schema];
    while let Some(value) = rest.pop() {
        match value {
            Value::Object(object) => {
                seen.object(object)?;
                rest.extend(object.values());
            }
            Value::Array(elements) => {
                at_most(&mut seen.elements, elements.len(), ELEMENTS, "elements of arrays")?;
                rest.extend(elements);
            }
            _ => {}
        }
    }
    Ok(())
}

impl Seen {
    fn object(&mut self, object: &Map<String, Value>) -> Result<(), String> {
        at_most(&mut self.objects, 1, OBJECTS, "objects")?;
        let keys = |name: &str| object.get(name).and_then(Value::as_object).map_or(0, Map::len);
        let elements = |name: &str| object.get(name).and_then(Value::as_array).map_or(0, Vec::len);
        let names = keys("properties").max(elements("required"));
        at_most(&mut 0, names, NAMES_OF_ONE, "properties in one object")?;
        at_most(&mut self.names, names, NAMES, "properties")?;
        for keyword in ["anyOf", "oneOf", "allOf", "prefixItems", "items"] {
            at_most(&mut 0, elements(keyword), CHOICES, &format!("schemas in one {keyword}"))?;
        }
        at_most(&mut self.patterns, keys("patternProperties"), PATTERNS, "patternProperties")?;
        if object.contains_key("minProperties") || object.contains_key("maxProperties") {
            let what = "as the sum of squares of the properties beside minProperties or maxProperties";
            at_most(&mut self.counted_squared, names * names, COUNTED_SQUARED, what)?;
        }
        if let Some(Value::Number(number)) = object.get("multipleOf") {
            let digits = digits(&number.to_string());
            self.multiple = digits.and_then(|digits| lcm(self.multiple, digits)).unwrap_or(u64::MAX);
            let what = "as the least common multiple of every multipleOf, without trailing zeros";
            at_most(&mut 0, usize::try_from(self.multiple).unwrap_or(usize::MAX), MULTIPLE as usize, what)?;
        }
        Ok(())
    }
}

fn at_most(seen: &mut usize, more: usize, limit: usize, what: &str) -> Result<(), String> {
    *seen = seen.saturating_add(more);
    if *seen > limit {
        return Err(format!("the schema is too large: at most {limit} {what}"));
    }
    Ok(())
}

/// The digits of a number without sign, point, exponent and zeros at the ends; at least 1.
fn digits(number: &str) -> Option<u64> {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    match digits.trim_matches('0') {
        "" => Some(1),
        digits => digits.parse().ok(),
    }
}

fn lcm(a: u64, b: u64) -> Option<u64> {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x).checked_mul(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(keyword: &str, count: usize, schema: Value) -> Value {
        let all: Map<String, Value> = (0..count).map(|i| (format!("n{i}"), schema.clone())).collect();
        json!({ "type": "object", keyword: all })
    }

    fn choices(keyword: &str, count: usize) -> Value {
        json!({ keyword: (0..count).map(|i| json!({ "const": i })).collect::<Vec<_>>() })
    }

    /// Each of these once took seconds; the error says the limit.
    #[test]
    fn what_took_seconds_is_refused() {
        let counted = |count: usize| {
            let mut schema = named("properties", count, json!(true));
            schema["minProperties"] = json!(1);
            schema["additionalProperties"] = json!(false);
            schema
        };
        let required = |count: usize| {
            let names: Vec<String> = (0..count).map(|i| format!("r{i}")).collect();
            json!({ "type": "object", "required": names })
        };
        let multiples = |all: &[f64]| {
            let all: Vec<Value> = all.iter().map(|m| json!({ "type": "number", "multipleOf": m })).collect();
            json!({ "allOf": all })
        };
        for (schema, limit) in [
            (named("patternProperties", 51, json!({})), "at most 50 patternProperties"),
            (named("properties", 1_001, json!(true)), "at most 1000 properties in one object"),
            (required(1_001), "at most 1000 properties in one object"),
            (choices("anyOf", 2_001), "at most 2000 schemas in one anyOf"),
            (choices("oneOf", 2_001), "at most 2000 schemas in one oneOf"),
            (json!({ "enum": vec![1; 50_001] }), "at most 50000 elements of arrays"),
            (json!({ "$defs": named("x", 5_000, json!({})) }), "at most 5000 objects"),
            (counted(101), "at most 10000 as the sum of squares"),
            (
                json!({ "type": "integer", "multipleOf": 1_000_003 }),
                "at most 20000 as the least common multiple",
            ),
            (multiples(&[997.0, 0.1009]), "at most 20000 as the least common multiple"),
        ] {
            let problem = check(&schema).unwrap_err();
            assert!(problem.starts_with("the schema is too large") && problem.contains(limit), "{problem}");
        }
        for schema in [
            named("patternProperties", 50, json!({})),
            named("properties", 1_000, json!({ "type": "string" })),
            required(1_000),
            choices("anyOf", 2_000),
            json!({ "enum": vec!["v"; 50_000] }),
            counted(100),
            multiples(&[0.01, 5.0, 60.0, 86_400_000.0, 1e-9, 0.0]),
        ] {
            assert_eq!(check(&schema), Ok(()));
        }
    }
}
