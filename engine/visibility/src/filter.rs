//! Queries with their names resolved and their values typed.

use std::cmp::Ordering;

use everlog_kernel::Time;
use everlog_proto::api::enums::v1::IndexedValueType;

use super::field::{status_name, status_number, type_name};
use super::syntax::{self, Literal, QueryError, Syntax};
use super::times::{Moment, parse_duration, parse_time};
use super::{Field, SearchAttributeTypes, VisibilityError};

/// A query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Which runs; `None` for all.
    pub filter: Option<Filter>,
    /// By what a count is grouped; only a status occurs. Lists ignore it.
    pub group_by: Option<Field>,
}

/// A condition on a record. Negated operators are [`Filter::Not`] of the others.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// All hold.
    And(Vec<Filter>),
    /// Any holds.
    Or(Vec<Filter>),
    /// Does not hold (nor is unknown because a field is null).
    Not(Box<Filter>),
    /// The field is null.
    IsNull(Field),
    /// The field compares with a value of its type.
    Compare(Field, Comparison, Value),
    /// The field is one of the values; keywords are in order.
    In(Field, Vec<Value>),
    /// The field lies between two values, both included.
    Between(Field, Value, Value),
    /// The keyword begins with a text.
    StartsWith(Field, String),
}

/// How a field compares with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`; for lists, that one element is equal, for texts, that one word is.
    Equal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// A value to compare with.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a Keyword, or an element of a KeywordList.
    Keyword(String),
    /// The words of a Text, in lower case.
    Words(Vec<String>),
    /// Of an Int or a Double; also a status, or a duration in nanoseconds.
    Integer(i64),
    /// Of a Double or an Int.
    Double(f64),
    /// Of a Bool.
    Bool(bool),
    /// Of a Datetime.
    Time(Moment),
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    ///
    /// [`VisibilityError::InvalidArgument`] that says what is wrong with it.
    pub fn parse(text: &str, types: &SearchAttributeTypes) -> Result<Query, VisibilityError> {
        Query::read(text, &|name| Field::named(name, types))
    }

    /// Reads a query for activities that are no workflow's.
    ///
    /// # Errors
    ///
    /// As [`Query::parse`].
    pub(super) fn of_activities(text: &str, types: &SearchAttributeTypes) -> Result<Query, VisibilityError> {
        Query::read(text, &|name| Field::named_of_activity(name, types))
    }

    fn read(text: &str, fields: Fields<'_>) -> Result<Query, VisibilityError> {
        let read = || {
            let statement = syntax::parse(text)?;
            let filter = statement.condition.map(|condition| filter(condition, fields)).transpose()?;
            Ok(Query { filter, group_by: group_by(&statement.group_by, fields)? })
        };
        read().map_err(|error: QueryError| VisibilityError::query(error))
    }
}

/// The fields that a query can name.
type Fields<'a> = &'a dyn Fn(&str) -> Option<Field>;

fn group_by(columns: &[String], fields: Fields<'_>) -> Result<Option<Field>, QueryError> {
    let column = match columns {
        [] => return Ok(None),
        [column] => field(column, fields)?,
        _ => return Err(QueryError::NotSupported("'GROUP BY' clause supports only a single field".to_owned())),
    };
    if !matches!(column, Field::ExecutionStatus | Field::ActivityStatus) {
        let name = column.name();
        let what = format!("'GROUP BY' clause is not supported for search attribute {name}");
        return Err(QueryError::NotSupported(what));
    }
    Ok(Some(column))
}

/// Keywords in order, so that one is found among thousands at once.
fn in_order(mut values: Vec<Value>) -> Vec<Value> {
    values.sort_by(|a, b| match (a, b) {
        (Value::Keyword(a), Value::Keyword(b)) => a.cmp(b),
        _ => Ordering::Equal,
    });
    values
}

fn field(name: &str, fields: Fields<'_>) -> Result<Field, QueryError> {
    fields(name).ok_or_else(|| QueryError::InvalidSearchAttribute(name.to_owned()))
}

fn filter(syntax: Syntax, fields: Fields<'_>) -> Result<Filter, QueryError> {
    let all =
        |operands: Vec<Syntax>| operands.into_iter().map(|operand| filter(operand, fields)).collect::<Result<_, _>>();
    match syntax {
        Syntax::And(operands) => Ok(Filter::And(all(operands)?)),
        Syntax::Or(operands) => Ok(Filter::Or(all(operands)?)),
        Syntax::Not(operand) => Ok(not(filter(*operand, fields)?)),
        Syntax::IsNull { column, negated } => Ok(negate_if(negated, Filter::IsNull(field(&column, fields)?))),
        Syntax::Compare { column, operator, value } => compare(field(&column, fields)?, operator, &value),
        Syntax::In { column, values, negated } => {
            let field = field(&column, fields)?;
            let values = values.iter().map(|literal| value(&field, literal)).collect::<Result<Vec<_>, _>>()?;
            if matches!(field.value_type(), IndexedValueType::Text) {
                return Err(operator_not_supported(&field, if negated { "NOT IN" } else { "IN" }));
            }
            Ok(negate_if(negated, Filter::In(field, in_order(values))))
        }
        Syntax::Between { column, low, high, negated } => {
            let field = field(&column, fields)?;
            let (low, high) = (value(&field, &low)?, value(&field, &high)?);
            if !has_order(field.value_type()) {
                return Err(QueryError::InvalidExpression(format!(
                    "cannot do range condition on search attribute '{}' of type {}",
                    field.name(),
                    type_name(field.value_type())
                )));
            }
            Ok(negate_if(negated, Filter::Between(field, low, high)))
        }
    }
}

fn compare(field: Field, operator: &str, literal: &Literal) -> Result<Filter, QueryError> {
    // A wrong value is reported before a wrong operator, as Temporal does.
    let value = value(&field, literal)?;
    let ordered = |comparison| {
        if has_order(field.value_type()) || field.value_type() == IndexedValueType::Bool {
            Ok(Filter::Compare(field.clone(), comparison, value.clone()))
        } else {
            Err(operator_not_supported(&field, operator))
        }
    };
    match (operator, &value) {
        ("=", _) => Ok(Filter::Compare(field, Comparison::Equal, value)),
        ("!=", _) => Ok(not(Filter::Compare(field, Comparison::Equal, value))),
        ("<", _) => ordered(Comparison::Less),
        ("<=", _) => ordered(Comparison::LessOrEqual),
        (">", _) => ordered(Comparison::Greater),
        (">=", _) => ordered(Comparison::GreaterOrEqual),
        ("STARTS_WITH" | "NOT STARTS_WITH", Value::Keyword(prefix))
            if field.value_type() == IndexedValueType::Keyword =>
        {
            let starts_with = Filter::StartsWith(field, prefix.clone());
            Ok(negate_if(operator.starts_with("NOT"), starts_with))
        }
        _ => Err(operator_not_supported(&field, operator)),
    }
}

fn has_order(value_type: IndexedValueType) -> bool {
    matches!(
        value_type,
        IndexedValueType::Keyword | IndexedValueType::Int | IndexedValueType::Double | IndexedValueType::Datetime
    )
}

fn not(filter: Filter) -> Filter {
    Filter::Not(Box::new(filter))
}

fn negate_if(negated: bool, filter: Filter) -> Filter {
    if negated { not(filter) } else { filter }
}

fn operator_not_supported(field: &Field, operator: &str) -> QueryError {
    let value_type = type_name(field.value_type());
    QueryError::NotSupported(format!(
        "operator '{operator}' not supported for {value_type} type search attribute '{}'",
        field.name()
    ))
}

/// Types a literal by the field that it stands with.
fn value(field: &Field, literal: &Literal) -> Result<Value, QueryError> {
    match field {
        Field::ExecutionStatus => status(field, literal),
        Field::ActivityStatus => activity_status(field, literal),
        Field::ExecutionDuration => duration(field, literal),
        _ => typed(field, literal),
    }
}

fn typed(field: &Field, literal: &Literal) -> Result<Value, QueryError> {
    match (field.value_type(), literal) {
        (IndexedValueType::Keyword | IndexedValueType::KeywordList, Literal::String(text)) => {
            Ok(Value::Keyword(text.clone()))
        }
        (IndexedValueType::Text, Literal::String(text)) => match words(text) {
            words if words.is_empty() => {
                let name = field.name();
                let what = format!("no tokens found filtering on Text type search attribute {name}");
                Err(QueryError::InvalidExpression(what))
            }
            words => Ok(Value::Words(words)),
        },
        (IndexedValueType::Int | IndexedValueType::Double, Literal::Integer(number)) => Ok(Value::Integer(*number)),
        (IndexedValueType::Int | IndexedValueType::Double, Literal::Double(number)) => Ok(Value::Double(*number)),
        (IndexedValueType::Bool, Literal::Bool(value)) => Ok(Value::Bool(*value)),
        (IndexedValueType::Datetime, Literal::Integer(nanos)) => Ok(Value::Time(Time(*nanos).into())),
        (IndexedValueType::Datetime, Literal::String(text)) => match parse_time(text) {
            Some(time) => Ok(Value::Time(time)),
            None => Err(QueryError::InvalidExpression(format!("unable to parse datetime '{text}'"))),
        },
        _ => Err(wrong_type(field, literal)),
    }
}

fn status(field: &Field, literal: &Literal) -> Result<Value, QueryError> {
    let (number, written) = match literal {
        Literal::String(name) => (status_number(name), format!("'{name}'")),
        Literal::Integer(number) => (status_name(*number).map(|_| *number), number.to_string()),
        Literal::Double(_) => return Err(unexpected_double(field)),
        Literal::Bool(_) => return Err(wrong_type(field, literal)),
    };
    number
        .map(Value::Integer)
        .ok_or_else(|| QueryError::InvalidExpression(format!("invalid ExecutionStatus value {written}")))
}

/// A name that no activity has is no error.
fn activity_status(field: &Field, literal: &Literal) -> Result<Value, QueryError> {
    match literal {
        Literal::String(name) => Ok(Value::Integer(status_number(name).unwrap_or_default())),
        _ => Err(wrong_type(field, literal)),
    }
}

fn duration(field: &Field, literal: &Literal) -> Result<Value, QueryError> {
    match literal {
        Literal::String(text) => parse_duration(text).map(Value::Integer).ok_or_else(|| {
            let name = field.name();
            QueryError::InvalidExpression(format!("invalid duration value for search attribute {name}: {text}"))
        }),
        Literal::Integer(nanos) => Ok(Value::Integer(*nanos)),
        Literal::Double(_) => Err(unexpected_double(field)),
        Literal::Bool(_) => Err(wrong_type(field, literal)),
    }
}

fn unexpected_double(field: &Field) -> QueryError {
    QueryError::InvalidExpression(format!("unexpected value type float64 for search attribute {}", field.name()))
}

fn wrong_type(field: &Field, literal: &Literal) -> QueryError {
    let (written, literal_type) = match literal {
        Literal::String(text) => (format!("{text:?}"), "string"),
        Literal::Integer(number) => (number.to_string(), "int64"),
        Literal::Double(number) => (number.to_string(), "float64"),
        Literal::Bool(value) => (value.to_string(), "bool"),
    };
    QueryError::InvalidExpression(format!(
        "invalid value type for search attribute {} of type {}: {written} (type: {literal_type})",
        field.name(),
        type_name(field.value_type())
    ))
}

/// The words of a text, in lower case.
pub(super) fn words(text: &str) -> Vec<String> {
    let is_separator = |c: char| !c.is_alphanumeric();
    text.split(is_separator).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types() -> SearchAttributeTypes {
        [
            ("KW", IndexedValueType::Keyword),
            ("KL", IndexedValueType::KeywordList),
            ("TX", IndexedValueType::Text),
            ("IN1", IndexedValueType::Int),
            ("DB", IndexedValueType::Double),
            ("BO", IndexedValueType::Bool),
            ("DT", IndexedValueType::Datetime),
        ]
        .map(|(name, value_type)| (name.to_owned(), value_type))
        .into()
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        match Query::parse(text, &types()) {
            Ok(query) => panic!("{text} is {query:?}"),
            Err(error) => assert_eq!(error.to_string(), format!("invalid query: {expected}"), "{text}"),
        }
    }

    /// Texts as Temporal 1.32 gives them.
    #[test]
    fn refusals() {
        refused("workflowid = 'w1'", "invalid search attribute: workflowid");
        refused("`Foo` = 'x'", "invalid search attribute: Foo");
        refused("Custom.Foo = 'x'", "invalid search attribute: Custom.Foo");
        refused("WorkflowId = 'w1' AND (RunId = 'x' OR Foo = 'y')", "invalid search attribute: Foo");
        refused("WorkflowId = 'w1' ORDER BY StartTime", "operation is not supported: 'ORDER BY' clause");
        let operator = |operator: &str, of: &str, name: &str| {
            format!(
                "operation is not supported: operator '{operator}' not supported for {of} type search attribute '{name}'"
            )
        };
        refused("WorkflowId LIKE 'w%'", &operator("LIKE", "Keyword", "WorkflowId"));
        refused("WorkflowId NOT LIKE 'w%'", &operator("NOT LIKE", "Keyword", "WorkflowId"));
        refused("WorkflowId REGEXP 'w'", &operator("REGEXP", "Keyword", "WorkflowId"));
        refused("WorkflowId <=> 'w1'", &operator("<=>", "Keyword", "WorkflowId"));
        refused("KL > 'a'", &operator(">", "KeywordList", "KL"));
        refused("KL NOT STARTS_WITH 'x'", &operator("NOT STARTS_WITH", "KeywordList", "KL"));
        refused("TX > 'a'", &operator(">", "Text", "TX"));
        refused("TX NOT IN ('x')", &operator("NOT IN", "Text", "TX"));
        refused("TX STARTS_WITH 'h'", &operator("STARTS_WITH", "Text", "TX"));
        refused("BO STARTS_WITH true", &operator("STARTS_WITH", "Bool", "BO"));
        refused("IN1 LIKE 1", &operator("LIKE", "Int", "IN1"));
        refused("StartTime STARTS_WITH 1", &operator("STARTS_WITH", "Datetime", "StartTime"));
        refused("ExecutionDuration STARTS_WITH '1h'", &operator("STARTS_WITH", "Int", "ExecutionDuration"));
        let wrong = |name: &str, of: &str, value: &str, is: &str| {
            format!(
                "invalid expression: invalid value type for search attribute {name} of type {of}: {value} (type: {is})"
            )
        };
        refused("WorkflowId = 5", &wrong("WorkflowId", "Keyword", "5", "int64"));
        refused("WorkflowId = true", &wrong("WorkflowId", "Keyword", "true", "bool"));
        refused("WorkflowId IN ('w1', 5)", &wrong("WorkflowId", "Keyword", "5", "int64"));
        refused("StartTime > 1.5", &wrong("StartTime", "Datetime", "1.5", "float64"));
        refused("HistoryLength > '1'", &wrong("HistoryLength", "Int", "\"1\"", "string"));
        refused("IN1 STARTS_WITH '1'", &wrong("IN1", "Int", "\"1\"", "string"));
        refused("DB = '1.5'", &wrong("DB", "Double", "\"1.5\"", "string"));
        refused("BO = 1", &wrong("BO", "Bool", "1", "int64"));
        refused("KL IN ('c1', 5)", &wrong("KL", "KeywordList", "5", "int64"));
        refused("TX = 5", &wrong("TX", "Text", "5", "int64"));
        refused("ExecutionStatus = true", &wrong("ExecutionStatus", "Keyword", "true", "bool"));
        refused("ExecutionDuration = true", &wrong("ExecutionDuration", "Int", "true", "bool"));
        for value in ["'running'", "'1'", "99", "'Cancelled'", "'CONTINUED_AS_NEW'"] {
            let text = format!("ExecutionStatus = {value}");
            refused(&text, &format!("invalid expression: invalid ExecutionStatus value {value}"));
        }
        refused("ExecutionStatus STARTS_WITH 'R'", "invalid expression: invalid ExecutionStatus value 'R'");
        let unexpected = "invalid expression: unexpected value type float64 for search attribute";
        refused("ExecutionStatus = 1.5", &format!("{unexpected} ExecutionStatus"));
        refused("ExecutionDuration < 1.5", &format!("{unexpected} ExecutionDuration"));
        let duration = "invalid expression: invalid duration value for search attribute ExecutionDuration:";
        refused("ExecutionDuration < 'foo'", &format!("{duration} foo"));
        refused("ExecutionDuration < ''", &format!("{duration} "));
        refused("StartTime > '2024-01-01'", "invalid expression: unable to parse datetime '2024-01-01'");
        refused("CloseTime = 'missing'", "invalid expression: unable to parse datetime 'missing'");
        refused("TX = ''", "invalid expression: no tokens found filtering on Text type search attribute TX");
        let range = "invalid expression: cannot do range condition on search attribute";
        refused("KL BETWEEN 'a' AND 'b'", &format!("{range} 'KL' of type KeywordList"));
        refused("TX BETWEEN 'a' AND 'b'", &format!("{range} 'TX' of type Text"));
        let group = "operation is not supported: 'GROUP BY' clause";
        refused("GROUP BY WorkflowType", &format!("{group} is not supported for search attribute WorkflowType"));
        refused("KW = 'k1' GROUP BY KW", &format!("{group} is not supported for search attribute KW"));
        refused("GROUP BY ExecutionStatus, WorkflowType", &format!("{group} supports only a single field"));
        refused("GROUP BY Foo", "invalid search attribute: Foo");
    }

    #[test]
    fn values_are_typed_by_their_field() {
        let time = |nanos| Value::Time(Time(nanos).into());
        let equal = |field, value| Filter::Compare(field, Comparison::Equal, value);
        for (text, expected) in [
            ("ExecutionStatus = 'TimedOut'", equal(Field::ExecutionStatus, Value::Integer(7))),
            ("ExecutionStatus != 0", not(equal(Field::ExecutionStatus, Value::Integer(0)))),
            ("ExecutionDuration = '1m'", equal(Field::ExecutionDuration, Value::Integer(60_000_000_000))),
            ("StartTime = '1970-01-01T00:00:01Z'", equal(Field::StartTime, time(1_000_000_000))),
            ("CloseTime = -5", equal(Field::CloseTime, time(-5))),
            ("HistoryLength = 1.5", equal(Field::HistoryLength, Value::Double(1.5))),
            (
                "TX = 'Big, world-wide foo_bar'",
                equal(
                    Field::Attribute("TX".to_owned(), IndexedValueType::Text),
                    Value::Words(["big", "world", "wide", "foo", "bar"].map(str::to_owned).to_vec()),
                ),
            ),
            ("ScheduleId = 's'", equal(Field::WorkflowId, Value::Keyword("s".to_owned()))),
            ("ParentRunId IS NOT NULL", not(Filter::IsNull(Field::ParentRunId))),
            (
                "RunId IN ('b', 'c', 'a')",
                Filter::In(Field::RunId, ["a", "b", "c"].map(|id| Value::Keyword(id.to_owned())).to_vec()),
            ),
            ("RunId NOT IN ('a')", not(Filter::In(Field::RunId, vec![Value::Keyword("a".to_owned())]))),
            ("WorkflowType NOT STARTS_WITH 'a'", not(Filter::StartsWith(Field::WorkflowType, "a".to_owned()))),
            (
                "HistorySizeBytes BETWEEN 1 AND 2",
                Filter::Between(Field::HistorySizeBytes, Value::Integer(1), Value::Integer(2)),
            ),
        ] {
            assert_eq!(Query::parse(text, &types()).unwrap().filter, Some(expected), "{text}");
        }
        let grouped = Query::parse("GROUP BY ExecutionStatus", &types()).unwrap();
        assert_eq!(grouped, Query { filter: None, group_by: Some(Field::ExecutionStatus) });
        assert!(Query::parse("BuildIds = 'x' AND TemporalSchedulePaused = true", &types()).is_ok());
    }
}
