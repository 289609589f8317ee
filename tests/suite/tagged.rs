//! Tagged sentences: files, schemes of tags, sequences, places of entities, and figures against seqeval's. tests/fixtures/entities.py makes
//! entities.json.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use wgpt::data::tagged::sequences::{Encoder, Words, labels, tags};
use wgpt::data::tagged::tags::{Labels, entities, spans};
use wgpt::data::tagged::{Form, Sentence, read, write};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::evaluate::entities::{EntityCounts, Scores};

/// A file of a folder that lasts.
fn file(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    (folder, path)
}

fn read_text(name: &str, content: &str) -> Result<Vec<Sentence>, String> {
    read(&file(name, content).1, &Form::default(), true).map_err(|error| error.to_string())
}

fn sentence(line: usize, words: &str, tags: &str) -> Sentence {
    let list = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();
    Sentence { line, words: list(words), tags: Some(list(tags)) }
}

/// BERT's frame over a small vocabulary; x is unknown and a zero width space has no piece.
fn tokenizer() -> Tokenizer {
    let words =
        "[PAD] [UNK] [CLS] [SEP] [MASK] mia rosa went to the park . ##land new york u s play ##ing".replace(' ', "\n");
    Tokenizer::load(file("vocab.txt", &words).0.path()).unwrap()
}

#[test]
fn conll_files_and_rows_give_the_same_sentences() {
    let conll = "\u{feff}-DOCSTART- -X- O O\r\n\r\nMia NNP B-NP B-PER\r\nwent VBD O O\r\n\n\nNew\tNNP\tB-LOC\nYork\tNNP\tI-LOC\n\
        -DOCSTART- O\nA B-X-Y";
    let expected =
        [sentence(3, "Mia went", "B-PER O"), sentence(7, "New York", "B-LOC I-LOC"), sentence(10, "A", "B-X-Y")];
    for name in ["eng.train", "a.conll", "a.txt", "a.tsv"] {
        assert_eq!(read_text(name, conll).unwrap(), expected, "{name}");
    }
    let rows = r#"{"tokens": ["Mia", "went"], "tags": ["B-PER", "O"], "id": 4}

{"tokens": ["New", "York"], "ner_tags": ["B-LOC", "I-LOC"]}"#;
    let read_rows = read_text("a.jsonl", rows).unwrap();
    assert_eq!(read_rows, [sentence(1, "Mia went", "B-PER O"), sentence(3, "New York", "B-LOC I-LOC")]);
    let mut form = Form::default();
    (form.tokens.name, form.tags.name) = ("words".into(), "ner".into());
    let renamed = file("a.jsonl", r#"{"words": ["a"], "ner": ["O"], "tags": [3]}"#).1;
    assert!(read(&renamed, &form, true).is_err(), "the folder is gone");
    let (_folder, renamed) = file("a.jsonl", r#"{"words": ["a"], "ner": ["O"], "tags": [3]}"#);
    assert_eq!(read(&renamed, &form, true).unwrap(), [sentence(1, "a", "O")]);
    for name in ["b.conll", "b.jsonl"] {
        let (_folder, path) = file(name, "");
        write(&path, &Form::default(), &expected).unwrap();
        let again = read(&path, &Form::default(), true).unwrap();
        let parts = |all: &[Sentence]| all.iter().map(|s| (s.words.clone(), s.tags.clone())).collect::<Vec<_>>();
        assert_eq!(parts(&again), parts(&expected), "{name}");
    }
    // Words without tags are for predictions.
    let (_folder, untagged) = file("c.txt", "Mia\nwent\n\nYork\n");
    let words = read(&untagged, &Form::default(), false).unwrap();
    assert_eq!((words.len(), words[0].words.len(), &words[0].tags), (2, 2, &None));
}

#[test]
fn bad_files_are_refused_by_line() {
    let cases = [
        ("a.txt", "Mia B-PER\n\nwent O\nYork I-LOC\n", &["line 4", "I-LOC", "`O`", "B-LOC"][..]),
        ("a.txt", "Mia B-PER\nYork I-LOC\n", &["line 2", "`B-PER`", "`B-LOC`"]),
        ("a.txt", "Mia B-PER\nx O\n\nYork I-LOC\n", &["line 4", "`none`"]),
        ("a.txt", "to O\nMia I-PER\nRosa B-PER\n", &["IOB1", "line 2", "IOB2"]),
        ("a.txt", "Mia NNP\n", &["line 1", "NNP", "IOB2"]),
        ("a.txt", "Mia S-PER\n", &["line 1", "S-PER"]),
        ("a.txt", "Mia I-PER\nx B-\n", &["line 2", "`B-`"]),
        ("a.txt", "Mia B-PER\nwent\n", &["line 2", "no tag"]),
        ("a.txt", "\n-DOCSTART- O\n", &["no sentences"]),
        ("a.csv", "Mia,B-PER\n", &["a.csv", ".jsonl"]),
        ("a.jsonl", "{\"tokens\": [\"a\", \"b\"], \"tags\": [\"O\"]}", &["line 1", "2 words and 1 tags"]),
        ("a.jsonl", "{\"tokens\": [\"a\"], \"ner_tags\": [3]}", &["line 1", "ner_tags", "numbers"]),
        ("a.jsonl", "{\"tokens\": \"a\", \"tags\": []}", &["line 1", "`tokens`", "list"]),
        ("a.jsonl", "{\"tokens\": [], \"tags\": []}", &["line 1", "no words"]),
        ("a.jsonl", "{\"tokens\": [\"a\", \" \"], \"tags\": [\"O\", \"O\"]}", &["line 1", "empty"]),
        ("a.jsonl", "{\"tokens\": [\"a\"]}", &["line 1", "`tags`", "--tags"]),
        ("a.jsonl", "{\"words\": [\"a\"]}", &["line 1", "`tokens`", "--tokens"]),
        ("a.jsonl", "{}\n[", &["line 2"]),
        (
            "a.jsonl",
            "{\"tokens\": [\"a\"], \"tags\": [\"O\"]}\n\n{\"tokens\": [\"b\"], \"tags\": [\"I-X\"]}",
            &["a.jsonl", "line 3"],
        ),
    ];
    for (name, content, parts) in cases {
        let message = read_text(name, content).unwrap_err();
        assert!(parts.iter().all(|part| message.contains(part)), "{content:?}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
    let (_folder, path) = file("a.txt", "");
    fs::write(&path, b"fine O\n\xff O\n").unwrap();
    let message = read(&path, &Form::default(), true).unwrap_err().to_string();
    assert!(message.contains("line 2") && message.contains("UTF-8"), "{message}");
}

#[test]
fn labels_have_one_order_and_know_their_tags() {
    let some = [sentence(1, "a b", "B-PER O"), sentence(2, "c d", "B-LOC I-LOC")];
    let known = Labels::of(&some).unwrap();
    assert_eq!(known.names(), ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]);
    assert_eq!(known, Labels::of(&[some[1].clone(), some[0].clone()]).unwrap());
    assert_eq!(labels(&some[1], &known, Path::new("f")).unwrap(), Some(vec![1, 2]));
    let other = labels(&sentence(7, "a", "B-ORG"), &known, Path::new("f")).unwrap_err().to_string();
    assert!(other.contains("B-ORG") && other.contains("line 7 of f"), "{other}");
    assert!(Labels::of(&[sentence(1, "a", "O")]).is_err());
    assert!(Labels::named(vec!["O".into(), "LABEL_1".into()]).is_err_and(|e| e.to_string().contains("LABEL_1")));
    assert_eq!(Labels::named(vec!["I-A".into(), "O".into()]).unwrap().index("O"), Some(1));
}

#[test]
fn first_pieces_carry_labels_and_long_sentences_are_parted_between_words() {
    let tokenizer = tokenizer();
    let words: Vec<String> = ["Mia", "playing", "\u{200b}", "York", "parkland", "xyz"].map(String::from).into();
    let (cls, sep) = (2, 3);
    let given = Words::given(&words, &tokenizer).unwrap();
    assert_eq!(given.pieces, [vec![5], vec![17, 18], vec![], vec![14], vec![10, 12], vec![1]]);
    assert_eq!(&given.text[given.places[4].clone()], "parkland");
    let whole = Encoder::new(&tokenizer, 20).unwrap().encode(&given);
    assert_eq!(whole.len(), 1);
    assert_eq!(whole[0].ids, [cls, 5, 17, 18, 14, 10, 12, 1, sep]);
    assert_eq!(whole[0].types, [0; 9]);
    let firsts = |at: usize, all: &[wgpt::data::tagged::sequences::Sequence]| {
        all[at].firsts.iter().map(|first| (first.position, first.word)).collect::<Vec<_>>()
    };
    assert_eq!(firsts(0, &whole), [(1, 0), (2, 1), (4, 3), (5, 4), (7, 5)]);
    let parts = Encoder::new(&tokenizer, 5).unwrap().encode(&given);
    let ids: Vec<Vec<u32>> = parts.iter().map(|part| part.ids.clone()).collect();
    assert_eq!(ids, [vec![cls, 5, 17, 18, sep], vec![cls, 14, 10, 12, sep], vec![cls, 1, sep]]);
    assert_eq!((firsts(1, &parts), firsts(2, &parts)), (vec![(1, 3), (2, 4)], vec![(1, 5)]));
    // A word that is too long by itself is cut.
    let single = Encoder::new(&tokenizer, 3).unwrap().encode(&given);
    assert_eq!(single.len(), 5);
    assert_eq!(single[1].ids, [cls, 17, sep]);
    assert!(Encoder::new(&tokenizer, 2).is_err());
    // Labels come back in the order of the words, and what has no piece is outside.
    let known = Labels::named(["O", "B-A", "I-A"].map(String::from).into()).unwrap();
    assert_eq!(tags(6, &parts, &[1, 2, 0, 1, 2], &known), ["B-A", "I-A", "O", "O", "B-A", "I-A"]);
    assert!(
        Encoder::new(&tokenizer, 9)
            .unwrap()
            .encode(&Words::given(&["\u{200b}"].map(String::from), &tokenizer).unwrap())
            .is_empty()
    );
}

#[test]
fn entities_have_their_characters_in_the_text() {
    let tokenizer = tokenizer();
    let text = "R\u{f6}sa  went to New York. M\u{ed}a";
    let words = Words::split(text, &tokenizer).unwrap();
    let parts: Vec<&str> = words.places.iter().map(|place| &text[place.clone()]).collect();
    assert_eq!(parts, ["R\u{f6}sa", "went", "to", "New", "York", ".", "M\u{ed}a"]);
    let found = entities(text, &words.places, &["B-PER", "O", "O", "B-LOC", "I-LOC", "O", "I-PER"]);
    let all: Vec<_> = found.iter().map(|e| (e.kind.as_str(), e.text.as_str(), e.start, e.end)).collect();
    assert_eq!(all, [("PER", "R\u{f6}sa", 0, 4), ("LOC", "New York", 14, 22), ("PER", "M\u{ed}a", 24, 27)]);
    assert_eq!(found[1].words, 3..5);
    let json = serde_json::to_value(&found[1]).unwrap();
    assert_eq!(json, serde_json::json!({"type": "LOC", "text": "New York", "start": 14, "end": 22}));
}

#[test]
fn figures_are_those_of_seqeval() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/entities.json");
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let lists = |key: &str| serde_json::from_value::<Vec<Vec<String>>>(case[key].clone()).unwrap();
        let (truth, predicted) = (lists("truth"), lists("predicted"));
        let mut counts = EntityCounts::default();
        truth.iter().zip(&predicted).for_each(|(truth, predicted)| counts.add(truth, predicted));
        let scores = counts.scores();
        let figures: BTreeMap<String, [f64; 4]> = serde_json::from_value(case["figures"].clone()).unwrap();
        let same = |name: &str, got: Scores| {
            let want = figures[name];
            let got = [got.precision, got.recall, got.f1, got.support as f64];
            // Both divide whole numbers in f64.
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12), "{name}: {got:?} {want:?}");
        };
        same("micro avg", scores.micro);
        assert_eq!(scores.types.len() + 1, figures.len());
        scores.types.iter().for_each(|(kind, of)| same(kind, *of));
        assert!((scores.accuracy - case["accuracy"].as_f64().unwrap()).abs() < 1e-12);
        for (tags, wanted) in predicted.iter().zip(case["spans"].as_array().unwrap()) {
            let got: Vec<_> = spans(tags).into_iter().map(|span| (span.kind, span.words.0, span.words.1)).collect();
            assert_eq!(serde_json::json!(got), *wanted, "{tags:?}");
        }
    }
}
