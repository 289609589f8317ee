//! Model folders, run folders, logs, schedules and plots: what is written is read back with the same bits, and what is
//! damaged, contradictory or interrupted gives one clear line and never a panic.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::tempdir;
use wgpt::error::Error;
use wgpt::files;
use wgpt::formats::folder::{self, NamedTensor, TensorFile, WeightType, Weights};
use wgpt::models::config::{Config, Dropout, FeedForward};
use wgpt::models::presets::PRESETS;
use wgpt::ops::gelu::Form;
use wgpt::train::checkpoint::{Checkpoint, LoadedCheckpoint, Mode, RunFolder};
use wgpt::train::record::Record;
use wgpt::train::schedule::{Schedule, ScheduleKind};
use wgpt::train::sinks::Sink;
use wgpt::train::sinks::console::line as console_line;
use wgpt::train::sinks::log::{self, Log};
use wgpt::train::sinks::plot::{self, Plot};

// --- config.json ----------------------------------------------------------------------------------------------------

#[test]
fn parameter_counts_are_those_of_the_published_models() {
    let published =
        [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)];
    for (name, count) in published {
        let config = Config::preset(name).unwrap();
        assert_eq!(config.parameter_count(), count, "{name}");
    }
    for preset in PRESETS {
        Config::preset(preset.name).unwrap().validate().unwrap();
    }
    let message = one_line(Config::preset("gpt3").unwrap_err());
    assert!(message.contains("gpt3") && message.contains("gpt2-xl"), "{message}");
}

#[test]
fn parameters_have_the_names_and_shapes_of_hugging_face() {
    let parameters = Config::new(11, 5, 2, 2, 8).parameters();
    let find = |name: &str| parameters.iter().find(|(found, _)| found == name).map(|(_, shape)| shape.clone());
    assert_eq!(parameters.len(), 2 + 2 * 12 + 2);
    assert_eq!(parameters[0], ("wte.weight".into(), vec![11, 8]));
    assert_eq!(parameters[1], ("wpe.weight".into(), vec![5, 8]));
    assert_eq!(parameters[2].0, "h.0.ln_1.weight");
    assert_eq!(find("h.1.attn.c_attn.weight"), Some(vec![8, 24]));
    assert_eq!(find("h.1.mlp.c_fc.bias"), Some(vec![32]));
    assert_eq!(find("h.1.mlp.c_proj.weight"), Some(vec![32, 8]));
    assert_eq!(parameters.last().unwrap(), &("ln_f.bias".into(), vec![8]));
}

#[test]
fn the_published_config_of_gpt2_is_read() {
    let text = r#"{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_inner": null,
        "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": null, "summary_type": "cls_index",
        "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}}, "vocab_size": 50257}"#;
    let config = Config::from_json(text, Path::new("config.json")).unwrap();
    let mut expected = Config::preset("gpt2").unwrap();
    expected.dropout = Dropout { embedding: 0.1, attention: 0.1, residual: 0.1 };
    (expected.bos_token_id, expected.eos_token_id) = (Some(50256), vec![50256]);
    assert_eq!(config, expected);
}

#[test]
fn config_survives_a_round_trip() {
    let mut config = Config::new(65, 32, 3, 4, 64);
    config.feed_forward = FeedForward::Gelu(Form::Erf);
    config.dropout = Dropout { embedding: 0.1, attention: 0.2, residual: 0.3 };
    config.norm_epsilon = 1e-6;
    config.eos_token_id = vec![7];
    let text = config.to_json();
    assert_eq!(Config::from_json(&text, Path::new("config.json")).unwrap(), config);
    assert!(text.contains("\"embd_pdrop\": 0.1,"), "floats keep their short form: {text}");
    let object: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(object["architectures"], json!(["GPT2LMHeadModel"]));
    assert_eq!((&object["n_ctx"], &object["torch_dtype"]), (&json!(32), &json!("float32")));
}

#[test]
fn bad_configs_are_refused_by_the_name_of_the_key() {
    let good: Value = serde_json::from_str(&small_config().to_json()).unwrap();
    let bad = [
        ("n_layer", json!(0)),
        ("n_layer", json!(1025)),
        ("n_layer", json!(-3)),
        ("n_layer", json!(2.5)),
        ("n_layer", json!("2")),
        ("n_head", json!(3)),
        ("n_head", json!(8)),
        ("n_embd", json!(u64::MAX)),
        ("n_embd", json!(70000)),
        ("n_positions", json!(1 << 21)),
        ("vocab_size", json!(0)),
        ("vocab_size", json!(1 << 25)),
        ("n_inner", json!(0)),
        ("model_type", json!("bloom")),
        ("activation_function", json!("relu")),
        ("activation_function", json!("gelu\nnew")),
        ("layer_norm_epsilon", json!(0.0)),
        ("layer_norm_epsilon", json!(1e300)),
        ("layer_norm_epsilon", json!("x")),
        ("attn_pdrop", json!(1.0)),
        ("embd_pdrop", json!(-0.1)),
        ("resid_pdrop", json!([])),
        ("tie_word_embeddings", json!(1)),
        ("scale_attn_weights", json!(false)),
        ("scale_attn_by_inverse_layer_idx", json!(true)),
        ("add_cross_attention", json!(true)),
    ];
    for (key, value) in bad {
        let mut object = good.clone();
        object[key] = value.clone();
        let message = refused_config(&object.to_string());
        let named = message.contains(key) || (key == "n_head" && message.contains("head size"));
        assert!(named, "{key} = {value}: {message}");
    }
    for key in ["n_layer", "n_head", "n_embd", "n_positions", "vocab_size"] {
        let mut object = good.clone();
        object.as_object_mut().unwrap().remove(key);
        let message = refused_config(&object.to_string());
        assert!(message.contains(key) && message.contains("missing"), "{message}");
    }
    for text in ["", "[]", "null", "{", "{\"n_layer\": NaN}", "\u{0}", "{\"a\n\": }"] {
        refused_config(text);
    }
}

#[test]
fn head_sizes_are_multiples_of_four_up_to_128() {
    let accepted: Vec<usize> = (1..=200).filter(|head| Config::new(10, 8, 1, 2, 2 * head).validate().is_ok()).collect();
    assert_eq!(accepted, (4..=128).step_by(4).collect::<Vec<_>>());
}

// --- files ----------------------------------------------------------------------------------------------------------

#[test]
fn atomic_writes_replace_or_leave_alone() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("file");
    files::write_atomic(&path, |w| w.write_all(b"one")).unwrap();
    files::write_atomic(&path, |w| w.write_all(b"two")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    let full = files::write_atomic(&path, |w| {
        w.write_all(&vec![7; 3 << 20])?; // more than is buffered, so that some of it reaches the disk
        Err(ErrorKind::StorageFull.into())
    });
    let message = one_line(full.unwrap_err());
    assert!(message.contains("file") && message.contains("kept"), "{message}");
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(names(folder.path()), ["file"], "a temporary file was left behind");
    one_line(files::write_atomic(&folder.path().join("none/file"), |_| Ok(())).unwrap_err());
}

#[cfg(unix)]
#[test]
fn atomic_writes_have_the_permissions_of_ordinary_ones() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempdir().unwrap();
    let [atomic, ordinary] = ["atomic", "ordinary"].map(|name| folder.path().join(name));
    files::write_atomic(&atomic, |w| w.write_all(b"x")).unwrap();
    fs::write(&ordinary, b"x").unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&atomic), mode(&ordinary));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_noticed_even_if_only_the_last_flush_meets_it() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = files::write_synced(full(), |w| w.write_all(b"few bytes")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let values = vec![1.0; 1 << 19];
    let tensors = [("wte.weight".to_string(), vec![values.len()], values.as_slice())];
    let error = files::write_synced(full(), |w| folder::write_tensors_to(w, &tensors, &[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
}

#[test]
fn a_writer_that_fails_anywhere_fails_the_tensors() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.0.min(bytes.len());
            self.0 -= room;
            if room == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(room) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let tensors = tensors(&small_config(), 1);
    let mut whole = Vec::new();
    folder::write_tensors_to(&mut whole, &named(&tensors), &[]).unwrap();
    for room in (0..whole.len()).step_by(97) {
        let error = folder::write_tensors_to(&mut Full(room), &named(&tensors), &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "room for {room} bytes");
    }
    folder::write_tensors_to(&mut Full(whole.len()), &named(&tensors), &[]).unwrap();
}

// --- model folder ---------------------------------------------------------------------------------------------------

#[test]
fn weights_survive_a_round_trip_with_every_bit() {
    let folder = tempdir().unwrap();
    let config = small_config();
    let mut tensors = tensors(&config, 1);
    tensors[0].2[..4].copy_from_slice(&[f32::NAN, f32::NEG_INFINITY, -0.0, f32::from_bits(1)]);
    let path = write_model(folder.path(), &config, &tensors);
    let weights = Weights::open(folder.path(), &folder::read_config(folder.path()).unwrap()).unwrap();
    let file = TensorFile::open(&path).unwrap();
    for (i, (name, _, values)) in tensors.iter().enumerate() {
        assert_eq!(bits(&file.read(&format!("transformer.{name}")).unwrap()), bits(values), "{name}");
        // A model's weights are numbers.
        assert_eq!(weights.read(name).is_ok_and(|read| bits(&read) == bits(values)), i > 0, "{name}");
    }
    assert!(file.names().iter().all(|name| name.starts_with("transformer.")), "{:?}", file.names());
    assert_eq!(file.metadata("format"), Some("pt"));
    assert_eq!(file.metadata("note"), Some("kept"));
    assert_eq!(file.shape("transformer.wpe.weight"), Some(&[8, 8][..]));
    // The crate's own reader is a second opinion on the format.
    let bytes = fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("transformer.ln_f.bias").unwrap().shape(), [8]);
    // Same input, same bytes.
    write_model(folder.path(), &config, &tensors);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn names_with_and_without_prefix_and_old_buffers_are_read() {
    let folder = tempdir().unwrap();
    let config = small_config();
    let tensors = tensors(&config, 1);
    for prefix in ["", "transformer."] {
        let mut list: Vec<_> = tensors.iter().map(|t| foreign(&format!("{prefix}{}", t.0), "F32", t)).collect();
        let mask = ("".to_string(), vec![1, 1, 8, 8], vec![1.0; 64]);
        list.push(foreign(&format!("{prefix}h.1.attn.bias"), "F32", &mask));
        list.push(foreign(&format!("{prefix}h.1.attn.masked_bias"), "F32", &("".into(), vec![], vec![-1e4])));
        list.push(foreign("lm_head.weight", "F32", &tensors[0]));
        write_foreign(folder.path(), &list);
        let weights = Weights::open(folder.path(), &config).unwrap();
        assert_eq!(weights.read("h.1.ln_2.bias").unwrap(), tensors[2 + 12 + 7].2, "prefix {prefix:?}");
    }
}

#[test]
fn wrong_model_files_are_refused_with_the_name_of_the_faulty_part() {
    let folder = tempdir().unwrap();
    let config = small_config();
    let good: Vec<_> = tensors(&config, 1).iter().map(|t| foreign(&t.0, "F32", t)).collect();
    let refused = |list: &[Foreign], part: &str| {
        write_foreign(folder.path(), list);
        let message = one_line(Weights::open(folder.path(), &config).unwrap_err());
        assert!(message.contains(part) && message.contains("model.safetensors"), "{part}: {message}");
    };
    let with = |change: &dyn Fn(&mut Vec<Foreign>)| {
        let mut list = good.clone();
        change(&mut list);
        list
    };
    refused(&with(&|l| drop(l.remove(5))), "h.0.attn.c_attn.bias");
    refused(&with(&|l| drop(l.drain(4..9))), "and 4 more");
    refused(&with(&|l| l[3].shape = vec![4, 2]), "h.0.ln_1.bias");
    refused(&with(&|l| l[4].shape = vec![24, 8]), "[24, 8]");
    refused(&with(&|l| l.push(Foreign { name: "h.2.ln_1.bias".into(), ..l[3].clone() })), "h.2.ln_1.bias");
    refused(&with(&|l| l.push(Foreign { name: "evil\nname".into(), ..l[3].clone() })), "evil name");
    refused(&with(&|l| l.push(Foreign { name: "transformer.wte.weight".into(), ..l[0].clone() })), "both");
    refused(&with(&|l| l[2].dtype = "I32"), "I32");
    refused(&with(&|l| l.push(Foreign { name: "lm_head.weight".into(), ..l[1].clone() })), "lm_head.weight");
    let untied = |l: &mut Vec<Foreign>| {
        let mut head = Foreign { name: "lm_head.weight".into(), ..l[0].clone() };
        head.bytes[3] ^= 1;
        l.push(head);
    };
    refused(&with(&untied), "lm_head.weight differs");
    write_foreign(folder.path(), &good);
    Weights::open(folder.path(), &config).unwrap();
    let message = one_line(Weights::open(folder.path(), &config).unwrap().read("h.9.ln_1.bias").unwrap_err());
    assert!(message.contains("h.9.ln_1.bias"), "{message}");
}

#[test]
fn folders_without_a_model_are_refused() {
    let folder = tempdir().unwrap();
    let config = small_config();
    let message = one_line(folder::read_config(folder.path()).unwrap_err());
    assert!(message.contains("no config.json"), "{message}");
    let message = one_line(Weights::open(folder.path(), &config).unwrap_err());
    assert!(message.contains("no model.safetensors"), "{message}");
    fs::write(folder.path().join("config.json"), [0xff, 0xfe]).unwrap();
    one_line(folder::read_config(folder.path()).unwrap_err());
    fs::write(folder.path().join("model.safetensors"), b"").unwrap();
    one_line(Weights::open(folder.path(), &config).unwrap_err());
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    one_line(Weights::open(folder.path(), &config).unwrap_err());
}

#[test]
fn every_half_and_every_bfloat_is_converted_exactly() {
    let folder = tempdir().unwrap();
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let tensor = |name: &str, dtype| Foreign { name: name.into(), dtype, shape: vec![65536], bytes: bytes.clone() };
    let path = write_foreign(folder.path(), &[tensor("half", "F16"), tensor("brain", "BF16")]);
    let file = TensorFile::open(&path).unwrap();
    let (half, brain) = (file.read("half").unwrap(), file.read("brain").unwrap());
    for bits in 0..=u16::MAX {
        let (sign, exponent, fraction) =
            (if bits >> 15 == 1 { -1.0 } else { 1.0 }, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
        let expected = match exponent {
            0 => sign * fraction * 2f64.powi(-24),
            31 if fraction == 0.0 => sign * f64::INFINITY,
            31 => f64::NAN,
            _ => sign * (1024.0 + fraction) * 2f64.powi(exponent - 25),
        } as f32;
        let found = half[usize::from(bits)];
        assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{bits:#x}: {found}");
        assert_eq!(brain[usize::from(bits)].to_bits(), u32::from(bits) << 16);
    }
}

#[test]
fn values_that_are_not_aligned_are_read() {
    let folder = tempdir().unwrap();
    let header = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    for padding in 0..4 {
        let mut bytes = ((header.len() + padding) as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(vec![b' '; padding]);
        bytes.extend([1.5f32, -2.0].map(f32::to_le_bytes).concat());
        let path = folder.path().join("a.safetensors");
        fs::write(&path, bytes).unwrap();
        assert_eq!(*TensorFile::open(&path).unwrap().read("a").unwrap(), [1.5, -2.0]);
    }
}

#[test]
fn no_flipped_bit_in_the_values_goes_unnoticed() {
    let folder = tempdir().unwrap();
    let config = Config::new(5, 4, 1, 1, 4);
    let path = write_model(folder.path(), &config, &tensors(&config, 1));
    let good = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut header_flips_noticed = 0;
    for at in (0..good.len()).step_by(3) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, bytes).unwrap();
        match Weights::open(folder.path(), &config) {
            Err(error) => {
                let message = one_line(error);
                assert!(message.contains("model.safetensors"), "byte {at}: {message}");
                header_flips_noticed += usize::from(at < header);
            }
            // Only a flip in the header's notes or padding may leave the model whole.
            Ok(weights) => {
                assert!(at < header, "a flipped bit in byte {at} was not noticed");
                config.parameters().iter().for_each(|(name, _)| drop(weights.read(name).unwrap()));
            }
        }
    }
    assert!(header_flips_noticed > header / 4, "{header_flips_noticed} of {header} header bytes");
}

#[test]
fn truncated_models_are_refused() {
    let folder = tempdir().unwrap();
    let config = Config::new(5, 4, 1, 1, 4);
    let path = write_model(folder.path(), &config, &tensors(&config, 1));
    let good = fs::read(&path).unwrap();
    for length in (0..good.len()).step_by(7).chain([good.len() - 1]) {
        fs::write(&path, &good[..length]).unwrap();
        let message = one_line(Weights::open(folder.path(), &config).unwrap_err());
        assert!(message.contains("damaged"), "{length} bytes: {message}");
    }
    fs::write(&path, [&good[..], b"x"].concat()).unwrap();
    one_line(Weights::open(folder.path(), &config).unwrap_err());
}

#[test]
fn hostile_headers_are_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    // A sum of sizes that overflows 64 bits only when the header's own length is added.
    let halves = format!(
        r#"{{"a":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}},
            "b":{{"dtype":"U8","shape":[{0}],"data_offsets":[{0},{1}]}},
            "c":{{"dtype":"U8","shape":[{0}],"data_offsets":[{1},{2}]}}}}"#,
        (1u64 << 61) - 1,
        (1u64 << 62) - 2,
        3 * ((1u64 << 61) - 1),
    );
    let deep = "[".repeat(100_000);
    let headers = [
        r#"{"a":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[4294967296,4294967312]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,16]}}"#,
        r#"{"a":{"dtype":"F99\n","shape":[4],"data_offsets":[0,16]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},
            "b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}"#,
        r#"{"__metadata__":7}"#,
        "[]",
        "",
        &halves,
        &deep,
    ];
    for header in headers {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 16]);
        fs::write(&path, &bytes).unwrap();
        one_line(TensorFile::open(&path).unwrap_err());
    }
    for length in [u64::MAX, u64::MAX - 7, 1 << 40, 1 << 63] {
        fs::write(&path, [&length.to_le_bytes()[..], b"{}"].concat()).unwrap();
        one_line(TensorFile::open(&path).unwrap_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_model(
        header in prop::collection::vec(any::<u8>(), 0..200),
        length in prop::option::of(any::<u64>()),
    ) {
        let folder = tempdir().unwrap();
        let length = length.unwrap_or(header.len() as u64 / 2);
        fs::write(folder.path().join("model.safetensors"), [&length.to_le_bytes()[..], &header].concat()).unwrap();
        one_line(Weights::open(folder.path(), &small_config()).unwrap_err());
    }

    #[test]
    fn random_json_headers_never_panic(
        dtype in prop::sample::select(vec!["F32", "F16", "F64", "U8", "F4", "BOOL", "X"]),
        shape in prop::collection::vec(prop_oneof![0..9u64, any::<u64>()], 0..4),
        start in prop_oneof![Just(0u64), any::<u64>()],
        end in prop_oneof![0..40u64, any::<u64>()],
    ) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let header = json!({"a": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 32]);
        fs::write(&path, bytes).unwrap();
        match TensorFile::open(&path) {
            Ok(file) => prop_assert!(file.read("a").map_or(true, |values| values.len() <= 16)),
            Err(error) => drop(one_line(error)),
        }
    }

    #[test]
    fn random_configs_never_panic(
        key in prop::sample::select(vec!["n_layer", "n_head", "n_embd", "n_positions", "vocab_size"]),
        value in any::<i64>(),
    ) {
        let mut object: Value = serde_json::from_str(&small_config().to_json()).unwrap();
        object[key] = json!(value);
        object.as_object_mut().unwrap().remove("n_ctx");
        if let Ok(config) = Config::from_json(&object.to_string(), Path::new("config.json")) {
            prop_assert!(config.parameter_count() > 0);
        }
    }
}

// --- run folder -----------------------------------------------------------------------------------------------------

#[test]
fn a_checkpoint_comes_back_with_every_bit() {
    let folder = tempdir().unwrap();
    let root = folder.path().join("deep/run");
    let run = RunFolder::create(&root, Mode::Fresh).unwrap();
    assert!(run.latest().unwrap().is_none());
    save(&run, 120).unwrap();
    drop(run);
    let run = RunFolder::open(&root).unwrap();
    let loaded = run.latest().unwrap().unwrap();
    assert_is_step(&loaded, 120);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    // The top of the folder is a model folder of its own.
    let config = folder::read_config(&root).unwrap();
    let weights = Weights::open(&root, &config).unwrap();
    assert_eq!(weights.read("wpe.weight").unwrap(), tensors(&config, 120)[1].2);
    assert_eq!(fs::read(root.join("tokenizer.json")).unwrap(), b"{\"tokens\": []}");
    let expected = ["config.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json", "trainer.json"];
    assert!(expected.iter().all(|name| names(&root).contains(&name.to_string())), "{:?}", names(&root));
}

#[test]
fn the_last_three_checkpoints_are_kept() {
    let folder = tempdir().unwrap();
    let run = RunFolder::create(folder.path(), Mode::Fresh).unwrap();
    for step in [10, 20, 30, 40, 999_999, 1_000_000] {
        save(&run, step).unwrap();
    }
    assert_eq!(run.steps().unwrap(), [1_000_000, 999_999, 40]);
    assert_eq!(names(&folder.path().join("checkpoints")), ["step-000040", "step-1000000", "step-999999"]);
    assert_is_step(&run.latest().unwrap().unwrap(), 1_000_000);
    assert!(names(folder.path()).iter().all(|name| !name.starts_with(files::TEMPORARY_PREFIX)));
}

#[test]
fn saving_a_step_again_replaces_it() {
    let folder = tempdir().unwrap();
    let run = RunFolder::create(folder.path(), Mode::Fresh).unwrap();
    save(&run, 10).unwrap();
    save_with(&run, 10, 77).unwrap();
    assert_eq!(names(&folder.path().join("checkpoints")), ["step-000010"]);
    let loaded = run.latest().unwrap().unwrap();
    assert_eq!(loaded.weights.read("wte.weight").unwrap(), tensors(&small_config(), 77)[0].2);
}

#[test]
fn any_damage_to_any_file_falls_back_with_a_warning() {
    for name in
        ["config.json", "model.safetensors", "tokenizer.json", "optimizer.safetensors", "trainer.json", "SHA256SUMS"]
    {
        let folder = tempdir().unwrap();
        let run = RunFolder::create(folder.path(), Mode::Fresh).unwrap();
        save(&run, 10).unwrap();
        save(&run, 20).unwrap();
        let path = run.directory(20).join(name);
        let good = fs::read(&path).unwrap();
        let falls_back = |what: &str| {
            let loaded = run.latest().unwrap().unwrap();
            assert_is_step(&loaded, 10);
            let [warning] = &loaded.warnings[..] else { panic!("{what}: {:?}", loaded.warnings) };
            assert!(warning.contains("step-000020") && !warning.contains('\n'), "{warning}");
        };
        // Replaced, not changed in place: the links at the top of the folder keep the good file.
        let replace = |bytes: &[u8]| {
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
        };
        for at in [0, good.len() / 3, good.len() / 2, good.len() - 2] {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            replace(&bytes);
            falls_back(&format!("{name}, byte {at}"));
        }
        replace(&good[..good.len() / 2]);
        falls_back(&format!("{name}, truncated"));
        fs::remove_file(&path).unwrap();
        falls_back(&format!("{name}, missing"));
        fs::write(&path, &good).unwrap();
        assert_is_step(&run.latest().unwrap().unwrap(), 20);
    }
}

#[test]
fn training_that_fell_back_is_resumed_next() {
    let folder = tempdir().unwrap();
    let run = RunFolder::create(folder.path(), Mode::Fresh).unwrap();
    [10, 20].into_iter().for_each(|step| save(&run, step).unwrap());
    fs::write(run.directory(20).join("trainer.json"), b"{").unwrap();
    assert_is_step(&run.latest().unwrap().unwrap(), 10);
    save(&run, 15).unwrap();
    assert_eq!(run.steps().unwrap(), [15, 10], "the damaged step 20 is no longer part of the run");
    fs::write(run.directory(10).join("trainer.json"), b"{").unwrap();
    fs::write(run.directory(15).join("trainer.json"), b"{").unwrap();
    let message = one_line(run.latest().unwrap_err());
    assert!(message.contains("every checkpoint"), "{message}");
}

#[test]
fn leftovers_of_a_crash_are_cleared_and_the_last_complete_checkpoint_resumes() {
    let folder = tempdir().unwrap();
    let run = RunFolder::create(folder.path(), Mode::Fresh).unwrap();
    [10, 20].into_iter().for_each(|step| save(&run, step).unwrap());
    let checkpoints = folder.path().join("checkpoints");
    drop(run);
    // In the middle of writing 30, of deleting 5, between the two renames that replace 20, and in the middle of
    // making the files at the top.
    for (name, file) in [("step-000030.tmp", "config.json"), ("step-000005.deleted", "model.safetensors")] {
        fs::create_dir(checkpoints.join(name)).unwrap();
        fs::write(checkpoints.join(name).join(file), b"{").unwrap();
    }
    fs::rename(checkpoints.join("step-000020"), checkpoints.join("step-000020.replaced")).unwrap();
    fs::write(folder.path().join(format!("{}model.safetensors", files::TEMPORARY_PREFIX)), b"half").unwrap();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    fs::write(folder.path().join("notes.txt"), b"mine").unwrap();

    let run = RunFolder::open(folder.path()).unwrap();
    assert_is_step(&run.latest().unwrap().unwrap(), 20);
    assert_eq!(names(&checkpoints), ["step-000010", "step-000020"]);
    assert!(names(folder.path()).iter().all(|name| !name.starts_with(files::TEMPORARY_PREFIX)));
    assert!(folder.path().join("notes.txt").exists());
    Weights::open(folder.path(), &small_config()).unwrap();
}

/// The process that `a_killed_trainer_resumes` kills: saves until it is gone. Does nothing in an ordinary run.
#[test]
fn child_that_saves_until_killed() {
    let Some(root) = std::env::var_os("WGPT_TEST_SAVE_UNTIL_KILLED") else { return };
    let run = RunFolder::open(Path::new(&root)).unwrap();
    let first = run.latest().unwrap().unwrap().step + 1;
    for step in first.. {
        save(&run, step).unwrap();
        println!("saved");
    }
}

#[test]
fn a_killed_trainer_resumes_from_a_complete_checkpoint() {
    let folder = tempdir().unwrap();
    let run = RunFolder::create(folder.path(), Mode::Fresh).unwrap();
    save(&run, 1).unwrap();
    drop(run);
    let mut last = 1;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "checkpoint::child_that_saves_until_killed", "--nocapture"])
            .env("WGPT_TEST_SAVE_UNTIL_KILLED", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = io::BufRead::lines(io::BufReader::new(child.stdout.take().unwrap()));
        // However slow the machine is, each round saves once, and is killed somewhere in the saves that follow.
        assert!(lines.any(|line| line.unwrap().contains("saved")), "the child did not save");
        std::thread::sleep(Duration::from_micros(3_700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        let loaded = run.latest().unwrap().unwrap();
        assert_is_step(&loaded, loaded.step);
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert!(loaded.step > last, "step {} after {last}", loaded.step);
        last = loaded.step;
        Weights::open(folder.path(), &small_config()).unwrap();
    }
}

#[test]
fn a_failed_save_leaves_the_earlier_checkpoints() {
    let folder = tempdir().unwrap();
    let run = RunFolder::create(folder.path(), Mode::Fresh).unwrap();
    save(&run, 10).unwrap();
    /// State that fails in the middle of being written, as a full disk would.
    struct Broken;
    impl serde::Serialize for Broken {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no"))
        }
    }
    let config = small_config();
    let tensors = tensors(&config, 20);
    let broken = Checkpoint {
        step: 20,
        config: &config,
        tokenizer: b"",
        parameters: &named(&tensors),
        optimizer: &[],
        trainer: &Broken,
    };
    let message = one_line(run.save(&broken).unwrap_err());
    assert!(message.contains("step-000020"), "{message}");
    // A foreign folder where the new checkpoint's files should go.
    fs::create_dir_all(run.directory(30).with_extension("tmp").join("config.json")).unwrap();
    one_line(save(&run, 30).unwrap_err());
    assert_eq!(run.steps().unwrap(), [10]);
    assert_is_step(&run.latest().unwrap().unwrap(), 10);
}

#[test]
fn folders_that_cannot_take_a_new_run_are_refused() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"x").unwrap();
    for path in [file.clone(), file.join("inside")] {
        let message = one_line(RunFolder::create(&path, Mode::Overwrite).unwrap_err());
        assert!(message.contains("file"), "{message}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"x");

    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    write_model(&model, &small_config(), &tensors(&small_config(), 1));
    for mode in [Mode::Fresh, Mode::Overwrite] {
        let message = one_line(RunFolder::create(&model, mode).unwrap_err());
        assert!(message.contains("model"), "{message}");
    }
    Weights::open(&model, &small_config()).unwrap();

    let message = one_line(RunFolder::open(&model).unwrap_err());
    assert!(message.contains("no run to resume"), "{message}");
    one_line(RunFolder::open(&folder.path().join("nowhere")).unwrap_err());
    assert!(!folder.path().join("nowhere").exists());
    let empty = folder.path().join("empty");
    drop(RunFolder::create(&empty, Mode::Fresh).unwrap());
    let message = one_line(RunFolder::open(&empty).unwrap_err());
    assert!(message.contains("no checkpoint"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_folder_without_write_permission_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write anywhere, so there is nothing to refuse.
    if fs::write(folder.path().join("probe"), b"").is_err() {
        let message = one_line(RunFolder::create(folder.path(), Mode::Fresh).unwrap_err());
        assert!(message.contains("writable"), "{message}");
    }
}

#[test]
fn overwriting_replaces_a_runs_files_and_no_others_once_there_is_a_checkpoint() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let run = RunFolder::create(root, Mode::Fresh).unwrap();
    save(&run, 10).unwrap();
    Log::resume(&run.log_path(), 0).unwrap().record(&record(1, 2.0)).unwrap();
    plot::write(&run.plot_path(), &Plot { title: "t", records: &[], floor: None }).unwrap();
    fs::write(root.join("notes.txt"), b"mine").unwrap();
    fs::create_dir_all(root.join("checkpoints/best")).unwrap();
    fs::write(run.directory(10).join("mine.txt"), b"mine").unwrap();
    drop(run);

    let message = one_line(RunFolder::create(root, Mode::Fresh).unwrap_err());
    assert!(message.contains("--resume") && message.contains("--overwrite"), "{message}");
    assert!(root.join("trainer.json").exists());
    let before = names(root);
    // A new run that comes to nothing leaves the old one.
    drop(RunFolder::create(root, Mode::Overwrite).unwrap());
    let mut run = RunFolder::create(root, Mode::Overwrite).unwrap();
    assert!(RunFolder::open(root).is_err(), "the old run is locked");
    save(&run, 5).unwrap();
    assert_eq!(names(root), before);
    assert_eq!(names(&root.join("checkpoints")), ["best", "step-000010"]);
    run.settle().unwrap();
    assert_eq!(run.path(), root.canonicalize().unwrap());
    assert_is_step(&run.latest().unwrap().unwrap(), 5);
    let new = [".wgpt.lock", "checkpoints", "config.json", "model.safetensors", "notes.txt", "optimizer.safetensors"];
    assert_eq!(names(root), [&new[..], &["tokenizer.json", "trainer.json"]].concat());
    assert_eq!(names(&root.join("checkpoints")), ["best", "step-000005", "step-000010"]);
    assert_eq!(names(&run.directory(10)), ["mine.txt"]);
    assert!(RunFolder::open(root).is_err(), "the new run is locked");
    drop(run);
    assert_is_step(&RunFolder::open(root).unwrap().latest().unwrap().unwrap(), 5);
}

#[test]
fn two_trainers_cannot_share_a_folder() {
    let folder = tempdir().unwrap();
    let run = RunFolder::create(folder.path(), Mode::Fresh).unwrap();
    save(&run, 10).unwrap();
    for second in [RunFolder::open(folder.path()), RunFolder::create(folder.path(), Mode::Overwrite)] {
        let message = one_line(second.unwrap_err());
        assert!(message.contains("another process"), "{message}");
    }
    drop(run);
    assert_is_step(&RunFolder::open(folder.path()).unwrap().latest().unwrap().unwrap(), 10);
}

#[test]
fn editing_a_config_at_the_top_does_not_reach_the_checkpoint() {
    let folder = tempdir().unwrap();
    let run = RunFolder::create(folder.path(), Mode::Fresh).unwrap();
    save(&run, 10).unwrap();
    let mut config = fs::OpenOptions::new().append(true).open(folder.path().join("config.json")).unwrap();
    config.write_all(b"\n").unwrap();
    assert!(run.latest().unwrap().unwrap().warnings.is_empty());
}

// --- log.jsonl ------------------------------------------------------------------------------------------------------

#[test]
fn log_lines_have_the_documented_keys() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let mut log = Log::resume(&path, 0).unwrap();
    log.record(&Record { val_loss: Some(1.802), ..record(1, 1.734) }).unwrap();
    log.record(&Record { skipped: Some("gradient is not finite".into()), ..record(2, f32::NAN) }).unwrap();
    log.sync().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        text.lines().next().unwrap(),
        concat!(
            r#"{"step":1,"loss":1.734,"val_loss":1.802,"lr":0.00058,"#,
            r#""grad_norm":0.91,"step_ms":212.0,"tokens_per_second":2415.0,"memory_bytes":42991616}"#
        )
    );
    let second: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    assert!(second["loss"].is_null() && second.get("val_loss").is_none(), "{second}");
    let records = log::read(&path).unwrap();
    assert_eq!(records[0].val_loss, Some(1.802));
    assert!(records[1].loss.is_nan());
    assert_eq!(records[1].skipped.as_deref(), Some("gradient is not finite"));
    assert!(log::read(&folder.path().join("none")).unwrap().is_empty());
}

#[test]
fn a_resumed_log_is_the_log_of_a_run_that_never_stopped() {
    let folder = tempdir().unwrap();
    let [straight, resumed] = ["straight.jsonl", "resumed.jsonl"].map(|name| folder.path().join(name));
    let write = |log: &mut Log, steps: std::ops::RangeInclusive<u64>| {
        steps.for_each(|step| log.record(&record(step, 5.0 / step as f32)).unwrap());
    };
    write(&mut Log::resume(&straight, 0).unwrap(), 1..=30);
    for torn in [&b""[..], b"{\"step\":2", b"\0\0\0\0", b"\xff\n", b"{\"step\":17}\n"] {
        write(&mut Log::resume(&resumed, 0).unwrap(), 1..=17);
        fs::OpenOptions::new().append(true).open(&resumed).unwrap().write_all(torn).unwrap();
        assert_eq!(log::read(&resumed).unwrap().len(), 17);
        write(&mut Log::resume(&resumed, 10).unwrap(), 11..=30);
        assert_eq!(fs::read(&resumed).unwrap(), fs::read(&straight).unwrap(), "after {torn:?}");
    }
    fs::remove_file(&resumed).unwrap();
    write(&mut Log::resume(&resumed, 10).unwrap(), 11..=12);
    assert_eq!(log::read(&resumed).unwrap().len(), 2);
}

#[test]
fn console_lines_are_dense() {
    let line = |record: &Record| console_line(record, 400);
    let plain = record(120, 1.734);
    assert_eq!(line(&plain), "step 120/400  loss 1.734  norm 0.91  lr 5.8e-4  212 ms  2415 tok/s  41 MiB");
    assert_eq!(
        line(&Record { val_loss: Some(1.802), ..plain.clone() }),
        "step 120/400  loss 1.734  val 1.802  norm 0.91  lr 5.8e-4  212 ms  2415 tok/s  41 MiB"
    );
    assert_eq!(
        line(&Record { expert_load: Some(vec![vec![0.5, 1.5], vec![1.25, 0.75]]), ..plain.clone() }),
        "step 120/400  loss 1.734  norm 0.91  lr 5.8e-4  212 ms  2415 tok/s  41 MiB  load 0.50 to 1.50"
    );
    assert_eq!(
        line(&Record { loss_scale: Some(32768.0), ..plain.clone() }),
        "step 120/400  loss 1.734  norm 0.91  lr 5.8e-4  212 ms  2415 tok/s  41 MiB  scale 32768"
    );
    let other = Record {
        step: 7,
        step_ms: 3.07,
        loss: f32::NAN,
        memory_bytes: 20 << 30,
        skipped: Some("loss is not finite".into()),
        ..plain
    };
    assert_eq!(
        line(&other),
        "step   7/400  loss NaN  norm 0.91  lr 5.8e-4  3.1 ms  2415 tok/s  20.0 GiB  skipped: loss is not finite"
    );
}

// --- schedule -------------------------------------------------------------------------------------------------------

const KINDS: [ScheduleKind; 4] =
    [ScheduleKind::Cosine, ScheduleKind::Linear, ScheduleKind::Constant, ScheduleKind::Wsd];

#[test]
fn schedules_follow_their_formulas() {
    let schedule = |kind| Schedule { kind, peak: 1.0, min: 0.1, warmup: 10, steps: 110 };
    let at = |kind, step| schedule(kind).learning_rate(step);
    for kind in KINDS {
        assert_eq!(at(kind, 0), 1.0 / 11.0, "{kind:?}");
        assert_eq!(at(kind, 9), 10.0 / 11.0, "{kind:?}");
        assert_eq!(at(kind, 10), 1.0, "{kind:?}");
        let end = if kind == ScheduleKind::Constant { 1.0 } else { 0.1 };
        assert_eq!([at(kind, 110), at(kind, 111), at(kind, u64::MAX)], [end; 3], "{kind:?}");
    }
    // Half-way, and a quarter of the way: (1 + cos(pi/4)) / 2 of the range above the minimum.
    assert!((at(ScheduleKind::Cosine, 60) - 0.55).abs() < 1e-6);
    assert!((at(ScheduleKind::Cosine, 35) - (0.1 + 0.9 * 0.853_553_4)).abs() < 1e-6);
    assert!((at(ScheduleKind::Linear, 35) - 0.775).abs() < 1e-6);
    assert_eq!(at(ScheduleKind::Constant, 60), 1.0);
    // The last fifth of 110 steps starts at 88.
    assert_eq!(at(ScheduleKind::Wsd, 88), 1.0);
    assert!((at(ScheduleKind::Wsd, 99) - 0.55).abs() < 1e-6);
    assert_eq!(serde_json::to_string(&ScheduleKind::Wsd).unwrap(), "\"wsd\"");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn learning_rates_stay_between_zero_and_the_peak(
        kind in prop::sample::select(KINDS.to_vec()),
        warmup in 0..50u64, steps in 0..50u64, step in 0..60u64,
    ) {
        let schedule = Schedule { kind, peak: 1e-3, min: 1e-4, warmup, steps };
        let (now, next) = (schedule.learning_rate(step), schedule.learning_rate(step + 1));
        prop_assert!(now > 0.0 && now <= 1e-3, "{now}");
        prop_assert!(step < warmup || next <= now, "{now} then {next}");
    }
}

// --- plot -----------------------------------------------------------------------------------------------------------

#[test]
fn the_plot_shows_the_records() {
    let records: Vec<Record> = (1..=400)
        .map(|step| {
            let loss = 1.6 + 2.6 * (-(step as f32) / 60.0).exp() + 0.06 * (step as f32 * 12.9898).sin();
            Record { val_loss: (step % 50 == 0).then_some(loss + 0.05), ..record(step, loss) }
        })
        .collect();
    let svg = plot::render(&Plot { title: "demo <run> & more", records: &records, floor: Some((1.53, "entropy")) });
    for part in ["step", "loss (nats per token)", "train", "validation", "entropy 1.53", "demo &lt;run&gt; &amp; more"]
    {
        assert!(svg.contains(part), "{part} is missing");
    }
    assert_eq!(svg.matches("<circle").count(), 8, "one point for every measurement on held-out data");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && !svg.contains("NaN"));
    // To look at it: WGPT_TEST_PLOT=plot.svg cargo test the_plot_shows
    if let Some(path) = std::env::var_os("WGPT_TEST_PLOT") {
        fs::write(path, svg).unwrap();
    }
}

#[test]
fn odd_data_is_plotted_too() {
    let wild = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, 3.0];
    let wild: Vec<_> =
        wild.iter().enumerate().map(|(i, &l)| Record { val_loss: Some(-l), ..record(i as u64, l) }).collect();
    let long: Vec<_> = (1..=20_000).map(|step| record(step, 3.0 + 1.0 / step as f32)).collect();
    let cases = [&[][..], &[record(1, 2.0)], &[record(1, f32::NAN)], &[record(5, 2.0), record(6, 2.0)], &wild, &long];
    for records in cases {
        for floor in [None, Some((2.0, "floor")), Some((f64::NAN, "floor")), Some((-1.0, "floor"))] {
            let svg = plot::render(&Plot { title: "", records, floor });
            assert!(svg.trim_end().ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"));
            assert!(svg.len() < 200_000, "{} bytes for {} steps", svg.len(), records.len());
        }
    }
}

// --- helpers --------------------------------------------------------------------------------------------------------

/// A tensor by name, with its shape and values.
type Owned = (String, Vec<usize>, Vec<f32>);

/// A tensor of any type in a file that another program wrote.
#[derive(Clone)]
struct Foreign {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn small_config() -> Config {
    Config::new(11, 8, 2, 2, 8)
}

/// Values for every parameter, different for every seed, tensor and position.
fn tensors(config: &Config, seed: u64) -> Vec<Owned> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let parameters = config.parameters().into_iter();
    parameters
        .map(|(name, shape)| (name, shape.clone(), (0..shape.iter().product()).map(|_| next()).collect()))
        .collect()
}

fn named(tensors: &[Owned]) -> Vec<NamedTensor<'_>> {
    tensors.iter().map(|(name, shape, values)| (name.clone(), shape.clone(), values.as_slice())).collect()
}

fn optimizer(config: &Config, seed: u64) -> Vec<Owned> {
    let moment = |suffix: &str, seed| {
        tensors(config, seed)
            .into_iter()
            .map(move |(name, shape, values)| (format!("{name}.{suffix}"), shape, values))
            .collect::<Vec<_>>()
    };
    let mut all = moment("exp_avg", seed + 1000);
    all.extend(moment("exp_avg_sq", seed + 2000));
    all.push(("skipped_steps".into(), vec![1], vec![seed as f32]));
    all
}

fn write_model(folder: &Path, config: &Config, tensors: &[Owned]) -> std::path::PathBuf {
    fs::write(folder.join("config.json"), config.to_json()).unwrap();
    let path = folder.join("model.safetensors");
    folder::write_weights(&path, &config.stored(&named(tensors)), &[("note", "kept".into())], WeightType::F32).unwrap();
    path
}

fn foreign(name: &str, dtype: &'static str, (_, shape, values): &Owned) -> Foreign {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Foreign { name: name.into(), dtype, shape: shape.clone(), bytes }
}

/// Writes `model.safetensors` without going through the code under test, and without a checksum.
fn write_foreign(folder: &Path, tensors: &[Foreign]) -> std::path::PathBuf {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for Foreign { name, dtype, shape, bytes } in tensors {
        let start = data.len();
        data.extend(bytes);
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    let path = folder.join("model.safetensors");
    fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()).unwrap();
    path
}

fn save(run: &RunFolder, step: u64) -> wgpt::error::Result<()> {
    save_with(run, step, step)
}

fn save_with(run: &RunFolder, step: u64, seed: u64) -> wgpt::error::Result<()> {
    let config = small_config();
    let (parameters, optimizer) = (tensors(&config, seed), optimizer(&config, seed));
    run.save(&Checkpoint {
        step,
        config: &config,
        tokenizer: b"{\"tokens\": []}",
        parameters: &named(&parameters),
        optimizer: &named(&optimizer),
        trainer: &json!({"step": step, "seed": u64::MAX}),
    })
}

/// Checks every value of a checkpoint that `save` made.
fn assert_is_step(loaded: &LoadedCheckpoint, step: u64) {
    assert_eq!(loaded.step, step);
    assert_eq!(loaded.config, small_config());
    assert_eq!(loaded.tokenizer, b"{\"tokens\": []}");
    assert_eq!(loaded.trainer, json!({"step": step, "seed": u64::MAX}));
    for (name, _, values) in tensors(&loaded.config, step) {
        assert_eq!(loaded.weights.read(&name).unwrap(), values, "{name}");
    }
    for (name, shape, values) in optimizer(&loaded.config, step) {
        assert_eq!(loaded.optimizer.shape(&name), Some(&shape[..]));
        assert_eq!(loaded.optimizer.read(&name).unwrap(), values, "{name}");
    }
}

fn record(step: u64, loss: f32) -> Record {
    Record {
        step,
        loss,
        lr: 5.8e-4,
        grad_norm: 0.91,
        step_ms: 212.0,
        tokens_per_second: 2415.0,
        memory_bytes: 41 << 20,
        ..Record::default()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Sorted names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

fn refused_config(text: &str) -> String {
    let message = one_line(Config::from_json(text, Path::new("some/config.json")).unwrap_err());
    assert!(message.contains("config.json"), "{message}");
    message
}

/// The message of an error, which must be one line that can be read at a glance.
fn one_line(error: Error) -> String {
    let message = error.to_string();
    assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
    assert!(message.chars().count() < 500, "{message}");
    message
}
