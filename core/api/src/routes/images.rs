//! `/images` and `/commit`.

use base64::Engine as _;
use bollard_stubs::models::ContainerConfig;
use http::StatusCode;
use sampan_engine::images::{CommitOptions, ImportOptions, ImportSource};
use sampan_engine::messages::Credentials;
use sampan_engine::{Engine, Error, Result};

use crate::request::Call;
use crate::response::{Answer, empty, json, json_status, json_stream, stream as stream_body};
use crate::routes::archive::receiver;

/// `GET /images/json`
pub async fn list(engine: &Engine, call: &Call) -> Answer {
    let mut filters = call.query.filters()?;
    if let Some(name) = call.query.get("filter") {
        filters.add("reference", name);
    }
    json(&engine.list_images(call.query.flag("all"), filters, call.query.flag("manifests")).await?)
}

/// `GET /images/{name}/json`
pub async fn inspect(engine: &Engine, name: &str, call: &Call) -> Answer {
    match (call.query.flag("manifests"), call.query.get("platform")) {
        (true, None) => json(&engine.inspect_image_tree(name).await?),
        (true, Some(_)) => {
            Err(Error::invalid("conflicting options: manifests and platform options cannot both be set"))
        }
        (false, platform) => json(&engine.inspect_image_for(name, platform).await?),
    }
}

/// `GET /images/{name}/history`
pub async fn history(engine: &Engine, name: &str, call: &Call) -> Answer {
    json(&engine.image_history(name, call.query.get("platform")).await?)
}

/// `POST /images/{name}/tag`
pub async fn tag(engine: &Engine, name: &str, call: &Call) -> Answer {
    engine.tag_image(name, call.query.required("repo")?, call.query.get("tag")).await?;
    empty(StatusCode::CREATED)
}

/// `DELETE /images/{name}`
pub async fn remove(engine: &Engine, name: &str, call: &Call) -> Answer {
    let platforms = call.query.all("platforms");
    json(&engine.remove_image(name, call.query.flag("force"), call.query.flag("noprune"), &platforms).await?)
}

/// `POST /images/create`: a pull with `fromImage`, an import with `fromSrc`.
pub async fn create(engine: &Engine, call: &mut Call) -> Answer {
    if let Some(source) = call.query.get("fromSrc").map(str::to_owned) {
        let options = ImportOptions {
            repo: call.query.get("repo").map(str::to_owned),
            tag: call.query.get("tag").map(str::to_owned),
            message: call.query.get("message").map(str::to_owned),
            changes: call.query.all("changes"),
            platform: call.query.get("platform").map(str::to_owned),
        };
        let source = match source.as_str() {
            "-" => ImportSource::Upload(call.upload()),
            url if url.contains("://") => ImportSource::Url(source),
            // As docker's clients may say it.
            host => ImportSource::Url(format!("http://{host}")),
        };
        return json_stream(receiver(engine.import_image(source, options).await?));
    }
    let name = call.query.required("fromImage")?;
    let auth = registry_auth(call)?;
    let platform = call.query.get("platform");
    json_stream(receiver(engine.pull_named(name, call.query.get("tag"), platform, auth).await?))
}

/// `POST /images/{name}/push`
pub async fn push(engine: &Engine, name: &str, call: &Call) -> Answer {
    let auth = registry_auth(call)?;
    json_stream(receiver(engine.push_image(name, call.query.get("tag"), call.query.get("platform"), auth).await?))
}

/// The `X-Registry-Auth` header: base64url of a JSON document.
pub fn registry_auth(call: &Call) -> Result<Option<Credentials>> {
    let Some(text) = call.header("x-registry-auth").filter(|text| !text.is_empty()) else { return Ok(None) };
    let alphabet = base64::engine::GeneralPurpose::new(
        &base64::alphabet::URL_SAFE,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    // Some clients use the standard alphabet.
    let text = text.replace('+', "-").replace('/', "_");
    // The text is a credential: an error shows none of it.
    let wrong = || Error::invalid("header X-Registry-Auth: not base64url of a JSON document");
    let json = alphabet.decode(text).map_err(|_| wrong())?;
    let auth: Credentials = serde_json::from_slice(&json).map_err(|_| wrong())?;
    Ok((!auth.is_empty()).then_some(auth))
}

/// `POST /images/load`
pub async fn load(engine: &Engine, call: &mut Call) -> Answer {
    let upload = call.upload();
    json_stream(receiver(engine.load_images(upload, call.query.get("platform")).await?))
}

/// `GET /images/get` and `GET /images/{name}/get`
pub async fn save(engine: &Engine, names: Vec<String>, call: &Call) -> Answer {
    if names.is_empty() {
        return Err(Error::invalid("parameter names is missing: name the images to save"));
    }
    stream_body("application/x-tar", receiver(engine.save_images(names, call.query.get("platform")).await?))
}

/// `GET /images/search`
pub async fn search(engine: &Engine, call: &Call) -> Answer {
    let auth = registry_auth(call)?;
    let filters = call.query.filters()?;
    json(&engine.search_images(call.query.required("term")?, call.query.number("limit")?, &filters, auth).await?)
}

/// `GET /distribution/{name}/json`
pub async fn distribution(engine: &Engine, name: &str, call: &Call) -> Answer {
    json(&engine.remote_manifest(name, false, registry_auth(call)?).await?.inspection())
}

/// `GET /sampan/v1/manifests/{name}`: the document itself, too.
pub async fn manifest(engine: &Engine, name: &str, call: &Call) -> Answer {
    json(&engine.remote_manifest(name, call.query.flag("insecure"), registry_auth(call)?).await?)
}

/// `PUT /sampan/v1/manifests/{name}`: a list of manifests that the registry has.
pub async fn put_manifest(engine: &Engine, name: &str, call: &mut Call) -> Answer {
    let auth = registry_auth(call)?;
    let insecure = call.query.flag("insecure");
    let list = call.json().await?;
    let digest = engine.put_manifest_list(name, list, insecure, auth).await?;
    json_status(StatusCode::CREATED, &serde_json::json!({ "Digest": digest.to_string() }))
}

/// `GET /sampan/v1/compositions/{name}`: the files of a published project.
pub async fn composition(engine: &Engine, name: &str, call: &Call) -> Answer {
    json(&engine.composition(name, registry_auth(call)?).await?)
}

/// `PUT /sampan/v1/compositions/{name}`: publishes a project.
pub async fn put_composition(engine: &Engine, name: &str, call: &mut Call) -> Answer {
    let auth = registry_auth(call)?;
    let project = call.json().await?;
    let digest = engine.publish_composition(name, project, auth).await?;
    json_status(StatusCode::CREATED, &serde_json::json!({ "Digest": digest }))
}

/// `POST /images/prune`
pub async fn prune(engine: &Engine, call: &Call) -> Answer {
    json(&engine.prune_images(call.query.filters()?).await?)
}

/// `POST /commit`
pub async fn commit(engine: &Engine, call: &mut Call) -> Answer {
    let config: Option<ContainerConfig> = call.json_or_default().await?;
    let options = CommitOptions {
        container: call.query.required("container")?.to_owned(),
        repo: call.query.get("repo").map(str::to_owned),
        tag: call.query.get("tag").map(str::to_owned),
        comment: call.query.get("comment").map(str::to_owned),
        author: call.query.get("author").map(str::to_owned),
        pause: call.query.flag_or("pause", true),
        changes: call.query.all("changes"),
        config,
    };
    let made = engine.commit(options).await?;
    json_status(StatusCode::CREATED, &serde_json::json!({ "Id": made.id }))
}
