//! What a call needs so that TLS to some hosts is opened for it: their secrets, an authority of its
//! own, and the host's authorities for the other side. Made in the supervisor, used in the gateway.
//!
//! The authority's key never leaves this module: it signs one certificate, for the very names that
//! the profile lists, and is gone before the cell is there.

use std::fs::File;
use std::io::{BufReader, Seek as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use profiles::compile::{AuthorityFact, Compiled};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use runner::spec::APPENDED_BYTES_MAX;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::wire::{Header, Opened};
use crate::secrets::{Secret, SecretError, Store};

/// How long before and after now the certificates hold: no call lasts longer, and clocks differ.
const VALID: Duration = Duration::from_hours(48);
/// Name of the authority, for whoever looks at a certificate in a cell.
const AUTHORITY: &str = "Toolcell, for one call";

/// What one call needs.
#[derive(Debug)]
pub struct Opening {
    /// For the gateway.
    pub opened: Opened,
    /// For the gateway: the host's authorities, open for reading.
    pub bundle: OwnedFd,
    /// For the cell.
    pub authority: AuthorityFact,
}

/// Why TLS cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// A secret cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// There is nothing to check servers by.
    #[error(
        "the host has no file with certificate authorities; hint: install `ca-certificates`, or \
         start toolcell with `SSL_CERT_FILE`"
    )]
    NoBundle,
    /// What there is cannot be used.
    #[error("could not use the host's certificate authorities in `{path}`: {why}", path = .0.display(), why = .1)]
    Bundle(PathBuf, String),
    /// No certificate could be made.
    #[error("could not make the cell's certificates: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl Opening {
    /// Makes what a call of a profile needs; nothing if the profile injects nothing.
    ///
    /// # Errors
    /// If a secret, or the host's authorities, cannot be had.
    pub fn of(compiled: &Compiled, store: &Store) -> Result<Option<Self>, OpeningError> {
        let injections = &compiled.resolved.network.inject;
        if injections.is_empty() {
            return Ok(None);
        }
        let headers = injections.iter().map(|injection| {
            Ok(Header {
                injection: injection.clone(),
                secret: store.read(&injection.secret)?,
            })
        });
        let headers: Vec<_> = headers.collect::<Result<_, SecretError>>()?;
        let (bundle, path) = host_authorities()?;
        let mut names: Vec<_> = injections.iter().map(|one| one.name.to_string()).collect();
        names.sort();
        names.dedup();
        let (authority, certificate, key) = certify(&names)?;
        Ok(Some(Self {
            opened: Opened {
                certificate,
                key,
                headers,
            },
            bundle,
            authority: AuthorityFact {
                certificate: authority,
                bundle: path,
            },
        }))
    }
}

/// The file with the host's authorities: what `SSL_CERT_FILE` names, or where systems keep it.
fn host_authorities() -> Result<(OwnedFd, PathBuf), OpeningError> {
    let found = openssl_probe::probe().cert_file;
    let named = found.ok_or(OpeningError::NoBundle)?;
    let failed = |why: String| OpeningError::Bundle(named.clone(), why);
    let path = named
        .canonicalize()
        .map_err(|error| failed(error.to_string()))?;
    let is_file = path.metadata().is_ok_and(|found| found.is_file());
    if !is_file {
        return Err(failed("it is no regular file".to_owned()));
    }
    let mut file = File::open(&path).map_err(|error| failed(error.to_string()))?;
    let bytes = file.metadata().map_or(0, |found| found.len());
    if bytes > APPENDED_BYTES_MAX {
        return Err(failed(format!(
            "{bytes} bytes are more than {APPENDED_BYTES_MAX}"
        )));
    }
    let mut certificates = CertificateDer::pem_reader_iter(BufReader::new(&file));
    if !certificates.any(|found| found.is_ok_and(|found| holds_now(&found))) {
        let why = "it holds no certificate that is valid now";
        return Err(failed(why.to_owned()));
    }
    // The gateway reads it from its beginning.
    file.rewind().map_err(|error| failed(error.to_string()))?;
    Ok((file.into(), path))
}

/// Whether an authority's certificate is within its time, which rustls does not ask of those that it is
/// told to trust.
#[must_use]
pub fn holds_now(certificate: &CertificateDer<'_>) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.validity().is_valid())
}

/// An authority that may speak for these names and no others (PEM), and a certificate of theirs with
/// its key (DER).
fn certify(names: &[String]) -> Result<(String, Vec<u8>, Secret), rcgen::Error> {
    let now = SystemTime::now();
    let base = |names: Vec<String>| -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::new(names)?;
        (params.not_before, params.not_after) = ((now - VALID).into(), (now + VALID).into());
        Ok(params)
    };
    let mut of_authority = base(vec![])?;
    of_authority
        .distinguished_name
        .push(DnType::CommonName, AUTHORITY);
    of_authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    of_authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    of_authority.name_constraints = Some(NameConstraints {
        permitted_subtrees: names
            .iter()
            .map(|name| GeneralSubtree::DnsName(name.clone()))
            .collect(),
        excluded_subtrees: vec![],
    });
    let authority_key = KeyPair::generate()?;
    let authority = of_authority.self_signed(&authority_key)?;

    let mut of_names = base(names.to_vec())?;
    of_names.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    of_names.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    of_names.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let issuer = Issuer::from_params(&of_authority, &authority_key);
    let certificate = of_names.signed_by(&key, &issuer)?;
    Ok((
        authority.pem(),
        certificate.der().to_vec(),
        Secret::new(key.serialize_der()),
    ))
}
