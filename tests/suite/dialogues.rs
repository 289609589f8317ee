//! Dialogues: their formats, chat templates, which tokens are learned, and `wgpt sft` as a user meets it.

use crate::cli::{Place, error, has, stderr};
use std::path::Path;
use wgpt::data::chat_template::{ChatTemplate, Message, built_in};
use wgpt::data::dialogues::{Encoder, Form, read};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::formats::demo;

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into() }
}

fn render(template: &str, messages: &[Message], opened: bool) -> String {
    ChatTemplate::new(template, "<s>", "</s>").unwrap().render(messages, opened).unwrap()
}

#[test]
fn templates_are_rendered_as_jinja_in_transformers() {
    let messages = [message("system", " Be kind. "), message("user", "<b> & \"c\""), message("assistant", "Sì")];
    let chatml = built_in("chatml").unwrap();
    let want =
        "<|im_start|>system\n Be kind. <|im_end|>\n<|im_start|>user\n<b> & \"c\"<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(render(chatml, &messages[..2], true), want);
    // Blocks take the line break after them and the spaces before them; loops have controls; strings have Python's methods.
    let lines = "{{ bos_token }}\n  {% for m in messages %}\n    {% if m.role == 'system' %}{% continue %}{% endif %}\n\
                 {{ m['role'].upper() }}:{{ m.content.strip() | trim }}{{ eos_token }}\n  {% endfor %}\n";
    assert_eq!(render(lines, &messages, false), "<s>\nUSER:<b> & \"c\"</s>\nASSISTANT:Sì</s>\n");
    let namespace = "{% set ns = namespace(n=0) %}{% for m in messages %}{% if loop.first %}{% set ns.n = 5 %}{% endif %}\
                     {% endfor %}{{ ns.n }}{{ messages[0]['content'].startswith(' Be') }}{{ messages[1:] | length }}";
    assert_eq!(render(namespace, &messages, false), "5True2");
    // Python's separators, and no escapes for HTML.
    let json = "{{ messages[1] | tojson }}{{ {'a': [1, {}]} | tojson(indent=2) }}";
    let want = "{\"role\": \"user\", \"content\": \"<b> & \\\"c\\\"\"}{\n  \"a\": [\n    1,\n    {}\n  ]\n}";
    assert_eq!(render(json, &messages, false), want);
    // transformers' marks of what the assistant writes.
    let marked = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
    assert_eq!(render(marked, &messages[2..], false), "Sì");
    let raising = "{{ raise_exception('Only user and assistant, please') }}";
    let raised = ChatTemplate::new(raising, "", "").unwrap().render(&messages, false).unwrap_err().to_string();
    has(&raised, &["chat template", "Only user and assistant, please"]);
    has(&ChatTemplate::new("{% for %}", "", "").err().unwrap().to_string(), &["chat template", "line 1"]);
}

/// The text with what is learned in brackets.
fn marked(form: &Form, template: Option<&str>, end: Option<u32>) -> String {
    let tokenizer = Tokenizer::bytes().unwrap();
    let template = template.map(|text| ChatTemplate::new(text, "", "").unwrap());
    let encoder = Encoder { tokenizer: &tokenizer, template: template.as_ref(), end };
    let encoded = encoder.encode(form).unwrap();
    let mut at = 0;
    let mark = |run: &[bool]| {
        let text = tokenizer.decode(&encoded.ids[at..at + run.len()]).unwrap();
        at += run.len();
        if run[0] { format!("[{text}]") } else { text }
    };
    encoded.learned.chunk_by(|a, b| a == b).map(mark).collect()
}

#[test]
fn the_assistants_turns_are_learned_with_the_token_that_ends_them() {
    let turns = ["user", "assistant", "user", "assistant"].into_iter().zip(["Hi", "Hello", "Bye", "So long"]);
    let messages: Vec<Message> = turns.map(|(role, content)| message(role, content)).collect();
    let dialogue = |learned| Form::Dialogue { messages: messages.clone(), learned };
    let plain = built_in("plain");
    assert_eq!(marked(&dialogue(0), plain, None), "Q: Hi\nA: [Hello\n]Q: Bye\nA: [So long\n]");
    assert_eq!(marked(&dialogue(3), plain, None), "Q: Hi\nA: Hello\nQ: Bye\nA: [So long\n]");
    let completion = Form::Completion { prompt: "2 + 2 =".into(), completion: " 4".into() };
    assert_eq!(marked(&completion, None, Some(10)), "2 + 2 =[ 4\n]");
    assert_eq!(marked(&Form::Text("abc\n".into()), None, Some(10)), "[abc\n]");

    let tokenizer = Tokenizer::bytes().unwrap();
    let encode = |template: Option<&str>| {
        let template = template.map(|text| ChatTemplate::new(text, "", "").unwrap());
        Encoder { tokenizer: &tokenizer, template: template.as_ref(), end: None }.encode(&dialogue(0))
    };
    has(&encode(None).unwrap_err().to_string(), &["chat template", "--template"]);
    // A template that ends each dialogue by a token, as Phi-3's does.
    let ends = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}{{ 'a:' if add_generation_prompt else eos_token }}";
    let template = ChatTemplate::new(ends, "", "#").unwrap();
    let encoder = Encoder { tokenizer: &tokenizer, template: Some(&template), end: None };
    let encoded = encoder.encode(&dialogue(0)).unwrap();
    let learned: String =
        encoded.ids.iter().zip(&encoded.learned).filter(|(_, l)| **l).map(|(id, _)| *id as u8 as char).collect();
    assert_eq!(tokenizer.decode(&encoded.ids).unwrap(), "u:Hi;a:Hello;u:Bye;a:So long;#");
    assert_eq!(learned, "Hello;So long;#");
    // A template that drops earlier answers once another comes.
    let forgets =
        "{% for m in messages %}{% if m.role == 'user' or loop.last %}{{ m.content }};{% endif %}{% endfor %}";
    has(&encode(Some(forgets)).unwrap_err().to_string(), &["message 2", "--template"]);
}

#[test]
fn every_form_of_example_is_read_and_bad_rows_are_named() {
    let place = Place::new();
    let of = |line: &str| {
        place.write("a.jsonl", format!("\n{line}\n"));
        read(&place.path("a.jsonl")).map(|mut examples| examples.remove(0))
    };
    let form = |line: &str| of(line).unwrap().form;
    let pair = vec![message("user", "a"), message("assistant", "b")];
    let whole = Form::Dialogue { messages: pair.clone(), learned: 0 };
    assert_eq!(
        form(r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "id": 1}"#),
        whole
    );
    assert_eq!(form(r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#), whole);
    let parts =
        r#"{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}"#;
    assert_eq!(form(parts), Form::Dialogue { messages: pair, learned: 1 });
    assert_eq!(
        form(r#"{"prompt": "a", "completion": "b"}"#),
        Form::Completion { prompt: "a".into(), completion: "b".into() }
    );
    assert_eq!(form(r#"{"text": "a"}"#), Form::Text("a".into()));
    assert_eq!(of(r#"{"text": "a"}"#).unwrap().line, 2);
    let bad = [
        (r#"{"messages": [{"role": "user", "content": "a"}]}"#, "no message of the assistant"),
        (r#"{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}"#, "out of order"),
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]}"#,
            "out of order",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}"#,
            "answer of the assistant is empty",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "s"}, {"role": "assistant", "content": "b"}]}"#,
            "system message",
        ),
        (r#"{"prompt": "a", "completion": ""}"#, "completion is empty"),
        (r#"{"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}"#, "write both alike"),
        (r#"{"prompt": "a"}"#, "nothing to learn from"),
        (r#"{"messages": "a"}"#, "is no example"),
        ("[1]", "is no example"),
    ];
    for (line, words) in bad {
        has(&of(line).unwrap_err().to_string(), &["line 2 of ", "a.jsonl", words]);
    }
    has(&read(Path::new("nowhere.jsonl")).unwrap_err().to_string(), &["nowhere.jsonl"]);
}

#[test]
fn a_model_learns_answers_and_its_folder_keeps_the_template() {
    let place = Place::new();
    let row = |i: usize| {
        let (question, answer) = [("who found it", "the fox found it"), ("who is sad", "the cat is sad")][i % 2];
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{question}\"}}, \
             {{\"role\": \"assistant\", \"content\": \"{answer}\"}}]}}\n"
        )
    };
    place.write("train.jsonl", (0..6).map(row).collect::<String>());
    place.write(
        "template",
        "{% for m in messages %}{{ m.content }}{{ '.\\n' if m.role == 'assistant' else '. ' }}{% endfor %}",
    );
    let sft = "sft --out run --data train.jsonl --val train.jsonl --template template --batch 2";
    let output = place.wgpt(&format!("{sft} --steps 4 --lr 1e-3 --eval-every 2 --save-every 2"));
    assert!(output.status.success(), "{}", stderr(&output));
    // The first example is shown with what is learned.
    has(
        &stderr(&output),
        &["who found it. [the fox found it.\n]", "6 training, 6 validation examples", "validation loss"],
    );
    let kept = std::fs::read_to_string(place.path("run/chat_template.jinja")).unwrap();
    assert_eq!(kept, std::fs::read_to_string(place.path("template")).unwrap());
    let losses: Vec<f64> = std::fs::read_to_string(place.path("run/training/log.jsonl"))
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["val_loss"].as_f64())
        .collect();
    assert!(losses.len() == 2 && losses[1] < losses[0], "{losses:?}");
    let resumed = place.wgpt("sft --out run --resume --steps 6 -q");
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    let answers = |arguments: &str, input: &str| {
        place.write("input", input);
        let file = std::fs::File::open(place.path("input")).unwrap();
        let output = place.command(&format!("chat --model run {arguments} -q")).stdin(file).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let lines = answers("--json --strategy greedy --tokens 9", "who found it\n\nwho is sad\n/reset\nwho found it\n");
    let answer = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let said: Vec<_> = lines.lines().map(answer).collect();
    assert!(said.len() == 3 && said[0]["role"] == "assistant", "{lines}");
    assert_eq!(said[0]["content"], said[2]["content"], "the conversation began again");
    // What the model sees is what it saw in training: the same text, in one prompt.
    let seen = place.wgpt("sample --model run --strategy greedy --tokens 9 --json -q --prompt-file seen");
    assert!(!seen.status.success());
    place.write("seen", "who found it. ");
    let seen = place.wgpt("sample --model run --strategy greedy --tokens 9 --json -q --prompt-file seen");
    let seen = answer(&String::from_utf8(seen.stdout).unwrap());
    assert!(seen["text"].as_str().unwrap().starts_with(said[0]["content"].as_str().unwrap()), "{seen} {}", said[0]);
    assert_eq!(
        answers("--strategy greedy --tokens 9", "who found it\n").trim_end(),
        said[0]["content"].as_str().unwrap().trim_end()
    );

    // Before training, and of any model's template.
    let rendered = place.wgpt("data render --data train.jsonl --template template --count 2");
    let rows: Vec<_> = String::from_utf8(rendered.stdout).unwrap().lines().map(answer).collect();
    assert!(rows.len() == 2 && rows[0]["text"] == "who found it. the fox found it.\n", "{rows:?}");
    let learned: Vec<u64> = rows[0]["learned"].as_array().unwrap().iter().map(|flag| flag.as_u64().unwrap()).collect();
    let border = "who found it. ".len(); // a token is a character
    assert!((0..learned.len()).all(|at| learned[at] == u64::from(at >= border)), "{learned:?}");
    has(&error(&place.wgpt("data render --data train.jsonl"), 1), &["line 1 of train.jsonl: ", "--template"]);

    // Where one token ends a turn, it ends texts in other programs, too.
    let ended = place
        .wgpt("sft --out ended --data train.jsonl --template lines --steps 1 --batch 2 -q --packing --max-length 64");
    assert!(ended.status.success(), "{}", stderr(&ended));
    let settings = |file: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(place.path("ended").join(file)).unwrap()).unwrap()
    };
    let line_break = demo::model().tokenizer().unwrap().encode("\n").unwrap()[0];
    for file in ["config.json", "generation_config.json"] {
        assert_eq!(settings(file)["eos_token_id"], line_break, "{file}");
    }
    assert_eq!(settings("generation_config.json")["temperature"], serde_json::json!(0.4), "the rest is kept");

    // Several sources: six examples of one, and of the other two as many again, twice its share.
    std::fs::create_dir(place.path("folder")).unwrap();
    place.write("folder/b.jsonl", row(1));
    place.write("folder/a.jsonl", row(0));
    let mix =
        place.wgpt("sft --out mixed --data train.jsonl --data folder --mix 1,2 --template lines --steps 1 --batch 2");
    assert!(mix.status.success(), "{}", stderr(&mix));
    has(&stderr(&mix), &["18 training"]);
    let both = place.wgpt("sft --out both --data train.jsonl --data folder --template lines --steps 1 --batch 2");
    has(&stderr(&both), &["8 training"]);
    let resumed = place.wgpt("sft --out mixed --resume --steps 2 --mix 1,2 -q");
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    std::fs::create_dir(place.path("empty")).unwrap();

    let refused = |arguments: &str, code: i32, words: &[&str]| has(&error(&place.wgpt(arguments), code), words);
    refused("sft --out new --data train.jsonl --data folder --mix 1 --template lines", 2, &["--mix", "2 --data"]);
    refused("sft --out new --data train.jsonl --data folder --mix 1,0 --template lines", 2, &["--mix 0"]);
    refused("sft --out new --data train.jsonl --data folder --mix 1,9999 --template lines", 2, &["--mix 9999"]);
    refused("sft --out new --data empty --template lines", 1, &["empty", ".jsonl"]);
    refused("sft --out mixed --resume --steps 3 --mix 2,1", 2, &["--mix"]);
    refused("sft --out new --data train.jsonl", 1, &["line 1 of train.jsonl: ", "chat template", "--template"]);
    refused("sft --out new --data train.jsonl --template nothing", 2, &["--template nothing"]);
    refused("sft --out new --data train.jsonl --template plain", 1, &["line 1 of train.jsonl: ", "'Q'"]);
    refused("sft --out new --data train.jsonl --template template --max-length 1", 2, &["--max-length 1"]);
    refused("sft --out new --data train.jsonl --template template --max-length 4", 1, &["--max-length"]);
    refused("sft --out run --resume --lr 1", 2, &["--resume", "--steps"]);
    assert!(!place.path("new").exists());
}
