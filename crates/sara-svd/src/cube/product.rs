use burn::tensor::backend::Backend;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::matmul::utils::init_matmul_output;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::matmul::routines::BlueprintStrategy;
use cubek::std::InputBinding;

/// `a b` by units alone: the strategy that burn takes by itself uses tensor cores where there are any, and
/// those round f32 to TF32.
pub(super) fn product<R: CubeRuntime, B: Backend<FloatTensorPrimitive = CubeTensor<R>>>(
    a: CubeTensor<R>,
    b: CubeTensor<R>,
) -> CubeTensor<R> {
    let dtype = a.dtype;
    let out = init_matmul_output(&a, &b, dtype);
    let mut types = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: dtype.into(),
        rhs: dtype.into(),
        out: dtype.into(),
    });
    let input = |tensor: CubeTensor<R>| InputBinding::new(tensor.binding(), dtype.into());
    for strategy in [Strategy::SimpleUnit(BlueprintStrategy::default()), Strategy::Naive] {
        let launched = launch_ref(
            &strategy,
            &out.client,
            input(a.clone()),
            input(b.clone()),
            out.clone().binding(),
            &mut types,
        );
        if launched.is_ok() {
            return out;
        }
    }
    // No unit kernel fits the device: burn's own choice is better than none.
    B::float_matmul(a, b)
}
