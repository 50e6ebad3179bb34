//! Tokens to tree: `||` binds weakest, then `&&`, then `!`.

use crate::ast::{Comparison, Expr};
use crate::error::{ParseError, ParseErrorKind};
use crate::lexer::{self, Token, TokenKind};

/// Bounds on the work that a hostile text can cause, and how strict the lexer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest text, in Unicode code points as Kubernetes counts them.
    pub max_chars: usize,
    /// Deepest nesting of parentheses.
    pub max_depth: usize,
    /// Take line feeds and carriage returns for blanks. The language proper rejects them, which bites everybody who
    /// writes a selector as a YAML block scalar.
    pub allow_line_breaks: bool,
}

impl Limits {
    /// What the API accepts in a selector field: 1024 characters.
    pub const API: Self = Self { max_chars: 1024, ..Self::DEFAULT };
    /// Wide enough for every selector composed from API fields.
    pub const DEFAULT: Self = Self { max_chars: 65_536, max_depth: 128, allow_line_breaks: false };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

pub(crate) fn parse(text: &str, limits: &Limits) -> Result<Expr, ParseError> {
    let fail = |kind, offset| ParseError { kind, offset, input: text.into() };
    // A text has at most as many characters as bytes, so counting is rarely needed.
    if text.len() > limits.max_chars {
        let length = text.chars().count();
        if length > limits.max_chars {
            let offset = text.char_indices().nth(limits.max_chars).map_or(text.len(), |(at, _)| at);
            return Err(fail(ParseErrorKind::TooLong { length, limit: limits.max_chars }, offset));
        }
    }
    let tokens = lexer::tokens(text, limits.allow_line_breaks)?;
    let mut parser = Parser { tokens: &tokens, position: 0, depth: 0, max_depth: limits.max_depth };
    parser.whole().map_err(|(kind, offset)| fail(kind, offset))
}

type Fault = (ParseErrorKind, usize);

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    position: usize,
    depth: usize,
    max_depth: usize,
}

impl<'a> Parser<'_, 'a> {
    fn peek(&self) -> Token<'a> {
        // The lexer ends every list with `End`, and `next` never goes beyond it.
        self.tokens.get(self.position).copied().unwrap_or(Token { kind: TokenKind::End, start: 0, end: 0 })
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        if token.kind != TokenKind::End {
            self.position += 1;
        }
        token
    }

    fn accept(&mut self, kind: TokenKind<'_>) -> bool {
        let found = self.peek().kind == kind;
        if found {
            self.position += 1;
        }
        found
    }

    fn whole(&mut self) -> Result<Expr, Fault> {
        if self.peek().kind == TokenKind::End {
            return Ok(Expr::All);
        }
        let expr = self.or()?;
        match self.peek() {
            Token { kind: TokenKind::End, .. } => Ok(expr),
            token => Err((ParseErrorKind::TrailingContent, token.start)),
        }
    }

    fn or(&mut self) -> Result<Expr, Fault> {
        let first = self.and()?;
        if self.peek().kind != TokenKind::Or {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.accept(TokenKind::Or) {
            parts.push(self.and()?);
        }
        Ok(Expr::Or(parts))
    }

    fn and(&mut self) -> Result<Expr, Fault> {
        let first = self.negation()?;
        if self.peek().kind != TokenKind::And {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.accept(TokenKind::And) {
            parts.push(self.negation()?);
        }
        Ok(Expr::And(parts))
    }

    fn negation(&mut self) -> Result<Expr, Fault> {
        let mut negated = false;
        while self.accept(TokenKind::Not) {
            negated = !negated;
        }
        let atom = self.atom()?;
        Ok(if negated { Expr::not(atom) } else { atom })
    }

    fn atom(&mut self) -> Result<Expr, Fault> {
        let token = self.next();
        match token.kind {
            TokenKind::All => Ok(Expr::All),
            TokenKind::Global => Ok(Expr::Global),
            TokenKind::Has(label) => Ok(Expr::Has(label.into())),
            TokenKind::Label(label) => self.condition(label),
            TokenKind::OpenParen => {
                if self.depth >= self.max_depth {
                    return Err((ParseErrorKind::TooDeep { limit: self.max_depth }, token.start));
                }
                self.depth += 1;
                let inner = self.or()?;
                self.depth -= 1;
                let next = self.next();
                if next.kind == TokenKind::CloseParen {
                    Ok(inner)
                } else {
                    Err((ParseErrorKind::ExpectedCloseParen { opened_at: token.start }, next.start))
                }
            }
            _ => Err((ParseErrorKind::UnexpectedToken, token.start)),
        }
    }

    fn condition(&mut self, label: &str) -> Result<Expr, Fault> {
        let token = self.next();
        let op = match token.kind {
            TokenKind::Equal => Comparison::Equal,
            TokenKind::NotEqual => Comparison::NotEqual,
            TokenKind::Contains => Comparison::Contains,
            TokenKind::StartsWith => Comparison::StartsWith,
            TokenKind::EndsWith => Comparison::EndsWith,
            TokenKind::In => return self.set(label, false),
            TokenKind::NotIn => return self.set(label, true),
            TokenKind::End => {
                return Err((ParseErrorKind::EndAfterLabel { label: label.into() }, token.start));
            }
            _ => return Err((ParseErrorKind::LabelWithoutOperator { label: label.into() }, token.start)),
        };
        match self.next() {
            Token { kind: TokenKind::Text(value), .. } => {
                Ok(Expr::Compare { label: label.into(), op, value: value.into() })
            }
            token => Err((ParseErrorKind::ExpectedString, token.start)),
        }
    }

    fn set(&mut self, label: &str, negated: bool) -> Result<Expr, Fault> {
        let open = self.next();
        if open.kind != TokenKind::OpenBrace {
            return Err((ParseErrorKind::ExpectedSet, open.start));
        }
        let mut values: Vec<&str> = Vec::new();
        while let TokenKind::Text(value) = self.peek().kind {
            self.position += 1;
            values.push(value);
            if !self.accept(TokenKind::Comma) {
                break;
            }
        }
        match self.next() {
            Token { kind: TokenKind::CloseBrace, .. } => Ok(Expr::member(label, negated, values)),
            token => Err((ParseErrorKind::ExpectedSetEnd, token.start)),
        }
    }
}
