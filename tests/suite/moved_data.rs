//! Every command that trains knows its data: it goes on where the same data has moved to, and says when it has changed.

use crate::cli::{Place, error, has, stderr};
use serde_json::Value;
use wgpt::data::tokenizer::Tokenizer;

/// A command, the file it learns from, and flags of its own.
const COMMANDS: [(&str, &str, &str); 4] = [
    ("train", "a.txt", "--tokenizer bytes --layers 1 --heads 2 --width 16 --context 16 --eval-batches 1"),
    ("finetune", "a.csv", "--model base --task classify --max-length 8 --lambda 0.25"),
    ("reward", "a.jsonl", "--model base --max-length 12 --center 0.01"),
    ("align", "a.pairs", "--model base --max-length 12 --beta 0.25"),
];

/// A model whose tokenizer has an end of text, in `base`, and data of every kind.
fn place() -> Place {
    let place = Place::new();
    place.write("a.txt", "some words to read\n".repeat(40));
    place.write("a.csv", "text,label\na,x\nb,y\na,x\nb,y\n");
    place.write("a.pairs", "{\"prompt\": \"a\", \"chosen\": \" word\", \"rejected\": \" b\"}\n".repeat(4));
    place.write("a.jsonl", "{\"prompt\": \"a\", \"chosen\": \" word\", \"rejected\": \" b\"}\n".repeat(4));
    good(&place, "tokenizer train --data a.txt --vocab 262 --out tok.json -q");
    let sizes = "--layers 1 --heads 2 --width 16 --context 16 --batch 2 --eval-batches 1";
    good(&place, &format!("train --out base --data a.txt --tokenizer tok.json {sizes} --steps 1 --device cpu -q"));
    place
}

#[track_caller]
fn good(place: &Place, arguments: &str) -> String {
    let output = place.wgpt(arguments);
    assert!(output.status.success(), "{arguments}: {}", stderr(&output));
    stderr(&output)
}

#[test]
fn a_run_goes_on_where_its_data_is_now_and_tells_changed_data() {
    let place = place();
    for (command, data, flags) in COMMANDS {
        let run = format!("{command} --out {command} --device cpu");
        good(&place, &format!("{run} --data {data} {flags} --batch 2 --steps 1"));
        let moved = data.replace("a.", "moved.");
        let text = std::fs::read_to_string(place.path(data)).unwrap();
        std::fs::rename(place.path(data), place.path(&moved)).unwrap();
        has(&error(&place.wgpt(&format!("{run} --resume --steps 2")), 1), &[data]);
        // Flags that say the same as the run do no harm; others are refused.
        let same = flags.replace("--model base", "").replace("--eval-batches 1", "");
        good(&place, &format!("{run} --resume --steps 2 --data {moved} {same} --batch 2"));
        has(&error(&place.wgpt(&format!("{run} --resume --steps 3 --batch 3")), 2), &["--batch", "which is 2"]);
        let (own, other) = if command == "train" { ("--context 16", "--context 8") } else { ("", "--max-length 7") };
        has(&error(&place.wgpt(&format!("{run} --resume --steps 3 {other}")), 2), &[other.split(' ').next().unwrap()]);
        good(&place, &format!("{run} --resume --steps 3 {own}")); // where the data is now is kept
        place.write(&moved, text.replace("word", "bird").replace("b,y", "c,y"));
        let refused = error(&place.wgpt(&format!("{run} --resume --steps 4")), 1);
        has(&refused, &["data has changed", "--data", "--accept-changed-data"]);
        has(&good(&place, &format!("{run} --resume --steps 4 --accept-changed-data")), &["warning: ", "has changed"]);
        good(&place, &format!("{run} --resume --steps 5")); // what was accepted is what the run's data is now
    }
}

#[test]
fn a_reward_models_folder_ends_texts_and_names_padding() {
    let place = place();
    let (_, data, flags) = COMMANDS[2];
    good(&place, &format!("reward --out reward --data {data} {flags} --batch 2 --steps 1 --device cpu -q"));
    good(&place, "export --model reward --out exported -q");
    for folder in ["reward", "exported"] {
        let read = |file: &str| -> Value {
            serde_json::from_slice(&std::fs::read(place.path(folder).join(file)).unwrap()).unwrap()
        };
        let tokenizer = Tokenizer::load(&place.path(folder)).unwrap();
        let end = tokenizer.end_of_text().unwrap();
        let pad = read("config.json")["pad_token_id"].as_u64().unwrap() as u32;
        // transformers looks at the last token that is not padding, which must be the end of the text.
        assert_ne!(pad, end);
        let name = read("tokenizer_config.json")["pad_token"].as_str().unwrap().to_string();
        assert_eq!(tokenizer.token_id(&name), Some(pad));
        let text = tokenizer.encode("some words").unwrap();
        let all = [&text[..], &[end]].concat();
        assert_eq!(tokenizer.encode_within("some words", 100).unwrap(), (all, false));
        let cut = [&text[..2], &[end]].concat();
        assert_eq!(tokenizer.encode_within("some words", 3).unwrap(), (cut, true));
    }
    place.write("texts.jsonl", "{\"text\": \"some words\"}\n{\"text\": \"a\"}\n");
    let one = place.wgpt("predict --model reward --data texts.jsonl --device cpu -q --batch 1");
    let both = place.wgpt("predict --model exported --data texts.jsonl --device cpu -q");
    has(&String::from_utf8_lossy(&one.stdout), &["\"grade\""]);
    assert_eq!(one.stdout, both.stdout);
}
