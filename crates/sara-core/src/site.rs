//! Where an adapter sits: layers, roles, targets, and a map of modules by site.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use burn::module::{
    AutodiffModule, Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor,
};
use burn::tensor::backend::{AutodiffBackend, Backend};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What a linear layer does in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Queries of the attention.
    Query,
    /// Keys of the attention.
    Key,
    /// Values of the attention.
    Value,
    /// Output of the attention.
    Output,
    /// Gate of the feed-forward network.
    Gate,
    /// First (widening) layer of the feed-forward network.
    Up,
    /// Last (narrowing) layer of the feed-forward network.
    Down,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::Output => "output",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// One linear layer of a model: which block, and which role in it. Shown as `3-query`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Site {
    /// Index of the transformer block, from 0.
    pub layer: usize,
    /// Role of the linear layer in it.
    pub role: Role,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.layer, self.role)
    }
}

/// A linear layer that may be adapted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Where it is.
    pub site: Site,
    /// Its path in the Hugging Face model, without `.weight`.
    pub name: String,
    /// Input width.
    pub d_in: usize,
    /// Output width.
    pub d_out: usize,
}

/// What the whole model looks like, for methods that share parameters across layers or heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    /// Number of transformer blocks.
    pub n_layers: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Heads of keys and values.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// Which linear layers to adapt: module names of the architecture, or all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    expecting = "expected a list of names such as [\"query\", \"value\"] or \"all-linear\""
)]
pub enum Targets {
    /// Every linear layer of every block.
    AllLinear,
    /// Those whose path ends with one of these names, at a dot.
    #[serde(untagged)]
    Named(Vec<String>),
}

impl Target {
    /// True if `name` is the path, or its end from a dot on.
    pub fn is_named(&self, name: &str) -> bool {
        ends_with(&self.name, name)
    }

    /// The path behind the index of the block: the same in every block.
    fn in_block(&self) -> &str {
        let index = format!(".{}.", self.site.layer);
        self.name.find(&index).map_or(&self.name, |start| &self.name[start + index.len()..])
    }
}

impl Targets {
    /// Picks the targets out of all linear layers, in the order of the layers.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`] where a name matches nothing.
    pub fn select(&self, linears: &[Target]) -> Result<Vec<Target>> {
        let Self::Named(names) = self else { return Ok(linears.to_vec()) };
        for name in names {
            if !linears.iter().any(|target| target.is_named(name)) {
                let known = short_names(linears).join(", ");
                return Err(Error::UnknownTarget { name: name.clone(), known });
            }
        }
        Ok(linears.iter().filter(|target| names.iter().any(|name| target.is_named(name))).cloned().collect())
    }
}

fn ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// The shortest endings that tell the layers of one block apart, and the whole path in the block where none does
/// (`output.dense` beside `attention.output.dense`).
pub(crate) fn short_names(linears: &[Target]) -> Vec<String> {
    let mut block: Vec<&str> = Vec::new();
    for path in linears.iter().map(Target::in_block) {
        if !block.contains(&path) {
            block.push(path);
        }
    }
    let short = |path: &&str| {
        let dots = path.rmatch_indices('.').map(|(dot, _)| &path[dot + 1..]);
        let tells_apart = |end: &&str| block.iter().filter(|other| ends_with(other, end)).count() == 1;
        dots.into_iter().find(tells_apart).unwrap_or(path).to_owned()
    };
    block.iter().map(short).collect()
}

/// One module for each adapted site; paths and files name the site.
#[derive(Debug, Clone)]
pub struct SiteMap<B: Backend, M: Module<B>> {
    modules: BTreeMap<Site, M>,
    backend: PhantomData<B>,
}

impl<B: Backend, M: Module<B>> SiteMap<B, M> {
    /// The module at `site`, if that site is adapted.
    pub fn get(&self, site: Site) -> Option<&M> {
        self.modules.get(&site)
    }

    /// All sites and their modules, in the order of the sites.
    pub fn iter(&self) -> impl Iterator<Item = (Site, &M)> {
        self.modules.iter().map(|(&site, module)| (site, module))
    }

    /// Number of adapted sites.
    pub fn len(&self) -> usize {
        self.modules.len()
    }

    /// True if no site is adapted.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// Replaces every module, or fails where one fails.
    ///
    /// # Errors
    /// That of `change`.
    pub fn try_map_sites<E>(self, mut change: impl FnMut(Site, M) -> Result<M, E>) -> Result<Self, E> {
        self.modules.into_iter().map(|(site, module)| Ok((site, change(site, module)?))).collect()
    }

    /// Replaces every module.
    pub fn map_sites(self, mut change: impl FnMut(Site, M) -> M) -> Self {
        self.modules.into_iter().map(|(site, module)| (site, change(site, module))).collect()
    }
}

impl<B: Backend, M: Module<B>> FromIterator<(Site, M)> for SiteMap<B, M> {
    fn from_iter<I: IntoIterator<Item = (Site, M)>>(entries: I) -> Self {
        Self { modules: entries.into_iter().collect(), backend: PhantomData }
    }
}

impl<B: Backend, M: Module<B>> Module<B> for SiteMap<B, M> {
    type Record = Vec<M::Record>;

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        self.modules.values().fold(devices, |devices, module| module.collect_devices(devices))
    }

    fn fork(self, device: &B::Device) -> Self {
        self.map_sites(|_, module| module.fork(device))
    }

    fn to_device(self, device: &B::Device) -> Self {
        self.map_sites(|_, module| module.to_device(device))
    }

    fn visit<V: ModuleVisitor<B>>(&self, visitor: &mut V) {
        for (site, module) in &self.modules {
            let name = site.to_string();
            visitor.enter_module(&name, "SiteMap");
            module.visit(visitor);
            visitor.exit_module(&name, "SiteMap");
        }
    }

    fn map<T: ModuleMapper<B>>(self, mapper: &mut T) -> Self {
        self.map_sites(|site, module| {
            let name = site.to_string();
            mapper.enter_module(&name, "SiteMap");
            let module = module.map(mapper);
            mapper.exit_module(&name, "SiteMap");
            module
        })
    }

    /// # Panics
    /// If the record has another number of sites, as burn's own lists do.
    fn load_record(self, record: Self::Record) -> Self {
        assert_eq!(self.len(), record.len(), "a record has an entry for each of the sites");
        let modules = self.modules.into_iter().zip(record);
        modules.map(|((site, module), record)| (site, module.load_record(record))).collect()
    }

    fn into_record(self) -> Self::Record {
        self.modules.into_values().map(Module::into_record).collect()
    }
}

impl<B: Backend, M: Module<B> + ModuleDisplay> ModuleDisplayDefault for SiteMap<B, M> {
    fn content(&self, content: Content) -> Option<Content> {
        self.modules
            .iter()
            .fold(content, |content, (site, module)| content.add(&site.to_string(), module))
            .optional()
    }
}

impl<B: Backend, M: Module<B> + ModuleDisplay> ModuleDisplay for SiteMap<B, M> {}

impl<B: AutodiffBackend, M: AutodiffModule<B>> AutodiffModule<B> for SiteMap<B, M> {
    type InnerModule = SiteMap<B::InnerBackend, M::InnerModule>;

    fn valid(&self) -> Self::InnerModule {
        self.modules.iter().map(|(&site, module)| (site, module.valid())).collect()
    }

    fn from_inner(inner: Self::InnerModule) -> Self {
        inner.modules.into_iter().map(|(site, module)| (site, M::from_inner(module))).collect()
    }
}
