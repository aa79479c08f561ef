//! What images consist of: the manifests of an index, with what is here of each.

use std::collections::HashMap;

use bollard_stubs::models::{
    ImageManifestSummary, ImageManifestSummaryAttestationData, ImageManifestSummaryImageData,
    ImageManifestSummaryImageDataSize, ImageManifestSummaryKindEnum, ImageManifestSummarySize, OciDescriptor,
    OciPlatform,
};
use sampan_image::{Content, Digest, ImageRecord, ImageRef, IndexRecord, Member, Platform};

use super::Images;
use super::list::size;

/// Containers by the id of their image.
pub(super) type Users = HashMap<String, Vec<String>>;

impl Images {
    /// The manifests of an image by its names: those of an index that one of them leads to, or its own alone.
    pub(super) fn manifests(
        &self,
        image: &ImageRecord,
        names: &[ImageRef],
        users: &Users,
    ) -> Vec<ImageManifestSummary> {
        let index = names.iter().find_map(|name| self.store.index_by_name(name));
        match index {
            Some(index) => index.members.iter().map(|member| self.member(member, users)).collect(),
            None => vec![self.of_image(image, image.manifest, image.platform(), users)],
        }
    }

    /// What an index is, as a descriptor.
    pub(super) fn descriptor(index: &IndexRecord) -> OciDescriptor {
        OciDescriptor {
            media_type: Some(index.media_type.clone()),
            digest: Some(index.digest.to_string()),
            size: Some(size(index.size)),
            ..OciDescriptor::default()
        }
    }

    fn bytes(&self, blobs: impl IntoIterator<Item = Digest>) -> u64 {
        blobs.into_iter().map(|digest| self.store.blobs().size(&digest)).sum()
    }

    fn of_image(
        &self,
        image: &ImageRecord,
        manifest: Digest,
        platform: Platform,
        users: &Users,
    ) -> ImageManifestSummary {
        let layers = image.layers.iter().map(|layer| layer.blob);
        let content = self.bytes([manifest, image.id].into_iter().chain(layers));
        ImageManifestSummary {
            id: manifest.to_string(),
            descriptor: OciDescriptor {
                digest: Some(manifest.to_string()),
                size: Some(size(self.store.blobs().size(&manifest))),
                ..OciDescriptor::default()
            },
            available: true,
            size: ImageManifestSummarySize { total: size(content + image.size), content: size(content) },
            kind: Some(ImageManifestSummaryKindEnum::IMAGE),
            image_data: Some(ImageManifestSummaryImageData {
                platform: oci(&platform),
                containers: users.get(&image.id.to_string()).cloned().unwrap_or_default(),
                size: ImageManifestSummaryImageDataSize { unpacked: size(image.size) },
            }),
            attestation_data: None,
        }
    }

    fn member(&self, member: &Member, users: &Users) -> ImageManifestSummary {
        let descriptor = OciDescriptor {
            media_type: Some(member.media_type().to_owned()),
            digest: Some(member.digest().to_string()),
            size: Some(size(member.size())),
            platform: member.platform().map(oci),
            ..OciDescriptor::default()
        };
        let image = match &member.content {
            Content::Image(id) => self.store.get(id),
            Content::Absent | Content::Kept(_) => None,
        };
        if let Some(image) = image {
            let platform = member.platform().cloned().unwrap_or_else(|| image.platform());
            return ImageManifestSummary {
                descriptor,
                available: self.store.has_member(member),
                ..self.of_image(&image, member.digest(), platform, users)
            };
        }
        let content = match &member.content {
            Content::Kept(blobs) => self.bytes(blobs.iter().copied().chain([member.digest()])),
            Content::Absent | Content::Image(_) => 0,
        };
        let kind = match (member.is_image(), member.subject()) {
            (true, _) => ImageManifestSummaryKindEnum::IMAGE,
            (false, Some(_)) => ImageManifestSummaryKindEnum::ATTESTATION,
            (false, None) => ImageManifestSummaryKindEnum::UNKNOWN,
        };
        ImageManifestSummary {
            id: member.digest().to_string(),
            descriptor,
            available: self.store.has_member(member),
            size: ImageManifestSummarySize { total: size(content), content: size(content) },
            kind: Some(kind),
            image_data: member.platform().map(|platform| ImageManifestSummaryImageData {
                platform: oci(platform),
                ..ImageManifestSummaryImageData::default()
            }),
            attestation_data: member
                .subject()
                .map(|subject| ImageManifestSummaryAttestationData { _for: subject.to_string() }),
        }
    }
}

fn oci(platform: &Platform) -> OciPlatform {
    OciPlatform {
        architecture: Some(platform.architecture.clone()),
        os: Some(platform.os.clone()),
        os_version: platform.os_version.clone(),
        os_features: None,
        variant: platform.variant.clone(),
    }
}
