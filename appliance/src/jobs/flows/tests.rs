//! Flows over real queues, a real journal and a real catalogue, and the course of a flow for every way its jobs may stand.

use std::path::Path;

use backlot_wire::{FailureClass, JobSpec, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::super::tests::{House, attempt_of, failure, outputs};
use super::*;

fn order(value: serde_json::Value) -> FlowOrder {
    serde_json::from_value(value).unwrap()
}

fn clip(on_failure: &str) -> FlowOrder {
    order(
        json!({"flow_id": "f", "name": "Scene 12", "on_failure": on_failure, "defaults": {"retry": {"failures": 1}}, "jobs": [
            {"name": "clip", "type": "x", "inputs": [{"job": "shot-1", "output": 0}, {"job": "shot-2"}]},
            {"name": "shot-1", "type": "x", "after": ["scene"]},
            {"name": "shot-2", "type": "x", "after": ["scene"]},
            {"name": "scene", "type": "x"},
        ]}),
    )
}

/// Ends the attempt of whatever comes next: with a result, or, for what `fails` names, with a failure.
async fn work(house: &House, fails: &str) -> (String, JobSpec) {
    let delivery = house.delivery(None, 60).await;
    let attempt = attempt_of(&delivery);
    let name = attempt.split('.').nth(1).unwrap().to_owned();
    let event = if name == fails {
        failure(FailureClass::Permanent, "no")
    } else {
        outputs(&format!("s3://studio/{name}.png"))
    };
    house.report(&attempt, vec![(1, event)]).await;
    (name, JobSpec::parse(&delivery.body).unwrap())
}

async fn ends(house: &House, status: FlowStatus) -> Flow {
    let flow = tokio::time::timeout(std::time::Duration::from_secs(60), async {
        loop {
            let flow = house.jobs.flow("f").unwrap();
            if flow.status == status {
                return flow;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    flow.await.unwrap_or_else(|_| panic!("not {status:?}: {:?}", house.jobs.flow("f")))
}

async fn reopen(house: House, dir: &Path) -> House {
    house.close().await;
    House::open(dir).await
}

#[tokio::test]
async fn a_scene_fans_out_to_shots_and_their_results_into_a_clip_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let (flow, created) = house.jobs.begin_flow(&clip("fail"), "AK").await.unwrap();
    assert!(created && flow.status == FlowStatus::Running);
    assert_eq!((flow.counts["waiting"], flow.counts["queued"]), (3, 1));
    assert!(!house.jobs.begin_flow(&clip("fail"), "AK").await.unwrap().1, "the same one");
    assert!(matches!(house.jobs.begin_flow(&clip("cancel"), "AK").await, Err(JobsError::Exists(_))));
    assert_eq!(work(&house, "").await.0, "scene");
    let house = reopen(house, dir.path()).await;
    let mut shots = [work(&house, "").await.0, work(&house, "").await.0];
    shots.sort();
    assert_eq!(shots, ["shot-1", "shot-2"]);
    let house = reopen(house, dir.path()).await;
    let (name, spec) = work(&house, "").await;
    let inputs: Vec<_> = spec.inputs.iter().map(|input| input.uri.as_str()).collect();
    assert_eq!((name.as_str(), inputs), ("clip", vec!["s3://studio/shot-1.png", "s3://studio/shot-2.png"]));
    let flow = ends(&house, FlowStatus::Succeeded).await;
    assert!(flow.ended_at.is_some() && flow.counts["succeeded"] == 4);
    let house = reopen(house, dir.path()).await;
    assert_eq!(house.jobs.flow("f").unwrap(), flow);
    let (flows, next) = house.jobs.flows(&[], 10).unwrap();
    assert_eq!((flows.len(), flows[0].counts["succeeded"], next), (1, 4, None));
    house.close().await;
}

#[tokio::test]
async fn a_failure_ends_what_waits_for_it_or_all_or_nothing_as_the_flow_says() {
    for (on_failure, left, status) in
        [("fail", 1, FlowStatus::Failed), ("cancel", 0, FlowStatus::Failed), ("continue", 2, FlowStatus::Failed)]
    {
        let dir = tempfile::tempdir().unwrap();
        let house = House::open(dir.path()).await;
        house.jobs.begin_flow(&clip(on_failure), "AK").await.unwrap();
        work(&house, "").await;
        // Shots of one flow come in the order in which they were let go.
        while work(&house, "shot-1").await.0 != "shot-1" {}
        let mut more = Vec::new();
        let ended = house.jobs.flow("f").unwrap().counts;
        let done = ended.get("succeeded").copied().unwrap_or(0) - 1;
        for _ in done..left {
            more.push(work(&house, "shot-1").await);
        }
        let flow = ends(&house, status).await;
        match on_failure {
            "fail" => assert_eq!((flow.counts["failed"], flow.counts["succeeded"]), (2, 2), "{flow:?}"),
            // The clip may hear of the failure before it hears of the cancel.
            "cancel" => assert!(flow.counts["cancelled"] >= 1 && flow.counts["failed"] <= 2, "{flow:?}"),
            _ => {
                assert_eq!((flow.counts["failed"], flow.counts["succeeded"]), (1, 3), "{flow:?}");
                let clip = more.iter().find(|(name, _)| name == "clip").unwrap();
                let inputs: Vec<_> = clip.1.inputs.iter().map(|input| input.uri.as_str()).collect();
                assert_eq!(inputs, ["s3://studio/shot-2.png"], "without what was not made");
            }
        }
        house.close().await;
    }
}

#[tokio::test]
async fn a_flow_is_cancelled_as_one_and_goes_on_when_a_job_of_it_is_queued_again() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    house.jobs.begin_flow(&clip("fail"), "AK").await.unwrap();
    let flow = house.jobs.cancel_flow("f").await.unwrap();
    assert_eq!((flow.status, flow.counts["cancelled"]), (FlowStatus::Cancelled, 4));
    assert!(matches!(house.jobs.cancel_flow("f").await, Err(JobsError::FlowEnded { .. })));
    assert!(house.receive(None, 30).await.is_none());
    for name in ["scene", "shot-1", "shot-2", "clip"] {
        house.jobs.retry(&format!("f.{name}"), None).await.unwrap();
    }
    for _ in 0..4 {
        work(&house, "").await;
    }
    ends(&house, FlowStatus::Succeeded).await;
    house.close().await;
}

#[tokio::test]
async fn jobs_that_a_crash_left_unmade_are_made_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    // What a crash leaves: the flow's record and none, or some, of its jobs.
    let Plan { members, specs } = plan::plan("f", &clip("fail")).unwrap();
    house.jobs.submit("jobs", specs[0].clone(), None, "AK").await.unwrap();
    let flow = Stored {
        id: "f".into(),
        revision: 1,
        digest: digest_of(&clip("fail")).unwrap(),
        name: None,
        queue: "jobs".into(),
        on_failure: OnFailure::Fail,
        created_at: Timestamp(1),
        ended_at: None,
        status: FlowStatus::Running,
        cancel_requested: false,
        had_ended: false,
        error: None,
        counts: BTreeMap::new(),
        sender_id: "AK".into(),
        members,
        to_make: specs,
    };
    house.jobs.write(vec![flow.encode()]).await.unwrap();
    let house = reopen(house, dir.path()).await;
    for _ in 0..4 {
        work(&house, "").await;
    }
    let flow = ends(&house, FlowStatus::Succeeded).await;
    assert_eq!(flow.jobs.len(), 4);
    house.close().await;
}

#[tokio::test]
async fn a_job_that_cannot_be_made_fails_the_flow_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    // Somebody else has taken the id of one of its jobs.
    let other = JobSpec { job_id: Some("f.shot-2".into()), ..JobSpec::new("y") };
    house.jobs.submit("jobs", other, Some(600), "AK").await.unwrap();
    house.jobs.begin_flow(&clip("fail"), "AK").await.unwrap();
    let flow = ends(&house, FlowStatus::Failed).await;
    assert!(flow.error.as_ref().is_some_and(|error| error.contains("f.shot-2")), "{flow:?}");
    for refused in [json!({"jobs": []}), json!({"queue": "jobs-dlq", "jobs": [{"name": "a", "type": "x"}]})] {
        assert!(house.jobs.begin_flow(&order(refused.clone()), "AK").await.is_err(), "{refused}");
    }
    house.close().await;
}

proptest! {
    #[test]
    fn a_flow_ends_when_all_have_ended_and_cancels_only_for_a_reason(
        picks in proptest::collection::vec(0..7_usize, 1..6), policy in 0..3_usize, asked in any::<bool>(), had_ended in any::<bool>(),
    ) {
        let all = [
            JobStatus::Scheduled, JobStatus::Waiting, JobStatus::Queued, JobStatus::Running, JobStatus::Succeeded,
            JobStatus::Failed, JobStatus::Cancelled,
        ];
        let statuses: Vec<_> = picks.iter().map(|at| all[*at]).collect();
        let on_failure = [OnFailure::Fail, OnFailure::Continue, OnFailure::Cancel][policy];
        let flow = Stored {
            id: "f".into(), revision: 1, digest: String::new(), name: None, queue: "jobs".into(), on_failure,
            created_at: Timestamp(1), ended_at: None, status: FlowStatus::Running, cancel_requested: asked, had_ended,
            error: None, counts: BTreeMap::new(), sender_id: String::new(), members: Vec::new(), to_make: Vec::new(),
        };
        let failed = statuses.contains(&JobStatus::Failed);
        let open = statuses.iter().any(|status| !status.is_final());
        match course(&flow, &statuses) {
            Course::End(status) => {
                prop_assert!(!open);
                prop_assert_eq!(status == FlowStatus::Failed, failed);
                prop_assert_eq!(status == FlowStatus::Succeeded, statuses.iter().all(|s| *s == JobStatus::Succeeded));
            }
            Course::CancelRest => {
                prop_assert!(open && (asked || (failed && on_failure == OnFailure::Cancel && !had_ended)));
            }
            Course::Wait => prop_assert!(open && !asked && !(failed && on_failure == OnFailure::Cancel && !had_ended)),
        }
    }
}
