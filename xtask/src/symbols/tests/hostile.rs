//! Hostile input: an error or a report, never a panic, and never more work than the size of the file allows.
//!
//! Deterministic: every truncation of the small samples, seeded mutations of all, and files built to make a
//! reader follow cycles, trust counts or walk overlapping tables. That nothing takes long is asserted by the
//! reader's own accounting (`Budget`), not by a clock.

use super::super::model::{Budget, Format, Library, Symbol};
use super::super::{demangle, every_form};
use super::{read, sample, samples};
use std::borrow::Cow;

/// Everything the command does with a file.
fn digest(name: &str, data: &[u8]) -> Result<usize, String> {
    // Demangling costs a thread; one sample that has mangled names is enough.
    every_form(name, data, name == "libmangled.so").map(|written| written.len())
}

/// A small generator of numbers (xorshift64*), so that a failing case can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

#[test]
fn every_truncation() {
    for (name, data) in samples() {
        // Every byte of one sample per format, a stride that meets all alignments in the others.
        let step = match name.as_str() {
            "libvec.so" | "libvec-headless.so" | "vec-arm-linux-musleabi.so" | "libboth.a" | "needs.o" => 1,
            "needs-x86_64-macos.o" | "vec-x86-windows-gnu.dll" | "vec-x86_64-windows-gnu.obj" => 1,
            "vec-aarch64-windows-gnu.lib" | "vec-powerpc64-linux.so" => 1,
            "vec-x86_64-macos.dylib" => 7,
            _ => 1 + data.len() / 120,
        };
        let mut errors = 0;
        for end in (0..data.len()).step_by(step) {
            errors += usize::from(digest(&name, &data[..end]).is_err());
        }
        assert!(errors > 0, "{name}");
    }
}

#[test]
fn mutations() {
    for (name, data) in samples() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ data.len() as u64);
        for _ in 0..150 {
            let mut bad = data.clone();
            for _ in 0..1 + random.below(6) {
                // Headers and tables lie at the start and the end; code in the middle matters to nobody.
                let at = match random.below(3) {
                    0 => random.below(data.len().min(1024)),
                    1 => data.len() - 1 - random.below(data.len().min(2048)),
                    _ => random.below(data.len()),
                };
                match random.below(4) {
                    0 => bad[at] = random.below(256) as u8,
                    1 => bad[at] ^= 1 << random.below(8),
                    2 => bad[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
                    _ => {
                        let value = (random.below(data.len()) as u32).to_le_bytes();
                        bad[at..].iter_mut().zip(value).for_each(|(byte, new)| *byte = new);
                    }
                }
            }
            let written = digest(&name, &bad).unwrap_or(0);
            assert!(written <= 64 * data.len() + (8 << 20), "{name}: {written} bytes of output");
        }
    }
}

fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

fn u32_at(data: &[u8], at: usize) -> usize {
    u32::from_le_bytes(data[at..at + 4].try_into().unwrap()) as usize
}

/// Offset of the header of the first ELF64 section of `kind`, and of its contents.
fn section(data: &[u8], kind: u32) -> (usize, usize) {
    let headers = u64::from_le_bytes(data[40..48].try_into().unwrap()) as usize;
    let header = (headers..data.len()).step_by(64).find(|at| u32_at(data, at + 4) == kind as usize).unwrap();
    (header, u32_at(data, header + 24))
}

#[test]
fn huge_counts_are_refused() {
    let elf = std::fs::read(sample("libvec.so")).unwrap();
    let (dynsym, _) = section(&elf, 11);
    for size in [u64::MAX, u64::MAX - 23, 1 << 40, 24 * 1_000_000_000] {
        let mut bad = elf.clone();
        put(&mut bad, dynsym + 32, &size.to_le_bytes());
        let _ = digest("counts", &bad);
    }
    let macho = std::fs::read(sample("vec-x86_64-macos.dylib")).unwrap();
    let symtab =
        (32..4096).step_by(4).find(|at| u32_at(&macho, *at) == 2 && u32_at(&macho, at + 4) == 24).unwrap();
    let mut bad = macho.clone();
    put(&mut bad, symtab + 12, &u32::MAX.to_le_bytes());
    assert!(digest("nsyms", &bad).unwrap_err().contains("reaches past the end of the file"));
    let mut bad = macho;
    put(&mut bad, 16, &u32::MAX.to_le_bytes());
    assert!(digest("ncmds", &bad).unwrap_err().contains("load commands"));
    let mut fat = std::fs::read(sample("vec-fat.dylib")).unwrap();
    put(&mut fat, 4, &u32::MAX.to_be_bytes());
    assert!(digest("nfat", &fat).is_err());
}

#[test]
fn overlapping_architectures_are_refused() {
    let mut fat = std::fs::read(sample("vec-fat.dylib")).unwrap();
    let length = fat.len() as u32 - 4096;
    for entry in [8, 28] {
        put(&mut fat, entry + 8, &4096u32.to_be_bytes());
        put(&mut fat, entry + 12, &length.to_be_bytes());
    }
    assert_eq!(digest("fat", &fat).unwrap_err(), "the architectures of the fat file overlap");
}

#[test]
fn version_entries_that_go_round_in_circles_end() {
    let data = std::fs::read(sample("libhard.so")).unwrap();
    let (_, verneed) = section(&data, 0x6fff_fffe);
    for next in [0u32, 1, 16, u32::MAX] {
        for count in [0u16, 1, u16::MAX] {
            let mut bad = data.clone();
            put(&mut bad, verneed + 2, &count.to_le_bytes());
            put(&mut bad, verneed + 12, &next.to_le_bytes());
            put(&mut bad, verneed + 16 + 12, &next.to_le_bytes());
            let _ = digest("verneed", &bad);
        }
    }
    // Each of 4096 entries claims all later ones as its names: quadratic if nobody counts.
    let mut table = vec![0u8; 1 << 16];
    for entry in table.chunks_exact_mut(16) {
        put(entry, 2, &u16::MAX.to_le_bytes());
        put(entry, 8, &16u32.to_le_bytes());
        put(entry, 12, &16u32.to_le_bytes());
    }
    let end = table.len();
    table[end - 4..].fill(0);
    let mut bad = data;
    let (header, _) = section(&bad, 0x6fff_fffe);
    let end = bad.len() as u64;
    put(&mut bad, header + 24, &end.to_le_bytes());
    put(&mut bad, header + 32, &(table.len() as u64).to_le_bytes());
    bad.extend(table);
    let error = digest("quadratic", &bad).unwrap_err();
    assert!(error.contains("overlap"), "{error}");
}

/// An ELF object of `count` symbols whose names all start in one string of `length` bytes.
fn shared_string(count: usize, length: usize) -> Vec<u8> {
    let mut data = std::fs::read(sample("needs.o")).unwrap();
    let (symtab, _) = section(&data, 2);
    let strtab =
        u64::from_le_bytes(data[40..48].try_into().unwrap()) as usize + 64 * u32_at(&data, symtab + 40);
    let place = |header: usize, bytes: Vec<u8>, data: &mut Vec<u8>| {
        let at = data.len() as u64;
        put(data, header + 24, &at.to_le_bytes());
        put(data, header + 32, &(bytes.len() as u64).to_le_bytes());
        data.extend(bytes);
    };
    let symbol = |index: usize| {
        let mut entry = [0u8; 24];
        put(&mut entry, 0, &(index as u32 % length as u32 + 1).to_le_bytes());
        (entry[4], entry[6]) = (0x10, 1);
        entry
    };
    place(symtab, std::iter::once([0; 24]).chain((0..count).map(symbol)).flatten().collect(), &mut data);
    let mut strings = vec![b'a'; length];
    (strings[0], strings[length - 1]) = (0, 0);
    place(strtab, strings, &mut data);
    data
}

#[test]
fn names_that_overlap_cost_what_the_file_size_allows() {
    assert!(digest("modest", &shared_string(10, 100)).is_ok());
    let error = digest("shared", &shared_string(10_000, 100_000)).unwrap_err();
    assert!(error.contains("overlap or repeat beyond what the file size allows"), "{error}");
    let mut budget = Budget::for_image(1000);
    assert!(budget.spend(8 * 1000 + 65536).is_ok() && budget.spend(1).is_err());
    assert!(Budget::for_image(usize::MAX / 16).spend((256 << 20) + 1).is_err());
    assert!(Budget::for_image(1 << 30).steps(usize::MAX).is_err());
}

#[test]
fn a_name_without_an_end_is_an_error_with_its_offset() {
    let mut data = shared_string(3, 50);
    *data.last_mut().unwrap() = b'a';
    let error = digest("endless", &data).unwrap_err();
    assert_eq!(error, "a symbol name at string table offset 0x1 has no end");
}

#[test]
fn an_archive_in_an_archive_is_passed_over() {
    let inner = std::fs::read(sample("libboth.a")).unwrap();
    let mut outer = b"!<arch>\n".to_vec();
    for name in ["inner.a/", "again.a/"] {
        outer.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 644, inner.len()).bytes());
        outer.extend(&inner);
    }
    let libraries = read("outer.a", &outer).unwrap();
    assert_eq!(libraries[0].exports.len(), 0);
    assert_eq!(libraries[0].warnings, ["2 members are no object files and were passed over"]);
}

#[test]
fn hostile_mangled_names_stay_mangled_or_come_out_short() {
    let deep = |open: &str, middle: &str, close: &str, depth: usize| {
        format!("_Z{}{middle}{}", open.repeat(depth), close.repeat(depth))
    };
    let mut names = vec![
        format!("_Z1f{}i", "P".repeat(100_000)),
        format!("_ZN{}E", "1a".repeat(3_000)),
        format!("_RNvC{}1a", "N".repeat(4_000)),
        format!("_RIC1a{}", "T".repeat(4_000)),
        // Each substitution doubles the text.
        format!(
            "_Z1fI{}E",
            (0..36u32)
                .map(|at| format!("1aIS{0}_S{0}_E", char::from_digit(at, 36).unwrap().to_ascii_uppercase()))
                .collect::<String>()
        ),
    ];
    for depth in [3, 10, 30, 60, 90, 200, 2000] {
        names.push(deep("1aI", "i", "E", depth));
        names.push(deep("1fIXadL_Z", "1gv", "EEE", depth));
        names.push(deep("Z1fiE", "1x", "", depth));
        names.push(deep("N1aIXsr", "1b", "EEE", depth));
        names.push(deep("1fIXclL_Z", "1gv", "EEE", depth));
        names.push(deep("1fIJ", "i", "EE", depth));
        names.push(deep("1fDTplfp_", "i", "E", depth));
        names.push(format!("_ZUl{}E_", "ZUl".repeat(depth)));
        names.push(format!("_Z1f{}", "FvM1a".repeat(depth)));
        names.push(format!("_ZcvT_{}", "IcvT_".repeat(depth)));
        names.push(format!("_Z1fIi{}E", "S_".repeat(depth)));
    }
    for (name, source) in names.iter().zip(sources(&names)) {
        assert!(source.is_none_or(|source| source.len() <= 16 << 10), "{name}");
    }
    let good = [
        ("_ZN3foo3barEi", "foo::bar(int)"),
        ("__ZN3foo3barEi", "foo::bar(int)"),
        ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
        ("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"),
    ];
    for ((_, expected), source) in good.iter().zip(sources(&good.map(|(name, _)| name.to_owned()))) {
        assert_eq!(source.as_deref(), Some(*expected));
    }
    assert_eq!(sources(&[names[0].clone(), "printf".to_owned()]), [None, None]);
}

#[test]
fn a_name_that_takes_forever_is_given_up() {
    // The parser doubles its work with each level: nineteen levels keep it busy for minutes.
    let endless = format!("_Z{}i{}v", "cvPT_I".repeat(19), "E".repeat(19));
    let mut library = Library::new("any", Format::Elf, "shared", 0);
    library.exports = [&endless, "_Z1av", "main"].map(symbol).to_vec();
    let found = demangle::library(&library);
    assert_eq!(found.exports[0], None);
    assert!(found.warning().is_some_and(|warning| warning.contains("names were not demangled")));
}

fn symbol(name: &str) -> Symbol<'static> {
    Symbol {
        name: Cow::Owned(name.as_bytes().to_vec()),
        address: 0,
        size: 0,
        version: 0,
        library: 0,
        letter: b'T',
        default_version: false,
    }
}

fn sources(names: &[String]) -> Vec<Option<String>> {
    let mut library = Library::new("any", Format::Elf, "shared", 0);
    library.exports = names.iter().map(|name| symbol(name)).collect();
    demangle::library(&library).exports
}

#[test]
fn mutated_mangled_names_do_no_harm() {
    let seeds = [
        "_ZNSt6vectorIP19ggml_backend_deviceSaIS1_EE17_M_realloc_insertIJRKS1_EEEvN9__gnu_cxx17__normal_iteratorIPS1_S3_EEDpOT_",
        "_ZN4ggml3cpu6repack13tensor_traitsI10block_q4_0Ll4ELl4EL9ggml_type8EE7forwardEP11ggml_tensorPKvm",
        "_ZZN1a1bEvENKUlT_E_clIiEEDaS0_",
        "_RINvNtC3std3mem8align_ofNtNtC7mycrate3foo3BarE",
    ];
    let alphabet: Vec<u8> =
        (b'0'..=b'9').chain(b'A'..=b'Z').chain(b'a'..=b'z').chain([b'_', b'.', b'$']).collect();
    let mut random = Random(42);
    for seed in seeds {
        let mut names = Vec::new();
        for _ in 0..3000 {
            let mut name = seed.as_bytes().to_vec();
            for _ in 0..1 + random.below(5) {
                let at = 2 + random.below(name.len() - 2);
                match random.below(3) {
                    0 => name[at] = alphabet[random.below(alphabet.len())],
                    1 => drop(name.remove(at)),
                    _ => {
                        let from = 2 + random.below(name.len() - 2);
                        let piece = name[from..].iter().take(8).copied().collect::<Vec<_>>();
                        name.splice(at..at, piece);
                    }
                }
            }
            names.push(String::from_utf8(name).unwrap());
        }
        assert!(sources(&names).into_iter().flatten().all(|source| source.len() <= 16 << 10));
    }
}
