//! Locations in a PATCH: what a client wrote is checked before the transaction (it may take asking
//! another server), and applied to the image's locations inside it.

use std::collections::{BTreeMap, HashSet};

use rest::RequestContext;
use serde_json::Value;

use super::access::Visible;
use super::json_patch::{LocationOperation, Operation};
use super::{attributes, locations as location_api};
use crate::ImageService;
use crate::data_source;
use crate::db::imports::PatchedData;
use crate::db::locations;
use crate::error::{Error, Result};
use crate::flows::upload::HASH_ALGORITHM;
use crate::hashing::Algorithm;
use crate::image::{Image, Location, Status};
use crate::imports;

/// Longest URL of a location, in characters.
const URL_CHARS_MAX: usize = 255;

/// A location that a client wrote.
#[derive(Debug, Clone)]
struct Written {
    location: Location,
    /// `checksum`, `os_hash_algo` and `os_hash_value`, where given.
    validation: BTreeMap<String, String>,
    /// Of a new one, where it is known.
    size_bytes: Option<u64>,
}

/// One operation, checked.
#[derive(Debug, Clone)]
enum Change {
    Add { position: String, written: Written },
    Replace(Vec<Written>),
    Remove { position: String },
}

/// The operations of a document that are about locations.
#[derive(Debug, Default)]
pub struct Changes(Vec<Change>);

/// What the changes make of an image.
#[derive(Debug, Default)]
pub struct Outcome {
    pub locations: Vec<Location>,
    pub removed: Vec<Location>,
    /// What a queued image gets by its first location.
    pub data: Option<PatchedData>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks who asks, and whether the new locations are ones.
    pub async fn prepare(
        service: &ImageService,
        context: &RequestContext,
        visible: &Visible,
        operations: &[Operation],
    ) -> Result<Self> {
        let wanted = operations.iter().filter_map(|operation| match operation {
            Operation::Location(operation) => Some(operation),
            _ => None,
        });
        let wanted: Vec<&LocationOperation> = wanted.collect();
        if wanted.is_empty() {
            return Ok(Changes::default());
        }
        let image = &visible.image;
        let held = locations::of_image(&service.database, image.id).await?;
        let held: HashSet<String> = held.into_iter().map(|held| held.url).collect();
        let mut changes = Vec::new();
        for operation in wanted {
            let (verb, rule) = match operation {
                LocationOperation::Add { .. } => ("add", "set_image_location"),
                LocationOperation::Replace { .. } => ("update", "set_image_location"),
                LocationOperation::Remove { .. } => ("remove", "delete_image_location"),
            };
            if !service.options.show_multiple_locations {
                return Err(Error::Forbidden(format!(
                    "It's not allowed to {verb} locations if locations are invisible."
                )));
            }
            visible.enforce(service, context, rule)?;
            changes.push(match operation {
                LocationOperation::Add { position, value } => Change::Add {
                    position: position.clone(),
                    written: write(service, context, image, &held, value).await?,
                },
                LocationOperation::Replace { value } => {
                    let items = value.as_array();
                    let items = items.ok_or_else(|| malformed("must be an array"))?;
                    let mut all = Vec::new();
                    for item in items {
                        all.push(write(service, context, image, &held, item).await?);
                    }
                    Change::Replace(all)
                }
                LocationOperation::Remove { position } => Change::Remove {
                    position: position.clone(),
                },
            });
        }
        Ok(Changes(changes))
    }

    /// Applies the changes, in order, to what the image has now.
    pub fn apply(
        &self,
        service: &ImageService,
        image: &Image,
        held: Vec<Location>,
    ) -> Result<Outcome> {
        imports::refuse_second(image)?;
        let before = held.len() as u64;
        let mut outcome = Outcome {
            locations: held,
            ..Outcome::default()
        };
        for change in &self.0 {
            match change {
                Change::Add { position, written } => {
                    check_may_write(image, "add")?;
                    let data = new_data(image, std::slice::from_ref(written))?;
                    let count = outcome.locations.len();
                    let at = position_of(position, count, true)
                        .ok_or_else(|| bad("Invalid position for adding a location."))?;
                    outcome.locations.insert(at, written.location.clone());
                    outcome.activate(image, data)?;
                }
                Change::Replace(all) => {
                    check_may_write(image, "replace")?;
                    let data = new_data(image, all)?;
                    outcome.replace(all)?;
                    outcome.activate(image, data)?;
                }
                Change::Remove { position } => outcome.remove(image, position)?,
            }
        }
        let mut urls = HashSet::new();
        if let Some(twice) = outcome.locations.iter().find(|one| !urls.insert(&one.url)) {
            return Err(bad(&format!("The location {} already exists", twice.url)));
        }
        let after = outcome.locations.len() as u64;
        let quota = service.options.image_location_quota;
        attributes::check_quota("locations", before, after, quota)?;
        Ok(outcome)
    }
}

impl Outcome {
    fn replace(&mut self, all: &[Written]) -> Result<()> {
        if all.is_empty() {
            let message = "Cannot set locations to empty list.";
            return Err(Error::Forbidden(message.to_owned()));
        }
        let urls = |locations: &mut dyn Iterator<Item = &Location>| {
            let mut urls: Vec<String> = locations.map(|one| one.url.clone()).collect();
            urls.sort_unstable();
            urls
        };
        let now = urls(&mut self.locations.iter());
        let wanted = urls(&mut all.iter().map(|written| &written.location));
        if !now.is_empty() && now != wanted {
            return Err(bad(
                "Original locations is not empty: only their metadata may change",
            ));
        }
        self.locations = all.iter().map(|written| written.location.clone()).collect();
        Ok(())
    }

    fn remove(&mut self, image: &Image, position: &str) -> Result<()> {
        if image.status != Status::Active {
            return Err(Error::Conflict(format!(
                "It's not allowed to remove locations if image status is {}.",
                image.status
            )));
        }
        if self.locations.len() <= 1 {
            let message = "Cannot remove last location in the image.";
            return Err(Error::Forbidden(message.to_owned()));
        }
        let at = position_of(position, self.locations.len(), false);
        let at = at.ok_or_else(|| bad("Invalid position for removing a location."))?;
        self.removed.push(self.locations.remove(at));
        Ok(())
    }

    /// A queued image becomes active by its first location.
    fn activate(&mut self, image: &Image, data: PatchedData) -> Result<()> {
        if image.status != Status::Queued {
            return Ok(());
        }
        if image.container_format.is_none() || image.disk_format.is_none() {
            return Err(bad(
                "Properties disk_format, container_format must be set prior to saving data.",
            ));
        }
        self.data.get_or_insert(data);
        Ok(())
    }
}

fn bad(message: &str) -> Error {
    Error::BadRequest(message.to_owned())
}

fn malformed(reason: &str) -> Error {
    attributes::mismatch(format!("{reason} (attribute 'locations')"))
}

fn check_may_write(image: &Image, verb: &str) -> Result<()> {
    match image.status {
        Status::Active | Status::Queued => Ok(()),
        status => Err(Error::Conflict(format!(
            "It's not allowed to {verb} locations if image status is {status}."
        ))),
    }
}

/// A position of the path: a number, or `-` for the end.
fn position_of(text: &str, count: usize, may_append: bool) -> Option<usize> {
    let last = if may_append {
        count
    } else {
        count.checked_sub(1)?
    };
    if text == "-" {
        return Some(last);
    }
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let position: usize = digits.then(|| text.parse().ok()).flatten()?;
    match may_append {
        true => Some(position.min(last)),
        false => (position <= last).then_some(position),
    }
}

/// Whether the URL lies in a store of ours, and for a user whether the data is the image's own:
/// nobody gets at another image's data by naming it.
pub fn check_place(
    service: &ImageService,
    context: &RequestContext,
    image: &Image,
    url: &str,
) -> Result<()> {
    match service.stores.of_url(url) {
        None => Err(bad("Invalid location")),
        Some((_, None)) => Ok(()),
        Some((_, Some(_))) => {
            let own = service.stores.own_pool(url, image.id).is_some();
            if own || context.is_admin || location_api::is_service(context) {
                return Ok(());
            }
            let message = "The location is not one of this image's own data.";
            Err(Error::Forbidden(message.to_owned()))
        }
    }
}

/// Reads one location of the document. One that the image does not have is looked at.
async fn write(
    service: &ImageService,
    context: &RequestContext,
    image: &Image,
    held: &HashSet<String>,
    value: &Value,
) -> Result<Written> {
    let url = value.get("url").and_then(Value::as_str);
    let url = url.filter(|url| url.chars().count() <= URL_CHARS_MAX);
    let url = url.ok_or_else(|| malformed("'url' must be a text of up to 255 characters"))?;
    let metadata = value.get("metadata").and_then(Value::as_object);
    let metadata = metadata.ok_or_else(|| malformed("'metadata' must be an object"))?;
    let validation = validation(value.get("validation_data"))?;
    let mut size_bytes = None;
    if !held.contains(url) {
        check_place(service, context, image, url)?;
        let size = data_source::size(service, url).await;
        size_bytes = size.map_err(|error| bad(&format!("Invalid location: {error}")))?;
    }
    let mut location = Location {
        url: url.to_owned(),
        metadata: metadata.clone(),
    };
    if let Some((store, _)) = service.stores.of_url(url) {
        store.mark(&mut location);
    }
    Ok(Written {
        location,
        validation,
        size_bytes,
    })
}

fn validation(value: Option<&Value>) -> Result<BTreeMap<String, String>> {
    let Some(value) = value else {
        return Ok(BTreeMap::new());
    };
    let members = value.as_object();
    let members = members.ok_or_else(|| malformed("'validation_data' must be an object"))?;
    let mut texts = BTreeMap::new();
    for (name, value) in members {
        if !matches!(name.as_str(), "checksum" | "os_hash_algo" | "os_hash_value") {
            return Err(malformed(&format!(
                "'validation_data' has an unknown '{name}'"
            )));
        }
        let text = value.as_str().filter(|text| text.len() <= 128);
        let text = text.ok_or_else(|| malformed(&format!("'{name}' must be a text")))?;
        texts.insert(name.clone(), text.to_owned());
    }
    for name in ["os_hash_algo", "os_hash_value"] {
        if !texts.contains_key(name) {
            return Err(malformed(&format!("'validation_data' needs '{name}'")));
        }
    }
    Ok(texts)
}

/// What the locations say of the data. 409 where they contradict each other or the image, or say
/// something new of an image that has data.
fn new_data(image: &Image, all: &[Written]) -> Result<PatchedData> {
    let conflict = |message: String| Err(Error::Conflict(message));
    let mut said: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, value) in all.iter().flat_map(|written| &written.validation) {
        let held = *said.entry(name).or_insert(value);
        if held != value {
            return conflict(format!("Conflicting values for {name}"));
        }
    }
    for (name, value) in &said {
        let held = match *name {
            "checksum" => &image.checksum,
            "os_hash_algo" => &image.os_hash_algo,
            _ => &image.os_hash_value,
        };
        match held {
            Some(held) if held == value => {}
            Some(_) => {
                return conflict(format!("{name} is already set with a different value"));
            }
            None if image.status != Status::Queued => {
                return conflict(format!(
                    "New value(s) for {name} may only be provided when image status is 'queued'"
                ));
            }
            None => check_new(name, value)?,
        }
    }
    let text = |name: &str| said.get(name).map(|value| (*value).to_owned());
    Ok(PatchedData {
        size_bytes: all.iter().find_map(|written| written.size_bytes),
        checksum: text("checksum"),
        os_hash_algo: text("os_hash_algo"),
        os_hash_value: text("os_hash_value"),
    })
}

fn check_new(name: &str, value: &str) -> Result<()> {
    let checked = match name {
        "os_hash_algo" if value != HASH_ALGORITHM => Err(format!(
            "os_hash_algo must be {HASH_ALGORITHM}, not {value}"
        )),
        "os_hash_algo" => Ok(()),
        "checksum" => Algorithm::Md5.check_value(name, value),
        _ => Algorithm::Sha512.check_value(name, value),
    };
    checked.map_err(Error::Conflict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        assert_eq!(position_of("-", 2, true), Some(2));
        assert_eq!(position_of("0", 2, true), Some(0));
        assert_eq!(position_of("9", 2, true), Some(2));
        assert_eq!(position_of("-", 2, false), Some(1));
        assert_eq!(position_of("2", 2, false), None);
        assert_eq!(position_of("-", 0, false), None);
        for text in ["", "x", "-1", "+1", "99999999999999999999999"] {
            assert_eq!(position_of(text, 2, false), None, "{text}");
        }
    }
}
