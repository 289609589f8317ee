//! The thread that owns the device: it takes jobs, draws their texts in one batch, and sends tokens back as they come.

use super::Shared;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::generate::stop::{Continuation, Finish};
use crate::generate::{Drawn, Generator, Request, Texts, Token};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// A text to draw.
pub struct Job {
    pub request: Request,
    pub stops: Vec<String>,
    /// The text goes on from the prompt's, which decides about a space at its start; an answer in a dialogue does not.
    pub continues: bool,
    /// Which of the request's texts it is.
    pub choice: usize,
    /// Where its tokens go; closed once nobody waits for them.
    pub events: UnboundedSender<Told>,
    pub asked: Instant,
}

/// What becomes of a job: its next token, or why there is none.
pub type Told = std::result::Result<Event, String>;

/// The next token of a job.
pub struct Event {
    pub choice: usize,
    /// Text that can be shown now.
    pub piece: String,
    /// The token that came, unless it ended the text without being a part of it, and the most likely ones in its place.
    pub token: Option<(Token, Vec<Token>)>,
    /// Why the text is complete, once it is.
    pub finish: Option<Finish>,
}

/// A text under way.
struct Active<'a> {
    text: Continuation<'a>,
    /// Bytes of it that were sent.
    sent: usize,
    choice: usize,
    events: UnboundedSender<Told>,
    /// When it was asked for, until its first token came.
    asked: Option<Instant>,
}

/// The texts under way, and the jobs that the next ones come from.
struct JobTexts<'a> {
    shared: &'a Shared,
    jobs: &'a Receiver<Job>,
    /// A job that was waited for.
    first: Option<Job>,
    active: HashMap<usize, Active<'a>>,
    /// Texts that were begun, which number them.
    begun: usize,
}

/// Draws texts for all jobs until nobody can send any more.
pub fn run(executor: &mut dyn Executor, mut generator: Generator, shared: &Shared, jobs: Receiver<Job>) -> Result<()> {
    while let Ok(job) = jobs.recv() {
        let mut texts = JobTexts { shared, jobs: &jobs, first: Some(job), active: HashMap::new(), begun: 0 };
        let drawn = generator.generate_all(executor, &mut texts);
        shared.metrics.running.set(0);
        let Err(error) = drawn else { continue };
        shared.metrics.failed.inc();
        texts.active.values().for_each(|active| _ = active.events.send(Err(error.to_string())));
        // A model that fails for one text may do for the next; a device does not.
        if matches!(error, Error::Device(_) | Error::DeviceLost(_) | Error::OutOfMemory(_)) {
            return Err(error);
        }
    }
    Ok(())
}

impl Texts for JobTexts<'_> {
    fn next(&mut self) -> Option<(usize, Request)> {
        loop {
            let job = match self.first.take().map_or_else(|| self.jobs.try_recv(), Ok) {
                Ok(job) => job,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return None,
            };
            self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
            if job.events.is_closed() {
                self.shared.metrics.cancelled.inc();
                continue;
            }
            let service = &self.shared.service;
            let text = Continuation::new(&service.tokenizer, job.request.tokens, &service.stop_tokens, &job.stops);
            let text = if job.continues { text.after(&service.tokenizer, &job.request.prompt) } else { Ok(text) };
            let text = match text {
                Ok(text) => text,
                Err(error) => {
                    _ = job.events.send(Err(error.to_string()));
                    continue;
                }
            };
            let (number, asked) = (self.begun, Some(job.asked));
            self.active.insert(number, Active { text, sent: 0, choice: job.choice, events: job.events, asked });
            self.begun += 1;
            self.shared.metrics.running.set(self.active.len() as i64);
            return Some((number, job.request));
        }
    }

    fn take(&mut self, n: usize, Drawn { token, best }: Drawn) -> Result<bool> {
        let metrics = &self.shared.metrics;
        let Some(active) = self.active.get_mut(&n) else { return Ok(false) };
        metrics.generated.inc();
        if let Some(asked) = active.asked.take() {
            metrics.first_token.observe(asked.elapsed().as_secs_f64());
        }
        active.text.push(token)?;
        let finish = active.text.finish();
        let piece = active.text.text()[active.sent..].to_string();
        active.sent += piece.len();
        let token = (finish != Some(Finish::End)).then_some((token, best));
        let gone = active.events.send(Ok(Event { choice: active.choice, piece, token, finish })).is_err();
        if gone && finish.is_none() {
            metrics.cancelled.inc();
        }
        let goes_on = finish.is_none() && !gone;
        if !goes_on {
            self.active.remove(&n);
            metrics.running.set(self.active.len() as i64);
        }
        Ok(goes_on)
    }
}
