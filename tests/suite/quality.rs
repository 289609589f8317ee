//! Quality of pretraining data: datatrove's decisions, duplicates, held-out texts, stand-ins, mixtures, and going on after an interrupt.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use wgpt::data::batches::Batches;
use wgpt::data::quality::counts::Counts;
use wgpt::data::quality::filter::{self, LineCounts};
use wgpt::data::quality::redact::Redact;
use wgpt::data::quality::stage::Stage;
use wgpt::data::quality::{Dedup, Document, Origin, Rules};
use wgpt::data::source::Source;
use wgpt::data::tokens::Tokens;
use wgpt::error::Result;

use crate::cli::{Place, error, has, stderr};

const FIXTURE: &str = include_str!("../fixtures/quality.json");

#[test]
fn filters_decide_as_datatrove_does() {
    let rows: Vec<Value> = serde_json::from_str(FIXTURE).unwrap();
    let names = ["gopher-quality", "gopher-repetition", "c4", "fineweb"];
    let filters = names.map(|name| (name, filter::parse(name).unwrap()));
    let redact = Redact::parse("emails,ips").unwrap();
    let mut reasons = BTreeSet::new();
    for (row, number) in rows.iter().zip(0..) {
        let text = row["text"].as_str().unwrap();
        for (name, filter) in &filters {
            let mut document = Document::new(text.to_string());
            let reason = filter.check(&mut document, &mut LineCounts::new());
            assert_eq!(reason, row["reasons"][name].as_str(), "document {number}, {name}");
            reasons.extend(reason);
            let left = if *name == "c4" { row["c4"].as_str().unwrap() } else { text };
            assert_eq!(document.text(), left, "document {number}, {name}");
        }
        let mut counts = BTreeMap::new();
        assert_eq!(
            redact.replace(text.to_string(), &mut counts),
            row["redacted"].as_str().unwrap(),
            "document {number}"
        );
    }
    assert_eq!(reasons.len(), 23);
}

#[test]
fn numbers_with_right_check_digits_are_replaced() {
    // A number of each kind, and the same with one digit changed.
    let text = "Pay DE89 3704 0044 0532 0130 00 or 4111 1111 1111 1111, not DE88 3704 0044 0532 0130 00 or 4111 1111 1111 1112.";
    let want = "Pay XX00 0000 0000 0000 0000 00 or 0000 0000 0000 0000, not DE88 3704 0044 0532 0130 00 or 4111 1111 1111 1112.";
    let mut counts = BTreeMap::new();
    assert_eq!(Redact::parse("pii").unwrap().replace(text.to_string(), &mut counts), want);
    assert_eq!(counts, BTreeMap::from([("cards".to_string(), 1), ("ibans".to_string(), 1)]));
}

/// A sentence of so many words, which depends on the seed.
fn sentence(seed: u64, words: usize) -> String {
    let word = |n: usize| {
        let mut hash = (seed << 20 | n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        hash = (hash ^ (hash >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
        ["b", "d", "f", "k", "m", "p", "s", "t"][hash as usize % 8].to_string()
            + ["ara", "olo", "emi", "inu"][(hash >> 3) as usize % 4]
            + ["", "n", "r", "st"][(hash >> 5) as usize % 4]
            + &"aeiou"[(hash >> 7) as usize % 5..][..1]
    };
    (0..words).map(word).collect::<Vec<_>>().join(" ") + "."
}

fn lines(texts: impl IntoIterator<Item = String>) -> String {
    texts.into_iter().map(|text| json!({ "text": text }).to_string() + "\n").collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(vec![], Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn rejected(path: &Path) -> Vec<Value> {
    let mut text = String::new();
    MultiGzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a pass leaves: texts, counts, rejected documents.
type Outcome = (Vec<String>, Counts, Vec<Value>);

/// Runs a pass with so many threads; interrupted after the first block where that is asked for.
fn pass(place: &Place, work: &str, threads: usize, resume: bool, interrupt: bool) -> Result<Outcome> {
    let open = |name: &str| Origin { name: name.into(), source: Source::open(&place.path(name)).unwrap(), share: None };
    let origins = [open("books.jsonl"), open("web.jsonl.gz")];
    let rules = Arc::new(Rules {
        filters: vec![
            filter::parse("gopher-quality:min-doc-words=5:min-stop-words=0:max-non-alpha-words-ratio=0.4").unwrap(),
        ],
        dedup: Dedup::parse("exact,paragraphs:min-words=30,minhash").unwrap(),
        redact: Some(Redact::parse("pii").unwrap()),
        ..Rules::default()
    });
    let work = place.path(work);
    let interrupted = Arc::new(AtomicBool::new(false));
    let stage = Stage {
        origins: &origins,
        rules,
        description: "",
        work: &work,
        resume,
        overwrite: false,
        interrupted: Arc::clone(&interrupted),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let kept = stage.run(&mut |_| interrupted.store(interrupt, Ordering::SeqCst))?;
        let source = kept.source("kept");
        let texts = source.pieces(1 << 20).map(|piece| piece.unwrap().text).collect();
        Ok((texts, kept.counts(), rejected(&kept.rejected())))
    })
}

#[test]
fn duplicates_are_found_and_a_pass_goes_on_where_it_was_interrupted() {
    let place = Place::new();
    // More documents than a block has.
    let mut books: Vec<String> = (0..4200).map(|n| sentence(n, 12)).collect();
    let long = sentence(9000, 150);
    let mut near = long.clone();
    near.replace_range(..4, "xxxx");
    let shared = sentence(9001, 40);
    books.extend([
        long.clone(),
        format!("{shared}\n{}", sentence(9002, 20)),
        "Write to jo@mail.org or 8.8.8.8 now, or call +49 30 1234567.".into(),
    ]);
    let web =
        [sentence(7, 12), near.clone(), "Short.".into(), format!("{shared}\n{}", sentence(9003, 20)), shared.clone()];
    place.write("books.jsonl", lines(books));
    place.write("web.jsonl.gz", gzip(lines(web).as_bytes()));
    let whole = pass(&place, "one", 1, false, false).unwrap();
    let (texts, counts, rejected) = &whole;
    assert_eq!(texts.len(), 4204);
    assert_eq!(texts[4202], "Write to email@example.com or 22.214.171.124 now, or call +1-202-555-0101.");
    assert_eq!(texts[4203], sentence(9003, 20), "a paragraph that was there before is out");
    let row = |place: &str, reason: &str| {
        rejected.iter().any(|row| row["place"].as_str().unwrap().starts_with(place) && row["reason"] == reason)
    };
    assert!(
        row("line 1 of", "exact_duplicate")
            && row("line 3 of", "gopher_short_doc")
            && row("line 5 of", "duplicate_paragraphs")
    );
    let duplicate = rejected.iter().find(|row| row["reason"] == "near_duplicate").unwrap();
    assert_eq!(duplicate["text"], near.as_str());
    has(duplicate["duplicate_of"].as_str().unwrap(), &["line 4201 of", "books"]);
    assert_eq!((rejected.len(), counts.documents(), counts.groups), (4, (4208, 4204), 1));

    let Err(stopped) = pass(&place, "two", 3, false, true) else { panic!("it was not interrupted") };
    has(&stopped.to_string(), &["interrupted", "--resume"]);
    let Err(refused) = pass(&place, "two", 3, false, false) else { panic!("it began anew") };
    has(&refused.to_string(), &["two", "--resume"]);
    assert!(pass(&place, "two", 3, true, false).unwrap() == whole, "resumed, with three threads");
}

#[test]
fn a_preparation_filters_mixes_and_reports() {
    let place = Place::new();
    let body = |n: u64| (0..6).map(|m| sentence(n * 10 + m, 14)).collect::<Vec<_>>().join("\n");
    place.write("all/books/a.txt", body(1));
    place.write("all/books/b.jsonl", lines((2..12).map(body)));
    let record = |kind: &str, text: &str| {
        format!("WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Length: {}\r\n\r\n{text}\r\n\r\n", text.len())
    };
    let pages = (20..40).map(|n| record("conversion", &body(n))).collect::<String>();
    let more = record("conversion", &format!("{}\nA forbidden word.", body(50))) + &record("conversion", &body(60));
    place.write("all/web/crawl.warc.wet.gz", gzip((record("warcinfo", "software: x") + &pages + &more).as_bytes()));
    place.write("words.txt", "Forbidden Word\n");
    place.write("groups.txt", "all: forbidden, word\nnone: nowhere\n");
    place.write("held/train.jsonl", json!({"question": sentence(9000, 14)}).to_string());
    // In a folder with training data, files for tests are held-out texts too.
    place.write("held/test.jsonl", json!({"question": sentence(601, 14), "answer": "short"}).to_string());
    let arguments = "data prepare --data all --mix books=0.6,web=0.4 --filter gopher-quality:min-stop-words=0,c4 --dedup exact,minhash \
                     --block words.txt --decontaminate held --mentions groups.txt --redact pii --tokenizer bytes --report report.html --out out";
    let output = place.wgpt(arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    has(
        &stderr(&output),
        &["of 33 documents stay", "dropped for contaminated: 1", "note: books: all 11", "report.html"],
    );
    let read = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    let counts: Counts = serde_json::from_str(&read("out/quality.json")).unwrap();
    let [books, web] = &counts.sources[..] else { panic!("two sources") };
    assert_eq!((books.kept.tally.documents, web.read.tally.documents), (11, 22));
    assert_eq!(web.dropped.keys().collect::<Vec<_>>(), ["contaminated", "document_removed_with_badwords"]);
    assert_eq!((web.read.mentions["all"], web.kept.mentions.get("all")), (2, None));
    let share = books.tokens as f64 / (books.tokens + web.tokens) as f64;
    assert!((share - 0.6).abs() < 0.03, "{share}");
    has(&read("report.html"), &["prefers-color-scheme: dark", "\"contaminated\"", "--mix", "width=device-width"]);
    let page = read("report.html");
    assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org/2000/svg").count(), "nothing is fetched");
    assert_eq!(rejected(&place.path("out/rejected.jsonl.gz")).len(), 2);
    assert!(!place.path("out.unfinished").exists());
    assert!(
        place.wgpt("train --data out --out run --preset demo --layers 1 --steps 1 --eval-every 0 -q").status.success()
    );
}

#[test]
fn bad_choices_are_one_line() {
    let place = Place::new();
    place.write("a.txt", sentence(1, 400));
    place.write("b.txt", sentence(2, 400));
    place.write("c.jsonl", "\n");
    place.write("d.jsonl.gz", &gzip(lines([sentence(3, 4000)]).as_bytes())[..900]);
    place.write("e.wet", "no record");
    place.write("empty.txt", " \n");
    place.write("twice.txt", "one: word, other\ntwo: Word\n");
    let cases: [(&str, i32, &[&str]); 20] = [
        ("--data a.txt --filter gopher", 2, &["--filter gopher", "gopher-quality"]),
        ("--data a.txt --filter language", 2, &["language=en"]),
        ("--data a.txt --filter language=klingon", 2, &["klingon"]),
        ("--data a.txt --filter c4:min-sentences=3", 2, &["min-sentences", "min-num-sentences"]),
        ("--data a.txt --filter c4:min-num-sentences=many", 2, &["many", "no number"]),
        ("--data a.txt --dedup fuzzy", 2, &["--dedup fuzzy", "minhash"]),
        ("--data a.txt --dedup minhash:num-buckets=0", 2, &["num-buckets=0"]),
        ("--data a.txt --dedup minhash:num-buckets=1000:hashes-per-bucket=1000", 2, &["num-buckets=1000", "100000"]),
        ("--data a.txt --redact names", 2, &["--redact names", "emails"]),
        ("--data a.txt --block empty.txt", 1, &["empty.txt", "no words"]),
        ("--data a.txt --mentions b.txt", 1, &["b.txt", "group"]),
        ("--data a.txt --mentions twice.txt", 1, &["line 2 of twice.txt", "word", "group one"]),
        ("--data a.txt --decontaminate none.txt", 1, &["none.txt"]),
        ("--data a.txt --data b.txt --mix a=x,b=1", 2, &["--mix a=x", "no share"]),
        ("--data a.txt --data b.txt --mix a=1", 2, &["no share for b"]),
        ("--data a.txt --data b.txt --mix a=0.05,b=0.95", 1, &["no document of a", "share"]),
        ("--data a.txt --data c.jsonl --dedup exact", 1, &["c.jsonl", "no documents"]),
        ("--data d.jsonl.gz --dedup exact", 1, &["d.jsonl.gz"]),
        ("--data e.wet --dedup exact", 1, &["e.wet", "record 1"]),
        ("--data a.txt --filter gopher-quality:min-doc-words=5000", 1, &["no document is left", "rejected.jsonl.gz"]),
    ];
    for (arguments, code, words) in cases {
        let output = place.wgpt(&format!("data prepare {arguments} --tokenizer bytes --out out -q --overwrite"));
        has(&error(&output, code), words);
        assert!(!place.path("out").exists(), "{arguments}");
    }
    has(&error(&place.wgpt("data prepare --data a.txt --tokenizer bytes --out new --resume"), 2), &["--resume"]);
    has(&error(&place.wgpt("train --data a.txt=0.5 --data b.txt --out run"), 2), &["b.txt", "no share"]);
    has(&error(&place.wgpt("train --data a.txt=0.5 --data b.txt=-1 --out run"), 2), &["-1"]);
}

#[test]
fn windows_of_a_mixture_come_once_in_an_epoch() {
    let (context, batch) = (4, 3);
    let part =
        |name: &str, range: std::ops::Range<u32>, share| (name.to_string(), Tokens::from_ids(range.collect()), share);
    let tokens = Arc::new(Tokens::mixed(vec![part("books", 0..2406, 3.0), part("web", 5000..5043, 1.0)]));
    let draw = |first: u64, count: u64| {
        let mut batches = Batches::new(Arc::clone(&tokens), batch, context, 7).unwrap();
        batches.seek(first);
        let (mut inputs, mut targets) = (vec![0; batch * context], vec![0; batch * context]);
        let mut starts = vec![];
        for _ in 0..count {
            batches.next(&mut inputs, &mut targets).unwrap();
            assert!(inputs.iter().zip(&targets).all(|(input, target)| input + 1 == *target));
            starts.extend(inputs.iter().step_by(context).copied());
        }
        (
            starts,
            batches
                .epochs(first + count)
                .into_iter()
                .map(|(name, epochs)| (name.to_string(), epochs))
                .collect::<Vec<_>>(),
        )
    };
    let (starts, epochs) = draw(0, 1000);
    let books: Vec<u32> = starts.iter().copied().filter(|start| *start < 5000).collect();
    assert_eq!(books.len(), 2250, "three quarters of each 1000 windows");
    assert_eq!(epochs, [("books".to_string(), 2250.0 / 601.0), ("web".to_string(), 75.0)]);
    // The first epoch is within the first round of 1000 windows, of which 750 are of this source.
    let within: BTreeSet<u32> = books[..750].iter().copied().collect();
    assert!(within.len() >= 601, "every window of the first epoch");
    let web: Vec<u32> = starts.iter().copied().filter(|start| *start >= 5000).collect();
    // Its windows are 10, and each comes once in each of 75 epochs.
    let mut counts = BTreeMap::new();
    web.iter().for_each(|start| *counts.entry((start - 5000) / 4).or_insert(0) += 1);
    assert_eq!((counts.len(), counts.values().all(|count| *count == 75)), (10, true), "{counts:?}");
    assert_eq!(draw(400, 20).0, starts[1200..1260], "a resumed run draws the same");
    assert_ne!(starts[..30], starts[1000..1030]);
}

#[test]
fn a_run_on_a_mixture_logs_epochs_and_resumes() {
    let place = Place::new();
    place.write("books/a.txt", sentence(1, 300));
    place.write("web.txt", sentence(2, 100));
    let run = "train --data books=0.75 --data web.txt=0.25 --out run --tokenizer char --layers 1 --heads 2 --width 16 --context 8 --batch 4 \
               --accumulate 1 --eval-every 2 --eval-batches 1 -q --steps";
    let output = place.wgpt(&format!("{run} 2"));
    assert!(output.status.success(), "{}", stderr(&output));
    let resumed = place.wgpt("train --out run --resume --steps 4 -q");
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    let log = std::fs::read_to_string(place.path("run/log.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let [books, web] = ["epochs_books", "epochs_web"].map(|name| last[name].as_f64().unwrap());
    assert!(books > 0.0 && web > 0.0 && last["step"] == 4, "{last}");
    has(&error(&place.wgpt("train --out run --resume --data web.txt --steps 5 -q"), 1), &["data"]);
}
