//! The one field of a client certificate that we look at, its subject's common name.
//!
//! Only for certificates whose signature was verified: their form is sound, so anything
//! unexpected is answered with "no name".

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const EXPLICIT_VERSION: u8 = 0xa0;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
/// id-at-commonName, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The last common name of the certificate's subject.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let (certificate, _) = value(der, SEQUENCE)?;
    let (mut fields, _) = value(certificate, SEQUENCE)?;
    if let Some((_, rest)) = value(fields, EXPLICIT_VERSION) {
        fields = rest;
    }
    // Serial number, signature algorithm, issuer, validity.
    for _ in 0..4 {
        fields = item(fields)?.2;
    }
    let (mut subject, _) = value(fields, SEQUENCE)?;
    let mut found = None;
    while !subject.is_empty() {
        let (mut set, rest) = value(subject, SET)?;
        subject = rest;
        while !set.is_empty() {
            let (attribute, rest) = value(set, SEQUENCE)?;
            set = rest;
            let (kind, text) = value(attribute, OBJECT_ID)?;
            let (tag, text, _) = item(text)?;
            if kind == COMMON_NAME && [UTF8_STRING, PRINTABLE_STRING, IA5_STRING].contains(&tag) {
                found = String::from_utf8(text.to_vec()).ok();
            }
        }
    }
    found
}

/// The value of the first item, which must have this tag, and what follows the item.
fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, value, rest) = item(der)?;
    (found == tag).then_some((value, rest))
}

/// Tag and value of the first item, and what follows it.
fn item(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, short], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = if short < 0x80 {
        (usize::from(short), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        let length = digits
            .iter()
            .fold(0, |length, digit| length << 8 | usize::from(*digit));
        (length, rest)
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let value = parts.concat();
        let length = value.len();
        let mut der = match length {
            0..0x80 => vec![tag, length as u8],
            _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
        };
        der.extend(value);
        der
    }

    fn attribute(kind: &[u8], tag: u8, text: &[u8]) -> Vec<u8> {
        let attribute = der(SEQUENCE, &[&der(OBJECT_ID, &[kind]), &der(tag, &[text])]);
        der(SET, &[&attribute])
    }

    fn certificate(subject: &[&[u8]]) -> Vec<u8> {
        let version = der(EXPLICIT_VERSION, &[&[2, 1, 2]]);
        let number = der(2, &[&[7]]);
        let other = der(SEQUENCE, &[&[0; 200]]);
        let subject = der(SEQUENCE, subject);
        let fields = der(
            SEQUENCE,
            &[&version, &number, &other, &other, &other, &subject, &other],
        );
        der(SEQUENCE, &[&fields, &other])
    }

    #[test]
    fn the_subject_is_found_behind_the_issuer() {
        let organization = attribute(&[0x55, 4, 10], UTF8_STRING, b"Org");
        let name = attribute(COMMON_NAME, PRINTABLE_STRING, b"compute-1");
        assert_eq!(
            common_name(&certificate(&[&organization, &name])).as_deref(),
            Some("compute-1")
        );
        assert_eq!(common_name(&certificate(&[&organization])), None);
        assert_eq!(common_name(&certificate(&[])), None);
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(position in 0..700_usize, byte in any::<u8>(), length in 0..700_usize) {
            let name = attribute(COMMON_NAME, UTF8_STRING, b"compute-1");
            let mut der = certificate(&[&name]);
            if let Some(place) = der.get_mut(position) {
                *place = byte;
            }
            let _ = common_name(&der[..length.min(der.len())]);
        }
    }
}
