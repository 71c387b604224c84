//! Choosing kernels: a request and a probe in, a printable [`KernelSet`] out.

pub struct KernelSet;
