//! What one rendering may walk through.
//!
//! The library counts steps and the items of the list at hand, not what lies inside: a list of twice the same list, thirty
//! times over, has thirty lists and a billion items. Here every value that an operator, a filter, a test, a method or printing
//! walks through is walked through first, up to a limit. Operators cannot be replaced, so [`guarded`] puts a test of their
//! operands before them into the compiled template. Deliberately absent: steps, which the library counts.

use minijinja::machinery::{CodeGenerator, Instruction, Instructions};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter, filters, tests};
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
        let mut left = self.0.load(Ordering::Relaxed);
        let outcome = values.iter().try_for_each(|value| walk(value, &mut left));
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
            ("dictsort", Value::from_function(filters::dictsort)),
            ("groupby", Value::from_function(filters::groupby)),
            ("join", Value::from_function(filters::join)),
            ("max", Value::from_function(filters::max)),
            ("min", Value::from_function(filters::min)),
            ("pprint", Value::from_function(filters::pprint)),
            ("sort", Value::from_function(filters::sort)),
            ("string", Value::from_function(filters::string)),
            ("tojson", Value::from_function(filters::tojson)),
            ("unique", Value::from_function(filters::unique)),
        ] {
            environment.add_filter(name, self.paid(filter));
        }
        for (names, test) in [
            (["eq", "equalto", "=="], Value::from_function(tests::is_eq)),
            (["ne", "!=", "!="], Value::from_function(tests::is_ne)),
            (["lt", "lessthan", "<"], Value::from_function(tests::is_lt)),
            (["le", "<=", "<="], Value::from_function(tests::is_le)),
            (["gt", "greaterthan", ">"], Value::from_function(tests::is_gt)),
            (["ge", ">=", ">="], Value::from_function(tests::is_ge)),
            (["in", "in", "in"], Value::from_function(tests::is_in)),
        ] {
            names.map(|name| environment.add_test(name, self.paid(test.clone())));
        }
        environment.add_test(WALKED, self.paid(Value::from_function(|_: Rest<Value>| true)));
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
    fn paid(
        &self,
        function: Value,
    ) -> impl Fn(&mut State<'_, '_>, Rest<Value>) -> Result<Value, Error> + Send + Sync + 'static {
        let budget = self.clone();
        move |state: &mut State<'_, '_>, args: Rest<Value>| {
            budget.charge(&args)?;
            function.call(state, &args)
        }
    }
}

fn take(left: &mut u64, cost: u64) -> Result<(), Error> {
    *left = left.saturating_sub(cost);
    if *left == 0 { Err(Error::from(ErrorKind::OutOfFuel)) } else { Ok(()) }
}

/// Takes one from `left` for everything in `value`, and for every [`BYTES`] of a string.
fn walk(value: &Value, left: &mut u64) -> Result<(), Error> {
    let mut rest = vec![value.clone()];
    while let Some(value) = rest.pop() {
        take(left, 1 + value.as_str().map_or(0, |text| text.len() as u64 / BYTES))?;
        let map = value.kind() == ValueKind::Map;
        if map || matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
            // One by one, so that endless ranges cost no memory.
            for item in value.try_iter()? {
                take(left, 1)?;
                if map {
                    rest.push(value.get_item(&item)?);
                }
                rest.push(item);
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
            right.into_iter().flatten().chain(left).for_each(|one| drop(new.add(one)));
        } else if matches!(one, Instruction::GetItem) && !constant {
            test(WALKED).into_iter().for_each(|one| drop(new.add(one)));
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
