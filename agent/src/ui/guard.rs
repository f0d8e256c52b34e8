//! Who is answered. The page has no password: it is for those who reach the address, and not for the pages of others that their
//! browsers have open.

use crate::http::{Answer, Question};
use http::Method;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Nothing but this program's own files; no script or style inside the document; no frame around it, no form.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// Of every answer.
pub(super) fn headers() -> [(&'static str, String); 4] {
    [
        ("Content-Security-Policy", POLICY),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
}

/// Why a question is not answered.
pub(super) fn refuse(question: &Question<'_>) -> Option<Answer> {
    let refused = |status, why: &str| Answer {
        status,
        ..Answer::text(format!("{why}\n"))
    };
    if !matches!(*question.method, Method::GET | Method::HEAD) {
        return Some(Answer {
            headers: vec![("Allow", "GET, HEAD".to_owned())],
            ..refused(405, "the page can be read, and nothing else: GET and HEAD")
        });
    }
    if !names_an_address(question.header("host")) {
        // A name of somebody else's that leads here would make their page of the same origin as this one (DNS rebinding).
        return Some(refused(
            421,
            "ask by an address, such as 127.0.0.1 or [::1], or by localhost: other names are not answered",
        ));
    }
    // Browsers say whose page asks; other clients do not. A link to the page itself may be anywhere.
    let whose = question.header("sec-fetch-site");
    if question.path.starts_with("/api/") && !matches!(whose, "" | "same-origin" | "none") {
        return Some(refused(403, "only the page itself is answered, and no other one"));
    }
    None
}

/// Whether the header `Host` is an address or localhost, with or without a port.
fn names_an_address(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let port_is_well = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return port_is_well && address.parse::<Ipv6Addr>().is_ok();
    }
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    is_port(port) && (name.parse::<Ipv4Addr>().is_ok() || name.eq_ignore_ascii_case("localhost"))
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_localhost() {
        for good in [
            "127.0.0.1",
            "127.0.0.1:10261",
            "localhost:8080",
            "LOCALHOST",
            "[::1]",
            "[::1]:10261",
            "192.0.2.7:80",
        ] {
            assert!(names_an_address(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:10261",
            "127.0.0.1.evil.example",
            "localhost.evil.example:80",
            "[::1",
            "[::1]evil",
            "::1",
            "127.0.0.1:x",
            "127.0.0.1:1:2",
            "user@127.0.0.1",
        ] {
            assert!(!names_an_address(bad), "{bad}");
        }
    }
}
