//! GGUF files, read back by a reader of their own that shares nothing with the writer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cli::{Place, error, has, stderr};
use crate::hugging_face::{fixture, open};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value as Json, json};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Error;
use wgpt::formats::folder::Weights;
use wgpt::formats::gguf::{Precision, write};
use wgpt::formats::safetensors::{WeightType, write_weights};
use wgpt::formats::source::ModelSource;
use wgpt::graph::Quantisation;
use wgpt::models::config::{Config, Dropout, Experts, FeedForward};
use wgpt::ops::gelu::Form;

/// A metadata value.
#[derive(Debug, PartialEq)]
enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Integers(Vec<i32>),
    Numbers(Vec<f32>),
    Texts(Vec<String>),
}

/// A tensor's type, its sizes as the file lists them (contiguous first), and its bytes.
struct Stored {
    number: u32,
    sizes: Vec<u64>,
    bytes: Vec<u8>,
}

struct File {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Stored>,
}

/// Takes little-endian values off the front.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        self.at += count;
        &self.bytes[self.at - count..self.at]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }

    fn value(&mut self) -> Value {
        match self.u32() {
            4 => Value::U32(self.u32()),
            6 => Value::F32(f32::from_bits(self.u32())),
            7 => Value::Bool(self.take(1)[0] == 1),
            8 => Value::Text(self.text()),
            9 => match (self.u32(), self.u64()) {
                (6, count) => Value::Numbers((0..count).map(|_| f32::from_bits(self.u32())).collect()),
                (5, count) => Value::Integers((0..count).map(|_| self.u32() as i32).collect()),
                (8, count) => Value::Texts((0..count).map(|_| self.text()).collect()),
                (other, _) => panic!("an array of type {other}"),
            },
            other => panic!("a value of type {other}"),
        }
    }
}

/// Reads a file and checks everything about its layout.
fn read(path: &Path) -> File {
    let bytes = std::fs::read(path).unwrap();
    let mut cursor = Cursor { bytes: &bytes, at: 0 };
    assert_eq!(cursor.take(4), b"GGUF");
    assert_eq!(cursor.u32(), 3, "version");
    let (tensor_count, value_count) = (cursor.u64(), cursor.u64());
    let metadata: BTreeMap<_, _> = (0..value_count).map(|_| (cursor.text(), cursor.value())).collect();
    assert_eq!(metadata.len() as u64, value_count, "a key comes twice");
    let listed: Vec<_> = (0..tensor_count)
        .map(|_| {
            let name = cursor.text();
            let count = cursor.u32();
            let sizes: Vec<u64> = (0..count).map(|_| cursor.u64()).collect();
            (name, sizes, cursor.u32(), cursor.u64())
        })
        .collect();
    let start = cursor.at.next_multiple_of(32);
    assert!(bytes[cursor.at..start].iter().all(|byte| *byte == 0), "padding");
    let mut tensors = BTreeMap::new();
    let mut expected = 0;
    for (name, sizes, number, offset) in listed {
        assert_eq!(offset, expected, "{name} stands where the one before ends, at a multiple of 32");
        let values: u64 = sizes.iter().product();
        let size = match number {
            0 => values * 4,
            1 => values * 2,
            2 => values / 32 * 18,
            8 => values / 32 * 34,
            other => panic!("{name} has type {other}"),
        };
        expected = (offset + size).next_multiple_of(32);
        let from = start + offset as usize;
        tensors.insert(name, Stored { number, sizes, bytes: bytes[from..from + size as usize].to_vec() });
    }
    assert_eq!(bytes.len() as u64, start as u64 + expected, "the file ends with its last tensor's padding");
    assert_eq!(tensors.len() as u64, tensor_count);
    File { metadata, tensors }
}

/// A half from its bits, by the definition of the format.
fn half(bytes: &[u8]) -> f32 {
    let bits = u16::from_le_bytes(bytes.try_into().unwrap());
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    assert_ne!(exponent, 31, "infinite or not a number");
    let magnitude =
        if exponent == 0 { fraction * 2f32.powi(-24) } else { (1024.0 + fraction) * 2f32.powi(exponent - 25) };
    sign * magnitude
}

impl Stored {
    /// All values, and for each how far it may be from the one before rounding.
    fn values(&self, before: &[f32]) -> Vec<(f32, f32)> {
        match self.number {
            0 => self.bytes.chunks(4).map(|b| (f32::from_le_bytes(b.try_into().unwrap()), 0.0)).collect(),
            // Half a unit in the last of 11 bits; below the normal range half of the smallest step.
            1 => self
                .bytes
                .chunks(2)
                .zip(before)
                .map(|(b, v)| (half(b), (v.abs() * 2f32.powi(-11)).max(2f32.powi(-25))))
                .collect(),
            // Half of the exact scale, and 127 times the rounding of the stored one.
            _ => self
                .bytes
                .chunks(34)
                .zip(before.chunks(32))
                .flat_map(|(block, before)| {
                    let exact = before.iter().fold(0f32, |most, v| most.max(v.abs())) / 127.0;
                    let scale = half(&block[..2]);
                    let slack = exact * 0.5 + 127.0 * (exact * 2f32.powi(-11)).max(2f32.powi(-25));
                    let bound = slack * 1.0001; // the arithmetic of this test
                    block[2..].iter().map(move |byte| (scale * f32::from(*byte as i8), bound))
                })
                .collect(),
        }
    }
}

/// A byte-level BPE tokenizer of 259 tokens: bytes, two merges, and a special token.
fn bpe() -> Json {
    let mut json: Json = serde_json::from_slice(Tokenizer::bytes().unwrap().json()).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    for (token, id) in [("he", 256), ("Ġt", 257), ("<|endoftext|>", 258)] {
        vocab.insert(token.into(), id.into());
    }
    json["model"]["merges"] = json!([["h", "e"], ["Ġ", "t"]]);
    json["pre_tokenizer"]["use_regex"] = true.into();
    json["added_tokens"] = json!([{
        "id": 258, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true
    }]);
    json
}

/// A model folder with random weights.
struct Model {
    folder: tempfile::TempDir,
    config: Config,
    values: BTreeMap<String, Vec<f32>>,
}

impl Model {
    fn new(config: Config) -> Model {
        let mut rng = Pcg64::seed_from_u64(7);
        let mut value = || (rng.random::<f32>() - 0.5) * 10f32.powi(rng.random_range(-9..1));
        let shapes = config.parameters();
        let values: BTreeMap<String, Vec<f32>> =
            shapes.iter().map(|(name, s)| (name.clone(), (0..s.iter().product()).map(|_| value()).collect())).collect();
        Model { folder: tempfile::tempdir().unwrap(), config, values }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, tokenizer: &Json, precision: Precision) -> Result<Vec<String>, Error> {
        let named = |(name, shape): (String, Vec<usize>)| {
            let values = &*self.values[&name];
            (name, shape, values)
        };
        let tensors: Vec<_> = self.config.parameters().into_iter().map(named).collect();
        write_weights(&self.path("model.safetensors"), &tensors, &[], WeightType::F32).unwrap();
        let weights = Weights::open(self.folder.path(), &self.config).unwrap();
        let tokenizer = Tokenizer::from_json(serde_json::to_vec(tokenizer).unwrap()).unwrap();
        write(&self.path("model.gguf"), &self.config, &weights, &tokenizer, precision)
    }

    fn written(&self, tokenizer: &Json, precision: Precision) -> File {
        self.write(tokenizer, precision).unwrap();
        read(&self.path("model.gguf"))
    }

    /// The values as the file has them: matrices of linear layers are one row of inputs per output.
    fn expected(&self, name: &str, sizes: &[u64]) -> Vec<f32> {
        let values = &self.values[name];
        if sizes.len() < 2 || !name.starts_with("h.") {
            return values.clone();
        }
        let [rows, columns] = [sizes[1] as usize, sizes[0] as usize]; // of the file
        (0..rows * columns).map(|i| values[i % columns * rows + i / columns]).collect()
    }
}

fn small() -> Config {
    let mut config = Config::new(261, 24, 2, 2, 64);
    config.norm_epsilon = 3e-5;
    config
}

/// llama.cpp's names, from its converter.
fn names(config: &Config) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = [
        ("wte.weight", "token_embd.weight"),
        ("wpe.weight", "position_embd.weight"),
        ("ln_f.weight", "output_norm.weight"),
        ("ln_f.bias", "output_norm.bias"),
    ]
    .map(|(ours, theirs)| (ours.into(), theirs.into()))
    .into();
    let block = [
        ("ln_1", "attn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("ln_2", "ffn_norm"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ];
    if !config.tied {
        all.push(("lm_head.weight".into(), "output.weight".into()));
    }
    for layer in 0..config.layers {
        for (ours, theirs) in block {
            for kind in ["weight", "bias"] {
                all.push((format!("h.{layer}.{ours}.{kind}"), format!("blk.{layer}.{theirs}.{kind}")));
            }
        }
    }
    all
}

/// Every tensor is there, has the type, and its values within the type's rounding; returns the largest share used.
fn compare(model: &Model, file: &File, matrices: u32) -> f32 {
    let names = names(&model.config);
    assert_eq!(file.tensors.len(), names.len());
    let mut most = 0f32;
    for (ours, theirs) in names {
        let stored = &file.tensors[&theirs];
        let matrix = stored.sizes.len() == 2 && ours != "wpe.weight";
        assert_eq!(stored.number, if matrix { matrices } else { 0 }, "type of {theirs}");
        let expected = model.expected(&ours, &stored.sizes);
        let got = stored.values(&expected);
        assert_eq!(got.len(), expected.len(), "{theirs}");
        for (i, ((got, bound), want)) in got.iter().zip(&expected).enumerate() {
            assert!((got - want).abs() <= *bound, "{theirs}[{i}]: {got} for {want}, bound {bound}");
            most = most.max((got - want).abs() / bound.max(f32::MIN_POSITIVE));
        }
    }
    most
}

#[test]
fn metadata_tokens_and_values_are_those_that_llama_cpp_reads() {
    let model = Model::new(Config { inner: 160, tied: false, ..small() });
    let file = model.written(&bpe(), Precision::F32);
    compare(&model, &file, 0);
    assert_eq!(file.tensors["output.weight"].sizes, [64, 261]);
    assert_eq!(file.tensors["token_embd.weight"].sizes, [64, 261]);
    assert_eq!(file.tensors["blk.0.attn_qkv.weight"].sizes, [64, 192]);
    assert_eq!(file.tensors["blk.1.ffn_down.weight"].sizes, [160, 64]);
    assert_eq!(file.tensors["output_norm.bias"].sizes, [64]);

    let text = |text: &str| Value::Text(text.into());
    let mut expected = vec![
        ("general.architecture", text("gpt2")),
        ("general.type", text("model")),
        ("general.name", text("model")),
        ("general.alignment", Value::U32(32)),
        ("general.file_type", Value::U32(0)),
        ("general.quantization_version", Value::U32(2)),
        ("gpt2.context_length", Value::U32(24)),
        ("gpt2.embedding_length", Value::U32(64)),
        ("gpt2.feed_forward_length", Value::U32(160)),
        ("gpt2.block_count", Value::U32(2)),
        ("gpt2.attention.head_count", Value::U32(2)),
        ("gpt2.attention.layer_norm_epsilon", Value::F32(3e-5)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.merges", Value::Texts(vec!["h e".into(), "Ġ t".into()])),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ("tokenizer.ggml.bos_token_id", Value::U32(258)),
        ("tokenizer.ggml.eos_token_id", Value::U32(258)),
    ];
    let mut metadata = file.metadata;
    let Value::Texts(tokens) = metadata.remove("tokenizer.ggml.tokens").unwrap() else { panic!("tokens are texts") };
    let Value::Integers(kinds) = metadata.remove("tokenizer.ggml.token_type").unwrap() else { panic!("types are i32") };
    for (key, value) in expected.drain(..) {
        assert_eq!(metadata.remove(key), Some(value), "{key}");
    }
    assert!(metadata.is_empty(), "nothing else: {metadata:?}");
    assert_eq!((tokens.len(), kinds.len()), (261, 261), "one for each row of the table");
    assert_eq!([&tokens[0], &tokens[65], &tokens[32]], ["Ā", "A", "Ġ"], "bytes in GPT-2's alphabet");
    assert_eq!(tokens[256..], ["he", "Ġt", "<|endoftext|>", "[PAD259]", "[PAD260]"]);
    assert!(kinds[..258].iter().all(|kind| *kind == 1));
    assert_eq!(kinds[258..], [3, 5, 5], "control, unused, unused");
}

#[test]
fn halves_and_blocks_are_rounded_to_the_nearest() {
    let model = Model::new(small());
    for (precision, number, file_type) in [(Precision::F16, 1, 1), (Precision::Q8_0, 8, 7)] {
        let file = model.written(&bpe(), precision);
        assert_eq!(file.metadata["general.file_type"], Value::U32(file_type));
        let share = compare(&model, &file, number);
        assert!(share > 0.5, "the bound is near what rounding does: {share}");
    }
}

#[test]
fn rows_that_make_no_whole_blocks_stay_f32_and_that_is_said() {
    let model = Model::new(Config::new(259, 8, 1, 2, 24));
    let notes = model.write(&bpe(), Precision::Q8_0).unwrap();
    let file = read(&model.path("model.gguf"));
    // Width 24 is not a multiple of 32; the inner width of 96 is.
    for (name, stored) in &file.tensors {
        assert_eq!(stored.number, if name == "blk.0.ffn_down.weight" { 8 } else { 0 }, "{name}");
    }
    assert!(notes.len() == 1 && notes[0].starts_with("4 matrices stay f32"), "{notes:?}");
}

#[test]
fn the_bytes_tokenizer_ends_texts_with_the_byte_that_no_text_has() {
    let model = Model::new(Config::new(256, 8, 1, 2, 32));
    let bytes: Json = serde_json::from_slice(Tokenizer::bytes().unwrap().json()).unwrap();
    let notes = model.write(&bytes, Precision::F32).unwrap();
    let file = read(&model.path("model.gguf"));
    assert_eq!(file.metadata["tokenizer.ggml.merges"], Value::Texts(vec![]));
    assert_eq!(file.metadata["tokenizer.ggml.eos_token_id"], Value::U32(0), "not llama.cpp's default, 11");
    assert!(notes.len() == 1 && notes[0].contains("token 0"), "{notes:?}");

    let named = Config { eos_token_id: vec![65, 66], ..Config::new(256, 8, 1, 2, 32) };
    let file = Model::new(named).written(&bytes, Precision::F32);
    assert_eq!(file.metadata["tokenizer.ggml.eos_token_id"], Value::U32(65), "the first of the model's own");
}

#[test]
fn models_that_llama_cpp_cannot_express_are_refused_in_one_sentence() {
    let chars: Json = serde_json::from_slice(Tokenizer::chars("abc").unwrap().json()).unwrap();
    let change = |pointer: &str, value: Json| {
        let mut json = bpe();
        *json.pointer_mut(pointer).unwrap() = value;
        json
    };
    let erf = Config { feed_forward: FeedForward::Gelu(Form::Erf), ..small() };
    let cases = [
        (small(), chars, "WordLevel"),
        (erf, bpe(), "gelu_new only"),
        (Config::new(258, 8, 1, 2, 32), bpe(), "token id 258"),
        (small(), change("/normalizer", json!({"type": "Lowercase"})), "normalizer"),
        (small(), change("/pre_tokenizer", json!(null)), "pre_tokenizer"),
        (small(), change("/pre_tokenizer/add_prefix_space", true.into()), "add_prefix_space"),
        (small(), change("/pre_tokenizer/use_regex", false.into()), "pre_tokenizer"),
        (small(), change("/added_tokens/0/lstrip", true.into()), "<|endoftext|>"),
        (small(), change("/added_tokens/0/content", "he".into()), "twice"),
        (small(), change("/model/byte_fallback", true.into()), "SentencePiece"),
        (small(), change("/model/ignore_merges", true.into()), "ignore_merges"),
        (Config { family: "GPT", ..small() }, bpe(), "only GPT-2 and the LLaMA family"),
    ];
    for (config, tokenizer, word) in cases {
        let model = Model::new(config);
        let message = model.write(&tokenizer, Precision::F32).expect_err(word).to_string();
        assert!(message.contains(word) && message.contains("cannot be written as GGUF"), "{word}: {message}");
        assert!(!message.contains('\n') && message.contains("hugging-face"), "{message}");
        assert!(!model.path("model.gguf").exists());
    }
}

#[test]
fn values_beyond_a_type_are_refused_and_the_file_from_before_stays() {
    for (precision, value) in [(Precision::F16, 65520.0), (Precision::Q8_0, 1e7)] {
        let mut model = Model::new(small());
        model.values.get_mut("h.1.mlp.c_fc.weight").unwrap()[77] = value;
        std::fs::write(model.path("model.gguf"), "from before").unwrap();
        let message = model.write(&bpe(), precision).unwrap_err().to_string();
        assert!(message.contains("h.1.mlp.c_fc.weight") && message.contains("--dtype f32"), "{message}");
        assert_eq!(std::fs::read(model.path("model.gguf")).unwrap(), b"from before");
        model.write(&bpe(), Precision::F32).unwrap();
    }
}

#[test]
fn a_value_that_is_not_finite_is_written_in_no_precision() {
    let mut model = Model::new(small());
    model.values.get_mut("h.1.mlp.c_fc.weight").unwrap()[77] = f32::NAN;
    for precision in [Precision::F32, Precision::F16, Precision::Q8_0] {
        let message = model.write(&bpe(), precision).unwrap_err().to_string();
        assert!(message.contains("h.1.mlp.c_fc.weight") && message.contains("NaN (number 77 of"), "{message}");
        assert!(!model.path("model.gguf").exists());
    }
}

/// Models that transformers made: those of the LLaMA family without a window, and GPT-2's.
const MODELS: [&str; 11] = [
    "llama_random/llama",
    "llama_random/llama3_rope_biased",
    "llama_random/llama_linear_rope_bfloat16",
    "llama_random/mistral_body",
    "llama_random/mixtral",
    "llama_random/qwen2",
    "llama_random/qwen3",
    "llama_random/qwen3_untied_half",
    "gpt2_random/half",
    "gpt2_random/untied",
    "gpt2_random/sharded",
];

/// A byte-level tokenizer for a model with so many tokens: fewer than 256 bytes are enough for the tests.
fn bytes_for(rows: usize) -> Tokenizer {
    let mut json: Json = serde_json::from_slice(Tokenizer::bytes().unwrap().json()).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|_, id| id.as_u64().unwrap() < rows as u64);
    Tokenizer::from_json(serde_json::to_vec(&json).unwrap()).unwrap()
}

/// Keys that GGUF has no place for, as they are where nothing is said.
fn plain(config: &Config) -> Config {
    let feed_forward = match config.feed_forward {
        FeedForward::Experts(experts) => FeedForward::Experts(Experts { balance: 0.001, z: 0.0, ..experts }),
        other => other,
    };
    Config {
        feed_forward,
        dropout: Dropout::default(),
        initializer_range: 0.02,
        scaled_residual: true,
        ..config.clone()
    }
}

#[test]
fn a_gguf_file_is_the_model_that_it_was_written_from() {
    let place = Place::new();
    for name in MODELS {
        let (config, weights) = open(&fixture(name));
        let tokenizer = bytes_for(config.vocab_size);
        for (precision, quantisation) in [
            (Precision::F32, None),
            (Precision::F16, Some(Quantisation::F16)),
            (Precision::Q8_0, Some(Quantisation::Q8_0)),
            (Precision::Q4_0, Some(Quantisation::Q4_0)),
        ] {
            let path = place.path("model.gguf");
            write(&path, &config, &weights, &tokenizer, precision).unwrap();
            let source = ModelSource::open(&path).unwrap();
            let (again, read) = source.model().unwrap();
            let bos = again.bos_token_id;
            // llama.cpp needs tokens that start and end a text: those that no text has, where the model names none.
            let named = Config { bos_token_id: bos, eos_token_id: again.eos_token_id.clone(), ..config.clone() };
            assert_eq!(plain(&again), plain(&named), "{name}");
            let mut quantised = 0;
            for (parameter, dims) in config.parameters() {
                for (part, dims) in config.parts(&parameter, &dims) {
                    let (got, want) = (read.read(&part).unwrap(), weights.read(&part).unwrap());
                    // Blocks lie along the inputs of a layer, so GPT-2's are of the transpose.
                    let turned = config.family == "GPT-2" && part.starts_with("h.") && dims.len() == 2;
                    let (rows, columns) =
                        if turned { (dims[1], dims[0]) } else { (dims[0], dims.get(1).copied().unwrap_or(1)) };
                    let is_wide =
                        dims.len() < 2 || part == "wpe.weight" || part.ends_with("block_sparse_moe.gate.weight");
                    let block = if precision == Precision::F16 { 1 } else { 32 };
                    let Some(quantisation) = quantisation.filter(|_| !is_wide && columns.is_multiple_of(block)) else {
                        assert_eq!(got, want, "{name}: {part}");
                        continue;
                    };
                    quantised += 1;
                    let at = |i: usize| if turned { i % columns * rows + i / columns } else { i };
                    let in_rows: Vec<f32> = (0..want.len()).map(|i| want[at(i)]).collect();
                    let packed = quantisation.quantise(&in_rows);
                    let expanded = quantisation.dequantise(&packed.words, &packed.scales);
                    for (i, value) in expanded.iter().take(want.len()).enumerate() {
                        assert_eq!(got[at(i)], *value, "{name}: {part}[{i}]");
                    }
                }
            }
            assert!(quantised > 0 || precision != Precision::F16, "{name}");
        }
    }
}

/// llama.cpp's own order of q and k, by the formula of its converter: reshaped to (heads, 2, HS / 2, C), the middle two swapped.
#[test]
fn rows_of_q_and_k_alternate_in_the_architecture_llama_alone() {
    let place = Place::new();
    for (name, alternates) in
        [("llama_random/llama", true), ("llama_random/mixtral", true), ("llama_random/qwen2", false)]
    {
        let (config, weights) = open(&fixture(name));
        write(&place.path("model.gguf"), &config, &weights, &bytes_for(config.vocab_size), Precision::F32).unwrap();
        let file = read(&place.path("model.gguf"));
        for (ours, theirs, heads) in [("q_proj", "attn_q", config.heads), ("k_proj", "attn_k", config.kv_heads)] {
            let values = weights.read(&format!("layers.1.self_attn.{ours}.weight")).unwrap();
            let (half, c) = (config.head_size / 2, config.width);
            let mut expected = vec![];
            for head in 0..heads {
                for i in 0..half {
                    for part in 0..2 {
                        let row = if alternates { part * half + i } else { 2 * i + part };
                        let from = (head * config.head_size + row) * c;
                        expected.extend_from_slice(&values[from..from + c]);
                    }
                }
            }
            let stored = &file.tensors[&format!("blk.1.{theirs}.weight")];
            let got: Vec<f32> = stored.values(&[]).into_iter().map(|(value, _)| value).collect();
            assert_eq!(got, expected, "{name}: {ours}");
        }
        if let Some(experts) = config.experts() {
            let stored = &file.tensors["blk.0.ffn_up_exps.weight"];
            let sizes = [config.width, config.inner, experts.count].map(|n| n as u64);
            assert_eq!(stored.sizes, sizes, "all experts of a layer are one tensor");
            let got = stored.values(&[]);
            let of_second = weights.read("layers.0.block_sparse_moe.experts.1.w3.weight").unwrap();
            assert_eq!(got[of_second.len()].0, of_second[0], "one after another");
        }
    }
}

/// A tokenizer as LLaMA 2's: SentencePiece's bytes and characters, merges of all pairs that make a token.
fn sentencepiece(adds_space: bool) -> Json {
    let mut vocab = serde_json::Map::new();
    let mut merges = vec![];
    let texts = ["<unk>", "<s>", "</s>"].map(String::from).into_iter();
    let texts = texts.chain((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let words = ["he", "th", "the", "\u{2581}the", "\u{2581}t", "in", "\u{2581}\u{2581}"];
    let characters = ["\u{2581}", "t", "h", "e", "i", "n", "é"];
    for text in texts.chain(words.iter().chain(&characters).map(|text| text.to_string())) {
        let id = vocab.len();
        vocab.insert(text, id.into());
    }
    for word in words {
        for (at, _) in word.char_indices().skip(1) {
            let (left, right) = word.split_at(at);
            if vocab.contains_key(left) && vocab.contains_key(right) {
                merges.push(json!([left, right]));
            }
        }
    }
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "special": true, "normalized": false,
        "single_word": false, "lstrip": false, "rstrip": false})
    };
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if adds_space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "\u{2581}"}));
    }
    json!({
        "version": "1.0", "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": normalizers}, "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges},
    })
}

/// A byte-level tokenizer that splits as a kind of model does.
fn split_by(pre_tokenizer: Json, normalizer: Json, ignore_merges: bool) -> Json {
    let mut json = bpe();
    json["pre_tokenizer"] = pre_tokenizer;
    json["normalizer"] = normalizer;
    json["model"]["ignore_merges"] = ignore_merges.into();
    json
}

#[test]
fn tokenizers_come_back_with_the_same_ids() {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let pattern = |digits: &str| {
        let pattern = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, byte_level]})
    };
    let smollm = json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]});
    let cases = [
        ("gpt-2", bpe()),
        ("smollm", split_by(smollm, Json::Null, false)),
        ("llama-bpe", split_by(pattern("{1,3}"), Json::Null, true)),
        ("qwen2", split_by(pattern(""), json!({"type": "NFC"}), false)),
        ("default", sentencepiece(true)),
        ("default", sentencepiece(false)),
    ];
    let texts = [
        "the hen in the tin",
        " he  the\n\nthe",
        "1234 the's THE'S é e\u{301}",
        "<|endoftext|>he</s>the",
        "",
        "東京 🎉",
    ];
    for (pre, json) in cases {
        let model = Model::new(Config::new(280, 8, 1, 2, 32));
        let file = model.written(&json, Precision::F32);
        assert_eq!(file.metadata["tokenizer.ggml.pre"], Value::Text(pre.into()));
        let before = Tokenizer::from_json(serde_json::to_vec(&json).unwrap()).unwrap();
        let after = ModelSource::open(&model.path("model.gguf")).unwrap().tokenizer().unwrap();
        for text in texts {
            let (want, got) = (before.encode(text).unwrap(), after.encode(text).unwrap());
            assert_eq!(got, want, "{pre}: {text:?}");
            assert_eq!(after.encode_prompt(text).unwrap(), before.encode_prompt(text).unwrap(), "{pre}: {text:?}");
            assert_eq!(after.decode(&got).unwrap(), before.decode(&want).unwrap(), "{pre}: {text:?}");
        }
    }
    let mut short = sentencepiece(true);
    short["model"]["merges"].as_array_mut().unwrap().remove(1);
    let model = Model::new(Config::new(280, 8, 1, 2, 32));
    has(&model.write(&short, Precision::F32).unwrap_err().to_string(), &["no merge of", "any two tokens"]);
}

/// The bytes of a file with a text in them replaced by one of the same length.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect(from);
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

#[test]
fn files_that_cannot_be_used_are_refused_in_one_sentence() {
    let model = Model::new(small());
    model.write(&bpe(), Precision::F32).unwrap();
    let good = std::fs::read(model.path("model.gguf")).unwrap();
    // The type of a tensor follows its name, the number of its sizes (u32) and these (u64 each).
    let name = "blk.1.ffn_up.weight";
    let at = good.windows(name.len()).position(|window| window == name.as_bytes()).unwrap() + name.len() + 4 + 16;
    let typed = |number: u8| [&good[..at], &[number], &good[at + 1..]].concat();
    let mut alien = good.clone();
    alien[4] = 9;
    let cases = [
        (typed(12), vec![name, "Q4_K", "Q8_0, Q4_0 and Q6_K"]),
        (typed(99), vec![name, "number 99 of ggml"]),
        (good[..good.len() - 100].to_vec(), vec!["truncated"]),
        (good[..70].to_vec(), vec!["ends at 70 bytes"]),
        (alien, vec!["version 9"]),
        (b"PK\x03\x04 no model".to_vec(), vec!["does not begin with GGUF"]),
        (vec![], vec!["not a GGUF file"]),
        (replaced(&good, "blk.1.ffn_up.weight", "blk.1.ffn_gx.weight"), vec!["lacks blk.1.ffn_up.weight"]),
        (replaced(&good, "gpt-2", "gpt-9"), vec!["pre-tokenizer gpt-9"]),
        (replaced(&good, "general.architecture", "general.architectur_"), vec!["names no architecture"]),
        (replaced(&good, "gpt2.block_count", "gpt2.block_cound"), vec!["no gpt2.block_count"]),
        (replaced(&good, "output_norm.bias", "output_norm.biax"), vec!["lacks output_norm.bias"]),
        (replaced(&good, "tokenizer.ggml.tokens", "tokenizer.ggml.tokenx"), vec!["no list of tokens"]),
    ];
    let path = model.path("changed.gguf");
    for (bytes, words) in cases {
        std::fs::write(&path, bytes).unwrap();
        let message = ModelSource::open(&path).expect_err(words[0]).to_string();
        assert!(message.contains("changed.gguf") && !message.contains('\n'), "{message}");
        has(&message, &words);
    }
}

#[test]
fn commands_take_a_gguf_file_for_a_model() {
    let place = Place::new();
    let good = |arguments: &str| -> String {
        let output = place.wgpt(arguments);
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    good(
        "train --out run --preset llama-mini --layers 1 --heads 4 --kv-heads 2 --width 32 --context 48 --batch 2 --steps 2 \
          --eval-batches 1 --tokenizer bytes --device cpu",
    );
    good("export --model run --out model.gguf");
    good("export --model run --out small.gguf --dtype q4_0");
    good("export --model run --out half.gguf --dtype q8_0");
    let text =
        |model: &str| good(&format!("sample --model {model} --prompt abc --tokens 12 --temperature 0 --device cpu"));
    assert_eq!(text("model.gguf"), text("run"));
    // Quantising values that were quantised once changes none of them.
    assert_eq!(text("small.gguf"), text("small.gguf --base q4_0"));
    assert_eq!(text("small.gguf"), text("run --base q4_0"));
    assert_eq!(text("half.gguf"), text("run --base q8_0"));
    good("export --model small.gguf --out again");
    assert_eq!(text("again"), text("small.gguf"));
    place.write("rows.jsonl", "{\"prompt\": \"ab\", \"completion\": \"cd\"}\n".repeat(8));
    good(
        "sft --model small.gguf --base q4_0 --lora 2 --data rows.jsonl --out tuned --steps 2 --batch 2 \
          --template lines --device cpu",
    );
    let tuned = text("small.gguf --adapter tuned");
    assert_eq!(text("tuned"), tuned, "the adapters name the file that they are on");
    good("merge --adapter tuned --out merged");
    place.write("text.txt", "a cat sat on a mat. ".repeat(8));
    good("eval --model small.gguf --data text.txt --device cpu");
    has(&error(&place.wgpt("export --model model.gguf --out model.gguf --overwrite"), 2), &["is the model itself"]);
    place.write("no.gguf", "nothing");
    has(&error(&place.wgpt("sample --model no.gguf --device cpu"), 1), &["no.gguf", "not a GGUF file"]);
}
