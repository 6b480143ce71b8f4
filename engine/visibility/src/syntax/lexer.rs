//! The words, strings, numbers and symbols that a query is made of.

use super::{QueryError, malformed};

/// A token and where it ends, counted in bytes.
#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind<'a>,
    pub(super) end: usize,
}

#[derive(Debug)]
pub(super) enum TokenKind<'a> {
    /// A keyword or a column.
    Word(&'a str),
    /// A column in backticks.
    Quoted(String),
    /// A string without its quotes and escapes.
    String(String),
    /// A number, as far as the first character tells.
    Number(&'a str),
    Symbol(&'a str),
    End,
}

impl Token<'_> {
    pub(super) fn is_end(&self) -> bool {
        matches!(self.kind, TokenKind::End)
    }

    pub(super) fn is_word(&self, expected: &str) -> bool {
        matches!(self.kind, TokenKind::Word(word) if word.eq_ignore_ascii_case(expected))
    }

    pub(super) fn is_symbol(&self, expected: &str) -> bool {
        matches!(self.kind, TokenKind::Symbol(symbol) if symbol == expected)
    }

    /// For error messages, which name no symbols, and keywords in small letters.
    pub(super) fn text(&self) -> Option<String> {
        match &self.kind {
            TokenKind::Word(text) if is_keyword(text) => Some(text.to_ascii_lowercase()),
            TokenKind::Word(text) | TokenKind::Number(text) => Some((*text).to_owned()),
            TokenKind::Quoted(text) | TokenKind::String(text) => Some(text.clone()),
            TokenKind::Symbol(_) | TokenKind::End => None,
        }
    }
}

/// Words of SQL, those among them that mean nothing here.
fn is_keyword(word: &str) -> bool {
    const OTHERS: [&str; 27] = [
        "ALL", "ANY", "AS", "ASC", "BY", "CASE", "CREATE", "CROSS", "DELETE", "DESC", "DISTINCT", "DROP", "ELSE",
        "END", "EXISTS", "INSERT", "INTERVAL", "INTO", "JOIN", "LEFT", "ON", "SET", "TABLE", "THEN", "UNION", "UPDATE",
        "XOR",
    ];
    is_reserved(word) || OTHERS.iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}

/// Words that cannot be columns unless they stand in backticks.
pub(super) fn is_reserved(word: &str) -> bool {
    const RESERVED: [&str; 19] = [
        "AND",
        "OR",
        "NOT",
        "IN",
        "IS",
        "NULL",
        "TRUE",
        "FALSE",
        "BETWEEN",
        "LIKE",
        "REGEXP",
        "STARTS_WITH",
        "GROUP",
        "ORDER",
        "LIMIT",
        "HAVING",
        "SELECT",
        "FROM",
        "WHERE",
    ];
    RESERVED.iter().any(|reserved| word.eq_ignore_ascii_case(reserved))
}

const SYMBOLS: [&str; 19] =
    ["<=>", "<>", "<=", ">=", "!=", "&&", "||", "=", "<", ">", "(", ")", ",", "!", "-", "+", "*", ";", "?"];

/// Splits a query; the last token is the end.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, QueryError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = skip_blanks(rest);
        let start = text.len() - rest.len();
        let (kind, length) = next(rest).map_err(|(near, length)| malformed(text, start + length, Some(near)))?;
        let is_end = matches!(kind, TokenKind::End);
        tokens.push(Token { kind, end: start + length });
        if is_end {
            return Ok(tokens);
        }
        rest = &rest[length..];
    }
}

/// Skips white space and comments.
fn skip_blanks(mut text: &str) -> &str {
    loop {
        text = text.trim_start();
        if text.starts_with("--") {
            text = text.find('\n').map_or("", |end| &text[end..]);
        } else if text.starts_with("/*") {
            text = text.find("*/").map_or("", |end| &text[end + 2..]);
        } else {
            return text;
        }
    }
}

/// The token that `text` starts with and its length; if there is none, what is in the way, and its length.
fn next(text: &str) -> Result<(TokenKind<'_>, usize), (String, usize)> {
    let Some(first) = text.chars().next() else { return Ok((TokenKind::End, 0)) };
    if matches!(first, '\'' | '"' | '`') {
        let (content, length) = quoted(text, first).map_err(|content| (content, text.len()))?;
        let kind = if first == '`' { TokenKind::Quoted(content) } else { TokenKind::String(content) };
        return Ok((kind, length));
    }
    let starts_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    if starts_number(text) || (first == '.' && starts_number(&text[1..])) {
        let number = &text[..number_length(text)];
        return Ok((TokenKind::Number(number), number.len()));
    }
    if first.is_alphabetic() || first == '_' {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '$');
        let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
        return Ok((TokenKind::Word(&text[..end]), end));
    }
    let symbol = SYMBOLS.iter().find(|symbol| text.starts_with(**symbol));
    symbol.map(|symbol| (TokenKind::Symbol(symbol), symbol.len())).ok_or_else(|| (first.to_string(), first.len_utf8()))
}

/// Digits, letters and dots belong together, and a sign behind an exponent.
fn number_length(text: &str) -> usize {
    let mut exponent = false;
    let is_decimal = !text.starts_with("0x");
    let end = text.find(|c: char| {
        let belongs = c.is_alphanumeric() || c == '.' || (exponent && matches!(c, '+' | '-'));
        exponent = is_decimal && matches!(c, 'e' | 'E');
        !belongs
    });
    end.unwrap_or(text.len())
}

/// The content of a quoted text, and its length with quotes and escapes. Quotes inside are doubled or escaped.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let mut content = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character == quote {
            if characters.next_if(|(_, next)| *next == quote).is_none() {
                return Ok((content, at + quote.len_utf8()));
            }
            content.push(quote);
        } else if character == '\\' && quote != '`' {
            let Some((_, escaped)) = characters.next() else { break };
            content.push(match escaped {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                'b' => '\u{8}',
                'Z' => '\u{1a}',
                other => other,
            });
        } else {
            content.push(character);
        }
    }
    Err(content)
}
