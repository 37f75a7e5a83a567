//! Which rank each site gets: decided once, saved with the adapter, never decided again.

use std::collections::BTreeSet;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use sara_svd::{Convention, SvdOps};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::site::{SiteMap, Target};

/// A target and its rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// The linear layer.
    pub target: Target,
    /// Its rank.
    pub rank: usize,
    /// Overrides the method's `alpha` at this site (an imported adapter may have one for each).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
}

/// The rank of every adapted site, in the order of the targets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RankPlan {
    /// The planned sites.
    pub sites: Vec<Planned>,
}

/// Where a plan gets the pretrained weights from, one at a time.
pub trait WeightSource<B: Backend> {
    /// The weight of `target`, as the layer multiplies by it.
    ///
    /// # Shapes
    /// - returns `[d_in, d_out]`
    ///
    /// # Errors
    /// [`Error::NoWeights`] where there is none, or what reading it said.
    fn weight(&mut self, target: &Target) -> Result<Tensor<B, 2>>;
}

/// A source without weights, for methods that do not need any.
#[derive(Debug, Clone, Copy)]
pub struct NoWeights;

impl<B: Backend> WeightSource<B> for NoWeights {
    fn weight(&mut self, _target: &Target) -> Result<Tensor<B, 2>> {
        Err(Error::NoWeights {
            reason: "only config.json is at hand; point to a directory with the weights".into(),
        })
    }
}

/// The rank whose singular values reach `share` of the sum of all, at one target.
///
/// # Errors
/// What reading or decomposing the weight said.
pub fn spectral_rank<B: SvdOps>(
    target: &Target,
    share: f64,
    convention: Convention,
    weights: &mut dyn WeightSource<B>,
) -> Result<usize> {
    let spectrum = sara_svd::spectrum_rank(weights.weight(target)?, share, convention)
        .map_err(|source| Error::Spectrum { name: target.name.clone(), source })?;
    Ok(spectrum.rank)
}

impl RankPlan {
    /// The same rank everywhere.
    ///
    /// # Errors
    /// [`Error::Rank`] where a layer is too narrow for it.
    pub fn constant(targets: &[Target], rank: usize) -> Result<Self> {
        Self::new("rank", targets, |target| Ok(Planned::new(target, rank)))
    }

    /// What `planned` says of each target; `field` is the configuration's, for the error.
    ///
    /// # Errors
    /// [`Error::Rank`] where a layer is too narrow for its rank, and those of `planned`.
    pub fn new(
        field: &str,
        targets: &[Target],
        mut planned: impl FnMut(&Target) -> Result<Planned>,
    ) -> Result<Self> {
        let checked = |target: &Target| {
            let planned = planned(target)?;
            planned.check(field).map(|()| planned)
        };
        Ok(Self { sites: targets.iter().map(checked).collect::<Result<_>>()? })
    }

    /// Whether a plan that was read from a file is possible.
    ///
    /// # Errors
    /// [`Error::Rank`] where a layer is too narrow for its rank, [`Error::Mismatch`] where a site has two.
    pub fn check(&self) -> Result<()> {
        let mut sites = BTreeSet::new();
        for planned in &self.sites {
            planned.check("plan")?;
            if !sites.insert(planned.target.site) {
                let mismatches = vec![format!("{}: planned twice", planned.target.name)];
                return Err(Error::Mismatch { what: "rank plan".to_owned(), mismatches });
            }
        }
        Ok(())
    }

    /// A module for each planned site.
    pub fn map<B: Backend, M: Module<B>>(&self, module: impl Fn(&Planned) -> M) -> SiteMap<B, M> {
        self.sites.iter().map(|planned| (planned.target.site, module(planned))).collect()
    }

    /// Sum of all ranks.
    pub fn total(&self) -> usize {
        self.sites.iter().map(|site| site.rank).sum()
    }
}

impl Planned {
    /// A target and its rank, at the method's alpha.
    pub fn new(target: &Target, rank: usize) -> Self {
        Self { target: target.clone(), rank, alpha: None }
    }

    /// Parameters of a low-rank pair of this rank.
    pub fn pair_count(&self) -> usize {
        self.rank * (self.target.d_in + self.target.d_out)
    }

    fn check(&self, field: &str) -> Result<()> {
        let &Target { d_in, d_out, .. } = &self.target;
        self.at_most(d_in.min(d_out), field)
    }

    /// Whether the rank is at least 1 and at most `limit`.
    ///
    /// # Errors
    /// [`Error::Rank`].
    pub(crate) fn at_most(&self, limit: usize, field: &str) -> Result<()> {
        let (Target { name, d_in, d_out, .. }, rank) = (&self.target, self.rank);
        if (1..=limit).contains(&rank) {
            return Ok(());
        }
        let (field, name) = (field.to_owned(), name.clone());
        Err(Error::Rank { field, name, rank, d_in: *d_in, d_out: *d_out, limit })
    }
}
