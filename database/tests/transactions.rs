//! What the database layer promises, tried on a real file or on the server that
//! `BASALT_TEST_DATABASE` names.

#![allow(clippy::unwrap_used)] // Test code outside #[test] functions.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use database::{Database, Error, Value, params};
use tempfile::TempDir;
use uuid::Uuid;

/// A database, and what it takes to open it once more.
struct Home {
    folder: TempDir,
    url: String,
}

async fn open() -> (Database, Home) {
    let folder = tempfile::tempdir().unwrap();
    let url = database::testing::empty_url(folder.path()).await.unwrap();
    let home = Home { folder, url };
    let database = reopen(&home).await;
    let create = "CREATE TABLE things (id VARCHAR(36) NOT NULL PRIMARY KEY, number BIGINT, \
                  flag SMALLINT, text TEXT)";
    database.execute(create, params![]).await.unwrap();
    let create = "CREATE TABLE parts (name VARCHAR(64) NOT NULL, thing_id VARCHAR(36) NOT NULL, \
                  FOREIGN KEY (thing_id) REFERENCES things (id))";
    database.execute(create, params![]).await.unwrap();
    (database, home)
}

async fn reopen(home: &Home) -> Database {
    Database::open(&home.url).await.unwrap()
}

const INSERT: &str = "INSERT INTO things (id, number) VALUES (?, ?)";

async fn count(database: &Database) -> i64 {
    let row = database.fetch_one("SELECT COUNT(*) AS n FROM things", params![]);
    row.await.unwrap().get("n").unwrap()
}

#[tokio::test]
async fn a_commit_is_seen_and_survives_and_until_then_nobody_sees_it() {
    let (database, home) = open().await;
    let mut tx = database.begin().await.unwrap();
    assert_eq!(tx.execute(INSERT, params!["a", 1]).await.unwrap(), 1);
    let inside = tx.fetch_all("SELECT id FROM things", params![]).await;
    assert_eq!(inside.unwrap().len(), 1);
    assert_eq!(count(&database).await, 0);
    tx.commit().await.unwrap();
    assert_eq!(count(&database).await, 1);
    database.close().await;
    assert_eq!(count(&reopen(&home).await).await, 1);
}

#[tokio::test]
async fn what_is_not_committed_leaves_nothing_and_frees_the_writer() {
    let (database, home) = open().await;
    let mut dropped = database.begin().await.unwrap();
    dropped.execute(INSERT, params!["a", 1]).await.unwrap();
    drop(dropped);
    // Another process could write now, too: the lock is gone without a further call.
    let other = reopen(&home).await;
    other.execute(INSERT, params!["b", 1]).await.unwrap();
    let mut back = database.begin().await.unwrap();
    back.execute(INSERT, params!["c", 1]).await.unwrap();
    back.rollback().await.unwrap();
    let mut failed = database.begin().await.unwrap();
    failed.execute(INSERT, params!["d", 1]).await.unwrap();
    failed
        .execute("UPDATE nowhere SET x = 1", params![])
        .await
        .unwrap_err();
    drop(failed);
    let row = database.fetch_one("SELECT id FROM things", params![]).await;
    assert_eq!(row.unwrap().get::<String>("id").unwrap(), "b");
}

/// A request that is cut off drops its futures wherever they stand; the one writer survives.
#[tokio::test]
async fn a_caller_that_goes_away_at_any_point_does_not_block_the_writer() {
    let (database, _home) = open().await;
    for polls in 0..40 {
        let work = async {
            let mut tx = database.begin().await?;
            tx.execute(INSERT, params![Uuid::new_v4(), polls]).await?;
            tx.fetch_all("SELECT id FROM things", params![]).await?;
            tx.commit().await
        };
        {
            let mut work = pin!(work);
            let mut left = polls;
            let mut done = false;
            poll_fn(|context| {
                done = done || work.as_mut().poll(context).is_ready();
                left -= 1;
                if done || left <= 0 {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
        let before = count(&database).await;
        database
            .execute(INSERT, params![Uuid::new_v4(), -1])
            .await
            .unwrap();
        assert!(count(&database).await > before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_wait_for_each_other_and_lose_nothing() {
    let (database, home) = open().await;
    database.execute(INSERT, params!["sum", 0]).await.unwrap();
    let elsewhere = reopen(&home).await;
    let add = async |database: Database| {
        for _ in 0..25 {
            let mut tx = database.begin().await.unwrap();
            let row = tx
                .fetch_one("SELECT number FROM things", params![])
                .await
                .unwrap();
            let number: i64 = row.get("number").unwrap();
            tokio::task::yield_now().await;
            tx.execute("UPDATE things SET number = ?", params![number + 1])
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
    };
    tokio::join!(
        add(database.clone()),
        add(database.clone()),
        add(elsewhere.clone()),
        add(elsewhere)
    );
    let row = database
        .fetch_one("SELECT number FROM things", params![])
        .await
        .unwrap();
    assert_eq!(row.get::<i64>("number").unwrap(), 100);
}

#[tokio::test]
async fn values_come_back_as_they_went() {
    let (database, _home) = open().await;
    let insert = "INSERT INTO things (id, number, flag, text) VALUES (?, ?, ?, ?)";
    let texts = [
        "",
        "it's; --",
        "Größe 測試 🪨",
        "a\nb\tc",
        "{\"k\":[1,null]}",
        "123",
        " x ",
    ];
    let numbers = [0, 1, -1, i64::MAX, i64::MIN, i64::from(u32::MAX), 1 << 53];
    for (text, number) in texts.into_iter().zip(numbers) {
        let id = Uuid::new_v4();
        database
            .execute(insert, params![id, number, number > 0, text])
            .await
            .unwrap();
        let row = database
            .fetch_one("SELECT * FROM things WHERE id = ?", params![id])
            .await;
        let row = row.unwrap();
        assert_eq!(row.get::<Uuid>("id").unwrap(), id);
        assert_eq!(row.get::<i64>("number").unwrap(), number);
        assert_eq!(row.get::<bool>("flag").unwrap(), number > 0);
        assert_eq!(
            row.get::<Option<String>>("text").unwrap().as_deref(),
            Some(text)
        );
    }
    let nothing = params!["none", None::<i64>, &None::<bool>, Value::Null];
    database.execute(insert, nothing).await.unwrap();
    let sql = "SELECT number, flag, text, number + 1 AS sum FROM things WHERE id = 'none'";
    let row = database.fetch_one(sql, params![]).await.unwrap();
    assert_eq!(row.get::<Option<i64>>("number").unwrap(), None);
    assert_eq!(row.get::<Option<bool>>("flag").unwrap(), None);
    assert_eq!(row.get::<Option<String>>("text").unwrap(), None);
    assert_eq!(row.get::<Option<i64>>("sum").unwrap(), None);
}

#[tokio::test]
async fn a_value_of_another_shape_names_its_column() {
    let (database, _home) = open().await;
    let sql = "SELECT -1 AS minus, 'x' AS word, 5000000000 AS big, NULL AS missing";
    let row = database.fetch_one(sql, params![]).await.unwrap();
    let named = |error: Error| match error {
        Error::Decode { column, .. } => column,
        other => panic!("{other:?}"),
    };
    assert_eq!(named(row.get::<u64>("minus").unwrap_err()), "minus");
    assert_eq!(named(row.get::<i64>("word").unwrap_err()), "word");
    assert_eq!(named(row.get::<Uuid>("word").unwrap_err()), "word");
    assert_eq!(named(row.get::<u32>("big").unwrap_err()), "big");
    assert_eq!(named(row.get::<String>("missing").unwrap_err()), "missing");
    assert_eq!(named(row.get::<i64>("absent").unwrap_err()), "absent");
    assert_eq!(row.get::<u64>("big").unwrap(), 5_000_000_000);
    let real = database.fetch_one("SELECT 0.5 AS half", params![]).await;
    assert_eq!(named(real.unwrap_err()), "half");
}

#[tokio::test]
async fn errors_tell_what_the_caller_can_do() {
    let (database, home) = open().await;
    database.execute(INSERT, params!["a", 1]).await.unwrap();
    let twice = database.execute(INSERT, params!["a", 2]).await;
    assert!(matches!(twice, Err(Error::Constraint(_))), "{twice:?}");
    let null = database.execute(INSERT, params![Value::Null, 2]).await;
    assert!(matches!(null, Err(Error::Constraint(_))), "{null:?}");
    let part = "INSERT INTO parts (name, thing_id) VALUES ('p', ?)";
    let orphan = database.execute(part, params!["b"]).await;
    assert!(matches!(orphan, Err(Error::Constraint(_))), "{orphan:?}");
    database.execute(part, params!["a"]).await.unwrap();
    let in_use = database
        .execute("DELETE FROM things WHERE id = 'a'", params![])
        .await;
    assert!(matches!(in_use, Err(Error::Constraint(_))), "{in_use:?}");
    let none = database
        .fetch_one("SELECT id FROM things WHERE id = 'z'", params![])
        .await;
    assert!(matches!(none, Err(Error::NoRow)));
    let defect = database.fetch_all("SELEKT 1", params![]).await;
    assert!(matches!(defect, Err(Error::Other(_))), "{defect:?}");
    // A reader cannot write, whatever it is given.
    let write = database.fetch_all("DELETE FROM parts", params![]).await;
    assert!(matches!(write, Err(Error::Unavailable(_))), "{write:?}");

    let missing = home.folder.path().join("no folder/things.sqlite");
    let missing = Database::open(&format!("sqlite://{}", missing.display())).await;
    assert!(matches!(missing, Err(Error::Unavailable(_))), "{missing:?}");
    let other = Database::open("oracle://user:secret@host/cinder")
        .await
        .unwrap_err();
    assert!(!other.to_string().contains("secret"), "{other}");
    database.close().await;
    let closed = database.execute(INSERT, params!["c", 1]).await;
    assert!(matches!(closed, Err(Error::Unavailable(_))), "{closed:?}");
}
