//! Stack protector and fortified libc calls, which a library's symbols give away.
//!
//! In: a `Library` with sorted symbols. Out: its `hardening` completed. Exact names only: a compiler that
//! inserts canaries makes the file refer to one of [`CANARY`]; `_FORTIFY_SOURCE` turns a call of `f` into
//! one of `__f_chk`. A library without any of these may still be safe code that needed none, hence
//! "fortified" is a list, not a verdict.

use super::model::{Library, text};

/// What code compiled with a stack protector refers to.
const CANARY: &[&str] =
    &["__stack_chk_fail", "__stack_chk_fail_local", "__stack_chk_guard", "__stack_smash_handler"];

/// Functions with a checked twin in glibc 2.39 (`__NAME_chk`), sorted.
const FORTIFIED: &[&str] = &[
    "asprintf",
    "confstr",
    "dprintf",
    "explicit_bzero",
    "fdelt",
    "fgets",
    "fgets_unlocked",
    "fgetws",
    "fgetws_unlocked",
    "fprintf",
    "fread",
    "fread_unlocked",
    "fwprintf",
    "getcwd",
    "getdomainname",
    "getgroups",
    "gethostname",
    "getlogin_r",
    "gets",
    "getwd",
    "longjmp",
    "mbsnrtowcs",
    "mbsrtowcs",
    "mbstowcs",
    "memcpy",
    "memmove",
    "mempcpy",
    "memset",
    "obstack_printf",
    "obstack_vprintf",
    "poll",
    "ppoll",
    "pread",
    "pread64",
    "printf",
    "ptsname_r",
    "read",
    "readlink",
    "readlinkat",
    "realpath",
    "recv",
    "recvfrom",
    "snprintf",
    "sprintf",
    "stpcpy",
    "stpncpy",
    "strcat",
    "strcpy",
    "strlcat",
    "strlcpy",
    "strncat",
    "strncpy",
    "swprintf",
    "syslog",
    "ttyname_r",
    "vasprintf",
    "vdprintf",
    "vfprintf",
    "vfwprintf",
    "vprintf",
    "vsnprintf",
    "vsprintf",
    "vswprintf",
    "vsyslog",
    "vwprintf",
    "wcpcpy",
    "wcpncpy",
    "wcrtomb",
    "wcscat",
    "wcscpy",
    "wcslcat",
    "wcslcpy",
    "wcsncat",
    "wcsncpy",
    "wcsnrtombs",
    "wcsrtombs",
    "wcstombs",
    "wctomb",
    "wmemcpy",
    "wmemmove",
    "wmempcpy",
    "wmemset",
    "wprintf",
];

/// Completes `library.hardening`. Fortification is a matter of libc's names, so PE and COFF have none.
pub(crate) fn from_symbols(library: &mut Library<'_>) {
    use super::model::Format;
    let mut canary = false;
    let (mut fortified, mut unfortified) = (Vec::new(), Vec::new());
    for symbol in &library.imports {
        let name = text(library.c_name(&symbol.name));
        canary |= CANARY.contains(&&*name);
        let checked = name.strip_prefix("__").and_then(|name| name.strip_suffix("_chk"));
        if checked.is_some_and(|name| FORTIFIED.binary_search(&name).is_ok()) {
            fortified.push(name.into_owned());
        } else if FORTIFIED.binary_search(&&*name).is_ok() {
            unfortified.push(name.into_owned());
        }
    }
    // A static library or a libc defines what others import.
    canary |= CANARY.iter().any(|name| library.find_export(name).is_some());
    let windows = matches!(library.member_format.unwrap_or(library.format), Format::Pe | Format::Coff);
    if !windows {
        library.hardening.fortified = fortified;
        library.hardening.unfortified = unfortified;
    }
    if canary || !windows {
        library.hardening.stack_protector = Some(canary);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn fortified_functions_are_sorted() {
        assert!(super::FORTIFIED.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
