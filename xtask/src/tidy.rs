//! `cargo xtask tidy`: what no compiler checks, by reading the files.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use regex::Regex;

use crate::steps::output;

const MAX_LINES: usize = 600;
/// File names that say nothing.
const EMPTY_NAMES: [&str; 8] = ["mod", "util", "utils", "common", "base", "helper", "helpers", "misc"];
/// What knows CubeCL.
const CUBE: &str = "crates/sara-svd/src/cube";
/// Where the methods are.
const METHODS: &str = "crates/sara-core/src/methods";
/// What names no method: the models, the tasks, and all that training and files are.
const METHOD_AGNOSTIC: &str = "crates/sara-models/src";
/// Sections of the documentation of a method.
const METHOD_HEADINGS: [&str; 5] = ["Idea", "Equations", "Start", "Differences from the paper", "Source"];

struct Finding {
    file: PathBuf,
    /// 0 where the finding is the whole file.
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.message),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.message),
        }
    }
}

/// Checks every file that git tracks, or would track.
pub(crate) fn tidy(root: &Path) -> Result<()> {
    let git = |args: &[&str]| output(Command::new("git").current_dir(root).arg("ls-files").args(args));
    let listed = git(&["-z", "--cached", "--others", "--exclude-standard"])?;
    let rules = Rules::new()?;
    let mut findings = Vec::new();
    for file in listed.split_terminator('\0').map(Path::new) {
        let path = root.join(file);
        if !path.is_file() {
            continue; // Deleted, not committed yet.
        }
        check_name(file, &mut findings);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // What is not text has no lines to check.
        if let Ok(text) = std::str::from_utf8(&bytes) {
            rules.check_text(file, text, &mut findings);
            if extension(file) == "md" {
                rules.check_links(root, file, text, &mut findings);
            }
        }
    }
    check_places(root, &mut findings);
    if git(&["Cargo.lock"])?.is_empty() {
        let message = "is not tracked: the checks build with --locked".to_owned();
        findings.push(Finding { file: "Cargo.lock".into(), line: 0, message });
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("1 finding"),
        many => bail!("{many} findings"),
    }
}

/// A pattern that no line of some files may hold.
struct Banned {
    pattern: Regex,
    message: &'static str,
    applies: fn(&Path) -> bool,
    comments_too: bool,
}

struct Rules {
    banned: Vec<Banned>,
    arxiv: Regex,
    link: Regex,
}

impl Rules {
    fn new() -> Result<Self> {
        let banned = |pattern, message, applies, comments_too| {
            Ok(Banned { pattern: Regex::new(pattern)?, message, applies, comments_too })
        };
        let rust: fn(&Path) -> bool = |file| extension(file) == "rs";
        let banned: Vec<Result<Banned>> = vec![
            banned(r"#\[ignore", "a test that does not run", rust, false),
            banned(r"\b(todo|unimplemented)!\(", "code that is not there", rust, false),
            banned(
                r"\bcube(cl|k)::",
                "only sara-svd/src/cube knows CubeCL",
                |file| is_library(file) && !in_folder(file, CUBE),
                false,
            ),
            banned(
                r"(?i)\b(ada|pri|me|bayesian_?)?lora\b|\bmo_?sara\b|lorta|\btaps\b",
                "models and loops name no method",
                is_method_agnostic,
                false,
            ),
            banned(r"[ \t]+$", "trailing whitespace", is_written, true),
            banned(r"(^|[^\w.~-])/(work|root|tmp|home|Users)/\w", "an absolute path", |_| true, true),
            banned(
                r"(index|static)\.crates\.io|pypi\.org|python[h]osted|registry\.npmjs|deb\.debian\.org",
                "the host of a registry",
                |_| true,
                true,
            ),
        ];
        Ok(Self {
            banned: banned.into_iter().collect::<Result<_>>()?,
            arxiv: Regex::new(r"arXiv:\d{4}\.\d{4,5}")?,
            link: Regex::new(r"\]\(([^)\s]+)[^)]*\)")?,
        })
    }

    fn check_text(&self, file: &Path, text: &str, findings: &mut Vec<Finding>) {
        let lines = text.lines().count();
        if extension(file) == "rs" && lines > MAX_LINES {
            findings.push(finding(file, 0, &format!("{lines} lines, at most {MAX_LINES}")));
        }
        for banned in self.banned.iter().filter(|banned| (banned.applies)(file)) {
            for (number, line) in numbered(text) {
                let is_comment = line.trim_start().starts_with("//");
                if (banned.comments_too || !is_comment) && banned.pattern.is_match(line) {
                    findings.push(finding(file, number, banned.message));
                }
            }
        }
        if is_method(file) {
            self.check_method(file, text, findings);
        }
    }

    /// The documentation that each method opens with.
    fn check_method(&self, file: &Path, text: &str, findings: &mut Vec<Finding>) {
        let header = || text.lines().filter_map(|line| line.strip_prefix("//!")).map(str::trim);
        for heading in METHOD_HEADINGS {
            if !header().any(|line| line.strip_prefix("# ") == Some(heading)) {
                findings.push(finding(file, 1, &format!("no heading `//! # {heading}`")));
            }
        }
        if !header().any(|line| self.arxiv.is_match(line)) {
            findings.push(finding(file, 1, "no source: `arXiv:` and a number"));
        }
    }

    /// Links to files of this repository.
    fn check_links(&self, root: &Path, file: &Path, text: &str, findings: &mut Vec<Finding>) {
        let directory = root.join(file.parent().unwrap_or(Path::new("")));
        let mut is_code = false;
        for (number, line) in numbered(text) {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            }
            if is_code {
                continue;
            }
            // Every second piece between back quotes is code.
            let prose: String = line.split('`').step_by(2).collect();
            for link in self.link.captures_iter(&prose).filter_map(|link| link.get(1)) {
                let target = link.as_str().split('#').next().unwrap_or_default();
                let is_outside = target.contains("://") || target.starts_with("mailto:");
                if !target.is_empty() && !is_outside && !directory.join(target).exists() {
                    findings.push(finding(file, number, &format!("the link to {target} leads nowhere")));
                }
            }
        }
    }
}

/// A rule about a place that is not there any more would hold of nothing.
fn check_places(root: &Path, findings: &mut Vec<Finding>) {
    for place in [CUBE, METHODS, METHOD_AGNOSTIC] {
        if !root.join(place).is_dir() {
            findings.push(finding(Path::new(place), 0, "a rule names this folder, and it is not there"));
        }
    }
}

fn check_name(file: &Path, findings: &mut Vec<Finding>) {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    if extension(file) == "rs" && EMPTY_NAMES.contains(&&*stem) {
        findings.push(finding(file, 0, "the name says nothing about what is inside"));
    }
}

fn finding(file: &Path, line: usize, message: &str) -> Finding {
    Finding { file: file.to_owned(), line, message: message.to_owned() }
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn extension(file: &Path) -> &str {
    file.extension().and_then(|extension| extension.to_str()).unwrap_or("")
}

/// Whether `file`'s path starts with `folder`, which may end inside a name.
fn in_folder(file: &Path, folder: &str) -> bool {
    file.to_string_lossy().replace('\\', "/").starts_with(folder)
}

/// Code of a library, as opposed to binaries, tests and examples.
fn is_library(file: &Path) -> bool {
    let parts: Vec<_> = file.iter().collect();
    extension(file) == "rs"
        && in_folder(file, "crates/")
        && parts.get(2).is_some_and(|part| *part == "src")
        && parts.get(3).is_some_and(|part| *part != "bin")
}

fn is_method_agnostic(file: &Path) -> bool {
    is_library(file) && in_folder(file, METHOD_AGNOSTIC)
}

fn is_method(file: &Path) -> bool {
    file.parent() == Some(Path::new(METHODS)) && extension(file) == "rs"
}

/// Written by hand, so that its white space is ours: no fixtures and no assets.
fn is_written(file: &Path) -> bool {
    matches!(extension(file), "rs" | "toml" | "md" | "py" | "sh" | "")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line numbers and messages for one file's text.
    fn found(file: &str, text: &str) -> Vec<(usize, String)> {
        let rules = Rules::new().unwrap();
        let mut findings = Vec::new();
        check_name(Path::new(file), &mut findings);
        rules.check_text(Path::new(file), text, &mut findings);
        findings.into_iter().map(|finding| (finding.line, finding.message)).collect()
    }

    fn lines(file: &str, text: &str) -> Vec<usize> {
        found(file, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn file_names_say_something() {
        assert_eq!(lines("crates/sara-svd/src/utils.rs", ""), [0]);
        assert_eq!(lines("crates/sara-svd/src/cube/mod.rs", ""), [0]);
        assert!(lines("crates/sara-svd/src/model.rs", "").is_empty());
    }

    #[test]
    fn files_have_a_length_limit() {
        assert!(lines("a.rs", &"\n".repeat(MAX_LINES)).is_empty());
        assert_eq!(lines("a.rs", &"\n".repeat(MAX_LINES + 1)), [0]);
        assert!(lines("a.md", &"\n".repeat(MAX_LINES + 1)).is_empty());
    }

    #[test]
    fn nothing_is_left_undone() {
        let text = format!("\n    {}!()\n\n#[{}]\n// {}!()\n", "todo", "ignore", "todo");
        assert_eq!(lines("crates/sara-core/tests/it/laws.rs", &text), [4, 2]);
    }

    #[test]
    fn cubecl_stays_in_its_place() {
        assert_eq!(lines("crates/sara-svd/src/ops.rs", "use cubecl::prelude::*;"), [1]);
        assert!(lines("crates/sara-svd/src/ops.rs", "use burn_cubecl::CubeBackend;").is_empty());
        assert!(lines("crates/sara-svd/src/cube/jacobi.rs", "use cubecl::prelude::*;").is_empty());
        assert!(lines("crates/sara-svd/src/cube.rs", "use cubecl::prelude::*;").is_empty());
    }

    #[test]
    fn models_name_no_method() {
        let text =
            "/// as LoRA does\nlet lora = 1;\nuse sara_core::Site;\nlet steps = roberta;\nMoSara AdaLora";
        assert_eq!(lines("crates/sara-models/src/classify/training.rs", text), [2, 5]);
        assert!(lines("crates/sara-models/src/bin/sara/demo.rs", text).is_empty());
    }

    #[test]
    fn rules_hold_of_places_that_are_there() {
        let mut findings = Vec::new();
        check_places(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut findings);
        assert!(findings.is_empty(), "{}", findings[0]);
        check_places(Path::new(env!("CARGO_MANIFEST_DIR")), &mut findings);
        assert_eq!(findings.len(), 3);
    }

    #[test]
    fn paths_and_hosts_are_those_of_no_machine() {
        let text = format!("\"/{0}/x\"\ncrates/{0}/x\nhttps://{1}.io/x\n", "tmp", "index.crates");
        assert_eq!(lines("a.toml", &text), [1, 3]);
    }

    #[test]
    fn a_method_documents_itself() {
        let whole = "//! X.\n//!\n//! # Idea\n//! # Equations\n//! # Start\n//! # Differences from the paper\n\
                     //! # Source\n//! arXiv:2408.03290.\n";
        let file = "crates/sara-core/src/methods/x.rs";
        assert!(found(file, whole).is_empty());
        let lacking = whole.replace("//! # Start\n", "").replace("2408", "");
        let messages: Vec<_> = found(file, &lacking).into_iter().map(|(_, message)| message).collect();
        assert_eq!(messages, ["no heading `//! # Start`", "no source: `arXiv:` and a number"]);
    }

    #[test]
    fn links_lead_somewhere() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = "[a](Cargo.toml#x) [b](src/gone.rs) [c](https://example.org/x) [d](#here)\n\
                    ```\n[e](gone)\n```\n`[f](gone)` [g](gone.md)\n";
        let mut findings = Vec::new();
        Rules::new().unwrap().check_links(root, Path::new("README.md"), text, &mut findings);
        let found: Vec<_> = findings.iter().map(ToString::to_string).collect();
        let expected = [
            "README.md:1: the link to src/gone.rs leads nowhere",
            "README.md:5: the link to gone.md leads nowhere",
        ];
        assert_eq!(found, expected);
    }
}
