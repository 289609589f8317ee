//! `wgpt export` as a user meets it: written files, and files that are never destroyed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use wgpt::data::tokenizer::Tokenizer;
use wgpt::formats::folder::{Weights, read_config};
use wgpt::formats::safetensors::{TensorFile, WeightType, write_weights};
use wgpt::models::config::Config;

/// A model folder whose weights are multiplied by `scale`.
pub fn tiny_model(folder: &Path, scale: f32) {
    let config = Config { bos_token_id: Some(3), ..Config::new(256, 8, 2, 2, 16) };
    let values: Vec<Vec<f32>> = config
        .parameters()
        .iter()
        .map(|(_, shape)| (0..shape.iter().product::<usize>()).map(|i| scale * (0.1 + (i % 11) as f32 / 3.0)).collect())
        .collect();
    let tensors = config.parameters().into_iter().zip(&values).map(|((n, s), v)| (n, s, v.as_slice()));
    std::fs::create_dir_all(folder).unwrap();
    let stored = &config.stored(&tensors.collect::<Vec<_>>());
    write_weights(&folder.join("model.safetensors"), stored, &[], WeightType::F32).unwrap();
    std::fs::write(folder.join("config.json"), config.to_json()).unwrap();
    Tokenizer::bytes().unwrap().save(folder).unwrap();
}

struct Place(tempfile::TempDir);

impl Place {
    /// With a model in `model`.
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        tiny_model(&place.path("model"), 1.0);
        place.write("model/generation_config.json", "{\"do_sample\": true}");
        place.write("model/log.jsonl", "not part of a model");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn export(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
        command.arg("export").args(arguments.split_whitespace()).current_dir(self.0.path()).output().unwrap()
    }

    #[track_caller]
    fn works(&self, arguments: &str) -> String {
        let output = self.export(arguments);
        assert!(output.stdout.is_empty(), "messages go to stderr");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        text
    }

    #[track_caller]
    fn fails(&self, arguments: &str, code: i32, words: &[&str]) {
        let output = self.export(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.starts_with("error: ") && text.lines().count() == 1, "{text}");
        words.iter().for_each(|word| assert!(text.contains(word), "`{word}` is missing in: {text}"));
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

const FILES: [&str; 5] =
    ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

#[test]
fn a_folder_holds_the_model_to_the_bit_and_nothing_else() {
    let place = Place::new();
    let said = place.works("--model model --out out");
    assert!(said.contains("wrote out") && said.contains("parameters"), "{said}");
    assert_eq!(names(&place.path("out")), FILES);
    let config = read_config(&place.path("model")).unwrap();
    assert_eq!(read_config(&place.path("out")).unwrap(), config);
    let (before, after) =
        (Weights::open(&place.path("model"), &config).unwrap(), Weights::open(&place.path("out"), &config).unwrap());
    for (name, _) in config.parameters() {
        let bits = |weights: &Weights| weights.read(&name).unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&before), bits(&after), "{name}");
    }
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert_eq!(place.read(&format!("out/{file}")), place.read(&format!("model/{file}")), "{file}");
    }
    assert!(TensorFile::open(&place.path("out/model.safetensors")).is_ok());
    // An empty folder is as good as none.
    std::fs::create_dir(place.path("empty")).unwrap();
    place.works("--model model --out empty");
}

#[test]
fn half_precision_is_half_the_size_and_says_so() {
    let place = Place::new();
    // A run's folder has no settings for its tokenizer, and one that was trained on token ids an empty tokenizer.
    std::fs::remove_file(place.path("model/tokenizer_config.json")).unwrap();
    place.works("--model model --out out --dtype f16");
    assert_eq!(names(&place.path("out")), FILES);
    assert!(String::from_utf8(place.read("out/config.json")).unwrap().contains("\"dtype\": \"float16\""));
    let file = TensorFile::open(&place.path("out/model.safetensors")).unwrap();
    // 0.1 + 1/3 is 1774.9 / 4096, and halves between 1/4 and 1/2 are multiples of 1 / 4096.
    assert_eq!(file.read("transformer.wte.weight").unwrap()[1], 1775.0 / 4096.0);
    place.write("model/tokenizer.json", "");
    place.works("--model model --out untokenised");
    assert_eq!(names(&place.path("untokenised")), &FILES[..3]);
}

#[test]
fn the_format_follows_the_name_or_is_asked_for() {
    let place = Place::new();
    place.works("--model model --out a.gguf");
    place.works("--model model --out b.bin --format gguf --dtype q8_0");
    let sizes = ["a.gguf", "b.bin"].map(|name| {
        let bytes = place.read(name);
        assert_eq!(&bytes[..4], b"GGUF");
        bytes.len()
    });
    assert!(sizes[1] < sizes[0], "{sizes:?}");
    assert!(place.works("--model model --out c.gguf --dtype f16 --quiet").is_empty());
    place.works("--model model --out d.gguf --format hugging-face");
    assert_eq!(names(&place.path("d.gguf")), FILES);
    place.fails("--model model --out e --dtype q8_0", 2, &["q8_0", "--format gguf"]);
    place.fails("--model nothing --out e", 1, &["nothing", "config.json"]);
    assert!(!place.path("e").exists());
}

#[test]
fn nothing_is_replaced_without_being_asked() {
    let place = Place::new();
    place.works("--model model --out out");
    place.write("out/notes.txt", "mine");
    place.write("out/model.safetensors.index.json", "of what was there before");
    place.fails("--model model --out out", 2, &["out", "--overwrite"]);
    place.write("out/config.json", "{}");
    place.works("--model model --out out --overwrite");
    assert_eq!(place.read("out/notes.txt"), b"mine");
    assert!(!place.path("out/model.safetensors.index.json").exists(), "it would contradict the new weights");
    assert!(read_config(&place.path("out")).is_ok());

    std::fs::create_dir(place.path("home")).unwrap();
    place.write("home/letter.txt", "mine");
    place.fails("--model model --out home --overwrite", 2, &["home", "no model folder"]);
    assert_eq!(names(&place.path("home")), ["letter.txt"]);

    place.works("--model model --out a.gguf");
    place.fails("--model model --out a.gguf", 2, &["a.gguf", "--overwrite"]);
    place.works("--model model --out a.gguf --overwrite");
    place.fails("--model model --out home --format gguf", 2, &["home", "is a folder"]);
    place.fails("--model model --out home/letter.txt", 2, &["is a file"]);
    place.fails("--model model --out ./model --overwrite", 2, &["model itself"]);
}

#[test]
fn existing_files_survive_a_failure() {
    let place = Place::new();
    place.works("--model model --out out");
    let before = FILES.map(|file| place.read(&format!("out/{file}")));
    // A folder where a file should be cannot be read, which shows only after the weights are written.
    std::fs::create_dir(place.path("model/vocab.json")).unwrap();
    place.fails("--model model --out out --overwrite", 1, &["vocab.json"]);
    assert_eq!(names(&place.path("out")), FILES, "no temporary files");
    assert_eq!(FILES.map(|file| place.read(&format!("out/{file}"))), before);
    place.fails("--model model --out new", 1, &["vocab.json"]);
    assert!(!place.path("new").exists());
}
