//! YAML and JSON text to `serde_json::Value`, one value per document, with the place of every document.
//!
//! The only user of the YAML library. Both languages end in the same tree, so everything behind it (schemas,
//! validation, storage) is written once.

use serde_json::Value;

/// Deepest nesting of YAML that is read. No Calico object is half as deep, and the reader uses about 20 KiB of
/// stack per level in an unoptimised build.
const MAX_DEPTH: usize = 50;

/// One document of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Content.
    pub value: Value,
    /// Number of the document in the stream, from 1; empty documents count.
    pub number: usize,
    /// Line of the text on which the document starts, from 1.
    pub line: usize,
}

/// Text that is neither YAML nor JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column} (document {document}): {reason}")]
pub struct YamlError {
    /// Number of the document in the stream, from 1.
    pub document: usize,
    /// Line of the whole text, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

/// Reads all documents of a YAML stream, or a sequence of JSON values. Empty documents are left out.
///
/// ```
/// use calico_datastore::yaml;
/// let documents = yaml::parse("kind: Tier\n---\n# nothing\n---\n{\"kind\": \"IPPool\"}\n")?;
/// assert_eq!(documents.len(), 2);
/// assert_eq!((documents[1].number, documents[1].line), (3, 5));
/// assert_eq!(documents[1].value["kind"], "IPPool");
/// let error = yaml::parse("a: 1\n---\nb: [1\n").unwrap_err();
/// assert_eq!(error.document, 2);
/// # Ok::<(), yaml::YamlError>(())
/// ```
///
/// # Errors
/// The first place that cannot be read.
pub fn parse(text: &str) -> Result<Vec<Document>, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') {
        match parse_json(text) {
            Ok(documents) => return Ok(documents),
            // `{a: b}` is YAML; `{"a" b}` is most likely broken JSON, and its message is the better one.
            Err(error) if text.trim_start_matches(['{', ' ', '\n', '\r', '\t']).starts_with('"') => {
                return parse_yaml(text).map_err(|_| error);
            }
            Err(_) => {}
        }
    }
    parse_yaml(text)
}

/// [`parse`] for bytes of unknown encoding.
///
/// # Errors
/// As [`parse`]; bytes that are not UTF-8 are named by their place.
pub fn parse_bytes(bytes: &[u8]) -> Result<Vec<Document>, YamlError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text),
        Err(error) => {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
            let start = good.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let column = String::from_utf8_lossy(good.get(start..).unwrap_or_default()).chars().count() + 1;
            Err(YamlError { document: 1, line, column, reason: "not UTF-8 text".to_owned() })
        }
    }
}

/// Writes one value as a YAML document without the leading `---`.
///
/// ```
/// let text = calico_datastore::yaml::to_string(&serde_json::json!({"cidr": "10.0.0.0/8", "text": "yes"}));
/// assert_eq!(text, "cidr: 10.0.0.0/8\ntext: \"yes\"\n");
/// ```
pub fn to_string(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { compact_list_indent: true };
    match serde_saphyr::to_string_with_options(value, options) {
        Ok(mut text) => {
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text
        }
        // JSON is YAML: a tree that the YAML writer refuses is still shown.
        Err(_) => format!("{value:#}\n"),
    }
}

fn parse_json(text: &str) -> Result<Vec<Document>, YamlError> {
    let mut documents = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    loop {
        let offset = stream.byte_offset();
        let rest = text.get(offset..).unwrap_or_default();
        let blank = rest.len() - rest.trim_start().len();
        let line = text.get(..offset + blank).unwrap_or_default().matches('\n').count() + 1;
        let number = documents.len() + 1;
        match stream.next() {
            None => return Ok(documents),
            Some(Ok(value)) => documents.push(Document { value, number, line }),
            Some(Err(error)) => {
                let reason = error.to_string();
                let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(words, _)| words);
                return Err(YamlError {
                    document: number,
                    line: error.line(),
                    column: error.column(),
                    reason: reason.to_owned(),
                });
            }
        }
    }
}

fn parse_yaml(text: &str) -> Result<Vec<Document>, YamlError> {
    let mut documents = Vec::new();
    for (number, (line, part)) in split(text).into_iter().enumerate() {
        let number = number + 1;
        if is_blank(part) {
            continue;
        }
        let value = parse_one(part).map_err(|(at, column, reason)| YamlError {
            document: number,
            line: line + at.saturating_sub(1),
            column,
            reason,
        })?;
        if !value.is_null() {
            documents.push(Document { value, number, line: line + leading_blank_lines(part) });
        }
    }
    Ok(documents)
}

/// One document to a tree, or line and column within it and the reason.
fn parse_one(text: &str) -> Result<Value, (usize, usize, String)> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
        emit_comments: false,
        with_snippet: false
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| {
            (usize::try_from(at.line()).unwrap_or(1), usize::try_from(at.column()).unwrap_or(1))
        });
        let reason = error.without_snippet().to_string();
        let first = reason.lines().next().unwrap_or_default();
        let words = first.split_once(" at line ").map_or(first, |(words, _)| words);
        // The reader names an option of its own here, which says nothing to people.
        let words = words.split_once(", set DuplicateKeyPolicy").map_or(words, |(words, _)| words);
        (line, column, words.to_owned())
    })
}

/// Cuts a stream at its `---` lines. A line that starts so ends any document, whatever scalar is open, because
/// YAML forbids it inside of one. Returns the line number on which each part starts.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker {
            if !(parts.is_empty() && text.get(start..offset).is_none_or(is_blank)) {
                parts.push((start_line, text.get(start..offset).unwrap_or_default()));
            }
            // What follows the marker on its line belongs to the new document.
            let rest = line.get(3..).unwrap_or_default();
            if is_blank(rest) {
                (start, start_line) = (offset + line.len(), index + 2);
            } else {
                (start, start_line) = (offset + 3, index + 1);
            }
        }
        offset += line.len();
    }
    parts.push((start_line, text.get(start..).unwrap_or_default()));
    parts
}

fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "..."
    })
}

fn leading_blank_lines(text: &str) -> usize {
    text.lines().take_while(|line| is_blank(line)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_keep_their_lines() {
        let text = "# head\n---\nkind: A\n---\n\n# c\nkind: B\n--- # trailing\nkind: C\n...\n---\n";
        let found: Vec<_> =
            parse(text).unwrap().into_iter().map(|d| (d.value["kind"].clone(), d.number, d.line)).collect();
        assert_eq!(found, [(json!("A"), 1, 3), (json!("B"), 2, 7), (json!("C"), 3, 9)]);
    }

    #[test]
    fn dashes_inside_a_line_do_not_cut() {
        let text = "a: |\n  --- not a marker\n  ---\nb: x---y\n----: z\n";
        let documents = parse(text).unwrap();
        assert_eq!(documents.len(), 1);
        assert_eq!(documents[0].value["a"], "--- not a marker\n---\n");
    }

    #[test]
    fn errors_name_the_line_of_the_whole_text() {
        let error = parse("a: 1\n---\nb: 2\nc: [1, 2\n").unwrap_err();
        assert_eq!(error.document, 2);
        assert!(error.line >= 4, "{error}");
        let error = parse("a: 1\na: 2\n").unwrap_err();
        assert!(error.reason.contains("duplicate"), "{error}");
        assert_eq!(error.line, 2);
    }

    #[test]
    fn json_streams_and_broken_json() {
        let documents = parse("{\"a\": 1}\n\n{\"b\": 2}").unwrap();
        assert_eq!((documents.len(), documents[1].line), (2, 3));
        let error = parse("{\n  \"a\": 1,\n  \"b\" 2\n}").unwrap_err();
        assert_eq!((error.line, error.reason.as_str()), (3, "expected `:`"));
        assert_eq!(parse("{a: b}").unwrap()[0].value, json!({"a": "b"}));
    }

    #[test]
    fn depth_is_limited_in_both_languages() {
        let json = format!("{}{}", "{\"a\":".repeat(10_000), "1");
        assert!(parse(&json).is_err());
        for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", "")] {
            let text = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert!(parse(&text(40)).is_ok());
            assert!(parse(&text(10_000)).is_err(), "{open:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text() {
        let error = parse_bytes(b"a: 1\nb: \xff").unwrap_err();
        assert_eq!((error.line, error.column), (2, 4));
    }

    #[test]
    fn written_text_reads_back() {
        let value = json!({"s": ["yes", "08", "n", "1e3", "10.0.0.1", "a: b", "# c", ""], "n": [1, -2.5, null, true],
            "o": {"x": {}, "y": []}, "m": "line\nline\n"});
        assert_eq!(parse(&to_string(&value)).unwrap()[0].value, value);
    }
}
