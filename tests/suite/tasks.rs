//! The built-in tasks: the grammar tells their labels, single words and lengths do not.

use crate::cli::{Place, error, has, stderr};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use wgpt::data::corpora::story;
use wgpt::data::corpora::tasks::{MOST_CHARACTERS, Split, examples, spans};
use wgpt::data::labelled::{Example, Task, read};
use wgpt::data::{answers, tagged};

/// What belongs together: a need, its gift and the gift's use; a toy, how it gets away and how it is caught.
const TOGETHER: [[&str; 3]; 8] = [
    [" hungry", " bread.", " ate it "],
    [" cold", " scarf.", " put it on "],
    [" thirsty", " milk.", " drank it "],
    [" sad", " flower.", " smelled it "],
    [" ball", " rolled into a hole.", " dug it out."],
    [" kite", " flew into a tree.", " climbed up to it."],
    [" boat", " drifted away.", " swam after it."],
    [" hat", " blew away.", " ran after it."],
];

const TRAIN: usize = 2000;
const TEST: usize = 1000;

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty())
}

/// The words of an example, each with the number of its column.
fn tagged(example: &Example) -> Vec<String> {
    let columns = example.texts.iter().enumerate();
    columns.flat_map(|(column, text)| words(text).map(move |word| format!("{column}{word}"))).collect()
}

/// Accuracy on the test examples of logistic regression over features, trained by gradient descent.
fn logistic(train: &[Example], test: &[Example], features: impl Fn(&Example) -> Vec<String>) -> f64 {
    let positive = train[0].label.clone();
    let mut known = HashMap::new();
    let rows: Vec<(Vec<usize>, f64)> = train
        .iter()
        .map(|example| {
            let ids = features(example).into_iter().map(|feature| {
                let next = known.len();
                *known.entry(feature).or_insert(next)
            });
            (ids.collect(), f64::from(u8::from(example.label == positive)))
        })
        .collect();
    let (mut weights, mut bias) = (vec![0.0; known.len()], 0.0);
    let score = |ids: &[usize], weights: &[f64], bias: f64| bias + ids.iter().map(|id| weights[*id]).sum::<f64>();
    for _ in 0..10 {
        for (ids, label) in &rows {
            let error = label - 1.0 / (1.0 + (-score(ids, &weights, bias)).exp());
            ids.iter().for_each(|id| weights[*id] += 0.02 * error);
            bias += 0.02 * error;
        }
    }
    let right = test.iter().filter(|example| {
        let ids: Vec<usize> = features(example).iter().filter_map(|feature| known.get(feature).copied()).collect();
        (score(&ids, &weights, bias) > 0.0) == (example.label == positive)
    });
    right.count() as f64 / test.len() as f64
}

/// Accuracy on the test examples of the label that is most frequent, in training, among those with the same feature.
fn lookup(train: &[Example], test: &[Example], feature: impl Fn(&Example) -> String) -> f64 {
    let mut counts: HashMap<String, BTreeMap<Option<&str>, usize>> = HashMap::new();
    for example in train {
        *counts.entry(feature(example)).or_default().entry(example.label.as_deref()).or_default() += 1;
    }
    let guess = |example: &Example| {
        let labels = counts.get(&feature(example)).and_then(|labels| labels.iter().max_by_key(|(_, count)| **count));
        labels.map_or(train[0].label.as_deref(), |(label, _)| *label)
    };
    let right = test.iter().filter(|example| guess(example) == example.label.as_deref());
    right.count() as f64 / test.len() as f64
}

/// The rows of `TOGETHER` that a text mentions.
fn facts(text: &str) -> BTreeSet<usize> {
    let mentioned = |row: &[&str; 3]| row.iter().any(|words| text.contains(words));
    TOGETHER.iter().enumerate().filter(|(_, row)| mentioned(row)).map(|(at, _)| at).collect()
}

/// Whether two halves of a story fit, by what the grammar says.
fn fits(first: &str, second: &str) -> bool {
    let both = format!("{first} {second}");
    let used = |list: &[&str]| words(&both).any(|word| list.contains(&word.to_lowercase().as_str()));
    let one_child = !(used(&["she", "her", "girl"]) && used(&["he", "his", "him", "boy"]));
    one_child && facts(&both).len() <= 1
}

/// The words that tell one passage from another, whatever its wording.
fn meaning(text: &str) -> BTreeSet<&str> {
    const TELLING: &str = "Mia Tom Anna Ben Lily Sam Rosa Max kind brave quiet shy park lake farm pond hill barn mill \
        beach fox dog cat bear duck hen red blue green tiny ball drum book doll bell ring cup kite boat hat hungry cold \
        thirsty sad bread scarf milk flower dug climbed swam ran";
    let telling: BTreeSet<&str> = TELLING.split_whitespace().collect();
    let ran_there = text.contains(" ran to ");
    words(text).filter(|word| telling.contains(word) && !(*word == "ran" && ran_there)).collect()
}

/// The label, by what the grammar says.
fn solve(task: Task, example: &Example) -> String {
    let pick = |yes: bool, labels: [&str; 2]| labels[usize::from(!yes)].to_string();
    match task {
        Task::Classify => pick(fits(&example.texts[0], ""), ["happy", "sad"]),
        Task::Entail => pick(fits(&example.texts[0], &example.texts[1]), ["yes", "no"]),
        Task::Similar => {
            let same = meaning(&example.texts[0]) == meaning(&example.texts[1]);
            let both = example.texts.join(" ").to_lowercase();
            let mixed = words(&both).any(|word| word == "he") && words(&both).any(|word| word == "she");
            pick(same && !mixed && fits(&example.texts[0], &example.texts[1]), ["same", "different"])
        }
        Task::Choose => {
            let right = example.choices.iter().position(|choice| fits(&example.texts[0], choice));
            right.map_or("none".into(), |right| right.to_string())
        }
    }
}

#[test]
fn the_grammar_tells_every_label() {
    for task in Task::ALL {
        for split in Split::ALL {
            for example in examples(task, split, 3, TEST) {
                assert_eq!(Some(solve(task, &example)), example.label, "{task:?} {example:?}");
            }
        }
    }
}

#[test]
fn words_and_lengths_tell_no_label() {
    // Of 1,000 guesses in sets of four, of which at most three are right: the standard error is at most 1.6%.
    const NEAR: f64 = 0.06;
    for task in [Task::Classify, Task::Entail, Task::Similar] {
        let (train, test) = (examples(task, Split::Train, 1, TRAIN), examples(task, Split::Test, 1, TEST));
        let length = |example: &Example| example.texts.iter().map(String::len).sum::<usize>().to_string();
        let lengths = |example: &Example| example.texts.iter().map(|text| text.len().to_string() + " ").collect();
        let first = |example: &Example| example.texts.iter().filter_map(|text| words(text).next()).collect();
        let last_column = |example: &Example| example.texts.last().unwrap().clone();
        let presence = |example: &Example| tagged(example).into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let pairs = |example: &Example| {
            let all = tagged(example);
            all.windows(2).map(|pair| pair.join(" ")).collect()
        };
        let guesses = [
            ("a bag of words", logistic(&train, &test, tagged)),
            ("a set of words", logistic(&train, &test, presence)),
            ("a bag of neighbours", logistic(&train, &test, pairs)),
            ("the length", lookup(&train, &test, length)),
            ("the lengths", lookup(&train, &test, lengths)),
            ("the first word", lookup(&train, &test, first)),
            ("the last text", lookup(&train, &test, last_column)),
        ];
        for (by, accuracy) in guesses {
            assert!((accuracy - 0.5).abs() < NEAR, "{task:?} is {accuracy} right by {by}");
        }
        // What looks at the words does find what they tell: here every other label is given away.
        let told = |example: &Example| {
            let half = example.texts[0].len().is_multiple_of(2) && example.label == train[0].label;
            tagged(example).into_iter().chain(half.then(|| "told".to_string())).collect()
        };
        assert!(logistic(&train, &test, told) > 0.5 + NEAR, "{task:?}");
    }
}

#[test]
fn no_choice_is_right_by_itself() {
    let test = examples(Task::Choose, Split::Test, 1, TEST);
    let mean = |right: &dyn Fn(&Example) -> usize| {
        test.iter().filter(|example| Some(right(example)) == example.right()).count() as f64 / TEST as f64
    };
    let best = |example: &Example, score: &dyn Fn(&str) -> usize| {
        let scores: Vec<usize> = example.choices.iter().map(|choice| score(choice)).collect();
        (0..4).max_by_key(|choice| scores[*choice]).unwrap()
    };
    // A set has the same four choices, each right once: what looks at choices alone is right in exactly one of four.
    assert_eq!(mean(&|example| best(example, &str::len)), 0.25, "the longest");
    assert_eq!(mean(&|example| best(example, &|choice| 100 - choice.len())), 0.25, "the shortest");
    assert_eq!(mean(&|_| 0), 0.25, "the first");
    let shared = |example: &Example| {
        let context: BTreeSet<&str> = words(&example.texts[0]).collect();
        best(example, &|choice| words(choice).filter(|word| context.contains(word)).count())
    };
    let shared = mean(&shared);
    assert!((shared - 0.25).abs() < 0.05, "words that the context has are right in {shared}");
}

#[test]
fn labels_are_balanced_and_texts_look_like_stories() {
    let alphabet: BTreeSet<char> = story::training_text(0, 500_000).chars().collect();
    for task in Task::ALL {
        let classes = if task == Task::Choose { 4 } else { 2 };
        for count in [1, 2, 5, 7, 64] {
            let mut counts = BTreeMap::new();
            let some = examples(task, Split::Train, 5, count);
            assert_eq!(some.len(), count);
            some.iter().for_each(|example| *counts.entry(example.label.clone()).or_insert(0) += 1);
            assert!(counts.values().all(|n| *n <= count.div_ceil(classes)), "{task:?}: {counts:?}");
        }
        for example in examples(task, Split::Validation, 5, 500) {
            let longest = example.choices.iter().map(|choice| choice.len() + 1).max().unwrap_or(0);
            let all: usize = example.texts.iter().map(String::len).sum();
            assert!(all + longest <= MOST_CHARACTERS, "{example:?}");
            for text in example.texts.iter().chain(&example.choices) {
                assert!(text.chars().all(|c| alphabet.contains(&c)), "{text:?}");
                for sentence in text.split_inclusive('.') {
                    assert!(story::grammatical(sentence.trim()), "{sentence:?}");
                }
            }
        }
    }
}

#[test]
fn splits_share_nothing_and_seeds_repeat() {
    for task in Task::ALL {
        let key = |example: &Example| {
            let mut texts = example.texts.clone();
            texts.sort(); // similar texts stand in both orders
            format!("{texts:?} {:?}", example.choices)
        };
        let keys = |split: Split| -> BTreeSet<String> { examples(task, split, 1, TEST).iter().map(key).collect() };
        let [train, validation, test] = Split::ALL.map(keys);
        for (one, other) in [(&train, &validation), (&train, &test), (&validation, &test)] {
            assert!(one.is_disjoint(other), "{task:?}: {:?}", one.intersection(other).next());
        }
        // Small talk repeats itself, but not all the time.
        assert!(test.len() > TEST / 4, "{task:?} has {} different ones in {TEST}", test.len());
        let some = |seed| examples(task, Split::Train, seed, 40);
        assert_eq!(some(1), some(1));
        assert_ne!(some(1), some(2));
        assert_eq!(examples(task, Split::Train, 1, 8), some(1)[..8], "the first of more are the same");
    }
    // The same on every platform and in every version.
    let first = &examples(Task::Classify, Split::Train, 0, 1)[0];
    assert_eq!(
        (first.texts[0].as_str(), first.label.as_deref()),
        (
            "A brave girl named Anna was at the lake. There she met a cold cat. She gave the cat her scarf.",
            Some("happy")
        )
    );
}

#[test]
fn the_command_writes_the_librarys_examples() {
    let place = Place::new();
    for task in Task::ALL {
        let name = task.name();
        for file in ["a.jsonl", "a.csv", "a.tsv"] {
            let output = place.wgpt(&format!("data task {name} --out {file} --count 9 --seed 4 --split test"));
            assert!(output.status.success(), "{}", stderr(&output));
            let mut got = read(&place.path(file), &task.form(), true).unwrap();
            got.iter_mut().for_each(|example| example.line = 0);
            assert_eq!(got, examples(task, Split::Test, 4, 9));
        }
    }
    has(&error(&place.wgpt("data task classify --out a.txt"), 2), &["a.txt", ".jsonl"]);
    has(&error(&place.wgpt("data task classify --out a.csv --count 0"), 2), &["--count 0"]);
    for wrong in ["data task nonsense --out a.csv", "data task classify --out a.csv --split half"] {
        has(&error(&place.wgpt(wrong), 2), &["there are"]);
    }
}

#[test]
fn the_command_writes_tagged_stories_and_questions_in_every_format_that_is_read() {
    let place = Place::new();
    let run = |task: &str, file: &str| {
        let output = place.wgpt(&format!("data task {task} --out {file} --count 9 --seed 4 --split validation"));
        has(&stderr(&output), &[&format!("9 validation examples of the task {task} are in {file}")]);
        place.path(file)
    };
    for file in ["a.conll", "a.jsonl"] {
        let mut got = tagged::read(&run("tag", file), &tagged::Form::default(), true).unwrap();
        got.iter_mut().for_each(|sentence| sentence.line = 0);
        assert_eq!(got, spans::sentences(Split::Validation, 4, 9), "{file}");
    }
    for file in ["b.json", "b.jsonl"] {
        let got = answers::read(&run("answer", file), &answers::Form::default(), true).unwrap();
        assert_eq!(got, spans::questions(Split::Validation, 4, 9), "{file}");
    }
    has(&error(&place.wgpt("data task tag --out a.csv"), 2), &["a.csv", ".jsonl"]);
    has(&error(&place.wgpt("data task answer --out a.txt"), 2), &["a.txt", ".json"]);
    has(&error(&place.wgpt("data task nonsense --out a.csv"), 2), &["nonsense", "choose, tag, answer, dialogue"]);
}

/// One file serves supervised fine-tuning, reward models, preference optimisation and policies.
#[test]
fn rows_of_preferences_are_read_by_everything_that_learns_from_them() {
    let place = Place::new();
    let output = place.wgpt("data task preference --out p.jsonl --count 30 --split validation --seed 5");
    has(&stderr(&output), &["30 validation examples of the task preference are in p.jsonl"]);
    let path = place.path("p.jsonl");
    assert_eq!(wgpt::data::dialogues::read(&path).unwrap().len(), 30);
    assert_eq!(wgpt::data::preferences::read_pairs(&path).unwrap().len(), 30);
    let margins: Vec<f32> =
        wgpt::data::rankings::read(&path).unwrap().iter().map(|ranking| ranking.pairs[0].margin).collect();
    assert!(margins.contains(&0.0) && margins.iter().all(|margin| (0.0..=1.0).contains(margin)), "{margins:?}");
    let prompts = wgpt::data::prompts::read(&path).unwrap();
    assert!(prompts.iter().all(|prompt| prompt.row["best"].as_str().unwrap().ends_with(", thank you.")));
    has(&error(&place.wgpt("data task preference --out p.csv"), 2), &["p.csv", ".jsonl"]);
}
