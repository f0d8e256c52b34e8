//! Interface name patterns.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// A pattern for interface names: `*` stands for any characters, `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Whether the whole name matches.
    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }
}

/// Greedy matching with one point to return to: the last star. Linear for names of 15 bytes.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl FromStr for Glob {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let table = [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("veth*", "veth1234", true),
            ("veth*", "veth", true),
            ("veth*", "aveth", false),
            ("*.1", "flannel.1", true),
            ("*.1", "flannel.11", false),
            ("e?h*0", "eth00", true),
            ("e?h*0", "eh0", false),
            ("*", "", true),
            ("", "", true),
            ("?", "", false),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(Glob(pattern.to_owned()).matches(name), expected, "{pattern} on {name}");
        }
    }
}
