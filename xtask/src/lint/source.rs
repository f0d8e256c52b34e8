//! Rust source as lines of code, with what comments and strings hold taken out: good enough to count and to search.

/// A line: its code, with strings emptied, and its comment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) code: String,
    pub(super) comment: String,
}

/// What a line of code begins in.
enum State {
    Code,
    /// Nested block comments: how many are open.
    Block(u32),
    /// A string: `None` when escapes count, else the number of `#` that end a raw one.
    Text(Option<usize>),
}

/// Splits a file into lines of code and comment.
pub(super) fn lines(text: &str) -> Vec<Line> {
    let mut state = State::Code;
    text.lines().map(|line| split(line, &mut state)).collect()
}

fn split(line: &str, state: &mut State) -> Line {
    let mut out = Line::default();
    let mut rest = line;
    while !rest.is_empty() {
        rest = match state {
            State::Code => in_code(rest, state, &mut out),
            State::Block(depth) => {
                let depth = *depth;
                in_block(rest, depth, state, &mut out)
            }
            State::Text(hashes) => {
                let hashes = *hashes;
                in_text(rest, hashes, state)
            }
        };
    }
    out
}

/// Takes one token's worth of code and returns what follows.
fn in_code<'a>(rest: &'a str, state: &mut State, out: &mut Line) -> &'a str {
    if let Some(comment) = rest.strip_prefix("//") {
        out.comment.push_str(comment);
        return "";
    }
    if let Some(after) = rest.strip_prefix("/*") {
        *state = State::Block(1);
        return after;
    }
    if let Some(after) = rest.strip_prefix('"') {
        *state = State::Text(None);
        return after;
    }
    let in_word = out.code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    if let Some(raw) = rest
        .strip_prefix('r')
        .or_else(|| rest.strip_prefix("br"))
        .filter(|_| !in_word)
    {
        let opened = raw.trim_start_matches('#');
        if let Some(after) = opened.strip_prefix('"') {
            *state = State::Text(Some(raw.len() - opened.len()));
            return after;
        }
    }
    if let Some(after) = character(rest) {
        return after;
    }
    let mut chars = rest.chars();
    out.code.extend(chars.next());
    chars.as_str()
}

/// What follows a character literal; a lifetime is none.
fn character(rest: &str) -> Option<&str> {
    let body = rest.strip_prefix('\'')?;
    if let Some(escaped) = body.strip_prefix('\\') {
        let end = escaped.char_indices().skip(1).find(|(_, c)| *c == '\'')?.0;
        return Some(&escaped[end + 1..]);
    }
    let mut chars = body.chars();
    chars.next()?;
    chars.as_str().strip_prefix('\'')
}

fn in_block<'a>(rest: &'a str, depth: u32, state: &mut State, out: &mut Line) -> &'a str {
    if let Some(after) = rest.strip_prefix("*/") {
        *state = if depth == 1 {
            State::Code
        } else {
            State::Block(depth - 1)
        };
        return after;
    }
    if let Some(after) = rest.strip_prefix("/*") {
        *state = State::Block(depth + 1);
        return after;
    }
    let mut chars = rest.chars();
    out.comment.extend(chars.next());
    chars.as_str()
}

fn in_text<'a>(rest: &'a str, hashes: Option<usize>, state: &mut State) -> &'a str {
    let mut chars = rest.chars();
    match (chars.next(), hashes) {
        (Some('\\'), None) => {
            chars.next();
        }
        (Some('"'), None) => *state = State::Code,
        (Some('"'), Some(count)) => {
            let after = chars.as_str();
            if after.len() >= count && after.bytes().take(count).all(|byte| byte == b'#') {
                *state = State::Code;
                return &after[count..];
            }
        }
        _ => {}
    }
    chars.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Vec<String> {
        lines(text).into_iter().map(|line| line.code).collect()
    }

    #[test]
    fn strings_and_comments_are_not_code() {
        assert_eq!(code("let a = \"unsafe { \\\" }\"; // unsafe"), ["let a = ; "]);
        assert_eq!(code("let a = r#\"unsafe \" {\"#;"), ["let a = ;"]);
        assert_eq!(code("a /* unsafe\n/* x */ still */ b"), ["a ", " b"]);
    }

    #[test]
    fn braces_in_characters_are_not_code_and_lifetimes_are() {
        assert_eq!(
            code("match c { '{' => '\\'', _ => x::<'a>() }"),
            ["match c {  => , _ => x::<'a>() }"]
        );
    }

    #[test]
    fn comments_are_kept_apart() {
        assert_eq!(lines("x(); // SAFETY: why")[0].comment, " SAFETY: why");
    }
}
