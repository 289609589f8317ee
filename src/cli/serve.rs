//! `wgpt serve`: a model behind an HTTP interface with OpenAI's requests and answers, and a chat page.

use super::Global;
use super::examples::template_text;
use super::sample::settings::drawn_by;
use super::sample::{Files, model_name};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::generate::{Generator, MOST_ROWS};
use wgpt::graph::Quantisation;
use wgpt::models::network::Network;
use wgpt::serve::{self, Service, ServiceLimits, Stop};

#[derive(clap::Args)]
pub struct Serve {
    /// Model folder, GGUF file, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder of adapters on the model, from --lora or from peft; without --model, on the model that they are of
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// How matrices are kept on the device, in less memory than f32
    #[arg(long, value_enum)]
    base: Option<Quantisation>,
    /// Positions that the cache holds, of a model with rotary positions [default: the model's context, at most 4096]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Chat template: chatml, plain, lines, or a file [default: the model folder's]
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,
    /// The model's name in requests and answers [default: the folder's]
    #[arg(long)]
    name: Option<String>,
    /// Address to listen on; others than 127.0.0.1 and ::1 are open to the network
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 for any that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Texts that are drawn at once
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// Texts that may wait for a place among them; further requests are answered with 429
    #[arg(long, value_name = "N", default_value_t = 256)]
    queue: usize,
    /// Tokens that a request may ask for
    #[arg(long, value_name = "N", default_value_t = 4096)]
    max_tokens: usize,
    /// Bytes of a request that are read
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    max_body: usize,
    /// Key that requests must bring [default: WGPT_API_KEY, or none]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Serve the files of this folder, such as one of `wgpt export --web`, and no model
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "adapter", "base", "context", "template", "name", "batch", "queue", "max_tokens", "max_body", "api_key"])]
    web: Option<PathBuf>,
}

impl Serve {
    pub fn run(&self, global: &Global) -> Result<()> {
        let address = SocketAddr::new(self.host, self.port);
        if let Some(folder) = &self.web {
            return serve_folder(global, folder, address);
        }
        self.check()?;
        super::check_device(&global.device)?;
        let files = Files::open(global, (self.model.as_deref(), self.adapter.as_deref()), (self.context, self.base))?;
        // Before any work on the device, so that an address that is taken is told at once.
        let listener = serve::listen(address)?;
        let stop_tokens = files.ends();
        let Files { config, weights, tokenizer, generation } = files;
        let tokenizer = match &self.template {
            Some(template) => tokenizer.with_chat_template(&template_text(template)?),
            None => tokenizer,
        };
        let template = tokenizer.chat_template()?;
        let mut executor = global.open()?;
        let network = Network::new(config);
        let vocabulary = tokenizer.vocabulary_size();
        let generator = Generator::new(executor.as_mut(), &network, &weights, vocabulary, self.batch)?;
        drop(weights);
        let service = Service {
            name: self.name(),
            tokenizer,
            template,
            params: drawn_by(&generation),
            stop_tokens: stop_tokens.into_iter().filter(|id| (*id as usize) < vocabulary).collect(),
            stops: generation.stop_strings,
            context: network.config().context,
            has_source: generator.has_source(),
            limits: ServiceLimits {
                tokens: self.max_tokens.min(generator.most_tokens()),
                waiting: self.queue,
                body_bytes: self.max_body,
            },
            api_key: self.api_key.clone().or_else(|| std::env::var("WGPT_API_KEY").ok()).filter(|key| !key.is_empty()),
        };
        if !self.host.is_loopback() && service.api_key.is_none() {
            global.say("warning: everyone who reaches this address can use the model: --api-key keeps others out");
        }
        let stop = stop_at_interrupt(global);
        let address = listener.local_addr().unwrap_or(address);
        global
            .say(&format!("serving {} on http://{address}, {} texts at once; Ctrl-C stops", service.name, self.batch));
        serve::run(executor.as_mut(), generator, service, listener, stop)
    }

    fn check(&self) -> Result<()> {
        if !(1..=MOST_ROWS).contains(&self.batch) {
            fail!(Usage, "--batch {} is not from 1 to {MOST_ROWS}", self.batch);
        }
        let counted = [("queue", self.queue), ("max-tokens", self.max_tokens), ("max-body", self.max_body)];
        match counted.into_iter().find(|(_, value)| *value == 0) {
            Some((flag, _)) => fail!(Usage, "--{flag} 0 lets nothing through: give at least 1"),
            None => Ok(()),
        }
    }

    /// The model's name in requests.
    fn name(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let Some(place) = self.adapter.as_deref().or(self.model.as_deref()) else { return "demo".into() };
        model_name(place)
    }
}

fn serve_folder(global: &Global, folder: &Path, address: SocketAddr) -> Result<()> {
    if !folder.is_dir() {
        fail!(Usage, "--web {} is no folder: give one that `wgpt export --web` wrote", folder.display());
    }
    let listener = serve::listen(address)?;
    let address = listener.local_addr().unwrap_or(address);
    global.say(&format!("serving {} on http://{address}; Ctrl-C stops", folder.display()));
    serve::run_folder(folder, listener, stop_at_interrupt(global))
}

/// Ctrl-C, or the operating system's wish to end, lets requests under way finish; a second one ends the process.
fn stop_at_interrupt(global: &Global) -> Stop {
    let stop = Stop::default();
    let told = stop.clone();
    let handler = ctrlc::set_handler(move || {
        if told.stop() {
            std::process::exit(130);
        }
    });
    if handler.is_err() {
        global.say("warning: Ctrl-C cannot be caught here, and will end the program without answers to those who wait");
    }
    stop
}
