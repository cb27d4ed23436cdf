//! What published MCP client libraries make of the server, in both eras of the protocol: each test
//! runs for every library, as root and as an ordinary user.
#![allow(clippy::unwrap_used)] // a test may

use std::path::Path;
use std::process::Command;

use harness::clients::{Client, Library, PATIENCE};
use harness::left::cgroups;
use harness::{World, everyone, within};
use serde_json::{Value, json};

/// Runs every test for one library, in a module of its name.
macro_rules! libraries {
    ($($library:ident = $variant:ident),* $(,)?) => {$(
        mod $library {
            const LIBRARY: harness::clients::Library = harness::clients::Library::$variant;
            libraries!(@tests
                tools_are_listed_sorted_with_their_schemas,
                result_holds_the_output_schema,
                result_outside_the_output_schema_is_refused_by_the_client,
                wrong_argument_is_an_answer_that_names_the_field,
                progress_comes_while_the_call_runs,
                cancelled_call_leaves_no_process,
                many_calls_at_once_get_their_own_answers,
                long_output_is_read_back_whole,
                artifacts_are_read_back_as_they_were,
                changed_profiles_change_the_list_and_a_bad_one_does_not,
                goodbye_in_the_middle_of_a_call_leaves_nothing,
            );
        }
    )*};
    (@tests $($test:ident),* $(,)?) => {$(
        #[test]
        fn $test() {
            super::$test(LIBRARY);
        }
    )*};
}

libraries! {
    python_v1 = PythonV1,
    python_v2_legacy = PythonV2Legacy,
    python_v2_auto = PythonV2Auto,
    fastmcp = FastMcp,
    typescript_v1 = TypeScriptV1,
    typescript_v2_legacy = TypeScriptV2Legacy,
    typescript_v2_auto = TypeScriptV2Auto,
}

/// Runs a test for everyone, if the library can be had.
fn each(library: Library, serve: &[&str], test: impl Fn(&World, &mut Client)) {
    for who in everyone() {
        let world = World::new(who);
        let Some(mut client) = Client::start(library, &world, serve) else {
            return;
        };
        test(&world, &mut client);
        client.close();
        assert!(
            within(PATIENCE, || cgroups(&world).is_empty()),
            "{who:?}: {:?}",
            cgroups(&world)
        );
    }
}

fn python(code: &str) -> Value {
    json!({ "code": code })
}

/// The text that the tool wrote, of a call that succeeded.
#[track_caller]
fn stdout(result: &Value) -> &str {
    assert_ne!(result["isError"], true, "{result:#}");
    result["structuredContent"]["stdout"]["text"]
        .as_str()
        .unwrap()
}

fn tools_are_listed_sorted_with_their_schemas(library: Library) {
    each(library, &[], |_, client| {
        let tools = client.tools();
        let names: Vec<_> = tools
            .iter()
            .map(|tool| tool["name"].as_str().unwrap())
            .collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(names, sorted);
        for name in ["calculate", "python", "shell"] {
            let tool = &tools[names.iter().position(|found| *found == name).expect(name)];
            assert_eq!(tool["inputSchema"]["type"], "object", "{tool:#}");
            assert_eq!(tool["outputSchema"]["type"], "object", "{tool:#}");
            assert_eq!(tool["annotations"]["readOnlyHint"], true, "{tool:#}");
            assert_eq!(tool["annotations"]["openWorldHint"], false, "{tool:#}");
        }
        assert_eq!(client.tool_names(), names, "the list is stable");
    });
}

/// The libraries check the data themselves, against the schema that the tool list gave.
fn result_holds_the_output_schema(library: Library) {
    each(library, &[], |_, client| {
        client.tools();
        let result = client.call("python", &python("print(6 * 7)"));
        assert_eq!(stdout(&result), "42\n");
        assert_eq!(result["content"][0]["text"], "42\n");
        let data = &result["structuredContent"];
        assert_eq!(
            (&data["status"], &data["exit_code"]),
            (&json!("exited"), &json!(0))
        );
        assert_eq!(data["enforced"]["tier"], "full", "{data:#}");
    });
}

/// The control of the one above: a library that let anything through would prove nothing.
fn result_outside_the_output_schema_is_refused_by_the_client(library: Library) {
    let world = World::new(harness::Who::Root);
    let mut server = Command::new("/usr/bin/python3");
    server.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/wrong_server.py"));
    let Some(mut client) = Client::start_with(library, &world, &server) else {
        return;
    };
    client.tools();
    client.tell(&json!({ "op": "call", "id": "wrong", "tool": "wrong", "arguments": {} }));
    client.wait("the refusal", |event| {
        event["event"] == "failed" && event["id"] == "wrong"
    });
    client.tell(&json!({ "op": "call", "id": "right", "tool": "right", "arguments": {} }));
    assert_eq!(
        client.result("right")["structuredContent"]["status"],
        "exited"
    );
    client.close();
}

fn wrong_argument_is_an_answer_that_names_the_field(library: Library) {
    each(library, &[], |_, client| {
        for (arguments, field) in [
            (json!({ "code": 7 }), "`/code`"),
            (json!({}), "`/code`"),
            (json!({ "code": "1", "cod": "2" }), "cod"),
            (json!({ "code": "1", "args": ["x", 2] }), "`/args/1`"),
        ] {
            let result = client.call("python", &arguments);
            assert_eq!(result["isError"], true, "{arguments}: {result:#}");
            assert_eq!(result["structuredContent"]["status"], "refused");
            let text = result["content"][0]["text"].as_str().unwrap();
            assert!(text.contains(field), "{arguments}: {text}");
        }
        assert_eq!(stdout(&client.call("python", &python("print(1)"))), "1\n");
    });
}

/// The first line is told before the call ends: what the call waits for in between comes after it.
fn progress_comes_while_the_call_runs(library: Library) {
    each(library, &[], |_, client| {
        let code = "import time\nprint('first', flush=True)\ntime.sleep(1)\nprint('last')";
        client.begin("slow", "python", &python(code));
        let first = client.wait("progress", |event| event["event"] == "progress");
        assert_eq!(
            (&first["id"], &first["message"]),
            (&json!("slow"), &json!("first"))
        );
        let result = client.result("slow");
        assert_eq!(stdout(&result), "first\nlast\n");
        let wall = result["structuredContent"]["usage"]["wall_ms"]
            .as_f64()
            .unwrap();
        let told = first["progress"].as_f64().unwrap() * 1000.0;
        assert!(told > 0.0 && told < wall, "told after {told} ms of {wall}");
    });
}

fn cancelled_call_leaves_no_process(library: Library) {
    each(library, &[], |world, client| {
        let code = "import os, time\nos.fork()\nprint('ready', flush=True)\ntime.sleep(600)";
        client.begin("endless", "python", &python(code));
        client.wait("progress", |event| event["event"] == "progress");
        // What is looked for is there while the call runs.
        assert!(!cgroups(world).is_empty());
        assert!(running(world, "python3").is_none_or(|count| count >= 2));

        client.tell(&json!({ "op": "cancel", "id": "endless" }));
        client.event("cancelled");
        assert!(
            within(PATIENCE, || world.receipts().len() == 1),
            "no receipt is written"
        );
        assert_eq!(world.receipts()[0]["status"], "cancelled");
        assert!(
            cgroups(world).is_empty(),
            "a receipt is written when the cell is gone"
        );
        assert!(running(world, "python3").is_none_or(|count| count == 0));

        assert_eq!(stdout(&client.call("python", &python("print(1)"))), "1\n");
    });
}

/// How many of the world's processes have this name, where they can be followed.
fn running(world: &World, name: &str) -> Option<usize> {
    // The client's own interpreter is not among them: only the server enters the group.
    let processes = world.track.processes()?;
    Some(processes.iter().filter(|(_, found)| found == name).count())
}

fn many_calls_at_once_get_their_own_answers(library: Library) {
    const CALLS: usize = 12;
    each(library, &[], |world, client| {
        for call in 0..CALLS {
            client.begin(
                &call.to_string(),
                "python",
                &python(&format!("print({call} * 1000)")),
            );
        }
        for call in (0..CALLS).rev() {
            let result = client.result(&call.to_string());
            assert_eq!(stdout(&result), format!("{}\n", call * 1000));
        }
        assert_eq!(world.receipts().len(), CALLS);
        let verified = world.toolcell(&["audit", "verify"]);
        assert!(verified.status.success(), "{verified:?}");
    });
}

fn long_output_is_read_back_whole(library: Library) {
    each(library, &[], |_, client| {
        let result = client.call("python", &python("for i in range(30000): print(i, 'é')"));
        let stream = &result["structuredContent"]["stdout"];
        let whole = (0..30000).fold(String::new(), |whole, i| whole + &format!("{i} é\n"));
        assert_eq!(
            (&stream["truncated"], &stream["bytes"]),
            (&json!(true), &json!(whole.len()))
        );
        let head = stream["text"].as_str().unwrap();
        assert!(!head.is_empty() && head.len() < whole.len() && whole.starts_with(head));

        let link = &result["content"][1];
        assert_eq!(
            (&link["type"], &link["uri"]),
            (&json!("resource_link"), &stream["resource"])
        );
        let contents = client.read(&link["uri"]);
        assert_eq!(contents["text"].as_str().unwrap(), whole);
    });
}

fn artifacts_are_read_back_as_they_were(library: Library) {
    each(library, &[], |_, client| {
        let code = "import os\nos.mkdir('out')\nopen('out/words.txt', 'w').write('grüß')\n\
                    open('out/bytes.bin', 'wb').write(bytes([0, 255, 10]))";
        let result = client.call("python", &python(code));
        stdout(&result);
        let files = result["structuredContent"]["files"].as_array().unwrap();
        let names: Vec<_> = files
            .iter()
            .map(|file| file["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["bytes.bin", "words.txt"]);
        assert_eq!(result["content"][1]["uri"], files[0]["resource"]);
        let bytes = client.read(&files[0]["resource"]);
        assert_eq!(bytes["blob"], "AP8K", "{bytes}");
        let words = client.read(&files[1]["resource"]);
        assert_eq!(words["text"], "grüß", "{words}");
        assert!(
            words["mimeType"]
                .as_str()
                .unwrap()
                .starts_with("text/plain"),
            "{words}"
        );
    });
}

fn profile(name: &str, says: &str) -> String {
    format!(
        "format = 1\nname = \"{name}\"\ntitle = \"Test\"\ndescription = \"A test's.\"\n\
         extends = [\"readonly\"]\n[input]\ntype = \"object\"\n\
         [run]\nargv = [\"/bin/echo\", \"{says}\"]\n"
    )
}

fn changed_profiles_change_the_list_and_a_bad_one_does_not(library: Library) {
    for who in everyone() {
        let world = World::new(who);
        world.write("profiles/first.toml", &profile("first", "one"));
        let Some(mut client) = Client::start(library, &world, &["--profiles", "profiles"]) else {
            return;
        };
        let before = client.tool_names();
        assert!(before.contains(&"first".to_owned()) && !before.contains(&"second".to_owned()));

        world.write("profiles/second.toml", &profile("second", "two"));
        client.event("tools_changed");
        // An editor's several writes can be told of twice; what counts is the list.
        assert!(within(PATIENCE, || client
            .tool_names()
            .contains(&"second".to_owned())));
        assert_eq!(stdout(&client.call("second", &json!({}))), "two\n");

        // A bad one is told to the operator, and nothing changes.
        world.write(
            "profiles/third.toml",
            "format = 1\nname = \"third\"\nnonsense = 1\n",
        );
        world.write("profiles/first.toml", &profile("first", "changed"));
        let said = world.path(&format!("{library:?}.said"));
        let complaint = || std::fs::read_to_string(&said).unwrap().contains("nonsense");
        assert!(
            within(PATIENCE, complaint),
            "{who:?}: nobody is told of the bad profile"
        );
        let names = client.tool_names();
        assert!(names.contains(&"second".to_owned()) && !names.contains(&"third".to_owned()));
        assert_eq!(stdout(&client.call("first", &json!({}))), "one\n");

        // What mends it brings in everything that has changed meanwhile.
        world.write("profiles/third.toml", &profile("third", "three"));
        assert!(within(PATIENCE, || client
            .tool_names()
            .contains(&"third".to_owned())));
        assert_eq!(stdout(&client.call("first", &json!({}))), "changed\n");
        std::fs::remove_file(world.path("profiles/second.toml")).unwrap();
        assert!(within(PATIENCE, || !client
            .tool_names()
            .contains(&"second".to_owned())));
        client.close();
    }
}

fn goodbye_in_the_middle_of_a_call_leaves_nothing(library: Library) {
    for who in everyone() {
        let world = World::new(who);
        let Some(mut client) = Client::start(library, &world, &[]) else {
            return;
        };
        let code = "import time\nprint(1, flush=True)\ntime.sleep(600)";
        client.begin("endless", "python", &python(code));
        client.wait("progress", |event| event["event"] == "progress");
        // How a library fares when its user leaves so is its own affair: 1.x of Python's complains.
        client.leave();
        assert!(
            within(PATIENCE, || world.receipts().len() == 1),
            "{who:?}: no receipt"
        );
        assert_eq!(world.receipts()[0]["status"], "cancelled");
        assert!(within(PATIENCE, || cgroups(&world).is_empty()), "{who:?}");
        assert!(within(PATIENCE, || world
            .track
            .processes()
            .is_none_or(|left| left.is_empty())));
    }
}
