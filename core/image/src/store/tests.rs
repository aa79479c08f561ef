#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;

use tar::EntryType;

use super::*;
use crate::archive::{load, save, save_items};
use crate::backend::{ChangeView, Whiteouts};
use crate::config::ImageConfig;
use crate::tar_writer::{Head, TarWriter};
use crate::testing::{Archive, Fixture, describe};

fn name(text: &str) -> ImageRef {
    ImageRef::parse(text).unwrap()
}

fn base() -> Vec<u8> {
    Archive::new().dir("etc").file("etc/a", "1").file("etc/b", "2").link(EntryType::Symlink, "link", "etc").done()
}

fn over() -> Vec<u8> {
    Archive::new().dir("etc").file("etc/.wh.a", "").file("etc/b", "changed").file("new", "n").done()
}

/// An image of two layers.
fn image(fixture: &Fixture, names: &[&str]) -> Arc<ImageRecord> {
    let lower = fixture.images.add_layer_from_tar(base().as_slice(), &[]).unwrap();
    let upper = fixture.images.add_layer_from_tar(over().as_slice(), &[lower.chain_id]).unwrap();
    let mut config = ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..ImageConfig::default() };
    config.config.cmd = Some(vec!["sh".into()]);
    let names: Vec<_> = names.iter().map(|text| name(text)).collect();
    fixture.images.create_image(config, vec![lower, upper], None, &names).unwrap()
}

#[test]
fn images_are_found_by_name_and_by_the_beginning_of_an_id() {
    let fixture = Fixture::new(Whiteouts::Overlay);
    let made = image(&fixture, &["app:1", "app:latest"]);
    let hex = made.id.hex();
    for text in [
        "app",
        "app:1",
        "docker.io/library/app:1",
        &hex,
        &hex[..4],
        &made.id.to_string(),
        &format!("sha256:{}", &hex[..12]),
    ] {
        assert_eq!(fixture.images.resolve(text).unwrap().id, made.id, "{text}");
    }
    for text in ["app:2", "other", "sha256:00", &"0".repeat(64)] {
        assert!(matches!(fixture.images.resolve(text), Err(ImageError::NotFound(_))), "{text}");
    }
    assert!(matches!(fixture.images.resolve("Not A Name"), Err(ImageError::Reference(_))));
    // A name made of hexadecimal digits is a name first.
    let other = fixture.images.create_image(ImageConfig::default(), Vec::new(), None, &[name(&hex[..6])]).unwrap();
    assert_eq!(fixture.images.resolve(&hex[..6]).unwrap().id, other.id);
    assert_eq!(fixture.images.names(&made.id).len(), 2);
    assert_eq!(fixture.images.history(&made).len(), 2);
}

#[test]
fn an_ambiguous_beginning_is_refused() {
    let fixture = Fixture::new(Whiteouts::Overlay);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for at in 0..17 {
        let config = ImageConfig { author: Some(at.to_string()), ..ImageConfig::default() };
        let id = fixture.images.create_image(config, Vec::new(), None, &[]).unwrap().id;
        *seen.entry(id.hex()[..1].to_owned()).or_default() += 1;
    }
    let (digit, _) = seen.iter().find(|(_, count)| **count > 1).unwrap();
    assert!(matches!(fixture.images.resolve(digit), Err(ImageError::Ambiguous(_))));
}

#[test]
fn a_removed_image_takes_with_it_what_only_it_needed() {
    for form in [Whiteouts::Overlay, Whiteouts::Remove] {
        let fixture = Fixture::new(form);
        let made = image(&fixture, &["app"]);
        fixture.assert_holds(2, 4);
        let lower = made.layers[0].clone();
        let other = fixture.images.create_image(ImageConfig::default(), vec![lower], None, &[name("base")]).unwrap();
        fixture.assert_holds(2, 6);
        let removed = fixture.images.delete(&made.id).unwrap();
        assert_eq!(removed[..2], [Removed::Untagged(name("app")), Removed::Image(made.id)]);
        assert_eq!(removed[2..], [Removed::Layer(made.layers[1].chain_id)]);
        fixture.assert_holds(1, 3);
        fixture.images.delete(&other.id).unwrap();
        fixture.assert_holds(0, 0);
    }
}

#[test]
fn pins_and_holds_keep_layers() {
    let fixture = Fixture::new(Whiteouts::Overlay);
    let made = image(&fixture, &["app"]);
    let top = made.top().unwrap();
    fixture.images.pin(&top, "container:1").unwrap();
    let hold = fixture.images.hold([made.layers[0].chain_id.0]);
    fixture.images.delete(&made.id).unwrap();
    fixture.assert_holds(2, 2);
    fixture.images.unpin(&top, "container:1").unwrap();
    fixture.assert_holds(1, 1);
    drop(hold);
    fixture.images.gc().unwrap();
    fixture.assert_holds(0, 0);
}

#[test]
fn what_a_dead_daemon_left_is_removed_and_the_rest_is_there() {
    let fixture = Fixture::new(Whiteouts::Overlay);
    let made = image(&fixture, &["app:1"]);
    // As if it had been killed: an orphaned layer, a layer half unpacked, half a blob.
    fixture.images.add_layer_from_tar(Archive::new().file("orphan", "").done().as_slice(), &[]).unwrap();
    let half = ChainId(Digest::of(b"half"));
    drop(fixture.images.begin_layer(&half, &[]).unwrap());
    fs::write(fixture.backend.path(&half).join("x"), "").unwrap();
    let mut blob = fixture.images.blobs().writer().unwrap();
    blob.write_all(b"half").unwrap();
    std::mem::forget(blob);
    let Fixture { folder, backend, images } = fixture;
    drop(images);
    let images = Fixture::open(folder.path(), &backend);
    images.recover().unwrap();
    let fixture = Fixture { folder, backend, images };
    assert_eq!(*fixture.images.resolve("app:1").unwrap(), *made);
    fixture.assert_holds(2, 4);
}

#[test]
fn layers_that_power_was_lost_over_are_unpacked_again() {
    let fixture = Fixture::new(Whiteouts::Overlay);
    let made = image(&fixture, &["app"]);
    let before: Vec<_> = made.layers.iter().map(|layer| describe(&fixture.backend.path(&layer.chain_id))).collect();
    for layer in &made.layers {
        let row = fixture.images.state().layers[&layer.chain_id].clone();
        let row = LayerRow { unflushed: Some("another boot".into()), ..row };
        fixture.images.state_mut().layers.insert(layer.chain_id, row);
        fs::remove_dir_all(fixture.backend.path(&layer.chain_id)).unwrap();
    }
    fixture.images.recover().unwrap();
    let after: Vec<_> = made.layers.iter().map(|layer| describe(&fixture.backend.path(&layer.chain_id))).collect();
    assert_eq!(before, after);
    assert!(fixture.images.state().layers.values().all(|row| row.unflushed.is_none()));
}

#[test]
fn what_a_container_changed_becomes_a_layer_that_shows_the_same() {
    let fixture = Fixture::new(Whiteouts::Overlay);
    let made = image(&fixture, &[]);
    let upper = tempfile::tempdir().unwrap();
    fs::create_dir(upper.path().join("data")).unwrap();
    fs::write(upper.path().join("data/x"), "x").unwrap();
    let view = ChangeView::Upper(upper.path().to_owned());
    let layer = fixture.images.commit_layer(&view, &made.chain_top_first()).unwrap();
    assert!(fixture.backend.path(&layer.chain_id).join("data/x").exists());
    assert_eq!(layer.diff_id.0, layer.blob);
    assert_eq!(fixture.images.commit_layer(&view, &made.chain_top_first()).unwrap(), layer);
    assert_eq!(fixture.images.ancestors(Some(layer.chain_id)).len(), 3);
}

// ---- archives ----

fn saved(fixture: &Fixture, names: &[&str]) -> Vec<u8> {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    save(&fixture.images, &save_items(&fixture.images, &names).unwrap(), Vec::new()).unwrap()
}

fn load_bytes(fixture: &Fixture, bytes: &[u8]) -> Result<Vec<crate::archive::Loaded>, ImageError> {
    load(&fixture.images, bytes, None)
}

#[test]
fn what_is_saved_loads_with_the_same_digests_in_either_form() {
    let source = Fixture::new(Whiteouts::Overlay);
    let made = image(&source, &["app:1", "app:2"]);
    let archive = saved(&source, &["app"]);
    assert_eq!(saved(&source, &["app"]), archive);
    for form in [Whiteouts::Overlay, Whiteouts::Remove] {
        let fixture = Fixture::new(form);
        let loaded = load_bytes(&fixture, &archive).unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].names, [name("app:1"), name("app:2")]);
        let image = fixture.images.resolve("app:2").unwrap();
        assert_eq!((image.id, image.manifest, &image.layers), (made.id, made.manifest, &made.layers));
        assert_eq!(saved(&fixture, &["app"]), archive);
        fixture.assert_holds(2, 4);
        load_bytes(&fixture, &archive).unwrap();
        fixture.images.delete(&image.id).unwrap();
        fixture.assert_holds(0, 0);
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&archive).unwrap();
    let fixture = Fixture::new(Whiteouts::Overlay);
    load_bytes(&fixture, &packed.finish().unwrap()).unwrap();
    fixture.assert_holds(2, 4);
}

/// The archive with some entries replaced (`Some`) or left out (`None`).
fn rewritten(archive: &[u8], change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut reader = crate::tar_reader::TarReader::new(archive);
    let mut writer = TarWriter::new(Vec::new());
    while let Some(entry) = reader.next_entry().unwrap() {
        if entry.kind != crate::tar_reader::Kind::File {
            continue;
        }
        let content = reader.content(1 << 20).unwrap();
        let path = String::from_utf8(entry.path).unwrap();
        if let Some(content) = change(&path, content) {
            let head = Head { path: path.as_bytes(), size: content.len() as u64, ..Head::default() };
            writer.entry(&head, Some(&mut content.as_slice())).unwrap();
        }
    }
    writer.finish().unwrap()
}

#[test]
fn docker_archives_without_a_layout_are_read() {
    let source = Fixture::new(Whiteouts::Overlay);
    let made = image(&source, &["app:1"]);
    let docker = rewritten(&saved(&source, &["app"]), |path, content| {
        (path != "index.json" && path != "oci-layout").then_some(content)
    });
    let fixture = Fixture::new(Whiteouts::Overlay);
    let loaded = load_bytes(&fixture, &docker).unwrap();
    assert_eq!((loaded[0].image.id, &loaded[0].names), (made.id, &vec![name("app:1")]));
    fixture.assert_holds(2, 4);
}

#[test]
fn a_wrong_archive_is_refused_by_name_and_leaves_nothing() {
    let source = Fixture::new(Whiteouts::Overlay);
    let made = image(&source, &["app:1"]);
    let archive = saved(&source, &["app"]);
    let top = made.layers[1].blob.hex();
    let config = made.id.hex();
    let docker_only = |path: &str| path == "index.json" || path == "oci-layout";
    let half_gzip = {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&archive).unwrap();
        let packed = packed.finish().unwrap();
        packed[..packed.len() / 2].to_vec()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("garbage", b"garbage ".repeat(500)),
        ("half", archive[..archive.len() / 2].to_vec()),
        ("half of a gzip", half_gzip),
        ("only zeros", vec![0; 4096]),
        ("missing layer", rewritten(&archive, |path, content| (!path.ends_with(&top)).then_some(content))),
        ("missing config", rewritten(&archive, |path, content| (!path.ends_with(&config)).then_some(content))),
        (
            "missing layer in Docker's form",
            rewritten(&archive, |path, content| (!docker_only(path) && !path.ends_with(&top)).then_some(content)),
        ),
        (
            "changed layer",
            rewritten(&archive, |path, mut content| {
                if path.ends_with(&top) {
                    content[600] ^= 1;
                }
                Some(content)
            }),
        ),
        (
            "changed layer in Docker's form",
            rewritten(&archive, |path, content| {
                if docker_only(path) {
                    None
                } else if path.ends_with(&top) {
                    Some(base())
                } else {
                    Some(content)
                }
            }),
        ),
        (
            "changed config",
            rewritten(&archive, |path, mut content| {
                if path.ends_with(&config) {
                    content.push(b' ');
                }
                Some(content)
            }),
        ),
        (
            "layer of garbage",
            rewritten(&archive, |path, content| {
                if docker_only(path) {
                    None
                } else if path.ends_with(&top) {
                    Some(b"garbage".repeat(200))
                } else {
                    Some(content)
                }
            }),
        ),
        (
            "index of garbage",
            rewritten(&archive, |path, content| Some(if path == "index.json" { b"[1]".to_vec() } else { content })),
        ),
        (
            "manifest of garbage",
            rewritten(&archive, |path, content| {
                if docker_only(path) {
                    None
                } else if path == "manifest.json" {
                    Some(b"{}".to_vec())
                } else {
                    Some(content)
                }
            }),
        ),
        (
            "a manifest that is an index too",
            rewritten(&archive, |path, content| {
                Some(if path == "index.json" {
                    br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_vec()
                } else {
                    content
                })
            }),
        ),
        ("an index that points at itself", {
            let digest = Digest::of(b"x");
            let text = format!(
                r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"{digest}","size":1}}]}}"#
            );
            rewritten(&archive, |path, content| {
                Some(if path == "index.json" { text.clone().into_bytes() } else { content })
            })
        }),
        (
            "names that lead out",
            rewritten(&archive, |path, content| {
                Some(if path == "manifest.json" || path == "index.json" {
                    br#"[{"Config":"../../etc/passwd","RepoTags":null,"Layers":[]}]"#.to_vec()
                } else {
                    content
                })
            }),
        ),
    ];
    for (case, bytes) in cases {
        let fixture = Fixture::new(Whiteouts::Overlay);
        let error = load_bytes(&fixture, &bytes).expect_err(case);
        assert!(matches!(error, ImageError::Refused { .. } | ImageError::Mismatch { .. }), "{case}: {error:?}");
        assert!(fixture.images.list().is_empty(), "{case}");
        fixture.images.gc().unwrap();
        fixture.assert_holds(0, 0);
    }
}

#[test]
fn a_layer_that_leads_out_is_refused_whole() {
    let fixture = Fixture::new(Whiteouts::Overlay);
    let hostile = Archive::new().file("good", "").file("../bad", "").done();
    let error = fixture.images.add_layer_from_tar(hostile.as_slice(), &[]).unwrap_err();
    assert!(error.to_string().contains(".."), "{error}");
    fixture.assert_holds(0, 0);
}

/// Two images under one name, with a statement about each.
fn index(fixture: &Fixture, names: &[&str]) -> Arc<IndexRecord> {
    let entries: Vec<IndexEntry> = ["linux/amd64", "linux/s390x"]
        .into_iter()
        .map(|text| {
            let platform = Platform::parse(text).unwrap();
            let layer =
                fixture.images.add_layer_from_tar(Archive::new().file("arch", text).done().as_slice(), &[]).unwrap();
            let config = ImageConfig {
                architecture: platform.architecture.clone(),
                os: "linux".into(),
                ..ImageConfig::default()
            };
            let made = fixture.images.create_image(config, vec![layer], None, &[]).unwrap();
            let image = fixture.images.pack_layers(&made.id).unwrap();
            let document = format!("{{\"subject\":\"{text}\"}}").into_bytes();
            IndexEntry { platform, image, statements: vec![Statement { predicate_type: "test".into(), document }] }
        })
        .collect();
    let names: Vec<_> = names.iter().map(|text| name(text)).collect();
    fixture.images.create_index(&entries, &names).unwrap()
}

#[test]
fn an_index_gives_one_name_to_images_of_several_platforms() {
    let fixture = Fixture::new(Whiteouts::Overlay);
    let made = index(&fixture, &["app:1"]);
    let images = &fixture.images;
    let kinds: Vec<_> = made.members.iter().map(|member| (member.is_image(), member.subject().is_some())).collect();
    assert_eq!(kinds, [(true, false), (true, false), (false, true), (false, true)]);
    assert_eq!(made.members[2].subject(), Some(made.members[0].digest()));
    assert!(images.is_whole(&made));
    let of = |text: &str| made.image_for(&Platform::parse(text).unwrap()).unwrap();
    assert_eq!(images.index("app:1").unwrap(), made);
    assert_eq!(images.index(&made.digest.to_string()).unwrap(), made);
    assert_eq!(images.index(&made.digest.hex()[..12]).unwrap(), made);
    // The name, the digest and its beginning lead to an image that can be run here, or to the first.
    let own = made.image_for(&Platform::host()).unwrap_or_else(|| of("linux/amd64"));
    for text in ["app:1", &made.digest.to_string(), &made.digest.hex()[..12]] {
        assert_eq!(images.resolve(text).unwrap().id, own, "{text}");
    }
    // Another name is one of the index, too; an image by its id takes a name away from it.
    images.tag_as("app:1", &name("app:2")).unwrap();
    assert_eq!(images.index("app:2").unwrap().digest, made.digest);
    assert_eq!(images.indexes()[0].1.len(), 2);
    images.tag(&of("linux/s390x"), &name("app:2")).unwrap();
    assert!(images.index("app:2").is_none());
    assert_eq!(images.index_images().len(), 2);
    images.gc().unwrap();
    // Index, and for each image: configuration, manifest, layer; statement, its manifest and configuration.
    fixture.assert_holds(2, 1 + 2 * (3 + 3));
    // It is there after a restart.
    let again = Fixture::open(fixture.folder.path(), &fixture.backend);
    assert_eq!(again.index("app:1").unwrap(), made);
    drop(again);

    // One image goes: the rest stays under the name.
    images.untag(&name("app:2")).unwrap();
    images.withdraw(&made.digest, &own).unwrap();
    let left = images.resolve("app:1").unwrap();
    assert_ne!(left.id, own);
    assert!(!images.is_whole(&images.index("app:1").unwrap()));
    images.delete(&own).unwrap();
    // The name goes, and with it the index and what is said.
    images.untag(&name("app:1")).unwrap();
    images.delete(&left.id).unwrap();
    fixture.assert_holds(0, 0);
}

#[test]
fn an_index_without_a_name_lives_as_long_as_its_images() {
    let fixture = Fixture::new(Whiteouts::Overlay);
    let made = index(&fixture, &[]);
    fixture.images.gc().unwrap();
    assert!(fixture.images.is_whole(&fixture.images.index(&made.digest.to_string()).unwrap()));
    let id = made.images().next().unwrap();
    fixture.images.delete(&id).unwrap();
    assert!(fixture.images.index(&made.digest.to_string()).is_none());
    fixture.images.delete(&made.images().nth(1).unwrap()).unwrap();
    fixture.assert_holds(0, 0);
}

#[test]
fn an_index_is_saved_and_loaded_as_it_is() {
    let fixture = Fixture::new(Whiteouts::Overlay);
    let made = index(&fixture, &["app:1", "app:2"]);
    let items = save_items(&fixture.images, &["app:1".to_owned(), "app:2".to_owned()]).unwrap();
    assert_eq!(items.len(), 1);
    let archive = save(&fixture.images, &items, Vec::new()).unwrap();
    let other = Fixture::new(Whiteouts::Overlay);
    let loaded = load(&other.images, archive.as_slice(), None).unwrap();
    assert_eq!(loaded.len(), 1, "the other platform is no image of its own");
    assert_eq!(loaded[0].names, [name("app:1"), name("app:2")]);
    let found = other.images.index("app:2").unwrap();
    assert_eq!(found.digest, made.digest);
    assert!(other.images.is_whole(&found));
    other.assert_holds(2, 1 + 2 * (3 + 3));
    let again = save(&other.images, &save_items(&other.images, &["app".to_owned()]).unwrap(), Vec::new()).unwrap();
    assert_eq!(again, archive);

    // By its digest, without a name.
    let bare = save(&fixture.images, &save_items(&fixture.images, &[made.digest.to_string()]).unwrap(), Vec::new());
    let third = Fixture::new(Whiteouts::Overlay);
    load(&third.images, bare.unwrap().as_slice(), None).unwrap();
    assert!(third.images.is_whole(&third.images.index(&made.digest.to_string()).unwrap()));

    // One platform of it is an image, and no index.
    let fourth = Fixture::new(Whiteouts::Overlay);
    let wanted = Platform::parse("linux/s390x").unwrap();
    let loaded = load(&fourth.images, archive.as_slice(), Some(&wanted)).unwrap();
    assert_eq!(loaded[0].image.config.architecture, "s390x");
    assert!(fourth.images.index("app:1").is_none());
    fourth.assert_holds(1, 3);
}
