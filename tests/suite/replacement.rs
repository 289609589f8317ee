//! Replacing a folder: whatever fails, and whenever the process ends, the old folder or the new one stands there, whole.

use crate::cli::{Place, stderr};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use wgpt::files::replacement::{Replacement, recover};

type Contents = BTreeMap<String, Vec<u8>>;

/// Names and contents of a folder, folders within it included, but for what is hidden.
fn contents(folder: &Path) -> Contents {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let (path, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name().into_string().unwrap());
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            all.extend(contents(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            all.insert(name, fs::read(&path).unwrap());
        }
    }
    all
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn old_folder(place: &Place) {
    place.write("out/a", "old a");
    place.write("out/b", "old b");
    place.write("out/notes/mine", "a note");
}

#[test]
fn a_new_folder_replaces_an_old_one_and_keeps_chosen_entries() {
    let place = Place::new();
    old_folder(&place);
    let replacement = Replacement::begin(&place.path("out")).unwrap();
    fs::write(replacement.path().join("a"), "new a").unwrap();
    fs::write(replacement.path().join("c"), "new c").unwrap();
    assert_eq!(contents(&place.path("out"))["a"], b"old a", "nothing changes before the commit");
    replacement.commit(&|name| name == "notes").unwrap();
    let new = contents(&place.path("out"));
    assert_eq!(new.keys().collect::<Vec<_>>(), ["a", "c", "notes/mine"]);
    assert_eq!((&new["a"][..], &new["notes/mine"][..]), (&b"new a"[..], &b"a note"[..]));
    assert_eq!(names(&place.path("")), ["out"], "nothing is left beside it");
    assert_eq!(names(&place.path("out")), ["a", "c", "notes"]);
}

#[test]
fn a_folder_that_is_not_there_is_made_with_its_parents() {
    let place = Place::new();
    let replacement = Replacement::begin(&place.path("deep/er/out")).unwrap();
    fs::write(replacement.path().join("a"), "new").unwrap();
    replacement.commit(&|_| false).unwrap();
    assert_eq!(contents(&place.path("deep"))["er/out/a"], b"new");
    assert_eq!(names(&place.path("deep/er")), ["out"]);
}

#[test]
fn a_replacement_that_is_given_up_leaves_the_old_folder() {
    let place = Place::new();
    old_folder(&place);
    let before = contents(&place.path("out"));
    let replacement = Replacement::begin(&place.path("out")).unwrap();
    fs::write(replacement.path().join("a"), "new a").unwrap();
    drop(replacement);
    assert_eq!(contents(&place.path("out")), before);
    assert_eq!(names(&place.path("")), ["out"]);
    place.write("file", "");
    assert!(Replacement::begin(&place.path("file")).is_err(), "a file is no folder");
}

#[cfg(unix)]
#[test]
fn a_link_to_a_folder_stays_a_link_and_leads_to_the_new_one() {
    let place = Place::new();
    place.write("real/a", "old");
    std::os::unix::fs::symlink("real", place.path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", place.path("dangling")).unwrap();
    for (link, folder) in [("link", "real"), ("dangling", "nowhere")] {
        let replacement = Replacement::begin(&place.path(link)).unwrap();
        fs::write(replacement.path().join("a"), "new").unwrap();
        replacement.commit(&|_| false).unwrap();
        assert_eq!(fs::read_link(place.path(link)).unwrap(), Path::new(folder));
        assert_eq!(fs::read(place.path(folder).join("a")).unwrap(), b"new");
    }
}

#[test]
fn leftovers_of_a_killed_process_are_put_right() {
    // Between two renames, where a system cannot exchange folders.
    let place = Place::new();
    place.write(".wgpt-old-out/a", "old");
    recover(&place.path("out")).unwrap();
    assert_eq!(contents(&place.path("out"))["a"], b"old");
    // After them.
    place.write(".wgpt-old-out/a", "older");
    recover(&place.path("out")).unwrap();
    assert_eq!(contents(&place.path("out"))["a"], b"old");
    // Between the renames of single files.
    place.write("out/.wgpt-old-entries/a", "old a");
    place.write("out/a", "new a");
    recover(&place.path("out")).unwrap();
    assert_eq!(contents(&place.path("out"))["a"], b"old a");
    // While it was building: only what nobody builds any more goes.
    place.write(".wgpt-tmp-out-1/a", "half");
    let other = Replacement::begin(&place.path("out")).unwrap();
    assert!(!place.path(".wgpt-tmp-out-1").exists());
    recover(&place.path("out")).unwrap();
    assert!(other.path().exists(), "another process is building it");
    drop(other);
    assert_eq!(names(&place.path("")), ["out"]);
    assert_eq!(names(&place.path("out")), ["a"]);
}

/// Runs a command that writes the folder `out` with a fault at each of its steps in turn, until there is none left. After
/// each the folder is the old or the new one; after a fault that is no kill, an error says so in one line.
#[track_caller]
fn survives_faults(place: &Place, arguments: &str, reset: &dyn Fn(), accepts: &dyn Fn(&Contents) -> bool) {
    for mode in ["fail", "full", "kill"] {
        let (mut hits, mut unhurt) = (0, 0);
        for number in 0..200 {
            reset();
            let before = contents(&place.path("out"));
            let output = place.command(arguments).env("WGPT_FAULT", format!("{number}:{mode}")).output().unwrap();
            let after = contents(&place.path("out"));
            let text = stderr(&output);
            assert!(!text.contains("panicked"), "{number}:{mode}: {text}");
            assert!(after == before || accepts(&after), "{number}:{mode}: neither old nor new: {:?}", after.keys());
            if output.status.success() {
                assert!(accepts(&after), "{number}:{mode}: success is told of what is not there");
                // A few steps may fail without a loss, such as removing what is old; several in a row are the end.
                unhurt += 1;
                if unhurt == 4 {
                    break;
                }
            } else {
                (hits, unhurt) = (hits + 1, 0);
                if mode != "kill" {
                    assert_eq!(output.status.code(), Some(1), "{number}:{mode}: {text}");
                    assert_eq!(text.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{text}");
                    assert_eq!(after, before, "{number}:{mode}: an error leaves the old folder");
                }
            }
        }
        assert!(hits > 2, "{mode} took effect {hits} times");
        // The next run works, and clears what a kill has left.
        reset();
        let output = place.wgpt(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        let hidden = names(&place.path("")).into_iter().filter(|name| name.starts_with(".wgpt-"));
        assert_eq!(hidden.collect::<Vec<_>>(), [""; 0], "{mode}");
    }
}

/// Puts the old folder back.
fn restore(place: &Place, from: &str) {
    let _ = fs::remove_dir_all(place.path("out"));
    fs::create_dir(place.path("out")).unwrap();
    for entry in fs::read_dir(place.path(from)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), place.path("out").join(entry.file_name())).unwrap();
    }
}

#[test]
fn data_prepare_survives_a_fault_at_every_step() {
    let place = Place::new();
    place.write("a.txt", "one two three four five six seven eight nine ten\n".repeat(20));
    place.write("b.txt", "ten nine eight seven six five four three two one\n".repeat(30));
    let prepare =
        |text: &str, out: &str| format!("data prepare --data {text} --tokenizer bytes --out {out} --overwrite -q");
    for (text, out) in [("a.txt", "old"), ("b.txt", "new")] {
        let output = place.wgpt(&prepare(text, out));
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let new = contents(&place.path("new"));
    survives_faults(&place, &prepare("b.txt", "out"), &|| restore(&place, "old"), &|after| *after == new);
}

#[test]
fn export_survives_a_fault_at_every_step() {
    let place = Place::new();
    crate::export::tiny_model(&place.path("model"), 0.5);
    crate::export::tiny_model(&place.path("old"), 0.25);
    let new = {
        let output = place.wgpt("export --model model --out new -q");
        assert!(output.status.success(), "{}", stderr(&output));
        contents(&place.path("new"))
    };
    let arguments = "export --model model --out out --overwrite -q";
    survives_faults(&place, arguments, &|| restore(&place, "old"), &|after| *after == new);
}

#[test]
fn tokenizer_train_survives_a_fault_at_every_step() {
    let place = Place::new();
    place.write("a.txt", "one two three four five six seven eight nine ten\n".repeat(20));
    let arguments = |out: &str| format!("tokenizer train --data a.txt --vocab 270 --out {out} --overwrite -q");
    assert!(place.wgpt(&arguments("new")).status.success());
    let new = contents(&place.path("new"));
    place.write("old/tokenizer.json", "old");
    place.write("old/tokenizer_config.json", "old as well");
    survives_faults(&place, &arguments("out"), &|| restore(&place, "old"), &|after| *after == new);
}

#[cfg(target_os = "linux")]
#[test]
fn export_to_a_link_to_the_model_itself_is_refused_and_loses_nothing() {
    let place = Place::new();
    crate::export::tiny_model(&place.path("model"), 0.5);
    std::os::unix::fs::symlink("model", place.path("link")).unwrap();
    let before = contents(&place.path("model"));
    for out in ["model", "link", "./model/../model"] {
        let output = place.wgpt(&format!("export --model model --out {out} --overwrite"));
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert_eq!(contents(&place.path("model")), before);
    }
}
