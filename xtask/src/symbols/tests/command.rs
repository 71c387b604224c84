//! Exit codes, errors and switches of the command.

use super::{Cli, report};
use bitforge_schema::exit::ExitCode;

#[test]
fn a_missing_file_and_a_bad_one_do_not_hide_the_others() {
    let (code, out, errors) = report(&["no/such.so", "bin/libvec.so", "bin/libthin.a", "--json"]);
    assert_eq!(code, ExitCode::NotFound);
    assert!(out.contains("\"path\":\"libvec.so\""), "{out}");
    assert!(errors.contains("error: cannot read no/such.so"), "{errors}");
    assert!(errors.contains("error: libthin.a: a thin archive only names its members"), "{errors}");
    assert_eq!(report(&["bin/libthin.a"]).0, ExitCode::BadInput);
    let (code, _, errors) = report(&["bin/libvec.so", "--diff", "bin/vec-arm-linux-musleabi.so"]);
    assert_eq!(code, ExitCode::BadInput);
    assert!(errors.contains("libvec.so is for x86_64, vec-arm-linux-musleabi.so for arm"), "{errors}");
    let (code, out, errors) = report(&["bin/libvec.so", "--diff", "no/such.so"]);
    assert_eq!((code, out.as_str()), (ExitCode::NotFound, ""), "{errors}");
}

#[test]
fn what_is_no_library_is_said_to_be_none() {
    let errors = |bytes: &[u8]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let (code, _, errors) = report(&[&file.path().display().to_string()]);
        assert_eq!(code, ExitCode::BadInput);
        errors
    };
    assert!(errors(b"#!/bin/sh\necho cuda llama_decode\n").contains("not an ELF, Mach-O, PE or COFF file"));
    assert!(errors(b"").contains("not a library: the file has 0 bytes"));
    let (code, _, errors) = report(&[env!("CARGO_MANIFEST_DIR")]);
    assert_eq!(code, ExitCode::BadInput);
    assert!(errors.contains("is a directory; give the library files in it"), "{errors}");
}

#[test]
fn reading_and_mapping_give_the_same() {
    assert_eq!(report(&["bin/libhard.so"]), report(&["bin/libhard.so", "--no-mmap"]));
}

#[test]
fn unknown_capabilities_and_contradictions_are_usage_errors() {
    let parse = |words: &[&str]| {
        let words = ["analyze-library"].iter().chain(words);
        <Cli as clap::Parser>::try_parse_from(words).map(drop).unwrap_err().exit_code()
    };
    assert_eq!(parse(&["a.so", "--expect", "lama"]), ExitCode::Usage as i32);
    assert_eq!(parse(&["a.so", "--json", "--format", "cfg"]), ExitCode::Usage as i32);
    assert_eq!(parse(&["a.so", "--diff", "b.so", "--needs", "c.so"]), ExitCode::Usage as i32);
    assert_eq!(parse(&[]), ExitCode::Usage as i32);
}

#[test]
fn a_closed_pipe_is_no_error() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for form in ["table", "json", "cfg"] {
        let args = super::args(&["bin/libvec.so", "--format", form]);
        assert_eq!(super::super::run(&args, &mut Closed).unwrap(), ExitCode::Ok);
    }
}
