//! What the benchmark found: figures in tables, beside what was aimed at; as a page, as JSON and as plots.
//!
//! A cell is what is shown and, if it is a number, its value: the JSON has the value, a page the text. Nothing is rounded but for show.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::Outcome;
use crate::machine;

/// The value below which this share of the times lies; sorts them.
pub fn percentile(times: &mut [f64], share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The middle one.
pub fn median(times: &[f64]) -> f64 {
    percentile(&mut times.to_vec(), 0.5)
}

/// Says on stderr what is being done.
pub fn doing(what: &str) {
    eprintln!("… {what}");
}

/// Shows how far something is: on one line of a terminal, elsewhere as a line every ten seconds.
pub fn progress(what: &str, done: usize, of: usize) {
    use std::io::{IsTerminal as _, Write as _};
    static SHOWN: Mutex<Option<Instant>> = Mutex::new(None);
    let terminal = std::io::stderr().is_terminal();
    let pause = Duration::from_millis(if terminal { 100 } else { 10_000 });
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = shown.get_or_insert_with(Instant::now).elapsed();
    if terminal && done >= of {
        eprint!("\r\x1b[K");
    } else if waited >= pause && done < of {
        *shown = Some(Instant::now());
        let (before, after) = if terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        eprint!("{before}… {what}: {done} of {of}{after}");
    }
    let _ = std::io::stderr().flush();
}

/// A figure or a word of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    shown: String,
    value: Option<f64>,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell { shown: text.to_owned(), value: None }
    }
}

impl From<String> for Cell {
    fn from(shown: String) -> Cell {
        Cell { shown, value: None }
    }
}

impl Cell {
    /// As many digits as matter.
    fn from_json(value: &Value) -> Cell {
        match value {
            Value::Null => none(),
            Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
            Value::String(text) => text.as_str().into(),
            Value::Number(n) => {
                let value = n.as_f64().unwrap_or(f64::NAN);
                let digits = match value.abs() {
                    _ if value.fract() == 0.0 => 0,
                    0.0..10.0 => 3,
                    10.0..100.0 => 1,
                    _ => 0,
                };
                number(value, digits)
            }
            other => other.to_string().into(),
        }
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Cell {
    /// The same value, shown with this behind it.
    pub fn with_unit(mut self, unit: &str) -> Cell {
        self.shown += unit;
        self
    }
}

/// A number with so many digits after the point, thousands grouped.
pub fn number(value: f64, digits: usize) -> Cell {
    if !value.is_finite() {
        return Cell { shown: "–".to_owned(), value: None };
    }
    let plain = format!("{value:.digits$}");
    let (whole, fraction) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let mut shown = String::new();
    for (i, digit) in whole.chars().enumerate() {
        let left = whole.len() - i;
        if i > 0 && left.is_multiple_of(3) && left < whole.len() && !shown.ends_with('-') {
            shown.push(',');
        }
        shown.push(digit);
    }
    Cell { shown: shown + fraction, value: Some(value) }
}

/// Microseconds, shown as milliseconds.
pub fn ms(microseconds: f64) -> Cell {
    number(microseconds / 1e3, 3)
}

/// How many times as much.
pub fn times(ratio: f64) -> Cell {
    let mut cell = number(ratio, if ratio < 10.0 { 2 } else { 1 });
    cell.shown += " ×";
    cell
}

/// Nothing to say.
pub fn none() -> Cell {
    "–".into()
}

/// A table of the report.
pub struct Table {
    /// Its name in the JSON.
    name: String,
    title: String,
    notes: Vec<String>,
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty one.
    pub fn new(name: &str, title: impl Into<String>, columns: &[&str]) -> Table {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Table { name: name.to_owned(), title: title.into(), notes: Vec::new(), columns, rows: Vec::new() }
    }

    /// A table that another program made: objects with the same fields, in the order of the first.
    fn from_json(name: &str, title: &str, objects: &[Value]) -> Table {
        let first = objects.first().and_then(Value::as_object);
        let columns: Vec<&str> = first.into_iter().flatten().map(|(field, _)| field.as_str()).collect();
        let mut table = Table::new(name, title, &columns);
        for object in objects {
            table.row(columns.iter().map(|column| Cell::from_json(&object[column])).collect::<Vec<_>>());
        }
        table
    }

    /// What it is called.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Adds a row of as many cells as there are columns.
    pub fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        let cells = cells.into();
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell per column of {}", self.name);
        self.rows.push(cells);
    }

    /// Adds a sentence below the title.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The table as Markdown that is also pleasant in a terminal.
    fn markdown(&self) -> String {
        let mut page = format!("## {}\n\n", self.title);
        for note in &self.notes {
            let _ = writeln!(page, "{note}\n");
        }
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.shown.chars().count());
            cells.chain([self.columns[column].chars().count(), 3]).max().unwrap_or(3)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        // A column of numbers stands to the right.
        let right: Vec<bool> = (0..self.columns.len())
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).any(|cell| cell.value.is_some()))
            .collect();
        let mut line = |cells: &[&str]| {
            for ((cell, width), right) in cells.iter().zip(&widths).zip(&right) {
                let pad = " ".repeat(width - cell.chars().count());
                let _ = if *right { write!(page, "| {pad}{cell} ") } else { write!(page, "| {cell}{pad} ") };
            }
            page.push_str("|\n");
        };
        line(&self.columns.iter().map(String::as_str).collect::<Vec<_>>());
        let rule = |(width, right): (&usize, &bool)| {
            if *right { format!("{}:", "-".repeat(width - 1)) } else { "-".repeat(*width) }
        };
        let rules: Vec<String> = widths.iter().zip(&right).map(rule).collect();
        line(&rules.iter().map(String::as_str).collect::<Vec<_>>());
        for row in &self.rows {
            line(&row.iter().map(|cell| cell.shown.as_str()).collect::<Vec<_>>());
        }
        page
    }

    fn json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let fields = self.columns.iter().zip(row).map(|(column, cell)| {
                let value = cell.value.map_or_else(|| json!(cell.shown), |value| json!(value));
                (column.clone(), value)
            });
            Value::Object(fields.collect::<Map<_, _>>())
        };
        json!({ "name": self.name, "title": self.title, "notes": self.notes, "rows": self.rows.iter().map(object).collect::<Vec<_>>() })
    }
}

/// What was aimed at, and what came of it.
struct Target {
    what: String,
    aim: String,
    measured: String,
    met: Option<bool>,
}

/// What a report is called and says of itself.
#[derive(Clone, Copy)]
pub struct Page {
    /// The stem of its files.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// The command that makes it.
    pub made_by: &'static str,
    /// Where it is written how things are measured: a sentence.
    pub how: &'static str,
}

/// The report in the making.
pub struct Report {
    page: Page,
    quick: bool,
    versions: Vec<(String, String)>,
    targets: Vec<Target>,
    tables: Vec<Table>,
    plots: Vec<(&'static str, String, String)>,
    skipped: Vec<String>,
}

impl Report {
    /// An empty one. A quick run measures smaller things, so it judges no target.
    pub fn new(page: Page, quick: bool) -> Report {
        Report {
            page,
            quick,
            versions: Vec::new(),
            targets: Vec::new(),
            tables: Vec::new(),
            plots: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Adds what was used, and which of it.
    pub fn version(&mut self, what: &str, version: impl Into<String>) {
        let version = version.into();
        if !self.versions.iter().any(|(known, _)| known == what) {
            self.versions.push((what.to_owned(), version));
        }
    }

    /// Says that something could not be measured, and why.
    pub fn skipped(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.skipped.contains(&what) {
            println!("Skipped: {what}");
            self.skipped.push(what);
        }
    }

    /// Adds a table and shows it.
    pub fn table(&mut self, table: Table) {
        println!("\n{}", table.markdown());
        self.tables.push(table);
    }

    /// Adds a target with what was measured.
    pub fn target(&mut self, what: &str, aim: &str, measured: impl Into<String>, met: bool) {
        let met = (!self.quick).then_some(met);
        self.targets.push(Target { what: what.to_owned(), aim: aim.to_owned(), measured: measured.into(), met });
    }

    /// Adds a target for which something is missing.
    pub fn unmeasured(&mut self, what: &str, aim: &str, why: &str) {
        self.targets.push(Target { what: what.to_owned(), aim: aim.to_owned(), measured: why.to_owned(), met: None });
    }

    /// Takes in what a benchmark of its own found: a report of the same format, or any object whose lists of objects are tables.
    pub fn include(&mut self, found: &Value) {
        for (what, version) in found["versions"].as_object().into_iter().flatten() {
            self.version(what, Cell::from_json(version).shown);
        }
        let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for table in list(&found["tables"]) {
            let mut made = Table::from_json(&text(&table["name"]), &text(&table["title"]), &list(&table["rows"]));
            list(&table["notes"]).iter().for_each(|note| made.note(text(note)));
            self.table(made);
        }
        for (name, rows) in found.as_object().into_iter().flatten() {
            let rows = list(rows);
            if !["tables", "targets", "skipped"].contains(&name.as_str()) && rows.iter().any(Value::is_object) {
                self.table(Table::from_json(name, name, &rows));
            }
        }
        for target in list(&found["targets"]) {
            let met = target["met"].as_bool().filter(|_| !self.quick);
            let [what, aim, measured] = ["what", "target", "measured"].map(|field| text(&target[field]));
            self.targets.push(Target { what, aim, measured, met });
        }
    }

    /// Adds a plot: the name of its file, what it shows in words, and the SVG.
    pub fn plot(&mut self, name: &'static str, words: impl Into<String>, svg: String) {
        self.plots.push((name, words.into(), svg));
    }

    fn targets_table(&self) -> Table {
        let mut table = Table::new("targets", "Targets", &["what", "target", "measured", "met"]);
        for target in &self.targets {
            let met = match target.met {
                Some(true) => "yes",
                Some(false) => "no",
                None => "–",
            };
            table.row([
                Cell::from(target.what.as_str()),
                target.aim.as_str().into(),
                target.measured.as_str().into(),
                met.into(),
            ]);
        }
        table
    }

    /// The page.
    pub fn markdown(&self) -> String {
        let Page { name: stem, title, made_by, how } = self.page;
        let mut page = format!(
            "# {title}\n\nMade by `{made_by}`; every figure below was printed by it in one run. Medians of interleaved \
             rounds; on a shared machine absolute times drift \
             by tens of per cent and ratios hold. {how}\n\n",
        );
        let _ = writeln!(page, "* Machine: {}", machine::describe());
        for (what, version) in &self.versions {
            let _ = writeln!(page, "* {what}: {version}");
        }
        for skipped in &self.skipped {
            let _ = writeln!(page, "* Skipped: {skipped}");
        }
        for (name, words, _) in &self.plots {
            let _ = write!(page, "\n![{words}]({stem}.{name}.svg)\n");
        }
        if !self.targets.is_empty() {
            let _ = write!(page, "\n{}", self.targets_table().markdown());
        }
        for table in &self.tables {
            let _ = write!(page, "\n{}", table.markdown());
        }
        page
    }

    fn json(&self) -> Value {
        let versions: Map<String, Value> = self.versions.iter().map(|(what, v)| (what.clone(), json!(v))).collect();
        let targets: Vec<Value> = self
            .targets
            .iter()
            .map(|t| json!({ "what": t.what, "target": t.aim, "measured": t.measured, "met": t.met }))
            .collect();
        json!({
            "machine": machine::describe(),
            "quick": self.quick,
            "versions": versions,
            "skipped": self.skipped,
            "targets": targets,
            "tables": self.tables.iter().map(Table::json).collect::<Vec<_>>(),
        })
    }

    /// Shows the targets, and writes the page, the JSON and the plots into a folder.
    pub fn write(&self, folder: &Path) -> Outcome<()> {
        if !self.targets.is_empty() {
            println!("\n{}", self.targets_table().markdown());
        }
        std::fs::create_dir_all(folder)?;
        let mut written: Vec<PathBuf> = Vec::new();
        let mut file = |name: String, text: String| -> Outcome<()> {
            let path = folder.join(name);
            std::fs::write(&path, text)?;
            written.push(path);
            Ok(())
        };
        let stem = self.page.name;
        file(format!("{stem}.md"), self.markdown())?;
        file(format!("{stem}.json"), format!("{:#}\n", self.json()))?;
        for (name, _, svg) in &self.plots {
            file(format!("{stem}.{name}.svg"), svg.clone())?;
        }
        for path in written {
            println!("written: {}", path.display());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_shares_are_found() {
        for (value, digits, shown) in [
            (0.5, 3, "0.500"),
            (999.0, 0, "999"),
            (1_000.0, 0, "1,000"),
            (1_234_567.5, 1, "1,234,567.5"),
            (-123.0, 0, "-123"),
            (-1_234.0, 0, "-1,234"),
            (f64::NAN, 2, "–"),
        ] {
            assert_eq!(number(value, digits).shown, shown);
        }
        let mut values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&mut values, 0.5), percentile(&mut values, 0.99)), (50.0, 99.0));
        assert!(percentile(&mut [], 0.5).is_nan());
    }

    #[test]
    fn a_table_reads_as_markdown_and_as_json() {
        let mut table = Table::new("t", "Title", &["what", "ms"]);
        table.row(["PING".into(), ms(31.0)]);
        assert_eq!(table.markdown(), "## Title\n\n| what |    ms |\n| ---- | ----: |\n| PING | 0.031 |\n");
        assert_eq!(table.json()["rows"][0]["ms"], json!(0.031));
        let again = Table::from_json("t", "Title", &[table.json()["rows"][0].clone()]);
        assert_eq!(again.markdown(), table.markdown());
    }

    #[test]
    fn another_report_is_taken_in() {
        let page = Page { name: "p", title: "T", made_by: "m", how: "H." };
        let mut report = Report::new(page, false);
        let target = json!({ "what": "w", "target": "≥ 1", "measured": "2", "met": true });
        report.include(
            &json!({ "versions": { "x": "1.2" }, "lengths": [{ "tokens": 8, "ms": 0.74 }], "targets": [target] }),
        );
        let page = report.markdown();
        for line in ["* x: 1.2", "## lengths", "|      8 | 0.740 |", "| w    | ≥ 1    | 2        | yes |"] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }
}
