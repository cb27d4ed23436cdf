//! How the host finds names and gets out, as the supervisor sees it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::wire::{Host, Proxy};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
/// Where a proxy is named, the first that is set (curl(1), "ENVIRONMENT").
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// What tells one state of the host's files from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// How the host finds names and gets out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNetwork {
    resolv_conf: Option<Version>,
    hosts: Option<Version>,
    proxy: Option<Proxy>,
}

impl HostNetwork {
    /// Looks at the host as it is now.
    #[must_use]
    pub fn look() -> Self {
        Self {
            resolv_conf: version(RESOLV_CONF),
            hosts: version(HOSTS),
            proxy: proxy(|name| std::env::var(name).ok()),
        }
    }

    /// What the gateway is told, and the files that go with it.
    #[must_use]
    pub fn for_the_gateway(&self) -> (Host, Vec<OwnedFd>) {
        let open =
            |path, known: &Option<Version>| known.as_ref().and_then(|_| File::open(path).ok());
        let resolv_conf = open(RESOLV_CONF, &self.resolv_conf);
        let hosts = open(HOSTS, &self.hosts);
        let host = Host {
            files: (resolv_conf.is_some(), hosts.is_some()),
            proxy: self.proxy.clone(),
        };
        let files = resolv_conf.into_iter().chain(hosts);
        (host, files.map(OwnedFd::from).collect())
    }
}

fn version(path: &str) -> Option<Version> {
    let found = Path::new(path)
        .metadata()
        .ok()
        .filter(std::fs::Metadata::is_file)?;
    Some(Version {
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

/// The proxy that the environment names: `http://[user:password@]host[:port]`.
fn proxy(variable: impl Fn(&str) -> Option<String>) -> Option<Proxy> {
    let set = |names: &[&str]| {
        names
            .iter()
            .filter_map(|name| variable(name))
            .find(|value| !value.is_empty())
    };
    let text = set(&PROXY_VARIABLES)?;
    let with_scheme = if text.contains("://") {
        text
    } else {
        format!("http://{text}")
    };
    let url = match url::Url::parse(&with_scheme) {
        Ok(url) if url.scheme() == "http" => url,
        _ => {
            tracing::warn!("the host's proxy is not used: only `http://host:port` is known");
            return None;
        }
    };
    let decoded = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8_lossy()
            .into_owned()
    };
    let authorization = (!url.username().is_empty()).then(|| {
        let password = url.password().unwrap_or_default();
        format!("{}:{}", decoded(url.username()), decoded(password))
    });
    let except = set(&NO_PROXY_VARIABLES).unwrap_or_default();
    Some(Proxy {
        host: url.host_str()?.trim_matches(['[', ']']).to_owned(),
        port: url.port_or_known_default()?,
        authorization,
        except: except
            .split(',')
            .map(|host| host.trim().to_owned())
            .filter(|host| !host.is_empty())
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Option<Proxy> {
        proxy(|name| {
            let found = pairs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_proxy_is_read_with_its_user_and_exceptions() {
        let found = read(&[
            ("HTTPS_PROXY", "http://me:p%40ss@proxy.example:3128"),
            ("NO_PROXY", "localhost, .internal ,"),
        ])
        .expect("a proxy");
        assert_eq!((found.host.as_str(), found.port), ("proxy.example", 3128));
        assert_eq!(found.authorization.as_deref(), Some("me:p@ss"));
        assert_eq!(found.except, ["localhost", ".internal"]);
    }

    #[test]
    fn a_bare_host_is_http_and_other_schemes_are_not_used() {
        assert_eq!(
            read(&[("https_proxy", "proxy.example")]).map(|p| p.port),
            Some(80)
        );
        assert_eq!(
            read(&[("HTTPS_PROXY", "socks5://proxy.example:1080")]),
            None
        );
        assert_eq!(read(&[("HTTPS_PROXY", "")]), None);
        assert_eq!(read(&[]), None);
    }
}
