//! Whole fine-tuning runs: they learn, resume with the same bits, stop early, keep the best, and refuse wrong options and data.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::training::no_device;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use wgpt::data::buckets::epoch_len;
use wgpt::data::labelled::Task;
use wgpt::data::labelled::sequences::Special;
use wgpt::data::labelled::target::{Answer, Target};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::formats::folder::{NamedTensor, WeightType, write_folder};
use wgpt::gpu::Gpu;
use wgpt::models::config::Config;
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;
use wgpt::objectives::labelled::batch::Item;
use wgpt::objectives::labelled::folder::TaskFile;
use wgpt::objectives::labelled::{Labelled, Options, RECIPE};
use wgpt::train::blueprint::Blueprint;
use wgpt::train::checkpoint::{Mode, RunFolder};
use wgpt::train::record::Record;
use wgpt::train::run::{End, Run, RunState, restore, run_state};
use wgpt::train::settings::{Choices, Settings};
use wgpt::train::sinks::Sink;
use wgpt::train::trainer::Trainer;

// --- the library ----------------------------------------------------------------------------------------------------

fn config() -> Config {
    Config::new(259, 16, 1, 2, 16)
}

fn choices() -> Choices {
    let epochs = Some(3);
    Choices { epochs, lr: Some(1e-2), batch: Some(3), accumulate: Some(2), ..Choices::default() }
}

fn settings(choices: Choices) -> Settings {
    choices.resolve(&RECIPE, |batch| epoch_len(20, batch)).unwrap()
}

fn task() -> TaskFile {
    TaskFile {
        task: Task::Classify,
        target: Target::Labels(["a", "b"].map(String::from).to_vec()),
        special: Some(Special::after(256)),
        longest: 16,
        columns: Default::default(),
        pad: None,
        separator: None,
    }
}

/// Texts of a letter that says the class, of two lengths.
fn items(count: usize) -> Vec<Item> {
    let item = |i: usize| {
        let text = vec![97 + (i % 2) as u32; 3 + 9 * (i % 3 / 2)];
        Item { ids: vec![[&[256], &text[..], &[258]].concat()], answer: Some(Answer::Class(i % 2)), weight: 1.0 }
    };
    (0..count).map(item).collect()
}

fn trainer(settings: &Settings) -> Trainer {
    let options = Options { buckets: 2, ..Options::default() };
    let objective = Labelled::new(config(), task(), &options, settings, (items(20), items(7)));
    let device = Gpu::open("auto").unwrap();
    let blueprint = Blueprint::new(&objective, settings, device.limits()).unwrap();
    Trainer::new(Box::new(device), blueprint, Box::new(objective), settings.clone()).unwrap()
}

/// Keeps losses, and interrupts a run once so many records have come.
struct Watch {
    losses: Rc<RefCell<Vec<f32>>>,
    stop: Arc<AtomicBool>,
    after: usize,
}

impl Sink for Watch {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.losses.borrow_mut().push(record.loss);
        self.stop.fetch_or(self.losses.borrow().len() == self.after, Ordering::SeqCst);
        Ok(())
    }
}

/// A run with its folder, its records, and its interrupt.
struct Watched {
    run: Run,
    losses: Rc<RefCell<Vec<f32>>>,
    stop: Arc<AtomicBool>,
}

fn watched(out: &Path, folder: RunFolder, trainer: Trainer, state: RunState, after: usize) -> Watched {
    let (losses, stop) = (Rc::default(), Arc::new(AtomicBool::new(false)));
    let watch = Watch { losses: Rc::clone(&losses), stop: stop.clone(), after };
    let (tokenizer, best) = (Some(Tokenizer::bytes().unwrap()), out.to_path_buf());
    let run = Run { trainer, state, folder, best, tokenizer, sinks: vec![Box::new(watch)], faults: vec![] };
    Watched { run, losses, stop }
}

/// A new run that is interrupted once so many records have come.
fn start(out: &Path, settings: &Settings, after: usize) -> Watched {
    let mut trainer = trainer(settings);
    trainer.initialise(None).unwrap();
    let folder = RunFolder::create(&out.join("training"), Mode::Fresh).unwrap();
    let state = RunState {
        step: 0,
        objective: "classify".into(),
        settings: settings.clone(),
        command: Value::Null,
        evaluations: vec![],
        variants: trainer.variants().clone(),
        ranks: 1,
        kept: Default::default(),
    };
    watched(out, folder, trainer, state, after)
}

fn go(watched: &mut Watched) -> End {
    watched.run.go(&watched.stop, &mut no_device).unwrap()
}

/// Bits of everything that a checkpoint holds.
fn bits(run: &mut Run) -> Vec<(String, Vec<u32>)> {
    let names = run.trainer.saved_states().into_iter().chain(run.trainer.optimizer_states());
    let read = |(name, _): (String, Vec<usize>)| {
        let values = run.trainer.executor().read_state(&name).unwrap();
        (name, values.into_iter().map(f32::to_bits).collect())
    };
    names.collect::<Vec<_>>().into_iter().map(read).collect()
}

/// A run that is interrupted twice ends with the bits, losses and files of one that is not.
fn resumes_bit_for_bit(choices: Choices) {
    let (whole, parts) = (tempdir().unwrap(), tempdir().unwrap());
    let settings = settings(choices);
    let mut straight = start(whole.path(), &settings, usize::MAX);
    assert_eq!(go(&mut straight), End::Done);
    let losses = straight.losses.borrow().clone();
    assert_eq!(losses.len(), 11, "20 examples in 7 micro-batches, three times, two to a step");
    assert!(losses[10] < losses[0] - 0.5, "it learns: {losses:?}");
    let mut watched = start(parts.path(), &settings, 1);
    for (round, expected) in [End::Interrupted, End::Interrupted, End::Done].into_iter().enumerate() {
        assert_eq!(go(&mut watched), expected);
        if expected == End::Interrupted {
            drop(watched);
            let folder = RunFolder::open(&parts.path().join("training")).unwrap();
            let checkpoint = folder.latest().unwrap().unwrap();
            let state = run_state(&checkpoint).unwrap();
            assert!(state.step > 0 && state.step < 11);
            let mut trainer = trainer(&settings);
            restore(&mut trainer, &checkpoint).unwrap();
            // Reports come a few steps late, so that it stops in the middle of epochs.
            let after = if round == 0 { 1 } else { usize::MAX };
            watched = self::watched(parts.path(), folder, trainer, state, after);
        }
    }
    for ((name, a), (other, b)) in bits(&mut straight.run).iter().zip(&bits(&mut watched.run)) {
        assert_eq!(name, other);
        assert!(a == b, "{name} differs");
    }
    assert_eq!(straight.run.state, watched.run.state);
    for file in ["model.safetensors", "metrics.json", "task.json", "config.json"] {
        let read = |folder: &TempDir| std::fs::read(folder.path().join(file)).unwrap();
        assert!(read(&whole) == read(&parts), "{file} is the same");
    }
}

#[test]
fn an_interrupted_run_resumes_bit_for_bit() {
    resumes_bit_for_bit(choices());
}

#[test]
fn a_run_that_is_no_better_stops_early_and_keeps_its_best() {
    let out = tempdir().unwrap();
    // A rate of 0 changes nothing: the first epoch is the best.
    let settings = settings(Choices { lr: Some(0.0), epochs: Some(9), patience: Some(2), ..choices() });
    let mut watched = start(out.path(), &settings, usize::MAX);
    assert_eq!(go(&mut watched), End::Early);
    let best: Vec<bool> = watched.run.state.evaluations.iter().map(|epoch| epoch.best).collect();
    assert_eq!(best, [true, false, false]);
    let text = std::fs::read_to_string(out.path().join("metrics.json")).unwrap();
    let metrics: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!((metrics.len(), &metrics[0]["best"]), (3, &json!(true)));
}

// --- the command line -----------------------------------------------------------------------------------------------

struct Place(TempDir);

impl Place {
    /// A folder with a random model of bytes in `model/`.
    fn new() -> Place {
        let place = Place(tempdir().unwrap());
        let config = Config { initializer_range: 0.1, ..Config::new(256, 40, 1, 2, 16) };
        let network = Network::new(config.clone());
        let values: Vec<(String, Vec<usize>, Vec<f32>)> =
            network.parameters().iter().map(|p| (p.name.clone(), p.dims.clone(), initial_values(p, 1))).collect();
        let tensors: Vec<NamedTensor> = values.iter().map(|(n, d, v)| (n.clone(), d.clone(), v.as_slice())).collect();
        let tokenizer = Tokenizer::bytes().unwrap();
        write_folder(&place.path("model"), &config, &tensors, Some(&tokenizer), WeightType::F32).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn wgpt(&self, arguments: &str) -> Output {
        self.wgpt_with(arguments, "")
    }

    /// Runs the program on the CPU reference, with `input` on standard input.
    fn wgpt_with(&self, arguments: &str, input: &str) -> Output {
        self.write("input", input);
        Command::new(env!("CARGO_BIN_EXE_wgpt"))
            .args(arguments.split_whitespace())
            .args(["--device", "cpu"])
            .current_dir(self.0.path())
            .stdin(Stdio::from(std::fs::File::open(self.path("input")).unwrap()))
            .output()
            .unwrap()
    }
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line of an error, which must have these words in it.
#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty());
    let message = text.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{text}"));
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

const QUICK: &str = "--epochs 1 --batch 4 --lr 1e-2 --dropout 0 --quiet";
const LONGER: &str = "--epochs 4 --batch 4 --lr 1e-2 --dropout 0 --quiet";

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_classifier_is_trained_and_predicts() {
    let place = Place::new();
    let rows: String =
        (0..24).map(|i| format!("{},{}\n", ["aa,aa", "bbb"][i % 2].replace(',', ";"), ["no", "yes"][i % 2])).collect();
    place.write("train.csv", &format!("sentence,verdict\n{rows}"));
    let columns = "--text sentence --label verdict";
    done(&place.wgpt(&format!(
        "finetune --model model --task classify --data train.csv --val train.csv {columns} --out out {LONGER}"
    )));
    let config: Value = serde_json::from_slice(&std::fs::read(place.path("out/config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], json!(["GPT2ForSequenceClassification"]));
    assert_eq!((&config["id2label"], &config["vocab_size"]), (&json!({"0": "no", "1": "yes"}), &json!(259)));
    // The columns are remembered; rows keep their order.
    let predicted = lines(&done(&place.wgpt("predict --model out --data train.csv --batch 5 --quiet")));
    assert_eq!(predicted.len(), 24);
    for (i, row) in predicted.iter().enumerate() {
        assert_eq!((&row["label"], &row["line"]), (&json!(["no", "yes"][i % 2]), &json!(i + 2)), "{row}");
        let sum: f64 = row["probabilities"].as_object().unwrap().values().map(|p| p.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{row}");
    }
    // A line of text, and an object, on standard input.
    let from_input = lines(&done(&place.wgpt_with("predict --model out --quiet", "bbb\n{\"sentence\": \"aa;aa\"}\n")));
    assert_eq!(from_input.iter().map(|row| row["label"].clone()).collect::<Vec<_>>(), ["yes", "no"]);
    // A label that the head does not know, an empty text, and no head at all.
    let unknown = place.wgpt_with("predict --model out --quiet", "{\"sentence\": \"aa\", \"verdict\": \"perhaps\"}\n");
    refused(&unknown, 1, &["perhaps", "line 1 of standard input", "no, yes"]);
    refused(&place.wgpt_with("predict --model out --quiet", "\n"), 1, &["no examples"]);
    refused(&place.wgpt("predict --model model --data train.csv"), 1, &["no head", "wgpt finetune"]);
    // The model below the head still writes text, and can be fine-tuned again with the tokens that it has.
    done(&place.wgpt("sample --model out --prompt a --tokens 2 --quiet"));
    done(&place.wgpt(&format!("finetune --model out --task classify --data train.csv {columns} --out again {QUICK}")));
    let again: Value = serde_json::from_slice(&std::fs::read(place.path("again/config.json")).unwrap()).unwrap();
    assert_eq!(again["vocab_size"], json!(259));
}

#[test]
fn pairs_and_choices_are_trained_and_predicted() {
    let place = Place::new();
    let entail: String = (0..8).map(|i| format!("given {i}\tthen {}\t{}\n", i % 2, i % 2)).collect();
    place.write("entail.tsv", &format!("premise\thypothesis\tlabel\n{entail}"));
    done(&place.wgpt(&format!("finetune --model model --task entail --data entail.tsv --out e --freeze 1 {QUICK}")));
    let predicted = lines(&done(&place.wgpt_with("predict --model e --quiet", "given 1\tthen 1\n")));
    assert!(["0", "1"].contains(&predicted[0]["label"].as_str().unwrap()));
    refused(&place.wgpt_with("predict --model e --quiet", "given 1 then 1\n"), 1, &["1 texts and 2 are wanted", "tab"]);

    let graded: String = (0..8)
        .map(|i| json!({"first": "a", "second": format!("b{i}"), "label": f64::from(i) / 2.0}).to_string() + "\n")
        .collect();
    place.write("graded.jsonl", &graded);
    done(&place.wgpt(&format!(
        "finetune --model model --task similar --grades --data graded.jsonl --val graded.jsonl --out s {QUICK}"
    )));
    // The two orders are one example: the same grade either way.
    let both = lines(&done(&place.wgpt_with("predict --model s --quiet", "one text\tother\nother\tone text\n")));
    let grade = |row: &Value| row["grade"].as_f64().unwrap();
    assert!((grade(&both[0]) - grade(&both[1])).abs() < 1e-5, "{both:?}");
    refused(
        &place.wgpt_with("predict --model s", "{\"first\": \"a\", \"second\": \"b\", \"label\": \"many\"}\n"),
        1,
        &["grade `many`", "not a number"],
    );

    let choices: String = (0..8)
        .map(|i| json!({"context": "so", "choices": ["x", "yy", "z"], "label": i % 3}).to_string() + "\n")
        .collect();
    place.write("choices.jsonl", &choices);
    done(
        &place.wgpt(&format!("finetune --model model --task choose --data choices.jsonl --out c --freeze all {QUICK}")),
    );
    let predicted = lines(&done(&place.wgpt("predict --model c --data choices.jsonl --quiet")));
    let choice = predicted[0]["choice"].as_u64().unwrap() as usize;
    assert_eq!((predicted.len(), &predicted[0]["text"]), (8, &json!(["x", "yy", "z"][choice])));
    assert_eq!(predicted[0]["probabilities"].as_array().unwrap().len(), 3);
    let more = "{\"context\": \"so\", \"choices\": [\"a\", \"b\", \"c\", \"d\"]}\n";
    refused(&place.wgpt_with("predict --model c", more), 1, &["4 choices", "between 3"]);
}

#[test]
fn examples_that_cannot_be_learned_are_refused_with_their_line() {
    let place = Place::new();
    place.write("good.csv", "text,label\na,x\nb,y\nc,x\nd,y\n");
    let try_with = |name: &str, text: &str, more: &str| {
        place.write(name, text);
        place.wgpt(&format!("finetune --model model --task classify --data {name} --out o {QUICK} {more}"))
    };
    refused(&try_with("one.csv", "text,label\na,x\nb,x\n", ""), 1, &["one.csv", "label `x`", "at least two"]);
    refused(&try_with("miss.csv", "text,label\na,x\nb,\n", ""), 1, &["line 3 of miss.csv", "label"]);
    refused(&try_with("empty.csv", "text,label\na,x\n ,y\n", ""), 1, &["line 3 of empty.csv", "empty"]);
    refused(&try_with("header.csv", "words,label\na,x\nb,y\n", ""), 1, &["header.csv", "--text", "words"]);
    refused(&try_with("fields.csv", "text,label\na,x\nb,y,z\n", ""), 1, &["line 3 of fields.csv", "3 fields"]);
    refused(&try_with("none.csv", "text,label\n", ""), 1, &["none.csv", "no examples"]);
    place.write("val.csv", "text,label\na,x\nb,z\n");
    let good = "text,label\na,x\nb,y\nc,x\nd,y\n";
    refused(&try_with("good.csv", good, "--val val.csv"), 1, &["line 3 of val.csv", "`z`", "x, y"]);
    refused(&try_with("good.csv", good, "--freeze 2"), 2, &["--freeze 2", "1 layers"]);
    refused(&try_with("good.csv", good, "--premise text"), 2, &["--premise", "--text"]);
    refused(&try_with("good.csv", good, "--grades"), 2, &["--grades", "similar"]);
    refused(&try_with("good.csv", good, "--metric pearson"), 2, &["pearson"]);
    refused(&try_with("good.csv", good, "--class-weights w=2"), 2, &["label w"]);
    refused(&try_with("good.csv", good, "--max-length 41"), 2, &["--max-length 41", "40"]);
    refused(&try_with("good.csv", good, "--accumulate 0"), 2, &["--accumulate 0"]);
    assert!(!place.path("o").exists(), "nothing is left behind by what is refused");
    refused(
        &place.wgpt(&format!("finetune --model model --task classify --data good.csv --out model {QUICK}")),
        2,
        &["not fine-tuned there"],
    );
    refused(&place.wgpt("finetune --out nowhere --resume"), 2, &["no run to resume"]);
    let long = format!("text,label\n{},x\nb,y\n", "a".repeat(60));
    let output = try_with("long.csv", &long, "");
    done(&output);
    place.write("long.csv", &long);
    let output = place.wgpt("finetune --model model --task classify --data long.csv --out p --epochs 1 --batch 2");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && text.contains("1 of 2 rows") && text.contains("were cut"), "{text}");
    refused(
        &place.wgpt(&format!("finetune --model model --task classify --data good.csv --out p {QUICK}")),
        2,
        &["already holds a run", "--resume"],
    );
}
