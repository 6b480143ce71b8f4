//! Settings from the environment: what differs between the nodes of one file, such as a name or a certificate.
//!
//! `EVERLOG__CLUSTER__ADVERTISE` is `advertise` of `[cluster]`: two underscores lead from one level to the next. Its value is written as in the
//! file; what is not TOML there is a text, so that texts need no quotes.

use toml::{Table, Value};

use super::SettingsError;

const PREFIX: &str = "EVERLOG__";

/// The variables that are settings, by name.
pub(super) fn variables() -> Vec<(String, String)> {
    let texts = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let ours = texts.filter(|(name, _)| name.starts_with(PREFIX));
    let mut ours: Vec<_> = ours.map(|(name, value)| (name, value.to_string_lossy().into_owned())).collect();
    ours.sort();
    ours
}

/// Sets what a variable says, whatever the file says of it.
///
/// # Errors
///
/// If it is in a level that the file has a value for.
pub(super) fn set(settings: &mut Table, name: &str, value: &str) -> Result<(), SettingsError> {
    let path = name.trim_start_matches(PREFIX).to_lowercase();
    let mut levels: Vec<_> = path.split("__").collect();
    let last = levels.pop().unwrap_or_default();
    let mut table = settings;
    for level in levels {
        let next = table.entry(level).or_insert_with(|| Value::Table(Table::new()));
        table =
            next.as_table_mut().ok_or_else(|| SettingsError(format!("{name}: {level} is no part of the settings")))?;
    }
    table.insert(last.to_owned(), read(value));
    Ok(())
}

fn read(text: &str) -> Value {
    let one: Option<Value> = format!("value = {text}")
        .parse::<Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"));
    one.unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn values_are_toml_or_texts() {
        assert_eq!(read("7235"), Value::Integer(7235));
        assert_eq!(read("true"), Value::Boolean(true));
        assert_eq!(read("[\"a:1\", \"b:1\"]").as_array().unwrap().len(), 2);
        for text in ["everlog-0.everlog:7235", "10m", "", "/certificates/a.crt", "1\nother = 2"] {
            assert_eq!(read(text), Value::String(text.to_owned()));
        }
        assert_eq!(read("\"7235\""), Value::String("7235".to_owned()));
    }

    #[test]
    fn a_variable_counts_more_than_the_file() {
        let mut settings: Table = "data_dir = \"a\"\n[cluster]\nadvertise = \"x:1\"\nname = \"n\"".parse().unwrap();
        set(&mut settings, "EVERLOG__CLUSTER__ADVERTISE", "y:1").unwrap();
        set(&mut settings, "EVERLOG__TLS__NODE__CA", "ca.crt").unwrap();
        set(&mut settings, "EVERLOG__DATA_DIR", "b").unwrap();
        let expected = "data_dir = \"b\"\n[cluster]\nadvertise = \"y:1\"\nname = \"n\"\n[tls.node]\nca = \"ca.crt\"";
        assert_eq!(settings, expected.parse().unwrap());
        let error = set(&mut settings, "EVERLOG__DATA_DIR__X", "b").unwrap_err().to_string();
        assert_eq!(error, "EVERLOG__DATA_DIR__X: data_dir is no part of the settings");
    }
}
