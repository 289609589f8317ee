//! Every flag that takes a value, with numbers that nothing can be done with: an answer or one clear error, never a panic.

use crate::cli::{Place, error, has, stderr};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The other arguments that a command needs beside the flag.
const COMMANDS: [(&str, &str); 14] = [
    (
        "train",
        "--out run --data a.txt --tokenizer bytes --layers 1 --heads 2 --width 16 --context 16 --batch 2 --steps 1 --eval-every 0 --eval-batches 1",
    ),
    ("finetune", "--out tuned --model model --task classify --data a.csv --epochs 1 --batch 2 --max-length 8"),
    ("predict", "--model model --data a.csv"),
    ("sample", "--model model --prompt ab --tokens 2"),
    ("prefer", "--model model --prompts rows.jsonl --out rows.out --tokens 2"),
    ("eval", "--model model --data a.txt"),
    ("export", "--model model --out exported --overwrite"),
    ("inspect", "--model model --prompt ab --out page.html --overwrite"),
    ("tokenizer train", "--data a.txt --vocab 260 --out tokenizer --overwrite"),
    ("tokenizer encode", "--tokenizer bytes"),
    ("data prepare", "--data a.txt --tokenizer bytes --out shards --overwrite"),
    ("data render", "--data rows.jsonl --model model --count 1"),
    ("data task", "classify --out examples.csv --count 2"),
    ("profile", "--preset demo --batch 1 --context 16 --repeat 1"),
];

const VALUES: [&str; 4] = ["0", "4294967296", "18446744073709551615", "nan"];

/// Flags of a command that take a value, by its help.
fn flags(place: &Place, command: &str) -> Vec<String> {
    let output = place.wgpt(&format!("{command} --help"));
    let text = String::from_utf8(output.stdout).unwrap();
    let options = text.lines().filter_map(|line| {
        line.trim_start().split_once("--").filter(|(before, _)| before.is_empty() || before.ends_with(", "))
    });
    let named = options.filter(|(_, rest)| rest.contains('<') && !rest.starts_with("device"));
    named.map(|(_, rest)| rest.split([' ', '<']).next().unwrap().to_string()).collect()
}

#[test]
fn no_number_in_any_flag_panics() {
    let place = Place::new();
    crate::export::tiny_model(&place.path("model"), 0.1);
    place.write("a.txt", "some words to read\n".repeat(40));
    place.write("rows.jsonl", "{\"text\": \"ab\", \"prompt\": \"ab\"}\n");
    place.write("a.csv", "text,label\na,x\nb,y\na,x\nb,y\n");
    let mut runs = vec![];
    for (command, needs) in COMMANDS {
        let flags = flags(&place, command);
        assert!(!flags.is_empty(), "{command} has no flags in its help");
        for flag in flags {
            // A flag that is among the needs is given once.
            let words: Vec<&str> = needs.split(' ').collect();
            let at = words.iter().position(|word| *word == format!("--{flag}"));
            let kept = words.iter().enumerate().filter(|(i, _)| at.is_none_or(|at| *i != at && *i != at + 1));
            let kept: Vec<&str> = kept.map(|(_, word)| *word).collect();
            if ["out", "data", "model", "val", "init", "config", "prompt", "prompt-file", "prompts", "tokenizer"]
                .contains(&flag.as_str())
            {
                continue; // names of files
            }
            runs.extend(VALUES.map(|value| format!("{command} {} --{flag}={value} --device cpu -q", kept.join(" "))));
        }
    }
    assert!(runs.len() > 250, "{}", runs.len());
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(run) = runs.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                    check(&place, run);
                }
            });
        }
    });
}

/// An answer, or one error line; what takes longer than two seconds is work, and is stopped.
#[track_caller]
fn check(place: &Place, arguments: &str) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model", "a.txt", "a.csv", "rows.jsonl"] {
        #[cfg(unix)]
        std::os::unix::fs::symlink(place.path(name), folder.path().join(name)).unwrap();
    }
    let mut command = place.command(arguments);
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if began.elapsed() > Duration::from_secs(2) {
            child.kill().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert!(!text.contains("panicked") && !text.contains("memory allocation"), "{arguments}: {text}");
    let Some(status) = status else { return };
    assert!(matches!(status.code(), Some(0..=2)), "{arguments}: {status:?}: {text}");
    let errors = text.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, usize::from(!status.success()), "{arguments}: {text}");
}

/// Flags that would do nothing beside others, and what the error names.
const USELESS: [(&str, &str); 31] = [
    ("train --out run --data a.txt --ext md", "--ext"),
    ("train --out run --data a.txt --init model --init-std 0.1", "--init-std"),
    ("train --out run --data a.txt --init model --residual-init plain", "--residual-init"),
    ("train --out run --data a.txt --init model --attention-window 4", "--attention-window"),
    ("train --out run --data a.txt --window-every 2", "--window-every"),
    ("train --out run --data a.txt --min-lr 1e-5 --schedule constant", "--min-lr"),
    ("train --out run --data a.txt --decay-steps 5 --schedule constant", "--decay-steps"),
    ("train --out run --data a.txt --batch-warmup 5 --accumulate 1", "--batch-warmup"),
    ("sft --out run --model model --data rows.jsonl --max-length 8 --batch-warmup 5 --accumulate 2", "--batch-warmup"),
    ("train --out run --data a.txt --patience 2 --eval-every 0", "--patience"),
    ("train --out run --data a.txt --head-lr 1e-5 --layers 1 --heads 2 --width 16 --context 16", "--head-lr"),
    ("train --out run --data a.txt --retune", "--retune"),
    ("finetune --out run --model model --task classify --data a.csv --patience 2", "--val"),
    ("finetune --out run --model model --task classify --data a.csv --eval-every 2", "--val"),
    ("finetune --out run --model model --task classify --data a.csv --metric f1", "--val"),
    ("finetune --out run --model model --task classify --data a.csv --eval-batches 2", "--eval-batches"),
    ("finetune --out run --model model --task classify --data a.csv --freeze all --layer-decay 0.5", "--layer-decay"),
    ("finetune --out run --model model --task classify --data a.csv --grades", "--grades"),
    ("finetune --out run --model model --task classify --data a.csv --premise p", "--premise"),
    ("reward --out run --model model --data a.jsonl --patience 2", "--val"),
    ("reward --out run --model model --data a.jsonl --classifier-rows 64", "--classifier-rows"),
    ("reward --out run --model model --data a.jsonl --mix 1,2", "--mix"),
    ("sample --model model --prompt a --strategy greedy --top-k 3", "--top-k"),
    ("prefer --model model --prompts a.jsonl --out b.jsonl --strategy greedy", "--strategy"),
    ("eval --model model --data a.txt --ext md", "--ext"),
    ("eval --model model --task cloze --seed 3", "--seed"),
    ("eval --model model --task choose --separator x", "--separator"),
    ("eval --model model --ids ids.json --logits out.safetensors --stride 2", "--stride"),
    ("tokenizer train --data a.txt --column body --out tok.json", "--column"),
    ("data prepare --data a.txt --tokenizer bytes --column body --out shards", "--column"),
    ("doctor --list --ops matmul", "--ops"),
];

#[test]
fn flags_that_would_do_nothing_are_refused_by_name() {
    let place = Place::new();
    crate::export::tiny_model(&place.path("model"), 0.1);
    place.write("a.txt", "some words to read\n".repeat(40));
    place.write("a.csv", "text,label\na,x\nb,y\na,x\nb,y\n");
    place.write("rows.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    place.write("a.jsonl", "{\"chosen\": \"a\", \"rejected\": \"b\"}\n");
    for (arguments, flag) in USELESS {
        let output = place.wgpt(&format!("{arguments} --device cpu -q"));
        has(&error(&output, 2), &[flag]);
    }
}
