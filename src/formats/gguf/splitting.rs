//! How byte-level BPE splits a text before it merges, by llama.cpp's names of pre-tokenizers.

use serde_json::{Value, json};

/// A way of splitting that llama.cpp has by name.
#[derive(Debug)]
pub struct Splitting {
    /// llama.cpp's names; the first is written.
    pub names: &'static [&'static str],
    steps: &'static [Step],
    /// Whether the tokenizer of Hugging Face normalises text to NFC, which llama.cpp does not.
    pub composes: bool,
    /// Whether a piece that is a token as a whole is not merged.
    pub ignore_merges: bool,
}

/// A step of splitting.
#[derive(Debug, PartialEq)]
enum Step {
    /// GPT-2's pattern, which is built into `ByteLevel`.
    Gpt2,
    /// Each digit alone.
    Digits,
    Pattern(&'static str),
}

const SPLITTINGS: [Splitting; 4] = [
    Splitting { names: &["gpt-2", "phi-2"], steps: &[Step::Gpt2], composes: false, ignore_merges: false },
    Splitting {
        names: &["smollm", "starcoder"],
        steps: &[Step::Digits, Step::Gpt2],
        composes: false,
        ignore_merges: false,
    },
    Splitting {
        names: &["llama-bpe", "llama3", "llama-v3"],
        steps: &[Step::Pattern(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        composes: false,
        ignore_merges: true,
    },
    Splitting {
        names: &["qwen2"],
        steps: &[Step::Pattern(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        composes: true,
        ignore_merges: false,
    },
];

impl Splitting {
    /// The splitting of llama.cpp's name.
    pub fn named(name: &str) -> Option<&'static Splitting> {
        SPLITTINGS.iter().find(|splitting| splitting.names.contains(&name))
    }

    /// The splitting of a `tokenizer.json`'s `pre_tokenizer`.
    pub fn of(pre_tokenizer: &Value) -> Option<&'static Splitting> {
        let given = match pre_tokenizer["pretokenizers"].as_array() {
            Some(steps) => steps.iter().collect(),
            None => vec![pre_tokenizer],
        };
        let flag = |step: &Value, name: &str, default: bool| step[name].as_bool().unwrap_or(default);
        let (last, before) = given.split_last()?;
        if last["type"] != "ByteLevel" || flag(last, "add_prefix_space", true) {
            return None;
        }
        let mut steps = vec![];
        for step in before {
            steps.push(match step["type"].as_str()? {
                "Digits" if flag(step, "individual_digits", false) => Step::Digits,
                "Split" if step["behavior"] == "Isolated" && !flag(step, "invert", false) => {
                    let pattern = step["pattern"]["Regex"].as_str()?;
                    let known = SPLITTINGS.iter().flat_map(|splitting| splitting.steps);
                    let known =
                        known.filter_map(|step| if let Step::Pattern(known) = step { Some(*known) } else { None });
                    Step::Pattern(known.into_iter().find(|known| *known == pattern)?)
                }
                _ => return None,
            });
        }
        if flag(last, "use_regex", true) {
            steps.push(Step::Gpt2);
        }
        SPLITTINGS.iter().find(|splitting| splitting.steps == steps)
    }

    /// `pre_tokenizer` of a `tokenizer.json`.
    pub fn pre_tokenizer(&self) -> Value {
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let step = |step: &Step| match step {
            Step::Gpt2 => byte_level(true),
            Step::Digits => json!({"type": "Digits", "individual_digits": true}),
            Step::Pattern(pattern) => {
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
            }
        };
        let mut steps: Vec<Value> = self.steps.iter().map(step).collect();
        if self.steps.last() != Some(&Step::Gpt2) {
            steps.push(byte_level(false));
        }
        match steps.len() {
            1 => steps.remove(0),
            _ => json!({"type": "Sequence", "pretokenizers": steps}),
        }
    }

    /// `normalizer` of a `tokenizer.json`.
    pub fn normalizer(&self) -> Value {
        if self.composes { json!({"type": "NFC"}) } else { Value::Null }
    }
}
