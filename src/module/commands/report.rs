//! MEM.REPORT: a space on one page, for people.
//!
//! The page is made in two halves: [`report`] takes what it shows from the space and the server, [`Report::page`] lays it out and knows neither. It has 76
//! columns, for redis-cli puts a number of up to four before each line of an array (see [`Value::Page`]); no colours, no control characters.

use engram_inference::cache::CacheStats;
use engram_memory::{Heat, Stats, Tier, TierStats};

use super::{Outcome, read};
use crate::alerts::{self, Active};
use crate::config;
use crate::datatype::Consolidated;
use crate::ffi::{self, Ctx};
use crate::grammar::{Parsed, printable};
use crate::jobs;
use crate::latency::{Operation, Summary};
use crate::models;
use crate::pressure;
use crate::reply::Value;

/// Columns of the page.
const WIDTH: usize = 76;
/// Columns of a bar.
const BAR: usize = 20;
/// Columns of the names on the left.
const NAMES: usize = 13;

/// `MEM.REPORT key`
pub fn report(ctx: Ctx, args: &Parsed) -> Outcome {
    let (key, now) = (args.key("key"), ffi::now());
    let page = read(ctx, key, |held| {
        let used = pressure::used();
        let report = Report {
            name: printable(key),
            stats: held.space.stats(now),
            max_memory: held.space.config().max_memory,
            consolidated: held.consolidated.clone(),
            now,
            cache: models::cache().stats(),
            latencies: Operation::ALL.map(|operation| (operation.name(), operation.summary())),
            queued: (jobs::queued(), config::queue_limit() as u64),
            server_memory: (used > 0.0).then_some(used),
            under_pressure: pressure::is_on(),
            given_up: pressure::given_up().memories,
            alerts: alerts::active(Some(held.incarnation)).iter().map(|alert| (alert.since, said(alert))).collect(),
        };
        Ok(Value::Page(report.page()))
    })?;
    Ok(page.unwrap_or(Value::Null).into())
}

/// An alert in words: the page is about one space, so only the server's says whose it is.
fn said(alert: &Active) -> String {
    let of = if alert.place.is_none() { "server: " } else { "" };
    format!("{of}{}", alert.sentence())
}

/// What the page shows.
struct Report {
    name: String,
    stats: Stats,
    max_memory: u64,
    consolidated: Option<Consolidated>,
    now: u64,
    cache: CacheStats,
    latencies: [(&'static str, Summary); Operation::ALL.len()],
    /// Jobs, and how many there may be.
    queued: (u64, u64),
    /// Percent of `maxmemory`, if there is one.
    server_memory: Option<f64>,
    under_pressure: bool,
    /// Memories, since the start of the server.
    given_up: u64,
    /// Since when, and what.
    alerts: Vec<(u64, String)>,
}

impl Report {
    fn page(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.title(&mut lines);
        self.tiers(&mut lines);
        self.heat(&mut lines);
        self.recalls(&mut lines);
        self.movements(&mut lines);
        self.server(&mut lines);
        self.alerts(&mut lines);
        lines
    }

    fn title(&self, lines: &mut Vec<String>) {
        let stats = &self.stats;
        let totals = format!("{} · {}", counted(stats.count as u64, "memory", "memories"), bytes(stats.memory as u64));
        lines.push(spread(&self.name, &totals));
        lines.push("═".repeat(WIDTH));
        let vectors = match (stats.dim, &stats.model) {
            (None, _) => "no vectors yet".to_owned(),
            (Some(dim), None) => format!("vectors of the caller's own, {dim} × {}", stats.precision.name()),
            (Some(dim), Some(model)) => {
                format!("vectors by {}, {dim} × {}", model, stats.precision.name())
            }
        };
        let sessions = counted(stats.sessions as u64, "session", "sessions");
        let documents = counted(stats.documents as u64, "document", "documents");
        lines.push(spread(&vectors, &format!("{sessions} · {documents}")));
        if stats.awaiting > 0 {
            lines.push(format!("{} for vectors", counted(stats.awaiting as u64, "memory waits", "memories wait")));
        }
    }

    fn heat(&self, lines: &mut Vec<String>) {
        heading(lines, "Heat", "memories       bytes each       bytes");
        let all = self.stats.heats.iter().map(|of| of.count).sum::<usize>();
        for (heat, of) in Heat::ALL.into_iter().zip(&self.stats.heats) {
            let each = of.bytes.checked_div(of.count).map_or("–".to_owned(), |each| thousands(each as u64));
            let share = bar(of.count as f64 / all.max(1) as f64);
            let count = thousands(of.count as u64);
            lines.push(format!(
                "  {:<NAMES$}{share}  {count:>10}   {each:<10}{:>10}",
                heat.name(),
                bytes(of.bytes as u64)
            ));
        }
    }

    fn tiers(&self, lines: &mut Vec<String>) {
        heading(lines, "Tiers", "memories / capacity       bytes");
        for (tier, of) in Tier::ALL.into_iter().zip(&self.stats.tiers) {
            let TierStats { count, capacity, .. } = *of;
            let (full, holds) = if capacity == 0 {
                (format!("{}      ", " ".repeat(BAR)), "∞".to_owned())
            } else {
                (bar(of.utilisation), thousands(capacity))
            };
            let count = thousands(count as u64);
            lines.push(format!(
                "  {:<NAMES$}{full}  {count:>10} / {holds:<10}{:>10}",
                tier.name(),
                bytes(of.bytes as u64)
            ));
        }
        let pinned = self.stats.tiers.iter().map(|tier| tier.pinned as u64).sum::<u64>();
        let beside = [(pinned, "pinned"), (self.stats.superseded as u64, "superseded, kept as history")];
        let beside: Vec<String> =
            beside.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", thousands(*n))).collect();
        if !beside.is_empty() {
            lines.push(format!("  {:<NAMES$}{}", "of these", beside.join(" · ")));
        }
        if self.max_memory > 0 {
            let used = self.stats.bytes as u64;
            let full = bar(used as f64 / self.max_memory as f64);
            lines.push(format!("  {:<NAMES$}{full}  {:>12} of {}", "max-memory", bytes(used), bytes(self.max_memory)));
        }
    }

    fn recalls(&self, lines: &mut Vec<String>) {
        heading(lines, "Recalls", "");
        let (hits, misses) = (self.stats.counters.hits, self.stats.counters.misses);
        lines.push(match self.stats.hit_rate {
            None => "  nothing was asked yet".to_owned(),
            Some(rate) => {
                let of = format!("{} of {}", thousands(hits), thousands(hits + misses));
                format!("  {:<NAMES$}{}  {of}", "found", bar(rate))
            }
        });
    }

    fn movements(&self, lines: &mut Vec<String>) {
        heading(lines, "What came and went", "");
        let c = &self.stats.counters;
        for row in [
            [("stored", c.stores), ("duplicates", c.duplicates), ("merged", c.merges)],
            [("promoted", c.promotions), ("evicted", c.evictions), ("expired", c.expirations)],
        ] {
            let cells = row.map(|(name, n)| format!("{name:<12}{:>11}", thousands(n)));
            lines.push(format!("  {}", cells.join("  ")));
        }
        let consolidated = match &self.consolidated {
            None => "not since this server has the space".to_owned(),
            Some(last) => {
                let changes: Vec<String> = last
                    .changes
                    .iter()
                    .filter(|(_, n)| *n > 0)
                    .map(|(what, n)| format!("{} {what}", thousands(*n)))
                    .collect();
                let did = if changes.is_empty() { "nothing to do".to_owned() } else { changes.join(", ") };
                format!("{} ago: {did}", span(self.now, last.at))
            }
        };
        lines.push(format!("  {:<NAMES$}{}", "consolidated", shortened(&consolidated, WIDTH - NAMES - 2)));
    }

    fn server(&self, lines: &mut Vec<String>) {
        heading(lines, "Server, since its start", "count        p50        p99");
        for (name, Summary { count, p50, p99 }) in self.latencies.iter().filter(|(_, told)| told.count > 0) {
            let row = [thousands(*count), duration(*p50), duration(*p99)];
            let [count, p50, p99] = row.map(|cell| format!("{cell:>11}"));
            lines.push(spread(&format!("  {}", name.replace('_', " ")), &format!("{count}{p50}{p99}")));
        }
        let asked = self.cache.hits + self.cache.misses;
        let cache = [thousands(self.cache.texts as u64), bytes(self.cache.bytes as u64)].join(" texts, ");
        if asked > 0 {
            let rate = bar(self.cache.hits as f64 / asked as f64);
            lines.push(format!("  {:<NAMES$}{rate}  found, {cache}", "embeddings"));
        }
        let (queued, limit) = self.queued;
        let jobs = format!("{} of {}", thousands(queued), thousands(limit));
        lines.push(format!("  {:<NAMES$}{}  {jobs} places", "job queue", bar(queued as f64 / limit.max(1) as f64)));
        if let Some(used) = self.server_memory {
            lines.push(format!("  {:<NAMES$}{}  of maxmemory", "memory", bar(used / 100.0)));
        }
        if self.under_pressure || self.given_up > 0 {
            let now = if self.under_pressure { "now" } else { "none now" };
            let given_up = counted(self.given_up, "memory", "memories");
            lines.push(format!("  {:<NAMES$}{now}; {given_up} given up since the start", "pressure"));
        }
    }

    fn alerts(&self, lines: &mut Vec<String>) {
        heading(lines, "Alerts", "");
        if self.alerts.is_empty() {
            lines.push("  none".to_owned());
        }
        for (since, line) in &self.alerts {
            lines.push(shortened(&format!("  ! {line}, for {}", span(self.now, *since)), WIDTH));
        }
    }
}

/// An empty line and a line that begins a part, with what stands over its columns.
fn heading(lines: &mut Vec<String>, title: &str, columns: &str) {
    lines.push(String::new());
    lines.push(spread(title, columns));
}

/// One text on the left of a line, as far as there is room, another on its right.
fn spread(left: &str, right: &str) -> String {
    let room = WIDTH.saturating_sub(right.chars().count());
    let left = shortened(left, room.saturating_sub(2));
    let between = room.saturating_sub(left.chars().count());
    format!("{left}{}{right}", " ".repeat(between)).trim_end().to_owned()
}

/// At most so many characters of a text.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A share as a bar, to an eighth of a column, and in percent. Something is never shown as nothing, nor less than all as all.
fn bar(share: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let share = if share.is_nan() { 0.0 } else { share };
    let most = BAR * 8;
    let eighths = (share.clamp(0.0, 1.0) * most as f64).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    let eighths = if share < 1.0 { eighths.min(most - 1) } else { most };
    let part = EIGHTHS.get(eighths % 8).copied().unwrap_or_default();
    let full = "█".repeat(eighths / 8);
    let empty = "░".repeat(BAR - eighths / 8 - usize::from(!part.is_empty()));
    let percent = (100.0 * share).round();
    let percent = match share {
        share if share > 0.0 && percent == 0.0 => "<1".to_owned(),
        share if share < 1.0 => percent.clamp(0.0, 99.0).to_string(),
        _ => percent.min(999.0).to_string(),
    };
    format!("{full}{part}{empty} {percent:>3} %")
}

/// A number with commas between its thousands.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", thousands(n), if n == 1 { one } else { many })
}

/// Three digits and a unit.
fn scaled(value: f64, unit: &str) -> String {
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = "KiB";
    for larger in UNITS.iter().skip(1) {
        if value < 999.5 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    scaled(value, unit)
}

fn duration(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..999_500 => scaled(micros as f64 / 1e3, "ms"),
        _ => scaled(micros as f64 / 1e6, "s"),
    }
}

/// How long ago a time is, in the unit that says most.
fn span(now: u64, then: u64) -> String {
    let seconds = now.saturating_sub(then) / 1_000;
    let (n, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{n} {unit}")
}

#[cfg(test)]
mod tests;
