//! How SQS names what went wrong.

use backlot_journal::JournalError;
use http::StatusCode;

use super::super::model::{QueueError, VISIBILITY_S_MAX};
use crate::control::ControlError;
use crate::edge::aws::AwsError;

/// An error whose code is `AWS.SimpleQueueService.…` for those who read the older codes.
macro_rules! legacy {
    ($shape:literal, $message:expr) => {
        AwsError::client(concat!("sqs#", $shape), $message).with_query_code(concat!("AWS.SimpleQueueService.", $shape))
    };
}

/// An error with one code in all protocols.
macro_rules! plain {
    ($shape:literal, $message:expr) => {
        AwsError::client(concat!("sqs#", $shape), $message).with_query_code($shape)
    };
}

pub(super) fn no_such_queue() -> AwsError {
    AwsError::client("sqs#QueueDoesNotExist", "The specified queue does not exist.")
        .with_query_code("AWS.SimpleQueueService.NonExistentQueue")
}

/// A URL that names no queue.
pub(super) fn invalid_address(url: &str) -> AwsError {
    let shown: String = url.chars().take(200).collect();
    plain!("InvalidAddress", format!("The address {shown} is not valid for this endpoint."))
        .with_status(StatusCode::NOT_FOUND)
}

pub(super) fn not_found(message: impl Into<String>) -> AwsError {
    plain!("ResourceNotFoundException", message).with_status(StatusCode::NOT_FOUND)
}

pub(super) fn missing(parameter: &str) -> AwsError {
    AwsError::client(
        "sqs#MissingRequiredParameterException",
        format!("The request must contain the parameter {parameter}."),
    )
    .with_query_code("MissingParameter")
}

pub(super) fn invalid_parameter(message: impl Into<String>) -> AwsError {
    AwsError::client("sqs#InvalidParameterValueException", message).with_query_code("InvalidParameterValue")
}

pub(super) fn invalid_value(value: &str, parameter: &str, reason: &str) -> AwsError {
    let shown: String = value.chars().take(200).collect();
    invalid_parameter(format!("Value {shown} for parameter {parameter} is invalid. Reason: {reason}"))
}

pub(super) fn unknown_attribute(name: &str) -> AwsError {
    let shown: String = name.chars().take(200).collect();
    plain!("InvalidAttributeName", format!("Unknown Attribute {shown}."))
}

pub(super) fn malformed(message: impl Into<String>) -> AwsError {
    AwsError::client("sqs#SerializationException", message).with_query_code("MalformedInput")
}

pub(super) fn unsupported(message: impl Into<String>) -> AwsError {
    legacy!("UnsupportedOperation", message)
}

pub(super) fn unknown_operation(operation: &str) -> AwsError {
    let shown: String = operation.chars().take(100).collect();
    AwsError::client("sqs#UnknownOperationException", format!("The action {shown} is not valid for this endpoint."))
        .with_query_code("InvalidAction")
}

pub(super) fn access_denied(operation: &str) -> AwsError {
    AwsError::client("sqs#AccessDeniedException", format!("The role of this key does not allow {operation}."))
        .with_query_code("AccessDenied")
        .with_status(StatusCode::FORBIDDEN)
}

pub(super) fn empty_batch() -> AwsError {
    legacy!("EmptyBatchRequest", "There should be at least one entry in the request.")
}

pub(super) fn too_many_entries(count: usize) -> AwsError {
    let message = format!("Maximum number of entries per request are 10. You have sent {count}.");
    legacy!("TooManyEntriesInBatchRequest", message)
}

pub(super) fn invalid_entry_id() -> AwsError {
    let message = "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at \
                   most 80 letters long.";
    legacy!("InvalidBatchEntryId", message)
}

pub(super) fn entry_ids_not_distinct(id: &str) -> AwsError {
    legacy!("BatchEntryIdsNotDistinct", format!("Id {id} repeated."))
}

pub(super) fn batch_too_long(bytes: usize, max: usize) -> AwsError {
    let message = format!("Batch requests cannot be longer than {max} bytes. You have sent {bytes} bytes.");
    legacy!("BatchRequestTooLong", message)
}

pub(super) fn visibility_out_of_range(value: i64) -> AwsError {
    let reason = format!("VisibilityTimeout must be an integer between 0 and {VISIBILITY_S_MAX}");
    invalid_value(&value.to_string(), "VisibilityTimeout", &reason)
}

fn name_exists(differing: &str) -> AwsError {
    let message = format!("A queue already exists with the same name and a different value for {differing}");
    AwsError::client("sqs#QueueNameExists", message).with_query_code("QueueAlreadyExists")
}

/// What the queues said, in the words of SQS.
pub(super) fn of(error: QueueError) -> AwsError {
    match error {
        QueueError::NoSuchQueue(_) => no_such_queue(),
        QueueError::NoSuchMessage { .. } => invalid_parameter(
            "Value for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for \
             visibility timeout change.",
        ),
        QueueError::Exists(_) => name_exists("attribute(s)"),
        QueueError::Differs { attribute, .. } => name_exists(&format!("attribute {attribute}")),
        QueueError::DeletedRecently(_) => legacy!(
            "QueueDeletedRecently",
            "You must wait 60 seconds after deleting a queue before you can create another with the same name."
        ),
        QueueError::PurgeInProgress(name) => legacy!(
            "PurgeQueueInProgress",
            format!("Only one PurgeQueue operation on {name} is allowed every 60 seconds.")
        )
        .with_status(StatusCode::FORBIDDEN),
        QueueError::NotFound(problem) => not_found(problem),
        QueueError::MisplacedAttribute(problem) => plain!("InvalidAttributeName", problem),
        QueueError::NotAdmitted(sentence) => plain!("InvalidMessageContents", sentence),
        QueueError::UnknownAttribute(name) => unknown_attribute(&name),
        QueueError::InvalidAttribute { problem, .. } => plain!("InvalidAttributeValue", problem),
        QueueError::InvalidParameter { problem, .. } => invalid_parameter(problem),
        QueueError::ForeignReceipt => plain!("ReceiptHandleIsInvalid", "The input receipt handle is invalid."),
        QueueError::ReceiptExpired => {
            invalid_parameter("Value for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.")
        }
        QueueError::Missing(parameter) => missing(parameter),
        error @ QueueError::Draining(_) => legacy!("UnsupportedOperation", error.to_string()),
        QueueError::NotInFlight => legacy!("MessageNotInflight", "The message referred to isn't in flight."),
        error @ (QueueError::OverLimit(_) | QueueError::Full(_)) => {
            plain!("OverLimit", error.to_string()).with_status(StatusCode::FORBIDDEN)
        }
        QueueError::Store { source: ControlError::Journal(JournalError::Full), queue } => {
            tracing::warn!(queue, "refused a call: the disk is full");
            AwsError::client("sqs#ServiceUnavailable", "The disk of the appliance is full; deletes are still taken.")
                .with_query_code("ServiceUnavailable")
                .with_status(StatusCode::SERVICE_UNAVAILABLE)
        }
        QueueError::Store { source, queue } => {
            tracing::error!(queue, error = %source, "write to a queue");
            AwsError::client("sqs#InternalError", "The appliance could not do this; its log says why.")
                .with_query_code("InternalError")
                .with_status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}
