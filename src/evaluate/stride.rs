//! Perplexity of a long text in overlapping windows, as Hugging Face describes it for models of a fixed length:
//! windows of the context begin `stride` tokens apart, and each scores the tokens that no window before has reached.
//! Every token but the first is scored once, with at least context − stride tokens before it once there are as many.

use super::scorer::{Request, Scorer};
use crate::data::tokens::Tokens;
use crate::error::Result;

/// Windows that are in memory at once, in batches.
const BATCHES: usize = 16;

/// The sum of −log-probability, in nats, of all tokens but the first. The stride is below the context.
pub fn strided(scorer: &mut Scorer, tokens: &Tokens, stride: usize, done: &mut dyn FnMut(usize)) -> Result<f64> {
    let (context, stride) = (scorer.context() as u64, stride as u64);
    assert!((1..context).contains(&stride), "a stride of {stride} in a context of {context}");
    let (mut sum, mut begin, mut reached) = (0.0, 0, 1);
    while reached < tokens.len() {
        let mut requests = vec![];
        while requests.len() < BATCHES * scorer.batch() && reached < tokens.len() {
            let end = tokens.len().min(begin + context);
            let mut ids = vec![0; (end - begin) as usize];
            tokens.read(begin, &mut ids)?;
            requests.push(Request { ids, scored: (end - reached) as usize });
            (begin, reached) = (begin + stride, end);
        }
        let scores = scorer.score(&requests, done)?;
        sum -= scores.iter().map(|score| score.log_probability).sum::<f64>();
    }
    Ok(sum)
}

/// Windows that this takes.
pub fn windows(tokens: u64, context: usize, stride: usize) -> u64 {
    1 + tokens.saturating_sub(context as u64).div_ceil(stride as u64)
}
