//! Every option of a run with every objective: precision, recomputing, rows of logits, a lost device, freezing, learning rates by
//! layer, early stopping, resuming.

use crate::grpo::Even;
use crate::llama::{largest, worst};
use crate::training::{Choices as Tiny, assert_same, choices, no_device, setup};
use serde_json::json;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tempfile::{TempDir, tempdir};
use wgpt::checks::check_close;
use wgpt::data::answers::windows::{Window, Windows};
use wgpt::data::answers::{Gold, Question};
use wgpt::data::buckets::epoch_len;
use wgpt::data::corpus::Corpus;
use wgpt::data::dialogues::{Encoded, Encoder, Form, Part};
use wgpt::data::labelled::Task;
use wgpt::data::labelled::sequences::Special;
use wgpt::data::labelled::target::{Answer, Target};
use wgpt::data::masking::Masking;
use wgpt::data::prompts::Prompt;
use wgpt::data::rankings::Pair;
use wgpt::data::span_corruption::Sentinels;
use wgpt::data::tagged::sequences::{First, Sequence};
use wgpt::data::tagged::tags::Labels;
use wgpt::data::tokenizer::{Piece, Tokenizer};
use wgpt::data::tokens::Tokens;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::formats::folder::{WeightType, Weights, read_config, write_folder};
use wgpt::formats::source::ModelSource;
use wgpt::generate::SamplingParams;
use wgpt::gpu::Gpu;
use wgpt::graph::{Depth, Graph, Plan, Shape, Step};
use wgpt::models::config::{Config, FeedForward, Heads, Recurrence};
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;
use wgpt::models::presets::PRESETS;
use wgpt::objectives::answer;
use wgpt::objectives::answer::folder::AnswerFile;
use wgpt::objectives::dpo::{self, Dpo};
use wgpt::objectives::encoded;
use wgpt::objectives::grpo::{self, GroupOptions, GroupPolicy, Method, Normalisation, Scaling};
use wgpt::objectives::kto::{self, Kto};
use wgpt::objectives::labelled::batch::Item;
use wgpt::objectives::labelled::folder::TaskFile;
use wgpt::objectives::labelled::{self, Labelled, Options};
use wgpt::objectives::masked::Masked;
use wgpt::objectives::ppo::{self, Critic, Ppo, PpoOptions};
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::objectives::rejection::{self, Rejection};
use wgpt::objectives::reward::{self, Ranked, Rankings, Reward};
use wgpt::objectives::rollouts::{self, Drawing, RollOuts, Schedule};
use wgpt::objectives::segments::Segments;
use wgpt::objectives::seq2seq::folder::TextFile;
use wgpt::objectives::seq2seq::{self, Seq2Seq};
use wgpt::objectives::sft::{self, Rows, Sft};
use wgpt::objectives::span::Span;
use wgpt::objectives::tag::folder::TagFile;
use wgpt::objectives::tag::{self, Tag};
use wgpt::ops::kto_loss::KtoLoss;
use wgpt::ops::policy_loss::PolicyLoss;
use wgpt::ops::preference_loss::{self, PreferenceLoss};
use wgpt::ops::value_loss::ValueLoss;
use wgpt::reference::Cpu;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::checkpoint::{Mode, RunFolder};
use wgpt::train::objective::Objective;
use wgpt::train::rates::Freeze;
use wgpt::train::record::Record;
use wgpt::train::run::{End, Run, RunState, restore, run_state};
use wgpt::train::schedule::ScheduleKind;
use wgpt::train::settings::{Cadence, Choices, Precision, Settings};
use wgpt::train::sinks::Sink;
use wgpt::train::trainer::Trainer;

/// An objective with its settings.
type Made = (Box<dyn Objective>, Settings);
/// Makes an objective for choices of its run.
type Kind = (&'static str, fn(Choices) -> Made);

/// Every objective, and experts under two of them.
const KINDS: [Kind; 22] = [
    ("pretraining", |choices| pretraining("demo", choices)),
    ("pretraining with experts", |choices| pretraining("mixtral", choices)),
    ("in segments", in_segments),
    ("classify", |choices| task(Task::Classify, config("demo"), choices)),
    ("classify with experts", |choices| task(Task::Classify, config("mixtral"), choices)),
    ("similar", |choices| task(Task::Similar, config("demo"), choices)),
    ("choose", |choices| task(Task::Choose, config("llama-mini"), choices)),
    ("masked", masked),
    ("span", span),
    ("text", text),
    ("similar on an encoder", on_encoder),
    ("tag", tag),
    ("answer", answer),
    ("reward", reward),
    ("dpo", dpo),
    ("kto", kto),
    ("grpo", grpo),
    ("ppo", ppo),
    ("rejection", rejection),
    ("sft", sft),
    ("sft with adapters", sft_with_adapters),
    ("sft in packed rows", |choices| packed_sft("llama-mini", choices)),
];

/// Small, quick, and without validations on the way.
fn base() -> Choices {
    Choices {
        batch: Some(2),
        accumulate: Some(2),
        steps: Some(4),
        lr: Some(1e-2),
        warmup: Some(0),
        schedule: Some(ScheduleKind::Constant),
        weight_decay: Some(0.0),
        dropout: Some(0.0),
        eval_every: Some(Cadence::Steps(0)),
        eval_batches: Some(1),
        save_every: Some(Cadence::Steps(0)),
        ..Choices::default()
    }
}

fn config(preset: &str) -> Config {
    let preset = PRESETS.iter().find(|known| known.name == preset).unwrap();
    let config = Config { vocab_size: 259, context: 24, initializer_range: 0.1, ..(preset.config)().resized(2, 2, 16) };
    // As its folder says it, so that initial values are those of a model that is read from there.
    Config::from_json(&config.to_json(), Path::new("config.json")).unwrap()
}

fn pretraining(preset: &str, run: Choices) -> Made {
    let tiny = setup(Tiny { preset: Some(preset.into()), width: Some(16), run: run.clone(), ..choices() });
    (Box::new(tiny.objective()), tiny.settings)
}

/// Texts of two lengths, and answers that follow from their letters.
fn items(task: Task, count: usize) -> Vec<Item> {
    let sequences = match task {
        Task::Classify | Task::Entail => 1,
        Task::Similar => 2,
        Task::Choose => 3,
    };
    let ids = |i: usize, k: usize| -> Vec<u32> {
        let letters = (0..3 + 9 * (i % 2)).map(|n| 97 + ((i + k + n) % 5) as u32);
        std::iter::once(256).chain(letters).chain([258]).collect()
    };
    let item = |i: usize| Item {
        ids: (0..sequences).map(|k| ids(i, k)).collect(),
        answer: Some(Answer::Class(i % sequences.max(2))),
        weight: 1.0,
    };
    (0..count).map(item).collect()
}

fn task(task: Task, config: Config, choices: Choices) -> Made {
    let settings = choices.resolve(&labelled::RECIPE, |batch| epoch_len(7, batch)).unwrap();
    let target = match task {
        Task::Choose => Target::Choices(3),
        _ => Target::Labels(["a", "b"].map(String::from).to_vec()),
    };
    let special = Some(Special::after(256));
    let file = TaskFile { task, target, special, longest: 24, columns: Default::default(), pad: None, separator: None };
    let options = Options { buckets: 2, ..Options::default() };
    let objective = Labelled::new(config, file, &options, &settings, (items(task, 7), items(task, 3)));
    (Box::new(objective), settings)
}

/// Streams of letters, whose memory is a part of the run.
fn in_segments(run: Choices) -> Made {
    let settings = run.resolve(&PresetRecipe::of(Some("demo")).run, |_| 1).unwrap();
    let tokens = |count: u32| Arc::new(Tokens::from_ids((0..count).map(|i| 97 + (i * i / 3 + i) % 9).collect()));
    let (training, validation) = (tokens(300), tokens(150));
    let corpus = Corpus { training, validation, vocabulary_size: 259, notes: vec![], warnings: vec![] };
    let config = config("transfo-xl-mini");
    let recurrence = config.recurrence.map(|recurrence| Recurrence { memory: 9, ..recurrence });
    let config = Config { recurrence, dropout: settings.dropout(), ..config };
    (Box::new(Segments::new(config, 12, &settings, corpus, None).unwrap()), settings)
}

/// Pairs of texts of letters, with masks, and whether the second follows.
fn masked(run: Choices) -> Made {
    let settings = run.resolve(&PresetRecipe::of(Some("demo")).run, |_| 1).unwrap();
    let config = config("bert-mini").with_heads(Heads::Pretraining);
    let tokens = |count: u32| Arc::new(Tokens::from_ids((0..count).map(|i| 5 + (i * i / 3 + i) % 9).collect()));
    let (training, validation) = (tokens(600), tokens(200));
    let corpus = Corpus { training, validation, vocabulary_size: 14, notes: vec![], warnings: vec![] };
    let masking = Masking::new(&letters(), "the letters", 0.2, true).unwrap();
    (Box::new(Masked::new(config, 24, corpus, masking).unwrap()), settings)
}

/// Spans of a text that counts.
fn span(run: Choices) -> Made {
    let settings = run.resolve(&PresetRecipe::of(Some("demo")).run, |_| 1).unwrap();
    let tokens = |count: u32| Arc::new(Tokens::from_ids((0..count).map(|i| 5 + (i * i / 3 + i) % 9).collect()));
    let (training, validation) = (tokens(600), tokens(200));
    let corpus = Corpus { training, validation, vocabulary_size: 259, notes: vec![], warnings: vec![] };
    let sentinels = Sentinels { end: 1, ids: (0..4).map(|n| 258 - n).collect() };
    (Box::new(Span::new(config("t5-mini"), 24, corpus, sentinels).unwrap()), settings)
}

/// Inputs of two lengths, and targets that say their letters.
fn text(choices: Choices) -> Made {
    let item = |i: usize| {
        let letters: Vec<u32> = (0..3 + 9 * (i % 2)).map(|n| 97 + ((i + n) % 5) as u32).collect();
        let target = [&letters[..1 + i % 3], &[1]].concat();
        seq2seq::Item { line: i, source: [&letters[..], &[1]].concat(), target, text: None, cut: false }
    };
    let items = |count: usize| (0..count).map(item).collect::<Vec<_>>();
    let settings = choices.resolve(&seq2seq::RECIPE, |batch| encoded::epoch_len(&items(7), 24, batch)).unwrap();
    let file = TextFile::new(String::new(), 24, Default::default());
    (Box::new(Seq2Seq::new(config("t5-mini"), file, &settings, (items(7), items(3))).unwrap()), settings)
}

/// BERT's special tokens, and letters that begin a word or continue one.
pub fn letters() -> Tokenizer {
    let names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "##a", "##b", "##c", "##d", "##e"];
    let added = (0..5).map(|id| {
        json!({"id": id, "content": names[id], "special": true, "normalized": false,
        "single_word": false, "lstrip": false, "rstrip": false})
    });
    let vocabulary: serde_json::Map<_, _> =
        names.iter().zip(0..).map(|(name, id)| (name.to_string(), json!(id))).collect();
    let json = json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": added.collect::<Vec<_>>(), "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary}});
    Tokenizer::from_json(serde_json::to_vec(&json).unwrap()).unwrap()
}

/// Pairs of texts, each one sequence with a separator behind each text.
fn on_encoder(choices: Choices) -> Made {
    let settings = choices.resolve(&labelled::RECIPE, |batch| epoch_len(7, batch)).unwrap();
    let (task, target) = (Task::Similar, Target::Labels(["a", "b"].map(String::from).to_vec()));
    let special = Some(Special { start: 256, delimiter: 258, extract: 258 });
    let (columns, separator) = (Default::default(), Some(258));
    let file = TaskFile { task, target, special, longest: 24, columns, pad: Some(0), separator };
    let pair = |i: usize| {
        let ids =
            [&[256][..], &vec![97 + (i % 2) as u32; 2 + i % 3], &[258], &vec![99; 1 + 6 * (i % 2)], &[258]].concat();
        Item { ids: vec![ids], answer: Some(Answer::Class(i % 2)), weight: 1.0 }
    };
    let items = |count: usize| (0..count).map(pair).collect::<Vec<_>>();
    let options = Options { buckets: 2, ..Options::default() };
    let config = config("bert-mini").with_heads(Heads::Pooler);
    (Box::new(Labelled::new(config, file, &options, &settings, (items(7), items(3)))), settings)
}

/// Sentences of words of one piece or two, with tags of their first pieces; one sentence is two sequences.
fn tag(choices: Choices) -> Made {
    let sequence = |i: usize| {
        let words = (0..3 + 2 * (i % 3)).map(|n| 97 + ((i + n) % 4) as u32);
        let ids: Vec<u32> = [2].into_iter().chain(words).chain([3]).collect();
        let firsts = (1..ids.len() - 1).step_by(2).zip(0..).map(|(position, word)| First { position, word }).collect();
        Sequence { types: vec![0; ids.len()], ids, firsts }
    };
    let item = |i: usize| {
        let mut sequences: Vec<Sequence> = (i..=i + usize::from(i == 2)).map(sequence).collect();
        let mut words = 0;
        for first in sequences.iter_mut().flat_map(|sequence| &mut sequence.firsts) {
            (first.word, words) = (words, words + 1);
        }
        tag::Item { sequences, words, labels: Some((0..words).map(|word| (i + word) % 3).collect()) }
    };
    let items = |count: usize| (0..count).map(item).collect::<Vec<_>>();
    let labels = Labels::named(["O", "B-A", "I-A"].map(String::from).to_vec()).unwrap();
    let settings = choices.resolve(&labelled::RECIPE, |batch| encoded::epoch_len(&items(5), 24, batch)).unwrap();
    let file = TagFile::new(labels, 24, Default::default());
    let config = config("bert-mini").with_heads(Heads::None);
    (Box::new(Tag::new(config, file, &settings, (items(5), items(3)))), settings)
}

/// Questions of which one has no answer, and one two windows.
fn answer(choices: Choices) -> Made {
    let item = |i: usize| {
        let context = "abcdefgh";
        let piece = |at: usize| Piece { id: 97 + at as u32, range: at..at + 1, word: at..at + 1 };
        let window = |pieces: std::ops::Range<usize>| {
            let ids: Vec<u32> =
                [2, 110, 3].into_iter().chain(pieces.clone().map(|at| 97 + at as u32)).chain([3]).collect();
            Window { types: ids.iter().map(|id| u32::from(*id > 110)).collect(), ids, start: 3, pieces }
        };
        let windows = if i == 1 { vec![window(0..5), window(3..8)] } else { vec![window(0..8 - i % 3)] };
        let golds = if i == 3 { vec![] } else { vec![Gold { range: i % 5..i % 5 + 1 + i % 2 }] };
        let question = Question {
            line: i,
            id: i.to_string(),
            question: "n".into(),
            context: context.into(),
            answers: Some(golds),
        };
        answer::Item { question, windows: Windows { pieces: (0..8).map(piece).collect(), windows } }
    };
    let items = |count: usize| (0..count).map(item).collect::<Vec<_>>();
    let settings = choices.resolve(&labelled::RECIPE, |batch| encoded::epoch_len(&items(5), 24, batch)).unwrap();
    let file = AnswerFile::new(24, None, Default::default());
    let config = config("bert-mini").with_heads(Heads::None);
    (Box::new(answer::Answer::new(config, file, &settings, (items(5), items(4)))), settings)
}

/// Texts that are ranked, and the pairs of them, by their places, with margins.
fn ranked(texts: &[&str], pairs: &[(usize, usize, f32)]) -> Ranked {
    let tokenizer = Tokenizer::bytes().unwrap();
    let pair = |&(chosen, rejected, margin): &(usize, usize, f32)| Pair { chosen, rejected, margin };
    Ranked {
        answers: texts.iter().map(|text| tokenizer.encode_prompt(text).unwrap()).collect(),
        pairs: pairs.iter().map(pair).collect(),
    }
}

fn reward(choices: Choices) -> Made {
    let pair = |i: usize| {
        let chosen = format!("ab{}", "c".repeat(1 + 9 * (i % 2)));
        ranked(&[&chosen, "abdd"], &[(0, 1, (i % 3) as f32 / 2.0)])
    };
    let ranking = ranked(&["abcc", "abd", "abccc"], &[(0, 1, 0.0), (2, 1, 0.0)]);
    rewards((0..5).map(pair).chain([ranking]).collect(), choices)
}

fn rewards(all: Vec<Ranked>, choices: Choices) -> Made {
    let all = Rankings::new(all);
    let settings = choices.resolve(&reward::RECIPE, |batch| reward::epoch_len(24, (&all, &all), batch)).unwrap();
    (Box::new(Reward::new(config("demo"), (0.01, 256), &settings, (all.clone(), all))), settings)
}

/// Prompts with completions of different lengths.
fn examples() -> Vec<Encoded> {
    let tokenizer = Tokenizer::bytes().unwrap();
    let encoder = Encoder { tokenizer: &tokenizer, template: None, end: Some(10) };
    let form = |i: usize| Form::Completion { prompt: "ab".repeat(1 + i % 3), completion: "cad".repeat(1 + i % 4) };
    (0..8).map(|i| encoder.encode(&form(i)).unwrap()).collect()
}

fn alone(examples: Vec<Encoded>) -> Rows {
    Rows::new(examples, None)
}

/// Rows that hold several examples.
fn packed_sft(preset: &str, choices: Choices) -> Made {
    let rows = || Rows::new(examples(), Some(24));
    let settings = choices.resolve(&sft::RECIPE, |batch| epoch_len(rows().len(), batch)).unwrap();
    let objective = Sft::new(config(preset), &settings, (rows(), rows()));
    (Box::new(objective), settings)
}

fn sft(choices: Choices) -> Made {
    let settings = choices.resolve(&sft::RECIPE, |batch| epoch_len(8, batch)).unwrap();
    let objective = Sft::new(config("demo"), &settings, (alone(examples()), alone(examples())));
    (Box::new(objective), settings)
}

/// A folder with the initial values of seed 1337 of the preset llama-mini.
fn base_folder() -> &'static Path {
    static BASE: OnceLock<TempDir> = OnceLock::new();
    let folder = BASE.get_or_init(|| {
        let (folder, plain) = (tempdir().unwrap(), config("llama-mini"));
        let network = Network::new(plain.clone());
        let values: Vec<_> = network.parameters().iter().map(|p| (p, initial_values(p, 1337))).collect();
        let tensors: Vec<_> = values.iter().map(|(p, v)| (p.name.clone(), p.dims.clone(), v.as_slice())).collect();
        write_folder(folder.path(), &plain, &tensors, None, WeightType::F32).unwrap();
        folder
    });
    folder.path()
}

/// An answer to a prompt, of different lengths.
fn completion(i: usize, text: &str) -> Encoded {
    let tokenizer = Tokenizer::bytes().unwrap();
    let encoder = Encoder { tokenizer: &tokenizer, template: None, end: Some(10) };
    let form = Form::Completion { prompt: "ab".repeat(1 + i % 3), completion: text.repeat(1 + i % 2 * 4) };
    encoder.encode(&form).unwrap()
}

/// The model of [`base_folder`].
fn reference() -> (Config, Weights) {
    let source = ModelSource::folder(base_folder());
    let start = source.config().unwrap();
    let weights = source.weights(&start).unwrap();
    (start, weights)
}

/// Completions of which some are desirable; the reference is the model of [`base_folder`].
fn kto(choices: Choices) -> Made {
    let settings = choices.resolve(&kto::RECIPE, |batch| epoch_len(5, batch)).unwrap();
    let judged =
        || (0..5).map(|i| if i % 2 == 0 { (completion(i, "c"), true) } else { (completion(i, "da"), false) }).collect();
    let loss = KtoLoss { beta: 0.5, desirable: 1.0, undesirable: 1.2 };
    let objective = Kto::new(config("llama-mini"), &settings, loss, (judged(), judged()), 24, reference()).unwrap();
    (Box::new(objective), settings)
}

/// Answers of a random model, one roll-out for four steps; a third of all tokens end one.
fn rollouts(generations: usize, settings: &Settings) -> RollOuts {
    let question = |i: u32| rollouts::Question {
        prompt: Prompt { line: 1, prompt: Part::Text("p".into()), row: serde_json::Map::new() },
        text: "p".into(),
        ids: (0..2 + i % 3).map(|n| 97 + n).collect(),
    };
    let questions = || (0..6).map(question).collect::<Vec<_>>();
    let params = SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY };
    let drawing = Drawing { params, tokens: 6, generations, learned: generations, ends: (0..259).step_by(3).collect() };
    RollOuts::new(
        (questions(), questions()),
        (drawing, Schedule::new(settings, 1, 4)),
        Box::new(Even),
        Tokenizer::bytes().unwrap(),
        reference(),
    )
}

fn grpo(choices: Choices) -> Made {
    let settings = choices.resolve(&grpo::RECIPE, |batch| epoch_len(12, batch)).unwrap();
    let method = Method::Grpo { normalisation: Normalisation::Dapo, scaling: Scaling::Group };
    let loss = PolicyLoss { low: 0.2, high: 0.2, beta: 0.05 };
    let options = GroupOptions { method, loss, beta: 0.05 };
    (Box::new(GroupPolicy::new(config("llama-mini"), &settings, options, rollouts(2, &settings))), settings)
}

/// The best of three answers, drawn at one of two temperatures.
fn rejection(choices: Choices) -> Made {
    let settings = choices.resolve(&rejection::RECIPE, |batch| epoch_len(6, batch)).unwrap();
    let mut rollouts = rollouts(3, &settings);
    rollouts.drawing.learned = 1;
    (Box::new(Rejection::new(config("llama-mini"), &settings, rollouts, vec![0.5, 1.5])), settings)
}

/// The critic starts from the reference, without a head.
fn ppo(choices: Choices) -> Made {
    let settings = choices.resolve(&ppo::RECIPE, |batch| epoch_len(6, batch)).unwrap();
    let loss = PolicyLoss { low: 0.2, high: 0.2, beta: 0.0 };
    let options = PpoOptions {
        loss,
        value: ValueLoss { clip: 0.2 },
        value_weight: 0.5,
        beta: 0.05,
        target_kl: None,
        gamma: 1.0,
        lambda: 0.95,
        missing_end: 0.0,
    };
    let (start, weights) = reference();
    let critic = Critic { config: start, weights, score: None };
    (Box::new(Ppo::new(config("llama-mini"), &settings, options, rollouts(1, &settings), critic)), settings)
}

/// Preferences between answers; the reference is the model of [`base_folder`].
fn dpo(choices: Choices) -> Made {
    let settings = choices.resolve(&dpo::RECIPE, |batch| epoch_len(5, batch)).unwrap();
    let pairs = || dpo::Pairs::new((0..5).map(|i| [completion(i, "c"), completion(i, "da")]).collect());
    let loss = PreferenceLoss { form: preference_loss::Form::Sigmoid, beta: 0.5, smoothing: 0.0 };
    let objective = Dpo::new(config("llama-mini"), &settings, (loss, 0.1), (pairs(), pairs()), reference());
    (Box::new(objective), settings)
}

/// Adapters of the model of [`base_folder`].
fn sft_with_adapters(choices: Choices) -> Made {
    let folder = base_folder();
    let run =
        Choices { lora: Some(2), lora_targets: Some("all-linear".into()), lora_dropout: choices.dropout, ..choices };
    let base = read_config(folder).unwrap();
    // Layers of adapters freeze like others, which only the command refuses.
    let unfrozen = Choices { freeze: None, ..run.clone() };
    let config = unfrozen.adapted(base.clone(), (&base, Some(folder.to_str().unwrap().into()))).unwrap();
    let settings = run.resolve(&sft::RECIPE, |batch| epoch_len(8, batch)).unwrap();
    (Box::new(Sft::new(config, &settings, (alone(examples()), alone(examples())))), settings)
}

#[test]
fn a_step_of_sft_is_the_same_however_its_examples_are_split() {
    // One batch of all examples is an epoch: whatever their order, a step sees all of them.
    let run = |batch: usize| {
        let split = Choices { batch: Some(batch), accumulate: Some(8 / batch), steps: Some(3), ..base() };
        outcome(sft, split)
    };
    let (whole, losses) = run(8);
    for batch in [1, 2, 4] {
        let (parts, of_parts) = run(batch);
        // The same terms, summed in another order.
        close("losses", &of_parts, &losses, 2e-6);
        for ((name, got), (_, want)) in parts.iter().zip(&whole).filter(|((name, _), _)| !name.starts_with("step.")) {
            let [got, want] = [got, want].map(|bits| bits.iter().map(|b| f32::from_bits(*b)).collect::<Vec<_>>());
            check_close(name, &got, &want, 2e-4, 1e-4).unwrap_or_else(|why| panic!("batch {batch}: {why}"));
        }
    }
}

/// A row of several examples has their losses, and one step moves the parameters as the examples alone do.
#[test]
fn examples_in_one_row_do_not_see_each_other() {
    type Make = fn(Choices) -> Made;
    assert!(Rows::new(examples(), Some(24)).len() < 6, "eight examples share rows");
    // All examples are one step, whatever the rows.
    let step = |make: Make, batch: usize| {
        outcome(make, Choices { batch: Some(batch), accumulate: Some(1), steps: Some(2), ..base() })
    };
    let kinds: [(Make, Make); 2] = [
        (sft, |choices| packed_sft("demo", choices)),
        (
            |choices| {
                let settings = choices.resolve(&sft::RECIPE, |batch| epoch_len(8, batch)).unwrap();
                let rows = (alone(examples()), alone(examples()));
                (Box::new(Sft::new(config("llama-mini"), &settings, rows)), settings)
            },
            |choices| packed_sft("llama-mini", choices),
        ),
    ];
    for (alone, packed) in kinds {
        let (want, losses) = step(alone, 8);
        let (got, of_packed) = step(packed, Rows::new(examples(), Some(24)).len());
        // The same terms, summed in another order.
        close("losses", &of_packed, &losses, 2e-6);
        for ((name, got), (_, want)) in got.iter().zip(&want).filter(|((name, _), _)| !name.starts_with("step.")) {
            let [got, want] = [got, want].map(|bits| bits.iter().map(|b| f32::from_bits(*b)).collect::<Vec<_>>());
            check_close(name, &got, &want, 2e-4, 1e-4).unwrap_or_else(|why| panic!("{why}"));
        }
    }
}

#[test]
fn the_loss_of_sft_is_that_of_the_learned_targets_alone() {
    let choices = Choices { batch: Some(8), accumulate: Some(1), steps: Some(1), ..base() };
    let (mut trainer, records) = trained(trainer(Cpu::default(), sft(Choices { lr: Some(1e-12), ..choices })));
    // The model's own logits, example by example.
    let network = trainer.objective().networks()[0].clone();
    let (mut sum, mut count) = (0.0, 0);
    for Encoded { ids, learned, .. } in examples() {
        let mut g = Graph::new();
        let input = g.input("ids", Shape::u32(&[1, ids.len()]));
        let logits = network.inference().logits(&mut g, input);
        g.output("logits", logits);
        let executor = trainer.executor();
        let plan = Plan::new(&g, executor.limits()).unwrap();
        let program = executor.load(&g, plan).unwrap();
        executor.write(program, "ids", bytemuck::cast_slice(&ids)).unwrap();
        executor.run(program, 0, &Step::default()).unwrap();
        let logits = executor.read(program, "logits").unwrap();
        for (row, target) in logits.chunks(259).zip(&ids[1..]).zip(&learned[1..]).filter(|(_, l)| **l).map(|(r, _)| r) {
            let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            sum += total.ln() - f64::from(row[*target as usize]);
            count += 1;
        }
    }
    assert_eq!(count, examples().iter().map(Encoded::targets).sum::<usize>());
    // f32 logits of a small model.
    close("loss", &[records[0].loss], &[(sum / f64::from(count as u32)) as f32], 1e-5);
}

fn trainer(device: impl Executor + 'static, (objective, settings): Made) -> Trainer {
    let blueprint = Blueprint::new(objective.as_ref(), &settings, device.limits()).unwrap();
    let mut trainer = Trainer::new(Box::new(device), blueprint, objective, settings).unwrap();
    trainer.initialise(None).unwrap();
    trainer
}

/// Takes all steps of a run.
fn trained(mut trainer: Trainer) -> (Trainer, Vec<Record>) {
    let mut records = vec![];
    while trainer.steps_done() < trainer.settings().steps {
        records.extend(trainer.step().unwrap());
    }
    records.extend(trainer.finish().unwrap());
    (trainer, records)
}

/// Bits of all that a checkpoint holds.
fn bits(trainer: &mut Trainer) -> Vec<(String, Vec<u32>)> {
    let names = trainer.saved_states().into_iter().chain(trainer.optimizer_states()).collect::<Vec<_>>();
    let read = |(name, _): (String, Vec<usize>)| {
        let values = trainer.executor().read_state(&name).unwrap();
        (name, values.into_iter().map(f32::to_bits).collect())
    };
    names.into_iter().map(read).collect()
}

/// Bits after a run with these choices, and its losses.
fn outcome(make: fn(Choices) -> Made, choices: Choices) -> (Vec<(String, Vec<u32>)>, Vec<f32>) {
    let (mut trainer, records) = trained(trainer(Cpu::default(), make(choices)));
    (bits(&mut trainer), records.iter().map(|r| r.loss).collect())
}

fn close(what: &str, got: &[f32], want: &[f32], relative: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= relative * want.abs(), "{what}: {got} where {want} is right");
    }
}

#[test]
fn blocks_that_are_recomputed_and_rows_of_logits_change_no_objective() {
    for (name, make) in KINDS {
        let (plain, losses) = outcome(make, base());
        assert!(losses[3] < losses[0], "{name} learns: {losses:?}");
        let (again, _) = outcome(make, Choices { recompute: Some(true), ..base() });
        assert_same(&again, &plain);
        // A chunk is 64 rows: the sums over rows are taken in another order, where there are more.
        let (_, rows) = outcome(make, Choices { classifier_rows: Some(32), batch: Some(6), ..base() });
        let (_, whole) = outcome(make, Choices { batch: Some(6), ..base() });
        close(name, &rows, &whole, 1e-4);
    }
}

#[test]
fn every_objective_trains_in_mixed_precision() {
    for (name, make) in KINDS {
        let (_, plain) = outcome(make, base());
        let mixed = Choices { precision: Some(Precision::Mixed), ..base() };
        // The kernels of one; what differs between the others is their graphs.
        let (_, records) = match name {
            "classify" => trained(trainer(Gpu::open("auto").unwrap(), make(mixed))),
            _ => trained(trainer(Cpu::default(), make(mixed))),
        };
        assert!(records.iter().all(|r| r.loss_scale.is_some() && r.skipped.is_none()), "{name}: {records:?}");
        // f16 keeps eleven bits of each activation.
        close(name, &records.iter().map(|r| r.loss).collect::<Vec<_>>(), &plain, 2e-2);
    }
}

#[test]
fn frozen_parts_of_every_objective_stay_and_have_no_gradients() {
    for (name, make) in KINDS {
        let freeze = Some(Freeze::Layers(1));
        let mut before = trainer(Cpu::default(), make(Choices { freeze, ..base() }));
        let initial = bits(&mut before);
        let (mut after, _) = trained(before);
        let trained: Vec<String> = after.trained().iter().map(|p| p.name.clone()).collect();
        for (parameter, was) in initial.iter().take(after.saved_states().len()) {
            let is = after.executor().read_state(parameter).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let depth = after.parameters().iter().find(|p| p.name == *parameter).unwrap().depth;
            let frozen = matches!(depth, Depth::Embedding | Depth::Block(0));
            assert_eq!(trained.contains(parameter), !frozen, "{name}: {parameter}");
            // Idle experts and keys' biases may stay as they are, too; matrices of the dense parts may not.
            if frozen {
                assert!(is == *was, "{name}: {parameter} is frozen and changes");
            } else if parameter.ends_with("o_proj.weight") || parameter.ends_with("c_attn.weight") {
                assert!(is != *was, "{name}: {parameter} is trained and stays");
            }
        }
        let states = after.optimizer_states();
        let mut moments = states.iter().filter(|(state, _)| state.contains(".exp_avg") && !state.starts_with("crit.")); // a head
        assert!(moments.all(|(state, _)| !state.starts_with("h.0.") && !state.contains("s.0.")));
    }
    // All but the head.
    let (objective, settings) = task(Task::Classify, config("demo"), Choices { freeze: Some(Freeze::All), ..base() });
    let only_head = trainer(Cpu::default(), (objective, settings));
    assert_eq!(only_head.trained().iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["score.weight"]);
}

/// AdamW's first step moves every value by its learning rate, whatever the gradient.
#[test]
fn learning_rates_fall_from_layer_to_layer_and_heads_have_their_own() {
    let choices = Choices { layer_decay: Some(0.5), head_lr: Some(3e-2), steps: Some(1), clip: Some(0.0), ..base() };
    let mut trainer = trainer(Cpu::default(), task(Task::Classify, config("demo"), choices));
    let parameters = trainer.parameters().to_vec();
    let read = |trainer: &mut Trainer| -> Vec<Vec<f32>> {
        parameters.iter().map(|p| trainer.executor().read_state(&p.name).unwrap()).collect()
    };
    let before = read(&mut trainer);
    let (mut trainer, _) = trained(trainer);
    for ((parameter, before), after) in parameters.iter().zip(before).zip(read(&mut trainer)) {
        let largest = before.iter().zip(after).map(|(b, a)| (a - b).abs()).fold(0.0f32, f32::max);
        let rate = match parameter.depth {
            Depth::Embedding => 1e-2 * 0.125,
            Depth::Block(0) => 1e-2 * 0.25,
            Depth::Block(_) => 1e-2 * 0.5,
            Depth::Top => 1e-2,
            Depth::Head => 3e-2,
        };
        // Gradients near 1e-8, AdamW's epsilon, move less; values near 1 round.
        assert!((largest / rate - 1.0).abs() < 1e-2, "{}: {largest}, not {rate}", parameter.name);
    }
}

/// Keeps the records, and interrupts a run after so many.
struct Watch {
    losses: Rc<RefCell<Vec<f32>>>,
    stop: Arc<AtomicBool>,
    after: usize,
}

impl Sink for Watch {
    fn record(&mut self, record: &Record) -> Result<()> {
        let mut losses = self.losses.borrow_mut();
        losses.truncate(record.step as usize - 1);
        losses.push(record.loss);
        self.stop.fetch_or(losses.len() == self.after, Ordering::SeqCst);
        Ok(())
    }
}

/// A run in a folder, its records, and its interrupt.
fn run(folder: RunFolder, trainer: Trainer, state: Option<RunState>, after: usize) -> (Run, Arc<AtomicBool>) {
    let stop = Arc::new(AtomicBool::new(false));
    let watch = Watch { losses: Rc::default(), stop: stop.clone(), after };
    let state = state.unwrap_or_else(|| RunState {
        step: 0,
        objective: trainer.objective().name().into(),
        settings: trainer.settings().clone(),
        command: serde_json::Value::Null,
        evaluations: vec![],
        variants: trainer.variants().clone(),
        ranks: 1,
        kept: Default::default(),
    });
    let best = folder.path().join("best");
    let tokenizer = Some(Tokenizer::bytes().unwrap());
    (Run { trainer, state, folder, best, tokenizer, sinks: vec![Box::new(watch)], faults: vec![] }, stop)
}

fn new_folder(path: &Path) -> RunFolder {
    RunFolder::create(path, Mode::Fresh).unwrap()
}

#[test]
fn every_objective_resumes_bit_for_bit() {
    for (name, make) in KINDS {
        let choices = || Choices { dropout: Some(0.1), steps: Some(6), ..base() };
        let (want, _) = outcome(make, choices());
        let folder = tempdir().unwrap();
        let (mut first, stop) = run(new_folder(folder.path()), trainer(Cpu::default(), make(choices())), None, 3);
        assert_eq!(first.go(&stop, &mut no_device).unwrap(), End::Interrupted, "{name}");
        drop(first);
        let opened = RunFolder::open(folder.path()).unwrap();
        let checkpoint = opened.latest().unwrap().unwrap();
        let state = run_state(&checkpoint).unwrap();
        assert_eq!(state.step, 3, "{name}");
        let mut resumed = trainer(Cpu::default(), make(choices()));
        restore(&mut resumed, &checkpoint).unwrap();
        let (mut second, stop) = run(opened, resumed, Some(state), usize::MAX);
        assert_eq!(second.go(&stop, &mut no_device).unwrap(), End::Done, "{name}");
        assert_same(&bits(&mut second.trainer), &want);
        let file = if name.ends_with("adapters") { "best/adapter_model.safetensors" } else { "best/model.safetensors" };
        assert!(folder.path().join(file).exists(), "{name}: the best model is kept");
    }
}

#[test]
fn every_objective_survives_a_lost_device() {
    // The objectives, once each, and adapters: a new device compiles all its kernels.
    for (name, make) in KINDS
        .into_iter()
        .filter(|(name, _)| ["pretraining", "classify", "reward", "ppo", "sft with adapters"].contains(name))
    {
        let choices = || Choices { save_every: Some(Cadence::Steps(2)), ..base() };
        let device = || Gpu::open("auto").unwrap();
        let (mut straight, _) = trained(trainer(device(), make(choices())));
        let want = bits(&mut straight);
        drop(straight);
        let folder = tempdir().unwrap();
        let (mut lost, stop) = run(new_folder(folder.path()), trainer(device(), make(choices())), None, usize::MAX);
        lost.faults = vec![4];
        let mut opened = 0;
        let end = lost.go(&stop, &mut || {
            opened += 1;
            Ok((Box::new(device()), None))
        });
        assert_eq!((end.unwrap(), opened), (End::Done, 1), "{name}");
        assert_same(&bits(&mut lost.trainer), &want);
    }
}

#[test]
fn every_objective_stops_early_and_keeps_its_best() {
    for (name, make) in KINDS {
        // A learning rate of 0 changes nothing: the first evaluation is the best.
        let every = Some(Cadence::Steps(1));
        let choices = Choices { lr: Some(0.0), steps: Some(9), patience: Some(2), eval_every: every, ..base() };
        let folder = tempdir().unwrap();
        let (mut run, stop) = run(new_folder(folder.path()), trainer(Cpu::default(), make(choices)), None, usize::MAX);
        assert_eq!(run.go(&stop, &mut no_device).unwrap(), End::Early, "{name}");
        let best: Vec<bool> = run.state.evaluations.iter().map(|e| e.best).collect();
        assert_eq!(best, [true, false, false], "{name}");
        assert!(folder.path().join("checkpoints/step-000003").is_dir(), "{name}: the last state is kept as well");
    }
}

/// Routers are kept in order wherever a model with experts is trained.
#[test]
fn router_losses_count_in_every_objective() {
    for objective in ["pretraining", "classify"] {
        let gate = |balance: f32| {
            let mut config = config("mixtral");
            let FeedForward::Experts(experts) = &mut config.feed_forward else { panic!("mixtral has experts") };
            experts.balance = balance;
            let choices = Choices { steps: Some(1), clip: Some(0.0), ..base() };
            let made = match objective {
                "classify" => task(Task::Classify, config, choices),
                _ => {
                    let tiny = setup(Tiny { run: choices, ..self::choices() });
                    let mut with_experts = tiny.clone();
                    with_experts.config = Config { vocab_size: tiny.config.vocab_size, context: 16, ..config };
                    (Box::new(with_experts.objective()) as Box<dyn Objective>, tiny.settings)
                }
            };
            let (mut trainer, _) = trained(trainer(Cpu::default(), made));
            trainer.executor().read_state("layers.0.block_sparse_moe.gate.weight.exp_avg").unwrap()
        };
        assert_ne!(gate(0.0), gate(0.5), "{objective}: the balance of experts has no gradient");
    }
}

#[test]
fn a_rewards_margins_and_accuracies_are_reported_by_grade() {
    let (objective, settings) = reward(Choices { steps: Some(30), ..base() });
    let (mut trained, records) = trained(trainer(Cpu::default(), (objective, settings)));
    assert!(records.iter().all(|r| r.scalars.contains_key("pairwise_loss")), "{records:?}");
    let evaluation = trained.evaluate().unwrap().unwrap();
    assert_eq!(evaluation.value, Some(1.0), "seven pairs are learned by heart");
    for grade in ["with margin 0", "with margin 0.5", "with margin 1"] {
        assert!(evaluation.text.contains(grade), "{}", evaluation.text);
    }
}

/// Four answers of which two are ties: their gradient is that of the five pairs that they make.
#[test]
fn a_ranking_is_learned_as_all_its_pairs() {
    let texts = ["abc", "abdd", "abe", "abfff"];
    let pairs = [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)];
    let ranking = || vec![ranked(&texts, &pairs.map(|(chosen, rejected)| (chosen, rejected, 0.0)))];
    let apart = || pairs.map(|(chosen, rejected)| ranked(&[texts[chosen], texts[rejected]], &[(0, 1, 0.0)])).to_vec();
    let choices =
        |batch| Choices { batch: Some(batch), accumulate: Some(1), steps: Some(1), clip: Some(0.0), ..base() };
    let run = |device: Box<dyn Executor>, all: Vec<Ranked>, batch: usize| {
        let (objective, settings) = rewards(all, choices(batch));
        let blueprint = Blueprint::new(objective.as_ref(), &settings, device.limits()).unwrap();
        let mut trainer = Trainer::new(device, blueprint, objective, settings).unwrap();
        trainer.initialise(None).unwrap();
        let first = trainer.evaluate().unwrap().unwrap().loss as f32;
        let (mut trainer, records) = trained(trainer);
        (bits(&mut trainer), records, first)
    };
    let (want, of_pairs, _) = run(Box::<Cpu>::default(), apart(), 5);
    let devices: [Box<dyn Executor>; 2] = [Box::<Cpu>::default(), Box::new(Gpu::open("auto").unwrap())];
    for device in devices {
        // Two pairs are four answers at a time.
        let (got, records, first) = run(device, ranking(), 2);
        let loss = |records: &[Record]| records[0].loss;
        // The same terms, summed in another order; on the GPU with other products, too.
        close("loss", &[loss(&records)], &[loss(&of_pairs)], 1e-5);
        // Each answer scored by itself, and the pairs' losses on the host.
        close("validation loss", &[records[0].scalars["pairwise_loss"]], &[first], 1e-5);
        let values = |bits: &[u32]| bits.iter().map(|b| f32::from_bits(*b)).collect::<Vec<_>>();
        let mut compared = 0;
        for ((name, got), (_, want)) in got.iter().zip(&want).filter(|((name, _), _)| name.ends_with(".exp_avg")) {
            let (got, want) = (values(got), values(want));
            let error = worst(&got, &want);
            // f32 sums over some 20 tokens, through two blocks and back.
            assert!(error <= 5e-5 * largest(&want), "{name} is {error} off, and its largest {}", largest(&want));
            compared += 1;
        }
        assert!(compared > 10, "{compared} gradients");
    }
}

/// Margins count in training as in the evaluation, whatever the sizes of the rankings of a micro-batch.
#[test]
fn each_pair_of_a_micro_batch_weighs_the_same() {
    let all = || {
        vec![
            ranked(&["ab", "c", "de"], &[(0, 1, 0.0), (0, 2, 0.0), (1, 2, 0.0)]),
            ranked(&["fg", "h"], &[(0, 1, 1.0)]),
            ranked(&["i", "jk"], &[(0, 1, 0.5)]),
        ]
    };
    let choices = Choices { batch: Some(4), accumulate: Some(1), steps: Some(1), ..base() };
    let mut trainer = trainer(Cpu::default(), rewards(all(), choices));
    let want = trainer.evaluate().unwrap().unwrap().loss as f32;
    let (_, records) = trained(trainer);
    // f32 sums of small numbers.
    close("loss", &[records[0].scalars["pairwise_loss"]], &[want], 1e-5);
}
