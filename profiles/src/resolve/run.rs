//! What runs: the command, its standard input and its environment, with every placeholder checked.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostics::{Diagnostic, Kind, Origin, Problems, did_you_mean, listed};
use crate::paths;
use crate::placeholders::Piece;
use crate::schema::{ArgvWord, Effect};

use super::chain::{Chain, RuleKey};
use super::check::{Roots, unknown_root};
use super::input::{ArgumentType, Input};
use super::{Environment, PathArgument, Run, WORK, Word};

/// Most words of a command as written.
const WORDS_MAX: usize = 256;
/// Most variables in an environment.
const VARIABLES_MAX: usize = 128;

/// Variables that would let whoever sets them choose the code that runs.
const LOADER_VARIABLES: [&str; 3] = ["LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH"];

/// What placeholders can refer to.
pub(super) struct Scope<'a> {
    pub input: &'a Input,
    pub roots: &'a Roots,
    pub paths: &'a BTreeMap<String, PathArgument>,
}

impl Scope<'_> {
    /// Reads text that may be a placeholder, which must then refer to something.
    fn piece(&self, text: &str, origin: &Origin) -> Result<Piece, Diagnostic> {
        let piece = Piece::parse(text)
            .map_err(|error| Diagnostic::at(origin, error.to_string()).with_hint(error.hint()))?;
        match &piece {
            Piece::Literal(text) if text.contains('\0') => {
                Err(Diagnostic::at(origin, "the text contains a NUL byte"))
            }
            Piece::Argument(name) if self.input.type_of(name).is_none() => {
                Err(self.unknown_argument(name, origin))
            }
            Piece::Root(name) if !self.roots.has(name) => {
                Err(unknown_root(origin, name, self.roots))
            }
            _ => Ok(piece),
        }
    }

    fn unknown_argument(&self, name: &str, origin: &Origin) -> Diagnostic {
        let known: Vec<&str> = self.input.names().collect();
        let expected = if known.is_empty() {
            "`input` has no arguments".to_owned()
        } else {
            format!("expected one of {}", listed(known.iter().copied()))
        };
        let hint = did_you_mean(name, known).unwrap_or_else(|| {
            format!("add `{name}` to `[input]`, or write `{{{{` for a literal brace")
        });
        Diagnostic::at(origin, format!("`input` has no argument `{name}`"))
            .with_expected(expected)
            .with_hint(hint)
    }

    /// Reads text whose placeholder must be one word: not a list, not an object.
    fn single(&self, text: &str, origin: &Origin) -> Result<Piece, Diagnostic> {
        let piece = self.piece(text, origin)?;
        if let Piece::Argument(name) = &piece
            && let Some(ArgumentType::Strings | ArgumentType::Other) = self.input.type_of(name)
        {
            let message = format!("argument `{name}` is not one string, number or boolean");
            return Err(Diagnostic::at(origin, message));
        }
        Ok(piece)
    }
}

/// The command of the outermost profile that has one.
pub(super) fn command(
    chain: &Chain<'_>,
    scope: &Scope<'_>,
    problems: &mut Problems,
) -> Option<Run> {
    let written = chain
        .links()
        .filter(|written| {
            let run = written.profile.run.as_ref();
            run.is_some_and(|run| run.argv.is_some())
        })
        .last()?;
    let argv = written.profile.run.as_ref()?.argv.as_ref()?;
    let origin = written.origin(argv.span());
    if argv.len() > WORDS_MAX {
        problems.push(
            Diagnostic::at(&origin, format!("`argv` has {} words", argv.len()))
                .with_expected(format!("expected at most {WORDS_MAX}")),
        );
        return None;
    }
    let mut words = Vec::with_capacity(argv.len());
    for entry in argv.iter() {
        let origin = written.origin(entry.span());
        let word = word(entry, scope, &origin).map(|word| (word, origin));
        words.extend(problems.note(word));
    }
    let stdin = chain
        .last(|p| p.run.as_ref()?.stdin.as_ref())
        .and_then(|(text, origin)| problems.note(scope.piece(text, &origin)));
    let success = chain.last(|p| p.run.as_ref()?.success.as_ref());
    if let Some((success, origin)) = &success
        && success.is_empty()
    {
        let message = "`success` is empty: no call could succeed";
        problems.push(Diagnostic::at(origin, message).with_expected("expected exit statuses"));
    }
    let mut words = words.into_iter();
    let Some((first, first_origin)) = words.next() else {
        if argv.is_empty() {
            problems.push(
                Diagnostic::at(&origin, "`argv` names no program")
                    .with_expected("expected an absolute path, then arguments"),
            );
        }
        return None;
    };
    let program = match &first.piece {
        Piece::Literal(path) if first.flag.is_none() => paths::absolute(path).map_err(|error| {
            let hint = format!("write the program's whole path, such as `/usr/bin/{path}`");
            let relative = !path.contains('/') && !path.is_empty();
            Diagnostic::at(&first_origin, error.to_string())
                .with_hint_maybe(relative.then_some(hint))
        }),
        _ => Err(
            Diagnostic::at(&first_origin, "the program cannot be a placeholder")
                .with_hint("what runs is the author's choice, not the caller's"),
        ),
    };
    Some(Run {
        program: problems.note(program)?,
        arguments: words.map(|(word, _)| word).collect(),
        stdin,
        success: success.map_or([0].into(), |(success, _)| success.iter().copied().collect()),
        effect: effect(chain),
        program_origin: first_origin,
    })
}

/// The effect that is said of the command: where the command is, or later. What a base says is about
/// its own, and not about another that takes its place.
fn effect(chain: &Chain<'_>) -> Effect {
    let mut effect = Effect::default();
    for run in chain.links().filter_map(|link| link.profile.run.as_ref()) {
        if run.argv.is_some() {
            effect = Effect::default();
        }
        effect = run.effect.as_deref().copied().unwrap_or(effect);
    }
    effect
}

fn word(entry: &ArgvWord, scope: &Scope<'_>, origin: &Origin) -> Result<Word, Diagnostic> {
    let literal = |piece| Word {
        piece,
        flag: None,
        leading_dash: false,
    };
    match (&entry.word, &entry.arg) {
        (Some(text), None) => {
            if entry.flag.is_some() || entry.leading_dash {
                let message = "`flag` and `leading_dash` go with `arg`, not with `word`";
                return Err(Diagnostic::at(origin, message));
            }
            let piece = scope.piece(text, origin)?;
            if let Piece::Argument(name) = &piece {
                check_word_type(name, None, scope, origin)?;
            }
            Ok(literal(piece))
        }
        (None, Some(name)) => {
            if scope.input.type_of(name).is_none() {
                return Err(scope.unknown_argument(name, origin));
            }
            check_word_type(name, entry.flag.as_deref(), scope, origin)?;
            Ok(Word {
                piece: Piece::Argument(name.clone()),
                flag: entry.flag.clone(),
                leading_dash: entry.leading_dash,
            })
        }
        (Some(_), Some(_)) | (None, None) => Err(Diagnostic::at(
            origin,
            "a table in `argv` has either `arg` or `word`",
        )),
    }
}

fn check_word_type(
    name: &str,
    flag: Option<&str>,
    scope: &Scope<'_>,
    origin: &Origin,
) -> Result<(), Diagnostic> {
    if flag.is_some_and(|flag| flag.is_empty() || flag.contains('\0')) {
        return Err(Diagnostic::at(origin, "`flag` is not a word"));
    }
    match scope.input.type_of(name) {
        Some(ArgumentType::Other) | None => Err(Diagnostic::at(
            origin,
            format!("argument `{name}` has no type that can be a word"),
        )
        .with_expected(
            "expected `type = \"string\"`, `integer`, `number`, `boolean`, or an array of strings",
        )),
        Some(_) => Ok(()),
    }
}

/// Working directory and environment.
pub(super) fn environment(
    chain: &Chain<'_>,
    scope: &Scope<'_>,
    problems: &mut Problems,
) -> Environment {
    let cwd = chain.last(|p| p.run.as_ref()?.cwd.as_ref());
    let cwd = cwd.and_then(|(text, origin)| problems.note(working_directory(text, scope, &origin)));
    let mut environment = Environment {
        cwd: cwd.unwrap_or_else(|| Piece::Literal(WORK.to_owned())),
        set: BTreeMap::new(),
        pass: BTreeSet::new(),
        secrets: BTreeMap::new(),
    };
    for written in chain.links() {
        let Some(run) = &written.profile.run else {
            continue;
        };
        for (name, value) in &run.env {
            let origin = written.origin(value.span());
            let piece = variable_name(name, &origin)
                .and_then(|()| scope.single(value, &origin))
                .and_then(|piece| not_for_callers(name, piece, &origin));
            if let Some(piece) = problems.note(piece) {
                environment.set.insert(name.clone(), piece);
            }
        }
        for (name, secret) in &run.secrets {
            let origin = written.origin(secret.span());
            problems.push(
                Diagnostic::at(
                    &origin,
                    format!("`secrets.{name}`: a tool's environment holds no secrets"),
                )
                .with_hint(
                    "let `network.inject` add it to requests, so that the tool never sees it",
                )
                .with_kind(Kind::NotOffered),
            );
        }
    }
    for rule in chain.rules(RuleKey::PassEnv) {
        if problems
            .note(variable_name(&rule.text, &rule.origin))
            .is_some()
        {
            environment.pass.insert(rule.text.clone());
        }
    }
    if environment.set.len() + environment.pass.len() > VARIABLES_MAX {
        let own = chain.own();
        problems.push(
            Diagnostic::at(
                &own.origin(own.profile.name.span()),
                "too many environment variables",
            )
            .with_expected(format!("expected at most {VARIABLES_MAX}")),
        );
    }
    environment
}

fn working_directory(text: &str, scope: &Scope<'_>, origin: &Origin) -> Result<Piece, Diagnostic> {
    match scope.piece(text, origin)? {
        Piece::Literal(path) => {
            let path = paths::absolute(&path)
                .map_err(|error| Diagnostic::at(origin, format!("`cwd`: {error}")))?;
            Ok(Piece::Literal(path.display().to_string()))
        }
        Piece::Argument(name) if !scope.paths.contains_key(&name) => {
            Err(
                Diagnostic::at(origin, format!("argument `{name}` is not a path")).with_hint(
                    format!("add `[paths.{name}]` with `beneath = \"{{roots.…}}\"`"),
                ),
            )
        }
        piece => Ok(piece),
    }
}

fn variable_name(name: &str, origin: &Origin) -> Result<(), Diagnostic> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(fits)
    {
        return Ok(());
    }
    let name = crate::diagnostics::shortened(name);
    Err(Diagnostic::at(
        origin,
        format!("`{name}` cannot name an environment variable"),
    )
    .with_expected("expected letters, digits and `_`"))
}

/// Refuses a caller's value for a variable through which code is chosen.
fn not_for_callers(name: &str, piece: Piece, origin: &Origin) -> Result<Piece, Diagnostic> {
    if matches!(piece, Piece::Argument(_)) && LOADER_VARIABLES.contains(&name) {
        let message =
            format!("`{name}` cannot come from an argument: it chooses the code that runs");
        return Err(Diagnostic::at(origin, message));
    }
    Ok(piece)
}
