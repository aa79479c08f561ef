//! Projects of random keys in random forms, laid over each other, extended, included, with and without variables.
//!
//! What values look like says `grammar.rules`: `RULE: TEXT` is one way to write RULE, in which `<RULE>` stands for one of
//! its ways, `<RULE*>` for up to three of them, `<RULE+>` for one to three, `<RULE&>` for some of them, each once.
//! What is in the tables of cases and is no difference is a way to write its key, too.

use std::collections::{BTreeMap, BTreeSet};

use super::Case;

/// Numbers that follow from a seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn percent(&mut self, part: usize) -> bool {
        self.below(100) < part
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// The ways to write each rule.
#[derive(Default)]
pub struct Grammar(BTreeMap<String, Vec<String>>);

impl Grammar {
    pub fn parse(text: &str) -> Self {
        let mut grammar = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((rule, way)) = line.split_once(": ") {
                grammar.0.entry(rule.to_owned()).or_default().push(way.replace("\\n", "\n"));
            }
        }
        grammar
    }

    /// A key of services as it is written somewhere.
    pub fn add(&mut self, keys: &str) {
        let Some((key, value)) = keys.split_once(": ") else { return };
        // More digits than the numbers of either have.
        if value.contains("12345678901234567890") {
            return;
        }
        // A text that is a list of it, and the list, are told apart where both are merged.
        if value.contains("ignore: b") || value.contains("[7, 7]") {
            return;
        }
        // What takes over the rest of the service says nothing about one key.
        const ALONE: [&str; 10] = [
            "image",
            "build",
            "provider",
            "extends",
            "models",
            "network_mode",
            "use_api_socket",
            "extra_hosts",
            "gpus",
            "x-a",
        ];
        if !key.contains(['{', '"', '<']) && !ALONE.contains(&key) {
            self.0.entry(format!(".{key}")).or_default().push(value.to_owned());
        }
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().filter_map(|rule| rule.strip_prefix('.')).collect()
    }

    pub fn write(&self, dice: &mut Dice, rule: &str) -> String {
        let ways = self.0.get(rule).unwrap_or_else(|| panic!("no rule {rule}"));
        let way = dice.one(ways);
        self.expand(dice, way)
    }

    fn expand(&self, dice: &mut Dice, way: &str) -> String {
        let mut out = String::new();
        let mut rest = way;
        while let Some((before, tail)) = rest.split_once('<') {
            out.push_str(before);
            let Some((name, after)) = tail.split_once('>').filter(|(name, _)| self.names(name)) else {
                out.push('<');
                rest = tail;
                continue;
            };
            let rule = name.trim_end_matches(['*', '+', '&']);
            let parts: Vec<String> = match name.get(rule.len()..).unwrap_or_default() {
                "" => vec![self.write(dice, rule)],
                "&" => {
                    let mut ways: Vec<&String> = self.0[rule].iter().filter(|_| dice.percent(35)).collect();
                    let mut seen = BTreeSet::new();
                    ways.retain(|way| way.split_once(": ").is_none_or(|(key, _)| seen.insert(key)));
                    ways.into_iter().map(|way| self.expand(dice, way)).collect()
                }
                times => (0..dice.below(3) + usize::from(times == "+")).map(|_| self.write(dice, rule)).collect(),
            };
            out.push_str(&parts.join(", "));
            rest = after;
        }
        out + rest
    }

    fn names(&self, name: &str) -> bool {
        self.0.contains_key(name.trim_end_matches(['*', '+', '&']))
    }
}

/// Mappings that may be lists of pairs, and lists: a key of a mapping finds nothing in a list that it is laid over.
const PAIRS: [&str; 10] = [
    "labels",
    "environment",
    "annotations",
    "sysctls",
    "args",
    "additional_contexts",
    "extra_hosts",
    "pre_start",
    "post_start",
    "pre_stop",
];

/// A tag at one of the values of a text.
fn tagged(dice: &mut Dice, text: &str) -> String {
    let places: Vec<usize> = places(text).into_iter().chain([0]).collect();
    let at = *dice.one(&places);
    let at = if PAIRS.iter().any(|key| text[..at].contains(key)) { 0 } else { at };
    let tag = if dice.percent(60) { "!reset " } else { "!override " };
    format!("{}{tag}{}", &text[..at], &text[at..])
}

/// Where the values of mappings and the items of lists start, outside of quotes.
fn places(text: &str) -> Vec<usize> {
    let mut quoted = false;
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        quoted ^= *byte == b'"';
        if !quoted && (text[at..].starts_with(": ") && bytes.get(at + 2).is_some_and(|next| !b"},]".contains(next))) {
            found.push(at + 2);
        }
        if !quoted && *byte == b'[' && bytes.get(at + 1).is_some_and(|next| !b"]{[".contains(next)) {
            found.push(at + 1);
        }
    }
    found
}

/// A variable in the place of a scalar.
fn with_variable(dice: &mut Dice, text: &str) -> String {
    let scalars: Vec<(usize, usize)> = places(text)
        .into_iter()
        .chain([0])
        .filter_map(|start| {
            let rest = &text[start..];
            let len = match rest.strip_prefix('"') {
                Some(quoted) => quoted.find('"')? + 2,
                None => rest.find([',', '}', ']', ' ', '{', '[', '\n']).unwrap_or(rest.len()),
            };
            let word = rest.get(..len)?;
            (len > 0 && !word.contains(['$', '\\', '\'', '&', '*', '!', '}'])).then_some((start, start + len))
        })
        .collect();
    if scalars.is_empty() || text == "all" {
        return text.to_owned();
    }
    let (start, end) = *dice.one(&scalars);
    let word = text[start..end].trim_matches('"');
    let variable = match dice.below(6) {
        0 => format!("${{NOPE:-{word}}}"),
        1 => format!("${{EMPTY:-{word}}}"),
        2 => format!("${{NOPE-{word}}}"),
        3 => format!("${{SET:+{word}}}"),
        4 => format!("${{EMPTY+{word}}}"),
        _ => format!("${{NOPE:-${{EMPTY:-{word}}}}}"),
    };
    format!("{}\"{variable}\"{}", &text[..start], &text[end..])
}

type Layer = Vec<(String, String)>;

fn value(dice: &mut Dice, grammar: &Grammar, key: &str, over: bool) -> String {
    let mut text = grammar.write(dice, &format!(".{key}"));
    if over && dice.percent(15) {
        text = if PAIRS.contains(&key) { format!("!override {text}") } else { tagged(dice, &text) };
    }
    while dice.percent(15) {
        text = with_variable(dice, &text);
    }
    text
}

/// `plain` layers after the first have no tags.
fn layers(dice: &mut Dice, grammar: &Grammar, count: usize, plain: usize) -> Vec<Layer> {
    let keys = grammar.keys();
    let mut chosen: Vec<&str> = Vec::new();
    let mut all = Vec::new();
    for number in 0..count {
        let fresh = if number == 0 { 1 + dice.below(3) } else { usize::from(dice.percent(30)) };
        for _ in 0..fresh {
            let key = *dice.one(&keys);
            // Containers before the service have its variables here, and the names of its files in the reference.
            let other = match key {
                "env_file" => "pre_start",
                "pre_start" => "env_file",
                _ => key,
            };
            if !chosen.contains(&key) && !chosen.contains(&other) {
                chosen.push(key);
            }
        }
        let here = chosen.iter().filter(|_| number == 0 || dice.percent(75)).copied().collect::<Vec<_>>();
        all.push(here.into_iter().map(|key| (key.to_owned(), value(dice, grammar, key, number > plain))).collect());
    }
    all
}

fn mapping(layer: &Layer) -> String {
    layer.iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join(", ")
}

/// The resources that values name, in one of their forms.
fn resources(dice: &mut Dice, grammar: &Grammar, over: bool) -> String {
    let mut out = String::new();
    for (section, names) in [
        ("networks", vec!["front", "back"]),
        ("volumes", vec!["data", "v"]),
        ("secrets", vec!["s", "s2"]),
        ("configs", vec!["c", "c2"]),
    ] {
        let mut entries = Vec::new();
        for name in names {
            if over && dice.percent(70) {
                continue;
            }
            let mut text = grammar.write(dice, section);
            if over && dice.percent(15) && text != "{}" {
                let whole = section == "secrets" || section == "configs";
                text = if whole { format!("!override {text}") } else { tagged(dice, &text) };
            }
            if dice.percent(10) {
                text = with_variable(dice, &text);
            }
            entries.push(format!("{name}: {text}"));
        }
        if !entries.is_empty() {
            out.push_str(&format!("{section}: {{{}}}\n", entries.join(", ")));
        }
    }
    out
}

/// One project of `seed`.
pub fn project(grammar: &Grammar, seed: u64) -> Case {
    let dice = &mut Dice::new(seed);
    dice.below(2);
    let mut case = Case::named(&format!("generated {seed}"), false);
    case.env = "NUM=7 PATHV=./pp B=true PORT=8080 LIST=a,b".to_owned();
    let (anchored, extends, included, overrides) =
        (dice.percent(20), dice.below(5).saturating_sub(2), dice.percent(20), dice.below(4).saturating_sub(1));
    let count = 1 + usize::from(anchored) + extends + usize::from(included && dice.percent(50)) + overrides;
    let mut layers = layers(dice, grammar, count, usize::from(anchored)).into_iter();
    let mut next = || layers.next().unwrap_or_default();
    let folder = if included { "sub/" } else { "" };
    let root = if included { "sub/inc.yaml" } else { "compose.yaml" };
    let mut head = String::new();
    let mut services: Vec<String> = Vec::new();
    let mut first = mapping(&next());
    if anchored {
        head.push_str(&format!("x-base: &base {{{first}}}\n"));
        let own = mapping(&next());
        first = if own.is_empty() { "<<: *base".to_owned() } else { format!("<<: *base, {own}") };
    }
    let mut current = match first.as_str() {
        "" => "image: x".to_owned(),
        keys if keys.contains("image: ") => first.clone(),
        _ => format!("image: x, {first}"),
    };
    let mut others: Vec<(String, String)> = Vec::new();
    for step in 0..extends {
        let own = mapping(&next());
        let own = if own.is_empty() { own } else { format!(", {own}") };
        let name = format!("base{step}");
        if dice.percent(50) {
            let file = format!("{folder}ext{step}/f.yaml");
            let mut text = format!("{head}services: {{{name}: {{{current}}}");
            for service in services.drain(..) {
                text.push_str(&format!(", {service}"));
            }
            text.push_str("}\n");
            head.clear();
            text.push_str(&resources(dice, grammar, true));
            others.push((file, text));
            // Files before it lie beside it.
            current = format!("extends: {{file: ext{step}/f.yaml, service: {name}}}{own}");
            for (file, _) in others.iter_mut().rev().skip(1) {
                *file = format!("{folder}ext{step}/{}", &file[folder.len()..]);
            }
        } else {
            services.push(format!("{name}: {{{current}}}"));
            let target = if dice.percent(50) { name.clone() } else { format!("{{service: {name}}}") };
            current = format!("extends: {target}{own}");
        }
    }
    if dice.percent(15) {
        current.push_str(", profiles: [p1]");
        if dice.percent(70) {
            case.args.push_str("--profile p1 ");
        }
    }
    let mut main = head;
    if !included {
        main.insert_str(0, "name: p\n");
    }
    main.push_str(&format!("services:\n  a: {{{current}}}\n"));
    main.push_str("  other: {image: y}\n");
    for service in services {
        main.push_str(&format!("  {service}\n"));
    }
    main.push_str(&resources(dice, grammar, false));
    if included {
        let mut paths = "sub/inc.yaml".to_owned();
        if dice.percent(50) {
            paths = "[sub/inc.yaml, sub/over.yaml]".to_owned();
            others.push(("sub/over.yaml".to_owned(), format!("services: {{a: {{{}}}}}\n", mapping(&next()))));
        }
        let extra = grammar.write(dice, "include");
        let extra = if extra == "-" { String::new() } else { format!(", {extra}") };
        let include = format!("name: p\ninclude: [{{path: {paths}{extra}}}]\nservices: {{top: {{image: z}}}}\n");
        case.files.push(("compose.yaml".to_owned(), include));
    }
    case.files.push((root.to_owned(), main));
    case.files.extend(others);
    if overrides > 0 {
        case.args.push_str("-f compose.yaml");
    }
    for number in 0..overrides {
        let file = format!("over{number}.yaml");
        case.args.push_str(&format!(" -f {file}"));
        let mut text = format!("services: {{a: {{{}}}}}\n", mapping(&next()));
        text.push_str(&resources(dice, grammar, true));
        case.files.push((file, text));
    }
    for file in ["e1.env", "e2.env", "l.env"] {
        let lines = (0..dice.below(4)).map(|_| grammar.write(dice, "dotenv") + "\n").collect::<String>();
        for folder in ["", "sub/", "ext0/", "ext1/", "sub/ext0/", "sub/ext1/"] {
            let used = folder.is_empty() || case.files.iter().any(|(name, _)| name.starts_with(folder));
            if used && case.files.iter().any(|(_, text)| text.contains(file)) {
                case.files.push((format!("{folder}{file}"), lines.clone()));
            }
        }
    }
    if dice.percent(15) {
        case.flags = grammar.write(dice, "flags");
    }
    // What the containers before a service take over from it is not told of included ones that are not worked out.
    if case.flags.contains("--no-interpolate") && case.files.iter().any(|(_, text)| text.contains("pre_start")) {
        case.flags.clear();
    }
    case.args = case.args.trim().to_owned();
    case
}

/// The case in the form of the tables.
pub fn text(case: &Case) -> String {
    let mut out = format!("## {}\n", case.name);
    for (key, value) in [("args", &case.args), ("flags", &case.flags), ("env", &case.env)] {
        if !value.is_empty() {
            out.push_str(&format!("# {key}: {value}\n"));
        }
    }
    for (name, content) in &case.files {
        if name != "compose.yaml" {
            out.push_str(&format!("# file: {name}\n"));
        }
        out.push_str(content);
    }
    out
}
