//! What published MCP client libraries make of a server over HTTP, with a key, in both eras of the
//! protocol: each test runs for every library, as root and as an ordinary user.
#![allow(clippy::unwrap_used)] // a test may

use harness::clients::{Client, Library, PATIENCE};
use harness::http::{Server, key};
use harness::left::cgroups;
use harness::{World, everyone, within};
use serde_json::{Value, json};

/// Runs every test for one library, in a module of its name.
macro_rules! libraries {
    ($($library:ident = $variant:ident),* $(,)?) => {$(
        mod $library {
            const LIBRARY: harness::clients::Library = harness::clients::Library::$variant;
            libraries!(@tests
                calls_are_made_and_what_they_leave_is_read_back,
                progress_comes_while_the_call_runs,
                cancelled_call_leaves_no_process,
                many_calls_at_once_get_their_own_answers,
                changed_profiles_change_the_list,
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
fn each(library: Library, test: impl Fn(&World, &Server, Client)) {
    for who in everyone() {
        let world = World::new(who);
        world.write("profiles/first.toml", &profile("first", "one"));
        let secret = key(&world, &["library"]);
        let mut server = Server::start(&world, &["--profiles", "profiles"]);
        let url = format!("http://{}/mcp", server.address());
        let Some(client) = Client::connect(library, &world, &url, &secret) else {
            return;
        };
        test(&world, &server, client);
        assert!(within(PATIENCE, || cgroups(&world).is_empty()), "{who:?}");
        for receipt in world.receipts() {
            assert_eq!(receipt["caller"]["id"], "key:library", "{who:?}");
        }
        server.stop();
    }
}

fn profile(name: &str, says: &str) -> String {
    format!(
        "format = 1\nname = \"{name}\"\ntitle = \"Test\"\ndescription = \"A test's.\"\n\
         extends = [\"readonly\"]\n[input]\ntype = \"object\"\n\
         [run]\nargv = [\"/bin/echo\", \"{says}\"]\n"
    )
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

fn calls_are_made_and_what_they_leave_is_read_back(library: Library) {
    each(library, |_, _, mut client| {
        assert!(client.tool_names().contains(&"first".to_owned()));
        let code = "import os\nos.mkdir('out')\nopen('out/words.txt', 'w').write('grüß')\n\
                    print(6 * 7)";
        let result = client.call("python", &python(code));
        assert_eq!(stdout(&result), "42\n");
        let files = result["structuredContent"]["files"].as_array().unwrap();
        assert_eq!(client.read(&files[0]["resource"])["text"], "grüß");
        let result = client.call("python", &python("for i in range(30000): print(i, 'é')"));
        let whole = (0..30000).fold(String::new(), |whole, i| whole + &format!("{i} é\n"));
        let read = client.read(&result["structuredContent"]["stdout"]["resource"]);
        assert_eq!(read["text"].as_str().unwrap(), whole);
        client.close();
    });
}

fn progress_comes_while_the_call_runs(library: Library) {
    each(library, |_, _, mut client| {
        let code = "import time\nprint('first', flush=True)\ntime.sleep(1)\nprint('last')";
        client.begin("slow", "python", &python(code));
        let first = client.wait("progress", |event| event["event"] == "progress");
        assert_eq!(first["message"], "first");
        assert_eq!(stdout(&client.result("slow")), "first\nlast\n");
        client.close();
    });
}

const ENDLESS: &str = "import time\nprint('ready', flush=True)\ntime.sleep(600)";

fn cancelled_call_leaves_no_process(library: Library) {
    each(library, |world, _, mut client| {
        client.begin("endless", "python", &python(ENDLESS));
        client.wait("progress", |event| event["event"] == "progress");
        assert!(!cgroups(world).is_empty());
        client.tell(&json!({ "op": "cancel", "id": "endless" }));
        client.event("cancelled");
        assert!(
            within(PATIENCE, || world.receipts().len() == 1),
            "no receipt is written"
        );
        assert_eq!(world.receipts()[0]["status"], "cancelled");
        assert_eq!(stdout(&client.call("python", &python("print(1)"))), "1\n");
        client.close();
    });
}

fn many_calls_at_once_get_their_own_answers(library: Library) {
    const CALLS: usize = 12;
    each(library, |_, _, mut client| {
        for call in 0..CALLS {
            let code = format!("print({call} * 1000)");
            client.begin(&call.to_string(), "python", &python(&code));
        }
        for call in (0..CALLS).rev() {
            let result = client.result(&call.to_string());
            assert_eq!(stdout(&result), format!("{}\n", call * 1000));
        }
        client.close();
    });
}

fn changed_profiles_change_the_list(library: Library) {
    each(library, |world, _, mut client| {
        assert!(!client.tool_names().contains(&"second".to_owned()));
        world.write("profiles/second.toml", &profile("second", "two"));
        client.event("tools_changed");
        assert!(within(PATIENCE, || client
            .tool_names()
            .contains(&"second".to_owned())));
        assert_eq!(stdout(&client.call("second", &json!({}))), "two\n");
        client.close();
    });
}

fn goodbye_in_the_middle_of_a_call_leaves_nothing(library: Library) {
    each(library, |world, _, mut client| {
        client.begin("endless", "python", &python(ENDLESS));
        client.wait("progress", |event| event["event"] == "progress");
        // How a library fares when its user leaves so is its own affair, if it only goes.
        client.leave();
        drop(client);
        assert!(
            within(PATIENCE, || world.receipts().len() == 1),
            "no receipt"
        );
        assert_eq!(world.receipts()[0]["status"], "cancelled");
    });
}
