//! Links between the documents: what each leads to must be there. Of links to elsewhere only the form is looked at, so that
//! this needs no network.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use crate::{Page, line_of};

/// The table of contents of the book, and the directory whose pages must all be in it.
pub const SUMMARY: &str = "docs/SUMMARY.md";
const BOOK: &str = "docs/";
/// Decisions, `0001-...`: the book has them all below the page of this directory, by itself.
const DECISIONS: &str = "docs/adr/";

/// Whether a page is a decision.
pub fn is_decision(path: &str) -> bool {
    path.strip_prefix(DECISIONS)
        .is_some_and(|name| name.starts_with(|c: char| c.is_ascii_digit()))
}

/// A link or an image.
#[derive(PartialEq, Eq, Debug)]
pub struct Link {
    pub line: usize,
    pub target: String,
    /// Link text, or what stands in for an image.
    pub text: String,
}

/// The links and images of a page, in order.
pub fn links(text: &str) -> Vec<Link> {
    let mut found: Vec<Link> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                open.push(found.len());
                found.push(Link {
                    line: line_of(text, range.start),
                    target: dest_url.into_string(),
                    text: String::new(),
                });
            }
            Event::End(TagEnd::Link | TagEnd::Image) => {
                open.pop();
            }
            Event::Text(words) | Event::Code(words) => {
                for index in &open {
                    found[*index].text.push_str(&words);
                }
            }
            _ => {}
        }
    }
    found
}

/// The anchors of a page's headings, as GitHub and mdBook make them of the words.
pub fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let slug = slug(&heading.take().unwrap_or_default());
                let count = seen.entry(slug.clone()).or_default();
                anchors.insert(if *count == 0 { slug } else { format!("{slug}-{count}") });
                *count += 1;
            }
            Event::Text(words) | Event::Code(words) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&words);
                }
            }
            _ => {}
        }
    }
    anchors
}

fn slug(heading: &str) -> String {
    let letters = heading.trim().chars().flat_map(char::to_lowercase);
    let kept = letters.filter(|letter| letter.is_alphanumeric() || *letter == '-' || *letter == '_' || *letter == ' ');
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

/// What is wrong with the links of these pages, each as `file:line: what`.
pub fn findings(root: &Path, pages: &[Page]) -> Vec<String> {
    let anchors: BTreeMap<&str, BTreeSet<String>> = pages
        .iter()
        .map(|page| (page.path.as_str(), anchors(&page.text)))
        .collect();
    let mut wrong = Vec::new();
    for page in pages {
        for link in links(&page.text) {
            if let Err(why) = judge(root, &anchors, page, &link) {
                wrong.push(format!("{}:{}: link to {:?}: {why}", page.path, link.line, link.target));
            }
        }
    }
    wrong.extend(contents(pages));
    wrong
}

fn judge(
    root: &Path,
    anchors: &BTreeMap<&str, BTreeSet<String>>,
    page: &Page,
    link: &Link,
) -> Result<(), &'static str> {
    if link.text.trim().is_empty() {
        return Err("nothing says what it is: give it a text");
    }
    if let Some((scheme, rest)) = link.target.split_once("://") {
        return external(scheme, rest);
    }
    let (path, anchor) = link.target.split_once('#').unwrap_or((&link.target, ""));
    let file = resolve(&page.path, path).ok_or("it leads out of the repository, or begins with /")?;
    if !root.join(&file).exists() {
        return Err("there is no such file");
    }
    match anchors.get(file.as_str()) {
        Some(known) if !anchor.is_empty() && !known.contains(anchor) => Err("that page has no such heading"),
        None if !anchor.is_empty() => Err("only pages have anchors"),
        _ => Ok(()),
    }
}

fn external(scheme: &str, rest: &str) -> Result<(), &'static str> {
    let host = rest.split(['/', '#', '?']).next().unwrap_or_default();
    let good = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if scheme != "https" {
        Err("only https leads to elsewhere")
    } else if !host.contains('.') || !host.split('.').all(good) {
        Err("that is no host's name")
    } else if rest.contains(char::is_whitespace) {
        Err("there is a blank in it")
    } else {
        Ok(())
    }
}

/// The file, from the root of the checkout, that a link on a page names; none where that is outside.
pub fn resolve(page: &str, link: &str) -> Option<String> {
    if link.is_empty() {
        return Some(page.to_owned());
    }
    if link.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Every page of the book's directory is in its contents, once.
fn contents(pages: &[Page]) -> Vec<String> {
    let Some(summary) = pages.iter().find(|page| page.path == SUMMARY) else {
        return vec![format!("{SUMMARY}: is missing")];
    };
    let mut listed: BTreeMap<String, usize> = BTreeMap::new();
    for file in links(&summary.text)
        .iter()
        .filter_map(|link| resolve(SUMMARY, &link.target))
    {
        *listed.entry(file).or_default() += 1;
    }
    let of_book = pages
        .iter()
        .filter(|page| page.path.starts_with(BOOK) && page.path != SUMMARY && !is_decision(&page.path));
    let missing = of_book
        .filter(|page| !listed.contains_key(&page.path))
        .map(|page| format!("{SUMMARY}: {} is not in it", page.path));
    let twice = listed
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(file, _)| format!("{SUMMARY}: {file} is in it twice"));
    missing.chain(twice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_have_the_anchors_that_readers_link_to() {
        let text =
            "# A `code` heading, twice\n\n## What's *new*?\n\n# A code heading, twice\n\n```sh\n# no heading\n```\n";
        let found: Vec<String> = anchors(text).into_iter().collect();
        assert_eq!(found, ["a-code-heading-twice", "a-code-heading-twice-1", "whats-new"]);
    }

    #[test]
    fn a_link_is_found_with_its_line_in_tables_too() {
        let text = "[one](a.md)\n\n| a | b |\n|---|---|\n| [two `b`](b.md#x) | ![three](c.svg) |\n\n`[no](link.md)`\n";
        let found: Vec<_> = links(text)
            .into_iter()
            .map(|link| (link.line, link.target, link.text))
            .collect();
        let expected = [(1, "a.md", "one"), (5, "b.md#x", "two b"), (5, "c.svg", "three")];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(line, target, text)| (line, target.to_owned(), text.to_owned()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn links_are_followed_from_their_page() {
        assert_eq!(resolve("docs/a.md", "../README.md").as_deref(), Some("README.md"));
        assert_eq!(resolve("docs/a.md", "adr/1.md").as_deref(), Some("docs/adr/1.md"));
        assert_eq!(resolve("docs/a.md", "").as_deref(), Some("docs/a.md"));
        assert_eq!(resolve("README.md", "../elsewhere"), None);
        assert_eq!(resolve("README.md", "/etc/passwd"), None);
    }

    #[test]
    fn what_leads_nowhere_is_found_and_what_leads_somewhere_is_not() {
        let root = std::env::temp_dir().join(format!("fg-links-{}", std::process::id()));
        std::fs::create_dir_all(root.join("docs")).expect("a directory");
        for file in ["docs/a.md", "docs/b.md", "docs/p.svg"] {
            std::fs::write(root.join(file), "").expect("a file");
        }
        let a = "# A\n\n[b](b.md#part) ![p](p.svg) [x](https://example.org/a#b) [self](#a)\n\n[n](none.md) [h](b.md#none)\n\
                 [i](http://example.org) [l](https://localhost/) [](b.md) [s](p.svg#x) [o](../../o.md)\n";
        let pages = [
            Page::new("docs/a.md", a),
            Page::new("docs/b.md", "# B\n\n## Part\n"),
            Page::new(SUMMARY, "# S\n\n- [a](a.md)\n- [again](a.md)\n"),
        ];
        let found = findings(&root, &pages);
        std::fs::remove_dir_all(&root).expect("clean-up");
        for part in [
            "docs/a.md:5: link to \"none.md\": there is no such file",
            "docs/a.md:5: link to \"b.md#none\": that page has no such heading",
            "docs/a.md:6: link to \"http://example.org\": only https",
            "docs/a.md:6: link to \"https://localhost/\": that is no host's name",
            "docs/a.md:6: link to \"b.md\": nothing says what it is",
            "docs/a.md:6: link to \"p.svg#x\": only pages have anchors",
            "docs/a.md:6: link to \"../../o.md\": it leads out",
            "docs/SUMMARY.md: docs/b.md is not in it",
            "docs/SUMMARY.md: docs/a.md is in it twice",
        ] {
            assert!(found.iter().any(|line| line.starts_with(part)), "{part}: {found:#?}");
        }
        assert_eq!(found.len(), 9, "{found:#?}");
    }
}
