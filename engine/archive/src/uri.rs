//! Where a namespace is archived to, as its URI says it.

use percent_encoding::percent_decode_str;

use super::{ArchiveError, FileOptions};

/// What a URI names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ArchiveUri {
    /// A directory, by its absolute path.
    File(String),
    /// Objects of a bucket whose names begin with a path, which may be empty.
    S3 {
        /// The bucket.
        bucket: String,
        /// Without a slash at either end.
        path: String,
    },
}

/// Schemes that Temporal's servers know and this one has no store for.
const OTHERS: [&str; 1] = ["gs"];

impl ArchiveUri {
    /// Reads a URI. Texts are those of Temporal's servers and of the library that they read URIs with.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Uri`] if it is none, or names nothing that there is a store for.
    pub(crate) fn parse(text: &str) -> Result<ArchiveUri, ArchiveError> {
        let wrong = |why: &str| Err(ArchiveError::Uri(why.to_owned()));
        let Parts { scheme, host, path } = Parts::of(text).map_err(|why| {
            let quoted = format!("{text:?}");
            ArchiveError::Uri(format!("parse {quoted}: {why}"))
        })?;
        match scheme.as_str() {
            "file" if path.is_empty() => wrong("directory path is empty"),
            "file" => Ok(ArchiveUri::File(path)),
            "s3" if host.is_empty() => wrong("no bucket specified"),
            "s3" => Ok(ArchiveUri::S3 { bucket: host, path: path.trim_matches('/').to_owned() }),
            scheme if OTHERS.contains(&scheme) => wrong("unable to find archiver config for the given scheme"),
            _ => wrong("unknown archiver scheme"),
        }
    }
}

/// Whether a directory is where files may be.
pub(crate) fn check_root(path: &str, options: &FileOptions) -> Result<(), ArchiveError> {
    let outside = || ArchiveError::Uri("the URI is not in the directory that this server archives to".to_owned());
    if path.split('/').any(|part| part == "..") {
        return Err(outside());
    }
    let Some(root) = &options.root else { return Ok(()) };
    let inside = std::path::Path::new(path).starts_with(root);
    inside.then_some(()).ok_or_else(outside)
}

struct Parts {
    scheme: String,
    host: String,
    path: String,
}

impl Parts {
    fn of(text: &str) -> Result<Parts, String> {
        if text.chars().any(|character| character.is_ascii_control()) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        let (scheme, rest) = split_scheme(text)?;
        let rest = rest.split('?').next().unwrap_or_default();
        if !rest.starts_with('/') {
            // With a scheme it is taken for something that is no path.
            return if scheme.is_empty() {
                Err("invalid URI for request".to_owned())
            } else {
                Ok(Parts { scheme: scheme.to_ascii_lowercase(), host: String::new(), path: String::new() })
            };
        }
        let (authority, path) = match rest.strip_prefix("//") {
            Some(behind) => behind.split_at(behind.find('/').unwrap_or(behind.len())),
            None => ("", rest),
        };
        let host = authority.rsplit('@').next().unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default();
        Ok(Parts { scheme: scheme.to_ascii_lowercase(), host: host.to_owned(), path: decoded(path)? })
    }
}

/// The scheme, if there is one, and what is behind it.
fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (place, character) in text.char_indices() {
        match character {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if place > 0 => {}
            ':' if place == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..place], &text[place + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn decoded(path: &str) -> Result<String, String> {
    let bytes = path.as_bytes();
    for (place, _) in path.match_indices('%') {
        let is_escape = bytes.get(place + 1..place + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
        if !is_escape {
            let shown: String = path[place..].chars().take(3).collect();
            return Err(format!("invalid URL escape {shown:?}"));
        }
    }
    let text = percent_decode_str(path).decode_utf8();
    text.map(|text| text.into_owned()).map_err(|_| "invalid URI for request".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ArchiveUri, String> {
        ArchiveUri::parse(text).map_err(|error| error.to_string())
    }

    #[test]
    fn uris_name_directories_and_buckets() {
        let file = |path: &str| Ok(ArchiveUri::File(path.to_owned()));
        let s3 = |bucket: &str, path: &str| Ok(ArchiveUri::S3 { bucket: bucket.to_owned(), path: path.to_owned() });
        for (text, expected) in [
            ("file:///var/archive", file("/var/archive")),
            ("FILE:///var/a%20b", file("/var/a b")),
            ("file:/var", file("/var")),
            ("file://host/var", file("/var")),
            ("s3://bucket", s3("bucket", "")),
            ("s3://bucket/", s3("bucket", "")),
            ("s3://bucket/a/b/", s3("bucket", "a/b")),
            ("s3://user:word@bucket:80/a?b=c", s3("bucket", "a")),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused_in_temporals_words() {
        for (text, expected) in [
            ("", "parse \"\": empty url"),
            (":", "parse \":\": missing protocol scheme"),
            ("archive", "parse \"archive\": invalid URI for request"),
            ("1a://b", "parse \"1a://b\": invalid URI for request"),
            ("file:///%zz", "parse \"file:///%zz\": invalid URL escape \"%zz\""),
            ("file:///a\n", "parse \"file:///a\\n\": net/url: invalid control character in URL"),
            ("file://", "directory path is empty"),
            ("file:a", "directory path is empty"),
            ("s3://", "no bucket specified"),
            ("s3:///path", "no bucket specified"),
            ("gs://bucket", "unable to find archiver config for the given scheme"),
            ("nothing://a", "unknown archiver scheme"),
            ("/a", "unknown archiver scheme"),
        ] {
            assert_eq!(read(text), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn files_stay_below_their_root() {
        let below = FileOptions { root: Some("/archive".to_owned()) };
        let anywhere = FileOptions::default();
        for (path, is_below) in [("/archive", true), ("/archive/a", true), ("/archives", false), ("/", false)] {
            assert_eq!(check_root(path, &below).is_ok(), is_below, "{path}");
            assert_eq!(check_root(path, &anywhere), Ok(()), "{path}");
        }
        for options in [below, anywhere] {
            assert!(check_root("/archive/../etc", &options).is_err());
        }
    }
}
