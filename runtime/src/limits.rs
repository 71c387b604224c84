//! What this machine can do at most: bytes read per second, and int8 operations per second.
//!
//! In: a number of threads and a time. Out: samples. Reading is a sum over a buffer larger than the caches;
//! int8 is a loop of multiply-adds on registers alone, with the widest instruction that std can reach on this
//! CPU. Results of the loops are kept alive, so that no compiler leaves them out.
//! Deliberately absent: AMX (no stable intrinsics) and GPUs.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// A buffer to read, each page of it different, so that no two are merged.
pub struct Buffer(Vec<u64>);

impl Buffer {
    /// Twice `last_level_cache` and a bit, at least 256 MiB, at most a quarter of `free_memory` (bytes).
    pub fn size_for(last_level_cache: Option<u64>, free_memory: Option<u64>) -> u64 {
        let wanted = last_level_cache.unwrap_or(0).saturating_mul(2).saturating_add(64 << 20).max(256 << 20);
        free_memory.map_or(wanted, |free| wanted.min(free / 4)).max(1 << 20)
    }

    pub fn new(bytes: u64) -> Self {
        Buffer((0..bytes / 8).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect())
    }

    pub fn bytes(&self) -> u64 {
        self.0.len() as u64 * 8
    }
}

/// Bytes per second of `threads` threads that each read their part of `buffer`; one sample per pass over the
/// whole buffer, for `time` in all and three at least.
pub fn read_bandwidth(buffer: &Buffer, threads: usize, time: Duration) -> Vec<f64> {
    let part = buffer.0.len().div_ceil(threads);
    let parts: Vec<&[u64]> = buffer.0.chunks(part).collect();
    let pass = || {
        together(parts.len(), |thread| {
            black_box(sum(black_box(parts[thread])));
        })
    };
    let started = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < 3 || started.elapsed() < time {
        samples.push(buffer.bytes() as f64 / pass().as_secs_f64());
    }
    samples
}

/// Instructions that multiply and add int8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int8 {
    /// What the compiler makes of a plain loop for the oldest CPU of this architecture.
    Portable,
    Avx2,
    AvxVnni,
    Avx512Vnni,
}

impl Int8 {
    /// The best that this CPU has, by a probe at run time.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512vnni") {
                return Int8::Avx512Vnni;
            } else if has!("avx2") && has!("avxvnni") {
                return Int8::AvxVnni;
            } else if has!("avx2") {
                return Int8::Avx2;
            }
        }
        Int8::Portable
    }

    pub const fn name(self) -> &'static str {
        match self {
            Int8::Portable => "portable multiply-add",
            Int8::Avx2 => "avx2 vpmaddubsw + vpmaddwd",
            Int8::AvxVnni => "avx-vnni vpdpbusd ymm",
            Int8::Avx512Vnni => "avx512-vnni vpdpbusd zmm",
        }
    }

    /// Does `iterations` rounds and returns the operations done (a multiply and an add are two).
    fn work(self, iterations: u64) -> u64 {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            match self {
                Int8::Avx512Vnni if has!("avx512f") && has!("avx512vnni") => {
                    // SAFETY: the CPU has AVX-512F and AVX512-VNNI, as just detected.
                    return unsafe { x86::avx512_vnni(iterations) };
                }
                Int8::AvxVnni if has!("avx2") && has!("avxvnni") => {
                    // SAFETY: the CPU has AVX2 and AVX-VNNI, as just detected.
                    return unsafe { x86::avx_vnni(iterations) };
                }
                Int8::Avx2 if has!("avx2") => {
                    // SAFETY: the CPU has AVX2, as just detected.
                    return unsafe { x86::avx2(iterations) };
                }
                _ => {}
            }
        }
        portable(iterations)
    }
}

/// int8 operations per second of `threads` threads, five samples in `time`.
pub fn int8_operations(int8: Int8, threads: usize, time: Duration) -> Vec<f64> {
    const SAMPLES: u32 = 5;
    const ITERATIONS: u64 = 1 << 14;
    let warm_up = Instant::now();
    while warm_up.elapsed() < time / 10 {
        black_box(int8.work(ITERATIONS));
    }
    let sample = |_| {
        let done: Vec<_> = (0..threads).map(|_| std::sync::atomic::AtomicU64::new(0)).collect();
        let took = together(threads, |thread| {
            let started = Instant::now();
            let mut operations = 0;
            while started.elapsed() < time / SAMPLES {
                operations += int8.work(ITERATIONS);
            }
            done[thread].store(operations, std::sync::atomic::Ordering::Relaxed);
        });
        let total: u64 = done.into_iter().map(|operations| operations.into_inner()).sum();
        total as f64 / took.as_secs_f64()
    };
    (0..SAMPLES).map(sample).collect()
}

/// Runs `work` on `threads` threads that start together; the time from the start until the last is done.
fn together(threads: usize, work: impl Fn(usize) + Sync) -> Duration {
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        for thread in 1..threads {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(thread);
            });
        }
        barrier.wait();
        let started = Instant::now();
        work(0);
        started
    })
    .elapsed()
}

fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2, as just detected.
        return unsafe { x86::sum(words) };
    }
    sum_lanes(words)
}

/// Sixteen sums side by side, so that adding never waits for adding.
#[inline(always)]
fn sum_lanes(words: &[u64]) -> u64 {
    let (groups, rest) = words.as_chunks::<16>();
    let mut sums = [0u64; 16];
    for group in groups {
        sums.iter_mut().zip(group).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
    }
    sums.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

fn portable(iterations: u64) -> u64 {
    const LANES: usize = 64;
    let (a, b) = (black_box([3i8; LANES]), black_box([-2i8; LANES]));
    let mut sums = [0i32; LANES];
    for i in 0..iterations {
        let offset = black_box(i) as i8;
        for lane in 0..LANES {
            let product = i32::from(a[lane].wrapping_add(offset)) * i32::from(b[lane]);
            sums[lane] = sums[lane].wrapping_add(product);
        }
    }
    black_box(sums);
    iterations * LANES as u64 * 2
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Sums side by side; more than latency times throughput of the instruction, fewer than registers.
    const VNNI_LANES: usize = 12;
    const AVX2_LANES: usize = 6;

    #[target_feature(enable = "avx2")]
    pub fn sum(words: &[u64]) -> u64 {
        super::sum_lanes(words)
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn avx512_vnni(iterations: u64) -> u64 {
        let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-2)));
        let mut sums = [_mm512_setzero_si512(); VNNI_LANES];
        for _ in 0..iterations {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        iterations * VNNI_LANES as u64 * 64 * 2
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub fn avx_vnni(iterations: u64) -> u64 {
        let (a, b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-2)));
        let mut sums = [_mm256_setzero_si256(); VNNI_LANES];
        for _ in 0..iterations {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        iterations * VNNI_LANES as u64 * 32 * 2
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2(iterations: u64) -> u64 {
        let mut a = _mm256_set1_epi8(black_box(3));
        let ones = _mm256_set1_epi16(1);
        let b: [__m256i; AVX2_LANES] = std::array::from_fn(|lane| _mm256_set1_epi8(black_box(lane as i8)));
        let mut sums = [_mm256_setzero_si256(); AVX2_LANES];
        for _ in 0..iterations {
            // SAFETY: an empty text that reads and writes only the register given; it keeps the compiler
            // from moving the multiplications out of the loop.
            unsafe { asm!("/* {0} */", inout(ymm_reg) a, options(nomem, nostack, preserves_flags)) };
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
            }
        }
        black_box(sums);
        iterations * AVX2_LANES as u64 * 32 * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read() {
        let buffer = Buffer::new(8 * 1003);
        let expected = buffer.0.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
        assert_eq!((sum(&buffer.0), sum_lanes(&buffer.0)), (expected, expected));
    }

    #[test]
    fn the_buffer_exceeds_the_cache_and_leaves_memory() {
        assert!(Buffer::size_for(Some(480 << 20), Some(64 << 30)) > 960 << 20);
        assert_eq!(Buffer::size_for(Some(480 << 20), Some(1 << 30)), 256 << 20);
        assert_eq!(Buffer::size_for(None, None), 256 << 20);
    }

    #[test]
    fn samples_are_positive_for_every_instruction_and_thread_count() {
        let buffer = Buffer::new(1 << 16);
        let time = Duration::from_millis(1);
        for threads in [1, 3] {
            for samples in [
                read_bandwidth(&buffer, threads, time),
                int8_operations(Int8::detect(), threads, time),
                int8_operations(Int8::Portable, threads, time),
            ] {
                assert!(samples.len() >= 3 && samples.iter().all(|s| s.is_finite() && *s > 0.0));
            }
        }
    }

    #[test]
    fn operations_are_counted_by_the_width_of_the_instruction() {
        for (int8, per_iteration) in
            [(Int8::Portable, 128), (Int8::Avx2, 384), (Int8::AvxVnni, 768), (Int8::Avx512Vnni, 1536)]
        {
            // An instruction that this CPU lacks is replaced by the portable loop, and counted as that.
            let done = int8.work(10);
            assert!([per_iteration * 10, 1280].contains(&done), "{}: {done}", int8.name());
        }
    }
}
