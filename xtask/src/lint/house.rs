//! Rules of this house that a program can see: sizes, where `unsafe` may be, and nothing unfinished.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::functions::functions;
use super::source::{self, Line};
use crate::{cmd, paths};

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 80;
/// Where `unsafe` is allowed: the kernel side, the thin kernel layer of the agent; and, of what is not shipped, the tests'
/// own kernel layer (raw bpf(2), a namespace for a thread) and where they start processes in other namespaces.
const UNSAFE_IN: &[&str] = &[
    "datapath-ebpf/",
    "agent/src/kernel/",
    "tests/src/kernel/",
    "tests/src/rig/process.rs",
];
/// How far above an `unsafe` its SAFETY comment may begin.
const SAFETY_LINES: usize = 12;

pub(super) fn check() -> Result<()> {
    // Tracked files and new ones that are not ignored.
    let list = ["ls-files", "--cached", "--others", "--exclude-standard", "--", "*.rs"];
    let files = cmd::output(std::process::Command::new("git").args(list).current_dir(paths::root()))?;
    let mut wrong = Vec::new();
    for file in files.lines().filter(|file| paths::root().join(file).is_file()) {
        let text = fs::read_to_string(paths::root().join(file)).with_context(|| format!("cannot read {file}"))?;
        wrong.extend(findings(Path::new(file), &text));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// What is wrong in one file, each as `file:line: what`.
fn findings(file: &Path, text: &str) -> Vec<String> {
    let file = file.display().to_string();
    let lines = source::lines(text);
    let mut wrong = Vec::new();
    if lines.len() > FILE_LINES {
        wrong.push(format!("{file}: {} lines, more than {FILE_LINES}", lines.len()));
    }
    for function in functions(&lines)
        .into_iter()
        .filter(|function| function.lines > FUNCTION_LINES)
    {
        let (line, name, length) = (function.start + 1, function.name, function.lines);
        wrong.push(format!(
            "{file}:{line}: fn {name} has {length} lines, more than {FUNCTION_LINES}"
        ));
    }
    for (index, line) in lines.iter().enumerate() {
        let at = |what: &str| format!("{file}:{}: {what}", index + 1);
        if is_unsafe(&line.code) {
            if !UNSAFE_IN.iter().any(|dir| file.starts_with(dir)) {
                wrong.push(at(&format!("unsafe outside {}", UNSAFE_IN.join(", "))));
            }
            if !has_reason(&lines[index.saturating_sub(SAFETY_LINES)..=index]) {
                wrong.push(at("unsafe without a SAFETY comment"));
            }
        }
        if is_unfinished(line) {
            wrong.push(at("unfinished"));
        }
        if line.code.contains("#[ignore") {
            wrong.push(at("an ignored test"));
        }
    }
    wrong
}

/// Whether code opens an unsafe block, or declares or implements something unsafe.
fn is_unsafe(code: &str) -> bool {
    let mut words = code
        .split(|c: char| c.is_whitespace() || c == '(')
        .skip_while(|word| *word != "unsafe");
    let opens = words.next().is_some();
    // An unsafe function pointer's type is no unsafe code: `unsafe fn(…)` without a name.
    opens
        && (code.trim_end().ends_with("unsafe")
            || matches!(words.next(), Some("{" | "fn" | "impl" | "extern" | "trait")))
}

/// Whether the last line, or a comment above it, says why it is safe.
fn has_reason(lines: &[Line]) -> bool {
    lines
        .iter()
        .any(|line| line.comment.contains("SAFETY:") || line.comment.contains("# Safety"))
}

fn is_unfinished(line: &Line) -> bool {
    let markers = ["TODO", "FIXME", "XXX", "HACK"];
    let comment = line.comment.trim_start_matches(['/', '!', ' ']);
    let macros = ["todo!(", "unimplemented!("];
    markers.iter().any(|marker| comment.starts_with(marker)) || macros.iter().any(|name| line.code.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> usize {
        findings(Path::new(file), text).len()
    }

    #[test]
    fn unsafe_has_its_places_and_its_reasons() {
        let bare = "fn f() {\n    unsafe { g() }\n}\n";
        let reasoned = "fn f() {\n    // SAFETY: g has no demands\n    unsafe { g() }\n}\n";
        assert_eq!(found("control/src/lib.rs", bare), 2);
        assert_eq!(found("control/src/lib.rs", reasoned), 1);
        assert_eq!(found("agent/src/kernel/sys.rs", bare), 1);
        assert_eq!(found("agent/src/kernel/sys.rs", reasoned), 0);
    }

    #[test]
    fn attributes_and_words_that_contain_unsafe_are_no_unsafe_code() {
        assert_eq!(
            found("control/src/lib.rs", "#![forbid(unsafe_code)]\nlet a = \"unsafe {\";\n"),
            0
        );
        assert_eq!(found("agent/src/lib.rs", "#[unsafe(no_mangle)]\n"), 0);
    }

    #[test]
    fn long_files_and_functions_are_found() {
        let body = "    x();\n".repeat(FUNCTION_LINES);
        assert_eq!(found("agent/src/lib.rs", &format!("fn f() {{\n{body}}}\n")), 1);
        assert_eq!(found("agent/src/lib.rs", &"\n".repeat(FILE_LINES + 1)), 1);
    }

    #[test]
    fn unfinished_code_and_ignored_tests_are_found() {
        assert_eq!(found("agent/src/lib.rs", "// TODO later\n"), 1);
        assert_eq!(found("agent/src/lib.rs", "fn f() { todo!() }\n"), 1);
        assert_eq!(found("agent/src/lib.rs", "#[ignore]\n"), 1);
        assert_eq!(found("agent/src/lib.rs", "// the word TODO inside a sentence\n"), 0);
    }
}
