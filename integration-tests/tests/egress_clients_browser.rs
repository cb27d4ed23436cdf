//! A browser in a cell: a page of an allowed host loads, and what it embeds of other hosts does not,
//! which no proxy, extension or content policy was asked for.

use std::fs;
use std::process::Command;

use harness::internet::{Internet, assert_denied};
use harness::programs::{installed, told};
use harness::websites::Sites;

/// What the browser's own option takes to trust the test's servers: a hash of their public key. It has
/// its own list of authorities, and looks at none of the system's.
fn key_hash(internet: &Internet) -> String {
    let [certificate, _] = internet.certificate();
    let script = "openssl x509 -pubkey -noout -in \"$0\" | openssl pkey -pubin -outform der \
                  | openssl dgst -sha256 -binary | base64";
    let hash = told(
        Command::new("/bin/sh")
            .args(["-c", script])
            .arg(certificate),
    );
    hash.expect("it is a certificate").trim().to_owned()
}

#[test]
fn chromium_loads_a_page_without_what_other_hosts_would_add() {
    let browsers = ["/usr/bin/chromium-headless-shell", "/usr/bin/chromium"];
    let found = browsers
        .into_iter()
        .find(|path| fs::exists(path).unwrap_or(false));
    let Some(browser) = found else {
        let _ = installed(&browsers[..1]);
        return;
    };
    Sites::everyone(&[], |sites, world| {
        let page = "<!DOCTYPE html><title>A page</title>\
             <script src='https://static.example.net/own.js'></script>\
             <script src='https://tracker.example.net/spy.js'></script>\
             <img src='https://tracker.example.net/pixel.gif'>\
             <img src='https://93.184.215.15/pixel.gif'>\
             <p id='said'>nothing</p><script>\
             said.textContent = `own ${window.own}, spy ${window.spy}`;\
             fetch('https://tracker.example.net/beacon').catch(() => { said.textContent += ', no beacon'; });\
             </script>";
        sites.put("www.example.net/index.html", page);
        sites.put("static.example.net/own.js", "window.own = 1;");
        sites.put("tracker.example.net/spy.js", "window.spy = 1;");
        let trusted = format!(
            "--ignore-certificate-errors-spki-list={}",
            key_hash(&sites.internet)
        );
        let command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--user-data-dir=/tmp/profile",
            "--virtual-time-budget=10000",
            &trusted,
            "--dump-dom",
            "https://www.example.net/",
        ];
        let tables = "[network]\nallow = [\"www.example.net\", \"static.example.net\"]";
        let outcome = sites.run(world, tables, &command);
        let said = outcome["stdout"]["text"].as_str().expect("it is text");
        let who = world.who;
        assert!(
            said.contains("own 1, spy undefined, no beacon"),
            "{who:?} {outcome:#}"
        );
        let hosts = ["www.example.net", "static.example.net"];
        sites.assert_arrived("HTTP/2.0 GET static.example.net/own.js", &hosts);
        let rule = "no entry of `network.allow` covers it";
        let allow = r#"network.allow = ["tracker.example.net"]"#;
        assert_denied(&outcome, "look up tracker.example.net", rule, allow);
        let allow = r#"network.allow = ["93.184.215.15:443"]"#;
        assert_denied(&outcome, "connect to 93.184.215.15:443", "", allow);
        // The internet's own eyes: nothing was tried beside the two.
        let sent = sites.internet.seen().sent();
        let other = sent
            .iter()
            .find(|to| !to.contains(" 151.101.1.1:") && !to.contains("127.0.0.1:"));
        assert_eq!(other, None, "{sent:#?}");
    });
}
