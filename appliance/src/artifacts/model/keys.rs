//! Table keys. A bucket's name has no NUL, so that `bucket NUL …` belongs to one bucket alone.

use uuid::Uuid;

pub(crate) fn object(bucket: &str, key: &str) -> Vec<u8> {
    [bucket.as_bytes(), b"\0", key.as_bytes()].concat()
}

/// Prefix of everything in a bucket.
pub(crate) fn bucket(bucket: &str) -> Vec<u8> {
    object(bucket, "")
}

pub(crate) fn counts(bucket: &str) -> Vec<u8> {
    [bucket.as_bytes(), b"\0counts"].concat()
}

/// One piece of a bucket's document. All of them stand behind one another, in order.
pub(crate) fn document(bucket: &str, kind: &str, piece: u16) -> Vec<u8> {
    format!("{bucket}\0document\0{kind}\0{piece:05}").into_bytes()
}

/// The kind of document that a row is a piece of; `row` is the key behind `bucket NUL`.
pub(crate) fn read_document(row: &str) -> Option<&str> {
    Some(row.strip_prefix("document\0")?.split_once('\0')?.0)
}

/// `bucket NUL key NUL id`: in the order of the keys; the id has a fixed length at the end.
pub(crate) fn upload(bucket: &str, key: &str, upload: Uuid) -> Vec<u8> {
    [bucket.as_bytes(), b"\0", key.as_bytes(), b"\0", upload.as_bytes()].concat()
}

/// Key and id of an upload's row, without the bucket.
pub(crate) fn read_upload(row: &[u8], bucket: &str) -> Option<(String, Uuid)> {
    let rest = row.get(bucket.len() + 1..)?;
    let (key, id) = rest.split_at_checked(rest.len().checked_sub(17)?)?;
    let id = Uuid::from_slice(id.get(1..)?).ok()?;
    Some((String::from_utf8(key.to_vec()).ok()?, id))
}

/// Parts of an upload in progress.
pub(crate) fn parts(upload: Uuid) -> Vec<u8> {
    [b"u", upload.as_bytes().as_slice()].concat()
}

pub(crate) fn part(upload: Uuid, number: u16) -> Vec<u8> {
    [parts(upload).as_slice(), &number.to_be_bytes()].concat()
}

/// Part chunks of a completed object.
pub(crate) fn chunks(body: Uuid) -> Vec<u8> {
    [b"b", body.as_bytes().as_slice()].concat()
}

/// The chunk whose first part has this number.
pub(crate) fn chunk(body: Uuid, first: u16) -> Vec<u8> {
    [chunks(body).as_slice(), &first.to_be_bytes()].concat()
}

/// The number at the end of a part's or chunk's key.
pub(crate) fn number(row: &[u8]) -> Option<u16> {
    let tail = row.get(row.len().checked_sub(2)?..)?;
    Some(u16::from_be_bytes(tail.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uploads_row_key_is_read_back_even_when_its_key_has_nul() {
        let id = Uuid::from_u128(7);
        let row = upload("bucket", "a\0b\0", id);
        assert_eq!(read_upload(&row, "bucket"), Some(("a\0b\0".to_owned(), id)));
        assert_eq!(read_upload(b"bucket\0", "bucket"), None);
    }
}
