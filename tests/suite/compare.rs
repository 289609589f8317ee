//! Runs side by side: the tables, the page, and what is no run.

use crate::cli::{Place, error, has, stderr};

const RUN: &str = "--layers 1 --heads 2 --width 16 --context 16 --batch 2 --steps 4 --eval-every 2 --eval-batches 1 --sample-every 2 --device cpu -q";

#[test]
fn runs_are_compared_in_tables_and_on_a_page() {
    let place = Place::new();
    for (name, lr) in [("a", "1e-3"), ("b", "1e-2 --tensorboard")] {
        let output = place.wgpt(&format!("train --out {name} {RUN} --lr {lr}"));
        assert!(output.status.success(), "{}", stderr(&output));
    }
    // A run that is resumed keeps the samples up to its checkpoint, and goes on.
    let resumed = place.wgpt("train --out b --resume --steps 6 --device cpu -q");
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    let samples = std::fs::read_to_string(place.path("b/samples.jsonl")).unwrap();
    let steps: Vec<u64> = samples
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [2, 4, 6], "{samples}");

    // Each start has an event file, whose first record has the length 24 and its checksum.
    let events = |run: &str| {
        let files = std::fs::read_dir(place.path(run)).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.to_string_lossy().contains("events.out.tfevents.")).collect::<Vec<_>>()
    };
    assert_eq!((events("a").len(), events("b").len()), (0, 2));
    for path in events("b") {
        assert!(std::fs::read(path).unwrap().starts_with(b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22"));
    }

    let output = place.wgpt("compare a b --out runs.html");
    assert!(output.status.success(), "{}", stderr(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["run", "steps", "loss"], "{table}");
    assert_eq!((lines[1][..2].to_vec(), lines[2][..2].to_vec()), (vec!["a", "4"], vec!["b", "6"]), "{table}");
    let lr = lines.iter().find(|line| line.first() == Some(&"lr")).unwrap_or_else(|| panic!("{table}"));
    assert_eq!(lr[1..], ["0.001", "0.01"], "{table}");
    assert!(!table.contains("batch  "), "settings that are alike are left out: {table}");
    let page = std::fs::read_to_string(place.path("runs.html")).unwrap();
    has(&page, &["<!doctype html>", "\"val_loss\"", "\"name\":\"b\"", "\"text\":", "prefers-color-scheme: dark"]);
    assert!(!page.contains("\"RUNS\""));
    let fetched = ["src=", "href=", "fetch(", "import ", "url("];
    fetched.iter().for_each(|word| assert!(!page.contains(word), "nothing is fetched: {word}"));

    has(&error(&place.wgpt("compare a --out runs.html"), 2), &["runs.html", "--overwrite"]);
    assert!(place.wgpt("compare a --out runs.html --overwrite -q").status.success());
    place.write("none/config.json", "{}");
    has(&error(&place.wgpt("compare a none --out x.html"), 1), &["none", "log.jsonl"]);
    assert!(!place.path("x.html").exists());
}

#[test]
fn a_sweep_trains_every_combination_once_and_goes_on_where_it_was_stopped() {
    let place = Place::new();
    let command = format!("train --out s {RUN} --sweep lr=1e-3,1e-2 --seeds 2");
    let output = place.wgpt(&command);
    assert!(output.status.success(), "{}", stderr(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    has(&table, &["s/lr=1e-3,seed=1337", "s/lr=1e-2,seed=1338", "lr=1e-3  ", "mean best val_loss"]);
    // What is done stays, what is missing is made again, bit for bit.
    let model = |run: &str| std::fs::read(place.path(&format!("s/{run}/model.safetensors"))).unwrap();
    let before = model("lr=1e-2,seed=1337");
    std::fs::remove_dir_all(place.path("s/lr=1e-2,seed=1337")).unwrap();
    let output = place.wgpt(&format!("{} --resume", command.replace(" -q", "")));
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("run 3 of 4: lr=1e-2,seed=1337") && !said.contains("run 1 of 4"), "{said}");
    assert!(before == model("lr=1e-2,seed=1337"));
    has(&String::from_utf8(output.stdout).unwrap(), &["s/lr=1e-3,seed=1337", "s/lr=1e-2,seed=1337"]);

    has(&error(&place.wgpt(&command), 2), &["--resume", "--overwrite"]);
    has(&error(&place.wgpt(&format!("train --out t {RUN} --sweep speed=1,2")), 2), &["speed", "--config"]);
    has(&error(&place.wgpt(&format!("train --out t {RUN} --sweep lr=1e-3,fast")), 2), &["lr", "fast"]);
}
