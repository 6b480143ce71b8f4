//! Where scripts and expectations are, and how expectations are written.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::script::{Scenario, parse};

/// Columns of a line of an expectation; what fits into it is not broken.
const WIDTH: usize = 140;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All scenarios, by area.
///
/// # Errors
///
/// When a file cannot be read or is not understood.
pub fn scenarios() -> Result<Vec<Scenario>, String> {
    let directory = root().join("scenarios");
    let entries = fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let mut scenarios = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let area = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        scenarios.extend(parse(area, &text)?);
    }
    Ok(scenarios)
}

/// The file with what a scenario is expected to show.
pub fn expectation_path(scenario: &Scenario) -> PathBuf {
    root().join("expected").join(format!("{}.json", scenario.path()))
}

/// What a scenario is expected to show.
///
/// # Errors
///
/// When it was not recorded.
pub fn read_expectation(scenario: &Scenario) -> Result<Value, String> {
    let path = expectation_path(scenario);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}; record it", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A document with what is short on one line.
pub fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out.push('\n');
    out
}

fn write(value: &Value, indent: usize, out: &mut String) {
    let flat = value.to_string();
    let fits = indent > 0 && indent * 2 + flat.len() < WIDTH;
    let members: Vec<(Option<&String>, &Value)> = match value {
        Value::Object(map) if !fits => map.iter().map(|(key, value)| (Some(key), value)).collect(),
        Value::Array(list) if !fits => list.iter().map(|value| (None, value)).collect(),
        _ => {
            out.push_str(&flat);
            return;
        }
    };
    let (open, close) = if value.is_object() { ('{', '}') } else { ('[', ']') };
    out.push(open);
    for (at, (key, member)) in members.iter().enumerate() {
        out.push_str(if at == 0 { "\n" } else { ",\n" });
        out.push_str(&"  ".repeat(indent + 1));
        if let Some(key) = key {
            out.push_str(&Value::String((*key).clone()).to_string());
            out.push_str(": ");
        }
        write(member, indent + 1, out);
    }
    out.push('\n');
    out.push_str(&"  ".repeat(indent));
    out.push(close);
}
