//! Settings of `calor serve` from flags, the environment and a file, and where each came from.
//!
//! A file's settings become flags before the user's own: what a flag accepts and refuses is said
//! in one place, and a name that is no flag is refused.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value as Json};

use crate::exit::Failure;

/// The command whose settings these are.
const COMMAND: &str = "serve";
/// Settings that are not shown.
const SECRETS: [&str; 2] = ["api-key", "admin-key"];
/// Flags that hold what is embedded.
const PAYLOADS: [&str; 1] = ["instruction"];
/// In the place of what is not told.
const NOT_SHOWN: &str = "(not shown)";
/// Settings that say where settings are, and those that a file has no say in.
const OWN: [&str; 3] = ["config", "print-config", "help"];

/// Gives every flag of the command its twin in the environment.
pub(crate) fn with_environment(command: Command) -> Command {
    command.mut_subcommand(COMMAND, |serve| {
        serve.mut_args(|arg| match arg.get_long().map(variable) {
            Some(name) => arg.env(name),
            None => arg,
        })
    })
}

/// `CALOR_` and the flag's name in capitals.
fn variable(long: &str) -> String {
    format!("CALOR_{}", long.to_uppercase().replace('-', "_"))
}

/// A command line with settings of a file in it.
pub(crate) struct Filled {
    /// All of it.
    pub(crate) line: Vec<OsString>,
    /// Names of the settings that come from the file.
    pub(crate) from_file: BTreeSet<String>,
}

/// A command line with the settings of a file before the user's own; as it is where there is no
/// file.
///
/// # Errors
/// For a file that cannot be read, is no TOML, or names what is no setting.
pub(crate) fn with_file(
    command: &Command,
    matches: &ArgMatches,
    line: &[OsString],
) -> Result<Option<Filled>, Failure> {
    let Some((COMMAND, given)) = matches.subcommand() else { return Ok(None) };
    let Some(path) = given.get_one::<std::path::PathBuf>("config") else { return Ok(None) };
    let table = read(path)?;
    let serve = command.find_subcommand(COMMAND);
    let arguments: Vec<&Arg> = serve.map_or_else(Vec::new, |it| it.get_arguments().collect());
    let mut flags = Vec::new();
    let mut used = BTreeSet::new();
    for (name, value) in &table {
        let is_it = |it: &&&Arg| it.get_long() == Some(name) && !OWN.contains(&name.as_str());
        let Some(arg) = arguments.iter().find(is_it) else {
            return Err(Failure::usage(format!("{}: there is no `{name}`", path.display()))
                .hint("`calor serve --print-config` lists every setting"));
        };
        let source = given.value_source(arg.get_id().as_str());
        if matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        used.insert(name.clone());
        push(&mut flags, arg, name, value, path)?;
    }
    let at = line.iter().position(|it| it == COMMAND).map_or(line.len(), |it| it + 1);
    let (before, after) = line.split_at(at);
    Ok(Some(Filled { line: [before, &flags, after].concat(), from_file: used }))
}

fn read(path: &Path) -> Result<toml::Table, Failure> {
    let failed = |err: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot read the settings in {}", path.display())).why(err)
    };
    let text = std::fs::read_to_string(path).map_err(|err| failed(&err))?;
    text.parse().map_err(|err| failed(&err))
}

fn push(
    flags: &mut Vec<OsString>,
    arg: &Arg,
    name: &str,
    value: &toml::Value,
    path: &Path,
) -> Result<(), Failure> {
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let one = |value: &toml::Value| match value {
        toml::Value::String(it) => Ok(it.clone()),
        toml::Value::Integer(it) => Ok(it.to_string()),
        toml::Value::Boolean(it) => Ok(it.to_string()),
        toml::Value::Datetime(it) => Ok(it.to_string()),
        toml::Value::Float(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            let what = format!("{}: `{name}` has a value of a wrong kind", path.display());
            Err(Failure::usage(what).hint("a text, a whole number, true or false, or a list"))
        }
    };
    let values = match value {
        toml::Value::Array(all) => all.iter().map(one).collect::<Result<Vec<_>, _>>()?,
        other => vec![one(other)?],
    };
    for value in values {
        match (is_switch, value.as_str()) {
            (true, "true") => flags.push(format!("--{name}").into()),
            (true, _) => {}
            (false, value) => flags.push(format!("--{name}={value}").into()),
        }
    }
    Ok(())
}

/// Every setting as TOML that [`with_file`] reads, each with where it comes from. Keys are not
/// shown.
pub(crate) fn print(
    command: &Command,
    matches: &ArgMatches,
    from_file: &BTreeSet<String>,
) -> String {
    let serve = command.find_subcommand(COMMAND);
    let mut out = String::new();
    for arg in serve.into_iter().flat_map(Command::get_arguments) {
        let Some(long) = arg.get_long().filter(|it| !OWN.contains(it)) else { continue };
        let id = arg.get_id().as_str();
        let place = match matches.value_source(id) {
            _ if from_file.contains(long) => "file",
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "environment",
            _ => "default",
        };
        let raw = matches.get_raw(id).map(|it| it.map(|it| it.to_string_lossy().into_owned()));
        let values: Vec<String> = raw.map_or_else(Vec::new, Iterator::collect);
        let is_list = matches!(arg.get_action(), ArgAction::Append);
        let line = match values.as_slice() {
            [] if is_list => format!("{long} = []"),
            [] => format!("# {long} is not set"),
            [_, ..] if SECRETS.contains(&long) => format!("# {long} is set and not shown"),
            all if is_list => {
                let all: Vec<String> = all.iter().map(|it| value(it)).collect();
                format!("{long} = [{}]", all.join(", "))
            }
            [one, ..] => format!("{long} = {}", value(one)),
        };
        out.push_str(&format!("{line:<48} # {place}\n"));
    }
    out
}

/// What every flag of a command line comes to, given or by default, by its name. Without keys,
/// without what is embedded, and without what stands in addresses in front of an `@`.
pub(crate) fn told(command: &Command, matches: &ArgMatches) -> Json {
    let mut out = Map::new();
    tell(command, matches, &mut out);
    out.into()
}

fn tell(command: &Command, matches: &ArgMatches, out: &mut Map<String, Json>) {
    for arg in command.get_arguments() {
        let (Some(long), id) = (arg.get_long(), arg.get_id().as_str()) else { continue };
        // Flags that end the program are known to it alone.
        let Ok(Some(raw)) = matches.try_get_raw(id) else { continue };
        let values: Vec<String> = raw.map(|it| it.to_string_lossy().into_owned()).collect();
        let is_list = matches!(arg.get_action(), ArgAction::Append);
        let told = match values.as_slice() {
            _ if SECRETS.contains(&long) || PAYLOADS.contains(&long) => NOT_SHOWN.into(),
            [one] if !is_list => word(one),
            all => all.iter().map(|it| word(it)).collect(),
        };
        out.insert(long.to_owned(), told);
    }
    if let Some((name, inner)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        out.insert(
            "command".into(),
            match out.get("command") {
                Some(Json::String(outer)) => format!("{outer} {name}").into(),
                _ => name.into(),
            },
        );
        tell(command, inner, out);
    }
}

/// A value as JSON: whole numbers and truth as they are.
fn word(text: &str) -> Json {
    match (text.parse::<i64>(), text) {
        (Ok(number), _) if number.to_string() == text => number.into(),
        (_, "true") => true.into(),
        (_, "false") => false.into(),
        _ => match text.split_once("://").and_then(|it| Some((it.0, it.1.split_once('@')?.1))) {
            Some((scheme, place)) => format!("{scheme}://{NOT_SHOWN}@{place}").into(),
            None => text.into(),
        },
    }
}

/// A value as TOML: numbers and truth as they are, everything else quoted.
fn value(text: &str) -> String {
    let is_plain = text.parse::<i64>().is_ok_and(|it| it.to_string() == text);
    match is_plain || text == "true" || text == "false" {
        true => text.to_owned(),
        false => toml::Value::String(text.to_owned()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use crate::arguments::{Command, Parsed, ServeArguments, parse};

    #[track_caller]
    fn parsed(line: &[&str]) -> Parsed {
        let line: Vec<std::ffi::OsString> = line.iter().map(|it| it.into()).collect();
        parse(&line).unwrap().unwrap()
    }

    #[track_caller]
    fn serve(line: &[&str]) -> ServeArguments {
        match parsed(line).arguments.command {
            Command::Serve(it) => *it,
            other => panic!("{other:?}"),
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_flag_comes_before_the_file_and_the_file_before_the_default() {
        let file = file(
            "port = 4000\nhostname = \"::1\"\nserved-model-name = [\"a\", \"b\"]\n\
             auto-truncate = false\nallow-partial = true\nprofile = \"random\"\n",
        );
        let config = file.path().to_str().unwrap();
        let found = serve(&["calor", "serve", "--config", config, "--port", "5000"]);
        assert_eq!((found.port, found.hostname.as_str()), (5000, "::1"));
        assert_eq!(found.served_model_name, ["a", "b"]);
        assert!(!found.auto_truncate && found.run.allow_partial);
        assert_eq!(found.run.profile, calor_embed::Profile::Random);
        assert_eq!(found.max_batch_requests, 64);
        let found = serve(&["calor", "serve", "--config", config, "--served-model-name", "c"]);
        assert_eq!(found.served_model_name, ["c"], "a list is replaced, not added to");
    }

    #[test]
    fn what_is_printed_can_be_read_again_and_hides_keys() {
        let line = ["calor", "serve", "--print-config", "--port=1", "--admin-key=secret"];
        let more = ["--default-model=e7", "--cors-allow-origin=*", "--hostname=a \"b\""];
        let all: Vec<&str> = line.iter().chain(&more).copied().collect();
        let printed = parsed(&all).settings.unwrap();
        assert!(!printed.contains("secret"), "{printed}");
        assert!(printed.contains("# admin-key is set and not shown"), "{printed}");
        let port = printed.lines().find(|it| it.starts_with("port")).unwrap();
        assert!(port.starts_with("port = 1 ") && port.ends_with("# flag"), "{port}");
        let file = file(&printed);
        let config = file.path().to_str().unwrap();
        let again = parsed(&["calor", "serve", "--print-config", "--config", config]);
        let values = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|it| !it.starts_with('#'));
            lines.map(|it| it.rsplit_once('#').unwrap().0.trim_end().to_owned()).collect()
        };
        let again = again.settings.unwrap();
        assert_eq!(values(&again), values(&printed));
        assert!(again.lines().any(|it| it.starts_with("port = 1 ") && it.ends_with("# file")));
    }

    #[test]
    fn a_run_tells_its_options_and_no_secret() {
        let line = ["calor", "serve", "--port=1", "--api-key=hush", "--served-model-name=a"];
        let told = parsed(&line).options;
        assert_eq!((&told["command"], &told["port"]), (&"serve".into(), &1.into()));
        assert_eq!(told["served-model-name"], serde_json::json!(["a"]));
        assert_eq!(told["max-batch-requests"], 64, "what is not given has its default");
        assert_eq!(told["print-config"], false);
        assert_eq!(told["api-key"], "(not shown)");
        assert!(told.get("admin-key").is_none(), "what is not set is not told");
        let line = ["calor", "embed", "a private text", "--instruction", "a private word"];
        let told = parsed(&line).options.to_string();
        assert!(!told.contains("private") && told.contains("\"instruction\":\"(not shown)\""));
        let url = ["calor", "accel-info", "--url=https://me:pass@host/x", "--quiet"];
        let told = parsed(&url).options;
        assert_eq!(told["url"], "https://(not shown)@host/x");
        assert_eq!(told["quiet"], true);
        let inner = parsed(&["calor", "models", "synth", "--seed", "7", "d"]).options;
        assert_eq!((&inner["command"], &inner["seed"]), (&"models synth".into(), &7.into()));
    }

    #[track_caller]
    fn refused(text: &str, want: &str) {
        let file = file(text);
        let line = ["calor", "serve", "--config", file.path().to_str().unwrap()];
        let line: Vec<std::ffi::OsString> = line.iter().map(|it| it.into()).collect();
        let words = match parse(&line) {
            Err(failure) => failure.to_string(),
            Ok(Err(err)) => err.to_string(),
            Ok(Ok(_)) => panic!("`{text}` is taken"),
        };
        assert!(words.contains(want), "for `{text}`: {words}");
    }

    #[test]
    fn a_file_says_what_is_wrong_with_it() {
        refused("prot = 1", "there is no `prot`");
        refused("port = \"x\"", "invalid value 'x' for '--port");
        refused("port = 70000", "70000");
        refused("port = 1.5", "wrong kind");
        refused("port =", "cannot read the settings");
        refused("config = \"other\"", "there is no `config`");
        refused("default-model = \"e13\"", "e13");
        refused("tls-cert = \"a.pem\"", "--tls-key");
    }

    #[test]
    fn every_flag_has_a_twin_in_the_environment() {
        let command = super::with_environment(
            <crate::arguments::Arguments as clap::CommandFactory>::command(),
        );
        let serve = command.find_subcommand("serve").unwrap();
        for arg in serve.get_arguments().filter(|it| it.get_long().is_some()) {
            let long = arg.get_long().unwrap();
            let name = arg.get_env().map(|it| it.to_string_lossy().into_owned());
            assert_eq!(name, Some(super::variable(long)), "{long}");
        }
        assert_eq!(super::variable("max-batch-tokens"), "CALOR_MAX_BATCH_TOKENS");
        // No other command is changed by the environment.
        let embed = command.find_subcommand("embed").unwrap();
        assert!(embed.get_arguments().all(|it| it.get_env().is_none()));
    }
}
