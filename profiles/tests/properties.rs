//! What holds for every input of a kind, tried with many.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod debian;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use profiles::placeholders::{Piece, is_name};
use profiles::schema::{self, At, Profile, Short};
use profiles::{Arguments, InputSchema, SourceFile, paths, read, units};
use proptest::prelude::*;
use serde_json::{Value, json};

proptest! {
    #[test]
    fn size_reads_back_as_it_is_shown(bytes in 0..=units::SIZE_BYTES_MAX) {
        prop_assert_eq!(units::parse_size(&units::Size(bytes).to_string()), Ok(bytes));
    }

    #[test]
    fn size_is_its_number_times_its_unit(number in 0_u64..=4096, unit in 0_usize..5) {
        let (name, factor) = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("MB", 1_000_000), ("GiB", 1 << 30)][unit];
        prop_assert_eq!(units::parse_size(&format!("{number} {name}")), Ok(number * factor));
        prop_assert_eq!(units::parse_size(&format!("{number}{name}")), Ok(number * factor));
    }

    #[test]
    fn size_is_never_rounded(whole in 0_u64..1000, tenths in 0_u64..10) {
        let read = units::parse_size(&format!("{whole}.{tenths} kB"));
        prop_assert_eq!(read, Ok(whole * 1000 + tenths * 100));
        let read = units::parse_size(&format!("{whole}.{tenths} B"));
        prop_assert_eq!(read.is_ok(), tenths == 0);
    }

    #[test]
    fn size_beyond_the_largest_is_an_error_however_large(digits in "[1-9][0-9]{15,60}") {
        let text = format!("{digits} MiB");
        prop_assert!(units::parse_size(&text).is_err());
    }

    #[test]
    fn duration_reads_back_as_it_is_shown(micros in 0..=units::DURATION_MAX.as_micros()) {
        let duration = Duration::from_micros(u64::try_from(micros).unwrap());
        prop_assert_eq!(units::parse_duration(&units::Span(duration).to_string()), Ok(duration));
    }

    #[test]
    fn no_text_makes_the_readers_panic(text in "\\PC{0,40}") {
        let _ = units::parse_size(&text);
        let _ = units::parse_duration(&text);
        let _ = units::parse_rate(&text);
        let _ = paths::absolute(&text);
        let _ = paths::relative(&text);
        let _ = Piece::parse(&text);
    }

    #[test]
    fn literal_reads_back_whatever_it_holds(text in "[a-z{}. ]{0,30}") {
        let piece = Piece::Literal(text);
        prop_assert_eq!(Piece::parse(&piece.written()), Ok(piece));
    }

    #[test]
    fn placeholder_reads_back(name in "[a-zA-Z_][a-zA-Z0-9_-]{0,20}") {
        prop_assume!(is_name(&name));
        for piece in [Piece::Argument(name.clone()), Piece::Root(name.clone())] {
            prop_assert_eq!(Piece::parse(&piece.written()), Ok(piece));
        }
    }

    #[test]
    fn placeholder_is_never_part_of_a_word(before in "[a-z=-]{0,5}", after in "[a-z/]{0,5}") {
        let whole = before.is_empty() && after.is_empty();
        let read = Piece::parse(&format!("{before}{{name}}{after}"));
        prop_assert_eq!(read.is_ok(), whole);
    }

    #[test]
    fn relative_path_stays_beneath_what_it_is_joined_to(text in "[a-c./]{0,20}") {
        if let Ok(path) = paths::relative(&text) {
            let joined = Path::new("/root").join(&path);
            prop_assert!(joined.starts_with("/root"));
            prop_assert!(!path.components().any(|part| part.as_os_str() == ".."));
        }
    }

    #[test]
    fn absolute_path_is_plain(text in "/[a-c./]{0,20}") {
        if let Ok(path) = paths::absolute(&text) {
            prop_assert!(paths::is_plain_absolute(&path));
        }
    }

    #[test]
    fn no_bytes_make_reading_a_profile_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(file) = SourceFile::from_bytes("any.toml", bytes)
            && let Err(error) = read::Written::read(file)
        {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn no_text_of_a_profiles_alphabet_makes_it_panic(lines in prop::collection::vec(line(), 0..8)) {
        let text = format!("format = 1\nname = \"tool\"\n{}", lines.join("\n"));
        match debian::resolve(&text) {
            Ok(resolved) => drop(debian::compile_here(&resolved).map_err(|error| error.to_string())),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn values_appear_in_the_command_as_they_were_sent(
        text in "[^\\x00]{0,60}",
        names in prop::collection::vec("[^\\x00-][^\\x00]{0,10}", 0..4),
        number in any::<i32>(),
    ) {
        let compiled = COMMAND.with(Clone::clone);
        let sent = json!({ "text": text, "names": names, "number": number });
        let arguments = compiled.check(sent).unwrap();
        let plan = compiled.fill(&arguments, &BTreeMap::new()).unwrap();
        let words: Vec<_> = plan.argv.iter().map(|word| word.to_str().unwrap()).collect();
        let number = number.to_string();
        let mut expected = vec!["/usr/bin/cat"];
        expected.extend(names.iter().map(String::as_str));
        expected.extend(["--number", &number, "--", &text]);
        prop_assert_eq!(words, expected);
        prop_assert_eq!(plan.stdin.unwrap(), text.as_bytes());
    }

    #[test]
    fn no_value_makes_checking_panic_and_no_message_is_long(value in value()) {
        let compiled = COMMAND.with(Clone::clone);
        let checked = Arguments::check(&compiled.input, value);
        let filled = checked.and_then(|arguments| compiled.fill(&arguments, &BTreeMap::new()));
        if let Err(error) = filled {
            prop_assert!(error.to_string().len() < 1000, "{}", error);
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same(profile in profile()) {
        let text = toml::to_string(&profile).unwrap();
        let file = SourceFile { name: "written.toml".to_owned(), text };
        let written = read::Written::read(file).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(written.profile, profile);
    }

    #[test]
    fn what_is_written_fits_the_published_schema(profile in profile()) {
        let value = serde_json::to_value(&profile).unwrap();
        let validator = VALIDATOR.with(Clone::clone);
        if let Err(error) = validator.validate(&value) {
            return Err(TestCaseError::fail(format!("{error} in {value}")));
        }
    }
}

thread_local! {
    static VALIDATOR: std::rc::Rc<jsonschema::Validator> =
        std::rc::Rc::new(jsonschema::validator_for(&schema::json_schema()).unwrap());
    static COMMAND: profiles::Compiled = debian::compiled(
        r#"
        format = 1
        name = "tool"
        description = "A tool."
        extends = ["minimal"]
        [input]
        type = "object"
        [input.properties]
        text = { type = "string" }
        number = { type = "integer" }
        names = { type = "array", items = { type = "string" } }
        [run]
        argv = ["/usr/bin/cat", "{names}", { arg = "number", flag = "--number" }, "--", "{text}"]
        stdin = "{text}"
        [files]
        exec = ["/usr/bin/cat"]
        "#,
    )
    .unwrap();
}

/// A line as it might stand in a profile.
fn line() -> impl Strategy<Value = String> {
    let keys = [
        "files.read",
        "files.exec",
        "files.write",
        "files.deny",
        "files.protect",
        "limits.memory",
        "limits.wall",
        "limits.pids",
        "run.argv",
        "run.stdin",
        "run.cwd",
        "extends",
        "title",
        "network.allow",
        "network.deny",
        "network.allow_addresses",
        "sockets.connect",
        "syscalls.allow",
        "syscalls.deny",
        "roots.docs",
        "access.roles",
        "input.type",
    ];
    let values = [
        "\"/usr\"",
        "[\"/usr\"]",
        "[\"/usr/bin/cat\"]",
        "[\"/work\", \"/tmp\"]",
        "[\"{roots.docs}\"]",
        "\"{x}\"",
        "\"1 MiB\"",
        "\"1 s\"",
        "3",
        "-3",
        "[]",
        "[\"standard\"]",
        "{ path = \"/srv/docs\" }",
        "\"object\"",
        "[{ path = \"/opt\", if_present = true, why = \"x\" }]",
        "[\"ptrace\"]",
        "[\"../x\"]",
        "nan",
        "[\"example.org\"]",
        "[\"*\", \"10.0.0.0/8\", \"host:db.internal:1/tcp\"]",
        "[\"/run/some.sock\"]",
    ];
    (
        prop::sample::select(keys.to_vec()),
        prop::sample::select(values.to_vec()),
    )
        .prop_map(|(key, value)| format!("{key} = {value}"))
}

/// Any JSON of modest size.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,200}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("text|number|names|.{0,300}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn at<T: std::fmt::Debug + 'static>(
    strategy: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = At<T>> {
    strategy.prop_map(At::nowhere)
}

fn rule() -> impl Strategy<Value = At<Short<schema::PathEntry>>> {
    let entry = ("/[a-z/]{1,20}", any::<bool>(), "[a-zA-Z \"\\\\é]{0,20}");
    at(entry.prop_map(|(path, if_present, why)| {
        Short(schema::PathEntry {
            path,
            if_present,
            why,
        })
    }))
}

fn rules() -> impl Strategy<Value = Vec<At<Short<schema::PathEntry>>>> {
    prop::collection::vec(rule(), 0..3)
}

fn files() -> impl Strategy<Value = schema::Files> {
    let workspace = prop_oneof![
        Just(schema::Workspace::None {}),
        prop::option::of(size()).prop_map(|size| schema::Workspace::Ephemeral { size }),
        prop::option::of("[a-z]{1,9}").prop_map(|name| schema::Workspace::Named { name }),
        "/[a-z]{1,9}".prop_map(|path| schema::Workspace::Host { path }),
    ];
    let workspace = prop::option::of(at(workspace));
    (rules(), rules(), rules(), rules(), rules(), workspace).prop_map(
        |(read, exec, write, deny, protect, workspace)| schema::Files {
            read,
            exec,
            write,
            deny,
            protect,
            workspace,
        },
    )
}

fn size() -> impl Strategy<Value = schema::Size> {
    (0..=units::SIZE_BYTES_MAX).prop_map(schema::Size)
}

fn limits() -> impl Strategy<Value = schema::Limits> {
    let duration =
        (0_u64..1_000_000).prop_map(|millis| schema::HumanDuration(Duration::from_millis(millis)));
    let count = any::<u32>().prop_map(schema::Count);
    let rate = (any::<u32>(), prop::sample::select(&[1_u64, 60, 3600][..]))
        .prop_map(|(calls, seconds)| schema::Rate((calls, Duration::from_secs(seconds))));
    (
        prop::option::of(at(size())),
        prop::option::of(at(duration)),
        prop::option::of(at(count)),
        prop::option::of(at(rate)),
        prop::option::of(at(0.01_f64..100.0)),
    )
        .prop_map(|(memory, wall, pids, rate, cpu)| schema::Limits {
            memory,
            wall,
            pids,
            rate,
            cpu,
            ..schema::Limits::default()
        })
}

fn run() -> impl Strategy<Value = schema::Run> {
    let word = prop_oneof![
        "\\PC{0,20}".prop_map(schema::FromText::from_text),
        ("[a-z]{1,8}", prop::option::of("-[a-z]"), any::<bool>()).prop_map(
            |(arg, flag, leading_dash)| {
                schema::ArgvWord {
                    word: None,
                    arg: Some(arg),
                    flag,
                    leading_dash,
                }
            }
        ),
    ];
    let argv = prop::option::of(at(prop::collection::vec(at(word.prop_map(Short)), 0..4)));
    let env = prop::collection::btree_map("[A-Z]{1,8}", at("\\PC{0,20}".boxed()), 0..3);
    (argv, env, prop::option::of(at("\\PC{0,40}".boxed()))).prop_map(|(argv, env, stdin)| {
        schema::Run {
            argv,
            env,
            stdin,
            ..schema::Run::default()
        }
    })
}

fn network() -> impl Strategy<Value = schema::Network> {
    let host = ("[a-z.:0-9/*]{1,20}", "[a-z ]{0,9}");
    let host = host.prop_map(|(host, why)| Short(schema::HostEntry { host, why }));
    let range = ("[0-9./]{1,20}", "[a-z ]{0,9}");
    let range = range.prop_map(|(range, why)| Short(schema::AddressEntry { range, why }));
    (
        prop::collection::vec(at(host), 0..4),
        prop::collection::vec(at(range), 0..3),
        prop::option::of(at(any::<bool>())),
    )
        .prop_map(|(allow, allow_addresses, allow_no_sni)| schema::Network {
            deny: allow.clone(),
            allow,
            allow_addresses,
            allow_no_sni,
            ..schema::Network::default()
        })
}

fn sockets() -> impl Strategy<Value = schema::Sockets> {
    let socket = ("/[a-z/]{1,20}", any::<bool>(), "[a-z ]{0,9}");
    let socket = socket.prop_map(|(path, if_present, why)| {
        Short(schema::SocketEntry {
            path,
            if_present,
            why,
        })
    });
    prop::collection::vec(at(socket), 0..3).prop_map(|connect| schema::Sockets { connect })
}

fn profile() -> impl Strategy<Value = Profile> {
    (
        "[a-z]{1,9}",
        prop::option::of(at("\\PC{0,30}".boxed())),
        prop::collection::vec(at("[a-z]{1,9}".boxed()), 0..3),
        prop::option::of(run()),
        prop::option::of(files()),
        prop::option::of(limits()),
        prop::option::of(network()),
        prop::option::of(sockets()),
    )
        .prop_map(
            |(name, title, extends, run, files, limits, network, sockets)| Profile {
                format: At::nowhere(schema::FORMAT),
                name: At::nowhere(name),
                title,
                description: None,
                tags: Vec::new(),
                extends,
                input: None,
                run,
                roots: BTreeMap::new(),
                paths: BTreeMap::new(),
                files,
                network,
                sockets,
                syscalls: None,
                limits,
                access: None,
                pool: None,
                explain: None,
            },
        )
}

#[test]
fn input_schema_is_checked_with_what_is_published() {
    let compiled = COMMAND.with(Clone::clone);
    let InputSchema { .. } = &compiled.input;
    assert_eq!(compiled.input.schema(), &compiled.resolved.input);
    assert_eq!(
        compiled.input.schema()["additionalProperties"],
        json!(false)
    );
}
