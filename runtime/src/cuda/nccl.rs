//! NCCL: its library, found at run time, and the collectives that a team of GPUs uses.
//!
//! In: a file (`BITNET_NCCL`), else what the loader finds. Out: one [`Communicator`] per device. A missing library or symbol is
//! a message with its remedy, as with the driver. Types are those of cudarc; its own loader does not look for the name
//! that NCCL has (`libnccl.so.2`) and panics, so the five functions are looked up here. Deliberately absent: what is
//! communicated.

use crate::{Error, Result};
use cudarc::driver::CudaStream;
use cudarc::driver::sys::CUstream;
use cudarc::nccl::sys::{ncclComm_t, ncclDataType_t, ncclResult_t};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The oldest version whose collectives may be captured into a graph.
const OLDEST: c_int = 21_100;
const REMEDY: &str = "run `cargo xtask kernels nccl`, which installs the wheel nvidia-nccl-cu13 that tools/requirements-nccl.txt pins and says what to set, or install NCCL 2.11 or later";

type GetVersion = unsafe extern "C" fn(*mut c_int) -> ncclResult_t;
type InitAll = unsafe extern "C" fn(*mut ncclComm_t, c_int, *const c_int) -> ncclResult_t;
type AllGather = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    ncclDataType_t,
    ncclComm_t,
    CUstream,
) -> ncclResult_t;
type OfComm = unsafe extern "C" fn(ncclComm_t) -> ncclResult_t;
type ErrorString = unsafe extern "C" fn(ncclResult_t) -> *const c_char;

/// The functions of the library.
#[derive(Clone, Copy)]
struct Library {
    version: GetVersion,
    init_all: InitAll,
    all_gather: AllGather,
    destroy: OfComm,
    abort: OfComm,
    error: ErrorString,
}

impl Library {
    fn load(file: Option<&str>) -> Result<Self> {
        let missing = |what: String| Error::Unavailable { what, remedy: REMEDY.into() };
        let names = file.map_or_else(|| vec!["libnccl.so.2", "libnccl.so"], |file| vec![file]);
        let handle = names.iter().find_map(|name| {
            let name = CString::new(*name).ok()?;
            // SAFETY: loading a library runs its initialisers, as any program that uses it does. It is never unloaded.
            let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            (!handle.is_null()).then_some(handle)
        });
        let Some(handle) = handle else {
            return Err(missing(format!("NCCL was not found: no {} can be loaded", names.join(" or "))));
        };
        let symbol = |name: &CStr| {
            // SAFETY: the handle is of a loaded library and the name is a C string.
            let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
            let lacks = || missing(format!("the NCCL that was found lacks {}", name.to_string_lossy()));
            if found.is_null() { Err(lacks()) } else { Ok(found) }
        };
        // SAFETY: the functions have these types in every version of nccl.h since 2.11.
        let library = unsafe {
            Library {
                version: std::mem::transmute::<*mut c_void, GetVersion>(symbol(c"ncclGetVersion")?),
                init_all: std::mem::transmute::<*mut c_void, InitAll>(symbol(c"ncclCommInitAll")?),
                all_gather: std::mem::transmute::<*mut c_void, AllGather>(symbol(c"ncclAllGather")?),
                destroy: std::mem::transmute::<*mut c_void, OfComm>(symbol(c"ncclCommDestroy")?),
                abort: std::mem::transmute::<*mut c_void, OfComm>(symbol(c"ncclCommAbort")?),
                error: std::mem::transmute::<*mut c_void, ErrorString>(symbol(c"ncclGetErrorString")?),
            }
        };
        let mut version = 0;
        // SAFETY: the function writes one number.
        library.checked("asking NCCL for its version", unsafe { (library.version)(&mut version) })?;
        if version < OLDEST {
            return Err(missing(format!("NCCL {version} is too old for graphs, which need {OLDEST}")));
        }
        Ok(library)
    }

    fn checked(&self, what: &str, outcome: ncclResult_t) -> Result<()> {
        if matches!(outcome, ncclResult_t::ncclSuccess | ncclResult_t::ncclInProgress) {
            return Ok(());
        }
        // SAFETY: the function takes any result and returns a string that lives as long as the library.
        let text = unsafe { CStr::from_ptr((self.error)(outcome)) }.to_string_lossy();
        Err(Error::Accelerator {
            what: format!("{what} failed: {text}"),
            remedy: "set NCCL_DEBUG=WARN for its own words; use fewer --tensor-parallel, or one GPU".into(),
        })
    }
}

/// Communicators of one team: whoever fails ends what the others wait for.
struct Team {
    library: Library,
    all: Vec<ncclComm_t>,
    aborted: AtomicBool,
}
// SAFETY: 1. `all` does not change. 2. NCCL takes calls of one communicator from one thread at a time, but for
// ncclCommAbort, which is made to be called from another; `aborted` lets one thread alone do it.
unsafe impl Send for Team {}
// SAFETY: as above.
unsafe impl Sync for Team {}

/// One rank's end of a team. Graphs that hold its collectives are to be dropped before it, its device after it.
pub struct Communicator {
    team: Arc<Team>,
    rank: usize,
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if !self.team.aborted.load(Ordering::Acquire) {
            // SAFETY: the communicator is of this library, and nothing uses it any more.
            unsafe { (self.team.library.destroy)(self.team.all[self.rank]) };
        }
    }
}

impl Communicator {
    /// Of these devices, whose contexts exist.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without the library, [`Error::Accelerator`] where the devices cannot form a team.
    pub fn team(devices: Range<usize>, file: Option<&str>) -> Result<Vec<Communicator>> {
        let library = Library::load(file)?;
        let ranks = devices.len();
        let devices: Vec<c_int> = devices.map(|device| device as c_int).collect();
        let mut all: Vec<ncclComm_t> = vec![std::ptr::null_mut(); ranks];
        // SAFETY: both arrays have `ranks` elements.
        let outcome = unsafe { (library.init_all)(all.as_mut_ptr(), ranks as c_int, devices.as_ptr()) };
        library.checked(&format!("joining {ranks} GPUs"), outcome)?;
        let team = Arc::new(Team { library, all, aborted: AtomicBool::new(false) });
        Ok((0..ranks).map(|rank| Communicator { team: Arc::clone(&team), rank }).collect())
    }

    /// Puts `count` elements from address `from` of every rank, one rank after the other, at address `to` of all of them.
    ///
    /// # Errors
    /// NCCL's, and where another rank failed.
    ///
    /// # Safety
    /// 1. `from` has `count` elements and `to` as many for each rank, on the device of `stream`. 2. All ranks make the same calls in
    ///    the same order.
    pub unsafe fn all_gather(
        &self,
        stream: &CudaStream,
        from: u64,
        to: u64,
        count: usize,
        kind: Kind,
    ) -> Result<()> {
        let team = &self.team;
        self.check()?;
        let data = match kind {
            Kind::Word => ncclDataType_t::ncclUint32,
            Kind::Byte => ncclDataType_t::ncclUint8,
        };
        let (from, to) = (from as *const c_void, to as *mut c_void);
        // SAFETY: passed on to the caller; the communicator is live as it was not aborted.
        let outcome = unsafe {
            (team.library.all_gather)(from, to, count, data, team.all[self.rank], stream.cu_stream())
        };
        team.library.checked("gathering from all GPUs", outcome)
    }

    /// # Errors
    /// Where some rank has ended the team.
    pub fn check(&self) -> Result<()> {
        if !self.team.aborted.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::Accelerator {
            what: "another GPU of the team failed".into(),
            remedy: "look at its own error, and at `nvidia-smi`; start again".into(),
        })
    }

    /// Ends whatever any rank waits for; the team is of no use afterwards.
    pub fn abort(&self) {
        if !self.team.aborted.swap(true, Ordering::AcqRel) {
            for comm in &self.team.all {
                // SAFETY: the communicator is of this library, and the swap lets nobody abort it twice.
                unsafe { (self.team.library.abort)(*comm) };
            }
        }
    }
}

/// What is gathered: 32 or 8 bits, whose meaning does not matter.
#[derive(Clone, Copy)]
pub enum Kind {
    Word,
    Byte,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_names_the_wheel_and_the_command() {
        let error =
            Library::load(Some("/nonexistent/libnccl.so.2")).err().expect("there is none").to_string();
        for part in ["/nonexistent/libnccl.so.2", "nvidia-nccl-cu13", "cargo xtask kernels nccl"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
