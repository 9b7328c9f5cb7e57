//! What is done with the data of every import, Glance's `image_import_plugins`.

use std::collections::BTreeMap;

use rest::RequestContext;
use serde::{Deserialize, Serialize};

/// The plugins that are enabled. They run in this order, whatever order they are named in: data
/// can be converted only after it is unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportPlugins {
    /// `image_decompression`: gzip and zip files are unpacked.
    pub image_decompression: bool,
    /// `image_conversion`, with its `output_format`.
    pub image_conversion: Option<ConversionFormat>,
    /// `inject_image_metadata`.
    pub inject_image_metadata: Option<InjectMetadata>,
}

/// `[image_conversion] output_format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConversionFormat {
    Raw,
    Qcow2,
    Vmdk,
}

impl ConversionFormat {
    /// The `disk_format` of a converted image.
    pub fn disk_format(self) -> &'static str {
        match self {
            ConversionFormat::Raw => "raw",
            ConversionFormat::Qcow2 => "qcow2",
            ConversionFormat::Vmdk => "vmdk",
        }
    }
}

/// `[inject_metadata_properties]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InjectMetadata {
    /// Who has one of these roles imports without.
    pub ignore_user_roles: Vec<String>,
    /// Names and values of the properties.
    pub inject: BTreeMap<String, String>,
}

/// What is to be done in one import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugins {
    pub decompress: bool,
    pub convert_to: Option<ConversionFormat>,
    pub inject: BTreeMap<String, String>,
}

impl ImportPlugins {
    /// For an import that this caller asks for.
    pub fn for_caller(&self, context: &RequestContext) -> Plugins {
        let wanted = |metadata: &&InjectMetadata| {
            let mut roles = metadata.ignore_user_roles.iter();
            !roles.any(|role| context.has_role(role))
        };
        let metadata = self.inject_image_metadata.as_ref().filter(wanted);
        Plugins {
            decompress: self.image_decompression,
            convert_to: self.image_conversion,
            inject: metadata
                .map(|metadata| metadata.inject.clone())
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_roles_import_without_injected_properties() {
        let plugins = ImportPlugins {
            inject_image_metadata: Some(InjectMetadata {
                ignore_user_roles: vec!["admin".to_owned()],
                inject: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            }),
            ..ImportPlugins::default()
        };
        let mut context = RequestContext::internal("someone", "alice");
        context.roles = vec!["Admin".to_owned(), "member".to_owned()];
        assert_eq!(plugins.for_caller(&context), Plugins::default());
        context.roles.remove(0);
        assert_eq!(plugins.for_caller(&context).inject.len(), 1);
    }
}
