//! `reward.svg`: the mean reward of a policy's answers against its KL divergence from the model that the run started from, a point for each
//! roll-out: what a reward was bought with (Gao et al. 2022, "Scaling Laws for Reward Model Overoptimization").

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::plot::{Area, DrawResult, INK, Point, TRAIN, TRAIN_LIGHT, draw_axes, font, px, svg, thinned};
use crate::error::Result;
use crate::files::write_atomic;
use crate::train::record::Record;

/// Draws the picture and replaces `path` by it in one step; nothing where the records are not of a policy.
pub fn write(path: &Path, title: &str, records: &[Record]) -> Result<()> {
    let points = points(records);
    if points.is_empty() {
        return Ok(());
    }
    let text = svg(|root| draw(title, &thinned(&points), root));
    write_atomic(path, |writer| std::io::Write::write_all(writer, text.as_bytes()))
}

/// (KL divergence, reward) of each roll-out.
fn points(records: &[Record]) -> Vec<Point> {
    let of = |record: &Record, name: &str| record.scalars.get(name).map(|value| f64::from(*value));
    let all = records.iter().filter_map(|record| Some((of(record, "kl")?, of(record, "reward")?)));
    all.filter(|(kl, reward)| kl.is_finite() && reward.is_finite()).collect()
}

/// From the smallest to the largest of some numbers, with some room.
fn range(values: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
    let (low, high) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max));
    let room = 0.06 * (high - low).max(1e-3);
    low - room..high + room
}

fn draw(title: &str, points: &[Point], root: Area) -> DrawResult {
    root.fill(&WHITE)?;
    let (kls, rewards) = (range(points.iter().map(|point| point.0)), range(points.iter().map(|point| point.1)));
    let (bottom, top) = (rewards.start, rewards.end);
    let decimals = |range: &std::ops::Range<f64>| if range.end - range.start < 1.0 { 3 } else { 1 };
    let (of_kl, of_reward) = (decimals(&kls), decimals(&rewards));
    let mut chart = ChartBuilder::on(&root)
        .caption(title, font(22).color(&INK))
        .margin(px(16))
        .margin_right(px(28))
        .x_label_area_size(px(48))
        .y_label_area_size(px(72))
        .build_cartesian_2d(kls, rewards)?;
    draw_axes(&mut chart, ("KL divergence from the start (nats per answer)", of_kl), ("mean reward", of_reward))?;
    // From light to dark in the order of the steps.
    let last = (points.len() - 1).max(1) as f64;
    let dots = points.iter().enumerate().map(|(n, at)| {
        let share = n as f64 / last;
        let mixed = |light: u8, dark: u8| (f64::from(light) * (1.0 - share) + f64::from(dark) * share) as u8;
        let color =
            RGBColor(mixed(TRAIN_LIGHT.0, TRAIN.0), mixed(TRAIN_LIGHT.1, TRAIN.1), mixed(TRAIN_LIGHT.2, TRAIN.2));
        Circle::new(*at, px(4), color.filled())
    });
    chart.draw_series(dots)?;
    // Above its point, and within the picture: the last is often at the right edge.
    let ends = [("first", points.first(), HPos::Left), ("last", points.last(), HPos::Right)];
    for (name, at, side) in ends {
        let style = font(14).color(&INK).pos(Pos::new(side, VPos::Bottom));
        let above = |&(kl, reward): &Point| (kl, reward + 0.015 * (top - bottom));
        chart.draw_series(at.map(|at| Text::new(name, above(at), style)))?;
    }
    root.present()?;
    Ok(())
}
