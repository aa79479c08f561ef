//! Go's `text/template`, as far as `--format` is used: fields, pipelines, functions, `if`, `range`, `with`, variables.
//!
//! Values are JSON. A field that no such object has is an error; one that is left out when empty is not.

mod evaluate;
mod fields;
mod functions;
mod lexer;
mod parser;

use serde_json::Value;
use std::collections::HashMap;

use evaluate::Scope;
use lexer::split;
use parser::block;

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Show(Pipeline),
    If(Vec<(Option<Pipeline>, Vec<Node>)>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range { key: Option<String>, item: Option<String>, over: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
    Set(String, Pipeline),
}

type Pipeline = Vec<Command>;
type Command = Vec<Operand>;

#[derive(Debug, Clone)]
enum Operand {
    /// `.`, `.A.B`, `$.A`, `$x.A`: the variable (`None` for the dot) and the fields.
    Path(Option<String>, Vec<String>),
    Literal(Value),
    Function(String),
    Group(Pipeline, Vec<String>),
}

/// Nesting that a template may have; deeper ones are not written by people.
const DEPTH: usize = 50;

impl Template {
    /// Parses a template; the error says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = split(text)?.into_iter().peekable();
        let (nodes, ended) = block(&mut pieces, 0)?;
        match ended {
            None => Ok(Self { nodes }),
            Some(word) => Err(format!("template parsing error: unexpected {{{{{word}}}}}")),
        }
    }

    /// Fills the template from a value.
    pub fn render(&self, root: &Value) -> Result<String, String> {
        let mut scope = Scope { root, variables: vec![HashMap::new()] };
        let mut out = String::new();
        scope.nodes(&self.nodes, root, &mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn filled(template: &str) -> String {
        let value = json!({
            "Id": "abc", "State": {"Running": true, "Pid": 7, "Health": null},
            "Ports": {"80/tcp": [{"HostPort": "8080"}], "90/udp": null},
            "Args": ["-c", "echo"], "Empty": [], "Config": {"Labels": {"a": "b"}, "Entrypoint": null},
        });
        Template::parse(template).unwrap().render(&value).unwrap()
    }

    #[test]
    fn what_people_write_renders_as_in_go() {
        for (template, expected) in [
            ("{{.Id}}:{{.State.Pid}}", "abc:7"),
            ("{{.ID}}", "abc"),
            ("{{json .Args}}", r#"["-c","echo"]"#),
            ("{{.Args}}", "[-c echo]"),
            ("{{.Config.Labels.none}}", "<no value>"),
            ("{{index .Config.Labels \"none\"}}|", "|"),
            ("{{.Config.Entrypoint}}", "[]"),
            ("{{.State.Health}}{{if .State.Health}}x{{end}}", "<nil>"),
            ("{{json .State.Health}}", "null"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if .State.Health}}{{.State.Health.Status}}{{else if .Empty}}e{{else}}none{{end}}", "none"),
            ("{{range .Args}}<{{.}}>{{end}}", "<-c><echo>"),
            (
                "{{range $p, $conf := .Ports}}{{$p}}={{if $conf}}{{(index $conf 0).HostPort}}{{end}};{{end}}",
                "80/tcp=8080;90/udp=;",
            ),
            (r#"{{(index (index .Ports "80/tcp") 0).HostPort}}"#, "8080"),
            (r#"{{join .Args " "}}"#, "-c echo"),
            ("{{.Id | upper | printf \"%-5s|\"}}", "ABC  |"),
            ("{{range .Empty}}x{{else}}nothing{{end}}", "nothing"),
            ("{{with .State}}{{.Pid}}{{$.Id}}{{end}}", "7abc"),
            ("{{eq .Id \"abc\"}} {{len .Args}} {{not .Empty}}", "true 2 true"),
            ("a {{- .Id -}} b", "aabcb"),
            ("{{$x := .Id}}{{$x}}", "abc"),
            ("{{range .Args}}{{println .}}{{end}}", "-c\necho\n"),
        ] {
            assert_eq!(filled(template), expected, "{template}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (template, part) in [
            ("{{.Id", "unclosed action"),
            ("{{frob .Id}}", "function \"frob\" not defined"),
            ("{{if .Id}}x", "no {{end}}"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{}}", "missing value"),
            ("{{(.Id}}", "unclosed left paren"),
        ] {
            let error = Template::parse(template).unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        }
    }

    #[test]
    fn a_field_that_is_not_there_is_a_mistake() {
        let error = Template::parse("{{.State.Foo}}").unwrap().render(&json!({"State": {}})).unwrap_err();
        assert!(error.contains("map has no entry for key \"Foo\""), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[{}.$|()\"a-z :=0-9-]{0,60}") {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.render(&json!({"a": [1, {"b": "c"}]}));
            }
        }
    }
}
