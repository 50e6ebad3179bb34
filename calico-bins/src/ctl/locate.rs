//! The line of a field in a YAML text.
//!
//! The YAML reader gives places of documents only, and people want to jump to the field. So the path is followed by
//! indentation, which finds every field of block style; inside of `{…}` and `[…]` the answer is the line where that
//! begins.

/// One step of a path: a field or an element.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Element(usize),
}

/// The line, from 1, of the field at `path` (`spec.ingress[2].action`) in the document that starts at line `start` of
/// `text`; the line of the nearest parent that can be found.
///
/// ```
/// use calico_bins::ctl::locate::line_of;
/// let text = "a: 1\n---\nspec:\n  rules:\n  - x: 1\n  - y: {z: 1}\n";
/// assert_eq!(line_of(text, 3, "spec.rules[0].x"), 5);
/// assert_eq!(line_of(text, 3, "spec.rules[1].y.z"), 6);
/// assert_eq!(line_of(text, 3, "spec.missing"), 3);
/// ```
pub fn line_of(text: &str, start: usize, path: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let first = start.saturating_sub(1);
    let document = lines.get(first..).unwrap_or_default();
    let length =
        document.iter().skip(1).position(|line| line.starts_with("---")).map_or(document.len(), |n| n + 1);
    let mut block = Block { lines: document.get(..length).unwrap_or_default(), offset: 0, strip: 0 };
    let mut found = 0;
    for step in steps(path) {
        let Some(inner) = block.find(&step) else { break };
        found = inner.offset;
        block = inner;
    }
    first + found + 1
}

/// Lines that belong together. The first one starts `strip` characters late, after the key or dash that led here.
struct Block<'a> {
    lines: &'a [&'a str],
    /// Number of the first line, from the start of the document.
    offset: usize,
    strip: usize,
}

impl<'a> Block<'a> {
    /// The lines with their content, blank lines and comments left out: number, indentation, content.
    fn contents(&self) -> impl Iterator<Item = (usize, usize, &'a str)> {
        let strip = self.strip;
        self.lines.iter().enumerate().filter_map(move |(number, line)| {
            let skip = if number == 0 { strip } else { 0 };
            let rest = line.get(skip..).unwrap_or_default();
            let content = rest.trim_start();
            let indent = skip + rest.len() - content.len();
            (!content.is_empty() && !content.starts_with('#')).then_some((number, indent, content))
        })
    }

    fn find(&self, step: &Step) -> Option<Self> {
        let (_, indent, _) = self.contents().next()?;
        let mut at_level = self.contents().filter(|(_, i, _)| *i == indent);
        let (number, _, content) = match step {
            Step::Field(name) => at_level.find(|(_, _, content)| {
                let content = content.trim_start_matches(['"', '\'']);
                content
                    .strip_prefix(name.as_str())
                    .is_some_and(|rest| rest.trim_start_matches(['"', '\'']).starts_with(':'))
            })?,
            Step::Element(index) => {
                at_level.filter(|(_, _, content)| content.starts_with("- ") || *content == "-").nth(*index)?
            }
        };
        let strip = match step {
            Step::Field(_) => indent + content.find(':')? + 1,
            Step::Element(_) => indent + 1,
        };
        // The block ends before the next line that is not deeper; dashes of a list may stand as deep as its key.
        let end = self
            .contents()
            .filter(|(n, _, _)| *n > number)
            .find(|(_, i, c)| {
                let dash = matches!(step, Step::Field(_)) && (c.starts_with("- ") || *c == "-");
                *i < indent || (*i == indent && !dash)
            })
            .map_or(self.lines.len(), |(n, _, _)| n);
        let lines = self.lines.get(number..end)?;
        Some(Self { lines, offset: self.offset + number, strip })
    }
}

fn steps(path: &str) -> Vec<Step> {
    let mut out = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix("[\"") {
            let Some((name, after)) = inside.split_once("\"]") else { break };
            out.push(Step::Field(name.to_owned()));
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('[') {
            let Some((number, after)) = inside.split_once(']') else { break };
            let Ok(index) = number.parse() else { break };
            out.push(Step::Element(index));
            rest = after;
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            out.push(Step::Field(name.to_owned()));
            rest = after;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
kind: NetworkPolicy
metadata:
  name: x
  annotations:
    \"a.b/c\": d
spec:
  ingress:
  # the first
  - action: Allow
    source:
      nets:
        - 10.0.0.0/8

        - 10.0.0.0/33
  -
    action: Deny
  order: 7
---
kind: Tier
spec: {order: 8}
";

    #[test]
    fn fields_of_block_style() {
        for (path, line) in [
            ("metadata.name", 4),
            ("metadata.annotations[\"a.b/c\"]", 6),
            ("spec.ingress[0].action", 10),
            ("spec.ingress[0].source.nets[1]", 15),
            ("spec.ingress[1].action", 17),
            ("spec.order", 18),
            ("spec.egress", 7),
            ("", 1),
            ("spec.ingress[7]", 8),
        ] {
            assert_eq!(line_of(TEXT, 1, path), line, "{path}");
        }
        assert_eq!(line_of(TEXT, 20, "spec.order"), 21);
        assert_eq!(line_of("{\n  \"kind\": \"x\",\n  \"spec\": {}\n}", 1, "spec"), 1);
        assert_eq!(line_of("", 1, "spec"), 1);
    }
}
