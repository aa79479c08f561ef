//! `--change`: instructions of a Dockerfile applied to an image's configuration.

use sampan_build::expand::Expander;
use sampan_build::instruction::Kind;
use sampan_build::parser;
use sampan_build::state::StageState;
use sampan_image::{ImageConfig, Platform};

use crate::error::{Error, Result};

/// Applies instructions in order. Those that would run or copy something are refused.
pub(crate) fn apply_changes(config: &mut ImageConfig, changes: &[String]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    // An import begins with nothing at all, not with what a build begins with.
    let mut state = StageState::scratch(&Platform::host());
    state.config = std::mem::take(config);
    for change in changes {
        apply(&mut state, change).map_err(|error| error.context(format!("--change {change:?}")))?;
    }
    *config = state.config;
    Ok(())
}

fn apply(state: &mut StageState, change: &str) -> Result<()> {
    let mut words = change.trim_start().splitn(2, char::is_whitespace);
    if words.next().is_some_and(|word| word.eq_ignore_ascii_case("ONBUILD")) {
        let trigger = words.next().unwrap_or_default().trim();
        parser::parse_one("--change", trigger).map_err(Error::invalid)?;
        state.config.config.on_build.push(trigger.to_owned());
        return Ok(());
    }
    let kind = parser::parse_one("--change", change).map_err(Error::invalid)?.kind;
    let environment = state.clone();
    let lookup = |name: &str| environment.lookup(name);
    let expander = Expander::new(&lookup, '\\');
    let expand = |text: &str| expander.word(text).map_err(Error::invalid);
    let defaults = &mut state.config.config;
    match kind {
        Kind::Cmd(command) => drop(state.set_cmd(&command)),
        Kind::Entrypoint(command) => drop(state.set_entrypoint(&command)),
        Kind::Env(pairs) => {
            for (name, value) in pairs {
                state.set_env(&expand(&name)?, &expand(&value)?);
            }
        }
        Kind::Label(pairs) => {
            for (name, value) in pairs {
                defaults.labels.insert(expand(&name)?, expand(&value)?);
            }
        }
        Kind::Expose(words) => {
            let words = words.iter().map(|word| expand(word)).collect::<Result<Vec<_>>>()?;
            state.expose(&words).map_err(Error::invalid)?;
        }
        Kind::Volume(paths) => {
            for path in paths {
                defaults.volumes.insert(expand(&path)?);
            }
        }
        Kind::User(user) => defaults.user = expand(&user)?,
        Kind::Workdir(path) => drop(state.set_workdir(&expand(&path)?)),
        Kind::StopSignal(signal) => state.set_stop_signal(&expand(&signal)?).map_err(Error::invalid)?,
        Kind::Healthcheck(check) => state.set_healthcheck(&check),
        Kind::Shell(shell) => defaults.shell = Some(shell),
        Kind::Maintainer(author) => state.config.author = Some(author),
        other => return Err(Error::invalid(format!("{} is not a valid change command", other.keyword()))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn instructions_change_the_configuration_in_order() {
        let mut config = ImageConfig::default();
        let changes = [
            "CMD [\"a\", \"b\"]",
            "ENTRYPOINT /run me",
            "ENV A=1 B=\"x y\"",
            "ENV C=$A",
            "EXPOSE 80 81/udp",
            "LABEL k=v",
            "USER me:us",
            "VOLUME /data",
            "WORKDIR /w",
            "workdir sub",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=5s CMD true",
            "ONBUILD RUN x",
        ];
        apply_changes(&mut config, &changes.map(str::to_owned)).unwrap();
        let set = config.config;
        assert_eq!(set.cmd.unwrap(), ["a", "b"]);
        assert_eq!(set.entrypoint.unwrap(), ["/bin/sh", "-c", "/run me"]);
        assert_eq!(set.env, ["A=1", "B=x y", "C=1"]);
        assert_eq!(set.exposed_ports.into_iter().collect::<Vec<_>>(), ["80/tcp", "81/udp"]);
        assert_eq!((set.labels["k"].as_str(), set.user.as_str(), set.working_dir.as_str()), ("v", "me:us", "/w/sub"));
        assert_eq!(set.volumes.first().unwrap(), "/data");
        assert_eq!(set.stop_signal.unwrap(), "SIGINT");
        let check = set.healthcheck.unwrap();
        assert_eq!((check.test, check.interval), (vec!["CMD-SHELL".to_owned(), "true".to_owned()], 5_000_000_000));
        assert_eq!(set.on_build, ["RUN x"]);
    }

    #[test]
    fn what_would_run_is_refused() {
        for bad in ["RUN true", "COPY a b", "FROM x", "NONSENSE", "", "ONBUILD FROM x"] {
            assert!(apply_changes(&mut ImageConfig::default(), &[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
