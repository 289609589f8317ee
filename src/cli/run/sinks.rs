//! Where the records of a run go, its console line among them, and the closing lines.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use wgpt::error::Result;
use wgpt::train::checkpoint::RunFolder;
use wgpt::train::record::Record;
use wgpt::train::run::{End, Run};
use wgpt::train::sinks::log::{self, Log};
use wgpt::train::sinks::plot::Curve;
use wgpt::train::sinks::samples::Samples;
use wgpt::train::sinks::tensorboard::{self, TensorBoard};
use wgpt::train::sinks::{Sink, console};

use super::super::{Global, console as cli_console};

/// Where a run's records go.
pub(super) fn sinks(
    global: &Global,
    folder: &RunFolder,
    (step, steps): (u64, u64),
    (title, floor): (String, Option<(f64, &'static str)>),
    with_tensorboard: bool,
) -> Result<Vec<Box<dyn Sink>>> {
    let log = Log::resume(&folder.log_path(), step)?;
    let curve = Curve { log: folder.log_path(), path: folder.plot_path(), title, floor };
    let console = Console { bar: progress_bar(global, steps, step), global: global.clone(), steps };
    let samples = Samples::resume(&folder.samples_path(), step)?;
    let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(log), Box::new(samples), Box::new(curve), Box::new(console)];
    if with_tensorboard || tensorboard::has_events(folder.path()) {
        sinks.push(Box::new(TensorBoard::begin(folder.path(), step)?));
    }
    Ok(sinks)
}

/// The closing lines: the loss beside the floor, the best model, and where things are.
pub(super) fn report(
    global: &Global,
    run: &Run,
    end: End,
    command: &str,
    out: &Path,
    floor: Option<(f64, &str)>,
    hint: &str,
) -> Result<()> {
    let records = log::read(&run.folder.log_path())?;
    if end == End::Early {
        global.say("stopped early: the validation has not become better");
    }
    if let Some(val) = records.iter().rev().find_map(|r| r.val_loss) {
        match floor {
            Some((floor, _)) => global.say(&format!(
                "validation loss {val:.3} nats per token; the corpus's entropy is {floor:.3}, which no model can beat"
            )),
            None => global.say(&format!("validation loss {val:.3}")),
        }
    }
    if let Some(scale) = records.last().and_then(|r| r.loss_scale) {
        let skipped = records.iter().filter(|r| r.skipped.is_some()).count();
        global.say(&format!("loss scale {scale} at the end; {skipped} of {} steps skipped", records.len()));
    }
    if let Some(best) = run.best_evaluation() {
        let place = best.epoch.map_or(format!("step {}", best.step), |epoch| format!("epoch {epoch}"));
        let folder = run.best_folder();
        global.say(&format!("the best model, of {place} with loss {:.4}, is in {}", best.loss, folder.display()));
    }
    if end == End::Interrupted {
        let (done, steps) = (run.trainer.steps_done(), run.trainer.settings().steps);
        let out = out.display();
        global.say(&format!("stopped after step {done} of {steps}; go on with: wgpt {command} --out {out} --resume"));
    }
    global.say(hint);
    Ok(())
}

/// Progress on standard error.
struct Console {
    global: Global,
    bar: ProgressBar,
    steps: u64,
}

impl Sink for Console {
    /// Shows the record of a validation, of a skipped step, and now and then another.
    fn record(&mut self, record: &Record) -> Result<()> {
        let line = console::line(record, self.steps);
        let shown = record.val_loss.is_some() || record.skipped.is_some() || record.step == 1;
        self.bar.set_position(record.step);
        self.bar.set_message(line.clone());
        if shown || record.step.is_multiple_of((self.steps / 20).max(1)) {
            self.note(&line);
        }
        Ok(())
    }

    fn note(&mut self, text: &str) {
        self.bar.suspend(|| self.global.say(text));
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn progress_bar(global: &Global, steps: u64, done: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24} {eta:>4} left  {msg}");
    ProgressBar::with_draw_target(Some(steps), cli_console::bars(global.quiet))
        .with_position(done)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
