//! Rewards by a reward model: a folder of `wgpt reward`, or a classifier of one label that `transformers` saved.

use super::{Candidate, Rewards};
use crate::data::buckets::Buckets;
use crate::data::labelled::target::Target;
use crate::error::Result;
use crate::executor::Executor;
use crate::executor::programs::Programs;
use crate::fail;
use crate::formats::upload::upload;
use crate::graph::Graph;
use crate::models::config::{Config, Dropout};
use crate::models::network::Network;
use crate::objectives::labelled::batch::Item;
use crate::objectives::labelled::folder::Finetuned;
use crate::objectives::labelled::head::Head;
use crate::objectives::labelled::scorer;

/// Prefix of a reward model's states.
pub const REWARD: &str = "reward.";
/// Texts that it sees at a time.
const BATCH: usize = 8;
/// Lengths of its programs.
const LENGTHS: usize = 4;

/// Rewards by a model in the store beside the policy.
pub struct ByModel {
    model: Finetuned,
    network: Network,
    head: Head,
    programs: Programs<usize>,
    buckets: Buckets,
}

impl ByModel {
    /// Fails where the model does not give one number.
    pub fn new(model: Finetuned) -> Result<ByModel> {
        if model.task.target != Target::Grade {
            fail!(Input, "--reward-model has labels and gives no reward: train one with wgpt reward");
        }
        let network =
            Network::with_prefix(Config { dropout: Dropout::default(), ..model.config.clone() }, REWARD).frozen();
        let head = model.task.head(&model.config, BATCH);
        let longest = model.task.longest;
        let buckets = Buckets((1..=LENGTHS).map(|part| (longest * part).div_ceil(LENGTHS)).collect());
        Ok(ByModel { model, network, head, programs: Programs::default(), buckets })
    }
}

impl Rewards for ByModel {
    fn of(&mut self, executor: &mut dyn Executor, answers: &[Candidate]) -> Result<Vec<Option<f32>>> {
        let longest = self.model.task.longest;
        let item = |answer: &Candidate| {
            let tokenizer = &self.model.tokenizer;
            let whole = &answer.whole;
            let mut ids = if answer.rendered { tokenizer.encode(whole)? } else { tokenizer.encode_prompt(whole)? };
            // A text that is too long loses its first tokens, so that its answer stays.
            ids.drain(..ids.len().saturating_sub(longest));
            Ok(Item { ids: vec![ids], answer: None, weight: 1.0 })
        };
        let items = answers.iter().map(item).collect::<Result<Vec<_>>>()?;
        if self.programs.is_empty() {
            let graph = scorer::graph(&self.network, &self.head, self.buckets.0[0]);
            self.programs.get(executor, self.buckets.0[0], || graph)?;
            upload(executor, &self.network, &self.model.weights)?;
            for (name, _, values) in &self.model.head {
                executor.write_state(&format!("{REWARD}{name}"), values)?;
            }
        }
        let scores = scorer::scores(executor, &mut self.programs, (&self.network, &self.head, &self.buckets), &items)?;
        Ok(scores.into_iter().map(|scores| scores.first().copied()).collect())
    }

    fn graphs(&self) -> Vec<Graph> {
        self.buckets.0.iter().map(|length| scorer::graph(&self.network, &self.head, *length)).collect()
    }

    fn forget(&mut self) {
        self.programs = Programs::default();
    }
}
