//! Reads `multipart/form-data`: the fields before the file, then the file as a stream.
//!
//! Fields are held, within limits; of the file no more than one piece of the body and the length of a boundary. What comes behind the file
//! is read past, as S3 does. How the body is cut into pieces changes nothing.

use std::fmt::Display;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use memchr::memmem;

/// Most bytes of one field's value.
const FIELD_BYTES_MAX: usize = 20 << 10;
/// Most bytes before the file: fields, and the lines between them.
const HEAD_BYTES_MAX: usize = 128 << 10;
/// Most fields.
const FIELDS_MAX: usize = 100;
/// Longest boundary (RFC 2046).
const BOUNDARY_BYTES_MAX: usize = 70;
/// Most bytes behind the file that are read past.
const REST_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("the body is no well-formed multipart/form-data")]
    Malformed,
    #[error("the fields before the file are too long, or too many")]
    TooLong,
    #[error("the field `{0}` stands in the form twice")]
    Twice(String),
    #[error("the form ended before its last boundary")]
    Ended,
    #[error("{0}")]
    Body(String),
}

/// The fields of a form, by their names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    fields: Vec<(String, String)>,
    /// What the browser calls the file, without folders.
    pub(super) filename: String,
}

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut String)> {
        self.fields.iter_mut().map(|(name, value)| (name.as_str(), value))
    }

    /// A form that tests are about.
    #[cfg(test)]
    pub(super) fn of(fields: &[(&str, &str)]) -> Self {
        let owned = fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned()));
        Self { fields: owned.collect(), filename: "shot.png".into() }
    }
}

/// The boundary that a content type names.
pub(super) fn boundary(kind: &str) -> Option<&str> {
    let parameter = kind.split(';').skip(1).map(str::trim).find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then_some(value)
    })?;
    let boundary = parameter.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"')).unwrap_or(parameter);
    (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len()).then_some(boundary)
}

/// A form that is being read.
pub(super) struct Reader<S> {
    body: S,
    held: BytesMut,
    /// What stands before each part but for the first, where it stands too for us.
    mark: memmem::Finder<'static>,
    /// Bytes before the file that were read.
    head_bytes: usize,
    is_done: bool,
}

impl<S, E> Reader<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    pub(super) fn new(body: S, boundary: &str) -> Self {
        let mark = memmem::Finder::new(format!("\r\n--{boundary}").as_bytes()).into_owned();
        Self { body, held: BytesMut::from(&b"\r\n"[..]), mark, head_bytes: 0, is_done: false }
    }

    /// Takes the next piece of the body; false at its end.
    async fn more(&mut self) -> Result<bool, Problem> {
        match self.body.next().await {
            Some(Ok(bytes)) => {
                self.held.extend_from_slice(&bytes);
                Ok(true)
            }
            Some(Err(error)) => Err(Problem::Body(error.to_string())),
            None => Ok(false),
        }
    }

    /// What stands before the next `mark`, which goes too.
    async fn until(&mut self, mark: &memmem::Finder<'_>) -> Result<Bytes, Problem> {
        let (mut from, length) = (0, mark.needle().len());
        loop {
            if let Some(at) = mark.find(&self.held[from..]) {
                let found = self.held.split_to(from + at).freeze();
                self.held.advance(length);
                self.head_bytes += found.len() + length;
                return if self.head_bytes > HEAD_BYTES_MAX { Err(Problem::TooLong) } else { Ok(found) };
            }
            if self.head_bytes + self.held.len() > HEAD_BYTES_MAX {
                return Err(Problem::TooLong);
            }
            from = self.held.len().saturating_sub(length - 1);
            if !self.more().await? {
                return Err(Problem::Malformed);
            }
        }
    }

    /// The fields before the file. Behind them [`Reader::piece`] gives the file.
    pub(super) async fn fields(&mut self) -> Result<Fields, Problem> {
        let (mark, line, blank) = (self.mark.clone(), memmem::Finder::new(b"\r\n"), memmem::Finder::new(b"\r\n\r\n"));
        let mut found = Fields::default();
        self.until(&mark).await?; // whatever stands before the first part is nobody's
        loop {
            let rest_of_line = self.until(&line).await?;
            if rest_of_line.iter().any(|byte| !matches!(byte, b' ' | b'\t')) {
                return Err(Problem::Malformed); // `--`: the form's end, and no file was there
            }
            let head = self.until(&blank).await?;
            let part = Part::read(&head).ok_or(Problem::Malformed)?;
            if part.name == "file" {
                found.filename = part.filename;
                return Ok(found);
            }
            let value = self.until(&mark).await?;
            if value.len() > FIELD_BYTES_MAX || found.fields.len() == FIELDS_MAX {
                return Err(Problem::TooLong);
            }
            if found.get(&part.name).is_some() && !part.name.starts_with("x-ignore-") {
                return Err(Problem::Twice(part.name));
            }
            let value = String::from_utf8(value.to_vec()).map_err(|_| Problem::Malformed)?;
            found.fields.push((part.name, value));
        }
    }

    /// The next bytes of the file; `None` at its end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Problem> {
        while !self.is_done {
            if let Some(at) = self.mark.find(&self.held) {
                self.is_done = true;
                let last = self.held.split_to(at).freeze();
                self.read_past().await;
                return Ok(Some(last).filter(|last| !last.is_empty()));
            }
            // A boundary may have begun with the last bytes.
            let sure = self.held.len().saturating_sub(self.mark.needle().len() - 1);
            if sure > 0 {
                return Ok(Some(self.held.split_to(sure).freeze()));
            }
            if !self.more().await? {
                return Err(Problem::Ended);
            }
        }
        Ok(None)
    }

    /// Reads what follows the file, so that the connection can go on.
    async fn read_past(&mut self) {
        let mut rest = self.held.len();
        while rest <= REST_BYTES_MAX {
            match self.body.next().await {
                Some(Ok(bytes)) => rest += bytes.len(),
                Some(Err(_)) | None => return,
            }
        }
    }

    /// The file.
    pub(super) fn file(self) -> impl Stream<Item = Result<Bytes, Problem>> {
        futures::stream::try_unfold(
            self,
            |mut reader| async move { Ok(reader.piece().await?.map(|bytes| (bytes, reader))) },
        )
    }
}

/// What the lines before a part say.
struct Part {
    /// In lower case.
    name: String,
    filename: String,
}

impl Part {
    fn read(lines: &[u8]) -> Option<Self> {
        let lines = std::str::from_utf8(lines).ok()?;
        let disposition = lines.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
        })?;
        let mut parameters = parameters(disposition);
        let (kind, _) = parameters.next()?;
        if !kind.eq_ignore_ascii_case("form-data") {
            return None;
        }
        let (mut name, mut plain, mut extended) = (None, None, None);
        for (parameter, value) in parameters {
            match parameter.to_ascii_lowercase().as_str() {
                "name" => name = Some(value),
                "filename" => plain = Some(value),
                "filename*" => extended = decoded(&value),
                _ => {}
            }
        }
        let filename = extended.or(plain).unwrap_or_default();
        let filename = filename.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        Some(Self { name: name?.to_ascii_lowercase(), filename })
    }
}

/// `UTF-8''…` as RFC 5987 has it.
fn decoded(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, text) = rest.split_once('\'')?;
    let text = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
    charset.eq_ignore_ascii_case("utf-8").then(|| text.into_owned())
}

/// The parts between semicolons, each with what follows its `=`. Quoted values may hold semicolons; browsers write a quote in
/// them as `%22`, other clients as `\"`.
fn parameters(text: &str) -> impl Iterator<Item = (String, String)> {
    let (mut all, mut part, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted && matches!(characters.peek(), Some('"' | '\\')) => part.extend(characters.next()),
            '"' => quoted = !quoted,
            ';' if !quoted => all.push(std::mem::take(&mut part)),
            other => part.push(other),
        }
    }
    all.push(part);
    all.into_iter().map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((&part, ""));
        (name.trim().to_owned(), value.trim().replace("%22", "\""))
    })
}

/// Reads `body` in pieces of `piece` bytes: its fields and its file, or why there are none. For fuzzing and tests.
pub(super) fn read_all(body: &[u8], mark: &str, piece: usize) -> Result<(Fields, Vec<u8>), Problem> {
    let pieces: Vec<_> =
        body.chunks(piece.max(1)).map(|piece| Ok::<_, Problem>(Bytes::copy_from_slice(piece))).collect();
    futures::executor::block_on(async {
        let mut reader = Reader::new(futures::stream::iter(pieces), mark);
        let fields = reader.fields().await?;
        let (mut file, mut bytes) = (Box::pin(reader.file()), Vec::new());
        while let Some(piece) = file.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok((fields, bytes))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(disposition: &str, value: &str) -> String {
        format!("--b\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: text/plain\r\n\r\n{value}\r\n")
    }

    fn form(parts: &[String]) -> Vec<u8> {
        format!("{}--b--\r\n", parts.concat()).into_bytes()
    }

    #[test]
    fn fields_and_file_are_read_however_the_body_is_cut() {
        let file = "first\r\n--not the end\r\n--\r\r\n";
        let body = form(&[
            part("name=\"Key\"", "a/${filename}"),
            part("name=\"x-amz-meta-a\"; filename=\"x-amz-meta-a\"", "several\r\nlines é"),
            part("name=file; filename=\"C:\\shots\\a \\\"b\\\";c%22.png\"", file),
            part("name=\"acl\"", "public-read"),
        ]);
        for piece in [1, 2, 3, 5, 7, 64, 10_000] {
            let (fields, bytes) = read_all(&body, "b", piece).unwrap();
            assert_eq!(fields.get("key"), Some("a/${filename}"), "{piece}");
            assert_eq!(fields.get("x-amz-meta-a"), Some("several\r\nlines é"));
            assert_eq!((fields.get("acl"), fields.filename.as_str()), (None, "a \"b\";c\".png"));
            assert_eq!(bytes, file.as_bytes(), "{piece}");
        }
        let preamble = [&b"nobody reads this\r\n"[..], &body].concat();
        assert!(read_all(&preamble, "b", 9).is_ok());
        let named = form(&[part("name=\"file\"; filename=\"x\"; filename*=UTF-8''a%2F%C3%A9.png", "")]);
        assert_eq!(read_all(&named, "b", 9).unwrap().0.filename, "é.png");
    }

    #[test]
    fn what_is_no_form_or_none_that_anybody_sends_is_refused() {
        let file = || part("name=\"file\"", "x");
        let whole = form(&[part("name=\"key\"", "k"), file()]);
        let file_ends = whole.len() - b"\r\n--b--\r\n".len();
        for cut in 0..whole.len() {
            let read = read_all(&whole[..cut], "b", 11);
            if cut < file_ends + b"\r\n--b".len() {
                assert!(read.is_err(), "{cut}: {read:?}");
            }
        }
        assert_eq!(read_all(&form(&[part("name=\"key\"", "k")]), "b", 9), Err(Problem::Malformed), "no file");
        let twice = form(&[part("name=\"acl\"", "private"), part("name=\"ACL\"", "public-read"), file()]);
        assert_eq!(read_all(&twice, "b", 9), Err(Problem::Twice("acl".into())));
        let ignored = form(&[part("name=\"x-ignore-a\"", "1"), part("name=\"x-ignore-a\"", "2"), file()]);
        assert!(read_all(&ignored, "b", 9).is_ok());
        let long = form(&[part("name=\"key\"", &"k".repeat(FIELD_BYTES_MAX + 1)), file()]);
        assert_eq!(read_all(&long, "b", 4096), Err(Problem::TooLong));
        let many: Vec<_> = (0..=FIELDS_MAX).map(|n| part(&format!("name=\"f{n}\""), "")).chain([file()]).collect();
        assert_eq!(read_all(&form(&many), "b", 4096), Err(Problem::TooLong));
        assert_eq!(read_all(&vec![b'x'; 1 << 20], "b", 4096), Err(Problem::TooLong));
        for bad in [
            "--b\r\n\r\n\r\nx\r\n--b--",
            "--bX\r\n",
            "--b\r\nContent-Disposition: attachment; name=\"file\"\r\n\r\nx\r\n--b--",
        ] {
            assert_eq!(read_all(bad.as_bytes(), "b", 9), Err(Problem::Malformed), "{bad}");
        }
        let latin =
            [b"--b\r\nContent-Disposition: form-data; name=key\r\n\r\n\xe9\r\n".to_vec(), form(&[file()])].concat();
        assert_eq!(read_all(&latin, "b", 9), Err(Problem::Malformed));
    }

    #[test]
    fn a_boundary_is_what_the_content_type_names() {
        assert_eq!(boundary("multipart/form-data; boundary=\"a b\""), Some("a b"));
        assert_eq!(boundary("Multipart/Form-Data; charset=utf-8; Boundary=b"), Some("b"));
        for none in ["multipart/form-data", "multipart/form-data; boundary=", "boundary=b"] {
            assert_eq!(boundary(none), None, "{none}");
        }
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "b".repeat(71))), None);
    }

    proptest! {
        #[test]
        fn any_bytes_come_through_as_a_file(bytes in proptest::collection::vec(proptest::sample::select(&b"\r\n-bx"[..]), 0..300), piece in 1_usize..40) {
            prop_assume!(memmem::find(&bytes, b"\r\n--b").is_none() && !bytes.starts_with(b"--b"));
            let head = b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n";
            let body = [&head[..], &bytes, b"\r\n--b--\r\n"].concat();
            let (_, file) = read_all(&body, "b", piece).unwrap();
            prop_assert_eq!(file, bytes);
        }
    }
}
