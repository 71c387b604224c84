//! Instruction sets that kernels need, and what this build and this CPU have of them.
//!
//! In: CPUID, XGETBV and, for AMX, the kernel's permission; on aarch64 what the system says of the CPU. Out: a [`SimdLevel`] that is available or not, and a
//! row of [`KernelCapabilities`] about it. Deliberately absent: a choice (see [`super::select`]).

/// Instruction sets a kernel may need, worst first. A later one need not have the earlier ones: AVX-512 CPUs without
/// AVX-VNNI exist, so that what a CPU runs is a set of levels and not the highest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimdLevel {
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX2 and `vpdpbusd` on 256 bits.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ, VNNI and VBMI (Ice Lake, Zen 4 and later).
    Avx512,
    /// AVX-512 as above and tiles of int8 (Sapphire Rapids and later).
    AmxInt8,
    /// NEON with fused multiply-adds, which every aarch64 CPU has.
    Neon,
    /// NEON and `sdot` (Armv8.2, always from Armv8.4 on).
    Dotprod,
    /// `sdot` and `smmla` (Armv8.2, always from Armv8.6 on).
    I8mm,
}

/// What a level needs, and whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelCapabilities {
    pub level: SimdLevel,
    /// CPU features by the names of `/proc/cpuinfo`.
    pub features: &'static [&'static str],
    /// Bytes of a vector register; of a tile for AMX.
    pub register_bytes: usize,
    /// The instruction that multiplies and adds int8.
    pub int8: &'static str,
    /// Whether this build contains kernels for it.
    pub compiled: bool,
    /// Whether this CPU and this system run it: a probe at run time.
    pub available: bool,
}

impl SimdLevel {
    pub const ALL: [SimdLevel; 8] = [
        SimdLevel::Scalar,
        SimdLevel::Avx2,
        SimdLevel::AvxVnni,
        SimdLevel::Avx512,
        SimdLevel::AmxInt8,
        SimdLevel::Neon,
        SimdLevel::Dotprod,
        SimdLevel::I8mm,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            SimdLevel::Scalar => "scalar",
            SimdLevel::Avx2 => "avx2",
            SimdLevel::AvxVnni => "avx-vnni",
            SimdLevel::Avx512 => "avx512",
            SimdLevel::AmxInt8 => "amx-int8",
            SimdLevel::Neon => "neon",
            SimdLevel::Dotprod => "dotprod",
            SimdLevel::I8mm => "i8mm",
        }
    }

    /// Whether this build contains kernels for the level.
    pub const fn is_compiled(self) -> bool {
        match self {
            SimdLevel::Scalar => true,
            SimdLevel::AmxInt8 => cfg!(all(target_arch = "x86_64", target_os = "linux")),
            SimdLevel::Avx2 | SimdLevel::AvxVnni | SimdLevel::Avx512 => cfg!(target_arch = "x86_64"),
            SimdLevel::Neon | SimdLevel::Dotprod | SimdLevel::I8mm => cfg!(target_arch = "aarch64"),
        }
    }

    /// Whether this CPU can run the level: a probe at run time.
    pub fn is_available(self) -> bool {
        match self {
            SimdLevel::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            level => x86::has(level),
            #[cfg(target_arch = "aarch64")]
            level => aarch64::has(level),
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            _ => false,
        }
    }

    pub fn capabilities(self) -> KernelCapabilities {
        let (features, register_bytes, int8): (&'static [&'static str], usize, &'static str) = match self {
            SimdLevel::Scalar => (&[], 8, "imul"),
            SimdLevel::Avx2 => (&["avx2", "fma", "f16c"], 32, "vpmaddubsw"),
            SimdLevel::AvxVnni => (&["avx2", "fma", "f16c", "avx_vnni"], 32, "vpdpbusd"),
            SimdLevel::Avx512 => (
                &["avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512vbmi"],
                64,
                "vpdpbusd",
            ),
            SimdLevel::AmxInt8 => (&["avx512_vnni", "avx512vbmi", "amx_tile", "amx_int8"], 1024, "tdpbsud"),
            SimdLevel::Neon => (&["asimd"], 16, "smull"),
            SimdLevel::Dotprod => (&["asimd", "asimddp"], 16, "sdot"),
            SimdLevel::I8mm => (&["asimd", "asimddp", "i8mm"], 16, "smmla"),
        };
        KernelCapabilities {
            level: self,
            features,
            register_bytes,
            int8,
            compiled: self.is_compiled(),
            available: self.is_available(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::SimdLevel;

    pub(super) fn has(level: SimdLevel) -> bool {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = || has!("avx2") && has!("fma") && has!("f16c");
        let avx512 = || {
            avx2()
                && has!("avx512f")
                && has!("avx512bw")
                && has!("avx512vl")
                && has!("avx512dq")
                && has!("avx512vnni")
                && has!("avx512vbmi")
        };
        match level {
            SimdLevel::Scalar => true,
            SimdLevel::Avx2 => avx2(),
            SimdLevel::AvxVnni => avx2() && has!("avxvnni"),
            SimdLevel::Avx512 => avx512(),
            SimdLevel::AmxInt8 => avx512() && amx_int8(),
            SimdLevel::Neon | SimdLevel::Dotprod | SimdLevel::I8mm => false,
        }
    }

    /// The CPU has tiles of int8, the system saves them, and lets this process use them.
    fn amx_int8() -> bool {
        const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
        const TILE_STATE: u64 = 1 << 17 | 1 << 18;
        let leaves = std::arch::x86_64::__cpuid(0).eax;
        if leaves < 7 || !std::arch::is_x86_feature_detected!("xsave") {
            return false;
        }
        let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
        // SAFETY: the system has enabled XSAVE, as just detected, so that XGETBV of register 0 is allowed.
        let saved = unsafe { xgetbv() };
        features & TILE_AND_INT8 == TILE_AND_INT8 && saved & TILE_STATE == TILE_STATE && permission()
    }

    /// # Safety
    /// The system has enabled XSAVE.
    #[target_feature(enable = "xsave")]
    unsafe fn xgetbv() -> u64 {
        // SAFETY: register 0 exists wherever XSAVE is enabled.
        unsafe { std::arch::x86_64::_xgetbv(0) }
    }

    /// Asks Linux to let this process use tile data, which is off by default; asking again does no harm.
    #[cfg(target_os = "linux")]
    fn permission() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_ulong = 18;
        // SAFETY: the call takes two numbers and touches no memory of this process.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    #[cfg(not(target_os = "linux"))]
    fn permission() -> bool {
        false
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::SimdLevel;

    pub(super) fn has(level: SimdLevel) -> bool {
        use std::arch::is_aarch64_feature_detected as has;
        let dotprod = || has!("neon") && has!("dotprod");
        match level {
            SimdLevel::Scalar => true,
            SimdLevel::Neon => has!("neon"),
            SimdLevel::Dotprod => dotprod(),
            SimdLevel::I8mm => dotprod() && has!("i8mm"),
            SimdLevel::Avx2 | SimdLevel::AvxVnni | SimdLevel::Avx512 | SimdLevel::AmxInt8 => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_compiled_and_has_what_it_builds_on() {
        for level in SimdLevel::ALL {
            let capabilities = level.capabilities();
            assert!(!capabilities.available || capabilities.compiled, "{capabilities:?}");
        }
        let has = |level: SimdLevel| level.is_available();
        assert!(has(SimdLevel::Scalar));
        assert!(!has(SimdLevel::AvxVnni) || has(SimdLevel::Avx2));
        assert!(!has(SimdLevel::AmxInt8) || has(SimdLevel::Avx512));
        assert!(!has(SimdLevel::Dotprod) || has(SimdLevel::Neon));
        assert!(!has(SimdLevel::I8mm) || has(SimdLevel::Dotprod));
        assert_eq!(has(SimdLevel::Neon), cfg!(target_arch = "aarch64"), "every aarch64 CPU has NEON");
    }
}
