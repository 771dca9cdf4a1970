//! Tags of objects and of buckets.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::xml::Deserialize;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::convert::{error, told_version, version};
use crate::artifacts::Artifacts;
use crate::artifacts::tags::{self, BUCKET_TAGS_MAX, TAGS_MAX};

/// The tags that come with a put: a URL's query in a header, XML in a form.
pub(super) fn sent(tagging: Option<&str>) -> S3Result<Vec<tags::Tag>> {
    let text = tagging.unwrap_or_default().trim();
    if !text.starts_with('<') {
        return tags::parse_header(text).map_err(error);
    }
    let mut xml = s3s::xml::Deserializer::new(text.as_bytes());
    match Tagging::deserialize(&mut xml) {
        Ok(tagging) => read(tagging.tag_set, TAGS_MAX),
        Err(_) => Err(s3_error!(MalformedXML, "the form's tagging is not well-formed")),
    }
}

/// Tags as the header `x-amz-tagging` has them.
pub(super) fn as_header(tagging: &Tagging) -> String {
    let write =
        |text: &Option<String>| utf8_percent_encode(text.as_deref().unwrap_or_default(), NON_ALPHANUMERIC).to_string();
    let pairs = tagging.tag_set.iter().map(|tag| format!("{}={}", write(&tag.key), write(&tag.value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn read(set: TagSet, most: usize) -> S3Result<Vec<tags::Tag>> {
    let tag = |tag: Tag| tags::Tag { key: tag.key.unwrap_or_default(), value: tag.value.unwrap_or_default() };
    tags::checked(set.into_iter().map(tag).collect(), most).map_err(error)
}

fn written(tags: Vec<tags::Tag>) -> TagSet {
    tags.into_iter().map(|tag| Tag { key: Some(tag.key), value: Some(tag.value) }).collect()
}

pub(super) async fn get(
    artifacts: &Artifacts,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let input = request.input;
    let row = artifacts.find(&input.bucket, &input.key, version(input.version_id.as_deref())?).map_err(error)?;
    let tags = artifacts.tags(row.version).map_err(error)?;
    let version_id = told_version(artifacts, &input.bucket, &row);
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set: written(tags), version_id }))
}

pub(super) async fn put(
    artifacts: &Artifacts,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let input = request.input;
    let tags = read(input.tagging.tag_set, TAGS_MAX)?;
    let which = version(input.version_id.as_deref())?;
    let row = artifacts.amend(&input.bucket, &input.key, which, Some(tags), |_| Ok(())).await.map_err(error)?;
    let version_id = told_version(artifacts, &input.bucket, &row);
    Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
}

pub(super) async fn delete(
    artifacts: &Artifacts,
    request: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let input = request.input;
    let which = version(input.version_id.as_deref())?;
    let none = Some(Vec::new());
    let row = artifacts.amend(&input.bucket, &input.key, which, none, |_| Ok(())).await.map_err(error)?;
    let version_id = told_version(artifacts, &input.bucket, &row);
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
}

pub(super) async fn get_bucket(
    artifacts: &Artifacts,
    request: S3Request<GetBucketTaggingInput>,
) -> S3Result<S3Response<GetBucketTaggingOutput>> {
    match artifacts.bucket_tags(&request.input.bucket).map_err(error)? {
        Some(tags) => Ok(S3Response::new(GetBucketTaggingOutput { tag_set: written(tags) })),
        None => Err(s3_error!(NoSuchTagSet, "The TagSet does not exist")),
    }
}

pub(super) async fn put_bucket(
    artifacts: &Artifacts,
    request: S3Request<PutBucketTaggingInput>,
) -> S3Result<S3Response<PutBucketTaggingOutput>> {
    let tags = read(request.input.tagging.tag_set, BUCKET_TAGS_MAX)?;
    artifacts.set_bucket_tags(&request.input.bucket, Some(&tags)).await.map_err(error)?;
    Ok(S3Response::new(PutBucketTaggingOutput::default()))
}

pub(super) async fn delete_bucket(
    artifacts: &Artifacts,
    request: S3Request<DeleteBucketTaggingInput>,
) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
    artifacts.set_bucket_tags(&request.input.bucket, None).await.map_err(error)?;
    Ok(S3Response::new(DeleteBucketTaggingOutput::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_as_a_query_or_as_a_forms_xml() {
        let form = "<Tagging><TagSet><Tag><Key>b</Key><Value>2</Value></Tag><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>";
        assert_eq!(sent(Some(form)).unwrap(), sent(Some("a=1&b=2")).unwrap());
        let tagging: Tagging = super::super::stored::read(form.as_bytes()).unwrap();
        assert_eq!(sent(Some(&as_header(&tagging))).unwrap(), sent(Some("a=1&b=2")).unwrap());
        assert!(sent(None).unwrap().is_empty() && sent(Some("")).unwrap().is_empty());
        for bad in ["<Tagging><TagSet>", "<a/>", "a=1&a=2"] {
            assert!(sent(Some(bad)).is_err(), "{bad}");
        }
    }
}
