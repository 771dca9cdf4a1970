//! Object lock: a bucket's default, and the retention and legal hold of versions.

use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::convert::{custom, error, timestamp, version};
use crate::artifacts::Artifacts;
use crate::artifacts::lock::{self, Lock, Mode, Period};
use crate::identity::Role;

/// What an input asks for in its three headers.
macro_rules! lock_asked {
    ($artifacts:expr, $input:expr) => {
        $crate::artifacts::api_s3::lock::asked(
            $artifacts,
            $input.object_lock_mode.as_ref().map(|mode| mode.as_str()),
            $input.object_lock_retain_until_date.take(),
            $input.object_lock_legal_hold_status.as_ref().map(|status| status.as_str()),
        )?
    };
}
pub(super) use lock_asked;

/// Sets the fields of an output that say how a version is locked.
macro_rules! told_lock {
    ($output:expr, $row:expr) => {{
        let row: &ObjectRow = $row;
        if let Some(lock) = row.lock.as_deref() {
            let (mode, until, hold) = $crate::artifacts::api_s3::lock::told(lock);
            $output.object_lock_mode = mode.map(ObjectLockMode::from_static);
            $output.object_lock_retain_until_date = until;
            $output.object_lock_legal_hold_status = hold.map(ObjectLockLegalHoldStatus::from_static);
        }
    }};
}
pub(super) use told_lock;

pub(super) fn told(lock: &Lock) -> (Option<&'static str>, Option<Timestamp>, Option<&'static str>) {
    let until = lock.retention.map(|retention| timestamp(retention.until_ms));
    (lock.retention.map(|retention| mode_name(retention.mode)), until, lock.hold.map(hold_name))
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Governance => ObjectLockRetentionMode::GOVERNANCE,
        Mode::Compliance => ObjectLockRetentionMode::COMPLIANCE,
    }
}

fn mode_named(name: &str) -> Option<Mode> {
    [Mode::Governance, Mode::Compliance].into_iter().find(|mode| mode_name(*mode) == name)
}

fn hold_name(held: bool) -> &'static str {
    if held { ObjectLockLegalHoldStatus::ON } else { ObjectLockLegalHoldStatus::OFF }
}

fn hold_named(name: &str) -> Option<bool> {
    [true, false].into_iter().find(|held| hold_name(*held) == name)
}

fn unix_ms(date: Timestamp) -> u64 {
    let moment = time::OffsetDateTime::from(date).unix_timestamp_nanos() / 1_000_000;
    u64::try_from(moment).unwrap_or_default()
}

fn in_future(artifacts: &Artifacts, date: Timestamp) -> S3Result<u64> {
    let until_ms = unix_ms(date);
    if until_ms <= artifacts.now().wall_ms {
        return Err(s3_error!(InvalidArgument, "The retain until date must be in the future!"));
    }
    Ok(until_ms)
}

pub(super) fn asked(
    artifacts: &Artifacts,
    mode: Option<&str>,
    until: Option<Timestamp>,
    hold: Option<&str>,
) -> S3Result<Lock> {
    let retention = match (mode, until) {
        (None, None) => None,
        (Some(mode), Some(until)) => {
            let mode = mode_named(mode).ok_or_else(|| s3_error!(InvalidArgument, "Unknown wormMode directive."))?;
            Some(lock::Retention { mode, until_ms: in_future(artifacts, until)? })
        }
        _ => {
            return Err(s3_error!(
                InvalidArgument,
                "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied"
            ));
        }
    };
    let hold = match hold {
        None => None,
        Some(status) => Some(
            hold_named(status)
                .ok_or_else(|| s3_error!(InvalidArgument, "Legal Hold must be either of 'ON' or 'OFF'"))?,
        ),
    };
    Ok(Lock { retention, hold })
}

/// Whether a retention in GOVERNANCE mode is bypassed: where that was asked for, by who may.
pub(super) fn bypass(extensions: &http::Extensions, asked: Option<bool>) -> S3Result<bool> {
    if asked != Some(true) {
        return Ok(false);
    }
    match extensions.get::<Role>() {
        Some(role) if role.operates() => Ok(true),
        _ => Err(s3_error!(AccessDenied, "bypassing a retention needs the role operator or admin")),
    }
}

pub(super) async fn get(
    artifacts: &Artifacts,
    request: S3Request<GetObjectLockConfigurationInput>,
) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
    let Some(default) = artifacts.bucket_lock(&request.input.bucket).map_err(error)? else {
        return Err(s3_error!(
            ObjectLockConfigurationNotFoundError,
            "Object Lock configuration does not exist for this bucket"
        ));
    };
    let rule = default.map(|default| {
        let (days, years) = match default.period {
            Period::Days(days) => (i32::try_from(days).ok(), None),
            Period::Years(years) => (None, i32::try_from(years).ok()),
        };
        let mode = Some(ObjectLockRetentionMode::from_static(mode_name(default.mode)));
        ObjectLockRule { default_retention: Some(DefaultRetention { days, mode, years }) }
    });
    let enabled = Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED));
    let configuration = ObjectLockConfiguration { object_lock_enabled: enabled, rule };
    Ok(S3Response::new(GetObjectLockConfigurationOutput { object_lock_configuration: Some(configuration) }))
}

fn malformed() -> S3Error {
    s3_error!(MalformedXML, "The XML you provided was not well-formed or did not validate against our published schema")
}

fn default_retention(rule: DefaultRetention) -> S3Result<lock::DefaultRetention> {
    let mode = rule.mode.as_ref().and_then(|mode| mode_named(mode.as_str())).ok_or_else(malformed)?;
    let period = |number: i32| u32::try_from(number).unwrap_or(0);
    let period = match (rule.days, rule.years) {
        (Some(days), None) => Period::Days(period(days)),
        (None, Some(years)) => Period::Years(period(years)),
        _ => return Err(malformed()),
    };
    let default = lock::DefaultRetention { mode, period };
    if !default.is_within_bounds() {
        let text = "a default retention is 1 to 36500 days, or 1 to 100 years".into();
        return Err(custom("InvalidRetentionPeriod", http::StatusCode::BAD_REQUEST, text));
    }
    Ok(default)
}

pub(super) async fn put(
    artifacts: &Artifacts,
    request: S3Request<PutObjectLockConfigurationInput>,
) -> S3Result<S3Response<PutObjectLockConfigurationOutput>> {
    let input = request.input;
    artifacts.bucket(&input.bucket).map_err(error)?;
    let configuration = input.object_lock_configuration.ok_or_else(malformed)?;
    if configuration.object_lock_enabled.as_ref().map(ObjectLockEnabled::as_str) != Some(ObjectLockEnabled::ENABLED) {
        return Err(malformed());
    }
    let default = match configuration.rule {
        None => None,
        Some(rule) => Some(default_retention(rule.default_retention.ok_or_else(malformed)?)?),
    };
    artifacts.set_lock(&input.bucket, default).await.map_err(error)?;
    Ok(S3Response::new(PutObjectLockConfigurationOutput::default()))
}

fn nothing_set() -> S3Error {
    s3_error!(NoSuchObjectLockConfiguration, "The specified object does not have a ObjectLock configuration")
}

pub(super) async fn get_retention(
    artifacts: &Artifacts,
    request: S3Request<GetObjectRetentionInput>,
) -> S3Result<S3Response<GetObjectRetentionOutput>> {
    let input = request.input;
    let which = version(input.version_id.as_deref())?;
    let lock = artifacts.lock_of(&input.bucket, &input.key, which).map_err(error)?;
    let retention = lock.retention.ok_or_else(nothing_set)?;
    let retention = ObjectLockRetention {
        mode: Some(ObjectLockRetentionMode::from_static(mode_name(retention.mode))),
        retain_until_date: Some(timestamp(retention.until_ms)),
    };
    Ok(S3Response::new(GetObjectRetentionOutput { retention: Some(retention) }))
}

pub(super) async fn put_retention(
    artifacts: &Artifacts,
    request: S3Request<PutObjectRetentionInput>,
) -> S3Result<S3Response<PutObjectRetentionOutput>> {
    let S3Request { input, extensions, .. } = request;
    let which = version(input.version_id.as_deref())?;
    let bypass = bypass(&extensions, input.bypass_governance_retention)?;
    artifacts.lock_of(&input.bucket, &input.key, which).map_err(error)?; // what is wrong with the object comes first
    let wanted = match input.retention.map(|retention| (retention.mode, retention.retain_until_date)) {
        None | Some((None, None)) => None,
        Some((Some(mode), Some(until))) => {
            let mode = mode_named(mode.as_str()).ok_or_else(malformed)?;
            Some(lock::Retention { mode, until_ms: in_future(artifacts, until)? })
        }
        Some(_) => return Err(malformed()),
    };
    let change = |lock: &mut Lock, now_ms| lock.retain(wanted, now_ms, bypass);
    artifacts.set_lock_of(&input.bucket, &input.key, which, change).await.map_err(error)?;
    Ok(S3Response::new(PutObjectRetentionOutput::default()))
}

pub(super) async fn get_hold(
    artifacts: &Artifacts,
    request: S3Request<GetObjectLegalHoldInput>,
) -> S3Result<S3Response<GetObjectLegalHoldOutput>> {
    let input = request.input;
    let which = version(input.version_id.as_deref())?;
    let lock = artifacts.lock_of(&input.bucket, &input.key, which).map_err(error)?;
    let status = hold_name(lock.hold.ok_or_else(nothing_set)?);
    let status = Some(ObjectLockLegalHoldStatus::from_static(status));
    Ok(S3Response::new(GetObjectLegalHoldOutput { legal_hold: Some(ObjectLockLegalHold { status }) }))
}

pub(super) async fn put_hold(
    artifacts: &Artifacts,
    request: S3Request<PutObjectLegalHoldInput>,
) -> S3Result<S3Response<PutObjectLegalHoldOutput>> {
    let input = request.input;
    let which = version(input.version_id.as_deref())?;
    artifacts.lock_of(&input.bucket, &input.key, which).map_err(error)?; // what is wrong with the object comes first
    let status = input.legal_hold.and_then(|hold| hold.status).ok_or_else(malformed)?;
    let held = hold_named(status.as_str()).ok_or_else(malformed)?;
    let change = |lock: &mut Lock, _| {
        lock.hold = Some(held);
        Ok(())
    };
    artifacts.set_lock_of(&input.bucket, &input.key, which, change).await.map_err(error)?;
    Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
}
