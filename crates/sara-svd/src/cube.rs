//! GPU backends: the host path for now, the kernels' place later.

use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use burn_fusion::{Fusion, FusionBackend};

use crate::SvdOps;

impl<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement> SvdOps for CubeBackend<R, F, I, BT> {}

impl<B: FusionBackend + SvdOps> SvdOps for Fusion<B> {}
