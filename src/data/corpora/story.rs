//! The built-in corpus: short English stories out of a probabilistic grammar, without end and with a known entropy.
//!
//! A story is four to six short sentences on one line, and its separator is the newline that ends it. Its child,
//! place, animal, thing, need and outcome stay the same from its first sentence to its last. The characters are the
//! letters, the period, the comma, the space and the newline.
//!
//! The corpus is a yardstick because its entropy is computed, not estimated. The grammar is unambiguous: each
//! sequence of draws writes a text that no other sequence writes, and no story begins with another (both checked by
//! [`Grammar::ambiguity`] over all draws, sentence by sentence). So the map from draws to text is one to one, H(text) =
//! H(draws), a stream of stories falls into stories in one way, and
//!
//! ```text
//! floor = H(story) / E[characters of a story]     nats per character
//! ```
//!
//! is the entropy rate of the stream (by the law of large numbers, n stories take n·H nats and n·E\[characters\]
//! characters): no model of characters has a smaller expected loss, and one with the context of a whole story can
//! reach it. With a shorter context a name is forgotten sooner than it is needed, and the least loss lies higher.
//! [`grammar`] tells how the entropy is summed.

pub mod cast;
pub mod grammar;
pub mod tales;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;

pub use self::grammar::Entropy;
#[cfg(doc)]
use self::grammar::Grammar;
pub use self::tales::TALES;

/// The bit that tells the seeds of held-out stories from those of training stories.
const HELD_OUT: u64 = 1 << 63;

/// The training text of a seed: its stories one after the other, until there are at least `size_bytes` characters.
///
/// Seed s owns the 2³² story seeds from s·2³² on. Of the seed the low 31 bits count, so that all of them lie below
/// 2⁶³, where no held-out story is.
pub fn training_text(seed: u64, size_bytes: usize) -> String {
    text((seed << 32) & !HELD_OUT, size_bytes)
}

/// The held-out text of a seed: as [`training_text`], with story seeds from 2⁶³ on, where no training story is.
pub fn validation_text(seed: u64, size_bytes: usize) -> String {
    text((seed << 32) | HELD_OUT, size_bytes)
}

/// One story, ending with its newline: the same for the same seed on every platform.
pub fn story(seed: u64) -> String {
    TALES.write(&mut Pcg64::seed_from_u64(seed))
}

/// The exact figures of the corpus.
pub fn entropy() -> Entropy {
    TALES.entropy()
}

/// Whether a sentence, from its capital letter to its period, is one that stories of the corpus have.
pub fn grammatical(sentence: &str) -> bool {
    TALES.grammatical(sentence)
}

fn text(first: u64, size_bytes: usize) -> String {
    let mut text = String::new();
    for seed in first.. {
        if text.len() >= size_bytes {
            break;
        }
        text.push_str(&story(seed));
    }
    text
}
