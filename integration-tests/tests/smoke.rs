//! The shortest way through everything.

use harness::{World, everyone};
use serde_json::json;

#[test]
fn a_call_runs_in_a_full_cell() {
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.call("python", &json!({ "code": "print(6 * 7)" }));
        assert_eq!(outcome["status"], "exited", "{who:?}: {outcome:#}");
        assert_eq!(outcome["stdout"]["text"], "42\n");
        assert_eq!(outcome["enforced"]["tier"], "full");
    }
}
