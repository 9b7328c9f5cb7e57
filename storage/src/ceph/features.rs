//! Image features by number and name (`rbd/features.h`).

pub(super) const LAYERING: u64 = 1;
pub(super) const FAST_DIFF: u64 = 1 << 4;

const NAMES: [(&str, u64); 8] = [
    ("layering", LAYERING),
    ("striping", 1 << 1),
    ("exclusive-lock", 1 << 2),
    ("object-map", 1 << 3),
    ("fast-diff", FAST_DIFF),
    ("deep-flatten", 1 << 5),
    ("journaling", 1 << 6),
    ("data-pool", 1 << 7),
];

/// From the cluster's `rbd_default_features`, a number or names: layering when it has none.
pub(super) fn of_new_images(option: Option<String>) -> u64 {
    let text = option.unwrap_or_default();
    let features = text.trim().parse().unwrap_or_else(|_| {
        let names = text.split(',').map(str::trim);
        let bits = names.filter_map(|name| NAMES.iter().find(|(known, _)| *known == name));
        bits.fold(0, |all, (_, bit)| all | bit)
    });
    if features == 0 { LAYERING } else { features }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_numbers_or_names() {
        for (option, features) in [
            (None, 1),
            (Some("0"), 1),
            (Some(""), 1),
            (Some("61"), 61),
            (Some("layering, exclusive-lock"), 5),
        ] {
            assert_eq!(of_new_images(option.map(str::to_owned)), features);
        }
    }
}
