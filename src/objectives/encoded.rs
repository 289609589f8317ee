//! Rows of an encoder whose heads look at tokens: inputs of programs, and scores of rows in batches of a few lengths.

use crate::data::buckets::{Buckets, Epochs, Group, group};
use crate::error::Result;
use crate::executor::Executor;
use crate::executor::programs::Programs;
use crate::fail;
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::graph::{Dtype, Graph, Shape, Step, Tensor};
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::objectives::labelled::BUCKETS;
use crate::objectives::labelled::folder::HeadTensor;
use crate::objectives::labelled::head::SALT;
use crate::ops::cast::cast;
use crate::ops::dropout::Dropout;
use crate::train::objective::{Batch, EvaluationPrograms, ShapeKey};

/// The tokens of a row, and the type of each where the model has types.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub ids: &'a [u32],
    pub types: &'a [u32],
}

/// An example that is one row, or several where it is long.
pub trait Example {
    fn count(&self) -> usize;

    fn row(&self, n: usize) -> Row<'_>;
}

/// Examples, and their rows by the example and the place in it.
pub struct Examples<T> {
    pub items: Vec<T>,
    places: Vec<(usize, usize)>,
}

impl<T: Example> Examples<T> {
    pub fn new(items: Vec<T>) -> Examples<T> {
        let places = places(&items);
        Examples { items, places }
    }

    /// The example of a row, and the row's place in it.
    pub fn of(&self, row: usize) -> (&T, usize) {
        let (item, n) = self.places[row];
        (&self.items[item], n)
    }

    pub fn row(&self, row: usize) -> Row<'_> {
        let (item, n) = self.of(row);
        item.row(n)
    }
}

/// The rows of examples, by the example and the place in it.
pub fn places<T: Example>(items: &[T]) -> Vec<(usize, usize)> {
    items.iter().enumerate().flat_map(|(item, example)| (0..example.count()).map(move |n| (item, n))).collect()
}

fn lengths<T: Example>(items: &[T]) -> impl Iterator<Item = usize> {
    items.iter().flat_map(|item| (0..item.count()).map(|n| item.row(n).ids.len()))
}

fn epochs<T: Example>(items: &[T], buckets: &Buckets) -> Epochs {
    Epochs::new(lengths(items).map(|length| buckets.of(length)).collect())
}

/// Micro-batches of so many rows in an epoch over examples, whose rows have at most `longest` tokens.
pub fn epoch_len<T: Example>(items: &[T], longest: usize, batch: usize) -> u64 {
    epochs(items, &Buckets::fit(lengths(items), BUCKETS, longest)).len(batch)
}

/// The examples of a run: those that are learned in the order of its epochs, and those that it is validated on.
pub struct Data<T> {
    pub training: Examples<T>,
    pub validation: Examples<T>,
    pub buckets: Buckets,
    epochs: Epochs,
}

impl<T: Example> Data<T> {
    pub fn new((training, validation): (Vec<T>, Vec<T>), longest: usize) -> Data<T> {
        let buckets = Buckets::fit(lengths(&training).chain(lengths(&validation)), BUCKETS, longest);
        let epochs = epochs(&training, &buckets);
        Data { training: Examples::new(training), validation: Examples::new(validation), buckets, epochs }
    }

    /// Micro-batches of so many rows in an epoch.
    pub fn epoch(&self, batch: usize) -> u64 {
        self.epochs.len(batch)
    }

    pub fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        self.buckets.0.iter().map(|&length| ShapeKey { batch, sequences: 1, length }).collect()
    }

    /// The rows of micro-batch `number`.
    pub fn members(&mut self, number: u64, batch: &Batch) -> Vec<usize> {
        self.epochs.group(number, batch.size, batch.seed).examples
    }

    /// Sets the rows of micro-batch `number`, and its shape; its rows, and their length.
    pub fn fill(&mut self, number: u64, config: &Config, batch: &mut Batch) -> (Vec<usize>, usize) {
        let group = self.epochs.group(number, batch.size, batch.seed);
        let (size, length) = (batch.size, self.buckets.0[group.bucket]);
        let rows: Vec<Row> = group.examples.iter().map(|row| self.training.row(*row)).collect();
        set_inputs(&rows, config, (size, length), batch);
        (batch.shape, batch.tokens) = (group.bucket, size * length);
        (group.examples, length)
    }
}

/// Values of every row, gathered from batches in any order.
pub struct Gathered<V> {
    places: Vec<(usize, usize)>,
    of_rows: Vec<V>,
    examples: usize,
}

impl<V: Clone + Default> Gathered<V> {
    pub fn new<T: Example>(items: &[T]) -> Gathered<V> {
        let places = places(items);
        Gathered { of_rows: vec![V::default(); places.len()], places, examples: items.len() }
    }

    /// The example of a row, and the row's place in it.
    pub fn place(&self, row: usize) -> (usize, usize) {
        self.places[row]
    }

    pub fn set(&mut self, row: usize, values: V) {
        self.of_rows[row] = values;
    }

    /// Those of each example's rows, in order.
    pub fn by_example(self) -> Vec<Vec<V>> {
        let mut all = vec![vec![]; self.examples];
        self.places.iter().zip(self.of_rows).for_each(|((item, _), values)| all[*item].push(values));
        all
    }
}

/// All rows of examples.
pub fn rows<T: Example>(items: &[T]) -> Vec<Row<'_>> {
    places(items).into_iter().map(|(item, n)| items[item].row(n)).collect()
}

/// Whether programs have the input `types`.
fn has_types(config: &Config) -> bool {
    config.encoder.is_some_and(|encoder| encoder.token_types > 1)
}

/// Refuses examples whose tokens have types that the model's table lacks; an error names the first.
pub fn check_types<T: Example>(items: &[T], config: &Config) -> Result<()> {
    let table = config.encoder.map_or(1, |encoder| encoder.token_types);
    let beyond =
        |item: &T| (0..item.count()).flat_map(|n| item.row(n).types).copied().find(|kind| *kind as usize >= table);
    let found = items.iter().zip(1..).find_map(|(item, row)| Some((row, beyond(item)?)));
    match found.filter(|_| has_types(config)) {
        None => Ok(()),
        Some((row, kind)) => fail!(
            Input,
            "row {row} has tokens of type {kind}, and the model's table of types has {table} rows, from 0 on: take the model's own tokenizer"
        ),
    }
}

/// Hidden states (B, T, C) of rows of one length, in f32, with dropout in training. Reads the inputs `ids`, `lengths` and, where the model
/// has several, `types`.
pub fn states(g: &mut Graph, model: &Model, (batch, length): (usize, usize), dropout: f32) -> Tensor {
    let dims = [batch, length];
    let ids = g.input("ids", Shape::u32(&dims));
    let types = has_types(model.config).then(|| g.input("types", Shape::u32(&dims)));
    let lengths = g.input("lengths", Shape::u32(&[batch]));
    let x = model.encoded(g, ids, types, Some(lengths));
    g.scope("head");
    let x = cast(g, x, Dtype::F32);
    if model.training && dropout > 0.0 { g.apply(Dropout { p: dropout, salt: SALT }, &[x]) } else { x }
}

/// Sets those inputs to a batch of `size` rows, of which some are there.
pub(super) fn set_inputs(rows: &[Row], config: &Config, (size, length): (usize, usize), batch: &mut Batch) {
    let (mut ids, mut types, mut lengths) = (vec![0; size * length], vec![0; size * length], vec![1; size]);
    for (n, row) in rows.iter().enumerate() {
        let count = row.ids.len();
        ids[n * length..][..count].copy_from_slice(row.ids);
        types[n * length..][..row.types.len()].copy_from_slice(row.types);
        lengths[n] = count as u32;
    }
    batch.set("ids", &ids);
    if has_types(config) {
        batch.set("types", &types);
    }
    batch.set("lengths", &lengths);
}

/// Where the values of a row of a batch are: the batch's, the row's place in it, and the length of its rows.
pub struct Found<'a> {
    pub values: &'a [f32],
    pub place: usize,
    pub length: usize,
}

/// Builds scores of rows of one shape.
pub type Build<'a> = dyn Fn(&mut Graph, &Model, (usize, usize)) -> Tensor + 'a;

/// The evaluation programs' output `scores` of all rows, padded to a run's buckets, row by row in any order.
pub fn evaluate(
    programs: &mut EvaluationPrograms,
    (config, buckets): (&Config, &Buckets),
    rows: &[Row],
    take: &mut dyn FnMut(usize, Found),
) -> Result<()> {
    let size = programs.settings.batch;
    let mut batch = Batch::new(size, 0);
    for group in groups(rows, buckets, size) {
        let length = buckets.0[group.bucket];
        batch.clear();
        set_inputs(&members(rows, &group.examples), config, (size, length), &mut batch);
        batch.shape = group.bucket;
        let program = programs.run(&batch)?;
        let values = programs.executor.read(program, "scores")?;
        for (place, row) in group.examples.iter().enumerate() {
            take(*row, Found { values: &values, place, length });
        }
    }
    Ok(())
}

/// An encoder with a head on tokens, read but not on a device yet.
pub struct Headed<'a> {
    pub config: &'a Config,
    pub weights: &'a Weights,
    pub head: &'a [HeadTensor],
    /// Tokens of a row, at most.
    pub longest: usize,
}

impl Headed<'_> {
    /// The output `scores` of all rows, row by row in any order. `build` adds it to a graph of rows of one length.
    pub fn scores(
        &self,
        executor: &mut dyn Executor,
        (rows, batch): (&[Row], usize),
        build: &Build,
        take: &mut dyn FnMut(usize, Found),
    ) -> Result<()> {
        let (size, network) = (batch.min(rows.len()).max(1), Network::new(self.config.clone()));
        let buckets = Buckets::fit(rows.iter().map(|row| row.ids.len()), BUCKETS, self.longest);
        let graph = |length: usize| {
            let mut g = Graph::new();
            let scores = build(&mut g, &network.inference(), (size, length));
            g.output("scores", scores);
            g
        };
        let mut programs: Programs<usize> = Programs::default();
        let mut inputs = Batch::new(size, 0);
        for group in groups(rows, &buckets, size) {
            let (length, is_first) = (buckets.0[group.bucket], programs.is_empty());
            let program = programs.get(executor, length, || graph(length))?;
            if is_first {
                upload(executor, &network, self.weights)?;
                self.head.iter().try_for_each(|(name, _, values)| executor.write_state(name, values))?;
            }
            inputs.clear();
            set_inputs(&members(rows, &group.examples), self.config, (size, length), &mut inputs);
            inputs.write(executor, program)?;
            executor.run(program, 0, &Step::default())?;
            let values = executor.read(program, "scores")?;
            for (place, row) in group.examples.iter().enumerate() {
                take(*row, Found { values: &values, place, length });
            }
        }
        programs.unload(executor);
        Ok(())
    }
}

fn members<'a>(rows: &[Row<'a>], of: &[usize]) -> Vec<Row<'a>> {
    of.iter().map(|row| rows[*row]).collect()
}

/// Rows in batches of one bucket.
pub(super) fn groups(rows: &[Row], buckets: &Buckets, size: usize) -> Vec<Group> {
    let bucket_of: Vec<usize> = rows.iter().map(|row| buckets.of(row.ids.len())).collect();
    group(&bucket_of, &(0..rows.len()).collect::<Vec<_>>(), size)
}
