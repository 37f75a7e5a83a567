//! The allocator of the process.

/// The system's own returns every large tensor to the kernel and faults it in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's `purge_delay`: milliseconds after which free memory goes back to the kernel, -1 for never. The number is
/// that of the version which `Cargo.toml` pins.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Keeps freed memory for the next step: giving it back and faulting it in again is a twentieth of a training step.
pub(crate) fn keep_memory() {
    #[expect(unsafe_code, reason = "the option has no other interface")]
    // SAFETY: it sets a number that mimalloc reads when it next frees memory.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
    }
}
