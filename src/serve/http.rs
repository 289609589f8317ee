//! Connections, routes and what holds for every request: keys, sizes, times, counts.

use super::engine::Job;
use super::metrics::Answered;
use super::reply::{ApiError, now};
use super::{Shared, chat, completions};
use crate::error::{Error, Result};
use axum::body::Body;
use axum::extract::{Path as UrlPath, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tower_http::services::ServeDir;

/// Connections at once; further ones wait.
const MOST_CONNECTIONS: usize = 1024;
/// A client has this long for the head of a request, and for its body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests under way have this long once the server is to stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// What is read of a body beyond the limit, so that its client sees the answer, in multiples of the limit.
const BEYOND: usize = 16;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/chat.html"));
const STYLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/style.css"));

/// What handlers need.
#[derive(Clone)]
pub struct App {
    pub(super) shared: Arc<Shared>,
    pub(super) jobs: Sender<Job>,
}

/// Tells a server to stop taking requests.
#[derive(Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Stop {
        Stop(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// The server answers the requests under way and ends; whether it was told before.
    pub fn stop(&self) -> bool {
        self.0.send_replace(true)
    }
}

/// Starts the thread that answers requests. It ends once it is told to stop and has answered those under way.
pub fn spawn(
    router: impl FnOnce() -> Router + Send + 'static,
    listener: TcpListener,
    stop: Stop,
) -> Result<JoinHandle<Result<()>>> {
    let failed = |source| Error::Io { action: "start the HTTP server".into(), source };
    listener.set_nonblocking(true).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(failed)?;
    let serve = move || {
        let served = runtime.block_on(accept(router(), listener, stop));
        // Handlers that have not finished are dropped, and their connections with them.
        runtime.shutdown_timeout(Duration::from_secs(1));
        served
    };
    std::thread::Builder::new().name("http".into()).spawn(serve).map_err(failed)
}

/// Waits for the thread.
pub fn join(server: JoinHandle<Result<()>>) -> Result<()> {
    server.join().unwrap_or_else(|_| Err(Error::Input("the HTTP server panicked".into())))
}

async fn accept(router: Router, listener: TcpListener, stop: Stop) -> Result<()> {
    let failed = |source| Error::Io { action: "listen".into(), source };
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
    let (graceful, mut stopped) = (GracefulShutdown::new(), stop.0.subscribe());
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let connection = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            connection = connection => connection,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file handles, most likely: some will be given back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Tokens are small and must not wait for more.
        let _ = stream.set_nodelay(true);
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
        let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let served = graceful.watch(served);
        tokio::spawn(async move {
            // An error is a connection that the client broke off.
            let _ = served.await;
            drop(place);
        });
    }
    drop((listener, router));
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await;
    Ok(())
}

/// The routes of a model.
pub fn router(app: App) -> Router {
    let text = |kind, text: &'static str| get(move || async move { ([(CONTENT_TYPE, kind)], text) });
    Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/style.css", text("text/css; charset=utf-8", STYLE))
        .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route_layer(from_fn_with_state(app.clone(), without_body))
        .route("/v1/completions", post(completions_of))
        .route("/v1/chat/completions", post(chat_of))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(app)
}

/// The files of a folder.
pub fn folder_router(folder: &Path) -> Router {
    Router::new().fallback_service(ServeDir::new(folder))
}

/// Answers a request whose body says nothing.
async fn without_body(State(app): State<App>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    discard(&app, body).await;
    next.run(Request::from_parts(head, Body::empty())).await
}

async fn no_route(State(app): State<App>, request: Request) -> ApiError {
    let message = format!("there is nothing at {}", request.uri().path());
    discard(&app, request.into_body()).await;
    ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
}

async fn no_method(State(app): State<App>, request: Request) -> ApiError {
    let message = format!("{} is not for {}", request.method(), request.uri().path());
    discard(&app, request.into_body()).await;
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
}

async fn metrics(State(app): State<App>) -> std::result::Result<Response, ApiError> {
    let metrics = &app.shared.metrics;
    metrics.waiting.set(app.shared.waiting.load(Ordering::SeqCst) as i64);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], metrics.text()?).into_response())
}

fn listed(app: &App) -> Value {
    let service = &app.shared.service;
    json!({
        "id": service.name, "object": "model", "created": now(), "owned_by": "wgpt",
        "context": service.context, "chat": service.template.is_some(),
    })
}

async fn models(State(app): State<App>, headers: HeaderMap) -> std::result::Result<Json<Value>, ApiError> {
    check_key(&app, &headers)?;
    Ok(Json(json!({"object": "list", "data": [listed(&app)]})))
}

async fn model(
    State(app): State<App>,
    UrlPath(name): UrlPath<String>,
    headers: HeaderMap,
) -> std::result::Result<Json<Value>, ApiError> {
    check_key(&app, &headers)?;
    let known = &app.shared.service.name;
    if name == *known { Ok(Json(listed(&app))) } else { Err(ApiError::no_model(&name, known)) }
}

async fn completions_of(State(app): State<App>, request: Request) -> Response {
    answered(app, "/v1/completions", request, completions::answer).await
}

async fn chat_of(State(app): State<App>, request: Request) -> Response {
    answered(app, "/v1/chat/completions", request, chat::answer).await
}

/// Checks a request, reads its body, has it answered, and counts it.
async fn answered<F: Future<Output = std::result::Result<Response, ApiError>>>(
    app: App,
    endpoint: &'static str,
    request: Request,
    answer: impl FnOnce(App, Vec<u8>) -> F,
) -> Response {
    let requests = app.shared.metrics.requests.clone();
    let response = match body(&app, request).await {
        Ok(body) => answer(app, body).await.into_response(),
        Err(error) => error.into_response(),
    };
    requests.get_or_create(&Answered { endpoint, status: response.status().as_u16() }).inc();
    response
}

/// Whether a request may be answered, by its head.
fn check_head(app: &App, headers: &HeaderMap) -> std::result::Result<(), ApiError> {
    check_key(app, headers)?;
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    // Pages of other places can send other types without asking.
    if kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = "the body must be JSON, sent with `Content-Type: application/json`";
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message))
}

/// Reads a body that is not used and drops it: a client that still writes would find the connection closed
/// instead of the answer, and so would its next request.
async fn discard(app: &App, mut body: Body) {
    let mut left = app.shared.service.limits.body_bytes.saturating_mul(BEYOND);
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, |data| data.len());
            let Some(rest) = left.checked_sub(size) else { break };
            left = rest;
        }
    };
    let _ = tokio::time::timeout(READ_TIMEOUT, read).await;
}

/// The body of a request that may be answered.
async fn body(app: &App, request: Request) -> std::result::Result<Vec<u8>, ApiError> {
    if let Err(error) = check_head(app, request.headers()) {
        discard(app, request.into_body()).await;
        return Err(error);
    }
    let read = read(request.into_body(), app.shared.service.limits.body_bytes);
    tokio::time::timeout(READ_TIMEOUT, read).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {} s", READ_TIMEOUT.as_secs());
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message))
    })
}

async fn read(mut body: Body, limit: usize) -> std::result::Result<Vec<u8>, ApiError> {
    let (mut bytes, mut size) = (vec![], 0usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad(format!("the body cannot be read: {error}"), None))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= limit {
            bytes.extend_from_slice(&data);
        } else if size > limit.saturating_mul(BEYOND) {
            break;
        }
    }
    if size > limit {
        let message = format!("the body is larger than the {limit} bytes that are read");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message));
    }
    Ok(bytes)
}

/// Checks a request's key, in a time that does not tell how much of it is right.
fn check_key(app: &App, headers: &HeaderMap) -> std::result::Result<(), ApiError> {
    let Some(key) = &app.shared.service.api_key else { return Ok(()) };
    let given = headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let given = given.strip_prefix(b"Bearer ").unwrap_or(given);
    let differences =
        given.iter().zip(key.bytes()).fold(given.len() ^ key.len(), |sum, (a, b)| sum | usize::from(a ^ b));
    if differences == 0 { Ok(()) } else { Err(ApiError::no_key()) }
}
