//! Our reading against that of others: nm and readelf (their output is committed beside the samples, and
//! nm runs on this machine's own libraries), and goblin for the formats that binutils do not read here.

use super::{fixtures, read, report, sample, samples};
use std::collections::BTreeSet;

/// Lines of `nm`: address, class, name. Of several members' lines, those that the archive as a whole has.
fn nm_lines(text: &str) -> BTreeSet<String> {
    let symbol = |line: &&str| line.split_whitespace().any(|word| word.len() == 1);
    let lines: BTreeSet<&str> = text.lines().filter(symbol).collect();
    let defined: BTreeSet<&str> = lines
        .iter()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split(' ').nth(2))
        .collect();
    let resolved =
        |line: &&&str| line.starts_with(' ') && defined.contains(line.trim_start_matches([' ', 'U', 'w']));
    lines.iter().filter(|line| !resolved(line)).map(|line| line.to_string()).collect()
}

/// The same lines from our table.
fn our_lines(table: &str) -> BTreeSet<String> {
    let start = table.find("exports (").unwrap();
    table[start..]
        .lines()
        .filter(|line| !line.starts_with("exports (") && !line.starts_with("imports (") && !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn symbols_are_those_of_nm() {
    let mut compared = 0;
    for (name, _) in samples() {
        if let Ok(nm) = std::fs::read_to_string(fixtures().join(format!("goldens/{name}.nm"))) {
            assert_eq!(our_lines(&report(&[&format!("bin/{name}")]).1), nm_lines(&nm), "{name}");
            compared += 1;
        }
    }
    assert!(compared >= 19, "{compared}");
}

#[test]
fn facts_are_those_of_readelf() {
    let (mut compared, mut versioned) = (0, 0);
    for (name, data) in samples() {
        let Ok(text) = std::fs::read_to_string(fixtures().join(format!("goldens/{name}.readelf"))) else {
            continue;
        };
        if !name.ends_with(".so") {
            continue;
        }
        let library = &read(&name, &data).unwrap()[0];
        let bracketed = |label: &str| -> Vec<String> {
            text.lines()
                .filter(|line| line.contains(label))
                .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned()))
                .collect()
        };
        let paths = |label| {
            bracketed(label).iter().flat_map(|list| list.split(':')).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            library.name.clone().into_iter().collect::<Vec<_>>(),
            bracketed("Library soname"),
            "{name}"
        );
        assert_eq!(library.needed, bracketed("(NEEDED)"), "{name}");
        assert_eq!(library.rpath, paths("(RPATH)"), "{name}");
        assert_eq!(library.runpath, paths("(RUNPATH)"), "{name}");
        let stack = text.lines().find(|line| line.contains("GNU_STACK")).unwrap();
        assert_eq!(library.hardening.nx, Some(!stack.contains('E')), "{name}: {stack}");
        let relro =
            match (text.contains("GNU_RELRO"), text.contains("BIND_NOW") || text.contains("Flags: NOW")) {
                (false, _) => "none",
                (true, false) => "partial",
                (true, true) => "full",
            };
        assert_eq!(library.hardening.relro, Some(relro), "{name}");
        compared += 1;
        let id = text.lines().find_map(|line| Some(line.split_once("Build ID: ")?.1.to_owned()));
        assert_eq!(library.build_id, id, "{name}");
        if !text.contains("Version definition section") && !text.contains("Version needs section") {
            // readelf finds versions by section headers only.
            continue;
        }
        for version in library.versions_defined.iter().chain(library.versions_needed.values().flatten()) {
            assert!(text.contains(&format!("Name: {version}")), "{name}: {version}");
        }
        let named = text.matches("Name: ").count() - text.matches("Flags: BASE").count();
        let ours = library.versions_defined.len() + library.versions_needed.values().flatten().count();
        assert_eq!(ours, named, "{name}");
        versioned += 1;
    }
    assert!(compared >= 18 && versioned >= 3, "{compared}, {versioned}");
}

#[cfg(target_os = "linux")]
#[test]
fn this_machines_own_libraries_read_as_nm_reads_them() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mapped: BTreeSet<&str> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.starts_with('/'))
        .collect();
    assert!(mapped.len() >= 2, "{mapped:?}");
    for path in mapped {
        let nm = std::process::Command::new("nm").arg("-D").arg(path).output().unwrap();
        if nm.status.success() && !nm.stdout.is_empty() {
            let (nm, ours) = (String::from_utf8(nm.stdout).unwrap(), report(&[path]).1);
            let ours: BTreeSet<String> = our_lines(&ours);
            let nm: BTreeSet<String> = nm.lines().map(str::to_owned).collect();
            let (more, less): (Vec<_>, Vec<_>) =
                (ours.difference(&nm).collect(), nm.difference(&ours).collect());
            assert!(more.is_empty() && less.is_empty(), "{path}: only here {more:?}, only nm {less:?}");
        }
    }
}

#[test]
fn mach_o_is_read_as_goblin_reads_it() {
    for name in ["vec-x86_64-macos.dylib", "vec-aarch64-macos.dylib"] {
        let data = std::fs::read(sample(name)).unwrap();
        let library = &read(name, &data).unwrap()[0];
        let goblin = goblin::mach::MachO::parse(&data, 0).unwrap();
        // goblin walks the exports trie, we read the symbol table.
        let trie: BTreeSet<String> =
            goblin.exports().unwrap().into_iter().map(|export| export.name).collect();
        let ours: BTreeSet<String> =
            library.exports.iter().map(|symbol| String::from_utf8(symbol.name.to_vec()).unwrap()).collect();
        assert_eq!(ours, trie, "{name}");
        assert_eq!(library.name.as_deref(), goblin.name, "{name}");
        assert_eq!(library.rpath, goblin.rpaths, "{name}");
        // goblin puts the file itself first.
        assert_eq!(library.needed, goblin.libs[1..], "{name}");
    }
}

#[test]
fn a_stripped_dylib_is_read_through_its_exports_trie() {
    let name = "vec-x86_64-macos.dylib";
    let mut data = std::fs::read(sample(name)).unwrap();
    let whole = data.clone();
    let goblin = goblin::mach::MachO::parse(&data, 0).unwrap();
    let at = goblin
        .load_commands
        .iter()
        .find(|command| matches!(command.command, goblin::mach::load_command::CommandVariant::Symtab(_)))
        .unwrap()
        .offset;
    // nsyms = 0, as a strip that leaves the trie does.
    data[at + 12..at + 16].fill(0);
    let (stripped, whole) = (&read(name, &data).unwrap()[0], &read(name, &whole).unwrap()[0]);
    assert_eq!((stripped.imports.len(), whole.imports.len()), (0, 2));
    for (found, expected) in stripped.exports.iter().zip(&whole.exports) {
        let sum = |symbol: &super::super::model::Symbol<'_>| {
            (symbol.name.to_vec(), symbol.address, symbol.size, symbol.letter)
        };
        assert_eq!(sum(found), sum(expected));
    }
    assert_eq!(stripped.exports.len(), whole.exports.len());
}

#[test]
fn pe_is_read_as_goblin_reads_it() {
    for name in ["vec-x86_64-windows-gnu.dll", "vec-x86-windows-gnu.dll", "vec-aarch64-windows-gnu.dll"] {
        let data = std::fs::read(sample(name)).unwrap();
        let library = &read(name, &data).unwrap()[0];
        let goblin = goblin::pe::PE::parse(&data).unwrap();
        let exports: BTreeSet<(&str, u64)> =
            goblin.exports.iter().map(|export| (export.name.unwrap(), export.rva as u64)).collect();
        let ours: BTreeSet<(&str, u64)> = library
            .exports
            .iter()
            .map(|symbol| (std::str::from_utf8(&symbol.name).unwrap(), symbol.address))
            .collect();
        assert_eq!(ours, exports, "{name}");
        assert_eq!(library.name.as_deref(), goblin.name, "{name}");
        assert_eq!(library.needed, goblin.libraries, "{name}");
        let imports: BTreeSet<&str> = goblin.imports.iter().map(|import| import.name.as_ref()).collect();
        let ours: BTreeSet<&str> =
            library.imports.iter().map(|symbol| std::str::from_utf8(&symbol.name).unwrap()).collect();
        assert_eq!(ours, imports, "{name}");
    }
}

/// A Mach-O object for 32-bit PowerPC, big-endian, as no compiler at hand makes them any more: one section,
/// `_dot` defined in it, `_elsewhere` undefined, a common symbol of 64 bytes.
fn powerpc_object() -> Vec<u8> {
    let mut data = Vec::new();
    let mut words = |words: &[u32]| data.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    let name = |name: &str| -> [u32; 4] {
        let mut bytes = [0u8; 16];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        std::array::from_fn(|at| u32::from_be_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap()))
    };
    words(&[0xfeed_face, 18, 0, 1, 2, 124 + 24, 0]);
    words(&[1, 124]);
    words(&name(""));
    words(&[0, 16, 176, 16, 7, 7, 1, 0]);
    words(&name("__text"));
    words(&name("__TEXT"));
    words(&[0, 16, 176, 2, 0, 0, 0x8000_0000, 0, 0]);
    words(&[2, 24, 192, 3, 228, 26]);
    words(&[0x4e80_0020; 4]);
    // Name, then type, section and description in one word, then the value.
    words(&[1, 0x0f01_0000, 4]);
    words(&[6, 0x0100_0000, 0]);
    words(&[17, 0x0100_0000, 64]);
    data.extend(b"\0_dot\0_elsewhere\0_scratch\0");
    data
}

#[test]
fn big_endian_32_bit_mach_o() {
    let data = powerpc_object();
    let library = &read("ppc.o", &data).unwrap()[0];
    assert_eq!((library.machine.as_str(), library.bits, library.big_endian), ("ppc", 32, true));
    let exports: Vec<_> = library
        .exports
        .iter()
        .map(|symbol| {
            (std::str::from_utf8(&symbol.name).unwrap(), symbol.address, symbol.size, symbol.letter)
        })
        .collect();
    assert_eq!(exports, [("_dot", 4, 12, b'T'), ("_scratch", 0, 64, b'C')]);
    assert_eq!(library.find_import("elsewhere").map(|symbol| symbol.letter), Some(b'U'));
    let goblin = goblin::mach::MachO::parse(&data, 0).unwrap();
    let names: Vec<&str> = goblin.symbols().map(|symbol| symbol.unwrap().0).collect();
    assert_eq!(names, ["_dot", "_elsewhere", "_scratch"]);
}
