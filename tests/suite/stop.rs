//! Stop texts and characters across the borders of tokens: however a text is cut into tokens, the same comes out.

use proptest::prelude::*;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::generate::Token;
use wgpt::generate::stop::{Continuation, Finish, StopTexts, first_stop};

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// What is shown of a text that comes in pieces, whether it was stopped, and the pieces as they are shown.
fn shown(stops: &[String], pieces: &[String]) -> (String, bool, Vec<String>) {
    let mut texts = StopTexts::new(stops);
    let mut parts = vec![];
    for piece in pieces {
        let (part, stopped) = texts.push(piece);
        parts.push(part);
        if stopped {
            return (parts.concat(), true, parts);
        }
    }
    parts.push(texts.finish());
    (parts.concat(), false, parts)
}

#[test]
fn a_stop_text_is_found_across_pieces() {
    let (text, stopped, parts) = shown(&strings(&["END"]), &strings(&["one E", "two E", "N", "D three"]));
    assert_eq!((text.as_str(), stopped), ("one Etwo ", true));
    assert_eq!(parts, ["one ", "Etwo ", "", ""], "only what may be a start is held back");
    let (text, stopped, _) = shown(&strings(&["END"]), &strings(&["one E", "N"]));
    assert_eq!((text.as_str(), stopped), ("one EN", false), "what was held back comes when nothing follows");
}

#[test]
fn the_first_complete_stop_text_counts_and_then_the_longest() {
    for (stops, text, want) in [
        (&["abcd", "bc"][..], "xabcdx", Some("xa")),
        (&["bc", "abc"], "xabcx", Some("x")),
        (&["\n\n", "User:"], "Hi\nUser: hello\n\n", Some("Hi\n")),
        (&["aab"], "aaab", Some("a")),
        (&["é"], "caf\u{e9}!", Some("caf")),
        (&["zz"], "z", None),
        (&[], "anything", None),
    ] {
        let stops = strings(stops);
        let pieces: Vec<String> = text.chars().map(String::from).collect();
        for pieces in [pieces, vec![text.to_string()]] {
            let (got, stopped, _) = shown(&stops, &pieces);
            assert_eq!((got.as_str(), stopped), (want.unwrap_or(text), want.is_some()), "{stops:?} in {pieces:?}");
        }
    }
    let (text, stopped, parts) = shown(&strings(&[""]), &strings(&["a", "b"]));
    assert_eq!((text.as_str(), stopped, parts.len()), ("ab", false, 3), "an empty stop text stops nothing");
}

/// What should come out, looking at the whole text: it ends where the shortest prefix with a stop text has it.
fn expected<'a>(text: &'a str, stops: &[String]) -> (&'a str, bool) {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let start = ends.filter_map(|end| first_stop(&text[..end], stops)).next();
    (&text[..start.unwrap_or(text.len())], start.is_some())
}

/// A byte-level tokenizer that has each of the pieces as a token beside the 256 bytes, and the pieces' ids.
fn tokenizer(pieces: &[Vec<u8>]) -> (Tokenizer, Vec<u32>) {
    let mut file: serde_json::Value = serde_json::from_slice(Tokenizer::bytes().unwrap().json()).unwrap();
    let vocabulary = file["model"]["vocab"].as_object_mut().unwrap();
    let mut letters = vec![String::new(); 256];
    vocabulary.iter().for_each(|(token, id)| letters[id.as_u64().unwrap() as usize].clone_from(token));
    let mut ids = vec![];
    for piece in pieces {
        let token: String = piece.iter().map(|byte| letters[usize::from(*byte)].as_str()).collect();
        let next = vocabulary.len();
        ids.push(vocabulary.entry(token).or_insert(next.into()).as_u64().unwrap() as u32);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    (Tokenizer::load(&path).unwrap(), ids)
}

/// Cuts bytes at the given places.
fn cut(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
    places.sort_unstable();
    places.dedup();
    places.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

proptest! {
    // An alphabet of few letters makes stop texts overlap with themselves and each other.
    #[test]
    fn any_pieces_give_the_same(
        text in "[abé€]{0,30}",
        stops in prop::collection::vec("[abé€]{1,4}", 0..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
        places.retain(|place| text.is_char_boundary(*place));
        places.sort_unstable();
        let pieces: Vec<String> = places.windows(2).map(|pair| text[pair[0]..pair[1]].to_string()).collect();
        let (got, stopped, parts) = shown(&stops, &pieces);
        prop_assert_eq!((got.as_str(), stopped), expected(&text, &stops));
        // As little as possible is held back: every part but the last reaches to where a stop text may have started.
        if !stopped {
            let (mut come, mut out) = (String::new(), String::new());
            for (piece, part) in pieces.iter().zip(&parts) {
                come.push_str(piece);
                out.push_str(part);
                let held = &come[out.len()..];
                prop_assert!(held.is_empty() || stops.iter().any(|stop| stop.starts_with(held)));
            }
        }
    }

    // Tokens end anywhere, also inside of characters.
    #[test]
    fn any_tokens_give_the_same(
        text in "[abé€😀]{0,60}",
        stops in prop::collection::vec("[abé€😀]{1,4}", 0..3),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
    ) {
        let pieces = cut(text.as_bytes(), &cuts);
        let (tokenizer, ids) = tokenizer(&pieces);
        let mut continuation = Continuation::new(&tokenizer, usize::MAX, &[], &stops);
        let mut last = String::new();
        for id in ids {
            continuation.push(Token { id, log_probability: 0.0 }).unwrap();
            prop_assert!(continuation.text().starts_with(&last), "it only grows");
            last = continuation.text().to_string();
            prop_assert!(!last.contains(char::REPLACEMENT_CHARACTER), "no broken character");
        }
        continuation.close(Finish::Length).unwrap();
        let (want, stopped) = expected(&text, &stops);
        prop_assert_eq!(continuation.text(), want);
        prop_assert_eq!(continuation.finish(), Some(if stopped { Finish::Stop } else { Finish::Length }));
    }

    // Whatever bytes a model draws, what is streamed is what the whole decodes to.
    #[test]
    fn streamed_text_of_any_bytes_equals_their_decoding(ids in prop::collection::vec(prop_oneof![0x61u32..0x63, 0x80u32..0x100], 0..90)) {
        let tokenizer = Tokenizer::bytes().unwrap();
        let mut continuation = Continuation::new(&tokenizer, usize::MAX, &[], &[]);
        ids.iter().for_each(|id| continuation.push(Token { id: *id, log_probability: 0.0 }).unwrap());
        continuation.close(Finish::Length).unwrap();
        prop_assert_eq!(continuation.text(), tokenizer.decode(&ids).unwrap());
        prop_assert_eq!(continuation.ids(), &ids);
    }
}

#[test]
fn a_text_ends_for_one_reason() {
    let tokenizer = Tokenizer::bytes().unwrap();
    let run = |ids: &[u32], most: usize, stops: &[&str]| {
        let mut continuation = Continuation::new(&tokenizer, most, &[0, 7], &strings(stops));
        for id in ids {
            continuation.push(Token { id: *id, log_probability: -(*id as f32) }).unwrap();
        }
        let values: Vec<f32> = continuation.ids().iter().map(|id| -(*id as f32)).collect();
        assert_eq!(continuation.log_probabilities(), values, "one for each token");
        (continuation.text().to_string(), continuation.ids().len(), continuation.finish())
    };
    let ids: Vec<u32> = "some text".bytes().map(u32::from).collect();
    let ended: Vec<u32> = ids.iter().copied().chain([7, 65, 66]).collect();
    assert_eq!(run(&ids, 20, &[]), ("some text".into(), 9, None), "it may go on");
    assert_eq!(run(&ids, 4, &[]), ("some".into(), 4, Some(Finish::Length)));
    assert_eq!(
        run(&ended, 20, &[]),
        ("some text".into(), 10, Some(Finish::End)),
        "nothing after the stop token counts"
    );
    assert_eq!(run(&ended, 20, &["e t"]), ("som".into(), 6, Some(Finish::Stop)));
    assert_eq!(run(&ended, 6, &["e t"]), ("som".into(), 6, Some(Finish::Stop)), "complete with the last token");
    assert_eq!(run(&ended, 20, &["xt", "text!"]), ("some te".into(), 9, Some(Finish::Stop)));
    assert_eq!(run(&ended, 20, &["text!"]), ("some text".into(), 10, Some(Finish::End)), "what was held back is shown");
    // The first byte of a character that never comes is shown as such.
    assert_eq!(run(&[65, 0xC3], 2, &[]), ("A\u{FFFD}".into(), 2, Some(Finish::Length)));
    assert_eq!(run(&[65, 0xC3, 7], 9, &["\u{FFFD}"]), ("A".into(), 3, Some(Finish::Stop)));
}
