//! `backlot bucket`: how much a bucket may hold.

use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::output::say;
use super::{CliError, Client};
use crate::artifacts::quota::{Quota, QuotaJson};

#[derive(Debug, Subcommand)]
pub(super) enum BucketCommand {
    /// Show a bucket's quota, set it, or take it away.
    Quota {
        bucket: String,
        /// Most bytes, old versions included.
        #[arg(long)]
        bytes: Option<u64>,
        /// Most objects, old versions included.
        #[arg(long)]
        objects: Option<u64>,
        /// Take the quota away.
        #[arg(long, conflicts_with_all = ["bytes", "objects"])]
        none: bool,
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: BucketCommand, client: &Client) -> Result<ExitCode, CliError> {
    let BucketCommand::Quota { bucket, bytes, objects, none, json } = command;
    let path = format!("/v1/buckets/{bucket}/quota");
    if none {
        let _: Value = client.send(Method::DELETE, &path, None::<&Value>).await?;
    }
    let shown: QuotaJson = if bytes.is_some() || objects.is_some() {
        client.send(Method::PUT, &path, Some(&Quota { bytes, objects })).await?
    } else {
        client.get(&path).await?
    };
    if json {
        say!("{}", super::to_json(&shown)?)?;
    } else {
        let most = |most: Option<u64>| most.map_or("no end".to_owned(), |most| most.to_string());
        say!("{}: {} of {} bytes", shown.bucket, shown.bytes, most(shown.quota.bytes))?;
        say!("{}: {} of {} objects", shown.bucket, shown.objects, most(shown.quota.objects))?;
    }
    Ok(ExitCode::SUCCESS)
}
