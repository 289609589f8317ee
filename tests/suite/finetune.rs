//! Fine-tuning: sequences and batches of labelled examples.

use proptest::prelude::*;
use wgpt::data::buckets::{Buckets, epoch, group};
use wgpt::data::labelled::sequences::{Encoder, Sequences, Special};
use wgpt::data::labelled::target::{Answer, Target};
use wgpt::data::labelled::{Example, Task};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Error;
use wgpt::objectives::labelled::batch::{Item, LabelledBatch};
use wgpt::objectives::labelled::head::Head;
use wgpt::ops::IGNORED;

const S: u32 = 256;
const D: u32 = 257;
const E: u32 = 258;

fn encode(task: Task, longest: usize, texts: Example) -> Result<Sequences, Error> {
    let tokenizer = Tokenizer::bytes().unwrap();
    Encoder { tokenizer: &tokenizer, task, special: Some(Special::after(256)), longest, pad: None, is_encoder: false }
        .encode(&texts)
}

/// Ids, with bytes in the place of text.
fn ids(parts: &[&dyn Part]) -> Vec<u32> {
    parts.iter().flat_map(|part| part.ids()).collect()
}

trait Part {
    fn ids(&self) -> Vec<u32>;
}

impl Part for u32 {
    fn ids(&self) -> Vec<u32> {
        vec![*self]
    }
}

impl Part for &str {
    fn ids(&self) -> Vec<u32> {
        self.bytes().map(u32::from).collect()
    }
}

fn row(texts: &[&str], choices: &[&str]) -> Example {
    let own = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    Example { line: 1, texts: own(texts), choices: own(choices), label: None, rendered: false }
}

fn one(text: &str) -> Example {
    row(&[text], &[])
}

fn two(a: &str, b: &str) -> Example {
    row(&[a, b], &[])
}

fn choice(context: &str, question: Option<&str>, choices: &[&str]) -> Example {
    row(&[Some(context), question].into_iter().flatten().collect::<Vec<_>>(), choices)
}

#[test]
fn each_task_has_its_sequences() {
    let of = |task, texts| encode(task, 64, texts).unwrap();
    let whole = |ids| Sequences { ids, cut: false };
    assert_eq!(of(Task::Classify, one("ab")), whole(vec![ids(&[&S, &"ab", &E])]));
    assert_eq!(of(Task::Entail, two("ab", "c")), whole(vec![ids(&[&S, &"ab", &D, &"c", &E])]));
    let both = vec![ids(&[&S, &"ab", &D, &"c", &E]), ids(&[&S, &"c", &D, &"ab", &E])];
    assert_eq!(of(Task::Similar, two("ab", "c")), whole(both));
    let three = vec![
        ids(&[&S, &"ab q?", &D, &"x", &E]),
        ids(&[&S, &"ab q?", &D, &"yy", &E]),
        ids(&[&S, &"ab q?", &D, &"z", &E]),
    ];
    assert_eq!(of(Task::Choose, choice("ab", Some("q?"), &["x", "yy", "z"])), whole(three));
    let plain = vec![ids(&[&S, &"ab", &D, &"x", &E]), ids(&[&S, &"ab", &D, &"y", &E])];
    assert_eq!(of(Task::Choose, choice("ab", None, &["x", "y"])), whole(plain));
}

#[test]
fn long_texts_are_cut_and_questions_and_choices_are_not() {
    let of = |task, longest, texts| encode(task, longest, texts).unwrap();
    let cut = |ids| Sequences { ids, cut: true };
    assert_eq!(of(Task::Classify, 5, one("abcdef")), cut(vec![ids(&[&S, &"abc", &E])]));
    assert!(!of(Task::Classify, 8, one("abcdef")).cut, "it just fits");
    // Four for the premise, as the hypothesis takes one; two and three where both are long.
    assert_eq!(of(Task::Entail, 8, two("abcdef", "x")), cut(vec![ids(&[&S, &"abcd", &D, &"x", &E])]));
    assert_eq!(of(Task::Entail, 8, two("a", "uvwxyz")), cut(vec![ids(&[&S, &"a", &D, &"uvwx", &E])]));
    assert_eq!(of(Task::Entail, 8, two("abcdef", "uvwxyz")), cut(vec![ids(&[&S, &"abc", &D, &"uv", &E])]));
    // The longest choice leaves four tokens for the context, which keeps its end, in every sequence.
    let sequences = vec![ids(&[&S, &"cd q", &D, &"x", &E]), ids(&[&S, &"cd q", &D, &"yyy", &E])];
    assert_eq!(of(Task::Choose, 10, choice("abcd", Some("q"), &["x", "yyy"])), cut(sequences));
    let error = encode(Task::Choose, 10, choice("abcd", Some("why?"), &["x", "yyyy"])).unwrap_err().to_string();
    assert!(error.contains("9 tokens") && error.contains("room for 7") && error.contains("shorten"), "{error}");
    let error = encode(Task::Entail, 4, two("a", "b")).unwrap_err().to_string();
    assert!(error.contains("no room"), "{error}");
}

fn item(lengths: &[usize], answer: Option<Answer>) -> Item {
    let ids = lengths.iter().map(|&n| (1..=n as u32).collect()).collect();
    Item { ids, answer, weight: 2.0 }
}

fn head(task: Task, batch: usize) -> Head {
    let target = if task == Task::Choose { Target::Choices(3) } else { Target::Grade };
    Head { task, target, width: 16, batch, dropout: 0.0, encoder: None }
}

#[test]
fn a_batch_pads_at_the_right_and_points_at_last_tokens() {
    let examples = [item(&[3], Some(Answer::Class(1))), item(&[1], None)];
    let batch = LabelledBatch::new(&head(Task::Classify, 3), &examples.iter().collect::<Vec<_>>(), 4);
    assert_eq!(batch.ids, [1, 2, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let none = IGNORED;
    assert_eq!(batch.targets, [2, 3, none, none, none, none, none, none, none, none, none, none]);
    assert_eq!(batch.positions, [vec![2, 4, none]]);
    assert_eq!((&batch.classes[..], &batch.weights[..]), (&[1, 0, 0][..], &[2.0, 0.0, 0.0][..]));
    // Two orders of two examples: one list for each order.
    let pairs = [item(&[3, 3], Some(Answer::Grade(0.5))), item(&[4, 4], Some(Answer::Grade(1.5)))];
    let batch = LabelledBatch::new(&head(Task::Similar, 2), &pairs.iter().collect::<Vec<_>>(), 4);
    assert_eq!(batch.positions, [vec![2, 11], vec![6, 15]]);
    assert_eq!(batch.grades, [0.5, 1.5]);
    let choices = [item(&[3, 2, 4], Some(Answer::Class(2)))];
    let batch = LabelledBatch::new(&head(Task::Choose, 1), &choices.iter().collect::<Vec<_>>(), 4);
    assert_eq!((batch.positions, batch.classes), (vec![vec![2, 5, 11]], vec![2]));
}

#[test]
fn buckets_are_few_and_waste_little() {
    let lengths = [5, 7, 8, 9, 30, 31, 60];
    let fit = |most| Buckets::fit(lengths.into_iter(), most, 62);
    assert_eq!(fit(1), Buckets(vec![62]));
    assert_eq!(fit(2), Buckets(vec![16, 62]), "4 x 16 + 3 x 62 = 250 tokens; with 8 they would be 272, with 32 254");
    assert_eq!(fit(3), Buckets(vec![8, 32, 62]));
    assert_eq!(fit(9), Buckets(vec![8, 16, 32, 62]), "no more than there are lengths");
    assert_eq!(Buckets::fit([].into_iter(), 3, 62), Buckets(vec![]));
    let buckets = fit(3);
    assert_eq!([1, 16, 17, 32, 33, 62].map(|length| buckets.of(length)), [0, 1, 1, 1, 2, 2]);
}

proptest! {
    #[test]
    fn every_example_comes_once_an_epoch_in_a_bucket_that_holds_it(
        buckets in prop::collection::vec(0usize..4, 1..80), batch in 1usize..9, seed: u64, number in 0u64..5,
    ) {
        let groups = epoch(&buckets, batch, seed, number);
        prop_assert_eq!(&groups, &epoch(&buckets, batch, seed, number), "the same every time");
        let mut seen: Vec<usize> = groups.iter().flat_map(|g| g.examples.clone()).collect();
        seen.sort_unstable();
        prop_assert!(seen.into_iter().eq(0..buckets.len()));
        prop_assert!(groups.iter().all(|g| g.examples.iter().all(|&i| buckets[i] <= g.bucket)));
        prop_assert!(groups.iter().filter(|g| g.examples.len() < batch).count() <= 1, "one group is not full at most");
        prop_assert!(groups.iter().all(|g| !g.examples.is_empty() && g.examples.len() <= batch));
    }
}

#[test]
fn epochs_differ_and_evaluation_keeps_the_order() {
    let buckets = [0, 1, 0, 1, 0, 0, 1, 0];
    let order: Vec<usize> = (0..8).collect();
    let groups = group(&buckets, &order, 3);
    let examples: Vec<_> = groups.iter().map(|g| g.examples.clone()).collect();
    assert_eq!(examples, [vec![0, 2, 4], vec![5, 7, 1], vec![3, 6]]);
    assert_eq!(groups.iter().map(|g| g.bucket).collect::<Vec<_>>(), [0, 1, 1]);
    assert_ne!(epoch(&buckets, 3, 1, 0), epoch(&buckets, 3, 1, 1));
    assert_ne!(epoch(&buckets, 3, 1, 0), epoch(&buckets, 3, 2, 0));
}
