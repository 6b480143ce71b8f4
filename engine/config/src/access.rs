//! Who may use the HTTP API in which way: pages of which origins, and proxies that are believed.

use std::net::IpAddr;
use std::str::FromStr;

use crate::SettingsError;

/// Who may use the HTTP API in which way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpAccess {
    /// Pages of these origins may call it.
    pub origins: Vec<Origin>,
    /// Proxies that are believed for whom they call.
    pub proxies: Vec<Network>,
}

impl HttpAccess {
    /// Whether what `peer` says of whom it calls for is believed.
    pub fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.has(peer))
    }
}

/// Where a page comes from, as browsers write it: `https://ui.example.com`, `http://localhost:3000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// As browsers write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Origin, SettingsError> {
        let wrong = |why: &str| {
            SettingsError(format!(
                "{text:?} {why}: write SCHEME://HOST or SCHEME://HOST:PORT, such as \"https://ui.example.com\""
            ))
        };
        if text.contains('*') {
            return Err(wrong("is no origin, every page of which is to be trusted"));
        }
        let (scheme, host) = text.split_once("://").ok_or_else(|| wrong("is no origin"))?;
        let default_port = match scheme {
            "https" => "443",
            "http" => "80",
            _ => return Err(wrong("is of a scheme that is neither http nor https")),
        };
        if host.contains(['/', '?', '#', '@']) {
            return Err(wrong("has more than an origin"));
        }
        // Behind the brackets, if it is an address of IPv6.
        let end = host.rfind(']').map_or(0, |bracket| bracket + 1);
        let (name, port) = match host[end..].find(':') {
            Some(colon) => (&host[..end + colon], Some(&host[end + colon + 1..])),
            None => (host, None),
        };
        let is_address =
            name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).map(str::parse::<std::net::Ipv6Addr>);
        let is_name =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if !is_address.map_or(is_name, |address| address.is_ok()) {
            return Err(wrong("names no host"));
        }
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(wrong("has capital letters, which no browser sends"));
        }
        match port {
            Some(port) if port == default_port => Err(wrong("names the port that browsers leave out")),
            Some(port) if port.parse::<u16>().map(|number| number.to_string()).as_deref() != Ok(port) => {
                Err(wrong("has no port behind its colon"))
            }
            _ => Ok(Origin(text.to_owned())),
        }
    }
}

/// Addresses: one, or all that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// Whether an address is one of these.
    pub fn has(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Network, SettingsError> {
        let wrong = |why: &str| {
            SettingsError(format!(
                "{text:?} {why}: write an address or a network, such as \"10.0.0.7\" or \"10.0.0.0/8\""
            ))
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong("is no network"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits.map(str::parse::<u32>) {
            None => most,
            Some(Ok(bits)) if bits <= most => bits,
            Some(_) => return Err(wrong(&format!("has no number of bits from 0 to {most} behind its slash"))),
        };
        let network = Network { address, bits };
        let first = match address {
            IpAddr::V4(address) => {
                IpAddr::V4((address.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into())
            }
            IpAddr::V6(address) => {
                IpAddr::V6((address.to_bits() & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into())
            }
        };
        // A slip, most often.
        if first != address {
            Err(wrong(&format!("has bits behind those that count, {first}/{bits} has not")))
        } else {
            Ok(network)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_those_that_browsers_send() {
        for text in ["https://ui.example.com", "http://localhost:3000", "https://10.0.0.1:8443", "http://[::1]:8044"] {
            assert_eq!(text.parse::<Origin>().unwrap().as_str(), text);
        }
        for (text, expected) in [
            ("*", "\"*\" is no origin, every page of which is to be trusted"),
            ("https://*.example.com", "is no origin, every page"),
            ("null", "is no origin: write SCHEME://HOST"),
            ("ui.example.com", "is no origin"),
            ("file://", "neither http nor https"),
            ("https://", "names no host"),
            ("https://[::g]", "names no host"),
            ("https://ui.example.com/", "has more than an origin"),
            ("https://user@ui.example.com", "has more than an origin"),
            ("https://UI.example.com", "has capital letters"),
            ("HTTPS://ui.example.com", "neither http nor https"),
            ("https://ui.example.com:443", "names the port that browsers leave out"),
            ("http://ui.example.com:80", "names the port that browsers leave out"),
            ("http://ui.example.com:080", "has no port behind its colon"),
            ("http://ui.example.com:", "has no port behind its colon"),
            ("http://ui.example.com:70000", "has no port behind its colon"),
            ("https://ui.example.com\r\nx: y", "names no host"),
        ] {
            let error = text.parse::<Origin>().unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn networks_are_addresses_with_the_same_bits_in_front() {
        let has = |network: &str, address: &str| network.parse::<Network>().unwrap().has(address.parse().unwrap());
        assert!(has("10.0.0.0/8", "10.255.0.1") && !has("10.0.0.0/8", "11.0.0.1"));
        assert!(has("10.0.0.7", "10.0.0.7") && !has("10.0.0.7", "10.0.0.6"));
        assert!(has("10.0.0.0/8", "::ffff:10.0.0.1"), "a listener of both kinds names those of IPv4 so");
        assert!(has("0.0.0.0/0", "203.0.113.1") && !has("0.0.0.0/0", "2001:db8::1"));
        assert!(has("2001:db8::/32", "2001:db8:ffff::1") && !has("2001:db8::/32", "2001:db9::1"));
        assert!(has("::/0", "2001:db8::1") && has("::1", "::1") && !has("::1", "::2"));
        for (text, expected) in [
            ("", "is no network"),
            ("proxy.example.com", "is no network"),
            ("10.0.0.0/33", "has no number of bits from 0 to 32"),
            ("10.0.0.0/-1", "has no number of bits from 0 to 32"),
            ("10.0.0.0/", "has no number of bits"),
            ("10.0.0.1/8", "has bits behind those that count, 10.0.0.0/8 has not"),
            ("2001:db8::1/32", "2001:db8::/32 has not"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
