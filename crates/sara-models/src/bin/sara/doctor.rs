//! `sara doctor`: what this program can compute on, here.

use serde_json::{Map, Value, json};

use crate::console::Console;
use crate::device::{COMPILED, cuda, wgpu};

pub(crate) fn run(console: Console) -> anyhow::Result<()> {
    let threads = rayon::current_num_threads();
    let memory = memory_bytes();
    console.say(format!("sara        {}", env!("CARGO_PKG_VERSION")));
    console.say(format!("cpu         {threads} threads, {}", instructions()));
    if let Some(bytes) = memory {
        console.say(format!("memory      {:.1} GiB", bytes as f64 / f64::from(1 << 30)));
    }
    let mut backends = Map::new();
    for &(name, compiled) in COMPILED {
        let state =
            if compiled { probe(name) } else { format!("not compiled in; build with --features {name}") };
        console.say(format!("{name:<11} {state}"));
        backends.insert(name.to_owned(), json!({"compiled": compiled, "state": state}));
    }
    console.say(format!(
        "matmul      {}",
        "f32 on the CPU and through wgpu; TF32 on CUDA, where burn leaves the choice to its strategy"
    ));
    console.say(format!("autotune    {}", if cfg!(feature = "autotune") { "on" } else { "off" }));
    console.result(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "threads": threads,
        "memory_bytes": memory,
        "autotune": cfg!(feature = "autotune"),
        "backends": Value::Object(backends),
    }))
}

/// What is behind a backend that is compiled in.
fn probe(backend: &str) -> String {
    let found = match backend {
        "wgpu" => wgpu::found().map(|adapter| adapter.name),
        "cuda" => cuda::found(),
        _ => return "ready: f32, f64".to_owned(),
    };
    found.map_or_else(|error| error.to_string(), |name| format!("ready: {name}"))
}

/// The widest vector instructions that the matrix kernels would use.
fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if std::is_x86_feature_detected!("avx2") {
            return "AVX2";
        }
    }
    std::env::consts::ARCH
}

/// Memory of the machine, where the system tells.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
