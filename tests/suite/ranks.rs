//! Several ranks on MPI: the bits of one rank, checkpoints, a rank that ends, and ranks that do not fit together.

use crate::cli::{Place, error, has, stderr};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A model with a tied output projection, whose embedding has two gradients.
const RUN: &str = "train --layers 1 --heads 2 --width 16 --context 16 --batch 2 --steps 6 --eval-every 3 --eval-batches 1 \
    --save-every 2 --device cpu -q";

/// Local steps whose learning rate does not depend on the number of steps.
const LOCAL: &str = "train --layers 1 --heads 2 --width 16 --context 16 --batch 2 --sync-every 3 --eval-every 0 --eval-batches 1 \
    --save-every 6 --schedule constant --warmup 0 --device cpu -q";

/// `mpirun` in the folder, not run yet: a program and its arguments for each number of ranks.
fn mpirun(place: &Place, programs: &[(usize, &str)]) -> Command {
    let mut command = Command::new("mpirun");
    // Root is who runs in a container; a machine may have fewer cores than ranks.
    command.args(["--allow-run-as-root", "--oversubscribe", "--quiet"]);
    for (i, (count, arguments)) in programs.iter().enumerate() {
        command.args([":"].iter().filter(|_| i > 0));
        command.args(["-n", &count.to_string(), env!("CARGO_BIN_EXE_wgpt")]).args(arguments.split_whitespace());
    }
    command.current_dir(place.path("")).env("WGPT_CACHE", place.path("cache")).stdin(Stdio::null());
    command
}

fn run(place: &Place, count: usize, arguments: &str) -> Output {
    mpirun(place, &[(count, arguments)]).output().expect("mpirun: install openmpi-bin")
}

#[track_caller]
fn succeeds(output: Output) {
    assert!(output.status.success(), "{}", stderr(&output));
}

/// The bytes of a run's newest weights and optimiser.
fn model(place: &Place, run: &str) -> Vec<Vec<u8>> {
    let read = |file: &str| std::fs::read(place.path(&format!("{run}/{file}"))).unwrap();
    vec![read("model.safetensors"), read("optimizer.safetensors")]
}

#[test]
fn ranks_have_the_bits_of_one_rank_and_another_number_resumes() {
    let place = Place::new();
    succeeds(place.wgpt(&format!("{RUN} --accumulate 2 --out one")));
    succeeds(run(&place, 2, &format!("{RUN} --out two")));
    assert!(model(&place, "one") == model(&place, "two"), "2 ranks x 1 micro-batch are not 1 rank x 2 micro-batches");
    let losses = |run: &str| {
        let log = std::fs::read_to_string(place.path(&format!("{run}/log.jsonl"))).unwrap();
        let numbers = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        numbers
            .map(|record| [&record["loss"], &record["val_loss"], &record["grad_norm"]].map(ToString::to_string))
            .collect::<Vec<_>>()
    };
    assert_eq!((losses("one"), losses("two").len()), (losses("two"), 6));
    // Ranks without a micro-batch add nothing.
    succeeds(run(&place, 3, "train --out two --resume --steps 8 --device cpu -q"));
    succeeds(place.wgpt("train --out one --resume --steps 8 --device cpu -q"));
    assert!(model(&place, "one") == model(&place, "two"));
}

#[test]
fn a_checkpoint_holds_the_memories_of_all_ranks() {
    let place = Place::new();
    place.write("a.txt", "the cat sat on the mat and the dog ran. ".repeat(40));
    let train = "train --preset transfo-xl-mini --layers 1 --heads 2 --width 16 --context 8 --batch 1 --accumulate 2 --steps 2 \
                 --eval-every 0 --eval-batches 1 --data a.txt --device cpu -q";
    succeeds(place.wgpt(&format!("{train} --out one")));
    succeeds(run(&place, 2, &format!("{train} --out two")));
    assert!(model(&place, "one") == model(&place, "two"), "the memories of rank 1 are not in the checkpoint of rank 0");
}

#[test]
fn a_rank_that_is_killed_ends_the_run_and_local_steps_resume_with_the_same_bits() {
    let place = Place::new();
    succeeds(run(&place, 2, &format!("{LOCAL} --steps 18 --out whole")));
    let began = Instant::now();
    let mut command = mpirun(&place, &[(2, &format!("{LOCAL} --steps 100000 --out killed"))]);
    let mpirun = command.stderr(Stdio::piped()).spawn().unwrap();
    let checkpoint = |step: usize| place.path(&format!("killed/checkpoints/step-{step:06}"));
    while !(checkpoint(6).exists() || checkpoint(12).exists()) {
        assert!(began.elapsed() < Duration::from_secs(60), "there is no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", mpirun.id())).unwrap();
    let last = children.split_whitespace().next_back().unwrap();
    let killed = Instant::now();
    assert!(Command::new("kill").args(["-9", last]).status().unwrap().success());
    let output = mpirun.wait_with_output().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    assert!(!output.status.success());
    let text = stderr(&output);
    assert_eq!(text.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{text}");
    has(&text, &["rank 1", "--resume"]);
    let steps = std::fs::read_dir(place.path("killed/checkpoints")).unwrap();
    let newest =
        steps.map(|step| step.unwrap().file_name().into_string().unwrap()).filter(|name| name.len() == 11).max();
    let newest: usize = newest.unwrap()[5..].parse().unwrap();
    let to = newest.max(12) + 6;
    succeeds(run(&place, 2, &format!("train --out killed --resume --steps {to} --device cpu -q")));
    succeeds(run(&place, 2, &format!("train --out whole --resume --steps {to} --device cpu -q")));
    assert!(model(&place, "killed") == model(&place, "whole"), "after step {newest}");
}

#[test]
fn ranks_that_do_not_fit_together_are_refused_in_one_sentence() {
    let place = Place::new();
    let other = format!("{RUN} --lr 1e-2 --out run");
    let output = mpirun(&place, &[(1, &format!("{RUN} --out run")), (1, &other)]).output().unwrap();
    has(&error(&output, 1), &["rank 1", "other settings"]);
    let other = format!("{} --out run", RUN.replace("--layers 1", "--layers 2"));
    let output = mpirun(&place, &[(1, &format!("{RUN} --out run")), (1, &other)]).output().unwrap();
    has(&error(&output, 1), &["rank 1", "another model"]);
    let output =
        mpirun(&place, &[(1, &format!("{RUN} --out run")), (1, &format!("{RUN} --out run --data none.txt"))]).output();
    has(&error(&output.unwrap(), 1), &["rank 1: ", "none.txt"]);
    has(&error(&run(&place, 2, &format!("{RUN} --accumulate 1 --out run")), 2), &["2 ranks", "--accumulate"]);
    let growing = format!("{RUN} --accumulate 4 --batch-warmup 2 --sync-every 2 --out run");
    has(&error(&run(&place, 2, &growing), 2), &["--batch-warmup", "--sync-every"]);
    has(&error(&place.wgpt(&format!("{RUN} --wire f16 --out run")), 2), &["--wire", "mpirun"]);
    // As the mpirun of another MPI leaves them, each by itself.
    let mut apart = place.command(&format!("{RUN} --out run"));
    let output = apart.env("OMPI_COMM_WORLD_RANK", "0").env("OMPI_COMM_WORLD_SIZE", "2").output().unwrap();
    has(&error(&output, 2), &["2 ranks", "MPI finds 1"]);
    assert!(!place.path("run/log.jsonl").exists());
}
