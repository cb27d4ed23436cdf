//! Hosts that the operator gives beside the profile.

use profiles::diagnostics::Kind;
use profiles::{Diagnostics, Library, Resolved};

use super::*;

const NEEDING: &str = "network.required = \"what it reads\"";

fn given(text: &str, hosts: &str) -> Result<Resolved, Diagnostics> {
    let mut library = Library::builtin();
    let name = library.add(debian::file(&format!("{HEAD}{text}\n")))?;
    let hosts = (!hosts.is_empty()).then(|| (name.clone(), hosts.to_owned()));
    let overrides = Overrides {
        hosts: hosts.into_iter().collect(),
        ..debian::overrides()
    };
    library.resolve(&name, &overrides)
}

fn allowed(resolved: &Resolved) -> Vec<String> {
    let rules = &resolved.network.allow;
    rules.iter().map(|rule| rule.entry.to_string()).collect()
}

#[test]
fn hosts_come_on_top_of_the_profiles_and_say_who_gave_them() {
    let written = "network.allow = [\"example.org\"]";
    let resolved = given(written, "two.example:443,8443,*.three.example,example.org").unwrap();
    assert_eq!(
        allowed(&resolved),
        [
            "example.org:443,80",
            "two.example:443,8443",
            "*.three.example:443,80"
        ]
    );
    let rules: Vec<_> = resolved
        .rules
        .iter()
        .filter(|rule| rule.key == "network.allow")
        .map(|rule| (rule.why.as_str(), rule.place.as_str()))
        .collect();
    assert_eq!(
        rules,
        [
            ("", "profiles/tool.toml:4:18"),
            ("the operator gave it", "--allow:1:6"),
            ("the operator gave it", "--allow:1:27"),
        ]
    );
    // A wildcard stays a weakening, whoever gave it.
    assert_eq!(resolved.weakenings.len(), 1, "{:?}", resolved.weakenings);
    let without = given(written, "").unwrap();
    assert_eq!(allowed(&without), ["example.org:443,80"]);
    let digest = |resolved| debian::compile_here(&resolved).unwrap().digest;
    assert_ne!(digest(resolved), digest(without));
}

#[test]
fn hosts_of_another_profile_are_not_taken() {
    let overrides = Overrides {
        hosts: [("other".to_owned(), "example.org".to_owned())].into(),
        ..debian::overrides()
    };
    let (library, name) = debian::library_with(&format!("{HEAD}extends = [\"http_fetch\"]\n"));
    let resolved = library.resolve(&name, &overrides).unwrap();
    assert!(allowed(&resolved).is_empty());
    let overrides = Overrides {
        hosts: [("http_fetch".to_owned(), "example.org".to_owned())].into(),
        ..debian::overrides()
    };
    let resolved = library.resolve(&name, &overrides).unwrap();
    assert!(allowed(&resolved).is_empty());
    let resolved = library.resolve("http_fetch", &overrides).unwrap();
    assert_eq!(allowed(&resolved), ["example.org:443,80"]);
}

#[test]
fn a_profile_that_needs_hosts_and_has_none_says_how_to_give_them() {
    let missing = given(NEEDING, "").unwrap();
    assert_eq!(missing.missing_hosts.as_deref(), Some("what it reads"));
    let error = debian::compile_here(&missing).unwrap_err();
    assert!(error.all(Kind::HostsNotGiven), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("`tool` needs hosts (what it reads)"),
        "{error}"
    );
    assert!(
        error.contains("hint: give them with `--allow tool=HOST`"),
        "{error}"
    );

    let enough = given(NEEDING, "example.org").unwrap();
    assert_eq!(enough.missing_hosts, None);
    debian::compile_here(&enough).unwrap();
    let written = format!("{NEEDING}\nnetwork.allow = [\"example.org\"]");
    assert_eq!(given(&written, "").unwrap().missing_hosts, None);
}

#[test]
fn what_is_no_host_is_said_of_the_option() {
    for (hosts, told) in [
        (
            "https://example.org/api",
            "`https://example.org/api` is a URL",
        ),
        ("example.org,,two.example", "an empty text is no host"),
        ("example.org,example.org", "listed twice"),
        ("db.example/tcp", "is no host"),
        ("localhost", "is the cell itself"),
    ] {
        let error = given(NEEDING, hosts).unwrap_err().to_string();
        assert!(error.contains(told), "{hosts}: {error}");
        assert!(error.contains("[--allow:1:"), "{hosts}: {error}");
    }
}

#[test]
fn what_the_profile_denies_stays_denied() {
    let written = "network.deny = [\"*.internal.example\"]";
    let error = given(written, "a.internal.example")
        .unwrap_err()
        .to_string();
    assert!(error.contains("all of it is denied"), "{error}");
    let resolved = given(written, "*.example").unwrap();
    let cell = debian::compile_here(&resolved).unwrap();
    let plan = cell.egress.unwrap();
    let admit = |name: &str| plan.admit(&profiles::egress::Name::parse(name).unwrap(), 443);
    assert!(admit("a.example").is_ok());
    assert!(admit("a.internal.example").is_err());
}
