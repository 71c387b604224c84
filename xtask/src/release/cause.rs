//! Why bytes differ: the usual leaks of a machine into a build, told apart by what the differing text looks like.
//!
//! In: two windows of bytes and where they part, or two headers. Out: a [`Cause`] with the cure. It is a judgement by
//! form, so it shows both texts; what looks like nothing known is [`Kind::Unknown`], never a guess.

use super::archive::Raw;
use serde::Serialize;
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Path,
    Time,
    Order,
    Owner,
    Mode,
    Locale,
    Missing,
    Unknown,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Path => "a path of the machine",
            Kind::Time => "a time",
            Kind::Order => "an order that changes from run to run",
            Kind::Owner => "the owner of files",
            Kind::Mode => "the mode of files",
            Kind::Locale => "the locale",
            Kind::Missing => "there once",
            Kind::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    pub kind: Kind,
    /// What the first and the second have there.
    pub first: String,
    pub second: String,
    pub cure: String,
}

impl Cause {
    fn new(kind: Kind, first: impl Into<String>, second: impl Into<String>, cure: impl Into<String>) -> Self {
        Cause { kind, first: first.into(), second: second.into(), cure: cure.into() }
    }

    pub fn unknown() -> Self {
        Cause::new(Kind::Unknown, "", "", "compare what made both")
    }

    /// A file that the other build lacks.
    pub fn only(which: &str) -> Self {
        Cause::new(
            Kind::Missing,
            "",
            "",
            format!("only the {which} has it: compare what both were asked for"),
        )
    }
}

/// What differs between the headers of one file in two archives.
pub fn headers(a: &Raw, b: &Raw) -> Vec<Cause> {
    let mut found = Vec::new();
    if (a.owner, &a.owner_names) != (b.owner, &b.owner_names) {
        let text = |raw: &Raw| {
            format!("{}:{} {}:{}", raw.owner.0, raw.owner.1, raw.owner_names.0, raw.owner_names.1)
        };
        found.push(Cause::new(
            Kind::Owner,
            text(a),
            text(b),
            "pack with --owner=0 --group=0 --numeric-owner",
        ));
    }
    if a.mtime != b.mtime {
        let cure = "pack with --mtime=@$SOURCE_DATE_EPOCH";
        found.push(Cause::new(Kind::Time, a.mtime.to_string(), b.mtime.to_string(), cure));
    }
    if a.mode != b.mode {
        let cure = "fix the umask, or pack with --mode";
        found.push(Cause::new(Kind::Mode, format!("{:o}", a.mode), format!("{:o}", b.mode), cure));
    }
    found
}

/// Why the windows part, `a` at `here` and `b` at `there`.
pub fn judge(a: &[u8], here: usize, b: &[u8], there: usize) -> Cause {
    let (left, right) = (text(a, here), text(b, there));
    let (first, second) = (&left.0[..], &right.0[..]);
    let make = |kind, cure: &str| Cause::new(kind, short(&left), short(&right), cure);
    if let (Some(from), Some(to)) = (path(first, left.1), path(second, right.1)) {
        // Of a path, what differs is the part before what both end with.
        let same = from
            .chars()
            .rev()
            .zip(to.chars().rev())
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a.len_utf8())
            .sum::<usize>();
        let prefix = from[..from.len() - same].trim_end_matches('/');
        let file = from.split(':').next().unwrap_or_default();
        let c = [".c", ".cc", ".cpp", ".h", ".hpp", ".S"].iter().any(|end| file.ends_with(end));
        let flag = if c { "-ffile-prefix-map" } else { "--remap-path-prefix" };
        return Cause::new(Kind::Path, from, to, format!("compile with {flag}={prefix}=/bitforge"));
    }
    if is_locale(first, left.1, second, right.1) {
        return make(Kind::Locale, "build with LC_ALL=C");
    }
    if is_time(first, left.1) && is_time(second, right.1) {
        return make(
            Kind::Time,
            "set SOURCE_DATE_EPOCH to the time of the commit, and read it instead of the clock",
        );
    }
    make(Kind::Unknown, "compare what made both")
}

/// Whether both are made of the same words, in another order.
pub fn reordered(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (words(a), words(b));
    let sorted = |mut words: Vec<String>| {
        words.sort_unstable();
        words
    };
    a.len() > 2 && a.len() == b.len() && a != b && sorted(a) == sorted(b)
}

/// The cause of another order, for what is [`reordered`]: a sorting by locale, or none at all.
pub fn order(a: &[u8], b: &[u8], what: &str) -> Cause {
    let (a, b) = (words(a), words(b));
    let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(0);
    let shown = |words: &[String]| words[at..].iter().take(3).cloned().collect::<Vec<_>>().join(" ");
    // The part that differs: in one sorted by bytes, in the other with no regard to case.
    let end = a.len() - a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let by_bytes = |words: &[String]| words.is_sorted();
    let folded = |words: &[String]| words.is_sorted_by_key(|word| word.to_lowercase());
    let (x, y) = (&a[at..end], &b[at..end]);
    if (by_bytes(x) && folded(y)) || (by_bytes(y) && folded(x)) {
        return Cause::new(
            Kind::Locale,
            shown(&a),
            shown(&b),
            format!("{what} is sorted by locale: sort with LC_ALL=C"),
        );
    }
    let cure =
        format!("{what} comes from a hash table or a directory as it lies: sort it, or use a BTreeMap");
    Cause::new(Kind::Order, shown(&a), shown(&b), cure)
}

/// Runs of printable characters of two or more, split at blanks.
fn words(bytes: &[u8]) -> Vec<String> {
    let printable = |byte: &u8| byte.is_ascii_graphic() || *byte >= 0x80;
    bytes
        .split(|byte| !printable(byte))
        .filter(|word| word.len() > 1)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// The run of text around `at`, and where in it `at` is.
fn text(bytes: &[u8], at: usize) -> (String, usize) {
    let printable = |byte: &u8| (0x20..0x7f).contains(byte) || *byte >= 0x80;
    let start = bytes[..at].iter().rposition(|byte| !printable(byte)).map_or(0, |found| found + 1);
    let end = bytes[at..].iter().position(|byte| !printable(byte)).map_or(bytes.len(), |found| at + found);
    (
        String::from_utf8_lossy(&bytes[start..end]).into_owned(),
        String::from_utf8_lossy(&bytes[start..at]).len(),
    )
}

/// At most forty characters before and after.
fn short((text, at): &(String, usize)) -> String {
    let cut = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[cut(at.saturating_sub(40))..cut(at + 40)].into()
}

/// The absolute path that covers `at`: from a slash at the beginning of a word to the end of the word.
fn path(text: &str, at: usize) -> Option<&str> {
    let word = word(text, at, |c| c.is_whitespace() || "\"'=,;()".contains(c));
    let start = word.start + text[word.clone()].find('/')?;
    let path = &text[start..word.end];
    (start <= at && path.matches('/').count() > 1).then_some(path)
}

fn word(text: &str, at: usize, ends: impl Fn(char) -> bool) -> Range<usize> {
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let start = text[..at]
        .rfind(&ends)
        .map_or(0, |found| found + text[found..].chars().next().map_or(1, char::len_utf8));
    start..text[at..].find(&ends).map_or(text.len(), |found| at + found)
}

/// A clock, a date or seconds since 1970 around `at`.
fn is_time(text: &str, at: usize) -> bool {
    let number = &text[word(text, at, |c| !c.is_ascii_digit())];
    let epoch = number.len() == 10
        && number.parse().is_ok_and(|seconds: u64| (1_000_000_000..4_000_000_000).contains(&seconds));
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    epoch || form.contains("00:00:00") || form.contains("0000-00-00")
}

/// The same number with another mark between its digits, or letters beyond ASCII on one side alone.
fn is_locale(a: &str, at: usize, b: &str, other: usize) -> bool {
    let mark = |text: &str, at: usize| {
        let digit =
            |at: Option<usize>| at.and_then(|at| text.as_bytes().get(at)).is_some_and(u8::is_ascii_digit);
        let found = text.as_bytes().get(at).copied().filter(|mark| matches!(mark, b'.' | b','));
        found.filter(|_| digit(at.checked_sub(1)) && digit(Some(at + 1)))
    };
    let marks = (mark(a, at), mark(b, other));
    (marks.0.is_some() && marks.1.is_some() && marks.0 != marks.1) || a.is_ascii() != b.is_ascii()
}
