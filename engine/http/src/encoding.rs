//! How answers are compressed, as far as their callers take it.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, HeaderValue};
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, SafeResult, get_error_name};

/// The level of zstd that takes least: what it would save besides is less than what that costs here. Its window is one that all clients have.
const ZSTD_LEVEL: i32 = 1;

/// How an answer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// The one that a caller likes best; of those that he likes as much zstd, which takes least time.
    pub(crate) fn of(headers: &HeaderMap) -> Encoding {
        let mut best = (Encoding::Identity, 0.0);
        let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        for (name, quality) in values.flat_map(|value| value.split(',')).map(named) {
            let encoding = match () {
                () if name.eq_ignore_ascii_case("zstd") => Encoding::Zstd,
                () if name.eq_ignore_ascii_case("gzip") => Encoding::Gzip,
                () => continue,
            };
            if quality > best.1 || quality > 0.0 && quality == best.1 && encoding == Encoding::Zstd {
                best = (encoding, quality);
            }
        }
        best.0
    }

    /// What `content-encoding` calls it.
    pub(crate) fn name(self) -> Option<HeaderValue> {
        match self {
            Encoding::Identity => None,
            Encoding::Gzip => Some(HeaderValue::from_static("gzip")),
            Encoding::Zstd => Some(HeaderValue::from_static("zstd")),
        }
    }

    /// All of an answer, compressed.
    pub(crate) fn encoded(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut encoder = Encoder::new(self)?;
        encoder.add(bytes, true)
    }
}

/// A name of the list, and how much its caller likes it.
fn named(text: &str) -> (&str, f64) {
    let (name, parameter) = text.split_once(';').unwrap_or((text, ""));
    let quality = parameter.trim().strip_prefix("q=").and_then(|quality| quality.trim().parse().ok());
    (name.trim(), quality.unwrap_or(1.0))
}

/// Compresses an answer piece by piece.
pub(crate) enum Encoder {
    Identity,
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(CCtx<'static>),
}

impl Encoder {
    pub(crate) fn new(encoding: Encoding) -> io::Result<Encoder> {
        Ok(match encoding {
            Encoding::Identity => Encoder::Identity,
            Encoding::Gzip => Encoder::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            Encoding::Zstd => {
                let mut context = CCtx::create();
                checked(context.set_parameter(CParameter::CompressionLevel(ZSTD_LEVEL)))?;
                Encoder::Zstd(context)
            }
        })
    }

    /// What the next piece is on its way, with all that is left if it is the last one.
    pub(crate) fn add(&mut self, bytes: &[u8], is_last: bool) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Identity => Ok(bytes.to_vec()),
            Encoder::Gzip(encoder) => {
                encoder.write_all(bytes)?;
                if is_last {
                    encoder.try_finish()?
                } else {
                    encoder.flush()?
                };
                Ok(std::mem::take(encoder.get_mut()))
            }
            Encoder::Zstd(context) => {
                let end = if is_last { ZSTD_EndDirective::ZSTD_e_end } else { ZSTD_EndDirective::ZSTD_e_flush };
                let (mut input, mut out) = (InBuffer::around(bytes), Vec::new());
                loop {
                    let begin = out.len();
                    out.reserve(CCtx::out_size());
                    let mut output = OutBuffer::around_pos(&mut out, begin);
                    let left = checked(context.compress_stream2(&mut output, &mut input, end))?;
                    if left == 0 && input.pos == bytes.len() {
                        return Ok(out);
                    }
                }
            }
        }
    }
}

fn checked(result: SafeResult) -> io::Result<usize> {
    result.map_err(|code| io::Error::other(get_error_name(code)))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_encoding_is_one_that_the_caller_takes() {
        let of = |value: &'static str| {
            Encoding::of(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        for value in
            ["gzip", "br, GZIP", "gzip;q=0.5, deflate", "deflate , gzip ; q=1", "zstd;q=0.5, gzip", "zstd;q=0, gzip"]
        {
            assert_eq!(of(value), Encoding::Gzip, "{value}");
        }
        for value in ["zstd", "gzip, deflate, br, zstd", "zstd, gzip", "gzip;q=0.5, zstd;q=0.6", "Zstd"] {
            assert_eq!(of(value), Encoding::Zstd, "{value}");
        }
        for value in ["", "br", "gzip;q=0", "gzip; q=0", "gzip; q=0.0", "gzip;q=0.000, zstd;q=0", "xgzip", "gzip;q=-1"]
        {
            assert_eq!(of(value), Encoding::Identity, "{value}");
        }
        assert_eq!(Encoding::of(&HeaderMap::new()), Encoding::Identity);
    }

    #[test]
    fn pieces_can_be_read_as_they_come() {
        let pieces: Vec<Vec<u8>> = (0..50_u8).map(|byte| [byte; 1000].to_vec()).collect();
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Zstd] {
            let mut encoder = Encoder::new(encoding).unwrap();
            let mut encoded = Vec::new();
            for (at, piece) in pieces.iter().enumerate() {
                let added = encoder.add(piece, at + 1 == pieces.len()).unwrap();
                assert!(!added.is_empty(), "{encoding:?}");
                encoded.extend(added);
            }
            let mut decoded = Vec::new();
            match encoding {
                Encoding::Identity => decoded = encoded.clone(),
                Encoding::Gzip => drop(flate2::read::GzDecoder::new(&encoded[..]).read_to_end(&mut decoded).unwrap()),
                Encoding::Zstd => {
                    decoded.reserve(100_000);
                    zstd_safe::decompress(&mut decoded, &encoded).unwrap();
                }
            }
            assert!(decoded == pieces.concat(), "{encoding:?}");
            assert!(
                encoding == Encoding::Identity || encoded.len() < decoded.len() / 10,
                "{encoding:?}: {}",
                encoded.len()
            );
            let whole = encoding.encoded(&pieces.concat()).unwrap();
            assert!(encoding == Encoding::Identity || whole.len() < decoded.len() / 10);
        }
    }
}
