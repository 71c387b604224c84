//! Counters of the server in Prometheus' text form (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! In: what happens, counted with relaxed atomics by whoever sees it. Out: one text. Reading never waits for the engine.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A number that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }

    /// The part of one of several changes.
    pub fn change(&self, before: u64, after: u64) {
        self.0.fetch_add(after.wrapping_sub(before), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Values by upper bounds. The sum is kept in millionths.
pub struct Histogram {
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    micros: AtomicU64,
}

const SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
const ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, micros: AtomicU64::new(0) }
    }

    pub fn observe(&self, value: impl Into<Observed>) {
        let Observed(value) = value.into();
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add((value * 1e6) as u64, Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    pub fn sum(&self) -> f64 {
        self.micros.load(Relaxed) as f64 / 1e6
    }
}

pub struct Observed(f64);

impl From<f64> for Observed {
    fn from(value: f64) -> Self {
        Observed(value)
    }
}

impl From<Duration> for Observed {
    fn from(value: Duration) -> Self {
        Observed(value.as_secs_f64())
    }
}

pub struct Metrics {
    started: Instant,
    pub connections: Gauge,
    pub refused_connections: Counter,
    /// By route and status.
    responses: Mutex<BTreeMap<(&'static str, u16), u64>>,
    pub queued: Gauge,
    pub active: Gauge,
    pub cancelled: Counter,
    pub preempted: Counter,
    pub engine_failures: Counter,
    pub model_swaps: Counter,
    pub prompt_tokens: Counter,
    pub cached_tokens: Counter,
    pub generated_tokens: Counter,
    pub pages_total: Gauge,
    pub pages_free: Gauge,
    pub pages_shared: Gauge,
    pub kept_sequences: Gauge,
    pub batch_rows: Histogram,
    pub queue_seconds: Histogram,
    pub first_token_seconds: Histogram,
    pub request_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            started: Instant::now(),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            responses: Mutex::default(),
            queued: Gauge::default(),
            active: Gauge::default(),
            cancelled: Counter::default(),
            preempted: Counter::default(),
            engine_failures: Counter::default(),
            model_swaps: Counter::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            pages_total: Gauge::default(),
            pages_free: Gauge::default(),
            pages_shared: Gauge::default(),
            kept_sequences: Gauge::default(),
            batch_rows: Histogram::new(ROWS),
            queue_seconds: Histogram::new(SECONDS),
            first_token_seconds: Histogram::new(SECONDS),
            request_seconds: Histogram::new(SECONDS),
        }
    }
}

impl Metrics {
    /// A response whose head was sent.
    pub fn response(&self, route: &'static str, status: u16) {
        let mut responses = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        *responses.entry((route, status)).or_default() += 1;
    }

    /// The text; `labels` describe the model, as `bitnet_model_info`.
    pub fn text(&self, labels: &[(&str, &str)]) -> String {
        let mut text = String::new();
        let labels = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value)));
        let labels = labels.collect::<Vec<_>>().join(",");
        head(
            &mut text,
            "bitnet_model_info",
            "gauge",
            "The model, and the kernels that were selected for it.",
        );
        let _ = writeln!(text, "bitnet_model_info{{{labels}}} 1");
        head(&mut text, "bitnet_http_responses_total", "counter", "Responses by route and status.");
        for ((route, status), count) in self.responses.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(
                text,
                "bitnet_http_responses_total{{route=\"{route}\",status=\"{status}\"}} {count}"
            );
        }
        let counters = [
            (
                "connections_refused",
                "Connections closed at once, the limit being reached.",
                &self.refused_connections,
            ),
            ("requests_cancelled", "Answers that nobody waited for any longer.", &self.cancelled),
            ("answers_preempted", "Answers computed again after their pages were taken.", &self.preempted),
            ("engine_failures", "Batches in which the engine failed.", &self.engine_failures),
            ("model_swaps", "Models that replaced another.", &self.model_swaps),
            ("prompt_tokens", "Tokens of prompts.", &self.prompt_tokens),
            ("prompt_tokens_cached", "Tokens of prompts taken from the prefix cache.", &self.cached_tokens),
            ("generated_tokens", "Tokens that were sampled.", &self.generated_tokens),
        ];
        for (name, help, counter) in counters {
            head(&mut text, &format!("bitnet_{name}_total"), "counter", help);
            let _ = writeln!(text, "bitnet_{name}_total {}", counter.get());
        }
        let gauges = [
            ("connections", "Open connections.", &self.connections),
            ("queued_requests", "Requests that wait for a slot.", &self.queued),
            ("active_answers", "Answers that are computed side by side.", &self.active),
            ("kv_pages", "Pages of the KV cache.", &self.pages_total),
            ("kv_pages_free", "Pages of the KV cache in use by nobody.", &self.pages_free),
            ("kv_pages_shared", "Pages of the KV cache in use by several.", &self.pages_shared),
            ("prefix_sequences", "Sequences that the prefix cache keeps.", &self.kept_sequences),
        ];
        for (name, help, gauge) in gauges {
            head(&mut text, &format!("bitnet_{name}"), "gauge", help);
            let _ = writeln!(text, "bitnet_{name} {}", gauge.get());
        }
        head(&mut text, "bitnet_uptime_seconds", "gauge", "Since the server started.");
        let _ = writeln!(text, "bitnet_uptime_seconds {:.3}", self.started.elapsed().as_secs_f64());
        let histograms = [
            ("batch_rows", "Rows that were evaluated together.", &self.batch_rows),
            ("queue_seconds", "From submission to admission.", &self.queue_seconds),
            ("first_token_seconds", "From submission to the first token.", &self.first_token_seconds),
            ("answer_seconds", "From submission to the last token.", &self.request_seconds),
        ];
        for (name, help, histogram) in histograms {
            histogram_text(&mut text, &format!("bitnet_{name}"), help, histogram);
        }
        text
    }
}

fn histogram_text(text: &mut String, name: &str, help: &str, histogram: &Histogram) {
    head(text, name, "histogram", help);
    let mut total = 0;
    let bounds = histogram.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
    for (bound, count) in bounds.zip(&histogram.counts) {
        total += count.load(Relaxed);
        let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {total}");
    }
    let _ = writeln!(text, "{name}_sum {}\n{name}_count {total}", histogram.sum());
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_every_family_once_with_help_and_type() {
        let metrics = Metrics::default();
        metrics.response("/health", 200);
        metrics.response("/health", 200);
        metrics.batch_rows.observe(3.0);
        metrics.batch_rows.observe(1000.0);
        let text = metrics.text(&[("model", "a\"b\\c")]);
        assert!(text.contains("bitnet_model_info{model=\"a\\\"b\\\\c\"} 1\n"), "{text}");
        assert!(text.contains("bitnet_http_responses_total{route=\"/health\",status=\"200\"} 2\n"));
        assert!(text.contains("bitnet_batch_rows_bucket{le=\"2\"} 0\n"));
        assert!(text.contains("bitnet_batch_rows_bucket{le=\"4\"} 1\n"));
        assert!(text.contains("bitnet_batch_rows_bucket{le=\"+Inf\"} 2\n"));
        assert!(text.contains("bitnet_batch_rows_sum 1003\nbitnet_batch_rows_count 2\n"));
        let types: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let names: std::collections::BTreeSet<&&str> = types.iter().collect();
        assert_eq!(types.len(), names.len());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
