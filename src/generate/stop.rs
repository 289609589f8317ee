//! Where a text ends, and what of it can be shown while it grows: stop texts across the borders of tokens, stop tokens,
//! and characters whose bytes are spread over several tokens.

use super::Token;
use crate::data::tokenizer::{TextStream, Tokenizer};
use crate::error::Result;
use serde::Serialize;

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// It has as many tokens as were asked for.
    Length,
    /// A stop text came.
    Stop,
    /// The model ended it with a stop token, such as the one for the end of a text.
    End,
}

/// Finds stop texts in text that comes in pieces, and holds back what may be the start of one.
///
/// The text ends at the stop text that is complete first; of several that end together, the longest counts. So the way
/// the text is cut into pieces changes nothing.
#[derive(Clone, Debug, Default)]
pub struct StopTexts {
    stops: Vec<String>,
    held: String,
}

impl StopTexts {
    /// Empty stop texts are left out: they would end every text before it starts.
    pub fn new(stops: &[String]) -> Self {
        StopTexts { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// What can be shown after `text` came, and whether a stop text ended it. After that, nothing more may be pushed.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(start) = first_stop(&self.held, &self.stops) {
            self.held.truncate(start);
            return (std::mem::take(&mut self.held), true);
        }
        let kept = self.stops.iter().map(|stop| started(&self.held, stop)).max().unwrap_or(0);
        let held = self.held.split_off(self.held.len() - kept);
        (std::mem::replace(&mut self.held, held), false)
    }

    /// What was held back, once it is known that nothing follows.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Where the stop text starts that ends `text`, if one does.
pub fn first_stop(text: &str, stops: &[String]) -> Option<usize> {
    let found = stops.iter().filter_map(|stop| text.find(stop.as_str()).map(|start| (start + stop.len(), start)));
    found.min().map(|(_, start)| start)
}

/// Bytes at the end of `text` with which `stop` starts, less than all of it.
fn started(text: &str, stop: &str) -> usize {
    let mut prefixes = stop.char_indices().map(|(end, _)| end).rev();
    prefixes.find(|end| text.ends_with(&stop[..*end])).unwrap_or(0)
}

/// A text that grows token by token, until something ends it.
pub struct Continuation<'a> {
    /// Until the text is complete.
    stream: Option<TextStream<'a>>,
    stops: StopTexts,
    stop_tokens: &'a [u32],
    most_tokens: usize,
    ids: Vec<u32>,
    log_probabilities: Vec<f32>,
    text: String,
    finish: Option<Finish>,
}

impl<'a> Continuation<'a> {
    /// A text of up to `most_tokens` tokens that ends earlier at one of `stop_tokens` or of the texts `stops`.
    pub fn new(tokenizer: &'a Tokenizer, most_tokens: usize, stop_tokens: &'a [u32], stops: &[String]) -> Self {
        Continuation {
            stream: Some(tokenizer.stream()),
            stops: StopTexts::new(stops),
            stop_tokens,
            most_tokens,
            ids: vec![],
            log_probabilities: vec![],
            text: String::new(),
            finish: None,
        }
    }

    /// This text as the continuation of a prompt of these ids, which decides about a space at its start.
    pub fn after(mut self, tokenizer: &'a Tokenizer, prompt: &[u32]) -> Result<Self> {
        self.stream = Some(tokenizer.stream_after(prompt)?);
        Ok(self)
    }

    /// Takes the next token; [`Continuation::finish`] then tells whether the text is complete. Tokens after that are
    /// passed over.
    pub fn push(&mut self, token: Token) -> Result<()> {
        let (None, Some(stream)) = (self.finish, &mut self.stream) else { return Ok(()) };
        self.ids.push(token.id);
        self.log_probabilities.push(token.log_probability);
        if self.stop_tokens.contains(&token.id) {
            return self.close(Finish::End);
        }
        let piece = stream.push(token.id)?;
        if self.append(&piece) {
            self.finish = Some(Finish::Stop);
        } else if self.ids.len() >= self.most_tokens {
            return self.close(Finish::Length);
        }
        Ok(())
    }

    /// Ends the text where it is: what was held back is a part of it. The reason is the one that came first.
    pub fn close(&mut self, finish: Finish) -> Result<()> {
        if self.finish.is_some() {
            return Ok(());
        }
        // The end of an incomplete character may complete a stop text.
        let rest = self.stream.take().map_or(Ok(String::new()), TextStream::finish)?;
        let stopped = self.append(&rest);
        if !stopped {
            let held = self.stops.finish();
            self.text.push_str(&held);
        }
        self.finish = Some(if stopped { Finish::Stop } else { finish });
        Ok(())
    }

    /// Why the text is complete, once it is.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// The text so far, without its stop text. It only grows: what has been read from it once stays.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tokens so far, with the one that ended the text.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The model's log-probability of each token, in nats.
    pub fn log_probabilities(&self) -> &[f32] {
        &self.log_probabilities
    }

    /// Appends what can be shown; whether a stop text came.
    fn append(&mut self, piece: &str) -> bool {
        let (shown, stopped) = self.stops.push(piece);
        self.text.push_str(&shown);
        stopped
    }
}
