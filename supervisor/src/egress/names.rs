//! Names looked up as the host looks them up: its servers, its `hosts` file, a cache.
//!
//! The gateway can open no file, so that `resolv.conf` and `hosts` come as descriptors.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use profiles::egress::Name;

/// Most of a file that is read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Longest wait for the answers to one name.
pub const LOOKUP_MAX: Duration = Duration::from_secs(10);
/// Most addresses of one name that are looked at.
pub const ADDRESSES_MAX: usize = 32;
/// Most answers that are remembered.
const CACHE_ENTRIES: u64 = 1024;

/// How the host finds names.
#[derive(Clone)]
pub struct Names {
    resolver: Result<TokioResolver, Arc<str>>,
    /// Whether the host names a server to ask.
    has_servers: bool,
}

impl Names {
    /// Reads the host's files; without `resolv.conf` only `hosts` is known.
    #[must_use]
    pub fn new(resolv_conf: Option<OwnedFd>, hosts: Option<OwnedFd>) -> Self {
        match build(resolv_conf, hosts) {
            Ok((resolver, has_servers)) => Self {
                resolver: Ok(resolver),
                has_servers,
            },
            Err(error) => Self {
                resolver: Err(error.to_string().into()),
                has_servers: true,
            },
        }
    }

    /// The addresses of a name, each once.
    ///
    /// # Errors
    /// Why there are none, in words.
    pub async fn look_up(&self, name: &Name) -> Result<Vec<IpAddr>, String> {
        let resolver = self.resolver.as_ref().map_err(ToString::to_string)?;
        // The final dot keeps the host's search domains out: the name is whole.
        let lookup = resolver.lookup_ip(format!("{name}."));
        match tokio::time::timeout(LOOKUP_MAX, lookup).await {
            Err(_) => Err(format!("nobody answered within {} s", LOOKUP_MAX.as_secs())),
            Ok(Err(error))
                if self.has_servers && (error.is_no_records_found() || error.is_nx_domain()) =>
            {
                Err("no such name".to_owned())
            }
            Ok(Err(_)) if !self.has_servers => Err(
                "this host names no DNS server: `/etc/resolv.conf` is missing, or has no `nameserver`"
                    .to_owned(),
            ),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(found)) => {
                let mut addresses = Vec::new();
                for address in found.iter().take(ADDRESSES_MAX) {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                Ok(addresses)
            }
        }
    }
}

/// A resolver, and whether it has servers to ask.
fn build(
    resolv_conf: Option<OwnedFd>,
    hosts: Option<OwnedFd>,
) -> io::Result<(TokioResolver, bool)> {
    let (config, mut options) = match resolv_conf {
        Some(file) => parse_resolv_conf(contents(file)?).map_err(io::Error::other)?,
        None => (
            ResolverConfig::from_parts(None, vec![], vec![]),
            ResolverOpts::default(),
        ),
    };
    options.cache_size = CACHE_ENTRIES;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    let has_servers = !config.name_servers().is_empty();
    let provider = TokioRuntimeProvider::default();
    let mut builder = TokioResolver::builder_with_config(config, provider);
    *builder.options_mut() = options;
    let mut resolver = builder.build().map_err(io::Error::other)?;
    if let Some(file) = hosts {
        let mut known = Hosts::default();
        known.read_hosts_conf(contents(file)?.as_slice())?;
        resolver.set_hosts(Arc::new(known));
    }
    Ok((resolver, has_servers))
}

fn contents(file: OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(file)
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
