//! Who makes a call, as far as the supervisor can know it.

use profiles::resolve::Resolved;
use serde::{Deserialize, Serialize};

/// Longest name or version of a client that is recorded, in bytes; clients choose these themselves.
const CLIENT_TEXT_BYTES_MAX: usize = 128;

/// Who makes a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// Identity that named workspaces, kept results and receipts belong to, such as `uid:1000`.
    pub id: String,
    /// Roles that a profile's `[access] roles` is compared with.
    pub roles: Vec<String>,
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
        Self {
            id: format!("uid:{uid}"),
            roles: vec!["admin".to_owned(), "user".to_owned()],
            client: None,
        }
    }

    /// Who has not been found out: may call nothing.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            id: "nobody".to_owned(),
            roles: Vec::new(),
            client: None,
        }
    }

    /// Whoever reaches a loopback address of this machine, where no keys are asked for.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            id: "anonymous".to_owned(),
            roles: vec!["guest".to_owned(), "user".to_owned()],
            client: None,
        }
    }

    /// Whether a tool is for them. What is not for them they do not see, either.
    #[must_use]
    pub fn may_call(&self, tool: &Resolved) -> bool {
        let roles = &tool.access.roles;
        self.roles.iter().any(|role| roles.contains(role))
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
    fn client_text_is_bounded_and_has_no_control_characters() {
        let caller = Caller::local().with_client(&"é\n".repeat(500), "1.0\u{7f}");
        let client = caller.client.expect("was set");
        assert_eq!(client.name, "é".repeat(64));
        assert_eq!(client.version, "1.0");
    }
}
