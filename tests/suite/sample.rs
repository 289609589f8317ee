//! `wgpt sample` as a user meets it: prompts from everywhere, several texts, JSON, ends of texts, and bad choices.

use crate::cli::{Place, error, has, stderr};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde::Deserialize;
use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::models::config::Config;
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;

/// Characters of the model; no line break, so that a line is a text.
const ALPHABET: &str = "The cat sat on mats. é€";
const CONTEXT: usize = 24;

/// An object of `--json`.
#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Record {
    prompt: String,
    text: String,
    ids: Vec<u32>,
    log_probabilities: Vec<f32>,
    finish_reason: String,
    seed: Option<u32>,
    score: Option<f32>,
}

/// A folder with a random model in `model`.
pub fn place() -> (Place, Tokenizer) {
    let place = Place::new();
    let tokenizer = Tokenizer::chars(ALPHABET).unwrap();
    let sized = Config::new(tokenizer.vocabulary_size(), CONTEXT, 1, 2, 16);
    let network = Network::new(Config { initializer_range: 0.5, ..sized });
    let config = network.config();
    let values: Vec<(String, Vec<usize>, Vec<f32>)> =
        network.parameters().iter().map(|p| (p.name.clone(), p.dims.clone(), initial_values(p, 11))).collect();
    place.write("model/config.json", config.to_json());
    tokenizer.save(&place.path("model")).unwrap();
    let views = values.iter().map(|(name, dims, values)| {
        (name, TensorView::new(Dtype::F32, dims.clone(), bytemuck::cast_slice(values)).unwrap())
    });
    serialize_to_file(views, None, &place.path("model/model.safetensors")).unwrap();
    (place, tokenizer)
}

fn command(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
    command.args(["sample", "--device", "cpu", "--model", "model"]).args(arguments);
    command.current_dir(place.path("")).env("WGPT_CACHE", place.path("cache"));
    command
}

/// Runs `wgpt sample` with bytes on its standard input.
fn sample(place: &Place, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = command(place, arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that reads none of it closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[track_caller]
fn text(place: &Place, arguments: &[&str], input: &str) -> String {
    let output = sample(place, arguments, input.as_bytes());
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).expect("never a broken character")
}

#[track_caller]
fn records(place: &Place, arguments: &[&str]) -> Vec<Record> {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    text(place, &arguments, "").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn json_tells_everything_about_each_text() {
    let (place, tokenizer) = place();
    let texts = records(&place, &["--prompt", "The", "--tokens", "9", "--count", "3", "--seed", "5"]);
    assert_eq!(texts.len(), 3);
    for (n, text) in texts.iter().enumerate() {
        assert_eq!((text.prompt.as_str(), text.finish_reason.as_str()), ("The", "length"));
        assert_eq!((text.seed, text.score), (Some(5 + n as u32), None));
        assert_eq!(tokenizer.decode(&text.ids).unwrap(), text.text);
        assert_eq!((text.ids.len(), text.log_probabilities.len()), (9, 9));
        assert!(text.log_probabilities.iter().all(|p| *p < 0.0), "{text:?}");
    }
    assert!(texts[0].text != texts[1].text && texts[1].text != texts[2].text, "{texts:?}");
    let alone = records(&place, &["--prompt", "The", "--tokens", "9", "--seed", "6"]);
    assert_eq!((&alone[0].ids, alone[0].seed), (&texts[1].ids, Some(6)), "the seed alone makes the text");
}

#[test]
fn several_texts_come_one_after_the_other() {
    let (place, _) = place();
    // More texts than are generated together; one ends early, and the others do not wait for it.
    let arguments = ["--prompt", "a cat", "--tokens", "6", "--count", "70", "--stop", "t"];
    let texts = records(&place, &arguments);
    assert_eq!(texts.len(), 70);
    assert!((0u32..).zip(&texts).all(|(n, text)| text.seed == Some(1337 + n)), "each has the next seed");
    assert!(texts.iter().any(|t| t.finish_reason == "stop") && texts.iter().any(|t| t.finish_reason == "length"));
    let want: String = texts.iter().map(|record| format!("a cat{}\n", record.text)).collect();
    assert_eq!(text(&place, &arguments, ""), want, "text is what the JSON says, each on its own line");
}

#[test]
fn texts_end_at_stop_texts_and_stop_tokens() {
    let (place, tokenizer) = place();
    let greedy = ["--prompt", "The ", "--strategy", "greedy", "--tokens", "12"];
    let with = |more: &[&str]| {
        let arguments: Vec<&str> = greedy.iter().chain(more).copied().collect();
        records(&place, &arguments).remove(0)
    };
    let whole = with(&[]);
    assert_eq!((whole.finish_reason.as_str(), whole.ids.len()), ("length", 12));
    // Two characters are two tokens.
    let stop: String = whole.text.chars().skip(3).take(2).collect();
    let at = whole.text.find(&stop).unwrap();
    let stopped = with(&["--stop", "never this", "--stop", &stop]);
    assert_eq!((stopped.text.as_str(), stopped.finish_reason.as_str()), (&whole.text[..at], "stop"));
    assert_eq!(stopped.ids, whole.ids[..stopped.ids.len()]);
    assert_eq!(tokenizer.decode(&stopped.ids).unwrap(), format!("{}{stop}", &whole.text[..at]));

    let last = whole.ids[5];
    let ended = with(&["--stop-token", "0", "--stop-token", &last.to_string()]);
    let length = whole.ids.iter().position(|id| [0, last].contains(id)).unwrap() + 1;
    assert_eq!((ended.ids.as_slice(), ended.finish_reason.as_str()), (&whole.ids[..length], "end"));
    assert_eq!(
        ended.text,
        tokenizer.decode(&whole.ids[..length - 1]).unwrap(),
        "the token that ends a text is no text"
    );
    assert_eq!(ended.log_probabilities.len(), length);
}

#[test]
fn prompts_of_a_file_are_continued_together_in_their_order_each_as_alone() {
    let (place, _) = place();
    place.write(
        "prompts.jsonl",
        "{\"prompt\": \"The cat\"}\n\n{\"prompt\": \"a\", \"id\": 7}\n{\"prompt\": \"sat on mats. The cat sat on\"}\n",
    );
    let rest = ["--tokens", "30", "--count", "2", "--temperature", "1.1"];
    let together = ["--prompts", "prompts.jsonl", "--batch", "4"];
    let together = records(&place, &[&rest[..], &together[..]].concat());
    let prompts = ["The cat", "a", "sat on mats. The cat sat on"];
    let alone = prompts.map(|prompt| records(&place, &[&rest[..], &["--prompt", prompt]].concat()));
    let of = |record: &Record| (record.prompt.clone(), record.text.clone(), record.ids.clone(), record.seed);
    assert_eq!(together.iter().map(of).collect::<Vec<_>>(), alone.iter().flatten().map(of).collect::<Vec<_>>());
    let output = sample(&place, &["--prompts", "prompts.jsonl", "--tokens", "3"], b"");
    has(&stderr(&output), &["3 texts, 9 tokens in ", "3 at a time", "tokens/s"]);
    place.write("bad.jsonl", "{\"prompt\": \"a\"}\n{\"text\": \"a\"}\n");
    has(&error(&sample(&place, &["--prompts", "bad.jsonl"], b""), 1), &["line 2 of bad.jsonl", "`prompt`"]);
    place.write("bad.jsonl", "{\"prompt\": \"\"}\n");
    has(&error(&sample(&place, &["--prompts", "bad.jsonl"], b""), 1), &["line 1 of bad.jsonl", "empty"]);
    place.write("bad.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": \"aQ\"}\n");
    has(&error(&sample(&place, &["--prompts", "bad.jsonl"], b""), 1), &["line 2 of bad.jsonl: ", "'Q'"]);
    place.write("bad.jsonl", "\n");
    has(&error(&sample(&place, &["--prompts", "bad.jsonl"], b""), 1), &["bad.jsonl has no prompts"]);
}

#[test]
fn a_prompt_comes_from_standard_input_or_a_file() {
    let (place, _) = place();
    let rest = ["--tokens", "5"];
    let want = text(&place, &["--tokens", "5", "--prompt", "The cat"], "");
    for input in ["The cat", "The cat\n", "The cat\r\n"] {
        assert_eq!(text(&place, &rest, input), want, "{input:?}");
    }
    place.write("prompt.txt", "The cat\n");
    assert_eq!(text(&place, &["--tokens", "5", "--prompt-file", "prompt.txt"], "ignored"), want);
    has(&error(&sample(&place, &rest, b""), 2), &["standard input is empty", "--prompt"]);
    has(&error(&sample(&place, &["--prompt", ""], b""), 2), &["--prompt is empty"]);
    has(&error(&sample(&place, &rest, b"The \xff"), 1), &["standard input", "UTF-8", "5"]);
    has(&error(&sample(&place, &["--prompt-file", "nothing"], b""), 1), &["nothing"]);
    has(&error(&sample(&place, &rest, b"Q"), 1), &["'Q'"]);
    // Only one line break is taken away, and not the only character there is.
    has(&error(&sample(&place, &rest, b"The\n\n"), 1), &["character 4", "'\\n'"]);
    has(&error(&sample(&place, &rest, b"\n"), 1), &["character 1", "'\\n'"]);
}

#[test]
fn options_that_are_not_given_are_taken_from_the_model() {
    let (place, _) = place();
    let prompt = ["--prompt", "The cat"];
    let with = |more: &[&str]| records(&place, &prompt.iter().chain(more).copied().collect::<Vec<_>>());
    let greedy = with(&["--strategy", "greedy", "--tokens", "7"]);
    let drawn = with(&["--tokens", "7", "--temperature", "2.5", "--top-k", "5"]);
    assert_ne!(greedy[0].ids, drawn[0].ids);
    let default = with(&[]);
    assert_eq!((default[0].ids.len(), default[0].seed), (200, Some(1337)));

    let configure = |json: &str| place.write("model/generation_config.json", json);
    configure("{\"do_sample\": false, \"max_new_tokens\": 7}");
    assert_eq!(with(&[])[0].ids, greedy[0].ids);
    let message = error(&sample(&place, &["--prompt", "The", "--top-k", "5"], b""), 2);
    has(&message, &["--top-k", "--strategy sample", "greedy"]);

    configure("{\"do_sample\": true, \"max_new_tokens\": 7, \"temperature\": 2.5, \"top_k\": 5}");
    assert_eq!(with(&[]), drawn);
    assert_eq!(with(&["--strategy", "greedy"])[0].ids, greedy[0].ids, "a flag wins");
    assert_eq!(with(&["--tokens", "3"])[0].ids, drawn[0].ids[..3]);

    configure(&format!("{{\"do_sample\": false, \"eos_token_id\": [{}, 5000]}}", greedy[0].ids[0]));
    let ended = with(&[]);
    assert_eq!((ended[0].ids.len(), ended[0].text.as_str(), ended[0].finish_reason.as_str()), (1, "", "end"));

    configure("{}");
    let beams = ["--strategy", "beam", "--beams", "3", "--length-penalty", "0", "--tokens", "6", "--count", "2"];
    let searched = with(&beams);
    configure("{\"num_beams\": 3, \"length_penalty\": 0.0, \"max_new_tokens\": 6}");
    let configured = with(&["--count", "2"]);
    assert_eq!(
        configured.iter().map(|t| &t.ids).collect::<Vec<_>>(),
        searched.iter().map(|t| &t.ids).collect::<Vec<_>>()
    );
}

#[test]
fn beams_come_best_first_with_their_scores() {
    let (place, tokenizer) = place();
    let beam = ["--prompt", "The", "--strategy", "beam", "--tokens", "8"];
    let with = |more: &[&str]| records(&place, &beam.iter().chain(more).copied().collect::<Vec<_>>());
    let texts = with(&["--count", "4"]);
    assert_eq!(texts.len(), 4);
    assert!(texts.windows(2).all(|pair| pair[0].score >= pair[1].score));
    for text in &texts {
        assert_eq!((text.seed, text.finish_reason.as_str(), text.ids.len()), (None, "length", 8));
        assert_eq!(tokenizer.decode(&text.ids).unwrap(), text.text);
        let mean = text.log_probabilities.iter().sum::<f32>() / 8.0;
        // Eight additions in another order than the search's.
        assert!((text.score.unwrap() - mean).abs() < 1e-5, "{text:?}");
    }
    assert_eq!(with(&[])[0], texts[0], "one text is the best");
    // A stop text ends texts of the search as well.
    let stop: String = texts[0].text.chars().skip(2).take(1).collect();
    let stopped = with(&["--count", "4", "--stop", &stop]);
    assert!(stopped.iter().any(|text| text.finish_reason == "stop"), "{stopped:?}");
    assert!(stopped.iter().all(|text| !text.text.contains(&stop)), "{stopped:?}");
    let line = text(&place, &beam, "");
    assert_eq!(line, format!("The{}\n", texts[0].text));
}

#[test]
fn bad_choices_are_named() {
    let (place, _) = place();
    let cases: &[(&str, &[&str])] = &[
        ("--temperature NaN", &["--temperature NaN", "0"]),
        ("--temperature -1", &["--temperature -1", "0"]),
        ("--top-p 1.5", &["--top-p 1.5", "0 to 1"]),
        ("--min-p -0.5", &["--min-p -0.5", "0 to 1"]),
        ("--repetition-penalty 0", &["--repetition-penalty 0", "above 0"]),
        ("--length-penalty inf --strategy beam", &["--length-penalty inf"]),
        ("--tokens 0", &["--tokens 0"]),
        ("--count 0", &["--count 0"]),
        ("--beams 0 --strategy beam", &["--beams 0"]),
        ("--beams 1000000 --strategy beam", &["--beams 1000000"]),
        ("--stop-token 99", &["--stop-token 99", "tokens"]),
        ("--top-k 5 --strategy greedy", &["--top-k", "--strategy sample", "greedy"]),
        ("--temperature 1 --strategy greedy", &["--temperature", "greedy"]),
        ("--top-p 0.5 --strategy beam", &["--top-p", "beam"]),
        ("--min-p 0.5 --strategy beam", &["--min-p", "beam"]),
        ("--beams 3", &["--beams", "--strategy beam", "sample"]),
        ("--early-stopping yes --strategy sample", &["--early-stopping", "--strategy beam"]),
        ("--length-penalty 1 --strategy greedy", &["--length-penalty", "--strategy beam"]),
        ("--count 2 --strategy greedy", &["--count 2", "greedy"]),
        ("--count 2 --temperature 0", &["--count 2", "greedy"]),
        ("--count 5 --strategy beam --beams 3", &["--count 5", "3 beams"]),
        ("--strategy nonsense", &["nonsense"]),
        ("--seed 99999999999", &["99999999999"]),
        ("--prompt-file x", &["--prompt"]),
        ("--prompts x", &["--prompt"]),
        ("--batch 0", &["--batch 0", "1 to 64"]),
        ("--batch 2 --strategy beam", &["--batch", "--strategy beam", "--beams"]),
    ];
    for (choice, words) in cases {
        let arguments: Vec<&str> = ["--prompt", "The"].into_iter().chain(choice.split(' ')).collect();
        has(&error(&sample(&place, &arguments, b""), 2), words);
    }
    has(&error(&sample(&place, &["--prompt", "The", "--stop", ""], b""), 2), &["--stop"]);
}

/// `wgpt sample ... | head` is no failure.
#[test]
fn a_reader_that_has_seen_enough_ends_the_texts() {
    let (place, _) = place();
    for more in [&[][..], &["--json"]] {
        let mut command = command(&place, &["--prompt", "The", "--tokens", "20", "--count", "100000", "--quiet"]);
        let mut child = command.args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut few = [0; 5];
        child.stdout.take().unwrap().read_exact(&mut few).unwrap(); // and closes the pipe
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    }
}

#[cfg(unix)]
mod terminal {
    //! The prompt loop, over a pseudoterminal.

    use super::*;
    use std::fs::File;
    use std::process::Child;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    struct Terminal {
        child: Child,
        keys: File,
        screen: Arc<Mutex<String>>,
        /// Bytes of the screen that have been waited for.
        seen: usize,
    }

    impl Terminal {
        fn open(place: &Place, arguments: &[&str]) -> Terminal {
            let pair = nix::pty::openpty(None, None).unwrap();
            let side = || Stdio::from(pair.slave.try_clone().unwrap());
            let mut command = command(place, arguments);
            command.env("TERM", "xterm").stdin(side()).stdout(side()).stderr(side());
            let child = command.spawn().unwrap();
            let screen = Arc::new(Mutex::new(String::new()));
            let (shown, mut output) = (screen.clone(), File::from(pair.master.try_clone().unwrap()));
            // Ends with the program: the last end of the terminal is closed then.
            std::thread::spawn(move || {
                let mut bytes = [0; 1024];
                while let Ok(count @ 1..) = output.read(&mut bytes) {
                    shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
                }
            });
            Terminal { child, keys: File::from(pair.master), screen, seen: 0 }
        }

        /// Waits until the words come up, after those waited for before.
        #[track_caller]
        fn wait_for(&mut self, words: &str) {
            let started = Instant::now();
            loop {
                let screen = self.screen.lock().unwrap().clone();
                if let Some(at) = screen[self.seen..].find(words) {
                    self.seen += at + words.len();
                    return;
                }
                assert!(started.elapsed().as_secs() < 60, "{words:?} did not come in {:?}", &screen[self.seen..]);
                std::thread::sleep(Duration::from_millis(10));
            }
        }

        fn press(&mut self, keys: &str) {
            self.keys.write_all(keys.as_bytes()).unwrap();
        }

        #[track_caller]
        fn ends(mut self) {
            assert!(self.child.wait().unwrap().success(), "{}", self.screen.lock().unwrap());
        }
    }

    #[test]
    fn prompts_are_continued_as_they_are_typed() {
        let (place, _) = place();
        let want = records(&place, &["--prompt", "The cat", "--tokens", "9"]);
        let mut terminal = Terminal::open(&place, &["--tokens", "9"]);
        terminal.wait_for("/quit ends");
        terminal.wait_for("> ");
        // Line editing: one character too many is taken back.
        terminal.press("The catX\x7f\r");
        terminal.wait_for(&format!("{}\r\n", want[0].text));
        terminal.wait_for("> ");
        terminal.press("Q\r");
        terminal.wait_for("error: ");
        terminal.wait_for("'Q'");
        terminal.wait_for("> ");
        // The last but one of the history, with another seed.
        terminal.press("\x1b[A\x1b[A\r");
        let next = records(&place, &["--prompt", "The cat", "--tokens", "9", "--seed", "1339"]);
        terminal.wait_for(&format!("{}\r\n", next[0].text));
        terminal.wait_for("> ");
        terminal.press("\x04");
        terminal.ends();

        // The history is there the next time.
        let mut terminal = Terminal::open(&place, &["--tokens", "9", "--quiet"]);
        terminal.wait_for("> ");
        terminal.press("\x1b[A\r");
        terminal.wait_for(&format!("{}\r\n", want[0].text));
        terminal.wait_for("> ");
        terminal.press("/quit\r");
        terminal.ends();
    }

    #[test]
    fn an_interrupt_stops_the_text_and_not_the_program() {
        let (place, _) = place();
        let mut terminal = Terminal::open(&place, &["--tokens", "100000000"]);
        terminal.wait_for("> ");
        terminal.press("The cat\r");
        terminal.wait_for("\r\n");
        for _ in 0..20 {
            let length = terminal.screen.lock().unwrap().len();
            let started = Instant::now();
            while terminal.screen.lock().unwrap().len() == length {
                assert!(started.elapsed().as_secs() < 60, "no text comes");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let signalled = Command::new("kill").args(["-INT", &terminal.child.id().to_string()]).status().unwrap();
        assert!(signalled.success());
        terminal.wait_for("> ");
        // At the prompt, Ctrl-C clears the line.
        terminal.press("mat\x03");
        terminal.wait_for("> ");
        terminal.press("\x04");
        terminal.ends();
    }
}
