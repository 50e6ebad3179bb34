//! What the lab tells its user: one line for every thing that was proved.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;

/// One proved or failed statement.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Section, for example `Policy`.
    pub section: &'static str,
    /// What was to hold.
    pub what: String,
    /// Whether it held.
    pub ok: bool,
    /// Numbers, or why it did not hold.
    pub detail: String,
    /// How long it took, milliseconds.
    pub milliseconds: f64,
}

/// Collects lines and prints them as they come.
#[derive(Debug)]
pub struct Report {
    started: Instant,
    section: &'static str,
    json: bool,
    lines: Vec<Line>,
    measured: Vec<(String, f64, &'static str)>,
}

/// The whole report as one JSON object.
#[derive(Debug, Serialize)]
struct Json<'a> {
    ok: bool,
    seconds: f64,
    lines: &'a [Line],
    measured: std::collections::BTreeMap<&'a str, (f64, &'a str)>,
}

impl Report {
    /// An empty report. With `json`, nothing is printed before [`Report::finish`].
    pub fn new(json: bool) -> Self {
        Self { started: Instant::now(), section: "", json, lines: Vec::new(), measured: Vec::new() }
    }

    /// Starts a section.
    pub fn section(&mut self, title: &'static str) {
        self.section = title;
        self.print(format_args!("\n{title}\n"));
    }

    /// Runs `step` and records whether it held. Its text is the detail of the line.
    pub fn step(&mut self, what: impl Into<String>, step: impl FnOnce() -> Result<String, String>) -> bool {
        let begun = Instant::now();
        let outcome = step();
        self.record(what, outcome, begun.elapsed())
    }

    /// Records an outcome that was found elsewhere.
    pub fn record(
        &mut self,
        what: impl Into<String>,
        outcome: Result<String, String>,
        took: Duration,
    ) -> bool {
        let ok = outcome.is_ok();
        let line = Line {
            section: self.section,
            what: what.into(),
            ok,
            detail: outcome.unwrap_or_else(|why| why),
            milliseconds: took.as_secs_f64() * 1000.0,
        };
        let mark = if ok { '✓' } else { '✗' };
        let time = format_duration(took);
        if line.detail.contains('\n') {
            self.print(format_args!("  {mark} {:<66} {time:>9}\n", line.what));
            for text in line.detail.lines() {
                self.print(format_args!("      {text}\n"));
            }
        } else if line.detail.is_empty() {
            self.print(format_args!("  {mark} {:<66} {time:>9}\n", line.what));
        } else {
            self.print(format_args!("  {mark} {:<66} {time:>9}  {}\n", line.what, line.detail));
        }
        self.lines.push(line);
        ok
    }

    /// Notes a measured number.
    pub fn measure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.measured.push((name.into(), value, unit));
    }

    /// Prints a remark.
    pub fn remark(&self, text: &str) {
        self.print(format_args!("{text}\n"));
    }

    /// True when every line held so far.
    pub fn ok(&self) -> bool {
        self.lines.iter().all(|line| line.ok)
    }

    /// Prints numbers and sum, and says whether everything held.
    pub fn finish(&mut self) -> bool {
        let ok = self.ok() && !self.lines.is_empty();
        let seconds = self.started.elapsed().as_secs_f64();
        if self.json {
            let measured =
                self.measured.iter().map(|(name, value, unit)| (name.as_str(), (*value, *unit))).collect();
            let json = Json { ok, seconds, lines: &self.lines, measured };
            let text = serde_json::to_string_pretty(&json).unwrap_or_default();
            let _ = writeln!(std::io::stdout(), "{text}");
            return ok;
        }
        if !self.measured.is_empty() {
            self.print(format_args!("\nMeasured\n"));
            for (name, value, unit) in self.measured.clone() {
                self.print(format_args!("    {name:<66} {value:>9.1} {unit}\n"));
            }
        }
        let failed = self.lines.iter().filter(|line| !line.ok).count();
        let passed = self.lines.len() - failed;
        self.print(format_args!("\n{passed} passed, {failed} failed in {seconds:.1} s\n"));
        ok
    }

    fn print(&self, text: std::fmt::Arguments<'_>) {
        if !self.json {
            let mut out = std::io::stdout().lock();
            // A reader that went away is no reason to stop taking the cluster down in order.
            let _ = out.write_fmt(text).and_then(|()| out.flush());
        }
    }
}

fn format_duration(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1000.0;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 10_000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

/// The `p`-th percentile (0..=100) of `values` by nearest rank; 0 when there are none.
pub fn percentile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = ((p / 100.0) * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_line_spoils_the_report() {
        let mut report = Report::new(true);
        assert!(report.step("holds", || Ok(String::new())));
        assert!(report.ok());
        assert!(!report.step("does not", || Err("because".into())));
        assert!(!report.ok());
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), 50.0);
        assert_eq!(percentile(&values, 99.0), 99.0);
        assert_eq!(percentile(&[], 50.0), 0.0);
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
    }
}
