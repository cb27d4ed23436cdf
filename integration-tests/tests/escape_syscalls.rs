//! System calls that would take a cell apart, each tried in a cell and outside.
//!
//! The probe makes every attempt of the table below in a process of its own. In a cell the seccomp
//! filter answers, and what it denies (rather than calls unknown) must also be named in the outcome's
//! denials, which the supervisor writes: so it was the filter, and no other layer, that said no. The
//! positive control is the same attempt by root outside of any cell, in namespaces that are thrown
//! away, where the kernel itself must answer otherwise. Where the kernel lacks the feature there is
//! no control, and that is said loudly.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use harness::ground::Ground;
use harness::{Who, everyone, skip};
use serde_json::Value;

/// Most attempts in one cell: its outcome lists 64 different denials.
const ATTEMPTS_MAX: usize = 48;

/// What an attempt must come to outside, done by root.
#[derive(Debug, Clone, Copy)]
enum Control {
    /// It works.
    Works,
    /// Privileges get as far as being told that the arguments make no sense.
    Fails(&'static str),
    /// It cannot be tried on a machine that is still needed.
    Never(&'static str),
}
use Control::{Fails, Never, Works};

struct Row {
    /// The test.
    name: &'static str,
    /// What the probe tries.
    attempt: &'static str,
    /// The error in a cell.
    error: &'static str,
    control: Control,
}

macro_rules! table {
    ($($name:ident: $attempt:literal, $error:ident, $control:expr;)*) => {
        const TABLE: &[Row] = &[$(Row {
            name: stringify!($name),
            attempt: $attempt,
            error: stringify!($error),
            control: $control,
        }),*];
        $(
            #[test]
            fn $name() {
                holds(stringify!($name));
            }
        )*
    };
}

table! {
    // Gates and numbers that a filter may overlook.
    the_gate_of_32_bit_programs_is_shut: "int80 20", ENOSYS, Works;
    x32_numbers_are_unknown: "number 0x40000027", ENOSYS, Works;
    x32_numbers_of_denied_calls_are_unknown: "number 0x40000110 0x10000000", ENOSYS, Works;
    numbers_without_a_call_are_unknown: "number 0x7fffffff", ENOSYS, Never("no kernel has it");
    // Namespaces.
    clone_makes_no_user_namespace: "clone 0x10000000", EPERM, Works;
    clone_makes_no_mount_namespace: "clone 0x00020000", EPERM, Works;
    clone_makes_no_cgroup_namespace: "clone 0x02000000", EPERM, Works;
    clone_makes_no_uts_namespace: "clone 0x04000000", EPERM, Works;
    clone_makes_no_ipc_namespace: "clone 0x08000000", EPERM, Works;
    clone_makes_no_pid_namespace: "clone 0x20000000", EPERM, Works;
    clone_makes_no_network_namespace: "clone 0x40000000", EPERM, Works;
    clone3_makes_no_user_namespace: "clone3 0x10000000", ENOSYS, Works;
    clone3_makes_no_time_namespace: "clone3 0x80", ENOSYS, Works;
    clone3_is_unknown_as_a_whole: "clone3 0", ENOSYS, Works;
    unshare_makes_no_user_namespace: "call unshare 0x10000000", EPERM, Works;
    unshare_makes_no_mount_namespace: "call unshare 0x00020000", EPERM, Works;
    unshare_makes_no_pid_namespace: "call unshare 0x20000000", EPERM, Works;
    unshare_makes_no_network_namespace: "call unshare 0x40000000", EPERM, Works;
    unshare_makes_no_time_namespace: "call unshare 0x80", EPERM, Works;
    no_users_are_mapped_anew: "map_users", EPERM, Works;
    no_namespace_is_entered: "setns /proc/self/ns/net", EPERM, Works;
    // Rings and calls whose orders are in memory.
    io_uring_is_unknown: "call io_uring_setup 1 #120", ENOSYS, Works;
    io_uring_cannot_be_entered: "call io_uring_enter -1 0 0 0 0 0", ENOSYS, Fails("EBADF");
    io_uring_cannot_be_registered_with: "call io_uring_register -1 0 0 0", ENOSYS, Fails("EINVAL");
    openat2_is_unknown: "openat2 /", ENOSYS, Works;
    linux_aio_is_unknown: "call io_setup 1 #8", ENOSYS, Works;
    // Mounts, old calls and new.
    nothing_is_mounted: "call mount @none @/tmp @tmpfs 0 0", EPERM, Works;
    nothing_is_bound: "call mount @/ @/tmp @none 0x5000 0", EPERM, Works;
    nothing_is_remounted: "call mount @none @/proc @none 0x1020 0", EPERM, Works;
    nothing_is_unmounted: "call umount2 @/proc 2", EPERM, Works;
    no_propagation_is_changed: "call mount @none @/ @none 0x44000 0", EPERM, Works;
    the_root_is_not_pivoted: "call pivot_root @. @.", EPERM, Fails("EBUSY");
    the_root_is_not_changed: "call chroot @/tmp", EPERM, Works;
    the_root_is_not_left_by_two_chroots: "chroot_out", EPERM, Works;
    no_file_system_is_opened: "call fsopen @tmpfs 0", EPERM, Works;
    no_file_system_is_configured: "call fsconfig -1 0 @a 0 0", EPERM, Fails("EINVAL");
    no_file_system_is_mounted: "call fsmount -1 0 0", EPERM, Fails("EBADF");
    no_file_system_is_picked: "call fspick -100 @/ 0", EPERM, Works;
    no_tree_is_opened: "call open_tree -100 @/ 1", EPERM, Works;
    no_tree_is_opened_with_attributes: "call open_tree_attr -100 @/ 1 #32 32", EPERM, Works;
    no_mount_is_moved: "call move_mount -1 @ -100 @/tmp 4", EPERM, Fails("EBADF");
    no_mount_gets_other_attributes: "call mount_setattr -100 @/ 0 #32 32", EPERM, Works;
    mounts_are_not_listed: "call listmount #24 #64 8 0", ENOSYS, Fails("EINVAL");
    mounts_are_not_described: "call statmount #24 #512 512 0", ENOSYS, Fails("EINVAL");
    // Files by other ways than their names.
    no_handle_is_told: "handle /", EPERM, Works;
    no_file_is_opened_by_a_forged_handle: "forged_handle /usr", EPERM, Works;
    no_file_system_is_watched: "call fanotify_init 0 0", EPERM, Works;
    no_watch_is_set: "call fanotify_mark -1 1 8 -100 @/", EPERM, Fails("EBADF");
    // Looking into processes.
    no_process_is_traced: "trace_me", EPERM, Works;
    no_memory_is_read_from_outside_of_a_process: "own_memory read", EPERM, Works;
    no_memory_is_written_from_outside_of_a_process: "own_memory write", EPERM, Works;
    no_descriptor_is_taken_out_of_a_process: "getfd_of_self", EPERM, Works;
    kernel_objects_are_not_compared: "call kcmp 1 1 0 0 0", EPERM, Works;
    no_memory_is_advised_about: "call process_madvise -1 0 0 20 0", EPERM, Fails("EBADF");
    no_dying_process_is_reaped_of_memory: "call process_mrelease -1 0", EPERM, Fails("EBADF");
    no_pages_are_moved: "call move_pages 0 0 0 0 0 0", EPERM, Works;
    no_pages_are_migrated: "call migrate_pages 0 0 0 0", EPERM, Fails("EINVAL");
    // The kernel's larger surfaces.
    no_map_is_made_by_bpf: "bpf_map", EPERM, Works;
    no_counter_is_opened: "perf", EPERM, Works;
    no_page_faults_are_handled: "call userfaultfd 1", EPERM, Works;
    no_secret_memory_is_made: "call memfd_secret 0", ENOSYS, Works;
    no_pages_are_given_to_a_pipe: "vmsplice", EPERM, Works;
    no_key_is_added: "call add_key @user @toolcell @x 1 -2", EPERM, Works;
    no_key_is_requested: "call request_key @user @toolcell 0 -2", EPERM, Fails("ENOKEY");
    no_keyring_is_named: "call keyctl 0 -2 1", EPERM, Works;
    quotas_are_not_touched: "call quotactl 0x80000100 0 0 0", EPERM, Works;
    quotas_are_not_touched_by_descriptor: "call quotactl_fd -1 0 0 0", EPERM, Fails("EBADF");
    no_local_descriptors_are_read: "call modify_ldt 0 #64 64", EPERM, Works;
    no_local_descriptors_are_written: "call modify_ldt 1 #16 16", EPERM, Works;
    data_does_not_become_executable: "call personality 0x0400000", EPERM, Works;
    nobody_becomes_a_32_bit_program: "call personality 8", EPERM, Works;
    high_bits_do_not_hide_a_personality: "call personality 0xffffffff00400000", EPERM, Works;
    // The machine.
    no_kernel_is_loaded: "call kexec_load 0 0 0 0", EPERM, Works;
    no_kernel_is_loaded_from_a_file: "call kexec_file_load -1 -1 0 @ 0", EPERM, Fails("EINVAL");
    no_module_is_loaded: "call init_module @ 0 @", EPERM, Fails("ENOEXEC");
    no_module_is_loaded_from_a_file: "call finit_module -1 @ 0", EPERM, Fails("EBADF");
    no_module_is_unloaded: "call delete_module @toolcell 0", EPERM, Fails("ENOENT");
    no_ports_of_devices_are_opened: "call ioperm 128 1 1", EPERM, Works;
    no_level_for_every_port_is_taken: "call iopl 3", EPERM, Works;
    no_swap_is_added: "call swapon @/nonexistent 0", EPERM, Fails("ENOENT");
    no_swap_is_removed: "call swapoff @/nonexistent", EPERM, Fails("ENOENT");
    the_machine_is_not_rebooted: "call reboot 0 0 0 0", EPERM, Fails("EINVAL");
    the_host_name_is_not_set: "host_name", EPERM, Works;
    the_domain_name_is_not_set: "call setdomainname @ 0", EPERM, Works;
    the_time_is_not_set: "clock settimeofday", EPERM, Fails("EINVAL");
    no_clock_is_set: "clock clock_settime", EPERM, Fails("EINVAL");
    the_clock_is_not_steered: "call adjtimex #208", EPERM, Works;
    no_clock_is_steered: "call clock_adjtime 0 #208", EPERM, Works;
    no_accounting_is_switched_on: "call acct @/nonexistent", EPERM, Fails("ENOENT");
    the_kernel_log_is_not_read: "call syslog 10 0 0", EPERM, Works;
    no_terminal_is_hung_up: "call vhangup", EPERM, Works;
    // Privileges of the process.
    no_security_bits_are_set: "call prctl 28 1 0 0 0", EPERM, Works;
    memory_is_not_merged_with_that_of_others: "call prctl 67 1 0 0 0", EPERM, Works;
    // What is shared with processes outside: standard output, and terminals.
    no_owner_is_set_on_what_is_shared: "own_signals 8 1", EPERM, Works;
    no_signal_is_set_on_what_is_shared: "own_signals 10 9", EPERM, Works;
    nothing_is_typed_into_a_terminal: "request 0x5412", EPERM, Works;
    high_bits_do_not_hide_a_request: "request 0xdeadbeef00005412", EPERM, Works;
    the_console_is_not_driven: "request 0x541c", EPERM, Fails("ENOTTY");
    the_console_is_not_redirected: "request 0x541d", EPERM, Never("it takes the console away");
    no_line_discipline_is_set: "request 0x5423", EPERM, Fails("EINVAL");
    // Sockets.
    no_audit_socket_is_made: "socket 16 3 9", EPROTONOSUPPORT, Works;
    no_generic_netlink_is_made: "socket 16 3 16", EPROTONOSUPPORT, Works;
    no_device_events_are_heard: "socket 16 2 15", EPROTONOSUPPORT, Works;
    no_sockets_are_listed_by_netlink: "socket 16 3 4", EPROTONOSUPPORT, Works;
    no_netfilter_is_spoken_to: "socket 16 3 12", EPROTONOSUPPORT, Works;
    no_ipsec_is_spoken_to: "socket 16 3 6", EPROTONOSUPPORT, Works;
    no_packets_are_seen: "socket 17 3 768", EAFNOSUPPORT, Works;
    no_packets_are_seen_the_old_way: "socket 2 10 768", EPERM, Works;
    no_virtual_machine_socket_is_made: "socket 40 1 0", EAFNOSUPPORT, Works;
    no_kernel_cipher_is_used: "socket 38 5 0", EAFNOSUPPORT, Works;
    no_express_data_path_is_opened: "socket 44 3 0", EAFNOSUPPORT, Works;
    no_key_management_socket_is_made: "socket 15 3 2", EAFNOSUPPORT, Works;
    no_bluetooth_is_spoken: "socket 31 3 1", EAFNOSUPPORT, Works;
    no_raw_packets_are_sent: "socket 2 3 1", EPERM, Works;
    no_raw_packets_are_sent_by_ipv6: "socket 10 3 58", EPERM, Works;
    no_echo_is_sent: "socket 2 2 1", EPROTONOSUPPORT, Fails("EACCES");
    no_multipath_tcp_is_made: "socket 2 1 262", EPROTONOSUPPORT, Works;
    no_sctp_is_made: "socket 2 1 132", EPROTONOSUPPORT, Works;
    no_packet_program_is_attached: "option 1 26 filter", EPERM, Works;
    no_choosing_program_is_attached: "option 1 51 filter", EPERM, Fails("EINVAL");
    no_protocol_is_loaded_onto_tcp: "option 6 31 espintcp", EOPNOTSUPP, Fails("ENOENT");
    no_fast_open_is_sent: "fast_open 9", EOPNOTSUPP, Fails("ENETUNREACH");
    no_fast_open_is_switched_on: "fast_open_option", EOPNOTSUPP, Works;
}

/// What the kernel says where it lacks a feature, or where a container that runs the tests keeps it
/// to itself.
const LACKING: [&str; 6] = [
    "ENOSYS",
    "EAFNOSUPPORT",
    "EPROTONOSUPPORT",
    "ESOCKTNOSUPPORT",
    "ENOPROTOOPT",
    "ENOENT",
];

fn holds(name: &str) {
    let row = TABLE
        .iter()
        .find(|row| row.name == name)
        .expect("the test is made from the table");
    for who in everyone() {
        let (answers, denials) = in_cells(who);
        let answer = answers.get(row.attempt).expect("each row was tried");
        assert_eq!(answer, row.error, "{who:?}: `{}`", row.attempt);
        if row.error == "ENOSYS" {
            continue;
        }
        let denied = denials.get(row.attempt).expect("each row was tried");
        assert!(
            *denied,
            "{who:?}: `{}` was refused and not named",
            row.attempt
        );
    }
    let expected = match row.control {
        Never(why) => return skip("its control", why),
        Works => "ok",
        Fails(error) => error,
    };
    let Some(answers) = outside() else {
        return skip("its control", "the tests were not started by root");
    };
    let answer = &answers[row.attempt];
    let came = answer.split(' ').next().unwrap_or_default();
    if came != expected && LACKING.contains(&came) {
        return skip("its control", &format!("the kernel answers {answer}"));
    }
    assert_eq!(came, expected, "`{}` outside of a cell", row.attempt);
    assert_ne!(
        came, row.error,
        "the control of `{}` shows nothing",
        row.attempt
    );
}

type Answers = BTreeMap<&'static str, String>;
/// Whether the attempt, by itself in a cell, was named among the denials.
type Denied = BTreeMap<&'static str, bool>;

/// The answers of all attempts in cells of this user.
fn in_cells(who: Who) -> &'static (Answers, Denied) {
    static ROOT: OnceLock<(Answers, Denied)> = OnceLock::new();
    static USER: OnceLock<(Answers, Denied)> = OnceLock::new();
    let cache = match who {
        Who::Root => &ROOT,
        Who::User => &USER,
    };
    cache.get_or_init(|| {
        let ground = Ground::new(who);
        let profile = ground.profile("", "[limits]\nwall = \"2 min\"\n");
        let mut answers = Answers::new();
        let mut denied = Denied::new();
        for rows in TABLE.chunks(ATTEMPTS_MAX) {
            let mut words = vec!["each"];
            words.extend(rows.iter().map(|row| row.attempt));
            let said = ground.attempt(&profile, &words);
            answers.extend(told(rows, &said.answer));
            let denials = said.outcome["denials"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            denied.extend(rows.iter().map(|row| (row.attempt, named(row, &denials))));
        }
        (answers, denied)
    })
}

fn told(rows: &'static [Row], lines: &str) -> Answers {
    let answers: Vec<_> = lines
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .collect();
    assert_eq!(answers.len(), rows.len(), "{lines}");
    rows.iter()
        .zip(answers)
        .map(|(row, (_, answer))| (row.attempt, answer.to_owned()))
        .collect()
}

/// Whether the supervisor recorded a denial of the call that this attempt makes.
fn named(row: &Row, denials: &[Value]) -> bool {
    let mut words = row.attempt.split(' ');
    let attempt = words.next().unwrap_or_default();
    let call = match attempt {
        "call" | "clock" => words.next().unwrap_or_default(),
        "map_users" => "unshare",
        "chroot_out" => "chroot",
        "handle" => "name_to_handle_at",
        "forged_handle" => "open_by_handle_at",
        "trace_me" => "ptrace",
        "own_memory" if row.attempt.ends_with("read") => "process_vm_readv",
        "own_memory" => "process_vm_writev",
        "getfd_of_self" => "pidfd_getfd",
        "bpf_map" => "bpf",
        "perf" => "perf_event_open",
        "host_name" => "sethostname",
        "own_signals" => "fcntl",
        "request" => "ioctl",
        "option" | "fast_open_option" => "setsockopt",
        "fast_open" => "sendto",
        same => same,
    };
    denials.iter().any(|denial| {
        let what = denial["what"].as_str().unwrap_or_default();
        denial["kind"] == "syscall"
            && what
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .any(|word| word == call)
    })
}

/// The answers of all attempts by root outside of cells, in namespaces of their own so that nothing
/// of the machine is changed.
fn outside() -> Option<&'static Answers> {
    static ANSWERS: OnceLock<Option<Answers>> = OnceLock::new();
    let answers = ANSWERS.get_or_init(|| {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let ground = Ground::new(Who::Root);
        let apart = "unshare --mount --uts --ipc --net --pid --fork --mount-proc --kill-child --";
        let mut command = Command::new("setsid");
        command
            .arg("--wait")
            .args(apart.split(' '))
            .arg(ground.probe())
            .arg("each");
        command.args(TABLE.iter().filter(|row| tried(row)).map(|row| row.attempt));
        let output = command
            .stdin(Stdio::null())
            .output()
            .expect("unshare starts");
        let said = String::from_utf8_lossy(&output.stdout);
        let answers: Answers = TABLE
            .iter()
            .filter(|row| tried(row))
            .zip(said.lines())
            .filter_map(|(row, line)| Some((row.attempt, line.split_once('\t')?.1.to_owned())))
            .collect();
        Some(answers)
    });
    answers.as_ref()
}

fn tried(row: &Row) -> bool {
    !matches!(row.control, Never(_))
}
