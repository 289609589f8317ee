//! The fields of a request's JSON object, taken one by one: wrong types and values are refused by name, and so are fields that are
//! unknown or not implemented.

use super::reply::ApiError;
use super::{ServiceLimits, Shared};
use crate::generate::{MOST_BEST, MOST_ROWS, SamplingParams};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Fields of OpenAI's interface that change no text.
const IGNORED: [&str; 9] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "verbosity",
];

/// Fields whose effect is not implemented, and the values that have none.
const REFUSED: [(&str, &[&str]); 15] = [
    ("suffix", &["\"\""]),
    ("logit_bias", &["{}"]),
    ("presence_penalty", &["0", "0.0"]),
    ("frequency_penalty", &["0", "0.0"]),
    ("tools", &["[]"]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("response_format", &["{\"type\":\"text\"}"]),
    ("modalities", &["[\"text\"]"]),
    ("audio", &[]),
    ("prediction", &[]),
    ("web_search_options", &[]),
    ("reasoning_effort", &[]),
    ("moderation", &[]),
];

/// What is left of an object.
pub struct Fields(Map<String, Value>);

/// What both kinds of requests say about their texts.
pub struct Asked {
    pub params: SamplingParams,
    /// Texts for each prompt.
    pub count: usize,
    /// Of the first text; each further one has the next.
    pub seed: u32,
    pub stops: Vec<String>,
    pub stream: bool,
    /// A stream ends with the counts of tokens.
    pub counts: bool,
}

impl Fields {
    pub fn parse(body: &[u8]) -> Result<Fields, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(ApiError::bad("the body is no JSON object", None)),
            Err(error) => Err(ApiError::bad(format!("the body is no JSON: {error}"), None)),
        }
    }

    /// Takes a field; null is as good as none.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match serde_json::from_value(value) {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(ApiError::bad(format!("`{name}`: {error}"), Some(name))),
            },
        }
    }

    /// Takes a number of a range.
    pub fn number(&mut self, name: &str, least: f64, most: f64) -> Result<Option<f64>, ApiError> {
        match self.take::<f64>(name)? {
            Some(value) if !(least..=most).contains(&value) => {
                let range =
                    if most < f64::MAX { format!("from {least} to {most}") } else { format!("{least} or more") };
                Err(ApiError::bad(format!("`{name}` is {value} and must be {range}"), Some(name)))
            }
            value => Ok(value),
        }
    }

    /// Takes a whole number of a range.
    pub fn count(&mut self, name: &str, least: usize, most: usize) -> Result<Option<usize>, ApiError> {
        match self.take::<usize>(name)? {
            Some(value) if !(least..=most).contains(&value) => {
                Err(ApiError::bad(format!("`{name}` is {value} and must be from {least} to {most}"), Some(name)))
            }
            value => Ok(value),
        }
    }

    /// Checks the name of the model, where one is given.
    pub fn model(&mut self, shared: &Shared) -> Result<(), ApiError> {
        match self.take::<String>("model")? {
            Some(name) if name != shared.service.name => Err(ApiError::no_model(&name, &shared.service.name)),
            _ => Ok(()),
        }
    }

    /// The fields that both kinds of requests have.
    pub fn asked(&mut self, shared: &Shared) -> Result<Asked, ApiError> {
        let base = shared.service.params;
        let number = |fields: &mut Fields, name: &str, (least, most): (f64, f64), otherwise: f32| {
            fields.number(name, least, most).map(|value| value.map_or(otherwise, |value| value as f32))
        };
        let largest = f64::from(f32::MAX);
        let params = SamplingParams {
            temperature: number(self, "temperature", (0.0, 100.0), base.temperature)?,
            top_p: number(self, "top_p", (0.0, 1.0), base.top_p)?,
            min_p: number(self, "min_p", (0.0, 1.0), base.min_p)?,
            repetition_penalty: number(self, "repetition_penalty", (1e-3, largest), base.repetition_penalty)?,
            top_k: self.count("top_k", 0, 1 << 24)?.unwrap_or(base.top_k),
        };
        let stops = match self.take::<Value>("stop")? {
            None => vec![],
            Some(Value::String(stop)) => vec![stop],
            Some(stops) => serde_json::from_value(stops)
                .map_err(|_| ApiError::bad("`stop` must be a text or a list of texts", Some("stop")))?,
        };
        if stops.len() > 16 || stops.iter().any(|stop| stop.is_empty() || stop.len() > 1024) {
            return Err(ApiError::bad("`stop` must be up to 16 texts of 1 to 1024 bytes", Some("stop")));
        }
        let stream = self.take("stream")?.unwrap_or(false);
        let mut options = Fields(self.take("stream_options")?.unwrap_or_default());
        let counts = options.take("include_usage")?.unwrap_or(false);
        options.take::<bool>("include_obfuscation")?;
        options.finish()?;
        Ok(Asked {
            params,
            count: self.count("n", 1, MOST_ROWS)?.unwrap_or(1),
            // Of a longer number the lower 32 bits.
            seed: self.take::<i64>("seed")?.map_or_else(rand::random, |seed| seed as u32),
            stops,
            stream,
            counts,
        })
    }

    /// Tokens to draw at most: the first of these fields that is given, or `otherwise`, within the limits.
    pub fn tokens(&mut self, names: &[&str], limits: &ServiceLimits, otherwise: usize) -> Result<usize, ApiError> {
        for name in names {
            if let Some(tokens) = self.count(name, 1, limits.tokens)? {
                return Ok(tokens);
            }
        }
        Ok(otherwise.clamp(1, limits.tokens))
    }

    /// How many of the most likely tokens are to be told.
    pub fn best(&mut self, name: &str) -> Result<Option<usize>, ApiError> {
        self.count(name, 0, MOST_BEST)
    }

    /// Refuses what is left and has an effect.
    pub fn finish(mut self) -> Result<(), ApiError> {
        IGNORED.iter().for_each(|name| drop(self.0.remove(*name)));
        for (name, harmless) in REFUSED {
            let Some(value) = self.take::<Value>(name)? else { continue };
            if !harmless.contains(&value.to_string().as_str()) {
                return Err(ApiError::bad(format!("`{name}` is not implemented: leave it out"), Some(name)));
            }
        }
        match self.0.keys().next() {
            Some(name) => Err(ApiError::bad(format!("`{name}` is no known field: leave it out"), Some(name))),
            None => Ok(()),
        }
    }
}
