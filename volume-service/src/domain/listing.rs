//! A page of rows: filters, order, marker, count.

use database::{Database, Row, Value, params};
use rest::list_query::{Clause, Column, Columns, Kind, Operator, Select};
use rest::paging::Page;
use rest::sort::{Direction, SortKey};

use crate::db::Source;
use crate::{Error, Result};

/// What a list request asks for, already checked.
#[derive(Debug)]
pub struct Query {
    pub filters: Vec<Clause>,
    pub sort: Vec<SortKey>,
    pub page: Page,
    /// Also count all rows (`with_count`).
    pub with_count: bool,
}

/// Rows of a page, and how many there are in all if that was asked for.
#[derive(Debug)]
pub struct Rows<T> {
    pub rows: Vec<T>,
    pub total: Option<u64>,
}

/// Where a resource's rows are.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// For "Volume 1234 could not be found." about an unknown marker.
    pub resource: &'static str,
    pub name: &'static str,
    pub columns: &'static str,
    pub sortable: &'static Columns,
    /// Rows stay after their deletion, with `deleted_at` set.
    pub soft_deleted: bool,
}

/// Reads one page.
pub async fn fetch<T>(
    database: &Database,
    table: &Table,
    query: Query,
    read: impl Fn(&Row) -> database::Result<T>,
) -> Result<Rows<T>> {
    let order = table.sortable.order(&query.sort)?;
    let mut select = Select::new(table.columns, table.name).filters(query.filters);
    if table.soft_deleted {
        select = select.filter(Clause::is_null("deleted_at"));
    }
    let total = match query.with_count {
        false => None,
        true => {
            let (sql, values) = select.build_count();
            Some(database.fetch_one(&sql, &values).await?.get("total")?)
        }
    };
    let columns: Vec<_> = order.marker_columns().collect();
    select = select.order(order);
    if let Some(marker) = &query.page.marker {
        let last = marker_values(database, table, &columns, marker).await?;
        select = select
            .filters(range(&columns, &query.sort, &last))
            .after(last);
    }
    let (sql, values) = select.limit(query.page.limit, query.page.offset).build();
    let rows = database.fetch_all(&sql, &values).await?;
    Ok(Rows {
        rows: rows.iter().map(read).collect::<database::Result<_>>()?,
        total,
    })
}

/// The bound of the first key alone: what lets an index begin at the marker, which the exact
/// condition with its alternatives does not.
fn range(columns: &[Column], sort: &[SortKey], last: &[Value]) -> Option<Clause> {
    let (column, key, value) = (columns.first()?, sort.first()?, last.first()?);
    let operator = match key.direction {
        Direction::Ascending => Operator::GreaterOrEqual,
        Direction::Descending => Operator::LessOrEqual,
    };
    (!column.nullable).then(|| Clause::compare(column.sql, operator, value.clone()))
}

async fn marker_values(
    database: &Database,
    table: &Table,
    columns: &[Column],
    marker: &str,
) -> Result<Vec<Value>> {
    let names: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| format!("{} AS k{at}", column.sql))
        .collect();
    let live = if table.soft_deleted {
        " AND deleted_at IS NULL"
    } else {
        ""
    };
    let sql = format!(
        "SELECT {} FROM {} WHERE id = ?{live}",
        names.join(", "),
        table.name
    );
    let row = Source::from(database)
        .fetch_optional(&sql, params![marker])
        .await?;
    let row = row.ok_or_else(|| Error::no_such(table.resource, marker))?;
    let value = |(at, column): (usize, &Column)| -> Result<Value> {
        let name = format!("k{at}");
        Ok(match column.kind {
            Kind::Int => row.get::<Option<i64>>(&name)?.into(),
            Kind::Text => row.get::<Option<String>>(&name)?.into(),
        })
    };
    columns.iter().enumerate().map(value).collect()
}
