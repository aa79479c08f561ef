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

    /// Proxies that the user gave, for RUN, in both cases: some programs know the one, some the other.
    pub fn proxies(&self) -> impl Iterator<Item = (&str, &str)> {
        PROXIES.iter().filter_map(|name| {
            let value = self.given(name).or_else(|| {
                let (_, value) = self.given.iter().find(|(given, _)| given.eq_ignore_ascii_case(name))?;
                Some(value.as_str())
            })?;
            Some((*name, value))
        })
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

    /// What was declared before the first FROM and has a value.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<String> {
        self.values.get(name)?.clone()
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

/// The ARGs of one stage, in the order of their declaration, those of the stage that it is based on first.
///
/// They and ENV are one set of variables: what stands later in the file wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    declared: Vec<Declared>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Declared {
    name: String,
    value: Option<String>,
    /// An ENV of this name came later.
    covered: bool,
}

impl Scope {
    /// Declares one; its default is expanded already.
    pub fn declare(&mut self, args: &BuildArgs, globals: &Globals, name: &str, default: Option<String>) {
        let value = match (args.given(name), default) {
            (Some(given), _) => Some(given.to_owned()),
            (None, Some(default)) => Some(default),
            (None, None) => globals.lookup(args, name),
        };
        let before = self.declared.iter().position(|each| each.name == name).map(|at| self.declared.remove(at));
        let declared = match (before, value) {
            // Declared again without a value it keeps what it has.
            (Some(before), None) => before,
            (_, value) => Declared { name: name.to_owned(), value, covered: false },
        };
        self.declared.push(declared);
    }

    /// An ENV gives the name another value from here on.
    pub fn cover(&mut self, name: &str) {
        for each in self.declared.iter_mut().filter(|each| each.name == name) {
            each.covered = true;
        }
    }

    /// The value of a declared argument, unless an ENV has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.declared.iter().find(|each| each.name == name && !each.covered)?.value.as_deref()
    }

    /// Declared arguments with a value, for RUN.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        let seen = self.declared.iter().filter(|each| !each.covered);
        seen.filter_map(|each| Some((each.name.as_str(), each.value.as_deref()?)))
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
        // Again, without a value.
        scope.declare(&args, &globals, "N", None);
        assert_eq!(scope.get("N"), Some("own"));
        scope.cover("N");
        assert_eq!(scope.get("N"), None);
        scope.declare(&args, &globals, "N", None);
        assert_eq!(scope.get("N"), None);
        scope.declare(&args, &globals, "N", Some("later".into()));
        assert_eq!(scope.get("N"), Some("later"));
    }

    #[test]
    fn a_proxy_is_given_in_both_cases() {
        let given = [("HTTP_PROXY", "a"), ("no_proxy", "b"), ("NO_PROXY", "c"), ("X", "d")];
        let given = given.map(|(name, value)| (name.to_owned(), Some(value.to_owned()))).into();
        let host = Platform::host();
        let args = BuildArgs::new(&given, &host, &host, "");
        let found: Vec<_> = args.proxies().collect();
        assert_eq!(found, [("HTTP_PROXY", "a"), ("http_proxy", "a"), ("NO_PROXY", "c"), ("no_proxy", "b")]);
    }
}
