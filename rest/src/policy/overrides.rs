//! The operator's policy files: which they are, reading them, and noticing that they changed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::file::{self, RuleText};
use super::{Policy, PolicyError};

/// A policy file is read whole; a bigger one is not one.
const BIGGEST_FILE_BYTES: u64 = 1 << 20;
/// Files in one of `policy_dirs`; more are an accident.
const MOST_FILES: usize = 1000;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// `policy_file` and `policy_dirs`: later rules replace earlier ones of the same name.
#[derive(Debug, Clone, Default)]
pub struct PolicyFiles {
    pub file: Option<PathBuf>,
    /// The file must be there: the operator named it.
    pub file_is_required: bool,
    /// Each folder's files in the order of their names, without hidden ones and sub-folders.
    pub folders: Vec<PathBuf>,
}

/// What tells changed files from unchanged ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<(PathBuf, Option<SystemTime>, u64)>);

impl PolicyFiles {
    pub(super) fn read(&self) -> Result<Vec<RuleText>, PolicyError> {
        let mut rules = Vec::new();
        for path in self.paths() {
            let optional = self.file.as_ref() == Some(&path) && !self.file_is_required;
            if optional && !path.exists() {
                continue;
            }
            let shown = path.display().to_string();
            let text = read_text(&path).map_err(|reason| PolicyError::File {
                path: shown.clone(),
                reason,
            })?;
            rules.extend(file::parse(&shown, &text)?);
        }
        Ok(rules)
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        let stamp = |path: PathBuf| {
            let metadata = fs::metadata(&path).ok();
            let length = metadata.as_ref().map_or(0, fs::Metadata::len);
            let changed = metadata.and_then(|metadata| metadata.modified().ok());
            (path, changed, length)
        };
        Fingerprint(self.paths().into_iter().map(stamp).collect())
    }

    fn paths(&self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = self.file.iter().cloned().collect();
        for folder in &self.folders {
            // Missing folders are ignored, as oslo.policy does: `policy.d` is there by default.
            let Ok(entries) = fs::read_dir(folder) else {
                continue;
            };
            let is_rule_file = |path: &PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                !name.starts_with('.') && path.is_file()
            };
            let mut inside: Vec<_> = entries
                .flatten()
                .map(|entry| entry.path())
                .filter(is_rule_file)
                .take(MOST_FILES)
                .collect();
            inside.sort();
            paths.append(&mut inside);
        }
        paths
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let read = file.take(BIGGEST_FILE_BYTES + 1).read_to_end(&mut bytes);
    let length = read.map_err(|error| error.to_string())? as u64;
    if length > BIGGEST_FILE_BYTES {
        return Err("is bigger than 1 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

/// Looks after the files of `policies` for as long as it is polled: new rules come into force
/// within seconds, without a restart.
pub async fn watch(policies: Vec<Policy>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let policies = policies.clone();
        let look = move || policies.iter().for_each(look_again);
        if tokio::task::spawn_blocking(look).await.is_err() {
            tracing::error!("looking after the policy files failed");
        }
    }
}

fn look_again(policy: &Policy) {
    match policy.reload() {
        Ok(true) => tracing::info!("the policy files changed: their rules are in force"),
        Ok(false) => {}
        Err(error) => {
            tracing::error!(%error, "the policy files changed and do not fit: the rules stay as they were");
        }
    }
}
