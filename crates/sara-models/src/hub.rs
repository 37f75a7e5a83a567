//! Where a model is: in a directory, or under its name in the local cache of the Hugging Face hub. Nothing is fetched.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::error::Error;

/// The directory of a model that is given by its path or by its name on the hub.
///
/// # Errors
/// [`Error::Format`] where there is no such directory, and a name of this form is not in the cache.
pub fn locate(given: &Path) -> Result<PathBuf, Error> {
    let path = expanded(given);
    let Some(name) = name_of(&path).filter(|_| !path.exists()) else { return Ok(path) };
    let Some(cache) = cache() else { return Ok(path) };
    let repository = cache.join(format!("models--{}", name.replace('/', "--")));
    snapshot(&repository).ok_or_else(|| {
        let problem = format!(
            "there is no such directory, and no snapshot of {name} in the hub's cache, {}; download it, or give the \
             directory of a checkpoint",
            repository.display()
        );
        Error::format(given, problem)
    })
}

/// The name on the hub of a directory in its cache.
pub(crate) fn name_in_cache(dir: &Path) -> Option<String> {
    let full = fs::canonicalize(dir).ok()?;
    let snapshots = full.parent().filter(|parent| parent.file_name() == Some(OsStr::new("snapshots")))?;
    let repository = snapshots.parent()?.file_name()?.to_str()?;
    Some(repository.strip_prefix("models--")?.replacen("--", "/", 1))
}

/// The path with the home directory in place of a `~` at its beginning.
pub(crate) fn expanded(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), home()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// `model` or `org/model`, as the hub names models, and nothing else.
fn name_of(path: &Path) -> Option<&str> {
    let parts = path.components().count();
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    path.to_str().filter(|name| plain && parts <= 2 && name.chars().all(is_allowed) && !name.ends_with('/'))
}

/// The folder in which the hub's programs keep what they fetched.
fn cache() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("HF_HUB_CACHE").or_else(|| Some(set("HF_HOME")?.join("hub")));
    let cache = cache.or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface/hub")));
    cache.map(|path| expanded(&path)).or_else(|| Some(home()?.join(".cache/huggingface/hub")))
}

fn home() -> Option<PathBuf> {
    env::var_os("HOME").or_else(|| env::var_os("USERPROFILE")).map(PathBuf::from)
}

/// The snapshot that `refs/main` names, or else the newest.
fn snapshot(repository: &Path) -> Option<PathBuf> {
    let snapshots = repository.join("snapshots");
    let main = fs::read_to_string(repository.join("refs/main")).ok();
    let main = main.map(|hash| snapshots.join(hash.trim())).filter(|dir| dir.is_dir());
    main.or_else(|| {
        let all = fs::read_dir(&snapshots).ok()?.filter_map(Result::ok);
        let newest = all.filter(|entry| entry.path().is_dir()).max_by_key(|entry| {
            let made = entry.metadata().and_then(|found| found.modified()).ok();
            (made, entry.file_name())
        });
        newest.map(|entry| entry.path())
    })
}
