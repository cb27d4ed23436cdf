//! What a tool tries to reach from a cell that reaches nothing is named, with nothing asked for
//! and nothing slowed down that names no address.
//!
//! Nothing is sent anywhere: a cell has no route, and the addresses are for documentation.

use std::time::Duration;

use harness::ground::Ground;
use harness::{World, assert_nothing_left, everyone, outcome, skip, slowness};
use serde_json::{Value, json};

/// What was denied on the network: what, by which rule, with which line, how often.
fn denials(outcome: &Value) -> Vec<(String, String, String, u64)> {
    let all = outcome["denials"].as_array().expect("denials are a list");
    let text = |denial: &Value, key: &str| denial[key].as_str().unwrap_or_default().to_owned();
    let network = all.iter().filter(|denial| denial["kind"] == "network");
    network
        .map(|denial| {
            (
                text(denial, "what"),
                text(denial, "rule"),
                text(denial, "allow_with"),
                denial["count"].as_u64().unwrap_or_default(),
            )
        })
        .collect()
}

fn explained(world: &World, script: &str) -> Value {
    let profile = world.profile("");
    let command = ["run", "--json", "--explain", "--profile", &profile];
    let tool = ["--", "/usr/bin/python3", "-I", "-c", script];
    outcome(&world.toolcell(&[&command[..], &tool[..]].concat()))
}

const TRY: &str = "
import socket
def attempt(family, kind, address, call='connect'):
    with socket.socket(family, kind) as s:
        try:
            if call == 'sendto': s.sendto(b'x', address)
            else: getattr(s, call)(address)
        except OSError as error: print('no')
        else: print('yes')
four, six, tcp, udp = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
";

/// Whether Landlock refuses TCP. Before, the socket itself is what is refused and named.
fn landlock_refuses_tcp() -> bool {
    let ground = Ground::new(everyone()[0]);
    let profile = ground.profile("", "[network]\nloopback = false\n");
    ground.attempt(&profile, &["own_tcp"]).landlock_abi() >= 4
}

#[test]
fn each_address_is_named_with_its_port_and_protocol() {
    if !landlock_refuses_tcp() {
        return skip(
            "addresses of TCP",
            "before Landlock ABI 4 there is no socket to ask for one with",
        );
    }
    let script = format!(
        "{TRY}
attempt(four, tcp, ('192.0.2.1', 443))
attempt(four, tcp, ('192.0.2.1', 5432))
attempt(six, tcp, ('2001:db8::1', 80))
attempt(six, tcp, ('::ffff:192.0.2.2', 80))
attempt(four, udp, ('192.0.2.1', 123))
attempt(four, udp, ('192.0.2.9', 99), 'sendto')
for _ in range(2): attempt(four, tcp, ('192.0.2.3', 80))
"
    );
    let no_network = "`network.allow` is empty";
    let no_datagrams = "no route leaves the cell, and no profile allows datagrams";
    let expected = [
        ("connect to 192.0.2.1:123 (udp)", no_datagrams, "", 1),
        (
            "connect to 192.0.2.1:443 (tcp)",
            no_network,
            "network.allow = [\"192.0.2.1:443\"]",
            1,
        ),
        (
            "connect to 192.0.2.1:5432 (tcp)",
            no_network,
            "network.allow = [\"192.0.2.1:5432/tcp\"]",
            1,
        ),
        (
            "connect to 192.0.2.2:80 (tcp)",
            no_network,
            "network.allow = [\"192.0.2.2:80\"]",
            1,
        ),
        (
            "connect to 192.0.2.3:80 (tcp)",
            no_network,
            "network.allow = [\"192.0.2.3:80\"]",
            2,
        ),
        (
            "connect to [2001:db8::1]:80 (tcp)",
            no_network,
            "network.allow = [\"[2001:db8::1]:80\"]",
            1,
        ),
        ("send to 192.0.2.9:99 (udp)", no_datagrams, "", 1),
    ]
    .map(|(what, rule, line, count)| (what.to_owned(), rule.to_owned(), line.to_owned(), count));
    for who in everyone() {
        let world = World::new(who);
        for outcome in [world.python("", &script), explained(&world, &script)] {
            assert_eq!(outcome["stdout"]["text"], "no\n".repeat(8), "{who:?}");
            assert_eq!(denials(&outcome), expected, "{who:?}: {outcome:#}");
        }
    }
}

#[test]
fn a_name_that_is_looked_up_is_named() {
    let script = "
import socket
for look in [lambda: socket.getaddrinfo('api.Example.org', 443), lambda: socket.gethostbyname('localhost')]:
    try: print(len(look()) > 0)
    except socket.gaierror as error: print(error.errno == socket.EAI_NONAME)
";
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.python("", script);
        // An unknown name is unknown at once; it is not to be tried again later.
        assert_eq!(outcome["stdout"]["text"], "True\nTrue\n", "{who:?}");
        let wall = outcome["usage"]["wall_ms"]
            .as_u64()
            .expect("it is a number");
        let at_most = 5000 * u64::from(slowness());
        assert!(wall < at_most, "{who:?}: {wall} ms");
        let expected = (
            "look up api.example.org".to_owned(),
            "`network.allow` is empty".to_owned(),
            "network.allow = [\"api.example.org\"]".to_owned(),
            1,
        );
        assert_eq!(denials(&outcome), [expected], "{who:?}: {outcome:#}");
    }
}

/// `send` is not looked at unless everything is explained: then the connection alone is known.
#[test]
fn a_lookup_by_send_is_counted_and_with_explain_named() {
    let script = "
import socket
try: socket.gethostbyname('example.org')
except OSError: pass
";
    for who in everyone() {
        let world = World::new(who);
        let plain = denials(&world.python("", script));
        assert_eq!(plain.len(), 1, "{who:?}: {plain:?}");
        let (what, rule, line, count) = &plain[0];
        assert_eq!(what, "look up a name (udp port 53)", "{who:?}");
        assert!(rule.contains("--explain"), "{who:?}: {rule}");
        assert_eq!((line.as_str(), *count), ("", 1), "{who:?}");
        let named = denials(&explained(&world, script));
        assert_eq!(named.len(), 1, "{who:?}: {named:?}");
        assert_eq!(named[0].0, "look up example.org", "{who:?}");
    }
}

#[test]
fn a_name_forges_no_line() {
    let script = "
import socket
question = lambda name: b'\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0' + bytes([len(name)]) + name + b'\\0\\0\\1\\0\\1'
with socket.socket(type=socket.SOCK_DGRAM) as s:
    for data in [question(b'a\\n[denied]'), b'', b'\\0' * 12, question(b'x' * 63)[:40], b'\\xff' * 600]:
        try: s.sendto(data, ('127.0.0.1', 53))
        except OSError: pass
";
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.python("", script);
        let found = denials(&outcome);
        assert_eq!(found.len(), 1, "{who:?}: {found:?}");
        assert_eq!(found[0].0, "look up a name (udp port 53)", "{who:?}");
        assert_eq!(found[0].3, 5, "{who:?}");
    }
}

#[test]
fn tcp_within_the_cell_is_named_and_its_line_allows_it() {
    let addresses = landlock_refuses_tcp();
    let script = format!(
        "{TRY}
attempt(four, tcp, ('127.0.0.1', 8080), 'bind')
attempt(six, tcp, ('::', 8081), 'bind')
with socket.socket() as server:
    try: server.listen()
    except OSError: pass
    attempt(four, tcp, ('127.0.0.1', server.getsockname()[1] or 8080))
"
    );
    let line = "network.loopback = true";
    for who in everyone() {
        let world = World::new(who);
        let refused = world.python("", &script);
        let found = denials(&refused);
        if addresses {
            assert_eq!(
                refused["stdout"]["text"], "no\nno\nno\n",
                "{who:?}: {refused:#}"
            );
            assert_eq!(found.len(), 3, "{who:?}: {found:?}");
        } else {
            assert_eq!(refused["stdout"]["text"], "", "{who:?}: {refused:#}");
            let denied = &refused["denials"][0];
            assert_eq!(denied["what"], "socket(AF_INET, SOCK_STREAM, 0)", "{who:?}");
            assert_eq!(denied["allow_with"], line, "{who:?}: {refused:#}");
        }
        for (what, rule, allow, _) in &found {
            assert!(what.ends_with(" (tcp)"), "{who:?}: {what}");
            assert_eq!(rule, "`network.loopback` is false", "{who:?}");
            assert_eq!(allow, line, "{who:?}");
        }
        let allowed = world.python("[network]\nloopback = true\n", &script);
        assert_eq!(allowed["stdout"]["text"], "yes\nyes\nyes\n", "{who:?}");
        assert_eq!(allowed["denials"], json!([]), "{who:?}: {allowed:#}");
    }
}

#[test]
fn what_the_cell_may_do_with_sockets_is_no_denial() {
    let script = "
import os, socket
one, other = socket.socketpair()
one.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, bytes(4))])
server = socket.socket(socket.AF_UNIX); server.bind('/tmp/own'); server.listen()
client = socket.socket(socket.AF_UNIX); client.connect('/tmp/own'); client.send(b'x')
abstract = socket.socket(socket.AF_UNIX)
try: abstract.connect('\\0nobody')
except OSError: pass
try: abstract.connect('/tmp/nobody')
except OSError: pass
with socket.socket(type=socket.SOCK_DGRAM) as here, socket.socket(type=socket.SOCK_DGRAM) as there:
    here.bind(('127.0.0.1', 0))
    there.sendto(b'x', here.getsockname())
    there.connect(here.getsockname()); there.send(b'y')
    print(here.recv(9), here.recv(9))
    # How the C library sorts addresses.
    try: there.connect(('192.0.2.1', 0))
    except OSError: pass
";
    for who in everyone() {
        let world = World::new(who);
        for outcome in [world.python("", script), explained(&world, script)] {
            assert_eq!(
                outcome["stdout"]["text"], "b'x' b'y'\n",
                "{who:?}: {outcome:#}"
            );
            assert_eq!(outcome["denials"], json!([]), "{who:?}: {outcome:#}");
        }
    }
}

#[test]
fn a_socket_of_the_host_that_the_cell_does_not_have_is_named() {
    let script = "
import socket
with socket.socket(socket.AF_UNIX) as s:
    try: s.connect('/run/docker.sock')
    except FileNotFoundError: print('no')
";
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.python("", script);
        assert_eq!(outcome["stdout"]["text"], "no\n", "{who:?}");
        let denial = &outcome["denials"][0];
        assert_eq!(denial["kind"], "path", "{who:?}: {outcome:#}");
        assert_eq!(denial["what"], "connect to socket /run/docker.sock");
        assert_eq!(denial["rule"], "no entry of `sockets.connect` covers it");
    }
}

/// Addresses that change, or vanish, while they are read harm nobody, and neither do callers that
/// are killed meanwhile.
#[test]
fn wild_pointers_and_races_hang_nothing() {
    let script = "
import ctypes, os, socket, struct, threading
libc = ctypes.CDLL(None)
fd = socket.socket(type=socket.SOCK_DGRAM).fileno()
for pointer in [0, 1, 2**64 - 8, 2**47, 4095]:
    for length in [0, 1, 16, 2**31, 2**32 - 1, 2**63]:
        libc.syscall(42, fd, ctypes.c_ulong(pointer), ctypes.c_ulong(length))
        libc.syscall(44, fd, ctypes.c_ulong(pointer), ctypes.c_ulong(length), 0, ctypes.c_ulong(pointer), 16)
        libc.syscall(307, fd, ctypes.c_ulong(pointer), ctypes.c_ulong(length), 0)
for bad in [-1, 9999]:
    libc.connect(bad, struct.pack('!2sH4s8x', b'\\2\\0', 80, bytes([192, 0, 2, 1])), 16)
address = ctypes.create_string_buffer(struct.pack('=H', 2) + struct.pack('!H4s8x', 80, bytes([192, 0, 2, 1])))
stop = False
def flip():
    while not stop: address[4] = bytes([192 ^ ord(address[4]) ^ 198])
def connect():
    s = socket.socket()
    for _ in range(20): libc.connect(s.fileno(), address, 16)
threading.stack_size(65536)
flipper = threading.Thread(target=flip); flipper.start()
threads = [threading.Thread(target=connect) for _ in range(512)]
for thread in threads: thread.start()
for thread in threads: thread.join()
stop = True; flipper.join()
for _ in range(50):
    child = os.fork()
    if child == 0:
        s = socket.socket()
        while True: libc.connect(s.fileno(), address, 16)
    os.kill(child, 9); os.waitpid(child, 0)
print('done')
";
    let tables = "[limits]\npids = 600\nwall = \"2 min\"\ncpu_time = \"2 min\"\nmemory = \"1 GiB\"\nopen_files = 1024\n";
    if !cfg!(target_arch = "x86_64") {
        return skip("wild pointers", "the numbers are those of x86_64");
    }
    for who in everyone() {
        let world = World::new(who);
        let before = harness::Host::look();
        let outcome = world.python(tables, script);
        assert_eq!(outcome["stdout"]["text"], "done\n", "{who:?}: {outcome:#}");
        let sum: u64 = denials(&outcome).iter().map(|(.., count)| count).sum();
        // 512 threads by 20, the two bad descriptors, and those that were killed.
        assert!(sum >= 512 * 20, "{who:?}: {sum}");
        assert_nothing_left(&world, &before);
    }
}

/// A call ends at its deadline although its threads wait for us all the time.
#[test]
fn a_flood_of_connections_is_ended_like_any_call() {
    let script = "
import os, socket
for _ in range(4): os.fork()
s = socket.socket(type=socket.SOCK_DGRAM)
while True:
    try: s.connect(('192.0.2.1', 80))
    except OSError: pass
";
    for who in everyone() {
        let world = World::new(who);
        let before = harness::Host::look();
        let begun = std::time::Instant::now();
        let tables = "[limits]\nwall = \"1 s\"\ngrace = \"100 ms\"\n";
        let outcome = world.python(tables, script);
        assert_eq!(outcome["status"], "timed_out", "{who:?}: {outcome:#}");
        let at_most = Duration::from_secs(20) * slowness();
        assert!(begun.elapsed() < at_most, "{who:?}");
        assert_eq!(denials(&outcome).len(), 1, "{who:?}: {outcome:#}");
        assert_nothing_left(&world, &before);
    }
}
