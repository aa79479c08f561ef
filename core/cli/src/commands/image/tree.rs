//! `image ls --tree`: images with the platforms that each has.

use serde_json::Value;

use crate::output::{human, ids, table};

const HEADINGS: [&str; 5] = ["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA"];

/// The table of images as the daemon lists them with their manifests.
pub fn render(images: &[Value], whole: bool) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned).to_vec()];
    for image in images {
        let manifests: Vec<&Value> = image["Manifests"].as_array().into_iter().flatten().collect();
        let sum = |key: &str| manifests.iter().filter_map(|each| each["Size"][key].as_u64()).sum::<u64>();
        let in_use = manifests.iter().any(|each| is_used(each));
        let id = image["Descriptor"]["digest"].as_str().or_else(|| image["Id"].as_str()).unwrap_or_default();
        let tags = image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut names: Vec<&str> = tags.filter(|name| !name.starts_with("<none>")).collect();
        if names.is_empty() {
            names.push("<untagged>");
        }
        for name in names {
            lines.push(line(name.to_owned(), id, (sum("Total"), sum("Content")), in_use, whole));
        }
        let platforms: Vec<&Value> =
            manifests.into_iter().filter(|each| each["Kind"].as_str() == Some("image")).collect();
        for (at, manifest) in platforms.iter().enumerate() {
            let branch = if at + 1 == platforms.len() { "└─" } else { "├─" };
            let platform = &manifest["ImageData"]["Platform"];
            let text = |key: &str| platform[key].as_str().filter(|text| !text.is_empty());
            let parts = [text("os"), text("architecture"), text("variant")];
            let shown = parts.into_iter().flatten().collect::<Vec<_>>().join("/");
            let size = |key: &str| manifest["Size"][key].as_u64().unwrap_or(0);
            let id = manifest["ID"].as_str().unwrap_or_default();
            let sizes = (size("Total"), size("Content"));
            lines.push(line(format!("{branch} {shown}"), id, sizes, is_used(manifest), whole));
        }
    }
    table::aligned(lines)
}

fn is_used(manifest: &Value) -> bool {
    manifest["ImageData"]["Containers"].as_array().is_some_and(|containers| !containers.is_empty())
}

fn line(name: String, id: &str, (total, content): (u64, u64), in_use: bool, whole: bool) -> Vec<String> {
    let extra = if in_use { "U" } else { "" };
    vec![name, ids::short(id, whole), human::decimal_size(total), human::decimal_size(content), extra.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn platforms_hang_below_their_image_and_statements_do_not() {
        let of = |id: &str, architecture: &str, kind: &str, containers: &[&str]| {
            json!({
                "ID": id, "Kind": kind, "Available": true, "Size": { "Total": 3_000_000, "Content": 1_000_000 },
                "ImageData": { "Platform": { "os": "linux", "architecture": architecture }, "Containers": containers },
            })
        };
        let images = [
            json!({
                "Id": "sha256:0123456789abcdef", "RepoTags": ["app:1", "app:2"],
                "Descriptor": { "digest": "sha256:fedcba9876543210" },
                "Manifests": [
                    of("sha256:aaaaaaaaaaaaaaaa", "amd64", "image", &["c"]),
                    of("sha256:bbbbbbbbbbbbbbbb", "arm64", "image", &[]),
                    json!({ "ID": "sha256:cccccccccccccccc", "Kind": "attestation", "Size": { "Total": 1, "Content": 1 } }),
                ],
            }),
            json!({ "Id": "sha256:1111111111111111", "RepoTags": [], "Manifests": [of("sha256:2222222222222222", "amd64", "image", &[])] }),
        ];
        let shown: Vec<String> = render(&images, false).lines().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(
            shown,
            [
                "IMAGE            ID             DISK USAGE   CONTENT SIZE   EXTRA",
                "app:1            fedcba987654   6MB          2MB            U",
                "app:2            fedcba987654   6MB          2MB            U",
                "├─ linux/amd64   aaaaaaaaaaaa   3MB          1MB            U",
                "└─ linux/arm64   bbbbbbbbbbbb   3MB          1MB",
                "<untagged>       111111111111   3MB          1MB",
                "└─ linux/amd64   222222222222   3MB          1MB",
            ]
        );
    }
}
