//! What a cell is given so that its programs trust the TLS that is opened for a secret.

use profiles::compile::{AuthorityFact, TRUSTED};

use super::*;

const INJECTED: &str = r#"
[[network.inject]]
host = "example.org:443"
method = "POST"
path = "/v1/*"
header = "Authorization"
value = "Bearer {secret}"
secret = "openai"
"#;
const VARIABLES: [&str; 6] = [
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];

fn cell(tables: &str, injected: bool) -> Compiled {
    let inject = if injected { INJECTED } else { "" };
    compiled(&format!(
        "{tables}\n[network]\nallow = [\"example.org\"]\n{inject}"
    ))
}

fn call(cell: &Compiled, authority: bool) -> Result<Call, CallError> {
    let passed = BTreeMap::from([("SSL_CERT_FILE".to_owned(), "/opt/ca.pem".to_owned())]);
    let plan = cell.fill_command(vec!["/usr/bin/cat".to_owned()], &passed);
    let authority = authority.then(|| AuthorityFact {
        certificate: "ours".to_owned(),
        bundle: "/etc/ssl/certs/all.pem".into(),
    });
    let facts = CallFacts {
        authority,
        ..facts()
    };
    cell.call(&plan.unwrap(), &facts)
}

/// The variables among those above, with their values.
fn trusted(call: &Call) -> Vec<(String, String)> {
    let variables = call
        .program
        .iter()
        .flat_map(|program| &program.env)
        .filter_map(|variable| {
            let (name, value) = variable.to_str().unwrap().split_once('=')?;
            VARIABLES
                .contains(&name)
                .then(|| (name.to_owned(), value.to_owned()))
        });
    variables.collect()
}

#[test]
fn the_cells_own_authority_is_behind_the_hosts_and_every_variable_names_it() {
    let call = call(&cell("", true), true).unwrap();
    assert_eq!(
        call.mounts,
        [Mount::Appended {
            source: "/etc/ssl/certs/all.pem".into(),
            target: TRUSTED.into(),
            contents: b"\nours".to_vec(),
            mode: 0o444,
        }]
    );
    let expected = VARIABLES.map(|name| (name.to_owned(), TRUSTED.to_owned()));
    assert_eq!(trusted(&call), expected);
}

#[test]
fn what_the_profile_sets_is_left_and_what_it_passes_is_not() {
    let tables = "run.pass_env = [\"SSL_CERT_FILE\"]\nrun.env = { PIP_CERT = \"/opt/own.pem\" }";
    let trusted = trusted(&call(&cell(tables, true), true).unwrap());
    let of = |name: &str| trusted.iter().find(|(found, _)| found == name).unwrap();
    assert_eq!(of("PIP_CERT").1, "/opt/own.pem");
    assert_eq!(of("SSL_CERT_FILE").1, TRUSTED);
}

#[test]
fn without_a_secret_to_add_nothing_of_it_is_there() {
    let without = cell("", false);
    let made = call(&without, false).unwrap();
    assert_eq!((trusted(&made), made.mounts), (vec![], vec![]));
    assert!(without.template.root_bytes < cell("", true).template.root_bytes);
}

#[test]
fn an_authority_that_does_not_fit_the_profile_is_refused() {
    for injected in [true, false] {
        let refused = call(&cell("", injected), !injected);
        assert_eq!(refused, Err(CallError::Authority));
    }
}
