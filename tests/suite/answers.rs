//! Span answers: files, windows, best answers and figures against transformers' and SQuAD's. tests/fixtures/answers.py makes answers.json.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use wgpt::data::answers::windows::Encoder;
use wgpt::data::answers::{Form, Gold, Question, read, write};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::evaluate::spans::{Answer, Search};
use wgpt::evaluate::squad::{Judged, Part, exact, f1, normalise, scores};

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/answers.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn rows(key: &str) -> Vec<Value> {
    fixture()[key].as_array().unwrap().clone()
}

fn vocabulary() -> Tokenizer {
    Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert_tokenizer")).unwrap()
}

fn file(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    (folder, path)
}

fn refused(name: &str, content: &str) -> String {
    let (_folder, path) = file(name, content);
    read(&path, &Form::default(), true).unwrap_err().to_string()
}

fn question(context: &str, question: &str, answers: &[&str]) -> Question {
    let golds = answers.iter().map(|text| {
        let start = context.find(text).unwrap();
        Gold { range: start..start + text.len() }
    });
    Question {
        line: 1,
        id: "a".into(),
        question: question.into(),
        context: context.into(),
        answers: Some(golds.collect()),
    }
}

#[test]
fn files_of_squad_and_rows_give_the_same_questions() {
    let context = "Caf\u{e9} Mia is in Z\u{fc}rich, a town.";
    let squad = json!({"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": context, "qas": [
        {"id": "q1", "question": "Where?", "is_impossible": false, "answers": [
            {"text": "Z\u{fc}rich", "answer_start": 15}, {"text": "Z\u{fc}rich, a town", "answer_start": 15}]},
        {"id": 7, "question": "When?", "is_impossible": true, "answers": [],
            "plausible_answers": [{"text": "town", "answer_start": 25}]},
    ]}]}]});
    let (_folder, path) = file("a.json", &squad.to_string());
    let read_squad = read(&path, &Form::default(), true).unwrap();
    assert_eq!(read_squad.iter().map(|q| q.id.as_str()).collect::<Vec<_>>(), ["q1", "7"]);
    assert_eq!(read_squad[0].texts(), ["Z\u{fc}rich", "Z\u{fc}rich, a town"]);
    assert_eq!((read_squad[1].texts().len(), read_squad[1].line), (0, 2));
    assert!(std::sync::Arc::ptr_eq(&read_squad[0].context, &read_squad[1].context), "a paragraph is kept once");
    let both = json!({"text": ["Z\u{fc}rich", "Z\u{fc}rich, a town"], "answer_start": [15, 15]});
    let lines = [
        json!({"id": "q1", "question": "Where?", "context": context, "answers": both}),
        json!({"id": "7", "question": "When?", "context": context, "answers": []}),
    ];
    let (_folder, path) = file("a.jsonl", &lines.map(|line| line.to_string()).join("\n\n"));
    let mut read_lines = read(&path, &Form::default(), true).unwrap();
    assert_eq!(read_lines[1].line, 3);
    read_lines[1].line = 2;
    assert_eq!(read_lines, read_squad);
    for name in ["b.json", "b.jsonl"] {
        let (_folder, path) = file(name, "");
        write(&path, &Form::default(), &read_squad).unwrap();
        assert_eq!(read(&path, &Form::default(), true).unwrap(), read_squad, "{name}");
    }
    let mut form = Form::default();
    (form.context.name, form.question.name) = ("passage".into(), "asked".into());
    let (_folder, path) = file("c.jsonl", r#"{"passage": "a b", "asked": "b?"}"#);
    let unlabelled = read(&path, &form, false).unwrap();
    assert_eq!((unlabelled[0].id.as_str(), &unlabelled[0].answers), ("1", &None));
    assert!(read(&path, &form, true).is_err());
}

#[test]
fn answers_that_are_not_in_their_context_are_refused_by_row_and_id() {
    let row = |answers: Value| {
        json!({"id": "x7", "question": "q", "context": "\u{e9}a park", "answers": answers}).to_string()
    };
    let asked =
        |question: Value| json!({"data": [{"paragraphs": [{"context": "a park", "qas": [question]}]}]}).to_string();
    let cases = [
        (
            "a.jsonl",
            row(json!([{"text": "park", "answer_start": 4}])),
            &["line 1", "x7", "`park`", "character 4", "`ark`"][..],
        ),
        ("a.jsonl", row(json!({"text": ["park"], "answer_start": [99]})), &["x7", "character 99", "ended"]),
        ("a.jsonl", row(json!({"text": ["park", "a"], "answer_start": [3]})), &["x7", "2 answers and 1 starts"]),
        ("a.jsonl", row(json!([{"text": "", "answer_start": 0}])), &["x7", "empty answer"]),
        ("a.jsonl", row(json!("park")), &["x7", "`answers`"]),
        ("a.jsonl", row(json!([{"text": "park", "answer_start": -1}])), &["x7", "`answers`"]),
        ("a.jsonl", row(Value::Null), &["x7", "`answers`", "--answers"]),
        ("a.jsonl", "{\"question\": \"q\"}".into(), &["line 1", "`context`", "--context"]),
        ("a.jsonl", "{\"question\": 3, \"context\": \"c\"}".into(), &["line 1", "`question`", "not a text"]),
        ("a.jsonl", "{\"question\": \" \", \"context\": \"c\", \"answers\": []}".into(), &["line 1", "empty question"]),
        (
            "a.json",
            asked(json!({"id": "z", "question": "q", "answers": [{"text": "lake", "answer_start": 2}]})),
            &["question 1", "id z", "`lake`", "`park`"],
        ),
        ("a.json", asked(json!({"id": "z", "question": "q"})), &["id z", "`answers`"]),
        (
            "a.json",
            asked(
                json!({"id": "z", "question": "q", "is_impossible": true, "answers": [{"text": "a", "answer_start": 0}]}),
            ),
            &["id z", "impossible"],
        ),
        ("a.json", "[]".into(), &["a.json", "SQuAD"]),
        ("a.json", "{\"data\": []}".into(), &["no questions"]),
        ("a.csv", String::new(), &["a.csv", ".jsonl"]),
    ];
    for (name, content, parts) in cases {
        let message = refused(name, &content);
        assert!(parts.iter().all(|part| message.contains(part)), "{content}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn windows_targets_and_best_answers_are_those_of_transformers() {
    let tokenizer = vocabulary();
    let cases = rows("questions");
    let number = |case: &Value, key: &str| case[key].as_u64().unwrap() as usize;
    let mut held = 0;
    for case in &cases {
        let text = |key: &str| case[key].as_str().unwrap().to_string();
        let context = text("context");
        let start = context.char_indices().nth(number(&case["answer"], "start")).unwrap().0;
        let gold = Gold { range: start..start + case["answer"]["text"].as_str().unwrap().len() };
        let asked = Question { answers: Some(vec![gold.clone()]), ..question(&context, &text("question"), &[]) };
        let encoder = Encoder::new(&tokenizer, number(case, "longest"), number(case, "stride")).unwrap();
        let windows = encoder.encode(&asked).unwrap();
        let wanted = case["windows"].as_array().unwrap();
        assert_eq!(windows.windows.len(), wanted.len());
        for (window, wanted) in windows.windows.iter().zip(wanted) {
            let target = windows.target(window, Some(&gold));
            assert_eq!(json!({"ids": window.ids, "types": window.types, "target": target}), *wanted);
            assert_eq!(windows.target(window, None), [0, 0]);
            held += usize::from(target != [0, 0]);
        }
        let logits: Vec<[Vec<f32>; 2]> = serde_json::from_value(case["logits"].clone()).unwrap();
        let logits: Vec<(&[f32], &[f32])> = logits.iter().map(|[start, end]| (&start[..], &end[..])).collect();
        let same = |got: &Answer, want: &Value| {
            let place = (json!(got.text), json!(got.start), json!(got.end));
            assert_eq!(place, (want["answer"].clone(), want["start"].clone(), want["end"].clone()));
            // There the softmax is f32.
            let score = want["score"].as_f64().unwrap();
            assert!((got.score - score).abs() < 1e-5 * score, "{got:?} {want}");
        };
        let longest = number(case, "most");
        let found = Search { best: 3, longest }.find(&context, &windows, &logits);
        let wanted = case["found"].as_array().unwrap();
        assert_eq!(found.answers.len(), wanted.len());
        found.answers.iter().zip(wanted).for_each(|(got, want)| same(got, want));
        same(&Search { best: 1, longest }.find(&context, &windows, &logits).answers[0], &case["single"]);
        let none = case["no_answer"].as_f64().unwrap();
        assert!((found.no_answer - none).abs() < 1e-5 * none, "{} {none}", found.no_answer);
        // Above the threshold there is no answer.
        let best = &found.answers[0].text;
        assert_eq!((found.text(None), found.text(Some(found.difference))), (&best[..], &best[..]));
        assert_eq!(found.text(Some(found.difference - 1e-9)), "");
    }
    assert_eq!(cases.len(), 5);
    assert!(held > 5, "{held} windows hold the answer");
}

#[test]
fn the_difference_is_that_of_logits() {
    let tokenizer = vocabulary();
    let asked = question("two tab", "tab?", &[]);
    let windows = Encoder::new(&tokenizer, 30, 4).unwrap().encode(&asked).unwrap();
    let positions = windows.windows[0].positions();
    let (mut starts, mut ends) = (vec![9.0; windows.windows[0].ids.len()], vec![9.0; windows.windows[0].ids.len()]);
    for logits in [&mut starts, &mut ends] {
        logits[0] = 1.5;
        logits[positions.clone()].fill(-1.0);
    }
    // The best end comes before the best start, which is no span.
    (starts[positions.end - 1], ends[positions.start]) = (2.0, 3.0);
    let found = Search { best: 1, longest: 9 }.find("two tab", &windows, &[(&starts, &ends)]);
    assert_eq!((found.answers[0].text.as_str(), found.answers[0].start), ("two", 0));
    assert!((found.difference - (3.0 - 2.0)).abs() < 1e-6, "{}", found.difference);
    assert_eq!((found.text(Some(0.5)), found.text(Some(1.0))), ("", "two"));
}

#[test]
fn questions_that_leave_no_room_are_refused() {
    let tokenizer = vocabulary();
    let asked = question(&"tab ".repeat(40), "two two two two two?", &[]);
    for (longest, stride, fits) in [(8, 0, false), (9, 0, false), (10, 0, true), (14, 5, false), (15, 5, true)] {
        let encoded = Encoder::new(&tokenizer, longest, stride).unwrap().encode(&asked);
        assert_eq!(encoded.is_ok(), fits, "{longest} {stride}");
        if let Err(error) = encoded {
            assert!(error.to_string().contains("6 tokens") && error.to_string().contains("stride"), "{error}");
        }
    }
    let chars = Tokenizer::chars("tabwo? ").unwrap();
    assert!(Encoder::new(&chars, 50, 0).is_err_and(|error| error.to_string().contains("[CLS]")));
}

#[test]
fn figures_are_those_of_squads_script() {
    for row in rows("normalised") {
        assert_eq!(json!(normalise(row[0].as_str().unwrap())), row[1], "{row}");
    }
    let pairs = rows("pairs");
    assert_eq!(pairs.len(), 289);
    for row in pairs {
        let (gold, answer) = (row[0].as_str().unwrap(), row[1].as_str().unwrap());
        assert_eq!(u64::from(exact(gold, answer)), row[2].as_u64().unwrap(), "{row}");
        assert!((f1(gold, answer) - row[3].as_f64().unwrap()).abs() < 1e-12, "{row}");
    }
    let cases = rows("figures");
    assert_eq!(cases.len(), 3);
    for case in cases {
        let all = case["rows"].as_array().unwrap();
        let judged: Vec<Judged> = all
            .iter()
            .map(|row| Judged {
                golds: row[0].as_array().unwrap().iter().map(|gold| gold.as_str().unwrap()).collect(),
                answer: row[1].as_str().unwrap(),
                no_answer: row[2].as_f64().unwrap(),
            })
            .collect();
        let got = scores(&judged, case["threshold"].as_f64().unwrap());
        let same = |key: &str, got: Option<f64>| {
            let want = case["figures"].get(key).and_then(Value::as_f64);
            assert_eq!(got.is_some(), want.is_some(), "{}: {key}", case["name"]);
            // Sums of 60 f64.
            assert!(
                (got.unwrap_or(0.0) - want.unwrap_or(0.0)).abs() < 1e-9,
                "{}: {key} {got:?} {want:?}",
                case["name"]
            );
        };
        let parts = [("", Some(got.all)), ("HasAns_", got.has_answer), ("NoAns_", got.no_answer)];
        for (prefix, part) in parts {
            same(&format!("{prefix}exact"), part.map(|Part { exact, .. }| exact));
            same(&format!("{prefix}f1"), part.map(|Part { f1, .. }| f1));
            same(&format!("{prefix}total"), part.map(|Part { total, .. }| total as f64));
        }
        same("best_exact", Some(got.best_exact.value));
        same("best_exact_thresh", Some(got.best_exact.threshold));
        same("best_f1", Some(got.best_f1.value));
        same("best_f1_thresh", Some(got.best_f1.threshold));
    }
}
