//! Standard output and standard error that are closed, full or not read: no command panics, and training goes on.

use crate::cli::{Place, stderr};
use std::process::{Command, Stdio};

const TRAIN: &str = "train --layers 1 --heads 2 --width 16 --context 16 --batch 2 --eval-batches 1 --tokenizer bytes \
    --data a.txt --device cpu";

/// A place with text, a model, a fine-tuned model and a tokenizer.
fn place() -> Place {
    let place = Place::new();
    place.write("a.txt", "One two three four five six seven eight nine ten.\n".repeat(60));
    place.write("a.csv", "text,label\n".to_string() + &"a cat,x\na house,y\n".repeat(8));
    let runs = [
        &format!("{TRAIN} --steps 2 --eval-every 0 --out model"),
        "finetune --model model --task classify --data a.csv --epochs 1 --batch 8 --max-length 16 --device cpu --out classifier",
    ];
    for arguments in runs {
        let output = place.wgpt(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    place
}

/// Every command that writes data to standard output.
const DATA: [&str; 9] = [
    "sample --model model --prompt One --tokens 4 --device cpu",
    "sample --model model --prompt One --tokens 4 --json --device cpu",
    "eval --model model --data a.txt --device cpu",
    "eval --model model --task cloze --data a.jsonl --device cpu",
    "predict --model classifier --data a.csv --device cpu",
    "tokenizer encode --tokenizer bytes",
    "tokenizer decode --tokenizer bytes",
    "doctor --list",
    "--help",
];

fn run(place: &Place, arguments: &str, redirect: &str) -> (i32, String) {
    let mut command = Command::new("sh");
    let script = format!("exec \"$WGPT\" {arguments} {redirect}");
    command.arg("-c").arg(script).env("WGPT", env!("CARGO_BIN_EXE_wgpt")).env("WGPT_CACHE", place.path("cache"));
    command.current_dir(place.path("")).stdin(std::fs::File::open(place.path("input")).unwrap());
    let output = command.output().unwrap();
    (output.status.code().unwrap_or(-1), stderr(&output))
}

#[cfg(target_os = "linux")]
#[test]
fn data_that_cannot_be_written_is_an_error_and_a_reader_that_has_gone_is_a_quiet_end() {
    let place = place();
    place.write("a.jsonl", "{\"text\": \"One two three\"}\n");
    place.write("input", "1 2 3");
    for arguments in DATA {
        let (code, text) = run(&place, arguments, "> /dev/full");
        assert_eq!(code, 1, "{arguments}: {text}");
        let errors: Vec<_> = text.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains("standard output"), "{arguments}: {text}");
        for redirect in ["> /dev/full 2> /dev/full", ">&-", "2>&-", ">&- 2>&-", "2> /dev/full"] {
            let (code, text) = run(&place, arguments, redirect);
            let expected = if redirect.starts_with("> /dev/full") { 1 } else { 0 };
            assert_eq!(code, expected, "{arguments} {redirect}: {text}");
        }
        // A reader that takes nothing: the pipe's other end is closed before the program writes.
        let mut command = place.command(arguments);
        command.stdin(std::fs::File::open(place.path("input")).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {text}");
        assert!(!text.contains("error: "), "{arguments}: {text}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_error_that_cannot_be_told_still_has_its_exit_code() {
    let place = Place::new();
    place.write("input", "");
    let wrong = [
        "eval --model nowhere",
        "train --out run --data nowhere",
        "sample --no-such-flag",
        "data prepare --data nowhere --out x",
    ];
    for arguments in wrong {
        let expected = run(&place, arguments, "").0;
        assert!(expected == 1 || expected == 2, "{arguments}");
        for redirect in ["2> /dev/full", "2>&-", "> /dev/full 2>&1", ">&- 2>&-"] {
            assert_eq!(run(&place, arguments, redirect).0, expected, "{arguments} {redirect}");
        }
        let mut child = place.command(arguments).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(expected), "{arguments}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn training_goes_on_without_its_console() {
    let place = place();
    place.write("input", "");
    // Validation at every step makes a line of each: more than a pipe of one page holds.
    let (steps, page) = (80, 4096);
    let train = format!("{TRAIN} --steps {steps} --eval-every 1 --save-every 100000");
    let lines = |run: &str| std::fs::read_to_string(place.path(run).join("log.jsonl")).unwrap().lines().count();
    for (n, redirect) in ["> /dev/full 2>&1", ">&- 2>&-"].into_iter().enumerate() {
        let (code, text) = run(&place, &format!("{train} --out run{n}"), redirect);
        assert_eq!(code, 0, "{redirect}: {text}");
        assert_eq!(lines(&format!("run{n}")), steps);
    }
    // A reader that has gone, and one that does not read before the run has ended.
    for (run, reads) in [("gone", false), ("stuck", true)] {
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!(rustix::pipe::fcntl_setpipe_size(&writer, page).unwrap(), page);
        let mut command = place.command(&format!("{train} --out {run}"));
        let mut child = command.stderr(writer).spawn().unwrap();
        drop(command); // and with it our end of the pipe for writing
        let reader = Some(reader).filter(|_| reads);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{run}");
        assert_eq!(lines(run), steps, "{run}");
        assert!(place.path(run).join("model.safetensors").exists());
        if let Some(mut reader) = reader {
            let mut read = vec![];
            std::io::Read::read_to_end(&mut reader, &mut read).unwrap();
            assert!(read.len() >= page - 200, "the pipe was full: {} bytes", read.len());
        }
    }
}

#[test]
fn one_place_prints() {
    fn visit(folder: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, found);
            } else if !path.ends_with("cli/console.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let prints = ["println!", "print!(", "dbg!(", "stdout()", "stderr()"];
                let lines = text.lines().enumerate().filter(|(_, line)| prints.iter().any(|word| line.contains(word)));
                found.extend(lines.map(|(n, line)| format!("{}:{}: {line}", path.display(), n + 1)));
            }
        }
    }
    let mut found = vec![];
    visit(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.is_empty(), "cli/console.rs prints, and nothing else: {found:#?}");
}

#[test]
fn the_software_driver_finds_a_folder_for_its_sockets() {
    let place = Place::new();
    for unset in [true, false] {
        let mut command = place.command("doctor --list");
        if unset {
            command.env_remove("XDG_RUNTIME_DIR")
        } else {
            command.env("XDG_RUNTIME_DIR", "")
        };
        let text = stderr(&command.output().unwrap());
        assert!(!text.contains("XDG_RUNTIME_DIR"), "{text}");
    }
}
