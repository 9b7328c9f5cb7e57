//! Databases for tests: SQLite in a folder, or the server that `BASALT_TEST_DATABASE` names.
//!
//! The server is thrown away after the tests, so nobody drops what is made on it.

use std::path::Path;

use tokio::sync::OnceCell;

use crate::{Database, Result, migrate};

/// The variable with the address of a server on which tests may create databases
/// (`postgresql://…/postgres`, `mysql://…/mysql`).
const SERVER: &str = "BASALT_TEST_DATABASE";

/// A new database without tables: `folder/test.sqlite`, or one more on the server.
pub async fn empty_database(folder: &Path) -> Result<Database> {
    Database::open(&empty_url(folder).await?).await
}

/// The address of a new database without tables, to open it more than once.
pub async fn empty_url(folder: &Path) -> Result<String> {
    match server() {
        None => Ok(format!("sqlite://{}", folder.join("test.sqlite").display())),
        Some(server) => create(&server, "").await,
    }
}

/// A new database with this release's tables. They are made once and copied where that is possible.
pub async fn migrated_database(folder: &Path) -> Result<Database> {
    match server() {
        None => migrated_file(folder).await,
        Some(server) if server.starts_with("postgres") => {
            let template = postgres_template(&server).await?;
            Database::open(&create(&server, &format!("TEMPLATE {template}")).await?).await
        }
        Some(_) => {
            let database = empty_database(folder).await?;
            migrate::run(&database).await?;
            Ok(database)
        }
    }
}

/// A new SQLite database with this release's tables, whatever server the others are on.
pub async fn migrated_file(folder: &Path) -> Result<Database> {
    let path = folder.join("test.sqlite");
    std::fs::write(&path, sqlite_template().await?).map_err(crate::Error::from_io)?;
    Database::open(&format!("sqlite://{}", path.display())).await
}

fn server() -> Option<String> {
    std::env::var(SERVER).ok()
}

/// Creates a database of a new name; returns its address.
async fn create(server: &str, options: &str) -> Result<String> {
    let name = format!("basalt_{}", uuid::Uuid::new_v4().simple());
    let charset = if server.starts_with("mysql") {
        "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    } else {
        ""
    };
    let admin = Database::open(server).await?;
    let statement = format!("CREATE DATABASE {name} {charset} {options}");
    admin.outside_of_transactions(&statement).await?;
    admin.close().await;
    let (address, _) = server.rsplit_once('/').unwrap_or((server, ""));
    Ok(format!("{address}/{name}"))
}

/// The bytes of a migrated file.
async fn sqlite_template() -> Result<&'static [u8]> {
    static TEMPLATE: OnceCell<Vec<u8>> = OnceCell::const_new();
    let make = || async {
        let name = format!("basalt-template-{}", uuid::Uuid::new_v4());
        let path = std::env::temp_dir().join(name);
        let database = Database::open(&format!("sqlite://{}", path.display())).await?;
        migrate::run(&database).await?;
        database.close().await;
        let bytes = std::fs::read(&path).map_err(crate::Error::from_io)?;
        std::fs::remove_file(&path).map_err(crate::Error::from_io)?;
        Ok::<_, crate::Error>(bytes)
    };
    Ok(TEMPLATE.get_or_try_init(make).await?)
}

/// The name of a migrated database that nobody is connected to.
async fn postgres_template(server: &str) -> Result<&'static str> {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    let make = || async {
        let url = create(server, "").await?;
        let database = Database::open(&url).await?;
        migrate::run(&database).await?;
        database.close().await;
        let name = url.rsplit('/').next().unwrap_or_default();
        Ok::<_, crate::Error>(name.to_owned())
    };
    Ok(TEMPLATE.get_or_try_init(make).await?)
}
