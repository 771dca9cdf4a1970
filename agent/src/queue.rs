//! The job queue, as SQS.
//!
//! Every call carries `x-backlot-agent`, signed, so that the appliance gives only what fits this host; any other SQS
//! ignores it. A lease is a receipt handle: it is extended, released or deleted, and after its time it is nobody's.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use backlot_wire::{AGENT_HEADER, ALIKE_HEADER, ATTEMPT_ATTRIBUTE};
use parking_lot::Mutex;

use crate::config::Config;

/// Longest wait for the answer to anything but a receive.
const ANSWER_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// This receipt is not ours any more, or never was.
    #[error("the lease is gone: {0}")]
    Gone(String),
    #[error("{0}")]
    Away(String),
}

/// One job, received.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub message_id: String,
    pub receipt: String,
    pub body: String,
    /// The attempt that this receive has started; absent where the queue is a plain SQS.
    pub attempt: Option<String>,
    /// From 1.
    pub receive_count: u32,
    pub traceparent: Option<String>,
}

/// The queue that jobs come from.
pub struct Queue {
    client: Client,
    name: String,
    agent: String,
    visibility_s: i32,
    poll_s: i32,
    url: Mutex<Option<String>>,
}

/// Adds the signed header, and others: the request is changed before it is signed.
macro_rules! signed {
    ($self:ident, $operation:expr $(, $header:expr => $value:expr)?) => {{
        let agent = $self.agent.clone();
        $operation
            .customize()
            .mutate_request(move |request| {
                request.headers_mut().insert(AGENT_HEADER, agent.clone());
                $(request.headers_mut().insert($header, $value.clone());)?
            })
            .send()
            .await
    }};
}

impl Queue {
    #[must_use]
    pub fn new(shared: &aws_config::SdkConfig, config: &Config) -> Self {
        // Each caller has its own loop and its own patience: a retry in here would hide an appliance that is away.
        let settings = aws_sdk_sqs::config::Builder::from(shared)
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(5))
                    .operation_timeout(Duration::from_secs(u64::from(config.poll_s) + 15))
                    .build(),
            )
            .build();
        Self {
            client: Client::from_conf(settings),
            name: config.queue.clone(),
            agent: config.name.clone(),
            visibility_s: i32::try_from(config.visibility_s).unwrap_or(i32::MAX),
            poll_s: i32::try_from(config.poll_s).unwrap_or(20),
            url: Mutex::new(None),
        }
    }

    async fn url(&self) -> Result<String, QueueError> {
        if let Some(url) = self.url.lock().clone() {
            return Ok(url);
        }
        let answer = signed!(self, self.client.get_queue_url().queue_name(&self.name)).map_err(|error| away(&error))?;
        let url = answer.queue_url.ok_or_else(|| QueueError::Away("an answer without a queue URL".into()))?;
        *self.url.lock() = Some(url.clone());
        Ok(url)
    }

    /// Waits for one job, at most the configured poll.
    ///
    /// # Errors
    /// [`QueueError::Away`].
    pub async fn receive(&self) -> Result<Option<Delivery>, QueueError> {
        let operation = self
            .client
            .receive_message()
            .queue_url(self.url().await?)
            .max_number_of_messages(1)
            .wait_time_seconds(self.poll_s)
            .visibility_timeout(self.visibility_s)
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::All);
        let answer = signed!(self, operation).inspect_err(|_| *self.url.lock() = None).map_err(|error| away(&error))?;
        Ok(answer.messages.unwrap_or_default().into_iter().next().and_then(delivery))
    }

    /// Up to `most` (1 to 10) jobs that may be computed together with `job` and are ready, at once. Of the appliance's queues alone:
    /// any other gives whatever it has.
    ///
    /// # Errors
    /// [`QueueError::Away`].
    pub async fn receive_alike(&self, job: &str, most: usize) -> Result<Vec<Delivery>, QueueError> {
        let operation = self
            .client
            .receive_message()
            .queue_url(self.url().await?)
            .max_number_of_messages(i32::try_from(most.min(10)).unwrap_or(1))
            .wait_time_seconds(0)
            .visibility_timeout(self.visibility_s)
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::All);
        let job = job.to_owned();
        let answer = signed!(self, operation, ALIKE_HEADER => job).map_err(|error| away(&error))?;
        Ok(answer.messages.unwrap_or_default().into_iter().filter_map(delivery).collect())
    }

    /// Hides the job for `visibility_s` more.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn extend(&self, receipt: &str) -> Result<(), QueueError> {
        self.change_visibility(receipt, self.visibility_s).await
    }

    /// Gives the job back, to be received again after `delay_s`.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn release(&self, receipt: &str, delay_s: u32) -> Result<(), QueueError> {
        self.change_visibility(receipt, i32::try_from(delay_s.min(43_200)).unwrap_or(0)).await
    }

    async fn change_visibility(&self, receipt: &str, seconds: i32) -> Result<(), QueueError> {
        let operation = self
            .client
            .change_message_visibility()
            .queue_url(self.url().await?)
            .receipt_handle(receipt)
            .visibility_timeout(seconds);
        soon(async { signed!(self, operation).map(|_| ()).map_err(|error| classify(&error)) }).await
    }

    /// Deletes the job: it is done.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn delete(&self, receipt: &str) -> Result<(), QueueError> {
        let operation = self.client.delete_message().queue_url(self.url().await?).receipt_handle(receipt);
        soon(async { signed!(self, operation).map(|_| ()).map_err(|error| classify(&error)) }).await
    }
}

/// A call that waits for nothing is answered soon, or not at all.
async fn soon(call: impl Future<Output = Result<(), QueueError>>) -> Result<(), QueueError> {
    let late = |_| Err(QueueError::Away(format!("no answer within {ANSWER_MAX:?}")));
    tokio::time::timeout(ANSWER_MAX, call).await.unwrap_or_else(late)
}

fn delivery(message: Message) -> Option<Delivery> {
    let text = |name: &str| message.message_attributes.as_ref()?.get(name)?.string_value.clone();
    let receive_count = message
        .attributes
        .as_ref()
        .and_then(|attributes| attributes.get(&MessageSystemAttributeName::ApproximateReceiveCount))
        .and_then(|count| count.parse().ok());
    Some(Delivery {
        attempt: text(ATTEMPT_ATTRIBUTE),
        traceparent: text("traceparent"),
        receive_count: receive_count.unwrap_or(1),
        message_id: message.message_id.unwrap_or_default(),
        receipt: message.receipt_handle?,
        body: message.body.unwrap_or_default(),
    })
}

fn away<E: std::error::Error + ProvideErrorMetadata + 'static, R: std::fmt::Debug>(
    error: &SdkError<E, R>,
) -> QueueError {
    QueueError::Away(short(error))
}

fn classify<E, R>(error: &SdkError<E, R>) -> QueueError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: std::fmt::Debug,
{
    let code = error.code().unwrap_or_default();
    let gone = [
        "MessageNotInflight",
        "ReceiptHandleIsInvalid",
        "InvalidParameterValue",
        "NonExistentQueue",
        "QueueDoesNotExist",
    ];
    if gone.iter().any(|word| code.ends_with(word)) { QueueError::Gone(short(error)) } else { away(error) }
}

/// Code and message of the service where there is one, else the chain of causes.
pub(crate) fn short<E, R>(error: &SdkError<E, R>) -> String
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: std::fmt::Debug,
{
    match (error.code(), error.message()) {
        (Some(code), message) => format!("{code}: {}", message.unwrap_or_default()),
        (None, _) => {
            let text = match error {
                SdkError::DispatchFailure(failure) => failure
                    .as_connector_error()
                    .map_or_else(String::new, |cause| DisplayErrorContext(cause).to_string()),
                other => DisplayErrorContext(other).to_string(),
            };
            text.chars().take(300).collect()
        }
    }
}
