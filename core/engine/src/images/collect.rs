//! Unused images, kept within what the daemon is told, by age and by size. Without being told it removes none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sampan_image::{ChainId, Digest, timestamp};
use sampan_store::{Collection, Durability};

use crate::Engine;
use crate::error::{Error, Result};
use crate::filters::Filters;

/// When images were last seen with a container, in nanoseconds since 1970.
const USES: Collection<i64> = Collection::new("image-uses");
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);

/// An image that may go.
#[derive(Debug, Clone)]
struct Unused {
    id: Digest,
    /// When it was of use last.
    used: i64,
    /// Its layers and their bytes.
    layers: Vec<(ChainId, u64)>,
}

/// Which of the unused images go: those unused for longer than `age`, then the longest unused until no more than `keep`
/// bytes are left of layers that nothing else needs.
fn choose(
    mut unused: Vec<Unused>,
    needed: &HashSet<ChainId>,
    now: i64,
    age: Option<i64>,
    keep: Option<u64>,
) -> Vec<Digest> {
    unused.sort_by_key(|image| (image.used, image.id));
    let mut layers: HashMap<ChainId, (usize, u64)> = HashMap::new();
    for (chain, size) in unused.iter().flat_map(|image| &image.layers) {
        if !needed.contains(chain) {
            layers.entry(*chain).or_insert((0, *size)).0 += 1;
        }
    }
    let mut left: u64 = layers.values().map(|(_, size)| size).sum();
    let mut gone = Vec::new();
    for image in unused {
        let is_old = age.is_some_and(|age| image.used < now.saturating_sub(age));
        let is_too_much = keep.is_some_and(|keep| left > keep);
        if !is_old && !is_too_much {
            continue;
        }
        for (chain, size) in &image.layers {
            if let Some((count, _)) = layers.get_mut(chain) {
                *count -= 1;
                if *count == 0 {
                    left = left.saturating_sub(*size);
                }
            }
        }
        gone.push(image.id);
    }
    gone
}

impl Engine {
    /// Looks after unused images while the engine lives, if that is asked for.
    pub(crate) fn collect_images_from_now_on(&self) {
        let config = self.config();
        if config.unused_image_age.is_none() && config.unused_image_size.is_none() {
            return;
        }
        let pause = config.unused_image_age.unwrap_or(LONGEST).checked_div(4).unwrap_or(LONGEST);
        let pause = pause.clamp(SHORTEST, LONGEST);
        let engine = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(inner) = engine.upgrade() else { return };
                let engine = Self { inner };
                if let Err(error) = engine.collect_images().await {
                    tracing::warn!(%error, "unused images were not looked after");
                }
            }
        });
    }

    /// One round.
    async fn collect_images(&self) -> Result<()> {
        let config = self.config();
        let age = config.unused_image_age.map(|age| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
        let (keep, all) = (config.unused_image_size, config.unused_image_all);
        let alone = self.inner.image_use.write().await;
        self.release_layers().await?;
        let users = self.image_users();
        let now = timestamp::now();
        let state = self.inner.shared.store.clone();
        let in_use: Vec<Digest> = users.keys().copied().collect();
        let uses: HashMap<Digest, i64> = crate::blocking(move || {
            let known = state.read::<_, Error>(|tx| Ok(USES.all(tx)?))?;
            state.write::<_, Error>(Durability::Process, |tx| {
                for id in &in_use {
                    USES.put(tx, &id.hex(), &now)?;
                }
                Ok(())
            })?;
            Ok(known.into_iter().filter_map(|(hex, used)| Some((Digest::from_hex(&hex)?, used))).collect())
        })
        .await?;
        let images = self.filter_images(&Filters::default())?;
        let mut stale: HashSet<Digest> = uses.keys().copied().collect();
        let (mut unused, mut needed) = (Vec::new(), HashSet::new());
        for (image, place) in images {
            stale.remove(&image.id);
            let in_use = users.contains_key(&image.id)
                || self.inner.images.store().fellows(&image.id).iter().any(|id| users.contains_key(id));
            if !in_use && !place.is_part() && place.children == 0 && (all || place.is_dangling()) {
                let used = uses.get(&image.id).copied().unwrap_or(0).max(image.tagged_ns);
                let layers = image.layers.iter().map(|layer| (layer.chain_id, layer.size)).collect();
                unused.push(Unused { id: image.id, used, layers });
            } else {
                needed.extend(image.layers.iter().map(|layer| layer.chain_id));
            }
        }
        let gone = choose(unused, &needed, now, age, keep);
        for id in &gone {
            tracing::info!(image = %id, "an unused image goes, as the configuration asks");
        }
        let removed = self.delete_images(gone, users).await;
        drop(alone);
        self.removal_events(&removed?);
        let state = self.inner.shared.store.clone();
        crate::blocking(move || {
            state.write::<_, Error>(Durability::Process, |tx| {
                for id in &stale {
                    USES.delete(tx, &id.hex())?;
                }
                Ok(())
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(text: &str) -> ChainId {
        ChainId(Digest::of(text.as_bytes()))
    }

    fn image(name: &str, used: i64, layers: &[(&str, u64)]) -> Unused {
        let layers = layers.iter().map(|(name, size)| (chain(name), *size)).collect();
        Unused { id: Digest::of(name.as_bytes()), used, layers }
    }

    fn chosen(age: Option<i64>, keep: Option<u64>) -> Vec<Digest> {
        let unused = vec![
            image("new", 900, &[("base", 100), ("new", 10)]),
            image("old", 100, &[("base", 100), ("old", 10)]),
            image("older", 50, &[("shared", 1000), ("older", 30)]),
        ];
        choose(unused, &HashSet::from([chain("shared")]), 1000, age, keep)
    }

    #[test]
    fn the_longest_unused_go_first_and_what_others_need_does_not_count() {
        let id = |name: &str| Digest::of(name.as_bytes());
        assert_eq!(chosen(None, None), []);
        assert_eq!(chosen(Some(500), None), [id("older"), id("old")]);
        assert_eq!(chosen(Some(2000), None), []);
        // 150 bytes: base, new, old, older.
        assert_eq!(chosen(None, Some(150)), []);
        assert_eq!(chosen(None, Some(149)), [id("older")]);
        assert_eq!(chosen(None, Some(115)), [id("older"), id("old")]);
        assert_eq!(chosen(None, Some(0)), [id("older"), id("old"), id("new")]);
        assert_eq!(chosen(Some(920), Some(115)), [id("older"), id("old")]);
    }
}
