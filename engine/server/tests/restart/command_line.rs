//! The command line, files and directories: what is wrong with them is said in one line.

use super::*;

#[tokio::test]
async fn an_interrupt_is_a_stop_too() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::dev(data.path()).await;
    // A connection that stays open holds nothing up.
    let _client = process.client().await;
    process.signal("INT");
    assert_eq!(process.ended().await.code(), Some(0));
}

/// Runs the binary, which refuses in one line.
fn refused(args: &[&str]) -> String {
    let (code, stdout, stderr) = run(args);
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}: {stderr}");
    assert!(stderr.starts_with("everlog: ") && stderr.ends_with('\n'), "{args:?}: {stderr:?}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    stderr.trim_end().to_owned()
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_refused_in_one_line() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let process = Process::dev(data.path()).await;
    let in_use = format!("everlog: data directory {path} is in use by another process");
    let args = [&["dev", "--data-dir", path], ANY_PORTS.as_slice()].concat();
    assert_eq!(refused(&args), in_use);
    // The first one did not notice.
    process.client().await.start_workflow_execution(start_request("w")).await.unwrap();
    process.stop().await;

    let format = data.path().join("FORMAT");
    let text = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, text.replace("format 3", "format 999")).unwrap();
    let other = format!("everlog: data directory {path} has format 999, but this version of everlog reads format 3");
    assert_eq!(refused(&args), other);
    std::fs::write(&format, "nonsense").unwrap();
    assert!(refused(&args).contains("is not the FORMAT file of an everlog data directory"));
    std::fs::write(&format, text).unwrap();
    Process::dev(data.path()).await.stop().await;

    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("letter.txt"), "dear").unwrap();
    let args = [&["dev", "--data-dir", other.path().to_str().unwrap()], ANY_PORTS.as_slice()].concat();
    assert!(refused(&args).contains("is not an everlog data directory, and not empty either"));
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1, "nothing was written into it");
}

#[test]
fn what_is_wrong_with_flags_and_files_is_said_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let unknown_key = file("unknown.toml", "[listen]\nprot = 1\n");
    let bad_value = file("bad.toml", "[listen]\nport = \"x\"\n");
    let bad_level = file("level.toml", "ephemeral = true\n[log]\nlevel = \"==\"\n");
    let missing = directory.path().join("missing.toml").to_str().unwrap().to_owned();
    let cases: &[(&[&str], &str)] = &[
        (&["dev", "--prot", "1"], "unexpected argument '--prot' found"),
        (&["dev", "--port", "70000"], "invalid value '70000' for '--port <PORT>'"),
        (&["dev", "--ephemeral", "--data-dir", "x"], "cannot be used with"),
        (&["dev", "--dynamic-config-value", "limit.maxIDLength=x"], "limit.maxIDLength: \"x\" is not a whole number"),
        (&["dev", "--ephemeral", "--log-level", "=="], "log"),
        (&["dev", "--ephemeral", "--log-level", "loud"], "log level \"loud\" is neither error, warn, info"),
        (&["dev", "--ephemeral", "--namespace", ""], "a namespace must have a name"),
        (&["nope"], "unrecognized subcommand 'nope'"),
        (&["server"], "--config <FILE>"),
        (&["server", "--config", &unknown_key], "unknown field `prot`"),
        (&["server", "--config", &bad_value], "line 2: "),
        (&["server", "--config", &bad_level], "log"),
        (&["server", "--config", &missing], "missing.toml"),
        (&["server", "--config", directory.path().to_str().unwrap()], directory.path().to_str().unwrap()),
        (&["completions", "nope"], "'nope'"),
    ];
    for (args, expected) in cases {
        let line = refused(args);
        println!("{line}");
        assert!(line.contains(expected), "{args:?}: {line}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_in_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let args = ["dev", "--ephemeral", "--port", &port, "--http-port", "0", "--metrics-port", "0"];
    let (code, stdout, stderr) = run(&args);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let line = stderr.lines().last().unwrap();
    assert!(line.starts_with(&format!("everlog: cannot listen on 127.0.0.1:{port} for gRPC: ")), "{stderr}");
}

#[tokio::test]
async fn nothing_stays_of_what_was_ephemeral() {
    let temporary = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = everlog();
        command.args(["dev", "--ephemeral"]).args(ANY_PORTS).env("TMPDIR", temporary.path());
        Process::start(command)
    };
    let left = || std::fs::read_dir(temporary.path()).unwrap().count();
    let process = start().await;
    assert_eq!(left(), 1);
    process.client().await.start_workflow_execution(start_request("w")).await.unwrap();
    process.stop().await;
    assert_eq!(left(), 0);
}

#[test]
fn the_binary_tells_about_itself() {
    let version = format!("everlog {}\n", env!("CARGO_PKG_VERSION"));
    for args in [["version"], ["--version"]] {
        assert_eq!(run(&args), (Some(0), version.clone(), String::new()));
    }
    for (args, expected) in [
        (["completions", "bash"].as_slice(), "_everlog()"),
        (&["completions", "zsh"], "#compdef everlog"),
        (&["completions", "fish"], "complete -c everlog"),
        (&["--help"], "Usage: everlog <COMMAND>"),
        (&["dev", "--help"], "--data-dir <DIR>"),
        (&["server", "--help"], "--config <FILE>"),
        (&[], "Usage: everlog <COMMAND>"),
    ] {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(stdout.contains(expected), "{args:?}: {stdout}");
    }
}

#[tokio::test]
async fn the_sample_configuration_works() {
    let directory = tempfile::tempdir().unwrap();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/everlog.toml");
    let sample = std::fs::read_to_string(sample).unwrap();
    let data = directory.path().join("data");
    let mut edited = sample.clone();
    for (from, to) in [
        ("\nport = 7233", "\nport = 0".to_owned()),
        ("\nhttp_port = 7243", "\nhttp_port = 0".to_owned()),
        ("\nmetrics_port = 9233", "\nmetrics_port = 0".to_owned()),
        ("\ndata_dir = \"./everlog-data\"", format!("\ndata_dir = \"{}\"", data.display())),
        ("\nnamespaces = []", "\nnamespaces = [\"orders\"]".to_owned()),
    ] {
        assert!(edited.contains(from), "{from}");
        edited = edited.replace(from, &to);
    }
    let config = directory.path().join("everlog.toml");
    std::fs::write(&config, edited).unwrap();
    let mut command = everlog();
    command.arg("server").arg("--config").arg(&config);
    let process = Process::start(command).await;
    assert!(process.line.starts_with("everlog server: grpc=127.0.0.1:"), "{}", process.line);
    let mut request = start_request("w");
    request.namespace = "orders".to_owned();
    process.client().await.start_workflow_execution(request).await.unwrap();
    assert!(process.get("http", "/health").await.starts_with("HTTP/1.1 200 OK"));
    let metrics = process.get("metrics", "/metrics").await;
    assert!(
        metrics.contains("\neverlog_requests_total{operation=\"StartWorkflowExecution\",code=\"OK\"} 1\n"),
        "{metrics}"
    );
    process.stop().await;
}
