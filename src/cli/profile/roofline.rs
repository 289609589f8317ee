//! `roofline.svg`: every kernel at its FLOPs per byte and its FLOP/s, below the device's ceilings.
//!
//! "Roofline: An Insightful Visual Performance Model" (Williams, Waterman and Patterson, 2009).

use super::record::{Record, Row};
use super::table::flops;
use plotters::coord::combinators::{IntoLogRange, LogCoord};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use wgpt::gpu::ceilings::Ceilings;

const SIZE: (u32, u32) = (1280, 640);
const FONT: &str = "Helvetica, Arial, 'DejaVu Sans', sans-serif";
const INK: RGBColor = RGBColor(45, 52, 64);
const FAINT: RGBColor = RGBColor(226, 230, 236);
const ROOF: RGBColor = RGBColor(214, 94, 26);
const KERNEL: RGBColor = RGBColor(38, 98, 178);
/// Kernels with a number and a name.
const NAMED: usize = 12;
/// Width of their list, and the characters that fit it.
const LIST: u32 = 400;
const LONGEST: usize = 58;
/// Kernels with less of the time are left out: they would stretch the axes to nothing's speed.
const LEAST_SHARE: f64 = 0.002;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, LogCoord<f64>>>;
type DrawResult = Result<(), Box<dyn std::error::Error>>;

/// The plot as SVG text.
pub fn render(record: &Record, ceilings: &Ceilings) -> String {
    let mut svg = String::new();
    draw(record, ceilings, SVGBackend::with_string(&mut svg, SIZE).into_drawing_area())
        .expect("drawing into memory cannot fail");
    svg
}

/// FLOPs per byte, FLOP/s.
fn point(row: &Row) -> (f64, f64) {
    (row.flops / row.bytes, row.flops / row.seconds())
}

fn draw(record: &Record, ceilings: &Ceilings, root: DrawingArea<SVGBackend, plotters::coord::Shift>) -> DrawResult {
    let total_ms = record.kernel_ms();
    let drawable = |r: &&Row| r.flops > 0.0 && r.bytes > 0.0 && r.ms.median > LEAST_SHARE * total_ms;
    let rows: Vec<&Row> = record.rows.iter().filter(drawable).collect();
    let ridge = ceilings.f32_flops / ceilings.copy_bytes;
    let points: Vec<(f64, f64)> = rows.iter().map(|r| point(r)).collect();
    let least = |values: &mut dyn Iterator<Item = f64>, start: f64| values.fold(start, f64::min);
    let x0 = least(&mut points.iter().map(|p| p.0), ridge / 8.0) / 2.0;
    let x1 = points.iter().map(|p| p.0).fold(ridge * 8.0, f64::max) * 4.0;
    let y0 = least(&mut points.iter().map(|p| p.1), ceilings.f32_flops / 100.0) / 2.0;
    let matrices = ceilings.cooperative_flops.filter(|_| rows.iter().any(|row| row.kernel.contains("cooperative")));
    let y1 = points.iter().map(|p| p.1).chain(matrices).fold(ceilings.f32_flops, f64::max) * 2.5;
    root.fill(&WHITE)?;
    let (plot, list) = root.split_horizontally(SIZE.0 - LIST);
    let mut chart = ChartBuilder::on(&plot)
        .caption(&record.title, font(20).color(&INK))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(96)
        .build_cartesian_2d((x0..x1).log_scale(), (y0..y1).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT.stroke_width(1))
        .axis_style(INK.mix(0.6).stroke_width(1))
        .x_desc("FLOPs per byte that must be moved")
        .y_desc("FLOP/s")
        .x_label_formatter(&|x| format!("{x}"))
        .y_label_formatter(&|y| flops(*y))
        .label_style(font(13).color(&INK))
        .axis_desc_style(font(15).color(&INK))
        .draw()?;
    draw_roof(&mut chart, ceilings, "multiply-adds", ceilings.f32_flops)?;
    if let Some(peak) = matrices {
        draw_roof(&mut chart, ceilings, "matrices f16 to f32", peak)?;
    }
    draw_kernels(&mut chart, &rows, total_ms)?;
    draw_list(&list, &rows, total_ms)?;
    root.present()?;
    Ok(())
}

/// The slope of the copy, up to where arithmetic of `peak` FLOP/s binds.
fn draw_roof(chart: &mut Chart, ceilings: &Ceilings, name: &str, peak: f64) -> DrawResult {
    let ridge = peak / ceilings.copy_bytes;
    let (xs, ys) = (chart.x_range(), chart.y_range());
    // Where the slope enters the plot, which may be at its floor.
    let from = xs.start.max(ys.start / ceilings.copy_bytes);
    let roof = [(from, from * ceilings.copy_bytes), (ridge, peak), (xs.end, peak)];
    chart.draw_series(LineSeries::new(roof, ROOF.stroke_width(2)))?;
    let right = font(14).color(&ROOF).pos(Pos::new(HPos::Right, VPos::Bottom));
    let text = format!("{name} {}", flops(peak));
    chart.draw_series([Text::new(text, (xs.end / 1.05, peak * 1.06), right)])?;
    let copy = format!("copy {:.1} GB/s ", ceilings.copy_bytes / 1e9);
    let middle = (from * ridge).sqrt();
    let right = font(14).color(&ROOF).pos(Pos::new(HPos::Right, VPos::Bottom));
    chart.draw_series([Text::new(copy, (middle, middle * ceilings.copy_bytes * 1.15), right)])?;
    Ok(())
}

/// Circles as large as their share of the time, the largest numbered as in the list beside the plot.
fn draw_kernels(chart: &mut Chart, rows: &[&Row], total_ms: f64) -> DrawResult {
    let radius = |row: &Row| 3.0 + 22.0 * (row.ms.median / total_ms).sqrt();
    chart.draw_series(rows.iter().map(|r| Circle::new(point(r), radius(r), KERNEL.mix(0.35).filled())))?;
    chart.draw_series(rows.iter().map(|r| Circle::new(point(r), radius(r), KERNEL.stroke_width(1))))?;
    let style = font(11).color(&INK).pos(Pos::new(HPos::Center, VPos::Center));
    let mut taken: Vec<(i32, i32)> = vec![];
    for (n, row) in rows.iter().take(NAMED).enumerate() {
        let (x, y) = chart.backend_coord(&point(row));
        // On the circle, or above or below where another number stands already.
        let clear = |y: &i32| taken.iter().all(|(ox, oy)| (ox - x).abs() > 14 || (oy - y).abs() > 11);
        let y = [0, -12, 12, -24, 24, -36, 36, -48, 48].map(|by| y + by).into_iter().find(clear).unwrap_or(y);
        taken.push((x, y));
        let (left, top) = chart.plotting_area().get_base_pixel();
        let area = chart.plotting_area().strip_coord_spec();
        area.draw(&Text::new((n + 1).to_string(), (x - left, y - top), style.clone()))?;
    }
    Ok(())
}

/// The kernels that take longest, by number.
fn draw_list(list: &DrawingArea<SVGBackend, plotters::coord::Shift>, rows: &[&Row], total_ms: f64) -> DrawResult {
    for (n, row) in rows.iter().take(NAMED).enumerate() {
        let y = 56 + 44 * n as i32;
        list.draw(&Text::new(format!("{}", n + 1), (0, y), font(12).color(&KERNEL)))?;
        let mut name = row.name();
        if name.len() > LONGEST {
            // Its end says which kernel it is.
            name = format!("..{}", name.split_off(name.len() - LONGEST));
        }
        list.draw(&Text::new(name, (22, y), font(12).color(&INK)))?;
        let share = format!("{:.1}% of the time   {}", 100.0 * row.ms.median / total_ms, row.shape);
        list.draw(&Text::new(share, (22, y + 16), font(11).color(&INK.mix(0.7))))?;
    }
    Ok(())
}

fn font(pixels: u32) -> TextStyle<'static> {
    (FONT, pixels).into_font().into()
}
