//! `cargo xtask data debian-sections`: packages to be sorted into archive sections by their description.
//!
//! Every Debian machine has this data and no one needs to download it: 16 classes, honest English, from one line to
//! a page. The result depends on the machine's package lists and the seed alone.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::{random::SplitMix64, steps::output};

const CLASSES: usize = 16;
const TRAIN_PER_CLASS: usize = 180;
const VALID_PER_CLASS: usize = 60;
/// Sections about the kind of package, not about what is in it.
const EXCLUDED_SECTIONS: [&str; 5] = ["debug", "oldlibs", "metapackages", "localization", "translations"];
/// Fetches the extended descriptions, which some machines are set up to leave out.
const FETCH_DESCRIPTIONS: &str = "apt-get -o Acquire::Languages=en update";

/// What is used of a package's record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    source: String,
    section: String,
    text: String,
}

struct Split {
    train: Vec<Package>,
    valid: Vec<Package>,
}

pub(crate) fn write(out: &Path, seed: u64) -> Result<()> {
    let available = output(Command::new("apt-cache").arg("dumpavail"))?;
    let extended = extended_descriptions()?;
    let split = split(packages(&available, &extended), seed)?;
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    for (name, side) in [("train.jsonl", &split.train), ("valid.jsonl", &split.valid)] {
        let mut lines = String::new();
        for Package { text, section, .. } in side {
            writeln!(lines, "{}", json!({ "text": text, "label": section }))?;
        }
        let path = out.join(name);
        fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}: {} examples", path.display(), side.len());
    }
    let classes: BTreeSet<&str> = split.train.iter().map(|package| &*package.section).collect();
    println!("{CLASSES} classes: {}", classes.into_iter().collect::<Vec<_>>().join(", "));
    Ok(())
}

/// Extended descriptions by the checksum that stands in the package lists.
fn extended_descriptions() -> Result<HashMap<String, String>> {
    let targets = ["-o", "Acquire::Languages=en", "indextargets", "--format", "$(FILENAME)"];
    let files = output(Command::new("apt-get").args(targets).arg("Created-By: Translations"))?;
    let mut descriptions = HashMap::new();
    for file in files.lines().filter(|file| Path::new(file).is_file()) {
        let text = output(Command::new("/usr/lib/apt/apt-helper").args(["cat-file", file]))?;
        for record in records(&text) {
            if let (Some(checksum), Some(text)) =
                (record.get("Description-md5"), record.get("Description-en"))
            {
                descriptions.insert(checksum.clone(), text.clone());
            }
        }
    }
    if descriptions.is_empty() {
        println!(
            "no extended descriptions here, one line for each package instead; to have them: {FETCH_DESCRIPTIONS}"
        );
    }
    Ok(descriptions)
}

/// Fields of each record; the lines of one field are kept apart by line feeds.
fn records(text: &str) -> impl Iterator<Item = HashMap<&str, String>> {
    text.split("\n\n").map(|record| {
        let mut fields: HashMap<&str, String> = HashMap::new();
        let mut current = "";
        for line in record.lines() {
            if let Some(more) = line.strip_prefix([' ', '\t']) {
                if let Some(value) = fields.get_mut(current) {
                    value.push('\n');
                    value.push_str(more);
                }
            } else if let Some((name, value)) = line.split_once(':') {
                current = name;
                fields.insert(name, value.trim().to_owned());
            }
        }
        fields
    })
}

fn packages(available: &str, extended: &HashMap<String, String>) -> Vec<Package> {
    let package = |record: HashMap<&str, String>| {
        let name = record.get("Package")?.clone();
        let source = record
            .get("Source")
            .map_or(&*name, |source| source.split(' ').next().unwrap_or(source))
            .to_owned();
        let section = record.get("Section")?.rsplit('/').next()?.to_owned();
        let longer = record.get("Description-md5").and_then(|checksum| extended.get(checksum));
        let text = prose(longer.or_else(|| record.get("Description"))?);
        Some(Package { name, source, section, text })
    };
    records(available).filter_map(package).collect()
}

/// A description as running text: a line of a single dot separates paragraphs.
fn prose(description: &str) -> String {
    let mut paragraphs = vec![String::new()];
    for (index, line) in description.lines().map(str::trim).enumerate() {
        // The first line is the short description.
        if line == "." || index == 1 {
            paragraphs.push(String::new());
        }
        if let (Some(paragraph), false) = (paragraphs.last_mut(), line == ".") {
            if !paragraph.is_empty() {
                paragraph.push(' ');
            }
            paragraph.push_str(line);
        }
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    paragraphs.join("\n")
}

/// Draws both sides; no source package, and no text, is on both.
fn split(mut packages: Vec<Package>, seed: u64) -> Result<Split> {
    packages.sort();
    let mut taken = HashSet::new();
    packages.retain(|package| {
        !EXCLUDED_SECTIONS.contains(&&*package.section) && taken.insert(package.text.clone())
    });
    let mut sections: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for package in &packages {
        sections.entry(&package.section).or_default().push(package);
    }
    let mut sections: Vec<_> = sections.into_iter().collect();
    sections.sort_by_key(|(name, packages)| (Reverse(packages.len()), *name));

    let mut random = SplitMix64::new(seed);
    let kept_for_valid = draw_sources(&packages, &mut random);
    let (mut train, mut valid, mut classes) = (Vec::new(), Vec::new(), 0);
    for (_, packages) in sections {
        let (mut for_valid, mut for_train): (Vec<_>, Vec<_>) =
            packages.into_iter().partition(|package| kept_for_valid.contains(&*package.source));
        if classes == CLASSES || for_train.len() < TRAIN_PER_CLASS || for_valid.len() < VALID_PER_CLASS {
            continue;
        }
        random.shuffle(&mut for_train);
        random.shuffle(&mut for_valid);
        train.extend(for_train.into_iter().take(TRAIN_PER_CLASS).cloned());
        valid.extend(for_valid.into_iter().take(VALID_PER_CLASS).cloned());
        classes += 1;
    }
    if classes < CLASSES {
        bail!("{classes} of {CLASSES} sections have enough packages: run `apt-get update` first");
    }
    random.shuffle(&mut train);
    random.shuffle(&mut valid);
    Ok(Split { train, valid })
}

/// The source packages whose packages are for validation alone, as many as its share of a class.
fn draw_sources<'a>(packages: &'a [Package], random: &mut SplitMix64) -> HashSet<&'a str> {
    let sources: BTreeSet<&str> = packages.iter().map(|package| &*package.source).collect();
    let mut sources: Vec<&str> = sources.into_iter().collect();
    random.shuffle(&mut sources);
    sources.truncate(sources.len() * VALID_PER_CLASS / (TRAIN_PER_CLASS + VALID_PER_CLASS));
    sources.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_become_prose() {
        let description = "A game\nBuild a city\nand defend it.\n.\n  * with walls";
        assert_eq!(prose(description), "A game\nBuild a city and defend it.\n* with walls");
    }

    #[test]
    fn records_are_joined_with_their_extended_description() {
        let available = "Package: b\nSource: a (1.0)\nSection: contrib/games\nDescription: short\nDescription-md5: 1\n\n\
                         Package: c\nSection: net\nDescription: c's own\n";
        let extended = HashMap::from([("1".to_owned(), "short\nlong".to_owned())]);
        let read = packages(available, &extended);
        let package = |name: &str, source: &str, section: &str, text: &str| Package {
            name: name.to_owned(),
            source: source.to_owned(),
            section: section.to_owned(),
            text: text.to_owned(),
        };
        assert_eq!(read, [package("b", "a", "games", "short\nlong"), package("c", "c", "net", "c's own")]);
    }

    /// 18 sections: a large one that is excluded, a small one, and 16 in which each source has two packages,
    /// one in that section and one in the next.
    fn archive() -> Vec<Package> {
        let package = |source: String, section: String, text: String| {
            let name = format!("{source}-{section}");
            Package { name, source, section, text }
        };
        let mut packages = Vec::new();
        for index in 0..16 * 200 {
            for section in [index % 16, (index + 1) % 16] {
                packages.push(package(
                    format!("s{index}"),
                    format!("section{section}"),
                    format!("{index} {section}"),
                ));
            }
        }
        packages.extend(
            (0..1000).map(|index| package(format!("d{index}"), "debug".to_owned(), format!("d {index}"))),
        );
        packages.extend(
            (0..1000).map(|index| package(format!("t{index}"), "same".to_owned(), "the same".to_owned())),
        );
        packages
    }

    #[test]
    fn classes_are_balanced_and_sources_on_one_side() {
        let Split { train, valid } = split(archive(), 0).unwrap();
        let count = |side: &[Package]| {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for package in side {
                *counts.entry(package.section.clone()).or_default() += 1;
            }
            counts
        };
        assert_eq!(count(&train).len(), CLASSES);
        assert!(count(&train).values().all(|n| *n == TRAIN_PER_CLASS));
        assert!(count(&valid).values().all(|n| *n == VALID_PER_CLASS));
        assert!(count(&train).keys().eq(count(&valid).keys()));
        let sources: HashSet<_> = train.iter().map(|package| &package.source).collect();
        assert!(valid.iter().all(|package| !sources.contains(&package.source)));
    }

    #[test]
    fn the_draw_depends_on_the_seed_and_not_on_the_order() {
        let mut reversed = archive();
        reversed.reverse();
        let draw = |packages, seed| split(packages, seed).unwrap().train;
        assert_eq!(draw(archive(), 1), draw(reversed, 1));
        assert_ne!(draw(archive(), 1), draw(archive(), 2));
    }
}
