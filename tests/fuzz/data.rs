//! Damaged and hostile data: texts, tables, token shards, and the state of a run.

use std::fs;
use std::io::Write;

use crate::mutation::{mutated, mutation, mutations};
use crate::{FIXED, bounded, bounded_by, cases};
use proptest::prelude::*;
use ruzstd::encoding::CompressionLevel;
use serde_json::json;
use tempfile::tempdir;
use wgpt::data::labelled::{self, Task};
use wgpt::data::rankings::{self, Pair};
use wgpt::data::shards::{Sizes, map, tokenise};
use wgpt::data::source::Source;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::formats::source::ModelSource;
use wgpt::models::choices::ModelChoices;
use wgpt::objectives::labelled::folder::TaskFile;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::train::run::{Evaluated, RunState};
use wgpt::train::settings::Choices;
use wgpt::train::trainer::ChosenVariants;

/// Readers take files in buffers of this size, several at a time.
const BUFFERS: usize = 16 << 20;

/// What a frame of Zstandard may ask for: that of `zstd --long=29`.
const MOST_WINDOW: usize = 1 << 29;

/// Tables that are read, by their extensions.
const TABLES: [(&str, &str); 5] = [
    ("csv", "text,label,context,choices0,choices1\n\"a, \"\"b\"\"\",x,c,d,1\nsecond line,y,e,f,0\n"),
    ("tsv", "text\tlabel\tpremise\thypothesis\na b\tx\tp\tq\nc\ty\tr\ts\n"),
    ("jsonl", "{\"text\": \"a\\u00e9\", \"label\": \"x\"}\n{\"text\": \"b\", \"label\": 3}\n"),
    (
        "jsonl",
        "{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"label\": 1}\n{\"context\": \"d\", \"choices\": [\"e\", \"f\"], \"label\": 0}\n",
    ),
    (
        "jsonl",
        "{\"first\": \"a\", \"second\": \"b\", \"label\": 0.5}\n\n{\"first\": \"c\", \"second\": \"d\", \"label\": 1e3}\n",
    ),
];

/// A shard of nine ids in llm.c's layout, of two bytes each or of four.
fn shard(wide: bool) -> Vec<u8> {
    let (words, width) = if wide { ([20_240_801, 7, 9], 4) } else { ([20_240_520, 1, 9], 2) };
    let mut bytes: Vec<u8> = words.into_iter().flat_map(i32::to_le_bytes).collect();
    bytes.resize(1024, 0);
    for id in 0..9u32 {
        bytes.extend_from_slice(&id.to_le_bytes()[..width]);
    }
    bytes
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn tables(changes in mutations(), which in 0..TABLES.len(), task in 0..4usize, labels: bool) {
        let (extension, good) = TABLES[which];
        let bytes = mutated(good.as_bytes(), &changes);
        let folder = tempdir().unwrap();
        let path = folder.path().join(format!("table.{extension}"));
        fs::write(&path, &bytes).unwrap();
        let form = [Task::Classify, Task::Entail, Task::Similar, Task::Choose][task].form();
        bounded(bytes.len(), || {
            let examples = labelled::read(&path, &form, labels)?;
            assert!(examples.iter().all(|example| example.texts.len() == form.texts.len()));
            Ok(())
        });
        if let Ok(text) = std::str::from_utf8(&bytes) {
            bounded(bytes.len(), || labelled::read_lines(&path, text, &form, Some(&|_| Ok("text".into()))));
        }
    }

    #[test]
    fn texts(changes in prop::collection::vec((0..3usize, mutation()), 1..6)) {
        let folder = tempdir().unwrap();
        let mut files = [
            ("a.txt", "A story.\n\nAnother \u{e9}\u{65e5} one.\n".as_bytes().to_vec()),
            ("b.jsonl", "{\"text\": \"one\"}\n{\"id\": 1, \"text\": \"two\\n\"}\n".as_bytes().to_vec()),
            ("c.jsonl", vec![]),
        ];
        for (file, change) in &changes {
            files[*file].1 = mutated(&files[*file].1, std::slice::from_ref(change));
        }
        let mut size = 0;
        for (name, bytes) in &files {
            fs::write(folder.path().join(name), bytes).unwrap();
            size += bytes.len();
        }
        let tokenizer = Tokenizer::bytes().unwrap();
        bounded_by(BUFFERS, size, || {
            let source = Source::open(folder.path())?;
            let tokens = tokenise(&source, &tokenizer, &folder.path().join("cache"), Sizes::default())?;
            assert!((tokens.max_id() as usize) < tokenizer.vocabulary_size());
            Ok(())
        });
    }

    #[test]
    fn compressed_texts(changes in mutations(), zstandard: bool) {
        let text = "{\"text\": \"one and one and one\"}\n{\"text\": \"two\"}\n".repeat(9);
        let (name, good, window) = if zstandard {
            ("a.jsonl.zst", ruzstd::encoding::compress_to_vec(text.as_bytes(), CompressionLevel::Fastest), MOST_WINDOW)
        } else {
            let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
            packed.write_all(text.as_bytes()).unwrap();
            ("a.jsonl.gz", packed.finish().unwrap(), 0)
        };
        let bytes = mutated(&good, &changes);
        let folder = tempdir().unwrap();
        fs::write(folder.path().join(name), &bytes).unwrap();
        let tokenizer = Tokenizer::bytes().unwrap();
        // A byte may stand for a thousand when it is unpacked, of which only pieces are in memory.
        bounded_by(BUFFERS + window, bytes.len(), || {
            let source = Source::open(&folder.path().join(name))?;
            tokenise(&source, &tokenizer, &folder.path().join("cache"), Sizes::default()).map(|_| ())
        });
    }

    #[test]
    fn preference_files(changes in mutations()) {
        let good = "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\", \"margin\": 0.5}\n\n\
            {\"chosen\": \"d\", \"rejected\": \"e\"}\n{\"answers\": [\"f\", \"g\", \"h\"], \"ranks\": [1, 2, 1]}\n";
        let bytes = mutated(good.as_bytes(), &changes);
        let folder = tempdir().unwrap();
        let path = folder.path().join("pairs.jsonl");
        fs::write(&path, &bytes).unwrap();
        bounded(bytes.len(), || {
            for ranking in rankings::read(&path)? {
                let differ = |pair: &Pair| ranking.answers[pair.chosen] != ranking.answers[pair.rejected];
                assert!(ranking.pairs.iter().all(|pair| pair.margin.is_finite() && differ(pair)));
            }
            Ok(())
        });
    }

    #[test]
    fn task_files(changes in mutations(), which in 0..2usize) {
        let good = [
            r#"{"task": "classify", "target": {"labels": ["x", "y"]}, "special": {"start": 5, "delimiter": 6, "extract": 7},
                "longest": 16, "columns": {"text": "body"}}"#,
            r#"{"task": "classify", "target": "grade", "special": null, "longest": 16, "columns": {}, "pad": 8}"#,
        ][which];
        let bytes = mutated(good.as_bytes(), &changes);
        let folder = tempdir().unwrap();
        fs::write(folder.path().join("task.json"), &bytes).unwrap();
        bounded(bytes.len(), || TaskFile::read(&ModelSource::folder(folder.path())).map(|_| ()));
    }

    #[test]
    fn shards(changes in mutations(), wide: bool, whole_header: bool) {
        let good = shard(wide);
        let mut bytes = mutated(&good, &changes);
        if whole_header {
            // The first words decide the format of a file.
            let count = bytes.len().min(8);
            bytes[..count].copy_from_slice(&good[..count]);
        }
        let folder = tempdir().unwrap();
        let path = folder.path().join("a.bin");
        fs::write(&path, &bytes).unwrap();
        bounded_by(FIXED, bytes.len(), || {
            let source = Source::open(&path)?;
            let tokens = map(&source, 1 << 16, &folder.path().join("cache"))?;
            let mut ids = vec![0; tokens.len().min(64) as usize];
            tokens.read(0, &mut ids)?;
            assert!(ids.iter().all(|id| *id <= tokens.max_id()));
            Ok(())
        });
    }

    #[test]
    fn choices_files(changes in mutations()) {
        let good = b"preset = \"demo\"\nlayers = 2\nheads = 2\nwidth = 16\nlr = 1e-3\nbatch = 4\ncontext = 32\nsteps = 10\n\
            dropout = 0.1\nprecision = \"mixed\"\nseed = 7\nclassifier-rows = 64\n";
        let text = String::from_utf8_lossy(&mutated(good, &changes)).into_owned();
        let (Ok(choices), Ok(model)) = (toml::from_str::<Choices>(&text), toml::from_str::<ModelChoices>(&text)) else {
            return Ok(());
        };
        bounded(text.len(), || {
            choices.resolve(&PresetRecipe::of(model.recipe()).run, |_| 1)?;
            model.config(256, 0.02)?.validate()
        });
    }

    #[test]
    fn trainer_states(changes in mutations()) {
        let settings = Choices::default().resolve(&PresetRecipe::of(None).run, |_| 1).unwrap();
        let state = RunState {
            step: 7,
            objective: "pretrain".into(),
            settings,
            command: json!({"data": "a.txt", "context": 8}),
            evaluations: vec![Evaluated { step: 5, epoch: None, loss: 1.5, value: Some(-1.5), best: true }],
            ranks: 1,
            variants: ChosenVariants::default(),
            kept: json!({"rollout": 3}),
        };
        let bytes = mutated(serde_json::to_string_pretty(&state).unwrap().as_bytes(), &changes);
        bounded(bytes.len(), || {
            let Ok(state) = serde_json::from_slice::<RunState>(&bytes) else { return Ok(()) };
            state.settings.schedule().learning_rate(state.step);
            Ok(())
        });
    }
}
