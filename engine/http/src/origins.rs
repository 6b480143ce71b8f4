//! Requests that pages make in browsers. What a browser lets a page send anywhere must do no harm here, where nobody may have to prove who he
//! is: so pages of other origins change nothing, unless they are of one that was named. (CORS: <https://fetch.spec.whatwg.org/#http-cors-protocol>.)
//!
//! Who is no browser says nothing of an origin, and is answered whatever he sends.

use std::net::IpAddr;

use axum::body::Body;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderName,
    HeaderValue, ORIGIN, VARY,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a page of an origin that is allowed may use: all that there is.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, authorization-extras, client-name, client-version, content-type, grpc-timeout",
);
/// What it may read, besides what every page may.
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after");

/// How long a browser need not ask again, seconds.
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("600");

/// Whose pages may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origins {
    /// Those of these origins, as browsers write them: `https://ui.example.com`.
    allowed: Vec<HeaderValue>,
    /// Whether the server's own pages are those alone that call it as one calls one's own machine: nobody else reaches it, and any page can make a
    /// name of its own lead there.
    is_local: bool,
}

/// Whose page has sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// No page.
    NoBrowser,
    /// One that came from here.
    Own,
    /// One of an origin that is allowed.
    Allowed(HeaderValue),
    /// Another one.
    Foreign,
}

impl Origins {
    /// A text that no header can have is nobody's origin.
    pub(crate) fn new(origins: &[String], is_local: bool) -> Origins {
        Origins { allowed: origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect(), is_local }
    }

    /// Whose page has sent a request. (As Go's `net/http.CrossOriginProtection` finds it.)
    pub(crate) fn sender(&self, parts: &Parts) -> Sender {
        let headers = &parts.headers;
        let mut origins = headers.get_all(ORIGIN).iter();
        let (origin, is_one) = (origins.next(), origins.next().is_none());
        if let Some(allowed) = self.allowed.iter().find(|allowed| is_one && Some(*allowed) == origin) {
            return Sender::Allowed(allowed.clone());
        }
        match (headers.get(FETCH_SITE).map(HeaderValue::as_bytes), origin) {
            // No page can make its browser say so. "none": somebody has typed the address.
            (Some(b"same-origin" | b"none"), _) if self.is_own(host(parts)) => Sender::Own,
            (Some(_), _) => Sender::Foreign,
            (None, None) => Sender::NoBrowser,
            (None, Some(origin)) if is_one && is_of(origin, host(parts)) && self.is_own(host(parts)) => Sender::Own,
            (None, Some(_)) => Sender::Foreign,
        }
    }

    fn is_own(&self, host: &str) -> bool {
        !self.is_local || is_of_this_machine(host)
    }

    /// What a browser is told that asks, for a page, what it may send.
    pub(crate) fn preflight(parts: &Parts, sender: &Sender) -> Option<Response<Body>> {
        let asks = parts.method == Method::OPTIONS && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || !matches!(sender, Sender::Allowed(_)) {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
        Some(response)
    }

    /// Says on an answer whose pages may read it.
    pub(crate) fn mark(&self, response: &mut Response<Body>, sender: Sender) {
        if self.allowed.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        // Caches on the way are not to hand one origin's answer to another.
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Sender::Allowed(origin) = sender {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

impl Sender {
    /// Whether the request must not be answered: it changes something, and is for a page that is not allowed to.
    pub(crate) fn is_refused(&self, method: &Method) -> bool {
        *self == Sender::Foreign && !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
    }

    /// Whether it is a page.
    pub(crate) fn is_page(&self) -> bool {
        *self != Sender::NoBrowser
    }
}

/// The name by which the server is called.
pub(crate) fn host(parts: &Parts) -> &str {
    match parts.uri.authority() {
        // HTTP/2 has it there, and who calls by way of a proxy.
        Some(authority) => authority.as_str().rsplit('@').next().unwrap_or_default(),
        None => parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

/// Whether a host is one that whoever calls it finds on his own machine, or an address: those cannot be made to lead elsewhere.
fn is_of_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.to_ascii_lowercase();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    address.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

/// Whether pages of an origin are of this host.
fn is_of(origin: &HeaderValue, host: &str) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    origin.split_once("://").is_some_and(|(_, of)| !of.is_empty() && of.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn pages_are_known_by_what_their_browsers_say() {
        let allowed = "https://ui.example.com";
        let origins = Origins::new(&[allowed.to_owned()], false);
        let allowed = || Sender::Allowed(HeaderValue::from_static("https://ui.example.com"));
        let here = ("host", "here:7243");
        let cases = [
            (&[here][..], Sender::NoBrowser),
            (&[here, ("origin", "http://here:7243")], Sender::Own),
            (&[here, ("origin", "https://HERE:7243")], Sender::Own),
            (&[here, ("origin", "http://here")], Sender::Foreign),
            (&[here, ("origin", "http://here:7243.evil.example")], Sender::Foreign),
            (&[here, ("origin", "null")], Sender::Foreign),
            (&[here, ("origin", "")], Sender::Foreign),
            (&[("host", ""), ("origin", "http://")], Sender::Foreign),
            (&[here, ("origin", "http://here:7243"), ("origin", "http://here:7243")], Sender::Foreign),
            (&[here, ("origin", "https://ui.example.com")], allowed()),
            (&[here, ("origin", "https://ui.example.com"), ("sec-fetch-site", "cross-site")], allowed()),
            (&[here, ("origin", "https://ui.example.com.evil.example")], Sender::Foreign),
            (&[here, ("origin", "https://ui.example.com"), ("origin", "https://evil.example")], Sender::Foreign),
            (&[here, ("sec-fetch-site", "same-origin"), ("origin", "http://here:7243")], Sender::Own),
            (&[here, ("sec-fetch-site", "none")], Sender::Own),
            (&[here, ("sec-fetch-site", "same-site"), ("origin", "http://other.here:7243")], Sender::Foreign),
            (&[here, ("sec-fetch-site", "cross-site")], Sender::Foreign),
            (&[here, ("sec-fetch-site", "cross-site"), ("origin", "http://here:7243")], Sender::Foreign),
        ];
        for (headers, expected) in cases {
            assert_eq!(origins.sender(&parts("/cluster", headers)), expected, "{headers:?}");
        }
        // As HTTP/2 has it.
        let of_http_2 = parts("http://here:7243/cluster", &[("origin", "http://here:7243")]);
        assert_eq!(origins.sender(&of_http_2), Sender::Own);
        assert_eq!(host(&parts("http://me@here:7243/cluster", &[("host", "other")])), "here:7243");
    }

    #[test]
    fn a_name_that_leads_to_somebodys_own_machine_makes_no_page_its_own() {
        for (host, is_own) in [
            ("localhost:7243", true),
            ("Localhost", true),
            ("a.localhost:7243", true),
            ("127.0.0.1:7243", true),
            ("[::1]:7243", true),
            ("evil.example:7243", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:7243", false),
            ("", false),
        ] {
            let expected = if is_own { Sender::Own } else { Sender::Foreign };
            for page in [("sec-fetch-site", "same-origin".to_owned()), ("origin", format!("http://{host}"))] {
                let headers = [("host", host), (page.0, &page.1)];
                assert_eq!(Origins::new(&[], true).sender(&parts("/cluster", &headers)), expected, "{headers:?}");
            }
            assert_eq!(Origins::new(&[], true).sender(&parts("/cluster", &[("host", host)])), Sender::NoBrowser);
        }
    }

    #[test]
    fn who_only_reads_is_answered() {
        for (sender, method, expected) in [
            (Sender::Foreign, Method::POST, true),
            (Sender::Foreign, Method::DELETE, true),
            (Sender::Foreign, Method::PUT, true),
            (Sender::Foreign, Method::GET, false),
            (Sender::Own, Method::POST, false),
            (Sender::NoBrowser, Method::POST, false),
            (Sender::Allowed(HeaderValue::from_static("a")), Method::POST, false),
        ] {
            assert_eq!(sender.is_refused(&method), expected, "{sender:?} {method}");
        }
    }
}
