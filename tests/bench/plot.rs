//! Plots as SVG, written by hand: two kinds, bars and lines. Colours follow the reader's light or dark theme by a media query inside the file; a renderer
//! that knows none shows the light one. Nothing is fetched and no font is needed.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
/// Ink, softer ink, grid, and the series.
const LIGHT: [&str; 8] = ["#1f2328", "#656d76", "#d0d7de", "#0969da", "#bf8700", "#8250df", "#1a7f37", "#cf222e"];
const DARK: [&str; 8] = ["#e6edf3", "#9198a1", "#3d444d", "#4493f8", "#d29922", "#ab7df8", "#3fb950", "#f85149"];
const COLOURS: [char; 5] = ['a', 'b', 'c', 'd', 'e'];

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The rules of a theme; plain colours in classes, which every renderer knows.
fn rules([ink, soft, grid, series @ ..]: &[&str; 8]) -> String {
    let mut rules = format!("text{{fill:{ink}}}.s{{fill:{soft}}}.g{{stroke:{grid}}}");
    for (name, colour) in COLOURS.iter().zip(series) {
        let _ = write!(rules, ".{name}{{fill:{colour}}}.l{name}{{stroke:{colour}}}");
    }
    rules
}

fn head(title: &str, height: f64) -> String {
    let title = escaped(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\
         <title>{title}</title><style>text{{font:13px \
          system-ui,sans-serif}}.t{{font-size:16px;font-weight:600}}.s{{font-size:12px}}.g{{stroke-width:1}}.p{{fill:none;stroke-width:2.5}}\
         {}@media (prefers-color-scheme: dark){{{}}}</style><text class=\"t\" x=\"0\" y=\"20\">{title}</text>",
        rules(&LIGHT),
        rules(&DARK)
    )
}

fn colour(series: usize) -> char {
    COLOURS[series % COLOURS.len()]
}

/// A figure of at most three digits that matter.
fn short(value: f64) -> String {
    let digits = (2.0 - value.abs().max(1e-9).log10().floor()).clamp(0.0, 4.0) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Bars in groups, longest scaled to the width: `groups` has a title and bars of name and value, coloured by name.
pub fn bars(title: &str, unit: &str, groups: &[(String, Vec<(String, f64)>)]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in groups.iter().flat_map(|(_, bars)| bars) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let count: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let mut svg = head(title, 40.0 + 30.0 * groups.len() as f64 + 24.0 * count as f64);
    let (left, room) = (250.0, WIDTH - 250.0 - 110.0);
    let mut y = 36.0;
    for (group, bars) in groups {
        // Each group has its own scale: what is compared stands in one.
        let longest = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        y += 18.0;
        let _ = write!(svg, "<text class=\"s\" x=\"0\" y=\"{y}\">{}</text>", escaped(group));
        y += 10.0;
        for (name, value) in bars {
            let colour = colour(names.iter().position(|n| n == name).unwrap_or(0));
            let width = (value / longest * room).max(2.0);
            let _ = write!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect class=\"{colour}\" x=\"{left}\" y=\"{y}\" \
                 width=\"{width:.1}\" height=\"18\" rx=\"3\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{} {unit}</text>",
                left - 10.0,
                y + 14.0,
                escaped(name),
                left + width + 8.0,
                y + 14.0,
                short(*value)
            );
            y += 24.0;
        }
    }
    svg + "</svg>\n"
}

/// An axis of a plot of lines.
pub struct Axis<'a> {
    /// What it shows.
    pub title: &'a str,
    /// By powers of ten.
    pub log: bool,
}

struct Scale {
    from: f64,
    to: f64,
    log: bool,
}

impl Scale {
    /// A scale with room for all values.
    fn over(values: impl Iterator<Item = f64>, log: bool) -> Scale {
        let seen = values.filter(|v| v.is_finite() && (!log || *v > 0.0)).map(|v| if log { v.log10() } else { v });
        let (from, to) = seen.fold((f64::MAX, f64::MIN), |(from, to), v| (from.min(v), to.max(v)));
        if from > to {
            return Scale { from: 0.0, to: 1.0, log };
        }
        let room = ((to - from) * 0.06).max(if log { 0.1 } else { 1e-3 });
        Scale { from: from - room, to: to + room, log }
    }

    fn at(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        (value - self.from) / (self.to - self.from)
    }

    /// Values worth a line: powers of ten with their doubles and fives, or round steps.
    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let powers = (self.from.floor() as i32)..=(self.to.ceil() as i32);
            let wide = self.to - self.from > 2.2;
            let marks: &[f64] = if wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let all = powers.flat_map(|p| marks.iter().map(move |m| m * 10f64.powi(p)));
            return all.filter(|v| (0.0..=1.0).contains(&self.at(*v))).collect();
        }
        let rough = (self.to - self.from) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.from / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|v| *v <= self.to).collect()
    }
}

/// Lines through points: `series` has a name and points; a single point is a larger dot.
pub fn lines(title: &str, x: &Axis, y: &Axis, series: &[(String, Vec<(f64, f64)>)]) -> String {
    let (left, top, right, bottom, height) = (64.0, 44.0, 190.0, 52.0, 380.0);
    let (width, tall) = (WIDTH - left - right, height - top - bottom);
    let points = || series.iter().flat_map(|(_, points)| points);
    let across = Scale::over(points().map(|p| p.0), x.log);
    let up = Scale::over(points().map(|p| p.1), y.log);
    let at = |(px, py): (f64, f64)| (left + across.at(px) * width, top + (1.0 - up.at(py)) * tall);
    let mut svg = head(title, height);
    for tick in across.ticks() {
        let (px, _) = at((tick, 1.0));
        let _ = write!(
            svg,
            "<line class=\"g\" x1=\"{px:.1}\" x2=\"{px:.1}\" y1=\"{top}\" y2=\"{}\"/><text class=\"s\" x=\"{px:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            top + tall,
            top + tall + 17.0,
            short(tick)
        );
    }
    for tick in up.ticks() {
        let (_, py) = at((1.0, tick));
        let _ = write!(
            svg,
            "<line class=\"g\" x1=\"{left}\" x2=\"{}\" y1=\"{py:.1}\" y2=\"{py:.1}\"/><text class=\"s\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left + width,
            left - 8.0,
            py + 4.0,
            short(tick)
        );
    }
    let _ = write!(
        svg,
        "<text class=\"s\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text><text class=\"s\" x=\"0\" y=\"37\">{}</text>",
        left + width / 2.0,
        height - 12.0,
        escaped(x.title),
        escaped(y.title)
    );
    // The first series is drawn last, so that nothing covers it.
    for (number, (name, points)) in series.iter().enumerate().rev() {
        let colour = colour(number);
        let placed: Vec<(f64, f64)> = points.iter().map(|p| at(*p)).collect();
        let path: Vec<String> = placed.iter().map(|(px, py)| format!("{px:.1},{py:.1}")).collect();
        let _ = write!(svg, "<polyline class=\"p l{colour}\" points=\"{}\"/>", path.join(" "));
        let radius = if placed.len() == 1 { 7 } else { 4 };
        for (px, py) in placed {
            let _ = write!(svg, "<circle class=\"{colour}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"{radius}\"/>");
        }
        let key = top + 10.0 + 22.0 * number as f64;
        let _ = write!(
            svg,
            "<rect class=\"{colour}\" x=\"{}\" y=\"{}\" width=\"12\" height=\"12\" rx=\"3\"/><text x=\"{}\" y=\"{key}\">{}</text>",
            left + width + 16.0,
            key - 11.0,
            left + width + 34.0,
            escaped(name)
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_the_picture() {
        let series = vec![("a".to_owned(), vec![(0.1, 10.0), (50.0, 0.02)]), ("<b>".to_owned(), vec![(1.0, 1.0)])];
        let log = |title| Axis { title, log: true };
        let svg = lines("T", &log("x"), &log("y"), &series);
        let numbers = svg.split("cx=\"").skip(1).filter_map(|s| s.split('"').next()?.parse::<f64>().ok());
        assert_eq!(numbers.filter(|x| (64.0..=570.0).contains(x)).count(), 3);
        assert!(svg.contains("&lt;b&gt;") && svg.ends_with("</svg>\n"));
        let bars = bars("T", "ms", &[("g".to_owned(), vec![("a".to_owned(), 0.31), ("b".to_owned(), 0.0)])]);
        assert!(bars.contains("0.31 ms") && bars.contains("0 ms"));
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = Scale::over([0.97, 1.0].into_iter(), false);
        assert!(scale.ticks().iter().all(|t| (0.0..=1.0).contains(&scale.at(*t))) && scale.ticks().len() >= 3);
        let scale = Scale::over([0.05, 12.0].into_iter(), true);
        assert_eq!(scale.ticks(), [0.1, 1.0, 10.0]);
    }
}
