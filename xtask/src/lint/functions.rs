//! The functions of a file and their lengths.

use super::source::Line;

/// A function: its name, the index of its first line, and how many lines it has from there to its closing brace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) start: usize,
    pub(super) lines: usize,
}

/// Every function with a body, inner ones too.
pub(super) fn functions(lines: &[Line]) -> Vec<Function> {
    let starts = lines
        .iter()
        .enumerate()
        .filter_map(|(index, line)| Some((index, name(&line.code)?)));
    starts
        .filter_map(|(start, name)| {
            let end = end_of_body(&lines[start..])?;
            Some(Function {
                name: name.to_owned(),
                start,
                lines: end + 1,
            })
        })
        .collect()
}

/// The name after `fn` when a line begins a function.
fn name(code: &str) -> Option<&str> {
    let (before, after) = code.split_once("fn ")?;
    if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let name = after.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    (!name.is_empty()).then_some(name)
}

/// The index of the line with the brace that closes the first one; `None` for a declaration, which ends before any.
fn end_of_body(lines: &[Line]) -> Option<usize> {
    let (mut braces, mut brackets) = (0usize, 0usize);
    for (index, line) in lines.iter().enumerate() {
        for c in line.code.chars() {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets = brackets.saturating_sub(1),
                ';' if braces == 0 && brackets == 0 => return None,
                '{' => braces += 1,
                '}' if braces <= 1 => return Some(index),
                '}' => braces -= 1,
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::source;

    #[test]
    fn functions_are_measured_from_their_name_to_their_brace() {
        let text =
            "trait T {\n    fn declared(a: [u8; 4]) -> u8;\n}\npub fn long(\n    a: [u8; 4],\n) {\n    {\n    }\n}\n";
        let found = functions(&source::lines(text));
        assert_eq!(
            found,
            [Function {
                name: "long".to_owned(),
                start: 3,
                lines: 6
            }]
        );
    }
}
