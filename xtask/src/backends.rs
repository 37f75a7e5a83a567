//! Which of burn's backends this machine can run.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::steps::output;

/// A backend that is a cargo feature of our crates, and whether this machine can run it.
pub(crate) struct Backend {
    pub(crate) feature: &'static str,
    /// Why not, where it cannot.
    pub(crate) missing: Option<&'static str>,
}

/// All backends beside flex, which every machine runs.
pub(crate) fn probe() -> [Backend; 3] {
    let libraries = Libraries::find();
    [
        Backend { feature: "ndarray", missing: None },
        Backend { feature: "wgpu", missing: without_wgpu(&libraries) },
        Backend { feature: "cuda", missing: without_cuda(&libraries) },
    ]
}

fn without_wgpu(libraries: &Libraries) -> Option<&'static str> {
    if cfg!(any(target_os = "macos", windows)) {
        return None; // Metal and DX12 belong to the system.
    }
    if !libraries.contain("libvulkan.so.1") {
        return Some("no libvulkan");
    }
    if !has_vulkan_driver() {
        return Some("no Vulkan driver (.ci/run installs one in software)");
    }
    None
}

/// Whether the Vulkan loader would find a driver's manifest.
fn has_vulkan_driver() -> bool {
    if let Some(files) = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].into_iter().find_map(env::var_os) {
        return env::split_paths(&files).any(|path| path.is_file() || has_manifest(&path));
    }
    let home = |below: &str| env::var_os("HOME").map(|home| Path::new(&home).join(below));
    let mut shared: Vec<PathBuf> = ["/etc", "/usr/local/share", "/usr/share"].map(PathBuf::from).to_vec();
    shared.extend(home(".local/share"));
    if let Some(directories) = env::var_os("XDG_DATA_DIRS") {
        shared.extend(env::split_paths(&directories));
    }
    shared.iter().any(|directory| has_manifest(&directory.join("vulkan/icd.d")))
}

fn has_manifest(directory: &Path) -> bool {
    directory.read_dir().is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "json"))
    })
}

fn without_cuda(libraries: &Libraries) -> Option<&'static str> {
    if !libraries.contain("libcuda.so.1") {
        return Some("no libcuda");
    }
    if !["/dev/nvidiactl", "/dev/dxg"].into_iter().any(|device| Path::new(device).exists()) {
        return Some("libcuda is there, but no NVIDIA device");
    }
    if !libraries.contain("libnvrtc.so") {
        return Some("no libnvrtc, which compiles the kernels");
    }
    None
}

/// The shared libraries that the dynamic linker finds.
struct Libraries {
    cached: String,
    directories: Vec<PathBuf>,
}

impl Libraries {
    fn find() -> Self {
        // Not a Debian-like system, or no ldconfig in the path: the usual directories remain.
        let cached = output(std::process::Command::new("ldconfig").arg("-p"))
            .or_else(|_| output(std::process::Command::new("/sbin/ldconfig").arg("-p")))
            .unwrap_or_default();
        let mut directories: Vec<PathBuf> = ["/usr/lib", "/usr/lib64"].map(PathBuf::from).to_vec();
        if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
            directories.extend(env::split_paths(&path));
        }
        Self { cached, directories }
    }

    /// Whether a library's file name starts with `name`.
    fn contain(&self, name: &str) -> bool {
        self.cached.lines().any(|line| line.trim_start().starts_with(name))
            || self.directories.iter().filter_map(|directory| directory.read_dir().ok()).any(|entries| {
                entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(name))
            })
    }
}
