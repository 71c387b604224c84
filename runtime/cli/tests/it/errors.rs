//! Failures: the exit code of the table, one message on stderr, and an object on stdout with `--json`.

use crate::support::*;

#[test]
fn failures_have_codes_and_messages() {
    let cases: [(&[&str], i32, &str); 9] = [
        (&["inspect", "--model", "absent.gguf"], 4, "absent.gguf"),
        (&["inspect", "--model", "no-such-model"], 4, "neither a file nor a name of the catalog"),
        (&["inspect", "--model", "smollm2-135m"], 4, "run `bitnet models fetch smollm2-135m`"),
        (&["inspect", "--model", "Cargo.toml"], 3, "GGUF"),
        (
            &["run", "--model", MODEL, "--prompt", "a", "--device", "cuda"],
            5,
            "this build has no cuda backend",
        ),
        (
            &["run", "--model", MODEL, "--prompt", "a", "--temperature", "-1"],
            2,
            "--temperature -1 is out of range",
        ),
        (&["run", "--model", MODEL, "--prompt", "a", "--stop", ""], 2, "a stop string is empty"),
        (&["run", "--model", MODEL, "--prompt", "a", "--ctx-size", "1"], 8, "--ctx-size"),
        (&["kernels", "--kernels", "warp9"], 2, "warp9"),
    ];
    for (args, code, says) in cases {
        let ran = run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("error: ") && ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{args:?}");
    }
}

#[test]
fn json_failures_are_objects_on_stdout() {
    let ran = run(&["run", "--model", "absent.gguf", "--prompt", "a", "--json"]);
    let error = &ran.json()["error"];
    assert_eq!((ran.code, &error["code"], &error["kind"]), (4, &4.into(), &"not-found".into()));
    assert!(ran.stderr.contains(error["message"].as_str().expect("a message")));
}

#[test]
fn a_wrong_command_line_is_code_2() {
    for args in [&["run"][..], &["fly"], &["run", "--model", "a", "--prompt", "b", "--prompt-file", "c"]] {
        assert_eq!(run(args).code, 2, "{args:?}");
    }
}

#[test]
fn unknown_variables_warn_with_the_nearest() {
    let mut command = bitnet(&["kernels"]);
    let ran = finish(command.env("BITNET_THREAD", "2").output().expect("the binary starts"));
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.contains("did you mean BITNET_THREADS?"), "{}", ran.stderr);
}

#[test]
fn variables_act_as_their_switches_do() {
    let mut command = bitnet(&["kernels", "--json"]);
    let ran = finish(command.env("BITNET_KERNELS", "scalar").output().expect("the binary starts"));
    assert_eq!(ran.json()["selection"]["requested"], "scalar");
}

#[test]
fn every_bad_fixture_is_an_error_that_names_file_and_remedy() {
    let mut told = String::new();
    for name in gguf_files("fixtures/gguf/bad") {
        let path = format!("fixtures/gguf/bad/{name}");
        let ran =
            run(&["run", "--model", &path, "--prompt", "a", "--max-tokens", "1", "--kernels", "scalar"]);
        assert_eq!(ran.code, 3, "{path}: {}", ran.stderr);
        let prefix = format!("error: {path}: ");
        let message = ran.stderr.lines().find_map(|line| line.strip_prefix(&prefix));
        let message = message.unwrap_or_else(|| panic!("{path} is not named: {}", ran.stderr));
        assert!(message.contains("; "), "{path}: no remedy in {message}");
        told += &format!("{name}\n  {message}\n");
    }
    insta::assert_snapshot!(told);
}
