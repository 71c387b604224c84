//! One folder per instruction-set family; `all` is the portable scalar definition of every operation.

pub mod all;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;
