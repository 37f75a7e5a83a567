//! GPU backends: the only place that knows CubeCL.
//!
//! Kernels for the building blocks of [`Engine`], written once for CUDA, Vulkan, Metal and WebGPU: in f32,
//! within 16 KiB of workgroup memory, without float atomics, and with every barrier in uniform control flow,
//! so that the same input gives the same bits on the same device.

mod cholesky;
mod gram_schmidt;
#[expect(clippy::trivially_copy_pass_by_ref, reason = "workgroup memory is a handle to the macro alone")]
mod product;
mod reduce;
#[expect(clippy::trivially_copy_pass_by_ref, reason = "workgroup memory is a handle to the macro alone")]
mod rotations;
mod sketch;

use burn::tensor::ops::{FloatTensor, FloatTensorOps, IntTensor, IntTensorOps};
use burn::tensor::{DType, Device, IntDType, Shape, TensorMetadata};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use burn_fusion::stream::{Operation, OperationStreams};
use burn_fusion::{Fusion, FusionBackend, FusionRuntime, get_client};
use burn_ir::{HandleContainer, InitOperationIr, OperationIr};

use crate::{Engine, Error, Place, SvdOps};

impl<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement> Engine for CubeBackend<R, F, I, BT> {
    fn place() -> Place {
        Place::Device
    }

    fn largest(a: FloatTensor<Self>) -> Result<f64, Error> {
        reduce::largest(a)
    }

    fn norms(a: FloatTensor<Self>) -> Result<(f64, f64), Error> {
        Ok((reduce::largest(a.clone())?, reduce::squared_norm(a)?))
    }

    fn product(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        product::product::<R, Self>(a, b)
    }

    fn gram(a: FloatTensor<Self>) -> FloatTensor<Self> {
        product::gram::<R, Self>(a)
    }

    fn rotations(
        rows: FloatTensor<Self>,
        width: usize,
        floors: FloatTensor<Self>,
        found: FloatTensor<Self>,
        tolerance: f64,
    ) -> Result<(FloatTensor<Self>, FloatTensor<Self>), Error> {
        Ok(rotations::rotations(rows, width, floors, found, tolerance as f32))
    }

    #[expect(unsafe_code, reason = "as the trait has it")]
    unsafe fn turn(
        rotations: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        places: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        // SAFETY: the caller's promise is the same.
        unsafe { product::turn(rotations, rows, Self::int_cast(places, IntDType::I32)) }
    }

    fn cholesky_inverse(
        gram: FloatTensor<Self>,
        shift: f64,
    ) -> Result<(FloatTensor<Self>, FloatTensor<Self>), Error> {
        Ok(cholesky::inverse(gram, shift as f32))
    }

    fn gram_schmidt(x: FloatTensor<Self>, seed: u32) -> Result<FloatTensor<Self>, Error> {
        Ok(gram_schmidt::gram_schmidt(x, seed))
    }

    fn sketch(shape: [usize; 2], seed: u32, dtype: DType, device: &Device<Self>) -> FloatTensor<Self> {
        let sketch = sketch::sketch::<R>(shape, seed, device);
        if dtype == DType::F32 { sketch } else { Self::float_cast(sketch, dtype.into()) }
    }
}

impl<R: CubeRuntime, F: FloatElement, I: IntElement, BT: BoolElement> SvdOps for CubeBackend<R, F, I, BT> {
    type Engine = Self;

    fn enter(a: FloatTensor<Self>) -> FloatTensor<Self> {
        a
    }

    fn leave(a: FloatTensor<Self>) -> FloatTensor<Self> {
        a
    }
}

/// Works on the tensor that fusion has been putting off, and hands the result over as one that is there.
impl<B: FusionBackend + SvdOps> SvdOps for Fusion<B> {
    type Engine = B::Engine;

    fn enter(a: FloatTensor<Self>) -> FloatTensor<Self::Engine> {
        let client = a.client.clone();
        B::enter(client.resolve_tensor_float::<B>(a))
    }

    fn leave(a: FloatTensor<Self::Engine>) -> FloatTensor<Self> {
        let a = B::leave(a);
        let (device, shape, dtype) = (B::float_device(&a), a.shape(), a.dtype());
        let client = get_client::<B>(&device);
        let handle = B::float_tensor_handle(a);
        let tensor = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(handle));
        let mut outputs = client.register(OperationStreams::default(), OperationIr::Init(tensor), Present);
        outputs.swap_remove(0)
    }
}

/// The operation that makes a tensor which is there already.
#[derive(Debug)]
struct Present;

impl<R: FusionRuntime> Operation<R> for Present {
    fn execute(&self, _handles: &mut HandleContainer<R::FusionHandle>) {}
}

/// A new tensor of f32 beside `like`, not initialised.
fn empty<R: CubeRuntime>(like: &CubeTensor<R>, shape: impl Into<Shape>) -> CubeTensor<R> {
    let shape = shape.into();
    let buffer = like.client.empty(shape.num_elements() * size_of::<f32>());
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape, buffer, DType::F32)
}

/// What the kernels take: contiguous f32. [`crate::prepare`] has made it f32 before.
fn input<R: CubeRuntime>(a: CubeTensor<R>) -> CubeTensor<R> {
    debug_assert_eq!(a.dtype, DType::F32);
    into_contiguous(a)
}
