//! The parts of the settings file about clients: what they are shown and have to show, and who may use the HTTP API in which way.

use std::path::PathBuf;

use everlog_config::{ClientCertificates, FrontendTls, HttpAccess};
use serde::Deserialize;

use super::SettingsError;

/// `[tls.frontend]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileFrontendTls {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_auth: Option<ClientAuth>,
}

/// What clients have to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ClientAuth {
    /// Nothing.
    None,
    /// A certificate, if they have one.
    Request,
    /// A certificate.
    Require,
}

/// `[http]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileHttp {
    cors_origins: Vec<String>,
    trusted_proxies: Vec<String>,
}

/// Checks what is written. The files are looked at when the node listens.
///
/// # Errors
///
/// One line that says what is wrong and what is allowed.
pub(super) fn tls(file: FileFrontendTls) -> Result<FrontendTls, SettingsError> {
    let FileFrontendTls { certificate, key, client_ca, client_auth } = file;
    let clients = match (client_ca, client_auth) {
        (Some(ca), Some(ClientAuth::Require) | None) => ClientCertificates::Required(ca),
        (Some(ca), Some(ClientAuth::Request)) => ClientCertificates::Requested(ca),
        (None, Some(ClientAuth::None) | None) => ClientCertificates::None,
        (Some(_), Some(ClientAuth::None)) => {
            let message =
                "tls.frontend.client_ca is for client_auth = \"request\" or \"require\": with \"none\" nobody is asked";
            return Err(SettingsError(message.to_owned()));
        }
        (None, Some(ClientAuth::Request | ClientAuth::Require)) => {
            let message = "tls.frontend.client_auth needs client_ca: the file with the authorities of clients";
            return Err(SettingsError(message.to_owned()));
        }
    };
    Ok(FrontendTls { certificate, key, clients })
}

/// Checks what is written.
///
/// # Errors
///
/// One line that says what is wrong and what is allowed.
pub(super) fn access(file: &FileHttp) -> Result<HttpAccess, SettingsError> {
    fn all<T: std::str::FromStr<Err = SettingsError>>(key: &str, texts: &[String]) -> Result<Vec<T>, SettingsError> {
        let wrong = |SettingsError(why)| SettingsError(format!("{key}: {why}"));
        texts.iter().map(|text| text.parse().map_err(wrong)).collect()
    }
    Ok(HttpAccess {
        origins: all("http.cors_origins", &file.cors_origins)?,
        proxies: all("http.trusted_proxies", &file.trusted_proxies)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn what_clients_show_is_read_as_it_is_written() {
        let read = |rest: &str| {
            let text = format!("[tls.frontend]\ncertificate = \"c\"\nkey = \"k\"\n{rest}");
            parse(&text, &[])
                .map(|settings| settings.listen.tls.map(|tls| tls.clients))
                .map_err(|error| error.to_string())
        };
        let ca = || PathBuf::from("ca");
        assert_eq!(parse("", &[]).unwrap().listen.tls, None);
        assert_eq!(read(""), Ok(Some(ClientCertificates::None)));
        assert_eq!(read("client_auth = \"none\""), Ok(Some(ClientCertificates::None)));
        assert_eq!(read("client_ca = \"ca\""), Ok(Some(ClientCertificates::Required(ca()))));
        assert_eq!(read("client_ca = \"ca\"\nclient_auth = \"require\""), Ok(Some(ClientCertificates::Required(ca()))));
        assert_eq!(
            read("client_ca = \"ca\"\nclient_auth = \"request\""),
            Ok(Some(ClientCertificates::Requested(ca())))
        );
        for (rest, expected) in [
            ("client_auth = \"require\"", "tls.frontend.client_auth needs client_ca"),
            ("client_auth = \"request\"", "tls.frontend.client_auth needs client_ca"),
            ("client_ca = \"ca\"\nclient_auth = \"none\"", "with \"none\" nobody is asked"),
            ("client_auth = \"maybe\"", "unknown variant `maybe`, expected one of `none`, `request`, `require`"),
            ("ca = \"ca\"", "unknown field `ca`, expected one of `certificate`, `key`, `client_ca`, `client_auth`"),
        ] {
            let error = read(rest).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{rest}: {error}");
        }
        let error = parse("[tls.frontend]\nkey = \"k\"", &[]).unwrap_err().to_string();
        assert!(error.contains("missing field `certificate`"), "{error}");
    }

    #[test]
    fn origins_and_proxies_are_named_one_by_one() {
        let settings = parse(
            "[http]\ncors_origins = [\"https://ui.example.com\"]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]",
            &[],
        );
        let access = settings.unwrap().listen.http;
        assert_eq!(
            access.origins.iter().map(everlog_config::Origin::as_str).collect::<Vec<_>>(),
            ["https://ui.example.com"]
        );
        assert!(access.is_proxy([10, 1, 2, 3].into()) && !access.is_proxy([11, 1, 2, 3].into()));
        assert_eq!(parse("", &[]).unwrap().listen.http, HttpAccess::default());
        for (text, expected) in [
            ("[http]\ncors_origins = [\"*\"]", "http.cors_origins: \"*\" is no origin"),
            ("[http]\ntrusted_proxies = [\"proxy\"]", "http.trusted_proxies: \"proxy\" is no network"),
            ("[http]\norigins = []", "line 2: unknown field `origins`, expected `cors_origins` or `trusted_proxies`"),
        ] {
            let error = parse(text, &[]).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
