//! Libraries as `analyze-library` reads them: each format has a target of its own, so that none starves.

use serde::Deserialize;
use xtask::symbols::every_form;

pub fn elf(data: &[u8]) {
    if data.starts_with(b"\x7fELF") {
        library(data);
    }
}

pub fn macho(data: &[u8]) {
    let magics = [0xfeed_face_u32, 0xfeed_facf, 0xcafe_babe, 0xcafe_babf];
    let given = data.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    if given.is_some_and(|given| magics.iter().any(|magic| [*magic, magic.swap_bytes()].contains(&given))) {
        library(data);
    }
}

/// PE images, and COFF objects, which have no magic.
pub fn pe(data: &[u8]) {
    if !data.starts_with(b"\x7fELF") && !data.starts_with(b"!<") {
        library(data);
    }
}

pub fn ar(data: &[u8]) {
    if data.starts_with(b"!<") || data.starts_with(b"<bigaf>") {
        library(data);
    }
}

/// The laws of a report; whether the file could be read.
pub fn library(data: &[u8]) -> bool {
    let report = match every_form("fuzz", data, false) {
        Ok(report) => report,
        Err(problem) => {
            assert!(!problem.is_empty() && problem.len() < 4096, "{problem}");
            return false;
        }
    };
    assert!(report.len() <= 64 * data.len() + (8 << 20), "{} bytes about {}", report.len(), data.len());
    let mut json = serde_json::Deserializer::from_slice(&report);
    let libraries = Vec::<serde_json::Value>::deserialize(&mut json).expect("the report begins with JSON");
    assert!(!libraries.is_empty());
    if report.len() < 64 << 10 {
        assert_eq!(every_form("fuzz", data, false).as_ref(), Ok(&report), "the same file, read again");
    }
    true
}
