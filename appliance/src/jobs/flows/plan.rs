//! A flow that was ordered, checked: its jobs as specifications, those that are waited for before those that wait.
//!
//! A job's id is the flow's id, a dot and the job's name, so that making it a second time makes nothing.

use std::collections::{BTreeMap, BTreeSet};

use backlot_wire::flow::{FLOW_DEPTH_MAX, FLOW_JOBS_MAX, FLOW_NAME_BYTES_MAX};
use backlot_wire::job::{canonical_type, is_name};
use backlot_wire::{After, FlowOrder, JobSpec, OnFailure};
use serde_json::{Map, Value};

use super::Member;

/// Longest title of a flow, in bytes.
const TITLE_BYTES_MAX: usize = 256;

/// The jobs of a flow, in an order in which they can be made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub members: Vec<Member>,
    pub specs: Vec<JobSpec>,
}

/// Id of the job `name` of flow `flow_id`.
pub(super) fn job_id(flow_id: &str, name: &str) -> String {
    format!("{flow_id}.{name}")
}

/// Whether `text` may be a flow's id, or a job's name in it.
pub(super) fn is_short_name(text: &str) -> bool {
    text.len() <= FLOW_NAME_BYTES_MAX && is_name(text)
}

/// Checks `order`, whose flow is to be `flow_id`.
///
/// # Errors
/// A sentence that names the job and what is wrong with it.
pub(super) fn plan(flow_id: &str, order: &FlowOrder) -> Result<Plan, String> {
    if order.jobs.is_empty() || order.jobs.len() > FLOW_JOBS_MAX {
        return Err(format!("`jobs` has 1 to {FLOW_JOBS_MAX} entries"));
    }
    if order.name.as_ref().is_some_and(|name| name.len() > TITLE_BYTES_MAX || name.chars().any(char::is_control)) {
        return Err(format!("`name` is at most {TITLE_BYTES_MAX} bytes without control characters"));
    }
    if let Some(field) =
        ["name", "after", "inputs", "job_id", "flow_id"].iter().find(|f| order.defaults.contains_key(**f))
    {
        return Err(format!("`defaults` cannot hold `{field}`"));
    }
    let mut jobs: BTreeMap<String, (Member, JobSpec)> = BTreeMap::new();
    for job in &order.jobs {
        let (member, spec) = read(flow_id, order, job)?;
        if jobs.contains_key(&member.name) {
            return Err(format!("two jobs are called `{}`", member.name));
        }
        jobs.insert(member.name.clone(), (member, spec));
    }
    for (member, _) in jobs.values() {
        if let Some(after) = member.after.iter().find(|after| !jobs.contains_key(&after.job)) {
            return Err(format!("job `{}` waits for `{}`, which is not in this flow", member.name, after.job));
        }
    }
    let mut plan = Plan { members: Vec::with_capacity(jobs.len()), specs: Vec::with_capacity(jobs.len()) };
    for name in sorted(jobs.values().map(|(member, _)| member))? {
        if let Some((member, spec)) = jobs.remove(&name) {
            plan.members.push(member);
            plan.specs.push(spec);
        }
    }
    Ok(plan)
}

fn read(flow_id: &str, order: &FlowOrder, job: &Map<String, Value>) -> Result<(Member, JobSpec), String> {
    let name = job.get("name").and_then(Value::as_str).filter(|name| is_short_name(name)).ok_or_else(|| {
        format!("each of `jobs` has a `name` of 1 to {FLOW_NAME_BYTES_MAX} letters, digits, `.`, `_`, `-`")
    })?;
    if let Some(field) = ["job_id", "flow_id"].iter().find(|field| job.contains_key(**field)) {
        return Err(format!("job `{name}`: `{field}` follows from the flow and cannot be given"));
    }
    let mut whole = order.defaults.clone();
    whole.extend(job.iter().filter(|(field, _)| *field != "name").map(|(field, value)| (field.clone(), value.clone())));
    if order.on_failure == OnFailure::Continue {
        lenient(&mut whole);
    }
    let in_job = |problem: &dyn std::fmt::Display| format!("job `{name}`: {problem}");
    let mut spec: JobSpec = serde_json::from_value(Value::Object(whole)).map_err(|error| in_job(&error))?;
    spec.kind = canonical_type(&spec.kind).to_owned();
    spec.check().map_err(|error| in_job(&error))?;
    let mut after: Vec<After> = Vec::new();
    for (job, on) in spec.waits_for() {
        if !after.iter().any(|known| known.job == job) {
            after.push(After { job: job.to_owned(), on });
        }
    }
    let member = Member { name: name.to_owned(), kind: spec.kind.clone(), after };
    spec.job_id = Some(job_id(flow_id, name));
    spec.flow_id = Some(flow_id.to_owned());
    for after in &mut spec.after {
        after.job = job_id(flow_id, &after.job);
    }
    for job in spec.inputs.iter_mut().filter_map(|input| input.job.as_mut()) {
        *job = job_id(flow_id, job);
    }
    Ok((member, spec))
}

/// Where failures are no reason to stop, an end is all that is waited for unless an edge says otherwise.
fn lenient(job: &mut Map<String, Value>) {
    for field in ["after", "inputs"] {
        let Some(Value::Array(edges)) = job.get_mut(field) else { continue };
        for edge in edges {
            match edge {
                Value::String(name) => *edge = serde_json::json!({"job": name, "on": "end"}),
                Value::Object(edge) if edge.contains_key("job") => {
                    edge.entry("on").or_insert_with(|| "end".into());
                }
                _ => {}
            }
        }
    }
}

/// The names in an order in which each comes after all that it waits for.
fn sorted<'a>(members: impl Iterator<Item = &'a Member>) -> Result<Vec<String>, String> {
    let mut left: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut waiters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for member in members {
        left.insert(&member.name, member.after.iter().map(|after| after.job.as_str()).collect());
        for after in &member.after {
            waiters.entry(&after.job).or_default().push(&member.name);
        }
    }
    let mut level: Vec<&str> = left.iter().filter(|(_, after)| after.is_empty()).map(|(name, _)| *name).collect();
    let (mut order, mut depth) = (Vec::new(), 0);
    while !level.is_empty() {
        depth += 1;
        if depth > FLOW_DEPTH_MAX {
            return Err(format!("more than {FLOW_DEPTH_MAX} jobs wait for each other in a row"));
        }
        let mut next = Vec::new();
        for name in level {
            left.remove(name);
            order.push(name.to_owned());
            for waiter in waiters.get(name).into_iter().flatten() {
                if let Some(after) = left.get_mut(waiter) {
                    after.remove(name);
                    if after.is_empty() {
                        next.push(*waiter);
                    }
                }
            }
        }
        next.sort_unstable();
        level = next;
    }
    match left.keys().next() {
        Some(name) => Err(format!("job `{name}` waits, by way of others, for itself or for such a circle")),
        None => Ok(order),
    }
}

#[cfg(test)]
mod tests {
    use backlot_wire::On;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn order(value: Value) -> FlowOrder {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn names_become_ids_and_who_is_waited_for_comes_first() {
        let plan = plan(
            "f",
            &order(json!({
                "defaults": {"user_id": "u", "priority": 7},
                "jobs": [
                    {"name": "clip", "type": "x", "inputs": [{"job": "shot-1", "output": 0}, {"job": "shot-2"}], "priority": 9},
                    {"name": "shot-2", "type": "image_generation", "after": ["scene"]},
                    {"name": "shot-1", "type": "x", "after": ["scene"]},
                    {"name": "scene", "type": "x"},
                ]})),
        )
        .unwrap();
        let names: Vec<_> = plan.members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["scene", "shot-1", "shot-2", "clip"]);
        let clip = &plan.specs[3];
        assert_eq!((clip.job_id.as_deref(), clip.flow_id.as_deref(), clip.priority), (Some("f.clip"), Some("f"), 9));
        assert_eq!(clip.waits_for().collect::<Vec<_>>(), [("f.shot-1", On::Success), ("f.shot-2", On::Success)]);
        assert_eq!((plan.specs[2].kind.as_str(), plan.specs[2].priority), ("image.generate", 7));
        assert_eq!(plan.specs[0].user_id.as_deref(), Some("u"));
    }

    #[test]
    fn where_failures_do_not_stop_it_edges_wait_for_the_end_unless_they_say_otherwise() {
        let plan = plan(
            "f",
            &order(json!({"on_failure": "continue", "jobs": [
                {"name": "a", "type": "x"},
                {"name": "b", "type": "x", "after": ["a"], "inputs": [{"job": "a"}, {"uri": "s3://abc/x"}]},
                {"name": "c", "type": "x", "after": [{"job": "a", "on": "success"}]},
            ]})),
        )
        .unwrap();
        let waits = |at: usize| plan.specs[at].waits_for().map(|(_, on)| on).collect::<Vec<_>>();
        assert_eq!((waits(1), waits(2)), (vec![On::End, On::End], vec![On::Success]));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let chain: Vec<_> = (0..=FLOW_DEPTH_MAX)
            .map(|n| json!({"name": format!("j{n}"), "type": "x", "after": if n == 0 { vec![] } else { vec![format!("j{}", n - 1)] }}))
            .collect();
        for (flow, word) in [
            (json!({"jobs": []}), "1 to"),
            (json!({"jobs": [{"type": "x"}]}), "`name`"),
            (json!({"jobs": [{"name": "a b", "type": "x"}]}), "`name`"),
            (json!({"jobs": [{"name": "a"}]}), "`a`"),
            (json!({"jobs": [{"name": "a", "type": "x", "job_id": "j"}]}), "`job_id`"),
            (json!({"jobs": [{"name": "a", "type": "x"}, {"name": "a", "type": "x"}]}), "two jobs"),
            (json!({"jobs": [{"name": "a", "type": "x", "after": ["b"]}]}), "not in this flow"),
            (
                json!({"jobs": [{"name": "a", "type": "x", "after": ["b"]}, {"name": "b", "type": "x", "after": ["a"]}]}),
                "circle",
            ),
            (json!({"jobs": [{"name": "a", "type": "x", "after": ["a"]}]}), "circle"),
            (json!({"jobs": chain}), "in a row"),
            (json!({"defaults": {"after": []}, "jobs": [{"name": "a", "type": "x"}]}), "`after`"),
        ] {
            let problem = plan("f", &order(flow.clone())).unwrap_err();
            assert!(problem.contains(word), "{flow}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn an_order_is_found_exactly_where_there_is_no_circle(
            edges in proptest::collection::vec((0..8_usize, 0..8_usize), 0..16),
        ) {
            let name = |n: usize| format!("j{n}");
            let jobs: Vec<_> = (0..8).map(|n| {
                let after: BTreeSet<_> = edges.iter().filter(|(from, _)| *from == n).map(|(_, to)| name(*to)).collect();
                json!({"name": name(n), "type": "x", "after": after})
            }).collect();
            // Floyd and Warshall say who reaches whom.
            let mut reach = [[false; 8]; 8];
            edges.iter().for_each(|(from, to)| reach[*from][*to] = true);
            for k in 0..8 {
                for i in 0..8 {
                    for j in 0..8 {
                        reach[i][j] |= reach[i][k] && reach[k][j];
                    }
                }
            }
            let circle = (0..8).any(|n| reach[n][n]);
            match plan("f", &order(json!({"jobs": jobs}))) {
                Ok(plan) => {
                    prop_assert!(!circle);
                    let at = |wanted: &str| plan.members.iter().position(|member| member.name == wanted).unwrap();
                    for (from, to) in &edges {
                        prop_assert!(at(&name(*to)) < at(&name(*from)));
                    }
                }
                Err(_) => prop_assert!(circle),
            }
        }
    }
}
