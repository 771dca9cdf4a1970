//! What the types of the configuration do not express.

use super::{Config, ConfigError};

impl Config {
    /// Checks what the types do not express.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the key and what it should be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("edge.in_flight_max", self.edge.in_flight_max as u64),
            ("edge.connections_max", self.edge.connections_max as u64),
            ("edge.head_timeout_s", self.edge.head_timeout_s),
            ("edge.body_timeout_s", self.edge.body_timeout_s),
            ("journal.collect_every_s", self.journal.collect_every_s),
            ("jobs.unfinished_max", self.jobs.unfinished_max as u64),
            ("jobs.lease_s", u64::from(self.jobs.lease_s)),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(ConfigError::Value { key, problem: "must be at least 1".into() });
            }
        }
        crate::jobs::check_limits(&self.jobs.limits)
            .map_err(|problem| ConfigError::Value { key: "jobs.limits", problem })?;
        if self.artifacts.small_object_bytes_max > 1 << 20 {
            return Err(ConfigError::Value {
                key: "artifacts.small_object_bytes_max",
                problem: "is at most 1 MiB".into(),
            });
        }
        if !(1 << 20..=1 << 34).contains(&self.artifacts.pack_bytes) {
            return Err(ConfigError::Value { key: "artifacts.pack_bytes", problem: "is 1 MiB to 16 GiB".into() });
        }
        if !(1..=5 << 30).contains(&self.artifacts.form_bytes_max) {
            return Err(ConfigError::Value { key: "artifacts.form_bytes_max", problem: "is 1 to 5368709120".into() });
        }
        if self.artifacts.scrub_bytes_s < 65_536 {
            return Err(ConfigError::Value { key: "artifacts.scrub_bytes_s", problem: "is at least 65536".into() });
        }
        self.cold.check()?;
        self.check_cold_windows()?;
        self.check_engine()?;
        let classes = crate::logs::classes(&self.logs);
        classes.map_err(|problem| ConfigError::Value { key: "logs.class", problem })?;
        crate::logs::check_syslog(&self.syslog).map_err(|(key, problem)| ConfigError::Value { key, problem })?;
        let redaction = crate::signals::redact::check(&self.redaction);
        redaction.map_err(|problem| ConfigError::Value { key: "redaction", problem })?;
        if self.encryption.rewraps_s_max == 0 {
            return Err(ConfigError::Value { key: "encryption.rewraps_s_max", problem: "must be at least 1".into() });
        }
        if !(1 << 20..=1 << 30).contains(&self.journal.segment_bytes) {
            return Err(ConfigError::Value { key: "journal.segment_bytes", problem: "is 1 MiB to 1 GiB".into() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_its_bounds_is_refused() {
        for (text, key) in [
            ("[edge]\nhead_timeout_s = 0\n", "edge.head_timeout_s"),
            ("[cold]\nbucket = \"old\"\nendpoint = \"garage\"\n", "cold.endpoint"),
            ("[cold]\nbucket = \"old\"\nreads_max = 0\n", "cold.reads_max"),
            ("[cold_windows]\nbucket = \"old\"\nendpoint = \"garage\"\n", "cold_windows.endpoint"),
            ("[cold_windows]\nbucket = \"old\"\ncache_bytes_max = 1\n", "cold_windows.cache_bytes_max"),
            ("[cold_windows]\nbucket = \"old\"\npart_bytes = 5000000\n", "cold_windows.part_bytes"),
            ("[logs]\ncold_days = 3\n", "logs.cold_days"),
            ("[traces]\ncold_days = 3\n", "traces.cold_days"),
            ("[[logs.class]]\nname = \"a\"\nmatch = \"b\"\ndays = 9\ncold_days = 3\n", "logs.class"),
        ] {
            let problem = toml::from_str::<Config>(text).unwrap().check().unwrap_err().to_string();
            assert!(problem.contains(key), "{key}: {problem}");
        }
        assert!(Config::default().check().is_ok());
    }
}
