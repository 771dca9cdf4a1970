//! Operations on multipart uploads.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::acl;
use super::convert::{
    self, BodyChecksum, Names, checksum_fields, checksum_type, error, etag, owner_of, parse_upload_id, sent_checksum,
    set_checksum, size, timestamp, upload_id,
};
use super::encryption::{self, customer, seal_asked, source_customer, tell_customer, tell_seal};
use super::listing::limit;
use super::lock::lock_asked;
use super::objects::{content_headers, customer_of, source};
use super::tagging;
use crate::artifacts::conditions::ReadConditions;
use crate::artifacts::engine::Wanted;
use crate::artifacts::error::ArtifactError;
use crate::artifacts::intake::Expected;
use crate::artifacts::model::{ContentHeaders, ETag as OwnETag, PUT_BYTES_MAX, PartRow, RangeAsked, UploadRow};
use crate::artifacts::multipart::{Begin, Completion, ListedPart, UploadName};
use crate::artifacts::{Artifacts, Taking};

fn name(bucket: &str, key: &str, upload: &str) -> S3Result<UploadName> {
    Ok(UploadName { bucket: bucket.to_owned(), key: key.to_owned(), id: parse_upload_id(upload)? })
}

fn number(number: i32) -> S3Result<u16> {
    match u16::try_from(number) {
        Ok(number @ 1..=10_000) => Ok(number),
        _ => Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive")),
    }
}

fn part_etag(row: &PartRow) -> ETag {
    etag(&OwnETag { md5: row.md5.clone(), parts: 0 })
}

fn kind(row: &UploadRow) -> Option<ChecksumType> {
    row.algorithm?;
    let kind = if row.full_object { ChecksumType::FULL_OBJECT } else { ChecksumType::COMPOSITE };
    Some(ChecksumType::from_static(kind))
}

/// When a lifecycle rule aborts an upload, and its id.
fn aborted(artifacts: &Artifacts, bucket: &str, key: &str, row: &UploadRow) -> (Option<Timestamp>, Option<String>) {
    artifacts.abortion(bucket, key, row.initiated_ms).map(|(due_ms, rule)| (timestamp(due_ms), rule)).unzip()
}

fn algorithm(row: &UploadRow) -> Option<ChecksumAlgorithm> {
    row.algorithm.map(|algorithm| ChecksumAlgorithm::from_static(algorithm.name()))
}

pub(super) async fn create(
    artifacts: &Artifacts,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let mut input = request.input;
    let asked = match &input.checksum_algorithm {
        Some(asked) => Some(convert::algorithm(asked.as_str())?),
        None => None,
    };
    let full = match input.checksum_type.as_ref().map(ChecksumType::as_str) {
        None | Some(ChecksumType::COMPOSITE) if asked.is_none() && input.checksum_type.is_some() => {
            return Err(s3_error!(InvalidRequest, "a checksum type needs a checksum algorithm"));
        }
        None | Some(ChecksumType::COMPOSITE) => false,
        Some(ChecksumType::FULL_OBJECT) => true,
        Some(other) => return Err(s3_error!(InvalidRequest, "`{other}` is no checksum type")),
    };
    let composite = input.checksum_type.is_some() && !full;
    if composite && asked == Some(crate::artifacts::checksums::Algorithm::Crc64Nvme) {
        return Err(s3_error!(
            InvalidRequest,
            "The COMPOSITE checksum type cannot be used with the CRC64NVME checksum algorithm."
        ));
    }
    let mut description = convert::description(content_headers!(input), input.metadata.take());
    description.acl = acl::of_object(artifacts, &request.extensions, &input.bucket, &acl::asked!(input))?;
    let seal = seal_asked!(input)?;
    let sealer = artifacts.sealer(&input.bucket, &input.key, &seal).map_err(error)?;
    let begin = Begin {
        description,
        algorithm: asked,
        full_object: full,
        tags: tagging::sent(input.tagging.as_deref())?,
        lock: lock_asked!(artifacts, input),
        seal: sealer.map(|sealer| sealer.seal),
    };
    let created = artifacts.create_upload(&input.bucket, &input.key, begin).await;
    let id = created.map_err(error)?;
    let row = artifacts.upload(&UploadName { bucket: input.bucket.clone(), key: input.key.clone(), id });
    let row = row.map_err(error)?;
    let (abort_date, abort_rule_id) = aborted(artifacts, &input.bucket, &input.key, &row);
    let mut output = CreateMultipartUploadOutput {
        abort_date,
        abort_rule_id,
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(upload_id(id)),
        checksum_algorithm: algorithm(&row),
        checksum_type: kind(&row),
        ..Default::default()
    };
    tell_seal!(output, row.seal.as_ref());
    tell_customer!(output, customer_of(&seal));
    Ok(S3Response::new(output))
}

pub(super) async fn put(
    artifacts: &Artifacts,
    request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let S3Request { mut input, headers, trailing_headers, .. } = request;
    let name = name(&input.bucket, &input.key, &input.upload_id)?;
    let number = number(input.part_number)?;
    let upload = artifacts.upload(&name).map_err(error)?;
    let announced = input.content_length.and_then(|length| u64::try_from(length).ok());
    if announced.is_some_and(|length| length > PUT_BYTES_MAX) {
        return Err(error(ArtifactError::EntityTooLarge { max: PUT_BYTES_MAX }));
    }
    let checksum = BodyChecksum::read(&headers, checksum_fields!(input))?;
    let wanted = checksum.algorithm.or(upload.algorithm);
    let mut expected =
        Expected { md5: convert::content_md5(input.content_md5.take())?, checksum: None, size: announced };
    let customer = customer!(input)?;
    let sealer = artifacts.upload_sealer(&name, &upload, customer.as_ref()).map_err(error)?;
    let body = convert::body(input.body.take());
    let received = artifacts.receive(body, wanted, PUT_BYTES_MAX, Taking::part(sealer)).await.map_err(error)?;
    expected.checksum = checksum.expected(trailing_headers.as_ref())?;
    let told = received.checksum();
    let row = artifacts.put_part(&name, number, &expected, received).await.map_err(error)?;
    let mut output = UploadPartOutput { e_tag: Some(part_etag(&row)), ..Default::default() };
    set_checksum!(output, &told);
    tell_seal!(output, upload.seal.as_ref());
    tell_customer!(output, customer.as_ref());
    Ok(S3Response::new(output))
}

/// `bytes=first-last`, both given and within the source.
pub(super) fn copy_range(text: &str, size: u64) -> S3Result<RangeAsked> {
    let wrong = || {
        s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy"
        )
    };
    let (first, last) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(wrong)?;
    let (first, last): (u64, u64) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first > last {
        return Err(wrong());
    }
    if last >= size {
        return Err(s3_error!(InvalidRange, "Range specified is not valid for source object of size: {size}"));
    }
    Ok(RangeAsked::From { first, last: Some(last) })
}

pub(super) async fn copy(
    artifacts: &Artifacts,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let S3Request { mut input, headers, .. } = request;
    let name = name(&input.bucket, &input.key, &input.upload_id)?;
    let number = number(input.part_number)?;
    let upload = artifacts.upload(&name).map_err(error)?;
    let (bucket, key, which) = source(&input.copy_source)?;
    let row = artifacts.find(&bucket, &key, which).map_err(error)?;
    let conditions = convert::read_conditions(
        &headers,
        "x-amz-copy-source-",
        input.copy_source_if_modified_since.take(),
        input.copy_source_if_unmodified_since.take(),
    );
    conditions.check_copy_source(&row.etag, row.modified_ms).map_err(error)?;
    let wanted = match &input.copy_source_range {
        Some(range) => Wanted::Range(copy_range(range, row.size)?),
        None => Wanted::All,
    };
    let (source_customer, customer) = (source_customer!(input)?, customer!(input)?);
    let sealer = artifacts.upload_sealer(&name, &upload, customer.as_ref()).map_err(error)?;
    let always = ReadConditions::default();
    let opened = source_customer.as_ref();
    let got = artifacts.get_version(&bucket, &key, which, wanted, &always, opened).await.map_err(error)?;
    let source_version = convert::told_version(artifacts, &bucket, &got.row);
    let expected = Expected { size: Some(got.stream.remaining()), ..Expected::default() };
    let received = artifacts.receive(got.stream, upload.algorithm, PUT_BYTES_MAX, Taking::part(sealer));
    let received = received.await.map_err(error)?;
    let row = artifacts.put_part(&name, number, &expected, received).await.map_err(error)?;
    let mut result = CopyPartResult {
        e_tag: Some(part_etag(&row)),
        last_modified: Some(timestamp(row.modified_ms)),
        ..Default::default()
    };
    if let Some(checksum) = &row.checksum {
        set_checksum!(result, checksum);
    }
    let mut output = UploadPartCopyOutput {
        copy_part_result: Some(result),
        copy_source_version_id: source_version,
        ..Default::default()
    };
    tell_seal!(output, upload.seal.as_ref());
    tell_customer!(output, customer.as_ref());
    Ok(S3Response::new(output))
}

pub(super) async fn parts(
    artifacts: &Artifacts,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let input = request.input;
    let owner = owner_of(artifacts, &input.bucket);
    let owner = || owner.clone();
    let name = name(&input.bucket, &input.key, &input.upload_id)?;
    let upload = artifacts.upload(&name).map_err(error)?;
    let (max_parts, max) = limit(input.max_parts)?;
    let marker = input.part_number_marker.unwrap_or(0);
    let after = u16::try_from(marker).map_err(|_| s3_error!(InvalidArgument, "no part has such a number"))?;
    let mut found = artifacts.parts(name.id, after, max + 1).map_err(error)?;
    let more = found.len() > max;
    found.truncate(max);
    let next = found.last().map(|(number, _)| i32::from(*number));
    let parts = found.into_iter().map(|(number, row)| {
        let mut part = Part {
            e_tag: Some(part_etag(&row)),
            last_modified: Some(timestamp(row.modified_ms)),
            part_number: Some(i32::from(number)),
            size: Some(size(row.extent.size)),
            ..Default::default()
        };
        if let Some(checksum) = &row.checksum {
            set_checksum!(part, checksum);
        }
        part
    });
    let parts = parts.collect();
    let (abort_date, abort_rule_id) = aborted(artifacts, &input.bucket, &input.key, &upload);
    Ok(S3Response::new(ListPartsOutput {
        abort_date,
        abort_rule_id,
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        parts: Some(parts),
        is_truncated: Some(more),
        max_parts: Some(max_parts),
        part_number_marker: Some(marker),
        next_part_number_marker: next,
        owner: Some(owner()),
        initiator: Some(Initiator { display_name: owner().display_name, id: owner().id }),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        checksum_algorithm: algorithm(&upload),
        checksum_type: kind(&upload),
        ..Default::default()
    }))
}

pub(super) async fn uploads(
    artifacts: &Artifacts,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = request.input;
    let owner = owner_of(artifacts, &input.bucket);
    let owner = || owner.clone();
    let names = Names::read(input.encoding_type.as_ref())?;
    let (max_uploads, max) = limit(input.max_uploads)?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let marker = input.key_marker.clone().filter(|marker| !marker.is_empty());
    let id = match (&marker, input.upload_id_marker.as_deref()) {
        (Some(_), Some(id)) if !id.is_empty() => Some(parse_upload_id(id)?),
        _ => None,
    };
    let after = marker.as_deref().map(|key| (key, id));
    let page = artifacts.list_uploads(&input.bucket, &prefix, input.delimiter.as_deref(), after, max).map_err(error)?;
    let uploads = page.uploads.iter().map(|(key, id, row)| MultipartUpload {
        key: Some(names.write(key)),
        upload_id: Some(upload_id(*id)),
        initiated: Some(timestamp(row.initiated_ms)),
        owner: Some(owner()),
        initiator: Some(Initiator { display_name: owner().display_name, id: owner().id }),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        checksum_algorithm: algorithm(row),
        checksum_type: kind(row),
    });
    let prefixes = page.common_prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(names.write(prefix)) });
    Ok(S3Response::new(ListMultipartUploadsOutput {
        uploads: Some(uploads.collect()),
        common_prefixes: Some(prefixes.collect()),
        is_truncated: Some(page.next.is_some()),
        next_key_marker: page.next.as_ref().map(|(key, _)| names.write(key)),
        next_upload_id_marker: page.next.as_ref().and_then(|(_, id)| id.map(upload_id)),
        bucket: Some(input.bucket),
        prefix: Some(names.write(&prefix)),
        delimiter: names.maybe(input.delimiter.as_ref()),
        key_marker: Some(names.write(marker.as_deref().unwrap_or_default())),
        upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
        max_uploads: Some(max_uploads),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}

fn listed(mut part: CompletedPart) -> S3Result<ListedPart> {
    let checksum = sent_checksum(checksum_fields!(part))?;
    let Some(sent) = part.part_number else { return Err(s3_error!(MalformedXML, "a part has no number")) };
    Ok(ListedPart { number: number(sent)?, etag: part.e_tag.map(ETag::into_value), checksum })
}

pub(super) async fn complete(
    artifacts: &Artifacts,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let S3Request { mut input, headers, .. } = request;
    let name = name(&input.bucket, &input.key, &input.upload_id)?;
    let checksum = sent_checksum(checksum_fields!(input))?;
    let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
    if parts.is_empty() {
        return Err(s3_error!(MalformedXML, "an upload is completed with at least one part"));
    }
    let parts = parts.into_iter().map(listed).collect::<S3Result<Vec<_>>>()?;
    let completion = Completion {
        conditions: convert::write_conditions(&headers),
        checksum,
        size: input.mpu_object_size.and_then(|size| u64::try_from(size).ok()),
    };
    let customer = customer!(input)?;
    // An upload that was completed before is known by its object.
    let seal = match artifacts.upload(&name) {
        Ok(upload) => upload.seal,
        Err(_) => artifacts.head(&name.bucket, &name.key).ok().and_then(|row| row.seal),
    };
    let told = encryption::check_upload(artifacts, &name, seal.as_ref(), customer.as_ref())?;
    let stored = artifacts.complete(&name, &parts, completion).await.map_err(error)?;
    let mut output = CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(etag(&stored.etag)),
        checksum_type: Some(checksum_type(&stored.checksum)),
        version_id: stored.version.map(|version| version.to_string()),
        expiration: convert::expiration(artifacts.expiration_of_stored(&name.bucket, &name.key, &stored)),
        ..Default::default()
    };
    set_checksum!(output, &stored.checksum);
    tell_seal!(output, seal.as_ref());
    let mut response = S3Response::new(output);
    response.headers = told;
    Ok(response)
}

pub(super) async fn abort(
    artifacts: &Artifacts,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = request.input;
    artifacts.abort(&name(&input.bucket, &input.key, &input.upload_id)?).await.map_err(error)?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}
