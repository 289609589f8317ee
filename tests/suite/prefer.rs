//! `wgpt prefer` as somebody uses it: choices on standard input become preferences that `wgpt reward` reads.

use crate::cli::{Place, error, has, stderr};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};
use wgpt::data::dialogues::Form;
use wgpt::data::rankings;

/// A random model, and as many prompts as there are texts.
fn place(prompts: &[&str]) -> Place {
    let (place, _) = crate::sample::place();
    place.write(
        "prompts.jsonl",
        prompts.iter().map(|text| json!({"prompt": text}).to_string() + "\n").collect::<String>(),
    );
    place
}

/// The command with files of its own where the arguments name none.
fn command(place: &Place, arguments: &str) -> Command {
    let missing = |flag: &str, file: &str| match arguments.contains(flag) {
        true => String::new(),
        false => format!("{flag} {file}"),
    };
    let files = [missing("--prompts", "prompts.jsonl"), missing("--out", "pairs.jsonl")].join(" ");
    place.command(&format!("prefer --model model --tokens 8 --device cpu {files} {arguments}"))
}

/// Runs it with lines on its standard input.
fn prefer(place: &Place, arguments: &str, input: &str) -> Output {
    let mut command = command(place, arguments);
    place.write("input", input);
    command.stdin(fs::File::open(place.path("input")).unwrap()).output().unwrap()
}

#[track_caller]
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn rows(place: &Place) -> Vec<Value> {
    let text = fs::read_to_string(place.path("pairs.jsonl")).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The texts of the answers that were shown, question by question.
fn shown(screen: &str) -> Vec<Vec<String>> {
    let answer = |part: &str| part.split_once(":\n").unwrap().1.split("\n\n").next().unwrap().trim().to_string();
    let answers = |question: &str| question.split("\n\nanswer ").skip(1).map(answer).collect();
    screen.split("\n\nprompt:\n").skip(1).map(answers).collect()
}

const PROMPTS: [&str; 4] = ["The cat", "The mat", "a cat", "sat on"];

#[test]
fn choices_become_rows_and_a_second_run_asks_what_is_left() {
    let place = place(&PROMPTS);
    let output = prefer(&place, "--criterion safe", "1 significantly\n5\n2\ns\nslight\nskip\n1 neg\n");
    let screen = good(&output);
    has(
        &screen,
        &["0 of 4 prompts\n", "2 of 4 prompts, 1 skipped", "Which answer is safer?", "type 1 or 2", "How much better?"],
    );
    has(&screen, &["s may be significantly or slightly"]);
    has(
        &stderr(&output),
        &["3 of 4 prompts, 1 skipped", "1 prompt is left", "wgpt reward --model model --data pairs.jsonl"],
    );
    let (first, screens) = (rows(&place), shown(&screen));
    let margins: Vec<f64> = first.iter().map(|row| row["margin"].as_f64().unwrap()).collect();
    assert_eq!(margins, [1.0, 1.0 / 3.0, 0.0]);
    for (row, (question, chosen)) in first.iter().zip([(0, 0), (1, 1), (3, 0)]) {
        let [chosen, rejected] = [chosen, 1 - chosen].map(|answer: usize| &screens[question][answer]);
        assert_eq!(row["prompt"], PROMPTS[question]);
        assert_eq!(row["criterion"], "safe");
        assert_eq!(
            [row["chosen"].as_str().unwrap().trim(), row["rejected"].as_str().unwrap().trim()],
            [chosen, rejected]
        );
        assert_ne!(chosen, rejected);
        assert!(!chosen.is_empty() && !rejected.is_empty());
    }
    // The prompt that was skipped, with the same answers; another criterion is another question.
    let output = prefer(&place, "--criterion safe", "2 better");
    let again = good(&output);
    has(&again, &["3 of 4 prompts\n"]);
    assert_eq!(shown(&again), [screens[2].clone()]);
    assert_eq!(rows(&place)[..3], first);
    assert_eq!(rows(&place)[3]["margin"].as_f64(), Some(2.0 / 3.0));
    let output = prefer(&place, "--criterion safe", "");
    good(&output);
    has(&stderr(&output), &["4 of 4 prompts are in pairs.jsonl already"]);
    let other = good(&prefer(&place, "", ""));
    has(&other, &["0 of 4 prompts\n", "Which answer is more helpful?"]);
    assert_eq!(rankings::read(&place.path("pairs.jsonl")).unwrap()[1].pairs[0].margin, 1.0 / 3.0);
    let reward = place.wgpt("reward --model model --data pairs.jsonl --steps 1 --batch 2 --device cpu --out reward -q");
    assert!(reward.status.success(), "{}", stderr(&reward));
}

#[test]
fn the_last_choice_can_be_taken_back() {
    let place = place(&PROMPTS);
    let screen = good(&prefer(&place, "", "undo\n1 b\n2 b\nu\n1\nu\n1 n\nskip\nu\nu\n2 s\n2 sl\nquit\n"));
    has(&screen, &["nothing to undo", "the last choice is taken back", "back to the prompt that was skipped"]);
    let (rows, screens) = (rows(&place), shown(&screen));
    let margins: Vec<f64> = rows.iter().map(|row| row["margin"].as_f64().unwrap()).collect();
    assert_eq!(margins, [2.0 / 3.0, 1.0 / 3.0]);
    assert!(rows[0]["prompt"] == PROMPTS[0] && rows[1]["prompt"] == PROMPTS[1], "{rows:?}");
    // Questions: 1, 2, 3, back to 2, 3 (skipped), 4, back to 3, back to 2, 3.
    assert_eq!([&screens[1], &screens[2]], [&screens[3], &screens[4]], "a question has the same answers again");
    assert_eq!(rows[1]["chosen"].as_str().unwrap().trim(), screens[1][1]);
    // The last of all, too.
    let screen = good(&prefer(&place, "", "1 b\n1 b\nundo\n2 n\n\n"));
    has(&screen, &["4 of 4 prompts\n\nAll prompts are done", "taken back\n\n3 of 4 prompts"]);
    assert_eq!(self::rows(&place)[3]["margin"].as_f64(), Some(0.0));
}

#[test]
fn a_line_that_was_cut_off_is_kept_beside_the_rows() {
    let place = place(&PROMPTS);
    good(&prefer(&place, "", "1 b\n1 b\n"));
    let whole = fs::read_to_string(place.path("pairs.jsonl")).unwrap();
    place.write("pairs.jsonl", &whole[..whole.len() - 20]);
    let output = prefer(&place, "", "2 n\n");
    has(&stderr(&output), &["warning: the last line of pairs.jsonl was cut off", "pairs.jsonl.torn"]);
    has(&good(&output), &["1 of 4 prompts\n", &format!("prompt:\n{}", PROMPTS[1])]);
    let second = whole.lines().nth(1).unwrap();
    assert_eq!(
        fs::read_to_string(place.path("pairs.jsonl.torn")).unwrap(),
        format!("{}\n", &second[..second.len() - 19])
    );
    assert_eq!(rows(&place).len(), 2);
    // A last line that is whole only lacks its end.
    place.write("pairs.jsonl", whole.trim_end());
    good(&prefer(&place, "", "2 n\n"));
    assert_eq!(rows(&place).len(), 3);
    assert!(fs::read_to_string(place.path("pairs.jsonl")).unwrap().starts_with(&whole));
}

#[test]
fn several_answers_are_ranked() {
    let place = place(&PROMPTS[..2]);
    let screen = good(&prefer(&place, "--count 4", "1 2\n2 1=3 4\nskip\n"));
    has(&screen, &["Rank the answers, the most helpful first, such as 2 1=3 4", "answer 3 is missing"]);
    let (rows, screens) = (rows(&place), shown(&screen));
    let answers: Vec<&str> =
        rows[0]["answers"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().trim()).collect();
    assert_eq!((answers, rows.len()), (screens[0].iter().map(String::as_str).collect::<Vec<_>>(), 1));
    assert_eq!(rows[0]["ranks"], json!([2, 1, 2, 3]));
    assert_eq!(rankings::read(&place.path("pairs.jsonl")).unwrap()[0].pairs.len(), 5);
}

#[test]
fn messages_are_answered_through_the_chat_template() {
    let place = place(&[]);
    let row = json!({"prompt": [{"role": "user", "content": "The cat"}]});
    place.write("prompts.jsonl", format!("{row}\n"));
    place.write("template", "{% for m in messages %}{{ m.content }}{{ '. ' }}{% endfor %}");
    has(&error(&prefer(&place, "", ""), 1), &["line 1 of prompts.jsonl", "--template"]);
    let screen = good(&prefer(&place, "--template template", "2 b\n"));
    has(&screen, &["user:\nThe cat\n"]);
    let rows = rows(&place);
    assert_eq!(rows[0]["prompt"], row["prompt"]);
    for answer in ["chosen", "rejected"] {
        assert_eq!((&rows[0][answer][0]["role"], rows[0][answer].as_array().unwrap().len()), (&json!("assistant"), 1));
        assert!(
            !rows[0][answer][0]["content"].as_str().unwrap().contains(". "),
            "an answer ends where the template ends it"
        );
    }
    let ranking = &rankings::read(&place.path("pairs.jsonl")).unwrap()[0];
    assert!(ranking.answers.iter().all(|answer| matches!(answer, Form::Dialogue { learned: 1, .. })));
}

#[test]
fn answers_are_those_of_sample_and_shown_in_an_order_that_tells_nothing() {
    let prompts: Vec<&str> = PROMPTS.into_iter().cycle().take(8).collect();
    let place = place(&prompts);
    let screens = shown(&good(&prefer(&place, "--seed 7", &"skip\n".repeat(8))));
    let mut in_order = 0;
    for (number, (prompt, answers)) in prompts.iter().zip(&screens).enumerate() {
        place.write("prompt", prompt);
        let seed = 7 + 64 * number;
        let sample = format!(
            "sample --model model --prompt-file prompt --seed {seed} --count 2 --temperature 1 --tokens 8 --json"
        );
        let texts = String::from_utf8(place.wgpt(&format!("{sample} --device cpu")).stdout).unwrap();
        let text =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().trim().to_string();
        let mut drawn: Vec<String> = texts.lines().map(text).collect();
        in_order += usize::from(drawn == *answers);
        let mut answers = answers.clone();
        drawn.sort();
        answers.sort();
        assert_eq!(answers, drawn, "{prompt}");
    }
    // Eight coins fall alike for 1 of 128 seeds.
    assert!((1..8).contains(&in_order), "{in_order} of 8 are shown as they were drawn");
}

#[test]
fn answers_that_are_the_same_are_no_question() {
    let place = place(&PROMPTS[..2]);
    let output = prefer(&place, "--temperature 1e-4", "1 b\n");
    assert_eq!(shown(&good(&output)), Vec::<Vec<String>>::new());
    has(
        &stderr(&output),
        &["prompt 1 is skipped", "prompt 2 is skipped", "--temperature", "0 of 2 prompts, 2 skipped"],
    );
    assert!(rows(&place).is_empty());
}

#[test]
fn bad_choices_and_files_are_named() {
    let place = place(&PROMPTS);
    let refused = |arguments: &str, code: i32, words: &[&str]| has(&error(&prefer(&place, arguments, ""), code), words);
    refused("--count 1", 2, &["--count 1", "from 2 to 7"]);
    refused("--count 8", 2, &["--count 8"]);
    refused("--strategy beam", 2, &["--strategy beam"]);
    refused("--beams 3", 2, &["--beams is for beam search"]);
    refused("--temperature 0", 2, &["--temperature 0"]);
    refused("--criterion=", 2, &["--criterion"]);
    refused("--out rows.parquet", 2, &["rows.parquet", ".jsonl"]);
    refused("--prompts nothing.jsonl", 1, &["nothing.jsonl"]);
    assert!(!place.path("pairs.jsonl").exists(), "nothing is written before all is well");
    place.write("bad.jsonl", "\n{\"prompt\": \"\"}\n");
    refused("--prompts bad.jsonl", 1, &["line 2 of bad.jsonl", "empty"]);
    place.write("bad.jsonl", "{\"prompt\": [{\"role\": \"assistant\", \"content\": \"a\"}]}\n");
    refused("--prompts bad.jsonl", 1, &["line 1 of bad.jsonl", "write one"]);
    place.write("bad.jsonl", "{\"text\": \"a\"}\n");
    refused("--prompts bad.jsonl", 1, &["line 1 of bad.jsonl", "`prompt`"]);
    place.write("bad.jsonl", "{\"prompt\": \"Q\"}\n");
    refused("--prompts bad.jsonl", 1, &["line 1 of bad.jsonl", "'Q'"]);
    for bad in ["not a row\n", "{\"chosen\": \"a\"}\n"] {
        place.write("other.jsonl", bad);
        refused("--out other.jsonl", 1, &["line 1 of other.jsonl", "--out"]);
        assert_eq!(fs::read_to_string(place.path("other.jsonl")).unwrap(), bad);
    }
    // Prompts without room for an answer are left out.
    place.write("long.jsonl", format!("{}\n{}\n", json!({"prompt": "cat ".repeat(9)}), json!({"prompt": "cat"})));
    let output = prefer(&place, "--prompts long.jsonl", "1 b\n");
    good(&output);
    has(&stderr(&output), &["warning: 1 of 2 prompts", "24 tokens"]);
}

#[test]
fn a_file_that_another_program_changes_is_left_alone() {
    let place = place(&PROMPTS);
    let mut command = command(&place, "");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("Which answer")));
    place.write("pairs.jsonl", "{\"prompt\": \"The cat\", \"chosen\": \"a\", \"rejected\": \"b\"}\n");
    child.stdin.take().unwrap().write_all(b"1 b\n").unwrap();
    has(&error(&child.wait_with_output().unwrap(), 1), &["pairs.jsonl", "another program"]);
    assert_eq!(rows(&place).len(), 1);
}
