//! Sockets.

use super::*;

#[test]
fn sockets_are_tcp_udp_unix_and_route_netlink() {
    const CLOEXEC_NONBLOCK: u64 = 0o2_004_000;
    let (unix, inet, inet6, netlink) = (1, 2, 10, 16);
    let (stream, dgram, raw, packet) = (1, 2, 3, 10);
    for family in [inet, inet6] {
        for (kind, protocol) in [(stream, 0), (stream, 6), (dgram, 0), (dgram, 17)] {
            assert_eq!(answer("socket", [family, kind, protocol]), Action::Allow);
            let kind = kind | CLOEXEC_NONBLOCK;
            assert_eq!(answer("socket", [family, kind, protocol]), Action::Allow);
        }
        for kind in [raw, packet, raw | CLOEXEC_NONBLOCK] {
            assert_eq!(answer("socket", [family, kind, 0]), DENIED);
            assert_eq!(answer("socket", [family, kind, 255]), DENIED);
        }
        // MPTCP, SCTP, SMC, ICMP; a kind that is none.
        let others = [
            (stream, 262),
            (stream, 132),
            (stream, 256),
            (dgram, 1),
            (dgram, 58),
            (5, 0),
        ];
        for (kind, protocol) in others {
            let denied = Action::Deny(Errno::NoProtocol);
            assert_eq!(answer("socket", [family, kind, protocol]), denied);
        }
    }
    assert_eq!(answer("socket", [unix, stream, 0]), Action::Allow);
    assert_eq!(answer("socket", [netlink, raw, 0]), Action::Allow);
    for protocol in 1..32 {
        let denied = Action::Deny(Errno::NoProtocol);
        assert_eq!(
            answer("socket", [netlink, raw, protocol]),
            denied,
            "{protocol}"
        );
    }
}

#[test]
fn every_other_family_is_not_supported() {
    let denied = Action::Deny(Errno::NoAddressFamily);
    for family in (0..64).filter(|family| ![1, 2, 10, 16].contains(family)) {
        assert_eq!(answer("socket", [family, 1, 0]), denied, "{family}");
        assert_eq!(
            answer("socket", [family | 1 << 32, 1, 0]),
            denied,
            "{family}"
        );
        assert_eq!(answer("socketpair", [family, 1, 0]), denied, "{family}");
    }
    assert_eq!(answer("socket", [2, 1, 0]), Action::Allow);
}

#[test]
fn without_unix_sockets_only_pairs_that_keep_their_peer_are_left() {
    let without = policy(FilterFacts {
        unix_sockets: false,
        ..X86_64
    });
    assert_eq!(
        answer_of(&without, "socket", [1, 1]),
        Action::Deny(Errno::NoAddressFamily)
    );
    for (kind, name) in [
        (1, "stream"),
        (5, "seqpacket"),
        (0o2_000_001, "stream, cloexec"),
    ] {
        assert_eq!(
            answer_of(&without, "socketpair", [1, kind]),
            Action::Allow,
            "{name}"
        );
    }
    // A datagram socket of a pair can still send to a path; SOCK_RAW is one by another name.
    for kind in [2, 3] {
        let denied = Action::Deny(Errno::NoSocketType);
        assert_eq!(answer_of(&without, "socketpair", [1, kind]), denied);
        assert_eq!(answer("socketpair", [1, kind]), Action::Allow);
    }
}

#[test]
fn without_tcp_sockets_every_way_to_one_is_refused_and_datagrams_are_left() {
    let without = policy(FilterFacts {
        tcp_sockets: false,
        ..X86_64
    });
    for family in [2, 10] {
        for kind in [1, 1 | 0o2_000_000, 1 | 0o4000, 1 | 1 << 32] {
            for protocol in [0, 6] {
                let arguments = [family, kind, protocol];
                assert_eq!(
                    answer_of(&without, "socket", arguments),
                    Action::Deny(Errno::NoAccess),
                    "{arguments:?}"
                );
                assert_eq!(answer("socket", arguments), Action::Allow, "{arguments:?}");
            }
            // MPTCP is refused with and without.
            assert_ne!(
                answer_of(&without, "socket", [family, kind, 262]),
                Action::Allow
            );
        }
        assert_eq!(answer_of(&without, "socket", [family, 2, 0]), Action::Allow);
    }
    assert_eq!(answer_of(&without, "socket", [1, 1, 0]), Action::Allow);
}

#[test]
fn tcp_fast_open_is_refused_everywhere() {
    const MSG_NOSIGNAL: u64 = 0x4000;
    const MSG_FASTOPEN: u64 = 0x2000_0000;
    let denied = Action::Deny(Errno::NotSupported);
    assert_eq!(answer("sendto", [3, 0, 0, MSG_NOSIGNAL]), Action::Allow);
    assert_eq!(
        answer("sendto", [3, 0, 0, MSG_NOSIGNAL | MSG_FASTOPEN]),
        denied
    );
    assert_eq!(answer("sendmsg", [3, 0, MSG_NOSIGNAL]), Action::Allow);
    assert_eq!(answer("sendmsg", [3, 0, MSG_FASTOPEN]), denied);
    assert_eq!(answer("sendmmsg", [3, 0, 1, MSG_NOSIGNAL]), Action::Allow);
    assert_eq!(answer("sendmmsg", [3, 0, 1, MSG_FASTOPEN]), denied);
    let (tcp_nodelay, fast_open, fast_open_connect) = (1, 23, 30);
    assert_eq!(answer("setsockopt", [3, 6, tcp_nodelay]), Action::Allow);
    assert_eq!(answer("setsockopt", [3, 6, fast_open]), denied);
    assert_eq!(answer("setsockopt", [3, 6, fast_open_connect]), denied);
}

#[test]
fn sockets_take_options_but_no_programs_and_no_upper_protocols() {
    let (reuse_addr, attach_filter, attach_bpf, ulp) = (2, 26, 50, 31);
    assert_eq!(answer("setsockopt", [3, 1, reuse_addr]), Action::Allow);
    assert_eq!(answer("setsockopt", [3, 1, attach_filter]), DENIED);
    assert_eq!(answer("setsockopt", [3, 1, attach_bpf]), DENIED);
    assert_eq!(
        answer("setsockopt", [3, 6, ulp]),
        Action::Deny(Errno::NotSupported)
    );
    // The same number at another level is another option.
    assert_eq!(answer("setsockopt", [3, 41, attach_filter]), Action::Allow);
}

#[test]
fn addresses_are_looked_at_where_there_is_no_network_and_nothing_else_changes() {
    const FAST_OPEN: u64 = 0x2000_0000;
    let seen = Action::InspectAddress;
    let watched = FilterFacts {
        explain_network: AddressNotify::On,
        ..X86_64
    };
    let quiet = policy(watched);
    assert_eq!(answer_of(&quiet, "connect", [3, 1, 16]), seen);
    assert_eq!(answer_of(&quiet, "bind", [3, 1, 16]), seen);
    assert_eq!(answer_of(&quiet, "sendto", [3, 1, 1, 0, 1, 16]), seen);
    // A pointer of which only the high half is set is none that is null.
    assert_eq!(answer_of(&quiet, "sendto", [3, 1, 1, 0, 1 << 32, 16]), seen);
    assert_eq!(answer_of(&quiet, "sendmmsg", [3, 1, 1, 0]), seen);
    let fast_open = Action::Deny(Errno::NotSupported);
    assert_eq!(
        answer_of(&quiet, "sendto", [3, 1, 1, FAST_OPEN, 1, 16]),
        fast_open
    );
    assert_eq!(
        answer_of(&quiet, "sendmmsg", [3, 1, 1, FAST_OPEN]),
        fast_open
    );
    for (call, arguments) in [
        ("sendto", [3, 1, 1, 0, 0, 0]),
        ("sendmsg", [3, 1, 0, 0, 0, 0]),
        ("listen", [3, 1, 0, 0, 0, 0]),
        ("write", [3, 1, 1, 0, 0, 0]),
    ] {
        assert_eq!(answer_of(&quiet, call, arguments), Action::Allow, "{call}");
    }
    let everything = policy(FilterFacts {
        explain_paths: PathNotify::All,
        ..watched
    });
    assert_eq!(answer_of(&everything, "sendto", [3, 1, 1, 0, 0, 0]), seen);
    assert_eq!(answer_of(&everything, "sendmsg", [3, 1, 0]), Action::Allow);
    // With hosts to reach, or nobody to listen, there is nothing to look at.
    for facts in [
        X86_64,
        FilterFacts {
            notify: false,
            ..watched
        },
    ] {
        for call in ["connect", "bind", "sendto", "sendmsg", "sendmmsg"] {
            let answer = answer_of(&policy(facts), call, [3, 1, 1, 0, 1, 16]);
            assert_eq!(answer, Action::Allow, "{call}");
        }
    }
}

#[test]
fn the_listener_is_told_which_call_names_an_address_and_a_denied_one_stays_denied() {
    let watched = FilterFacts {
        explain_network: AddressNotify::On,
        ..X86_64
    };
    let number = |name| {
        syscalls::by_name(name)
            .unwrap()
            .number(Arch::X86_64)
            .unwrap()
    };
    let plain = policy(watched);
    let told = plain.classify(number("connect"), &[3, 1, 16, 0, 0, 0]);
    assert_eq!(
        told,
        Notification::InspectAddress(addresses::AddressCall::Connect)
    );
    let strict = Policy::new(&rules(&[], &["connect"]), &watched).unwrap();
    assert_eq!(answer_of(&strict, "connect", [3, 1, 16]), DENIED);
    let told = strict.classify(number("connect"), &[3, 1, 16, 0, 0, 0]);
    assert!(matches!(told, Notification::Denied { .. }), "{told:?}");
}
