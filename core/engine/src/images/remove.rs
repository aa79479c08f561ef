//! `rmi` and `image prune`, with Docker's refusals.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bollard_stubs::models::{ImageDeleteResponseItem, ImagePruneResponse};
use sampan_image::{Digest, ImageRecord, ImageRef, ImageStore, IndexRecord, Removed};

use super::list::size;
use crate::Engine;
use crate::containers::Status;
use crate::error::{Error, Result};
use crate::filters::Filters;

/// Owners of layers that containers need after their image is gone.
const PIN_PREFIX: &str = "container:";

fn pin_owner(container: &str) -> String {
    format!("{PIN_PREFIX}{container}")
}

/// Containers of an image, and those that mount its files.
#[derive(Debug, Clone, Default)]
pub(super) struct Users {
    /// One that runs.
    running: Option<String>,
    /// One that does not.
    stopped: Option<String>,
    /// All of them.
    all: Vec<String>,
}

impl Users {
    fn any(&self) -> Option<&str> {
        self.running.as_deref().or(self.stopped.as_deref())
    }
}

/// One removal under way.
struct Removal<'a> {
    store: &'a ImageStore,
    users: &'a HashMap<Digest, Users>,
    force: bool,
    prune: bool,
    done: Vec<Removed>,
}

impl Removal<'_> {
    fn users(&self, id: &Digest) -> Users {
        self.users.get(id).cloned().unwrap_or_default()
    }

    /// Removes what `text` names, with what was part of it alone.
    fn remove(&mut self, text: &str) -> Result<()> {
        let image = self.store.resolve(text)?;
        let fellows = self.store.fellows(&image.id);
        self.remove_one(text, &image)?;
        self.release(fellows);
        Ok(())
    }

    /// Removes images that no name leads to any more, as their index is gone.
    fn release(&mut self, fellows: impl IntoIterator<Item = Digest>) {
        let listed = self.store.index_images();
        for id in fellows {
            let alone = self.store.names(&id).is_empty() && !listed.contains(&id) && self.users(&id).any().is_none();
            if let Some(image) = self.store.get(&id).filter(|_| alone)
                && let Err(error) = self.delete(&image, true)
            {
                tracing::warn!(image = %id, %error, "an image of a removed index stays");
            }
        }
    }

    /// Removes one image of an index.
    fn withdraw(&mut self, index: &IndexRecord, id: Digest) -> Result<()> {
        if let Some(container) = self.users(&id).any().filter(|_| !self.force) {
            return Err(Error::conflict(format!(
                "conflict: unable to delete {} (must be forced) - image is being used by container {}",
                id.short(),
                short(container)
            )));
        }
        self.store.withdraw(&index.digest, &id)?;
        self.release([id]);
        Ok(())
    }

    /// Removes one name, or by an id the image with its names.
    fn remove_one(&mut self, text: &str, image: &Arc<ImageRecord>) -> Result<()> {
        let names = self.store.names(&image.id);
        let of_index = self.store.index(text).is_some_and(|index| is_id(text, &index.digest));
        if !is_id(text, &image.id) && !of_index {
            let name = ImageRef::parse(text).map_err(Error::invalid)?;
            if !self.force
                && is_single(&names)
                && let Some(container) = self.users(&image.id).any()
            {
                return Err(Error::conflict(format!(
                    "conflict: unable to remove repository reference {text:?} (must force) - container {} is using its referenced image {}",
                    short(container),
                    image.id.short()
                )));
            }
            let name = names
                .iter()
                .find(|known| {
                    **known == name
                        || known
                            .digest()
                            .is_some_and(|digest| **known == name.with_digest(*digest) && name.digest().is_some())
                })
                .cloned()
                .unwrap_or(name);
            self.untag(&name)?;
            // Names by digest go with the last tag of their repository.
            let left = self.store.names(&image.id);
            let same = |other: &&ImageRef| other.repository() == name.repository();
            if name.tag().is_some() && !left.iter().filter(same).any(|other| other.tag().is_some()) {
                for digest in left.iter().filter(same) {
                    self.untag(digest)?;
                }
            }
            if !self.store.names(&image.id).is_empty() {
                return Ok(());
            }
            return self.delete(image, true);
        }
        if !is_single(&names) && !self.force {
            return Err(self.conflict(image, false, "image is referenced in multiple repositories"));
        }
        self.delete(image, false)
    }

    fn untag(&mut self, name: &ImageRef) -> Result<()> {
        if self.store.untag(name)?.is_some() {
            self.done.push(Removed::Untagged(name.clone()));
        }
        Ok(())
    }

    fn conflict(&self, image: &ImageRecord, hard: bool, why: impl std::fmt::Display) -> Error {
        let can = if hard { "cannot be forced" } else { "must be forced" };
        Error::conflict(format!("conflict: unable to delete {} ({can}) - {why}", image.id.short()))
    }

    /// Removes an image that has no name any more, or whose id was given. `untagged`: its last name was just taken.
    fn delete(&mut self, image: &ImageRecord, untagged: bool) -> Result<()> {
        let users = self.users(&image.id);
        if !self.store.children(&image.id).is_empty() {
            // A step of another image loses its name and stays.
            return if untagged { Ok(()) } else { Err(self.conflict(image, true, "image has dependent child images")) };
        }
        if let Some(container) = &users.running {
            if untagged && self.force {
                return Ok(());
            }
            return Err(self.conflict(
                image,
                true,
                format!("image is being used by running container {}", short(container)),
            ));
        }
        if let Some(container) = users.stopped.as_ref().filter(|_| !self.force) {
            return Err(self.conflict(
                image,
                false,
                format!("image is being used by stopped container {}", short(container)),
            ));
        }
        if let Some(top) = image.top() {
            // Their layers outlive the image.
            for container in &users.all {
                self.store.pin(&top, &pin_owner(container))?;
            }
        }
        self.done.extend(self.store.delete(&image.id)?);
        let Some(parent) = image.parent.filter(|_| self.prune).and_then(|parent| self.store.get(&parent)) else {
            return Ok(());
        };
        let unused = self.store.names(&parent.id).is_empty()
            && self.store.children(&parent.id).is_empty()
            && self.users(&parent.id).any().is_none();
        if unused { self.delete(&parent, true) } else { Ok(()) }
    }
}

/// Whether the text is an id or the beginning of one, rather than a name.
fn is_id(text: &str, id: &Digest) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    // A name made of hexadecimal digits was looked up as a name first.
    id.hex().starts_with(hex)
}

/// At most one tag, and all in one repository.
fn is_single(names: &[ImageRef]) -> bool {
    let mut tags = names.iter().filter(|name| name.tag().is_some());
    let Some(first) = names.first() else { return true };
    tags.next();
    tags.next().is_none() && names.iter().all(|name| name.repository() == first.repository())
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

impl Engine {
    pub(super) fn image_users(&self) -> HashMap<Digest, Users> {
        let mut users: HashMap<Digest, Users> = HashMap::new();
        for container in self.inner.containers.all() {
            let record = container.record();
            let running = matches!(record.state.status, Status::Running | Status::Paused | Status::Restarting);
            let mounted = record.mounts.iter().filter_map(|mount| Some(&mount.image.as_ref()?.id));
            let ids: HashSet<Digest> = mounted.chain([&record.image]).filter_map(|id| Digest::parse(id).ok()).collect();
            for id in ids {
                let entry = users.entry(id).or_default();
                *(if running { &mut entry.running } else { &mut entry.stopped }) = Some(container.id.clone());
                entry.all.push(container.id.clone());
            }
        }
        users
    }

    /// Lets go of layers that were kept for containers which are gone.
    pub(super) async fn release_layers(&self) -> Result<()> {
        let live: HashSet<String> =
            self.inner.containers.all().iter().map(|container| pin_owner(&container.id)).collect();
        self.inner
            .images
            .blocking(move |store| {
                for (chain, owner) in store.pins() {
                    if owner.starts_with(PIN_PREFIX) && !live.contains(&owner) {
                        store.unpin(&chain, &owner)?;
                    }
                }
                Ok(())
            })
            .await
    }

    /// Takes a name away, and the image with its last one. With platforms, of an index those images alone that are for
    /// them; what is not there fails.
    pub async fn remove_image(
        &self,
        name: &str,
        force: bool,
        noprune: bool,
        platforms: &[String],
    ) -> Result<Vec<ImageDeleteResponseItem>> {
        let wanted = platforms.iter().map(|platform| Ok(self.inner.images.resolve_for(name, Some(platform))?.id));
        let wanted: HashSet<Digest> = wanted.collect::<Result<_>>()?;
        // All that there is goes with the name.
        let index = self
            .inner
            .images
            .store()
            .index(name)
            .filter(|index| !wanted.is_empty() && !index.images().all(|id| wanted.contains(&id)));
        let _alone = self.inner.image_use.write().await;
        self.release_layers().await?;
        let users = self.image_users();
        let name = name.to_owned();
        let removed = self
            .inner
            .images
            .blocking(move |store| {
                let mut removal = Removal { store, users: &users, force, prune: !noprune, done: Vec::new() };
                let result = match index {
                    Some(index) => wanted.into_iter().try_for_each(|id| removal.withdraw(&index, id)),
                    None => removal.remove(&name),
                };
                // What was done is told even if the rest is refused.
                Ok((result, removal.done))
            })
            .await?;
        let (result, done) = removed;
        self.removal_events(&done);
        result?;
        Ok(done.iter().map(response).collect())
    }

    /// Removes these images; what was removed.
    pub(super) async fn delete_images(&self, ids: Vec<Digest>, users: HashMap<Digest, Users>) -> Result<Vec<Removed>> {
        self.inner.images.blocking(move |store| Ok(delete_all(store, &users, ids))).await
    }

    pub(super) fn removal_events(&self, done: &[Removed]) {
        for removed in done {
            match removed {
                Removed::Untagged(name) => self.inner.images.event("untag", &name.familiar(), Some(name.familiar())),
                Removed::Image(id) => self.inner.images.event("delete", &id.to_string(), Some(id.to_string())),
                Removed::Layer(_) => {}
            }
        }
    }

    /// Removes what nothing needs: images without a name, or with `dangling=false` all that no container uses.
    pub async fn prune_images(&self, filters: Filters) -> Result<ImagePruneResponse> {
        filters.only(&["dangling", "label", "label!", "until"])?;
        let dangling = filters.truth("dangling")?.unwrap_or(true);
        let alone = self.inner.image_use.write().await;
        self.release_layers().await?;
        let users = self.image_users();
        let mut candidates: Vec<Arc<ImageRecord>> = self
            .filter_images(&filters)?
            .into_iter()
            .filter(|(image, place)| {
                // What is part of an index goes with it, or stays with it.
                let mut all = self.inner.images.store().fellows(&image.id);
                all.insert(image.id);
                (place.is_dangling() || (!dangling && !place.is_part())) && !all.iter().any(|id| users.contains_key(id))
            })
            .map(|(image, _)| image)
            .collect();
        // Children before what they were built upon.
        candidates.sort_by_key(|image| std::cmp::Reverse(image.layers.len()));
        let (done, freed) = self
            .inner
            .images
            .blocking(move |store| {
                let before = store.disk_size();
                let done = delete_all(store, &users, candidates.iter().map(|image| image.id));
                store.gc()?;
                Ok((done, before.saturating_sub(store.disk_size())))
            })
            .await?;
        // Who creates containers need not wait for files to go, who counts the freed space does.
        drop(alone);
        self.inner
            .images
            .blocking(|store| {
                store.settle();
                Ok(())
            })
            .await?;
        self.removal_events(&done);
        let deleted: Vec<_> = done.iter().map(response).collect();
        Ok(ImagePruneResponse {
            images_deleted: (!deleted.is_empty()).then_some(deleted),
            space_reclaimed: Some(size(freed)),
        })
    }
}

/// Removes images that no container uses, with their names.
fn delete_all(
    store: &ImageStore,
    users: &HashMap<Digest, Users>,
    ids: impl IntoIterator<Item = Digest>,
) -> Vec<Removed> {
    let mut removal = Removal { store, users, force: true, prune: true, done: Vec::new() };
    for id in ids {
        let Some(image) = store.get(&id) else { continue };
        let fellows = store.fellows(&id);
        if let Err(error) = removal.delete(&image, true) {
            tracing::warn!(image = %id, %error, "not pruned");
        }
        removal.release(fellows);
    }
    removal.done
}

fn response(removed: &Removed) -> ImageDeleteResponseItem {
    match removed {
        Removed::Untagged(name) => {
            ImageDeleteResponseItem { untagged: Some(name.familiar()), ..ImageDeleteResponseItem::default() }
        }
        Removed::Image(id) => {
            ImageDeleteResponseItem { deleted: Some(id.to_string()), ..ImageDeleteResponseItem::default() }
        }
        Removed::Layer(chain) => {
            ImageDeleteResponseItem { deleted: Some(chain.to_string()), ..ImageDeleteResponseItem::default() }
        }
    }
}
