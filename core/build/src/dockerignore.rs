//! `.dockerignore`: which files of a context do not count. The rules are those of Docker's pattern matcher.

use crate::pattern::{BadPattern, Pattern, clean};

/// Parsed rules, in order; the last one that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// `!`: keep what matches.
    keep: bool,
    pattern: Pattern,
    /// The directories above what the rule may match, as literal text: for pruning.
    text: String,
}

impl Ignore {
    /// Reads a file: one pattern a line, `#` comments, `!` exceptions.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self::from_patterns(text.lines().filter(|line| !line.starts_with('#')))
    }

    /// Rules from a list of patterns, such as `--exclude` gives.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, BadPattern> {
        let mut rules = Vec::new();
        for line in patterns {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let (keep, body) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
            if body.is_empty() {
                return Err(BadPattern(line.to_owned()));
            }
            let cleaned = clean(body);
            let cleaned = if cleaned.len() > 1 { cleaned.trim_start_matches('/') } else { cleaned.as_str() };
            if cleaned.is_empty() {
                continue;
            }
            rules.push(Rule { keep, pattern: Pattern::deep(cleaned)?, text: cleaned.to_owned() });
        }
        Ok(Self { rules })
    }

    /// The rules as patterns, in order.
    #[must_use]
    pub fn patterns(&self) -> Vec<String> {
        self.rules.iter().map(|rule| format!("{}{}", if rule.keep { "!" } else { "" }, rule.text)).collect()
    }

    /// Whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a path below the context (slashes, no leading one) does not count.
    /// A rule that matches a directory also covers what is below it.
    #[must_use]
    pub fn ignores(&self, path: &str) -> bool {
        let mut ignored = false;
        for rule in &self.rules {
            // A rule that would change nothing need not be tried.
            if rule.keep == ignored && rule.covers(path) {
                ignored = !rule.keep;
            }
        }
        ignored
    }

    /// Whether nothing below an ignored directory can be kept by an exception, so that it need not be entered.
    #[must_use]
    pub fn prunes(&self, directory: &str) -> bool {
        self.ignores(directory)
            && !self.rules.iter().any(|rule| {
                rule.keep && (rule.text.starts_with(&format!("{directory}/")) || !Pattern::is_literal(&rule.text))
            })
    }
}

impl Rule {
    fn covers(&self, path: &str) -> bool {
        if self.pattern.matches(path) {
            return true;
        }
        path.match_indices('/').any(|(at, _)| self.pattern.matches(&path[..at]))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn ignored(rules: &str, path: &str) -> bool {
        Ignore::parse(rules).unwrap().ignores(path)
    }

    #[test]
    fn the_rules_of_the_reference() {
        for (rules, path, wanted) in [
            ("*/temp*", "somedir/temporary.txt", true),
            ("*/temp*", "somedir/temp", true),
            ("*/temp*", "temp", false),
            ("*/*/temp*", "a/b/temporary.txt", true),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("**/*.go", "a/b/c.go", true),
            ("**/*.go", "c.go", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README.md", "x.md", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", false),
            ("/foo/bar", "foo/bar", true),
            ("foo/bar/", "foo/bar", true),
            ("./foo", "foo/x/y", true),
            ("foo", "bar/foo", false),
            ("# foo\n", "foo", false),
            ("  foo  ", "foo", true),
            ("foo\n!foo/keep", "foo/keep", false),
            ("foo\n!foo/keep", "foo/other", true),
            ("*\n!src\n", "src/a/b", false),
            ("*\n!src\n", "x", true),
            ("*\n!src/**\nsrc/*.o", "src/a.o", true),
            ("**", "a/b/c", true),
            ("a\r\nb\r\n", "b", true),
            ("!", "", false),
        ]
        .into_iter()
        .filter(|(rules, ..)| *rules != "!")
        {
            assert_eq!(ignored(rules, path), wanted, "{rules:?} {path}");
        }
        assert!(Ignore::parse("!").is_err());
        assert!(Ignore::parse("[a").is_err());
    }

    #[test]
    fn a_directory_is_entered_where_an_exception_may_be() {
        let rules = Ignore::parse("node_modules\nout\n!out/keep").unwrap();
        assert!(rules.prunes("node_modules"));
        assert!(!rules.prunes("out"));
        assert!(!rules.prunes("src"));
        assert!(!Ignore::parse("a\n!**/x").unwrap().prunes("a"));
    }

    proptest! {
        #[test]
        fn a_pruned_directory_has_nothing_that_counts(
            rules in proptest::collection::vec("!?(a|b|\\*|\\*\\*|a/b|b/\\*|a/\\*\\*/b)", 0..5),
            directory in "(a|b)", below in "[ab](/[ab]){0,3}",
        ) {
            let rules = Ignore::parse(&rules.join("\n")).unwrap();
            if rules.prunes(&directory) {
                let path = format!("{directory}/{below}");
                prop_assert!(rules.ignores(&path));
            }
        }
    }
}
