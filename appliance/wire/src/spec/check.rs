//! The bounds of a specification that its types do not express.

use serde_json::Value;

use super::{
    AFTER_MAX, CAUSES_MAX, DELAY_S_MAX, INPUTS_MAX, Input, JobSpec, LABELS_MAX, NESTING_MAX, SpecError, UNIQUE_S_MAX,
    Unique, VRAM_GB_MAX,
};
use crate::job::{is_name, parse_arch, split_s3_uri};

impl JobSpec {
    /// Checks the bounds that the types do not express.
    ///
    /// # Errors
    /// The first field that is out of its bounds.
    pub fn check(&self) -> Result<(), SpecError> {
        let field = |field, problem: &str| Err(SpecError::Field { field, problem: problem.to_owned() });
        if !is_name(&self.kind) {
            return field("type", "is 1 to 128 letters, digits, `.`, `_`, `-`");
        }
        if self.job_id.as_deref().is_some_and(|id| !is_name(id)) {
            return field("job_id", "is 1 to 128 letters, digits, `.`, `_`, `-`");
        }
        for (name, value) in [("user_id", &self.user_id), ("project_id", &self.project_id)] {
            if value.as_ref().is_some_and(|id| id.is_empty() || id.len() > 256 || id.chars().any(char::is_control)) {
                return field(name, "is 1 to 256 bytes without control characters");
            }
        }
        if self.labels.len() > LABELS_MAX {
            return field("labels", "has more than 64 entries");
        }
        if self.labels.iter().any(|(k, v)| !is_name(k) || v.len() > 256) {
            return field(
                "labels",
                "has a name that is not 1 to 128 letters, digits, `.`, `_`, `-`, or a value over 256 bytes",
            );
        }
        if self.inputs.len() > INPUTS_MAX {
            return field("inputs", "has more than 1,000 entries");
        }
        if let Some(input) = self.inputs.iter().find(|input| !input.is_sound()) {
            return Err(SpecError::Field {
                field: "inputs",
                problem: format!(
                    "has `{}`, which is neither `uri` with s3://bucket/key nor `job` with an id",
                    input.job.as_ref().unwrap_or(&input.uri).chars().take(200).collect::<String>()
                ),
            });
        }
        if self.output.as_ref().is_some_and(|output| split_s3_uri(&output.prefix).is_none()) {
            return field("output.prefix", "is not s3://bucket/prefix/");
        }
        if self.requirements.vram_gb.is_some_and(|gb| !gb.is_finite() || !(0.0..=VRAM_GB_MAX).contains(&gb)) {
            return field("requirements.vram_gb", "is a number of GB from 0 to 4096");
        }
        if self.requirements.arch.as_ref().is_some_and(|arch| parse_arch(arch).is_none()) {
            return field("requirements.arch", "is `sm_NN` or `sm_NN+`");
        }
        for (name, value) in [("limits.soft_s", self.limits.soft_s), ("limits.hard_s", self.limits.hard_s)] {
            if value.is_some_and(|s| s == 0 || s > 30 * 86_400) {
                return field(name, "is 1 second to 30 days");
            }
        }
        if let (Some(soft), Some(hard)) = (self.limits.soft_s, self.limits.hard_s)
            && soft > hard
        {
            return field("limits.soft_s", "is more than limits.hard_s");
        }
        if self.retry.failures == 0 || self.retry.failures > 100 {
            return field("retry.failures", "is 1 to 100");
        }
        if self.retry.backoff_s > 86_400 {
            return field("retry.backoff_s", "is at most 86,400 seconds");
        }
        self.check_causes()?;
        self.check_when()?;
        if self.parameters.values().chain(self.extra.values()).any(|value| nests_deeper(value, NESTING_MAX)) {
            return field("parameters", "or another value nests deeper than 64 levels");
        }
        if self.traceparent.as_deref().is_some_and(|text| !is_traceparent(text)) {
            return field("traceparent", "is not a W3C trace context (00-<32 hex>-<16 hex>-<2 hex>)");
        }
        Ok(())
    }
}

impl JobSpec {
    fn check_causes(&self) -> Result<(), SpecError> {
        let field = |problem: String| Err(SpecError::Field { field: "retry.causes", problem });
        if self.retry.causes.len() > CAUSES_MAX {
            return field(format!("has more than {CAUSES_MAX} entries"));
        }
        for (cause, rule) in &self.retry.causes {
            if !is_name(cause) {
                return field("has a name that is not 1 to 128 letters, digits, `.`, `_`, `-`".into());
            }
            if rule.failures.is_some_and(|n| n == 0 || n > 100) {
                return field(format!("`{cause}`: `failures` is 1 to 100"));
            }
            if rule.backoff_s.is_some_and(|s| s > 86_400) {
                return field(format!("`{cause}`: `backoff_s` is at most 86,400 seconds"));
            }
            if rule.vram_factor.is_some_and(|factor| !(1.0..=16.0).contains(&factor)) {
                return field(format!("`{cause}`: `vram_factor` is 1 to 16"));
            }
            if rule.vram_gb.is_some_and(|gb| !(0.0..=VRAM_GB_MAX).contains(&gb)) {
                return field(format!("`{cause}`: `vram_gb` is a number of GB from 0 to 4096"));
            }
            if rule.vram_factor.is_some() && rule.vram_gb.is_none() && self.requirements.vram_gb.is_none() {
                return field(format!(
                    "`{cause}`: `vram_factor` needs `requirements.vram_gb` to multiply, or a `vram_gb`"
                ));
            }
        }
        Ok(())
    }

    fn check_when(&self) -> Result<(), SpecError> {
        let field = |field, problem: &str| Err(SpecError::Field { field, problem: problem.to_owned() });
        if self.delay_s.is_some_and(|s| s > DELAY_S_MAX) {
            return field("delay_s", "is at most 366 days");
        }
        if let Some(Unique { key, period_s }) = &self.unique {
            if key.is_empty() || key.len() > 256 || key.chars().any(char::is_control) {
                return field("unique.key", "is 1 to 256 bytes without control characters");
            }
            if period_s.is_some_and(|s| s == 0 || s > UNIQUE_S_MAX) {
                return field("unique.period_s", "is 1 second to 30 days");
            }
        }
        if self
            .rate
            .as_ref()
            .is_some_and(|rate| rate.key.is_empty() || rate.key.len() > 128 || rate.key.chars().any(char::is_control))
        {
            return field("rate.key", "is 1 to 128 bytes without control characters");
        }
        if self.after.len() > AFTER_MAX {
            return field("after", "has more than 1,000 entries");
        }
        if self.after.iter().any(|after| !is_name(&after.job)) {
            return field("after", "has an entry that is no job's id");
        }
        if self.job_id.as_ref().is_some_and(|id| self.waits_for().any(|(job, _)| job == id)) {
            return field("after", "names the job itself");
        }
        if self.flow_id.as_deref().is_some_and(|id| !is_name(id)) {
            return field("flow_id", "is 1 to 128 letters, digits, `.`, `_`, `-`");
        }
        Ok(())
    }
}

impl Input {
    fn is_sound(&self) -> bool {
        match &self.job {
            Some(job) => self.uri.is_empty() && is_name(job),
            None => self.output.is_none() && split_s3_uri(&self.uri).is_some_and(|(_, key)| !key.is_empty()),
        }
    }
}

/// Whether `value` has more than `levels` arrays and objects inside of each other.
#[must_use]
pub fn nests_deeper(value: &Value, levels: usize) -> bool {
    let inner = levels.saturating_sub(1);
    match value {
        Value::Array(values) => levels == 0 || values.iter().any(|value| nests_deeper(value, inner)),
        Value::Object(fields) => levels == 0 || fields.values().any(|value| nests_deeper(value, inner)),
        _ => false,
    }
}

fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let hex = |part: Option<&str>, digits: usize| {
        part.is_some_and(|p| p.len() == digits && p.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
    };
    hex(parts.next(), 2)
        && hex(parts.next(), 32)
        && hex(parts.next(), 16)
        && hex(parts.next(), 2)
        && parts.next().is_none()
}
