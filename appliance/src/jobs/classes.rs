//! Classes of jobs: those of one type with one set of requirements go to the same hosts, of those the ones of one model
//! rather to a host that has it, and of those the ones of one shape may be computed together.
//!
//! Their number is bounded, because the queue walks the classes that it holds at each receive. Models and shapes are told apart in the
//! first half of them alone: a model's name is whatever a submitter writes, and must not keep a job from being queued. Class 0 is that of
//! bodies which cannot be read as jobs any more; no agent gets them.

use std::collections::HashMap;

use backlot_wire::{AgentRegistration, GpuInfo, JobSpec, ModelRef, Requirements, job::parse_arch};

use crate::queue::{Class, Nearness};

/// The parameter that names a job's model.
const MODEL: &str = "model";
/// Most classes of one run of the process.
pub(super) const CLASSES_MAX: usize = 4_096;

struct Needs {
    kind: String,
    requirements: Requirements,
    /// As the job's parameters name it.
    model: Option<String>,
}

/// The classes seen so far.
#[derive(Default)]
pub(super) struct Classes {
    numbers: HashMap<String, Class>,
    /// That of class `n` is at `n - 1`.
    needs: Vec<Needs>,
}

impl Classes {
    /// The class of `spec`. `None`: there are too many already.
    pub(super) fn of(&mut self, spec: &JobSpec) -> Option<Class> {
        let model =
            spec.parameters.get(MODEL).and_then(|model| model.as_str()).filter(|text| ModelRef::parse(text).is_some());
        // The narrowest that is known or has room.
        let narrow =
            [model.and_then(|_| key_of_batch(spec)), model.map(|model| format!("{}  {model}", key_of_any(spec)))];
        for key in narrow.into_iter().flatten() {
            if let Some(class) = self.numbers.get(&key) {
                return Some(*class);
            }
            if self.needs.len() < CLASSES_MAX / 2 {
                return self.add(key, spec, model);
            }
        }
        let key = key_of_any(spec);
        if let Some(class) = self.numbers.get(&key) {
            return Some(*class);
        }
        self.add(key, spec, None)
    }

    /// The class of the jobs that may be computed together with `spec`; `None` where there is none that is so narrow.
    pub(super) fn of_batch(&self, spec: &JobSpec) -> Option<Class> {
        self.numbers.get(&key_of_batch(spec)?).copied()
    }

    fn add(&mut self, key: String, spec: &JobSpec, model: Option<&str>) -> Option<Class> {
        let model = model.map(str::to_owned);
        if self.needs.len() >= CLASSES_MAX {
            return None;
        }
        self.needs.push(Needs { kind: spec.kind.clone(), requirements: spec.requirements.clone(), model });
        let class = Class(u32::try_from(self.needs.len()).ok()?);
        self.numbers.insert(key, class);
        Some(class)
    }

    /// All of them, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = Class> {
        (1..).map(Class).take(self.needs.len())
    }

    /// How near the model of `class` is to a host that registered as `agent`; that of no model is as near as can be nowhere.
    pub(super) fn nearness(&self, agent: &AgentRegistration, class: Class) -> Nearness {
        let needs = (class.0 as usize).checked_sub(1).and_then(|index| self.needs.get(index));
        let Some(model) = needs.and_then(|needs| ModelRef::parse(needs.model.as_deref()?)) else {
            return Nearness::Elsewhere;
        };
        let holds = |held: &[String]| held.iter().any(|held| model.is_met_by(held));
        match () {
            () if holds(&agent.loaded) => Nearness::Loaded,
            () if holds(&agent.models) => Nearness::OnDisk,
            () => Nearness::Elsewhere,
        }
    }

    /// Whether a host that registered as `agent` can run jobs of `class`.
    pub(super) fn fits(&self, agent: &AgentRegistration, class: Class) -> bool {
        let index = (class.0 as usize).checked_sub(1);
        index
            .and_then(|index| self.needs.get(index))
            .is_some_and(|needs| agent.types.contains(&needs.kind) && meets(agent, &needs.requirements))
    }
}

// Two spaces cannot stand in a type, so that the keys are of type and requirements, and each of its kind.
fn key_of_any(spec: &JobSpec) -> String {
    format!("{}  {}", spec.kind, serde_json::to_string(&spec.requirements).unwrap_or_default())
}

fn key_of_batch(spec: &JobSpec) -> Option<String> {
    spec.batch_key().map(|key| format!("{}  batch  {key}", key_of_any(spec)))
}

/// One GPU has to have both the memory and the architecture.
pub(super) fn meets(agent: &AgentRegistration, requirements: &Requirements) -> bool {
    let labels = requirements.labels.iter().all(|(name, value)| agent.labels.get(name) == Some(value));
    let any_gpu = requirements.vram_gb.is_none() && requirements.arch.is_none();
    labels && (any_gpu || agent.gpus.iter().any(|gpu| carries(gpu, requirements)))
}

/// `vram_gb` counts as the makers of GPUs do, in 10^9 bytes: a T4 "of 16 GB" reports 16.1 of them and 15 GiB.
pub(super) fn carries(gpu: &GpuInfo, requirements: &Requirements) -> bool {
    let memory = requirements.vram_gb.is_none_or(|gb| gpu.vram_bytes as f64 >= gb * 1e9);
    let arch = requirements.arch.as_deref().is_none_or(|text| match (parse_arch(text), gpu.sm) {
        (Some((wanted, or_later)), Some(sm)) => sm == wanted || (or_later && sm > wanted),
        _ => false,
    });
    memory && arch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(types: &[&str], gpus: &[(u64, Option<u32>)]) -> AgentRegistration {
        let gpus = gpus.iter().map(|&(vram_bytes, sm)| GpuInfo { vram_bytes, sm, ..GpuInfo::default() }).collect();
        AgentRegistration { types: types.iter().map(|name| (*name).to_owned()).collect(), gpus, ..Default::default() }
    }

    fn fits(spec: &str, agent: &AgentRegistration) -> bool {
        let mut classes = Classes::default();
        let class = classes.of(&JobSpec::parse(spec).unwrap()).unwrap();
        classes.fits(agent, class)
    }

    #[test]
    fn a_type_that_the_agent_does_not_run_never_fits() {
        assert!(fits(r#"{"type":"x"}"#, &agent(&["x"], &[])));
        assert!(!fits(r#"{"type":"y"}"#, &agent(&["x"], &[])));
    }

    #[test]
    fn memory_and_architecture_are_asked_of_one_gpu() {
        let spec = r#"{"type":"x","requirements":{"vram_gb":16,"arch":"sm_80+"}}"#;
        let (t4, a10) = ((15_360 << 20, Some(75)), (23_028 << 20, Some(86)));
        assert!(!fits(spec, &agent(&["x"], &[])), "no GPU at all");
        assert!(!fits(spec, &agent(&["x"], &[t4, (8 << 30, Some(90))])), "each has one half of it");
        assert!(fits(spec, &agent(&["x"], &[t4, a10])));
        assert!(fits(r#"{"type":"x","requirements":{"vram_gb":16}}"#, &agent(&["x"], &[t4])));
        assert!(!fits(r#"{"type":"x","requirements":{"arch":"sm_80"}}"#, &agent(&["x"], &[a10])), "exactly sm_80");
    }

    #[test]
    fn labels_must_be_equal() {
        let mut agent = agent(&["x"], &[]);
        let spec = r#"{"type":"x","requirements":{"labels":{"zone":"a"}}}"#;
        assert!(!fits(spec, &agent));
        agent.labels.insert("zone".into(), "b".into());
        assert!(!fits(spec, &agent));
        agent.labels.insert("zone".into(), "a".into());
        assert!(fits(spec, &agent));
    }

    #[test]
    fn jobs_of_one_model_are_near_where_it_is_loaded_then_where_it_is_on_disk() {
        let mut classes = Classes::default();
        let mut class = |spec: &str| classes.of(&JobSpec::parse(spec).unwrap()).unwrap();
        let any = class(r#"{"type":"x"}"#);
        let [a, b, pinned] = ["a", "b", "a@0123abcd"]
            .map(|model| class(&format!(r#"{{"type":"x","parameters":{{"model":"{model}"}}}}"#)));
        assert_eq!(class(r#"{"type":"x","parameters":{"model":"a","steps":4}}"#), a);
        assert_eq!(class(r#"{"type":"x","parameters":{"model":"../a"}}"#), any, "that is no model");
        let version = format!("a@0123abcd{}", "0".repeat(56));
        let agent = AgentRegistration {
            models: vec!["b".into(), version.clone()],
            loaded: vec![version],
            ..agent(&["x"], &[])
        };
        let near = |class| classes.nearness(&agent, class);
        assert_eq!([near(a), near(pinned), near(b)], [Nearness::Loaded, Nearness::Loaded, Nearness::OnDisk]);
        assert_eq!([near(any), near(Class(0))], [Nearness::Elsewhere; 2]);
        assert!([any, a, b, pinned].iter().all(|class| classes.fits(&agent, *class)), "it runs them all");
    }

    #[test]
    fn jobs_that_may_be_computed_together_are_a_class_near_their_model() {
        let mut classes = Classes::default();
        let spec = |more: &str| {
            JobSpec::parse(&format!(r#"{{"type":"image.generate","parameters":{{"model":"m","width":{more}}}}}"#))
                .unwrap()
        };
        let (small, alike, large) = (spec("512"), spec(r#"512,"seed":7"#), spec("1024"));
        assert_eq!(classes.of_batch(&small), None, "none was queued");
        let [first, second, third] = [&small, &alike, &large].map(|spec| classes.of(spec).unwrap());
        assert!(first == second && first != third);
        assert_eq!(classes.of_batch(&alike), Some(first));
        let agent = AgentRegistration { loaded: vec!["m".into()], ..agent(&["image.generate"], &[]) };
        assert_eq!([first, third].map(|class| classes.nearness(&agent, class)), [Nearness::Loaded; 2]);
        let alone = JobSpec { limits: backlot_wire::Limits { soft_s: Some(1), hard_s: None }, ..small.clone() };
        assert!(classes.of_batch(&alone).is_none() && classes.of(&alone) != Some(first));
        let demanding =
            JobSpec { requirements: Requirements { vram_gb: Some(80.0), ..Default::default() }, ..small.clone() };
        assert_ne!(classes.of(&demanding), Some(first), "it may have to go elsewhere");
        for n in 0..CLASSES_MAX {
            classes.of(&JobSpec::new(format!("t{n}")));
        }
        let late = spec("640");
        assert_eq!(classes.of(&late), classes.of(&alone), "no class is left but that of the model");
        assert_eq!(classes.of_batch(&late), None, "of which the shapes are not one");
        assert_eq!(classes.of(&small), Some(first), "known ones stay");
    }

    #[test]
    fn many_models_share_a_class_before_jobs_are_refused_for_them() {
        let mut classes = Classes::default();
        let named = |n: usize| JobSpec::parse(&format!(r#"{{"type":"x","parameters":{{"model":"m{n}"}}}}"#)).unwrap();
        let first = classes.of(&named(0));
        let all: std::collections::BTreeSet<_> = (0..2 * CLASSES_MAX).map(|n| classes.of(&named(n)).unwrap()).collect();
        assert_eq!(all.len(), CLASSES_MAX / 2 + 1);
        assert_eq!(classes.of(&named(0)), first, "known ones stay");
        assert!(classes.of(&JobSpec::new("y")).is_some());
    }

    #[test]
    fn the_number_of_classes_is_bounded_and_known_ones_stay() {
        let mut classes = Classes::default();
        let first = classes.of(&JobSpec::new("t0"));
        for n in 1..CLASSES_MAX {
            assert!(classes.of(&JobSpec::new(format!("t{n}"))).is_some());
        }
        assert_eq!(classes.of(&JobSpec::new("one.more")), None);
        assert_eq!(classes.of(&JobSpec::new("t0")), first);
        assert!(!classes.fits(&agent(&["t0"], &[]), Class(0)), "class 0 fits no agent");
    }
}
