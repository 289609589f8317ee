//! The answers of a text-to-text model.

use super::Item;
use super::folder::TextModel;
use crate::error::Result;
use crate::executor::Executor;
use crate::generate::beam::{BeamOptions, EarlyStopping};
use crate::generate::{Generator, MOST_ROWS, Request, SamplingParams, Token};
use crate::models::network::Network;

impl TextModel {
    /// The text that is written for each input, at most `tokens` tokens: the most likely one token by token, or with more than one beam
    /// the best that beam search finds.
    pub fn texts(
        &self,
        executor: &mut dyn Executor,
        items: &[Item],
        (batch, beams): (usize, usize),
        tokens: usize,
    ) -> Result<Vec<String>> {
        let ids = match beams {
            0 | 1 => self.greedy(executor, items, batch, tokens)?,
            _ => self.searched(executor, items, beams, tokens)?,
        };
        ids.iter().map(|ids| self.text(ids)).collect()
    }

    /// The text of drawn ids, without special tokens.
    fn text(&self, ids: &[u32]) -> Result<String> {
        let is_text = |id: &&u32| !self.tokenizer.token(**id).is_some_and(|token| self.tokenizer.is_special(&token));
        let ids: Vec<u32> = ids.iter().filter(is_text).copied().collect();
        Ok(self.tokenizer.decode(&ids)?.trim().to_string())
    }

    fn greedy(
        &self,
        executor: &mut dyn Executor,
        items: &[Item],
        batch: usize,
        tokens: usize,
    ) -> Result<Vec<Vec<u32>>> {
        let rows = batch.min(items.len()).clamp(1, MOST_ROWS);
        let network = Network::new(self.config.clone());
        let size = self.tokenizer.vocabulary_size();
        let mut generator = Generator::new(executor, &network, &self.weights, size, rows)?;
        let mut texts = vec![vec![]; items.len()];
        let request = |item: &Item| Request {
            prompt: item.source.clone(),
            tokens,
            seed: 0,
            params: SamplingParams::GREEDY,
            best: 0,
        };
        let mut take = |n: usize, token: Token| {
            texts[n].push(token.id);
            Ok(!self.config.eos_token_id.contains(&token.id))
        };
        generator.generate(executor, &mut items.iter().map(request), &mut take)?;
        generator.free(executor);
        Ok(texts)
    }

    fn searched(
        &self,
        executor: &mut dyn Executor,
        items: &[Item],
        beams: usize,
        tokens: usize,
    ) -> Result<Vec<Vec<u32>>> {
        let network = Network::new(self.config.clone());
        let size = self.tokenizer.vocabulary_size();
        let mut generator = Generator::new(executor, &network, &self.weights, size, beams)?;
        let options = BeamOptions {
            beams,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::No,
            repetition_penalty: 1.0,
            stop_tokens: &self.config.eos_token_id,
            stops: None,
            num_return: 1,
        };
        let mut best = |item: &Item| {
            let found = generator.beams(executor, &item.source, tokens, &options)?;
            Ok(found.into_iter().next().map_or(vec![], |text| text.ids))
        };
        let texts = items.iter().map(&mut best).collect();
        generator.free(executor);
        texts
    }
}
