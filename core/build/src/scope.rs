//! Which ARGs a build has, what they are worth, and who may see them.

use std::collections::{BTreeMap, HashMap};

use sampan_image::Platform;

/// Arguments that need no ARG: they reach RUN, but neither the history nor a key.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Whether an argument is one of the proxies.
#[must_use]
pub fn is_proxy(name: &str) -> bool {
    PROXIES.contains(&name)
}

/// What the user gave and what the builder knows by itself.
#[derive(Debug, Clone, Default)]
pub struct BuildArgs {
    given: BTreeMap<String, String>,
    automatic: BTreeMap<String, String>,
}

impl BuildArgs {
    /// `--build-arg` values and the platforms. A value of `None` was named but not set: its default holds.
    #[must_use]
    pub fn new(given: &HashMap<String, Option<String>>, build: &Platform, target: &Platform, stage: &str) -> Self {
        let given = given.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
        let mut automatic = BTreeMap::new();
        for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
            automatic.insert(format!("{prefix}PLATFORM"), platform.to_string());
            automatic.insert(format!("{prefix}OS"), platform.os.clone());
            automatic.insert(format!("{prefix}ARCH"), platform.architecture.clone());
            automatic.insert(format!("{prefix}VARIANT"), platform.variant.clone().unwrap_or_default());
        }
        automatic.insert("TARGETSTAGE".to_owned(), if stage.is_empty() { "default" } else { stage }.to_owned());
        Self { given, automatic }
    }

    /// The value that the user gave.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    /// Whether the builder knows an argument by itself.
    #[must_use]
    pub fn is_automatic(&self, name: &str) -> bool {
        self.automatic.contains_key(name)
    }

    /// Proxies that the user gave, for RUN.
    pub fn proxies(&self) -> impl Iterator<Item = (&str, &str)> {
        self.given.iter().filter(|(name, _)| is_proxy(name)).map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Given arguments that no ARG declares.
    pub fn unused<'a>(&'a self, declared: &'a [String]) -> impl Iterator<Item = &'a str> {
        self.given.keys().map(String::as_str).filter(|name| {
            !is_proxy(name)
                && !name.starts_with("BUILDKIT_")
                && *name != "SOURCE_DATE_EPOCH"
                && !declared.iter().any(|each| each == name)
        })
    }

    /// The time that all times of the image are set to, in seconds since 1970.
    #[must_use]
    pub fn source_date_epoch(&self) -> Option<i64> {
        self.given("SOURCE_DATE_EPOCH")?.parse().ok()
    }
}

/// The ARGs before the first FROM.
#[derive(Debug, Clone, Default)]
pub struct Globals {
    values: BTreeMap<String, Option<String>>,
}

impl Globals {
    /// Declares one; its default is expanded already.
    pub fn declare(&mut self, args: &BuildArgs, name: &str, default: Option<String>) {
        let value = args.given(name).map(str::to_owned).or(default).or_else(|| args.automatic.get(name).cloned());
        self.values.insert(name.to_owned(), value);
    }

    /// What FROM sees.
    #[must_use]
    pub fn lookup(&self, args: &BuildArgs, name: &str) -> Option<String> {
        match self.values.get(name) {
            Some(value) => value.clone(),
            None => args.automatic.get(name).cloned(),
        }
    }
}

/// The ARGs of one stage, in the order of their declaration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    declared: Vec<(String, Option<String>)>,
}

impl Scope {
    /// Declares one; its default is expanded already.
    pub fn declare(&mut self, args: &BuildArgs, globals: &Globals, name: &str, default: Option<String>) {
        let value = match (args.given(name), default) {
            (Some(given), _) => Some(given.to_owned()),
            (None, Some(default)) => Some(default),
            (None, None) => globals.lookup(args, name),
        };
        self.declared.retain(|(each, _)| each != name);
        self.declared.push((name.to_owned(), value));
    }

    /// The value of a declared argument.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.declared.iter().find(|(each, _)| each == name)?.1.as_deref()
    }

    /// Declared arguments with a value, for RUN.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.declared.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stage_sees_a_global_only_when_it_declares_it() {
        let given = HashMap::from([("A".to_owned(), Some("given".to_owned())), ("N".to_owned(), None)]);
        let host = Platform::host();
        let args = BuildArgs::new(&given, &host, &host, "");
        let mut globals = Globals::default();
        globals.declare(&args, "A", Some("default".into()));
        globals.declare(&args, "B", Some("global".into()));
        assert_eq!(globals.lookup(&args, "A").unwrap(), "given");
        assert_eq!(globals.lookup(&args, "TARGETOS").unwrap(), host.os);
        let mut scope = Scope::default();
        assert_eq!(scope.get("B"), None);
        scope.declare(&args, &globals, "B", None);
        scope.declare(&args, &globals, "A", Some("own".into()));
        scope.declare(&args, &globals, "N", Some("own".into()));
        scope.declare(&args, &globals, "TARGETARCH", None);
        assert_eq!(scope.get("B"), Some("global"));
        assert_eq!(scope.get("A"), Some("given"));
        assert_eq!(scope.get("N"), Some("own"));
        assert_eq!(scope.get("TARGETARCH"), Some(host.architecture.as_str()));
    }
}
