//! `wgpt compare`: runs side by side, as tables in the terminal and as a page that needs nothing else.

use super::Global;
use super::console;
use super::page::page;
use serde_json::json;
use std::path::PathBuf;
use wgpt::error::Result;
use wgpt::fail;
use wgpt::files::write_bytes;
use wgpt::train::comparison::{Compared, differences};

#[derive(clap::Args)]
pub struct Compare {
    /// Folders of runs, or of models whose training/ is one
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page to write: curves, tables and samples, in one file
    #[arg(long, default_value = "report.html")]
    out: PathBuf,
    /// Replace --out where it is there
    #[arg(long)]
    overwrite: bool,
}

/// The page, with a place for the runs.
const PAGE: &str = include_str!("compare/report.html");

impl Compare {
    pub fn run(&self, global: &Global) -> Result<()> {
        let out = self.out.display();
        if self.out.exists() && !self.overwrite {
            fail!(Usage, "{out} is there already: replace it with --overwrite, or name another --out");
        }
        let runs = self.runs.iter().map(|folder| Compared::read(folder)).collect::<Result<Vec<_>>>()?;
        let different = differences(&runs);
        console::data(&tables(&runs, &different))?;
        let settings: Vec<_> = different.iter().map(|(name, values)| json!({"name": name, "values": values})).collect();
        let data = json!({"runs": runs, "settings": settings});
        write_bytes(&self.out, page(PAGE, &data).as_bytes())?;
        global.say(&format!("the page is {out}: open it in a browser"));
        Ok(())
    }
}

/// The final figures, and the settings that differ.
pub(super) fn tables(runs: &[Compared], different: &[(String, Vec<String>)]) -> String {
    let head = ["run", "steps", "loss", "best val_loss", "at step", "tokens/s", "minutes"].map(String::from).to_vec();
    let row = |run: &Compared| {
        let figures = &run.figures;
        let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}"));
        vec![
            run.name.clone(),
            figures.steps.to_string(),
            number(figures.loss),
            number(figures.best_val_loss.map(|(loss, _)| loss)),
            figures.best_val_loss.map_or("-".into(), |(_, step)| step.to_string()),
            format!("{:.0}", figures.tokens_per_second),
            format!("{:.1}", figures.seconds / 60.0),
        ]
    };
    let mut text = aligned(std::iter::once(head).chain(runs.iter().map(row)).collect());
    if !different.is_empty() {
        let head = std::iter::once("setting".to_string()).chain(runs.iter().map(|run| run.name.clone())).collect();
        let rows = different.iter().map(|(name, values)| [std::slice::from_ref(name), values].concat());
        text += "\n";
        text += &aligned(std::iter::once(head).chain(rows).collect());
    }
    text
}

/// Rows with columns of equal width: the first to the left, the others to the right.
pub(super) fn aligned(rows: Vec<Vec<String>>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}
