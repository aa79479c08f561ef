//! Options, and what is written with each line because of them.

use regex_lite::Regex;
use sampan_driver_sdk::log::{OptionValue, Source};
use sampan_driver_sdk::options::{size, truth};
use sampan_driver_sdk::tag::{self, Names};

/// When files are rotated, and what becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    pub max_size: Option<u64>,
    pub max_file: u32,
    pub compress: bool,
}

#[derive(Debug)]
pub struct Settings {
    pub rotation: Rotation,
    labels: Chosen,
    environment: Chosen,
    tag: Option<String>,
}

/// Names that are written: those listed, and those that match.
#[derive(Debug, Default)]
struct Chosen {
    names: Vec<String>,
    pattern: Option<Regex>,
}

impl Chosen {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|wanted| wanted == name)
            || self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(name))
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn pattern(name: &str, text: &str) -> Result<Option<Regex>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    Regex::new(text).map(Some).map_err(|error| format!("option {name}: {text:?} is not a regular expression: {error}"))
}

impl Settings {
    pub fn parse(options: &[OptionValue]) -> Result<Self, String> {
        let mut rotation = Rotation { max_size: None, max_file: 1, compress: false };
        let (mut labels, mut environment, mut tag) = (Chosen::default(), Chosen::default(), None);
        for OptionValue { key, value } in options {
            match key.as_str() {
                "max-size" if value == "-1" => rotation.max_size = None,
                "max-size" => match size(key, value)? {
                    0 => return Err("option max-size: 0 is no size; -1 is for no limit".into()),
                    size => rotation.max_size = Some(size),
                },
                "max-file" => {
                    let number = value.parse().ok().filter(|number| (1..=10_000).contains(number));
                    rotation.max_file =
                        number.ok_or_else(|| format!("option max-file: {value:?} is not a number from 1 to 10000"))?;
                }
                "compress" => rotation.compress = truth(key, value)?,
                "labels" => labels.names = list(value),
                "labels-regex" => labels.pattern = pattern(key, value)?,
                "env" => environment.names = list(value),
                "env-regex" => environment.pattern = pattern(key, value)?,
                "tag" => {
                    tag::check(value)?;
                    tag = Some(value.clone()).filter(|value| !value.is_empty());
                }
                other => return Err(format!("unknown option {other}")),
            }
        }
        if rotation.max_size.is_none() && rotation.max_file > 1 {
            return Err("max-file cannot be more than 1 without max-size".into());
        }
        if rotation.compress && (rotation.max_size.is_none() || rotation.max_file < 2) {
            return Err("compress cannot be true when max-file is less than 2 or max-size is not set".into());
        }
        Ok(Self { rotation, labels, environment, tag })
    }

    /// `,"attrs":{…}`, or nothing.
    pub fn attributes(&self, source: &Source) -> String {
        let mut map = serde_json::Map::new();
        for label in source.labels.iter().filter(|label| self.labels.has(&label.key)) {
            map.insert(label.key.clone(), label.value.clone().into());
        }
        for variable in &source.environment {
            if let Some((name, value)) = variable.split_once('=')
                && self.environment.has(name)
            {
                map.insert(name.to_owned(), value.into());
            }
        }
        if let Some(tag) = &self.tag {
            let names = Names { id: &source.container.id, name: &source.container.name, image: &source.image };
            map.insert("tag".into(), tag::fill(tag, names).unwrap_or_default().into());
        }
        if map.is_empty() {
            return String::new();
        }
        let text = serde_json::Value::Object(map).to_string();
        // As Docker's encoder does; none of these stands outside of a text.
        let text = text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
        format!(",\"attrs\":{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_driver_sdk::log::Object;

    fn options(given: &[(&str, &str)]) -> Vec<OptionValue> {
        given.iter().map(|(key, value)| OptionValue { key: (*key).into(), value: (*value).into() }).collect()
    }

    #[test]
    fn mistakes_are_told() {
        for (given, says) in [
            (vec![("max-size", "ten")], "is not a size such as"),
            (vec![("max-size", "0")], "no size"),
            (vec![("max-file", "0")], "is not a number"),
            (vec![("max-file", "3")], "without max-size"),
            (vec![("max-size", "1m"), ("compress", "true")], "less than 2"),
            (vec![("compress", "maybe")], "neither true nor false"),
            (vec![("env-regex", "(")], "is not a regular expression"),
            (vec![("tag", "{{.Colour}}")], "{{.Colour}} is not known; these are: {{.ID}}"),
            (vec![("tag", "{{.ID")], "is not known"),
            (vec![("colour", "red")], "unknown option colour"),
        ] {
            let error = Settings::parse(&options(&given)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let settings =
            Settings::parse(&options(&[("max-size", "10m"), ("max-file", "3"), ("compress", "true")])).unwrap();
        assert_eq!(settings.rotation, Rotation { max_size: Some(10 << 20), max_file: 3, compress: true });
    }

    #[test]
    fn attributes_are_chosen_by_name_and_pattern() {
        let given = options(&[
            ("labels", "tier"),
            ("labels-regex", "^com\\."),
            ("env-regex", "^(OS|LANG)$"),
            ("tag", "{{.Name}}/{{.ID}}<"),
        ]);
        let source = Source {
            container: Object { id: "0123456789abcdef".into(), name: "/web".into() },
            image: "img".into(),
            labels: options(&[("tier", "front"), ("com.x", "1"), ("other", "2")]),
            environment: vec!["OS=linux".into(), "LANGUAGE=de".into(), "ODD".into()],
            options: Vec::new(),
        };
        let settings = Settings::parse(&given).unwrap();
        assert_eq!(
            settings.attributes(&source),
            r#","attrs":{"OS":"linux","com.x":"1","tag":"web/0123456789ab\u003c","tier":"front"}"#
        );
    }
}
