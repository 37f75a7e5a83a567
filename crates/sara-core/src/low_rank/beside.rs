//! A branch and what a method keeps beside it at the same site.

use burn::module::{
    AutodiffModule, Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor,
};
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use sara_ops::LayerOps;

use super::SiteBranch;
use crate::delta::Change;
use crate::pass::Pass;
use crate::site::Site;

/// A branch with a method's own state beside it; in files both stand under the path of the site itself.
#[derive(Debug, Clone)]
pub struct Beside<M, S> {
    /// The branch.
    pub branch: M,
    /// What the method keeps.
    pub state: S,
}

impl<B: LayerOps, M: SiteBranch<B>, S: Module<B>> SiteBranch<B> for Beside<M, S> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        self.branch.project(site, base, x, pass)
    }

    fn change(&self) -> Change<B> {
        self.branch.change()
    }

    fn rank(&self) -> usize {
        self.branch.rank()
    }
}

impl<B: Backend, M: Module<B>, S: Module<B>> Module<B> for Beside<M, S> {
    type Record = (M::Record, S::Record);

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        self.state.collect_devices(self.branch.collect_devices(devices))
    }

    fn fork(self, device: &B::Device) -> Self {
        Self { branch: self.branch.fork(device), state: self.state.fork(device) }
    }

    fn to_device(self, device: &B::Device) -> Self {
        Self { branch: self.branch.to_device(device), state: self.state.to_device(device) }
    }

    fn visit<V: ModuleVisitor<B>>(&self, visitor: &mut V) {
        self.branch.visit(visitor);
        self.state.visit(visitor);
    }

    fn map<T: ModuleMapper<B>>(self, mapper: &mut T) -> Self {
        Self { branch: self.branch.map(mapper), state: self.state.map(mapper) }
    }

    fn load_record(self, (branch, state): Self::Record) -> Self {
        Self { branch: self.branch.load_record(branch), state: self.state.load_record(state) }
    }

    fn into_record(self) -> Self::Record {
        (self.branch.into_record(), self.state.into_record())
    }
}

impl<M: ModuleDisplay, S: ModuleDisplay> ModuleDisplayDefault for Beside<M, S> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add("branch", &self.branch).add("state", &self.state).optional()
    }
}

impl<M: ModuleDisplay, S: ModuleDisplay> ModuleDisplay for Beside<M, S> {}

impl<B: AutodiffBackend, M: AutodiffModule<B>, S: AutodiffModule<B>> AutodiffModule<B> for Beside<M, S> {
    type InnerModule = Beside<M::InnerModule, S::InnerModule>;

    fn valid(&self) -> Self::InnerModule {
        Beside { branch: self.branch.valid(), state: self.state.valid() }
    }

    fn from_inner(inner: Self::InnerModule) -> Self {
        Self { branch: M::from_inner(inner.branch), state: S::from_inner(inner.state) }
    }
}
