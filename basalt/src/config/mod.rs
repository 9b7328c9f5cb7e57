//! The configuration: INI files merged in their order, then the environment, checked against
//! the table of [`options`].
//!
//! A file's value replaces the one of the file before it (values of options that may be given
//! several times add up), and `OS_<SECTION>__<OPTION>` of the environment replaces both, as in
//! oslo.config. What is wrong stops the start, with the option's name and the reason.

pub mod backends;
pub mod ceph;
pub mod identity;
mod ini;
pub mod messaging;
pub mod options;
pub mod policy;
pub mod services;
pub mod settings;
mod substitution;
mod value;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use options::{BACKEND, IMAGE_STORE, Kind, OPTIONS, OptionSpec};
pub use settings::Settings;
use value::Value;

/// A configuration file is read whole; a bigger one is not one.
const BIGGEST_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// What stops the start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration file {}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("option [{section}] {name}{place}: {reason}")]
    Option {
        section: String,
        name: String,
        place: String,
        reason: String,
    },
}

impl ConfigError {
    /// A value that is well formed but does not fit.
    pub fn option(section: &str, name: &str, reason: impl Into<String>) -> Self {
        let (section, name) = (section.to_owned(), name.to_owned());
        ConfigError::Option {
            section,
            name,
            place: String::new(),
            reason: reason.into(),
        }
    }
}

/// The texts given for an option, and where the last one stands (for messages).
#[derive(Debug, Clone, Default)]
struct Given {
    texts: Vec<String>,
    place: String,
}

/// Every option that was given, checked; the others have their defaults.
#[derive(Debug, Default)]
pub struct Config {
    given: BTreeMap<(String, String), Given>,
    /// Sections that a list of backends names, with the section of the table that they are like.
    likes: BTreeMap<String, &'static str>,
    warnings: Vec<String>,
    /// Of the last file: what other files' relative paths start from.
    folder: Option<PathBuf>,
}

impl Config {
    /// Reads the files in order, then `environment`, and checks every value.
    pub fn load<E>(files: &[PathBuf], environment: E) -> Result<Self, ConfigError>
    where
        E: IntoIterator<Item = (String, String)>,
    {
        let mut config = Config::default();
        for path in files {
            config.merge_file(path)?;
            config.folder = path.parent().map(Path::to_owned);
        }
        config.find_backends(&[])?;
        config.merge_environment(environment)?;
        config.check()?;
        Ok(config)
    }

    /// A path of the configuration: relative ones start beside its file.
    pub fn beside(&self, path: &str) -> PathBuf {
        self.folder.as_deref().unwrap_or(Path::new("")).join(path)
    }

    /// Whether a file or the environment gave the option.
    pub fn is_given(&self, section: &str, name: &str) -> bool {
        self.given(section, name).is_some()
    }

    /// What an operator should know, such as options that nothing reads.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Adds one file's assignments on top.
    fn merge_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let failed = |reason: String| ConfigError::File {
            path: path.to_owned(),
            reason,
        };
        let text = read_text(path).map_err(failed)?;
        let assignments = ini::parse(&text).map_err(|error| failed(error.to_string()))?;
        for one in assignments {
            let place = format!(" ({}:{})", path.display(), one.line);
            self.put(&one.section, &one.name, one.value, place);
        }
        Ok(())
    }

    /// The sections of backends and stores, from the files and, on top of them, `variables`.
    fn find_backends(&mut self, variables: &[(String, String)]) -> Result<(), ConfigError> {
        for (section, like) in LISTS {
            let wanted = format!("OS_{}__ENABLED_BACKENDS", section.to_ascii_uppercase());
            let given = variables.iter().find(|(name, _)| *name == wanted);
            if let Some((_, text)) = given {
                let place = " (environment)".to_owned();
                self.put(section, "enabled_backends", text.clone(), place);
            }
            self.likes.retain(|_, held| *held != like);
            for item in self.list(section, "enabled_backends")? {
                let name = item.split(':').next().unwrap_or_default().trim().to_owned();
                if self
                    .likes
                    .insert(name.clone(), like)
                    .is_some_and(|held| held != like)
                {
                    let reason = format!("{name:?} is a backend of the volume service already");
                    return Err(ConfigError::option(section, "enabled_backends", reason));
                }
            }
        }
        Ok(())
    }

    /// Adds the variables `OS_<SECTION>__<OPTION>`; others are not ours.
    fn merge_environment<E>(&mut self, environment: E) -> Result<(), ConfigError>
    where
        E: IntoIterator<Item = (String, String)>,
    {
        let mut variables: Vec<_> = environment.into_iter().collect();
        // Which sections are backends must be known before their options are looked up.
        self.find_backends(&variables)?;
        variables.sort();
        for (variable, text) in variables {
            let Some((section, name)) = variable
                .strip_prefix("OS_")
                .and_then(|rest| rest.split_once("__"))
            else {
                continue;
            };
            match self.name_of_variable(section, name) {
                Some((section, name)) => {
                    self.given.remove(&(section.clone(), name.clone()));
                    self.put(
                        &section,
                        &name,
                        text,
                        format!(" (environment variable {variable})"),
                    );
                }
                None => self
                    .warnings
                    .push(format!("environment variable {variable}: no such option")),
            }
        }
        Ok(())
    }

    /// The option that a variable's upper-case names mean.
    fn name_of_variable(&self, section: &str, name: &str) -> Option<(String, String)> {
        let same = |written: &str, variable: &str| {
            written
                .replace(['-', ' '], "_")
                .eq_ignore_ascii_case(variable)
        };
        let backend = self
            .likes
            .iter()
            .find(|(backend, _)| same(backend, section));
        let table = backend.map_or(section, |(_, like)| *like);
        let option = OPTIONS
            .iter()
            .find(|option| same(option.section, table) && same(option.name, name))?;
        let section = backend.map_or(option.section, |(backend, _)| backend.as_str());
        Some((section.to_owned(), option.name.to_owned()))
    }

    fn put(&mut self, section: &str, name: &str, text: String, place: String) {
        let given = self
            .given
            .entry((section.to_owned(), name.to_owned()))
            .or_default();
        let adds_up = self::find(&self.likes, section, name)
            .is_some_and(|option| option.kind == Kind::MultiText);
        if !adds_up {
            given.texts.clear();
        }
        given.texts.push(text);
        given.place = place;
    }

    /// Checks everything that was given, so that no bad value hides until it is used.
    fn check(&mut self) -> Result<(), ConfigError> {
        let mut unknown = Vec::new();
        for (section, name) in self.given.keys() {
            match find(&self.likes, section, name) {
                Some(option) => drop(self.value_of(section, option)?),
                None => {
                    let place = self
                        .given
                        .get(&(section.clone(), name.clone()))
                        .map(|given| given.place.as_str());
                    let place = place.unwrap_or_default();
                    let unused = options::UNUSED.iter();
                    let reason = unused
                        .filter(|(in_section, of, _)| section == in_section && name == of)
                        .map(|(_, _, reason)| format!("is not used: {reason}"))
                        .next();
                    let reason = reason.unwrap_or_else(|| "no such option".to_owned());
                    unknown.push(format!("option [{section}] {name}{place}: {reason}"));
                }
            }
        }
        self.warnings.append(&mut unknown);
        Ok(())
    }

    /// The value of an option as it stands in `section`, or its default.
    fn value_of(&self, section: &str, option: &'static OptionSpec) -> Result<Value, ConfigError> {
        let given = self.given(section, option.name);
        let failed = |reason: String| ConfigError::Option {
            section: section.to_owned(),
            name: option.name.to_owned(),
            place: given.map(|given| given.place.clone()).unwrap_or_default(),
            reason: if option.kind == Kind::Secret {
                "the value does not fit".to_owned()
            } else {
                reason
            },
        };
        let default = [option.default.to_owned()];
        let texts = given.map_or(&default[..], |given| &given.texts);
        let lookup = |section: &str, name: &str| self.raw(section, name);
        let texts = texts
            .iter()
            .map(|text| substitution::substitute(text, section, &lookup));
        let texts = texts.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        value::check(option, &texts).map_err(failed)
    }

    /// What was given for the option; a backend takes `[backend_defaults]` for what it lacks, a
    /// store `[glance_store]`.
    fn given(&self, section: &str, name: &str) -> Option<&Given> {
        let at = |section: &str| self.given.get(&(section.to_owned(), name.to_owned()));
        at(section).or_else(|| {
            let like = self.likes.get(section).copied();
            like.and_then(at)
        })
    }

    /// The text of an option for a reference to it; also of one that nothing else reads.
    fn raw(&self, section: &str, name: &str) -> Option<String> {
        let given = self
            .given(section, name)
            .and_then(|given| given.texts.last().cloned());
        given.or_else(|| find(&self.likes, section, name).map(|option| option.default.to_owned()))
    }

    fn get(&self, section: &str, name: &str) -> Result<Value, ConfigError> {
        let option = find(&self.likes, section, name).ok_or_else(|| {
            ConfigError::option(section, name, "is missing in the table of options")
        })?;
        self.value_of(section, option)
    }

    /// A text; `None` where it is empty or not set.
    pub fn text(&self, section: &str, name: &str) -> Result<Option<String>, ConfigError> {
        match self.get(section, name)? {
            Value::Text(text) if !text.is_empty() => Ok(Some(text)),
            _ => Ok(None),
        }
    }

    pub fn boolean(&self, section: &str, name: &str) -> Result<bool, ConfigError> {
        Ok(matches!(self.get(section, name)?, Value::Boolean(true)))
    }

    /// A whole number, as the type that has room for it.
    pub fn integer<T: TryFrom<i64>>(&self, section: &str, name: &str) -> Result<T, ConfigError> {
        let number = match self.get(section, name)? {
            Value::Integer(number) => T::try_from(number).ok(),
            _ => None,
        };
        number.ok_or_else(|| ConfigError::option(section, name, "is out of range"))
    }

    pub fn number(&self, section: &str, name: &str) -> Result<f64, ConfigError> {
        match self.get(section, name)? {
            Value::Number(number) => Ok(number),
            _ => Err(ConfigError::option(section, name, "is not a number")),
        }
    }

    pub fn list(&self, section: &str, name: &str) -> Result<Vec<String>, ConfigError> {
        match self.get(section, name)? {
            Value::List(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }
}

/// Lists of backends: the section of each, and the section of the table that is theirs.
const LISTS: [(&str, &str); 2] = [("DEFAULT", BACKEND), ("image_api", IMAGE_STORE)];

fn find(
    likes: &BTreeMap<String, &'static str>,
    section: &str,
    name: &str,
) -> Option<&'static OptionSpec> {
    options::find(likes.get(section).copied().unwrap_or(section), name)
}

fn read_text(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let read = file
        .take(BIGGEST_FILE_BYTES.saturating_add(1))
        .read_to_end(&mut bytes);
    let length = read.map_err(|error| error.to_string())?;
    if u64::try_from(length).is_ok_and(|length| length > BIGGEST_FILE_BYTES) {
        return Err("is bigger than 4 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    }

    fn files(texts: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let write = |(number, text): (usize, &&str)| {
            let path = folder.path().join(format!("{number}.conf"));
            std::fs::write(&path, text).unwrap();
            path
        };
        let paths = texts.iter().enumerate().map(write).collect();
        (folder, paths)
    }

    fn load(texts: &[&str], pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let (_folder, paths) = files(texts);
        Config::load(&paths, environment(pairs))
    }

    #[test]
    fn later_files_win_and_the_environment_wins_over_both() {
        let first = "[DEFAULT]\nquota_volumes = 1\nquota_backups = 2\nquota_snapshots = 3\n";
        let second = "[DEFAULT]\nquota_backups = 20\nquota_snapshots = 30\n";
        let config = load(&[first, second], &[("OS_DEFAULT__QUOTA_SNAPSHOTS", "300")]).unwrap();
        let number = |name: &str| config.integer::<i64>("DEFAULT", name).unwrap();
        assert_eq!(number("quota_volumes"), 1);
        assert_eq!(number("quota_backups"), 20);
        assert_eq!(number("quota_snapshots"), 300);
        assert_eq!(number("quota_gigabytes"), 1000);
        assert!(config.warnings().is_empty());
    }

    #[test]
    fn values_that_may_repeat_add_up() {
        let config = load(
            &[
                "[dev_identity]\nuser = a:p:x:member\nuser = b:p:x:member\n",
                "[dev_identity]\nuser = c:p:x:member\n",
            ],
            &[],
        );
        assert_eq!(
            config.unwrap().list("dev_identity", "user").unwrap().len(),
            3
        );
    }

    #[test]
    fn a_backend_takes_the_defaults_of_all_backends() {
        let text = "[DEFAULT]\nenabled_backends = fast, slow\n[backend_defaults]\nrbd_max_clone_depth = 7\n\
                    [fast]\nrbd_pool = nvme\nrbd_max_clone_depth = 2\n[slow]\nrbd_pool = $DEFAULT.host\n";
        let config = load(&[text], &[("OS_SLOW__VOLUME_BACKEND_NAME", "tape")]).unwrap();
        assert!(config.warnings().is_empty(), "{:?}", config.warnings());
        assert_eq!(
            config
                .integer::<u32>("fast", "rbd_max_clone_depth")
                .unwrap(),
            2
        );
        assert_eq!(
            config
                .integer::<u32>("slow", "rbd_max_clone_depth")
                .unwrap(),
            7
        );
        assert_eq!(
            config.text("fast", "rbd_pool").unwrap().as_deref(),
            Some("nvme")
        );
        assert_eq!(
            config.text("slow", "rbd_pool").unwrap().as_deref(),
            Some("basalt")
        );
        assert_eq!(
            config
                .text("slow", "volume_backend_name")
                .unwrap()
                .as_deref(),
            Some("tape")
        );
    }

    #[test]
    fn backends_of_the_environment_are_known_to_it() {
        let config = load(
            &[],
            &[
                ("OS_A_1__RBD_POOL", "x"),
                ("OS_DEFAULT__ENABLED_BACKENDS", "a-1"),
            ],
        )
        .unwrap();
        assert_eq!(
            config.text("a-1", "rbd_pool").unwrap().as_deref(),
            Some("x")
        );
    }

    #[test]
    fn unknown_options_warn() {
        let text = "[DEFAULT]\nno_such = 1\nrbd_pool = x\n[nowhere]\nrbd_pool = x\n";
        let config = load(&[text], &[("OS_DEFAULT__NONSENSE", "1"), ("OS_CLOUD", "x")]).unwrap();
        let warnings = config.warnings();
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert!(
            warnings
                .iter()
                .any(|warning| warning.contains("[nowhere] rbd_pool"))
        );
        assert!(
            warnings
                .iter()
                .any(|warning| warning.contains("OS_DEFAULT__NONSENSE"))
        );
    }

    #[test]
    fn bad_values_name_option_place_and_reason() {
        let (folder, paths) = files(&["[DEFAULT]\nquota_volumes = ten\n"]);
        let error = Config::load(&paths, []).unwrap_err().to_string();
        let place = folder.path().join("0.conf");
        let expected = format!(
            "option [DEFAULT] quota_volumes ({}:2): \"ten\" is not a whole number",
            place.display()
        );
        assert_eq!(error, expected);
        let error = load(&[], &[("OS_IMAGE_API__BIND_PORT", "70000")])
            .unwrap_err()
            .to_string();
        let expected = "option [image_api] bind_port (environment variable OS_IMAGE_API__BIND_PORT): \
                        70000 is not between 0 and 65535";
        assert_eq!(error, expected);
    }

    #[test]
    fn secrets_are_not_quoted() {
        let error = load(&["[database]\nconnection = mysql://u:hunter$two@h/\n"], &[]).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("[database] connection") && !error.contains("hunter"),
            "{error}"
        );
    }

    #[test]
    fn files_that_are_none() {
        let missing = Config::load(&[PathBuf::from("/nonexistent/basalt.conf")], []).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/basalt.conf"));
        let folder = tempfile::tempdir().unwrap();
        assert!(Config::load(&[folder.path().to_owned()], []).is_err());
        let binary = folder.path().join("binary");
        std::fs::write(&binary, [b'[', 0xff, b']']).unwrap();
        assert!(
            Config::load(&[binary], [])
                .unwrap_err()
                .to_string()
                .contains("UTF-8")
        );
        assert!(
            Config::load(&[PathBuf::from("/dev/zero")], [])
                .unwrap_err()
                .to_string()
                .contains("4 MiB")
        );
    }
}
