//! Which jobs may be computed together.
//!
//! The appliance tells jobs apart by it when an agent asks for more of a kind, the agent when it hands jobs to a worker. What only the
//! inputs say (a picture's size) is not in it: a worker computes what turns out to be of another shape after the rest.

use crate::JobSpec;

/// The types whose jobs are computed together, and the parameters that must be the same: those that choose weights and
/// shapes; so many of the first must be there. Everything else (text, seed, steps, scheduler, guidance, number of pictures) is each
/// job's own. A clip without `motion` is one of Stable Video Diffusion, which goes alone.
const TYPES: [(&str, usize, &[&str]); 2] = [
    ("image.generate", 1, &["model", "loras", "embeddings", "width", "height"]),
    ("video.generate", 2, &["model", "motion", "loras", "embeddings", "width", "height", "frames"]),
];
/// Longest key, in bytes. A job that names more is computed alone.
const BYTES_MAX: usize = 1_024;

impl JobSpec {
    /// What jobs that are computed together have the same of. `None`: this one is computed alone, because its type is none of those,
    /// because it does not name its models, or because it has limits of time of its own: in company a job takes longer.
    #[must_use]
    pub fn batch_key(&self) -> Option<String> {
        let (_, needed, names) = TYPES.iter().find(|(kind, ..)| *kind == self.kind)?;
        let is_named = |name: &&str| self.parameters.get(*name).is_some_and(serde_json::Value::is_string);
        if !self.limits.is_empty() || !names[..*needed].iter().all(is_named) {
            return None;
        }
        let mut key = self.kind.clone();
        for name in *names {
            // What is absent and what is null mean the same to a worker.
            let value = self.parameters.get(*name).filter(|value| !value.is_null());
            key.push('\n');
            key.push_str(&value.map_or_else(String::new, ToString::to_string));
        }
        (key.len() <= BYTES_MAX).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(body: &str) -> Option<String> {
        JobSpec::parse(body).unwrap().batch_key()
    }

    #[test]
    fn jobs_of_one_model_and_shape_have_one_key_whatever_else_they_want() {
        let one = key(r#"{"type":"image.generate","parameters":{"model":"a","width":512,"prompt":"x","steps":20}}"#);
        let other = r#"{"type":"image.generate","priority":9,"parameters":
            {"width":512,"height":null,"model":"a","prompt":"y","steps":4,"scheduler":"lcm","seed":7,"count":4}}"#;
        assert!(one.is_some());
        assert_eq!(one, key(other));
        for different in [
            r#"{"type":"image.generate","parameters":{"model":"b","width":512}}"#,
            r#"{"type":"image.generate","parameters":{"model":"a","width":768}}"#,
            r#"{"type":"image.generate","parameters":{"model":"a","height":512}}"#,
            r#"{"type":"image.generate","parameters":{"model":"a","width":512,"loras":"l"}}"#,
            r#"{"type":"image.generate","parameters":{"model":"a","width":512,"embeddings":["e"]}}"#,
            r#"{"type":"video.generate","parameters":{"model":"a","width":512,"motion":"m"}}"#,
        ] {
            let different = key(different);
            assert!(different.is_some() && different != one);
        }
    }

    #[test]
    fn other_types_and_jobs_with_limits_of_their_own_are_computed_alone() {
        let long =
            format!(r#"{{"type":"image.generate","parameters":{{"model":"a","loras":"{}"}}}}"#, "l".repeat(2_000));
        for alone in [
            r#"{"type":"image.upscale","parameters":{"model":"a"}}"#,
            r#"{"type":"image.generate"}"#,
            r#"{"type":"video.generate","parameters":{"model":"a"}}"#,
            r#"{"type":"image.generate","parameters":{"model":7}}"#,
            r#"{"type":"image.generate","parameters":{"model":"a"},"limits":{"soft_s":60}}"#,
            &long,
        ] {
            assert_eq!(key(alone), None, "{alone}");
        }
    }
}
