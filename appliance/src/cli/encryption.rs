//! `backlot encryption`: master keys, and the walk that wraps keys again after a change.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::output::say;
use super::{CliError, Client, Connection, to_json};
use crate::artifacts::RewrapStatus;
use crate::master;

/// Pause between two looks at a walk that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum EncryptionCommand {
    /// Write a new random master key to a file that nobody else may read. Name it in `encryption.master_key`, and the one before in `encryption.old_master_keys`, and restart.
    NewKey {
        /// Must not exist.
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Which master keys the data folder needs, and how far the wrapping is after a change.
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Wrap now what is under an old master key. The appliance does it by itself after a start, and once an hour.
    Rewrap {
        /// Wait until it is done.
        #[arg(long)]
        wait: bool,
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: EncryptionCommand, connection: &Connection) -> Result<ExitCode, CliError> {
    match command {
        EncryptionCommand::NewKey { file, json } => {
            let id = master::new_key(&file).map_err(|error| CliError::Fault(error.to_string()))?;
            if json {
                say!("{}", json!({"file": file, "id": id}))?;
            } else {
                say!("{} holds the master key {id}. Keep a copy where the data folder is not", file.display())?;
            }
        }
        EncryptionCommand::Status { json } => {
            show(&Client::connect(connection)?.get("/v1/encryption").await?, json)?;
        }
        EncryptionCommand::Rewrap { wait, json } => {
            let client = Client::connect(connection)?;
            let mut status: RewrapStatus = client.send(Method::POST, "/v1/encryption", None::<&Value>).await?;
            while wait && status.running {
                tokio::time::sleep(LOOK_EVERY).await;
                status = client.get("/v1/encryption").await?;
            }
            show(&status, json)?;
            let is_done = !wait || status.failed == 0;
            return Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(status: &RewrapStatus, json: bool) -> Result<(), CliError> {
    if json {
        say!("{}", to_json(status)?)?;
        return Ok(());
    }
    say!("master key {}", status.current)?;
    for id in &status.old_in_use {
        say!("old master key {id}: still needed")?;
    }
    if status.running || status.seen > 0 {
        let state = if status.running { "goes on" } else { "is done" };
        say!(
            "wrapping {state}: {} looked at, {} wrapped again, {} did not open",
            status.seen,
            status.rewrapped,
            status.failed
        )?;
    }
    Ok(())
}
