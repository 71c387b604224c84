//! What one rendering may walk through.
//!
//! The library counts steps and the items of the list at hand, not what lies inside: a list of twice the same list, thirty
//! times over, has thirty lists and a billion items. Here every value that an operator, a filter, a test, a method or printing
//! walks through is walked through first, up to a limit. Operators cannot be replaced, so [`guarded`] puts a test of their
//! operands before them into the compiled template. Deliberately absent: steps, which the library counts.

use minijinja::machinery::{CodeGenerator, Instruction, Instructions};
use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter, filters, tests as checks};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a string that cost as much as an item.
const BYTES: u64 = 64;

/// Items of a list that cost as much as one where lists are put together, which copies them now and then.
const COPIES: u64 = 16;

/// Tests that hold for everything and cost what their value has; names that no template can write.
const WALKED: &str = "walked-through";
const COUNTED: &str = "counted";
/// A filter over keys and values in turns.
const KEYS: &str = "keys-walked-through";

/// Items that may still be walked through.
#[derive(Clone)]
pub(super) struct Budget(Arc<AtomicU64>);

impl Budget {
    pub(super) fn new(items: u64) -> Self {
        Budget(Arc::new(AtomicU64::new(items)))
    }

    /// Walks through `values` and all that they hold.
    fn charge(&self, values: &[Value]) -> Result<(), Error> {
        self.charge_indented(values, 0)
    }

    /// The same, for who writes everything behind `indent` spaces for each level that it is deep.
    fn charge_indented(&self, values: &[Value], indent: u64) -> Result<(), Error> {
        let mut left = self.0.load(Ordering::Relaxed);
        let outcome = values.iter().try_for_each(|value| walk(value, indent, &mut left));
        self.0.store(left, Ordering::Relaxed);
        outcome
    }

    /// Makes what walks through whole values in `environment` pay for it.
    pub(super) fn install(&self, environment: &mut Environment<'static>) {
        let budget = self.clone();
        environment.set_formatter(move |out, state, value| {
            budget.charge(std::slice::from_ref(value))?;
            escape_formatter(out, state, value)
        });
        for (name, filter) in [
            ("capitalize", Value::from_function(filters::capitalize)),
            ("dictsort", Value::from_function(filters::dictsort)),
            ("e", Value::from_function(filters::escape)),
            ("escape", Value::from_function(filters::escape)),
            ("format", Value::from_function(filters::format)),
            ("groupby", Value::from_function(filters::groupby)),
            ("join", Value::from_function(filters::join)),
            ("lines", Value::from_function(filters::lines)),
            ("lower", Value::from_function(filters::lower)),
            ("max", Value::from_function(filters::max)),
            ("min", Value::from_function(filters::min)),
            ("pprint", Value::from_function(filters::pprint)),
            ("replace", Value::from_function(filters::replace)),
            ("safe", Value::from_function(filters::safe)),
            ("sort", Value::from_function(filters::sort)),
            ("split", Value::from_function(filters::split)),
            ("string", Value::from_function(filters::string)),
            ("title", Value::from_function(filters::title)),
            ("trim", Value::from_function(filters::trim)),
            ("unique", Value::from_function(filters::unique)),
            ("upper", Value::from_function(filters::upper)),
        ] {
            environment.add_filter(name, self.paid(filter));
        }
        let (budget, tojson) = (self.clone(), Value::from_function(filters::tojson));
        environment.add_filter("tojson", move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            // By position or by name.
            let named =
                |arg: &Value| arg.get_attr("indent").ok().and_then(|indent| u64::try_from(indent).ok());
            let given = |arg: &Value| u64::try_from(arg.clone()).ok().or_else(|| named(arg));
            budget.charge_indented(&args, args.iter().skip(1).find_map(given).unwrap_or(0))?;
            tojson.call(state, &args)
        });
        for (names, test) in [
            (["eq", "equalto", "=="], Value::from_function(checks::is_eq)),
            (["ne", "!=", "!="], Value::from_function(checks::is_ne)),
            (["lt", "lessthan", "<"], Value::from_function(checks::is_lt)),
            (["le", "<=", "<="], Value::from_function(checks::is_le)),
            (["gt", "greaterthan", ">"], Value::from_function(checks::is_gt)),
            (["ge", ">=", ">="], Value::from_function(checks::is_ge)),
            (["in", "in", "in"], Value::from_function(checks::is_in)),
        ] {
            names.into_iter().for_each(|name| environment.add_test(name, self.paid(test.clone())));
        }
        let budget = self.clone();
        environment.add_test(WALKED, move |value: Rest<Value>| budget.charge(&value).map(|()| true));
        let budget = self.clone();
        environment.add_test(COUNTED, move |value: Rest<Value>| -> Result<bool, Error> {
            let mut left = budget.0.load(Ordering::Relaxed);
            let items = if value[0].kind() == ValueKind::String { None } else { value[0].len() };
            let outcome = take(&mut left, items.unwrap_or(0) as u64 / COPIES);
            budget.0.store(left, Ordering::Relaxed);
            outcome.map(|()| true)
        });
        environment.add_filter(KEYS, self.keys());
        let budget = self.clone();
        environment.set_unknown_method_callback(move |state, value, method, args| {
            budget.charge(std::slice::from_ref(value))?;
            budget.charge(args)?;
            minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
        });
    }

    /// Keys and values in turns, in the order in which the stack takes them, after the keys were paid for.
    fn keys(&self) -> impl Fn(Vec<Value>) -> Result<Value, Error> + Send + Sync + 'static {
        let budget = self.clone();
        move |mut pairs: Vec<Value>| {
            pairs.iter().step_by(2).try_for_each(|key| budget.charge(std::slice::from_ref(key)))?;
            pairs.reverse();
            Ok(Value::from(pairs))
        }
    }

    /// `function`, after its arguments were paid for.
    pub(super) fn paid(
        &self,
        function: Value,
    ) -> impl Fn(&mut State<'_, '_>, Rest<ValueOrKwargs>) -> Result<Value, Error> + Send + Sync + 'static
    {
        let budget = self.clone();
        move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            budget.charge(&args)?;
            function.call(state, &args)
        }
    }
}

fn take(left: &mut u64, cost: u64) -> Result<(), Error> {
    *left = left.saturating_sub(cost);
    if *left == 0 { Err(Error::from(ErrorKind::OutOfFuel)) } else { Ok(()) }
}

/// Takes one from `left` for everything in `value`, and for every [`BYTES`] of a string or of what it is indented by.
fn walk(value: &Value, indent: u64, left: &mut u64) -> Result<(), Error> {
    let mut rest = vec![(value.clone(), 0_u64)];
    while let Some((value, depth)) = rest.pop() {
        let text = value.as_str().map_or(0, |text| text.len() as u64);
        take(left, 1 + text.saturating_add(depth.saturating_mul(indent)) / BYTES)?;
        let map = value.kind() == ValueKind::Map;
        if map || matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
            // One by one, so that endless ranges cost no memory.
            for item in value.try_iter()? {
                take(left, 1)?;
                if map {
                    rest.push((value.get_item(&item)?, depth + 1));
                }
                rest.push((item, depth + 1));
            }
        }
    }
    Ok(())
}

/// The same instructions, with the operands of every operator paid for before it.
pub(super) fn guarded<'a>(source: &'a str, old: &Instructions<'a>) -> Instructions<'a> {
    let all: Vec<&Instruction<'a>> = (0..).map_while(|at| old.get(at)).collect();
    let targets: HashSet<u32> = all.iter().filter_map(|one| target(one)).collect();
    let mut new = CodeGenerator::new(old.name(), source);
    let mut places = Vec::with_capacity(all.len() + 1);
    for (at, one) in all.iter().enumerate() {
        new.set_line(old.get_line(at as u32).unwrap_or_default() as u16);
        places.push(new.next_instruction());
        let constant =
            at > 0 && matches!(all[at - 1], Instruction::LoadConst(_)) && !targets.contains(&(at as u32));
        let test = |name| {
            [Instruction::DupTop, Instruction::PerformTest(name, Some(1), !0), Instruction::DiscardTop]
        };
        let guard = match one {
            Instruction::Add => Some(COUNTED),
            Instruction::Eq | Instruction::Ne | Instruction::Gt | Instruction::Gte | Instruction::Lt => {
                Some(WALKED)
            }
            Instruction::Lte | Instruction::In | Instruction::StringConcat => Some(WALKED),
            Instruction::CompareAndPreserve(_) => Some(WALKED),
            _ => None,
        };
        if let Some(name) = guard {
            // A constant is as long as the template at most.
            let right = if constant { None } else { Some(test(name)) };
            let left = [vec![Instruction::Swap], test(name).into(), vec![Instruction::Swap]].concat();
            for one in right.into_iter().flatten().chain(left) {
                new.add(one);
            }
        } else if matches!(one, Instruction::GetItem) && !constant {
            for one in test(WALKED) {
                new.add(one);
            }
        } else if let Instruction::BuildMap(pairs) = one
            && *pairs > 0
        {
            new.add(Instruction::BuildList(Some(2 * pairs)));
            new.add(Instruction::ApplyFilter(KEYS, Some(1), !0));
            new.add(Instruction::UnpackList(2 * pairs));
        }
        new.add((*one).clone());
    }
    places.push(new.next_instruction());
    let (mut new, _) = new.finish();
    for at in 0..places[all.len()] {
        if let Some(place) = new.get_mut(at).and_then(target_mut) {
            *place = places.get(*place as usize).copied().unwrap_or(*place);
        }
    }
    new
}

/// Where an instruction may go on.
fn target(one: &Instruction<'_>) -> Option<u32> {
    target_mut(&mut one.clone()).copied()
}

fn target_mut<'a>(one: &'a mut Instruction<'_>) -> Option<&'a mut u32> {
    match one {
        Instruction::Iterate(at)
        | Instruction::Jump(at)
        | Instruction::JumpIfFalse(at)
        | Instruction::JumpIfFalseOrPop(at)
        | Instruction::JumpIfTrueOrPop(at)
        | Instruction::BuildMacro(_, at, _) => Some(at),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::jinja::compile;
    use minijinja::{AutoEscape, context, machinery};

    fn render(source: &str, items: u64) -> Result<String, Error> {
        let mut environment = Environment::new();
        Budget::new(items).install(&mut environment);
        let instructions = compile(source)?;
        let (mut text, no_blocks) = (String::new(), std::collections::BTreeMap::new());
        let mut out = machinery::make_string_output(&mut text);
        let turns = ["user", "assistant", "user"].map(|role| context! { role });
        let variables = context! { messages => turns.to_vec() };
        machinery::eval(&environment, &instructions, variables, &no_blocks, &mut out, AutoEscape::None)?;
        drop(out);
        Ok(text)
    }

    /// Twenty lists that hold the one before twice are a million items to whoever walks through them.
    #[test]
    fn whatever_walks_through_a_value_pays_for_it() {
        let nested = "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(20) %}\
                      {% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}";
        for walk in [
            "{{ ns.a }}",
            "{{ ns.a|tojson }}",
            "{% set x = ns.a|string %}",
            "{% set x = ns.a|upper %}",
            "{% set x = ns.a|join %}",
            "{{ [ns.a, ns.b]|sort|length }}",
            "{{ [ns.a, ns.b]|unique|length }}",
            "{{ [ns.a]|select('equalto', ns.b)|list|length }}",
            "{{ {'a': ns.a}|tojson(indent=2) }}",
            "{{ 'x'.join([ns.a]) }}",
            "{{ ns.a == ns.b }}",
            "{{ ns.a == ns.b == ns.a }}",
            "{{ ns.a < ns.b }}",
            "{{ ns.a in [ns.b] }}",
            "{% set x = ns.a ~ 'x' %}",
            "{% set x = 'x' ~ ns.a %}",
            "{% set x = (ns.b if true else 1) == ns.a %}",
            "{% set x = {ns.a: 1, ns.b: 2} %}",
            "{{ {}[ns.a] }}",
            "{% for i in range(30) %}{% set ns.a = ns.a + ns.a %}{% endfor %}{{ ns.a|length }}",
            "{{ [[1]]|tojson(indent=999999999) }}",
            "{{ [[1]]|tojson(999999999) }}",
        ] {
            let error = render(&format!("{nested}{walk}"), 10_000).expect_err(walk);
            assert_eq!(error.kind(), ErrorKind::OutOfFuel, "{walk}: {error}");
        }
    }

    #[test]
    fn guarded_templates_mean_what_they_meant() {
        let render = |source: &str| render(source, 10_000).unwrap();
        assert_eq!(render("{{ {'a': 'x', 'b': [1, 2]}|tojson }}"), r#"{"a": "x", "b": [1, 2]}"#);
        assert_eq!(render("{{ {'a': [1]}|tojson(indent=2) }}"), "{\n  \"a\": [\n    1\n  ]\n}");
        assert_eq!(render("{{ [3, 1, 2]|sort(reverse=true)|join('-') }}"), "3-2-1");
        assert_eq!(render("{{ messages|selectattr('role', 'equalto', 'user')|list|length }}"), "2");
        assert_eq!(render("{{ {'k': 1}.items()|list|length }}"), "1");
        assert_eq!(render("{{ {'k': 1, 2: 'v'}[1 + 1] ~ ('a' if 0 else 'b') ~ ([1] + [2])|length }}"), "vb2");
        assert_eq!(
            render("{% macro f(a, b=1 < 2 < 3) %}{{ a == 1 and b }}{% endmacro %}{{ f(1) }}{{ f(2) }}"),
            "TrueFalse"
        );
        let control = "{% for i in [3, 1] recursive %}{% if i == 9 %}{% break %}{% elif i > 1 %}{{ loop([1, 9]) }}{% else %}\
                       {{ 'y' if i in [1, 2] else 'n' }}{% endif %}{% endfor %}";
        assert_eq!(render(control), "yy");
    }
}
