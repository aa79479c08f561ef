//! Build graphs. The engine builds Dockerfiles alone; a graph stands for nothing but an image that it has built, so that a
//! client can name it as a context of another build.

use prost::{Message, Oneof};
use sampan_image::Digest;
use std::collections::HashMap;

use crate::session::Nothing;

/// A graph: marshalled operations, the last of which points at the result.
#[derive(Clone, PartialEq, Message)]
pub struct Definition {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub def: Vec<Vec<u8>>,
    /// Of each operation, by its digest; clients take a graph without for none. What is in it does not matter here.
    #[prost(map = "string, message", tag = "2")]
    pub metadata: HashMap<String, Nothing>,
}

#[derive(Clone, PartialEq, Message)]
struct Op {
    #[prost(message, repeated, tag = "1")]
    inputs: Vec<Input>,
    #[prost(oneof = "Kind", tags = "3")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(message, tag = "3")]
    Source(SourceOp),
}

#[derive(Clone, PartialEq, Message)]
struct Input {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(int64, tag = "2")]
    index: i64,
}

#[derive(Clone, PartialEq, Message)]
struct SourceOp {
    #[prost(string, tag = "1")]
    identifier: String,
}

/// Images of the engine in graphs. A client hands them back as they are.
const SCHEME: &str = "sampan-image://";
/// Operations of a graph that are looked at.
const MAX_OPS: usize = 64;

impl Definition {
    /// The graph that stands for an image.
    #[must_use]
    pub fn of_image(id: &str) -> Self {
        let kind = Some(Kind::Source(SourceOp { identifier: format!("{SCHEME}{id}") }));
        let source = Op { inputs: Vec::new(), kind }.encode_to_vec();
        let digest = |bytes: &[u8]| Digest::of(bytes).to_string();
        let last = Op { inputs: vec![Input { digest: digest(&source), index: 0 }], kind: None }.encode_to_vec();
        let metadata = [digest(&source), digest(&last)].map(|digest| (digest, Nothing {})).into();
        Self { def: vec![source, last], metadata }
    }

    /// The image that a graph stands for; `None` for any other graph.
    #[must_use]
    pub fn image(&self) -> Option<String> {
        if self.def.len() > MAX_OPS {
            return None;
        }
        let mut found = None;
        for bytes in &self.def {
            match Op::decode(&bytes[..]).ok()? {
                Op { inputs, kind: Some(Kind::Source(source)) } if inputs.is_empty() && found.is_none() => {
                    found = Some(source.identifier.strip_prefix(SCHEME)?.to_owned());
                }
                Op { inputs, kind: None } if inputs.len() == 1 => {}
                _ => return None,
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph_of(def: Vec<Vec<u8>>) -> Definition {
        Definition { def, ..Definition::default() }
    }

    #[test]
    fn images_are_found_in_their_graphs_and_in_no_other() {
        let graph = Definition::of_image("sha256:abc");
        assert_eq!(graph.image().as_deref(), Some("sha256:abc"));
        let foreign = Op { inputs: Vec::new(), kind: Some(Kind::Source(SourceOp { identifier: "git://x".into() })) };
        assert_eq!(graph_of(vec![foreign.encode_to_vec()]).image(), None);
        assert_eq!(graph_of(vec![vec![0xff]]).image(), None);
        assert_eq!(graph_of(vec![graph.def[0].clone(), graph.def[0].clone()]).image(), None);
        assert_eq!(Definition::default().image(), None);
    }
}
