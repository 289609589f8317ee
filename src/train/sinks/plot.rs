//! `loss.svg`: the loss over the steps of a run.

use std::io::Write;
use std::path::{Path, PathBuf};

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::Result;
use crate::files::write_atomic;
use crate::train::checkpoint::{REWARD_PLOT_FILE, RunFolder};
use crate::train::record::Record;
use crate::train::sinks::frontier;
use crate::train::sinks::{Sink, log};

/// The curves of a plot. Values that are not finite are left out; without any points the axes are drawn alone.
#[derive(Debug, Clone, Copy)]
pub struct Plot<'a> {
    pub title: &'a str,
    pub records: &'a [Record],
    /// A loss, in nats per token, that no model can beat or that is the one to beat, and its name.
    pub floor: Option<(f64, &'a str)>,
}

/// Width and height in pixels.
const SIZE: (u32, u32) = (900, 520);
/// Coordinates per pixel: the drawing library rounds to whole ones, and whole pixels would make slow curves look
/// like stairs.
const DETAIL: u32 = 8;
/// More points than this along the horizontal axis cannot be told apart.
const MOST_POINTS: usize = 900;
/// The axis reaches at least this step, so that the first ones do not stretch over the whole width.
const SHORTEST: f64 = 10.0;
const FONT: &str = "Helvetica, Arial, 'DejaVu Sans', sans-serif";
pub(super) const INK: RGBColor = RGBColor(45, 52, 64);
const FAINT: RGBColor = RGBColor(226, 230, 236);
pub(super) const TRAIN_LIGHT: RGBColor = RGBColor(158, 190, 230);
pub(super) const TRAIN: RGBColor = RGBColor(38, 98, 178);
const VALIDATION: RGBColor = RGBColor(214, 94, 26);
const FLOOR: RGBColor = RGBColor(110, 118, 130);

/// Draws the curve of a run's log whenever a checkpoint is saved.
pub struct Curve {
    pub log: PathBuf,
    pub path: PathBuf,
    pub title: String,
    pub floor: Option<(f64, &'static str)>,
}

impl Sink for Curve {
    fn record(&mut self, _record: &Record) -> Result<()> {
        Ok(())
    }

    fn moved(&mut self, folder: &RunFolder) {
        (self.log, self.path) = (folder.log_path(), folder.plot_path());
    }

    fn saved(&mut self) -> Result<()> {
        let records = log::read(&self.log)?;
        frontier::write(&self.path.with_file_name(REWARD_PLOT_FILE), &self.title, &records)?;
        write(&self.path, &Plot { title: &self.title, records: &records, floor: self.floor })
    }
}

/// Draws the plot and replaces `path` by it in one step.
pub fn write(path: &Path, plot: &Plot) -> Result<()> {
    let svg = render(plot);
    write_atomic(path, |writer| writer.write_all(svg.as_bytes()))
}

/// The plot as SVG text.
pub fn render(plot: &Plot) -> String {
    svg(|root| draw(plot, root))
}

/// What `draw` draws into an area, as SVG text.
pub(super) fn svg(draw: impl FnOnce(Area) -> DrawResult) -> String {
    let (width, height) = SIZE;
    let fine = (width * DETAIL, height * DETAIL);
    let mut svg = String::new();
    draw(SVGBackend::with_string(&mut svg, fine).into_drawing_area()).expect("drawing into memory cannot fail");
    let drawn_size = format!("<svg width=\"{}\" height=\"{}\"", fine.0, fine.1);
    svg.replacen(&drawn_size, &format!("<svg width=\"{width}\" height=\"{height}\""), 1)
}

/// A step and a loss.
pub(super) type Point = (f64, f64);
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
pub(super) type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
pub(super) type DrawResult = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(plot: &Plot, root: Area) -> DrawResult {
    let train = thinned(&points(plot.records, |record| Some(record.loss)));
    let validation = points(plot.records, |record| record.val_loss);
    let floor = plot.floor.filter(|(loss, _)| loss.is_finite());
    let losses = loss_range(&train, &validation, floor.map(|(loss, _)| loss));
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(plot.title, font(22).color(&INK))
        .margin(px(16))
        .margin_right(px(28))
        .x_label_area_size(px(48))
        .y_label_area_size(px(64))
        .build_cartesian_2d(step_range(&train, &validation), losses)?;
    let losses = chart.y_range();
    let decimals = if losses.end - losses.start < 1.0 { 2 } else { 1 };
    draw_axes(&mut chart, ("step", 0), ("loss (nats per token)", decimals))?;
    chart.draw_series(line(&chart, &train, TRAIN_LIGHT, 1))?;
    if let Some((loss, name)) = floor {
        draw_floor(&mut chart, loss, name)?;
    }
    let smooth = line(&chart, &smoothed(&train), TRAIN, 3);
    chart.draw_series(smooth)?.label("train").legend(|at| swatch(at, TRAIN));
    if let [alone] = train[..] {
        chart.draw_series([Circle::new(alone, px(4), TRAIN.filled())])?;
    }
    if !validation.is_empty() {
        let joined = line(&chart, &validation, VALIDATION, 2);
        chart.draw_series(joined)?.label("validation").legend(|at| swatch(at, VALIDATION));
        let dots = inside(&chart, &validation).into_iter().map(|at| Circle::new(at, px(4), VALIDATION.filled()));
        chart.draw_series(dots)?;
    }
    draw_legend(&mut chart)?;
    root.present()?;
    Ok(())
}

/// Axes with the names of their numbers, and the decimals of these.
pub(super) fn draw_axes(chart: &mut Chart, x: (&str, usize), y: (&str, usize)) -> DrawResult {
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT.stroke_width(px(1)))
        .axis_style(INK.mix(0.6).stroke_width(px(1)))
        .set_all_tick_mark_size(px(5))
        .x_desc(x.0)
        .y_desc(y.0)
        .x_label_formatter(&|value| format!("{value:.*}", x.1))
        .y_label_formatter(&|value| format!("{value:.*}", y.1))
        .label_style(font(14).color(&INK))
        .axis_desc_style(font(16).color(&INK))
        .draw()?;
    Ok(())
}

fn draw_floor(chart: &mut Chart, loss: f64, name: &str) -> DrawResult {
    let (steps, losses) = (chart.x_range(), chart.y_range());
    let ends = [(steps.start, loss), (steps.end, loss)];
    chart.draw_series(DashedLineSeries::new(ends, px(7), px(5), FLOOR.stroke_width(px(2))))?;
    // At the left, where a loss curve is far above, and a little off the axis and the line.
    let at = (steps.start + 0.012 * (steps.end - steps.start), loss + 0.012 * (losses.end - losses.start));
    let style = font(14).color(&FLOOR).pos(Pos::new(HPos::Left, VPos::Bottom));
    chart.draw_series([Text::new(format!("{name} {loss:.2}"), at, style)])?;
    Ok(())
}

fn draw_legend<'b: 'a, 'a>(chart: &mut Chart<'a, 'b>) -> DrawResult {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(px(12))
        .legend_area_size(px(30))
        .background_style(WHITE.mix(0.9))
        .border_style(FAINT.stroke_width(px(1)))
        .label_font(font(15).color(&INK))
        .draw()?;
    Ok(())
}

fn swatch((x, y): (i32, i32), color: RGBColor) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + px(20) as i32, y)], color.stroke_width(px(3)))
}

fn line(chart: &Chart, points: &[Point], color: RGBColor, width: u32) -> LineSeries<SVGBackend<'static>, Point> {
    LineSeries::new(inside(chart, points), color.stroke_width(px(width)))
}

/// The points with losses beyond the axis moved to its ends; the library would draw them outside.
fn inside(chart: &Chart, points: &[Point]) -> Vec<Point> {
    let losses = chart.y_range();
    points.iter().map(|&(step, loss)| (step, loss.clamp(losses.start, losses.end))).collect()
}

/// Pixels in the drawing's own coordinates.
pub(super) fn px(pixels: u32) -> u32 {
    pixels * DETAIL
}

pub(super) fn font(pixels: u32) -> TextStyle<'static> {
    (FONT, px(pixels)).into_font().into()
}

/// (step, loss) of the records that have a finite one.
fn points(records: &[Record], loss: impl Fn(&Record) -> Option<f32>) -> Vec<Point> {
    let all = records.iter().filter_map(|record| Some((record.step as f64, f64::from(loss(record)?))));
    all.filter(|(_, loss)| loss.is_finite()).collect()
}

/// At most [`MOST_POINTS`] points, each the mean of its neighbours, so that a long run does not make a large file.
pub(super) fn thinned(points: &[Point]) -> Vec<Point> {
    points.chunks(points.len().div_ceil(MOST_POINTS).max(1)).map(mean).collect()
}

/// A straight line fitted around every point, near points counting most (local regression, Cleveland 1979, without its
/// robustness passes). Unlike a moving average it neither lags on the steep start nor bends at the ends.
fn smoothed(points: &[Point]) -> Vec<Point> {
    let reach = points.len() / 20 + 1;
    let fit = |at: usize| {
        let from = at.saturating_sub(reach - 1);
        // Sums of weight, x, y, xx and xy with x counted from the point itself, where the line is then read off.
        let [mut w, mut x, mut y, mut xx, mut xy] = [0.0; 5];
        for (near, &(step, loss)) in points.iter().enumerate().take(at + reach).skip(from) {
            let weight = (1.0 - (near.abs_diff(at) as f64 / reach as f64).powi(3)).powi(3);
            let offset = step - points[at].0;
            w += weight;
            x += weight * offset;
            y += weight * loss;
            xx += weight * offset * offset;
            xy += weight * offset * loss;
        }
        let determinant = w * xx - x * x;
        if determinant > 1e-9 * w * xx { (xx * y - x * xy) / determinant } else { y / w }
    };
    points.iter().enumerate().map(|(at, &(step, _))| (step, fit(at))).collect()
}

fn mean(points: &[Point]) -> Point {
    let (steps, losses) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    (steps / points.len() as f64, losses / points.len() as f64)
}

/// From step 0 to the last one, or to [`SHORTEST`].
fn step_range(train: &[Point], validation: &[Point]) -> std::ops::Range<f64> {
    let last = train.iter().chain(validation).map(|point| point.0).fold(SHORTEST, f64::max);
    0.0..last
}

/// All losses with some room, except that a few high ones (a spike, the first steps of a long run) do not squeeze the
/// rest: the top is at most a quarter above the 99th percentile.
fn loss_range(train: &[Point], validation: &[Point], floor: Option<f64>) -> std::ops::Range<f64> {
    let mut losses: Vec<f64> = train.iter().chain(validation).map(|point| point.1).collect();
    losses.sort_unstable_by(f64::total_cmp);
    let (Some(&lowest), Some(&highest)) = (losses.first(), losses.last()) else {
        let floor = floor.unwrap_or(0.0);
        return floor.min(0.0)..floor.max(0.0) + 1.0;
    };
    let usual = losses[(losses.len() - 1) * 99 / 100];
    let low = floor.map_or(lowest, |floor| floor.min(lowest));
    let high = highest.min(usual + 0.25 * (usual - low).max(0.4)).max(floor.unwrap_or(lowest));
    let room = 0.06 * (high - low).max(0.2);
    low - room..high + room
}
