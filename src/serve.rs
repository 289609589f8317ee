//! `wgpt serve`: a model behind an HTTP interface with OpenAI's requests and answers, in one decode batch.
//!
//! One thread owns the device and the generator ([`engine`]); handlers of requests run on an asynchronous runtime ([`http`]) and talk
//! to it by channels: a job goes in, its tokens come back. A client that goes away drops its end, and the row is given to the next.

mod chat;
mod completions;
mod engine;
mod fields;
mod http;
mod metrics;
mod reply;

use crate::data::chat_template::ChatTemplate;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::generate::{Generator, SamplingParams};
use metrics::Metrics;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

pub use http::Stop;

/// What is served, and within which limits.
pub struct Service {
    /// The model's name in requests and answers.
    pub name: String,
    pub tokenizer: Tokenizer,
    pub template: Option<ChatTemplate>,
    /// How tokens are drawn where a request does not say.
    pub params: SamplingParams,
    /// Tokens that end a text.
    pub stop_tokens: Vec<u32>,
    /// Texts that end every text.
    pub stops: Vec<String>,
    /// Positions of the model.
    pub context: usize,
    /// Whether prompts are an encoder's inputs, which texts do not continue.
    pub has_source: bool,
    pub limits: ServiceLimits,
    /// Requests must bring it, where there is one.
    pub api_key: Option<String>,
}

/// Limits of what requests may ask for.
#[derive(Clone, Copy, Debug)]
pub struct ServiceLimits {
    /// Tokens of an answer.
    pub tokens: usize,
    /// Texts that wait for a row.
    pub waiting: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
}

/// A service with what its threads share.
struct Shared {
    service: Service,
    /// Texts that wait for a row.
    waiting: AtomicUsize,
    metrics: Metrics,
}

/// Opens the address to listen on.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|source| Error::Io { action: format!("listen on {address}"), source })
}

/// Serves a model until it is stopped and the requests under way are answered. The caller's thread drives the device.
pub fn run(
    executor: &mut dyn Executor,
    generator: Generator,
    service: Service,
    listener: TcpListener,
    stop: Stop,
) -> Result<()> {
    let metrics = Metrics::new();
    let shared = Arc::new(Shared { service, waiting: AtomicUsize::new(0), metrics });
    let (jobs, received) = std::sync::mpsc::channel();
    let app = http::App { shared: shared.clone(), jobs };
    let server = http::spawn(move || http::router(app), listener, stop.clone())?;
    let served = engine::run(executor, generator, &shared, received);
    // A device that failed ends the server, too.
    stop.stop();
    let ended = http::join(server);
    served.and(ended)
}

/// Serves the files of a folder until it is stopped.
pub fn run_folder(folder: &Path, listener: TcpListener, stop: Stop) -> Result<()> {
    let folder = folder.to_path_buf();
    http::join(http::spawn(move || http::folder_router(&folder), listener, stop)?)
}
