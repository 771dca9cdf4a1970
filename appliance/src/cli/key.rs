//! `backlot key`: make, list and revoke access keys.

use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::output::say;
use super::{CliError, Client};
use crate::identity::{KeyInfo, Role};

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key. Its secret is printed here and never again.
    Create {
        /// admin, operator, viewer or agent.
        #[arg(long, value_parser = role)]
        role: Role,
        /// What it is for.
        #[arg(long, default_value = "")]
        note: String,
        /// Whose key it is: an owner of buckets by this name. Without it, the house's.
        #[arg(long)]
        account: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// All keys, without their secrets.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Take a key away.
    Revoke {
        key_id: String,
        #[arg(long)]
        json: bool,
    },
}

fn role(text: &str) -> Result<Role, String> {
    serde_json::from_value(Value::String(text.into())).map_err(|_| "one of admin, operator, viewer, agent".into())
}

pub(super) async fn run(command: KeyCommand, client: &Client) -> Result<ExitCode, CliError> {
    match command {
        KeyCommand::Create { role, note, account, json } => {
            let wanted = json!({"role": role, "note": note, "account": account});
            let made: Value = client.send(Method::POST, "/v1/keys", Some(&wanted)).await?;
            if json {
                say!("{made}")?;
            } else {
                let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
                say!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}", text("key_id"), text("secret"))?;
            }
        }
        KeyCommand::List { json } => {
            let answer: Value = client.get("/v1/keys").await?;
            let keys: Vec<KeyInfo> = serde_json::from_value(answer["keys"].clone())
                .map_err(|error| CliError::fault("read the keys", error))?;
            for key in keys {
                if json {
                    say!("{}", super::to_json(&key)?)?;
                } else {
                    let role = format!("{:?}", key.role).to_lowercase();
                    say!("{}  {role:8}  {:10}  {}  {}", key.key_id, key.account.name(), key.created_at, key.note)?;
                }
            }
        }
        KeyCommand::Revoke { key_id, json } => {
            let _: Value = client.send(Method::DELETE, &format!("/v1/keys/{key_id}"), None::<&Value>).await?;
            if json {
                say!("{}", json!({"revoked": key_id}))?;
            } else {
                say!("{key_id} is revoked")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
