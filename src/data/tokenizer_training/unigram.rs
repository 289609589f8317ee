//! Unigram tokenizers (Kudo 2018, "Subword Regularization"), as T5 has them: `<pad> </s> <unk>`, further special tokens, the pieces from
//! the most likely on, then the sentinels of span corruption in falling order, so that `<extra_id_0>` is the last token.

use std::collections::BTreeSet;

use compact_str::CompactString;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer,
    models::unigram::{Unigram, UnigramTrainer},
    normalizers::NFKC,
    pre_tokenizers::{
        PreTokenizerWrapper,
        metaspace::{Metaspace, PrependScheme},
        sequence::Sequence,
        whitespace::WhitespaceSplit,
    },
    processors::template::TemplateProcessing,
};

use super::{Recipe, Table, add_special, failed, within_32_bits};
use crate::data::guard::caught;
use crate::data::span_corruption::sentinel;
use crate::data::tokenizer::{END_OF_SEQUENCE, T5_TOKENS};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;

/// The character that stands for a space before a word.
const SPACE: char = '\u{2581}';
/// Sentinels of a vocabulary, as T5's.
pub const SENTINELS: usize = 100;
/// Characters of a piece, at most.
const LONGEST_PIECE: usize = 16;

impl Recipe {
    /// `words` are counts of words without the space before them.
    pub(super) fn unigram(
        &self,
        words: Table,
        special: &[String],
        sentinels: usize,
        notes: &mut Vec<String>,
    ) -> Result<tokenizers::Tokenizer> {
        let marks: Vec<String> = (0..sentinels).map(sentinel).collect();
        if let Some(token) = special.iter().find(|token| marks.contains(token)) {
            fail!(Usage, "--special {token} is a sentinel, which a unigram tokenizer has anyway: leave it out");
        }
        let (words, _) = within_32_bits(normalised(words)?, notes);
        let mut words: Vec<(String, u32)> =
            words.into_iter().map(|(word, count)| (word.into(), count as u32)).collect();
        words.sort_unstable();
        words = with_candidates(words);
        let characters = words.iter().flat_map(|(word, _)| word.chars()).collect::<BTreeSet<_>>().len();
        let least = special.len() + sentinels + characters;
        let Some(size) = self.vocabulary_size.checked_sub(sentinels).filter(|_| self.vocabulary_size > least) else {
            let size = self.vocabulary_size;
            fail!(
                Usage,
                "--vocab {size} is too small: {sentinels} sentinels, {} special tokens and {characters} characters are {least}; give more",
                special.len()
            );
        };
        let pieces = trained(words, special, size)?;
        let fixed = special.iter().map(|token| (token.clone(), 0.0));
        let last = marks.iter().rev().map(|mark| (mark.clone(), 0.0));
        let all: Vec<(String, f64)> = fixed.chain(pieces).chain(last).collect();
        let unknown = special.iter().position(|token| token == T5_TOKENS[2].1);
        let mut tokenizer = tokenizers::Tokenizer::new(Unigram::from(all, unknown, false).map_err(failed)?);
        let spaces = || Metaspace::new(SPACE, PrependScheme::Always, true);
        let split: [PreTokenizerWrapper; 2] = [WhitespaceSplit.into(), spaces().into()];
        let end = special.iter().position(|token| token == END_OF_SEQUENCE).unwrap_or(1) as u32;
        let frame = TemplateProcessing::builder()
            .try_single(format!("$A {END_OF_SEQUENCE}"))
            .and_then(|builder| builder.try_pair(format!("$A {END_OF_SEQUENCE} $B {END_OF_SEQUENCE}")))
            .map_err(|cause| failed(cause.into()))?
            .special_tokens(vec![(END_OF_SEQUENCE, end)])
            .build()
            .map_err(|cause| failed(cause.into()))?;
        tokenizer
            .with_normalizer(Some(NFKC))
            .map_err(failed)?
            .with_pre_tokenizer(Some(Sequence::new(split.into())))
            .with_post_processor(Some(frame))
            .with_decoder(Some(spaces()));
        add_special(&mut tokenizer, &[special, &marks].concat())?;
        Ok(tokenizer)
    }
}

/// Words as the tokenizer sees them, with the space before them.
fn normalised(words: Table) -> Result<Table> {
    let mut all = Table::new();
    for (word, count) in words {
        let mut normalized = NormalizedString::from(word.as_str());
        NFKC.normalize(&mut normalized).map_err(failed)?;
        for part in normalized.get().split_whitespace().filter(|part| !part.contains('\0')) {
            let mut spaced = CompactString::default();
            spaced.push(SPACE);
            spaced.push_str(part);
            *all.entry(spaced).or_default() += count;
        }
    }
    Ok(all)
}

/// Makes each word a candidate for a piece. The crate takes for candidates what occurs with two different characters after it, and here a word
/// occurs once, however often it is in the text: whole words came out in pieces unless they began other words. So each occurs again
/// with a space after it, zero times, which changes no count.
fn with_candidates(words: Vec<(String, u32)>) -> Vec<(String, u32)> {
    let again = words.iter().map(|(word, _)| (format!("{word}{SPACE}"), 0)).collect::<Vec<_>>();
    words.into_iter().chain(again).collect()
}

/// The pieces with their log-probabilities, from the most likely on, so that they and the special tokens are `size`.
///
/// The crate shares its work out to the threads that there are and sums up what they give, and it gives out scores in the order of a
/// hash map. So it has one thread here, and the pieces are put in order.
fn trained(words: Vec<(String, u32)>, special: &[String], size: usize) -> Result<Vec<(String, f64)>> {
    let trainer = UnigramTrainer::builder()
        .show_progress(false)
        .vocab_size(size as u32)
        .max_piece_length(LONGEST_PIECE)
        .special_tokens(special.iter().map(|token| AddedToken::from(token.as_str(), true)).collect())
        .unk_token(Some(T5_TOKENS[2].1.into()))
        .build()
        .map_err(|cause| failed(cause.into()))?;
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|cause| failed(cause.into()))?;
    let mut model = Unigram::default();
    let done = alone.install(|| caught(|| trainer.do_train(words, &mut model).map_err(failed)));
    done.map_err(|cause| {
        Error::Input(format!(
            "the tokenizer cannot be trained ({}): give more text, or a smaller --vocab",
            one_line(&cause)
        ))
    })??;
    let mut pieces: Vec<(String, f64)> = model.iter().filter(|(token, _)| !special.contains(token)).cloned().collect();
    put_in_order(&mut pieces);
    Ok(pieces)
}

/// What the crate adds to the score of one more character that training has dropped, and how far sums of it may be off.
const NEXT_DROPPED: f64 = 1e-4;
const ROUNDING: f64 = 1e-9;

/// Puts pieces in the order of their scores, equal ones in that of their texts. Characters that training has dropped have the lowest
/// score of all, then one that is higher by [`NEXT_DROPPED`], and so on: they get these in the order of their codes.
fn put_in_order(pieces: &mut [(String, f64)]) {
    let least = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    let is_dropped = |(piece, score): &(String, f64)| {
        let steps = (score - least) / NEXT_DROPPED;
        piece.chars().count() == 1 && (steps - steps.round()).abs() * NEXT_DROPPED < ROUNDING
    };
    let mut dropped: Vec<usize> = (0..pieces.len()).filter(|&i| is_dropped(&pieces[i])).collect();
    let mut scores: Vec<f64> = dropped.iter().map(|&i| pieces[i].1).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    dropped.sort_by(|&a, &b| pieces[a].0.cmp(&pieces[b].0));
    dropped.into_iter().zip(scores).for_each(|(i, score)| pieces[i].1 = score);
    pieces.sort_by(|(a, score_a), (b, score_b)| score_b.total_cmp(score_a).then_with(|| a.cmp(b)));
}
