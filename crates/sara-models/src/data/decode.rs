//! The bytes of a file as text: UTF-8, UTF-16, or Windows-1252, and nothing that would come out as other letters.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

use super::rows::Lines;

/// A file's text without its byte-order mark, and what was assumed.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) text: String,
    pub(super) notes: Vec<String>,
}

/// Decodes a file; `by_region`, where encodings of one region are possible, which JSON does not know.
///
/// # Errors
/// The line of the first byte that belongs to no encoding known here, or to another than Windows-1252.
pub(super) fn decode(bytes: &[u8], by_region: bool) -> Lines<Decoded> {
    let marked = Encoding::for_bom(bytes).map(|(encoding, mark)| (encoding, &bytes[mark..]));
    let (encoding, body) = marked.or_else(|| Some((utf_16(bytes)?, bytes))).unwrap_or((UTF_8, bytes));
    if encoding != UTF_8 {
        let (text, _, broken) = encoding.decode(body);
        if broken {
            let problem = format!("is not {} throughout; convert the file to UTF-8", encoding.name());
            return Err((1, problem));
        }
        let notes = vec![format!("read as {}", encoding.name())];
        return Ok(Decoded { text: text.into_owned(), notes });
    }
    let error = match std::str::from_utf8(body) {
        Ok(text) => return Ok(Decoded { text: text.to_owned(), notes: Vec::new() }),
        Err(error) => error,
    };
    let line = body[..error.valid_up_to()].split(|&byte| byte == b'\n').count();
    let has_utf_8 = marked.is_some() || body.utf8_chunks().any(|chunk| !chunk.valid().is_ascii());
    if !by_region || has_utf_8 {
        return Err((line, "is not UTF-8; convert the file to UTF-8".to_owned()));
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(body, true);
    let likely = detector.guess(None, Utf8Detection::Deny);
    let (text, _, broken) = WINDOWS_1252.decode(body);
    // Control characters from 0x80 on have no place in a text: they are what other encodings' letters look like.
    let is_text = !broken && !text.chars().any(|c| ('\u{80}'..='\u{9f}').contains(&c));
    if is_text && (likely == WINDOWS_1252 || likely.decode(body).0 == text) {
        let notes = vec!["read as Windows-1252 (Latin-1), since it is not UTF-8".to_owned()];
        return Ok(Decoded { text: text.into_owned(), notes });
    }
    let name = likely.name();
    Err((line, format!("is not UTF-8 and looks like {name}; convert it: iconv -f {name} -t UTF-8")))
}

/// UTF-16 without a mark: in a text with ASCII in it every other byte of that is zero.
fn utf_16(bytes: &[u8]) -> Option<&'static Encoding> {
    let start = &bytes[..bytes.len().min(1000)];
    let zeros = |odd: usize| start.iter().skip(odd).step_by(2).filter(|&&byte| byte == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    match start.len() / 4 {
        0 => None,
        enough if odd > enough && even == 0 => Some(UTF_16LE),
        enough if even > enough && odd == 0 => Some(UTF_16BE),
        _ => None,
    }
}
