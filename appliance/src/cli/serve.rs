//! `backlot serve`: run the appliance until a signal or a fault ends it.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::output::say;
use super::{CliError, ServeArguments, to_json};
use crate::Appliance;

pub(super) fn run(arguments: &ServeArguments) -> Result<ExitCode, CliError> {
    let config = arguments.config.load()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::fault("start the runtime", error))?;
    let ended = runtime.block_on(async {
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(|error| CliError::fault("listen for SIGINT", error))?;
        let mut terminate =
            signal(SignalKind::terminate()).map_err(|error| CliError::fault("listen for SIGTERM", error))?;
        let appliance = Box::pin(Appliance::build(config, arguments.dev))
            .await
            .map_err(|error| CliError::Fault(error.to_string()))?;
        if arguments.print_addresses {
            say!("{}", to_json(&appliance.ready())?)?;
        } else {
            eprintln!("Backlot is at {}", appliance.ready().endpoints.http);
        }
        let asked = async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        appliance.run(asked).await.map_err(|error| CliError::Fault(error.to_string()))
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended.map(|()| ExitCode::SUCCESS)
}
