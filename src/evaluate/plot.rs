//! Accuracies over a number, such as steps of pre-training or solved examples, with their standard errors, as SVG.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Accuracy;

/// A plot of accuracies.
pub struct AccuracyPlot<'a> {
    pub title: &'a str,
    /// What the numbers are that accuracies are drawn over, and how many things each accuracy is of.
    pub over: &'a str,
    pub things: usize,
    /// The accuracy of answers that are drawn at random.
    pub chance: f64,
    /// Curves with their names, which are shown where there are several.
    pub curves: &'a [(String, Vec<(f64, Accuracy)>)],
}

const INK: RGBColor = RGBColor(45, 52, 64);
const FAINT: RGBColor = RGBColor(226, 230, 236);
const CURVES: [RGBColor; 5] = [
    RGBColor(38, 98, 178),
    RGBColor(214, 94, 26),
    RGBColor(40, 140, 90),
    RGBColor(150, 70, 160),
    RGBColor(110, 118, 130),
];
const FLOOR: RGBColor = RGBColor(110, 118, 130);

impl AccuracyPlot<'_> {
    /// The plot as SVG text.
    pub fn render(&self) -> String {
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, (900, 520)).into_drawing_area();
        self.draw(&root).expect("drawing into memory cannot fail");
        drop(root);
        svg
    }

    fn draw(
        &self,
        root: &DrawingArea<SVGBackend, plotters::coord::Shift>,
    ) -> std::result::Result<(), Box<dyn std::error::Error>> {
        let points = self.curves.iter().flat_map(|(_, points)| points);
        let last = points.map(|(at, _)| *at).fold(1.0, f64::max);
        // Room on both sides, so that the first and the last error do not lie on the edge.
        let range = -0.02 * last..1.02 * last;
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(root)
            .caption(self.title, font(22, &INK))
            .margin(16)
            .margin_right(28)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(range.clone(), 0.0..1.0)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(INK.mix(0.6))
            .x_desc(self.over)
            .y_desc(format!("accuracy ± standard error ({} questions)", self.things))
            .x_label_formatter(&|at| format!("{at:.0}"))
            .y_label_formatter(&|share| format!("{share:.1}"))
            .label_style(font(14, &INK))
            .axis_desc_style(font(16, &INK))
            .draw()?;
        let chance = [(range.start, self.chance), (range.end, self.chance)];
        chart.draw_series(DashedLineSeries::new(chance, 7, 5, FLOOR.stroke_width(2)))?;
        // At the right end under the line, where a model that learns is far above.
        let style = font(14, &FLOOR).pos(Pos::new(HPos::Right, VPos::Top));
        let below = (0.99 * last, self.chance - 0.015);
        chart.draw_series([Text::new(format!("chance {:.2}", self.chance), below, style)])?;
        for ((name, points), color) in self.curves.iter().zip(CURVES.iter().cycle()) {
            let line = points.iter().map(|(at, accuracy)| (*at, accuracy.mean));
            let series = chart.draw_series(LineSeries::new(line.clone(), color.stroke_width(2)))?;
            if self.curves.len() > 1 {
                series.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
            }
            for (at, Accuracy { mean, error }) in points {
                let error = error.unwrap_or(0.0);
                let ends = vec![(*at, (mean - error).max(0.0)), (*at, (mean + error).min(1.0))];
                chart.draw_series([PathElement::new(ends, color.stroke_width(2))])?;
            }
            chart.draw_series(line.map(|at| Circle::new(at, 4, color.filled())))?;
        }
        if self.curves.len() > 1 {
            let mut labels = chart.configure_series_labels();
            labels.position(SeriesLabelPosition::UpperLeft).border_style(FAINT);
            labels.background_style(WHITE.filled()).label_font(font(14, &INK)).draw()?;
        }
        root.present()?;
        Ok(())
    }
}

fn font(pixels: u32, color: &'static RGBColor) -> TextStyle<'static> {
    TextStyle::from(("Helvetica, Arial, 'DejaVu Sans', sans-serif", pixels).into_font()).color(color)
}
