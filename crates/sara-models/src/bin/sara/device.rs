//! From the name of a device to a backend: the only place that lists the backends.

use sara_models::run::Device;
use sara_ops::LayerOps;
use sara_ops::threads::awake;
use sara_svd::SvdOps;

use crate::console::Console;

/// A backend that can do all that the commands need.
pub(crate) trait Compute: LayerOps + SvdOps {}

impl<B: LayerOps + SvdOps> Compute for B {}

/// What a command does once it has a backend.
pub(crate) trait Job: Send {
    /// What comes out.
    type Output: Send;

    /// Does it.
    fn run<B: Compute>(self, device: &B::Device) -> anyhow::Result<Self::Output>;
}

/// Runs `job` where `choice` says; says where that is.
pub(crate) fn dispatch<J: Job>(choice: Device, console: Console, job: J) -> anyhow::Result<J::Output> {
    let choice = match choice {
        Device::Auto if cuda::found().is_ok() => Device::Cuda,
        Device::Auto if wgpu::found().is_ok_and(|adapter| adapter.is_gpu) => Device::Wgpu,
        Device::Auto => Device::Cpu,
        named => named,
    };
    let threads = rayon::current_num_threads();
    match choice {
        Device::Auto | Device::Cpu => {
            console.say(format!("device      cpu (flex, {threads} threads)"));
            awake(|| cpu::run(job))
        }
        Device::Ndarray => {
            console.say(format!("device      cpu (ndarray, {threads} threads)"));
            ndarray::run(job)
        }
        Device::Wgpu => {
            console.say(format!("device      {}", wgpu::found()?.name));
            wgpu::run(job)
        }
        Device::Cuda => {
            console.say(format!("device      {}", cuda::found()?));
            cuda::run(job)
        }
    }
}

/// A GPU as the graphics API names it.
#[derive(Clone)]
pub(crate) struct Gpu {
    /// Name and API.
    pub(crate) name: String,
    /// False for a software renderer.
    pub(crate) is_gpu: bool,
}

/// The backends compiled in, in the order of preference.
pub(crate) const COMPILED: &[(&str, bool)] = &[
    ("cpu", cfg!(feature = "flex")),
    ("ndarray", cfg!(feature = "ndarray")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("cuda", cfg!(feature = "cuda")),
];

/// One module for each backend; where it is not compiled in, the same functions say so.
macro_rules! backend {
    ($module:ident, $feature:literal, $backend:ty, $device:expr) => {
        mod $module {
            #[cfg(feature = $feature)]
            pub(super) fn run<J: super::Job>(job: J) -> anyhow::Result<J::Output> {
                job.run::<$backend>(&$device)
            }

            #[cfg(not(feature = $feature))]
            pub(super) fn run<J: super::Job>(_job: J) -> anyhow::Result<J::Output> {
                super::not_compiled($feature)
            }
        }
    };
}

#[cfg(not(all(feature = "flex", feature = "ndarray", feature = "wgpu", feature = "cuda")))]
fn not_compiled<T>(feature: &str) -> anyhow::Result<T> {
    anyhow::bail!(
        "this program was built without the backend {feature}; build it with --features {feature}, or choose another --device"
    )
}

backend!(cpu, "flex", burn_flex::Flex, burn_flex::FlexDevice);
backend!(ndarray, "ndarray", burn_ndarray::NdArray, burn_ndarray::NdArrayDevice::default());

/// Any GPU through wgpu.
pub(crate) mod wgpu {
    use super::Gpu;

    #[cfg(feature = "wgpu")]
    pub(super) fn run<J: super::Job>(job: J) -> anyhow::Result<J::Output> {
        job.run::<burn_wgpu::Wgpu<f32, i32>>(&burn_wgpu::WgpuDevice::default())
    }

    #[cfg(not(feature = "wgpu"))]
    pub(super) fn run<J: super::Job>(_job: J) -> anyhow::Result<J::Output> {
        super::not_compiled("wgpu")
    }

    /// The adapter that would be used.
    #[cfg(feature = "wgpu")]
    pub(crate) fn found() -> anyhow::Result<Gpu> {
        // Asked once: setting the device up a second time is an error.
        static FOUND: std::sync::OnceLock<Option<Gpu>> = std::sync::OnceLock::new();
        FOUND.get_or_init(|| super::quietly(probe)).clone().ok_or_else(|| {
            anyhow::anyhow!("no GPU adapter was found (wgpu); install a driver or choose --device cpu")
        })
    }

    #[cfg(feature = "wgpu")]
    fn probe() -> Gpu {
        let device = burn_wgpu::WgpuDevice::default();
        let options = burn_wgpu::RuntimeOptions::default();
        let setup = burn_wgpu::init_setup::<burn_wgpu::graphics::AutoGraphicsApi>(&device, options);
        let info = setup.adapter.get_info();
        // By its name, so that the crate wgpu need not be named for one value.
        let is_gpu = format!("{:?}", info.device_type) != "Cpu";
        let kind = if is_gpu { "" } else { ", a software renderer" };
        Gpu { name: format!("{} ({:?}{kind})", info.name, info.backend), is_gpu }
    }

    #[cfg(not(feature = "wgpu"))]
    pub(crate) fn found() -> anyhow::Result<Gpu> {
        super::not_compiled("wgpu")
    }
}

/// NVIDIA through CUDA.
pub(crate) mod cuda {
    #[cfg(feature = "cuda")]
    pub(super) fn run<J: super::Job>(job: J) -> anyhow::Result<J::Output> {
        job.run::<burn_cuda::Cuda<f32, i32>>(&burn_cuda::CudaDevice::default())
    }

    #[cfg(not(feature = "cuda"))]
    pub(super) fn run<J: super::Job>(_job: J) -> anyhow::Result<J::Output> {
        super::not_compiled("cuda")
    }

    /// The device that would be used.
    #[cfg(feature = "cuda")]
    pub(crate) fn found() -> anyhow::Result<String> {
        use burn::tensor::Tensor;
        let device = burn_cuda::CudaDevice::default();
        super::quietly(|| Tensor::<burn_cuda::Cuda<f32, i32>, 1>::ones([1], &device).into_data())
            .map(|_| "cuda:0".to_owned())
            .ok_or_else(|| {
                anyhow::anyhow!("no CUDA device was found; install NVIDIA's driver or choose --device cpu")
            })
    }

    #[cfg(not(feature = "cuda"))]
    pub(crate) fn found() -> anyhow::Result<String> {
        super::not_compiled("cuda")
    }
}

/// Runs a probe that panics where there is no device, without its words; `None` if it did.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn quietly<T>(probe: impl FnOnce() -> T) -> Option<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(probe)).ok();
    std::panic::set_hook(hook);
    found
}
