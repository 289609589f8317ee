//! Preferences for reward models: pairs and rankings, texts and dialogues, several sources, and what is refused.

use crate::cli::{Place, error, has, stderr};
use serde_json::{Value, json};
use std::fs;
use std::process::Output;
use wgpt::data::chat_template::ChatTemplate;
use wgpt::data::labelled::sequences::Encoder;
use wgpt::data::labelled::{Example, Task};
use wgpt::data::rankings::{Pair, Ranking, read};
use wgpt::data::tokenizer::{Marks, Tokenizer};

fn of(place: &Place, row: &str) -> wgpt::error::Result<Ranking> {
    let path = place.write("rows.jsonl", format!("\n{row}\n"));
    read(&path).map(|mut rankings| rankings.remove(0))
}

#[test]
fn a_ranking_is_all_pairs_of_different_ranks() {
    let place = Place::new();
    let pairs = |row: &str| -> Vec<(usize, usize, f32)> {
        let pair = |Pair { chosen, rejected, margin }| (chosen, rejected, margin);
        of(&place, row).unwrap().pairs.into_iter().map(pair).collect()
    };
    assert_eq!(
        pairs(r#"{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5, "criterion": "safe"}"#),
        [(0, 1, 0.5)]
    );
    assert_eq!(pairs(r#"{"chosen": "b", "rejected": "", "margin": null}"#), [(0, 1, 0.0)]);
    let ranked = pairs(r#"{"prompt": "a", "answers": ["b", "c", "d", "e"], "ranks": [2, 1, 2, 3]}"#);
    assert_eq!(ranked, [(0, 3, 0.0), (1, 0, 0.0), (1, 2, 0.0), (1, 3, 0.0), (2, 3, 0.0)]);
    // Answers of one rank may be the same.
    assert_eq!(pairs(r#"{"answers": ["b", "b", "d"], "ranks": [1, 1, 2]}"#).len(), 2);
}

#[test]
fn rows_that_say_nothing_are_refused_with_their_line() {
    let place = Place::new();
    let say = |answer: &str| json!([{"role": "assistant", "content": answer}]);
    for (row, words) in [
        (r#"{"chosen": "a", "rejected": "a"}"#.to_string(), "the same; remove the pair"),
        (r#"{"chosen": "a", "rejected": "b", "margin": "much"}"#.into(), "margin \"much\" is not a number"),
        (r#"{"chosen": "a", "rejected": "b", "margin": [1]}"#.into(), "margin [1] is not a number"),
        (r#"{"chosen": "a", "rejected": "b", "margin": 1e39}"#.into(), "is not a number"),
        (r#"{"chosen": "a"}"#.into(), "`rejected`"),
        (r#"{"chosen": "a", "rejected": "b", "answers": ["a", "b"], "ranks": [1, 2]}"#.into(), "another form"),
        (r#"{"answers": ["a", "b"]}"#.into(), "`ranks`"),
        (r#"{"answers": ["a", "b"], "ranks": [1, 3]}"#.into(), "the ranks are 1, 3: number them from 1"),
        (r#"{"answers": ["a", "b"], "ranks": [0, 1]}"#.into(), "the ranks are 0, 1: number them from 1"),
        (r#"{"answers": ["a", "b", "c"], "ranks": [1, 2]}"#.into(), "3 answers and 2 ranks"),
        (r#"{"answers": ["a", "b"], "ranks": [1, 1]}"#.into(), "same rank"),
        (r#"{"answers": ["a"], "ranks": [1]}"#.into(), "from 2 to"),
        (r#"{"answers": ["a", "b"], "ranks": [1, 1.5]}"#.into(), "is no preference"),
        (r#"{"answers": ["a", "b", "a"], "ranks": [1, 2, 3]}"#.into(), "answers 1 and 3 are the same"),
        (r#"{"answers": ["a", "b"], "ranks": [1, 2], "margin": 1}"#.into(), "leave it out"),
        (json!({"prompt": "q", "chosen": say("a"), "rejected": say("b")}).to_string(), "write all alike"),
        (json!({"chosen": say("a"), "rejected": "b"}).to_string(), "write all alike"),
        (json!({"chosen": say("a"), "rejected": say("b")}).to_string(), "the user begins"),
    ] {
        let refused = of(&place, &row).unwrap_err().to_string();
        has(&refused, &["line 2 of ", "rows.jsonl", words]);
        assert!(!refused.contains('\n'), "{refused}");
    }
}

#[test]
fn messages_are_what_the_chat_template_writes_and_texts_are_ended() {
    let place = Place::new();
    place.write("a.txt", "who found it, the fox or the cat\n".repeat(20));
    assert!(place.wgpt("tokenizer train --data a.txt --vocab 262 --out tok.json -q").status.success());
    let tokenizer = Tokenizer::load(&place.path("tok.json")).unwrap();
    let tokenizer = tokenizer.ended(Marks::of(&tokenizer, None), 64).unwrap();
    let template =
        ChatTemplate::new("{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}", "", "").unwrap();
    let message = |role: &str, content: &str| json!([{"role": role, "content": content}]);
    let row = json!({"prompt": message("user", "who found it"), "chosen": message("assistant", "the fox"),
        "rejected": message("assistant", "the cat")});
    let ranking = of(&place, &row.to_string()).unwrap();
    let ids = ranking.encode(&tokenizer, Some(&template)).unwrap();
    let (text, end) = ("u: who found it\na: the fox\n", tokenizer.end_of_text().unwrap());
    assert_eq!(ids[0], tokenizer.encode(text).unwrap());
    has(&ranking.encode(&tokenizer, None).unwrap_err().to_string(), &["chat template", "--template"]);
    // As `wgpt predict` has them.
    let encoder = Encoder {
        tokenizer: &tokenizer,
        task: Task::Classify,
        special: None,
        longest: 64,
        pad: None,
        is_encoder: false,
    };
    let example = |rendered| Example { line: 1, texts: vec![text.into()], choices: vec![], label: None, rendered };
    assert_eq!(encoder.encode(&example(true)).unwrap().ids, [ids[0].clone()]);
    assert_eq!(encoder.encode(&example(false)).unwrap().ids, [[&ids[0][..], &[end]].concat()]);
    let texts = of(&place, r#"{"prompt": "who ", "chosen": "the fox", "rejected": "it"}"#).unwrap();
    let want = [tokenizer.encode("who the fox").unwrap(), vec![end]].concat();
    assert_eq!(texts.encode(&tokenizer, None).unwrap()[0], want);
}

#[track_caller]
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    stderr(output)
}

#[test]
fn rankings_and_pairs_of_several_sources_are_learned() {
    let place = Place::new();
    let pair = |i: usize| {
        let prompt = ["who found it. ", "who is sad. "][i % 2];
        json!({"prompt": prompt, "chosen": "the fox", "rejected": "a sun", "margin": (i % 3) as f64 / 3.0}).to_string()
            + "\n"
    };
    let ranking = |i: usize| {
        let ranks = [[1, 2, 2, 3], [1, 3, 2, 3]][i % 2];
        json!({"prompt": "who ", "answers": ["the fox", "fox", "a fox sun", "a sun"], "ranks": ranks}).to_string()
            + "\n"
    };
    place.write("public.jsonl", (0..6).map(pair).collect::<String>());
    place.write("own.jsonl", (0..3).map(ranking).collect::<String>());
    place.write("held-out.jsonl", pair(0) + &pair(1) + &ranking(0));
    let reward =
        "reward --out run --data public.jsonl --data own.jsonl --val held-out.jsonl --lr 3e-3 --device cpu --batch 2";
    let told = good(&place.wgpt(&format!("{reward} --mix 2,1 --epochs 4 --save-every 3")));
    // Six rows of one, and three of the other: each once.
    has(&told, &["reward: 21 training pairs of 9 rows, 7 validation pairs of 3 rows", "accuracy 1.000"]);
    has(&told, &["of 6 with margin 0", "of 1 with margin 0.333"]);
    let log = fs::read_to_string(place.path("run/training/log.jsonl")).unwrap();
    // Micro-batches of four answers: three of public rows, and three rankings.
    assert_eq!(log.lines().count(), 24, "{log}");
    let weights = || fs::read(place.path("run/training/checkpoints/step-000024/model.safetensors")).unwrap();
    let whole = weights();
    fs::remove_dir_all(place.path("run/training/checkpoints/step-000024")).unwrap();
    good(&place.wgpt("reward --out run --resume --mix 2,1 --device cpu -q"));
    assert!(weights() == whole, "resuming changes no bit");
    has(&error(&place.wgpt("reward --out run --resume --mix 1,1"), 2), &["--mix"]);
    has(&error(&place.wgpt("reward --out run --resume --template lines"), 2), &["--template lines"]);

    let refused = |arguments: &str, code: i32, words: &[&str]| {
        has(&error(&place.wgpt(&format!("reward --out new --device cpu {arguments}")), code), words);
    };
    refused("--data own.jsonl --batch 1", 2, &["4 answers", "--batch 1", "at least --batch 2"]);
    refused("--data own.jsonl --mix 1,2", 2, &["--mix", "1 --data"]);
    refused("--data own.jsonl --max-length 3", 1, &["rows of own.jsonl", "--max-length"]);
    assert!(!place.path("new").exists());
}

#[test]
fn a_reward_model_of_dialogues_scores_dialogues() {
    let place = Place::new();
    let message = |role: &str, content: &str| json!([{"role": role, "content": content}]);
    let row = json!({"prompt": message("user", "who found it"), "chosen": message("assistant", "the fox"),
        "rejected": message("assistant", "the sun")});
    place.write("chats.jsonl", format!("{row}\n").repeat(4));
    has(
        &error(&place.wgpt("reward --out run --data chats.jsonl --device cpu"), 1),
        &["line 1 of chats.jsonl", "--template"],
    );
    good(
        &place
            .wgpt("reward --out run --data chats.jsonl --template lines --steps 8 --lr 3e-3 --batch 2 --device cpu -q"),
    );
    let dialogue =
        |answer: &str| json!([{"role": "user", "content": "who found it"}, {"role": "assistant", "content": answer}]);
    let rows: String =
        ["the fox", "the sun"].map(|answer| json!({"chat": dialogue(answer)}).to_string() + "\n").concat();
    place.write("scored.jsonl", rows);
    let grades = |arguments: &str| -> Vec<f64> {
        let output =
            place.wgpt(&format!("predict --model run --data scored.jsonl --text chat --device cpu -q {arguments}"));
        good(&output);
        let grade = |line: &str| serde_json::from_str::<Value>(line).unwrap()["grade"].as_f64().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(grade).collect()
    };
    // The folder keeps the template.
    let kept = grades("");
    assert!(kept.len() == 2 && kept[0] > kept[1] + 0.1, "{kept:?}");
    assert_eq!(kept, grades("--template lines"));
    place.write("other", "{% for m in messages %}{{ m.content }}{% endfor %}");
    assert_ne!(kept, grades("--template other"));
    place.write("scored.jsonl", "{\"chat\": [{\"role\": \"user\"}]}\n");
    let refused = place.wgpt("predict --model run --data scored.jsonl --text chat --device cpu");
    has(&error(&refused, 1), &["`chat` in line 1 of scored.jsonl", "list of messages", "content"]);
}
