//! Who asks, and whether they may ask at all: by an API key, by the user that the kernel names, or
//! because there is nobody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::connection::Peer;
use crate::api_keys::Keys;
use crate::caller::Caller;

/// The other header that a key may be in.
const API_KEY: &str = "x-api-key";
/// The scheme of `Authorization` that is known.
const BEARER: &str = "bearer ";

/// How callers are known.
#[derive(Debug, Clone)]
pub struct Access {
    /// User that this supervisor runs as.
    owner: u32,
    /// Other users of this machine, and their roles.
    users: BTreeMap<u32, Vec<String>>,
    keys: Option<Arc<Keys>>,
}

/// Why somebody is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// They have not said who they are.
    Unsaid,
    /// What they say of it is not true, or not any more.
    Untrue,
    /// What they say of it has no single meaning.
    Unclear,
    /// They are known, and may not.
    Refused,
}

impl Access {
    /// Knows those who have these keys, and on Unix sockets this supervisor's own user, root, and these
    /// others.
    #[must_use]
    pub fn new(keys: Option<Keys>, users: BTreeMap<u32, Vec<String>>) -> Self {
        Self {
            owner: nix::unistd::geteuid().as_raw(),
            users,
            keys: keys.map(Arc::new),
        }
    }

    /// Whether whoever reaches it may ask: nobody is asked for a key. Once they are, they always are.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.keys.as_ref().is_some_and(|keys| keys.are_asked_for())
    }

    /// Finds out who asks.
    pub fn caller(&self, peer: Option<Peer>, headers: &HeaderMap) -> Result<Caller, Denied> {
        if let Some(key) = presented(headers)? {
            return self.by_key(key).ok_or(Denied::Untrue);
        }
        match peer {
            // Root could be anybody anyway.
            Some(Peer::Unix { uid }) if uid == self.owner || uid == 0 => Ok(Caller::of_user(uid)),
            Some(Peer::Unix { uid }) => match self.users.get(&uid) {
                Some(roles) => Ok(Caller::with_roles(format!("uid:{uid}"), roles, None)),
                None => Err(Denied::Refused),
            },
            Some(Peer::Tcp(address))
                if self.is_open() && address.ip().to_canonical().is_loopback() =>
            {
                Ok(Caller::anonymous())
            }
            Some(Peer::Tcp(_)) | None => Err(Denied::Unsaid),
        }
    }

    fn by_key(&self, key: &[u8]) -> Option<Caller> {
        match self.keys.as_ref()?.caller(key) {
            Ok(caller) => caller,
            Err(error) => {
                tracing::error!(%error, "every key is refused");
                None
            }
        }
    }
}

/// The one key that a request shows, if it shows one.
fn presented(headers: &HeaderMap) -> Result<Option<&[u8]>, Denied> {
    let mut keys = headers.get_all(API_KEY).iter().map(HeaderValue::as_bytes);
    let mut tokens = headers.get_all(AUTHORIZATION).iter();
    match (keys.next(), tokens.next(), keys.next(), tokens.next()) {
        (None, None, ..) => Ok(None),
        (Some(key), None, None, None) => Ok(Some(key)),
        (None, Some(token), None, None) => bearer(token.as_bytes()).map(Some),
        _ => Err(Denied::Unclear),
    }
}

fn bearer(value: &[u8]) -> Result<&[u8], Denied> {
    match value.split_at_checked(BEARER.len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(BEARER.as_bytes()) => {
            Ok(token.trim_ascii())
        }
        _ => Err(Denied::Untrue),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = given.iter();
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn one_key_is_found_wherever_it_is_and_two_are_none() {
        for given in [
            [("authorization", "Bearer k")],
            [("authorization", "bearer  k ")],
            [("x-api-key", "k")],
        ] {
            assert_eq!(
                presented(&headers(&given)),
                Ok(Some(&b"k"[..])),
                "{given:?}"
            );
        }
        assert_eq!(presented(&headers(&[])), Ok(None));
        for given in [
            [("authorization", "Bearer k"), ("x-api-key", "k")],
            [("authorization", "Bearer k"), ("authorization", "Bearer k")],
            [("x-api-key", "k"), ("x-api-key", "k")],
        ] {
            assert_eq!(
                presented(&headers(&given)),
                Err(Denied::Unclear),
                "{given:?}"
            );
        }
        for given in ["Basic azpr", "Bearer", "k", ""] {
            let given = headers(&[("authorization", given)]);
            assert_eq!(presented(&given), Err(Denied::Untrue), "{given:?}");
        }
    }

    #[test]
    fn users_are_known_by_their_number() {
        let owner = nix::unistd::geteuid().as_raw();
        let access = Access::new(None, BTreeMap::from([(4242, vec!["user".to_owned()])]));
        let ask = |uid| access.caller(Some(Peer::Unix { uid }), &HeaderMap::new());
        assert!(ask(owner).unwrap().roles.contains(&"admin".to_owned()));
        let other = ask(4242).unwrap();
        assert_eq!(
            (other.id.as_str(), other.roles[0].as_str()),
            ("uid:4242", "user")
        );
        assert_eq!(ask(4243), Err(Denied::Refused));
    }

    #[test]
    fn who_comes_from_another_machine_has_to_have_a_key() {
        let access = Access::new(None, BTreeMap::new());
        let ask = |address: &str| {
            let peer = Peer::Tcp(address.parse().unwrap());
            access.caller(Some(peer), &HeaderMap::new())
        };
        assert_eq!(ask("127.0.0.1:9").unwrap(), Caller::anonymous());
        assert_eq!(ask("[::1]:9").unwrap(), Caller::anonymous());
        assert_eq!(ask("10.0.0.1:9"), Err(Denied::Unsaid));
        assert_eq!(access.caller(None, &HeaderMap::new()), Err(Denied::Unsaid));
    }
}
