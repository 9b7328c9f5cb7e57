//! The query of a list: page, order, filters, `all_tenants`, `with_count`.

use rest::filter::{self, OneOrMany};
use rest::list_query::{Clause, Operator};
use rest::paging::Page;
use rest::sort::{self, SortKey};
use rest::{BadInput, QueryParams};
use serde_json::Value;

use super::call::Call;
use super::resource_filters;
use crate::domain::listing::Query;

/// The microversion from which `key~` means "contains".
const LIKE: u16 = 34;
/// Comparisons of times.
const OPERATORS: &[&str] = &["gt", "gte", "eq", "neq", "lt", "lte"];
/// "Since" of a parameter that is no filter at all: the list itself reads it.
pub(super) const NO_FILTER: u16 = u16::MAX;

/// A parsed list request. Filters are left as texts: each resource knows its own.
pub(super) struct ListParams {
    /// The whole query, for the link to the next page.
    query: QueryParams,
    pub page: Page,
    pub sort: Vec<SortKey>,
    pub filters: Vec<(String, String)>,
    pub with_count: bool,
    /// Asked for, and the caller is an admin.
    pub all_tenants: bool,
}

impl ListParams {
    /// Parses the query of a list of `resource` (a name in the table of filters). Filters that
    /// came with a later microversion (`since`) are dropped before it.
    pub fn parse(
        call: &Call,
        query: QueryParams,
        resource: &str,
        since: &[(&str, u16)],
    ) -> Result<Self, BadInput> {
        let allowed = resource_filters::of(resource);
        Self::with_filters(call, query, (allowed, call.at_least(31)), since)
    }

    /// [`ListParams::parse`] for a resource that is not in the table of filters: which filters
    /// users have, and whether others are refused or dropped.
    pub fn with_filters(
        call: &Call,
        query: QueryParams,
        (allowed, strict): (&[&str], bool),
        since: &[(&str, u16)],
    ) -> Result<Self, BadInput> {
        let mut rest = query.clone();
        let max = call.service.options.osapi_max_limit;
        let page = Page::take(&mut rest, max, max)?;
        let sort = sort::take(&mut rest)?;
        let with_count = match call.at_least(45) {
            true => rest
                .take("with_count")
                .map(|text| filter::require_bool("with_count", &text))
                .transpose()?,
            false => None,
        };
        // What others than admins write there means nothing.
        let all_tenants = rest
            .take("all_tenants")
            .filter(|_| call.context.is_admin)
            .map(|text| filter::require_bool("all_tenants", &text))
            .transpose()?;
        for (key, minor) in since {
            if !call.at_least(*minor) {
                rest.take(key);
            }
        }
        let mut filters = filter::restrict(rest, allowed, call.context.is_admin, strict)?;
        if !call.at_least(LIKE) {
            filters.retain(|(key, _)| !key.ends_with('~'));
        }
        Ok(ListParams {
            query,
            page,
            sort,
            filters,
            with_count: with_count.unwrap_or(false),
            all_tenants: all_tenants.unwrap_or(false),
        })
    }

    /// Refuses the order by name before the microversion it came with.
    pub fn names_sort_since(&self, call: &Call, minor: u16) -> Result<(), BadInput> {
        let by_name = self.sort.iter().any(|sort| sort.key == "name");
        match by_name && !call.at_least(minor) {
            true => Err(BadInput::invalid_input("Invalid sort key")),
            false => Ok(()),
        }
    }

    /// The filter for the caller's project; none for an admin who asked for all.
    pub fn scope(&self, call: &Call) -> Vec<Clause> {
        if self.all_tenants {
            Vec::new()
        } else {
            vec![Clause::equal("project_id", call.context.project())]
        }
    }

    /// What the domain reads, and what [`NextLink`] needs afterwards.
    pub fn into_query(self, filters: Vec<Clause>) -> (Query, NextLink) {
        let next = NextLink {
            query: self.query,
            page: self.page.clone(),
        };
        (
            Query {
                filters,
                sort: self.sort,
                page: self.page,
                with_count: self.with_count,
            },
            next,
        )
    }
}

/// Makes the link to the next page.
pub(super) struct NextLink {
    query: QueryParams,
    page: Page,
}

impl NextLink {
    /// The value of `<collection>_links`, where there may be more.
    pub fn of(
        &self,
        call: &Call,
        path: &str,
        ids: impl ExactSizeIterator<Item = String>,
    ) -> Option<Value> {
        let count = ids.len();
        let last = ids.last();
        self.page.links(
            count,
            last.as_deref(),
            &call.links.collection(path),
            &self.query,
        )
    }
}

/// A filter on a text column: equal, or one of a Python list; `key~` contains.
pub(super) fn text(key: &str, column: &'static str, value: &str) -> Clause {
    if key.ends_with('~') {
        return Clause::any(
            OneOrMany::parse(value)
                .into_vec()
                .iter()
                .map(|text| Clause::contains(column, text)),
        );
    }
    Clause::is_in(column, OneOrMany::parse(value).into_vec())
}

/// A filter on an integer column; what is no number equals nothing.
pub(super) fn integer(column: &'static str, value: &str) -> Clause {
    let numbers = OneOrMany::parse(value).into_vec();
    Clause::is_in(
        column,
        numbers
            .iter()
            .filter_map(|text| text.trim().parse::<i64>().ok()),
    )
}

/// `{'key': 'value'}` on a metadata table, whose condition `has_entry` is.
pub(super) fn metadata(
    key: &str,
    has_entry: &'static str,
    value: &str,
) -> Result<Clause, BadInput> {
    let entries = filter::parse_text_map(key, value)?;
    Ok(Clause::all(entries.into_iter().map(|(key, value)| {
        Clause::raw(has_entry, vec![key.into(), value.into()])
    })))
}

/// `gt:<time>,lt:<time>` on a time column; each comparison names its operator.
pub(super) fn times(key: &str, column: &'static str, value: &str) -> Result<Clause, BadInput> {
    for item in value.split(',') {
        let operator = item.split(':').next().unwrap_or_default();
        if !OPERATORS.contains(&operator) {
            let shown: String = operator.chars().take(64).collect();
            return Err(BadInput::new(format!("Invalid {shown} operator")));
        }
    }
    let compare = |(operator, us): (Operator, i64)| Clause::compare(column, operator, us);
    Ok(Clause::all(
        filter::parse_times(key, value)?.into_iter().map(compare),
    ))
}

/// What a filter matches that the resource does not know (only admins can ask for one).
pub(super) fn nothing() -> Clause {
    Clause::any([])
}
