//! A short text with a title, a field a line, and a checksum, so that damage is seen.  Pure.

use std::fmt::Write;

/// The text with its checksum.
pub fn seal(title: &str, fields: &[(&str, &dyn std::fmt::Display)]) -> String {
    let mut text = format!("{title}\n");
    // Writing to a String cannot fail.
    for (name, value) in fields {
        let _ = writeln!(text, "{name} {value}");
    }
    let checksum = crc32(text.as_bytes());
    let _ = writeln!(text, "checksum {checksum:08x}");
    text
}

/// The fields of a sealed text, one after the other.
pub struct Fields<'a>(std::str::Lines<'a>);

impl<'a> Fields<'a> {
    /// Those of the text, or what is wrong with it.
    pub fn of(bytes: &'a [u8], title: &str) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no text")?;
        let (body, checksum) = text.rsplit_once("checksum ").ok_or("it has no checksum")?;
        let expected = checksum.strip_suffix('\n').ok_or("its end is missing")?;
        if expected != format!("{:08x}", crc32(body.as_bytes())) {
            return Err("its checksum is wrong");
        }
        let mut lines = body.lines();
        if lines.next() != Some(title) {
            return Err("it is of another version");
        }
        Ok(Self(lines))
    }

    /// The next, which has that name.
    pub fn text(&mut self, name: &str) -> Result<&'a str, &'static str> {
        let line = self.0.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.ok_or("it lacks a field")
    }

    /// The next, which has that name, as a number.
    pub fn number<N: std::str::FromStr>(&mut self, name: &str) -> Result<N, &'static str> {
        self.text(name)?.parse().map_err(|_| "it lacks a number")
    }

    /// There are no more.
    pub fn end(mut self) -> Result<(), &'static str> {
        if self.0.next().is_some() { Err("it says too much") } else { Ok(()) }
    }
}

/// CRC-32 as in IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    fn read(bytes: &[u8]) -> Result<(u64, &str), &'static str> {
        let mut fields = Fields::of(bytes, "title")?;
        let read = (fields.number("number")?, fields.text("text")?);
        fields.end()?;
        Ok(read)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number: u64, text in "[^\r\n]*") {
            let sealed = seal("title", &[("number", &number), ("text", &text)]);
            prop_assert_eq!(read(sealed.as_bytes()), Ok((number, text.as_str())));
        }

        #[test]
        fn a_cut_text_is_damaged(number: u64, keep in 0.0..1.0f64) {
            let sealed = seal("title", &[("number", &number), ("text", &"checksum ")]);
            let keep = (sealed.len() as f64 * keep) as usize;
            prop_assert!(read(&sealed.as_bytes()[..keep]).is_err());
        }

        #[test]
        fn a_changed_byte_is_damage(number: u64, place: prop::sample::Index, flip in 1u8..) {
            let mut bytes = seal("title", &[("number", &number), ("text", &"")]).into_bytes();
            let place = place.index(bytes.len());
            bytes[place] ^= flip;
            prop_assert!(read(&bytes).is_err());
        }
    }

    #[test]
    fn another_title_and_other_fields_are_damage() {
        let sealed = |title, fields: &[(&str, &dyn std::fmt::Display)]| {
            let text = seal(title, fields);
            read(text.as_bytes()).map(|_| ())
        };
        assert_eq!(sealed("title", &[("number", &1), ("text", &"")]), Ok(()));
        assert_eq!(sealed("other", &[]), Err("it is of another version"));
        assert_eq!(sealed("title", &[]), Err("it lacks a field"));
        assert_eq!(sealed("title", &[("number", &"x"), ("text", &"")]), Err("it lacks a number"));
        let more: &[(&str, &dyn std::fmt::Display)] =
            &[("number", &1), ("text", &""), ("more", &1)];
        assert_eq!(sealed("title", more), Err("it says too much"));
    }
}
