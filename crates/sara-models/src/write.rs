//! Writing files so that a crash leaves the old file or the new one, never a part.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `bytes` to `path` by way of a temporary file in the same directory.
///
/// # Errors
/// [`Error::Io`], naming `path`; what stood there before is then untouched.
pub(crate) fn atomic_write(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes).map_err(Error::io(path))
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // The parent of a bare file name is the empty path, which no system call accepts.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // `tempfile` would let nobody but the owner read the file; `File::create_new` leaves that to the umask.
    let temporary = tempfile::Builder::new().make_in(directory, |path| File::create_new(path))?;
    temporary.as_file().write_all(bytes)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    Ok(())
}
