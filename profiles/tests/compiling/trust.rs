//! Variables that name trust stores bring along what they name.

use profiles::diagnostics::Kind;
use profiles::{Diagnostics, SourceFile};

use super::*;

fn with_variables(text: &str, set: &[(&str, &str)]) -> Result<Compiled, Diagnostics> {
    let mut library = profiles::Library::builtin();
    let file = SourceFile {
        name: "profiles/tool.toml".to_owned(),
        text: format!("{HEAD}{text}"),
    };
    let name = library.add(file)?;
    let overrides = Overrides {
        trust_stores: debian::environment(set),
        ..debian::overrides()
    };
    debian::compile_here(&library.resolve(&name, &overrides)?)
}

const PASSED: &str = "run.pass_env = [\"SSL_CERT_FILE\", \"SSL_CERT_DIR\", \"TZ\"]";

#[test]
fn what_a_passed_variable_names_is_shown_read_only() {
    let cell = with_variables(PASSED, &[("SSL_CERT_FILE", "/etc/ssl/cert.pem")]).unwrap();
    let mounts = &cell.template.mounts;
    assert!(matches!(
        bind(mounts, "/etc/ssl/certs/ca.pem"),
        Some((false, _))
    ));
    let named = link(mounts, "/etc/ssl/cert.pem");
    assert_eq!(named, Some("certs/ca.pem".into()));
    assert_eq!(rights(&cell, "/etc/ssl/certs/ca.pem"), READ_FILE);
    let why = cell
        .resolved
        .rules
        .iter()
        .find(|rule| rule.key == "files.read");
    assert!(why.unwrap().why.contains("SSL_CERT_FILE"));

    // The controls: not passed, not set, empty, and no such variable.
    for (text, set) in [
        ("", vec![("SSL_CERT_FILE", "/etc/ssl/cert.pem")]),
        (PASSED, vec![]),
        (PASSED, vec![("SSL_CERT_FILE", "")]),
        (PASSED, vec![("TZ", "/opt/data")]),
    ] {
        let cell = with_variables(text, &set).unwrap();
        let of_host = |mount: &&Mount| matches!(mount, Mount::Bind { .. });
        assert_eq!(cell.template.mounts.iter().find(of_host), None, "{set:?}");
    }
}

#[test]
fn a_list_of_directories_is_shown_one_by_one() {
    let cell = with_variables(PASSED, &[("SSL_CERT_DIR", "/etc/ssl/certs:/opt/data")]).unwrap();
    for path in ["/etc/ssl/certs", "/opt/data"] {
        assert!(bind(&cell.template.mounts, path).is_some(), "{path}");
    }
}

#[test]
fn what_cannot_be_shown_is_refused_as_the_operators_matter() {
    let mut said = String::new();
    for path in [
        "ca.pem",
        "/opt/nothing.pem",
        "/run/some.sock",
        "/",
        "/etc",
        "/proc/self/environ",
        "/work/ca.pem",
        "/tmp",
    ] {
        let error = with_variables(PASSED, &[("SSL_CERT_FILE", path)]).unwrap_err();
        let here =
            |found: &profiles::Diagnostic| matches!(found.kind, Kind::NoPath | Kind::NotOffered);
        assert!(error.0.iter().all(here), "{path}: {error}");
        said.push_str(&error.to_string());
    }
    insta::assert_snapshot!(said);
}

/// A tool that may write where the variable leads could put a link there.
#[test]
fn a_link_that_the_tool_can_replace_is_refused() {
    let set = [("SSL_CERT_FILE", "/srv/work/ca.pem")];
    let text = format!("{PASSED}\nfiles.write = [\"/srv/work\"]");
    let error = with_variables(&text, &set).unwrap_err().to_string();
    assert!(error.contains("the tool itself can replace"), "{error}");
    assert!(with_variables(PASSED, &set).is_ok());
}

/// Before ABI 9 what it names may hold sockets, as any directory of the host may.
#[test]
fn a_directory_that_a_variable_names_counts_as_shown() {
    let text = format!("{PASSED}\nsockets.connect = [\"/run/some.sock\"]");
    let (library, name) = debian::library_with(&format!("{HEAD}{text}"));
    for (directory, ok) in [("/etc/ssl/certs", true), ("/srv/docs", false)] {
        let overrides = Overrides {
            trust_stores: debian::environment(&[("SSL_CERT_DIR", directory)]),
            ..Overrides::default()
        };
        let resolved = library.resolve(&name, &overrides).unwrap();
        let compiled = compile(&resolved, &debian::host(&resolved, Arch::X86_64, 7));
        assert_eq!(compiled.is_ok(), ok, "{directory}");
    }
}
