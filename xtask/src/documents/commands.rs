//! Commands in the documents: the fenced blocks that say `sh` or `console`.
//!
//! What cannot be tried stands below a comment that says why: `<!-- not run: REASON -->`.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::{Page, line_of};

const LANGUAGES: &[&str] = &["sh", "console", "bash"];
const MARK: &str = "<!-- not run:";

/// A block of commands.
pub struct Block {
    pub page: String,
    pub line: usize,
    pub commands: Vec<Command>,
    /// Why not everything in it can be tried.
    pub not_run: Option<String>,
}

/// One command of a block.
#[derive(PartialEq, Eq, Debug)]
pub enum Command {
    /// `cargo xtask ...`: the words after that.
    Xtask(Vec<String>),
    /// `ferrogate ...`, here, in a pod, or by its kubectl plugin: the words after that.
    Ferrogate(Vec<String>),
    /// kubectl or helm with files of this repository, from its root.
    Files(Vec<String>),
    /// Anything else, as it is written.
    Other(String),
}

/// The blocks of a page, in order.
pub fn blocks(page: &Page) -> Vec<Block> {
    let mut found = Vec::new();
    let mut not_run = None;
    let mut open: Option<(usize, bool, String)> = None;
    for (event, range) in Parser::new_ext(&page.text, Options::ENABLE_TABLES).into_offset_iter() {
        match event {
            Event::Html(html) => not_run = reason(&html).or(not_run),
            Event::Start(Tag::HtmlBlock) | Event::End(TagEnd::HtmlBlock) => {}
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) if LANGUAGES.contains(&&*info) => {
                open = Some((line_of(&page.text, range.start), &*info == "console", String::new()));
            }
            Event::Text(text) if open.is_some() => {
                if let Some((_, _, block)) = &mut open {
                    block.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => {
                if let Some((line, console, text)) = open.take() {
                    found.push(Block {
                        page: page.path.clone(),
                        line,
                        commands: commands(&text, console),
                        not_run: not_run.take(),
                    });
                }
            }
            _ => not_run = None,
        }
    }
    found
}

fn reason(html: &str) -> Option<String> {
    let (reason, _) = html.trim().strip_prefix(MARK)?.split_once("-->")?;
    Some(reason.trim().to_owned())
}

/// The commands of a block; on a console, those behind a prompt.
fn commands(text: &str, console: bool) -> Vec<Command> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim);
    let lines = lines.filter_map(|line| match console {
        true => line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")),
        false => Some(line),
    });
    lines.flat_map(simple_commands).collect()
}

/// A line's commands, apart: of `a | b && c` three.
fn simple_commands(line: &str) -> Vec<Command> {
    let Some(words) = shlex::split(line) else {
        return vec![Command::Other(line.to_owned())];
    };
    let mut found = Vec::new();
    for words in words.split(|word| matches!(word.as_str(), "|" | "||" | "&&" | ";" | "&")) {
        let mut kept = Vec::new();
        let mut redirected = false;
        for word in words {
            // `2>/dev/null`, `> FILE`; a name in angle brackets is a place for something.
            let place = word.starts_with('<') && word.ends_with('>');
            let redirection = !place && word.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('>');
            if !redirected && !redirection {
                kept.push(word.clone());
            }
            redirected = redirection && word.ends_with('>');
        }
        if !kept.is_empty() {
            found.push(command(&kept));
        }
    }
    found
}

fn command(words: &[String]) -> Command {
    let mut rest = words;
    // sudo with its options, and variables, change nothing of what is called.
    while let [first, after @ ..] = rest {
        let option_of_sudo = first.starts_with('-');
        if first != "sudo" && first != "env" && !option_of_sudo && !is_assignment(first) {
            break;
        }
        rest = after;
    }
    let shown = || Command::Other(words.join(" "));
    let Some((program, arguments)) = rest.split_first() else {
        return shown();
    };
    match program.rsplit('/').next().unwrap_or(program) {
        "cargo" if arguments.first().is_some_and(|word| word == "xtask") => Command::Xtask(arguments[1..].to_vec()),
        "ferrogate" => Command::Ferrogate(arguments.to_vec()),
        "kubectl" => kubectl(arguments).unwrap_or_else(shown),
        "helm" => files(arguments.iter().filter(|word| word.starts_with("deploy/"))).unwrap_or_else(shown),
        _ => shown(),
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    })
}

fn kubectl(arguments: &[String]) -> Option<Command> {
    // kubectl exec POD -- ferrogate ...
    let inside = arguments.iter().position(|word| word == "--");
    if let Some([program, rest @ ..]) = inside.map(|at| &arguments[at + 1..]) {
        return (program == "ferrogate").then(|| Command::Ferrogate(rest.to_vec()));
    }
    if let Some(at) = arguments.iter().position(|word| word == "ferrogate") {
        let mut rest = &arguments[at + 1..];
        loop {
            match rest {
                [word, after @ ..] if word == "--all-nodes" => rest = after,
                [word, _, after @ ..] if word == "--node" => rest = after,
                _ => return Some(Command::Ferrogate(rest.to_vec())),
            }
        }
    }
    let named = arguments.windows(2).filter(|pair| pair[0] == "-f").map(|pair| &pair[1]);
    files(named)
}

fn files<'a>(named: impl Iterator<Item = &'a String>) -> Option<Command> {
    let named: Vec<String> = named.cloned().collect();
    (!named.is_empty()).then_some(Command::Files(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_command_is_known_through_sudo_kubectl_and_pipes() {
        let ferrogate = |line: &str| vec![Command::Ferrogate(words(line))];
        for (line, expected) in [
            ("ferrogate status   # what it does", ferrogate("status")),
            (
                "sudo -E target/debug/ferrogate flows --limit 20",
                ferrogate("flows --limit 20"),
            ),
            ("FERROGATE_RUN_DIR=/run/x ferrogate top", ferrogate("top")),
            (
                "kubectl -n kube-system exec POD -- ferrogate doctor",
                ferrogate("doctor"),
            ),
            (
                "kubectl ferrogate --node NODE trace --for 30s",
                ferrogate("trace --for 30s"),
            ),
            ("kubectl ferrogate --all-nodes doctor", ferrogate("doctor")),
            ("ferrogate metrics 2>/dev/null > FILE", ferrogate("metrics")),
            ("cargo xtask run --once", vec![Command::Xtask(words("run --once"))]),
            ("kubectl apply -f deploy/", vec![Command::Files(words("deploy/"))]),
            (
                "helm lint deploy/helm/ferrogate",
                vec![Command::Files(words("deploy/helm/ferrogate"))],
            ),
            (
                "kubectl get nodes",
                vec![Command::Other("kubectl get nodes".to_owned())],
            ),
            ("# a comment", vec![]),
        ] {
            assert_eq!(simple_commands(line), expected, "{line}");
        }
        let two = simple_commands("ferrogate metrics | grep 'a b' && ferrogate diff");
        assert_eq!(two.len(), 3, "{two:?}");
    }

    #[test]
    fn blocks_are_found_with_their_lines_languages_and_reasons() {
        let text = "# A\n\n```sh\nferrogate explain \\\n  a/b\n```\n\n<!-- not run: no cluster -->\n```sh\nkubectl get x\n```\n\n\
                    1. item\n\n   ```console\n   $ ferrogate diff\n   nothing\n   ```\n\n```text\nferrogate no\n```\n\n\
                    <!-- not run: far away -->\nwords\n\n```sh\nls\n```\n";
        let page = Page {
            path: "a.md".to_owned(),
            text: text.to_owned(),
        };
        let found = blocks(&page);
        let lines: Vec<usize> = found.iter().map(|block| block.line).collect();
        assert_eq!(lines, [3, 9, 15, 27]);
        assert_eq!(found[0].commands, [Command::Ferrogate(words("explain a/b"))]);
        assert_eq!(found[1].not_run.as_deref(), Some("no cluster"));
        assert_eq!(found[2].commands, [Command::Ferrogate(words("diff"))]);
        assert_eq!(found[3].not_run, None, "a reason is for the block right below it");
    }
}
