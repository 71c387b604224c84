//! Results of a lane as JUnit XML: one suite, one case per step. Characters that XML 1.0 does not allow become U+FFFD.

use super::run::{LaneResult, StepState};
use std::fmt::Write;

pub fn render(result: &LaneResult) -> String {
    let totals = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" time=\"{:.3}\"",
        result.steps.len(),
        result.count(StepState::Failed),
        result.count(StepState::NotRun),
        result.seconds
    );
    let name = escape(&result.lane);
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"bitforge\" {totals}>\n  \
         <testsuite name=\"{name}\" {totals}>\n"
    );
    for step in &result.steps {
        let _ = write!(
            text,
            "    <testcase classname=\"ci.{name}\" name=\"{}\" time=\"{:.3}\"",
            escape(&step.step),
            step.seconds
        );
        let first = escape(step.detail.lines().next().unwrap_or_default());
        let _ = match step.state {
            StepState::Passed => writeln!(text, "/>"),
            StepState::NotRun => writeln!(text, "><skipped message=\"{first}\"/></testcase>"),
            StepState::Failed => {
                let detail = escape(&step.detail);
                writeln!(text, ">\n      <failure message=\"{first}\">{detail}</failure>\n    </testcase>")
            }
        };
    }
    text + "  </testsuite>\n</testsuites>\n"
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' => out.push(c),
            c if c < ' ' || matches!(c, '\u{7f}' | '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
