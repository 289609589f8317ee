//! Damaged and hostile model folders and data: every file is mutated from valid ones. Whatever comes, there is a value or one
//! clear line, no panic, and no more memory than the size of the file justifies.
//!
//! `WGPT_FUZZ_CASES` sets how many inputs there are in total:
//!
//!     WGPT_FUZZ_CASES=100000 cargo test --test fuzz
//!
//! A binary of its own, because it counts allocations.

mod counting;
mod data;
mod mutation;

use std::borrow::Cow;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use mutation::{mutated, mutation, mutations};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::formats::adapter::{self, ADAPTER_CONFIG_FILE, ADAPTER_FILE};
use wgpt::formats::folder::{NamedTensor, Weights, write_tensors_to};
use wgpt::formats::generation_config::GenerationConfig;
use wgpt::formats::gguf::{self, Precision};
use wgpt::formats::source::ModelSource;
use wgpt::models::config::Config;
use wgpt::models::initial::initial_values;
use wgpt::models::known_keys::unheeded_of;
use wgpt::models::lora::Lora;
use wgpt::models::network::Network;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Inputs in total where nothing else is asked for: a few seconds.
const CASES: u32 = 3000;
/// The properties below, which share the inputs evenly.
const PROPERTIES: u32 = 16;

fn cases() -> ProptestConfig {
    let total = std::env::var("WGPT_FUZZ_CASES").map_or(CASES, |cases| cases.parse().expect("a number of inputs"));
    ProptestConfig { cases: total.div_ceil(PROPERTIES), failure_persistence: None, ..ProptestConfig::default() }
}

/// Bytes that do not grow with a file: the parameters' names of at most 1024 layers.
const FIXED: usize = 4 << 20;
/// Those of a tokenizer: the regex library keeps a compiled pattern under 10 MiB, and takes up to 26 MB to find out
/// (`\p{L}{1,500}`, the most over repetitions from 33 to 5000).
const PATTERN: usize = 32 << 20;

/// Runs `read` on a file of `size` bytes: an error must be one short line, and the memory must fit the size.
fn bounded<T>(size: usize, read: impl FnOnce() -> Result<T>) -> Option<T> {
    bounded_by(FIXED, size, read)
}

/// As [`bounded`], with `fixed` bytes that do not grow with the file.
fn bounded_by<T>(fixed: usize, size: usize, read: impl FnOnce() -> Result<T>) -> Option<T> {
    let (outcome, peak) = counting::peak(read);
    // A JSON value or a vocabulary's entry takes some hundred bytes for a few in the file.
    let most = fixed + 64 * size;
    assert!(peak <= most, "{peak} bytes of memory at once for a file of {size} bytes");
    outcome
        .map_err(|error| {
            let message = error.to_string();
            assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
            assert!(message.chars().count() < 600, "{message}");
        })
        .ok()
}

fn config() -> Config {
    Config { tied: false, inner: 6, ..Config::new(5, 4, 1, 1, 4) }
}

/// A valid folder of adapters on [`config`]: its settings and its tensors.
fn adapter() -> (Vec<u8>, Vec<u8>) {
    let targets = vec!["c_attn".into(), "mlp.c_proj".into()];
    let lora = Lora { rank: 2, alpha: 4.0, dropout: 0.0, targets, rank_stabilised: false, saved: vec![], base: None };
    let config = Config { lora: Some(lora.clone()), ..config() };
    let network = Network::new(config.clone());
    let adapters = network.parameters().iter().filter(|p| p.adapter);
    let values: Vec<_> = adapters.map(|p| (p.name.clone(), p.dims.clone(), initial_values(p, 1))).collect();
    let tensors: Vec<NamedTensor> = values.iter().map(|(n, d, v)| (n.clone(), d.clone(), v.as_slice())).collect();
    let mut file = vec![];
    write_tensors_to(&mut file, &adapter::stored(&config, &tensors), &[]).unwrap();
    (adapter::config_json(&config, &lora, false).into_bytes(), file)
}

/// A valid `model.safetensors` of [`config`].
fn model() -> Vec<u8> {
    let network = Network::new(Config { initializer_range: 0.1, ..config() });
    let config = network.config();
    let tensors: Vec<_> =
        network.parameters().iter().map(|p| (p.name.clone(), p.dims.clone(), initial_values(p, 1))).collect();
    let tensors: Vec<NamedTensor> = tensors.iter().map(|(n, d, v)| (n.clone(), d.clone(), v.as_slice())).collect();
    let mut bytes = vec![];
    write_tensors_to(&mut bytes, &config.stored(&tensors), &[]).unwrap();
    bytes
}

/// How many files [`gguf_files`] gives.
const GGUFS: usize = 3;

/// Valid GGUF files: GPT-2, and a LLaMA and a Mixtral, in f32 and q4_0.
fn gguf_files() -> &'static [Vec<u8>] {
    static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let tokenizer = Tokenizer::from_json(tokenizers()[0].clone()).unwrap();
        let tokens = tokenizer.vocabulary_size();
        let llama = |preset: &str| Config { vocab_size: tokens, ..Config::preset(preset).unwrap().resized(1, 2, 32) };
        let models = [
            (Config::new(tokens, 4, 1, 1, 32), Precision::F32),
            (llama("llama-mini"), Precision::Q4_0),
            (llama("mixtral"), Precision::Q4_0),
        ];
        let file = |(config, precision): (Config, Precision)| {
            let network = Network::new(config.clone());
            let values: Vec<_> =
                network.parameters().iter().map(|p| (p.name.clone(), p.dims.clone(), initial_values(p, 1))).collect();
            let tensors: Vec<NamedTensor> =
                values.iter().map(|(n, d, v)| (n.clone(), d.clone(), v.as_slice())).collect();
            let folder = tempdir().unwrap();
            let mut bytes = vec![];
            write_tensors_to(&mut bytes, &config.stored(&tensors), &[]).unwrap();
            fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
            let weights = Weights::open(folder.path(), &config).unwrap();
            let path = folder.path().join("model.gguf");
            gguf::write(&path, &config, &weights, &tokenizer, precision).unwrap();
            fs::read(&path).unwrap()
        };
        models.into_iter().map(file).collect()
    })
}

fn header_end(model: &[u8]) -> usize {
    8 + u64::from_le_bytes(model[..8].try_into().unwrap()) as usize
}

/// Opens the weights in a folder and reads all of them.
fn read_weights(folder: &TempDir, size: usize) {
    let config = config();
    bounded(size, || {
        let weights = Weights::open(folder.path(), &config)?;
        for name in weights.names() {
            weights.read_pieces(name, |_, _| Ok(()))?;
        }
        Ok(())
    });
}

/// Loads a tokenizer from files in memory and, if there is one, uses it.
fn use_tokenizer(files: &[(&str, Vec<u8>)]) {
    let find = |name: &str| files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| bytes.clone());
    let read = |name: &str| Ok(find(name).map(Cow::Owned));
    let size = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let load = || Tokenizer::from_model(&read, Path::new("folder"));
    let Some(tokenizer) = bounded_by(PATTERN, size, load) else { return };
    let text = "The model's  weights\n\u{e9}\u{65e5} 12<|endoftext|>x";
    bounded_by(PATTERN, size, || {
        tokenizer.warnings();
        let ids = tokenizer.encode(text)?;
        let mut stream = tokenizer.stream();
        for id in &ids {
            stream.push(*id)?;
        }
        stream.finish()?;
        tokenizer.decode(&ids)?;
        tokenizer.token_bytes();
        for id in (0..tokenizer.vocabulary_size().min(600) as u32).step_by(7) {
            let _ = tokenizer.decode(&[id]);
        }
        tokenizer.encode_within(text, ids.len() / 2)?;
        Ok(())
    });
}

/// Found by fuzzing: a repetition in a pattern multiplies its compiled form.
#[test]
fn patterns_that_grow_when_compiled() {
    for repetitions in [33, 93, 150, 500, 5000] {
        let text = String::from_utf8(tokenizers()[3].clone()).unwrap();
        assert!(text.contains("{1,3}"));
        let text = text.replace("{1,3}", &format!("{{1,{repetitions}}}"));
        use_tokenizer(&[("tokenizer.json", text.into_bytes())]);
    }
}

fn fixture(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)).unwrap()
}

/// Valid `tokenizer.json` files with as many different parts as a few small ones can have.
fn tokenizers() -> Vec<Vec<u8>> {
    let vocabulary = fixture("gpt2_tokenizer/vocab.json");
    let merges = fixture("gpt2_tokenizer/merges.txt");
    let read = |name: &str| {
        Ok(match name {
            "vocab.json" => Some(vocabulary.clone().into()),
            "merges.txt" => Some(merges.clone().into()),
            _ => None,
        })
    };
    let gpt2 = Tokenizer::from_model(&read, Path::new("")).unwrap().json().to_vec();
    let words = json!({"[UNK]": 0, "the": 1, "model": 2, "##s": 3, "'": 4, "x": 5});
    let added = json!([{"id": 6, "content": "<|endoftext|>", "special": true, "normalized": false, "single_word": false,
        "lstrip": false, "rstrip": false}]);
    let word_piece = json!({"version": "1.0", "added_tokens": added,
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0,
            "pad_token": "[UNK]"},
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": words}});
    let unigram = json!({"version": "1.0", "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Metaspace", "replacement": "\u{2581}",
            "prepend_scheme": "always", "split": true}, {"type": "Digits", "individual_digits": true}]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": true,
            "vocab": [["<unk>", 0.0], ["\u{2581}", -1.5], ["the", -2.0], ["m", -3.25], ["<0x0A>", -4.0]]}});
    let regular = json!({"version": "1.0", "added_tokens": [],
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)|[^\\s\\p{L}]+|\\p{L}{1,3}"},
            "behavior": "Isolated", "invert": false},
        "decoder": {"type": "BPEDecoder", "suffix": "</w>"},
        "model": {"type": "BPE", "unk_token": "?", "fuse_unk": true, "byte_fallback": false, "ignore_merges": true,
            "end_of_word_suffix": "</w>", "vocab": {"?": 0, "t": 1, "h": 2, "th": 3, "e</w>": 4},
            "merges": [["t", "h"]]}});
    let characters = Tokenizer::chars("The model'swight \n12\u{e9}").unwrap().json().to_vec();
    let bytes = Tokenizer::bytes().unwrap().json().to_vec();
    let text = |value: Value| value.to_string().into_bytes();
    vec![gpt2, text(word_piece), text(unigram), text(regular), characters, bytes]
}

#[test]
fn the_unmutated_files_are_accepted() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("model.safetensors"), model()).unwrap();
    Weights::open(folder.path(), &config()).unwrap();
    for file in gguf_files() {
        let path = folder.path().join("model.gguf");
        fs::write(&path, file).unwrap();
        ModelSource::open(&path).unwrap().model().unwrap();
    }
    for json in tokenizers() {
        let read = |name: &str| Ok((name == "tokenizer.json").then(|| json.clone().into()));
        Tokenizer::from_model(&read, Path::new("")).map(drop).unwrap();
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn safetensors(changes in mutations(), keep_length in any::<bool>(), summed in any::<bool>(), data in 0..3usize) {
        let mut good = model();
        if !summed {
            // Without the checksum that files from here have, damaged values are read.
            let key = good.windows(11).position(|key| key == b"wgpt_sha256").unwrap();
            good[key] = b'x';
        }
        let end = header_end(&good);
        let mut bytes = if keep_length {
            mutated(&good, &changes)
        } else {
            // A header that is found to have its length gets further.
            let header = mutated(&good[8..end], &changes);
            [&(header.len() as u64).to_le_bytes()[..], &header, &good[end..]].concat()
        };
        bytes.extend(vec![0; 4 * data]);
        let folder = tempdir().unwrap();
        fs::write(folder.path().join("model.safetensors"), &bytes).unwrap();
        read_weights(&folder, bytes.len());
    }

    #[test]
    fn adapters(changes in mutations(), of_weights in any::<bool>()) {
        let base = tempdir().unwrap();
        fs::write(base.path().join("model.safetensors"), model()).unwrap();
        fs::write(base.path().join("config.json"), config().to_json()).unwrap();
        let folder = tempdir().unwrap();
        let (settings, tensors) = adapter();
        let size = settings.len() + tensors.len() + model().len();
        let changed = |is: bool, bytes: Vec<u8>| if is { mutated(&bytes, &changes) } else { bytes };
        fs::write(folder.path().join(ADAPTER_CONFIG_FILE), changed(!of_weights, settings)).unwrap();
        fs::write(folder.path().join(ADAPTER_FILE), changed(of_weights, tensors)).unwrap();
        bounded(size, || {
            let source = ModelSource::folder(base.path()).adapted(folder.path());
            let config = source.config()?;
            source.warnings()?;
            let (_, weights) = source.weights(&config)?.merge(&config);
            weights.names().iter().try_for_each(|name| weights.read(name).map(|_| ()))
        });
    }

    #[test]
    fn ggufs(changes in mutations(), source in 0..GGUFS) {
        let bytes = mutated(&gguf_files()[source], &changes);
        let folder = tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        fs::write(&path, &bytes).unwrap();
        bounded_by(PATTERN, bytes.len(), || {
            let source = ModelSource::open(&path)?;
            source.warnings()?;
            let (config, weights) = source.model()?;
            weights.names().iter().try_for_each(|name| weights.read(name).map(|_| ()))?;
            let tokenizer = source.tokenizer()?.for_model(config.vocab_size, &path)?;
            tokenizer.encode("the model's 12")?;
            Ok(())
        });
    }

    #[test]
    fn indices(changes in mutations()) {
        let good = model();
        let folder = tempdir().unwrap();
        let names: Vec<String> = {
            fs::write(folder.path().join("one.safetensors"), &good).unwrap();
            let header: Value = serde_json::from_slice(&good[8..header_end(&good)]).unwrap();
            header.as_object().unwrap().keys().filter(|name| *name != "__metadata__").cloned().collect()
        };
        let map: serde_json::Map<_, _> = names.into_iter().map(|name| (name, json!("one.safetensors"))).collect();
        let index = json!({"metadata": {"total_size": 1000}, "weight_map": map}).to_string();
        let index = mutated(index.as_bytes(), &changes);
        fs::write(folder.path().join("model.safetensors.index.json"), &index).unwrap();
        read_weights(&folder, good.len() + index.len());
    }

    #[test]
    fn configs(changes in mutations(), source in 0..3usize) {
        let bytes = match source {
            0 => config().to_json().into_bytes(),
            1 => fixture("gpt2_random/bfloat16_untied/config.json"),
            _ => br#"{"model_type": "gpt2", "num_hidden_layers": 2, "n_head": 2, "n_embd": 16, "n_positions": 8,
                "vocab_size": 9, "pruned_heads": {}, "architectures": ["GPT2Model"], "n_inner": 9}"#.to_vec(),
        };
        let bytes = mutated(&bytes, &changes);
        let text = String::from_utf8_lossy(&bytes);
        bounded(text.len(), || {
            let config = Config::from_json(&text, Path::new("config.json"))?;
            assert!(config.parameter_count() > 0 && config.head_size <= 128);
            unheeded_of(&text).map_err(Error::Input)?;
            assert_eq!(Config::from_json(&config.to_json(), Path::new("written"))?, config);
            Ok(())
        });
    }

    #[test]
    fn generation_configs(changes in mutations()) {
        let good = br#"{"bos_token_id": 50256, "eos_token_id": [50256, 7], "do_sample": true, "temperature": 0.7,
            "top_k": 50, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2, "num_beams": 4, "length_penalty": -0.5,
            "early_stopping": "never", "max_new_tokens": 100, "no_repeat_ngram_size": 3, "suppress_tokens": [1]}"#;
        let bytes = mutated(good, &changes);
        let text = String::from_utf8_lossy(&bytes);
        bounded(text.len(), || {
            let read = GenerationConfig::from_json(&text, Path::new("generation_config.json"))?;
            // Keys that are not obeyed are handed on, and warned of again.
            assert_eq!(GenerationConfig::from_json(&read.to_json(), Path::new("written"))?, read);
            Ok(())
        });
    }

    #[test]
    fn tokenizer_files(changes in mutations(), which in any::<prop::sample::Index>()) {
        thread_local!(static GOOD: Vec<Vec<u8>> = tokenizers());
        let bytes = GOOD.with(|good| mutated(&good[which.index(good.len())], &changes));
        use_tokenizer(&[("tokenizer.json", bytes)]);
    }

    #[test]
    fn vocabularies(changes in prop::collection::vec((0..4usize, mutation()), 1..6)) {
        thread_local!(static GOOD: [Vec<u8>; 2] =
            ["vocab.json", "merges.txt"].map(|file| fixture(&format!("gpt2_tokenizer/{file}"))));
        let [vocabulary, merges] = GOOD.with(Clone::clone);
        let mut files = [
            ("vocab.json", vocabulary),
            ("merges.txt", merges),
            ("added_tokens.json", br#"{"<a>": 501, "<b>": 502}"#.to_vec()),
            ("tokenizer_config.json", br#"{"add_prefix_space": true, "model_max_length": 1024}"#.to_vec()),
        ];
        for (file, change) in &changes {
            files[*file].1 = mutated(&files[*file].1, std::slice::from_ref(change));
        }
        use_tokenizer(&files);
    }
}
