//! `backlot artifact cold` and `backlot artifact warm`.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;

use super::super::{CliError, Client, to_json};
use super::human;
use crate::artifacts::{ColdStatus, WarmAsked};
use crate::cli::output::{one_line, say};

/// Pause between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) async fn status(client: &Client, json: bool) -> Result<(), CliError> {
    show(&client.get("/v1/cold").await?, json)
}

pub(super) async fn warm(client: &Client, asked: WarmAsked, wait: bool, json: bool) -> Result<ExitCode, CliError> {
    let mut status: ColdStatus = client.send(Method::POST, "/v1/cold/warm", Some(&asked)).await?;
    let failed_before = status.failed;
    let uri = format!("s3://{}/{}", asked.bucket, asked.key);
    while wait && status.warming.contains(&uri) && status.failed == failed_before {
        tokio::time::sleep(LOOK_EVERY).await;
        status = client.get("/v1/cold").await?;
    }
    show(&status, json)?;
    Ok(if wait && status.failed > failed_before { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show(status: &ColdStatus, json: bool) -> Result<(), CliError> {
    if json {
        say!("{}", to_json(status)?)?;
        return Ok(());
    }
    if status.configured {
        let at = if status.endpoint.is_empty() { "Amazon S3" } else { &status.endpoint };
        say!("{} at {at}: {} versions, {}", status.to, status.objects, human(status.bytes))?;
    } else {
        say!("no cold tier is configured (`cold.bucket`); {} versions are in one", status.objects)?;
    }
    if let Some(moving) = &status.moving {
        say!("moving {}", one_line(moving))?;
    }
    say!("{} versions wait to be moved, {} blobs to be deleted there", status.waiting, status.to_delete)?;
    for uri in &status.warming {
        say!("to be brought back: {}", one_line(uri))?;
    }
    say!(
        "since the start: {} moved ({}), {} brought back ({}), {} failed",
        status.moved,
        human(status.moved_bytes),
        status.returned,
        human(status.returned_bytes),
        status.failed
    )?;
    if let Some(problem) = &status.problem {
        say!("PROBLEM {problem}")?;
    }
    Ok(())
}
