//! The scripts: a file an area, in it one scenario after the other.
//!
//! ```text
//! == name
//! # What it shows.
//! config history.maximumBufferedEventsBatch=2
//! start { workflow_run_timeout: 5s }
//! poll
//! reply = respond { commands @complete() }
//! &late = QueryWorkflow timeout=3s { execution { workflow_id: "wf~" } query { query_type: "q" } }
//! await late
//! history
//! ```
//!
//! A step is a verb (see `verbs.rs`) or the name of a method, options, and the fields of the request in protobuf's text format, with
//! the abbreviations of `expand.rs`. A step whose line begins with `&` goes on in the background.

/// One scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// The name of its file.
    pub area: String,
    /// Its name, unique in the area.
    pub name: String,
    /// The dynamic configuration that the server runs with, beyond what all have.
    pub config: Vec<String>,
    /// Whether the time between events matters: then there is a line `timed`.
    pub timed: bool,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

impl Scenario {
    /// `area/name`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.area, self.name)
    }
}

/// One step of a scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The name that its result has in later steps and in what is recorded.
    pub label: Option<String>,
    /// Whether the next step does not wait for it.
    pub background: bool,
    /// A verb, or the name of a method.
    pub verb: String,
    /// What stands behind the verb without `=`.
    pub arguments: Vec<String>,
    /// What stands behind the verb as `key=value`.
    pub options: Vec<(String, String)>,
    /// Fields of the request.
    pub body: String,
}

impl Step {
    /// The value of an option.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// What the step is called in what is recorded.
    pub fn title(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.verb)
    }
}

/// The scenarios of a file.
///
/// # Errors
///
/// With the number of the line that is not understood.
pub fn parse(area: &str, text: &str) -> Result<Vec<Scenario>, String> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let wrong = |problem: &str| format!("{area}, line {}: {problem}", number + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            if scenarios.iter().any(|scenario| scenario.name == name) {
                return Err(wrong("there is a scenario of that name"));
            }
            let (area, name) = (area.to_owned(), name.to_owned());
            scenarios.push(Scenario { area, name, config: Vec::new(), timed: false, steps: Vec::new() });
            continue;
        }
        let scenario = scenarios.last_mut().ok_or_else(|| wrong("no scenario has begun"))?;
        if let Some(setting) = line.strip_prefix("config ") {
            scenario.config.push(setting.to_owned());
            continue;
        }
        if line == "timed" {
            scenario.timed = true;
            continue;
        }
        let mut whole = line.to_owned();
        while open_braces(&whole) > 0 {
            let (_, next) = lines.next().ok_or_else(|| wrong("a brace is not closed"))?;
            whole.push('\n');
            whole.push_str(next.trim());
        }
        scenario.steps.push(step(&whole).ok_or_else(|| wrong("not a step"))?);
    }
    Ok(scenarios)
}

/// Braces that are open at the end of `text`, those in strings aside.
fn open_braces(text: &str) -> i32 {
    let (mut open, mut quoted, mut escaped) = (0, false, false);
    for character in text.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '{' | '(' if !quoted => open += 1,
            '}' | ')' if !quoted => open -= 1,
            _ => {}
        }
    }
    open
}

fn step(text: &str) -> Option<Step> {
    let (head, body) = match text.find('{') {
        Some(at) => (&text[..at], text[at..].strip_prefix('{')?.trim_end().strip_suffix('}')?),
        None => (text, ""),
    };
    let mut step = Step { body: body.trim().to_owned(), ..Step::default() };
    let head = match head.strip_prefix('&') {
        Some(rest) => {
            step.background = true;
            rest
        }
        None => head,
    };
    let head = match head.split_once(" = ") {
        Some((label, rest)) => {
            step.label = Some(label.trim().to_owned());
            rest
        }
        None => head,
    };
    let mut words = head.split_whitespace();
    step.verb = words.next()?.to_owned();
    for word in words {
        match word.split_once('=') {
            Some((key, value)) => step.options.push((key.to_owned(), value.to_owned())),
            None => step.arguments.push(word.to_owned()),
        }
    }
    Some(step)
}

#[cfg(test)]
mod tests {
    use super::{Step, parse};

    #[test]
    fn a_file_has_scenarios_with_steps() {
        let text = "== one\n# why\nconfig a.b=1\n&late = poll 3 timeout=2s {\n  identity: \"{\"\n}\nhistory\n== two\n";
        let scenarios = parse("area", text).unwrap();
        assert_eq!(scenarios[0].path(), "area/one");
        assert_eq!(scenarios[0].config, ["a.b=1"]);
        let late = Step {
            label: Some("late".to_owned()),
            background: true,
            verb: "poll".to_owned(),
            arguments: vec!["3".to_owned()],
            options: vec![("timeout".to_owned(), "2s".to_owned())],
            body: "identity: \"{\"".to_owned(),
        };
        assert_eq!(scenarios[0].steps, [late, Step { verb: "history".to_owned(), ..Step::default() }]);
        assert!(scenarios[1].steps.is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        assert_eq!(parse("a", "\nstart").unwrap_err(), "a, line 2: no scenario has begun");
        assert_eq!(parse("a", "== b\nstart {\n").unwrap_err(), "a, line 2: a brace is not closed");
        assert_eq!(parse("a", "== b\n== b").unwrap_err(), "a, line 2: there is a scenario of that name");
    }
}
