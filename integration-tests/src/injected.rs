//! Calls whose requests are added a secret: the profile, and what a program in the cell does.

use serde_json::Value;

use crate::World;
use crate::internet::{Internet, network};

/// The secret: found nowhere else on the machine.
pub const SECRET: &str = "sk-9f2c7Qm4hidden";
/// A profile with one header for one host, and another host without any.
pub const INJECTED: &str = r#"
[network]
allow = ["www.example.org:443", "other.example.org:443", "www.example.org:80"]
[[network.inject]]
host = "www.example.org:443"
method = "POST"
path = "/v1/*"
header = "Authorization"
value = "Bearer {secret}"
secret = "openai"
why = "a test's"
"#;
/// What a program in Python does over TLS with the usual trust.
pub const REQUESTS: &str = r#"
import http.client, json, socket, ssl, sys, urllib.request
trust = ssl.create_default_context()
def request(host, method, path, own=None, body=b"{}"):
    connection = http.client.HTTPSConnection(host, timeout=10, context=trust)
    fields = {"Authorization": own} if own else {}
    try:
        connection.request(method, path, body if method == "POST" else None, fields)
        return connection.getresponse().status
    except OSError as error:
        return type(error).__name__
def secured(host):
    return trust.wrap_socket(socket.create_connection((host, 443), 10), server_hostname=host)
"#;

/// Runs a test for everyone, with the secret.
pub fn everyone(test: impl Fn(&Internet, &World)) {
    Internet::everyone(|internet, world| {
        world.secret("openai", SECRET, 0o600);
        test(internet, world);
    });
}

/// Runs a program that begins with [`REQUESTS`] in a cell of a profile with these tables.
#[must_use]
pub fn python(world: &World, tables: &str, script: &str) -> Value {
    let script = format!("{REQUESTS}{script}");
    let command = ["/usr/bin/python3", "-I", "-c", &script];
    world.run(&network(world, tables), &command)
}

/// Asserts that the program ended well.
#[track_caller]
pub fn assert_exited(outcome: &Value) {
    assert_eq!(outcome["exit_code"], 0, "{outcome:#}");
}
