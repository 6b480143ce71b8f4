//! A chart of a comparison: for each workload and cost a dot at the median ratio, with a bar from the least to the greatest,
//! on a logarithmic axis. An SVG without scripts or fonts of its own; the colours read on light and on dark pages.

use std::fmt::Write as _;

use crate::report::{Ratio, short};

const WIDTH: f64 = 880.0;
const LEFT: f64 = 330.0;
const RIGHT: f64 = 70.0;
const ROW: f64 = 20.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 28.0;
/// One colour per server, in the order in which they appear.
const COLOURS: [&str; 4] = ["#2f7ed8", "#d9822b", "#3d9970", "#8e5bb5"];
const TEXT: &str = "#777777";

/// Draws the ratios, of each workload those with its highest concurrency.
pub(crate) fn svg(all: &[Ratio]) -> String {
    let highest = |ratio: &&Ratio| {
        let same = all.iter().filter(|other| other.workload == ratio.workload);
        same.map(|other| other.concurrency).max() == Some(ratio.concurrency)
    };
    let ratios: &[Ratio] = &all.iter().filter(highest).cloned().collect::<Vec<_>>();
    let mut servers: Vec<&str> = Vec::new();
    for ratio in ratios {
        if !servers.contains(&ratio.server.as_str()) {
            servers.push(&ratio.server);
        }
    }
    let mut sorted: Vec<&Ratio> = ratios.iter().collect();
    let position = |ratio: &Ratio| ratios.iter().position(|other| row_name(other) == row_name(ratio));
    sorted.sort_by_key(|ratio| position(ratio));
    let (low, high) = decades(ratios);
    let x = |value: f64| LEFT + (value.log10() - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    let height = TOP + sorted.len() as f64 * ROW + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"{TEXT}\">\n\
         <text x=\"8\" y=\"20\" font-size=\"15\">How many times as much as Everlog</text>\n"
    );
    for (index, server) in servers.iter().enumerate() {
        let left = 8.0 + index as f64 * 170.0;
        let colour = COLOURS[index % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<circle cx=\"{}\" cy=\"38\" r=\"5\" fill=\"{colour}\"/><text x=\"{}\" y=\"42\">{}</text>",
            left + 5.0,
            left + 16.0,
            escape(server)
        );
    }
    for decade in low as i32..=high as i32 {
        let (at, value) = (x(10f64.powi(decade)), 10f64.powi(decade));
        let (width, end) = (if decade == 0 { 1.5 } else { 0.5 }, height - BOTTOM);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{end}\" stroke=\"{TEXT}\" stroke-width=\"{width}\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{value}×</text>",
            end + 16.0
        );
    }
    let mut last = String::new();
    for (row, ratio) in sorted.iter().enumerate() {
        let y = TOP + (row as f64 + 0.5) * ROW;
        let server = servers.iter().position(|server| *server == ratio.server).unwrap_or(0);
        let name = row_name(ratio);
        let label = if name == last { String::new() } else { escape(&name) };
        let colour = COLOURS[server % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"3\" \
             stroke-opacity=\"0.45\"/><circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}×</text>",
            LEFT - 10.0,
            y + 4.0,
            x(ratio.minimum),
            x(ratio.maximum),
            x(ratio.median),
            x(ratio.maximum) + 9.0,
            y + 4.0,
            short(ratio.median)
        );
        last = name;
    }
    svg.push_str("</svg>\n");
    svg
}

fn row_name(ratio: &Ratio) -> String {
    format!("{} (×{}) {}", ratio.workload, ratio.concurrency, ratio.cost)
}

/// The powers of ten that the axis begins and ends with.
fn decades(ratios: &[Ratio]) -> (f64, f64) {
    let low = ratios.iter().map(|ratio| ratio.minimum.log10().floor()).fold(0.0, f64::min);
    let high = ratios.iter().map(|ratio| ratio.maximum.log10().ceil()).fold(1.0, f64::max);
    (low, high)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ratio_is_drawn() {
        let ratio = |cost: &str, median: f64| Ratio {
            workload: "w".to_owned(),
            concurrency: 1,
            cost: cost.to_owned(),
            server: "a<b".to_owned(),
            median,
            minimum: median / 2.0,
            maximum: median * 2.0,
            pairs: 5,
        };
        let svg = svg(&[ratio("CPU time", 12.0), ratio("fsyncs", 0.5)]);
        assert!(svg.contains("12.0×") && svg.contains("0.500×") && svg.contains("a&lt;b"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 3);
    }
}
