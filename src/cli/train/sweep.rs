//! `wgpt train --sweep`: runs that differ in some settings, one after another, each in a folder of its own, and a table of them.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::compare::{aligned, tables};
use super::super::{Global, console, interrupts};
use super::{Train, keys};
use serde::de::DeserializeOwned;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::models::choices::ModelChoices;
use wgpt::train::checkpoint::{CHECKPOINTS, LOG_FILE};
use wgpt::train::comparison::{Compared, differences};
use wgpt::train::run::RunState;
use wgpt::train::settings::{Choices, merged};

/// A sweep has no more runs than this.
const MOST_RUNS: usize = 1000;

/// A setting and its values: `lr=1e-3,3e-3`.
#[derive(Clone, Debug)]
pub(super) struct Swept {
    key: String,
    values: Vec<String>,
}

impl FromStr for Swept {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Swept, String> {
        let form = || "give a setting and its values, such as lr=1e-3,3e-3".to_string();
        let (key, values) = text.split_once('=').ok_or_else(form)?;
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_string()).collect();
        let key = key.trim().trim_start_matches("--").to_string();
        if key.is_empty() || values.iter().any(String::is_empty) {
            return Err(form());
        }
        if values.iter().enumerate().any(|(i, value)| values[..i].contains(value)) {
            return Err(format!("{key} has a value twice"));
        }
        Ok(Swept { key, values })
    }
}

/// Settings of one run.
type Setting = Vec<(String, String)>;

/// A run of the sweep.
struct Planned {
    name: String,
    /// Its name without the seed.
    setting: String,
    train: Train,
}

impl Train {
    /// Whether several runs are wanted.
    pub(super) fn is_sweep(&self) -> bool {
        !self.sweep.is_empty() || self.seeds.is_some()
    }

    /// All runs of a sweep, those that are done left out, and their table. Several ranks take runs in turn.
    pub(super) fn sweep(&self, all: &Global) -> Result<()> {
        let runs = self.planned_runs()?;
        let (count, ranks) = (runs.len(), &all.ranks);
        let global = &Global { ranks: Arc::new(ranks.apart()), ..all.clone() };
        for (number, run) in runs.iter().enumerate().skip(ranks.rank()).step_by(ranks.count()) {
            let Planned { name, train, .. } = run;
            if train.options.resume && train.is_done()? {
                continue;
            }
            global.say(&format!("run {} of {count}: {name}", number + 1));
            let began = train.out.join(CHECKPOINTS).is_dir();
            let outcome = match train.options.resume && began {
                true => Train { init: None, ..train.clone() }.resume(global),
                false => train.start(global),
            };
            match outcome {
                Err(Error::Training(why)) => global.say(&format!("warning: {name}: {why}")),
                other => other?,
            }
            if interrupts(global).load(Ordering::SeqCst) {
                global.say("the sweep is stopped: the same command with --resume goes on with it");
                break;
            }
        }
        ranks.meet();
        if ranks.is_first() { self.report(global, &runs) } else { Ok(()) }
    }

    /// The table of the runs, and, of several seeds, that of their means.
    fn report(&self, global: &Global, runs: &[Planned]) -> Result<()> {
        let logged: Vec<&Planned> = runs.iter().filter(|run| run.train.out.join(LOG_FILE).exists()).collect();
        let compared = logged.iter().map(|run| Compared::read(&run.train.out)).collect::<Result<Vec<_>>>()?;
        if compared.is_empty() {
            return Ok(());
        }
        console::data(&tables(&compared, &differences(&compared)))?;
        if self.seeds.is_some_and(|seeds| seeds > 1) {
            let head = ["setting", "seeds", "mean best val_loss", "lowest", "highest"].map(String::from).to_vec();
            let mut rows = vec![head];
            let mut settings: Vec<&str> = logged.iter().map(|run| run.setting.as_str()).collect();
            settings.dedup();
            for setting in settings {
                let of = logged.iter().zip(&compared).filter(|(run, _)| run.setting == setting);
                let best: Vec<f64> =
                    of.filter_map(|(_, run)| run.figures.best_val_loss.map(|(loss, _)| loss)).collect();
                let mean = best.iter().sum::<f64>() / best.len() as f64;
                let [least, most] = [f64::min, f64::max].map(|f| best.iter().copied().reduce(f).unwrap_or(f64::NAN));
                let figures = [mean, least, most].map(|figure| format!("{figure:.4}"));
                rows.push([vec![setting.to_string(), best.len().to_string()], figures.to_vec()].concat());
            }
            console::data(&format!("\n{}", aligned(rows)))?;
        }
        let out = self.out.display();
        global.say(&format!("curves: wgpt compare {out}/* --out report.html"));
        Ok(())
    }

    /// Whether the run in this folder has taken all its steps.
    fn is_done(&self) -> Result<bool> {
        let (_, choices) = self.given()?;
        let state = RunState::read(&self.out);
        Ok(state.is_ok_and(|state| state.step >= choices.steps.unwrap_or(state.settings.steps)))
    }

    /// Every combination of the swept values, each with every seed.
    fn planned_runs(&self) -> Result<Vec<Planned>> {
        let (_, choices) = self.given()?;
        let mut swept = self.sweep.clone();
        if let Some(count) = self.seeds {
            if !(1..=MOST_RUNS as u64).contains(&count) {
                fail!(Usage, "--seeds {count} is not possible: give 1 to {MOST_RUNS}");
            }
            let first = choices.seed.unwrap_or(1337);
            let values = (0..count).map(|i| first.wrapping_add(i).to_string()).collect();
            swept.push(Swept { key: "seed".into(), values });
        }
        let mut settings: Vec<Setting> = vec![vec![]];
        for (i, Swept { key, values }) in swept.iter().enumerate() {
            if swept[..i].iter().any(|other| other.key == *key) {
                fail!(
                    Usage,
                    "--sweep has {key} twice: give all of its values at once, and seeds with --seeds or --sweep"
                );
            }
            if settings.len().saturating_mul(values.len()) > MOST_RUNS {
                fail!(Usage, "--sweep makes more than {MOST_RUNS} runs: give fewer values");
            }
            let longer = |setting: &Setting| {
                values.iter().map(|v| [setting.clone(), vec![(key.clone(), v.clone())]].concat()).collect::<Vec<_>>()
            };
            settings = settings.iter().flat_map(longer).collect();
        }
        settings.into_iter().map(|setting| self.with(setting)).collect()
    }

    /// The run of one setting.
    fn with(&self, setting: Setting) -> Result<Planned> {
        let (mut model, mut choices) = (ModelChoices::default(), Choices::default());
        for (key, value) in &setting {
            if keys(&model).contains_key(key) {
                model = merged(&parsed::<ModelChoices>(key, value)?, &model);
            } else if keys(&choices).contains_key(key) {
                choices = merged(&parsed::<Choices>(key, value)?, &choices);
            } else {
                fail!(Usage, "--sweep {key}: there is no such setting; settings are the keys of --config");
            }
        }
        // A value may not be part of a path.
        let text = |setting: &[(String, String)]| {
            let parts = setting.iter().map(|(key, value)| format!("{key}={}", value.replace(['/', '\\'], "_")));
            parts.collect::<Vec<_>>().join(",")
        };
        let (name, without_seed) =
            (text(&setting), text(&setting[..setting.len() - usize::from(self.seeds.is_some())]));
        let (model, choices) = (merged(&model, &self.model), merged(&choices, &self.choices));
        let setting = if without_seed.is_empty() { "all".to_string() } else { without_seed };
        let out: PathBuf = self.out.join(Path::new(&name));
        let train = Train { out, model, choices, sweep: vec![], seeds: None, ..self.clone() };
        Ok(Planned { name, setting, train })
    }
}

/// One choice from its text: as TOML where that fits, or else as a text.
fn parsed<T: DeserializeOwned>(key: &str, value: &str) -> Result<T> {
    let plain = toml::from_str(&format!("{key} = {value}"));
    let text = || toml::from_str(&format!("{key} = {}", toml::Value::String(value.into())));
    plain.or_else(|_| text()).map_err(|_| {
        Error::Usage(format!("--sweep {key}: `{value}` is no value of this setting: give one that --{key} takes"))
    })
}
