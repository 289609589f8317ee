//! The choices of `wgpt data prepare` about the quality of text, and what is told of their effect.

use super::super::Global;
use super::super::page::page;
use super::super::shares::{check_names, share, source_name};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use wgpt::data::prepare::{Prepared, QUALITY_FILE};
use wgpt::data::quality::decontaminate::{self, Decontaminate};
use wgpt::data::quality::filter;
use wgpt::data::quality::redact::Redact;
use wgpt::data::quality::stage::{REJECTED, Stage};
use wgpt::data::quality::word_list::{Block, Mentions};
use wgpt::data::quality::{Dedup, Kept, Origin, Rules, counts::Counts};
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::files::{sha256_hex, write_bytes};

/// The page of the report, with places for what pages share and for the counts.
const PAGE: &str = include_str!("report.html");
/// Reasons that are told at the end.
const MOST_TOLD: usize = 8;

#[derive(clap::Args)]
#[command(next_help_heading = "Quality")]
pub struct QualityChoices {
    /// Rules for documents, in this order: language=en (or en+de), gopher-repetition, gopher-quality, c4, fineweb; each with thresholds
    /// under datatrove's names, as in c4:min-num-sentences=3:filter-no-terminal-punct=false
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    filter: Vec<String>,
    /// Duplicates to take out: exact (documents), paragraphs (lines of 10 words or more), minhash (near-duplicates)
    #[arg(long, value_name = "LIST")]
    dedup: Option<String>,
    /// Drop documents that share 13 words in a row with the texts of a file or folder, such as evaluation data
    #[arg(long, value_name = "FILE")]
    decontaminate: Vec<PathBuf>,
    /// The number of words in a row
    #[arg(long, value_name = "N", default_value_t = decontaminate::WORDS, requires = "decontaminate")]
    decontaminate_words: usize,
    /// Drop documents with any of a file's words or phrases, one on each line
    #[arg(long, value_name = "FILE")]
    block: Option<PathBuf>,
    /// Replace personal information by stand-ins: pii (all), or emails, ips, phones, cards, ibans
    #[arg(long, value_name = "LIST")]
    redact: Option<String>,
    /// Shares of the text by source, without repetition: the names are those of several --data, or of the folders and files in one
    #[arg(long, value_name = "NAME=SHARE", value_delimiter = ',')]
    mix: Vec<String>,
    /// Count mentions of words by group before and after, in the report; lines such as "group: word, word"
    #[arg(long, value_name = "FILE")]
    mentions: Option<PathBuf>,
    /// Write a page about what was dropped and why
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Go on with an unfinished preparation of --out
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
}

impl QualityChoices {
    /// Whether any is made.
    pub fn are_given(&self) -> bool {
        !self.filter.is_empty()
            || self.dedup.is_some()
            || !self.decontaminate.is_empty()
            || self.block.is_some()
            || self.redact.is_some()
            || !self.mix.is_empty()
            || self.mentions.is_some()
            || self.report.is_some()
            || self.resume
    }

    /// The names of sources and their shares.
    pub fn shares(&self) -> Result<Vec<(String, f64)>> {
        self.mix.iter().map(|text| share("--mix", text)).collect()
    }

    /// Where what is done is kept until the shards are written.
    pub fn work(&self, out: &Path) -> PathBuf {
        let mut name = out.components().as_path().as_os_str().to_os_string();
        name.push(".unfinished");
        name.into()
    }

    /// What tells these choices from others: their text, and that of the files they name.
    pub fn description(&self, column: Option<&str>) -> Result<String> {
        let held_out = decontaminate::files(&self.decontaminate)?;
        let files = self.block.iter().chain(&self.mentions).chain(&held_out);
        let hash = |path: &PathBuf| fs::read(path).map(|bytes| sha256_hex(&bytes)).map_err(Error::io("read", path));
        let hashes = files.map(hash).collect::<Result<Vec<_>>>()?;
        let languages = self.report.is_some();
        Ok(format!(
            "1 {:?} {:?} {:?} {:?} {:?} {} {:?} {languages}",
            self.filter, self.dedup, self.redact, self.mix, hashes, self.decontaminate_words, column
        ))
    }

    /// The pass over the documents.
    pub fn stage<'a>(
        &self,
        global: &Global,
        origins: &'a [Origin],
        work: &'a Path,
        (description, overwrite): (&'a str, bool),
        interrupted: &Arc<AtomicBool>,
    ) -> Result<Stage<'a>> {
        if let Some(report) = self.report.as_ref().filter(|report| report.is_dir()) {
            fail!(Usage, "--report {} is a folder; give the name of a file", report.display());
        }
        let rules = Arc::new(self.rules(global)?);
        let stage = Stage {
            origins,
            rules,
            description,
            work,
            resume: self.resume,
            overwrite,
            interrupted: Arc::clone(interrupted),
        };
        stage.check()?;
        Ok(stage)
    }

    fn rules(&self, global: &Global) -> Result<Rules> {
        let mut rules = Rules { languages: self.report.is_some(), ..Rules::default() };
        if let Some(path) = &self.block {
            rules.filters.push(Box::new(Block::read(path)?));
        }
        for text in &self.filter {
            rules.filters.push(filter::parse(text)?);
        }
        if !self.decontaminate.is_empty() {
            if self.decontaminate_words == 0 {
                fail!(Usage, "--decontaminate-words 0 finds everything; give 1 or more");
            }
            let held_out = Decontaminate::read(&self.decontaminate, self.decontaminate_words)?;
            if held_out.short > 0 {
                let (short, all, words) = (held_out.short, held_out.texts, self.decontaminate_words);
                global.say(&format!("note: {short} of {all} texts of --decontaminate have fewer than {words} words and are not looked for"));
            }
            rules.filters.push(Box::new(held_out));
        }
        rules.dedup = self.dedup.as_deref().map(Dedup::parse).transpose()?.unwrap_or_default();
        rules.redact = self.redact.as_deref().map(Redact::parse).transpose()?;
        rules.mentions = self.mentions.as_deref().map(Mentions::read).transpose()?;
        Ok(rules)
    }

    /// Writes counts and rejected documents beside the shards, and the report; tells what was dropped.
    pub fn write(&self, global: &Global, kept: &Kept, folder: &Path, prepared: &Prepared) -> Result<()> {
        let mut counts = kept.counts();
        counts.sources.iter_mut().zip(&prepared.tokens).for_each(|(source, tokens)| source.tokens = *tokens);
        let path = folder.join(REJECTED);
        fs::copy(kept.rejected(), &path).map_err(Error::io("write", &path))?;
        let json = serde_json::to_string_pretty(&counts).expect("counts and names always serialise");
        write_bytes(&folder.join(QUALITY_FILE), format!("{json}\n").as_bytes())?;
        tell(global, &counts);
        if let Some(report) = &self.report {
            let notes: Vec<String> = counts.sources.iter().flat_map(|source| source.notes()).collect();
            let data = json!({
                "counts": counts, "notes": notes, "reasons": counts.reasons(), "choices": self.told(),
            });
            write_bytes(report, page(PAGE, &data).as_bytes())?;
            global.say(&format!("the report is {}: open it in a browser", report.display()));
        }
        Ok(())
    }

    /// The choices as flags, for the report.
    fn told(&self) -> Vec<(String, String)> {
        let paths =
            |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
        let block: Vec<PathBuf> = self.block.iter().cloned().collect();
        let all = [
            ("--block", paths(&block)),
            ("--filter", self.filter.join(",")),
            ("--decontaminate", paths(&self.decontaminate)),
            ("--dedup", self.dedup.clone().unwrap_or_default()),
            ("--redact", self.redact.clone().unwrap_or_default()),
            ("--mix", self.mix.join(",")),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).map(|(flag, value)| (flag.to_string(), value)).collect()
    }
}

/// Tells how many documents stay, why others do not, and what is to be noted of each source.
fn tell(global: &Global, counts: &Counts) {
    let (read, kept) = counts.documents();
    global.say(&format!("{kept} of {read} documents stay"));
    let reasons = counts.reasons();
    for (reason, tally) in reasons.iter().take(MOST_TOLD) {
        global.say(&format!("dropped for {reason}: {} documents, {} bytes", tally.documents, tally.bytes));
    }
    if reasons.len() > MOST_TOLD {
        global.say(&format!("dropped for {} more reasons: see {QUALITY_FILE} in --out", reasons.len() - MOST_TOLD));
    }
    counts.sources.iter().flat_map(|source| source.notes()).for_each(|note| global.say(&format!("note: {note}")));
}

/// Names, paths and shares of the sources: of each `--data`, or of what `--mix` names in the one folder that is given.
pub fn named(data: &[PathBuf], shares: &[(String, f64)]) -> Result<Vec<(String, PathBuf, Option<f64>)>> {
    let mut all: Vec<(String, PathBuf)> = data.iter().map(|path| (source_name(path), path.clone())).collect();
    if let ([folder], false) = (data, shares.is_empty())
        && folder.is_dir()
    {
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let mut inside: Vec<_> =
            entries.map_err(Error::io("read the folder", folder))?.iter().map(fs::DirEntry::path).collect();
        inside.sort();
        all = inside.into_iter().map(|path| (source_name(&path), path)).filter(|(name, _)| !name.is_empty()).collect();
        all.retain(|(name, _)| shares.iter().any(|(own, _)| own == name));
    }
    check_names(all.iter().map(|(name, _)| name.as_str()))?;
    if let Some((name, _)) = shares.iter().find(|(name, _)| !all.iter().any(|(own, _)| own == name)) {
        let has = data.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
        fail!(Usage, "--mix {name}: there is no source of this name in {has}");
    }
    let share = |name: &str| shares.iter().find(|(own, _)| own == name).map(|(_, share)| *share);
    if let Some((name, _)) = all.iter().find(|(name, _)| !shares.is_empty() && share(name).is_none()) {
        fail!(Usage, "--mix has no share for {name}: give it one, or leave the source out");
    }
    Ok(all.into_iter().map(|(name, path)| (name.clone(), path, share(&name))).collect())
}
