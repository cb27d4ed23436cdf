//! What a call adds to what its profile was compiled to.

use super::*;

const CALL: &str = r#"
extends = ["minimal"]
[input]
type = "object"
[input.properties]
path = { type = "string" }
out = { type = "string" }
tree = { type = "string" }
names = { type = "array", items = { type = "string" } }
loud = { type = "boolean" }
count = { type = "integer", default = 3 }
[roots]
docs = "/srv/docs"
work = "/srv/work"
[paths.path]
beneath = "{roots.docs}"
[paths.out]
beneath = "{roots.work}"
kind = "file"
create = true
[paths.tree]
beneath = "{roots.docs}"
kind = "directory"
[run]
argv = ["/usr/bin/cat", { arg = "loud", flag = "-v" }, { arg = "count", flag = "-n" }, { arg = "names", flag = "-e" }, "{{literal}}", "{roots.docs}", "{path}", "{out}"]
cwd = "{tree}"
env = { WHERE = "{path}", FIXED = "a" }
pass_env = ["TZ"]
[files]
exec = ["/usr/bin/cat"]
read = ["{path}", "{tree}"]
write = ["{out}"]
deny = [{ path = "/srv/docs/private", why = "not for tools" }]
"#;

#[test]
fn arguments_fill_the_places_the_author_made() {
    let cell = compiled(CALL);
    let plan = fill(
        &cell,
        json!({ "path": "a/b.md", "names": ["-x", "y"], "loud": true, "count": 5 }),
    );
    assert_eq!(
        words(&plan),
        [
            "/usr/bin/cat",
            "-v",
            "-n",
            "5",
            "-e",
            "-x",
            "-e",
            "y",
            "{literal}",
            "/srv/docs",
            "/srv/docs/a/b.md"
        ]
    );
    let env: Vec<_> = plan.env.iter().map(|word| word.to_str().unwrap()).collect();
    assert_eq!(
        env,
        [
            "FIXED=a",
            "HOME=/tmp",
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "WHERE=/srv/docs/a/b.md"
        ]
    );
    assert_eq!(plan.cwd, Path::new("/work"));
    assert_eq!(plan.stdin, None);
}

#[test]
fn absent_arguments_leave_their_words_out_and_defaults_fill_in() {
    let cell = compiled(CALL);
    let plan = fill(&cell, json!({ "loud": false }));
    assert_eq!(
        words(&plan),
        ["/usr/bin/cat", "-n", "3", "{literal}", "/srv/docs"]
    );
    assert!(plan.grants.is_empty());
}

#[test]
fn only_named_variables_pass_from_the_supervisors_environment() {
    let cell = compiled(CALL);
    let arguments = cell.check(json!({})).unwrap();
    let outside =
        debian::environment(&[("TZ", "UTC"), ("SECRET", "x"), ("LD_PRELOAD", "/evil.so")]);
    let plan = cell.fill(&arguments, &outside).unwrap();
    let env: Vec<_> = plan.env.iter().map(|word| word.to_str().unwrap()).collect();
    assert_eq!(
        env,
        [
            "FIXED=a",
            "HOME=/tmp",
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "TZ=UTC"
        ]
    );
}

#[test]
fn path_arguments_become_grants_beneath_their_roots() {
    let cell = compiled(CALL);
    let plan = fill(
        &cell,
        json!({ "path": "/srv/docs/a.md", "out": "new/b.txt", "tree": "." }),
    );
    assert_eq!(plan.cwd, Path::new("/srv/docs"));
    let grants: Vec<_> = plan
        .grants
        .iter()
        .map(|grant| {
            (
                grant.argument.as_str(),
                grant.root.to_str().unwrap(),
                grant.relative.to_str().unwrap(),
                grant.want.kind,
                grant.want.existence,
                grant.access,
            )
        })
        .collect();
    assert_eq!(
        grants,
        [
            (
                "out",
                "/srv/work",
                "new/b.txt",
                WantKind::File,
                Existence::MayBeCreated,
                PathAccess::Write
            ),
            (
                "path",
                "/srv/docs",
                "a.md",
                WantKind::Any,
                Existence::Exists,
                PathAccess::Read
            ),
            (
                "tree",
                "/srv/docs",
                "",
                WantKind::Directory,
                Existence::Exists,
                PathAccess::Read
            ),
        ]
    );
}

#[test]
fn grant_appears_where_the_argument_says() {
    let cell = compiled(CALL);
    let plan = fill(&cell, json!({ "path": "a.md", "out": "b.txt" }));
    let grants = vec![granted("/srv/work", true), granted("/srv/docs/a.md", false)];
    let call = cell.call(&plan, &CallFacts { grants, ..facts() }).unwrap();
    assert_eq!(bind(&call.mounts, "/srv/docs/a.md"), Some((false, false)));
    // A file to be created: its directory.
    assert_eq!(bind(&call.mounts, "/srv/work"), Some((true, false)));
    let rules: Vec<_> = call
        .rules
        .iter()
        .map(|rule| (rule.path.to_str().unwrap(), rule.access & WRITE_FILE != 0))
        .collect();
    assert_eq!(rules, [("/srv/docs/a.md", false), ("/srv/work", true)]);
    for mount in &call.mounts {
        assert!(
            matches!(
                mount,
                Mount::Bind {
                    identity: Some(_),
                    ..
                }
            ),
            "{mount:?}"
        );
    }
}

#[test]
fn grant_that_is_not_what_was_asked_for_is_refused() {
    let cell = compiled(CALL);
    let refused = |arguments, fact: GrantFact| {
        let plan = fill(&cell, arguments);
        cell.call(
            &plan,
            &CallFacts {
                grants: vec![fact],
                ..facts()
            },
        )
        .unwrap_err()
    };
    let path = || json!({ "path": "a.md" });
    cell.call(
        &fill(&cell, path()),
        &CallFacts {
            grants: vec![granted("/srv/docs/a.md", false)],
            ..facts()
        },
    )
    .unwrap();
    for elsewhere in [
        "/etc/shadow",
        "/srv/docs",
        "/srv/docs/../x",
        "/srv/docs/b.md",
    ] {
        let error = refused(path(), granted(elsewhere, false));
        assert!(
            matches!(error, CallError::Outside { .. }),
            "{elsewhere}: {error}"
        );
    }
    let error = refused(json!({ "out": "b" }), granted("/srv/work/b", true));
    assert!(matches!(error, CallError::Kind { .. }), "{error}");
    let error = refused(json!({ "tree": "b" }), granted("/srv/docs/b", false));
    assert!(matches!(error, CallError::Kind { .. }), "{error}");
    let error = cell.call(&fill(&cell, path()), &facts()).unwrap_err();
    assert!(matches!(error, CallError::Grants { .. }), "{error}");
}

#[test]
fn denied_path_stays_denied_when_an_argument_names_it_or_what_is_above_it() {
    let cell = compiled(CALL);
    let call = |path: &str, source: &str| {
        let plan = fill(&cell, json!({ "path": path }));
        cell.call(
            &plan,
            &CallFacts {
                grants: vec![granted(source, true)],
                ..facts()
            },
        )
    };
    let error = call("private/x", "/srv/docs/private/x").unwrap_err();
    assert!(matches!(error, CallError::Denied { .. }), "{error}");
    let Call { mounts, .. } = call(".", "/srv/docs").unwrap();
    assert!(matches!(&mounts[0], Mount::Bind { target, .. } if target == Path::new("/srv/docs")));
    assert_eq!(
        mounts[1],
        Mount::Mask {
            target: "/srv/docs/private".into(),
            directory: true
        }
    );
    assert_eq!(call("public", "/srv/docs/public").unwrap().mounts.len(), 1);
}

#[test]
fn two_arguments_that_name_one_path_add_up() {
    let cell = compiled(CALL);
    let plan = fill(&cell, json!({ "path": "sub", "tree": "sub" }));
    let grants = vec![granted("/srv/docs/sub", true); 2];
    let call = cell.call(&plan, &CallFacts { grants, ..facts() }).unwrap();
    assert_eq!((call.mounts.len(), call.rules.len()), (1, 1));
}

#[test]
fn cell_never_has_the_hosts_root_user() {
    let cell = compiled(CALL);
    let plan = fill(&cell, json!({}));
    cell.call(&plan, &facts()).unwrap();
    let root = CallFacts {
        host: Ids { uid: 0, gid: 0 },
        ..facts()
    };
    assert_eq!(cell.call(&plan, &root), Err(CallError::RootUser));
}

const PROTECTED: &str = r#"
[files]
write = ["/work"]
workspace = { kind = "host", path = "/srv/work" }
protect = [".git/hooks", ".git/hooks/pre-commit", ".mcp.json", ".envrc"]
"#;

fn workspace_call(states: &[(&str, ProtectState)], work: Option<&str>) -> Result<Call, CallError> {
    let cell = compiled(PROTECTED);
    let plan = cell
        .fill_command(vec!["/bin/true".to_owned()], &BTreeMap::new())
        .unwrap();
    let workspace = WorkspaceFact {
        source: "/srv/work".into(),
        identity: THERE,
        owner: Some(USER),
        work: work.map(PathBuf::from),
    };
    let protect = states.iter().map(|(path, state)| ProtectFact {
        relative: path.into(),
        state: *state,
    });
    let protect = protect.collect();
    cell.call(
        &plan,
        &CallFacts {
            workspace: Some(workspace),
            protect,
            ..facts()
        },
    )
}

#[test]
fn protected_paths_are_read_only_and_their_parents_cannot_be_renamed() {
    let call = workspace_call(
        &[
            (".git/hooks", ProtectState::Directory),
            (".git/hooks/pre-commit", ProtectState::File),
            (".mcp.json", ProtectState::File),
            (".envrc", ProtectState::File),
        ],
        None,
    )
    .unwrap();
    assert_eq!(bind(&call.mounts, "/work"), Some((true, false)));
    let protect = |path: &str| Mount::Protect {
        target: path.into(),
    };
    assert_eq!(
        call.mounts[1..],
        [
            protect("/work/.envrc"),
            Mount::Pin {
                target: "/work/.git".into()
            },
            protect("/work/.git/hooks"),
            protect("/work/.mcp.json"),
        ]
    );
}

#[test]
fn absent_protected_paths_are_blocked_without_touching_the_host() {
    let states = [
        (".git/hooks", ProtectState::Absent),
        (".git/hooks/pre-commit", ProtectState::Absent),
        (".mcp.json", ProtectState::File),
        (".envrc", ProtectState::Absent),
    ];
    let call = workspace_call(&states, Some("/srv/.toolcell-work")).unwrap();
    let Mount::Guarded { blocked, work, .. } = &call.mounts[0] else {
        panic!("{:?}", call.mounts[0]);
    };
    assert_eq!(work, Path::new("/srv/.toolcell-work"));
    assert_eq!(blocked, &[PathBuf::from(".envrc"), ".git/hooks".into()]);
    assert_eq!(
        call.mounts[1],
        Mount::Protect {
            target: "/work/.mcp.json".into()
        }
    );
    assert!(matches!(
        workspace_call(&states, None),
        Err(CallError::CannotBlock(_))
    ));
}

#[test]
fn protected_path_that_nobody_looked_at_is_refused() {
    let error = workspace_call(&[(".mcp.json", ProtectState::File)], None).unwrap_err();
    assert!(matches!(error, CallError::Protect(_)), "{error}");
}

#[test]
fn workspace_that_does_not_fit_is_refused() {
    let cell = compiled(PROTECTED);
    let plan = cell
        .fill_command(vec!["/bin/true".to_owned()], &BTreeMap::new())
        .unwrap();
    assert_eq!(cell.call(&plan, &facts()), Err(CallError::Workspace));
}

#[test]
fn operator_can_choose_another_workspace() {
    let text = "files.write = [\"/work\"]\nfiles.workspace = { kind = \"ephemeral\" }";
    let tmpfs = |cell: &Compiled| {
        cell.template.mounts.iter().any(
            |mount| matches!(mount, Mount::Tmpfs { target, .. } if target == Path::new("/work")),
        )
    };
    assert!(tmpfs(&with(text, &Overrides::default())));
    let host = Overrides {
        workspace: Some(WorkspaceKind::Host("/srv/work".into())),
        ..Overrides::default()
    };
    let cell = with(text, &host);
    assert!(!tmpfs(&cell));
    assert_eq!(cell.template.handed_back, [PathBuf::from("/work")]);
    assert!(!cell.resolved.is_read_only());
}

#[test]
fn operator_can_have_paths_explained() {
    let explain = Overrides {
        explain_paths: Some(true),
        ..Overrides::default()
    };
    assert!(with("", &explain).resolved.explain.paths);
    assert!(!with("", &Overrides::default()).resolved.explain.paths);
}

#[test]
fn canonical_json_does_not_depend_on_the_order_of_keys() {
    let one = json!({ "b": [1, { "y": 1, "x": "\"" }], "a": null });
    let other = json!({ "a": null, "b": [1, { "x": "\"", "y": 1 }] });
    assert_eq!(canonical_json(&one), canonical_json(&other));
    assert_eq!(
        canonical_json(&one),
        r#"{"a":null,"b":[1,{"x":"\"","y":1}]}"#
    );
}
