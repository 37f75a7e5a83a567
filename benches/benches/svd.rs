//! `cargo bench -p sara-bench`: every job of sara-svd on the CPU, on sizes that take seconds.
#![allow(missing_docs, reason = "the macro makes a public function")]

use burn_flex::Flex;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sara_bench::kernels::Kernel;
use sara_bench::planted::Planted;

fn svd(criterion: &mut Criterion) {
    for (m, n) in [(64, 64), (384, 384), (1536, 384)] {
        let matrix = Planted::pretrained(m, n, 0).upload::<Flex>();
        let mut group = criterion.benchmark_group(format!("{m}x{n}"));
        group.sample_size(10);
        for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.suits(m, n)) {
            group.bench_function(kernel.name(), |bencher| {
                bencher.iter_batched(|| matrix.clone(), |a| kernel.run(a), BatchSize::LargeInput);
            });
        }
        group.finish();
    }
}

criterion_group!(benches, svd);
criterion_main!(benches);
