//! A model beside the one that is trained, which is not trained itself: the reference that a policy is compared with. It lies in the
//! store of a run under a prefix of its own, and gives the log-probabilities of rows of tokens.

use super::rows::{Inputs, NAMES, Rows, log_probs};
use crate::data::buckets::{Buckets, group};
use crate::data::dialogues::Encoded;
use crate::error::Result;
use crate::executor::programs::Programs;
use crate::executor::{Executor, Program};
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::graph::{Graph, Step};
use crate::models::config::{Config, Dropout};
use crate::models::lora::Lora;
use crate::models::network::Network;
use crate::train::objective::Batch;

/// Prefix of a reference's states, while it is in the store.
pub const REFERENCE: &str = "reference.";

/// The sum of each row's log-probabilities, and those of its targets: outputs of a program.
const SUMS: &str = "log_probs";
const OF_TOKENS: &str = "of_tokens";

/// A model that is not trained. Its weights go to the device with the first log-probabilities, in f32 and without dropout, and stay
/// there until it is freed; or they are there already, as those of a policy whose adapters are left out.
pub struct Reference {
    network: Network,
    /// None where they are the policy's.
    weights: Option<Weights>,
    /// Rows that it sees at a time.
    size: usize,
    /// A program for each length of rows.
    programs: Programs<usize>,
    inputs: Inputs,
    batch: Batch,
}

impl Reference {
    /// A model whose states' names start with `prefix`, and which sees `size` rows at a time.
    pub fn new((config, weights): (Config, Weights), prefix: &str, size: usize) -> Reference {
        let config = Config { dropout: Dropout::default(), ..config };
        let network = Network::with_prefix(config, prefix).frozen();
        let (programs, inputs, batch) = (Programs::default(), Inputs::default(), Batch::new(size, 0));
        Reference { network, weights: Some(weights), size, programs, inputs, batch }
    }

    /// The same model. Where `policy` trains nothing but adapters of it, its states are those of the policy's base, and no weights are
    /// uploaded.
    pub fn of_policy(mut self, policy: &Network) -> Reference {
        let is_base = |lora: &Lora| lora.saved.is_empty() && self.network.config().lora.is_none();
        if policy.config().lora.as_ref().is_some_and(is_base) {
            (self.network, self.weights) = (policy.base(), None);
        }
        self
    }

    /// The graphs of rows padded to `lengths`.
    pub fn graphs(&self, lengths: &[usize]) -> Vec<Graph> {
        lengths.iter().map(|length| self.graph(*length)).collect()
    }

    /// The graph of rows of a length.
    fn graph(&self, length: usize) -> Graph {
        let mut g = Graph::new();
        let (sums, of_tokens) = log_probs(&mut g, &self.network.inference(), NAMES, (self.size, length));
        g.output(SUMS, sums);
        g.output(OF_TOKENS, of_tokens);
        g
    }

    /// For each row the sum over its learned targets of `weight` times the log-probability, in nats. A row is padded to the first of
    /// the buckets that holds the length that `lengths` has for it, and that is at least its own.
    pub fn sums(
        &mut self,
        executor: &mut dyn Executor,
        rows: &Rows,
        padded: (&Buckets, &[usize]),
        weight: &dyn Fn(&Encoded) -> f32,
    ) -> Result<Vec<f32>> {
        let mut sums = vec![0.0; rows.len()];
        self.run(executor, rows, padded, weight, SUMS, &mut |row, values| sums[row] = values[0])?;
        Ok(sums)
    }

    /// For each row the log-probability, in nats, of the target of each token that it feeds, 0 where that is not learned. Rows are padded
    /// as for [`Reference::sums`].
    pub fn of_tokens(
        &mut self,
        executor: &mut dyn Executor,
        rows: &Rows,
        padded: (&Buckets, &[usize]),
    ) -> Result<Vec<Vec<f32>>> {
        let mut of_tokens = vec![vec![]; rows.len()];
        let mut take = |row: usize, values: &[f32]| of_tokens[row] = values[..rows.fed(row)].to_vec();
        self.run(executor, rows, padded, &|_| 1.0, OF_TOKENS, &mut take)?;
        Ok(of_tokens)
    }

    /// Forgets what is on a device that is no longer there: the next log-probabilities bring it again.
    pub fn forget(&mut self) {
        self.programs = Programs::default();
    }

    /// Frees its programs, and its states where they are its own.
    pub fn free(mut self, executor: &mut dyn Executor) {
        self.programs.unload(executor);
        if self.weights.is_some() {
            executor.free_states(self.network.prefix());
        }
    }

    /// Runs all rows, and hands each row's part of an output to `take`.
    fn run(
        &mut self,
        executor: &mut dyn Executor,
        rows: &Rows,
        (buckets, lengths): (&Buckets, &[usize]),
        weight: &dyn Fn(&Encoded) -> f32,
        output: &str,
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        assert!(rows.packed().is_none(), "each row holds one example");
        let bucket_of: Vec<usize> = lengths.iter().map(|length| buckets.of(*length)).collect();
        let order: Vec<usize> = (0..rows.len()).collect();
        for group in group(&bucket_of, &order, self.size) {
            let length = buckets.0[group.bucket];
            let program = self.program(executor, length)?;
            self.batch.clear();
            self.inputs.set(rows, &group.examples, (self.size, length), weight, &mut self.batch);
            self.batch.write(executor, program)?;
            executor.run(program, 0, &Step::default())?;
            let read = executor.read(program, output)?;
            let each = read.len() / self.size;
            group.examples.iter().zip(read.chunks(each)).for_each(|(row, values)| take(*row, values));
        }
        Ok(())
    }

    /// The program of rows of a length; the first brings the weights.
    fn program(&mut self, executor: &mut dyn Executor, length: usize) -> Result<Program> {
        let is_first = self.programs.is_empty();
        let mut programs = std::mem::take(&mut self.programs);
        let program = programs.get(executor, length, || self.graph(length));
        self.programs = programs;
        let program = program?;
        if let (true, Some(weights)) = (is_first, &self.weights) {
            upload(executor, &self.network, weights)?;
        }
        Ok(program)
    }
}
