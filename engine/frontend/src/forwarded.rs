//! For whom a proxy calls: `x-forwarded-for`, as far as it can be believed.

use std::net::IpAddr;

use everlog_config::HttpAccess;
use http::{HeaderMap, HeaderName, HeaderValue};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A proxy adds one address to those that it was told. More are of no use to anybody.
const ADDRESSES_MAX: usize = 32;

/// Makes `x-forwarded-for` say who has called: the address of `peer`, behind those for whom it says that it calls if it is a proxy that is
/// believed. What stands before an address that is no such proxy's is that one's word, and goes.
pub(super) fn correct(headers: &mut HeaderMap, peer: IpAddr, access: &HttpAccess) {
    let mut addresses = vec![peer.to_canonical()];
    let said = headers.get_all(FORWARDED_FOR);
    let said: Vec<_> = said.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect();
    for text in said.into_iter().rev().take(ADDRESSES_MAX - 1) {
        if !addresses.last().is_some_and(|last| access.is_proxy(*last)) {
            break;
        }
        let Some(address) = address(text) else { break };
        addresses.push(address);
    }
    let texts: Vec<_> = addresses.iter().rev().map(IpAddr::to_string).collect();
    // Addresses are texts that headers can have.
    if let Ok(value) = HeaderValue::from_str(&texts.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// `10.0.0.1`, `2001:db8::1`, and what some proxies write: `10.0.0.1:80`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let socket = || text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse().ok().or_else(socket).or_else(bracketed).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corrected(said: &[&str], peer: &str) -> String {
        let access = HttpAccess {
            proxies: vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
            ..HttpAccess::default()
        };
        let mut headers = HeaderMap::new();
        for value in said {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
        }
        correct(&mut headers, peer.parse().unwrap(), &access);
        assert_eq!(headers.get_all(FORWARDED_FOR).iter().count(), 1);
        headers[FORWARDED_FOR].to_str().unwrap().to_owned()
    }

    #[test]
    fn only_proxies_are_believed() {
        for (said, peer, expected) in [
            (&[][..], "203.0.113.1", "203.0.113.1"),
            (&["198.51.100.1"], "203.0.113.1", "203.0.113.1"),
            (&["198.51.100.1"], "10.0.0.1", "198.51.100.1, 10.0.0.1"),
            (&["198.51.100.1"], "::ffff:10.0.0.1", "198.51.100.1, 10.0.0.1"),
            (&["192.0.2.9, 198.51.100.1"], "10.0.0.1", "198.51.100.1, 10.0.0.1"),
            (&["198.51.100.1, 10.0.0.2"], "10.0.0.1", "198.51.100.1, 10.0.0.2, 10.0.0.1"),
            (&["192.0.2.9", "198.51.100.1", "10.0.0.2"], "::1", "198.51.100.1, 10.0.0.2, ::1"),
            (&["198.51.100.1, unknown"], "10.0.0.1", "10.0.0.1"),
            (&["198.51.100.1:4711, [2001:db8::1]:80"], "10.0.0.1", "2001:db8::1, 10.0.0.1"),
            (&[", ,"], "10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(corrected(said, peer), expected, "{said:?} from {peer}");
        }
        let many = vec!["10.0.0.2"; 10_000].join(",");
        assert_eq!(corrected(&[&many], "10.0.0.1").split(", ").count(), ADDRESSES_MAX);
    }
}
