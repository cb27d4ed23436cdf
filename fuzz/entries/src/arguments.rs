//! What a model sends, for each tool that is shipped.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Component;
use std::sync::LazyLock;

use profiles::{ArgumentError, Compiled, Library};
use serde_json::Value;

/// Longest answer to wrong arguments: it goes back to the model.
const SAID_BYTES_MAX: usize = 4 << 10;

static TOOLS: LazyLock<Vec<Compiled>> = LazyLock::new(|| {
    let library = Library::builtin();
    let resolved = crate::shipped()
        .into_iter()
        .map(|name| crate::resolve(&library, &name).expect("a shipped profile resolves"));
    let tools = resolved.filter(profiles::Resolved::is_tool);
    tools
        .map(|tool| crate::compile(&tool).expect("a shipped tool compiles"))
        .collect()
});

/// Checks the arguments, and fills the tool's command with them: the first byte says which tool.
pub fn run(data: &[u8]) {
    let Some((first, json)) = data.split_first() else {
        return;
    };
    let Ok(value) = serde_json::from_slice::<Value>(json) else {
        return;
    };
    let tool = &TOOLS[usize::from(*first) % TOOLS.len()];
    let arguments = match tool.check(value) {
        Ok(arguments) => arguments,
        Err(error) => return explained(&error),
    };
    let plan = match tool.fill(&arguments, &BTreeMap::new()) {
        Ok(plan) => plan,
        Err(error) => return explained(&error),
    };
    let written = tool.resolved.run.as_ref().expect("it is a tool");
    let program = plan
        .argv
        .first()
        .expect("a command has a program")
        .as_bytes();
    // The author's word comes first, whatever was sent.
    let nothing = tool.fill(&profiles::Arguments::none(), &BTreeMap::new());
    if let Ok(nothing) = nothing {
        assert_eq!(nothing.argv.first().map(CString::as_bytes), Some(program));
        assert_eq!(nothing.cwd, plan.cwd);
        assert_eq!(nothing.env, plan.env);
    }
    assert_eq!(program, written.program.as_os_str().as_encoded_bytes());
    for grant in &plan.grants {
        assert!(grant.root.starts_with("/srv"), "{grant:?}");
        let normal = |part| matches!(part, Component::Normal(_));
        assert!(grant.relative.components().all(normal), "{grant:?}");
    }
}

/// An error says which argument it is about, and not without end.
fn explained(error: &ArgumentError) {
    let said = error.to_string();
    assert!(
        !error.expected.is_empty() && !error.found.is_empty(),
        "{said}"
    );
    assert!(said.len() <= SAID_BYTES_MAX, "{} bytes: {said}", said.len());
    assert!(!said.contains(['\n', '\r', '\0', '\x1b']), "{said:?}");
}

/// Arguments that each tool takes, and some that it does not.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"code":"print(1)","args":["a","b"]}"#,
        r#"{"script":"echo","stdin":"text"}"#,
        r#"{"expression":"1+1"}"#,
        r#"{"path":"a/b.txt"}"#,
        r#"{"path":"../b.txt","content":"x","text":"y"}"#,
        r#"{"path":"/srv/files/x"}"#,
        r#"{"query":"needle","pattern":"-e","paths":["."]}"#,
        r#"{"database":"x.db","sql":"select 1","query":"select 1"}"#,
        r#"{"command":"log","args":["--oneline","-n","3"]}"#,
        r#"{"args":["a\u0000b"],"code":"\ud83d\ude00"}"#,
        "null",
        "[]",
        "{}",
    ];
    let tools = 0..u8::try_from(TOOLS.len()).expect("there are few tools");
    tools
        .flat_map(|tool| texts.map(|text| [&[tool], text.as_bytes()].concat()))
        .collect()
}
