//! Options, and what is written with each line because of them.

use sampan_driver_sdk::log::{OptionValue, Source};
use sampan_driver_sdk::options::{size, truth};

pub struct Settings {
    pub max_size: Option<u64>,
    pub max_file: u32,
    pub compress: bool,
    labels: Vec<String>,
    environment: Vec<String>,
    tag: Option<String>,
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

impl Settings {
    pub fn parse(options: &[OptionValue]) -> Result<Self, String> {
        let mut settings = Self { max_size: None, max_file: 1, compress: false, labels: Vec::new(), environment: Vec::new(), tag: None };
        for OptionValue { key, value } in options {
            match key.as_str() {
                "max-size" if value == "-1" => settings.max_size = None,
                "max-size" => settings.max_size = Some(size(key, value)?.max(1)),
                "max-file" => {
                    let number = value.parse().ok().filter(|number| (1..=10_000).contains(number));
                    settings.max_file = number.ok_or_else(|| format!("option max-file: {value:?} is not a number from 1 on"))?;
                }
                "compress" => settings.compress = truth(key, value)?,
                "labels" => settings.labels = list(value),
                "env" => settings.environment = list(value),
                "tag" => settings.tag = Some(value.clone()),
                "labels-regex" | "env-regex" => return Err(format!("option {key} is not supported; name them in {}", key.trim_end_matches("-regex"))),
                other => return Err(format!("unknown option {other}")),
            }
        }
        if settings.max_size.is_none() && settings.max_file > 1 {
            return Err("max-file cannot be more than 1 without max-size".into());
        }
        if settings.compress && settings.max_size.is_none() {
            return Err("compress cannot be true without max-size".into());
        }
        Ok(settings)
    }

    /// `,"attrs":{…}`, or nothing.
    pub fn attributes(&self, source: &Source) -> String {
        let mut map = serde_json::Map::new();
        for label in source.labels.iter().filter(|label| self.labels.contains(&label.key)) {
            map.insert(label.key.clone(), label.value.clone().into());
        }
        for variable in &source.environment {
            if let Some((name, value)) = variable.split_once('=')
                && self.environment.iter().any(|wanted| wanted == name)
            {
                map.insert(name.to_owned(), value.into());
            }
        }
        if let Some(tag) = &self.tag {
            let id = &source.container.id;
            let text = tag
                .replace("{{.ID}}", id.get(..12).unwrap_or(id))
                .replace("{{.FullID}}", id)
                .replace("{{.Name}}", source.container.name.trim_start_matches('/'))
                .replace("{{.ImageName}}", &source.image);
            map.insert("tag".into(), text.into());
        }
        if map.is_empty() { String::new() } else { format!(",\"attrs\":{}", serde_json::Value::Object(map)) }
    }
}
