//! How many services and names of attributes are indexed.
//!
//! Each name has terms and columns of its own in every window, and each service a row in everybody's lists: a sender that makes up
//! names, such as ids within them, costs all others memory and time. What comes after the limit is kept and shown with its record like anything else, and is
//! not found by that name. It is counted, and told once in the log.
//!
//! What is known survives a restart in a file beside the windows; a name that nobody has used for as long as anything is kept makes room again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use backlot_windows::{Document, Options, Value};
use opentelemetry::KeyValue;

use crate::config;
use crate::telemetry;

const FILE: &str = "names.json";
const DAY_MS: u64 = 86_400_000;
/// The field that names a service.
const SERVICE: &str = "service";

/// Names of one kind, and the day on which each was last seen.
struct Known {
    kind: &'static str,
    max: usize,
    days: HashMap<String, u32>,
    /// Values that were not indexed since this was last told.
    over: u64,
    is_told: bool,
}

/// What is known of one signal.
pub(super) struct Names {
    signal: &'static str,
    path: PathBuf,
    /// Names that fields of every record have.
    fixed: &'static [&'static str],
    services: Known,
    attributes: Known,
    /// After how many days without use a name makes room.
    forget_days: u32,
    is_changed: bool,
}

impl Known {
    fn new(kind: &'static str, max: usize) -> Self {
        Self { kind, max, days: HashMap::new(), over: 0, is_told: false }
    }

    /// Whether `name` is known, or is from now on. `changed` is set when that is news.
    fn takes(&mut self, name: &str, day: u32, changed: &mut bool) -> bool {
        if let Some(seen) = self.days.get_mut(name) {
            if *seen < day {
                *seen = day;
                *changed = true;
            }
            return true;
        }
        if self.days.len() >= self.max {
            self.over += 1;
            return false;
        }
        self.days.insert(name.to_owned(), day);
        *changed = true;
        true
    }

    fn forget(&mut self, before: u32) -> bool {
        let count = self.days.len();
        self.days.retain(|_, day| *day >= before);
        self.days.len() < count
    }

    fn tell(&mut self, signal: &'static str) {
        let labels = [KeyValue::new("signal", signal), KeyValue::new("kind", self.kind)];
        telemetry::gauge(&backlot_wire::metrics::INDEXED_NAMES).record(self.days.len() as f64, &labels);
        let over = std::mem::take(&mut self.over);
        if over > 0 {
            telemetry::counter(&backlot_wire::metrics::UNINDEXED_VALUES).add(over, &labels);
            if !self.is_told {
                tracing::warn!(
                    signal,
                    kind = self.kind,
                    max = self.max,
                    "more names than are indexed: further ones are kept and shown, and not found by name"
                );
            }
        }
        self.is_told = self.days.len() >= self.max && (self.is_told || over > 0);
    }
}

impl Names {
    /// Reads what is known in the folder of the windows. A file that does not read is as none.
    pub(super) fn open(
        signal: &'static str,
        options: &Options,
        limits: &config::SignalsConfig,
        fixed: &'static [&'static str],
    ) -> Self {
        let classes = options.classes.iter().map(|class| class.retention_ms);
        let longest_ms = classes.chain([options.retention_ms]).max().unwrap_or(0);
        let mut names = Self {
            signal,
            path: options.dir.join(FILE),
            fixed,
            services: Known::new("service", limits.services_max),
            attributes: Known::new("attribute", limits.attribute_names_max),
            forget_days: u32::try_from(longest_ms / DAY_MS).unwrap_or(u32::MAX).saturating_add(1),
            is_changed: false,
        };
        match read(&names.path) {
            Ok(Some([services, attributes])) => (names.services.days, names.attributes.days) = (services, attributes),
            Ok(None) => {}
            Err(problem) => {
                tracing::warn!(signal, file = %names.path.display(), problem, "names are learned anew");
            }
        }
        names
    }

    /// Takes out of `documents` what is not to be indexed.
    pub(super) fn bound(&mut self, documents: &mut [Document], arrived_ms: u64) {
        let day = u32::try_from(arrived_ms / DAY_MS).unwrap_or(u32::MAX);
        let Self { services, attributes, fixed, is_changed, .. } = self;
        let mut passed = None;
        for document in documents {
            document.retain(&mut passed, |name, value| match value {
                Value::Keyword(service) if name == SERVICE => services.takes(service, day, is_changed),
                _ => fixed.contains(&name) || attributes.takes(name, day, is_changed),
            });
        }
    }

    /// Lets go of what nobody uses any more, tells how many there are, and writes them down if that has changed.
    pub(super) fn keep(&mut self, now_ms: u64) {
        let today = u32::try_from(now_ms / DAY_MS).unwrap_or(u32::MAX);
        let before = today.saturating_sub(self.forget_days);
        let forgot = [self.services.forget(before), self.attributes.forget(before)];
        self.services.tell(self.signal);
        self.attributes.tell(self.signal);
        if !self.is_changed && forgot == [false, false] {
            return;
        }
        let text = serde_json::to_vec(&[&self.services.days, &self.attributes.days]).unwrap_or_default();
        let beside = self.path.with_extension("new");
        // Not synced: what a power cut takes is learned anew.
        match std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &self.path)) {
            Ok(()) => self.is_changed = false,
            Err(error) => tracing::warn!(file = %self.path.display(), %error, "names are not written down"),
        }
    }
}

fn read(path: &Path) -> Result<Option<[HashMap<String, u32>; 2]>, String> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 20_000 * DAY_MS;

    fn document(service: &str, names: &[&str]) -> Document {
        let mut document = Document::new(0, 0);
        document.add("service", Value::Keyword(service.into()));
        document.add("body", Value::Text("out of memory".into()));
        names.iter().for_each(|name| document.add((*name).to_owned(), Value::Number(1.0)));
        document
    }

    fn has(names: &mut Names, service: &str, attributes: &[&str], at_ms: u64) -> Vec<String> {
        let mut documents = [document(service, attributes)];
        names.bound(&mut documents, at_ms);
        let all = ["service", "body"].iter().chain(attributes);
        all.filter(|name| documents[0].values(name).next().is_some()).map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_beyond_the_limit_are_not_indexed_over_restarts_until_others_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { retention_ms: 3 * DAY_MS, ..Options::new(dir.path(), |_| Document::default()) };
        let limits = config::SignalsConfig { services_max: 1, attribute_names_max: 2, ..Default::default() };
        let open = || Names::open("logs", &options, &limits, &["body"]);
        let mut names = open();
        assert_eq!(has(&mut names, "agent", &["a", "b"], NOW_MS), ["service", "body", "a", "b"]);
        assert_eq!(has(&mut names, "other", &["c", "b"], NOW_MS), ["body", "b"]);
        assert_eq!((names.services.over, names.attributes.over), (1, 1));
        names.keep(NOW_MS);
        assert!(names.services.is_told && names.attributes.is_told && !names.is_changed);

        let mut names = open();
        assert_eq!(has(&mut names, "other", &["c", "a"], NOW_MS + 3 * DAY_MS), ["body", "a"]);
        names.keep(NOW_MS + 4 * DAY_MS);
        assert_eq!(has(&mut names, "other", &["c"], NOW_MS + 4 * DAY_MS), ["body"], "kept as long as their records");
        names.keep(NOW_MS + 5 * DAY_MS);
        assert_eq!(has(&mut names, "other", &["c", "b", "a"], NOW_MS + 5 * DAY_MS), ["service", "body", "c", "a"]);

        std::fs::write(dir.path().join(FILE), "[{").unwrap();
        assert_eq!(has(&mut open(), "new", &["z"], NOW_MS), ["service", "body", "z"]);
    }
}
