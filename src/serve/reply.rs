//! Answers: errors in OpenAI's form, and what both kinds of texts share: jobs, counts of tokens, streams of events.

use super::engine::{Event, Job, Told};
use super::fields::Asked;
use super::http::App;
use crate::generate::stop::Finish;
use crate::generate::{Request, Token};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::sse::{Event as SseEvent, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// An error as OpenAI's clients read it.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl ApiError {
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, kind, code: None, param: None, message: message.into() }
    }

    /// A request that is not valid.
    pub fn bad(message: impl Into<String>, param: Option<&str>) -> ApiError {
        let error = ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", message);
        ApiError { param: param.map(str::to_string), ..error }
    }

    pub fn too_long(prompt: usize, context: usize) -> ApiError {
        let message = format!("the prompt has {prompt} tokens, and the model's context holds {context}: shorten it");
        ApiError { code: Some("context_length_exceeded"), ..ApiError::bad(message, Some("prompt")) }
    }

    pub fn no_model(name: &str, known: &str) -> ApiError {
        let message = format!("there is no model {name:?} here: the model is {known:?}");
        let error = ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", message);
        ApiError { code: Some("model_not_found"), param: Some("model".into()), ..error }
    }

    pub fn busy(limit: usize) -> ApiError {
        let message = format!("{limit} texts wait already: try again later");
        let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        ApiError { code: Some("rate_limit_exceeded"), ..error }
    }

    pub fn no_key() -> ApiError {
        let message = "the API key is missing or wrong: send it as `Authorization: Bearer KEY`";
        let error = ApiError::new(StatusCode::UNAUTHORIZED, "authentication_error", message);
        ApiError { code: Some("invalid_api_key"), ..error }
    }

    pub fn failed(why: &str) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", why)
    }

    /// The engine has ended.
    pub fn ended() -> ApiError {
        ApiError::failed("the server ends")
    }

    fn json(&self) -> Value {
        let ApiError { kind, code, param, message, .. } = self;
        json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
    }
}

impl From<crate::error::Error> for ApiError {
    fn from(error: crate::error::Error) -> ApiError {
        ApiError::bad(error.to_string(), None)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.json())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A request that is ready to be drawn.
pub struct Prepared {
    pub prompts: Vec<Vec<u32>>,
    pub asked: Asked,
    pub tokens: usize,
    pub best: usize,
    /// The texts go on from the prompts'.
    pub continues: bool,
}

/// Texts under way.
pub struct Underway {
    pub events: UnboundedReceiver<Told>,
    pub prompt_tokens: usize,
    /// Texts that are not complete.
    pub open: usize,
    pub generated: usize,
}

impl Prepared {
    /// Refuses prompts that a text cannot follow.
    pub fn check(&self, context: usize) -> Result<(), ApiError> {
        match self.prompts.iter().map(Vec::len).find(|tokens| *tokens == 0 || *tokens > context) {
            Some(0) => Err(ApiError::bad("the tokenizer has no tokens for the prompt: give it more", Some("prompt"))),
            Some(tokens) => Err(ApiError::too_long(tokens, context)),
            None => Ok(()),
        }
    }

    /// Hands the texts to the engine, all of them or none.
    pub fn send(self, app: &App) -> Result<Underway, ApiError> {
        let Prepared { prompts, asked, tokens, best, continues } = self;
        let (texts, limit) = (prompts.len() * asked.count, app.shared.service.limits.waiting);
        let fits = |waiting: usize| (waiting + texts <= limit).then_some(waiting + texts);
        if app.shared.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_err() {
            return Err(ApiError::busy(limit));
        }
        let (sender, events) = unbounded_channel();
        let prompt_tokens = prompts.iter().map(Vec::len).sum();
        let stops: Vec<String> = asked.stops.iter().chain(&app.shared.service.stops).cloned().collect();
        for choice in 0..texts {
            let prompt = prompts[choice / asked.count].clone();
            let seed = asked.seed.wrapping_add((choice % asked.count) as u32);
            let request = Request { prompt, tokens, seed, params: asked.params, best };
            let events = sender.clone();
            let job = Job { request, stops: stops.clone(), continues, choice, events, asked: Instant::now() };
            app.jobs.send(job).map_err(|_| ApiError::ended())?;
        }
        app.shared.metrics.prompt.inc_by(prompt_tokens as u64);
        Ok(Underway { events, prompt_tokens, open: texts, generated: 0 })
    }
}

impl Underway {
    /// The next event; none once all texts are complete. An error where the engine gave up.
    pub async fn next(&mut self) -> Option<Result<Event, ApiError>> {
        if self.open == 0 {
            return None;
        }
        let event = match self.events.recv().await {
            Some(Ok(event)) => event,
            failed => {
                self.open = 0;
                let error = failed.and_then(Result::err).map_or_else(ApiError::ended, |why| ApiError::failed(&why));
                return Some(Err(error));
            }
        };
        self.generated += 1;
        self.open -= usize::from(event.finish.is_some());
        Some(Ok(event))
    }

    pub fn usage(&self) -> Value {
        let (prompt, drawn) = (self.prompt_tokens, self.generated);
        json!({"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn})
    }
}

/// A stream of server-sent events: `chunks` makes those of each event; `last` is sent before the end.
pub fn stream(
    underway: Underway,
    first: Vec<Value>,
    chunks: impl FnMut(Event) -> Vec<Value> + Send + 'static,
    last: impl Fn(&Underway) -> Option<Value> + Send + 'static,
) -> Response {
    struct State<C, L> {
        underway: Underway,
        ready: VecDeque<String>,
        chunks: C,
        last: L,
        ended: bool,
    }
    let ready = first.iter().map(Value::to_string).collect();
    let state = State { underway, ready, chunks, last, ended: false };
    let events = stream::unfold(state, |mut state| async move {
        loop {
            if let Some(text) = state.ready.pop_front() {
                return Some((Ok::<_, Infallible>(SseEvent::default().data(text)), state));
            }
            if state.ended {
                return None;
            }
            match state.underway.next().await {
                Some(Ok(event)) => state.ready.extend((state.chunks)(event).iter().map(Value::to_string)),
                Some(Err(error)) => {
                    state.ended = true;
                    state.ready.push_back(error.json().to_string());
                }
                None => {
                    state.ended = true;
                    state.ready.extend((state.last)(&state.underway).map(|last| last.to_string()));
                    state.ready.push_back("[DONE]".into());
                }
            }
        }
    });
    Sse::new(events).into_response()
}

/// A text that is complete, token by token.
#[derive(Default)]
pub struct Whole {
    pub text: String,
    pub tokens: Vec<(Token, Vec<Token>)>,
    pub finish: Option<Finish>,
}

/// Waits until all texts are complete.
pub async fn whole(underway: &mut Underway) -> Result<Vec<Whole>, ApiError> {
    let mut texts: Vec<Whole> = (0..underway.open).map(|_| Whole::default()).collect();
    while let Some(event) = underway.next().await {
        let Event { choice, piece, token, finish } = event?;
        let text = &mut texts[choice];
        text.text += &piece;
        text.tokens.extend(token);
        text.finish = finish;
    }
    Ok(texts)
}

/// Why a text ended, in OpenAI's words.
pub fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Stop | Finish::End => "stop",
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A name for an answer.
pub fn id(kind: &str) -> String {
    format!("{kind}-{:016x}{:08x}", rand::random::<u64>(), rand::random::<u32>())
}
