//! What one template may take to compile.
//!
//! Before the library compiles an expression it tries to compute it, and where it cannot, does the same for the parts: what nests
//! N deep is walked through N times. Of a constant it computes lists of any length, compares them and writes them out, and none of
//! that is counted. [`check`] counts it beforehand, without computing it. In: the tree of a template. Out: an error where it takes
//! too much. Deliberately absent: what rendering takes, which `budget` and the library count.

use minijinja::machinery::ast::{BinOpKind, CallArg, Expr, Macro, Stmt};
use minijinja::{Error, ErrorKind, Value};

/// Bytes of a constant text that cost as much as an item.
const BYTES: usize = 1 << 10;

/// Fails where compiling `tree` takes more than `steps`.
pub(super) fn check(tree: &Stmt<'_>, steps: u64) -> Result<(), Error> {
    Folding { left: steps }.statement(tree)
}

/// What it takes to compute an expression once.
#[derive(Clone, Copy, Default)]
struct Cost {
    steps: u64,
    /// Items of the value, at most.
    items: u64,
}

struct Folding {
    left: u64,
}

impl Folding {
    fn statement(&mut self, statement: &Stmt<'_>) -> Result<(), Error> {
        match statement {
            Stmt::Template(it) => self.body(&it.children),
            Stmt::EmitExpr(it) => self.all([&it.expr]),
            Stmt::ForLoop(it) => {
                self.all([&it.target, &it.iter].into_iter().chain(&it.filter_expr))?;
                self.body(&it.body)?;
                self.body(&it.else_body)
            }
            Stmt::IfCond(it) => {
                self.all([&it.expr])?;
                self.body(&it.true_body)?;
                self.body(&it.false_body)
            }
            Stmt::WithBlock(it) => {
                self.all(it.assignments.iter().flat_map(|(target, value)| [target, value]))?;
                self.body(&it.body)
            }
            Stmt::Set(it) => self.all([&it.target, &it.expr]),
            Stmt::SetBlock(it) => {
                self.all([&it.target].into_iter().chain(&it.filter))?;
                self.body(&it.body)
            }
            Stmt::AutoEscape(it) => {
                self.all([&it.enabled])?;
                self.body(&it.body)
            }
            Stmt::FilterBlock(it) => {
                self.all([&it.filter])?;
                self.body(&it.body)
            }
            Stmt::Macro(it) => self.definition(it),
            Stmt::CallBlock(it) => {
                self.call(&it.call.expr, &it.call.args)?;
                self.definition(&it.macro_decl)
            }
            Stmt::Do(it) => self.call(&it.call.expr, &it.call.args),
            // No expressions; what loads other templates is not compiled in.
            _ => Ok(()),
        }
    }

    fn body(&mut self, statements: &[Stmt<'_>]) -> Result<(), Error> {
        statements.iter().try_for_each(|statement| self.statement(statement))
    }

    fn definition(&mut self, it: &Macro<'_>) -> Result<(), Error> {
        self.all(it.args.iter().chain(&it.defaults))?;
        self.body(&it.body)
    }

    fn call(&mut self, function: &Expr<'_>, arguments: &[CallArg<'_>]) -> Result<(), Error> {
        self.all([function])?;
        self.arguments(arguments)
    }

    fn arguments(&mut self, them: &[CallArg<'_>]) -> Result<(), Error> {
        self.all(them.iter().map(|argument| match argument {
            CallArg::Pos(it) | CallArg::Kwarg(_, it) | CallArg::PosSplat(it) | CallArg::KwargSplat(it) => it,
        }))
    }

    fn all<'a, 's: 'a>(&mut self, them: impl IntoIterator<Item = &'a Expr<'s>>) -> Result<(), Error> {
        them.into_iter().try_for_each(|one| self.expression(one).map(drop))
    }

    /// Takes what computing `expression` costs, for it and for every part of it, since every part is tried as well.
    fn expression(&mut self, expression: &Expr<'_>) -> Result<Cost, Error> {
        let parts = |these: &[Cost]| Cost {
            steps: these.iter().fold(0, |sum, it| sum.saturating_add(it.steps).saturating_add(it.items)),
            items: these.iter().fold(0, |sum, it| sum.saturating_add(it.items)),
        };
        let list = |items: &[Expr<'_>]| Cost { steps: items.len() as u64, items: items.len() as u64 };
        let mut cost = match expression {
            Expr::Const(it) => {
                Cost { steps: 0, items: it.value.as_str().map_or(0, |text| (text.len() / BYTES) as u64) }
            }
            Expr::UnaryOp(it) => parts(&[self.expression(&it.expr)?]),
            Expr::BinOp(it) => {
                let (left, right) = (self.expression(&it.left)?, self.expression(&it.right)?);
                let mut cost = parts(&[left, right]);
                if matches!(it.op, BinOpKind::Mul) {
                    cost.items = times(left, &it.right).saturating_add(times(right, &it.left));
                }
                cost
            }
            Expr::Compare(it) => {
                let mut costs = vec![self.expression(&it.expr)?];
                for one in &it.ops {
                    costs.push(self.expression(&one.expr)?);
                }
                Cost { items: 0, ..parts(&costs) }
            }
            Expr::List(it) => self.all(&it.items).map(|()| list(&it.items))?,
            Expr::Tuple(it) => self.all(&it.items).map(|()| list(&it.items))?,
            Expr::Map(it) => self.all(it.keys.iter().chain(&it.values)).map(|()| list(&it.keys))?,
            other => {
                self.parts(other)?;
                Cost::default()
            }
        };
        cost.steps = cost.steps.saturating_add(1);
        self.left = self.left.saturating_sub(cost.steps);
        if self.left == 0 { Err(Error::from(ErrorKind::OutOfFuel)) } else { Ok(cost) }
    }

    /// Of what is never computed beforehand, the parts are.
    fn parts(&mut self, expression: &Expr<'_>) -> Result<(), Error> {
        match expression {
            Expr::Slice(it) => {
                self.all([&it.expr].into_iter().chain(&it.start).chain(&it.stop).chain(&it.step))
            }
            Expr::IfExpr(it) => self.all([&it.test_expr, &it.true_expr].into_iter().chain(&it.false_expr)),
            Expr::Filter(it) => {
                self.all(&it.expr)?;
                self.arguments(&it.args)
            }
            Expr::Test(it) => self.call(&it.expr, &it.args),
            Expr::GetAttr(it) => self.all([&it.expr]),
            Expr::GetItem(it) => self.all([&it.expr, &it.subscript_expr]),
            Expr::Call(it) => self.call(&it.expr, &it.args),
            _ => Ok(()),
        }
    }
}

/// Items of a list `of` that is repeated `count` times. The library does not write it out yet, so asking it for the count,
/// which has been paid for, is cheap.
fn times(of: Cost, count: &Expr<'_>) -> u64 {
    if of.items == 0 {
        return 0;
    }
    let count = count.as_const().as_ref().and_then(Value::as_usize).unwrap_or(1);
    of.items.saturating_mul(count as u64)
}
