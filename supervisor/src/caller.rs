//! Who makes a call, as far as the supervisor can know it.

use profiles::resolve::Resolved;
use serde::{Deserialize, Serialize};

/// Longest name or version of a client that is recorded, in bytes; clients choose these themselves.
const CLIENT_TEXT_BYTES_MAX: usize = 128;

/// Roles that include another: an `admin` may what a `user` may, and a `user` what a `guest` may.
const INCLUDED: [(&str, &str); 2] = [("admin", "user"), ("user", "guest")];

/// Who makes a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// Identity that named workspaces, kept results and receipts belong to, such as `uid:1000`.
    pub id: String,
    /// Roles that a profile's `[access] roles` is compared with.
    pub roles: Vec<String>,
    /// If given, they may call these tools only, whatever their roles.
    #[serde(skip)]
    pub tools: Option<Vec<String>>,
    /// What the client says of itself; it is recorded and decides nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client: Option<Client>,
}

/// What a client says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Client {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Caller {
    /// The person who started this process: on standard input and output, and on the command line,
    /// nobody else can be calling, so every role is theirs.
    #[must_use]
    pub fn local() -> Self {
        Self::of_user(nix::unistd::getuid().as_raw())
    }

    /// A user of this machine's for whom every role is.
    #[must_use]
    pub fn of_user(uid: u32) -> Self {
        Self::with_roles(format!("uid:{uid}"), &["admin".to_owned()], None)
    }

    /// Somebody with these roles, and those that they include.
    #[must_use]
    pub fn with_roles(id: String, roles: &[String], tools: Option<Vec<String>>) -> Self {
        let mut roles = roles.to_vec();
        for (role, included) in INCLUDED {
            let has = |name: &str| roles.iter().any(|role| role == name);
            if has(role) && !has(included) {
                roles.push(included.to_owned());
            }
        }
        Self {
            id,
            roles,
            tools,
            client: None,
        }
    }

    /// Who has not been found out: may call nothing.
    #[must_use]
    pub fn nobody() -> Self {
        Self::with_roles("nobody".to_owned(), &[], None)
    }

    /// Whoever reaches a loopback address of this machine, where no keys are asked for.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::with_roles("anonymous".to_owned(), &["user".to_owned()], None)
    }

    /// Whether a tool is for them. What is not for them they do not see, either.
    #[must_use]
    pub fn may_call(&self, tool: &Resolved) -> bool {
        let roles = &tool.access.roles;
        let named = self.tools.as_ref();
        self.roles.iter().any(|role| roles.contains(role))
            && named.is_none_or(|named| named.contains(&tool.name))
    }

    /// The same caller, with what its client says of itself.
    #[must_use]
    pub fn with_client(mut self, name: &str, version: &str) -> Self {
        self.client = Some(Client {
            name: bounded(name),
            version: bounded(version),
        });
        self
    }
}

/// The head of a text that a client chose, without control characters.
fn bounded(text: &str) -> String {
    let mut head = String::new();
    for character in text.chars().filter(|character| !character.is_control()) {
        if head.len() + character.len_utf8() > CLIENT_TEXT_BYTES_MAX {
            break;
        }
        head.push(character);
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_include_lesser_ones_and_no_others() {
        let of = |role: &str| Caller::with_roles(String::new(), &[role.to_owned()], None).roles;
        assert_eq!(of("admin"), ["admin", "user", "guest"]);
        assert_eq!(of("user"), ["user", "guest"]);
        assert_eq!(of("guest"), ["guest"]);
        assert_eq!(of("analyst"), ["analyst"]);
        assert!(Caller::nobody().roles.is_empty());
    }

    #[test]
    fn client_text_is_bounded_and_has_no_control_characters() {
        let caller = Caller::local().with_client(&"é\n".repeat(500), "1.0\u{7f}");
        let client = caller.client.expect("was set");
        assert_eq!(client.name, "é".repeat(64));
        assert_eq!(client.version, "1.0");
    }
}
