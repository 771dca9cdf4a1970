//! The queue in an address.
//!
//! A queue's URL is `http://<host>/<account>/<name>`. Whatever the host and the twelve digits of the account are, the name
//! decides: clients come through names and port mappings that the appliance does not know, and with the account of the
//! queue that they used before. `/queue/<name>` and `http://<name>.queue.<host>/` are read as well.

use super::super::model::QueueName;
use super::super::redrive::is_account;
use super::fault;
use crate::edge::aws::AwsError;

/// What stands between a queue's name and the host's in a virtual host, and in a path instead of an account.
const QUEUE: &str = "queue";

/// The queue's name in its URL, or in its path alone.
///
/// # Errors
/// `InvalidAddress` for what names no queue, and, for what names one that cannot be, that it does not exist.
pub(super) fn queue_of(url: &str) -> Result<String, AwsError> {
    let (host, path) = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/').unwrap_or((rest, "")),
        None => ("", url),
    };
    let mut parts = path.trim_matches('/').rsplit('/');
    let name = match (parts.next().unwrap_or_default(), parts.next()) {
        ("", None) => queue_of_host(host).ok_or_else(|| fault::invalid_address(url))?,
        (name, Some(account)) if is_account(account) || account == QUEUE => name,
        _ => return Err(fault::invalid_address(url)),
    };
    match QueueName::parse(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(fault::no_such_queue()),
    }
}

/// The queue's name in a virtual host.
pub(super) fn queue_of_host(host: &str) -> Option<&str> {
    let (name, rest) = host.split_once(&format!(".{QUEUE}."))?;
    (!name.is_empty() && !rest.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_url_names_its_queue() {
        for url in [
            "http://localhost:4566/000000000000/shots",
            "https://sqs.eu-west-1.amazonaws.com/123456789012/shots",
            "http://backlot.studio:80/behind/a/proxy/000000000000/shots/",
            "http://localhost:9324/queue/shots",
            "/000000000000/shots",
            "000000000000/shots",
            "http://shots.queue.localhost:4566/",
            "http://shots.queue.localhost:4566",
        ] {
            assert_eq!(queue_of(url).unwrap(), "shots", "{url}");
        }
    }

    #[test]
    fn what_names_no_queue_is_an_invalid_address_and_a_name_that_cannot_be_does_not_exist() {
        for url in [
            "",
            "/",
            "shots",
            "http://localhost:4566/",
            "http://localhost:4566/shots",
            "http://h/12/shots",
            "http://.queue.h/",
        ] {
            assert_eq!(queue_of(url).unwrap_err().query_code, "InvalidAddress", "{url}");
        }
        for url in ["http://h/000000000000/a b", "http://a.b.queue.h/", "/000000000000/\u{e4}"] {
            assert_eq!(queue_of(url).unwrap_err().query_code, "AWS.SimpleQueueService.NonExistentQueue", "{url}");
        }
    }
}
