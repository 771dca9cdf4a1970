//! Operations on objects.

use http::HeaderMap;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::acl;
use super::convert::{
    self, BodyChecksum, checksum_fields, checksum_type, error, etag, set_checksum, size, timestamp, told_version,
    version,
};
use super::encryption::{self, customer, seal_asked, source_customer, tell_customer, tell_seal};
use super::lock::{lock_asked, told_lock};
use super::tagging;
use crate::artifacts::conditions::ReadConditions;
use crate::artifacts::engine::{Put, Wanted};
use crate::artifacts::error::ArtifactError;
use crate::artifacts::intake::Expected;
use crate::artifacts::model::{Body, ContentHeaders, ObjectRow, PUT_BYTES_MAX};
use crate::artifacts::{Artifacts, CustomerKey, Got, SealAsked, Taking, VersionName};

/// What S3 calls a body of which nobody said what it is.
const UNNAMED_TYPE: &str = "binary/octet-stream";

/// The content headers of an input that has them all.
macro_rules! content_headers {
    ($input:expr) => {
        ContentHeaders {
            content_type: $input.content_type.take(),
            disposition: $input.content_disposition.take(),
            encoding: convert::content_encoding($input.content_encoding.take()),
            language: $input.content_language.take(),
            cache_control: $input.cache_control.take(),
            expires: convert::expires($input.expires.take()),
        }
    };
}
pub(super) use content_headers;

pub(super) async fn put(
    artifacts: &Artifacts,
    request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let S3Request { mut input, headers, trailing_headers, extensions, .. } = request;
    // A form's fields do not come as headers.
    let asks = input.website_redirect_location.is_some()
        || input.storage_class.as_ref().is_some_and(|class| class.as_str() != StorageClass::STANDARD);
    if asks {
        return Err(s3_error!(NotImplemented, "redirects and storage classes are not served in forms"));
    }
    let announced = input.content_length.and_then(|length| u64::try_from(length).ok());
    if announced.is_some_and(|length| length > PUT_BYTES_MAX) {
        return Err(error(ArtifactError::EntityTooLarge { max: PUT_BYTES_MAX }));
    }
    let checksum = BodyChecksum::read(&headers, checksum_fields!(input))?;
    let seal = seal_asked!(input)?;
    let list = acl::of_object(artifacts, &extensions, &input.bucket, &acl::asked!(input))?;
    let mut put = Put {
        expected: Expected { md5: convert::content_md5(input.content_md5.take())?, checksum: None, size: announced },
        description: convert::description(content_headers!(input), input.metadata.take()),
        conditions: convert::write_conditions(&headers),
        tags: tagging::sent(input.tagging.as_deref())?,
        lock: lock_asked!(artifacts, input),
        bucket: input.bucket,
        key: input.key,
    };
    put.description.acl = list;
    // Refused before the body is read, where that is known already.
    artifacts.bucket(&put.bucket).map_err(error)?;
    put.description.check().map_err(error)?;
    let sealer = artifacts.sealer(&put.bucket, &put.key, &seal).map_err(error)?;
    let told = sealer.as_ref().map(|sealer| sealer.seal.clone());
    let body = convert::body(input.body.take());
    let received = artifacts.receive(body, checksum.algorithm, PUT_BYTES_MAX, Taking::object(sealer));
    let received = received.await.map_err(error)?;
    put.expected.checksum = checksum.expected(trailing_headers.as_ref())?;
    let (bucket, key) = (put.bucket.clone(), put.key.clone());
    let stored = artifacts.put(put, received).await.map_err(error)?;
    let mut output = PutObjectOutput {
        e_tag: Some(etag(&stored.etag)),
        version_id: stored.version.map(|version| version.to_string()),
        expiration: convert::expiration(artifacts.expiration_of_stored(&bucket, &key, &stored)),
        checksum_type: Some(checksum_type(&stored.checksum)),
        ..Default::default()
    };
    set_checksum!(output, &stored.checksum);
    tell_seal!(output, told.as_ref());
    tell_customer!(output, customer_of(&seal));
    Ok(S3Response::new(output))
}

pub(super) fn customer_of(seal: &SealAsked) -> Option<&CustomerKey> {
    match seal {
        SealAsked::Customer(customer) => Some(customer),
        SealAsked::Nothing | SealAsked::Kept(_) => None,
    }
}

fn wanted(range: Option<Range>, part: Option<i32>) -> S3Result<Wanted> {
    match (range, part) {
        (None, None) => Ok(Wanted::All),
        (Some(range), None) => Ok(Wanted::Range(convert::range(range))),
        (None, Some(part)) => match u16::try_from(part) {
            Ok(part @ 1..) => Ok(Wanted::Part(part)),
            _ => Err(s3_error!(InvalidArgument, "part numbers are 1 to 10000")),
        },
        (Some(_), Some(_)) => {
            Err(s3_error!(InvalidRequest, "Cannot specify both Range header and partNumber query parameter"))
        }
    }
}

/// Errors of a read: a 304 repeats the validators, a range out of bounds says the size.
fn read_error(
    artifacts: &Artifacts,
    (bucket, key, which): (&str, &str, Option<VersionName>),
    problem: ArtifactError,
) -> S3Error {
    match problem {
        ArtifactError::NotModified => {
            let mut not_modified = S3Error::new(S3ErrorCode::NotModified);
            if let Ok(row) = artifacts.find(bucket, key, which) {
                not_modified.set_headers(validators(&row));
            }
            not_modified
        }
        other => error(other),
    }
}

fn validators(row: &ObjectRow) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(tag) = format!("\"{}\"", row.etag).parse() {
        headers.insert(http::header::ETAG, tag);
    }
    if let Some(Ok(modified)) = convert::expires(Some(timestamp(row.modified_ms))).map(|date| date.parse()) {
        headers.insert(http::header::LAST_MODIFIED, modified);
    }
    if let Some(Ok(control)) = row.description.headers.cache_control.as_deref().map(str::parse) {
        headers.insert(http::header::CACHE_CONTROL, control);
    }
    headers
}

fn content_range(range: Option<(u64, u64)>, size: u64) -> Option<String> {
    range
        .filter(|(_, length)| *length > 0)
        .map(|(first, length)| format!("bytes {first}-{}/{size}", first + length - 1))
}

fn parts_count(row: &ObjectRow, part: Option<i32>) -> Option<i32> {
    part.filter(|_| row.etag.parts > 0).map(|_| i32::from(row.etag.parts))
}

/// Fields that a GET and a HEAD answer alike.
macro_rules! described {
    ($output:expr, $row:expr, $part:expr, $artifacts:expr, $input:expr) => {{
        let row: ObjectRow = $row;
        $output.version_id = told_version($artifacts, &$input.bucket, &row);
        if $input.version_id.is_none() {
            $output.expiration = convert::expiration($artifacts.expiration(&$input.bucket, &$input.key, &row));
        }
        told_lock!($output, &row);
        // S3 names every class but STANDARD.
        $output.storage_class = row.cold_class().map(|class| StorageClass::from_static(class.name()));
        $output.parts_count = parts_count(&row, $part);
        $output.accept_ranges = Some("bytes".into());
        $output.e_tag = Some(etag(&row.etag));
        tell_seal!($output, row.seal.as_ref());
        $output.last_modified = Some(timestamp(row.modified_ms));
        let headers = row.description.headers;
        $output.content_type = Some(headers.content_type.unwrap_or_else(|| UNNAMED_TYPE.into()));
        $output.content_disposition = headers.disposition;
        $output.content_encoding = headers.encoding;
        $output.content_language = headers.language;
        $output.cache_control = headers.cache_control;
        $output.expires = convert::parse_expires(headers.expires.as_deref());
        $output.metadata = Some(row.description.metadata.into_iter().collect());
    }};
}

/// A checksum is told when it was asked for and all of the object is given.
fn told(mode: Option<&ChecksumMode>, ranged: bool) -> bool {
    !ranged && mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

pub(super) async fn get(
    artifacts: &Artifacts,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let S3Request { input, headers, .. } = request;
    let which = version(input.version_id.as_deref())?;
    encryption::refuse_on_read(&headers)?;
    let customer = customer!(input)?;
    let conditions = convert::read_conditions(&headers, "", input.if_modified_since, input.if_unmodified_since);
    let wanted = wanted(input.range, input.part_number)?;
    let got = artifacts.get_version(&input.bucket, &input.key, which, wanted, &conditions, customer.as_ref()).await;
    let Got { row, range, stream } =
        got.map_err(|problem| read_error(artifacts, (&input.bucket, &input.key, which), problem))?;
    let mut output = GetObjectOutput {
        content_length: Some(size(stream.remaining())),
        content_range: content_range(range, row.size),
        ..Default::default()
    };
    if told(input.checksum_mode.as_ref(), range.is_some()) {
        set_checksum!(output, &row.checksum);
        output.checksum_type = Some(checksum_type(&row.checksum));
    }
    output.tag_count = Some(i32::from(row.tags)).filter(|count| *count > 0);
    described!(output, row, input.part_number, artifacts, input);
    tell_customer!(output, customer.as_ref());
    output.body = Some(StreamingBlob::wrap(stream));
    Ok(S3Response::new(output))
}

pub(super) async fn head(
    artifacts: &Artifacts,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let S3Request { input, headers, .. } = request;
    let which = version(input.version_id.as_deref())?;
    encryption::refuse_on_read(&headers)?;
    let customer = customer!(input)?;
    let conditions = convert::read_conditions(&headers, "", input.if_modified_since, input.if_unmodified_since);
    let failed = |problem| read_error(artifacts, (&input.bucket, &input.key, which), problem);
    let row = artifacts.find(&input.bucket, &input.key, which).map_err(failed)?;
    encryption::check(artifacts, &input.bucket, &input.key, row.seal.as_ref(), customer.as_ref())?;
    conditions.check(&row.etag, row.modified_ms).map_err(failed)?;
    let range = artifacts.locate(&row, wanted(input.range, input.part_number)?).map_err(failed)?;
    let mut output = HeadObjectOutput {
        content_length: Some(size(range.map_or(row.size, |(_, length)| length))),
        content_range: content_range(range, row.size),
        ..Default::default()
    };
    if told(input.checksum_mode.as_ref(), range.is_some()) {
        set_checksum!(output, &row.checksum);
        output.checksum_type = Some(checksum_type(&row.checksum));
    }
    let tags = row.tags;
    described!(output, row, input.part_number, artifacts, input);
    tell_customer!(output, customer.as_ref());
    let status = if range.is_some() { http::StatusCode::PARTIAL_CONTENT } else { http::StatusCode::OK };
    let mut response = S3Response::with_status(output, status);
    if tags > 0 {
        response.headers.insert("x-amz-tagging-count", tags.into()); // S3 tells it, s3s has no field for it
    }
    Ok(response)
}

pub(super) async fn attributes(
    artifacts: &Artifacts,
    request: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let input = request.input;
    let which = version(input.version_id.as_deref())?;
    let row = artifacts.find(&input.bucket, &input.key, which).map_err(error)?;
    let customer = customer!(input)?;
    encryption::check(artifacts, &input.bucket, &input.key, row.seal.as_ref(), customer.as_ref())?;
    // One header with commas, or several: s3s leaves the commas.
    let names: Vec<&str> =
        input.object_attributes.iter().flat_map(|names| names.as_str().split(',')).map(str::trim).collect();
    let known = [
        ObjectAttributes::ETAG,
        ObjectAttributes::CHECKSUM,
        ObjectAttributes::OBJECT_PARTS,
        ObjectAttributes::OBJECT_SIZE,
        ObjectAttributes::STORAGE_CLASS,
    ];
    if let Some(name) = names.iter().find(|name| !known.contains(name)) {
        return Err(s3_error!(InvalidArgument, "`{name}` is no attribute of an object"));
    }
    let asked = |name: &str| names.contains(&name);
    let mut output = GetObjectAttributesOutput {
        last_modified: Some(timestamp(row.modified_ms)),
        version_id: told_version(artifacts, &input.bucket, &row),
        ..Default::default()
    };
    if asked(ObjectAttributes::ETAG) {
        output.e_tag = Some(etag(&row.etag));
    }
    if asked(ObjectAttributes::OBJECT_SIZE) {
        output.object_size = Some(size(row.size));
    }
    if asked(ObjectAttributes::STORAGE_CLASS) {
        output.storage_class = Some(StorageClass::from_static(row.class()));
    }
    if asked(ObjectAttributes::CHECKSUM) {
        let mut checksum = Checksum { checksum_type: Some(checksum_type(&row.checksum)), ..Default::default() };
        set_checksum!(checksum, &row.checksum);
        output.checksum = Some(checksum);
    }
    if let (true, Body::Parts(body)) = (asked(ObjectAttributes::OBJECT_PARTS), &row.body) {
        let (max_parts, max) = super::listing::limit(input.max_parts)?;
        let marker = input.part_number_marker.unwrap_or(0);
        let chunks = artifacts.chunks(*body).map_err(error)?;
        let all = chunks.into_iter().flat_map(|(_, chunk)| chunk.parts);
        let mut parts: Vec<_> = all.filter(|part| i32::from(part.number) > marker).take(max + 1).collect();
        let more = parts.len() > max;
        parts.truncate(max);
        let last = parts.last().map_or(0, |part| i32::from(part.number));
        let parts = parts.into_iter().map(|part| {
            let mut told = ObjectPart {
                part_number: Some(i32::from(part.number)),
                size: Some(size(part.extent.size)),
                ..Default::default()
            };
            if let Some(checksum) = &part.checksum {
                set_checksum!(told, checksum);
            }
            told
        });
        output.object_parts = Some(GetObjectAttributesParts {
            is_truncated: Some(more),
            max_parts: Some(max_parts),
            next_part_number_marker: Some(last),
            part_number_marker: Some(marker),
            parts: Some(parts.collect()),
            total_parts_count: Some(i32::from(row.etag.parts)),
        });
    }
    Ok(S3Response::new(output))
}

/// The bucket, key and version that a copy names.
pub(super) fn source(source: &CopySource) -> S3Result<(String, String, Option<VersionName>)> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            Ok((bucket.to_string(), key.to_string(), version(version_id.as_deref())?))
        }
        _ => Err(s3_error!(NotImplemented, "access points are not served")),
    }
}

pub(super) async fn copy(
    artifacts: &Artifacts,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let S3Request { mut input, headers, extensions, .. } = request;
    let (bucket, key, which) = source(&input.copy_source)?;
    let replace =
        input.metadata_directive.as_ref().is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
    let seal = seal_asked!(input)?;
    let source_customer = source_customer!(input)?;
    // An older version over the newest is how it is brought back; another encryption is a change.
    let reseals = !matches!(seal, SealAsked::Nothing);
    // So is another class: what is in the cold tier is put here again.
    let comes_back = input.storage_class.is_some()
        && artifacts.find(&bucket, &key, which).is_ok_and(|row| row.cold_class().is_some());
    let changes = replace || reseals || comes_back;
    if !changes && bucket == input.bucket && key == input.key && which.is_none() {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes."
        ));
    }
    let retag =
        input.tagging_directive.as_ref().is_some_and(|directive| directive.as_str() == TaggingDirective::REPLACE);
    let new_tags = tagging::sent(input.tagging.as_deref())?;
    let lock = lock_asked!(artifacts, input);
    artifacts.bucket(&input.bucket).map_err(error)?;
    let conditions = convert::read_conditions(
        &headers,
        "x-amz-copy-source-",
        input.copy_source_if_modified_since.take(),
        input.copy_source_if_unmodified_since.take(),
    );
    let row = artifacts.find(&bucket, &key, which).map_err(error)?;
    conditions.check_copy_source(&row.etag, row.modified_ms).map_err(error)?;
    if row.size > PUT_BYTES_MAX {
        return Err(s3_error!(InvalidRequest, "a copy has at most 5 GiB; larger objects are copied in parts"));
    }
    let always = ReadConditions::default();
    let got = artifacts.get_version(&bucket, &key, which, Wanted::All, &always, source_customer.as_ref()).await;
    let Got { row, stream, .. } = got.map_err(error)?;
    let tags = if retag { new_tags } else { artifacts.tags(row.version).map_err(error)? };
    let source_version = told_version(artifacts, &bucket, &row);
    let algorithm = match &input.checksum_algorithm {
        Some(algorithm) => convert::algorithm(algorithm.as_str())?,
        None => row.checksum.algorithm,
    };
    let mut description =
        if replace { convert::description(content_headers!(input), input.metadata.take()) } else { row.description };
    // A copy's list is the copier's, not the source's.
    description.acl = acl::of_object(artifacts, &extensions, &input.bucket, &acl::asked!(input))?;
    let size = stream.remaining();
    let sealer = artifacts.sealer(&input.bucket, &input.key, &seal).map_err(error)?;
    let told = sealer.as_ref().map(|sealer| sealer.seal.clone());
    let received = artifacts.receive(stream, Some(algorithm), PUT_BYTES_MAX, Taking::object(sealer));
    let received = received.await.map_err(error)?;
    let put = Put {
        bucket: input.bucket,
        key: input.key,
        description,
        conditions: convert::write_conditions(&headers),
        expected: Expected { size: Some(size), ..Expected::default() },
        tags,
        lock,
    };
    let (bucket, key) = (put.bucket.clone(), put.key.clone());
    let stored = artifacts.put(put, received).await.map_err(error)?;
    let mut result = CopyObjectResult {
        e_tag: Some(etag(&stored.etag)),
        last_modified: Some(timestamp(stored.modified_ms)),
        checksum_type: Some(checksum_type(&stored.checksum)),
        ..Default::default()
    };
    set_checksum!(result, &stored.checksum);
    let mut output = CopyObjectOutput {
        copy_object_result: Some(result),
        copy_source_version_id: source_version,
        version_id: stored.version.map(|version| version.to_string()),
        expiration: convert::expiration(artifacts.expiration_of_stored(&bucket, &key, &stored)),
        ..Default::default()
    };
    tell_seal!(output, told.as_ref());
    tell_customer!(output, customer_of(&seal));
    Ok(S3Response::new(output))
}
