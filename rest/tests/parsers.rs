//! Whatever a client sends, the parsers answer; they never panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use axum::http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use rest::microversion::VersionRange;
use rest::validate::{MapRules, Object};
use rest::{Microversion, QueryParams, filter, paging, python, sort, time};
use serde_json::{Value, json};

fn odd_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\\[\\]{}()'\":,u\\\\0-9TZNa-c. +-]{0,60}",
        "[0-9TZ:. +-]{0,40}"
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn texts(text in odd_text()) {
        let _ = python::literal(&text);
        let _ = python::repr_str(&text);
        let _ = time::parse_iso8601(&text);
        let _ = filter::OneOrMany::parse(&text);
        let _ = filter::parse_text_map("m", &text);
        let _ = filter::parse_times("t", &text);
        let _ = filter::parse_in("n", &text);
        let _ = filter::parse_in("n", &format!("in:{text}"));
        if let Ok(mut query) = QueryParams::parse(&text) {
            let _ = paging::Page::take_default(&mut query);
            let _ = sort::take(&mut query);
            let _ = filter::restrict(query, &["name"], false, true);
        }
        if let Ok(value) = HeaderValue::from_str(&format!("volume {text}")) {
            let range = VersionRange {
                service: "volume",
                min: Microversion::new(3, 0),
                max: Microversion::new(3, 71),
            };
            let mut headers = HeaderMap::new();
            headers.insert("openstack-api-version", value);
            let _ = range.negotiate(&headers);
        }
    }

    #[test]
    fn query_values_survive(key in "[a-z~]{1,8}", value in any::<String>()) {
        let query = QueryParams::default().with(&key, &value);
        let parsed = QueryParams::parse(&query).unwrap();
        prop_assert_eq!(parsed.get(&key), Some(value.as_str()));
    }

    #[test]
    fn a_python_text_reads_back(text in "[^\\x00-\\x1f\\x7f]{0,200}") {
        prop_assert_eq!(python::literal(&python::repr_str(&text)), Some(Value::from(text)));
    }

    #[test]
    fn written_times_read_back(us in 0_i64..250_000_000_000_000_000) {
        prop_assert_eq!(time::parse_iso8601(&time::format_micros(us)), Some(us));
    }

    #[test]
    fn bodies(value in any_json()) {
        let body = json!({ "x": value });
        let object = Object::new(&body).unwrap();
        let _ = object.only(&[]);
        let _ = object.string("x", 1..=3);
        let _ = object.integer("x", -5..=5);
        let _ = object.boolean("x");
        let _ = object.lenient_boolean("x");
        let _ = object.uuid("x");
        let _ = object.list("x", 2);
        let _ = object.one_of("x", &["a"]);
        let errors = [
            object.string_map("x", MapRules::METADATA).err(),
            object.required_integer("x", 0..=0).err(),
        ];
        for error in errors.into_iter().flatten() {
            prop_assert!(error.message.chars().count() < 1500);
        }
    }
}
