//! Counts of a server in Prometheus' text format.

use crate::error::{Error, Result};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// What a request was for and what became of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Answered {
    pub endpoint: &'static str,
    pub status: u16,
}

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    pub requests: Family<Answered, Counter>,
    pub prompt: Counter,
    pub generated: Counter,
    pub cancelled: Counter,
    pub failed: Counter,
    pub running: Gauge,
    pub waiting: Gauge,
    pub first_token: Histogram,
}

impl Metrics {
    pub fn new() -> Metrics {
        let seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let mut metrics = Metrics {
            registry: Registry::with_prefix("wgpt"),
            requests: Family::default(),
            prompt: Counter::default(),
            generated: Counter::default(),
            cancelled: Counter::default(),
            failed: Counter::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            first_token: Histogram::new(seconds),
        };
        let registry = &mut metrics.registry;
        registry.register("requests", "Answered requests", metrics.requests.clone());
        registry.register("prompt_tokens", "Tokens of prompts", metrics.prompt.clone());
        registry.register("generated_tokens", "Tokens drawn", metrics.generated.clone());
        registry.register("cancelled_texts", "Texts whose client went away", metrics.cancelled.clone());
        registry.register("failed_batches", "Batches that the model failed in", metrics.failed.clone());
        registry.register("running_texts", "Texts under way", metrics.running.clone());
        registry.register("waiting_texts", "Texts that wait for a row", metrics.waiting.clone());
        let what = "Seconds from a request to its first token";
        registry.register("time_to_first_token_seconds", what, metrics.first_token.clone());
        metrics
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> Result<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).map_err(|_| Error::Input("the metrics cannot be written".into()))?;
        Ok(text)
    }
}
