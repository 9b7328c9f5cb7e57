//! Image features by number and name (`rbd/features.h`).

pub(super) const LAYERING: u64 = 1;
const EXCLUSIVE_LOCK: u64 = 1 << 2;
pub(super) const OBJECT_MAP: u64 = 1 << 3;
pub(super) const FAST_DIFF: u64 = 1 << 4;
const JOURNALING: u64 = 1 << 6;

/// What clients that write to the same image at once would hinder each other with.
pub(super) const OF_ONE_WRITER: u64 = EXCLUSIVE_LOCK | OBJECT_MAP | FAST_DIFF | JOURNALING;

const NAMES: [(&str, u64); 8] = [
    ("layering", LAYERING),
    ("striping", 1 << 1),
    ("exclusive-lock", EXCLUSIVE_LOCK),
    ("object-map", OBJECT_MAP),
    ("fast-diff", FAST_DIFF),
    ("deep-flatten", 1 << 5),
    ("journaling", JOURNALING),
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
