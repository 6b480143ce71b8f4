//! The part of the settings file about the archive.

use everlog_archive::{ArchiveOptions, FileOptions, PartOptions, S3Options};
use serde::Deserialize;

use super::SettingsError;

/// Its form.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileArchival {
    history: FilePart,
    visibility: FilePart,
    file: Option<FileFiles>,
    s3: Option<FileS3>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FilePart {
    enabled: bool,
    read: bool,
    default_enabled: bool,
    default_uri: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileFiles {
    root: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileS3 {
    endpoint: Option<String>,
    region: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    path_style: bool,
}

/// The region that is meant where none is named.
const DEFAULT_REGION: &str = "us-east-1";

/// Reads it.
///
/// # Errors
///
/// One line that says what is wrong.
pub(super) fn read(file: FileArchival) -> Result<ArchiveOptions, SettingsError> {
    let options = ArchiveOptions {
        history: part("history", file.history)?,
        visibility: part("visibility", file.visibility)?,
        file: file.file.map(files).transpose()?,
        s3: file.s3.map(s3).transpose()?,
    };
    for (name, part) in [("history", &options.history), ("visibility", &options.visibility)] {
        if part.is_enabled {
            let wrong = |error| SettingsError(format!("archival.{name}.default_uri: {error}"));
            options.check_uri(&part.default_uri).map_err(wrong)?;
        }
    }
    Ok(options)
}

fn part(name: &str, part: FilePart) -> Result<PartOptions, SettingsError> {
    let FilePart { enabled, read, default_enabled, default_uri } = part;
    let error = |what: &str| Err(SettingsError(format!("archival.{name}.{what}")));
    match (enabled, read || default_enabled, default_uri.is_empty()) {
        (false, true, _) => error("enabled must be true for read or default_enabled"),
        (true, _, true) => error("default_uri must say where a namespace is archived that does not say where"),
        _ => Ok(PartOptions { is_enabled: enabled, is_read: read, is_default: default_enabled, default_uri }),
    }
}

fn files(file: FileFiles) -> Result<FileOptions, SettingsError> {
    match file.root {
        Some(root) if !root.starts_with('/') => {
            Err(SettingsError(format!("archival.file.root: {root:?} is no absolute path")))
        }
        root => Ok(FileOptions { root }),
    }
}

fn s3(file: FileS3) -> Result<S3Options, SettingsError> {
    let needed = |key: &str, value: Option<String>| {
        value.ok_or_else(|| SettingsError(format!("archival.s3 needs {key}: what is archived is somebody's")))
    };
    if let Some(endpoint) = &file.endpoint
        && !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme))
    {
        return Err(SettingsError(format!("archival.s3.endpoint: {endpoint:?} is no http:// or https:// URL")));
    }
    Ok(S3Options {
        endpoint: file.endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
        region: file.region.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
        access_key_id: needed("access_key_id", file.access_key_id)?,
        secret_access_key: needed("secret_access_key", file.secret_access_key)?,
        path_style: file.path_style,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, parse};
    use super::*;

    const FULL: &str = r#"
        [archival.history]
        enabled = true
        read = true
        default_enabled = true
        default_uri = "file:///archive/histories"
        [archival.visibility]
        enabled = true
        default_uri = "s3://runs/lists"
        [archival.file]
        root = "/archive"
        [archival.s3]
        endpoint = "https://s3.example.com/"
        region = "eu-central-1"
        access_key_id = "id"
        path_style = true
    "#;

    #[test]
    fn an_archive_is_read_as_it_is_written() {
        let variables = [("EVERLOG__ARCHIVAL__S3__SECRET_ACCESS_KEY".to_owned(), "secret".to_owned())];
        let expected = ArchiveOptions {
            history: PartOptions {
                is_enabled: true,
                is_read: true,
                is_default: true,
                default_uri: "file:///archive/histories".to_owned(),
            },
            visibility: PartOptions {
                is_enabled: true,
                is_read: false,
                is_default: false,
                default_uri: "s3://runs/lists".to_owned(),
            },
            file: Some(FileOptions { root: Some("/archive".to_owned()) }),
            s3: Some(S3Options {
                endpoint: Some("https://s3.example.com".to_owned()),
                region: "eu-central-1".to_owned(),
                access_key_id: "id".to_owned(),
                secret_access_key: "secret".to_owned(),
                path_style: true,
            }),
        };
        assert_eq!(parse(FULL, &variables).unwrap().archive, expected);
        assert_eq!(Settings::default().archive, ArchiveOptions::default());
    }

    #[test]
    fn an_archive_that_cannot_be_is_refused() {
        for (text, expected) in [
            (FULL, "archival.s3 needs secret_access_key: what is archived is somebody's"),
            ("[archival.history]\nread = true", "archival.history.enabled must be true for read or default_enabled"),
            (
                "[archival.visibility]\nenabled = true",
                "archival.visibility.default_uri must say where a namespace is archived that does not say where",
            ),
            (
                "[archival.history]\nenabled = true\ndefault_uri = \"file:///a\"",
                "archival.history.default_uri: unable to find archiver config for the given scheme",
            ),
            (
                "[archival.history]\nenabled = true\ndefault_uri = \"b\"\n[archival.file]",
                "archival.history.default_uri: parse \"b\": invalid URI for request",
            ),
            ("[archival.file]\nroot = \"a\"", "archival.file.root: \"a\" is no absolute path"),
            (
                "[archival.s3]\nendpoint = \"localhost:9000\"",
                "archival.s3.endpoint: \"localhost:9000\" is no http:// or https:// URL",
            ),
            (
                "[archival]\nstate = 1",
                "line 2: unknown field `state`, expected one of `history`, `visibility`, `file`, `s3`",
            ),
        ] {
            assert_eq!(parse(text, &[]).unwrap_err().to_string(), expected, "{text}");
        }
    }
}
