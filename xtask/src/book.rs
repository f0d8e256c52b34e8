//! `cargo xtask book`: the documents as a book of HTML pages, by mdBook.
//!
//! The documents stay where they are, and link to each other as on any forge. So a copy of all of them is laid out with the same
//! paths, with what a book needs changed in it: README.md is the page of its directory, and what is no page is linked to at the
//! repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ferrogate_documents::{Page, links, pages};

use crate::{cmd, paths, setup};

/// Changed with care: its HTML is checked, and its configuration is docs/book.toml.
const MDBOOK: &str = "0.5.4";
const REPOSITORY: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/");

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to write it [default: target/book]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(crate) fn book(args: &Args) -> Result<()> {
    let root = paths::root();
    let pages = pages(root)?;
    let wrong = links::findings(root, &pages);
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    let mdbook = mdbook()?;
    let source = paths::target().join("book-source");
    let output = args.output.clone().unwrap_or_else(|| paths::target().join("book"));
    if source.exists() {
        fs::remove_dir_all(&source).with_context(|| source.display().to_string())?;
    }
    lay_out(root, &pages, &source)?;
    let output = std::path::absolute(&output)?;
    cmd::run(
        Command::new(mdbook)
            .arg("build")
            .arg(&source)
            .arg("--dest-dir")
            .arg(&output),
    )?;
    let (count, links) = check(&output)?;
    println!(
        "written: {} ({count} pages, {links} links, all of which lead somewhere)",
        output.join("index.html").display()
    );
    Ok(())
}

/// mdBook of the wanted version, which is built at the first time: a minute and a half, so no other command asks for it.
fn mdbook() -> Result<PathBuf> {
    let tools = paths::cache().join("tools");
    let program = tools.join("bin/mdbook");
    let works = || cmd::output(Command::new(&program).arg("--version")).is_ok_and(|said| said.ends_with(MDBOOK));
    if works() {
        return Ok(program);
    }
    setup::say(format_args!("building mdbook {MDBOOK}: about two minutes"));
    let begin = Instant::now();
    let mut cargo = cmd::cargo();
    cargo.args(["install", "mdbook", "--version", MDBOOK, "--locked", "--force"]);
    // Without its web server and its watcher.
    cargo.args(["--no-default-features", "--features", "search", "--root"]);
    cmd::run(cargo.arg(&tools))?;
    if !works() {
        bail!("{} was installed but does not start", program.display());
    }
    setup::say(format_args!("built in {} s", begin.elapsed().as_secs()));
    Ok(program)
}

/// The pages that the contents name, and every file that they link to, as mdBook wants them.
fn lay_out(root: &Path, pages: &[Page], source: &Path) -> Result<()> {
    let summary = find(pages, links::SUMMARY)?;
    let mut chapters = BTreeSet::new();
    for link in links::links(&summary.text) {
        chapters.insert(links::resolve(links::SUMMARY, &link.target).context("a chapter")?);
    }
    let decisions: Vec<&Page> = pages.iter().filter(|page| links::is_decision(&page.path)).collect();
    chapters.extend(decisions.iter().map(|page| page.path.clone()));
    let mut files = BTreeSet::new();
    for path in &chapters {
        let page = find(pages, path)?;
        let text = adapted(page, &chapters, &mut files);
        write(&source.join(place(path)), text.as_bytes())?;
    }
    // The contents are at the root of a book; decisions come last there.
    let mut contents = targets_replaced(summary, |target| {
        links::resolve(links::SUMMARY, target).map(|file| place(&file))
    });
    for decision in decisions {
        let title = decision
            .text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("# ");
        contents.push_str(&format!("  - [{}]({})\n", title.replace(['[', ']'], ""), decision.path));
    }
    write(&source.join("SUMMARY.md"), contents.as_bytes())?;
    let settings = fs::read(root.join("docs/book.toml")).context("docs/book.toml")?;
    write(&source.join("book.toml"), &settings)?;
    for file in files {
        let bytes = fs::read(root.join(&file)).with_context(|| file.clone())?;
        write(&source.join(&file), &bytes)?;
    }
    Ok(())
}

fn find<'a>(pages: &'a [Page], path: &str) -> Result<&'a Page> {
    let found = pages.iter().find(|page| page.path == path);
    found.with_context(|| format!("{}: {path} is no page", links::SUMMARY))
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(file, bytes).with_context(|| file.display().to_string())
}

/// Where a page is in the book.
fn place(path: &str) -> String {
    match path.strip_suffix("README.md") {
        Some(directory) => format!("{directory}index.md"),
        None => path.to_owned(),
    }
}

/// A page with links that work in the book. `files` are what it shows or links to beside chapters.
fn adapted(page: &Page, chapters: &BTreeSet<String>, files: &mut BTreeSet<String>) -> String {
    targets_replaced(page, |target| {
        let (path, anchor) = target
            .split_once('#')
            .map_or((target, None), |(path, anchor)| (path, Some(anchor)));
        if target.contains("://") || path.is_empty() {
            return None;
        }
        let file = links::resolve(&page.path, path)?;
        let readme = format!("{file}/README.md");
        let chapter = [&file, &readme].into_iter().find(|file| chapters.contains(*file));
        let Some(chapter) = chapter else {
            if [".svg", ".png", ".txt", ".json"].iter().any(|end| file.ends_with(end)) {
                files.insert(file);
                return None;
            }
            return Some(format!("{REPOSITORY}{file}"));
        };
        let up = "../".repeat(page.path.matches('/').count());
        let anchor = anchor.map(|anchor| format!("#{anchor}")).unwrap_or_default();
        Some(format!("{up}{}{anchor}", place(chapter)))
    })
}

/// The text of a page with other targets in its links, where there is one.
fn targets_replaced(page: &Page, mut other: impl FnMut(&str) -> Option<String>) -> String {
    let found: BTreeMap<String, String> = links::links(&page.text)
        .into_iter()
        .filter_map(|link| Some((link.target.clone(), other(&link.target)?)))
        .collect();
    let mut text = page.text.clone();
    for (target, other) in found {
        text = text.replace(&format!("]({target})"), &format!("]({other})"));
    }
    text
}

/// Every link within the book, followed; how many pages and links there are.
fn check(book: &Path) -> Result<(usize, usize)> {
    let mut html = BTreeMap::new();
    collect(book, book, &mut html)?;
    let mut wrong = Vec::new();
    let mut count = 0;
    for (page, text) in &html {
        // Both have all pages in them, with the links of their own places.
        if page == "print.html" || page == "404.html" {
            continue;
        }
        for target in attributes(text, "href").chain(attributes(text, "src")) {
            if target.contains("://") || target.starts_with("data:") || target.starts_with("javascript:") {
                continue;
            }
            count += 1;
            if !leads_somewhere(book, &html, page, target) {
                wrong.push(format!("{page}: link to {target:?}, which is not there"));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok((html.len(), count))
}

fn leads_somewhere(book: &Path, html: &BTreeMap<String, String>, page: &str, target: &str) -> bool {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let Some(file) = links::resolve(page, path) else {
        return false;
    };
    let file = if file.is_empty() || path.ends_with('/') {
        format!("{file}/index.html").trim_start_matches('/').to_owned()
    } else {
        file
    };
    match html.get(&file) {
        Some(text) => anchor.is_empty() || attributes(text, "id").any(|id| id == anchor),
        None => book.join(&file).is_file(),
    }
}

/// The values of an attribute, wherever it is: mdBook writes them in double quotes.
fn attributes<'a>(html: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let start = format!(" {name}=\"");
    let length = start.len();
    let places: Vec<usize> = html.match_indices(&start).map(|(at, _)| at + length).collect();
    places.into_iter().filter_map(|at| html[at..].split('"').next())
}

fn collect(book: &Path, directory: &Path, html: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(book, &path, html)?;
        } else if path.extension().is_some_and(|end| end == "html") {
            let name = path.strip_prefix(book)?.to_string_lossy().into_owned();
            html.insert(name, fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_same_pages_in_the_book() {
        let chapters: BTreeSet<String> = ["README.md", "docs/adr/README.md", "docs/a.md"]
            .into_iter()
            .map(str::to_owned)
            .collect();
        let mut files = BTreeSet::new();
        let text = "[r](../README.md#limits) [d](adr) [d](adr/README.md) [a](#a) [s](../agent/src/run.rs) ![p](p.svg) \
                    [x](https://example.org/README.md)";
        let adapted = adapted(&Page::new("docs/a.md", text), &chapters, &mut files);
        let source = format!("{REPOSITORY}agent/src/run.rs");
        let expected = format!(
            "[r](../index.md#limits) [d](../docs/adr/index.md) [d](../docs/adr/index.md) [a](#a) [s]({source}) ![p](p.svg) \
             [x](https://example.org/README.md)"
        );
        assert_eq!(adapted, expected);
        assert_eq!(files.into_iter().collect::<Vec<_>>(), ["docs/p.svg"]);
    }

    #[test]
    fn a_book_with_a_link_to_nowhere_is_refused() {
        let book = std::env::temp_dir().join(format!("fg-book-{}", std::process::id()));
        let with = |link: &str| {
            let html = format!("<h1 id=\"a\">A</h1><a href=\"{link}\">b</a><a href=\"https://example.org\">c</a>");
            write(&book.join("docs/a.html"), html.as_bytes()).expect("a page");
            write(&book.join("index.html"), b"<h2 id=\"limits\">L</h2>").expect("a page");
            check(&book)
        };
        assert_eq!(with("../index.html#limits").expect("a link"), (2, 1));
        assert_eq!(with("#a").expect("a link"), (2, 1));
        for wrong in ["../index.html#other", "none.html", "../../x.html", "#b"] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
        fs::remove_dir_all(&book).expect("clean-up");
    }

    #[test]
    fn every_chapter_of_the_contents_can_be_laid_out() {
        let pages = pages(paths::root()).expect("pages");
        let directory = std::env::temp_dir().join(format!("fg-layout-{}", std::process::id()));
        lay_out(paths::root(), &pages, &directory).expect("a layout");
        let laid = fs::read_to_string(directory.join("SUMMARY.md")).expect("contents");
        for link in links::links(&laid) {
            assert!(directory.join(&link.target).is_file(), "{}", link.target);
        }
        fs::remove_dir_all(&directory).expect("clean-up");
    }
}
