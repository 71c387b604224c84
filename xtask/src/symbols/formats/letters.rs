//! The one-letter symbol classes that people know from `nm`.
//!
//! In: what a format says about a symbol and its section. Out: a letter. The classes follow the nm(1)
//! manual: a few section names decide first, then the section's flags. Upper case is global.

/// What decides the class of a section that has no telling name.
#[derive(Clone, Copy)]
pub(super) struct Flags {
    pub(super) code: bool,
    pub(super) allocated: bool,
    pub(super) writable: bool,
    /// Has bytes in the file (not `.bss`).
    pub(super) contents: bool,
}

/// Classes by section name; the name may be followed by a dot, a dollar sign or a digit and anything.
const NAMED: &[(&str, u8)] = &[
    (".bss", b'B'),
    (".data", b'D'),
    (".edata", b'E'),
    (".fini", b'T'),
    (".idata", b'I'),
    (".init", b'T'),
    (".pdata", b'P'),
    (".rdata", b'R'),
    (".rodata", b'R'),
    (".sbss", b'S'),
    (".scommon", b'C'),
    (".sdata", b'G'),
    (".text", b'T'),
];

/// The class of symbols defined in a section; `name` may run on past its NUL.
pub(super) fn section(name: &[u8], flags: Flags) -> u8 {
    let named = NAMED.iter().find(|(prefix, _)| {
        name.strip_prefix(prefix.as_bytes())
            .is_some_and(|rest| rest.first().is_none_or(|next| b"\0.$0123456789".contains(next)))
    });
    match (named, flags) {
        (Some((_, letter)), _) => *letter,
        (None, Flags { code: true, .. }) => b'T',
        (None, Flags { contents: false, .. }) => b'B',
        (None, Flags { allocated: false, .. }) => b'N',
        (None, Flags { writable: true, .. }) => b'D',
        (None, _) => b'R',
    }
}

/// The class of an undefined symbol.
pub(super) fn undefined(weak: bool, data: bool) -> u8 {
    match (weak, data) {
        (false, _) => b'U',
        (true, false) => b'w',
        (true, true) => b'v',
    }
}

/// Section classes worked out once per section, not once per symbol.
pub(super) struct Cache(Vec<Option<Option<u8>>>);

impl Cache {
    pub(super) fn new(sections: usize) -> Self {
        // An index above 0xff00 is a special one in every format.
        Cache(vec![None; sections.min(0x1_0000)])
    }

    pub(super) fn get(&mut self, index: usize, work_out: impl FnOnce() -> Option<u8>) -> Option<u8> {
        let cached = self.0.get_mut(index)?;
        *cached.get_or_insert_with(work_out)
    }
}
