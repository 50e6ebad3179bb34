//! What is wrong with a selector text, where, and what would be right.

use std::fmt;

/// Why a selector text was rejected, with the place in the text.
///
/// [`fmt::Display`] gives one line (`column 7: expected …`), [`ParseError::snippet`] the text with a caret below the
/// offending column.
///
/// ```
/// use calico_selector::Selector;
///
/// let error = Selector::parse("role = 'db'").unwrap_err();
/// assert_eq!(error.offset(), 5);
/// assert_eq!(error.to_string(), "column 6: a lone `=` is not an operator; did you mean `==`?");
/// assert_eq!(error.snippet(), "role = 'db'\n     ^");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub(crate) kind: ParseErrorKind,
    pub(crate) offset: usize,
    pub(crate) input: Box<str>,
}

/// The classes of syntax errors.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseErrorKind {
    /// A string literal has no closing quote.
    UnterminatedString {
        /// The quote that opened it.
        quote: char,
    },
    /// A single `=`, `&` or `|`.
    LoneSymbol {
        /// The symbol that was found.
        found: char,
    },
    /// A label is followed by something that is not an operator.
    ExpectedOperator {
        /// The label.
        label: Box<str>,
    },
    /// `has(x`, `all(` or `global(` without the closing parenthesis where it must be.
    UnclosedCall {
        /// `has`, `all` or `global`.
        function: &'static str,
    },
    /// A character that starts no token, or a missing label in `has()`.
    ExpectedLabel,
    /// A label of more than 512 bytes.
    LabelTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The text ends after a label, where an operator is missing.
    EndAfterLabel {
        /// The label.
        label: Box<str>,
    },
    /// A comparison without a quoted value.
    ExpectedString,
    /// `in` or `not in` without a set in braces.
    ExpectedSet,
    /// A set literal that is not closed, or has something other than strings and commas.
    ExpectedSetEnd,
    /// A parenthesis that is not closed.
    ExpectedCloseParen {
        /// Byte offset of the parenthesis that was opened.
        opened_at: usize,
    },
    /// A complete selector followed by something else.
    TrailingContent,
    /// An operator or parenthesis where a condition must stand.
    UnexpectedToken,
    /// A label followed by a token that is not a comparison, such as `(` or a string.
    LabelWithoutOperator {
        /// The label.
        label: Box<str>,
    },
    /// The text is longer than [`Limits::max_chars`](crate::Limits::max_chars).
    TooLong {
        /// Its length in characters.
        length: usize,
        /// The limit in characters.
        limit: usize,
    },
    /// Parentheses are nested deeper than [`Limits::max_depth`](crate::Limits::max_depth).
    TooDeep {
        /// The limit in levels.
        limit: usize,
    },
}

const OPERATORS: &[&str] =
    &["`==`", "`!=`", "`in`", "`not in`", "`contains`", "`starts with`", "`ends with`"];
const CONDITIONS: &[&str] = &["label", "`has(`", "`all()`", "`global()`", "`!`", "`(`"];

impl ParseError {
    /// The class of the error.
    pub fn kind(&self) -> &ParseErrorKind {
        &self.kind
    }

    /// Where the error is: a byte offset into the text, at most its length.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Where the error is: a column for people, counted in characters from 1.
    pub fn column(&self) -> usize {
        self.before().chars().count() + 1
    }

    /// The whole text that was rejected.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// The tokens that would have been accepted at [`ParseError::offset`]; empty when the error is not about a token.
    pub fn expected(&self) -> &'static [&'static str] {
        match self.kind {
            ParseErrorKind::UnterminatedString { quote: '"' } => &["`\"`"],
            ParseErrorKind::UnterminatedString { .. } => &["`'`"],
            ParseErrorKind::LoneSymbol { found: '=' } => &["`==`"],
            ParseErrorKind::LoneSymbol { found: '&' } => &["`&&`"],
            ParseErrorKind::LoneSymbol { .. } => &["`||`"],
            ParseErrorKind::ExpectedOperator { .. }
            | ParseErrorKind::EndAfterLabel { .. }
            | ParseErrorKind::LabelWithoutOperator { .. } => OPERATORS,
            ParseErrorKind::UnclosedCall { .. } | ParseErrorKind::ExpectedCloseParen { .. } => &["`)`"],
            ParseErrorKind::ExpectedLabel => &["label"],
            ParseErrorKind::ExpectedString => &["string"],
            ParseErrorKind::ExpectedSet => &["`{`"],
            ParseErrorKind::ExpectedSetEnd => &["string", "`,`", "`}`"],
            ParseErrorKind::TrailingContent => &["`&&`", "`||`", "end of selector"],
            ParseErrorKind::UnexpectedToken => CONDITIONS,
            ParseErrorKind::LabelTooLong { .. }
            | ParseErrorKind::TooLong { .. }
            | ParseErrorKind::TooDeep { .. } => &[],
        }
    }

    /// The text with a caret below the error. Long texts are cut to the neighbourhood; control characters show as `␤`
    /// or `�` so that the caret stays in place.
    pub fn snippet(&self) -> String {
        const AROUND: usize = 38;
        let before: Vec<char> = self.before().chars().map(printable).collect();
        let after: Vec<char> = self.after().chars().map(printable).take(AROUND + 1).collect();
        let (lead, skip) = if before.len() > AROUND { ("…", before.len() - AROUND) } else { ("", 0) };
        let shown = before.get(skip..).unwrap_or_default();
        let mut out = String::from(lead);
        out.extend(shown);
        out.extend(after.iter().take(AROUND));
        if after.len() > AROUND {
            out.push('…');
        }
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', lead.chars().count() + shown.len()));
        out.push('^');
        out
    }

    /// What a person most likely meant, when that can be guessed.
    pub fn hint(&self) -> Option<String> {
        let rest = self.after();
        let word: String = rest.chars().take_while(|c| crate::lexer::is_label_char(*c)).take(40).collect();
        match &self.kind {
            ParseErrorKind::LoneSymbol { found: '=' } => Some("did you mean `==`?".into()),
            ParseErrorKind::LoneSymbol { found } => Some(format!("did you mean `{found}{found}`?")),
            ParseErrorKind::ExpectedString if !word.is_empty() => {
                Some(format!("put the value in quotes: `'{word}'`"))
            }
            ParseErrorKind::ExpectedSet if rest.starts_with(['\'', '"']) => {
                Some("put the values in braces: `{'a', 'b'}`".into())
            }
            ParseErrorKind::ExpectedSetEnd if !word.is_empty() => {
                Some(format!("put the value in quotes: `'{word}'`"))
            }
            ParseErrorKind::ExpectedOperator { .. } | ParseErrorKind::ExpectedLabel
                if rest.starts_with(['\n', '\r']) =>
            {
                Some(
                    "line breaks are not allowed; in YAML write the selector with `>-` instead of `|`".into(),
                )
            }
            ParseErrorKind::ExpectedOperator { label } => match label.to_ascii_lowercase().as_str() {
                "and" => Some("did you mean `&&`?".into()),
                "or" => Some("did you mean `||`?".into()),
                "not" => Some("did you mean `!`?".into()),
                _ => near_operator(&word),
            },
            ParseErrorKind::ExpectedCloseParen { opened_at } => {
                let column = self.input.get(..*opened_at).unwrap_or_default().chars().count() + 1;
                Some(format!("the parenthesis in column {column} is not closed"))
            }
            ParseErrorKind::UnexpectedToken if rest.starts_with(['\'', '"']) => {
                Some("the label stands on the left, the value on the right".into())
            }
            ParseErrorKind::UnexpectedToken if rest.starts_with(')') => {
                Some("there is no condition between the parentheses".into())
            }
            ParseErrorKind::EndAfterLabel { label } | ParseErrorKind::LabelWithoutOperator { label } => {
                Some(match &**label {
                    "all" | "global" => format!("did you mean `{label}()`?"),
                    "has" => "write `has(label)` without a space before the parenthesis".into(),
                    _ => format!("to ask whether the label is there, write `has({label})`"),
                })
            }
            _ => None,
        }
    }

    fn before(&self) -> &str {
        self.input.get(..self.offset).unwrap_or(&self.input)
    }

    fn after(&self) -> &str {
        self.input.get(self.offset..).unwrap_or_default()
    }
}

fn near_operator(word: &str) -> Option<String> {
    let meant = match word.to_ascii_lowercase().as_str() {
        "in" | "notin" | "not" | "contains" | "startswith" | "starts" | "endswith" | "ends" => {
            return Some(
                "operators are written in lower case: `in {…}`, `not in {…}`, `contains '…'`, \
                 `starts with '…'`, `ends with '…'`"
                    .into(),
            );
        }
        "and" => "the label needs an operator first, and conditions are joined with `&&`",
        "or" => "the label needs an operator first, and conditions are joined with `||`",
        "eq" | "is" | "equals" => "did you mean `==`?",
        "ne" => "did you mean `!=`?",
        "has" | "includes" | "like" => "did you mean `contains`?",
        "exists" => "did you mean `has(label)`?",
        _ => return None,
    };
    Some(meant.into())
}

fn printable(c: char) -> char {
    match c {
        '\n' | '\r' => '␤',
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column(), self.kind)?;
        if let Some(hint) = self.hint() {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ParseErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnterminatedString { quote } => {
                write!(f, "the string that starts here is not closed with {quote}")
            }
            Self::LoneSymbol { found } => write!(f, "a lone `{found}` is not an operator"),
            Self::ExpectedOperator { label } => write!(
                f,
                "expected an operator after label `{label}`: ==, !=, in, not in, contains, starts with or ends with"
            ),
            Self::UnclosedCall { function: "has" } => {
                f.write_str("`has(` takes one label and must be closed with `)`")
            }
            Self::UnclosedCall { function } => write!(f, "`{function}(` must be closed with `)`"),
            Self::ExpectedLabel => {
                f.write_str("expected a label name (letters, digits, `.`, `_`, `-` and `/`)")
            }
            Self::LabelTooLong { length } => {
                write!(f, "label name of {length} bytes is longer than {}", crate::lexer::MAX_LABEL)
            }
            Self::EndAfterLabel { label } => {
                write!(f, "the selector ends after label `{label}` where an operator is missing")
            }
            Self::ExpectedString => f.write_str("expected a value in quotes"),
            Self::ExpectedSet => f.write_str("expected a set of values in braces"),
            Self::ExpectedSetEnd => f.write_str("expected a quoted value or `}` in the set"),
            Self::ExpectedCloseParen { .. } => f.write_str("expected `)`"),
            Self::TrailingContent => f.write_str("expected `&&`, `||` or the end of the selector"),
            Self::UnexpectedToken => f.write_str("expected a condition"),
            Self::LabelWithoutOperator { label } => {
                write!(f, "label `{label}` is not followed by an operator")
            }
            Self::TooLong { length, limit } => {
                write!(f, "selector of {length} characters is longer than the limit of {limit}")
            }
            Self::TooDeep { limit } => write!(f, "parentheses are nested deeper than {limit} levels"),
        }
    }
}

impl std::error::Error for ParseError {}
