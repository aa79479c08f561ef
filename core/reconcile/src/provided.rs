//! Services and models that programs outside of containers provide. Whoever asks for the stack has run these programs, as
//! whoever that is; the daemon runs none, and gives what they said to the services that need it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sampan_compose::Project;
use sampan_compose::model::ServiceModel;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the programs have said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provided {
    /// By service with a `provider`.
    pub services: BTreeMap<String, ProvidedService>,
    /// By key of the project's `models`.
    pub models: BTreeMap<String, ProvidedModel>,
    /// Services whose programs are asked when this request is done. What needs them is not brought up by it; what stands of
    /// it goes on with what was said before.
    #[serde(skip_serializing)]
    pub pending: BTreeSet<String>,
}

/// A service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProvidedService {
    /// The `provider` that it was run with.
    pub definition: Value,
    /// Variables for the services that depend on it, by their whole names.
    pub env: BTreeMap<String, String>,
}

/// A language model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProvidedModel {
    /// The model as it was configured.
    pub definition: Value,
    /// Where it is reached.
    pub endpoint: String,
}

impl Provided {
    /// Completed by what was said before, where nothing newer was.
    #[must_use]
    pub fn or(mut self, before: &Self) -> Self {
        for (name, service) in &before.services {
            self.services.entry(name.clone()).or_insert_with(|| service.clone());
        }
        for (key, model) in &before.models {
            self.models.entry(key.clone()).or_insert_with(|| model.clone());
        }
        self
    }

    /// The services, and of which type their providers are.
    pub(crate) fn kinds(&self) -> BTreeMap<String, String> {
        let kind = |said: &ProvidedService| said.definition["type"].as_str().unwrap_or_default().to_owned();
        self.services.iter().map(|(name, said)| (name.clone(), kind(said))).collect()
    }

    /// Takes services that are provided out of a project, and gives those that need them, or models, their variables.
    pub(crate) fn apply(&self, project: &mut Project) -> Result<(), String> {
        let providers: Vec<(String, Value)> = project
            .services
            .iter()
            .filter_map(|(name, service)| Some((name.clone(), definition_of(service.provider.as_ref()?))))
            .collect();
        for (name, definition) in providers {
            let kind = project.services.remove(&name).and_then(|service| service.provider).unwrap_or_default().kind;
            let pending = self.pending.contains(&name);
            let said = self.services.get(&name).filter(|said| pending || said.definition == definition);
            for (dependent, service) in &mut project.services {
                if service.depends_on.remove(&name).is_none() {
                    continue;
                }
                let Some(said) = said else {
                    if pending {
                        continue;
                    }
                    return Err(format!(
                        "service {dependent} needs {name}, which the program {kind} provides. `sampan up` runs it, the daemon does not, and it was not run with what the file says now: run `sampan up`"
                    ));
                };
                let env = said.env.iter().map(|(name, value)| (name.clone(), Some(value.clone())));
                service.environment.extend(env);
            }
        }
        for (name, service) in &mut project.services {
            for (key, wanted) in &service.models {
                let model = project.models.get(key).cloned().unwrap_or_default();
                let said = self.models.get(key).filter(|said| said.definition == definition_of(&model));
                let Some(said) = said else {
                    return Err(format!(
                        "service {name} needs the model {key}. `sampan up` has docker-model bring it, the daemon does not, and it was not brought as the file says now: run `sampan up`"
                    ));
                };
                let [endpoint, variable] = variables(key, wanted.as_ref());
                service.environment.insert(endpoint, Some(said.endpoint.clone()));
                service.environment.insert(variable, Some(model.model));
            }
        }
        Ok(())
    }
}

/// How a definition is told apart from another.
fn definition_of(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Names of the variables for a model's address and name.
fn variables(key: &str, wanted: Option<&ServiceModel>) -> [String; 2] {
    let prefix = key.to_uppercase().replace('-', "_");
    let named = |given: Option<&String>, end: &str| match given {
        Some(name) if !name.is_empty() => name.clone(),
        _ => format!("{prefix}_{end}"),
    };
    [named(wanted.map(|wanted| &wanted.endpoint_var), "URL"), named(wanted.map(|wanted| &wanted.model_var), "MODEL")]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sampan_compose::{LoadOptions, MemoryFiles};

    const FILE: &str = "
name: p
services:
  db: {provider: {type: cloud, options: {size: 10}}}
  web: {image: x, depends_on: [db], environment: {DB_URL: mine, OWN: yes}}
  other: {image: x, models: {my-model: {endpoint_var: WHERE}}}
models: {my-model: {model: ai/small}}
";

    fn project(text: &str) -> Project {
        let files = MemoryFiles::default().with("/p/compose.yaml", text);
        let options = LoadOptions { working_dir: "/p".into(), ..LoadOptions::default() };
        sampan_compose::load(&options, &files).unwrap_or_else(|error| panic!("{error}")).project
    }

    fn said(project: &Project) -> Provided {
        let service = ProvidedService {
            definition: definition_of(project.services["db"].provider.as_ref().unwrap()),
            env: [("DB_URL".to_owned(), "cloud://1".to_owned())].into(),
        };
        let model =
            ProvidedModel { definition: definition_of(&project.models["my-model"]), endpoint: "http://m/".into() };
        Provided {
            services: [("db".to_owned(), service)].into(),
            models: [("my-model".to_owned(), model)].into(),
            ..Provided::default()
        }
    }

    #[test]
    fn what_programs_said_reaches_the_services_that_need_it() {
        let mut project = project(FILE);
        said(&project).apply(&mut project).unwrap();
        assert_eq!(project.services.keys().collect::<Vec<_>>(), ["other", "web"]);
        let web = &project.services["web"];
        assert!(web.depends_on.is_empty());
        let value = |service: &str, name: &str| project.services[service].environment[name].clone().unwrap();
        assert_eq!((value("web", "DB_URL"), value("web", "OWN")), ("cloud://1".to_owned(), "yes".to_owned()));
        assert_eq!(
            (value("other", "WHERE"), value("other", "MY_MODEL_MODEL")),
            ("http://m/".to_owned(), "ai/small".to_owned())
        );
    }

    #[test]
    fn what_no_program_was_run_for_is_told() {
        let known = said(&project(FILE));
        for (from, to, part) in
            [("size: 10", "size: 20", "which the program cloud provides"), ("ai/small", "ai/big", "docker-model")]
        {
            let mut edited = project(&FILE.replace(from, to));
            let message = known.apply(&mut edited).unwrap_err();
            assert!(message.contains(part) && message.contains("run `sampan up`"), "{message}");
        }
        let nobody_needs_it = "name: p\nservices: {db: {provider: {type: cloud}}, web: {image: x}}\n";
        let mut project = project(nobody_needs_it);
        Provided::default().apply(&mut project).unwrap();
        assert_eq!(project.services.len(), 1);
    }

    #[test]
    fn what_is_still_to_be_asked_is_no_mistake() {
        let mut fresh = project(FILE);
        let mut asking = Provided { services: BTreeMap::new(), ..said(&fresh) };
        asking.pending.insert("db".to_owned());
        asking.apply(&mut fresh).unwrap();
        assert_eq!(fresh.services["web"].environment["DB_URL"].as_deref(), Some("mine"));
        // What runs keeps what was said, though the file says something else by now.
        let mut edited = project(&FILE.replace("size: 10", "size: 20"));
        asking.or(&said(&project(FILE))).apply(&mut edited).unwrap();
        assert_eq!(edited.services["web"].environment["DB_URL"].as_deref(), Some("cloud://1"));
    }

    #[test]
    fn the_newer_word_counts() {
        let with = |value: &str| {
            let service = ProvidedService { env: [("A".to_owned(), value.to_owned())].into(), ..Default::default() };
            Provided { services: [("db".to_owned(), service)].into(), ..Provided::default() }
        };
        assert_eq!(with("new").or(&with("old")), with("new"));
        assert_eq!(Provided::default().or(&with("old")), with("old"));
    }
}
