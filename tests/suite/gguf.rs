//! GGUF files, read back by a reader of their own that shares nothing with the writer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value as Json, json};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Error;
use wgpt::formats::folder::Weights;
use wgpt::formats::gguf::{Precision, write};
use wgpt::formats::safetensors::{WeightType, write_weights};
use wgpt::models::config::{Config, FeedForward};
use wgpt::ops::gelu::Form;

/// A metadata value.
#[derive(Debug, PartialEq)]
enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Integers(Vec<i32>),
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
        let tokenizer = serde_json::to_vec(tokenizer).unwrap();
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
        (small(), change("/pre_tokenizer", json!(null)), "ByteLevel"),
        (small(), change("/pre_tokenizer/add_prefix_space", true.into()), "add_prefix_space"),
        (small(), change("/pre_tokenizer/use_regex", false.into()), "use_regex"),
        (small(), change("/added_tokens/0/lstrip", true.into()), "<|endoftext|>"),
        (small(), change("/added_tokens/0/content", "he".into()), "twice"),
        (small(), change("/model/byte_fallback", true.into()), "byte_fallback"),
        (small(), change("/model/merges", json!([["a b", "c"]])), "spaces"),
        (small(), change("/model/vocab", json!([1, 2])), "cannot be read"),
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
