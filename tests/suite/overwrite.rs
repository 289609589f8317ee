//! `--overwrite` of a run: the old one stands until the new one has a checkpoint, whatever refuses, fails or ends it.

use crate::cli::{Place, error, stderr};
use std::fs;

const TRAIN: &str = "train --layers 1 --heads 2 --width 16 --eval-batches 1 --tokenizer bytes --device cpu -q";

/// A place with text, a run of 3 steps in `run` and a fine-tuned model in `tuned`.
fn place() -> Place {
    let place = Place::new();
    place.write("a.txt", "One two three four five six seven eight nine ten.\n".repeat(40));
    place.write("short.txt", "too short for any context");
    place.write("a.csv", "text,label\n".to_string() + &"a cat,x\na house,y\n".repeat(4));
    works(&place, &format!("{TRAIN} --data a.txt --context 16 --batch 2 --steps 3 --eval-every 0 --out run"));
    place
}

#[track_caller]
fn works(place: &Place, arguments: &str) {
    let output = place.wgpt(arguments);
    assert!(output.status.success(), "{arguments}: {}", stderr(&output));
}

/// The step and the bytes of the model of a run.
fn state(place: &Place, run: &str) -> Option<(u64, Vec<u8>)> {
    let trainer = fs::read(place.path(run).join("trainer.json")).ok()?;
    let trainer: serde_json::Value = serde_json::from_slice(&trainer).ok()?;
    Some((trainer["step"].as_u64()?, fs::read(place.path(run).join("model.safetensors")).ok()?))
}

#[test]
fn a_run_that_is_refused_or_diverges_leaves_the_old_one() {
    let place = place();
    let old = state(&place, "run").unwrap();
    let refused = [
        ("--data short.txt --context 512 --batch 2 --steps 2", 1),
        ("--data nowhere.txt --context 16 --steps 2", 1),
        ("--data a.txt --context 16 --steps 2 --batch 1048576", 1),
        ("--data a.txt --context 16 --steps 2 --lr nan", 2),
        ("--data a.txt --context 16 --steps 2 --init nowhere", 1),
        ("--data a.txt --context 16 --batch 2 --steps 9 --lr 1e30 --warmup 0 --eval-every 0", 1),
    ];
    for (arguments, code) in refused {
        error(&place.wgpt(&format!("{TRAIN} {arguments} --out run --overwrite")), code);
        assert!(state(&place, "run").unwrap() == old, "{arguments}");
        works(&place, "train --out run --resume --device cpu -q");
    }
    let left = fs::read_dir(place.path(""))
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(left.count(), 0, "nothing is left beside it");
}

#[test]
fn a_run_replaces_the_model_that_it_starts_from() {
    let place = place();
    let old = state(&place, "run").unwrap();
    let mut inits = vec!["run"];
    if cfg!(unix) {
        #[cfg(unix)]
        std::os::unix::fs::symlink("run", place.path("link")).unwrap();
        inits.push("link");
    }
    for init in inits {
        let more = format!("--init {init} --data a.txt --context 16 --steps 5 --out run --overwrite");
        works(&place, &format!("train -q --device cpu --batch 2 --eval-batches 1 {more}"));
        let (step, model) = state(&place, "run").unwrap();
        assert!(step == 5 && model != old.1, "{init}");
        works(&place, "train --out run --resume --steps 6 --device cpu -q");
        assert_eq!(state(&place, "run").unwrap().0, 6);
    }
    // The log and the curve are those of the new run, in its place.
    assert_eq!(fs::read_to_string(place.path("run/log.jsonl")).unwrap().lines().count(), 6);
    assert!(place.path("run/loss.svg").exists());
}

#[test]
fn a_fault_at_any_step_leaves_a_run_that_goes_on() {
    let place = place();
    fs::rename(place.path("run"), place.path("old")).unwrap();
    let copy = |from: &str| {
        let _ = fs::remove_dir_all(place.path("run"));
        assert!(
            std::process::Command::new("cp")
                .args(["-r", from, "run"])
                .current_dir(place.path(""))
                .status()
                .unwrap()
                .success()
        );
    };
    let old = state(&place, "old").unwrap();
    let train = format!(
        "{TRAIN} --data a.txt --context 16 --batch 2 --steps 2 --save-every 1 --eval-every 0 --seed 5 --out run --overwrite"
    );
    // Every third step for each, which are all together.
    for (first, mode) in ["fail", "full", "kill"].into_iter().enumerate() {
        let (mut was_old, mut was_new, mut unhurt) = (0, 0, 0);
        for number in (first..300).step_by(3) {
            copy("old");
            let output = place.command(&train).env("WGPT_FAULT", format!("{number}:{mode}")).output().unwrap();
            let text = stderr(&output);
            assert!(!text.contains("panicked"), "{number}:{mode}: {text}");
            unhurt = if output.status.success() { unhurt + 1 } else { 0 };
            if unhurt == 3 {
                break;
            }
            if state(&place, "run").as_ref() == Some(&old) {
                was_old += 1
            } else {
                was_new += 1
            }
            // Whichever it is, it goes on.
            let resumed = place.wgpt("train --out run --resume --steps 4 --device cpu -q");
            assert!(resumed.status.success(), "{number}:{mode}: {}", stderr(&resumed));
            assert_eq!(state(&place, "run").unwrap().0, 4, "{number}:{mode}");
        }
        assert!(was_old > 2 && was_new > 2, "{mode}: {was_old} old, {was_new} new");
    }
}

#[test]
fn a_fine_tuned_model_is_replaced_as_a_whole() {
    let place = place();
    let tune = "finetune --model run --task classify --data a.csv --val a.csv --batch 4 --max-length 16 --device cpu -q --out tuned";
    works(&place, &format!("{tune} --epochs 1"));
    place.write("tuned/notes.txt", "mine");
    let model = || fs::read(place.path("tuned/model.safetensors")).unwrap();
    let old = model();
    error(&place.wgpt(&format!("{tune} --epochs 2 --overwrite --lr 1e30")), 1);
    assert!(model() == old, "a run that diverges leaves the old model");
    works(&place, &format!("{tune} --epochs 2 --overwrite --seed 3"));
    assert!(model() != old && place.path("tuned/notes.txt").exists());
    works(&place, "predict --model tuned --data a.csv --device cpu -q");
    works(&place, "finetune --out tuned --resume --device cpu -q");
}
