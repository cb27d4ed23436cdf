//! `get_alerts` and `get_forecast`: what they say, and that they reach the service's host only.

use harness::World;
use harness::builtin::{stderr, stdout};
use harness::internet::Internet;
use serde_json::json;

#[track_caller]
fn told(world: &World, tool: &str, arguments: &serde_json::Value) -> String {
    let outcome = world.call(tool, arguments);
    assert_eq!(outcome["exit_code"], 0, "{outcome:#}");
    stdout(&outcome).to_owned()
}

#[test]
fn alerts_and_forecasts_are_said_as_text_and_the_service_is_told_who_asks() {
    Internet::everyone(|internet, world| {
        internet.serves_weather();
        assert_eq!(
            told(world, "get_alerts", &json!({ "state": "ca" })),
            "Flood Warning (Severe, Immediate)\nWhere: Sonoma, CA\n\
             When: 2026-11-27T03:00:00-08:00 to 2026-11-27T09:00:00-08:00\n\
             Flood Warning issued November 27\nThe river is high.\nStay away from it.\n\n\
             1 alerts in force in CA\n"
        );
        let place = json!({ "latitude": 40.7128, "longitude": -74.0060 });
        assert_eq!(
            told(world, "get_forecast", &place),
            "Forecast for Hoboken, NJ\n\n\
             Tonight: 31 °F, wind 5 mph NW, precipitation 20 %\n\
             Clear, with a low around 31.\n\n"
        );
        let seen = internet.seen();
        assert_eq!(
            seen.requests(),
            [
                "api.weather.gov /alerts/active/area/CA",
                "api.weather.gov /points/40.7128,-74.006",
                "api.weather.gov /gridpoints/OKX/33,35/forecast",
            ]
        );
        let agents = seen.of("request").map(|request| &request["agent"]);
        for agent in agents {
            let agent = agent.as_str().unwrap_or_default();
            assert!(agent.starts_with("toolcell (https://"), "{seen:#?}");
        }
        let sent = seen.sent();
        assert!(sent.iter().all(|to| to == "tcp 23.202.0.1:443"), "{sent:?}");
    });
}

#[test]
fn what_the_service_does_not_know_is_said() {
    Internet::everyone(|internet, world| {
        internet.serves_weather();
        let outcome = world.call("get_alerts", &json!({ "state": "ZZ" }));
        assert_eq!(outcome["exit_code"], 1, "{outcome:#}");
        assert!(
            stderr(&outcome).contains("knows no area `ZZ`"),
            "{outcome:#}"
        );
        let outcome = world.call("get_forecast", &json!({ "latitude": 1, "longitude": 2 }));
        assert_eq!(outcome["exit_code"], 1, "{outcome:#}");
        assert!(
            stderr(&outcome).contains("no forecast for 1,2"),
            "{outcome:#}"
        );
        let broken = b"not JSON";
        let (host, html) = ("api.weather.gov", "text/html");
        internet.serves(host, "/alerts/active/area/NY", "200 OK", html, broken);
        let outcome = world.call("get_alerts", &json!({ "state": "NY" }));
        assert!(stderr(&outcome).contains("could not read"), "{outcome:#}");
        for refused in [
            json!({ "state": "California" }),
            json!({ "state": "../" }),
            json!({}),
        ] {
            let outcome = world.call("get_alerts", &refused);
            assert_eq!(outcome["status"], "refused", "{outcome:#}");
        }
        let beyond = json!({ "latitude": 91, "longitude": 0 });
        assert_eq!(world.call("get_forecast", &beyond)["status"], "refused");
    });
}

#[test]
fn no_other_host_is_reached_even_if_the_service_says_so() {
    Internet::everyone(|internet, world| {
        internet.serves_weather();
        let _ = told(world, "get_alerts", &json!({ "state": "CA" }));
        let _ = internet.seen();
        let host = "api.weather.gov";
        internet.redirects(host, "/alerts/active/area/NY", "https://www.example.org/");
        let outcome = world.call("get_alerts", &json!({ "state": "NY" }));
        assert_eq!(outcome["exit_code"], 1, "{outcome:#}");
        let elsewhere = json!({ "properties": { "forecast": "https://www.example.org/" } });
        internet.serves_json(host, "/points/1,2", &elsewhere);
        let outcome = world.call("get_forecast", &json!({ "latitude": 1, "longitude": 2 }));
        assert_eq!(outcome["exit_code"], 1, "{outcome:#}");
        let denied = &outcome["denials"][0]["allow_with"];
        assert_eq!(
            denied, r#"network.allow = ["www.example.org"]"#,
            "{outcome:#}"
        );
        let sent = internet.seen().sent();
        assert!(sent.iter().all(|to| to == "tcp 23.202.0.1:443"), "{sent:?}");
        // Nor by plain HTTP.
        internet.redirects(
            host,
            "/alerts/active/area/TX",
            "http://api.weather.gov/alerts",
        );
        let outcome = world.call("get_alerts", &json!({ "state": "TX" }));
        assert_eq!(outcome["exit_code"], 1, "{outcome:#}");
        let sent = internet.seen().sent();
        assert!(sent.iter().all(|to| to == "tcp 23.202.0.1:443"), "{sent:?}");
    });
}
