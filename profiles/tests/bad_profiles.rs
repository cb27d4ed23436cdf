//! Profiles that are wrong: each gets a message that says where, what was expected, and what would
//! mend it. The messages are snapshots, because they are what people see.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod debian;

use profiles::diagnostics::{Kind, PROFILE_BYTES_MAX};
use profiles::library::EXTENDS_DEPTH_MAX;
use profiles::{Library, Overrides, SourceFile, WorkspaceKind};

const HEAD: &str = "format = 1\nname = \"tool\"\ndescription = \"A tool.\"\n";

/// Snapshots the message for a profile that cannot be resolved, with a working profile as control.
macro_rules! refused {
    ($($name:ident: $text:expr;)*) => {$(
        #[test]
        fn $name() {
            let text = format!("{HEAD}{}", $text);
            let error = debian::resolve(&text).expect_err("the profile is wrong");
            assert!(!error.0.is_empty());
            insta::assert_snapshot!(error.to_string());
        }
    )*};
}

/// Snapshots the message for a profile that can be resolved, but not compiled for the paper
/// machine.
macro_rules! not_compiled {
    ($($name:ident: $text:expr;)*) => {$(
        #[test]
        fn $name() {
            let text = format!("{HEAD}{}", $text);
            let resolved = debian::resolve(&text).unwrap_or_else(|error| panic!("{error}"));
            let error = debian::compile_here(&resolved).expect_err("it cannot be compiled");
            insta::assert_snapshot!(error.to_string());
        }
    )*};
}

const ALLOWED: &str = "[network]\nallow = [\"example.org\"]\n";
const INJECTED: &str = r#"
[network]
allow = ["example.org"]
[[network.inject]]
host = "example.org:443"
method = "POST"
path = "/v1/*"
header = "Authorization"
value = "Bearer {secret}"
secret = "openai"
"#;

const GOOD: &str = r#"
extends = ["minimal"]
input.type = "object"
input.properties.text = { type = "string" }
input.properties.count = { type = "integer" }
input.properties.names = { type = "array", items = { type = "string" } }
input.properties.where = { type = "string" }
[roots]
docs = "/srv/docs"
[paths.where]
beneath = "{roots.docs}"
[run]
argv = ["/usr/bin/cat", "{text}", "{count}", "{names}", "{where}"]
[files]
exec = ["/usr/bin/cat"]
read = ["{where}"]
"#;

#[test]
fn the_control_is_accepted() {
    for good in [GOOD, INJECTED] {
        debian::compiled(&format!("{HEAD}{good}")).unwrap_or_else(|error| panic!("{error}"));
    }
}

refused! {
    unknown_key_at_the_top: "limit.memory = \"1 MiB\"";
    unknown_key_in_a_table: "[limits]\nmemroy = \"64 MiB\"";
    unknown_key_in_a_rule: "files.read = [{ path = \"/usr\", ifpresent = true }]";
    unknown_key_like_nothing: "[limits]\nzzz = 1";
    unknown_workspace_kind: "[files]\nworkspace = { kind = \"ephemral\" }";
    unknown_approval: "access.approve = \"sometimes\"";
    not_toml: "[limits\nmemory = 3";
    duplicate_key: "title = \"a\"\ntitle = \"b\"";
    control_characters_do_not_reach_the_terminal: "title = \"\u{1b}[31mred\"";
    bidirectional_text_does_not_reach_the_terminal: "titel = \"\u{202e}evil\"";
    deep_nesting: format!("title = {}{}", "[".repeat(200), "]".repeat(200));
    wrong_type: "title = 3";
    rule_of_wrong_type: "files.read = [3]";
    size_without_a_unit: "limits.memory = \"512\"";
    size_as_a_number: "limits.memory = 512";
    size_with_an_unknown_unit: "limits.memory = \"512 mb\"";
    size_that_overflows: "limits.memory = \"99999999999999999999999999999999999999999 TiB\"";
    size_that_is_too_large: "limits.memory = \"17 TiB\"";
    size_that_is_negative: "limits.memory = \"-1 MiB\"";
    size_of_half_a_byte: "limits.memory = \"0.5 B\"";
    size_below_the_least: "limits.memory = \"1 MiB\"";
    duration_without_a_unit: "limits.wall = \"30\"";
    duration_with_an_unknown_unit: "limits.wall = \"5 m\"";
    duration_that_overflows: "limits.wall = \"340282366920938463463374607431768211455 h\"";
    duration_that_is_too_long: "limits.wall = \"400 h\"";
    duration_of_nothing: "limits.wall = \"0 s\"";
    count_that_is_negative: "limits.pids = -1";
    count_that_overflows: "limits.pids = 4294967296";
    count_of_nothing: "limits.pids = 0";
    cores_that_are_not_a_number: "limits.cpu = nan";
    rate_without_a_time: "limits.rate = \"60\"";
    rate_of_nothing: "limits.rate = \"0/min\"";
    relative_path: "files.read = [\"usr/lib\"]";
    empty_path: "files.read = [\"\"]";
    path_with_dots: "files.read = [\"/usr/../etc\"]";
    path_with_a_newline: "files.read = [\"/usr/a\\nb\"]";
    path_that_is_too_long: format!("files.read = [\"/{}\"]", "a/".repeat(3000));
    whole_host: "files.read = [\"/\"]";
    whole_etc: "files.read = [\"/etc\"]";
    own_passwd: "files.read = [\"/etc/passwd\"]";
    host_proc: "files.read = [\"/proc/1\"]";
    host_device: "files.read = [\"/dev/sda\"]";
    whole_run: "files.read = [\"/run\"]";
    within_the_workspace: "files.read = [\"/work/x\"]";
    own_tmp_read: "files.read = [\"/tmp\"]";
    path_listed_twice: "files.read = [\"/usr\", \"/usr\"]";
    work_without_a_workspace: "files.write = [\"/work\"]";
    workspace_without_a_rule: "files.workspace = { kind = \"ephemeral\" }";
    workspace_in_usr: "files.write = [\"/work\"]\nfiles.workspace = { kind = \"host\", path = \"/usr/x\" }";
    workspace_by_argument: "files.write = [\"/work\"]\nfiles.workspace = { kind = \"host\", path = \"{where}\" }";
    workspace_name: "files.write = [\"/work\"]\nfiles.workspace = { kind = \"named\", name = \"../x\" }";
    protected_absolute: "files.protect = [\"/etc\"]";
    protected_with_dots: "files.protect = [\"../x\"]";
    protected_everything: "files.protect = [\".\"]";
    unknown_syscall: "syscalls.allow = [\"ptrce\"]";
    syscall_never_allowed: "syscalls.allow = [\"mount\"]";
    syscall_already_allowed: "syscalls.allow = [\"read\"]";
    syscall_vital: "syscalls.deny = [\"execve\"]";
    root_unknown: "roots.docs = \"/srv/docs\"\nfiles.read = [\"{roots.dosc}\"]";
    root_relative: "roots.place = \"srv/docs\"";
    root_without_a_path: "roots.place = { why = \"documents\" }";
    root_required_with_a_path: "roots.place = { path = \"/srv\", required = true }";
    placeholder_that_the_schema_lacks: GOOD.replace("{count}", "{cuont}");
    placeholder_without_a_schema: "run.argv = [\"/usr/bin/cat\", \"{text}\"]";
    placeholder_within_a_word: GOOD.replace("{count}", "--count={count}");
    placeholder_after_another: GOOD.replace("{count}", "{text}{count}");
    placeholder_with_an_odd_name: GOOD.replace("{count}", "{co unt}");
    lone_brace: GOOD.replace("{count}", "awk {");
    placeholder_as_the_program: GOOD.replace("/usr/bin/cat\", \"{text}", "{text}\", \"{text}");
    placeholder_for_a_loader_variable: format!("{GOOD}[run.env]\nLD_PRELOAD = \"{{text}}\"");
    placeholder_of_a_list_in_the_environment: format!("{GOOD}[run.env]\nNAMES = \"{{names}}\"");
    placeholder_as_cwd_that_is_no_path: GOOD.replace("[files]", "cwd = \"{text}\"\n[files]");
    path_rule_for_an_argument_that_is_no_path: GOOD.replace("read = [\"{where}\"]", "read = [\"{text}\"]");
    path_argument_that_is_no_string: GOOD.replace("[paths.where]", "[paths.count]");
    path_argument_beneath_no_root: GOOD.replace("beneath = \"{roots.docs}\"", "beneath = \"/srv\"");
    denied_by_argument: GOOD.replace("[files]", "[files]\ndeny = [\"{where}\"]");
    flag_without_an_argument: GOOD.replace("\"{count}\"", "{ flag = \"-n\" }");
    flag_with_a_word: GOOD.replace("\"{count}\"", "{ word = \"x\", flag = \"-n\" }");
    program_relative: "run.argv = [\"cat\"]";
    program_missing_from_argv: "run.argv = []";
    program_with_a_nul: "run.argv = [\"/usr/bin/cat\\u0000\"]";
    environment_variable_name: "run.env = { \"A=B\" = \"c\" }";
    secrets_are_not_offered: "run.secrets = { API_KEY = \"openai\" }";
    approval_is_not_offered: "access.approve = \"always\"";
    nobody_may_call: "access.roles = []";
    too_many_prepared_cells: "pool.ready = 1000";
    prepared_although_an_argument_decides: format!("{GOOD}[pool]\nready = 1");
    prepared_although_callers_differ: "pool.ready = 1\nfiles.write = [\"/work\"]\nfiles.workspace = { kind = \"named\", name = \"x\" }";
    prepared_although_paths_are_protected: "pool.ready = 1\nfiles.write = [\"/work\"]\nfiles.protect = [\".git\"]\nfiles.workspace = { kind = \"host\", path = \"/srv/x\" }";
    prepared_with_a_socket: "pool.ready = 1\nsockets.connect = [\"/run/x.sock\"]";
    prestarted_with_an_argument: "pool.prestart = true\ninput = { type = \"object\", required = [\"a\"], properties = { a = { type = \"string\" } } }\nrun.argv = [\"/usr/bin/cat\", \"{a}\"]";
    no_success: GOOD.replace("[files]", "success = []\n[files]");
    input_that_is_no_object: "input.type = \"string\"";
    input_that_is_no_schema: "input = { type = \"object\", properties = { a = { type = \"strnig\" } } }";
    input_with_a_date: "input = { type = \"object\", default = 2026-01-01 }";
    input_with_a_reference_outside: "input = { type = \"object\", properties = { a = { \"$ref\" = \"https://example.org/schema\" } } }";
    input_with_a_greedy_pattern: "input = { type = \"object\", properties = { a = { type = \"string\", pattern = \"(a{1000}){1000}\" } } }";
    input_requires_what_it_lacks: "input = { type = \"object\", required = [\"cdoe\"], properties = { code = { type = \"string\" } } }";
    input_with_an_odd_name: "input = { type = \"object\", properties = { \"a b\" = { type = \"string\" } } }";
    extends_what_is_not_there: "extends = [\"standrad\"]";
    extends_itself: "extends = [\"tool\"]";
    host_that_is_a_url: "network.allow = [\"https://example.org/api\"]";
    host_that_is_a_url_of_another_protocol: "network.allow = [\"postgres://me@db.example.org/x\"]";
    host_with_a_path: "network.allow = [\"example.org/api\"]";
    host_with_a_space: "network.allow = [\"example.org: 443\"]";
    host_with_a_user: "network.allow = [\"git@example.org\"]";
    host_with_a_nul: "network.allow = [\"a\\u0000b.org\"]";
    host_that_is_empty: "network.allow = [\"\"]";
    host_that_is_too_long: format!("network.allow = [\"{}.org\"]", "a".repeat(64));
    host_that_could_be_an_address: "network.allow = [\"1.2.3\"]";
    host_that_is_the_cell_itself: "network.allow = [\"localhost:5432/tcp\"]";
    host_beneath_localhost: "network.allow = [\"*.localhost\"]";
    host_with_a_wildcard_within: "network.allow = [\"a.*.org\"]";
    host_with_a_wildcard_without_a_dot: "network.allow = [\"*example.org\"]";
    host_with_a_leading_dot: "network.allow = [\".example.org\"]";
    host_with_an_empty_port: "network.allow = [\"example.org:\"]";
    host_with_port_zero: "network.allow = [\"example.org:0\"]";
    host_with_a_port_that_is_too_large: "network.allow = [\"example.org:70000\"]";
    host_with_a_port_by_name: "network.allow = [\"example.org:https\"]";
    host_with_a_range_of_ports: "network.allow = [\"example.org:8000-8002\"]";
    host_with_a_port_twice: "network.allow = [\"example.org:443,443\"]";
    host_over_udp: "network.allow = [\"example.org:443/udp\"]";
    host_over_tcp_without_a_port: "network.allow = [\"db.example.org/tcp\"]";
    service_without_a_port: "network.allow = [\"host:db.internal\"]";
    service_by_the_name_of_a_host: "network.allow = [\"example.org\", \"host:example.org:5432/tcp\"]";
    range_that_is_none: "network.allow = [\"10.1.2.3/8:443\"]";
    range_that_holds_loopback: "network.allow = [\"0.0.0.0/0\"]";
    address_of_loopback: "network.allow = [\"127.0.0.1:5432/tcp\"]";
    address_where_nobody_serves: "network.allow = [\"224.0.0.1\"]";
    address_of_the_cells_own: "network.allow = [\"198.18.0.1\"]";
    host_of_a_wrong_key: "network.allow = [{ name = \"example.org\" }]";
    denial_of_what_is_not_allowed: "network.allow = [\"example.org\"]\nnetwork.deny = [\"*.internal\"]";
    denial_of_another_port: "network.allow = [\"example.org:443\"]\nnetwork.deny = [\"example.org:22\"]";
    denial_of_all_of_an_entry: "network.allow = [\"a.example.org\", \"example.org\"]\nnetwork.deny = [\"*.example.org\"]";
    denials_of_all_of_an_entry_together: "network.allow = [\"example.org\"]\nnetwork.deny = [\"example.org:80\", \"example.org:443\"]";
    denial_of_one_protocol: "network.allow = [\"example.org\"]\nnetwork.deny = [\"example.org:80/tcp\"]";
    denial_that_is_a_url: "network.deny = [\"https://example.org\"]";
    injection_without_a_key: format!("{ALLOWED}inject = [{{ host = \"example.org\" }}]");
    injection_that_is_nowhere_allowed: INJECTED.replace("host = \"example.org:443\"", "host = \"other.org\"");
    injection_by_another_port: INJECTED.replace("host = \"example.org:443\"", "host = \"example.org:8443\"");
    injection_into_what_is_denied: INJECTED.replace("allow", "deny = [\"example.org:443\"]\nallow");
    injection_into_any_protocol: INJECTED.replace("[\"example.org\"]", "[\"example.org:443/tcp\"]");
    injection_into_every_host: INJECTED.replace("host = \"example.org:443\"", "host = \"*.example.org\"");
    injection_by_a_method_that_sends_it_back: INJECTED.replace("POST", "TRACE");
    injection_with_a_path_in_two_ways: INJECTED.replace("/v1/*", "/v1/../x");
    injection_of_a_header_that_frames: INJECTED.replace("Authorization", "Content-Length");
    injection_of_no_header: INJECTED.replace("Authorization", "Author ization");
    injection_without_its_secret: INJECTED.replace("{secret}", "secret");
    injection_of_its_secret_twice: INJECTED.replace("{secret}", "{secret}{secret}");
    injection_of_lines: INJECTED.replace("Bearer ", "Bearer\\r\\nX: ");
    injection_of_an_odd_secret: INJECTED.replace("\"openai\"", "\"../openai\"");
    opening_of_everything: "network.allow_addresses = [\"0.0.0.0/0\"]";
    opening_of_what_is_public: "network.allow_addresses = [\"8.8.8.0/24\"]";
    opening_of_multicast: "network.allow_addresses = [\"multicast\"]";
    opening_that_is_misspelt: "network.allow_addresses = [\"privat\"]";
    opening_that_is_no_range: "network.allow_addresses = [\"10.0.0.1/8\"]";
    connections_beyond_the_most: "limits.connections = 5000";
    connections_of_none: "limits.connections = 0";
    egress_without_a_unit: "limits.egress = \"100\"";
    socket_that_is_abstract: "sockets.connect = [\"@/tmp/.X11-unix/X0\"]";
    socket_that_is_a_url: "sockets.connect = [\"unix:///run/some.sock\"]";
    socket_of_a_callers: "sockets.connect = [\"{path}\"]";
    socket_by_a_relative_path: "sockets.connect = [\"some.sock\"]";
    socket_of_the_cells_own_proc: "sockets.connect = [\"/proc/1/root/run/some.sock\"]";
    socket_of_a_wrong_key: "sockets.connect = [{ socket = \"/run/some.sock\" }]";
    sockets_of_a_wrong_key: "sockets.allow = [\"/run/some.sock\"]";
    several_mistakes_at_once: "files.read = [\"a\", \"b\"]\nlimits.pids = 0\nrun.argv = [\"cat\"]";
}

not_compiled! {
    injection_of_a_secret_that_is_not_there: INJECTED.replace("\"openai\"", "\"anthropic\"");
    injection_where_a_directory_is_in_the_way: format!("{INJECTED}[files]\nread = [\"/etc/toolcell\"]");
    path_that_dangles: "files.read = [\"/opt/nothing\"]";
    path_that_is_a_socket: "files.read = [\"/run/some.sock\"]";
    deny_of_what_is_not_there: "files.read = [\"/usr\"]\nfiles.deny = [\"/usr/bin/su\"]";
    deny_of_what_is_not_allowed: "files.read = [\"/usr\"]\nfiles.deny = [\"/opt/data\"]";
    program_that_does_not_exist: "run.argv = [\"/usr/bin/nothing\"]\nfiles.exec = [\"/usr\"]";
    program_that_is_not_executable: "run.argv = [\"/opt/data/notes\"]\nfiles.exec = [\"/opt/data\"]";
    program_that_is_a_directory: "run.argv = [\"/opt/data\"]\nfiles.exec = [\"/opt/data\"]";
    program_that_no_rule_lets_run: "run.argv = [\"/usr/bin/cat\"]\nfiles.read = [\"/usr\"]";
    program_of_the_callers: "extends = [\"standard\"]\nrun.argv = [\"/work/x\"]";
    more_hosts_than_a_cell_has_sockets: format!("network.allow = [{}]", hosts(130));
    socket_that_does_not_exist: "sockets.connect = [\"/run/nothing.sock\"]";
    socket_that_is_a_file: "sockets.connect = [\"/opt/data/notes\"]";
    socket_that_is_a_directory: "sockets.connect = [\"/run/postgresql\"]";
    socket_in_a_directory_that_is_shown: "files.read = [\"/run/postgresql\"]\nsockets.connect = [\"/run/postgresql/.s.PGSQL.5432\"]";
    socket_that_the_tool_can_replace: "files.write = [\"/srv/work\"]\nsockets.connect = [\"/srv/work/some.sock\"]";
    socket_in_the_tools_workspace: "files.write = [\"/work\"]\nfiles.workspace = { kind = \"host\", path = \"/srv/work\" }\nsockets.connect = [\"/srv/work/some.sock\"]";
    root_that_does_not_exist: "roots.there = \"/srv/nothing\"";
    root_that_is_a_file: "roots.there = \"/opt/data/notes\"";
    root_within_the_cells_own_tmp: "extends = [\"standard\"]\nroots.there = \"/tmp/docs\"\nfiles.read = [\"{roots.there}\"]";
    root_that_was_not_given: "roots.there = { required = true, why = \"the documents\" }";
    workspace_that_does_not_exist: "files.write = [\"/work\"]\nfiles.workspace = { kind = \"host\", path = \"/srv/nothing\" }";
}

/// So many different hosts, as a list's items.
fn hosts(count: usize) -> String {
    let hosts: Vec<_> = (0..count).map(|n| format!("\"n{n}.org\"")).collect();
    hosts.join(", ")
}

#[test]
fn kernel_without_landlock_is_refused() {
    let resolved = debian::resolve(HEAD).unwrap();
    let host = debian::host(&resolved, profiles::Arch::X86_64, 0);
    let error = profiles::compile(&resolved, &host).unwrap_err();
    assert!(error.all(Kind::HostTooWeak));
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn missing_format() {
    let error = debian::resolve("name = \"tool\"").unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn other_format_is_judged_before_its_keys() {
    let error = debian::resolve("format = 2\nnew_key = 1").unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn missing_name() {
    let error = debian::resolve("format = 1").unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn tool_without_a_description() {
    let error = debian::resolve("format = 1\nname = \"tool\"\nrun.argv = [\"/usr/bin/cat\"]");
    insta::assert_snapshot!(error.unwrap_err().to_string());
}

#[test]
fn name_that_is_none() {
    for name in ["", "Tool", "1tool", "a b", "../x", &"a".repeat(65)] {
        let text = format!("format = 1\nname = \"{name}\"");
        assert!(debian::resolve(&text).is_err(), "{name}");
    }
    let error = debian::resolve("format = 1\nname = \"My Tool\"").unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn oversize_file() {
    let text = format!("{HEAD}# {}", "x".repeat(PROFILE_BYTES_MAX));
    let error = debian::resolve(&text).unwrap_err();
    insta::assert_snapshot!(error.to_string());
    let error = SourceFile::from_bytes("big.toml", vec![b' '; PROFILE_BYTES_MAX + 1]).unwrap_err();
    insta::assert_snapshot!(error.to_string());
    assert!(SourceFile::from_bytes("fits.toml", vec![b' '; PROFILE_BYTES_MAX]).is_ok());
}

#[test]
fn file_that_is_not_utf_8() {
    let error = SourceFile::from_bytes("latin.toml", b"format = 1\nname = \"\xe9\"".to_vec());
    insta::assert_snapshot!(error.unwrap_err().to_string());
}

#[test]
fn two_files_of_one_name() {
    let mut library = Library::builtin();
    library.add(debian::file(HEAD)).unwrap();
    let second = SourceFile {
        name: "other/tool.toml".to_owned(),
        text: HEAD.to_owned(),
    };
    insta::assert_snapshot!(library.add(second).unwrap_err().to_string());
}

#[test]
fn built_in_profile_can_be_replaced_once() {
    let mut library = Library::builtin();
    let text = "format = 1\nname = \"python\"\n";
    assert!(library.is_builtin("python"));
    assert_eq!(library.add(debian::file(text)).unwrap(), "python");
    assert!(!library.is_builtin("python"));
    assert!(library.add(debian::file(text)).is_err());
}

#[test]
fn extends_in_a_circle() {
    let mut library = Library::builtin();
    for (name, base) in [("a", "b"), ("b", "c"), ("c", "a")] {
        let text = format!("format = 1\nname = \"{name}\"\nextends = [\"{base}\"]\n");
        let file = SourceFile {
            name: format!("{name}.toml"),
            text,
        };
        library.add(file).unwrap();
    }
    let error = library.resolve("a", &Overrides::default()).unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn extends_too_deep() {
    let mut library = Library::builtin();
    let last = EXTENDS_DEPTH_MAX + 1;
    for level in 0..=last {
        let extends = if level == last {
            String::new()
        } else {
            format!("\"l{}\"", level + 1)
        };
        let text = format!("format = 1\nname = \"l{level}\"\nextends = [{extends}]\n");
        let file = SourceFile {
            name: format!("l{level}.toml"),
            text,
        };
        library.add(file).unwrap();
    }
    library.resolve("l1", &Overrides::default()).unwrap();
    let error = library.resolve("l0", &Overrides::default()).unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn unknown_profile() {
    let error = Library::builtin()
        .resolve("pyhton", &Overrides::default())
        .unwrap_err();
    assert!(error.all(Kind::UnknownProfile));
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn operators_workspace_is_checked_too() {
    let library = Library::builtin();
    let with = |path: &str| Overrides {
        workspace: Some(WorkspaceKind::Host(path.into())),
        ..Overrides::default()
    };
    library.resolve("python", &with("/srv/work")).unwrap();
    let error = library.resolve("python", &with("srv/work")).unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn many_mistakes_are_cut_short() {
    let rules: Vec<_> = (0..120).map(|index| format!("\"x{index}\"")).collect();
    let text = format!("{HEAD}files.read = [{}]", rules.join(",\n"));
    let message = debian::resolve(&text).unwrap_err().to_string();
    assert!(
        message.ends_with("and 70 more\n"),
        "{}",
        &message[message.len() - 100..]
    );
}
