//! Trust stores of the operator's own: variables such as `SSL_CERT_FILE` are of no use to a tool
//! that cannot read what they name, so what they name is shown with them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::diagnostics::{Diagnostic, Kind, Problems, shortened};
use crate::paths;

use super::chain::{Chain, RuleKey, WrittenRule};
use super::{PathRule, Place, Rule, check_host_path};

/// The variables by which programs are told whom to trust. Only for these does passing a variable
/// also show what it names.
pub const TRUST_STORES: [&str; 9] = [
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];
/// The one that OpenSSL and Go read as a list, separated by colons.
const LIST: &str = "SSL_CERT_DIR";
/// Most directories in such a list.
const LIST_MAX: usize = 8;

/// What the variables name that the profile passes on and that are set, as rules of `files.read`.
///
/// It is the operator's environment and not the profile that is wrong if one of them names what
/// cannot be shown; the tool is then not offered.
pub(super) fn shown(
    chain: &Chain<'_>,
    set: &BTreeMap<String, String>,
    problems: &mut Problems,
) -> (Vec<PathRule>, Vec<Rule>) {
    let mut shown = Vec::new();
    let mut rules = Vec::new();
    let passed = chain.rules(RuleKey::PassEnv);
    for rule in passed.filter(|rule| TRUST_STORES.contains(&rule.text.as_str())) {
        // Empty means unset to whoever reads them.
        let Some(value) = set.get(&rule.text).filter(|value| !value.is_empty()) else {
            continue;
        };
        let parts: Vec<&str> = if rule.text == LIST {
            value.split(':').filter(|part| !part.is_empty()).collect()
        } else {
            vec![value]
        };
        if parts.len() > LIST_MAX {
            problems.push(wrong(
                rule,
                &format!("names more than {LIST_MAX} directories"),
            ));
            continue;
        }
        for part in parts {
            let Some(path) = problems.note(path(rule, part)) else {
                continue;
            };
            let why = format!("`{}` of the supervisor's environment names it", rule.text);
            rules.push(Rule {
                key: RuleKey::Read.text(),
                text: path.display().to_string(),
                why: why.clone(),
                profile: rule.profile.clone(),
                place: rule.origin.to_string(),
            });
            shown.push(PathRule {
                place: Place::Host(path),
                if_present: false,
                why,
                variable: Some(rule.text.clone()),
                origin: rule.origin.clone(),
            });
        }
    }
    (shown, rules)
}

fn path(rule: &WrittenRule, text: &str) -> Result<PathBuf, Diagnostic> {
    let path = paths::absolute(text)
        .map_err(|error| wrong(rule, &format!("names `{}`: {error}", shortened(text))))?;
    check_host_path(&path, &rule.origin)
        .map_err(|refused| wrong(rule, &format!("cannot be shown: {}", refused.message)))?;
    if [super::WORK, super::TMP, super::SHM]
        .iter()
        .any(|own| path == std::path::Path::new(own))
    {
        return Err(wrong(
            rule,
            &format!("names `{}`, of which the cell has its own", path.display()),
        ));
    }
    Ok(path)
}

fn wrong(rule: &WrittenRule, what: &str) -> Diagnostic {
    Diagnostic::at(
        &rule.origin,
        format!("the supervisor's `{}` {what}", rule.text),
    )
    .with_kind(Kind::NoPath)
    .with_hint(hint(&rule.text))
}

/// What mends a variable that names what cannot be shown.
pub(crate) fn hint(variable: &str) -> String {
    format!(
        "start Toolcell with `{variable}` unset or naming another path, or take it out of \
         `run.pass_env`"
    )
}
