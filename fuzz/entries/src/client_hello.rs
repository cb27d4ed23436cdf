//! Connections of TLS, from their first byte to where they become opaque.

use profiles::egress::Name;
use supervisor::egress::verify::tls::Hello;

use crate::{bytes, judged_alike};

/// A ClientHello is judged alike however it comes, and one that passes names the server.
pub fn run(data: &[u8]) {
    judged_alike(data);
    if let Ok(Some(hello)) = Hello::read(data) {
        assert!(hello.length <= data.len());
        // What is behind it changes nothing, and every byte of it is needed.
        let own = &data[..hello.length];
        assert_eq!(Hello::read(own), Ok(Some(hello.clone())));
        assert_eq!(Hello::read(&own[..own.len() - 1]), Ok(None));
        if let Some(name) = hello.sni {
            let again = Name::parse(name.as_str());
            assert_eq!(again.as_ref(), Ok(&name));
        }
    }
}

/// What real clients sent.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    [
        include_str!("../../../supervisor/src/egress/verify/tls/captured/openssl.hex"),
        include_str!("../../../supervisor/src/egress/verify/tls/captured/openssl-retry.hex"),
        include_str!("../../../supervisor/src/egress/verify/tls/captured/openssl-12-resumed.hex"),
        include_str!("../../../supervisor/src/egress/verify/tls/captured/openssl-nosni.hex"),
        include_str!("../../../supervisor/src/egress/verify/tls/captured/node.hex"),
        include_str!("../../../supervisor/src/egress/verify/tls/captured/curl.hex"),
        include_str!("../../../supervisor/src/egress/verify/tls/captured/rustls.hex"),
    ]
    .map(bytes)
    .to_vec()
}
