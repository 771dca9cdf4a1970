//! Progress of one task over its inputs, and what its outputs are called.

use std::collections::BTreeSet;
use std::path::Path;

use super::Report;

/// A percentage is reported when it has risen by this much.
const PERCENT_STEP: f32 = 0.5;

pub(super) struct Progress {
    names: BTreeSet<String>,
    /// Last one that was reported.
    percent: f32,
    /// Of one input in the whole.
    pub(super) share: f32,
}

impl Progress {
    /// Of a task with so many inputs.
    pub(super) fn new(inputs: usize) -> Self {
        Self { names: BTreeSet::new(), percent: 0.0, share: 1.0 / inputs.max(1) as f32 }
    }

    /// Reports how far it is: inputs that are done as a share of the whole, and the share of the one under way.
    pub(super) fn percent(&mut self, base: f32, of_input: f32, report: &mut (dyn FnMut(Report) + Send)) {
        let percent = ((base + of_input * self.share) * 100.0).clamp(0.0, 100.0);
        if percent >= self.percent + PERCENT_STEP || (percent >= 100.0 && self.percent < 100.0) {
            self.percent = percent;
            report(Report::Percent(percent));
        }
    }

    /// `<input's name>-<suffix>.<ending>`, told apart by a number where two inputs are called the same.
    pub(super) fn name(&mut self, input: &Path, suffix: &str, ending: &str) -> String {
        let stem = input.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let stem: String = stem
            .chars()
            .map(|c| if c.is_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' })
            .take(100)
            .collect();
        let stem = if stem.trim_matches('.').is_empty() { "output".to_owned() } else { stem };
        let mut name = format!("{stem}-{suffix}.{ending}");
        let mut number = 2;
        while !self.names.insert(name.clone()) {
            name = format!("{stem}-{suffix}-{number}.{ending}");
            number += 1;
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_of_inputs_with_one_name_are_told_apart() {
        let mut progress = Progress::new(3);
        assert_eq!(progress.name(Path::new("/a/in put.png"), "x2", "png"), "in_put-x2.png");
        assert_eq!(progress.name(Path::new("/b/in put.jpg"), "x2", "png"), "in_put-x2-2.png");
        assert_eq!(progress.name(Path::new("/b/.."), "x3", "mp4"), "output-x3.mp4");
    }
}
