//! The two places that what is old moves to: objects and windows.

use super::{ColdConfig, ColdWindowsConfig, Config, ConfigError};

impl ColdConfig {
    /// # Errors
    /// The key, and what it should be.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: &str| ConfigError::Value { key, problem: problem.into() };
        if self.bucket.is_empty() {
            return Ok(());
        }
        self.check_other()?;
        if self.prefix.len() > 512 || self.prefix.chars().any(char::is_control) {
            return Err(wrong("cold.prefix", "has at most 512 bytes and no control characters"));
        }
        if self.bytes_s_max < 65_536 {
            return Err(wrong("cold.bytes_s_max", "is at least 65536"));
        }
        if !(1..=4096).contains(&self.reads_max) {
            return Err(wrong("cold.reads_max", "is 1 to 4096"));
        }
        Ok(())
    }
}

impl ColdWindowsConfig {
    /// # Errors
    /// The key, and what it should be.
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: &str| ConfigError::Value { key, problem: problem.into() };
        if self.bucket.is_empty() {
            return Ok(());
        }
        self.check_other()?;
        if self.prefix.len() > 512 || self.prefix.chars().any(char::is_control) {
            return Err(wrong("cold_windows.prefix", "has at most 512 bytes and no control characters"));
        }
        if self.bytes_s_max < 65_536 {
            return Err(wrong("cold_windows.bytes_s_max", "is at least 65536"));
        }
        if !(5 << 20..=128 << 20).contains(&self.part_bytes) {
            return Err(wrong("cold_windows.part_bytes", "is 5242880 to 134217728"));
        }
        if self.cache_bytes_max < 16 << 20 {
            return Err(wrong("cold_windows.cache_bytes_max", "is at least 16777216"));
        }
        Ok(())
    }
}

impl Config {
    /// What moves needs a place to move to.
    pub(super) fn check_cold_windows(&self) -> Result<(), ConfigError> {
        self.cold_windows.check()?;
        let wants = [
            ("logs.cold_days", self.logs.cold_days > 0),
            ("traces.cold_days", self.traces.cold_days > 0),
            ("logs.class", self.logs.class.iter().any(|class| class.cold_days.is_some())),
        ];
        match wants.into_iter().find(|(_, wants)| *wants && self.cold_windows.bucket.is_empty()) {
            Some((key, _)) => {
                let problem = "`cold_days` needs a place to move to: set `cold_windows.bucket`".into();
                Err(ConfigError::Value { key, problem })
            }
            None => Ok(()),
        }
    }
}
