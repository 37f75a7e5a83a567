//! Threads that stay awake.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rayon::{ThreadPoolBuilder, Yield};

/// How long a thread looks for work without a rest, and how long it then rests each time.
const EAGER: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_micros(100);

/// Does `work` on a pool of its own, as large as the current one, whose threads look for parts of it without falling
/// asleep.
///
/// A worker of a pool sleeps after some microseconds without work, and to wake it takes longer than many a product lasts.
/// From outside the pool it is worse: there every product wakes it and waits for it. In return these threads count as
/// busy between two parts of the work, though they step back for other programs, and rest where there is none for long.
/// Call it once, around all that is to be done.
pub fn awake<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    // Of its own, so that its other threads have nothing to do when `look_for_work` comes to them: on top of a part of
    // the work it would wait for the end, and the end for the part.
    let Ok(pool) = ThreadPoolBuilder::new().num_threads(rayon::current_num_threads()).build() else {
        return rayon::scope(|_| work());
    };
    let ended = AtomicBool::new(false);
    pool.scope(|scope| {
        let here = rayon::current_thread_index();
        let ended = &ended;
        scope.spawn_broadcast(move |_, thread| {
            if Some(thread.index()) != here {
                look_for_work(ended);
            }
        });
        let _end = End(ended);
        work()
    })
}

fn look_for_work(ended: &AtomicBool) {
    let mut last = Instant::now();
    while !ended.load(Ordering::Acquire) {
        if rayon::yield_now() == Some(Yield::Executed) {
            last = Instant::now();
        } else if last.elapsed() < EAGER {
            thread::yield_now();
        } else {
            thread::sleep(PAUSE);
        }
    }
}

/// Says so when it is dropped, in a panic too.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use rayon::prelude::*;

    use super::awake;

    fn sum() -> u64 {
        (0..10_000_u64).into_par_iter().sum()
    }

    #[test]
    fn all_work_is_done_at_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let counted = pool.install(|| awake(rayon::current_num_threads));
            assert_eq!(counted, threads);
            let sums: Vec<u64> = pool.install(|| awake(|| (0..200).map(|_| sum()).collect()));
            assert_eq!(sums, [49_995_000; 200]);
            let nested = pool.install(|| awake(|| rayon::join(|| awake(sum), || awake(sum))));
            assert_eq!(nested, (49_995_000, 49_995_000));
        }
    }

    #[test]
    fn a_panic_ends_it() {
        let end = catch_unwind(|| awake(|| assert_eq!(sum(), 0, "on purpose")));
        assert!(end.is_err());
    }
}
