//! `basalt image metadefs load`: metadata definitions from files.

use std::io::{Write, stdout};
use std::path::Path;

use database::Database;
use image_service::Loaded;

use crate::error::{Error, Result};

/// Loads the folder's `*.json` files, the format of Glance's `etc/metadefs`, and says what became
/// of each.
pub async fn load(database: &Database, folder: &Path, replace: bool) -> Result<()> {
    let loaded = image_service::load_metadefs(database, folder, replace).await;
    let loaded = loaded.map_err(|error| Error::Usage(error.to_string()))?;
    let mut output = stdout().lock();
    for (file, what) in &loaded {
        let word = match what {
            Loaded::Created => "created",
            Loaded::Replaced => "replaced",
            Loaded::Kept => "kept",
        };
        writeln!(output, "{word:<9} {}", file.display())?;
    }
    Ok(())
}
