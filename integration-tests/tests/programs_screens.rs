//! Terminals, sockets within the cell, media, text, and a browser.

use std::fs;

use harness::programs::{ROOMY, host, installed, script};
use harness::{World, everyone};
use serde_json::{Value, json};

#[test]
fn a_terminal_of_the_cells_own_has_a_size_and_takes_ctrl_c() {
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.python(ROOMY, &script("terminal.py"));
        world.assert_unbroken(&outcome, &[]);
        assert_eq!(outcome["stdout"]["text"], "unbroken\n", "{who:?}");
    }
}

#[test]
fn script_records_a_terminal() {
    if !installed(&["/usr/bin/script"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let command = [
            "/usr/bin/script",
            "--quiet",
            "--return",
            "--command",
            "tty",
            "typescript",
        ];
        let outcome = world.run_in_workspace(ROOMY, &command);
        world.assert_unbroken(&outcome, &["socket(AF_UNIX"]);
        let record = fs::read_to_string(world.workspace().join("typescript")).expect("recorded");
        assert!(record.contains("/dev/pts/0"), "{who:?}: {record}");
    }
}

#[test]
fn tmux_runs_a_command_in_a_window() {
    if !installed(&["/usr/bin/tmux"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let command = "tmux new-session -d -x 80 -y 24 'tty > /work/tty; tmux wait-for -S done; cat' \
                       && tmux wait-for done && tmux send-keys typed Enter \
                       && until tmux capture-pane -p | grep -q typed; do sleep 0.05; done \
                       && tmux list-windows && cat /work/tty && tmux kill-server";
        let profile = world.profile(ROOMY);
        let outcome = world.run(&profile, &["/bin/sh", "-c", command]);
        world.assert_unbroken(&outcome, &[]);
        let shown = outcome["stdout"]["text"].as_str().expect("it is text");
        assert!(
            shown.contains("[80x24]") && shown.ends_with("/dev/pts/0\n"),
            "{who:?}: {shown}"
        );
    }
}

#[test]
fn unix_sockets_work_within_the_cell() {
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.python(ROOMY, &script("sockets.py"));
        world.assert_unbroken(&outcome, &[]);
        assert_eq!(outcome["stdout"]["text"], "unbroken\n", "{who:?}");
    }
}

#[test]
fn ripgrep_searches_with_threads() {
    if !installed(&["/usr/bin/rg"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        for number in 0..50 {
            let text = if number % 10 == 7 {
                "a needle\n"
            } else {
                "hay\n"
            };
            world.write(
                &format!("workspace/stack-{}/{number}.txt", number % 5),
                text,
            );
        }
        let command = [
            "/usr/bin/rg",
            "--threads=4",
            "--files-with-matches",
            "--",
            "needle",
            ".",
        ];
        let outcome = world.run_in_workspace(ROOMY, &command);
        world.assert_unbroken(&outcome, &[]);
        let found = outcome["stdout"]["text"].as_str().expect("it is text");
        let mut found: Vec<_> = found.lines().collect();
        found.sort_unstable();
        let expected = ["07", "17", "27", "37", "47"]
            .map(|number| format!("./stack-2/{}.txt", number.trim_start_matches('0')));
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{who:?}");
    }
}

#[test]
fn jq_filters_and_groups() {
    if !installed(&["/usr/bin/jq"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let people = json!([{ "age": 30, "name": "Ünal" }, { "age": 20 }, { "age": 30 }]);
        world.write("workspace/people.json", &people.to_string());
        let filter = "group_by(.age) | map({ key: (.[0].age | tostring), value: length }) \
                      | from_entries";
        let outcome = world.run_in_workspace(ROOMY, &["/usr/bin/jq", filter, "people.json"]);
        world.assert_unbroken(&outcome, &[]);
        let text = outcome["stdout"]["text"].as_str().expect("it is text");
        let counted: Value = serde_json::from_str(text).expect("it is JSON");
        assert_eq!(counted, json!({ "20": 1, "30": 2 }), "{who:?}");
    }
}

#[test]
fn ffmpeg_encodes_a_clip() {
    if !installed(&["/usr/bin/ffmpeg", "/usr/bin/ffprobe"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let mut command = vec!["/usr/bin/ffmpeg", "-nostdin", "-loglevel", "error"];
        command.extend([
            "-f",
            "lavfi",
            "-i",
            "testsrc=duration=2:size=320x240:rate=10",
        ]);
        command.extend(["-f", "lavfi", "-i", "sine=frequency=440:duration=2"]);
        command.extend(["-c:v", "libx264", "-c:a", "aac", "-shortest", "clip.mp4"]);
        let outcome = world.run_in_workspace(ROOMY, &command);
        world.assert_unbroken(&outcome, &[]);
        let clip = world.workspace().join("clip.mp4");
        let mut ask = vec!["-v", "error", "-count_frames", "-of", "csv=p=0"];
        ask.extend(["-show_entries", "stream=codec_name,width,nb_read_frames"]);
        ask.push(clip.to_str().expect("a plain path"));
        let streams = host("/usr/bin/ffprobe", &ask);
        assert!(
            streams.starts_with("h264,320,20\naac,"),
            "{who:?}: {streams}"
        );
    }
}

#[test]
fn chromium_renders_a_page() {
    let browsers = ["/usr/bin/chromium-headless-shell", "/usr/bin/chromium"];
    let found = browsers
        .into_iter()
        .find(|path| std::path::Path::new(path).exists());
    let Some(browser) = found else {
        let _ = installed(&browsers[..1]);
        return;
    };
    for who in everyone() {
        let world = World::new(who);
        // Red at once, green once the script has run.
        let page = "<body style='background:#f00'><h1>Toolcell</h1><script>\
                    document.body.style.background = '#0f0'</script>";
        world.write("workspace/page.html", page);
        let outcome = world.run_in_workspace(
            ROOMY,
            &[
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--user-data-dir=/tmp/profile",
                "--window-size=300,200",
                "--screenshot=/work/page.png",
                "file:///work/page.html",
            ],
        );
        // It asks for D-Bus, for devices that come and go, and for the kinds of memory files.
        world.assert_unbroken(
            &outcome,
            &[
                "socket(AF_NETLINK",
                "socket(AF_UNIX",
                "memfd_create(MFD_HUGETLB)",
            ],
        );
        let image = fs::read(world.workspace().join("page.png")).expect("it was rendered");
        assert!(
            image.starts_with(b"\x89PNG\r\n\x1a\n"),
            "{who:?}: not a PNG"
        );
        if installed(&["/usr/bin/ffmpeg"]) {
            assert_eq!(corner(&world, "page.png"), [0, 255, 0], "{who:?}");
        }
    }
}

/// The colour of the last pixel of an image in the workspace.
fn corner(world: &World, name: &str) -> [u8; 3] {
    let path = world.workspace().join(name);
    let mut command = std::process::Command::new("/usr/bin/ffmpeg");
    command
        .args(["-nostdin", "-loglevel", "error", "-i"])
        .arg(path);
    command.args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]);
    let pixels = command.output().expect("ffmpeg starts").stdout;
    *pixels.last_chunk().expect("an image has pixels")
}
