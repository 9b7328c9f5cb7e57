//! `[oslo_policy]`.

use rest::policy::{PolicyFiles, PolicyOptions};

use super::{Config, ConfigError};

const SECTION: &str = "oslo_policy";

/// The options and the files of both services' policies.
pub fn policy_options(config: &Config) -> Result<PolicyOptions, ConfigError> {
    let file = config.text(SECTION, "policy_file")?;
    let folders = config.list(SECTION, "policy_dirs")?;
    Ok(PolicyOptions {
        files: PolicyFiles {
            file: file.map(|path| config.beside(&path)),
            // One that was asked for must not be left out by mistake.
            file_is_required: config.is_given(SECTION, "policy_file"),
            folders: folders.iter().map(|path| config.beside(path)).collect(),
        },
        enforce_scope: config.boolean(SECTION, "enforce_scope")?,
        enforce_new_defaults: config.boolean(SECTION, "enforce_new_defaults")?,
    })
}
