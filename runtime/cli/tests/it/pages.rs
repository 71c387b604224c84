//! What is made to be looked at: `inspect --html`, completions and man pages.

use crate::support::*;
use std::path::Path;
use std::process::Command;

/// The page that `inspect --html` writes of a model.
fn page(model: &str, dir: &Path) -> String {
    let file = dir.join("page.html");
    let ran = run(&["inspect", "--model", model, "--html", file.to_str().expect("UTF-8")]);
    assert_eq!(ran.code, 0, "{model}: {}", ran.stderr);
    std::fs::read_to_string(file).expect("it was written")
}

/// The rows of the table in the section with this heading.
fn rows(page: &str, heading: &str) -> Vec<String> {
    let (_, section) =
        page.split_once(&format!("<h2>{heading}</h2>")).unwrap_or_else(|| panic!("no {heading}"));
    let (_, body) = section.split_once("<tbody>").expect("a table");
    let (body, _) = body.split_once("</tbody>").expect("it ends");
    body.lines().filter(|line| line.starts_with("<tr>")).map(str::to_owned).collect()
}

#[test]
fn every_fixture_has_a_page_with_all_its_tensors() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in fixtures() {
        let model = ok(&name);
        let page = page(&model, dir.path());
        let inspected = json(&["inspect", "--model", &model]);
        let tensors = inspected["tensors"].as_array().expect("a list");
        assert_eq!(rows(&page, "Layers").len(), tensors.len(), "{name}");
        for tensor in tensors {
            let (name, bytes) = (tensor["name"].as_str().expect("a name"), &tensor["bytes"]);
            let row = format!("<tr><th scope=\"row\">{name}</th>");
            let found =
                page.lines().any(|line| line.starts_with(&row) && line.contains(&format!(">{bytes}<")));
            assert!(found, "{model}: {name} of {bytes} bytes");
        }
        for outside in ["http:", "https:", "src=", "<script"] {
            assert!(!page.contains(outside), "{name}: {outside}");
        }
    }
}

#[test]
fn codes_are_counted_alike_in_every_ternary_type() {
    let dir = tempfile::tempdir().expect("a folder");
    let codes = |model: &str| -> Vec<String> {
        let rows = rows(&page(model, dir.path()), "Ternary codes");
        // Without the type, which is what differs.
        let cells = |row: &String| {
            row.split("<td").enumerate().filter(|(n, _)| *n != 1).map(|(_, c)| c.to_owned()).collect()
        };
        rows.iter().map(cells).collect()
    };
    let model = "fixtures/trained/kjv-b158.gguf";
    let expected = codes(model);
    assert_eq!(expected.len(), 42, "seven matrices in six layers");
    for ty in ["tq1_0", "tq2_0", "q2_0"] {
        let other = dir.path().join(format!("{ty}.gguf"));
        let other = other.to_str().expect("UTF-8");
        let ran = run(&["quantize", model, other, "--type", ty]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert_eq!(codes(other), expected, "{ty}");
    }
}

/// Names of all commands, as `--help` lists them.
fn commands() -> Vec<String> {
    let help = run(&["--help"]).stdout;
    let (_, list) = help.split_once("Commands:\n").expect("a list");
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

#[test]
fn a_shell_completes_what_the_command_knows() {
    let script = run(&["completions", "bash"]).stdout;
    let complete = |words: &[&str]| -> Vec<String> {
        let ask = format!(
            "{script}\nCOMP_WORDS=({}); COMP_CWORD={}; _bitnet bitnet '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            words.len() - 1,
            words.last().expect("a word"),
            words[words.len() - 2]
        );
        let output = Command::new("bash").args(["-c", &ask]).output().expect("bash runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect()
    };
    assert_eq!(complete(&["bitnet", "cha"]), ["chat"]);
    assert!(complete(&["bitnet", "chat", "--sys"]).contains(&"--system".to_string()));
    assert_eq!(complete(&["bitnet", "run", "--device", "cu"]), ["cuda"]);
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]).stdout;
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
        }
    }
}

#[test]
fn every_command_has_a_man_page() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("man1");
    let ran = run(&["man", folder.to_str().expect("UTF-8")]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    let names = commands();
    assert!(names.len() > 10, "{names:?}");
    for command in names.iter().filter(|name| *name != "help") {
        let page = std::fs::read_to_string(folder.join(format!("bitnet-{command}.1"))).expect(command);
        assert!(page.contains(&format!(".TH bitnet-{command} 1")), "{command}");
        assert!(page.contains(".SH OPTIONS") || page.contains(".SH SUBCOMMANDS"), "{command}");
    }
}
