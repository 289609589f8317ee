//! `/v1/chat/completions`: answers in dialogues, through the model's chat template.

use super::Shared;
use super::engine::Event;
use super::fields::Fields;
use super::http::App;
use super::reply::{ApiError, Prepared, Underway, Whole, id, now, reason, stream, whole};
use crate::data::chat_template::{ASSISTANT, Message};
use crate::data::tokenizer::Tokenizer;
use crate::generate::Token;
use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

/// A message as clients write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    role: String,
    content: Option<Content>,
    #[serde(default, rename = "name")]
    _name: Option<String>,
    #[serde(default, rename = "refusal")]
    _refusal: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
}

/// What an answer needs beside its texts.
struct Form {
    logprobs: bool,
    best: usize,
    stream: bool,
    counts: bool,
}

pub async fn answer(app: App, body: Vec<u8>) -> Result<Response, ApiError> {
    let shared = app.shared.clone();
    let prepared = tokio::task::spawn_blocking(move || prepare(&shared, &body)).await;
    let (prepared, form) = prepared.map_err(|_| ApiError::failed("the request could not be read"))??;
    let mut underway = prepared.send(&app)?;
    let (id, created, model) = (id("chatcmpl"), now(), app.shared.service.name.clone());
    if form.stream {
        let object = move |choices: Value, usage: Option<Value>| {
            let object = "chat.completion.chunk";
            let mut chunk = json!({"id": id, "object": object, "created": created, "model": model, "choices": choices});
            if let Some(usage) = usage {
                chunk["usage"] = usage;
            }
            chunk
        };
        return Ok(streamed(&app, underway, form, object));
    }
    let texts = whole(&mut underway).await?;
    let choice = |(n, text): (usize, &Whole)| {
        let told = form.logprobs.then(|| logprobs(&app.shared.service.tokenizer, &text.tokens, form.best));
        let message = json!({"role": ASSISTANT, "content": text.text, "refusal": null});
        json!({"index": n, "message": message, "logprobs": told, "finish_reason": text.finish.map(reason)})
    };
    let choices: Vec<Value> = texts.iter().enumerate().map(choice).collect();
    Ok(Json(json!({
        "id": id, "object": "chat.completion", "created": created, "model": model,
        "choices": choices, "usage": underway.usage(),
    }))
    .into_response())
}

fn prepare(shared: &Shared, body: &[u8]) -> Result<(Prepared, Form), ApiError> {
    let mut fields = Fields::parse(body)?;
    fields.model(shared)?;
    let service = &shared.service;
    let Some(template) = &service.template else {
        return Err(ApiError::bad(
            "the model has no chat template: use /v1/completions, or start with --template",
            None,
        ));
    };
    let given: Vec<Given> =
        fields.take("messages")?.ok_or_else(|| ApiError::bad("`messages` is missing", Some("messages")))?;
    if given.is_empty() {
        return Err(ApiError::bad("`messages` is empty", Some("messages")));
    }
    let messages = given.into_iter().map(message).collect::<Result<Vec<Message>, _>>()?;
    let ids = service.tokenizer.encode(&template.render(&messages, true)?)?;
    let asked = fields.asked(shared)?;
    let rest = service.context.saturating_sub(ids.len());
    let tokens = fields.tokens(&["max_completion_tokens", "max_tokens"], &service.limits, rest)?;
    // Taken also where `max_completion_tokens` is given beside it, so that it is not refused as unknown.
    fields.take::<usize>("max_tokens")?;
    let logprobs = fields.take("logprobs")?.unwrap_or(false);
    let best = fields.best("top_logprobs")?.unwrap_or(0);
    if best > 0 && !logprobs {
        return Err(ApiError::bad("`top_logprobs` needs `logprobs` true", Some("top_logprobs")));
    }
    fields.finish()?;
    let form = Form { logprobs, best, stream: asked.stream, counts: asked.counts };
    let prepared = Prepared { prompts: vec![ids], asked, tokens, best, continues: false };
    prepared.check(service.context)?;
    Ok((prepared, form))
}

fn message(Given { role, content, .. }: Given) -> Result<Message, ApiError> {
    let content = match content {
        None => String::new(),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            if let Some(part) = parts.iter().find(|part| part.kind != "text") {
                let message = format!("`messages` has a part of type {:?}: the model reads text", part.kind);
                return Err(ApiError::bad(message, Some("messages")));
            }
            parts.into_iter().filter_map(|part| part.text).collect()
        }
    };
    Ok(Message { role, content })
}

fn streamed(
    app: &App,
    underway: Underway,
    form: Form,
    object: impl Fn(Value, Option<Value>) -> Value + Clone + Send + 'static,
) -> Response {
    let delta =
        |object: &dyn Fn(Value, Option<Value>) -> Value, n: usize, delta: Value, told: Value, end: Option<&str>| {
            object(json!([{"index": n, "delta": delta, "logprobs": told, "finish_reason": end}]), None)
        };
    let role = json!({"role": ASSISTANT, "content": ""});
    let first = (0..underway.open).map(|n| delta(&object, n, role.clone(), Value::Null, None)).collect();
    let (shared, of_chunks) = (app.shared.clone(), object.clone());
    let chunks = move |Event { choice, piece, token, finish }: Event| {
        let told = token.filter(|_| form.logprobs);
        let told = told.map_or(Value::Null, |token| logprobs(&shared.service.tokenizer, &[token], form.best));
        let mut chunks = vec![];
        if !piece.is_empty() || !told.is_null() {
            chunks.push(delta(&of_chunks, choice, json!({"content": piece}), told, None));
        }
        chunks.extend(finish.map(|end| delta(&of_chunks, choice, json!({}), Value::Null, Some(reason(end)))));
        chunks
    };
    let counts = form.counts;
    stream(underway, first, chunks, move |underway| counts.then(|| object(json!([]), Some(underway.usage()))))
}

/// Log-probabilities as `/v1/chat/completions` has them.
fn logprobs(tokenizer: &Tokenizer, drawn: &[(Token, Vec<Token>)], best: usize) -> Value {
    let one = |token: &Token| {
        let text = tokenizer.decode(&[token.id]).unwrap_or_default();
        // A token that is a part of a character has bytes that its text does not tell.
        let bytes = (!text.contains(char::REPLACEMENT_CHARACTER)).then(|| text.as_bytes().to_vec());
        json!({"token": text, "logprob": token.log_probability, "bytes": bytes})
    };
    let content = drawn.iter().map(|(token, tokens)| {
        let mut told = one(token);
        told["top_logprobs"] = tokens.iter().take(best).map(one).collect();
        told
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}
