//! `/v1/completions`: texts that go on from prompts.

use super::Shared;
use super::engine::Event;
use super::fields::Fields;
use super::http::App;
use super::reply::{ApiError, Prepared, Underway, Whole, id, now, reason, stream, whole};
use crate::data::tokenizer::Tokenizer;
use crate::generate::Token;
use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// Tokens that are drawn where a request does not say, as OpenAI has it.
const TOKENS: usize = 16;
/// Prompts of a request.
const MOST_PROMPTS: usize = 64;

/// What an answer needs beside its texts.
struct Form {
    id: String,
    /// The prompts' texts, where they are to be repeated.
    echo: Option<Vec<String>>,
    /// Whether log-probabilities are told, and of how many of the most likely tokens.
    logprobs: Option<usize>,
    count: usize,
    stream: bool,
    counts: bool,
}

pub async fn answer(app: App, body: Vec<u8>) -> Result<Response, ApiError> {
    let shared = app.shared.clone();
    let prepared = tokio::task::spawn_blocking(move || prepare(&shared, &body)).await;
    let (prepared, form) = prepared.map_err(|_| ApiError::failed("the request could not be read"))??;
    let mut underway = prepared.send(&app)?;
    let object =
        json!({"id": form.id, "object": "text_completion", "created": now(), "model": app.shared.service.name});
    if form.stream {
        return Ok(streamed(app, underway, form, object));
    }
    let texts = whole(&mut underway).await?;
    let choices: Vec<Value> = texts.iter().enumerate().map(|(n, text)| choice(&app.shared, &form, n, text)).collect();
    Ok(Json(with(&object, [("choices", json!(choices)), ("usage", underway.usage())])).into_response())
}

fn prepare(shared: &Shared, body: &[u8]) -> Result<(Prepared, Form), ApiError> {
    let mut fields = Fields::parse(body)?;
    fields.model(shared)?;
    let service = &shared.service;
    let prompts = prompts(&service.tokenizer, fields.take("prompt")?)?;
    let asked = fields.asked(shared)?;
    let tokens = fields.tokens(&["max_tokens"], &service.limits, TOKENS)?;
    let logprobs = fields.best("logprobs")?;
    let echo: bool = fields.take("echo")?.unwrap_or(false);
    if echo && logprobs.is_some() {
        return Err(ApiError::bad("`echo` with `logprobs` is not implemented: leave one out", Some("echo")));
    }
    if fields.take::<usize>("best_of")?.is_some_and(|best| best != asked.count) {
        return Err(ApiError::bad("`best_of` is not implemented, unless it is `n`: leave it out", Some("best_of")));
    }
    fields.finish()?;
    let echo = echo.then(|| prompts.iter().map(|ids| service.tokenizer.decode(ids)).collect::<Result<_, _>>());
    let form = Form {
        id: id("cmpl"),
        echo: echo.transpose()?,
        logprobs,
        count: asked.count,
        stream: asked.stream,
        counts: asked.counts,
    };
    let prepared = Prepared { prompts, asked, tokens, best: logprobs.unwrap_or(0), continues: !service.has_source };
    prepared.check(service.context)?;
    Ok((prepared, form))
}

/// The ids of `prompt`: a text, a list of texts, a list of ids, or a list of those.
fn prompts(tokenizer: &Tokenizer, given: Option<Value>) -> Result<Vec<Vec<u32>>, ApiError> {
    let wrong = || ApiError::bad("`prompt` must be a text, a list of texts, or token ids", Some("prompt"));
    let texts = match given.ok_or_else(|| ApiError::bad("`prompt` is missing", Some("prompt")))? {
        Value::String(text) => vec![Value::String(text)],
        Value::Array(list) if list.first().is_some_and(Value::is_number) => vec![Value::Array(list)],
        Value::Array(list) => list,
        _ => return Err(wrong()),
    };
    if texts.is_empty() || texts.len() > MOST_PROMPTS {
        return Err(ApiError::bad(format!("`prompt` must have from 1 to {MOST_PROMPTS} texts"), Some("prompt")));
    }
    let prompt = |text: Value| match text {
        Value::String(text) => Ok(tokenizer.encode_prompt(&text)?),
        list => {
            let ids: Vec<u32> = serde_json::from_value(list).map_err(|_| wrong())?;
            match ids.iter().find(|id| !tokenizer.knows(**id)) {
                Some(id) => Err(ApiError::bad(format!("the model has no token {id}"), Some("prompt"))),
                None => Ok(ids),
            }
        }
    };
    texts.into_iter().map(prompt).collect()
}

fn choice(shared: &Shared, form: &Form, n: usize, whole: &Whole) -> Value {
    let echo = form.echo.as_ref().map_or("", |prompts| &prompts[n / form.count]);
    let logprobs = form.logprobs.map(|best| logprobs(&shared.service.tokenizer, &whole.tokens, best, &mut 0));
    let finish = whole.finish.map(reason);
    json!({"index": n, "text": format!("{echo}{}", whole.text), "logprobs": logprobs, "finish_reason": finish})
}

fn streamed(app: App, underway: Underway, form: Form, object: Value) -> Response {
    let chunk = move |object: &Value, n: usize, text: &str, logprobs: Value, finish: Option<&str>| {
        let choice = json!({"index": n, "text": text, "logprobs": logprobs, "finish_reason": finish});
        with(object, [("choices", json!([choice]))])
    };
    let echoes =
        form.echo.iter().flatten().enumerate().flat_map(|(n, text)| {
            (0..form.count).map(move |choice| (n * form.count + choice, text)).collect::<Vec<_>>()
        });
    let first = echoes.map(|(n, text)| chunk(&object, n, text, Value::Null, None)).collect();
    let mut offsets = vec![0; underway.open];
    let (shared, ending) = (app.shared.clone(), object.clone());
    let chunks = move |Event { choice, piece, token, finish }: Event| {
        let told = form.logprobs.zip(token).map_or(Value::Null, |(best, token)| {
            logprobs(&shared.service.tokenizer, &[token], best, &mut offsets[choice])
        });
        if piece.is_empty() && told.is_null() && finish.is_none() {
            return vec![];
        }
        vec![chunk(&object, choice, &piece, told, finish.map(reason))]
    };
    let counts = form.counts;
    let last =
        move |underway: &Underway| counts.then(|| with(&ending, [("choices", json!([])), ("usage", underway.usage())]));
    stream(underway, first, chunks, last)
}

/// An object with more fields.
fn with<const N: usize>(object: &Value, more: [(&str, Value); N]) -> Value {
    let mut fields = object.as_object().cloned().unwrap_or_default();
    fields.extend(more.map(|(name, value)| (name.to_string(), value)));
    Value::Object(fields)
}

/// Log-probabilities as `/v1/completions` has them; `offset` is that of the first token in the text, in characters.
fn logprobs(tokenizer: &Tokenizer, drawn: &[(Token, Vec<Token>)], best: usize, offset: &mut usize) -> Value {
    let name = |token: &Token| tokenizer.decode(&[token.id]).unwrap_or_default();
    let mut offsets = vec![];
    for (token, _) in drawn {
        offsets.push(*offset);
        *offset += name(token).chars().count();
    }
    let top = |tokens: &Vec<Token>| {
        let pairs = tokens.iter().take(best).map(|token| (name(token), json!(token.log_probability)));
        pairs.collect::<Map<String, Value>>()
    };
    json!({
        "tokens": drawn.iter().map(|(token, _)| name(token)).collect::<Vec<_>>(),
        "token_logprobs": drawn.iter().map(|(token, _)| token.log_probability).collect::<Vec<_>>(),
        "top_logprobs": (best > 0).then(|| drawn.iter().map(|(_, tokens)| top(tokens)).collect::<Vec<_>>()),
        "text_offset": offsets,
    })
}
