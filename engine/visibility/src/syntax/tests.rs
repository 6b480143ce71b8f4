//! What the grammar takes and refuses, line by line.

use super::*;

#[track_caller]
fn error(text: &str, expected: &str) {
    match parse(text) {
        Ok(statement) => panic!("{text} is {statement:?}"),
        Err(error) => assert_eq!(error.to_string(), expected, "{text}"),
    }
}

fn equals(column: &str, value: &str) -> Syntax {
    Syntax::Compare { column: column.to_owned(), operator: "=", value: Literal::String(value.to_owned()) }
}

#[test]
fn precedence() {
    let [a, b, c] = ["a", "b", "c"].map(|name| move || equals(name, "x"));
    for (text, expected) in [
        ("a = 'x'", a()),
        ("`a`=\"x\"", a()),
        ("(((a = 'x')))", a()),
        ("a='x'AND b='x'", Syntax::And(vec![a(), b()])),
        ("a = 'x' && b = 'x' and c = 'x'", Syntax::And(vec![a(), b(), c()])),
        ("a = 'x' OR b = 'x' AND c = 'x'", Syntax::Or(vec![a(), Syntax::And(vec![b(), c()])])),
        ("(a = 'x' || b = 'x') AND c = 'x'", Syntax::And(vec![Syntax::Or(vec![a(), b()]), c()])),
        ("NOT a = 'x' AND b = 'x'", Syntax::And(vec![Syntax::Not(Box::new(a())), b()])),
        ("not not a = 'x' -- so\n /* it is */", Syntax::Not(Box::new(Syntax::Not(Box::new(a()))))),
    ] {
        let statement = parse(text).unwrap();
        assert_eq!((statement.condition, statement.group_by), (Some(expected), vec![]), "{text}");
    }
}

#[test]
fn literals() {
    let value = |text: &str| match parse(&format!("a = {text}")).unwrap().condition {
        Some(Syntax::Compare { value, .. }) => value,
        other => panic!("{text}: {other:?}"),
    };
    for (text, expected) in
        [(r"'w''1'", "w'1"), (r"'w\'1'", "w'1"), (r#""w'1""#, "w'1"), (r"'a\nb\\'", "a\nb\\"), ("'é'", "é"), ("''", "")]
    {
        assert_eq!(value(text), Literal::String(expected.to_owned()), "{text}");
    }
    assert_eq!(value("- 1"), Literal::Integer(-1));
    assert_eq!(value("+3"), Literal::Integer(3));
    assert_eq!(value("-9223372036854775808"), Literal::Integer(i64::MIN));
    assert_eq!(value("1.5e3"), Literal::Double(1500.0));
    assert_eq!(value("99999999999999999999"), Literal::Double(1e20));
    assert_eq!(value("True"), Literal::Bool(true));
    assert_eq!(value("FALSE"), Literal::Bool(false));
}

#[test]
fn operators() {
    let column = || "a".to_owned();
    let (one, two) = (Literal::Integer(1), Literal::Integer(2));
    let compare = |operator, value: &Literal| Syntax::Compare { column: column(), operator, value: value.clone() };
    for (text, expected) in [
        ("a <> 1", compare("!=", &one)),
        ("a<=1", compare("<=", &one)),
        ("a NOT STARTS_WITH 1", compare("NOT STARTS_WITH", &one)),
        ("a like 1", compare("LIKE", &one)),
        ("a NOT IN (1, 2)", Syntax::In { column: column(), values: vec![one.clone(), two.clone()], negated: true }),
        ("a between 1 and 2", Syntax::Between { column: column(), low: one, high: two, negated: false }),
        ("a IS NOT NULL", Syntax::IsNull { column: column(), negated: true }),
    ] {
        assert_eq!(parse(text).unwrap().condition, Some(expected), "{text}");
    }
}

#[test]
fn grouping() {
    assert_eq!(parse("  ").unwrap(), Statement { condition: None, group_by: vec![] });
    assert_eq!(parse("group by `a`, b").unwrap().group_by, ["a", "b"]);
    let both = parse("a = 'x' GROUP BY a").unwrap();
    assert_eq!((both.condition, both.group_by), (Some(equals("a", "x")), vec!["a".to_owned()]));
}

#[test]
fn a_semicolon_ends_a_query() {
    assert_eq!(parse("a = 'x';").unwrap().condition, Some(equals("a", "x")));
}

#[test]
fn refusals() {
    error("a = 'x' ORDER BY b", "operation is not supported: 'ORDER BY' clause");
    error("order by b desc", "operation is not supported: 'ORDER BY' clause");
    error("a = 'x' LIMIT 1", "operation is not supported: 'LIMIT' clause");
    error("GROUP BY a LIMIT 1", "operation is not supported: 'LIMIT' clause");
    error("GROUP BY a ORDER BY b", "operation is not supported: 'ORDER BY' clause");
    error("GROUP BY", "malformed SQL query: syntax error at position 30");
    error("group a", "malformed SQL query: syntax error at position 33 near 'group'");
    error("a", "invalid expression: incomplete expression");
    error("a AND b = 'x'", "invalid expression: incomplete expression");
    error("a =", "malformed SQL query: syntax error at position 31");
    error("  a = ", "malformed SQL query: syntax error at position 31");
    error("= 'x'", "malformed SQL query: syntax error at position 29");
    error("'x'", "operation is not supported: expression of type *sqlparser.SQLVal");
    error("'x' = a", "invalid expression: must be a column name but was *sqlparser.SQLVal");
    error("true", "operation is not supported: expression of type sqlparser.BoolVal");
    error("null = 'x'", "invalid expression: must be a column name but was *sqlparser.NullVal");
    let right = "operation is not supported: column name on the right side of comparison expression";
    error("a = w1", &format!("{right} (did you forget to quote \"w1\"?)"));
    error("a = `w1`", &format!("{right} (did you forget to quote \"w1\"?)"));
    error("a = 'x", "malformed SQL query: syntax error at position 34 near 'x'");
    error("`a = 'x'", "malformed SQL query: syntax error at position 36 near 'a = 'x''");
    error("a == 'x'", "malformed SQL query: syntax error at position 32");
    error("a = 'x' AND", "malformed SQL query: syntax error at position 39");
    error("a = 'x' AND AND", "malformed SQL query: syntax error at position 43 near 'and'");
    error("(a = 'x'", "malformed SQL query: syntax error at position 36");
    error("a = 'x')", "malformed SQL query: syntax error at position 36");
    error("()", "malformed SQL query: syntax error at position 30");
    error("a = ('x')", "invalid expression: unexpected value type *sqlparser.ParenExpr");
    error("a = 'x' XOR b = 'x'", "malformed SQL query: syntax error at position 39 near 'xor'");
    error("a = 'x' 'y'", "malformed SQL query: syntax error at position 39 near 'y'");
    error("!(a = 'x')", "operation is not supported: expression of type *sqlparser.UnaryExpr");
    error("a IN 'x'", "malformed SQL query: syntax error at position 36 near 'x'");
    error("a IN ()", "malformed SQL query: syntax error at position 35");
    error("a = 1+1", "malformed SQL query: syntax error at position 34");
    error("a = null", "invalid expression: unexpected value type *sqlparser.NullVal");
    error("a IS TRUE", "invalid expression: 'IS' operator can only be used as 'IS NULL' or 'IS NOT NULL'");
    error("a IS no query", "malformed SQL query: syntax error at position 35 near 'no'");
    error("a BETWEEN 'a'", "malformed SQL query: syntax error at position 41");
    error("a NOT 'a'", "malformed SQL query: syntax error at position 37 near 'a'");
    error("a = 0x10", "invalid expression: unable to parse value \"0x10\"");
    error("a = -'x'", "invalid expression: unary operator not supported in \"-'x'\"");
    error("foo(a) = 'x'", "invalid expression: must be a column name but was *sqlparser.FuncExpr");
    error("a = 'x' @", "malformed SQL query: syntax error at position 37 near '@'");
    error("a = 'x'; DROP", "malformed SQL query: syntax error at position 41 near 'drop'");
    error("a = 'x' ORDER", "malformed SQL query: syntax error at position 41");
    error("a = ?", "invalid expression: unable to parse value \":v1\"");
    error("select * from x", "malformed SQL query: syntax error at position 34 near 'select'");
    error("WHERE a = 'x'", "malformed SQL query: syntax error at position 33 near 'where'");
    error(&"(".repeat(5000), "invalid expression: nested deeper than 100");
    error(&"NOT ".repeat(5000), "invalid expression: nested deeper than 100");
    error(&" ".repeat(300_000), "invalid expression: query is longer than 262144 bytes");
}

#[test]
fn conditions_of_batch_jobs_are_malformed_where_temporal_says() {
    let cases = [
        ("()", Some("syntax error at position 29")),
        ("WorkflowType =", Some("syntax error at position 41")),
        (" WorkflowType = 'T' XOR RunId = 'r'", Some("syntax error at position 50 near 'xor'")),
        ("(WorkflowType = 'T'  ", Some("syntax error at position 48")),
        ("ORDER BY StartTime", Some("syntax error at position 32 near 'order'")),
        ("  group by x", Some("syntax error at position 34 near 'group'")),
        ("a = 'x'", None),
        // They make no sense, but that is found out when they are asked.
        ("a = 'x' ORDER BY b", None),
        ("a = 'x' LIMIT 3", None),
        ("a > b", None),
        ("", None),
    ];
    for (text, expected) in cases {
        assert_eq!(malformed_condition(text).as_deref(), expected, "{text:?}");
    }
}
