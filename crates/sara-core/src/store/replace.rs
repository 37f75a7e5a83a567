//! Files and directories that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes a file under a temporary name in the same directory, syncs it and renames it over `path`.
///
/// A link is followed, and what is no plain file, a pipe or a device, is written into.
///
/// # Errors
/// [`Error::Io`]; a plain file is then as it was before.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_through(path, |file| file.write_all(bytes))
}

/// [`write_file`] for content that is produced piece by piece.
pub(super) fn write_through(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<()> {
    // What a link points to is replaced, not the link; one that points nowhere is replaced itself.
    let followed = fs::canonicalize(path);
    let path = followed.as_deref().unwrap_or(path);
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let written = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).open(path)?;
            let mut file = BufWriter::new(&file);
            write(&mut file)?;
            file.flush()
        };
        return written().map_err(|source| Error::io(path, source));
    }
    let parent = parent(path);
    fs::metadata(parent).map_err(|source| Error::io(parent, source))?;
    let written = || -> io::Result<()> {
        let temporary = temporary(FILE_MODE).tempfile_in(parent)?;
        let mut file = BufWriter::new(temporary.as_file());
        write(&mut file)?;
        file.flush()?;
        drop(file);
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|error| error.error)?;
        sync_dir(parent)
    };
    written().map_err(|source| Error::io(path, source))
}

/// Fills a temporary directory beside `dest`, syncs it and renames it to `dest`.
///
/// A directory that is there already is moved aside first and removed when the new one is in place. After a failure
/// `dest` is as it was before, and nothing half-written is left.
///
/// # Errors
/// What `fill` said, [`Error::Io`] where the system refuses.
pub fn replace_dir<E: From<Error>>(dest: &Path, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let failed = |source| Error::io(dest, source);
    let parent = parent(dest);
    fs::create_dir_all(parent).map_err(failed)?;
    let fresh = temporary(DIR_MODE).tempdir_in(parent).map_err(failed)?;
    fill(fresh.path())?;
    sync_tree(fresh.path()).map_err(failed)?;
    let old = temporary(DIR_MODE).tempdir_in(parent).map_err(failed)?;
    let aside = old.path().join("old");
    let moved = match fs::symlink_metadata(dest) {
        Ok(found) if !found.is_dir() => {
            let problem = "is in the way: a directory is to be written here; remove it";
            return Err(Error::format(dest, problem).into());
        }
        Ok(_) => fs::rename(dest, &aside).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    };
    let moved = moved.map_err(failed)?;
    if let Err(error) = fs::rename(fresh.path(), dest) {
        if moved && fs::rename(&aside, dest).is_err() {
            // Kept rather than removed with the temporary directory: it is the only copy.
            let kept = old.keep();
            let problem = format!("{error}; what was here before is now in {}", kept.display());
            return Err(Error::format(dest, problem).into());
        }
        return Err(failed(error).into());
    }
    // It has its name now; the guard would only look for the old one.
    let _ = fresh.keep();
    Ok(sync_dir(parent).map_err(failed)?)
}

const FILE_MODE: u32 = 0o666;
const DIR_MODE: u32 = 0o777;

/// Temporary names, with the permissions that the process gives to what it creates rather than the owner's alone.
fn temporary(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sara-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// The directory that holds `path`.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else if cfg!(unix) {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(dir)
}

/// Makes renames in `dir` durable. Elsewhere than on Unix a directory cannot be opened as a file.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}
