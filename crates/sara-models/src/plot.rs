//! Pictures of a run as SVG: loss over steps, ranks by site, use of experts, spectra.
//!
//! Written by hand because the pictures are few and plain: text needs no font here, only where it is shown.

mod canvas;
mod loss;
mod ranks;
mod shares;
mod spectra;

use std::path::Path;

pub use loss::{Curves, Metric, Point, loss};
pub use ranks::{SiteRank, ranks};
pub use shares::{SiteShares, shares};
pub use spectra::{SiteSpectrum, spectra};

use sara_core::store::write_file;

use crate::error::Result;

/// Writes the picture that [`loss()`] draws.
///
/// # Errors
/// [`Error::Core`](crate::Error::Core) if the file cannot be written.
pub fn loss_svg(path: &Path, curves: &Curves<'_>) -> Result<()> {
    Ok(write_file(path, loss(curves).as_bytes())?)
}

/// Writes the picture that [`ranks()`] draws.
///
/// # Errors
/// [`Error::Core`](crate::Error::Core) if the file cannot be written.
pub fn ranks_svg(path: &Path, sites: &[SiteRank<'_>]) -> Result<()> {
    Ok(write_file(path, ranks(sites).as_bytes())?)
}

/// Writes the picture that [`shares()`] draws.
///
/// # Errors
/// [`Error::Core`](crate::Error::Core) if the file cannot be written.
pub fn shares_svg(path: &Path, sites: &[SiteShares]) -> Result<()> {
    Ok(write_file(path, shares(sites).as_bytes())?)
}

/// Writes the picture that [`spectra()`] draws.
///
/// # Errors
/// [`Error::Core`](crate::Error::Core) if the file cannot be written.
pub fn spectra_svg(path: &Path, sites: &[SiteSpectrum<'_>]) -> Result<()> {
    Ok(write_file(path, spectra(sites).as_bytes())?)
}

/// Each of the names once, in the order in which they come first.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}
