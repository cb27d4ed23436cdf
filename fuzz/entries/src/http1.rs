//! Connections of HTTP/1 without TLS.

use crate::judged_alike;
use supervisor::egress::verify::Head;

/// A connection is judged alike however it comes, and a head that is read is for some host.
pub fn run(data: &[u8]) {
    judged_alike(data);
    if let Ok(Some(head)) = Head::read(data) {
        assert!(head.length <= data.len());
        assert!(head.tunnel.is_some() || !head.authorities.is_empty());
        let own = &data[..head.length];
        assert_eq!(Head::read(own), Ok(Some(head)));
        // Nobody who reads lines otherwise finds another end of the head, or another Host.
        let text = String::from_utf8_lossy(own).to_lowercase();
        let lines = text.split(['\r', '\n']).map(str::trim_start);
        let hosts = lines.filter(|line| line.starts_with("host:")).count();
        assert!(hosts <= 1, "{text:?}");
    }
}

/// Requests as clients send them, and some that hide others.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "GET / HTTP/1.1\r\nHost: api.example.org\r\nAccept: */*\r\n\r\n",
        "GET http://api.example.org/x?y HTTP/1.1\r\nHost: API.example.org:80\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: api.example.org\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: evil.org\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "OPTIONS * HTTP/1.0\r\nHost: api.example.org\r\n\r\n",
        "CONNECT evil.org:443 HTTP/1.1\r\nHost: evil.org:443\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
