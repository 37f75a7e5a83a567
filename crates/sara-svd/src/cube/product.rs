//! Products in f32 by units alone.
//!
//! The strategies that burn takes by itself use tensor cores where there are any, and those round f32 to TF32.

mod kernels;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Shape, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{empty, input};
use kernels::{SizesLaunch, product_kernel, sum_kernel, turn_kernel};

/// How a workgroup shares out its part of the product: each unit keeps `lines_m x lines_n` squares of 4 x 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Tile {
    units_m: usize,
    units_n: usize,
    lines_m: usize,
    lines_n: usize,
    /// Of the inner dimension, at a time.
    depth: usize,
}

impl Tile {
    /// Most work for each number read.
    const LARGE: Self = Self { units_m: 16, units_n: 16, lines_m: 2, lines_n: 2, depth: 16 };
    const MEDIUM: Self = Self { units_m: 8, units_n: 8, lines_m: 2, lines_n: 2, depth: 16 };
    /// For a few rows.
    const FLAT: Self = Self { units_m: 8, units_n: 16, lines_m: 1, lines_n: 2, depth: 16 };
    /// For few columns.
    const SMALL: Self = Self { units_m: 8, units_n: 8, lines_m: 1, lines_n: 1, depth: 16 };

    const fn rows(self) -> usize {
        4 * self.units_m * self.lines_m
    }

    const fn columns(self) -> usize {
        4 * self.units_n * self.lines_n
    }

    const fn units(self) -> usize {
        self.units_m * self.units_n
    }

    /// Squares of 4 x 4 that are read for each step of the inner dimension.
    const fn squares(self) -> usize {
        (self.rows() + self.columns()) / 4 * (self.depth / 4)
    }

    /// The same for each unit.
    const fn squares_a_unit(self) -> usize {
        self.squares().div_ceil(self.units())
    }

    /// Workgroups for so many products.
    fn groups(self, m: usize, n: usize, products: usize) -> CubeCount {
        CubeCount::Static(n.div_ceil(self.columns()) as u32, m.div_ceil(self.rows()) as u32, products as u32)
    }

    /// The largest that keeps a device busy. Sums come out the same in each, but for the number of [`pieces`].
    fn of(m: usize, n: usize, copies: usize) -> Self {
        let groups = |tile: Self| m.div_ceil(tile.rows()) * n.div_ceil(tile.columns()) * copies;
        if m <= 32 {
            return if n <= 32 { Self::SMALL } else { Self::FLAT };
        }
        if n <= 32 {
            return Self::SMALL;
        }
        if m <= 64 || n <= 64 || groups(Self::LARGE) < ENOUGH { Self::MEDIUM } else { Self::LARGE }
    }
}

/// Workgroups that keep a large device busy.
const ENOUGH: usize = 256;
/// Shortest piece of the inner dimension that a workgroup is worth, and most pieces.
const PIECE: usize = 128;
const PIECES: usize = 32;

/// A matrix of a product, or a stack of them, and how it lies in memory.
#[derive(Clone)]
pub(super) struct Factor<R: CubeRuntime> {
    tensor: CubeTensor<R>,
    /// Whether the inner dimension is contiguous, or else the other one.
    along_inner: bool,
    /// Between neighbours in the dimension that is not.
    stride: usize,
    /// Between matrices.
    of_copy: usize,
    is_aligned: bool,
}

impl<R: CubeRuntime> Factor<R> {
    /// The left one, whose inner dimension is that of its columns.
    fn left(tensor: CubeTensor<R>) -> Self {
        Self::of(tensor, true)
    }

    /// The right one, whose inner dimension is that of its rows.
    fn right(tensor: CubeTensor<R>) -> Self {
        Self::of(tensor, false)
    }

    /// The first `width` columns of contiguous `rows [p, d, n]`, to be multiplied row by row.
    pub(super) fn rows(rows: CubeTensor<R>, width: usize) -> Self {
        let shape = rows.shape();
        Self::new(rows, width, true, shape[2], shape[1] * shape[2])
    }

    fn of(tensor: CubeTensor<R>, inner_is_last: bool) -> Self {
        let rank = tensor.meta.shape().num_dims();
        let is_strided = |x: &CubeTensor<R>| x.meta.strides()[rank - 2..].contains(&1);
        let tensor = if is_strided(&tensor) { tensor } else { into_contiguous(tensor) };
        let (shape, strides) = (tensor.meta.shape().clone(), tensor.meta.strides().clone());
        let of_copy = if rank > 2 { strides[0] } else { 0 };
        if strides[rank - 1] == 1 {
            Self::new(tensor, shape[rank - 1], inner_is_last, strides[rank - 2], of_copy)
        } else {
            Self::new(tensor, shape[rank - 2], !inner_is_last, strides[rank - 1], of_copy)
        }
    }

    fn new(
        tensor: CubeTensor<R>,
        contiguous: usize,
        along_inner: bool,
        stride: usize,
        of_copy: usize,
    ) -> Self {
        let offset = tensor.handle.offset_start.unwrap_or(0) as usize / size_of::<f32>();
        let is_aligned = [contiguous, stride, of_copy, offset].iter().all(|x| x % 4 == 0);
        Self { tensor, along_inner, stride, of_copy, is_aligned }
    }

    /// Numbers that are read at once.
    fn line(&self) -> usize {
        if self.is_aligned { 4 } else { 1 }
    }
}

const SUM_UNITS: u32 = 256;
const SUM_GROUPS: usize = 4096;

/// `a b` for matrices or stacks of matrices in f32.
pub(super) fn product<R: CubeRuntime, B: Backend<FloatTensorPrimitive = CubeTensor<R>>>(
    a: CubeTensor<R>,
    b: CubeTensor<R>,
) -> CubeTensor<R> {
    let (shape_a, shape_b) = (a.shape(), b.shape());
    let rank = shape_a.num_dims();
    let (m, k, n) = (shape_a[rank - 2], shape_a[rank - 1], shape_b[rank - 1]);
    let copies = if rank > 2 { shape_a[0] } else { 1 };
    let is_pair = rank <= 3 && shape_b[rank - 2] == k && (rank < 3 || shape_b[0] == copies);
    let most = [m * k, k * n, m * n].map(|x| x * copies).into_iter().fold(0, usize::max);
    if a.dtype != DType::F32 || m * n * k * copies == 0 || !is_pair || u32::try_from(most).is_err() {
        // The algorithms work in f32 and on what is not empty, and the kernel counts in 32 bits.
        return B::float_matmul(a, b);
    }
    let parts = products(&Factor::left(a), &Factor::right(b), [m, n, k], copies, pieces(m, n, k));
    let mut shape = shape_a;
    shape[rank - 1] = n;
    summed::<R, B>(parts, shape)
}

/// `a^T a` for a matrix in f32, computed on one side of the diagonal.
pub(super) fn gram<R: CubeRuntime, B: Backend<FloatTensorPrimitive = CubeTensor<R>>>(
    a: CubeTensor<R>,
) -> CubeTensor<R> {
    let (k, n) = (a.shape()[0], a.shape()[1]);
    if a.dtype != DType::F32 || n * k == 0 || u32::try_from(n * n.max(k)).is_err() {
        return B::float_matmul(B::float_transpose(a.clone()), a);
    }
    let left = Factor::left(B::float_transpose(a.clone()));
    let parts = all_products(&left, &Factor::right(a), [n, n, k], 1, pieces(n, n, k), true);
    summed::<R, B>(parts, Shape::new([n, n]))
}

/// The sum of `parts`.
fn summed<R: CubeRuntime, B: Backend<FloatTensorPrimitive = CubeTensor<R>>>(
    parts: CubeTensor<R>,
    shape: Shape,
) -> CubeTensor<R> {
    if parts.shape()[0] == 1 {
        return B::float_reshape(parts, shape);
    }
    let sums = empty(&parts, shape);
    let count = sums.shape().num_elements().div_ceil(SUM_UNITS as usize).min(SUM_GROUPS);
    sum_kernel::launch::<R>(
        &sums.client,
        CubeCount::new_1d(count as u32),
        CubeDim::new_1d(SUM_UNITS),
        parts.clone().into_array_arg(),
        sums.clone().into_array_arg(),
        parts.shape()[0] as u32,
    );
    sums
}

/// Parts `[pieces, copies, m, n]` that add up to the products `[copies, m, n]`; at most as many as are asked for.
pub(super) fn products<R: CubeRuntime>(
    a: &Factor<R>,
    b: &Factor<R>,
    sizes: [usize; 3],
    copies: usize,
    pieces: usize,
) -> CubeTensor<R> {
    all_products(a, b, sizes, copies, pieces, false)
}

/// [`products`], which may be known to be symmetric.
fn all_products<R: CubeRuntime>(
    a: &Factor<R>,
    b: &Factor<R>,
    [m, n, k]: [usize; 3],
    copies: usize,
    pieces: usize,
    is_symmetric: bool,
) -> CubeTensor<R> {
    let tile = Tile::of(m, n, copies);
    // All but the last have one length, and none is empty.
    let piece = k.div_ceil(pieces).next_multiple_of(tile.depth);
    let pieces = k.div_ceil(piece);
    let parts = empty(&a.tensor, [pieces, copies, m, n]);
    #[expect(unsafe_code, reason = "the kernel looks at the ends itself")]
    // SAFETY: `read` and `write` stay below the ends of rows and columns, which are those of the tensors.
    unsafe {
        product_kernel::launch_unchecked::<R>(
            &parts.client,
            tile.groups(m, n, copies * pieces),
            CubeDim::new_1d(tile.units() as u32),
            a.line(),
            b.line(),
            if n % 4 == 0 { 4 } else { 1 },
            a.tensor.clone().into_array_arg(),
            b.tensor.clone().into_array_arg(),
            parts.clone().into_array_arg(),
            sizes(a, b, [m, n, k], piece, pieces),
            a.along_inner,
            b.along_inner,
            is_symmetric,
            tile,
        );
    }
    parts
}

/// `rotations^T rows` for each set of `rows [p, d, n]`, all of them `[p d, n]`, with each block of `d / 2` rows where
/// `places [2 p]` sends it.
///
/// # Safety
/// `places` must be a permutation of `0..2 p`.
#[expect(unsafe_code, reason = "the kernel writes where it is told")]
pub(super) unsafe fn turn<R: CubeRuntime>(
    rotations: CubeTensor<R>,
    rows: CubeTensor<R>,
    places: CubeTensor<R>,
) -> CubeTensor<R> {
    let shape = rows.shape();
    let (p, d, n) = (shape[0], shape[1], shape[2]);
    assert_eq!(places.shape().num_elements(), 2 * p, "a place for each block");
    let turned = empty(&rows, [p * d, n]);
    let rotations = into_contiguous(rotations);
    // Its rows are the inner dimension.
    let a = Factor::new(rotations, d, false, d, d * d);
    let b = Factor::right(input(rows));
    let tile = Tile::of(d, n, p);
    // SAFETY: as above, and the places are a permutation of the blocks, as the caller promises.
    unsafe {
        turn_kernel::launch_unchecked::<R>(
            &turned.client,
            tile.groups(d, n, p),
            CubeDim::new_1d(tile.units() as u32),
            a.line(),
            b.line(),
            if n % 4 == 0 { 4 } else { 1 },
            a.tensor.clone().into_array_arg(),
            b.tensor.clone().into_array_arg(),
            into_contiguous(places).into_array_arg(),
            turned.clone().into_array_arg(),
            sizes(&a, &b, [d, n, d], d, 1),
            d / 2,
            a.along_inner,
            b.along_inner,
            tile,
        );
    }
    turned
}

fn sizes<R: CubeRuntime>(
    a: &Factor<R>,
    b: &Factor<R>,
    [m, n, k]: [usize; 3],
    piece: usize,
    pieces: usize,
) -> SizesLaunch<R> {
    SizesLaunch::new(
        m as u32,
        n as u32,
        k as u32,
        a.stride as u32,
        a.of_copy as u32,
        b.stride as u32,
        b.of_copy as u32,
        piece as u32,
        pieces as u32,
    )
}

/// Pieces of the inner dimension, so that a small result keeps the device busy too; the same for each product of a stack,
/// however many there are, since it decides how sums are rounded.
pub(super) fn pieces(m: usize, n: usize, k: usize) -> usize {
    let tile = Tile::of(m, n, 1);
    let groups = m.div_ceil(tile.rows()) * n.div_ceil(tile.columns());
    ENOUGH.div_ceil(groups).min(k.div_ceil(PIECE)).clamp(1, PIECES)
}
