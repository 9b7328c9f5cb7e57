//! A small builder of portable SELECT statements for lists: conditions, order, keyset paging.
//!
//! Safe by type: names of tables and columns are `&'static str` from the program, everything of
//! the client's is a `?` parameter.

use database::Value;

use crate::BadInput;
use crate::sort::{Direction, SortKey};

/// A column that a list may be sorted or filtered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The API's name: `name`.
    pub key: &'static str,
    /// The column, qualified where the statement joins: `v.display_name`.
    pub sql: &'static str,
    pub kind: Kind,
    /// NULL sorts as the empty text or 0, in every dialect alike.
    pub nullable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Int,
}

impl Column {
    pub const fn text(key: &'static str, sql: &'static str) -> Self {
        Self {
            key,
            sql,
            kind: Kind::Text,
            nullable: false,
        }
    }

    pub const fn int(key: &'static str, sql: &'static str) -> Self {
        Self {
            key,
            sql,
            kind: Kind::Int,
            nullable: false,
        }
    }

    pub const fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }

    fn expression(&self) -> String {
        match (self.nullable, self.kind) {
            (false, _) => self.sql.to_owned(),
            (true, Kind::Text) => format!("COALESCE({}, '')", self.sql),
            (true, Kind::Int) => format!("COALESCE({}, 0)", self.sql),
        }
    }

    /// What a NULL of the marker's row compares as.
    fn comparable(&self, value: Value) -> Value {
        match (value, self.kind) {
            (Value::Null, Kind::Text) => Value::from(""),
            (Value::Null, Kind::Int) => Value::Int(0),
            (present, _) => present,
        }
    }
}

/// The allow-list of a resource; the tie break comes last in every order.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    pub columns: &'static [Column],
    /// The unique id.
    pub id: Column,
}

impl Columns {
    pub fn find(&self, key: &str) -> Option<Column> {
        self.columns
            .iter()
            .chain([&self.id])
            .find(|column| column.key == key)
            .copied()
    }

    /// The order for `keys`, with the id appended as tie break; an unknown key is a 400.
    pub fn order(&self, keys: &[SortKey]) -> Result<Order, BadInput> {
        let mut columns: Vec<(Column, Direction)> = Vec::with_capacity(keys.len() + 1);
        for key in keys {
            let column = self
                .find(&key.key)
                .ok_or_else(|| BadInput::invalid_input("Invalid sort key"))?;
            if !columns.iter().any(|(held, _)| held.sql == column.sql) {
                columns.push((column, key.direction));
            }
        }
        if !columns.iter().any(|(held, _)| held.sql == self.id.sql) {
            let direction = columns
                .first()
                .map_or(Direction::Descending, |(_, first)| *first);
            columns.push((self.id, direction));
        }
        Ok(Order { columns })
    }
}

/// A total order over a resource's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    columns: Vec<(Column, Direction)>,
}

impl Order {
    /// `SELECT` list of what identifies the marker's place: the service reads these columns of
    /// the marker's row, in this order, and gives the values to [`Select::after`].
    pub fn marker_columns(&self) -> impl Iterator<Item = Column> {
        self.columns.iter().map(|(column, _)| *column)
    }

    fn sql(&self) -> String {
        let keys: Vec<_> = self
            .columns
            .iter()
            .map(|(column, direction)| {
                let word = match direction {
                    Direction::Ascending => "ASC",
                    Direction::Descending => "DESC",
                };
                format!("{} {word}", column.expression())
            })
            .collect();
        keys.join(", ")
    }

    /// Rows that come behind `marker`: `(a < ?) OR (a = ? AND id < ?)`.
    fn behind(&self, marker: Vec<Value>) -> Option<Clause> {
        if marker.len() != self.columns.len() {
            return None;
        }
        let place: Vec<(Column, Direction, Value)> = self
            .columns
            .iter()
            .zip(marker)
            .map(|((column, direction), value)| (*column, *direction, column.comparable(value)))
            .collect();
        let alternatives = place
            .iter()
            .enumerate()
            .map(|(n, (column, direction, value))| {
                let operator = match direction {
                    Direction::Ascending => ">",
                    Direction::Descending => "<",
                };
                let equal = place.iter().take(n).map(|(column, _, value)| {
                    Clause::sql(format!("{} = ?", column.expression()), vec![value.clone()])
                });
                let beyond = Clause::sql(
                    format!("{} {operator} ?", column.expression()),
                    vec![value.clone()],
                );
                Clause::all(equal.chain([beyond]))
            });
        Some(Clause::any(alternatives))
    }
}

/// A comparison of an integer column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    pub const fn sql(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

/// A condition with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    sql: String,
    params: Vec<Value>,
}

impl Clause {
    fn sql(sql: String, params: Vec<Value>) -> Self {
        Self { sql, params }
    }

    /// A condition written out; each `?` takes one of `params`.
    pub fn raw(sql: &'static str, params: Vec<Value>) -> Self {
        Self::sql(sql.to_owned(), params)
    }

    /// `column = ?`; `column IS NULL` for a null.
    pub fn equal(column: &'static str, value: impl Into<Value>) -> Self {
        match value.into() {
            Value::Null => Self::is_null(column),
            value => Self::sql(format!("{column} = ?"), vec![value]),
        }
    }

    pub fn compare(column: &'static str, operator: Operator, value: impl Into<Value>) -> Self {
        Self::sql(format!("{column} {} ?", operator.sql()), vec![value.into()])
    }

    /// `column IN (?, …)`; nothing equals one of no values.
    pub fn is_in<V: Into<Value>>(
        column: &'static str,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        let params: Vec<Value> = values.into_iter().map(Into::into).collect();
        if params.is_empty() {
            return Self::sql("1 = 0".to_owned(), params);
        }
        let marks = vec!["?"; params.len()].join(", ");
        Self::sql(format!("{column} IN ({marks})"), params)
    }

    /// `column` has `text` somewhere inside; `%` and `_` of the text stand for themselves.
    pub fn contains(column: &'static str, text: &str) -> Self {
        let mut pattern = String::with_capacity(text.len() + 2);
        pattern.push('%');
        for c in text.chars() {
            if matches!(c, '%' | '_' | '!') {
                pattern.push('!');
            }
            pattern.push(c);
        }
        pattern.push('%');
        // '!' and not '\': a backslash means different things in the dialects' strings.
        Self::sql(
            format!("{column} LIKE ? ESCAPE '!'"),
            vec![Value::Text(pattern)],
        )
    }

    pub fn is_null(column: &'static str) -> Self {
        Self::sql(format!("{column} IS NULL"), Vec::new())
    }

    pub fn is_not_null(column: &'static str) -> Self {
        Self::sql(format!("{column} IS NOT NULL"), Vec::new())
    }

    pub fn all(clauses: impl IntoIterator<Item = Clause>) -> Self {
        Self::join(clauses, " AND ", "1 = 1")
    }

    pub fn any(clauses: impl IntoIterator<Item = Clause>) -> Self {
        Self::join(clauses, " OR ", "1 = 0")
    }

    pub fn negated(self) -> Self {
        Self {
            sql: format!("NOT ({})", self.sql),
            params: self.params,
        }
    }

    fn join(clauses: impl IntoIterator<Item = Clause>, word: &str, empty: &str) -> Self {
        let mut parts = Vec::new();
        let mut params = Vec::new();
        for clause in clauses {
            parts.push(format!("({})", clause.sql));
            params.extend(clause.params);
        }
        let sql = if parts.is_empty() {
            empty.to_owned()
        } else {
            parts.join(word)
        };
        Self { sql, params }
    }
}

/// A statement in the making: `SELECT columns FROM tables WHERE … ORDER BY … LIMIT ? OFFSET ?`.
#[derive(Debug, Clone)]
pub struct Select {
    columns: &'static str,
    tables: &'static str,
    filter: Vec<Clause>,
    behind: Option<Clause>,
    order: Option<Order>,
    limit: Option<(u32, u32)>,
}

impl Select {
    pub fn new(columns: &'static str, tables: &'static str) -> Self {
        Self {
            columns,
            tables,
            filter: Vec::new(),
            behind: None,
            order: None,
            limit: None,
        }
    }

    /// Another condition that rows have to meet.
    #[must_use]
    pub fn filter(mut self, clause: Clause) -> Self {
        self.filter.push(clause);
        self
    }

    #[must_use]
    pub fn filters(mut self, clauses: impl IntoIterator<Item = Clause>) -> Self {
        self.filter.extend(clauses);
        self
    }

    /// The order; call before [`Select::after`].
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = Some(order);
        self
    }

    /// Only rows behind the marker's row, whose values of [`Order::marker_columns`] these are.
    /// Values that do not fit the order match nothing.
    #[must_use]
    pub fn after(mut self, marker: Vec<Value>) -> Self {
        let behind = self.order.as_ref().and_then(|order| order.behind(marker));
        self.behind = Some(behind.unwrap_or_else(|| Clause::any([])));
        self
    }

    #[must_use]
    pub fn limit(mut self, limit: u32, offset: u32) -> Self {
        self.limit = Some((limit, offset));
        self
    }

    /// The statement and its parameters.
    pub fn build(&self) -> (String, Vec<Value>) {
        let (filter, mut params) = self.where_sql(self.behind.as_ref());
        let mut sql = format!("SELECT {} FROM {}{filter}", self.columns, self.tables);
        if let Some(order) = &self.order {
            sql.push_str(" ORDER BY ");
            sql.push_str(&order.sql());
        }
        if let Some((limit, offset)) = self.limit {
            sql.push_str(" LIMIT ? OFFSET ?");
            params.push(limit.into());
            params.push(offset.into());
        }
        (sql, params)
    }

    /// How many rows the filters let through, whatever the page: column `total`.
    pub fn build_count(&self) -> (String, Vec<Value>) {
        let (filter, params) = self.where_sql(None);
        (
            format!("SELECT COUNT(*) AS total FROM {}{filter}", self.tables),
            params,
        )
    }

    fn where_sql(&self, behind: Option<&Clause>) -> (String, Vec<Value>) {
        let clauses: Vec<Clause> = self.filter.iter().chain(behind).cloned().collect();
        if clauses.is_empty() {
            return (String::new(), Vec::new());
        }
        let all = Clause::all(clauses);
        (format!(" WHERE {}", all.sql), all.params)
    }
}
