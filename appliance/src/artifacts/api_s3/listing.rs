//! Listings of what is current, in both generations.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::convert::{Names, checksum_type, error, etag, owner_of, parse_token, size, timestamp, token};
use crate::artifacts::Artifacts;
use crate::artifacts::listing::{Page, Query};
use crate::artifacts::model::ObjectRow;

/// Most keys in one answer (S3).
const KEYS_MAX: i32 = 1000;

/// `max-keys` as it was asked for, and as it is served.
pub(super) fn limit(asked: Option<i32>) -> S3Result<(i32, usize)> {
    match asked {
        Some(asked) if asked < 0 => Err(s3_error!(InvalidArgument, "a maximum of keys is not negative")),
        asked => {
            let asked = asked.unwrap_or(KEYS_MAX);
            Ok((asked, usize::try_from(asked.min(KEYS_MAX)).unwrap_or_default()))
        }
    }
}

/// The page that all three listings ask for; an empty `after` is none.
async fn page(
    artifacts: &Artifacts,
    bucket: &str,
    (prefix, delimiter): (Option<&String>, Option<&String>),
    after: Option<String>,
    max: usize,
) -> S3Result<Page<ObjectRow>> {
    let query = Query {
        prefix: prefix.cloned().unwrap_or_default(),
        delimiter: delimiter.cloned(),
        after: after.filter(|after| !after.is_empty()),
        max,
    };
    artifacts.list(bucket, query).await.map_err(error)
}

fn prefixes(names: &Names, page: &Page<ObjectRow>) -> Option<CommonPrefixList> {
    let prefix = |prefix: &String| CommonPrefix { prefix: Some(names.write(prefix)) };
    Some(page.common_prefixes.iter().map(prefix).collect())
}

fn object(names: &Names, key: &str, row: &ObjectRow, owner: Option<&Owner>) -> Object {
    Object {
        checksum_algorithm: Some(vec![ChecksumAlgorithm::from_static(row.checksum.algorithm.name())]),
        checksum_type: Some(checksum_type(&row.checksum)),
        e_tag: Some(etag(&row.etag)),
        key: Some(names.write(key)),
        last_modified: Some(timestamp(row.modified_ms)),
        owner: owner.cloned(),
        restore_status: None,
        size: Some(size(row.size)),
        storage_class: Some(ObjectStorageClass::from_static(row.class())),
    }
}

pub(super) async fn first(
    artifacts: &Artifacts,
    request: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let input = request.input;
    let names = Names::read(input.encoding_type.as_ref())?;
    let (max_keys, max) = limit(input.max_keys)?;
    let within = (input.prefix.as_ref(), input.delimiter.as_ref());
    let page = page(artifacts, &input.bucket, within, input.marker.clone(), max).await?;
    let owner = owner_of(artifacts, &input.bucket);
    let contents = page.entries.iter().map(|(key, row)| object(&names, key, row, Some(&owner))).collect();
    Ok(S3Response::new(ListObjectsOutput {
        common_prefixes: prefixes(&names, &page),
        contents: Some(contents),
        is_truncated: Some(page.next.is_some()),
        // Without a delimiter the last key is the marker, and S3 says nothing.
        next_marker: names.maybe(page.next.as_ref().filter(|_| input.delimiter.is_some())),
        name: Some(input.bucket),
        // Not encoded: SDKs decode it in the other listings, and not in this one.
        prefix: Some(input.prefix.unwrap_or_default()),
        marker: Some(names.write(input.marker.as_deref().unwrap_or_default())),
        max_keys: Some(max_keys),
        delimiter: names.maybe(input.delimiter.as_ref().filter(|delimiter| !delimiter.is_empty())),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}

pub(super) async fn second(
    artifacts: &Artifacts,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let input = request.input;
    let names = Names::read(input.encoding_type.as_ref())?;
    let (max_keys, max) = limit(input.max_keys)?;
    let after = match &input.continuation_token {
        Some(token) => Some(parse_token(token)?),
        None => input.start_after.clone(),
    };
    let within = (input.prefix.as_ref(), input.delimiter.as_ref());
    let page = page(artifacts, &input.bucket, within, after, max).await?;
    let owner = input.fetch_owner.unwrap_or(false).then(|| owner_of(artifacts, &input.bucket));
    let contents = page.entries.iter().map(|(key, row)| object(&names, key, row, owner.as_ref())).collect();
    let count = page.entries.len() + page.common_prefixes.len();
    Ok(S3Response::new(ListObjectsV2Output {
        common_prefixes: prefixes(&names, &page),
        contents: Some(contents),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_deref().map(token),
        key_count: i32::try_from(count).ok(),
        name: Some(input.bucket),
        prefix: Some(names.write(input.prefix.as_deref().unwrap_or_default())),
        max_keys: Some(max_keys),
        continuation_token: input.continuation_token,
        delimiter: names.maybe(input.delimiter.as_ref().filter(|delimiter| !delimiter.is_empty())),
        start_after: names.maybe(input.start_after.as_ref()),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}
