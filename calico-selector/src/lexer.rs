//! Text to tokens, without copying: every token borrows from the text.
//!
//! Words such as `in` or `contains` are operators only directly after a label, so they are legal label names elsewhere.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::satisfy;
use nom::combinator::{not, value};
use nom::sequence::{preceded, terminated};
use nom::{IResult, Parser};

use crate::error::{ParseError, ParseErrorKind};

/// Longest label name in bytes.
pub(crate) const MAX_LABEL: usize = 512;

/// One token and the bytes it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: TokenKind<'a>,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind<'a> {
    OpenParen,
    CloseParen,
    OpenBrace,
    CloseBrace,
    Comma,
    Not,
    And,
    Or,
    Equal,
    NotEqual,
    Contains,
    StartsWith,
    EndsWith,
    In,
    NotIn,
    Label(&'a str),
    Text(&'a str),
    Has(&'a str),
    All,
    Global,
    End,
}

/// No detail is needed from nom: the caller knows the place and the class of the error.
type Lexed<'a, T> = IResult<&'a str, T, ()>;

pub(crate) fn is_label_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')
}

fn blanks(input: &str) -> Lexed<'_, &str> {
    take_while(|c| c == ' ' || c == '\t').parse(input)
}

fn blanks_and_breaks(input: &str) -> Lexed<'_, &str> {
    take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r')).parse(input)
}

fn boundary(input: &str) -> Lexed<'_, ()> {
    not(satisfy(is_label_char)).parse(input)
}

fn label(input: &str) -> Lexed<'_, &str> {
    take_while1(is_label_char).parse(input)
}

fn symbol(input: &str) -> Lexed<'_, TokenKind<'_>> {
    alt((
        value(TokenKind::OpenParen, tag("(")),
        value(TokenKind::CloseParen, tag(")")),
        value(TokenKind::OpenBrace, tag("{")),
        value(TokenKind::CloseBrace, tag("}")),
        value(TokenKind::Comma, tag(",")),
        value(TokenKind::Equal, tag("==")),
        value(TokenKind::NotEqual, tag("!=")),
        value(TokenKind::Not, tag("!")),
        value(TokenKind::And, tag("&&")),
        value(TokenKind::Or, tag("||")),
    ))
    .parse(input)
}

fn word_operator(input: &str) -> Lexed<'_, TokenKind<'_>> {
    // The boundary of a two-word operator is looked for after the blanks that follow it, the boundary of a single word
    // at once: `a not in b` has no operator at all while `a in b` has one without a set.
    alt((
        value(TokenKind::Contains, terminated(tag("contains"), boundary)),
        value(
            TokenKind::StartsWith,
            (tag("starts"), preceded(blanks, tag("with")), not(preceded(blanks, satisfy(is_label_char)))),
        ),
        value(
            TokenKind::EndsWith,
            (tag("ends"), preceded(blanks, tag("with")), not(preceded(blanks, satisfy(is_label_char)))),
        ),
        value(
            TokenKind::NotIn,
            (tag("not"), preceded(blanks, tag("in")), not(preceded(blanks, satisfy(is_label_char)))),
        ),
        value(TokenKind::In, terminated(tag("in"), boundary)),
    ))
    .parse(input)
}

/// Splits a text into tokens; the last one is always [`TokenKind::End`].
pub(crate) fn tokens(text: &str, breaks_are_blanks: bool) -> Result<Vec<Token<'_>>, ParseError> {
    let mut out = Vec::with_capacity(text.len() / 6 + 4);
    let mut rest = text;
    let mut after_label: Option<&str> = None;
    loop {
        let skip = if breaks_are_blanks { blanks_and_breaks } else { blanks };
        if let Ok((next, _)) = skip(rest) {
            rest = next;
        }
        let start = text.len() - rest.len();
        if rest.is_empty() {
            out.push(Token { kind: TokenKind::End, start, end: start });
            return Ok(out);
        }
        let (next, kind) = token(rest, after_label).map_err(|(kind, at)| ParseError {
            kind,
            offset: start + at,
            input: text.into(),
        })?;
        after_label = if let TokenKind::Label(name) = kind { Some(name) } else { None };
        out.push(Token { kind, start, end: text.len() - next.len() });
        rest = next;
    }
}

/// The class of an error and its offset from the start of the token.
type Fault = (ParseErrorKind, usize);

fn token<'a>(input: &'a str, after_label: Option<&str>) -> Result<(&'a str, TokenKind<'a>), Fault> {
    if let Ok(found) = symbol(input) {
        return Ok(found);
    }
    match input.chars().next() {
        Some(quote @ ('"' | '\'')) => return text_literal(input, quote),
        Some(found @ ('=' | '&' | '|')) => return Err((ParseErrorKind::LoneSymbol { found }, 0)),
        _ => {}
    }
    if let Some(label) = after_label {
        return word_operator(input)
            .map_err(|_| (ParseErrorKind::ExpectedOperator { label: label.into() }, 0));
    }
    if let Some(inside) = input.strip_prefix("has(") {
        let (inside, _) = blanks(inside).unwrap_or((inside, ""));
        let at = input.len() - inside.len();
        let (after, name) = checked_label(inside).map_err(|(kind, _)| (kind, at))?;
        let rest = close("has", input, after)?;
        return Ok((rest, TokenKind::Has(name)));
    }
    if let Some(inside) = input.strip_prefix("all(") {
        return Ok((close("all", input, inside)?, TokenKind::All));
    }
    if let Some(inside) = input.strip_prefix("global(") {
        return Ok((close("global", input, inside)?, TokenKind::Global));
    }
    let (rest, name) = checked_label(input)?;
    Ok((rest, TokenKind::Label(name)))
}

fn text_literal(input: &str, quote: char) -> Result<(&str, TokenKind<'_>), Fault> {
    let body = input.get(1..).unwrap_or_default();
    match body.split_once(quote) {
        Some((text, rest)) => Ok((rest, TokenKind::Text(text))),
        None => Err((ParseErrorKind::UnterminatedString { quote }, 0)),
    }
}

fn checked_label(input: &str) -> Result<(&str, &str), Fault> {
    match label(input) {
        Ok((_, name)) if name.len() > MAX_LABEL => {
            Err((ParseErrorKind::LabelTooLong { length: name.len() }, 0))
        }
        Ok(found) => Ok(found),
        Err(_) => Err((ParseErrorKind::ExpectedLabel, 0)),
    }
}

fn close<'a>(function: &'static str, whole: &str, inside: &'a str) -> Result<&'a str, Fault> {
    let (inside, _) = blanks(inside).unwrap_or((inside, ""));
    inside
        .strip_prefix(')')
        .ok_or_else(|| (ParseErrorKind::UnclosedCall { function }, whole.len() - inside.len()))
}
