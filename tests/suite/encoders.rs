//! Encoders as a user meets them: from text to masked words, to a fine-tuned classifier, to embeddings; masks; and bad input.

use crate::cli::{Place, error, has, stderr};
use crate::objectives::letters;
use rand::SeedableRng;
use rand_pcg::Pcg64;
use serde_json::Value;
use wgpt::data::masking::{Drawn, Masking};

const TINY: &str = "--preset bert-mini --layers 1 --heads 2 --width 16 --context 24 --batch 2 --eval-every 0 --eval-batches 1 \
    --save-every 0 --device cpu";

fn lines(stdout: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{line}: {why}"))).collect()
}

#[test]
fn an_encoder_is_pretrained_fills_in_words_is_fine_tuned_and_embeds() {
    let place = Place::new();
    place.write("data/a.txt", "the red cat sat on the mat .\nthe old dog ran to the park .\n".repeat(60));
    let run = |arguments: &str| {
        let output = place.wgpt(arguments);
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
        output.stdout
    };
    run(&format!("train --out bert --data data --steps 3 --next-sentence --whole-words {TINY}"));
    let config = std::fs::read_to_string(place.path("bert/config.json")).unwrap();
    has(&config, &["BertForPreTraining", "\"model_type\": \"bert\""]);
    // Goes on with the run, and starts one without the prediction of what follows.
    has(&error(&place.wgpt("train --out bert --resume --mask-share 0.3 --device cpu"), 2), &["--mask-share"]);
    run("train --out bert --resume --steps 4 --device cpu");
    run(&format!(
        "train --out masked --init bert --data data --steps 1 {}",
        TINY.replace("--preset bert-mini --layers 1 --heads 2 --width 16 --context 24", "")
    ));
    has(&std::fs::read_to_string(place.path("masked/config.json")).unwrap(), &["BertForMaskedLM"]);

    place.write("prompts.jsonl", "{\"prompt\": \"the [MASK] sat\"}\n{\"prompt\": \"the [MASK] ran to [MASK]\"}\n");
    let filled = lines(&run("sample --model bert --prompts prompts.jsonl --top-k 2 --device cpu"));
    assert_eq!(filled.iter().map(|one| one["masks"].as_array().unwrap().len()).collect::<Vec<_>>(), [1, 2]);
    let word = &filled[0]["masks"][0][0];
    // BERT's decoder puts no space before a full stop.
    let (text, token) = (word["sequence"].as_str().unwrap(), word["token_str"].as_str().unwrap());
    assert!(text.starts_with("the") && text.ends_with(" sat") && text.contains(token), "{word}");
    has(
        &error(&place.command("sample --model bert --device cpu --prompt cat").output().unwrap(), 1),
        &["has no [MASK]"],
    );
    has(
        &error(&place.wgpt("sample --model bert --device cpu --prompt [MASK] --tokens 3"), 2),
        &["--tokens", "encoder"],
    );

    place.write(
        "a.csv",
        "first,second,label\nthe cat sat,the dog ran,no\nthe dog ran,the dog ran,yes\n".to_string()
            + &"the mat,the mat,yes\nthe cat,the park,no\n".repeat(2),
    );
    run("finetune --task similar --model bert --data a.csv --val a.csv --out tuned --epochs 2 --batch 2 --device cpu");
    has(
        &std::fs::read_to_string(place.path("tuned/config.json")).unwrap(),
        &["BertForSequenceClassification", "\"yes\"", "pad_token_id"],
    );
    let predicted = lines(&run("predict --model tuned --data a.csv --device cpu"));
    assert_eq!(predicted.len(), 6);
    let sum: f64 = predicted[0]["probabilities"].as_object().unwrap().values().map(|p| p.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{predicted:?}");
    // A pair is one sequence: whether it is read from the file or exported makes no difference.
    run("export --model tuned --out exported");
    assert_eq!(lines(&run("predict --model exported --data a.csv --device cpu")), predicted);

    // Choices of a folder as transformers writes it, which has no task.json.
    place.write(
        "c.csv",
        "context,choice1,choice2,label\n".to_string()
            + &"the cat,sat on the mat,ran,1\nthe dog,sat,ran to the park,2\n".repeat(2),
    );
    run(
        "finetune --task choose --model bert --data c.csv --out chooser --epochs 1 --batch 2 --choices choice --device cpu",
    );
    let chosen = lines(&run("predict --model chooser --data c.csv --choices choice --device cpu"));
    std::fs::remove_file(place.path("chooser/task.json")).unwrap();
    assert_eq!(lines(&run("predict --model chooser --data c.csv --choices choice --device cpu")), chosen);

    let similar = lines(&run("embed --model bert --data a.csv --pairs first,second --device cpu"));
    let similarity = |row: usize| similar[row]["similarity"].as_f64().unwrap();
    assert!((similarity(1) - 1.0).abs() < 1e-6 && similarity(0) < 0.999, "{similar:?}");
    run("embed --model bert --data a.csv --text first --pooling cls --out vectors.safetensors --device cpu");
    let bytes = std::fs::read(place.path("vectors.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("embeddings").unwrap().shape(), [6, 16]);
}

#[test]
fn words_are_tagged_and_questions_answered() {
    let place = Place::new();
    place.write("a.txt", "anna went to paris . the dog sat in rome .\n".repeat(60));
    let run = |arguments: &str| {
        let output = place.wgpt(arguments);
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
        output
    };
    run(&format!("train --out bert --data a.txt --steps 2 {TINY}"));
    place.write(
        "a.conll",
        "anna B-PER\nwent O\nto O\nparis B-LOC\n. O\n\nthe O\ndog O\nsat O\nin O\nrome B-LOC\n. O\n\n".repeat(4),
    );
    // The loss of words falls, and the best model has entities; a run that stopped goes on.
    run(
        "finetune --task tag --model bert --data a.conll --val a.conll --out tagger --epochs 2 --batch 2 --lr 1e-2 --device cpu",
    );
    run("finetune --out tagger --resume --steps 10 --device cpu");
    has(
        &std::fs::read_to_string(place.path("tagger/config.json")).unwrap(),
        &["BertForTokenClassification", "\"1\": \"B-LOC\"", "\"B-PER\": 3"],
    );
    let output = run("predict --model tagger --data a.conll --device cpu");
    has(&stderr(&output), &["F1", "PER"]);
    assert_eq!(lines(&output.stdout).len(), 8);
    place.write("texts.jsonl", "{\"text\": \"Anna went  to Paris.\"}\n");
    let texts = lines(&run("predict --model tagger --data texts.jsonl --text text --device cpu").stdout);
    for entity in texts[0]["entities"].as_array().unwrap() {
        let (start, end) = (entity["start"].as_u64().unwrap() as usize, entity["end"].as_u64().unwrap() as usize);
        assert_eq!(entity["text"], "Anna went  to Paris."[start..end], "{entity}");
    }
    place.write("jump.conll", "anna B-PER\nwent I-LOC\n\nparis B-LOC\nrome B-LOC\n");
    let jump = place.wgpt("finetune --task tag --model bert --data jump.conll --out x --device cpu");
    has(&error(&jump, 1), &["line 2 of jump.conll", "I-LOC"]);

    let question = |id: usize, context: &str, answer: &str| {
        let start = context.find(answer).unwrap();
        let row = serde_json::json!({"id": id.to_string(), "question": "where is it", "context": context,
            "answers": {"text": [answer], "answer_start": [start]}});
        format!("{row}\n")
    };
    let long = "anna went to paris . ".repeat(4) + "the dog sat in rome .";
    place.write(
        "q.jsonl",
        question(1, "anna went to paris .", "paris")
            + &question(2, "the dog sat in rome .", "rome")
            + &question(3, &long, "rome"),
    );
    run(
        "finetune --task answer --model bert --data q.jsonl --val q.jsonl --out answerer --epochs 2 --batch 2 --stride 4 --device cpu",
    );
    has(&std::fs::read_to_string(place.path("answerer/config.json")).unwrap(), &["BertForQuestionAnswering"]);
    let output = run("predict --model answerer --data q.jsonl --top 2 --device cpu");
    has(&stderr(&output), &["exact match", "of 3 questions"]);
    for (row, context) in lines(&output.stdout).iter().zip(["anna went to paris .", "the dog sat in rome .", &long]) {
        let answers = row["answers"].as_array().unwrap();
        assert!(answers.len() == 2 && answers[0]["text"] == row["answer"], "{row}");
        let (start, end) =
            (answers[0]["start"].as_u64().unwrap() as usize, answers[0]["end"].as_u64().unwrap() as usize);
        assert_eq!(answers[0]["text"], context[start..end], "{row}");
    }
    place.write("wrong.jsonl", question(7, "anna went to paris .", "paris").replace("[13]", "[12]"));
    let wrong = place.wgpt("finetune --task answer --model bert --data wrong.jsonl --out y --device cpu");
    has(&error(&wrong, 1), &["(id 7)", "not in its context"]);
    // Tokens of types beyond the model's table.
    let mut tokenizer: Value =
        serde_json::from_slice(&std::fs::read(place.path("bert/tokenizer.json")).unwrap()).unwrap();
    let special = |name: &str, id: u32| serde_json::json!({"id": name, "ids": [id], "tokens": [name]});
    let token = |name: &str, kind: u32| serde_json::json!({"SpecialToken": {"id": name, "type_id": kind}});
    let text = |name: &str, kind: u32| serde_json::json!({"Sequence": {"id": name, "type_id": kind}});
    tokenizer["post_processor"] = serde_json::json!({"type": "TemplateProcessing",
        "single": [token("[CLS]", 0), text("A", 0), token("[SEP]", 0)],
        "pair": [token("[CLS]", 0), text("A", 0), token("[SEP]", 0), text("B", 5), token("[SEP]", 5)],
        "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)}});
    for folder in ["bert", "answerer"] {
        place.write(&format!("{folder}/tokenizer.json"), tokenizer.to_string());
    }
    for command in ["finetune --task answer --model bert --out w", "predict --model answerer"] {
        let beyond = place.wgpt(&format!("{command} --data q.jsonl --device cpu"));
        has(&error(&beyond, 1), &["row 1", "type 5", "2 rows"]);
    }
    let decoder = place.wgpt("finetune --task tag --data a.conll --out z --device cpu");
    has(&error(&decoder, 2), &["--task tag needs an encoder"]);
}

#[test]
fn what_an_encoder_cannot_do_is_refused_by_name() {
    let place = Place::new();
    place.write("a.txt", "the red cat sat on the mat .\n".repeat(40));
    place.write("rows.jsonl", "{\"prompt\": \"the\", \"completion\": \"cat\"}\n");
    assert!(place.wgpt(&format!("train --out bert --data a.txt --steps 1 {TINY}")).status.success());
    let encoder = ["BERT is an encoder"];
    has(&error(&place.wgpt("eval --model bert --data a.txt --device cpu"), 2), &encoder);
    has(&error(&place.wgpt("sft --model bert --data rows.jsonl --out sft --device cpu"), 2), &encoder);
    let profile = "profile --preset bert-mini --batch 1 --context 16 --repeat 1 --device cpu";
    assert!(place.wgpt(profile).status.success());
    has(&error(&place.wgpt(&format!("{profile} --decode")), 2), &encoder);
    let tiny = TINY.replace("--preset bert-mini", "--preset demo");
    has(
        &error(&place.wgpt(&format!("train --out run --data a.txt --steps 1 --whole-words {tiny}")), 2),
        &["--whole-words", "encoders"],
    );
    has(
        &error(&place.wgpt(&format!("train --out run --data a.txt --steps 1 --tokenizer bytes {TINY}")), 2),
        &["[MASK]", "wordpiece"],
    );
    has(
        &error(&place.wgpt(&format!("train --out run --data a.txt --steps 1 --mask-share 1.5 {TINY}")), 2),
        &["--mask-share"],
    );
    has(
        &error(&place.wgpt(&format!("train --out run --data a.txt --steps 1 --sample-every 1 {TINY}")), 2),
        &["--sample-every"],
    );
}

#[test]
fn masks_spare_special_tokens_and_keep_words_together() {
    let (first, separator, mask) = (2, 3, 4);
    // A word of three pieces, two of one, a separator within, a word of two pieces.
    let ids = vec![first, 5, 9, 10, 6, 7, separator, 8, 13, separator];
    let words = [vec![1, 2, 3], vec![4], vec![5], vec![7, 8]];
    for whole in [false, true] {
        let masking = Masking::new(&letters(), "the letters", 0.4, whole).unwrap();
        let (mut masked, mut kept, mut random) = (0u32, 0u32, Pcg64::seed_from_u64(7));
        let mut drawn = Drawn::default();
        for _ in 0..2000 {
            let mut seen = ids.clone();
            let places = masking.mask(&mut seen, &mut random, &mut drawn).to_vec();
            assert!(!places.is_empty() && places.len() <= masking.most(7) && masking.most(7) == 3);
            for (position, id) in &places {
                assert_eq!(ids[*position], *id);
                assert!(*id > mask, "special tokens are never predicted");
                masked += u32::from(seen[*position] == mask);
                kept += u32::from(seen[*position] == *id);
            }
            let chosen: Vec<usize> = places.iter().map(|(position, _)| *position).collect();
            assert!(seen.iter().zip(&ids).enumerate().all(|(at, (now, was))| now == was || chosen.contains(&at)));
            if whole {
                assert!(
                    words
                        .iter()
                        .all(|word| word.iter().all(|at| chosen.contains(at))
                            || !word.iter().any(|at| chosen.contains(at))),
                    "{chosen:?}"
                );
            } else {
                assert_eq!(places.len(), 3, "40% of seven tokens");
            }
        }
        // Eight of ten are masked; one of ten is drawn from 14 tokens, of which one is the mask and one the token itself.
        if !whole {
            let share = |count: u32| f64::from(count) / 6000.0;
            // Four standard deviations of 6000 draws.
            assert!((share(masked) - (0.8 + 0.1 / 14.0)).abs() < 0.021, "{masked}");
            assert!((share(kept) - (0.1 + 0.1 / 14.0)).abs() < 0.016, "{kept}");
        }
    }
}
