//! The program as a user meets it: the whole path from text to a sample, and bad input, each a clear error on one line.

use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder of its own, with a shard cache inside.
pub struct Place(pub tempfile::TempDir);

impl Place {
    pub fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs wgpt in the folder.
    pub fn wgpt(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// wgpt in the folder, not run yet.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
        command.args(arguments.split_whitespace()).current_dir(self.0.path()).env("WGPT_CACHE", self.path("cache"));
        command
    }

    /// Runs a tiny training to the end in `run`.
    pub fn train(&self, more: &str) -> Output {
        self.wgpt(&format!("train --out run {TINY} {more}"))
    }
}

const TINY: &str = "--layers 1 --heads 2 --width 16 --context 16 --batch 2 --steps 6 --eval-every 3 --eval-batches 2 \
    --save-every 3 --device cpu";

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The one error line of a run that must fail with `code`, without a panic.
#[track_caller]
pub fn error(output: &Output, code: i32) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let errors: Vec<&str> =
        text.lines().filter(|l| l.starts_with("error: ") && !l.contains("XDG_RUNTIME_DIR")).collect();
    assert_eq!(errors.len(), 1, "one line says what is wrong: {text}");
    errors[0].to_string()
}

#[track_caller]
pub fn has(text: &str, words: &[&str]) {
    words.iter().for_each(|word| assert!(text.contains(word), "`{word}` is missing in: {text}"));
}

#[test]
fn text_goes_in_and_a_sample_comes_out_on_the_gpu() {
    let place = Place::new();
    let text: String =
        (0..200).map(|i| format!("The {} cat sat on mat {i}.\n", ["red", "old", "big"][i % 3])).collect();
    place.write("data/a.txt", &text);
    let trained = place.wgpt(&format!("train --out run --data data {}", TINY.replace("--device cpu", "--device auto")));
    assert!(trained.status.success(), "{}", stderr(&trained));
    has(&stderr(&trained), &["device:", "memory:", "parameters", "held out", "step 6/6", "val ", "loss.svg"]);
    for file in ["config.json", "model.safetensors", "tokenizer.json", "log.jsonl", "loss.svg", "trainer.json"] {
        assert!(place.path("run").join(file).exists(), "{file} is missing");
    }
    let log = std::fs::read_to_string(place.path("run/log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 6);
    has(
        log.lines().nth(2).unwrap(),
        &["\"step\":3", "loss", "val_loss", "grad_norm", "tokens_per_second", "memory_bytes"],
    );

    let sampled = place.wgpt("sample --model run --prompt The --tokens 20 --count 2 --seed 5");
    assert!(sampled.status.success(), "{}", stderr(&sampled));
    let texts = String::from_utf8(sampled.stdout).unwrap();
    assert!(texts.starts_with("The") && texts.len() >= 2 * 23, "{texts:?}");
    let again = place.wgpt("sample --model run --prompt The --tokens 20 --count 2 --seed 5");
    assert_eq!(texts.as_bytes(), again.stdout, "the same seed gives the same text");

    let evaluated = place.wgpt("eval --model run --data data/a.txt --device cpu");
    let result: serde_json::Value = serde_json::from_slice(&evaluated.stdout).unwrap();
    let (loss, bits) = (result["loss"].as_f64().unwrap(), result["bits_per_byte"].as_f64().unwrap());
    assert!(loss > 0.5 && loss < 5.0 && (bits - loss / std::f64::consts::LN_2).abs() < 1e-6, "{result}");
    assert!((result["perplexity"].as_f64().unwrap() - loss.exp()).abs() < 1e-9, "{result}");
    place.write("ids.json", "[[1, 2, 3], [4, 5, 6]]");
    let dumped = place.wgpt("eval --model run --ids ids.json --logits logits.safetensors --device cpu");
    assert!(dumped.status.success(), "{}", stderr(&dumped));
    let bytes = std::fs::read(place.path("logits.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("logits").unwrap().shape()[..2], [2, 3]);
}

#[test]
fn a_run_is_not_overwritten_and_resumes_to_the_same_bits() {
    let place = Place::new();
    assert!(place.train("").status.success());
    let message = error(&place.train(""), 2);
    has(&message, &["run", "--resume", "--overwrite"]);
    let whole = std::fs::read(place.path("run/model.safetensors")).unwrap();

    // The same run, stopped after its first checkpoint as a kill would leave it.
    assert!(place.train("--overwrite").status.success());
    assert_eq!(std::fs::read(place.path("run/model.safetensors")).unwrap(), whole, "a run repeats to the bit");
    std::fs::remove_dir_all(place.path("run/checkpoints/step-000006")).unwrap();
    let resumed = place.wgpt("train --out run --resume --device cpu");
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    has(&stderr(&resumed), &["resuming after step 3"]);
    assert_eq!(std::fs::read(place.path("run/model.safetensors")).unwrap(), whole, "resuming changes no bit");
    assert_eq!(std::fs::read_to_string(place.path("run/log.jsonl")).unwrap().lines().count(), 6);
    has(&error(&place.wgpt("train --out run --resume --lr 1"), 2), &["--resume", "leave out"]);
    has(&error(&place.wgpt("train --out run --resume --precision mixed"), 2), &["--resume", "leave out"]);
    has(&error(&place.wgpt("train --out nothing --resume"), 2), &["nothing", "no run"]);
}

#[test]
fn mixed_precision_is_a_flag_and_a_key_and_shows_in_the_log() {
    let place = Place::new();
    place.write("mixed.toml", "precision = \"mixed\"\n");
    let output = place.train("--config mixed.toml");
    assert!(output.status.success(), "{}", stderr(&output));
    has(&stderr(&output), &["scale 65536", "loss scale 65536 at the end; 0 of 6 steps skipped"]);
    let log = std::fs::read_to_string(place.path("run/log.jsonl")).unwrap();
    assert!(log.lines().count() == 6 && log.lines().all(|line| line.contains("\"loss_scale\":65536.0")), "{log}");
    let trainer = std::fs::read_to_string(place.path("run/checkpoints/step-000006/trainer.json")).unwrap();
    has(&trainer, &["\"precision\"", "\"mixed\""]);
    let mixed = std::fs::read(place.path("run/model.safetensors")).unwrap();
    let output = place.train("--overwrite --config mixed.toml --precision f32");
    assert!(!stderr(&output).contains("scale") && output.status.success(), "a flag wins over a file");
    assert_ne!(std::fs::read(place.path("run/model.safetensors")).unwrap(), mixed);
    let output = place.wgpt("profile --precision mixed --batch 1 --context 8 --repeat 1 --device cpu");
    assert!(output.status.success(), "{}", stderr(&output));
    has(&String::from_utf8_lossy(&output.stdout), &["in mixed precision", "cast"]);
}

#[test]
fn a_model_is_continued_with_init() {
    let place = Place::new();
    assert!(place.train("").status.success());
    let more = place.wgpt("train --out more --init run --steps 2 --batch 2 --device cpu --eval-batches 1");
    assert!(more.status.success(), "{}", stderr(&more));
    let wrong = place.wgpt("train --out other --init run --width 32 --device cpu");
    has(&error(&wrong, 2), &["--init", "width 16"]);
}

#[test]
fn bad_choices_are_refused_before_anything_is_done() {
    let place = Place::new();
    let cases: &[(&str, &[&str])] = &[
        ("--layers 0", &["layers", "1"]),
        ("--heads 3", &["3 heads", "16"]),
        ("--batch 0", &["--batch 0"]),
        ("--steps 0", &["--steps 0"]),
        ("--lr NaN", &["--lr"]),
        ("--dropout 1", &["--dropout 1", "0..1"]),
        ("--width 99999999", &["width"]),
        ("--batch 4000000", &["--batch"]),
        ("--preset gpt9", &["gpt9", "demo"]),
        ("--device nonsense", &["nonsense", "there are"]),
    ];
    for (choice, words) in cases {
        // The last of a flag given twice would be refused as a repetition, so replace it.
        let flag = choice.split(' ').next().unwrap();
        let mut rest: Vec<&str> = TINY.split_whitespace().collect();
        if let Some(at) = rest.iter().position(|word| *word == flag) {
            rest.drain(at..at + 2);
        }
        let output = place.wgpt(&format!("train --out run {} {choice}", rest.join(" ")));
        has(&error(&output, 2), words);
        assert!(!place.path("run").exists(), "{choice} leaves nothing behind");
    }
    assert_eq!(place.wgpt("train").status.code(), Some(2), "clap's own errors");
    let output = place.wgpt("train --out run --precision f64");
    assert_eq!(output.status.code(), Some(2));
    has(&stderr(&output), &["f64", "--precision", "f32, mixed"]);
    place.write("bad.toml", "layers = 2\nwidht = 3\n");
    has(&error(&place.train("--config bad.toml"), 2), &["bad.toml", "line 2", "widht"]);
    place.write("good.toml", "seed = 3\nmin-lr = 1e-5\n");
    assert!(place.train("--config good.toml").status.success());
}

#[test]
fn bad_data_is_refused() {
    let place = Place::new();
    place.write("empty.txt", "");
    place.write("short.txt", "abc");
    place.write("latin.txt", b"caf\xe9 ".repeat(100));
    place.write("rows.jsonl", "{\"text\": \"fine\"}\n{\"body\": 1}\n");
    place.write("odd.bin", [1, 2, 3]);
    place.write("ids.bin", [0xff; 2000]);
    let cases: &[(&str, &[&str])] = &[
        ("missing.txt", &["missing.txt"]),
        ("empty.txt", &["empty.txt"]),
        ("short.txt", &["3", "17"]),
        ("latin.txt", &["latin.txt", "UTF-8", "3"]),
        ("rows.jsonl", &["rows.jsonl", "2", "text"]),
        ("odd.bin", &["odd.bin"]),
        ("ids.bin", &["65535", "50257"]),
    ];
    for (data, words) in cases {
        has(&error(&place.train(&format!("--data {data}")), 1), words);
        assert!(!place.path("run/model.safetensors").exists());
    }
}

#[test]
fn a_bad_output_folder_is_refused() {
    let place = Place::new();
    place.write("file", "x");
    let output = place.wgpt(&format!("train --out file {TINY}"));
    has(&error(&output, 2), &["file"]);
    assert_eq!(std::fs::read(place.path("file")).unwrap(), b"x");
}

#[test]
fn damaged_models_are_refused() {
    let place = Place::new();
    assert!(place.train("").status.success());
    let whole = std::fs::read(place.path("run/model.safetensors")).unwrap();
    let config = std::fs::read_to_string(place.path("run/config.json")).unwrap();
    let with = |name: &str, model: &[u8], config: &str| {
        place.write(&format!("{name}/model.safetensors"), model);
        place.write(&format!("{name}/config.json"), config);
        std::fs::copy(place.path("run/tokenizer.json"), place.path(name).join("tokenizer.json")).unwrap();
        error(&place.wgpt(&format!("sample --model {name} --tokens 1 --device cpu")), 1)
    };
    has(&with("truncated", &whole[..whole.len() / 2], &config), &["model.safetensors"]);
    let mut flipped = whole.clone();
    let last = flipped.len() - 9;
    flipped[last] ^= 0x10;
    has(&with("flipped", &flipped, &config), &["model.safetensors"]);
    let longer = config.replace("\"n_positions\": 16", "\"n_positions\": 20").replace("\"n_ctx\": 16", "\"n_ctx\": 20");
    has(&with("shape", &whole, &longer), &["wpe.weight"]);
    has(&with("heads", &whole, &config.replace("\"n_head\": 2", "\"n_head\": 3")), &["n_head"]);
    has(&with("layers", &whole, &config.replace("\"n_layer\": 1", "\"n_layer\": 0")), &["n_layer"]);
    has(&with("text", &whole, "not json"), &["config.json"]);
    has(&error(&place.wgpt("sample --model nowhere"), 1), &["nowhere"]);
    let unknown = place.wgpt("sample --model run --prompt 7 --device cpu");
    has(&error(&unknown, 1), &["7"]);
}

#[test]
fn a_model_that_cannot_fit_names_options_that_do() {
    let place = Place::new();
    let output = place.wgpt("train --out run --preset gpt2-xl --batch 64 --tokenizer bytes");
    let message = error(&output, 1);
    // A machine with a terabyte of memory would start to train; the suite runs on smaller ones.
    has(&message, &["MiB"]);
    assert!(message.contains("--batch") || message.contains("--preset"), "{message}");
}

/// The switch that loses the device is there in debug builds only.
#[cfg(debug_assertions)]
#[test]
fn a_run_survives_a_lost_device_twice_to_the_same_bits() {
    let place = Place::new();
    let tiny = TINY.replace("--device cpu", "--device auto");
    assert!(place.wgpt(&format!("train --out whole {tiny}")).status.success());
    let lost = place.wgpt(&format!("train --out run {tiny} --lose-device-at 5 --lose-device-at 5"));
    assert!(lost.status.success(), "{}", stderr(&lost));
    let said = stderr(&lost);
    has(
        &said,
        &["the device was lost (destroyed);", "1 of 2 times", "2 of 2 times", "resuming after step 3", "step 6/6"],
    );
    let read = |run: &str, file: &str| std::fs::read(place.path(run).join(file)).unwrap();
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(read("run", file) == read("whole", file), "{file} is another");
    }
    assert_eq!(String::from_utf8(read("run", "log.jsonl")).unwrap().lines().count(), 6);

    let faults = "--lose-device-at 5 --lose-device-at 5 --lose-device-at 5";
    let message = error(&place.wgpt(&format!("train --out run --overwrite {tiny} {faults}")), 1);
    has(&message, &["the device was lost", "--resume"]);
    assert!(place.wgpt("train --out run --resume --device auto").status.success(), "nothing is lost");
    assert!(read("run", "model.safetensors") == read("whole", "model.safetensors"));
    // Before the first checkpoint there is nothing to go on from.
    let message = error(&place.wgpt(&format!("train --out early {tiny} --lose-device-at 2")), 1);
    has(&message, &["the device was lost"]);
}

#[test]
fn doctor_lists_the_adapter() {
    let place = Place::new();
    let output = place.wgpt("doctor --list");
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    has(&text, &["*", "f16", "subgroups", "bindings", "MiB"]);
}

/// Ctrl-C ends a run after the step under way, with a checkpoint and a sentence that says how to go on.
#[test]
#[cfg(unix)]
fn an_interrupt_saves_and_says_how_to_resume() {
    let place = Place::new();
    let arguments =
        format!("train --out run {}", TINY.replace("--steps 6", "--steps 100000").replace("--save-every 3", ""));
    let child = Command::new(env!("CARGO_BIN_EXE_wgpt"))
        .args(arguments.split_whitespace())
        .args(["--save-every", "0", "--eval-every", "0"].iter().filter(|_| !arguments.contains("--eval-every")))
        .current_dir(place.0.path())
        .env("WGPT_CACHE", place.path("cache"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let log = place.path("run/log.jsonl");
    let started = std::time::Instant::now();
    while std::fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < 3 {
        assert!(started.elapsed().as_secs() < 60, "the run did not start");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let signalled = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    has(&stderr(&output), &["stopped after step", "--resume"]);
    assert!(place.path("run/model.safetensors").exists() && place.path("run/optimizer.safetensors").exists());
}
