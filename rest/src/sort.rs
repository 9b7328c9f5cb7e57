//! `sort=key[:dir],…`, or `sort_key` and `sort_dir`.

use crate::{BadInput, QueryParams};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

impl Direction {
    fn parse(text: &str) -> Result<Self, BadInput> {
        match text {
            "asc" => Ok(Self::Ascending),
            "desc" => Ok(Self::Descending),
            _ => Err(BadInput::invalid_input(
                "Unknown sort direction, must be 'desc' or 'asc'.",
            )),
        }
    }
}

/// One key of an order, by the API's name of the field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    pub key: String,
    pub direction: Direction,
}

/// More keys than any resource has columns to sort by.
const MAX_KEYS: usize = 16;

/// Takes the order away from `query`; `created_at` descending without one. Key names are not
/// checked here: [`crate::list_query::Columns`] knows them. (Cinder API ref, sorting.)
pub fn take(query: &mut QueryParams) -> Result<Vec<SortKey>, BadInput> {
    let sort = query.take("sort");
    let sort_keys = query.take_all("sort_key");
    let sort_dirs = query.take_all("sort_dir");
    if sort.is_some() && !(sort_keys.is_empty() && sort_dirs.is_empty()) {
        return Err(BadInput::new(
            "The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with \
             the 'sort' parameter.",
        ));
    }
    let keys = match sort {
        Some(text) => text
            .trim()
            .split(',')
            .map(parse_item)
            .collect::<Result<Vec<_>, _>>()?,
        None => pair_up(&sort_keys, &sort_dirs)?,
    };
    if keys.len() > MAX_KEYS {
        return Err(BadInput::invalid_input("Too many sort keys."));
    }
    Ok(keys)
}

fn parse_item(item: &str) -> Result<SortKey, BadInput> {
    let (key, direction) = item.split_once(':').unwrap_or((item, ""));
    let direction = match direction.trim() {
        "" => Direction::Descending,
        text => Direction::parse(text)?,
    };
    Ok(SortKey {
        key: key.trim().to_owned(),
        direction,
    })
}

/// `sort_key` and `sort_dir` may repeat; a missing direction is that of the first one.
fn pair_up(keys: &[String], dirs: &[String]) -> Result<Vec<SortKey>, BadInput> {
    if dirs.len() > keys.len().max(1) {
        return Err(BadInput::invalid_input(
            "Sort direction array size exceeds sort key array size.",
        ));
    }
    let directions = dirs
        .iter()
        .map(|dir| Direction::parse(dir.trim()))
        .collect::<Result<Vec<_>, _>>()?;
    let first = directions.first().copied().unwrap_or(Direction::Descending);
    if keys.is_empty() {
        return Ok(vec![SortKey {
            key: "created_at".to_owned(),
            direction: first,
        }]);
    }
    let paired = keys.iter().enumerate().map(|(n, key)| SortKey {
        key: key.trim().to_owned(),
        direction: directions.get(n).copied().unwrap_or(first),
    });
    Ok(paired.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Ascending, Descending};

    fn order(query: &str) -> Result<Vec<(String, Direction)>, BadInput> {
        let keys = take(&mut QueryParams::parse(query).unwrap())?;
        Ok(keys
            .into_iter()
            .map(|key| (key.key, key.direction))
            .collect())
    }

    #[test]
    fn orders() {
        let pair = |key: &str, direction| (key.to_owned(), direction);
        assert_eq!(order("").unwrap(), [pair("created_at", Descending)]);
        assert_eq!(
            order("sort=name:asc,size").unwrap(),
            [pair("name", Ascending), pair("size", Descending)]
        );
        assert_eq!(
            order("sort_dir=asc").unwrap(),
            [pair("created_at", Ascending)]
        );
        assert_eq!(
            order("sort_key=a&sort_key=b&sort_dir=asc").unwrap(),
            [pair("a", Ascending), pair("b", Ascending)]
        );
        assert!(order("sort=name:up").is_err());
        assert!(order("sort=name&sort_key=size").is_err());
        assert!(order("sort_key=a&sort_dir=asc&sort_dir=asc").is_err());
        assert!(order(&format!("sort={}", "a,".repeat(40))).is_err());
    }
}
