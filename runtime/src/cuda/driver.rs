//! The driver: whether it is here and complete, one device with its memory, and its errors with remedies.
//!
//! In: nothing but the machine. Out: a [`Device`]. A missing library, a missing symbol, a missing or old device are
//! messages, never panics: every symbol that this backend calls is looked up before anything is called. Deliberately
//! absent: kernels.

use crate::{Error, Result};
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaViewMut, DevicePtr, DeviceRepr, DriverError, ValidAsZeroBits,
    result,
};
use std::sync::Arc;

/// The oldest compute capability that kernels are built for.
pub const OLDEST: (i32, i32) = (8, 0);

/// What is called of the driver, by cudarc's names.
const SYMBOLS: &[&str] = &[
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxGetCurrent",
    "cuCtxSynchronize",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemAllocAsync",
    "cuMemFree_v2",
    "cuMemFreeAsync",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuModuleGetGlobal_v2",
    "cuFuncSetAttribute",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
    "cuLaunchKernel",
    "cuLaunchCooperativeKernel",
    "cuLaunchKernelEx",
    "cuGetErrorName",
    "cuGetErrorString",
];

/// Names of the devices that can be used, with their compute capability.
///
/// # Errors
/// What is missing, and the remedy.
pub fn probe() -> std::result::Result<Vec<String>, String> {
    // SAFETY: loading the driver's library runs its initialisers, as any program that uses it does.
    if !unsafe { sys::is_culib_present() } {
        return Err("the driver library libcuda.so.1 was not found; install the NVIDIA driver".into());
    }
    // SAFETY: as above; the library is there.
    let library = unsafe { sys::culib() };
    let lacks = |symbol: &&&str| {
        // SAFETY: the symbol is looked up and not called.
        unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) }.is_err()
    };
    if let Some(symbol) = SYMBOLS.iter().find(lacks) {
        return Err(format!("the driver lacks {symbol}; install an NVIDIA driver of CUDA 12.8 or later"));
    }
    let text = |what: &str, error: DriverError| format!("{what}: {}; look at `nvidia-smi`", describe(error));
    result::init().map_err(|error| text("the driver does not start", error))?;
    let count = result::device::get_count().map_err(|error| text("devices cannot be counted", error))?;
    let names: Vec<std::result::Result<String, String>> = (0..count).map(device_name).collect();
    let usable: Vec<String> = names.iter().filter_map(|name| name.clone().ok()).collect();
    match names.into_iter().find_map(|name| name.err()) {
        _ if !usable.is_empty() => Ok(usable),
        Some(problem) => Err(problem),
        None => Err("the driver is here, but no device; look at `nvidia-smi -L`".into()),
    }
}

fn device_name(ordinal: i32) -> std::result::Result<String, String> {
    let facts = || -> std::result::Result<(String, i32, i32), DriverError> {
        let device = result::device::get(ordinal)?;
        // SAFETY: `device` is a device of this driver, and the attributes are known to it.
        let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) };
        Ok((
            result::device::get_name(device)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ))
    };
    let (name, major, minor) = facts().map_err(|error| {
        format!("device {ordinal} does not answer: {}; look at `nvidia-smi`", describe(error))
    })?;
    if (major, minor) < OLDEST {
        let (oldest_major, oldest_minor) = OLDEST;
        return Err(format!(
            "{name} has compute capability {major}.{minor}, kernels are built for {oldest_major}.{oldest_minor} and later; use --device cpu"
        ));
    }
    Ok(format!("{name} (sm_{major}{minor})"))
}

/// One device, with the stream that everything runs on.
pub struct Device {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub name: String,
    /// (major, minor).
    pub capability: (i32, i32),
    pub multiprocessors: u32,
    /// Bytes of shared memory that a block may ask for.
    pub shared_limit: usize,
}

impl Device {
    /// Device number `ordinal`, of those that the process sees.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where [`probe`] finds none; [`Error::Accelerator`] where it does not start.
    pub fn open(ordinal: usize) -> Result<Self> {
        let found = probe()
            .map_err(|missing| Error::Unavailable { what: missing, remedy: "or use --device cpu".into() })?;
        if ordinal >= found.len() {
            return Err(Error::Unavailable {
                what: format!("GPU {ordinal} was wanted, and {} can be used: {}", found.len(), found.join(", ")),
                remedy: "use fewer --tensor-parallel or --replicas; CUDA_VISIBLE_DEVICES says which GPUs a process sees".into(),
            });
        }
        let failed = |error| failure("starting the device", error);
        let context = CudaContext::new(ordinal).map_err(failed)?;
        // SAFETY: everything runs on the one stream of this value, so no slice needs events to be ordered with others.
        unsafe { context.disable_event_tracking() };
        let attribute = |attribute| context.attribute(attribute).map_err(failed);
        Ok(Device {
            stream: context.new_stream().map_err(failed)?,
            name: context.name().map_err(failed)?,
            capability: context.compute_capability().map_err(failed)?,
            multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            shared_limit: attribute(
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )? as usize,
            context,
        })
    }

    /// Bytes that are in use on the whole device.
    pub fn bytes_in_use(&self) -> Result<u64> {
        let (free, total) =
            self.context.mem_get_info().map_err(|error| failure("asking for free memory", error))?;
        Ok((total - free) as u64)
    }

    /// Zeroed memory for `len` elements (one at least).
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, what: &str, len: usize) -> Result<Buffer<T>> {
        let slice = self
            .stream
            .alloc_zeros::<T>(len.max(1))
            .map_err(|error| out_of(what, len * size_of::<T>(), error))?;
        Ok(Buffer::of(slice, &self.stream))
    }

    /// A copy of `values`.
    pub fn upload<T: DeviceRepr + ValidAsZeroBits>(&self, what: &str, values: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.zeros(what, values.len())?;
        self.write(&mut buffer, 0, values)?;
        Ok(buffer)
    }

    /// Writes `values` from element `at` on.
    pub fn write<T: DeviceRepr>(&self, to: &mut Buffer<T>, at: usize, values: &[T]) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let mut view: CudaViewMut<'_, T> = to.slice.slice_mut(at..at + values.len());
        self.stream.memcpy_htod(values, &mut view).map_err(|error| failure("copying to the device", error))
    }

    /// Reads elements from `at` on, after everything that was launched.
    pub fn read<T: DeviceRepr>(&self, from: &Buffer<T>, at: usize, out: &mut [T]) -> Result<()> {
        let view = from.slice.slice(at..at + out.len());
        self.stream.memcpy_dtoh(&view, out).map_err(|error| failure("copying from the device", error))?;
        self.synchronize()
    }

    /// Waits for everything that was launched.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|error| failure("computing", error))
    }
}

/// Memory on the device.
pub struct Buffer<T> {
    pub slice: CudaSlice<T>,
    /// The address on the device.
    pub at: u64,
}

impl<T> Buffer<T> {
    fn of(slice: CudaSlice<T>, stream: &CudaStream) -> Self {
        let at = slice.device_ptr(stream).0;
        Buffer { slice, at }
    }

    /// The address of element `index`.
    ///
    /// # Panics
    /// Where there is no such element: a bug in the caller.
    pub fn address(&self, index: usize) -> u64 {
        assert!(index < self.slice.len(), "element {index} of {}", self.slice.len());
        self.at + (index * size_of::<T>()) as u64
    }
}

/// An error of the driver while doing `what`, with the remedy that fits it.
pub fn failure(what: &str, error: DriverError) -> Error {
    let remedy = match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            "choose a smaller --ctx-size, close other programs on the GPU, or use --device cpu"
        }
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_INVALID_PTX
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "this build has no kernels for this chip and driver: update the driver, or use --device cpu"
        }
        CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE => {
            "another program shares this GPU's multiprocessors; use --device cpu or another GPU"
        }
        _ => "the device may be lost: look at `nvidia-smi`, start again, or use --device cpu",
    };
    Error::Accelerator { what: format!("{what} failed: {}", describe(error)), remedy: remedy.into() }
}

fn out_of(what: &str, bytes: usize, error: DriverError) -> Error {
    failure(&format!("allocating {} MiB on the device for {what}", bytes.div_ceil(1 << 20)), error)
}

/// Name and explanation of an error; the number where the driver does not know it.
fn describe(error: DriverError) -> String {
    let text = |found: std::result::Result<&std::ffi::CStr, DriverError>| {
        found.ok().map(|text| text.to_string_lossy().into_owned())
    };
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(explanation)) => format!("{name} ({explanation})"),
        _ => format!("CUDA error {}", error.0 as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_gets_a_message_and_no_panic() {
        match probe() {
            Ok(devices) => assert!(devices.iter().all(|name| name.contains("(sm_"))),
            Err(missing) => assert!(missing.contains("; "), "no remedy in '{missing}'"),
        }
    }
}
