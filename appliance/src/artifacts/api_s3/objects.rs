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
use super::form::Bounds;
use super::lock::{lock_asked, told_lock};
use super::ranges::{self, content_range, parts_count};
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
            redirect: convert::redirect($input.website_redirect_location.take())?,
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
    if input.storage_class.as_ref().is_some_and(|class| class.as_str() != StorageClass::STANDARD) {
        return Err(s3_error!(InvalidStorageClass, "The storage class you specified is not valid: this is STANDARD"));
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
    artifacts.check_room(&put.bucket, &put.key, announced.unwrap_or(0)).map_err(error)?;
    put.description.check().map_err(error)?;
    let sealer = artifacts.sealer(&put.bucket, &put.key, &seal).map_err(error)?;
    let told = sealer.as_ref().map(|sealer| sealer.seal.clone());
    let body = convert::body(input.body.take());
    // A form's policy says how long its file may be.
    let bounds = extensions.get::<Bounds>().copied().unwrap_or(Bounds { min: 0, max: PUT_BYTES_MAX });
    let sums = artifacts.sums(checksum.algorithm, &put.expected);
    let received = artifacts.receive(body, sums, bounds.max, Taking::object(sealer));
    let received = received.await.map_err(error)?;
    if received.size() < bounds.min {
        return Err(s3_error!(EntityTooSmall, "Your proposed upload is smaller than the minimum allowed size"));
    }
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
        $output.website_redirect_location = headers.redirect;
        $output.metadata = Some(row.description.metadata.into_iter().collect());
    }};
}

fn asks_for_checksum(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

/// Tells the checksum of what is given, where it was asked for and there is one.
macro_rules! tell_checksum {
    ($output:expr, $artifacts:expr, $input:expr, $row:expr, $range:expr) => {
        if asks_for_checksum($input.checksum_mode.as_ref())
            && let Some(checksum) = ranges::checksum($artifacts, $row, $range)?
        {
            set_checksum!($output, &checksum);
            $output.checksum_type = Some(checksum_type(&$row.checksum));
        }
    };
}

pub(super) async fn get(
    artifacts: &Artifacts,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let S3Request { input, headers, extensions, .. } = request;
    let which = version(input.version_id.as_deref())?;
    encryption::refuse_on_read(&headers)?;
    let customer = customer!(input)?;
    let conditions = convert::read_conditions(&headers, "", input.if_modified_since, input.if_unmodified_since);
    let wanted = ranges::wanted(&extensions, input.range, input.part_number)?;
    let got = artifacts.get_version(&input.bucket, &input.key, which, wanted, &conditions, customer.as_ref()).await;
    let Got { row, range, several, stream } =
        got.map_err(|problem| read_error(artifacts, (&input.bucket, &input.key, which), problem))?;
    let mut output = GetObjectOutput {
        content_length: Some(size(stream.remaining())),
        content_range: content_range(range, row.size),
        ..Default::default()
    };
    if several.is_empty() {
        tell_checksum!(output, artifacts, input, &row, range);
    }
    output.tag_count = Some(i32::from(row.tags)).filter(|count| *count > 0);
    let whole = row.size;
    described!(output, row, input.part_number, artifacts, input);
    tell_customer!(output, customer.as_ref());
    if several.is_empty() {
        output.body = Some(StreamingBlob::wrap(stream));
        return Ok(S3Response::new(output));
    }
    let partial = ranges::give_several(&mut output, stream, &several, whole);
    let mut response = S3Response::new(output);
    response.extensions.insert(partial);
    Ok(response)
}

pub(super) async fn head(
    artifacts: &Artifacts,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let S3Request { input, headers, extensions, .. } = request;
    let which = version(input.version_id.as_deref())?;
    encryption::refuse_on_read(&headers)?;
    let customer = customer!(input)?;
    let conditions = convert::read_conditions(&headers, "", input.if_modified_since, input.if_unmodified_since);
    let failed = |problem| read_error(artifacts, (&input.bucket, &input.key, which), problem);
    let row = artifacts.find(&input.bucket, &input.key, which).map_err(failed)?;
    encryption::check(artifacts, &input.bucket, &input.key, row.seal.as_ref(), customer.as_ref())?;
    conditions.check(&row.etag, row.modified_ms).map_err(failed)?;
    let wanted = ranges::wanted(&extensions, input.range, input.part_number)?;
    let range = artifacts.locate(&row, &wanted).map_err(failed)?;
    let mut output = HeadObjectOutput {
        content_length: Some(size(range.map_or(row.size, |(_, length)| length))),
        content_range: content_range(range, row.size),
        ..Default::default()
    };
    tell_checksum!(output, artifacts, input, &row, range);
    let tags = row.tags;
    described!(output, row, input.part_number, artifacts, input);
    tell_customer!(output, customer.as_ref());
    let mut response = S3Response::new(output);
    if range.is_some() {
        response.extensions.insert(ranges::Partial);
    }
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
    // Where the source leads stays with the source.
    let redirect = convert::redirect(input.website_redirect_location.take())?;
    let changes = replace || reseals || comes_back || redirect.is_some();
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
    artifacts.check_room(&input.bucket, &input.key, row.size).map_err(error)?;
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
    description.headers.redirect = redirect;
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
