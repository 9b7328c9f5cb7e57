//! Built statements against a real database: pages put together are the whole list.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use database::{Database, Row, Value, params};
use rest::QueryParams;
use rest::list_query::{Clause, Column, Columns, Kind, Operator, Select};

const COLUMNS: Columns = Columns {
    columns: &[
        Column::text("name", "name").nullable(),
        Column::int("size", "size"),
        Column::int("rank", "rank_no").nullable(),
    ],
    id: Column::text("id", "id"),
};

async fn filled() -> (tempfile::TempDir, Database) {
    let dir = tempfile::tempdir().unwrap();
    let database = database::testing::empty_database(dir.path()).await.unwrap();
    let create = "CREATE TABLE things (id CHAR(36) NOT NULL PRIMARY KEY, name VARCHAR(255), \
                  size BIGINT NOT NULL, rank_no BIGINT)";
    database.execute(create, params![]).await.unwrap();
    let mut tx = database.begin().await.unwrap();
    for n in 0..40_i64 {
        let name = (n % 5 != 0).then(|| format!("name{}%_!", n % 7));
        let rank = (n % 4 != 0).then_some(n % 3);
        let insert = "INSERT INTO things (id, name, size, rank_no) VALUES (?, ?, ?, ?)";
        let id = format!("id{:02}", (n * 17) % 40);
        tx.execute(insert, params![id, name, n % 6, rank])
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    (dir, database)
}

fn select(sort: &str) -> Select {
    let keys = rest::sort::take(&mut QueryParams::parse(sort).unwrap()).unwrap();
    Select::new("id, name, size, rank_no", "things").order(COLUMNS.order(&keys).unwrap())
}

async fn run(database: &Database, select: &Select) -> Vec<Row> {
    let (sql, params) = select.build();
    database.fetch_all(&sql, &params).await.unwrap()
}

fn ids(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.get("id").unwrap()).collect()
}

#[tokio::test]
async fn pages_put_together_are_the_whole_list() {
    let (_dir, database) = filled().await;
    for sort in [
        "sort=name:asc,size:desc",
        "sort=rank:desc",
        "sort=size:asc,name",
        "sort=id:asc",
        "sort=name,id:asc",
    ] {
        let whole = ids(&run(&database, &select(sort)).await);
        assert_eq!(whole.len(), 40);
        let keys = rest::sort::take(&mut QueryParams::parse(sort).unwrap()).unwrap();
        let order = COLUMNS.order(&keys).unwrap();
        let mut paged = Vec::new();
        let mut marker: Option<Vec<Value>> = None;
        loop {
            let mut page = select(sort).limit(7, 0);
            if let Some(marker) = marker {
                page = page.after(marker);
            }
            let rows = run(&database, &page).await;
            paged.extend(ids(&rows));
            let Some(last) = rows.last() else { break };
            let value = |column: Column| match column.kind {
                Kind::Text => last.get::<Option<String>>(column.sql).unwrap().into(),
                Kind::Int => last.get::<Option<i64>>(column.sql).unwrap().into(),
            };
            marker = Some(order.marker_columns().map(value).collect());
        }
        assert_eq!(paged, whole, "{sort}");
    }
}

#[tokio::test]
async fn conditions() {
    let (_dir, database) = filled().await;
    let count = async |clause: Clause| {
        let select = select("sort=id").filter(clause).limit(1, 0);
        let (sql, params) = select.build_count();
        database
            .fetch_one(&sql, &params)
            .await
            .unwrap()
            .get::<i64>("total")
            .unwrap()
    };
    assert_eq!(count(Clause::is_null("name")).await, 8);
    assert_eq!(count(Clause::equal("name", None::<String>)).await, 8);
    assert_eq!(count(Clause::is_not_null("name")).await, 32);
    assert_eq!(
        count(Clause::contains("name", "%_!")).await,
        32,
        "wildcards stand for themselves"
    );
    assert_eq!(count(Clause::contains("name", "e%%")).await, 0);
    assert_eq!(count(Clause::contains("name", "_ame")).await, 0);
    assert_eq!(
        count(Clause::is_in("id", ["id00", "id01", "nope"])).await,
        2
    );
    assert_eq!(count(Clause::is_in("id", Vec::<String>::new())).await, 0);
    assert_eq!(
        count(Clause::compare("size", Operator::GreaterOrEqual, 4_i64)).await,
        12
    );
    assert_eq!(count(Clause::equal("size", 5_i64).negated()).await, 34);
    assert_eq!(count(Clause::equal("id", "x' OR '1'='1")).await, 0);
    let either = Clause::any([Clause::equal("id", "id00"), Clause::equal("id", "id01")]);
    assert_eq!(
        count(Clause::all([either, Clause::equal("id", "id01")])).await,
        1
    );
    assert_eq!(count(Clause::all([])).await, 40);
    assert_eq!(count(Clause::any([])).await, 0);
}

#[test]
fn unknown_keys_and_markers_that_do_not_fit() {
    let keys = rest::sort::take(&mut QueryParams::parse("sort=size%3B--").unwrap()).unwrap();
    let error = COLUMNS.order(&keys).unwrap_err();
    assert_eq!(error.message, "Invalid input received: Invalid sort key");
    let (sql, _) = select("sort=size").after(vec![Value::Int(1)]).build();
    assert!(sql.contains("1 = 0"), "{sql}");
}
