//! `git_clone`, `pip_install` and `npm_install`: what they leave in the workspace, that nothing of
//! what they fetch runs, and which hosts they reach.

use std::fs;
use std::path::PathBuf;

use harness::World;
use harness::builtin::{stderr, stdout};
use harness::internet::Internet;
use harness::programs::{host, installed};
use harness::sites::{SUBJECT, workspace};
use serde_json::{Value, json};

/// Where a workspace is on the host.
#[track_caller]
fn kept(world: &World, name: &str) -> PathBuf {
    workspace(&world.path("state"), name).expect("the tool has one")
}

#[track_caller]
fn done(world: &World, tool: &str, arguments: &Value) -> Value {
    let outcome = world.call(tool, arguments);
    assert_eq!(outcome["exit_code"], 0, "{:?}: {outcome:#}", world.who);
    outcome
}

#[track_caller]
fn failed(world: &World, tool: &str, arguments: &Value, told: &str) -> Value {
    let outcome = world.call(tool, arguments);
    assert_eq!(outcome["status"], "exited", "{outcome:#}");
    assert_ne!(outcome["exit_code"], 0, "{outcome:#}");
    assert!(stderr(&outcome).contains(told), "{told}: {outcome:#}");
    outcome
}

/// The hosts that got requests.
fn asked(internet: &Internet) -> Vec<String> {
    let requests = internet.seen().requests();
    let mut hosts: Vec<_> = requests
        .iter()
        .filter_map(|request| Some(request.split_once(' ')?.0.to_owned()))
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

#[test]
fn a_repository_is_cloned_as_deep_as_asked_for() {
    if !installed(&["/usr/bin/git"]) {
        return;
    }
    Internet::everyone(|internet, world| {
        for host in ["github.com", "gitlab.com", "codeberg.org"] {
            internet.serves_repository(host);
        }
        let log = |directory: &str| {
            let path = kept(world, "git_clone").join(directory);
            let path = path.to_str().expect("a plain path").to_owned();
            let safe = "safe.directory=*";
            let log = ["-c", safe, "-C", &path, "log", "--format=%s"];
            host("/usr/bin/git", &log)
        };
        let url = json!({ "url": "https://github.com/owner/demo.git" });
        done(world, "git_clone", &url);
        assert_eq!(log("demo").trim(), SUBJECT);
        assert_eq!(asked(internet), ["github.com"]);
        let demo = kept(world, "git_clone").join("demo");
        assert_eq!(
            fs::read_to_string(demo.join("hello.txt")).expect("it is there"),
            "hello\n"
        );
        assert!(!demo.join(".git/hooks").exists());
        assert!(fs::read_dir(demo.join("sub")).map_or(0, Iterator::count) == 0);

        let whole = json!({ "url": "https://codeberg.org/owner/demo.git", "directory": "whole",
                            "branch": "main", "depth": 100 });
        done(world, "git_clone", &whole);
        assert_eq!(log("whole").trim(), format!("{SUBJECT}\nBegin"));
        let another = json!({ "url": "https://gitlab.com/owner/demo", "directory": "another" });
        done(world, "git_clone", &another);
        failed(world, "git_clone", &url, "already exists");
    });
}

#[test]
fn a_clone_comes_from_no_other_host_and_no_redirect_leads_to_one() {
    if !installed(&["/usr/bin/git"]) {
        return;
    }
    Internet::everyone(|internet, world| {
        for host in ["github.com", "www.example.org", "private.example.org"] {
            internet.serves_repository(host);
        }
        let at = |host: &str| json!({ "url": format!("https://{host}/owner/demo.git") });
        let outcome = failed(
            world,
            "git_clone",
            &at("www.example.org"),
            "www.example.org",
        );
        let allow_with = r#"network.allow = ["www.example.org"]"#;
        assert_eq!(
            outcome["denials"][0]["allow_with"], allow_with,
            "{outcome:#}"
        );
        let refs = "/owner/moved.git/info/refs?service=git-upload-pack";
        let to = format!("https://www.example.org{}", refs.replace("moved", "demo"));
        internet.redirects("github.com", refs, &to);
        let moved = json!({ "url": "https://github.com/owner/moved.git" });
        failed(world, "git_clone", &moved, "www.example.org");
        assert_eq!(asked(internet), ["github.com"]);
        // A redirect to the same host is followed, as those of renamed repositories are.
        let to = refs.replace("moved", "demo");
        internet.redirects("github.com", refs, &to);
        done(world, "git_clone", &moved);
        // The operator's hosts come on top, and lead to no private address either.
        let hosts = "www.example.org,private.example.org";
        let mut given = at("www.example.org");
        given["directory"] = json!("given");
        let output = world.attempt_with_hosts(hosts, "git_clone", &given);
        assert_eq!(harness::outcome(&output)["exit_code"], 0, "{output:#?}");
        let _ = internet.seen();
        let mut given = at("private.example.org");
        given["directory"] = json!("private");
        let output = world.attempt_with_hosts(hosts, "git_clone", &given);
        assert_ne!(harness::outcome(&output)["exit_code"], 0, "{output:#?}");
        assert_eq!(internet.seen().sent(), Vec::<String>::new());
        for url in [
            "http://github.com/owner/demo.git",
            "ssh://github.com/owner/demo.git",
            "https://user:word@github.com/owner/demo.git",
            "/work/demo",
            "--upload-pack=x",
            "ext::sh -c true",
        ] {
            let outcome = world.call("git_clone", &json!({ "url": url }));
            assert_eq!(outcome["status"], "refused", "{url}: {outcome:#}");
        }
    });
}

#[test]
fn nobody_is_asked_for_a_password() {
    if !installed(&["/usr/bin/git"]) {
        return;
    }
    Internet::everyone(|internet, world| {
        let refs = "/owner/demo.git/info/refs?service=git-upload-pack";
        let asks = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
                     Content-Length: 0\r\nConnection: close\r\n\r\n";
        internet.answers("github.com", refs, asks);
        let url = json!({ "url": "https://github.com/owner/demo.git" });
        failed(world, "git_clone", &url, "terminal prompts disabled");
    });
}

#[test]
fn a_wheel_is_installed_and_what_would_have_to_be_built_is_not() {
    if !installed(&["/usr/lib/python3/dist-packages/pip"]) {
        return;
    }
    Internet::everyone(|internet, world| {
        internet.serves_python_packages();
        let wheel = json!({ "packages": ["demo-wheel==1.0"] });
        done(world, "pip_install", &wheel);
        assert_eq!(asked(internet), ["files.pythonhosted.org", "pypi.org"]);
        let workspace = kept(world, "pip_install");
        let module = workspace.join("packages/demo_wheel.py");
        assert_eq!(
            fs::read_to_string(module).expect("it is there"),
            "ANSWER = 42\n"
        );
        // As `docs/network.md` has it: another tool imports it.
        let tables = "run = { env = { PYTHONPATH = \"/work/packages\" } }\n\
                      files.workspace = { kind = \"named\", name = \"pip_install\" }";
        let import = "import demo_wheel; print(demo_wheel.ANSWER)";
        let outcome = world.run(
            &world.profile(tables),
            &["/usr/bin/python3", "-s", "-c", import],
        );
        assert_eq!(stdout(&outcome), "42\n", "{outcome:#}");
        let source = json!({ "packages": ["demo-source"] });
        failed(world, "pip_install", &source, "only wheels are installed");
        let names = fs::read_dir(&workspace).expect("it is there").flatten();
        let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["packages"]);
        // Again, over what is there.
        done(world, "pip_install", &wheel);
        for package in [
            "https://example.org/x.whl",
            "./x",
            "--pre",
            "x @ file:///x",
            "-r/etc/passwd",
        ] {
            let outcome = world.call("pip_install", &json!({ "packages": [package] }));
            assert_eq!(outcome["status"], "refused", "{package}: {outcome:#}");
        }
    });
}

#[test]
fn the_index_leads_pip_to_no_other_host() {
    if !installed(&["/usr/lib/python3/dist-packages/pip"]) {
        return;
    }
    Internet::everyone(|internet, world| {
        internet.serves_python_packages();
        done(world, "pip_install", &json!({ "packages": ["demo-wheel"] }));
        let page = "<a href=\"https://www.example.org/lost-1.0-py3-none-any.whl\">\
                    lost-1.0-py3-none-any.whl</a>";
        internet.serves(
            "pypi.org",
            "/simple/lost/",
            "200 OK",
            "text/html",
            page.as_bytes(),
        );
        internet.redirects(
            "pypi.org",
            "/simple/moved/",
            "https://www.example.org/simple/moved/",
        );
        let _ = internet.seen();
        for package in ["lost", "moved"] {
            let arguments = json!({ "packages": [package] });
            let outcome = failed(
                world,
                "pip_install",
                &arguments,
                "from pypi.org and files.pythonhosted.org",
            );
            let allow_with = r#"network.allow = ["www.example.org"]"#;
            assert_eq!(
                outcome["denials"][0]["allow_with"], allow_with,
                "{outcome:#}"
            );
        }
        assert_eq!(asked(internet), ["pypi.org"]);
    });
}

#[test]
fn a_node_package_is_installed_and_its_scripts_are_not_run() {
    if !installed(&["/usr/bin/npm"]) {
        return;
    }
    Internet::everyone(|internet, world| {
        internet.serves_node_packages();
        done(
            world,
            "npm_install",
            &json!({ "packages": ["demo-node@^1.0.0"] }),
        );
        assert_eq!(asked(internet), ["registry.npmjs.org"]);
        let workspace = kept(world, "npm_install");
        assert!(workspace.join("node_modules/demo-node/index.js").exists());
        assert!(!workspace.join("ran").exists());
        let tables = "files.workspace = { kind = \"named\", name = \"npm_install\" }";
        let load = "console.log(require('/work/node_modules/demo-node'))";
        let outcome = world.run(&world.profile(tables), &["/usr/bin/node", "-e", load]);
        assert_eq!(stdout(&outcome), "42\n", "{outcome:#}");
        for package in [
            "owner/repo",
            "https://example.org/x.tgz",
            "./x",
            "-g",
            "x@npm:y",
            "git+ssh://x",
        ] {
            let outcome = world.call("npm_install", &json!({ "packages": [package] }));
            assert_eq!(outcome["status"], "refused", "{package}: {outcome:#}");
        }
    });
}

#[test]
fn the_registry_leads_npm_to_no_other_host() {
    if !installed(&["/usr/bin/npm"]) {
        return;
    }
    Internet::everyone(|internet, world| {
        internet.serves_node_packages();
        done(world, "npm_install", &json!({ "packages": ["demo-node"] }));
        let version = json!({
            "name": "lost", "version": "1.0.0",
            "dist": { "tarball": "https://www.example.org/lost-1.0.0.tgz" },
        });
        let document = json!({
            "name": "lost", "dist-tags": { "latest": "1.0.0" }, "versions": { "1.0.0": version },
        });
        internet.serves_json("registry.npmjs.org", "/lost", &document);
        let _ = internet.seen();
        let arguments = json!({ "packages": ["lost"] });
        failed(world, "npm_install", &arguments, "www.example.org");
        assert_eq!(asked(internet), ["registry.npmjs.org"]);
    });
}
