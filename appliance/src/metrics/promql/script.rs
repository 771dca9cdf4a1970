//! Runs Prometheus's own test scripts against our evaluator, and holds the number that pass.
//!
//! The scripts are data that is not in this repository: `BACKLOT_TESTDATA` names a folder with `promqltest/*.test`. A check
//! that needs native histograms, which we do not have, counts as failed; nothing is left out of the count.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Answer, Budget, Limits, Notes, QueryError, Range, SeriesAnswer, Source, duration_ms, script_series};
use crate::clock::SystemClock;
use crate::metrics::model::{Labels, Sample, Selector, SeriesSamples};

/// Checks that pass, by script. These may only rise.
const PASSING: &[(&str, usize)] = &[
    ("aggregators", 125),
    ("at_modifier", 78),
    ("collision", 2),
    ("limit", 15),
    ("literals", 25),
    ("name_label_dropping", 30),
    ("operators", 145),
    ("range_queries", 17),
    ("selectors", 31),
    ("staleness", 17),
    ("subquery", 32),
    ("trig_functions", 19),
];

/// Series held plainly.
#[derive(Default)]
pub(super) struct Memory {
    series: BTreeMap<Labels, Vec<Sample>>,
}

impl Source for Memory {
    fn select(
        &self,
        selector: &Selector,
        from: i64,
        to: i64,
        budget: &Budget,
    ) -> Result<Vec<SeriesSamples>, QueryError> {
        let mut found = Vec::new();
        for (labels, samples) in self.series.iter().filter(|(labels, _)| selector.matches(labels)) {
            let inside = samples.iter().filter(|sample| (from..=to).contains(&sample.t_ms)).copied();
            let samples: Vec<Sample> = inside.collect();
            budget.charge(samples.len())?;
            if !samples.is_empty() {
                found.push(SeriesSamples { labels: labels.clone(), samples });
            }
        }
        Ok(found)
    }
}

struct Check {
    line: usize,
    command: String,
    below: Vec<String>,
}

fn time_ms(text: &str) -> Result<i64, String> {
    // A script may begin at `0m`; the API has no use for a duration of nothing.
    if text.trim_end_matches(char::is_alphabetic) == "0" { Ok(0) } else { duration_ms(text) }
}

fn close(a: f64, b: f64) -> bool {
    if a.is_nan() || b.is_nan() {
        return a.is_nan() && b.is_nan();
    }
    if a == b {
        return true;
    }
    let (difference, sum) = ((a - b).abs(), a.abs() + b.abs());
    if sum < f64::MIN_POSITIVE { difference < 1e-6 * f64::MIN_POSITIVE } else { difference / sum.min(f64::MAX) < 1e-6 }
}

impl Memory {
    pub(super) fn instant(&self, text: &str, t_ms: i64) -> Result<Answer, QueryError> {
        super::instant(self, &super::parse(text)?, t_ms, &crate::metrics::testing::budget())
    }

    pub(super) fn load(&mut self, step_ms: i64, line: &str) -> Result<(), String> {
        let (labels, values) = script_series::line(line)?;
        let at = |(index, value): (usize, Option<f64>)| Some(Sample { t_ms: index as i64 * step_ms, value: value? });
        let samples = self.series.entry(labels).or_default();
        samples.extend(values.into_iter().enumerate().filter_map(at));
        samples.sort_by_key(|sample| sample.t_ms);
        Ok(())
    }

    fn check(&self, check: &Check) -> Result<(), String> {
        let words: Vec<&str> = check.command.split_whitespace().collect();
        let after = |words_before: usize| {
            let mut rest = check.command.trim_start();
            for _ in 0..words_before {
                rest = rest.trim_start().split_once(char::is_whitespace).map_or("", |(_, rest)| rest);
            }
            rest.trim().to_owned()
        };
        let instant = words[1] == "instant";
        let range = if instant {
            Range::instant(time_ms(words[3])?)
        } else {
            Range { start_ms: time_ms(words[3])?, end_ms: time_ms(words[5])?, step_ms: time_ms(words[7])? }
        };
        let text = after(if instant { 4 } else { 8 });
        let limits = Limits { samples_max: 50_000_000, timeout_ms: 60_000 };
        let budget = Budget::new(&limits, Arc::new(SystemClock::new()), Arc::new(AtomicBool::new(false)));
        let answer = super::parse(&text).and_then(|expr| {
            if instant {
                super::instant(self, &expr, range.start_ms, &budget)
            } else {
                super::range(self, &expr, range, &budget)
            }
        });
        let notes = budget.into_notes();
        let mut expected =
            Expected { fails: words[0] == "eval_fail", ordered: words[0] == "eval_ordered", ..Expected::default() };
        for line in &check.below {
            expected.read(line)?;
        }
        expected.compare(answer, &notes, range, instant)
    }
}

#[derive(Default)]
struct Expected {
    fails: bool,
    fail_text: Option<String>,
    ordered: bool,
    text: Option<String>,
    scalar: Option<f64>,
    matrix: Option<Range>,
    info: Option<bool>,
    warn: Option<bool>,
    warn_text: Option<String>,
    series: Vec<(Labels, Vec<Option<f64>>)>,
}

impl Expected {
    fn read(&mut self, line: &str) -> Result<(), String> {
        let Some(rest) = line.strip_prefix("expect ") else {
            match script_series::number(line) {
                Ok(number) => self.scalar = Some(number),
                Err(_) => self.series.push(script_series::line(line)?),
            }
            return Ok(());
        };
        let rest = rest.trim();
        let message = |text: &str| text.split_once("msg:").map(|(_, text)| text.trim().to_owned());
        if rest.starts_with("fail") {
            self.fails = true;
            self.fail_text = message(rest);
        } else if rest == "ordered" {
            self.ordered = true;
        } else if rest.starts_with("info") {
            self.info = Some(true);
        } else if rest.starts_with("no_info") {
            self.info = Some(false);
        } else if rest.starts_with("warn") {
            self.warn = Some(true);
            self.warn_text = message(rest);
        } else if rest.starts_with("no_warn") {
            self.warn = Some(false);
        } else if let Some(text) = rest.strip_prefix("string ") {
            let text = text.trim();
            self.text = Some(text[1..text.len() - 1].to_owned());
        } else if let Some(range) = rest.strip_prefix("range vector ") {
            let words: Vec<&str> = range.split_whitespace().collect();
            let step_ms = time_ms(words[5])?;
            self.matrix = Some(Range { start_ms: time_ms(words[1])?, end_ms: time_ms(words[3])?, step_ms });
        } else {
            return Err(format!("unknown expectation {rest}"));
        }
        Ok(())
    }

    fn compare(
        self,
        answer: Result<Answer, QueryError>,
        notes: &Notes,
        range: Range,
        instant: bool,
    ) -> Result<(), String> {
        let answer = match (answer, self.fails) {
            (Err(error), true) => {
                let error = error.to_string();
                return match self.fail_text {
                    Some(text) if !error.contains(&text) => Err(format!("failed with `{error}`, not `{text}`")),
                    _ => Ok(()),
                };
            }
            (Ok(_), true) => return Err("did not fail".into()),
            (Err(error), false) => return Err(error.to_string()),
            (Ok(answer), false) => answer,
        };
        if self.info.is_some_and(|expected| expected == notes.infos.is_empty()) {
            return Err(format!("infos {:?}", notes.infos));
        }
        if self.warn.is_some_and(|expected| expected == notes.warnings.is_empty()) {
            return Err(format!("warnings {:?}", notes.warnings));
        }
        if let Some(text) = &self.warn_text {
            // Ours have no position in the expression: the parser gives none.
            let bare = text.rsplit_once(" (").map_or(text.as_str(), |(bare, _)| bare);
            if !notes.warnings.iter().any(|note| note == bare) {
                return Err(format!("warnings {:?}, not {text}", notes.warnings));
            }
        }
        match answer {
            Answer::Text(text) => {
                if self.text.as_deref() == Some(&text) {
                    Ok(())
                } else {
                    Err(format!("text {text:?}"))
                }
            }
            Answer::Scalar(sample) => match self.scalar {
                Some(expected) if close(expected, sample.value) => Ok(()),
                expected => Err(format!("{} instead of {expected:?}", sample.value)),
            },
            Answer::Vector(series) => self.series_equal(&series, range, self.ordered),
            Answer::Matrix(series) => {
                self.series_equal(&series, if instant { self.matrix.ok_or("a matrix")? } else { range }, false)
            }
        }
    }

    fn series_equal(&self, found: &[SeriesAnswer], range: Range, ordered: bool) -> Result<(), String> {
        if found.len() != self.series.len() {
            return Err(format!("{} series instead of {}: {found:?}", found.len(), self.series.len()));
        }
        for (place, (labels, values)) in self.series.iter().enumerate() {
            let one = found
                .iter()
                .position(|series| series.labels == *labels)
                .ok_or_else(|| format!("no {labels} in {found:?}"))?;
            if ordered && one != place {
                return Err(format!("{labels} stands at {one}, not {place}"));
            }
            let expected: Vec<Sample> = values
                .iter()
                .enumerate()
                .filter_map(|(step, value)| {
                    Some(Sample { t_ms: range.start_ms + step as i64 * range.step_ms, value: (*value)? })
                })
                .collect();
            let samples = &found[one].samples;
            let equal = samples.len() == expected.len()
                && samples.iter().zip(&expected).all(|(a, b)| a.t_ms == b.t_ms && close(a.value, b.value));
            if !equal {
                return Err(format!("{labels}: {samples:?} instead of {expected:?}"));
            }
        }
        Ok(())
    }
}

/// Passed, failed, and what the failures say.
fn run(script: &str) -> (usize, usize, Vec<String>) {
    let (mut memory, mut passed, mut failures) = (Memory::default(), 0, Vec::new());
    let mut lines = script.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let command = line.trim();
        if command.is_empty() || command.starts_with('#') {
            continue;
        }
        let mut below = Vec::new();
        while let Some((_, next)) = lines.peek() {
            if next.trim().is_empty() || !next.starts_with(char::is_whitespace) && !next.starts_with('#') {
                break;
            }
            if !next.trim().starts_with('#') {
                below.push(next.trim().to_owned());
            }
            lines.next();
        }
        if command == "clear" {
            memory = Memory::default();
        } else if let Some(step) = command.strip_prefix("load") {
            let step_ms = step.split_whitespace().last().and_then(|step| duration_ms(step).ok()).expect("a step");
            for line in &below {
                let _ = memory.load(step_ms, line); // a native histogram is not loaded; the checks that need it fail
            }
        } else {
            let check = Check { line: number + 1, command: command.to_owned(), below };
            match memory.check(&check) {
                Ok(()) => passed += 1,
                Err(problem) => {
                    let short: String = problem.chars().take(300).collect();
                    failures.push(format!("{}: {}: {short}", check.line, check.command));
                }
            }
        }
    }
    (passed, failures.len(), failures)
}

#[test]
fn prometheus_scripts_pass_at_least_as_often_as_recorded() {
    let Some(folder) = std::env::var_os("BACKLOT_TESTDATA").map(|folder| PathBuf::from(folder).join("promqltest"))
    else {
        println!("skipped prometheus_scripts_pass_at_least_as_often_as_recorded: BACKLOT_TESTDATA is not set");
        return;
    };
    let verbose = std::env::var_os("BACKLOT_TESTDATA_VERBOSE").is_some();
    let mut fell = Vec::new();
    let (mut all_passed, mut all_failed) = (0, 0);
    for (name, least) in PASSING {
        let script = std::fs::read(folder.join(format!("{name}.test"))).expect("the script");
        let (passed, failed, failures) = run(&String::from_utf8_lossy(&script));
        println!("{name}: {passed} of {}", passed + failed);
        if verbose {
            failures.iter().for_each(|failure| println!("    {failure}"));
        }
        (all_passed, all_failed) = (all_passed + passed, all_failed + failed);
        if passed < *least {
            fell.push(format!("{name}: {passed} pass, {least} did"));
        }
    }
    println!("all: {all_passed} of {}", all_passed + all_failed);
    assert!(fell.is_empty(), "{fell:?}");
}

#[test]
fn a_script_of_our_own_passes_and_a_wrong_one_fails() {
    let script = "load 1m\n  up{job=\"a\"} 1 1 0 stale\n  up{job=\"b\"} 0+1x3\n\n\
                  eval instant at 2m sum(up)\n  {} 2\n\n\
                  eval range from 0 to 3m step 1m up == 1\n  up{job=\"a\"} 1 1 _ _\n  up{job=\"b\"} _ 1 _ _\n\n\
                  eval instant at 3m rate(up{job=\"b\"}[3m]) * 60\n  {job=\"b\"} 1\n\n\
                  eval instant at 1m up + on(job) group_left other\n\n\
                  eval instant at 1m absent(nothing{job=\"x\"})\n  {job=\"x\"} 1\n\n";
    assert_eq!((run(script).0, run(script).2), (5, vec![]));
    assert_eq!(run(&script.replace("{} 2", "{} 3")).1, 1, "the runner sees a wrong value");
    assert_eq!(run(&script.replace("{job=\"x\"} 1", "")).1, 1, "and a missing series");
}
