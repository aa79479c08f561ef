//! Language models, services that something else provides, and counted resources.

use std::collections::BTreeMap;

use super::{Extensions, model};

model! {
    /// A language model that services use.
    pub struct Model {
        /// The engine's name: `PROJECT_KEY` unless the file says otherwise.
        pub name: String,
        /// Where the model is pulled from.
        pub model: String,
        /// In tokens.
        pub context_size: Option<u32>,
        pub runtime_flags: Vec<String>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    /// How a service is told of a model. Empty: the names that follow from the model's.
    pub struct ServiceModel {
        /// The variable that holds the address.
        pub endpoint_var: String,
        /// The variable that holds the model's name.
        pub model_var: String,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    /// A program outside the engine that runs a service.
    pub struct Provider {
        #[serde(rename = "type")]
        pub kind: String,
        /// Each option with its values, as texts.
        pub options: BTreeMap<String, Vec<String>>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    pub struct GenericResource {
        pub discrete_resource_spec: Option<DiscreteResource>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    pub struct DiscreteResource {
        pub kind: String,
        pub value: i64,
        #[serde(flatten)]
        pub extensions: Extensions,
    }
}
