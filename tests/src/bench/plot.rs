//! Plots, as SVG: a bar a case, its spread as a line, its goal as a mark. Bars have a logarithmic scale, on which a ratio and
//! its inverse are equally long.
use std::fmt::Write as _;

use super::result::{Goal, Measured};

const WIDTH: f64 = 900.0;
const NAMES: f64 = 330.0;
const NUMBERS: f64 = 70.0;
const LINE: f64 = 22.0;
const TOP: f64 = 30.0;

/// A scale from ratios to places.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn of(rows: &[&Measured]) -> Self {
        let all = rows
            .iter()
            .flat_map(|row| [row.ratio, row.spread[0], row.spread[1], row.goal.bound(), 1.0])
            .filter(|ratio| *ratio > 0.0);
        let (low, high) = all.fold((f64::INFINITY, 0.0f64), |(low, high), ratio| {
            (low.min(ratio), high.max(ratio))
        });
        Self {
            low: (low / 1.1).ln(),
            high: (high * 1.1).ln(),
        }
    }

    fn place(&self, ratio: f64) -> f64 {
        let part = (ratio.max(f64::MIN_POSITIVE).ln() - self.low) / (self.high - self.low);
        NAMES + part.clamp(0.0, 1.0) * (WIDTH - NAMES - NUMBERS)
    }
}

/// Bars of a row's cases.
pub(super) fn bars(rows: &[&Measured]) -> String {
    let scale = Scale::of(rows);
    let height = TOP + LINE * rows.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"18\" font-weight=\"bold\">{}</text>\n\
         <text x=\"{NAMES}\" y=\"18\" fill=\"#666\">bar: ratio, line: spread, mark: goal (logarithmic)</text>\n",
        escaped(rows.first().map_or("", |row| &row.name))
    );
    for (index, row) in rows.iter().enumerate() {
        bar(&mut svg, &scale, row, TOP + LINE * index as f64);
    }
    svg + "</svg>\n"
}

fn bar(svg: &mut String, scale: &Scale, row: &Measured, y: f64) {
    let (from, to) = (NAMES, scale.place(row.ratio));
    let middle = y + LINE / 2.0;
    let colour = if row.met { "#3a7d44" } else { "#b8473d" };
    let goal = scale.place(row.goal.bound());
    let side = match row.goal {
        Goal::AtMost(_) => -5.0,
        Goal::AtLeast(_) => 5.0,
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
         <rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\n\
         <path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"#000\"/>\n\
         <path d=\"M{goal:.1} {:.1}V{:.1}M{goal:.1} {middle:.1}h{side}\" stroke=\"#1f4fa3\" stroke-width=\"2\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        NAMES - 8.0,
        middle + 4.0,
        escaped(&row.case),
        y + 4.0,
        (to - from).max(1.0),
        LINE - 8.0,
        scale.place(row.spread[0]),
        scale.place(row.spread[1]),
        y + 1.0,
        y + LINE - 1.0,
        WIDTH - NUMBERS + 10.0,
        middle + 4.0,
        row.ratio,
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::result::Samples;

    #[test]
    fn a_plot_has_a_bar_for_each_case_and_escapes_its_name() {
        let mut samples = Samples::default();
        samples.push("a", 3.0);
        samples.push("b", 2.0);
        let row = |case: &str| {
            samples
                .measured((1, "name"), case, ("a", "b"), Goal::AtMost(2.0), "ns")
                .unwrap()
        };
        let (one, other) = (row("x < y"), row("z"));
        let svg = bars(&[&one, &other]);
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(svg.contains("x &lt; y") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_greater_ratio_has_a_longer_bar() {
        let scale = Scale {
            low: 0.1f64.ln(),
            high: 10f64.ln(),
        };
        assert!(scale.place(0.5) < scale.place(1.0) && scale.place(1.0) < scale.place(5.0));
    }
}
