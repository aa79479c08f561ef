//! The `tag` option of log drivers: a template such as `{{.Name}}/{{.ID}}`.

/// What a template's parts stand for.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its name, with or without a slash.
    pub name: &'a str,
    /// Its image.
    pub image: &'a str,
}

const KNOWN: [&str; 5] = ["ID", "FullID", "Name", "ImageName", "DaemonName"];

/// Fills a template in; `Err` is a text for the user.
pub fn fill(template: &str, names: Names<'_>) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once("{{") {
        text.push_str(before);
        let Some((name, after)) = behind.split_once("}}") else { return Err(unknown(&format!("{{{{{behind}"))) };
        text.push_str(match name.trim() {
            ".ID" => names.id.get(..12).unwrap_or(names.id),
            ".FullID" => names.id,
            ".Name" => names.name.trim_start_matches('/'),
            ".ImageName" => names.image,
            ".DaemonName" => "sampan",
            _ => return Err(unknown(&format!("{{{{{name}}}}}"))),
        });
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

/// Whether a template can be filled in.
pub fn check(template: &str) -> Result<(), String> {
    fill(template, Names { id: "", name: "", image: "" }).map(drop)
}

fn unknown(part: &str) -> String {
    format!("option tag: {part} is not known; these are: {}", KNOWN.map(|name| format!("{{{{.{name}}}}}")).join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in_or_refused() {
        let names = Names { id: "0123456789abcdef", name: "/web", image: "img:1" };
        assert_eq!(fill("a {{.Name}}/{{ .ID }}@{{.ImageName}}", names).unwrap(), "a web/0123456789ab@img:1");
        assert_eq!(fill("", names).unwrap(), "");
        assert!(check("{{.Colour}}").unwrap_err().contains("{{.Colour}} is not known; these are: {{.ID}}"));
        assert!(check("{{.ID").unwrap_err().contains("is not known"));
    }
}
