//! The built-in `sqlite_query`: what it is for, and what SQL cannot make it do.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::builtin::{stderr, stdout};
use harness::programs::{host, installed};
use harness::{World, everyone};
use serde_json::{Value, json};

const MADE: &str = "CREATE TABLE people (name TEXT, age INTEGER);
INSERT INTO people VALUES ('Ann, \"the\" first', 30), ('Bo', 20), (NULL, 30);";

/// A directory with a database, made on the host.
fn databases(world: &World, mode: &str) -> Option<PathBuf> {
    if !installed(&["/usr/bin/sqlite3"]) {
        return None;
    }
    world.write("databases/people.db", "");
    let directory = world.path("databases");
    let path = directory.join("people.db");
    let sql = format!("PRAGMA journal_mode = {mode}; {MADE}");
    let _ = host(
        "/usr/bin/sqlite3",
        &[path.to_str().expect("a plain path"), &sql],
    );
    Some(directory)
}

fn query(world: &World, directory: &Path, sql: &str) -> Value {
    let arguments = json!({ "database": "people.db", "sql": sql });
    world.call_at(&[("databases", directory)], "sqlite_query", &arguments)
}

#[test]
fn sqlite_query_returns_rows_as_csv() {
    for who in everyone() {
        let world = World::new(who);
        let Some(directory) = databases(&world, "DELETE") else {
            return;
        };
        for (sql, rows) in [
            (
                "SELECT * FROM people ORDER BY age, name",
                "name,age\r\nBo,20\r\n,30\r\n\"Ann, \"\"the\"\" first\",30\r\n",
            ),
            (
                "SELECT age, count(*) AS n FROM people GROUP BY 1;",
                "age,n\r\n20,1\r\n30,2\r\n",
            ),
            ("SELECT 1 AS a; SELECT 2 AS b;", "a\r\n1\r\nb\r\n2\r\n"),
            ("SELECT name FROM sqlite_schema", "name\r\npeople\r\n"),
            (
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) \
              SELECT sum(i) AS s FROM n",
                "s\r\n5050\r\n",
            ),
        ] {
            let outcome = query(&world, &directory, sql);
            assert_eq!(outcome["exit_code"], 0, "{who:?}: {sql}: {outcome:#}");
            assert_eq!(
                stdout(&outcome).replace("\r\n", "\n"),
                rows.replace("\r\n", "\n")
            );
        }
    }
}

#[test]
fn sqlite_query_reads_a_database_in_wal_mode_that_nobody_has_open() {
    for who in everyone() {
        let world = World::new(who);
        let Some(directory) = databases(&world, "WAL") else {
            return;
        };
        let outcome = query(&world, &directory, "SELECT count(*) AS n FROM people");
        assert_eq!(stdout(&outcome), "n\n3\n", "{who:?}: {outcome:#}");
        assert_eq!(
            names(&directory),
            ["people.db"],
            "{who:?}: nothing is made beside it"
        );
    }
}

#[test]
fn sqlite_query_reads_what_another_process_has_committed_to_the_log() {
    for who in everyone() {
        let world = World::new(who);
        let Some(directory) = databases(&world, "WAL") else {
            return;
        };
        let mut writer = Command::new("/usr/bin/sqlite3")
            .arg(directory.join("people.db"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sqlite3 starts");
        let mut input = writer.stdin.take().expect("it is piped");
        let output = writer.stdout.take().expect("it is piped");
        let sql = "INSERT INTO people VALUES ('New', 1);\nSELECT 'committed';\n";
        input.write_all(sql.as_bytes()).expect("it reads");
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .expect("it writes");
        assert_eq!(line, "committed\n");
        for name in names(&directory) {
            // As the user would have made them.
            world.give(&directory.join(name));
        }

        let outcome = query(&world, &directory, "SELECT count(*) AS n FROM people");
        assert_eq!(stdout(&outcome), "n\n4\n", "{who:?}: {outcome:#}");
        drop(input);
        assert!(writer.wait().expect("it ends").success());
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it is there").flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Each statement is run on the host first, where it does what it says.
#[test]
fn sqlite_query_changes_nothing() {
    for who in everyone() {
        for sql in [
            "DELETE FROM people",
            "INSERT INTO people VALUES ('x', 1)",
            "CREATE TABLE other (x)",
            "DROP TABLE people",
            "PRAGMA user_version = 5",
            "PRAGMA journal_mode = TRUNCATE; UPDATE people SET age = 1",
        ] {
            let world = World::new(who);
            let Some(directory) = databases(&world, "DELETE") else {
                return;
            };
            let path = directory.join("people.db");
            let before = fs::read(&path).expect("it is there");
            let outcome = query(&world, &directory, sql);
            assert_eq!(outcome["status"], "exited", "{who:?}: {sql}: {outcome:#}");
            assert!(
                stderr(&outcome).contains("readonly"),
                "{who:?}: {sql}: {outcome:#}"
            );
            assert!(
                fs::read(&path).expect("it is there") == before,
                "{who:?}: {sql}"
            );
            assert_eq!(names(&directory), ["people.db"], "{who:?}: {sql}");
            let _ = host(
                "/usr/bin/sqlite3",
                &[path.to_str().expect("a plain path"), sql],
            );
            assert!(
                fs::read(&path).expect("it is there") != before,
                "the control of `{sql}`"
            );
        }
    }
}

/// What would read, write or run anything beside the database. Each is run on the host first, where
/// it leaves the marker or shows the secret.
#[test]
fn sqlite_query_opens_and_runs_nothing_else() {
    for who in everyone() {
        let world = World::new(who);
        let Some(directory) = databases(&world, "DELETE") else {
            return;
        };
        let secret = world.write("databases/secret.txt", "hunter2\n");
        let (secret, marker) = (secret.display(), directory.join("marker"));
        let mark = marker.display();
        for sql in [
            format!(".shell touch {mark}\n"),
            format!(".system touch {mark}\n"),
            format!(".output {mark}\nSELECT 1;\n"),
            format!(".once {mark}\nSELECT 1;\n"),
            format!(".once '|touch {mark}'\nSELECT 1;\n"),
            format!(".log {mark}\n.print x\n"),
            format!(".backup {mark}\n"),
            format!(".save {mark}\n"),
            format!(".import '|touch {mark}' x\n"),
            format!(".open {mark}\nCREATE TABLE x (x);\n"),
            format!("ATTACH '{mark}' AS m; CREATE TABLE m.x (x);\n"),
            format!("VACUUM INTO '{mark}';\n"),
            format!("SELECT writefile('{mark}', 'x');\n"),
            format!("SELECT edit('x', 'touch {mark};:');\n"),
            format!("SELECT readfile('{secret}');\n"),
            format!(".read {secret}\n"),
        ] {
            let path = directory.join("people.db");
            let mut control = Command::new("/usr/bin/sqlite3")
                .args(["-batch".as_ref(), path.as_os_str()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("sqlite3 starts");
            let mut input = control.stdin.take().expect("it is piped");
            // It may have ended by then.
            let _ = input.write_all(sql.as_bytes());
            drop(input);
            let told = control.wait_with_output().expect("it ends");
            let shown = [told.stdout, told.stderr].concat();
            let shown = String::from_utf8_lossy(&shown).contains("hunter2");
            assert!(shown || marker.exists(), "the control of `{sql}`");
            let _ = fs::remove_file(&marker);

            let before = names(&directory);
            let outcome = query(&world, &directory, &sql);
            assert_eq!(outcome["exit_code"], 1, "{who:?}: {sql}: {outcome:#}");
            let said = format!("{}{}", stdout(&outcome), stderr(&outcome));
            assert!(!said.contains("hunter2"), "{who:?}: {sql}: {said}");
            assert_eq!(names(&directory), before, "{who:?}: {sql}");
        }
    }
}

#[test]
fn sqlite_query_loads_no_extension() {
    for who in everyone() {
        let world = World::new(who);
        let Some(directory) = databases(&world, "DELETE") else {
            return;
        };
        for sql in ["SELECT load_extension('/usr/lib/x');", ".load /usr/lib/x\n"] {
            let outcome = query(&world, &directory, sql);
            assert_eq!(outcome["exit_code"], 1, "{who:?}: {sql}: {outcome:#}");
            assert!(
                stderr(&outcome).contains("safe mode"),
                "{who:?}: {sql}: {outcome:#}"
            );
        }
    }
}

#[test]
fn sqlite_query_refuses_what_is_not_a_database_beneath_its_root() {
    for who in everyone() {
        let world = World::new(who);
        let Some(directory) = databases(&world, "DELETE") else {
            return;
        };
        let outside = world.write("outside.db", "");
        std::os::unix::fs::symlink(&outside, directory.join("link.db")).expect("it is ours");
        nix::unistd::mkfifo(&directory.join("fifo.db"), nix::sys::stat::Mode::S_IRWXU)
            .expect("a FIFO can be made");
        let good = json!({ "database": "people.db", "sql": "SELECT 1" });
        let roots = [("databases", directory.as_path())];
        assert_eq!(world.told(&roots, "sqlite_query", &good), "1\n1\n");
        for (arguments, words) in [
            (
                json!({ "database": "../outside.db", "sql": "" }),
                ["`/sql`", "at least 1"],
            ),
            (
                json!({ "database": "../outside.db", "sql": "x" }),
                ["`/database`", "`..`"],
            ),
            (
                json!({ "database": "/etc/passwd", "sql": "x" }),
                ["`/database`", "elsewhere"],
            ),
            (
                json!({ "database": ".", "sql": "x" }),
                ["`/database`", "a file"],
            ),
            (json!({ "sql": "x" }), ["`/database`", "found nothing"]),
            (
                json!({ "database": "people.db" }),
                ["`/sql`", "found nothing"],
            ),
            (
                json!({ "database": 1, "sql": "x" }),
                ["`/database`", "a string"],
            ),
        ] {
            world.assert_refused(&roots, "sqlite_query", &arguments, &words);
        }
        for name in [
            "link.db",
            "fifo.db",
            "absent.db",
            "people.db?mode=rwc",
            "-init",
        ] {
            let arguments = json!({ "database": name, "sql": "SELECT 1" });
            let outcome = world.call_at(&roots, "sqlite_query", &arguments);
            assert_ne!(outcome["exit_code"], 0, "{who:?}: {name}: {outcome:#}");
            assert_eq!(stdout(&outcome), "", "{who:?}: {name}");
        }
        assert!(!directory.join("absent.db").exists());
    }
}
