//! The grammar of queries: text to a tree, without knowing what the names mean.
//!
//! ```text
//!   query      := [or] [GROUP BY column]
//!   or         := and ((OR | ||) and)*
//!   and        := not ((AND | &&) not)*
//!   not        := NOT not | '(' or ')' | comparison
//!   comparison := column operator value
//!               | column [NOT] IN '(' value (, value)* ')'
//!               | column [NOT] BETWEEN value AND value
//!               | column [NOT] STARTS_WITH value
//!               | column IS [NOT] NULL
//! ```
//!
//! Keywords have no case, columns do. A column may stand in backticks, a string in either kind of quotes.

mod lexer;
#[cfg(test)]
mod tests;

use std::fmt;

use everlog_model::limits;
use lexer::{Token, TokenKind};

/// A parsed query.
#[derive(Debug, PartialEq)]
pub(super) struct Statement {
    pub(super) condition: Option<Syntax>,
    pub(super) group_by: Vec<String>,
}

/// A condition.
#[derive(Debug, PartialEq)]
pub(super) enum Syntax {
    And(Vec<Syntax>),
    Or(Vec<Syntax>),
    Not(Box<Syntax>),
    /// `operator` as it is written, in capitals.
    Compare {
        column: String,
        operator: &'static str,
        value: Literal,
    },
    In {
        column: String,
        values: Vec<Literal>,
        negated: bool,
    },
    Between {
        column: String,
        low: Literal,
        high: Literal,
        negated: bool,
    },
    IsNull {
        column: String,
        negated: bool,
    },
}

impl Syntax {
    /// The columns that it names.
    pub(super) fn columns(&self) -> Vec<&str> {
        match self {
            Syntax::And(operands) | Syntax::Or(operands) => operands.iter().flat_map(Syntax::columns).collect(),
            Syntax::Not(operand) => operand.columns(),
            Syntax::Compare { column, .. }
            | Syntax::In { column, .. }
            | Syntax::Between { column, .. }
            | Syntax::IsNull { column, .. } => vec![column],
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    String(String),
    Integer(i64),
    Double(f64),
    Bool(bool),
}

/// What is wrong with a query, in the words that Temporal uses; some name its parser's types.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum QueryError {
    /// It cannot be read.
    Malformed { position: usize, near: Option<String> },
    /// It can be read, but says nothing that can be done.
    NotSupported(String),
    /// A part of it makes no sense.
    InvalidExpression(String),
    /// It names a column that is not there.
    InvalidSearchAttribute(String),
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueryError::Malformed { position, near } => {
                write!(f, "malformed SQL query: syntax error at position {position}")?;
                near.as_ref().map_or(Ok(()), |near| write!(f, " near '{near}'"))
            }
            QueryError::NotSupported(what) => write!(f, "operation is not supported: {what}"),
            QueryError::InvalidExpression(what) => write!(f, "invalid expression: {what}"),
            QueryError::InvalidSearchAttribute(name) => write!(f, "invalid search attribute: {name}"),
        }
    }
}

fn not_supported<T>(what: impl Into<String>) -> Result<T, QueryError> {
    Err(QueryError::NotSupported(what.into()))
}

fn invalid_expression<T>(what: impl Into<String>) -> Result<T, QueryError> {
    Err(QueryError::InvalidExpression(what.into()))
}

fn no_column<T>(what: &str) -> Result<T, QueryError> {
    invalid_expression(format!("must be a column name but was {what}"))
}

/// Reads a query.
pub(super) fn parse(text: &str) -> Result<Statement, QueryError> {
    if text.len() > limits::VISIBILITY_QUERY_BYTES_MAX {
        return invalid_expression(format!("query is longer than {} bytes", limits::VISIBILITY_QUERY_BYTES_MAX));
    }
    let text = text.trim();
    let tokens = lexer::tokens(text)?;
    Parser { text, tokens, next: 0, depth: 0 }.statement()
}

/// Something stands before byte `end` that should not be there. Temporal's parser reads the query as the end of a statement, and counts in
/// that.
fn malformed(text: &str, end: usize, near: Option<String>) -> QueryError {
    const STATEMENT: &str = "select * from table1 ";
    const CONDITION: &str = "where ";
    let before = STATEMENT.len() + if is_condition(text) { CONDITION.len() } else { 0 };
    QueryError::Malformed { position: before + end + 1, near }
}

/// What keeps a text from being read as a condition, as Temporal tells it of batch jobs: there its parser has the text at the end of another
/// statement than where it lists. What can be read and makes no sense is none of this.
pub fn malformed_condition(text: &str) -> Option<String> {
    const STATEMENT: &str = "select * from dummy where ";
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return None;
    }
    let (end, near) = if is_condition(trimmed) {
        let Err(QueryError::Malformed { position, near }) = parse(trimmed) else { return None };
        let QueryError::Malformed { position: begin, .. } = malformed(trimmed, 0, None) else { return None };
        (position - begin, near)
    } else {
        let (first, _) = trimmed.split_once(' ').unwrap_or((trimmed, ""));
        (first.len(), Some(first.to_ascii_lowercase()))
    };
    // What is missing is missing behind the last blank.
    let (before, after) = (text.len() - text.trim_start().len(), text.len() - text.trim_end().len());
    let blanks = if end == trimmed.len() && near.is_none() { before + after } else { before };
    let problem = QueryError::Malformed { position: STATEMENT.len() + blanks + end + 1, near };
    problem.to_string().strip_prefix("malformed SQL query: ").map(str::to_owned)
}

/// Whether a query begins with a condition, if with anything.
fn is_condition(text: &str) -> bool {
    let starts_with = |words: &str| text.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words));
    !starts_with("group by") && !starts_with("order by")
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    next: usize,
    /// Open parentheses and NOTs around the next token.
    depth: usize,
}

impl<'a> Parser<'a> {
    fn statement(mut self) -> Result<Statement, QueryError> {
        let condition = if self.peek().is_end() || !is_condition(self.text) { None } else { Some(self.or()?) };
        let mut group_by = Vec::new();
        if self.take_word("GROUP") {
            self.expect_word("BY")?;
            group_by.push(self.column()?);
            while self.take_symbol(",") {
                group_by.push(self.column()?);
            }
        }
        for (word, clause) in
            [("HAVING", "'HAVING' clause"), ("ORDER", "'ORDER BY' clause"), ("LIMIT", "'LIMIT' clause")]
        {
            if self.take_word(word) {
                if word == "ORDER" {
                    self.expect_word("BY")?;
                }
                return not_supported(clause);
            }
        }
        self.take_symbol(";");
        if self.peek().is_end() { Ok(Statement { condition, group_by }) } else { Err(self.malformed()) }
    }

    fn or(&mut self) -> Result<Syntax, QueryError> {
        let mut operands = vec![self.and()?];
        while self.take_word("OR") || self.take_symbol("||") {
            operands.push(self.and()?);
        }
        Ok(one_or(operands, Syntax::Or))
    }

    fn and(&mut self) -> Result<Syntax, QueryError> {
        let mut operands = vec![self.not()?];
        while self.take_word("AND") || self.take_symbol("&&") {
            operands.push(self.not()?);
        }
        Ok(one_or(operands, Syntax::And))
    }

    fn not(&mut self) -> Result<Syntax, QueryError> {
        if self.peek().is_symbol("!") {
            return not_supported("expression of type *sqlparser.UnaryExpr");
        }
        let is_not = self.take_word("NOT");
        if !is_not && !self.peek().is_symbol("(") {
            return self.comparison();
        }
        self.depth += 1;
        if self.depth > limits::VISIBILITY_QUERY_DEPTH_MAX {
            return invalid_expression(format!("nested deeper than {}", limits::VISIBILITY_QUERY_DEPTH_MAX));
        }
        let inner = if is_not { Syntax::Not(Box::new(self.not()?)) } else { self.in_parentheses()? };
        self.depth -= 1;
        Ok(inner)
    }

    fn in_parentheses(&mut self) -> Result<Syntax, QueryError> {
        self.expect_symbol("(")?;
        let inner = self.or()?;
        self.expect_symbol(")")?;
        Ok(inner)
    }

    fn comparison(&mut self) -> Result<Syntax, QueryError> {
        let column = self.column()?;
        if self.take_word("IS") {
            let negated = self.take_word("NOT");
            if self.take_word("NULL") {
                return Ok(Syntax::IsNull { column, negated });
            }
            if !self.take_word("TRUE") && !self.take_word("FALSE") {
                return Err(self.malformed());
            }
            return invalid_expression("'IS' operator can only be used as 'IS NULL' or 'IS NOT NULL'");
        }
        if let Some(operator) = self.take_one_of(&["=", "!=", "<>", "<=>", "<=", ">=", "<", ">"]) {
            let operator = if operator == "<>" { "!=" } else { operator };
            return Ok(Syntax::Compare { column, operator, value: self.value()? });
        }
        let negated = self.take_word("NOT");
        if self.take_word("IN") {
            return Ok(Syntax::In { column, values: self.values()?, negated });
        }
        if self.take_word("BETWEEN") {
            let low = self.value()?;
            self.expect_word("AND")?;
            return Ok(Syntax::Between { column, low, high: self.value()?, negated });
        }
        for (word, operator, negation) in [
            ("STARTS_WITH", "STARTS_WITH", "NOT STARTS_WITH"),
            ("LIKE", "LIKE", "NOT LIKE"),
            ("REGEXP", "REGEXP", "NOT REGEXP"),
        ] {
            if self.take_word(word) {
                let operator = if negated { negation } else { operator };
                return Ok(Syntax::Compare { column, operator, value: self.value()? });
            }
        }
        if negated || !self.ends_an_expression() {
            return Err(self.malformed());
        }
        invalid_expression("incomplete expression")
    }

    fn ends_an_expression(&self) -> bool {
        let token = self.peek();
        token.is_end()
            || [")", "&&", "||"].iter().any(|symbol| token.is_symbol(symbol))
            || ["AND", "OR", "GROUP", "ORDER", "LIMIT", "HAVING"].iter().any(|word| token.is_word(word))
    }

    /// The left side of a comparison.
    fn column(&mut self) -> Result<String, QueryError> {
        let column = match &self.peek().kind {
            TokenKind::Word(word) if !lexer::is_reserved(word) => (*word).to_owned(),
            TokenKind::Quoted(name) => name.clone(),
            TokenKind::String(_) | TokenKind::Number(_) => return self.no_column("*sqlparser.SQLVal"),
            TokenKind::Word(word) if word.eq_ignore_ascii_case("NULL") => return self.no_column("*sqlparser.NullVal"),
            TokenKind::Word(word) if ["TRUE", "FALSE"].iter().any(|value| word.eq_ignore_ascii_case(value)) => {
                return self.no_column("sqlparser.BoolVal");
            }
            _ => return Err(self.malformed()),
        };
        self.next += 1;
        if self.peek().is_symbol("(") {
            return no_column("*sqlparser.FuncExpr");
        }
        Ok(column)
    }

    /// The next token is a value, of this type, where a column should be.
    fn no_column<T>(&mut self, what: &str) -> Result<T, QueryError> {
        self.next += 1;
        if self.ends_an_expression() { not_supported(format!("expression of type {what}")) } else { no_column(what) }
    }

    fn values(&mut self) -> Result<Vec<Literal>, QueryError> {
        self.expect_symbol("(")?;
        let mut values = vec![self.value()?];
        while self.take_symbol(",") {
            values.push(self.value()?);
        }
        self.expect_symbol(")")?;
        Ok(values)
    }

    /// The right side of a comparison.
    fn value(&mut self) -> Result<Literal, QueryError> {
        let sign = self.take_one_of(&["-", "+"]);
        let literal = match &self.peek().kind {
            TokenKind::Number(text) => number(text, sign == Some("-"))?,
            TokenKind::String(text) if sign.is_some() => {
                let sign = sign.unwrap_or_default();
                return invalid_expression(format!("unary operator not supported in \"{sign}'{text}'\""));
            }
            TokenKind::String(text) => Literal::String(text.clone()),
            TokenKind::Word(word) if word.eq_ignore_ascii_case("TRUE") => Literal::Bool(true),
            TokenKind::Word(word) if word.eq_ignore_ascii_case("FALSE") => Literal::Bool(false),
            TokenKind::Word(word) if word.eq_ignore_ascii_case("NULL") => {
                return invalid_expression("unexpected value type *sqlparser.NullVal");
            }
            TokenKind::Word(word) if !lexer::is_reserved(word) => return right_column(word),
            TokenKind::Quoted(name) => return right_column(name),
            TokenKind::Symbol("(") => return invalid_expression("unexpected value type *sqlparser.ParenExpr"),
            // A placeholder, for which there is no value.
            TokenKind::Symbol("?") => return invalid_expression("unable to parse value \":v1\""),
            _ => return Err(self.malformed()),
        };
        self.next += 1;
        Ok(literal)
    }

    fn peek(&self) -> &Token<'a> {
        // The last token is the end, which nothing takes.
        &self.tokens[self.next]
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek().is_word(word);
        self.next += usize::from(found);
        found
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = self.peek().is_symbol(symbol);
        self.next += usize::from(found);
        found
    }

    fn take_one_of(&mut self, symbols: &[&'static str]) -> Option<&'static str> {
        symbols.iter().copied().find(|symbol| self.take_symbol(symbol))
    }

    fn expect_word(&mut self, word: &str) -> Result<(), QueryError> {
        if self.take_word(word) { Ok(()) } else { Err(self.malformed()) }
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<(), QueryError> {
        if self.take_symbol(symbol) { Ok(()) } else { Err(self.malformed()) }
    }

    /// The next token should not be there.
    fn malformed(&self) -> QueryError {
        let token = self.peek();
        malformed(self.text, token.end, token.text())
    }
}

fn one_or(mut operands: Vec<Syntax>, several: fn(Vec<Syntax>) -> Syntax) -> Syntax {
    match (operands.len(), operands.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            operands.extend(last);
            several(operands)
        }
    }
}

fn right_column(name: &str) -> Result<Literal, QueryError> {
    not_supported(format!("column name on the right side of comparison expression (did you forget to quote {name:?}?)"))
}

fn number(text: &str, is_negative: bool) -> Result<Literal, QueryError> {
    let signed = if is_negative { format!("-{text}") } else { text.to_owned() };
    if let Ok(integer) = signed.parse() {
        return Ok(Literal::Integer(integer));
    }
    match signed.parse() {
        Ok(double) => Ok(Literal::Double(double)),
        Err(_) => invalid_expression(format!("unable to parse value {text:?}")),
    }
}
