//! The GPU backends, on burn's own operations: with fusion on, these become few kernels.

use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use burn_fusion::{Fusion, FusionBackend};

use crate::LayerOps;

impl<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement> LayerOps for CubeBackend<R, F, I, BT> {}

impl<B: FusionBackend> LayerOps for Fusion<B> {}
