//! How CloudWatch Logs names what went wrong.

use backlot_journal::JournalError;
use http::StatusCode;

use super::groups::GroupError;
use crate::control::ControlError;
use crate::edge::ApiError;
use crate::edge::aws::AwsError;
use crate::edge::otlp::OtlpError;

pub(super) fn invalid(message: impl Into<String>) -> AwsError {
    AwsError::client("InvalidParameterException", message)
}

/// A value outside its bounds, as the services of AWS word it.
pub(super) fn constraint(value: &str, name: &str, constraint: &str) -> AwsError {
    let shown: String = value.chars().take(200).collect();
    invalid(format!(
        "1 validation error detected: Value '{shown}' at '{name}' failed to satisfy constraint: {constraint}"
    ))
}

pub(super) fn malformed(message: impl std::fmt::Display) -> AwsError {
    AwsError::client("SerializationException", format!("The request cannot be read: {message}."))
}

pub(super) fn missing(name: &str) -> AwsError {
    invalid(format!(
        "1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not be null"
    ))
}

pub(super) fn not_found(message: impl Into<String>) -> AwsError {
    AwsError::client("ResourceNotFoundException", message)
}

pub(super) fn limit(message: impl Into<String>) -> AwsError {
    AwsError::client("LimitExceededException", message)
}

/// SDKs wait and try again.
pub(super) fn throttled(message: impl Into<String>) -> AwsError {
    AwsError::client("ThrottlingException", message)
}

pub(super) fn unavailable(message: impl Into<String>) -> AwsError {
    AwsError::client("ServiceUnavailableException", message).with_status(StatusCode::SERVICE_UNAVAILABLE)
}

pub(super) fn unknown_operation(operation: &str) -> AwsError {
    let shown: String = operation.chars().take(100).collect();
    AwsError::client("UnknownOperationException", format!("The operation {shown} is not served here."))
}

pub(super) fn access_denied(operation: &str) -> AwsError {
    AwsError::client("AccessDeniedException", format!("The role of this key does not allow logs:{operation}."))
}

pub(super) fn internal() -> AwsError {
    AwsError::client("InternalFailure", "The appliance could not do this; its log says why.")
        .with_status(StatusCode::INTERNAL_SERVER_ERROR)
}

pub(super) fn of_groups(error: GroupError) -> AwsError {
    let message = error.to_string();
    match error {
        GroupError::NoSuchGroup | GroupError::NoSuchStream => not_found(message),
        GroupError::GroupExists | GroupError::StreamExists => {
            AwsError::client("ResourceAlreadyExistsException", message)
        }
        GroupError::Limit(_) => limit(message),
        GroupError::TooManyTags(_) => AwsError::client("TooManyTagsException", message),
        GroupError::Store(ControlError::Journal(JournalError::Full)) => {
            unavailable("The disk of the appliance is full; deletes are still taken.")
        }
        GroupError::Store(source) => {
            tracing::error!(error = %source, "write a log group");
            internal()
        }
    }
}

/// What the log store says of a search.
pub(super) fn of_search(error: ApiError) -> AwsError {
    match error.status {
        StatusCode::SERVICE_UNAVAILABLE => throttled(format!("Rate exceeded: {}", error.message)),
        status if status.is_client_error() => invalid(error.message),
        _ => internal(),
    }
}

/// What the log store says of events that it was to keep.
pub(super) fn of_keep(error: OtlpError) -> AwsError {
    match error {
        OtlpError::Busy { reason, .. } => unavailable(format!("The service cannot complete the request: {reason}")),
        OtlpError::Internal(cause) => {
            tracing::error!(cause, "log events were not taken");
            internal()
        }
        error => invalid(error.to_string()),
    }
}
