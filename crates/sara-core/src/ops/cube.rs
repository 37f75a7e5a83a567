//! The GPU backends, on burn's own products: with fusion on, the bias joins the product's kernel.

use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use burn_fusion::{Fusion, FusionBackend};

use super::LinearOps;

impl<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement> LinearOps for CubeBackend<R, F, I, BT> {}

impl<B: FusionBackend> LinearOps for Fusion<B> {}
